//! Vectors of texts: `cargo bench -p hob-engine --bench embed -- FOLDER [--threads N]`, FOLDER being an encoder's.
//!
//! For batches of texts of one length: tokens per second, the best and the median of many.

use hob_engine::{Embedder, Model, Options, Pooling};
use hob_io::Checkpoint;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const TIME: Duration = Duration::from_secs(3);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let threads = args.iter().position(|a| a == "--threads").and_then(|i| args.get(i + 1)?.parse().ok());
    // `cargo test --benches` and the like name no folder.
    let Some(folder) = args.first().filter(|a| !a.starts_with("--")) else { return };
    let options = Options { threads: threads.unwrap_or(Options::default().threads), ..Options::default() };
    let checkpoint = Arc::new(Checkpoint::open(Path::new(folder)).expect("an encoder's folder"));
    let model = Arc::new(Model::new(checkpoint, options).expect("a model that can be run"));
    println!("{} threads", options.threads);
    for (texts, length) in [(16, 64), (1, 16), (1, 256)] {
        let ids: Vec<u32> = (0..texts * length).map(|i| 1000 + (i * 7919 % 20_000) as u32).collect();
        let batch: Vec<&[u32]> = ids.chunks(length).collect();
        let mut embedder = Embedder::new(&model).expect("an encoder").pooled(Pooling::Mean);
        let (mut times, start) = (Vec::new(), Instant::now());
        while start.elapsed() < TIME {
            let from = Instant::now();
            embedder.embed(&batch).expect("a run");
            times.push(from.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        let speed = |seconds: f64| (texts * length) as f64 / seconds;
        println!(
            "{texts} x {length}: {:.0} tokens/s at best, {:.0} in the middle",
            speed(times[0]),
            speed(times[times.len() / 2])
        );
    }
}
