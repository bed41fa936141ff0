//! Rotary frequencies, with the ways in which models stretch them over longer contexts.

use serde::Deserialize;
use std::f64::consts::PI;

/// `rope_scaling` (or, since transformers 5, `rope_parameters`) of a configuration.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
#[allow(missing_docs)] // the fields are those of config.json
pub struct RopeScaling {
    #[serde(alias = "type")]
    pub rope_type: Option<String>,
    pub rope_theta: Option<f64>,
    pub factor: Option<f64>,
    pub low_freq_factor: Option<f64>,
    pub high_freq_factor: Option<f64>,
    pub original_max_position_embeddings: Option<f64>,
    pub beta_fast: Option<f64>,
    pub beta_slow: Option<f64>,
    pub attention_factor: Option<f64>,
    pub mscale: Option<f64>,
    pub mscale_all_dim: Option<f64>,
}

/// The inverse frequencies `(D/2)` for heads of `dim`, and the factor on sine and cosine. `theta` is that of the
/// configuration, which may stand in its scaling, or else the architecture's `usual` one; `context` is the model's
/// `max_position_embeddings`. After transformers' `modeling_rope_utils.py`; "llama3" is Llama 3.1's, "yarn" Peng et
/// al. 2023. Errors name a scaling that is not built.
pub fn inv_freq(
    dim: usize,
    theta: Option<f64>,
    usual: f64,
    scaling: Option<&RopeScaling>,
    context: usize,
) -> Result<(Vec<f32>, f32), String> {
    let theta = theta.or(scaling.and_then(|s| s.rope_theta)).unwrap_or(usual);
    if !dim.is_multiple_of(2) {
        return Err(format!("heads of the odd width {dim} cannot be rotated in pairs"));
    }
    let none = RopeScaling::default();
    let s = scaling.unwrap_or(&none);
    let half = dim / 2;
    let freq = |i: usize| theta.powf(-2.0 * i as f64 / dim as f64);
    let factor = s.factor.unwrap_or(1.0);
    let known = |x: Option<f64>, name: &str| x.ok_or_else(|| format!("rope_scaling lacks {name}"));
    let all = |f: &dyn Fn(usize) -> f64| (0..half).map(|i| f(i) as f32).collect::<Vec<f32>>();
    let (freq, mscale) = match s.rope_type.as_deref().unwrap_or("default") {
        "default" => (all(&freq), 1.0),
        "linear" => (all(&|i| freq(i) / factor), 1.0),
        "llama3" => {
            let (low, high) = (
                known(s.low_freq_factor, "low_freq_factor")?,
                known(s.high_freq_factor, "high_freq_factor")?,
            );
            let old = known(s.original_max_position_embeddings, "original_max_position_embeddings")?;
            let stretched = |i: usize| {
                let wavelength = 2.0 * PI / freq(i);
                if wavelength < old / high {
                    return freq(i);
                }
                if wavelength > old / low {
                    return freq(i) / factor;
                }
                let smooth = (old / wavelength - low) / (high - low);
                (1.0 - smooth) * freq(i) / factor + smooth * freq(i)
            };
            (all(&stretched), 1.0)
        }
        "yarn" => {
            let old = s.original_max_position_embeddings.unwrap_or(context as f64);
            let turns = |n: f64| dim as f64 * (old / (n * 2.0 * PI)).ln() / (2.0 * theta.ln());
            let low = turns(s.beta_fast.unwrap_or(32.0)).floor().max(0.0);
            let high = turns(s.beta_slow.unwrap_or(1.0)).ceil().min(dim as f64 - 1.0);
            let high = if high == low { high + 0.001 } else { high };
            let stretched = |i: usize| {
                let keep = 1.0 - ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                freq(i) / factor * (1.0 - keep) + freq(i) * keep
            };
            let grown = |m: f64| if factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 };
            let mscale = match (s.attention_factor, s.mscale, s.mscale_all_dim) {
                (Some(a), _, _) => a,
                (None, Some(m), Some(all)) => grown(m) / grown(all),
                _ => grown(1.0),
            };
            (all(&stretched), mscale as f32)
        }
        other => return Err(format!("rope scaling of type {other} is not supported")),
    };
    let fine = freq.iter().chain([&mscale]).all(|x| x.is_finite() && *x > 0.0);
    if fine {
        Ok((freq, mscale))
    } else {
        Err(format!("rope_theta {theta} and rope_scaling make no frequencies"))
    }
}
