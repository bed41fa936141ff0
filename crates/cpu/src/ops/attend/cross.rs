//! Attention over parts known when the graph is built.
//!
//! Scores lie turned, keys by queries: so a strip of [`WIDTH`] queries is all that is laid out anew, keys and values being
//! the left operands of both products, and the softmax goes through the keys without sums across a vector. A task is a
//! strip of one head; its scores, in powers of two, of a block of keys never leave the first cache. Keys and values are laid
//! out once as the products read them: a tile's numbers side by side.

use super::panel::{LANES, Lanes, Plain};
#[cfg(target_arch = "x86_64")]
use super::tiles;
#[cfg(target_arch = "x86_64")]
use crate::exec::Precision;
use crate::exec::{Call, Cpu};
use crate::isa::for_each_width;
#[cfg(target_arch = "x86_64")]
use crate::isa::{Isa, isa};
use crate::ops::gemm::{HEIGHT, Rows, WIDTH, prefetch, tile_turned};
use crate::ops::rows::Shared;
use crate::ops::turn;
use hob_graph::{Cross, Graph, Node};
use std::{f32::consts::LOG2_E, ops::Range};

/// Strips of a task, which share what they read of keys and values.
const STRIPS: usize = 2;
/// Keys of a block.
const BLOCK: usize = 132;

/// One number for each query of a strip.
pub(super) type Strip = [f32; WIDTH];

/// What all tasks share.
pub(super) struct Size {
    pub parts: usize,
    /// queries of a part
    pub queries: usize,
    /// keys of a part
    pub keys: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub dim: usize,
}

impl Size {
    fn of(graph: &Graph, node: &Node, how: Cross) -> Size {
        let (q, k, parts) = (node.shape, graph.node(node.inputs[1]).shape, how.parts as usize);
        Size { parts, queries: q[0] / parts, keys: k[0] / parts, heads: q[1], kv_heads: k[1], dim: q[2] }
    }

    /// Numbers of the keys of a head, in whole tiles, and at most as many of values.
    fn laid(&self) -> usize {
        self.keys.next_multiple_of(HEIGHT) * self.dim
    }

    /// Numbers of keys, and as many of values, of all heads.
    fn all(&self) -> usize {
        self.parts * self.kv_heads * self.laid()
    }

    /// Places of a value that a tile computes: tiles about equally high, as few sums would wait for each other.
    fn tiles(&self) -> impl Iterator<Item = Range<usize>> {
        let (dim, tiles) = (self.dim, self.dim.div_ceil(HEIGHT));
        (0..tiles).map(move |i| dim * i / tiles..dim * (i + 1) / tiles)
    }

    /// Numbers by query of a thread: queries and sums, each of D rows, scores, and what is known of the queries.
    fn strips(&self) -> usize {
        STRIPS * (self.dim + self.dim.next_multiple_of(HEIGHT) + BLOCK + 3)
    }
}

#[cfg(target_arch = "x86_64")]
fn by_tiles(cpu: &Cpu) -> bool {
    cpu.precision == Precision::Fast && isa() >= Isa::Amx
}

/// Bytes of working memory.
pub fn scratch(cpu: &Cpu, graph: &Graph, node: &Node, how: Cross) -> usize {
    let s = Size::of(graph, node, how);
    #[cfg(target_arch = "x86_64")]
    if by_tiles(cpu) {
        return tiles::scratch(&s, &cpu.pool);
    }
    4 * (cpu.pool.threads() * s.strips() * WIDTH + 2 * s.all())
}

