//! Plain folders: Hob's own, of GGUF files and of folders with safetensors; and LM Studio's
//! `publisher/repository/file.gguf`.

use std::path::{Path, PathBuf};

use super::{Found, Kind, Model, Place, gguf, groups, pictures, walk};
use crate::catalogue;

/// Adds every GGUF and every picture model below `root`, and in Hob's own folder every folder of safetensors.
pub fn scan(root: &Path, place: Place, found: &mut Found) {
    let prefix = if place == Place::Hob { "hob" } else { "lmstudio" };
    let files = walk(root, 4);
    for (key, files) in groups(&files) {
        let paths = files.iter().map(|f| root.join(f)).collect();
        gguf(place, format!("{prefix}:{key}"), paths, found);
    }
    for config in files.iter().filter(|_| place == Place::Hob) {
        let part = |name: &str| {
            let index = |above: &str| files.iter().any(|f| *f == format!("{above}/model_index.json"));
            name.rsplit_once('/').is_some_and(|(above, _)| index(above))
        };
        if let Some(name) = config.strip_suffix("/config.json").filter(|name| !part(name)) {
            folder(root, name, &files, found);
        }
    }
    pictures::scan(root, None, prefix, place, &files, found);
    pictures::terrains(root, prefix, place, &files, found);
}

/// The folder `name` below `root`, if there are weights in it.
fn folder(root: &Path, name: &str, files: &[String], found: &mut Found) {
    let below = || files.iter().filter_map(|f| Some((f, f.strip_prefix(name)?.strip_prefix('/')?)));
    if !below().any(|(_, rest)| rest.ends_with(".safetensors") && !rest.contains('/')) {
        return;
    }
    let files: Vec<PathBuf> = below().map(|(file, _)| root.join(file)).collect();
    let size = |file: &PathBuf| std::fs::metadata(file).map_or(0, |m| m.len());
    let of_file = |file: &PathBuf| {
        let last = file.file_name()?.to_str()?;
        Some(catalogue::of_file(&format!("{name}/{last}"), size(file))?.name)
    };
    found.models.push(Model {
        name: name.to_string(),
        qualified: format!("hob:{name}"),
        alias: files.iter().find_map(of_file),
        place: Place::Hob,
        kind: Kind::Text,
        path: root.join(name),
        bytes: files.iter().map(size).fold(0, u64::saturating_add),
        files,
        layers: Vec::new(),
    });
}
