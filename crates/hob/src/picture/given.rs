//! Pictures that are given: to begin with, to edit, to fill in, or to be held to; and the sizes of what is made of them.

use hob_engine::diffuse::{Control, Given};
use hob_io::Picture;
use hob_io::picture::{Filter, Init};
use hob_io::pipeline::Purpose;

use super::Studio;
use crate::error::{Error, Result};

/// A picture that is given, with its mask.
pub struct Begin {
    /// the picture
    pub init: Picture,
    /// where it is painted anew
    pub mask: Option<Picture>,
    /// how much
    pub strength: f32,
    /// sha256 of the files of picture and mask
    pub hashes: [Option<String>; 2],
}

/// A picture that a new one is held to by a ControlNet.
pub struct Held {
    /// as the ControlNet wants it: edges, depths, poses
    pub image: Picture,
    /// how much
    pub strength: f32,
    /// which kind it is, for a ControlNet for several
    pub mode: Option<usize>,
}

/// Sizes that Flux.1 Kontext was trained with (`PREFERRED_KONTEXT_RESOLUTIONS` of diffusers' `pipeline_flux_kontext.py`).
const KONTEXT: [(usize, usize); 17] = [
    (672, 1568),
    (688, 1504),
    (720, 1456),
    (752, 1392),
    (800, 1328),
    (832, 1248),
    (880, 1184),
    (944, 1104),
    (1024, 1024),
    (1104, 944),
    (1184, 880),
    (1248, 832),
    (1328, 800),
    (1392, 752),
    (1456, 720),
    (1504, 688),
    (1568, 672),
];

impl Studio {
    /// How much of a picture that is given is made anew where it is not said: all, by models that see it beside or fill it in.
    pub fn strength(&self) -> f32 {
        match self.painter.pipeline().purpose {
            Purpose::Create | Purpose::Control => 0.75,
            Purpose::Inpaint | Purpose::Edit | Purpose::Reference => 1.0,
        }
    }

    /// The size of a picture made from another: its shape, no larger than it, and about as many pixels as the model's own at
    /// most; of Kontext, one that it was trained with.
    pub fn size_after(&self, begin: &Begin) -> (usize, usize) {
        let (own, size) = (self.defaults(), (begin.init.width, begin.init.height));
        match self.painter.pipeline().purpose {
            Purpose::Reference => kontext(size, self.painter.multiple()),
            _ => fitting(size, own.width * own.height, self.painter.multiple()),
        }
    }

    /// The size in which the denoiser sees a picture beside the one to be made, of `size`, where it sees it in one of its own.
    pub(super) fn seen(&self, begin: &Begin, size: (usize, usize)) -> Option<(usize, usize)> {
        let begun = begin.strength < 1.0 || begin.mask.is_some();
        let reference = self.painter.pipeline().purpose == Purpose::Reference;
        reference.then(|| if begun { size } else { self.size_after(begin) })
    }

    /// Whether the picture that is given is the one to paint after: the only one, of a model of depths or edges.
    pub(super) fn is_held_by(&self, begin: Option<&Begin>) -> bool {
        self.painter.pipeline().purpose == Purpose::Control && self.held.is_none() && begin.is_some()
    }
}

impl Begin {
    /// Picture and mask in the size of the result.
    pub(super) fn fit(&self, (width, height): (usize, usize)) -> Result<Given> {
        let init = self.init.clone().opaque().resized(width, height, Filter::Lanczos).map_err(Error::new)?;
        let mask = match &self.mask {
            None => None,
            Some(mask) if (mask.width, mask.height) != (self.init.width, self.init.height) => {
                return Err(Error::new(format!(
                    "the mask is of {} × {} and the picture of {} × {}; they must be of one size",
                    mask.width, mask.height, self.init.width, self.init.height
                )));
            }
            Some(mask) => Some(mask.mask(width, height).map_err(Error::new)?),
        };
        Ok(Given { pixels: init.planes(), size: (width, height), strength: self.strength.into(), mask })
    }

    /// Bytes of both as they lie in memory.
    pub fn bytes(&self) -> usize {
        let of = |p: &Picture| p.rgb.len() + p.alpha.as_ref().map_or(0, Vec::len);
        of(&self.init) + self.mask.as_ref().map_or(0, of)
    }

    /// What the recipe keeps of it.
    pub fn noted(&self) -> Init {
        let [hash, mask] = self.hashes.clone();
        Init { strength: self.strength, hash, mask }
    }
}

impl Held {
    pub(super) fn fit(&self, width: usize, height: usize) -> Result<Control> {
        hold(&self.image, width, height, (self.strength, self.mode))
    }
}

/// A picture in the size of the result, as diffusers resizes it, to hold that.
pub(super) fn hold(
    image: &Picture,
    width: usize,
    height: usize,
    (strength, mode): (f32, Option<usize>),
) -> Result<Control> {
    let image = image.clone().opaque().resized(width, height, Filter::Lanczos).map_err(Error::new)?;
    let image = image.planes().into_iter().map(|x| (x + 1.0) / 2.0).collect();
    Ok(Control { image, strength, mode })
}

/// The size of a picture made from another: its shape, no larger than it, with about so many pixels at most.
fn fitting((width, height): (usize, usize), most: usize, multiple: usize) -> (usize, usize) {
    let scale = (most as f64 / (width * height) as f64).sqrt().min(1.0);
    let side = |n: usize| ((n as f64 * scale / multiple as f64).round().max(1.0) as usize) * multiple;
    (side(width), side(height))
}

/// The size that Kontext was trained with whose shape is nearest.
fn kontext((width, height): (usize, usize), multiple: usize) -> (usize, usize) {
    let far = |(w, h): (usize, usize)| (width as f64 / height as f64 - w as f64 / h as f64).abs();
    let nearest = KONTEXT.into_iter().min_by(|a, b| far(*a).total_cmp(&far(*b))).unwrap_or((1024, 1024));
    let side = |n: usize| (n / multiple).max(1) * multiple;
    (side(nearest.0), side(nearest.1))
}

#[cfg(test)]
mod tests {
    use super::{fitting, kontext};

    #[test]
    fn sizes_of_pictures_made_from_others_keep_their_shape() {
        assert_eq!(fitting((512, 512), 512 * 512, 8), (512, 512));
        assert_eq!(fitting((3000, 1500), 512 * 512, 8), (728, 360));
        assert_eq!(fitting((100, 37), 512 * 512, 8), (104, 40));
        assert_eq!(fitting((1, 1), 512 * 512, 8), (8, 8));
    }

    #[test]
    fn kontext_has_sizes_of_its_own() {
        assert_eq!(kontext((100, 100), 16), (1024, 1024));
        assert_eq!(kontext((4000, 3000), 16), (1184, 880));
        assert_eq!(kontext((1, 100), 16), (672, 1568));
        assert_eq!(kontext((48, 24), 32), (1440, 704));
    }
}
