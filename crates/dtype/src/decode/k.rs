//! The k-quants: blocks of 256 values, in groups of 16 or 32 whose scales are themselves quantized.

use super::f16_at;

/// `scales: 16 B (scale 4 bits, minimum 4 bits), qs: 64 B, d: f16, dmin: f16`; groups of 16.
///
/// 32 bytes hold 128 values: the lowest two bits the first 32, and so on.
pub(super) fn q2(b: &[u8; 84], y: &mut [f32; 256]) {
    let (d, dmin) = (f16_at(b, 80), f16_at(b, 82));
    for i in 0..256 {
        let scale = b[i / 16];
        let q = b[16 + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
        y[i] = d * (scale & 15) as f32 * q as f32 - dmin * (scale >> 4) as f32;
    }
}

/// `high bits: 32 B, qs: 64 B, scales: 12 B, d: f16`; groups of 16, scales of 6 bits less 32.
///
/// A high bit that is not set takes 4 from the value.
pub(super) fn q3(b: &[u8; 110], y: &mut [f32; 256]) {
    let d = f16_at(b, 108);
    let scale = |j: usize| {
        let low = b[96 + j % 8] >> (j / 8 * 4) & 15;
        let high = b[104 + j % 4] >> (j / 4 * 2) & 3;
        d * ((low | high << 4) as f32 - 32.0)
    };
    for i in 0..256 {
        let low = b[32 + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
        let high = b[i % 32] >> (i / 32) & 1;
        y[i] = scale(i / 16) * (low as f32 - 4.0 * (1 - high) as f32);
    }
}

/// Scale and minimum `j` of 8, of 6 bits each, in 12 bytes: the first four in the low six bits of bytes 0–3 and 4–7, the
/// last four in the nibbles of bytes 8–11 below the top bits of the former.
fn scale_min(s: &[u8], j: usize) -> (f32, f32) {
    let (scale, min) = if j < 4 {
        (s[j] & 63, s[j + 4] & 63)
    } else {
        (s[j + 4] & 15 | s[j - 4] >> 6 << 4, s[j + 4] >> 4 | s[j] >> 6 << 4)
    };
    (scale as f32, min as f32)
}

/// `d: f16, dmin: f16, scales: 12 B, qs: 128 B`; groups of 32. 32 bytes hold two groups, lower nibbles first.
pub(super) fn q4(b: &[u8; 144], y: &mut [f32; 256]) {
    let (d, dmin) = (f16_at(b, 0), f16_at(b, 2));
    for (j, y) in y.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = scale_min(&b[4..16], j);
        let (d, m) = (d * scale, dmin * min);
        for l in 0..32 {
            let q = b[16 + j / 2 * 32 + l] >> (j % 2 * 4) & 15;
            y[l] = d * q as f32 - m;
        }
    }
}

/// As `q4`, with 32 bytes of fifth bits between scales and values: bit `j` belongs to group `j`.
pub(super) fn q5(b: &[u8; 176], y: &mut [f32; 256]) {
    let (d, dmin) = (f16_at(b, 0), f16_at(b, 2));
    for (j, y) in y.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = scale_min(&b[4..16], j);
        let (d, m) = (d * scale, dmin * min);
        for l in 0..32 {
            let low = b[48 + j / 2 * 32 + l] >> (j % 2 * 4) & 15;
            let high = b[16 + l] >> j & 1;
            y[l] = d * (low | high << 4) as f32 - m;
        }
    }
}

/// `low bits: 128 B, high bits: 64 B, scales: 16 i8, d: f16`; groups of 16, `d·scale·(q - 32)`.
///
/// Each half of 128 values has 64 bytes of low nibbles (the first 64 values in the lower ones) and 32 of high bits.
pub(super) fn q6(b: &[u8; 210], y: &mut [f32; 256]) {
    let d = f16_at(b, 208);
    for i in 0..256 {
        let (half, at) = (i / 128, i % 128);
        let low = b[half * 64 + at % 64] >> (at / 64 * 4) & 15;
        let high = b[128 + half * 32 + at % 32] >> (at / 32 * 2) & 3;
        let scale = b[192 + i / 16] as i8 as f32;
        y[i] = d * scale * ((low | high << 4) as f32 - 32.0);
    }
}

/// `d: f32, qs: 256 i8, sums: 16 i16`; the sums of groups of 16 serve dot products.
pub(super) fn q8(b: &[u8; 292], y: &mut [f32; 256]) {
    let d = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    for i in 0..256 {
        y[i] = d * (b[4 + i] as i8) as f32;
    }
}
