//! `hob run [MODEL] [PROMPT]`: answers one prompt, or opens a chat.

use std::io::{IsTerminal, Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgMatches, Args};
use hob_engine::Sampling as Settings;
use hob_io::onnx::adm::is_onnx;
use serde_json::json;

use super::how::{Loading, Sampling};
use super::{Global, pull};
use crate::catalogue::{self, Entry, STARTER};
use crate::chat::{Answer, Chat, Message, Role, Terminal};
use crate::client::{self, Remote};
use crate::error::{Error, Result, plain};
use crate::interrupt::Catch;
use crate::model::{Load, Loaded};
use crate::net::Net;
use crate::preset::{Settled, settle};
use crate::store::{self, Found, Wanted};
use crate::{places, terminal};

const EXAMPLES: &str = "Examples:
  hob run                                       chat
  hob run starter \"Why is the sky blue?\"
  hob run model.gguf --system \"Answer in French.\" \"Good morning!\"
  git diff | hob run qwen3 --max-tokens 200     the prompt comes from a pipe
  hob run starter --raw \"Once upon a time\"      continue a text, without a chat template

In the chat, /help lists commands, Ctrl-C stops an answer and Ctrl-D leaves.";

/// The longest prompt read from a pipe: far beyond any context.
const MAX_PROMPT: u64 = 64 << 20;

/// Arguments of `hob run`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct RunArgs {
    /// A path, a name from hob list, or hf:OWNER/REPO[:FILE] [default: the only model here, or the starter]
    pub model: Option<String>,
    /// What to answer; - reads it from stdin, which a pipe does by itself
    #[arg(value_name = "PROMPT")]
    pub prompt: Option<String>,
    /// The same as PROMPT
    #[arg(long = "prompt", value_name = "PROMPT", conflicts_with = "prompt")]
    pub prompt_option: Option<String>,
    /// Stop after that many tokens [default: where the model ends]
    #[arg(long, value_name = "N")]
    pub max_tokens: Option<std::num::NonZeroUsize>,
    /// What holds for the whole conversation
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    pub system: Option<String>,
    /// Continue the text as it stands, without a chat template
    #[arg(long)]
    pub raw: bool,
    /// Load the model here, even if a server runs (hob serve)
    #[arg(long)]
    pub alone: bool,
    /// End with one JSON object in place of the streamed text
    #[arg(long)]
    pub json: bool,
    /// Fetch the model without asking if it is not here
    #[arg(long, short)]
    pub yes: bool,
    #[command(flatten)]
    pub loading: Loading,
    #[command(flatten)]
    pub sampling: Sampling,
    /// options that stand on the command line, not in the config file: those a preset does not change
    #[arg(skip)]
    pub said: Vec<String>,
}

/// The options that the command line gives itself.
pub fn said(matches: &ArgMatches) -> Vec<String> {
    let given = |id: &&str| matches.value_source(id) == Some(ValueSource::CommandLine);
    matches.ids().map(|id| id.as_str()).filter(given).map(String::from).collect()
}

impl RunArgs {
    /// Whether the command line gives that option itself.
    fn said(&self, option: &str) -> bool {
        self.said.iter().any(|id| id == option)
    }
}

/// What is to be run.
struct Chosen {
    name: String,
    path: PathBuf,
    preset: Option<Settled>,
}

