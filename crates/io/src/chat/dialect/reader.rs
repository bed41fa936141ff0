//! An answer while it is written: text, thoughts, calls.

use super::{
    Call, Dialect, Family, Piece, Tool, Tools,
    block::{Block, Step, Tag},
    harmony::Harmony,
    json::Tri,
};

/// Spaces before a marker that are held back until it is known whether they belong to it, in bytes.
const SPACES: usize = 64;

/// Splits an answer into [`Piece`]s while it is written. What is certain is handed on at once; only what may be a
/// marker or a call is held back. Nothing is lost: the pieces' texts, joined, are what the model wrote
/// ([`Piece::written`]). Time is linear in the text, however it is cut.
#[derive(Debug)]
pub struct Reader {
    machine: Machine,
    held: String,
    /// How much of `held` is done with.
    at: usize,
}

#[derive(Debug)]
enum Machine {
    Tags(Box<Tags>),
    Harmony(Harmony),
}

impl Reader {
    /// A reader of one answer. `tools` are those offered; without any, calls are plain text. `prompt_end` is the
    /// rendered prompt, or its last few hundred bytes: a template may begin the thought, or end it, itself.
    pub fn new(dialect: &Dialect, tools: &[Tool], prompt_end: &str) -> Reader {
        let tools = Tools(tools.to_vec());
        let machine = match dialect.family {
            Family::Harmony => Machine::Harmony(Harmony::new(tools, prompt_end)),
            _ => Machine::Tags(Box::new(Tags::new(dialect, tools, prompt_end))),
        };
        Reader { machine, held: String::new(), at: 0 }
    }

    /// Takes the next text, and gives what is certain by now.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        self.held.push_str(text);
        self.run(false)
    }

    /// The answer is over: gives what was held back. Calls that are whole count though their end marker is missing.
    pub fn finish(mut self) -> Vec<Piece> {
        self.run(true)
    }

    /// Whether the answer is within a thought now.
    pub fn in_thought(&self) -> bool {
        match &self.machine {
            Machine::Tags(tags) => matches!(tags.mode, Mode::Thought(_)),
            Machine::Harmony(harmony) => harmony.in_thought(),
        }
    }

    fn run(&mut self, end: bool) -> Vec<Piece> {
        let mut out = Vec::new();
        loop {
            let rest = &self.held[self.at..];
            let taken = match &mut self.machine {
                Machine::Tags(tags) => tags.step(rest, end, &mut out),
                Machine::Harmony(harmony) => harmony.step(rest, end, &mut out),
            };
            let Some(taken) = taken else { break };
            self.at += taken;
        }
        self.held.drain(..self.at);
        self.at = 0;
        out
    }
}

/// Adds text to the pieces, to the last one if it is of its kind.
pub(super) fn emit(out: &mut Vec<Piece>, kind: fn(String) -> Piece, text: &str) {
    if text.is_empty() {
        return;
    }
    let new = kind(text.into());
    match (out.last_mut(), &new) {
        (Some(Piece::Text(last)), Piece::Text(_))
        | (Some(Piece::Thought(last)), Piece::Thought(_))
        | (Some(Piece::Mark(last)), Piece::Mark(_)) => last.push_str(text),
        _ => out.push(new),
    }
}

/// The length of a text without the spaces at its end that are to be held back.
pub(super) fn unspaced(text: &str) -> usize {
    let end = text.trim_end_matches([' ', '\n', '\r', '\t']).len();
    end.max(text.len().saturating_sub(SPACES))
}

fn spaces(text: &str) -> usize {
    text.len() - text.trim_start_matches([' ', '\n', '\r', '\t']).len()
}

