//! One file per architecture, and the registry.
//!
//! A model file states mathematics, in the names of the original checkpoint. What it does not know: formats,
//! devices, caches, adapters, training. Adding an architecture is its file, one row here and one golden.

pub mod adm;
pub mod bert;
pub mod blocks;
pub mod clip;
pub mod controlnet;
pub mod esrgan;
pub mod flux;
pub mod flux_control;
pub mod gemma3;
pub mod llama;
pub mod mixtral;
pub mod qwen2;
pub mod qwen3;
pub mod rope;
pub mod t5;
pub mod tae;
pub mod time;
pub mod unet;
pub mod vae;

use hob_graph::{Builder, Graph, GraphError, X};
use serde_json::Value;
use std::fmt;

/// A model that continues token ids.
pub trait Language: Send + Sync {
    /// Tokens the model knows.
    fn vocab_size(&self) -> usize;

    /// Tokens a sequence may hold.
    fn context(&self) -> usize;

    /// Writes the graph from token ids `(T)` to what the last layer says of the R rows asked for, normed: `(R, C)`.
    fn hidden<'g>(&self, g: &'g Builder) -> X<'g>;

    /// Writes what follows: logits `(R, V)`.
    fn logits<'g>(&self, g: &'g Builder, hidden: X<'g>) -> X<'g>;

    /// The graph for `tokens` tokens of which `rows` are asked for `logits` `(R, V)`, with cached attention.
    fn graph(&self, tokens: usize, rows: usize) -> Result<Graph, GraphError> {
        let g = Builder::new(tokens, rows);
        g.output("logits", self.logits(&g, self.hidden(&g)));
        g.finish()
    }

    /// The graph of whole sequences with the outputs `logits` `(T, V)` and `loss`, the mean cross entropy at the
    /// input `targets` `(T)`; negative targets are left out.
    fn training_graph(&self, tokens: usize) -> Result<Graph, GraphError> {
        let g = Builder::stateless(tokens);
        let logits = self.logits(&g, self.hidden(&g));
        let targets = g.input("targets", &[tokens], hob_graph::DType::I32);
        g.output("logits", logits);
        g.output("loss", logits.cross_entropy(targets));
        g.finish()
    }
}

/// A model whose tokens all see each other, and which writes none: it makes vectors of texts, or scores of pairs.
pub trait Encoder: Send + Sync {
    /// Tokens the model knows.
    fn vocab_size(&self) -> usize;

    /// Tokens a text may have.
    fn context(&self) -> usize;

    /// The position that a text's first token has.
    fn first_position(&self) -> usize {
        0
    }

    /// Kinds of tokens that are told apart: 2 where the second text of a pair is; 0 where there are none.
    fn types(&self) -> usize;

    /// Numbers that the classifier gives a text; 0 without one.
    fn labels(&self) -> usize;

    /// Writes the graph from token ids, their `positions` and, where there are any, `types`, each `(T)` i32, to what the
    /// last layer says of the R rows asked for: `(R, C)`.
    fn hidden<'g>(&self, g: &'g Builder) -> X<'g>;

    /// Writes the classifier, which a model with [`Encoder::labels`] has: from what is said of the first token of each
    /// text, `(R, C)`, to `(R, labels)`.
    fn scores<'g>(&self, g: &'g Builder, first: X<'g>) -> X<'g>;
}

/// A model of either kind.
pub enum Architecture {
    /// continues texts
    Language(Box<dyn Language>),
    /// makes vectors of them
    Encoder(Box<dyn Encoder>),
}

impl Architecture {
    /// Tokens the model knows.
    pub fn vocab_size(&self) -> usize {
        match self {
            Architecture::Language(m) => m.vocab_size(),
            Architecture::Encoder(m) => m.vocab_size(),
        }
    }

    /// Tokens a sequence may hold.
    pub fn context(&self) -> usize {
        match self {
            Architecture::Language(m) => m.context(),
            Architecture::Encoder(m) => m.context(),
        }
    }

    /// The graph of whole sequences of `tokens` tokens, with what the last layer says of `rows` of them as the output
    /// `hidden` `(R, C)`, and as `scores` `(R, labels)` where those of a classifier are asked for and there is one.
    pub fn encoding_graph(&self, tokens: usize, rows: usize, scores: bool) -> Result<Graph, GraphError> {
        let g = Builder::stateless(tokens).asking(rows);
        match self {
            Architecture::Language(m) => g.output("hidden", m.hidden(&g)),
            Architecture::Encoder(m) if scores && m.labels() > 0 => {
                g.output("scores", m.scores(&g, m.hidden(&g)))
            }
            Architecture::Encoder(m) => g.output("hidden", m.hidden(&g)),
        }
        g.finish()
    }
}

