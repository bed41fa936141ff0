//! The machine now, and how many tokens came in each of the last moments.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::response::Response;
use hob_engine::memory;
use serde_json::{Value, json};

use super::{answer, aside};
use crate::machine::{Gpu, Memory, Processor};
use crate::serve::App;

/// One value for so long, and so many of them: five minutes.
const EVERY: Duration = Duration::from_secs(1);
const KEPT: usize = 300;
/// What cannot change quickly is looked at so often.
const LOOK: Duration = Duration::from_secs(5);

/// Tokens generated in each second, the latest last.
pub struct Rates {
    each: Mutex<VecDeque<f64>>,
    seen: AtomicU64,
    since: Instant,
    /// bytes of the process before any model
    process: usize,
    looked: Mutex<Option<(Instant, Value)>>,
}

impl Default for Rates {
    fn default() -> Rates {
        let (since, process) = (Instant::now(), memory::process());
        Rates { each: Mutex::default(), seen: AtomicU64::new(0), since, process, looked: Mutex::default() }
    }
}

impl Rates {
    /// Takes the number of tokens since the start, a while after the last time.
    fn push(&self, tokens: u64, after: Duration) {
        let new = tokens.saturating_sub(self.seen.swap(tokens, Ordering::Relaxed));
        let mut each = self.each.lock().unwrap_or_else(|e| e.into_inner());
        if each.len() == KEPT {
            each.pop_front();
        }
        each.push_back(new as f64 / after.as_secs_f64().max(1e-3));
    }
}

/// Counts for as long as the server runs.
pub async fn count(app: Arc<App>) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last = Instant::now();
    tick.tick().await;
    loop {
        tick.tick().await;
        app.page.rates.push(app.metrics.generated.load(Ordering::Relaxed), last.elapsed());
        last = Instant::now();
    }
}

/// Processor and GPUs, whose drivers take their time.
fn hardware(rates: &Rates) -> Value {
    let mut looked = rates.looked.lock().unwrap_or_else(|e| e.into_inner());
    if let Some((when, value)) = &*looked
        && when.elapsed() < LOOK
    {
        return value.clone();
    }
    let p = Processor::look();
    let gpu = |g: &Gpu| json!({"name": g.name, "free": g.free, "total": g.total, "note": g.note});
    let value = json!({
        "processor": {"name": p.name, "threads": p.threads_available, "isa": p.isa.name(), "load": p.load},
        "gpus": crate::machine::gpu::look(&Memory::look()).iter().map(gpu).collect::<Vec<_>>(),
    });
    *looked = Some((Instant::now(), value.clone()));
    value
}

pub async fn now(State(app): State<Arc<App>>) -> Response {
    let work = aside(move || {
        let m = Memory::look();
        let loaded = app.manager.loaded();
        let sum = |f: fn(&crate::serve::manager::Ready) -> usize| loaded.iter().map(|r| f(r)).sum::<usize>();
        let rates = &app.page.rates;
        let each: Vec<_> = rates.each.lock().unwrap_or_else(|e| e.into_inner()).iter().copied().collect();
        let models = loaded.iter().map(|r| {
            json!({
                "name": r.name, "planned": r.planned, "context": r.context,
                "running": r.running(), "waiting": r.waiting(),
            })
        });
        let mut value = json!({
            "memory": {
                "total": m.total, "free": m.free, "limit": m.limit, "swap_total": m.swap_total, "swap_used": m.swap_used,
            },
            "resident": memory::resident().unwrap_or(0),
            "process": rates.process,
            "planned": loaded.iter().map(|r| r.planned).sum::<u64>(),
            "models": models.collect::<Vec<_>>(),
            "running": sum(|r| r.running()),
            "waiting": sum(|r| r.waiting()),
            "tokens": app.metrics.generated.load(Ordering::Relaxed),
            "up_ms": rates.since.elapsed().as_millis() as u64,
            "rates": each,
            "every_ms": EVERY.as_millis() as u64,
        });
        if let (Value::Object(all), Value::Object(more)) = (&mut value, hardware(rates)) {
            all.extend(more);
        }
        Ok(value)
    });
    answer(work.await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_five_minutes_are_kept() {
        let rates = Rates::default();
        (1..=400).for_each(|n| rates.push(n * 2, EVERY));
        let each = rates.each.lock().unwrap();
        assert_eq!((each.len(), each[0], each[KEPT - 1]), (KEPT, 2.0, 2.0));
        drop(each);
        rates.push(810, EVERY * 2);
        assert_eq!(rates.each.lock().unwrap().back(), Some(&5.0));
    }
}
