//! The vocabulary: every token's bytes end to end, and a table that finds a token by its bytes.
//!
//! A model's vocabulary is read before its first word can be answered, so nothing here allocates per token: one blob,
//! one offset each, and an open-addressing table of 32-bit slots.

use std::{hash::BuildHasher, hint::black_box};

/// What a token stands for: `tokenizer.ggml.token_type` in the GGUF specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// A piece of ordinary text.
    Normal,
    /// Stands for what the vocabulary cannot spell.
    Unknown,
    /// Steers the model (`<|im_end|>`); never made from ordinary text.
    Control,
    /// Found in the text before anything else.
    User,
    /// Takes up a number and is never made.
    Unused,
    /// One byte, for text that no other token spells.
    Byte,
}

impl Kind {
    pub(super) fn from_gguf(value: i64) -> Kind {
        match value {
            2 => Kind::Unknown,
            3 => Kind::Control,
            4 => Kind::User,
            5 => Kind::Unused,
            6 => Kind::Byte,
            _ => Kind::Normal,
        }
    }
}

/// A slot holds a tag of 8 hash bits above the id plus one, so most wrong slots are told without reading the token.
const ID_BITS: u32 = 24;
/// The most tokens a vocabulary may have.
pub(super) const MAX_TOKENS: usize = (1 << ID_BITS) - 1;

/// How many slots are touched before they are read.
const BATCH: usize = 32;

/// Tokens by number and by text.
pub(super) struct Vocab {
    bytes: Vec<u8>,
    /// `ends[i]..ends[i + 1]` are the bytes of token `i`.
    ends: Vec<u32>,
    kinds: Vec<Kind>,
    slots: Vec<u32>,
    seed: u64,
}

impl Vocab {
    /// Room for `count` tokens, whose bytes are expected to take about `size_hint`.
    pub(super) fn new(count: usize, size_hint: usize) -> Result<Vocab, String> {
        if count == 0 {
            return Err("its vocabulary is empty".into());
        }
        if count > MAX_TOKENS {
            return Err(format!(
                "its vocabulary has {count} tokens, and {MAX_TOKENS} is the most Hob can number"
            ));
        }
        let mut ends = Vec::with_capacity(count + 1);
        ends.push(0);
        Ok(Vocab {
            bytes: Vec::with_capacity(size_hint),
            ends,
            kinds: Vec::with_capacity(count),
            slots: Vec::new(),
            // A fixed seed would let a file be built whose tokens all share one slot.
            seed: std::hash::RandomState::new().hash_one(0u8),
        })
    }

    /// Appends a token, whose bytes `fill` writes and whose kind it says.
    pub(super) fn push(&mut self, fill: impl FnOnce(&mut Vec<u8>) -> Kind) -> Result<(), String> {
        let kind = fill(&mut self.bytes);
        let end =
            u32::try_from(self.bytes.len()).map_err(|_| "its vocabulary has more than 4 GiB of text")?;
        self.ends.push(end);
        self.kinds.push(kind);
        Ok(())
    }

