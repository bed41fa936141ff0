//! Code in colours: each token gets one short class of its own, whose colour the stylesheet knows. Grammars are Sublime
//! Text's, as `syntect` has them.

use std::str::FromStr;
use std::sync::LazyLock;

use syntect::parsing::{ParseState, Scope, ScopeStack, SyntaxReference, SyntaxSet};

use super::escape;

/// Every class that a `span` may have: code's, a link's host, and formulas.
pub const CLASSES: &[&str] =
    &["k", "s", "c", "n", "f", "t", "v", "o", "a", "i", "d", "h", "host", "tex", "display", "lang"];

/// Code longer than this many bytes is plain, and so is what follows a line longer than the second.
const LIMITS: (usize, usize) = (200 << 10, 2000);

static SYNTAXES: LazyLock<SyntaxSet> = LazyLock::new(SyntaxSet::load_defaults_newlines);

/// Scopes of Sublime Text (sublimetext.com/docs/scope_naming.html) and their class; of several that fit the innermost
/// scope, the longest counts.
static SCOPES: LazyLock<Vec<(Scope, &str)>> = LazyLock::new(|| {
    let table = "comment c|string s|constant n|constant.character.escape o|keyword k|keyword.operator o|storage k
        |storage.type k|entity.name.function f|support.function f|variable.function f|entity.name.class t|entity.name.type t
        |entity.name.struct t|entity.name.enum t|entity.name.trait t|entity.name.impl t|support.type t|support.class t
        |entity.name.tag k|entity.other.attribute-name a|meta.attribute a|entity.name.section h|variable.parameter v
        |variable.language k|markup.heading h|markup.inserted i|markup.deleted d|markup.raw s|support.constant n
        |meta.mapping.key a|punctuation.definition.comment c|punctuation.definition.string s|entity.name.label a
        |meta.annotation a|support.type.property-name a|entity.inherited-class t|entity.other.inherited-class t";
    let rows = table.split('|').filter_map(|row| row.trim().split_once(' '));
    rows.filter_map(|(scope, class)| Some((Scope::from_str(scope).ok()?, class))).collect()
});

/// Loads the grammars, which takes some milliseconds, before anyone waits for them.
pub fn warm() {
    let _ = (SYNTAXES.syntaxes().len(), SCOPES.len());
}

/// The grammar of a language, also of those whose grammar is near enough.
fn syntax(language: &str) -> Option<&'static SyntaxReference> {
    let name = language.to_lowercase();
    let name = match name.as_str() {
        "ts" | "tsx" | "typescript" | "jsx" | "mjs" | "cjs" | "node" | "json5" => "js",
        "jsonc" | "jsonl" | "ndjson" => "json",
        "toml" | "ini" | "conf" | "env" | "dotenv" => "properties",
        "shell" | "console" | "zsh" | "sh" | "fish" | "shellscript" | "dockerfile" => "bash",
        "py3" | "python3" | "ipython" | "pycon" => "python",
        "c#" | "csharp" => "cs",
        "c++" | "cuda" | "cu" | "hpp" => "cpp",
        "golang" => "go",
        "kotlin" | "kt" | "dart" => "java",
        "vue" | "svelte" | "xhtml" => "html",
        "svg" | "xsd" | "plist" => "xml",
        "postgres" | "postgresql" | "mysql" | "sqlite" | "plsql" => "sql",
        "make" => "makefile",
        "patch" => "diff",
        "scss" | "less" => "css",
        other => other,
    };
    SYNTAXES.find_syntax_by_token(name).filter(|s| s.name != "Plain Text")
}

fn class(scopes: &[Scope]) -> Option<&'static str> {
    scopes.iter().rev().find_map(|scope| {
        let fitting = SCOPES.iter().filter(|(prefix, _)| prefix.is_prefix_of(*scope));
        fitting.max_by_key(|(prefix, _)| prefix.len()).map(|(_, class)| *class)
    })
}

