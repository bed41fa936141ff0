//! The IQ formats: groups of 4 or 8 values are an entry of a fixed codebook, with signs and a scale.
//!
//! Blocks hold 256 values and begin with `d: f16`, but for IQ1_M and IQ4_NL.

use super::{
    f16_at,
    iq_grids::{self as grids, signs},
    nibble, u16_at, u32_at,
};

/// `y = d · entry`, negative where a bit of `signs` is set.
fn put<const N: usize>(y: &mut [f32], d: f32, entry: [i8; N], signs: u8) {
    for l in 0..N {
        let value = d * entry[l] as f32;
        y[l] = if signs >> l & 1 == 0 { value } else { -value };
    }
}

/// 8 groups of 32 values: 4 codebook indices of a byte; a u32 of 4 × 7 signs and, on top, the scale.
pub(super) fn iq2_xxs(b: &[u8; 66], y: &mut [f32; 256]) {
    let d = f16_at(b, 0);
    for (j, y) in y.chunks_exact_mut(8).enumerate() {
        let group = &b[2 + j / 4 * 8..];
        let word = u32_at(group, 4);
        let scale = d * (0.5 + (word >> 28) as f32) * 0.25;
        let sign = signs((word >> (j % 4 * 7)) as u8);
        put(y, scale, grids::IQ2_XXS[group[j % 4] as usize], sign);
    }
}

/// `qs: 32 u16 (index 9 bits, signs 7), scales: 8 B`, 4 bits for 16 values.
pub(super) fn iq2_xs(b: &[u8; 74], y: &mut [f32; 256]) {
    let d = f16_at(b, 0);
    for (j, y) in y.chunks_exact_mut(8).enumerate() {
        let q = u16_at(b, 2 + 2 * j);
        let scale = d * (0.5 + nibble(&b[66..], j / 2) as f32) * 0.25;
        put(y, scale, grids::IQ2_XS[q as usize & 511], signs((q >> 9) as u8));
    }
}

/// `qs: 32 B, signs: 32 B, qh: 8 B (two high bits of each index), scales: 8 B`, 4 bits for 16 values.
pub(super) fn iq2_s(b: &[u8; 82], y: &mut [f32; 256]) {
    let d = f16_at(b, 0);
    for (j, y) in y.chunks_exact_mut(8).enumerate() {
        let high = b[66 + j / 4] >> (j % 4 * 2) & 3;
        let scale = d * (0.5 + nibble(&b[74..], j / 2) as f32) * 0.25;
        put(y, scale, grids::IQ2_S[b[2 + j] as usize | (high as usize) << 8], b[34 + j]);
    }
}

/// `qs: 64 B`, then for each 32 values a u32 of 4 × 7 signs and, on top, the scale.
pub(super) fn iq3_xxs(b: &[u8; 98], y: &mut [f32; 256]) {
    let d = f16_at(b, 0);
    for (j, y) in y.chunks_exact_mut(8).enumerate() {
        let word = u32_at(b, 66 + j / 4 * 4);
        let scale = d * (0.5 + (word >> 28) as f32) * 0.5;
        let sign = signs((word >> (j % 4 * 7)) as u8);
        put(y, scale, grids::IQ3_XXS[b[2 + 2 * j] as usize], sign);
        put(&mut y[4..], scale, grids::IQ3_XXS[b[3 + 2 * j] as usize], sign >> 4);
    }
}

/// `qs: 64 B, qh: 8 B (ninth bits), signs: 32 B, scales: 4 B`, 4 bits for 32 values.
pub(super) fn iq3_s(b: &[u8; 110], y: &mut [f32; 256]) {
    let d = f16_at(b, 0);
    for (j, y) in y.chunks_exact_mut(4).enumerate() {
        let high = b[66 + j / 8] >> (j % 8) & 1;
        let scale = d * (1 + 2 * nibble(&b[106..], j / 8)) as f32;
        put(y, scale, grids::IQ3_S[b[2 + j] as usize | (high as usize) << 8], b[74 + j / 2] >> (j % 2 * 4));
    }
}

/// `y = d · (entry ± 1/8)`.
fn put_iq1(y: &mut [f32], d: f32, index: usize, negative: bool) {
    let delta = if negative { -0.125 } else { 0.125 };
    for (y, g) in y.iter_mut().zip(grids::IQ1[index]) {
        *y = d * (g as f32 + delta);
    }
}

/// `qs: 32 B, qh: 8 u16`: for 32 values 4 × 3 high bits of the indices, 3 bits of scale, the sign of the shift.
pub(super) fn iq1_s(b: &[u8; 50], y: &mut [f32; 256]) {
    let d = f16_at(b, 0);
    for (j, y) in y.chunks_exact_mut(8).enumerate() {
        let word = u16_at(b, 34 + j / 4 * 2);
        let high = (word >> (j % 4 * 3) & 7) as usize;
        let scale = d * (2 * (word >> 12 & 7) + 1) as f32;
        put_iq1(y, scale, b[2 + j] as usize | high << 8, word >> 15 == 1);
    }
}

/// `qs: 32 B, qh: 16 B, scales: 4 u16`.
///
/// Nibbles of `qh`: 3 high bits of an index, the sign of the shift. A u16 holds four 3-bit scales, each of 16 values, and,
/// on top, a quarter of the bits of the f16 `d`.
pub(super) fn iq1_m(b: &[u8; 56], y: &mut [f32; 256]) {
    let mut bits = 0;
    for i in 0..4 {
        bits |= u16_at(b, 48 + 2 * i) >> 12 << (4 * i);
    }
    let d = half::f16::from_bits(bits).to_f32();
    for (j, y) in y.chunks_exact_mut(8).enumerate() {
        let high = nibble(&b[32..], j);
        let scale = u16_at(b, 48 + j / 8 * 2) >> (j / 2 % 4 * 3) & 7;
        let index = b[j] as usize | (high as usize & 7) << 8;
        put_iq1(y, d * (2 * scale + 1) as f32, index, high & 8 != 0);
    }
}

/// 32 values: `d: f16, qs: 16 B`; nibbles are indices of levels, the first half of the block in the lower ones.
pub(super) fn iq4_nl(b: &[u8; 18], y: &mut [f32; 32]) {
    let d = f16_at(b, 0);
    for i in 0..32 {
        y[i] = d * grids::IQ4[(b[2 + i % 16] >> (i / 16 * 4) & 15) as usize] as f32;
    }
}

/// `high bits of the scales: u16, low bits: 4 B, qs: 128 B`; 32 values share a scale of 6 bits less 32, and lie as in
/// IQ4_NL.
pub(super) fn iq4_xs(b: &[u8; 136], y: &mut [f32; 256]) {
    let (d, high) = (f16_at(b, 0), u16_at(b, 2));
    for i in 0..256 {
        let j = i / 32;
        let scale = nibble(&b[4..], j) | ((high >> (2 * j) & 3) << 4) as u8;
        let q = b[8 + j * 16 + i % 16] >> (i % 32 / 16 * 4) & 15;
        y[i] = d * (scale as f32 - 32.0) * grids::IQ4[q as usize] as f32;
    }
}
