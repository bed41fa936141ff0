//! A loaded model on a thread of its own: ids in, ids out. It knows nothing of text and of HTTP.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::TryRecvError;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use hob_engine::Rule;
use hob_engine::{
    Cache, Error, Model, Out, Request, Result, Sampler, Sampling, Scheduler, Stop, Token, scheduler,
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// The most likely tokens that may be told beside the one chosen.
pub const MOST_TOP: usize = 20;

/// What a model is to continue, and how.
#[derive(Default)]
pub struct Job {
    /// the prompt; not empty, shorter than the context
    pub ids: Vec<u32>,
    /// tokens of the answer at most
    pub most: Option<usize>,
    /// how tokens are chosen
    pub sampling: Sampling,
    /// added to the logits of tokens
    pub bias: Vec<(u32, f32)>,
    /// how many of the likeliest tokens are to be told with each, at most [`MOST_TOP`]; `None` tells no log-probability
    pub logprobs: Option<usize>,
    /// the same for the tokens of the prompt
    pub prompt_logprobs: Option<usize>,
    /// what the answer must keep to
    pub rule: Option<Box<dyn Rule>>,
    /// tokens that end the answer; they are not told
    pub ends: Vec<u32>,
}

/// What comes of a job, in this order: scores of the prompt, the prompt, tokens, and an end. A job whose receiver is dropped is given up.
#[derive(Debug)]
pub enum Event {
    /// How likely the next tokens of the prompt were, from the second on, where asked for.
    Scored(Vec<Token>),
    /// The prompt is read.
    Prompt {
        /// its tokens
        tokens: usize,
        /// those that were still there from earlier jobs
        cached: usize,
    },
    /// A token of the answer.
    Token(Token),
    /// The token that ended the answer and is no part of it, where probabilities are asked for.
    Last(Token),
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
    /// whether tokens are guessed where that pays
    pub guess: bool,
}

/// A model at work.
pub struct Worker {
    jobs: Option<mpsc::Sender<Request>>,
    load: Arc<Gauges>,
    limits: Limits,
    thread: Option<JoinHandle<Cache>>,
}

/// How much there is to do.
#[derive(Default)]
struct Gauges {
    /// jobs that are not over
    jobs: AtomicUsize,
    /// those being answered
    running: AtomicUsize,
    /// milliseconds that the last job took
    last_ms: AtomicU64,
    /// tokens that the cache has room for beside what is being answered; as of the last time that nothing was
    room: AtomicUsize,
    /// tokens guessed, and those of them that were right
    guessed: [AtomicU64; 2],
    /// microseconds that went into laying out its weights
    settling: AtomicU64,
    /// the thread ended by a bug
    broken: AtomicBool,
}

/// What those hear whose answers end with the thread of their model.
pub const BROKEN: &str = "the model's thread ended by a bug in Hob, which the server's log tells of; please report it, and \
                          ask again: the model is loaded anew";

impl Worker {
    /// A worker over `model`, whose sequences have room for `context` tokens each and share `cache`.
    pub fn start(model: &Arc<Model>, cache: Cache, context: usize, limits: Limits) -> Result<Worker> {
        let (jobs, queue) = mpsc::channel();
        let load = Arc::new(Gauges::default());
        let guess = if limits.guess { scheduler::Guess::Paying } else { scheduler::Guess::Never };
        let bounds = scheduler::Limits { streams: limits.parallel, context, guess };
        load.room.store(cache.room(), Ordering::SeqCst);
        let bench = Bench {
            _end: End(load.clone()),
            model: model.clone(),
            scheduler: Scheduler::new(model, cache, bounds),
            load: load.clone(),
            settled: false,
        };
        let thread = std::thread::Builder::new().name("hob-worker".into()).spawn(move || bench.work(&queue));
        let thread =
            thread.map_err(|e| Error::Ask(format!("the system grants no thread for the model: {e}")))?;
        Ok(Worker { jobs: Some(jobs), load, limits, thread: Some(thread) })
    }

    /// Hands over a job. What comes of it arrives in the receiver; dropping that gives the job up.
    pub fn submit(&self, job: Job) -> Result<UnboundedReceiver<Event>, Busy> {
        let most = self.limits.queue + self.limits.parallel;
        let busy =
            |_| Busy { retry: Duration::from_millis(self.load.last_ms.load(Ordering::Relaxed).max(1000)) };
        let free = |n: usize| (n < most).then_some(n + 1);
        self.load.jobs.fetch_update(Ordering::SeqCst, Ordering::SeqCst, free).map_err(busy)?;
        let (tell, events) = unbounded_channel();
        let now = Instant::now();
        let ear = Ear { tell: tell.clone(), load: self.load.clone(), since: now, begun: now, read: now };
        let request = Request {
            ids: job.ids,
            most: job.most.unwrap_or(usize::MAX),
            ends: job.ends.into(),
            sampler: Sampler::with_bias(job.sampling, job.bias),
            logprobs: job.logprobs.map(|n| n.min(MOST_TOP)),
            prompt_logprobs: job.prompt_logprobs.map(|n| n.min(MOST_TOP)),
            rule: job.rule,
            out: Box::new(ear),
        };
        if self.jobs.as_ref().is_none_or(|jobs| jobs.send(request).is_err()) {
            let _ = tell.send(Event::Failed(Error::Ask(BROKEN.into())));
        }
        Ok(events)
    }

    /// Jobs being answered.
    pub fn running(&self) -> usize {
        self.load.running.load(Ordering::SeqCst)
    }

    /// Tokens that the cache has room for beside what is being answered, as of the last time that nothing was.
    pub fn room(&self) -> usize {
        self.load.room.load(Ordering::SeqCst)
    }

    /// Tokens that were guessed, and those of them that were right.
    pub fn guessed(&self) -> [u64; 2] {
        [0, 1].map(|i| self.load.guessed[i].load(Ordering::Relaxed))
    }

    /// How long laying out its weights took, which reads all of them.
    pub fn settling(&self) -> Duration {
        Duration::from_micros(self.load.settling.load(Ordering::Relaxed))
    }

    /// Whether the thread ended by a bug: jobs fail from then on.
    pub fn broken(&self) -> bool {
        self.load.broken.load(Ordering::SeqCst)
    }

    /// Jobs waiting.
    pub fn waiting(&self) -> usize {
        self.load.jobs.load(Ordering::SeqCst).saturating_sub(self.running())
    }

    /// Ends the thread, and gives what it read of conversations: the model goes on there when it is loaded again.
    pub fn end(mut self) -> Option<Cache> {
        self.jobs = None;
        self.thread.take()?.join().ok()
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

/// What hears of a job for the one who asked.
struct Ear {
    tell: UnboundedSender<Event>,
    load: Arc<Gauges>,
    since: Instant,
    begun: Instant,
    read: Instant,
}

impl Out for Ear {
    fn tell(&mut self, event: hob_engine::Event) {
        let now = Instant::now();
        let event = match event {
            hob_engine::Event::Begun => return self.begun = now,
            hob_engine::Event::Read { tokens, cached } => {
                self.read = now;
                Event::Prompt { tokens, cached }
            }
            hob_engine::Event::Scored(tokens) => Event::Scored(tokens),
            hob_engine::Event::Token(token) => Event::Token(token),
            hob_engine::Event::Last(token) => Event::Last(token),
            hob_engine::Event::Done(stop) => {
                let (queued, prefill) = (self.begun - self.since, self.read - self.begun);
                Event::Done { stop, timings: Timings { queued, prefill, decode: now - self.read } }
            }
            hob_engine::Event::Failed(e) => Event::Failed(e),
        };
        let _ = self.tell.send(event); // one that left is noticed by `listens`
    }

    fn listens(&self) -> bool {
        !self.tell.is_closed()
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.load.last_ms.store(self.since.elapsed().as_millis() as u64, Ordering::Relaxed);
        self.load.jobs.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Weights are laid out for speed in so many parts: between steps, as [`hob_engine::Generate`] does, and while nobody asks.
const SHARES: usize = 32;

/// Tokens of the first answer that come before: a short answer is not worth it.
const LONG: u64 = 4;

/// Notes that the thread ends by a panic.
struct End(Arc<Gauges>);

impl Drop for End {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.running.store(0, Ordering::SeqCst);
            self.0.broken.store(true, Ordering::SeqCst);
        }
    }
}

/// The worker's side.
struct Bench {
    /// dropped first: whoever hears that an answer broke off, and asks again, finds the model gone
    _end: End,
    model: Arc<Model>,
    scheduler: Scheduler,
    load: Arc<Gauges>,
    settled: bool,
}

impl Bench {
    fn work(mut self, queue: &mpsc::Receiver<Request>) -> Cache {
        loop {
            // While there is something to do, nothing is waited for.
            let busy = self.scheduler.streams() != (0, 0);
            let idle = !busy && self.settled;
            let next =
                if idle { queue.recv().map_err(|_| TryRecvError::Disconnected) } else { queue.try_recv() };
            match next {
                Ok(request) => {
                    self.scheduler.add(request);
                    continue;
                }
                Err(TryRecvError::Disconnected) if !busy => return self.scheduler.into_cache(),
                Err(_) => {}
            }
            let worked = self.scheduler.step();
            self.load.running.store(self.scheduler.streams().0, Ordering::SeqCst);
            let (guessed, right) = self.scheduler.tally().guessed;
            self.load.guessed[0].store(guessed, Ordering::Relaxed);
            self.load.guessed[1].store(right, Ordering::Relaxed);
            if worked && self.scheduler.streams() == (0, 0) {
                self.load.room.store(self.scheduler.cache().room(), Ordering::SeqCst);
            }
            if !self.settled && (!worked || self.scheduler.tally().said > LONG) {
                let start = Instant::now();
                // Without memory for it, weights stay as they are.
                self.settled = self.model.settle(SHARES).unwrap_or(true);
                self.load.settling.fetch_add(start.elapsed().as_micros() as u64, Ordering::Relaxed);
            }
        }
    }
}
