//! Experts in whole numbers. Tokens are put together by the expert they chose, and some experts at a time make a round of
//! three jobs: all gates and ups, rounding what they give to 8 bits, all downs. With one token that is one round.

use super::{Sizes, Weight};
use crate::exec::{Call, Cpu};
use crate::isa::isa;
use crate::ops::glu;
use crate::ops::linear::fast::{Matrix, panel};
use crate::ops::linear::{Carver, Shared, carved};
use crate::quant::acts::{self, Acts, ActsMut, GROUP};
use crate::quant::{Kernels, Out, Panel, kernels};
use hob_graph::{Act, DType};
use std::ops::Range;

/// Experts of a round, at most.
const EXPERTS: usize = 32;
/// Pairs of a token and an expert in a round, unless there are more tokens: an expert may be chosen by all.
const PAIRS: usize = 16;
/// Rows of a matrix that are computed at once: a multiple of every panel.
const ROWS: usize = 64;
/// Values quantized by one task.
const QUANTIZE: usize = 16 << 10;

/// An expert of a round.
#[derive(Clone, Copy)]
struct Group<'a> {
    /// its tokens, among the pairs of the round
    pairs: (usize, usize),
    /// where its quantized tokens begin, in rows, and those of what gates and ups give
    at: [usize; 2],
    /// tokens of a tile of either
    tile: [usize; 2],
    /// gate, up, down
    weights: [Matrix<'a>; 3],
}

impl Group<'_> {
    fn len(&self) -> usize {
        self.pairs.1 - self.pairs.0
    }
}

/// What holds for all formats: rows of a panel and tokens of a tile.
fn any() -> Kernels {
    kernels(DType::Q8_0, isa()).expect("every instruction set has kernels for Q8_0")
}

/// Pairs of a round, and rows of quantized values, where tiles are filled up.
fn most(s: &Sizes) -> (usize, usize) {
    let pairs = s.tokens.max(PAIRS).min(s.tokens * s.experts);
    (pairs, pairs + EXPERTS.min(s.experts).min(pairs) * (any().tile_tokens - 1))
}

/// Numbers of a thread's panel: values, scales.
fn panels(s: &Sizes) -> (usize, usize) {
    let split = Kernels { scales: 2, ..any() };
    let (q, d) = panel(&split, s.channels.max(s.inner));
    (q.next_multiple_of(64), d.next_multiple_of(16))
}

/// Bytes of rows of quantized values.
fn acts_bytes(rows: usize, k: usize) -> usize {
    let scales = rows * (k / GROUP);
    carved::<i8>(rows * k) + 2 * carved::<f32>(scales) + carved::<f32>(2 * scales)
}

/// Bytes of working memory.
pub fn scratch(cpu: &Cpu, s: &Sizes) -> usize {
    let ((pairs, rows), threads, (q, d)) = (most(s), cpu.pool.threads(), panels(s));
    let lists = carved::<u32>(pairs) + carved::<f32>(pairs);
    let values = acts_bytes(rows, s.channels) + acts_bytes(rows, s.inner) + carved::<f32>(pairs * s.inner);
    let aside = carved::<f32>(threads * any().tile_tokens * s.channels);
    let blocks = 2 * carved::<f32>(threads * pairs * ROWS);
    64 + lists + values + aside + blocks + carved::<u8>(threads * q) + 2 * carved::<f32>(threads * d)
}

/// Quantized rows that threads write.
#[derive(Clone, Copy)]
struct Rows {
    groups: usize,
    len: usize,
    q: Shared<i8>,
    d: Shared<f32>,
    sums: Shared<f32>,
    half_sums: Shared<f32>,
}

impl Rows {
    fn take(memory: &mut Carver, len: usize, k: usize) -> Rows {
        let groups = k / GROUP;
        Rows {
            groups,
            len,
            q: Shared(memory.take::<i8>(len * k).as_mut_ptr()),
            d: Shared(memory.take::<f32>(len * groups).as_mut_ptr()),
            sums: Shared(memory.take::<f32>(len * groups).as_mut_ptr()),
            half_sums: Shared(memory.take::<f32>(2 * len * groups).as_mut_ptr()),
        }
    }

