//! Graphs and plans as text: what `hob debug graph` and `hob debug plan` show, and what snapshots hold.

use crate::graph::{Graph, Node, NodeId};
use crate::op::Op;
use crate::plan::{Home, Place, Plan};
use std::fmt::{self, Write};

/// Operands of a node that are named: experts may have hundreds.
const MOST_OPERANDS: usize = 8;

impl Graph {
    /// The op with its parameters, such as `rms_norm(eps 1e-5)`.
    pub fn label(&self, node: &Node) -> String {
        let name = node.op.name();
        match node.op {
            Op::Input(i) => format!("input {}", self.inputs[i.0 as usize].name),
            Op::Weight(w) => {
                let w = &self.weights[w.0 as usize];
                format!("weight {} {}", w.name, w.dtype)
            }
            Op::Fill(v) => format!("fill {v}"),
            Op::Mask { window: Some(w), .. } => format!("mask(window {w})"),
            Op::Sum(a) | Op::Max(a) | Op::Concat(a) => format!("{name}(axis {a})"),
            Op::Permute(a) => format!("permute{:?}", &a.0[..node.shape.len()]),
            Op::Slice { axis, start } => format!("slice(axis {axis}, from {start})"),
            Op::Pad { axis, before } => format!("pad(axis {axis}, before {before})"),
            Op::Unfold(w) | Op::Fold(w) | Op::Conv2d(w) => {
                format!("{name}(kernel {}, stride {}, padding {})", w.kernel, w.stride, w.padding)
            }
            Op::RmsNorm { eps, offset: 0.0 } | Op::LayerNorm { eps } => format!("{name}(eps {eps:e})"),
            Op::RmsNorm { eps, offset } => format!("{name}(eps {eps:e}, offset {offset})"),
            Op::GroupNorm { groups, eps } => format!("{name}({groups} groups, eps {eps:e})"),
            Op::Rope { style, mscale: 1.0 } => format!("rope({style:?})"),
            Op::Rope { style, mscale } => format!("rope({style:?}, mscale {mscale})"),
            Op::Attend(a) => {
                let mut s = format!("attend(scale {}", a.scale);
                let _ = match a.window {
                    Some(w) => write!(s, ", window {w}"),
                    None => Ok(()),
                };
                let _ = match a.softcap {
                    Some(c) => write!(s, ", softcap {c}"),
                    None => Ok(()),
                };
                let _ = match a.cache {
                    Some(c) => write!(s, ", cache {}", c.0),
                    None => Ok(()),
                };
                s + if a.causal { ")" } else { ", both ways)" }
            }
            Op::CrossAttend(a) => {
                format!(
                    "cross_attend(scale {}, parts {}{})",
                    a.scale,
                    a.parts,
                    if a.causal { "" } else { ", both ways" }
                )
            }
            Op::Glu(act) | Op::Experts(act) => format!("{name}({act:?})"),
            Op::TopK(k) => format!("top_k({k})"),
            Op::Upsample(n) => format!("upsample({n})"),
            Op::Const(_)
            | Op::Positions
            | Op::Mask { .. }
            | Op::Unary(_)
            | Op::Binary(_)
            | Op::Reshape
            | Op::Expand
            | Op::MatMul
            | Op::Gather
            | Op::ScatterAdd
            | Op::OneHot
            | Op::Linear
            | Op::Act(_)
            | Op::Softmax
            | Op::CrossEntropy => name.to_string(),
        }
    }

    /// The operands: weights by name and format, others by number.
    pub fn operands(&self, node: &Node) -> String {
        let one = |id: &NodeId| match self.node(*id).op {
            Op::Weight(w) => {
                let w = &self.weights[w.0 as usize];
                format!("{} {}", w.name, w.dtype)
            }
            Op::Input(i) => self.inputs[i.0 as usize].name.clone(),
            Op::Fill(v) => format!("{v}"),
            Op::Positions => "positions".into(),
            _ => format!("%{}", id.0),
        };
        let shown = node.inputs.iter().take(MOST_OPERANDS).map(one).collect::<Vec<_>>().join(", ");
        match node.inputs.len().saturating_sub(MOST_OPERANDS) {
            0 => shown,
            more => format!("{shown}, and {more} more"),
        }
    }
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, n) in self.nodes.iter().enumerate() {
            if matches!(n.op, Op::Weight(_) | Op::Input(_) | Op::Fill(_) | Op::Positions) {
                continue; // shown where they are used
            }
            let operands = self.operands(n);
            let space = if operands.is_empty() { "" } else { " " };
            writeln!(f, "%{i} = {}{space}{operands}  {}", self.label(n), n.shape)?;
        }
        for (name, id) in &self.outputs {
            writeln!(f, "{name} = %{}", id.0)?;
        }
        Ok(())
    }
}

/// `n` bytes for people: `1.4 GiB`.
pub fn bytes(n: usize) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut x = n as f64;
    let mut unit = 0;
    while x >= 1024.0 && unit + 1 < units.len() {
        x /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{x:.1} {}", units[unit]) }
}

impl Plan {
    /// The steps as a table, each with its buffer in the arena, and the sums below.
    pub fn table(&self, graph: &Graph) -> String {
        let mut out = String::new();
        let _ = writeln!(out, "{:>5}  {:<44} {:<22} {:>10}  operands", "node", "op", "shape", "arena at");
        for &id in &self.steps {
            let n = graph.node(id);
            let at = match self.places[id.index()] {
                Place::Arena(at) => at.to_string(),
                p => format!("{p:?}"),
            };
            let shape = n.shape.to_string();
            let _ = writeln!(
                out,
                "{:>5}  {:<44} {shape:<22} {at:>10}  {}",
                id.0,
                graph.label(n),
                graph.operands(n)
            );
        }
        let (stored, decoded) = self.weight_bytes(graph);
        let copies = self.homes.iter().filter(|h| **h == Home::Decoded).count();
        let _ = writeln!(out, "weights   {:>12}  {} tensors as stored", bytes(stored), graph.weights.len());
        let _ = writeln!(out, "copies    {:>12}  {copies} of them decoded to f32", bytes(decoded));
        let _ = writeln!(out, "arena     {:>12}  {} steps", bytes(self.arena), self.steps.len());
        let _ = writeln!(out, "scratch   {:>12}", bytes(self.scratch));
        out
    }
}
