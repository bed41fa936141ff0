//! The names of a network's tensors in other namings → those of diffusers' and transformers' folders.
//!
//! Facts: diffusers' `single_file_utils.py` (LDM, Black Forest Labs, OpenCLIP), llama.cpp's `tensor_mapping.py` (T5), and
//! the state dicts of the classes named in `pipeline.rs`.

use super::{
    found::{Found, Kind, Naming},
    part::Named,
};
use crate::{Error, Result, Tensor};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// A network's tensors under diffusers' names; `files` counts the files that hold it.
pub(super) fn canonical<'a>(found: &Found, files: usize, path: &'a Path) -> Result<Named<'a>> {
    let mut named = Named::new(files, path);
    match (found.kind, found.naming) {
        (Kind::Unet | Kind::ControlNet, Naming::Original) => unet(found, &mut named)?,
        (Kind::Vae, Naming::Original) => vae(found, &mut named)?,
        (Kind::TinyVae, Naming::Original) => tiny_vae(found, &mut named)?,
        (Kind::Clip, Naming::Original) => open_clip(found, &mut named)?,
        (Kind::Flux | Kind::FluxControlNet, Naming::Original) => flux(found, &mut named, path)?,
        (Kind::Clip, _) => clip(found, &mut named)?,
        (Kind::T5, _) => t5(found, &mut named)?,
        _ => {
            for (name, tensor) in &found.tensors {
                put(&mut named, renewed(found.kind, name), tensor)?;
            }
        }
    }
    Ok(named)
}

/// Adds a tensor; attention's projections, which some store as convolutions of one pixel, as matrices.
fn put(named: &mut Named, name: String, tensor: &Tensor) -> Result<()> {
    const MATRICES: [&str; 4] = ["to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight"];
    match MATRICES.iter().any(|end| name.ends_with(end)) {
        true => named.matrix(name, tensor),
        false => named.whole(name, tensor),
    }
}

/// What stands at the end of a name, in another's words. A dot at the end stands for one in the name.
fn reworded(rest: &str, words: &[(&str, &str)]) -> String {
    let found = words.iter().find_map(|(old, new)| Some(format!("{new}{}", rest.strip_prefix(old)?)));
    found.unwrap_or_else(|| rest.to_owned())
}

/// The words of a VAE's attention, now and in older releases of diffusers.
const VAE_ATTENTION: [(&str, &str); 9] = [
    ("norm.", "group_norm."),
    ("q.", "to_q."),
    ("k.", "to_k."),
    ("v.", "to_v."),
    ("proj_out.", "to_out.0."),
    ("query.", "to_q."),
    ("key.", "to_k."),
    ("value.", "to_v."),
    ("proj_attn.", "to_out.0."),
];

/// A name of a diffusers folder as the present release has it.
fn renewed(kind: Kind, name: &str) -> String {
    match name.split_once(".attentions.0.") {
        Some((before, rest)) if kind == Kind::Vae => {
            format!("{before}.attentions.0.{}", reworded(rest, &VAE_ATTENTION))
        }
        _ => name.to_owned(),
    }
}

/// The numbers that follow a prefix in the names, in order.
fn numbers(names: &BTreeMap<String, Tensor>, prefix: &str) -> BTreeSet<usize> {
    let after = names.range(prefix.to_owned()..).map_while(|(name, _)| name.strip_prefix(prefix));
    after.filter_map(|rest| number(rest).map(|(n, _)| n)).collect()
}

/// The number at the beginning of a name, and what stands after its dot.
fn number(rest: &str) -> Option<(usize, &str)> {
    let (digits, rest) = rest.split_once('.')?;
    (digits.bytes().all(|b| b.is_ascii_digit())).then_some(())?;
    Some((digits.parse().ok()?, rest))
}

const RESNET: [(&str, &str); 6] = [
    ("in_layers.0.", "norm1."),
    ("in_layers.2.", "conv1."),
    ("emb_layers.1.", "time_emb_proj."),
    ("out_layers.0.", "norm2."),
    ("out_layers.3.", "conv2."),
    ("skip_connection.", "conv_shortcut."),
];

