//! What a file's header tells: which networks lie in it, and by whose names.
//!
//! Facts: `CHECKPOINT_KEY_NAMES` of diffusers' `single_file_utils.py`, ComfyUI's `model_detection.py`, and the names in
//! published checkpoints.

use super::scale;
use crate::{Error, Result, Tensor, weights::Weights};
use std::{collections::BTreeMap, path::Path};

/// A kind of network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Unet,
    Flux,
    Vae,
    /// TAESD's class: small, for previews.
    TinyVae,
    Clip,
    T5,
    ControlNet,
    FluxControlNet,
}

/// By whose names its tensors are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Naming {
    /// Those of a diffusers folder, also where older releases had others.
    Diffusers,
    /// Those of the code that it was trained with: LDM, Black Forest Labs, OpenCLIP.
    Original,
    /// llama.cpp's.
    Ggml,
}

/// A network in a file.
#[derive(Debug)]
pub(super) struct Found {
    pub kind: Kind,
    pub naming: Naming,
    /// What stands before its names, such as `first_stage_model.`.
    pub prefix: &'static str,
    /// By their names without the prefix.
    pub tensors: BTreeMap<String, Tensor>,
}

/// What stands before the names of a network in a file that holds several; the longer before the shorter.
const PREFIXES: [&str; 17] = [
    "model.diffusion_model.",
    "model_ema.",
    "first_stage_model.",
    "vae.",
    "control_model.",
    "cond_stage_model.transformer.",
    "cond_stage_model.model.",
    "conditioner.embedders.0.transformer.",
    "conditioner.embedders.0.model.",
    "conditioner.embedders.1.transformer.",
    "conditioner.embedders.1.model.",
    "text_encoders.clip_l.transformer.",
    "text_encoders.clip_g.transformer.",
    "text_encoders.t5xxl.transformer.",
    "text_encoders.clip_l.",
    "text_encoders.clip_g.",
    "text_encoders.t5xxl.",
];

impl Found {
    /// The shape of a tensor, by its name without the prefix.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|t| &t.shape[..])
    }
}

fn any(tensors: &BTreeMap<String, Tensor>, prefix: &str) -> bool {
    tensors.range(prefix.to_owned()..).next().is_some_and(|(name, _)| name.starts_with(prefix))
}

/// The networks in open files. Errors: it is of a family that Hob does not know, or no part of a picture model at all.
pub(super) fn networks(weights: &Weights, path: &Path) -> Result<Vec<Found>> {
    let mut groups: BTreeMap<&'static str, BTreeMap<String, Tensor>> = BTreeMap::new();
    for tensor in weights.tensors() {
        let name = &tensor.stored_name;
        if scale::is_note(name) {
            continue;
        }
        let prefix = PREFIXES.iter().find(|p| name.starts_with(**p)).copied().unwrap_or("");
        let tensor = original_shape(weights, tensor, path)?;
        groups.entry(prefix).or_default().insert(name[prefix.len()..].to_owned(), tensor);
    }
    let mut found = Vec::new();
    for (prefix, tensors) in groups {
        if prefix == "model_ema." {
            continue; // a second copy, for training on
        }
        if let Some((kind, naming)) = kind_of(&tensors) {
            found.push(Found { kind, naming, prefix, tensors });
        } else if let Some(what) = foreign(&tensors) {
            return Err(Error::unsupported(path, what));
        }
    }
    match found.is_empty() {
        false => Ok(found),
        true => {
            let what =
                "no part of a picture model that Hob knows (Stable Diffusion 1, 2 and XL, Flux.1) is in it";
            Err(Error::unsupported(path, what))
        }
    }
}

/// city96's converter reshapes convolutions to rows that can be quantized, and keeps their dimensions beside.
fn original_shape(weights: &Weights, tensor: &Tensor, path: &Path) -> Result<Tensor> {
    let key = format!("comfy.gguf.orig_shape.{}", tensor.stored_name);
    let Some(value) = weights.gguf().and_then(|g| g.get(&key)) else { return Ok(tensor.clone()) };
    let sizes: Option<Vec<usize>> =
        value.array().and_then(|a| a.ints()?.map(|n| usize::try_from(n).ok()).collect());
    let count = |shape: &[usize]| shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1)));
    match sizes {
        Some(shape) if shape.len() <= 8 && count(&shape) == count(&tensor.shape) => {
            Ok(Tensor { shape, ..tensor.clone() })
        }
        _ => Err(Error::damaged(path, format!("{key} does not fit the {:?} of that tensor", tensor.shape))),
    }
}

