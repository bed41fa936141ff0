//! WordPiece (Schuster & Nakajima 2012), as BERT has it: text is cleaned, cut at spaces and punctuation, and each word
//! spelled by the longest tokens there are, from its start on; a word that cannot be spelled is one unknown token.
//!
//! In the vocabulary here a token that begins a word has a space before it, and one that goes on has no `##`: what
//! decoding gives, and what GGUF writes with `▁`.

use super::{
    Model,
    json::{Ids, Made, check_ids},
    vocab::{Kind, Vocab},
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use unicode_categories::UnicodeCategories;
use unicode_normalization_alignments::UnicodeNormalization;

/// How a word that goes on is marked in Hugging Face's files.
const CONTINUED: &str = "##";
/// What is longer is no word.
pub(super) const LONGEST: usize = 100;
/// Names of control tokens in vocabularies that do not say which these are.
const CONTROL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

/// What is done to text before it is cut: `BertNormalizer`'s fields.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub(super) struct Normal {
    /// control characters are left out, and all white space becomes spaces
    pub clean_text: bool,
    /// Chinese characters are words of their own
    pub handle_chinese_chars: bool,
    /// as `lowercase`, where nothing is said
    pub strip_accents: Option<bool>,
    pub lowercase: bool,
}

/// The algorithm.
pub(super) struct WordPiece {
    normal: Normal,
    unknown: u32,
    /// characters of a word at most
    longest: usize,
}

impl WordPiece {
    pub(super) fn new(normal: Normal, unknown: u32, longest: usize) -> WordPiece {
        WordPiece { normal, unknown, longest }
    }

    /// Appends the tokens of a text.
    pub(super) fn encode(&self, vocab: &Vocab, text: &str, out: &mut Vec<u32>) {
        let mut words = Words { by: self, vocab, word: String::from(" "), out };
        let Normal { clean_text, handle_chinese_chars, strip_accents, lowercase } = self.normal;
        let strip = strip_accents.unwrap_or(lowercase);
        let clean = text.chars().filter(|&c| !clean_text || c.is_ascii_graphic() || !is_noise(c));
        let spaced = clean.flat_map(|c| {
            let own = handle_chinese_chars && is_chinese(c);
            let space = own.then_some(' ');
            let c = if clean_text && c.is_whitespace() { ' ' } else { c };
            space.into_iter().chain([c]).chain(space)
        });
        let mut take = |c: char| match lowercase {
            false => words.push(c),
            true if c.is_ascii() => words.push(c.to_ascii_lowercase()),
            true => c.to_lowercase().for_each(|c| words.push(c)),
        };
        match strip {
            true if text.is_ascii() => spaced.for_each(take),
            true => spaced.nfd().for_each(|(c, _)| {
                if c.is_ascii() || !c.is_mark_nonspacing() {
                    take(c);
                }
            }),
            false => spaced.for_each(&mut take),
        }
        words.end();
    }
}

/// Words as they come.
struct Words<'a> {
    by: &'a WordPiece,
    vocab: &'a Vocab,
    /// a space, and the word so far
    word: String,
    out: &'a mut Vec<u32>,
}

impl Words<'_> {
    fn push(&mut self, c: char) {
        if c.is_whitespace() {
            self.end();
        } else if c.is_ascii_punctuation() || !c.is_ascii() && c.is_punctuation() {
            self.end();
            self.word.push(c);
            self.end();
        } else {
            self.word.push(c);
        }
    }

    fn end(&mut self) {
        if self.word.len() > 1 {
            let known = self.out.len();
            if !self.spell() {
                self.out.truncate(known);
                self.out.push(self.by.unknown);
            }
        }
        self.word.truncate(1);
    }

    /// Whether the word could be spelled.
    fn spell(&mut self) -> bool {
        if self.word.len() > self.by.longest && self.word.chars().count() > self.by.longest + 1 {
            return false;
        }
        let (bytes, mut start) = (self.word.as_bytes(), 0); // the space is part of the first token
        while start < bytes.len() {
            let ends = (start + 1..=bytes.len()).rev().filter(|&end| self.word.is_char_boundary(end));
            // The space alone is no beginning.
            let mut ends = ends.filter(|&end| end > 1);
            let Some((end, id)) =
                ends.find_map(|end| self.vocab.find(&bytes[start..end]).map(|id| (end, id)))
            else {
                return false;
            };
            self.out.push(id);
            start = end;
        }
        true
    }
}

