//! A diffusers folder: `model_index.json` and a subfolder for each part.

use super::{Role, file::MAX_CONFIG, missing::Missing};
use crate::{
    Error, Result,
    map::{parse_json, read_small},
    weights::PICKLE,
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// What `model_index.json` lists, by folder: the names of library and class.
pub(super) fn index(folder: &Path) -> Result<Option<Value>> {
    let path = folder.join("model_index.json");
    let Some(text) = read_small(&path, MAX_CONFIG)? else { return Ok(None) };
    match parse_json(&text, &path)? {
        index @ Value::Object(_) => Ok(Some(index)),
        _ => Err(Error::damaged(&path, "it is no list of a model's parts")),
    }
}

/// The file of each part that an index lists, and why there is none of others; those given elsewhere are left out.
pub(super) fn parts(
    folder: &Path,
    index: &Value,
    given: &[(Role, PathBuf)],
) -> Result<(BTreeMap<Role, PathBuf>, BTreeMap<Role, Missing>)> {
    const FOLDERS: [(&str, Role); 5] = [
        ("unet", Role::Denoiser),
        ("transformer", Role::Denoiser),
        ("vae", Role::Vae),
        ("text_encoder", Role::TextEncoder),
        ("text_encoder_2", Role::TextEncoder2),
    ];
    let (mut files, mut missing) = (BTreeMap::new(), BTreeMap::new());
    for (name, role) in FOLDERS {
        // A part that a pipeline does without is listed as [null, null].
        let elsewhere = role != Role::Denoiser && given.iter().any(|(r, _)| *r == role);
        if elsewhere || !index[name][1].is_string() {
            continue;
        }
        let part = folder.join(name);
        match part.is_dir() {
            true => {
                files.insert(role, weights_in(&part)?);
            }
            false => {
                missing.insert(role, Missing::Folder(part));
            }
        }
    }
    Ok((files, missing))
}

/// The folder or file of a tokenizer, by the text encoder that it is for.
pub(super) fn tokenizers(folder: &Path) -> BTreeMap<Role, PathBuf> {
    let named = [("tokenizer", Role::TextEncoder), ("tokenizer_2", Role::TextEncoder2)];
    named
        .into_iter()
        .map(|(name, role)| (role, folder.join(name)))
        .filter(|(_, path)| path.is_dir())
        .collect()
}

/// The file by which the network in a folder is opened: safetensors, their index, or a GGUF. Of several variants
/// (`model.fp16.safetensors`) the plain one, as diffusers takes it, else the one in 16 bits.
pub(super) fn weights_in(folder: &Path) -> Result<PathBuf> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|e| Error::read(folder, e))? {
        names.extend(entry.map_err(|e| Error::read(folder, e))?.file_name().into_string().ok());
    }
    names.retain(|name| !name.starts_with('.'));
    names.sort_unstable();
    let rank = |name: &&String| {
        let index = crate::weights::is_index(Path::new(name));
        let weights = index || name.ends_with(".safetensors") && !is_shard(name);
        let known = name.starts_with("diffusion_pytorch_model") || name.starts_with("model");
        let variant = match () {
            _ if name.contains("non_ema") => 4,
            _ if name.contains(".fp16.") => 1,
            _ if name.contains(".bf16.") => 2,
            _ if name.replace(".safetensors", "").replace(".index.json", "").contains('.') => 3,
            _ => 0,
        };
        weights.then_some((!known, variant, index))
    };
    let mut ranked: Vec<_> = names.iter().filter_map(|name| Some((rank(&name)?, name))).collect();
    ranked.sort();
    // Of names that no program gives, none is the plain one.
    let unknown = ranked.iter().filter(|((unknown, ..), _)| *unknown).count();
    match ranked.first() {
        Some(((true, ..), _)) if unknown > 1 => {
            return Err(several(folder, &ranked.iter().map(|(_, name)| *name).collect::<Vec<_>>()));
        }
        Some((_, name)) => return Ok(folder.join(name)),
        None => {}
    }
    let ending = |end: &str| names.iter().filter(|name| name.ends_with(end)).collect::<Vec<_>>();
    match ending(".gguf").as_slice() {
        [name] => Ok(folder.join(name)),
        [] if [".bin", ".pt", ".pth", ".ckpt"].iter().any(|end| !ending(end).is_empty()) => Err(
            Error::unsupported(folder, PICKLE.replace("it is a PyTorch pickle", "it holds a PyTorch pickle")),
        ),
        [] => Err(Error::unsupported(folder, "there is no safetensors or GGUF file in it")),
        names => Err(several(folder, names)),
    }
}

fn several(folder: &Path, names: &[&String]) -> Error {
    let list = names.iter().map(|s| s.as_str()).collect::<Vec<_>>().join(", ");
    Error::unsupported(folder, format!("it holds several models; give the path of one: {list}"))
}

/// Whether a name is that of one of several files that an index lists: `…-00001-of-00002…`.
fn is_shard(name: &str) -> bool {
    name.split_once("-of-")
        .is_some_and(|(before, _)| before.len() >= 6 && before.as_bytes()[before.len() - 6] == b'-')
}
