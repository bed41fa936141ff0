//! Attention of whole sequences over the keys and values of the run itself: of encoders and of training.
//!
//! All keys are transposed once, head by head over all T tokens, so that scores come by multiplying and adding vectors as
//! over the cache; a page of a sequence is any [`PAGE`] neighbours of them. Columns beyond a sequence's end are computed
//! too, and masked.

use super::panel::{self, LANES, Panel};
use super::{Shape, Task, find_tile};
use crate::exec::Call;
use crate::kv::PAGE;
use crate::ops::rows::Shared;
use hob_graph::{Attend, DType, Seq};

/// How keys `(K, wide, columns)` and values `(K, T, wide)` are laid out.
#[derive(Clone, Copy)]
pub struct Laid {
    kv_heads: usize,
    tokens: usize,
    wide: usize,
    /// tokens of a row of keys, with room for a page after the last; an odd number of vectors, so that rows do not all
    /// fall into the same lines of the processor's cache
    columns: usize,
}

impl Laid {
    pub fn of(s: Shape, tokens: usize) -> Laid {
        let columns = ((tokens + PAGE).div_ceil(LANES) | 1) * LANES;
        Laid { kv_heads: s.kv_heads, tokens, wide: s.wide(), columns }
    }

    fn keys(&self) -> usize {
        self.kv_heads * self.wide * self.columns
    }

    /// Floats of both.
    pub fn floats(&self) -> usize {
        self.keys() + self.kv_heads * self.tokens * self.wide
    }
}

/// Runs the node of `c`, whose keys and values are operands 1 and 2.
pub fn run(c: &mut Call, s: Shape, how: Attend) {
    let [q, k, v] = [c.x(0).f32s(), c.x(1).f32s(), c.x(2).f32s()];
    let (pool, laid) = (&c.cpu.pool, Laid::of(s, c.node.shape[0]));
    // SAFETY: the plan's scratch is aligned and as large as `scratch` says; any bits are an f32.
    let scratch = unsafe { c.scratch.align_to_mut::<f32>().1 };
    let (working, rest) = scratch.split_at_mut(pool.threads() * s.task());
    let (keys, rest) = rest.split_at_mut(laid.keys());
    let values = &mut rest[..laid.floats() - laid.keys()];

    let blocks = laid.columns / LANES;
    let (working, out) = (Shared(working.as_mut_ptr()), Shared(c.out.as_mut_ptr()));
    let (to_keys, to_values) = (Shared(keys.as_mut_ptr()), Shared(values.as_mut_ptr()));
    pool.run(s.kv_heads * blocks, &|task, _| {
        let (head, first) = (task / blocks, task % blocks * LANES);
        let last = (first + LANES).min(laid.tokens);
        // SAFETY: each task writes a head's columns, and rows of its values, that no other does.
        unsafe {
            let row = |d: usize| to_keys.slice((head * laid.wide + d) * laid.columns + first, LANES);
            (0..laid.wide).for_each(|d| row(d).fill(0.0));
            for t in first..last {
                let at = (t * s.kv_heads + head) * s.dim;
                (0..s.dim).for_each(|d| row(d)[t - first] = k[at + d]);
                let value = to_values.slice((head * laid.tokens + t) * laid.wide, laid.wide);
                value[..s.dim].copy_from_slice(&v[at..at + s.dim]);
                value[s.dim..].fill(0.0);
            }
        }
    });

    let (keys, values): (&[f32], &[f32]) = (keys, values);
    let tiles: usize = c.batch.seqs.iter().map(|seq| seq.len.div_ceil(s.tile)).sum();
    pool.run(tiles * s.kv_heads, &|task, thread| {
        let (tile, head) = (task / s.kv_heads, task % s.kv_heads);
        let (seq, first) = find_tile(c.batch.seqs, s.tile, tile);
        // SAFETY: each thread has its own part of the working memory.
        let memory = unsafe { working.slice(thread * s.task(), s.task()) };
        // Who sees whom depends on distances alone.
        let mut t = Task::new(s, how, Seq { pos: 0, ..*seq }, first, memory);
        t.load(q, head, DType::F32);
        t.attend_flat(
            &keys[head * laid.wide * laid.columns + seq.start..],
            &values[(head * laid.tokens + seq.start) * laid.wide..],
            laid,
        );
        for r in 0..t.rows {
            // SAFETY: rows of different tasks are different.
            t.finish(r, unsafe { out.slice(t.row(r, head) * s.dim, s.dim) });
        }
    });
}

impl Task<'_> {
    /// `keys` and `values` begin with the sequence's first token.
    fn attend_flat(&mut self, keys: &[f32], values: &[f32], laid: Laid) {
        let wide = laid.wide;
        for page in self.pages() {
            let rows = self.seeing(page);
            if rows.is_empty() {
                continue;
            }
            let columns = self.sees_of(page, rows.end - 1).end.next_multiple_of(LANES);
            let scores = &mut self.scores[rows.start * PAGE..rows.end * PAGE];
            scores.fill(0.0);
            let (queries, page_keys) = (&self.queries[rows.start * wide..], &keys[page * PAGE..]);
            panel::run(
                &Panel {
                    depth: self.s.dim,
                    width: columns,
                    c_step: PAGE,
                    ..product(queries, wide, page_keys, laid.columns, rows.len())
                },
                scores,
            );
            let seen = self.weigh(page, rows.clone());
            let weights = &self.scores[rows.start * PAGE + seen.start..];
            let page_values = &values[(page * PAGE + seen.start) * wide..];
            panel::run(
                &Panel {
                    depth: seen.len(),
                    width: wide,
                    keep: Some(&self.keep[rows.clone()]),
                    c_step: wide,
                    ..product(weights, PAGE, page_values, wide, rows.len())
                },
                &mut self.sums[rows.start * wide..],
            );
        }
    }
}

/// Rows of `a` by `b`, both in f32; how deep and wide is left to say.
fn product<'a>(a: &'a [f32], a_step: usize, b: &'a [f32], b_step: usize, rows: usize) -> Panel<'a> {
    let (depth, width, c_step) = (0, 0, 0);
    let (b, b_step) = (bytes(b), 4 * b_step);
    Panel {
        a,
        a_step,
        b,
        b_step,
        dtype: DType::F32,
        depth,
        width,
        rows,
        keep: None,
        scale: None,
        c_step,
        next: &[],
    }
}

fn bytes(x: &[f32]) -> &[u8] {
    // SAFETY: floats are bytes without padding.
    unsafe { std::slice::from_raw_parts(x.as_ptr().cast(), size_of_val(x)) }
}
