//! Pictures: one thread makes them in the order in which they are asked for; the model is loaded when it is needed.
//!
//! A dialect fills a [`Wish`] and hands it to [`Images::submit`]; dropping the receiver that it gets, or [`Images::stop`],
//! ends the work within a step. Pictures that are given stay in their files' bytes until their turn comes, so that the
//! queue holds no more than was sent.

mod about;
mod held;
mod wish;
mod worker;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::time::{Duration, Instant, UNIX_EPOCH};

use hob_io::picture::Recipe;
use tokio::sync::oneshot;

use super::keep::Keep;
use super::known::Known;
use super::manager::Manager;
use super::refusal::{Kind, Refusal, Result};
use crate::store::{self, Found};
use crate::terminal;

pub use about::About;
pub use held::Held;
pub use wish::{MOST_SIDE, MOST_TEXT, Marked, Start, Wish};

/// Requests that wait beyond the one being answered.
const QUEUE: usize = 16;

/// Bytes of pictures given that wait at most.
const WAITING: usize = 256 << 20;

/// A picture that was made.
pub struct Made {
    /// with its recipe in it
    pub png: Vec<u8>,
    /// how it was made
    pub recipe: Recipe,
    /// how long it took
    pub seconds: f64,
}

/// What comes of a request: its pictures, fewer where it was stopped.
pub type Answer = oneshot::Receiver<Result<Vec<Made>>>;

/// How far a request is.
#[derive(Clone, Debug)]
pub struct Progress {
    /// what it goes by
    pub id: u64,
    /// what it does: waiting, loading, reading, painting or developing
    pub doing: &'static str,
    /// which of its pictures, from 0
    pub picture: u32,
    /// how many there are
    pub pictures: u32,
    /// steps that are done of that picture
    pub step: usize,
    /// how many it has; 0 before the first begins
    pub steps: usize,
    /// since it came
    pub seconds: f64,
    /// until it ends, as far as can be told
    pub left: Option<f64>,
    /// somebody asked to stop it
    pub stopped: bool,
}

impl Progress {
    /// The part that is done.
    pub fn part(&self) -> f64 {
        let steps = self.steps.max(1) as f64;
        (f64::from(self.picture) + self.step as f64 / steps) / f64::from(self.pictures.max(1))
    }
}

/// The picture model that is loaded.
pub struct Loaded {
    /// its name
    pub name: String,
    /// planned to be taken
    pub bytes: u64,
    /// since it was used
    pub idle: Duration,
    /// how long it stays so
    pub keep: Keep,
    /// seconds since 1970, when it was loaded
    pub since: u64,
    /// requests being answered
    pub running: usize,
    /// requests that wait
    pub waiting: usize,
}

/// A request that is not over.
struct Live {
    pictures: u32,
    bytes: usize,
    since: Instant,
    stop: AtomicBool,
    at: Mutex<At>,
}

struct At {
    doing: &'static str,
    picture: u32,
    step: usize,
    steps: usize,
    /// when the first step began
    painting: Option<Instant>,
}

impl Live {
    fn progress(&self, id: u64) -> Progress {
        let at = lock(&self.at);
        let mut progress = Progress {
            id,
            doing: at.doing,
            picture: at.picture,
            pictures: self.pictures,
            step: at.step,
            steps: at.steps,
            seconds: self.since.elapsed().as_secs_f64(),
            left: None,
            stopped: self.stop.load(Ordering::SeqCst),
        };
        let part = progress.part();
        progress.left = at.painting.filter(|_| part > 0.0).map(|begun| {
            let took = begun.elapsed().as_secs_f64();
            took * (1.0 - part) / part
        });
        progress
    }
}

/// What a request is to the thread.
struct Job {
    id: u64,
    model: Known,
    wish: Wish,
    live: Arc<Live>,
    tell: oneshot::Sender<Result<Vec<Made>>>,
}

/// The requests that are not over, in their order, by their numbers.
type Queue = Mutex<BTreeMap<u64, Arc<Live>>>;

