//! One head of a page: where its numbers and scales lie, how they are written and read.

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
fn size(dtype: DType, side: Side, dim: usize) -> (usize, usize) {
    let whole = |n: usize| if grouped(dtype) { n.next_multiple_of(GROUP) } else { n };
    match side {
        Side::Keys => (whole(dim), PAGE),
        Side::Values => (PAGE, whole(dim).next_multiple_of(16)),
    }
}

/// Bytes of a head of a page.
pub(super) fn bytes(dtype: DType, side: Side, dim: usize) -> usize {
    let (rows, columns) = size(dtype, side, dim);
    rows * columns / dtype.block() * dtype.block_bytes()
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
}

impl<'a> Head<'a> {
    pub(super) fn new(dtype: DType, side: Side, dim: usize, bytes: &'a [u8]) -> Head<'a> {
        let (rows, columns) = size(dtype, side, dim);
        let (numbers, scales) = bytes.split_at(rows * row_bytes(dtype, columns));
        Head { side, dtype, rows, columns, numbers, scales }
    }

    /// Bytes from row to row.
    pub fn row_bytes(&self) -> usize {
        row_bytes(self.dtype, self.columns)
    }

    /// Scales in f16, `(D / GROUP, PAGE)`, of the formats that have any.
    pub fn scales(&self) -> Option<&'a [u8]> {
        grouped(self.dtype).then_some(self.scales)
    }

    /// Whether groups are kept rotated.
    pub fn rotated(&self) -> bool {
        self.dtype == DType::Q4_0
    }

    /// All rows as f32; of 4 bits, as they are kept, rotated.
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

    /// Numbers of the token at `slot`, `(D)`.
    pub fn read(&self, slot: usize, x: &mut [f32]) {
        let mut group = [0.0; GROUP];
        for (g, x) in x.chunks_mut(GROUP).enumerate() {
            let by = self.scales().map(|s| half_at(s, g * PAGE + slot));
            let held = if by.is_some() { GROUP } else { x.len() };
            for (i, y) in group[..held].iter_mut().enumerate() {
                let (row, column) = place(self.side, slot, g * GROUP + i);
                let at = row * self.columns + column;
                *y = match self.dtype {
                    DType::F32 => f32::from_le_bytes(self.numbers.as_chunks().0[at]),
                    DType::F16 => half_at(self.numbers, at),
                    DType::Q8_0 => self.numbers[at] as i8 as f32,
                    _ => (self.numbers[at / 16 * 8 + at % 8] >> (at / 8 % 2 * 4) & 15) as f32 - 8.0,
                } * by.unwrap_or(1.0);
            }
            if self.rotated() {
                rotate(&mut group);
            }
            x.copy_from_slice(&group[..x.len()]);
        }
    }
}

fn row_bytes(dtype: DType, columns: usize) -> usize {
    match dtype {
        DType::F32 => 4 * columns,
        DType::F16 => 2 * columns,
        DType::Q8_0 => columns,
        _ => columns / 2,
    }
}

fn half_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes(bytes.as_chunks().0[at]).to_f32()
}

/// Row and column of a token's number `d`.
fn place(side: Side, slot: usize, d: usize) -> (usize, usize) {
    if side == Side::Keys { (d, slot) } else { (slot, d) }
}

/// Turns every group of [`GROUP`] by the Hadamard matrix, which is its own inverse.
pub fn rotate(x: &mut [f32]) {
    for x in x.as_chunks_mut::<GROUP>().0 {
        let mut half = 1;
        while half < GROUP {
            for at in (0..GROUP).step_by(2 * half) {
                for i in at..at + half {
                    (x[i], x[i + half]) = (x[i] + x[i + half], x[i] - x[i + half]);
                }
            }
            half *= 2;
        }
        x.iter_mut().for_each(|x| *x *= 0.176_776_7); // 1 / √32
    }
}

/// Writes a token's numbers, `(D)`.
pub(super) fn write(dtype: DType, side: Side, to: &mut [u8], slot: usize, x: &[f32]) {
    let (rows, columns) = size(dtype, side, x.len());
    let (numbers, scales) = to.split_at_mut(rows * row_bytes(dtype, columns));
    let (first, step) = if side == Side::Keys { (slot, columns) } else { (slot * columns, 1) };
    match dtype {
        DType::F32 => scatter(numbers, first, step, x.iter().map(|x| x.to_le_bytes())),
        DType::F16 => write_f16(numbers, first, step, x),
        dtype => {
            for (g, x) in x.chunks(GROUP).enumerate() {
                let mut group = [0.0; GROUP];
                group[..x.len()].copy_from_slice(x);
                let first = first + g * GROUP * step;
                let by = match dtype {
                    DType::Q8_0 => write_bytes(numbers, first, step, &group),
                    _ => write_nibbles(numbers, first, step, &mut group),
                };
                scatter(scales, g * PAGE + slot, 1, std::iter::once(by.to_le_bytes()));
            }
        }
    }
}

/// A scale that an f16 holds, and its inverse: none of numbers too small to matter.
fn scale_of(d: f32) -> (f16, f32) {
    let d = f16::from_f32(d);
    let inverse = if d.to_f32() == 0.0 { 0.0 } else { 1.0 / d.to_f32() };
    (d, inverse)
}

fn write_bytes(to: &mut [u8], first: usize, step: usize, x: &[f32; GROUP]) -> f16 {
    let most = x.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let (d, inverse) = scale_of(most / 127.0);
    for (i, x) in x.iter().enumerate() {
        to[first + i * step] = (x * inverse).round_ties_even().clamp(-127.0, 127.0) as i8 as u8;
    }
    d
}

/// -8 to 7 times a scale, whose sign lets the largest become -8.
fn write_nibbles(to: &mut [u8], first: usize, step: usize, x: &mut [f32; GROUP]) -> f16 {
    rotate(x);
    let most = x.iter().fold(0.0f32, |m, x| if x.abs() > m.abs() { *x } else { m });
    let (d, inverse) = scale_of(most / -8.0);
    for (i, x) in x.iter().enumerate() {
        let n = (x * inverse).round_ties_even().clamp(-8.0, 7.0) as i8 + 8;
        let at = first + i * step;
        let (byte, shift) = (&mut to[at / 16 * 8 + at % 8], at / 8 % 2 * 4);
        *byte = *byte & !(15 << shift) | (n as u8) << shift;
    }
    d
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

/// Numbers rounded to halves; several at a time, as one alone costs a call.
fn write_f16(to: &mut [u8], first: usize, step: usize, x: &[f32]) {
    for (i, x) in x.chunks(32).enumerate() {
        let mut halves = [f16::ZERO; 32];
        halves[..x.len()].convert_from_f32_slice(x);
        scatter(to, first + i * 32 * step, step, halves[..x.len()].iter().map(|h| h.to_le_bytes()));
    }
}

/// Writes numbers of N bytes from number `first` on, `step` apart.
#[inline(always)]
fn scatter<const N: usize>(to: &mut [u8], first: usize, step: usize, x: impl Iterator<Item = [u8; N]>) {
    for (i, x) in x.enumerate() {
        let at = (first + i * step) * N;
        to[at..at + N].copy_from_slice(&x);
    }
}
