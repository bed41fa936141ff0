//! Answers with an adapter, against torch: the PEFT folder that training begins with, its loss by the logits of a session.

use crate::converted::convert;
use crate::golden::{Arrays, facts, folder, ids};
use crate::tiny::exact;
use hob_engine::{Group, Model, Options, Session};
use hob_io::{Adapter, Checkpoint, Safetensors};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

fn open(base: &Path, adapter: &Path, options: Options) -> Result<Arc<Model>, String> {
    let checkpoint = Arc::new(Checkpoint::open(base).unwrap());
    let adapter = Adapter::open(adapter).map_err(|e| e.to_string())?;
    Model::adapted(checkpoint, Some(&adapter), options).map(Arc::new).map_err(|e| e.to_string())
}

fn sequences() -> Vec<Vec<u32>> {
    facts("lora")["sequences"].as_array().unwrap().iter().map(ids).collect()
}

/// Minus the logarithm of the probability of `id`.
fn surprise(logits: &[f32], id: u32) -> f64 {
    let most = logits.iter().fold(f32::MIN, |m, l| m.max(*l)) as f64;
    let sum: f64 = logits.iter().map(|l| (*l as f64 - most).exp()).sum();
    most + sum.ln() - logits[id as usize] as f64
}

/// The mean over every next token of the golden's sequences, each read from its beginning.
fn loss(model: &Arc<Model>) -> f64 {
    let (mut total, mut count) = (0.0, 0);
    for ids in sequences() {
        let mut session = Session::new(model, ids.len()).unwrap();
        let rows = session.feed_all(&ids).unwrap();
        for (row, next) in rows.chunks_exact(model.vocab_size()).zip(&ids[1..]) {
            total += surprise(row, *next);
            count += 1;
        }
    }
    total / f64::from(count)
}

/// A folder with the adapter as torch's training left it.
fn trained(to: &Path) {
    changed(to, &[], str::to_string);
    let mut file = std::fs::read(to.join("adapter_model.safetensors")).unwrap();
    let (before, after) = (
        Safetensors::open(&folder("lora/adapter_model.safetensors")).unwrap(),
        Arrays::open("lora", "golden"),
    );
    for tensor in before.tensors() {
        let values = after.get(&tensor.stored_name.replace("base_model.model.", "final."));
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        file[tensor.offset as usize..][..tensor.len].copy_from_slice(&bytes);
    }
    std::fs::write(to.join("adapter_model.safetensors"), file).unwrap();
}

#[test]
fn a_model_with_an_adapter_says_what_torchs_says() {
    let (golden, scratch) = (facts("lora"), tempfile::tempdir().unwrap());
    let gguf = scratch.path().join("llama.gguf"); // rows of q and k in another order
    convert("llama", true, &gguf);
    let after = scratch.path().join("trained");
    trained(&after);
    let number = |key: &str| golden[key].as_f64().unwrap();
    assert!(number("loss_without_adapter") - number("final_loss") > 1.0, "the trained one matters");
    for base in [folder("tiny/llama"), gguf] {
        for (adapter, theirs) in [(&folder("lora"), number("loss")), (&after, number("final_loss"))] {
            for (options, near) in [(exact(), 1e-4), (Options { threads: 1, ..Options::default() }, 5e-2)] {
                let model = open(&base, adapter, options).unwrap();
                let ours = loss(&model);
                assert!((ours - theirs).abs() < near, "{}: {ours}, by torch {theirs}", base.display());
                while !model.settle(3).unwrap() {}
                let ours = loss(&model);
                assert!((ours - theirs).abs() < near, "laid out for speed: {ours}, by torch {theirs}");
            }
        }
    }
}

#[test]
fn several_sequences_share_an_adapter() {
    let model = open(&folder("tiny/llama"), &folder("lora"), exact()).unwrap();
    let sequences = sequences();
    let mut group = Group::new(&model, 2, 32).unwrap();
    let mut alone = Vec::new();
    for (i, ids) in sequences.iter().enumerate() {
        group.feed(i, &ids[..10]).unwrap();
        let mut session = Session::new(&model, 32).unwrap();
        session.feed(&ids[..11]).unwrap();
        alone.push(session.logits().to_vec());
    }
    group.step(&[sequences[0][10], sequences[1][10]]).unwrap();
    for (i, alone) in alone.iter().enumerate() {
        let d = crate::golden::largest_difference(group.logits(i), alone);
        assert!(d < 1e-4, "sequence {i}: {d}");
    }
}

