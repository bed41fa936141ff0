//! Unigram (Kudo 2018, arXiv:1804.10959), as T5 has it: of all ways to cut a text into tokens, the one whose scores, log
//! probabilities, add up to most.
//!
//! As for [`super::spm`], the vocabulary holds plain spaces where SentencePiece writes U+2581. The score of what no token
//! spells, and normalization, are those of sentencepiece's `unigram_model.cc` and `normalizer.cc`; where the rules of
//! normalization join several characters (combining marks upon marks), Hugging Face's `tokenizers` applies them otherwise.

use super::{
    Model, Spec,
    charsmap::{Charsmap, base64},
    json::{Added, Made, Text, vocabulary},
    merge::NONE,
    spm::{SPACE, Spm},
    vocab::{Kind, Vocab},
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{borrow::Cow, collections::HashMap};

/// How much worse than the worst token a character without one is.
const UNKNOWN_PENALTY: f64 = 10.0;

/// What is done to text before it is cut.
pub(super) struct Normal {
    pub charsmap: Option<Charsmap>,
    /// runs of spaces become one
    pub squeeze: bool,
    /// spaces at the end are left out
    pub trim: bool,
    /// all white space is as spaces, not only what the rules say
    pub any_space: bool,
}

/// The algorithm.
pub(super) struct Unigram {
    normal: Normal,
    /// By token.
    scores: Vec<f64>,
    /// Whether scores are added up in 32 bits, as SentencePiece does, which decides where two ways are equally good.
    single: bool,
    unknown: u32,
    unknown_score: f64,
    /// The token of each byte, where all bytes have one.
    byte_ids: Option<Box<[u32; 256]>>,
    /// Bytes of the longest token.
    longest: usize,
}

impl Unigram {
    /// A score for each token; `byte_ids` as found while reading the vocabulary.
    pub(super) fn new(
        vocab: &Vocab,
        normal: Normal,
        mut scores: Vec<f64>,
        byte_ids: Box<[u32; 256]>,
        unknown: u32,
        single: bool,
    ) -> Result<Unigram, String> {
        if scores.len() != vocab.len() {
            return Err(format!("it has {} tokens and {} scores", vocab.len(), scores.len()));
        }
        if let Some(bad) = scores.iter().position(|score| !score.is_finite()) {
            return Err(format!("its token {bad} has no finite score"));
        }
        let plain = |id: u32| vocab.kind(id) == Some(Kind::Normal);
        let of = || (0..vocab.len() as u32).filter(|&id| plain(id));
        let (worst, best) = of().fold((0f64, f64::NEG_INFINITY), |(worst, best), id| {
            (worst.min(scores[id as usize]), best.max(scores[id as usize]))
        });
        // What its makers defined is to be preferred to whatever spells the same.
        for id in (0..vocab.len() as u32).filter(|&id| vocab.kind(id) == Some(Kind::User)) {
            let len = vocab.get(id).map_or(0, <[u8]>::len);
            scores[id as usize] = len as f64 * best.max(worst) - 0.1;
        }
        let longest =
            (0..vocab.len() as u32).filter_map(|id| vocab.get(id)).map(<[u8]>::len).max().unwrap_or(0);
        let byte_ids = (!byte_ids.contains(&NONE)).then_some(byte_ids);
        Ok(Unigram {
            normal,
            scores,
            unknown,
            unknown_score: worst - UNKNOWN_PENALTY,
            byte_ids,
            longest,
            single,
        })
    }

    /// Appends the tokens of a text, which begins with a space if `prefix`.
    pub(super) fn encode(&self, vocab: &Vocab, text: &str, prefix: bool, out: &mut Vec<u32>) {
        let text = self.normal.apply(text, prefix);
        let bytes = text.as_bytes();
        // Of the best way to each place: its score, where its last token begins, and which that is.
        let mut best = vec![(f64::NEG_INFINITY, 0u32, NONE); bytes.len() + 1];
        best[0].0 = 0.0;
        for (start, first) in text.char_indices() {
            let so_far = best[start].0;
            let one = start + first.len_utf8();
            let mut take = |end: usize, score: f64, id: u32| {
                let sum = so_far + score;
                let score = if self.single { sum as f32 as f64 } else { sum };
                if best[end].2 == NONE || score > best[end].0 {
                    best[end] = (score, start as u32, id);
                }
            };
            let mut alone = false;
            for end in (one..=bytes.len().min(start + self.longest)).filter(|&end| text.is_char_boundary(end))
            {
                if let Some(id) = vocab.find(&bytes[start..end]) {
                    take(end, self.scores[id as usize], id);
                    alone |= end == one;
                }
            }
            if !alone {
                take(one, self.unknown_score, self.unknown);
            }
        }
        let mut path = Vec::new();
        let mut end = bytes.len();
        while end > 0 {
            let (_, start, id) = best[end];
            path.push((start as usize, end, id));
            end = start as usize;
        }
        let mut before = NONE;
        for &(start, end, id) in path.iter().rev() {
            match &self.byte_ids {
                Some(ids) if id == self.unknown => {
                    out.extend(bytes[start..end].iter().map(|&b| ids[b as usize]))
                }
                // A run of what is unknown is one unknown.
                _ if id == self.unknown && before == id => {}
                _ => out.push(id),
            }
            before = id;
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.normal.charsmap.as_ref().map_or(0, Charsmap::heap_bytes)
            + 8 * self.scores.capacity()
            + self.byte_ids.as_ref().map_or(0, |ids| size_of_val(&**ids))
    }
}

impl Normal {
    /// As SentencePiece's own files say.
    fn of_spec(spec: &mut Spec) -> Result<Normal, String> {
        let squeeze = spec.remove_extra_whitespaces.unwrap_or(true);
        let charsmap = Charsmap::parse(&spec.precompiled_charsmap.take().unwrap_or_default())?;
        Ok(Normal { charsmap, squeeze, trim: squeeze, any_space: false })
    }

    /// As a `tokenizer.json` says; `None` where it says otherwise than T5's files of all years.
    fn of_json(normalizer: &Value, pre_tokenizer: &Value) -> Option<Normal> {
        let parts = |value: &Value, key: &str| match &value[key] {
            Value::Array(parts) => parts.clone(),
            _ if value.is_null() => Vec::new(),
            _ => vec![value.clone()],
        };
        let mut normal = Normal { charsmap: None, squeeze: false, trim: false, any_space: false };
        for part in parts(normalizer, "normalizers") {
            match part["type"].as_str()? {
                "Precompiled" => {
                    normal.charsmap =
                        Charsmap::parse(&base64(part["precompiled_charsmap"].as_str()?)?).ok()?
                }
                "Strip" if part["strip_left"] == false && part["strip_right"] == true => normal.trim = true,
                "Replace" if part["pattern"] == json!({"Regex": " {2,}"}) => {
                    normal.squeeze = matches!(part["content"].as_str(), Some(" " | SPACE));
                }
                _ => return None,
            }
        }
        let cuts = parts(pre_tokenizer, "pretokenizers");
        let (last, before) = cuts.split_last()?;
        if let [space] = before {
            normal.any_space = space["type"] == "WhitespaceSplit";
            (normal.squeeze, normal.trim) = (normal.any_space, normal.any_space);
        }
        let known = before.len() <= 1
            && normal.squeeze
            && last["type"] == "Metaspace"
            && last["replacement"] == SPACE
            && (last["prepend_scheme"] == "always" || last["add_prefix_space"] == true)
            && last["split"] != false;
        known.then_some(normal)
    }

    /// The text as the vocabulary spells it.
    fn apply(&self, text: &str, prefix: bool) -> String {
        let text: Cow<str> = match &self.charsmap {
            None => text.into(),
            Some(rules) => {
                let mut out = String::with_capacity(text.len());
                rules.apply(text, |part| out.push_str(part));
                out.into()
            }
        };
        let mut out = String::with_capacity(text.len() + 1);
        let is_space = |c: char| c == ' ' || self.any_space && c.is_whitespace();
        for c in text.chars() {
            match is_space(c) {
                true if self.squeeze && (out.is_empty() && self.trim || out.ends_with(' ')) => {}
                true => out.push(' '),
                false => {
                    if out.is_empty() && prefix {
                        out.push(' ');
                    }
                    out.push(c);
                }
            }
        }
        if self.trim {
            out.truncate(out.trim_end_matches(' ').len());
        }
        if !self.squeeze && prefix && text.starts_with(' ') {
            out.insert(0, ' ');
        }
        match Spm::normalize(&out) {
            Cow::Borrowed(_) => out,
            Cow::Owned(spelled) => spelled,
        }
    }
}

/// The vocabulary and the algorithm over it, of a file of SentencePiece's own or of a GGUF.
pub(super) fn of_spec(
    vocab: &Vocab,
    byte_ids: Box<[u32; 256]>,
    spec: &mut Spec,
    unknown: Option<u32>,
) -> Result<Model, String> {
    let scores = spec.scores.take().ok_or("its vocabulary has no scores")?.map(f64::from).collect();
    let unknown = unknown.ok_or("it has no token for what it cannot spell")?;
    Ok(Model::Unigram(Box::new(Unigram::new(
        vocab,
        Normal::of_spec(spec)?,
        scores,
        byte_ids,
        unknown,
        true,
    )?)))
}

/// The parts of a `tokenizer.json` that matter here.
#[derive(Deserialize)]
pub(super) struct Json<'a> {
    added_tokens: Vec<Added>,
    normalizer: Value,
    pre_tokenizer: Value,
    #[serde(borrow)]
    model: ModelJson<'a>,
}

#[derive(Deserialize)]
struct ModelJson<'a> {
    #[serde(rename = "type")]
    kind: String,
    unk_id: u32,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(borrow)]
    vocab: Vec<(Text<'a>, f64)>,
}

