//! Products of rows of floats: a tile of tokens by rows at once, so that every number loaded is used several times.

use crate::isa::{Isa, for_each_isa};
use half::{bf16, f16};

/// Tokens of a tile, and rows.
pub const TOKENS: usize = 6;
pub const ROWS: usize = 4;

/// Floats that are multiplied as they are stored.
pub trait Stored {
    /// one number, of any alignment where it is bytes
    type Number: Copy + Sync;

    fn to_f32(x: Self::Number) -> f32;

    /// Eight numbers. The processor must have AVX2 and F16C, and `at` as many numbers.
    #[cfg(target_arch = "x86_64")]
    unsafe fn eight(at: *const Self::Number) -> std::arch::x86_64::__m256;

    /// Those of sixteen numbers that the mask has, and zeros. The processor must have AVX-512 F, BW and VL, and `at`
    /// the numbers asked for.
    #[cfg(target_arch = "x86_64")]
    unsafe fn sixteen(mask: u16, at: *const Self::Number) -> std::arch::x86_64::__m512;
}

pub struct F32;
pub struct F16;
pub struct BF16;

#[cfg_attr(not(target_arch = "x86_64"), allow(unused_macros))]
macro_rules! stored {
    ($name:ident, $number:ty, |$x:ident| $to_f32:expr, |$p:ident| $eight:expr, |$mask:ident, $q:ident| $sixteen:expr) => {
        impl Stored for $name {
            type Number = $number;

            #[inline(always)]
            fn to_f32($x: $number) -> f32 {
                $to_f32
            }

            #[cfg(target_arch = "x86_64")]
            #[inline(always)]
            unsafe fn eight($p: *const $number) -> std::arch::x86_64::__m256 {
                use std::arch::x86_64::*;
                // SAFETY: the caller has the instructions and the numbers.
                unsafe { $eight }
            }

            #[cfg(target_arch = "x86_64")]
            #[inline(always)]
            unsafe fn sixteen($mask: u16, $q: *const $number) -> std::arch::x86_64::__m512 {
                use std::arch::x86_64::*;
                // SAFETY: the caller has the instructions and the numbers.
                unsafe { $sixteen }
            }
        }
    };
}

stored!(F32, f32, |x| x, |p| _mm256_loadu_ps(p), |mask, p| _mm512_maskz_loadu_ps(mask, p));
stored!(
    F16,
    [u8; 2],
    |x| f16::from_le_bytes(x).to_f32(),
    |p| _mm256_cvtph_ps(_mm_loadu_si128(p.cast())),
    |mask, p| _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, p.cast()))
);
stored!(
    BF16,
    [u8; 2],
    |x| bf16::from_le_bytes(x).to_f32(),
    |p| {
        let x = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(x))
    },
    |mask, p| {
        let x = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, p.cast()));
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(x))
    }
);

/// `count` rows of numbers, `stride` apart.
#[derive(Clone, Copy)]
pub struct Rows<'a, T> {
    pub at: &'a [T],
    pub stride: usize,
    pub count: usize,
}

impl<'a, T> Rows<'a, T> {
    /// The first `len` numbers of `N` rows from `first` on; the last row stands in for what is missing.
    #[inline(always)]
    fn take<const N: usize>(&self, first: usize, len: usize) -> [&'a [T]; N] {
        std::array::from_fn(|i| &self.at[(first + i).min(self.count - 1) * self.stride..][..len])
    }
}

/// Products of up to [`TOKENS`] rows of `x` with up to [`ROWS`] of `w`, over `len` numbers. Sums are those of vector
/// lanes, added up at the end, so their error grows with `len / 8` at most.
pub fn tile<W: Stored>(isa: Isa, x: Rows<f32>, w: Rows<W::Number>, len: usize) -> [[f32; ROWS]; TOKENS] {
    let mut y = [[0f32; ROWS]; TOKENS];
    let rows: [&[W::Number]; ROWS] = w.take(0, len);
    #[cfg(target_arch = "x86_64")]
    {
        use x86::{avx2, avx512};
        if isa >= Isa::Avx512 {
            // SAFETY: callers name an instruction set that the processor has.
            unsafe {
                match x.count {
                    1 => avx512::<W, 1>(x.take(0, len), rows, w.stride, &mut y),
                    2 => avx512::<W, 2>(x.take(0, len), rows, w.stride, &mut y),
                    3 | 4 => avx512::<W, 4>(x.take(0, len), rows, w.stride, &mut y),
                    _ => avx512::<W, 6>(x.take(0, len), rows, w.stride, &mut y),
                }
            }
            return y;
        }
        if isa >= Isa::Avx2 {
            // SAFETY: callers name an instruction set that the processor has.
            unsafe {
                match x.count {
                    1 => avx2::<W, 1>(x.take(0, len), rows, w.stride, &mut y),
                    2 => avx2::<W, 2>(x.take(0, len), rows, w.stride, &mut y),
                    _ => avx2::<W, 3>(x.take(0, len), rows, w.stride, &mut y),
                }
                if x.count > 3 {
                    avx2::<W, 3>(x.take(3, len), rows, w.stride, &mut y[3..]);
                }
            }
            return y;
        }
    }
    let _ = isa;
    for (x, y) in x.take::<TOKENS>(0, len).iter().zip(&mut y).take(x.count) {
        for (w, y) in rows.iter().zip(y) {
            *y = dot::<W>(x, w);
        }
    }
    y
}

