//! Values that are nearly JSON: Python's literals, and those of Gemma's calls. All become JSON.

use super::{Found, Tools, json::Seen};
use serde_json::{Map, Number, Value};

const DEPTH: usize = 64;

/// Strings of Gemma's calls stand between these instead of quotes.
const QUOTES: [&str; 2] = ["<escape>", "<|\"|>"];

/// Reads values from the front of a text.
pub(super) struct Literal<'a> {
    rest: &'a str,
    /// Whether words without quotes are texts, as in Gemma's calls.
    words: bool,
}

impl<'a> Literal<'a> {
    pub(super) fn new(text: &'a str, words: bool) -> Literal<'a> {
        Literal { rest: text.trim_start(), words }
    }

    fn eat(&mut self, what: &str) -> bool {
        let found = self.rest.strip_prefix(what);
        if let Some(rest) = found {
            self.rest = rest.trim_start();
        }
        found.is_some()
    }

    pub(super) fn at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// One value.
    pub(super) fn value(&mut self) -> Option<Value> {
        self.nested(DEPTH)
    }

    fn nested(&mut self, depth: usize) -> Option<Value> {
        if depth == 0 {
            return None;
        }
        if self.eat("{") {
            return self.members("}", ":", depth).map(Value::Object);
        }
        for (open, close) in [("[", "]"), ("(", ")")] {
            if self.eat(open) {
                let mut items = Vec::new();
                while !self.eat(close) {
                    items.push(self.nested(depth - 1)?);
                    if !self.eat(",") && !self.rest.starts_with(close) {
                        return None;
                    }
                }
                return Some(Value::Array(items));
            }
        }
        match self.text() {
            Some(text) => text.map(Value::String),
            None => self.word(),
        }
    }

    /// Keys and values up to `close`. Keys may lack quotes.
    pub(super) fn members(&mut self, close: &str, between: &str, depth: usize) -> Option<Map<String, Value>> {
        let mut map = Map::new();
        while !self.eat(close) {
            let key = match self.text() {
                Some(text) => text?,
                None => self.name()?.to_string(),
            };
            if !self.eat(between) {
                return None;
            }
            map.insert(key, self.nested(depth - 1)?);
            if !self.eat(",") && !self.rest.starts_with(close) {
                return None;
            }
        }
        Some(map)
    }

    fn name(&mut self) -> Option<&'a str> {
        let end =
            self.rest.find(|c: char| !(c.is_alphanumeric() || "_-.$".contains(c))).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest.trim_start();
        (!name.is_empty()).then_some(name)
    }

    /// A quoted text; the outer `None` if there is none, the inner if it does not end.
    #[allow(clippy::option_option)]
    fn text(&mut self) -> Option<Option<String>> {
        for quote in QUOTES {
            if let Some(rest) = self.rest.strip_prefix(quote) {
                let (text, rest) =
                    rest.split_once(quote).map_or((None, ""), |(text, rest)| (Some(text), rest));
                self.rest = rest.trim_start();
                return Some(text.map(String::from));
            }
        }
        let quote = self.rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        Some(self.quoted(quote))
    }

    /// A string as Python and JSON escape it; `\uD83D\uDE00` is one character.
    fn quoted(&mut self, quote: char) -> Option<String> {
        let mut out = String::new();
        let mut chars = self.rest[1..].chars();
        let mut high: Option<u32> = None;
        loop {
            let c = chars.next()?;
            if c == quote {
                break;
            }
            if c != '\\' {
                out.push(c);
                continue;
            }
            let c = chars.next()?;
            let digits = match c {
                'n' => {
                    out.push('\n');
                    continue;
                }
                't' => {
                    out.push('\t');
                    continue;
                }
                'r' => {
                    out.push('\r');
                    continue;
                }
                'b' => {
                    out.push('\u{8}');
                    continue;
                }
                'f' => {
                    out.push('\u{c}');
                    continue;
                }
                'x' => 2,
                'u' => 4,
                '\\' | '\'' | '"' | '/' => {
                    out.push(c);
                    continue;
                }
                '\n' => continue,
                _ => {
                    out.extend(['\\', c]);
                    continue;
                }
            };
            let code = u32::from_str_radix(chars.as_str().get(..digits)?, 16).ok()?;
            chars = chars.as_str()[digits..].chars();
            match (high.take(), code) {
                (None, 0xd800..=0xdbff) if chars.as_str().starts_with("\\u") => high = Some(code),
                (Some(high), 0xdc00..=0xdfff) => {
                    out.push(char::from_u32(0x10000 + ((high - 0xd800) << 10) + (code - 0xdc00))?);
                }
                (_, code) => out.push(char::from_u32(code).unwrap_or('\u{fffd}')),
            }
        }
        self.rest = chars.as_str().trim_start();
        Some(out)
    }

