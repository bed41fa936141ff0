//! `hob fit [MODEL…]`: can I run this? Answered by the very plan that would run.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;
use hob_engine::{KvTypes, Options, memory};
use hob_io::onnx::adm::is_onnx;
use serde_json::{Value, json};

use super::{Global, image};
use crate::error::{Error, Result};
use crate::fit::plan::{Ask, Card, Fit};
use crate::fit::planner::{Planner, better};
use crate::fit::subject::Subject;
use crate::fit::verdict::{brief, rate, sentences};
use crate::fit::{gpus, overview, picture, zoo};
use crate::hub::{Hub, remote};
use crate::model::options;
use crate::net::Net;
use crate::store::{self, Wanted};
use crate::terminal;

const EXAMPLES: &str = "Examples:
  hob fit                                     what runs in 8 to 128 GB, and on this machine
  hob fit starter                             a model on this machine
  hob fit hf:owner/repo:Q4_K_M --ctx 16384    one of the hub, by its header alone
  hob fit llama-3.1-8b --gpu rtx4060          a well-known model on another machine
  hob fit model.gguf --memory 8G --kv q8_0 --batch 4
  hob fit sdxl.safetensors --size 1024x1024   a picture model

Speeds are those that this machine's kernels were measured at (hob doctor), and a GPU's by its
bandwidth. This version of Hob computes on the processor: a GPU is planned for, and not used yet.";

/// Arguments of `hob fit`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct FitArgs {
    /// Paths, names from hob list, hf:OWNER/REPO[:FILE], or well-known models such as llama-3.1-8b[:Q8_0]
    models: Vec<String>,
    /// Tokens of context [default: what the model was trained for, at most 4096]
    #[arg(long, value_name = "N")]
    ctx: Option<NonZeroUsize>,
    /// How keys and values are kept: f32, f16, q8_0 or q4_0, or k=TYPE,v=TYPE [default: f16]
    #[arg(long, value_name = "TYPE")]
    kv: Option<KvTypes>,
    /// Conversations at a time, each with that context
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=512))]
    batch: u16,
    /// Plan for that much working memory instead of what is free here
    #[arg(long, value_name = "SIZE", value_parser = crate::room::parse)]
    memory: Option<u64>,
    /// Of a picture model: width and height in pixels, such as 1024x768 [default: as the model was trained]
    #[arg(long, value_name = "WxH", value_parser = super::image::size)]
    size: Option<(usize, usize)>,
    /// Plan for a GPU, such as rtx4060 or m3-max
    #[arg(long, value_name = "NAME")]
    gpu: Option<String>,
    /// Tokens of the prompt whose reading is timed
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    prompt: u32,
    /// Number of threads [default: one for each core]
    #[arg(long, value_name = "N", value_parser = super::threads)]
    threads: Option<NonZeroUsize>,
    /// Keep weights as the file has them
    #[arg(long)]
    mapped: bool,
    /// Print one JSON object for each model
    #[arg(long)]
    json: bool,
}

/// Plans and prints.
pub fn run(args: FitArgs, global: &Global) -> Result<()> {
    let process = memory::process();
    let options = Options {
        mapped: args.mapped,
        kv: args.kv.unwrap_or_default(),
        ..options(args.threads.map(NonZeroUsize::get))
    };
    let card = args.gpu.as_deref().map(gpus::find).transpose()?.map(|gpu| Card::of(&gpu));
    let ask = Ask {
        ctx: args.ctx.map(NonZeroUsize::get),
        sequences: args.batch.into(),
        prompt: args.prompt as usize,
    };
    let mut planner = Planner::new(card, args.memory, ask, options, process);
    if args.models.is_empty() {
        return overview::run(&mut planner, args.json);
    }
    let net = Net::new(global.offline);
    for (i, name) in args.models.iter().enumerate() {
        if let Some(path) = terrain(name) {
            image::terrain::fit(name, &path, args.memory, args.json)?;
            continue;
        }
        if let Some((name, path)) = picture_model(name) {
            if i > 0 && !args.json {
                println!();
            }
            let bytes = args.memory.unwrap_or_else(|| crate::room::free(process));
            picture::run(&name, &path, args.size, bytes, process, args.json)?;
            continue;
        }
        let subject = find(name, &net)?;
        let fit = planner.plan(&subject)?;
        if args.json {
            let own = if planner.target.card.is_none() { planner.own_card() } else { None };
            let on_own =
                own.map(|card| Ok::<_, Error>((card.name.clone(), planner.plan_for(&subject, card)?)));
            let mut object = as_json(&subject, &fit, &planner);
            object["gpu"] = on_own.transpose()?.map_or(Value::Null, |(name, fit)| {
                json!({
                    "name": name,
                    "free_bytes": fit.free,
                    "total_bytes": fit.total(),
                    "verdict": fit.verdict.name(),
                    "layers": fit.layers.gpu,
                    "tps": fit.speed.map(|s| s.tps),
                })
            });
            println!("{object}");
            continue;
        }
        if i > 0 {
            println!();
        }
        print!("{}", as_text(&subject, &fit, &mut planner)?);
    }
    Ok(())
}

