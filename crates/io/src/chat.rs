//! Chat templates: messages to the text a model was trained on.
//!
//! A model brings its template in Jinja, written for Python's `jinja2` as Hugging Face's `transformers` sets it up
//! (`utils/chat_template_utils.py`). Here `minijinja` renders it, with the same settings, functions and filters. A
//! template is a foreign program: fuel bounds its time and memory.

mod dialect;
mod prepare;
mod python;

pub use dialect::{Call, Choice, Dialect, Family, Piece, Reader, Tool};
pub use prepare::{BadMessage, Prepared};

use crate::{Error, Result, Tokenizer};
use minijinja::{Environment, ErrorKind, Value, syntax::SyntaxConfig, value::Serde};
use prepare::Habits;
use python::{strftime, tojson};
use serde::{Deserialize, Serialize};
use std::{path::Path, sync::OnceLock, time::SystemTime};

/// One message of a chat.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, `tool`.
    pub role: String,
    /// What is said.
    pub content: String,
    /// Whatever else the template may look at: `tool_calls`, `name`, `reasoning_content` …
    #[serde(flatten)]
    pub extra: serde_json::Map<String, serde_json::Value>,
}

impl Message {
    /// A message of text alone.
    pub fn new(role: &str, content: &str) -> Message {
        Message { role: role.into(), content: content.into(), extra: Default::default() }
    }
}

/// What a template is given beside the messages.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Whether the text is to end where the assistant begins to speak.
    pub add_generation_prompt: bool,
    /// Tools the model may call, as JSON schemas.
    pub tools: Option<serde_json::Value>,
    /// Documents the model may cite.
    pub documents: Option<serde_json::Value>,
    /// Further variables of the template (`enable_thinking` …).
    pub extra: serde_json::Map<String, serde_json::Value>,
    /// The time that `strftime_now` tells; the present if `None`.
    pub now: Option<SystemTime>,
}

/// A rendered chat.
#[derive(Clone, Debug, PartialEq)]
pub struct Rendered {
    /// The text, to be encoded with special tokens recognised. It may begin with the token that begins texts.
    pub text: String,
    /// What a person should know, in one sentence: that there was no usable template, for example.
    pub note: Option<String>,
}

/// The template refuses these messages and says why: roles that do not alternate, for example.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("the model's chat template refuses these messages: {0}")]
pub struct Refused(pub String);

/// Stack for a template, taken up only as far as it is used.
const STACK: usize = 256 << 20;

/// Marks the errors that a template raises itself.
const RAISED: &str = "raised by the template: ";

/// A model's chat template, compiled.
pub struct Chat {
    env: Environment<'static>,
    bos: String,
    eos: String,
    /// Why there is no template to use.
    unusable: Option<String>,
    source: Option<String>,
    /// What the template does with tools; found out when first asked for.
    habits: OnceLock<Habits>,
}

impl Chat {
    /// A chat template, and the texts of the tokens that begin and end texts. A missing or broken template is not an
    /// error: [`Chat::render`] then falls back and says so.
    pub fn new(template: Option<&str>, bos: &str, eos: &str) -> Chat {
        let mut env = environment();
        let unusable = match template {
            None => Some("the model has no chat template".into()),
            Some(source) => {
                let source = source
                    .replace("{% generation %}", "{% if true %}")
                    .replace("{%- generation %}", "{%- if true %}")
                    .replace("{% generation -%}", "{% if true -%}")
                    .replace("{%- generation -%}", "{%- if true -%}")
                    .replace("{% endgeneration %}", "{% endif %}")
                    .replace("{%- endgeneration %}", "{%- endif %}")
                    .replace("{% endgeneration -%}", "{% endif -%}")
                    .replace("{%- endgeneration -%}", "{%- endif -%}");
                env.add_template_owned("chat", source)
                    .err()
                    .map(|e| format!("the model's chat template cannot be read ({})", reason(&e)))
            }
        };
        let source = template.map(String::from);
        Chat { env, bos: bos.into(), eos: eos.into(), unusable, source, habits: OnceLock::new() }
    }

