//! Weights decoded to the blocks of bf16 that [`crate::amx`] multiplies, 32 rows being a block's columns: from weights laid out
//! anew, whose vectors hold the same columns of 16 rows as a tile's lines do, and from panels unpacked of a file's blocks.
//!
//! Functions here are unsafe as those of [`super::x86`] are.
#![allow(unsafe_op_in_unsafe_fn)]

use super::packed::{ROWS, group, head, pairs, unit};
use super::x86_packed::{small_512, word_512};
use super::{Packs, Panel};
use crate::amx::{LINE, SIDE, TILE, block, store_pair};
use std::arch::x86_64::*;

/// How far ahead weights are asked for, in bytes.
const AHEAD: usize = 4096;

/// Four columns of 16 rows, `u · d + m`, as two lines of a tile.
#[inline(always)]
unsafe fn put<const PARTS: usize>(u: __m512i, d: __m512, m: __m512, to: *mut u8) {
    let byte = _mm512_set1_epi32(255);
    let column = |u| _mm512_fmadd_ps(_mm512_cvtepi32_ps(u), d, m);
    let a = column(_mm512_and_si512(u, byte));
    let b = column(_mm512_and_si512(_mm512_srli_epi32::<8>(u), byte));
    store_pair::<PARTS>([a, b], to);
    let a = column(_mm512_and_si512(_mm512_srli_epi32::<16>(u), byte));
    let b = column(_mm512_srli_epi32::<24>(u));
    store_pair::<PARTS>([a, b], to.add(LINE));
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
                let halves = if F::SPLIT { 2 } else { 1 };
                for h in 0..halves {
                    let d = match (F::GROUPS, F::SPLIT) {
                        (1, _) => block_d,
                        (_, true) => _mm512_mul_ps(block_d, small_512::<true>(at.add(ROWS * h))),
                        (_, false) => _mm512_mul_ps(block_d, small_512::<false>(at)),
                    };
                    let m = match (F::MIN, F::GROUPS) {
                        (true, 1) => least,
                        (true, _) => {
                            let minus = _mm512_xor_ps(least, _mm512_set1_ps(-0.0));
                            _mm512_mul_ps(minus, small_512::<false>(at.add(ROWS)))
                        }
                        _ => _mm512_mul_ps(d, offset),
                    };
                    for i in h * 8 / halves..(h + 1) * 8 / halves {
                        put::<PARTS>(word_512::<F>(planes, i), d, m, to.add(2 * LINE * i));
                    }
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
            for i in 0..8 {
                let at = (g * scales + i * scales / 8) * SIDE + half * ROWS;
                let (d, m) = (_mm512_loadu_ps(d.as_ptr().add(at)), _mm512_loadu_ps(m.as_ptr().add(at)));
                let u = _mm512_loadu_si512(words.add(((g * 8 + i) * SIDE + half * ROWS) * 4).cast());
                put::<PARTS>(u, d, m, to.add(2 * LINE * i));
            }
        }
    }
}
