//! What adapters' files call the modules of a picture model: diffusers' and transformers' own names, those of the original
//! checkpoints (CompVis' LDM, Black Forest Labs' Flux), and either with underscores for dots, as kohya writes them. Names are
//! found among those of the model's weights, never guessed from a key alone.

use std::collections::{BTreeMap, HashMap};

/// Which part of a picture model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// UNet2DConditionModel or FluxTransformer2DModel
    Denoiser,
    /// the first text encoder, CLIP-L
    Text,
    /// the second: OpenCLIP-bigG of SDXL, or T5 of Flux
    Text2,
}

impl Role {
    /// What stands before its modules' names, with underscores for dots: sd-scripts' `lora_unet_`, `lora_te1_`, …,
    /// OneTrainer's `lora_transformer_`, LyCORIS' own; diffusers' and ComfyUI's. The empty one is tried last.
    fn prefixes(self) -> &'static [&'static str] {
        match self {
            Role::Denoiser => &[
                "lora_unet_",
                "lora_transformer_",
                "lycoris_",
                "model_diffusion_model_",
                "diffusion_model_",
                "transformer_",
                "unet_",
                "",
            ],
            Role::Text => &[
                "lora_te_",
                "lora_te1_",
                "text_encoders_clip_l_transformer_",
                "clip_l_transformer_",
                "text_encoder_",
                "",
            ],
            Role::Text2 => &[
                "lora_te2_",
                "lora_te3_",
                "text_encoders_clip_g_transformer_",
                "text_encoders_t5xxl_transformer_",
                "clip_g_transformer_",
                "t5xxl_transformer_",
                "text_encoder_2_",
                "",
            ],
        }
    }
}

/// One weight that a name stands for, or one of several that it has fused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// its place among the fused
    order: usize,
    /// the weight's name
    pub weight: String,
    /// whether the rows' halves are to be exchanged
    pub swapped: bool,
}

/// The names of one part's modules.
pub(super) struct Names {
    role: Role,
    /// by name with underscores for dots
    known: HashMap<String, Vec<Target>>,
}

impl Names {
    /// Of a part with these weights. `shift_first`: see `norm_out_shift_first` of Flux' configuration.
    pub fn new(role: Role, weights: &BTreeMap<String, Vec<usize>>, shift_first: bool) -> Names {
        let mut names = Names { role, known: HashMap::new() };
        let modules = || weights.keys().filter_map(|name| name.strip_suffix(".weight"));
        let unet = Unet::of(modules());
        for module in modules() {
            let norm_out = module == "norm_out.linear";
            let mut add = |name: &str, order, swapped| {
                let target = Target { order, weight: format!("{module}.weight"), swapped };
                names.known.entry(name.replace('.', "_")).or_default().push(target);
            };
            add(module, 0, norm_out && shift_first);
            if role != Role::Denoiser {
                text(module).iter().for_each(|name| add(name, 0, false));
                continue;
            }
            if let Some(bare) = module.strip_suffix(".to_out.0") {
                add(&format!("{bare}.to_out"), 0, false); // of `to_out_lora`
            }
            if let Some(name) = unet.ldm(module) {
                add(&name, 0, false);
            }
            for (name, order) in flux(module) {
                add(&name, order, norm_out && !shift_first);
            }
        }
        names.known.values_mut().for_each(|targets| targets.sort_by_key(|t| t.order));
        names
    }

    /// The weights that `module`, as a file names it, changes: several where it stands for fused ones, whose rows lie in that
    /// order. `None` where it is of no module here, or of more than one.
    pub fn find(&self, module: &str) -> Option<&[Target]> {
        let flat = module.replace('.', "_");
        let found =
            self.role.prefixes().iter().filter_map(|prefix| self.known.get(flat.strip_prefix(prefix)?));
        let clear = |targets: &&Vec<Target>| targets.windows(2).all(|w| w[0].order < w[1].order);
        found.into_iter().find(clear).map(Vec::as_slice)
    }
}