/// The golden's adapter with another configuration, or keys renamed.
fn changed(to: &Path, config: &[(&str, Value)], rename: impl Fn(&str) -> String) {
    let from = folder("lora");
    let mut says: Value =
        serde_json::from_slice(&std::fs::read(from.join("adapter_config.json")).unwrap()).unwrap();
    config.iter().for_each(|(key, value)| says[*key] = value.clone());
    std::fs::create_dir_all(to).unwrap();
    std::fs::write(to.join("adapter_config.json"), says.to_string()).unwrap();
    let bytes = std::fs::read(from.join("adapter_model.safetensors")).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let text = rename(std::str::from_utf8(&bytes[8..8 + header]).unwrap());
    let out = [&(text.len() as u64).to_le_bytes(), text.as_bytes(), &bytes[8 + header..]].concat();
    std::fs::write(to.join("adapter_model.safetensors"), out).unwrap();
}

#[test]
fn scales_are_pefts() {
    let scratch = tempfile::tempdir().unwrap();
    let scale = |config: &[(&str, Value)]| {
        changed(scratch.path(), config, str::to_string);
        let adapter = Adapter::open(scratch.path()).unwrap();
        ["q", "v"].map(|w| adapter.parts[&format!("model.layers.1.self_attn.{w}_proj")].scale)
    };
    assert_eq!(scale(&[]), [2.0, 2.0]);
    assert_eq!(scale(&[("use_rslora", json!(true))]), [4.0, 4.0]);
    assert_eq!(scale(&[("alpha_pattern", json!({"self_attn.v_proj": 2}))]), [2.0, 0.5]);
    // A scale of nothing is no adapter at all.
    changed(scratch.path(), &[("lora_alpha", json!(0))], str::to_string);
    let model = open(&folder("tiny/llama"), scratch.path(), exact()).unwrap();
    assert!((loss(&model) - facts("lora")["loss_without_adapter"].as_f64().unwrap()).abs() < 1e-5);
}

#[test]
fn an_adapter_that_does_not_fit_says_which_part() {
    let scratch = tempfile::tempdir().unwrap();
    let (base, at) = (folder("tiny/llama"), scratch.path());
    let same = str::to_string;
    let swap = |from: &'static str, to: &'static str| move |text: &str| text.replace(from, to);
    let refused = |says: &str| {
        let e = open(&base, at, exact()).err().unwrap_or_else(|| panic!("it was taken: {says}"));
        assert!(e.contains(says), "{e}");
    };
    changed(at, &[], swap("q_proj", "x_proj"));
    refused("no linear layer model.layers.0.self_attn.x_proj (2 of the adapter's 4 modules");
    changed(at, &[], swap("self_attn.q_proj", "mlp.down_proj"));
    refused("it was made for another model");
    changed(
        at,
        &[],
        swap("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", "lora_unet_down.weight"),
    );
    refused("picture models");
    changed(at, &[], swap("layers.1.self_attn.v_proj.lora_B", "layers.2.self_attn.v_proj.lora_B"));
    refused("has no lora_B");
    for (key, value, says) in [
        ("peft_type", json!("IA3"), "kind \"IA3\""),
        ("use_dora", json!(true), "DoRA"),
        ("bias", json!("all"), "biases"),
        ("modules_to_save", json!(["lm_head"]), "modules_to_save"),
        ("r", json!(8), "it says r = 8"),
        ("r", json!("four"), "no configuration of an adapter"),
        ("alpha_pattern", json!({"^q.*": 1}), "alpha_pattern"),
    ] {
        changed(at, &[(key, value)], same);
        refused(says);
    }
    std::fs::remove_file(at.join("adapter_config.json")).unwrap();
    refused("there is no adapter_config.json");
    std::fs::rename(at.join("adapter_model.safetensors"), at.join("adapter_model.bin")).unwrap();
    refused("save it as safetensors");
    std::fs::write(at.join("a.gguf"), "GGUF").unwrap();
    let gguf = Adapter::open(&at.join("a.gguf")).unwrap_err().to_string();
    assert!(gguf.contains("adapter in GGUF"), "{gguf}");
}
