//! The formats whose values are entries of a codebook with signs, and the ternary ones.
//!
//! They are unpacked by what is written here, on every processor: entries must be looked up one by one anyway. Entries
//! with signs are made unsigned by 128; those of IQ1 are multiplied by eight, as an eighth is added or taken.

use super::format::{Format, u16_at, u32_at};
use half::f16;
use hob_dtype::iq_grids::{self as grids, signs};

/// A format whose scales are odd numbers times a unit times the block's f16.
pub(super) trait Grid: Format {
    /// what a number is worth where the f16 is 1
    const UNIT: f32;

    /// The bits of the block's f16.
    fn half(b: &Self::Block) -> u16;

    /// The scale of half `h` of group `g` in whole numbers.
    fn step(b: &Self::Block, g: usize, h: usize) -> u8;
}

/// Bytes that are all ones where a bit is set.
static MASKS: [u64; 256] = {
    let mut masks = [0; 256];
    let mut i = 0;
    while i < 256 * 8 {
        masks[i / 8] |= (((i / 8) >> (i % 8) & 1) as u64 * 255) << (i % 8 * 8);
        i += 1;
    }
    masks
};

/// The eight signs stored in seven bits.
static EVEN: [u8; 128] = {
    let mut even = [0; 128];
    let mut i = 0;
    while i < 128 {
        even[i] = signs(i as u8);
        i += 1;
    }
    even
};

#[inline(always)]
fn even(seven: u32) -> u8 {
    EVEN[(seven & 127) as usize]
}

/// Eight magnitudes below 128, negative where a bit of `signs` is set, plus 128.
#[inline(always)]
fn with_signs(e: u64, signs: u8) -> [u8; 8] {
    const MIDDLE: u64 = 0x8080_8080_8080_8080;
    let minus = MASKS[signs as usize];
    // No byte borrows from the next.
    ((MIDDLE - e) & minus | (MIDDLE | e) & !minus).to_le_bytes()
}

/// An entry of eight.
#[inline(always)]
fn one(entry: [i8; 8]) -> u64 {
    u64::from_le_bytes(entry.map(|e| e as u8))
}

/// Two entries of four.
#[inline(always)]
fn pair(entry: impl Fn(usize) -> [i8; 4]) -> u64 {
    let four = |k| u32::from_le_bytes(entry(k).map(|e| e as u8)) as u64;
    four(0) | four(1) << 32
}

/// Entries of -1, 0 and 1, eight times that and one more or less, plus 16.
#[inline(always)]
fn with_shift(index: usize, negative: bool) -> [u8; 8] {
    const ONES: u64 = 0x0101_0101_0101_0101;
    // Entries are made 0, 1 and 2 first, so that no byte reaches into the next.
    let e = (one(grids::IQ1[index].map(|e| e + 1)) << 3) + 8 * ONES;
    (if negative { e - ONES } else { e + ONES }).to_le_bytes()
}

/// Four times eight values of a group.
#[inline(always)]
fn group(of: impl Fn(usize) -> [u8; 8]) -> [u8; 32] {
    let mut u = [0; 32];
    for (i, u) in u.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        *u = of(i);
    }
    u
}

/// The 4-bit number `i` of bytes that hold two each, the lower half first.
#[inline(always)]
fn nibble(b: &[u8], i: usize) -> u8 {
    b[i / 2] >> (4 * (i % 2)) & 15
}

