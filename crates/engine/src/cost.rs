//! What a node of a graph reads and multiplies at least, to hold its time against what the machine allows.

use crate::{Options, in_int8};
use hob_graph::graph::Weight;
use hob_graph::{Graph, NodeId, Op};

/// The work of a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cost {
    /// what kind of node it is: its op, of linear layers with the weight's format and dimensions
    pub kind: String,
    /// bytes of weights, keys and values read
    pub bytes: f64,
    /// multiplications and additions in 8-bit whole numbers
    pub int8: f64,
    /// multiplications and additions in f32
    pub float: f64,
}

/// The work of node `id`, with `reached` tokens of context when it is done. What is read once for all tokens is counted
/// once; what is computed twice, in finer steps, is counted once too.
pub fn cost(g: &Graph, id: NodeId, reached: usize, how: &Options) -> Cost {
    let node = g.node(id);
    let shape = |k: usize| g.node(node.inputs[k]).shape;
    let mut cost = Cost { kind: node.op.name().to_string(), ..Cost::default() };
    match node.op {
        Op::Linear => {
            let products = 2.0 * node.shape.count() as f64 * shape(1).last() as f64;
            let weight = g.as_weight(node.inputs[1]).map(|w| &g.weights[w.0 as usize]);
            if let Some(w) = weight {
                cost.kind = format!("linear {} ({}, {})", w.dtype, w.shape[0], w.shape[1]);
                cost.bytes = w.bytes() as f64;
            }
            match weight.is_some_and(|w| in_int8(how.precision, w.dtype)) {
                true => cost.int8 = products,
                false => cost.float = products,
            }
        }
        Op::Experts(_) => {
            for (weight, bytes, products) in experts(g, id) {
                cost.bytes += bytes;
                match in_int8(how.precision, weight.dtype) {
                    true => cost.int8 += products,
                    false => cost.float += products,
                }
            }
            if let Some(w) = g.as_weight(node.inputs[2]).map(|w| &g.weights[w.0 as usize]) {
                let (all, rows) = (shape(1)[1], w.shape[w.shape.len() - 2]);
                cost.kind = format!("experts {} ({all}, {rows})", w.dtype);
            }
        }
        Op::Attend(attend) => {
            let (t, d, kv) = (node.shape[0], node.shape[2], shape(1)[1]);
            let seen =
                |i: usize| (reached + i + 1).saturating_sub(t).min(attend.window.unwrap_or(usize::MAX));
            let pairs: f64 = (0..t).map(|i| seen(i) as f64).sum();
            cost.float = 4.0 * pairs * (node.shape[1] * d) as f64;
            // Keys and values, each once.
            let bytes = |x: hob_graph::DType| {
                seen(t - 1) as f64 * (kv * d) as f64 * x.block_bytes() as f64 / x.block() as f64
            };
            cost.bytes = bytes(how.kv.k) + bytes(how.kv.v);
        }
        _ => {}
    }
    cost
}

/// Of a node of experts each weight, with the bytes that are read of it and the multiplications and additions. An expert
/// is read once if any token chose it, as if they chose by chance.
pub fn experts(g: &Graph, id: NodeId) -> Vec<(&Weight, f64, f64)> {
    let node = g.node(id);
    let (tokens, all) = (node.shape[0] as f64, g.node(node.inputs[1]).shape[1] as f64);
    let used = chosen(g, node.inputs[1]).map_or(all, |k| k as f64);
    let met = 1.0 - (1.0 - used / all).powf(tokens);
    let weights = node.inputs[2..].iter().filter_map(|&id| g.as_weight(id));
    let weights = weights.map(|w| &g.weights[w.0 as usize]);
    // Stacked, or one for each expert: which a token meets as often as it chooses it.
    let products = |w: &Weight| 2.0 * tokens * used / all * w.shape.count() as f64;
    weights.map(|w| (w, w.bytes() as f64 * met, products(w))).collect()
}

/// How many experts of each token the shares `id` are of.
fn chosen(g: &Graph, id: NodeId) -> Option<usize> {
    let node = g.node(id);
    match node.op {
        Op::TopK(k) => Some(k as usize),
        Op::Binary(_) => node.inputs.iter().find_map(|&x| chosen(g, x)),
        _ => None,
    }
}

/// The work of a whole run, its kinds together.
pub fn work(g: &Graph, reached: usize, how: &Options) -> Cost {
    let mut all = Cost { kind: "all".into(), ..Cost::default() };
    for (i, _) in g.live().iter().enumerate().filter(|(_, live)| **live) {
        let one = cost(g, NodeId(i as u32), reached, how);
        all.bytes += one.bytes;
        all.int8 += one.int8;
        all.float += one.float;
    }
    all
}
