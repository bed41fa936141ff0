//! A model at hand: its architecture, its weights where they lie, and the programs made of its graphs.

use crate::memory::{self, Budget};
use crate::pages::held;
use crate::{Error, Result};
use hob_cpu::kv;
use hob_cpu::packing::{self, Packing};
use hob_cpu::{Cpu, KvTypes, Precision, Program, Tensor, Weights};
use hob_graph::{Graph, Plan};
use hob_io::Checkpoint;
use hob_models::Language;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Tokens of a prompt that are read at once.
pub const CHUNK: usize = 512;

/// Programs kept ready: that of one token, of a whole chunk, and of the sizes met last.
const KEPT: usize = 6;

/// How a model is run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// threads that compute
    pub threads: usize,
    /// how activations meet quantized weights
    pub precision: Precision,
    /// how keys and values are kept
    pub kv: KvTypes,
    /// run every node on the reference too
    pub check: bool,
    /// keep weights as the file has them, in memory that all processes share, rather than lay them out for speed
    pub mapped: bool,
}

impl Default for Options {
    fn default() -> Options {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        Options { threads, precision: Precision::Fast, kv: KvTypes::default(), check: false, mapped: false }
    }
}

/// A language model ready to run.
pub struct Model {
    /// the files
    pub checkpoint: Arc<Checkpoint>,
    language: Box<dyn Language>,
    weights: Weights,
    cpu: Cpu,
    options: Options,
    programs: Mutex<Vec<Kept>>,
    packing: Mutex<Option<Packing>>,
    /// whether weights have the form they will stay in
    settled: AtomicBool,
}

/// A program and the tokens and rows it is for.
type Kept = ((usize, usize), Arc<Program>);

/// One stored tensor, for the backend to share with the mapped file.
struct Stored {
    checkpoint: Arc<Checkpoint>,
    tensor: hob_io::Tensor,
}

impl hob_cpu::Source for Stored {
    fn forget(&self, part: std::ops::Range<usize>) {
        self.checkpoint.forget(&self.tensor, part);
    }
}

impl AsRef<[u8]> for Stored {
    fn as_ref(&self) -> &[u8] {
        self.checkpoint.bytes(&self.tensor)
    }
}

/// The graph of `language` for `tokens` tokens and `rows` rows of logits, bound to how `checkpoint` stores its
/// weights. Reads no weight.
pub fn bound(checkpoint: &Checkpoint, language: &dyn Language, tokens: usize, rows: usize) -> Result<Graph> {
    let fail = |source| Error::Graph { model: checkpoint.path.display().to_string(), source };
    let mut graph = language.graph(tokens, rows).map_err(fail)?;
    bind(checkpoint, &mut graph)?;
    Ok(graph)
}

fn bind(checkpoint: &Checkpoint, graph: &mut Graph) -> Result<()> {
    let stored = |name: &str| checkpoint.tensors.get(name).map(|t| (t.dtype, t.shape.clone()));
    graph.bind(stored).map_err(|source| Error::Graph { model: checkpoint.path.display().to_string(), source })
}

impl Model {
    /// The architecture of a checkpoint, or why Hob does not run it.
    pub fn language(checkpoint: &Checkpoint) -> Result<Box<dyn Language>> {
        // Each layer has weights of its own; a graph of more layers would only cost memory before it fails.
        let (layers, tensors) = (&checkpoint.config["num_hidden_layers"], checkpoint.tensors.len());
        if layers.as_u64().is_some_and(|n| n > tensors as u64) {
            let model = checkpoint.path.display();
            return Err(Error::Ask(format!(
                "{model} cannot be run: it has {tensors} tensors for {layers} layers"
            )));
        }
        hob_models::language(&checkpoint.config)
            .map_err(|source| Error::Config { model: checkpoint.path.display().to_string(), source })
    }

    /// Makes a model of an open checkpoint. Checks that every weight is there with the right dimensions; reads none.
    pub fn new(checkpoint: Arc<Checkpoint>, options: Options) -> Result<Model> {
        let language = Model::language(&checkpoint)?;
        bound(&checkpoint, &*language, 1, 1)?;
        let mut weights = Weights::default();
        for (name, tensor) in &checkpoint.tensors {
            let owner = Stored { checkpoint: checkpoint.clone(), tensor: tensor.clone() };
            weights.insert(name, Tensor::shared(tensor.dtype, Arc::new(owner), 0..tensor.len));
        }
        let mut cpu = Cpu::new(options.threads, options.precision);
        cpu.check = options.check;
        let settled = AtomicBool::new(options.mapped || options.check);
        let (programs, packing) = (Mutex::default(), Mutex::default());
        Ok(Model { checkpoint, language, weights, cpu, options, programs, packing, settled })
    }