/// Families whose calls and thoughts stand between markers.
#[derive(Debug)]
struct Tags {
    tools: Tools,
    tags: &'static [Tag],
    marks: &'static [&'static str],
    thought: (&'static str, &'static str),
    /// The bytes that markers begin with.
    first: [bool; 256],
    mode: Mode,
    /// Whether text was said since the beginning, or the last thought or call.
    said: bool,
    /// Whether spaces that come next belong to a marker.
    strip: bool,
    /// Whether the thought has just begun, so that its marker may come once more.
    fresh: bool,
    /// Whether calls may come without a marker.
    bare: bool,
    /// Whether the text is at the beginning of a line.
    line: bool,
}

#[derive(Debug)]
enum Mode {
    Text,
    Thought(&'static str),
    /// What may be calls, from the spaces before it on.
    Block(Box<Block>),
}

/// What is found in running text.
enum Hit {
    None,
    Thought,
    Mark(usize),
    Block(Box<Block>),
}

/// How calls without a marker begin.
const BARE: [&str; 4] = ["{", "[", "```", "<function="];

impl Tags {
    fn new(dialect: &Dialect, tools: Tools, prompt_end: &str) -> Tags {
        let (tags, marks) = (dialect.family.tags(), dialect.family.marks());
        let (begin, end) = dialect.thought;
        let inside = prompt_end.trim_end().ends_with(begin.trim_end());
        let mode = if inside { Mode::Thought(end) } else { Mode::Text };
        let bare = !tools.0.is_empty();
        let mut first = [false; 256];
        let offered = tags.iter().map(|(open, _)| *open).chain(BARE).filter(|_| bare);
        for marker in offered.chain(marks.iter().copied()).chain([begin]) {
            first[marker.as_bytes()[0] as usize] = true;
        }
        let thought = dialect.thought;
        Tags {
            tools,
            tags,
            marks,
            thought,
            first,
            mode,
            said: false,
            strip: inside,
            fresh: inside,
            bare,
            line: true,
        }
    }

    /// Takes some of the text; `None` if more is needed.
    fn step(&mut self, text: &str, end: bool, out: &mut Vec<Piece>) -> Option<usize> {
        if self.strip {
            let n = spaces(text);
            self.strip = n == text.len();
            emit(out, Piece::Mark, &text[..n]);
            if n > 0 {
                return Some(n);
            }
        }
        if text.is_empty() {
            return None;
        }
        match &mut self.mode {
            Mode::Text => self.text(text, end, out),
            Mode::Thought(marker) => {
                let marker = *marker;
                self.thought(text, marker, end, out)
            }
            Mode::Block(block) => match block.step(text, end, &self.tools) {
                Step::More => None,
                Step::Text { end, soft } => {
                    self.bare &= soft || block.explicit();
                    // At least what made it a candidate.
                    let end = end.max(block.start());
                    self.mode = Mode::Text;
                    self.say(&text[..end], out);
                    Some(end)
                }
                Step::Calls { end, found } => {
                    let mut raw = &text[..end];
                    for found in found {
                        out.push(Piece::Call(Call::new(found, std::mem::take(&mut raw))));
                    }
                    self.mode = Mode::Text;
                    (self.said, self.strip, self.line) = (false, true, true);
                    Some(end)
                }
            },
        }
    }

    /// Hands on text.
    fn say(&mut self, text: &str, out: &mut Vec<Piece>) {
        emit(out, Piece::Text, text);
        self.said |= !text.trim_matches([' ', '\n', '\r', '\t']).is_empty();
        self.line = self.begins_line(text);
    }

    /// Whether what follows this text is the first of its line but for spaces.
    fn begins_line(&self, text: &str) -> bool {
        let text = text.trim_end_matches([' ', '\t']);
        if text.is_empty() { self.line } else { text.ends_with(['\n', '\r']) }
    }

