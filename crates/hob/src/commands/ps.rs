//! `hob ps`: what the server has loaded.

use clap::Args;
use serde_json::Value;

use crate::client;
use crate::error::{Error, Result};
use crate::terminal;

/// Arguments of `hob ps`.
#[derive(Args)]
pub struct PsArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Lists the models that are loaded.
pub fn run(args: PsArgs) -> Result<()> {
    let local = client::server().ok_or_else(|| Error::new("no server runs; hob serve starts one"))?;
    let answer = local.ask("/hob/ps", None)?;
    if args.json {
        println!("{answer}");
        return Ok(());
    }
    let models = answer["models"].as_array().map_or(&[][..], Vec::as_slice);
    if models.is_empty() {
        println!("The server at {} has no model loaded.", local.address());
        return Ok(());
    }
    let text = |v: &Value| terminal::clean(v.as_str().unwrap_or_default());
    let rows: Vec<Vec<String>> = (models.iter())
        .map(|m| {
            let until = match m["expires_in_s"].as_f64() {
                Some(s) => format!("in {} s", s.round()),
                None => "never".into(),
            };
            let memory = terminal::bytes(m["planned_bytes"].as_u64().unwrap_or(0));
            let count = |key: &str| m[key].to_string();
            let presets: Vec<_> = m["presets"].as_array().into_iter().flatten().map(text).collect();
            vec![
                text(&m["name"]),
                presets.join(", "),
                memory,
                count("context"),
                count("running"),
                count("waiting"),
                until,
            ]
        })
        .collect();
    let header = ["NAME", "PRESETS", "MEMORY", "CONTEXT", "ANSWERS", "WAITING", "UNLOADS"];
    print!("{}", terminal::table(&header, &rows, &[2, 3, 4, 5]));
    Ok(())
}
