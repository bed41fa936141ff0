//! Prompts that change while a picture is made: `[from:to:when]`, `[to:when]`, `[from::when]`, `[one|other]`, and prompts that
//! count together, `one AND other :0.5`. Facts: the grammar and `get_multicond_prompt_list` of A1111's
//! `modules/prompt_parser.py`. Beside brackets that are not closed, its parser (Earley's, over a grammar with several readings)
//! sometimes leaves as text what it reads elsewhere; here what can be read is read.

use std::collections::BTreeSet;

/// Brackets within brackets at most; more are text.
const DEEPEST: usize = 64;

/// A part of a prompt that may change.
enum Piece<'a> {
    Text(&'a str),
    /// what stands until a step, and what stands after it
    Switch(Vec<Piece<'a>>, Vec<Piece<'a>>, When<'a>),
    /// what takes turns, step by step
    Turns(Vec<Vec<Piece<'a>>>),
}

/// A number as it is written: with a point a part of all steps, without one a step.
#[derive(Clone, Copy)]
struct When<'a>(&'a str);

impl When<'_> {
    fn step(self, steps: usize) -> i64 {
        let number: f64 = self.0.parse().unwrap_or(0.0);
        let step = if self.0.contains('.') { number * steps as f64 } else { number };
        (step as i64).min(steps as i64) // towards zero, and no further than a number goes
    }
}

/// The texts that a prompt is, each with the last of `steps` steps that it is for, in order. Brackets that are weights stay as
/// they are; a prompt of which a part cannot be read (a `|` outside of brackets, say) stays as it is altogether.
///
/// ```
/// # use hob_io::prompt::schedule;
/// assert_eq!(schedule("a [fox:cat:0.5]", 10), [(5, "a fox".into()), (10, "a cat".into())]);
/// ```
pub fn schedule(text: &str, steps: usize) -> Vec<(usize, String)> {
    let Some(pieces) = (Reader { text, at: 0 }).all() else { return vec![(steps, text.into())] };
    let mut ends = BTreeSet::from([steps]);
    let mut changes = false;
    collect(&pieces, steps, &mut ends, &mut changes);
    if !changes {
        return vec![(steps, text.into())];
    }
    let mut all: Vec<(usize, String)> = Vec::new();
    for end in ends {
        let mut now = String::new();
        put(&pieces, end, steps, &mut now);
        match all.last_mut() {
            Some((last, same)) if *same == now => *last = end,
            _ => all.push((end, now)),
        }
    }
    all
}

/// The prompts that count together, each with how much; a number is read only where there are several.
pub fn together(text: &str) -> Vec<(String, f32)> {
    const WORD: &str = "AND";
    let in_word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut parts, mut start) = (Vec::new(), 0);
    for (at, _) in text.match_indices(WORD) {
        let after = at + WORD.len();
        if !text[..at].ends_with(in_word) && !text[after..].starts_with(in_word) {
            parts.push(&text[start..at]);
            start = after;
        }
    }
    if parts.is_empty() {
        return vec![(text.into(), 1.0)];
    }
    parts.push(&text[start..]);
    let weighed = |part: &str| {
        let part = part.trim_end();
        let digits = |c: char| c.is_ascii_digit() || c == '.';
        let weight = part.rsplit_once(':').and_then(|(before, number)| {
            let number = number.trim_start();
            let bare = number.strip_prefix(['+', '-']).unwrap_or(number);
            let weight: f32 = bare.chars().all(digits).then(|| number.parse().ok())??;
            weight.is_finite().then(|| (before.trim_end().to_owned(), weight))
        });
        weight.unwrap_or_else(|| (part.to_owned(), 1.0))
    };
    parts.into_iter().map(weighed).collect()
}

/// Steps at which something changes.
fn collect(pieces: &[Piece], steps: usize, ends: &mut BTreeSet<usize>, changes: &mut bool) {
    for piece in pieces {
        match piece {
            Piece::Text(_) => continue,
            Piece::Switch(before, after, when) => {
                ends.extend(usize::try_from(when.step(steps)).ok().filter(|step| *step > 0));
                [before, after].into_iter().for_each(|p| collect(p, steps, ends, changes));
            }
            Piece::Turns(turns) => {
                ends.extend(1..=steps);
                turns.iter().for_each(|p| collect(p, steps, ends, changes));
            }
        }
        *changes = true;
    }
}

