//! The product by tiles of bf16, two for each number: see [`crate::amx`].

use super::{DEPTH, Gemm, Left, WIDTH};
use crate::amx::{SIDE, Tiles, block, pack_columns, pack_row, product};
use std::ops::Range;

/// Rows from which on tiles, of which each has 16, are faster than vectors.
pub const LEAST: usize = 4;

const STEP: usize = block::<2>();
const _: () = assert!(SIDE == WIDTH && DEPTH.is_multiple_of(SIDE));

/// Lays a strip of b out: `plain` has its numbers, `panel` room for whole blocks.
pub fn pack(plain: &[[f32; WIDTH]], panel: &mut [f32]) {
    assert!(size_of_val(panel) >= plain.len().div_ceil(SIDE) * STEP);
    // SAFETY: the processor has AMX and so AVX-512; the blocks are there, as asserted.
    unsafe { pack_columns::<2>(plain, panel.as_mut_ptr().cast()) };
}

impl Gemm {
    /// See [`Gemm::multiply`].
    pub(super) fn multiply_parts(
        &self,
        a: Left,
        mine: Range<usize>,
        deep: Range<usize>,
        panel: &[f32],
        sums: &mut [[f32; WIDTH]],
        room: &mut [f32; SIDE * DEPTH],
        store: &impl Fn(usize, usize, &[f32; WIDTH]),
    ) {
        let (steps, strips) = (deep.len().div_ceil(SIDE), sums.len() / mine.len().max(1));
        assert!(size_of_val(panel) == strips * steps * STEP && steps <= DEPTH / SIDE);
        let _tiles = Tiles::new();
        let mut decoded = [0.0; DEPTH];
        let left = room.as_mut_ptr().cast::<u8>();
        for row in mine.clone().step_by(SIDE) {
            let high = SIDE.min(self.rows - row);
            for i in 0..high {
                let x = a.numbers((row + i) * self.depth + deep.start, deep.len(), &mut decoded);
                // SAFETY: the processor has AVX-512, and the room is that of so many steps of SIDE rows.
                unsafe { pack_row::<2>(x, i, left) };
            }
            for strip in 0..strips {
                let sums = &mut sums[strip * mine.len() + row - mine.start..][..SIDE];
                let right = panel.as_ptr().wrapping_byte_add(strip * steps * STEP).cast();
                let to = sums.as_mut_ptr().cast();
                // SAFETY: tiles are set up, operands have so many blocks, and there are sums for all rows.
                unsafe { product::<2>(left, right, steps, to, 4 * WIDTH, [high <= 16, deep.start == 0]) };
                if deep.end == self.depth {
                    sums[..high].iter().enumerate().for_each(|(i, sums)| store(row + i, strip, sums));
                }
            }
        }
    }
}
