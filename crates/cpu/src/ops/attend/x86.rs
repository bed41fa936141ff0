//! Vectors of AVX2 and AVX-512 for [`super::panel`].

use super::cross::columns_of;
use super::panel::{Bytes, Floats, Halves, LANES, Lanes, Nibbles, Panel, blocks};
use super::weigh::{Known, rows_of};
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

/// # Safety
/// As of [`rows_of`].
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn weigh_avx2(scores: &mut [f32], known: Known) {
    // SAFETY: as the caller promises, and the function is compiled for it.
    unsafe { rows_of::<Two>(scores, known) }
}

/// # Safety
/// As of [`rows_of`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub unsafe fn weigh_avx512(scores: &mut [f32], known: Known) {
    // SAFETY: as the caller promises, and the function is compiled for it.
    unsafe { rows_of::<One>(scores, known) }
}

/// The same as [`columns_of`], eight queries at a time: what 2^x is made of takes ten registers of 16.
///
/// # Safety
/// The processor has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn weigh_columns_avx2(
    scores: &mut [[f32; 32]],
    largest: &mut [f32; 32],
    weight: &mut [f32; 32],
    keep: &mut [f32; 32],
) {
    for at in (0..32).step_by(8) {
        // SAFETY: all are of 32 numbers.
        unsafe {
            let load = |x: &[f32; 32]| _mm256_loadu_ps(x.as_ptr().add(at));
            let before = load(largest);
            let mut best = [before; 4];
            let (fours, rest) = scores.as_chunks::<4>();
            for four in fours {
                // What is no number may not be the largest, and shows in the weights.
                (0..4).for_each(|i| best[i] = _mm256_max_ps(best[i], load(&four[i])));
            }
            rest.iter().for_each(|x| best[0] = _mm256_max_ps(best[0], load(x)));
            let best = _mm256_max_ps(_mm256_max_ps(best[0], best[1]), _mm256_max_ps(best[2], best[3]));
            let mut sum = _mm256_setzero_ps();
            for x in scores.iter_mut() {
                let e = exp2_8(_mm256_sub_ps(load(x), best));
                _mm256_storeu_ps(x.as_mut_ptr().add(at), e);
                sum = _mm256_add_ps(sum, e);
            }
            let kept = exp2_8(_mm256_sub_ps(before, best)); // next to 0 in the first block
            _mm256_storeu_ps(keep.as_mut_ptr().add(at), kept);
            _mm256_storeu_ps(largest.as_mut_ptr().add(at), best);
            let sum = _mm256_fmadd_ps(load(weight), kept, sum);
            _mm256_storeu_ps(weight.as_mut_ptr().add(at), sum);
        }
    }
}

/// # Safety
/// As of [`columns_of`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub unsafe fn weigh_columns_avx512(
    scores: &mut [[f32; 32]],
    largest: &mut [f32; 32],
    weight: &mut [f32; 32],
    keep: &mut [f32; 32],
) {
    // SAFETY: as the caller promises, and the function is compiled for it.
    unsafe { columns_of::<One>(scores, largest, weight, keep) }
}

/// What e^x is made of, as [`crate::math::exp`] has it: adding `ROUND` leaves the nearest whole number in the low bits.
const LEAST: f32 = -87.3;
const ROUND: f32 = 12_582_912.0;
const LN2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
const POLYNOMIAL: [f32; 6] =
    [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_5e-2, 1.666_666_5e-1, 0.5];

/// See [`Lanes::exp`]. A function, as a closure would not be compiled for these vectors.
#[inline(always)]
unsafe fn exp8(x: __m256) -> __m256 {
    // SAFETY: the caller is compiled for it.
    unsafe {
        let shifted = _mm256_fmadd_ps(x, _mm256_set1_ps(std::f32::consts::LOG2_E), _mm256_set1_ps(ROUND));
        let n = _mm256_sub_ps(shifted, _mm256_set1_ps(ROUND));
        let r = _mm256_fnmadd_ps(n, _mm256_set1_ps(LN2[0]), x);
        let r = _mm256_fnmadd_ps(n, _mm256_set1_ps(LN2[1]), r);
        let mut p = _mm256_set1_ps(POLYNOMIAL[0]);
        for c in &POLYNOMIAL[1..] {
            p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(*c));
        }
        let p = _mm256_fmadd_ps(p, _mm256_mul_ps(r, r), _mm256_add_ps(r, _mm256_set1_ps(1.0)));
        // n is added to the exponent.
        let n = _mm256_slli_epi32::<23>(_mm256_castps_si256(shifted));
        let y = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), n));
        _mm256_andnot_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(x, _mm256_set1_ps(LEAST)), y)
    }
}

