//! The files of a picture model by their hashes: what a recipe says of them, and in what they differ from a recipe's.

use std::path::{Path, PathBuf};

use hob_io::picture::{Lora as Added, Recipe};

use super::Studio;
use crate::hashes::{self, Of, On};

/// The files that a recipe names by their hashes.
#[derive(Default)]
pub(super) struct Files {
    /// the denoiser's, which is the whole model's where it is one file
    pub model: Vec<PathBuf>,
    /// another autoencoder's
    pub vae: Option<PathBuf>,
    /// LoRAs
    pub loras: Vec<PathBuf>,
    /// vectors, by the name that stands for them
    pub embeddings: Vec<(String, PathBuf)>,
    /// the model's hash and the VAE's, once they are known
    pub hashes: [Option<String>; 2],
}

impl Studio {
    /// Writes into a recipe by which files it is made: their hashes, computed where they are not known yet. What cannot be
    /// read, or is not done when `on` says stop, is left out.
    pub fn sign(&mut self, recipe: &mut Recipe, on: On) {
        let Files { model, vae, loras, embeddings, hashes } = &mut self.files;
        let paths: [Vec<&Path>; 2] =
            [model.iter().map(|p| &**p).collect(), vae.iter().map(|p| &**p).collect()];
        for (hash, paths) in hashes.iter_mut().zip(paths).filter(|(h, p)| h.is_none() && !p.is_empty()) {
            *hash = hashes::know(&paths, Of::All, on).ok().flatten();
        }
        for (lora, path) in self.loras.iter_mut().zip(loras).filter(|(l, _)| l.hash.is_none()) {
            lora.hash = hashes::lora(path, on).ok().flatten();
        }
        [recipe.model_hash, recipe.vae_hash] = hashes.clone();
        recipe.loras.clone_from(&self.loras);
        // Of another program's text, what it said of these may be of other files.
        const VECTORS: &str = "TI hashes";
        recipe.more.retain(|key, _| ![VECTORS, "Hashes"].contains(&key.as_str()));
        let said = [&recipe.prompt, &recipe.negative].map(|text| text.to_lowercase());
        let named = |name: &str| said.iter().any(|text| text.contains(&name.to_lowercase()));
        let hash = |(name, path): &(String, PathBuf)| {
            let hash = hashes::know(&[path], Of::All, on).ok().flatten()?;
            Some(format!("{name}: {}", &hash[..12]))
        };
        let vectors: Vec<String> =
            embeddings.iter().filter(|(name, _)| named(name)).filter_map(hash).collect();
        if !vectors.is_empty() {
            recipe.more.insert(VECTORS.into(), vectors.join(", "));
        }
    }

    /// In what this model with its extras is not what made the picture of a recipe, in sentences; by hashes, which are
    /// computed where they are not known.
    pub fn differs(&mut self, like: &Recipe, on: On) -> Vec<String> {
        let mut own = self.defaults();
        self.sign(&mut own, on);
        let mut all = Vec::new();
        let short = |hash: &str| hash.chars().take(10).collect::<String>();
        if let (Some(theirs), Some(ours)) = (&like.model_hash, &own.model_hash) {
            let old = || self.files.model.first().and_then(|p| hashes::old(p));
            let is = match theirs.len() {
                8 => old().is_some_and(|old| old.eq_ignore_ascii_case(theirs)),
                _ => hashes::same(theirs, ours),
            };
            if !is {
                let (theirs, ours) = (short(theirs), short(ours));
                all.push(format!(
                    "it was made by {} ({theirs}), and {} is another model ({ours})",
                    like.model, own.model
                ));
            }
        }
        match (&like.vae_hash, &own.vae_hash) {
            (Some(theirs), Some(ours)) if !hashes::same(theirs, ours) => {
                all.push(format!(
                    "it was made with the VAE of the hash {}, and this one's is {}",
                    short(theirs),
                    short(ours)
                ));
            }
            (Some(theirs), None) if own.vae.is_none() => {
                let name = like.vae.clone().unwrap_or_else(|| short(theirs));
                all.push(format!("it was made with the VAE {name}: give it with --vae"));
            }
            _ => {}
        }
        for Added { name, scale, hash } in &like.loras {
            let is = |ours: &&Added| match (hash, &ours.hash) {
                (Some(a), Some(b)) => hashes::same(a, b),
                _ => *name == ours.name,
            };
            let whole = |path: &PathBuf| hashes::know(&[path], Of::All, on).ok().flatten();
            match own.loras.iter().find(is).or(own.loras.iter().find(|ours| ours.name == *name)) {
                None => {
                    all.push(format!("it was made with the LoRA {name}: give it with --lora FILE:{scale}"))
                }
                Some(ours) if is(&ours) => {}
                // Before it knew the hash of tensors, A1111 wrote that of the file.
                Some(ours) => {
                    let at = own.loras.iter().position(|l| l.name == ours.name);
                    let file = at.and_then(|i| self.files.loras.get(i)).and_then(whole);
                    if !file.zip(hash.as_ref()).is_some_and(|(a, b)| hashes::same(&a, b)) {
                        all.push(format!("the LoRA {name} that it was made with was another file"));
                    }
                }
            }
        }
        all
    }
}
