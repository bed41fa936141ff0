//! What the denoiser of a single file predicts, and how noise was added in its training, as far as a file can say.

use super::{Family, file::Opened, file::merge, part::Part};
use crate::{Error, Result, weights::Weights};
use serde_json::{Value, json};

/// The family's `scheduler_config.json`, with what the file, a YAML or a configuration beside it say.
///
/// That a model predicts v, some files say by an empty tensor `v_pred` (and `ztsnr`: the last step is noise alone), some
/// in their metadata (`modelspec.prediction_type`), SD 2's in a YAML beside them or not at all: then the spread of a norm's
/// biases tells the 768-pixel models from the others, as ComfyUI has it (`supported_models.py`).
pub(super) fn scheduler(file: &Opened, denoiser: &Part, family: Family) -> Result<Value> {
    let mut config = family.scheduler();
    let has = |name: &str| file.weights.tensors().iter().any(|t| t.stored_name == name);
    if has("edm_mean") || has("edm_vpred.sigma_max") {
        let what = "its noise is that of EDM (Playground 2.5, CosXL), which Hob does not know";
        return Err(Error::unsupported(&file.path, what));
    }
    let metadata = match &*file.weights {
        Weights::Safetensors(weights) => {
            weights.metadata().get("modelspec.prediction_type").map(String::as_str)
        }
        Weights::Gguf(_) => None,
    };
    let yaml = file.path.with_extension("yaml");
    let yaml =
        yaml.file_name().and_then(|name| name.to_str()).map(|name| file.text_beside(name)).transpose()?;
    let yaml = yaml.flatten().unwrap_or_default();
    let v = !family.is_flux()
        && (has("v_pred")
            || metadata.is_some_and(|p| p.starts_with('v'))
            || yaml.lines().any(|line| line.trim().replace(['"', '\''], "") == "parameterization: v")
            || metadata.is_none()
                && family == Family::Sd2
                && spread(denoiser).is_none_or(|spread| spread > 0.09));
    if v {
        merge(&mut config, &json!({ "prediction_type": "v_prediction" }));
    }
    if has("ztsnr") {
        merge(&mut config, &json!({ "rescale_betas_zero_snr": true, "timestep_spacing": "trailing" }));
    }
    if let Some(says) = file.says()? {
        merge(&mut config, &says["scheduler"]);
    }
    Ok(config)
}

/// The standard deviation of the biases of the last attention's first norm; `None` where they are not at hand.
fn spread(denoiser: &Part) -> Option<f64> {
    let last = |(name, _): &(&String, _)| {
        name.starts_with("up_blocks.") && name.ends_with(".transformer_blocks.0.norm1.bias")
    };
    let (_, bias) = denoiser.tensors.iter().rfind(last).filter(|_| denoiser.has_data())?;
    // An inpainting model of SD 2 predicts noise.
    if denoiser.size("in_channels") != denoiser.size("out_channels") {
        return Some(0.0);
    }
    let mut values = vec![0.0; bias.elements()];
    bias.dtype.decode(denoiser.bytes(bias), &mut values);
    let n = values.len().max(1) as f64;
    let mean = values.iter().map(|&x| x as f64).sum::<f64>() / n;
    Some((values.iter().map(|&x| (x as f64 - mean).powi(2)).sum::<f64>() / n).sqrt())
}