/// The picture model on this machine that `name` means, if it means one.
fn picture_model(name: &str) -> Option<(String, PathBuf)> {
    match store::resolve(name, &store::discover()).ok()? {
        Wanted::Here(model) if model.kind == store::Kind::Image => Some((model.name, model.path)),
        Wanted::Path(path) if super::picture::is(&path) => Some((path.display().to_string(), path)),
        _ => None,
    }
}

/// The file that `name` means, where it is one of a terrain model.
fn terrain(name: &str) -> Option<PathBuf> {
    let path = match store::resolve(name, &store::discover()).ok()? {
        Wanted::Here(model) => model.path,
        Wanted::Path(path) => path,
        _ => return None,
    };
    Some(path).filter(|path| is_onnx(path))
}

/// The model that `name` means: here, of the hub by its header, or a well-known shape.
fn find(name: &str, net: &Net) -> Result<Subject> {
    let unknown = match store::resolve(name, &store::discover()) {
        Ok(Wanted::Here(model)) => return Subject::here(&model.name, &model.path),
        Ok(Wanted::Path(path)) => return Subject::here(&path.display().to_string(), &path),
        Ok(Wanted::Hub(spec)) => return Subject::remote(remote::headers(&Hub::new(net), &spec)?),
        // Not here: planned by its shape, as a name is no leave to open a connection.
        Ok(Wanted::Catalogue(entry)) => {
            let not = || {
                let name = entry.name;
                Error::new(format!("{name} is not planned before it is here; fetch it with: hob pull {name}"))
            };
            let (shape, mix) = entry.shape.ok_or_else(not)?;
            return Subject::of_shape(shape, mix);
        }
        Err(e) => e,
    };
    let (shape, mix) = name.split_once(':').unwrap_or((name, "Q4_K_M"));
    // A path that leads nowhere is no model's name.
    if crate::naming::is_gguf(name) || name.starts_with(['.', '/', '~']) {
        return Err(unknown);
    }
    if zoo::find(shape).is_err() {
        return Err(unknown);
    }
    Subject::of_shape(shape, mix)
}