/// Picture models, and the requests for pictures.
pub struct Images {
    given: Vec<Known>,
    held: Arc<Held>,
    queue: Arc<Queue>,
    jobs: mpsc::Sender<Job>,
    last: AtomicU64,
    /// milliseconds that the last request took
    took: Arc<AtomicU64>,
    keep: Keep,
    abouts: Arc<about::Abouts>,
    threads: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl Images {
    /// With the models that the person gave, beside those that are found. Starts the thread.
    ///
    /// # Errors
    /// The system grants no thread.
    pub fn start(given: Vec<Known>, manager: &Arc<Manager>) -> crate::error::Result<Images> {
        let (jobs, received) = mpsc::channel();
        let (queue, took) = (Arc::<Queue>::default(), Arc::<AtomicU64>::default());
        let held = manager.pictures().clone();
        let worker = worker::Worker::new(manager.clone(), queue.clone(), took.clone());
        let threads = manager.threads();
        let thread = std::thread::Builder::new().name("hob-images".into());
        thread.spawn(move || worker.work(&received)).map_err(|e| {
            crate::error::Error::new(format!("the system grants no thread for pictures: {e}"))
        })?;
        Ok(Images {
            given,
            held,
            queue,
            jobs,
            last: AtomicU64::new(0),
            took,
            keep: manager.keep(),
            abouts: Arc::default(),
            threads,
        })
    }

    /// Every picture model that a client may name.
    pub async fn known(&self) -> Vec<Known> {
        let found = tokio::task::spawn_blocking(store::discover).await.unwrap_or_else(|_| Found::default());
        let mut all = self.given.clone();
        for model in found.models.iter().filter(|m| m.kind == store::Kind::Image) {
            if !all.iter().any(|k| k.path == model.path) {
                all.push(Known::of(model));
            }
        }
        all
    }

    /// What headers tell of each of these models, in their order; or why they cannot be read.
    pub async fn about(&self, known: Vec<Known>) -> Vec<(Known, Result<Arc<About>, String>)> {
        let (abouts, threads) = (self.abouts.clone(), self.threads);
        let read = move || {
            let of = |k: Known| {
                let about = abouts.of(&k, threads);
                (k, about)
            };
            known.into_iter().map(of).collect()
        };
        tokio::task::spawn_blocking(read).await.unwrap_or_default()
    }

    /// Loads a model as a first picture would, where there is room for one of its own size.
    ///
    /// # Errors
    /// It cannot be loaded.
    pub async fn load(&self, known: Known) -> Result<()> {
        let (_, answer) = self.submit(known, Wish::default())?;
        wait(answer).await.map(|_| ())
    }

    /// The model of that name, which is compared with those that are here and never used as a path. Without a name, the one
    /// that is loaded, or the only one.
    ///
    /// # Errors
    /// There is none, or it is not clear which.
    pub async fn find(&self, name: Option<&str>) -> Result<Known> {
        let known = self.known().await;
        let names = || {
            let names: Vec<String> = known.iter().take(10).map(|k| terminal::clean(&k.name)).collect();
            match names.is_empty() {
                true => {
                    "there is no picture model on this machine: hob serve --image-model PATH gives one".into()
                }
                false => format!("there are {}", names.join(", ")),
            }
        };
        let Some(name) = name else {
            let last = self.held.model();
            let last = last.and_then(|(last, _)| known.iter().find(|k| k.same(&last)));
            return match (last, &known[..]) {
                (Some(last), _) => Ok(last.clone()),
                (None, [only]) => Ok(only.clone()),
                _ => Err(Refusal::field("model", format!("`model` is missing; {}", names()))),
            };
        };
        known.iter().find(|k| k.is(name)).cloned().ok_or_else(|| {
            let shown: String = terminal::clean(name).chars().take(100).collect();
            let message = format!("there is no picture model named '{shown}' on this machine; {}", names());
            Refusal { field: Some("model".into()), ..Refusal::new(Kind::UnknownModel, message) }
        })
    }

    /// Hands over a wish. Its number, and where its pictures come.
    ///
    /// # Errors
    /// The queue is full.
    pub fn submit(&self, model: Known, wish: Wish) -> Result<(u64, Answer)> {
        let full = |what: &str| {
            let retry = (self.took.load(Ordering::Relaxed) / 1000).clamp(1, 60);
            let message = format!("{what} wait already; try again in a moment");
            Refusal { retry: Some(retry), ..Refusal::new(Kind::Busy, message) }
        };
        let (tell, answer) = oneshot::channel();
        let mut queue = lock(&self.queue);
        let bytes = wish.bytes();
        if queue.len() > QUEUE {
            return Err(full("as many requests for pictures as may"));
        }
        if queue.values().map(|live| live.bytes).sum::<usize>() + bytes > WAITING.max(bytes) {
            return Err(full("as many given pictures as may"));
        }
        let live = Arc::new(Live {
            pictures: wish.count,
            bytes,
            since: Instant::now(),
            stop: AtomicBool::new(false),
            at: Mutex::new(At { doing: "waiting", picture: 0, step: 0, steps: 0, painting: None }),
        });
        let id = self.last.fetch_add(1, Ordering::SeqCst) + 1;
        queue.insert(id, live.clone());
        let job = Job { id, model, wish, live, tell };
        match self.jobs.send(job) {
            Ok(()) => Ok((id, answer)),
            Err(_) => {
                queue.remove(&id);
                Err(Refusal::failed("the thread that makes pictures has ended; restart the server"))
            }
        }
    }

    /// All requests that are not over, the one being answered first.
    pub fn progress(&self) -> Vec<Progress> {
        lock(&self.queue).iter().map(|(id, live)| live.progress(*id)).collect()
    }

    /// Stops a request, or the one being answered. Returns whether there was one.
    pub fn stop(&self, id: Option<u64>) -> bool {
        let queue = lock(&self.queue);
        let live = match id {
            Some(id) => queue.get(&id),
            None => queue.values().next(),
        };
        live.map(|live| live.stop.store(true, Ordering::SeqCst)).is_some()
    }

    /// The model that is loaded.
    pub fn loaded(&self) -> Option<Loaded> {
        let (known, since) = self.held.model()?;
        let requests = lock(&self.queue).len();
        let running = usize::from(self.held.is_busy() && requests > 0);
        Some(Loaded {
            name: known.name,
            bytes: self.held.bytes(),
            idle: if running > 0 { Duration::ZERO } else { self.held.idle() },
            keep: self.keep,
            since: since.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            running,
            waiting: requests - running,
        })
    }

    /// Lets the model of that name go, if it is loaded. Returns whether it was.
    ///
    /// # Errors
    /// It is being used.
    pub fn release(&self, name: &str) -> Result<bool> {
        let Some((known, _)) = self.held.model().filter(|(known, _)| known.is(name)) else {
            return Ok(false);
        };
        match self.held.let_go() {
            true => Ok(true),
            false => {
                let why = format!("{} makes a picture; stop that first", terminal::clean(&known.name));
                Err(Refusal::new(Kind::Invalid, why))
            }
        }
    }
}

/// Waits for the pictures.
///
/// # Errors
/// They could not be made; or they were stopped before the first was there.
pub async fn wait(answer: Answer) -> Result<Vec<Made>> {
    answer
        .await
        .unwrap_or_else(|_| Err(Refusal::failed("a bug in Hob stopped this picture; please report it")))
}