    /// How this model writes calls and thoughts: by its template, and its tokens where that is silent.
    pub fn dialect(&self, tokenizer: Option<&Tokenizer>) -> Dialect {
        Dialect::of(self.source.as_deref(), tokenizer)
    }

    /// The text of a chat, without tools.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<Rendered, Refused> {
        self.render_with(messages, &Options { add_generation_prompt, ..Options::default() })
    }

    /// The text of a chat. Where the template is missing or fails, a plain format is used and the note says so; where
    /// it takes no system message, that goes before the first message. Fails when the template itself refuses.
    pub fn render_with(&self, messages: &[Message], options: &Options) -> Result<Rendered, Refused> {
        let fallback = |why: &str| Rendered {
            text: chatml(messages, options.add_generation_prompt),
            note: Some(format!("{why}, so a plain format (ChatML) is used, and answers may be worse")),
        };
        if let Some(why) = &self.unusable {
            return Ok(fallback(why));
        }
        let refused = match self.apply(messages, options) {
            Ok(text) => return Ok(Rendered { text, note: None }),
            Err(Failure::Broken(why)) => {
                return Ok(fallback(&format!("the model's chat template fails ({why})")));
            }
            Err(Failure::Raised(why)) => why,
        };
        if let [system, first, rest @ ..] = messages
            && system.role == "system"
            && first.role == "user"
        {
            let mut first = first.clone();
            first.content = format!("{}\n\n{}", system.content, first.content);
            let merged: Vec<Message> = std::iter::once(first).chain(rest.iter().cloned()).collect();
            if let Ok(text) = self.apply(&merged, options) {
                let note = "the model's chat template takes no system message, so it was put before the first message";
                return Ok(Rendered { text, note: Some(note.into()) });
            }
        }
        Err(Refused(refused))
    }

    /// The ids of a chat, and its text. Control tokens that the messages, tools or documents spell are plain text
    /// here: only the template steers the model. The tokens that the model wants around a text are added unless the
    /// template brings them.
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        options: &Options,
    ) -> Result<(Vec<u32>, Rendered), Refused> {
        let mut messages = messages.to_vec();
        let mut options = options.clone();
        for message in &mut messages {
            message.content = tokenizer.shield(&message.content).into_owned();
            message.extra.values_mut().for_each(|value| shield(tokenizer, value));
        }
        options.tools.iter_mut().chain(&mut options.documents).for_each(|value| shield(tokenizer, value));
        let mut rendered = self.render_with(&messages, &options)?;
        let ids = tokenizer.with_bos(tokenizer.encode_shielded(&rendered.text));
        rendered.text = tokenizer.unshield(&rendered.text).0.into_owned();
        Ok((ids, rendered))
    }

    /// Renders on a thread of its own: values that a hostile template nests deep are dropped by recursion, which the
    /// fuel bounds, but not to the stack that a caller may have.
    fn apply(&self, messages: &[Message], options: &Options) -> Result<String, Failure> {
        let failed = || Failure::Broken("it cannot be run on a thread of its own".into());
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("chat template".into()).stack_size(STACK);
            // The error is told here, because it may hold values of the template.
            let run = || self.run(messages, options).map_err(|error| Failure::of(&error));
            thread.spawn_scoped(scope, run).map_err(|_| failed())?.join().map_err(|_| failed())?
        })
    }

    fn run(&self, messages: &[Message], options: &Options) -> Result<String, minijinja::Error> {
        // One unit of fuel pays for an instruction or 64 bytes; a template may copy the whole chat many times over.
        let size: usize = messages.iter().map(|m| m.content.len()).sum();
        let mut env = self.env.clone();
        env.set_fuel(Some(300_000 + 2000 * messages.len() as u64 + size as u64));
        let now = options.now.unwrap_or_else(SystemTime::now);
        env.add_function("strftime_now", move |format: &str| strftime(format, now));
        let mut variables = serde_json::Map::new();
        variables.extend(options.extra.clone());
        for (name, text) in [("bos_token", &self.bos), ("eos_token", &self.eos)] {
            variables.insert(name.into(), text.as_str().into());
        }
        variables.insert("add_generation_prompt".into(), options.add_generation_prompt.into());
        variables.insert("tools".into(), options.tools.clone().unwrap_or_default());
        variables.insert("documents".into(), options.documents.clone().unwrap_or_default());
        let variables = minijinja::context! {
            messages => Value::from(Serde(messages)),
            ..Value::from(Serde(&variables))
        };
        env.get_template("chat")?.render(variables)
    }

    /// The chat template of a Hugging Face folder: `chat_template.jinja`, or else the one in `tokenizer_config.json`,
    /// of several the one named `default`. `None` when the folder has none.
    pub fn template_of_dir(dir: &Path) -> Result<Option<String>> {
        let read = |name: &str| match std::fs::read_to_string(dir.join(name)) {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::read(&dir.join(name), e)),
        };
        if let Some(template) = read("chat_template.jinja")? {
            return Ok(Some(template));
        }
        let Some(text) = read("tokenizer_config.json")? else { return Ok(None) };
        let config: serde_json::Value = serde_json::from_str(&text).map_err(|e| {
            Error::damaged(&dir.join("tokenizer_config.json"), format!("it is no JSON ({e})"))
        })?;
        let template = &config["chat_template"];
        let named =
            |name: &str| template.as_array()?.iter().find(|t| t["name"] == name)?["template"].as_str();
        Ok(template.as_str().or_else(|| named("default")).map(String::from))
    }
}