/// Runs the node of `c`.
pub fn run(c: &mut Call, how: Cross) {
    let (s, pool) = (Size::of(c.graph, c.node, how), &c.cpu.pool);
    let [q, k, v] = [c.x(0).f32s(), c.x(1).f32s(), c.x(2).f32s()];
    let bias = (c.arity() == 4).then(|| c.x(3).f32s());
    if c.out.is_empty() {
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if by_tiles(c.cpu) {
        let x = tiles::Operands { q, k, v, bias };
        return tiles::run(&s, pool, x, how.scale, how.causal, c.out, c.scratch);
    }
    // SAFETY: the plan's scratch is aligned and as large as `scratch` says; any bits are an f32.
    let scratch = unsafe { c.scratch.align_to_mut::<f32>().1 };
    let (working, laid) = scratch.split_at_mut(pool.threads() * s.strips() * WIDTH);
    let (keys, values) = laid[..2 * s.all()].split_at_mut(s.all());
    lay(&s, pool, [k, v], [keys, values]);
    let (keys, values): (&[f32], &[f32]) = (keys, values);
    let (working, out) = (Shared(working.as_mut_ptr()), Shared(c.out.as_mut_ptr()));
    let tasks = s.queries.div_ceil(STRIPS * WIDTH);
    pool.run(s.parts * s.heads * tasks, &|task, thread| {
        let (head, first) = (task / tasks, task % tasks * STRIPS * WIDTH);
        let (part, head) = (head / s.heads, head % s.heads);
        // SAFETY: each thread has its own part of the working memory.
        let memory = unsafe { working.slice(thread * s.strips() * WIDTH, s.strips() * WIDTH) };
        let mut rest = memory.as_chunks_mut::<WIDTH>().0;
        let mut strips: [Part; STRIPS] = std::array::from_fn(|i| {
            let first = first + i * WIDTH;
            let mut take = |n: usize| {
                let (taken, left) = std::mem::take(&mut rest).split_at_mut(n);
                rest = left;
                taken
            };
            let known = take(3).first_chunk_mut().expect("three are taken");
            Part {
                first,
                count: WIDTH.min(s.queries.saturating_sub(first)),
                queries: take(s.dim),
                sums: take(s.dim.next_multiple_of(HEIGHT)),
                scores: take(BLOCK),
                known,
            }
        });
        let row = |i: usize| ((part * s.queries + i) * s.heads + head) * s.dim;
        // Rows lie far apart: asked for together, they come together.
        for i in first..s.queries.min(first + STRIPS * WIDTH) {
            prefetch(q, row(i), s.dim);
            // SAFETY: rows and heads of different tasks are different.
            prefetch(unsafe { out.slice(row(i), s.dim) }, 0, s.dim);
        }
        for strip in &mut strips {
            strip.load(how.scale * LOG2_E, |i| &q[row(i)..]);
        }
        let kv = (part * s.kv_heads + head / (s.heads / s.kv_heads)) * s.laid();
        let kv = [&keys[kv..][..s.laid()], &values[kv..][..s.laid()]];
        let bias = bias.map(|b| &b[head * (s.queries + s.keys - 1)..][..s.queries + s.keys - 1]);
        let seen = if how.causal { s.keys.min(first + STRIPS * WIDTH) } else { s.keys };
        for from in (0..seen).step_by(BLOCK) {
            let block = from..seen.min(from + BLOCK);
            for strip in strips.iter_mut().filter(|s| s.count > 0) {
                strip.attend(&s, block.clone(), kv, bias, how.causal);
            }
        }
        for strip in &strips {
            // SAFETY: rows and heads of different tasks are different.
            strip.finish(s.dim, |i| unsafe { out.slice(row(strip.first + i), s.dim) });
        }
    });
}

/// A strip of queries of one head.
struct Part<'a> {
    first: usize,
    /// less than [`WIDTH`] at the end
    count: usize,
    /// `(D)`, scaled
    queries: &'a mut [Strip],
    /// `(D)`, filled up to whole tiles
    sums: &'a mut [Strip],
    /// `(BLOCK)`
    scores: &'a mut [Strip],
    /// the largest score of each query, the sum of its weights relative to that, and what earlier sums are multiplied by
    known: &'a mut [Strip; 3],
}

