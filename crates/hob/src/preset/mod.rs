//! Presets: models of one's own, made of another by a system message, parameters, a template, examples or an adapter. No
//! weight is copied: a preset is a small file of TOML that names its base.

mod kept;
mod modelfile;

use std::path::{Path, PathBuf};

use hob_engine::Sampling;
use hob_io::chat;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::chat::Role;
use crate::error::{Error, Result};
use crate::serve::Knobs;
use crate::store::Found;
use crate::{naming, near, places, terminal};

pub use kept::{Kept, all, check_name, find, remove, save};
pub use modelfile::{of_modelfile, of_request};

/// Bytes of a preset's file, or of a template beside it, at most.
const MAX_FILE: u64 = 1 << 20;

/// Presets on presets, at most: more is no work of a person.
const DEEPEST: usize = 16;

/// What a model of one's own adds to its base. Order of fields: as the file is written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preset {
    /// the model it is made of: a name that `hob run` knows, or a path
    pub base: String,
    /// a line for people
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// what it may be used for
    #[serde(skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
    /// stands first in each conversation that has no system message of its own
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// a chat template (Jinja) in place of the base's
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// a LoRA: the path of a PEFT folder or of its safetensors
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<PathBuf>,
    /// how tokens are chosen where nobody says otherwise
    #[serde(default, skip_serializing_if = "Parameters::is_empty")]
    pub parameters: Parameters,
    /// examples that begin each conversation
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<Said>,
}

/// An example's message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Said {
    /// system, user or assistant
    pub role: String,
    /// its text
    pub content: String,
}

/// Defaults for answers; see [`hob_engine::Sampling`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Parameters {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeat_penalty: Option<f64>,
    /// below 0: all tokens count
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeat_last_n: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frequency_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
    /// tokens of an answer at most
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// tokens of context
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ctx: Option<u32>,
    /// strings that end an answer
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop: Option<Vec<String>>,
}

/// Keys of a preset's file.
const KEYS: [&str; 8] =
    ["base", "system", "parameters", "template", "messages", "adapter", "description", "licence"];
/// Those of its `[parameters]`.
const PARAMETERS: [&str; 12] = [
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repeat_penalty",
    "repeat_last_n",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "max_tokens",
    "ctx",
    "stop",
];

impl Preset {
    /// Reads a preset's TOML; paths in it are those beside the file.
    ///
    /// # Errors
    /// What is wrong with it, and in which line.
    pub fn read(path: &Path) -> Result<Preset> {
        let text = read_small(path)?;
        let at = places::short(path);
        let fail = |e: toml::de::Error| {
            let line =
                e.span().map_or(1, |span| 1 + text[..span.start.min(text.len())].matches('\n').count());
            Error::new(format!("{at}, line {line}: {}", terminal::clean(e.message())))
        };
        let table: Table = text.parse().map_err(fail)?;
        let of = |e: Error| Error::new(format!("{at}: {e}"));
        known(&table).map_err(|what| of(Error::new(what)))?;
        let preset: Preset = toml::from_str(&text).map_err(fail)?;
        preset.beside(path.parent().unwrap_or(Path::new("."))).and_then(Preset::checked).map_err(of)
    }

    /// The same of a table that no file holds; paths are those beside `folder`.
    pub fn of_table(table: Table, folder: &Path) -> Result<Preset> {
        known(&table).map_err(Error::new)?;
        let preset: Preset = table.try_into().map_err(|e| Error::new(e.message().trim().to_string()))?;
        preset.beside(folder)?.checked()
    }

