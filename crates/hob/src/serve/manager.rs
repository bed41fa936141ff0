//! The models that are loaded: on demand, for as long as they are used, within the memory there is.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use hob_engine::{CHUNK, memory};

use super::metrics::Metrics;
use super::pulls::Source;
use super::refusal::{Kind, Refusal, Result};
use super::worker::{Limits, Worker};
use crate::error::Error;
use crate::hub::Spec;
use crate::model::{Load, Opened};
use crate::room::{self, Room};
use crate::store::{self, Found, Wanted};
use crate::terminal;

/// How long a model that nobody uses stays loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// so long; zero unloads it at once
    For(Duration),
    /// until the server ends, or another model needs the memory
    Always,
}

impl Keep {
    /// Reads `5m`, `90s`, `1h30m`, `300` (seconds); below zero means always, as with Ollama.
    pub fn parse(text: &str) -> Result<Keep, String> {
        let wrong = || format!("'{text}' is no time; write 5m, 90s, 1h, 0, or -1 for ever");
        let text = text.trim();
        let (text, always) = text.strip_prefix('-').map_or((text, false), |rest| (rest, true));
        let (mut seconds, mut rest) = (0.0, text);
        while !rest.is_empty() {
            let at = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            let number: f64 = rest[..at].parse().map_err(|_| wrong())?;
            let end = rest[at..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |n| at + n);
            seconds += number
                * match &rest[at..end] {
                    "ms" => 1e-3,
                    "" | "s" => 1.0,
                    "m" => 60.0,
                    "h" => 3600.0,
                    "d" => 86400.0,
                    _ => return Err(wrong()),
                };
            rest = &rest[end..];
        }
        match always {
            _ if text.is_empty() => Err(wrong()),
            true => Ok(Keep::Always),
            // A century is as good as ever.
            false if seconds > 3e9 => Ok(Keep::Always),
            false => Ok(Keep::For(Duration::from_secs_f64(seconds))),
        }
    }
}

/// A model that answers.
pub struct Ready {
    /// what a client calls it
    pub name: String,
    /// files, tokenizer, template
    pub opened: Opened,
    /// tokens of context
    pub context: usize,
    /// bytes of memory that it is planned to take
    pub planned: u64,
    /// when it was loaded
    #[allow(dead_code)] // Ollama's API tells it
    pub since: SystemTime,
    /// stays until the server ends
    pub pinned: bool,
    worker: Worker,
    users: AtomicUsize,
    used: Mutex<(Instant, Keep)>,
}

impl Ready {
    /// Its thread.
    pub fn worker(&self) -> &Worker {
        &self.worker
    }

    /// How long it stays without being used, and since when it is not.
    pub fn idle(&self) -> (Duration, Keep) {
        let used = lock(&self.used);
        (used.0.elapsed(), used.1)
    }

    fn free(&self) -> bool {
        !self.pinned && self.users.load(Ordering::SeqCst) == 0
    }
}

/// A model in use: it stays loaded while this lives.
pub struct Lease(Arc<Ready>);

impl Lease {
    fn new(ready: &Arc<Ready>) -> Lease {
        ready.users.fetch_add(1, Ordering::SeqCst);
        Lease(ready.clone())
    }
}

impl Clone for Lease {
    fn clone(&self) -> Lease {
        Lease::new(&self.0)
    }
}

impl Deref for Lease {
    type Target = Ready;

