//! Linear layers in whole numbers: see [`crate::quant`] for the kernels. Here: who computes what, and in which memory.

use super::{Carver, Linear, Shared, Size, carved};
use crate::quant::acts::{self, Acts, ActsMut, GROUP};
use crate::quant::{Direct, Kernels, Out, Panel, Part, packed};
use crate::threads::Pool;
use std::ops::Range;

/// Values of a row unpacked at a time: a panel stays in the second level of cache.
const PANEL_K: usize = 4096;
/// Bytes of weights a task streams, at least and at most. Below the least, waking a thread costs more than it saves.
const TASK_BYTES: (usize, usize) = (24 << 10, 512 << 10);
/// Bytes of panels that stay in the second level of cache.
const IN_CACHE: usize = 256 << 10;
/// Panels of weights laid out anew that one task's are a multiple of.
const SIDE_BY_SIDE: usize = 4;
/// Values quantized by one task.
const QUANTIZE: usize = 16 << 10;

/// Numbers of a thread's panel: bytes of values, and scales.
pub(crate) fn panel(kernels: &Kernels, k: usize) -> (usize, usize) {
    let k = k.min(PANEL_K);
    (kernels.panel_rows * k, kernels.panel_rows * kernels.scales * k / GROUP)
}

/// Whether panels meet tiles, rather than that weights are streamed.
fn by_tiles(kernels: &Kernels, tokens: usize, packed: bool) -> bool {
    tokens > streamed(kernels, packed)
}

/// Tokens for which weights are streamed, at most.
fn streamed(kernels: &Kernels, packed: bool) -> usize {
    match kernels.direct {
        Some(direct) if packed => direct.most,
        _ => kernels.many - 1,
    }
}

/// Bytes of working memory, whether or not the weights are laid out anew, for so many tokens and for fewer.
pub(super) fn scratch(pool: &Pool, kernels: &Kernels, size: Size) -> usize {
    let needed = |packed| match by_tiles(kernels, size.tokens, packed) {
        false if size.finer => twice_scratch(pool, kernels, size),
        true if size.finer => {
            // Fewer that are streamed lie there twice.
            let fewer = Size { tokens: streamed(kernels, packed), ..size };
            once_scratch(pool, kernels, size, true).max(twice_scratch(pool, kernels, fewer))
        }
        tiles => once_scratch(pool, kernels, size, tiles),
    };
    needed(false).max(needed(true))
}

fn once_scratch(pool: &Pool, kernels: &Kernels, size: Size, tiles: bool) -> usize {
    let (q, d) = panel(kernels, size.k);
    let panels = if tiles { pool.threads() * (carved::<u8>(q) + 2 * carved::<f32>(d)) } else { 0 };
    let padded = if size.tokens == 1 { 1 } else { size.tokens.next_multiple_of(kernels.tile_tokens) };
    let rows = if size.finer { 2 * padded } else { padded };
    let scales = rows * (size.k / GROUP);
    64 + carved::<i8>(rows * size.k) + 2 * carved::<f32>(scales) + carved::<f32>(2 * scales) + panels
}

pub(super) fn run(
    l: &Linear,
    kernels: &Kernels,
    size: Size,
    row_bytes: usize,
    out: Shared<f32>,
    scratch: &mut [u8],
) {
    let laid_out = kernels.direct.zip(l.packed);
    let many = by_tiles(kernels, size.tokens, laid_out.is_some());
    if size.finer && !many {
        return twice(l, kernels, size, row_bytes, out, scratch);
    }
    let mut memory = Carver::new(scratch);
    match laid_out {
        _ if many => {
            let x = quantize(l, size, kernels.tile_tokens, &mut memory);
            tiles(l, kernels, size, row_bytes, &x, out, &mut memory);
        }
        Some((direct, panels)) => {
            let tile = if size.tokens == 1 { 1 } else { kernels.tile_tokens };
            few(l, &direct, panels, size, &quantize(l, size, tile, &mut memory), out);
        }
        None => rows(l, kernels, size, row_bytes, &quantize(l, size, 1, &mut memory), out),
    }
}

