//! Unpacking in NEON registers, which every 64-bit Arm processor has.
//!
//! Numbers are signed here: of formats of 8 bits the offset is taken, others are below 128 as they are.
//!
//! Functions here ask of their callers what the intrinsics ask: NEON. They are always inlined into callers compiled for
//! more, which `target_feature` functions cannot be; hence they are unsafe throughout.
#![allow(unsafe_op_in_unsafe_fn)]

use super::format::*;
use std::arch::aarch64::*;
use std::array::from_fn;
use std::mem::transmute;

/// 32 numbers.
pub(super) type Halves = [int8x16_t; 2];

/// A format's blocks as vectors. A chunk is eight groups of 32: one block, or eight; fewer at the end of a row.
pub(super) trait Unpack: Format {
    /// Blocks of a chunk.
    const CHUNK: usize = 8 / Self::GROUPS;
    /// Whether addends must be added.
    const ADDENDS: bool = Self::BITS != 8;

    /// The numbers of group `J` of a chunk.
    unsafe fn group<const J: usize>(chunk: &[Self::Block]) -> Halves;

    /// Scales of a chunk: of its groups in the first eight, or of the halves of its groups. Past the end of a shorter
    /// chunk they are zeros.
    unsafe fn scales(chunk: &[Self::Block]) -> Scales;
}

/// Scales, and addends unless the format's offset gives them.
pub(super) struct Scales {
    pub d: [f32; 16],
    pub m: [f32; 16],
}

impl Scales {
    /// Of formats with one scale a group.
    #[inline(always)]
    unsafe fn whole(d: [f32; 8], m: [f32; 8]) -> Scales {
        let sixteen = |x: [f32; 8]| from_fn(|i| if i < 8 { x[i] } else { 0.0 });
        Scales { d: sixteen(d), m: sixteen(m) }
    }

    /// Likewise, of formats with an offset.
    #[inline(always)]
    unsafe fn offset(d: [f32; 8]) -> Scales {
        Scales::whole(d, [0.0; 8])
    }
}

#[inline(always)]
pub(super) unsafe fn load(b: &[u8; 16]) -> uint8x16_t {
    vld1q_u8(b.as_ptr())
}

#[inline(always)]
pub(super) unsafe fn load_f32(x: &[f32; 4]) -> float32x4_t {
    vld1q_f32(x.as_ptr())
}

/// `N` bytes from `at` on.
#[inline(always)]
unsafe fn bytes<const N: usize, const B: usize>(b: &[u8; B], at: usize) -> &[u8; N] {
    b[at..at + N].try_into().expect("within the block")
}

/// The 32 bytes from `at` on.
#[inline(always)]
unsafe fn load32<const B: usize>(b: &[u8; B], at: usize) -> [uint8x16_t; 2] {
    [load(bytes(b, at)), load(bytes(b, at + 16))]
}

#[inline(always)]
pub(super) unsafe fn signed(u: [uint8x16_t; 2]) -> Halves {
    u.map(|u| vreinterpretq_s8_u8(u))
}

/// The 16 bytes of nibbles from `at` on: the lower ones first, then the upper ones.
#[inline(always)]
unsafe fn nibbles<const B: usize>(b: &[u8; B], at: usize) -> [uint8x16_t; 2] {
    let x = load(bytes(b, at));
    [vandq_u8(x, vdupq_n_u8(15)), vshrq_n_u8::<4>(x)]
}

/// The bits of 32 bytes from `shift` on, as many as `mask` has.
#[inline(always)]
unsafe fn bits(x: [uint8x16_t; 2], shift: usize, mask: u8) -> [uint8x16_t; 2] {
    x.map(|x| vandq_u8(vshlq_u8(x, vdupq_n_s8(-(shift as i8))), vdupq_n_u8(mask)))
}

/// `low | high << N`.
#[inline(always)]
unsafe fn join<const N: i32>(low: [uint8x16_t; 2], high: [uint8x16_t; 2]) -> Halves {
    signed(from_fn(|h| vorrq_u8(low[h], vshlq_n_u8::<N>(high[h]))))
}