macro_rules! grids {
    ($($(#[$doc:meta])* $name:ident: [u8; $bytes:literal], bits $bits:literal, offset $offset:literal, split $split:literal,
        unit $unit:literal { |$b:ident, $g:ident, $h:ident| $values:expr, $half:expr, $step:expr })*) => {
        $(
            $(#[$doc])*
            #[allow(non_camel_case_types)]
            pub(crate) struct $name;
            impl Format for $name {
                type Block = [u8; $bytes];
                const GROUPS: usize = 8;
                const BITS: u32 = $bits;
                const OFFSET: u8 = $offset;
                const SPLIT: bool = $split;
                #[inline(always)]
                fn values($b: &[u8; $bytes], $g: usize) -> [u8; 32] {
                    $values
                }
                #[inline(always)]
                fn scale(b: &[u8; $bytes], g: usize, h: usize) -> f32 {
                    f16::from_bits(Self::half(b)).to_f32() * Self::UNIT * Self::step(b, g, h) as f32
                }
            }
            impl Grid for $name {
                const UNIT: f32 = $unit;
                #[inline(always)]
                fn half($b: &[u8; $bytes]) -> u16 {
                    $half
                }
                #[inline(always)]
                fn step($b: &[u8; $bytes], $g: usize, $h: usize) -> u8 {
                    let _ = ($b, $g, $h);
                    $step
                }
            }
        )*
    };
}

grids! {
    /// `d: f16`, for each group 4 indices and a u32 of 4 × 7 signs and the scale
    IQ2_XXS: [u8; 66], bits 8, offset 128, split false, unit 0.125 {
        |b, g, h| {
            let word = u32_at(b, 6 + 8 * g);
            group(|i| with_signs(one(grids::IQ2_XXS[b[2 + 8 * g + i] as usize]), even(word >> (7 * i))))
        },
        u16_at(b, 0),
        2 * (u32_at(b, 6 + 8 * g) >> 28) as u8 + 1
    }
    /// `d: f16, qs: 32 u16 (index 9 bits, signs 7), scales: 8 B`
    IQ2_XS: [u8; 74], bits 8, offset 128, split true, unit 0.125 {
        |b, g, h| group(|i| {
            let q = u16_at(b, 2 + 8 * g + 2 * i);
            with_signs(one(grids::IQ2_XS[q as usize & 511]), even((q >> 9) as u32))
        }),
        u16_at(b, 0),
        2 * nibble(&b[66..], 2 * g + h) + 1
    }
    /// `d: f16, qs: 32 B, signs: 32 B, qh: 8 B, scales: 8 B`
    IQ2_S: [u8; 82], bits 8, offset 128, split true, unit 0.125 {
        |b, g, h| group(|i| {
            let (at, high) = (4 * g + i, b[66 + g] >> (2 * i) & 3);
            with_signs(one(grids::IQ2_S[b[2 + at] as usize | (high as usize) << 8]), b[34 + at])
        }),
        u16_at(b, 0),
        2 * nibble(&b[74..], 2 * g + h) + 1
    }
    /// `d: f16, qs: 64 B`, for each group a u32 of 4 × 7 signs and the scale
    IQ3_XXS: [u8; 98], bits 8, offset 128, split false, unit 0.25 {
        |b, g, h| {
            let word = u32_at(b, 66 + 4 * g);
            group(|i| {
                let entry = |k: usize| grids::IQ3_XXS[b[2 + 8 * g + 2 * i + k] as usize];
                with_signs(pair(entry), even(word >> (7 * i)))
            })
        },
        u16_at(b, 0),
        2 * (u32_at(b, 66 + 4 * g) >> 28) as u8 + 1
    }
    /// `d: f16, qs: 64 B, qh: 8 B, signs: 32 B, scales: 4 B`
    IQ3_S: [u8; 110], bits 8, offset 128, split false, unit 1.0 {
        |b, g, h| group(|i| {
            let entry = |k: usize| {
                let high = (b[66 + g] >> (2 * i + k) & 1) as usize;
                grids::IQ3_S[b[2 + 8 * g + 2 * i + k] as usize | high << 8]
            };
            with_signs(pair(entry), b[74 + 4 * g + i])
        }),
        u16_at(b, 0),
        2 * nibble(&b[106..], g) + 1
    }
    /// `d: f16, qs: 32 B, qh: 8 u16`: 4 × 3 bits of indices, the scale, the sign of the shift
    IQ1_S: [u8; 50], bits 5, offset 16, split false, unit 0.125 {
        |b, g, h| {
            let word = u16_at(b, 34 + 2 * g) as usize;
            group(|i| with_shift(b[2 + 4 * g + i] as usize | (word >> (3 * i) & 7) << 8, word >> 15 == 1))
        },
        u16_at(b, 0),
        2 * (u16_at(b, 34 + 2 * g) >> 12 & 7) as u8 + 1
    }
    /// `qs: 32 B, qh: 16 B, scales: 4 u16`, each of 4 × 3 bits and four bits of the f16
    IQ1_M: [u8; 56], bits 5, offset 16, split true, unit 0.125 {
        |b, g, h| group(|i| {
            let high = nibble(&b[32..], 4 * g + i) as usize;
            with_shift(b[4 * g + i] as usize | (high & 7) << 8, high & 8 != 0)
        }),
        (0..4).fold(0, |bits, i| bits | u16_at(b, 48 + 2 * i) >> 12 << (4 * i)),
        2 * (u16_at(b, 48 + g / 2 * 2) >> (g % 2 * 6 + h * 3) & 7) as u8 + 1
    }
    /// `qs: 48 B of five digits, qh: 4 B of four digits, d: f16`; digits as `hob-dtype` describes them
    TQ1_0: [u8; 54], bits 2, offset 1, split false, unit 1.0 {
        |b, g, h| {
            const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
            let digits = |to: &mut [u8], bytes: &[u8], n: usize| {
                for (u, byte) in to.iter_mut().zip(bytes) {
                    *u = ((byte.wrapping_mul(POWERS[n]) as u16 * 3) >> 8) as u8;
                }
            };
            let mut u = [0; 32];
            match g {
                ..5 => digits(&mut u, &b[..32], g),
                5 | 6 => u.chunks_exact_mut(16).zip(2 * g - 10..).for_each(|(u, n)| digits(u, &b[32..48], n)),
                _ => {
                    digits(&mut u, &b[32..48], 4);
                    u[16..].chunks_exact_mut(4).zip(0..).for_each(|(u, n)| digits(u, &b[48..52], n));
                }
            }
            u
        },
        u16_at(b, 52),
        1
    }
    /// `qs: 64 B, d: f16`
    TQ2_0: [u8; 66], bits 2, offset 1, split false, unit 1.0 {
        |b, g, h| std::array::from_fn(|i| b[g / 4 * 32 + i] >> (g % 4 * 2) & 3),
        u16_at(b, 64),
        1
    }
}

/// Unpacking into registers: by the definitions above.
macro_rules! unpack {
    ($vector:ty, |$u:ident| $load:expr, |$half:ident, $unit:ident, $steps:ident| $scales:expr, $($name:ident)*) => {
        $(
            impl Unpack for $name {
                #[inline(always)]
                unsafe fn group<const J: usize>(chunk: &[Self::Block]) -> $vector {
                    let $u = Self::values(&chunk[0], J);
                    $load
                }
                #[inline(always)]
                unsafe fn scales(chunk: &[Self::Block]) -> Scales {
                    let ($half, $unit) = (Self::half(&chunk[0]), Self::UNIT);
                    let $steps: [f32; 16] = std::array::from_fn(|i| match Self::SPLIT {
                        true => Self::step(&chunk[0], i / 2, i % 2) as f32,
                        false => Self::step(&chunk[0], i % 8, 0) as f32,
                    });
                    $scales
                }
            }
        )*
    };
}

/// In AVX2 registers.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_op_in_unsafe_fn)]
mod x86 {
    use super::super::x86::{Scales, Unpack, load, load_f32};
    use super::*;
    use std::arch::x86_64::*;

    unpack! {
        __m256i,
        |u| load(&u),
        |half, unit, steps| {
            let d = _mm256_mul_ps(_mm256_cvtph_ps(_mm_set1_epi16(half as i16)), _mm256_set1_ps(unit));
            let (steps, zeros) = (steps.as_chunks::<8>().0, _mm256_setzero_ps());
            let d = [_mm256_mul_ps(d, load_f32(&steps[0])), _mm256_mul_ps(d, load_f32(&steps[1]))];
            Scales { d, m: [zeros, zeros] }
        },
        IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S IQ1_S IQ1_M TQ1_0 TQ2_0
    }
}

/// In NEON registers.
#[cfg(target_arch = "aarch64")]
#[allow(unsafe_op_in_unsafe_fn)]
mod arm {
    use super::super::arm::{Halves, Scales, Unpack, f16_bits, load, signed};
    use super::*;
    use std::arch::aarch64::*;

    unpack! {
        Halves,
        |u| {
            let flip = vdupq_n_u8(if Self::BITS == 8 { 0x80 } else { 0 });
            let halves = u.as_chunks::<16>().0;
            signed([veorq_u8(load(&halves[0]), flip), veorq_u8(load(&halves[1]), flip)])
        },
        |half, unit, steps| {
            let d = f16_bits(half) * unit;
            Scales { d: steps.map(|s| d * s), m: [0.0; 16] }
        },
        IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S IQ1_S IQ1_M TQ1_0 TQ2_0
    }
}
