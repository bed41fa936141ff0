//! A model's configuration under the names of Hugging Face's `config.json`, whatever it is read from.
//!
//! Two fields are ours, and say how a checkpoint *stores* what all state alike:
//! - `rope_interleaved`: the rows of q and k lie so that rotated pairs are neighbours (llama.cpp's converter permutes them
//!   for the architecture `llama`); otherwise a pair is half a head apart, as at Hugging Face.
//! - `norm_weight_offset`: added to the weights of the RMS norms. Gemma multiplies by `1 + w`: 1.0 from Hugging Face, but
//!   0.0 from GGUF, whose converter has added the 1 already.
//!
//! And `experts_stacked: true` where one tensor has the matrices of all experts, as in GGUF; `experts_fused: true` where it
//! has their gates and ups too.
//!
//! `embedding` says how vectors are made of texts: `pooling` (`mean`, `cls` or `last`), `normalize`, `max_seq_length`; each
//! where the model states it. `num_labels` is there where there is a classifier, and only there.
//!
//! And `rope_freqs: true` when GGUF brings the tensor `rope_freqs.weight`: Llama 3's frequency factors.

use crate::{Error, Gguf, Result, gguf::Value as Meta};
use serde_json::{Map, Value, json};
use std::path::Path;

/// No model is near it; a damaged number must not make us list layers without end.
const MAX_LAYERS: u64 = 100_000;