impl Json<'_> {
    /// The tokenizer, when it is T5's and does not contradict itself.
    pub(super) fn make(&self) -> Option<Made> {
        let ModelJson { kind, unk_id, byte_fallback, vocab } = &self.model;
        if kind != "Unigram" || !self.added_tokens.iter().all(Added::is_raw) {
            return None;
        }
        let normal = Normal::of_json(&self.normalizer, &self.pre_tokenizer)?;
        let added: HashMap<u32, bool> =
            self.added_tokens.iter().map(|token| (token.id, token.special)).collect();
        let tokens = vocab.iter().zip(0..).map(|((text, _), id)| (&*text.0, id));
        let tokens = tokens.chain(self.added_tokens.iter().map(|token| (&*token.content, token.id)));
        let (mut table, byte_ids) = vocabulary(tokens, &added, None, *byte_fallback).ok()?;
        table.index();
        let mut scores: Vec<f64> = vocab.iter().map(|(_, score)| *score).collect();
        scores.resize(table.len(), 0.0);
        let model = Unigram::new(&table, normal, scores, byte_ids, *unk_id, false).ok()?;
        let unk = Some(*unk_id).filter(|&id| (id as usize) < table.len())?;
        Some(Made {
            vocab: table,
            model: Model::Unigram(Box::new(model)),
            space_prefix: true,
            unk: Some(unk),
        })
    }
}