/// LDM's UNet, and a ControlNet, which is its first half. LDM numbers layers throughout; where a level ends is where
/// something is scaled down or up.
fn unet(found: &Found, named: &mut Named) -> Result<()> {
    let t = &found.tensors;
    let places = |prefix: &str, ends: &dyn Fn(usize) -> bool| {
        let (mut level, mut layer, mut places) = (0, 0, BTreeMap::new());
        for n in numbers(t, prefix) {
            places.insert(n, (level, layer));
            layer += 1;
            if ends(n) {
                (level, layer) = (level + 1, 0);
            }
        }
        places
    };
    let mut down =
        places("input_blocks.", &|n| n == 0 || t.contains_key(&format!("input_blocks.{n}.0.op.weight")));
    down.remove(&0);
    let up = places("output_blocks.", &|n| {
        (1..=2).any(|m| t.contains_key(&format!("output_blocks.{n}.{m}.conv.weight")))
    });
    let hints: Vec<usize> = numbers(t, "input_hint_block.").into_iter().collect();
    // The same place holds the size and crop of SDXL and the noised picture of unCLIP, whose text is SD 2's.
    let text = t.iter().find(|(name, _)| name.ends_with("attn2.to_k.weight"));
    let sd2 = text.is_some_and(|(_, k)| k.shape.get(1) == Some(&1024));
    let label = if sd2 { "class_embedding" } else { "add_embedding" };
    let name_of = |name: &str| -> Option<String> {
        let (first, rest) = name.split_once('.')?;
        Some(match first {
            "time_embed" => {
                format!("time_embedding.{}", reworded(rest, &[("0.", "linear_1."), ("2.", "linear_2.")]))
            }
            "label_emb" => {
                let rest = rest.strip_prefix("0.")?;
                format!("{label}.{}", reworded(rest, &[("0.", "linear_1."), ("2.", "linear_2.")]))
            }
            "out" => reworded(rest, &[("0.", "conv_norm_out."), ("2.", "conv_out.")]),
            "zero_convs" => {
                let (n, rest) = number(rest)?;
                format!("controlnet_down_blocks.{n}.{}", rest.strip_prefix("0.")?)
            }
            "middle_block_out" => format!("controlnet_mid_block.{}", rest.strip_prefix("0.")?),
            "input_hint_block" => {
                let (n, rest) = number(rest)?;
                let at = hints.binary_search(&n).ok()?;
                match at {
                    0 => format!("controlnet_cond_embedding.conv_in.{rest}"),
                    _ if at + 1 == hints.len() => format!("controlnet_cond_embedding.conv_out.{rest}"),
                    _ => format!("controlnet_cond_embedding.blocks.{}.{rest}", at - 1),
                }
            }
            "middle_block" => match number(rest)? {
                (0, rest) => format!("mid_block.resnets.0.{}", reworded(rest, &RESNET)),
                (2, rest) => format!("mid_block.resnets.1.{}", reworded(rest, &RESNET)),
                (1, rest) => format!("mid_block.attentions.0.{rest}"),
                _ => return None,
            },
            "input_blocks" => {
                let (n, rest) = number(rest)?;
                let (part, rest) = number(rest)?;
                if n == 0 {
                    return (part == 0).then(|| format!("conv_in.{rest}"));
                }
                let (level, layer) = *down.get(&n)?;
                // The first level began with the convolution above.
                let level = usize::checked_sub(level, 1)?;
                match (part, rest.strip_prefix("op.")) {
                    (0, Some(rest)) => format!("down_blocks.{level}.downsamplers.0.conv.{rest}"),
                    (0, None) => format!("down_blocks.{level}.resnets.{layer}.{}", reworded(rest, &RESNET)),
                    _ => format!("down_blocks.{level}.attentions.{layer}.{rest}"),
                }
            }
            "output_blocks" => {
                let (n, rest) = number(rest)?;
                let (part, rest) = number(rest)?;
                let (level, layer) = *up.get(&n)?;
                match (part, rest.strip_prefix("conv.")) {
                    (0, _) => format!("up_blocks.{level}.resnets.{layer}.{}", reworded(rest, &RESNET)),
                    (_, Some(rest)) => format!("up_blocks.{level}.upsamplers.0.conv.{rest}"),
                    _ => format!("up_blocks.{level}.attentions.{layer}.{rest}"),
                }
            }
            _ => return None,
        })
    };
    for (name, tensor) in t {
        if let Some(name) = name_of(name) {
            put(named, name, tensor)?;
        }
    }
    // Some store the matrices around attention as convolutions where the family has none.
    if sd2 || named.tensors.contains_key("add_embedding.linear_1.weight") {
        for (name, tensor) in &mut named.tensors {
            let around = name.ends_with(".proj_in.weight") || name.ends_with(".proj_out.weight");
            while around && tensor.shape.len() > 2 && tensor.shape.last() == Some(&1) {
                tensor.shape.pop();
            }
        }
    }
    Ok(())
}

