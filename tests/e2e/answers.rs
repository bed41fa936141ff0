//! Answers of real models: the right text, repeatable, with honest measures.

use crate::common::{Run, World};
use crate::models::model;
use crate::spent::{Spent, spent};
use serde_json::Value;
use std::io::Write;
use std::process::{Command, Stdio};

const SMOLLM2: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
const GEMMA3: &str = "gemma-3-270m-q4_k_m.gguf";

fn path(name: &str) -> String {
    model(name).to_str().unwrap().to_string()
}

/// A golden of `tests/golden/greedy`.
fn golden(name: &str) -> Value {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/greedy/");
    serde_json::from_slice(&std::fs::read(format!("{file}{name}/golden.json")).unwrap()).unwrap()
}

/// `hob run` with the likeliest tokens, and `more`.
fn greedy(world: &World, model: &str, prompt: &str, more: &[&str]) -> Command {
    world.command(&[&["run", model, prompt, "--temperature=0"], more].concat())
}

fn piped(mut command: Command, stdin: &[u8]) -> Run {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(stdin).unwrap();
    child.wait_with_output().unwrap().into()
}

/// The object of `--json`, its measures checked: sane, and what was planned is what was used.
#[track_caller]
fn report(spent: &Spent, prompt_tokens: usize, tokens: usize) -> Value {
    let report: Value = serde_json::from_str(spent.run.ok()).unwrap();
    assert_eq!(spent.run.stdout.lines().count(), 1, "one object on a line of its own");
    let number = |key: &str| report[key].as_f64().unwrap_or_else(|| panic!("no {key} in {report}"));
    assert_eq!(
        (number("prompt_tokens"), number("tokens")),
        (prompt_tokens as f64, tokens as f64),
        "{report}"
    );
    let all = spent.time.as_secs_f64() * 1e3;
    let (load, first) = (number("load_ms"), number("ttft_ms"));
    assert!(load > 0.0 && first > 0.0 && load + first < all, "{report}, in all {all} ms");
    let (read, said) =
        (1e3 * prompt_tokens as f64 / number("prompt_tps"), 1e3 * tokens as f64 / number("tps"));
    assert!(read <= first * 1.01 && said <= all, "{report}");
    let (planned, peak) = (number("planned_bytes"), number("peak_bytes"));
    if cfg!(target_os = "linux") {
        assert!((planned / peak - 1.0).abs() < 0.03, "planned {planned}, measured {peak}");
        assert!((spent.peak as f64 / peak - 1.0).abs() < 0.02, "the system says {}, hob {peak}", spent.peak);
    }
    report
}

#[test]
fn smollm2_answers_as_the_golden_does() {
    let world = World::new();
    let golden = golden("smollm2");
    for key in ["factorial", "cat"] {
        let golden = &golden["prompts"][key];
        let question = golden["messages"][0]["content"].as_str().unwrap();
        let spent = spent(&mut greedy(&world, &path(SMOLLM2), question, &["--json", "--max-tokens=24"]));
        let report = report(&spent, golden["ids"].as_array().unwrap().len(), 24);
        let text = report["text"].as_str().unwrap();
        assert!(golden["text"].as_str().unwrap().starts_with(text) && text.len() > 40, "{text:?}");
        assert_eq!(report["stop"], "length");
        assert_eq!(spent.run.stderr, "");
    }
}

#[test]
fn gemma3_continues_as_the_golden_does() {
    let world = World::new();
    let golden = &golden("gemma3-270m")["prompts"]["water"];
    let prompt = golden["prompt"].as_str().unwrap();
    let spent = spent(&mut greedy(&world, &path(GEMMA3), prompt, &["--raw", "--json", "--max-tokens=24"]));
    let report = report(&spent, golden["ids"].as_array().unwrap().len(), 24);
    let text = report["text"].as_str().unwrap();
    assert!(golden["text"].as_str().unwrap().starts_with(text) && text.len() > 40, "{text:?}");
}

#[test]
fn a_long_prompt_is_planned_as_well() {
    let world = World::new();
    let prompt = ["river"; 700].join(" ");
    for threads in ["--threads=1", "--threads=2"] {
        let run = spent(&mut greedy(
            &world,
            &path(SMOLLM2),
            &prompt,
            &["--raw", "--json", "--max-tokens=4", threads],
        ));
        report(&run, 700, 4);
    }
}

