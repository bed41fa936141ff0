//! Merging neighbours, best pair first: the heart of byte-level BPE and of SentencePiece's BPE alike.
//!
//! Both start from the smallest symbols and merge, again and again, the neighbours whose pair has the lowest key, the
//! leftmost of equals. They differ in what a pair's key is: the rank of a merge (Sennrich et al. 2016,
//! arXiv:1508.07909), or the score of the token that the two would make (Kudo & Richardson 2018, arXiv:1808.06226).

use std::{cmp::Reverse, collections::BinaryHeap};

/// A stretch of the text that is, or becomes, one token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Symbol {
    /// The token, or [`NONE`] while no token spells this.
    pub id: u32,
    /// Where it begins in the text, in bytes.
    pub start: usize,
    /// Its length in bytes; 0 once it is merged into its left neighbour.
    pub len: usize,
}

/// No token; as a key: no merge.
pub(super) const NONE: u32 = u32::MAX;

/// The key of a pair (lower is sooner, [`NONE`] never) and the token it makes.
pub(super) type Pair = (u32, u32);

/// Up to this many symbols, looking at every pair each time beats keeping a heap.
const SMALL: usize = 48;

/// What [`merge`] needs beside the symbols; kept between calls to save allocations.
#[derive(Default)]
pub(super) struct Scratch {
    pairs: Vec<Pair>,
    links: Vec<(u32, u32)>,
    heap: BinaryHeap<Reverse<(u32, u32, u32, usize)>>,
}

/// Merges until no pair can be; what is left in `symbols` are the tokens, in order.
pub(super) fn merge(
    symbols: &mut Vec<Symbol>,
    scratch: &mut Scratch,
    pair: impl Fn(&Symbol, &Symbol) -> Pair,
) {
    if symbols.len() <= SMALL {
        merge_few(symbols, &mut scratch.pairs, pair);
    } else {
        merge_many(symbols, scratch, pair);
    }
}

fn merge_few(symbols: &mut Vec<Symbol>, pairs: &mut Vec<Pair>, pair: impl Fn(&Symbol, &Symbol) -> Pair) {
    pairs.clear();
    pairs.extend(symbols.windows(2).map(|w| pair(&w[0], &w[1])));
    loop {
        let mut best = (NONE, NONE);
        let mut at = 0;
        for (i, &candidate) in pairs.iter().enumerate() {
            if candidate.0 < best.0 {
                (best, at) = (candidate, i);
            }
        }
        if best.0 == NONE {
            return;
        }
        symbols[at].id = best.1;
        symbols[at].len += symbols[at + 1].len;
        symbols.remove(at + 1);
        pairs.remove(at);
        if at > 0 {
            pairs[at - 1] = pair(&symbols[at - 1], &symbols[at]);
        }
        if at < pairs.len() {
            pairs[at] = pair(&symbols[at], &symbols[at + 1]);
        }
    }
}

/// The same by a heap over a linked list, for words of any length: O(n log n).
fn merge_many(symbols: &mut Vec<Symbol>, scratch: &mut Scratch, pair: impl Fn(&Symbol, &Symbol) -> Pair) {
    let Scratch { links, heap, .. } = scratch;
    let count = symbols.len() as u32;
    links.clear();
    links.extend((0..count).map(|i| (i.wrapping_sub(1), if i + 1 < count { i + 1 } else { NONE })));
    heap.clear();
    // An entry is told to be outdated by the length its pair had together.
    let entry = |symbols: &[Symbol], left: u32, right: u32| {
        let (l, r) = (&symbols[left as usize], &symbols[right as usize]);
        let (key, id) = pair(l, r);
        (key != NONE).then_some(Reverse((key, left, id, l.len + r.len)))
    };
    heap.extend((1..count).filter_map(|right| entry(symbols, right - 1, right)));
    while let Some(Reverse((_, left, id, len))) = heap.pop() {
        let right = links[left as usize].1;
        if symbols[left as usize].len == 0
            || right == NONE
            || symbols[left as usize].len + symbols[right as usize].len != len
        {
            continue;
        }
        symbols[left as usize].id = id;
        symbols[left as usize].len = len;
        symbols[right as usize].len = 0;
        let next = links[right as usize].1;
        links[left as usize].1 = next;
        if next != NONE {
            links[next as usize].0 = left;
            heap.extend(entry(symbols, left, next));
        }
        let before = links[left as usize].0;
        if before != NONE {
            heap.extend(entry(symbols, before, left));
        }
    }
    symbols.retain(|s| s.len > 0);
}

/// The words of one text already encoded, so that a repeated word is copied from the ids it gave before.
pub(super) struct Repeats<'t> {
    /// A word, where its ids begin in the output, and how many they are; placed by the word's hash.
    entries: Vec<(&'t [u8], u32, u32)>,
}

impl<'t> Repeats<'t> {
    const ENTRIES: usize = 1 << 13;
    /// A longer word is seldom repeated.
    const LONGEST: usize = 64;

    /// Remembers nothing for a text too short to repay it.
    pub(super) fn new(text_len: usize) -> Repeats<'t> {
        Repeats { entries: if text_len < 4096 { Vec::new() } else { vec![(&[], 0, 0); Self::ENTRIES] } }
    }

    /// Appends the ids of `word` to `out`, made by `encode` unless they are remembered.
    pub(super) fn encode(
        &mut self,
        word: &'t [u8],
        hash: impl FnOnce(&[u8]) -> u64,
        out: &mut Vec<u32>,
        encode: impl FnOnce(&mut Vec<u32>),
    ) {
        if self.entries.is_empty() || word.len() > Self::LONGEST {
            return encode(out);
        }
        let entry = &mut self.entries[hash(word) as usize % Self::ENTRIES];
        if entry.0 == word {
            let start = entry.1 as usize;
            out.extend_from_within(start..start + entry.2 as usize);
            return;
        }
        let start = out.len();
        encode(out);
        if let Ok(at) = u32::try_from(start) {
            *entry = (word, at, (out.len() - start) as u32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn symbols(text: &[u8]) -> Vec<Symbol> {
        text.iter().enumerate().map(|(start, &b)| Symbol { id: b as u32, start, len: 1 }).collect()
    }

    proptest! {
        #[test]
        fn few_and_many_agree(
            text in proptest::collection::vec(0u8..4, 2..200),
            keys in proptest::collection::vec(0u32..40, 256),
        ) {
            // A merge makes `left * 7 + right`, and its key is drawn; half of the pairs do not merge.
            let pair = |l: &Symbol, r: &Symbol| {
                let key = keys[(l.id.wrapping_mul(31) ^ r.id) as usize % 256];
                (if key < 20 { key } else { NONE }, l.id.wrapping_mul(7).wrapping_add(r.id) % 1000)
            };
            let (mut few, mut many) = (symbols(&text), symbols(&text));
            merge_few(&mut few, &mut Vec::new(), pair);
            merge_many(&mut many, &mut Scratch::default(), pair);
            let ids = |s: &[Symbol]| s.iter().map(|s| (s.id, s.start, s.len)).collect::<Vec<_>>();
            prop_assert_eq!(ids(&few), ids(&many));
        }
    }
}
