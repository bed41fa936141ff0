//! Encoders and vectors of texts: tiny ones against `transformers`, a real one against `sentence-transformers`.

use crate::golden::{Arrays, facts, folder, ids, largest_difference};
use crate::models::model;
use hob_dtype::DType;
use hob_engine::embed::cosine;
use hob_engine::{Embedder, Model, Options, Pooling, Precision, Reranker};
use hob_io::{Checkpoint, Tokenizer, gguf::Writer};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;

const TINY: [&str; 4] = ["bert", "bert-rank", "distilbert", "roberta-rank"];

fn open(path: &Path, check: bool, precision: Precision) -> Arc<Model> {
    let options = Options { threads: 2, precision, check, ..Options::default() };
    let checkpoint = Checkpoint::open(path).unwrap();
    Arc::new(Model::new(Arc::new(checkpoint), options).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
}

fn tiny(name: &str) -> Arc<Model> {
    open(&folder(&format!("tiny/{name}")), true, Precision::Exact)
}

/// Tokens and their types of each golden sequence.
fn sequences(name: &str) -> Vec<(Vec<u32>, Vec<u32>)> {
    let facts = facts(&format!("tiny/{name}"));
    let pair = |s: &Value| (ids(&s["ids"]), ids(&s["types"]));
    facts["sequences"].as_array().unwrap().iter().map(pair).collect()
}

/// What the model gives for its golden sequences, packed into runs, is what transformers gives for each by itself.
fn is_golden(name: &str, model: &Arc<Model>) {
    let arrays = Arrays::open(&format!("tiny/{name}"), "golden");
    let sequences = sequences(name);
    if name.ends_with("rank") {
        let pairs: Vec<_> = sequences.iter().map(|(ids, types)| (&ids[..], &types[..])).collect();
        let scores = Reranker::new(model).unwrap().score(&pairs).unwrap();
        let right: Vec<f32> = (0..pairs.len()).flat_map(|i| arrays.get(&format!("scores.{i}"))).collect();
        let d = largest_difference(&scores, &right);
        assert!(d < 2e-4, "{name}: scores differ by {d}: {scores:?}, {right:?}");
        return;
    }
    let texts: Vec<&[u32]> = sequences.iter().map(|s| &s.0[..]).collect();
    for pooling in [Pooling::Mean, Pooling::Cls, Pooling::Last] {
        let embedder = Embedder::new(model).unwrap().pooled(pooling);
        let vectors = embedder.normalized(false).embed(&texts).unwrap();
        let embedder = Embedder::new(model).unwrap().pooled(pooling);
        let normal = embedder.normalized(true).embed(&texts).unwrap();
        for (i, (vector, normal)) in vectors.iter().zip(&normal).enumerate() {
            let hidden = arrays.get(&format!("hidden.{i}"));
            let rows: Vec<&[f32]> = hidden.chunks(vector.len()).collect();
            let right = match pooling {
                Pooling::Mean => (0..vector.len())
                    .map(|d| rows.iter().map(|r| r[d]).sum::<f32>() / rows.len() as f32)
                    .collect(),
                Pooling::Cls => rows[0].to_vec(),
                Pooling::Last => rows[rows.len() - 1].to_vec(),
            };
            let d = largest_difference(vector, &right);
            assert!(d < 2e-4, "{name}, {pooling:?}, text {i}: differs by {d}");
            let length: f32 = normal.iter().map(|x| x * x).sum();
            assert!((length - 1.0).abs() < 1e-5 && cosine(vector, normal) > 0.999_999);
        }
    }
}

#[test]
fn encoders_are_those_of_transformers() {
    for name in TINY {
        is_golden(name, &tiny(name));
    }
}

/// The kinds of tokens and the packing matter: another type, or a neighbour that could be seen, would show.
#[test]
fn types_of_tokens_count() {
    let model = tiny("bert-rank");
    let (ids, types) = sequences("bert-rank").remove(0);
    let mut reranker = Reranker::new(&model).unwrap();
    let scores = reranker.score(&[(&ids, &types), (&ids, &vec![0; types.len()]), (&ids, &[])]).unwrap();
    assert!((scores[0] - scores[1]).abs() > 1e-2, "{scores:?}");
    assert_eq!(scores[1], scores[2], "what has no type is of type 0");
}

/// As llama.cpp's converter writes it: other names, a row of positions fewer where RoBERTa's counting begins later, and a
/// table of one kind of tokens as a row alone.
fn convert(name: &str, leave_out: &str, to: &Path) {
    let c = Checkpoint::open(&folder(&format!("tiny/{name}"))).unwrap();
    let config = |field: &str| c.config[field].as_u64().unwrap() as u32;
    let mut w = Writer::new();
    w.str("general.architecture", "bert")
        .u32("bert.block_count", config("num_hidden_layers"))
        .u32("bert.embedding_length", config("hidden_size"))
        .u32("bert.feed_forward_length", config("intermediate_size"))
        .u32("bert.attention.head_count", config("num_attention_heads"))
        .u32("bert.context_length", config("max_position_embeddings"))
        .f32("bert.attention.layer_norm_epsilon", 1e-12)
        .bool("bert.attention.causal", false)
        .u32("bert.pooling_type", 2);
    let roberta = name.starts_with("roberta");
    let mut tensors = Vec::new();
    for (original, tensor) in &c.tensors {
        let (stem, kind) = original.rsplit_once('.').unwrap();
        let top = match stem {
            "embeddings.word_embeddings" => "token_embd",
            "embeddings.position_embeddings" => "position_embd",
            "embeddings.token_type_embeddings" => "token_types",
            "embeddings.LayerNorm" => "token_embd_norm",
            "pooler.dense" | "classifier.dense" => "cls",
            "classifier" | "classifier.out_proj" => "cls.output",
            _ => "",
        };
        let layer = |rest: &str| {
            let (number, part) = rest.split_once('.').unwrap();
            let part = match part {
                "attention.self.query" => "attn_q",
                "attention.self.key" => "attn_k",
                "attention.self.value" => "attn_v",
                "attention.output.dense" => "attn_output",
                "attention.output.LayerNorm" => "attn_output_norm",
                "intermediate.dense" => "ffn_up",
                "output.dense" => "ffn_down",
                _ => "layer_output_norm",
            };
            format!("blk.{number}.{part}")
        };
        let stem = stem.strip_prefix("encoder.layer.").map_or(top.to_string(), layer);
        if stem == leave_out {
            continue;
        }
        let (mut bytes, mut shape) = (c.bytes(tensor).to_vec(), tensor.shape.to_vec());
        if roberta && stem == "position_embd" {
            bytes.drain(..2 * 4 * shape[1]);
            shape[0] -= 2;
        }
        if shape[0] == 1 && stem == "token_types" {
            shape.remove(0);
        }
        w.tensor(&format!("{stem}.{kind}"), DType::F32, &shape).unwrap();
        tensors.push(bytes);
    }
    let mut out = w.begin(std::fs::File::create(to).unwrap()).unwrap();
    tensors.iter().for_each(|t| out.tensor(t).unwrap());
    out.finish().unwrap();
}

#[test]
fn a_gguf_encoder_means_what_its_original_means() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["bert", "bert-rank", "roberta-rank"] {
        let path = dir.path().join(format!("{name}.gguf"));
        convert(name, "", &path);
        let model = open(&path, true, Precision::Exact);
        assert_eq!(Embedder::new(&model).unwrap().pooling(), Pooling::Cls);
        is_golden(name, &model);
    }
    // What published files lack: scores without it would be wrong, while vectors need it not.
    let path = dir.path().join("no-pooler.gguf");
    convert("bert-rank", "cls", &path);
    let model = open(&path, true, Precision::Exact);
    let e = Reranker::new(&model).err().unwrap().to_string();
    assert!(e.contains("take the model as safetensors"), "{e}");
    Embedder::new(&model).unwrap().embed(&[&[1, 2, 3]]).unwrap();
}

