//! A stretch of text that may be calls, read while it comes: what stands after a marker, in a fence, or alone.
//!
//! Bodies are told apart by how they begin, whatever the family, because models borrow each other's forms. A block
//! remembers how far it came, so that its time is that of its length; each limit below is a stretch that may be read
//! again.

mod xml;

use super::{
    Found, Tools,
    json::{self, Scan, Seen, Tri},
    literal::{self, Brackets},
};
use serde_json::{Map, Value};

/// Longest name of a function, a parameter or an id that is looked for, in bytes.
const NAME: usize = 128;

/// A call with markers of its own within a block's: what begins it, stands before the arguments, and ends it.
#[derive(Debug, PartialEq)]
struct Section {
    begin: &'static str,
    between: &'static str,
    end: &'static str,
}

/// DeepSeek's (V3 and R1 put `function` before the marker, the name after it and the arguments into a fence; V3.1 has
/// the name before it) and Kimi K2's.
const SECTIONS: [Section; 2] = [
    Section {
        begin: "<｜tool▁call▁begin｜>", between: "<｜tool▁sep｜>", end: "<｜tool▁call▁end｜>"
    },
    Section {
        begin: "<|tool_call_begin|>",
        between: "<|tool_call_argument_begin|>",
        end: "<|tool_call_end|>",
    },
];

/// Languages of a fence that may hold calls.
const FENCES: [&str; 6] = ["", "json", "tool_code", "tool_call", "xml", "python"];

/// A marker that begins calls, and the one that ends them, if any.
pub(super) type Tag = (&'static str, &'static str);

/// A stretch of text that may be calls.
#[derive(Debug)]
pub(super) struct Block {
    /// Read so far.
    at: usize,
    /// The end of what is certain.
    good: usize,
    /// The end of what made it a candidate.
    start: usize,
    /// Whether a marker began it.
    explicit: bool,
    tags: &'static [Tag],
    close: &'static str,
    /// What ends the call within the block.
    inner: &'static str,
    fence: bool,
    stage: Stage,
    found: Vec<Found>,
}

#[derive(Debug)]
enum Stage {
    /// Before a body.
    Open,
    /// JSON that has yet to look like a call, from here.
    Head(usize),
    /// JSON from here: calls, or the arguments of the call with this name and id.
    Json(Scan, usize, Option<(String, Option<String>)>),
    /// Python's calls, from here.
    Python(Option<Brackets>, usize),
    /// A name that arguments follow, from here.
    Name(usize),
    /// The head of a section, from here.
    Section(usize, &'static Section),
    /// The parameters of a function in XML.
    Xml(String, Map<String, Value>),
    /// The value of a parameter: its key, where it begins, how far its end was looked for, and what that is.
    Parameter(String, Map<String, Value>, String, usize, usize, &'static str),
    /// The arguments of Gemma's call of this name, from here, and how far their end was looked for.
    Gemma(String, usize, usize),
    /// After a call; whether a comma or semicolon was read.
    After(bool),
}

/// Why reading stops.
enum Stop {
    More,
    Bad(usize),
    Done,
}

/// What a block says of the text so far.
pub(super) enum Step {
    More,
    /// It is no call, and up to here it is text. `soft`: not even the beginning of one.
    Text {
        end: usize,
        soft: bool,
    },
    /// Calls, which end here.
    Calls {
        end: usize,
        found: Vec<Found>,
    },
}

/// What is read, and whether it is all.
#[derive(Clone, Copy)]
struct Input<'a> {
    text: &'a str,
    end: bool,
    tools: &'a Tools,
}

impl<'a> Input<'a> {
    /// Whether a text begins with another; `Err` if more text is needed to say so.
    fn begins(&self, text: &str, with: &str) -> Result<bool, Stop> {
        match Tri::begins(text, with) {
            Tri::Maybe if !self.end && !with.is_empty() => Err(Stop::More),
            tri => Ok(tri == Tri::Yes && !with.is_empty()),
        }
    }

    fn any(&self, text: &str, with: &[&str]) -> Result<bool, Stop> {
        match Tri::any(with.iter().filter(|w| !w.is_empty()).map(|w| Tri::begins(text, w))) {
            Tri::Maybe if !self.end => Err(Stop::More),
            tri => Ok(tri == Tri::Yes),
        }
    }

