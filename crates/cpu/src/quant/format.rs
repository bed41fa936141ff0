//! The block formats with an integer path: what a group of 32 values unpacks to, written once, portably.
//!
//! A group is 32 unsigned numbers `u`, with a scale `d` and an addend `m` for each half of 16: a value is `d·u + m`.
//! Signed formats are made unsigned by an offset, `m = -OFFSET·d`; most formats have one scale for both halves.
//! Layouts are described where `hob-dtype` decodes them.

use half::f16;
use hob_dtype::iq_grids::IQ4;

/// A stored format, by its blocks.
pub(crate) trait Format: Sized + 'static {
    /// the bytes of a block
    type Block: Copy + 'static;
    /// groups of 32 values in a block: 1 or 8
    const GROUPS: usize;
    /// bits of the unsigned numbers; formats of 8 bits have the offset 128
    const BITS: u32;
    /// what is taken from the unsigned numbers, where `MIN` is not set
    const OFFSET: u8 = 0;
    /// whether the two halves of a group have scales of their own
    const SPLIT: bool = false;
    /// whether there are stored minimums
    const MIN: bool = false;

    /// The unsigned numbers of group `g`.
    fn values(b: &Self::Block, g: usize) -> [u8; 32];

    /// The scale of half `h` of group `g`.
    fn scale(b: &Self::Block, g: usize, h: usize) -> f32;

    /// What is added to half `h` of group `g`.
    fn addend(b: &Self::Block, g: usize, h: usize) -> f32 {
        -(Self::OFFSET as f32) * Self::scale(b, g, h)
    }
}

/// The f16 at byte `at`.
fn f16_at(b: &[u8], at: usize) -> f32 {
    f16::from_bits(u16_at(b, at)).to_f32()
}

#[inline(always)]
pub(super) fn u16_at(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([b[at], b[at + 1]])
}

#[inline(always)]
pub(super) fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

/// 16 bytes of nibbles: the lower ones first, then the upper ones.
fn nibbles(qs: &[u8]) -> [u8; 32] {
    std::array::from_fn(|i| qs[i % 16] >> (i / 16 * 4) & 15)
}

/// The levels of IQ4_NL and IQ4_XS, made unsigned.
pub(super) const IQ4_LEVELS: [u8; 16] = {
    let mut u = [0; 16];
    let mut i = 0;
    while i < 16 {
        u[i] = (IQ4[i] as i16 + 128) as u8;
        i += 1;
    }
    u
};

/// Twice the values of a 4-bit float e2m1, made unsigned by 12.
pub(super) const E2M1: [u8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];

/// Eight scales and eight minimums of 6 bits, in 12 bytes (Q4_K, Q5_K), as bytes.
#[inline(always)]
pub(super) fn scales_6bit(s: &[u8]) -> (u64, u64) {
    let (a, b, c) = (u32_at(s, 0), u32_at(s, 4), u32_at(s, 8));
    let top = |x: u32| (x >> 6 & 0x0303_0303) << 4;
    let pair = |low: u32, high: u32| low as u64 | (high as u64) << 32;
    (pair(a & 0x3f3f_3f3f, c & 0x0f0f_0f0f | top(a)), pair(b & 0x3f3f_3f3f, c >> 4 & 0x0f0f_0f0f | top(b)))
}

/// The 16 scales of 6 bits of Q3_K in 12 bytes, not yet less 32.
#[inline(always)]
pub(super) fn scales_q3(s: &[u8]) -> [u8; 16] {
    let (a, b, c) = (u32_at(s, 0), u32_at(s, 4), u32_at(s, 8));
    let join = |low: u32, shift: u32| low & 0x0f0f_0f0f | (c >> shift & 0x0303_0303) << 4;
    let words = [join(a, 0), join(b, 2), join(a >> 4, 4), join(b >> 4, 6)];
    std::array::from_fn(|i| (words[i / 4] >> (i % 4 * 8)) as u8)
}

/// The 8 scales of 6 bits of IQ4_XS, not yet less 32.
#[inline(always)]
pub(super) fn scales_iq4(b: &[u8]) -> [u8; 8] {
    let (high, low) = (u16_at(b, 2), u32_at(b, 4));
    std::array::from_fn(|j| (low >> (4 * j) & 15) as u8 | ((high >> (2 * j) & 3) << 4) as u8)
}

/// Half of 2^(e - 127), as the table of MXFP4 is doubled.
#[inline(always)]
pub(super) fn half_power(e: u8) -> f32 {
    let e = e as u32;
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { (e - 1) << 23 })
}

