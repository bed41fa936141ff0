//! The configuration that a network's tensors tell, in the fields of diffusers' and transformers' `config.json`.
//!
//! What shapes do not tell (heads, groups of norms, activations) follows the rules of the published families; a
//! configuration beside the file overrides it.

use super::file::merge;
use super::found::{Found, Kind, Naming};
use crate::Tensor;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Dimensions by name.
pub(super) struct Shapes<'a>(pub &'a BTreeMap<String, Tensor>);

impl Shapes<'_> {
    fn dim(&self, name: &str, axis: usize) -> Option<usize> {
        self.0.get(name)?.shape.get(axis).copied()
    }

    fn has(&self, prefix: &str) -> bool {
        self.0.range(prefix.to_owned()..).next().is_some_and(|(name, _)| name.starts_with(prefix))
    }

    /// How many numbers from 0 follow a prefix.
    fn count(&self, prefix: &str) -> usize {
        let after = self.0.range(prefix.to_owned()..).map_while(|(name, _)| name.strip_prefix(prefix));
        let numbers: BTreeSet<usize> =
            after.filter_map(|rest| rest.split('.').next()?.parse().ok()).collect();
        numbers.iter().zip(0..).take_while(|(n, i)| *n == i).count()
    }
}

/// The configuration of a network; `None` when tensors that tell it are missing.
pub(super) fn config(found: &Found, tensors: &BTreeMap<String, Tensor>) -> Option<Value> {
    let t = Shapes(tensors);
    match found.kind {
        Kind::Unet => unet(&t),
        Kind::ControlNet => control_net(&t),
        Kind::Flux => flux(&t),
        Kind::FluxControlNet => flux_control(&t),
        Kind::Vae => vae(&t),
        Kind::TinyVae => tiny_vae(&t),
        Kind::Clip => clip(&t, found),
        Kind::T5 => t5(&t),
    }
}

/// One number when all are the same, else the list.
fn one_or_all(list: &[Value]) -> Value {
    match list {
        [first, rest @ ..] if rest.iter().all(|v| v == first) => first.clone(),
        _ => list.to_vec().into(),
    }
}

/// Groups of norms: 32, or as many as divide all channels of a small model.
fn groups(channels: &[usize]) -> usize {
    let gcd = |mut a: usize, mut b: usize| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    channels.iter().fold(32, |g, &c| gcd(g, c)).max(1)
}

/// How many blocks of transformers the attentions of a level have: a number, or a list where they differ.
fn depth(t: &Shapes, level: &str) -> Option<Value> {
    let attentions = t.count(&format!("{level}attentions."));
    let count = |i| t.count(&format!("{level}attentions.{i}.transformer_blocks."));
    (attentions > 0).then(|| one_or_all(&(0..attentions).map(|i| count(i).into()).collect::<Vec<_>>()))
}

