//! One head of a page: where its numbers and scales lie, and how they are read.

use super::{PAGE, Side};
#[cfg(target_arch = "x86_64")]
use crate::isa::{Isa, isa};
use half::f16;
use half::slice::HalfFloatSliceExt;
use hob_graph::DType;

/// Neighbours along D that share a scale in the formats that have any.
pub const GROUP: usize = 32;

/// Whether numbers are whole and have scales.
pub(super) fn grouped(dtype: DType) -> bool {
    matches!(dtype, DType::Q8_0 | DType::Q4_0)
}

/// Rows and columns of a head: `(D, PAGE)` or `(PAGE, D)`. D is filled up to whole groups, and in values to whole
/// vectors.
pub(super) fn size(dtype: DType, side: Side, dim: usize) -> (usize, usize) {
    let whole = |n: usize| if grouped(dtype) { n.next_multiple_of(GROUP) } else { n };
    match side {
        Side::Keys => (whole(dim), PAGE),
        Side::Values => (PAGE, whole(dim).next_multiple_of(16)),
    }
}

/// Whether a page has a center of its own, which its numbers are kept less: keys in 4 bits.
pub(super) fn centered(dtype: DType, side: Side) -> bool {
    dtype == DType::Q4_0 && side == Side::Keys
}

/// Bytes of a head of a page: numbers, scales, center.
pub(super) fn bytes(dtype: DType, side: Side, dim: usize) -> usize {
    let (rows, columns) = size(dtype, side, dim);
    let center = if centered(dtype, side) { 2 * rows } else { 0 };
    rows * columns / dtype.block() * dtype.block_bytes() + center
}

/// One head of a page as it is kept.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    /// keys or values
    pub side: Side,
    /// how numbers are kept
    pub dtype: DType,
    /// D of keys, or PAGE
    pub rows: usize,
    /// PAGE of keys, or D
    pub columns: usize,
    /// the numbers, row by row
    pub numbers: &'a [u8],
    scales: &'a [u8],
    center: &'a [u8],
}

impl<'a> Head<'a> {
    pub(super) fn new(dtype: DType, side: Side, dim: usize, bytes: &'a [u8]) -> Head<'a> {
        let (rows, columns) = size(dtype, side, dim);
        let (numbers, rest) = bytes.split_at(rows * row_bytes(dtype, columns));
        let (scales, center) = rest.split_at(rest.len() - if centered(dtype, side) { 2 * rows } else { 0 });
        Head { side, dtype, rows, columns, numbers, scales, center }
    }

    /// Bytes from row to row.
    pub fn row_bytes(&self) -> usize {
        row_bytes(self.dtype, self.columns)
    }

    /// Scales in f16, `(D / GROUP, PAGE)`, of the formats that have any.
    pub fn scales(&self) -> Option<&'a [u8]> {
        grouped(self.dtype).then_some(self.scales)
    }

    /// What the numbers of every token are kept less, in f16 `(D)`; empty where that is nothing.
    pub fn center(&self) -> &'a [u8] {
        self.center
    }

    /// All rows as f32; of 4 bits, as they are kept: rotated, and less the center.
    pub fn decode(&self, to: &mut [f32]) {
        match self.dtype {
            DType::F32 => {
                for (x, b) in to.iter_mut().zip(self.numbers.as_chunks().0) {
                    *x = f32::from_le_bytes(*b);
                }
            }
            DType::F16 => decode_f16(self.numbers, to),
            dtype => {
                decode_whole(dtype, self.numbers, to);
                scale(self.side, self.columns, self.scales, to);
            }
        }
    }

    /// The same head in f32: itself, or decoded into `buffer` (`rows · columns`).
    pub fn in_f32(self, buffer: &'a mut [f32]) -> Head<'a> {
        if self.dtype == DType::F32 {
            return self;
        }
        let buffer = &mut buffer[..self.rows * self.columns];
        self.decode(buffer);
        // SAFETY: floats are bytes without padding, borrowed as long as the head.
        let numbers = unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast(), 4 * buffer.len()) };
        Head { dtype: DType::F32, numbers, scales: &[], ..self }
    }

    /// Numbers of the token at `slot`, `(D)`. Allocates.
    pub fn read(&self, slot: usize, x: &mut [f32]) {
        let whole = if self.side == Side::Keys { self.rows } else { self.columns };
        let number = |d: usize| {
            let (row, column) = place(self.side, slot, d);
            let at = row * self.columns + column;
            let n = match self.dtype {
                DType::F32 => f32::from_le_bytes(self.numbers.as_chunks().0[at]),
                DType::F16 => half_at(self.numbers, at),
                DType::Q8_0 => self.numbers[at] as i8 as f32,
                _ => (self.numbers[at / 16 * 8 + at % 8] >> (at / 8 % 2 * 4) & 15) as f32 - 8.0,
            };
            let by = self.scales().map_or(1.0, |s| half_at(s, d / GROUP * PAGE + slot));
            n * by + if self.center.is_empty() { 0.0 } else { half_at(self.center, d) }
        };
        let mut all: Vec<f32> = (0..whole).map(number).collect();
        if self.dtype == DType::Q4_0 {
            rotate(&mut all);
        }
        x.copy_from_slice(&all[..x.len()]);
    }
}

