//! What a model's header tells: enough for every graph of it and every byte of its runs, with no weight read.

use crate::memory::{self, Budget};
use crate::pages::held;
use crate::{CHUNK, Error, Options, Result};
use hob_cpu::{Cpu, KvTypes, Precision, kv, packing};
use hob_graph::graph::State;
use hob_graph::{DType, Graph, Plan};
use hob_io::Checkpoint;
use hob_models::Language;
use std::collections::HashMap;
use std::sync::Arc;

/// Format and dimensions of a stored tensor, by its name.
type Stored = dyn Fn(&str) -> Option<(DType, Vec<usize>)> + Send + Sync;

/// A model without its weights.
pub struct Outline {
    /// what errors call it
    name: String,
    language: Box<dyn Language>,
    stored: Box<Stored>,
    /// bytes that are read to open it
    header: usize,
}

impl Outline {
    /// Of a checkpoint, of which the header alone may be at hand. Checks that every weight is there with the right
    /// dimensions.
    pub fn of(checkpoint: &Arc<Checkpoint>) -> Result<Outline> {
        let name = checkpoint.path.display().to_string();
        // Each layer has weights of its own; a graph of more layers would only cost memory before it fails.
        let (layers, tensors) = (&checkpoint.config["num_hidden_layers"], checkpoint.tensors.len());
        if layers.as_u64().is_some_and(|n| n > tensors as u64) {
            return Err(Error::Ask(format!(
                "{name} cannot be run: it has {tensors} tensors for {layers} layers"
            )));
        }
        let language = hob_models::language(&checkpoint.config)
            .map_err(|source| Error::Config { model: name.clone(), source })?;
        let header = checkpoint.header_bytes() as usize;
        let checkpoint = checkpoint.clone();
        let stored = move |name: &str| checkpoint.tensors.get(name).map(|t| (t.dtype, t.shape.clone()));
        let outline = Outline { name, language, stored: Box::new(stored), header };
        outline.graph(1, 1)?;
        Ok(outline)
    }

    /// Of a configuration (config.json's content), each weight stored in the format that `dtype` gives for its name and
    /// dimensions. `header` is the bytes that such a model's file has beside its weights.
    pub fn imagined(
        name: &str,
        config: &serde_json::Value,
        header: usize,
        dtype: impl Fn(&str, &[usize]) -> DType,
    ) -> Result<Outline> {
        let name = name.to_string();
        let language =
            hob_models::language(config).map_err(|source| Error::Config { model: name.clone(), source })?;
        let fail = |source| Error::Graph { model: name.clone(), source };
        let graph = language.graph(1, 1).map_err(fail)?;
        let stored: HashMap<String, (DType, Vec<usize>)> = graph
            .weights
            .iter()
            .map(|w| (w.name.clone(), (dtype(&w.name, &w.shape), w.shape.to_vec())))
            .collect();
        let stored = Box::new(move |name: &str| stored.get(name).cloned());
        let outline = Outline { name, language, stored, header };
        outline.graph(1, 1)?;
        Ok(outline)
    }

    /// Tokens the model knows.
    pub fn vocab_size(&self) -> usize {
        self.language.vocab_size()
    }

    /// Tokens a sequence may hold at most.
    pub fn context(&self) -> usize {
        self.language.context()
    }

    /// The graph for `tokens` tokens with logits for `rows` of them, bound to how the weights are stored.
    pub fn graph(&self, tokens: usize, rows: usize) -> Result<Graph> {
        self.bound(self.language.graph(tokens, rows))
    }

    /// The graph of `tokens` tokens of whole sequences with its `loss`; see [`Language::training_graph`].
    pub fn training_graph(&self, tokens: usize) -> Result<Graph> {
        self.bound(self.language.training_graph(tokens))
    }

    fn bound(&self, graph: Result<Graph, hob_graph::GraphError>) -> Result<Graph> {
        let fail = |source| Error::Graph { model: self.name.clone(), source };
        let mut graph = graph.map_err(fail)?;
        graph.bind(&self.stored).map_err(fail)?;
        Ok(graph)
    }

    /// What runs on `cpu` hold that read prompts of up to `prompt` tokens, for so many sequences at a time.
    pub fn footprint(
        &self,
        cpu: &Cpu,
        options: &Options,
        prompt: usize,
        sequences: usize,
    ) -> Result<Footprint> {
        let mut sizes = vec![(sequences, sequences), (prompt.clamp(1, CHUNK), 1)];
        if prompt > CHUNK && !prompt.is_multiple_of(CHUNK) {
            sizes.push((prompt % CHUNK, 1));
        }
        sizes.dedup();
        let mut fixed = Budget { model: self.header, ..Budget::default() };
        let (mut arena, mut scratch, mut states, mut rows) = (0, 0, Vec::new(), 0);
        for &(tokens, asked) in &sizes {
            let graph = self.graph(tokens, asked)?;
            let plan = Plan::new(&graph, cpu);
            (fixed.weights, fixed.copies) = plan.weight_bytes(&graph);
            if !options.mapped {
                fixed.weights += packing::growth(cpu, &graph);
            }
            arena = arena.max(plan.arena);
            scratch = scratch.max(plan.scratch);
            fixed.model += graph.heap_bytes();
            rows = memory::read_by_rows(&graph);
            states = graph.states;
        }
        fixed.activations = arena + scratch;
        if !options.mapped && options.precision == Precision::Fast {
            fixed.activations += packing::PART;
        }
        Ok(Footprint { fixed, states, kv: options.kv, sequences, rows })
    }
}

/// What a run holds, but for how far its context reaches.
pub struct Footprint {
    fixed: Budget,
    states: Vec<State>,
    kv: KvTypes,
    sequences: usize,
    /// bytes of weights of which only the tokens' rows are read
    rows: usize,
}

impl Footprint {
    /// The same beside a process of `process` bytes, whose tokenizer holds `tokenizer` bytes.
    pub fn beside(mut self, process: usize, tokenizer: usize) -> Footprint {
        self.fixed.process = process;
        self.fixed.model += tokenizer;
        self
    }

    /// What is held when each sequence has reached `reached` tokens.
    pub fn at(&self, reached: usize) -> Budget {
        let state = self.state_bytes(reached);
        let weights = self.fixed.weights - memory::unread(self.rows, reached.saturating_mul(self.sequences));
        Budget { state: usize::try_from(state).unwrap_or(usize::MAX), weights, ..self.fixed }
    }

    /// Bytes of keys and values, all sequences together.
    fn state_bytes(&self, reached: usize) -> u128 {
        kv::bytes(&self.states, self.kv, |window| held(window, reached)) * self.sequences as u128
    }

    /// The longest context, up to `most`, with which all is held in `bytes`; `None` where not even one token is.
    pub fn longest(&self, bytes: usize, most: usize) -> Option<usize> {
        let fits = |reached: usize| self.at(reached).total() <= bytes;
        if most == 0 || !fits(1) {
            return None;
        }
        let (mut fine, mut over) = (1, most + 1); // the bytes grow with the context
        while over - fine > 1 {
            let middle = fine + (over - fine) / 2;
            if fits(middle) { fine = middle } else { over = middle }
        }
        Some(fine)
    }
}
