//! A consistency model of heights in an ONNX file: OpenAI's UNet (`cm/unet.py` of openai/consistency_models), as the Python
//! package adaptive-terrain-diffusion has it.

use super::{Header, Node, Onnx};
use crate::{Error, Result, Tensor};
use serde_json::{Value, json};
use std::{collections::BTreeMap, path::Path};

/// What the file says of itself under `architecture`.
pub const ARCHITECTURE: &str = "consistency-unet-32";
/// The inputs of its graph.
const INPUTS: [&str; 3] = ["noisy", "sigma", "difficulty"];

/// An open model: its tensors by the names of `cm/unet.py`, and the arguments of its `UNetModel`, as tensors and nodes tell.
#[derive(Debug)]
pub struct Adm {
    /// By the names of `UNetModel`'s arguments; `label_channels` is how many numbers a label has.
    pub config: Value,
    /// By their names in the original checkpoint.
    pub tensors: BTreeMap<String, Tensor>,
    file: Onnx,
}

/// Whether a path is that of an ONNX file, by its name: a file has nothing at its beginning that tells.
pub fn is_onnx(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("onnx"))
}

impl Adm {
    /// Opens a file.
    ///
    /// # Errors
    /// As of [`Onnx::open`]; or it holds another model.
    pub fn open(path: &Path) -> Result<Adm> {
        let file = Onnx::open(path)?;
        let (config, tensors) = read(file.header(), &file.map, path)?;
        Ok(Adm { config, tensors, file })
    }

    /// The stored bytes of one of its tensors. Panics when `tensor` is of another file.
    pub fn bytes(&self, tensor: &Tensor) -> &[u8] {
        self.file.bytes(tensor)
    }

    /// Number of weights.
    pub fn parameters(&self) -> u64 {
        self.tensors.values().map(|t| t.elements() as u64).sum()
    }

    /// The file.
    pub fn file(&self) -> &Onnx {
        &self.file
    }
}

/// What the header and the bytes of a file say: the arguments of `UNetModel`, and its tensors; `path` is for errors.
///
/// # Errors
/// It is another model.
pub fn read(header: &Header, bytes: &[u8], path: &Path) -> Result<(Value, BTreeMap<String, Tensor>)> {
    let other = |what: &str| {
        let only = "of ONNX models Hob runs that of adaptive-terrain-diffusion alone (hob pull terrain)";
        Error::unsupported(path, format!("{what}; {only}"))
    };
    if header.metadata.get("architecture").is_none_or(|a| a != ARCHITECTURE) {
        return Err(other("it is another model"));
    }
    if header.inputs.len() != INPUTS.len() || !INPUTS.iter().all(|name| header.inputs.contains_key(*name)) {
        return Err(other("its inputs are not noisy, sigma and difficulty"));
    }
    // The exporter wrapped the network in a module of its own.
    const FIRST: &str = "time_embed.0.weight";
    let wrap = header.tensors.keys().find_map(|name| name.strip_suffix(FIRST));
    let wrap = wrap.ok_or_else(|| other("it has no weight time_embed.0"))?.to_owned();
    let named = header.tensors.iter();
    let tensors: BTreeMap<String, Tensor> =
        named.filter_map(|(name, t)| Some((name.strip_prefix(&wrap)?.to_owned(), t.clone()))).collect();
    match config(header, bytes, &tensors) {
        Some(config) => Ok((config, tensors)),
        None => Err(other("its tensors are not those of its UNet")),
    }
}

/// The arguments of `UNetModel`; `None` when tensors that tell them are missing.
fn config(header: &Header, bytes: &[u8], tensors: &BTreeMap<String, Tensor>) -> Option<Value> {
    let dim = |name: String, axis: usize| tensors.get(&name)?.shape.get(axis).copied();
    let has = |name: String| tensors.contains_key(&name);
    // A block of the way up that enlarges has one residual block more, the last of its level.
    let larger = |i: &usize| (1..3).any(|k| has(format!("output_blocks.{i}.{k}.in_layers.2.weight")));
    let outputs = (0..).take_while(|i| has(format!("output_blocks.{i}.0.in_layers.2.weight"))).count();
    let each = (0..outputs).find(larger).map_or(outputs, |i| i + 1).checked_sub(1).filter(|n| *n > 0)?;
    let levels = (0..outputs).filter(larger).count() + 1;
    let base = dim("time_embed.0.weight".into(), 1).filter(|c| *c > 0)?;
    let first = |level: usize| 1 + level * (each + 1);
    let widths = (0..levels).map(|l| dim(format!("input_blocks.{}.0.out_layers.3.weight", first(l)), 0));
    let widths = widths.collect::<Option<Vec<usize>>>()?;
    let attends = (0..levels).filter(|l| has(format!("input_blocks.{}.1.qkv.weight", first(*l))));
    let shift = dim("input_blocks.1.0.emb_layers.1.weight".into(), 0)? == 2 * widths[0];
    let (head, separate) = attention(header, bytes).unzip();
    let image = header.inputs["noisy"].last().copied().flatten();
    Some(json!({
        "image_size": image,
        "in_channels": dim("input_blocks.0.0.weight".into(), 1)?,
        "model_channels": base,
        "out_channels": dim("out.2.weight".into(), 0)?,
        "num_res_blocks": each,
        "channel_mult": widths.iter().map(|w| *w as f64 / base as f64).collect::<Vec<_>>(),
        // As rates, which is how UNetModel takes them.
        "attention_resolutions": attends.map(|l| 1u64 << l).collect::<Vec<_>>(),
        "num_head_channels": head,
        "use_new_attention_order": separate,
        "use_scale_shift_norm": shift,
        "resblock_updown": !has(format!("input_blocks.{}.0.op.weight", first(0) + each)),
        "num_classes": dim("label_emb.weight".into(), 0),
        "label_channels": dim("label_emb.0.weight".into(), 1),
    }))
}

/// What no tensor tells: the channels of a head, and whether queries, keys and values are separated before heads are.
fn attention(header: &Header, bytes: &[u8]) -> Option<(u64, bool)> {
    let nodes = header.nodes(bytes).ok()?;
    let user = |node: &Node, op: &str| {
        let takes = |n: &&Node| n.op == op && n.inputs.first() == node.outputs.first();
        nodes.iter().position(|n| takes(&n))
    };
    let qkv = nodes
        .iter()
        .find(|n| n.op == "Conv" && n.inputs.get(1).is_some_and(|w| w.ends_with(".qkv.weight")))?;
    let flat = &nodes[user(qkv, "Reshape")?];
    let (split, separate) = match user(flat, "Split") {
        Some(split) => (split, true),
        None => (user(&nodes[user(flat, "Reshape")?], "Split")?, false),
    };
    // Queries and keys are both multiplied by the fourth root of 1 / channels.
    let scaled = &nodes[user(&nodes[split], "Mul")?];
    let scale = scaled.inputs.iter().find_map(|name| header.tensors.get(*name))?;
    let mut root = [0f32];
    if scale.elements() != 1 {
        return None;
    }
    scale.dtype.decode(&bytes[scale.offset as usize..][..scale.len], &mut root);
    let channels = f64::from(root[0]).powi(-4).round();
    (1.0..=65536.0).contains(&channels).then_some((channels as u64, separate))
}
