//! LoRA files of picture models, in the forms they are passed around in: kohya's (`lora_unet_….lora_down.weight` with
//! `.alpha`, convolutions with `.lora_mid` among them), diffusers' old and new (`unet.….to_k_lora.down.weight`,
//! `unet.….lora_A.weight`), PEFT's (`base_model.model.…`), ComfyUI's, XLabs', and LyCORIS' LoHa and LoKr. Which module a key
//! changes is looked up among the model's own weights ([`names`]), so that what a file calls by other names, or has fused, is
//! found. Of a DoRA (Liu et al. 2024) the length of rows or of columns comes along.

mod forms;
mod names;

pub use names::Role;

use crate::adapter::Config;
use crate::map::read_small;
use crate::safetensors::Header;
use crate::{Error, Result, Safetensors};
use forms::Form;
use hob_dtype::DType;
use names::{Names, Target};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A part of a model, by the weights it has.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// which it is
    pub role: Role,
    /// dimensions of its weights, by their names
    pub weights: &'a BTreeMap<String, Vec<usize>>,
    /// `norm_out_shift_first` of Flux' configuration: the rows of norm_out lie as in the original checkpoint
    pub shift_first: bool,
}

/// What a file changes of a model.
#[derive(Debug)]
pub struct Lora {
    /// its weights' file
    pub path: PathBuf,
    /// what is added to weights of each part, in the order the parts were given, by the weights' names
    pub parts: Vec<BTreeMap<String, Update>>,
    /// modules, as the file calls them, that are of no part given
    pub unmatched: Vec<String>,
}

/// What is added to one weight `(out, in…)`: `scale · B · A`, or `scale · A` where there is no B.
#[derive(Clone, Debug)]
pub struct Update {
    /// `(rank, in…)`, with the kernel's dimensions where the weight is a convolution's; or `(out, in…)`
    pub a: Factor,
    /// `(out, rank)`
    pub b: Option<Factor>,
    /// alpha / rank, or what the file says instead
    pub scale: f32,
    /// of a DoRA: how long parts of the weight are with the rest added
    pub magnitude: Option<Magnitude>,
    /// those of other files that come after this one, because they depend on the weight with it added
    pub then: Vec<Update>,
}

/// What a DoRA makes of a weight W with an update added: V = W + scale · B · A becomes M = V · magnitude / |V|, and the weight
/// `W + strength · (M - W)`, as A1111 and ComfyUI have it.
#[derive(Clone, Debug)]
pub struct Magnitude {
    /// of each row, as peft has it, or of each input with all its taps, as LyCORIS began
    pub values: Factor,
    /// whether it is of rows
    pub rows: bool,
    /// how much of it is wanted
    pub strength: f32,
}

/// A matrix of an update, in F32, F16 or BF16.
#[derive(Clone, Debug)]
pub struct Factor {
    /// how it is stored
    pub dtype: DType,
    /// its dimensions
    pub dims: Vec<usize>,
    /// what holds its bytes; modules that a file has fused share it
    pub owner: Arc<Vec<u8>>,
    /// where in `owner`
    pub range: Range<usize>,
}

impl Factor {
    /// Of bytes as they are stored.
    pub fn new(dtype: DType, dims: Vec<usize>, bytes: Vec<u8>) -> Factor {
        Factor { dtype, dims, range: 0..bytes.len(), owner: Arc::new(bytes) }
    }

