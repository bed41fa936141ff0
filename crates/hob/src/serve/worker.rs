//! A loaded model on a thread of its own: ids in, ids out. It knows nothing of text and of HTTP.
//!
//! One [`Session`] answers one job after another; the engine's batcher is to take its place behind the same boundary.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hob_engine::{Error, Model, Result, Sampler, Sampling, Session, Stop};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// The most likely tokens that may be told beside the one chosen.
pub const MOST_TOP: usize = 20;

/// Which tokens may come next: a grammar, for example.
pub trait Constraint: Send {
    /// Sets the logits `(V)` of tokens that may not come next to −∞. An error ends the answer as a failure.
    fn mask(&mut self, logits: &mut [f32]) -> Result<(), String>;
    /// That `id` was chosen.
    fn accept(&mut self, id: u32) -> Result<(), String>;
}

/// What a model is to continue, and how.
#[derive(Default)]
pub struct Job {
    /// the prompt; not empty, shorter than the context
    pub ids: Vec<u32>,
    /// tokens of the answer at most
    pub most: Option<usize>,
    /// how tokens are chosen
    pub sampling: Sampling,
    /// taken off the logit of a token that the answer holds, once
    pub presence: f32,
    /// the same, as often as the answer holds it
    pub frequency: f32,
    /// added to the logits of tokens
    pub bias: Vec<(u32, f32)>,
    /// how many of the likeliest tokens are to be told with each, at most [`MOST_TOP`]; `None` tells no log-probability
    pub logprobs: Option<usize>,
    /// which tokens may come next
    pub constraint: Option<Box<dyn Constraint>>,
    /// tokens that end the answer; they are not told
    pub ends: Vec<u32>,
}

/// What comes of a job, in this order: a prompt, tokens, and an end. A job whose receiver is dropped is given up.
#[derive(Debug)]
pub enum Event {
    /// The prompt is read.
    Prompt {
        /// its tokens
        tokens: usize,
        /// those that were still there from earlier jobs
        cached: usize,
    },
    /// A token of the answer.
    Token {
        /// which
        id: u32,
        /// the logarithm of its probability as the model gives it; 0 where none was asked for
        logprob: f32,
        /// the likeliest tokens and theirs, in order
        top: Vec<(u32, f32)>,
    },
    /// The answer is whole.
    Done {
        /// why it ended
        stop: Stop,
        /// how long it took
        timings: Timings,
    },
    /// There is no answer, or no more of it.
    Failed(Error),
}

/// How long a job took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timings {
    /// waiting for its turn
    pub queued: Duration,
    /// reading the prompt
    pub prefill: Duration,
    /// making the answer
    pub decode: Duration,
}

/// The queue is full.
#[derive(Debug)]
pub struct Busy {
    /// after about so long there may be room
    pub retry: Duration,
}

/// How many jobs a worker takes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// that are answered at the same time
    pub parallel: usize,
    /// that wait beyond those
    pub queue: usize,
}

/// A model at work.
pub struct Worker {
    jobs: Option<mpsc::Sender<Waiting>>,
    load: Arc<Gauges>,
    limits: Limits,
    thread: Option<JoinHandle<()>>,
}

struct Waiting {
    job: Box<Job>,
    since: Instant,
    tell: UnboundedSender<Event>,
}

/// How much there is to do.
#[derive(Default)]
struct Gauges {
    waiting: AtomicUsize,
    running: AtomicUsize,
    /// milliseconds that the last job took
    last_ms: AtomicU64,
}

impl Worker {
    /// A worker over `model` with room for `context` tokens in each sequence.
    pub fn start(model: &Arc<Model>, context: usize, limits: Limits) -> Result<Worker> {
        let session = Session::new(model, context)?;
        let (jobs, queue) = mpsc::channel();
        let load = Arc::new(Gauges::default());
        let line = Line { model: model.clone(), session, load: load.clone(), logits: Vec::new() };
        let thread = std::thread::Builder::new().name("hob-worker".into()).spawn(move || line.work(&queue));
        let thread =
            thread.map_err(|e| Error::Ask(format!("the system grants no thread for the model: {e}")))?;
        Ok(Worker { jobs: Some(jobs), load, limits, thread: Some(thread) })
    }

    /// Hands over a job. What comes of it arrives in the receiver; dropping that gives the job up.
    pub fn submit(&self, job: Job) -> Result<UnboundedReceiver<Event>, Busy> {
        // The session runs one; a batcher runs `parallel` of them.
        let most = self.limits.queue + self.limits.parallel;
        let busy =
            |_| Busy { retry: Duration::from_millis(self.load.last_ms.load(Ordering::Relaxed).max(1000)) };
        let free = |n: usize| (n + self.running() < most).then_some(n + 1);
        self.load.waiting.fetch_update(Ordering::SeqCst, Ordering::SeqCst, free).map_err(busy)?;
        let (tell, events) = unbounded_channel();
        let waiting = Waiting { job: Box::new(job), since: Instant::now(), tell: tell.clone() };
        if self.jobs.as_ref().is_none_or(|jobs| jobs.send(waiting).is_err()) {
            let _ = tell
                .send(Event::Failed(Error::Ask("the model's thread has ended; restart the server".into())));
        }
        Ok(events)
    }

    /// Jobs being answered.
    pub fn running(&self) -> usize {
        self.load.running.load(Ordering::SeqCst)
    }

    /// Jobs waiting.
    pub fn waiting(&self) -> usize {
        self.load.waiting.load(Ordering::SeqCst)
    }
}