/// The configuration of a GGUF model, from its metadata and tensors.
///
/// What the metadata do not say is absent, unless the architecture fixes it. Architectures unknown here get the fields
/// that all share. Errors: the architecture is not named, or the number of layers is absurd.
pub fn from_gguf(gguf: &Gguf) -> Result<Value> {
    let Some(architecture) = gguf.architecture() else {
        return Err(Error::damaged(
            gguf.path(),
            "its metadata do not name the architecture (general.architecture)",
        ));
    };
    let meta = |key: &str| gguf.get(&format!("{architecture}.{key}"));
    let layers = meta("block_count").and_then(Meta::u64);
    if layers.is_some_and(|n| n > MAX_LAYERS) {
        return Err(Error::damaged(
            gguf.path(),
            format!("{architecture}.block_count is beyond {MAX_LAYERS}"),
        ));
    }
    let mut config = Map::new();
    let has_experts = meta("expert_count").and_then(Meta::u64).is_some_and(|n| n > 0);
    let model_type = match architecture {
        "gemma3" => "gemma3_text",
        "llama" if has_experts => "mixtral",
        "qwen3moe" => "qwen3_moe",
        other => other,
    };
    config.insert("model_type".into(), model_type.into());
    for (key, field) in [
        ("block_count", "num_hidden_layers"),
        ("embedding_length", "hidden_size"),
        ("feed_forward_length", "intermediate_size"),
        ("attention.head_count", "num_attention_heads"),
        ("attention.head_count_kv", "num_key_value_heads"),
        ("attention.key_length", "head_dim"),
        ("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
        ("attention.layer_norm_epsilon", "layer_norm_eps"),
        ("attention.sliding_window", "sliding_window"),
        ("context_length", "max_position_embeddings"),
        ("rope.freq_base", "rope_theta"),
        ("rope.freq_base_swa", "rope_local_base_freq"),
        // Ollama's converter names Gemma's two bases so.
        ("rope.global.freq_base", "rope_theta"),
        ("rope.local.freq_base", "rope_local_base_freq"),
        ("attn_logit_softcapping", "attn_logit_softcapping"),
        ("final_logit_softcapping", "final_logit_softcapping"),
        ("expert_count", "num_local_experts"),
        ("expert_used_count", "num_experts_per_tok"),
        ("expert_feed_forward_length", "moe_intermediate_size"),
    ] {
        let value = meta(key);
        if let Some(Meta::F64(x)) = value
            && !x.is_finite()
        {
            return Err(Error::damaged(gguf.path(), format!("its {architecture}.{key} is {x}")));
        }
        if let Some(value) = value.and_then(number) {
            config.insert(field.into(), value);
        }
    }

    // The embedding's rows are the vocabulary that the model computes with; the list of tokens may be shorter.
    let rows = gguf.tensor("token_embd.weight").and_then(|t| t.shape.first().copied());
    let tokens = gguf.get("tokenizer.ggml.tokens").and_then(Meta::array).map(|a| a.len());
    let stated = meta("vocab_size").and_then(Meta::u64);
    if let Some(n) = rows.or(tokens).map(|n| n as u64).or(stated) {
        config.insert("vocab_size".into(), n.into());
    }
    let heads = int(&config, "num_attention_heads");
    if let Some(scaling) = rope_scaling(&meta) {
        config.insert("rope_scaling".into(), scaling);
    }
    let has = |name: &str| gguf.tensor(name).is_some();
    config.insert("tie_word_embeddings".into(), (!has("output.weight")).into());
    config.insert("attention_bias".into(), has("blk.0.attn_q.bias").into());
    config.insert("mlp_bias".into(), has("blk.0.ffn_up.bias").into());
    config.insert("rope_freqs".into(), has("rope_freqs.weight").into());
    config.insert("rope_interleaved".into(), (architecture == "llama").into());
    config.insert("norm_weight_offset".into(), json!(0.0));
    if has_experts {
        // Older files have a tensor for each expert.
        config.insert("experts_stacked".into(), (!has("blk.0.ffn_gate.0.weight")).into());
        // GGUF does not say so, and llama.cpp does it for every model of these architectures.
        config.insert("norm_topk_prob".into(), true.into());
        if architecture == "qwen3moe" {
            let dense = |i: &u64| has(&format!("blk.{i}.ffn_gate.weight"));
            let dense = (0..layers.unwrap_or(0)).filter(dense).collect::<Vec<_>>();
            config.insert("mlp_only_layers".into(), dense.into());
        }
    }
    for name in ["bos", "eos", "eot", "padding"] {
        if let Some(id) = gguf.get(&format!("tokenizer.ggml.{name}_token_id")).and_then(Meta::u64) {
            let field = if name == "padding" { "pad_token_id".into() } else { format!("{name}_token_id") };
            config.insert(field, id.into());
        }
    }
    let pooling = match meta("pooling_type").and_then(Meta::u64) {
        Some(1) => Some("mean"),
        Some(2) => Some("cls"),
        Some(3) => Some("last"),
        _ => None,
    };
    if let Some(pooling) = pooling {
        config.insert("embedding".into(), json!({ "pooling": pooling }));
    }
    if architecture == "bert" {
        // Rows count, as RoBERTa's first ones are cut off; a single kind of tokens is stored as a row alone.
        let rows =
            |name: &str| Some(gguf.tensor(name)?).map(|t| if t.shape.len() == 2 { t.shape[0] } else { 1 });
        let tables = [
            ("position_embd.weight", "max_position_embeddings"),
            ("token_types.weight", "type_vocab_size"),
            ("cls.output.weight", "num_labels"),
        ];
        for (name, field) in tables {
            if let Some(rows) = rows(name) {
                config.insert(field.into(), rows.into());
            }
        }
    }
    if architecture == "gemma3" {
        let pattern = meta("attention.sliding_window_pattern");
        if let Some(period) = pattern.and_then(Meta::u64) {
            config.insert("sliding_window_pattern".into(), period.into());
        } else if let Some(sliding) = pattern.and_then(Meta::array).and_then(|a| a.bools()) {
            let types = sliding.map(|s| if s { "sliding_attention" } else { "full_attention" });
            config.insert("layer_types".into(), types.collect());
        }
        // As in llama.cpp: the 27B model alone, known by its 62 layers, scales by the width of the model per head.
        if let (Some(62), Some(hidden), Some(heads)) = (layers, int(&config, "hidden_size"), heads)
            && let Some(scalar) = hidden.checked_div(heads)
        {
            config.insert("query_pre_attn_scalar".into(), scalar.into());
        }
    }
    fill_defaults(&mut config);
    if let (Some(rotated), Some(head)) =
        (meta("rope.dimension_count").and_then(Meta::u64), int(&config, "head_dim"))
        && rotated < head
    {
        config.insert("partial_rotary_factor".into(), json!(rotated as f64 / head as f64));
    }
    Ok(Value::Object(config))
}

/// The configuration in a Hugging Face `config.json`, completed: the language part of a multimodal one, rope parameters
/// under their older names, the defaults that `transformers` assumes, and the fields of this module.
///
/// Errors: `json` is no object, or the number of layers is absurd; `path` is for them.
pub fn from_hugging_face(json: Value, path: &Path) -> Result<Value> {
    let Value::Object(mut config) = json else {
        return Err(Error::damaged(path, "it is no JSON object"));
    };
    if is_multimodal(&config)
        && let Some(Value::Object(text)) = config.remove("text_config")
    {
        let outer = std::mem::replace(&mut config, text);
        for (key, value) in outer {
            if key.ends_with("_token_id") || key == "tie_word_embeddings" {
                config.entry(key).or_insert(value);
            }
        }
        config.entry("model_type").or_insert("gemma3_text".into());
    }
    if int(&config, "num_hidden_layers").is_some_and(|n| n > MAX_LAYERS) {
        return Err(Error::damaged(path, format!("num_hidden_layers is beyond {MAX_LAYERS}")));
    }
    flatten_rope_parameters(&mut config);
    let gemma = config.get("model_type").and_then(Value::as_str).is_some_and(|t| t.starts_with("gemma"));
    config.insert("rope_interleaved".into(), false.into());
    config.insert("norm_weight_offset".into(), json!(if gemma { 1.0 } else { 0.0 }));
    config.insert("rope_freqs".into(), false.into());
    label(&mut config);
    fill_defaults(&mut config);
    Ok(Value::Object(config))
}

/// `num_labels`, where the architecture has a classifier: as many as have names, or 2.
fn label(config: &mut Map<String, Value>) {
    let classifies = |name: &Value| name.as_str().is_some_and(|n| n.ends_with("ForSequenceClassification"));
    let stated = config.remove("num_labels");
    let architectures = config.get("architectures").and_then(Value::as_array);
    if architectures.is_some_and(|a| a.iter().any(classifies)) {
        let named = config.get("id2label").and_then(Value::as_object).map(|names| names.len().into());
        config.insert("num_labels".into(), named.or(stated).unwrap_or(2.into()));
    }
}

/// Whether a `config.json` holds its language model's part in `text_config`.
pub(crate) fn is_multimodal(config: &Map<String, Value>) -> bool {
    config.get("model_type").and_then(Value::as_str) == Some("gemma3") && config.contains_key("text_config")
}

fn int(config: &Map<String, Value>, field: &str) -> Option<u64> {
    config.get(field).and_then(Value::as_u64)
}

/// A number, or a list of them (some architectures give one for each layer; equal ones become a single number).
fn number(value: Meta) -> Option<Value> {
    Some(match value {
        Meta::U64(n) => n.into(),
        Meta::I64(n) => n.into(),
        Meta::F64(x) => float(x),
        Meta::Array(list) => {
            if list.len() as u64 > MAX_LAYERS {
                return None;
            }
            let list: Vec<i64> = list.ints()?.collect();
            let first = *list.first()?;
            if list.iter().all(|&n| n == first) { first.into() } else { list.into() }
        }
        _ => return None,
    })
}

/// A float that was stored with 32 bits, as the decimal that a person wrote: 1e-5, not 0.00000999999974….
fn float(x: f64) -> Value {
    let short = if x as f32 as f64 == x { (x as f32).to_string().parse().unwrap_or(x) } else { x };
    json!(short)
}

fn rope_scaling<'a>(meta: &impl Fn(&str) -> Option<Meta<'a>>) -> Option<Value> {
    let get = |key: &str| meta(&format!("rope.scaling.{key}"));
    // Before `rope.scaling.*` there was one key for linear scaling.
    let factor = get("factor").or_else(|| meta("rope.scale_linear")).and_then(Meta::f64);
    let kind = match get("type").and_then(Meta::str) {
        Some(kind) => kind,
        None if factor.is_some_and(|f| f != 0.0 && f != 1.0) => "linear",
        None => return None,
    };
    if kind == "none" {
        return None;
    }
    let mut scaling = Map::new();
    scaling.insert("rope_type".into(), kind.into());
    if let Some(factor) = factor {
        scaling.insert("factor".into(), float(factor));
    }
    for (key, field) in [
        ("original_context_length", "original_max_position_embeddings"),
        ("attn_factor", "attention_factor"),
        ("yarn_beta_fast", "beta_fast"),
        ("yarn_beta_slow", "beta_slow"),
    ] {
        if let Some(value) = get(key).and_then(number) {
            scaling.insert(field.into(), value);
        }
    }
    Some(Value::Object(scaling))
}

