//! The plan: what runs in which order and where every byte lies, known before a weight is read.

use crate::graph::{Graph, NodeId};
use crate::op::{ConstId, InputId, Op, WeightId};
use hob_dtype::DType;

/// Every buffer begins at a multiple of this many bytes: a cache line, and the widest vector.
pub const ALIGN: usize = 64;

/// Where a node's numbers lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// no output needs the node
    Nowhere,
    /// at this offset of the arena
    Arena(usize),
    /// in the weight
    Weight(WeightId),
    /// in what the run is given
    Input(InputId),
    /// in the graph itself
    Const(ConstId),
}

/// How a weight is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// as the file has it
    Stored,
    /// as a copy in f32, since an op needs the numbers themselves (norms, biases)
    Decoded,
}

/// What a backend needs beside its operands.
pub trait Scratch {
    /// Bytes of working memory while node `id` runs, all threads together.
    fn bytes(&self, graph: &Graph, id: NodeId) -> usize;
}

/// A backend that needs nothing and has nothing: for planning with neither weights nor device.
pub struct Null;

impl Scratch for Null {
    fn bytes(&self, _: &Graph, _: NodeId) -> usize {
        0
    }
}

/// Order, places and sizes of one graph's run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// nodes that compute something, in order
    pub steps: Vec<NodeId>,
    /// by node
    pub places: Vec<Place>,
    /// by weight
    pub homes: Vec<Home>,
    /// bytes of the arena
    pub arena: usize,
    /// bytes of working memory: the largest any step needs
    pub scratch: usize,
}

struct Buffer {
    node: usize,
    bytes: usize,
    born: usize,
    dies: usize,
}

impl Plan {
    /// Plans `graph` for a backend.
    pub fn new(graph: &Graph, backend: &dyn Scratch) -> Plan {
        let live = graph.live();
        let mut places = vec![Place::Nowhere; graph.nodes.len()];
        let mut root: Vec<usize> = (0..graph.nodes.len()).collect();
        let mut buffers: Vec<Buffer> = Vec::new();
        let mut buffer_of = vec![usize::MAX; graph.nodes.len()];
        let mut steps = Vec::new();
        let mut scratch = 0;
        for (i, n) in graph.nodes.iter().enumerate() {
            if !live[i] {
                continue;
            }
            match n.op {
                Op::Input(id) => places[i] = Place::Input(id),
                Op::Weight(id) => places[i] = Place::Weight(id),
                Op::Const(id) => places[i] = Place::Const(id),
                Op::Reshape => root[i] = root[n.inputs[0].index()],
                _ => {
                    buffer_of[i] = buffers.len();
                    let (bytes, born) = ((n.shape.count() * 4).next_multiple_of(ALIGN), steps.len());
                    buffers.push(Buffer { node: i, bytes, born, dies: born });
                    let id = NodeId(i as u32);
                    scratch = scratch.max(backend.bytes(graph, id));
                    steps.push(id);
                }
            }
            let now = steps.len().saturating_sub(1);
            for input in &n.inputs {
                if let Some(b) = buffers.get_mut(buffer_of[root[input.index()]]) {
                    b.dies = b.dies.max(now);
                }
            }
        }
        for (_, id) in &graph.outputs {
            if let Some(b) = buffers.get_mut(buffer_of[root[id.index()]]) {
                b.dies = steps.len();
            }
        }
        let arena = lay_out(&mut buffers, &mut places);
        for i in 0..places.len() {
            if live[i] {
                places[i] = places[root[i]];
            }
        }
        Plan { steps, places, homes: homes(graph, &live, &root), arena, scratch }
    }

    /// Bytes of weights as stored, and of decoded copies.
    pub fn weight_bytes(&self, graph: &Graph) -> (usize, usize) {
        let stored = graph.weights.iter().map(|w| w.bytes()).sum();
        let decoded = graph.weights.iter().zip(&self.homes).filter(|(_, h)| **h == Home::Decoded);
        (stored, decoded.map(|(w, _)| w.shape.count() * 4).sum())
    }
}

/// Gives each buffer an offset: the largest first, each into the lowest gap that is free while it lives.
/// Returns the arena's size.
fn lay_out(buffers: &mut [Buffer], places: &mut [Place]) -> usize {
    buffers.sort_by(|a, b| b.bytes.cmp(&a.bytes).then(a.born.cmp(&b.born)));
    let mut laid: Vec<(usize, usize, usize)> = Vec::with_capacity(buffers.len()); // offset, end, index; by offset
    let mut arena = 0;
    for i in 0..buffers.len() {
        let b = &buffers[i];
        let mut offset = 0;
        for &(start, end, j) in &laid {
            let meets = buffers[j].born <= b.dies && b.born <= buffers[j].dies;
            if !meets {
                continue;
            }
            if start >= offset + b.bytes {
                break;
            }
            offset = offset.max(end);
        }
        let at = laid.partition_point(|l| l.0 <= offset);
        laid.insert(at, (offset, offset + b.bytes, i));
        arena = arena.max(offset + b.bytes);
        places[b.node] = Place::Arena(offset);
    }
    arena
}

