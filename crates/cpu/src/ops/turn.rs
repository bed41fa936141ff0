//! Rows of numbers become columns of a strip, and columns rows.

use crate::ops::gemm::WIDTH;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Rows that are turned together.
pub const ROWS: usize = 8;

/// Eight numbers of each of eight rows: the first vector has the first of all, and so on.
///
/// # Safety
/// The processor has AVX, and each row eight numbers.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub unsafe fn eight(rows: [*const f32; ROWS]) -> [__m256; ROWS] {
    // SAFETY: as the caller says.
    unsafe {
        let mut y = [_mm256_setzero_ps(); ROWS];
        for part in [0, 4] {
            // Four numbers of a row lie beside those of the row four on, so that turning needs no crossing of halves.
            let pair = |i: usize| {
                let (low, high) = (_mm_loadu_ps(rows[i].add(part)), _mm_loadu_ps(rows[i + 4].add(part)));
                _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(low), high)
            };
            let [a, b, c, d] = [pair(0), pair(1), pair(2), pair(3)];
            let (ab, cd) = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
            let (ef, gh) = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
            y[part] = _mm256_shuffle_ps::<0x44>(ab, cd);
            y[part + 1] = _mm256_shuffle_ps::<0xee>(ab, cd);
            y[part + 2] = _mm256_shuffle_ps::<0x44>(ef, gh);
            y[part + 3] = _mm256_shuffle_ps::<0xee>(ef, gh);
        }
        y
    }
}

/// Rows of D numbers, times `scale`, become columns of `to` `(D, W)`, from `at` on.
pub fn to_columns<const W: usize>(rows: [&[f32]; ROWS], scale: f32, to: &mut [[f32; W]], at: usize) {
    let dim = to.len();
    assert!(at + ROWS <= W && rows.iter().all(|r| r.len() == dim));
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_mut))]
    let mut done = 0;
    #[cfg(target_arch = "x86_64")]
    if crate::isa::isa() >= crate::isa::Isa::Avx2 {
        #[target_feature(enable = "avx2")]
        unsafe fn wide<const W: usize>(rows: [&[f32]; ROWS], scale: f32, to: &mut [[f32; W]], at: usize) {
            for (k, to) in to.as_chunks_mut::<ROWS>().0.iter_mut().enumerate() {
                // SAFETY: rows and columns have so many numbers, as asserted.
                unsafe {
                    for (x, to) in eight(rows.map(|r| r.as_ptr().add(ROWS * k))).into_iter().zip(to) {
                        _mm256_storeu_ps(to.as_mut_ptr().add(at), _mm256_mul_ps(x, _mm256_set1_ps(scale)));
                    }
                }
            }
        }
        // SAFETY: the processor has AVX2.
        unsafe { wide(rows, scale, to, at) };
        done = dim / ROWS * ROWS;
    }
    for (d, to) in to.iter_mut().enumerate().skip(done) {
        rows.iter().zip(&mut to[at..]).for_each(|(row, to)| *to = row[d] * scale);
    }
}

/// Columns of `from` `(D, WIDTH)`, from `at` on, become rows of D numbers, each times its own of `scale`.
pub fn to_rows(from: &[[f32; WIDTH]], at: usize, scale: &[f32; ROWS], rows: [&mut [f32]; ROWS]) {
    let dim = from.len();
    assert!(at + ROWS <= WIDTH && rows.iter().all(|r| r.len() == dim));
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_mut))]
    let mut done = 0;
    let mut rows = rows;
    #[cfg(target_arch = "x86_64")]
    if crate::isa::isa() >= crate::isa::Isa::Avx2 {
        #[target_feature(enable = "avx2")]
        unsafe fn wide(from: &[[f32; WIDTH]], at: usize, scale: &[f32; ROWS], rows: &mut [&mut [f32]; ROWS]) {
            for (k, from) in from.as_chunks::<ROWS>().0.iter().enumerate() {
                // SAFETY: rows and columns have so many numbers, as asserted.
                unsafe {
                    let turned = eight(from.each_ref().map(|x| x.as_ptr().add(at)));
                    for ((x, row), scale) in turned.into_iter().zip(&mut *rows).zip(scale) {
                        let x = _mm256_mul_ps(x, _mm256_set1_ps(*scale));
                        _mm256_storeu_ps(row.as_mut_ptr().add(ROWS * k), x);
                    }
                }
            }
        }
        // SAFETY: the processor has AVX2.
        unsafe { wide(from, at, scale, &mut rows) };
        done = dim / ROWS * ROWS;
    }
    for (d, from) in from.iter().enumerate().skip(done) {
        let scaled = from[at..].iter().zip(scale).map(|(x, scale)| x * scale);
        rows.iter_mut().zip(scaled).for_each(|(row, x)| row[d] = x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_rows_turned_and_back() {
        for dim in [1, 8, 13, 40] {
            let x: Vec<Vec<f32>> =
                (0..ROWS).map(|i| (0..dim).map(|d| (100 * i + d) as f32).collect()).collect();
            let (mut columns, mut back) = (vec![[0.0; WIDTH]; dim], vec![vec![0.0; dim]; ROWS]);
            to_columns(std::array::from_fn(|i| &x[i][..]), 2.0, &mut columns, 5);
            for (d, column) in columns.iter().enumerate() {
                for (i, y) in column.iter().enumerate() {
                    let wanted = i.checked_sub(5).and_then(|i| x.get(i)).map_or(0.0, |x| 2.0 * x[d]);
                    assert_eq!(*y, wanted, "{dim}: {d}, {i}");
                }
            }
            let halves = std::array::from_fn(|i| 0.5 / (1 << i) as f32);
            let mut rows = back.iter_mut();
            to_rows(&columns, 5, &halves, std::array::from_fn(|_| &mut rows.next().expect("eight")[..]));
            for (i, (x, y)) in x.iter().zip(&back).enumerate() {
                assert!(x.iter().zip(y).all(|(x, y)| *y == x / (1 << i) as f32), "{dim}: {i}");
            }
        }
    }
}
