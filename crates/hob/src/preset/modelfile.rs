//! Presets from what Ollama has: its Modelfiles, and the body of its `POST /api/create`
//! (docs/modelfile.md and docs/api.md of ollama/ollama).

use std::path::Path;

use hob_io::modelfile::{self, Command, Instruction};
use serde_json::Value;

use super::{PARAMETERS, Parameters, Preset, Said, read_small};
use crate::error::{Error, Result};
use crate::{near, places, terminal};

/// Parameters of Ollama that have no place here: how its runner is loaded, and ways to choose tokens that are no more.
const NO_PLACE: [&str; 20] = [
    "num_keep",
    "num_gpu",
    "main_gpu",
    "num_thread",
    "num_batch",
    "num_gqa",
    "use_mmap",
    "use_mlock",
    "low_vram",
    "numa",
    "f16_kv",
    "vocab_only",
    "logits_all",
    "embedding_only",
    "typical_p",
    "tfs_z",
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
    "penalize_newline",
];

/// What Ollama calls our parameters.
fn names() -> [&'static str; PARAMETERS.len()] {
    PARAMETERS.map(|name| match name {
        "max_tokens" => "num_predict",
        "ctx" => "num_ctx",
        same => same,
    })
}

/// Reads a Modelfile, and says what of it has no place in a preset.
///
/// # Errors
/// What is wrong, and in which line.
pub fn of_modelfile(path: &Path) -> Result<(Preset, Vec<String>)> {
    let at = places::short(path);
    let (preset, notes) = read(&read_small(path)?, &at)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let whole = preset.beside(folder).and_then(Preset::checked);
    Ok((whole.map_err(|e| Error::new(format!("{at}: {e}")))?, notes))
}

/// What a Modelfile says, which is called `at`; paths as they stand.
fn read(text: &str, at: &str) -> Result<(Preset, Vec<String>)> {
    let instructions = modelfile::parse(text).map_err(|bad| Error::new(format!("{at}, {bad}")))?;
    let (mut preset, mut notes) = (Preset::default(), Vec::new());
    for i in &instructions {
        let note =
            add(&mut preset, i).map_err(|what| Error::new(format!("{at}, line {}: {what}", i.line)))?;
        notes.extend(note.map(|what| format!("{at}, line {}: {what}", i.line)));
    }
    Ok((preset, notes))
}

fn add(preset: &mut Preset, i: &Instruction) -> Result<Option<String>, String> {
    match i.command {
        Command::From if !preset.base.is_empty() => return Err("there is a second FROM".into()),
        Command::From => preset.base = base(&i.value),
        Command::System => preset.system = Some(i.value.clone()),
        Command::Message => preset.messages.push(Said { role: i.key.clone(), content: i.value.clone() }),
        Command::Adapter if preset.adapter.is_some() => {
            return Err("there is a second ADAPTER, and a model takes one".into());
        }
        Command::Adapter => preset.adapter = Some(i.value.clone().into()),
        Command::License => licence(preset, &i.value),
        Command::Template => return Ok(template(preset, &i.value)),
        Command::Requires => return Ok(Some("REQUIRES is about Ollama itself and left out".into())),
        Command::Parameter => {
            return parameter(&mut preset.parameters, &i.key, &Value::String(i.value.clone()));
        }
    }
    Ok(None)
}

/// Ollama's name of a model as Hob has it: of the hub, `hf.co/owner/repo:quantization` is `hf:owner/repo:quantization`.
fn base(name: &str) -> String {
    let hub = ["hf.co/", "huggingface.co/"].iter().find_map(|host| name.strip_prefix(host));
    hub.map_or(name.to_string(), |rest| format!("hf:{rest}"))
}

fn licence(preset: &mut Preset, text: &str) {
    let all = preset.licence.take().into_iter().chain([text.trim().to_string()]);
    preset.licence =
        Some(all.filter(|t| !t.is_empty()).collect::<Vec<_>>().join("\n\n")).filter(|t| !t.is_empty());
}

/// A template in Jinja is one; Ollama's, in Go's language, is not.
fn template(preset: &mut Preset, text: &str) -> Option<String> {
    if text.contains("{%") {
        preset.template = Some(text.into());
        return None;
    }
    Some("TEMPLATE is in Go's language, which Hob does not read; the model's own template is used".into())
}

