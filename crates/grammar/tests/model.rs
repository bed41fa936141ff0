//! A real model under each schema of the suite: every answer ends and is valid.
//!
//! `cargo test` asks every fifth; all of them:
//! `cargo test -p hob-grammar --test model -- --ignored --nocapture`

mod common;

use common::{Row, SMOLLM2, invalid, models::model, rows, smollm2};
use hob_engine::{Model, Options, Sampler, Sampling, Session};
use hob_grammar::{Form, Grammar, Mask};
use hob_io::{Chat, Checkpoint, chat};
use std::sync::Arc;

/// Tokens of an answer at most. An answer that is cut there is not finished, and counts as a failure.
const MOST: usize = 800;

/// Asks each schema's prompt at temperature 0.8, sampling under the mask; tokens that must come are fed together.
fn ask(rows: Vec<Row>) {
    let (tokenizer, vocabulary) = smollm2();
    let checkpoint = Arc::new(Checkpoint::open(&model(SMOLLM2)).unwrap());
    let chat = Chat::new(checkpoint.chat_template().as_deref(), "<|im_start|>", "<|im_end|>");
    let engine = Arc::new(Model::new(checkpoint, Options::default()).unwrap());
    assert_eq!(engine.vocab_size(), vocabulary.size());
    let mut session = Session::new(&engine, 1024).unwrap();
    let (mut failures, mut tokens, mut forced_tokens) = (Vec::new(), 0, 0);
    let asked = rows.len();
    for (seed, row) in rows.into_iter().enumerate() {
        let mut grammar = Grammar::new(vocabulary, &Form::JsonSchema(row.schema.clone())).unwrap();
        let said = [chat::Message::new("user", &format!("{} Answer in JSON.", row.prompt))];
        let options = chat::Options { add_generation_prompt: true, ..chat::Options::default() };
        let (prompt, _) = chat.encode(tokenizer, &said, &options).unwrap();
        session.prompt(&prompt, |_, _| true).unwrap();
        let mut sampler = Sampler::new(Sampling { seed: seed as u64, ..Sampling::default() });
        let mut ids: Vec<u32> = Vec::new();
        while !grammar.ended() && ids.len() < MOST {
            let forced = grammar.forced().to_vec();
            let new = if forced.is_empty() {
                let mut logits = session.logits().to_vec();
                let mask: &Mask = grammar.mask().unwrap();
                mask.apply(&mut logits);
                vec![sampler.sample(&logits)]
            } else {
                forced_tokens += forced.len();
                forced
            };
            new.iter().for_each(|id| grammar.accept(*id).unwrap());
            ids.extend_from_slice(&new);
            if !grammar.ended() {
                session.feed(&new).unwrap();
            }
        }
        tokens += ids.len();
        let answer = tokenizer.decode(&ids);
        println!("{}: {answer}", row.name);
        let what = if grammar.ended() { invalid(&row.schema, &answer) } else { Some("cut".into()) };
        failures.extend(what.map(|what| format!("{}: {what}: {answer}", row.name)));
    }
    println!("{asked} answers, {tokens} tokens, {forced_tokens} of them forced");
    assert!(failures.is_empty(), "{} of {asked} failed:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn a_model_answers_every_fifth_schema() {
    let rows = rows().into_iter().step_by(5).collect::<Vec<_>>();
    assert!(rows.len() >= 40);
    ask(rows);
}

#[test]
#[ignore = "the whole suite; see the command above"]
fn a_model_answers_every_schema() {
    let rows = rows();
    assert!(rows.len() >= 200);
    ask(rows);
}
