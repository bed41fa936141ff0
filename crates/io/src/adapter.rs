//! LoRA adapters as PEFT writes them: `adapter_config.json` beside `adapter_model.safetensors`, whose keys are
//! `base_model.model.MODULE.lora_A.weight` `(r, in)` and `.lora_B.weight` `(out, r)` (peft, `LoraConfig` and
//! `get_peft_model_state_dict`).

use crate::map::read_small;
use crate::{Error, Result, Safetensors, Tensor};
use hob_dtype::DType;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The files' names in a folder.
const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

const MAX_CONFIG: u64 = 1 << 20;

/// An open adapter.
#[derive(Debug)]
pub struct Adapter {
    /// its weights' file
    pub path: PathBuf,
    /// by the module they change, such as `model.layers.0.self_attn.q_proj`
    pub parts: BTreeMap<String, Part>,
    file: Safetensors,
}

/// What changes one linear layer: `y = W x + scale · B (A x)`.
#[derive(Clone, Debug)]
pub struct Part {
    /// `(rank, in)`
    pub a: Tensor,
    /// `(out, rank)`
    pub b: Tensor,
    /// inner dimension
    pub rank: usize,
    /// alpha / rank, or alpha / √rank with `use_rslora`
    pub scale: f32,
}

/// What Hob needs of adapter_config.json.
#[derive(Deserialize)]
pub(crate) struct Config {
    peft_type: Option<String>,
    r: Option<usize>,
    lora_alpha: Option<f32>,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    fan_in_fan_out: bool,
    bias: Option<String>,
    modules_to_save: Option<Value>,
    rank_pattern: Option<Map<String, Value>>,
    alpha_pattern: Option<BTreeMap<String, f32>>,
}

impl Adapter {
    /// Opens the folder of an adapter, or its weights' file, which has `adapter_config.json` beside it.
    ///
    /// # Errors
    /// It is no LoRA of PEFT, or does something that Hob does not: the sentence says what.
    pub fn open(path: &Path) -> Result<Adapter> {
        let other = |what: &str| Err(Error::unsupported(path, what));
        let weights = weights_of(path);
        if !weights.exists() {
            return match path {
                _ if path.join("adapter_model.bin").exists() => other(
                    "its weights are in adapter_model.bin, which may run programs when it is read; save it as safetensors",
                ),
                _ if path.is_dir() => other(&format!("there is no {WEIGHTS} in it")),
                _ => other("there is no such file"),
            };
        }
        match weights.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase().as_str() {
            "safetensors" => {}
            "gguf" => {
                return other(
                    "it is an adapter in GGUF; give the PEFT folder that it was made from (adapter_config.json and adapter_model.safetensors)",
                );
            }
            _ => return other("it is no adapter; give a PEFT folder or its adapter_model.safetensors"),
        }
        let config = weights.with_file_name(CONFIG);
        let text = read_small(&config, MAX_CONFIG)?.ok_or_else(|| {
            Error::unsupported(
                path,
                format!("there is no {CONFIG} beside its weights, which says how they are scaled"),
            )
        })?;
        let says: Config = serde_json::from_str(&text)
            .map_err(|e| Error::damaged(&config, format!("it is no configuration of an adapter ({e})")))?;
        says.check(&config)?;
        let file = Safetensors::open(&weights)?;
        let mut parts = BTreeMap::new();
        for (module, [a, b]) in pairs(&file, &weights)? {
            let rank = a.shape.first().copied().unwrap_or(0);
            if a.shape.len() != 2 || b.shape.len() != 2 || b.shape[1] != rank || rank == 0 {
                let what =
                    format!("{module} has A {:?} and B {:?}, which do not fit together", a.shape, b.shape);
                return Err(Error::damaged(&weights, what));
            }
            let scale = says.scale(&module, rank).map_err(|what| Error::unsupported(&config, what))?;
            parts.insert(module, Part { a, b, rank, scale });
        }
        Ok(Adapter { path: weights, parts, file })
    }

    /// When the weights of the adapter at `path` were written, if they are there.
    pub fn modified(path: &Path) -> Option<std::time::SystemTime> {
        std::fs::metadata(weights_of(path)).and_then(|m| m.modified()).ok()
    }

    /// The stored bytes of one of its tensors.
    pub fn bytes(&self, tensor: &Tensor) -> &[u8] {
        self.file.bytes(tensor)
    }

    /// Bytes of its files.
    pub fn size_bytes(&self) -> u64 {
        self.file.size_bytes()
    }
}

fn weights_of(path: &Path) -> PathBuf {
    if path.is_dir() { path.join(WEIGHTS) } else { path.to_path_buf() }
}

