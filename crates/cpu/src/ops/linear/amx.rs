//! Linear layers of many tokens by AMX: activations in bf16, weights decoded to bf16 once for all tokens at hand, sums in f32.
//!
//! A task has some rows of weights and up to [`TOKENS`] tokens. It goes along K in steps of [`DEPTH`] blocks: 32 rows decoded so
//! far stay in the first level of cache while all tokens pass by, from the second level; and so do the sums.
#![allow(unsafe_op_in_unsafe_fn)]

use super::fast::Matrix;
use super::{Carver, Linear, Shared, Size, carved};
use crate::amx::{self, SIDE, Tiles, block};
use crate::quant::acts::GROUP;
use crate::quant::x86_blocks::of_panel;
use crate::quant::{Kernels, Out, Panel};
use crate::threads::Pool;
use std::arch::x86_64::*;
use std::ops::Range;

/// Tokens of a task at most, as their sums are to stay in the second level of cache.
const TOKENS: usize = 512;
/// Rows of a task at most. The more, the more often a token's numbers are used once they are in the second level.
const ROWS: usize = 256;
/// Blocks along K decoded at a time, about.
const DEPTH: usize = 8;
/// Numbers of a result that is written past the caches: it is more than they keep, and each of its lines would be fetched to be
/// written, from places that share few lines of a cache.
const FAR: usize = 256 << 10;
/// Values packed by one task.
const PACK: usize = 16 << 10;
/// Numbers of a block's sums.
const SUMS: usize = SIDE * SIDE;

/// How a product is cut.
#[derive(Clone, Copy)]
pub(crate) struct Cut {
    /// blocks along K at a time
    deep: usize,
    /// blocks of tokens of a task, and how many such parts there are
    tokens: usize,
    parts: usize,
    /// rows of a task
    rows: usize,
}

/// Blocks along K decoded at a time, as equal as may be: whole blocks of 256 where K has them.
fn deep(k: usize) -> usize {
    let all = k / SIDE;
    all.div_ceil(((all + DEPTH / 2) / DEPTH).max(1))
}

impl Cut {
    fn of(pool: &Pool, size: Size) -> Cut {
        let (threads, blocks) = (pool.threads(), size.tokens.div_ceil(SIDE));
        // Rows by which threads are done at the same time; each task costs a little.
        let cost = |rows: &usize| size.n.div_ceil(*rows).div_ceil(threads) * (rows + SIDE / 4);
        let rows = (SIDE..=ROWS).step_by(SIDE).min_by_key(cost).unwrap_or(SIDE);
        // Tokens are split too where there are few rows; each part decodes for itself.
        let parts =
            (threads / size.n.div_ceil(rows)).min(blocks / 2).max(size.tokens.div_ceil(TOKENS)).max(1);
        Cut { deep: deep(size.k), tokens: blocks.div_ceil(parts), parts, rows }
    }

    /// Numbers of a thread's working memory: bytes of decoded blocks, sums, and of the panel bytes and scales.
    fn own(&self, size: Size) -> [usize; 4] {
        // More tokens never need less.
        let tokens = size.tokens.min(TOKENS).div_ceil(SIDE);
        let many = if self.deep * SIDE < size.k { self.rows.min(size.n).div_ceil(SIDE) * tokens } else { 1 };
        [self.deep * block::<2>(), many * SUMS, SIDE * self.deep * SIDE, 2 * SIDE * self.deep]
    }
}

/// Bytes of working memory.
pub(super) fn scratch(pool: &Pool, size: Size) -> usize {
    let own = Cut::of(pool, size).own(size);
    let own = carved::<u8>(own[0]) + carved::<f32>(own[1]) + carved::<u8>(own[2]) + 2 * carved::<f32>(own[3]);
    let part = if size.finer { block::<2>() } else { block::<1>() };
    64 + carved::<u8>(size.tokens.div_ceil(SIDE) * (size.k / SIDE) * part) + pool.threads() * own
}

pub(super) fn run(
    l: &Linear,
    kernels: &Kernels,
    size: Size,
    row_bytes: usize,
    out: Shared<f32>,
    scratch: &mut [u8],
) {
    assert!(kernels.panel_rows == SIDE && size.k.is_multiple_of(GROUP));
    match size.finer {
        false => run_in::<1>(l, kernels, size, row_bytes, out, scratch),
        true => run_in::<2>(l, kernels, size, row_bytes, out, scratch),
    }
}

