//! One file per architecture, and the registry.
//!
//! A model file states mathematics, in the names of the original checkpoint. What it does not know: formats,
//! devices, caches, adapters, training. Adding an architecture is its file, one row here and one golden.

pub mod gemma3;
pub mod llama;
pub mod mixtral;
pub mod qwen2;
pub mod qwen3;
pub mod rope;
pub mod tae;

use hob_graph::{Builder, Graph, GraphError};
use serde_json::Value;
use std::fmt;

/// A model that continues token ids.
pub trait Language: Send + Sync {
    /// Tokens the model knows.
    fn vocab_size(&self) -> usize;

    /// Tokens a sequence may hold.
    fn context(&self) -> usize;

    /// Writes the graph: token ids `(T)` to an output `logits` `(R, V)` for the R rows asked for.
    fn build(&self, g: &Builder);

    /// The graph for `tokens` tokens of which `rows` are asked for logits, with cached attention.
    fn graph(&self, tokens: usize, rows: usize) -> Result<Graph, GraphError> {
        let g = Builder::new(tokens, rows);
        self.build(&g);
        g.finish()
    }

    /// The graph of whole sequences with the outputs `logits` `(T, V)` and `loss`, the mean cross entropy at the
    /// input `targets` `(T)`; negative targets are left out.
    fn training_graph(&self, tokens: usize) -> Result<Graph, GraphError> {
        let g = Builder::stateless(tokens);
        self.build(&g);
        let graph = g.finish()?;
        let logits = graph.output("logits").expect("a language model has logits");
        let g = Builder::over(graph);
        let targets = g.input("targets", &[tokens], hob_graph::DType::I32);
        g.output("loss", g.at(logits).cross_entropy(targets));
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
        }
    }
}

impl std::error::Error for ConfigError {}

type Parse = fn(&Value) -> Result<Box<dyn Language>, String>;

/// The language models by `model_type`.
const REGISTRY: &[(&str, Parse)] = &[
    ("llama", |v| Ok(Box::new(llama::Config::parse(v)?))),
    ("mistral", |v| Ok(Box::new(llama::Config::parse(v)?))),
    ("mixtral", |v| Ok(Box::new(mixtral::Config::parse(v)?))),
    ("qwen2", |v| Ok(Box::new(qwen2::Config::parse(v)?))),
    ("qwen3", |v| Ok(Box::new(qwen3::Config::parse(v)?))),
    ("qwen3_moe", |v| Ok(Box::new(qwen3::Config::parse_moe(v)?))),
    ("gemma3_text", |v| Ok(Box::new(gemma3::Config::parse(v)?))),
    ("gemma3", |v| Ok(Box::new(gemma3::Config::parse(v)?))),
];

/// The language model that `config` (config.json's content) describes.
pub fn language(config: &Value) -> Result<Box<dyn Language>, ConfigError> {
    let model_type = config["model_type"].as_str().unwrap_or("without a model_type").to_string();
    let row = REGISTRY.iter().find(|r| r.0 == model_type);
    let (_, parse) = row.ok_or_else(|| ConfigError::Unknown(model_type.clone()))?;
    parse(config).map_err(|what| ConfigError::Bad { model_type, what })
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
    if (0.0..1.0).contains(&eps) { Ok(()) } else { Err(format!("rms_norm_eps is {eps}")) }
}
