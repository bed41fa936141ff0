//! What is told of models: their details, digests and abilities.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::details::Details;
use crate::serve::known::Known;
use crate::{file, naming, terminal};

/// What headers say, as long as the files are the same: listing models would otherwise open all of them each time.
#[derive(Default)]
pub struct Headers(Mutex<HashMap<PathBuf, Read>>);

struct Read {
    bytes: u64,
    modified: SystemTime,
    details: Value,
}

impl Headers {
    /// A model's details; of one that cannot be read, what is known without.
    pub fn of(&self, known: &Known) -> Value {
        let all = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(read) = all().get(&known.path)
            && (read.bytes, read.modified) == (known.bytes, known.modified)
        {
            return read.details.clone();
        }
        // What is no language model may make pictures.
        let read = Details::read(known.weights()).ok().or_else(|| Details::picture(&known.path).ok());
        let details = match read {
            Some(details) => as_json(known.weights(), &details),
            None => {
                json!({"parent_model": "", "format": format(known.weights()), "family": "", "families": null,
                "parameter_size": "", "quantization_level": ""})
            }
        };
        let Known { bytes, modified, .. } = *known;
        all().insert(known.path.clone(), Read { bytes, modified, details: details.clone() });
        details
    }
}

/// Details in Ollama's words.
pub fn as_json(path: &Path, details: &Details) -> Value {
    json!({
        "parent_model": "",
        "format": format(path),
        "family": details.architecture,
        "families": [details.architecture],
        "parameter_size": terminal::count(details.parameters),
        "quantization_level": details.quantization,
    })
}

fn format(path: &Path) -> &'static str {
    // Ollama's own blobs have no extension.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let gguf = naming::is_gguf(&name) || path.is_file() && !name.ends_with(".safetensors");
    if gguf { "gguf" } else { "safetensors" }
}

/// The SHA-256 by which caches call a file; where none does, one of what tells it from another: path, length and time.
pub fn digest(known: &Known) -> String {
    let real = known.path.canonicalize().unwrap_or_else(|_| known.path.clone());
    let name = real.file_name().unwrap_or_default().to_string_lossy();
    let name = name.strip_prefix("sha256-").unwrap_or(&name);
    if name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit()) {
        return name.into();
    }
    let mut hash = Sha256::new();
    hash.update(known.path.as_os_str().as_encoded_bytes());
    hash.update(known.bytes.to_le_bytes());
    let age = known.modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    hash.update(age.as_nanos().to_le_bytes());
    file::hex(&hash.finalize())
}

/// Whether a template makes its model think.
pub fn thinks(template: Option<&str>) -> bool {
    let signs = ["<think>", "enable_thinking", "reasoning_content", "reasoning_effort", "<|channel|>"];
    template.is_some_and(|t| signs.iter().any(|sign| t.contains(sign)))
}

/// What a model with that template is able to, in Ollama's words.
pub fn capabilities(template: Option<&str>) -> Vec<&'static str> {
    let mut all = vec!["completion"];
    if template.is_some_and(|t| t.contains("tools")) {
        all.push("tools");
    }
    if thinks(template) {
        all.push("thinking");
    }
    all
}
