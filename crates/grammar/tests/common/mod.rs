//! What the suites share: SmolLM2's vocabulary, the schemas, and an independent validator.
#![allow(dead_code)]

#[path = "../../../../tests/common/models.rs"]
pub mod models;

use hob_grammar::Vocabulary;
use hob_io::{Gguf, Tokenizer};
use serde_json::Value;
use std::sync::{Arc, OnceLock};

pub const SMOLLM2: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
pub const GEMMA3: &str = "gemma-3-270m-q4_k_m.gguf";

pub fn tokenizer(file: &str) -> Arc<Tokenizer> {
    Arc::new(Tokenizer::from_gguf(&Gguf::open(&models::model(file)).unwrap()).unwrap())
}

/// SmolLM2's vocabulary, made once.
pub fn smollm2() -> &'static (Arc<Tokenizer>, Vocabulary) {
    static MADE: OnceLock<(Arc<Tokenizer>, Vocabulary)> = OnceLock::new();
    MADE.get_or_init(|| {
        let tokenizer = tokenizer(SMOLLM2);
        let vocabulary = Vocabulary::new(tokenizer.clone(), tokenizer.vocab_size()).unwrap();
        (tokenizer, vocabulary)
    })
}

pub struct Row {
    pub name: String,
    pub prompt: String,
    pub schema: Value,
}

/// The suite, made by `dev/grammar_schemas.py`.
pub fn rows() -> Vec<Row> {
    let rows: Value = serde_json::from_str(include_str!("../schemas.json")).unwrap();
    let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_string();
    let rows = rows.as_array().unwrap().iter();
    rows.map(|r| Row { name: text(r, "name"), prompt: text(r, "prompt"), schema: r["schema"].clone() })
        .collect()
}

/// What is wrong with an answer, if anything: it must be JSON, and valid with formats asserted.
pub fn invalid(schema: &Value, answer: &str) -> Option<String> {
    let value: Value = match serde_json::from_str(answer) {
        Ok(value) => value,
        Err(e) => return Some(format!("no JSON: {e}")),
    };
    let validator =
        jsonschema::options().should_validate_formats(true).build(schema).expect("a right schema");
    let mut errors = validator.iter_errors(&value).map(|e| format!("{} at {}", e, e.instance_path()));
    errors.next()
}

/// Chance (Steele et al. 2014).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % n as u64) as usize
    }
}