impl Drop for Worker {
    /// Waits for the thread, so that its memory is free afterwards.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A cancelled or finished job is told apart from a failure.
enum End {
    Done(Stop),
    Gone,
}

/// The worker's side.
struct Line {
    model: Arc<Model>,
    session: Session,
    load: Arc<Gauges>,
    /// the logits that tokens are chosen by
    logits: Vec<f32>,
}

/// From so many tokens of an answer on, weights are laid out for speed between tokens, as [`hob_engine::Generate`] does.
const LONG: usize = 4;
const SHARES: usize = 32;

impl Line {
    fn work(mut self, queue: &mpsc::Receiver<Waiting>) {
        while let Ok(Waiting { job, since, tell }) = queue.recv() {
            self.load.running.fetch_add(1, Ordering::SeqCst);
            self.load.waiting.fetch_sub(1, Ordering::SeqCst);
            let start = Instant::now();
            let mut timings = Timings { queued: start - since, ..Timings::default() };
            if !tell.is_closed() {
                let end = match self.answer(*job, &tell, &mut timings) {
                    Ok(End::Done(stop)) => Some(Event::Done { stop, timings }),
                    Ok(End::Gone) => None,
                    Err(e) => Some(Event::Failed(e)),
                };
                self.load.last_ms.store(start.elapsed().as_millis() as u64, Ordering::Relaxed);
                self.load.running.fetch_sub(1, Ordering::SeqCst);
                end.map(|end| tell.send(end));
            } else {
                self.load.running.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }

    fn answer(&mut self, mut job: Job, tell: &UnboundedSender<Event>, timings: &mut Timings) -> Result<End> {
        let start = Instant::now();
        let read = self.session.prompt(&job.ids, |_, _| !tell.is_closed())?;
        if self.session.ids().len() < job.ids.len() {
            return Ok(End::Gone);
        }
        let tokens = job.ids.len();
        let _ = tell.send(Event::Prompt { tokens, cached: tokens - read });
        timings.prefill = start.elapsed();
        let start = Instant::now();
        let mut sampler = Sampler::new(job.sampling);
        job.ids.iter().for_each(|&id| sampler.accept(id));
        let mut said = HashMap::new();
        let mut made = 0;
        let stop = loop {
            if made == job.most.unwrap_or(usize::MAX) {
                break Stop::Length;
            }
            let event = self.choose(&mut job, &mut sampler, &said)?;
            let Event::Token { id, .. } = event else { break Stop::End };
            *said.entry(id).or_insert(0) += 1;
            made += 1;
            if tell.send(event).is_err() {
                return Ok(End::Gone);
            }
            if made == job.most.unwrap_or(usize::MAX) {
                break Stop::Length;
            }
            if self.session.ids().len() == self.session.context() {
                break Stop::Context;
            }
            self.session.feed(&[id])?;
            if made > LONG {
                self.model.settle(SHARES)?;
            }
        };
        timings.decode = start.elapsed();
        Ok(End::Done(stop))
    }

    /// The next token, or [`Event::Done`] at the answer's end.
    fn choose(&mut self, job: &mut Job, sampler: &mut Sampler, said: &HashMap<u32, u32>) -> Result<Event> {
        let raw = self.session.logits();
        self.logits.clear();
        self.logits.extend_from_slice(raw);
        for &(id, by) in &job.bias {
            if let Some(l) = self.logits.get_mut(id as usize) {
                *l += by;
            }
        }
        if job.presence != 0.0 || job.frequency != 0.0 {
            for (&id, &times) in said {
                self.logits[id as usize] -= job.presence + job.frequency * times as f32;
            }
        }
        if let Some(constraint) = &mut job.constraint {
            constraint.mask(&mut self.logits).map_err(Error::Ask)?;
        }
        let id = sampler.sample(&self.logits);
        if job.ends.contains(&id) {
            return Ok(Event::Done { stop: Stop::End, timings: Timings::default() });
        }
        sampler.accept(id);
        if let Some(constraint) = &mut job.constraint {
            constraint.accept(id).map_err(Error::Ask)?;
        }
        let (logprob, top) = match job.logprobs {
            Some(n) => logprobs(raw, id, n.min(MOST_TOP)),
            None => (0.0, Vec::new()),
        };
        Ok(Event::Token { id, logprob, top })
    }
}

/// The logarithms of the probabilities that logits give to `id` and to the `n` likeliest tokens.
fn logprobs(logits: &[f32], id: u32, n: usize) -> (f32, Vec<(u32, f32)>) {
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| f64::from(l - best).exp()).sum();
    let of = |l: f32| (f64::from(l - best) - sum.ln()) as f32;
    let mut top: Vec<(u32, f32)> = Vec::with_capacity(n + 1);
    for (i, &l) in logits.iter().enumerate() {
        if top.len() < n || top.last().is_some_and(|least| l > least.1) {
            let at = top.partition_point(|t| t.1 >= l);
            top.insert(at, (i as u32, l));
            top.truncate(n);
        }
    }
    top.iter_mut().for_each(|t| t.1 = of(t.1));
    (logits.get(id as usize).map_or(f32::NEG_INFINITY, |&l| of(l)), top)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_those_of_the_softmax() {
        let logits = [0.5f32, 0.3, 0.15, 0.05].map(f32::ln);
        let (of, top) = logprobs(&logits, 2, 2);
        assert!((of.exp() - 0.15).abs() < 1e-6);
        assert_eq!(top.iter().map(|t| t.0).collect::<Vec<_>>(), [0, 1]);
        assert!((top[1].1.exp() - 0.3).abs() < 1e-6);
        assert!(logprobs(&logits, 0, 0).1.is_empty());
    }
}
