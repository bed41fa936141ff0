//! Looking inside real models: show, list, bench and debug.

use crate::common::World;
use crate::models::model;
use crate::spent::spent;
use serde_json::Value;
use std::io::Read;

const MODELS: [(&str, &str); 2] =
    [("smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"), ("gemma3-270m", "gemma-3-270m-q4_k_m.gguf")];

fn golden(kind: &str, name: &str) -> Value {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/");
    serde_json::from_slice(&std::fs::read(format!("{file}{kind}/{name}/golden.json")).unwrap()).unwrap()
}

fn ids(list: &Value) -> String {
    list.as_array().unwrap().iter().map(Value::to_string).collect::<Vec<_>>().join(" ")
}

#[test]
fn logits_are_written_and_their_largest_are_golden() {
    let world = World::new();
    for (name, file) in MODELS {
        let golden = golden("logits", name);
        let (text, vocab) = (&golden["texts"]["english"], golden["vocab"].as_u64().unwrap() as usize);
        let out = world.path(&format!("{name}.f32"));
        let path = model(file);
        let args =
            ["debug", "logits", path.to_str().unwrap(), "--text", text["text"].as_str().unwrap(), "--out"];
        let run = world.run(&[&args[..], &[out.to_str().unwrap()]].concat());
        assert_eq!(run.ok(), ids(&text["ids"]));
        // Row by row: what this process holds would count as the peak of those it starts.
        let mut file = std::fs::File::open(&out).unwrap();
        assert_eq!(file.metadata().unwrap().len(), text["tokens"].as_u64().unwrap() * vocab as u64 * 4);
        let mut row = vec![0; vocab * 4];
        let mut best = Vec::new();
        while file.read_exact(&mut row).is_ok() {
            let number = |i: usize| f32::from_le_bytes(row[4 * i..][..4].try_into().unwrap());
            best.push((0..vocab).max_by(|&a, &b| number(a).total_cmp(&number(b))).unwrap());
        }
        let first = text["first_position"].as_u64().unwrap() as usize;
        assert_eq!(serde_json::json!(best[first..]), text["argmax"], "{name}");
    }
    let left = crate::common::files(world.dir.path());
    assert_eq!(left, ["gemma3-270m.f32", "smollm2.f32"], "nothing but what was asked for");
}

#[test]
fn special_tokens_in_a_text_are_text_unless_asked() {
    let world = World::new();
    let path = model(MODELS[0].1);
    let tokenize = |text: &str, more: &[&str]| {
        let args = ["debug", "tokenize", path.to_str().unwrap(), "--text", text];
        world.run(&[&args[..], more].concat()).ok().to_string()
    };
    let golden = &golden("greedy", "smollm2")["prompts"]["cat"];
    let prompt = golden["prompt"].as_str().unwrap();
    assert_eq!(tokenize(prompt, &["--special"]), ids(&golden["ids"]));
    assert_ne!(tokenize(prompt, &[]), ids(&golden["ids"]));
    assert_eq!(tokenize("<|im_end|>", &["--special"]), "2");
    assert_eq!(tokenize("", &[]), "");
    let gemma = model(MODELS[1].1);
    let run = world.run(&["debug", "tokenize", gemma.to_str().unwrap(), "--bos", "--text", "Water boils at"]);
    assert_eq!(run.ok(), "2 17390 104264 657");
}

#[test]
fn graph_and_plan_are_printed_without_reading_weights() {
    let world = World::new();
    for (_, file) in MODELS {
        let path = model(file);
        let path = path.to_str().unwrap();
        let graph = spent(&mut world.command(&["debug", "graph", path]));
        let last: Vec<&str> = graph.run.ok().lines().rev().take(2).collect();
        assert!(last[0].starts_with("logits = %") && last[1].contains("linear"), "{last:?}");
        assert!(last[1].contains("model.embed_tokens.weight"), "both tie their ends: {last:?}");
        let plan = spent(&mut world.command(&["debug", "plan", path, "--ctx=1024"]));
        let text = plan.run.ok();
        for row in ["process ", "weights ", "state ", "activations ", "total ", "reading 512 tokens at once"]
        {
            assert!(text.contains(row), "no {row} in {text}");
        }
        for run in [graph, plan] {
            assert!(
                run.peak < 80 << 20,
                "{file}: {} MiB are more than a header and a tokenizer",
                run.peak >> 20
            );
        }
    }
}