/// Finds the model, loads it, and answers.
pub fn run(mut args: RunArgs, global: &Global) -> Result<()> {
    let prompt = prompt(&args)?;
    if prompt.is_none() && args.json {
        return Err(Error::new("--json needs a prompt: give PROMPT, or pipe it in"));
    }
    if prompt.is_none() && args.raw {
        return Err(Error::new("--raw needs a prompt: give PROMPT, or pipe it in"));
    }
    let found = store::discover();
    // What is not on this machine's disk may be on the server's, which knows it by its own name.
    let elsewhere = args.model.as_deref().filter(|text| {
        let wanted = wanted(text, &found);
        !matches!(wanted, Ok((Wanted::Here(_) | Wanted::Path(_), _)))
    });
    let elsewhere = elsewhere.and_then(|text| Some((terminal::clean(text), remote(text, true, &args)?)));
    let (name, mut model) = match elsewhere {
        Some(there) => there,
        None => {
            let chosen = find(&args, &found, global)?;
            let own = chosen.preset.as_ref().is_some_and(|p| p.preset.system.is_some());
            if own && !args.said("system") {
                args.system = None; // the config file's gives way
            }
            match remote(&chosen.name, chosen.preset.is_some(), &args) {
                Some(model) => (chosen.name, model),
                None => return talk(&mut load(&chosen, &args)?, chosen.name.clone(), prompt, &args),
            }
        }
    };
    let at = model.address();
    talk(&mut model, format!("{name} on the server at {at}"), prompt, &args)
}

/// What a name stands for, and the preset if it is one.
fn wanted(text: &str, found: &Found) -> Result<(Wanted, Option<Settled>)> {
    let Some(kept) = found.preset(text) else { return Ok((store::resolve(text, found)?, None)) };
    let settled = settle(&kept.name, &kept.preset, found)?;
    Ok((store::of_preset(&settled, found)?, Some(settled)))
}

/// The model on the server that runs, if it has it and nothing was asked that concerns how it is loaded.
/// Where it has defaults of its own for that name, only what the command line says goes before them.
fn remote(name: &str, defaults: bool, args: &RunArgs) -> Option<Remote> {
    let l = &args.loading;
    let own = l.ctx.is_some() || l.kv.is_some() || l.memory.is_some() || l.mapped || l.threads.is_some();
    if args.alone || own || std::env::var_os("HOB_CHECK").is_some() {
        return None;
    }
    let s = args.sampling.settings();
    // The API's whole numbers have a sign; the server takes the same 64 bits.
    let mut how = json!({
        "temperature": s.temperature, "top_p": s.top_p, "top_k": s.top_k, "min_p": s.min_p,
        "repeat_penalty": s.repeat_penalty, "seed": s.seed as i64, "max_tokens": args.max_tokens,
    });
    if defaults {
        how.as_object_mut()?.retain(|key, _| args.said(key));
    }
    Remote::find(client::server()?, name, how.as_object()?.clone())
}

/// Answers the prompt, or opens a chat.
fn talk(model: &mut dyn Answer, name: String, prompt: Option<String>, args: &RunArgs) -> Result<()> {
    match prompt {
        Some(prompt) => answer(model, prompt, args),
        None => {
            eprintln!("{}", terminal::dim(&format!("{name}. /help lists commands, Ctrl-D leaves.")));
            let mut chat = Chat::new(model, name, args.system.clone());
            chat.run(&mut Terminal::new()?, &mut std::io::stdout())
        }
    }
}

/// The prompt: as given, or from stdin when that is a pipe or `-` was given.
fn prompt(args: &RunArgs) -> Result<Option<String>> {
    let stdin = std::io::stdin();
    let given = args.prompt.as_ref().or(args.prompt_option.as_ref());
    let text = match given.map(String::as_str) {
        None if stdin.is_terminal() => return Ok(None),
        None | Some("-") => {
            let mut bytes = Vec::new();
            let read = stdin.lock().take(MAX_PROMPT + 1).read_to_end(&mut bytes);
            read.map_err(|e| Error::new(format!("cannot read the prompt from stdin: {}", plain(&e))))?;
            if bytes.len() as u64 > MAX_PROMPT {
                return Err(Error::new(format!(
                    "the prompt from stdin is longer than {}",
                    terminal::bytes(MAX_PROMPT)
                )));
            }
            String::from_utf8(bytes)
                .map_err(|_| Error::new("the prompt from stdin is not UTF-8 text; convert it first"))?
        }
        Some(text) => text.to_string(),
    };
    if text.trim().is_empty() {
        return Err(Error::new(
            "the prompt is empty: give PROMPT, pipe one in, or run in a terminal to chat",
        ));
    }
    Ok(Some(text))
}