/// A weight is decoded when an op that does not read stored formats uses it, itself or reshaped.
fn homes(graph: &Graph, live: &[bool], root: &[usize]) -> Vec<Home> {
    let mut homes = vec![Home::Stored; graph.weights.len()];
    for (n, _) in graph.nodes.iter().zip(live).filter(|(n, live)| **live && n.op != Op::Reshape) {
        for (k, input) in n.inputs.iter().enumerate() {
            let Op::Weight(w) = graph.nodes[root[input.index()]].op else { continue };
            let weight = &graph.weights[w.0 as usize];
            // Rows of another length are no whole blocks; rows of a kernel are as long as its patches.
            let (last, block) = (weight.shape.last(), weight.dtype.block());
            let whole = match n.op {
                Op::Conv2d(_) => block == 1,
                _ => last.is_multiple_of(block) && graph.node(*input).shape.last() == last,
            };
            let as_stored = reads_stored(&n.op, k) && whole;
            if weight.dtype != DType::F32 && !as_stored {
                homes[w.0 as usize] = Home::Decoded;
            }
        }
    }
    homes
}

/// Whether `op` reads operand `k` in any format.
pub fn reads_stored(op: &Op, k: usize) -> bool {
    match op {
        Op::Linear | Op::MatMul | Op::Conv2d(_) => k == 1,
        Op::Gather => k == 0,
        Op::Experts(_) => k >= 2,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::Builder;

    #[test]
    fn no_two_living_buffers_overlap_and_the_arena_is_small() {
        let g = Builder::stateless(0);
        let mut x = g.input("x", &[100, 64], DType::F32);
        for _ in 0..20 {
            let up = x.exp().tanh();
            x = x + up;
        }
        g.output("x", x);
        let graph = g.finish().unwrap();
        let plan = Plan::new(&graph, &Null);
        assert_eq!(plan.steps.len(), 60);
        assert_eq!(plan.arena, 3 * 100 * 64 * 4); // x, its tanh, and the sum, while they last

        let span = |id: NodeId| match plan.places[id.index()] {
            Place::Arena(at) => at..at + graph.node(id).shape.count() * 4,
            p => panic!("{p:?}"),
        };
        for (i, &id) in plan.steps.iter().enumerate() {
            let read_later = |a: NodeId| plan.steps[i..].iter().any(|&s| graph.node(s).inputs.contains(&a));
            for &a in &plan.steps[..i] {
                if read_later(a) {
                    let (a, b) = (span(a), span(id));
                    assert!(a.end <= b.start || b.end <= a.start, "{a:?} and {b:?} both live at step {i}");
                }
            }
        }
    }

    #[test]
    fn what_no_output_needs_is_not_run() {
        let g = Builder::stateless(0);
        let x = g.input("x", &[4], DType::F32);
        let _ = x.exp();
        g.output("y", x.reshape(&[2, 2]).tanh().reshape(&[4]));
        let plan = Plan::new(&g.finish().unwrap(), &Null);
        assert_eq!(plan.steps.len(), 1);
        assert_eq!(plan.places[1], Place::Nowhere);
        assert_eq!(plan.places[2], plan.places[0]);
    }

    #[test]
    fn a_stored_weight_in_rows_of_another_length_is_decoded() {
        for (rows, home) in [([4, 64], Home::Stored), ([8, 32], Home::Decoded), ([2, 128], Home::Decoded)] {
            let g = Builder::stateless(1);
            let w = g.weight("w", &[2, 2, 64]).reshape(&rows);
            g.output("y", g.input("x", &[1, rows[1]], DType::F32).linear_by(w));
            let mut graph = g.finish().unwrap();
            graph.bind(|_| Some((DType::Q8_0, vec![2, 2, 64]))).unwrap();
            assert_eq!(Plan::new(&graph, &Null).homes, [home]);
        }
    }

    #[test]
    fn only_weights_that_norms_read_are_decoded() {
        let g = Builder::new(1, 1);
        let x = g.ids().embed(g.path("e"), 10, 32).rms_norm(g.path("n"), 1e-5, 0.0);
        g.output("y", x.linear(g.path("l"), 32));
        let mut graph = g.finish().unwrap();
        graph
            .bind(|n| {
                Some((
                    DType::F16,
                    if n == "n.weight" {
                        vec![32]
                    } else if n == "e.weight" {
                        vec![10, 32]
                    } else {
                        vec![32, 32]
                    },
                ))
            })
            .unwrap();
        let plan = Plan::new(&graph, &Null);
        assert_eq!(plan.homes, [Home::Stored, Home::Decoded, Home::Stored]);
        assert_eq!(plan.weight_bytes(&graph), ((320 + 32 + 1024) * 2, 128));
    }
}
