//! Softmax over rows.

use crate::exec::Call;
use crate::isa::for_each_isa;
use crate::math;
use crate::ops::rows::by_rows;

/// Runs the node of `c`.
pub fn run(c: &mut Call) {
    let n = c.node.shape.last();
    let x = c.x(0).f32s();
    by_rows(&c.cpu.pool, c.out, n, 6 * n, |first, y, _| {
        for (x, y) in x[first * n..].chunks_exact(n).zip(y.chunks_exact_mut(n)) {
            row(x, y);
        }
    });
}

for_each_isa! {
    fn row(x: &[f32], y: &mut [f32]) {
        let (blocks, rest) = x.as_chunks::<32>();
        let mut most = [f32::NEG_INFINITY; 32];
        for x in blocks {
            for j in 0..32 {
                most[j] = if x[j] > most[j] { x[j] } else { most[j] };
            }
        }
        let largest = most.iter().chain(rest).fold(f32::NEG_INFINITY, |m, x| m.max(*x));
        let mut sums = [0.0f32; 32];
        let (to, to_rest) = y.as_chunks_mut::<32>();
        for (y, x) in to.iter_mut().zip(blocks) {
            for j in 0..32 {
                y[j] = math::exp(x[j] - largest);
                sums[j] += y[j];
            }
        }
        let mut sum: f32 = sums.iter().sum();
        for (y, x) in to_rest.iter_mut().zip(rest) {
            *y = math::exp(x - largest);
            sum += *y;
        }
        let factor = 1.0 / sum;
        y.iter_mut().for_each(|y| *y *= factor);
    }
}
