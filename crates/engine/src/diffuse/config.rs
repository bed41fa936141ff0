//! What a model's scheduler_config.json says of how it was trained and how its makers walk back.

use super::levels::{Betas, Curve};
use super::names::Sampler;
use super::predict::Prediction;
use super::sampler::How;
use serde_json::Value;

/// scheduler_config.json. A key that a class has no use for is kept where another class has one: as in diffusers'
/// `from_config`, another sampler goes on with the same training and spacing.
#[derive(Clone, Debug, PartialEq)]
pub struct Scheduler {
    /// `_class_name`
    pub class: String,
    /// `beta_…`
    pub betas: Betas,
    /// `prediction_type`
    pub prediction: Prediction,
    /// `timestep_spacing`; `None` for the default of the class that samples
    pub spacing: Option<Spacing>,
    /// `steps_offset`
    pub offset: usize,
    /// `use_karras_sigmas` and its like
    pub spread: Spread,
    /// `sigma_min`, `sigma_max`
    pub range: (Option<f64>, Option<f64>),
    /// the walk ends at sigma zero and not at the least level (`final_sigmas_type`)
    pub to_zero: bool,
    /// the same for DDIM and PNDM (`set_alpha_to_one`); `None` for the default of the class
    pub alpha_to_one: Option<bool>,
    /// `lambda_min_clipped`: of the DPM++ samplers, levels with less signal are left out
    pub clip: f64,
    /// of a model that predicts a flow
    pub flow: Option<Flow>,
    /// `original_inference_steps` of LCM
    pub original_steps: usize,
    /// `solver_order`, `solver_type` and so on
    how: Value,
}

/// `timestep_spacing` (Lin et al. 2023, table 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Spacing {
    Linspace,
    Leading,
    Trailing,
}

/// How sigmas lie between the ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// those of the timesteps
    Timesteps,
    /// `use_karras_sigmas` (Karras et al. 2022, rho = 7)
    Karras,
    /// `use_exponential_sigmas`
    Exponential,
    /// `use_beta_sigmas`
    Beta,
    /// `use_lu_lambdas` (Lu et al. 2022); of the DPM++ samplers
    Lu,
}

/// Flow matching: `x = (1 - sigma) * picture + sigma * noise`, sigma from 1 to 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Flow {
    /// `num_train_timesteps`: timestep = sigma times this
    pub train: usize,
    /// `shift`
    pub shift: f64,
    /// `use_dynamic_shifting`: the shift grows with the number of tokens
    pub dynamic: Option<Dynamic>,
    /// `time_shift_type` is linear, not exponential
    pub linear: bool,
    /// `shift_terminal`: where the last sigma is stretched to
    pub terminal: Option<f64>,
    /// begin from `linspace(1, 1/n, n)`, as the Flux pipeline hands it to its scheduler, and not from the training's least
    /// sigma, as a pipeline that hands nothing (Stable Diffusion 3)
    pub listed: bool,
}

/// mu by the number of tokens: a straight line through two points.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dynamic {
    /// `base_shift`, `max_shift`
    pub shift: (f64, f64),
    /// `base_image_seq_len`, `max_image_seq_len`
    pub tokens: (f64, f64),
}

impl Dynamic {
    /// mu for so many tokens: Flux has 0.5 at 256 and 1.15 at 4096.
    pub fn mu(&self, tokens: usize) -> f64 {
        let m = (self.shift.1 - self.shift.0) / (self.tokens.1 - self.tokens.0);
        tokens as f64 * m + (self.shift.0 - m * self.tokens.0)
    }
}

impl Scheduler {
    /// What is assumed of a single file without configuration: Stable Diffusion 1.5 and SDXL as ComfyUI takes them.
    pub fn stable_diffusion(prediction: Prediction) -> Scheduler {
        let mut it = Scheduler::parse(&serde_json::json!({ "_class_name": "EulerDiscreteScheduler" }))
            .expect("a class by itself is right");
        it.betas = Betas::stable_diffusion();
        (it.prediction, it.spacing, it.offset) = (prediction, Some(Spacing::Leading), 1);
        it
    }

    /// What is assumed of a Flux checkpoint without configuration: dev shifts by size, schnell not at all.
    pub fn flux(schnell: bool) -> Scheduler {
        let shift = if schnell { 1.0 } else { 3.0 };
        let class = "FlowMatchEulerDiscreteScheduler";
        let v = serde_json::json!({ "_class_name": class, "shift": shift, "use_dynamic_shifting": !schnell });
        Scheduler::parse(&v).expect("Flux's own configuration is right")
    }

