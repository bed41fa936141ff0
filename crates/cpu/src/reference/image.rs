//! Pictures: `(N, C, H, W)`.

use super::normal;
use crate::exec::Call;
use hob_graph::{Shape, Window};

/// The pixel of an image `(H, W)` that a window at step `(y, x)` has at `(dy, dx)`, or `None` in the padding.
fn pixel(w: Window, image: (usize, usize), step: (usize, usize), within: (usize, usize)) -> Option<usize> {
    let side = |step: usize, within: usize, size: usize| {
        (step * w.stride as usize + within).checked_sub(w.padding as usize).filter(|&p| p < size)
    };
    Some(side(step.0, within.0, image.0)? * image.1 + side(step.1, within.1, image.1)?)
}

/// Calls `f(patch element, pixel)`, both as flat indices, for every element of `(N, C·k·k, H'·W')` that is no padding.
fn patches(window: Window, image: &Shape, mut f: impl FnMut(usize, usize)) {
    let (k, h, w) = (window.kernel as usize, image[2], image[3]);
    let steps = (window.steps(h).unwrap_or(0), window.steps(w).unwrap_or(0));
    let mut i = 0;
    for plane in 0..image[0] * image[1] {
        for within in 0..k * k {
            for step in 0..steps.0 * steps.1 {
                let (step, within) = ((step / steps.1, step % steps.1), (within / k, within % k));
                if let Some(p) = pixel(window, (h, w), step, within) {
                    f(i, plane * h * w + p);
                }
                i += 1;
            }
        }
    }
}

pub(super) fn unfold(c: &mut Call, window: Window) {
    let x = c.x(0);
    c.out.fill(0.0);
    patches(window, &x.shape, |i, pixel| c.out[i] = x.f32s()[pixel]);
}

pub(super) fn fold(c: &mut Call, window: Window) {
    let x = c.x(0).f32s();
    let mut sums = vec![0.0; c.out.len()];
    patches(window, &c.node.shape, |i, pixel| sums[pixel] += x[i] as f64);
    for (y, sum) in c.out.iter_mut().zip(sums) {
        *y = sum as f32;
    }
}

pub(super) fn conv2d(c: &mut Call, window: Window) {
    let (x, stored) = (c.x(0), c.x(1));
    let mut kernel = vec![0.0; stored.shape.count()];
    stored.dtype.decode(stored.bytes, &mut kernel);
    let bias = (c.arity() == 3).then(|| c.x(2).f32s());
    let (channels, h, w, k) = (x.shape[1], x.shape[2], x.shape[3], window.kernel as usize);
    let (outs, rows, columns) = (c.node.shape[1], c.node.shape[2], c.node.shape[3]);
    for (i, y) in c.out.iter_mut().enumerate() {
        let step = (i / columns % rows, i % columns);
        let (out, image) = (i / (rows * columns) % outs, i / (rows * columns * outs));
        let mut sum = bias.map_or(0.0, |b| b[out] as f64);
        for channel in 0..channels {
            for within in 0..k * k {
                if let Some(p) = pixel(window, (h, w), step, (within / k, within % k)) {
                    let x = x.f32s()[(image * channels + channel) * h * w + p] as f64;
                    sum += x * kernel[(out * channels + channel) * k * k + within] as f64;
                }
            }
        }
        *y = sum as f32;
    }
}

pub(super) fn upsample(c: &mut Call, n: usize) {
    let x = c.x(0);
    let (h, w) = (x.shape[2], x.shape[3]);
    for (i, y) in c.out.iter_mut().enumerate() {
        let (plane, row, column) = (i / (n * w) / (n * h), i / (n * w) % (n * h), i % (n * w));
        *y = x.f32s()[(plane * h + row / n) * w + column / n];
    }
}

pub(super) fn group_norm(c: &mut Call, groups: usize, eps: f64) {
    let (x, w, b) = (c.x(0), c.x(1).f32s(), c.x(2).f32s());
    let (channels, pixels) = (x.shape[1], x.shape[2] * x.shape[3]);
    let size = channels / groups * pixels;
    for (g, y) in c.out.chunks_exact_mut(size.max(1)).enumerate() {
        let values: Vec<f64> = x.f32s()[g * size..(g + 1) * size].iter().map(|&x| x as f64).collect();
        for (i, x) in normal(&values, eps).iter().enumerate() {
            let channel = (g * size + i) / pixels % channels;
            y[i] = (x * w[channel] as f64 + b[channel] as f64) as f32;
        }
    }
}