fn kind_of(t: &BTreeMap<String, Tensor>) -> Option<(Kind, Naming)> {
    use {Kind::*, Naming::*};
    let has = |name: &str| t.contains_key(name);
    let any = |prefix: &str| any(t, prefix);
    // Others of Flux's form lack the one, or have the other.
    let flux1 = has("vector_in.in_layer.weight") && any("single_blocks.") && !any("txt_in.individual");
    Some(match () {
        _ if any("zero_convs.") && any("input_hint_block.") => (ControlNet, Original),
        _ if any("controlnet_cond_embedding.") && any("controlnet_down_blocks.") => (ControlNet, Diffusers),
        _ if has("input_blocks.0.0.weight") && any("middle_block.") && has("out.2.weight") => {
            (Unet, Original)
        }
        _ if has("conv_in.weight")
            && has("conv_out.weight")
            && any("down_blocks.")
            && any("time_embedding.") =>
        {
            (Unet, Diffusers)
        }
        // XLabs' have the names of Black Forest Labs, InstantX's and others those of diffusers.
        _ if any("controlnet_blocks.") && any("double_blocks.") && has("img_in.weight") => {
            (FluxControlNet, Original)
        }
        _ if any("controlnet_blocks.")
            && has("controlnet_x_embedder.weight")
            && any("time_text_embed.text_embedder.") =>
        {
            (FluxControlNet, Diffusers)
        }
        _ if any("double_blocks.") && has("img_in.weight") && flux1 => (Flux, Original),
        _ if any("single_transformer_blocks.")
            && has("x_embedder.weight")
            && any("time_text_embed.text_embedder.") =>
        {
            (Flux, Diffusers)
        }
        _ if has("decoder.conv_in.weight") && any("decoder.mid.block_1.") => (Vae, Original),
        _ if has("decoder.conv_in.weight") && any("decoder.mid_block.") => (Vae, Diffusers),
        _ if any("decoder.layers.") && any("encoder.layers.0.") && !any("encoder.layers.0.self_attn.") => {
            (TinyVae, Diffusers)
        }
        _ if any("text_model.encoder.layers.") || any("encoder.layers.0.self_attn.") => (Clip, Diffusers),
        _ if any("transformer.resblocks.") && has("token_embedding.weight") => (Clip, Original),
        _ if any("encoder.block.0.layer.0.SelfAttention.") => (T5, Diffusers),
        _ if any("enc.blk.") && has("token_embd.weight") => (T5, Ggml),
        _ if t.len() < 200 && has("1.weight") && has("3.conv.0.weight") => (TinyVae, Original),
        _ => return None,
    })
}

/// What a file is that is no part of a picture model known here, by a name that it has.
fn foreign(t: &BTreeMap<String, Tensor>) -> Option<String> {
    const FAMILIES: [(&str, &str); 11] = [
        ("joint_blocks.", "a Stable Diffusion 3"),
        ("double_stream_modulation_img.", "a Flux.2"),
        ("distilled_guidance_layer.", "a Chroma"),
        ("txt_in.individual_token_refiner.", "a HunyuanVideo"),
        ("double_layers.", "an AuraFlow"),
        ("patchify_proj.", "an LTX-Video"),
        ("cap_embedder.", "a Lumina 2 or Z-Image"),
        ("clip_txt_mapper.", "a Stable Cascade"),
        ("transformer_blocks.0.img_mod.", "a Qwen-Image"),
        ("pos_embed.proj.", "a PixArt or Stable Diffusion 3"),
        ("blocks.0.cross_attn.", "a Wan"),
    ];
    const OTHERS: [(&str, &str); 6] = [
        ("down_blocks.0.motion_modules.", "a motion module of AnimateDiff"),
        ("model.layers.", "a language model; use it with hob run"),
        ("blk.", "a language model; use it with hob run"),
        ("string_to_param", "a textual inversion, which is used beside a picture model"),
        ("emb_params", "a textual inversion, which is used beside a picture model"),
        ("vision_model.", "an encoder of pictures, of which no text part is there"),
    ];
    if t.keys().any(|name| name.contains("lora_") || name.contains(".lora.")) {
        return Some(
            "it is a LoRA, which changes a picture model and is none; give it beside a model".into(),
        );
    }
    let begins = |list: &[(&str, &'static str)]| list.iter().find(|(b, _)| any(t, b)).map(|(_, what)| *what);
    let family = begins(&FAMILIES).map(|name| {
        format!("it is {name}, and Hob makes pictures with Stable Diffusion 1, 2 and XL and Flux.1")
    });
    family.or_else(|| begins(&OTHERS).map(|what| format!("it is {what}")))
}
