//! A model that is loaded, and who uses it.

use std::ops::Deref;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use hob_engine::cache::Size;
use hob_grammar::Vocabulary;
use hob_io::chat::Dialect;

use super::evict::Held;
use super::lock;
use crate::model::{DEFAULT_CONTEXT, Opened};
use crate::preset::Preset;
use crate::serve::keep::Keep;
use crate::serve::known::{Known, same};
use crate::serve::preset::Made;
use crate::serve::vectors::Vectors;
use crate::serve::worker::Worker;

/// A model that answers.
pub struct Ready {
    /// what a client calls it
    pub name: String,
    /// files, tokenizer, template
    pub opened: Opened,
    /// tokens of context
    pub context: usize,
    /// those that somebody asked for; as usual where `None`
    pub(super) asked: Option<usize>,
    /// bytes of memory that it is planned to take
    pub planned: u64,
    /// how much of conversations it has room for
    pub size: Size,
    /// when it was loaded
    pub since: SystemTime,
    /// how long that took
    pub(super) loading: Duration,
    /// stays until the server ends
    pub pinned: bool,
    /// how it writes calls and thoughts
    pub dialect: Dialect,
    pub(super) worker: Option<Worker>,
    /// its tokens for grammars, made when the first is asked for
    pub(super) vocabulary: OnceLock<hob_grammar::Result<Vocabulary>>,
    /// what makes its vectors
    pub vectors: Vectors,
    /// what was noted of it
    pub(super) noted: Mutex<Vec<String>>,
    /// how long a use lasts where nobody says
    pub(super) keep: Keep,
    pub(super) uses: Mutex<Vec<Use>>,
}

/// A name that a model is used by, its own or that of a preset: each has a time of its own.
#[derive(Clone)]
pub struct Use {
    /// the name
    pub name: String,
    /// requests that go on
    leases: usize,
    last: Instant,
    keep: Keep,
}

impl Use {
    /// How long it lasts if nobody asks again; for ever where `None`.
    pub fn left(&self) -> Option<Duration> {
        match self.keep {
            Keep::For(keep) => Some(keep.saturating_sub(self.last.elapsed())),
            Keep::Always => None,
        }
    }

    /// Whether it is to end as soon as its requests are answered.
    pub fn ends(&self) -> bool {
        self.keep == Keep::For(Duration::ZERO)
    }

    fn over(&self) -> bool {
        self.leases == 0 && self.left() == Some(Duration::ZERO)
    }
}

impl Ready {
    /// Its thread; `None` of a model that only makes vectors.
    pub fn worker(&self) -> Option<&Worker> {
        self.worker.as_ref()
    }

    /// Answers being made.
    pub fn running(&self) -> usize {
        self.worker.as_ref().map_or(0, Worker::running)
    }

    /// Requests that wait for their turn.
    pub fn waiting(&self) -> usize {
        self.worker.as_ref().map_or(0, Worker::waiting)
    }

    /// Tokens guessed, and those of them that were right.
    pub fn guessed(&self) -> [u64; 2] {
        self.worker.as_ref().map_or([0, 0], Worker::guessed)
    }

    /// Whether it answers; else it makes vectors only.
    pub fn answers(&self) -> bool {
        self.worker.is_some()
    }

    /// Its tokens for grammars. The first call takes a moment.
    pub fn vocabulary(&self) -> hob_grammar::Result<&Vocabulary> {
        let make = || Vocabulary::new(self.opened.words.tokenizer.clone(), self.opened.model.vocab_size());
        self.vocabulary.get_or_init(make).as_ref().map_err(Clone::clone)
    }

    /// Tells what is to be noted of it, the first time.
    pub fn once(&self, note: &str, tell: impl FnOnce()) {
        let mut noted = lock(&self.noted);
        if !noted.iter().any(|n| n == note) {
            noted.push(note.into());
            tell();
        }
    }

    /// The names that it is used by, those asked for last at the end; its own where nobody uses it.
    pub fn uses(&self) -> Vec<Use> {
        let mut uses = lock(&self.uses).clone();
        uses.retain(|u| !u.over());
        if uses.is_empty() {
            let keep = if self.pinned { Keep::Always } else { Keep::For(Duration::ZERO) };
            uses.push(Use { name: self.name.clone(), leases: 0, last: Instant::now(), keep });
        }
        uses
    }