/// LDM's autoencoder, which counts the levels of its decoder from below.
fn vae(found: &Found, named: &mut Named) -> Result<()> {
    let top = numbers(&found.tensors, "decoder.up.").last().copied();
    let name_of = |name: &str| -> Option<String> {
        let (half, rest) = name.split_once('.')?;
        if !matches!(half, "encoder" | "decoder") {
            return matches!(half, "quant_conv" | "post_quant_conv").then(|| name.to_owned());
        }
        let resnet = |rest| reworded(rest, &[("nin_shortcut.", "conv_shortcut.")]);
        let (part, inner) = rest.split_once('.')?;
        let rest = match part {
            "norm_out" => format!("conv_norm_out.{inner}"),
            "conv_in" | "conv_out" => rest.to_owned(),
            "mid" => match inner.split_once('.')? {
                ("block_1", rest) => format!("mid_block.resnets.0.{}", resnet(rest)),
                ("block_2", rest) => format!("mid_block.resnets.1.{}", resnet(rest)),
                ("attn_1", rest) => format!("mid_block.attentions.0.{}", reworded(rest, &VAE_ATTENTION)),
                _ => return None,
            },
            "down" | "up" => {
                let (level, rest) = number(inner)?;
                let level = if part == "up" { top?.checked_sub(level)? } else { level };
                match rest.split_once('.')? {
                    ("block", rest) => {
                        let (n, rest) = number(rest)?;
                        format!("{part}_blocks.{level}.resnets.{n}.{}", resnet(rest))
                    }
                    (scale, rest) => format!("{part}_blocks.{level}.{scale}rs.0.{rest}"),
                }
            }
            _ => return None,
        };
        Some(format!("{half}.{rest}"))
    };
    for (name, tensor) in &found.tensors {
        if let Some(name) = name_of(name) {
            put(named, name, tensor)?;
        }
    }
    Ok(())
}

/// TAESD's decoder in its own file, where squashing the latents counts as a layer.
fn tiny_vae(found: &Found, named: &mut Named) -> Result<()> {
    for (name, tensor) in &found.tensors {
        if let Some((n @ 1.., rest)) = number(name) {
            named.whole(format!("decoder.layers.{}.{rest}", n - 1), tensor)?;
        }
    }
    Ok(())
}

/// transformers' CLIP. Some releases store the text model bare; the vision half of a whole CLIP is left out.
fn clip(found: &Found, named: &mut Named) -> Result<()> {
    for (name, tensor) in &found.tensors {
        let bare = ["embeddings.", "encoder.", "final_layer_norm."].iter().any(|p| name.starts_with(p));
        match name.as_str() {
            _ if name.ends_with("position_ids") => {}
            _ if bare => named.whole(format!("text_model.{name}"), tensor)?,
            _ if name.starts_with("text_model.") || name == "text_projection.weight" => {
                named.whole(name, tensor)?
            }
            _ => {}
        }
    }
    Ok(())
}

