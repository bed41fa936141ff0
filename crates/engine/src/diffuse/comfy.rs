//! Schedules as ComfyUI computes them (`comfy/samplers.py`, `comfy/model_sampling.py`, `nodes_align_your_steps.py`).

use super::beta;
use super::config::{Flow, Scheduler};
use super::levels::{Levels, linspace};
use super::names::{Sampler, Schedule};
use super::predict::Space;
use super::steps::{Clock, Steps};
use std::sync::Arc;

/// For which family Align Your Steps was tuned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Ays {
    Sd15,
    Sdxl,
    Svd,
}

impl Ays {
    /// The published sigmas of ten steps, with the digits ComfyUI has.
    fn table(self) -> [f64; 11] {
        match self {
            Ays::Sd15 => [
                14.6146412293,
                6.4745760956,
                3.8636745985,
                2.6946151520,
                1.8841921177,
                1.3943805092,
                0.9642583904,
                0.6523686016,
                0.3977456272,
                0.1515232662,
                0.0291671582,
            ],
            Ays::Sdxl => [
                14.6146412293,
                6.3184485287,
                3.7681790315,
                2.1811480769,
                1.3405244945,
                0.8620721141,
                0.5550693289,
                0.3798540708,
                0.2332364134,
                0.1114188177,
                0.0291671582,
            ],
            Ays::Svd => [700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002],
        }
    }
}

/// The trained levels, as ComfyUI's model sampling classes have them.
enum Model {
    Discrete(Arc<Levels>),
    /// a thousand levels with a shift (ModelSamplingDiscreteFlow), or ten thousand (ModelSamplingFlux)
    Flow {
        levels: Vec<f32>,
        flow: Flow,
    },
}

impl Model {
    fn of(config: &Scheduler) -> Model {
        let Some(flow) = &config.flow else { return Model::Discrete(Arc::new(Levels::comfy(&config.betas))) };
        // ComfyUI shifts Flux by max_shift whatever the size of the picture.
        let n = if flow.dynamic.is_some() { 10_000 } else { flow.train };
        let flow = flow.clone();
        let levels = (1..=n).map(|i| shifted(&flow, i as f32 / n as f32)).collect();
        Model::Flow { levels, flow }
    }

    fn sigmas(&self) -> &[f32] {
        match self {
            Model::Discrete(levels) => &levels.sigmas,
            Model::Flow { levels, .. } => levels,
        }
    }

    /// Timesteps of flows are shares here.
    fn sigma(&self, time: f32) -> f32 {
        match self {
            Model::Discrete(levels) => levels.log_linear(time),
            Model::Flow { flow, .. } => shifted(flow, time),
        }
    }

    fn time(&self, sigma: f32) -> f32 {
        match self {
            Model::Discrete(levels) => levels.nearest(sigma),
            Model::Flow { .. } => sigma,
        }
    }
}

fn shifted(flow: &Flow, time: f32) -> f32 {
    match flow.dynamic {
        Some(d) => {
            let e = d.shift.1.exp() as f32;
            e / (e + (1.0 / time - 1.0))
        }
        None => flow.shift as f32 * time / (1.0 + (flow.shift - 1.0) as f32 * time),
    }
}

impl Steps {
    /// The steps that ComfyUI takes with a schedule of that name. `ays` says for which family [`Schedule::Ays`] is meant, which
    /// flows have none of. Some schedules give a step more or fewer than `n`, as they do there.
    pub fn comfy(
        config: &Scheduler,
        sampler: Sampler,
        schedule: Schedule,
        n: usize,
        ays: Ays,
    ) -> Result<Steps, String> {
        let model = Model::of(config);
        let most = config.betas.count;
        if n == 0 || n > most {
            return Err(format!("{n} steps are asked for; there can be 1 to {most}"));
        }
        if schedule == Schedule::Ays && config.flow.is_some() {
            return Err(
                "the schedule ays is for Stable Diffusion and SDXL, not for models that predict a flow"
                    .into(),
            );
        }
        // These samplers do poorly with the last small step, so it is left out.
        let without =
            matches!(sampler, Sampler::Dpm2 | Sampler::Dpm2Ancestral | Sampler::UniPc | Sampler::UniPcBh2);
        let mut sigmas = sigmas(&model, schedule, n + usize::from(without), ays);
        if without && sigmas.len() > 2 {
            sigmas.remove(sigmas.len() - 2);
        }
        let (first, max) = (sigmas[0], model.sigmas()[model.sigmas().len() - 1]);
        let (space, clock, init) = match &model {
            Model::Discrete(levels) => {
                let whole = (max - first).abs() <= 1e-5 * max.max(first) || first > max;
                let init = if whole { (1.0 + first * first).sqrt() } else { first };
                (Space::Diffusion, Clock::Nearest(levels.clone()), init)
            }
            Model::Flow { flow, .. } => (Space::Flow, Clock::Times(flow.train as f32), first),
        };
        let mut steps = Steps::chain(&sigmas, &vec![0.0; sigmas.len()], space, clock);
        for i in 0..steps.list.len() {
            steps.list[i].time = steps.time(sigmas[i]);
        }
        steps.init = init;
        Ok(steps)
    }
}

