//! Removing a model: only from Hob's folder and the Hugging Face cache; other programs remove their own.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Model, Place};
use crate::error::{Error, Result};
use crate::hub::remove_empty;
use crate::naming;

/// Deletes the model's files, and gives the bytes that this frees.
pub fn remove(model: &Model) -> Result<u64> {
    match model.place {
        Place::Hob => {
            for file in &model.files {
                delete(file)?;
            }
            // Of a model that had a folder of its own, its folders go too, the inner ones first.
            let mut folders: Vec<&Path> = model.files.iter().filter_map(|f| f.parent()).collect();
            folders.retain(|f| f.starts_with(&model.path));
            folders.sort_by_key(|f| std::cmp::Reverse(f.components().count()));
            remove_empty(&folders);
            Ok(model.bytes)
        }
        Place::HuggingFace => remove_cached(model),
        Place::Ollama => Err(Error::new(format!(
            "{} belongs to Ollama; remove it with: ollama rm {}",
            model.name,
            model.qualified.trim_start_matches("ollama:")
        ))),
        Place::ComfyUi => Err(Error::new(format!(
            "{} belongs to ComfyUI; remove the file {} yourself",
            model.name,
            crate::places::short(&model.path)
        ))),
        Place::LmStudio => {
            Err(Error::new(format!("{} belongs to LM Studio; remove it in its My Models page", model.name)))
        }
    }
}

fn delete(path: &Path) -> Result<()> {
    fs::remove_file(path).map_err(|e| Error::io("remove", path, &e))
}

/// Removes a snapshot's links, then those of their blobs that no other link in the repository needs.
fn remove_cached(model: &Model) -> Result<u64> {
    let odd =
        || Error::new(format!("{} does not lie in a snapshot of the cache; remove it by hand", model.name));
    let snapshots = |p: &&Path| p.file_name().is_some_and(|n| n == "snapshots");
    let snapshots = model.path.ancestors().find(snapshots).ok_or_else(odd)?;
    let repo = snapshots.parent().ok_or_else(odd)?;
    let snapshot = model.path.ancestors().find(|p| p.parent() == Some(snapshots)).ok_or_else(odd)?;
    let blobs = repo.join("blobs").canonicalize().ok();
    let mut freed = 0u64;
    let mut targets: Vec<PathBuf> = Vec::new();
    for file in &model.files {
        let link = fs::symlink_metadata(file).is_ok_and(|m| m.is_symlink());
        match file.canonicalize() {
            Ok(target) if link => targets.push(target),
            Ok(_) => freed = freed.saturating_add(fs::metadata(file).map_or(0, |m| m.len())),
            Err(_) => {}
        }
        delete(file)?;
    }
    let still_used = linked(snapshots);
    targets.sort();
    targets.dedup();
    for target in targets {
        // A link may lead anywhere: only blobs of this very repository are deleted.
        if target.parent() == blobs.as_deref() && !still_used.contains(&target) {
            freed = freed.saturating_add(fs::metadata(&target).map_or(0, |m| m.len()));
            delete(&target)?;
        }
    }
    prune(snapshot);
    remove_empty(&[snapshots]);
    if !snapshots.exists() && repo.file_name().is_some_and(|n| n.to_string_lossy().starts_with("models--")) {
        // Only refs, unfinished parts and blobs without a name are left.
        fs::remove_dir_all(repo).map_err(|e| Error::io("remove", repo, &e))?;
    }
    Ok(freed)
}

/// Removes a snapshot when no model is left in it, and its empty folders in any case.
fn prune(snapshot: &Path) {
    let left = super::walk(snapshot, 4);
    for file in &left {
        if let Some((folder, _)) = file.rsplit_once('/') {
            remove_empty(&[&snapshot.join(folder)]);
        }
    }
    if !left.iter().any(|f| naming::is_gguf(f) || f.ends_with(".safetensors")) {
        let _ = fs::remove_dir_all(snapshot);
    }
}

/// Everything that links below a folder lead to.
fn linked(root: &Path) -> Vec<PathBuf> {
    super::walk(root, 5).iter().filter_map(|f| root.join(f).canonicalize().ok()).collect()
}