/// Each of 32 nibbles replaced by one of 16 levels.
#[inline(always)]
unsafe fn lookup(levels: &[u8; 16], nibbles: [uint8x16_t; 2]) -> Halves {
    signed(nibbles.map(|n| vqtbl1q_u8(load(levels), n)))
}

/// The levels of IQ4_NL and IQ4_XS.
#[inline(always)]
unsafe fn iq4(nibbles: [uint8x16_t; 2]) -> Halves {
    lookup(&IQ4_LEVELS.map(|u| u ^ 0x80), nibbles)
}

/// Where bit `i` of the u32 at `at` is set, 1 in byte `i`.
#[inline(always)]
unsafe fn fifth_bits<const B: usize>(b: &[u8; B], at: usize) -> [uint8x16_t; 2] {
    let word = vreinterpretq_u8_u32(vdupq_n_u32(u32::from_le_bytes(*bytes(b, at))));
    let bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
    from_fn(|h| {
        let each: [u8; 16] = from_fn(|i| (2 * h + i / 8) as u8);
        vandq_u8(vtstq_u8(vqtbl1q_u8(word, load(&each)), bit), vdupq_n_u8(1))
    })
}

/// The f16 with these bits. The `half` crate asks each time what the processor has.
#[inline(always)]
pub(super) unsafe fn f16_bits(bits: u16) -> f32 {
    vgetq_lane_f32::<0>(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(bits))))
}

/// The f16 at byte `at`.
#[inline(always)]
unsafe fn half<const B: usize>(b: &[u8; B], at: usize) -> f32 {
    f16_bits(u16::from_le_bytes(*bytes(b, at)))
}

/// A number of each block, up to eight.
#[inline(always)]
unsafe fn eight<const B: usize>(c: &[[u8; B]], of: impl Fn(&[u8; B]) -> f32) -> [f32; 8] {
    // Whole chunks are the rule, and lengths that are known are unrolled.
    match <&[[u8; B]; 8]>::try_from(c) {
        Ok(c) => from_fn(|i| of(&c[i])),
        Err(_) => from_fn(|i| c.get(i).map_or(0.0, &of)),
    }
}

/// Scales and minimums of Q4_K and Q5_K.
#[inline(always)]
unsafe fn scales_k<const B: usize>(b: &[u8; B]) -> Scales {
    let ((d, m), by) = (scales_6bit(&b[4..16]), (half(b, 0), -half(b, 2)));
    let times = |x: u64, by: f32| x.to_le_bytes().map(|x| by * x as f32);
    Scales::whole(times(d, by.0), times(m, by.1))
}

