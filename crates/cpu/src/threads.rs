//! One set of worker threads for the process.
//!
//! Work is claimed in chunks from a counter, so that a core that is slow or busy elsewhere takes fewer. Threads that
//! wait spin briefly, then yield, then park: a spinning thread would steal the core it waits for.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, Thread};

/// Rounds of spinning before a waiting thread yields, and rounds of yielding before it parks.
const SPINS: u32 = 4_000;
const YIELDS: u32 = 50;

/// Stack of a worker, taken up only as far as it is used. Kernels keep their working memory in the plan's scratch.
pub const STACK: usize = 2 << 20;

type Work<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// The gate counts jobs in its upper half; below are whether the job is open, and how many workers are in it.
const JOB: u64 = 1 << 32;
const OPEN: u64 = 1 << 31;

struct Shared {
    gate: AtomicU64,
    /// the open job: written by the caller while no worker is in, read by workers that are
    work: UnsafeCell<Option<&'static Work<'static>>>,
    chunks: AtomicUsize,
    next: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
    parked: Vec<AtomicBool>,
}

// SAFETY: `work` is guarded by the gate as said above; the rest is atomic.
unsafe impl Sync for Shared {}
// SAFETY: the reference in `work` is to something `Sync`.
unsafe impl Send for Shared {}

/// Worker threads that run one job at a time; the caller takes part.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<(JoinHandle<()>, Thread)>,
    /// one job at a time
    turn: Mutex<()>,
}

impl Pool {
    /// A pool of `threads` threads in all, the caller's included; at least 1, and fewer where the system grants fewer.
    pub fn new(threads: usize) -> Pool {
        let extra = threads.max(1) - 1;
        let shared = Arc::new(Shared {
            gate: AtomicU64::new(0),
            work: UnsafeCell::new(None),
            chunks: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            parked: (0..extra).map(|_| AtomicBool::new(false)).collect(),
        });
        let workers = (0..extra).map_while(|i| {
            let shared = shared.clone();
            let handle = thread::Builder::new()
                .name(format!("hob-{}", i + 1))
                .stack_size(STACK)
                .spawn(move || worker(&shared, i))
                .ok()?; // a system that grants fewer threads gets slower work, not none
            let thread = handle.thread().clone();
            Some((handle, thread))
        });
        Pool { workers: workers.collect(), shared, turn: Mutex::new(()) }
    }

    /// Threads that work, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `work(chunk, thread)` for every chunk below `chunks`, each once, and returns when all are done.
    /// `thread` is below [`Pool::threads`] and differs among calls that run at the same time.
    /// A worker that wakes too late to claim a chunk is not waited for. Not to be called from within `work`.
    pub fn run(&self, chunks: usize, work: &Work) {
        if chunks <= 1 || self.workers.is_empty() {
            return (0..chunks).for_each(|c| work(c, 0));
        }
        let _turn = self.turn.lock().unwrap_or_else(|e| e.into_inner());
        let s = &*self.shared;
        // SAFETY: the gate is closed and empty between jobs, so no worker reads; and workers use the reference only
        // while they are in, which this function outlasts, also when `work` panics.
        unsafe { *s.work.get() = Some(std::mem::transmute::<&Work, &'static Work<'static>>(work)) };
        s.chunks.store(chunks, Relaxed);
        s.next.store(0, Relaxed);
        let job = s.gate.load(Relaxed) / JOB + 1;
        s.gate.store(job * JOB + OPEN, SeqCst);
        for (i, (_, thread)) in self.workers.iter().enumerate() {
            if s.parked[i].load(SeqCst) {
                thread.unpark();
            }
        }
        let mine = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| claim(s, work, 0)));
        s.next.store(chunks, Relaxed); // after a panic, nobody need go on
        s.gate.fetch_and(!OPEN, AcqRel);
        let mut rounds = 0;
        while s.gate.load(Acquire) & (OPEN - 1) != 0 {
            relax(&mut rounds);
        }
        if let Err(panic) = mine {
            std::panic::resume_unwind(panic);
        }
        assert!(!s.panicked.swap(false, Relaxed), "a worker thread panicked");
    }

    /// Splits `0..n` in ranges of about equal size, several a thread, each at least `least` long, and calls
    /// `work(range, thread)` for each.
    pub fn split(&self, n: usize, least: usize, work: impl Fn(std::ops::Range<usize>, usize) + Sync) {
        let most = if self.workers.is_empty() { 1 } else { self.threads() * 4 };
        let chunks = (n / least.max(1)).clamp(1, most);
        self.run(chunks, &|c, thread| work(n * c / chunks..n * (c + 1) / chunks, thread));
    }
}

fn claim(s: &Shared, work: &Work, thread: usize) {
    let chunks = s.chunks.load(Relaxed);
    loop {
        let c = s.next.fetch_add(1, Relaxed);
        if c >= chunks {
            return;
        }
        work(c, thread);
    }
}

fn relax(rounds: &mut u32) {
    *rounds += 1;
    if *rounds < SPINS { std::hint::spin_loop() } else { thread::yield_now() }
}

fn worker(s: &Shared, index: usize) {
    let mut seen = 0;
    let mut rounds = 0;
    loop {
        let gate = s.gate.load(Acquire);
        if s.stop.load(Relaxed) {
            return;
        }
        if gate / JOB == seen || gate & OPEN == 0 {
            relax(&mut rounds);
            if rounds > SPINS + YIELDS {
                s.parked[index].store(true, SeqCst);
                // Looked at again after the flag is up: either the caller sees the flag, or this sees the job.
                let gate = s.gate.load(SeqCst);
                if (gate / JOB == seen || gate & OPEN == 0) && !s.stop.load(SeqCst) {
                    thread::park();
                }
                s.parked[index].store(false, SeqCst);
                rounds = SPINS;
            }
            continue;
        }
        if s.gate.compare_exchange(gate, gate + 1, AcqRel, Relaxed).is_err() {
            continue; // another worker came in first, or the job was closed
        }
        (seen, rounds) = (gate / JOB, 0);
        // SAFETY: this worker is in, so the caller waits for it and the reference lives.
        let work = unsafe { *s.work.get() };
        if let Some(work) = work {
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| claim(s, work, index + 1)));
            if done.is_err() {
                s.panicked.store(true, Relaxed);
            }
        }
        s.gate.fetch_sub(1, AcqRel);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        for (handle, thread) in self.workers.drain(..) {
            thread.unpark();
            let _ = handle.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_runs_once() {
        for threads in 1..5 {
            let pool = Pool::new(threads);
            for round in 0..200 {
                let n = round % 17;
                let hits: Vec<AtomicUsize> = (0..n).map(|_| AtomicUsize::new(0)).collect();
                pool.run(n, &|c, t| {
                    assert!(t < threads);
                    hits[c].fetch_add(1, Relaxed);
                });
                assert!(hits.iter().all(|h| h.load(Relaxed) == 1));
            }
        }
    }

    #[test]
    fn parked_workers_wake() {
        let pool = Pool::new(3);
        for _ in 0..3 {
            thread::sleep(std::time::Duration::from_millis(30));
            let sum = AtomicUsize::new(0);
            pool.split(1000, 10, |r, _| {
                sum.fetch_add(r.sum::<usize>(), Relaxed);
            });
            assert_eq!(sum.load(Relaxed), 499_500);
        }
    }

    #[test]
    fn a_panic_in_a_worker_reaches_the_caller() {
        let pool = Pool::new(2);
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            pool.run(64, &|c, _| assert!(c != 40, "chunk 40"));
        }));
        assert!(caught.is_err());
        pool.run(4, &|_, _| {}); // and the pool still works
    }
}