#[test]
fn the_bench_prints_a_line_a_test() {
    let world = World::new();
    let path = model(MODELS[0].1);
    let args = ["bench", path.to_str().unwrap(), "pp8", "tg2", "tg1@4", "--reps=1"];
    let run = world.run(&args);
    let lines: Vec<&str> = run.ok().lines().collect();
    assert_eq!(lines.len(), 3, "{run:?}");
    for (line, test) in lines.iter().zip(["pp8", "tg2", "tg1@4"]) {
        let number = line.strip_prefix(&format!("hob {test} ")).unwrap_or_else(|| panic!("{line:?}"));
        assert!(number.split_once('.').is_some_and(|(_, cents)| cents.len() == 2), "{line:?}");
        assert!(number.parse::<f64>().unwrap() > 0.0);
    }
    let run = world.run(&[&args[..], &["--json"]].concat());
    for line in run.ok().lines() {
        let object: Value = serde_json::from_str(line).unwrap();
        assert!(
            object["engine"] == "hob" && object["test"].is_string() && object["tps"].as_f64().unwrap() > 0.0
        );
    }
}

#[test]
fn the_profile_holds_ops_against_the_machine() {
    let world = World::new();
    let path = model(MODELS[0].1);
    let args = ["debug", "profile", path.to_str().unwrap(), "pp16", "tg2@4"];
    let run = world.run(&[&args[..], &["--json"]].concat());
    let profiles: Vec<Value> = run.ok().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(profiles.len(), 2, "{run:?}");
    for (profile, test) in profiles.iter().zip(["pp16", "tg2@4"]) {
        assert!(profile["test"] == test && profile["tps"].as_f64().unwrap() > 0.0, "{profile}");
        let ops = profile["ops"].as_array().unwrap();
        let op = |name: &str| ops.iter().find(|o| o["op"] == name).unwrap_or_else(|| panic!("no {name}"));
        let number = |o: &Value, field: &str| o[field].as_f64().unwrap();
        let (linear, limits) = (op("linear Q4_1 (1536, 576)"), &profile["ceilings"]);
        assert_eq!(linear["calls"], 60, "gate and up of 30 layers");
        for (field, of, limit) in [("gbps", "of_read", "read_gbps"), ("gflops", "of_peak", "int8_gops")] {
            let share = number(linear, field) / number(limits, limit);
            assert!(share > 0.0 && (share / number(linear, of) - 1.0).abs() < 1e-6, "{linear}");
        }
        let share = number(op("attend"), "gflops") / number(limits, "f32_gflops");
        assert!(share > 0.0 && (share / number(op("attend"), "of_peak") - 1.0).abs() < 1e-6);
        let shares: f64 = ops.iter().map(|o| number(o, "share")).sum();
        assert!(shares > 0.2 && shares <= 1.0 + 1e-9, "{shares}");
    }
    let run = world.run(&args);
    let text = run.ok();
    assert!(text.contains("GB/s") && text.contains("pp16: ") && text.contains("nearest"), "{text}");
    let run = world.run(&["debug", "ceilings", "--threads=1"]);
    assert!(run.ok().starts_with("1 thread") && run.ok().lines().count() == 1, "{run:?}");
}

#[test]
fn models_are_shown_and_listed() {
    let world = World::new();
    let smollm2 = model(MODELS[0].1);
    let show = world.run(&["show", smollm2.to_str().unwrap()]);
    let text = show.ok();
    let row = |name: &str| {
        let line =
            text.lines().find(|l| l.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {text}"));
        line[name.len()..].trim().to_string()
    };
    assert_eq!(row("architecture"), "llama");
    assert_eq!(row("parameters"), "134.5M");
    assert_eq!(row("quantization"), "Q4_1");
    assert_eq!(row("context"), "8192 tokens");
    assert_eq!(row("size"), "98.4 MB");
    assert!(text.contains("chat template") && text.contains("<|im_start|>"), "{text}");
    let gemma = model(MODELS[1].1);
    let json = world.run(&["show", gemma.to_str().unwrap(), "--json", "--tensors"]);
    let json: Value = serde_json::from_str(json.ok()).unwrap();
    assert_eq!((&json["architecture"], &json["quantization"]), (&"gemma3_text".into(), &"Q4_K_M".into()));
    assert!(
        json["tensors"].as_array().unwrap().len() > 200 && json["formats"]["Q4_K"]["tensors"].is_number()
    );
    // Laid where LM Studio keeps them, they are listed, and run by their names.
    let folder = world.path("home/.lmstudio/models/maker/SmolLM2-GGUF");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::hard_link(&smollm2, folder.join(MODELS[0].1))
        .or_else(|_| std::fs::copy(&smollm2, folder.join(MODELS[0].1)).map(|_| ()))
        .unwrap();
    let list = world.run(&["list"]);
    assert!(list.ok().contains("SmolLM2") && list.stdout.contains("98.4 MB"), "{list:?}");
    let json: Value = serde_json::from_str(world.run(&["list", "--json"]).ok()).unwrap();
    let name = json[0]["name"].as_str().unwrap_or_else(|| panic!("{json}"));
    for args in [&["run", name, "Hi", "--max-tokens=2"][..], &["run", "--prompt=Hi", "--max-tokens=2"]] {
        assert!(!world.run(args).ok().is_empty());
    }
}