macro_rules! unpack {
    ($($name:ident { |$chunk:ident, $j:ident| $group:expr, |$all:ident| $scales:expr })*) => {
        $(
            impl Unpack for $name {
                #[inline(always)]
                unsafe fn group<const J: usize>($chunk: &[Self::Block]) -> Halves {
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
    Q4_0 { |c, j| signed(nibbles(&c[j], 2)), |c| Scales::offset(eight(c, |b| half(b, 0))) }
    Q4_1 {
        |c, j| signed(nibbles(&c[j], 4)),
        |c| Scales::whole(eight(c, |b| half(b, 0)), eight(c, |b| half(b, 2)))
    }
    Q5_0 {
        |c, j| join::<4>(nibbles(&c[j], 6), fifth_bits(&c[j], 2)),
        |c| Scales::offset(eight(c, |b| half(b, 0)))
    }
    Q5_1 {
        |c, j| join::<4>(nibbles(&c[j], 8), fifth_bits(&c[j], 4)),
        |c| Scales::whole(eight(c, |b| half(b, 0)), eight(c, |b| half(b, 2)))
    }
    Q8_0 { |c, j| signed(load32(&c[j], 2)), |c| Scales::offset(eight(c, |b| half(b, 0))) }
    Q2_K {
        |c, j| signed(bits(load32(&c[0], 16 + j / 4 * 32), j % 4 * 2, 3)),
        |c| {
            let (s, d, m) = (bytes::<16, 84>(&c[0], 0), half(&c[0], 80), -half(&c[0], 82));
            Scales { d: s.map(|s| d * (s & 15) as f32), m: s.map(|s| m * (s >> 4) as f32) }
        }
    }
    Q3_K {
        |c, j| {
            let low = bits(load32(&c[0], 32 + j / 4 * 32), j % 4 * 2, 3);
            join::<2>(low, bits(load32(&c[0], 0), j, 1))
        },
        |c| {
            let d = half(&c[0], 108);
            Scales { d: scales_q3(&c[0][96..]).map(|s| d * (s as i8 - 32) as f32), m: [0.0; 16] }
        }
    }
    Q4_K { |c, j| signed(bits(load32(&c[0], 16 + j / 2 * 32), j % 2 * 4, 15)), |c| scales_k(&c[0]) }
    Q5_K {
        |c, j| {
            let low = bits(load32(&c[0], 48 + j / 2 * 32), j % 2 * 4, 15);
            join::<4>(low, bits(load32(&c[0], 16), j, 1))
        },
        |c| scales_k(&c[0])
    }
    Q6_K {
        |c, j| {
            let (half, quarter) = (j / 4, j % 4);
            let low = bits(load32(&c[0], half * 64 + quarter % 2 * 32), quarter / 2 * 4, 15);
            join::<4>(low, bits(load32(&c[0], 128 + half * 32), quarter * 2, 3))
        },
        |c| {
            let d = half(&c[0], 208);
            Scales { d: bytes::<16, 210>(&c[0], 192).map(|s| d * (s as i8) as f32), m: [0.0; 16] }
        }
    }
    IQ4_NL { |c, j| iq4(nibbles(&c[j], 2)), |c| Scales::offset(eight(c, |b| half(b, 0))) }
    IQ4_XS {
        |c, j| iq4(nibbles(&c[0], 8 + 16 * j)),
        |c| {
            let d = half(&c[0], 0);
            Scales::offset(scales_iq4(&c[0]).map(|s| d * (s as i8 - 32) as f32))
        }
    }
    MXFP4 { |c, j| lookup(&E2M1, nibbles(&c[j], 1)), |c| Scales::offset(eight(c, |b| half_power(b[0]))) }
}

/// Scales of a chunk with addends.
#[inline(always)]
pub(super) unsafe fn scales<F: Unpack>(chunk: &[F::Block]) -> Scales {
    let mut s = F::scales(chunk);
    if !F::ADDENDS {
        s.m = [0.0; 16];
    } else if !F::MIN {
        s.m = s.d.map(|d| -(F::OFFSET as f32) * d);
    }
    s
}

/// See [`super::acts`]: the scale of a group of activations, its whole numbers, and their sums by halves.
#[inline(always)]
pub(super) unsafe fn group(x: &[f32; 32], smallest: f32) -> (f32, [i8; 32], [i32; 2]) {
    let v: [float32x4_t; 8] = from_fn(|i| load_f32(x[4 * i..4 * i + 4].try_into().expect("four of them")));
    let bits = v.map(|v| vreinterpretq_u32_f32(vabsq_f32(v)));
    let largest = f32::from_bits(vmaxvq_u32(bits[1..].iter().fold(bits[0], |most, b| vmaxq_u32(most, *b))));
    let inverse = if largest < smallest { 0.0 } else { 127.0 / largest };
    let q = v.map(|v| vcvtnq_s32_f32(vmulq_n_f32(v, inverse)));
    let eight = |i: usize| vqmovn_s16(vcombine_s16(vqmovn_s32(q[i]), vqmovn_s32(q[i + 1])));
    let halves = [vcombine_s8(eight(0), eight(2)), vcombine_s8(eight(4), eight(6))];
    let q = transmute::<Halves, [i8; 32]>(halves);
    (largest / 127.0, q, halves.map(|q| vaddlvq_s8(q) as i32))
}
