//! Text becomes pictures: the text encoders, the denoiser and the autoencoder of a model, each opened, run and closed in
//! turn, so that no two of them lie in memory at once.
//!
//! Which numbers go where is diffusers' (`pipelines/stable_diffusion`, `…_xl`, `flux`): the same seed gives the same picture
//! there.

use super::brownian::Tree;
use super::held::Controller;
use super::network::Network;
use super::phases::Room;
use super::tiles::{self, Way};
use super::words::Script;
use super::{
    At, Guidance, How, Mask, Noise, Progress, SampleError, Sampler, Scheduler, Source, Steps, Walk, sample,
};
use crate::lora::Updates;
use crate::{Error, Result};
use hob_cpu::Cpu;
use hob_io::Pipeline;
use hob_io::pipeline::{Purpose, Role};
use hob_models::vae::Side;
use hob_models::{flux, unet, vae};
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A picture to begin with.
pub struct Given {
    /// `(3, H, W)` in -1..1
    pub pixels: Vec<f32>,
    /// W and H: the new one's, but for a model that sees a picture of any size beside it (Flux.1 Kontext)
    pub size: (usize, usize),
    /// how far it is taken back into noise: 1 leaves nothing of it, but what a model that edits sees of it beside
    pub strength: f64,
    /// `(H, W)`: 1 where the picture is painted anew, 0 where it is kept
    pub mask: Option<Vec<f32>>,
}

/// A picture that a new one is held to, by the model's ControlNet or by a model that paints after one (Flux.1 Depth, Canny).
pub struct Control {
    /// `(3, H, W)` in 0..1, of the size of the new one
    pub image: Vec<f32>,
    /// what a ControlNet adds to the denoiser is multiplied by this
    pub strength: f32,
    /// which kind of picture it is, for a ControlNet for several: an index of [`MODES`](super::MODES)
    pub mode: Option<usize>,
}

/// What is asked for.
pub struct Request<'a> {
    /// pixels, a multiple of [`Painter::multiple`]
    pub width: usize,
    /// likewise
    pub height: usize,
    /// what prompts say; what the picture leads away from is needed where guidance is on, or several prompts count together
    pub script: &'a Script,
    /// how much it does
    pub guidance: Guidance,
    /// how much the picture given counts against none, for a model that edits by guidance (InstructPix2Pix)
    pub image_cfg: f32,
    /// what a Flux with guidance is told
    pub told: f32,
    /// how to walk
    pub sampler: Sampler,
    /// likewise
    pub how: How,
    /// the way, for a picture from nothing
    pub steps: Steps,
    /// where noise comes from
    pub source: Source,
    /// its beginning
    pub seed: u64,
    /// a picture to begin with
    pub given: Option<&'a Given>,
    /// a picture to be held to; the model must have been given a ControlNet, or be trained to paint after one
    pub control: Option<&'a Control>,
}

/// What is told while a picture is made.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// the picture that was given is read
    Encoding,
    /// a step begins
    Step {
        /// from 0
        step: usize,
        /// how many there are
        steps: usize,
        /// latents `(C, h, w)` of the picture as it is seen now; none before the first
        seen: Option<&'a [f32]>,
    },
    /// latents become pixels
    Decoding,
}

/// Why no picture was made.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum PaintError {
    #[error("stopped")]
    Stopped,
    #[error(transparent)]
    Failed(#[from] Error),
    #[error("{0}")]
    NotFinite(String),
}

pub(super) enum Denoiser {
    Unet(Box<unet::Config>),
    Flux(Box<flux::Config>),
}

/// A picture model at hand.
pub struct Painter {
    pub(super) pipeline: Arc<Pipeline>,
    pub(super) cpu: Cpu,
    pub(super) updates: BTreeMap<Role, Updates>,
    pub(super) denoiser: Denoiser,
    pub(super) vae: vae::Config,
    /// how it was trained
    pub scheduler: Scheduler,
    pub(super) control: Option<Controller>,
    /// the denoiser, kept from picture to picture
    open: Option<Open>,
    /// how the memory there is is used; all in memory where it is not said
    pub(super) room: Option<Room>,
}

/// What runs in each step.
pub(super) struct Open {
    pub denoiser: Network,
    pub control: Option<Network>,
}

pub(super) fn ask(e: impl std::fmt::Display) -> Error {
    Error::Ask(e.to_string())
}

