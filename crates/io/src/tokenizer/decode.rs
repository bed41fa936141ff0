//! From tokens back to text, one token at a time.

use super::{Kind, Tokenizer};

/// Turns tokens into text as they come. A character may be spread over several tokens; its bytes are held back until
/// it is whole, so the pieces that [`Decoder::push`] returns, and [`Decoder::finish`], join to what
/// [`Tokenizer::decode`] gives for all the tokens.
pub struct Decoder<'a> {
    tokenizer: &'a Tokenizer,
    held: Vec<u8>,
    special: bool,
    /// Control tokens that are written out though others are not.
    spelled: Vec<u32>,
    strip_space: bool,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, special: bool) -> Decoder<'a> {
        Decoder {
            tokenizer,
            held: Vec::new(),
            special,
            spelled: Vec::new(),
            strip_space: tokenizer.space_prefix,
        }
    }

    pub(super) fn spelling(self, ids: &[u32]) -> Decoder<'a> {
        Decoder { spelled: ids.to_vec(), ..self }
    }

    /// The text that this token completes; empty while a character is incomplete. An id beyond the vocabulary gives
    /// U+FFFD, and so does a sequence of bytes that is no UTF-8.
    pub fn push(&mut self, id: u32) -> String {
        self.append(id);
        let mut text = String::new();
        let mut rest = &self.held[..];
        while !rest.is_empty() {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(std::str::from_utf8(valid).unwrap_or_default());
                    let Some(bad) = error.error_len() else {
                        rest = after;
                        break;
                    };
                    text.push('\u{fffd}');
                    rest = &after[bad..];
                }
            }
        }
        let keep = self.held.len() - rest.len();
        self.held.drain(..keep);
        text
    }

    /// What is left at the end: U+FFFD if the last character stayed incomplete.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.held).into_owned()
    }

    /// Adds the bytes of a token to those held.
    pub(super) fn append(&mut self, id: u32) {
        let vocab = &self.tokenizer.vocab;
        let (Some(bytes), Some(kind)) = (vocab.get(id), vocab.kind(id)) else {
            return self.held.extend_from_slice("\u{fffd}".as_bytes());
        };
        if matches!(kind, Kind::Control | Kind::Unknown) {
            if self.special || self.spelled.contains(&id) {
                self.held.extend_from_slice(bytes);
            }
            return;
        }
        // The space that encoding put before the text is not part of it.
        let strip = std::mem::take(&mut self.strip_space) && bytes.first() == Some(&b' ');
        self.held.extend_from_slice(&bytes[strip as usize..]);
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.held
    }
}
