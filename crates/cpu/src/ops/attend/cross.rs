//! Attention over parts known when the graph is built.
//!
//! Scores lie turned, keys by queries: so a strip of [`WIDTH`] queries is all that is laid out anew, keys and values being
//! the left operands of both products, and the softmax goes through the keys without sums across a vector. A task is a
//! strip of one head; its scores of a block of keys never leave the first cache.

use super::panel::{LANES, Lanes, Plain};
use crate::exec::{Call, Cpu};
#[cfg(target_arch = "x86_64")]
use crate::isa::{Isa, isa};
use crate::ops::gemm::{HEIGHT, Rows, WIDTH, tile, tile_turned};
use crate::ops::rows::Shared;
use hob_graph::{Cross, Graph, Node};

/// Keys of a block.
const BLOCK: usize = 132;

/// One number for each query of a strip.
type Strip = [f32; WIDTH];

/// What all tasks share.
struct Size {
    parts: usize,
    /// queries of a part
    queries: usize,
    /// keys of a part
    keys: usize,
    heads: usize,
    kv_heads: usize,
    dim: usize,
}

impl Size {
    fn of(graph: &Graph, node: &Node, how: Cross) -> Size {
        let (q, k, parts) = (node.shape, graph.node(node.inputs[1]).shape, how.parts as usize);
        Size { parts, queries: q[0] / parts, keys: k[0] / parts, heads: q[1], kv_heads: k[1], dim: q[2] }
    }

    /// Numbers of keys, and as many of values, head by head.
    fn laid(&self) -> usize {
        self.parts * self.kv_heads * self.keys * self.dim
    }

    /// Strips of a thread: queries and sums, each of D rows, scores, and what is known of the queries.
    fn strips(&self) -> usize {
        self.dim + self.dim.next_multiple_of(HEIGHT) + BLOCK + 3
    }
}

/// Bytes of working memory.
pub fn scratch(cpu: &Cpu, graph: &Graph, node: &Node, how: Cross) -> usize {
    let s = Size::of(graph, node, how);
    4 * (cpu.pool.threads() * s.strips() * WIDTH + 2 * s.laid())
}

/// Runs the node of `c`.
pub fn run(c: &mut Call, how: Cross) {
    let (s, pool) = (Size::of(c.graph, c.node, how), &c.cpu.pool);
    let [q, k, v] = [c.x(0).f32s(), c.x(1).f32s(), c.x(2).f32s()];
    let bias = (c.arity() == 4).then(|| c.x(3).f32s());
    if c.out.is_empty() {
        return;
    }
    // SAFETY: the plan's scratch is aligned and as large as `scratch` says; any bits are an f32.
    let scratch = unsafe { c.scratch.align_to_mut::<f32>().1 };
    let (working, laid) = scratch.split_at_mut(pool.threads() * s.strips() * WIDTH);
    let (keys, values) = laid[..2 * s.laid()].split_at_mut(s.laid());
    for (from, to) in [(k, &mut *keys), (v, &mut *values)] {
        by_head(&s, pool, from, to);
    }
    let (keys, values): (&[f32], &[f32]) = (keys, values);
    let (working, out) = (Shared(working.as_mut_ptr()), Shared(c.out.as_mut_ptr()));
    let strips = s.queries.div_ceil(WIDTH);
    pool.run(s.parts * s.heads * strips, &|task, thread| {
        let (head, strip) = (task / strips, task % strips);
        let (part, head) = (head / s.heads, head % s.heads);
        // SAFETY: each thread has its own part of the working memory.
        let memory = unsafe { working.slice(thread * s.strips() * WIDTH, s.strips() * WIDTH) };
        let memory = memory.as_chunks_mut::<WIDTH>().0;
        let (queries, rest) = memory.split_at_mut(s.dim);
        let (sums, rest) = rest.split_at_mut(s.dim.next_multiple_of(HEIGHT));
        let (scores, known) = rest.split_at_mut(BLOCK);
        let [largest, weight, keep] = known else { unreachable!("three strips are left") };

        let first = strip * WIDTH;
        let count = WIDTH.min(s.queries - first);
        let row = |i: usize| ((part * s.queries + first + i) * s.heads + head) * s.dim;
        queries.fill([0.0; WIDTH]);
        for i in 0..count {
            for (to, q) in queries.iter_mut().zip(&q[row(i)..]) {
                to[i] = q * how.scale;
            }
        }
        (*largest, *weight) = ([f32::NEG_INFINITY; WIDTH], [0.0; WIDTH]);
        let kv = (part * s.kv_heads + head / (s.heads / s.kv_heads)) * s.keys * s.dim;
        let seen = if how.causal { first + count } else { s.keys };
        for from in (0..seen).step_by(BLOCK) {
            let block = BLOCK.min(seen - from);
            let at = |x: &'_ [f32]| kv + from * s.dim..x.len();
            let scores = &mut scores[..block];
            for j in (0..block).step_by(HEIGHT) {
                let count = HEIGHT.min(block - j);
                let keys = Rows { at: &keys[at(keys)][j * s.dim..], stride: s.dim, count };
                tile(keys, queries, &mut scores[j..], true);
            }
            if let Some(bias) = bias {
                let bias = &bias[head * (s.queries + s.keys - 1)..][..s.queries + s.keys - 1];
                for (j, scores) in scores.iter_mut().enumerate() {
                    let of = |i: usize| from + j + s.queries - 1 - (first + i);
                    (0..count).for_each(|i| scores[i] += bias[of(i)]);
                }
            }
            if how.causal {
                for (j, scores) in scores.iter_mut().enumerate() {
                    let blind = (from + j).saturating_sub(first).min(WIDTH);
                    scores[..blind].fill(f32::NEG_INFINITY);
                }
            }
            weigh(scores, largest, weight, keep);
            if from > 0 {
                sums.iter_mut().for_each(|sums| sums.iter_mut().zip(&*keep).for_each(|(s, keep)| *s *= keep));
            }
            for d in (0..s.dim).step_by(HEIGHT) {
                let count = HEIGHT.min(s.dim - d);
                let values = Rows { at: &values[at(values)][d..], stride: s.dim, count };
                tile_turned(values, scores, &mut sums[d..], from == 0);
            }
        }
        for i in 0..count {
            // SAFETY: rows and heads of different tasks are different.
            let y = unsafe { out.slice(row(i), s.dim) };
            let norm = 1.0 / weight[i];
            y.iter_mut().zip(&*sums).for_each(|(y, sums)| *y = sums[i] * norm);
        }
    });
}