fn run_in<const PARTS: usize>(
    l: &Linear,
    kernels: &Kernels,
    size: Size,
    row_bytes: usize,
    out: Shared<f32>,
    scratch: &mut [u8],
) {
    let mut memory = Carver::new(scratch);
    let cut = Cut::of(l.pool, size);
    let (own, of) = (cut.own(size), X { tokens: size.tokens, k: size.k, deep: cut.deep });
    let x = Shared(memory.take::<u8>(of.bytes::<PARTS>()).as_mut_ptr());
    // SAFETY: AMX comes with AVX-512; there is room for all blocks, each of which is written by one task.
    l.pool.split(of.pieces(), PACK.div_ceil(SIDE * SIDE * cut.deep), |pieces, _| unsafe {
        pieces.for_each(|piece| of.pack::<PARTS>(piece, |t| &l.x[t * size.k..][..size.k], x.at(0)));
    });
    let all: [_; 2] = [0, 2].map(|i| {
        let each = own[i].next_multiple_of(64);
        (Shared(memory.take::<u8>(l.pool.threads() * each).as_mut_ptr()), each)
    });
    let floats: [_; 3] = [1, 3, 3].map(|i| {
        let each = own[i].next_multiple_of(16);
        (Shared(memory.take::<f32>(l.pool.threads() * each).as_mut_ptr()), each)
    });
    let matrix = Matrix { kernels: *kernels, w: l.w, packed: l.packed, row_bytes, n: size.n, k: size.k };
    let (groups, far) = (size.n.div_ceil(cut.rows), size.tokens * size.n >= FAR);
    l.pool.run(groups * cut.parts, &|item, thread| {
        let (from, part) = (item % groups * cut.rows, item / groups);
        let first = part * cut.tokens * SIDE;
        if first >= size.tokens {
            return;
        }
        let tokens = (size.tokens - first).min(cut.tokens * SIDE);
        // SAFETY: each thread has memory of its own. The processor has AMX; these rows and tokens of the result belong to
        // this task, and the tokens are packed.
        unsafe {
            let [blocks, q] = all.map(|(all, each)| all.slice(thread * each, each));
            let [sums, d, m] = floats.map(|(all, each)| all.slice(thread * each, each));
            let mut own = Own { blocks, sums, panel: Panel { q, d, m } };
            let y = Out { at: out.at(first * size.n + from), stride: size.n };
            let rows = from..size.n.min(from + cut.rows);
            meet::<PARTS>(&matrix, rows, (of, x.at(0)), first..first + tokens, l.bias, y, far, &mut own);
        }
    });
}

/// How activations are packed: of all tokens the blocks that meet a step's weights lie one after another, as the second level
/// of cache keeps little of what lies a power of two apart.
#[derive(Clone, Copy)]
pub(crate) struct X {
    tokens: usize,
    k: usize,
    /// blocks along K of a step
    deep: usize,
}

impl X {
    fn blocks(&self) -> [usize; 2] {
        [self.tokens.div_ceil(SIDE), self.k / SIDE]
    }

    fn bytes<const PARTS: usize>(&self) -> usize {
        self.blocks()[0] * self.blocks()[1] * block::<PARTS>()
    }

    /// Pieces to be packed: of 32 tokens and a step along K.
    fn pieces(&self) -> usize {
        self.blocks()[0] * self.blocks()[1].div_ceil(self.deep)
    }

    /// Where the blocks of `token` (in blocks) lie for the step that begins with block `first`.
    fn at<const PARTS: usize>(&self, token: usize, first: usize) -> usize {
        let [tokens, all] = self.blocks();
        (first * tokens + token * self.deep.min(all - first)) * block::<PARTS>()
    }

    /// Packs a piece of the tokens that `row` gives. Rows that are missing to a whole block are left as they are: so are what
    /// they give.
    ///
    /// # Safety
    /// The processor has AVX-512, and there is room for all blocks; those of this piece are used by nobody else.
    unsafe fn pack<'x, const PARTS: usize>(
        &self,
        piece: usize,
        row: impl Fn(usize) -> &'x [f32],
        to: *mut u8,
    ) {
        let all = self.blocks()[1];
        let (token, step) = (piece / all.div_ceil(self.deep), piece % all.div_ceil(self.deep));
        let first = step * self.deep;
        let (to, steps) = (to.add(self.at::<PARTS>(token, first)), self.deep.min(all - first));
        for t in token * SIDE..self.tokens.min((token + 1) * SIDE) {
            let x = &row(t)[first * SIDE..][..steps * SIDE];
            amx::left_row::<PARTS, f32>(x.as_ptr(), x.len(), t % SIDE, to);
        }
    }
}

