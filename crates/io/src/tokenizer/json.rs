//! `tokenizer.json` as Hob's own tokenizers take it: byte-level BPE with any cutting by expressions, and SentencePiece
//! written as merges. What else the format can say is left to the `tokenizers` library, several times slower.

use super::{
    Model,
    bpe::Bpe,
    build, bytes, clip,
    merge::NONE,
    merges::{Merges, halves},
    pre::Pre,
    spm::{Order, Spm},
    vocab::{Kind, Vocab},
};
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Value, json};
use std::{borrow::Cow, collections::HashMap, fmt};

/// The parts of the file that the own tokenizers need.
#[derive(Deserialize)]
pub(super) struct Json<'a> {
    added_tokens: Vec<Added>,
    normalizer: Value,
    pre_tokenizer: Value,
    #[serde(borrow)]
    model: BpeJson<'a>,
}

/// A token that is found in the text before anything else.
#[derive(Deserialize)]
pub(super) struct Added {
    pub id: u32,
    pub content: String,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    pub special: bool,
}

impl Added {
    /// Whether it is matched as it stands, and takes nothing around it.
    pub(super) fn is_raw(&self) -> bool {
        !self.normalized && self.is_alone()
    }

    fn is_alone(&self) -> bool {
        !self.single_word && !self.lstrip && !self.rstrip
    }
}

#[derive(Deserialize)]
struct BpeJson<'a> {
    dropout: Option<f32>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(borrow)]
    vocab: Ids<'a>,
    #[serde(borrow)]
    merges: Vec<Pair<'a>>,
}

/// A model, its tokens, and whether it puts a space before text.
pub(super) struct Made {
    pub vocab: Vocab,
    pub model: Model,
    pub space_prefix: bool,
    pub unk: Option<u32>,
}

impl Json<'_> {
    /// The tokenizer, when it is one of Hob's own kinds and does not contradict itself.
    pub(super) fn make(&self) -> Option<Made> {
        let model = &self.model;
        let empty = |text: &Option<String>| text.as_deref().unwrap_or_default().is_empty();
        // What CLIP's files have normalized is in lower case anyway.
        let clip = Pre::is_clip(&self.normalizer, &self.pre_tokenizer);
        let plain = model.dropout.unwrap_or(0.0) == 0.0
            && empty(&model.continuing_subword_prefix)
            && empty(&model.end_of_word_suffix) != clip
            && self
                .added_tokens
                .iter()
                .all(|token| (!token.normalized || clip || self.normalizer.is_null()) && token.is_alone());
        match model.byte_fallback {
            _ if !plain => None,
            false if clip => {
                let merges = model.merges.iter().map(Pair::bytes);
                let added = self.added_tokens.iter().map(|token| (&*token.content, token.id, token.special));
                let suffix = model.end_of_word_suffix.as_deref()?;
                clip::make(&model.vocab, merges, added, suffix, self.unk()).ok()
            }
            false => self.byte_level(),
            true => (!clip).then(|| self.sentence_piece())?,
        }
    }

    fn byte_level(&self) -> Option<Made> {
        let nfc = match &self.normalizer {
            Value::Null => false,
            normalizer if *normalizer == json!({"type": "Sequence", "normalizers": []}) => false,
            normalizer if *normalizer == json!({"type": "NFC"}) => true,
            _ => return None,
        };
        let pre = Pre::from_json(&self.pre_tokenizer, nfc, self.model.ignore_merges)?;
        let (vocab, _) = self.vocab(Some(""))?;
        let merges = self.model.merges.iter().map(Pair::bytes);
        let model = Model::Bpe(Box::new(Bpe::new(&vocab, pre, merges).ok()?));
        Some(Made { vocab, model, space_prefix: false, unk: self.unk() })
    }

    fn sentence_piece(&self) -> Option<Made> {
        let mark = json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"});
        let first = json!({"type": "Prepend", "prepend": "\u{2581}"});
        // After an added token that is no control token, too, the library would put a space.
        let space_prefix = if self.normalizer == mark {
            false
        } else if self.normalizer == json!({"type": "Sequence", "normalizers": [first, mark]})
            && self.added_tokens.iter().all(|token| token.special)
        {
            true
        } else {
            return None;
        };
        // Gemma's file cuts at spaces, of which none are left.
        let cut = &self.pre_tokenizer;
        if !cut.is_null() && (cut["type"] != "Split" || cut["pattern"] != json!({"String": " "})) {
            return None;
        }
        let (vocab, byte_ids) = self.vocab(None)?;
        let merges = self.model.merges.iter().map(Pair::bytes);
        let merges = Merges::new(&vocab, merges, |half, out| {
            build::spaced(half, out);
            Ok(())
        });
        let unk = self.unk();
        let model = Model::Spm(Box::new(Spm::new(&vocab, Order::Ranks(merges.ok()?), byte_ids, unk)));
        Some(Made { vocab, model, space_prefix, unk })
    }

    fn unk(&self) -> Option<u32> {
        let name = self.model.unk_token.as_deref()?;
        self.model.vocab.0.iter().find(|(text, _)| text == name).map(|&(_, id)| id)
    }

    fn vocab(&self, byte_level: Option<&str>) -> Option<(Vocab, Box<[u32; 256]>)> {
        let added: HashMap<u32, bool> =
            self.added_tokens.iter().map(|token| (token.id, token.special)).collect();
        let ids = self.model.vocab.0.iter().map(|(text, id)| (&**text, *id));
        let all = ids.chain(self.added_tokens.iter().map(|token| (token.content.as_str(), token.id)));
        let (mut vocab, byte_ids) = vocabulary(all, &added, byte_level, self.model.byte_fallback).ok()?;
        vocab.index();
        Some((vocab, byte_ids))
    }
}

