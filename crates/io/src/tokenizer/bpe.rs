//! Byte-level BPE (GPT-2 and most models since): words are cut by the pre-tokenizer, then their bytes are merged by
//! rank.

use super::{
    bytes,
    merge::{NONE, Repeats, Scratch, Symbol, merge},
    merges::Merges,
    pre::Pre,
    vocab::Vocab,
};
use std::borrow::Cow;
use unicode_normalization_alignments::UnicodeNormalization;

/// The merges and the pre-tokenizer.
pub(super) struct Bpe {
    pre: Pre,
    /// The token of each byte, or [`NONE`].
    byte_ids: Box<[u32; 256]>,
    /// Of words whose end is marked: the token of each byte as the last one.
    last_ids: Option<Box<[u32; 256]>>,
    merges: Merges,
}

impl Bpe {
    /// `merges` are pairs of tokens in GPT-2's alphabet, the first to be merged first.
    pub(super) fn new<'a>(
        vocab: &Vocab,
        pre: Pre,
        merges: impl ExactSizeIterator<Item = [&'a [u8]; 2]>,
    ) -> Result<Bpe, String> {
        Bpe::marked(vocab, pre, merges, "", NONE)
    }

    /// The same where the tokens that end a word have a `suffix` (CLIP's `</w>`), for which the vocabulary has a space;
    /// `unknown` stands for a byte without a token there.
    pub(super) fn marked<'a>(
        vocab: &Vocab,
        pre: Pre,
        merges: impl ExactSizeIterator<Item = [&'a [u8]; 2]>,
        suffix: &str,
        unknown: u32,
    ) -> Result<Bpe, String> {
        let merges = Merges::new(vocab, merges, |half, out| match half {
            [] => Err("is not two tokens with a space between"),
            half if bytes::decode_marked(half, suffix, out) => Ok(()),
            _ => Err("is not written in the alphabet of byte-level BPE"),
        })?;
        let ids = |end: &[u8]| {
            Box::new(std::array::from_fn(|b| vocab.find(&[&[b as u8], end].concat()).unwrap_or(unknown)))
        };
        let last_ids = (!suffix.is_empty()).then(|| ids(b" "));
        Ok(Bpe { pre, byte_ids: ids(b""), last_ids, merges })
    }

    /// Bytes that occur in text and that no token spells; such bytes are left out, as Hugging Face's `tokenizers` does.
    pub(super) fn unspelled(&self) -> impl Iterator<Item = u8> + '_ {
        (0..=255u8).filter(|&b| self.byte_ids[b as usize] == NONE && !matches!(b, 0xc0 | 0xc1 | 0xf5..))
    }

    pub(super) fn encode(&self, vocab: &Vocab, text: &str, out: &mut Vec<u32>) {
        let mut text = if self.pre.nfc { nfc(text) } else { Cow::Borrowed(text) };
        if self.pre.lowercase {
            text = Cow::Owned(text.chars().flat_map(char::to_lowercase).collect());
        }
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
                            .map(|(start, &b)| Symbol {
                                id: self.byte_id(b, start + 1 == word.len()),
                                start,
                                len: 1,
                            })
                            .filter(|s| s.id != NONE),
                    );
                    merge(&mut symbols, &mut scratch, |l, r| self.merges.pair(l, r));
                    out.extend(symbols.iter().map(|s| s.id));
                },
            );
        });
    }

    fn byte_id(&self, byte: u8, last: bool) -> u32 {
        let ids = self.last_ids.as_ref().filter(|_| last).unwrap_or(&self.byte_ids);
        ids[byte as usize]
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.pre.heap_bytes()
            + self.merges.heap_bytes()
            + size_of_val(&*self.byte_ids) * (1 + self.last_ids.is_some() as usize)
    }
}

/// Unicode normalization form C.
fn nfc(text: &str) -> Cow<'_, str> {
    // No character below U+0300 combines with another.
    if text.chars().all(|c| c < '\u{300}') {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.nfc().map(|(c, _)| c).collect())
}
