//! Linear layers in f32. With few tokens plain floats are read where they lie; other weights, and all with some
//! tokens, are decoded block by block and multiplied while they are in cache. With many tokens the decoded blocks are
//! turned, so that one product of any layout ([`crate::ops::gemm`]) serves.

use super::float::{self, BF16, F16, F32, Rows, Stored};
use super::{Carver, Linear, Shared, Size, carved};
use crate::exec::Precision;
use crate::isa::Isa;
use crate::ops::gemm::{DEPTH, Gemm, Left, Panel, WIDTH, Way};
use crate::threads::Pool;
use hob_graph::DType;
use std::ops::Range;

/// Rows of weights that a task has at hand where there are many tokens, and values of a row: 64 KB of f32, of which a
/// tile's part stays in the first level of cache.
const MANY: (usize, usize) = (32, 512);
/// The same where there are few tokens: rows are used once, so long stretches of memory in order count for more.
const FEW: (usize, usize) = (float::ROWS, 4096);
/// Multiplications below which a task is not worth another thread.
const TASK: usize = 64 << 10;
/// Rows whose distance is a power of two share the same few lines of a cache; so much is put between them.
const GAP: usize = 16;

/// Tokens from which on turning the weights is paid back.
const TURNED: usize = 48;

fn many(size: Size) -> bool {
    size.tokens > float::TOKENS
}

/// Tokens from which on weights are turned once for all, and not by each task for itself.
const ONCE: usize = 768;
/// The same where there are few columns.
const FEWEST: usize = 256;
/// The product with turned weights, where that pays, and whether they are turned once: where there are many tokens, or
/// too few columns for threads to turn some each.
fn turned(pool: &Pool, isa: Isa, precision: Precision, dtype: DType, size: Size) -> Option<(Gemm, bool)> {
    let way = Way::of(isa, precision, dtype, size.tokens);
    let narrow = 2 * WIDTH * 2 * pool.threads() > size.n;
    let once = size.tokens >= ONCE || size.tokens >= FEWEST && narrow;
    let wide = match size.tokens {
        _ if once => way.wide(),
        _ if size.n >= way.wide() * pool.threads() => way.wide() / 2,
        _ => 2 * WIDTH,
    };
    let task = wide.min(size.n.next_multiple_of(WIDTH));
    (size.tokens >= TURNED)
        .then_some((Gemm { rows: size.tokens, depth: size.k, columns: size.n, task, way }, once))
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
pub(super) fn scratch(pool: &Pool, isa: Isa, precision: Precision, dtype: DType, size: Size) -> usize {
    if let Some((g, once)) = turned(pool, isa, precision, dtype, size) {
        // Experts plan for all tokens, and multiply those that came to each.
        let most = if once { if size.tokens >= ONCE { ONCE } else { FEWEST } } else { TURNED };
        let fewer = scratch(pool, isa, precision, dtype, Size { tokens: most - 1, ..size });
        return fewer.max(64 + if once { g.scratch_once(pool) } else { g.scratch(pool) });
    }
    let weights = if in_place(dtype, size) { 0 } else { carved::<f32>(pool.threads() * decoded(size)) };
    let x = if many(size) { carved::<f32>(size.tokens * (size.k + GAP)) } else { 0 };
    64 + weights + x
}

pub(super) fn run(l: &Linear, size: Size, row_bytes: usize, out: Shared<f32>, scratch: &mut [u8]) {
    if let Some(how) = turned(l.pool, l.isa, l.precision, l.dtype, size) {
        return many_tokens(l, size, how, row_bytes, out, scratch);
    }
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

/// Rows of x by columns of decoded and turned weights.
fn many_tokens(
    l: &Linear,
    size: Size,
    (g, once): (Gemm, bool),
    row_bytes: usize,
    out: Shared<f32>,
    scratch: &mut [u8],
) {
    let fill = |deep: Range<usize>, rows: Range<usize>, panel: Panel| {
        let panel = match panel {
            Panel::Plain(panel) => panel,
            #[cfg(target_arch = "x86_64")]
            Panel::Parts(parts, panel) => {
                let row = |i: usize| l.w.get((rows.start + i) * row_bytes..)?.get(..row_bytes);
                return crate::ops::gemm::parts::pack_columns(l.dtype, deep, parts, panel, row);
            }
            #[cfg(not(target_arch = "x86_64"))]
            Panel::Parts(..) => unreachable!("for a processor of another kind"),
        };
        let bytes = |n: usize| l.dtype.bytes(n).expect("panels and rows are whole blocks");
        let mut decoded = [[0.0f32; DEPTH]; LANES];
        for first in rows.clone().step_by(LANES) {
            for (row, to) in (first..size.n).zip(&mut decoded) {
                let w = &l.w[row * row_bytes + bytes(deep.start)..][..bytes(deep.len())];
                decode(l.dtype, w, &mut to[..deep.len()]);
            }
            let place = first - rows.start;
            turn(&decoded, &mut panel[place / WIDTH * deep.len() * WIDTH..], place % WIDTH, deep.len());
        }
    };
    let finish = |_, first: usize, y: &mut [f32]| {
        if let Some(bias) = l.bias {
            y.iter_mut().zip(&bias[first..]).for_each(|(y, b)| *y += b);
        }
    };
    // SAFETY: the result has so many numbers, and nobody else uses them.
    let y = unsafe { out.slice(0, size.tokens * size.n) };
    match once {
        true => g.run_once(l.pool, Left::plain(l.x), y, scratch, fill, finish),
        false => g.run(
            l.pool,
            1,
            y,
            scratch,
            |_| Left::plain(l.x),
            |_, deep, rows, panel| fill(deep, rows, panel),
            finish,
        ),
    }
}

/// Rows turned together.
const LANES: usize = 16;

/// Columns of rows become parts of a strip's rows, from `at` on.
fn turn(rows: &[[f32; DEPTH]; LANES], strip: &mut [f32], at: usize, deep: usize) {
    let strip = &mut strip.as_chunks_mut::<WIDTH>().0[..deep];
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_mut))]
    let mut done = 0;
    #[cfg(target_arch = "x86_64")]
    if crate::isa::isa() >= Isa::Avx2 {
        done = deep / 8 * 8;
        // SAFETY: the processor has AVX2.
        unsafe { turn_avx2(rows, &mut strip[..done], at) };
    }
    for (k, y) in strip.iter_mut().enumerate().skip(done) {
        for (i, row) in rows.iter().enumerate() {
            y[at + i] = row[k];
        }
    }
}

/// As above, for whole eights of columns.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn turn_avx2(rows: &[[f32; DEPTH]; LANES], strip: &mut [[f32; WIDTH]], at: usize) {
    use std::arch::x86_64::*;
    assert!(at + LANES <= WIDTH && strip.len() <= DEPTH);
    for (k, y) in strip.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        for half in [0, 8] {
            // SAFETY: eight numbers of each row, and of each of the strip's eight, are there, as asserted.
            unsafe {
                let rows = std::array::from_fn(|i| rows[half + i].as_ptr().add(8 * k));
                for (x, y) in crate::ops::turn::eight(rows).into_iter().zip(&mut *y) {
                    _mm256_storeu_ps(y.as_mut_ptr().add(at + half), x);
                }
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
pub(crate) fn decode(dtype: DType, bytes: &[u8], to: &mut [f32]) {
    match dtype {
        DType::F16 => float::from_f16(bytes, to),
        DType::BF16 => float::from_bf16(bytes, to),
        _ => dtype.decode(bytes, to),
    }
}