impl Config {
    /// Refuses what Hob does not run.
    pub(crate) fn check(&self, path: &Path) -> Result<()> {
        let kind = self.peft_type.as_deref().unwrap_or("LORA");
        let saved = |v: &Value| v.as_array().is_some_and(|list| !list.is_empty());
        let what = match () {
            _ if kind != "LORA" => format!("it is an adapter of the kind {kind:?}, and Hob runs LORA alone"),
            _ if self.use_dora => "it is a DoRA (use_dora), which Hob does not run; merge it into its model".into(),
            _ if self.fan_in_fan_out => "its weights are transposed (fan_in_fan_out), which Hob does not run".into(),
            _ if self.bias.as_deref().is_some_and(|b| b != "none") => {
                "it also changes biases, which Hob does not run; merge it into its model".into()
            }
            _ if self.modules_to_save.as_ref().is_some_and(saved) => {
                "it also replaces whole modules (modules_to_save), which Hob does not run; merge it into its model".into()
            }
            _ if self.r.is_none() || self.lora_alpha.is_none() => "it says no r or no lora_alpha".into(),
            _ => return Ok(()),
        };
        Err(Error::unsupported(path, what))
    }

    /// What the update of `module` is multiplied by.
    pub(crate) fn scale(&self, module: &str, rank: usize) -> Result<f32, String> {
        let r = self.r.unwrap_or(rank);
        if rank != r && self.rank_pattern.as_ref().is_none_or(Map::is_empty) {
            return Err(format!("it says r = {r}, and the weights of {module} have the rank {rank}"));
        }
        let mut alpha = self.lora_alpha.unwrap_or(rank as f32);
        for (pattern, own) in self.alpha_pattern.iter().flatten() {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.');
            if !pattern.chars().all(plain) {
                return Err(format!(
                    "its alpha_pattern has the expression {pattern:?}, and Hob reads names alone"
                ));
            }
            if module == pattern || module.ends_with(&format!(".{pattern}")) {
                alpha = *own;
            }
        }
        Ok(alpha / if self.use_rslora { (rank as f32).sqrt() } else { rank as f32 })
    }
}

/// A and B of each module.
fn pairs(file: &Safetensors, path: &Path) -> Result<BTreeMap<String, [Tensor; 2]>> {
    let mut halves: BTreeMap<String, [Option<Tensor>; 2]> = BTreeMap::new();
    for tensor in file.tensors() {
        let name = &tensor.stored_name;
        let bare = name.strip_prefix("base_model.model.").unwrap_or(name);
        let half = |mark: &str| {
            let (module, rest) = bare.rsplit_once(mark)?;
            matches!(rest, ".weight" | ".default.weight").then_some(module)
        };
        let (module, which) = match (half(".lora_A"), half(".lora_B")) {
            (Some(module), _) => (module, 0),
            (_, Some(module)) => (module, 1),
            _ => return Err(Error::unsupported(path, foreign(name))),
        };
        if !matches!(tensor.dtype, DType::F32 | DType::F16 | DType::BF16) {
            let what =
                format!("{name} is stored as {}; Hob reads adapters in F32, F16 and BF16", tensor.dtype);
            return Err(Error::unsupported(path, what));
        }
        halves.entry(module.into()).or_default()[which] = Some(tensor.clone());
    }
    if halves.is_empty() {
        return Err(Error::unsupported(path, "it holds no weights"));
    }
    let whole = |(module, halves): (String, [Option<Tensor>; 2])| match halves {
        [Some(a), Some(b)] => Ok((module, [a, b])),
        [a, _] => {
            let lacks = if a.is_none() { "A" } else { "B" };
            Err(Error::damaged(path, format!("{module} has no lora_{lacks}")))
        }
    };
    halves.into_iter().map(whole).collect()
}

/// Why a key is none of those read here.
fn foreign(name: &str) -> String {
    let has = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    match () {
        _ if has(&["lora_embedding_"]) => {
            format!(
                "{name} changes the embedding, and Hob adapts linear layers alone; merge it into its model"
            )
        }
        _ if has(&["lora_magnitude_vector"]) => {
            format!("{name} is of a DoRA, which Hob does not run; merge it into its model")
        }
        _ if has(&["lora_unet", "lora_te", "lora_down", "lora_up"]) => {
            format!("{name} is a key of picture models' adapters, and Hob reads PEFT's for language models")
        }
        _ => format!(
            "{name} is no weight of a LoRA as PEFT writes them (MODULE.lora_A.weight and .lora_B.weight)"
        ),
    }
}
