//! A conversation with a model: its tokens so far, their keys and values, and what comes next.

use crate::cache::{self, Cache, Part, READ};
use crate::{CHUNK, Error, Model, Result, Sampler};
use hob_cpu::exec::Watch;
use std::sync::Arc;

/// One sequence and its cache.
pub struct Session {
    model: Arc<Model>,
    cache: Cache,
    line: usize,
    context: usize,
    logits: Vec<f32>,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// the model ended it
    End,
    /// as many tokens as were asked for
    Length,
    /// the context is full
    Context,
}

impl Session {
    /// An empty session with room for `context` tokens. Memory for keys and values is taken as they come.
    pub fn new(model: &Arc<Model>, context: usize) -> Result<Session> {
        let mut cache = Cache::of_lines(model, 1, context)?;
        let line = cache.open(&[]);
        Ok(Session { model: model.clone(), cache, line, context, logits: Vec::new() })
    }

    /// Tokens in the cache.
    pub fn ids(&self) -> &[u32] {
        self.cache.ids(self.line)
    }

    /// Tokens the session has room for.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Logits `(V)` after the last token; empty before the first.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// Forgets all tokens but the first `len`, and more where the cache needed the room of what the next token would
    /// look back to. Returns how many are left.
    pub fn rewind(&mut self, len: usize) -> usize {
        let ids = self.ids()[..len.min(self.ids().len())].to_vec();
        self.begin(&ids)
    }

    /// Begins anew with what is at hand of `ids`.
    fn begin(&mut self, ids: &[u32]) -> usize {
        self.logits.clear();
        self.cache.close(self.line);
        if ids.is_empty() {
            self.cache.clear(); // what was said is forgotten
        }
        self.line = self.cache.open(ids);
        self.ids().len()
    }

    /// Makes `ids` the session's tokens, reading only what does not begin as the cache already does. Returns how many
    /// tokens were read. `on_chunk` hears after each chunk how many are read of how many, and stops by `false`.
    pub fn prompt(&mut self, ids: &[u32], mut on_chunk: impl FnMut(usize, usize) -> bool) -> Result<usize> {
        let Some((_, before)) = ids.split_last() else { return Err(Error::Empty) };
        self.check(ids, ids.len())?;
        let held = self.ids();
        let same = match ids.starts_with(held) {
            true if held.len() < ids.len() || !self.logits.is_empty() => held.len(),
            _ => self.begin(before),
        };
        let fresh = ids.len() - same;
        for chunk in ids[same..].chunks(CHUNK) {
            self.feed_watched(chunk, ids.len() >= READ, None)?;
            if !on_chunk(self.ids().len() - same, fresh) {
                break;
            }
        }
        Ok(self.ids().len() - same)
    }

    /// Whether the session may reach `total` tokens, and the model knows `ids`.
    fn check(&self, ids: &[u32], total: usize) -> Result<()> {
        match total > self.context {
            true => Err(Error::Context { tokens: total, context: self.context }),
            false => cache::check(&self.model, ids),
        }
    }

    /// Reads `ids`, at most a [`CHUNK`], and computes the logits after the last of them.
    ///
    /// # Panics
    /// When there are more.
    pub fn feed(&mut self, ids: &[u32]) -> Result<()> {
        self.feed_watched(ids, true, None)
    }

    /// Appends a token of an answer, and computes the logits after it. What is said is computed otherwise than what is read
    /// (see [`hob_graph::Seq::read`]).
    pub fn say(&mut self, id: u32) -> Result<()> {
        self.feed_watched(&[id], false, None)
    }

    /// Either, telling `watch` how long each node of the graph took.
    pub fn feed_watched(&mut self, ids: &[u32], read: bool, watch: Option<Watch>) -> Result<()> {
        let mut logits = std::mem::take(&mut self.logits);
        let out = self.forward(ids, 1, read, watch);
        if let Ok(out) = &out {
            logits.clear();
            logits.extend_from_slice(out);
        }
        let out = out.map(|_| ());
        self.logits = logits;
        out
    }

    /// Reads `ids`, at most a [`CHUNK`], and returns the logits after each of them, `(T, V)`.
    ///
    /// # Panics
    /// When there are more.
    pub fn feed_all(&mut self, ids: &[u32]) -> Result<&[f32]> {
        self.forward(ids, ids.len(), true, None)
    }

    fn forward(&mut self, ids: &[u32], rows: usize, read: bool, watch: Option<Watch>) -> Result<&[f32]> {
        self.check(ids, self.ids().len() + ids.len())?;
        // The graph of all rows has no input for them.
        let last: Vec<i32> = (ids.len() as i32 - rows as i32..ids.len() as i32).collect();
        let program = self.cache.run(&self.model, &[Part { line: self.line, ids, read }], &last, watch)?;
        Ok(self.cache.logits(&program))
    }

    /// Continues the session: at most `most` tokens, ended by any of `ends`.
    pub fn generate<'s>(
        &'s mut self,
        sampler: &'s mut Sampler,
        most: usize,
        ends: &'s [u32],
    ) -> Generate<'s> {
        Generate { session: self, sampler, ends, left: most, pending: None, stop: None, fed: 0 }
    }
}

/// Tokens one by one. What a token leads to is computed only when the next one is asked for.
pub struct Generate<'s> {
    session: &'s mut Session,
    sampler: &'s mut Sampler,
    ends: &'s [u32],
    left: usize,
    pending: Option<u32>,
    stop: Option<Stop>,
    /// tokens computed so far
    fed: usize,
}

/// From so many tokens of an answer on, weights are laid out for speed between tokens: a short answer is not worth it.
const LONG: usize = 4;

/// Tokens over which the weights are laid out: each takes about half as long again, and later ones a third less.
const SHARES: usize = 32;

impl Generate<'_> {
    /// Why there are no more tokens; `None` while there may be.
    pub fn stop(&self) -> Option<Stop> {
        self.stop
    }

    fn advance(&mut self) -> Result<Option<u32>> {
        if self.stop.is_some() {
            return Ok(None);
        }
        if self.left == 0 {
            self.stop = Some(Stop::Length);
            return Ok(None);
        }
        if let Some(id) = self.pending.take() {
            if self.session.ids().len() == self.session.context() {
                self.stop = Some(Stop::Context);
                return Ok(None);
            }
            self.session.say(id)?;
            self.fed += 1;
            if self.fed > LONG {
                self.session.model.settle(SHARES)?;
            }
        }
        if self.session.logits.is_empty() {
            return Err(Error::Empty);
        }
        let id = self.sampler.sample(&self.session.logits);
        if self.ends.contains(&id) {
            self.stop = Some(Stop::End);
            return Ok(None);
        }
        self.sampler.accept(id);
        self.left -= 1;
        self.pending = Some(id);
        Ok(Some(id))
    }
}

impl Iterator for Generate<'_> {
    type Item = Result<u32>;

    fn next(&mut self) -> Option<Result<u32>> {
        let next = self.advance().transpose();
        if let Some(Err(_)) = next {
            self.stop = Some(Stop::End);
        }
        next
    }
}
