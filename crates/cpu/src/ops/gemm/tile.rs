//! The innermost product: up to [`HEIGHT`] rows of a by a strip of [`WIDTH`] columns of b, with the sums in registers.

use crate::isa::fma;

/// Columns of a strip.
pub const WIDTH: usize = 32;
/// Rows of the result computed together: with WIDTH columns, 24 of AVX-512's 32 registers.
pub const HEIGHT: usize = 12;
/// Rows and columns of a step where registers are fewer or shorter: twelve of AVX2's 16.
const STEP: [usize; 2] = [6, 16];

/// Rows of K numbers, `stride` apart.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    pub at: &'a [f32],
    pub stride: usize,
    pub count: usize,
}

/// Writes `a · b`, where b is `(K, WIDTH)`, to `sums`, or adds it to them where they are not `fresh`.
pub fn tile(a: Rows, b: &[[f32; WIDTH]], sums: &mut [[f32; WIDTH]], fresh: bool) {
    assert!(b.is_empty() || a.at.len() >= (a.count - 1) * a.stride + b.len());
    run::<false>(a, b, sums, fresh);
}

/// The same with a turned: rows side by side, and their numbers `stride` apart.
pub fn tile_turned(a: Rows, b: &[[f32; WIDTH]], sums: &mut [[f32; WIDTH]], fresh: bool) {
    assert!(b.is_empty() || a.at.len() >= (b.len() - 1) * a.stride + a.count);
    run::<true>(a, b, sums, fresh);
}

fn run<const TURNED: bool>(a: Rows, b: &[[f32; WIDTH]], sums: &mut [[f32; WIDTH]], fresh: bool) {
    assert!(a.count >= 1 && a.count <= HEIGHT && sums.len() >= a.count);
    #[cfg(target_arch = "x86_64")]
    {
        use crate::isa::{Isa, isa};
        if isa() >= Isa::Avx512 {
            // SAFETY: the processor has AVX-512, and rows and sums are as many as asserted.
            return unsafe {
                match fresh {
                    true => x86::by_height::<TURNED, true>(a, b, sums),
                    false => x86::by_height::<TURNED, false>(a, b, sums),
                }
            };
        }
        if isa() >= Isa::Avx2 {
            // SAFETY: the processor has AVX2 and FMA, and likewise.
            return unsafe {
                match fresh {
                    true => x86::by_steps::<TURNED, true>(a, b, sums),
                    false => x86::by_steps::<TURNED, false>(a, b, sums),
                }
            };
        }
    }
    if fresh {
        sums[..a.count].fill([0.0; WIDTH]);
    }
    for first in (0..a.count).step_by(STEP[0]) {
        let rest = from::<TURNED>(a, first);
        for column in (0..WIDTH).step_by(STEP[1]) {
            match rest.count {
                6.. => portable::<TURNED, 6>(rest, b, column, &mut sums[first..]),
                _ => (0..rest.count).for_each(|i| {
                    portable::<TURNED, 1>(from::<TURNED>(rest, i), b, column, &mut sums[first + i..])
                }),
            }
        }
    }
}

/// The rows from `first` on.
fn from<const TURNED: bool>(a: Rows, first: usize) -> Rows {
    let at = if TURNED { first } else { first * a.stride };
    Rows { at: &a.at[at..], count: a.count - first, ..a }
}

