//! A model on disk, whatever its format: configuration and tensors under the names of the original checkpoint.

use crate::{
    Error, Gguf, Result, Tensor, config,
    map::{parse_json, read_small},
    names,
    safetensors::Safetensors,
    weights::{PICKLE, Weights},
};
use hob_dtype::DType;
use memmap2::Mmap;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// Of companions such as `config.json` and `tokenizer_config.json`; real ones have a few MB at most.
const MAX_COMPANION: u64 = 64 << 20;

/// An open model: a GGUF file (or all parts of a split one), or safetensors with their companions; or the headers of one
/// that lies elsewhere ([`Checkpoint::has_data`]).
///
/// Weights are mapped, not read; the files must not be truncated by another program meanwhile.
#[derive(Debug)]
pub struct Checkpoint {
    /// As given to [`Checkpoint::open`].
    pub path: PathBuf,
    /// The configuration, with the fields of Hugging Face's `config.json`; see [`crate::config`]. Empty when a
    /// safetensors file has no `config.json` beside it.
    pub config: Value,
    /// All tensors by their names in the original checkpoint.
    pub tensors: BTreeMap<String, Tensor>,
    weights: Weights,
    chat_template: Option<String>,
    licence: Option<String>,
    eos: Vec<u32>,
}

impl Checkpoint {
    /// Opens a model: a GGUF file, a safetensors file or index, or a folder with one model of either kind.
    ///
    /// Any architecture opens; whether it can run is for the models to say. Errors: nothing usable is found, a file cannot
    /// be read, is damaged or incomplete, or a number format is unknown.
    pub fn open(path: &Path) -> Result<Checkpoint> {
        let file = if path.is_dir() { model_in(path)? } else { path.to_owned() };
        let checkpoint = match Weights::open(&file)? {
            Weights::Gguf(gguf) => Checkpoint::from_gguf(gguf)?,
            Weights::Safetensors(weights) => Checkpoint::from_safetensors(weights, &file, |name| {
                read_small(&file.with_file_name(name), MAX_COMPANION)
            })?,
        };
        Ok(Checkpoint { path: path.into(), ..checkpoint })
    }

    /// A checkpoint over an open GGUF model, or one of which only the header was read.
    pub fn from_gguf(gguf: Gguf) -> Result<Checkpoint> {
        let config = config::from_gguf(&gguf)?;
        let architecture = gguf.architecture().unwrap_or_default();
        let tensors = by_name(gguf.tensors(), gguf.path(), |stored| names::from_gguf(architecture, stored))?;
        let text = |key| gguf.get(key).and_then(|v| v.str()).map(str::to_owned);
        // A model may end its answers by any of these: end of sequence, of turn, of message.
        let eos = ["eos", "eot", "eom"].map(|name| gguf.get(&format!("tokenizer.ggml.{name}_token_id")));
        let mut eos: Vec<u32> = eos.into_iter().flatten().filter_map(|v| v.u64()?.try_into().ok()).collect();
        eos.sort_unstable();
        eos.dedup();
        Ok(Checkpoint {
            path: gguf.path().into(),
            config,
            tensors,
            chat_template: text("tokenizer.chat_template"),
            licence: text("general.license"),
            eos,
            weights: Weights::Gguf(gguf),
        })
    }

