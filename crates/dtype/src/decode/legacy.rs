//! Blocks of 32 values with a scale and, at most, a minimum.
//!
//! 4-bit values lie as in the first half of the block (lower nibbles), then its second half (upper nibbles).

use super::{f16_at, u32_at};

/// Value `i` of 32 in 16 bytes of nibbles.
fn half_nibble(qs: &[u8], i: usize) -> u8 {
    qs[i % 16] >> (4 * (i / 16)) & 15
}

/// `d: f16, qs: 16 B`; `d·(q - 8)`.
pub(super) fn q4_0(b: &[u8; 18], y: &mut [f32; 32]) {
    let d = f16_at(b, 0);
    for i in 0..32 {
        y[i] = d * (half_nibble(&b[2..], i) as f32 - 8.0);
    }
}

/// `d: f16, m: f16, qs: 16 B`; `d·q + m`.
pub(super) fn q4_1(b: &[u8; 20], y: &mut [f32; 32]) {
    let (d, m) = (f16_at(b, 0), f16_at(b, 2));
    for i in 0..32 {
        y[i] = d * half_nibble(&b[4..], i) as f32 + m;
    }
}

/// `d: f16, qh: u32 of fifth bits, qs: 16 B`; `d·(q - 16)`.
pub(super) fn q5_0(b: &[u8; 22], y: &mut [f32; 32]) {
    let (d, high) = (f16_at(b, 0), u32_at(b, 2));
    for i in 0..32 {
        let q = half_nibble(&b[6..], i) | ((high >> i & 1) << 4) as u8;
        y[i] = d * (q as f32 - 16.0);
    }
}

/// `d: f16, m: f16, qh: u32 of fifth bits, qs: 16 B`; `d·q + m`.
pub(super) fn q5_1(b: &[u8; 24], y: &mut [f32; 32]) {
    let (d, m, high) = (f16_at(b, 0), f16_at(b, 2), u32_at(b, 4));
    for i in 0..32 {
        let q = half_nibble(&b[8..], i) | ((high >> i & 1) << 4) as u8;
        y[i] = d * q as f32 + m;
    }
}

/// `d: f16, qs: 32 i8`; `d·q`.
pub(super) fn q8_0(b: &[u8; 34], y: &mut [f32; 32]) {
    let d = f16_at(b, 0);
    for i in 0..32 {
        y[i] = d * (b[2 + i] as i8) as f32;
    }
}

/// `d: f16, s: f16, qs: 32 i8`; `d·q`. `s` is `d` times the sum of the values, for dot products.
pub(super) fn q8_1(b: &[u8; 36], y: &mut [f32; 32]) {
    let d = f16_at(b, 0);
    for i in 0..32 {
        y[i] = d * (b[4 + i] as i8) as f32;
    }
}

/// Twice the values of a 4-bit float e2m1 (OCP Microscaling Formats 1.0).
const E2M1: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// `e: u8, qs: 16 B`; half of 2^(e - 127), as the table is doubled.
pub(super) fn mxfp4(b: &[u8; 17], y: &mut [f32; 32]) {
    let e = b[0] as u32;
    // Exponents 0 and 1 give subnormal numbers.
    let d = f32::from_bits(if e < 2 { 0x0020_0000 << e } else { (e - 1) << 23 });
    for i in 0..32 {
        y[i] = d * E2M1[half_nibble(&b[1..], i) as usize] as f32;
    }
}