    fn word(&mut self) -> Option<Value> {
        let end = self.rest.find([',', '}', ']', ')', ':', '=']).unwrap_or(self.rest.len());
        let end = if self.words { self.rest.find([',', '}', ']']).unwrap_or(self.rest.len()) } else { end };
        let (word, rest) = self.rest.split_at(end);
        let value = match word.trim_end() {
            "" => return None,
            "true" | "True" => Value::Bool(true),
            "false" | "False" => Value::Bool(false),
            "null" | "None" => Value::Null,
            word => match serde_json::from_str::<Number>(word) {
                Ok(number) => Value::Number(number),
                Err(_) if self.words => Value::String(word.into()),
                Err(_) => return None,
            },
        };
        self.rest = rest;
        Some(value)
    }

    /// A call as Python writes it: `name(key=value, …)`; also within `print(…)`.
    fn call(&mut self, tools: &Tools, depth: usize) -> Option<Found> {
        let name = self.name()?;
        if !self.eat("(") {
            return None;
        }
        if name == "print" && tools.known(name).is_none() && depth > 0 {
            let found = self.call(tools, depth - 1);
            return found.filter(|_| self.eat(")"));
        }
        let name = tools.known(name)?;
        let arguments = Value::Object(self.members(")", "=", DEPTH)?).to_string();
        Some(Found { name: name.into(), arguments, id: None })
    }
}

/// The calls of `[a(x=1), b()]` or `a(x=1)`.
pub(super) fn python(text: &str, tools: &Tools) -> Option<Vec<Found>> {
    let mut literal = Literal::new(text, false);
    let list = literal.eat("[");
    let mut found = vec![literal.call(tools, 1)?];
    while list && literal.eat(",") && !literal.rest.starts_with(']') {
        found.push(literal.call(tools, 1)?);
    }
    ((!list || literal.eat("]")) && literal.at_end()).then_some(found)
}

/// The arguments of Gemma's calls, `{key:value,…}`.
pub(super) fn braces(text: &str) -> Option<String> {
    let mut literal = Literal::new(text, true);
    let value = literal.value().filter(|value| value.is_object() && literal.at_end())?;
    Some(value.to_string())
}

/// Finds the end of brackets as Python writes them, and goes on where it stopped.
#[derive(Debug, Default)]
pub(super) struct Brackets {
    depth: usize,
    quote: Option<u8>,
    escaped: bool,
}

impl Brackets {
    pub(super) fn run(&mut self, text: &str, at: &mut usize) -> Seen {
        while let Some(&b) = text.as_bytes().get(*at) {
            match (self.quote, b) {
                (Some(_), _) if self.escaped => self.escaped = false,
                (Some(_), b'\\') => self.escaped = true,
                (Some(quote), _) => self.quote = Some(quote).filter(|&quote| quote != b),
                (None, b'"' | b'\'') => self.quote = Some(b),
                (None, b'(' | b'[' | b'{') => self.depth += 1,
                (None, b')' | b']' | b'}') if self.depth == 0 => return Seen::Bad(*at),
                (None, b')' | b']' | b'}') => self.depth -= 1,
                (None, b'\n') if self.depth == 0 => return Seen::Bad(*at),
                _ => {}
            }
            *at += 1;
            if self.depth == 0 && matches!(b, b')' | b']' | b'}') {
                return Seen::End(*at);
            }
        }
        Seen::More
    }
}
