//! Keys and values of earlier tokens, in pages.
//!
//! A page holds [`PAGE`] tokens of one sequence, in every layer. Within a layer it is laid out head by head. A head's
//! values are `(PAGE, D)`; its keys are `(D, PAGE)`, so that the scores of a whole page come by multiplying and adding
//! vectors, without a sum across one.
//!
//! Numbers are kept in f32, f16, or as whole numbers of 8 or 4 bits. A token's [`GROUP`] of neighbours along D then
//! share a scale in f16; the scales `(D / GROUP, PAGE)` follow the head's numbers. Groups of 4 bits are first rotated by
//! a Hadamard matrix, which spreads a channel that is larger than the others over its group (Ashkboos et al. 2024).

mod head;

use crate::weights::Buffer;
use hob_graph::graph::State;
use hob_graph::{DType, StateId};
use std::fmt;
use std::str::FromStr;

pub(crate) use head::decode_f16;
pub use head::{GROUP, Head, rotate};

/// Tokens of a page.
pub const PAGE: usize = 64;

/// Which half of the cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Side {
    Keys,
    Values,
}

/// How keys and values are kept: F32, F16, Q8_0 or Q4_0 each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KvTypes {
    /// of keys
    pub k: DType,
    /// of values
    pub v: DType,
}

impl KvTypes {
    /// What can be chosen.
    pub const CHOICE: [DType; 4] = [DType::F32, DType::F16, DType::Q8_0, DType::Q4_0];

    /// Keys and values alike.
    pub const fn both(dtype: DType) -> KvTypes {
        KvTypes { k: dtype, v: dtype }
    }

    fn of(&self, side: Side) -> DType {
        if side == Side::Keys { self.k } else { self.v }
    }
}

impl Default for KvTypes {
    fn default() -> KvTypes {
        KvTypes::both(DType::F16)
    }
}

impl From<DType> for KvTypes {
    fn from(dtype: DType) -> KvTypes {
        KvTypes::both(dtype)
    }
}

impl fmt::Display for KvTypes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |d: DType| d.to_string().to_lowercase();
        match self.k == self.v {
            true => f.write_str(&name(self.k)),
            false => write!(f, "k={},v={}", name(self.k), name(self.v)),
        }
    }
}

impl FromStr for KvTypes {
    type Err = String;

    /// Reads `TYPE`, or `k=TYPE,v=TYPE` where what is not named stays f16.
    fn from_str(s: &str) -> Result<KvTypes, String> {
        let one = |name: &str| {
            let known = KvTypes::CHOICE.into_iter().find(|d| d.to_string().eq_ignore_ascii_case(name));
            known
                .ok_or_else(|| format!("keys and values are kept in f32, f16, q8_0 or q4_0, not in '{name}'"))
        };
        if !s.contains('=') {
            return one(s).map(KvTypes::both);
        }
        let mut types = KvTypes::default();
        for part in s.split(',') {
            match part.split_once('=') {
                Some(("k", name)) => types.k = one(name)?,
                Some(("v", name)) => types.v = one(name)?,
                _ => return Err(format!("'{part}' is neither k=TYPE nor v=TYPE")),
            }
        }
        Ok(types)
    }
}

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
    types: KvTypes,
    pages: usize,
}

/// Bytes of one page over all layers.
pub fn page_bytes(states: &[State], types: KvTypes) -> usize {
    let side = |s: &State, side| s.heads * head::bytes(types.of(side), side, s.dim);
    states.iter().map(|s| side(s, Side::Keys) + side(s, Side::Values)).sum()
}

impl Kv {
    /// Room for `pages` pages of every state. Memory is taken as pages are first written.
    pub fn new(states: &[State], types: impl Into<KvTypes>, pages: usize) -> std::io::Result<Kv> {
        let types = types.into();
        assert!([types.k, types.v].iter().all(|t| KvTypes::CHOICE.contains(t)), "a cache of {types}");
        let mut end = 0;
        let mut layers = Vec::with_capacity(states.len());
        for s in states {
            let bytes = |side| pages * s.heads * head::bytes(types.of(side), side, s.dim);
            let values = end + bytes(Side::Keys);
            layers.push(Layer { heads: s.heads, dim: s.dim, keys: end, values });
            end = values + bytes(Side::Values);
        }
        Ok(Kv { memory: Buffer::zeroed(end)?, layers, types, pages })
    }

    /// Pages there are.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// How numbers are kept.
    pub fn types(&self) -> KvTypes {
        self.types
    }

    fn span(&self, state: StateId, side: Side, page: u32, head: usize) -> std::ops::Range<usize> {
        let l = &self.layers[state.0 as usize];
        assert!((page as usize) < self.pages && head < l.heads, "page {page}, head {head}");
        let one = head::bytes(self.types.of(side), side, l.dim);
        let base = if side == Side::Keys { l.keys } else { l.values };
        let at = base + (page as usize * l.heads + head) * one;
        at..at + one
    }

