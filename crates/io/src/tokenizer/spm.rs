//! SentencePiece's BPE (Llama 1 and 2, Mistral, Gemma): neighbours merge into the token with the best score, and what
//! no token spells becomes one token per byte.
//!
//! SentencePiece writes a space as U+2581. The vocabulary here holds plain spaces instead, which are shorter, and a
//! U+2581 in the text is taken as the space that it would come back as.

use super::{
    merge::{NONE, Pair, Repeats, Scratch, Symbol, merge},
    merges::Merges,
    vocab::{Kind, Vocab},
};
use std::borrow::Cow;

/// How SentencePiece writes a space.
pub(super) const SPACE: &str = "\u{2581}";

/// Which neighbours merge first.
pub(super) enum Order {
    /// Those that make the token with the lowest key: by id, the better the score, the lower the key.
    Keys(Vec<u32>),
    /// Those of the lowest rank: Hugging Face writes scores as merges.
    Ranks(Merges),
}

/// The order of merging, and fallbacks.
pub(super) struct Spm {
    order: Order,
    /// The token of each byte, or [`NONE`].
    byte_ids: Box<[u32; 256]>,
    /// For text without a token of its own where the byte's token is missing too.
    unknown: Option<u32>,
    /// Bytes after which some token goes on over a space: there, text cannot be cut into words before merging.
    crossing: Box<[bool; 256]>,
}

impl Spm {
    /// `byte_ids` as found while reading the vocabulary.
    pub(super) fn new(vocab: &Vocab, order: Order, byte_ids: Box<[u32; 256]>, unknown: Option<u32>) -> Spm {
        let mut crossing = Box::new([false; 256]);
        for id in 0..vocab.len() as u32 {
            if let (Some(text), Some(Kind::Normal | Kind::User)) = (vocab.get(id), vocab.kind(id)) {
                for pair in text.windows(2).filter(|pair| pair[1] == b' ' && pair[0] != b' ') {
                    crossing[pair[0] as usize] = true;
                }
            }
        }
        Spm { order, byte_ids, unknown, crossing }
    }

    /// The text as the vocabulary spells it.
    pub(super) fn normalize(text: &str) -> Cow<'_, str> {
        if memchr::memmem::find(text.as_bytes(), SPACE.as_bytes()).is_some() {
            Cow::Owned(text.replace(SPACE, " "))
        } else {
            Cow::Borrowed(text)
        }
    }

    /// Appends the tokens of normalized text.
    pub(super) fn encode(&self, vocab: &Vocab, text: &str, out: &mut Vec<u32>) {
        let mut repeats = Repeats::new(text.len());
        let mut scratch = Scratch::default();
        let mut symbols = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (word, after) = rest.split_at(self.word_end(rest.as_bytes()));
            rest = after;
            repeats.encode(
                word.as_bytes(),
                |w| vocab.hash(w),
                out,
                |out| self.encode_word(vocab, word, &mut symbols, &mut scratch, out),
            );
        }
    }

    /// The end of the first stretch of `text` that no token crosses: before a space that follows something else.
    fn word_end(&self, text: &[u8]) -> usize {
        memchr::memchr_iter(b' ', text)
            .find(|&at| at > 0 && text[at - 1] != b' ' && !self.crossing[text[at - 1] as usize])
            .unwrap_or(text.len())
    }

    fn encode_word(
        &self,
        vocab: &Vocab,
        word: &str,
        symbols: &mut Vec<Symbol>,
        scratch: &mut Scratch,
        out: &mut Vec<u32>,
    ) {
        let bytes = word.as_bytes();
        symbols.clear();
        symbols.extend(word.char_indices().map(|(start, c)| {
            let len = c.len_utf8();
            Symbol { id: vocab.find(&bytes[start..start + len]).unwrap_or(NONE), start, len }
        }));
        merge(symbols, scratch, |left, right| self.pair(vocab, bytes, left, right));
        for symbol in symbols {
            if symbol.id != NONE {
                out.push(symbol.id);
                continue;
            }
            for &b in &bytes[symbol.start..symbol.start + symbol.len] {
                match self.byte_ids[b as usize] {
                    NONE => out.extend(self.unknown),
                    id => out.push(id),
                }
            }
        }
    }

    fn pair(&self, vocab: &Vocab, text: &[u8], left: &Symbol, right: &Symbol) -> Pair {
        let keys = match &self.order {
            Order::Keys(keys) => keys,
            Order::Ranks(merges) => return merges.pair(left, right),
        };
        match vocab.find(&text[left.start..right.start + right.len]) {
            None => (NONE, NONE),
            Some(id) => (keys[id as usize], id),
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let order = match &self.order {
            Order::Keys(keys) => 4 * keys.capacity(),
            Order::Ranks(merges) => merges.heap_bytes(),
        };
        order + size_of_val(&*self.byte_ids) + size_of_val(&*self.crossing)
    }
}

impl Order {
    /// The order that scores give, one for each token.
    pub(super) fn of_scores(
        vocab: &Vocab,
        scores: impl ExactSizeIterator<Item = f32>,
    ) -> Result<Order, String> {
        if scores.len() != vocab.len() {
            return Err(format!("it has {} tokens and {} scores", vocab.len(), scores.len()));
        }
        Ok(Order::Keys(scores.map(key).collect()))
    }
}

/// A key that orders as the scores do, the best one lowest.
fn key(score: f32) -> u32 {
    // Adding zero makes one zero of the two.
    let bits = (score + 0.0).to_bits();
    let ascending = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
    (!ascending).min(NONE - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_order_as_scores() {
        let scores = [f32::INFINITY, 3.0, 0.5, 0.0, -0.25, -1.0, -1e30, f32::NEG_INFINITY];
        assert!(scores.windows(2).all(|w| key(w[0]) < key(w[1])));
        assert_eq!(key(0.0), key(-0.0));
        assert!(key(f32::NAN) < NONE && key(-f32::NAN) < NONE);
    }
}
