//! Unpacking in AVX2 registers, and the kernels that AVX2 and AVX-512 write alike but for the multiplication.
//!
//! Intrinsics that take no pointer are safe within functions compiled for their instruction set; loads go through
//! [`load`] and its like, which take references to as many bytes as they read.

use super::format::*;
use std::arch::x86_64::*;

/// A format's blocks as vectors. A chunk is eight groups of 32: one block, or eight.
///
/// Callers must have AVX2, FMA and F16C, and pass whole chunks to `scales`.
pub(super) trait Unpack: Format {
    /// Blocks of a chunk.
    const CHUNK: usize = 8 / Self::GROUPS;

    /// The unsigned numbers of group `J` of a chunk.
    unsafe fn group<const J: usize>(chunk: &[Self::Block]) -> __m256i;

    /// Scales of a chunk: of its groups in `[0]`, or of the halves of its groups, the first eight in `[0]`.
    unsafe fn scales(chunk: &[Self::Block]) -> Scales;
}

/// Scales, and addends unless the format's offset gives them.
pub(super) struct Scales {
    pub d: [__m256; 2],
    pub m: [__m256; 2],
}

/// 16 bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn load16(b: &[u8; 16]) -> __m128i {
    // SAFETY: as many bytes are there; the load asks for no alignment.
    unsafe { _mm_loadu_si128(b.as_ptr().cast()) }
}

/// 32 bytes.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load(b: &[u8; 32]) -> __m256i {
    // SAFETY: as many bytes are there; the load asks for no alignment.
    unsafe { _mm256_loadu_si256(b.as_ptr().cast()) }
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

/// 16 bytes of nibbles: the lower ones first, then the upper ones.
#[inline]
#[target_feature(enable = "avx2")]
fn nibbles(qs: &[u8; 16]) -> __m256i {
    let x = load16(qs);
    _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16::<4>(x), x), _mm256_set1_epi8(15))
}

/// Bits `SHIFT..` of 32 bytes, as many as `mask` has.
#[inline]
#[target_feature(enable = "avx2")]
fn bits(x: __m256i, shift: i32, mask: i8) -> __m256i {
    _mm256_and_si256(_mm256_srl_epi16(x, _mm_cvtsi32_si128(shift)), _mm256_set1_epi8(mask))
}

/// Each of 16 levels looked up by 32 nibbles.
#[inline]
#[target_feature(enable = "avx2")]
fn lookup(levels: &[u8; 16], nibbles: __m256i) -> __m256i {
    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(load16(levels)), nibbles)
}

/// Where bit `i` of `high` is set, 16 in byte `i`.
#[inline]
#[target_feature(enable = "avx2")]
fn fifth_bits(high: i32) -> __m256i {
    let each = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
    let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201u64 as i64);
    let x = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(high), each), bit);
    _mm256_and_si256(_mm256_cmpeq_epi8(x, bit), _mm256_set1_epi8(16))
}

/// Eight f16, one at byte `at` of each block.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn eight_f16<const B: usize>(c: &[[u8; B]], at: usize) -> __m256 {
    let c: &[[u8; B]; 8] = c.try_into().expect("a whole chunk");
    let d = |i: usize| word(&c[i], at);
    _mm256_cvtph_ps(_mm_setr_epi16(d(0), d(1), d(2), d(3), d(4), d(5), d(6), d(7)))
}

/// Eight pairs of f16, one at the head of each block.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn eight_pairs<const B: usize>(c: &[[u8; B]]) -> (__m256, __m256) {
    let c: &[[u8; B]; 8] = c.try_into().expect("a whole chunk");
    let apart = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    let four = |i: usize| {
        let p = |i: usize| dword(&c[i], 0);
        _mm_shuffle_epi8(_mm_setr_epi32(p(i), p(i + 1), p(i + 2), p(i + 3)), apart)
    };
    let (a, b) = (four(0), four(4));
    (_mm256_cvtph_ps(_mm_unpacklo_epi64(a, b)), _mm256_cvtph_ps(_mm_unpackhi_epi64(a, b)))
}

/// An f16 eight times.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn one_f16<const B: usize>(b: &[u8; B], at: usize) -> __m256 {
    _mm256_cvtph_ps(_mm_set1_epi16(word(b, at)))
}

