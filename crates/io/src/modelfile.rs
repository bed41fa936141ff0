//! Ollama's Modelfile: one instruction a line, a value in `"…"` or `"""…"""` over several (`parser/parser.go` and
//! `docs/modelfile.md` of ollama/ollama).

use std::fmt;

/// What an instruction says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// The model it is made from: a name or a path.
    From,
    /// What holds for every conversation.
    System,
    /// One setting; [`Instruction::key`] names it.
    Parameter,
    /// A message that begins each conversation; [`Instruction::key`] is its role.
    Message,
    /// Ollama's template, in Go's language.
    Template,
    /// A LoRA's path.
    Adapter,
    /// The licence's text.
    License,
    /// The least version of Ollama.
    Requires,
}

const COMMANDS: [(&str, Command); 8] = [
    ("FROM", Command::From),
    ("SYSTEM", Command::System),
    ("PARAMETER", Command::Parameter),
    ("MESSAGE", Command::Message),
    ("TEMPLATE", Command::Template),
    ("ADAPTER", Command::Adapter),
    ("LICENSE", Command::License),
    ("REQUIRES", Command::Requires),
];

/// Roles of messages.
const ROLES: [&str; 3] = ["system", "user", "assistant"];

/// One instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// where it begins, from 1
    pub line: usize,
    /// its kind
    pub command: Command,
    /// a parameter's name or a message's role, in small letters; else empty
    pub key: String,
    /// the rest, without its quotes
    pub value: String,
}

/// What is wrong with a Modelfile, and in which line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bad {
    /// from 1
    pub line: usize,
    /// a clause without a full stop
    pub what: String,
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

/// Reads a Modelfile.
///
/// # Errors
/// An unknown instruction, one without its value, a quote that is not closed, or no `FROM`.
pub fn parse(text: &str) -> Result<Vec<Instruction>, Bad> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = text.split('\n').map(|l| l.strip_suffix('\r').unwrap_or(l)).zip(1..);
    let mut all = Vec::new();
    while let Some((text, line)) = lines.next() {
        let bad = |what: String| Bad { line, what };
        let text = text.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let (word, rest) = word(text);
        let command = COMMANDS.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)).map(|c| c.1);
        let command = command.ok_or_else(|| {
            let names = COMMANDS.map(|c| c.0).join(", ");
            bad(format!("{} is no instruction; there are {names}", shown(word)))
        })?;
        let (key, rest) = match command {
            Command::Parameter | Command::Message => split(command, rest).map_err(bad)?,
            _ => (String::new(), rest),
        };
        let value =
            value(rest, &mut lines).ok_or_else(|| bad("the quote that begins here is not closed".into()))?;
        if value.is_empty() && !matches!(command, Command::System | Command::Template | Command::License) {
            return Err(bad(format!("{} has no value", shown(word))));
        }
        all.push(Instruction { line, command, key, value });
    }
    match all.iter().any(|i| i.command == Command::From) {
        true => Ok(all),
        false => Err(Bad { line: 1, what: "there is no FROM, which names the model to begin with".into() }),
    }
}

/// A text's first word, and what follows it.
fn word(text: &str) -> (&str, &str) {
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

/// The key of a parameter or message, and its value.
fn split(command: Command, text: &str) -> Result<(String, &str), String> {
    let (key, rest) = word(text);
    let key = key.to_lowercase();
    match command {
        Command::Message if !ROLES.contains(&key.as_str()) => {
            Err(format!("MESSAGE is of {}, and its role must be system, user or assistant", shown(&key)))
        }
        Command::Parameter if key.is_empty() => Err("PARAMETER has no name".into()),
        _ => Ok((key, rest)),
    }
}

/// A value as a person would read it: what goes on over lines until its quotes close, or this line. `None` where they do
/// not.
fn value<'a>(first: &str, lines: &mut impl Iterator<Item = (&'a str, usize)>) -> Option<String> {
    let quote = ["\"\"\"", "\""].into_iter().find(|quote| first.starts_with(quote));
    let Some(quote) = quote else { return Some(first.to_string()) };
    let mut text = first[quote.len()..].to_string();
    loop {
        if let Some(inner) = text.trim_end().strip_suffix(quote) {
            return Some(inner.to_string());
        }
        text.push('\n');
        text.push_str(lines.next()?.0);
    }
}

/// A word of the file within an error.
fn shown(word: &str) -> String {
    let start: String = word.chars().take(40).filter(|c| !c.is_control()).collect();
    format!("'{start}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Instruction {
        parse(&format!("{text}\nFROM x")).unwrap().remove(0)
    }

    #[test]
    fn instructions_are_read_as_ollama_reads_them() {
        let file = "# a comment\r\nfrom llama3.2:1b\n\nPARAMETER  Temperature 0.2\nparameter stop \"<|end|>\"\nSystem \"\"\"You are\na # pirate.\"\"\"\nMESSAGE user Hi there \nmessage assistant \"Ahoy\nthere\"\nLICENSE \"\"\"\nMIT\n\"\"\"\nREQUIRES 0.14.0";
        let all = parse(file).unwrap();
        let read: Vec<(usize, Command, &str, &str)> =
            all.iter().map(|i| (i.line, i.command, i.key.as_str(), i.value.as_str())).collect();
        assert_eq!(
            read,
            [
                (2, Command::From, "", "llama3.2:1b"),
                (4, Command::Parameter, "temperature", "0.2"),
                (5, Command::Parameter, "stop", "<|end|>"),
                (6, Command::System, "", "You are\na # pirate."),
                (8, Command::Message, "user", "Hi there"),
                (9, Command::Message, "assistant", "Ahoy\nthere"),
                (11, Command::License, "", "\nMIT\n"),
                (14, Command::Requires, "", "0.14.0"),
            ]
        );
    }

    #[test]
    fn quotes_open_and_close() {
        for (text, value) in [
            ("SYSTEM a \"quoted\" word", "a \"quoted\" word"),
            ("SYSTEM \"\"\"say \"hi\" \"\"\"", "say \"hi\" "),
            ("SYSTEM \"\"", ""),
            ("SYSTEM", ""),
            ("SYSTEM \"\"\"\"\"\"", ""),
            ("SYSTEM \"a\n\nb\"  ", "a\n\nb"),
            ("SYSTEM \"\"\"ü\n\"\n\"\"\"", "ü\n\"\n"),
        ] {
            assert_eq!(one(text).value, value, "{text:?}");
        }
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        for (text, says) in [
            ("FROM a\n\nFORM b", "line 3: 'FORM' is no instruction; there are FROM, SYSTEM"),
            ("FROM a\nSYSTEM \"\"\"never\nclosed\"", "line 2: the quote that begins here is not closed"),
            ("FROM", "line 1: 'FROM' has no value"),
            ("FROM a\nPARAMETER", "line 2: PARAMETER has no name"),
            ("FROM a\nPARAMETER top_k", "line 2: 'PARAMETER' has no value"),
            ("FROM a\nMESSAGE robot hi", "line 2: MESSAGE is of 'robot'"),
            ("# nothing", "line 1: there is no FROM"),
            ("", "line 1: there is no FROM"),
            ("{\"from\": 1}", "'{\"from\":' is no instruction"),
        ] {
            let e = parse(text).unwrap_err().to_string();
            assert!(e.contains(says), "{text:?}: {e}");
        }
    }
}