/// OpenCLIP's text half: queries, keys and values in one matrix, and the projection the other way round.
fn open_clip(found: &Found, named: &mut Named) -> Result<()> {
    // Of SD 2's encoder (ViT-H) the last of 24 layers is never used, and diffusers' folders leave it out.
    let sd2 = found.prefix == "cond_stage_model.model.";
    let layers = numbers(&found.tensors, "transformer.resblocks.");
    let unused = layers.last().copied().filter(|_| sd2 && layers.len() == 24);
    for (name, tensor) in &found.tensors {
        if let Some(rest) = name.strip_prefix("transformer.resblocks.") {
            let Some((layer, rest)) = number(rest) else { continue };
            if Some(layer) == unused {
                continue;
            }
            let at = format!("text_model.encoder.layers.{layer}");
            if let Some(kind) = rest.strip_prefix("attn.in_proj_") {
                let names = ["q", "k", "v"].map(|x| format!("{at}.self_attn.{x}_proj.{kind}"));
                named.split(&names, tensor)?;
                continue;
            }
            let words = [
                ("ln_1.", "layer_norm1."),
                ("ln_2.", "layer_norm2."),
                ("mlp.c_fc.", "mlp.fc1."),
                ("mlp.c_proj.", "mlp.fc2."),
                ("attn.", "self_attn."),
            ];
            named.whole(format!("{at}.{}", reworded(rest, &words)), tensor)?;
            continue;
        }
        match name.as_str() {
            "positional_embedding" => {
                named.whole("text_model.embeddings.position_embedding.weight", tensor)?;
            }
            "token_embedding.weight" => {
                named.whole("text_model.embeddings.token_embedding.weight", tensor)?
            }
            "text_projection" if !sd2 => named.turned("text_projection.weight", tensor)?,
            "text_projection.weight" if !sd2 => named.whole(name, tensor)?,
            _ => {
                if let Some(kind) = name.strip_prefix("ln_final.") {
                    named.whole(format!("text_model.final_layer_norm.{kind}"), tensor)?;
                }
            }
        }
    }
    Ok(())
}

/// T5's encoder, in transformers' names or llama.cpp's. Its embedding is stored under one of two names, or both.
fn t5(found: &Found, named: &mut Named) -> Result<()> {
    const EMBEDDING: &str = "encoder.embed_tokens.weight";
    let ggml = |name: &str| -> Option<String> {
        if let Some(rest) = name.strip_prefix("enc.blk.") {
            let (layer, rest) = number(rest)?;
            let (part, kind) = rest.split_once('.')?;
            let part = match part {
                "attn_q" | "attn_k" | "attn_v" | "attn_o" => format!("layer.0.SelfAttention.{}", &part[5..]),
                "attn_rel_b" => "layer.0.SelfAttention.relative_attention_bias".into(),
                "attn_norm" => "layer.0.layer_norm".into(),
                "ffn_gate" => "layer.1.DenseReluDense.wi_0".into(),
                "ffn_up" => "layer.1.DenseReluDense.wi_1".into(),
                "ffn_down" => "layer.1.DenseReluDense.wo".into(),
                "ffn_norm" => "layer.1.layer_norm".into(),
                _ => return None,
            };
            return Some(format!("encoder.block.{layer}.{part}.{kind}"));
        }
        match name {
            "token_embd.weight" => Some("shared.weight".into()),
            "enc.output_norm.weight" => Some("encoder.final_layer_norm.weight".into()),
            _ => None,
        }
    };
    for (name, tensor) in &found.tensors {
        let name = match found.naming {
            Naming::Ggml => ggml(name),
            _ if name == EMBEDDING => {
                (!found.tensors.contains_key("shared.weight")).then(|| "shared.weight".to_owned())
            }
            // A whole T5 has a decoder too.
            _ => (name.starts_with("encoder.") || name == "shared.weight").then(|| name.clone()),
        };
        if let Some(name) = name {
            named.whole(name, tensor)?;
        }
    }
    Ok(())
}