pub(super) fn row_bytes(dtype: DType, columns: usize) -> usize {
    match dtype {
        DType::F32 => 4 * columns,
        DType::F16 => 2 * columns,
        DType::Q8_0 => columns,
        _ => columns / 2,
    }
}

pub(super) fn half_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes(bytes.as_chunks().0[at]).to_f32()
}

/// Row and column of a token's number `d`.
pub(super) fn place(side: Side, slot: usize, d: usize) -> (usize, usize) {
    if side == Side::Keys { (d, slot) } else { (slot, d) }
}

crate::isa::for_each_isa! {
    /// Turns all numbers of a token by a Hadamard matrix, which is its own inverse. Where their count is no power of two,
    /// parts that are.
    pub fn rotate(x: &mut [f32]) {
        let n = 1 << x.len().trailing_zeros();
        for x in x.chunks_exact_mut(n) {
            let mut half = 1;
            while half < n {
                for x in x.chunks_exact_mut(2 * half) {
                    let (a, b) = x.split_at_mut(half);
                    for i in 0..half {
                        (a[i], b[i]) = (a[i] + b[i], a[i] - b[i]);
                    }
                }
                half *= 2;
            }
            let by = 1.0 / (n as f32).sqrt();
            x.iter_mut().for_each(|x| *x *= by);
        }
    }
}

/// Halves as floats. The `half` crate's own is a call for every eight.
pub(crate) fn decode_f16(from: &[u8], to: &mut [f32]) {
    // SAFETY: any bits are an f16.
    let (head, from, _) = unsafe { from.align_to::<f16>() };
    assert!(head.is_empty() && from.len() <= to.len(), "halves begin at even offsets");
    let to = &mut to[..from.len()];
    #[cfg(target_arch = "x86_64")]
    if isa() >= Isa::Avx2 {
        #[target_feature(enable = "avx,f16c")]
        fn eights(from: &[[f16; 8]], to: &mut [[f32; 8]]) {
            use std::arch::x86_64::*;
            for (from, to) in from.iter().zip(to) {
                // SAFETY: eight halves are 16 bytes, eight floats 32.
                unsafe {
                    _mm256_storeu_ps(to.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast())))
                };
            }
        }
        let ((from, from_rest), (to, to_rest)) = (from.as_chunks(), to.as_chunks_mut());
        // SAFETY: the processor has what the function is compiled for.
        unsafe { eights(from, to) };
        return from_rest.convert_to_f32_slice(to_rest);
    }
    from.convert_to_f32_slice(to);
}

crate::isa::for_each_isa! {
    /// Whole numbers without their scales.
    fn decode_whole(dtype: DType, from: &[u8], to: &mut [f32]) {
        if dtype == DType::Q8_0 {
            from.iter().zip(to).for_each(|(b, x)| *x = *b as i8 as f32);
            return;
        }
        for (b, x) in from.as_chunks::<8>().0.iter().zip(to.as_chunks_mut::<16>().0) {
            for i in 0..8 {
                x[i] = (b[i] & 15) as f32 - 8.0;
                x[i + 8] = (b[i] >> 4) as f32 - 8.0;
            }
        }
    }
}

crate::isa::for_each_isa! {
    /// Multiplies a head by its scales.
    fn scale(side: Side, columns: usize, scales: &[u8], to: &mut [f32]) {
        let mut by = [0.0f32; PAGE];
        for (g, scales) in scales.chunks_exact(2 * PAGE).enumerate() {
            decode_f16(scales, &mut by);
            if side == Side::Keys {
                for row in to[g * GROUP * PAGE..][..GROUP * PAGE].chunks_exact_mut(PAGE) {
                    row.iter_mut().zip(&by).for_each(|(x, by)| *x *= by);
                }
            } else {
                for (row, by) in to.chunks_exact_mut(columns).zip(&by) {
                    row[g * GROUP..][..GROUP].iter_mut().for_each(|x| *x *= by);
                }
            }
        }
    }
}