/// Other names of a module of CLIP's text encoder: without the text model's own, which transformers 5 leaves out, and as older
/// versions of diffusers call its projections.
fn text(module: &str) -> Vec<String> {
    let mut names = Vec::new();
    names.push(match module.strip_prefix("text_model.") {
        Some(bare) => bare.to_string(),
        None => format!("text_model.{module}"),
    });
    for (own, old) in [("q_proj", "to_q"), ("k_proj", "to_k"), ("v_proj", "to_v"), ("out_proj", "to_out")] {
        if let Some(path) = module.strip_suffix(own).filter(|path| path.ends_with("self_attn.")) {
            names.push(format!("{path}{old}"));
        }
    }
    names
}

/// How a UNet's blocks are counted.
struct Unet {
    /// residual blocks of each level on the way down
    layers: usize,
    /// which levels on the way up have attention
    attends: Vec<String>,
}

impl Unet {
    fn of<'a>(modules: impl Iterator<Item = &'a str>) -> Unet {
        let mut unet = Unet { layers: 0, attends: Vec::new() };
        for module in modules {
            match module.split('.').collect::<Vec<_>>()[..] {
                ["down_blocks", "0", "resnets", j, ..] => {
                    unet.layers = unet.layers.max(j.parse().map_or(0, |j: usize| j + 1));
                }
                ["up_blocks", i, "attentions", ..] if !unet.attends.iter().any(|a| a == i) => {
                    unet.attends.push(i.into());
                }
                _ => {}
            }
        }
        unet
    }

    /// The name in the original checkpoints of a module of diffusers' UNet (CompVis' `openaimodel.py`): the blocks of all
    /// levels counted in one row, a residual block's layers in two lists.
    fn ldm(&self, module: &str) -> Option<String> {
        let level = self.layers + 1;
        let count = |i: &str, j: &str| Some(i.parse::<usize>().ok()? * level + j.parse::<usize>().ok()?);
        let residual = |rest: &[&str]| {
            Some(match rest {
                ["norm1"] => "in_layers.0",
                ["conv1"] => "in_layers.2",
                ["time_emb_proj"] => "emb_layers.1",
                ["norm2"] => "out_layers.0",
                ["conv2"] => "out_layers.3",
                ["conv_shortcut"] => "skip_connection",
                _ => return None,
            })
        };
        Some(match module.split('.').collect::<Vec<_>>()[..] {
            ["conv_in"] => "input_blocks.0.0".into(),
            ["conv_norm_out"] => "out.0".into(),
            ["conv_out"] => "out.2".into(),
            ["time_embedding", "linear_1"] => "time_embed.0".into(),
            ["time_embedding", "linear_2"] => "time_embed.2".into(),
            ["add_embedding" | "class_embedding", "linear_1"] => "label_emb.0.0".into(),
            ["add_embedding" | "class_embedding", "linear_2"] => "label_emb.0.2".into(),
            ["down_blocks", i, "resnets", j, ref rest @ ..] => {
                format!("input_blocks.{}.0.{}", count(i, j)? + 1, residual(rest)?)
            }
            ["down_blocks", i, "attentions", j, ref rest @ ..] => {
                format!("input_blocks.{}.1.{}", count(i, j)? + 1, rest.join("."))
            }
            ["down_blocks", i, "downsamplers", "0", "conv"] => {
                format!("input_blocks.{}.0.op", count(i, "0")? + level)
            }
            ["mid_block", "resnets", j, ref rest @ ..] => {
                format!("middle_block.{}.{}", 2 * j.parse::<usize>().ok()?, residual(rest)?)
            }
            ["mid_block", "attentions", "0", ref rest @ ..] => format!("middle_block.1.{}", rest.join(".")),
            ["up_blocks", i, "resnets", j, ref rest @ ..] => {
                format!("output_blocks.{}.0.{}", count(i, j)?, residual(rest)?)
            }
            ["up_blocks", i, "attentions", j, ref rest @ ..] => {
                format!("output_blocks.{}.1.{}", count(i, j)?, rest.join("."))
            }
            ["up_blocks", i, "upsamplers", "0", "conv"] => {
                let place = 1 + usize::from(self.attends.iter().any(|a| a == i));
                format!("output_blocks.{}.{place}.conv", count(i, "0")? + self.layers)
            }
            _ => return None,
        })
    }
}

