//! The noise levels of a walk, as diffusers' schedulers set them (`set_timesteps`).

use super::beta;
use super::config::{Flow, Scheduler, Spacing, Spread};
use super::levels::{Levels, linspace};
use super::names::Sampler;
use super::predict::Space;
use std::sync::Arc;

/// One step: from a level to a lower one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// the level it begins at
    pub sigma: f32,
    /// the level it ends at; that where the next one begins, but for DDIM and PLMS where steps do not divide evenly
    pub to: f32,
    /// the timestep that the network is told, of `0..num_train_timesteps`
    pub time: f32,
}

/// All steps of a walk, in order.
#[derive(Clone, Debug)]
pub struct Steps {
    /// what is walked
    pub list: Vec<Step>,
    /// what sigma means
    pub space: Space,
    /// steps that were asked for, of which [`Steps::strength`] may have left a part
    pub asked: usize,
    pub(super) clock: Clock,
    /// what pure noise is multiplied by to begin
    pub(super) init: f32,
    /// what x is multiplied by in the end
    pub(super) finish: f32,
}

/// From sigma to timestep between steps.
#[derive(Clone, Debug)]
pub(super) enum Clock {
    Between(Arc<Levels>),
    Nearest(Arc<Levels>),
    Times(f32),
}

impl Steps {
    /// The steps that diffusers takes with this scheduler_config.json (or with the class of `sampler` made `from_config` of
    /// it): `n` of them, for a picture of so many `tokens` (only flows with a dynamic shift ask). With "trailing" spacing some
    /// counts (61, 103, …) give diffusers one step too many by rounding; here they do not.
    pub fn diffusers(config: &Scheduler, sampler: Sampler, n: usize, tokens: usize) -> Result<Steps, String> {
        let most = config.betas.count;
        if n == 0 || n > most {
            return Err(format!("{n} steps are asked for; there can be 1 to {most}"));
        }
        match &config.flow {
            Some(flow) => Ok(of_flow(config, flow, sampler, n, tokens)),
            None => of_levels(config, sampler, n),
        }
    }

    /// The timestep at a sigma.
    pub fn time(&self, sigma: f32) -> f32 {
        match &self.clock {
            Clock::Between(levels) => levels.time(f64::from(sigma)) as f32,
            Clock::Nearest(levels) => levels.nearest(sigma),
            Clock::Times(train) => sigma * train,
        }
    }

    /// What a walk from nothing begins with, given standard normal numbers.
    pub fn begin(&self, noise: &[f32]) -> Vec<f32> {
        noise.iter().map(|n| n * self.init).collect()
    }

    /// What a walk from a picture's latents begins with.
    pub fn begin_with(&self, original: &[f32], noise: &[f32]) -> Vec<f32> {
        self.space.noised(original, noise, self.list.first().map_or(0.0, |s| s.sigma))
    }

    /// Only the last steps, for a picture that is given: `strength` 1 keeps all, 0.5 the latter half (diffusers'
    /// `get_timesteps`, which rounds down for Stable Diffusion and up for Flux).
    pub fn strength(mut self, strength: f64) -> Result<Steps, String> {
        if !(0.0..=1.0).contains(&strength) {
            return Err(format!("--strength is {strength}, and must be from 0 to 1"));
        }
        let n = self.list.len();
        let kept = n as f64 * strength;
        let start = match self.space {
            Space::Diffusion => n - kept as usize,
            Space::Flow => (n as f64 - kept) as usize,
        };
        if start >= n {
            return Err(format!(
                "--strength {strength} leaves none of {n} steps; raise it or ask for more with --steps"
            ));
        }
        self.list.drain(..start);
        Ok(self)
    }

    /// From levels in falling order, the last being where the walk ends.
    pub(super) fn chain(sigmas: &[f32], times: &[f32], space: Space, clock: Clock) -> Steps {
        let list: Vec<Step> = sigmas
            .windows(2)
            .zip(times)
            .map(|(pair, time)| Step { sigma: pair[0], to: pair[1], time: *time })
            .collect();
        Steps { asked: list.len(), list, space, clock, init: 1.0, finish: 1.0 }
    }
}

