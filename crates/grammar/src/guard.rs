//! What the grammar of JSON allows without end: digits and nesting. A small model loops in them.

use crate::vocabulary::Inner;
use toktrie::SimpleVob;

/// Digits of a number, before and after its point together: those of the largest whole numbers of 64 bits.
const DIGITS: usize = 20;
/// Digits of an exponent: with two the number stays within a double's range.
const EXPONENT: usize = 2;
/// Lists and objects within each other; readers of JSON commonly stop at 128.
const DEPTH: usize = 64;

/// Where in JSON an answer is, as far as its bounds need it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Guard {
    string: bool,
    escaped: bool,
    /// digits of the number that is being written, or of its exponent
    digits: usize,
    exponent: bool,
    depth: usize,
    closed: bool,
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
                b'"' => self.string = false,
                _ => {}
            }
            return;
        }
        match byte {
            b'0'..=b'9' => return self.digits += 1,
            b'.' | b'+' | b'-' => return,
            b'e' | b'E' if self.digits > 0 => (self.exponent, self.digits) = (true, 0),
            _ => (self.exponent, self.digits) = (false, 0),
        }
        match byte {
            b'"' => self.string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                self.closed = self.depth == 0;
            }
            _ => {}
        }
    }

    /// Whether the outermost list or object is complete.
    pub fn closed(&self) -> bool {
        self.closed
    }

    /// Takes tokens out that would go beyond the bounds, unless the grammar allows no others.
    pub fn narrow(&self, set: &mut SimpleVob, vocabulary: &Inner) {
        if self.string {
            return;
        }
        let mut without = |some: &SimpleVob| {
            let mut rest = set.clone();
            rest.sub(some);
            if !rest.is_zero() {
                *set = rest;
            }
        };
        if self.exponent {
            without(&vocabulary.digits[EXPONENT.saturating_sub(self.digits)]);
        } else if self.digits >= DIGITS {
            without(&vocabulary.digits[0]);
        }
        if self.depth >= DEPTH {
            without(&vocabulary.opening);
        }
    }
}
