//! Operands one after another along an axis, and zeros around one.

use crate::exec::Call;
use crate::ops::rows::by_rows;
use hob_graph::Shape;

/// Numbers that follow one another along `axis` and those after it.
fn width(s: &Shape, axis: usize) -> usize {
    s[axis..].iter().product()
}

/// Operands one after another.
pub fn run(c: &mut Call, axis: usize) {
    let whole = width(&c.node.shape, axis);
    let mut at = 0;
    for k in 0..c.arity() {
        let x = c.x(k);
        let n = width(&x.shape, axis);
        by_rows(&c.cpu.pool, c.out, whole, 2 * n, |first, y, _| {
            for (i, y) in y.chunks_exact_mut(whole).enumerate() {
                y[at..at + n].copy_from_slice(&x.f32s()[(first + i) * n..][..n]);
            }
        });
        at += n;
    }
}

/// Zeros before and after.
pub fn pad(c: &mut Call, axis: usize, before: usize) {
    let (x, whole) = (c.x(0), width(&c.node.shape, axis));
    let n = width(&x.shape, axis);
    let at = before * width(&x.shape, axis) / x.shape[axis].max(1);
    by_rows(&c.cpu.pool, c.out, whole, 2 * whole, |first, y, _| {
        for (i, y) in y.chunks_exact_mut(whole).enumerate() {
            y[..at].fill(0.0);
            y[at..at + n].copy_from_slice(&x.f32s()[(first + i) * n..][..n]);
            y[at + n..].fill(0.0);
        }
    });
}
