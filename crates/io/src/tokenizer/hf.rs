//! Hugging Face folders: `tokenizer.json` and the small files beside it.

use super::{
    Model, Tokenizer, build, bytes,
    vocab::{Kind, Vocab},
};
use crate::{Error, Result};
use serde_json::Value;
use std::{path::Path, str::FromStr, sync::Mutex};

/// The `tokenizers` library's tokenizer.
pub(super) struct Hf {
    /// Locked, because whether special tokens are recognised is its state.
    inner: Mutex<tokenizers::Tokenizer>,
    file_len: usize,
}

/// A larger file is not a tokenizer.
const MAX_FILE: u64 = 256 << 20;

impl Tokenizer {
    /// The tokenizer of a Hugging Face folder: `tokenizer.json`, with `tokenizer_config.json`, `config.json` and
    /// `generation_config.json` naming the special tokens. Fails when `tokenizer.json` is missing or cannot be used.
    pub fn from_dir(dir: &Path) -> Result<Tokenizer> {
        let path = dir.join("tokenizer.json");
        let json = read(&path)?.ok_or_else(|| {
            Error::unsupported(
                dir,
                "it has no tokenizer.json; fetch that file too, or save the tokenizer as one",
            )
        })?;
        let beside = |name: &str| -> Result<Value> {
            let path = dir.join(name);
            let Some(text) = read(&path)? else { return Ok(Value::Null) };
            serde_json::from_str(&text).map_err(|e| Error::damaged(&path, format!("it is no JSON ({e})")))
        };
        let config = beside("tokenizer_config.json")?;
        let others = [beside("generation_config.json")?, beside("config.json")?];
        Tokenizer::from_json(&json, &config, &others).map_err(|what| Error::damaged(&path, what))
    }

    /// The same from the files' contents; `null` for one that is not there. An error is a clause about "it", the
    /// `tokenizer.json`.
    pub fn from_json(json: &str, config: &Value, others: &[Value]) -> Result<Tokenizer, String> {
        let definition: Value = serde_json::from_str(json).map_err(|e| format!("it is no JSON ({e})"))?;
        let mut inner = tokenizers::Tokenizer::from_str(json)
            .map_err(|e| format!("the tokenizers library refuses it ({e})"))?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| format!("its truncation cannot be turned off ({e})"))?;
        // Some models fail on text that they cannot spell; a character no vocabulary has finds out.
        inner
            .encode_fast("\u{10fffd}", false)
            .map_err(|e| format!("it has no token for what it cannot spell ({e})"))?;
        let mut vocab = vocabulary(&inner, &definition)?;
        let named = |key: &str| -> Option<u32> {
            let name = &config[key];
            inner.token_to_id(name.as_str().or_else(|| name["content"].as_str())?)
        };
        let listed = |key: &str| -> Vec<u32> {
            let ids = |value: &Value| match value {
                Value::Array(list) => list.iter().filter_map(Value::as_u64).collect(),
                value => value.as_u64().into_iter().collect::<Vec<_>>(),
            };
            let all = others.iter().flat_map(|other| ids(&other[key]));
            all.filter_map(|id| u32::try_from(id).ok()).filter(|&id| (id as usize) < vocab.len()).collect()
        };
        let first = |key: &str| named(key).or_else(|| listed(&format!("{key}_id")).first().copied());
        let (bos, unk, pad) = (first("bos_token"), first("unk_token"), first("pad_token"));
        let ends: Vec<u32> = named("eos_token").into_iter().chain(listed("eos_token_id")).collect();
        let around = inner.encode_fast("a", true).map_err(|e| format!("it cannot encode ({e})"))?;
        let around = around.get_ids();
        let add_bos = bos.is_some() && around.first() == bos.as_ref();
        let add_eos = ends.first().is_some_and(|eos| around.last() == Some(eos));
        let space_prefix = definition["decoder"].to_string().contains("\"Strip\"")
            || definition["decoder"]["type"] == "Metaspace";
        let eos = build::end_ids(&mut vocab, ends.into_iter());
        let (specials, user) = build::matchers(&vocab);
        Ok(Tokenizer {
            vocab,
            model: Model::Hf(Box::new(Hf { inner: Mutex::new(inner), file_len: json.len() })),
            specials,
            user,
            space_prefix,
            bos,
            eos,
            unk,
            pad,
            add_bos,
            add_eos,
            warning: None,
        })
    }
}

/// A file's text; `None` when there is no such file.
fn read(path: &Path) -> Result<Option<String>> {
    match std::fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::read(path, e)),
        Ok(meta) if meta.len() > MAX_FILE => {
            return Err(Error::unsupported(path, "it is far larger than any tokenizer; fetch it again"));
        }
        Ok(_) => {}
    }
    std::fs::read_to_string(path).map(Some).map_err(|e| Error::read(path, e))
}

/// The tokens with the bytes they decode to, for all that is not encoding.
fn vocabulary(inner: &tokenizers::Tokenizer, definition: &Value) -> Result<Vocab, String> {
    let tokens = inner.get_vocab(true);
    let count = tokens.values().max().map_or(0, |&id| id as usize + 1);
    if count > 2 * tokens.len() + 1024 {
        return Err(format!("its ids reach {count} with only {} tokens", tokens.len()));
    }
    let mut by_id: Vec<&str> = vec![""; count];
    for (text, &id) in &tokens {
        by_id[id as usize] = text;
    }
    let byte_level = definition["decoder"].to_string().contains("\"ByteLevel\"");
    let byte_fallback = definition["model"]["byte_fallback"] == true;
    let added = inner.get_added_tokens_decoder();
    let mut vocab = Vocab::new(count, 8 * count)?;
    for (id, text) in by_id.into_iter().enumerate() {
        let added = added.get(&(id as u32));
        let byte = byte_fallback.then(|| build::byte_token(text.as_bytes())).flatten();
        vocab.push(|out| {
            match byte {
                Some(byte) if added.is_none() => {
                    out.push(byte);
                    return Kind::Byte;
                }
                _ if byte_level && added.is_some() => out.extend_from_slice(text.as_bytes()),
                _ if byte_level && bytes::decode(text.as_bytes(), out) => {}
                _ if byte_level => out.extend_from_slice(text.as_bytes()),
                _ => build::spaced(text.as_bytes(), out),
            }
            match added {
                Some(token) if token.special => Kind::Control,
                Some(_) => Kind::User,
                None if text.is_empty() => Kind::Unused,
                None => Kind::Normal,
            }
        })?;
    }
    Ok(vocab)
}

impl Hf {
    pub(super) fn encode(&self, text: &str, special: bool, unk: Option<u32>, out: &mut Vec<u32>) {
        let mut inner = self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        inner.set_encode_special_tokens(!special);
        match inner.encode_fast(text, false) {
            Ok(encoding) => out.extend_from_slice(encoding.get_ids()),
            // Only a text that cannot be spelled fails, and loading made sure that it can.
            Err(_) => out.extend(unk),
        }
    }

    /// About what the library's maps take, by the file's size.
    pub(super) fn heap_bytes(&self) -> usize {
        5 * self.file_len
    }
}