/// The model to run and what to call it; fetches it when the person agrees.
fn find(args: &RunArgs, found: &Found, global: &Global) -> Result<Chosen> {
    let (wanted, preset) = match &args.model {
        Some(text) => wanted(text, found).map_err(|e| match text.contains(char::is_whitespace) {
            true => Error::new(format!("{e}; if it is your prompt: hob run --prompt \"…\"")),
            false => e,
        })?,
        None => (default_model(found)?, None),
    };
    let (name, path) = at_hand(wanted, args, &Net::new(global.offline))?;
    Ok(Chosen { name: preset.as_ref().map_or(name, |p| p.name.clone()), path, preset })
}

/// What a model is called and where it lies, once it is here.
fn at_hand(wanted: Wanted, args: &RunArgs, net: &Net) -> Result<(String, PathBuf)> {
    match wanted {
        Wanted::Here(model) if model.kind == store::Kind::Image => Err(Error::new(format!(
            "{} makes pictures: hob image {} \"a lighthouse\", or hob serve",
            terminal::clean(&model.name),
            places::short(&model.path)
        ))),
        Wanted::Here(model) if model.kind == store::Kind::Terrain => Err(no_words("terrain")),
        Wanted::Catalogue(entry) if is_onnx(Path::new(entry.file)) => Err(no_words(entry.name)),
        Wanted::Here(model) => Ok((terminal::clean(&model.name), model.path)),
        Wanted::Path(path) if is_onnx(&path) => Err(no_words(&terminal::clean(&path.display().to_string()))),
        Wanted::Path(path) if super::picture::is(&path) => Err(Error::new(format!(
            "{0} makes pictures: hob image {0} \"a lighthouse\"",
            terminal::clean(&path.display().to_string())
        ))),
        Wanted::Path(path) => Ok((terminal::clean(&path.display().to_string()), path)),
        Wanted::Catalogue(entry) => {
            if net.offline() {
                return Err(Net::refusal(entry.name));
            }
            agree(&offer(entry), entry.name, args.yes)?;
            Ok((entry.name.to_string(), pull::catalogued(entry, None, net)?))
        }
        Wanted::Hub(spec) => {
            let name = spec.to_string();
            if net.offline() {
                return Err(Net::refusal(&name));
            }
            let question = format!("{name} is not on this machine. Fetch it from the Hugging Face hub?");
            agree(&question, &name, args.yes)?;
            Ok((name, pull::from_hub(&spec, None, net)?))
        }
    }
}

fn no_words(name: &str) -> Error {
    Error::new(format!("{name} makes maps of heights: hob image {name} -o land.png"))
}

/// Without a name: the only model here, or the starter.
fn default_model(found: &Found) -> Result<Wanted> {
    let starter = catalogue::find(STARTER).ok_or_else(|| Error::new("the catalogue has no starter"))?;
    let texts: Vec<&store::Model> = found.models.iter().filter(|m| m.kind == store::Kind::Text).collect();
    match texts[..] {
        [] => Ok(Wanted::Catalogue(starter)),
        [one] => Ok(Wanted::Here(Box::new(one.clone()))),
        ref several => match several.iter().find(|m| m.alias == Some(starter.name)) {
            Some(model) => Ok(Wanted::Here(Box::new((*model).clone()))),
            None => Err(Error::new(format!(
                "there are {} models on this machine; name one of them: hob run MODEL (hob list shows them)",
                several.len()
            ))),
        },
    }
}

fn offer(entry: &Entry) -> String {
    let places: Vec<String> = entry.sources.iter().map(|s| s.name()).collect();
    format!(
        "{} is not on this machine: {}, {}, licence {}, from {}. Fetch it?",
        entry.name,
        entry.title,
        terminal::bytes(entry.size),
        entry.licence,
        places.join(" or else ")
    )
}

