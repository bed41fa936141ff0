//! Few tokens times weights laid out anew (see [`super::packed`]), straight from the planes: what generating and short prompts
//! do, bound by how fast weights come.
//!
//! Functions here are unsafe as those of [`super::x86`] are.
#![allow(unsafe_op_in_unsafe_fn)]

use super::acts::Acts;
use super::packed::{ROWS, group, head, pairs, unit};
use super::x86_packed::{ask, halves, small, small_512, word, word_512};
use super::{Out, Packs, in_order};
use std::arch::x86_64::*;

/// The four columns of word `i` for token `t` of `A`, in every lane. `q` begins at the group.
#[inline(always)]
unsafe fn columns<const A: usize>(q: *const i8, i: usize, t: usize) -> i32 {
    q.add((i * A + t) * 4).cast::<i32>().read_unaligned()
}

/// See [`super::Direct::run`], of tiles of `A` tokens, `T` of which are wanted. One token leaves registers for four
/// panels at a time, which share its columns; and a core that reads four streams waits less.
macro_rules! direct {
    ($name:ident, $features:literal, $panels:ident) => {
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name<F: Packs, const T: usize, const A: usize>(
            w: &[u8],
            x: &Acts,
            tile: usize,
            out: Out,
        ) {
            let bytes = x.groups / F::GROUPS * unit::<F>();
            let (mut panel, end) = (0, w.len() / bytes);
            while panel < end {
                let (w, to) = (&w[panel * bytes..], Out { at: out.at.add(panel * ROWS), ..out });
                panel += match (T, end - panel) {
                    (1, 4..) => $panels::<F, T, A, 4>(w, x, tile, to),
                    (1, 2..) => $panels::<F, T, A, 2>(w, x, tile, to),
                    _ => $panels::<F, T, A, 1>(w, x, tile, to),
                };
            }
        }
    };
}
direct!(direct, "avx2,fma,f16c", panels);
direct!(direct_vnni, "avx2,fma,f16c,avxvnni", panels_vnni);
direct!(direct_512, "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni", panels_512);

/// Writes `run` (see [`super::Direct::run`]) of an instruction set with tiles of `TILE` tokens: the number of tokens wanted
/// becomes a constant.
macro_rules! run_by_tokens {
    ($direct:ident: $($few:literal)*) => {
        unsafe fn run<F: Packs>(w: &[u8], x: &Acts, tile: usize, tokens: usize, out: Out) {
            // SAFETY: as the caller says.
            unsafe {
                match (tokens, x.tile) {
                    (1, 1) => x86_few::$direct::<F, 1, 1>(w, x, tile, out),
                    $(($few, _) => x86_few::$direct::<F, $few, TILE>(w, x, tile, out),)*
                    _ => x86_few::$direct::<F, TILE, TILE>(w, x, tile, out),
                }
            }
        }
    };
}
pub(super) use run_by_tokens;

