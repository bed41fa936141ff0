//! OpenAI's harmony format: messages with headers that name a channel and a recipient
//! (github.com/openai/harmony, docs/format.md).

use super::{
    Call, Found, Piece, Tools,
    json::{self, Scan, Seen},
    reader::emit,
};

/// Longest header, in bytes.
const HEADER: usize = 512;

/// Spaces between a call and its end marker, at most.
const SPACES: usize = 64;

const START: &str = "<|start|>";
const CHANNEL: &str = "<|channel|>";
const MESSAGE: &str = "<|message|>";

/// What ends a message: its own markers, or the next message's.
const ENDS: [&str; 5] = ["<|end|>", "<|return|>", "<|call|>", START, CHANNEL];

#[derive(Debug)]
pub(super) struct Harmony {
    tools: Tools,
    mode: Mode,
}

#[derive(Debug)]
enum Mode {
    /// Before a header. `true` while the role's own header, which the prompt began, goes on.
    Between(bool),
    /// A message for people, or a thought.
    Body(bool),
    /// A call of this name, whose arguments begin here.
    Call(String, usize, Scan, usize),
    /// A call whose arguments are whole, from and to here.
    Whole(String, usize, usize),
}

/// What a header says.
struct Header<'a> {
    channel: &'a str,
    to: Option<&'a str>,
}

impl<'a> Header<'a> {
    /// `<|start|>assistant to=functions.f<|channel|>commentary json`: either part may name the recipient.
    fn parse(text: &'a str) -> Header<'a> {
        let word = |s: &'a str| s.split(|c: char| c.is_whitespace() || c == '<').next().unwrap_or_default();
        Header {
            channel: text.rsplit_once(CHANNEL).map_or("", |(_, rest)| word(rest.trim_start())),
            to: text.split_once("to=").map(|(_, rest)| word(rest)),
        }
    }

    fn is_thought(&self) -> bool {
        self.channel == "analysis"
    }
}

impl Harmony {
    pub(super) fn new(tools: Tools, prompt_end: &str) -> Harmony {
        let open = prompt_end.rfind(START).map_or("", |at| &prompt_end[at..]);
        let mode = match open.split_once(MESSAGE) {
            Some((header, body)) if !ENDS.iter().any(|e| body.contains(e)) => {
                Mode::Body(Header::parse(header).is_thought())
            }
            _ => Mode::Between(true),
        };
        Harmony { tools, mode }
    }

    pub(super) fn in_thought(&self) -> bool {
        matches!(self.mode, Mode::Body(true))
    }

    pub(super) fn step(&mut self, text: &str, end: bool, out: &mut Vec<Piece>) -> Option<usize> {
        if text.is_empty() {
            return None;
        }
        match &mut self.mode {
            Mode::Between(first) => {
                let first = *first;
                self.between(text, first, end, out)
            }
            Mode::Body(thought) => {
                let kind = if *thought { Piece::Thought } else { Piece::Text };
                let (at, found) = first_of(text, &ENDS, end);
                emit(out, kind, &text[..at]);
                if let Some(marker) = found {
                    let len = own(marker);
                    emit(out, Piece::Mark, &text[at..at + len]);
                    self.mode = Mode::Between(false);
                    // The next header's own marker stays: some progress is made by the change of mode.
                    return Some(at + len);
                }
                (at > 0).then_some(at)
            }
            Mode::Call(name, from, scan, at) => {
                let at = match scan.run(text, at) {
                    Seen::More if !end => return None,
                    Seen::More => text.len(),
                    Seen::Bad(at) => at,
                    Seen::End(end) => {
                        self.mode = Mode::Whole(std::mem::take(name), *from, end);
                        return Some(0);
                    }
                };
                self.broken(text, at, out)
            }
            Mode::Whole(name, from, whole) => {
                let (whole, rest) = (*whole, text[*whole..].trim_start());
                let near = text.len() - rest.len() - whole <= SPACES;
                let marker = ENDS.iter().find(|e| near && rest.starts_with(**e)).copied();
                if near && marker.is_none() && !end && ENDS.iter().any(|e| e.starts_with(rest)) {
                    return None;
                }
                let Some(arguments) = json::arguments(&json::clean(&text[*from..whole])) else {
                    return self.broken(text, whole, out);
                };
                let found = Found { name: std::mem::take(name), arguments, id: None };
                let taken = match marker {
                    Some(marker) => text.len() - rest.len() + own(marker),
                    None => whole,
                };
                out.push(Piece::Call(Call::new(found, &text[..taken])));
                self.mode = Mode::Between(false);
                Some(taken)
            }
        }
    }

