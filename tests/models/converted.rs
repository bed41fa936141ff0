//! The tiny models as GGUF files: other names, metadata instead of config.json, the experts' matrices in one tensor. What
//! is written here follows llama.cpp's `convert_hf_to_gguf.py`.

use crate::golden::{Arrays, facts, folder, ids, largest_difference};
use hob_dtype::DType;
use hob_engine::{Model, Options, Precision, Session};
use hob_io::{Checkpoint, gguf::Writer};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;

/// GGUF's names, those of the originals, and how many experts the tensor is of: none, all, or the one it names.
fn parts(c: &Checkpoint, original: &str, stacked: bool) -> Option<(String, Vec<String>)> {
    let one = |name: &str| Some((name.to_string(), vec![original.to_string()]));
    match original {
        "model.embed_tokens.weight" => return one("token_embd.weight"),
        "model.norm.weight" => return one("output_norm.weight"),
        "lm_head.weight" => return one("output.weight"),
        _ => {}
    }
    let (layer, rest) = original.strip_prefix("model.layers.")?.split_once('.')?;
    let (module, kind) = rest.rsplit_once('.')?;
    let plain = [
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("mlp.gate", "ffn_gate_inp"),
        ("block_sparse_moe.gate", "ffn_gate_inp"),
    ];
    if let Some((_, name)) = plain.iter().find(|p| p.0 == module) {
        return one(&format!("blk.{layer}.{name}.{kind}"));
    }
    let (head, rest) = module.split_once(".experts.")?;
    let (number, which) = rest.split_once('.')?;
    let name = match which {
        "gate_proj" | "w1" => "ffn_gate",
        "up_proj" | "w3" => "ffn_up",
        _ => "ffn_down",
    };
    if !stacked {
        return one(&format!("blk.{layer}.{name}.{number}.{kind}"));
    }
    let part = |i: usize| format!("model.layers.{layer}.{head}.experts.{i}.{which}.{kind}");
    let all = (0..).map(part).take_while(|p| c.tensors.contains_key(p)).collect();
    (number == "0").then(|| (format!("blk.{layer}.{name}_exps.{kind}"), all))
}

/// Rows of q and k with rotated pairs side by side, as the converter has them for llama.
fn interleaved(bytes: &[u8], heads: usize, rows: usize) -> Vec<u8> {
    let (row, half) = (bytes.len() / rows, rows / heads / 2);
    let from = |r: usize| r / (2 * half) * 2 * half + r % 2 * half + r % (2 * half) / 2;
    (0..rows).flat_map(|r| bytes[from(r) * row..][..row].to_vec()).collect()
}

pub fn convert(name: &str, stacked: bool, to: &Path) {
    let c = Checkpoint::open(&folder(&format!("tiny/{name}"))).unwrap();
    let config = |field: &str| c.config[field].as_u64().unwrap() as u32;
    let architecture = match c.model_type().unwrap() {
        "mixtral" => "llama",
        "qwen3_moe" => "qwen3moe",
        other => other,
    };
    let mut w = Writer::new();
    let key = |k: &str| format!("{architecture}.{k}");
    w.str("general.architecture", architecture);
    for (k, field) in [
        ("block_count", "num_hidden_layers"),
        ("embedding_length", "hidden_size"),
        ("feed_forward_length", "intermediate_size"),
        ("attention.head_count", "num_attention_heads"),
        ("attention.head_count_kv", "num_key_value_heads"),
        ("attention.key_length", "head_dim"),
        ("attention.value_length", "head_dim"),
        ("context_length", "max_position_embeddings"),
        ("rope.dimension_count", "head_dim"),
    ] {
        w.u32(&key(k), config(field));
    }
    w.f32(&key("rope.freq_base"), 10000.0).f32(&key("attention.layer_norm_rms_epsilon"), 1e-5);
    if c.config["num_local_experts"].is_u64() {
        w.u32(&key("expert_count"), config("num_local_experts"));
        w.u32(&key("expert_used_count"), config("num_experts_per_tok"));
    }
    if architecture == "qwen3moe" {
        w.u32(&key("expert_feed_forward_length"), config("moe_intermediate_size"));
    }
    let mut tensors = Vec::new();
    for (original, tensor) in &c.tensors {
        let Some((name, of)) = parts(&c, original, stacked) else { continue };
        let mut bytes: Vec<u8> = of.iter().flat_map(|n| c.bytes(&c.tensors[n]).to_vec()).collect();
        let mut shape = tensor.shape.to_vec();
        if name.contains("_exps") {
            shape.insert(0, of.len());
        }
        for (part, heads) in [("attn_q.", "num_attention_heads"), ("attn_k.", "num_key_value_heads")] {
            if architecture == "llama" && name.contains(part) {
                bytes = interleaved(&bytes, config(heads) as usize, shape[0]);
            }
        }
        w.tensor(&name, DType::F32, &shape).unwrap();
        tensors.push(bytes);
    }
    let mut out = w.begin(std::fs::File::create(to).unwrap()).unwrap();
    tensors.iter().for_each(|t| out.tensor(t).unwrap());
    out.finish().unwrap();
}

