//! The models that are loaded: on demand, for as long as they are used, within the memory there is.

mod evict;
mod ready;
mod space;

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use hob_engine::cache::Size;
use hob_engine::{Cache, memory};

use super::images::Held;
use super::keep::Keep;
use super::known::Known;
use super::metrics::Metrics;
use super::pulls::Source;
use super::refusal::{Kind, Refusal, Result};
use super::vectors::Vectors;
use super::worker::{Limits, Worker};
use crate::error::Error;
use crate::hub::Spec;
use crate::model::{Load, Opened};
use crate::store::{self, Found, Wanted};
use crate::{preset, terminal};

pub use ready::{Lease, Ready, Use};
pub use space::Released;

/// A model that is to have a longer context waits so long for those that it answers.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a request says of how a model is loaded; where it does not, the server does.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stay {
    /// how long it stays
    pub keep: Option<Keep>,
    /// tokens of context
    pub context: Option<usize>,
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

/// All models of the server.
pub struct Manager {
    policy: Policy,
    metrics: Arc<Metrics>,
    /// bytes of the process before any model
    process: usize,
    /// the same once pictures were made
    serving: usize,
    /// those named when the server was started
    pinned: Mutex<Vec<Known>>,
    loaded: Mutex<Vec<(Known, Arc<Ready>)>>,
    /// the one unloaded last is last
    left: Mutex<Vec<space::Left>>,
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
        let (process, serving, pictures) = (memory::process(), memory::serving(), Arc::default());
        Manager { policy, metrics, process, serving, pinned, loaded, left, pictures, loading }
    }

    /// Loads a model that stays until the server ends.
    pub async fn pin(self: &Arc<Self>, known: Known) -> Result<()> {
        lock(&self.pinned).push(known.clone());
        let lease = self.load(&known, Stay::default(), true).await?;
        lease.keep(&lease.name, Keep::Always);
        Ok(())
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

    /// How long a model stays where nothing else is said.
    pub fn keep(&self) -> Keep {
        self.policy.keep
    }

    /// Threads that a model runs on.
    pub fn threads(&self) -> usize {
        crate::model::options(self.policy.load.threads).threads
    }

    /// The models that are loaded.
    pub fn loaded(&self) -> Vec<Arc<Ready>> {
        self.drop_broken();
        lock(&self.loaded).iter().map(|(_, ready)| ready.clone()).collect()
    }

    /// The model of that name, loaded if it is not yet. Without a name, the one that is loaded, if it is one.
    ///
    /// # Errors
    /// No model has that name, or it cannot be loaded.
    pub async fn get(self: &Arc<Self>, name: Option<&str>, stay: Stay) -> Result<Lease> {
        let known = match name {
            None => match self.only() {
                // The only one broke down.
                Err(e) => self.only_pinned().ok_or(e)?,
                Ok(known) => known,
            },
            Some(name) => match self.preset(name).await? {
                Some(known) => known,
                None => match self.known_loaded(|known| known.preset.is_none() && known.is(name)) {
                    Some(known) => known,
                    None => self.find(name).await?,
                },
            },
        };
        let lease = self.load(&known, stay, false).await?;
        if let Some(keep) = stay.keep {
            lease.keep(&lease.name, keep);
        }
        if let Some(asked) = stay.context.filter(|n| *n > lease.context && lease.answers()) {
            let name = terminal::clean(&lease.name);
            let note = format!(
                "{name} has {} tokens of context, and a client asks for num_ctx {asked}: it gets those",
                lease.context
            );
            lease.once(&note, || terminal::note(&note));
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

    fn only_pinned(&self) -> Option<Known> {
        let none = lock(&self.loaded).is_empty();
        match &lock(&self.pinned)[..] {
            [one] if none => Some(one.clone()),
            _ => None,
        }
    }

    fn only(&self) -> Result<Known> {
        self.drop_broken();
        match &lock(&self.loaded)[..] {
            [(known, _)] => {
                let as_named = lock(&self.pinned).iter().find(|p| p.root().same(known)).cloned();
                Ok(as_named.unwrap_or_else(|| known.clone()))
            }
            _ => Err(Refusal::field("model", "`model` is missing; GET /v1/models lists what it may be")),
        }
    }

    /// Lets go of models whose threads ended by a bug: they count as unloaded, and the next request loads them anew.
    fn drop_broken(&self) {
        let broken = |ready: &Ready| ready.worker().is_some_and(Worker::broken);
        let gone: Vec<_> = lock(&self.loaded).extract_if(.., |(_, ready)| broken(ready)).collect();
        for (known, _) in gone {
            let name = terminal::clean(&known.name);
            terminal::note(&format!(
                "{name} is unloaded, as its thread ended by a bug in Hob; the next request loads it anew"
            ));
        }
    }

    fn known_loaded(&self, which: impl Fn(&Known) -> bool) -> Option<Known> {
        lock(&self.loaded).iter().map(|(known, _)| known).find(|known| which(known)).cloned()
    }

    /// Tokens of context that a model is to have which was trained for `trained`; as usual where `None`. What the person
    /// said who started the server holds for all; a request gets no more than the model was trained for, as with Ollama.
    fn context(&self, known: &Known, stay: Stay, trained: usize) -> Option<usize> {
        let asked = stay.context.map(|n| n.min(trained));
        self.policy.load.context.or(asked).or_else(|| known.context())
    }

    /// The model, if it is loaded, and its lease if its context is as long as is wanted. Who asks for no length does not
    /// wait for others that have a shorter one.
    fn lease(&self, known: &Known, root: &Known, stay: Stay) -> Option<(Arc<Ready>, Option<Lease>)> {
        self.drop_broken();
        let loaded = lock(&self.loaded);
        let ready = loaded.iter().find(|(k, _)| k.same(root)).map(|(_, ready)| ready)?;
        let wanted = self.context(known, stay, ready.opened.model.context());
        let fits = ready.reaches(wanted) || wanted.is_none() && !ready.unused();
        Some((ready.clone(), fits.then(|| Lease::new(ready, known))))
    }

    async fn load(self: &Arc<Self>, known: &Known, stay: Stay, pinned: bool) -> Result<Lease> {
        let (root, until) = (known.root(), Instant::now() + PATIENCE);
        // One that broke down is loaded again as it was.
        let pinned = pinned || lock(&self.pinned).iter().any(|p| p.root().same(&root));
        loop {
            if let Some((_, Some(lease))) = self.lease(known, &root, stay) {
                return Ok(lease); // without waiting for others that are being loaded
            }
            let turn = self.loading.clone().lock_owned().await;
            let short = match self.lease(known, &root, stay) {
                Some((_, Some(lease))) => return Ok(lease),
                Some((ready, None)) if !ready.unused() => {
                    drop(turn);
                    if Instant::now() > until {
                        return Err(self.too_short(&ready, known, stay));
                    }
                    drop(ready); // so that it can be unloaded
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
                short => short.is_some(),
            };
            let (manager, known) = (self.clone(), known.clone());
            // It goes on though the client leaves: another may wait for the same model.
            let work = tokio::task::spawn_blocking(move || {
                let _turn = turn;
                let ready = Arc::new(manager.open(&known, &root, stay, pinned, short)?);
                let lease = Lease::new(&ready, &known);
                lock(&manager.loaded).push((root, ready));
                Ok(lease)
            });
            return work.await.unwrap_or_else(|_| {
                Err(Refusal::failed("loading the model failed by a bug in Hob; please report it"))
            });
        }
    }

    /// That a model is in use with less context than is wanted.
    fn too_short(&self, ready: &Ready, known: &Known, stay: Stay) -> Refusal {
        let wanted = self.context(known, stay, ready.opened.model.context());
        let message = format!(
            "{} is answering others with {} tokens of context, and {} are asked for; try again when it has ended \
             (hob serve --ctx gives all the same)",
            terminal::clean(&ready.name),
            ready.context,
            wanted.unwrap_or(ready.context)
        );
        Refusal { retry: Some(1), ..Refusal::new(Kind::Busy, message) }
    }

    /// Loads `root`, which `known` is made of; in place of the one that is loaded where that is too `short`.
    fn open(&self, known: &Known, root: &Known, stay: Stay, pinned: bool, short: bool) -> Result<Ready> {
        let start = Instant::now();
        let name = &root.name;
        let cannot = |kind| move |e: Error| Refusal::new(kind, format!("{name} cannot be loaded: {e}"));
        let opened = Opened::open(&root.path, &root.load(&self.policy.load)).map_err(cannot(Kind::Failed))?;
        let asked = self.context(known, stay, opened.model.context());
        let how = Load { context: asked, ..root.load(&self.policy.load) };
        let (context, size, worker, planned) = match opened.model.outline().encoder() {
            // Of texts nothing is kept.
            Some(_) => (opened.model.context(), Size { tokens: 0, streams: 0, context: 0 }, None, root.bytes),
            None => self.work(root, &opened, &how, short).map_err(cannot(Kind::NoRoom))?,
        };
        let dialect = opened.chat.dialect(Some(&opened.words.tokenizer));
        self.metrics.loads.fetch_add(1, Ordering::Relaxed);
        let loading = start.elapsed();
        terminal::note(&format!("{} is loaded ({} ms)", terminal::clean(name), loading.as_millis()));
        // One that takes the place of a pinned one is pinned as well.
        let pinned = pinned || lock(&self.pinned).iter().any(|p| p.root().same(root));
        Ok(Ready {
            name: name.clone(),
            opened,
            context,
            asked,
            planned,
            size,
            since: SystemTime::now(),
            loading,
            pinned,
            dialect,
            worker,
            vocabulary: OnceLock::new(),
            vectors: Vectors::default(),
            noted: Mutex::default(),
            keep: self.policy.keep,
            uses: Mutex::default(),
        })
    }

    /// Plans a model that answers, and sets it to work.
    fn work(
        &self,
        root: &Known,
        opened: &Opened,
        how: &Load,
        short: bool,
    ) -> Result<(usize, Size, Option<Worker>, u64), Error> {
        let room = self.room(opened, how, short.then_some(root))?;
        opened.settle_in(&room);
        let (size, cache) = match self.take_left(root, room.context) {
            Some(left) => left,
            None => {
                let size = self.size(opened, room.context)?;
                (size, Cache::of_size(&opened.model, size)?)
            }
        };
        let worker = Worker::start(&opened.model, cache, room.context, self.policy.limits)?;
        let planned = self.planned(opened, &room, size).unwrap_or(root.bytes);
        Ok((room.context, size, Some(worker), planned))
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

#[cfg(test)]
mod tests;
