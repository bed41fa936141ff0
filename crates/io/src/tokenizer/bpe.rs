//! Byte-level BPE (GPT-2 and most models since): words are cut by the pre-tokenizer, then their bytes are merged by
//! rank.

use super::{
    bytes,
    merge::{NONE, Pair, Repeats, Scratch, Symbol, merge},
    pre::Pre,
    vocab::{Vocab, fold},
};
use std::{borrow::Cow, hash::BuildHasher, hint::black_box};
use unicode_normalization_alignments::UnicodeNormalization;

/// How many merges are looked up at once.
const BATCH: usize = 64;

/// The merges and the pre-tokenizer.
pub(super) struct Bpe {
    pre: Pre,
    /// The token of each byte, or [`NONE`].
    byte_ids: Box<[u32; 256]>,
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

impl Bpe {
    /// `merges` are two tokens in GPT-2's alphabet with a space between, the first to be merged first.
    pub(super) fn new<'a>(
        vocab: &Vocab,
        pre: Pre,
        merges: impl ExactSizeIterator<Item = &'a [u8]>,
    ) -> Result<Bpe, String> {
        // Every merge makes a token, so more merges than this are not from a real vocabulary.
        if merges.len() > 8 * vocab.len() {
            return Err(format!("it has {} merges for {} tokens", merges.len(), vocab.len()));
        }
        let mut bpe = Bpe {
            pre,
            byte_ids: Box::new(std::array::from_fn(|b| vocab.find(&[b as u8]).unwrap_or(NONE))),
            merges: Vec::with_capacity(merges.len()),
            slots: vec![0; (merges.len() * 3 / 2 + 1).next_power_of_two()],
            seed: std::hash::RandomState::new().hash_one(0u8),
        };
        let (mut texts, mut ends, mut found) = (Vec::new(), Vec::new(), Vec::new());
        let mut merges = merges.peekable();
        while merges.peek().is_some() {
            texts.clear();
            ends.clear();
            let first = bpe.merges.len();
            let wrong = |rank: usize, text: &[u8], why: &str| {
                format!("its merge {} ({:?}) {why}", first + rank, String::from_utf8_lossy(text))
            };
            for (i, text) in merges.by_ref().take(BATCH).enumerate() {
                append(text, &mut texts, &mut ends).map_err(|why| wrong(i, text, why))?;
            }
            vocab.find_all(&texts, &ends, &mut found);
            for (i, ids) in found.chunks_exact(3).enumerate() {
                let missing = |which: &str| {
                    let made = &texts[ends[3 * i + 1]..ends[3 * i + 2]];
                    wrong(i, made, &format!("{which} a token that is not in its vocabulary"))
                };
                bpe.merges.push(Merge {
                    left: ids[0].ok_or_else(|| missing("begins with"))?,
                    right: ids[1].ok_or_else(|| missing("ends with"))?,
                    made: ids[2].ok_or_else(|| missing("makes"))?,
                });
            }
            let new = first..bpe.merges.len();
            black_box(new.clone().fold(0, |sum, i| {
                let Merge { left, right, .. } = bpe.merges[i];
                sum ^ bpe.slots[bpe.first_slot(left, right)]
            }));
            for i in new {
                let slot = bpe.slot(bpe.merges[i].left, bpe.merges[i].right);
                // Of equal pairs the first counts.
                if bpe.slots[slot] == 0 {
                    bpe.slots[slot] = i as u32 + 1;
                }
            }
        }
        Ok(bpe)
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

    fn pair(&self, left: &Symbol, right: &Symbol) -> Pair {
        match self.slots[self.slot(left.id, right.id)] {
            0 => (NONE, NONE),
            rank => (rank - 1, self.merges[rank as usize - 1].made),
        }
    }

    /// Bytes that occur in text and that no token spells; such bytes are left out, as Hugging Face's `tokenizers` does.
    pub(super) fn unspelled(&self) -> impl Iterator<Item = u8> + '_ {
        (0..=255u8).filter(|&b| self.byte_ids[b as usize] == NONE && !matches!(b, 0xc0 | 0xc1 | 0xf5..))
    }

    pub(super) fn encode(&self, vocab: &Vocab, text: &str, out: &mut Vec<u32>) {
        let text = if self.pre.nfc { nfc(text) } else { Cow::Borrowed(text) };
        let mut repeats = Repeats::new(text.len());
        let mut scratch = Scratch::default();
        let mut symbols = Vec::new();
        self.pre.split(&text, &mut |word| {
            repeats.encode(
                word,
                |w| vocab.hash(w),
                out,
                |out| {
                    if self.pre.ignore_merges
                        && let Some(id) = vocab.find(word)
                    {
                        return out.push(id);
                    }
                    symbols.clear();
                    symbols.extend(
                        word.iter()
                            .enumerate()
                            .map(|(start, &b)| Symbol { id: self.byte_ids[b as usize], start, len: 1 })
                            .filter(|s| s.id != NONE),
                    );
                    merge(&mut symbols, &mut scratch, |l, r| self.pair(l, r));
                    out.extend(symbols.iter().map(|s| s.id));
                },
            );
        });
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.merges.capacity() * size_of::<Merge>() + 4 * self.slots.capacity() + size_of_val(&*self.byte_ids)
    }
}

/// Appends a merge's left token, right token, and the one they make; `ends` gets the end of each.
fn append(text: &[u8], texts: &mut Vec<u8>, ends: &mut Vec<usize>) -> Result<(), &'static str> {
    let space =
        text.iter().skip(1).position(|&b| b == b' ').ok_or("is not two tokens with a space between")? + 1;
    let start = texts.len();
    for part in [&text[..space], &text[space + 1..]] {
        if !bytes::decode(part, texts) {
            return Err("is not written in the alphabet of byte-level BPE");
        }
        ends.push(texts.len());
    }
    texts.extend_from_within(start..);
    ends.push(texts.len());
    Ok(())
}

/// Unicode normalization form C.
fn nfc(text: &str) -> Cow<'_, str> {
    // No character below U+0300 combines with another.
    if text.chars().all(|c| c < '\u{300}') {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.nfc().map(|(c, _)| c).collect())
}
