//! Models as Hugging Face folders: configuration, safetensors and tokenizer.json.

use crate::common::World;
use crate::spent::refuses;
use crate::tiny::letter;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/tiny")).join(name)
}

/// A tokenizer of 96 tokens: three special ones, then the printable characters of ASCII but `{` and `|`, space first.
fn tokenizer() -> Value {
    let mut vocab = serde_json::Map::new();
    let special = ["<unk>", "<s>", "</s>"].map(String::from);
    let letters = (32..=126).filter(|b| !matches!(b, b'{' | b'|')).map(|b| letter(b).to_string());
    for (id, token) in special.into_iter().chain(letters).enumerate() {
        vocab.insert(token, id.into());
    }
    assert_eq!(vocab.len(), 96);
    let added = |id: u32, text: &str| {
        json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [added(0, "<unk>"), added(1, "<s>"), added(2, "</s>")],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []},
    })
}

/// The golden folder in the world, with a tokenizer.
fn folder(world: &World, name: &str) -> PathBuf {
    let to = world.path(name);
    fs::create_dir(&to).unwrap();
    for entry in fs::read_dir(golden(name)).unwrap() {
        let from = entry.unwrap().path();
        let file = from.file_name().unwrap().to_str().unwrap();
        if !file.starts_with("golden") && !file.starts_with("config-") {
            fs::copy(&from, to.join(file)).unwrap();
        }
    }
    fs::write(to.join("tokenizer.json"), tokenizer().to_string()).unwrap();
    to
}

#[test]
fn folders_run_and_are_shown() {
    let world = World::new();
    for (name, architecture) in
        [("llama", "llama"), ("llama-bf16-sharded", "llama"), ("gemma3", "gemma3_text")]
    {
        let path = folder(&world, name);
        let path = path.to_str().unwrap();
        let args = ["run", path, "Hello", "--raw", "--temperature=0", "--max-tokens=8", "--json"];
        let report: Value = serde_json::from_str(world.run(&args).ok()).unwrap();
        assert_eq!(report["prompt_tokens"], 5, "{name}: {report}");
        assert!(report["tokens"].as_u64().unwrap() > 0, "{name}: {report}");
        let shown = world.run(&["show", path]);
        let line = shown.ok().lines().find(|l| l.starts_with("architecture")).unwrap();
        assert!(line.ends_with(architecture), "{name}: {shown:?}");
        assert!(shown.stdout.contains("vocabulary") && shown.stdout.contains("96"), "{name}: {shown:?}");
    }
}

/// The logits of the golden's own ids, spelled as text.
#[test]
fn a_folders_logits_are_golden() {
    let world = World::new();
    let path = folder(&world, "llama");
    let golden: Value =
        serde_json::from_slice(&fs::read(golden("llama").join("golden.json")).unwrap()).unwrap();
    let ids: Vec<u64> = golden["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
    // Special tokens cannot be spelled in plain text: up to the first of them.
    let plain: Vec<u64> = ids.iter().copied().take_while(|id| *id > 2).collect();
    assert!(plain.len() > 4, "{ids:?}");
    let letters: Vec<u8> = (32..=126).filter(|b| !matches!(b, b'{' | b'|')).collect();
    let text: String = plain.iter().map(|id| letters[*id as usize - 3] as char).collect();
    let out = world.path("logits.f32");
    let args = ["debug", "logits", path.to_str().unwrap(), "--text", &text, "--out", out.to_str().unwrap()];
    let printed = world.run(&args).ok().to_string();
    assert_eq!(printed, plain.iter().map(u64::to_string).collect::<Vec<_>>().join(" "));
    let bytes = fs::read(out).unwrap();
    assert_eq!(bytes.len(), plain.len() * 96 * 4);
    let numbers: Vec<f32> =
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    for (t, row) in numbers.chunks_exact(96).enumerate() {
        let best = (0..96).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
        assert_eq!(golden["argmax"][t], best, "position {t}");
    }
}

#[test]
fn what_is_missing_or_wrong_in_a_folder_is_told() {
    let world = World::new();
    let path = folder(&world, "llama");
    let spoil = |file: &str, to: &str, why: &str| {
        let was = fs::read(path.join(file)).unwrap();
        fs::write(path.join(file), to).unwrap();
        refuses(&world, &["run", path.to_str().unwrap(), "Hello", "--raw", "--max-tokens=2"], why);
        fs::write(path.join(file), was).unwrap();
    };
    let config: Value = serde_json::from_slice(&fs::read(path.join("config.json")).unwrap()).unwrap();
    let with = |key: &str, value: Value| {
        let mut config = config.clone();
        config[key] = value;
        config.to_string()
    };
    spoil("config.json", "{", "config.json");
    spoil("config.json", "{}", "is not supported");
    spoil("config.json", &with("num_attention_heads", 0.into()), "num_attention_heads");
    spoil("config.json", &with("vocab_size", 97.into()), "model.embed_tokens");
    spoil("config.json", &with("num_hidden_layers", 3.into()), "model.layers.2");
    spoil("config.json", &with("hidden_act", "gelu".into()), "hidden_act gelu is not supported");
    spoil("tokenizer.json", "not json", "tokenizer.json is damaged");
    spoil("tokenizer.json", "{}", "tokenizer.json is damaged");
    spoil("model.safetensors", "", "model.safetensors is damaged");
    // An architecture that Hob does not know is shown, and not run.
    fs::write(path.join("config.json"), with("model_type", "warp".into())).unwrap();
    let shown = world.run(&["show", path.to_str().unwrap()]);
    assert!(shown.ok().contains("warp"), "{shown:?}");
    refuses(
        &world,
        &["run", path.to_str().unwrap(), "Hello", "--raw"],
        "the architecture warp is not supported; llama, mistral, mixtral, qwen2, qwen3, qwen3_moe, gemma3_text, gemma3, bert, distilbert, roberta, xlm-roberta are",
    );
    for (file, why) in [("tokenizer.json", "has no tokenizer.json"), ("config.json", "")] {
        fs::remove_file(path.join(file)).unwrap();
        refuses(&world, &["run", path.to_str().unwrap(), "Hello", "--raw"], why);
    }
}