/// What cleaning leaves out.
fn is_noise(c: char) -> bool {
    c == '\0' || c == '\u{fffd}' || !matches!(c, '\t' | '\n' | '\r') && c.is_other()
}

/// The blocks of Chinese characters that BERT sets apart; the kana and hangul are none of them.
fn is_chinese(c: char) -> bool {
    matches!(c as u32, 0x4E00..=0x9FFF | 0x3400..=0x4DBF | 0x20000..=0x2A6DF | 0x2A700..=0x2B73F
        | 0x2B740..=0x2B81F | 0x2B920..=0x2CEAF | 0xF900..=0xFAFF | 0x2F800..=0x2FA1F)
}

/// Appends a token of a Hugging Face file as the vocabulary here has it.
fn piece(text: &str, continued: &str, out: &mut Vec<u8>) {
    match text.strip_prefix(continued) {
        Some(rest) => out.extend_from_slice(rest.as_bytes()),
        None => {
            out.push(b' ');
            out.extend_from_slice(text.as_bytes());
        }
    }
}

/// The parts of a `tokenizer.json` that matter here.
#[derive(Deserialize)]
pub(super) struct Json<'a> {
    added_tokens: Vec<super::json::Added>,
    normalizer: Value,
    pre_tokenizer: Value,
    #[serde(borrow)]
    model: ModelJson<'a>,
}

#[derive(Deserialize)]
struct ModelJson<'a> {
    #[serde(rename = "type")]
    kind: String,
    unk_token: String,
    continuing_subword_prefix: String,
    max_input_chars_per_word: usize,
    #[serde(borrow)]
    vocab: Ids<'a>,
}

impl Json<'_> {
    /// The tokenizer, when it is BERT's and does not contradict itself.
    pub(super) fn make(&self) -> Option<Made> {
        let model = &self.model;
        let mut normalizer = self.normalizer.clone();
        let kind = normalizer.as_object_mut()?.remove("type")?;
        let normal: Normal = serde_json::from_value(normalizer).ok()?;
        let plain = model.kind == "WordPiece"
            && kind == "BertNormalizer"
            && self.pre_tokenizer == json!({"type": "BertPreTokenizer"})
            && !model.continuing_subword_prefix.is_empty()
            && self.added_tokens.iter().all(|token| token.is_raw());
        if !plain {
            return None;
        }
        let added: HashMap<u32, bool> = self.added_tokens.iter().map(|t| (t.id, t.special)).collect();
        let ids = model.vocab.0.iter().map(|(text, id)| (&**text, *id));
        let all = ids.chain(self.added_tokens.iter().map(|token| (token.content.as_str(), token.id)));
        let count = check_ids(all.clone()).ok()?;
        let mut by_id = vec![""; count];
        all.for_each(|(text, id)| by_id[id as usize] = text);
        let unknown = by_id.iter().position(|&text| text == model.unk_token)? as u32;
        let mut vocab = Vocab::new(count, 8 * count).ok()?;
        for (id, text) in by_id.into_iter().enumerate() {
            let kind = match added.get(&(id as u32)) {
                Some(true) => Kind::Control,
                Some(false) => Kind::User,
                None if text.is_empty() => Kind::Unused,
                None => Kind::Normal,
            };
            let fill = |out: &mut Vec<u8>| {
                match kind {
                    Kind::Normal => piece(text, &model.continuing_subword_prefix, out),
                    _ => out.extend_from_slice(text.as_bytes()),
                }
                kind
            };
            vocab.push(fill).ok()?;
        }
        vocab.index();
        let algorithm = WordPiece::new(normal, unknown, model.max_input_chars_per_word);
        Some(Made {
            vocab,
            model: Model::WordPiece(Box::new(algorithm)),
            space_prefix: true,
            unk: Some(unknown),
        })
    }
}

