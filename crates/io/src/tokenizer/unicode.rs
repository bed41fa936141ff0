//! Unicode classes of characters, as the pre-tokenizers' regular expressions name them.

use std::sync::OnceLock;

/// `\p{L}`
pub(super) const L: u8 = 1;
/// `\p{N}`
pub(super) const N: u8 = 2;
/// `\p{M}`
pub(super) const M: u8 = 4;
/// `\s`
pub(super) const WS: u8 = 8;
/// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`
pub(super) const UPPER: u8 = 16;
/// `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`
pub(super) const LOWER: u8 = 32;

/// The classes of every character, as bits.
pub(super) struct Classes {
    /// The basic plane, one byte a character.
    basic: Box<[u8]>,
    /// First character, last character, bits; above the basic plane, in order.
    above: Vec<(u32, u32, u8)>,
}

impl Classes {
    /// The table, made once in a process (64 KiB).
    pub(super) fn get() -> &'static Classes {
        static CLASSES: OnceLock<Classes> = OnceLock::new();
        CLASSES.get_or_init(|| {
            let groups = [
                ("L", L),
                ("N", N),
                ("M", M | UPPER | LOWER),
                ("Lu", UPPER),
                ("Lt", UPPER),
                ("Ll", LOWER),
                ("Lm", UPPER | LOWER),
                ("Lo", UPPER | LOWER),
            ];
            let mut basic = vec![0u8; 0x10000].into_boxed_slice();
            let mut all = Vec::new();
            for (name, bits) in groups {
                for (first, last) in ranges(name) {
                    for c in first..=last.min(0xffff) {
                        basic[c as usize] |= bits;
                    }
                    if last > 0xffff {
                        all.push((first.max(0x10000), last, bits));
                    }
                }
            }
            for c in (0..=0xffffu32).filter_map(char::from_u32).filter(|c| c.is_whitespace()) {
                basic[c as usize] |= WS;
            }
            Classes { basic, above: disjoint(all) }
        })
    }

    pub(super) fn of(&self, c: char) -> u8 {
        if let Some(&bits) = self.basic.get(c as usize) {
            return bits;
        }
        let at = self.above.partition_point(|&(_, last, _)| last < c as u32);
        self.above.get(at).filter(|&&(first, _, _)| first <= c as u32).map_or(0, |&(_, _, bits)| bits)
    }
}

/// The characters of a general category, as ranges in order.
fn ranges(category: &str) -> Vec<(u32, u32)> {
    let hir = regex_syntax::parse(&format!(r"\p{{{category}}}")).expect("a Unicode general category");
    match hir.kind() {
        regex_syntax::hir::HirKind::Class(regex_syntax::hir::Class::Unicode(class)) => {
            class.ranges().iter().map(|r| (r.start() as u32, r.end() as u32)).collect()
        }
        _ => unreachable!("a general category is a class of many characters"),
    }
}

/// Overlapping ranges with bits, cut so that none overlap and each has the union of its bits.
fn disjoint(ranges: Vec<(u32, u32, u8)>) -> Vec<(u32, u32, u8)> {
    let mut edges: Vec<u32> = ranges.iter().flat_map(|&(first, last, _)| [first, last + 1]).collect();
    edges.sort_unstable();
    edges.dedup();
    let mut cut: Vec<(u32, u32, u8)> = edges.windows(2).map(|e| (e[0], e[1] - 1, 0)).collect();
    for (first, last, bits) in ranges {
        let from = cut.partition_point(|&(_, end, _)| end < first);
        for piece in cut[from..].iter_mut().take_while(|&&mut (start, _, _)| start <= last) {
            piece.2 |= bits;
        }
    }
    cut.retain(|&(_, _, bits)| bits != 0);
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_those_of_the_regular_expressions() {
        let classes = Classes::get();
        for (pattern, bit) in [
            (r"\A\p{L}\z", L),
            (r"\A\p{N}\z", N),
            (r"\A\p{M}\z", M),
            (r"\A\s\z", WS),
            (r"\A[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]\z", UPPER),
            (r"\A[\p{Ll}\p{Lm}\p{Lo}\p{M}]\z", LOWER),
        ] {
            let regex = fancy_regex::Regex::new(pattern).unwrap();
            let mut text = [0; 4];
            for c in (0..=0x10ffffu32).step_by(3).filter_map(char::from_u32) {
                let want = regex.is_match(c.encode_utf8(&mut text)).unwrap();
                assert_eq!(classes.of(c) & bit != 0, want, "{pattern} on U+{:04X}", c as u32);
            }
        }
    }
}
