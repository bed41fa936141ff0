//! One answer and what may come next in it.

use crate::error::words;
use crate::guard::Guard;
use crate::thinking::{Thinking, Thought, Took};
use crate::{Error, Form, Mask, Result, Vocabulary, compile};
use llguidance::Matcher;
use toktrie::SimpleVob;

/// A compiled form and how far an answer has come in it. Clones go on from here by themselves and share what was
/// compiled, so that several answers to one request cost one compilation.
#[derive(Clone)]
pub struct Grammar {
    vocabulary: Vocabulary,
    matcher: Matcher,
    /// bounds of JSON that its grammar lacks
    guard: Option<Guard>,
    thinking: Option<Thinking>,
    /// `None` once a token came
    mask: Option<Mask>,
    forced: Vec<u32>,
    ended: bool,
}

impl Grammar {
    /// Compiles a form. Takes a millisecond for common schemas, and no form more than some seconds.
    ///
    /// # Errors
    /// [`Error::Form`] when the form is wrong, contradicts itself, is not supported or too large, with the keyword and
    /// where it stands.
    pub fn new(vocabulary: &Vocabulary, form: &Form) -> Result<Grammar> {
        let (matcher, first) = compile::matcher(vocabulary, form)?;
        let guard = matches!(form, Form::JsonObject | Form::JsonSchema(_)).then(Guard::default);
        let vocabulary = vocabulary.clone();
        let mask = Some(Mask(first));
        Ok(Grammar { vocabulary, matcher, guard, thinking: None, mask, forced: Vec::new(), ended: false })
    }

    /// The same, for an answer that a thought may stand before.
    ///
    /// # Errors
    /// When a marker is empty.
    pub fn after(mut self, thought: &Thought) -> Result<Grammar> {
        self.thinking = Some(Thinking::new(thought, &self.vocabulary)?);
        self.mask = None;
        Ok(self)
    }

    /// Which tokens may come next, at least one. Computed once for each place; where the answer has
    /// [ended](Grammar::ended), the tokens that end a text.
    ///
    /// # Errors
    /// When the form makes this place too costly to follow.
    pub fn mask(&mut self) -> Result<&Mask> {
        if self.mask.is_none() {
            self.mask = Some(Mask(self.compute()?));
        }
        Ok(self.mask.as_ref().expect("set above"))
    }

    fn compute(&mut self) -> Result<SimpleVob> {
        let inner = self.vocabulary.inner();
        if self.ended {
            return Ok(inner.ends.clone());
        }
        if let Some(thinking) = &self.thinking {
            let mut set = match thinking.may_answer() {
                true => self.matcher.compute_mask().map_err(broken)?,
                false => self.vocabulary.trie().alloc_token_set(),
            };
            thinking.widen(&mut set, &self.vocabulary);
            return Ok(set);
        }
        let mut set = self.matcher.compute_mask().map_err(broken)?;
        if let Some(guard) = &self.guard {
            guard.narrow(&mut set, inner);
        }
        Ok(set)
    }

    /// Takes the token that came. A token that ends texts ends the answer, where it may end.
    ///
    /// # Errors
    /// When the token does not fit; the grammar is of no use from then on.
    pub fn accept(&mut self, id: u32) -> Result<()> {
        self.mask = None;
        let is_end = (id as usize) < self.vocabulary.size() && self.vocabulary.inner().ends.is_allowed(id);
        if self.ended {
            return if is_end {
                Ok(())
            } else {
                Err(Error::answer("the answer has ended; nothing more fits"))
            };
        }
        if let Some(thinking) = &mut self.thinking {
            let fits = || Ok(self.matcher.validate_tokens(&[id]).map_err(broken)? == 1);
            match thinking.accept(id, &self.vocabulary, fits)? {
                Took::Thought => return Ok(()),
                Took::Answer => self.thinking = None,
            }
        }
        if is_end && self.may_end() {
            self.ended = true;
            return Ok(());
        }
        self.matcher.consume_token(id).map_err(|e| {
            let text = String::from_utf8_lossy(self.vocabulary.text(id)).into_owned();
            Error::answer(format!(
                "the token {id} ({text:?}) does not fit the form: {}",
                words(&e.to_string())
            ))
        })?;
        self.ended = self.matcher.is_stopped();
        if let Some(guard) = &mut self.guard {
            guard.push(self.vocabulary.text(id));
            // Blanks may follow, but nothing that counts.
            self.ended |= guard.closed() && self.matcher.is_accepting().map_err(broken)?;
        }
        Ok(())
    }

    /// Whether the answer may end here. It may perhaps go on.
    pub fn may_end(&mut self) -> bool {
        self.ended || (self.thinking.is_none() && self.matcher.is_accepting().unwrap_or(false))
    }

    /// Whether the answer is complete: nothing more can come but a token that ends texts, which need not be waited for.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// The tokens that must come next, as the model's tokenizer spells them; none where there is a choice. They can be
    /// given to the model together instead of sampled one by one; [`Grammar::accept`] takes each.
    pub fn forced(&mut self) -> &[u32] {
        match &self.thinking {
            _ if self.ended => &[],
            Some(thinking) => thinking.forced(),
            None => {
                self.forced = self.matcher.compute_ff_tokens();
                &self.forced
            }
        }
    }
}

impl std::fmt::Debug for Grammar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Grammar({:?}, {})", self.vocabulary, if self.ended { "ended" } else { "open" })
    }
}

fn broken(e: impl std::fmt::Display) -> Error {
    let why = words(&e.to_string());
    Error::answer(format!("the form cannot be followed further ({why}); ask for a simpler one"))
}
