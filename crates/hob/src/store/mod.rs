//! Models on this machine, found where they lie: nothing is copied into a format or a folder of Hob's own.

mod comfy;
mod folders;
mod hugging_face;
mod ollama;
mod pictures;
mod remove;
mod resolve;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::preset::{self, Kept};
use crate::{catalogue, naming, places};

pub use pictures::is_picture;
pub use remove::remove;
pub use resolve::{Wanted, of_preset, resolve, resolve_model};

/// Whose folder a model lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Hob's own folder.
    Hob,
    /// The Hugging Face cache.
    HuggingFace,
    /// LM Studio's folder.
    LmStudio,
    /// Ollama's store.
    Ollama,
    /// ComfyUI's folders.
    ComfyUi,
}

impl Place {
    /// What a person calls it.
    pub fn name(self) -> &'static str {
        match self {
            Place::Hob => "Hob",
            Place::HuggingFace => "Hugging Face",
            Place::LmStudio => "LM Studio",
            Place::Ollama => "Ollama",
            Place::ComfyUi => "ComfyUI",
        }
    }
}

/// What a model makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// Text, or vectors of it.
    #[default]
    Text,
    /// Pictures.
    Image,
    /// Maps of heights.
    Terrain,
}

impl Kind {
    /// What programs read.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Text => "model",
            Kind::Image => "image",
            Kind::Terrain => "terrain",
        }
    }
}

/// A model on this machine.
#[derive(Clone, Debug)]
pub struct Model {
    /// What a person types: short where that is unique, else [`Model::qualified`].
    pub name: String,
    /// A name with its place: `hf:owner/repo:file`, `ollama:name:tag`, `lmstudio:…`, `hob:…`.
    pub qualified: String,
    /// Its name in the catalogue, when it is one of those files.
    pub alias: Option<&'static str>,
    /// Whose folder it lies in.
    pub place: Place,
    /// What it makes.
    pub kind: Kind,
    /// What to open: a GGUF file (the first of a split one), a folder of safetensors, or a safetensors file.
    pub path: PathBuf,
    /// Everything that belongs to it.
    pub files: Vec<PathBuf>,
    /// Their length together.
    pub bytes: u64,
    /// What lies beside the weights in Ollama's store: `template`, `params`, `license` and so on.
    pub layers: Vec<String>,
}

/// What was found, and remarks about entries that could not be read.
#[derive(Default)]
pub struct Found {
    /// The models, sorted by name.
    pub models: Vec<Model>,
    /// What is made of them, sorted by name.
    pub presets: Vec<Kept>,
    /// One sentence for each broken entry.
    pub notes: Vec<String>,
}

impl Found {
    /// The preset of that name.
    pub fn preset(&self, name: &str) -> Option<&Kept> {
        preset::find(name, &self.presets)
    }
}

/// Looks into every place. Never fails: what is broken becomes a note.
pub fn discover() -> Found {
    let mut found = Found::default();
    if let Ok(own) = places::own_models() {
        folders::scan(&own, Place::Hob, &mut found);
    }
    if let Ok(cache) = places::hub_cache() {
        hugging_face::scan(&cache, &mut found);
    }
    for root in places::lm_studio() {
        folders::scan(&root, Place::LmStudio, &mut found);
    }
    for root in places::ollama() {
        ollama::scan(&root, &mut found);
    }
    for root in places::comfy_ui() {
        comfy::scan(&root, &mut found);
    }
    let mut uses: HashMap<String, usize> = HashMap::new();
    for model in &found.models {
        *uses.entry(model.name.to_lowercase()).or_default() += 1;
    }
    for model in &mut found.models {
        if uses[&model.name.to_lowercase()] > 1 {
            model.name = model.qualified.clone();
        }
    }
    let (presets, notes) = preset::all();
    found.presets = presets;
    found.notes.extend(notes);
    found.models.sort_by_cached_key(|m| (m.name.to_lowercase(), m.place, m.path.clone()));
    found
}

/// A GGUF of `files` (all parts of it), called by its file's name.
fn gguf(place: Place, qualified: String, files: Vec<PathBuf>, found: &mut Found) {
    let Some(path) = files.first().cloned() else { return };
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if let Some((_, _, of)) = naming::split(&file)
        && files.len() != of as usize
    {
        found.notes.push(format!(
            "{} has {} of its {of} parts, so it is left out",
            places::short(&path),
            files.len()
        ));
        return;
    }
    let mut bytes = 0u64;
    for file in &files {
        match fs::metadata(file) {
            Ok(m) if m.is_file() => bytes = bytes.saturating_add(m.len()),
            Ok(_) => return,
            Err(e) => {
                let why = crate::error::plain(&e);
                found.notes.push(format!("{} cannot be read: {why}", places::short(file)));
                return;
            }
        }
    }
    let kind = if files.len() == 1 && pictures::is_picture(&path) { Kind::Image } else { Kind::Text };
    let alias = catalogue::of_file(&file, bytes).map(|e| e.name);
    let name = naming::stem(&file).to_string();
    found.models.push(Model { name, qualified, alias, place, kind, path, files, bytes, layers: Vec::new() });
}

/// The files below a folder as sorted paths relative to it, with `/` between parts; links to folders are not followed.
fn walk(root: &Path, depth: usize) -> Vec<String> {
    fn go(dir: &Path, prefix: &str, depth: usize, out: &mut Vec<String>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            match entry.file_type() {
                Ok(t) if t.is_dir() && depth > 0 => go(&entry.path(), &format!("{name}/"), depth - 1, out),
                Ok(t) if !t.is_dir() => out.push(name),
                _ => {}
            }
        }
    }
    let mut out = Vec::new();
    go(root, "", depth, &mut out);
    out.sort();
    out
}

/// Groups GGUF models among relative paths: a split file's parts together, under their common name.
fn groups(files: &[String]) -> Vec<(String, Vec<String>)> {
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for file in files.iter().filter(|f| naming::is_model(f)) {
        let key = naming::split(file).map_or(file.as_str(), |(stem, ..)| stem);
        match groups.iter_mut().find(|(k, _)| k == key) {
            Some((_, members)) => members.push(file.clone()),
            None => groups.push((key.to_string(), vec![file.clone()])),
        }
    }
    groups
}