    /// The text from `from` to a marker near it, and the place after that.
    fn until(&self, from: usize, marker: &str) -> Result<(&'a str, usize), Stop> {
        let rest = &self.text[from..];
        match rest[..rest.floor_char_boundary(2 * NAME)].find(marker) {
            Some(at) => Ok((&rest[..at], from + at + marker.len())),
            None if rest.len() >= 2 * NAME => Err(Stop::Bad(from)),
            None => Err(Stop::More),
        }
    }

    /// The name that begins at `from`, and what follows it and spaces. `prefix`: what the name may go on as.
    fn name(&self, from: usize, extra: &[&str]) -> Result<(&'a str, &'a str), Stop> {
        let rest = &self.text[from..];
        let window = &rest[..rest.floor_char_boundary(NAME)];
        let Some(end) = window.find(|c: char| !(c.is_alphanumeric() || "_-.:/".contains(c))) else {
            let open = self.tools.begin(|known| Tri::begins(window, known)) != Tri::No
                || extra.iter().any(|e| e.starts_with(window));
            return Err(if rest.len() < NAME && open { Stop::More } else { Stop::Bad(from) });
        };
        let after = rest[end..].trim_start();
        if after.is_empty() {
            return Err(Stop::More);
        }
        Ok((&rest[..end], after))
    }

    /// The place after spaces.
    fn skip(&self, at: usize) -> usize {
        self.text.len() - self.text[at..].trim_start_matches([' ', '\n', '\r', '\t']).len()
    }
}

impl Block {
    /// A block after a marker that ends at `at`.
    pub(super) fn tagged(at: usize, close: &'static str, tags: &'static [Tag]) -> Block {
        Block { explicit: true, close, start: at, ..Block::bare(at, tags) }
    }

    /// A block without a marker, from `at`.
    pub(super) fn bare(at: usize, tags: &'static [Tag]) -> Block {
        let (close, inner) = ("", "");
        let found = Vec::new();
        Block {
            at,
            good: at,
            start: at + 1,
            explicit: false,
            tags,
            close,
            inner,
            fence: false,
            stage: Stage::Open,
            found,
        }
    }

    /// The block, when this much of the text before it is gone.
    pub(super) fn moved(self, by: usize) -> Block {
        Block { at: self.at - by, good: self.good - by, start: self.start - by, ..self }
    }

    /// The end of what made it a candidate: its marker, or the first character.
    pub(super) fn start(&self) -> usize {
        self.start
    }

    /// Whether a marker began it, or stood within its fence.
    pub(super) fn explicit(&self) -> bool {
        self.explicit
    }

    /// Goes on reading. `end`: there is no more text.
    pub(super) fn step(&mut self, text: &str, end: bool, tools: &Tools) -> Step {
        let input = Input { text, end, tools };
        loop {
            let soft = matches!(self.stage, Stage::Open | Stage::Python(None, _));
            let stop = match self.advance(input) {
                Ok(()) => continue,
                Err(stop) => stop,
            };
            return match stop {
                Stop::More if !end => Step::More,
                _ if !self.found.is_empty() => {
                    Step::Calls { end: self.good, found: std::mem::take(&mut self.found) }
                }
                Stop::Bad(end) => Step::Text { end, soft },
                Stop::More | Stop::Done => Step::Text { end: text.len(), soft: false },
            };
        }
    }

