//! Unpacking in AVX2 registers, and the kernels that AVX2 and AVX-512 write alike but for the multiplication.
//!
//! All unsafe functions here ask the same of their callers: to be compiled for AVX2, FMA and F16C. They are always
//! inlined into such callers, which `target_feature` functions cannot be; hence they are unsafe throughout.
#![allow(unsafe_op_in_unsafe_fn)]

use super::format::*;
use std::arch::x86_64::*;

/// A format's blocks as vectors. A chunk is eight groups of 32: one block, or eight; fewer at the end of a row.
pub(super) trait Unpack: Format {
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
pub(super) struct Scales {
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

/// 16 bytes of nibbles: the lower ones first, then the upper ones.
#[inline(always)]
unsafe fn nibbles(qs: &[u8; 16]) -> __m256i {
    let x = load16(qs);
    _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16::<4>(x), x), _mm256_set1_epi8(15))
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

/// Eight powers of two by the first byte of each block, see [`half_power`].
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
unsafe fn eight_u8(x: u64) -> __m256 {
    _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(x as i64)))
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

/// Scales and minimums of Q4_K and Q5_K.
#[inline(always)]
unsafe fn scales_k<const B: usize>(b: &[u8; B]) -> Scales {
    let (s, m) = scales_6bit(bytes::<12, B>(b, 4));
    let d = _mm256_mul_ps(one_f16(b, 0), eight_u8(s));
    Scales::whole(d, _mm256_mul_ps(minus(one_f16(b, 2)), eight_u8(m)))
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
            let s = eight_u8(u64::from_le_bytes(scales_iq4(&c[0])));
            let s = _mm256_sub_ps(s, _mm256_set1_ps(32.0));
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

/// Sums of a row and a token that do not wait for each other.
pub(super) const SUMS: usize = 2;
pub(super) type Sums = [__m256; SUMS];

/// The sum of sums.
#[inline(always)]
pub(super) unsafe fn total(acc: &Sums) -> __m256 {
    _mm256_add_ps(acc[0], acc[1])
}

/// The sum of eight numbers.
#[inline(always)]
pub(super) unsafe fn sum(x: __m256) -> f32 {
    let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
}

/// Scales `2J` and `2J + 1` of sixteen, each four times: what the products of group `J` are scaled by.
#[inline(always)]
pub(super) unsafe fn of_halves<const J: usize>(d: [__m256; 2]) -> __m256 {
    let at = (J % 4 * 2) as i32;
    let (a, b) = (_mm256_set1_epi32(at), _mm256_set1_epi32(at + 1));
    _mm256_permutevar8x32_ps(d[J / 4], _mm256_blend_epi32::<0xf0>(a, b))
}

/// Rows and columns of 8 × 8 numbers of 32 bits exchanged.
#[inline(always)]
pub(super) unsafe fn transpose(v: [__m256i; 8]) -> [__m256i; 8] {
    let mut pairs = v;
    for i in (0..8).step_by(2) {
        pairs[i] = _mm256_unpacklo_epi32(v[i], v[i + 1]);
        pairs[i + 1] = _mm256_unpackhi_epi32(v[i], v[i + 1]);
    }
    let mut out = v;
    for i in 0..2 {
        let low = |from: usize| _mm256_unpacklo_epi64(pairs[from + i], pairs[from + 2 + i]);
        let high = |from: usize| _mm256_unpackhi_epi64(pairs[from + i], pairs[from + 2 + i]);
        let (a, b, c, d) = (low(0), low(4), high(0), high(4));
        out[2 * i] = _mm256_permute2x128_si256::<0x20>(a, b);
        out[2 * i + 1] = _mm256_permute2x128_si256::<0x20>(c, d);
        out[2 * i + 4] = _mm256_permute2x128_si256::<0x31>(a, b);
        out[2 * i + 5] = _mm256_permute2x128_si256::<0x31>(c, d);
    }
    out
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

/// Runs a macro for each of the eight groups of a chunk, whose number is a constant.
macro_rules! for_groups {
    ($body:ident) => {
        $body!(0);
        $body!(1);
        $body!(2);
        $body!(3);
        $body!(4);
        $body!(5);
        $body!(6);
        $body!(7);
    };
}
pub(super) use for_groups;

/// Writes `rows` and `unpack` (see [`super::Kernels`]) for an instruction set that has `dot::<F>(u, x)`: eight sums of
/// four products. `$signed` tells that it takes 128 from formats of 8 bits.
macro_rules! rows_and_unpack {
    ($features:literal, $signed:literal) => {
        #[target_feature(enable = $features)]
        unsafe fn rows<F: Unpack>(w: &[u8], x: &Acts, out: Out) {
            assert!(x.tile == 1 && x.tokens <= MAX_FEW);
            assert!(x.q.len() >= x.tokens * x.groups * 32);
            assert!(x.d.len().min(x.sums.len()).min(x.half_sums.len() / 2) >= x.tokens * x.groups);
            let rows = blocks::<F>(w).chunks_exact(x.groups / F::GROUPS);
            for (n, row) in rows.enumerate() {
                if x.tokens == 1 {
                    let mut acc = [[_mm256_setzero_ps(); SUMS]; 1];
                    row_times::<F, 1>(row, x, &mut acc);
                    // SAFETY: the caller made room for every row.
                    unsafe { *out.at.add(n) = sum(total(&acc[0])) };
                } else {
                    let mut acc = [[_mm256_setzero_ps(); SUMS]; MAX_FEW];
                    row_times::<F, MAX_FEW>(row, x, &mut acc);
                    for (t, acc) in acc.iter().enumerate().take(x.tokens) {
                        // SAFETY: the caller made room for every row and token.
                        unsafe { *out.at.add(t * out.stride + n) = sum(total(acc)) };
                    }
                }
            }
        }

        /// A row times up to `T` tokens: each chunk is unpacked once.
        #[inline]
        #[target_feature(enable = $features)]
        fn row_times<F: Unpack, const T: usize>(row: &[F::Block], x: &Acts, acc: &mut [Sums; T]) {
            let chunks = row.chunks_exact(F::CHUNK);
            let rest = chunks.remainder();
            for (i, chunk) in chunks.enumerate() {
                chunk_times::<F, T>(chunk, x, 8 * i, acc);
            }
            // Blocks of one group each, past the last whole chunk.
            let tokens = if T == 1 { 1 } else { x.tokens };
            for (j, b) in rest.iter().enumerate() {
                let (b, first) = (std::slice::from_ref(b), x.groups - rest.len() + j);
                // SAFETY: compiled for what is called; the activations have `tokens · groups` groups, as `rows` asserts.
                unsafe {
                    let s = scales::<F, $signed>(b);
                    let u = F::group::<0>(b);
                    for t in 0..tokens {
                        let at = t * x.groups + first;
                        let p = dot::<F>(u, _mm256_loadu_si256(x.q.as_ptr().add(at * 32).cast()));
                        let p = _mm256_mul_ps(_mm256_cvtepi32_ps(p), _mm256_set1_ps(*x.d.as_ptr().add(at)));
                        acc[t][0] = _mm256_fmadd_ps(p, s.d[0], acc[t][0]);
                        let once = _mm256_zextps128_ps256(_mm_load_ss(x.sums.as_ptr().add(at)));
                        acc[t][1] = _mm256_fmadd_ps(s.m[0], once, acc[t][1]);
                    }
                }
            }
        }

        /// A chunk times up to `T` tokens, from group `first` on.
        #[inline]
        #[target_feature(enable = $features)]
        fn chunk_times<F: Unpack, const T: usize>(
            chunk: &[F::Block],
            x: &Acts,
            first: usize,
            acc: &mut [Sums; T],
        ) {
            prefetch(chunk, 2048);
            let tokens = if T == 1 { 1 } else { x.tokens };
            assert!(first + 8 <= x.groups);
            // SAFETY: compiled for what is called; the activations have `tokens · groups` groups, as `rows` asserts,
            // of which eight are read from one of the token's on.
            unsafe {
                let s = scales::<F, $signed>(chunk);
                let mut u = [_mm256_setzero_si256(); 8];
                let mut halves = [_mm256_setzero_ps(); 8];
                macro_rules! group {
                    ($j:literal) => {
                        u[$j] = F::group::<$j>(chunk);
                        if F::SPLIT {
                            halves[$j] = of_halves::<$j>(s.d);
                        }
                    };
                }
                for_groups!(group);
                // By way of memory, from where a scale is broadcast as it is loaded.
                let mut whole = [[0f32; 8]; T];
                if !F::SPLIT {
                    for t in 0..tokens {
                        let d = _mm256_loadu_ps(x.d.as_ptr().add(t * x.groups + first));
                        whole[t] = to_array(_mm256_mul_ps(s.d[0], d));
                    }
                }
                for t in 0..tokens {
                    let acc = &mut acc[t];
                    let at = t * x.groups + first;
                    let (q, d) = (x.q.as_ptr().add(at * 32), x.d.as_ptr().add(at));
                    if F::SPLIT && F::addends::<$signed>() {
                        let sums = x.half_sums.as_ptr().add(2 * at);
                        acc[0] = _mm256_fmadd_ps(s.m[0], _mm256_loadu_ps(sums), acc[0]);
                        acc[1] = _mm256_fmadd_ps(s.m[1], _mm256_loadu_ps(sums.add(8)), acc[1]);
                    } else if F::addends::<$signed>() {
                        acc[0] = _mm256_fmadd_ps(s.m[0], _mm256_loadu_ps(x.sums.as_ptr().add(at)), acc[0]);
                    }
                    for j in 0..8 {
                        let p = dot::<F>(u[j], _mm256_loadu_si256(q.add(32 * j).cast()));
                        let p = _mm256_cvtepi32_ps(p);
                        if F::SPLIT {
                            let p = _mm256_mul_ps(p, _mm256_set1_ps(*d.add(j)));
                            acc[j % SUMS] = _mm256_fmadd_ps(p, halves[j], acc[j % SUMS]);
                        } else {
                            acc[j % SUMS] = _mm256_fmadd_ps(p, _mm256_set1_ps(whole[t][j]), acc[j % SUMS]);
                        }
                    }
                }
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
            let per_group = if F::SPLIT { 2 } else { 1 };
            assert!(panel.q.len() >= groups * 32 * ROWS);
            assert!(panel.d.len().min(panel.m.len()) >= groups * per_group * ROWS);
            let (q, d, m) = (panel.q.as_mut_ptr(), panel.d.as_mut_ptr(), panel.m.as_mut_ptr());
            for g in (0..groups).step_by(8) {
                for r in (0..ROWS).step_by(8) {
                    let n = (groups - g).min(8);
                    let blocks_of = (first + g) / F::GROUPS..(first + g + n) / F::GROUPS;
                    let mut chunks: [&[F::Block]; 8] = [&[]; 8];
                    for i in 0..8 {
                        let row = blocks::<F>(&w[(r + i).min(last) * row_bytes..][..row_bytes]);
                        chunks[i] = &row[blocks_of.clone()];
                        // Two chunks ahead, at a row's end in the panel that comes next.
                        let skip = if g + 16 < groups { 0 } else { (ROWS - 1) * row_bytes };
                        prefetch(chunks[i], 2 * size_of_val(chunks[i]) + skip);
                    }
                    // SAFETY: compiled for what is called; the panel has room for all groups of all rows, as asserted.
                    unsafe {
                        macro_rules! group {
                            ($j:literal) => {
                                if $j < n {
                                    unpack_group::<F, $j>(&chunks, q.add((g + $j) * 32 * ROWS + r * 4));
                                }
                            };
                        }
                        for_groups!(group);
                        let mut ds = [[_mm256_setzero_si256(); 8]; 2];
                        let mut ms = ds;
                        for i in 0..8 {
                            let s = scales::<F, $signed>(chunks[i]);
                            for h in 0..per_group {
                                ds[h][i] = _mm256_castps_si256(s.d[h]);
                                ms[h][i] = _mm256_castps_si256(s.m[h]);
                            }
                        }
                        for h in 0..per_group {
                            let (ds, ms) = (transpose(ds[h]), transpose(ms[h]));
                            for k in 0..(n * per_group).min(8) {
                                let at = (g * per_group + h * 8 + k) * ROWS + r;
                                _mm256_storeu_si256(d.add(at).cast(), ds[k]);
                                _mm256_storeu_si256(m.add(at).cast(), ms[k]);
                            }
                        }
                    }
                }
            }
        }

        /// Group `J` of eight rows, to every `4 · ROWS` bytes from `to` on.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn unpack_group<F: Unpack, const J: usize>(chunks: &[&[F::Block]; 8], to: *mut u8) {
            let flip = _mm256_set1_epi8(if $signed && F::BITS == 8 { -128 } else { 0 });
            let mut u = [_mm256_setzero_si256(); 8];
            // SAFETY: compiled for what is called; the caller has room for eight rows.
            unsafe {
                for i in 0..8 {
                    u[i] = _mm256_xor_si256(F::group::<J>(chunks[i]), flip);
                }
                for (k, u) in transpose(u).iter().enumerate() {
                    _mm256_storeu_si256(to.add(k * 4 * ROWS).cast(), *u);
                }
            }
        }
    };
}
pub(super) use rows_and_unpack;

/// Asks for what lies `ahead` bytes past a chunk.
#[inline(always)]
pub(super) fn prefetch<T>(chunk: &[T], ahead: usize) {
    let at = chunk.as_ptr().cast::<i8>().wrapping_add(ahead);
    for line in 0..size_of_val(chunk).div_ceil(64) {
        // SAFETY: prefetching reads nothing, so any address will do.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(line * 64)) };
    }
}
