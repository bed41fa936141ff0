//! Weights that are stored divided by one number, as floats of 8 bits are: `x · (s w)ᵀ` becomes `(s x) · wᵀ`, so that the
//! weights stay as they are.

use crate::build::Builder;
use crate::graph::{Graph, GraphError, NodeId};
use crate::op::Op;
use crate::x::X;

/// `graph` with every use of a weight for which `scale` has a number, by the weight's name, multiplied by it. Linear layers
/// and convolutions have what they read multiplied, rows by number what they give, and all else the weight itself.
///
/// # Errors
/// None for a graph that was finished.
pub fn scaled(graph: &Graph, scale: impl Fn(&str) -> Option<f32>) -> Result<Graph, GraphError> {
    let g = Builder::over(graph.emptied());
    let mut map: Vec<NodeId> = Vec::with_capacity(graph.nodes.len());
    for node in &graph.nodes {
        let mut x: Vec<X> = node.inputs.iter().map(|i| g.at(map[i.index()])).collect();
        g.say_lines_of(node);
        let of = |i: &NodeId| {
            let mut at = *i;
            while graph.node(at).op == Op::Reshape {
                at = graph.node(at).inputs[0];
            }
            scale(&graph.weights[graph.as_weight(at)?.0 as usize].name)
        };
        let scales: Vec<Option<f32>> = match node.op {
            Op::Reshape => vec![None], // what reads it asks for the weight beneath
            _ => node.inputs.iter().map(of).collect(),
        };
        let mut after = None;
        for (i, scale) in scales.into_iter().enumerate() {
            let Some(scale) = scale else { continue };
            match (node.op, i) {
                (Op::Linear | Op::Conv2d(_), 1) => x[0] = x[0] * scale,
                (Op::Gather, 0) => after = Some(scale),
                _ => x[i] = x[i] * scale,
            }
        }
        let y = g.repeat(node, &x);
        let Some(id) = after.map_or(y, |scale| y * scale).id() else { break };
        map.push(id);
    }
    for (name, id) in &graph.outputs {
        if let Some(&id) = map.get(id.index()) {
            g.output(name, g.at(id));
        }
    }
    g.finish()
}
