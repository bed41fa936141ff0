//! A model at hand: its architecture, its weights where they lie, and the programs made of its graphs.

use crate::adapter::Adapted;
use crate::cache;
use crate::stored::shared;
use crate::{Error, Footprint, Outline, Residency, Result};
use hob_cpu::packing::Packing;
use hob_cpu::{Cpu, KvTypes, Precision, Program, Weights};
use hob_graph::{Graph, Plan};
use hob_io::{Adapter, Checkpoint};
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
    outline: Outline,
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

impl Model {
    /// Makes a model of an open checkpoint. Checks that every weight is there with the right dimensions; reads none.
    pub fn new(checkpoint: Arc<Checkpoint>, options: Options) -> Result<Model> {
        Model::adapted(checkpoint, None, options)
    }

    /// The same with an adapter on its linear layers, whose weights are held beside the model's. Errors say which of its
    /// weights do not fit.
    pub fn adapted(
        checkpoint: Arc<Checkpoint>,
        adapter: Option<&Adapter>,
        options: Options,
    ) -> Result<Model> {
        let mut outline = Outline::of(&checkpoint)?;
        if !checkpoint.has_data() {
            let model = checkpoint.path.display();
            return Err(Error::Ask(format!(
                "{model} cannot be run: only its header is here; fetch it first"
            )));
        }
        let mut weights = Weights::default();
        for (name, tensor) in &checkpoint.tensors {
            weights.insert(name, shared(&checkpoint, tensor));
        }
        if let Some(adapter) = adapter {
            let adapted = Adapted::new(adapter, &outline, &checkpoint.config)?;
            adapted.add_to(&mut weights, adapter)?;
            outline.adapter = Some(adapted);
        }
        let mut cpu = Cpu::new(options.threads, options.precision);
        cpu.check = options.check;
        let settled = AtomicBool::new(options.mapped || options.check);
        let (programs, packing) = (Mutex::default(), Mutex::default());
        Ok(Model { checkpoint, outline, weights, cpu, options, programs, packing, settled })
    }

    /// Tokens the model knows.
    pub fn vocab_size(&self) -> usize {
        self.outline.vocab_size()
    }

    /// Tokens a sequence may hold at most.
    pub fn context(&self) -> usize {
        self.outline.context()
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
        self.outline.graph(tokens, rows)
    }

    /// What is known of the model without its weights.
    pub fn outline(&self) -> &Outline {
        &self.outline
    }

    /// The graph of `tokens` tokens of whole sequences with its `loss`.
    pub fn training_graph(&self, tokens: usize) -> Result<Graph> {
        self.outline.training_graph(tokens)
    }

    /// The graph for `tokens` tokens and its plan, without reading a weight.
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
            *packing = Packing::new(&self.cpu, &program.graph, &self.weights).ok().flatten();
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

    /// Lets the weights that `residency` does not keep leave memory after each use, before anything is run.
    pub fn stream(&self, residency: &Residency) {
        for tensor in residency.streamed.iter().filter_map(|name| self.weights.get(name)) {
            tensor.stream();
        }
    }

    /// Bytes of the keys and values of `context` tokens.
    pub fn state_bytes(&self, context: usize) -> Result<u128> {
        Ok(cache::bytes(&self.program(1, 1)?.graph.states, self.options.kv, 1, context))
    }

    /// What runs hold that read prompts of up to `prompt` tokens, for so many sequences at a time.
    pub fn footprint(&self, prompt: usize, sequences: usize) -> Result<Footprint> {
        self.outline.footprint(&self.cpu, &self.options, prompt, sequences)
    }
}
