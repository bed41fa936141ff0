//! An adapter on a model: which of its linear layers it changes, and its weights in the order that the model has its own.

use crate::{Error, Outline, Result};
use hob_cpu::{Tensor, Weights};
use hob_graph::lora::{self, names};
use hob_graph::{DType, Graph, Op};
use hob_io::Adapter;
use hob_io::adapter::Part;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

/// What graphs of the model need to know of its adapter.
pub struct Adapted {
    /// by the module's name in the graph
    layers: HashMap<String, Layer>,
    /// the new weights' formats and dimensions
    stored: HashMap<String, (DType, Vec<usize>)>,
}

struct Layer {
    /// its name in the adapter's file
    module: String,
    rank: usize,
    scale: f32,
    /// width of the heads whose rows lie as neighbours in the model and as halves in the adapter
    head: Option<usize>,
}

impl Adapted {
    /// Finds the layers that the adapter changes in the model, whose configuration is `config`.
    ///
    /// # Errors
    /// A module that the model does not have as a linear layer, or weights of other dimensions; the sentence names it.
    pub fn new(adapter: &Adapter, outline: &Outline, config: &Value) -> Result<Adapted> {
        let graph = outline.graph(1, 1).or_else(|_| outline.encoding_graph(1, 1, false))?;
        let linear = linear(&graph);
        let wrong = |what: String| {
            let shown = adapter.path.display();
            Error::Ask(format!("the adapter {shown} does not fit the model: {what}"))
        };
        let (mut layers, mut stored) = (HashMap::new(), HashMap::new());
        let mut unknown = Vec::new();
        for (module, part) in &adapter.parts {
            // Checkpoints of models that also see name the same layers with one more step.
            let bare = |name: &str| name.replace("language_model.", "");
            let found = linear.get_key_value(module.as_str());
            let found = found.or_else(|| linear.iter().find(|(name, _)| bare(name) == bare(module)));
            let Some((&name, &[out, inner])) = found else {
                unknown.push(module.as_str());
                continue;
            };
            let Part { a, b, rank, scale } = part;
            if a.shape[1] != inner || b.shape[0] != out {
                let message = format!(
                    "its update of {module} is for {} inputs and {} outputs, and that layer has {inner} and {out}; it was made for another model",
                    a.shape[1], b.shape[0]
                );
                return Err(wrong(message));
            }
            let head = side_by_side(config, name, out);
            layers.insert(name.into(), Layer { module: module.clone(), rank: *rank, scale: *scale, head });
            let [down, up] = names(name);
            stored.insert(down, (a.dtype, a.shape.clone()));
            stored.insert(up, (b.dtype, b.shape.clone()));
        }
        match unknown[..] {
            [] => Ok(Adapted { layers, stored }),
            [first, ..] => Err(wrong(format!(
                "the model has no linear layer {first} ({} of the adapter's {} modules are not in it)",
                unknown.len(),
                adapter.parts.len()
            ))),
        }
    }

    /// Rank and scale of the update of a module.
    pub fn part(&self, module: &str) -> Option<lora::Part> {
        self.layers.get(module).map(|layer| lora::Part { rank: Some(layer.rank), scale: layer.scale })
    }

    /// Format and dimensions of one of its weights.
    pub fn stored(&self, name: &str) -> Option<(DType, Vec<usize>)> {
        self.stored.get(name).cloned()
    }

    /// Puts its weights beside the model's. They are copied, being small: who trains writes the same file again, and what is
    /// mapped must not change.
    pub fn add_to(&self, weights: &mut Weights, adapter: &Adapter) -> Result<()> {
        for (name, layer) in &self.layers {
            let part = adapter.parts.get(&layer.module);
            let part = part.ok_or_else(|| Error::Ask(format!("the adapter lost {}", layer.module)))?;
            let [a, b] = [&part.a, &part.b].map(|tensor| adapter.bytes(tensor));
            let b = layer.head.map_or(b.to_vec(), |head| pair_rows(b, part.b.shape[0], head));
            let stored = [(part.a.dtype, a.to_vec()), (part.b.dtype, b)];
            for (name, (dtype, bytes)) in names(name).into_iter().zip(stored) {
                let all = 0..bytes.len();
                weights.insert(&name, Tensor::shared(dtype, Arc::new(bytes), all));
            }
        }
        Ok(())
    }
}

/// The linear layers of a graph, by module, and the dimensions of their weights.
fn linear(graph: &Graph) -> HashMap<&str, [usize; 2]> {
    let of = |node: &hob_graph::Node| {
        let w = graph.as_weight(*node.inputs.get(1).filter(|_| node.op == Op::Linear)?)?;
        let w = &graph.weights[w.0 as usize];
        Some((w.name.strip_suffix(".weight")?, [w.shape[0], w.shape[1]]))
    };
    graph.nodes.iter().filter_map(of).collect()
}

/// The width of a head, where the model's rows of that module lie with rotated pairs side by side, as llama.cpp's
/// converter puts them; an adapter has them in the original order.
fn side_by_side(config: &Value, module: &str, out: usize) -> Option<usize> {
    let heads = match module.rsplit('.').next()? {
        "q_proj" => "num_attention_heads",
        "k_proj" => "num_key_value_heads",
        _ => return None,
    };
    let heads = config["rope_interleaved"].as_bool()?.then(|| config[heads].as_u64())??;
    out.checked_div(usize::try_from(heads).ok()?).filter(|head| *head > 0 && out.is_multiple_of(*head))
}

/// `rows` rows with those of each head in pairs: row `i` of a head's first half, then row `i` of its second half.
fn pair_rows(bytes: &[u8], rows: usize, head: usize) -> Vec<u8> {
    let len = bytes.len() / rows.max(1);
    let mut out = Vec::with_capacity(bytes.len());
    for row in 0..rows {
        let (first, at) = (row / head * head, row % head);
        let from = first + at % 2 * (head / 2) + at / 2;
        out.extend_from_slice(&bytes[from * len..][..len]);
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn rows_of_heads_are_paired() {
        let rows: Vec<u8> = (0..16).collect(); // 8 rows of 2 bytes, 2 heads
        let paired = super::pair_rows(&rows, 8, 4);
        assert_eq!(paired, [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]);
    }
}