/// Code that may still be written: whole lines that were coloured once stay so.
#[derive(Default)]
pub struct Growing {
    language: String,
    /// the lines that are coloured, and how
    lines: String,
    html: String,
    state: Option<(ParseState, ScopeStack)>,
}

impl Growing {
    /// A block of code under its language's name, with a button that copies it.
    pub fn figure(&mut self, language: &str, code: &str) -> String {
        let code = code.strip_suffix('\n').unwrap_or(code);
        let name = language.chars().take(24).filter(|c| !c.is_control()).collect::<String>();
        let body = self.colour(language, code);
        format!(
            "<figure class=\"code\"><figcaption><span class=\"lang\">{}</span><button type=\"button\" class=\"copy\">Copy</button>\
             </figcaption><pre><code>{body}</code></pre></figure>",
            escape(if name.is_empty() { "text" } else { &name })
        )
    }

    fn colour(&mut self, language: &str, code: &str) -> String {
        let Some(syntax) = syntax(language).filter(|_| code.len() <= LIMITS.0) else {
            return escape(code);
        };
        if self.language != language || !code.starts_with(&self.lines) {
            *self = Growing {
                language: language.into(),
                state: Some((ParseState::new(syntax), ScopeStack::new())),
                ..Growing::default()
            };
        }
        let whole = code.rfind('\n').map_or(0, |at| at + 1);
        for line in code[self.lines.len()..whole.max(self.lines.len())].split_inclusive('\n') {
            self.state = self.state.take().and_then(|(mut parse, mut stack)| {
                self.html += &coloured(line, &mut parse, &mut stack)?;
                Some((parse, stack))
            });
            if self.state.is_none() {
                self.html += &escape(line);
            }
        }
        self.lines = code[..whole.max(self.lines.len())].into();
        let rest = &code[self.lines.len()..];
        let last = self.state.as_ref().and_then(|(parse, stack)| {
            // Grammars expect a line's end.
            let line = coloured(&format!("{rest}\n"), &mut parse.clone(), &mut stack.clone())?;
            Some(line.trim_end_matches("</span>").strip_suffix('\n').map_or(line.clone(), |cut| {
                let closed = line.len() - line.trim_end_matches("</span>").len();
                cut.to_string() + &"</span>".repeat(closed / "</span>".len())
            }))
        });
        let last = if rest.is_empty() { String::new() } else { last.unwrap_or_else(|| escape(rest)) };
        format!("{}{last}", self.html)
    }
}

/// One line, its end included; `None` where the grammar fails or the line is too long.
fn coloured(line: &str, parse: &mut ParseState, stack: &mut ScopeStack) -> Option<String> {
    if line.len() > LIMITS.1 {
        return None;
    }
    let ops = parse.parse_line(line, &SYNTAXES).ok()?;
    let mut pieces: Vec<(Option<&str>, &str)> = Vec::new();
    let mut add = |class: Option<&'static str>, text: &'_ str| {
        // Blanks have no colour, so they never end a piece.
        match pieces.last_mut() {
            Some(last) if last.0 == class || text.trim().is_empty() => {
                let start = last.1.as_ptr() as usize - line.as_ptr() as usize;
                let end = text.as_ptr() as usize - line.as_ptr() as usize + text.len();
                last.1 = &line[start..end];
            }
            _ => {
                let start = text.as_ptr() as usize - line.as_ptr() as usize;
                pieces.push((class, &line[start..start + text.len()]));
            }
        }
    };
    let mut at = 0;
    for (end, op) in &ops {
        if *end > at {
            add(class(stack.as_slice()), &line[at..*end]);
            at = *end;
        }
        stack.apply(op).ok()?;
    }
    if at < line.len() {
        add(class(stack.as_slice()), &line[at..]);
    }
    let html = pieces.iter().map(|(class, text)| match class {
        Some(class) => format!("<span class=\"{class}\">{}</span>", escape(text)),
        None => escape(text),
    });
    Some(html.collect())
}
