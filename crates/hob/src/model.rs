//! A loaded model with its words: tokenizer, chat template, session and measures around the engine, which knows ids.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use hob_engine::{Budget, KvTypes, Model, Options, Residency, Sampler, Sampling, Session, Stop, memory};
use hob_io::chat::{self, Chat};
use hob_io::{Adapter, Checkpoint, Tokenizer};

use crate::chat::{Answer, Message, Report};
use crate::error::{Error, Result};
use crate::preset::Preset;
use crate::room::Room;
use crate::serve::Stops;
use crate::terminal;

/// The context where the person asks for none: enough for a long talk, little enough for a small machine.
pub const DEFAULT_CONTEXT: usize = 4096;

/// Files and words of a model, without the engine.
pub struct Words {
    /// The files.
    pub checkpoint: Arc<Checkpoint>,
    /// Text to ids and back.
    pub tokenizer: Arc<Tokenizer>,
}

impl Words {
    /// The chat by that template, or by the model's own.
    pub fn chat(&self, template: Option<&str>) -> Chat {
        let spelled = |id: Option<u32>| {
            let bytes = id.and_then(|id| self.tokenizer.token_bytes(id)).unwrap_or_default();
            String::from_utf8_lossy(bytes).into_owned()
        };
        let (bos, eos) =
            (spelled(self.tokenizer.bos_id()), spelled(self.tokenizer.eos_ids().first().copied()));
        let own = || self.checkpoint.chat_template();
        Chat::new(template.map(String::from).or_else(own).as_deref(), &bos, &eos)
    }

    /// Opens the model at `path`.
    pub fn open(path: &Path) -> Result<Words> {
        let checkpoint = Arc::new(Checkpoint::open(path)?);
        let tokenizer = match checkpoint.gguf() {
            Some(gguf) => Tokenizer::from_gguf(gguf)?,
            None => {
                let file = ["tokenizer.json", "vocab.txt"].iter().find_map(|name| checkpoint.companion(name));
                let file = file.ok_or_else(|| {
                    Error::new(format!(
                        "{} has no tokenizer.json beside its weights; fetch it too",
                        path.display()
                    ))
                })?;
                Tokenizer::from_dir(file.parent().unwrap_or(path))?
            }
        };
        if let Some(warning) = tokenizer.warning() {
            terminal::note(&format!("the tokenizer of {}: {warning}", path.display()));
        }
        Ok(Words { checkpoint, tokenizer: Arc::new(tokenizer) })
    }
}

/// How a model is loaded.
#[derive(Clone, Debug, Default)]
pub struct Load {
    /// threads; one for each core when `None`
    pub threads: Option<usize>,
    /// weights stay as the file has them
    pub mapped: bool,
    /// how keys and values are kept
    pub kv: KvTypes,
    /// tokens of context; see [`DEFAULT_CONTEXT`]
    pub context: Option<usize>,
    /// how tokens are chosen
    pub sampling: Sampling,
    /// tokens of an answer at most
    pub max_tokens: Option<usize>,
    /// bytes of memory to stay within; what is free when `None`
    pub memory: Option<u64>,
    /// the path of a LoRA
    pub adapter: Option<PathBuf>,
    /// what begins conversations, and the template they are written by
    pub preset: Option<Preset>,
    /// strings that end an answer
    pub stop: Vec<String>,
}

impl Load {
    /// Tokens of context that `model` is to have.
    pub fn wanted(&self, model: &Model) -> usize {
        self.context.unwrap_or(DEFAULT_CONTEXT.min(model.context()))
    }
}

/// A model that answers.
pub struct Loaded {
    words: Words,
    model: Arc<Model>,
    session: Session,
    chat: Chat,
    how: Load,
    /// the most tokens read at once, for the plan
    longest: usize,
    process: usize,
    /// where there is too little memory for all weights
    residency: Option<Residency>,
    load_ms: f64,
    noted: bool,
    /// weights being laid out while nothing is asked
    settling: Option<std::thread::JoinHandle<()>>,
}