/// transformers 5 writes `rope_parameters`, for Gemma one for each type of layer; older versions, and we, write
/// `rope_theta`, `rope_scaling` and `rope_local_base_freq`.
fn flatten_rope_parameters(config: &mut Map<String, Value>) {
    let Some(Value::Object(mut parameters)) = config.remove("rope_parameters") else { return };
    if let Some(local) = parameters.get("sliding_attention").and_then(|p| p.get("rope_theta")).cloned() {
        config.entry("rope_local_base_freq").or_insert(local);
    }
    if let Some(Value::Object(full)) = parameters.remove("full_attention") {
        parameters = full;
    }
    if let Some(theta) = parameters.remove("rope_theta") {
        config.entry("rope_theta").or_insert(theta);
    }
    if parameters.get("rope_type").and_then(Value::as_str).is_some_and(|t| t != "default") {
        config.entry("rope_scaling").or_insert(Value::Object(parameters));
    }
}

/// What a folder of sentence-transformers says of its model: the contents of `modules.json`, of a module's
/// `config.json` (by its path), and of `sentence_bert_config.json`. As [`embedding`](self) of a configuration; an error is
/// a module that is not known here.
pub fn sentence_transformers(
    modules: &Value,
    module: impl Fn(&str) -> Result<Option<Value>>,
    transformer: &Value,
) -> Result<Value> {
    let mut out = Map::new();
    out.insert("normalize".into(), false.into());
    if let Some(most) = transformer["max_seq_length"].as_u64() {
        out.insert("max_seq_length".into(), most.into());
    }
    for entry in modules.as_array().into_iter().flatten() {
        let kind = entry["type"].as_str().unwrap_or_default().rsplit('.').next().unwrap_or_default();
        match kind {
            "Transformer" => {}
            "Normalize" => drop(out.insert("normalize".into(), true.into())),
            "Pooling" => {
                let folder = entry["path"].as_str().unwrap_or_default();
                if folder.starts_with('/') || folder.split(['/', '\\']).any(|part| part == "..") {
                    out.insert("unsupported".into(), "a module outside of its folder".into());
                    continue;
                }
                let pooling = module(&format!("{folder}/config.json"))?.unwrap_or_default();
                let modes = [("cls_token", "cls"), ("mean_tokens", "mean"), ("lasttoken", "last")];
                let is = |mode: &str| pooling[format!("pooling_mode_{mode}")] == true;
                let also = ["max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens"];
                let mut named = modes.iter().filter(|(mode, _)| is(mode)).map(|m| m.1);
                match (named.next(), named.next(), also.into_iter().find(|mode| is(mode))) {
                    (Some(one), None, None) => drop(out.insert("pooling".into(), one.into())),
                    (None, None, None) => {}
                    _ => drop(out.insert("unsupported".into(), "more than mean, CLS or last pooling".into())),
                }
            }
            other => drop(out.insert("unsupported".into(), format!("the module {other}").into())),
        }
    }
    Ok(Value::Object(out))
}