    /// One head of a page as it is kept.
    pub fn head(&self, state: StateId, side: Side, page: u32, head: usize) -> Head<'_> {
        let bytes = &self.memory.bytes()[self.span(state, side, page, head)];
        Head::new(self.types.of(side), side, self.layers[state.0 as usize].dim, bytes)
    }

    /// Writes the keys or values of one token and head, `(D)`. The token is `slot` of its page.
    pub fn write(&mut self, state: StateId, side: Side, page: u32, head: usize, slot: usize, x: &[f32]) {
        let span = self.span(state, side, page, head);
        assert!(slot < PAGE && x.len() == self.layers[state.0 as usize].dim);
        head::write(self.types.of(side), side, &mut self.memory.bytes_mut()[span], slot, x);
    }

    /// Reads what [`Kv::write`] wrote.
    pub fn read(&self, state: StateId, side: Side, page: u32, head: usize, slot: usize, x: &mut [f32]) {
        self.head(state, side, page, head).read(slot, x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else_changes() {
        let states = [State { heads: 2, dim: 3, window: None }, State { heads: 1, dim: 37, window: Some(8) }];
        for k in KvTypes::CHOICE {
            for v in KvTypes::CHOICE {
                let types = KvTypes { k, v };
                let mut kv = Kv::new(&states, types, 3).unwrap();
                assert_eq!(kv.memory.bytes().len(), 3 * page_bytes(&states, types));
                let near = |dtype, x: &[f32], right: &[f32]| {
                    let d = x.iter().zip(right).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
                    let most = right.iter().fold(0.0f32, |m, x| m.max(x.abs()));
                    let allowed =
                        [0.0, 1e-3, 1e-2, 0.3][KvTypes::CHOICE.iter().position(|c| *c == dtype).unwrap()];
                    assert!(d <= allowed * most, "{types}: {x:?} is not {right:?}");
                };
                let right: Vec<f32> = (0..37).map(|i| (i as f32 * 0.7).sin()).collect();
                let mut x = [0.0; 37];
                for slot in [63, 0, 17, 16, 63] {
                    kv.write(StateId(0), Side::Keys, 2, 1, slot, &[1.0, 2.0, 3.0]);
                    kv.write(StateId(1), Side::Values, 0, 0, slot, &right);
                    kv.read(StateId(0), Side::Keys, 2, 1, slot, &mut x[..3]);
                    near(k, &x[..3], &[1.0, 2.0, 3.0]);
                    kv.read(StateId(1), Side::Values, 0, 0, slot, &mut x);
                    near(v, &x, &right);
                }
                // Neither neighbours nor other heads and pages changed.
                let zero = |kv: &Kv, state, side, page, head, slot| {
                    let mut x = vec![1.0; kv.layers[state as usize].dim];
                    kv.read(StateId(state), side, page, head, slot, &mut x);
                    x.iter().all(|x| *x == 0.0)
                };
                assert!(zero(&kv, 0, Side::Keys, 2, 1, 62) && zero(&kv, 1, Side::Values, 0, 0, 1));
                assert!(zero(&kv, 0, Side::Keys, 2, 0, 63) && zero(&kv, 0, Side::Keys, 1, 1, 63));
                assert!(zero(&kv, 0, Side::Values, 2, 1, 63) && zero(&kv, 1, Side::Keys, 0, 0, 63));
                let head = kv.head(StateId(0), Side::Keys, 2, 1);
                let mut page = vec![0.0; head.rows * head.columns];
                head.decode(&mut page);
                if k != DType::Q4_0 {
                    near(k, &[page[63], page[PAGE + 63], page[2 * PAGE + 63]], &[1.0, 2.0, 3.0]);
                }
            }
        }
    }

    #[test]
    fn types_are_read_as_they_are_written() {
        for s in ["f16", "q8_0", "k=q8_0,v=q4_0", "k=f32,v=f16"] {
            assert_eq!(s.parse::<KvTypes>().unwrap().to_string(), s);
        }
        assert_eq!("v=Q4_0".parse(), Ok(KvTypes { k: DType::F16, v: DType::Q4_0 }));
        assert_eq!("f16".parse(), Ok(KvTypes::default()));
        for s in ["", "q4_k", "k=", "k=q8_0,", "x=f16", "k=f16;v=f16"] {
            assert!(s.parse::<KvTypes>().is_err(), "{s}");
        }
    }

    #[test]
    fn rotating_twice_changes_nothing() {
        let x: Vec<f32> = (0..64).map(|i| (i as f32 * 1.3).cos()).collect();
        let mut y = x.clone();
        rotate(&mut y);
        assert!(x.iter().zip(&y).any(|(a, b)| (a - b).abs() > 0.1));
        rotate(&mut y);
        assert!(x.iter().zip(&y).all(|(a, b)| (a - b).abs() < 1e-6));
    }
}