    /// How long it stays if nobody asks again; for ever where `None`.
    pub fn left(&self) -> Option<Duration> {
        let all: Option<Vec<_>> = self.uses().iter().map(Use::left).collect();
        all.filter(|_| !self.pinned).and_then(|all| all.into_iter().max())
    }

    /// Whether it is used by that name, or has it.
    pub fn is_called(&self, name: &str) -> bool {
        same(&self.name, name) || lock(&self.uses).iter().any(|u| same(&u.name, name) && !u.over())
    }

    /// Begins or goes on with a use by that name.
    fn using(&self, name: &str, change: impl FnOnce(&mut Use)) {
        let mut uses = lock(&self.uses);
        uses.retain(|u| !u.over() || u.name == name);
        let at = uses.iter().position(|u| u.name == name).unwrap_or_else(|| {
            let (name, keep) = (name.to_string(), self.keep);
            uses.push(Use { name, leases: 0, last: Instant::now(), keep });
            uses.len() - 1
        });
        uses[at].last = Instant::now();
        change(&mut uses[at]);
    }

    /// Says how long the use by that name lasts.
    pub(super) fn keep(&self, name: &str, keep: Keep) {
        self.using(name, |u| u.keep = keep);
    }

    /// Ends the use by that name, and all uses where `name` is `None`, as soon as their requests are answered.
    pub(super) fn end(&self, name: Option<&str>) {
        let mut uses = lock(&self.uses);
        let ends = uses.iter_mut().filter(|u| name.is_none_or(|name| same(&u.name, name)));
        ends.for_each(|u| u.keep = Keep::For(Duration::ZERO));
    }

    /// Whether no request goes on.
    pub(super) fn unused(&self) -> bool {
        lock(&self.uses).iter().all(|u| u.leases == 0)
    }

    /// Whether it may go.
    pub(super) fn free(&self) -> bool {
        !self.pinned && self.unused()
    }

    /// Whether every use of it is over.
    pub(super) fn over(&self) -> bool {
        lock(&self.uses).iter().all(Use::over)
    }

    /// What is weighed of it where another needs its memory, of which so much is free.
    pub(super) fn held(&self, free: u64) -> Held {
        let idle = lock(&self.uses).iter().map(|u| u.last.elapsed()).min().unwrap_or_default();
        let load = self.loading + self.worker.as_ref().map_or(Duration::ZERO, Worker::settling);
        // It was read not long ago: if the system has room for all of it, it is likely in the page cache still.
        let file = self.opened.words.checkpoint.size_bytes();
        Held { bytes: self.planned, idle, load, cold: if file > free { file } else { 0 } }
    }

    /// Whether its context is as long as `wanted`, or as usual where that is `None`.
    pub(super) fn reaches(&self, wanted: Option<usize>) -> bool {
        let usual = || DEFAULT_CONTEXT.min(self.opened.model.context());
        match wanted {
            _ if !self.answers() => true,
            Some(n) => self.context >= n,
            // As usual may be less than that, for want of memory.
            None => self.asked.is_none() || self.context >= usual(),
        }
    }
}

/// A model in use: it stays loaded while this lives.
pub struct Lease {
    /// what the client calls it: its own name, or that of a preset
    pub name: String,
    ready: Arc<Ready>,
    preset: Option<Arc<Made>>,
}

impl Lease {
    /// Of `known`, which is that model or a preset of it.
    pub(super) fn new(ready: &Arc<Ready>, known: &Known) -> Lease {
        let name = known.preset.as_ref().map_or(&ready.name, |_| &known.name).clone();
        ready.using(&name, |u| u.leases += 1);
        Lease { name, ready: ready.clone(), preset: known.preset.clone() }
    }

    /// The preset that was asked for, if it was one.
    pub fn preset(&self) -> Option<&Preset> {
        self.preset.as_ref().map(|made| &made.settled.preset)
    }
}

impl Clone for Lease {
    fn clone(&self) -> Lease {
        self.ready.using(&self.name, |u| u.leases += 1);
        Lease { name: self.name.clone(), ready: self.ready.clone(), preset: self.preset.clone() }
    }
}

impl Deref for Lease {
    type Target = Ready;

    fn deref(&self) -> &Ready {
        &self.ready
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.ready.using(&self.name, |u| u.leases = u.leases.saturating_sub(1));
    }
}
