//! Making a tokenizer of what a file says, which is checked here.

use super::{
    Frame, Model, Spec, Tokenizer,
    bpe::Bpe,
    bytes,
    merge::NONE,
    merges::halves,
    pre::Pre,
    special::Matcher,
    spm::{Order, SPACE, Spm},
    unigram,
    vocab::{Kind, Vocab},
    wordpiece,
};
use crate::{Error, Gguf, Result};

/// Names of tokens that end what a model generates, whatever the file's metadata says of them.
const ENDS: [&str; 18] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<turn|>",
    "<|endoftext|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
    "[EOT]",
    "<EOT>",
    "</s>",
    "<eos>",
];

impl Tokenizer {
    /// The tokenizer that a GGUF file carries. Fails when the file has none, one of another kind, or one that
    /// contradicts itself.
    pub fn from_gguf(gguf: &Gguf) -> Result<Tokenizer> {
        let spec = Spec::from_gguf(gguf)?;
        if !matches!(spec.model, "gpt2" | "llama" | "t5" | "bert") {
            let what = format!(
                "its tokenizer is of the kind {:?}, and Hob knows gpt2, llama, t5 and bert",
                spec.model
            );
            return Err(Error::unsupported(gguf.path(), what));
        }
        Tokenizer::from_spec(spec).map_err(|what| Error::damaged(gguf.path(), what))
    }

    /// The tokenizer described; an error is a clause that says what is wrong with "it", the file.
    pub fn from_spec(mut spec: Spec) -> Result<Tokenizer, String> {
        let form = match spec.model {
            "gpt2" => Form::Bytes,
            "llama" | "t5" => Form::Spaced,
            "bert" => Form::Words,
            other => return Err(format!("its tokenizer is of the unknown kind {other:?}")),
        };
        let mut warnings = Vec::new();
        let Loaded { mut vocab, byte_ids, repeated } = load(&mut spec, form)?;
        let spm = form == Form::Spaced;
        let unigram = spec.model == "t5";
        if repeated > 0 {
            warnings.push(format!("{repeated} of its tokens repeat the text of an earlier one"));
        }
        let count = vocab.len() as u64;
        let id = |name: &str, id: Option<u64>, default: Option<u64>| match id {
            // -1 in the file: there is none.
            Some(u64::MAX) => Ok(None),
            Some(id) if id >= count => Err(format!("its {name} token is {id}, beyond its {count} tokens")),
            Some(id) => Ok(Some(id as u32)),
            None => Ok(default.filter(|&id| id < count).map(|id| id as u32)),
        };
        let bos = id("bos", spec.bos, (spm && !unigram).then_some(1))?;
        let eos = id("eos", spec.eos, spm.then_some(if unigram { 1 } else { 2 }))?;
        let unk = id("unknown", spec.unknown, spm.then_some(if unigram { 2 } else { 0 }))?;
        let pad = id("padding", spec.padding, unigram.then_some(0))?;
        if form == Form::Words {
            let known = |name: &str| wordpiece::control(&vocab, name);
            let cls = bos.or_else(|| known("[CLS]")).ok_or("it has no token that begins a text")?;
            let sep = id("separator", spec.separator, None)?.or_else(|| known("[SEP]")).or(eos);
            let sep = sep.ok_or("it has no token that ends a text")?;
            let (words, unk) = wordpiece::of_gguf(&vocab, unk)?;
            let (specials, user) = matchers(&vocab);
            return Ok(Tokenizer {
                vocab,
                model: Model::WordPiece(Box::new(words)),
                specials,
                user,
                space_prefix: true,
                bos: Some(cls),
                eos: vec![sep],
                unk: Some(unk),
                pad,
                add_bos: true,
                add_eos: true,
                frame: Frame::bert(cls, sep),
                warning: (!warnings.is_empty()).then(|| warnings.join("; ")),
            });
        }
        let ends = [eos, id("eot", spec.eot, None)?, id("eom", spec.eom, None)?];

        let (model, add_bos, space_prefix);
        if unigram {
            model = unigram::of_spec(&vocab, byte_ids, &mut spec, unk)?;
            (add_bos, space_prefix) = (false, spec.add_space_prefix.unwrap_or(true));
        } else if spm {
            let scores = spec.scores.take().ok_or("its vocabulary has no scores")?;
            model = Model::Spm(Box::new(Spm::new(&vocab, Order::of_scores(&vocab, scores)?, byte_ids, unk)));
            (add_bos, space_prefix) = (true, spec.add_space_prefix.unwrap_or(true));
        } else {
            let pre = pre(spec.pre, &mut warnings)?;
            add_bos = pre.add_bos;
            space_prefix = false;
            let merges = spec.merges.take().ok_or("its byte-level vocabulary has no merges")?;
            model = Model::Bpe(Box::new(Bpe::new(&vocab, pre, merges.map(halves))?));
        }
        let eos = end_ids(&mut vocab, ends.into_iter().flatten());
        let (specials, user) = matchers(&vocab);
        let add_bos = spec.add_bos.unwrap_or(add_bos) && bos.is_some();
        let add_eos = spec.add_eos.unwrap_or(unigram);
        let frame = Frame::plain(bos.filter(|_| add_bos), eos.first().copied().filter(|_| add_eos));
        Ok(Tokenizer {
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
            warning: (!warnings.is_empty()).then(|| warnings.join("; ")),
        })
    }
}

