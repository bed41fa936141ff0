//! `(text)`, `[text]`, `(text:1.3)` and `BREAK`: `parse_prompt_attention` in A1111's `modules/prompt_parser.py`.

/// How much more a pair of round brackets makes of a text, and a pair of square ones less.
const STEP: f64 = 1.1;
/// Brackets open at once at most; more are text, or a long prompt of brackets would take forever.
const DEEPEST: usize = 64;
/// The largest weight that a text comes to.
const LARGEST: f64 = 1e6;

/// A part of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// text, and how much of it is wanted: 1 unless brackets say otherwise
    Text(String, f32),
    /// what follows begins a new chunk
    Break,
}

/// A prompt, taken apart.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    /// in order, at least one
    pub parts: Vec<Part>,
}

/// While a prompt is read: text and its weight, or `None` for a break.
type Pieces = Vec<(Option<String>, f64)>;

impl Prompt {
    /// Reads a prompt. Any text is one: a bracket that is not closed reaches to the end, one that was not opened is text,
    /// and so is a number that is none. A backslash before a bracket or another backslash makes text of it; alone it is
    /// left out. Unlike A1111, which makes a word of it, `BREAK` within brackets is a break.
    pub fn parse(text: &str) -> Prompt {
        let mut pieces: Pieces = Vec::new();
        let (mut round, mut square) = (Vec::new(), Vec::new());
        let times = |pieces: &mut Pieces, from: usize, by: f64| {
            pieces[from..].iter_mut().for_each(|(_, weight)| *weight *= by);
        };
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let mut len = first.len_utf8();
            match first {
                '\\' => {
                    let escaped = rest[1..].chars().next().filter(|c| "()[]\\".contains(*c));
                    pieces.push((Some(escaped.map(String::from).unwrap_or_default()), 1.0));
                    len += escaped.is_some() as usize;
                }
                '(' if round.len() < DEEPEST => round.push(pieces.len()),
                '[' if square.len() < DEEPEST => square.push(pieces.len()),
                ')' if let Some(from) = round.pop() => times(&mut pieces, from, STEP),
                ']' if let Some(from) = square.pop() => times(&mut pieces, from, 1.0 / STEP),
                ':' if let Some((weight, end)) = weight(rest) => {
                    len = end;
                    match round.pop() {
                        Some(from) => times(&mut pieces, from, weight),
                        None => pieces.push((Some(rest[..len].into()), 1.0)),
                    }
                }
                '(' | '[' | ')' | ']' | ':' => pieces.push((Some(first.into()), 1.0)),
                _ => {
                    len = rest.find(['\\', '(', ')', '[', ']', ':']).unwrap_or(rest.len());
                    broken(&rest[..len], &mut pieces);
                }
            }
            rest = &rest[len..];
        }
        round.into_iter().for_each(|from| times(&mut pieces, from, STEP));
        square.into_iter().for_each(|from| times(&mut pieces, from, 1.0 / STEP));

        // Neighbours of one weight are one text.
        let mut merged: Pieces = Vec::new();
        for (text, weight) in pieces {
            match (&text, merged.last_mut()) {
                (Some(more), Some((Some(last), same))) if *same == weight => last.push_str(more),
                _ => merged.push((text, weight)),
            }
        }
        if merged.is_empty() {
            merged.push((Some(String::new()), 1.0));
        }
        let part = |(text, weight): (Option<String>, f64)| match text {
            Some(text) => Part::Text(text, weight.clamp(-LARGEST, LARGEST) as f32),
            None => Part::Break,
        };
        Prompt { parts: merged.into_iter().map(part).collect() }
    }

    /// The prompt without a meaning of brackets.
    pub fn plain(text: &str) -> Prompt {
        Prompt { parts: vec![Part::Text(text.into(), 1.0)] }
    }

    /// The text without weights, for encoders that know none, such as T5.
    pub fn text(&self) -> String {
        let texts = self.parts.iter().map(|part| match part {
            Part::Text(text, _) => text,
            Part::Break => " ",
        });
        texts.collect()
    }

    /// Whether a weight is other than 1.
    pub fn is_weighted(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Text(_, weight) if *weight != 1.0))
    }
}

/// The number of `:1.3)`, with which `text` begins, and the length of all that.
fn weight(text: &str) -> Option<(f64, usize)> {
    let in_number = |c: char| c.is_whitespace() || matches!(c, '0'..='9' | '.' | '+' | '-');
    let end = 1 + text[1..].find(|c| !in_number(c))?;
    // Nobody wants more, and what is nested must stay a number.
    let weight = text[1..end].trim().parse().ok().filter(|weight: &f64| weight.abs() <= 1e4)?;
    text[end..].starts_with(')').then_some((weight, end + 1))
}

