//! Chat templates: messages to the text a model was trained on.
//!
//! A model brings its template in Jinja, written for Python's `jinja2` as Hugging Face's `transformers` sets it up
//! (`utils/chat_template_utils.py`). Here `minijinja` renders it, with the same settings, functions and filters. A
//! template is a foreign program: fuel bounds its time and memory.

use crate::{Error, Result, Tokenizer};
use minijinja::{
    Environment, ErrorKind, Value,
    syntax::SyntaxConfig,
    value::{Serde, ValueKind},
};
use serde::{Deserialize, Serialize};
use std::{
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

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
        Chat { env, bos: bos.into(), eos: eos.into(), unusable }
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

/// `json.dumps(value, ensure_ascii=False, indent=indent)`, as the filter of that name in `transformers`.
fn tojson(value: Value, options: minijinja::value::Kwargs) -> Result<Value, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    // `transformers` has these too: sorted keys, and separators, of which only Python's defaults are supported.
    let sort: Option<bool> = options.get("sort_keys")?;
    options.get::<Option<bool>>("ensure_ascii")?;
    options.assert_all_used()?;
    let mut out = String::new();
    Json { indent: indent.map(|n| n.min(16)), sort: sort == Some(true) }.write(&value, 0, &mut out)?;
    Ok(Value::from(out))
}

struct Json {
    indent: Option<usize>,
    sort: bool,
}

impl Json {
    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), minijinja::Error> {
        let no_json = || minijinja::Error::new(ErrorKind::BadSerialization, "tojson of what JSON cannot say");
        if depth > 100 {
            return Err(no_json());
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number if value.is_integer() => out.push_str(&value.to_string()),
            ValueKind::Number => out.push_str(&float(f64::try_from(value.clone()).map_err(|_| no_json())?)),
            ValueKind::String => out.push_str(&quoted(value.as_str().unwrap_or_default())),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.list(b"[]", &items, depth, out, |item, out| self.write(item, depth + 1, out))?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort {
                    keys.sort();
                }
                self.list(b"{}", &keys, depth, out, |key, out| {
                    out.push_str(&match key.as_str() {
                        Some(text) => quoted(text),
                        None => format!("\"{}\"", key.to_string().replace("None", "null").to_lowercase()),
                    });
                    out.push_str(": ");
                    self.write(&value.get_item(key)?, depth + 1, out)
                })?;
            }
            _ => return Err(no_json()),
        }
        Ok(())
    }

    fn list(
        &self,
        brackets: &[u8; 2],
        items: &[Value],
        depth: usize,
        out: &mut String,
        write: impl Fn(&Value, &mut String) -> Result<(), minijinja::Error>,
    ) -> Result<(), minijinja::Error> {
        out.push(brackets[0] as char);
        for (i, item) in items.iter().enumerate() {
            match self.indent {
                Some(indent) => {
                    out.push_str(if i > 0 { ",\n" } else { "\n" });
                    out.push_str(&" ".repeat(indent * (depth + 1)));
                }
                None => out.push_str(if i > 0 { ", " } else { "" }),
            }
            write(item, out)?;
        }
        if let Some(indent) = self.indent.filter(|_| !items.is_empty()) {
            out.push('\n');
            out.push_str(&" ".repeat(indent * depth));
        }
        out.push(brackets[1] as char);
        Ok(())
    }
}

/// A string as JSON.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A number as Python's `repr` writes it: with an exponent from 10¹⁶ on and below 10⁻⁴.
fn float(x: f64) -> String {
    if x.is_nan() {
        return "NaN".into();
    }
    if x.is_infinite() {
        return if x > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    if x == 0.0 || (1e-4..1e16).contains(&x.abs()) {
        return format!("{x:?}");
    }
    let text = format!("{x:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = exponent.strip_prefix('-').map_or(("+", exponent), |e| ("-", e));
    format!("{digits}e{sign}{exponent:0>2}")
}

/// `datetime.now().strftime(format)`, in universal time.
fn strftime(format: &str, now: SystemTime) -> String {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let days = seconds / 86400;
    // The civil calendar from a count of days, with years that begin in March (Howard Hinnant, "chrono-compatible
    // low-level date algorithms").
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day + 2) / 153;
    let month_day = day - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + (month <= 2) as u64;
    let leap = year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    // January and February come last in such a year, 306 days after the first of March.
    let year_day = if month > 2 { day + 60 + leap as u64 } else { day - 305 };
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let (month_name, day_name) = (MONTHS[month as usize - 1], DAYS[(days as usize + 4) % 7]);
    let twelve = (hour + 11) % 12 + 1;

    let mut out = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        // `%-d` is `%d` without its leading zero.
        let bare = rest.as_str().starts_with('-');
        let Some(code) = (if bare { rest.nth(1) } else { rest.next() }) else {
            out.push('%');
            break;
        };
        let number = |value: u64, width: usize| {
            if bare { value.to_string() } else { format!("{value:0width$}") }
        };
        out += &match code {
            'Y' => year.to_string(),
            'y' => number(year % 100, 2),
            'm' => number(month, 2),
            'd' => number(month_day, 2),
            'H' => number(hour, 2),
            'I' => number(twelve, 2),
            'M' => number(minute, 2),
            'S' => number(second, 2),
            'j' => number(year_day, 3),
            'p' => if hour < 12 { "AM" } else { "PM" }.into(),
            'B' => month_name.into(),
            'b' => month_name[..3].into(),
            'A' => day_name.into(),
            'a' => day_name[..3].into(),
            'F' => format!("{year}-{month:02}-{month_day:02}"),
            'T' => format!("{hour:02}:{minute:02}:{second:02}"),
            'Z' => "UTC".into(),
            'z' => "+0000".into(),
            '%' => "%".into(),
            other => format!("%{other}"),
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates_as_pythons() {
        for (seconds, want) in [
            (0, "1970-01-01 Thu 001 12 AM 1 Jan 70"),
            (951_826_500, "2000-02-29 Tue 060 12 PM 29 Feb 00"),
            (1_735_689_599, "2024-12-31 Tue 366 11 PM 31 Dec 24"),
            (1_740_787_200, "2025-03-01 Sat 060 12 AM 1 Mar 25"),
        ] {
            let now = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(strftime("%Y-%m-%d %a %j %I %p %-d %b %y", now), want);
        }
        assert_eq!(strftime("100%% %q %", UNIX_EPOCH), "100% %q %");
    }

    #[test]
    fn floats_as_pythons() {
        for (x, want) in [
            (1.0, "1.0"),
            (-0.5, "-0.5"),
            (1e-9, "1e-09"),
            (1.5e300, "1.5e+300"),
            (1e16, "1e+16"),
            (123456789012345.6, "123456789012345.6"),
            (0.0001, "0.0001"),
            (-0.0, "-0.0"),
        ] {
            assert_eq!(float(x), want);
        }
    }
}