/// What a UNet and a ControlNet have in common: the half that scales down.
fn half(t: &Shapes) -> Option<Map<String, Value>> {
    let levels = t.count("down_blocks.");
    let level = |i: usize| format!("down_blocks.{i}.");
    let channels: Vec<usize> = (0..levels)
        .map(|i| t.dim(&format!("{}resnets.0.conv1.weight", level(i)), 0))
        .collect::<Option<_>>()?;
    let per_block: Vec<Value> =
        (0..levels).map(|i| t.count(&format!("{}resnets.", level(i))).into()).collect();
    let mid = depth(t, "mid_block.");
    let depths: Vec<Value> = (0..levels)
        .map(|i| {
            // The middle is as deep as the last level is said to be.
            let without = || mid.clone().filter(|_| i + 1 == levels).unwrap_or(1.into());
            depth(t, &level(i)).unwrap_or_else(without)
        })
        .collect();
    let types: Vec<&str> = (0..levels)
        .map(|i| if depth(t, &level(i)).is_some() { "CrossAttnDownBlock2D" } else { "DownBlock2D" })
        .collect();
    let named =
        |end: &str| t.0.iter().find(|(name, _)| name.ends_with(end)).map(|(_, tensor)| &tensor.shape[..]);
    let text = named("attn2.to_k.weight").and_then(|s| s.get(1).copied());
    let linear = named("proj_in.weight").is_some_and(|s| s.len() == 2);
    // Heads of 64 where the projections around attention are linear, as in SD 2 and XL; 8 heads before.
    let heads: Vec<Value> = channels.iter().map(|c| (c / 64).max(1).into()).collect();
    let added = t.dim("add_embedding.linear_1.weight", 1);
    let class = t.dim("class_embedding.linear_1.weight", 1);
    let config = json!({
        "in_channels": t.dim("conv_in.weight", 1)?,
        "block_out_channels": channels,
        "down_block_types": types,
        "mid_block_type": mid.is_some().then_some("UNetMidBlock2DCrossAttn"),
        "layers_per_block": one_or_all(&per_block),
        "transformer_layers_per_block": one_or_all(&depths),
        "cross_attention_dim": text,
        "attention_head_dim": if linear { heads.into() } else { Value::from(8) },
        "use_linear_projection": linear,
        "norm_num_groups": groups(&channels),
        "norm_eps": 1e-5,
        "act_fn": "silu",
        "flip_sin_to_cos": true,
        "freq_shift": 0,
        "addition_embed_type": added.map(|_| "text_time"),
        "addition_time_embed_dim": added.map(|_| 256),
        "class_embed_type": class.map(|_| "projection"),
        "projection_class_embeddings_input_dim": added.or(class),
    });
    if let Value::Object(map) = config { Some(map) } else { None }
}

fn unet(t: &Shapes) -> Option<Value> {
    let mut config = half(t)?;
    let levels = t.count("up_blocks.");
    let depths: Vec<Option<Value>> = (0..levels).map(|i| depth(t, &format!("up_blocks.{i}."))).collect();
    let types: Vec<&str> =
        depths.iter().map(|d| if d.is_some() { "CrossAttnUpBlock2D" } else { "UpBlock2D" }).collect();
    // Distilled models' halves differ.
    let down = &config["transformer_layers_per_block"];
    let down = |i: usize| down.get(i).unwrap_or(down);
    let mirrored = depths.iter().rev().enumerate().all(|(i, d)| d.as_ref().is_none_or(|d| d == down(i)));
    if !mirrored {
        let own: Vec<Value> = depths.iter().map(|d| d.clone().unwrap_or(1.into())).collect();
        config.insert("reverse_transformer_layers_per_block".into(), own.into());
    }
    config.insert("_class_name".into(), "UNet2DConditionModel".into());
    config.insert("up_block_types".into(), types.into());
    config.insert("out_channels".into(), t.dim("conv_out.weight", 0)?.into());
    // Models distilled to be told the guidance, as LCM's.
    if let Some(guidance) = t.dim("time_embedding.cond_proj.weight", 1) {
        config.insert("time_cond_proj_dim".into(), guidance.into());
    }
    Some(config.into())
}

fn control_net(t: &Shapes) -> Option<Value> {
    let mut config = half(t)?;
    let at = "controlnet_cond_embedding.";
    let mut channels = vec![t.dim(&format!("{at}conv_in.weight"), 0)?];
    let blocks = t.count(&format!("{at}blocks."));
    channels.extend((1..blocks).step_by(2).filter_map(|i| t.dim(&format!("{at}blocks.{i}.weight"), 0)));
    config.insert("_class_name".into(), "ControlNetModel".into());
    config.insert("conditioning_embedding_out_channels".into(), channels.into());
    config.insert("conditioning_channels".into(), t.dim(&format!("{at}conv_in.weight"), 1)?.into());
    Some(config.into())
}

fn flux(t: &Shapes) -> Option<Value> {
    let mut config = flux_blocks(t)?;
    merge(
        &mut config,
        &json!({
            "_class_name": "FluxTransformer2DModel",
            "patch_size": 1,
            "out_channels": t.dim("proj_out.weight", 0)?,
        }),
    );
    Some(config)
}