/// Few tokens whose activations are quantized twice: what is left over follows as if it were as many more tokens, so
/// weights are still read and unpacked once.
fn twice(l: &Linear, kernels: &Kernels, size: Size, row_bytes: usize, out: Shared<f32>, scratch: &mut [u8]) {
    let (mut memory, all) = (Carver::new(scratch), size.tokens * size.n);
    let (x, y) = (memory.take::<f32>(2 * l.x.len()), memory.take::<f32>(2 * all));
    let (first, left) = x.split_at_mut(l.x.len());
    first.copy_from_slice(l.x);
    acts::residual(first, left);
    let both = Linear { x, bias: None, finer: false, ..*l };
    let as_many = Size { tokens: 2 * size.tokens, finer: false, ..size };
    run(&both, kernels, as_many, row_bytes, Shared(y.as_mut_ptr()), memory.0);
    // SAFETY: the result has a place for each token and row, and nobody else writes it now.
    let sums = unsafe { out.slice(0, all) };
    let (first, left) = y.split_at(all);
    sums.iter_mut().zip(first).zip(left).for_each(|((y, a), b)| *y = a + b);
    add_bias(l, size, 0, size.n, out);
}

/// The activations `(2 · T, K)`, the results `(2 · T, N)`, and what these need.
fn twice_scratch(pool: &Pool, kernels: &Kernels, size: Size) -> usize {
    let both = Size { tokens: 2 * size.tokens, finer: false, ..size };
    let parts = carved::<f32>(both.tokens * size.k) + carved::<f32>(both.tokens * size.n);
    64 + parts + scratch(pool, kernels, both)
}

/// Few tokens and weights laid out anew: they are streamed once, each panel meeting all tokens while it is in cache.
fn few(l: &Linear, direct: &Direct, panels: &[u8], size: Size, x: &Acts, out: Shared<f32>) {
    let count = size.n / packed::ROWS;
    let bytes = panels.len() / count;
    // Kernels take up to so many panels at a time.
    let together = count.div_ceil(SIDE_BY_SIDE);
    let tasks = tasks(l, panels.len() * size.tokens, together);
    l.pool.run(tasks, &|task, _| {
        let part = |task: usize| (together * task / tasks * SIDE_BY_SIDE).min(count);
        let (from, to) = (part(task), part(task + 1));
        // A tile goes over few panels at a time, so that they are still in cache for the next.
        let step = if x.tile < size.tokens { (IN_CACHE / bytes).max(1) } else { to - from };
        for from in (from..to).step_by(step) {
            let (to, row) = (to.min(from + step), from * packed::ROWS);
            let w = &panels[from * bytes..to * bytes];
            for tile in 0..size.tokens.div_ceil(x.tile) {
                let tokens = x.tile.min(size.tokens - tile * x.tile);
                let at = tile * x.tile * size.n + row;
                // SAFETY: the processor has the instruction set; the result has a place for each token and row, and
                // rows belong to one task.
                unsafe { (direct.run)(w, x, tile, tokens, Out { at: out.0.add(at), stride: size.n }) };
            }
            add_bias(l, size, row, to * packed::ROWS, out);
        }
    });
}

/// Adds the bias to rows that belong to one task.
fn add_bias(l: &Linear, size: Size, from: usize, to: usize, out: Shared<f32>) {
    let Some(bias) = l.bias else { return };
    for t in 0..size.tokens {
        // SAFETY: these rows of the result belong to the calling task.
        let y = unsafe { out.slice(t * size.n + from, to - from) };
        y.iter_mut().zip(&bias[from..to]).for_each(|(y, b)| *y += b);
    }
}

/// How many tasks `bytes` of work are worth, of at most `most`.
fn tasks(l: &Linear, bytes: usize, most: usize) -> usize {
    let share = (bytes / (l.pool.threads() * 8)).clamp(TASK_BYTES.0, TASK_BYTES.1);
    (bytes / share).clamp(1, most)
}

/// The activations in 8 bits; in finer steps, what these leave over follows as as many more tiles.
fn quantize<'a>(l: &Linear, size: Size, tile: usize, memory: &mut Carver<'a>) -> Acts<'a> {
    let (k, groups) = (size.k, size.k / GROUP);
    let tiles = size.tokens.div_ceil(tile);
    let all = if size.finer { 2 * tiles } else { tiles };
    let q: &mut [i8] = memory.take(all * tile * k);
    let d: &mut [f32] = memory.take(all * tile * groups);
    let sums: &mut [f32] = memory.take(all * tile * groups);
    let half_sums: &mut [f32] = memory.take(2 * all * tile * groups);
    let to = (
        Shared(q.as_mut_ptr()),
        Shared(d.as_mut_ptr()),
        Shared(sums.as_mut_ptr()),
        Shared(half_sums.as_mut_ptr()),
    );
    l.pool.split(tiles, QUANTIZE.div_ceil(tile * k), |range, _| {
        for i in range {
            let (n, x) = (tile * groups, &l.x[i * tile * k..((i + 1) * tile * k).min(l.x.len())]);
            // SAFETY: the slices have room for all tiles, and each tile is quantized by one task.
            let tile_of = |i: usize| unsafe {
                ActsMut {
                    q: to.0.slice(i * tile * k, tile * k),
                    d: to.1.slice(i * n, n),
                    sums: to.2.slice(i * n, n),
                    half_sums: to.3.slice(2 * i * n, 2 * n),
                }
            };
            acts::quantize(x, k, tile, tile_of(i), size.finer.then(|| tile_of(tiles + i)));
        }
    });
    Acts { tokens: size.tokens, tile, groups, q, d, sums, half_sums }
}

