//! One network of a picture model: its weights where they lie, and the program made last.

use crate::lora::Updates;
use crate::{Error, Result};
use hob_cpu::exec::Memory;
use hob_cpu::{Cpu, Program, Tensor, Weights};
use hob_graph::scale::scaled;
use hob_graph::{Batch, Data, Graph, GraphError, Plan};
use hob_io::Pipeline;
use hob_io::pipeline::{Part, Role};
use std::ops::Range;
use std::sync::Arc;

/// A network that runs for one phase of a picture; dropped, it leaves no memory of its own.
pub struct Network {
    pipeline: Arc<Pipeline>,
    role: Role,
    weights: Weights,
    updates: Updates,
    program: Option<([usize; 4], Program)>,
    memory: Memory,
}

/// One stored tensor, for the backend to share with the mapped file.
struct Stored {
    pipeline: Arc<Pipeline>,
    role: Role,
    tensor: hob_io::Tensor,
}

impl Stored {
    fn part(&self) -> &Part {
        self.pipeline.part(self.role).expect("the part was there when its tensors were shared")
    }
}

impl hob_cpu::Source for Stored {
    fn forget(&self, part: Range<usize>) {
        self.part().forget(&self.tensor, part);
    }

    fn fetch(&self, _: Range<usize>) {
        self.part().fetch(&self.tensor);
    }
}

impl AsRef<[u8]> for Stored {
    fn as_ref(&self) -> &[u8] {
        self.part().bytes(&self.tensor)
    }
}

impl Network {
    /// The part of a role, with what LoRAs change of it.
    ///
    /// # Errors
    /// The part is missing, a LoRA does not fit it, or the system grants no memory for merged weights.
    pub fn new(pipeline: &Arc<Pipeline>, role: Role, updates: &Updates, cpu: &Cpu) -> Result<Network> {
        let part = pipeline.need(role).map_err(|e| Error::Ask(e.to_string()))?;
        let mut weights = Weights::default();
        for (name, tensor) in &part.tensors {
            let owner = Stored { pipeline: pipeline.clone(), role, tensor: tensor.clone() };
            weights.insert(name, Tensor::shared(tensor.dtype, Arc::new(owner), 0..tensor.len));
        }
        let updates = updates.clone().merge(cpu, &mut weights)?;
        updates.add_to(&mut weights);
        let (pipeline, memory) = (pipeline.clone(), Memory::new());
        Ok(Network { pipeline, role, weights, updates, program: None, memory })
    }

    /// The graph bound to how the weights are stored.
    fn bound(&self, graph: std::result::Result<Graph, GraphError>) -> Result<Graph> {
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

    /// What a run of `graph` takes: bytes of weights as stored, and of memory to work in.
    pub fn plan(&self, cpu: &Cpu, graph: std::result::Result<Graph, GraphError>) -> Result<(usize, usize)> {
        let graph = self.bound(graph)?;
        let plan = Plan::new(&graph, cpu);
        let weights = graph.weights.iter().map(|w| w.bytes()).sum();
        Ok((weights, plan.arena + plan.scratch + graph.consts.iter().map(|c| 4 * c.len()).sum::<usize>()))
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

    /// The same with all outputs, by name.
    pub fn run_all(
        &mut self,
        cpu: &Cpu,
        key: [usize; 4],
        graph: impl FnOnce() -> std::result::Result<Graph, GraphError>,
        inputs: &[(&str, Data)],
    ) -> Result<Vec<(String, Vec<f32>)>> {
        self.ran(cpu, key, graph, inputs)?;
        let (_, program) = self.program.as_ref().expect("it ran");
        let outputs = program.graph.outputs.iter();
        let copy = |name: &str| program.output(&self.memory, name).map_or_else(Vec::new, <[f32]>::to_vec);
        Ok(outputs.map(|(name, _)| (name.clone(), copy(name))).collect())
    }

    fn ran(
        &mut self,
        cpu: &Cpu,
        key: [usize; 4],
        graph: impl FnOnce() -> std::result::Result<Graph, GraphError>,
        inputs: &[(&str, Data)],
    ) -> Result<()> {
        if self.program.as_ref().is_none_or(|(last, _)| *last != key) {
            self.program = None;
            self.program = Some((key, cpu.program(self.bound(graph())?, &self.weights)?));
        }
        let (_, program) = self.program.as_ref().expect("made above");
        Ok(cpu.run(program, &mut self.memory, None, &Batch { inputs, seqs: &[] })?)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Some(part) = self.pipeline.part(self.role) {
            part.tensors.values().for_each(|tensor| part.forget(tensor, 0..tensor.len));
        }
    }
}
