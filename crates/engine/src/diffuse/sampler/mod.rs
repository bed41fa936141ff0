//! The samplers: a function each over `denoised = model(x, sigma)`, in k-diffusion's terms.
//!
//! x is `picture + sigma * noise`, also for the samplers that diffusers writes with x at variance one (that x is ours divided
//! by sqrt(sigma² + 1)), or a flow's `(1 - sigma) * picture + sigma * noise`: [`Space::alpha`] is all that differs, and
//! λ = ln(alpha / sigma) is half the logarithm of the signal-to-noise ratio. Latents are f32, their factors f64.

mod multistep;
mod single;
mod uni_pc;

use super::names::Sampler;
use super::predict::{Mask, Space};
use super::steps::{Step, Steps};

/// Where the network is asked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct At {
    /// the step, from 0
    pub step: usize,
    /// noise level of x
    pub sigma: f32,
    /// the timestep to tell the network, of `0..num_train_timesteps`
    pub time: f32,
}

/// What is known once in every step.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// the step that has begun, from 0
    pub step: usize,
    /// how many there are
    pub steps: usize,
    /// the noise level it began at
    pub sigma: f32,
    /// the picture as the network sees it now, for previews
    pub denoised: &'a [f32],
}

/// Why a walk stopped. `E` is what the model says, such as that the person cancelled.
#[derive(Debug, PartialEq, thiserror::Error)]
#[allow(missing_docs)]
pub enum SampleError<E> {
    /// the model failed or was stopped
    #[error("step {} of {steps}: {source}", step + 1)]
    Model { step: usize, steps: usize, source: E },
    /// the network gave NaN or infinity
    #[error(
        "the picture became NaN or infinite in step {} of {steps}: the network's numbers overflow; try weights in another \
         format, a lower --cfg or another VAE or LoRA",
        step + 1
    )]
    NotFinite { step: usize, steps: usize },
    /// x, noise, mask and the network's answer are not of one length
    #[error("the {what} has {got} numbers, and the latents have {want}")]
    Length { what: &'static str, got: usize, want: usize },
}

/// How a sampler works where it has a choice.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct How {
    /// how much fresh noise a step brings: 1 as much as the theory has, 0 none; of ancestral and SDE samplers, and DDIM
    pub eta: f64,
    /// the fresh noise times this
    pub s_noise: f64,
    /// of DPM++ multistep, UniPC and LMS
    pub order: usize,
    /// the second order of DPM++ is Heun's, not the midpoint's
    pub heun: bool,
    /// UniPC's B(h) is h, not exp(h) - 1
    pub bh1: bool,
    /// DPM++ and UniPC fall back to lower orders in the last of fewer than 15 steps, as diffusers does
    pub lower_order_final: bool,
    /// DPM++ makes the last step by the first order always
    pub euler_at_final: bool,
    /// LMS takes its order also for the step to zero, as diffusers does; ComfyUI takes the denoised picture
    pub lms_to_zero: bool,
    /// the noise of the SDE samplers is a Brownian tree's, as k-diffusion and ComfyUI have it
    pub brownian: bool,
    /// LCM's boundary condition, with timesteps times this (`timestep_scaling`); ComfyUI has none
    pub boundary: Option<f64>,
}

impl How {
    /// As ComfyUI runs it.
    pub fn of(sampler: Sampler) -> How {
        use Sampler::*;
        How {
            eta: if sampler == Ddim { 0.0 } else { 1.0 },
            s_noise: 1.0,
            order: match sampler {
                Dpmpp3m | Dpmpp3mSde | UniPc | UniPcBh2 => 3,
                Lms => 4,
                _ => 2,
            },
            heun: matches!(sampler, Dpmpp2mSdeHeun | Dpmpp3mSde),
            bh1: sampler == UniPc,
            lower_order_final: sampler.is_uni_pc(),
            euler_at_final: false,
            lms_to_zero: false,
            brownian: matches!(sampler, DpmppSde | Dpmpp2mSde | Dpmpp2mSdeHeun | Dpmpp3mSde),
            boundary: None,
        }
    }
}

/// The picture in x as a network sees it. An error ends the walk.
pub type Model<'a, E> = dyn FnMut(&[f32], At) -> Result<Vec<f32>, E> + 'a;

/// What a walk has to do with: its steps, and those it asks.
pub struct Walk<'a, E> {
    /// the way
    pub steps: &'a Steps,
    /// the network with guidance, see [`super::Prediction`]
    pub model: &'a mut Model<'a, E>,
    /// as many fresh standard normal numbers as x has, for the way from one level to another
    pub noise: &'a mut dyn FnMut(f32, f32) -> Vec<f32>,
    /// told once in every step
    pub each: &'a mut dyn FnMut(Progress),
    /// what is kept of a picture
    pub mask: Option<&'a Mask>,
}