/// Sigmas in falling order, with the zero at the end.
fn sigmas(model: &Model, schedule: Schedule, n: usize, ays: Ays) -> Vec<f32> {
    let levels = model.sigmas();
    let (min, max) = (levels[0], levels[levels.len() - 1]);
    let (low, high) = (f64::from(min), f64::from(max));
    let even = |n: usize| linspace(f64::from(model.time(max)), f64::from(model.time(min)), n);
    let of_times = |times: &[f64]| times.iter().map(|t| model.sigma(*t as f32)).collect::<Vec<f32>>();
    let mut out: Vec<f32> = match schedule {
        Schedule::Normal => of_times(&even(n)),
        Schedule::SgmUniform => of_times(&even(n + 1)[..n]),
        Schedule::Karras => {
            let (a, b) = (low.powf(1.0 / 7.0), high.powf(1.0 / 7.0));
            linspace(0.0, 1.0, n).iter().map(|r| (b + r * (a - b)).powf(7.0) as f32).collect()
        }
        Schedule::Exponential => linspace(high.ln(), low.ln(), n).iter().map(|s| s.exp() as f32).collect(),
        Schedule::Simple => {
            let every = levels.len() as f64 / n as f64;
            (0..n).map(|i| levels[levels.len() - 1 - (i as f64 * every) as usize]).collect()
        }
        Schedule::DdimUniform => {
            let chosen = (1..levels.len()).step_by((levels.len() / n).max(1));
            let mut out: Vec<f32> = chosen.map(|i| levels[i]).collect();
            out.reverse();
            out
        }
        Schedule::Beta => {
            let total = (levels.len() - 1) as f64;
            let at =
                |i: usize| (beta::quantile(1.0 - i as f64 / n as f64) * total).round_ties_even() as usize;
            let mut at: Vec<usize> = (0..n).map(at).collect();
            at.dedup();
            at.into_iter().map(|i| levels[i]).collect()
        }
        Schedule::LinearQuadratic => linear_quadratic(n).iter().map(|s| (s * high) as f32).collect(),
        Schedule::KlOptimal => {
            let (a, b) = (low.atan(), high.atan());
            linspace(0.0, 1.0, n).iter().map(|r| (r * a + (1.0 - r) * b).tan() as f32).collect()
        }
        Schedule::Ays => {
            let table = ays.table();
            let between = |i: usize| {
                let at = i as f64 * 10.0 / n as f64;
                let k = (at as usize).min(9);
                let w = at - k as f64;
                (table[k].ln() * (1.0 - w) + table[k + 1].ln() * w).exp() as f32
            };
            (0..n).map(between).collect()
        }
    };
    out.push(0.0);
    out
}

/// Of one: half of the steps go down by 0.025 together, the rest along a parabola.
fn linear_quadratic(n: usize) -> Vec<f64> {
    const THRESHOLD: f64 = 0.025;
    if n == 1 {
        return vec![1.0];
    }
    let (linear, n) = ((n / 2) as f64, n as f64);
    let curved = n - linear;
    let difference = linear - THRESHOLD * n;
    let quadratic = difference / (linear * curved * curved);
    let slope = THRESHOLD / linear - 2.0 * difference / (curved * curved);
    let constant = quadratic * linear * linear;
    let at = |i: f64| match i < linear {
        true => i * THRESHOLD / linear,
        false => quadratic * i * i + slope * i + constant,
    };
    (0..n as usize).map(|i| 1.0 - at(i as f64)).collect()
}
