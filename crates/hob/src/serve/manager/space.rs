//! Memory for models: what one takes, who goes for it, and what those leave behind.

use std::path::Path;
use std::sync::Arc;

use hob_engine::cache::Size;
use hob_engine::{CHUNK, Cache, Scheduler, memory};

use super::{Manager, Ready, evict, lock};
use crate::error::Error;
use crate::machine::Memory;
use crate::model::{Load, Opened};
use crate::room::{self, Room};
use crate::serve::images::Held;
use crate::serve::known::{Known, same};
use crate::serve::refusal::{Kind, Refusal, Result};
use crate::serve::worker::Worker;
use crate::terminal;

/// What an unloaded model read of conversations: it goes on there when it is loaded again.
pub struct Left {
    of: Known,
    size: Size,
    cache: Cache,
    bytes: u64,
}

/// What came of asking that a model goes.
pub enum Released {
    /// it does, as soon as its answers are given
    Goes,
    /// the name is done with, but the model it stands for stays; a sentence says for whom
    Stays(String),
    /// it was named when the server was started, and stays
    Pinned,
    /// no model of that name is loaded
    Absent,
}

impl Manager {
    /// Bytes of memory that all models may take.
    pub fn allowed(&self) -> u64 {
        room::free(memory::process()).min(self.policy.load.memory.unwrap_or(u64::MAX))
    }

    /// Those that are taken, by what is loaded and by what others left. What is loaded may not be in memory yet, so it is
    /// its plan that counts.
    fn taken(&self) -> u64 {
        let loaded: u64 = lock(&self.loaded).iter().map(|(_, ready)| ready.planned).sum();
        loaded + self.left_bytes() + self.pictures.bytes()
    }

    /// Bytes of memory that a model may take beside those.
    fn limit(&self) -> u64 {
        self.allowed().saturating_sub(self.taken())
    }

    fn left_bytes(&self) -> u64 {
        lock(&self.left).iter().map(|left| left.bytes).sum()
    }

    /// Where the model fits, after others that nobody uses have made room for it: what unloaded ones left, then those that
    /// [`evict::choose`] names. It takes the place of `old`, if that is loaded. Nobody goes for a model that would not run.
    pub(super) fn room(&self, opened: &Opened, how: &Load, old: Option<&Known>) -> Result<Room, Error> {
        let replaced = |known: &Known| old.is_some_and(|old| old.same(known));
        self.check(opened, how, replaced)?;
        if old.is_some() && !self.remove(|known, ready| replaced(known) && ready.unused()) {
            return Err(Error::new("it is answering; try again when it has ended"));
        }
        loop {
            let room = opened.room(&Load { memory: Some(self.limit()), ..how.clone() }, self.process);
            let whole = room.as_ref().is_ok_and(|room| room.note.is_none());
            let needs = || {
                let all = opened.needs(how, self.process).unwrap_or(u64::MAX).saturating_add(self.taken());
                all.saturating_sub(self.allowed()).max(1)
            };
            if whole || !self.forget() && !self.pictures.let_go() && !self.evict(needs()) {
                return room;
            }
        }
    }

    /// Whether the model would run if all went that may.
    fn check(&self, opened: &Opened, how: &Load, replaced: impl Fn(&Known) -> bool) -> Result<(), Error> {
        let stays = |(known, r): &&(Known, Arc<Ready>)| !r.free() && !replaced(known);
        let stay: u64 = lock(&self.loaded).iter().filter(stays).map(|(_, r)| r.planned).sum();
        let most = Load { memory: Some(self.allowed().saturating_sub(stay)), ..how.clone() };
        let best = opened.room(&most, self.process)?;
        let (Some(context), None, Some(_)) = (how.context, self.policy.load.context, best.residency) else {
            return Ok(());
        };
        // No client that asks for a long context wants it at the disk's pace.
        match opened.room(&Load { context: None, ..most }, self.process)?.residency {
            Some(_) => Ok(()),
            None => Err(Error::new(format!(
                "with {context} tokens of context {}; ask for a shorter one",
                best.note.unwrap_or_default()
            ))),
        }
    }

    /// The place of the picture model.
    pub fn pictures(&self) -> &Arc<Held> {
        &self.pictures
    }

    /// Bytes that a picture may take beside the process, those of its own model among them.
    pub fn for_picture(&self) -> u64 {
        (self.limit() + self.pictures.bytes()).saturating_sub(self.own())
    }

