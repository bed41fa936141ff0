//! Files with networks in them, and where the files that belong to a denoiser may lie.

use super::{
    Family, Role,
    found::{Found, Kind, networks},
    infer, names,
    part::Part,
    scale,
};
use crate::{
    Error, Result,
    map::{parse_json, read_small},
    weights::{Weights, is_index},
};
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// Of configurations.
pub(super) const MAX_CONFIG: u64 = 1 << 20;
/// Files of a folder that are looked into for parts of a model.
const MAX_LOOKED: usize = 256;

/// An open file (or all those of an index) and the networks in it.
#[derive(Debug)]
pub(super) struct Opened {
    pub path: PathBuf,
    pub weights: Arc<Weights>,
    pub networks: Vec<Found>,
}

impl Opened {
    pub fn open(path: &Path) -> Result<Opened> {
        Opened::of(Weights::open(path)?, path)
    }

    pub fn of(weights: Weights, path: &Path) -> Result<Opened> {
        let networks = networks(&weights, path)?;
        Ok(Opened { path: path.into(), weights: Arc::new(weights), networks })
    }

    /// The network as a part, with the configuration beside it or what its tensors tell, and what a file
    /// `NAME.config.json` beside `NAME.safetensors` says in its place.
    pub fn part(&self, found: &Found, role: Role, family: Option<Family>) -> Result<Part> {
        let named = names::canonical(found, self.weights.files().len(), &self.path)?;
        let mut part = Part {
            role,
            config: Value::Null,
            scales: scale::of(&self.weights, &named.tensors, &self.path)?,
            tensors: named.tensors,
            files: self.weights.clone(),
            copies: named.copies,
            inferred: true,
        };
        if let Some(config) = self.stated(found)? {
            (part.config, part.inferred) = (config, false);
        } else {
            part.config = infer::config(found, &part.tensors).ok_or_else(|| {
                let what = format!("tensors that every {} has are missing from it", kind_name(found.kind));
                Error::damaged(&self.path, what)
            })?;
            // How large latents are does not show in a VAE's tensors.
            if let (Kind::Vae, Some(family)) = (found.kind, family) {
                let (scale, shift) = family.latent_scale();
                merge(&mut part.config, &json!({ "scaling_factor": scale, "shift_factor": shift }));
            }
        }
        if found.kind == Kind::Flux && self.is_kontext() {
            merge(&mut part.config, &json!({ "kontext": true }));
        }
        if let Some(says) = self.says()? {
            let section = if found.kind == Kind::Flux { "transformer" } else { role.name() };
            merge(&mut part.config, &says[section]);
        }
        Ok(part)
    }

    /// `config.json` beside the weights, where it is of this network and no other.
    fn stated(&self, found: &Found) -> Result<Option<Value>> {
        let Some(config) = self.beside("config.json")? else { return Ok(None) };
        let class = config["_class_name"].as_str().unwrap_or_default();
        let model = config["model_type"].as_str().unwrap_or_default();
        let fits = match found.kind {
            Kind::Unet => class == "UNet2DConditionModel",
            Kind::Flux => class == "FluxTransformer2DModel",
            Kind::Vae => class == "AutoencoderKL",
            Kind::TinyVae => class == "AutoencoderTiny",
            Kind::ControlNet => class == "ControlNetModel",
            Kind::FluxControlNet => class == "FluxControlNetModel",
            Kind::Clip => model.starts_with("clip"),
            Kind::T5 => model == "t5",
        };
        // What lies beside a file of several networks is of one of them at most.
        Ok(Some(config).filter(|_| fits && self.networks.len() == 1))
    }