/// Eight unsigned bytes as f32.
#[inline]
#[target_feature(enable = "avx2")]
fn eight_u8(x: __m128i) -> __m256 {
    _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(x))
}

/// 16 signed bytes as f32, times `d`.
#[inline]
#[target_feature(enable = "avx2")]
fn sixteen_i8(x: __m128i, d: __m256) -> [__m256; 2] {
    [x, _mm_srli_si128::<8>(x)].map(|x| _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(x))))
}

#[inline]
#[target_feature(enable = "avx2")]
fn none() -> [__m256; 2] {
    [_mm256_setzero_ps(); 2]
}

/// `-x`.
#[inline]
#[target_feature(enable = "avx2")]
fn minus(x: __m256) -> __m256 {
    _mm256_xor_ps(x, _mm256_set1_ps(-0.0))
}

/// Scales and minimums of Q4_K and Q5_K.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn scales_k<const B: usize>(b: &[u8; B]) -> Scales {
    let (s, m) = scales_6bit(bytes::<12, B>(b, 4));
    let d = _mm256_mul_ps(one_f16(b, 0), eight_u8(_mm_cvtsi64_si128(s as i64)));
    let m = _mm256_mul_ps(minus(one_f16(b, 2)), eight_u8(_mm_cvtsi64_si128(m as i64)));
    Scales { d: [d, none()[0]], m: [m, none()[0]] }
}

macro_rules! unpack {
    ($($name:ident { |$chunk:ident, $j:ident| $group:expr, |$all:ident| $scales:expr })*) => {
        $(
            impl Unpack for $name {
                #[inline]
                #[target_feature(enable = "avx2,fma,f16c")]
                unsafe fn group<const J: usize>($chunk: &[Self::Block]) -> __m256i {
                    let $j = J;
                    $group
                }
                #[inline]
                #[target_feature(enable = "avx2,fma,f16c")]
                unsafe fn scales($all: &[Self::Block]) -> Scales {
                    $scales
                }
            }
        )*
    };
}

unpack! {
    Q4_0 {
        |c, j| nibbles(bytes(&c[j], 2)),
        |c| Scales { d: [eight_f16(c, 0), none()[0]], m: none() }
    }
    Q4_1 {
        |c, j| nibbles(bytes(&c[j], 4)),
        |c| {
            let (d, m) = eight_pairs(c);
            Scales { d: [d, none()[0]], m: [m, none()[0]] }
        }
    }
    Q5_0 {
        |c, j| _mm256_or_si256(nibbles(bytes(&c[j], 6)), fifth_bits(dword(&c[j], 2))),
        |c| Scales { d: [eight_f16(c, 0), none()[0]], m: none() }
    }
    Q5_1 {
        |c, j| _mm256_or_si256(nibbles(bytes(&c[j], 8)), fifth_bits(dword(&c[j], 4))),
        |c| {
            let (d, m) = eight_pairs(c);
            Scales { d: [d, none()[0]], m: [m, none()[0]] }
        }
    }
    Q8_0 {
        |c, j| _mm256_xor_si256(load(bytes(&c[j], 2)), _mm256_set1_epi8(-128)),
        |c| Scales { d: [eight_f16(c, 0), none()[0]], m: none() }
    }
    Q2_K {
        |c, j| bits(load(bytes(&c[0], 16 + j / 4 * 32)), (j % 4 * 2) as i32, 3),
        |c| {
            let s = load16(bytes(&c[0], 0));
            let (low, high) = (_mm_set1_epi8(15), _mm_srli_epi16::<4>(s));
            let d = sixteen_i8(_mm_and_si128(s, low), one_f16(&c[0], 80));
            let m = sixteen_i8(_mm_and_si128(high, low), minus(one_f16(&c[0], 82)));
            Scales { d, m }
        }
    }
    Q3_K {
        |c, j| {
            let low = bits(load(bytes(&c[0], 32 + j / 4 * 32)), (j % 4 * 2) as i32, 3);
            let high = bits(load(bytes(&c[0], 0)), j as i32, 1);
            _mm256_or_si256(low, _mm256_slli_epi16::<2>(high))
        },
        |c| {
            let s = _mm_sub_epi8(load16(&scales_q3(bytes::<12, 110>(&c[0], 96))), _mm_set1_epi8(32));
            Scales { d: sixteen_i8(s, one_f16(&c[0], 108)), m: none() }
        }
    }
    Q4_K {
        |c, j| bits(load(bytes(&c[0], 16 + j / 2 * 32)), (j % 2 * 4) as i32, 15),
        |c| scales_k(&c[0])
    }
    Q5_K {
        |c, j| {
            let low = bits(load(bytes(&c[0], 48 + j / 2 * 32)), (j % 2 * 4) as i32, 15);
            let high = bits(load(bytes(&c[0], 16)), j as i32, 1);
            _mm256_or_si256(low, _mm256_slli_epi16::<4>(high))
        },
        |c| scales_k(&c[0])
    }
    Q6_K {
        |c, j| {
            let (half, quarter) = (j / 4, j % 4);
            let low = bits(load(bytes(&c[0], half * 64 + quarter % 2 * 32)), (quarter / 2 * 4) as i32, 15);
            let high = bits(load(bytes(&c[0], 128 + half * 32)), (quarter * 2) as i32, 3);
            _mm256_or_si256(low, _mm256_slli_epi16::<4>(high))
        },
        |c| Scales { d: sixteen_i8(load16(bytes(&c[0], 192)), one_f16(&c[0], 208)), m: none() }
    }
    IQ4_NL {
        |c, j| lookup(&IQ4_LEVELS, nibbles(bytes(&c[j], 2))),
        |c| Scales { d: [eight_f16(c, 0), none()[0]], m: none() }
    }
    IQ4_XS {
        |c, j| lookup(&IQ4_LEVELS, nibbles(bytes(&c[0], 8 + 16 * j))),
        |c| {
            let s = _mm_set_epi64x(0, i64::from_le_bytes(scales_iq4(&c[0])));
            let s = _mm256_sub_ps(eight_u8(s), _mm256_set1_ps(32.0));
            Scales { d: [_mm256_mul_ps(one_f16(&c[0], 0), s), none()[0]], m: none() }
        }
    }
    MXFP4 {
        |c, j| lookup(&E2M1, nibbles(bytes(&c[j], 1))),
        |c| {
            let e = |i: usize| half_power(c[i][0]);
            let d = _mm256_setr_ps(e(0), e(1), e(2), e(3), e(4), e(5), e(6), e(7));
            Scales { d: [d, none()[0]], m: none() }
        }
    }
}

