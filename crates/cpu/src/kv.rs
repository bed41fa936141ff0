//! Keys and values of earlier tokens, in pages.
//!
//! A page holds [`PAGE`] tokens of one sequence, in every layer. Within a layer it is laid out head by head. A head's
//! values are `(PAGE, D)`; its keys are `(D, PAGE)`, so that the scores of a whole page come by multiplying and adding
//! vectors, without a sum across one.
//!
//! Numbers are kept in f32, f16, or as whole numbers of 8 or 4 bits. A token's [`GROUP`] of neighbours along D then
//! share a scale in f16; the scales `(D / GROUP, PAGE)` follow the head's numbers. What is kept in 4 bits is first rotated
//! by a Hadamard matrix, which spreads a channel that is larger than others over all (Ashkboos et al. 2024). Keys have
//! much in common, which no softmax cares for: those in 4 bits are kept less the mean of the page before, `(D)` in f16.
//!
//! Layers that look back over a window have pages of their own, which are given back when the window has moved on.

mod head;
mod write;

use crate::ops::rows::Shared;
use crate::threads::Pool;
use crate::weights::Buffer;
use hob_graph::graph::{State, windows};
use hob_graph::{DType, GONE, Seq, StateId};
use std::fmt;
use std::str::FromStr;

pub(crate) use head::decode_f16;
pub use head::{GROUP, Head, rotate};
use write::HeadMut;

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
    /// which of the pools
    pool: usize,
    keys: usize,   // byte offset
    values: usize, // byte offset
}

/// The cache of all layers.
pub struct Kv {
    memory: Buffer,
    layers: Vec<Layer>,
    types: KvTypes,
    pools: Vec<Pages>,
}

/// The pages that layers of one window share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pages {
    /// see [`State::window`]
    pub window: Option<usize>,
    /// how many there are
    pub count: usize,
}

/// Bytes of a cache with `pages` pages for the states of each window.
pub fn bytes(states: &[State], types: KvTypes, pages: impl Fn(Option<usize>) -> usize) -> u128 {
    let side = |s: &State, side| s.heads * head::bytes(types.of(side), side, s.dim);
    states
        .iter()
        .map(|s| (side(s, Side::Keys) + side(s, Side::Values)) as u128 * pages(s.window) as u128)
        .sum()
}

impl Kv {
    /// Room for `pages` pages of the states of each window. Memory is taken as pages are first written.
    pub fn new(
        states: &[State],
        types: impl Into<KvTypes>,
        pages: impl Fn(Option<usize>) -> usize,
    ) -> std::io::Result<Kv> {
        let types = types.into();
        assert!([types.k, types.v].iter().all(|t| KvTypes::CHOICE.contains(t)), "a cache of {types}");
        let of = |window: Option<usize>| Pages { window, count: pages(window) };
        let pools: Vec<Pages> = windows(states).into_iter().map(of).collect();
        let mut end = 0;
        let mut layers = Vec::with_capacity(states.len());
        for &State { heads, dim, window } in states {
            let pool = pools.iter().position(|p| p.window == window).expect("of the same states");
            let bytes = |side| pools[pool].count * heads * head::bytes(types.of(side), side, dim);
            let values = end + bytes(Side::Keys);
            layers.push(Layer { heads, dim, pool, keys: end, values });
            end = values + bytes(Side::Values);
        }
        Ok(Kv { memory: Buffer::zeroed(end)?, layers, types, pools })
    }

    /// The pages there are, in the order of [`windows`].
    pub fn pools(&self) -> &[Pages] {
        &self.pools
    }

    /// Bytes of so many pages of each of [`Kv::pools`].
    pub fn bytes_of(&self, pages: impl Fn(usize) -> usize) -> u128 {
        let side = |l: &Layer, side| l.heads * head::bytes(self.types.of(side), side, l.dim);
        let layer = |l: &Layer| (side(l, Side::Keys) + side(l, Side::Values)) as u128 * pages(l.pool) as u128;
        self.layers.iter().map(layer).sum()
    }

    /// Whether this is a cache for a graph of these states.
    pub fn suits(&self, states: &[State]) -> bool {
        let same = |(l, s): (&Layer, &State)| {
            (l.heads, l.dim, self.pools[l.pool].window) == (s.heads, s.dim, s.window)
        };
        self.layers.len() == states.len() && self.layers.iter().zip(states).all(same)
    }

    /// Which of a sequence's page tables is that of `state`.
    pub fn pool(&self, state: StateId) -> usize {
        self.layers[state.0 as usize].pool
    }

    /// How numbers are kept.
    pub fn types(&self) -> KvTypes {
        self.types
    }

    fn span(&self, state: StateId, side: Side, page: u32, head: usize) -> std::ops::Range<usize> {
        let l = &self.layers[state.0 as usize];
        assert!((page as usize) < self.pools[l.pool].count && head < l.heads, "page {page}, head {head}");
        let one = head::bytes(self.types.of(side), side, l.dim);
        let base = if side == Side::Keys { l.keys } else { l.values };
        let at = base + (page as usize * l.heads + head) * one;
        at..at + one
    }

    /// Copies a page of one of [`Kv::pools`] onto another.
    pub fn copy(&mut self, pool: usize, from: u32, to: u32) {
        for state in (0..self.layers.len()).filter(|i| self.layers[*i].pool == pool) {
            let (state, last) = (StateId(state as u32), self.layers[state].heads - 1);
            for side in [Side::Keys, Side::Values] {
                let of = |page| self.span(state, side, page, 0).start..self.span(state, side, page, last).end;
                let (from, to) = (of(from), of(to));
                self.memory.bytes_mut().copy_within(from, to.start);
            }
        }
    }

