//! The kernels for AVX2. Products of bytes are summed in 16 bits, which holds as many of them as the format's bits allow.

use super::acts::Acts;
use super::x86_kernels::*;
use super::{Direct, Kernels, MAX_FEW, Out, Packs, Panel, Part, blocks, x86_packed};
use std::arch::x86_64::*;

/// Rows of a panel: a vector of 32-bit sums.
const ROWS: usize = 8;
/// Tokens of a tile: as many sums as registers allow.
const TILE: usize = 4;

pub(super) fn kernels<F: Unpack>() -> Kernels {
    Kernels {
        panel_rows: ROWS,
        tile_tokens: TILE,
        many: 7,
        scales: if F::SPLIT { 2 } else { 1 },
        rows: rows::<F>,
        unpack: unpack::<F>,
        tile: match (F::BITS, F::SPLIT) {
            (8, false) => tile::<1, true, 1>,
            (8, true) => tile::<1, true, 2>,
            (6, false) => tile::<2, false, 1>,
            (5, false) => tile::<4, false, 1>,
            (_, false) => tile::<8, false, 1>,
            (6, true) => tile::<2, false, 2>,
            (_, true) => tile::<4, false, 2>,
        },
        direct: None,
    }
}

/// The kernels over weights laid out anew.
pub(super) fn direct<F: Packs>() -> Direct {
    Direct { most: 2 * TILE, run: run::<F>, unpack: x86_packed::unpack::<F, ROWS, true>, blocks: None }
}

x86_packed::run_by_tokens!(direct: 1 2 3);
rows_and_unpack!("avx2,fma,f16c", true);

/// Eight sums of four products; of formats of 8 bits the offset is taken first, as 255 · 127 · 2 is no i16.
#[inline]
#[target_feature(enable = "avx2")]
fn dot<F: Unpack>(u: __m256i, x: __m256i) -> __m256i {
    let ones = _mm256_set1_epi16(1);
    if F::BITS == 8 {
        let w = _mm256_xor_si256(u, _mm256_set1_epi8(-128));
        return _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w)), ones);
    }
    _mm256_madd_epi16(_mm256_maddubs_epi16(u, x), ones)
}

/// See [`Kernels::tile`]. `SUM` products fit in 16 bits; `SIGNED` panels hold signed bytes; `SCALES` are those of a
/// group.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<const SUM: usize, const SIGNED: bool, const SCALES: usize>(
    panel: &Panel,
    x: &Acts,
    part: Part,
    out: Out,
) {
    let words = 8 / SCALES;
    let n = part.groups * SCALES;
    let at = part.tile * x.groups + part.first;
    let sums = if SCALES == 1 { x.sums } else { x.half_sums };
    // Slices are cut once: a check in the loop would be one more operation for every two of its own.
    let w = panel.q[..n * words * 4 * ROWS].as_ptr();
    let (d, m) = (panel.d[..n * ROWS].as_ptr(), panel.m[..n * ROWS].as_ptr());
    let q = x.q[at * 32 * TILE..][..n * words * 4 * TILE].as_ptr();
    let dx = x.d[at * TILE..][..part.groups * TILE].as_ptr();
    let sums = sums[at * SCALES * TILE..][..n * TILE].as_ptr();
    let ones = _mm256_set1_epi16(1);
    let mut acc = [_mm256_setzero_ps(); TILE];
    for s in 0..n {
        // SAFETY: within the slices cut above; compiled for what is called.
        unsafe {
            let mut dots = [_mm256_setzero_si256(); TILE];
            let mut short = [_mm256_setzero_si256(); TILE];
            for i in 0..words {
                let at = s * words + i;
                let w = _mm256_loadu_si256(w.add(at * 4 * ROWS).cast());
                for a in 0..TILE {
                    let x = _mm256_set1_epi32(q.add((at * TILE + a) * 4).cast::<i32>().read_unaligned());
                    let p = match SIGNED {
                        true => _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w)),
                        false => _mm256_maddubs_epi16(w, x),
                    };
                    short[a] = if i % SUM == 0 { p } else { _mm256_add_epi16(short[a], p) };
                    if i % SUM == SUM - 1 {
                        let p = _mm256_madd_epi16(short[a], ones);
                        dots[a] = if i < SUM { p } else { _mm256_add_epi32(dots[a], p) };
                    }
                }
            }
            let (d, m) = (_mm256_loadu_ps(d.add(s * ROWS)), _mm256_loadu_ps(m.add(s * ROWS)));
            for a in 0..TILE {
                let dx = _mm256_broadcast_ss(&*dx.add(s / SCALES * TILE + a));
                let p = _mm256_mul_ps(_mm256_cvtepi32_ps(dots[a]), dx);
                acc[a] = _mm256_fmadd_ps(p, d, acc[a]);
                if !SIGNED {
                    acc[a] = _mm256_fmadd_ps(m, _mm256_broadcast_ss(&*sums.add(s * TILE + a)), acc[a]);
                }
            }
        }
    }
    for (a, acc) in acc.iter().enumerate().take(part.tokens) {
        // SAFETY: the caller made room for a whole panel's rows of the wanted tokens.
        unsafe {
            let to = out.at.add(a * out.stride);
            let before = if part.accumulate { _mm256_loadu_ps(to) } else { _mm256_setzero_ps() };
            _mm256_storeu_ps(to, _mm256_add_ps(before, *acc));
        }
    }
}
