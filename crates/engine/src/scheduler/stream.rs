//! One answer in the making.

use super::draft::Draft;
use crate::sample::logprobs;
use crate::{Error, Result, Sampler, Stop};
use hob_cpu::Pool;
use std::sync::{Arc, OnceLock};

/// What an answer is asked for with.
pub struct Request {
    /// the prompt
    pub ids: Vec<u32>,
    /// tokens at most
    pub most: usize,
    /// tokens that end it
    pub ends: Arc<[u32]>,
    /// how tokens are chosen
    pub sampler: Sampler,
    /// how many of the likeliest tokens to tell with each, and its own probability; nothing of it where `None`
    pub logprobs: Option<usize>,
    /// the same for the tokens of the prompt, which is then read whole; with `most` 0 nothing else comes
    pub prompt_logprobs: Option<usize>,
    /// what its tokens must keep to
    pub rule: Option<Box<dyn Rule>>,
    /// who hears of it
    pub out: Box<dyn Out>,
}

/// What may come next: a grammar, mostly.
pub trait Rule: Send {
    /// Makes -∞ of the logits `(V)` of what may not come next.
    fn restrict(&mut self, logits: &mut [f32]) -> Result<(), String>;
    /// Hears which token came.
    fn accept(&mut self, id: u32) -> Result<(), String>;
    /// Tokens that must come next, which need not be computed then; they are not accepted yet.
    fn forced(&mut self) -> Vec<u32>;
    /// Whether nothing may come.
    fn ended(&mut self) -> bool;
}

/// Who hears of an answer.
pub trait Out: Send {
    /// Tells what happened.
    fn tell(&mut self, event: Event);
    /// Whether anybody listens still: else the answer ends.
    fn listens(&self) -> bool;
}

/// What happened to an answer.
#[derive(Debug)]
pub enum Event {
    /// its turn has come
    Begun,
    /// tokens of the prompt and how likely they were, where asked for: those that follow the ones told before, from the
    /// second on, as nothing stands before the first
    Scored(Vec<Token>),
    /// the prompt is read: so many tokens, of which so many were at hand
    Read {
        /// tokens of the prompt
        tokens: usize,
        /// those that were in the cache
        cached: usize,
    },
    /// a token came
    Token(Token),
    /// the token that ends it came, which is no part of it: told where probabilities are asked for
    Last(Token),
    /// it ended
    Done(Stop),
    /// it failed
    Failed(Error),
}

/// A token of an answer, or of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// which
    pub id: u32,
    /// the natural logarithm of its probability, where asked for
    pub logprob: f32,
    /// the likeliest tokens with theirs, where asked for
    pub top: Vec<(u32, f32)>,
}

/// An answer in the making.
pub(super) struct Stream {
    pub request: Request,
    /// prompt and answer
    pub ids: Vec<u32>,
    /// tokens of the prompt whose log-probabilities were told; [`usize::MAX`] where there are no more to tell
    scored: usize,
    /// tokens of the prompt that were at hand
    pub cached: Option<usize>,
    /// where its keys and values are, while it has any
    pub line: Option<usize>,
    /// the order of arrival
    pub age: u64,
    pub draft: Draft,
    /// tokens it may hold
    pub context: usize,
    /// how it ended; it is let go of then
    pub end: Option<Result<Stop>>,
}

impl Stream {
    pub fn new(request: Request, age: u64, context: usize) -> Stream {
        let (ids, draft) = (request.ids.clone(), Draft::default());
        // The first follows nothing, and has none.
        let scored = if request.prompt_logprobs.is_some() && ids.len() > 1 { 1 } else { usize::MAX };
        let mut stream =
            Stream { request, ids, scored, cached: None, line: None, age, draft, context, end: None };
        stream.request.sampler.prompt(&stream.ids);
        stream
    }

    /// Tokens of the answer.
    pub fn said(&self) -> usize {
        self.ids.len() - self.request.ids.len()
    }

    /// Tokens that may be run together next where `done` are: the rest of the prompt, or all that was said.
    pub fn next(&self, done: usize) -> usize {
        let prompt = self.request.ids.len();
        if done < prompt { prompt - done } else { self.ids.len() - done }
    }

