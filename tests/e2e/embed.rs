//! `hob embed`, and what other commands say of an encoder.

use crate::common::{Run, World};
use crate::models::model;
use crate::tiny::Tiny;
use serde_json::Value;
use std::io::Write;
use std::process::Stdio;

fn minilm() -> String {
    let weights = model("all-MiniLM-L6-v2/model.safetensors");
    weights.parent().unwrap().to_str().unwrap().to_string()
}

/// The golden texts and their vectors.
fn golden() -> (Vec<String>, Vec<Vec<f32>>) {
    let folder =
        std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/embeddings/minilm"));
    let facts: Value = serde_json::from_slice(&std::fs::read(folder.join("golden.json")).unwrap()).unwrap();
    let c = hob_io::Checkpoint::open(&folder.join("golden.safetensors")).unwrap();
    let numbers: Vec<f32> =
        c.bytes(&c.tensors["vectors"]).as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let texts = facts["texts"].as_array().unwrap().iter().map(|t| t.as_str().unwrap().to_string()).collect();
    (texts, numbers.chunks(384).map(<[f32]>::to_vec).collect())
}

fn numbers(list: &Value) -> Vec<f32> {
    list.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

/// Runs with `input` as a pipe.
fn piped(world: &World, args: &[&str], input: &str) -> Run {
    let mut child = world.command(args).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap().into()
}

fn near(a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len());
    let d = a.iter().zip(b).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(d < 1e-5, "differs by {d}");
}

#[test]
fn vectors_are_printed_as_json() {
    let (world, path) = (World::new(), minilm());
    let (texts, right) = golden();
    let mut args = vec!["embed", &path, "--json", "--"];
    args.extend(texts.iter().map(String::as_str));
    let out: Value = serde_json::from_str(world.run(&args).ok()).unwrap();
    assert_eq!((&out["dimensions"], &out["pooling"]), (&384.into(), &"mean".into()));
    let entries = out["texts"].as_array().unwrap();
    assert_eq!(entries.len(), texts.len());
    for ((entry, text), right) in entries.iter().zip(&texts).zip(&right) {
        assert_eq!(entry["text"], text.as_str());
        near(&numbers(&entry["vector"]), right);
    }
    assert_eq!(entries[0]["tokens"], 2, "[CLS] and [SEP]");
    // One text alone is its vector.
    let one: Value = serde_json::from_str(world.run(&["embed", &path, &texts[3]]).ok()).unwrap();
    near(&numbers(&one), &right[3]);
}

#[test]
fn several_texts_are_compared_and_lines_are_read_from_a_pipe() {
    let (world, path) = (World::new(), minilm());
    let run = world.run(&["embed", &path, "a cat", "a kitten", "quarterly tax filings"]);
    let rows: Vec<Vec<&str>> = run.ok().lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(rows.len(), 4, "{rows:?}");
    let cosine = |i: usize, j: usize| {
        let row = &rows[i];
        row[row.len() - 3 + j - 1].parse::<f32>().unwrap()
    };
    assert_eq!([cosine(1, 1), cosine(2, 2), cosine(3, 3)], [1.0; 3]);
    assert!(cosine(1, 2) == cosine(2, 1) && cosine(1, 2) > 0.7 && cosine(1, 3) < 0.2, "{rows:?}");

    let of = |args: &[&str], input: &str| piped(&world, &[&["embed", &path], args].concat(), input);
    assert_eq!(of(&[], "a cat\n\na kitten\nquarterly tax filings\n").ok(), run.ok());
    let many = "line\n".repeat(17);
    of(&[], &many).fails("17 texts make too wide a table (16 fit); ask for --json");
    let lines: Value = serde_json::from_str(of(&["--json"], &many).ok()).unwrap();
    assert_eq!(lines["texts"].as_array().unwrap().len(), 17);
    of(&[], "").fails("the input is empty");
    let e = world.run(&["embed", &path, &"word ".repeat(300)]);
    e.fails("302 tokens, 46 more than this model reads at once (256)");
}

#[test]
fn other_commands_know_an_encoder() {
    let (world, path) = (World::new(), minilm());
    let show = world.run(&["show", &path]);
    for part in
        ["bert", "22.7", "384 numbers, the mean over all tokens, of length 1, texts of up to 256 tokens"]
    {
        assert!(show.ok().contains(part), "{part}: {}", show.ok());
    }
    let sentence = "is an encoder, which makes vectors of texts and writes none; give it to hob embed";
    for args in [&["run", &path, "Hello"][..], &["fit", &path], &["bench", &path]] {
        world.run(args).fails(sentence);
    }
    let tokens = world.run(&["debug", "tokenize", &path, "--bos", "--text", "Hello, world!"]);
    assert_eq!(tokens.ok(), "101 7592 1010 2088 999 102");
    // A language model makes vectors too, of the last token.
    let tiny = Tiny::llama().write(&world, "tiny");
    let out = world.run(&["embed", tiny.to_str().unwrap(), "--json", "th"]);
    let out: Value = serde_json::from_str(out.ok()).unwrap();
    assert_eq!((&out["dimensions"], &out["pooling"]), (&64.into(), &"last".into()));
    let length: f32 = numbers(&out["texts"][0]["vector"]).iter().map(|x| x * x).sum();
    assert!((length - 1.0).abs() < 1e-5);
}

/// In Hob's own folder it has its name, and goes whole.
#[test]
fn a_folder_of_hobs_own_is_listed_and_removed() {
    let world = World::new();
    let own = world.path("hob/models");
    let folder = own.join("all-MiniLM-L6-v2");
    std::fs::create_dir_all(folder.join("1_Pooling")).unwrap();
    let from = std::path::PathBuf::from(minilm());
    for name in
        ["config.json", "tokenizer.json", "modules.json", "1_Pooling/config.json", "model.safetensors"]
    {
        std::fs::copy(from.join(name), folder.join(name)).unwrap();
    }
    let list: Value = serde_json::from_str(world.run(&["list", "--json"]).ok()).unwrap();
    assert_eq!((&list[0]["alias"], &list[0]["architecture"]), (&"minilm".into(), &"bert".into()));
    assert!(world.run(&["embed", "minilm", "a", "b"]).ok().contains("1.000"));
    world.run(&["rm", "minilm", "--yes"]).ok();
    assert!(!folder.exists(), "{:?}", crate::common::files(&own));
}