impl Part<'_> {
    fn load<'q>(&mut self, scale: f32, row: impl Fn(usize) -> &'q [f32]) {
        if self.count < WIDTH {
            self.queries.fill([0.0; WIDTH]);
        }
        let (first, dim) = (self.first, self.queries.len());
        let row = |i: usize| &row(first + i)[..dim];
        for i in (0..self.count).step_by(turn::ROWS) {
            // Those that are missing are others once more, in places that are not looked at.
            let rows = std::array::from_fn(|j| row((i + j).min(self.count - 1)));
            turn::to_columns(rows, scale, self.queries, i);
        }
        *self.known = [[f32::NEG_INFINITY; WIDTH], [0.0; WIDTH], [1.0; WIDTH]];
    }

    /// Takes a block of keys and their values.
    fn attend(
        &mut self,
        s: &Size,
        block: Range<usize>,
        [keys, values]: [&[f32]; 2],
        bias: Option<&[f32]>,
        causal: bool,
    ) {
        let scores = &mut self.scores[..block.len()];
        for j in (0..block.len()).step_by(HEIGHT) {
            let count = HEIGHT.min(block.len() - j);
            let keys = Rows { at: &keys[(block.start + j) * s.dim..], stride: HEIGHT, count };
            tile_turned(keys, self.queries, &mut scores[j..], true);
        }
        let queries = self.first..self.first + self.count;
        by_distance(s, block.clone(), queries, scores, bias, causal);
        let [largest, weight, keep] = self.known;
        weigh(scores, largest, weight, keep);
        if block.start > 0 && keep.iter().any(|k| *k != 1.0) {
            rescale(self.sums, keep);
        }
        for part in s.tiles() {
            let at = &values[part.start * s.keys + block.start * part.len()..];
            let values = Rows { at, stride: part.len(), count: part.len() };
            tile_turned(values, scores, &mut self.sums[part.start..], block.start == 0);
        }
    }

    /// Writes the results `(D)` of all queries, each to where `row` says.
    fn finish<'y>(&self, dim: usize, row: impl Fn(usize) -> &'y mut [f32]) {
        let norm = |i: usize| 1.0 / self.known[1][i];
        let sums = &self.sums[..dim];
        let whole = self.count / turn::ROWS * turn::ROWS;
        for i in (0..whole).step_by(turn::ROWS) {
            let norms = std::array::from_fn(|j| norm(i + j));
            turn::to_rows(sums, i, &norms, std::array::from_fn(|j| row(i + j)));
        }
        for i in whole..self.count {
            row(i).iter_mut().zip(sums).for_each(|(y, sums)| *y = sums[i] * norm(i));
        }
    }
}

/// What the distance of a block's keys from a strip's queries does to their scores `(keys, queries)`: the bias is added, and
/// keys that come later are not seen where `causal`.
pub(super) fn by_distance(
    s: &Size,
    block: Range<usize>,
    queries: Range<usize>,
    scores: &mut [Strip],
    bias: Option<&[f32]>,
    causal: bool,
) {
    for (j, scores) in block.zip(scores).filter(|_| bias.is_some() || causal) {
        if let Some(bias) = bias {
            let of = |query: usize| j + s.queries - 1 - query;
            queries.clone().zip(&mut *scores).for_each(|(query, score)| *score += bias[of(query)] * LOG2_E);
        }
        if causal {
            scores[..j.saturating_sub(queries.start).min(WIDTH)].fill(f32::NEG_INFINITY);
        }
    }
}

/// Keys and values `(N·S, K, D)` become, for each part and head, keys in tiles `(S / HEIGHT, D, HEIGHT)`, and values
/// `(S, …)` for each of [`Size::tiles`].
fn lay(s: &Size, pool: &crate::Pool, [keys, values]: [&[f32]; 2], to: [&mut [f32]; 2]) {
    let [to_keys, to_values] = to.map(|to| Shared(to.as_mut_ptr()));
    pool.run(s.parts * s.kv_heads, &|task, _| {
        let (part, head) = (task / s.kv_heads, task % s.kv_heads);
        let at = |j: usize| ((part * s.keys + j) * s.kv_heads + head) * s.dim;
        // SAFETY: each task writes a head of its own.
        let (to_keys, to_values) =
            unsafe { (to_keys.slice(task * s.laid(), s.laid()), to_values.slice(task * s.laid(), s.laid())) };
        for (tile, to) in to_keys.chunks_exact_mut(HEIGHT * s.dim).enumerate() {
            for (i, j) in (tile * HEIGHT..s.keys.min((tile + 1) * HEIGHT)).enumerate() {
                let key = &keys[at(j)..][..s.dim];
                to.chunks_exact_mut(HEIGHT).zip(key).for_each(|(to, k)| to[i] = *k);
            }
        }
        for part in s.tiles() {
            let to = &mut to_values[part.start * s.keys..part.end * s.keys];
            for (j, to) in to.chunks_exact_mut(part.len()).enumerate() {
                to.copy_from_slice(&values[at(j)..][part.clone()]);
            }
        }
    });
}

