//! Between a denoiser and a finished latent: noise, noise levels, samplers, guidance. Pure functions of numbers; networks
//! and pictures are the caller's.
//!
//! A walk goes through [`Steps`], made in one of two ways:
//! - [`Steps::diffusers`]: by the model's own scheduler_config.json, as diffusers' scheduler of that sampler would
//!   (`set_timesteps`), the same timesteps to the last bit where torch and numpy are the same. This is the default.
//! - [`Steps::comfy`]: by the name of a [`Schedule`], as ComfyUI computes it.
//!
//! The two differ under one name. `karras`: diffusers' Euler spreads sigmas between the first and the last of the spaced
//! timesteps (with "leading" spacing it so begins below the greatest level), its DPM++ and ComfyUI between the ends of all
//! trained levels. `normal`: both ends of the trained timesteps; diffusers' Euler with "leading" spacing neither. `beta`:
//! diffusers spreads sigmas by the distribution, ComfyUI timesteps. The network's timestep: ComfyUI rounds to the nearest,
//! diffusers interpolates, or rounds (DPM++ karras), or cuts (DPM++ exponential, beta). ComfyUI's trained levels are computed
//! in f64, diffusers' in f32. ComfyUI leaves out the last level but zero for dpm_2 and uni_pc.
//!
//! Noise in the steps is drawn afresh for each, as diffusers' multistep schedulers do; of the SDE samplers of the second way it
//! is a Brownian tree's ([`brownian`]), as in ComfyUI, where those called `…_gpu` draw other numbers.

mod beta;
pub mod brownian;
mod comfy;
mod config;
pub mod consistency;
mod denoise;
mod held;
mod levels;
mod look;
mod names;
mod network;
pub mod noise;
mod painter;
pub mod pcg64;
mod phases;
mod predict;
mod preview;
mod sampler;
mod steps;
pub mod terrain;
mod tiles;
mod upscale;
mod words;

pub use comfy::Ays;
pub use config::{Dynamic, Flow, Scheduler, Spacing, Spread};
pub use hob_models::flux_control::MODES;
pub use levels::{Betas, Curve, Levels};
pub use names::{Sampler, Schedule, from_a1111};
pub use noise::{Noise, Source};
pub use painter::{Control, Event, Given, PaintError, Painter, Request};
pub use phases::{Phase, Room, Shape};
pub use predict::{Guidance, Mask, Prediction, Space};
pub use preview::Preview;
pub use sampler::{At, How, Model, Progress, SampleError, Walk, sample};
pub use steps::{Step, Steps};
pub use upscale::{CONTEXT, Tiles, Upscaler};
pub use words::{Said, Script, Tokens, Turns, Words};
