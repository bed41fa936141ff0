//! Attention over parts known when the graph is built, by tiles of bf16 ([`crate::amx`]). As in [`super::cross`] scores lie
//! turned, keys by queries: keys, and values turned, are left operands that all tasks of a head share, a strip of queries
//! and its weights are right ones.
//!
//! Scores need three products of parts; where D is no multiple of a step, they are one product over the parts of D after
//! another: `[q, q', q]` by `[k, k, k']`, a prime being the lower part.
#![allow(unsafe_op_in_unsafe_fn)]

use super::cross::{Size, Strip, by_distance, rescale};
use super::panel::Lanes;
use super::x86::One;
use crate::Pool;
use crate::amx::{SIDE, Tiles, block, left_row, product, store_pairs, turn, turned};
use crate::ops::gemm::WIDTH;
use crate::ops::rows::Shared;
use std::arch::x86_64::*;
use std::f32::consts::LOG2_E;
use std::ops::Range;

/// Keys of a block.
const BLOCK: usize = 128;
/// Strips of a task at most: as they share what they read of keys and values, which a head may have too many of for the
/// second cache. Tasks of a thread at least, which they must leave.
const STRIPS: usize = 8;
const TASKS: usize = 4;
/// How far, in powers of two, a score may be above the largest one so far before all is measured by it.
const SLACK: f32 = 8.0;
/// D at most where its parts lie one after another.
const JOINT: usize = 256;
/// Bytes of a step of weights and values.
const STEP: usize = block::<2>();
const _: () = assert!(SIDE == WIDTH);

/// Bytes of operands.
struct Laid {
    /// whether D's parts lie one after another
    joint: bool,
    /// steps of a score
    steps: usize,
    /// of 32 keys, and of a strip of queries
    key: usize,
    /// of all keys of a head
    keys: usize,
    /// of 32 numbers of all values
    value: usize,
    /// of all values of a head
    values: usize,
}

impl Laid {
    fn of(s: &Size) -> Laid {
        let joint = s.dim <= JOINT && (3 * s.dim).div_ceil(SIDE) < 3 * s.dim.div_ceil(SIDE);
        let steps = if joint { 3 * s.dim } else { s.dim }.div_ceil(SIDE);
        let key = steps * if joint { block::<1>() } else { STEP };
        let blocks = s.keys.div_ceil(SIDE);
        let value = blocks * STEP;
        Laid { joint, steps, key, keys: blocks * key, value, values: s.dim.div_ceil(SIDE) * value }
    }

    /// Of a strip: queries, sums, and three numbers a query.
    fn strip(&self, s: &Size) -> usize {
        self.key + (s.dim.next_multiple_of(SIDE) + 3) * size_of::<Strip>()
    }

    /// What a thread works in: weights, scores, and strips.
    fn working(&self, s: &Size, pool: &Pool) -> usize {
        BLOCK / SIDE * STEP + BLOCK * size_of::<Strip>() + strips(s, pool) * self.strip(s)
    }
}

/// Strips of a task.
fn strips(s: &Size, pool: &Pool) -> usize {
    let all = s.queries.div_ceil(WIDTH);
    (s.parts * s.heads * all / (TASKS * pool.threads())).clamp(1, STRIPS.min(all.max(1)))
}

/// Bytes of working memory.
pub fn scratch(s: &Size, pool: &Pool) -> usize {
    let laid = Laid::of(s);
    pool.threads() * laid.working(s, pool) + s.parts * s.kv_heads * (laid.keys + laid.values)
}

/// Queries, keys, values, and biases by distance where there are any.
pub struct Operands<'a> {
    pub q: &'a [f32],
    pub k: &'a [f32],
    pub v: &'a [f32],
    pub bias: Option<&'a [f32]>,
}