    /// Bytes of the process beside what is planned: the program, and what requests left behind.
    fn own(&self) -> u64 {
        (memory::serving() as u64).saturating_sub(self.taken()).max(self.serving as u64)
    }

    /// The same, if all went that may.
    pub fn most_for_picture(&self) -> u64 {
        let stay: u64 = lock(&self.loaded).iter().filter(|(_, r)| !r.free()).map(|(_, r)| r.planned).sum();
        self.allowed().saturating_sub(stay + self.own())
    }

    /// Makes room for so many bytes of a picture, and counts them in place of what its model was counted with. Of others what
    /// unloaded models left goes first, then those that [`evict::choose`] names. It may wait for one that is being loaded, so
    /// it is not for threads that answer requests. Returns whether there is room.
    pub fn make_room(&self, bytes: u64) -> bool {
        let _turn = self.loading.blocking_lock();
        loop {
            let limit = self.for_picture();
            if limit >= bytes {
                self.pictures.count(bytes);
                return true;
            }
            if !self.forget() && !self.evict(bytes - limit) {
                return false;
            }
        }
    }

    /// Bytes that a model takes beside the process itself.
    pub(super) fn planned(&self, opened: &Opened, room: &Room, size: Size) -> Option<u64> {
        let rows = Scheduler::rows(self.policy.limits.parallel);
        let footprint = opened.model.footprint(room.context.min(CHUNK), rows).ok()?;
        let mut budget = footprint.beside(0, opened.words.tokenizer.heap_bytes()).at(room.context);
        let states = opened.model.program(1, 1).ok()?.graph.states.clone();
        budget.state = usize::try_from(size.bytes(&states, opened.model.options().kv)).ok()?;
        if let Some(residency) = &room.residency {
            budget.weights = residency.budget.weights;
        }
        Some(budget.total() as u64)
    }

    /// How much of conversations the model has room for: one at least, and all at their longest at most.
    pub(super) fn size(&self, opened: &Opened, context: usize) -> Result<Size, Error> {
        let streams = self.policy.limits.parallel;
        let bytes = self.policy.cache.unwrap_or_else(|| self.limit() / 8);
        let size = |tokens| Size { tokens, streams, context };
        let states = opened.model.program(1, 1)?.graph.states.clone();
        let needs = |tokens| size(tokens).bytes(&states, opened.model.options().kv);
        let fits = |tokens| needs(tokens) <= u128::from(bytes);
        if self.policy.cache.is_some() && !fits(context) {
            let least = u64::try_from(needs(context)).unwrap_or(u64::MAX);
            return Err(Error::new(format!(
                "one conversation of {context} tokens takes {} of keys and values, and --cache allows {}; allow more, or \
                 ask for a shorter context with --ctx",
                terminal::bytes(least),
                terminal::bytes(bytes)
            )));
        }
        // In contexts: the next model then finds its cache of the same size again, though a little more is free.
        let (mut least, mut most) = (1, streams.max(2));
        while most - least > 1 {
            let middle = least.midpoint(most);
            if fits(middle * context) { least = middle } else { most = middle }
        }
        Ok(size(if fits(most * context) { most } else { least } * context))
    }

    /// Forgets what the model left that was unloaded first. Returns whether there was one.
    fn forget(&self) -> bool {
        let mut left = lock(&self.left);
        let any = !left.is_empty();
        left.drain(..usize::from(any));
        any
    }

    /// What the model left when it was unloaded, if its file and its context are the same.
    pub(super) fn take_left(&self, known: &Known, context: usize) -> Option<(Size, Cache)> {
        let mut left = lock(&self.left);
        let at = left.iter().position(|l| l.of.same(known))?;
        let Left { of, size, cache, .. } = left.remove(at);
        (of.modified == known.modified && size.context == context).then_some((size, cache))
    }

    fn keep_left(&self, (known, ready): (Known, Arc<Ready>)) {
        // Who asked for the list of those loaded may hold it for a moment; then nothing is left.
        let Some(mut ready) = Arc::into_inner(ready) else { return };
        let Some(cache) = ready.worker.take().and_then(Worker::end) else { return };
        let bytes = u64::try_from(cache.touched_bytes()).unwrap_or(u64::MAX);
        lock(&self.left).push(Left { of: known, size: ready.size, cache, bytes });
        // Within the room that one model has for them.
        let most = self.policy.cache.unwrap_or_else(|| room::free(memory::process()) / 8);
        while self.left_bytes() > most && self.forget() {}
    }

