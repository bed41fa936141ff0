//! Real language models' shapes: enough to build their graphs and plan them, without a weight.
//!
//! `zoo.json` holds what each model's config.json says of its shape, in the names of `hob_models`. Shapes were read from
//! the configurations in litgpt, mlc-llm and other public repositories; each is held to the published count of
//! parameters by the tests. A row whose architecture is not built here yet is left out by [`built`], and comes with it.

use std::path::Path;
use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::near::{near, plain};

/// A model's shape.
#[derive(Debug, Deserialize)]
pub struct Row {
    /// What a person types, such as `llama-3.1-8b`.
    pub name: String,
    /// What it is called.
    pub title: String,
    /// Its family, such as `Llama 3`.
    pub family: String,
    /// Its licence.
    pub licence: String,
    /// The original checkpoint on the hub, `owner/repository`.
    pub checkpoint: String,
    /// A well-known repository of its GGUF files.
    pub gguf: String,
    /// Year and month of its release.
    pub released: String,
    /// Parameters as published; of a model that also sees, those of the language part.
    pub parameters: u64,
    /// Parameters that take part in one token, as published: fewer than all where there are experts.
    pub active: u64,
    /// Tokens it is published for.
    pub context: usize,
    /// Bytes of its GGUF files beside the weights, closely: the tokenizer, the template and the list of tensors.
    pub tokenizer_bytes: u64,
    /// config.json, as far as it says something about the shape.
    pub config: Value,
}

impl Row {
    /// The configuration as a checkpoint's own config.json is read, with the defaults that its architecture assumes.
    pub fn read(&self) -> Value {
        let read = hob_io::config::from_hugging_face(self.config.clone(), Path::new("zoo.json"));
        let mut config = read.expect("the rows are tested");
        config["experts_stacked"] = true.into(); // as GGUF stores them, in which they are planned
        config
    }
}

/// All rows, by size.
pub fn rows() -> &'static [Row] {
    static ROWS: OnceLock<Vec<Row>> = OnceLock::new();
    ROWS.get_or_init(|| serde_json::from_str(include_str!("zoo.json")).expect("the rows are tested"))
}

/// The rows whose architecture is built here, by size.
pub fn built() -> impl Iterator<Item = &'static Row> {
    rows().iter().filter(|row| hob_engine::is_known(&row.read()))
}

/// The row that `text` names, in any spelling: by its name, or by the last part of one of its repositories.
/// Errors name rows that are near.
pub fn find(text: &str) -> Result<&'static Row> {
    let wanted = plain(text.rsplit('/').next().unwrap_or(text));
    let names = |row: &Row| {
        let last = |repository: &str| plain(repository.rsplit('/').next().unwrap_or_default());
        [plain(&row.name), last(&row.checkpoint), last(&row.gguf)]
    };
    if let Some(row) = rows().iter().find(|row| names(row).contains(&wanted)) {
        return Ok(row);
    }
    let guesses = near(&wanted, rows().iter().map(|row| (plain(&row.name), row.name.as_str())));
    let advice = if guesses.is_empty() {
        "hob fit alone lists those it knows".to_owned()
    } else {
        format!("near it are {}", guesses.join(", "))
    };
    Err(Error::new(format!("no model called {text} is known here; {advice}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hob_engine::{DType, Outline};
    use std::collections::HashSet;

    /// Parameters by formula, `(all, those that one token uses)`: what the graph must agree with, and what holds rows
    /// whose architecture is not built yet.
    fn count(c: &Value) -> (u64, u64) {
        let n = |field: &str| c[field].as_u64().unwrap_or(0);
        let kind = c["model_type"].as_str().unwrap();
        let (h, d) = (n("hidden_size"), n("head_dim"));
        let (q, kv) = (n("num_attention_heads") * d, n("num_key_value_heads") * d);
        let biases = if kind == "qwen2" { q + 2 * kv } else { 0 };
        let head_norms = if matches!(kind, "qwen3" | "qwen3_moe" | "gemma3_text") { 2 * d } else { 0 };
        let norms = if kind == "gemma3_text" { 4 * h } else { 2 * h };
        let experts = n("num_experts") + n("num_local_experts");
        let expert = 3
            * h
            * if n("moe_intermediate_size") > 0 {
                n("moe_intermediate_size")
            } else {
                n("intermediate_size")
            };
        let used = n("num_experts_per_tok").max(1);
        let (all, active) = if experts > 0 {
            (experts * expert + experts * h, used * expert + experts * h)
        } else {
            (expert, expert)
        };
        let tables = n("vocab_size") * h * if c["tie_word_embeddings"] == true { 1 } else { 2 };
        let layer = 2 * h * q + 2 * h * kv + biases + head_norms + norms;
        let sum = |mlp: u64| n("num_hidden_layers") * (layer + mlp) + h + tables;
        (sum(all), sum(active))
    }

    #[test]
    fn formulas_give_the_published_counts() {
        for row in rows() {
            let (all, active) = count(&row.config);
            assert_eq!(all, row.parameters, "{}", row.name);
            // Active parameters are published in round numbers.
            let off = active as f64 / row.active as f64 - 1.0;
            assert!(off.abs() < 0.025, "{}: {active} active, {} published", row.name, row.active);
        }
    }

    #[test]
    fn graphs_hold_the_published_counts() {
        let mut built_rows = 0;
        for row in built() {
            let outline = Outline::imagined(&row.name, &row.read(), 0, |_, _| DType::F32);
            let graph = outline.and_then(|o| o.graph(1, 1)).unwrap_or_else(|e| panic!("{e}"));
            let counted: u64 = graph.weights.iter().map(|w| w.shape.count() as u64).sum();
            let off = counted as f64 / row.parameters as f64 - 1.0;
            assert!(off.abs() < 0.005, "{}: {counted} counted, {} published", row.name, row.parameters);
            built_rows += 1;
        }
        assert!(built_rows >= 15, "{built_rows} rows are built");
    }

    #[test]
    fn rows_are_sound() {
        let unique: HashSet<String> = rows().iter().map(|row| plain(&row.name)).collect();
        assert_eq!(unique.len(), rows().len());
        assert!(rows().is_sorted_by_key(|row| row.parameters));
        for row in rows() {
            assert!(row.checkpoint.matches('/').count() == 1 && row.gguf.matches('/').count() == 1);
            assert!(row.active <= row.parameters && row.context >= 8192, "{}", row.name);
            let (year, month) = row.released.split_once('-').unwrap();
            assert!(
                (2023..2027).contains(&year.parse().unwrap()) && (1..13).contains(&month.parse().unwrap())
            );
        }
    }

    #[test]
    fn rows_are_found_in_any_spelling() {
        for text in ["llama-3.1-8b", "Llama 3.1 8B", "meta-llama/Llama-3.1-8B-Instruct"] {
            assert_eq!(find(text).unwrap().name, "llama-3.1-8b");
        }
        let e = find("llama-3.1-9b").unwrap_err().to_string();
        assert!(e.contains("near it are llama-3.1-8b"), "{e}");
        assert!(find("abacus").unwrap_err().to_string().contains("hob fit alone"));
    }
}
