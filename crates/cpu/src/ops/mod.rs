//! Kernels: one file per op, under the op's name. An op without a file here runs on the reference.

mod act;
mod attend;
mod axes;
mod binary;
mod concat;
mod conv2d;
pub(crate) mod experts;
mod gather;
mod gemm;
mod glu;
mod group_norm;
mod layer_norm;
pub mod linear;
mod matmul;
mod permute;
mod rms_norm;
mod rope;
pub(crate) mod rows;
mod scatter_add;
mod softmax;
mod sum;
mod top_k;
mod turn;
mod unary;
mod upsample;

use crate::exec::{Call, Cpu};
use crate::reference;
use hob_graph::{Graph, NodeId, Op};

/// Runs the node of `c` by the best kernel there is.
pub fn run(c: &mut Call) {
    match c.node.op {
        Op::Attend(_) => attend::run(c),
        Op::CrossAttend(how) => attend::cross::run(c, how),
        Op::Act(act) => act::run(c, act),
        Op::Binary(f) => binary::run(c, f),
        Op::Concat(axis) => concat::run(c, axis as usize),
        Op::Conv2d(window) => conv2d::run(c, window),
        Op::Expand => permute::expand(c),
        Op::Experts(act) => experts::run(c, act),
        Op::Gather => gather::run(c),
        Op::Glu(act) => glu::run(c, act),
        Op::GroupNorm { groups, eps } => group_norm::run(c, groups as usize, eps),
        Op::LayerNorm { eps } => layer_norm::run(c, eps),
        Op::Linear => linear::run(c),
        Op::MatMul => matmul::run(c),
        Op::Max(axis) => sum::max(c, axis as usize),
        Op::Pad { axis, before } => concat::pad(c, axis as usize, before),
        Op::Permute(order) => permute::run(c, order),
        Op::RmsNorm { eps, offset } => rms_norm::run(c, eps, offset),
        Op::Rope { style, mscale } => rope::run(c, style, mscale),
        Op::ScatterAdd => scatter_add::run(c),
        Op::Slice { axis, start } => permute::slice(c, axis as usize, start),
        Op::Softmax => softmax::run(c),
        Op::Sum(axis) => sum::run(c, axis as usize),
        Op::TopK(k) => top_k::run(c, k as usize),
        Op::Unary(f) => unary::run(c, f),
        Op::Upsample(n) => upsample::run(c, n as usize),
        _ => reference::run(c),
    }
}

/// Bytes of working memory a node needs.
pub fn scratch(cpu: &Cpu, graph: &Graph, id: NodeId) -> usize {
    let node = graph.node(id);
    match node.op {
        Op::Attend(_) => attend::scratch(cpu, graph, node),
        Op::CrossAttend(how) => attend::cross::scratch(cpu, graph, node, how),
        Op::Conv2d(window) => conv2d::scratch(cpu, graph, node, window),
        Op::Experts(_) => experts::scratch(cpu, graph, node),
        Op::Linear => linear::scratch(cpu, graph, id),
        Op::MatMul => matmul::scratch(cpu, graph, node),
        Op::Rope { .. } => rope::scratch(cpu, graph, node),
        _ => 0,
    }
}
