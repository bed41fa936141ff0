//! Plain folders of GGUF files: Hob's own, and LM Studio's `publisher/repository/file.gguf`.

use std::path::Path;

use super::{Found, Place, gguf, groups, walk};

/// Adds every GGUF below `root`.
pub fn scan(root: &Path, place: Place, found: &mut Found) {
    let prefix = if place == Place::Hob { "hob" } else { "lmstudio" };
    for (key, files) in groups(&walk(root, 4)) {
        let paths = files.iter().map(|f| root.join(f)).collect();
        gguf(place, format!("{prefix}:{key}"), paths, found);
    }
}
