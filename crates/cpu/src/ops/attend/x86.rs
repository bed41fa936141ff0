//! Vectors of AVX2 and AVX-512 for [`super::panel`].

use super::panel::{Bytes, Floats, Halves, LANES, Lanes, Nibbles, Panel, blocks};
use hob_graph::DType;
use std::arch::x86_64::*;

/// # Safety
/// As of [`blocks`].
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn avx2(p: &Panel, c: *mut f32) {
    // SAFETY: as the caller promises, and the function is compiled for it.
    unsafe {
        match p.dtype {
            DType::F32 => blocks::<Two, Floats>(p, c),
            DType::F16 => blocks::<Two, Halves>(p, c),
            DType::Q8_0 => blocks::<Two, Bytes>(p, c),
            _ => blocks::<Two, Nibbles>(p, c),
        }
    }
}

/// # Safety
/// As of [`blocks`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub unsafe fn avx512(p: &Panel, c: *mut f32) {
    // SAFETY: as the caller promises, and the function is compiled for it.
    unsafe {
        match p.dtype {
            DType::F32 => blocks::<One, Floats>(p, c),
            DType::F16 => blocks::<One, Halves>(p, c),
            DType::Q8_0 => blocks::<One, Bytes>(p, c),
            _ => blocks::<One, Nibbles>(p, c),
        }
    }
}

/// Two registers of AVX2.
#[derive(Clone, Copy)]
struct Two(__m256, __m256);

// SAFETY of all that follows: callers have as many numbers at `p` as are read, and are compiled for these vectors.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Lanes for Two {
    #[inline(always)]
    fn block(_: usize) -> (usize, usize) {
        (6, 1) // 12 of 16 registers are sums
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        unsafe { Two(_mm256_set1_ps(x), _mm256_set1_ps(x)) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        unsafe { Two(_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        unsafe {
            _mm256_storeu_ps(p, self.0);
            _mm256_storeu_ps(p.add(8), self.1);
        }
    }
    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        unsafe { Two(_mm256_fmadd_ps(a.0, b.0, self.0), _mm256_fmadd_ps(a.1, b.1, self.1)) }
    }
    #[inline(always)]
    unsafe fn times(self, b: Self) -> Self {
        unsafe { Two(_mm256_mul_ps(self.0, b.0), _mm256_mul_ps(self.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> Self {
        unsafe {
            let half = |at| _mm256_cvtph_ps(_mm_loadu_si128(p.add(at).cast()));
            Two(half(0), half(LANES))
        }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const u8) -> Self {
        unsafe {
            let half = |at| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.add(at).cast())));
            Two(half(0), half(8))
        }
    }
    #[inline(always)]
    unsafe fn load_i4(p: *const u8) -> Self {
        unsafe {
            let bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast()));
            let less = |x| _mm256_cvtepi32_ps(_mm256_sub_epi32(x, _mm256_set1_epi32(8)));
            let low = _mm256_and_si256(bytes, _mm256_set1_epi32(15));
            Two(less(low), less(_mm256_srli_epi32::<4>(bytes)))
        }
    }
    #[inline(always)]
    unsafe fn fetch(p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
}

/// A register of AVX-512.
#[derive(Clone, Copy)]
struct One(__m512);

#[allow(clippy::undocumented_unsafe_blocks)]
impl Lanes for One {
    #[inline(always)]
    fn block(rows: usize) -> (usize, usize) {
        match rows {
            7..=8 => (8, 2),
            _ => (6, 4), // at most 24 of 32 registers are sums
        }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        unsafe { One(_mm512_set1_ps(x)) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        unsafe { One(_mm512_loadu_ps(p)) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        unsafe { _mm512_storeu_ps(p, self.0) }
    }
    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        unsafe { One(_mm512_fmadd_ps(a.0, b.0, self.0)) }
    }
    #[inline(always)]
    unsafe fn times(self, b: Self) -> Self {
        unsafe { One(_mm512_mul_ps(self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> Self {
        unsafe { One(_mm512_cvtph_ps(_mm256_loadu_si256(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const u8) -> Self {
        unsafe { One(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast())))) }
    }
    #[inline(always)]
    unsafe fn load_i4(p: *const u8) -> Self {
        unsafe {
            let twice = _mm_set1_epi64x(p.cast::<i64>().read_unaligned());
            let shifts = _mm512_set_epi32(4, 4, 4, 4, 4, 4, 4, 4, 0, 0, 0, 0, 0, 0, 0, 0);
            let values =
                _mm512_set_ps(7., 6., 5., 4., 3., 2., 1., 0., -1., -2., -3., -4., -5., -6., -7., -8.);
            // The permutation looks at four bits only.
            One(_mm512_permutexvar_ps(_mm512_srlv_epi32(_mm512_cvtepu8_epi32(twice), shifts), values))
        }
    }
    #[inline(always)]
    unsafe fn fetch(p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
}