/// Sets one of Ollama's parameters. Its value may be a text, as in a Modelfile, or JSON. Returns what to say if it has no
/// place here.
fn parameter(p: &mut Parameters, name: &str, value: &Value) -> Result<Option<String>, String> {
    let shown = terminal::clean(name);
    let text = value.as_str().map_or(value.to_string(), str::to_string);
    let wrong = |kind: &str| format!("{shown} is {}, and must be {kind}", terminal::clean(&text));
    let number =
        || text.trim().parse::<f64>().ok().filter(|x| x.is_finite()).ok_or_else(|| wrong("a number"));
    let whole = || {
        let whole = |x: &f64| x.fract() == 0.0 && x.abs() < 9e15;
        number().ok().filter(whole).map(|x| x as i64).ok_or_else(|| wrong("a whole number"))
    };
    let count =
        || whole().and_then(|n| u32::try_from(n).map_err(|_| wrong("a whole number that is not below 0")));
    match name {
        "temperature" => p.temperature = Some(number()?),
        "top_k" => p.top_k = Some(whole()?.max(0) as u32),
        "top_p" => p.top_p = Some(number()?),
        "min_p" => p.min_p = Some(number()?),
        "repeat_penalty" => p.repeat_penalty = Some(number()?),
        "repeat_last_n" => p.repeat_last_n = Some(whole()?),
        "presence_penalty" => p.presence_penalty = Some(number()?),
        "frequency_penalty" => p.frequency_penalty = Some(number()?),
        "seed" => p.seed = Some(whole()?),
        "num_ctx" => p.ctx = Some(count()?),
        // Below 0: until the model ends, or the context is full.
        "num_predict" if whole()? < 0 => p.max_tokens = None,
        "num_predict" => p.max_tokens = Some(count()?),
        "stop" => {
            let more: Vec<String> = match value {
                Value::Array(all) => {
                    let texts = all.iter().map(|v| v.as_str().map(String::from));
                    texts.collect::<Option<_>>().ok_or_else(|| wrong("a text or several"))?
                }
                Value::String(one) => vec![one.clone()],
                _ => return Err(wrong("a text or several")),
            };
            p.stop.get_or_insert_default().extend(more);
        }
        _ if NO_PLACE.contains(&name) => {
            return Ok(Some(format!("PARAMETER {shown} has no place in Hob and is left out")));
        }
        _ => {
            let near = near::near(&near::plain(name), names().map(|n| (near::plain(n), n)));
            let meant = match near.is_empty() {
                true => format!("there are {}", names().join(", ")),
                false => format!("did you mean {}?", near.join(", ")),
            };
            return Err(format!("{shown} is no parameter; {meant}"));
        }
    }
    Ok(None)
}

/// Reads the body of Ollama's `POST /api/create`: `from`, `system`, `parameters`, `messages`, `template`, `license`, and in
/// place of them or below them the `modelfile` of older clients. The name under `model` is the caller's to take, and to find
/// the base by its name among the models of this machine, before [`super::save`]: nothing here looks for a file. Also what
/// has no place in a preset.
///
/// # Errors
/// What is wrong with it; that it would upload files, or name a path, which only a person here may.
pub fn of_request(body: &Value) -> Result<(Preset, Vec<String>)> {
    let fail = |what: &str| Error::new(what.to_string());
    let text = |key: &str| match &body[key] {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.clone())),
        _ => Err(Error::new(format!("`{key}` must be a text"))),
    };
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Object(all) => all.is_empty(),
        _ => false,
    };
    for key in ["files", "adapters", "quantize", "path"] {
        if !empty(&body[key]) {
            return Err(Error::new(format!(
                "`{key}` is not taken: Hob makes presets of models that are on this machine (hob create reads Modelfiles and adapters)"
            )));
        }
    }
    let (mut preset, mut notes) = match text("modelfile")?.filter(|text| !text.is_empty()) {
        Some(text) => read(&text, "modelfile")?,
        None => Default::default(),
    };
    if preset.adapter.is_some() {
        return Err(fail(
            "ADAPTER names a file, which only a person on this machine may: hob create -f Modelfile",
        ));
    }
    if let Some(from) = text("from")?.filter(|from| !from.is_empty()) {
        preset.base = base(&from);
    }
    if preset.base.is_empty() {
        return Err(fail("`from` is missing: the model to begin with"));
    }
    if preset.base.contains('\\') || preset.base.starts_with(['.', '/', '~']) {
        return Err(fail("`from` must be a model's name; hob create takes paths"));
    }
    preset.system = text("system")?.or(preset.system);
    notes.extend(text("template")?.filter(|t| !t.is_empty()).and_then(|t| template(&mut preset, &t)));
    match &body["license"] {
        Value::Null => {}
        Value::String(one) => licence(&mut preset, one),
        Value::Array(all) => all.iter().filter_map(Value::as_str).for_each(|t| licence(&mut preset, t)),
        _ => return Err(fail("`license` must be a text or several")),
    }
    match &body["parameters"] {
        Value::Null => {}
        Value::Object(all) => {
            for (name, value) in all {
                let note = parameter(&mut preset.parameters, name, value);
                notes.extend(note.map_err(|what| Error::new(format!("`parameters`: {what}")))?);
            }
        }
        _ => return Err(fail("`parameters` must be an object")),
    }
    if !body["messages"].is_null() {
        let messages = serde_json::from_value::<Vec<Message>>(body["messages"].clone());
        let messages =
            messages.map_err(|_| fail("`messages` must be a list of objects with `role` and `content`"))?;
        if messages.iter().any(|m| !empty(&m.images) && m.images != serde_json::json!([])) {
            return Err(fail("`messages` hold pictures, and a preset's examples are texts"));
        }
        preset.messages = messages.into_iter().map(|m| Said { role: m.role, content: m.content }).collect();
    }
    Ok((preset.checked()?, notes))
}

/// As Ollama has them, with fields that are nothing here.
#[derive(serde::Deserialize)]
struct Message {
    role: String,
    content: String,
    #[serde(default)]
    images: Value,
}
