//! Pictures held to another one: ControlNets of UNets and of Flux.

use super::network::Network;
use super::painter::{Control, Denoiser, Painter, Request, ask};
use crate::Result;
use hob_graph::Data;
use hob_io::pipeline::{Part, Purpose};
use hob_models::flux_control::MODES;
use hob_models::{controlnet, flux, flux_control, unet};
use std::borrow::Cow;

/// Numbers by name, which may lie where they were made.
pub(super) type Named<'a> = (&'a str, Cow<'a, [f32]>);

/// A ControlNet, by what it holds.
pub(super) enum Controller {
    Unet(Box<controlnet::Config>),
    Flux(Box<flux_control::Config>),
}

impl Controller {
    /// That of a part beside a denoiser.
    pub fn parse(part: &Part, denoiser: &Denoiser) -> std::result::Result<Controller, String> {
        Ok(match denoiser {
            Denoiser::Unet(_) => Controller::Unet(Box::new(controlnet::Config::parse(&part.config)?)),
            Denoiser::Flux(model) => {
                let c = flux_control::Config::parse(&part.config)?;
                let sizes = |c: &flux::Config| (c.channels(), c.joint_attention_dim, c.pooled_projection_dim);
                let (mine, theirs) = (sizes(&c.flux), sizes(model));
                if mine != theirs {
                    return Err(format!("it is of width {}, and the model of {}", mine.0, theirs.0));
                }
                if c.flux.num_layers > model.num_layers || c.flux.num_single_layers > model.num_single_layers
                {
                    return Err("it has more blocks than the model".into());
                }
                Controller::Flux(Box::new(c))
            }
        })
    }
}

/// A ControlNet at work.
pub(super) struct Held<'a, C> {
    pub network: &'a mut Network,
    pub config: &'a C,
    pub given: &'a Control,
}

impl Painter {
    /// Whether what holds the picture is seen as latents.
    pub(super) fn holds_by_latents(&self) -> bool {
        let by_net = matches!(&self.control, Some(Controller::Flux(c)) if !c.sees_pixels());
        by_net || self.pipeline.purpose == Purpose::Control
    }

    /// That what is to hold the picture can.
    pub(super) fn check(&self, r: &Request) -> Result<()> {
        self.wants(r.given.is_some(), r.control.is_some())?;
        let Some(control) = r.control else { return Ok(()) };
        let mut channels = 3;
        let mut modes = None;
        match &self.control {
            None if self.pipeline.purpose == Purpose::Control => {}
            None => {
                return Err(ask(
                    "the model has no ControlNet that could hold the picture to another: give one with --control",
                ));
            }
            Some(Controller::Unet(c)) if c.reduction() == self.vae.reduction() => {
                channels = c.conditioning_channels
            }
            Some(Controller::Flux(c))
                if c.sees_pixels() && c.reduction() == self.vae.reduction() && c.flux.patch_size == 2
                    || !c.sees_pixels() && c.flux.in_channels == 4 * self.vae.latent_channels =>
            {
                modes = c.num_mode;
            }
            _ => return Err(ask("the ControlNet was made for a model whose latents are of another size")),
        }
        if control.image.len() != channels * r.width * r.height {
            return Err(ask(format!("the picture for the ControlNet is not of {} × {}", r.width, r.height)));
        }
        match (modes, control.mode) {
            (None, None) => Ok(()),
            (Some(modes), Some(mode)) if mode < modes => Ok(()),
            (None, Some(_)) => {
                Err(ask("--control-mode means nothing to this ControlNet, which is for one kind of pictures"))
            }
            (Some(modes), _) => Err(ask(format!(
                "this ControlNet is for several kinds of pictures: say which with --control-mode, {}",
                (0..modes.min(MODES.len())).map(|i| MODES[i]).collect::<Vec<_>>().join(", ")
            ))),
        }
    }

    /// What the ControlNet adds to the UNet, which is given `latents` and `inputs`, those that are led away from first. It
    /// lies where the ControlNet made it, where that is for all of them; nothing where it is for none.
    pub(super) fn held<'a>(
        &self,
        Held { network, config: c, given: control }: Held<'a, controlnet::Config>,
        (mut size, away): (unet::Size, usize),
        latents: &[f32],
        inputs: &[(&str, Data)],
    ) -> Result<Vec<Named<'a>>> {
        // One that says the same everywhere is for what has the prompt alone, as diffusers' pipeline has it.
        let (all, none) = (size.batch, if c.global_pool_conditions { away } else { 0 });
        size.batch = all - none;
        let n = size.batch;
        if n == 0 {
            return Ok(Vec::new());
        }
        let (latents, image) = (times(latents, n), times(&control.image, n));
        let scales = vec![control.strength; c.residuals()];
        let mut mine = vec![
            ("latents", Data::F32(&latents)),
            ("image", Data::F32(&image)),
            ("scales", Data::F32(&scales)),
        ];
        for (name, data) in inputs.iter().filter(|(name, _)| !["latents", "guidance"].contains(name)) {
            let Data::F32(x) = *data else { continue };
            mine.push((*name, Data::F32(&x[x.len() - x.len() / all * n..])));
        }
        let key = [n, size.height, size.width, size.text];
        network.ran(&self.cpu, key, || c.graph(size), &mine)?;
        let beside = |x: &'a [f32]| match none {
            0 => Cow::Borrowed(x),
            _ => [&vec![0.0; x.len() / n * none][..], x].concat().into(),
        };
        Ok(network.outputs().map(|(name, _, x)| (name, beside(x))).collect())
    }

    /// What the ControlNet adds to a Flux of `size`, which is given `inputs`. `tokens`: of the latents, and of those of what
    /// holds them, where those are seen.
    pub(super) fn held_flux<'a>(
        &self,
        Held { network, config: c, given }: Held<'a, flux_control::Config>,
        size: flux::Size,
        [latents, control]: [&[f32]; 2],
        inputs: &[(&str, Data)],
    ) -> Result<Vec<Named<'a>>> {
        let pixels: Vec<f32> = match c.sees_pixels() {
            true => given.image.iter().map(|x| 2.0 * x - 1.0).collect(),
            false => Vec::new(),
        };
        let (strength, mode) = ([given.strength], [given.mode.unwrap_or(0) as i32]);
        let mut mine = vec![
            ("latents", Data::F32(latents)),
            ("control", Data::F32(if c.sees_pixels() { &pixels } else { control })),
            ("strength", Data::F32(&strength)),
        ];
        if c.num_mode.is_some() {
            mine.push(("mode", Data::I32(&mode)));
        }
        let own = inputs.iter().filter(|(name, _)| c.flux.guidance_embeds || *name != "guidance");
        mine.extend(own.copied());
        let key = [1, size.height, size.width, size.text];
        network.ran(&self.cpu, key, || c.graph(size), &mine)?;
        Ok(network.outputs().map(|(name, _, x)| (name, x.into())).collect())
    }
}

/// Numbers so many times, one after another.
fn times(x: &[f32], n: usize) -> Cow<'_, [f32]> {
    if n == 1 { x.into() } else { x.repeat(n).into() }
}
