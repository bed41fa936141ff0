//! Convolutional models against goldens: their folders, their graphs run, and what every layer gave.

use crate::golden::{Arrays, facts, folder};
use hob_cpu::exec::Memory;
use hob_cpu::{Cpu, Precision, Tensor, Weights};
use hob_graph::{Batch, Builder, Data, Graph, NodeId, Op};
use hob_io::Checkpoint;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

/// A folder of `tests/golden` with a model and what it gave.
pub struct Golden {
    pub name: String,
    pub checkpoint: Checkpoint,
    pub weights: Weights,
    pub arrays: Arrays,
}

impl Golden {
    /// Of `tests/golden/NAME`, with the weights in FILE; `rename` says a tensor's name in the graph.
    pub fn open(name: &str, file: &str, rename: impl Fn(&str) -> String) -> Golden {
        let mut checkpoint = Checkpoint::open(&folder(name).join(file)).unwrap();
        checkpoint.tensors = checkpoint.tensors.iter().map(|(name, t)| (rename(name), t.clone())).collect();
        let mut weights = Weights::default();
        for (name, t) in &checkpoint.tensors {
            let bytes: Arc<Vec<u8>> = Arc::new(checkpoint.bytes(t).to_vec());
            let len = bytes.len();
            weights.insert(name, Tensor::shared(t.dtype, bytes, 0..len));
        }
        Golden { name: name.into(), checkpoint, weights, arrays: Arrays::open(name, "golden") }
    }

    /// The same of a diffusers folder.
    pub fn diffusers(name: &str) -> Golden {
        Golden::open(name, "diffusion_pytorch_model.safetensors", str::to_string)
    }

    /// Its config.json.
    pub fn config(&self) -> Value {
        serde_json::from_slice(&std::fs::read(folder(&self.name).join("config.json")).unwrap()).unwrap()
    }

    /// The graph with this checkpoint's formats.
    pub fn bind(&self, mut graph: Graph) -> Graph {
        graph.bind(|n| self.checkpoint.tensors.get(n).map(|t| (t.dtype, t.shape.clone()))).unwrap();
        graph
    }

    /// All outputs of a graph, by name.
    pub fn run(&self, graph: Graph, inputs: &[(&str, Vec<f32>)]) -> HashMap<String, Vec<f32>> {
        let mut cpu = Cpu::new(2, Precision::Exact);
        cpu.check = true;
        let program = cpu.program(self.bind(graph), &self.weights).unwrap();
        let mut memory = Memory::new();
        let inputs: Vec<_> = inputs.iter().map(|(n, x)| (*n, Data::F32(x))).collect();
        cpu.run(&program, &mut memory, None, &Batch { inputs: &inputs, seqs: &[] }).unwrap();
        let outputs = program.graph.outputs.iter();
        outputs.map(|(n, _)| (n.clone(), program.output(&memory, n).unwrap().to_vec())).collect()
    }

    /// The golden's arrays of these names.
    pub fn inputs<'n>(&self, names: &[&'n str]) -> Vec<(&'n str, Vec<f32>)> {
        names.iter().map(|n| (*n, self.arrays.get(n))).collect()
    }

    /// Asserts that `found` is the golden's `name`, but for a part in 10,000 of the largest.
    pub fn same(&self, found: &[f32], name: &str) {
        near(found, &self.arrays.get(name), &format!("{} of {}", name, self.name));
    }

    /// The graph with the results of all layers of the golden that are in it as outputs more, each under its name.
    pub fn traced(&self, graph: Graph, rename: impl Fn(&str) -> String) -> Graph {
        let layers = self.layers();
        let node = |l: &String| Some((l.clone(), layer(&graph, &rename(&format!("{l}.weight")))?));
        let found: Vec<_> = layers.iter().filter_map(node).collect();
        let g = Builder::over(graph);
        for (name, id) in found {
            g.output(&name, g.at(id));
        }
        g.finish().unwrap()
    }

    /// The names of the golden's layers.
    pub fn layers(&self) -> Vec<String> {
        let facts = facts(&self.name);
        facts["layers"].as_array().unwrap().iter().map(|l| l.as_str().unwrap().to_string()).collect()
    }

    /// Asserts that the layers among `outputs` gave what the golden's did, and says how many there were.
    pub fn same_layers(&self, outputs: &HashMap<String, Vec<f32>>) -> usize {
        let (layers, digests) = (self.layers(), self.arrays.get("layers"));
        let columns = digests.len() / layers.len();
        let of = |i: usize| (&layers[i], &digests[i * columns..(i + 1) * columns]);
        let found = (0..layers.len()).filter(|&i| outputs.contains_key(&layers[i]));
        found.map(of).map(|(name, digest)| self.same_layer(&outputs[name], name, digest)).count()
    }

    /// A digest holds the largest, the sum, and numbers from the first to the last.
    fn same_layer(&self, found: &[f32], name: &str, digest: &[f32]) {
        let (largest, samples) = (digest[0], &digest[2..]);
        let at = |k: usize| found[k * (found.len() - 1) / (samples.len() - 1)];
        for (k, &sample) in samples.iter().enumerate() {
            let (x, i) = (at(k), k * (found.len() - 1) / (samples.len() - 1));
            assert!(
                (x - sample).abs() <= 1e-4 * largest,
                "{}: {name} is {x} at {i}, not {sample}; the largest is {largest}",
                self.name
            );
        }
        let sum: f64 = found.iter().map(|&x| x as f64).sum();
        let allowed = 1e-4 * largest as f64 * found.len() as f64;
        assert!((sum - digest[1] as f64).abs() <= allowed, "{}: {name} adds up to {sum}", self.name);
    }
}

/// The node that a layer of the checkpoint is: that which its weight is an operand of.
fn layer(graph: &Graph, weight: &str) -> Option<NodeId> {
    let weight = graph.weight(weight)?;
    let is_weight = |id: &NodeId| graph.node(*id).op == Op::Weight(weight);
    let at = graph.nodes.iter().position(|n| n.inputs.get(1).is_some_and(is_weight))?;
    Some(NodeId(at as u32))
}

/// Asserts that two arrays are the same, but for a part in 10,000 of the largest.
pub fn near(found: &[f32], wanted: &[f32], what: &str) {
    let largest = wanted.iter().fold(0f32, |m, x| m.max(x.abs()));
    let d = crate::golden::largest_difference(found, wanted);
    assert!(d <= 1e-4 * largest, "{what} differs by {d}, and its largest is {largest}");
}
