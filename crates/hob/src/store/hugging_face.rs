//! The Hugging Face cache: `models--OWNER--NAME/snapshots/COMMIT/…`, links into `blobs`.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Found, Kind, Model, Place, gguf, groups, pictures, walk};

/// Adds the GGUF files and the folders of safetensors of every repository in the cache.
pub fn scan(cache: &Path, found: &mut Found) {
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        // `--` stands for `/`; an owner's name holds none.
        if let Some(repo) = name.strip_prefix("models--").map(|r| r.replacen("--", "/", 1)) {
            scan_repo(&entry.path(), &repo, found);
        }
    }
}

fn scan_repo(dir: &Path, repo: &str, found: &mut Found) {
    let mut seen: Vec<String> = Vec::new();
    for snapshot in snapshots(dir) {
        let files = walk(&snapshot, 3);
        for (key, members) in groups(&files) {
            if !seen.contains(&key) {
                let qualified = format!("hf:{repo}:{key}");
                let paths = members.iter().map(|f| snapshot.join(f)).collect();
                gguf(Place::HuggingFace, qualified, paths, found);
                seen.push(key);
            }
        }
        let weights = files.iter().any(|f| f.ends_with(".safetensors") && !f.contains('/'));
        if weights && files.iter().any(|f| f == "config.json") && !seen.contains(&String::new()) {
            folder(&snapshot, repo, &files, found);
            seen.push(String::new());
        }
        // Of several snapshots the first that has them is meant.
        let mut more = Found::default();
        pictures::scan(&snapshot, Some(repo), "hf", Place::HuggingFace, &files, &mut more);
        more.models.retain(|m| !found.models.iter().any(|other| other.qualified == m.qualified));
        found.models.extend(more.models);
        found.notes.extend(more.notes);
    }
}

/// The snapshots of a repository: that of `main` first, then the others, newest first.
fn snapshots(dir: &Path) -> Vec<PathBuf> {
    let main = fs::read_to_string(dir.join("refs/main")).unwrap_or_default();
    let all = fs::read_dir(dir.join("snapshots")).into_iter().flatten().flatten();
    let mut all: Vec<_> = all.map(|e| (e.metadata().and_then(|m| m.modified()).ok(), e.path())).collect();
    all.sort_by(|a, b| b.cmp(a));
    all.sort_by_key(|(_, p)| p.file_name().is_none_or(|n| n.to_string_lossy() != main.trim()));
    all.into_iter().map(|(_, p)| p).collect()
}

fn folder(snapshot: &Path, repo: &str, files: &[String], found: &mut Found) {
    let mine = files.iter().filter(|f| !crate::naming::is_gguf(f));
    let files: Vec<PathBuf> = mine.map(|f| snapshot.join(f)).collect();
    let sizes: Vec<Option<u64>> = files.iter().map(|f| fs::metadata(f).ok().map(|m| m.len())).collect();
    if let Some(at) = sizes.iter().position(Option::is_none) {
        found.notes.push(format!("{repo} is incomplete: {} is missing", crate::places::short(&files[at])));
        return;
    }
    found.models.push(Model {
        name: repo.to_string(),
        qualified: format!("hf:{repo}"),
        alias: None,
        place: Place::HuggingFace,
        kind: Kind::Text,
        path: snapshot.to_path_buf(),
        files,
        bytes: sizes.into_iter().flatten().fold(0, u64::saturating_add),
        layers: Vec::new(),
    });
}
