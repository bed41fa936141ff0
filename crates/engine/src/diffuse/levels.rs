//! The noise levels a model was trained on, one for each of its timesteps.

use serde_json::Value;

/// How much noise each training step adds (`beta_schedule` and its neighbours in scheduler_config.json).
#[derive(Clone, Debug, PartialEq)]
pub struct Betas {
    /// `beta_start`
    pub start: f64,
    /// `beta_end`
    pub end: f64,
    /// training steps
    pub count: usize,
    /// between start and end
    pub curve: Curve,
    /// betas given one by one, instead of all the above
    pub trained: Option<Vec<f32>>,
    /// the last level is made pure noise (Lin et al. 2023, "Common Diffusion Noise Schedules …")
    pub zero_snr: bool,
}

/// `beta_schedule`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    /// evenly from start to end
    Linear,
    /// evenly in the root, as Stable Diffusion
    ScaledLinear,
    /// Nichol and Dhariwal's cosine
    Cosine,
}

impl Betas {
    /// Stable Diffusion's and SDXL's.
    pub fn stable_diffusion() -> Betas {
        let curve = Curve::ScaledLinear;
        Betas { start: 0.00085, end: 0.012, count: 1000, curve, trained: None, zero_snr: false }
    }

    /// Reads scheduler_config.json; what it leaves out is as in `otherwise`.
    pub fn parse(v: &Value, otherwise: Betas) -> Result<Betas, String> {
        let number = |key: &str, or: f64| match v.get(key) {
            None | Some(Value::Null) => Ok(or),
            Some(v) => v
                .as_f64()
                .filter(|x| *x > 0.0 && *x < 1.0)
                .ok_or(format!("{key} is {v}, no number from 0 to 1")),
        };
        let curve = match v.get("beta_schedule").and_then(Value::as_str) {
            None => otherwise.curve,
            Some("linear") => Curve::Linear,
            Some("scaled_linear") => Curve::ScaledLinear,
            Some("squaredcos_cap_v2") => Curve::Cosine,
            Some(other) => return Err(format!("beta_schedule is {other}, which Hob does not know")),
        };
        let count = match v.get("num_train_timesteps") {
            None => otherwise.count as u64,
            Some(v) => v
                .as_u64()
                .filter(|n| (2..=1 << 20).contains(n))
                .ok_or(format!("num_train_timesteps is {v}"))?,
        };
        let trained = match v.get("trained_betas") {
            None | Some(Value::Null) => None,
            Some(list) => {
                let list = list.as_array().map(|l| l.iter().map(|b| b.as_f64().map(|b| b as f32)).collect());
                let list: Option<Vec<f32>> = list.flatten();
                let list = list.filter(|l| l.len() as u64 == count && l.iter().all(|b| *b > 0.0 && *b < 1.0));
                Some(list.ok_or("trained_betas is no list of num_train_timesteps numbers from 0 to 1")?)
            }
        };
        let zero_snr = v.get("rescale_betas_zero_snr").and_then(Value::as_bool).unwrap_or(otherwise.zero_snr);
        let (start, end) = (number("beta_start", otherwise.start)?, number("beta_end", otherwise.end)?);
        Ok(Betas { start, end, count: count as usize, curve, trained, zero_snr })
    }

    /// In f32 with torch's roundings, as diffusers has them.
    fn single(&self) -> Vec<f32> {
        let between = |start: f64, end: f64| {
            // torch.linspace counts from both ends, each product fused with its sum.
            let (n, start, end) = (self.count, start as f32, end as f32);
            let step = (end - start) / (n - 1) as f32;
            let at = move |i: usize| match i < n / 2 {
                true => step.mul_add(i as f32, start),
                false => step.mul_add(-((n - 1 - i) as f32), end),
            };
            (0..n).map(at)
        };
        match (&self.trained, self.curve) {
            (Some(betas), _) => betas.clone(),
            (_, Curve::Linear) => between(self.start, self.end).collect(),
            (_, Curve::ScaledLinear) => between(self.start.sqrt(), self.end.sqrt()).map(|b| b * b).collect(),
            (_, Curve::Cosine) => self.cosine().map(|b| b as f32).collect(),
        }
    }