/// Why a configuration is none of ours.
#[derive(Clone, Debug, PartialEq)]
pub enum ConfigError {
    /// no such architecture here
    Unknown(String),
    /// known, but a field is missing, malformed or asks for what is not built
    Bad {
        /// the architecture
        model_type: String,
        /// what is wrong
        what: String,
    },
    /// an encoder, where a model that continues texts is asked for
    Encoder(String),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::Unknown(t) => {
                let known: Vec<&str> = REGISTRY.iter().map(|r| r.0).collect();
                write!(f, "the architecture {t} is not supported; {} are", known.join(", "))
            }
            ConfigError::Bad { model_type, what } => {
                write!(f, "the configuration of this {model_type}: {what}")
            }
            ConfigError::Encoder(model_type) => write!(
                f,
                "{model_type} is an encoder, which makes vectors of texts and writes none; give it to hob embed"
            ),
        }
    }
}

impl std::error::Error for ConfigError {}

type Parse = fn(&Value) -> Result<Architecture, String>;

/// A row of the registry for a model that continues texts.
macro_rules! language {
    ($parse:path) => {
        |v| Ok(Architecture::Language(Box::new($parse(v)?)))
    };
}

/// The models by `model_type`.
const REGISTRY: &[(&str, Parse)] = &[
    ("llama", language!(llama::Config::parse)),
    ("mistral", language!(llama::Config::parse)),
    ("mixtral", language!(mixtral::Config::parse)),
    ("qwen2", language!(qwen2::Config::parse)),
    ("qwen3", language!(qwen3::Config::parse)),
    ("qwen3_moe", language!(qwen3::Config::parse_moe)),
    ("gemma3_text", language!(gemma3::Config::parse)),
    ("gemma3", language!(gemma3::Config::parse)),
    ("bert", bert::Config::parse),
    ("distilbert", bert::Config::parse),
    ("roberta", bert::Config::parse),
    ("xlm-roberta", bert::Config::parse),
];

/// The model that `config` (config.json's content) describes.
pub fn model(config: &Value) -> Result<Architecture, ConfigError> {
    let model_type = config["model_type"].as_str().unwrap_or("without a model_type").to_string();
    let row = REGISTRY.iter().find(|r| r.0 == model_type);
    let (_, parse) = row.ok_or_else(|| ConfigError::Unknown(model_type.clone()))?;
    parse(config).map_err(|what| ConfigError::Bad { model_type, what })
}

/// The same, where only one that continues texts will do.
pub fn language(config: &Value) -> Result<Box<dyn Language>, ConfigError> {
    match model(config)? {
        Architecture::Language(m) => Ok(m),
        Architecture::Encoder(_) => {
            Err(ConfigError::Encoder(config["model_type"].as_str().unwrap_or_default().into()))
        }
    }
}

/// Reads `config` into a model's `Config`, or says which field is wrong.
fn read<C: serde::de::DeserializeOwned>(config: &Value) -> Result<C, String> {
    serde_json::from_value(config.clone()).map_err(|e| e.to_string())
}

/// Refuses sizes that make no model, before a graph is built from them.
fn check_sizes(sizes: &[(&str, usize)]) -> Result<(), String> {
    match sizes.iter().find(|(_, n)| *n == 0 || *n > 1 << 24) {
        Some((name, n)) => Err(format!("{name} is {n}")),
        None => Ok(()),
    }
}

/// Refuses an activation that gates by another function than these models'.
fn check_act(hidden_act: Option<&str>) -> Result<(), String> {
    match hidden_act {
        None | Some("silu") => Ok(()),
        Some(other) => Err(format!("hidden_act {other} is not supported")),
    }
}

/// Experts a layer may have at most, and all layers together where each expert has tensors of its own: a graph of more
/// would cost memory before it fails.
const MAX_EXPERTS: (u64, u64) = (4096, 1 << 16);

/// Refuses numbers of experts, in all and of a token, that make no choice; and a checkpoint that has gates and ups in one
/// tensor, as its parts would have to be copied.
fn check_experts(config: &Value) -> Result<(), String> {
    let count = |field: &str| config[field].as_u64().unwrap_or(0);
    let (experts, chosen) = (count("num_local_experts"), count("num_experts_per_tok"));
    if !(1..=MAX_EXPERTS.0).contains(&experts) || !(1..=experts).contains(&chosen) {
        return Err(format!("num_experts_per_tok is {chosen} and num_local_experts {experts}"));
    }
    if config["experts_fused"] == true {
        return Err(
            "its experts' gates and ups lie in one tensor (gate_up_proj), which is not supported; take the \
                    GGUF of this model"
                .into(),
        );
    }
    let all = experts.saturating_mul(count("num_hidden_layers"));
    if config["experts_stacked"] != true && all > MAX_EXPERTS.1 {
        return Err(format!(
            "{all} experts in tensors of their own are not supported; take the GGUF of this model"
        ));
    }
    Ok(())
}

/// Refuses what is added to a mean square before the root, where it would make no numbers of it.
fn check_eps(eps: f32) -> Result<(), String> {
    check_eps_of("rms_norm_eps", eps)
}

fn check_eps_of(field: &str, eps: f32) -> Result<(), String> {
    if (0.0..1.0).contains(&eps) { Ok(()) } else { Err(format!("{field} is {eps}")) }
}
