//! The graph: an arena of nodes in an order that can be run, with the weights, inputs, constants and state it names.

use crate::infer::{Operand, infer};
use crate::op::{ConstId, InputId, Op, StateId, WeightId};
use crate::shape::Shape;
use hob_dtype::DType;
use std::collections::HashMap;
use std::fmt;
use std::panic::Location;

/// A node of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

impl NodeId {
    /// The node's place in [`Graph::nodes`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One op applied to earlier nodes.
#[derive(Clone, Debug)]
pub struct Node {
    /// what is done
    pub op: Op,
    /// to which nodes, all before this one
    pub inputs: Vec<NodeId>,
    /// the result's dimensions
    pub shape: Shape,
    /// F32 or I32; for a weight F32, as its stored format is in [`Weight`]
    pub dtype: DType,
    /// the line of the model file that asked for it
    pub at: &'static Location<'static>,
}

/// A weight by its name in the original checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    /// path in the original checkpoint, such as `model.layers.0.mlp.up_proj.weight`
    pub name: String,
    /// dimensions the model file asks for
    pub shape: Shape,
    /// how it is stored; F32 until [`Graph::bind`]
    pub dtype: DType,
}

impl Weight {
    /// Bytes as stored.
    pub fn bytes(&self) -> usize {
        self.dtype.bytes(self.shape.count()).expect("bound weights are whole blocks")
    }
}

/// A tensor given at run time.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Input {
    pub name: String,
    pub shape: Shape,
    pub dtype: DType,
}

/// Keys and values of one attention layer, kept in pages from run to run.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// key heads
    pub heads: usize,
    /// numbers per head
    pub dim: usize,
    /// tokens a later token can look back, itself included; all when `None`
    pub window: Option<usize>,
}

/// The windows of `states`, each once, in the order of their first use. States of one window share their pages: what one
/// of them no longer looks back to, none does.
pub fn windows(states: &[State]) -> Vec<Option<usize>> {
    let mut windows = Vec::new();
    for s in states {
        if !windows.contains(&s.window) {
            windows.push(s.window);
        }
    }
    windows
}

/// Ops in an order that can be run: a node's operands come before it.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct Graph {
    pub nodes: Vec<Node>,
    pub weights: Vec<Weight>,
    pub inputs: Vec<Input>,
    pub consts: Vec<Vec<f32>>,
    pub states: Vec<State>,
    pub outputs: Vec<(String, NodeId)>,
    by_name: HashMap<String, WeightId>,
}

/// What is wrong with a graph, and where the model file says so.
#[derive(Clone, Debug, PartialEq)]
pub struct GraphError {
    /// the sentence
    pub message: String,
    /// file and line that asked for the op, when one did
    pub at: Option<&'static Location<'static>>,
}

impl fmt::Display for GraphError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match self.at {
            Some(at) => write!(f, " ({}:{})", at.file(), at.line()),
            None => Ok(()),
        }
    }
}

impl std::error::Error for GraphError {}

impl Graph {
    /// The node behind an id.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// The output called `name`.
    pub fn output(&self, name: &str) -> Option<NodeId> {
        self.outputs.iter().find(|(n, _)| n == name).map(|o| o.1)
    }

    /// The weight called `name`.
    pub fn weight(&self, name: &str) -> Option<WeightId> {
        self.by_name.get(name).copied()
    }

    /// Whether node `id` is a weight, and which.
    pub fn as_weight(&self, id: NodeId) -> Option<WeightId> {
        match self.node(id).op {
            Op::Weight(w) => Some(w),
            _ => None,
        }
    }

    /// Appends an op; its shape follows by the op's rule (see [`infer`] for `wanted`).
    pub fn push(
        &mut self,
        op: Op,
        inputs: &[NodeId],
        wanted: Option<Shape>,
        at: &'static Location<'static>,
    ) -> Result<NodeId, GraphError> {
        // The same leaf twice is one node: every layer asks for the positions.
        if matches!(op, Op::Input(_) | Op::Positions | Op::Mask { .. }) {
            let same = |n: &Node| n.op == op && wanted == Some(n.shape);
            if let Some(i) = self.nodes.iter().position(same) {
                return Ok(NodeId(i as u32));
            }
        }
        let operands: Vec<Operand> = inputs
            .iter()
            .map(|&i| {
                let n = self.node(i);
                Operand { shape: n.shape, dtype: n.dtype, stored: matches!(n.op, Op::Weight(_)) }
            })
            .collect();
        let (shape, mut dtype) = infer(&op, &operands, wanted)
            .map_err(|e| GraphError { message: format!("[{}] {e}", op.name()), at: Some(at) })?;
        if let Op::Input(i) = op {
            dtype = self.inputs[i.0 as usize].dtype;
        }
        Ok(self.append(Node { op, inputs: inputs.to_vec(), shape, dtype, at }))
    }

