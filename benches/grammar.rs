//! What answers in a given form cost: `cargo bench -p hob-grammar --bench grammar [-- FILTER] [--each]`.
//!
//! For SmolLM2's and Gemma 3's vocabulary: time and memory of making it ready, then for each class of forms how long
//! compiling takes (with the first mask) and how long each token's mask and its application to logits, in microseconds.
//! Each form is compiled and walked by chance several times in the same way, and the least time of each step counts.
//! FILTER is part of a class's name; with `--each` every form has a line.

#[path = "../tests/common/models.rs"]
mod models;

use hob_grammar::{Form, Grammar, Vocabulary};
use hob_io::{Gguf, Tokenizer};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;

const MODELS: [&str; 2] = ["SmolLM2-135M-Instruct.Q4_1.gguf", "gemma-3-270m-q4_k_m.gguf"];
const TIMES: usize = 3;
const SEEDS: u64 = 3;
const STEPS: usize = 150;

/// Forms of the suite by their names, and some of other kinds.
fn classes() -> Vec<(&'static str, Vec<(String, Form)>)> {
    let rows: Value =
        serde_json::from_str(include_str!("../crates/grammar/tests/schemas.json")).expect("the suite");
    let rows: Vec<(String, Form)> = rows
        .as_array()
        .into_iter()
        .flatten()
        .map(|r| (r["name"].as_str().unwrap_or_default().into(), Form::JsonSchema(r["schema"].clone())))
        .collect();
    let of = |some: &[&str]| {
        let named = |name: &str| some.iter().any(|s| name.starts_with(s));
        rows.iter().filter(|(name, _)| named(name)).cloned().collect::<Vec<_>>()
    };
    let free =
        json!({"type": "object", "properties": {"title": {"type": "string"}, "text": {"type": "string"}}});
    let one = |name: &str, form| vec![(name.to_string(), form)];
    vec![
        ("enum, const", of(&["enum", "const"])),
        ("numbers", of(&["int", "num"])),
        ("short strings", of(&["string", "length"])),
        ("free strings", one("free", Form::JsonSchema(free))),
        ("formats", of(&["format"])),
        ("patterns", of(&["pattern"])),
        ("arrays, tuples", of(&["array", "tuple"])),
        ("objects", of(&["object"])),
        ("choices", of(&["any-of", "one-of", "all-of", "type-list"])),
        ("references", of(&["ref", "tree", "list", "expression", "mutual"])),
        ("tools", of(&["tool", "zod", "openai", "pydantic"])),
        (
            "documents",
            of(&["invoice", "recipe", "resume", "person", "order", "config", "geojson", "quiz", "table"]),
        ),
        ("any object", one("any", Form::JsonObject)),
        ("regex", one("regex", Form::Regex(r"(yes|no), because [a-z ,]{10,80}\.".into()))),
        (
            "lark",
            one(
                "lark",
                Form::Lark(
                    "start: (sum \"\\n\")+\nsum: NUM (\"+\" NUM)* \"=\" NUM\nNUM: /[0-9]{1,5}/".into(),
                ),
            ),
        ),
    ]
}

/// Microseconds of one form's walk: compiling, masks, their application, accepting; and how many tokens were forced.
#[derive(Default)]
struct Walk {
    compile: f64,
    masks: Vec<f64>,
    apply: Vec<f64>,
    accept: Vec<f64>,
    forced: usize,
}

fn micros(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e6
}

fn walk(vocabulary: &Vocabulary, form: &Form, seed: u64, logits: &mut [f32]) -> Walk {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = |n: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % n as u64) as usize
    };
    let start = Instant::now();
    let mut grammar = Grammar::new(vocabulary, form).expect("a form of the suite");
    let mut out = Walk { compile: micros(start), ..Walk::default() };
    for step in 0..STEPS {
        let start = Instant::now();
        let forced = grammar.forced().to_vec();
        let id = match forced.first() {
            Some(id) => *id,
            None => {
                let mask = grammar.mask().expect("a way on");
                let ids: Vec<u32> = {
                    if step > 0 {
                        out.masks.push(micros(start));
                    }
                    let start = Instant::now();
                    mask.apply(logits);
                    out.apply.push(micros(start));
                    mask.ids().collect()
                };
                ids[random(ids.len())]
            }
        };
        out.forced += usize::from(!forced.is_empty());
        let start = Instant::now();
        grammar.accept(id).expect("an allowed token");
        out.accept.push(micros(start));
        if grammar.ended() {
            break;
        }
    }
    out
}