#[test]
fn what_cannot_be_is_said() {
    let model = tiny("bert");
    let mut embedder = Embedder::new(&model).unwrap();
    let mut e = |ids: &[u32]| embedder.embed(&[&[1, 2], ids]).unwrap_err().to_string();
    assert!(e(&[]).contains("empty"));
    assert!(e(&[1; 90]).contains("90 tokens, 10 more than this model reads at once (80)"), "{}", e(&[1; 90]));
    assert!(e(&[96]).contains("the token id 96 is none of the model's 96"));
    assert!(Reranker::new(&model).err().unwrap().to_string().contains("scores no pairs"));
    // RoBERTa's positions begin at 2.
    assert_eq!(Reranker::new(&tiny("roberta-rank")).unwrap().most(), 78);
    let e = hob_engine::Session::new(&model, 8).err().unwrap().to_string();
    assert!(e.contains("is an encoder, which makes vectors of texts"), "{e}");
    assert!(
        Reranker::new(&tiny("llama")).err().unwrap().to_string().contains("no encoder with a classifier")
    );
}

/// What a language model says of the last token leads to its logits.
#[test]
fn language_models_make_vectors_of_the_last_token() {
    for name in ["llama", "qwen3", "mistral", "qwen3-moe"] {
        let model = tiny(name);
        let facts = facts(&format!("tiny/{name}"));
        let all = ids(&facts["ids"]);
        let arrays = Arrays::open(&format!("tiny/{name}"), "golden");
        let logits = arrays.get("logits");
        let vocab = model.vocab_size();
        let mut embedder = Embedder::new(&model).unwrap().normalized(false);
        assert_eq!(embedder.pooling(), Pooling::Last);
        let texts = [&all[..], &all[..1], &all[..17]];
        let vectors = embedder.embed(&texts).unwrap();
        let head = &model.checkpoint.tensors["lm_head.weight"];
        let head: Vec<f32> =
            model.checkpoint.bytes(head).as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        for (text, vector) in texts.iter().zip(&vectors) {
            let ours: Vec<f32> = head
                .chunks(vector.len())
                .map(|row| row.iter().zip(vector).map(|(a, b)| a * b).sum())
                .collect();
            let d = largest_difference(&ours, &logits[(text.len() - 1) * vocab..][..vocab]);
            assert!(d < 2e-4, "{name}, {} tokens: logits differ by {d}", text.len());
        }
    }
}

