//! Attention of many rows over the cache by AMX. A page is converted once for up to [`ROWS`] rows; scores, weights, queries and
//! values are in two parts of bf16, so that products are nearly those of f32.
#![allow(unsafe_op_in_unsafe_fn)]

use super::{Shape, Task, dot};
use crate::amx::{self, LINE, SIDE, TILE, Tiles, block, store_pairs};
use crate::isa::{Isa, isa};
use crate::kv::{Head, Kv, PAGE, Side, decode_f16, rotate};
use hob_graph::{DType, StateId};
use std::arch::x86_64::*;
use std::ops::Range;

/// Query rows of a task.
pub(super) const ROWS: usize = 128;
/// Parts of each number.
const PARTS: usize = 2;
const BLOCK: usize = block::<PARTS>();

/// Whether heads of `dim` numbers can go this way.
pub(super) fn can(dim: usize) -> bool {
    isa() == Isa::Amx && dim.is_multiple_of(SIDE)
}

/// Floats a thread needs beside a decoded page and its rows: queries, weights, keys and values as blocks.
pub(super) fn floats(s: Shape) -> usize {
    s.rows() * (s.wide() + PAGE) + 2 * PAGE * s.wide()
}

impl Task<'_> {
    /// As [`Task::attend`], in `memory` of [`floats`], aligned to lines where it shall be fast, and a decoded page's.
    ///
    /// # Safety
    /// The processor has AMX.
    pub(super) unsafe fn attend_by_tiles(
        &mut self,
        kv: &Kv,
        state: StateId,
        head: usize,
        pages: Range<usize>,
        page_memory: &mut [f32],
        memory: &mut [f32],
    ) {
        let wide = self.s.wide();
        assert!(
            memory.len() >= floats(self.s)
                && self.rows <= self.s.rows()
                && self.s.rows().is_multiple_of(SIDE)
        );
        let (decoded, center) = page_memory.split_at_mut(PAGE * wide);
        let (queries, rest) = memory.split_at_mut(self.s.rows() * wide);
        let (weights, rest) = rest.split_at_mut(self.s.rows() * PAGE);
        let (keys, values) = rest.split_at_mut(PAGE * wide);
        let [queries, weights, keys, values] =
            [queries, weights, keys, values].map(|x| x.as_mut_ptr().cast::<u8>());
        let (steps, deep) = (wide / SIDE, PAGE / SIDE);
        for (r, query) in self.queries[..self.rows * wide].chunks_exact(wide).enumerate() {
            amx::left_row::<PARTS, f32>(
                query.as_ptr(),
                wide,
                r % SIDE,
                queries.add(r / SIDE * steps * BLOCK),
            );
        }
        let table = self.seq.pages[kv.pool(state)];
        let _tiles = Tiles::new();
        for page in pages {
            let rows = self.seeing(page);
            if rows.is_empty() {
                continue;
            }
            let blocks = rows.start / SIDE..rows.end.div_ceil(SIDE);
            let few = |b: usize| self.rows - b * SIDE <= SIDE / 2;
            let at = |side| kv.head(state, side, table[page], head);

            let of = at(Side::Keys);
            let fresh = of.center().is_empty();
            if !fresh {
                // What all keys of the page are kept less: the same for all scores of a row.
                decode_f16(of.center(), center);
                let all = self.queries[rows.start * wide..].chunks(wide);
                for (query, scores) in
                    all.zip(self.scores[rows.start * PAGE..rows.end * PAGE].chunks_mut(PAGE))
                {
                    scores.fill(dot(query, center));
                }
            }
            pack(of, 0..of.rows, decoded, keys);
            for b in blocks.clone() {
                for column in 0..PAGE / SIDE {
                    let (a, k) = (queries.add(b * steps * BLOCK), keys.add(column * steps * BLOCK));
                    let to = self.scores[b * SIDE * PAGE..][..SIDE * PAGE].as_mut_ptr().add(column * SIDE);
                    amx::product::<PARTS>(a, k, steps, to, 4 * PAGE, [few(b), fresh]);
                }
            }
            let seen = self.weigh(page, rows.clone());
            pack(at(Side::Values), seen, decoded, values);
            for r in blocks.start * SIDE..(blocks.end * SIDE).min(self.rows) {
                let to = weights.add(r / SIDE * deep * BLOCK);
                match rows.contains(&r) {
                    true => {
                        amx::left_row::<PARTS, f32>(
                            self.scores[r * PAGE..][..PAGE].as_ptr(),
                            PAGE,
                            r % SIDE,
                            to,
                        );
                        let sums = &mut self.sums[r * wide..][..wide];
                        times(sums, self.keep[r]);
                    }
                    false => amx::left_row::<PARTS, f32>([0.0; PAGE].as_ptr(), PAGE, r % SIDE, to),
                }
            }
            for b in blocks {
                for column in 0..steps {
                    let (a, v) = (weights.add(b * deep * BLOCK), values.add(column * deep * BLOCK));
                    let to = self.sums[b * SIDE * wide..][..SIDE * wide].as_mut_ptr().add(column * SIDE);
                    let few = self.rows - b * SIDE <= SIDE / 2;
                    amx::product::<PARTS>(a, v, deep, to, 4 * wide, [few, false]);
                }
            }
        }
        if kv.types().v == DType::Q4_0 {
            self.sums[..self.rows * wide].chunks_exact_mut(wide).for_each(rotate); // turned values are turned back
        }
    }
}

#[target_feature(enable = "avx512f")]
fn times(x: &mut [f32], by: f32) {
    x.iter_mut().for_each(|x| *x *= by);
}

/// A head of a page as blocks of a right operand, its rows but `some` being zeros.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn pack(head: Head, some: Range<usize>, decoded: &mut [f32], to: *mut u8) {
    let head = if head.dtype == DType::F16 { head } else { head.in_f32(decoded) };
    let (bytes, row) = (head.dtype.bytes(1).unwrap_or(4), head.row_bytes());
    assert!(
        head.numbers.len() >= head.rows * row && some.end <= head.rows && head.columns.is_multiple_of(SIDE)
    );
    let steps = head.rows.div_ceil(SIDE);
    for pair in 0..steps * SIDE / 2 {
        let to = to.add(pair / 16 * BLOCK + pair % 16 * LINE);
        for column in (0..head.columns).step_by(16) {
            let load = |row_number: usize| match some.contains(&row_number) {
                false => _mm512_setzero_ps(),
                true => {
                    let at = head.numbers.as_ptr().add(row_number * row + column * bytes);
                    match bytes {
                        2 => _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())),
                        _ => _mm512_loadu_ps(at.cast()),
                    }
                }
            };
            let to = to.add(column / SIDE * steps * BLOCK + column % SIDE / 16 * TILE);
            let row = pair / 16 * SIDE + pair % 16;
            store_pairs::<PARTS, f32>([load(row), load(row + 16)], to);
        }
    }
}
