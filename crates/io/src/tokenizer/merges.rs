//! Merges by rank: which two tokens make which, and in what order.

use super::{
    merge::{NONE, Pair, Symbol},
    vocab::{Vocab, fold},
};
use std::{hash::BuildHasher, hint::black_box};

/// How many merges are looked up at once.
const BATCH: usize = 64;

/// The merges, found by the tokens that they merge.
pub(super) struct Merges {
    /// By rank.
    merges: Vec<Merge>,
    /// Open addressing by the pair: rank plus one, or 0.
    slots: Vec<u32>,
    seed: u64,
}

#[derive(Clone, Copy)]
struct Merge {
    left: u32,
    right: u32,
    made: u32,
}

impl Merges {
    /// The first of `merges`, each the texts of two tokens, is merged first. `spell` appends the bytes that such a text
    /// stands for.
    pub(super) fn new<'a>(
        vocab: &Vocab,
        merges: impl ExactSizeIterator<Item = [&'a [u8]; 2]>,
        spell: impl Fn(&[u8], &mut Vec<u8>) -> Result<(), &'static str>,
    ) -> Result<Merges, String> {
        // Every merge makes a token, so more merges than this are not from a real vocabulary.
        if merges.len() > 8 * vocab.len() {
            return Err(format!("it has {} merges for {} tokens", merges.len(), vocab.len()));
        }
        let mut table = Merges {
            merges: Vec::with_capacity(merges.len()),
            slots: vec![0; (merges.len() * 3 / 2 + 1).next_power_of_two()],
            seed: std::hash::RandomState::new().hash_one(0u8),
        };
        let (mut texts, mut ends, mut found) = (Vec::new(), Vec::new(), Vec::new());
        let mut merges = merges.peekable();
        while merges.peek().is_some() {
            texts.clear();
            ends.clear();
            let first = table.merges.len();
            let wrong = |rank: usize, text: &[u8], why: &str| {
                format!("its merge {} ({:?}) {why}", first + rank, String::from_utf8_lossy(text))
            };
            for (i, halves) in merges.by_ref().take(BATCH).enumerate() {
                let start = texts.len();
                for half in halves {
                    spell(half, &mut texts).map_err(|why| wrong(i, &halves.concat(), why))?;
                    ends.push(texts.len());
                }
                texts.extend_from_within(start..);
                ends.push(texts.len());
            }
            vocab.find_all(&texts, &ends, &mut found);
            for (i, ids) in found.chunks_exact(3).enumerate() {
                let missing = |which: &str| {
                    let made = &texts[ends[3 * i + 1]..ends[3 * i + 2]];
                    wrong(i, made, &format!("{which} a token that is not in its vocabulary"))
                };
                table.merges.push(Merge {
                    left: ids[0].ok_or_else(|| missing("begins with"))?,
                    right: ids[1].ok_or_else(|| missing("ends with"))?,
                    made: ids[2].ok_or_else(|| missing("makes"))?,
                });
            }
            let new = first..table.merges.len();
            black_box(new.clone().fold(0, |sum, i| {
                let Merge { left, right, .. } = table.merges[i];
                sum ^ table.slots[table.first_slot(left, right)]
            }));
            for i in new {
                let slot = table.slot(table.merges[i].left, table.merges[i].right);
                // Of equal pairs the first counts.
                if table.slots[slot] == 0 {
                    table.slots[slot] = i as u32 + 1;
                }
            }
        }
        Ok(table)
    }

    fn first_slot(&self, left: u32, right: u32) -> usize {
        let key = (left as u64) << 32 | right as u64;
        (fold(key ^ self.seed, 0x9e37_79b9_7f4a_7c15) >> 16) as usize & (self.slots.len() - 1)
    }

    /// The slot that holds the pair, or the empty one where it would go.
    fn slot(&self, left: u32, right: u32) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = self.first_slot(left, right);
        loop {
            match self.slots[slot] {
                0 => return slot,
                rank => {
                    let merge = &self.merges[rank as usize - 1];
                    if merge.left == left && merge.right == right {
                        return slot;
                    }
                }
            }
            slot = (slot + 1) & mask;
        }
    }

    /// The rank of merging two symbols, and the token that it makes.
    pub(super) fn pair(&self, left: &Symbol, right: &Symbol) -> Pair {
        match self.slots[self.slot(left.id, right.id)] {
            0 => (NONE, NONE),
            rank => (rank - 1, self.merges[rank as usize - 1].made),
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.merges.capacity() * size_of::<Merge>() + 4 * self.slots.capacity()
    }
}

/// A merge as GGUF writes it: two tokens with a space between.
pub(super) fn halves(text: &[u8]) -> [&[u8]; 2] {
    match text.iter().skip(1).position(|&b| b == b' ') {
        Some(at) => [&text[..at + 1], &text[at + 2..]],
        None => [text, &[]],
    }
}
