//! GPT-2's alphabet: each byte written as one printable character, so that a vocabulary can be a text file.
//!
//! Printable bytes of Latin-1 stand for themselves; the other 68 are the characters from U+0100 on, in order
//! (`bytes_to_unicode` of GPT-2's `encoder.py`).

/// The byte that each character below U+0144 stands for; 0x100 for none.
const BYTES: [u16; 0x144] = {
    let mut table = [0x100; 0x144];
    let mut next = 0x100;
    let mut b = 0;
    while b < 256 {
        if matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) {
            table[b] = b as u16;
        } else {
            table[next] = b as u16;
            next += 1;
        }
        b += 1;
    }
    table
};

/// The byte that `c` stands for.
pub(super) fn byte_of(c: char) -> Option<u8> {
    BYTES.get(c as usize).and_then(|&b| u8::try_from(b).ok())
}

/// The characters, in order.
pub(super) fn alphabet() -> impl Iterator<Item = char> {
    (0..0x144).filter_map(char::from_u32).filter(|&c| byte_of(c).is_some())
}

/// Appends the bytes that `text` stands for; false, and nothing appended, when it is not in the alphabet.
pub(super) fn decode(text: &[u8], out: &mut Vec<u8>) -> bool {
    let start = out.len();
    let mut at = 0;
    while let Some(&b) = text.get(at) {
        // The alphabet's characters take one byte or two.
        let c = match (b, text.get(at + 1)) {
            (0x21..=0x7e, _) => b as u32,
            (0xc2..=0xc5, Some(&b2 @ 0x80..=0xbf)) => ((b as u32) & 0x1f) << 6 | (b2 as u32 & 0x3f),
            _ => 0x144,
        };
        at += if b < 0x80 { 1 } else { 2 };
        match char::from_u32(c).and_then(byte_of) {
            Some(byte) => out.push(byte),
            None => {
                out.truncate(start);
                return false;
            }
        }
    }
    true
}

/// [`decode`], where `suffix`, unless it is empty, marks the end of a word: a space in its stead.
pub(super) fn decode_marked(text: &[u8], suffix: &str, out: &mut Vec<u8>) -> bool {
    match text.strip_suffix(suffix.as_bytes()).filter(|_| !suffix.is_empty()) {
        None => decode(text, out),
        Some(word) => {
            let spelled = decode(word, out);
            if spelled {
                out.push(b' ');
            }
            spelled
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_character() {
        let mut seen = [0; 256];
        (0..0x200).filter_map(char::from_u32).filter_map(byte_of).for_each(|b| seen[b as usize] += 1);
        assert_eq!(seen, [1; 256]);
        assert_eq!(byte_of('Ġ'), Some(b' '));
        assert_eq!(byte_of('Ċ'), Some(b'\n'));
    }

    #[test]
    fn text_outside_the_alphabet_is_told() {
        let mut out = b"x".to_vec();
        assert!(decode("ĠcafÃ©".as_bytes(), &mut out));
        assert_eq!(out, "x café".as_bytes());
        for bad in ["a b", "a\u{144}", "中", "\u{a0}"] {
            assert!(!decode(bad.as_bytes(), &mut out), "{bad:?}");
            assert_eq!(out, "x café".as_bytes());
        }
        assert!(!decode(&[0xc4], &mut out));
    }
}
