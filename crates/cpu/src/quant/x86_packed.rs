//! Weights laid out anew, see [`super::packed`]: laying out, what lies where, and unpacking for the tiles of many tokens.
//! [`super::x86_few`] multiplies few.
//!
//! Functions here are unsafe as those of [`super::x86`] are.
#![allow(unsafe_op_in_unsafe_fn)]

use super::packed::{ROWS, group, head, pairs, unit};
use super::x86_kernels::*;
use super::{Packs, Panel};
use std::arch::x86_64::*;

/// How far ahead weights are asked for in all streams together, and shortly before they are used; in bytes.
const FAR: usize = 8192;
const NEAR: usize = 1024;

/// Writes the planes of a panel; its scales are written already.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn pack_planes<F: Packs>(rows: &[&[F::Block]; ROWS], to: &mut [u8]) {
    for (i, to) in to.chunks_exact_mut(unit::<F>()).enumerate() {
        for half in 0..2 {
            let blocks: [&[F::Block]; 8] = std::array::from_fn(|r| &rows[8 * half + r][i..i + 1]);
            let to = to.as_mut_ptr().add(head::<F>() + pairs::<F>() + 32 * half);
            macro_rules! one {
                ($j:literal) => {
                    if $j < F::GROUPS {
                        let mut u = [_mm256_setzero_si256(); 8];
                        for r in 0..8 {
                            u[r] = F::group::<$j>(blocks[r]);
                        }
                        put_words::<F>(transpose(u), to.add($j * group::<F>()));
                    }
                };
            }
            for_groups!(one);
        }
    }
}

/// Writes the eight words of eight rows.
#[inline(always)]
unsafe fn put_words<F: Packs>(u: [__m256i; 8], to: *mut u8) {
    if F::BITS == 8 {
        for i in 0..8 {
            let signed = _mm256_xor_si256(u[i], _mm256_set1_epi8(-128));
            _mm256_storeu_si256(to.add(64 * i).cast(), signed);
        }
        return;
    }
    let four = _mm256_set1_epi8(15);
    for i in 0..4 {
        let (a, b) = (_mm256_and_si256(u[i], four), _mm256_and_si256(u[i + 4], four));
        _mm256_storeu_si256(to.add(64 * i).cast(), _mm256_or_si256(a, left(b, 4)));
    }
    if F::BITS == 4 {
        return;
    }
    // Words of the fifth bit lie a bit apart, of the fifth and sixth two; all in one vector, or every other in one.
    let (step, vectors) = (F::BITS as usize - 4, F::BITS as usize - 4);
    for v in 0..vectors {
        let mut all = _mm256_setzero_si256();
        for i in 0..8 / vectors {
            let high = _mm256_and_si256(right(u[i * vectors + v], 4), four);
            all = _mm256_or_si256(all, left(high, step * i));
        }
        _mm256_storeu_si256(to.add(256 + 64 * v).cast(), all);
    }
}

/// Shifts words of 16 bits; where bytes are meant, the bits that cross over are masked away.
#[inline(always)]
unsafe fn left(x: __m256i, n: usize) -> __m256i {
    _mm256_sll_epi16(x, _mm_cvtsi32_si128(n as i32))
}

/// See [`left`].
#[inline(always)]
unsafe fn right(x: __m256i, n: usize) -> __m256i {
    _mm256_srl_epi16(x, _mm_cvtsi32_si128(n as i32))
}

/// Word `i` of eight rows, whose planes begin at `at`: signed for formats of 8 bits, else unsigned.
#[inline(always)]
pub(super) unsafe fn word<F: Packs>(at: *const u8, i: usize) -> __m256i {
    if F::BITS == 8 {
        return load_at(at, 64 * i);
    }
    let low = load_at(at, 64 * (i % 4));
    let low = _mm256_and_si256(if i < 4 { low } else { right(low, 4) }, _mm256_set1_epi8(15));
    let (high, from, mask) = match F::BITS {
        5 => (load_at(at, 256), i, 16),
        6 => (load_at(at, 256 + 64 * (i % 2)), i / 2 * 2, 48),
        _ => return low,
    };
    let high = if from < 4 { left(high, 4 - from) } else { right(high, from - 4) };
    _mm256_or_si256(low, _mm256_and_si256(high, _mm256_set1_epi8(mask)))
}

#[inline(always)]
unsafe fn load_at(at: *const u8, to: usize) -> __m256i {
    _mm256_loadu_si256(at.add(to).cast())
}

/// The same of sixteen rows, always unsigned.
#[inline(always)]
pub(super) unsafe fn word_512<F: Packs>(at: *const u8, i: usize) -> __m512i {
    let load = |to: usize| _mm512_loadu_si512(at.add(to).cast());
    if F::BITS == 8 {
        return _mm512_xor_si512(load(64 * i), _mm512_set1_epi8(-128));
    }
    let right = |x, n: usize| _mm512_srl_epi16(x, _mm_cvtsi32_si128(n as i32));
    let left = |x, n: usize| _mm512_sll_epi16(x, _mm_cvtsi32_si128(n as i32));
    let low = load(64 * (i % 4));
    let low = _mm512_and_si512(if i < 4 { low } else { right(low, 4) }, _mm512_set1_epi8(15));
    let (high, from, mask) = match F::BITS {
        5 => (load(256), i, 16),
        6 => (load(256 + 64 * (i % 2)), i / 2 * 2, 48),
        _ => return low,
    };
    let high = if from < 4 { left(high, 4 - from) } else { right(high, from - 4) };
    // low | high & mask
    _mm512_ternarylogic_epi32::<0xf8>(low, high, _mm512_set1_epi8(mask))
}

