//! Tokenizers: text to token ids and back.
//!
//! [`Tokenizer::from_gguf`] reads what a GGUF file carries: byte-level BPE (`gpt2`), SentencePiece BPE (`llama`) and
//! Unigram (`t5`), and WordPiece (`bert`), all Hob's own, because a vocabulary of a quarter million tokens must be ready
//! within milliseconds. [`Tokenizer::from_dir`] reads a Hugging Face folder's `tokenizer.json`: the same kinds likewise,
//! all others through the `tokenizers` library; or the files that CLIP, T5 and BERT had before. [`Tokenizer::clip`] and
//! [`Tokenizer::t5`] need no file, for checkpoints of pictures that bring none.

mod bpe;
mod build;
mod bytes;
mod charsmap;
mod clip;
mod decode;
mod frame;
mod hf;
mod json;
mod merge;
mod merges;
mod pre;
mod shield;
mod spec;
mod special;
mod spiece;
mod split;
mod spm;
mod unicode;
mod unigram;
mod vocab;
mod wordpiece;

pub use decode::Decoder;
pub use frame::Pair;
pub use spec::{List, Spec};

use bpe::Bpe;
use frame::{Frame, Part};
use hf::Hf;
use special::Matcher;
use spm::Spm;
use std::{borrow::Cow, ops::Range};
use unigram::Unigram;
use vocab::{Kind, Vocab};
use wordpiece::WordPiece;

/// A model's tokenizer. Cheap to share between threads: encoding and decoding change nothing.
pub struct Tokenizer {
    vocab: Vocab,
    model: Model,
    /// Control and user-defined tokens.
    specials: Matcher,
    /// User-defined tokens alone: text like any other, found before anything else.
    user: Matcher,
    space_prefix: bool,
    bos: Option<u32>,
    eos: Vec<u32>,
    unk: Option<u32>,
    pad: Option<u32>,
    add_bos: bool,
    add_eos: bool,
    frame: Frame,
    warning: Option<String>,
}

enum Model {
    Bpe(Box<Bpe>),
    Spm(Box<Spm>),
    Unigram(Box<Unigram>),
    WordPiece(Box<WordPiece>),
    Hf(Box<Hf>),
}

impl Tokenizer {
    /// The ids of a text, without the tokens that begin and end texts. With `special`, text that spells a control
    /// token (`<|im_end|>`) is that token, as a rendered chat template needs it; without, it is plain text, as what
    /// a person or a document says must be.
    ///
    /// As in Hugging Face's `tokenizers`, bytes that a byte-level vocabulary has no token for are left out;
    /// [`Tokenizer::unspelled`] tells which.
    pub fn encode(&self, text: &str, special: bool) -> Vec<u32> {
        self.encode_parts(text, special, &[])
    }

    /// `plain` are stretches of the text, in order, that no control token may overlap.
    fn encode_parts(&self, text: &str, special: bool, plain: &[Range<usize>]) -> Vec<u32> {
        let mut out = Vec::with_capacity(text.len() / 3 + 8);
        if let Model::Hf(hf) = &self.model {
            let mut at = 0;
            for stretch in plain {
                hf.encode(&text[at..stretch.start], special, self.unk, &mut out);
                hf.encode(&text[stretch.clone()], false, self.unk, &mut out);
                at = stretch.end;
            }
            hf.encode(&text[at..], special, self.unk, &mut out);
            return out;
        }
        let text = self.normalize(text);
        let matcher = if special { &self.specials } else { &self.user };
        let mut prefix = self.space_prefix;
        let (mut at, mut from) = (0, 0);
        loop {
            let found = matcher.find(&self.vocab, text.as_bytes(), from);
            if let Some((start, id, len)) = found
                && self.is_special(id)
                && plain.iter().any(|stretch| start < stretch.end && stretch.start < start + len)
            {
                from = start + 1;
                continue;
            }
            let end = found.map_or(text.len(), |(start, _, _)| start);
            if end > at {
                self.encode_plain(&text[at..end], prefix, &mut out);
            }
            let Some((start, id, len)) = found else { return out };
            out.push(id);
            at = start + len;
            from = at;
            prefix = self.space_prefix && self.vocab.kind(id) != Some(Kind::User);
        }
    }

