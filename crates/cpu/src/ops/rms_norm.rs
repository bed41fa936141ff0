//! `x / sqrt(mean(x²) + eps) · (w + offset)` over rows.

use crate::exec::Call;
use crate::isa::{fma, for_each_isa};
use crate::ops::rows::by_rows;

/// Runs the node of `c`.
pub fn run(c: &mut Call, eps: f32, offset: f32) {
    let (n, x) = (c.node.shape.last(), c.x(0).f32s());
    let w = (c.arity() > 1).then(|| c.x(1).f32s());
    by_rows(&c.cpu.pool, c.out, n, n, |first, y, _| {
        for (x, y) in x[first * n..].chunks_exact(n).zip(y.chunks_exact_mut(n)) {
            let scale = 1.0 / (sum_of_squares(x) / n as f32 + eps).sqrt();
            match w {
                Some(w) => scaled(x, w, scale, offset, y),
                None => y.iter_mut().zip(x).for_each(|(y, x)| *y = x * scale),
            }
        }
    });
}

for_each_isa! {
    /// Σ x²
    fn sum_of_squares(x: &[f32]) -> f32 {
        let mut sums = [0.0f32; 32];
        let (blocks, rest) = x.as_chunks::<32>();
        for x in blocks {
            for j in 0..32 {
                sums[j] = fma::<FMA>(x[j], x[j], sums[j]);
            }
        }
        rest.iter().map(|x| x * x).sum::<f32>() + sums.iter().sum::<f32>()
    }
}

for_each_isa! {
    fn scaled(x: &[f32], w: &[f32], scale: f32, offset: f32, y: &mut [f32]) {
        for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
            *y = x * scale * (w + offset);
        }
    }
}