    /// What was taken for a call is text, as far as `at`, and so is what follows in that message.
    fn broken(&mut self, text: &str, at: usize, out: &mut Vec<Piece>) -> Option<usize> {
        emit(out, Piece::Text, &text[..at]);
        self.mode = Mode::Body(false);
        Some(at)
    }

    fn between(&mut self, text: &str, first: bool, end: bool, out: &mut Vec<Piece>) -> Option<usize> {
        let start = text.trim_start();
        if start.len() < text.len() {
            let spaces = text.len() - start.len();
            emit(out, Piece::Mark, &text[..spaces]);
            return Some(spaces);
        }
        // After `<|start|>assistant` in the prompt, the recipient may come before the channel.
        if first && !end && text.len() < 3 && "to=".starts_with(text) {
            return None;
        }
        let (at, found) = match first && text.starts_with("to=") {
            true => (0, Some(CHANNEL)),
            false => first_of(text, &[START, CHANNEL, MESSAGE, "<|end|>", "<|return|>", "<|call|>"], end),
        };
        if at > 0 {
            emit(out, Piece::Text, &text[..at]);
            self.mode = Mode::Body(false);
            return Some(at);
        }
        let marker = found?;
        if own(marker) > 0 {
            emit(out, Piece::Mark, marker);
            return Some(marker.len());
        }
        let window = &text[..text.floor_char_boundary(HEADER)];
        let Some(len) = window.find(MESSAGE) else {
            // No header: what stands there is text.
            if end || text.len() >= HEADER {
                let n = text.chars().next().map_or(0, char::len_utf8);
                emit(out, Piece::Text, &text[..n]);
                self.mode = Mode::Body(false);
                return Some(n);
            }
            return None;
        };
        let (header, body) = (Header::parse(&text[..len]), len + MESSAGE.len());
        let name = header.to.and_then(|to| self.tools.known(to)).map(String::from);
        match (name, header.to) {
            (Some(name), _) => {
                self.mode = Mode::Call(name, body, Scan::default(), body);
                return Some(0);
            }
            // A call of what was not offered is text, as it stands.
            (None, Some(to)) if to != "user" && to != "all" && !header.is_thought() => {
                emit(out, Piece::Text, &text[..body]);
                self.mode = Mode::Body(false);
            }
            _ => {
                emit(out, Piece::Mark, &text[..body]);
                self.mode = Mode::Body(header.is_thought());
            }
        }
        Some(body)
    }
}

/// The length of a marker that belongs to the message it ends; the others begin the next one.
fn own(marker: &str) -> usize {
    if matches!(marker, START | CHANNEL | MESSAGE) { 0 } else { marker.len() }
}

/// The first of several markers in a text, and where; or where one may begin, at the text's end.
fn first_of<'m>(text: &str, markers: &[&'m str], end: bool) -> (usize, Option<&'m str>) {
    for (at, _) in text.match_indices('<') {
        let rest = &text[at..];
        if let Some(marker) = markers.iter().find(|m| rest.starts_with(**m)) {
            return (at, Some(marker));
        }
        if !end && markers.iter().any(|m| m.starts_with(rest)) {
            return (at, None);
        }
    }
    (text.len(), None)
}