/// Completes a configuration with what its architecture fixes, or `transformers` assumes when `config.json` is silent
/// (`configuration_llama.py`, `configuration_gemma3.py` and so on).
fn fill_defaults(config: &mut Map<String, Value>) {
    // An explicit null is silence too.
    config.retain(|key, value| !value.is_null() || key == "sliding_window");
    // Two names of one number, by the version of transformers.
    if let Some(n) = config.remove("num_experts") {
        config.entry("num_local_experts").or_insert(n);
    }
    // DistilBERT has names of its own for what all have.
    for (own, field) in [
        ("dim", "hidden_size"),
        ("hidden_dim", "intermediate_size"),
        ("n_layers", "num_hidden_layers"),
        ("n_heads", "num_attention_heads"),
        ("activation", "hidden_act"),
    ] {
        if config.get("model_type").and_then(Value::as_str) == Some("distilbert")
            && let Some(value) = config.remove(own)
        {
            config.entry(field).or_insert(value);
        }
    }
    let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut default = |field: &str, value: Value| {
        config.entry(field).or_insert(value);
    };
    match model_type.as_str() {
        "llama" | "mistral" => {
            default("hidden_act", "silu".into());
            default("rms_norm_eps", json!(1e-6));
            default("rope_theta", json!(10000.0));
            default("tie_word_embeddings", false.into());
            default("attention_bias", false.into());
            default("mlp_bias", false.into());
        }
        "mixtral" => {
            default("hidden_act", "silu".into());
            default("rms_norm_eps", json!(1e-5));
            default("rope_theta", json!(1e6));
            default("tie_word_embeddings", false.into());
        }
        "qwen2" | "qwen3" | "qwen3_moe" => {
            default("hidden_act", "silu".into());
            default("rms_norm_eps", json!(1e-6));
            default("rope_theta", json!(10000.0));
            default("tie_word_embeddings", false.into());
            default("use_sliding_window", false.into());
            default("attention_bias", (model_type == "qwen2").into());
            if model_type == "qwen3" {
                default("head_dim", 128.into());
            }
            if model_type == "qwen3_moe" {
                default("norm_topk_prob", false.into());
                default("decoder_sparse_step", 1.into());
                default("mlp_only_layers", json!([]));
            }
        }
        "bert" | "distilbert" | "roberta" | "xlm-roberta" => {
            default("hidden_act", "gelu".into());
            default("layer_norm_eps", json!(1e-12));
            default("max_position_embeddings", 512.into());
            default("type_vocab_size", if model_type == "distilbert" { 0 } else { 2 }.into());
        }
        "gemma3_text" => {
            default("hidden_activation", "gelu_pytorch_tanh".into());
            default("vocab_size", 262_208.into());
            default("num_attention_heads", 8.into());
            default("num_key_value_heads", 4.into());
            default("head_dim", 256.into());
            default("max_position_embeddings", 131_072.into());
            default("rms_norm_eps", json!(1e-6));
            default("rope_theta", json!(1e6));
            default("rope_local_base_freq", json!(10000.0));
            default("sliding_window", 4096.into());
            default("tie_word_embeddings", true.into());
            default("attention_bias", false.into());
            // Hugging Face's default is 256, the width of a head in every model that does not say otherwise.
            let head_dim = config.get("head_dim").cloned().unwrap_or(256.into());
            config.entry("query_pre_attn_scalar").or_insert(head_dim);
            let period =
                int(config, "sliding_window_pattern").or(int(config, "_sliding_window_pattern")).unwrap_or(6);
            config.insert("sliding_window_pattern".into(), period.into());
            if let (Some(layers), true) = (int(config, "num_hidden_layers"), period > 0) {
                let kind = |i| if i % period == 0 { "full_attention" } else { "sliding_attention" };
                config.entry("layer_types").or_insert_with(|| (1..=layers).map(kind).collect());
            }
        }
        _ => {}
    }
    let heads = int(config, "num_attention_heads");
    if let (Some(hidden), Some(heads)) = (int(config, "hidden_size"), heads)
        && let Some(per_head) = hidden.checked_div(heads)
    {
        config.entry("head_dim").or_insert(per_head.into());
        config.entry("num_key_value_heads").or_insert(heads.into());
    }
}
