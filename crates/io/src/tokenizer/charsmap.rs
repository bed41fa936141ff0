//! SentencePiece's rules of normalization, compiled into its files: what each stretch of text becomes.
//!
//! `precompiled_charsmap` is the length of a trie (u32), the trie in 32-bit units (Yata's double array, as `darts-clone`
//! lays it out), and the replacements, each ended by a zero byte (sentencepiece's `normalizer.cc`).

use std::ops::Range;

/// Such rules.
pub(super) struct Charsmap {
    units: Vec<u32>,
    texts: String,
}

impl Charsmap {
    /// Reads the rules; none are an empty blob. Errors: it is damaged.
    pub(super) fn parse(blob: &[u8]) -> Result<Option<Charsmap>, String> {
        if blob.is_empty() {
            return Ok(None);
        }
        let damaged = "its rules of normalization are damaged";
        let (len, rest) = blob.split_first_chunk().ok_or(damaged)?;
        let len = u32::from_le_bytes(*len) as usize;
        let (trie, texts) = rest.split_at_checked(len).ok_or(damaged)?;
        if !len.is_multiple_of(4) {
            return Err(damaged.into());
        }
        let units = trie.chunks_exact(4).map(|u| u32::from_le_bytes(u.try_into().expect("four"))).collect();
        let texts = String::from_utf8(texts.to_vec()).map_err(|_| damaged)?;
        Ok(Some(Charsmap { units, texts }))
    }

    /// The longest stretch that `text` begins with and that has a rule, in bytes, and what it becomes.
    pub(super) fn longest(&self, text: &str) -> Option<(usize, &str)> {
        let unit = |at: usize| self.units.get(at).copied();
        let offset = |unit: u32| ((unit >> 10) << ((unit & 1 << 9) >> 6)) as usize;
        let mut at = offset(unit(0)?);
        let mut found = None;
        for (i, &byte) in text.as_bytes().iter().enumerate() {
            at ^= byte as usize;
            let Some(here) = unit(at).filter(|here| here & (1 << 31 | 0xff) == byte as u32) else { break };
            at ^= offset(here);
            // A rule ends with a whole character, or the file would be damaged.
            if here & 1 << 8 != 0 && text.is_char_boundary(i + 1) {
                let start = unit(at).map_or(usize::MAX, |leaf| (leaf & 0x7fff_ffff) as usize);
                found =
                    self.texts.get(start..).map(|rest| (i + 1, rest.split('\0').next().unwrap_or_default()));
            }
        }
        found
    }

    /// Calls `emit` for each stretch of the text as it becomes; what has no rule is a character as it stands.
    pub(super) fn apply<'a>(&'a self, text: &'a str, mut emit: impl FnMut(&'a str)) {
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let (len, becomes) = self.longest(rest).unwrap_or((first.len_utf8(), &rest[..first.len_utf8()]));
            emit(becomes);
            rest = &rest[len..];
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        4 * self.units.capacity() + self.texts.capacity()
    }
}

/// The bytes of a text in base 64, as `tokenizer.json` has the rules; `None` where it is none.
pub(super) fn base64(text: &str) -> Option<Vec<u8>> {
    let digit =
        |range: Range<u8>, c: u8, first: u32| range.contains(&c).then(|| (c - range.start) as u32 + first);
    let value = |c: u8| {
        let letter = digit(b'A'..b'[', c, 0).or(digit(b'a'..b'{', c, 26)).or(digit(b'0'..b':', c, 52));
        letter.or(match c {
            b'+' => Some(62),
            b'/' => Some(63),
            _ => None,
        })
    };
    let digits = text.trim_end_matches('=').as_bytes();
    let mut out = Vec::with_capacity(digits.len() / 4 * 3 + 2);
    for four in digits.chunks(4) {
        let bits = four.iter().try_fold(0, |bits, &c| Some(bits << 6 | value(c)?))? << (6 * (4 - four.len()));
        let bytes = u32::to_be_bytes(bits);
        out.extend_from_slice(&bytes[1..four.len()]);
    }
    Some(out)
}