/// Writes the result. The processor has AMX, and `scratch` is as large as said, and aligned.
pub fn run(
    s: &Size,
    pool: &Pool,
    x: Operands,
    scale: f32,
    causal: bool,
    out: &mut [f32],
    scratch: &mut [u8],
) {
    let laid = Laid::of(s);
    let (heads, per_thread) = (s.parts * s.kv_heads, laid.working(s, pool));
    let (working, operands) = scratch.split_at_mut(pool.threads() * per_thread);
    let (keys, values) = operands[..heads * (laid.keys + laid.values)].split_at_mut(heads * laid.keys);
    lay(s, &laid, pool, [x.k, x.v], [keys, values]);
    let (keys, values): (&[u8], &[u8]) = (keys, values);
    let (working, out) = (Shared(working.as_mut_ptr()), Shared(out.as_mut_ptr()));
    let wide = strips(s, pool) * WIDTH;
    let tasks = s.queries.div_ceil(wide);
    pool.run(s.parts * s.heads * tasks, &|task, thread| {
        let (head, first) = (task / tasks, task % tasks * wide);
        let (part, head) = (head / s.heads, head % s.heads);
        let row = |i: usize| ((part * s.queries + i) * s.heads + head) * s.dim;
        // SAFETY: each thread has its own part of the working memory.
        let memory = unsafe { working.slice(thread * per_thread, per_thread) };
        let (weights, rest) = memory.split_at_mut(BLOCK / SIDE * STEP);
        let (scores, rest) = rest.split_at_mut(BLOCK * size_of::<Strip>());
        let scores = strips_of(scores);
        let _tiles = Tiles::new();
        let mut strips = [const { None }; STRIPS];
        let firsts = (first..s.queries.min(first + wide)).step_by(WIDTH);
        for ((strip, first), mine) in strips.iter_mut().zip(firsts).zip(rest.chunks_exact_mut(laid.strip(s)))
        {
            let part = Part::of(s, &laid, first, mine);
            // SAFETY: the processor has AMX and so AVX-512; queries have room for whole blocks.
            unsafe { part.load(s, &laid, scale * LOG2_E, |i| &x.q[row(i)..][..s.dim]) };
            *strip = Some(part);
        }
        let kv = part * s.kv_heads + head / (s.heads / s.kv_heads);
        let kv = [&keys[kv * laid.keys..][..laid.keys], &values[kv * laid.values..][..laid.values]];
        let bias = x.bias.map(|b| &b[head * (s.queries + s.keys - 1)..][..s.queries + s.keys - 1]);
        let seen = if causal { s.keys.min(first + wide) } else { s.keys };
        for from in (0..seen).step_by(BLOCK) {
            let block = from..seen.min(from + BLOCK);
            for strip in strips.iter_mut().flatten() {
                strip.attend(s, &laid, block.clone(), kv, bias, causal, scores, weights);
            }
        }
        for strip in strips.iter().flatten() {
            // SAFETY: the processor has AVX-512; rows and heads of different tasks are different.
            unsafe { strip.finish(s.dim, |i| out.slice(row(strip.first + i), s.dim)) };
        }
    });
}

/// A strip of queries of one head.
struct Part<'a> {
    first: usize,
    /// less than [`WIDTH`] at the end
    count: usize,
    queries: *mut u8,
    /// `(D)`, filled up to whole tiles
    sums: &'a mut [Strip],
    /// the largest score of each query, the sum of its weights relative to that, and what earlier sums are multiplied by
    known: &'a mut [Strip; 3],
}

impl<'a> Part<'a> {
    fn of(s: &Size, laid: &Laid, first: usize, memory: &'a mut [u8]) -> Part<'a> {
        let (queries, rest) = memory.split_at_mut(laid.key);
        let (known, sums) = strips_of(rest).split_first_chunk_mut().expect("three are there");
        *known = [[f32::NEG_INFINITY; WIDTH], [0.0; WIDTH], [1.0; WIDTH]];
        let count = WIDTH.min(s.queries.saturating_sub(first));
        Part { first, count, queries: queries.as_mut_ptr(), sums, known }
    }

    /// Takes the queries that `row` gives, scaled, as columns of a right operand.
    ///
    /// # Safety
    /// The processor has AVX-512 F, BW and VL; queries have room for whole blocks.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load<'q>(&self, s: &Size, laid: &Laid, scale: f32, row: impl Fn(usize) -> &'q [f32]) {
        let mut numbers = [0.0; 3 * JOINT];
        for i in 0..SIDE {
            let q = if i < self.count { row(self.first + i) } else { &[] };
            if q.is_empty() {
                numbers.fill(0.0);
            }
            if laid.joint {
                let (upper, rest) = numbers[..3 * s.dim].split_at_mut(s.dim);
                let (lower, again) = rest.split_at_mut(s.dim);
                for (((q, upper), lower), again) in q.iter().zip(upper).zip(lower).zip(again) {
                    let x = q * scale;
                    (*upper, *lower, *again) = (x, less_upper(x), x);
                }
                left_row::<1, _>(numbers.as_ptr(), 3 * s.dim, i, self.queries);
                continue;
            }
            for first in (0..s.dim).step_by(numbers.len()) {
                let count = numbers.len().min(s.dim - first);
                if let Some(q) = q.get(first..first + count) {
                    numbers.iter_mut().zip(q).for_each(|(to, q)| *to = q * scale);
                }
                left_row::<2, _>(numbers.as_ptr(), count, i, self.queries.add(first / SIDE * STEP));
            }
        }
        match laid.joint {
            true => turn::<1>(self.queries, laid.steps),
            false => turn::<2>(self.queries, laid.steps),
        }
    }