    /// # Safety
    /// Nobody else uses these rows.
    unsafe fn write<'s>(self, at: usize, n: usize) -> ActsMut<'s> {
        assert!(at + n <= self.len);
        let (at, n) = (at * self.groups, n * self.groups);
        // SAFETY: within the memory, and as the caller says.
        unsafe {
            ActsMut {
                q: self.q.slice(at * GROUP, n * GROUP),
                d: self.d.slice(at, n),
                sums: self.sums.slice(at, n),
                half_sums: self.half_sums.slice(2 * at, 2 * n),
            }
        }
    }

    /// # Safety
    /// Nobody writes these rows meanwhile.
    unsafe fn read<'s>(self, at: usize, tokens: usize, tile: usize) -> Acts<'s> {
        let rows = tokens.next_multiple_of(tile);
        assert!(at + rows <= self.len);
        let (at, n) = (at * self.groups, rows * self.groups);
        // SAFETY: within the memory, and as the caller says.
        unsafe {
            let (q, d) = (self.q.read(at * GROUP, n * GROUP), self.d.read(at, n));
            let (sums, half_sums) = (self.sums.read(at, n), self.half_sums.read(2 * at, 2 * n));
            Acts { tokens, tile, groups: self.groups, q, d, sums, half_sums }
        }
    }
}

/// Memory of one thread at a time, out of that of all.
#[derive(Clone, Copy)]
struct Own {
    panel: (Shared<u8>, Shared<f32>, Shared<f32>),
    size: (usize, usize),
    blocks: [Shared<f32>; 2],
    block: usize,
}

impl Own {
    /// # Safety
    /// The thread has a number of its own, and drops what it got before.
    unsafe fn of<'s>(self, thread: usize) -> (Panel<'s>, [&'s mut [f32]; 2]) {
        let (nq, nd) = self.size;
        // SAFETY: as the caller says; there is as much for each thread.
        unsafe {
            let panel = Panel {
                q: self.panel.0.slice(thread * nq, nq),
                d: self.panel.1.slice(thread * nd, nd),
                m: self.panel.2.slice(thread * nd, nd),
            };
            (panel, self.blocks.map(|b| b.slice(thread * self.block, self.block)))
        }
    }
}