/// Timesteps in falling order.
fn spaced(spacing: Spacing, train: usize, n: usize, offset: usize) -> Vec<f64> {
    match spacing {
        Spacing::Linspace => linspace(0.0, (train - 1) as f64, n).into_iter().rev().collect(),
        Spacing::Leading => (0..n).rev().map(|i| (i * (train / n) + offset) as f64).collect(),
        Spacing::Trailing => trailing(train, train, n),
    }
}

/// `np.arange(last, 0, -train / n).round() - 1`
fn trailing(last: usize, train: usize, n: usize) -> Vec<f64> {
    let (last, ratio) = (last as f64, train as f64 / n as f64);
    let step = (last - ratio) - last;
    let count = ((last / ratio).ceil() as usize).min(n);
    (0..count).map(|i| (last + i as f64 * step).round_ties_even() - 1.0).collect()
}

/// Sigmas between two, the greater first (`_convert_to_karras` and its like).
fn spread(how: Spread, min: f64, max: f64, n: usize) -> Vec<f64> {
    match how {
        Spread::Karras | Spread::Timesteps => {
            let (low, high) = (min.powf(1.0 / 7.0), max.powf(1.0 / 7.0));
            linspace(0.0, 1.0, n).iter().map(|r| (high + r * (low - high)).powf(7.0)).collect()
        }
        Spread::Exponential | Spread::Lu => linspace(max.ln(), min.ln(), n).iter().map(|s| s.exp()).collect(),
        Spread::Beta => {
            linspace(0.0, 1.0, n).iter().map(|r| min + beta::quantile(1.0 - r) * (max - min)).collect()
        }
    }
}

fn of_levels(config: &Scheduler, sampler: Sampler, n: usize) -> Result<Steps, String> {
    use Sampler::*;
    let levels = Arc::new(Levels::diffusers(&config.betas));
    match sampler {
        Lcm => consistent(config, levels, n),
        Ddim | Plms => Ok(even(config, levels, sampler, n)),
        Dpmpp2m | Dpmpp2mSde | Dpmpp2mSdeHeun | Dpmpp3m | Dpmpp3mSde | UniPc | UniPcBh2 => {
            Ok(multistep(config, levels, sampler, n))
        }
        _ => Ok(karras_family(config, levels, sampler, n)),
    }
}

/// Euler, Heun, KDPM2, LMS and DPMSolverSDE: x is not scaled, timesteps may be fractions.
fn karras_family(config: &Scheduler, levels: Arc<Levels>, sampler: Sampler, n: usize) -> Steps {
    let spacing = config.spacing.unwrap_or(Spacing::Linspace);
    let mut times: Vec<f64> = spaced(spacing, config.betas.count, n, config.offset);
    times.iter_mut().for_each(|t| *t = f64::from(*t as f32));
    let mut sigmas: Vec<f64> = times.iter().map(|t| levels.linear(*t)).collect();
    // diffusers' ancestral Euler knows no other spread.
    if config.spread != Spread::Timesteps && config.spread != Spread::Lu && sampler != Sampler::EulerAncestral
    {
        let (min, max) = (config.range.0.unwrap_or(sigmas[n - 1]), config.range.1.unwrap_or(sigmas[0]));
        sigmas = spread(config.spread, min, max, n);
        times = sigmas.iter().map(|s| levels.time(*s)).collect();
        if config.spread == Spread::Karras && matches!(sampler, Sampler::Dpm2 | Sampler::Dpm2Ancestral) {
            times.iter_mut().for_each(|t| *t = t.round_ties_even());
        }
    }
    let mut sigmas: Vec<f32> = sigmas.iter().map(|s| *s as f32).collect();
    sigmas.push(if sampler == Sampler::Euler && !config.to_zero { levels.min() } else { 0.0 });
    let times: Vec<f32> = times.iter().map(|t| *t as f32).collect();
    let max = sigmas.iter().copied().fold(0.0, f32::max);
    let mut steps = Steps::chain(&sigmas, &times, Space::Diffusion, Clock::Between(levels));
    steps.init = if spacing == Spacing::Leading { (max * max + 1.0).sqrt() } else { max };
    steps
}