    /// As it is written to a file.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string_pretty(self).map_err(|e| Error::new(format!("the preset cannot be written: {e}")))
    }

    /// Paths made whole, and a template's file read.
    fn beside(mut self, folder: &Path) -> Result<Preset> {
        let absolute =
            |path: &Path| std::path::absolute(folder.join(path)).map_err(|e| Error::io("find", path, &e));
        let base = Path::new(&self.base);
        let here = folder.join(base);
        let meant = self.base.contains(['/', '\\']) || naming::is_gguf(&self.base) || self.base == ".";
        if meant && (here.is_file() || here.join("config.json").is_file()) {
            let whole = absolute(base)?;
            let text =
                whole.to_str().ok_or_else(|| Error::new("the base's path is not UTF-8 text; rename it"))?;
            self.base = text.into();
        } else if self.base.starts_with(['.', '/', '~']) {
            return Err(Error::new(format!(
                "there is no file or model folder {}",
                terminal::clean(&self.base)
            )));
        }
        if let Some(adapter) = &mut self.adapter {
            *adapter = absolute(adapter)?;
        }
        if let Some(name) = &self.template
            && !name.contains(['{', '\n'])
        {
            let path = folder.join(name);
            self.template = Some(read_small(&path)?);
        }
        Ok(self)
    }

    /// What Hob would not run is refused when it is made, not when it is used.
    fn checked(self) -> Result<Preset> {
        let wrong = |what: String| Err(Error::new(what));
        if self.base.trim().is_empty() {
            return wrong("base is empty; it names the model to begin with".into());
        }
        let roles = [Role::System, Role::User, Role::Assistant].map(Role::name);
        if let Some(m) = self.messages.iter().find(|m| !roles.contains(&m.role.as_str())) {
            let role = terminal::clean(&m.role);
            return wrong(format!(
                "a message has the role '{role}', which must be system, user or assistant"
            ));
        }
        let p = &self.parameters;
        if let Err(what) = p.over(Sampling::default()).check() {
            // It names options of the command line.
            let (option, rest) = what.split_once(' ').unwrap_or((&what, ""));
            return wrong(format!(
                "parameters: {} {rest}",
                option.trim_start_matches("--").replace('-', "_")
            ));
        }
        if p.max_tokens == Some(0) || p.ctx == Some(0) {
            return wrong("parameters: max_tokens and ctx must be above 0".into());
        }
        if let Some(template) = &self.template {
            let said = [chat::Message::new("user", "hi")];
            // One that refuses so short a talk may take others; one that cannot be read takes none.
            let rendered = chat::Chat::new(Some(template), "", "").render(&said, true);
            if let Some(note) = rendered.ok().and_then(|r| r.note) {
                return wrong(format!("template: {note}"));
            }
        }
        Ok(self)
    }

    /// This preset on another: what it says itself holds, and the rest is the other's. Its examples take the place of the
    /// other's.
    ///
    /// # Errors
    /// Both have an adapter.
    pub fn on(self, base: Preset) -> Result<Preset> {
        if self.adapter.is_some() && base.adapter.is_some() {
            return Err(Error::new("its base has an adapter too, and a model takes one"));
        }
        Ok(Preset {
            base: base.base,
            description: self.description,
            licence: self.licence.or(base.licence),
            system: self.system.or(base.system),
            template: self.template.or(base.template),
            adapter: self.adapter.or(base.adapter),
            parameters: self.parameters.on(base.parameters),
            messages: if self.messages.is_empty() { base.messages } else { self.messages },
        })
    }

    /// A conversation as the model gets it: the system message, unless `said` begins with its own; the examples; and what
    /// was said. `system` tells whether a message is one, `make` makes one of role and text.
    pub fn begin<M>(
        &self,
        said: Vec<M>,
        system: impl Fn(&M) -> bool,
        make: impl Fn(&str, &str) -> M,
    ) -> Vec<M> {
        let own = said.iter().take_while(|m| system(m)).count();
        let first = self.system.as_deref().filter(|text| own == 0 && !text.is_empty());
        let mut all: Vec<M> = first.map(|text| make("system", text)).into_iter().collect();
        let mut said = said.into_iter();
        all.extend(said.by_ref().take(own));
        all.extend(self.messages.iter().map(|m| make(&m.role, &m.content)));
        all.extend(said);
        all
    }
}

impl Parameters {
    fn is_empty(&self) -> bool {
        *self == Parameters::default()
    }

    fn on(self, base: Parameters) -> Parameters {
        Parameters {
            temperature: self.temperature.or(base.temperature),
            top_k: self.top_k.or(base.top_k),
            top_p: self.top_p.or(base.top_p),
            min_p: self.min_p.or(base.min_p),
            repeat_penalty: self.repeat_penalty.or(base.repeat_penalty),
            repeat_last_n: self.repeat_last_n.or(base.repeat_last_n),
            presence_penalty: self.presence_penalty.or(base.presence_penalty),
            frequency_penalty: self.frequency_penalty.or(base.frequency_penalty),
            seed: self.seed.or(base.seed),
            max_tokens: self.max_tokens.or(base.max_tokens),
            ctx: self.ctx.or(base.ctx),
            stop: self.stop.or(base.stop),
        }
    }