    /// Whether log-probabilities of its prompt are still to be told.
    pub fn scores(&self) -> bool {
        self.scored != usize::MAX
    }

    /// The first position whose logits are wanted: the last one, or the one before the first token that is still to be
    /// told how likely it was. What stands before it may be taken from the cache.
    pub fn first_row(&self) -> usize {
        (self.ids.len() - 1).min(self.scored - 1)
    }

    /// Tells how likely the prompt's next tokens were, by `rows` of logits, `(R, V)`, from [`Stream::first_row`] on. What
    /// is kept of a row are the numbers told; its logits go.
    pub fn score(&mut self, rows: &[f32], vocab: usize, pool: &Pool) {
        let (true, Some(n)) = (self.scores(), self.request.prompt_logprobs) else { return };
        let next = &self.request.ids[self.scored..];
        let rows: Vec<(&[f32], u32)> = rows.chunks_exact(vocab).zip(next.iter().copied()).collect();
        let told: Vec<OnceLock<Token>> = rows.iter().map(|_| OnceLock::new()).collect();
        pool.run(rows.len(), &|i, _| {
            let (row, id) = rows[i];
            let (logprob, top) = logprobs(row, id, n);
            let _ = told[i].set(Token { id, logprob, top }); // each is told once
        });
        let told: Vec<Token> = told.into_iter().filter_map(OnceLock::into_inner).collect();
        if told.is_empty() {
            return;
        }
        self.scored += told.len();
        if self.scored == self.request.ids.len() {
            self.scored = usize::MAX;
        }
        self.request.out.tell(Event::Scored(told));
    }

    /// Chooses tokens by `rows` of logits, `(R, V)`: the first comes next, and each further one if what came is what was
    /// drafted. Returns how many of `drafted` came.
    pub fn hear(&mut self, rows: &mut [f32], drafted: &[u32]) -> usize {
        if self.request.most == 0 {
            self.end = Some(Ok(Stop::Length));
            return 0;
        }
        let vocab = rows.len() / (drafted.len() + 1);
        for (i, row) in rows.chunks_exact_mut(vocab).enumerate() {
            let raw = self.request.logprobs.map(|n| (n, row.to_vec()));
            if let Some(rule) = &mut self.request.rule
                && let Err(why) = rule.restrict(row)
            {
                self.end = Some(Err(Error::Ask(why)));
                return i;
            }
            let id = self.request.sampler.sample(row);
            let told = raw.is_some();
            let (logprob, top) = raw.map_or((0.0, Vec::new()), |(n, raw)| logprobs(&raw, id, n));
            if self.request.ends.contains(&id) {
                if told {
                    self.request.out.tell(Event::Last(Token { id, logprob, top }));
                }
                self.end = Some(Ok(Stop::End));
                return i;
            }
            let as_drafted = drafted.get(i) == Some(&id);
            self.say(Token { id, logprob, top });
            if self.end.is_none() && self.force() {
                return i + usize::from(as_drafted);
            }
            if self.end.is_some() || !as_drafted {
                return i + usize::from(as_drafted);
            }
        }
        unreachable!("the last row has no draft")
    }

    /// Takes a token into the answer.
    fn say(&mut self, token: Token) {
        let id = token.id;
        self.ids.push(id);
        self.request.sampler.accept(id);
        self.request.out.tell(Event::Token(token));
        if let Some(rule) = &mut self.request.rule {
            match rule.accept(id) {
                Err(why) => return self.end = Some(Err(Error::Ask(why))),
                Ok(()) if rule.ended() => return self.end = Some(Ok(Stop::End)),
                Ok(()) => {}
            }
        }
        if self.said() >= self.request.most {
            self.end = Some(Ok(Stop::Length));
        } else if self.ids.len() > self.context {
            self.end = Some(Ok(Stop::Context));
        }
    }

    /// Says what the rule leaves no choice of. Returns whether there was any.
    fn force(&mut self) -> bool {
        // Where probabilities are asked for, they are computed.
        let (Some(rule), None) = (&mut self.request.rule, self.request.logprobs) else { return false };
        let forced = rule.forced();
        for &id in &forced {
            if self.end.is_none() {
                self.say(Token { id, logprob: 0.0, top: Vec::new() });
            }
        }
        !forced.is_empty()
    }
}
