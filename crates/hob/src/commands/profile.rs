//! `hob debug profile`: where the time of a run goes.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hob_engine::{CHUNK, Graph, Model, NodeId, Op, Session};

use super::bench::{Test, depth, some_ids};
use crate::error::Result;
use crate::model::options;
use crate::terminal;

/// What all nodes of a kind did.
#[derive(Default)]
struct Sum {
    calls: usize,
    time: Duration,
    /// weights, keys and values read
    bytes: f64,
    /// multiplications and additions
    flops: f64,
}

/// Runs the tests and prints a table for each.
pub fn run(path: &Path, tests: &[Test], threads: Option<NonZeroUsize>) -> Result<()> {
    let checkpoint = Arc::new(hob_io::Checkpoint::open(path)?);
    let model = Arc::new(Model::new(checkpoint, options(threads.map(NonZeroUsize::get)))?);
    let context = depth(tests);
    let ids = some_ids(&model, context);
    let mut session = Session::new(&model, context)?;
    for test in tests {
        let (before, runs): (usize, Vec<usize>) = match *test {
            Test::Prompt(n) => (0, ids[..n].chunks(CHUNK).map(<[u32]>::len).collect()),
            Test::Generate { tokens, depth } => (depth, vec![1; tokens]),
        };
        // Once unwatched, so that pages and caches are warm.
        for watched in [false, true] {
            session.rewind(0);
            for chunk in ids[..before].chunks(CHUNK) {
                session.feed(chunk)?;
            }
            let mut sums: HashMap<String, Sum> = HashMap::new();
            let start = Instant::now();
            for &n in &runs {
                let at = session.ids().len();
                let mut watch = |g: &Graph, id: NodeId, time| add(&mut sums, g, id, at + n, time);
                session.feed_watched(&ids[at..at + n], watched.then_some(&mut watch))?;
            }
            if watched {
                print(test, &runs, start.elapsed(), sums);
            }
        }
    }
    Ok(())
}

/// Counts one node, with `reached` tokens of context.
fn add(sums: &mut HashMap<String, Sum>, g: &Graph, id: NodeId, reached: usize, time: Duration) {
    let node = g.node(id);
    let shape = |k: usize| g.node(node.inputs[k]).shape;
    let (mut kind, mut bytes, mut flops) = (node.op.name().to_string(), 0.0, 0.0);
    match node.op {
        Op::Linear => {
            if let Some(w) = g.as_weight(node.inputs[1]) {
                let w = &g.weights[w.0 as usize];
                kind = format!("linear {} ({}, {})", w.dtype, w.shape[0], w.shape[1]);
                bytes = w.bytes() as f64;
            }
            flops = 2.0 * node.shape.count() as f64 * shape(1).last() as f64;
        }
        Op::Attend(how) => {
            let (t, d, kv) = (node.shape[0], node.shape[2], shape(1)[1]);
            let seen = |i: usize| (reached - t + i + 1).min(how.window.unwrap_or(usize::MAX));
            let pairs: usize = (0..t).map(seen).sum();
            flops = 4.0 * (pairs * node.shape[1] * d) as f64;
            bytes = (seen(t - 1) * kv * d * 2 * 2) as f64; // keys and values of 2 bytes, once
        }
        _ => {}
    }
    let sum = sums.entry(kind).or_default();
    sum.calls += 1;
    sum.time += time;
    sum.bytes += bytes;
    sum.flops += flops;
}

fn print(test: &Test, runs: &[usize], whole: Duration, sums: HashMap<String, Sum>) {
    let tokens: usize = runs.iter().sum();
    let nodes: Duration = sums.values().map(|s| s.time).sum();
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by_key(|(_, s)| std::cmp::Reverse(s.time));
    let rate = |x: f64, time: Duration| match x > 0.0 {
        true => format!("{:.1}", x / time.as_secs_f64() / 1e9),
        false => String::new(),
    };
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |kind: &str, calls: String, time: Duration, bytes: f64, flops: f64| {
        rows.push(vec![
            kind.into(),
            calls,
            format!("{:.3}", time.as_secs_f64() * 1e3 / tokens as f64),
            format!("{:.1}", 100.0 * time.as_secs_f64() / whole.as_secs_f64()),
            rate(bytes, time),
            rate(flops, time),
        ]);
    };
    for (kind, s) in &sums {
        row(kind, (s.calls / runs.len()).to_string(), s.time, s.bytes, s.flops);
    }
    row("between nodes", String::new(), whole.saturating_sub(nodes), 0.0, 0.0);
    let (bytes, flops) = sums.iter().fold((0.0, 0.0), |t, (_, s)| (t.0 + s.bytes, t.1 + s.flops));
    row("all", String::new(), whole, bytes, flops);
    println!("{test}: {:.2} tokens a second", tokens as f64 / whole.as_secs_f64());
    let header = ["op", "a run", "ms a token", "%", "GB/s", "GFLOP/s"];
    println!("{}", terminal::table(&header, &rows, &[1, 2, 3, 4, 5]));
}