    /// In f64, as ComfyUI (and the original code) has them.
    fn double(&self) -> Vec<f64> {
        let between = |start: f64, end: f64| linspace(start, end, self.count);
        match (&self.trained, self.curve) {
            (Some(betas), _) => betas.iter().map(|b| f64::from(*b)).collect(),
            (_, Curve::Linear) => between(self.start, self.end),
            (_, Curve::ScaledLinear) => {
                between(self.start.sqrt(), self.end.sqrt()).iter().map(|b| b * b).collect()
            }
            (_, Curve::Cosine) => self.cosine().collect(),
        }
    }

    fn cosine(&self) -> impl Iterator<Item = f64> {
        let n = self.count as f64;
        let bar = |t: f64| ((t + 0.008) / 1.008 * std::f64::consts::PI / 2.0).cos().powi(2);
        (0..self.count).map(move |i| (1.0 - bar((i + 1) as f64 / n) / bar(i as f64 / n)).min(0.999))
    }
}

/// numpy's `linspace`.
pub(super) fn linspace(start: f64, end: f64, n: usize) -> Vec<f64> {
    let step = (end - start) / (n.max(2) - 1) as f64;
    let mut out: Vec<f64> = (0..n).map(|i| i as f64 * step + start).collect();
    if n > 1 {
        out[n - 1] = end;
    }
    out
}

/// Levels by timestep: sigma is the noise's standard deviation where the picture's scale is one, so
/// `x = picture + sigma * noise`; in the terms of DDPM, sigma = sqrt((1 - ᾱ) / ᾱ).
#[derive(Clone, Debug, PartialEq)]
pub struct Levels {
    /// from the least to the greatest
    pub sigmas: Vec<f32>,
    logs: Vec<f32>,
}

impl Levels {
    /// As diffusers computes them.
    pub fn diffusers(betas: &Betas) -> Levels {
        let mut betas_f32 = betas.single();
        if betas.zero_snr {
            betas_f32 = without_last_signal(&betas_f32);
        }
        let mut bars = products(&betas_f32);
        if let (true, Some(last)) = (betas.zero_snr, bars.last_mut()) {
            *last = 2f32.powi(-24);
        }
        let sigmas: Vec<f32> = bars.iter().map(|a| ((1.0 - a) / a).sqrt()).collect();
        let logs = sigmas.iter().map(|s| numpy_log(*s)).collect();
        Levels { sigmas, logs }
    }

    /// As ComfyUI does: in f64 until sigma. They differ from [`Levels::diffusers`] by up to 1e-4 at the least level.
    pub fn comfy(betas: &Betas) -> Levels {
        let mut bar = 1.0;
        let bars = betas.double().into_iter().map(|b| {
            bar *= 1.0 - b;
            bar
        });
        let mut sigmas: Vec<f64> = bars.map(|a| ((1.0 - a) / a).sqrt()).collect();
        if betas.zero_snr {
            let roots: Vec<f64> = sigmas.iter().map(|s| (1.0 / (s * s + 1.0)).sqrt()).collect();
            let (first, last) = (roots[0], roots[roots.len() - 1]);
            let bar =
                |r: &f64| ((r - last) * (first / (first - last))).powi(2).max(4.897_345_189_085_343_5e-8);
            sigmas = roots.iter().map(bar).map(|a| ((1.0 - a) / a).sqrt()).collect();
        }
        let logs = sigmas.iter().map(|s| s.ln() as f32).collect();
        Levels { sigmas: sigmas.iter().map(|s| *s as f32).collect(), logs }
    }

    /// The least level's sigma.
    pub fn min(&self) -> f32 {
        self.sigmas[0]
    }

    /// The greatest level's sigma.
    pub fn max(&self) -> f32 {
        self.sigmas[self.sigmas.len() - 1]
    }