/// For the schedulers that keep x at variance one, and so begin with the noise itself: here x is larger by
/// sqrt(sigma² + 1), and becomes theirs again in the end.
fn of_variance_one(mut steps: Steps) -> Steps {
    let scale = |s: f32| (s * s + 1.0).sqrt();
    steps.init = steps.list.first().map_or(1.0, |s| scale(s.sigma));
    steps.finish = 1.0 / steps.list.last().map_or(1.0, |s| scale(s.to));
    steps
}

/// DPMSolverMultistep and UniPC: whole timesteps.
fn multistep(config: &Scheduler, levels: Arc<Levels>, sampler: Sampler, n: usize) -> Steps {
    let train = config.betas.count;
    let uni_pc = sampler.is_uni_pc();
    // λ = ln(α / σ) falls with the timestep; UniPC leaves nothing out.
    let clipped = levels.logs().iter().filter(|l| f64::from(-**l) < config.clip).count();
    let last = if uni_pc { train } else { train - clipped.min(train - 1) };
    let mut times: Vec<f64> = match config.spacing.unwrap_or(Spacing::Linspace) {
        Spacing::Linspace => {
            linspace(0.0, (last - 1) as f64, n + 1)[1..].iter().rev().map(|t| t.round_ties_even()).collect()
        }
        Spacing::Leading => (1..=n).rev().map(|i| (i * (last / (n + 1)) + config.offset) as f64).collect(),
        Spacing::Trailing => trailing(last, train, n),
    };
    let mut sigmas: Vec<f64> = times.iter().map(|t| levels.linear(*t)).collect();
    if config.spread != Spread::Timesteps && !(uni_pc && config.spread == Spread::Lu) {
        let (min, max) = (f64::from(levels.min()), f64::from(levels.max()));
        let (min, max) = (config.range.0.unwrap_or(min), config.range.1.unwrap_or(max));
        sigmas = match (config.spread, levels.logs()) {
            (Spread::Lu, [low, .., high]) => {
                linspace(f64::from(*high), f64::from(*low), n).iter().map(|l| l.exp()).collect()
            }
            _ => spread(config.spread, min, max, n),
        };
        let cosine = config.betas.curve == super::levels::Curve::Cosine && !uni_pc;
        let rounds = matches!(config.spread, Spread::Karras | Spread::Lu) && !cosine;
        let whole = |t: f64| if rounds { t.round_ties_even() } else { t.trunc() };
        times = sigmas.iter().map(|s| whole(levels.time(*s))).collect();
    }
    let mut sigmas: Vec<f32> = sigmas.iter().map(|s| *s as f32).collect();
    sigmas.push(if config.to_zero { 0.0 } else { levels.min() });
    let times: Vec<f32> = times.iter().map(|t| *t as f32).collect();
    of_variance_one(Steps::chain(&sigmas, &times, Space::Diffusion, Clock::Between(levels)))
}

/// DDIM and PNDM: whole timesteps, each step going down by the same number of them.
fn even(config: &Scheduler, levels: Arc<Levels>, sampler: Sampler, n: usize) -> Steps {
    let train = config.betas.count;
    let times = spaced(config.spacing.unwrap_or(Spacing::Leading), train, n, config.offset);
    let sigma = |t: usize| levels.sigmas[t.min(train - 1)];
    // diffusers' defaults: DDIM ends without noise, PNDM at the least level.
    let to_zero = config.alpha_to_one.unwrap_or(sampler == Sampler::Ddim);
    let end = if to_zero { 0.0 } else { levels.min() };
    let list = times.iter().map(|t| {
        let t = t.round_ties_even().max(0.0) as usize;
        Step { sigma: sigma(t), to: t.checked_sub(train / n).map_or(end, sigma), time: t as f32 }
    });
    let (list, clock) = (list.collect(), Clock::Between(levels.clone()));
    of_variance_one(Steps { list, space: Space::Diffusion, asked: n, clock, init: 1.0, finish: 1.0 })
}

