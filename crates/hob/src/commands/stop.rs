//! `hob stop`: ends the server, or unloads one of its models.

use clap::Args;
use serde_json::json;

use crate::client;
use crate::error::{Error, Result};
use crate::terminal;

/// Arguments of `hob stop`.
#[derive(Args)]
pub struct StopArgs {
    /// Unload this model only, as soon as its answers are given; of a preset its base, if nothing else uses that
    pub model: Option<String>,
}

/// Asks the server to end, or to unload.
pub fn run(args: StopArgs) -> Result<()> {
    let local = client::server().ok_or_else(|| Error::new("no server runs"))?;
    match args.model {
        Some(model) => {
            let done = local.ask("/hob/unload", Some(&json!({ "model": model })))?;
            match done["note"].as_str() {
                Some(note) => println!("{}.", terminal::clean(note)),
                None => println!("{} is unloaded as soon as it has nothing to do.", terminal::clean(&model)),
            }
        }
        None => {
            local.ask("/hob/stop", Some(&json!({})))?;
            println!("The server at {} ends.", local.address());
        }
    }
    Ok(())
}