impl Painter {
    /// Of a model whose parts are all there, with what LoRAs change of them.
    ///
    /// # Errors
    /// A part is missing, or its configuration is none that Hob runs.
    pub fn new(pipeline: Arc<Pipeline>, updates: BTreeMap<Role, Updates>, cpu: Cpu) -> Result<Painter> {
        pipeline.check().map_err(ask)?;
        let config = |role| -> Result<&Value> { Ok(&pipeline.need(role).map_err(ask)?.config) };
        let named = |role: Role| {
            let path = pipeline.part(role).map(|p| p.path().display().to_string()).unwrap_or_default();
            move |e: String| Error::Ask(format!("{path} cannot be run: {e}"))
        };
        let denoiser = match pipeline.family.is_flux() {
            true => Denoiser::Flux(Box::new(
                flux::Config::parse(config(Role::Denoiser)?).map_err(named(Role::Denoiser))?,
            )),
            false => Denoiser::Unet(Box::new(
                unet::Config::parse(config(Role::Denoiser)?).map_err(named(Role::Denoiser))?,
            )),
        };
        let control = pipeline.part(Role::ControlNet).map(|part| Controller::parse(part, &denoiser));
        let control = control.transpose().map_err(named(Role::ControlNet))?;
        let vae = vae::Config::parse(config(Role::Vae)?).map_err(named(Role::Vae))?;
        let scheduler = Scheduler::parse(&pipeline.scheduler).map_err(Error::Ask)?;
        Ok(Painter { pipeline, cpu, updates, denoiser, vae, scheduler, control, open: None, room: None })
    }

    /// The model.
    pub fn pipeline(&self) -> &Arc<Pipeline> {
        &self.pipeline
    }

    /// Sides of pictures are multiples of this.
    pub fn multiple(&self) -> usize {
        self.vae.reduction() * if self.pipeline.family.is_flux() { 2 } else { 1 }
    }

    /// Rows or columns of latents for so many pixels.
    pub(super) fn latent(&self, pixels: usize) -> usize {
        pixels / self.vae.reduction()
    }

    /// Rows and columns of latents of a picture.
    pub fn latents_of(&self, width: usize, height: usize) -> (usize, usize) {
        (self.latent(height), self.latent(width))
    }

    /// Tokens of a picture, which flows shift their noise by.
    pub fn tokens(&self, width: usize, height: usize) -> usize {
        self.latent(width) * self.latent(height) / 4
    }

    pub(super) fn network(&self, role: Role) -> Result<Network> {
        let none = Updates::default();
        let updates = self.updates.get(&role).unwrap_or(&none);
        let network = Network::new(&self.pipeline, role, updates, &self.cpu)?;
        if let Some(room) = &self.room {
            network.stream(room.streamed(role));
        }
        Ok(network)
    }

    /// Makes the pictures to come as `room` has it; one of another size than it is for goes through the autoencoder at once.
    pub fn settle(&mut self, room: Room) {
        let same = self.room.as_ref().is_some_and(|old| old.same_weights(&room));
        if !room.keep || !same {
            self.rest();
        }
        self.room = Some(room);
    }

    pub(super) fn unet_sizes(
        &self,
        batch: usize,
        height: usize,
        width: usize,
        text: usize,
        pooled: usize,
    ) -> unet::Size {
        unet::Size { batch, height, width, text, pooled, residuals: false }
    }

    /// That pictures of a size can be made.
    pub(super) fn check_size(&self, width: usize, height: usize) -> Result<()> {
        let multiple = self.multiple();
        match width > 0 && height > 0 && width.is_multiple_of(multiple) && height.is_multiple_of(multiple) {
            true => Ok(()),
            false => Err(ask(format!(
                "a picture of {width} × {height} cannot be made: both sides must be multiples of {multiple}"
            ))),
        }
    }