/// The text at a step, counted from 1.
fn put(pieces: &[Piece], step: usize, steps: usize, to: &mut String) {
    for piece in pieces {
        match piece {
            Piece::Text(text) => to.push_str(text),
            Piece::Switch(before, after, when) => {
                let now = if step as i64 <= when.step(steps) { before } else { after };
                put(now, step, steps, to);
            }
            Piece::Turns(turns) => put(&turns[step.saturating_sub(1) % turns.len()], step, steps, to),
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn next(&mut self, c: char) -> bool {
        let is = self.rest().starts_with(c);
        self.at += if is { c.len_utf8() } else { 0 };
        is
    }

    /// The whole prompt, with brackets and colons that belong to nothing as text.
    fn all(mut self) -> Option<Vec<Piece<'a>>> {
        let mut pieces = Vec::new();
        loop {
            pieces.append(&mut self.prompt(0));
            match self.rest().chars().next() {
                None => return Some(pieces),
                Some('[' | ']' | '(' | ')' | ':') => {
                    pieces.push(Piece::Text(&self.rest()[..1]));
                    self.at += 1;
                }
                Some(_) => return None,
            }
        }
    }

    /// As much as can be read of a prompt: up to what closes it, or a bracket that is not closed.
    fn prompt(&mut self, depth: usize) -> Vec<Piece<'a>> {
        let mut pieces = Vec::new();
        loop {
            let begin = self.at;
            match self.rest().chars().next() {
                Some(c @ ('(' | '[')) if depth < DEEPEST => {
                    let mut inner = if c == '(' { self.round(depth + 1) } else { self.square(depth + 1) };
                    match &mut inner {
                        Some(inner) => pieces.append(inner),
                        None => {
                            self.at = begin;
                            return pieces;
                        }
                    }
                }
                None | Some('(' | '[' | ')' | ']' | ':' | '|') => return pieces,
                Some('\\') => {
                    let Some(next) = self.rest()[1..].chars().next().filter(|c| *c != '\n') else {
                        return pieces;
                    };
                    self.at += 1 + next.len_utf8();
                    pieces.push(Piece::Text(&self.text[begin..self.at]));
                }
                Some(_) => {
                    let rest = self.rest();
                    let len = rest.find(['\\', '(', ')', '[', ']', ':', '|']).unwrap_or(rest.len());
                    self.at += len;
                    pieces.push(Piece::Text(&rest[..len]));
                }
            }
        }
    }

    /// `(prompt)` or `(prompt:prompt)`, which are text for what weighs it later.
    fn round(&mut self, depth: usize) -> Option<Vec<Piece<'a>>> {
        let mut pieces = vec![Piece::Text("(")];
        self.next('(');
        pieces.append(&mut self.prompt(depth));
        if self.next(':') {
            pieces.push(Piece::Text(":"));
            pieces.append(&mut self.prompt(depth));
        }
        pieces.push(Piece::Text(")"));
        self.next(')').then_some(pieces)
    }

    /// One of the forms in square brackets.
    fn square(&mut self, depth: usize) -> Option<Vec<Piece<'a>>> {
        self.next('[');
        let mut first = self.prompt(depth);
        if self.next(']') {
            first.insert(0, Piece::Text("["));
            first.push(Piece::Text("]"));
            return Some(first);
        }
        if self.rest().starts_with('|') {
            let mut turns = vec![first];
            while self.next('|') {
                turns.push(self.prompt(depth));
            }
            return self.next(']').then(|| vec![Piece::Turns(turns)]);
        }
        if !self.next(':') {
            return None;
        }
        if let Some(when) = self.when() {
            return Some(vec![Piece::Switch(Vec::new(), first, when)]);
        }
        let second = self.prompt(depth);
        let when = if self.next(':') { self.when() } else { None };
        when.map(|when| vec![Piece::Switch(first, second, when)])
    }

    /// A number and what closes the brackets; nothing is read where it is none.
    fn when(&mut self) -> Option<When<'a>> {
        let rest = self.rest();
        let begin = rest.trim_start();
        let in_number = |c: char| matches!(c, '0'..='9' | '.' | 'e' | 'E' | '+' | '-');
        let (number, after) = begin.split_at(begin.find(|c| !in_number(c))?);
        let after = after.trim_start().strip_prefix(']')?;
        let signed = number.strip_prefix(['+', '-']).unwrap_or(number);
        let (digits, exponent) = match signed.find(['e', 'E']) {
            Some(at) => (&signed[..at], Some(&signed[at + 1..])),
            None => (signed, None),
        };
        let all = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
        let exponent = exponent.is_none_or(|e| {
            let e = e.strip_prefix(['+', '-']).unwrap_or(e);
            !e.is_empty() && all(e)
        });
        let good = all(whole) && all(part) && !(whole.is_empty() && part.is_empty()) && exponent;
        good.then(|| {
            self.at += rest.len() - after.len();
            When(number)
        })
    }
}
