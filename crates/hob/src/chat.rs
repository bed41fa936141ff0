//! The chat on a terminal: lines in, commands, answers streamed out. It knows nothing of models: an [`Answer`] does.

use std::fs;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::interrupt::Catch;
use crate::terminal;

/// Who says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// What holds for the whole conversation.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// The name in chat templates.
    pub fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        }
    }
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Whose it is.
    pub role: Role,
    /// Its text.
    pub text: String,
}

/// What an answer took; `hob run --json` prints it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// The answer.
    pub text: String,
    /// Tokens of the prompt, template included.
    pub prompt_tokens: usize,
    /// Those of the prompt that were still there from what was said before.
    pub cached_tokens: usize,
    /// Tokens generated.
    pub tokens: usize,
    /// Milliseconds from the question to the first token.
    pub ttft_ms: f64,
    /// Prompt tokens per second.
    pub prompt_tps: f64,
    /// Generated tokens per second, after the first.
    pub tps: f64,
    /// Milliseconds to load the model.
    pub load_ms: f64,
    /// The plan's bytes; `None` where a server answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub planned_bytes: Option<u64>,
    /// The process's measured peak, in bytes; likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_bytes: Option<u64>,
    /// The server that answered, if one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Why the answer ended: end (the model's own), length, context (it is full) or stopped (by Ctrl-C).
    pub stop: &'static str,
}

