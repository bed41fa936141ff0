//! Products of rows of f32: a tile of tokens by rows at once, so that every number loaded is used several times.

use crate::isa::{Isa, for_each_isa};

/// Tokens of a tile, and rows.
pub const TOKENS: usize = 6;
pub const ROWS: usize = 4;

/// `count` rows of numbers, `stride` apart.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    pub at: &'a [f32],
    pub stride: usize,
    pub count: usize,
}

impl<'a> Rows<'a> {
    /// The first `len` numbers of `N` rows; the last one stands in for what is missing.
    #[inline(always)]
    fn take<const N: usize>(&self, len: usize) -> [&'a [f32]; N] {
        std::array::from_fn(|i| &self.at[i.min(self.count - 1) * self.stride..][..len])
    }
}

/// Products of up to [`TOKENS`] rows of `x` with up to [`ROWS`] of `w`, over `len` numbers. Sums are those of vector
/// lanes, added up at the end, so their error grows with `len / 8` at most.
pub fn tile(isa: Isa, x: Rows, w: Rows, len: usize) -> [[f32; ROWS]; TOKENS] {
    let mut y = [[0f32; ROWS]; TOKENS];
    #[cfg(target_arch = "x86_64")]
    {
        use x86::{avx2, avx512};
        let rest = |n: usize| Rows {
            at: &x.at[n.min(x.count - 1) * x.stride..],
            stride: x.stride,
            count: x.count.saturating_sub(n).max(1),
        };
        if isa == Isa::Avx512 {
            // SAFETY: callers name an instruction set that the processor has.
            unsafe {
                match x.count {
                    1 => avx512::<1>(x.take(len), w.take(len), &mut y),
                    2 => avx512::<2>(x.take(len), w.take(len), &mut y),
                    3 | 4 => avx512::<4>(x.take(len), w.take(len), &mut y),
                    _ => avx512::<6>(x.take(len), w.take(len), &mut y),
                }
            }
            return y;
        }
        if isa == Isa::Avx2 {
            // SAFETY: callers name an instruction set that the processor has.
            unsafe {
                match x.count {
                    1 => avx2::<1>(x.take(len), w.take(len), &mut y),
                    2 => avx2::<2>(x.take(len), w.take(len), &mut y),
                    _ => avx2::<3>(x.take(len), w.take(len), &mut y),
                }
                if x.count > 3 {
                    avx2::<3>(rest(3).take(len), w.take(len), &mut y[3..]);
                }
            }
            return y;
        }
    }
    let _ = isa;
    let w: [&[f32]; ROWS] = w.take(len);
    for (x, y) in x.take::<TOKENS>(len).iter().zip(&mut y).take(x.count) {
        for (w, y) in w.iter().zip(y) {
            *y = dot(x, w);
        }
    }
    y
}

/// The product of two rows, in eight sums.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, ra), (b, rb)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut sums = [0f32; 8];
    for (a, b) in a.iter().zip(b) {
        for l in 0..8 {
            sums[l] += a[l] * b[l];
        }
    }
    sums.iter().sum::<f32>() + ra.iter().zip(rb).map(|(a, b)| a * b).sum::<f32>()
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::ROWS;
    use std::arch::x86_64::*;

    /// Products of all rows, which are equally long.
    #[target_feature(enable = "avx2,fma")]
    pub fn avx2<const T: usize>(x: [&[f32]; T], w: [&[f32]; ROWS], y: &mut [[f32; ROWS]]) {
        let len = x[0].len();
        assert!(x.iter().chain(&w).all(|r| r.len() == len));
        let mut acc = [[_mm256_setzero_ps(); ROWS]; T];
        for i in (0..len / 8 * 8).step_by(8) {
            // SAFETY: eight numbers from `i` on are within every row.
            let at = |r: &[f32]| unsafe { _mm256_loadu_ps(r.as_ptr().add(i)) };
            let mut xs = [_mm256_setzero_ps(); T];
            for t in 0..T {
                xs[t] = at(x[t]);
            }
            for r in 0..ROWS {
                let w = at(w[r]);
                for t in 0..T {
                    acc[t][r] = _mm256_fmadd_ps(xs[t], w, acc[t][r]);
                }
            }
        }
        for t in 0..T {
            for r in 0..ROWS {
                let rest = len / 8 * 8;
                let last: f32 = x[t][rest..].iter().zip(&w[r][rest..]).map(|(a, b)| a * b).sum();
                let a = acc[t][r];
                let a = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
                let a = _mm_add_ps(a, _mm_movehl_ps(a, a));
                y[t][r] = _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a))) + last;
            }
        }
    }

    /// Products of all rows, which are equally long.
    #[target_feature(enable = "avx2,fma,avx512f")]
    pub fn avx512<const T: usize>(x: [&[f32]; T], w: [&[f32]; ROWS], y: &mut [[f32; ROWS]]) {
        let len = x[0].len();
        assert!(x.iter().chain(&w).all(|r| r.len() == len));
        let mut acc = [[_mm512_setzero_ps(); ROWS]; T];
        for i in (0..len).step_by(16) {
            let mask = if len - i >= 16 { 0xffff } else { (1 << (len - i)) - 1 };
            // SAFETY: the mask leaves out what lies past the rows' end.
            let at = |r: &[f32]| unsafe { _mm512_maskz_loadu_ps(mask, r.as_ptr().add(i)) };
            let mut xs = [_mm512_setzero_ps(); T];
            for t in 0..T {
                xs[t] = at(x[t]);
            }
            for r in 0..ROWS {
                let w = at(w[r]);
                for t in 0..T {
                    acc[t][r] = _mm512_fmadd_ps(xs[t], w, acc[t][r]);
                }
            }
        }
        for t in 0..T {
            for r in 0..ROWS {
                y[t][r] = _mm512_reduce_add_ps(acc[t][r]);
            }
        }
    }
}

/// Decodes f16.
pub fn from_f16(bytes: &[u8], to: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if crate::isa::isa() >= Isa::Avx2 {
        // SAFETY: the processor has F16C.
        return unsafe { from_f16_x86(bytes, to) };
    }
    hob_graph::DType::F16.decode(bytes, to);
}

/// As above.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c")]
fn from_f16_x86(bytes: &[u8], to: &mut [f32]) {
    use std::arch::x86_64::*;
    assert_eq!(bytes.len(), 2 * to.len());
    let (chunks, rest) = bytes.as_chunks::<16>();
    for (b, y) in chunks.iter().zip(to.as_chunks_mut::<8>().0) {
        // SAFETY: 16 bytes are read and 8 numbers written, which the references have.
        unsafe { _mm256_storeu_ps(y.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(b.as_ptr().cast()))) };
    }
    hob_graph::DType::F16.decode(rest, &mut to[chunks.len() * 8..]);
}

for_each_isa! {
    /// Decodes bf16.
    pub fn from_bf16(bytes: &[u8], to: &mut [f32]) {
        let _ = FMA;
        assert_eq!(bytes.len(), 2 * to.len());
        for (b, y) in bytes.as_chunks::<2>().0.iter().zip(to) {
            *y = f32::from_bits((u16::from_le_bytes(*b) as u32) << 16);
        }
    }
}