/// A context filled to its end holds what was planned: keys and values in fewer bits, windows that give pages back, an
/// answer long enough that the weights were laid out meanwhile.
#[test]
fn a_full_context_keeps_to_its_plan() {
    let world = World::new();
    for (model, kv, ctx) in [(SMOLLM2, "q8_0", 3000), (SMOLLM2, "q4_0", 1000), (GEMMA3, "f16", 2500)] {
        let prompt = vec!["river"; ctx - 41].join(" ");
        let (kv, size) = (format!("--kv={kv}"), format!("--ctx={ctx}"));
        let run = spent(&mut greedy(&world, &path(model), &prompt, &["--raw", "--json", &kv, &size]));
        let said: Value = serde_json::from_str(run.run.ok()).unwrap();
        assert_eq!(said["stop"], "context", "{said}");
        let read = said["prompt_tokens"].as_u64().unwrap() as usize;
        report(&run, read, ctx + 1 - read); // the last token needs no place
    }
}

#[test]
fn the_same_text_however_it_is_asked_for() {
    let world = World::new();
    let model = path(SMOLLM2);
    let more = ["--raw", "--max-tokens=12"];
    let first = greedy(&world, &model, "Once upon a time", &more).output().unwrap();
    let first = Run::from(first).ok().to_string();
    assert!(first.len() > 20, "{first}");
    for threads in ["--threads=1", "--threads=3"] {
        let run = greedy(&world, &model, "Once upon a time", &[&more[..], &[threads]].concat());
        assert_eq!(spent(&mut { run }).run.ok(), first, "{threads}");
    }
    assert_eq!(piped(greedy(&world, &model, "-", &more), b"Once upon a time").ok(), first);
    let bare = world.command(&[&["run", &model, "--temperature=0"], &more[..]].concat());
    assert_eq!(piped(bare, b"Once upon a time").ok(), first);
    let option = world
        .command(&[&["run", &model, "--temperature=0", "--prompt=Once upon a time"], &more[..]].concat());
    assert_eq!(spent(&mut { option }).run.ok(), first);
    // A context of exactly what is needed, and one token less.
    let enough = spent(&mut greedy(&world, &model, "Once upon a time", &["--raw", "--ctx=8", "--json"])).run;
    let report: Value = serde_json::from_str(enough.ok()).unwrap();
    assert_eq!((&report["stop"], &report["tokens"]), (&"context".into(), &5.into()), "{enough:?}");
    assert_eq!(enough.stderr, "hob: the answer ended because the context is full; --ctx makes it longer\n");
    let short = spent(&mut greedy(&world, &model, "Once upon a time", &["--raw", "--ctx=3"])).run;
    short.fails("the text has 4 tokens, 1 more than the context of 3 holds");
}

#[test]
fn a_seed_makes_chance_repeatable() {
    let world = World::new();
    let model = path(SMOLLM2);
    let ask = |seed: &str| {
        let args =
            ["run", &model, "Tell me a story.", "--temperature=1.5", "--min-p=0", "--max-tokens=16", seed];
        world.run(&args).ok().to_string()
    };
    let (one, again, other) = (ask("--seed=1"), ask("--seed=1"), ask("--seed=2"));
    assert_eq!(one, again);
    assert_ne!(one, other);
}

#[test]
fn a_system_message_changes_the_prompt() {
    let world = World::new();
    let model = path(SMOLLM2);
    let more = ["--json", "--max-tokens=8"];
    let plain = spent(&mut greedy(&world, &model, "Hi", &more));
    let tokens = serde_json::from_str::<Value>(plain.run.ok()).unwrap()["prompt_tokens"].as_u64().unwrap();
    let system = "You are a pirate who speaks of nothing but gold, rum and the seven seas, at great length.";
    let asked = spent(&mut greedy(&world, &model, "Hi", &[&more[..], &["--system", system]].concat()));
    let report: Value = serde_json::from_str(asked.run.ok()).unwrap();
    assert!(report["prompt_tokens"].as_u64().unwrap() > tokens, "{report}");
    assert_ne!(report["text"], serde_json::from_str::<Value>(plain.run.ok()).unwrap()["text"]);
}