/// A thread's working memory.
pub(crate) struct Own<'a> {
    blocks: &'a mut [u8],
    sums: &'a mut [f32],
    panel: Panel<'a>,
}

/// Products of some rows, which begin with a whole panel of 32, and some tokens, which begin with a whole block.
///
/// # Safety
/// The processor has AMX; the memory is as large as [`Cut::own`] says; `out`, at the first token and row, is writable for
/// these tokens and rows, and nobody else uses them.
#[allow(clippy::too_many_arguments)]
pub(crate) unsafe fn meet<const PARTS: usize>(
    matrix: &Matrix,
    rows: Range<usize>,
    (of, x): (X, *const u8),
    tokens: Range<usize>,
    bias: Option<&[f32]>,
    out: Out,
    far: bool,
    own: &mut Own,
) {
    let _tiles = Tiles::new();
    let (all, deep, count) = (matrix.k / SIDE, of.deep, tokens.len().div_ceil(SIDE));
    assert!(own.blocks.len() >= deep * block::<PARTS>());
    assert!(own.sums.len() >= if deep < all { rows.len().div_ceil(SIDE) * count * SUMS } else { SUMS });
    let w = own.blocks.as_mut_ptr();
    let mut step = |i: usize, first: usize| {
        let (from, steps) = (rows.start + i * SIDE, deep.min(all - first));
        let [fresh, last] = [first == 0, first + steps == all];
        decode::<PARTS>(matrix, from, first, steps, &mut own.panel, w);
        for t in 0..count {
            let (left, x) = (tokens.len() - t * SIDE, x.add(of.at::<PARTS>(tokens.start / SIDE + t, first)));
            let number = if deep < all { i * count + t } else { 0 };
            let sums = own.sums.as_mut_ptr().add(number * SUMS);
            amx::product::<PARTS>(x, w, steps, sums, 4 * SIDE, [left <= SIDE / 2, fresh]);
            if last {
                let wanted = [left.min(SIDE), SIDE.min(rows.end - from)];
                let at = out.at.add(t * SIDE * out.stride + i * SIDE);
                finish(sums, wanted, bias.map(|b| &b[from..]), Out { at, ..out }, far);
            }
        }
    };
    let blocks = 0..rows.len().div_ceil(SIDE);
    match count {
        // There is little but weights to read, in order.
        1 => blocks.for_each(|i| (0..all).step_by(deep).for_each(|first| step(i, first))),
        _ => (0..all).step_by(deep).for_each(|first| blocks.clone().for_each(|i| step(i, first))),
    }
    _mm_sfence(); // what was written past the caches is there before others are told
}

/// Decodes up to 32 rows from row `from` on, `groups` groups of 32 columns from `first` on.
unsafe fn decode<const PARTS: usize>(
    matrix: &Matrix,
    from: usize,
    first: usize,
    groups: usize,
    panel: &mut Panel,
    to: *mut u8,
) {
    let Matrix { kernels, row_bytes, .. } = matrix;
    match kernels.direct.and_then(|d| d.blocks).zip(matrix.packed) {
        Some((blocks, all)) => blocks[PARTS - 1](all, from, matrix.k / GROUP, first, groups, to),
        None => {
            let end = matrix.n.min(from + SIDE);
            (kernels.unpack)(&matrix.w[from * row_bytes..end * row_bytes], *row_bytes, first, groups, panel);
            of_panel::<PARTS>(panel, groups, kernels.scales, to);
        }
    }
}

/// Writes sums to the result, with the bias.
#[target_feature(enable = "avx512f")]
unsafe fn finish(sums: *const f32, [tokens, rows]: [usize; 2], bias: Option<&[f32]>, out: Out, far: bool) {
    let some = (1u64 << rows) - 1;
    let far = far && rows == SIDE && out.at.align_offset(64) == 0 && out.stride.is_multiple_of(16);
    for (at, some) in [(0, some as u16), (SIDE / 2, (some >> 16) as u16)] {
        let bias = match bias {
            Some(bias) => _mm512_maskz_loadu_ps(some, bias.as_ptr().wrapping_add(at)),
            None => _mm512_setzero_ps(),
        };
        for t in 0..tokens {
            let y = _mm512_add_ps(_mm512_loadu_ps(sums.add(t * SIDE + at)), bias);
            let to = out.at.wrapping_add(t * out.stride + at);
            if far { _mm512_stream_ps(to, y) } else { _mm512_mask_storeu_ps(to, some, y) }
        }
    }
}
