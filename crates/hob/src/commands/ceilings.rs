//! `hob debug ceilings`: what this machine allows at most.

use std::num::NonZeroUsize;

use hob_engine::{Ceilings, Pool, isa};
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::model::options;
use crate::terminal;

/// Measures and prints.
pub fn run(threads: Option<NonZeroUsize>, as_json: bool) -> Result<()> {
    let found = measure(&Pool::new(options(threads.map(NonZeroUsize::get)).threads))?;
    match as_json {
        true => println!("{}", json(&found)),
        false => println!("{}", sentence(&found)),
    }
    Ok(())
}

/// The limits for the threads of `pool`.
pub fn measure(pool: &Pool) -> Result<Ceilings> {
    Ceilings::measure(pool, isa::isa()).map_err(|e| {
        Error::new(format!("the speed of memory cannot be measured: {}", crate::error::plain(&e)))
    })
}

/// For a person, in one line.
pub fn sentence(c: &Ceilings) -> String {
    format!(
        "{} thread{} with {}: memory is read at {:.1} GB/s (over {}), 8-bit products run at {:.0} GOP/s, f32 at {:.0} \
         GFLOP/s",
        c.threads,
        if c.threads == 1 { "" } else { "s" },
        c.isa.name(),
        c.read_gbps,
        terminal::bytes(c.read_bytes as u64),
        c.int8_gops,
        c.f32_gflops
    )
}

/// For a machine.
pub fn json(c: &Ceilings) -> Value {
    json!({
        "threads": c.threads,
        "isa": c.isa.name(),
        "read_gbps": c.read_gbps,
        "read_bytes": c.read_bytes,
        "int8_gops": c.int8_gops,
        "f32_gflops": c.f32_gflops,
    })
}
