//! Keeping what people and documents say from steering the model.
//!
//! A chat template writes control tokens as text, and so can a message. [`Tokenizer::shield`] marks those of a message
//! before it is rendered, and [`Tokenizer::encode_shielded`] takes what is marked as plain text.

use super::Tokenizer;
use std::{borrow::Cow, ops::Range};

/// Characters that Unicode sets aside for a program's own use and no text holds.
const START: char = '\u{fdd0}';
const END: char = '\u{fdd1}';

impl Tokenizer {
    /// A message with each control token that it spells between two marks. Marks already there are taken out.
    pub fn shield<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let clean = if text.contains([START, END]) {
            Cow::Owned(text.replace([START, END], ""))
        } else {
            Cow::Borrowed(text)
        };
        let mut out = String::new();
        let (mut at, mut from) = (0, 0);
        while let Some((start, id, len)) = self.specials.find(&self.vocab, clean.as_bytes(), from) {
            from = start + len;
            if self.is_special(id) {
                out.push_str(&clean[at..start]);
                out.push(START);
                out.push_str(&clean[start..from]);
                out.push(END);
                at = from;
            }
        }
        if at == 0 {
            return clean;
        }
        out.push_str(&clean[at..]);
        Cow::Owned(out)
    }

    /// The ids of a rendered chat, without the marks: control tokens between marks are plain text, all others are
    /// recognised. A mark that a template has parted from its other one is dropped, and no control token is
    /// recognised across the place.
    pub fn encode_shielded(&self, text: &str) -> Vec<u32> {
        let text = self.normalize(text);
        let (text, plain) = self.unshield(&text);
        self.encode_parts(&text, true, &plain)
    }

    /// The text without marks, and where control tokens must not be recognised.
    pub(crate) fn unshield<'t>(&self, text: &'t str) -> (Cow<'t, str>, Vec<Range<usize>>) {
        let mut plain = Vec::new();
        if !text.contains([START, END]) {
            return (Cow::Borrowed(text), plain);
        }
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find([START, END]) {
            out.push_str(&rest[..at]);
            let (mark, tail) = rest[at..].split_at(START.len_utf8());
            let token = tail.find([START, END]).map(|end| &tail[..end]).filter(|token| {
                mark.starts_with(START)
                    && tail[token.len()..].starts_with(END)
                    && self.special_id(token).is_some_and(|id| self.is_special(id))
            });
            let start = out.len();
            rest = match token {
                Some(token) => {
                    out.push_str(token);
                    &tail[token.len() + END.len_utf8()..]
                }
                None => tail,
            };
            plain.push(start..out.len());
        }
        out.push_str(rest);
        (Cow::Owned(out), plain)
    }
}
