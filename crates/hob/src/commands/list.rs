//! `hob list`: the models on this machine, wherever they lie.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::Global;
use crate::details::Details;
use crate::error::Result;
use crate::preset::Kept;
use crate::serve::Known;
use crate::store::{self, Found, Kind, Model, Place};
use crate::terminal;

const EXAMPLES: &str = "Examples:
  hob list
  hob list --json | jq -r '.[].path'

Presets (hob create) stand last. Models are found in the Hugging Face cache (HF_HUB_CACHE, HF_HOME), in
Ollama's store (OLLAMA_MODELS), in the folders of LM Studio and ComfyUI (COMFYUI_PATH) and in Hob's own (HOB_HOME).
Those that make pictures or heights are marked.";

/// Arguments of `hob list`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct ListArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints a table; what is broken becomes a note on stderr.
pub fn run(args: ListArgs, _: &Global) -> Result<()> {
    let found = store::discover();
    let read = |m: &Model| {
        let details = match m.kind {
            Kind::Text => Details::read(&m.path),
            Kind::Image => Details::picture(&m.path),
            Kind::Terrain => Details::terrain(&m.path),
        };
        details.map_err(|e| e.to_string())
    };
    let all: Vec<_> = found.models.iter().map(|m| (m, read(m))).collect();
    if args.json {
        let entry = |(m, d): &(&Model, Result<Details, String>)| {
            json!({
                "kind": m.kind.name(),
                "name": m.name,
                "qualified": m.qualified,
                "alias": m.alias,
                "place": m.place.name(),
                "path": m.path,
                "bytes": m.bytes,
                "architecture": d.as_ref().ok().map(|d| &d.architecture),
                "parameters": d.as_ref().ok().map(|d| d.parameters),
                "quantization": d.as_ref().ok().map(|d| &d.quantization),
                "context": d.as_ref().ok().and_then(|d| d.context),
                "error": d.as_ref().err(),
            })
        };
        let presets = found.presets.iter().map(|kept| {
            let base = base(kept, &found);
            json!({
                "kind": "preset",
                "name": kept.name,
                "base": kept.preset.base,
                "description": kept.preset.description,
                "place": Place::Hob.name(),
                "path": kept.path,
                "error": base.err(),
            })
        });
        println!("{:#}", json!(all.iter().map(entry).chain(presets).collect::<Vec<_>>()));
    } else if all.is_empty() && found.presets.is_empty() {
        terminal::note("there is no model on this machine yet; hob pull starter fetches a small one");
    } else {
        let mut rows: Vec<Vec<String>> = all.iter().map(|(m, d)| row(m, d.as_ref().ok())).collect();
        for kept in &found.presets {
            let base = base(kept, &found).map_err(|why| terminal::note(&why)).ok();
            let details = base.and_then(|path| all.iter().find(|(m, _)| m.path == path)?.1.as_ref().ok());
            rows.push(preset_row(kept, details));
        }
        let header = ["NAME", "ARCHITECTURE", "PARAMETERS", "QUANTIZATION", "SIZE", "WHERE"];
        print!("{}", terminal::table(&header, &rows, &[2, 4]));
    }
    for note in &found.notes {
        terminal::note(note);
    }
    for why in all.iter().filter_map(|(_, d)| d.as_ref().err()).filter(|_| !args.json) {
        terminal::note(&terminal::clean(why));
    }
    Ok(())
}

fn row(model: &Model, details: Option<&Details>) -> Vec<String> {
    let alias = model.alias.map(|a| format!(" ({a})")).unwrap_or_default();
    let or = |f: &dyn Fn(&Details) -> String| details.map_or("?".into(), f);
    vec![
        terminal::clean(&model.name) + &alias,
        or(&|d| match model.kind {
            Kind::Image => format!("{} (image)", d.architecture),
            Kind::Terrain => format!("{} (heights)", d.architecture),
            Kind::Text => d.architecture.clone(),
        }),
        or(&|d| terminal::count(d.parameters)),
        or(&|d| d.quantization.clone()),
        terminal::bytes(model.bytes),
        whose(model),
    ]
}

/// The file of the model that a preset is made of.
fn base(kept: &Kept, found: &Found) -> Result<PathBuf, String> {
    Known::of_preset(kept, found).map(|known| known.root().path).map_err(|e| e.to_string())
}

fn preset_row(kept: &Kept, base: Option<&Details>) -> Vec<String> {
    let or = |f: &dyn Fn(&Details) -> String| base.map_or("?".into(), f);
    vec![
        kept.name.clone(),
        or(&|d| d.architecture.clone()),
        or(&|d| terminal::count(d.parameters)),
        or(&|d| d.quantization.clone()),
        "-".into(),
        format!("preset of {}", terminal::clean(&kept.preset.base)),
    ]
}

/// Whose folder it lies in, and of which repository it is; `--json` and `hob show` give the path.
fn whose(model: &Model) -> String {
    let place = model.place.name();
    let rest = model.qualified.split_once(':').map_or("", |(_, rest)| rest);
    let repo: Vec<&str> = rest.split(':').next().unwrap_or_default().split('/').take(2).collect();
    match (model.place, &repo[..]) {
        (Place::HuggingFace | Place::LmStudio, [owner, name]) => {
            format!("{place}, {}", terminal::clean(&format!("{owner}/{name}")))
        }
        _ => place.into(),
    }
}