    /// Makes a picture: pixels `(3, H, W)` in about -1..1. `on` hears of each phase and step, and stops the work by `false`.
    ///
    /// # Errors
    /// The sides are no multiples, a picture or mask given is of another size, the result is no number, or memory.
    pub fn paint(
        &mut self,
        r: &Request,
        on: &mut dyn FnMut(Event) -> bool,
    ) -> std::result::Result<Vec<f32>, PaintError> {
        self.check_size(r.width, r.height)?;
        self.check(r)?;
        let (c, h, w) = (self.vae.latent_channels, self.latent(r.height), self.latent(r.width));
        let mut noise = Noise::new(r.source, r.seed);
        let mut steps = r.steps.clone();
        let (mut original, mut seen) = (None, self.control_latents(r, &mut noise, on)?);
        if let Some(given) = r.given {
            steps = steps.strength(given.strength).map_err(Error::Ask)?;
            let edits = self.pipeline.purpose.edits();
            let latents = self.latents(&given.pixels, given.size, (!edits).then_some(&mut noise), on)?;
            // Who sees it beside the noise need not begin with it.
            if !edits || given.strength < 1.0 || given.mask.is_some() {
                self.check_given(given, (r.width, r.height))?;
                original = Some(latents.clone());
            }
            if edits {
                seen.given = latents;
            }
        }
        let drawn = noise.randn(c * h * w);
        let beginning = match &original {
            Some(original) => steps.begin_with(original, &drawn),
            None => steps.begin(&drawn),
        };
        self.look(r, (h, w), &mut seen, &mut noise, on)?;
        let mask = match (r.given.and_then(|g| g.mask.as_ref()), &original) {
            (Some(mask), Some(original)) if self.pipeline.purpose != Purpose::Inpaint => {
                let small = hob_io::picture::nearest(mask, (r.width, r.height), (w, h));
                Some(Mask { original: original.clone(), noise: drawn.clone(), paint: small.repeat(c) })
            }
            _ => None,
        };
        let mut open = match self.open.take() {
            Some(open) => open,
            None => Open { denoiser: self.network(Role::Denoiser)?, control: None },
        };
        let wanted = r.control.is_some() && self.control.is_some();
        open.control = match open.control.take() {
            None if wanted => Some(self.network(Role::ControlNet)?),
            open => open.filter(|_| wanted),
        };
        let count = steps.list.len();
        let (on_step, stop) = (RefCell::new(&mut *on), Cell::new(false));
        let told = |event: Event| {
            if !(on_step.borrow_mut())(event) {
                stop.set(true);
            }
        };
        told(Event::Step { step: 0, steps: count, seen: None });
        let mut calls = 0..;
        let mut model = |x: &[f32], at: At| match (stop.get(), calls.next()) {
            (false, Some(call)) => Ok(self.denoised(&mut open, r, call, x, at, (h, w), &seen)?),
            _ => Err(PaintError::Stopped),
        };
        let mut each =
            |p: Progress| told(Event::Step { step: p.step + 1, steps: p.steps, seen: Some(p.denoised) });
        // ComfyUI's noise of these samplers is one path for a seed.
        let levels = || steps.list.iter().flat_map(|s| [s.sigma, s.to]).filter(|sigma| *sigma > 0.0);
        let tree = (r.how.brownian && r.source == Source::TorchCpu).then(|| {
            Tree::new(r.seed, (levels().fold(f32::MAX, f32::min), levels().fold(0.0, f32::max)), c * h * w)
        });
        let mut fresh = |from: f32, to: f32| match &tree {
            Some(tree) => tree.noise(from, to),
            None => noise.randn(c * h * w),
        };
        let walk = Walk {
            steps: &steps,
            model: &mut model,
            noise: &mut fresh,
            each: &mut each,
            mask: mask.as_ref(),
        };
        let walked = sample(r.sampler, &r.how, walk, beginning);
        let stopped = stop.get();
        // Without room for both it does not lie in memory while the autoencoder runs.
        self.open = self.room.as_ref().is_none_or(|room| room.keep).then_some(open);
        let latents = match walked {
            Ok(_) if stopped => return Err(PaintError::Stopped),
            Ok(latents) => latents,
            Err(SampleError::Model { source, .. }) => return Err(source),
            Err(e) => return Err(PaintError::NotFinite(e.to_string())),
        };
        let pixels = self.decode(&latents, h, w, on)?;
        if pixels.iter().any(|x| !x.is_finite()) {
            let what =
                "the VAE's numbers overflow: the picture holds NaN or infinity; give another one with --vae";
            return Err(PaintError::NotFinite(what.into()));
        }
        Ok(pixels)
    }

    /// Lets go of the denoiser's memory between pictures.
    pub fn rest(&mut self) {
        self.open = None;
    }

    /// Pixels `(3, H, W)` in about -1..1 of latents `(C, h, w)` as the denoiser leaves them. `on` hears of each tile.
    ///
    /// # Errors
    /// The autoencoder's weights do not fit its configuration; memory; `on` stopped it.
    pub fn decode(
        &self,
        latents: &[f32],
        h: usize,
        w: usize,
        on: &mut dyn FnMut(Event) -> bool,
    ) -> std::result::Result<Vec<f32>, PaintError> {
        let (scale, shift) = (self.vae.scaling_factor, self.vae.shift_factor.unwrap_or(0.0));
        let latents: Vec<f32> = latents.iter().map(|x| x / scale + shift).collect();
        let mut going = || on(Event::Decoding);
        let mut said = self.through(Side::Decoder, [h, w], &latents, &mut going)?;
        Ok(said.remove("pixels").unwrap_or_default())
    }

    /// What the autoencoder makes of numbers, in tiles where memory asks for them.
    pub(super) fn through(
        &self,
        side: Side,
        size: [usize; 2],
        numbers: &[f32],
        on: &mut dyn FnMut() -> bool,
    ) -> std::result::Result<BTreeMap<String, Vec<f32>>, PaintError> {
        let planned = self.room.as_ref().and_then(|room| room.ways.iter().find(|way| way.is_for(side, size)));
        let whole = Way::whole(&self.vae, side, size);
        let mut network = self.network(Role::Vae)?;
        let mut walk = tiles::Walk { vae: &self.vae, network: &mut network, cpu: &self.cpu, on };
        let said = walk.go(planned.unwrap_or(&whole), numbers)?.ok_or(PaintError::Stopped)?;
        Ok(said.into_iter().collect())
    }
}
