//! Checkpoints: the same names and fields whether they come from GGUF or from a Hugging Face folder.

mod common;

use common::{gguf, llama_metadata, safetensors, sentence, tiny_llama, tiny_safetensors};
use hob_dtype::DType;
use hob_io::{Checkpoint, gguf::Writer};
use serde_json::{Value, json};
use std::{fs, path::Path};

/// Asserts every field of `expected`.
#[track_caller]
fn has(config: &Value, expected: Value) {
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&config[field], value, "{field} in {config}");
    }
}

fn write(dir: &Path, name: &str, bytes: impl AsRef<[u8]>) -> std::path::PathBuf {
    let path = dir.join(name);
    fs::write(&path, bytes).unwrap();
    path
}

fn open_gguf(bytes: Vec<u8>) -> Checkpoint {
    let dir = tempfile::tempdir().unwrap();
    Checkpoint::open(&write(dir.path(), "m.gguf", bytes)).unwrap()
}

#[test]
fn a_llama_from_gguf() {
    let model = open_gguf(tiny_llama());
    has(
        &model.config,
        json!({
            "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 8,
            "rms_norm_eps": 1e-5, "rope_theta": 50000.0, "max_position_embeddings": 256, "hidden_act": "silu",
            "tie_word_embeddings": true, "rope_interleaved": true, "norm_weight_offset": 0.0, "rope_freqs": false,
            "bos_token_id": 1, "eos_token_id": 2, "rope_scaling": null, "partial_rotary_factor": null,
        }),
    );
    let names: Vec<&str> = model.tensors.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "model.embed_tokens.weight",
            "model.layers.0.input_layernorm.weight",
            "model.layers.0.self_attn.k_proj.weight",
            "model.layers.0.self_attn.q_proj.weight",
            "model.layers.1.post_attention_layernorm.weight",
            "model.norm.weight",
        ]
    );
    let k = &model.tensors["model.layers.0.self_attn.k_proj.weight"];
    assert_eq!(
        (k.stored_name.as_str(), &*k.shape, model.bytes(k).len()),
        ("blk.0.attn_k.weight", &[32, 64][..], 4096)
    );
    assert_eq!(model.parameters(), 8 * 64 + 64 + 64 * 64 + 32 * 64 + 64 + 64);
    assert_eq!(model.formats()[&DType::F32], (3, 768));
    assert_eq!((model.bos(), model.eos()), (Some(1), &[2][..]));
    assert_eq!((model.licence(), model.chat_template()), (Some("apache-2.0".into()), None));
}

#[test]
fn scaled_ropes_from_gguf() {
    let scaling = |fill: &dyn Fn(&mut Writer)| {
        let mut w = llama_metadata();
        fill(&mut w);
        open_gguf(gguf(w, &[])).config["rope_scaling"].clone()
    };
    assert_eq!(
        scaling(&|w| {
            w.str("llama.rope.scaling.type", "yarn").f32("llama.rope.scaling.factor", 4.0);
            w.u32("llama.rope.scaling.original_context_length", 64);
        }),
        json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64})
    );
    assert_eq!(
        scaling(&|w| {
            w.f32("llama.rope.scale_linear", 8.0);
        }),
        json!({"rope_type": "linear", "factor": 8.0})
    );
    assert_eq!(
        scaling(&|w| {
            w.str("llama.rope.scaling.type", "none");
        }),
        Value::Null
    );
    assert_eq!(
        scaling(&|w| {
            w.f32("llama.rope.scale_linear", 1.0);
        }),
        Value::Null
    );
}

fn gemma_metadata(layers: u32) -> Writer {
    let mut w = Writer::new();
    w.str("general.architecture", "gemma3")
        .u32("gemma3.block_count", layers)
        .u32("gemma3.embedding_length", 5376)
        .u32("gemma3.attention.head_count", 32)
        .u32("gemma3.attention.head_count_kv", 16)
        .u32("gemma3.attention.key_length", 128)
        .u32("gemma3.attention.sliding_window", 1024)
        .f32("gemma3.attention.layer_norm_rms_epsilon", 1e-6)
        .f32("gemma3.rope.freq_base", 1e6)
        .u32("tokenizer.ggml.eos_token_id", 1)
        .u32("tokenizer.ggml.eot_token_id", 106);
    w
}

