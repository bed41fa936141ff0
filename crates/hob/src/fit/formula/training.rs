//! Tuning a language model by LoRA (Hu et al. 2021) over weights that stay as they are, in 16 bits or in 4 (QLoRA).

use serde_json::Value;

use super::super::quants::Facts;
use super::super::zoo;
use super::{Kind, OVERHEAD, Phase, Precision, Row, Variant};

/// How a model is tuned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lora {
    /// format of the weights that stay; embedding and output keep 16 bits
    pub precision: Precision,
    /// rank of the adapters, one on every linear layer
    pub rank: usize,
    /// tokens in one step: batch times context
    pub tokens: usize,
}

/// What tuning the model of `config` (config.json's content) takes, with AdamW in f32 on the adapters
/// (weight, gradient and two moments: 16 bytes each), checkpoints after every layer, and losses taken 256 tokens at a time:
/// - a layer's input for every token, kept for the way back;
/// - of the layer that is computed again, its intermediate results and their gradients: in 16 bits, per token
///   2·2·(4·hidden + 2·keys + 3·inner).
///
/// `least_bytes` keeps the checkpoints in the machine's memory. `None` where the sizes are not given or there are experts.
pub fn lora(config: &Value, how: Lora) -> Option<Variant> {
    if Facts::of(config).experts > 0 {
        return None;
    }
    let n = |field: &str| config[field].as_u64().map(|n| n as f64);
    let (h, inner, layers) = (n("hidden_size")?, n("intermediate_size")?, n("num_hidden_layers")?);
    let (heads, vocab) = (n("num_attention_heads")?, n("vocab_size")?);
    let d = n("head_dim").unwrap_or(h / heads);
    let (q, kv) = (heads * d, n("num_key_value_heads").unwrap_or(heads) * d);
    let linear = layers * (2.0 * h * q + 2.0 * h * kv + 3.0 * h * inner);
    let tables = if config["tie_word_embeddings"] == true { vocab * h } else { 2.0 * vocab * h };
    let adapters = layers * how.rank as f64 * (2.0 * (h + q) + 2.0 * (h + kv) + 3.0 * (h + inner));
    let weights = how.precision.bytes(linear) + Precision::Bf16.bytes(tables) + (adapters * 16.0) as u64;

    let tokens = how.tokens as f64;
    let checkpoints = (layers * tokens * h * 2.0) as u64;
    let layer = (tokens * 4.0 * (4.0 * h + 2.0 * kv + 3.0 * inner)) as u64;
    let loss = (tokens.min(256.0) * vocab * 6.0) as u64; // logits in 16 bits and their gradients in f32
    let activations = checkpoints + layer + loss;
    let phase = Phase {
        name: "step",
        weights_bytes: weights,
        activation_bytes: activations,
        streamed_bytes: weights,
    };
    Some(Variant {
        least_bytes: weights + layer + loss + OVERHEAD,
        ..Variant::of(how.precision, vec![phase])
    })
}

/// Rank and tokens that people begin with.
const RANK: usize = 16;
const TOKENS: usize = 2048;

const SOURCE: &str =
    "LoRA and QLoRA by formula; within a tenth of torchtune's and Unsloth's measurements of Llama 3.1 8B";

pub(super) fn rows() -> Vec<Row> {
    let rows = [
        ("tune-llama-3.2-1b", "Llama 3.2 1B tuned", "llama-3.2-1b"),
        ("tune-llama-3.2-3b", "Llama 3.2 3B tuned", "llama-3.2-3b"),
        ("tune-qwen2.5-7b", "Qwen2.5 7B tuned", "qwen2.5-7b"),
        ("tune-llama-3.1-8b", "Llama 3.1 8B tuned", "llama-3.1-8b"),
        ("tune-qwen3-14b", "Qwen3 14B tuned", "qwen3-14b"),
    ];
    let row = |(name, title, model): (&'static str, &'static str, &str)| {
        let model = zoo::rows().iter().find(|row| row.name == model).expect("it is in the catalogue");
        let how = |precision| Lora { precision, rank: RANK, tokens: TOKENS };
        let variants =
            [Precision::Bf16, Precision::Nf4].map(|p| lora(&model.config, how(p)).expect("sizes are given"));
        Row {
            name,
            title,
            kind: Kind::Training,
            setting: format!("LoRA of rank {RANK}, {TOKENS} tokens a step"),
            parameters: model.parameters,
            variants: variants.into(),
            // Forward, again for the checkpoints, and back to the activations: weights that stay have no gradients.
            tflop_per_step: 6.0 * model.parameters as f64 * TOKENS as f64 / 1e12,
            tflop_once: 0.0,
            steps: 1,
            source: SOURCE,
        }
    };
    rows.map(row).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: f64 = (1u64 << 30) as f64;

    fn llama(precision: Precision, rank: usize, tokens: usize) -> Variant {
        lora(&zoo::find("llama-3.1-8b").unwrap().config, Lora { precision, rank, tokens }).unwrap()
    }

    /// torchtune's peaks for Llama 3.1 8B, rank 8, 2 × 2,048 tokens, which count no context: 16.2 and 7.4 GiB.
    #[test]
    fn torchtunes_measurements_are_met() {
        for (precision, measured) in [(Precision::Bf16, 16.2), (Precision::Nf4, 7.4)] {
            let v = llama(precision, 8, 4096);
            let ours = (v.total_bytes - v.overhead_bytes) as f64 / GIB;
            assert!((ours / measured - 1.0).abs() < 0.1, "{ours} GiB, {measured} measured");
        }
    }

    /// Unsloth's longest contexts of an 8B in 4 bits with checkpoints in the machine's memory: 2,972 tokens in 8 GB,
    /// 21,848 in 12 and 78,475 in 24.
    #[test]
    fn unsloths_contexts_are_met() {
        for (gib, tokens) in [(8.0, 2972), (12.0, 21_848), (24.0, 78_475)] {
            let ours = llama(Precision::Nf4, 32, tokens).least_bytes as f64 / GIB;
            assert!((ours / gib - 1.0).abs() < 0.12, "{ours} GiB for {tokens} tokens, {gib} in use");
        }
    }

    #[test]
    fn experts_are_not_planned_by_this_formula() {
        let how = Lora { precision: Precision::Nf4, rank: 8, tokens: 1024 };
        assert_eq!(lora(&zoo::find("mixtral-8x7b").unwrap().config, how), None);
    }

    /// LLaMA-Factory's table for a 7B: 16 GB in 16 bits, 6 GB in 4.
    #[test]
    fn a_7b_takes_what_is_said() {
        let config = &zoo::find("mistral-7b-v0.3").unwrap().config;
        for (precision, gb) in [(Precision::Bf16, 16.0), (Precision::Nf4, 6.0)] {
            let v = lora(config, Lora { precision, rank: 8, tokens: 1024 }).unwrap();
            let ours = v.total_bytes as f64 / 1e9;
            assert!((ours / gb - 1.0).abs() < 0.15, "{ours} GB, {gb} said");
        }
    }
}
