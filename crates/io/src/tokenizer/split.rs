//! Splitters written by hand for the pre-tokenizers in daily use. Each does exactly what the regular expression quoted
//! at it does (the tests compare the two), several times as fast and without its start-up time.

use super::unicode::{Classes, L, LOWER, M, N, UPPER, WS};

/// Where a word ends: given the text and the word's beginning (a character boundary before the text's end), the end.
pub(super) type NextWord = fn(&Cursor, usize) -> usize;

/// The text with its characters' classes.
pub(super) struct Cursor<'a> {
    text: &'a str,
    classes: &'static Classes,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str) -> Cursor<'a> {
        Cursor { text, classes: Classes::get() }
    }

    /// The character at a boundary, its class and where the next one begins; class 0 and `at` itself at the end.
    fn at(&self, at: usize) -> (char, u8, usize) {
        match self.text.as_bytes().get(at) {
            None => ('\0', 0, at),
            Some(&b) if b < 0x80 => (b as char, self.classes.of(b as char), at + 1),
            Some(_) => match self.text[at..].chars().next() {
                Some(c) => (c, self.classes.of(c), at + c.len_utf8()),
                None => ('\0', 0, at),
            },
        }
    }

    /// Past the characters from `at` on that have a class of `any`, at most `most` of them.
    fn run(&self, mut at: usize, any: u8, most: usize) -> usize {
        for _ in 0..most {
            let (_, class, next) = self.at(at);
            if class & any == 0 {
                break;
            }
            at = next;
        }
        at
    }

    /// Past the characters from `at` on that have no class of `none`.
    fn run_without(&self, mut at: usize, none: u8) -> usize {
        loop {
            let (_, class, next) = self.at(at);
            if next == at || class & none != 0 {
                return at;
            }
            at = next;
        }
    }

    /// Past the characters of `set` (ASCII) from `at` on.
    fn run_of(&self, at: usize, set: &[u8]) -> usize {
        at + self.text.as_bytes()[at..].iter().take_while(|b| set.contains(b)).count()
    }

    /// `\s+(?!\S)|\s+`: white space, but for the last one before a word, which belongs to the word.
    fn white_space(&self, from: usize) -> usize {
        let end = self.run(from, WS, usize::MAX);
        if end == self.text.len() {
            return end;
        }
        let last = self.text[from..end].chars().next_back().map_or(0, char::len_utf8);
        if end - last > from { end - last } else { end }
    }

    /// `\s*[\r\n]+`: white space up to its last line break; `None` when it has none.
    fn line_breaks(&self, from: usize) -> Option<usize> {
        let end = self.run(from, WS, usize::MAX);
        self.text.as_bytes()[from..end].iter().rposition(|&b| b == b'\r' || b == b'\n').map(|i| from + i + 1)
    }

    /// `'s|'t|'re|'ve|'m|'ll|'d`, in either case if `fold`; `at` is where the apostrophe may be.
    fn contraction(&self, at: usize, fold: bool) -> Option<usize> {
        let rest = &self.text.as_bytes()[at..];
        if rest.first() != Some(&b'\'') {
            return None;
        }
        let letter = |i: usize| rest.get(i).map_or(0, |b| if fold { b.to_ascii_lowercase() } else { *b });
        match (letter(1), letter(2)) {
            (b's' | b't' | b'm' | b'd', _) => Some(at + 2),
            (b'r', b'e') | (b'v', b'e') | (b'l', b'l') => Some(at + 3),
            // U+017F, the long s, folds to s.
            (0xc5, 0xbf) if fold => Some(at + 3),
            _ => None,
        }
    }
}