    fn advance(&mut self, input: Input) -> Result<(), Stop> {
        let Input { text, tools, .. } = input;
        match &mut self.stage {
            Stage::Open => self.open(input),
            Stage::Head(from) => match json::plausible(&text[*from..], tools, !self.explicit) {
                Tri::Maybe => Err(Stop::More),
                Tri::No => Err(Stop::Bad(*from + 1)),
                Tri::Yes => {
                    self.at = *from;
                    self.stage = Stage::Json(Scan::default(), *from, None);
                    Ok(())
                }
            },
            Stage::Json(scan, from, named) => match scan.run(text, &mut self.at) {
                Seen::More => Err(Stop::More),
                Seen::Bad(at) => Err(Stop::Bad(at)),
                Seen::End(end) => {
                    let json = &text[*from..end];
                    let found = match named.take() {
                        Some((name, id)) => json::arguments(&json::clean(json))
                            .map(|arguments| vec![Found { name, arguments, id }]),
                        None => json::calls(json, tools, !self.explicit),
                    };
                    self.add(found, end)
                }
            },
            Stage::Python(scan, from) => {
                if scan.is_none() {
                    let mut at = *from;
                    if text[at..].starts_with('[') {
                        at = input.skip(at + 1);
                    }
                    let (name, after) = input.name(at, &["print"])?;
                    if !after.starts_with('(') || tools.known(name).is_none() && name != "print" {
                        return Err(Stop::Bad(at));
                    }
                    self.at = *from;
                }
                match scan.get_or_insert_default().run(text, &mut self.at) {
                    Seen::More => Err(Stop::More),
                    Seen::Bad(at) => Err(Stop::Bad(at)),
                    Seen::End(end) => {
                        // A call without brackets around it ends with its own parenthesis.
                        let found = literal::python(&text[*from..end], tools);
                        self.add(found, end)
                    }
                }
            }
            Stage::Name(from) => {
                let from = *from;
                self.named(input, from)
            }
            Stage::Section(from, section) => {
                let (from, section) = (*from, *section);
                self.section(input, from, section)
            }
            Stage::Xml(..) => self.xml(input),
            Stage::Parameter(..) => self.parameter(input),
            Stage::Gemma(name, from, seek) => {
                let (end, next) = match text[*seek..].find(self.close) {
                    Some(at) => (*seek + at, *seek + at + self.close.len()),
                    None if input.end => (text.len(), text.len()),
                    None => {
                        *seek = (*seek)
                            .max(text.floor_char_boundary(text.len().saturating_sub(self.close.len())));
                        return Err(Stop::More);
                    }
                };
                let found = literal::braces(&text[*from..end]);
                let name = std::mem::take(name);
                self.add(found.map(|arguments| vec![Found { name, arguments, id: None }]), next)?;
                Err(Stop::Done)
            }
            Stage::After(comma) => {
                let comma = *comma;
                self.after(input, comma)
            }
        }
    }

    /// Takes calls that end at `end`.
    fn add(&mut self, found: Option<Vec<Found>>, end: usize) -> Result<(), Stop> {
        self.found.extend(found.ok_or(Stop::Bad(end))?);
        (self.at, self.good, self.stage) = (end, end, Stage::After(false));
        Ok(())
    }

    fn open(&mut self, input: Input) -> Result<(), Stop> {
        self.at = input.skip(self.at);
        let (at, rest) = (self.at, &input.text[self.at..]);
        let Some(first) = rest.chars().next() else { return Err(Stop::More) };
        if !self.fence && input.begins(rest, "```")? {
            let word = &rest[3..rest.floor_char_boundary(24)];
            let end = word.find(|c: char| !(c.is_alphanumeric() || c == '_'));
            let language = &word[..end.unwrap_or(word.len())];
            if end.is_none() && rest.len() < 24 {
                return Err(Stop::More);
            }
            (self.at, self.fence) = (at + 3 + language.len(), true);
            return if FENCES.contains(&language) { Ok(()) } else { Err(Stop::Bad(self.at)) };
        }
        if self.fence && !self.explicit {
            for (open, close) in self.tags {
                if input.begins(rest, open)? {
                    (self.at, self.close, self.explicit) = (at + open.len(), close, true);
                    return Ok(());
                }
            }
        }
        if self.explicit {
            for section in &SECTIONS {
                if input.begins(rest, section.begin)? {
                    self.stage = Stage::Section(at + section.begin.len(), section);
                    return Ok(());
                }
            }
        }
        if input.begins(rest, "<function=")? {
            let (name, next) = input.until(at + 10, ">")?;
            let name = input.tools.known(name.trim().trim_matches('"')).ok_or(Stop::Bad(at + 10))?;
            (self.at, self.stage) = (next, Stage::Xml(name.into(), Map::new()));
            return Ok(());
        }
        if self.explicit && input.begins(rest, "call:")? {
            let (name, next) = input.until(at + 5, "{")?;
            let name = input.tools.known(name.trim()).ok_or(Stop::Bad(at + 5))?;
            self.stage = Stage::Gemma(name.into(), next - 1, next);
            return Ok(());
        }
        self.stage = match first {
            '{' => Stage::Head(at),
            '[' => match input.text[input.skip(at + 1)..].chars().next() {
                None => return Err(Stop::More),
                Some('{') => Stage::Head(at),
                Some(_) => Stage::Python(None, at),
            },
            c if (c.is_alphabetic() || c == '_') && (self.explicit || self.fence) => Stage::Name(at),
            _ => return Err(Stop::Bad(at)),
        };
        Ok(())
    }

