//! Numbers in another order: permute, expand and slice, which differ only in how the operand is walked.

use crate::exec::Call;
use crate::ops::axes::{Axes, broadcast};
use crate::ops::rows::by_rows;
use crate::reference;
use hob_graph::shape::MAX_RANK;
use hob_graph::{Axes as Order, DType};

/// Rows taken together where neighbours in the operand lie in different rows: a cache line of them.
const ROWS: usize = 16;

/// Axes in another order.
pub fn run(c: &mut Call, order: Order) {
    let strides = c.x(0).shape.strides();
    let rank = c.node.shape.len();
    walk(c, 0, std::array::from_fn(|i| if i < rank { strides[order.0[i] as usize] } else { 0 }));
}

/// Dimensions of 1 repeated.
pub fn expand(c: &mut Call) {
    let steps = broadcast(&c.x(0).shape, &c.node.shape);
    walk(c, 0, steps);
}

/// A part along one axis.
pub fn slice(c: &mut Call, axis: usize, start: usize) {
    let x = c.x(0);
    if x.dtype != DType::F32 {
        return reference::run(c); // a few ids
    }
    let strides = x.shape.strides();
    walk(c, start * strides[axis], strides);
}

/// The result's elements in order, from the operand's element `from` on by these steps.
fn walk(c: &mut Call, from: usize, steps: [usize; MAX_RANK]) {
    let x = &c.x(0).f32s()[from..];
    let axes = Axes::merged(&c.node.shape, [steps]);
    let (n, step, (above, next)) = (axes.row(), axes.step(0), axes.above(0));
    by_rows(&c.cpu.pool, c.out, n, 2 * n, |first, y, _| {
        let mut row = 0;
        while row < y.len() / n {
            let [at] = axes.offsets(first + row);
            let together = if step > 1 && next == 1 { ROWS } else { 1 };
            let rows = together.min(above - (first + row) % above).min(y.len() / n - row);
            let y = &mut y[row * n..(row + rows) * n];
            match step {
                0 => y.fill(x[at]),
                1 => y.copy_from_slice(&x[at..at + n]),
                _ if rows == ROWS => transpose(&x[at..], step, y, n),
                _ => {
                    for j in 0..n {
                        for i in 0..rows {
                            y[i * n + j] = x[at + j * step + i * next];
                        }
                    }
                }
            }
            row += rows;
        }
    });
}

/// `ROWS` rows of `n` numbers from columns of x, whose rows are `step` apart. By squares, so that whole cache lines are
/// read and written.
fn transpose(x: &[f32], step: usize, y: &mut [f32], n: usize) {
    for from in (0..n).step_by(ROWS) {
        let wide = ROWS.min(n - from);
        let mut square = [[0.0f32; ROWS]; ROWS];
        for (j, row) in square.iter_mut().enumerate().take(wide) {
            row.copy_from_slice(&x[(from + j) * step..][..ROWS]);
        }
        for (i, y) in y.chunks_exact_mut(n).enumerate() {
            for (y, row) in y[from..from + wide].iter_mut().zip(&square) {
                *y = row[i];
            }
        }
    }
}