    fn text(&mut self, text: &str, end: bool, out: &mut Vec<Piece>) -> Option<usize> {
        let (at, hit) = self.search(text, end);
        // Spaces before a marker belong to it; without markers there is nothing to hold back.
        let held = match hit {
            Hit::None if end => text.len(),
            Hit::None if self.said && self.tools.0.is_empty() && self.marks.is_empty() => at,
            _ => unspaced(&text[..at]),
        };
        self.say(&text[..held], out);
        match hit {
            Hit::None => return (held > 0).then_some(held),
            Hit::Thought => {
                let marker = at + self.thought.0.len();
                emit(out, Piece::Mark, &text[held..marker]);
                self.mode = Mode::Thought(self.thought.1);
                (self.strip, self.fresh) = (true, false);
                return Some(marker);
            }
            Hit::Mark(len) => {
                emit(out, Piece::Mark, &text[held..at + len]);
                return Some(at + len);
            }
            Hit::Block(block) => self.mode = Mode::Block(Box::new(block.moved(held))),
        }
        Some(held)
    }

    /// The first marker in running text; or how far the text is certain.
    fn search(&self, text: &str, end: bool) -> (usize, Hit) {
        let bytes = text.as_bytes();
        let begin = spaces(text);
        let mut at = 0;
        loop {
            let Some(skip) = bytes[at..].iter().position(|&b| self.first[b as usize]) else {
                return (text.len(), Hit::None);
            };
            at += skip;
            let rest = &text[at..];
            let mut maybe = false;
            let mut begins = |with: &str| {
                let tri = Tri::begins(rest, with);
                maybe |= tri == Tri::Maybe;
                tri == Tri::Yes
            };
            if !self.said && begin == at && begins(self.thought.0) {
                return (at, Hit::Thought);
            }
            if let Some(mark) = self.marks.iter().find(|mark| begins(mark)) {
                return (at, Hit::Mark(mark.len()));
            }
            let offered = !self.tools.0.is_empty();
            if let Some((open, close)) = self.tags.iter().filter(|_| offered).find(|(open, _)| begins(open)) {
                return (at, Hit::Block(Box::new(Block::tagged(at + open.len(), close, self.tags))));
            }
            // A bracket alone may become a marker.
            if maybe && !end {
                return (at, Hit::None);
            }
            if self.bare && self.begins_line(&text[..at]) {
                match Tri::any(BARE.map(|open| Tri::begins(rest, open))) {
                    Tri::Yes => return (at, Hit::Block(Box::new(Block::bare(at, self.tags)))),
                    Tri::Maybe if !end => return (at, Hit::None),
                    _ => {}
                }
            }
            at += 1;
        }
    }

    fn thought(&mut self, text: &str, marker: &str, end: bool, out: &mut Vec<Piece>) -> Option<usize> {
        if std::mem::take(&mut self.fresh) {
            match Tri::begins(text, self.thought.0) {
                Tri::Yes => {
                    let len = self.thought.0.len();
                    emit(out, Piece::Mark, &text[..len]);
                    self.strip = true;
                    return Some(len);
                }
                Tri::Maybe if !end => {
                    self.fresh = true;
                    return None;
                }
                _ => {}
            }
        }
        let (at, found) = seek(text, marker, end);
        let held = if end && !found { text.len() } else { unspaced(&text[..at]) };
        emit(out, Piece::Thought, &text[..held]);
        if found {
            emit(out, Piece::Mark, &text[held..at + marker.len()]);
            self.mode = Mode::Text;
            (self.strip, self.line) = (true, true);
            return Some(at + marker.len());
        }
        (held > 0).then_some(held)
    }
}

/// Where a marker stands in a text; or where it may begin, at the text's end.
pub(super) fn seek(text: &str, marker: &str, end: bool) -> (usize, bool) {
    if let Some(at) = text.find(marker) {
        return (at, true);
    }
    let from = text.len().saturating_sub(marker.len() - 1);
    let partial = |at: &usize| text.is_char_boundary(*at) && marker.starts_with(&text[*at..]);
    ((from..text.len()).find(partial).filter(|_| !end).unwrap_or(text.len()), false)
}