    /// Reads scheduler_config.json. Errors are a sentence for a person.
    pub fn parse(v: &Value) -> Result<Scheduler, String> {
        let wrong = |e: String| format!("scheduler_config.json: {e}");
        let class = v.get("_class_name").and_then(Value::as_str).unwrap_or("EulerDiscreteScheduler");
        let on = |key: &str| v.get(key).and_then(Value::as_bool).unwrap_or(false);
        let number = |key: &str| match v.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(x) => x.as_f64().map(Some).ok_or_else(|| wrong(format!("{key} is {x}, no number"))),
        };
        let whole = |key: &str, or: usize| match v.get(key) {
            None | Some(Value::Null) => Ok(or),
            Some(x) => {
                let n = x.as_u64().filter(|n| *n < 1 << 20).map(|n| n as usize);
                n.ok_or_else(|| wrong(format!("{key} is {x}, no whole number")))
            }
        };
        // The defaults of diffusers' classes, which a configuration may rely on.
        let linear = Betas { curve: Curve::Linear, ..Betas::stable_diffusion() };
        let otherwise = match class {
            "LCMScheduler" => Betas::stable_diffusion(),
            _ if class.starts_with("Heun")
                || class.starts_with("KDPM2")
                || class == "DPMSolverSDEScheduler" =>
            {
                linear
            }
            _ => Betas { start: 0.0001, end: 0.02, ..linear },
        };
        let betas = Betas::parse(v, otherwise).map_err(wrong)?;
        let matches = class.starts_with("FlowMatch");
        let flow = match matches || on("use_flow_sigmas") || v["prediction_type"] == "flow_prediction" {
            false => None,
            true => Some(Flow::parse(v, &betas, &number).map_err(wrong)?),
        };
        let prediction = match v.get("prediction_type").and_then(Value::as_str) {
            _ if flow.is_some() => Prediction::Flow,
            None | Some("epsilon") => Prediction::Epsilon,
            Some("v_prediction") => Prediction::Velocity,
            Some("sample" | "original_sample") => Prediction::Sample,
            Some(other) => return Err(wrong(format!("prediction_type is {other}, which Hob does not know"))),
        };
        let spacing = match v.get("timestep_spacing").and_then(Value::as_str) {
            None => None,
            Some("linspace") => Some(Spacing::Linspace),
            Some("leading") => Some(Spacing::Leading),
            Some("trailing") => Some(Spacing::Trailing),
            Some(other) => {
                return Err(wrong(format!("timestep_spacing is {other}, which Hob does not know")));
            }
        };
        let spreads = [
            ("use_karras_sigmas", Spread::Karras),
            ("use_exponential_sigmas", Spread::Exponential),
            ("use_beta_sigmas", Spread::Beta),
            ("use_lu_lambdas", Spread::Lu),
        ];
        let spread = spreads.iter().find(|(key, _)| on(key)).map_or(Spread::Timesteps, |(_, s)| *s);
        let refused = [
            (on("thresholding"), "thresholding is on, which is for pixels and not for latents"),
            (on("clip_sample"), "clip_sample is on, which is for pixels and not for latents"),
            (v["interpolation_type"] == "log_linear", "interpolation_type log_linear is not supported"),
            (v["timestep_type"] == "continuous", "timestep_type continuous is not supported"),
            (on("invert_sigmas"), "invert_sigmas is not supported"),
        ];
        if let Some((_, why)) = refused.iter().find(|(is, _)| *is) {
            return Err(wrong((*why).into()));
        }
        // JSON has no infinity; diffusers writes -Infinity all the same, and readers make it null or text.
        let clip = v.get("lambda_min_clipped").and_then(Value::as_f64).unwrap_or(f64::NEG_INFINITY);
        Ok(Scheduler {
            class: class.into(),
            betas,
            prediction,
            spacing,
            offset: whole("steps_offset", 0)?,
            spread,
            range: (number("sigma_min")?, number("sigma_max")?),
            to_zero: v["final_sigmas_type"] != "sigma_min",
            alpha_to_one: v.get("set_alpha_to_one").and_then(Value::as_bool),
            clip,
            flow,
            original_steps: whole("original_inference_steps", 50)?.max(1),
            how: v.clone(),
        })
    }

    /// The sampler that the class stands for.
    pub fn sampler(&self) -> Result<Sampler, String> {
        let algorithm = self.how["algorithm_type"].as_str().unwrap_or("dpmsolver++");
        let order = self.how["solver_order"].as_u64().unwrap_or(2);
        Ok(match self.class.as_str() {
            "FlowMatchEulerDiscreteScheduler" if self.how["stochastic_sampling"] == true => Sampler::Lcm,
            "EulerDiscreteScheduler" | "FlowMatchEulerDiscreteScheduler" => Sampler::Euler,
            "EulerAncestralDiscreteScheduler" => Sampler::EulerAncestral,
            "HeunDiscreteScheduler" | "FlowMatchHeunDiscreteScheduler" => Sampler::Heun,
            "KDPM2DiscreteScheduler" => Sampler::Dpm2,
            "KDPM2AncestralDiscreteScheduler" => Sampler::Dpm2Ancestral,
            "LMSDiscreteScheduler" => Sampler::Lms,
            "DPMSolverSDEScheduler" => Sampler::DpmppSde,
            "DPMSolverMultistepScheduler" => match (algorithm, order) {
                ("dpmsolver++" | "deis", 3) => Sampler::Dpmpp3m,
                ("dpmsolver++" | "deis", _) => Sampler::Dpmpp2m,
                ("sde-dpmsolver++", 3) => Sampler::Dpmpp3mSde,
                ("sde-dpmsolver++", _) => Sampler::Dpmpp2mSde,
                _ => {
                    return Err(format!(
                        "the algorithm {algorithm} is not supported; choose the sampler dpmpp_2m"
                    ));
                }
            },
            "UniPCMultistepScheduler" if self.how["solver_type"] == "bh1" => Sampler::UniPc,
            "UniPCMultistepScheduler" => Sampler::UniPcBh2,
            "DDIMScheduler" => Sampler::Ddim,
            "DDPMScheduler" => Sampler::EulerAncestral,
            "PNDMScheduler" => Sampler::Plms,
            "LCMScheduler" => Sampler::Lcm,
            other => {
                return Err(format!(
                    "the scheduler {other} is not supported; choose a sampler with --sampler"
                ));
            }
        })
    }

    /// How diffusers runs `sampler` with this configuration.
    pub fn how(&self, sampler: Sampler) -> How {
        let mut how = How::of(sampler);
        if sampler.is_uni_pc() {
            how.order = 2;
        }
        how.heun = sampler == Sampler::Dpmpp2mSdeHeun;
        // Where the class is another, its orders are another method's.
        if self.sampler().is_ok_and(|own| own == sampler) {
            if let Some(order) = self.how["solver_order"].as_u64() {
                how.order = order.clamp(1, 3) as usize;
            }
            how.heun |= self.how["solver_type"] == "heun";
        }
        let on = |key: &str, or: bool| self.how[key].as_bool().unwrap_or(or);
        how.lower_order_final = on("lower_order_final", true);
        how.euler_at_final = on("euler_at_final", false);
        how.lms_to_zero = true;
        how.brownian = false;
        let boundary = sampler == Sampler::Lcm && self.flow.is_none();
        how.boundary = boundary.then(|| self.how["timestep_scaling"].as_f64().unwrap_or(10.0));
        how
    }
}