    /// Sigma at a timestep between two, linearly (`np.interp`, diffusers).
    pub fn linear(&self, time: f64) -> f64 {
        let last = self.sigmas.len() - 1;
        let at = (time.max(0.0) as usize).min(last);
        let (low, high) = (f64::from(self.sigmas[at]), f64::from(self.sigmas[(at + 1).min(last)]));
        low + (high - low) * (time - at as f64).clamp(0.0, 1.0)
    }

    /// Sigma at a timestep between two, linearly in its logarithm (ComfyUI, k-diffusion).
    pub fn log_linear(&self, time: f32) -> f32 {
        let time = time.clamp(0.0, (self.logs.len() - 1) as f32);
        let (low, high, w) =
            (self.logs[time.floor() as usize], self.logs[time.ceil() as usize], time.fract());
        ((1.0 - w) * low + w * high).exp()
    }

    /// The timestep of a sigma, between two by its logarithm (`_sigma_to_t` of diffusers and k-diffusion).
    pub fn time(&self, sigma: f64) -> f64 {
        let log = sigma.max(1e-10).ln();
        let above = self.logs.partition_point(|l| f64::from(*l) <= log);
        let low = above.saturating_sub(1).min(self.logs.len() - 2);
        let (a, b) = (self.logs[low], self.logs[low + 1]);
        let w = ((f64::from(a) - log) / f64::from(a - b)).clamp(0.0, 1.0);
        (1.0 - w) * low as f64 + w * (low + 1) as f64
    }

    /// The whole timestep whose sigma's logarithm is nearest (ComfyUI).
    pub fn nearest(&self, sigma: f32) -> f32 {
        let log = sigma.ln();
        let apart = |i: &usize| (log - self.logs[*i]).abs();
        (0..self.logs.len()).min_by(|a, b| apart(a).total_cmp(&apart(b))).unwrap_or(0) as f32
    }

    /// The logarithms of the sigmas in f32.
    pub(super) fn logs(&self) -> &[f32] {
        &self.logs
    }
}

/// ᾱ: torch multiplies in f64 and stores f32.
fn products(betas: &[f32]) -> Vec<f32> {
    let mut bar = 1.0;
    betas
        .iter()
        .map(|b| {
            bar *= f64::from(1.0 - b);
            bar as f32
        })
        .collect()
}

/// diffusers' `rescale_zero_terminal_snr`.
fn without_last_signal(betas: &[f32]) -> Vec<f32> {
    let roots: Vec<f32> = products(betas).iter().map(|a| a.sqrt()).collect();
    let (first, last) = (roots[0], roots[roots.len() - 1]);
    let scale = first / (first - last);
    let bars: Vec<f32> = roots.iter().map(|r| ((r - last) * scale).powi(2)).collect();
    (0..bars.len()).map(|i| 1.0 - if i == 0 { bars[0] } else { bars[i] / bars[i - 1] }).collect()
}

/// numpy's `log` in f32 bit for bit, on x86 (loops_exponent_log): where diffusers cuts a timestep to a whole number, the
/// last bit decides between two.
fn numpy_log(x: f32) -> f32 {
    const P: [f32; 6] = [0.025_899_79, 0.380_883_77, 1.480_000_6, 2.112_677_6, 1.0, 0.0];
    const Q: [f32; 6] = [0.005_875_095_6, 0.154_647_64, 0.986_494_3, 2.453_006_3, 2.612_677_6, 1.0];
    let bits = x.max(f32::MIN_POSITIVE).to_bits();
    let mut e = ((bits >> 23) as i32 - 0x7e) as f32;
    let mut m = f32::from_bits(bits & 0x007f_ffff | 0x3f00_0000);
    if m <= std::f32::consts::FRAC_1_SQRT_2 {
        (m, e) = (m + m, e - 1.0);
    }
    let m = m - 1.0;
    let at = |c: &[f32; 6]| c[1..].iter().fold(c[0], |y, &c| y.mul_add(m, c));
    e.mul_add(std::f32::consts::LN_2, at(&P) / at(&Q))
}
