//! The models that are loaded: on demand, for as long as they are used, within the memory there is.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use hob_engine::cache::Size;
use hob_engine::{CHUNK, Cache, Scheduler, memory};
use hob_grammar::Vocabulary;
use hob_io::chat::Dialect;

use super::images::Held;
use super::keep::Keep;
use super::known::Known;
use super::metrics::Metrics;
use super::preset::Made;
use super::pulls::Source;
use super::refusal::{Kind, Refusal, Result};
use super::vectors::Vectors;
use super::worker::{Limits, Worker};
use crate::error::Error;
use crate::hub::Spec;
use crate::model::{Load, Opened};
use crate::preset::{self, Preset};
use crate::room::{self, Room};
use crate::store::{self, Found, Wanted};
use crate::terminal;

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
    /// how much of conversations it has room for
    pub size: Size,
    /// when it was loaded
    #[allow(dead_code)] // Ollama's API tells it
    pub since: SystemTime,
    /// stays until the server ends
    pub pinned: bool,
    /// how it writes calls and thoughts
    pub dialect: Dialect,
    worker: Option<Worker>,
    /// its tokens for grammars, made when the first is asked for
    vocabulary: OnceLock<hob_grammar::Result<Vocabulary>>,
    /// what makes its vectors
    pub vectors: Vectors,
    /// what was noted of it
    noted: Mutex<Vec<String>>,
    users: AtomicUsize,
    used: Mutex<(Instant, Keep)>,
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
pub struct Lease {
    /// what the client calls it: its own name, or that of a preset
    pub name: String,
    ready: Arc<Ready>,
    preset: Option<Arc<Made>>,
}

impl Lease {
    fn new(ready: &Arc<Ready>) -> Lease {
        ready.users.fetch_add(1, Ordering::SeqCst);
        Lease { name: ready.name.clone(), ready: ready.clone(), preset: None }
    }

    /// The same as that model, which may be a preset of it.
    fn called(mut self, known: &Known) -> Lease {
        self.preset = known.preset.clone();
        if self.preset.is_some() {
            self.name.clone_from(&known.name);
        }
        self
    }

    /// The preset that was asked for, if it was one.
    pub fn preset(&self) -> Option<&Preset> {
        self.preset.as_ref().map(|made| &made.settled.preset)
    }
}

