//! Elementwise functions of two numbers, broadcast.

use crate::exec::Call;
use crate::isa::for_each_isa;
use crate::ops::axes::{Axes, broadcast};
use crate::ops::rows::by_rows;
use hob_graph::Binary;

/// Runs the node of `c`.
pub fn run(c: &mut Call, f: Binary) {
    let (a, b) = (c.x(0), c.x(1));
    let axes = Axes::merged(&c.node.shape, [&a, &b].map(|x| broadcast(&x.shape, &c.node.shape)));
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
            kernel(operand(a, at, axes.step(0), n), operand(b, bt, axes.step(1), n), y);
        }
    });
}

/// An operand along one row of the result: as many numbers, or one for all.
fn operand(x: &[f32], at: usize, step: usize, n: usize) -> &[f32] {
    &x[at..at + if step == 0 { 1 } else { n }]
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
