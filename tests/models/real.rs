//! Real models, against `transformers` in float32 on their dequantized weights.

use crate::golden::{Arrays, facts, ids, largest_difference};
use crate::models::model;
use hob_engine::cache::{Cache, Part, Size};
use hob_engine::{
    CHUNK, Event, Guess, KvTypes, Limits, Model, Options, Out, Precision, Request, Sampler, Sampling,
    Scheduler, Session, Token, isa, sample::argmax,
};
use hob_graph::DType;
use hob_io::Checkpoint;
use std::sync::{Arc, Mutex};

const SMOLLM2: (&str, &str) = ("smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf");
const GEMMA3: (&str, &str) = ("gemma3-270m", "gemma-3-270m-q4_k_m.gguf");

fn open(file: &str, precision: Precision) -> Arc<Model> {
    open_with(
        file,
        precision,
        KvTypes::both(if precision == Precision::Exact { DType::F32 } else { DType::F16 }),
    )
}

fn open_with(file: &str, precision: Precision, kv: KvTypes) -> Arc<Model> {
    let checkpoint = Checkpoint::open(&model(file)).unwrap();
    Arc::new(Model::new(Arc::new(checkpoint), Options { precision, kv, ..Options::default() }).unwrap())
}

fn logits_are_golden((name, file): (&str, &str)) {
    let golden = format!("logits/{name}");
    let (facts, arrays) = (facts(&golden), Arrays::open(&golden, "golden"));
    let model = open(file, Precision::Exact);
    let (v, sample) = (model.vocab_size(), ids(&facts["sample_ids"]));
    for (key, text) in facts["texts"].as_object().unwrap() {
        let (ids, first) = (ids(&text["ids"]), text["first_position"].as_u64().unwrap() as usize);
        let mut session = Session::new(&model, ids.len()).unwrap();
        let mut rows = Vec::new();
        for chunk in ids.chunks(64) {
            rows.extend_from_slice(session.feed_all(chunk).unwrap());
        }
        let rows: Vec<&[f32]> = rows.chunks_exact(v).skip(first).collect();
        let best: Vec<u32> = rows.iter().map(|r| argmax(r)).collect();
        assert_eq!(best, crate::golden::ids(&text["argmax"]), "{name} {key}: the likeliest tokens");
        let sampled: Vec<f32> = rows.iter().flat_map(|r| sample.iter().map(|&id| r[id as usize])).collect();
        let top: Vec<f32> = rows.iter().zip(&best).map(|(r, &id)| r[id as usize]).collect();
        let sums: Vec<f32> = rows.iter().map(|r| log_sum_exp(r) as f32).collect();
        for (what, ours) in [("logits", sampled), ("top", top), ("logsumexp", sums)] {
            let d = largest_difference(&ours, &arrays.get(&format!("{key}.{what}")));
            assert!(d < 0.05, "{name} {key}: {what} differs by {d}");
        }
    }
}

fn log_sum_exp(row: &[f32]) -> f64 {
    let best = row.iter().fold(f32::NEG_INFINITY, |m, x| m.max(*x)) as f64;
    best + row.iter().map(|x| (*x as f64 - best).exp()).sum::<f64>().ln()
}

#[test]
fn real_smollm2_logits() {
    logits_are_golden(SMOLLM2);
}

#[test]
fn real_gemma3_logits() {
    logits_are_golden(GEMMA3);
}

