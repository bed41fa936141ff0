//! Linear layers in f32. With few tokens plain floats are read where they lie; other weights, and all with many
//! tokens, are decoded block by block and multiplied while they are in cache.

use super::float::{self, BF16, F16, F32, Rows, Stored};
use super::{Carver, Linear, Shared, Size, carved};
use crate::threads::Pool;
use hob_graph::DType;

/// Rows of weights that a task has at hand where there are many tokens, and values of a row: 64 KB of f32, of which a
/// tile's part stays in the first level of cache.
const MANY: (usize, usize) = (32, 512);
/// The same where there are few tokens: rows are used once, so long stretches of memory in order count for more.
const FEW: (usize, usize) = (float::ROWS, 4096);
/// Multiplications below which a task is not worth another thread.
const TASK: usize = 64 << 10;
/// Rows whose distance is a power of two share the same few lines of a cache; so much is put between them.
const GAP: usize = 16;

fn many(size: Size) -> bool {
    size.tokens > float::TOKENS
}

/// Rows of weights at hand, and values of a row.
fn panel(size: Size) -> (usize, usize) {
    if many(size) { MANY } else { FEW }
}

/// Whether weights are read where they lie.
fn in_place(dtype: DType, size: Size) -> bool {
    !many(size) && matches!(dtype, DType::F32 | DType::F16 | DType::BF16)
}

/// Floats of a thread's decoded weights.
fn decoded(size: Size) -> usize {
    let (rows, block) = panel(size);
    rows * (size.k.min(block) + GAP).next_multiple_of(16)
}

/// Bytes of working memory: decoded weights of each thread, and activations with gaps.
pub(super) fn scratch(pool: &Pool, dtype: DType, size: Size) -> usize {
    let weights = if in_place(dtype, size) { 0 } else { carved::<f32>(pool.threads() * decoded(size)) };
    let x = if many(size) { carved::<f32>(size.tokens * (size.k + GAP)) } else { 0 };
    64 + weights + x
}

pub(super) fn run(l: &Linear, size: Size, row_bytes: usize, out: Shared<f32>, scratch: &mut [u8]) {
    let mut memory = Carver::new(scratch);
    let x = match many(size) {
        true => {
            let stride = size.k + GAP;
            Rows { at: gaps(l.x, size.k, memory.take(size.tokens * stride)), stride, count: size.tokens }
        }
        false => Rows { at: l.x, stride: size.k, count: size.tokens },
    };
    let (k, stride) = (size.k, size.k);
    if !in_place(l.dtype, size) {
        let width = decoded(size);
        let decoded: &mut [f32] = memory.take(l.pool.threads() * width);
        let decoded = Shared(decoded.as_mut_ptr());
        return products::<F32>(l, size, x, out, |from, count, first, len, thread| {
            // SAFETY: each thread has a part of its own.
            let to = unsafe { decoded.slice(thread * width, width) };
            let stride = len + GAP;
            let at = l.dtype.bytes(first).expect("whole blocks");
            let bytes = l.dtype.bytes(len).expect("whole blocks");
            for r in 0..count {
                let row = &l.w[(from + r) * row_bytes + at..][..bytes];
                decode(l.dtype, row, &mut to[r * stride..][..len]);
            }
            Rows { at: to, stride, count }
        });
    }
    match l.dtype {
        DType::F32 => {
            // SAFETY: any bits are an f32.
            let (head, w, _) = unsafe { l.w.align_to::<f32>() };
            assert!(head.is_empty(), "plain weights are aligned");
            let rows = |from, count, first, _, _| Rows { at: &w[from * k + first..], stride, count };
            products::<F32>(l, size, x, out, rows)
        }
        plain => {
            let w = l.w.as_chunks::<2>().0;
            let rows = |from, count, first, _, _| Rows { at: &w[from * k + first..], stride, count };
            match plain {
                DType::F16 => products::<F16>(l, size, x, out, rows),
                _ => products::<BF16>(l, size, x, out, rows),
            }
        }
    }
}

/// All products. `weights` gives, for `(from, count, first, len, thread)`, the rows `from..from + count` with at least
/// their values `first..first + len`.
fn products<'w, W: Stored>(
    l: &Linear,
    size: Size,
    x: Rows<f32>,
    out: Shared<f32>,
    weights: impl Fn(usize, usize, usize, usize, usize) -> Rows<'w, W::Number> + Sync,
) where
    W::Number: 'w,
{
    let Size { tokens, k, n, .. } = size;
    let (panel, block) = panel(size);
    let panels = n.div_ceil(panel);
    // Tokens are split too where there are few rows; each part decodes for itself.
    let parts = (4 * l.pool.threads()).div_ceil(panels).min(tokens / 32).max(1);
    let least = TASK.div_ceil(panel * k * tokens.div_ceil(parts));
    l.pool.split(panels * parts, least, |items, thread| {
        for item in items {
            let (from, part) = (item % panels * panel, item / panels);
            let count = panel.min(n - from);
            let mine = tokens * part / parts..tokens * (part + 1) / parts;
            for t in mine.clone() {
                // SAFETY: these rows and tokens of the result belong to this task.
                let y = unsafe { out.slice(t * n + from, count) };
                match l.bias {
                    Some(bias) => y.copy_from_slice(&bias[from..from + count]),
                    None => y.fill(0.0),
                }
            }
            for first in (0..k).step_by(block) {
                let len = block.min(k - first);
                let w = weights(from, count, first, len, thread);
                for t in mine.clone().step_by(float::TOKENS) {
                    let some = float::TOKENS.min(mine.end - t);
                    let x = Rows { at: &x.at[t * x.stride + first..], stride: x.stride, count: some };
                    for r in (0..count).step_by(float::ROWS) {
                        let few = float::ROWS.min(count - r);
                        let w = Rows { at: &w.at[r * w.stride..], stride: w.stride, count: few };
                        for (i, dots) in float::tile::<W>(l.isa, x, w, len).iter().enumerate().take(some) {
                            // SAFETY: these rows and tokens of the result belong to this task.
                            let y = unsafe { out.slice((t + i) * n + from + r, few) };
                            y.iter_mut().zip(dots).for_each(|(y, d)| *y += d);
                        }
                    }
                }
            }
        }
    });
}

/// Copies rows of `k` numbers to rows with gaps.
fn gaps<'a>(x: &[f32], k: usize, to: &'a mut [f32]) -> &'a [f32] {
    for (x, to) in x.chunks_exact(k).zip(to.chunks_exact_mut(k + GAP)) {
        to[..k].copy_from_slice(x);
    }
    to
}

/// Decodes to f32.
fn decode(dtype: DType, bytes: &[u8], to: &mut [f32]) {
    match dtype {
        DType::F16 => float::from_f16(bytes, to),
        DType::BF16 => float::from_bf16(bytes, to),
        _ => dtype.decode(bytes, to),
    }
}
