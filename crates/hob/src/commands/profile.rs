//! `hob debug profile`: where the time of a run goes, and how near each op is to what the machine allows.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hob_engine::{CHUNK, Ceilings, Cost, Graph, Model, NodeId, Session, cost};
use serde_json::{Value, json};

use super::bench::{Test, depth, some_ids};
use super::ceilings;
use crate::error::Result;
use crate::model::options;
use crate::terminal;

/// What all nodes of a kind did.
#[derive(Clone, Copy, Default)]
struct Sum {
    calls: usize,
    time: Duration,
    /// weights, keys and values read
    bytes: f64,
    /// multiplications and additions, in 8-bit whole numbers and in f32
    int8: f64,
    float: f64,
}

impl std::ops::AddAssign for Sum {
    fn add_assign(&mut self, other: Sum) {
        self.calls += other.calls;
        self.time += other.time;
        self.bytes += other.bytes;
        self.int8 += other.int8;
        self.float += other.float;
    }
}

impl Sum {
    /// So many a second, in 10⁹.
    fn rate(&self, n: f64) -> f64 {
        n / self.time.as_secs_f64().max(1e-9) / 1e9
    }

    /// The share of the time in which the machine at its best had read the bytes.
    fn of_read(&self, c: &Ceilings) -> f64 {
        self.rate(self.bytes) / c.read_gbps
    }

    /// The share of the time in which it had computed the products.
    fn of_peak(&self, c: &Ceilings) -> f64 {
        self.rate(self.int8) / c.int8_gops + self.rate(self.float) / c.f32_gflops
    }

    /// The limit that is nearer; none where nothing is counted.
    fn nearest(&self, c: &Ceilings) -> &'static str {
        match (self.of_read(c), self.of_peak(c)) {
            (0.0, 0.0) => "",
            (read, peak) if read > peak => "memory",
            _ if self.int8 / c.int8_gops > self.float / c.f32_gflops => "int8",
            _ => "f32",
        }
    }
}

/// What a test did: how many tokens at once, how long it took in all, what its ops did by kind.
struct Profile {
    test: Test,
    runs: Vec<usize>,
    whole: Duration,
    /// the longest first
    sums: Vec<(String, Sum)>,
}

/// Runs the tests and prints a table for each, or an object.
pub fn run(path: &Path, tests: &[Test], threads: Option<NonZeroUsize>, as_json: bool) -> Result<()> {
    let checkpoint = Arc::new(hob_io::Checkpoint::open(path)?);
    let model = Arc::new(Model::new(checkpoint, options(threads.map(NonZeroUsize::get)))?);
    model.settle(1)?;
    let limits = ceilings::measure(&model.cpu().pool)?;
    if !as_json {
        println!("{}.\n", ceilings::sentence(&limits));
    }
    let context = depth(tests);
    let ids = some_ids(&model, 0..context);
    let mut session = Session::new(&model, context)?;
    for &test in tests {
        let profile = watch(test, &model, &mut session, &ids)?;
        match as_json {
            true => println!("{}", profile.json(&limits)),
            false => println!("{}", profile.table(&limits)),
        }
    }
    Ok(())
}

