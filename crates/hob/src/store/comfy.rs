//! ComfyUI's folders: whole models in `models/checkpoints`, denoisers alone in `models/diffusion_models` and
//! `models/unet`.

use std::path::Path;

use super::{Found, Kind, Place, gguf, groups, pictures, walk};

/// Adds the picture models of ComfyUI in `root`.
pub fn scan(root: &Path, found: &mut Found) {
    let models = root.join("models");
    let mut files = Vec::new();
    for folder in ["checkpoints", "diffusion_models", "unet"] {
        files.extend(walk(&models.join(folder), 3).into_iter().map(|f| format!("{folder}/{f}")));
    }
    let first = found.models.len();
    for (key, members) in groups(&files) {
        let paths = members.iter().map(|f| models.join(f)).collect();
        gguf(Place::ComfyUi, format!("comfyui:{key}"), paths, found);
    }
    pictures::scan(&models, None, "comfyui", Place::ComfyUi, &files, found);
    // What else lies there is of families that Hob does not know.
    let mut at = 0;
    found.models.retain(|m| {
        at += 1;
        at <= first || m.kind == Kind::Image
    });
}