#[test]
fn a_gemma_from_gguf() {
    let tensors: [(&str, DType, &[usize]); 2] =
        [("output.weight", DType::F32, &[4, 2]), ("blk.5.ffn_norm.weight", DType::F32, &[2])];
    let model = open_gguf(gguf(gemma_metadata(7), &tensors));
    has(
        &model.config,
        json!({
            "model_type": "gemma3_text", "head_dim": 128, "query_pre_attn_scalar": 128, "sliding_window": 1024,
            "sliding_window_pattern": 6, "rope_theta": 1e6, "rope_local_base_freq": 10000.0, "rms_norm_eps": 1e-6,
            "hidden_activation": "gelu_pytorch_tanh", "norm_weight_offset": 0.0, "rope_interleaved": false,
            "tie_word_embeddings": false,
        }),
    );
    let types = model.config["layer_types"].as_array().unwrap();
    let full: Vec<usize> = (0..types.len()).filter(|&i| types[i] == "full_attention").collect();
    assert_eq!((types.len(), full), (7, vec![5]));
    assert_eq!(model.eos(), [1, 106]);
    assert!(model.tensors.contains_key("model.layers.5.pre_feedforward_layernorm.weight"));
    assert!(model.tensors.contains_key("lm_head.weight"));
    assert_eq!(open_gguf(gguf(gemma_metadata(62), &[])).config["query_pre_attn_scalar"], 168);

    let mut stated = gemma_metadata(3);
    stated.bools("gemma3.attention.sliding_window_pattern", &[true, false, true]);
    let types = open_gguf(gguf(stated, &[])).config["layer_types"].clone();
    assert_eq!(types, json!(["sliding_attention", "full_attention", "sliding_attention"]));
}

#[test]
fn a_gemma_that_says_little_has_its_own_defaults() {
    let mut w = Writer::new();
    w.str("general.architecture", "gemma3")
        .u32("gemma3.block_count", 34)
        .u32("gemma3.embedding_length", 2560);
    w.u32("gemma3.attention.head_count", 8).f32("gemma3.rope.local.freq_base", 20000.0);
    has(
        &open_gguf(gguf(w, &[])).config,
        json!({
            "rope_theta": 1e6, "rope_local_base_freq": 20000.0, "head_dim": 256, "num_key_value_heads": 4,
            "rms_norm_eps": 1e-6, "query_pre_attn_scalar": 256, "partial_rotary_factor": null,
        }),
    );
}

#[test]
fn an_unknown_architecture_opens_under_its_stored_names() {
    let mut w = Writer::new();
    w.str("general.architecture", "novel").u32("novel.block_count", 3).u32("novel.embedding_length", 8);
    let model = open_gguf(gguf(w, &[("blk.0.attn_q.weight", DType::F32, &[8, 8])]));
    has(&model.config, json!({"model_type": "novel", "num_hidden_layers": 3, "hidden_size": 8}));
    assert!(model.tensors.contains_key("blk.0.attn_q.weight"));
}

fn metadata(architecture: &str, of: &[(&str, u32)]) -> Writer {
    let mut w = Writer::new();
    w.str("general.architecture", architecture);
    for (key, n) in of {
        w.u32(&format!("{architecture}.{key}"), *n);
    }
    w
}

