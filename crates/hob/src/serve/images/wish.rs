//! What a request asks of a picture, whatever its dialect, and the recipe that becomes of it.

use std::path::Path;

use hob_engine::diffuse::{Sampler, Schedule, Source};
use hob_io::Picture;
use hob_io::picture::{Filter, Recipe};
use sha2::{Digest, Sha256};

use crate::picture::{Begin, Studio};
use crate::serve::refusal::{Refusal, Result};

/// The longest side that is read in a request; memory bounds it before that.
pub const MOST_SIDE: u64 = 8192;

/// Letters of a prompt at most.
pub const MOST_TEXT: usize = 32_000;

/// How a mask marks what is painted anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marked {
    /// white
    White,
    /// black
    Black,
    /// transparent; white in a mask that is opaque everywhere
    Clear,
}

/// A picture to begin with, as its file.
#[derive(Clone, Debug)]
pub struct Start {
    /// the picture
    pub image: Vec<u8>,
    /// where it is painted anew
    pub mask: Option<Vec<u8>>,
    /// how the mask says it
    pub marked: Marked,
    /// how much is made anew; as the model wants where it is not said
    pub strength: Option<f32>,
}

/// What is asked for; what is `None` is the model's own way.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// what the picture shows
    pub prompt: String,
    /// what it leads away from
    pub negative: String,
    /// in pixels
    pub width: Option<usize>,
    /// likewise
    pub height: Option<usize>,
    /// sides that are no multiples become smaller, and what means nothing to a model is disregarded, instead of a refusal
    pub round: bool,
    /// how many
    pub steps: Option<u32>,
    /// how much the prompt counts
    pub cfg: Option<f32>,
    /// what Flux.1 dev is told of guidance
    pub guidance: Option<f32>,
    /// how much the picture to be edited counts, of models that edit by guidance
    pub image_cfg: Option<f32>,
    /// how to walk
    pub sampler: Option<Sampler>,
    /// through which levels
    pub schedule: Option<Schedule>,
    /// of the first picture; by chance where there is none
    pub seed: Option<u64>,
    /// pictures, with seeds one after another; of none the model is only loaded
    pub count: u32,
    /// as A1111 counts
    pub clip_skip: Option<u32>,
    /// where noise comes from
    pub noise: Option<Source>,
    /// a picture to begin with
    pub start: Option<Start>,
}

impl Wish {
    /// Bytes of what was given.
    pub fn bytes(&self) -> usize {
        let start = self.start.as_ref();
        start.map_or(0, |s| s.image.len() + s.mask.as_ref().map_or(0, Vec::len)) + self.prompt.len()
    }

    /// The picture to begin with, decoded.
    ///
    /// # Errors
    /// Picture or mask are none.
    pub fn begin(&self, studio: &Studio) -> Result<Option<Begin>> {
        let Some(start) = &self.start else { return Ok(None) };
        let read = |field: &str, bytes: &[u8]| {
            Picture::read(bytes, Path::new(field)).map_err(|e| Refusal::field(field, e.to_string()))
        };
        let image = read("image", &start.image)?;
        let mut mask = start.mask.as_ref().map(|bytes| read("mask", bytes)).transpose()?;
        // A picture that is transparent in parts is its own mask, where that is how masks are written.
        if mask.is_none()
            && start.marked == Marked::Clear
            && image.alpha.as_ref().is_some_and(|a| a.contains(&0))
        {
            mask = Some(image.clone());
        }
        let mask = mask.map(|mask| marked(mask, start.marked, (image.width, image.height))).transpose()?;
        let over = if start.marked == Marked::Clear { image.opaque() } else { image.over([255; 3]) };
        let hash = |bytes: &Vec<u8>| crate::file::hex(&Sha256::digest(bytes));
        let hashes = [Some(hash(&start.image)), start.mask.as_ref().map(hash)];
        Ok(Some(Begin {
            init: over,
            mask,
            strength: start.strength.unwrap_or_else(|| studio.strength()),
            hashes,
        }))
    }