    /// As a server's request would say them.
    pub fn knobs(&self) -> Knobs {
        Knobs {
            temperature: self.temperature.map(|x| x as f32),
            top_k: self.top_k.map(|k| k as usize),
            // None at all is the likeliest alone.
            top_p: self.top_p.map(|p| (p as f32).max(f32::MIN_POSITIVE)),
            min_p: self.min_p.map(|x| x as f32),
            repeat_penalty: self.repeat_penalty.map(|x| x as f32),
            repeat_last_n: self.repeat_last_n.map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
            seed: self.seed.map(|seed| seed as u64),
            presence: self.presence_penalty.map(|x| x as f32),
            frequency: self.frequency_penalty.map(|x| x as f32),
        }
    }

    /// `defaults` with what is said here.
    pub fn over(&self, defaults: Sampling) -> Sampling {
        self.knobs().over(defaults)
    }

    /// Each that is set, as the file writes it.
    pub fn list(&self) -> Vec<(String, String)> {
        let table = Table::try_from(self).unwrap_or_default();
        PARAMETERS.iter().filter_map(|key| Some((key.to_string(), table.get(*key)?.to_string()))).collect()
    }
}

/// A preset with all that is below it.
#[derive(Clone, Debug, PartialEq)]
pub struct Settled {
    /// what it is called
    pub name: String,
    /// the names from its own base down to the model
    pub chain: Vec<String>,
    /// all of them together; its base is no preset
    pub preset: Preset,
}

/// Puts a preset on those below it.
///
/// # Errors
/// They lead back to one of themselves, or more than one has an adapter.
pub fn settle(name: &str, preset: &Preset, found: &Found) -> Result<Settled> {
    let of = |what: String| Error::new(format!("the preset {}: {what}", terminal::clean(name)));
    let (mut whole, mut chain, mut seen) = (preset.clone(), Vec::new(), vec![name.to_lowercase()]);
    loop {
        chain.push(whole.base.clone());
        let Some(next) = found.preset(&whole.base) else { break };
        if seen.contains(&next.name.to_lowercase()) || seen.len() > DEEPEST {
            let path = [name.to_string()].into_iter().chain(chain).collect::<Vec<_>>().join(" → ");
            return Err(of(format!("its base leads back to itself ({})", terminal::clean(&path))));
        }
        seen.push(next.name.to_lowercase());
        whole = whole.on(next.preset.clone()).map_err(|e| of(e.to_string()))?;
    }
    Ok(Settled { name: name.into(), chain, preset: whole })
}

/// Keys that there are not, with those that were perhaps meant.
fn known(table: &Table) -> Result<(), String> {
    let check = |key: &str, names: &[&'static str], place: &str| {
        if names.contains(&key) {
            return Ok(());
        }
        // The names that other programs have for the same.
        let other = match key {
            "from" | "model" => Some("base"),
            "license" => Some("licence"),
            "num_predict" | "max_new_tokens" => Some("max_tokens"),
            "num_ctx" | "context" => Some("ctx"),
            "prompt" | "system_prompt" => Some("system"),
            "lora" => Some("adapter"),
            _ => None,
        };
        let near = near::near(&near::plain(key), names.iter().map(|n| (near::plain(n), *n)));
        let near = other.filter(|o| names.contains(o)).map_or(near, |o| vec![o]);
        let meant = match near.is_empty() {
            true => format!("there are {}", names.join(", ")),
            false => format!("did you mean {}?", near.join(", ")),
        };
        Err(format!("{place}{} is no key; {meant}", terminal::clean(key)))
    };
    table.keys().try_for_each(|key| check(key, &KEYS, ""))?;
    let inner = table.get("parameters").and_then(Value::as_table).into_iter().flat_map(Table::keys);
    inner.into_iter().try_for_each(|key| check(key, &PARAMETERS, "parameters."))?;
    if !table.contains_key("base") {
        return Err("it names no base, the model to begin with (base = \"starter\")".into());
    }
    Ok(())
}

/// A small text file.
pub fn read_small(path: &Path) -> Result<String> {
    let length = std::fs::metadata(path).map_err(|e| Error::io("read", path, &e))?.len();
    if length > MAX_FILE {
        return Err(Error::new(format!(
            "{} is longer than {}",
            places::short(path),
            terminal::bytes(MAX_FILE)
        )));
    }
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, &e))?;
    String::from_utf8(bytes).map_err(|_| Error::new(format!("{} is not UTF-8 text", places::short(path))))
}

#[cfg(test)]
mod tests;