#[test]
fn experts_from_gguf() {
    let sizes = [
        ("block_count", 2),
        ("embedding_length", 64),
        ("attention.head_count", 4),
        ("attention.key_length", 32),
        ("feed_forward_length", 96),
        ("expert_count", 8),
        ("expert_used_count", 2),
        ("expert_feed_forward_length", 48),
    ];
    let tensors: [(&str, DType, &[usize]); 3] = [
        ("blk.0.ffn_gate.weight", DType::F32, &[96, 64]),
        ("blk.1.ffn_gate_exps.weight", DType::F32, &[8, 48, 64]),
        ("blk.1.ffn_gate_inp.weight", DType::F32, &[8, 64]),
    ];
    let qwen = open_gguf(gguf(metadata("qwen3moe", &sizes), &tensors));
    has(
        &qwen.config,
        json!({
            "model_type": "qwen3_moe", "num_local_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 48,
            "head_dim": 32, "norm_topk_prob": true, "experts_stacked": true, "mlp_only_layers": [0],
            "rope_interleaved": false, "attention_bias": false, "use_sliding_window": false,
        }),
    );
    assert_eq!(qwen.tensors["model.layers.1.mlp.experts.gate_proj.weight"].shape[..], [8, 48, 64]);
    assert!(qwen.tensors.contains_key("model.layers.1.mlp.gate.weight"));

    let older: [(&str, DType, &[usize]); 1] = [("blk.0.ffn_gate.0.weight", DType::F32, &[96, 64])];
    let mixtral = open_gguf(gguf(metadata("llama", &sizes[..7]), &older));
    let expected = json!({"model_type": "mixtral", "experts_stacked": false, "rope_interleaved": true});
    has(&mixtral.config, expected);
    assert!(mixtral.tensors.contains_key("model.layers.0.block_sparse_moe.experts.0.w1.weight"));
    let dense = open_gguf(gguf(metadata("llama", &sizes[..5]), &[]));
    has(&dense.config, json!({"model_type": "llama", "experts_stacked": null}));
    let qwen2 = open_gguf(gguf(metadata("qwen2", &sizes[..5]), &[("blk.0.attn_q.bias", DType::F32, &[128])]));
    has(&qwen2.config, json!({"model_type": "qwen2", "rope_interleaved": false, "attention_bias": true}));
    assert!(qwen2.tensors.contains_key("model.layers.0.self_attn.q_proj.bias"));
}

#[test]
fn experts_of_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let config =
        r#"{"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "hidden_size": 8}"#;
    write(dir, "config.json", config);
    let with = |name: &str| {
        let header = format!(r#"{{"{name}":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}}}"#);
        write(dir, "model.safetensors", safetensors(&header, 8));
        Checkpoint::open(dir).unwrap().config
    };
    let plain =
        json!({"num_local_experts": 4, "num_experts": null, "decoder_sparse_step": 1, "experts_fused": null});
    has(&with("model.layers.0.mlp.experts.0.gate_proj.weight"), plain);
    has(&with("model.layers.0.mlp.experts.gate_up_proj"), json!({"experts_fused": true}));
}

#[test]
fn absurd_metadata_are_errors() {
    let open = |w: Writer| {
        let dir = tempfile::tempdir().unwrap();
        sentence(Checkpoint::open(&write(dir.path(), "m.gguf", gguf(w, &[]))))
    };
    assert!(open(Writer::new()).contains("general.architecture"));
    assert!(open(gemma_metadata(u32::MAX)).contains("gemma3.block_count"));

    let both: [(&str, DType, &[usize]); 2] =
        [("output_norm.weight", DType::F32, &[2]), ("model.norm.weight", DType::F32, &[2])];
    let dir = tempfile::tempdir().unwrap();
    let text = sentence(Checkpoint::open(&write(dir.path(), "m.gguf", gguf(llama_metadata(), &both))));
    assert!(text.contains("are the same weight"), "{text}");
}

const LLAMA: &str = r#"{"model_type": "llama", "hidden_size": 6, "num_attention_heads": 2, "num_hidden_layers": 1,
    "vocab_size": 4, "eos_token_id": [2, 3], "pad_token_id": null, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}"#;