/// Few tokens: the weights are streamed once.
fn rows(l: &Linear, kernels: &Kernels, size: Size, row_bytes: usize, x: &Acts, out: Shared<f32>) {
    // More tokens mean more work for the same bytes.
    let tasks = tasks(l, size.n * row_bytes * size.tokens, size.n);
    l.pool.run(tasks, &|task, _| {
        let (from, to) = (size.n * task / tasks, size.n * (task + 1) / tasks);
        let w = &l.w[from * row_bytes..to * row_bytes];
        // SAFETY: the processor has the instruction set; the result has a place for each token and row, and rows
        // belong to one task.
        unsafe { (kernels.rows)(w, x, Out { at: out.0.add(from), stride: size.n }) };
        add_bias(l, size, from, to, out);
    });
}

/// Many tokens: panels of unpacked rows meet tiles of tokens.
fn tiles(
    l: &Linear,
    kernels: &Kernels,
    size: Size,
    row_bytes: usize,
    x: &Acts,
    out: Shared<f32>,
    memory: &mut Carver,
) {
    let (rows, step) = (kernels.panel_rows, kernels.tile_tokens);
    let (panels, tiles) = (size.n.div_ceil(rows), size.tokens.div_ceil(step));
    // Tokens are split too where there are few panels: each part unpacks for itself, so parts are large.
    let parts = (4 * l.pool.threads()).div_ceil(panels).min(tiles * step / 64).max(1);
    let (nq, nd) = panel(kernels, size.k);
    let threads = l.pool.threads();
    let q: &mut [u8] = memory.take(threads * nq.next_multiple_of(64));
    let d: &mut [f32] = memory.take(threads * nd.next_multiple_of(16));
    let m: &mut [f32] = memory.take(threads * nd.next_multiple_of(16));
    let memory = (Shared(q.as_mut_ptr()), Shared(d.as_mut_ptr()), Shared(m.as_mut_ptr()));
    // Neighbouring panels go to one thread, which asks for the next one's weights in time.
    let items = panels * parts;
    let matrix = Matrix { kernels: *kernels, w: l.w, packed: l.packed, row_bytes, n: size.n, k: size.k };
    let tasks = items.div_ceil((items / (8 * threads)).clamp(1, 4));
    let compute = |item: usize, thread: usize| {
        // SAFETY: each thread has a panel of its own.
        let mut panel = unsafe {
            Panel {
                q: memory.0.slice(thread * nq.next_multiple_of(64), nq),
                d: memory.1.slice(thread * nd.next_multiple_of(16), nd),
                m: memory.2.slice(thread * nd.next_multiple_of(16), nd),
            }
        };
        let (from, part) = (item % panels * rows, item / panels);
        let mine = tiles * part / parts..tiles * (part + 1) / parts;
        let y = Out { at: out.at(from), stride: size.n };
        // SAFETY: these rows and tokens of the result belong to this task.
        unsafe { matrix.meet(from, x, mine, l.bias, size.finer, y, &mut panel) };
    };
    l.pool.run(tasks, &|task, thread| {
        (items * task / tasks..items * (task + 1) / tasks).for_each(|item| compute(item, thread));
    });
}

/// Numbers of the largest tile of any instruction set.
const ASIDE: usize = 256;

/// Weights `(N, K)` and the kernels for them.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub kernels: Kernels,
    /// as stored
    pub w: &'a [u8],
    /// laid out anew
    pub packed: Option<&'a [u8]>,
    pub row_bytes: usize,
    pub n: usize,
    pub k: usize,
}