/// Keys or values `(N·S, K, D)` as `(N, K, S, D)`, so that those of a head lie side by side.
fn by_head(s: &Size, pool: &crate::Pool, x: &[f32], to: &mut [f32]) {
    let to = Shared(to.as_mut_ptr());
    pool.run(s.parts * s.kv_heads, &|task, _| {
        let (part, head) = (task / s.kv_heads, task % s.kv_heads);
        // SAFETY: each task writes a head of its own.
        let to = unsafe { to.slice(task * s.keys * s.dim, s.keys * s.dim) };
        for (j, to) in to.chunks_exact_mut(s.dim).enumerate() {
            to.copy_from_slice(&x[((part * s.keys + j) * s.kv_heads + head) * s.dim..][..s.dim]);
        }
    });
}

/// Scores `(keys, queries)` become e^(score - largest of the query), and what is known of the queries is carried on:
/// their largest scores, -inf at first, their weights, and what earlier weights are multiplied by.
fn weigh(scores: &mut [Strip], largest: &mut Strip, weight: &mut Strip, keep: &mut Strip) {
    #[cfg(target_arch = "x86_64")]
    match isa() {
        // SAFETY: the processor has what is called.
        Isa::Avx512 => return unsafe { super::x86::weigh_columns_avx512(scores, largest, weight, keep) },
        // SAFETY: likewise.
        set if set >= Isa::Avx2 => {
            return unsafe { super::x86::weigh_columns_avx2(scores, largest, weight, keep) };
        }
        _ => {}
    }
    // SAFETY: plain code needs nothing of the processor.
    unsafe { columns_of::<Plain>(scores, largest, weight, keep) }
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
            for (j, scores) in scores.iter_mut().enumerate() {
                let to = scores.as_mut_ptr().add(at);
                let e = L::load(to).plus(less).exp();
                e.store(to);
                sums[j % 4] = sums[j % 4].plus(e);
            }
            let sum = sums[0].plus(sums[1]).plus(sums[2].plus(sums[3]));
            let kept = before.plus(less).exp(); // 0 in the first block
            kept.store(keep.as_mut_ptr().add(at));
            best.store(largest.as_mut_ptr().add(at));
            sum.add_product(L::load(weight.as_ptr().add(at)), kept).store(weight.as_mut_ptr().add(at));
        }
    }
}