fn flux_control(t: &Shapes) -> Option<Value> {
    let mut config = flux_blocks(t)?;
    let pixels = t.dim("input_hint_block.conv_out.weight", 0);
    merge(
        &mut config,
        &json!({
            "_class_name": "FluxControlNetModel",
            "patch_size": if pixels.is_some() { 2 } else { 1 },
            "num_mode": t.dim("controlnet_mode_embedder.weight", 0),
            "conditioning_embedding_channels": pixels,
        }),
    );
    Some(config)
}

/// What a Flux and its ControlNets have in common.
fn flux_blocks(t: &Shapes) -> Option<Value> {
    let width = t.dim("x_embedder.weight", 0)?;
    let (doubles, singles) = (t.count("transformer_blocks."), t.count("single_transformer_blocks."));
    let norm = ["single_transformer_blocks.0.attn.norm_q.weight", "transformer_blocks.0.attn.norm_q.weight"];
    let head = norm.iter().find_map(|name| t.dim(name, 0))?;
    let in_channels = t.dim("x_embedder.weight", 1)?;
    // Of a head of 128, 16 turn with the picture's index, 56 with the row and 56 with the column.
    let first = head / 16 * 2;
    let rest = head.saturating_sub(first) / 2;
    Some(json!({
        "in_channels": in_channels,
        "num_layers": doubles,
        "num_single_layers": singles,
        "attention_head_dim": head,
        "num_attention_heads": width / head.max(1),
        "joint_attention_dim": t.dim("context_embedder.weight", 1)?,
        "pooled_projection_dim": t.dim("time_text_embed.text_embedder.linear_1.weight", 1)?,
        "guidance_embeds": t.has("time_text_embed.guidance_embedder."),
        "axes_dims_rope": [first, rest, rest],
    }))
}

fn vae(t: &Shapes) -> Option<Value> {
    let latent = t.dim("decoder.conv_in.weight", 1)?;
    let levels = t.count("decoder.up_blocks.");
    let channels = |half: &str| -> Option<Vec<usize>> {
        (0..levels).map(|i| t.dim(&format!("{half}_blocks.{i}.resnets.0.conv1.weight"), 0)).collect()
    };
    let channels = match channels("encoder.down") {
        Some(channels) => channels,
        // A file may hold the decoder alone.
        None => channels("decoder.up")?.into_iter().rev().collect(),
    };
    let flux = latent == 16;
    let per_block = t.count("decoder.up_blocks.0.resnets.").checked_sub(1)?;
    Some(json!({
        "_class_name": "AutoencoderKL",
        "in_channels": t.dim("encoder.conv_in.weight", 1).unwrap_or(3),
        "out_channels": t.dim("decoder.conv_out.weight", 0)?,
        "latent_channels": latent,
        "norm_num_groups": groups(&channels),
        "down_block_types": vec!["DownEncoderBlock2D"; levels],
        "up_block_types": vec!["UpDecoderBlock2D"; levels],
        "block_out_channels": channels,
        "layers_per_block": per_block,
        "act_fn": "silu",
        "use_quant_conv": t.has("quant_conv."),
        "use_post_quant_conv": t.has("post_quant_conv."),
        "mid_block_add_attention": t.has("decoder.mid_block.attentions."),
        "scaling_factor": if flux { 0.3611 } else { 0.18215 },
        "shift_factor": flux.then_some(0.1159),
    }))
}

