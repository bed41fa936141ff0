//! `(x - mean) / sqrt(var + eps) · w + b` over rows.

use crate::exec::Call;
use crate::isa::{fma, for_each_isa};
use crate::ops::rows::by_rows;

/// Runs the node of `c`.
pub fn run(c: &mut Call, eps: f32) {
    let (n, x) = (c.node.shape.last(), c.x(0).f32s());
    let affine = (c.arity() > 1).then(|| (c.x(1).f32s(), c.x(2).f32s()));
    by_rows(&c.cpu.pool, c.out, n, n, |first, y, _| {
        for (x, y) in x[first * n..].chunks_exact(n).zip(y.chunks_exact_mut(n)) {
            let (mean, scale) = statistics(x, eps);
            match affine {
                Some((w, b)) => normal(x, mean, scale, w, b, y),
                None => plain(x, mean, scale, y),
            }
        }
    });
}

/// Mean and 1 / sqrt(var + eps).
pub fn statistics(x: &[f32], eps: f32) -> (f32, f32) {
    let mean = deviations(x, 0.0)[0] / x.len() as f32;
    // A second pass, as the squares of numbers far from 0 would swallow what differs. What is left of the sum of
    // deviations is the rounding of the mean.
    let [rest, squares] = deviations(x, mean);
    let rest = rest / x.len() as f32;
    (mean + rest, 1.0 / (squares / x.len() as f32 - rest * rest + eps).sqrt())
}

for_each_isa! {
    /// Σ (x - mean) and Σ (x - mean)².
    fn deviations(x: &[f32], mean: f32) -> [f32; 2] {
        let (mut sums, mut squares) = ([0.0f32; 16], [0.0f32; 16]);
        let (blocks, rest) = x.as_chunks::<16>();
        for x in blocks {
            for j in 0..16 {
                let d = x[j] - mean;
                sums[j] += d;
                squares[j] = fma::<FMA>(d, d, squares[j]);
            }
        }
        for (j, x) in rest.iter().enumerate() {
            let d = x - mean;
            sums[j] += d;
            squares[j] += d * d;
        }
        [sums.iter().sum(), squares.iter().sum()]
    }
}

for_each_isa! {
    fn normal(x: &[f32], mean: f32, scale: f32, w: &[f32], b: &[f32], y: &mut [f32]) {
        for (((y, x), w), b) in y.iter_mut().zip(x).zip(w).zip(b) {
            *y = fma::<FMA>((x - mean) * scale, *w, *b);
        }
    }
}

for_each_isa! {
    fn plain(x: &[f32], mean: f32, scale: f32, y: &mut [f32]) {
        let _ = FMA;
        y.iter_mut().zip(x).for_each(|(y, x)| *y = (x - mean) * scale);
    }
}
