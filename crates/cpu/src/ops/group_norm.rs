//! Layer norm over groups of channels of `(N, C, H, W)`, scaled and shifted by channel.

use crate::exec::Call;
use crate::isa::{fma, for_each_isa};
use crate::ops::layer_norm::statistics;
use crate::ops::rows::by_rows;

/// Runs the node of `c`.
pub fn run(c: &mut Call, groups: usize, eps: f32) {
    let (x, w, b) = (c.x(0), c.x(1).f32s(), c.x(2).f32s());
    let (pixels, channels) = (x.shape[2] * x.shape[3], x.shape[1] / groups);
    let (x, size) = (x.f32s(), channels * pixels);
    if size == 0 {
        return;
    }
    by_rows(&c.cpu.pool, c.out, size, 2 * size, |first, y, _| {
        for (i, (x, y)) in x[first * size..].chunks_exact(size).zip(y.chunks_exact_mut(size)).enumerate() {
            let (mean, scale) = statistics(x, eps);
            let channel = (first + i) % groups * channels;
            for (j, (x, y)) in x.chunks_exact(pixels).zip(y.chunks_exact_mut(pixels)).enumerate() {
                let factor = scale * w[channel + j];
                line(x, factor, b[channel + j] - mean * factor, y);
            }
        }
    });
}

for_each_isa! {
    /// y = x · factor + shift
    fn line(x: &[f32], factor: f32, shift: f32, y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = fma::<FMA>(*x, factor, shift);
        }
    }
}