/// The engine's options for so many threads.
pub fn options(threads: Option<usize>) -> Options {
    let defaults = Options::default();
    let check = std::env::var_os("HOB_CHECK").is_some_and(|v| !v.is_empty() && v != "0");
    Options { threads: threads.unwrap_or(defaults.threads), check, ..defaults }
}

/// A model's files, words and weights, before it is known within what memory it is run.
pub struct Opened {
    /// files and tokenizer
    pub words: Words,
    /// the engine's model
    pub model: Arc<Model>,
    /// the chat template
    pub chat: Chat,
}

impl Opened {
    /// Opens the model at `path`; reads no weights.
    pub fn open(path: &Path, how: &Load) -> Result<Opened> {
        let words = Words::open(path)?;
        let options = Options { mapped: how.mapped, kv: how.kv, ..options(how.threads) };
        let adapter = how.adapter.as_deref().map(Adapter::open).transpose()?;
        let model = Arc::new(Model::adapted(words.checkpoint.clone(), adapter.as_ref(), options)?);
        if words.tokenizer.vocab_size() > model.vocab_size() {
            let (tokens, rows) = (words.tokenizer.vocab_size(), model.vocab_size());
            terminal::note(&format!("the tokenizer knows {tokens} tokens, the model {rows}"));
        }
        let chat = words.chat(how.preset.as_ref().and_then(|p| p.template.as_deref()));
        Ok(Opened { words, model, chat })
    }

    /// Within what memory it is run, beside a process of so many bytes.
    pub fn room(&self, how: &Load, process: usize) -> Result<Room> {
        Room::find(&self.model, how, process, self.words.tokenizer.heap_bytes())
    }

    /// Bytes that it takes with all weights in memory and as long a context as `how` says, beside a process of so many.
    pub fn needs(&self, how: &Load, process: usize) -> Result<u64> {
        let context = how.wanted(&self.model);
        Room::needs(&self.model, context, process, self.words.tokenizer.heap_bytes()).map(|(_, n)| n as u64)
    }

    /// Makes it run so, and says what the person should know of it.
    pub fn settle_in(&self, room: &Room) {
        if let Some(note) = &room.note {
            terminal::note(note);
        }
        if let Some(residency) = &room.residency {
            self.model.stream(residency);
        }
        if room.context > self.model.context() {
            terminal::note(&format!(
                "the model was trained for {} tokens of context; beyond them answers get worse",
                self.model.context()
            ));
        }
    }
}

impl Loaded {
    /// Loads the model at `path`.
    pub fn open(path: &Path, how: Load) -> Result<Loaded> {
        let start = Instant::now();
        let process = memory::process();
        how.sampling.check().map_err(Error::new)?;
        let opened = Opened::open(path, &how)?;
        let room = opened.room(&how, process)?;
        opened.settle_in(&room);
        let Opened { words, model, chat } = opened;
        let session = Session::new(&model, room.context)?;
        let load_ms = start.elapsed().as_secs_f64() * 1e3;
        Ok(Loaded {
            words,
            model,
            session,
            chat,
            how,
            longest: 0,
            process,
            residency: room.residency,
            load_ms,
            noted: false,
            settling: None,
        })
    }