#[test]
fn a_folder_of_safetensors() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write(dir, "model.safetensors", tiny_safetensors());
    write(dir, "config.json", LLAMA);
    write(dir, "generation_config.json", r#"{"bos_token_id": 1, "eos_token_id": 5}"#);
    write(
        dir,
        "tokenizer_config.json",
        r#"{"chat_template": [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]}"#,
    );
    write(dir, "README.md", "---\nlanguage: en\nlicense: \"mit\"\n---\n# A model\nlicense: no\n");
    let model = Checkpoint::open(dir).unwrap();
    has(
        &model.config,
        json!({
            "model_type": "llama", "hidden_size": 6, "head_dim": 3, "num_key_value_heads": 2, "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0, "tie_word_embeddings": false, "rope_interleaved": false, "norm_weight_offset": 0.0,
            "rope_scaling": {"rope_type": "llama3", "factor": 8.0}, "rope_freqs": false,
        }),
    );
    assert_eq!((model.bos(), model.eos()), (Some(1), &[2, 3, 5][..]));
    assert_eq!((model.licence(), model.chat_template()), (Some("mit".into()), Some("d".into())));
    let norm = &model.tensors["model.norm.weight"];
    assert_eq!((norm.dtype, model.bytes(norm).len()), (DType::F32, 24));
    assert_eq!(model.companion("config.json"), Some(dir.join("config.json")));
    assert_eq!(model.companion("tokenizer.json"), None);
    assert!(model.gguf().is_none());

    write(dir, "chat_template.jinja", "newer");
    let by_file = Checkpoint::open(&dir.join("model.safetensors")).unwrap();
    assert_eq!(by_file.chat_template(), Some("newer".into()));
    write(dir, "config.json", "{\"model_type\":");
    let text = sentence(Checkpoint::open(dir));
    assert!(text.contains("config.json") && text.contains("valid JSON"), "{text}");
    fs::remove_file(dir.join("config.json")).unwrap();
    assert_eq!(Checkpoint::open(dir).unwrap().config["model_type"], Value::Null);
}

#[test]
fn the_language_part_of_a_multimodal_gemma() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let header = r#"{"language_model.model.norm.weight":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    write(dir, "model.safetensors", safetensors(header, 8));
    let config = json!({
        "model_type": "gemma3", "eos_token_id": [1, 106], "vision_config": {"hidden_size": 9},
        "text_config": {"model_type": "gemma3_text", "hidden_size": 2560, "num_hidden_layers": 6, "sliding_window": 1024,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    });
    write(dir, "config.json", config.to_string());
    let model = Checkpoint::open(dir).unwrap();
    has(
        &model.config,
        json!({
            "model_type": "gemma3_text", "hidden_size": 2560, "num_attention_heads": 8, "num_key_value_heads": 4,
            "head_dim": 256, "sliding_window": 1024, "norm_weight_offset": 1.0, "tie_word_embeddings": true,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "query_pre_attn_scalar": 256, "vision_config": null,
        }),
    );
    assert_eq!(model.eos(), [1, 106]);
    assert!(model.tensors.contains_key("model.norm.weight"));

    let newer = json!({
        "model_type": "gemma3_text", "num_hidden_layers": 1, "layer_types": ["full_attention"],
        "rope_parameters": {"full_attention": {"rope_type": "linear", "rope_theta": 5.0, "factor": 2.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 7.0}},
    });
    write(dir, "config.json", newer.to_string());
    has(
        &Checkpoint::open(dir).unwrap().config,
        json!({
            "rope_theta": 5.0, "rope_local_base_freq": 7.0, "rope_scaling": {"rope_type": "linear", "factor": 2.0},
            "layer_types": ["full_attention"], "rope_parameters": null,
        }),
    );
}

#[test]
fn a_folder_names_what_is_wrong_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    assert!(sentence(Checkpoint::open(dir)).contains("no GGUF or safetensors"));
    write(dir, "pytorch_model.bin", "pickle");
    assert!(sentence(Checkpoint::open(dir)).contains("pickles"));
    write(dir, "a.gguf", tiny_llama());
    let model = Checkpoint::open(dir).unwrap();
    assert_eq!(model.path, dir);
    assert!(model.gguf().is_some());
    write(dir, "b.gguf", tiny_llama());
    let text = sentence(Checkpoint::open(dir));
    assert!(text.contains("several models") && text.contains("a.gguf, b.gguf"), "{text}");
    // A blob without ending is known by its content.
    assert!(Checkpoint::open(&write(dir, "sha256-0011", tiny_llama())).unwrap().gguf().is_some());
    assert!(sentence(Checkpoint::open(&write(dir, "notes.txt", "hello"))).contains("neither"));
    assert!(sentence(Checkpoint::open(&write(dir, "c.gguf", "<html>"))).contains("does not begin as a GGUF"));
}
