//! Weights decoded to the blocks of bf16 that [`crate::amx`] multiplies, 32 rows being a block's columns: from weights laid out
//! anew, whose vectors hold the same columns of 16 rows as a tile's lines do, and from panels unpacked of a file's blocks.
//!
//! Functions here are unsafe as those of [`super::x86`] are.
#![allow(unsafe_op_in_unsafe_fn)]

use super::packed::{ROWS, group, head, pairs, unit};
use super::x86_packed::{small_512, word_512};
use super::{Packs, Panel};
use crate::amx::{LINE, SIDE, TILE, block, store_pairs};
use std::arch::x86_64::*;

/// How far ahead weights are asked for, in bytes.
const AHEAD: usize = 4096;

/// Four columns of 16 rows, and the four that are 16 further on, each `u · d + m`, as four lines of a tile.
#[inline(always)]
unsafe fn put<const PARTS: usize>(u: [__m512i; 2], d: [__m512; 2], m: [__m512; 2], to: *mut u8) {
    let byte = _mm512_set1_epi32(255);
    macro_rules! line {
        ($i:literal) => {
            let column = |h: usize| {
                let u = if $i == 0 { u[h] } else { _mm512_srli_epi32::<{ 8 * $i }>(u[h]) };
                let u = if $i == 3 { u } else { _mm512_and_si512(u, byte) };
                _mm512_fmadd_ps(_mm512_cvtepi32_ps(u), d[h], m[h])
            };
            store_pairs::<PARTS, f32>([column(0), column(1)], to.add($i * LINE));
        };
    }
    line!(0);
    line!(1);
    line!(2);
    line!(3);
}

/// Decodes 32 rows of weights laid out anew, from row `row` on, of which the last 16 may be missing: `groups` groups of 32
/// columns from group `first` on, both of whole units. `of` is the groups of a row.
///
/// # Safety
/// The processor has AVX-512 as the kernels need it, and there is room for a block a group.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn decode<F: Packs, const PARTS: usize>(
    w: &[u8],
    row: usize,
    of: usize,
    first: usize,
    groups: usize,
    to: *mut u8,
) {
    let bytes = of / F::GROUPS * unit::<F>();
    let sixteen = |at: *const u8| _mm512_cvtph_ps(_mm256_loadu_si256(at.cast()));
    let offset = _mm512_set1_ps(-(F::OFFSET as f32));
    let panels = w[row / ROWS * bytes..].chunks_exact(bytes).take(SIDE / ROWS);
    for (half, panel) in panels.enumerate() {
        let units = &panel[first / F::GROUPS * unit::<F>()..][..groups / F::GROUPS * unit::<F>()];
        let mut to = to.add(half * TILE);
        for unit in units.chunks_exact(unit::<F>()) {
            let mut at = unit.as_ptr();
            let block_d = sixteen(at);
            let least = if F::MIN { sixteen(at.add(2 * ROWS)) } else { block_d };
            at = at.add(head::<F>());
            for _ in 0..F::GROUPS {
                for line in 0..group::<F>().div_ceil(LINE) {
                    _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(AHEAD + LINE * line).cast());
                }
                let planes = at.add(pairs::<F>());
                // Of the first sixteen columns and the last ones.
                let d = [0, 1].map(|h| match (F::GROUPS, F::SPLIT) {
                    (1, _) => block_d,
                    (_, true) => _mm512_mul_ps(block_d, small_512::<true>(at.add(ROWS * h))),
                    (_, false) => _mm512_mul_ps(block_d, small_512::<false>(at)),
                });
                let m = d.map(|d| match (F::MIN, F::GROUPS) {
                    (true, 1) => least,
                    (true, _) => {
                        let minus = _mm512_xor_ps(least, _mm512_set1_ps(-0.0));
                        _mm512_mul_ps(minus, small_512::<false>(at.add(ROWS)))
                    }
                    _ => _mm512_mul_ps(d, offset),
                });
                for i in 0..4 {
                    let words = [word_512::<F>(planes, i), word_512::<F>(planes, i + 4)];
                    put::<PARTS>(words, d, m, to.add(4 * LINE * i));
                }
                at = at.add(group::<F>());
                to = to.add(block::<PARTS>());
            }
        }
    }
}

/// Decodes a panel of 32 rows that [`super::avx512`] unpacked, of `groups` groups with `scales` scales each.
///
/// # Safety
/// As of [`decode`]; the panel holds so much.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(crate) unsafe fn of_panel<const PARTS: usize>(panel: &Panel, groups: usize, scales: usize, to: *mut u8) {
    let words = panel.q[..groups * SIDE * SIDE].as_ptr();
    let (d, m) = (&panel.d[..groups * scales * SIDE], &panel.m[..groups * scales * SIDE]);
    for g in 0..groups {
        for half in 0..SIDE / ROWS {
            let to = to.add(g * block::<PARTS>() + half * TILE);
            let scale = |x: &[f32], h: usize| {
                _mm512_loadu_ps(x[(g * scales + h * (scales - 1)) * SIDE + half * ROWS..].as_ptr())
            };
            let (d, m) = ([0, 1].map(|h| scale(d, h)), [0, 1].map(|h| scale(m, h)));
            for i in 0..4 {
                let word =
                    |i: usize| _mm512_loadu_si512(words.add(((g * 8 + i) * SIDE + half * ROWS) * 4).cast());
                put::<PARTS>([word(i), word(i + 4)], d, m, to.add(4 * LINE * i));
            }
        }
    }
}
