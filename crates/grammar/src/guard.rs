//! What the grammar of JSON allows and nobody wants: digits and nesting without end, blanks in odd places. A small
//! model loops in them.

use crate::vocabulary::{Inner, is_blank};
use toktrie::SimpleVob;

/// Digits of a number, before and after its point together: those of the largest whole numbers of 64 bits.
const DIGITS: usize = 20;
/// Digits of an exponent: with two the number stays within a double's range.
const EXPONENT: usize = 2;
/// Lists and objects within each other, unless the schema demands more. Recursive schemas draw small models in.
const DEPTH: usize = 16;

/// Where in JSON an answer is, as far as its bounds need it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Guard {
    string: bool,
    escaped: bool,
    /// whether the next string is a key, or the one that is being written or was last
    key: bool,
    /// digits of the number that is being written, or of its exponent
    digits: usize,
    exponent: bool,
    /// what is open: objects (true) and lists
    open: Vec<bool>,
    last: Last,
    /// blanks stand behind that
    blank: bool,
    closed: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Last {
    #[default]
    Other,
    Key,
    Value,
}

impl Guard {
    pub fn push(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.byte(*b));
    }

    fn byte(&mut self, byte: u8) {
        if self.string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => {
                    self.string = false;
                    self.last = if self.key { Last::Key } else { Last::Value };
                }
                _ => {}
            }
            return;
        }
        match byte {
            b'0'..=b'9' => self.digits += 1,
            b'.' | b'+' | b'-' => {}
            b'e' | b'E' if self.digits > 0 => (self.exponent, self.digits) = (true, 0),
            _ => (self.exponent, self.digits) = (false, 0),
        }
        self.blank = is_blank(&[byte]);
        match byte {
            _ if self.blank => return,
            b'"' => self.string = true,
            b'{' | b'[' => {
                self.key = byte == b'{';
                self.open.push(self.key);
            }
            b'}' | b']' => {
                self.open.pop();
                self.closed = self.open.is_empty();
            }
            b',' => self.key = self.open.last() == Some(&true),
            b':' => self.key = false,
            _ => {}
        }
        self.last = if b"{[,:\"".contains(&byte) { Last::Other } else { Last::Value };
    }

    /// Whether the outermost list or object is complete.
    pub fn closed(&self) -> bool {
        self.closed
    }

    /// Takes tokens out that would go beyond the bounds, and blanks where nobody writes them: before a colon or a comma.
    /// What the grammar demands stays.
    pub fn narrow(&self, set: &mut SimpleVob, vocabulary: &Inner) {
        // Behind a value blanks are for what closes.
        let only_comma = self.last == Last::Value && set.and_is_zero(&vocabulary.begin_close);
        let mut without = |some: &SimpleVob| {
            let mut rest = set.clone();
            rest.sub(some);
            if !rest.is_zero() {
                *set = rest;
            }
        };
        if self.string {
            if self.key {
                without(&vocabulary.quote_blank);
            }
            return;
        }
        if self.exponent {
            without(&vocabulary.digits[EXPONENT.saturating_sub(self.digits)]);
        } else if self.digits >= DIGITS {
            without(&vocabulary.digits[0]);
        }
        if self.open.len() >= DEPTH {
            without(&vocabulary.opening);
        }
        if self.last == Last::Key || only_comma && !self.blank {
            without(&vocabulary.begin_blank);
        } else if self.last == Last::Value && self.blank {
            without(&vocabulary.begin_comma);
        }
    }
}
