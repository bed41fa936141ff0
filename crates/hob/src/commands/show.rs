//! `hob show MODEL`: what a model's header says, without reading its weights. Of a model that is on the hub alone, the
//! header is all that is fetched.

use std::path::PathBuf;

use clap::Args;
use hob_io::Checkpoint;
use serde_json::{Value, json};

use super::Global;
use crate::catalogue;
use crate::details::{self, Details};
use crate::error::{Error, Result};
use crate::hub::Hub;
use crate::hub::remote::{self, Remote, Variant};
use crate::net::Net;
use crate::preset::{Kept, settle};
use crate::store::{self, Found, Model, Wanted};
use crate::{places, terminal};

const EXAMPLES: &str = "Examples:
  hob show starter
  hob show --tensors model.gguf
  hob show hf:owner/repo:Q8_0           of a model not fetched yet, by its header alone
  hob show --template starter
  hob show pirate                       what a preset (hob create) adds to its base";

/// Lines of a chat template shown without `--template`.
const TEMPLATE_LINES: usize = 6;

/// Arguments of `hob show`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct ShowArgs {
    /// A path, a name from hob list, or hf:OWNER/REPO[:FILE], which need not be on this machine
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

/// Where a model was found.
#[derive(Clone, Copy)]
enum At<'a> {
    /// At a path that the person gave.
    Path,
    /// Among the models of this machine.
    Here(&'a Model),
    /// On the hub alone.
    Hub(&'a Remote),
}

/// Prints the model's facts.
pub fn run(args: ShowArgs, global: &Global) -> Result<()> {
    let found = store::discover();
    if let Some(kept) = found.preset(&args.model) {
        return preset(kept, &found, &args);
    }
    let path = PathBuf::from(&args.model);
    if super::picture::is(&path) && !found.models.iter().any(|m| m.name == args.model) {
        return super::picture::show(&path, None, args.tensors, args.json);
    }
    match store::resolve(&args.model, &found)? {
        Wanted::Here(model) if model.kind != store::Kind::Text => {
            super::picture::show(&model.path, Some(&model), args.tensors, args.json)
        }
        Wanted::Path(path) => show(&Checkpoint::open(&path)?, At::Path, &args),
        Wanted::Here(model) => show(&Checkpoint::open(&model.path)?, At::Here(&model), &args),
        Wanted::Hub(spec) => {
            let net = Net::new(global.offline);
            let remote = remote::headers(&Hub::new(&net), &spec)?;
            show(&remote.checkpoint, At::Hub(&remote), &args)
        }
        Wanted::Catalogue(_) => Err(absent(&args.model)),
    }
}

fn show(c: &Checkpoint, at: At, args: &ShowArgs) -> Result<()> {
    if args.template {
        let template = c
            .chat_template()
            .ok_or_else(|| Error::new(format!("{} has no chat template", terminal::clean(&args.model))))?;
        println!("{}", terminal::clean_lines(&template));
    } else if args.json {
        println!("{:#}", as_json(c, at, args.tensors));
    } else {
        print!("{}", as_text(c, at, args.tensors));
    }
    Ok(())
}

/// What a preset adds to its base. With `--template` or `--tensors` it is the base that is asked about, unless the preset
/// has a template of its own.
fn preset(kept: &Kept, found: &Found, args: &ShowArgs) -> Result<()> {
    let settled = settle(&kept.name, &kept.preset, found)?;
    let (own, whole) = (&kept.preset, &settled.preset);
    if args.template
        && let Some(template) = &whole.template
    {
        println!("{}", terminal::clean_lines(template));
        return Ok(());
    }
    if args.template || args.tensors {
        return match store::of_preset(&settled, found)? {
            Wanted::Path(path) => show(&Checkpoint::open(&path)?, At::Path, args),
            Wanted::Here(model) => show(&Checkpoint::open(&model.path)?, At::Here(&model), args),
            Wanted::Hub(_) | Wanted::Catalogue(_) => Err(absent(&whole.base)),
        };
    }
    if args.json {
        let json = json!({
            "kind": "preset", "name": kept.name, "path": kept.path, "base": own.base, "chain": settled.chain,
            "own": own, "preset": whole,
        });
        println!("{json:#}");
        return Ok(());
    }
    let line = |name: &str, value: &str| println!("{}  {value}", terminal::dim(&format!("{name:<20}")));
    line("name", &terminal::bold(&kept.name));
    line("preset of", &settled.chain.iter().map(|n| terminal::clean(n)).collect::<Vec<_>>().join(" → "));
    line("path", &places::short(&kept.path));
    let texts = [("description", &own.description), ("licence", &whole.licence)];
    for (name, text) in texts.iter().filter_map(|(name, text)| Some((name, text.as_ref()?))) {
        line(name, &shortened(text, 1));
    }
    if let Some(adapter) = &whole.adapter {
        line("adapter", &places::short(adapter));
    }
    for (name, value) in whole.parameters.list() {
        line(&name, &terminal::clean(&value));
    }
    for (name, text) in [("system message", &whole.system), ("chat template", &whole.template)] {
        if let Some(text) = text {
            println!("\n{}\n{}", terminal::dim(name), shortened(text, 4 * TEMPLATE_LINES));
        }
    }
    if !whole.messages.is_empty() {
        println!("\n{}", terminal::dim("examples that begin each conversation"));
        for m in &whole.messages {
            println!("{:<10} {}", terminal::clean(&m.role), shortened(&m.content, TEMPLATE_LINES));
        }
    }
    println!("\nhob show {} says more of the model.", terminal::clean(&whole.base));
    Ok(())
}

/// The first lines of a text that may be long.
fn shortened(text: &str, most: usize) -> String {
    let text = terminal::clean_lines(text.trim());
    let mut lines: Vec<&str> = text.lines().take(most).collect();
    let more = text.lines().count() - lines.len();
    let note = format!("… ({more} more lines: --json)");
    if more > 0 {
        lines.push(&note);
    }
    lines.join("\n")
}

/// The model that `text` names on this machine.
pub fn local(text: &str) -> Result<(Option<Model>, PathBuf)> {
    match store::resolve(text, &store::discover())? {
        Wanted::Here(model) => Ok((Some(*model.clone()), model.path)),
        Wanted::Path(path) => Ok((None, path)),
        Wanted::Catalogue(_) | Wanted::Hub(_) => Err(absent(text)),
    }
}

fn absent(name: &str) -> Error {
    let name = terminal::clean(name);
    Error::new(format!("{name} is not on this machine; fetch it with: hob pull {name}"))
}

fn licence(c: &Checkpoint, at: At) -> Option<String> {
    let entry = || if let At::Here(model) = at { catalogue::find(model.alias?) } else { None };
    let known = || entry().map(|e| e.licence.to_string());
    c.licence().map(|l| terminal::clean(&l)).or_else(known)
}

fn as_json(c: &Checkpoint, at: At, tensors: bool) -> Value {
    let d = Details::of(c);
    let formats = c.formats();
    let (name, place) = match at {
        At::Path => (None, None),
        At::Here(model) => (Some(&model.name), Some(model.place.name())),
        At::Hub(remote) => (Some(&remote.name), Some("Hugging Face hub")),
    };
    let mut out = json!({
        "name": name,
        "path": if let At::Hub(_) = at { None } else { Some(&c.path) },
        "place": place,
        "architecture": d.architecture,
        "parameters": d.parameters,
        "quantization": d.quantization,
        "context": d.context,
        "bytes": c.size_bytes(),
        "licence": licence(c, at),
        "formats": formats.iter().map(|(t, (n, bytes))| (t.to_string(), json!({"tensors": n, "bytes": bytes})))
            .collect::<serde_json::Map<_, _>>(),
        "config": c.config,
        "chat_template": c.chat_template(),
    });
    if let At::Hub(remote) = at {
        let variant = |v: &Variant| json!({"name": v.name, "quantization": v.quantization, "bytes": v.bytes});
        out["hub"] = json!({
            "download_bytes": remote.bytes,
            "fetched_bytes": remote.fetched,
            "tokenizer_bytes": remote.tokenizer_bytes,
            "variants": remote.variants.iter().map(variant).collect::<Value>(),
        });
    }
    if tensors {
        let entry = |(name, t): (&String, &hob_io::Tensor)| json!({"name": name, "stored_name": t.stored_name, "shape": t.shape, "dtype": t.dtype.to_string(), "bytes": t.len});
        out["tensors"] = c.tensors.iter().map(entry).collect();
    }
    out
}

fn as_text(c: &Checkpoint, at: At, tensors: bool) -> String {
    let d = Details::of(c);
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        out.push_str(&format!("{}  {value}\n", terminal::dim(&format!("{name:<20}"))));
    };
    match at {
        At::Path => line("path", places::short(&c.path)),
        At::Here(m) => {
            let alias = m.alias.map(|a| format!(" ({a})")).unwrap_or_default();
            line("name", terminal::bold(&terminal::clean(&m.name)) + &alias);
            line("path", places::short(&c.path));
        }
        At::Hub(remote) => {
            let name = terminal::clean(&remote.name);
            line("name", terminal::bold(&name));
            line("on this machine", format!("no; fetch it with: hob pull {name}"));
            line("to fetch", terminal::bytes(remote.bytes));
            line("read for this", terminal::bytes(remote.fetched));
        }
    }
    line("architecture", d.architecture);
    line("parameters", terminal::count(d.parameters));
    line("quantization", d.quantization);
    line("size", terminal::bytes(c.size_bytes()));
    line("context", d.context.map_or("not stated".into(), |n| format!("{n} tokens")));
    if let Some(vectors) = vectors(c) {
        line("vectors", vectors);
    }
    for (name, n) in details::dimensions(&c.config) {
        line(name, n.to_string());
    }
    line("licence", licence(c, at).unwrap_or_else(|| "not stated".into()));
    if let At::Here(Model { layers, .. }) = at
        && !layers.is_empty()
    {
        line("beside it at Ollama", layers.join(", "));
    }
    out.push_str(&formats(c));
    out.push_str(&template(c));
    if let At::Hub(Remote { variants, .. }) = at
        && variants.len() > 1
    {
        out.push_str(&format!("\n{}", table_of(variants)));
    }
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

/// How a model makes vectors of texts, if it states that.
fn vectors(c: &Checkpoint) -> Option<String> {
    let says = c.config["embedding"].as_object()?;
    let mut parts = Vec::new();
    if let Some(width) = c.config["hidden_size"].as_u64() {
        parts.push(format!("{width} numbers"));
    }
    match says.get("pooling").and_then(Value::as_str) {
        Some("mean") => parts.push("the mean over all tokens".into()),
        Some("cls") => parts.push("of the first token".into()),
        Some(_) => parts.push("of the last token".into()),
        None => {}
    }
    match says.get("normalize").and_then(Value::as_bool) {
        Some(true) => parts.push("of length 1".into()),
        Some(false) => parts.push("as long as they come".into()),
        None => {}
    }
    if let Some(most) = says.get("max_seq_length").and_then(Value::as_u64) {
        parts.push(format!("texts of up to {most} tokens"));
    }
    Some(parts.join(", "))
}

/// All models of a repository.
fn table_of(variants: &[Variant]) -> String {
    let row = |v: &Variant| {
        let quantization = v.quantization.clone().unwrap_or_default();
        vec![terminal::clean(&quantization), terminal::bytes(v.bytes), terminal::clean(&v.name)]
    };
    let rows: Vec<_> = variants.iter().map(row).collect();
    terminal::table(&["QUANTIZATION", "SIZE", "IN THIS REPOSITORY"], &rows, &[1])
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
