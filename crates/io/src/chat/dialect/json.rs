//! JSON as models write it: where a value ends, found while it comes, and the calls it holds.

use super::{Found, Tools};
use serde_json::value::RawValue;
use std::collections::HashMap;

/// Deepest nesting of arguments; `serde_json`, which reads them after us, stops at 128.
const DEPTH: usize = 100;

/// Finds the end of a JSON object or array. It goes on where it stopped, so that a text costs once its length however
/// it is cut, and stops at the first character that cannot be. Line breaks within strings pass: models write them.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// For each open bracket whether it is an object's.
    open: Vec<bool>,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum State {
    #[default]
    Value,
    /// After `[`.
    FirstValue,
    /// After `{`.
    FirstKey,
    Key,
    Colon,
    /// After a value.
    Next,
    /// In a string; whether it is a key, and whether a backslash went before.
    Text(bool, bool),
    /// In a number or a word, which are checked when all is there.
    Word,
}

/// What a scanner says of the text so far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Seen {
    /// It may go on.
    More,
    /// It ends before this place.
    End(usize),
    /// What stands at this place cannot be.
    Bad(usize),
}

impl Scan {
    /// Goes on at `*at`, and leaves there how far it came.
    pub(super) fn run(&mut self, text: &str, at: &mut usize) -> Seen {
        let bytes = text.as_bytes();
        while let Some(&b) = bytes.get(*at) {
            let space = matches!(b, b' ' | b'\n' | b'\r' | b'\t');
            self.state = match (self.state, b) {
                (State::Text(key, true), _) => State::Text(key, false),
                (State::Text(key, false), b'\\') => State::Text(key, true),
                (State::Text(true, false), b'"') => State::Colon,
                (State::Text(false, false), b'"') => State::Next,
                (state @ State::Text(..), _) => state,
                (State::Word, b'a'..=b'z' | b'0'..=b'9' | b'+' | b'-' | b'.' | b'E') => State::Word,
                (State::Next | State::Word | State::FirstKey, b'}') if self.open.last() == Some(&true) => {
                    self.close()
                }
                (State::Next | State::Word | State::FirstValue, b']') if self.open.last() == Some(&false) => {
                    self.close()
                }
                (State::Next | State::Word, b',') => match self.open.last() {
                    Some(true) => State::Key,
                    _ => State::Value,
                },
                (State::Word, _) if space => State::Next,
                (state, _) if space => state,
                (State::FirstKey | State::Key, b'"') => State::Text(true, false),
                (State::Colon, b':') => State::Value,
                (State::Value | State::FirstValue, b'"') if !self.open.is_empty() => {
                    State::Text(false, false)
                }
                (State::Value | State::FirstValue, b'{' | b'[') if self.open.len() < DEPTH => {
                    self.open.push(b == b'{');
                    if b == b'{' { State::FirstKey } else { State::FirstValue }
                }
                (State::Value | State::FirstValue, b'a'..=b'z' | b'0'..=b'9' | b'-')
                    if !self.open.is_empty() =>
                {
                    State::Word
                }
                _ => return Seen::Bad(*at),
            };
            *at += 1;
            if self.open.is_empty() {
                return Seen::End(*at);
            }
        }
        Seen::More
    }

    fn close(&mut self) -> State {
        self.open.pop();
        State::Next
    }
}

/// Strict JSON of what models write: line breaks within strings are escaped, and `\'` is an apostrophe.
pub(super) fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut quoted, mut escaped) = (false, false);
    for c in text.chars() {
        match c {
            _ if escaped => {
                escaped = false;
                if c != '\'' {
                    out.push('\\');
                }
                out.push(c);
            }
            '\\' if quoted => escaped = true,
            '"' => {
                quoted = !quoted;
                out.push(c);
            }
            '\0'..='\x1f' if quoted => out.push_str(&format!("\\u{:04x}", c as u32)),
            _ => out.push(c),
        }
    }
    out
}

type Members<'a> = HashMap<String, &'a RawValue>;

/// The keys that hold a call's name, its arguments and its id: OpenAI's, Llama's, Cohere's.
const NAMES: [&str; 2] = ["name", "tool_name"];
const ARGUMENTS: [&str; 2] = ["arguments", "parameters"];
const IDS: [&str; 3] = ["id", "tool_call_id", "call_id"];

