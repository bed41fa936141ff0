//! Keys and values of earlier tokens, in pages.
//!
//! A page holds [`PAGE`] tokens of one sequence, in every layer. Within a layer it is laid out head by head,
//! `(pages, K, PAGE, D)`, keys and values apart, so that attention reads one head's keys as one run.

use crate::weights::Buffer;
use half::f16;
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

    /// `(PAGE, D)` of one head, as bytes in the cache's format.
    pub fn head(&self, state: StateId, side: Side, page: u32, head: usize) -> &[u8] {
        &self.memory.bytes()[self.span(state, side, page, head)]
    }

    /// The same as halves; panics when the cache is not F16.
    pub fn head_f16(&self, state: StateId, side: Side, page: u32, head: usize) -> &[f16] {
        assert_eq!(self.dtype, DType::F16);
        let b = self.head(state, side, page, head);
        // SAFETY: any bits are an f16, and heads begin at even offsets of an aligned buffer.
        unsafe { std::slice::from_raw_parts(b.as_ptr().cast(), b.len() / 2) }
    }

    /// The same as floats; panics when the cache is not F32.
    pub fn head_f32(&self, state: StateId, side: Side, page: u32, head: usize) -> &[f32] {
        assert_eq!(self.dtype, DType::F32);
        let b = self.head(state, side, page, head);
        // SAFETY: any bits are an f32, and heads begin at multiples of 4 of an aligned buffer.
        unsafe { std::slice::from_raw_parts(b.as_ptr().cast(), b.len() / 4) }
    }

    /// Writes the keys or values of one token and head, `(D)`.
    pub fn write(&mut self, state: StateId, side: Side, page: u32, head: usize, slot: usize, x: &[f32]) {
        let at = self.span(state, side, page, head).start + slot * x.len() * self.dtype.block_bytes();
        assert!(slot < PAGE && x.len() == self.layers[state.0 as usize].dim);
        let to = &mut self.memory.bytes_mut()[at..at + x.len() * self.dtype.block_bytes()];
        match self.dtype {
            DType::F16 => {
                for (to, x) in to.chunks_exact_mut(2).zip(x) {
                    to.copy_from_slice(&f16::from_f32(*x).to_le_bytes());
                }
            }
            _ => {
                for (to, x) in to.chunks_exact_mut(4).zip(x) {
                    to.copy_from_slice(&x.to_le_bytes());
                }
            }
        }
    }
}