/// Eight f16.
#[inline(always)]
pub(super) unsafe fn halves(at: *const u8) -> __m256 {
    _mm256_cvtph_ps(_mm_loadu_si128(at.cast()))
}

/// Eight bytes, unsigned or signed.
#[inline(always)]
pub(super) unsafe fn small<const SIGNED: bool>(at: *const u8) -> __m256 {
    let b = _mm_loadl_epi64(at.cast());
    _mm256_cvtepi32_ps(if SIGNED { _mm256_cvtepi8_epi32(b) } else { _mm256_cvtepu8_epi32(b) })
}

/// Sixteen bytes, unsigned or signed.
#[inline(always)]
pub(super) unsafe fn small_512<const SIGNED: bool>(at: *const u8) -> __m512 {
    let b = _mm_loadu_si128(at.cast());
    _mm512_cvtepi32_ps(if SIGNED { _mm512_cvtepi8_epi32(b) } else { _mm512_cvtepu8_epi32(b) })
}

/// Asks for the bytes of a group, of one of `P` streams: for the second level of cache far ahead, for the first level
/// shortly before. Those of a unit all at once would be more than a core waits for at a time.
#[inline(always)]
pub(super) unsafe fn ask<F: Packs, const P: usize>(at: *const u8) {
    for line in 0..(unit::<F>() / F::GROUPS).div_ceil(64) {
        _mm_prefetch::<_MM_HINT_T1>(at.wrapping_add(FAR / P + 64 * line).cast());
        _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(NEAR + 64 * line).cast());
    }
}

/// See [`super::Direct::unpack`]: eight rows of `w` after another, until the panel's `R` rows are full. Formats of 8 bits stay
/// signed where `SIGNED`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn unpack<F: Packs, const R: usize, const SIGNED: bool>(
    w: &[u8],
    row: usize,
    of: usize,
    first: usize,
    groups: usize,
    panel: &mut Panel,
) {
    let scales = if F::SPLIT { 2 } else { 1 };
    let bytes = of / F::GROUPS * unit::<F>();
    assert!(panel.q.len() >= groups * 32 * R && panel.d.len().min(panel.m.len()) >= groups * scales * R);
    let (q, d, m) = (panel.q.as_mut_ptr(), panel.d.as_mut_ptr(), panel.m.as_mut_ptr());
    let flip = _mm256_set1_epi8(if !SIGNED && F::BITS == 8 { -128 } else { 0 });
    let offset = _mm256_set1_ps(-(F::OFFSET as f32));
    for r in (0..R).step_by(8) {
        // Rows that are missing to a whole panel are the last sixteen again.
        let (from, rows) = (row + r, w.len() / bytes * ROWS);
        let from = if from < rows { from } else { rows - ROWS + from % ROWS };
        let half = from % ROWS / 8;
        let units = &w[from / ROWS * bytes..][..bytes];
        let units = units.chunks_exact(unit::<F>()).skip(first / F::GROUPS).take(groups / F::GROUPS);
        for (i, unit) in units.enumerate() {
            let mut at = unit.as_ptr();
            let block = halves(at.add(16 * half));
            let least = if F::MIN { halves(at.add(32 + 16 * half)) } else { block };
            at = at.add(head::<F>());
            for g in i * F::GROUPS..(i + 1) * F::GROUPS {
                ask::<F, 1>(at);
                let planes = at.add(pairs::<F>() + 32 * half);
                for i in 0..8 {
                    let u = _mm256_xor_si256(word::<F>(planes, i), flip);
                    _mm256_storeu_si256(q.add(((g * 8 + i) * R + r) * 4).cast(), u);
                }
                for h in 0..scales {
                    let s = match (F::GROUPS, F::SPLIT) {
                        (1, _) => block,
                        (_, true) => _mm256_mul_ps(block, small::<true>(at.add(16 * h + 8 * half))),
                        (_, false) => _mm256_mul_ps(block, small::<false>(at.add(8 * half))),
                    };
                    let a = match (F::MIN, F::GROUPS) {
                        (true, 1) => least,
                        (true, _) => {
                            let minus = _mm256_xor_ps(least, _mm256_set1_ps(-0.0));
                            _mm256_mul_ps(minus, small::<false>(at.add(16 + 8 * half)))
                        }
                        _ if F::addends::<SIGNED>() => _mm256_mul_ps(s, offset),
                        _ => _mm256_setzero_ps(),
                    };
                    _mm256_storeu_ps(d.add((g * scales + h) * R + r), s);
                    _mm256_storeu_ps(m.add((g * scales + h) * R + r), a);
                }
                at = at.add(group::<F>());
            }
        }
    }
}