    /// Unloads models that nobody uses, so that `need` bytes become free. Returns whether one was.
    fn evict(&self, need: u64) -> bool {
        let free = Memory::look().free;
        let gone: Vec<_> = {
            let mut loaded = lock(&self.loaded);
            let (places, held): (Vec<usize>, Vec<_>) = loaded
                .iter()
                .enumerate()
                .filter(|(_, (_, r))| r.free())
                .map(|(i, (_, r))| (i, r.held(free)))
                .unzip();
            let mut goes: Vec<usize> = evict::choose(&held, need).into_iter().map(|i| places[i]).collect();
            goes.sort_unstable();
            goes.into_iter().rev().map(|i| loaded.swap_remove(i)).collect()
        };
        let any = !gone.is_empty();
        gone.into_iter().for_each(|gone| self.unloaded(gone));
        any
    }

    /// Unloads the first of those that `which` names. Returns whether there was one.
    fn remove(&self, which: impl Fn(&Known, &Ready) -> bool) -> bool {
        let gone = {
            let mut loaded = lock(&self.loaded);
            let at = loaded.iter().position(|(known, ready)| which(known, ready));
            at.map(|at| loaded.swap_remove(at))
        };
        let any = gone.is_some();
        gone.into_iter().for_each(|gone| self.unloaded(gone));
        any
    }

    /// Its thread is waited for here, without the lock.
    fn unloaded(&self, gone: (Known, Arc<Ready>)) {
        terminal::note(&format!("{} is unloaded", terminal::clean(&gone.1.name)));
        self.keep_left(gone);
    }

    /// Unloads what was not used for as long as it was to be kept. It may wait for threads to end.
    pub fn expire(&self) {
        self.drop_broken();
        while self.remove(|_, ready| ready.free() && ready.over()) {}
        self.pictures.expire(self.policy.keep);
    }

    /// Unloads the model at `path` and those with an adapter on it, if they are loaded. It may wait for threads to end.
    ///
    /// # Errors
    /// Somebody uses it, or it is to stay.
    pub fn unload(&self, path: &Path) -> Result<()> {
        loop {
            let at = |(known, _): &&(Known, Arc<Ready>)| known.weights() == path;
            let loaded = lock(&self.loaded).iter().find(at).map(|(_, r)| r.clone());
            let Some(ready) = loaded else { return Ok(()) };
            let name = terminal::clean(&ready.name);
            if ready.pinned {
                let message = format!("{name} was named when the server was started, and stays");
                return Err(Refusal::new(Kind::Forbidden, message));
            }
            drop(ready);
            if !self.remove(|known, ready| known.weights() == path && ready.free()) {
                let message = format!("{name} is answering; try again when it has ended");
                return Err(Refusal { retry: Some(1), ..Refusal::new(Kind::Busy, message) });
            }
        }
    }

    /// Lets a model go by a name as soon as its answers are given: by its own at once, by a preset's if nobody uses it by
    /// another.
    pub fn release(&self, name: &str) -> Released {
        let loaded = lock(&self.loaded);
        let pinned = lock(&self.pinned).iter().any(|known| known.is(name));
        if let Some((_, ready)) = loaded.iter().find(|(known, _)| known.is(name)) {
            if pinned || ready.pinned {
                return Released::Pinned;
            }
            ready.end(None);
            return Released::Goes;
        }
        let Some((_, ready)) = loaded.iter().find(|(_, ready)| ready.is_called(name)) else {
            return Released::Absent;
        };
        if pinned {
            return Released::Pinned;
        }
        ready.end(Some(name));
        let base = terminal::clean(&ready.name);
        if ready.pinned {
            return Released::Stays(format!(
                "{base} was named when the server was started, and stays loaded"
            ));
        }
        let uses = ready.uses();
        let others: Vec<String> = uses
            .iter()
            .filter(|u| !same(&u.name, name) && !u.ends())
            .map(|u| terminal::clean(&u.name))
            .collect();
        match others.is_empty() {
            true => Released::Goes,
            false => Released::Stays(format!("{base} stays loaded: it is used as {}", others.join(", "))),
        }
    }
}