impl Flow {
    fn parse(
        v: &Value,
        betas: &Betas,
        number: &dyn Fn(&str) -> Result<Option<f64>, String>,
    ) -> Result<Flow, String> {
        let or = |key: &str, or: f64| -> Result<f64, String> { Ok(number(key)?.unwrap_or(or)) };
        let shift = or("shift", or("flow_shift", 1.0)?)?;
        if shift <= 0.0 {
            return Err(format!("shift is {shift}, and must be above 0"));
        }
        let dynamic = match v.get("use_dynamic_shifting").and_then(Value::as_bool).unwrap_or(false) {
            false => None,
            true => Some(Dynamic {
                shift: (or("base_shift", 0.5)?, or("max_shift", 1.15)?),
                tokens: (or("base_image_seq_len", 256.0)?, or("max_image_seq_len", 4096.0)?),
            }),
        };
        if dynamic.is_some_and(|d| d.tokens.0 == d.tokens.1) {
            return Err("base_image_seq_len is max_image_seq_len".into());
        }
        let linear = v["time_shift_type"] == "linear";
        let terminal = number("shift_terminal")?.filter(|t| *t != 0.0);
        Ok(Flow { train: betas.count, shift, dynamic, linear, terminal, listed: true })
    }

    /// Sigma after the shift, for a picture of so many tokens.
    pub fn shifted(&self, sigma: f64, tokens: usize) -> f64 {
        match &self.dynamic {
            None => self.shift * sigma / (1.0 + (self.shift - 1.0) * sigma),
            Some(d) => {
                let mu = d.mu(tokens);
                let mu = if self.linear { mu } else { mu.exp() };
                mu / (mu + (1.0 / sigma - 1.0))
            }
        }
    }
}
