//! LoRA as a rewrite: `x · wᵀ` becomes `x · wᵀ + scale · (x · aᵀ) · bᵀ` (Hu et al. 2021). Of a convolution, A is one with the
//! same window, and B one of single pixels (LyCORIS' LoCon).

use crate::build::Builder;
use crate::graph::{Graph, GraphError, Node, NodeId};
use crate::op::{Op, Window};
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

/// The update of one layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Part {
    /// inner dimension r; `None` where A, `(out, in)`, is all of it and there is no B
    pub rank: Option<usize>,
    /// what it is multiplied by
    pub scale: f32,
}

/// The names of the adapter's weights for the layer at `module`, as peft has them: A `(r, in)` and B `(out, r)`; of a
/// convolution A `(r, in, k, k)` and B `(out, r, 1, 1)`.
pub fn names(module: &str) -> [String; 2] {
    [format!("{module}.lora_A.weight"), format!("{module}.lora_B.weight")]
}

/// `graph` with adapters on every targeted linear layer, and the names of the new weights. The order of nodes and
/// the lines they come from stay; errors when no layer matches.
pub fn lora(graph: &Graph, how: &Lora) -> Result<(Graph, Vec<String>), GraphError> {
    let part = Part { rank: Some(how.rank), scale: how.alpha / how.rank as f32 };
    let is_linear = |n: &Node| n.op == Op::Linear;
    let targeted = |module: &str| how.targets.contains(&module.rsplit('.').next()?).then_some(part);
    let (graph, added) = adapt_where(graph, is_linear, targeted)?;
    if added.is_empty() {
        let message = format!("no linear layer is called {}", how.targets.join(" or "));
        return Err(GraphError { message, at: None });
    }
    Ok((graph, added))
}

/// The same with a part for each linear layer and convolution, as `part` says by the name of its module; those for which it
/// says nothing stay as they are.
pub fn adapt(graph: &Graph, part: impl Fn(&str) -> Option<Part>) -> Result<(Graph, Vec<String>), GraphError> {
    adapt_where(graph, |node| matches!(node.op, Op::Linear | Op::Conv2d(_)), part)
}

fn adapt_where(
    graph: &Graph,
    is_layer: impl Fn(&Node) -> bool,
    part: impl Fn(&str) -> Option<Part>,
) -> Result<(Graph, Vec<String>), GraphError> {
    let g = Builder::over(graph.emptied());
    let mut map: Vec<NodeId> = Vec::with_capacity(graph.nodes.len());
    let mut added = Vec::new();
    for node in &graph.nodes {
        let x: Vec<X> = node.inputs.iter().map(|i| g.at(map[i.index()])).collect();
        g.say_lines_of(node);
        let mut y = g.repeat(node, &x);
        let weight = if is_layer(node) { graph.as_weight(node.inputs[1]) } else { None };
        let module = weight.and_then(|w| {
            let module = graph.weights[w.0 as usize].name.strip_suffix(".weight")?;
            Some((module, part(module)?))
        });
        if let Some((module, part)) = module {
            let [a, b] = names(module);
            let (window, point) = match node.op {
                Op::Conv2d(window) => (Some(window), Some(Window { kernel: 1, stride: 1, padding: 0 })),
                _ => (None, None),
            };
            let dims = x[1].shape();
            let down = g.weight(&a, &dims.with(0, part.rank.unwrap_or(dims[0])));
            let down = by(x[0], window, down) * part.scale; // (T, r), or (N, r, H, W)
            added.push(a);
            y = y + match part.rank {
                None => down,
                Some(rank) => {
                    let ones = if window.is_some() { &[1, 1][..] } else { &[] };
                    let up = g.weight(&b, &[&[dims[0], rank], ones].concat());
                    added.push(b);
                    by(down, point, up)
                }
            };
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

/// A linear layer, or a convolution where there is a window.
fn by<'g>(x: X<'g>, window: Option<Window>, w: X<'g>) -> X<'g> {
    match window {
        Some(window) => x.conv2d_by(w, window),
        None => x.linear_by(w),
    }
}
