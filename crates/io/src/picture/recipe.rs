//! All that makes a picture again.

use super::{Map, Picture, decode::texts, infotext, read_file};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::Path};

/// The key of our JSON in a PNG.
const OURS: &str = "hob";
/// The key of A1111's text, which other programs read.
const THEIRS: &str = "parameters";

/// What a picture was made with. Kept in a PNG as JSON under `hob`, exactly, and for other programs as A1111's text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Recipe {
    /// As it was written, with its weights; LoRAs are in `loras`.
    pub prompt: String,
    /// What is not wanted.
    pub negative: String,
    /// The model's name.
    pub model: String,
    /// sha256 of its file, or the beginning of it: A1111's text has 10 digits.
    pub model_hash: Option<String>,
    /// The name of a VAE of its own.
    pub vae: Option<String>,
    /// sha256 of it, or the beginning.
    pub vae_hash: Option<String>,
    /// Steps.
    pub steps: u32,
    /// Classifier-free guidance; 1 is none.
    pub cfg: f32,
    /// What a network that is told its guidance was told (Flux.1 dev).
    pub guidance: Option<f32>,
    /// How much the picture to be edited counted against none (InstructPix2Pix).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_cfg: Option<f32>,
    /// ComfyUI's name, such as `dpmpp_2m`.
    pub sampler: String,
    /// ComfyUI's name, such as `karras`; empty for the model's own.
    pub schedule: String,
    /// Of the first picture.
    pub seed: u64,
    /// In pixels.
    pub width: usize,
    /// In pixels.
    pub height: usize,
    /// Pictures made together.
    pub count: u32,
    /// Which of them this is, from 0.
    pub index: u32,
    /// Layers of CLIP left out in A1111's way of counting: 1 is none, 2 takes the states before the last.
    pub clip_skip: Option<u32>,
    /// In the order in which they were given.
    pub loras: Vec<Lora>,
    /// The picture that it began with.
    pub init: Option<Init>,
    /// Where noise comes from: `torch-cpu` (MT19937) or `philox`.
    pub noise: String,
    /// The program and its version, such as `hob 0.1.0`.
    pub version: String,
    /// What another program's text says beyond this, by its keys.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub more: BTreeMap<String, String>,
}

/// A LoRA that took part.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lora {
    /// Its file's name without its ending.
    pub name: String,
    /// How much of it was added.
    pub scale: f32,
    /// sha256 of its tensors, without the header, as A1111 has it; or the beginning: A1111's text has 12 digits.
    pub hash: Option<String>,
}

/// The picture that another began with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Init {
    /// sha256 of its file, or the beginning of it.
    pub hash: Option<String>,
    /// How much was made anew: 1 is everything.
    pub strength: f32,
    /// The same of the mask's file, where there was one.
    pub mask: Option<String>,
}

impl Recipe {
    /// The recipe in a picture's file; `None` where there is none. Ours before another program's.
    ///
    /// # Errors
    /// The file cannot be read, is no picture, or its recipe is damaged.
    pub fn open(path: &Path) -> Result<Option<Recipe>> {
        Recipe::read(&read_file(path)?, path)
    }

    /// The same of a file's bytes; `path` is for errors.
    pub fn read(bytes: &[u8], path: &Path) -> Result<Option<Recipe>> {
        let texts = texts(bytes, path)?;
        if let Some(json) = texts.get(OURS) {
            let recipe = serde_json::from_str(json).map_err(|e| {
                Error::damaged(path, format!("what it says of how it was made is no recipe ({e})"))
            })?;
            return Ok(Some(recipe));
        }
        Ok(texts.get(THEIRS).map(|text| Recipe::from_text(text)))
    }

    /// A picture as a PNG with this recipe in it, for us and for other programs.
    ///
    /// # Errors
    /// As [`Picture::png`].
    pub fn png(&self, picture: &Picture) -> Result<Vec<u8>, String> {
        let json = serde_json::to_string(self).map_err(|e| e.to_string())?;
        picture.png(&[(THEIRS, &self.text()), (OURS, &json)])
    }

    /// A map of heights as a PNG with this recipe in it; other programs have no words for it.
    ///
    /// # Errors
    /// As [`Map::png`].
    pub fn png_of_map(&self, map: &Map) -> Result<Vec<u8>, String> {
        let json = serde_json::to_string(self).map_err(|e| e.to_string())?;
        map.png(&[(OURS, &json)])
    }

    /// The text that A1111 writes under a picture (`create_infotext` of its `processing.py`).
    pub fn text(&self) -> String {
        infotext::write(self)
    }

    /// What such a text says. Whatever it is, it is read as A1111 reads it (`parse_generation_parameters` of its
    /// `infotext_utils.py`): what is no setting is prompt.
    pub fn from_text(text: &str) -> Recipe {
        infotext::parse(text)
    }
}
