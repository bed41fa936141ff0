//! Exact decoding of stored values to f32, one block at a time: the oracle of the backends' kernels.
//!
//! The arithmetic, order of multiplications included, is that of ggml's `dequantize_row_*` (ggml-quants.c), so results
//! are equal to the bit. Layouts are given where each format is decoded; integers are little endian.

mod float8;
mod iq;
pub mod iq_grids;
#[rustfmt::skip]
mod iq_tables;
mod k;
mod legacy;
mod ternary;

use crate::DType;
use half::{bf16, f16};

impl DType {
    /// Decodes whole blocks: `blocks` holds exactly `out.len()` values. Integers and f64 are rounded to the nearest f32.
    ///
    /// Panics when `blocks.len()` is not the number of bytes of `out.len()` values.
    pub fn decode(self, blocks: &[u8], out: &mut [f32]) {
        assert_eq!(Some(blocks.len()), self.bytes(out.len()), "bytes of {} values of {self}", out.len());
        match self {
            DType::F32 => each(blocks, out, |b, y| *y = [f32::from_le_bytes(*b)]),
            DType::F16 => each(blocks, out, |b, y| *y = [f16::from_le_bytes(*b).to_f32()]),
            DType::BF16 => each(blocks, out, |b, y| *y = [bf16::from_le_bytes(*b).to_f32()]),
            DType::F64 => each(blocks, out, |b, y| *y = [f64::from_le_bytes(*b) as f32]),
            DType::I8 => each(blocks, out, |b, y| *y = [i8::from_le_bytes(*b) as f32]),
            DType::I16 => each(blocks, out, |b, y| *y = [i16::from_le_bytes(*b) as f32]),
            DType::I32 => each(blocks, out, |b, y| *y = [i32::from_le_bytes(*b) as f32]),
            DType::I64 => each(blocks, out, |b, y| *y = [i64::from_le_bytes(*b) as f32]),
            DType::F8_E4M3 => each(blocks, out, |[b], y| *y = [float8::E4M3[*b as usize]]),
            DType::F8_E5M2 => each(blocks, out, |[b], y| *y = [float8::E5M2[*b as usize]]),
            DType::Q4_0 => each(blocks, out, legacy::q4_0),
            DType::Q4_1 => each(blocks, out, legacy::q4_1),
            DType::Q5_0 => each(blocks, out, legacy::q5_0),
            DType::Q5_1 => each(blocks, out, legacy::q5_1),
            DType::Q8_0 => each(blocks, out, legacy::q8_0),
            DType::Q8_1 => each(blocks, out, legacy::q8_1),
            DType::MXFP4 => each(blocks, out, legacy::mxfp4),
            DType::Q2_K => each(blocks, out, k::q2),
            DType::Q3_K => each(blocks, out, k::q3),
            DType::Q4_K => each(blocks, out, k::q4),
            DType::Q5_K => each(blocks, out, k::q5),
            DType::Q6_K => each(blocks, out, k::q6),
            DType::Q8_K => each(blocks, out, k::q8),
            DType::IQ1_S => each(blocks, out, iq::iq1_s),
            DType::IQ1_M => each(blocks, out, iq::iq1_m),
            DType::IQ2_XXS => each(blocks, out, iq::iq2_xxs),
            DType::IQ2_XS => each(blocks, out, iq::iq2_xs),
            DType::IQ2_S => each(blocks, out, iq::iq2_s),
            DType::IQ3_XXS => each(blocks, out, iq::iq3_xxs),
            DType::IQ3_S => each(blocks, out, iq::iq3_s),
            DType::IQ4_NL => each(blocks, out, iq::iq4_nl),
            DType::IQ4_XS => each(blocks, out, iq::iq4_xs),
            DType::TQ1_0 => each(blocks, out, ternary::tq1_0),
            DType::TQ2_0 => each(blocks, out, ternary::tq2_0),
        }
    }
}

/// Decodes block after block. `B` bytes make `N` values; both are the table's, as the decoders' tests show.
fn each<const B: usize, const N: usize>(
    blocks: &[u8],
    out: &mut [f32],
    decode: impl Fn(&[u8; B], &mut [f32; N]),
) {
    for (block, values) in blocks.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        decode(block, values);
    }
}

/// The f16 at byte `at`.
fn f16_at(b: &[u8], at: usize) -> f32 {
    f16::from_bits(u16_at(b, at)).to_f32()
}

fn u16_at(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([b[at], b[at + 1]])
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

/// The 4-bit number `i` of bytes that hold two each, the lower half first.
fn nibble(b: &[u8], i: usize) -> u8 {
    b[i / 2] >> (4 * (i % 2)) & 15
}