/// Vectors of a real encoder, with its own tokenizer: several languages, next to nothing, and long ones.
#[test]
fn real_minilm_vectors() {
    let weights = model("all-MiniLM-L6-v2/model.safetensors");
    let dir = weights.parent().unwrap();
    let tokenizer = Tokenizer::from_dir(dir).unwrap();
    let facts = facts("embeddings/minilm");
    let texts: Vec<&str> = facts["texts"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    let ids: Vec<Vec<u32>> = texts.iter().map(|text| tokenizer.encode_text(text)).collect();
    assert_eq!(
        ids.iter().map(|ids| ids.len() as u32).collect::<Vec<_>>(),
        crate::golden::ids(&facts["tokens"])
    );
    let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    let golden = Arrays::open("embeddings/minilm", "golden").get("vectors");
    for precision in [Precision::Exact, Precision::Fast] {
        let mut embedder = Embedder::new(&open(dir, false, precision)).unwrap();
        assert_eq!((embedder.pooling(), embedder.most()), (Pooling::Mean, 256));
        let vectors = embedder.embed(&ids).unwrap();
        let flat: Vec<f32> = vectors.concat();
        let d = largest_difference(&flat, &golden);
        println!("{precision:?}: numbers differ by {d}");
        assert!(d < 2e-6, "{precision:?}: differs by {d}"); // weights in f32 are multiplied in f32 either way
        for (vector, right) in vectors.iter().zip(golden.chunks(384)) {
            assert!(cosine(vector, right) > 0.999_999);
        }
        let e = embedder.embed(&[&[101; 300]]).unwrap_err().to_string();
        assert!(e.contains("44 more than this model reads at once (256)"), "{e}");
    }
}
