//! Scales of weights in floats of 8 bits: `MODULE.scale_weight` beside a marker `scaled_fp8`, as ComfyUI wrote them first, or
//! `MODULE.weight_scale` with notes `comfy_quant`, as it does now (its `comfy/ops.py` and `comfy/quant_ops.py`).

use crate::{Error, Result, Tensor, weights::Weights};
use std::{collections::BTreeMap, path::Path};

const SCALES: [&str; 2] = [".scale_weight", ".weight_scale"];
/// Those of activations are for products in 8 bits, which Hob does not make.
const OTHERS: [&str; 3] = [".scale_input", ".input_scale", "scaled_fp8"];

/// Whether a tensor says how others are stored.
pub(super) fn is_note(name: &str) -> bool {
    SCALES.iter().chain(&OTHERS).any(|end| name.ends_with(end))
}

/// The scales of these tensors, by their names; none of headers alone.
pub(super) fn of(
    weights: &Weights,
    tensors: &BTreeMap<String, Tensor>,
    path: &Path,
) -> Result<BTreeMap<String, f32>> {
    let mut scales = BTreeMap::new();
    for tensor in weights.tensors() {
        let Some(module) = SCALES.iter().find_map(|end| tensor.stored_name.strip_suffix(end)) else {
            continue;
        };
        if tensor.elements() != 1 {
            let what = format!(
                "tensor {:?} scales parts of a weight, and Hob knows scales of whole ones; take another version of the model",
                tensor.stored_name
            );
            return Err(Error::unsupported(path, what));
        }
        let mut scale = [1.0];
        if !weights.maps().is_empty() {
            tensor.dtype.decode(weights.bytes(tensor), &mut scale);
        }
        if !scale[0].is_finite() {
            return Err(Error::damaged(path, format!("the scale {:?} is no number", tensor.stored_name)));
        }
        scales.insert(format!("{module}.weight"), scale[0]);
    }
    let of = |(name, t): (&String, &Tensor)| Some((name.clone(), *scales.get(&t.stored_name)?));
    Ok(tensors.iter().filter_map(of).filter(|(_, scale)| *scale != 1.0).collect())
}
