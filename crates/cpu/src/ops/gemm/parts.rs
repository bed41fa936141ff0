//! The product by tiles of bf16, two for each number: see [`crate::amx`].

use super::{DEPTH, Gemm, Left, WIDTH, decode, prefetch};
use crate::amx::{SIDE, Tiles, block, left_row, product, right_columns, turn};
use hob_graph::DType;
use std::ops::Range;

/// Rows from which on tiles, of which each has 16, are faster than vectors.
pub const LEAST: usize = 4;

const _: () = assert!(SIDE == WIDTH && DEPTH.is_multiple_of(SIDE));

/// Calls a function of so many parts.
macro_rules! with_parts {
    ($parts:expr, $PARTS:ident => $then:expr) => {
        match $parts {
            2 => {
                const $PARTS: usize = 2;
                $then
            }
            _ => {
                const $PARTS: usize = 3;
                $then
            }
        }
    };
}
pub(crate) use with_parts;

/// Steps of so many numbers along K, for which `memory` has room.
fn steps<const PARTS: usize>(deep: usize, memory: &[f32]) -> usize {
    let steps = deep.div_ceil(SIDE);
    assert!(size_of_val(memory) >= steps * block::<PARTS>());
    steps
}

/// Lays a strip of b out: `plain` has its numbers.
pub fn pack(plain: &[[f32; WIDTH]], parts: usize, panel: &mut [f32]) {
    with_parts!(parts, PARTS => {
        steps::<PARTS>(plain.len(), panel);
        // SAFETY: the processor has AMX and so AVX-512; the blocks are there, as asserted.
        unsafe { right_columns::<PARTS>(plain, panel.as_mut_ptr().cast()) };
    });
}

/// Lays a strip of b out, of which `column` gives columns: stored numbers `deep`. What is no column is left as it is.
pub fn pack_columns<'a>(
    dtype: DType,
    deep: Range<usize>,
    parts: usize,
    panel: &mut [f32],
    column: impl Fn(usize) -> Option<&'a [u8]>,
) {
    with_parts!(parts, PARTS => {
        let steps = steps::<PARTS>(deep.len(), panel);
        for i in 0..SIDE {
            if let Some(bytes) = column(i) {
                pack_row::<PARTS>(Left { dtype, bytes }, deep.clone(), i, panel);
            }
        }
        // SAFETY: the processor has AVX-512; the blocks are there, as asserted.
        unsafe { turn::<PARTS>(panel.as_mut_ptr().cast(), steps) };
    });
}

/// Writes numbers of a as line `row` of an operand's blocks.
fn pack_row<const PARTS: usize>(a: Left, numbers: Range<usize>, row: usize, to: &mut [f32]) {
    assert!(row < SIDE && numbers.len() <= DEPTH);
    steps::<PARTS>(numbers.len(), to);
    let (to, count) = (to.as_mut_ptr().cast(), numbers.len());
    let stored = |numbers: &Range<usize>| &a.bytes[a.bytes_of(numbers.start)..a.bytes_of(numbers.end)];
    // SAFETY: the processor has AMX and so AVX-512; numbers and blocks are there.
    unsafe {
        match a.dtype {
            DType::F32 => left_row::<PARTS, f32>(stored(&numbers).as_ptr().cast(), count, row, to),
            DType::F16 => left_row::<PARTS, half::f16>(stored(&numbers).as_ptr().cast(), count, row, to),
            DType::BF16 => left_row::<PARTS, half::bf16>(stored(&numbers).as_ptr().cast(), count, row, to),
            _ => {
                let block = a.dtype.block();
                let whole = numbers.start / block * block..numbers.end.next_multiple_of(block);
                let mut plain = [0.0; 2 * DEPTH];
                let plain = &mut plain[..whole.len()];
                decode(a.dtype, stored(&whole), plain);
                left_row::<PARTS, f32>(plain[numbers.start - whole.start..].as_ptr(), count, row, to);
            }
        }
    }
}

impl Gemm {
    /// See [`Gemm::multiply`].
    pub(super) fn multiply_parts<const PARTS: usize>(
        &self,
        a: Left,
        mine: Range<usize>,
        deep: Range<usize>,
        panel: &[f32],
        sums: &mut [[f32; WIDTH]],
        room: &mut [f32],
        store: &impl Fn(usize, usize, &[f32; WIDTH]),
    ) {
        let (steps, strips) = (deep.len().div_ceil(SIDE), sums.len() / mine.len().max(1));
        let step = block::<PARTS>();
        assert!(size_of_val(panel) == strips * steps * step && size_of_val(room) >= steps * step);
        let _tiles = Tiles::new();
        for row in mine.clone().step_by(SIDE) {
            let high = SIDE.min(self.rows - row);
            for i in 0..high {
                let first = (row + i) * self.depth;
                pack_row::<PARTS>(a, first + deep.start..first + deep.end, i, room);
            }
            // The next rows come while these are multiplied, some of each beside every strip; after the last of them the
            // first ones' next numbers.
            let (next, at) = match row + SIDE < mine.end {
                true => (row + SIDE, deep.clone()),
                false => (mine.start, deep.end..self.depth.min(deep.end + self.way.depth())),
            };
            let ahead = if at.is_empty() { 0 } else { SIDE.min(self.rows - next) };
            let (first, stride) = (a.bytes_of(next * self.depth + at.start), a.bytes_of(self.depth));
            let part = a.bytes_of(at.len()).div_ceil(strips);
            for strip in 0..strips {
                for row in 0..ahead {
                    prefetch(a.bytes, first + row * stride + strip * part, part);
                }
                let place = strip * mine.len() + row - mine.start;
                let sums = &mut sums[place..][..SIDE];
                let right = panel.as_ptr().wrapping_byte_add(strip * steps * step).cast();
                let (left, to) = (room.as_ptr().cast(), sums.as_mut_ptr().cast());
                // SAFETY: tiles are set up, operands have so many blocks, and there are sums for all rows.
                unsafe { product::<PARTS>(left, right, steps, to, 4 * WIDTH, [high <= 16, deep.start == 0]) };
                if deep.end == self.depth {
                    sums[..high].iter().enumerate().for_each(|(i, sums)| store(row + i, strip, sums));
                }
            }
        }
    }
}