/// The names of a module of diffusers' Flux in files of Black Forest Labs and of XLabs, and its place where several modules
/// are one there.
fn flux(module: &str) -> Vec<(String, usize)> {
    let whole = |name: &str| vec![(name.to_string(), 0)];
    match module {
        "x_embedder" => return whole("img_in"),
        "context_embedder" => return whole("txt_in"),
        "norm_out.linear" => return whole("final_layer.adaLN_modulation.1"),
        "proj_out" => return whole("final_layer.linear"),
        _ => {}
    }
    if let Some(rest) = module.strip_prefix("time_text_embed.") {
        let part = match rest.split_once('.') {
            Some(("timestep_embedder", _)) => "time_in",
            Some(("guidance_embedder", _)) => "guidance_in",
            Some(("text_embedder", _)) => "vector_in",
            _ => return Vec::new(),
        };
        return whole(&format!(
            "{part}.{}",
            if rest.ends_with("linear_1") { "in_layer" } else { "out_layer" }
        ));
    }
    let blocks = [
        ("double_blocks", "transformer_blocks.", DOUBLE),
        ("single_blocks", "single_transformer_blocks.", SINGLE),
    ];
    let of = blocks.into_iter().find_map(|(bfl, own, table)| Some((bfl, module.strip_prefix(own)?, table)));
    let Some((blocks, rest, table)) = of else { return Vec::new() };
    let Some((i, part)) = rest.split_once('.') else { return Vec::new() };
    let Some((_, bfl, xlabs, order)) = table.iter().find(|row| row.0 == part) else { return Vec::new() };
    let names = [*bfl, *xlabs].into_iter().filter(|name| !name.is_empty());
    names.map(|name| (format!("{blocks}.{i}.{name}"), *order)).collect()
}

/// A module of a block, its name by Black Forest Labs, by XLabs (if any, less `processor` and an ending in `_lora`), and its
/// place among those that are fused there.
const DOUBLE: &[(&str, &str, &str, usize)] = &[
    ("attn.to_q", "img_attn.qkv", "qkv_lora1", 0),
    ("attn.to_k", "img_attn.qkv", "qkv_lora1", 1),
    ("attn.to_v", "img_attn.qkv", "qkv_lora1", 2),
    ("attn.add_q_proj", "txt_attn.qkv", "qkv_lora2", 0),
    ("attn.add_k_proj", "txt_attn.qkv", "qkv_lora2", 1),
    ("attn.add_v_proj", "txt_attn.qkv", "qkv_lora2", 2),
    ("attn.to_out.0", "img_attn.proj", "proj_lora1", 0),
    ("attn.to_add_out", "txt_attn.proj", "proj_lora2", 0),
    ("ff.net.0.proj", "img_mlp.0", "", 0),
    ("ff.net.2", "img_mlp.2", "", 0),
    ("ff_context.net.0.proj", "txt_mlp.0", "", 0),
    ("ff_context.net.2", "txt_mlp.2", "", 0),
    ("norm1.linear", "img_mod.lin", "", 0),
    ("norm1_context.linear", "txt_mod.lin", "", 0),
];