    /// Tokens the model knows.
    pub fn vocab_size(&self) -> usize {
        self.language.vocab_size()
    }

    /// Tokens a sequence may hold at most.
    pub fn context(&self) -> usize {
        self.language.context()
    }

    /// How the model is run.
    pub fn options(&self) -> Options {
        self.options
    }

    /// The processor it runs on.
    pub fn cpu(&self) -> &Cpu {
        &self.cpu
    }

    /// The weights, for programs of other graphs over the same model.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The same, to add an adapter's.
    pub fn weights_mut(&mut self) -> &mut Weights {
        &mut self.weights
    }

    /// The graph for `tokens` tokens with logits for `rows` of them.
    pub fn graph(&self, tokens: usize, rows: usize) -> Result<Graph> {
        bound(&self.checkpoint, &*self.language, tokens, rows)
    }

    /// The graph of `tokens` tokens of whole sequences with its `loss`; see [`Language::training_graph`].
    pub fn training_graph(&self, tokens: usize) -> Result<Graph> {
        let fail = |source| Error::Graph { model: self.checkpoint.path.display().to_string(), source };
        let mut graph = self.language.training_graph(tokens).map_err(fail)?;
        bind(&self.checkpoint, &mut graph)?;
        Ok(graph)
    }

    /// That graph and its plan, without reading a weight.
    pub fn plan(&self, tokens: usize, rows: usize) -> Result<(Graph, Plan)> {
        let graph = self.graph(tokens, rows)?;
        let plan = Plan::new(&graph, &self.cpu);
        Ok((graph, plan))
    }

    /// The program for `tokens` tokens with logits for `rows` of them, made at first use.
    pub fn program(&self, tokens: usize, rows: usize) -> Result<Arc<Program>> {
        let key = (tokens, rows);
        let mut programs = self.programs.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(i) = programs.iter().position(|p| p.0 == key) {
            programs[..=i].rotate_right(1); // the one used last stands first
            return Ok(programs[0].1.clone());
        }
        let program = Arc::new(self.cpu.program(self.graph(tokens, rows)?, &self.weights)?);
        programs.truncate(KEPT - 1);
        programs.insert(0, (key, program.clone()));
        Ok(program)
    }

    /// Lays a `parts`th of the weights out for speed (see [`hob_cpu::packing`]). Returns whether all of them are. By
    /// shares and not by time, so that the same questions in turn meet the same weights, and end in the same answers.
    pub fn settle(&self, parts: usize) -> Result<bool> {
        if self.settled.load(Ordering::Relaxed) {
            return Ok(true);
        }
        let mut packing = self.packing.lock().unwrap_or_else(|e| e.into_inner());
        if packing.is_none() {
            let program = self.program(1, 1)?;
            // Without memory for them, weights stay as they are.
            *packing = Packing::new(&self.cpu, &program.graph).ok().flatten();
        }
        if let Some(work) = &mut *packing
            && !work.step(&self.cpu, &self.weights, work.bytes().div_ceil(parts.max(1)))
        {
            return Ok(false);
        }
        *packing = None;
        self.settled.store(true, Ordering::Relaxed);
        Ok(true)
    }

    /// What a run holds that reads a prompt of `prompt` tokens and reaches `reached` tokens of context, beside a
    /// process of `process` bytes whose tokenizer holds `tokenizer` bytes.
    pub fn budget(&self, prompt: usize, reached: usize, process: usize, tokenizer: usize) -> Result<Budget> {
        let mut budget = Budget { process, ..Budget::default() };
        let mut sizes = vec![1, prompt.clamp(1, CHUNK)];
        if prompt > CHUNK && !prompt.is_multiple_of(CHUNK) {
            sizes.push(prompt % CHUNK);
        }
        sizes.dedup();
        let mut graphs = 0;
        let (mut arena, mut scratch) = (0, 0);
        for &tokens in &sizes {
            let (graph, plan) = self.plan(tokens, 1)?;
            (budget.weights, budget.copies) = plan.weight_bytes(&graph);
            budget.weights -= memory::unread(&graph, reached);
            if !self.options.mapped {
                budget.weights += packing::growth(&self.cpu, &graph);
            }
            arena = arena.max(plan.arena);
            scratch = scratch.max(plan.scratch);
            let state = kv::bytes(&graph.states, self.options.kv, |window| held(window, reached));
            budget.state = usize::try_from(state).unwrap_or(usize::MAX);
            graphs += graph.heap_bytes();
        }
        budget.activations = arena + scratch;
        if !self.options.mapped && self.options.precision == Precision::Fast {
            budget.activations += packing::PART;
        }
        budget.model = tokenizer + self.checkpoint.header_bytes() as usize + graphs;
        Ok(budget)
    }
}