    /// The text as the vocabulary spells it.
    fn normalize<'t>(&self, text: &'t str) -> Cow<'t, str> {
        if let Model::Spm(_) = &self.model { Spm::normalize(text) } else { Cow::Borrowed(text) }
    }

    /// Text without special tokens.
    fn encode_plain(&self, text: &str, prefix: bool, out: &mut Vec<u32>) {
        match &self.model {
            Model::Bpe(bpe) => bpe.encode(&self.vocab, text, out),
            Model::Spm(spm) if prefix => spm.encode(&self.vocab, &format!(" {text}"), out),
            Model::Spm(spm) => spm.encode(&self.vocab, text, out),
            Model::Unigram(unigram) => unigram.encode(&self.vocab, text, prefix, out),
            Model::WordPiece(words) => words.encode(&self.vocab, text, out),
            Model::Hf(hf) => hf.encode(text, false, self.unk, out),
        }
    }

    /// The ids of a whole text as an encoder reads it: plain, with what stands around it (`[CLS]` and `[SEP]`, or what
    /// else the tokenizer's post-processor says).
    pub fn encode_text(&self, text: &str) -> Vec<u32> {
        self.framed(&self.frame.single, [text, ""]).ids
    }

    /// A pair of texts as one sequence: `[CLS] first [SEP] second [SEP]` of BERT, or as the post-processor says.
    pub fn encode_pair(&self, first: &str, second: &str) -> Pair {
        self.framed(&self.frame.pair, [first, second])
    }

    fn framed(&self, parts: &[(Part, u32)], [first, second]: [&str; 2]) -> Pair {
        let mut pair = Pair::default();
        for &(part, of_type) in parts {
            match part {
                Part::First => pair.ids.extend(self.encode(first, false)),
                Part::Second => pair.ids.extend(self.encode(second, false)),
                Part::Token(id) => pair.ids.push(id),
            }
            pair.types.resize(pair.ids.len(), of_type);
        }
        pair
    }

    /// [`Tokenizer::encode`], with the tokens around it that the model wants ([`Tokenizer::add_bos`],
    /// [`Tokenizer::add_eos`]), unless the text brings them itself.
    pub fn encode_with_bos(&self, text: &str, special: bool) -> Vec<u32> {
        self.with_bos(self.encode(text, special))
    }

    pub(crate) fn with_bos(&self, mut ids: Vec<u32>) -> Vec<u32> {
        if let Some(bos) = self.bos.filter(|_| self.add_bos)
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        if let Some(&eos) = self.eos.first().filter(|_| self.add_eos)
            && ids.last() != Some(&eos)
        {
            ids.push(eos);
        }
        ids
    }

    /// The text of these ids. Control tokens give none; an id beyond the vocabulary, or bytes that are no UTF-8, give
    /// U+FFFD. A SentencePiece model that puts a space before every text has it taken off again.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.decode_all(ids, false)
    }

    /// [`Tokenizer::decode`], with control tokens written out (`<|im_end|>`).
    pub fn decode_with_special(&self, ids: &[u32]) -> String {
        self.decode_all(ids, true)
    }

    fn decode_all(&self, ids: &[u32], special: bool) -> String {
        let mut decoder = Decoder::new(self, special);
        ids.iter().for_each(|&id| decoder.append(id));
        String::from_utf8(decoder.into_bytes())
            .unwrap_or_else(|bad| String::from_utf8_lossy(bad.as_bytes()).into_owned())
    }

    /// A decoder for tokens that come one by one; control tokens give no text.
    pub fn decoder(&self) -> Decoder<'_> {
        Decoder::new(self, false)
    }

    /// [`Tokenizer::decoder`], with control tokens written out.
    pub fn decoder_with_special(&self) -> Decoder<'_> {
        Decoder::new(self, true)
    }

    /// [`Tokenizer::decoder`], with these few control tokens written out: those that a reader of the text has to see
    /// ([`crate::chat::Dialect::spelled_ids`]).
    pub fn decoder_with(&self, spelled: &[u32]) -> Decoder<'_> {
        Decoder::new(self, false).spelling(spelled)
    }

    /// The bytes a token stands for, perhaps a part of a character; of a control token its name (`<|im_end|>`).
    /// `None` beyond the vocabulary.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.vocab.get(id)
    }

    /// The token with this name among the control and user-defined tokens.
    pub fn special_id(&self, name: &str) -> Option<u32> {
        self.specials.exact(&self.vocab, name.as_bytes())
    }

    /// Number of tokens; ids are below it. A model may have more rows of weights than this, as padding.
    pub fn vocab_size(&self) -> usize {
        self.vocab.len()
    }

    /// Whether the token steers the model and has no text: control tokens, and the one for the unknown.
    pub fn is_special(&self, id: u32) -> bool {
        matches!(self.vocab.kind(id), Some(Kind::Control | Kind::Unknown))
    }

    /// The token that begins a text, if the model has one.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos
    }

    /// Every token that ends what a model generates, the file's own `eos` first: of a text, a turn or a message.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos
    }

    /// The token for what the vocabulary cannot spell.
    pub fn unk_id(&self) -> Option<u32> {
        self.unk
    }

    /// The token that fills up batches.
    pub fn pad_id(&self) -> Option<u32> {
        self.pad
    }

    /// Whether a text is to begin with [`Tokenizer::bos_id`].
    pub fn add_bos(&self) -> bool {
        self.add_bos
    }

    /// Whether a text is to end with the first of [`Tokenizer::eos_ids`].
    pub fn add_eos(&self) -> bool {
        self.add_eos
    }

    /// Bytes that occur in text and that a byte-level vocabulary cannot spell. SmolLM2, for one, lacks some control
    /// characters and two bytes that no assigned character has.
    pub fn unspelled(&self) -> Vec<u8> {
        if let Model::Bpe(bpe) = &self.model { bpe.unspelled().collect() } else { Vec::new() }
    }

    /// What a person should know about this tokenizer, in one sentence: an unknown pre-tokenizer, for example.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// Bytes on the heap; an estimate where the `tokenizers` library is at work.
    pub fn heap_bytes(&self) -> usize {
        let model = match &self.model {
            Model::Bpe(bpe) => size_of::<Bpe>() + bpe.heap_bytes(),
            Model::Spm(spm) => size_of::<Spm>() + spm.heap_bytes(),
            Model::Unigram(unigram) => size_of::<Unigram>() + unigram.heap_bytes(),
            Model::WordPiece(_) => size_of::<WordPiece>(),
            Model::Hf(hf) => size_of::<Hf>() + hf.heap_bytes(),
        };
        self.vocab.heap_bytes() + model + self.specials.heap_bytes() + self.user.heap_bytes()
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let model = match &self.model {
            Model::Bpe(_) => "byte-level BPE",
            Model::Spm(_) => "SentencePiece",
            Model::Unigram(_) => "Unigram",
            Model::WordPiece(_) => "WordPiece",
            Model::Hf(_) => "tokenizer.json",
        };
        write!(f, "Tokenizer({model}, {} tokens)", self.vocab.len())
    }
}
