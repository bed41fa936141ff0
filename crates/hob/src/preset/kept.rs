//! Presets on this machine: `presets/NAME.toml` among Hob's data.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use hob_io::{Adapter, Checkpoint};

use super::{MAX_FILE, Preset, settle};
use crate::catalogue;
use crate::error::{Error, Result};
use crate::serve::Known;
use crate::store::{self, Found};
use crate::{file, places, terminal};

/// A preset on this machine.
#[derive(Clone, Debug)]
pub struct Kept {
    /// what it is called
    pub name: String,
    /// its file
    pub path: PathBuf,
    /// when that was written
    pub modified: SystemTime,
    /// what it says
    pub preset: Preset,
}

/// Beginnings that mean a place to look in.
const PLACES: [&str; 4] = ["hf:", "hob:", "ollama:", "lmstudio:"];

/// Whether a preset may be called that: letters, digits, `-`, `_`, `.` and `:`, and never a path.
pub fn check_name(name: &str) -> Result<()> {
    let shown: String = terminal::clean(name).chars().take(60).collect();
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    if name.len() > 100 || !name.chars().all(good) || !ends(name.chars().next()) || !ends(name.chars().last())
    {
        return Err(Error::new(format!(
            "a preset cannot be called '{shown}': its name is of letters, digits, and - _ . : between them"
        )));
    }
    match PLACES.iter().find(|p| name.to_ascii_lowercase().starts_with(*p)) {
        Some(place) => {
            Err(Error::new(format!("a preset cannot be called '{shown}': {place} begins names elsewhere")))
        }
        None => Ok(()),
    }
}

/// Not every system takes `:` in a file's name, and no preset's name has `=`.
fn file_name(name: &str) -> String {
    name.replace(':', "=") + ".toml"
}

/// Those that can be read, sorted by name, and a sentence for each that cannot.
pub fn all() -> (Vec<Kept>, Vec<String>) {
    let (mut presets, mut notes) = (Vec::new(), Vec::new());
    let Ok(folder) = places::presets() else { return (presets, notes) };
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, file) = (entry.path(), entry.file_name());
        let name = file.to_str().and_then(|f| f.strip_suffix(".toml")).map(|f| f.replace('=', ":"));
        let Some(name) = name.filter(|name| check_name(name).is_ok()) else { continue };
        match Preset::read(&path) {
            Ok(preset) => {
                let modified = entry.metadata().and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
                presets.push(Kept { name, path, modified, preset });
            }
            Err(e) => notes.push(e.to_string()),
        }
    }
    presets.sort_by_cached_key(|k| k.name.to_lowercase());
    (presets, notes)
}

/// The one of that name among `presets`: in any case, and with the `:latest` that Ollama's clients add.
pub fn find<'a>(name: &str, presets: &'a [Kept]) -> Option<&'a Kept> {
    let bare = |text: &str| text.strip_suffix(":latest").unwrap_or(text).to_ascii_lowercase();
    presets.iter().find(|k| k.name.eq_ignore_ascii_case(name) || bare(&k.name) == bare(name))
}

/// Writes a preset under that name, in place of one that has it. Returns whether there was one.
///
/// # Errors
/// The name is none, or a model's; the base is not on this machine, or leads back to the preset.
pub fn save(name: &str, preset: &Preset, found: &Found) -> Result<bool> {
    check_name(name)?;
    let is = |other: &str| {
        other.eq_ignore_ascii_case(name) || other.eq_ignore_ascii_case(&format!("{name}:latest"))
    };
    let taken = found.models.iter().any(|m| is(&m.name) || is(&m.qualified) || m.alias.is_some_and(is));
    if taken || catalogue::find(name).is_some() {
        return Err(Error::new(format!("{name} is the name of a model; choose another for the preset")));
    }
    let settled = settle(name, preset, found)?;
    let base = &settled.preset.base;
    let known = Known::here(store::resolve_model(base, found)?, base)?;
    if let Some(adapter) = &settled.preset.adapter {
        // Whether it fits is known without reading a weight.
        let (model, adapter) = (Checkpoint::open(&known.path)?, Adapter::open(adapter)?);
        let options = hob_engine::Options { threads: 1, ..Default::default() };
        hob_engine::Model::adapted(Arc::new(model), Some(&adapter), options)?;
    }
    let text = preset.to_toml()?;
    if text.len() as u64 > MAX_FILE {
        return Err(Error::new(format!("the preset is longer than {}; say less", terminal::bytes(MAX_FILE))));
    }
    let folder = places::presets()?;
    file::make_dir(&folder)?;
    // One of that name in other letters goes on under the new spelling.
    let before = find(name, &found.presets).map(|k| k.path.clone());
    let path = folder.join(file_name(name));
    file::write(&path, text.as_bytes())?;
    if let Some(old) = before.as_ref().filter(|old| **old != path) {
        let _ = std::fs::remove_file(old);
    }
    Ok(before.is_some())
}

/// Removes a preset; its base stays.
pub fn remove(kept: &Kept) -> Result<()> {
    std::fs::remove_file(&kept.path).map_err(|e| Error::io("remove", &kept.path, &e))
}