    fn deref(&self) -> &Ready {
        &self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        lock(&self.0.used).0 = Instant::now();
        self.0.users.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A model that could be loaded, or is.
#[derive(Clone, Debug)]
pub struct Known {
    /// what a client calls it
    pub name: String,
    /// what else it is called: with its place, or by the catalogue
    pub others: Vec<String>,
    /// what to open
    pub path: PathBuf,
    /// length of its files
    pub bytes: u64,
    /// when its file was written
    pub modified: SystemTime,
}

impl Known {
    /// A model found on this machine.
    pub fn of(model: &store::Model) -> Known {
        let others = [Some(model.qualified.clone()), model.alias.map(String::from)];
        let mut known = Known::at(model.name.clone(), model.path.clone());
        known.others = others.into_iter().flatten().filter(|n| *n != model.name).collect();
        known.bytes = model.bytes;
        known
    }

    /// The model at a path that the person who started the server gave.
    pub fn at(name: String, path: PathBuf) -> Known {
        let about = std::fs::metadata(&path).ok();
        let modified = about.as_ref().and_then(|m| m.modified().ok()).unwrap_or(SystemTime::UNIX_EPOCH);
        let bytes = about.filter(|m| m.is_file()).map_or(0, |m| m.len());
        Known { name, others: Vec::new(), path, bytes, modified }
    }

    /// Whether `name` means it: in any case, and with the `:latest` that Ollama's clients add.
    fn is(&self, name: &str) -> bool {
        let same = |own: &String| {
            own.eq_ignore_ascii_case(name)
                || name.strip_suffix(":latest").is_some_and(|bare| own.eq_ignore_ascii_case(bare))
                || own.strip_suffix(":latest").is_some_and(|bare| bare.eq_ignore_ascii_case(name))
        };
        same(&self.name) || self.others.iter().any(same)
    }
}

/// How models are loaded and kept.
pub struct Policy {
    /// how each is loaded
    pub load: Load,
    /// how many jobs each takes
    pub limits: Limits,
    /// how long one stays where the request does not say
    pub keep: Keep,
}

/// All models of the server.
pub struct Manager {
    policy: Policy,
    metrics: Arc<Metrics>,
    /// bytes of the process before any model
    process: usize,
    /// those named when the server was started
    pinned: Mutex<Vec<Known>>,
    loaded: Mutex<Vec<(Known, Arc<Ready>)>>,
    /// one is loaded at a time, so that each plan knows of the others
    loading: Arc<tokio::sync::Mutex<()>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl Manager {
    /// A manager with no model loaded.
    pub fn new(policy: Policy, metrics: Arc<Metrics>) -> Manager {
        let (pinned, loaded, loading) = (Mutex::default(), Mutex::default(), Arc::default());
        Manager { policy, metrics, process: memory::process(), pinned, loaded, loading }
    }

    /// Loads a model that stays until the server ends.
    pub async fn pin(self: &Arc<Self>, known: Known) -> Result<()> {
        lock(&self.pinned).push(known.clone());
        self.load(known, true).await.map(drop)
    }

    /// Every model that a client may name: the pinned ones, then those on this machine.
    pub async fn known(&self) -> Vec<Known> {
        let mut all = lock(&self.pinned).clone();
        // Folders are looked through, which may take a moment.
        let found = tokio::task::spawn_blocking(store::discover).await.unwrap_or_else(|_| Found::default());
        for model in &found.models {
            if !all.iter().any(|k| k.path == model.path) {
                all.push(Known::of(model));
            }
        }
        all
    }

    /// The models that are loaded.
    pub fn loaded(&self) -> Vec<Arc<Ready>> {
        lock(&self.loaded).iter().map(|(_, ready)| ready.clone()).collect()
    }

    /// The model of that name, loaded if it is not yet. Without a name, the one that is loaded, if it is one.
    ///
    /// # Errors
    /// No model has that name, or it cannot be loaded.
    pub async fn get(self: &Arc<Self>, name: Option<&str>, keep: Option<Keep>) -> Result<Lease> {
        let lease = match name {
            None => self.only()?,
            Some(name) => match self.lease(|known| known.is(name)) {
                Some(lease) => lease,
                None => self.load(self.find(name).await?, false).await?,
            },
        };
        if let Some(keep) = keep {
            lock(&lease.used).1 = keep;
        }
        Ok(lease)
    }

    /// What the name stands for. It is compared with the names of models that are here, and never used as a path.
    pub async fn find(&self, name: &str) -> Result<Known> {
        let known = self.known().await;
        if let Some(known) = known.iter().find(|k| k.is(name)) {
            return Ok(known.clone());
        }
        if let Some(Ok(Source::Hub(spec))) = Source::parse(name)
            && let Some(path) = cached(spec).await?
            && let Some(known) = known.iter().find(|k| k.path == path)
        {
            return Ok(known.clone());
        }
        let names = known.iter().flat_map(|k| k.others.iter().chain([&k.name]));
        let names = names.map(|own| (crate::near::plain(own), own.as_str()));
        let near = crate::near::near(&crate::near::plain(name), names);
        let meant = match near.is_empty() {
            true => "GET /v1/models lists those that are".into(),
            false => format!("did you mean {}?", near.join(", ")),
        };
        let shown: String = terminal::clean(name).chars().take(100).collect();
        let message = format!("there is no model named '{shown}' on this machine; {meant}");
        Err(Refusal { field: Some("model".into()), ..Refusal::new(Kind::UnknownModel, message) })
    }

    fn only(&self) -> Result<Lease> {
        match &lock(&self.loaded)[..] {
            [(_, one)] => Ok(Lease::new(one)),
            _ => Err(Refusal::field("model", "`model` is missing; GET /v1/models lists what it may be")),
        }
    }

    fn lease(&self, which: impl Fn(&Known) -> bool) -> Option<Lease> {
        lock(&self.loaded).iter().find(|(known, _)| which(known)).map(|(_, ready)| Lease::new(ready))
    }

    async fn load(self: &Arc<Self>, known: Known, pinned: bool) -> Result<Lease> {
        let turn = self.loading.clone().lock_owned().await;
        if let Some(lease) = self.lease(|k| k.path == known.path) {
            return Ok(lease);
        }
        let manager = self.clone();
        // It goes on though the client leaves: another may wait for the same model.
        let work = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let ready = Arc::new(manager.open(&known, pinned)?);
            let lease = Lease::new(&ready);
            lock(&manager.loaded).push((known, ready));
            Ok(lease)
        });
        work.await.unwrap_or_else(|_| {
            Err(Refusal::failed("loading the model failed by a bug in Hob; please report it"))
        })
    }

    fn open(&self, known: &Known, pinned: bool) -> Result<Ready> {
        let start = Instant::now();
        let name = &known.name;
        let cannot = |kind| move |e: Error| Refusal::new(kind, format!("{name} cannot be loaded: {e}"));
        let opened = Opened::open(&known.path, &self.policy.load).map_err(cannot(Kind::Failed))?;
        let room = self.room(&opened).map_err(cannot(Kind::NoRoom))?;
        opened.settle_in(&room);
        let context = room.context;
        let worker = Worker::start(&opened.model, context, self.policy.limits);
        let worker = worker.map_err(|e| cannot(Kind::NoRoom)(e.into()))?;
        let planned = planned(&opened, &room).unwrap_or(known.bytes);
        self.metrics.loads.fetch_add(1, Ordering::Relaxed);
        terminal::note(&format!("{} is loaded ({} ms)", terminal::clean(name), start.elapsed().as_millis()));
        Ok(Ready {
            name: name.clone(),
            opened,
            context,
            planned,
            since: SystemTime::now(),
            pinned,
            worker,
            users: AtomicUsize::new(0),
            used: Mutex::new((Instant::now(), self.policy.keep)),
        })
    }

    /// Where the model fits, after others that nobody uses have made room for it, the one unused longest first.
    fn room(&self, opened: &Opened) -> Result<Room, Error> {
        loop {
            let others: u64 = lock(&self.loaded).iter().map(|(_, ready)| ready.planned).sum();
            let mut how = self.policy.load.clone();
            if others > 0 || how.memory.is_some() {
                let limit = how.memory.unwrap_or(u64::MAX).min(room::free(memory::process()));
                how.memory = Some(limit.saturating_sub(others));
            }
            let room = opened.room(&how, self.process);
            let whole = room.as_ref().is_ok_and(|room| room.note.is_none());
            if whole || !self.evict(|_| true) {
                return room;
            }
        }
    }

    /// Unloads the model that was unused longest, of those that nobody uses and that `may` go. Returns whether one was.
    fn evict(&self, may: impl Fn(&Ready) -> bool) -> bool {
        let gone = {
            let mut loaded = lock(&self.loaded);
            let free = loaded.iter().enumerate().filter(|(_, (_, r))| r.free() && may(r));
            let Some(at) = free.max_by_key(|(_, (_, r))| r.idle().0).map(|(i, _)| i) else { return false };
            loaded.swap_remove(at).1
        };
        terminal::note(&format!("{} is unloaded", terminal::clean(&gone.name)));
        drop(gone); // its thread is waited for here, without the lock
        true
    }

    /// Unloads what was not used for as long as it was to be kept. It may wait for threads to end.
    pub fn expire(&self) {
        let over = |r: &Ready| matches!(r.idle(), (idle, Keep::For(keep)) if idle >= keep);
        while self.evict(over) {}
    }

    /// Unloads the model at `path`, if it is loaded. It may wait for its thread to end.
    ///
    /// # Errors
    /// Somebody uses it, or it is to stay.
    pub fn unload(&self, path: &Path) -> Result<()> {
        let loaded = lock(&self.loaded).iter().find(|(known, _)| known.path == path).map(|(_, r)| r.clone());
        let Some(ready) = loaded else { return Ok(()) };
        let name = terminal::clean(&ready.name);
        if ready.pinned {
            let message = format!("{name} was named when the server was started, and stays");
            return Err(Refusal::new(Kind::Forbidden, message));
        }
        drop(ready);
        match self.evict(|r| r.opened.words.checkpoint.path == path) {
            true => Ok(()),
            false => {
                let message = format!("{name} is answering; try again when it has ended");
                Err(Refusal { retry: Some(1), ..Refusal::new(Kind::Busy, message) })
            }
        }
    }

    /// Unloads a model by name as soon as nobody uses it. Returns whether it was loaded and may go.
    pub fn release(&self, name: &str) -> bool {
        let loaded = lock(&self.loaded);
        let found = loaded.iter().find(|(known, ready)| known.is(name) && !ready.pinned);
        found.map(|(_, ready)| lock(&ready.used).1 = Keep::For(Duration::ZERO)).is_some()
    }
}

/// The model of a repository of the hub, if it is on this machine.
///
/// # Errors
/// Several of its models are.
async fn cached(spec: Spec) -> Result<Option<PathBuf>> {
    let resolve = move || store::resolve(&spec.to_string(), &store::discover());
    match tokio::task::spawn_blocking(resolve).await {
        Ok(Ok(Wanted::Here(model))) => Ok(Some(model.path)),
        Ok(Err(e)) => Err(Refusal::field("model", e.to_string())),
        _ => Ok(None),
    }
}

/// Bytes that a model takes beside the process itself.
fn planned(opened: &Opened, room: &Room) -> Option<u64> {
    let footprint = opened.model.footprint(room.context.min(CHUNK), 1).ok()?;
    let mut budget = footprint.beside(0, opened.words.tokenizer.heap_bytes()).at(room.context);
    if let Some(residency) = &room.residency {
        budget.weights = residency.budget.weights;
    }
    Some(budget.total() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_and_ollama_write_them() {
        let seconds = |n| Ok(Keep::For(Duration::from_secs(n)));
        for (text, keep) in
            [("5m", seconds(300)), ("90", seconds(90)), ("1h30m", seconds(5400)), ("0", seconds(0))]
        {
            assert_eq!(Keep::parse(text), keep, "{text}");
        }
        assert_eq!(Keep::parse("-1"), Ok(Keep::Always));
        assert_eq!(Keep::parse("-1m"), Ok(Keep::Always));
        assert_eq!(Keep::parse("500ms"), Ok(Keep::For(Duration::from_millis(500))));
        for bad in ["", "-", "m", "5x", "5 m", "1.2.3s", "é"] {
            assert!(Keep::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_compared_and_not_opened() {
        let known = Known {
            others: vec!["hf:o/Tiny:x.gguf".into()],
            ..Known::at("Tiny".into(), "/x/tiny.gguf".into())
        };
        assert!(known.is("tiny") && known.is("Tiny:latest") && known.is("hf:o/tiny:X.gguf"));
        assert!(!known.is("/x/tiny.gguf") && !known.is("tin") && !known.is(""));
    }
}