/// The pre-tokenizer of that name, or the default with a warning.
fn pre(name: Option<&str>, warnings: &mut Vec<String>) -> Result<Pre, String> {
    if let Some(pre) = Pre::named(name.unwrap_or("default")) {
        if name.is_none() {
            warnings.push(
                "it does not name its pre-tokenizer, so words may be cut otherwise than in training".into(),
            );
        }
        return Ok(pre);
    }
    let name = name.unwrap_or_default();
    warnings.push(format!(
        "its pre-tokenizer {name:?} is unknown, so words may be cut otherwise than in training"
    ));
    Pre::named("default").ok_or_else(|| "the default pre-tokenizer is missing".into())
}

struct Loaded {
    vocab: Vocab,
    byte_ids: Box<[u32; 256]>,
    /// How many tokens have the text of an earlier one.
    repeated: usize,
}

/// How a file writes its tokens.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    /// in an alphabet of bytes
    Bytes,
    /// with a mark for each space
    Spaced,
    /// with a mark where a word begins
    Words,
}

/// Reads the tokens and their types.
fn load(spec: &mut Spec, form: Form) -> Result<Loaded, String> {
    let spm = form == Form::Spaced;
    let count = spec.tokens.len();
    if let Some(types) = spec.token_type.as_ref().filter(|types| types.len() != count) {
        return Err(format!("it has {count} tokens and {} token types", types.len()));
    }
    let mut vocab = Vocab::new(count, count * 8)?;
    let mut byte_ids = Box::new([NONE; 256]);
    let typed = spec.token_type.is_some();
    let types = spec.token_type.take();
    let mut types = types.into_iter().flatten().map(Kind::from_gguf);
    for (id, text) in (&mut spec.tokens).enumerate() {
        let kind = types.next().unwrap_or(Kind::Normal);
        if spm && (kind == Kind::Byte || !typed) {
            if let Some(byte) = byte_token(text) {
                byte_ids[byte as usize] = id as u32;
                vocab.push(|out| {
                    out.push(byte);
                    Kind::Byte
                })?;
                continue;
            } else if kind == Kind::Byte {
                return Err(format!(
                    "its token {id} is of type byte, but reads {:?}",
                    String::from_utf8_lossy(text)
                ));
            }
        }
        vocab.push(|out| {
            if form == Form::Words {
                return wordpiece::gguf_piece(text, kind, typed, out);
            } else if spm {
                spaced(text, out);
            } else if kind != Kind::Normal {
                out.extend_from_slice(text);
            } else if !bytes::decode(text, out) {
                // A token outside the alphabet is never made from text; it stands for itself when read.
                out.extend_from_slice(text);
                return Kind::Unused;
            }
            kind
        })?;
    }
    let repeated = vocab.index();
    Ok(Loaded { vocab, byte_ids, repeated })
}

/// Appends `text` with SentencePiece's mark for a space as a space.
pub(super) fn spaced(text: &[u8], out: &mut Vec<u8>) {
    let mark = SPACE.as_bytes();
    let mut rest = text;
    // Tokens are short: a plain loop is faster than a search.
    while let Some(at) = rest.iter().position(|&b| b == mark[0]) {
        let (before, tail) = rest.split_at(at);
        out.extend_from_slice(before);
        if tail.starts_with(mark) {
            out.push(b' ');
            rest = &tail[mark.len()..];
        } else {
            out.push(mark[0]);
            rest = &tail[1..];
        }
    }
    out.extend_from_slice(rest);
}

/// The byte that `<0xAB>` names.
pub(super) fn byte_token(text: &[u8]) -> Option<u8> {
    let hex = std::str::from_utf8(text.strip_prefix(b"<0x")?.strip_suffix(b">")?).ok()?;
    (hex.len() == 2).then(|| u8::from_str_radix(hex, 16).ok()).flatten()
}

/// The tokens that end what a model generates: those `named` by the file, then those known by their text.
pub(super) fn end_ids(vocab: &mut Vocab, named: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut ids: Vec<u32> = Vec::new();
    for id in named {
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    let known: Vec<(&str, u32)> = (0..vocab.len() as u32)
        .filter_map(|id| {
            // Gemma has </s> as a tag of HTML, user-defined; only a control token ends a text by its name.
            let text = vocab.get(id).filter(|t| matches!(t, [b'<' | b'[', .., b'>' | b']']))?;
            let name = ENDS.into_iter().find(|name| name.as_bytes() == text)?;
            let control = match vocab.kind(id)? {
                Kind::Control => true,
                // Some converters forget to mark these.
                Kind::Normal => name.starts_with("<|") || name == "<end_of_turn>",
                _ => false,
            };
            control.then_some((name, id))
        })
        .collect();
    let has = |name: &str| known.iter().any(|&(known, _)| known == name);
    // In OpenAI's harmony format <|end|> ends a message of several, not the turn.
    let harmony =
        has("<|call|>") && (has("<|return|>") || has("<|flush|>")) || has("<|calls|>") && has("<|flush|>");
    for (name, id) in known {
        vocab.set_kind(id, Kind::Control);
        let mid_turn = harmony && name == "<|end|>";
        if !mid_turn && !ids.contains(&id) {
            ids.push(id);
        }
    }
    ids
}

/// The tokens to be found in text as they stand: all of them, and the user-defined ones.
pub(super) fn matchers(vocab: &Vocab) -> (Matcher, Matcher) {
    let of = |wanted: fn(Kind) -> bool| {
        let ids = (0..vocab.len() as u32)
            .filter(|&id| vocab.kind(id).is_some_and(wanted))
            // Text is UTF-8, and so is all that can be found in it.
            .filter(|&id| vocab.get(id).is_some_and(|text| std::str::from_utf8(text).is_ok()));
        Matcher::new(vocab, ids.collect())
    };
    (of(|kind| matches!(kind, Kind::Control | Kind::Unknown | Kind::User)), of(|kind| kind == Kind::User))
}