/// What is read and what is said may be computed by different kernels, but always by the same: a prompt comes out the same in
/// whatever parts it is read, and neither it nor an answer notices the other in its steps.
fn what_is_read_beside_changes_nothing((name, file): (&str, &str)) {
    let model = open(file, Precision::Fast);
    // By vectors, sums of few tokens come in another order than those of many; rounding to 8 bits makes tenths of it.
    let same = if isa::isa() == isa::Isa::Amx { 0.0 } else { 1.0 };
    let text = |n: u32| (0..n).map(|i| 100 + i * i % 3001).collect::<Vec<u32>>();
    let (prompt, other, said) = (text(201), text(90), [500, 501, 502, 503]);
    let after = |cache: &mut Cache, parts: &[(usize, &[u32], bool)]| {
        let mut end = 0;
        let parts: Vec<Part> = parts.iter().map(|&(line, ids, read)| Part { line, ids, read }).collect();
        let rows: Vec<i32> = (parts.iter())
            .map(|part| {
                end += part.ids.len() as i32;
                end - 1
            })
            .collect();
        let program = cache.run(&model, &parts, &rows, None).unwrap();
        let logits = cache.logits(&program);
        logits.chunks(logits.len() / rows.len()).map(<[f32]>::to_vec).collect::<Vec<_>>()
    };
    let mut alone = Cache::of_lines(&model, 1, 256).unwrap();
    let line = alone.open(&[]);
    let read = after(&mut alone, &[(line, &prompt, true)]).remove(0);
    let mut alone = Cache::of_lines(&model, 1, 256).unwrap();
    let line = alone.open(&[]);
    after(&mut alone, &[(line, &other, true)]);
    let spoke = said.map(|id| after(&mut alone, &[(line, &[id], false)]).remove(0));

    let mut both = Cache::of_lines(&model, 2, 256).unwrap();
    let [reader, speaker] = [0; 2].map(|_| both.open(&[]));
    after(&mut both, &[(speaker, &other, true)]);
    let (mut at, mut together) = (0, Vec::new());
    for ((id, right), n) in said.iter().zip(&spoke).zip([150, 1, 33, 17]) {
        let parts = [(reader, &prompt[at..at + n], true), (speaker, std::slice::from_ref(id), false)];
        together = after(&mut both, &parts);
        at += n;
        let d = largest_difference(&together[1], right);
        assert!(d <= same, "{name}: {d} with what is read");
    }
    assert_eq!(at, prompt.len());
    let d = largest_difference(&together[0], &read);
    assert!(d <= same, "{name}: {d} in parts");
    // Beside others that speak the kernels are the same as well, but sums come in another order from three on.
    let mut many = Cache::of_lines(&model, 7, 256).unwrap();
    let lines = [0; 7].map(|_| many.open(&[]));
    lines.iter().enumerate().for_each(|(i, &line)| {
        after(&mut many, &[(line, if i == 0 { &other } else { &prompt[i..i + 20] }, true)]);
    });
    for (id, right) in said.iter().zip(&spoke) {
        let parts = lines.map(|line| (line, std::slice::from_ref(id), false));
        let d = largest_difference(&after(&mut many, &parts)[0], right);
        assert!(d < 1.0, "{name}: {d} among others");
    }
}

#[test]
fn real_smollm2_what_is_read_beside_changes_nothing() {
    what_is_read_beside_changes_nothing(SMOLLM2);
}

#[test]
fn real_gemma3_what_is_read_beside_changes_nothing() {
    what_is_read_beside_changes_nothing(GEMMA3);
}

/// The log-probabilities of `ids` but the first, with the likeliest in each place, as the scheduler tells them of a prompt.
fn scored(model: &Arc<Model>, ids: &[u32]) -> Vec<Token> {
    #[derive(Clone, Default)]
    struct Client(Arc<Mutex<Vec<Token>>>);
    impl Out for Client {
        fn tell(&mut self, event: Event) {
            match event {
                Event::Scored(tokens) => self.0.lock().unwrap().extend(tokens),
                Event::Failed(e) => panic!("{e}"),
                _ => {}
            }
        }
        fn listens(&self) -> bool {
            true
        }
    }
    let context = ids.len();
    let cache = Cache::of_size(model, Size { tokens: context, streams: 1, context }).unwrap();
    let limits = Limits { streams: 1, context, guess: Guess::Paying };
    let mut scheduler = Scheduler::new(model, cache, limits);
    let client = Client::default();
    scheduler.add(Request {
        ids: ids.to_vec(),
        most: 0,
        ends: Arc::new([]),
        sampler: Sampler::new(Sampling::greedy()),
        logprobs: None,
        prompt_logprobs: Some(1),
        rule: None,
        out: Box::new(client.clone()),
    });
    while scheduler.step() {}
    let scored = std::mem::take(&mut *client.0.lock().unwrap());
    assert_eq!(scored.iter().map(|t| t.id).collect::<Vec<_>>(), ids[1..]);
    scored
}

