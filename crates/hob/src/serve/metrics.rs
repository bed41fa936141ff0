//! What the server counts, as Prometheus reads it (<https://prometheus.io/docs/instrumenting/exposition_formats/>).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::manager::Ready;

/// Counts since the start.
pub struct Metrics {
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
    /// tokens of prompts
    pub prompt: AtomicU64,
    /// those of them that were still there from earlier requests
    pub cached: AtomicU64,
    /// tokens of answers
    pub generated: AtomicU64,
    /// models loaded
    pub loads: AtomicU64,
    ttft: Mutex<Histogram>,
    rate: Mutex<Histogram>,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let ttft =
            Histogram::new(&[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0]);
        let rate =
            Histogram::new(&[1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 50.0, 75.0, 100.0, 150.0, 200.0, 300.0, 500.0]);
        let zero = AtomicU64::default;
        Metrics {
            requests: Mutex::default(),
            prompt: zero(),
            cached: zero(),
            generated: zero(),
            loads: zero(),
            ttft: Mutex::new(ttft),
            rate: Mutex::new(rate),
        }
    }
}

impl Metrics {
    /// A request was answered, or given up.
    pub fn request(&self, route: &'static str, status: u16) {
        *self.requests.lock().unwrap_or_else(|e| e.into_inner()).entry((route, status)).or_default() += 1;
    }

    /// The first token came so long after the request.
    pub fn first(&self, after: Duration) {
        self.ttft.lock().unwrap_or_else(|e| e.into_inner()).add(after.as_secs_f64());
    }

    /// An answer came at so many tokens a second.
    pub fn rate(&self, tokens: f64) {
        self.rate.lock().unwrap_or_else(|e| e.into_inner()).add(tokens);
    }

    /// The page for Prometheus.
    pub fn page(&self, models: &[std::sync::Arc<Ready>]) -> String {
        let mut out = String::new();
        head(&mut out, "hob_requests_total", "counter", "requests by route and status");
        for ((route, status), n) in self.requests.lock().unwrap_or_else(|e| e.into_inner()).iter() {
            let _ = writeln!(out, "hob_requests_total{{route=\"{route}\",status=\"{status}\"}} {n}");
        }
        let sum = |f: fn(&Ready) -> u64| models.iter().map(|m| f(m)).sum::<u64>();
        let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let resident = hob_engine::memory::resident().unwrap_or(0) as u64;
        for (name, kind, help, n) in [
            ("hob_prompt_tokens_total", "counter", "tokens of prompts", count(&self.prompt)),
            (
                "hob_cached_tokens_total",
                "counter",
                "tokens of prompts that were not read again",
                count(&self.cached),
            ),
            ("hob_generated_tokens_total", "counter", "tokens of answers", count(&self.generated)),
            ("hob_model_loads_total", "counter", "models loaded", count(&self.loads)),
            ("hob_models_loaded", "gauge", "models in memory", models.len() as u64),
            ("hob_jobs_running", "gauge", "answers being made", sum(|m| m.running() as u64)),
            ("hob_jobs_waiting", "gauge", "requests in the queue", sum(|m| m.waiting() as u64)),
            (
                "hob_guessed_tokens",
                "gauge",
                "tokens guessed by the models in memory",
                sum(|m| m.guessed()[0]),
            ),
            ("hob_guessed_right_tokens", "gauge", "those of them that were right", sum(|m| m.guessed()[1])),
            (
                "hob_memory_planned_bytes",
                "gauge",
                "memory that the loaded models may take",
                sum(|m| m.planned),
            ),
            ("hob_memory_resident_bytes", "gauge", "memory that the process holds", resident),
        ] {
            head(&mut out, name, kind, help);
            let _ = writeln!(out, "{name} {n}");
        }
        for (name, help, histogram) in [
            ("hob_time_to_first_token_seconds", "from the request to the first token", &self.ttft),
            ("hob_tokens_per_second", "speed of each answer after its first token", &self.rate),
        ] {
            head(&mut out, name, "histogram", help);
            histogram.lock().unwrap_or_else(|e| e.into_inner()).write(&mut out, name);
        }
        out
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// Counts of values up to fixed bounds.
struct Histogram {
    bounds: &'static [f64],
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Histogram {
        Histogram { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    fn add(&mut self, value: f64) {
        if value.is_finite() {
            self.counts[self.bounds.partition_point(|b| *b < value)] += 1;
            self.sum += value;
        }
    }

    fn write(&self, out: &mut String, name: &str) {
        let mut total = 0;
        for (i, n) in self.counts.iter().enumerate() {
            total += n;
            let bound = self.bounds.get(i).map_or("+Inf".into(), f64::to_string);
            let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {total}");
        }
        let _ = writeln!(out, "{name}_sum {}\n{name}_count {total}", self.sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_what_is_at_most_its_bound() {
        let mut h = Histogram::new(&[1.0, 2.0]);
        [0.5, 1.0, 1.5, 9.0, f64::NAN].into_iter().for_each(|v| h.add(v));
        let mut out = String::new();
        h.write(&mut out, "x");
        assert_eq!(
            out,
            "x_bucket{le=\"1\"} 2\nx_bucket{le=\"2\"} 3\nx_bucket{le=\"+Inf\"} 4\nx_sum 12\nx_count 4\n"
        );
    }
}