    /// The recipe of the first picture.
    ///
    /// # Errors
    /// The sides are none that the model makes.
    pub fn recipe(&self, studio: &Studio, name: &str, begin: Option<&Begin>) -> Result<Recipe> {
        let (own, multiple) = (studio.defaults(), studio.painter().multiple());
        let (width, height) = match (self.width, self.height, begin) {
            (None, None, Some(begin)) => studio.size_after(begin),
            (width, height, _) => (width.unwrap_or(own.width), height.unwrap_or(own.height)),
        };
        if self.image_cfg.is_some() && own.image_cfg.is_none() && !self.round {
            return Err(Refusal::field("image_cfg", "`image_cfg` means nothing to this model; leave it out"));
        }
        let side = |n: usize| if self.round { (n / multiple).max(1) * multiple } else { n };
        let (width, height) = (side(width), side(height));
        if !width.is_multiple_of(multiple) || !height.is_multiple_of(multiple) {
            let message = format!(
                "a picture of {width}x{height} cannot be made: sides must be multiples of {multiple}"
            );
            return Err(Refusal::field("size", message));
        }
        Ok(Recipe {
            prompt: self.prompt.clone(),
            negative: self.negative.clone(),
            model: name.into(),
            steps: self.steps.unwrap_or(own.steps),
            cfg: self.cfg.unwrap_or(own.cfg),
            guidance: own.guidance.map(|g| self.guidance.unwrap_or(g)),
            image_cfg: own.image_cfg.map(|g| self.image_cfg.unwrap_or(g)),
            sampler: self.sampler.map_or(own.sampler, |s| s.name().into()),
            schedule: self.schedule.map_or(own.schedule, |s| s.name().into()),
            // Whole numbers that JavaScript can hold too.
            seed: self.seed.unwrap_or_else(|| crate::commands::chance() >> 32),
            width,
            height,
            clip_skip: self.clip_skip,
            noise: self.noise.map_or(own.noise, |n| n.name().into()),
            init: begin.map(Begin::noted),
            ..own
        })
    }
}

/// A mask whose white is painted anew, of the picture's size.
fn marked(mask: Picture, marked: Marked, (width, height): (usize, usize)) -> Result<Picture> {
    let mut mask = mask;
    let clear = mask.alpha.as_ref().filter(|a| marked == Marked::Clear && a.iter().any(|a| *a < 255));
    if let Some(alpha) = clear {
        mask.rgb = alpha.iter().flat_map(|a| [255 - a; 3]).collect();
    } else if marked == Marked::Black {
        mask.rgb.iter_mut().for_each(|x| *x = 255 - *x);
    }
    let mask = mask.opaque();
    match (mask.width, mask.height) == (width, height) {
        true => Ok(mask),
        false => mask.resized(width, height, Filter::Lanczos).map_err(|e| Refusal::field("mask", e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_marked_in_three_ways() {
        let grey = |x: [u8; 2], alpha: Option<Vec<u8>>| Picture {
            alpha,
            ..Picture::of_rgb(2, 1, x.into_iter().flat_map(|x| [x; 3]).collect()).unwrap()
        };
        let white = |mask, how| marked(mask, how, (2, 1)).unwrap().grey();
        assert_eq!(white(grey([0, 255], None), Marked::White), [0, 255]);
        assert_eq!(white(grey([0, 255], None), Marked::Black), [255, 0]);
        assert_eq!(white(grey([7, 7], Some(vec![255, 0])), Marked::Clear), [0, 255]);
        assert_eq!(white(grey([0, 255], Some(vec![255, 255])), Marked::Clear), [0, 255]);
        assert_eq!(marked(grey([0, 255], None), Marked::White, (4, 2)).unwrap().grey().len(), 8);
    }
}
