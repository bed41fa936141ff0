//! Hugging Face folders: `tokenizer.json` and the small files beside it.

use super::{
    Frame, Model, Tokenizer, build,
    json::{Json, Made, vocabulary},
    unigram, wordpiece,
};
use crate::{Error, Result};
use serde::Deserialize;
use serde_json::Value;
use std::{path::Path, str::FromStr, sync::Mutex};

/// The `tokenizers` library's tokenizer.
pub(super) struct Hf {
    /// Locked, because whether special tokens are recognised is its state.
    inner: Mutex<tokenizers::Tokenizer>,
    /// Tokens and merges.
    entries: usize,
}

/// A larger file is not a tokenizer.
const MAX_FILE: u64 = 256 << 20;

impl Tokenizer {
    /// The tokenizer of a Hugging Face folder: `tokenizer.json`, or else CLIP's `vocab.json` and `merges.txt`, T5's
    /// `spiece.model` or BERT's `vocab.txt`, with `tokenizer_config.json`, `config.json` and `generation_config.json`
    /// naming the special tokens. Fails when there is none of them, or it cannot be used.
    pub fn from_dir(dir: &Path) -> Result<Tokenizer> {
        let beside = |name: &str| -> Result<Value> {
            let path = dir.join(name);
            let Some(text) = read(&path)? else { return Ok(Value::Null) };
            serde_json::from_str(&text).map_err(|e| Error::damaged(&path, format!("it is no JSON ({e})")))
        };
        let config = beside("tokenizer_config.json")?;
        let path = dir.join("tokenizer.json");
        if let Some(json) = read(&path)? {
            let others = [beside("generation_config.json")?, beside("config.json")?];
            return Tokenizer::from_json(&json, &config, &others).map_err(|what| Error::damaged(&path, what));
        }
        let [vocab, merges] = ["vocab.json", "merges.txt"].map(|name| dir.join(name));
        if let (Some(vocab), Some(merges)) = (read(&vocab)?, read(&merges)?) {
            let map = beside("special_tokens_map.json")?;
            return Tokenizer::from_clip_files(&vocab, &merges, &config, &map)
                .map_err(|what| Error::unsupported(dir, what));
        }
        let path = dir.join("spiece.model");
        match std::fs::metadata(&path) {
            Ok(meta) if meta.len() <= MAX_FILE => {
                let bytes = std::fs::read(&path).map_err(|e| Error::read(&path, e))?;
                return Tokenizer::from_spiece(&bytes).map_err(|what| Error::damaged(&path, what));
            }
            _ => {}
        }
        let path = dir.join("vocab.txt");
        if let Some(lines) = read(&path)? {
            return Tokenizer::from_lines(&lines, &config).map_err(|what| Error::damaged(&path, what));
        }
        Err(Error::unsupported(
            dir,
            "it has no tokenizer.json, nor what stands for it (vocab.json and merges.txt, spiece.model, vocab.txt); fetch \
             that too, or save the tokenizer as tokenizer.json",
        ))
    }

    /// BERT's tokenizer from the contents of `vocab.txt` and `tokenizer_config.json`, which is `null` where there is none.
    pub fn from_lines(lines: &str, config: &Value) -> Result<Tokenizer, String> {
        let Made { vocab, model, space_prefix, unk } = wordpiece::from_lines(lines, config)?;
        let name = |key: &str, usual: &'static str| {
            let name = config[key].as_str().or(config[key]["content"].as_str()).unwrap_or(usual).to_owned();
            wordpiece::control(&vocab, &name).ok_or(format!("it has no token {name}"))
        };
        let (cls, sep) = (name("cls_token", "[CLS]")?, name("sep_token", "[SEP]")?);
        let pad = name("pad_token", "[PAD]").ok();
        let (specials, user) = build::matchers(&vocab);
        Ok(Tokenizer {
            vocab,
            model,
            specials,
            user,
            space_prefix,
            bos: Some(cls),
            eos: vec![sep],
            unk,
            pad,
            add_bos: true,
            add_eos: true,
            frame: Frame::bert(cls, sep),
            warning: None,
        })
    }

    /// The same from the files' contents; `null` for one that is not there. An error is a clause about "it", the
    /// `tokenizer.json`.
    pub fn from_json(json: &str, config: &Value, others: &[Value]) -> Result<Tokenizer, String> {
        let own = serde_json::from_str::<Json>(json).ok().and_then(|own| own.make());
        let own = own.or_else(|| serde_json::from_str::<wordpiece::Json>(json).ok()?.make());
        let own = own.or_else(|| serde_json::from_str::<unigram::Json>(json).ok()?.make());
        let made = own.map_or_else(|| library(json), Ok)?;
        let rest: Rest = serde_json::from_str(json).map_err(|e| format!("it is no JSON ({e})"))?;
        Ok(Tokenizer::assembled(made, rest, config, others))
    }

    /// What the files beside a vocabulary add to it.
    pub(super) fn assembled(made: Made, rest: Rest, config: &Value, others: &[Value]) -> Tokenizer {
        let Made { mut vocab, model, space_prefix, unk } = made;
        let by_name =
            |name: &str| rest.added_tokens.iter().find(|token| token.content == name).map(|token| token.id);
        let name = |key: &str| config[key].as_str().or_else(|| config[key]["content"].as_str());
        let named = |key: &str| by_name(name(key)?);
        let listed = |key: &str| -> Vec<u32> {
            let ids = |value: &Value| match value {
                Value::Array(list) => list.iter().filter_map(Value::as_u64).collect(),
                value => value.as_u64().into_iter().collect::<Vec<_>>(),
            };
            let all = others.iter().flat_map(|other| ids(&other[key]));
            all.filter_map(|id| u32::try_from(id).ok()).filter(|&id| (id as usize) < vocab.len()).collect()
        };
        let first = |key: &str| named(key).or_else(|| listed(&format!("{key}_id")).first().copied());
        let (before, after) = around(&rest.post_processor);
        // An encoder has other names for what begins and ends a text.
        let bos = first("bos_token").or_else(|| named("cls_token"));
        let unk = first("unk_token").or(unk);
        // OpenCLIP fills up with a token that is no other than `!`.
        let pad = first("pad_token").or_else(|| vocab.find(name("pad_token")?.as_bytes()));
        let mut ends: Vec<u32> = named("eos_token").into_iter().chain(listed("eos_token_id")).collect();
        if ends.is_empty() {
            ends.extend(named("sep_token"));
        }
        let add_bos = bos.is_some() && before.and_then(by_name) == bos;
        let add_eos = !ends.is_empty() && after.and_then(by_name).as_ref() == ends.first();
        let eos = build::end_ids(&mut vocab, ends.into_iter());
        let frame = Frame::from_json(&rest.post_processor, vocab.len());
        let frame = frame.unwrap_or_else(|| match model {
            Model::WordPiece(_) if let (Some(cls), Some(&sep)) = (bos, eos.first()) => Frame::bert(cls, sep),
            _ => Frame::plain(bos.filter(|_| add_bos), eos.first().copied().filter(|_| add_eos)),
        });
        let (specials, user) = build::matchers(&vocab);
        Tokenizer {
            vocab,
            model,
            specials,
            user,
            space_prefix,
            bos,
            eos,
            unk,
            pad,
            add_bos,
            add_eos,
            frame,
            warning: None,
        }
    }
}

