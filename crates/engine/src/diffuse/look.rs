//! Pictures that a denoiser sees beside the noised latents: the one to edit, to fill in, or to paint after.

use super::Noise;
use super::painter::{Event, Given, PaintError, Painter, Request, ask};
use crate::Result;
use hob_io::pipeline::Purpose;
use hob_models::vae::Side;

/// What the denoiser sees beside the noised latents.
#[derive(Default)]
pub(super) struct Seen {
    /// planes `(C', h, w)` beside those of the latents
    pub beside: Vec<f32>,
    /// latents of the picture that a model which edits was given
    pub given: Vec<f32>,
    /// latents of the picture that holds the new one, where those are seen and not its pixels
    pub control: Vec<f32>,
}

impl Painter {
    /// That the pictures are there without which the model makes none.
    ///
    /// # Errors
    /// The sentence says what to give.
    pub fn wants(&self, given: bool, held: bool) -> Result<()> {
        match self.pipeline.purpose {
            Purpose::Inpaint if !given => Err(ask(
                "this model fills in parts of a picture: give one with --init, and what to paint with --mask",
            )),
            Purpose::Edit if !given => Err(ask("this model edits a picture: give one with --init")),
            Purpose::Control if !held => Err(ask(
                "this model paints after a picture of depths or edges: give one with --control-image",
            )),
            _ => Ok(()),
        }
    }

    /// The latents of what is to hold the picture, drawn before all else as diffusers' pipelines have it.
    pub(super) fn control_latents(
        &self,
        r: &Request,
        noise: &mut Noise,
        on: &mut dyn FnMut(Event) -> bool,
    ) -> std::result::Result<Seen, PaintError> {
        let Some(control) = r.control.filter(|_| self.holds_by_latents()) else { return Ok(Seen::default()) };
        let pixels: Vec<f32> = control.image.iter().map(|x| 2.0 * x - 1.0).collect();
        let control = self.latents(&pixels, (r.width, r.height), Some(noise), on)?;
        Ok(Seen { control, ..Seen::default() })
    }

    /// What the denoiser sees beside the noised latents: of those that were trained to fill in, the mask and the picture
    /// without what it covers; of those that edit or paint after one, the picture.
    pub(super) fn look(
        &self,
        r: &Request,
        (h, w): (usize, usize),
        seen: &mut Seen,
        noise: &mut Noise,
        on: &mut dyn FnMut(Event) -> bool,
    ) -> std::result::Result<(), PaintError> {
        match (self.pipeline.purpose, r.given) {
            (Purpose::Inpaint, Some(given)) => {
                let all = vec![1.0; r.width * r.height];
                let mask = given.mask.as_ref().unwrap_or(&all);
                let covered: Vec<f32> = (given.pixels.chunks(mask.len()))
                    .flat_map(|plane| plane.iter().zip(mask).map(|(x, m)| if *m < 0.5 { *x } else { 0.0 }))
                    .collect();
                let latents = self.latents(&covered, given.size, Some(noise), on)?;
                seen.beside = match self.pipeline.family.is_flux() {
                    true => [latents, squares(mask, (h, w), self.vae.reduction())].concat(),
                    false => [hob_io::picture::nearest(mask, (r.width, r.height), (w, h)), latents].concat(),
                };
            }
            // It was trained on latents as the autoencoder says them.
            (Purpose::Edit, Some(given)) => {
                self.check_given(given, (r.width, r.height))?;
                let (scale, shift) = (self.vae.scaling_factor, self.vae.shift_factor.unwrap_or(0.0));
                seen.beside = std::mem::take(&mut seen.given).iter().map(|x| x / scale + shift).collect();
            }
            (Purpose::Control, _) => seen.beside.clone_from(&seen.control),
            _ => {}
        }
        Ok(())
    }

    /// That a picture given is of the size of the new one.
    pub(super) fn check_given(&self, given: &Given, (width, height): (usize, usize)) -> Result<()> {
        match given.size == (width, height) {
            true => Ok(()),
            false => Err(ask(format!("the picture given is not of {width} × {height}"))),
        }
    }

    /// A picture's latents, a sample of what the autoencoder says, or without noise its middle, as the denoiser sees them.
    pub(super) fn latents(
        &self,
        pixels: &[f32],
        (width, height): (usize, usize),
        noise: Option<&mut Noise>,
        on: &mut dyn FnMut(Event) -> bool,
    ) -> std::result::Result<Vec<f32>, PaintError> {
        self.check_size(width, height)?;
        if pixels.len() != 3 * width * height {
            return Err(ask(format!("the picture given is not of {width} × {height}")).into());
        }
        let mut going = || on(Event::Encoding);
        let mut said = self.through(Side::Encoder, [height, width], pixels, &mut going)?;
        let mut latents = said.remove("mean").unwrap_or_default();
        if let (Some(noise), Some(logvar)) = (noise, said.get("logvar")) {
            let drawn = noise.randn(latents.len());
            let each = latents.iter_mut().zip(logvar).zip(&drawn);
            each.for_each(|((m, v), e)| *m += (0.5 * v).exp() * e);
        }
        let (scale, shift) = (self.vae.scaling_factor, self.vae.shift_factor.unwrap_or(0.0));
        latents.iter_mut().for_each(|x| *x = (*x - shift) * scale);
        Ok(latents)
    }
}

/// A mask `(H, W)` of zeros and ones as planes `(K·K, h, w)`: of each latent the square of pixels that it stands for, row by
/// row (`prepare_mask_latents` of diffusers' `pipeline_flux_fill.py`).
fn squares(mask: &[f32], (h, w): (usize, usize), side: usize) -> Vec<f32> {
    let at = |i: usize| {
        let (pixel, y, x) = (i / (h * w), i / w % h, i % w);
        let row = y * side + pixel / side;
        f32::from(mask[row * w * side + x * side + pixel % side] >= 0.5)
    };
    (0..side * side * h * w).map(at).collect()
}