/// Prompts are as likely as `transformers` says, and as a direct pass.
fn prompts_are_scored((name, file): (&str, &str)) {
    let golden = format!("logits/{name}");
    let (facts, arrays) = (facts(&golden), Arrays::open(&golden, "golden"));
    let model = open(file, Precision::Exact);
    for (key, text) in facts["texts"].as_object().unwrap() {
        let (ids, first) = (ids(&text["ids"]), text["first_position"].as_u64().unwrap() as usize);
        let scored = scored(&model, &ids);
        let best = crate::golden::ids(&text["argmax"]);
        let (top, sums) = (arrays.get(&format!("{key}.top")), arrays.get(&format!("{key}.logsumexp")));
        for (i, token) in scored.iter().skip(first).enumerate() {
            let (id, logprob) = token.top[0];
            assert_eq!(id, best[i], "{name} {key}, position {i}");
            let off = (logprob - (top[i] - sums[i])).abs();
            assert!(off < 0.05, "{name} {key}, position {i}: {off}");
        }
        let mut session = Session::new(&model, ids.len()).unwrap();
        let rows: Vec<f32> = ids.chunks(100).flat_map(|c| session.feed_all(c).unwrap().to_vec()).collect();
        let direct = rows.chunks_exact(model.vocab_size()).zip(&ids[1..]);
        let direct: f64 = direct.map(|(row, &id)| f64::from(row[id as usize]) - log_sum_exp(row)).sum();
        let sum: f64 = scored.iter().map(|t| f64::from(t.logprob)).sum();
        println!("{name} {key}: {} tokens, {sum:.4}, in one pass {direct:.4}", ids.len());
        assert!((sum - direct).abs() < 1e-5 * direct.abs().max(1.0), "{name} {key}: {sum} and {direct}");
    }
    // Rows of logits beside a whole chunk take no more than what is planned: those rows alone, or the chunk.
    let arena = |tokens, rows| model.plan(tokens, rows).unwrap().1.arena;
    assert!(arena(CHUNK, 64) <= arena(CHUNK, 1).max(arena(64, 64)), "{name}");
}

#[test]
fn real_smollm2_prompts_are_scored() {
    prompts_are_scored(SMOLLM2);
}

#[test]
fn real_gemma3_prompts_are_scored() {
    prompts_are_scored(GEMMA3);
}

/// The perplexity of a text by what is told of it as a prompt is that of a pass over it.
#[test]
fn real_smollm2_perplexity_of_a_prompt() {
    let (direct, float) = perplexity(SMOLLM2, KvTypes::default());
    let facts = facts("perplexity/smollm2");
    let ids = &ids(&facts["ids"])[..facts["window"].as_u64().unwrap() as usize];
    let scored = scored(&open_with(SMOLLM2.1, Precision::Fast, KvTypes::default()), ids);
    let mean = scored.iter().map(|t| f64::from(t.logprob)).sum::<f64>() / scored.len() as f64;
    let told = (-mean).exp();
    println!("perplexity {told:.4} as a prompt, {direct:.4} in one pass, {float:.4} in float32");
    assert!((told / direct - 1.0).abs() < 1e-3, "{told} and {direct}");
}

fn greedy_text_is_golden((name, file): (&str, &str)) {
    let facts = facts(&format!("greedy/{name}"));
    let model = open(file, Precision::Exact);
    let eos =
        ids(&facts["eos"].as_array().map_or_else(|| [facts["eos"].clone()].into(), |_| facts["eos"].clone()));
    for (key, prompt) in facts["prompts"].as_object().unwrap() {
        let mut expected = ids(&prompt["generated"]);
        if prompt["ended_with_eos"].as_bool().unwrap() {
            expected.pop();
        }
        let mut session = Session::new(&model, 256).unwrap();
        session.prompt(&ids(&prompt["ids"]), |_, _| true).unwrap();
        let mut sampler = Sampler::new(Sampling::greedy());
        let ours: Vec<u32> = session.generate(&mut sampler, 64, &eos).map(|t| t.unwrap()).collect();
        assert_eq!(ours, expected, "{name} {key}");
    }
}

#[test]
fn real_smollm2_greedy_text() {
    greedy_text_is_golden(SMOLLM2);
}