    fn append(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        NodeId(self.nodes.len() as u32 - 1)
    }

    /// The weight `name`, named for the first time or again with the same shape.
    pub(crate) fn name_weight(&mut self, name: &str, shape: Shape) -> Result<WeightId, String> {
        if let Some(&id) = self.by_name.get(name) {
            let known = self.weights[id.0 as usize].shape;
            return if known == shape { Ok(id) } else { Err(format!("{name} is {known} and {shape}")) };
        }
        let id = WeightId(self.weights.len() as u32);
        self.weights.push(Weight { name: name.into(), shape, dtype: DType::F32 });
        self.by_name.insert(name.into(), id);
        Ok(id)
    }

    pub(crate) fn name_input(&mut self, name: &str, shape: Shape, dtype: DType) -> Result<InputId, String> {
        if let Some(i) = self.inputs.iter().position(|i| i.name == name) {
            let known = &self.inputs[i];
            let same = known.shape == shape && known.dtype == dtype;
            return if same {
                Ok(InputId(i as u32))
            } else {
                Err(format!("input {name} is {}", known.shape))
            };
        }
        self.inputs.push(Input { name: name.into(), shape, dtype });
        Ok(InputId(self.inputs.len() as u32 - 1))
    }

    pub(crate) fn add_const(&mut self, data: Vec<f32>) -> ConstId {
        self.consts.push(data);
        ConstId(self.consts.len() as u32 - 1)
    }

    pub(crate) fn add_state(&mut self, state: State) -> StateId {
        self.states.push(state);
        StateId(self.states.len() as u32 - 1)
    }

    /// Tells how each weight is stored. `stored` answers format and dimensions by name.
    /// Errors name the weight that is missing or has other dimensions than the model file asks for.
    pub fn bind(&mut self, stored: impl Fn(&str) -> Option<(DType, Vec<usize>)>) -> Result<(), GraphError> {
        for w in &mut self.weights {
            let fail = |message: String| GraphError { message, at: None };
            let (dtype, dims) =
                stored(&w.name).ok_or_else(|| fail(format!("the checkpoint lacks the tensor {}", w.name)))?;
            // A kernel or vector may be stored with leading or trailing ones.
            let squeeze = |d: &[usize]| d.iter().copied().filter(|&d| d != 1).collect::<Vec<_>>();
            if squeeze(&dims) != squeeze(&w.shape) {
                let found = dims.iter().map(|d| d.to_string()).collect::<Vec<_>>().join(", ");
                return Err(fail(format!(
                    "the tensor {} is ({found}) in the checkpoint, where the configuration asks for {}",
                    w.name, w.shape
                )));
            }
            // Blocks may run on from row to row (picture models in GGUF); such weights are decoded.
            if !w.shape.count().is_multiple_of(dtype.block()) {
                return Err(fail(format!(
                    "{} holds {} values, no whole number of {dtype} blocks",
                    w.name,
                    w.shape.count()
                )));
            }
            w.dtype = dtype;
        }
        Ok(())
    }

    /// The weights, inputs, constants and states without the nodes: where a rewrite begins.
    pub fn emptied(&self) -> Graph {
        Graph { nodes: Vec::new(), outputs: Vec::new(), ..self.clone() }
    }

    /// Memory the graph itself holds, in bytes, closely.
    pub fn heap_bytes(&self) -> usize {
        let nodes = self.nodes.len() * size_of::<Node>();
        let inputs: usize = self.nodes.iter().map(|n| n.inputs.len().next_multiple_of(4) * 4 + 16).sum();
        let weights: usize = self.weights.iter().map(|w| size_of::<Weight>() + 3 * w.name.len() + 64).sum();
        let consts: usize = self.consts.iter().map(|c| c.len() * 4).sum();
        nodes + inputs + weights + consts
    }

    /// Which nodes the outputs need.
    pub fn live(&self) -> Vec<bool> {
        let mut live = vec![false; self.nodes.len()];
        for (_, id) in &self.outputs {
            live[id.index()] = true;
        }
        for i in (0..self.nodes.len()).rev() {
            if live[i] {
                for input in &self.nodes[i].inputs {
                    live[input.index()] = true;
                }
            }
        }
        live
    }
}