    /// One head of a page as it is kept.
    pub fn head(&self, state: StateId, side: Side, page: u32, head: usize) -> Head<'_> {
        let bytes = &self.memory.bytes()[self.span(state, side, page, head)];
        Head::new(self.types.of(side), side, self.layers[state.0 as usize].dim, bytes)
    }

    /// Numbers of working memory that [`Kv::append`] needs for each thread, for heads of `dim`.
    pub fn working(dim: usize) -> usize {
        write::working(dim)
    }

    /// Writes this run's keys and values `(T, H, D)` of a layer, working in `memory`.
    pub fn append(
        &mut self,
        pool: &Pool,
        state: StateId,
        seqs: &[Seq],
        [k, v]: [&[f32]; 2],
        memory: &mut [f32],
    ) {
        let &Layer { heads, dim, .. } = &self.layers[state.0 as usize];
        let n = Kv::working(dim);
        assert!(memory.len() >= pool.threads() * n);
        let (all, memory) = (Writer::new(self), Shared(memory.as_mut_ptr()));
        let task = |task: usize, thread: usize| {
            let (side, head) = if task < heads { (Side::Keys, task) } else { (Side::Values, task - heads) };
            let x = if side == Side::Keys { k } else { v };
            for seq in seqs {
                // SAFETY: tasks differ in side or head, and a thread runs one at a time.
                unsafe { all.tokens(state, side, head, seq, x, memory.slice(thread * n, n)) };
            }
        };
        match k.len() < FEW {
            true => (0..2 * heads).for_each(|n| task(n, 0)),
            false => pool.run(2 * heads, &task),
        }
    }

    /// Reads what [`Kv::append`] wrote. Allocates.
    pub fn read(&self, state: StateId, side: Side, page: u32, head: usize, slot: usize, x: &mut [f32]) {
        self.head(state, side, page, head).read(slot, x);
    }
}

/// Below so many numbers threads cost more than they save.
const FEW: usize = 4096;

/// The cache, to be written by several threads.
struct Writer<'a> {
    kv: &'a Kv,
    memory: *mut u8,
}
// SAFETY: writing through it is unsafe, and who does keeps the places apart.
unsafe impl Sync for Writer<'_> {}

impl<'a> Writer<'a> {
    fn new(kv: &'a mut Kv) -> Writer<'a> {
        let memory = kv.memory.as_mut_ptr();
        Writer { kv, memory }
    }

    /// Writes what `x (T, H, D)` has of a sequence for one head.
    ///
    /// # Safety
    /// Nobody else uses this side and head of the state meanwhile.
    unsafe fn tokens(
        &self,
        state: StateId,
        side: Side,
        head: usize,
        seq: &Seq,
        x: &[f32],
        memory: &mut [f32],
    ) {
        let Layer { heads, dim, pool, .. } = self.kv.layers[state.0 as usize];
        let (dtype, table) = (self.kv.types.of(side), seq.pages[pool]);
        let mut row = seq.start;
        let (mut at, end) = (seq.pos, seq.pos + seq.len);
        while at < end {
            let (page, slot) = (at / PAGE, at % PAGE);
            let span = self.kv.span(state, side, table[page], head);
            // SAFETY: within the memory; the caller keeps others from it.
            let bytes = unsafe { std::slice::from_raw_parts_mut(self.memory.add(span.start), span.len()) };
            let mut to = HeadMut::new(dtype, side, dim, bytes);
            if slot == 0 && head::centered(dtype, side) {
                let before =
                    page.checked_sub(1).map(|p| table[p]).filter(|p| ![GONE, table[page]].contains(p));
                to.begin(before.map(|p| {
                    let span = self.kv.span(state, side, p, head);
                    // SAFETY: as above; it is another page.
                    let bytes =
                        unsafe { std::slice::from_raw_parts(self.memory.add(span.start), span.len()) };
                    Head::new(dtype, side, dim, bytes)
                }));
            }
            let whole = end.min((page + 1) * PAGE);
            for slot in slot..slot + whole - at {
                to.write(slot, &x[(row * heads + head) * dim..][..dim], memory);
                row += 1;
            }
            at = whole;
        }
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
                let mut kv = Kv::new(&states, types, |_| 3).unwrap();
                assert_eq!(kv.memory.bytes().len() as u128, bytes(&states, types, |_| 3));
                let near = |dtype, x: &[f32], right: &[f32]| {
                    let d = x.iter().zip(right).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
                    let most = right.iter().fold(0.0f32, |m, x| m.max(x.abs()));
                    let allowed =
                        [0.0, 1e-3, 1e-2, 0.3][KvTypes::CHOICE.iter().position(|c| *c == dtype).unwrap()];
                    assert!(d <= allowed * most, "{types}: {x:?} is not {right:?}");
                };
                let right: Vec<f32> = (0..37).map(|i| (i as f32 * 0.7).sin()).collect();
                let (mut x, pool) = ([0.0; 37], Pool::new(1));
                let write = |kv: &mut Kv, state, at, k: &[f32], v: &[f32]| {
                    let tables: [&[u32]; 2] = [&[0, 1, 2], &[0, 1, 2]];
                    let seqs = [Seq { start: 0, len: 1, pos: at, read: false, pages: &tables }];
                    kv.append(&pool, StateId(state), &seqs, [k, v], &mut vec![0.0; Kv::working(37)]);
                };
                for slot in [63, 0, 17, 16, 63] {
                    write(&mut kv, 0, 2 * PAGE + slot, &[0.0, 0.0, 0.0, 1.0, 2.0, 3.0], &[0.0; 6]);
                    write(&mut kv, 1, slot, &[0.0; 37], &right);
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