    /// Makes [`Vocab::find`] work, for normal and user-defined tokens. Of two with the same bytes the first is found,
    /// but a normal one before a user-defined one, which is matched in the text and need not be found. Returns how
    /// many tokens repeat one of their kind.
    pub(super) fn index(&mut self) -> usize {
        self.bytes.shrink_to_fit();
        self.slots = vec![0; (self.len() * 3 / 2 + 1).next_power_of_two()];
        let mut repeated = 0;
        let mut batch = [(0u32, 0u64); BATCH];
        let mut ids = (0..self.len() as u32).filter(|&id| {
            let kind = self.kinds[id as usize];
            self.ends[id as usize] < self.ends[id as usize + 1] && matches!(kind, Kind::Normal | Kind::User)
        });
        loop {
            let mut count = 0;
            for (entry, id) in batch.iter_mut().zip(&mut ids) {
                *entry = (id, self.get(id).map_or(0, |text| self.hash(text)));
                count += 1;
            }
            let batch = &batch[..count];
            if batch.is_empty() {
                return repeated;
            }
            // The table is larger than a core's cache: touching a batch of slots first waits for memory once.
            black_box(batch.iter().fold(0, |sum, &(_, hash)| sum ^ self.slots[self.slot(hash)]));
            for &(id, hash) in batch {
                let text = &self.bytes[self.ends[id as usize] as usize..self.ends[id as usize + 1] as usize];
                let slot = self.probe(hash, text);
                let kind = self.kinds[id as usize];
                let before = self.at(slot).map(|id| self.kinds[id as usize]);
                if before.is_none() || before == Some(Kind::User) && kind == Kind::Normal {
                    self.slots[slot] = (hash as u32) << ID_BITS | (id + 1);
                }
                repeated += (before == Some(kind)) as usize;
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.kinds.len()
    }

    /// The bytes of a token; `None` when there is no such token.
    pub(super) fn get(&self, id: u32) -> Option<&[u8]> {
        let end = *self.ends.get(id as usize + 1)?;
        self.bytes.get(self.ends[id as usize] as usize..end as usize)
    }

    pub(super) fn kind(&self, id: u32) -> Option<Kind> {
        self.kinds.get(id as usize).copied()
    }

    pub(super) fn set_kind(&mut self, id: u32, kind: Kind) {
        if let Some(slot) = self.kinds.get_mut(id as usize) {
            *slot = kind;
        }
    }

    /// The token that ordinary text of exactly these bytes is.
    pub(super) fn find(&self, text: &[u8]) -> Option<u32> {
        debug_assert!(!self.slots.is_empty(), "index() comes first");
        self.at(self.probe(self.hash(text), text))
    }

    /// [`Vocab::find`] for many texts, end to end in `bytes`, which waits for memory less often.
    pub(super) fn find_all(&self, bytes: &[u8], ends: &[usize], found: &mut Vec<Option<u32>>) {
        found.clear();
        for (i, chunk) in ends.chunks(BATCH).enumerate() {
            let first = (i * BATCH).checked_sub(1).map_or(0, |before| ends[before]);
            let mut texts: [&[u8]; BATCH] = [&[]; BATCH];
            let mut hashes = [0; BATCH];
            let mut start = first;
            for (at, &end) in chunk.iter().enumerate() {
                texts[at] = &bytes[start..end];
                hashes[at] = self.hash(texts[at]);
                start = end;
            }
            let hashes = &hashes[..chunk.len()];
            black_box(hashes.iter().fold(0, |sum, &hash| {
                let id = self.at(self.slot(hash));
                sum ^ id.and_then(|id| self.get(id)).map_or(0, |text| text[0])
            }));
            found.extend(hashes.iter().zip(texts).map(|(&hash, text)| self.at(self.probe(hash, text))));
        }
    }

    /// The first slot to look in.
    fn slot(&self, hash: u64) -> usize {
        (hash >> 20) as usize & (self.slots.len() - 1)
    }

    /// The token in a slot.
    fn at(&self, slot: usize) -> Option<u32> {
        (self.slots[slot] & MAX_TOKENS as u32).checked_sub(1)
    }

    /// The slot of the token with these bytes, or the empty one where it would go. The table is never full, so this
    /// ends.
    fn probe(&self, hash: u64, text: &[u8]) -> usize {
        let mask = self.slots.len() - 1;
        let tag = hash as u32 & 0xff;
        let mut slot = self.slot(hash);
        loop {
            let entry = self.slots[slot];
            if entry == 0
                || entry >> ID_BITS == tag && self.get((entry & MAX_TOKENS as u32) - 1) == Some(text)
            {
                return slot;
            }
            slot = (slot + 1) & mask;
        }
    }

    pub(super) fn hash(&self, text: &[u8]) -> u64 {
        hash(text, self.seed)
    }

    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        self.bytes.capacity() + 4 * self.ends.capacity() + self.kinds.capacity() + 4 * self.slots.capacity()
    }
}

/// A fast hash of short text: 16 bytes a step, folded by a 64 × 64 → 128 bit multiplication (as wyhash does).
pub(super) fn hash(text: &[u8], seed: u64) -> u64 {
    let word = |at: usize| u64::from_le_bytes(text[at..at + 8].try_into().expect("eight bytes"));
    let half = |at: usize| u32::from_le_bytes(text[at..at + 4].try_into().expect("four bytes")) as u64;
    let n = text.len();
    let mut state = seed;
    let mut at = 0;
    while n - at > 16 {
        state = fold(word(at) ^ state, word(at + 8) ^ 0xe703_7ed1_a0b4_28db);
        at += 16;
    }
    let (a, b) = match n - at {
        8.. => (word(at), word(n - 8)),
        4.. => (half(at), half(n - 4)),
        1.. => ((text[at] as u64) << 16 | (text[(at + n) / 2] as u64) << 8 | text[n - 1] as u64, 0),
        0 => (0, 0),
    };
    fold(a ^ state, b ^ 0x8ebc_6af0_9c88_c6e3 ^ (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

pub(super) fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocab(tokens: &[&str]) -> Vocab {
        let mut vocab = Vocab::new(tokens.len(), 0).unwrap();
        for token in tokens {
            vocab
                .push(|out| {
                    out.extend_from_slice(token.as_bytes());
                    Kind::Normal
                })
                .unwrap();
        }
        let distinct: std::collections::HashSet<_> = tokens.iter().collect();
        assert_eq!(vocab.index(), tokens.len() - distinct.len());
        vocab
    }

    #[test]
    fn finds_every_token_and_nothing_else() {
        let words: Vec<String> = (0..5000).map(|i| format!("{}{i}", "ab".repeat(i % 23))).collect();
        let vocab = vocab(&words.iter().map(String::as_str).collect::<Vec<_>>());
        for (i, word) in words.iter().enumerate() {
            assert_eq!(vocab.find(word.as_bytes()), Some(i as u32));
            assert_eq!(vocab.get(i as u32), Some(word.as_bytes()));
            assert_eq!(vocab.find(format!("{word}!").as_bytes()), None);
        }
        assert_eq!(vocab.get(5000), None);
        assert_eq!(vocab.find(b""), None);
        let (mut ends, mut found) = (Vec::new(), Vec::new());
        for word in &words {
            ends.push(ends.last().unwrap_or(&0) + word.len());
        }
        vocab.find_all(words.concat().as_bytes(), &ends, &mut found);
        assert!(found.into_iter().eq((0..5000).map(Some)));
    }

    #[test]
    fn the_first_of_two_equal_tokens_is_found() {
        assert_eq!(vocab(&["a", "b", "a"]).find(b"a"), Some(0));
    }

    #[test]
    fn an_empty_or_endless_vocabulary_is_refused() {
        assert!(Vocab::new(0, 0).is_err());
        assert!(Vocab::new(1 << 24, 0).is_err());
    }
}
