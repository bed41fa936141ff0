//! Textual inversion (Gal et al. 2022): files of vectors that stand for a word of a prompt.

use super::TOKENS;
use crate::{Error, Result, Safetensors, Tokenizer};
use std::path::Path;

/// Vectors for encoders of one width.
#[derive(Clone, Debug, PartialEq)]
pub struct Vectors {
    /// the tensor's name: `emb_params`, `clip_l`, `clip_g`, `<cat-toy>`, …
    pub key: String,
    /// of a vector: 768 for CLIP-L, 1024 for OpenCLIP-H, 1280 for OpenCLIP-bigG
    pub channels: usize,
    /// `(V, channels)`
    pub values: Vec<f32>,
}

/// An open file of vectors.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// what stands for it in a prompt: the file's name, and diffusers' token
    pub names: Vec<String>,
    /// for the encoders that it was made for, each of another width
    pub vectors: Vec<Vectors>,
}

impl Embedding {
    /// Opens a safetensors file as A1111 (`emb_params`), ComfyUI and SDXL's trainers (`clip_l`, `clip_g`) or diffusers (its
    /// token) write it. In a prompt its name without the extension stands for it.
    ///
    /// Errors: it is pickled, damaged, or holds something else than a few vectors for each encoder.
    pub fn open(path: &Path) -> Result<Embedding> {
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        if matches!(extension.as_str(), "pt" | "bin" | "pth" | "ckpt") {
            let what = "it is pickled, and reading it could run a program; convert it to safetensors, in Python: \
                        safetensors.torch.save_file({\"emb_params\": vectors}, \"name.safetensors\") where vectors are \
                        list(torch.load(path)[\"string_to_param\"].values())[0]";
            return Err(Error::unsupported(path, what));
        }
        let file = Safetensors::open(path)?;
        let mut names: Vec<String> =
            path.file_stem().map(|s| s.to_string_lossy().into_owned()).into_iter().collect();
        let mut vectors: Vec<Vectors> = Vec::new();
        for tensor in file.tensors() {
            let key = &tensor.stored_name;
            let (count, channels) = match tensor.shape[..] {
                [channels] => (1, channels),
                [count, channels] => (count, channels),
                _ => {
                    let what =
                        format!("its tensor {key} is no list of vectors, so it is no textual inversion");
                    return Err(Error::unsupported(path, what));
                }
            };
            if !(1..=TOKENS - 2).contains(&count) || !(1..=1 << 16).contains(&channels) {
                let what = format!(
                    "its tensor {key} holds {count} vectors of {channels} numbers, and a prompt has room for {} tokens",
                    TOKENS - 2
                );
                return Err(Error::unsupported(path, what));
            }
            if vectors.iter().any(|other| other.channels == channels) {
                let what =
                    format!("it has several tensors of {channels} numbers a vector, where one is expected");
                return Err(Error::unsupported(path, what));
            }
            let mut values = vec![0.0; count * channels];
            tensor.dtype.decode(file.bytes(tensor), &mut values);
            if values.iter().any(|value| !value.is_finite()) {
                return Err(Error::damaged(path, format!("its tensor {key} holds what is no number")));
            }
            if key.starts_with('<') && key.ends_with('>') && !names.contains(key) {
                names.push(key.clone());
            }
            vectors.push(Vectors { key: key.clone(), channels, values });
        }
        if vectors.is_empty() {
            return Err(Error::unsupported(path, "it holds no vectors, so it is no textual inversion"));
        }
        Ok(Embedding { names, vectors })
    }
}

/// Vectors for one encoder, to be found in prompts.
#[derive(Clone, Debug, Default)]
pub struct Embeddings {
    /// of each `(V, C)`, and V
    vectors: Vec<(Vec<f32>, usize)>,
    /// tokens of a name, and which it is; the longest first
    by_tokens: Vec<(Vec<u32>, usize)>,
    /// names that the text beside them could run into, and which they are; the longest first
    by_text: Vec<(String, usize)>,
}

impl Embeddings {
    /// Those of the files for an encoder with `channels`, and that encoder's tokenizer. In a prompt a name stands for its
    /// vectors, with or without ComfyUI's `embedding:` before it.
    ///
    /// Errors: a file has no vectors of that width.
    pub fn new(files: &[Embedding], tokenizer: &Tokenizer, channels: usize) -> Result<Embeddings, String> {
        let mut all = Embeddings::default();
        for file in files {
            let name = file.names.first().map_or("", String::as_str);
            let vectors = file.vectors.iter().find(|v| v.channels == channels).ok_or_else(|| {
                let widths: Vec<String> = file.vectors.iter().map(|v| v.channels.to_string()).collect();
                format!(
                    "the embedding {name} has vectors of {} numbers, and this model's text encoder takes {channels}; take \
                     one that was made for this family of models",
                    widths.join(" and ")
                )
            })?;
            let which = all.vectors.len();
            all.vectors.push((vectors.values.clone(), vectors.values.len() / channels));
            for name in file.names.iter().filter(|name| !name.is_empty()) {
                let edge = |c: Option<char>| c.is_some_and(|c| !c.is_alphanumeric());
                if edge(name.chars().next()) || edge(name.chars().next_back()) {
                    all.by_text.push((name.clone(), which));
                    continue;
                }
                for name in [name.clone(), format!("embedding:{name}")] {
                    let ids = tokenizer.encode(&name, false);
                    if !ids.is_empty() {
                        all.by_tokens.push((ids, which));
                    }
                }
            }
        }
        all.by_tokens.sort_by_key(|(ids, _)| std::cmp::Reverse(ids.len()));
        all.by_text.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        Ok(all)
    }

    /// How many vectors the embedding has.
    pub(super) fn count(&self, which: usize) -> usize {
        self.vectors[which].1
    }

    /// The vectors of an embedding, `(V, C)`.
    pub(super) fn values(&self, which: usize) -> &[f32] {
        &self.vectors[which].0
    }

    /// The embedding whose name these tokens begin with, and the name's tokens.
    pub(super) fn at(&self, ids: &[u32]) -> Option<(usize, usize)> {
        let found = self.by_tokens.iter().find(|(name, _)| ids.starts_with(name));
        found.map(|(name, which)| (*which, name.len()))
    }

    /// Where a name first stands in a text, its length, and which embedding it is.
    pub(super) fn in_text(&self, text: &str) -> Option<(usize, usize, usize)> {
        let found =
            self.by_text.iter().filter_map(|(name, which)| Some((text.find(name)?, name.len(), *which)));
        found.min_by_key(|&(at, len, _)| (at, std::cmp::Reverse(len)))
    }
}
