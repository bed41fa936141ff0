//! CLIP's byte-level BPE (Radford et al. 2021): text in lower case, and tokens that end a word are marked so (`</w>`), for
//! which the vocabulary here has a space.
//!
//! After transformers' `tokenization_clip.py`. OpenAI's own code first repairs broken text by a library of its kind
//! (`ftfy`), which matters to curly quotes and full-width letters alone, and which transformers does without.

use super::{
    Model, Tokenizer,
    bpe::Bpe,
    bytes,
    hf::{Added, Rest},
    json::{Ids, Made, vocabulary},
    merge::NONE,
    merges::halves,
    pre::Pre,
};
use serde_json::{Value, json};
use std::{borrow::Cow, collections::HashMap};

/// The merges, in order, each as the numbers of two tokens before it (u16, little endian).
const MERGES: &[u8] = include_bytes!("../../data/clip_merges.bin");
/// What marks the end of a word.
const SUFFIX: &str = "</w>";
const BEGIN: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";

impl Tokenizer {
    /// The tokenizer that all of CLIP's and OpenCLIP's text encoders share, of 49,408 tokens, for checkpoints that bring
    /// none. It pads with the token that ends texts, as CLIP does; OpenCLIP's encoders are padded with token 0.
    pub fn clip() -> Tokenizer {
        let letters: Vec<String> = bytes::alphabet().map(String::from).collect();
        let mut tokens: Vec<String> = letters.iter().map(|letter| format!("{letter}{SUFFIX}")).collect();
        tokens.splice(..0, letters);
        let pair = |merge: &[u8]| {
            let [l0, l1, r0, r1] = *merge else { unreachable!("chunks of four") };
            [u16::from_le_bytes([l0, l1]), u16::from_le_bytes([r0, r1])].map(usize::from)
        };
        for [left, right] in MERGES.chunks_exact(4).map(pair) {
            tokens.push(format!("{}{}", tokens[left], tokens[right]));
        }
        let merges = MERGES.chunks_exact(4).map(|merge| pair(merge).map(|id| tokens[id].as_bytes()));
        let mut ids: Vec<(Cow<str>, u32)> = (0..).zip(&tokens).map(|(id, text)| (text.into(), id)).collect();
        ids.extend([BEGIN, END].into_iter().zip(tokens.len() as u32..).map(|(text, id)| (text.into(), id)));
        let config = json!({"bos_token": BEGIN, "eos_token": END, "unk_token": END, "pad_token": END});
        framed(&Ids(ids), merges, &config).expect("the vocabulary in the binary, built by its tests")
    }

    /// CLIP's tokenizer from the contents of `vocab.json`, `merges.txt`, `tokenizer_config.json` and
    /// `special_tokens_map.json`, the latter two `null` where there are none. An error is a clause about "it", the folder.
    pub fn from_clip_files(
        vocab: &str,
        merges: &str,
        config: &Value,
        special: &Value,
    ) -> Result<Tokenizer, String> {
        let ids: Ids =
            serde_json::from_str(vocab).map_err(|e| format!("its vocab.json holds no tokens ({e})"))?;
        if !ids.0.iter().any(|(text, _)| text.ends_with(SUFFIX)) {
            return Err(
                "it has no tokenizer.json, and its vocab.json is not of CLIP's kind; save the tokenizer as \
                        tokenizer.json"
                    .into(),
            );
        }
        // As in transformers, the map has the last word unless the configuration lists the tokens itself.
        let mut config = config.clone();
        if let (Value::Object(special), true) = (special, config["added_tokens_decoder"].is_null()) {
            special.iter().for_each(|(key, value)| config[key] = value.clone());
        }
        let lines = merges.lines().filter(|line| !line.starts_with("#version") && !line.trim().is_empty());
        let lines: Vec<&str> = lines.map(str::trim_end).collect();
        framed(&ids, lines.iter().map(|line| halves(line.as_bytes())), &config)
    }
}

/// The tokenizer whose configuration names what begins and ends texts.
fn framed<'a>(
    ids: &Ids,
    merges: impl ExactSizeIterator<Item = [&'a [u8]; 2]>,
    config: &Value,
) -> Result<Tokenizer, String> {
    let named = |key: &str, usual: &str| {
        let name = config[key].as_str().or(config[key]["content"].as_str()).unwrap_or(usual);
        let found = ids.0.iter().find(|(text, _)| text == name);
        found.map(|&(_, id)| Added { id, content: name.into() }).ok_or(format!("it has no token {name}"))
    };
    let (begin, end) = (named("bos_token", BEGIN)?, named("eos_token", END)?);
    let unk = named("unk_token", END).ok().map(|token| token.id);
    let added = [(&*begin.content, begin.id, true), (&*end.content, end.id, true)];
    let made = make(ids, merges, added.into_iter(), SUFFIX, unk)?;
    let post_processor = json!({
        "type": "RobertaProcessing", "cls": [begin.content, begin.id], "sep": [end.content, end.id],
    });
    let mut config = config.clone();
    if config.is_null() {
        config = json!({});
    }
    for (key, token) in [("bos_token", &begin), ("eos_token", &end)] {
        config[key] = json!(token.content);
    }
    let rest = Rest { added_tokens: vec![begin, end], post_processor };
    Ok(Tokenizer::assembled(made, rest, &config, &[]))
}

/// Of tokens and merges as the files have them, and of tokens found in text as they stand (true for control tokens).
pub(super) fn make<'a, 'm>(
    ids: &'a Ids,
    merges: impl ExactSizeIterator<Item = [&'m [u8]; 2]>,
    added: impl Iterator<Item = (&'a str, u32, bool)> + Clone,
    suffix: &str,
    unk: Option<u32>,
) -> Result<Made, String> {
    // SDXL's second tokenizer names `!` as a control token, since it pads with it, but text is spelled with it too.
    let control: HashMap<u32, bool> =
        added.clone().filter(|(text, ..)| text.len() > 1).map(|(_, id, special)| (id, special)).collect();
    let tokens = ids.0.iter().map(|(text, id)| (&**text, *id));
    let tokens = tokens.chain(added.map(|(text, id, _)| (text, id)));
    let (mut vocab, _) = vocabulary(tokens, &control, Some(suffix), false)?;
    vocab.index();
    let bpe = Bpe::marked(&vocab, Pre::clip(), merges, suffix, unk.unwrap_or(NONE))?;
    Ok(Made { vocab, model: Model::Bpe(Box::new(bpe)), space_prefix: false, unk })
}
