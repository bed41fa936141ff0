//! One network of a picture model: its weights where they lie, and the program made last.

use crate::lora::Updates;
use crate::stored::{OfPart, shared};
use crate::{Error, Result};
use hob_cpu::exec::Memory;
use hob_cpu::{Cpu, Program, Weights};
use hob_graph::scale::scaled;
use hob_graph::{Batch, Data, Graph, GraphError, Plan, Shape};
use hob_io::Pipeline;
use hob_io::pipeline::Role;
use std::collections::HashSet;
use std::sync::Arc;

/// A network that runs for one phase of a picture; dropped, it leaves no memory of its own.
pub struct Network {
    pipeline: Arc<Pipeline>,
    role: Role,
    weights: Weights,
    updates: Updates,
    /// it is not for planning alone
    reads: bool,
    program: Option<(Option<[usize; 4]>, Program)>,
    memory: Memory,
}

impl Network {
    /// The part of a role, with what LoRAs change of it.
    ///
    /// # Errors
    /// The part is missing, a LoRA does not fit it, or the system grants no memory for merged weights.
    pub fn new(pipeline: &Arc<Pipeline>, role: Role, updates: &Updates, cpu: &Cpu) -> Result<Network> {
        let part = pipeline.need(role).map_err(|e| Error::Ask(e.to_string()))?;
        let mut weights = Weights::default();
        let files = Arc::new(OfPart(pipeline.clone(), role));
        for (name, tensor) in &part.tensors {
            weights.insert(name, shared(&files, tensor));
        }
        // What was merged is not read from the file again.
        let done = |name: &str| part.tensors.get(name).into_iter().for_each(|t| part.forget(t, 0..t.len));
        let updates = updates.clone().merge_told(cpu, &mut weights, &done)?;
        updates.add_to(&mut weights);
        let (mut network, _) = Network::outline(pipeline, role, &Updates::default())?;
        (network.weights, network.updates, network.reads) = (weights, updates, true);
        Ok(network)
    }

    /// The same for planning alone: it has no weights, and nothing is merged. And the names of weights that would be.
    ///
    /// # Errors
    /// The part is missing.
    pub fn outline(
        pipeline: &Arc<Pipeline>,
        role: Role,
        updates: &Updates,
    ) -> Result<(Network, HashSet<String>)> {
        let part = pipeline.need(role).map_err(|e| Error::Ask(e.to_string()))?;
        let (updates, merged) = updates.sorted(|name| part.tensors.get(name).map(|t| t.dtype));
        let (pipeline, weights, memory) = (pipeline.clone(), Weights::default(), Memory::new());
        Ok((Network { pipeline, role, weights, updates, reads: false, program: None, memory }, merged))
    }

    /// Lets these weights leave memory after each use.
    pub fn stream<'a>(&self, names: impl IntoIterator<Item = &'a String>) {
        names.into_iter().filter_map(|name| self.weights.get(name)).for_each(|tensor| tensor.stream());
    }

    /// The graph bound to how the weights are stored.
    pub fn bound(&self, graph: std::result::Result<Graph, GraphError>) -> Result<Graph> {
        let part = self.pipeline.need(self.role).map_err(|e| Error::Ask(e.to_string()))?;
        let fail = |source| Error::Graph { model: part.path().display().to_string(), source };
        let stored = |name: &str| part.tensors.get(name).map(|t| (t.dtype, t.shape.clone()));
        let mut graph = graph.map_err(fail)?;
        match self.updates.is_empty() {
            true => graph.bind(stored).map_err(fail)?,
            false => graph = self.updates.bind(&graph, stored)?,
        }
        // After the LoRAs, whose own weights have no scale.
        match part.scales.is_empty() {
            true => Ok(graph),
            false => scaled(&graph, |name| part.scales.get(name).copied()).map_err(fail),
        }
    }

    /// Bytes that a run of a bound graph works in.
    pub fn work(&self, cpu: &Cpu, graph: &Graph) -> usize {
        let plan = Plan::new(graph, cpu);
        plan.arena + plan.scratch + graph.heap_bytes()
    }

    /// Runs the graph for `key`, which is made where the last run had another, and copies `outputs`.
    ///
    /// # Errors
    /// Weights of the graph are missing or of other sizes; memory.
    pub fn run<const N: usize>(
        &mut self,
        cpu: &Cpu,
        key: [usize; 4],
        graph: impl FnOnce() -> std::result::Result<Graph, GraphError>,
        inputs: &[(&str, Data)],
        outputs: [&str; N],
    ) -> Result<[Vec<f32>; N]> {
        self.ran(cpu, key, graph, inputs)?;
        let (_, program) = self.program.as_ref().expect("it ran");
        Ok(outputs.map(|name| program.output(&self.memory, name).map_or_else(Vec::new, <[f32]>::to_vec)))
    }

    /// The same for [`Network::outputs`], and copies nothing.
    pub fn ran(
        &mut self,
        cpu: &Cpu,
        key: [usize; 4],
        graph: impl FnOnce() -> std::result::Result<Graph, GraphError>,
        inputs: &[(&str, Data)],
    ) -> Result<()> {
        if self.program.as_ref().is_none_or(|(last, _)| *last != Some(key)) {
            self.load(cpu, graph())?;
            self.program.as_mut().expect("made above").0 = Some(key);
        }
        self.step(cpu, inputs)
    }

    /// Makes the program of a graph, for [`Network::step`].
    pub fn load(&mut self, cpu: &Cpu, graph: std::result::Result<Graph, GraphError>) -> Result<()> {
        self.rest(); // what the last one worked in is not what this one needs
        self.program = Some((None, cpu.program(self.bound(graph)?, &self.weights)?));
        Ok(())
    }

    /// Runs the program made last.
    pub fn step(&mut self, cpu: &Cpu, inputs: &[(&str, Data)]) -> Result<()> {
        let (_, program) = self.program.as_ref().expect("a program is made first");
        Ok(cpu.run(program, &mut self.memory, None, &Batch { inputs, seqs: &[] })?)
    }

    /// What the last run gave out, where it lies: names, dimensions, numbers.
    pub fn outputs(&self) -> impl Iterator<Item = (&str, Shape, &[f32])> {
        self.program.iter().flat_map(move |(_, program)| {
            let graph = &program.graph;
            graph.outputs.iter().map(move |(name, id)| {
                let data = program.output(&self.memory, name).unwrap_or_default();
                (name.as_str(), graph.node(*id).shape, data)
            })
        })
    }

    /// Lets go of the memory that runs work in, and of the program.
    pub fn rest(&mut self) {
        (self.program, self.memory) = (None, Memory::new());
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Some(part) = self.pipeline.part(self.role).filter(|_| self.reads) {
            part.tensors.values().for_each(|tensor| part.forget(tensor, 0..tensor.len));
        }
    }
}