/// Writes the product of the first `P` panels of `w`, which returns `P`; with `$vnni` four products of bytes are summed in one
/// instruction.
macro_rules! panels {
    ($name:ident, $features:literal, $vnni:literal) => {
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn $name<F: Packs, const T: usize, const A: usize, const P: usize>(
            w: &[u8],
            x: &Acts,
            tile: usize,
            out: Out,
        ) -> usize {
            const VNNI: bool = $vnni;
            let ones = _mm256_set1_epi16(1);
            let scales = if F::SPLIT { 2 } else { 1 };
            // As many products as fit in 16 bits; one where weights are signed, and so must be made positive.
            let many = match F::BITS {
                4 => 8,
                5 => 4,
                6 => 2,
                _ => 1,
            };
            // Vectors of rows that share a token's columns, where there are registers for their sums.
            let together = if T == 1 || many == 2 { 1 } else { 2 };
            // AMD's own prefetchers follow four streams better without hints (by 20 to 45% on Zen 3), but not fewer.
            let ask_ahead = P < 4 || !crate::isa::amd();
            let bytes = x.groups / F::GROUPS * unit::<F>();
            let starts: [*const u8; P] = std::array::from_fn(|p| w[p * bytes..(p + 1) * bytes].as_ptr());
            // One token's sums are scaled by a block's f16 once a block; of more there would be too many.
            let by_block = F::GROUPS > 1 && T == 1;
            let mut acc = [[[_mm256_setzero_ps(); T]; 2]; P];
            let mut to = 0;
            for first in (tile * x.groups..(tile + 1) * x.groups).step_by(F::GROUPS) {
                let heads = starts.map(|s| s.add(to));
                to += head::<F>();
                let (mut scaled, mut leasts) = ([[_mm256_setzero_ps(); 2]; P], [[_mm256_setzero_ps(); 2]; P]);
                for g in first..first + F::GROUPS {
                    let at = starts.map(|s| s.add(to));
                    if ask_ahead {
                        at.iter().for_each(|at| ask::<F, P>(*at));
                    }
                    let q = x.q.as_ptr().add(g * 32 * A);
                    let dx = x.d.as_ptr().add(g * A);
                    let sums = if F::SPLIT { x.half_sums } else { x.sums }.as_ptr().add(g * scales * A);
                    for half in 0..2 / together {
                        let mut dots = [[[_mm256_setzero_si256(); T]; 2]; P];
                        let mut short = dots;
                        for i in 0..8 {
                            let mut w = [[_mm256_setzero_si256(); 2]; P];
                            for p in 0..P {
                                for k in 0..together {
                                    let v = half * together + k;
                                    w[p][k] = word::<F>(at[p].add(pairs::<F>() + 32 * v), i);
                                    if VNNI && F::BITS == 8 {
                                        w[p][k] = _mm256_xor_si256(w[p][k], _mm256_set1_epi8(-128));
                                    }
                                }
                            }
                            for t in 0..T {
                                let x = _mm256_set1_epi32(columns::<A>(q, i, t));
                                for j in 0..P * together {
                                    let (p, k) = (j / together, j % together);
                                    let (dots, short, w) = (&mut dots[p][k][t], &mut short[p][k][t], w[p][k]);
                                    if VNNI {
                                        let fresh = i % (8 / scales) == 0;
                                        let sum = if fresh { _mm256_setzero_si256() } else { *dots };
                                        *dots = _mm256_dpbusd_avx_epi32(sum, w, x);
                                        continue;
                                    }
                                    let product = match F::BITS {
                                        8 => _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w)),
                                        _ => _mm256_maddubs_epi16(w, x),
                                    };
                                    *short = if i % many == 0 {
                                        product
                                    } else {
                                        _mm256_add_epi16(*short, product)
                                    };
                                    if i % many == many - 1 {
                                        let sum = _mm256_madd_epi16(*short, ones);
                                        let first = i % (8 / scales) == many - 1;
                                        *dots = if first { sum } else { _mm256_add_epi32(*dots, sum) };
                                    }
                                }
                                if together == 2 && !VNNI {
                                    let sums = if many == 1 { &mut dots } else { &mut short };
                                    for [a, b] in sums {
                                        in_order(&mut a[t], &mut b[t]);
                                    }
                                }
                            }
                            if i % (8 / scales) != 8 / scales - 1 {
                                continue;
                            }
                            let h = if F::SPLIT { i / 4 } else { 0 }; // the half, or 0
                            for j in 0..P * together {
                                let (p, k) = (j / together, j % together);
                                let v = half * together + k;
                                if by_block {
                                    let d = match F::SPLIT {
                                        true => small::<true>(at[p].add(16 * h + 8 * v)),
                                        false => small::<false>(at[p].add(8 * v)),
                                    };
                                    let sum = _mm256_set1_ps(*sums.add(h * A));
                                    let dots = _mm256_cvtepi32_ps(dots[p][k][0]);
                                    let product = _mm256_mul_ps(dots, _mm256_set1_ps(*dx));
                                    scaled[p][v] = _mm256_fmadd_ps(product, d, scaled[p][v]);
                                    let m = if F::MIN { small::<false>(at[p].add(16 + 8 * v)) } else { d };
                                    leasts[p][v] = _mm256_fmadd_ps(m, sum, leasts[p][v]);
                                    continue;
                                }
                                let block = halves(heads[p].add(16 * v));
                                let d = match (F::GROUPS, F::SPLIT) {
                                    (1, _) => block,
                                    (_, true) => {
                                        _mm256_mul_ps(block, small::<true>(at[p].add(16 * h + 8 * v)))
                                    }
                                    (_, false) => _mm256_mul_ps(block, small::<false>(at[p].add(8 * v))),
                                };
                                for t in 0..T {
                                    let acc = &mut acc[p][v][t];
                                    let dots = _mm256_cvtepi32_ps(dots[p][k][t]);
                                    let product = _mm256_mul_ps(dots, _mm256_set1_ps(*dx.add(t)));
                                    let sum = _mm256_set1_ps(*sums.add(h * A + t));
                                    if F::MIN {
                                        let least = halves(heads[p].add(32 + 16 * v));
                                        *acc = _mm256_fmadd_ps(product, d, *acc);
                                        *acc = match F::GROUPS {
                                            1 => _mm256_fmadd_ps(least, sum, *acc),
                                            _ => {
                                                let m = _mm256_mul_ps(
                                                    least,
                                                    small::<false>(at[p].add(16 + 8 * v)),
                                                );
                                                _mm256_fnmadd_ps(m, sum, *acc)
                                            }
                                        };
                                    } else {
                                        let offset = _mm256_set1_ps(F::OFFSET as f32);
                                        let product = if F::BITS == 8 && !VNNI {
                                            product
                                        } else {
                                            _mm256_fnmadd_ps(offset, sum, product)
                                        };
                                        *acc = _mm256_fmadd_ps(product, d, *acc);
                                    }
                                }
                            }
                        }
                    }
                    to += group::<F>();
                }
                for p in 0..if by_block { P } else { 0 } {
                    for v in 0..2 {
                        let block = halves(heads[p].add(16 * v));
                        let least = match F::MIN {
                            true => halves(heads[p].add(32 + 16 * v)),
                            false => _mm256_mul_ps(block, _mm256_set1_ps(F::OFFSET as f32)),
                        };
                        acc[p][v][0] = _mm256_fmadd_ps(block, scaled[p][v], acc[p][v][0]);
                        acc[p][v][0] = _mm256_fnmadd_ps(least, leasts[p][v], acc[p][v][0]);
                    }
                }
            }
            for (p, acc) in acc.iter().enumerate() {
                for (v, acc) in acc.iter().enumerate() {
                    for (t, acc) in acc.iter().enumerate() {
                        _mm256_storeu_ps(out.at.add(t * out.stride + p * ROWS + 8 * v), *acc);
                    }
                }
            }
            P
        }
    };
}
panels!(panels, "avx2,fma,f16c", false);
panels!(panels_vnni, "avx2,fma,f16c,avxvnni", true);