#[test]
fn real_gemma3_greedy_text() {
    greedy_text_is_golden(GEMMA3);
}

/// Perplexity of the golden text with keys and values kept so, and that of float32.
fn perplexity((name, file): (&str, &str), kv: KvTypes) -> (f64, f64) {
    let facts = facts(&format!("perplexity/{name}"));
    let window = facts["window"].as_u64().unwrap() as usize;
    let ids = &ids(&facts["ids"])[..window];
    let model = open_with(file, Precision::Fast, kv);
    let v = model.vocab_size();
    let mut session = Session::new(&model, window).unwrap();
    let mut nll = 0.0;
    let mut at = 0;
    for chunk in ids.chunks(128) {
        let rows = session.feed_all(chunk).unwrap();
        for (i, row) in rows.chunks_exact(v).enumerate() {
            if let Some(&next) = ids.get(at + i + 1) {
                nll += log_sum_exp(row) - row[next as usize] as f64;
            }
        }
        at += chunk.len();
    }
    ((nll / (window - 1) as f64).exp(), facts["perplexity"].as_f64().unwrap())
}

/// With integer kernels and a cache in f16, a long text is as likely as it is in float32.
fn perplexity_is_near(model: (&str, &str)) {
    let (ours, theirs) = perplexity(model, KvTypes::default());
    let name = model.0;
    println!("{name}: perplexity {ours:.4}, in float32 {theirs:.4}");
    assert!((ours / theirs - 1.0).abs() < 0.005, "{name}: perplexity {ours}, in float32 {theirs}");
}

/// How far what is predicted with fast kernels is from what exact ones predict, on average over a text: the divergence of
/// Kullback and Leibler, in nats. Perplexity moves by luck; this does not.
fn divergence_is_small((name, file): (&str, &str), bound: f64) {
    let facts = facts(&format!("perplexity/{name}"));
    let ids = &ids(&facts["ids"])[..1024];
    let models = [Precision::Exact, Precision::Fast].map(|precision| open(file, precision));
    let v = models[0].vocab_size();
    let mut sessions = models.each_ref().map(|model| Session::new(model, ids.len()).unwrap());
    let mut sum = 0.0;
    for chunk in ids.chunks(128) {
        let [exact, fast] = sessions.each_mut().map(|s| s.feed_all(chunk).unwrap().to_vec());
        for (p, q) in exact.chunks_exact(v).zip(fast.chunks_exact(v)) {
            let by = [p, q].map(log_sum_exp);
            sum += p.iter().zip(q).fold(0.0, |sum, (p, q)| {
                let [p, q] = [*p as f64 - by[0], *q as f64 - by[1]];
                sum + p.exp() * (p - q)
            });
        }
    }
    let mean = sum / ids.len() as f64;
    println!("{name}: divergence {mean:.5}");
    assert!(mean < bound, "{name}: divergence {mean}");
}

#[test]
fn real_smollm2_divergence() {
    divergence_is_small(SMOLLM2, 0.01);
}

#[test]
fn real_gemma3_divergence() {
    divergence_is_small(GEMMA3, 0.01);
}

/// Keys and values in fewer bits cost little over 2,048 tokens: 0.5% in 8 bits, 3% in 4.
#[test]
fn real_smollm2_perplexity_with_a_smaller_cache() {
    let (halves, _) = perplexity(SMOLLM2, KvTypes::default());
    for (kv, bound) in [("q8_0", 0.005), ("k=q8_0,v=q4_0", 0.03), ("k=q4_0", 0.03), ("q4_0", 0.03)] {
        let (ours, _) = perplexity(SMOLLM2, kv.parse().unwrap());
        println!("{kv}: perplexity {ours:.4}, in f16 {halves:.4}, {:+.2}%", 100.0 * (ours / halves - 1.0));
        assert!((ours / halves - 1.0).abs() < bound, "{kv}: perplexity {ours}, in f16 {halves}");
    }
}

#[test]
fn real_smollm2_perplexity() {
    perplexity_is_near(SMOLLM2);
}

#[test]
fn real_gemma3_perplexity() {
    perplexity_is_near(GEMMA3);
}