impl Clone for Lease {
    fn clone(&self) -> Lease {
        let mut lease = Lease::new(&self.ready);
        lease.name.clone_from(&self.name);
        lease.preset.clone_from(&self.preset);
        lease
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
        lock(&self.ready.used).0 = Instant::now();
        self.ready.users.fetch_sub(1, Ordering::SeqCst);
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
    /// bytes of keys and values of each model; an eighth of what is free when `None`
    pub cache: Option<u64>,
}

/// What an unloaded model read of conversations: it goes on there when it is loaded again.
struct Left {
    of: Known,
    size: Size,
    cache: Cache,
    bytes: u64,
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
    /// the one unloaded last is last
    left: Mutex<Vec<Left>>,
    /// the picture model
    pictures: Arc<Held>,
    /// one is loaded at a time, so that each plan knows of the others
    loading: Arc<tokio::sync::Mutex<()>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl Manager {
    /// A manager with no model loaded.
    pub fn new(policy: Policy, metrics: Arc<Metrics>) -> Manager {
        let (pinned, loaded, left, loading) =
            (Mutex::default(), Mutex::default(), Mutex::default(), Arc::default());
        let (process, pictures) = (memory::process(), Arc::default());
        Manager { policy, metrics, process, pinned, loaded, left, pictures, loading }
    }

    /// Loads a model that stays until the server ends.
    pub async fn pin(self: &Arc<Self>, known: Known) -> Result<()> {
        lock(&self.pinned).push(known.clone());
        self.load(known.root(), true).await.map(drop)
    }

    /// Every model that a client may name: the pinned ones, then presets and models of this machine.
    pub async fn known(&self) -> Vec<Known> {
        let mut all = lock(&self.pinned).clone();
        // Folders are looked through, which may take a moment.
        let found = tokio::task::spawn_blocking(store::discover).await.unwrap_or_else(|_| Found::default());
        for kept in &found.presets {
            if !all.iter().any(|k| k.is(&kept.name)) {
                all.extend(Known::of_preset(kept, &found)); // one without its base is none
            }
        }
        for model in found.models.iter().filter(|m| m.kind == store::Kind::Text) {
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
            Some(name) => match self.preset(name).await? {
                Some(known) => self.load(known.root(), false).await?.called(&known),
                None => match self.lease(|known| known.preset.is_none() && known.is(name)) {
                    Some(lease) => lease,
                    None => self.load(self.find(name).await?, false).await?,
                },
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
        let found = tokio::task::spawn_blocking(store::discover).await.unwrap_or_default();
        let picture = found.models.iter().find(|m| m.kind == store::Kind::Image && Known::of(m).is(name));
        if let Some(picture) = picture {
            let name = terminal::clean(&picture.name);
            let message = format!("{name} makes pictures: ask /v1/images/generations for one");
            return Err(Refusal { field: Some("model".into()), ..Refusal::new(Kind::UnknownModel, message) });
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

    /// The preset of that name. It is read anew each time, as a person may change it while the server runs.
    async fn preset(&self, name: &str) -> Result<Option<Known>> {
        let pinned = lock(&self.pinned).iter().find(|k| k.preset.is_some() && k.is(name)).cloned();
        if pinned.is_some() {
            return Ok(pinned);
        }
        let name = name.to_string();
        let look = move || {
            preset::find(&name, &preset::all().0)?;
            let found = store::discover();
            let kept = found.preset(&name)?;
            Some(Known::of_preset(kept, &found))
        };
        let known = tokio::task::spawn_blocking(look).await.unwrap_or(None).transpose();
        known.map_err(|e| Refusal::new(Kind::Failed, e.to_string()))
    }

    fn only(&self) -> Result<Lease> {
        match &lock(&self.loaded)[..] {
            [(known, one)] => {
                let as_named = lock(&self.pinned).iter().find(|p| p.root().same(known)).cloned();
                Ok(Lease::new(one).called(as_named.as_ref().unwrap_or(known)))
            }
            _ => Err(Refusal::field("model", "`model` is missing; GET /v1/models lists what it may be")),
        }
    }

    fn lease(&self, which: impl Fn(&Known) -> bool) -> Option<Lease> {
        lock(&self.loaded).iter().find(|(known, _)| which(known)).map(|(_, ready)| Lease::new(ready))
    }

    async fn load(self: &Arc<Self>, known: Known, pinned: bool) -> Result<Lease> {
        if let Some(lease) = self.lease(|k| k.same(&known)) {
            return Ok(lease); // without waiting for others that are being loaded
        }
        let turn = self.loading.clone().lock_owned().await;
        if let Some(lease) = self.lease(|k| k.same(&known)) {
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
        let how = known.load(&self.policy.load);
        let opened = Opened::open(&known.path, &how).map_err(cannot(Kind::Failed))?;
        let (context, size, worker, planned) = match opened.model.outline().encoder() {
            // Of texts nothing is kept.
            Some(_) => {
                (opened.model.context(), Size { tokens: 0, streams: 0, context: 0 }, None, known.bytes)
            }
            None => self.work(known, &opened, &how).map_err(cannot(Kind::NoRoom))?,
        };
        let dialect = opened.chat.dialect(Some(&opened.words.tokenizer));
        self.metrics.loads.fetch_add(1, Ordering::Relaxed);
        terminal::note(&format!("{} is loaded ({} ms)", terminal::clean(name), start.elapsed().as_millis()));
        Ok(Ready {
            name: name.clone(),
            opened,
            context,
            planned,
            size,
            since: SystemTime::now(),
            pinned,
            dialect,
            worker,
            vocabulary: OnceLock::new(),
            vectors: Vectors::default(),
            noted: Mutex::default(),
            users: AtomicUsize::new(0),
            used: Mutex::new((Instant::now(), self.policy.keep)),
        })
    }

    /// Plans a model that answers, and sets it to work.
    fn work(
        &self,
        known: &Known,
        opened: &Opened,
        how: &Load,
    ) -> Result<(usize, Size, Option<Worker>, u64), Error> {
        let room = self.room(opened, how)?;
        opened.settle_in(&room);
        let (size, cache) = match self.take_left(known, room.context) {
            Some(left) => left,
            None => {
                let size = self.size(opened, room.context)?;
                (size, Cache::of_size(&opened.model, size)?)
            }
        };
        let worker = Worker::start(&opened.model, cache, room.context, self.policy.limits)?;
        let planned = self.planned(opened, &room, size).unwrap_or(known.bytes);
        Ok((room.context, size, Some(worker), planned))
    }

    /// Bytes of memory that a model may take, beside those loaded and what others left.
    fn limit(&self) -> u64 {
        let others: u64 = lock(&self.loaded).iter().map(|(_, ready)| ready.planned).sum();
        let left: u64 = lock(&self.left).iter().map(|left| left.bytes).sum();
        let limit = self.policy.load.memory.unwrap_or(u64::MAX);
        // What is loaded may not be in memory yet, so it is its plan that counts.
        limit.min(room::free(memory::process())).saturating_sub(others + left + self.pictures.bytes())
    }

    /// Where the model fits, after others that nobody uses have made room for it: what unloaded ones left, then the
    /// one unused longest.
    fn room(&self, opened: &Opened, how: &Load) -> Result<Room, Error> {
        loop {
            let how = Load { memory: Some(self.limit()), ..how.clone() };
            let room = opened.room(&how, self.process);
            let whole = room.as_ref().is_ok_and(|room| room.note.is_none());
            if whole || !self.forget() && !self.pictures.let_go() && !self.evict(|_| true) {
                return room;
            }
        }
    }

    /// The place of the picture model.
    pub fn pictures(&self) -> &Arc<Held> {
        &self.pictures
    }

    /// How long a model stays where nothing else is said.
    pub fn keep(&self) -> Keep {
        self.policy.keep
    }

    /// Threads that a model runs on.
    pub fn threads(&self) -> usize {
        crate::model::options(self.policy.load.threads).threads
    }

    /// Makes room for so many bytes of a picture, and counts them; its own must not count yet. Of others what unloaded models left goes first, then the
    /// ones unused longest. It may wait for one that is being loaded, so it is not for threads that answer requests.
    ///
    /// # Errors
    /// There are only so many bytes.
    pub fn make_room(&self, bytes: u64) -> Result<(), u64> {
        let _turn = self.loading.blocking_lock();
        loop {
            let limit = self.limit();
            if limit >= bytes {
                self.pictures.count(bytes);
                return Ok(());
            }
            if !self.forget() && !self.evict(|_| true) {
                return Err(limit);
            }
        }
    }

    /// Bytes that a model takes beside the process itself.
    fn planned(&self, opened: &Opened, room: &Room, size: Size) -> Option<u64> {
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

    /// Forgets what the model left that was unloaded first. Returns whether there was one.
    fn forget(&self) -> bool {
        let mut left = lock(&self.left);
        let any = !left.is_empty();
        left.drain(..usize::from(any));
        any
    }

    /// What the model left when it was unloaded, if its file and its context are the same.
    fn take_left(&self, known: &Known, context: usize) -> Option<(Size, Cache)> {
        let mut left = lock(&self.left);
        let at = left.iter().position(|l| l.of.same(known))?;
        let Left { of, size, cache, .. } = left.remove(at);
        (of.modified == known.modified && size.context == context).then_some((size, cache))
    }

    /// How much of conversations the model has room for: one at least, and all at their longest at most.
    fn size(&self, opened: &Opened, context: usize) -> Result<Size, Error> {
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

    /// Unloads the model that was unused longest, of those that nobody uses and that `may` go. Returns whether one was.
    fn evict(&self, may: impl Fn(&Ready) -> bool) -> bool {
        let gone = {
            let mut loaded = lock(&self.loaded);
            let free = loaded.iter().enumerate().filter(|(_, (_, r))| r.free() && may(r));
            let Some(at) = free.max_by_key(|(_, (_, r))| r.idle().0).map(|(i, _)| i) else { return false };
            loaded.swap_remove(at)
        };
        terminal::note(&format!("{} is unloaded", terminal::clean(&gone.1.name)));
        self.keep_left(gone); // its thread is waited for here, without the lock
        true
    }

    fn keep_left(&self, (known, ready): (Known, Arc<Ready>)) {
        // Who asked for the list of those loaded may hold it for a moment; then nothing is left.
        let Some(mut ready) = Arc::into_inner(ready) else { return };
        let Some(cache) = ready.worker.take().and_then(Worker::end) else { return };
        let bytes = u64::try_from(cache.touched_bytes()).unwrap_or(u64::MAX);
        lock(&self.left).push(Left { of: known, size: ready.size, cache, bytes });
        // Within the room that one model has for them.
        let most = self.policy.cache.unwrap_or_else(|| room::free(memory::process()) / 8);
        while lock(&self.left).iter().map(|l| l.bytes).sum::<u64>() > most && self.forget() {}
    }

    /// Unloads what was not used for as long as it was to be kept. It may wait for threads to end.
    pub fn expire(&self) {
        let over = |r: &Ready| matches!(r.idle(), (idle, Keep::For(keep)) if idle >= keep);
        while self.evict(over) {}
        self.pictures.expire(self.policy.keep);
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