/// Black Forest Labs' Flux: queries, keys and values (and the way into the single blocks' MLP) in one matrix, and the last
/// modulation with its shift before its scale.
fn flux(found: &Found, named: &mut Named, path: &Path) -> Result<()> {
    let width = found.shape("img_in.weight").and_then(|s| s.first().copied()).unwrap_or(0);
    const EMBEDDERS: [(&str, &str); 3] = [
        ("time_in", "timestep_embedder"),
        ("vector_in", "text_embedder"),
        ("guidance_in", "guidance_embedder"),
    ];
    const DOUBLE: [(&str, &str); 12] = [
        ("img_mod.lin.", "norm1.linear."),
        ("txt_mod.lin.", "norm1_context.linear."),
        ("img_attn.norm.query_norm.scale", "attn.norm_q.weight"),
        ("img_attn.norm.key_norm.scale", "attn.norm_k.weight"),
        ("txt_attn.norm.query_norm.scale", "attn.norm_added_q.weight"),
        ("txt_attn.norm.key_norm.scale", "attn.norm_added_k.weight"),
        ("img_attn.proj.", "attn.to_out.0."),
        ("txt_attn.proj.", "attn.to_add_out."),
        ("img_mlp.0.", "ff.net.0.proj."),
        ("img_mlp.2.", "ff.net.2."),
        ("txt_mlp.0.", "ff_context.net.0.proj."),
        ("txt_mlp.2.", "ff_context.net.2."),
    ];
    const SINGLE: [(&str, &str); 4] = [
        ("modulation.lin.", "norm.linear."),
        ("norm.query_norm.scale", "attn.norm_q.weight"),
        ("norm.key_norm.scale", "attn.norm_k.weight"),
        ("linear2.", "proj_out."),
    ];
    // Between the convolutions stand activations, which have no weights but count.
    let last = numbers(&found.tensors, "input_hint_block.").last().copied().unwrap_or(0);
    for (name, tensor) in &found.tensors {
        let Some((first, rest)) = name.split_once('.') else { continue };
        match first {
            "img_in" => named.whole(format!("x_embedder.{rest}"), tensor)?,
            "txt_in" => named.whole(format!("context_embedder.{rest}"), tensor)?,
            "double_blocks" => {
                let Some((n, rest)) = number(rest) else { continue };
                let at = format!("transformer_blocks.{n}");
                if let Some(kind) = rest.strip_prefix("img_attn.qkv.") {
                    named
                        .split(&["to_q", "to_k", "to_v"].map(|x| format!("{at}.attn.{x}.{kind}")), tensor)?;
                } else if let Some(kind) = rest.strip_prefix("txt_attn.qkv.") {
                    let names = ["add_q_proj", "add_k_proj", "add_v_proj"];
                    named.split(&names.map(|x| format!("{at}.attn.{x}.{kind}")), tensor)?;
                } else {
                    named.whole(format!("{at}.{}", reworded(rest, &DOUBLE)), tensor)?;
                }
            }
            "single_blocks" => {
                let Some((n, rest)) = number(rest) else { continue };
                let at = format!("single_transformer_blocks.{n}");
                let Some(kind) = rest.strip_prefix("linear1.") else {
                    named.whole(format!("{at}.{}", reworded(rest, &SINGLE)), tensor)?;
                    continue;
                };
                let rows = tensor.shape.first().copied().unwrap_or(0);
                if width.checked_mul(3).is_none_or(|attention| attention > rows) {
                    let what =
                        format!("tensor {:?} has {rows} rows for a width of {width}", tensor.stored_name);
                    return Err(Error::damaged(path, what));
                }
                for (i, x) in ["to_q", "to_k", "to_v"].iter().enumerate() {
                    named.rows(format!("{at}.attn.{x}.{kind}"), tensor, i * width..(i + 1) * width)?;
                }
                named.rows(format!("{at}.proj_mlp.{kind}"), tensor, 3 * width..rows)?;
            }
            // Of XLabs' ControlNets.
            "pos_embed_input" => named.whole(format!("controlnet_x_embedder.{rest}"), tensor)?,
            "controlnet_blocks" | "controlnet_single_blocks" => named.whole(name, tensor)?,
            "input_hint_block" => match number(rest) {
                Some((0, rest)) => named.whole(format!("input_hint_block.conv_in.{rest}"), tensor)?,
                Some((n, rest)) if n == last => {
                    named.whole(format!("input_hint_block.conv_out.{rest}"), tensor)?
                }
                Some((n, rest)) => named
                    .whole(format!("input_hint_block.blocks.{}.{rest}", (n / 2).saturating_sub(1)), tensor)?,
                None => continue,
            },
            "final_layer" => {
                if let Some(kind) = rest.strip_prefix("linear.") {
                    named.whole(format!("proj_out.{kind}"), tensor)?;
                } else if let Some(kind) = rest.strip_prefix("adaLN_modulation.1.") {
                    named.swapped(format!("norm_out.linear.{kind}"), tensor)?;
                }
            }
            _ => {
                if let Some((_, embedder)) = EMBEDDERS.iter().find(|(old, _)| *old == first) {
                    let rest = reworded(rest, &[("in_layer.", "linear_1."), ("out_layer.", "linear_2.")]);
                    named.whole(format!("time_text_embed.{embedder}.{rest}"), tensor)?;
                }
            }
        }
    }
    Ok(())
}