/// The calls in a JSON object or array, if it is nothing else. `strict`: they must say their arguments.
pub(super) fn calls(text: &str, tools: &Tools, strict: bool) -> Option<Vec<Found>> {
    let text = clean(text);
    let objects: Vec<&RawValue> = match text.starts_with('[') {
        true => serde_json::from_str(&text).ok()?,
        false => vec![serde_json::from_str(&text).ok()?],
    };
    if objects.is_empty() {
        return None;
    }
    objects.into_iter().map(|object| call(object.get(), tools, strict)).collect()
}

fn call(text: &str, tools: &Tools, strict: bool) -> Option<Found> {
    let outer: Members = serde_json::from_str(text).ok()?;
    // OpenAI's form has name and arguments within `function`; some models write the name there.
    let inner: Option<Members> = outer.get("function").and_then(|f| serde_json::from_str(f.get()).ok());
    let get = |keys: &[&str]| {
        keys.iter()
            .find_map(|&key| inner.as_ref().and_then(|f| f.get(key)).or_else(|| outer.get(key)).copied())
    };
    let name: String = serde_json::from_str(get(&NAMES).or_else(|| get(&["function"]))?.get()).ok()?;
    let arguments = match get(&ARGUMENTS) {
        Some(value) => arguments(value.get())?,
        None if strict => return None,
        None => "{}".into(),
    };
    let id = get(&IDS).map(|id| id.get().trim_matches('"').to_string());
    Some(Found { name: tools.known(&name)?.into(), arguments, id: id.filter(|id| id != "null") })
}

/// The text of an object that stands for arguments: itself, or in a string; nothing stands for none.
pub(super) fn arguments(text: &str) -> Option<String> {
    let text = text.trim();
    match text.bytes().next() {
        Some(b'{') => serde_json::from_str::<Members>(text).ok().map(|_| text.into()),
        Some(b'"') => {
            let inner: String = serde_json::from_str(text).ok()?;
            match inner.trim() {
                "" => Some("{}".into()),
                inner if inner.starts_with('{') => arguments(&clean(inner)),
                _ => None,
            }
        }
        _ => (text == "null").then(|| "{}".into()),
    }
}

/// What is known of a beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tri {
    Yes,
    No,
    /// More text is needed.
    Maybe,
}

impl Tri {
    /// Whether a text begins with another.
    pub(super) fn begins(text: &str, with: &str) -> Tri {
        match () {
            _ if text.starts_with(with) => Tri::Yes,
            _ if with.starts_with(text) => Tri::Maybe,
            _ => Tri::No,
        }
    }

    /// The best of several.
    pub(super) fn any(each: impl IntoIterator<Item = Tri>) -> Tri {
        each.into_iter().fold(Tri::No, |best, tri| match (best, tri) {
            (Tri::Yes, _) | (_, Tri::Yes) => Tri::Yes,
            (Tri::Maybe, _) | (_, Tri::Maybe) => Tri::Maybe,
            _ => Tri::No,
        })
    }
}

/// Whether JSON that begins so can be a call, so that other JSON is not held back until it ends. `strict`: its first
/// key must be one of a call's.
pub(super) fn plausible(text: &str, tools: &Tools, strict: bool) -> Tri {
    const ENOUGH: usize = 512;
    let window = &text[..text.floor_char_boundary(ENOUGH)];
    match opening(window, tools, strict) {
        Tri::Maybe if text.len() >= ENOUGH && strict => Tri::No,
        Tri::Maybe if text.len() >= ENOUGH => Tri::Yes,
        tri => tri,
    }
}

fn opening(text: &str, tools: &Tools, strict: bool) -> Tri {
    let maybe = |rest: &str| if rest.is_empty() { Tri::Maybe } else { Tri::No };
    let text = text.strip_prefix('[').unwrap_or(text).trim_start();
    let Some(rest) = text.strip_prefix('{').map(str::trim_start) else { return maybe(text) };
    let Some(rest) = rest.strip_prefix('"') else { return maybe(rest) };
    let known = || NAMES.iter().chain(&ARGUMENTS).chain(&IDS).chain(&["type", "function"]);
    let Some((key, rest)) = rest.split_once('"') else {
        return if strict { Tri::any(known().map(|key| Tri::begins(rest, key))) } else { Tri::Maybe };
    };
    if !NAMES.contains(&key) {
        return if strict && !known().any(|k| *k == key) { Tri::No } else { Tri::Yes };
    }
    let rest = rest.trim_start();
    let Some(rest) = rest.strip_prefix(':').map(str::trim_start) else { return maybe(rest) };
    match rest.strip_prefix('"') {
        Some(name) => tools.begin(|known| Tri::begins(name, &format!("{known}\""))),
        None => maybe(rest),
    }
}