    /// Of numbers, in F32.
    pub fn from_f32(dims: Vec<usize>, values: &[f32]) -> Factor {
        Factor::new(DType::F32, dims, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// Its numbers as they are stored.
    pub fn bytes(&self) -> &[u8] {
        &self.owner[self.range.clone()]
    }

    /// Its numbers.
    pub fn values(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.dims.iter().product()];
        self.dtype.decode(self.bytes(), &mut values);
        values
    }

    /// `rows` of its rows from `first` on, without a copy.
    fn rows(&self, first: usize, rows: usize) -> Factor {
        let row = self.range.len() / self.dims[0];
        let start = self.range.start + first * row;
        let mut dims = self.dims.clone();
        dims[0] = rows;
        Factor { dims, range: start..start + rows * row, ..self.clone() }
    }

    /// The second half of its rows before the first.
    fn swapped(&self) -> Factor {
        let mut bytes = self.bytes().to_vec();
        bytes.rotate_left(self.range.len() / self.dims[0] * (self.dims[0] / 2));
        Factor::new(self.dtype, self.dims.clone(), bytes)
    }
}

/// The names that diffusers, PEFT and others save a LoRA under in a folder, the likeliest first.
const FILES: [&str; 2] = ["pytorch_lora_weights.safetensors", "adapter_model.safetensors"];

const MAX_CONFIG: u64 = 1 << 20;

impl Lora {
    /// Reads the LoRA at `path`, a file or a folder with one, for a model of these parts.
    ///
    /// # Errors
    /// It is none, does something that Hob does not, is of another model's dimensions, or changes nothing of this model: the
    /// sentence names what.
    pub fn open(path: &Path, parts: &[Part]) -> Result<Lora> {
        let path = file(path)?;
        let file = Safetensors::open(&path)?;
        let says = Says::of(&file, &path)?;
        let names: Vec<Names> = parts.iter().map(|p| Names::new(p.role, p.weights, p.shift_first)).collect();
        let mut lora = Lora { path, parts: vec![BTreeMap::new(); parts.len()], unmatched: Vec::new() };
        let modules = modules(&file, &lora.path)?;
        for (module, mut form) in modules {
            let bare = module.strip_prefix("base_model.model.").unwrap_or(&module);
            let found = names.iter().enumerate().find_map(|(i, names)| Some((i, names.find(bare)?)));
            let Some((part, targets)) = found.filter(|(i, targets)| {
                // A file may hold the same twice, in two namings.
                !targets.iter().any(|t| lora.parts[*i].contains_key(&t.weight))
            }) else {
                lora.unmatched.push(module);
                continue;
            };
            if let Some(scale) =
                says.scale(&module, form.rank()).map_err(|e| Error::unsupported(&lora.path, e))?
            {
                form.scale = Some(scale);
            }
            let dims: Vec<&[usize]> =
                targets.iter().map(|t| parts[part].weights[&t.weight].as_slice()).collect();
            let wrong =
                |what: String| Error::unsupported(&lora.path, format!("its update of {module} {what}"));
            let mut update = form.update(&file, &dims).map_err(wrong)?;
            update.magnitude = form.magnitude(&file, &dims).map_err(wrong)?;
            lora.parts[part].extend(split(&update, targets, &dims));
        }
        if lora.parts.iter().all(BTreeMap::is_empty) {
            return Err(Error::unsupported(&lora.path, nothing(&lora.unmatched)));
        }
        Ok(lora)
    }
}

/// The safetensors at `path` or in it.
fn file(path: &Path) -> Result<PathBuf> {
    let other = |what: &str| Err(Error::unsupported(path, what));
    if path.is_dir() {
        if let Some(file) = FILES.iter().map(|name| path.join(name)).find(|file| file.exists()) {
            return Ok(file);
        }
        let entries = std::fs::read_dir(path).map_err(|e| Error::read(path, e))?;
        let mut files: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
        files.retain(|file| file.extension().is_some_and(|e| e == "safetensors"));
        return match files.len() {
            1 => Ok(files.remove(0)),
            0 => other("there is no LoRA in it (a .safetensors file)"),
            _ => other("there are several .safetensors files in it; give the one that is meant"),
        };
    }
    match path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase().as_str() {
        _ if !path.exists() => other("there is no such file"),
        "safetensors" => Ok(path.into()),
        "pt" | "pth" | "bin" | "ckpt" => other(
            "it is a pickle, which may run programs when it is read; save it as safetensors (in Python: \
             safetensors.torch.save_file(torch.load(FILE, weights_only=True), \"lora.safetensors\"))",
        ),
        _ => other("it is no LoRA; give a .safetensors file"),
    }
}

/// Scales that stand beside the weights: in PEFT's adapter_config.json, or what diffusers puts into the file's header.
struct Says {
    /// by what the modules' names begin with
    configs: Vec<(String, Config)>,
}

impl Says {
    fn of(file: &Safetensors, path: &Path) -> Result<Says> {
        let header = file.maps().first().map(|map| Header::parse(map, map.len() as u64, path)).transpose()?;
        let meta = header.and_then(|h| h.metadata.get("lora_adapter_metadata").cloned());
        let mut configs = Vec::new();
        let mut read = |prefix: String, mut value: Value, at: &Path| {
            // What language models do not have here.
            value.as_object_mut().map(|fields| fields.remove("use_dora"));
            let wrong = |e| Error::damaged(at, format!("it is no configuration of an adapter ({e})"));
            let config: Config = serde_json::from_value(value).map_err(wrong)?;
            config.check(at)?;
            configs.push((prefix, config));
            Ok(())
        };
        if let Some(Value::Object(all)) = meta.and_then(|text| serde_json::from_str(&text).ok()) {
            // `transformer.lora_alpha`, `transformer.r`, …: one configuration for each part.
            let mut parts: BTreeMap<String, serde_json::Map<String, Value>> = BTreeMap::new();
            for (key, value) in all {
                if let Some((part, field)) = key.split_once('.') {
                    parts.entry(format!("{part}.")).or_default().insert(field.into(), value);
                }
            }
            for (prefix, fields) in parts {
                read(prefix, Value::Object(fields), path)?;
            }
        } else {
            let beside = path.with_file_name("adapter_config.json");
            let is_peft = file.tensors().iter().any(|t| t.stored_name.starts_with("base_model.model."));
            if let Some(text) = if is_peft { read_small(&beside, MAX_CONFIG)? } else { None } {
                read("base_model.model.".into(), crate::map::parse_json(&text, &beside)?, &beside)?;
            }
        }
        Ok(Says { configs })
    }

