//! `hob show MODEL`: what a model's header says, without reading its weights.

use std::path::PathBuf;

use clap::Args;
use hob_io::Checkpoint;
use serde_json::{Value, json};

use super::Global;
use crate::catalogue;
use crate::details::{self, Details};
use crate::error::{Error, Result};
use crate::store::{self, Model, Wanted};
use crate::{places, terminal};

const EXAMPLES: &str = "Examples:
  hob show starter
  hob show --tensors model.gguf
  hob show --template starter";

/// Lines of a chat template shown without `--template`.
const TEMPLATE_LINES: usize = 6;

/// Arguments of `hob show`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct ShowArgs {
    /// A path, a name from hob list, or hf:OWNER/REPO[:FILE] if it is on this machine
    model: String,
    /// Also the table of tensors
    #[arg(long)]
    tensors: bool,
    /// Only the chat template, whole
    #[arg(long)]
    template: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints the model's facts.
pub fn run(args: ShowArgs, _: &Global) -> Result<()> {
    let (model, path) = local(&args.model)?;
    let c = Checkpoint::open(&path)?;
    if args.template {
        let template = c
            .chat_template()
            .ok_or_else(|| Error::new(format!("{} has no chat template", terminal::clean(&args.model))))?;
        println!("{}", terminal::clean_lines(&template));
    } else if args.json {
        println!("{:#}", as_json(&c, model.as_ref(), args.tensors));
    } else {
        print!("{}", as_text(&c, model.as_ref(), args.tensors));
    }
    Ok(())
}

/// The model that `text` names on this machine.
pub fn local(text: &str) -> Result<(Option<Model>, PathBuf)> {
    match store::resolve(text, &store::discover())? {
        Wanted::Here(model) => Ok((Some(*model.clone()), model.path)),
        Wanted::Path(path) => Ok((None, path)),
        Wanted::Catalogue(_) | Wanted::Hub(_) => {
            let name = terminal::clean(text);
            Err(Error::new(format!("{name} is not on this machine; fetch it with: hob pull {name}")))
        }
    }
}

fn licence(c: &Checkpoint, model: Option<&Model>) -> Option<String> {
    let known = || model.and_then(|m| m.alias).and_then(catalogue::find).map(|e| e.licence.to_string());
    c.licence().map(|l| terminal::clean(&l)).or_else(known)
}

fn as_json(c: &Checkpoint, model: Option<&Model>, tensors: bool) -> Value {
    let d = Details::of(c);
    let formats = c.formats();
    let mut out = json!({
        "name": model.map(|m| &m.name),
        "path": c.path,
        "place": model.map(|m| m.place.name()),
        "architecture": d.architecture,
        "parameters": d.parameters,
        "quantization": d.quantization,
        "context": d.context,
        "bytes": c.size_bytes(),
        "licence": licence(c, model),
        "formats": formats.iter().map(|(t, (n, bytes))| (t.to_string(), json!({"tensors": n, "bytes": bytes})))
            .collect::<serde_json::Map<_, _>>(),
        "config": c.config,
        "chat_template": c.chat_template(),
    });
    if tensors {
        let entry = |(name, t): (&String, &hob_io::Tensor)| json!({"name": name, "stored_name": t.stored_name, "shape": t.shape, "dtype": t.dtype.to_string(), "bytes": t.len});
        out["tensors"] = c.tensors.iter().map(entry).collect();
    }
    out
}

fn as_text(c: &Checkpoint, model: Option<&Model>, tensors: bool) -> String {
    let d = Details::of(c);
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        out.push_str(&format!("{}  {value}\n", terminal::dim(&format!("{name:<20}"))));
    };
    if let Some(m) = model {
        let alias = m.alias.map(|a| format!(" ({a})")).unwrap_or_default();
        line("name", terminal::bold(&terminal::clean(&m.name)) + &alias);
    }
    line("path", places::short(&c.path));
    line("architecture", d.architecture);
    line("parameters", terminal::count(d.parameters));
    line("quantization", d.quantization);
    line("size", terminal::bytes(c.size_bytes()));
    line("context", d.context.map_or("not stated".into(), |n| format!("{n} tokens")));
    for (name, n) in details::dimensions(&c.config) {
        line(name, n.to_string());
    }
    line("licence", licence(c, model).unwrap_or_else(|| "not stated".into()));
    if let Some(layers) = model.map(|m| &m.layers).filter(|l| !l.is_empty()) {
        line("beside it at Ollama", layers.join(", "));
    }
    out.push_str(&formats(c));
    out.push_str(&template(c));
    if tensors {
        let row = |(name, t): (&String, &hob_io::Tensor)| {
            let shape = t.shape.iter().map(usize::to_string).collect::<Vec<_>>().join(" × ");
            vec![terminal::clean(name), shape, t.dtype.to_string(), terminal::bytes(t.len as u64)]
        };
        let rows: Vec<_> = c.tensors.iter().map(row).collect();
        out.push('\n');
        out.push_str(&terminal::table(&["TENSOR", "SHAPE", "FORMAT", "SIZE"], &rows, &[3]));
    }
    out
}

/// The mix of number formats as bars, the largest first.
fn formats(c: &Checkpoint) -> String {
    let formats = c.formats();
    let total = formats.values().map(|(_, bytes)| bytes).sum::<u64>().max(1);
    let mut formats: Vec<_> = formats.into_iter().collect();
    formats.sort_by_key(|(_, (_, bytes))| std::cmp::Reverse(*bytes));
    let rows = formats.iter().map(|(format, (count, bytes))| {
        let share = *bytes as f64 / total as f64;
        let tensors = if *count == 1 { "1 tensor".into() } else { format!("{count} tensors") };
        vec![
            format!("{format}"),
            terminal::bar(share, 24),
            format!("{:.1}%", share * 100.0),
            terminal::bytes(*bytes),
            tensors,
        ]
    });
    let rows: Vec<Vec<String>> = rows.collect();
    format!("\n{}", terminal::table(&["FORMAT", "SHARE", "", "SIZE", "TENSORS"], &rows, &[2, 3, 4]))
}

fn template(c: &Checkpoint) -> String {
    let Some(text) = c.chat_template() else { return "\nno chat template\n".into() };
    let text = terminal::clean_lines(&text);
    let lines: Vec<String> = text
        .lines()
        .take(TEMPLATE_LINES)
        .map(|l| match l.char_indices().nth(110) {
            Some((at, _)) => format!("  {}…", &l[..at]),
            None => format!("  {l}"),
        })
        .collect();
    let more = text.lines().count().saturating_sub(TEMPLATE_LINES);
    let hint = if more > 0 { format!(" ({more} more lines: --template)") } else { String::new() };
    format!("\n{}\n{}\n", terminal::dim(&format!("chat template{hint}")), lines.join("\n"))
}