/// The product of two rows, in eight sums.
fn dot<W: Stored>(a: &[f32], b: &[W::Number]) -> f32 {
    let ((a, ra), (b, rb)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut sums = [0f32; 8];
    for (a, b) in a.iter().zip(b) {
        for l in 0..8 {
            sums[l] += a[l] * W::to_f32(b[l]);
        }
    }
    sums.iter().sum::<f32>() + ra.iter().zip(rb).map(|(a, b)| a * W::to_f32(*b)).sum::<f32>()
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{ROWS, Stored};
    use std::arch::x86_64::*;

    /// Asks for the weights of the next tile, as far along its rows as this one is.
    #[inline(always)]
    fn prefetch<T>(at: *const T, stride: usize) {
        // SAFETY: prefetching reads nothing, so any address will do.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.wrapping_add(ROWS * stride).cast()) }
    }

    /// Products of all rows, which are equally long.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn avx2<W: Stored, const T: usize>(
        x: [&[f32]; T],
        w: [&[W::Number]; ROWS],
        stride: usize,
        y: &mut [[f32; ROWS]],
    ) {
        let len = x[0].len();
        assert!(x.iter().all(|r| r.len() == len) && w.iter().all(|r| r.len() == len));
        let mut acc = [[_mm256_setzero_ps(); ROWS]; T];
        for i in (0..len / 8 * 8).step_by(8) {
            let mut xs = [_mm256_setzero_ps(); T];
            for t in 0..T {
                // SAFETY: eight numbers from `i` on are within every row.
                xs[t] = unsafe { _mm256_loadu_ps(x[t].as_ptr().add(i)) };
            }
            for r in 0..ROWS {
                let at = w[r].as_ptr().wrapping_add(i);
                if T == 1 {
                    prefetch(at, stride);
                }
                // SAFETY: likewise, and the processor has the instructions.
                let w = unsafe { W::eight(at) };
                for t in 0..T {
                    acc[t][r] = _mm256_fmadd_ps(xs[t], w, acc[t][r]);
                }
            }
        }
        let rest = len / 8 * 8;
        for t in 0..T {
            y[t] = sums8(acc[t]);
            for r in 0..ROWS {
                let rest = x[t][rest..].iter().zip(&w[r][rest..]);
                y[t][r] += rest.map(|(a, b)| a * W::to_f32(*b)).sum::<f32>();
            }
        }
    }

    /// Products of all rows, which are equally long.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl")]
    pub fn avx512<W: Stored, const T: usize>(
        x: [&[f32]; T],
        w: [&[W::Number]; ROWS],
        stride: usize,
        y: &mut [[f32; ROWS]],
    ) {
        let len = x[0].len();
        assert!(x.iter().all(|r| r.len() == len) && w.iter().all(|r| r.len() == len));
        let mut acc = [[_mm512_setzero_ps(); ROWS]; T];
        for i in (0..len).step_by(16) {
            // Past the rows' end, zeros are loaded.
            let mask = if len - i >= 16 { !0 } else { (1 << (len - i)) - 1 };
            let mut xs = [_mm512_setzero_ps(); T];
            for t in 0..T {
                // SAFETY: the mask leaves out what lies past the row's end.
                xs[t] = unsafe { _mm512_maskz_loadu_ps(mask, x[t].as_ptr().add(i)) };
            }
            for r in 0..ROWS {
                let at = w[r].as_ptr().wrapping_add(i);
                if T == 1 {
                    prefetch(at, stride);
                }
                // SAFETY: likewise, and the processor has the instructions.
                let w = unsafe { W::sixteen(mask, at) };
                for t in 0..T {
                    acc[t][r] = _mm512_fmadd_ps(xs[t], w, acc[t][r]);
                }
            }
        }
        for t in 0..T {
            y[t] = sums16(acc[t]);
        }
    }

    /// The sums of four vectors.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn sums8(v: [__m256; ROWS]) -> [f32; ROWS] {
        let v = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
        let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        // SAFETY: both are 16 bytes, and any bits are an f32.
        unsafe { std::mem::transmute(v) }
    }

    /// The sums of four vectors. Horizontal additions would do, but they know 16 registers only, which would keep the
    /// loop above from using all 32.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn sums16(v: [__m512; ROWS]) -> [f32; ROWS] {
        let a = _mm512_add_ps(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
        let b = _mm512_add_ps(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
        let (low, high) = (_mm512_shuffle_ps::<0x44>(a, b), _mm512_shuffle_ps::<0xee>(a, b));
        let v = _mm512_add_ps(low, high);
        let v = _mm512_add_ps(v, _mm512_shuffle_f32x4::<0x4e>(v, v));
        let v = _mm512_add_ps(v, _mm512_shuffle_f32x4::<0xb1>(v, v));
        // SAFETY: both are 16 bytes, and any bits are an f32.
        unsafe { std::mem::transmute(_mm512_castps512_ps128(v)) }
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
