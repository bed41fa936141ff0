//! Answers by chance under each schema of the suite: every finished one is valid, and all finish.

mod common;

use common::{Random, invalid, rows, smollm2};
use hob_grammar::{Form, Grammar};

/// Tokens of a walk at most; with 2 of 3 steps towards its end after [`TIRED`], a walk needs far fewer.
const STEPS: usize = 1500;
const TIRED: usize = 60;
const SEEDS: u64 = 4;

/// Walks to the end: ids, or what went wrong. By chance tokens that must come are taken as a server takes them.
fn walk(grammar: &mut Grammar, seed: u64) -> Result<Vec<u32>, String> {
    let (tokenizer, _) = smollm2();
    let mut random = Random(seed);
    let mut ids = Vec::new();
    let closes = |id: &u32| {
        let text = tokenizer.token_bytes(*id).unwrap_or_default();
        tokenizer.is_special(*id) || text.first().is_some_and(|b| b"\"]}".contains(b))
    };
    while !grammar.ended() {
        if ids.len() > STEPS {
            return Err("does not end".into());
        }
        if random.below(2) == 0 {
            let forced = grammar.forced().to_vec();
            for id in &forced {
                grammar.accept(*id).map_err(|e| format!("a forced token: {e}"))?;
            }
            ids.extend_from_slice(&forced);
            if grammar.ended() {
                break;
            }
        }
        let mut may: Vec<u32> = grammar.mask().map_err(|e| e.to_string())?.ids().collect();
        let last: Vec<u32> = may.iter().copied().filter(closes).collect();
        if !last.is_empty() && random.below(6) < if ids.len() > TIRED { 4 } else { 1 } {
            may = last;
        }
        let id = may[random.below(may.len())];
        grammar.accept(id).map_err(|e| e.to_string())?;
        ids.push(id);
    }
    Ok(ids)
}

#[test]
fn every_answer_by_chance_is_valid() {
    let (tokenizer, vocabulary) = smollm2();
    let (mut failures, mut answers) = (Vec::new(), 0);
    for row in rows() {
        let grammar = match Grammar::new(vocabulary, &Form::JsonSchema(row.schema.clone())) {
            Ok(grammar) => grammar,
            Err(e) => {
                failures.push(format!("{}: {e}", row.name));
                continue;
            }
        };
        for seed in 0..SEEDS {
            answers += 1;
            match walk(&mut grammar.clone(), seed) {
                Ok(ids) => {
                    let answer = tokenizer.decode(&ids);
                    if let Some(what) = invalid(&row.schema, &answer) {
                        failures.push(format!("{}: {what}: {answer}", row.name));
                    }
                }
                Err(what) => failures.push(format!("{}, seed {seed}: {what}", row.name)),
            }
        }
    }
    assert!(answers >= 800 || !failures.is_empty(), "{answers} answers");
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}