    /// What the update of `module`, of such a rank, is multiplied by, if anything says so.
    fn scale(&self, module: &str, rank: Option<usize>) -> Result<Option<f32>, String> {
        let found =
            self.configs.iter().find_map(|(prefix, c)| Some((module.strip_prefix(prefix.as_str())?, c)));
        found.zip(rank).map(|((module, config), rank)| config.scale(module, rank)).transpose()
    }
}

/// What the file has for each module, by the module's name there.
fn modules(file: &Safetensors, path: &Path) -> Result<BTreeMap<String, Form>> {
    let mut modules: BTreeMap<String, Form> = BTreeMap::new();
    for tensor in file.tensors() {
        let name = &tensor.stored_name;
        if name.starts_with("bundle_emb.") {
            modules.entry(name.clone()).or_default(); // a word's embedding that comes along, listed as of no module
            continue;
        }
        if let Some(what) = refused(name) {
            // What changes nothing is often saved along.
            if file.bytes(tensor).iter().all(|byte| *byte == 0) {
                continue;
            }
            return Err(Error::unsupported(path, format!("{name} {what}, which Hob does not apply")));
        }
        let Some((module, slot)) = slot(name) else {
            let what = format!("{name} is no key of a LoRA that Hob knows; is it a whole model?");
            return Err(Error::unsupported(path, what));
        };
        if !matches!(tensor.dtype, DType::F32 | DType::F16 | DType::BF16) {
            let what = format!("{name} is stored as {}; Hob reads LoRAs in F32, F16 and BF16", tensor.dtype);
            return Err(Error::unsupported(path, what));
        }
        modules.entry(module).or_default().put(slot, tensor, file);
    }
    if modules.is_empty() {
        return Err(Error::unsupported(path, "it holds no weights"));
    }
    Ok(modules)
}

/// The module of a key and which of its tensors it is, as [`forms`] calls them.
fn slot(key: &str) -> Option<(String, &'static str)> {
    // PEFT puts the adapter's name between: `lora_A.default.weight`.
    for (mark, slot) in [(".lora_A.", "down"), (".lora_B.", "up")] {
        if let Some((module, rest)) = key.rsplit_once(mark) {
            return rest.ends_with("weight").then(|| (module.into(), slot));
        }
    }
    const ENDINGS: [(&str, &str); 24] = [
        (".lora_magnitude_vector.weight", "magnitude"),
        (".lora_magnitude_vector", "magnitude"),
        (".dora_scale", "magnitude"),
        (".lora_down.weight", "down"),
        (".lora_up.weight", "up"),
        (".lora_mid.weight", "mid"),
        (".down.weight", "down"),
        (".up.weight", "up"),
        (".alpha", "alpha"),
        (".diff", "diff"),
        (".hada_w1_a", "w1_a"),
        (".hada_w1_b", "w1_b"),
        (".hada_w2_a", "w2_a"),
        (".hada_w2_b", "w2_b"),
        (".hada_t1", "t1"),
        (".hada_t2", "t2"),
        (".lokr_w1", "k1"),
        (".lokr_w1_a", "k1_a"),
        (".lokr_w1_b", "k1_b"),
        (".lokr_w2", "k2"),
        (".lokr_w2_a", "k2_a"),
        (".lokr_w2_b", "k2_b"),
        (".lokr_t2", "kt2"),
        (".lora.alpha", "alpha"),
    ];
    let (module, slot) =
        ENDINGS.iter().rev().find_map(|(end, slot)| Some((key.strip_suffix(end)?, *slot)))?;
    // `attn1.processor.to_q_lora.down`, `to_q.lora.down`, `fc1.lora_linear_layer.down`
    let endings = [".lora_linear_layer", ".lora", "_lora"];
    let module = endings.iter().find_map(|end| module.strip_suffix(end)).unwrap_or(module);
    Some((module.replace(".processor.", "."), slot))
}

/// What a key does that is not built here.
fn refused(key: &str) -> Option<&'static str> {
    let is = |marks: &[&str]| marks.iter().any(|mark| key.contains(mark));
    Some(match () {
        _ if is(&["lora_embedding_"]) => "changes an embedding",
        _ if is(&[".oft_", ".boft_", ".oft_R"]) => "is of an OFT, which turns weights",
        _ if is(&[".on_input", "ia3_l"]) => "is of an IA3, which scales activations",
        _ if is(&[".glora_", ".vera_", ".a1.weight", ".b1.weight"]) => "is of a kind of adapter of its own",
        _ if key.ends_with(".bias") || is(&[".diff_b", ".b_norm"]) => "changes a bias",
        _ if is(&[".w_norm", ".set_weight", "query_norm.scale", "key_norm.scale"]) => {
            "replaces a norm or a whole weight"
        }
        _ => return None,
    })
}