/// Tokens by id, of which `added` are not made by merging (true for a control token), with the bytes that they decode
/// to; and the tokens of single bytes. Byte-level ones may have a suffix where a word ends.
pub(super) fn vocabulary<'a>(
    tokens: impl Iterator<Item = (&'a str, u32)> + Clone,
    added: &HashMap<u32, bool>,
    byte_level: Option<&str>,
    byte_fallback: bool,
) -> Result<(Vocab, Box<[u32; 256]>), String> {
    let count = check_ids(tokens.clone())?;
    let mut by_id = vec![""; count];
    tokens.for_each(|(text, id)| by_id[id as usize] = text);
    let mut vocab = Vocab::new(count, 8 * count)?;
    let mut byte_ids = Box::new([NONE; 256]);
    for (id, text) in by_id.into_iter().enumerate() {
        let added = added.get(&(id as u32));
        let text = text.as_bytes();
        if let Some(byte) = build::byte_token(text).filter(|_| byte_fallback && added.is_none()) {
            byte_ids[byte as usize] = id as u32;
            vocab.push(|out| {
                out.push(byte);
                Kind::Byte
            })?;
            continue;
        }
        vocab.push(|out| {
            let Some(suffix) = byte_level else {
                build::spaced(text, out);
                return kind(text, added);
            };
            if added.is_some() || !bytes::decode_marked(text, suffix, out) {
                out.extend_from_slice(text);
                if added.is_none() {
                    return Kind::Unused;
                }
            }
            kind(text, added)
        })?;
    }
    Ok((vocab, byte_ids))
}

fn kind(text: &[u8], added: Option<&bool>) -> Kind {
    match added {
        Some(true) => Kind::Control,
        Some(false) => Kind::User,
        None if text.is_empty() => Kind::Unused,
        None => Kind::Normal,
    }
}

/// How many ids tokens have: not far more than there are tokens, or a file would cost memory for nothing.
pub(super) fn check_ids<'a>(tokens: impl Iterator<Item = (&'a str, u32)>) -> Result<usize, String> {
    let (mut given, mut count) = (0, 0);
    for (_, id) in tokens {
        given += 1;
        count = count.max(id as usize + 1);
    }
    if count > 2 * given + 1024 {
        return Err(format!("its ids reach {count} with only {given} tokens"));
    }
    Ok(count)
}

/// Texts with their ids, in the file's order.
pub(super) struct Ids<'a>(pub Vec<(Cow<'a, str>, u32)>);

/// A text, borrowed from the file unless it is written with escapes.
#[derive(Deserialize)]
pub(super) struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Ids<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Ids<'a>, D::Error> {
        struct Map<'a>(std::marker::PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for Map<'a> {
            type Value = Ids<'a>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("tokens with their ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ids<'a>, A::Error> {
                let mut ids = Vec::new();
                while let Some((Text(text), id)) = map.next_entry()? {
                    ids.push((text, id));
                }
                Ok(Ids(ids))
            }
        }
        deserializer.deserialize_map(Map(std::marker::PhantomData))
    }
}

/// A merge: two texts, or one with a space between, as older files have it.
enum Pair<'a> {
    Two(Cow<'a, str>, Cow<'a, str>),
    One(Cow<'a, str>),
}

impl Pair<'_> {
    fn bytes(&self) -> [&[u8]; 2] {
        match self {
            Pair::Two(left, right) => [left.as_bytes(), right.as_bytes()],
            Pair::One(text) => halves(text.as_bytes()),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Pair<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Pair<'a>, D::Error> {
        struct Either<'a>(std::marker::PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for Either<'a> {
            type Value = Pair<'a>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("two tokens")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Pair<'a>, E> {
                Ok(Pair::One(text.into()))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Pair<'a>, E> {
                Ok(Pair::One(text.to_string().into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Pair<'a>, A::Error> {
                let mut next = || seq.next_element::<Text>()?.ok_or_else(|| A::Error::custom("half a merge"));
                let (Text(left), Text(right)) = (next()?, next()?);
                Ok(Pair::Two(left, right))
            }
        }
        deserializer.deserialize_any(Either(std::marker::PhantomData))
    }
}
