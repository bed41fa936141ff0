//! Encoding f32 into the plain floats and the simplest blocks, rounding as ggml's reference does
//! (`quantize_row_*_ref` in ggml-quants.c).

use crate::DType;
use half::{bf16, f16};

impl DType {
    /// Whether [`DType::encode`] knows the format.
    pub const fn encodes(self) -> bool {
        matches!(self, DType::F32 | DType::F16 | DType::BF16 | DType::Q8_0 | DType::Q4_0 | DType::Q4_1)
    }

    /// Encodes whole blocks, with the scale of each block chosen from its extremes and values rounded to the nearest.
    ///
    /// Panics when `out.len()` is not the number of bytes of `values.len()` values, or [`DType::encodes`] is false.
    pub fn encode(self, values: &[f32], out: &mut [u8]) {
        assert_eq!(Some(out.len()), self.bytes(values.len()), "bytes of {} values of {self}", values.len());
        match self {
            DType::F32 => each(values, out, |[x], b| *b = x.to_le_bytes()),
            DType::F16 => each(values, out, |[x], b| *b = f16::from_f32(*x).to_le_bytes()),
            DType::BF16 => each(values, out, |[x], b| *b = bf16::from_f32(*x).to_le_bytes()),
            DType::Q8_0 => each(values, out, q8_0),
            DType::Q4_0 => each(values, out, q4_0),
            DType::Q4_1 => each(values, out, q4_1),
            _ => panic!("values cannot be encoded as {self}"),
        }
    }
}

fn each<const N: usize, const B: usize>(
    values: &[f32],
    out: &mut [u8],
    encode: impl Fn(&[f32; N], &mut [u8; B]),
) {
    for (values, block) in values.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        encode(values, block);
    }
}

fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

fn q8_0(x: &[f32; 32], b: &mut [u8; 34]) {
    let d = x.iter().fold(0.0f32, |m, v| m.max(v.abs())) / 127.0;
    let id = inverse(d);
    b[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    for i in 0..32 {
        b[2 + i] = (x[i] * id).round() as i8 as u8;
    }
}

fn q4_0(x: &[f32; 32], b: &mut [u8; 18]) {
    // The value furthest from zero becomes -8, whichever its sign.
    let extreme = x.iter().fold(0.0f32, |m, &v| if v.abs() > m.abs() { v } else { m });
    let d = extreme / -8.0;
    let id = inverse(d);
    let q = |i: usize| ((x[i] * id + 8.5) as u8).min(15);
    b[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    for i in 0..16 {
        b[2 + i] = q(i) | q(i + 16) << 4;
    }
}

fn q4_1(x: &[f32; 32], b: &mut [u8; 20]) {
    let (min, max) = x.iter().fold((f32::MAX, f32::MIN), |(lo, hi), &v| (lo.min(v), hi.max(v)));
    let d = (max - min) / 15.0;
    let id = inverse(d);
    let q = |i: usize| (((x[i] - min) * id + 0.5) as u8).min(15);
    b[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    b[2..4].copy_from_slice(&f16::from_f32(min).to_le_bytes());
    for i in 0..16 {
        b[4 + i] = q(i) | q(i + 16) << 4;
    }
}
