//! LoRA as a rewrite: `x · wᵀ` becomes `x · wᵀ + scale · (x · aᵀ) · bᵀ` (Hu et al. 2021).

use crate::build::Builder;
use crate::graph::{Graph, GraphError, NodeId};
use crate::op::Op;
use crate::x::X;

/// Which linear layers are adapted, and how.
#[derive(Clone, Debug)]
pub struct Lora<'a> {
    /// inner dimension r
    pub rank: usize,
    /// the update is multiplied by alpha / r
    pub alpha: f32,
    /// last parts of module names, such as `q_proj`
    pub targets: &'a [&'a str],
}

/// The names of the adapter's weights for the layer at `module`, as peft has them: A `(r, in)` and B `(out, r)`.
pub fn names(module: &str) -> [String; 2] {
    [format!("{module}.lora_A.weight"), format!("{module}.lora_B.weight")]
}

/// `graph` with adapters on every targeted linear layer, and the names of the new weights. The order of nodes and
/// the lines they come from stay; errors when no layer matches.
pub fn lora(graph: &Graph, how: &Lora) -> Result<(Graph, Vec<String>), GraphError> {
    let part = (how.rank, how.alpha / how.rank as f32);
    let (graph, added) =
        adapt(graph, |module| how.targets.contains(&module.rsplit('.').next()?).then_some(part))?;
    if added.is_empty() {
        let message = format!("no linear layer is called {}", how.targets.join(" or "));
        return Err(GraphError { message, at: None });
    }
    Ok((graph, added))
}

/// The same with a rank and a scale for each linear layer, as `part` says by the name of its module; those for which it
/// says nothing stay as they are.
pub fn adapt(
    graph: &Graph,
    part: impl Fn(&str) -> Option<(usize, f32)>,
) -> Result<(Graph, Vec<String>), GraphError> {
    let g = Builder::over(graph.emptied());
    let mut map: Vec<NodeId> = Vec::with_capacity(graph.nodes.len());
    let mut added = Vec::new();
    for node in &graph.nodes {
        let x: Vec<X> = node.inputs.iter().map(|i| g.at(map[i.index()])).collect();
        g.say_lines_of(node);
        let mut y = g.repeat(node, &x);
        let module = match node.op {
            Op::Linear => graph.as_weight(node.inputs[1]).and_then(|w| {
                let module = graph.weights[w.0 as usize].name.strip_suffix(".weight")?;
                Some((module, part(module)?))
            }),
            _ => None,
        };
        if let Some((module, (rank, scale))) = module {
            let [a, b] = names(module);
            let down = x[0].linear_by(g.weight(&a, &[rank, x[1].dim(1)])); // (T, r)
            let up = down.linear_by(g.weight(&b, &[x[1].dim(0), rank])); // (T, out)
            y = y + up * scale;
            added.extend([a, b]);
        }
        let Some(id) = y.id() else { break };
        map.push(id);
    }
    for (name, id) in &graph.outputs {
        if let Some(&id) = map.get(id.index()) {
            g.output(name, g.at(id));
        }
    }
    Ok((g.finish()?, added))
}
