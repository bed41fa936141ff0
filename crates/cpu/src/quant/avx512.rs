//! The kernels for AVX-512 with VNNI: four products of bytes and their sum in one instruction, without overflow.

use super::acts::Acts;
use super::x86_kernels::*;
use super::{Direct, Kernels, MAX_FEW, Out, Packs, Panel, Part, blocks, x86_few, x86_packed};
use std::arch::x86_64::*;

/// Vectors of rows in a panel.
const VECTORS: usize = 2;
pub(super) const ROWS: usize = 16 * VECTORS;
/// Tokens of a tile: 12 sums of integers and 12 of floats leave room for operands in 32 registers.
pub(super) const TILE: usize = 6;

pub(super) fn kernels<F: Unpack>() -> Kernels {
    Kernels {
        panel_rows: ROWS,
        tile_tokens: TILE,
        many: 6,
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

x86_few::run_by_tokens!(direct_512: 1 2 3 4 5);
rows_and_unpack!("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni", false);

/// Eight sums of four products.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn dot<F: Unpack>(u: __m256i, x: __m256i) -> __m256i {
    _mm256_dpbusd_epi32(_mm256_setzero_si256(), u, x)
}

/// See [`Kernels::tile`].
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn tile<const SCALES: usize>(panel: &Panel, x: &Acts, part: Part, out: Out) {
    // SAFETY: as the caller says; the constant is the number of tokens wanted.
    unsafe {
        match part.tokens {
            1 => tile_of::<SCALES, 1>(panel, x, part, out),
            2 => tile_of::<SCALES, 2>(panel, x, part, out),
            3 => tile_of::<SCALES, 3>(panel, x, part, out),
            4 => tile_of::<SCALES, 4>(panel, x, part, out),
            5 => tile_of::<SCALES, 5>(panel, x, part, out),
            _ => tile_of::<SCALES, 6>(panel, x, part, out),
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn tile_of<const SCALES: usize, const TOKENS: usize>(panel: &Panel, x: &Acts, part: Part, out: Out) {
    let words = 8 / SCALES;
    let n = part.groups * SCALES;
    let at = part.tile * x.groups + part.first;
    let sums = if SCALES == 1 { x.sums } else { x.half_sums };
    let w = &panel.q.as_chunks::<{ 4 * ROWS }>().0[..n * words];
    let (d, m) = (&panel.d.as_chunks::<ROWS>().0[..n], &panel.m.as_chunks::<ROWS>().0[..n]);
    let q = &x.q.as_chunks::<{ 4 * TILE }>().0[at * 8..][..n * words];
    let dx = &x.d.as_chunks::<TILE>().0[at..][..part.groups];
    let sums = &sums.as_chunks::<TILE>().0[at * SCALES..][..n];
    let mut acc = [[_mm512_setzero_ps(); VECTORS]; TOKENS];
    for s in 0..n {
        let mut dots = [[_mm512_setzero_si512(); VECTORS]; TOKENS];
        for i in s * words..(s + 1) * words {
            let w = vectors(&w[i]);
            for a in 0..TOKENS {
                let b = &q[i];
                let x =
                    i32::from_le_bytes([b[4 * a], b[4 * a + 1], b[4 * a + 2], b[4 * a + 3]].map(|b| b as u8));
                let x = _mm512_set1_epi32(x);
                for v in 0..VECTORS {
                    dots[a][v] = _mm512_dpbusd_epi32(dots[a][v], w[v], x);
                }
            }
        }
        let (d, m) = (floats(&d[s]), floats(&m[s]));
        for a in 0..TOKENS {
            let (dx, sum) = (_mm512_set1_ps(dx[s / SCALES][a]), _mm512_set1_ps(sums[s][a]));
            for v in 0..VECTORS {
                let p = _mm512_mul_ps(_mm512_cvtepi32_ps(dots[a][v]), dx);
                acc[a][v] = _mm512_fmadd_ps(p, d[v], acc[a][v]);
                acc[a][v] = _mm512_fmadd_ps(m[v], sum, acc[a][v]);
            }
        }
    }
    for (a, acc) in acc.iter().enumerate() {
        for (v, acc) in acc.iter().enumerate() {
            // SAFETY: the caller made room for a whole panel's rows of the wanted tokens.
            unsafe {
                let to = out.at.add(a * out.stride + 16 * v);
                let before = if part.accumulate { _mm512_loadu_ps(to) } else { _mm512_setzero_ps() };
                _mm512_storeu_ps(to, _mm512_add_ps(before, *acc));
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn vectors(b: &[u8; 4 * ROWS]) -> [__m512i; VECTORS] {
    // SAFETY: as many bytes are there; the loads ask for no alignment.
    std::array::from_fn(|v| unsafe { _mm512_loadu_si512(b.as_ptr().add(64 * v).cast()) })
}

#[inline]
#[target_feature(enable = "avx512f")]
fn floats(x: &[f32; ROWS]) -> [__m512; VECTORS] {
    // SAFETY: as many numbers are there; the loads ask for no alignment.
    std::array::from_fn(|v| unsafe { _mm512_loadu_ps(x.as_ptr().add(16 * v)) })
}