/// Adds a text, cut at each word `BREAK`, with the space around it.
fn broken(text: &str, pieces: &mut Pieces) {
    const WORD: &str = "BREAK";
    let in_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut start = 0;
    for (at, _) in text.match_indices(WORD) {
        let after = at + WORD.len();
        if text[..at].ends_with(in_word) || text[after..].starts_with(in_word) {
            continue;
        }
        // What stands between two breaks may be nothing, and is no space.
        let before = text[start..at].trim_end();
        pieces.push((Some(before.into()), 1.0));
        pieces.push((None, 1.0));
        start = text.len() - text[after..].trim_start().len();
    }
    pieces.push((Some(text[start..].into()), 1.0));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> Vec<(String, f32)> {
        let part = |part: Part| match part {
            Part::Text(text, weight) => (text, weight),
            Part::Break => ("BREAK".into(), -1.0),
        };
        Prompt::parse(text).parts.into_iter().map(part).collect()
    }

    /// What `parse_prompt_attention` of A1111 gives, its own examples first.
    #[test]
    fn as_a1111() {
        let cases: [(&str, &[(&str, f32)]); 27] = [
            ("normal text", &[("normal text", 1.0)]),
            ("an (important) word", &[("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
            ("(unbalanced", &[("unbalanced", 1.1)]),
            (r"\(literal\]", &[("(literal]", 1.0)]),
            ("(unnecessary)(parens)", &[("unnecessaryparens", 1.1)]),
            (
                "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
                &[
                    ("a ", 1.0),
                    ("house", 1.573),
                    (" ", 1.1),
                    ("on", 1.0),
                    (" a ", 1.1),
                    ("hill", 0.55),
                    (", sun, ", 1.1),
                    ("sky", 1.4641),
                    (".", 1.1),
                ],
            ),
            ("", &[("", 1.0)]),
            ("()", &[("", 1.0)]),
            ("[less]", &[("less", 1.0 / 1.1)]),
            ("[[less:1.5]]", &[("less:1.5", 1.0 / 1.21)]),
            ("(a:0)", &[("a", 0.0)]),
            ("(a:-1)b", &[("a", -1.0), ("b", 1.0)]),
            ("(a: 1.2 )", &[("a", 1.2)]),
            ("(a:.5)", &[("a", 0.5)]),
            ("(a:1.)", &[("a", 1.0)]),
            ("a:1.2)", &[("a:1.2)", 1.0)]),
            ("a)b]", &[("a)b]", 1.0)]),
            ("(a:b)", &[("a:b", 1.1)]),
            ("(a:b:1.2)", &[("a:b", 1.2)]),
            (r"\\(a\)", &[("\\", 1.0), ("a)", 1.1)]),
            (r"a\b", &[("ab", 1.0)]),
            ("(a:1.1)b", &[("a", 1.1), ("b", 1.0)]),
            ("a BREAK b", &[("a", 1.0), ("BREAK", -1.0), ("b", 1.0)]),
            ("BREAK", &[("", 1.0), ("BREAK", -1.0), ("", 1.0)]),
            ("a BREAK BREAK b", &[("a", 1.0), ("BREAK", -1.0), ("", 1.0), ("BREAK", -1.0), ("b", 1.0)]),
            ("BREAKING _BREAK BREAK2 break", &[("BREAKING _BREAK BREAK2 break", 1.0)]),
            ("(a)BREAK,b", &[("a", 1.1), ("", 1.0), ("BREAK", -1.0), (",b", 1.0)]),
        ];
        for (text, want) in cases {
            let got = parsed(text);
            let same = got.len() == want.len()
                && got.iter().zip(want).all(|(a, b)| a.0 == b.0 && (a.1 - b.1).abs() < 1e-6);
            assert!(same, "{text:?} gives {got:?}, not {want:?}");
        }
    }

    /// Where A1111 fails, or makes a word of a break.
    #[test]
    fn otherwise_than_a1111() {
        let half = |text: &str| (text.to_string(), 1.2);
        assert_eq!(parsed("(a BREAK b:1.2)"), [half("a"), ("BREAK".into(), -1.0), half("b")]);
        assert_eq!(parsed("(a:1.2.3)"), [("a:1.2.3".into(), 1.1)]);
        assert_eq!(parsed("(a:.)"), [("a:.".into(), 1.1)]);
        assert_eq!(parsed(&format!("(a:{})", "9".repeat(99))), [(format!("a:{}", "9".repeat(99)), 1.1)]);
        let deep = parsed(&format!("{}:9)", "(a".repeat(200_000)));
        assert!(deep.iter().all(|(_, weight)| weight.is_finite()));
        let numbers = parsed(&format!("{}a{}", "(".repeat(64), ":999)".repeat(64)));
        assert!(numbers.iter().all(|(_, weight)| weight.is_finite()));
    }

    #[test]
    fn texts_without_weights() {
        let prompt = Prompt::parse(r"(a:1.2) [b] \(c\) BREAK d");
        assert_eq!(prompt.text(), "a b (c) d");
        assert!(prompt.is_weighted() && !Prompt::parse("a BREAK b").is_weighted());
        assert_eq!(Prompt::plain("(a)").text(), "(a)");
    }

    proptest! {
        #[test]
        fn any_text_is_a_prompt(text in r"[ab ()\[\]:\\.1BREAKé\n]{0,60}", any in any::<String>()) {
            for text in [text, any] {
                let prompt = Prompt::parse(&text);
                prop_assert!(!prompt.parts.is_empty());
                let finite = prompt.parts.iter().all(|p| !matches!(p, Part::Text(_, w) if !w.is_finite()));
                prop_assert!(finite);
            }
        }
    }
}