/// What else of the file matters.
#[derive(Deserialize)]
pub(super) struct Rest {
    #[serde(default)]
    pub added_tokens: Vec<Added>,
    #[serde(default)]
    pub post_processor: Value,
}

#[derive(Deserialize)]
pub(super) struct Added {
    pub id: u32,
    pub content: String,
}

/// The tokens that the file puts before and after a text.
fn around(processor: &Value) -> (Option<&str>, Option<&str>) {
    match processor["type"].as_str() {
        Some("Sequence") => {
            let parts = processor["processors"].as_array().into_iter().flatten().map(around);
            parts.fold((None, None), |(a, b), (before, after)| (a.or(before), b.or(after)))
        }
        Some("TemplateProcessing") => {
            let items = &processor["single"];
            let last = items.as_array().map_or(0, |items| items.len().saturating_sub(1));
            (items[0]["SpecialToken"]["id"].as_str(), items[last]["SpecialToken"]["id"].as_str())
        }
        Some("BertProcessing" | "RobertaProcessing") => {
            (processor["cls"][0].as_str(), processor["sep"][0].as_str())
        }
        _ => (None, None),
    }
}

/// By the `tokenizers` library, which knows every kind.
fn library(json: &str) -> Result<Made, String> {
    let definition: Value = serde_json::from_str(json).map_err(|e| format!("it is no JSON ({e})"))?;
    let mut inner = tokenizers::Tokenizer::from_str(json)
        .map_err(|e| format!("the tokenizers library refuses it ({e})"))?;
    inner.with_padding(None);
    inner.with_truncation(None).map_err(|e| format!("its truncation cannot be turned off ({e})"))?;
    // Some models fail on text that they cannot spell; a character no vocabulary has finds out.
    inner
        .encode_fast("\u{10fffd}", false)
        .map_err(|e| format!("it has no token for what it cannot spell ({e})"))?;
    let suffix = definition["model"]["end_of_word_suffix"].as_str().unwrap_or_default();
    let byte_level = definition["decoder"].to_string().contains("\"ByteLevel\"").then_some(suffix);
    let byte_fallback = definition["model"]["byte_fallback"] == true;
    let added = inner.get_added_tokens_decoder().iter().map(|(&id, token)| (id, token.special)).collect();
    let tokens = inner.get_vocab(true);
    let tokens = tokens.iter().map(|(text, &id)| (text.as_str(), id));
    let (vocab, _) = vocabulary(tokens, &added, byte_level, byte_fallback)?;
    let space_prefix = definition["decoder"].to_string().contains("\"Strip\"")
        || definition["decoder"]["type"] == "Metaspace";
    let merges = definition["model"]["merges"].as_array().map_or(0, Vec::len);
    let entries = vocab.len() + merges;
    let unk = definition["model"]["unk_token"].as_str().and_then(|name| inner.token_to_id(name));
    let model = Model::Hf(Box::new(Hf { inner: Mutex::new(inner), entries }));
    Ok(Made { vocab, model, space_prefix, unk })
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

    /// About what the library's maps and caches take: measured on SmolLM2's and Gemma 3's files after a long text.
    pub(super) fn heap_bytes(&self) -> usize {
        100 * self.entries
    }
}
