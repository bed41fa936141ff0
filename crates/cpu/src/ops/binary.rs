//! Elementwise functions of two numbers, broadcast.

use crate::exec::Call;
use crate::isa::for_each_isa;
use crate::ops::rows::by_rows;
use hob_graph::shape::MAX_RANK;
use hob_graph::{Binary, Shape};

/// Runs the node of `c`.
pub fn run(c: &mut Call, f: Binary) {
    let (a, b) = (c.x(0), c.x(1));
    let axes = Axes::merged(c.node.shape, a.shape, b.shape);
    let (a, b, n) = (a.f32s(), b.f32s(), axes.row());
    let kernel = match f {
        Binary::Add => add,
        Binary::Sub => sub,
        Binary::Mul => mul,
        Binary::Div => div,
    };
    by_rows(&c.cpu.pool, c.out, n, n, |first, y, _| {
        for (i, y) in y.chunks_exact_mut(n).enumerate() {
            let [at, bt] = axes.offsets(first + i);
            kernel(operand(a, at, axes.last(0), n), operand(b, bt, axes.last(1), n), y);
        }
    });
}

/// An operand along one row of the result: as many numbers, or one for all.
fn operand(x: &[f32], at: usize, step: usize, n: usize) -> &[f32] {
    &x[at..at + if step == 0 { 1 } else { n }]
}

/// Axes of the result with each operand's step along them (0 where it is broadcast), neighbours merged where both
/// operands allow it.
struct Axes {
    dims: [usize; MAX_RANK],
    steps: [[usize; MAX_RANK]; 2],
    rank: usize,
}

impl Axes {
    fn merged(y: Shape, a: Shape, b: Shape) -> Axes {
        let step = |x: &Shape, axis: usize| {
            let extra = y.len() - x.len();
            if axis < extra || x[axis - extra] == 1 { 0 } else { x.strides()[axis - extra] }
        };
        let mut axes = Axes { dims: [1; MAX_RANK], steps: [[0; MAX_RANK]; 2], rank: 0 };
        for axis in (0..y.len()).filter(|&axis| y[axis] != 1) {
            let (dim, steps) = (y[axis], [step(&a, axis), step(&b, axis)]);
            let last = axes.rank.wrapping_sub(1);
            if axes.rank > 0 && (0..2).all(|k| axes.steps[k][last] == dim * steps[k]) {
                axes.dims[last] *= dim;
            } else {
                axes.dims[axes.rank] = dim;
                axes.rank += 1;
            }
            for k in 0..2 {
                axes.steps[k][axes.rank - 1] = steps[k];
            }
        }
        axes.rank = axes.rank.max(1);
        axes
    }

    /// Numbers of a row.
    fn row(&self) -> usize {
        self.dims[self.rank - 1]
    }

    /// Step of operand `k` along a row.
    fn last(&self, k: usize) -> usize {
        self.steps[k][self.rank - 1]
    }

    /// Where row `i` begins in either operand.
    fn offsets(&self, mut i: usize) -> [usize; 2] {
        let mut at = [0; 2];
        for axis in (0..self.rank - 1).rev() {
            let place = i % self.dims[axis];
            i /= self.dims[axis];
            at[0] += place * self.steps[0][axis];
            at[1] += place * self.steps[1][axis];
        }
        at
    }
}

macro_rules! elementwise {
    ($($name:ident: $op:tt;)*) => {
        $(for_each_isa! {
            fn $name(a: &[f32], b: &[f32], y: &mut [f32]) {
                match (a, b) {
                    ([a], b) if b.len() == y.len() => y.iter_mut().zip(b).for_each(|(y, b)| *y = a $op b),
                    (a, [b]) if a.len() == y.len() => y.iter_mut().zip(a).for_each(|(y, a)| *y = a $op b),
                    ([a], [b]) => y.fill(a $op b),
                    (a, b) => y.iter_mut().zip(a).zip(b).for_each(|((y, a), b)| *y = a $op b),
                }
            }
        })*
    };
}

elementwise! {
    add: +;
    sub: -;
    mul: *;
    div: /;
}