/// The same of a block over text and picture.
const SINGLE: &[(&str, &str, &str, usize)] = &[
    ("attn.to_q", "linear1", "qkv", 0),
    ("attn.to_k", "linear1", "qkv", 1),
    ("attn.to_v", "linear1", "qkv", 2),
    ("proj_mlp", "linear1", "", 3),
    ("proj_out", "linear2", "proj", 0),
    ("norm.linear", "modulation.lin", "", 0),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn names(role: Role, modules: &[&str]) -> Names {
        let weights = modules.iter().map(|m| (format!("{m}.weight"), vec![1, 1])).collect();
        Names::new(role, &weights, false)
    }

    #[test]
    fn a_unet_is_known_by_both_namings() {
        // Two residual blocks a level, as in SD and SDXL; the pairs are those of sd-scripts' sdxl_model_util.py.
        let pairs = [
            ("down_blocks.0.resnets.1.conv1", "input_blocks_2_0_in_layers_2"),
            ("down_blocks.0.resnets.0.time_emb_proj", "input_blocks_1_0_emb_layers_1"),
            ("down_blocks.0.downsamplers.0.conv", "input_blocks_3_0_op"),
            (
                "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
                "input_blocks_4_1_transformer_blocks_0_attn1_to_q",
            ),
            ("down_blocks.2.attentions.1.proj_in", "input_blocks_8_1_proj_in"),
            ("mid_block.resnets.1.conv2", "middle_block_2_out_layers_3"),
            (
                "mid_block.attentions.0.transformer_blocks.3.ff.net.0.proj",
                "middle_block_1_transformer_blocks_3_ff_net_0_proj",
            ),
            (
                "up_blocks.0.attentions.2.transformer_blocks.9.attn2.to_out.0",
                "output_blocks_2_1_transformer_blocks_9_attn2_to_out_0",
            ),
            ("up_blocks.0.upsamplers.0.conv", "output_blocks_2_2_conv"),
            ("up_blocks.2.resnets.2.conv_shortcut", "output_blocks_8_0_skip_connection"),
            ("up_blocks.2.upsamplers.0.conv", "output_blocks_8_1_conv"),
            ("add_embedding.linear_2", "label_emb_0_2"),
            ("conv_in", "input_blocks_0_0"),
        ];
        let modules: Vec<&str> = pairs.iter().map(|p| p.0).collect();
        let names = names(Role::Denoiser, &modules);
        for (own, ldm) in pairs {
            for key in [
                format!("lora_unet_{ldm}"),
                format!("lora_unet_{}", own.replace('.', "_")),
                format!("unet.{own}"),
            ] {
                let found = names.find(&key).unwrap_or_else(|| panic!("{key} is not known"));
                assert_eq!(found[0].weight, format!("{own}.weight"));
                assert_eq!(found.len(), 1);
            }
        }
        assert!(names.find("lora_unet_input_blocks_5_1_proj_in").is_none());
        assert!(names.find("lora_te_conv_in").is_none());
    }

    #[test]
    fn what_flux_has_fused_is_several_weights_in_order() {
        let modules = ["attn.to_v", "attn.to_q", "attn.to_k", "proj_mlp", "proj_out"];
        let modules: Vec<String> =
            modules.iter().map(|m| format!("single_transformer_blocks.7.{m}")).collect();
        let modules: Vec<&str> = modules.iter().map(String::as_str).collect();
        let names = names(Role::Denoiser, &modules);
        let found = |key: &str| {
            let found = names.find(key).unwrap_or_else(|| panic!("{key} is not known"));
            found
                .iter()
                .map(|t| t.weight.trim_start_matches("single_transformer_blocks.7.").to_string())
                .collect::<Vec<_>>()
        };
        let fused = ["attn.to_q.weight", "attn.to_k.weight", "attn.to_v.weight", "proj_mlp.weight"];
        assert_eq!(found("lora_unet_single_blocks_7_linear1"), fused);
        assert_eq!(found("diffusion_model.single_blocks.7.linear1"), fused);
        assert_eq!(found("single_blocks.7.qkv"), fused[..3]);
        assert_eq!(found("transformer.single_transformer_blocks.7.attn.to_k"), ["attn.to_k.weight"]);
        assert_eq!(found("lora_transformer_single_transformer_blocks_7_proj_out"), ["proj_out.weight"]);
    }

    #[test]
    fn a_name_of_two_modules_is_of_none() {
        let names = names(Role::Text, &["a.b_c", "a_b.c", "a.d"]);
        assert!(names.find("lora_te_a_b_c").is_none());
        assert_eq!(names.find("lora_te1_a_d").unwrap()[0].weight, "a.d.weight");
    }
}