fn portable<const TURNED: bool, const N: usize>(
    a: Rows,
    b: &[[f32; WIDTH]],
    column: usize,
    sums: &mut [[f32; WIDTH]],
) {
    const FMA: bool = cfg!(target_arch = "aarch64");
    let mut y: [[f32; STEP[1]]; N] = std::array::from_fn(|i| std::array::from_fn(|j| sums[i][column + j]));
    for (k, b) in b.iter().enumerate() {
        let b = &b[column..column + STEP[1]];
        for i in 0..N {
            let x = if TURNED { a.at[k * a.stride + i] } else { a.at[i * a.stride + k] };
            for j in 0..STEP[1] {
                y[i][j] = fma::<FMA>(x, b[j], y[i][j]);
            }
        }
    }
    for i in 0..N {
        sums[i][column..column + STEP[1]].copy_from_slice(&y[i]);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{HEIGHT, Rows, STEP, WIDTH, from};
    use std::arch::x86_64::*;

    /// All rows at once. The processor must have AVX-512 F, and memory what [`super::run`] asserts.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn by_height<const TURNED: bool, const FRESH: bool>(
        a: Rows,
        b: &[[f32; WIDTH]],
        sums: &mut [[f32; WIDTH]],
    ) {
        macro_rules! heights {
            ($($n:literal)*) => {
                // SAFETY: as the caller says.
                unsafe { match a.count { $($n => avx512::<TURNED, FRESH, $n>(a, b, sums),)* _ => {} } }
            };
        }
        heights!(1 2 3 4 5 6 7 8 9 10 11 12);
        const { assert!(HEIGHT == 12) };
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn avx512<const TURNED: bool, const FRESH: bool, const N: usize>(
        a: Rows,
        b: &[[f32; WIDTH]],
        sums: &mut [[f32; WIDTH]],
    ) {
        // SAFETY: rows, panel and sums are as long as the caller says.
        unsafe {
            let mut y = [[_mm512_setzero_ps(); 2]; HEIGHT];
            for i in 0..if FRESH { 0 } else { N } {
                let sums = sums[i].as_ptr();
                y[i] = [_mm512_loadu_ps(sums), _mm512_loadu_ps(sums.add(16))];
            }
            // Every third row has a pointer, and those between are reached by it and one or two strides: addresses that
            // an instruction computes by itself. Sums of strides would take the ports that multiply.
            let stride = a.stride;
            let mut at: [*const f32; 4] = std::array::from_fn(|i| match TURNED {
                true => a.at.as_ptr().wrapping_add(i * stride),
                false => a.at.as_ptr().wrapping_add(3 * i * stride),
            });
            // Spelt out, as the compiler does not unroll so much by itself.
            macro_rules! step {
                ($b:expr, $k:literal) => { step!($b, $k: 0 1 2 3 4 5 6 7 8 9 10 11) };
                ($b:expr, $k:literal: $($i:literal)*) => {
                    let b: *const f32 = $b;
                    let b = [_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(16))];
                    $(if $i < N {
                        let x = if TURNED { at[$k].add($i) } else { at[$i / 3].add($i % 3 * stride + $k) };
                        let x = _mm512_set1_ps(*x);
                        y[$i] = [_mm512_fmadd_ps(x, b[0], y[$i][0]), _mm512_fmadd_ps(x, b[1], y[$i][1])];
                    })*
                };
            }
            let (fours, rest) = b.as_chunks::<4>();
            for b in fours {
                step!(b[0].as_ptr(), 0);
                step!(b[1].as_ptr(), 1);
                step!(b[2].as_ptr(), 2);
                step!(b[3].as_ptr(), 3);
                at = at.map(|at| at.wrapping_add(if TURNED { 4 * stride } else { 4 }));
            }
            for b in rest {
                step!(b.as_ptr(), 0);
                at = at.map(|at| at.wrapping_add(if TURNED { stride } else { 1 }));
            }
            for i in 0..N {
                let sums = sums[i].as_mut_ptr();
                _mm512_storeu_ps(sums, y[i][0]);
                _mm512_storeu_ps(sums.add(16), y[i][1]);
            }
        }
    }

    /// Up to six rows by half a strip at a time: all rows by one half, which stays in the first cache, and then by the
    /// other. The processor must have AVX2 and FMA, and memory what [`super::run`] asserts.
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn by_steps<const TURNED: bool, const FRESH: bool>(
        a: Rows,
        b: &[[f32; WIDTH]],
        sums: &mut [[f32; WIDTH]],
    ) {
        // About equally many, as few sums wait for each other.
        let steps = a.count.div_ceil(STEP[0]);
        for column in (0..WIDTH).step_by(STEP[1]) {
            for step in 0..steps {
                let (first, end) = (a.count * step / steps, a.count * (step + 1) / steps);
                let rest = from::<TURNED>(a, first);
                let sums = &mut sums[first..end];
                // SAFETY: as the caller says.
                unsafe {
                    match sums.len() {
                        1 => avx2::<TURNED, FRESH, 1>(rest, b, column, sums),
                        2 => avx2::<TURNED, FRESH, 2>(rest, b, column, sums),
                        3 => avx2::<TURNED, FRESH, 3>(rest, b, column, sums),
                        4 => avx2::<TURNED, FRESH, 4>(rest, b, column, sums),
                        5 => avx2::<TURNED, FRESH, 5>(rest, b, column, sums),
                        _ => avx2::<TURNED, FRESH, 6>(rest, b, column, sums),
                    }
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2<const TURNED: bool, const FRESH: bool, const N: usize>(
        a: Rows,
        b: &[[f32; WIDTH]],
        column: usize,
        sums: &mut [[f32; WIDTH]],
    ) {
        // SAFETY: rows, panel and sums are as long as the caller says.
        unsafe {
            let sums = sums.as_mut_ptr().cast::<f32>().add(column);
            let mut y = [[_mm256_setzero_ps(); 2]; STEP[0]];
            for i in 0..if FRESH { 0 } else { N } {
                let sums = sums.add(i * WIDTH);
                y[i] = [_mm256_loadu_ps(sums), _mm256_loadu_ps(sums.add(8))];
            }
            // As above: addresses that instructions compute by themselves, and a loop that is left as foreseen.
            let stride = a.stride;
            let mut at: [*const f32; 4] = std::array::from_fn(|i| match TURNED {
                true => a.at.as_ptr().wrapping_add(i * stride),
                false => a.at.as_ptr().wrapping_add(3 * i * stride),
            });
            macro_rules! step {
                ($b:expr, $k:literal) => { step!($b, $k: 0 1 2 3 4 5) };
                ($b:expr, $k:literal: $($i:literal)*) => {
                    let b = $b.as_ptr().add(column);
                    let b = [_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8))];
                    $(if $i < N {
                        let x = if TURNED { at[$k].add($i) } else { at[$i / 3].add($i % 3 * stride + $k) };
                        let x = _mm256_set1_ps(*x);
                        y[$i] = [_mm256_fmadd_ps(x, b[0], y[$i][0]), _mm256_fmadd_ps(x, b[1], y[$i][1])];
                    })*
                };
            }
            let (fours, rest) = b.as_chunks::<4>();
            for b in fours {
                step!(b[0], 0);
                step!(b[1], 1);
                step!(b[2], 2);
                step!(b[3], 3);
                at = at.map(|at| at.wrapping_add(if TURNED { 4 * stride } else { 4 }));
            }
            for b in rest {
                step!(b, 0);
                at = at.map(|at| at.wrapping_add(if TURNED { stride } else { 1 }));
            }
            for i in 0..N {
                let sums = sums.add(i * WIDTH);
                _mm256_storeu_ps(sums, y[i][0]);
                _mm256_storeu_ps(sums.add(8), y[i][1]);
            }
        }
    }
}