    /// Writes the results `(D)` of all queries, each to where `row` says.
    ///
    /// # Safety
    /// The processor has AVX-512 F.
    #[target_feature(enable = "avx512f")]
    unsafe fn finish<'y>(&self, dim: usize, row: impl Fn(usize) -> &'y mut [f32]) {
        for first in (0..self.count).step_by(16) {
            let of = |x: &Strip| _mm512_loadu_ps(x.as_ptr().add(first));
            let norm = _mm512_div_ps(_mm512_set1_ps(1.0), of(&self.known[1]));
            for d in (0..dim).step_by(16) {
                let some = if dim - d < 16 { (1u16 << (dim - d)) - 1 } else { u16::MAX };
                let sums = &self.sums[d..d + 16];
                let y = turned(std::array::from_fn(|i| _mm512_mul_ps(of(&sums[i]), norm)));
                for (i, y) in y.into_iter().enumerate().take(self.count - first) {
                    _mm512_mask_storeu_ps(row(first + i)[..dim].as_mut_ptr().add(d), some, y);
                }
            }
        }
    }

    /// Takes a block of keys and their values.
    fn attend(
        &mut self,
        s: &Size,
        laid: &Laid,
        block: Range<usize>,
        [keys, values]: [&[u8]; 2],
        bias: Option<&[f32]>,
        causal: bool,
        all_scores: &mut [Strip],
        weights: &mut [u8],
    ) {
        let steps = block.len().div_ceil(SIDE);
        for i in 0..steps {
            let half = block.len() - i * SIDE <= 16;
            let key = keys[(block.start / SIDE + i) * laid.key..][..laid.key].as_ptr();
            let to = all_scores[i * SIDE..][..SIDE].as_mut_ptr().cast();
            // SAFETY: tiles are set up; keys and queries have so many blocks, and there are scores for all keys.
            unsafe {
                match laid.joint {
                    true => product::<1>(key, self.queries, laid.steps, to, 4 * WIDTH, [half, true]),
                    false => product::<2>(key, self.queries, laid.steps, to, 4 * WIDTH, [half, true]),
                }
            }
        }
        let scores = &mut all_scores[..block.len()];
        let queries = self.first..self.first + self.count;
        by_distance(s, block.clone(), queries, scores, bias, causal);
        // SAFETY: the processor has AVX-512; weights have room for a block.
        unsafe { weigh(scores, self.known, weights.as_mut_ptr()) };
        if block.start > 0 && self.known[2].iter().any(|k| *k != 1.0) {
            rescale(self.sums, &self.known[2]);
        }
        for (i, values) in values.chunks_exact(laid.value).enumerate() {
            let values = values[block.start / SIDE * STEP..][..steps * STEP].as_ptr();
            let to = self.sums[i * SIDE..][..SIDE].as_mut_ptr().cast();
            let how = [s.dim - i * SIDE <= 16, block.start == 0];
            // SAFETY: tiles are set up; values and weights have so many blocks, and there are sums for whole tiles.
            unsafe { product::<2>(values, weights.as_ptr(), steps, to, 4 * WIDTH, how) };
        }
    }
}

/// Memory as strips.
fn strips_of(memory: &mut [u8]) -> &mut [Strip] {
    // SAFETY: any bits are numbers.
    let (head, strips, _) = unsafe { memory.align_to_mut() };
    assert!(head.is_empty());
    strips
}

/// What bf16's upper part leaves over of a number.
fn less_upper(x: f32) -> f32 {
    x - f32::from_bits(x.to_bits().wrapping_add(0x8000) & 0xffff_0000)
}

