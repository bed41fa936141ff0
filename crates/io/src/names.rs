//! GGUF's names of tensors → the names in the original Hugging Face checkpoint.
//!
//! Facts: `gguf-py/gguf/tensor_mapping.py` of llama.cpp, and the state dicts of `transformers`.

/// The original name of the tensor stored as `stored` in a GGUF file of `architecture`; `stored` itself when the
/// architecture or the tensor has no known original, as `rope_freqs.weight`, which only GGUF has.
pub fn from_gguf(architecture: &str, stored: &str) -> String {
    original(architecture, stored).unwrap_or_else(|| stored.to_owned())
}

fn original(architecture: &str, stored: &str) -> Option<String> {
    if architecture == "bert" {
        return of_bert(stored);
    }
    let gemma = match architecture {
        "llama" | "qwen2" | "qwen3" | "qwen3moe" => false,
        "gemma3" => true,
        _ => return None,
    };
    let (stem, kind) = stored.rsplit_once('.').filter(|(_, kind)| matches!(*kind, "weight" | "bias"))?;
    let top = match stem {
        "token_embd" => Some("model.embed_tokens"),
        "output_norm" => Some("model.norm"),
        "output" => Some("lm_head"),
        _ => None,
    };
    if let Some(top) = top {
        return Some(format!("{top}.{kind}"));
    }
    let (layer, part) = stem.strip_prefix("blk.")?.split_once('.')?;
    if layer.is_empty() || !layer.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    if let Some(part) = expert(architecture, part) {
        return Some(format!("model.layers.{layer}.{part}.{kind}"));
    }
    let part = match part {
        "attn_norm" => "input_layernorm",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_output" => "self_attn.o_proj",
        "attn_q_norm" => "self_attn.q_norm",
        "attn_k_norm" => "self_attn.k_norm",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        "ffn_norm" if gemma => "pre_feedforward_layernorm",
        "ffn_norm" => "post_attention_layernorm",
        "post_attention_norm" if gemma => "post_attention_layernorm",
        "post_ffw_norm" if gemma => "post_feedforward_layernorm",
        _ => return None,
    };
    Some(format!("model.layers.{layer}.{part}.{kind}"))
}

/// GGUF calls RoBERTa bert too; of its classifier the layers are named as BERT's, which compute the same.
fn of_bert(stored: &str) -> Option<String> {
    let (stem, kind) = stored.rsplit_once('.')?;
    let top = match stem {
        "token_embd" => Some("embeddings.word_embeddings"),
        "position_embd" => Some("embeddings.position_embeddings"),
        "token_types" => Some("embeddings.token_type_embeddings"),
        "token_embd_norm" => Some("embeddings.LayerNorm"),
        "cls" => Some("pooler.dense"),
        "cls.output" => Some("classifier"),
        _ => None,
    };
    if let Some(top) = top {
        return Some(format!("{top}.{kind}"));
    }
    let (layer, part) = stem.strip_prefix("blk.")?.split_once('.')?;
    let part = match part {
        "attn_q" => "attention.self.query",
        "attn_k" => "attention.self.key",
        "attn_v" => "attention.self.value",
        "attn_output" => "attention.output.dense",
        "attn_output_norm" => "attention.output.LayerNorm",
        "ffn_up" => "intermediate.dense",
        "ffn_down" => "output.dense",
        "layer_output_norm" => "output.LayerNorm",
        _ => return None,
    };
    Some(format!("encoder.layer.{layer}.{part}.{kind}"))
}

/// The parts of a layer with experts: of Mixtral, which GGUF calls llama, and of Qwen's. A matrix holds those of all
/// experts; in older files of Mixtral each expert has its own, with a number.
fn expert(architecture: &str, part: &str) -> Option<String> {
    let (part, number) = match part.strip_suffix("_exps") {
        Some(part) => (part, None),
        None if part == "ffn_gate_inp" => (part, None),
        None => {
            let (part, number) = part.split_once('.')?;
            (part, Some(number).filter(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))?.into())
        }
    };
    let (block, names) = match architecture {
        "llama" => ("block_sparse_moe", ["w1", "w3", "w2"]),
        "qwen3moe" => ("mlp", ["gate_proj", "up_proj", "down_proj"]),
        _ => return None,
    };
    let name = match part {
        "ffn_gate_inp" => return Some(format!("{block}.gate")),
        "ffn_gate" => names[0],
        "ffn_up" => names[1],
        "ffn_down" => names[2],
        _ => return None,
    };
    let number: Option<&str> = number;
    Some(match number {
        Some(number) => format!("{block}.experts.{number}.{name}"),
        None => format!("{block}.experts.{name}"),
    })
}

/// The name that a language model's tensor has in a text-only checkpoint, when `stored` is from a multimodal one of
/// Hugging Face: `language_model.model.X` and, in newer ones, `model.language_model.X` are `model.X`.
pub fn from_multimodal(stored: &str) -> String {
    if let Some(rest) = stored.strip_prefix("language_model.") {
        rest.to_owned()
    } else if let Some(rest) = stored.strip_prefix("model.language_model.") {
        format!("model.{rest}")
    } else {
        stored.to_owned()
    }
}