    /// A name, and what tells how its arguments are given.
    fn named(&mut self, input: Input, from: usize) -> Result<(), Stop> {
        let (name, mut after) = input.name(from, &["print"])?;
        if after.starts_with('(') {
            self.stage = Stage::Python(None, from);
            return Ok(());
        }
        let name = input.tools.known(name).ok_or(Stop::Bad(from + name.len()))?.to_string();
        let place = |rest: &str| input.text.len() - rest.len();
        if input.begins(after, "<arg_key>")? {
            (self.at, self.stage) = (place(after), Stage::Xml(name, Map::new()));
            return Ok(());
        }
        if input.begins(after, self.close)? {
            let found = Found { name, arguments: "{}".into(), id: None };
            return self.add(Some(vec![found]), place(after));
        }
        let mut id = None;
        if input.begins(after, "[CALL_ID]")? {
            let (text, _) = input.until(place(after) + 9, "[")?;
            after = &input.text[place(after) + 9 + text.len()..];
            id = Some(text.trim().to_string());
        }
        if input.begins(after, "[ARGS]")? {
            after = after[6..].trim_start();
        }
        self.arguments(input, after, name, id)
    }

    /// Arguments in JSON for the call of this name.
    fn arguments(&mut self, input: Input, rest: &str, name: String, id: Option<String>) -> Result<(), Stop> {
        let at = input.text.len() - rest.len();
        if !input.begins(rest, "{")? {
            return Err(Stop::Bad(at));
        }
        (self.at, self.stage) = (at, Stage::Json(Scan::default(), at, Some((name, id))));
        Ok(())
    }

    fn section(&mut self, input: Input, from: usize, section: &'static Section) -> Result<(), Stop> {
        let (head, next) = input.until(from, section.between)?;
        let (mut name, mut id) = (head.trim(), None);
        let mut rest = &input.text[next..];
        if name == "function" && input.tools.known(name).is_none() {
            let window = &rest[..rest.floor_char_boundary(NAME)];
            let end = window.find(['\n', '{', '`']);
            let end = end.ok_or(if rest.len() < NAME { Stop::More } else { Stop::Bad(next) })?;
            name = rest[..end].trim();
            rest = &rest[end..];
        } else if let Some((function, _)) = name.rsplit_once(':') {
            // Kimi's `functions.name:0` is name and id at once.
            (name, id) = (function, Some(name.to_string()));
        }
        let name = input.tools.known(name).ok_or(Stop::Bad(next))?.to_string();
        rest = rest.trim_start();
        if input.begins(rest, "```")? {
            let (_, body) = input.until(input.text.len() - rest.len() + 3, "\n")?;
            rest = input.text[body..].trim_start();
            self.fence = true;
        }
        self.inner = section.end;
        self.arguments(input, rest, name, id)
    }

    fn after(&mut self, input: Input, comma: bool) -> Result<(), Stop> {
        self.at = input.skip(self.at);
        let (at, rest) = (self.at, &input.text[self.at..]);
        let Some(first) = rest.chars().next() else { return Err(Stop::More) };
        let ended = |this: &mut Block, marker: &str| {
            (this.at, this.good) = (at + marker.len(), at + marker.len());
        };
        if !comma {
            if self.fence && input.begins(rest, "```")? {
                self.fence = false;
                ended(self, "```");
                return Ok(());
            }
            if input.begins(rest, self.inner)? {
                ended(self, self.inner);
                self.inner = "";
                return Ok(());
            }
            if input.begins(rest, self.close)? {
                ended(self, self.close);
                self.close = "";
                // What comes now is another block, unless a fence is open.
                return if self.fence { Ok(()) } else { Err(Stop::Done) };
            }
            if matches!(first, ',' | ';') {
                (self.at, self.stage) = (at + 1, Stage::After(true));
                return Ok(());
            }
        }
        for section in &SECTIONS {
            if self.explicit && input.begins(rest, section.begin)? {
                self.stage = Stage::Section(at + section.begin.len(), section);
                return Ok(());
            }
        }
        let function = input.begins(rest, "<function=")?;
        let line = self.fence && (first.is_alphabetic() || first == '_');
        if !(function || line || first == '{') {
            return Err(Stop::Done);
        }
        self.stage = Stage::Open;
        Ok(())
    }
}