fn open(path: &Path) -> hob_engine::Result<Arc<Model>> {
    let options =
        Options { threads: 2, precision: Precision::Exact, kv: DType::F32.into(), check: true, mapped: true };
    Model::new(Arc::new(Checkpoint::open(path).unwrap()), options).map(Arc::new)
}

#[test]
fn a_gguf_means_what_its_original_means() {
    let folder = tempfile::tempdir().unwrap();
    let models = [
        ("llama", true),
        ("qwen2", true),
        ("qwen3", true),
        ("qwen3-moe", true),
        ("mixtral", true),
        ("mixtral", false),
    ];
    for (name, stacked) in models {
        let path = folder.path().join(format!("{name}-{stacked}.gguf"));
        convert(name, stacked, &path);
        let model = open(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
        let ids = ids(&facts(&format!("tiny/{name}"))["ids"]);
        let mut session = Session::new(&model, ids.len()).unwrap();
        let ours = session.feed_all(&ids).unwrap();
        let d = largest_difference(ours, &Arrays::open(&format!("tiny/{name}"), "golden").get("logits"));
        assert!(d < 2e-4, "{name}, stacked {stacked}: logits differ by {d}");
        if name.contains("mo") || name == "mixtral" {
            let whole = model.graph(1, 1).unwrap();
            let of = whole.weights.iter().filter(|w| w.shape.len() == 3).count();
            assert_eq!(of, if stacked { 2 * 3 } else { 0 }, "{name}: matrices of all experts");
        }
    }
}

/// What runs, and would be wrong, or would have to copy weights, is refused with a sentence before anything is read.
#[test]
fn experts_that_cannot_be_run_are_said() {
    let config = |name: &str| Checkpoint::open(&folder(&format!("tiny/{name}"))).unwrap().config;
    let refused = |mut config: Value, field: &str, value: Value| {
        config[field] = value;
        hob_models::language(&config).err().unwrap_or_else(|| panic!("{field} is not refused")).to_string()
    };
    let moe = || config("qwen3-moe");
    let e = refused(moe(), "experts_fused", true.into());
    assert!(e.contains("gate_up_proj") && e.contains("take the GGUF"), "{e}");
    let e = refused(moe(), "num_experts_per_tok", 9.into());
    assert!(e.contains("num_experts_per_tok is 9 and num_local_experts 8"), "{e}");
    assert!(refused(moe(), "num_local_experts", 0.into()).contains("num_local_experts 0"));
    assert!(refused(moe(), "num_hidden_layers", 10_000.into()).contains("80000 experts"));
    assert!(refused(moe(), "moe_intermediate_size", 0.into()).contains("moe_intermediate_size is 0"));
    assert!(refused(moe(), "use_sliding_window", true.into()).contains("not supported"));
    assert!(refused(moe(), "decoder_sparse_step", 0.into()).contains("decoder_sparse_step is 0"));
    assert!(refused(config("mixtral"), "num_experts_per_tok", 0.into()).contains("num_experts_per_tok is 0"));
    assert!(refused(config("qwen3"), "hidden_act", "gelu".into()).contains("hidden_act gelu"));
    assert!(refused(config("qwen2-window"), "layer_types", serde_json::json!([])).contains("layer_types"));
}
