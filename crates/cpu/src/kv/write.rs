//! Writing a token's numbers to a head of a page.

use super::head::{GROUP, centered, half_at, place, rotate, row_bytes, size};
use super::{PAGE, Side};
use crate::isa::for_each_isa;
use half::f16;
use half::slice::HalfFloatSliceExt;
use hob_graph::DType;

/// One head of a page, to write.
pub(super) struct HeadMut<'a> {
    dtype: DType,
    side: Side,
    dim: usize,
    /// from number to number of a token
    step: usize,
    columns: usize,
    numbers: &'a mut [u8],
    scales: &'a mut [u8],
    center: &'a mut [u8],
}

impl<'a> HeadMut<'a> {
    pub fn new(dtype: DType, side: Side, dim: usize, bytes: &'a mut [u8]) -> HeadMut<'a> {
        let (rows, columns) = size(dtype, side, dim);
        let (numbers, rest) = bytes.split_at_mut(rows * row_bytes(dtype, columns));
        let center = if centered(dtype, side) { 2 * rows } else { 0 };
        let (scales, center) = rest.split_at_mut(rest.len() - center);
        let step = if side == Side::Keys { columns } else { 1 };
        HeadMut { dtype, side, dim, step, columns, numbers, scales, center }
    }

    /// Begins a page: its center is the mean of the page before, which is whole, or nothing.
    pub fn begin(&mut self, before: Option<super::Head>) {
        let Some(before) = before else { return self.center.fill(0) };
        for (d, to) in self.center.as_chunks_mut().0.iter_mut().enumerate() {
            let scales =
                &before.scales().expect("of a format with scales")[d / GROUP * 2 * PAGE..][..2 * PAGE];
            let mut by = [0.0; PAGE];
            super::decode_f16(scales, &mut by);
            let row = before.numbers[d * PAGE / 2..][..PAGE / 2].as_array().expect("a row of 4 bits");
            let mean = half_at(before.center(), d) + sum(row, &by) / PAGE as f32;
            *to = f16::from_f32(mean).to_le_bytes();
        }
    }

    /// Writes the numbers of the token at `slot`, `(D)`, working in `memory` of [`working`] numbers.
    pub fn write(&mut self, slot: usize, x: &[f32], memory: &mut [f32]) {
        assert!(x.len() == self.dim && slot < PAGE);
        let (row, column) = place(self.side, slot, 0);
        let first = row * self.columns + column;
        match self.dtype {
            DType::F32 => {
                scatter(self.numbers, first, self.step, x.iter().map(|x| x.to_le_bytes()));
            }
            DType::F16 => {
                for (i, x) in x.chunks(GROUP).enumerate() {
                    let mut halves = [f16::ZERO; GROUP];
                    halves[..x.len()].convert_from_f32_slice(x); // one alone costs a call
                    let halves = halves[..x.len()].iter().map(|h| h.to_le_bytes());
                    scatter(self.numbers, first + i * GROUP * self.step, self.step, halves);
                }
            }
            dtype => {
                let (all, center) = memory[..working(x.len())].split_at_mut(working(x.len()) / 2);
                all[..x.len()].copy_from_slice(x);
                all[x.len()..].fill(0.0);
                if dtype == DType::Q4_0 {
                    rotate(all);
                    if !self.center.is_empty() {
                        super::decode_f16(self.center, center);
                        all.iter_mut().zip(center).for_each(|(x, c)| *x -= *c);
                    }
                }
                for (g, x) in all.as_chunks::<GROUP>().0.iter().enumerate() {
                    let first = first + g * GROUP * self.step;
                    let (d, q) = if dtype == DType::Q8_0 { bytes(x) } else { nibbles(x) };
                    match dtype {
                        DType::Q8_0 => scatter(self.numbers, first, self.step, q.iter().map(|q| [*q as u8])),
                        _ => self.scatter_nibbles(first, &q),
                    }
                    scatter(self.scales, g * PAGE + slot, 1, std::iter::once(f16::from_f32(d).to_le_bytes()));
                }
            }
        }
    }

    /// Numbers of -8 to 7, of which two share a byte: see [`super::Head`].
    fn scatter_nibbles(&mut self, first: usize, q: &[i8; GROUP]) {
        for (i, q) in q.iter().enumerate() {
            let at = first + i * self.step;
            let (byte, shift) = (&mut self.numbers[at / 16 * 8 + at % 8], at / 8 % 2 * 4);
            *byte = *byte & !(15 << shift) | ((q + 8) as u8) << shift;
        }
    }
}

/// Numbers of working memory that [`HeadMut::write`] needs for heads of `dim`.
pub(super) fn working(dim: usize) -> usize {
    2 * dim.next_multiple_of(GROUP)
}

/// The nearest scale that an f16 holds, and its inverse: none of numbers too small to matter.
#[inline(always)]
fn scale_of(d: f32) -> (f32, f32) {
    let d = f16::from_f32(d).to_f32();
    (d, if d == 0.0 { 0.0 } else { 1.0 / d })
}

/// The whole number next to `x`, which is small: adding 1.5 · 2^23 leaves it in the low bits.
#[inline(always)]
fn nearest(x: f32) -> f32 {
    (x + 12_582_912.0) - 12_582_912.0
}

for_each_isa! {
    /// Scale, and whole numbers of -127 to 127.
    fn bytes(x: &[f32; GROUP]) -> (f32, [i8; GROUP]) {
        let most = x.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        let (d, inverse) = scale_of(most / 127.0);
        (d, x.map(|x| nearest((x * inverse).clamp(-127.0, 127.0)) as i8))
    }
}

/// The largest number becomes one of these: where it is cut to 8, the others are kept in finer steps.
const LARGEST: [f32; 7] = [7.1, 7.5, 7.9, 8.3, 8.7, 9.2, 9.8];

for_each_isa! {
    /// Scale, and whole numbers of -8 to 7: of several scales, that with the least error.
    fn nibbles(x: &[f32; GROUP]) -> (f32, [i8; GROUP]) {
        let most = x.iter().fold(0.0f32, |m, x| if x.abs() > m.abs() { *x } else { m });
        let mut best = (f32::INFINITY, 0.0, 0.0);
        for largest in LARGEST {
            let (d, inverse) = scale_of(-most / largest); // its sign lets the largest become -8
            let mut errors = [0.0f32; 16];
            for x in x.as_chunks::<16>().0 {
                for i in 0..16 {
                    let e = nearest((x[i] * inverse).clamp(-8.0, 7.0)) * d - x[i];
                    errors[i] += e * e;
                }
            }
            let error = errors.iter().sum();
            if error < best.0 {
                best = (error, d, inverse);
            }
        }
        (best.1, x.map(|x| nearest((x * best.2).clamp(-8.0, 7.0)) as i8))
    }
}

for_each_isa! {
    /// Σ of a row of 4 bits, less 8, by the tokens' scales.
    fn sum(row: &[u8; PAGE / 2], by: &[f32; PAGE]) -> f32 {
        let mut sums = [0.0f32; 16];
        for (b, by) in row.as_chunks::<8>().0.iter().zip(by.as_chunks::<16>().0) {
            for i in 0..8 {
                sums[i] += ((b[i] & 15) as f32 - 8.0) * by[i];
                sums[i + 8] += ((b[i] >> 4) as f32 - 8.0) * by[i + 8];
            }
        }
        sums.iter().sum()
    }
}

/// Writes numbers of N bytes from number `first` on, `step` apart.
#[inline(always)]
fn scatter<const N: usize>(to: &mut [u8], first: usize, step: usize, x: impl Iterator<Item = [u8; N]>) {
    let to = to.as_chunks_mut::<N>().0;
    for (i, x) in x.enumerate() {
        to[first + i * step] = x;
    }
}
