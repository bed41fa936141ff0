//! The kernels for AVX2 with VNNI: four products of bytes and their sum in one instruction, on vectors of 256 bits. Many
//! processors of desktops and laptops have it without AVX-512.

use super::acts::Acts;
use super::x86_kernels::*;
use super::{Direct, Kernels, MAX_FEW, Out, Packs, Panel, Part, blocks, x86_few, x86_packed};
use std::arch::x86_64::*;

/// Vectors of rows in a panel.
const VECTORS: usize = 2;
const ROWS: usize = 8 * VECTORS;
/// Tokens of a tile: eight sums of integers hide the latency of a product; those of floats wait in memory.
const TILE: usize = 4;

pub(super) fn kernels<F: Unpack>() -> Kernels {
    Kernels {
        panel_rows: ROWS,
        tile_tokens: TILE,
        many: 7,
        scales: if F::SPLIT { 2 } else { 1 },
        rows: rows::<F>,
        unpack: unpack::<F>,
        tile: if F::SPLIT { tile::<2> } else { tile::<1> },
        direct: None,
    }
}

/// The kernels over weights laid out anew.
pub(super) fn direct<F: Packs>() -> Direct {
    Direct { most: 4 * TILE, run: run::<F>, unpack: x86_packed::unpack::<F, ROWS, false>, blocks: None }
}

x86_few::run_by_tokens!(direct_vnni: 1 2 3);
rows_and_unpack!("avx2,fma,f16c,avxvnni", false);

/// Eight sums of four products.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
fn dot<F: Unpack>(u: __m256i, x: __m256i) -> __m256i {
    _mm256_dpbusd_avx_epi32(_mm256_setzero_si256(), u, x)
}

/// See [`Kernels::tile`].
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
unsafe fn tile<const SCALES: usize>(panel: &Panel, x: &Acts, part: Part, out: Out) {
    let words = 8 / SCALES;
    let n = part.groups * SCALES;
    let at = part.tile * x.groups + part.first;
    let sums = if SCALES == 1 { x.sums } else { x.half_sums };
    // Slices are cut once, as of AVX2.
    let w = panel.q[..n * words * 4 * ROWS].as_ptr();
    let (d, m) = (panel.d[..n * ROWS].as_ptr(), panel.m[..n * ROWS].as_ptr());
    let q = x.q[at * 32 * TILE..][..n * words * 4 * TILE].as_ptr();
    let dx = x.d[at * TILE..][..part.groups * TILE].as_ptr();
    let sums = sums[at * SCALES * TILE..][..n * TILE].as_ptr();
    let mut acc = [[_mm256_setzero_ps(); VECTORS]; TILE];
    for s in 0..n {
        // SAFETY: within the slices cut above; compiled for what is called.
        unsafe {
            let mut dots = [[_mm256_setzero_si256(); VECTORS]; TILE];
            for i in s * words..(s + 1) * words {
                let mut rows = [_mm256_setzero_si256(); VECTORS];
                for v in 0..VECTORS {
                    rows[v] = _mm256_loadu_si256(w.add((i * VECTORS + v) * 32).cast());
                }
                for a in 0..TILE {
                    let x = _mm256_set1_epi32(q.add((i * TILE + a) * 4).cast::<i32>().read_unaligned());
                    for v in 0..VECTORS {
                        dots[a][v] = _mm256_dpbusd_avx_epi32(dots[a][v], rows[v], x);
                    }
                }
            }
            for v in 0..VECTORS {
                let at = s * ROWS + 8 * v;
                let (d, m) = (_mm256_loadu_ps(d.add(at)), _mm256_loadu_ps(m.add(at)));
                for a in 0..TILE {
                    let dx = _mm256_broadcast_ss(&*dx.add(s / SCALES * TILE + a));
                    let p = _mm256_mul_ps(_mm256_cvtepi32_ps(dots[a][v]), dx);
                    acc[a][v] = _mm256_fmadd_ps(p, d, acc[a][v]);
                    acc[a][v] = _mm256_fmadd_ps(m, _mm256_broadcast_ss(&*sums.add(s * TILE + a)), acc[a][v]);
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