    /// A checkpoint over an open safetensors model at `file`, or one of which only the headers were read.
    ///
    /// `companion` gives the text of the file of that name beside `file`, if there is one.
    pub fn from_safetensors(
        weights: Safetensors,
        file: &Path,
        companion: impl Fn(&str) -> Result<Option<String>>,
    ) -> Result<Checkpoint> {
        let json = |name: &str| {
            let text = companion(name)?;
            text.map(|text| parse_json(&text, &file.with_file_name(name))).transpose()
        };
        let raw = json("config.json")?;
        let multimodal = raw.as_ref().and_then(Value::as_object).is_some_and(config::is_multimodal);
        let mut config = match raw {
            Some(raw) => config::from_hugging_face(raw, &file.with_file_name("config.json"))?,
            None => Value::Object(Default::default()),
        };
        let model_type = config["model_type"].as_str().unwrap_or_default().to_owned();
        let name = |stored: &str| match multimodal {
            true => names::from_multimodal(stored),
            false => names::from_bare_or_headed(&model_type, stored),
        };
        let tensors = by_name(weights.tensors(), file, name)?;
        // They come with scales, which are many for a weight here and of several forms.
        if let Some((name, t)) = tensors.iter().find(|(_, t)| t.dtype.is_float8()) {
            let what = format!(
                "tensor {name:?} is in floats of 8 bits ({}), which Hob reads in picture models alone; take the model in BF16 or as a GGUF",
                t.dtype
            );
            return Err(Error::unsupported(file, what));
        }
        if let Some(config) = config.as_object_mut()
            && tensors.keys().any(|name| name.ends_with(".experts.gate_up_proj"))
        {
            config.insert("experts_fused".into(), true.into());
        }
        if let (Some(config), Some(modules)) = (config.as_object_mut(), json("modules.json")?) {
            let transformer = json("sentence_bert_config.json")?.unwrap_or_default();
            config.insert("embedding".into(), config::sentence_transformers(&modules, json, &transformer)?);
        }
        let template = match companion("chat_template.jinja")? {
            Some(template) => Some(template),
            None => {
                json("tokenizer_config.json")?.as_ref().and_then(|c| default_template(&c["chat_template"]))
            }
        };
        let generation = json("generation_config.json")?.unwrap_or_default();
        let mut eos = ids(&config["eos_token_id"]);
        eos.extend(ids(&generation["eos_token_id"]));
        eos.sort_unstable();
        eos.dedup();
        if let (Some(config), Some(bos)) = (config.as_object_mut(), ids(&generation["bos_token_id"]).first())
        {
            config.entry("bos_token_id").or_insert((*bos).into());
        }
        let readme = companion("README.md")?;
        let licence = readme.as_deref().and_then(licence_in);
        let path = file.into();
        Ok(Checkpoint {
            path,
            config,
            tensors,
            weights: Weights::Safetensors(weights),
            chat_template: template,
            licence,
            eos,
        })
    }

    /// The stored bytes of one of this checkpoint's tensors.
    ///
    /// Panics when `tensor` belongs to another checkpoint, or only headers were read: see [`Checkpoint::has_data`].
    pub fn bytes(&self, tensor: &Tensor) -> &[u8] {
        self.weights.bytes(tensor)
    }

    /// Whether the tensors' bytes are at hand: not when the checkpoint was made of headers alone, by
    /// [`Gguf::parse_header`] or [`Safetensors::from_headers`]. All but [`Checkpoint::bytes`] and [`Checkpoint::forget`]
    /// works then as for an open file.
    pub fn has_data(&self) -> bool {
        !self.maps().is_empty()
    }

    /// The same, with the licence that is stated elsewhere where the model states none.
    pub fn or_licence(self, stated: Option<String>) -> Checkpoint {
        Checkpoint { licence: self.licence.or(stated), ..self }
    }

    /// Tells the system that a part of a tensor's bytes is not needed soon: it leaves the process's memory, and is read
    /// again when it is asked for.
    pub fn forget(&self, tensor: &Tensor, part: std::ops::Range<usize>) {
        self.weights.forget(tensor, part);
    }

    /// Tells the system that a tensor's bytes are needed soon: it reads them from the disk while other work goes on.
    pub fn fetch(&self, tensor: &Tensor) {
        self.weights.fetch(tensor);
    }

    /// The GGUF model beneath, when it is one.
    pub fn gguf(&self) -> Option<&Gguf> {
        self.weights.gguf()
    }

    /// The files that hold the tensors; [`Tensor::file`] counts them.
    pub fn files(&self) -> Vec<&Path> {
        self.weights.files()
    }

    /// The path of a file beside the weights, such as `tokenizer.json`, when it exists. Nothing is beside headers alone.
    pub fn companion(&self, name: &str) -> Option<PathBuf> {
        if !self.has_data() {
            return None;
        }
        let path = self.files().first()?.with_file_name(name);
        path.is_file().then_some(path)
    }

    /// The mappings of the files, in order, for advice to the system about paging; none when only a header was read.
    pub fn maps(&self) -> Vec<&Mmap> {
        self.weights.maps()
    }

    /// `model_type` of the configuration, for example `llama` or `gemma3_text`.
    pub fn model_type(&self) -> Option<&str> {
        self.config["model_type"].as_str()
    }

    /// Bytes of all files that hold tensors.
    pub fn size_bytes(&self) -> u64 {
        self.weights.size_bytes()
    }

    /// Bytes of the files that are not tensors' data: what is read to open the model.
    pub fn header_bytes(&self) -> u64 {
        self.weights.header_bytes()
    }

    /// Number of values of all tensors; an embedding shared by both ends of the model counts once.
    pub fn parameters(&self) -> u64 {
        self.tensors.values().fold(0, |n, t| n.saturating_add(t.elements() as u64))
    }

    /// Number of tensors and their bytes, by number format.
    pub fn formats(&self) -> BTreeMap<DType, (usize, u64)> {
        let mut formats = BTreeMap::new();
        for tensor in self.tensors.values() {
            let (count, bytes) = formats.entry(tensor.dtype).or_insert((0, 0));
            *count += 1;
            *bytes = u64::saturating_add(*bytes, tensor.len as u64);
        }
        formats
    }