impl Matrix<'_> {
    /// Tokens of the tiles in which [`Matrix::by_one`] wants so many.
    pub fn tile(&self, tokens: usize) -> usize {
        let streamed = !by_tiles(&self.kernels, tokens, self.packed.is_some());
        let alone = tokens == 1 || self.kernels.direct.is_none() || self.packed.is_none();
        if streamed && alone { 1 } else { self.kernels.tile_tokens }
    }

    /// Products of some rows, which begin with a whole panel, with all tokens of `x`, by one thread. Tiles of one token
    /// are fine too where not many are given.
    ///
    /// # Safety
    /// As of [`Matrix::meet`], `out` being at the first token and the first of the rows.
    pub unsafe fn by_one(&self, rows: Range<usize>, x: &Acts, out: Out, panel: &mut Panel) {
        let kernels = &self.kernels;
        if by_tiles(kernels, x.tokens, self.packed.is_some()) {
            let tiles = x.tokens.div_ceil(kernels.tile_tokens);
            for from in rows.clone().step_by(kernels.panel_rows) {
                let out = Out { at: out.at.wrapping_add(from - rows.start), ..out };
                // SAFETY: as the caller says; the last panel may be the matrix's last, which is not whole.
                unsafe { self.meet(from, x, 0..tiles, None, false, out, panel) };
            }
            return;
        }
        let Some((direct, panels)) = kernels.direct.zip(self.packed) else {
            let w = &self.w[rows.start * self.row_bytes..rows.end * self.row_bytes];
            // SAFETY: as the caller says.
            return unsafe { (kernels.rows)(w, x, out) };
        };
        let bytes = panels.len() / (self.n / packed::ROWS);
        let w = &panels[rows.start / packed::ROWS * bytes..rows.end / packed::ROWS * bytes];
        for tile in 0..x.tokens.div_ceil(x.tile) {
            let tokens = x.tile.min(x.tokens - tile * x.tile);
            let out = Out { at: out.at.wrapping_add(tile * x.tile * out.stride), ..out };
            // SAFETY: as the caller says.
            unsafe { (direct.run)(w, x, tile, tokens, out) };
        }
    }

    /// The panel of rows from `from` on is unpacked, piece by piece, and meets `tiles` of the tokens of `x`.
    ///
    /// # Safety
    /// The processor has the kernels' instruction set; the panel has room for them; `out`, at the first token and row
    /// `from`, is writable for these tokens and rows, and nobody else uses them.
    #[allow(clippy::too_many_arguments)]
    unsafe fn meet(
        &self,
        from: usize,
        x: &Acts,
        tiles: Range<usize>,
        bias: Option<&[f32]>,
        finer: bool,
        out: Out,
        panel: &mut Panel,
    ) {
        let Matrix { kernels, row_bytes, .. } = self;
        let (rows, step) = (kernels.panel_rows, kernels.tile_tokens);
        let (wanted, all) = (rows.min(self.n - from), x.tokens.div_ceil(step));
        let w = &self.w[from * row_bytes..(from + wanted) * row_bytes];
        for k in (0..self.k).step_by(PANEL_K) {
            let (first, groups) = (k / GROUP, PANEL_K.min(self.k - k) / GROUP);
            match kernels.direct.zip(self.packed) {
                // SAFETY: the processor has the instruction set, and the panel is large enough.
                Some((direct, all)) => unsafe {
                    (direct.unpack)(all, from, self.k / GROUP, first, groups, panel)
                },
                // SAFETY: likewise.
                None => unsafe { (kernels.unpack)(w, *row_bytes, first, groups, panel) },
            }
            for tile in tiles.clone() {
                let tokens = step.min(x.tokens - tile * step);
                let at = out.at.wrapping_add(tile * step * out.stride);
                // SAFETY: these rows and tokens of the result are the caller's.
                let row =
                    |t: usize| unsafe { std::slice::from_raw_parts_mut(at.add(t * out.stride), wanted) };
                let mut part = Part { tile, tokens, first, groups, accumulate: k > 0 };
                if k == 0
                    && let Some(bias) = bias
                {
                    part.accumulate = true;
                    (0..tokens).for_each(|t| row(t).copy_from_slice(&bias[from..from + wanted]));
                }
                // The activations, and what they leave over.
                for tile in [Some(tile), finer.then_some(all + tile)].into_iter().flatten() {
                    part.tile = tile;
                    if wanted == rows {
                        // SAFETY: the processor has the instruction set, and these rows and tokens are the caller's.
                        unsafe { (kernels.tile)(panel, x, part, Out { at, stride: out.stride }) };
                    } else {
                        // A whole panel is computed aside, and what is wanted of it is taken.
                        let mut aside = [0f32; ASIDE];
                        let whole = Out { at: aside.as_mut_ptr(), stride: rows };
                        assert!(rows * step <= ASIDE);
                        // SAFETY: the processor has the instruction set, and `aside` has room for the panel.
                        unsafe { (kernels.tile)(panel, x, Part { accumulate: false, ..part }, whole) };
                        for t in 0..tokens {
                            for (y, a) in row(t).iter_mut().zip(&aside[t * rows..]) {
                                *y = if part.accumulate { *y + a } else { *a };
                            }
                        }
                    }
                    part.accumulate = true;
                }
            }
        }
    }
}