/// The tokenizer of a `vocab.txt`, a token a line, with `tokenizer_config.json` beside it (`null` where there is none).
pub(super) fn from_lines(lines: &str, config: &Value) -> Result<Made, String> {
    let count = lines.lines().count();
    let mut vocab = Vocab::new(count, lines.len())?;
    let flag = |key: &str, silent: bool| config[key].as_bool().unwrap_or(silent);
    let named = ["unk_token", "sep_token", "pad_token", "cls_token", "mask_token"].map(|key| {
        let value = &config[key];
        value.as_str().or(value["content"].as_str())
    });
    let unk = named[0].unwrap_or("[UNK]");
    let mut unknown = None;
    for (id, text) in lines.lines().enumerate() {
        let text = text.trim_end();
        unknown = if text == unk { Some(id as u32) } else { unknown };
        vocab.push(|out| {
            if CONTROL.contains(&text) || named.contains(&Some(text)) {
                out.extend_from_slice(text.as_bytes());
                return Kind::Control;
            }
            piece(text, CONTINUED, out);
            Kind::Normal
        })?;
    }
    vocab.index();
    let unknown = unknown.ok_or_else(|| format!("it has no token {unk}"))?;
    let normal = Normal {
        clean_text: true,
        handle_chinese_chars: flag("tokenize_chinese_chars", true),
        strip_accents: config["strip_accents"].as_bool(),
        lowercase: flag("do_lower_case", true),
    };
    let model = Model::WordPiece(Box::new(WordPiece::new(normal, unknown, LONGEST)));
    Ok(Made { vocab, model, space_prefix: true, unk: Some(unknown) })
}

/// The algorithm over the tokens of a GGUF file, of which `unknown` is named or found. GGUF does not say whether text is
/// made lower-case: it is, unless the vocabulary has capitals.
pub(super) fn of_gguf(vocab: &Vocab, unknown: Option<u32>) -> Result<(WordPiece, u32), String> {
    let unknown = unknown.or_else(|| control(vocab, "[UNK]")).ok_or("it has no token for unknown words")?;
    let capital = |id: u32| {
        vocab.kind(id) == Some(Kind::Normal)
            && vocab.get(id).is_some_and(|text| text.iter().any(u8::is_ascii_uppercase))
    };
    let lowercase = !(0..vocab.len() as u32).any(capital);
    let normal = Normal { clean_text: true, handle_chinese_chars: true, strip_accents: None, lowercase };
    Ok((WordPiece::new(normal, unknown, LONGEST), unknown))
}

/// Appends a token of a GGUF file as the vocabulary here has it, and tells its kind.
pub(super) fn gguf_piece(text: &[u8], kind: Kind, typed: bool, out: &mut Vec<u8>) -> Kind {
    // The mark alone is that character where a word goes on, as no word is empty.
    let begins = |rest: &&[u8]| kind == Kind::Normal && !rest.is_empty();
    match text.strip_prefix(super::spm::SPACE.as_bytes()).filter(begins) {
        Some(rest) => {
            out.push(b' ');
            out.extend_from_slice(rest);
        }
        None => out.extend_from_slice(text),
    }
    if !typed && CONTROL.iter().any(|name| name.as_bytes() == text) { Kind::Control } else { kind }
}

/// The token of that name, whatever its kind.
pub(super) fn control(vocab: &Vocab, name: &str) -> Option<u32> {
    (0..vocab.len() as u32).find(|&id| vocab.get(id) == Some(name.as_bytes()))
}