fn watch(test: Test, model: &Model, session: &mut Session, ids: &[u32]) -> Result<Profile> {
    let reads = matches!(test, Test::Prompt(_));
    let (before, runs): (usize, Vec<usize>) = match test {
        Test::Prompt(n) => (0, ids[..n].chunks(CHUNK).map(<[u32]>::len).collect()),
        Test::Generate { tokens, depth, .. } => (depth, vec![1; tokens]),
    };
    let mut sums: HashMap<String, Sum> = HashMap::new();
    let mut whole = Duration::ZERO;
    // Once unwatched, so that pages and caches are warm.
    for watched in [false, true] {
        session.rewind(0);
        for chunk in ids[..before].chunks(CHUNK) {
            session.feed(chunk)?;
        }
        let start = Instant::now();
        for &n in &runs {
            let at = session.ids().len();
            let mut watch = |g: &Graph, id: NodeId, time| {
                let Cost { kind, bytes, int8, float } = cost(g, id, at + n, &model.options());
                *sums.entry(kind).or_default() += Sum { calls: 1, time, bytes, int8, float };
            };
            session.feed_watched(&ids[at..at + n], reads, watched.then_some(&mut watch))?;
        }
        whole = start.elapsed();
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by_key(|(_, s)| std::cmp::Reverse(s.time));
    Ok(Profile { test, runs, whole, sums })
}

impl Profile {
    fn tokens(&self) -> f64 {
        self.runs.iter().sum::<usize>() as f64
    }

    fn ms_a_token(&self, time: Duration) -> f64 {
        time.as_secs_f64() * 1e3 / self.tokens()
    }

    /// All together, over the whole time.
    fn all(&self) -> Sum {
        let mut all = Sum::default();
        self.sums.iter().for_each(|(_, s)| all += *s);
        Sum { time: self.whole, ..all }
    }

    fn between(&self) -> Duration {
        self.whole.saturating_sub(self.sums.iter().map(|(_, s)| s.time).sum())
    }

    fn table(&self, c: &Ceilings) -> String {
        let row = |kind: &str, calls: String, s: &Sum| {
            let some = |n: f64, text: String| if n > 0.0 { text } else { String::new() };
            let products = s.int8 + s.float;
            vec![
                kind.to_string(),
                calls,
                format!("{:.3}", self.ms_a_token(s.time)),
                format!("{:.1}", 100.0 * s.time.as_secs_f64() / self.whole.as_secs_f64()),
                some(s.bytes, format!("{:.1}", s.rate(s.bytes))),
                some(s.bytes, format!("{:.0}", 100.0 * s.of_read(c))),
                some(products, format!("{:.1}", s.rate(products))),
                some(products, format!("{:.0}", 100.0 * s.of_peak(c))),
                s.nearest(c).to_string(),
            ]
        };
        let calls = |s: &Sum| (s.calls / self.runs.len()).to_string();
        let mut rows: Vec<_> = self.sums.iter().map(|(kind, s)| row(kind, calls(s), s)).collect();
        rows.push(row("between nodes", String::new(), &Sum { time: self.between(), ..Sum::default() }));
        rows.push(row("all", String::new(), &self.all()));
        let of_read = format!("% of {:.0}", c.read_gbps);
        let header = ["op", "a run", "ms a token", "%", "GB/s", &of_read, "GFLOP/s", "% of peak", "nearest"];
        format!(
            "{}: {:.2} tokens a second\n{}",
            self.test,
            self.tokens() / self.whole.as_secs_f64(),
            terminal::table(&header, &rows, &[1, 2, 3, 4, 5, 6, 7])
        )
    }

    fn json(&self, c: &Ceilings) -> Value {
        let object = |kind: &str, s: &Sum| {
            json!({
                "op": kind,
                "calls": s.calls / self.runs.len(),
                "ms_per_token": self.ms_a_token(s.time),
                "share": s.time.as_secs_f64() / self.whole.as_secs_f64(),
                "gbps": s.rate(s.bytes),
                "gflops": s.rate(s.int8 + s.float),
                "of_read": s.of_read(c),
                "of_peak": s.of_peak(c),
                "nearest": s.nearest(c),
            })
        };
        json!({
            "test": self.test.to_string(),
            "tps": self.tokens() / self.whole.as_secs_f64(),
            "ceilings": ceilings::json(c),
            "ops": self.sums.iter().map(|(kind, s)| object(kind, s)).collect::<Vec<_>>(),
            "between_nodes_ms_per_token": self.ms_a_token(self.between()),
            "all": object("all", &self.all()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hob_engine::isa::Isa;

    const LIMITS: Ceilings = Ceilings {
        read_gbps: 30.0,
        read_bytes: 1 << 30,
        int8_gops: 500.0,
        f32_gflops: 200.0,
        isa: Isa::Avx2,
        threads: 2,
    };

    #[test]
    fn shares_are_of_the_limit_that_an_op_has() {
        let second = Sum { calls: 1, time: Duration::from_secs(1), ..Sum::default() };
        let generating = Sum { bytes: 24e9, int8: 96e9, ..second };
        assert!((generating.of_read(&LIMITS) - 0.8).abs() < 1e-9);
        assert!((generating.of_peak(&LIMITS) - 0.192).abs() < 1e-9);
        assert_eq!(generating.nearest(&LIMITS), "memory");
        let reading = Sum { bytes: 1e9, int8: 450e9, ..second };
        assert_eq!((reading.of_peak(&LIMITS), reading.nearest(&LIMITS)), (0.9, "int8"));
        let attention = Sum { bytes: 1e9, float: 150e9, ..second };
        assert_eq!((attention.of_peak(&LIMITS), attention.nearest(&LIMITS)), (0.75, "f32"));
        assert_eq!(second.nearest(&LIMITS), "");
        let mut all = reading;
        all += attention;
        assert!((all.of_peak(&LIMITS) - 0.825).abs() < 1e-9, "half the time of each");
    }

    #[test]
    fn tables_fit_a_hundred_columns() {
        let sum = Sum { calls: 32, time: Duration::from_micros(123_456), bytes: 3e9, int8: 1e11, float: 0.0 };
        let sums = vec![("linear IQ4_XS (128256, 4096)".to_string(), sum)];
        let test = Test::Generate { tokens: 1, depth: 0, sequences: 1 };
        let profile = Profile { test, runs: vec![1], whole: Duration::from_millis(150), sums };
        let table = profile.table(&LIMITS);
        assert!(table.lines().all(|l| l.chars().count() <= 100), "{table}");
        let last = table.lines().last().unwrap().split_whitespace().collect::<Vec<_>>();
        assert_eq!(last, ["all", "150.000", "100.0", "20.0", "67", "666.7", "133", "int8"], "{table}");
    }
}