/// The least of each step over several walks that are the same.
fn least(some: Vec<Walk>) -> Walk {
    let column = |of: fn(&Walk) -> &Vec<f64>| {
        let steps = some.iter().map(|w| of(w).len()).min().unwrap_or(0);
        (0..steps).map(|i| some.iter().map(|w| of(w)[i]).fold(f64::MAX, f64::min)).collect()
    };
    Walk {
        compile: some.iter().map(|w| w.compile).fold(f64::MAX, f64::min),
        masks: column(|w| &w.masks),
        apply: column(|w| &w.apply),
        accept: column(|w| &w.accept),
        forced: some.first().map_or(0, |w| w.forced),
    }
}

fn line(name: &str, walks: &[Walk]) {
    let all = |of: fn(&Walk) -> &Vec<f64>| {
        let mut some: Vec<f64> = walks.iter().flat_map(|w| of(w).iter().copied()).collect();
        some.sort_by(f64::total_cmp);
        some
    };
    let mean = |some: &[f64]| some.iter().sum::<f64>() / some.len().max(1) as f64;
    let at = |some: &[f64], q: f64| {
        some.get(((some.len() as f64 - 1.0) * q).round() as usize).copied().unwrap_or(0.0)
    };
    let (masks, accept) = (all(|w| &w.masks), all(|w| &w.accept));
    let compile: Vec<f64> = walks.iter().map(|w| w.compile).collect();
    let most = compile.iter().fold(0.0f64, |m, x| m.max(*x));
    let forced = walks.iter().map(|w| w.forced).sum::<usize>() as f64 / accept.len().max(1) as f64;
    println!(
        "{name:28} {:8.1} {most:8.1} {:6} {:8.1} {:7.1} {:8.1} {:8.1} {:7.1} {:7.1} {:6.0}%",
        mean(&compile),
        masks.len(),
        mean(&masks),
        at(&masks, 0.5),
        at(&masks, 0.99),
        at(&masks, 1.0),
        mean(&all(|w| &w.apply)),
        mean(&accept),
        100.0 * forced
    );
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let filter = args.iter().find(|a| !a.starts_with("--"));
    let each = args.iter().any(|a| a == "--each");
    for file in MODELS {
        let gguf = Gguf::open(&models::model(file)).expect("a model");
        let tokenizer = Arc::new(Tokenizer::from_gguf(&gguf).expect("a tokenizer"));
        let before = hob_engine::memory::process();
        let start = Instant::now();
        let vocabulary = Vocabulary::new(tokenizer.clone(), tokenizer.vocab_size()).expect("a vocabulary");
        let ready = micros(start) / 1e3;
        let bytes = hob_engine::memory::process().saturating_sub(before) as f64 / 1e6;
        println!("\n{file}: {} tokens, ready in {ready:.0} ms, {bytes:.1} MB", vocabulary.size());
        println!(
            "{:28} {:>8} {:>8} {:>6} {:>8} {:>7} {:>8} {:>8} {:>7} {:>7} {:>7}",
            "µs", "compile", "most", "masks", "mean", "p50", "p99", "max", "apply", "accept", "forced"
        );
        let mut logits = vec![0.0; vocabulary.size()];
        let mut everything = Vec::new();
        for (class, forms) in
            classes().into_iter().filter(|(c, _)| filter.is_none_or(|f| c.contains(f.as_str())))
        {
            let mut walks = Vec::new();
            for (name, form) in forms {
                let mut again =
                    |seed| least((0..TIMES).map(|_| walk(&vocabulary, &form, seed, &mut logits)).collect());
                let some: Vec<Walk> = (0..SEEDS).map(&mut again).collect();
                if each {
                    line(&format!("  {name}"), &some);
                }
                walks.extend(some);
            }
            line(class, &walks);
            everything.extend(walks);
        }
        line("all", &everything);
    }
}