fn as_text(subject: &Subject, fit: &Fit, planner: &mut Planner) -> Result<String> {
    let d = &subject.details;
    let mut out = format!(
        "{}  {}\n\n",
        terminal::bold(&terminal::clean(&subject.name)),
        terminal::dim(&format!(
            "{}, {} parameters, {}, {}",
            d.architecture,
            terminal::count(d.parameters),
            d.quantization,
            terminal::bytes(subject.file_bytes)
        ))
    );
    let b = &fit.budget;
    let overhead = b.process + b.model;
    let sequences = match planner.ask.sequences {
        1 => String::new(),
        n => format!(", {n} conversations"),
    };
    let total = fit.total();
    let whole = total.max(fit.free).max(1) as f64;
    let mut row = |name: &str, n: u64, of: &str| {
        let bar = terminal::bar(n as f64 / whole, 24);
        out.push_str(&format!("  {name:<16} {:>9}  {bar}  {}\n", terminal::bytes(n), terminal::dim(of)));
    };
    let weights = match fit.streamed {
        0 => String::new(),
        n => format!("and {} read again for each token", terminal::bytes(n)),
    };
    row("weights", (b.weights + b.copies) as u64, &weights);
    let cut = if fit.cut { ", cut to fit" } else { "" };
    let kv = format!("{} tokens of context{cut} in {}{sequences}", fit.ctx, planner.options.kv);
    row("keys and values", b.state as u64, &kv);
    row("activations", b.activations as u64, "");
    let driver = if fit.driver > 0 {
        "program, vocabulary, graphs, the GPU's driver"
    } else {
        "program, vocabulary, graphs"
    };
    row("overhead", overhead as u64 + fit.driver, driver);
    let shared = fit.layers.gpu > 0 && fit.layers.ram + fit.layers.streamed > 0;
    let ram = match shared {
        true => format!(" and {} of memory", terminal::bytes(planner.target.ram)),
        false => String::new(),
    };
    row("total", total, &format!("of {} free on {}{ram}", terminal::bytes(fit.free), planner.place));
    let mut line = |name: &str, text: String| {
        out.push_str(&format!("  {name:<16} {text}\n"));
    };
    let longest = match fit.max_ctx {
        Some(n) if n >= subject.outline.context() => format!("{n} tokens, all it was trained for"),
        Some(n) => format!("{n} tokens"),
        None => "none".into(),
    };
    line("longest context", longest);
    line("layers", layers(fit));
    if let Some(s) = &fit.speed {
        let first = s.first.map_or(String::new(), |t| {
            format!("first token after {} for a prompt of {}, ", seconds(t), fit.prompt)
        });
        let end = format!("{} when the context is full", rate(s.tps_full));
        line("speed", format!("{first}then {} tokens/s, {end}", rate(s.tps)));
        line("", terminal::dim(&format!("by {}", planner.basis(fit))));
    } else if fit.streamed > 0 {
        line("speed", "not known until hob doctor has measured this machine's disk".into());
    }
    out.push('\n');
    let smaller = better(subject, fit, planner)?;
    for sentence in sentences(fit, &smaller) {
        out.push_str(&format!("  {sentence}\n"));
    }
    let own = if planner.target.card.is_none() { planner.own_card() } else { None };
    let on_own = own.map(|card| Ok::<_, Error>((card.name.clone(), planner.plan_for(subject, card)?)));
    if let Some((name, fit)) = on_own.transpose()? {
        let found = brief(&fit);
        out.push_str(&format!(
            "  On the GPU here ({}): {found}; planned for, not used yet.\n",
            terminal::clean(&name)
        ));
    }
    if !subject.variants.is_empty() {
        out.push_str(&format!("  Also there: {}.\n", subject.variants.join(", ")));
    }
    if fit.layers.gpu > 0 {
        out.push_str(
            "  This version of Hob computes on the processor; the GPU is planned for, and not used yet.\n",
        );
    }
    Ok(out)
}

fn layers(fit: &Fit) -> String {
    let l = fit.layers;
    let part = |n: usize, place: &str| (n > 0).then(|| format!("{n} {place}"));
    let parts = [part(l.gpu, "on the GPU"), part(l.ram, "in memory"), part(l.streamed, "read from disk")];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "nowhere".into() } else { parts.join(", ") }
}

fn seconds(s: f64) -> String {
    match s {
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s if s < 10.0 => format!("{s:.1} s"),
        s => format!("{s:.0} s"),
    }
}

/// For a machine.
pub fn as_json(subject: &Subject, fit: &Fit, planner: &Planner) -> Value {
    let (b, s) = (&fit.budget, &fit.speed);
    json!({
        "model": subject.name,
        "architecture": subject.details.architecture,
        "parameters": subject.details.parameters,
        "quantization": subject.details.quantization,
        "file_bytes": subject.file_bytes,
        "ctx": fit.ctx,
        "ctx_cut": fit.cut,
        "kv": planner.options.kv.to_string(),
        "batch": planner.ask.sequences,
        "place": planner.place,
        "free_bytes": fit.free,
        "total_bytes": fit.total(),
        "weights_bytes": b.weights + b.copies,
        "state_bytes": b.state,
        "activation_bytes": b.activations,
        "overhead_bytes": (b.process + b.model) as u64 + fit.driver,
        "streamed_bytes": fit.streamed,
        "max_ctx": fit.max_ctx,
        "layers": {"gpu": fit.layers.gpu, "ram": fit.layers.ram, "streamed": fit.layers.streamed},
        "verdict": fit.verdict.name(),
        "tps": s.map(|s| s.tps),
        "tps_full": s.map(|s| s.tps_full),
        "ttft_ms": s.and_then(|s| s.first).map(|t| t * 1e3),
        "prompt_tokens": fit.prompt,
        "basis": s.map(|_| planner.basis(fit)),
    })
}