    /// The licence as the model states it, for example `apache-2.0`.
    pub fn licence(&self) -> Option<String> {
        self.licence.clone()
    }

    /// The model's own chat template, in Jinja.
    pub fn chat_template(&self) -> Option<String> {
        self.chat_template.clone()
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        ids(&self.config["bos_token_id"]).first().copied()
    }

    /// All tokens that end an answer, in ascending order.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }
}

fn by_name(
    tensors: &[Tensor],
    path: &Path,
    name: impl Fn(&str) -> String,
) -> Result<BTreeMap<String, Tensor>> {
    let mut by_name = BTreeMap::new();
    for tensor in tensors {
        if let Some(other) = by_name.insert(name(&tensor.stored_name), tensor.clone()) {
            let what = format!(
                "its tensors {:?} and {:?} are the same weight",
                other.stored_name, tensor.stored_name
            );
            return Err(Error::damaged(path, what));
        }
    }
    Ok(by_name)
}

/// The file by which the model in a folder is opened.
fn model_in(folder: &Path) -> Result<PathBuf> {
    let entries = std::fs::read_dir(folder).map_err(|e| Error::read(folder, e))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| Error::read(folder, e))?;
        // Names that are no text are not models.
        names.extend(entry.file_name().into_string().ok());
    }
    model_among(folder, names)
}

/// The file by which the model in a folder is opened, given the names of all files in it.
///
/// Errors: there is no model among them, or several.
pub fn model_among(folder: &Path, mut names: Vec<String>) -> Result<PathBuf> {
    // Nor are hidden files.
    names.retain(|name| !name.starts_with('.'));
    names.sort_unstable();
    for name in ["model.safetensors.index.json", "model.safetensors"] {
        if names.iter().any(|n| n == name) {
            return Ok(folder.join(name));
        }
    }
    let ending = |end: &str| -> Vec<&String> { names.iter().filter(|name| name.ends_with(end)).collect() };
    let mut found = ending(".safetensors.index.json");
    if found.is_empty() {
        found = ending(".safetensors");
    }
    if found.is_empty() {
        // Of a split model, only the first part counts.
        found = ending(".gguf").into_iter().filter(|name| !is_later_part(name)).collect();
    }
    match found.as_slice() {
        [name] => Ok(folder.join(name)),
        [] if names.iter().any(|n| n.ends_with(".bin") || n.ends_with(".pt") || n.ends_with(".pth")) => Err(
            Error::unsupported(folder, PICKLE.replace("it is a PyTorch pickle", "it holds PyTorch pickles")),
        ),
        [] => Err(Error::unsupported(
            folder,
            "it holds no GGUF or safetensors file; give the folder of a model",
        )),
        several => {
            let list = several.iter().map(|s| s.as_str()).collect::<Vec<_>>().join(", ");
            Err(Error::unsupported(folder, format!("it holds several models; give the path of one: {list}")))
        }
    }
}

/// Whether a name ends in `-00002-of-00003.gguf` or a later part's number.
fn is_later_part(name: &str) -> bool {
    let part = || {
        let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
        let (_, number) = rest.rsplit_once('-')?;
        let digits = |s: &str| s.len() == 5 && s.bytes().all(|b| b.is_ascii_digit());
        Some(digits(count) && digits(number) && number != "00001")
    };
    part().unwrap_or(false)
}

/// One id, or a list of ids.
fn ids(value: &Value) -> Vec<u32> {
    let one = |v: &Value| v.as_u64().and_then(|n| n.try_into().ok());
    match value {
        Value::Array(list) => list.iter().filter_map(one).collect(),
        value => one(value).into_iter().collect(),
    }
}

/// `chat_template` of `tokenizer_config.json`: text, or a list of named ones, of which `default` is taken.
fn default_template(value: &Value) -> Option<String> {
    let text = match value {
        Value::Array(list) => {
            list.iter().find(|t| t["name"] == "default").or(list.first())?["template"].as_str()
        }
        value => value.as_str(),
    };
    text.map(str::to_owned)
}

/// `license` in the front matter of a model card.
fn licence_in(readme: &str) -> Option<String> {
    let mut lines = readme.lines();
    if lines.next()?.trim_end() != "---" {
        return None;
    }
    let value =
        lines.take_while(|line| line.trim_end() != "---").find_map(|line| line.strip_prefix("license:"))?;
    let value = value.trim().trim_matches(['"', '\'']);
    (!value.is_empty()).then(|| value.to_owned())
}