/// The layers of TAESD's class tell their stages by the upsamplings between, which have no weights.
fn tiny_vae(t: &Shapes) -> Option<Value> {
    let stages = |half: &str| {
        let mut blocks = vec![0usize];
        for i in 1..t.count_sparse(&format!("{half}.layers.")) {
            let at = format!("{half}.layers.{i}.");
            if t.has(&format!("{at}conv.")) {
                *blocks.last_mut().expect("it begins with one") += 1;
            } else if t.dim(&format!("{at}weight"), 0).is_some() && !t.has(&format!("{at}bias")) {
                blocks.push(0);
            }
        }
        blocks
    };
    let decoder = stages("decoder");
    let encoder = if t.has("encoder.layers.") { stages("encoder") } else { vec![1, 3, 3, 3] };
    let width = t.dim("decoder.layers.0.weight", 0)?;
    Some(json!({
        "_class_name": "AutoencoderTiny",
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": t.dim("decoder.layers.0.weight", 1)?,
        "encoder_block_out_channels": vec![width; encoder.len()],
        "decoder_block_out_channels": vec![width; decoder.len()],
        "num_encoder_blocks": encoder,
        "num_decoder_blocks": decoder,
        "upsampling_scaling_factor": 2,
        "act_fn": "relu",
    }))
}

impl Shapes<'_> {
    /// The least number beyond all that follow a prefix; at most as many layers as a small model has.
    fn count_sparse(&self, prefix: &str) -> usize {
        let after = self.0.range(prefix.to_owned()..).map_while(|(name, _)| name.strip_prefix(prefix));
        let numbers = after.filter_map(|rest| rest.split('.').next()?.parse::<usize>().ok());
        numbers.max().map_or(0, |n| n.saturating_add(1)).min(256)
    }
}

fn clip(t: &Shapes, found: &Found) -> Option<Value> {
    let width = t.dim("text_model.embeddings.token_embedding.weight", 1)?;
    // OpenAI's CLIP-L has the quick activation; OpenCLIP's, of which ViT-H is 1024 and bigG 1280 wide, the exact one.
    let open = found.naming == Naming::Original || matches!(width, 1024 | 1280);
    let projected = t.dim("text_projection.weight", 0);
    let vocab = t.dim("text_model.embeddings.token_embedding.weight", 0)?;
    let mut config = json!({
        "architectures": [if projected.is_some() { "CLIPTextModelWithProjection" } else { "CLIPTextModel" }],
        "model_type": "clip_text_model",
        "vocab_size": vocab,
        "hidden_size": width,
        "intermediate_size": t.dim("text_model.encoder.layers.0.mlp.fc1.weight", 0)?,
        "num_hidden_layers": t.count("text_model.encoder.layers."),
        "num_attention_heads": (width / 64).max(1),
        "max_position_embeddings": t.dim("text_model.embeddings.position_embedding.weight", 0)?,
        "hidden_act": if open { "gelu" } else { "quick_gelu" },
        "layer_norm_eps": 1e-5,
        // The last two tokens begin and end a text.
        "bos_token_id": vocab.saturating_sub(2),
        "eos_token_id": vocab.saturating_sub(1),
    });
    if let Some(projected) = projected {
        config["projection_dim"] = projected.into();
    }
    Some(config)
}

fn t5(t: &Shapes) -> Option<Value> {
    let at = "encoder.block.0.layer.";
    let heads = t.dim(&format!("{at}0.SelfAttention.relative_attention_bias.weight"), 1)?;
    let gated = t.has(&format!("{at}1.DenseReluDense.wi_0."));
    let inner = if gated { "wi_0" } else { "wi" };
    Some(json!({
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        "vocab_size": t.dim("shared.weight", 0)?,
        "d_model": t.dim("shared.weight", 1)?,
        "d_kv": t.dim(&format!("{at}0.SelfAttention.q.weight"), 0)? / heads.max(1),
        "d_ff": t.dim(&format!("{at}1.DenseReluDense.{inner}.weight"), 0)?,
        "num_layers": t.count("encoder.block."),
        "num_heads": heads,
        "relative_attention_num_buckets": t.dim(&format!("{at}0.SelfAttention.relative_attention_bias.weight"), 0)?,
        "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-6,
        "feed_forward_proj": if gated { "gated-gelu" } else { "relu" },
        "dense_act_fn": if gated { "gelu_new" } else { "relu" },
        "is_gated_act": gated,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }))
}
