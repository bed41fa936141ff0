//! From what a person typed to a model: a path, a name from `hob list`, a name of the catalogue, or `hf:`.

use std::path::{Path, PathBuf};

use super::{Found, Model, Place};
use crate::catalogue::{self, Entry};
use crate::error::{Error, Result};
use crate::hub::Spec;
use crate::near::{near, plain};
use crate::preset::{Settled, settle};
use crate::{naming, terminal};

/// What a name stands for.
#[derive(Debug)]
pub enum Wanted {
    /// A path that the person gave: a GGUF file or a folder.
    Path(PathBuf),
    /// A model found on this machine.
    Here(Box<Model>),
    /// A catalogued model that is not on this machine yet.
    Catalogue(&'static Entry),
    /// A repository of which nothing fitting is on this machine yet.
    Hub(Spec),
}

/// Resolves `text` against what was found on this machine. A preset stands for the model it is made of; who runs it looks
/// for it first ([`Found::preset`]).
pub fn resolve(text: &str, found: &Found) -> Result<Wanted> {
    let Some(kept) = found.preset(text) else { return resolve_model(text, found) };
    let settled = settle(&kept.name, &kept.preset, found)?;
    let base = &settled.preset.base;
    if settled.preset.adapter.is_some() {
        let (name, base) = (&settled.name, terminal::clean(base));
        return Err(Error::new(format!(
            "{name} is {base} with an adapter, which this leaves out; name {base} itself"
        )));
    }
    of_preset(&settled, found)
}

/// The model that a preset is made of.
pub fn of_preset(settled: &Settled, found: &Found) -> Result<Wanted> {
    let why = |e: Error| Error::new(format!("the preset {} has no base: {e}", settled.name));
    resolve_model(&settled.preset.base, found).map_err(why)
}

/// The same where no preset is meant.
pub fn resolve_model(text: &str, found: &Found) -> Result<Wanted> {
    let here = |m: &Model| Wanted::Here(Box::new(m.clone()));
    if let Some(m) = found.models.iter().find(|m| m.name == text || m.qualified == text) {
        return Ok(here(m));
    }
    if let Some(spec) = text.strip_prefix("hf:") {
        return hub(&Spec::parse(spec)?, found);
    }
    if let Some(entry) = catalogue::find(text) {
        let ready = found.models.iter().find(|m| m.alias == Some(entry.name));
        return Ok(ready.map_or(Wanted::Catalogue(entry), here));
    }
    let path = Path::new(text);
    if path.is_file() || ["config.json", "model_index.json"].iter().any(|name| path.join(name).is_file()) {
        return Ok(Wanted::Path(path.to_path_buf()));
    }
    let lower = text.to_lowercase();
    // Ollama's tag may be left out, as Ollama has it.
    let is = |name: &str| name == lower || name.strip_suffix(":latest") == Some(&lower);
    let same = |m: &&Model| [&m.name, &m.qualified].iter().any(|n| is(&n.to_lowercase()));
    let begins = |m: &&Model| {
        let bare = m.qualified.split_once(':').map_or("", |(_, rest)| rest);
        !lower.is_empty() && [m.name.as_str(), bare].iter().any(|n| n.to_lowercase().starts_with(&lower))
    };
    let exact: Vec<&Model> = found.models.iter().filter(same).collect();
    let matching = if exact.is_empty() { found.models.iter().filter(begins).collect() } else { exact };
    match matching[..] {
        [one] => Ok(here(one)),
        [] => Err(unknown(text, found)),
        _ => Err(Error::new(format!(
            "{} names several models; say which: {}",
            terminal::clean(text),
            join(matching.iter().map(|m| m.name.as_str()))
        ))),
    }
}

/// A model of that repository on this machine, else the wish to fetch it.
fn hub(spec: &Spec, found: &Found) -> Result<Wanted> {
    let prefix = format!("hf:{}", spec.repo);
    let of_repo = |m: &&Model| {
        let rest = m.qualified.strip_prefix(&prefix);
        m.place == Place::HuggingFace && rest.is_some_and(|r| r.is_empty() || r.starts_with(':'))
    };
    let fits = |m: &&Model| {
        let Some(wanted) = &spec.file else { return true };
        let file = m.qualified[prefix.len()..].trim_start_matches(':');
        let whole = naming::split(wanted).map_or(wanted.as_str(), |(stem, ..)| stem);
        file == whole || naming::quantization(file).is_some_and(|q| q.eq_ignore_ascii_case(wanted))
    };
    // A revision other than main is asked of the hub, which knows its commit.
    let all: Vec<&Model> = match spec.revision.as_str() {
        "main" => found.models.iter().filter(of_repo).filter(fits).collect(),
        _ => Vec::new(),
    };
    match all[..] {
        [one] => Ok(Wanted::Here(Box::new(one.clone()))),
        [] => Ok(Wanted::Hub(spec.clone())),
        _ => Err(Error::new(format!(
            "several models of {} are on this machine; say which: {}",
            spec.repo,
            join(all.iter().map(|m| m.name.as_str()))
        ))),
    }
}

fn unknown(text: &str, found: &Found) -> Error {
    let shown = terminal::clean(text);
    if naming::is_gguf(text) || text.starts_with(['.', '/', '~']) {
        return Error::new(format!(
            "there is no file or model folder {shown}; hob list shows the models here"
        ));
    }
    let presets = found.presets.iter().map(|p| p.name.as_str());
    let names = found.models.iter().map(|m| m.name.as_str()).chain(presets);
    let names: Vec<&str> = names.chain(catalogue::CATALOGUE.iter().map(|e| e.name)).collect();
    let near = near(&plain(text), names.iter().map(|name| (plain(name), *name)));
    let meant =
        if near.is_empty() { String::new() } else { format!("; did you mean {}?", join(near.into_iter())) };
    let advice = match text.split('/').count() {
        2 => format!(" (from the hub: hob pull hf:{shown})"),
        _ => " (hob list shows those here, hob pull starter fetches a small one)".to_string(),
    };
    Error::new(format!("there is no model named {shown} on this machine{meant}{advice}"))
}

fn join<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.map(terminal::clean).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str, qualified: &str, place: Place) -> Model {
        Model {
            name: name.into(),
            qualified: qualified.into(),
            alias: None,
            place,
            kind: super::super::Kind::Text,
            path: name.into(),
            files: Vec::new(),
            bytes: 1,
            layers: Vec::new(),
        }
    }

    fn found() -> Found {
        let hf = Place::HuggingFace;
        let models = vec![
            model("llama3.2:1b", "ollama:llama3.2:1b", Place::Ollama),
            model("llama3.2:3b", "ollama:llama3.2:3b", Place::Ollama),
            model("Qwen3-4B-Q4_K_M", "hf:o/Qwen3-4B-GGUF:Qwen3-4B-Q4_K_M.gguf", hf),
            model("o/tiny", "hf:o/tiny", hf),
        ];
        Found { models, ..Found::default() }
    }

    fn name(text: &str) -> Result<String, String> {
        match resolve(text, &found()).map_err(|e| e.to_string())? {
            Wanted::Here(m) => Ok(m.name),
            other => Ok(format!("{other:?}")),
        }
    }

    #[test]
    fn names_resolve() {
        assert_eq!(name("llama3.2:1b").unwrap(), "llama3.2:1b");
        assert_eq!(name("ollama:llama3.2:3b").unwrap(), "llama3.2:3b");
        assert_eq!(name("qwen").unwrap(), "Qwen3-4B-Q4_K_M");
        assert_eq!(name("O/TINY").unwrap(), "o/tiny");
        assert_eq!(name("hf:o/tiny").unwrap(), "o/tiny");
        assert_eq!(name("hf:o/Qwen3-4B-GGUF").unwrap(), "Qwen3-4B-Q4_K_M");
        assert_eq!(name("hf:o/Qwen3-4B-GGUF:q4_k_m").unwrap(), "Qwen3-4B-Q4_K_M");
        assert!(name("hf:o/Qwen3-4B-GGUF:Q8_0").unwrap().starts_with("Hub"));
        assert!(name("hf:o/tin").unwrap().starts_with("Hub"));
        assert!(name("starter").unwrap().starts_with("Catalogue"));
    }

    #[test]
    fn unclear_names_are_explained() {
        assert!(name("llama").unwrap_err().contains("llama3.2:1b, llama3.2:3b"));
        assert!(name("startr").unwrap_err().contains("did you mean starter?"));
        assert!(name("owner/thing").unwrap_err().contains("hob pull hf:owner/thing"));
        assert!(name("./no.gguf").unwrap_err().contains("no file or model folder ./no.gguf"));
        assert!(name("").is_err());
    }
}