/// 2^r for |r| <= 1/2, interpolated at the Chebyshev points, the highest power first.
const POWERS: [f32; 6] =
    [0.001_339_086_3, 0.009_676_032, 0.055_503_57, 0.240_221_07, std::f32::consts::LN_2, 1.0];

/// See [`Lanes::exp2`]; below 2^-125, of no weight beside any other, it stays at that.
#[inline(always)]
unsafe fn exp2_8(x: __m256) -> __m256 {
    // SAFETY: the caller is compiled for it.
    unsafe {
        // What is no number stays none, as the second operand counts then.
        let x = _mm256_max_ps(_mm256_set1_ps(-125.0), x);
        let shifted = _mm256_add_ps(x, _mm256_set1_ps(ROUND));
        let r = _mm256_sub_ps(x, _mm256_sub_ps(shifted, _mm256_set1_ps(ROUND)));
        let mut p = _mm256_set1_ps(POWERS[0]);
        for c in &POWERS[1..] {
            p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(*c));
        }
        let n = _mm256_slli_epi32::<23>(_mm256_castps_si256(shifted));
        _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), n))
    }
}

/// Two registers of AVX2.
#[derive(Clone, Copy)]
struct Two(__m256, __m256);

// SAFETY of all that follows: callers have as many numbers at `p` as are read, and are compiled for these vectors.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Lanes for Two {
    #[inline(always)]
    fn block(rows: usize) -> (usize, usize) {
        if rows <= 3 { (3, 2) } else { (6, 1) } // at most 12 of 16 registers are sums
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
    unsafe fn plus(self, b: Self) -> Self {
        unsafe { Two(_mm256_add_ps(self.0, b.0), _mm256_add_ps(self.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn most(self, b: Self) -> Self {
        unsafe { Two(_mm256_max_ps(self.0, b.0), _mm256_max_ps(self.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        unsafe {
            let x = _mm256_max_ps(self.0, self.1);
            let x = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)))
        }
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        unsafe {
            let x = _mm256_add_ps(self.0, self.1);
            let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
        }
    }
    #[inline(always)]
    unsafe fn exp(self) -> Self {
        unsafe { Two(exp8(self.0), exp8(self.1)) }
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
    fn fetch<const SOON: bool>(p: *const u8) {
        match SOON {
            true => unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) },
            false => unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) },
        }
    }
}

/// A register of AVX-512.
#[derive(Clone, Copy)]
pub struct One(pub __m512);

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
    unsafe fn plus(self, b: Self) -> Self {
        unsafe { One(_mm512_add_ps(self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn most(self, b: Self) -> Self {
        unsafe { One(_mm512_max_ps(self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        unsafe { _mm512_reduce_max_ps(self.0) }
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        unsafe { _mm512_reduce_add_ps(self.0) }
    }
    #[inline(always)]
    unsafe fn exp2(self) -> Self {
        unsafe {
            // What is no number stays none, as the second operand counts then.
            let x = _mm512_max_ps(_mm512_set1_ps(-150.0), self.0);
            let n = _mm512_roundscale_ps::<8>(x);
            let r = _mm512_sub_ps(x, n);
            let mut p = _mm512_set1_ps(POWERS[0]);
            for c in &POWERS[1..] {
                p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(*c));
            }
            One(_mm512_scalef_ps(p, n))
        }
    }
    #[inline(always)]
    unsafe fn exp(self) -> Self {
        unsafe {
            let x = self.0;
            let shifted = _mm512_fmadd_ps(x, _mm512_set1_ps(std::f32::consts::LOG2_E), _mm512_set1_ps(ROUND));
            let n = _mm512_sub_ps(shifted, _mm512_set1_ps(ROUND));
            let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(LN2[0]), x);
            let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(LN2[1]), r);
            let mut p = _mm512_set1_ps(POLYNOMIAL[0]);
            for c in &POLYNOMIAL[1..] {
                p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(*c));
            }
            let p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.0)));
            // n is added to the exponent; what is no number is not less than the least.
            let n = _mm512_slli_epi32::<23>(_mm512_castps_si512(shifted));
            let wanted = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, _mm512_set1_ps(LEAST));
            One(_mm512_castsi512_ps(_mm512_maskz_add_epi32(wanted, _mm512_castps_si512(p), n)))
        }
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
    fn fetch<const SOON: bool>(p: *const u8) {
        match SOON {
            true => unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) },
            false => unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) },
        }
    }
}