/// Scores `(keys, queries)` become weights 2^(score - largest of the query) and are written as a right operand; what is
/// known of the queries is carried on: their largest scores or nearly so, -inf at first, their weights, and what earlier weights are
/// multiplied by.
///
/// # Safety
/// The processor has AVX-512 F and BW, and `to` has room for blocks of all keys.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn weigh(scores: &[Strip], [largest, weight, keep]: &mut [Strip; 3], to: *mut u8) {
    for half in 0..2 {
        let at = 16 * half;
        let to = to.add(1024 * half);
        let load = |x: &Strip| _mm512_loadu_ps(x.as_ptr().add(at));
        let before = load(largest);
        let mut best = [before; 4];
        let (fours, rest) = scores.as_chunks::<4>();
        for four in fours {
            // What is no number stays none, as the second operand counts then.
            (0..4).for_each(|i| best[i] = _mm512_max_ps(best[i], load(&four[i])));
        }
        rest.iter().for_each(|x| best[0] = _mm512_max_ps(best[0], load(x)));
        let best = _mm512_max_ps(_mm512_max_ps(best[0], best[1]), _mm512_max_ps(best[2], best[3]));
        // What is no number is not greater, and shows in the weights.
        let above = _mm512_sub_ps(best, before);
        let above = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(above, _mm512_set1_ps(SLACK));
        let best = _mm512_mask_mov_ps(before, above, best);
        let weigh = |x: &Strip| One(_mm512_sub_ps(load(x), best)).exp2().0;
        let mut sums = [_mm512_setzero_ps(); 4];
        // Weights of 32 keys at a time, as pairs are 16 apart; the last are filled up with zeros.
        for (step, scores) in scores.chunks(SIDE).enumerate() {
            let to = to.add(step * STEP);
            if let Some((low, high)) = scores.split_first_chunk::<16>().filter(|(_, high)| high.len() == 16) {
                for (i, (a, b)) in low.iter().zip(high).enumerate() {
                    let both = [weigh(a), weigh(b)];
                    sums[i % 2 * 2] = _mm512_add_ps(sums[i % 2 * 2], both[0]);
                    sums[i % 2 * 2 + 1] = _mm512_add_ps(sums[i % 2 * 2 + 1], both[1]);
                    store_pairs::<2, f32>(both, to.add(i * 64));
                }
                continue;
            }
            for i in 0..16 {
                let one = |i: usize| scores.get(i).map_or(_mm512_setzero_ps(), &weigh);
                let both = [one(i), one(i + 16)];
                (0..2).for_each(|i| sums[i] = _mm512_add_ps(sums[i], both[i]));
                store_pairs::<2, f32>(both, to.add(i * 64));
            }
        }
        let sum = _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3]));
        // 0 in the first block, and just 1 where all is as it was.
        let kept = One(_mm512_sub_ps(before, best)).exp2().0;
        let kept = _mm512_mask_mov_ps(_mm512_set1_ps(1.0), above, kept);
        _mm512_storeu_ps(keep.as_mut_ptr().add(at), kept);
        _mm512_storeu_ps(largest.as_mut_ptr().add(at), best);
        let sum = _mm512_fmadd_ps(load(weight), kept, sum);
        _mm512_storeu_ps(weight.as_mut_ptr().add(at), sum);
    }
}

/// Keys and values `(N·S, K, D)` become left operands of each part and head: keys 32 by 32, values turned.
fn lay(s: &Size, laid: &Laid, pool: &Pool, [keys, values]: [&[f32]; 2], to: [&mut [u8]; 2]) {
    let [to_keys, to_values] = to.map(|to| Shared(to.as_mut_ptr()));
    let blocks = s.keys.div_ceil(SIDE);
    pool.run(s.parts * s.kv_heads * blocks, &|task, _| {
        let (head, block) = (task / blocks, task % blocks);
        let (part, kv_head) = (head / s.kv_heads, head % s.kv_heads);
        let (first, count) = (block * SIDE, SIDE.min(s.keys - block * SIDE));
        let at = |j: usize| ((part * s.keys + first + j) * s.kv_heads + kv_head) * s.dim;
        // SAFETY: each task writes keys of its own.
        let to = unsafe { to_keys.slice(head * laid.keys + block * laid.key, laid.key) };
        let mut joint = [0.0; 3 * JOINT];
        let joint = &mut joint[..if laid.joint { 3 * s.dim } else { 0 }];
        for j in 0..count {
            let mut key = &keys[at(j)..][..s.dim];
            if laid.joint {
                joint[..s.dim].copy_from_slice(key);
                joint[s.dim..2 * s.dim].copy_from_slice(key);
                joint[2 * s.dim..].iter_mut().zip(key).for_each(|(to, x)| *to = less_upper(*x));
                key = joint;
            }
            // SAFETY: the processor has AMX and so AVX-512; a block has room for SIDE keys.
            unsafe {
                match laid.joint {
                    true => left_row::<1, _>(key.as_ptr(), key.len(), j, to.as_mut_ptr()),
                    false => left_row::<2, _>(key.as_ptr(), key.len(), j, to.as_mut_ptr()),
                }
            }
        }
        for (i, first) in (0..s.dim).step_by(SIDE).enumerate() {
            let mut turned = [[0.0; SIDE]; SIDE];
            let high = SIDE.min(s.dim - first);
            for j in 0..count {
                for (turned, x) in turned.iter_mut().zip(&values[at(j) + first..][..high]) {
                    turned[j] = *x;
                }
            }
            // SAFETY: each task writes a step of its own; and as above.
            unsafe {
                let to = to_values.slice(head * laid.values + i * laid.value + block * STEP, STEP);
                turned
                    .iter()
                    .enumerate()
                    .for_each(|(row, x)| left_row::<2, _>(x.as_ptr(), SIDE, row, to.as_mut_ptr()));
            }
        }
    });
}