/// The update of weights that the file has as one: A is that of all, and B's rows are cut.
fn split(update: &Update, targets: &[Target], dims: &[&[usize]]) -> Vec<(String, Update)> {
    let mut first = 0;
    let mut cut = |(target, dims): (&Target, &&[usize])| {
        let of = |factor: &Factor| {
            let rows = if targets.len() == 1 { factor.clone() } else { factor.rows(first, dims[0]) };
            if target.swapped { rows.swapped() } else { rows }
        };
        let magnitude = update.magnitude.as_ref().map(|m| match m.rows {
            true => Magnitude { values: of(&m.values), ..m.clone() },
            false => m.clone(),
        });
        let update = match &update.b {
            Some(b) => Update { b: Some(of(b)), magnitude, ..update.clone() },
            None => Update { a: of(&update.a), magnitude, ..update.clone() },
        };
        first += dims[0];
        (target.weight.clone(), update)
    };
    targets.iter().zip(dims).map(&mut cut).collect()
}

/// Why a file of these modules changes nothing.
fn nothing(modules: &[String]) -> String {
    let shown: Vec<&str> = modules.iter().take(3).map(String::as_str).collect();
    let more = modules.len() - shown.len();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let modules = shown.join(", ");
    format!("nothing it changes is in this model ({modules}{more}); it was made for another kind of model")
}