/// The name that a tensor of Hugging Face has among models of `model_type`, be they stored with a head or without:
/// `bert.encoder.X` of a classifier is `encoder.X` of the bare encoder, and `layers.X` of a bare language model is
/// `model.layers.X` of the whole. Old encoders call a norm's weight and bias gamma and beta.
pub fn from_bare_or_headed(model_type: &str, stored: &str) -> String {
    match model_type {
        "bert" | "distilbert" | "roberta" | "xlm-roberta" => {
            let prefixes = ["bert.", "distilbert.", "roberta."];
            let name = prefixes.iter().find_map(|p| stored.strip_prefix(p)).unwrap_or(stored);
            for (old, new) in [(".gamma", ".weight"), (".beta", ".bias")] {
                if let Some(stem) = name.strip_suffix(old) {
                    return format!("{stem}{new}");
                }
            }
            name.to_owned()
        }
        "llama" | "mistral" | "mixtral" | "qwen2" | "qwen3" | "qwen3_moe" | "gemma3_text"
            if ["layers.", "embed_tokens.", "norm."].iter().any(|p| stored.starts_with(p)) =>
        {
            format!("model.{stored}")
        }
        _ => stored.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_originals() {
        for (architecture, stored, expected) in [
            ("llama", "token_embd.weight", "model.embed_tokens.weight"),
            ("llama", "output_norm.weight", "model.norm.weight"),
            ("llama", "output.weight", "lm_head.weight"),
            ("llama", "blk.3.attn_q.weight", "model.layers.3.self_attn.q_proj.weight"),
            ("llama", "blk.3.attn_q.bias", "model.layers.3.self_attn.q_proj.bias"),
            ("llama", "blk.12.attn_output.weight", "model.layers.12.self_attn.o_proj.weight"),
            ("llama", "blk.0.ffn_norm.weight", "model.layers.0.post_attention_layernorm.weight"),
            ("llama", "rope_freqs.weight", "rope_freqs.weight"),
            ("llama", "blk.x.attn_q.weight", "blk.x.attn_q.weight"),
            ("llama", "blk..attn_q.weight", "blk..attn_q.weight"),
            ("gemma3", "blk.0.attn_norm.weight", "model.layers.0.input_layernorm.weight"),
            ("gemma3", "blk.0.post_attention_norm.weight", "model.layers.0.post_attention_layernorm.weight"),
            ("gemma3", "blk.0.ffn_norm.weight", "model.layers.0.pre_feedforward_layernorm.weight"),
            ("gemma3", "blk.0.post_ffw_norm.weight", "model.layers.0.post_feedforward_layernorm.weight"),
            ("gemma3", "blk.0.attn_q_norm.weight", "model.layers.0.self_attn.q_norm.weight"),
            ("llama", "blk.1.ffn_gate_inp.weight", "model.layers.1.block_sparse_moe.gate.weight"),
            ("llama", "blk.1.ffn_gate_exps.weight", "model.layers.1.block_sparse_moe.experts.w1.weight"),
            ("llama", "blk.1.ffn_up_exps.weight", "model.layers.1.block_sparse_moe.experts.w3.weight"),
            ("llama", "blk.1.ffn_down.7.weight", "model.layers.1.block_sparse_moe.experts.7.w2.weight"),
            ("llama", "blk.1.ffn_down.x.weight", "blk.1.ffn_down.x.weight"),
            ("qwen2", "blk.0.attn_k.bias", "model.layers.0.self_attn.k_proj.bias"),
            ("qwen3", "blk.0.attn_k_norm.weight", "model.layers.0.self_attn.k_norm.weight"),
            ("qwen3", "blk.0.ffn_gate_exps.weight", "blk.0.ffn_gate_exps.weight"),
            ("qwen3moe", "blk.0.ffn_gate_inp.weight", "model.layers.0.mlp.gate.weight"),
            ("qwen3moe", "blk.0.ffn_down_exps.weight", "model.layers.0.mlp.experts.down_proj.weight"),
            ("bert", "token_embd_norm.bias", "embeddings.LayerNorm.bias"),
            ("bert", "blk.4.attn_output_norm.weight", "encoder.layer.4.attention.output.LayerNorm.weight"),
            ("bert", "blk.4.ffn_up.bias", "encoder.layer.4.intermediate.dense.bias"),
            ("bert", "cls.output.weight", "classifier.weight"),
            ("unheard-of", "blk.0.attn_q.weight", "blk.0.attn_q.weight"),
        ] {
            assert_eq!(from_gguf(architecture, stored), expected);
        }
        assert_eq!(from_multimodal("language_model.model.norm.weight"), "model.norm.weight");
        assert_eq!(from_multimodal("model.language_model.norm.weight"), "model.norm.weight");
        assert_eq!(from_multimodal("vision_tower.x"), "vision_tower.x");
        for (model_type, stored, expected) in [
            (
                "bert",
                "bert.encoder.layer.0.output.LayerNorm.gamma",
                "encoder.layer.0.output.LayerNorm.weight",
            ),
            ("bert", "embeddings.LayerNorm.beta", "embeddings.LayerNorm.bias"),
            ("xlm-roberta", "roberta.embeddings.x", "embeddings.x"),
            ("roberta", "classifier.out_proj.weight", "classifier.out_proj.weight"),
            ("qwen3", "layers.0.x", "model.layers.0.x"),
            ("qwen3", "model.layers.0.x", "model.layers.0.x"),
            ("unheard-of", "layers.0.x", "layers.0.x"),
        ] {
            assert_eq!(from_bare_or_headed(model_type, stored), expected);
        }
    }
}