/// Runs the node of `c`, whose result is all zeros.
pub fn run(c: &mut Call, s: &Sizes, act: Act) {
    let (x, shares, pool) = (c.x(0).f32s(), c.x(1).f32s(), &c.cpu.pool);
    let ((most, rows), threads, size) = (most(s), pool.threads(), panels(s));
    let mut memory = Carver::new(std::mem::take(&mut c.scratch));
    let (tokens, by) = (memory.take::<u32>(most), memory.take::<f32>(most));
    let [xs, hs] = [s.channels, s.inner].map(|k| Rows::take(&mut memory, rows, k));
    let h = Shared(memory.take::<f32>(most * s.inner).as_mut_ptr());
    let aside = Shared(memory.take::<f32>(threads * any().tile_tokens * s.channels).as_mut_ptr());
    let mut floats = |n: usize| Shared(memory.take::<f32>(threads * n).as_mut_ptr());
    let blocks = [floats(most * ROWS), floats(most * ROWS)];
    let (d, m) = (floats(size.1), floats(size.1));
    let q = Shared(memory.take::<u8>(threads * size.0).as_mut_ptr());
    let own = Own { panel: (q, d, m), size, blocks, block: most * ROWS };
    let out = Shared(c.out.as_mut_ptr());

    let mut next = 0;
    while next < s.experts {
        // A round: as many experts, in order, as there is room for.
        let mut groups: [Option<Group>; EXPERTS] = [None; EXPERTS];
        let (mut count, mut pairs, mut ends) = (0, 0, [0; 2]);
        while next < s.experts && count < EXPERTS {
            let chosen = || (0..s.tokens).filter(|t| shares[t * s.experts + next] != 0.0);
            let n = chosen().count();
            if pairs + n > most {
                break;
            }
            if n > 0 {
                for (i, t) in chosen().enumerate() {
                    (tokens[pairs + i], by[pairs + i]) = (t as u32, shares[t * s.experts + next]);
                }
                let matrix = |which| Weight::of(c, s, next, which).matrix().expect("formats with kernels");
                let weights = [0, 1, 2].map(matrix);
                let tile = [weights[0].tile(n).min(weights[1].tile(n)), weights[2].tile(n)];
                // One token's values are the same for all experts.
                let at = [if s.tokens == 1 { 0 } else { ends[0] }, ends[1]];
                groups[count] = Some(Group { pairs: (pairs, pairs + n), at, tile, weights });
                (count, pairs) = (count + 1, pairs + n);
                ends = [0, 1].map(|i| ends[i] + n.next_multiple_of(tile[i]));
            }
            next += 1;
        }
        let groups = &groups[..count];
        let group = |i: usize| groups[i].as_ref().expect("a group of the round");
        let tokens = &tokens[..pairs];

        // The tokens in 8 bits, in tiles of those that chose the same expert.
        let work = |i: usize, thread: usize| {
            let g = group(i);
            let (tile, c) = (g.tile[0], s.channels);
            for first in (g.pairs.0..g.pairs.1).step_by(tile) {
                let mine = &tokens[first..g.pairs.1.min(first + tile)];
                // SAFETY: each thread has memory of its own, and each group rows of its own.
                let (rows, to) = unsafe {
                    (
                        aside.slice(thread * any().tile_tokens * c, mine.len() * c),
                        xs.write(g.at[0] + first - g.pairs.0, tile),
                    )
                };
                for (row, t) in rows.chunks_exact_mut(c).zip(mine) {
                    row.copy_from_slice(&x[*t as usize * c..][..c]);
                }
                acts::quantize(rows, c, tile, to, None);
            }
        };
        let quantized = if s.tokens == 1 { count.min(1) } else { count };
        let least = QUANTIZE.div_ceil(s.channels * pairs.div_ceil(count.max(1)).max(1));
        pool.split(quantized, least, |range, thread| range.for_each(|i| work(i, thread)));

        // Gates and ups, some rows of an expert at a time.
        let parts = s.inner.div_ceil(ROWS);
        pool.run(count * parts, &|item, thread| {
            let (g, rows) = (group(item / parts), part(item % parts, s.inner));
            // SAFETY: each thread has memory of its own; the quantized tokens are only read now; each item has rows and
            // pairs of `h` of its own; the processor has the instruction set.
            unsafe {
                let (mut panel, [gate, up]) = own.of(thread);
                let x = xs.read(g.at[0], g.len(), g.tile[0]);
                for (w, to) in g.weights.iter().zip([&mut *gate, &mut *up]) {
                    let to = Out { at: to.as_mut_ptr(), stride: ROWS };
                    w.by_one(rows.clone(), &x, to, &mut panel);
                }
                for i in 0..g.len() {
                    let to = h.slice((g.pairs.0 + i) * s.inner + rows.start, rows.len());
                    let [gate, up] = [&*gate, &*up].map(|b| &b[i * ROWS..][..rows.len()]);
                    glu::kernel(act)(gate, up, to);
                }
            }
        });

        // That in 8 bits.
        let least = QUANTIZE.div_ceil(s.inner * pairs.div_ceil(count.max(1)).max(1));
        pool.split(count, least, |range, _| {
            for g in range.map(group) {
                let tile = g.tile[1];
                for first in (0..g.len()).step_by(tile) {
                    let n = tile.min(g.len() - first);
                    // SAFETY: `h` is only read now, and each group has rows of its own.
                    unsafe {
                        let h = h.slice((g.pairs.0 + first) * s.inner, n * s.inner);
                        acts::quantize(h, s.inner, tile, hs.write(g.at[1] + first, tile), None);
                    }
                }
            }
        });

        // Downs: some rows of all experts at a time, as they add up to the same numbers.
        let parts = s.channels.div_ceil(ROWS);
        pool.run(if count > 0 { parts } else { 0 }, &|item, thread| {
            let rows = part(item, s.channels);
            for g in (0..count).map(group) {
                // SAFETY: as above; each item has rows of the result of its own.
                unsafe {
                    let (mut panel, [block, _]) = own.of(thread);
                    let h = hs.read(g.at[1], g.len(), g.tile[1]);
                    let to = Out { at: block.as_mut_ptr(), stride: ROWS };
                    g.weights[2].by_one(rows.clone(), &h, to, &mut panel);
                    for (i, pair) in (g.pairs.0..g.pairs.1).enumerate() {
                        let sums = out.slice(tokens[pair] as usize * s.channels + rows.start, rows.len());
                        let share = by[pair];
                        sums.iter_mut().zip(&block[i * ROWS..]).for_each(|(sum, y)| *sum += share * y);
                    }
                }
            }
        });
    }
}

/// Part `i` of `n` rows.
fn part(i: usize, n: usize) -> Range<usize> {
    i * ROWS..n.min((i + 1) * ROWS)
}