/// Nothing is fetched unless a person says yes, here or by `--yes`.
fn agree(question: &str, name: &str, yes: bool) -> Result<()> {
    if yes {
        return Ok(());
    }
    if !terminal::interactive() {
        return Err(Error::new(format!(
            "{name} is not on this machine; fetch it with: hob pull {name} (or run again with --yes)"
        )));
    }
    match terminal::ask(question, true)? {
        true => Ok(()),
        false => Err(Error::new(format!("{name} was not fetched; hob pull {name} does it later"))),
    }
}

/// Loads the model as the arguments ask, and as its preset asks where they do not.
fn load(chosen: &Chosen, args: &RunArgs) -> Result<Loaded> {
    let max_tokens = args.max_tokens.map(|n| n.get());
    let asked = Load { sampling: args.sampling.settings(), max_tokens, ..args.loading.load() };
    let Some(Settled { preset, .. }) = &chosen.preset else { return Loaded::open(&chosen.path, asked) };
    let (p, all) = (&preset.parameters, asked.sampling);
    let mut sampling = p.over(all);
    for (option, keep) in [
        ("temperature", (|s, all| s.temperature = all.temperature) as fn(&mut Settings, Settings)),
        ("top_p", |s, all| s.top_p = all.top_p),
        ("top_k", |s, all| s.top_k = all.top_k),
        ("min_p", |s, all| s.min_p = all.min_p),
        ("repeat_penalty", |s, all| s.repeat_penalty = all.repeat_penalty),
        ("seed", |s, all| s.seed = all.seed),
    ] {
        if args.said(option) {
            keep(&mut sampling, all);
        }
    }
    let number = |option: &str, own: Option<u32>, asked: Option<usize>| {
        own.filter(|_| !args.said(option)).map(|n| n as usize).or(asked)
    };
    let how = Load {
        sampling,
        max_tokens: number("max_tokens", p.max_tokens, asked.max_tokens),
        context: number("ctx", p.ctx, asked.context),
        adapter: preset.adapter.clone(),
        stop: p.stop.clone().unwrap_or_default(),
        preset: Some(preset.clone()),
        ..asked
    };
    Loaded::open(&chosen.path, how)
}

/// Answers one prompt, streaming it unless `--json` asks for the object alone.
fn answer(model: &mut dyn Answer, prompt: String, args: &RunArgs) -> Result<()> {
    let catch = Catch::new();
    let mut out = std::io::stdout();
    let mut broken = None;
    let on_terminal = out.is_terminal();
    let mut emit = |piece: &str| {
        // A model may say escape sequences; a terminal would obey them.
        let shown = if on_terminal { terminal::clean_lines(piece) } else { piece.to_string() };
        if !args.json
            && let Err(e) = out.write_all(shown.as_bytes()).and_then(|()| out.flush())
        {
            broken = Some(e);
            return ControlFlow::Break(());
        }
        if catch.pressed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let report = match args.raw {
        true => model.continue_text(&prompt, &mut emit)?,
        false => {
            let system = args.system.iter().map(|t| Message { role: Role::System, text: t.clone() });
            let messages: Vec<Message> = system.chain([Message { role: Role::User, text: prompt }]).collect();
            model.answer(&messages, &mut emit)?
        }
    };
    if let Some(e) = broken {
        return Err(Error::new(format!("cannot write the answer: {}", plain(&e))));
    }
    if args.json {
        let json = serde_json::to_string(&report).map_err(|e| Error::new(e.to_string()))?;
        println!("{json}");
    } else if !report.text.ends_with('\n') {
        println!();
    }
    if report.stop == "context" {
        terminal::note("the answer ended because the context is full; --ctx makes it longer");
    }
    match catch.pressed() {
        true => Err(Error::interrupted("the answer was stopped by Ctrl-C")),
        false => Ok(()),
    }
}
