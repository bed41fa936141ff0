//! Unpacking in AVX2 registers.
//!
//! All unsafe functions here ask the same of their callers: to be compiled for AVX2, FMA and F16C. They are always
//! inlined into such callers, which `target_feature` functions cannot be; hence they are unsafe throughout.
#![allow(unsafe_op_in_unsafe_fn)]

use super::format::*;
use std::arch::x86_64::*;

/// A format's blocks as vectors. A chunk is eight groups of 32: one block, or eight; fewer at the end of a row.
pub(crate) trait Unpack: Format {
    /// Blocks of a chunk.
    const CHUNK: usize = 8 / Self::GROUPS;

    /// The unsigned numbers of group `J` of a chunk.
    unsafe fn group<const J: usize>(chunk: &[Self::Block]) -> __m256i;

    /// Scales of a chunk: of its groups in `[0]`, or of the halves of its groups, the first eight in `[0]`. Past the
    /// end of a shorter chunk the last is repeated.
    unsafe fn scales(chunk: &[Self::Block]) -> Scales;

    /// Whether addends must be added. `SIGNED` kernels take the offset of 8-bit formats out of the numbers.
    #[inline(always)]
    fn addends<const SIGNED: bool>() -> bool {
        !(SIGNED && Self::BITS == 8)
    }
}

/// Scales, and addends unless the format's offset gives them.
pub(crate) struct Scales {
    pub d: [__m256; 2],
    pub m: [__m256; 2],
}

impl Scales {
    /// Of formats with one scale a group.
    #[inline(always)]
    unsafe fn whole(d: __m256, m: __m256) -> Scales {
        Scales { d: [d, _mm256_setzero_ps()], m: [m, _mm256_setzero_ps()] }
    }

    /// Likewise, of formats with an offset.
    #[inline(always)]
    unsafe fn offset(d: __m256) -> Scales {
        Scales::whole(d, _mm256_setzero_ps())
    }
}

#[inline(always)]
unsafe fn load16(b: &[u8; 16]) -> __m128i {
    _mm_loadu_si128(b.as_ptr().cast())
}

#[inline(always)]
pub(super) unsafe fn load(b: &[u8; 32]) -> __m256i {
    _mm256_loadu_si256(b.as_ptr().cast())
}

#[inline(always)]
pub(super) unsafe fn load_f32(x: &[f32; 8]) -> __m256 {
    _mm256_loadu_ps(x.as_ptr())
}

#[inline(always)]
pub(super) unsafe fn to_array(x: __m256) -> [f32; 8] {
    std::mem::transmute(x)
}

/// `N` bytes from `at` on.
#[inline(always)]
fn bytes<const N: usize, const B: usize>(b: &[u8; B], at: usize) -> &[u8; N] {
    b[at..at + N].try_into().expect("within the block")
}

#[inline(always)]
fn word<const B: usize>(b: &[u8; B], at: usize) -> i16 {
    i16::from_le_bytes(*bytes(b, at))
}

#[inline(always)]
fn dword<const B: usize>(b: &[u8; B], at: usize) -> i32 {
    i32::from_le_bytes(*bytes(b, at))
}

/// 16 bytes of nibbles: the lower ones first, then the upper ones. Shifting twice the same bytes spares the ports for
/// shuffles, which are the fewest.
#[inline(always)]
unsafe fn nibbles(qs: &[u8; 16]) -> __m256i {
    let x = _mm256_srlv_epi64(_mm256_broadcastsi128_si256(load16(qs)), _mm256_setr_epi64x(0, 0, 4, 4));
    _mm256_and_si256(x, _mm256_set1_epi8(15))
}

/// The bits of 32 bytes from `shift` on, as many as `mask` has.
#[inline(always)]
unsafe fn bits(x: __m256i, shift: usize, mask: i8) -> __m256i {
    _mm256_and_si256(_mm256_srl_epi16(x, _mm_cvtsi32_si128(shift as i32)), _mm256_set1_epi8(mask))
}

/// Each of 32 nibbles replaced by one of 16 levels.
#[inline(always)]
unsafe fn lookup(levels: &[u8; 16], nibbles: __m256i) -> __m256i {
    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(load16(levels)), nibbles)
}

