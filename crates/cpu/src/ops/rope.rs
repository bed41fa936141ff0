//! Rotary positions on `(T, H, D)`: sines and cosines are computed once a token, for all heads.

use crate::exec::{Call, Cpu};
use crate::isa::{fma, for_each_isa};
use crate::math;
use crate::ops::rows::{Shared, by_rows};
use hob_graph::{Graph, Node, RopeStyle};

/// Bytes of working memory: a token's sines and cosines in each thread.
pub fn scratch(cpu: &Cpu, graph: &Graph, node: &Node) -> usize {
    cpu.pool.threads() * 2 * graph.node(node.inputs[2]).shape[0] * 4
}

/// Runs the node of `c`.
pub fn run(c: &mut Call, style: RopeStyle, mscale: f32) {
    let (x, positions, inv_freq) = (c.x(0), c.x(1).f32s(), c.x(2).f32s());
    let (width, d, half) = (x.shape[1] * x.shape[2], x.shape[2], inv_freq.len());
    let x = x.f32s();
    let each = c.x(1).shape.len() == 2; // each pair has a position of its own
    // SAFETY: any bits are an f32, and what is not aligned is left out; the plan's scratch is aligned.
    let scratch = unsafe { c.scratch.align_to_mut::<f32>().1 };
    assert!(scratch.len() >= c.cpu.pool.threads() * 2 * half, "scratch as planned");
    let tables = Shared(scratch.as_mut_ptr());
    by_rows(&c.cpu.pool, c.out, width, 2 * width, |first, y, thread| {
        // SAFETY: each thread has a table of its own, within what is asserted above.
        let table = unsafe { tables.slice(thread * 2 * half, 2 * half) };
        let (sin, cos) = table.split_at_mut(half);
        for (i, y) in y.chunks_exact_mut(width).enumerate() {
            match each {
                true => angles_each(&positions[(first + i) * half..], inv_freq, mscale, sin, cos),
                false => angles(positions[first + i], inv_freq, mscale, sin, cos),
            }
            let x = &x[(first + i) * width..][..width];
            for (x, y) in x.chunks_exact(d).zip(y.chunks_exact_mut(d)) {
                match style {
                    RopeStyle::Halves => halves(x, sin, cos, y),
                    RopeStyle::Pairs => pairs(x, sin, cos, y),
                }
                y[2 * half..].copy_from_slice(&x[2 * half..]);
            }
        }
    });
}

for_each_isa! {
    fn angles(position: f32, inv_freq: &[f32], mscale: f32, sin: &mut [f32], cos: &mut [f32]) {
        for ((f, sin), cos) in inv_freq.iter().zip(sin).zip(cos) {
            let (s, c) = math::sin_cos(position * f);
            (*sin, *cos) = (s * mscale, c * mscale);
        }
    }
}

for_each_isa! {
    fn angles_each(positions: &[f32], inv_freq: &[f32], mscale: f32, sin: &mut [f32], cos: &mut [f32]) {
        for (((f, position), sin), cos) in inv_freq.iter().zip(positions).zip(sin).zip(cos) {
            let (s, c) = math::sin_cos(position * f);
            (*sin, *cos) = (s * mscale, c * mscale);
        }
    }
}

for_each_isa! {
    fn halves(x: &[f32], sin: &[f32], cos: &[f32], y: &mut [f32]) {
        let half = sin.len();
        let (a, b) = (&x[..half], &x[half..2 * half]);
        let (ya, yb) = y[..2 * half].split_at_mut(half);
        let cos = &cos[..half];
        for i in 0..half {
            ya[i] = fma::<FMA>(a[i], cos[i], -(b[i] * sin[i]));
            yb[i] = fma::<FMA>(b[i], cos[i], a[i] * sin[i]);
        }
    }
}

for_each_isa! {
    fn pairs(x: &[f32], sin: &[f32], cos: &[f32], y: &mut [f32]) {
        let (x, y) = (x.as_chunks::<2>().0, y.as_chunks_mut::<2>().0);
        for (([a, b], y), (sin, cos)) in x.iter().zip(y).zip(sin.iter().zip(cos)) {
            *y = [fma::<FMA>(*a, *cos, -(b * sin)), fma::<FMA>(*b, *cos, a * sin)];
        }
    }
}
