//! Linear layers in f32: weights are decoded block by block and multiplied while they are in cache.

use super::{Carver, Linear, Shared, Size, carved, float};
use crate::threads::Pool;
use hob_graph::DType;

/// Rows of weights a task decodes at a time, and values of a row: 64 KB of f32.
const ROWS: usize = 16;
const BLOCK: usize = 1024;
/// Multiplications below which a task is not worth another thread.
const TASK: usize = 64 << 10;

/// Bytes of working memory: decoded weights of each thread, unless they are f32 already.
pub(super) fn scratch(pool: &Pool, dtype: DType, size: Size) -> usize {
    match dtype {
        DType::F32 => 0,
        _ => 64 + pool.threads() * carved::<f32>(ROWS * size.k.min(BLOCK)),
    }
}

pub(super) fn run(l: &Linear, size: Size, row_bytes: usize, out: Shared<f32>, scratch: &mut [u8]) {
    let (k, n) = (size.k, size.n);
    // SAFETY: any bits are an f32.
    let (head, plain, _) = unsafe { l.w.align_to::<f32>() };
    let plain = (l.dtype == DType::F32 && head.is_empty()).then_some(plain);
    let width = (ROWS * k.min(BLOCK)).next_multiple_of(16);
    let decoded: &mut [f32] = match plain {
        Some(_) => &mut [],
        None => Carver::new(scratch).take(l.pool.threads() * width),
    };
    let decoded = Shared(decoded.as_mut_ptr());
    let groups = n.div_ceil(ROWS);
    // Tokens are split too where there are few rows; each part decodes for itself.
    let parts = (4 * l.pool.threads()).div_ceil(groups).min(size.tokens / 32).max(1);
    let least = TASK.div_ceil(ROWS * k * size.tokens);
    l.pool.split(groups * parts, least, |tasks, thread| {
        for task in tasks {
            let (from, part) = (task / parts * ROWS, task % parts);
            let rows = ROWS.min(n - from);
            let tokens = size.tokens * part / parts..size.tokens * (part + 1) / parts;
            for t in tokens.clone() {
                // SAFETY: these rows and tokens of the result belong to this task.
                let y = unsafe { out.slice(t * n + from, rows) };
                match l.bias {
                    Some(bias) => y.copy_from_slice(&bias[from..from + rows]),
                    None => y.fill(0.0),
                }
            }
            for first in (0..k).step_by(BLOCK) {
                let len = BLOCK.min(k - first);
                let (w, stride) = match plain {
                    Some(w) => (&w[from * k + first..], k),
                    None => {
                        // SAFETY: each thread has a part of its own.
                        let to = unsafe { decoded.slice(thread * width, rows * len) };
                        let (at, bytes) = (l.dtype.bytes(first), l.dtype.bytes(len));
                        let (at, bytes) = (at.expect("whole blocks"), bytes.expect("whole blocks"));
                        for (r, to) in to.chunks_exact_mut(len).enumerate() {
                            decode(l.dtype, &l.w[(from + r) * row_bytes + at..][..bytes], to);
                        }
                        (&*to, len)
                    }
                };
                for t in tokens.clone().step_by(float::TOKENS) {
                    let x = &l.x[t * k + first..];
                    let many = float::TOKENS.min(tokens.end - t);
                    for r in (0..rows).step_by(float::ROWS) {
                        let dots = float::tile(
                            l.isa,
                            float::Rows { at: x, stride: k, count: many },
                            float::Rows { at: &w[r * stride..], stride, count: float::ROWS.min(rows - r) },
                            len,
                        );
                        for (i, dots) in dots.iter().enumerate().take(many) {
                            let count = float::ROWS.min(rows - r);
                            // SAFETY: these rows and tokens of the result belong to this task.
                            let y = unsafe { out.slice((t + i) * n + from + r, count) };
                            y.iter_mut().zip(dots).for_each(|(y, d)| *y += d);
                        }
                    }
                }
            }
        }
    });
}

/// Decodes to f32.
fn decode(dtype: DType, bytes: &[u8], to: &mut [f32]) {
    match dtype {
        DType::F16 => float::from_f16(bytes, to),
        DType::BF16 => float::from_bf16(bytes, to),
        _ => dtype.decode(bytes, to),
    }
}