/// Where bit `i` of `high` is set, 16 in byte `i`.
#[inline(always)]
unsafe fn fifth_bits(high: i32) -> __m256i {
    let each = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
    let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201u64 as i64);
    let x = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(high), each), bit);
    _mm256_and_si256(_mm256_cmpeq_epi8(x, bit), _mm256_set1_epi8(16))
}

/// Eight f16, the first two bytes of each block.
#[inline(always)]
unsafe fn eight_f16<const B: usize>(c: &[[u8; B]]) -> __m256 {
    let d = |i: usize| word(&c[i.min(c.len() - 1)], 0);
    _mm256_cvtph_ps(_mm_setr_epi16(d(0), d(1), d(2), d(3), d(4), d(5), d(6), d(7)))
}

/// Eight pairs of f16, the first four bytes of each block.
#[inline(always)]
unsafe fn eight_pairs<const B: usize>(c: &[[u8; B]]) -> Scales {
    let p = |i: usize| dword(&c[i.min(c.len() - 1)], 0);
    let apart = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    let a = _mm_shuffle_epi8(_mm_setr_epi32(p(0), p(1), p(2), p(3)), apart);
    let b = _mm_shuffle_epi8(_mm_setr_epi32(p(4), p(5), p(6), p(7)), apart);
    Scales::whole(_mm256_cvtph_ps(_mm_unpacklo_epi64(a, b)), _mm256_cvtph_ps(_mm_unpackhi_epi64(a, b)))
}

/// Eight powers of two by the first byte of each block, as MXFP4's portable definition.
#[inline(always)]
unsafe fn eight_powers<const B: usize>(c: &[[u8; B]]) -> __m256 {
    let e = |i: usize| c[i.min(c.len() - 1)][0] as i32;
    let e = _mm256_setr_epi32(e(0), e(1), e(2), e(3), e(4), e(5), e(6), e(7));
    let normal = _mm256_slli_epi32::<23>(_mm256_sub_epi32(e, _mm256_set1_epi32(1)));
    let tiny = _mm256_sllv_epi32(_mm256_set1_epi32(0x0020_0000), e);
    _mm256_castsi256_ps(_mm256_blendv_epi8(normal, tiny, _mm256_cmpgt_epi32(_mm256_set1_epi32(2), e)))
}

/// The f16 at byte `at`, eight times.
#[inline(always)]
unsafe fn one_f16<const B: usize>(b: &[u8; B], at: usize) -> __m256 {
    _mm256_cvtph_ps(_mm_set1_epi16(word(b, at)))
}

/// Eight unsigned bytes as f32.
#[inline(always)]
unsafe fn eight_u8(x: __m128i) -> __m256 {
    _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(x))
}

/// 16 signed bytes as f32, times `d`.
#[inline(always)]
unsafe fn sixteen_i8(x: __m128i, d: __m256) -> [__m256; 2] {
    let (a, b) = (_mm256_cvtepi8_epi32(x), _mm256_cvtepi8_epi32(_mm_srli_si128::<8>(x)));
    [_mm256_mul_ps(d, _mm256_cvtepi32_ps(a)), _mm256_mul_ps(d, _mm256_cvtepi32_ps(b))]
}

/// `-x`.
#[inline(always)]
unsafe fn minus(x: __m256) -> __m256 {
    _mm256_xor_ps(x, _mm256_set1_ps(-0.0))
}