/// LCM: every so manieth of the timesteps it was distilled on.
fn consistent(config: &Scheduler, levels: Arc<Levels>, n: usize) -> Result<Steps, String> {
    let original = config.original_steps.min(config.betas.count);
    if n > original {
        return Err(format!(
            "lcm knows {original} timesteps, and {n} steps are asked for; ask for fewer with --steps"
        ));
    }
    let every = config.betas.count / original;
    let at = |i: usize| {
        let index = (i as f64 * (original as f64 / n as f64)) as usize;
        (original - index) * every - 1
    };
    let times: Vec<f32> = (0..n).map(|i| at(i) as f32).collect();
    let mut sigmas: Vec<f32> = (0..n).map(|i| levels.sigmas[at(i)]).collect();
    sigmas.push(0.0);
    Ok(of_variance_one(Steps::chain(&sigmas, &times, Space::Diffusion, Clock::Between(levels))))
}

fn of_flow(config: &Scheduler, flow: &Flow, sampler: Sampler, n: usize, tokens: usize) -> Steps {
    use Sampler::*;
    let train = flow.train as f64;
    let mut times = None;
    let mut sigmas: Vec<f64> = match sampler {
        // DPMSolverMultistep and UniPC with `use_flow_sigmas`
        Dpmpp2m | Dpmpp2mSde | Dpmpp2mSdeHeun | Dpmpp3m | Dpmpp3mSde => {
            let noise =
                linspace(1.0, 1.0 / train, n + 1).into_iter().map(|a| flow.shifted_plainly(1.0 - a, tokens));
            noise.skip(1).rev().collect()
        }
        UniPc | UniPcBh2 => {
            let noise = linspace(1.0, 1.0 / train, n + 1).into_iter().take(n);
            let mut sigmas = flow.stretched(noise.map(|s| flow.shifted(s, tokens)).collect());
            if (sigmas[0] - 1.0).abs() < 1e-6 {
                sigmas[0] -= 1e-6;
            }
            sigmas
        }
        _ => {
            // The least sigma of training is shifted as well, unless the shift depends on the picture.
            let least = match flow.dynamic {
                Some(_) => (1.0f32 / flow.train as f32) as f64,
                None => f64::from(flow.shifted_f32(1.0 / flow.train as f32)),
            };
            let even = match flow.listed {
                true => linspace(1.0, 1.0 / n as f64, n).iter().map(|s| f64::from(*s as f32)).collect(),
                false => linspace(train, least * train, n).iter().map(|t| t / train).collect::<Vec<f64>>(),
            };
            let mut sigmas = flow.stretched(even.iter().map(|s| flow.shifted(*s, tokens)).collect());
            if !matches!(config.spread, Spread::Timesteps | Spread::Lu) {
                sigmas = spread(config.spread, sigmas[n - 1], sigmas[0], n);
            }
            times = Some(sigmas.iter().map(|s| *s as f32 * flow.train as f32).collect());
            sigmas
        }
    };
    // The multistep schedulers have whole timesteps.
    let times: Vec<f32> =
        times.unwrap_or_else(|| sigmas.iter().map(|s| (s * train).trunc() as f32).collect());
    sigmas.push(0.0);
    let sigmas: Vec<f32> = sigmas.iter().map(|s| *s as f32).collect();
    Steps::chain(&sigmas, &times, Space::Flow, Clock::Times(flow.train as f32))
}

impl Flow {
    /// With `flow_shift` alone: exp(mu) where the shift is dynamic.
    fn shifted_plainly(&self, sigma: f64, tokens: usize) -> f64 {
        let shift = self.dynamic.map_or(self.shift, |d| d.mu(tokens).exp());
        shift * sigma / (1.0 + (shift - 1.0) * sigma)
    }

    fn shifted_f32(&self, sigma: f32) -> f32 {
        let shift = self.shift as f32;
        shift * sigma / (1.0 + (self.shift - 1.0) as f32 * sigma)
    }

    /// So that the last one is `shift_terminal`.
    fn stretched(&self, mut sigmas: Vec<f64>) -> Vec<f64> {
        if let (Some(terminal), Some(last)) = (self.terminal, sigmas.last()) {
            let scale = (1.0 - last) / (1.0 - terminal);
            sigmas.iter_mut().for_each(|s| *s = 1.0 - (1.0 - *s) / scale);
        }
        sigmas
    }
}