for_each_width! {
    /// Multiplies each query's sums.
    pub(super) fn rescale(sums: &mut [Strip], by: &Strip) {
        sums.iter_mut().for_each(|sums| sums.iter_mut().zip(by).for_each(|(s, by)| *s *= by));
    }
}

/// Scores `(keys, queries)` become 2^(score - largest of the query), and what is known of the queries is carried on:
/// their largest scores, -inf at first, their weights, and what earlier weights are multiplied by.
fn weigh(scores: &mut [Strip], largest: &mut Strip, weight: &mut Strip, keep: &mut Strip) {
    #[cfg(target_arch = "x86_64")]
    match isa() {
        Isa::Avx512 | Isa::Amx => {
            // SAFETY: the processor has what is called.
            return unsafe { super::x86::weigh_columns_avx512(scores, largest, weight, keep) };
        }
        set if set >= Isa::Avx2 => {
            // SAFETY: likewise.
            return unsafe { super::x86::weigh_columns_avx2(scores, largest, weight, keep) };
        }
        _ => {}
    }
    // SAFETY: plain code needs nothing of the processor.
    unsafe { columns_of::<Plain>(scores, largest, weight, keep) }
}

/// Scores of some queries, from `at` on, become weights, which are added to `sum`.
///
/// # Safety
/// The processor has what `L` needs, and a strip LANES numbers from `at` on.
#[inline(always)] // a closure would be compiled for lesser processors
unsafe fn weigh_one<L: Lanes>(scores: &mut Strip, at: usize, less: L, sum: &mut L) {
    // SAFETY: as the caller says.
    unsafe {
        let to = scores.as_mut_ptr().add(at);
        let e = L::load(to).plus(less).exp2();
        e.store(to);
        *sum = sum.plus(e);
    }
}

/// # Safety
/// The processor has what `L` needs.
#[inline(always)]
pub unsafe fn columns_of<L: Lanes>(
    scores: &mut [Strip],
    largest: &mut Strip,
    weight: &mut Strip,
    keep: &mut Strip,
) {
    const { assert!(WIDTH.is_multiple_of(LANES)) };
    for at in (0..WIDTH).step_by(LANES) {
        // SAFETY: strips hold WIDTH numbers, and `at` with LANES more stays within.
        unsafe {
            let before = L::load(largest.as_ptr().add(at));
            let mut best = before;
            for scores in scores.iter() {
                best = best.most(L::load(scores.as_ptr().add(at)));
            }
            let less = best.times(L::splat(-1.0));
            // Four sums, as each addition waits for the one before.
            let mut sums = [L::splat(0.0); 4];
            let (fours, rest) = scores.as_chunks_mut::<4>();
            for [a, b, c, d] in fours {
                weigh_one(a, at, less, &mut sums[0]);
                weigh_one(b, at, less, &mut sums[1]);
                weigh_one(c, at, less, &mut sums[2]);
                weigh_one(d, at, less, &mut sums[3]);
            }
            for scores in rest {
                weigh_one(scores, at, less, &mut sums[0]);
            }
            let sum = sums[0].plus(sums[1]).plus(sums[2].plus(sums[3]));
            let kept = before.plus(less).exp2(); // 0 in the first block
            kept.store(keep.as_mut_ptr().add(at));
            best.store(largest.as_mut_ptr().add(at));
            sum.add_product(L::load(weight.as_ptr().add(at)), kept).store(weight.as_mut_ptr().add(at));
        }
    }
}