/// Scales and minimums of Q4_K and Q5_K: as the portable definition, with the scales in the lower eight bytes.
#[inline(always)]
unsafe fn scales_k<const B: usize>(b: &[u8; B]) -> Scales {
    let bytes = load16(bytes(b, 4));
    let low = _mm_shuffle_epi8(bytes, _mm_setr_epi8(0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 8, 9, 10, 11));
    let high = _mm_shuffle_epi8(bytes, _mm_setr_epi8(-1, -1, -1, -1, 0, 1, 2, 3, -1, -1, -1, -1, 4, 5, 6, 7));
    let low = _mm_blend_epi32::<8>(low, _mm_srli_epi16::<4>(low));
    let low = _mm_and_si128(low, _mm_setr_epi32(0x3f3f_3f3f, 0x0f0f_0f0f, 0x3f3f_3f3f, 0x0f0f_0f0f));
    let high = _mm_and_si128(_mm_srli_epi16::<2>(high), _mm_set1_epi8(0x30));
    let both = _mm_or_si128(low, high);
    let f16 = _mm256_cvtph_ps(_mm_set1_epi32(dword(b, 0))); // d and dmin in turn
    let d = _mm256_mul_ps(_mm256_moveldup_ps(f16), eight_u8(both));
    let m = _mm256_mul_ps(minus(_mm256_movehdup_ps(f16)), eight_u8(_mm_srli_si128::<8>(both)));
    Scales::whole(d, m)
}

macro_rules! unpack {
    ($($name:ident { |$chunk:ident, $j:ident| $group:expr, |$all:ident| $scales:expr })*) => {
        $(
            impl Unpack for $name {
                #[inline(always)]
                unsafe fn group<const J: usize>($chunk: &[Self::Block]) -> __m256i {
                    let $j = J;
                    $group
                }
                #[inline(always)]
                unsafe fn scales($all: &[Self::Block]) -> Scales {
                    $scales
                }
            }
        )*
    };
}

unpack! {
    Q4_0 { |c, j| nibbles(bytes(&c[j], 2)), |c| Scales::offset(eight_f16(c)) }
    Q4_1 { |c, j| nibbles(bytes(&c[j], 4)), |c| eight_pairs(c) }
    Q5_0 {
        |c, j| _mm256_or_si256(nibbles(bytes(&c[j], 6)), fifth_bits(dword(&c[j], 2))),
        |c| Scales::offset(eight_f16(c))
    }
    Q5_1 {
        |c, j| _mm256_or_si256(nibbles(bytes(&c[j], 8)), fifth_bits(dword(&c[j], 4))),
        |c| eight_pairs(c)
    }
    Q8_0 {
        |c, j| _mm256_xor_si256(load(bytes(&c[j], 2)), _mm256_set1_epi8(-128)),
        |c| Scales::offset(eight_f16(c))
    }
    Q2_K {
        |c, j| bits(load(bytes(&c[0], 16 + j / 4 * 32)), j % 4 * 2, 3),
        |c| {
            let (s, four) = (load16(bytes(&c[0], 0)), _mm_set1_epi8(15));
            let d = sixteen_i8(_mm_and_si128(s, four), one_f16(&c[0], 80));
            let m = sixteen_i8(_mm_and_si128(_mm_srli_epi16::<4>(s), four), minus(one_f16(&c[0], 82)));
            Scales { d, m }
        }
    }
    Q3_K {
        |c, j| {
            let low = bits(load(bytes(&c[0], 32 + j / 4 * 32)), j % 4 * 2, 3);
            let high = bits(load(bytes(&c[0], 0)), j, 1);
            _mm256_or_si256(low, _mm256_slli_epi16::<2>(high))
        },
        |c| {
            let s = _mm_sub_epi8(load16(&scales_q3(bytes::<12, 110>(&c[0], 96))), _mm_set1_epi8(32));
            Scales { d: sixteen_i8(s, one_f16(&c[0], 108)), m: [_mm256_setzero_ps(); 2] }
        }
    }
    Q4_K {
        |c, j| bits(load(bytes(&c[0], 16 + j / 2 * 32)), j % 2 * 4, 15),
        |c| scales_k(&c[0])
    }
    Q5_K {
        |c, j| {
            let low = bits(load(bytes(&c[0], 48 + j / 2 * 32)), j % 2 * 4, 15);
            let high = bits(load(bytes(&c[0], 16)), j, 1);
            _mm256_or_si256(low, _mm256_slli_epi16::<4>(high))
        },
        |c| scales_k(&c[0])
    }
    Q6_K {
        |c, j| {
            let (half, quarter) = (j / 4, j % 4);
            let low = bits(load(bytes(&c[0], half * 64 + quarter % 2 * 32)), quarter / 2 * 4, 15);
            let high = bits(load(bytes(&c[0], 128 + half * 32)), quarter * 2, 3);
            _mm256_or_si256(low, _mm256_slli_epi16::<4>(high))
        },
        |c| {
            let d = sixteen_i8(load16(bytes(&c[0], 192)), one_f16(&c[0], 208));
            Scales { d, m: [_mm256_setzero_ps(); 2] }
        }
    }
    IQ4_NL { |c, j| lookup(&IQ4_LEVELS, nibbles(bytes(&c[j], 2))), |c| Scales::offset(eight_f16(c)) }
    IQ4_XS {
        |c, j| lookup(&IQ4_LEVELS, nibbles(bytes(&c[0], 8 + 16 * j))),
        |c| {
            let (low, high) = (dword(&c[0], 4), word(&c[0], 2));
            let low = _mm256_srlv_epi32(_mm256_set1_epi32(low), _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
            let high = _mm256_set1_epi32(high as i32);
            let high = _mm256_srlv_epi32(high, _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14));
            let low = _mm256_and_si256(low, _mm256_set1_epi32(15));
            let high = _mm256_slli_epi32::<4>(_mm256_and_si256(high, _mm256_set1_epi32(3)));
            let s = _mm256_sub_epi32(_mm256_or_si256(low, high), _mm256_set1_epi32(32));
            let s = _mm256_cvtepi32_ps(s);
            Scales::offset(_mm256_mul_ps(one_f16(&c[0], 0), s))
        }
    }
    MXFP4 { |c, j| lookup(&E2M1, nibbles(bytes(&c[j], 1))), |c| Scales::offset(eight_powers(c)) }
}