/// Walks from `x`, as [`Steps::begin`] gives it, to the picture's latents.
pub fn sample<E>(
    sampler: Sampler,
    how: &How,
    mut walk: Walk<'_, E>,
    x: Vec<f32>,
) -> Result<Vec<f32>, SampleError<E>> {
    use Sampler::*;
    if let Some(mask) = walk.mask {
        let parts = [("original", &mask.original), ("mask's noise", &mask.noise), ("mask", &mask.paint)];
        for (what, part) in parts {
            same_length(what, part, x.len())?;
        }
    }
    let (finish, w) = (walk.steps.finish, &mut walk);
    let mut x = match sampler {
        Euler => single::euler(w, x),
        EulerAncestral | Ddim => single::euler_ancestral(w, how, x),
        Heun => single::heun(w, x),
        Dpm2 => single::dpm_2(w, x),
        Dpm2Ancestral => single::dpm_2_ancestral(w, how, x),
        Dpmpp2sAncestral => single::dpmpp_2s_ancestral(w, how, x),
        DpmppSde => single::dpmpp_sde(w, how, x),
        Lcm => single::lcm(w, how, x),
        Lms => multistep::lms(w, how, x),
        Plms => multistep::plms(w, x),
        Dpmpp2m | Dpmpp3m => multistep::dpmpp(w, &How { eta: 0.0, ..*how }, x),
        Dpmpp2mSde | Dpmpp2mSdeHeun | Dpmpp3mSde => multistep::dpmpp(w, how, x),
        UniPc | UniPcBh2 => uni_pc::uni_pc(w, how, x),
    }?;
    if finish != 1.0 {
        x.iter_mut().for_each(|x| *x *= finish);
    }
    Ok(x)
}

fn same_length<E>(what: &'static str, part: &[f32], want: usize) -> Result<(), SampleError<E>> {
    match part.len() == want {
        true => Ok(()),
        false => Err(SampleError::Length { what, got: part.len(), want }),
    }
}

type Out<E> = Result<Vec<f32>, SampleError<E>>;

impl<E> Walk<'_, E> {
    fn len(&self) -> usize {
        self.steps.list.len()
    }

    fn step(&self, i: usize) -> Step {
        self.steps.list[i]
    }

    fn space(&self) -> Space {
        self.steps.space
    }

    /// The picture in x.
    fn ask(&mut self, x: &[f32], step: usize, sigma: f32, time: f32) -> Out<E> {
        let steps = self.len();
        let denoised = (self.model)(x, At { step, sigma, time });
        let denoised = denoised.map_err(|source| SampleError::Model { step, steps, source })?;
        same_length("network's answer", &denoised, x.len())?;
        match denoised.iter().all(|d| d.is_finite()) {
            true => Ok(denoised),
            false => Err(SampleError::NotFinite { step, steps }),
        }
    }

    /// The picture at a step's beginning, which is told.
    fn begin(&mut self, x: &[f32], step: usize) -> Out<E> {
        let Step { sigma, time, .. } = self.step(step);
        let denoised = self.ask(x, step, sigma, time)?;
        let steps = self.len();
        (self.each)(Progress { step, steps, sigma, denoised: &denoised });
        Ok(denoised)
    }

    /// The picture between levels.
    fn between(&mut self, x: &[f32], step: usize, sigma: f32) -> Out<E> {
        self.ask(x, step, sigma, self.steps.time(sigma))
    }

    /// The picture at a step's end, where the next one begins.
    fn ahead(&mut self, x: &[f32], step: usize) -> Out<E> {
        let sigma = self.step(step).to;
        let next = self.steps.list.get(step + 1).filter(|s| s.sigma == sigma);
        let time = next.map_or_else(|| self.steps.time(sigma), |s| s.time);
        self.ask(x, step, sigma, time)
    }

    /// Keeps what the mask keeps, now that x has come to `sigma`.
    fn keep(&self, x: &mut [f32], sigma: f32) {
        if let Some(mask) = self.mask {
            mask.keep(x, sigma, self.space());
        }
    }

    /// The same at a step's end. After the last one the original is kept without noise.
    fn end(&self, x: &mut [f32], step: usize) {
        let (to, next) = (self.step(step).to, self.steps.list.get(step + 1).map(|s| s.sigma));
        if let Some(next) = next.filter(|next| *next != to) {
            // diffusers' DDIM takes its x, which is at variance one, for one of the next level all the same.
            let scale = ((next * next + 1.0) / (to * to + 1.0)).sqrt();
            x.iter_mut().for_each(|x| *x *= scale);
        }
        self.keep(x, next.unwrap_or(0.0));
    }

    /// Adds fresh noise for the way from one level to another.
    fn stir(&mut self, x: &mut [f32], by: f64, (from, to): (f32, f32)) -> Result<(), SampleError<E>> {
        if by > 0.0 {
            let noise = (self.noise)(from, to);
            same_length("noise", &noise, x.len())?;
            x.iter_mut().zip(&noise).for_each(|(x, n)| *x += by as f32 * n);
        }
        Ok(())
    }
}

/// λ: half the logarithm of the signal-to-noise ratio.
fn lambda(space: Space, sigma: f64) -> f64 {
    space.alpha(sigma).ln() - sigma.ln()
}

/// The sum of arrays times factors.
fn mix<const N: usize>(parts: [(f64, &[f32]); N]) -> Vec<f32> {
    let (factors, arrays) = (parts.map(|(f, _)| f as f32), parts.map(|(_, a)| a));
    (0..arrays[0].len()).map(|i| (0..N).map(|k| factors[k] * arrays[k][i]).sum()).collect()
}

/// Euler's step along the line from x through the picture, in the roundings of diffusers.
fn toward(x: &[f32], denoised: &[f32], sigma: f32, to: f32) -> Vec<f32> {
    let along = to - sigma;
    x.iter().zip(denoised).map(|(x, d)| x + (x - d) / sigma * along).collect()
}
