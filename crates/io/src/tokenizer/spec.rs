//! What a file says of its tokenizer, before it is believed.

use crate::{
    Error, Gguf, Result,
    gguf::{Array, Value},
};

/// A list read once, of known length.
pub type List<'a, T> = Box<dyn ExactSizeIterator<Item = T> + 'a>;

/// A tokenizer as GGUF's `tokenizer.ggml.*` keys describe it; the fields are named after the keys.
pub struct Spec<'a> {
    /// The algorithm: `gpt2` (byte-level BPE), `llama` (SentencePiece BPE), `t5` (Unigram) or `bert` (WordPiece).
    pub model: &'a str,
    /// The pre-tokenizer's name.
    pub pre: Option<&'a str>,
    /// The tokens, by id.
    pub tokens: List<'a, &'a [u8]>,
    /// The tokens' scores (SentencePiece).
    pub scores: Option<List<'a, f32>>,
    /// The tokens' types: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    pub token_type: Option<List<'a, i64>>,
    /// The merges (byte-level BPE), by rank, as two tokens with a space between.
    pub merges: Option<List<'a, &'a [u8]>>,
    /// Begins a text.
    pub bos: Option<u64>,
    /// Ends a text.
    pub eos: Option<u64>,
    /// Ends a turn of a chat.
    pub eot: Option<u64>,
    /// Ends a message that more messages of the same turn follow.
    pub eom: Option<u64>,
    /// Stands for what the vocabulary cannot spell.
    pub unknown: Option<u64>,
    /// Fills up batches.
    pub padding: Option<u64>,
    /// Separates texts of a pair, and ends them.
    pub separator: Option<u64>,
    /// Whether a text is to begin with `bos`.
    pub add_bos: Option<bool>,
    /// Whether a text is to end with `eos`.
    pub add_eos: Option<bool>,
    /// Whether a space goes before a text (SentencePiece).
    pub add_space_prefix: Option<bool>,
    /// Whether runs of spaces become one (Unigram).
    pub remove_extra_whitespaces: Option<bool>,
    /// SentencePiece's rules of normalization (Unigram).
    pub precompiled_charsmap: Option<Vec<u8>>,
}

impl<'a> Spec<'a> {
    /// Tokens and the algorithm's name alone.
    pub fn new(model: &'a str, tokens: List<'a, &'a [u8]>) -> Spec<'a> {
        Spec {
            model,
            pre: None,
            tokens,
            scores: None,
            token_type: None,
            merges: None,
            bos: None,
            eos: None,
            eot: None,
            eom: None,
            unknown: None,
            padding: None,
            separator: None,
            add_bos: None,
            add_eos: None,
            add_space_prefix: None,
            remove_extra_whitespaces: None,
            precompiled_charsmap: None,
        }
    }

    /// The tokenizer that a GGUF file describes. Fails when a key is missing or has the wrong type.
    pub fn from_gguf(gguf: &'a Gguf) -> Result<Spec<'a>> {
        let damaged = |what: String| Error::damaged(gguf.path(), what);
        let wrong = |key: &str| damaged(format!("its metadata key tokenizer.ggml.{key} has the wrong type"));
        let get = |key: &str| gguf.get(&format!("tokenizer.ggml.{key}"));
        let list = |key: &str| -> Result<Option<Array<'a>>> {
            get(key).map(|value| value.array().ok_or_else(|| wrong(key))).transpose()
        };
        let text = |key: &str| -> Result<Option<&'a str>> {
            get(key).map(|value| value.str().ok_or_else(|| wrong(key))).transpose()
        };
        let id = |key: &str| -> Result<Option<u64>> {
            get(&format!("{key}_token_id")).map(|value| id(value).ok_or_else(|| wrong(key))).transpose()
        };
        let flag = |key: &str| -> Result<Option<bool>> {
            get(key).map(|value| value.bool().ok_or_else(|| wrong(key))).transpose()
        };
        let strings = |key: &str| -> Result<Option<List<'a, &'a [u8]>>> {
            let Some(array) = list(key)? else { return Ok(None) };
            Ok(Some(Box::new(array.strings().ok_or_else(|| wrong(key))?)))
        };
        let missing = |key: &str| {
            let what =
                format!("it has no tokenizer (no metadata key tokenizer.ggml.{key}); convert it with one");
            Error::unsupported(gguf.path(), what)
        };
        let scores = |array: Array<'a>| -> Result<List<'a, f32>> {
            if let Some(floats) = array.f32s() {
                return Ok(Box::new(floats));
            }
            Ok(Box::new(array.ints().ok_or_else(|| wrong("scores"))?.map(|i| i as f32)))
        };
        let types = |array: Array<'a>| -> Result<List<'a, i64>> {
            Ok(Box::new(array.ints().ok_or_else(|| wrong("token_type"))?))
        };
        let bytes = |array: Array<'a>| -> Result<Vec<u8>> {
            // Signed bytes in some files.
            let ints = array.ints().ok_or_else(|| wrong("precompiled_charsmap"))?;
            Ok(ints.map(|byte| byte as u8).collect())
        };
        Ok(Spec {
            model: text("model")?.ok_or_else(|| missing("model"))?,
            pre: text("pre")?,
            tokens: strings("tokens")?.ok_or_else(|| missing("tokens"))?,
            scores: list("scores")?.map(scores).transpose()?,
            token_type: list("token_type")?.map(types).transpose()?,
            merges: strings("merges")?,
            bos: id("bos")?,
            eos: id("eos")?,
            eot: id("eot")?,
            eom: id("eom")?,
            unknown: id("unknown")?,
            padding: id("padding")?,
            // So the key is spelled.
            separator: id("seperator")?,
            add_bos: flag("add_bos_token")?,
            add_eos: flag("add_eos_token")?,
            add_space_prefix: flag("add_space_prefix")?,
            remove_extra_whitespaces: flag("remove_extra_whitespaces")?,
            precompiled_charsmap: list("precompiled_charsmap")?.map(bytes).transpose()?,
        })
    }
}

/// An id; -1, as some converters write for "none", is taken as beyond every vocabulary.
fn id(value: Value) -> Option<u64> {
    value.u64().or_else(|| value.f64().filter(|&v| v == -1.0).map(|_| u64::MAX))
}