/// Scales of a chunk with addends.
#[inline(always)]
pub(super) unsafe fn scales<F: Unpack, const SIGNED: bool>(chunk: &[F::Block]) -> Scales {
    let mut s = F::scales(chunk);
    if !F::addends::<SIGNED>() {
        s.m = [_mm256_setzero_ps(); 2];
    } else if !F::MIN {
        let offset = _mm256_set1_ps(-(F::OFFSET as f32));
        s.m = [_mm256_mul_ps(s.d[0], offset), _mm256_mul_ps(s.d[1], offset)];
    }
    s
}

/// See [`super::acts`]: the scale of a group of activations, its whole numbers, and their sums by halves.
#[inline(always)]
pub(super) unsafe fn group(x: &[f32; 32], smallest: f32) -> (f32, [i8; 32], [i32; 2]) {
    let mut v = [_mm256_setzero_ps(); 4];
    let mut most = _mm256_setzero_si256();
    for i in 0..4 {
        v[i] = _mm256_loadu_ps(x.as_ptr().add(8 * i));
        let bits = _mm256_and_si256(_mm256_castps_si256(v[i]), _mm256_set1_epi32(0x7fff_ffff));
        most = _mm256_max_epi32(most, bits);
    }
    let most = _mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256::<1>(most));
    let most = _mm_max_epi32(most, _mm_shuffle_epi32::<0x4e>(most));
    let most = _mm_max_epi32(most, _mm_shuffle_epi32::<0xb1>(most));
    let largest = f32::from_bits(_mm_cvtsi128_si32(most) as u32);
    let inverse = _mm256_set1_ps(if largest < smallest { 0.0 } else { 127.0 / largest });
    let mut q = [_mm256_setzero_si256(); 4];
    for i in 0..4 {
        q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse));
    }
    let q = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    let q = _mm256_permutevar8x32_epi32(q, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    // Sums of eight bytes each, made unsigned by 128.
    let sums = _mm256_sad_epu8(_mm256_xor_si256(q, _mm256_set1_epi8(-128)), _mm256_setzero_si256());
    let sums = _mm256_add_epi64(sums, _mm256_shuffle_epi32::<0x4e>(sums));
    let low = _mm_cvtsi128_si32(_mm256_castsi256_si128(sums)) - 2048;
    let high = _mm_cvtsi128_si32(_mm256_extracti128_si256::<1>(sums)) - 2048;
    (largest / 127.0, std::mem::transmute::<__m256i, [i8; 32]>(q), [low, high])
}