/// A loaded model that answers conversations.
pub trait Answer {
    /// Answers the last message, handing each piece of text to `emit` as it comes; `Break` stops it, and what was
    /// said so far is the answer. Errors: the conversation does not fit the context, or a failure of the device.
    fn answer(
        &mut self,
        messages: &[Message],
        emit: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Report>;

    /// Continues `text` as it stands, likewise.
    fn continue_text(&mut self, text: &str, emit: &mut dyn FnMut(&str) -> ControlFlow<()>) -> Result<Report>;

    /// Told that a person reads and writes for a while: time for what makes later answers faster.
    fn idle(&mut self) {}
}

/// A line that the person gave, or its absence.
pub enum Line {
    /// Some text.
    Text(String),
    /// Ctrl-C at the prompt.
    Interrupted,
    /// Ctrl-D.
    End,
}

/// Where lines come from: the terminal, or a test.
pub trait Lines {
    /// The next line, after showing `prompt`.
    fn next(&mut self, prompt: &str) -> Result<Line>;
}

/// Line editing on the terminal. Prompts are private: the history lives in memory only.
pub struct Terminal(rustyline::DefaultEditor);

impl Terminal {
    /// An editor with an empty history.
    pub fn new() -> Result<Terminal> {
        let editor = rustyline::DefaultEditor::new();
        editor.map(Terminal).map_err(|e| Error::new(format!("the terminal cannot be used: {e}")))
    }
}

impl Lines for Terminal {
    fn next(&mut self, prompt: &str) -> Result<Line> {
        use rustyline::error::ReadlineError as E;
        match self.0.readline(prompt) {
            Ok(text) => {
                if !text.trim().is_empty() {
                    let _ = self.0.add_history_entry(&text);
                }
                Ok(Line::Text(text))
            }
            Err(E::Interrupted) => Ok(Line::Interrupted),
            Err(E::Eof) => Ok(Line::End),
            Err(e) => Err(Error::new(format!("cannot read from the terminal: {e}"))),
        }
    }
}

const HELP: &str = r#"  /system TEXT   say what holds for the whole conversation (without TEXT: forget it)
  /clear         forget the conversation
  /show          the model, the conversation's length, the last answer's speed
  /save FILE     write the conversation to a file
  /bye           leave (also Ctrl-D)
  """            begin and end a message of several lines
  Ctrl-C         stop the answer"#;

/// A conversation in progress.
pub struct Chat<'a> {
    /// What answers.
    pub model: &'a mut dyn Answer,
    /// What `/show` calls it.
    pub name: String,
    /// What holds for the whole conversation.
    pub system: Option<String>,
    messages: Vec<Message>,
    last: Option<Report>,
}

impl<'a> Chat<'a> {
    /// An empty conversation.
    pub fn new(model: &'a mut dyn Answer, name: String, system: Option<String>) -> Chat<'a> {
        Chat { model, name, system, messages: Vec::new(), last: None }
    }

    /// Reads and answers until the person leaves.
    pub fn run(&mut self, lines: &mut dyn Lines, out: &mut dyn Write) -> Result<()> {
        loop {
            let text = match lines.next(">>> ")? {
                Line::End => return Ok(()),
                Line::Interrupted => {
                    say(out, "(Ctrl-D or /bye leaves)\n")?;
                    continue;
                }
                Line::Text(text) => match whole_message(text, lines)? {
                    Some(text) => text,
                    None => continue,
                },
            };
            let trimmed = text.trim();
            if trimmed.is_empty() {
                continue;
            }
            match command(trimmed) {
                Some(("bye" | "exit" | "quit", _)) => return Ok(()),
                Some((name, rest)) => {
                    let reply = self.obey(name, rest);
                    say(out, &(reply + "\n"))?;
                }
                None => self.ask(text, out)?,
            }
        }
    }

    fn obey(&mut self, name: &str, rest: &str) -> String {
        match name {
            "help" | "?" => HELP.into(),
            "clear" => {
                self.messages.clear();
                "the conversation is forgotten".into()
            }
            "system" if rest.is_empty() => {
                self.system = None;
                "there is no system message now".into()
            }
            "system" => {
                self.system = Some(rest.into());
                "the system message is set".into()
            }
            "show" => self.show(),
            "save" if rest.is_empty() => "say where to: /save FILE".into(),
            "save" => match self.save(Path::new(rest)) {
                Ok(()) => format!("saved to {}", terminal::clean(rest)),
                Err(e) => format!("hob: {e}"),
            },
            _ => format!("there is no /{}; /help lists what there is", terminal::clean(name)),
        }
    }

    /// The system message, if any, and all that was said.
    fn conversation(&self) -> Vec<Message> {
        let system = self.system.iter().map(|t| Message { role: Role::System, text: t.clone() });
        system.chain(self.messages.iter().cloned()).collect()
    }

    /// Answers one question. An error is shown and takes the question back; the chat goes on.
    fn ask(&mut self, text: String, out: &mut dyn Write) -> Result<()> {
        self.messages.push(Message { role: Role::User, text });
        let conversation = self.conversation();
        let catch = Catch::new();
        let mut broken = None;
        let answer = self.model.answer(&conversation, &mut |piece| {
            if let Err(e) = out.write_all(terminal::clean_lines(piece).as_bytes()).and_then(|()| out.flush())
            {
                broken = Some(e);
                return ControlFlow::Break(());
            }
            if catch.pressed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        if let Some(e) = broken {
            return Err(Error::new(format!("cannot write to the terminal: {}", crate::error::plain(&e))));
        }
        match answer {
            Ok(report) => {
                let stopped = match report.stop {
                    "context" => " (the context is full: /clear empties it, hob run --ctx makes it longer)",
                    _ if catch.pressed() => " (stopped)",
                    _ => "",
                };
                say(out, &format!("{stopped}\n\n"))?;
                self.model.idle();
                self.messages.push(Message { role: Role::Assistant, text: report.text.clone() });
                self.last = Some(report);
            }
            Err(e) => {
                self.messages.pop();
                say(out, &format!("hob: {e}\n"))?;
            }
        }
        Ok(())
    }

    fn show(&self) -> String {
        let mut text = format!("{}, {} messages", self.name, self.messages.len());
        if let Some(system) = &self.system {
            text += &format!("\nsystem message: {}", terminal::clean_lines(system));
        }
        if let Some(r) = &self.last {
            text += &format!(
                "\nlast answer: {} tokens at {:.1} a second, after {} prompt tokens at {:.1} a second",
                r.tokens, r.tps, r.prompt_tokens, r.prompt_tps
            );
        }
        text
    }

    fn save(&self, path: &Path) -> Result<()> {
        let text: String = self
            .conversation()
            .iter()
            .map(|m| format!("## {}\n\n{}\n\n", m.role.name(), m.text.trim()))
            .collect();
        // An existing file is somebody's: never written over.
        let file = fs::File::create_new(path).and_then(|mut f| f.write_all(text.as_bytes()));
        file.map_err(|e| Error::io("write", path, &e))
    }
}

fn say(out: &mut dyn Write, text: &str) -> Result<()> {
    let done = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    done.map_err(|e| Error::new(format!("cannot write to the terminal: {}", crate::error::plain(&e))))
}

/// `/name rest`; a slash inside a path or a sentence (`/usr/bin is …`) is not a command.
fn command(text: &str) -> Option<(&str, &str)> {
    let rest = text.strip_prefix('/')?;
    let (name, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let word = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphabetic() || c == '?');
    (word && !text.contains('\n')).then_some((name, rest.trim()))
}

/// Reads on when a line begins with `"""`, up to the line that ends with it. Ctrl-C gives the message up.
fn whole_message(first: String, lines: &mut dyn Lines) -> Result<Option<String>> {
    const FENCE: &str = "\"\"\"";
    let Some(rest) = first.trim_start().strip_prefix(FENCE) else { return Ok(Some(first)) };
    let mut text = String::new();
    let mut line = rest.to_string();
    loop {
        if let Some(end) = line.trim_end().strip_suffix(FENCE) {
            text += end;
            return Ok(Some(text.trim_matches('\n').to_string()));
        }
        text += &line;
        text.push('\n');
        line = match lines.next("... ")? {
            Line::Text(line) => line,
            Line::Interrupted => return Ok(None),
            Line::End => return Ok(Some(text.trim_matches('\n').to_string())),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Script(std::collections::VecDeque<&'static str>);

    impl Lines for Script {
        fn next(&mut self, _: &str) -> Result<Line> {
            Ok(match self.0.pop_front() {
                Some("^C") => Line::Interrupted,
                Some(text) => Line::Text(text.into()),
                None => Line::End,
            })
        }
    }

    /// Repeats what it was asked, with the number of messages; refuses "too long". Counts when it may be idle.
    struct Echo(Vec<Vec<Message>>, usize);

    impl Answer for Echo {
        fn answer(
            &mut self,
            messages: &[Message],
            emit: &mut dyn FnMut(&str) -> ControlFlow<()>,
        ) -> Result<Report> {
            let last = messages.last().unwrap();
            if last.text == "too long" {
                return Err(Error::new("the prompt does not fit"));
            }
            self.0.push(messages.to_vec());
            let text = format!("{}: {}", messages.len(), last.text);
            for piece in text.split_inclusive(' ') {
                if emit(piece).is_break() {
                    break;
                }
            }
            Ok(Report { text, tokens: 2, ..Report::default() })
        }

        fn continue_text(
            &mut self,
            text: &str,
            emit: &mut dyn FnMut(&str) -> ControlFlow<()>,
        ) -> Result<Report> {
            let _ = emit(text);
            Ok(Report::default())
        }

        fn idle(&mut self) {
            self.1 += 1;
        }
    }

    fn chat(lines: &[&'static str]) -> (String, Vec<Vec<Message>>) {
        let mut echo = Echo(Vec::new(), 0);
        let mut out = Vec::new();
        let mut chat = Chat::new(&mut echo, "echo".into(), None);
        chat.run(&mut Script(lines.iter().copied().collect()), &mut out).unwrap();
        assert_eq!(echo.1, echo.0.len(), "the model may be idle after each answer");
        (String::from_utf8(out).unwrap(), echo.0)
    }

    #[test]
    fn the_conversation_keeps_its_context() {
        let (out, asked) = chat(&["one", "", "^C", "/system be brief", "two", "/clear", "three"]);
        assert!(out.contains("1: one") && out.contains("4: two") && out.contains("2: three"), "{out}");
        let roles: Vec<_> = asked[1].iter().map(|m| m.role.name()).collect();
        assert_eq!(roles, ["system", "user", "assistant", "user"]);
    }

    #[test]
    fn an_error_takes_the_question_back() {
        let (out, asked) = chat(&["too long", "short"]);
        assert!(out.contains("hob: the prompt does not fit"));
        assert_eq!(asked[0].len(), 1);
    }

    #[test]
    fn several_lines_make_one_message() {
        let (_, asked) = chat(&["\"\"\"", "a", "/bye", "b\"\"\"", "\"\"\"c\"\"\"", "\"\"\"lost", "^C"]);
        assert_eq!(asked.len(), 2);
        assert_eq!(asked[0][0].text, "a\n/bye\nb");
        assert_eq!(asked[1].last().unwrap().text, "c");
    }

    #[test]
    fn commands_are_told_from_text() {
        assert_eq!(command("/save a b.md"), Some(("save", "a b.md")));
        assert_eq!(command("/usr/bin is what?"), None);
        let (out, asked) = chat(&["/nope", "/help", "/show", "/bye", "unread"]);
        assert!(
            out.contains("there is no /nope")
                && out.contains("/save FILE")
                && out.contains("echo, 0 messages")
        );
        assert!(asked.is_empty());
    }

    #[test]
    fn saving_never_writes_over_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("talk.md");
        let mut echo = Echo(Vec::new(), 0);
        let mut chat = Chat::new(&mut echo, "echo".into(), Some("s".into()));
        chat.ask("q".into(), &mut Vec::new()).unwrap();
        chat.save(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, "## system\n\ns\n\n## user\n\nq\n\n## assistant\n\n2: q\n\n");
        assert!(chat.save(&path).is_err());
    }
}