    /// Whether a Flux edits the picture that it sees: by what its metadata call it, or by its name. Nothing else in its file
    /// differs from dev's, and other programs leave it to the person to say.
    fn is_kontext(&self) -> bool {
        let named = |text: &str| text.to_lowercase().contains("kontext");
        let metadata = match &*self.weights {
            Weights::Safetensors(weights) => {
                weights.metadata().iter().any(|(key, value)| key.starts_with("modelspec.") && named(value))
            }
            Weights::Gguf(gguf) => ["general.name", "general.basename", "general.finetune"]
                .iter()
                .any(|key| gguf.get(key).and_then(|v| v.str()).is_some_and(named)),
        };
        metadata || self.path.file_name().and_then(|n| n.to_str()).is_some_and(named)
    }

    /// What a person wrote beside a file of several networks: `NAME.config.json`, by the names of diffusers' folders.
    pub fn says(&self) -> Result<Option<Value>> {
        match self.path.file_stem().and_then(|s| s.to_str()) {
            Some(stem) => self.beside(&format!("{stem}.config.json")),
            None => Ok(None),
        }
    }

    /// The text of a file of that name beside the weights; nothing is beside headers alone.
    pub fn text_beside(&self, name: &str) -> Result<Option<String>> {
        if self.weights.maps().is_empty() {
            return Ok(None);
        }
        read_small(&self.path.with_file_name(name), MAX_CONFIG)
    }

    fn beside(&self, name: &str) -> Result<Option<Value>> {
        let Some(text) = self.text_beside(name)? else { return Ok(None) };
        let path = self.path.with_file_name(name);
        match parse_json(&text, &path)? {
            config @ Value::Object(_) => Ok(Some(config)),
            _ => Err(Error::damaged(&path, "it is no configuration")),
        }
    }

    /// The network that makes pictures from noise, if it is in there.
    pub fn denoiser(&self) -> Option<&Found> {
        self.networks.iter().find(|n| matches!(n.kind, Kind::Unet | Kind::Flux))
    }
}

/// What errors call a network.
pub(super) fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Unet => "UNet",
        Kind::Flux => "Flux transformer",
        Kind::Vae => "VAE",
        Kind::TinyVae => "tiny VAE for previews",
        Kind::Clip => "CLIP text encoder",
        Kind::T5 => "T5 encoder",
        Kind::ControlNet => "ControlNet",
        Kind::FluxControlNet => "Flux ControlNet",
    }
}

/// Puts the fields of `over` in the place of those of `config`.
pub(super) fn merge(config: &mut Value, over: &Value) {
    if let (Some(config), Value::Object(over)) = (config.as_object_mut(), over) {
        config.extend(over.clone());
    }
}

/// Folders where the other parts of a denoiser's file may lie: beside it, in subfolders as a diffusers folder has them,
/// and in ComfyUI's folders beside its own.
pub(super) fn folders(file: &Path) -> Vec<PathBuf> {
    let own = match file.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Vec::new(),
    };
    let mut folders = vec![own.to_owned()];
    folders.extend(
        ["vae", "text_encoder", "text_encoder_2", "text_encoders", "clip"].map(|name| own.join(name)),
    );
    // ComfyUI's models/unet may have folders of its own. A path of one name has no parent but "..".
    let above = |folder: &Path, n| -> Option<PathBuf> {
        let absolute = folder.canonicalize().ok()?;
        absolute.ancestors().nth(n).map(Path::to_owned)
    };
    for up in [above(own, 1), above(own, 2)].into_iter().flatten() {
        folders.extend(["vae", "vae_approx", "text_encoders", "clip"].map(|name| up.join(name)));
    }
    folders.retain(|folder| folder.is_dir());
    folders
}

/// The files of a folder that may hold networks, in the order of their names.
pub(super) fn candidates(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    files.retain(|path| {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let shard =
            name.split_once("-of-").is_some_and(|(before, _)| before.ends_with(|c: char| c.is_ascii_digit()));
        let weights = [".safetensors", ".gguf", ".sft"].iter().any(|end| name.ends_with(end));
        !name.starts_with('.') && (weights && !shard || is_index(path)) && path.is_file()
    });
    files.sort_unstable();
    files.truncate(MAX_LOOKED);
    files
}