/// [`Tokenizer::shield`] for every text in a value.
fn shield(tokenizer: &Tokenizer, value: &mut serde_json::Value) {
    match value {
        serde_json::Value::String(text) => *text = tokenizer.shield(text).into_owned(),
        serde_json::Value::Array(items) => items.iter_mut().for_each(|item| shield(tokenizer, item)),
        serde_json::Value::Object(map) => map.values_mut().for_each(|item| shield(tokenizer, item)),
        _ => {}
    }
}

/// The plain format: each message between `<|im_start|>` and `<|im_end|>`, as OpenAI's ChatML and many models after.
fn chatml(messages: &[Message], add_generation_prompt: bool) -> String {
    let mut text = String::new();
    for Message { role, content, .. } in messages {
        text += &format!("<|im_start|>{role}\n{content}<|im_end|>\n");
    }
    text + if add_generation_prompt { "<|im_start|>assistant\n" } else { "" }
}

/// Jinja as `transformers` sets it up.
fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.expect("the usual delimiters"));
    env.set_debug(false);
    env.set_recursion_limit(100);
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.add_filter("tojson", tojson);
    env.add_function("raise_exception", |why: &str| -> Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, format!("{RAISED}{why}")))
    });
    env
}

/// Why a template gave no text.
enum Failure {
    /// It raised an exception, with these words.
    Raised(String),
    /// It is broken, or asks for what is not there.
    Broken(String),
}

impl Failure {
    fn of(error: &minijinja::Error) -> Failure {
        let mut cause: &dyn std::error::Error = error;
        loop {
            let detail =
                cause.downcast_ref::<minijinja::Error>().and_then(|e| e.detail()?.strip_prefix(RAISED));
            if let Some(why) = detail {
                return Failure::Raised(why.into());
            }
            match cause.source() {
                Some(source) => cause = source,
                None => return Failure::Broken(reason(error)),
            }
        }
    }
}

/// An error without the listing that goes with it.
fn reason(error: &minijinja::Error) -> String {
    let line = error.line().map_or(String::new(), |line| format!("line {line}: "));
    match error.detail() {
        Some(detail) => format!("{line}{}: {detail}", error.kind()),
        None => format!("{line}{}", error.kind()),
    }
}
