//! A model's tokens as the grammar sees them: bytes in a tree.

use crate::{Error, Result, error::words};
use hob_io::Tokenizer;
use llguidance::ParserFactory;
use std::sync::Arc;
use toktrie::{
    INVALID_TOKEN, InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv,
};

/// The tokens of a model, made ready for grammars. Made once for a model; clones share it.
#[derive(Clone)]
pub struct Vocabulary(Arc<Inner>);

pub(crate) struct Inner {
    pub factory: ParserFactory,
    pub tokenizer: Arc<Tokenizer>,
    /// tokens that are text: neither control tokens nor empty
    pub text: SimpleVob,
    /// tokens that begin with so many digits or more: 1, 2, 3
    pub digits: [SimpleVob; 3],
    /// tokens that open a list or an object
    pub opening: SimpleVob,
    /// tokens that begin with a blank; with a comma; with what closes; with a quote and a blank behind it
    pub begin_blank: SimpleVob,
    pub begin_comma: SimpleVob,
    pub begin_close: SimpleVob,
    pub quote_blank: SimpleVob,
    /// tokens of nothing but spaces, tabs and line ends
    pub blank: SimpleVob,
    pub ends: SimpleVob,
}

/// Sets of tokens whose masks are ready, so that strings in JSON are cheap: a mask within a string is a union of these,
/// and only what is left of the tree is walked. The first is for strings that must end within some length. Each set costs
/// three trees: 16 MB with Gemma's 262,144 tokens.
const SLICES: [&str; 2] = [r#"[^"\\\x00-\x1F\x7F]{1,10}"#, r#"[^"\\\x00-\x1F\x7F]+"#];

impl Vocabulary {
    /// Reads the tokens of `tokenizer` for a model with `vocab_size` rows of logits. Rows beyond the tokenizer's
    /// tokens, and tokens beyond the rows, are never allowed.
    ///
    /// # Errors
    /// When the tokens are more than 16 million, or longer than 1,024 bytes.
    pub fn new(tokenizer: Arc<Tokenizer>, vocab_size: usize) -> Result<Vocabulary> {
        let spelled: Vec<Vec<u8>> = (0..vocab_size as u32).map(|id| spelling(&tokenizer, id)).collect();
        if vocab_size >= 1 << 24 || spelled.iter().any(|s| s.len() > 1024) {
            return Err(Error::form("this model's vocabulary is too large for answers in a given form"));
        }
        let ends: Vec<TokenId> =
            tokenizer.eos_ids().iter().copied().filter(|id| (*id as usize) < vocab_size).collect();
        let info = TokRxInfo::new(vocab_size as u32, ends.first().copied().unwrap_or(INVALID_TOKEN));
        let mut trie = TokTrie::from(&info, &spelled);
        if ends.len() > 1 {
            trie = trie.with_eos_tokens(&ends);
        }
        let set = |belongs: &dyn Fn(&[u8]) -> bool| {
            let mut set = trie.alloc_token_set();
            let ids = spelled.iter().enumerate().filter(|(_, s)| belongs(s));
            ids.for_each(|(id, _)| set.allow_token(id as TokenId));
            set
        };
        let text = set(&|s| !s.is_empty() && s[0] != TokTrie::SPECIAL_TOKEN_MARKER);
        let digits = [1, 2, 3].map(|n| set(&|s| s.len() >= n && s[..n].iter().all(u8::is_ascii_digit)));
        let opening = set(&|s| s.contains(&b'[') || s.contains(&b'{'));
        let blank = set(&|s| !s.is_empty() && is_blank(s));
        let begin_blank = set(&|s| !s.is_empty() && is_blank(&s[..1]));
        let begin_comma = set(&|s| s.first() == Some(&b','));
        let begin_close = set(&|s| s.first().is_some_and(|b| b"}]".contains(b)));
        let quote_blank = set(&|s| s.len() > 1 && s[0] == b'"' && is_blank(&s[1..2]));
        let ends = trie.eos_token_set();
        let env: TokEnv = Arc::new(Env { tokenizer: tokenizer.clone(), trie });
        let caps = InferenceCapabilities { ff_tokens: true, ..InferenceCapabilities::default() };
        let mut factory = ParserFactory::new(&env, caps, &SLICES.map(String::from))
            .map_err(|e| Error::form(words(&e.to_string())))?;
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        Ok(Vocabulary(Arc::new(Inner {
            factory,
            tokenizer,
            text,
            digits,
            opening,
            begin_blank,
            begin_comma,
            begin_close,
            quote_blank,
            blank,
            ends,
        })))
    }

    /// Number of tokens, which is the model's number of logits.
    pub fn size(&self) -> usize {
        self.trie().vocab_size()
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.0
    }

    pub(crate) fn trie(&self) -> &TokTrie {
        self.0.factory.tok_env().tok_trie()
    }

    /// Bytes of a token that is text; none of others.
    pub(crate) fn text(&self, id: u32) -> &[u8] {
        if (id as usize) < self.size() && self.0.text.is_allowed(id) { self.trie().token(id) } else { &[] }
    }
}

impl std::fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Vocabulary({} tokens)", self.size())
    }
}

pub(crate) fn is_blank(bytes: &[u8]) -> bool {
    bytes.iter().all(|b| b" \t\r\n".contains(b))
}

/// The bytes by which the tree knows a token. Control tokens stand behind 0xff, which is in no UTF-8: no text can lead
/// to them. A token that itself begins with that byte is left out.
fn spelling(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    const MARKER: u8 = TokTrie::SPECIAL_TOKEN_MARKER;
    match tokenizer.token_bytes(id) {
        Some(bytes) if !bytes.is_empty() && tokenizer.is_special(id) => [&[MARKER], bytes].concat(),
        Some(bytes) if bytes.first() != Some(&MARKER) => bytes.to_vec(),
        _ => Vec::new(),
    }
}

/// Tokens that must come are those the model's own tokenizer makes of the text that must come.
struct Env {
    tokenizer: Arc<Tokenizer>,
    trie: TokTrie,
}

impl Env {
    /// The tokenizer's tokens, if they spell the text exactly: no space put before it, nothing normalized or left out.
    fn exact(&self, text: &str) -> Option<Vec<TokenId>> {
        let spells = |ids: &[TokenId]| {
            let mut left = text.as_bytes();
            ids.iter().all(|&id| {
                let rest = left.strip_prefix(self.trie.token(id)).filter(|_| !self.trie.token(id).is_empty());
                left = rest.unwrap_or(&[]);
                rest.is_some()
            }) && left.is_empty()
        };
        let ids = self.tokenizer.encode(text, false);
        if spells(&ids) {
            return Some(ids);
        }
        // A space that is put before every text lands before a line end, which is a token of its own.
        let ids = self.tokenizer.encode(&format!("\n{text}"), false);
        let end = ids.iter().position(|id| self.trie.token(*id) == b"\n")?;
        spells(&ids[end + 1..]).then(|| ids[end + 1..].to_vec())
    }
}

impl TokenizerEnv for Env {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        std::str::from_utf8(bytes)
            .ok()
            .and_then(|text| self.exact(text))
            .unwrap_or_else(|| self.trie.greedy_tokenize(bytes))
    }
}