/// Scales of a chunk with addends. `SIGNED` kernels take the offset of 8-bit formats out of the numbers.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn scales<F: Unpack, const SIGNED: bool>(chunk: &[F::Block]) -> Scales {
    // SAFETY: this function is compiled for what `scales` demands, and callers pass whole chunks.
    let mut s = unsafe { F::scales(chunk) };
    if SIGNED && F::BITS == 8 {
        s.m = none();
    } else if !F::MIN {
        s.m = s.d.map(|d| _mm256_mul_ps(d, _mm256_set1_ps(-(F::OFFSET as f32))));
    }
    s
}

/// The scales of a chunk that may end early, from the formats' portable definitions.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn scales_of_rest<F: Unpack, const SIGNED: bool>(chunk: &[F::Block]) -> Scales {
    let mut d = [0f32; 8];
    let mut m = [0f32; 8];
    for (j, b) in chunk.iter().enumerate() {
        d[j] = F::scale(b, 0, 0);
        m[j] = if SIGNED && F::BITS == 8 { 0.0 } else { F::addend(b, 0, 0) };
    }
    Scales { d: [load_f32(&d), none()[0]], m: [load_f32(&m), none()[0]] }
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load_f32(x: &[f32; 8]) -> __m256 {
    // SAFETY: eight numbers are there; the load asks for no alignment.
    unsafe { _mm256_loadu_ps(x.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load_i8(x: &[i8; 32]) -> __m256i {
    // SAFETY: 32 bytes are there; the load asks for no alignment.
    unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn to_array(x: __m256) -> [f32; 8] {
    // SAFETY: both are 32 bytes, and any bits are an f32.
    unsafe { std::mem::transmute(x) }
}

/// The sum of eight numbers.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn sum(x: __m256) -> f32 {
    let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
}

/// Halves `2j` and `2j + 1` of sixteen scales, each four times: what the products of group `J` are scaled by.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn of_halves<const J: usize>(d: [__m256; 2]) -> __m256 {
    let at = (J % 4 * 2) as i32;
    let (a, b) = (_mm256_set1_epi32(at), _mm256_set1_epi32(at + 1));
    _mm256_permutevar8x32_ps(d[J / 4], _mm256_blend_epi32::<0xf0>(a, b))
}

/// Rows and columns of 8 × 8 numbers of 32 bits exchanged.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn transpose(v: [__m256i; 8]) -> [__m256i; 8] {
    let pair = |i: usize| (_mm256_unpacklo_epi32(v[i], v[i + 1]), _mm256_unpackhi_epi32(v[i], v[i + 1]));
    let ((a0, a1), (b0, b1), (c0, c1), (d0, d1)) = (pair(0), pair(2), pair(4), pair(6));
    let lower = [
        _mm256_unpacklo_epi64(a0, b0),
        _mm256_unpackhi_epi64(a0, b0),
        _mm256_unpacklo_epi64(a1, b1),
        _mm256_unpackhi_epi64(a1, b1),
    ];
    let upper = [
        _mm256_unpacklo_epi64(c0, d0),
        _mm256_unpackhi_epi64(c0, d0),
        _mm256_unpacklo_epi64(c1, d1),
        _mm256_unpackhi_epi64(c1, d1),
    ];
    std::array::from_fn(|i| match i < 4 {
        true => _mm256_permute2x128_si256::<0x20>(lower[i], upper[i]),
        false => _mm256_permute2x128_si256::<0x31>(lower[i - 4], upper[i - 4]),
    })
}

/// Runs a block for each of the eight groups of a chunk, `J` being a constant.
macro_rules! for_groups {
    ($body:ident!($($arg:tt)*)) => {
        $body!(0, $($arg)*);
        $body!(1, $($arg)*);
        $body!(2, $($arg)*);
        $body!(3, $($arg)*);
        $body!(4, $($arg)*);
        $body!(5, $($arg)*);
        $body!(6, $($arg)*);
        $body!(7, $($arg)*);
    };
}
pub(super) use for_groups;

/// Writes `rows` and `unpack` (see [`super::Kernels`]) for an instruction set that has `dot::<BITS>(u, x)`: eight sums
/// of four products; `SIGNED` tells that it takes 128 from formats of 8 bits.
macro_rules! rows_and_unpack {
    ($features:literal, $signed:literal) => {
        #[target_feature(enable = $features)]
        unsafe fn rows<F: Unpack>(w: &[u8], x: &Acts, out: Out) {
            assert!(x.tile == 1 && x.tokens <= MAX_FEW);
            let per_row = x.groups / F::GROUPS;
            for (n, row) in blocks::<F>(w).chunks_exact(per_row).enumerate() {
                if x.tokens == 1 {
                    let y = one::<F>(row, x);
                    // SAFETY: the caller made room for every row and token.
                    unsafe { *out.at.add(n) = y };
                } else {
                    let mut y = [0f32; MAX_FEW];
                    few::<F>(row, x, &mut y);
                    for (t, y) in y.iter().enumerate().take(x.tokens) {
                        // SAFETY: the caller made room for every row and token.
                        unsafe { *out.at.add(t * out.stride + n) = *y };
                    }
                }
            }
        }

        /// A row times one token.
        #[inline]
        #[target_feature(enable = $features)]
        fn one<F: Unpack>(row: &[F::Block], x: &Acts) -> f32 {
            let mut acc = [_mm256_setzero_ps(); 2];
            let chunks = row.chunks_exact(F::CHUNK);
            let rest = chunks.remainder();
            let whole = row.len() / F::CHUNK;
            let q = x.q.as_chunks::<256>().0;
            let d = x.d.as_chunks::<8>().0;
            for (i, chunk) in chunks.enumerate() {
                prefetch(chunk);
                let s = scales::<F, $signed>(chunk);
                let q = q[i].as_chunks::<32>().0;
                addends::<F>(&s, x, 0, i, &mut acc);
                let dx = load_f32(&d[i]);
                if F::SPLIT {
                    macro_rules! group {
                        ($j:literal,) => {
                            // SAFETY: compiled for what `group` demands.
                            let u = unsafe { F::group::<$j>(chunk) };
                            let p = _mm256_cvtepi32_ps(dot::<F>(u, load_i8(&q[$j])));
                            let p = _mm256_mul_ps(p, _mm256_set1_ps(d[i][$j]));
                            acc[$j % 2] = _mm256_fmadd_ps(p, of_halves::<$j>(s.d), acc[$j % 2]);
                        };
                    }
                    for_groups!(group!());
                } else {
                    let dx = to_array(_mm256_mul_ps(s.d[0], dx));
                    macro_rules! group {
                        ($j:literal,) => {
                            // SAFETY: compiled for what `group` demands.
                            let u = unsafe { F::group::<$j>(chunk) };
                            let p = _mm256_cvtepi32_ps(dot::<F>(u, load_i8(&q[$j])));
                            acc[$j % 2] = _mm256_fmadd_ps(p, _mm256_set1_ps(dx[$j]), acc[$j % 2]);
                        };
                    }
                    for_groups!(group!());
                }
            }
            for (i, b) in rest.iter().enumerate() {
                single::<F>(b, x, whole * 8 + i, &mut acc[i % 2]);
            }
            sum(_mm256_add_ps(acc[0], acc[1]))
        }

        /// A group past the last whole chunk, of token and group `at`.
        #[inline]
        #[target_feature(enable = $features)]
        fn single<F: Unpack>(b: &F::Block, x: &Acts, at: usize, acc: &mut __m256) {
            let q: &[i8; 32] = x.q[at * 32..][..32].try_into().expect("32 values");
            // SAFETY: compiled for what `group` demands, and group 0 is in the first block.
            let u = unsafe { F::group::<0>(std::slice::from_ref(b)) };
            let p = _mm256_cvtepi32_ps(dot::<F>(u, load_i8(q)));
            *acc = _mm256_fmadd_ps(p, _mm256_set1_ps(x.d[at] * F::scale(b, 0, 0)), *acc);
            if !($signed && F::BITS == 8) {
                let m = _mm256_set_ss_wide(F::addend(b, 0, 0) * x.sums[at]);
                *acc = _mm256_add_ps(*acc, m);
            }
        }

        /// Addends times sums of chunk `i` of token `t`.
        #[inline]
        #[target_feature(enable = $features)]
        fn addends<F: Unpack>(s: &Scales, x: &Acts, t: usize, i: usize, acc: &mut [__m256; 2]) {
            if $signed && F::BITS == 8 {
                return;
            }
            if F::SPLIT {
                let sums = x.half_sums[2 * (t * x.groups + 8 * i)..][..16].as_chunks::<8>().0;
                acc[0] = _mm256_fmadd_ps(s.m[0], load_f32(&sums[0]), acc[0]);
                acc[1] = _mm256_fmadd_ps(s.m[1], load_f32(&sums[1]), acc[1]);
            } else {
                let sums = x.sums[t * x.groups + 8 * i..][..8].as_chunks::<8>().0;
                acc[0] = _mm256_fmadd_ps(s.m[0], load_f32(&sums[0]), acc[0]);
            }
        }

        /// A row times a few tokens: each chunk is unpacked once.
        #[inline]
        #[target_feature(enable = $features)]
        fn few<F: Unpack>(row: &[F::Block], x: &Acts, y: &mut [f32; MAX_FEW]) {
            let mut acc = [[_mm256_setzero_ps(); 2]; MAX_FEW];
            let chunks = row.chunks_exact(F::CHUNK);
            let rest = chunks.remainder();
            let whole = row.len() / F::CHUNK;
            for (i, chunk) in chunks.enumerate() {
                prefetch(chunk);
                let s = scales::<F, $signed>(chunk);
                let mut u = [_mm256_setzero_si256(); 8];
                let mut halves = [_mm256_setzero_ps(); 8];
                macro_rules! group {
                    ($j:literal,) => {
                        // SAFETY: compiled for what `group` demands.
                        u[$j] = unsafe { F::group::<$j>(chunk) };
                        if F::SPLIT {
                            halves[$j] = of_halves::<$j>(s.d);
                        }
                    };
                }
                for_groups!(group!());
                for (t, acc) in acc.iter_mut().enumerate().take(x.tokens) {
                    let at = t * x.groups + 8 * i;
                    let q = x.q[at * 32..][..256].as_chunks::<32>().0;
                    let d: &[f32; 8] = x.d[at..][..8].try_into().expect("eight scales");
                    addends::<F>(&s, x, t, i, acc);
                    if F::SPLIT {
                        for j in 0..8 {
                            let p = _mm256_cvtepi32_ps(dot::<F>(u[j], load_i8(&q[j])));
                            let p = _mm256_mul_ps(p, _mm256_set1_ps(d[j]));
                            acc[j % 2] = _mm256_fmadd_ps(p, halves[j], acc[j % 2]);
                        }
                    } else {
                        let d = to_array(_mm256_mul_ps(s.d[0], load_f32(d)));
                        for j in 0..8 {
                            let p = _mm256_cvtepi32_ps(dot::<F>(u[j], load_i8(&q[j])));
                            acc[j % 2] = _mm256_fmadd_ps(p, _mm256_set1_ps(d[j]), acc[j % 2]);
                        }
                    }
                }
            }
            for (t, (acc, y)) in acc.iter_mut().zip(y).enumerate().take(x.tokens) {
                for (i, b) in rest.iter().enumerate() {
                    single::<F>(b, x, t * x.groups + whole * 8 + i, &mut acc[i % 2]);
                }
                *y = sum(_mm256_add_ps(acc[0], acc[1]));
            }
        }

        #[target_feature(enable = $features)]
        unsafe fn unpack<F: Unpack>(
            w: &[u8],
            row_bytes: usize,
            first: usize,
            groups: usize,
            panel: &mut Panel,
        ) {
            let last = w.len() / row_bytes - 1;
            let scales_per_group = if F::SPLIT { 2 } else { 1 };
            assert!(panel.q.len() >= groups * 32 * ROWS);
            assert!(panel.d.len().min(panel.m.len()) >= groups * scales_per_group * ROWS);
            let flip = if $signed && F::BITS == 8 { _mm256_set1_epi8(-128) } else { _mm256_setzero_si256() };
            for r in (0..ROWS).step_by(8) {
                let rows: [&[F::Block]; 8] = std::array::from_fn(|i| {
                    let row = blocks::<F>(&w[(r + i).min(last) * row_bytes..][..row_bytes]);
                    &row[first / F::GROUPS..(first + groups) / F::GROUPS]
                });
                for g in (0..groups).step_by(8) {
                    let n = (groups - g).min(8);
                    let chunks = rows.map(|row| &row[g / F::GROUPS..(g + n).div_ceil(F::GROUPS)]);
                    macro_rules! group {
                        ($j:literal,) => {
                            if $j < n {
                                // SAFETY: compiled for what `group` demands, and the chunk has this group.
                                let u = chunks.map(|c| unsafe { F::group::<$j>(c) });
                                let u = transpose(u.map(|u| _mm256_xor_si256(u, flip)));
                                for k in 0..8 {
                                    let at = ((g + $j) * 8 + k) * ROWS * 4 + r * 4;
                                    // SAFETY: the panel has room for all groups of all rows, as asserted.
                                    unsafe { _mm256_storeu_si256(panel.q.as_mut_ptr().add(at).cast(), u[k]) };
                                }
                            }
                        };
                    }
                    for_groups!(group!());
                    let s = chunks.map(|c| match n == 8 {
                        true => scales::<F, $signed>(c),
                        false => scales_of_rest::<F, $signed>(c),
                    });
                    for h in 0..scales_per_group {
                        let d = transpose(std::array::from_fn(|i| _mm256_castps_si256(s[i].d[h])));
                        let m = transpose(std::array::from_fn(|i| _mm256_castps_si256(s[i].m[h])));
                        for k in 0..(n * scales_per_group).min(8) {
                            let at = (g * scales_per_group + h * 8 + k) * ROWS + r;
                            // SAFETY: the panel has room for the scales of all groups of all rows, as asserted.
                            unsafe {
                                _mm256_storeu_si256(panel.d.as_mut_ptr().add(at).cast(), d[k]);
                                _mm256_storeu_si256(panel.m.as_mut_ptr().add(at).cast(), m[k]);
                            }
                        }
                    }
                }
            }
        }
    };
}
pub(super) use rows_and_unpack;

/// Asks for what lies a few pages' worth of lines ahead of a chunk in the stream of weights.
#[inline(always)]
pub(super) fn prefetch<T>(chunk: &[T]) {
    const AHEAD: usize = 2048;
    let at = chunk.as_ptr().cast::<i8>().wrapping_add(AHEAD);
    for line in 0..size_of_val(chunk).div_ceil(64) {
        // SAFETY: prefetching reads nothing, so any address will do.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(line * 64)) };
    }
}