/// The expressions of the models' published files, each with the splitter that does the same; GPT-2's first.
#[rustfmt::skip]
pub(super) const EXPRESSIONS: [(&str, NextWord); 6] = [
    (r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", gpt2),
    (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+", llama3),
    (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+", qwen2),
    (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+", qwen35),
    (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+", o200k),
    (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+", tekken),
];

/// CLIP's expression, which passes over white space, and its beginning, the names of the control tokens.
pub(super) const CLIP: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
pub(super) const CLIP_NAMES: &str = r"<\|startoftext\|>|<\|endoftext\|>|";

/// [`CLIP`], and runs of white space.
pub(super) fn clip(text: &Cursor, from: usize) -> usize {
    let rest = &text.text[from..];
    if let Some(name) = ["<|startoftext|>", "<|endoftext|>"].into_iter().find(|name| rest.starts_with(name)) {
        return from + name.len();
    }
    if let Some(end) = text.contraction(from, false) {
        return end;
    }
    let (_, class, next) = text.at(from);
    match class {
        _ if class & L != 0 => text.run(from, L, usize::MAX),
        _ if class & N != 0 => next,
        _ if class & WS != 0 => text.run(from, WS, usize::MAX),
        _ => text.run_without(from, WS | L | N),
    }
}

/// GPT-2: `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
pub(super) fn gpt2(text: &Cursor, from: usize) -> usize {
    gpt2_words::<false>(text, from)
}

/// Every `\p{N}` alone, then GPT-2 on what lies between: SmolLM, StarCoder, Command R.
pub(super) fn digits_gpt2(text: &Cursor, from: usize) -> usize {
    gpt2_words::<true>(text, from)
}

/// With `ALONE` the expression sees texts that end before each number.
fn gpt2_words<const ALONE: bool>(text: &Cursor, from: usize) -> usize {
    if let Some(end) = text.contraction(from, false) {
        return end;
    }
    let (first, class, next) = text.at(from);
    if ALONE && class & N != 0 {
        return next;
    }
    let (start, class) = if first == ' ' { (next, text.at(next).1) } else { (from, class) };
    if class & L != 0 {
        text.run(start, L, usize::MAX)
    } else if class & N != 0 && !ALONE {
        text.run(start, N, usize::MAX)
    } else if class & (WS | N) == 0 && start < text.text.len() {
        text.run_without(start, WS | L | N)
    } else {
        let end = text.run(from, WS, usize::MAX);
        if ALONE && text.at(end).1 & N != 0 { end } else { text.white_space(from) }
    }
}

/// Llama 3: `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|`
/// `\s+(?!\S)|\s+`
pub(super) fn llama3(text: &Cursor, from: usize) -> usize {
    cl100k::<3, L>(text, from)
}

/// Qwen 2: [`llama3`] with `\p{N}` alone.
pub(super) fn qwen2(text: &Cursor, from: usize) -> usize {
    cl100k::<1, L>(text, from)
}

/// Qwen 3.5: [`qwen2`] with `[\p{L}\p{M}]+` for `\p{L}+` and `[^\s\p{L}\p{M}\p{N}]+` for `[^\s\p{L}\p{N}]+`.
pub(super) fn qwen35(text: &Cursor, from: usize) -> usize {
    cl100k::<1, { L | M }>(text, from)
}

/// The family of OpenAI's cl100k: at most `DIGITS` digits a word, words of the classes `WORD`.
fn cl100k<const DIGITS: usize, const WORD: u8>(text: &Cursor, from: usize) -> usize {
    if let Some(end) = text.contraction(from, true) {
        return end;
    }
    let (first, class, next) = text.at(from);
    if class & WORD != 0 {
        return text.run(next, WORD, usize::MAX);
    }
    if class & N != 0 {
        return text.run(from, N, DIGITS);
    }
    let after = text.at(next).1;
    if after & WORD != 0 && first != '\r' && first != '\n' {
        return text.run(next, WORD, usize::MAX);
    }
    punctuation_or_space(text, from, WORD | N | WS, b"\r\n")
}

/// ` ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`: `none` are the classes excluded, `tail` the set that follows.
fn punctuation_or_space(text: &Cursor, from: usize, none: u8, tail: &[u8]) -> usize {
    let (first, class, next) = text.at(from);
    let (start, class) = if first == ' ' { (next, text.at(next).1) } else { (from, class) };
    if class & none == 0 && start < text.text.len() {
        return text.run_of(text.run_without(start, none), tail);
    }
    text.line_breaks(from).unwrap_or_else(|| text.white_space(from))
}

/// GPT-4o: words that turn from upper to lower case, see [`cased`], with a contraction at their end, numbers of up to
/// three digits, and ` ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`.
pub(super) fn o200k(text: &Cursor, from: usize) -> usize {
    if let Some(end) = cased(text, from) {
        return text.contraction(end, true).unwrap_or(end);
    }
    let digits = text.run(from, N, 3);
    if digits > from { digits } else { punctuation_or_space(text, from, WS | L | N, b"\r\n/") }
}

/// Mistral's Tekken: [`o200k`] without contractions, digits alone.
pub(super) fn tekken(text: &Cursor, from: usize) -> usize {
    if let Some(end) = cased(text, from) {
        return end;
    }
    let digits = text.run(from, N, 1);
    if digits > from { digits } else { punctuation_or_space(text, from, WS | L | N, b"\r\n/") }
}

/// `[^\r\n\p{L}\p{N}]?U*W+|[^\r\n\p{L}\p{N}]?U+W*` with `U = [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]` and
/// `W = [\p{Ll}\p{Lm}\p{Lo}\p{M}]`.
fn cased(text: &Cursor, from: usize) -> Option<usize> {
    let (first, class, next) = text.at(from);
    let prefix = class & (L | N) == 0 && first != '\r' && first != '\n' && next > from;
    let starts = [prefix.then_some(next), Some(from)];
    let lower = |start: usize| {
        let upper = text.run(start, UPPER, usize::MAX);
        let end = text.run(upper, LOWER, usize::MAX);
        if end > upper {
            return Some(end);
        }
        // Step back to the last character that counts as both.
        let mut end = upper;
        for c in text.text[start..upper].chars().rev() {
            if text.classes.of(c) & LOWER != 0 {
                return Some(end);
            }
            end -= c.len_utf8();
        }
        None
    };
    let upper = |start: usize| {
        let upper = text.run(start, UPPER, usize::MAX);
        (upper > start).then(|| text.run(upper, LOWER, usize::MAX))
    };
    starts.into_iter().flatten().find_map(lower).or_else(|| starts.into_iter().flatten().find_map(upper))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fancy_regex::Regex;
    use proptest::prelude::*;
    use std::sync::LazyLock;

    fn by_hand(next: NextWord, text: &str) -> Vec<&str> {
        let cursor = Cursor::new(text);
        let (mut words, mut at) = (Vec::new(), 0);
        while at < text.len() {
            let end = next(&cursor, at);
            assert!(end > at, "no progress at {at} of {text:?}");
            words.push(&text[at..end]);
            at = end;
        }
        words
    }

    fn by_regex<'a>(regex: &Regex, text: &'a str) -> Vec<&'a str> {
        let words: Vec<&str> = regex.find_iter(text).map(|m| m.unwrap().as_str()).collect();
        assert_eq!(words.concat(), text, "the expression covers every text");
        words
    }

    fn by_clip(text: &str) -> Vec<&str> {
        static REGEX: LazyLock<Regex> = LazyLock::new(|| Regex::new(CLIP).unwrap());
        REGEX.find_iter(text).map(|m| m.unwrap().as_str()).collect()
    }

    fn by_digits(text: &str) -> Vec<&str> {
        let mut pieces = Vec::new();
        let mut start = 0;
        for (at, c) in text.char_indices().filter(|(_, c)| c.is_numeric()) {
            pieces.push(&text[start..at]);
            pieces.push(&text[at..at + c.len_utf8()]);
            start = at + c.len_utf8();
        }
        pieces.push(&text[start..]);
        pieces.into_iter().flat_map(|piece| by_regex(&COMPILED[0].0, piece)).collect()
    }

    static COMPILED: LazyLock<Vec<(Regex, NextWord)>> =
        LazyLock::new(|| EXPRESSIONS.map(|(pattern, next)| (Regex::new(pattern).unwrap(), next)).into());

    fn check(text: &str) {
        for (regex, next) in COMPILED.iter() {
            assert_eq!(by_hand(*next, text), by_regex(regex, text), "{}", regex.as_str());
        }
        assert_eq!(by_hand(digits_gpt2, text), by_digits(text), "digits, then GPT-2");
        let mut words = by_hand(clip, text);
        words.retain(|word| !word.trim().is_empty());
        assert_eq!(words, by_clip(text), "CLIP");
    }

    #[test]
    fn as_the_expressions_on_the_corpus() {
        let corpus: Vec<String> =
            serde_json::from_str(include_str!("../../../../tests/golden/tokenizer/corpus.json")).unwrap();
        corpus.iter().for_each(|text| check(text));
    }

    proptest! {
        #[test]
        fn as_the_expressions_on_short_mixtures(
            text in "[ \\t\\r\\n'sStTrReEvVlLmMdDſ1٣½aAöÖǅʰ中ぁ\u{301}\u{200d}\u{a0}/.!_👍]{0,24}"
        ) {
            check(&text);
        }

        #[test]
        fn as_the_expressions_on_control_tokens(text in "(<\\|startoftext\\|>|<\\|endoftext\\|>|[ '!<|>as1]{0,3}){0,6}") {
            check(&text);
        }

        #[test]
        fn as_the_expressions_on_any_text(text in any::<String>()) {
            check(&text);
        }
    }
}