/// As [`panels`], sixteen rows in a vector.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn panels_512<F: Packs, const T: usize, const A: usize, const P: usize>(
    w: &[u8],
    x: &Acts,
    tile: usize,
    out: Out,
) -> usize {
    let scales = if F::SPLIT { 2 } else { 1 };
    let bytes = x.groups / F::GROUPS * unit::<F>();
    let starts: [*const u8; P] = std::array::from_fn(|p| w[p * bytes..(p + 1) * bytes].as_ptr());
    let sixteen = |at: *const u8| _mm512_cvtph_ps(_mm256_loadu_si256(at.cast()));
    let mut acc = [[_mm512_setzero_ps(); T]; P];
    let mut to = 0;
    for first in (tile * x.groups..(tile + 1) * x.groups).step_by(F::GROUPS) {
        let mut block = [_mm512_setzero_ps(); P];
        let mut least = block;
        for p in 0..P {
            block[p] = sixteen(starts[p].add(to));
            least[p] = if F::MIN { sixteen(starts[p].add(to + 32)) } else { block[p] };
        }
        to += head::<F>();
        for g in first..first + F::GROUPS {
            let at = starts.map(|s| s.add(to));
            at.iter().for_each(|at| ask::<F, P>(*at));
            let q = x.q.as_ptr().add(g * 32 * A);
            let dx = x.d.as_ptr().add(g * A);
            let sums = if F::SPLIT { x.half_sums } else { x.sums }.as_ptr().add(g * scales * A);
            // Two sums a token, as one would wait for itself.
            let mut dots = [[[_mm512_setzero_si512(); 2]; T]; P];
            for i in 0..8 {
                let mut w = [_mm512_setzero_si512(); P];
                for p in 0..P {
                    w[p] = word_512::<F>(at[p].add(pairs::<F>()), i);
                }
                for t in 0..T {
                    let x = _mm512_set1_epi32(columns::<A>(q, i, t));
                    for p in 0..P {
                        dots[p][t][i / 4] = _mm512_dpbusd_epi32(dots[p][t][i / 4], w[p], x);
                    }
                }
            }
            for p in 0..P {
                for h in 0..scales {
                    let d = match (F::GROUPS, F::SPLIT) {
                        (1, _) => block[p],
                        (_, true) => _mm512_mul_ps(block[p], small_512::<true>(at[p].add(16 * h))),
                        (_, false) => _mm512_mul_ps(block[p], small_512::<false>(at[p])),
                    };
                    for t in 0..T {
                        let acc = &mut acc[p][t];
                        let dots = &dots[p][t];
                        let dot = if F::SPLIT { dots[h] } else { _mm512_add_epi32(dots[0], dots[1]) };
                        let product = _mm512_mul_ps(_mm512_cvtepi32_ps(dot), _mm512_set1_ps(*dx.add(t)));
                        let sum = _mm512_set1_ps(*sums.add(h * A + t));
                        if F::MIN {
                            *acc = _mm512_fmadd_ps(product, d, *acc);
                            *acc = match F::GROUPS {
                                1 => _mm512_fmadd_ps(least[p], sum, *acc),
                                _ => {
                                    let m = _mm512_mul_ps(least[p], small_512::<false>(at[p].add(16)));
                                    _mm512_fnmadd_ps(m, sum, *acc)
                                }
                            };
                        } else {
                            let offset = _mm512_set1_ps(F::OFFSET as f32);
                            *acc = _mm512_fmadd_ps(_mm512_fnmadd_ps(offset, sum, product), d, *acc);
                        }
                    }
                }
            }
            to += group::<F>();
        }
    }
    for (p, acc) in acc.iter().enumerate() {
        for (t, acc) in acc.iter().enumerate() {
            _mm512_storeu_ps(out.at.add(t * out.stride + p * ROWS), *acc);
        }
    }
    P
}