    fn generate(&mut self, ids: &[u32], emit: &mut Emit) -> Result<Report> {
        let start = Instant::now();
        let mut report = Report { prompt_tokens: ids.len(), load_ms: self.load_ms, ..Report::default() };
        let mut sampler = Sampler::new(self.how.sampling);
        sampler.prompt(ids);

        let wait = terminal::delayed("reading the prompt");
        let read = self.session.prompt(ids, |done, all| {
            wait.set(done as u64, all as u64);
            emit("").is_continue()
        })?;
        drop(wait);
        self.longest = self.longest.max(read);
        report.cached_tokens = ids.len().saturating_sub(read);
        report.prompt_tps = read as f64 / start.elapsed().as_secs_f64();

        let most = self.how.max_tokens.unwrap_or(usize::MAX);
        let ends = self.words.tokenizer.eos_ids().to_vec();
        let mut decoder = self.words.tokenizer.decoder();
        let (mut stops, mut met) = (Stops::new(&self.how.stop), false);
        if self.session.ids().len() == ids.len() {
            let mut tokens = self.session.generate(&mut sampler, most, &ends);
            let mut first = None;
            for id in tokens.by_ref() {
                let (piece, stop) = stops.push(&decoder.push(id?));
                met = stop.is_some();
                let now = start.elapsed();
                report.tokens += 1;
                first.get_or_insert(now);
                report.text.push_str(&piece);
                if emit(&piece).is_break() || met {
                    break;
                }
            }
            let end = start.elapsed();
            report.stop = match tokens.stop() {
                _ if met => "end",
                Some(Stop::End) => "end",
                Some(Stop::Length) => "length",
                Some(Stop::Context) => "context",
                None => "stopped",
            };
            if let Some(first) = first {
                report.ttft_ms = first.as_secs_f64() * 1e3;
                let rest = (end - first).as_secs_f64();
                report.tps = if report.tokens > 1 { (report.tokens - 1) as f64 / rest } else { 0.0 };
            }
        } else {
            report.stop = "stopped";
        }
        let rest = if met { String::new() } else { stops.push(&decoder.finish()).0 + &stops.finish() };
        if !rest.is_empty() {
            let _ = emit(&rest);
            report.text.push_str(&rest);
        }
        let tokenizer = self.words.tokenizer.heap_bytes();
        let reached = self.session.ids().len();
        let footprint = self.model.footprint(self.longest, 1)?.beside(self.process, tokenizer);
        let budget = footprint.at(reached);
        let budget = match &self.residency {
            Some(r) => Budget { weights: r.budget.weights, ..budget },
            None => budget,
        };
        report.planned_bytes = Some(budget.total() as u64);
        report.peak_bytes = Some(memory::peak().unwrap_or(0) as u64);
        Ok(report)
    }
}

/// Takes each piece of an answer; `Break` ends it.
pub type Emit<'a> = dyn FnMut(&str) -> ControlFlow<()> + 'a;

impl Answer for Loaded {
    fn continue_text(&mut self, text: &str, emit: &mut Emit) -> Result<Report> {
        let ids = self.words.tokenizer.encode_with_bos(text, true);
        self.generate(&ids, emit)
    }

    fn idle(&mut self) {
        let model = self.model.clone();
        // Where no thread can be had, the next answer does it bit by bit.
        let work = move || drop(model.settle(1));
        self.settling = std::thread::Builder::new().name("hob-settle".into()).spawn(work).ok();
    }

    fn answer(&mut self, messages: &[Message], emit: &mut Emit) -> Result<Report> {
        // Waited for, so that every conversation meets its weights in the same form.
        if let Some(settling) = self.settling.take() {
            let _ = settling.join();
        }
        let said = messages.iter().map(|m| chat::Message::new(m.role.name(), &m.text)).collect();
        let said = match &self.how.preset {
            Some(preset) => preset.begin(said, |m| m.role == "system", chat::Message::new),
            None => said,
        };
        let options = chat::Options { add_generation_prompt: true, ..chat::Options::default() };
        let (ids, rendered) = self
            .chat
            .encode(&self.words.tokenizer, &said, &options)
            .map_err(|refused| Error::new(refused.to_string()))?;
        if let (Some(note), false) = (&rendered.note, self.noted) {
            terminal::note(note);
            self.noted = true;
        }
        self.generate(&ids, emit)
    }
}

impl From<hob_engine::Error> for Error {
    fn from(e: hob_engine::Error) -> Error {
        Error::new(e.to_string())
    }
}
