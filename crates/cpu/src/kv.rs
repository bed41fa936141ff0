//! Keys and values of earlier tokens, in pages.
//!
//! A page holds [`PAGE`] tokens of one sequence, in every layer. Within a layer it is laid out head by head. A head's
//! values are `(PAGE, D)`; its keys are `(D, PAGE)`, so that the scores of a whole page come by multiplying and adding
//! vectors, without a sum across one.

#[cfg(target_arch = "x86_64")]
use crate::isa::{Isa, isa};
use crate::weights::Buffer;
use half::f16;
use half::slice::HalfFloatSliceExt;
use hob_graph::graph::State;
use hob_graph::{DType, StateId};

/// Tokens of a page.
pub const PAGE: usize = 64;

struct Layer {
    heads: usize,
    dim: usize,
    keys: usize,   // byte offset
    values: usize, // byte offset
}

/// The cache of all layers.
pub struct Kv {
    memory: Buffer,
    layers: Vec<Layer>,
    dtype: DType,
    pages: usize,
}

/// Bytes of one page over all layers.
pub fn page_bytes(states: &[State], dtype: DType) -> usize {
    states.iter().map(|s| 2 * s.heads * s.dim * PAGE * dtype.block_bytes()).sum()
}

/// Which half of the cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Side {
    Keys,
    Values,
}

impl Kv {
    /// Room for `pages` pages of every state, in F16 or F32. Memory is taken as pages are first written.
    pub fn new(states: &[State], dtype: DType, pages: usize) -> std::io::Result<Kv> {
        assert!(matches!(dtype, DType::F16 | DType::F32), "a cache of {dtype}");
        let mut end = 0;
        let mut layers = Vec::with_capacity(states.len());
        for s in states {
            let bytes = pages * s.heads * PAGE * s.dim * dtype.block_bytes();
            layers.push(Layer { heads: s.heads, dim: s.dim, keys: end, values: end + bytes });
            end += 2 * bytes;
        }
        Ok(Kv { memory: Buffer::zeroed(end)?, layers, dtype, pages })
    }

    /// Pages there are.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// How numbers are kept.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    fn span(&self, state: StateId, side: Side, page: u32, head: usize) -> std::ops::Range<usize> {
        let l = &self.layers[state.0 as usize];
        assert!((page as usize) < self.pages && head < l.heads, "page {page}, head {head}");
        let one = PAGE * l.dim * self.dtype.block_bytes();
        let base = if side == Side::Keys { l.keys } else { l.values };
        let at = base + (page as usize * l.heads + head) * one;
        at..at + one
    }

    /// One head of a page: keys `(D, PAGE)` or values `(PAGE, D)`, as bytes in the cache's format.
    pub fn head(&self, state: StateId, side: Side, page: u32, head: usize) -> &[u8] {
        &self.memory.bytes()[self.span(state, side, page, head)]
    }

    /// One head of a page as f32: borrowed where the cache is F32, else decoded into `buffer` (`PAGE · D`).
    pub fn head_f32<'a>(
        &'a self,
        state: StateId,
        side: Side,
        page: u32,
        head: usize,
        buffer: &'a mut [f32],
    ) -> &'a [f32] {
        let b = self.head(state, side, page, head);
        match self.dtype {
            DType::F16 => {
                // SAFETY: any bits are an f16, and heads begin at even offsets of an aligned buffer.
                let halves = unsafe { std::slice::from_raw_parts(b.as_ptr().cast::<f16>(), b.len() / 2) };
                decode_f16(halves, &mut buffer[..halves.len()]);
                &buffer[..halves.len()]
            }
            // SAFETY: any bits are an f32, and heads begin at multiples of 4 of an aligned buffer.
            _ => unsafe { std::slice::from_raw_parts(b.as_ptr().cast(), b.len() / 4) },
        }
    }

    /// Writes the keys or values of one token and head, `(D)`. The token is `slot` of its page.
    pub fn write(&mut self, state: StateId, side: Side, page: u32, head: usize, slot: usize, x: &[f32]) {
        let span = self.span(state, side, page, head);
        assert!(slot < PAGE && x.len() == self.layers[state.0 as usize].dim);
        let to = &mut self.memory.bytes_mut()[span];
        let (first, step) = if side == Side::Keys { (slot, PAGE) } else { (slot * x.len(), 1) };
        match self.dtype {
            DType::F16 => write_f16(to, first, step, x),
            _ => scatter(to, first, step, x.iter().map(|x| x.to_le_bytes())),
        }
    }

    /// Reads what [`Kv::write`] wrote.
    pub fn read(&self, state: StateId, side: Side, page: u32, head: usize, slot: usize, x: &mut [f32]) {
        let (first, step) = if side == Side::Keys { (slot, PAGE) } else { (slot * x.len(), 1) };
        let size = self.dtype.block_bytes();
        let from = self.head(state, side, page, head);
        for (i, x) in x.iter_mut().enumerate() {
            let at = (first + i * step) * size;
            *x = match self.dtype {
                DType::F16 => f16::from_le_bytes([from[at], from[at + 1]]).to_f32(),
                _ => f32::from_le_bytes([from[at], from[at + 1], from[at + 2], from[at + 3]]),
            };
        }
    }
}

/// Halves as floats. The `half` crate's own is a call for every eight.
fn decode_f16(from: &[f16], to: &mut [f32]) {
    assert_eq!(from.len(), to.len());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else_changes() {
        let states = [State { heads: 2, dim: 3, window: None }, State { heads: 1, dim: 5, window: Some(8) }];
        for dtype in [DType::F16, DType::F32] {
            let mut kv = Kv::new(&states, dtype, 3).unwrap();
            assert_eq!(kv.memory.bytes().len(), 3 * page_bytes(&states, dtype));
            kv.write(StateId(0), Side::Keys, 2, 1, 63, &[1.0, 2.0, 3.0]);
            kv.write(StateId(1), Side::Values, 0, 0, 0, &[4.0; 5]);
            let mut x = [0.0; 3];
            kv.read(StateId(0), Side::Keys, 2, 1, 63, &mut x);
            assert_eq!(x, [1.0, 2.0, 3.0]);
            let mut page = [0.0; 3 * PAGE];
            assert_eq!(kv.head_f32(StateId(0), Side::Keys, 2, 1, &mut page)[2 * PAGE + 63], 3.0);
            let written = kv.memory.bytes().iter().filter(|b| **b != 0).count();
            assert!(written <= 8 * dtype.block_bytes());
        }
    }
}
