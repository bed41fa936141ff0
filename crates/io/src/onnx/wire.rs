//! Protobuf's wire format: fields of a message, one after another (protobuf.dev/programming-guides/encoding).

use std::ops::Range;

/// A message within a file: `bytes` is the whole file, so that ranges count from its beginning.
#[derive(Clone)]
pub(super) struct Message<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
}

/// What a field holds.
pub(super) enum Field {
    /// an integer
    Varint(u64),
    /// bytes: a text, a message, or numbers packed
    Bytes(Range<usize>),
    /// four or eight bytes, which nothing read here has
    Fixed,
}

impl<'a> Message<'a> {
    /// The message in `range` of a file, which must lie within it.
    pub fn new(bytes: &'a [u8], range: Range<usize>) -> Message<'a> {
        Message { bytes, at: range.start, end: range.end }
    }

    /// The next field's number and what it holds; `None` at the end.
    pub fn next(&mut self) -> Result<Option<(u64, Field)>, String> {
        if self.at == self.end {
            return Ok(None);
        }
        let key = self.varint()?;
        let field = match key & 7 {
            0 => Field::Varint(self.varint()?),
            1 => self.skip(8)?,
            2 => {
                let len = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
                let from = self.at;
                self.skip(len)?;
                Field::Bytes(from..self.at)
            }
            5 => self.skip(4)?,
            other => return Err(format!("byte {} begins a field of the unknown kind {other}", self.at)),
        };
        Ok(Some((key >> 3, field)))
    }

    fn skip(&mut self, n: usize) -> Result<Field, String> {
        match n <= self.end - self.at {
            true => self.at += n,
            false => return Err(format!("a field at byte {} goes on past its message", self.at)),
        }
        Ok(Field::Fixed)
    }

    /// An integer of 7 bits a byte, the lowest first.
    pub fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0;
        for shift in (0..70).step_by(7) {
            let byte = *self.bytes[..self.end].get(self.at).ok_or("it ends within a number")?;
            self.at += 1;
            // The tenth byte has room for one bit.
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(format!("the number before byte {} has more than 64 bits", self.at))
    }

    /// Whether all was read.
    pub fn is_over(&self) -> bool {
        self.at == self.end
    }
}

/// The text in a range of a file.
pub(super) fn text(bytes: &[u8], range: Range<usize>) -> Result<&str, String> {
    let at = range.start;
    std::str::from_utf8(&bytes[range]).map_err(|_| format!("the text at byte {at} is not valid UTF-8"))
}
