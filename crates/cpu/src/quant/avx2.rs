//! The kernels for AVX2. Products of bytes are summed in 16 bits, which holds as many of them as the format's bits allow.

use super::acts::Acts;
use super::x86_kernels::*;
use super::{Direct, Kernels, MAX_FEW, Out, Packs, Panel, Part, blocks, x86_few, x86_packed};
use std::arch::{asm, x86_64::*};

/// Vectors of rows in a panel: a token's columns are broadcast once for all of them.
const VECTORS: usize = 2;
const ROWS: usize = 8 * VECTORS;
/// Tokens of a tile: eight sums of 16 bits; those of floats wait in memory.
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

x86_few::run_by_tokens!(direct: 1 2 3);
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

/// These are computed here and not later: the compiler would take one vector of rows after the other, with a token's
/// columns by way of memory.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn in_order(a: &mut __m256i, b: &mut __m256i) {
    // SAFETY: it has no instructions.
    unsafe {
        asm!(
            "/* {0} {1} */",
            inout(ymm_reg) * a,
            inout(ymm_reg) * b,
            options(nomem, nostack, preserves_flags)
        )
    };
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
    let product = |w: __m256i, x: __m256i| match SIGNED {
        true => _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w)),
        false => _mm256_maddubs_epi16(w, x),
    };
    let mut acc = [[_mm256_setzero_ps(); VECTORS]; TILE];
    for s in 0..n {
        // SAFETY: within the slices cut above; compiled for what is called.
        unsafe {
            let rows =
                |i: usize, v: usize| _mm256_loadu_si256(w.add(((s * words + i) * VECTORS + v) * 32).cast());
            let columns = |i: usize, a: usize| {
                _mm256_set1_epi32(q.add(((s * words + i) * TILE + a) * 4).cast::<i32>().read_unaligned())
            };
            let mut dots = [[_mm256_setzero_si256(); VECTORS]; TILE];
            for i in (0..words).step_by(SUM) {
                if SUM > 2 {
                    let mut short = [[_mm256_setzero_si256(); VECTORS]; TILE];
                    for j in 0..SUM {
                        let w = [rows(i + j, 0), rows(i + j, 1)];
                        for a in 0..TILE {
                            let x = columns(i + j, a);
                            for v in 0..VECTORS {
                                let p = product(w[v], x);
                                short[a][v] = if j == 0 { p } else { _mm256_add_epi16(short[a][v], p) };
                            }
                            let [first, second] = &mut short[a];
                            in_order(first, second);
                        }
                    }
                    for a in 0..TILE {
                        for v in 0..VECTORS {
                            let p = _mm256_madd_epi16(short[a][v], ones);
                            dots[a][v] = if i == 0 { p } else { _mm256_add_epi32(dots[a][v], p) };
                        }
                    }
                    continue;
                }
                // Sums of all tokens in 16 bits would not fit in registers beside those in 32.
                let w: [[__m256i; VECTORS]; SUM] = std::array::from_fn(|j| [rows(i + j, 0), rows(i + j, 1)]);
                for a in 0..TILE {
                    let x: [__m256i; SUM] = std::array::from_fn(|j| columns(i + j, a));
                    for v in 0..VECTORS {
                        let mut short = product(w[0][v], x[0]);
                        for j in 1..SUM {
                            short = _mm256_add_epi16(short, product(w[j][v], x[j]));
                        }
                        let p = _mm256_madd_epi16(short, ones);
                        dots[a][v] = if i == 0 { p } else { _mm256_add_epi32(dots[a][v], p) };
                    }
                    let [first, second] = &mut dots[a];
                    in_order(first, second);
                }
            }
            for a in 0..TILE {
                let dx = _mm256_broadcast_ss(&*dx.add(s / SCALES * TILE + a));
                let sum = _mm256_broadcast_ss(&*sums.add(s * TILE + a));
                for v in 0..VECTORS {
                    let at = s * ROWS + 8 * v;
                    let p = _mm256_mul_ps(_mm256_cvtepi32_ps(dots[a][v]), dx);
                    acc[a][v] = _mm256_fmadd_ps(p, _mm256_loadu_ps(d.add(at)), acc[a][v]);
                    if !SIGNED {
                        acc[a][v] = _mm256_fmadd_ps(_mm256_loadu_ps(m.add(at)), sum, acc[a][v]);
                    }
                }
            }
        }
    }
    for (a, acc) in acc.iter().enumerate().take(part.tokens) {
        for (v, acc) in acc.iter().enumerate() {
            // SAFETY: the caller made room for a whole panel's rows of the wanted tokens.
            unsafe {
                let to = out.at.add(a * out.stride + 8 * v);
                let before = if part.accumulate { _mm256_loadu_ps(to) } else { _mm256_setzero_ps() };
                _mm256_storeu_ps(to, _mm256_add_ps(before, *acc));
            }
        }
    }
}
