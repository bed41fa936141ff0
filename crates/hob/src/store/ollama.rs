//! Ollama's store: `manifests/HOST/NAMESPACE/NAME/TAG` lists layers by digest, `blobs/sha256-DIGEST` holds them.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Found, Kind, Model, Place, walk};
use crate::places;

const KIND: &str = "application/vnd.ollama.image.";

/// Adds every model whose manifest and weights can be read.
pub fn scan(root: &Path, found: &mut Found) {
    let manifests = root.join("manifests");
    for file in walk(&manifests, 4) {
        let parts: Vec<&str> = file.split('/').collect();
        let [host, middle @ .., name, tag] = &parts[..] else { continue };
        if name.starts_with('.') || tag.starts_with('.') {
            continue;
        }
        let space = middle.join("/");
        let short = match (*host, space.as_str()) {
            ("registry.ollama.ai", "library") => format!("{name}:{tag}"),
            ("registry.ollama.ai", _) => format!("{space}/{name}:{tag}"),
            _ => format!("{host}/{space}/{name}:{tag}"),
        };
        match read(root, &manifests.join(&file), &short) {
            Ok(model) => found.models.push(model),
            Err(why) => {
                found.notes.push(format!("Ollama's {} is left out: {why}", crate::terminal::clean(&short)))
            }
        }
    }
}

fn read(root: &Path, manifest: &Path, name: &str) -> Result<Model, String> {
    let length = fs::metadata(manifest).map_err(|e| crate::error::plain(&e))?.len();
    if length > 1 << 20 {
        return Err("its manifest is too long".into());
    }
    let text = fs::read(manifest).map_err(|e| crate::error::plain(&e))?;
    let manifest: Value = serde_json::from_slice(&text).map_err(|_| "its manifest is not JSON")?;
    let mut weights: Option<PathBuf> = None;
    let mut layers = Vec::new();
    for layer in manifest["layers"].as_array().ok_or("its manifest has no layers")? {
        let Some(kind) = layer["mediaType"].as_str().and_then(|m| m.strip_prefix(KIND)) else { continue };
        if kind != "model" {
            layers.push(crate::terminal::clean(kind));
        } else if weights.is_none() {
            let digest = layer["digest"].as_str().and_then(|d| d.strip_prefix("sha256:"));
            let digest = digest
                .filter(|d| d.len() == 64 && d.bytes().all(|b| b.is_ascii_hexdigit()))
                .ok_or("its manifest names no valid digest")?;
            weights = Some(root.join("blobs").join(format!("sha256-{digest}")));
        }
    }
    let path = weights.ok_or("it has no weights on this machine")?;
    let bytes = fs::metadata(&path)
        .map_err(|e| format!("{}: {}", places::short(&path), crate::error::plain(&e)))?
        .len();
    Ok(Model {
        name: name.to_string(),
        qualified: format!("ollama:{name}"),
        alias: None,
        place: Place::Ollama,
        kind: Kind::Text,
        files: vec![path.clone()],
        path,
        bytes,
        layers,
    })
}
