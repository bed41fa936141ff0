//! Answers in a given form: which tokens may come next, by JSON Schema, grammar or regular expression.
//!
//! A [`Vocabulary`] is made once for a model. A [`Grammar`] is compiled from a [`Form`] and follows one answer: before
//! each token [`Grammar::mask`] says what may come, after it [`Grammar::accept`] takes what came. A finished answer
//! matches the form; one that is cut off (a limit of tokens, a full context) does not.
//!
//! ```no_run
//! # fn answer(tokenizer: std::sync::Arc<hob_io::Tokenizer>, rows: usize, mut next: impl FnMut(&[u32]) -> Vec<f32>)
//! # -> hob_grammar::Result<()> {
//! use hob_grammar::{Form, Grammar, Vocabulary};
//! let vocabulary = Vocabulary::new(tokenizer, rows)?;
//! let schema = serde_json::json!({"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]});
//! let mut grammar = Grammar::new(&vocabulary, &Form::JsonSchema(schema))?;
//! let mut ids = Vec::new();
//! while !grammar.ended() {
//!     let mut logits = next(&ids);
//!     grammar.mask()?.apply(&mut logits);
//!     let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap() as u32;
//!     grammar.accept(best)?; // an end token too, which is no text
//!     ids.push(best);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # JSON
//! - Objects come in the order of `properties`. Where a schema names properties and says nothing of others, no others
//!   come (as in llama.cpp); `"additionalProperties": true` lets them. `oneOf` holds where its options cannot hold
//!   both. Formats are those of RFC 3339 and the like; what is no format of JSON Schema is passed over.
//! - Between tokens of JSON there may be one space, or one or two line ends and at most 20 blanks: what models like to
//!   write, but not for ever; never before a colon or a comma. Likewise a number ends within 20 digits, an exponent
//!   within 2, and nesting turns back at 16 levels, unless a schema demands more.
//!   `"x-guidance": {"whitespace_flexible": false}` at the root of a schema makes compact JSON of it.
//! - Strings and arrays end where the schema says so; give them `maxLength` and `maxItems` for a small model.
//! - JSON Schema lets a key come twice where keys are free, and counts it once: `minProperties` above 1 is the one
//!   keyword that free keys can fail.

mod compile;
mod error;
mod grammar;
mod guard;
mod mask;
mod schema;
mod thinking;
mod vocabulary;

pub use error::{Error, Result};
pub use grammar::Grammar;
pub use mask::Mask;
pub use thinking::Thought;
pub use vocabulary::Vocabulary;

/// What is asked of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Form {
    /// any JSON object
    JsonObject,
    /// JSON that a JSON Schema (draft 2020-12, and what earlier drafts have in common with it) finds valid
    JsonSchema(serde_json::Value),
    /// a grammar in llguidance's dialect of Lark, which may hold JSON schemas (`%json {…}`) and, named as `<…>`,
    /// control tokens
    Lark(String),
    /// a regular expression that the whole answer matches
    Regex(String),
}
