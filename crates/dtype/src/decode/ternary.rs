//! Ternary values -1, 0 and 1, 256 to a block with one scale.

use super::f16_at;

/// `qs: 48 B of five digits, qh: 4 B of four digits, d: f16`.
///
/// A byte is a fraction of 256 in base three: multiplying by three (modulo 256) shifts the next digit to the front.
/// The first 32 bytes hold 5 × 32 values, the next 16 hold 5 × 16, the last 4 hold 4 × 4; digits are the outer index.
pub(super) fn tq1_0(b: &[u8; 54], y: &mut [f32; 256]) {
    const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
    let d = f16_at(b, 52);
    let mut i = 0;
    for (bytes, digits) in [(&b[..32], 5), (&b[32..48], 5), (&b[48..52], 4)] {
        for power in &POWERS[..digits] {
            for byte in bytes {
                let digit = (byte.wrapping_mul(*power) as u16 * 3) >> 8;
                y[i] = d * (digit as f32 - 1.0);
                i += 1;
            }
        }
    }
}

/// `qs: 64 B, d: f16`; 32 bytes hold 128 values: the lowest two bits the first 32, and so on.
pub(super) fn tq2_0(b: &[u8; 66], y: &mut [f32; 256]) {
    let d = f16_at(b, 64);
    for i in 0..256 {
        let q = b[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
        y[i] = d * (q as f32 - 1.0);
    }
}