macro_rules! formats {
    ($($(#[$doc:meta])* $name:ident: [u8; $bytes:literal] { $($body:tt)* })*) => {
        $(
            $(#[$doc])*
            #[allow(non_camel_case_types)]
            pub(crate) struct $name;
            impl Format for $name {
                type Block = [u8; $bytes];
                $($body)*
            }
        )*
    };
}

formats! {
    /// `d: f16, qs: 16 B`
    Q4_0: [u8; 18] {
        const GROUPS: usize = 1;
        const BITS: u32 = 4;
        const OFFSET: u8 = 8;
        fn values(b: &[u8; 18], _: usize) -> [u8; 32] {
            nibbles(&b[2..])
        }
        fn scale(b: &[u8; 18], _: usize, _: usize) -> f32 {
            f16_at(b, 0)
        }
    }
    /// `d: f16, m: f16, qs: 16 B`
    Q4_1: [u8; 20] {
        const GROUPS: usize = 1;
        const BITS: u32 = 4;
        const MIN: bool = true;
        fn values(b: &[u8; 20], _: usize) -> [u8; 32] {
            nibbles(&b[4..])
        }
        fn scale(b: &[u8; 20], _: usize, _: usize) -> f32 {
            f16_at(b, 0)
        }
        fn addend(b: &[u8; 20], _: usize, _: usize) -> f32 {
            f16_at(b, 2)
        }
    }
    /// `d: f16, qh: u32, qs: 16 B`
    Q5_0: [u8; 22] {
        const GROUPS: usize = 1;
        const BITS: u32 = 5;
        const OFFSET: u8 = 16;
        fn values(b: &[u8; 22], _: usize) -> [u8; 32] {
            let (low, high) = (nibbles(&b[6..]), u32_at(b, 2));
            std::array::from_fn(|i| low[i] | ((high >> i & 1) << 4) as u8)
        }
        fn scale(b: &[u8; 22], _: usize, _: usize) -> f32 {
            f16_at(b, 0)
        }
    }
    /// `d: f16, m: f16, qh: u32, qs: 16 B`
    Q5_1: [u8; 24] {
        const GROUPS: usize = 1;
        const BITS: u32 = 5;
        const MIN: bool = true;
        fn values(b: &[u8; 24], _: usize) -> [u8; 32] {
            let (low, high) = (nibbles(&b[8..]), u32_at(b, 4));
            std::array::from_fn(|i| low[i] | ((high >> i & 1) << 4) as u8)
        }
        fn scale(b: &[u8; 24], _: usize, _: usize) -> f32 {
            f16_at(b, 0)
        }
        fn addend(b: &[u8; 24], _: usize, _: usize) -> f32 {
            f16_at(b, 2)
        }
    }
    /// `d: f16, qs: 32 i8`
    Q8_0: [u8; 34] {
        const GROUPS: usize = 1;
        const BITS: u32 = 8;
        const OFFSET: u8 = 128;
        fn values(b: &[u8; 34], _: usize) -> [u8; 32] {
            std::array::from_fn(|i| b[2 + i] ^ 0x80)
        }
        fn scale(b: &[u8; 34], _: usize, _: usize) -> f32 {
            f16_at(b, 0)
        }
    }
    /// `scales: 16 B (scale 4 bits, minimum 4 bits), qs: 64 B, d: f16, dmin: f16`
    Q2_K: [u8; 84] {
        const GROUPS: usize = 8;
        const BITS: u32 = 2;
        const SPLIT: bool = true;
        const MIN: bool = true;
        fn values(b: &[u8; 84], g: usize) -> [u8; 32] {
            std::array::from_fn(|i| b[16 + g / 4 * 32 + i] >> (g % 4 * 2) & 3)
        }
        fn scale(b: &[u8; 84], g: usize, h: usize) -> f32 {
            f16_at(b, 80) * (b[2 * g + h] & 15) as f32
        }
        fn addend(b: &[u8; 84], g: usize, h: usize) -> f32 {
            -f16_at(b, 82) * (b[2 * g + h] >> 4) as f32
        }
    }
    /// `high bits: 32 B, qs: 64 B, scales: 12 B, d: f16`
    Q3_K: [u8; 110] {
        const GROUPS: usize = 8;
        const BITS: u32 = 3;
        const OFFSET: u8 = 4;
        const SPLIT: bool = true;
        fn values(b: &[u8; 110], g: usize) -> [u8; 32] {
            std::array::from_fn(|i| {
                b[32 + g / 4 * 32 + i] >> (g % 4 * 2) & 3 | (b[i] >> g & 1) << 2
            })
        }
        fn scale(b: &[u8; 110], g: usize, h: usize) -> f32 {
            f16_at(b, 108) * (scales_q3(&b[96..])[2 * g + h] as f32 - 32.0)
        }
    }
    /// `d: f16, dmin: f16, scales: 12 B, qs: 128 B`
    Q4_K: [u8; 144] {
        const GROUPS: usize = 8;
        const BITS: u32 = 4;
        const MIN: bool = true;
        fn values(b: &[u8; 144], g: usize) -> [u8; 32] {
            std::array::from_fn(|i| b[16 + g / 2 * 32 + i] >> (g % 2 * 4) & 15)
        }
        fn scale(b: &[u8; 144], g: usize, _: usize) -> f32 {
            f16_at(b, 0) * (scales_6bit(&b[4..]).0 >> (8 * g) & 255) as f32
        }
        fn addend(b: &[u8; 144], g: usize, _: usize) -> f32 {
            -f16_at(b, 2) * (scales_6bit(&b[4..]).1 >> (8 * g) & 255) as f32
        }
    }
    /// `d: f16, dmin: f16, scales: 12 B, fifth bits: 32 B, qs: 128 B`
    Q5_K: [u8; 176] {
        const GROUPS: usize = 8;
        const BITS: u32 = 5;
        const MIN: bool = true;
        fn values(b: &[u8; 176], g: usize) -> [u8; 32] {
            std::array::from_fn(|i| {
                b[48 + g / 2 * 32 + i] >> (g % 2 * 4) & 15 | (b[16 + i] >> g & 1) << 4
            })
        }
        fn scale(b: &[u8; 176], g: usize, _: usize) -> f32 {
            f16_at(b, 0) * (scales_6bit(&b[4..]).0 >> (8 * g) & 255) as f32
        }
        fn addend(b: &[u8; 176], g: usize, _: usize) -> f32 {
            -f16_at(b, 2) * (scales_6bit(&b[4..]).1 >> (8 * g) & 255) as f32
        }
    }
    /// `low bits: 128 B, high bits: 64 B, scales: 16 i8, d: f16`
    Q6_K: [u8; 210] {
        const GROUPS: usize = 8;
        const BITS: u32 = 6;
        const OFFSET: u8 = 32;
        const SPLIT: bool = true;
        fn values(b: &[u8; 210], g: usize) -> [u8; 32] {
            let (half, quarter) = (g / 4, g % 4);
            std::array::from_fn(|i| {
                let low = b[half * 64 + quarter % 2 * 32 + i] >> (quarter / 2 * 4) & 15;
                low | (b[128 + half * 32 + i] >> (quarter * 2) & 3) << 4
            })
        }
        fn scale(b: &[u8; 210], g: usize, h: usize) -> f32 {
            f16_at(b, 208) * (b[192 + 2 * g + h] as i8) as f32
        }
    }
    /// `d: f16, qs: 16 B`, indices of levels
    IQ4_NL: [u8; 18] {
        const GROUPS: usize = 1;
        const BITS: u32 = 8;
        const OFFSET: u8 = 128;
        fn values(b: &[u8; 18], _: usize) -> [u8; 32] {
            nibbles(&b[2..]).map(|q| IQ4_LEVELS[q as usize])
        }
        fn scale(b: &[u8; 18], _: usize, _: usize) -> f32 {
            f16_at(b, 0)
        }
    }
    /// `d: f16, high bits of the scales: u16, low bits: 4 B, qs: 128 B`, indices of levels
    IQ4_XS: [u8; 136] {
        const GROUPS: usize = 8;
        const BITS: u32 = 8;
        const OFFSET: u8 = 128;
        fn values(b: &[u8; 136], g: usize) -> [u8; 32] {
            nibbles(&b[8 + 16 * g..]).map(|q| IQ4_LEVELS[q as usize])
        }
        fn scale(b: &[u8; 136], g: usize, _: usize) -> f32 {
            f16_at(b, 0) * (scales_iq4(b)[g] as f32 - 32.0)
        }
    }
    /// `e: u8, qs: 16 B`, indices of levels
    MXFP4: [u8; 17] {
        const GROUPS: usize = 1;
        const BITS: u32 = 5;
        const OFFSET: u8 = 12;
        fn values(b: &[u8; 17], _: usize) -> [u8; 32] {
            nibbles(&b[1..]).map(|q| E2M1[q as usize])
        }
        fn scale(b: &[u8; 17], _: usize, _: usize) -> f32 {
            half_power(b[0])
        }
    }
}
