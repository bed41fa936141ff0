//! Kernels: one file per op, under the op's name. An op without a file here runs on the reference.

mod attend;
pub mod linear;

use crate::exec::{Call, Cpu};
use crate::reference;
use hob_graph::{Graph, Node, Op};

/// Runs the node of `c` by the best kernel there is.
pub fn run(c: &mut Call) {
    match c.node.op {
        Op::Attend(_) => attend::run(c),
        Op::Linear => linear::run(c),
        _ => reference::run(c),
    }
}

/// Bytes of working memory a node needs.
pub fn scratch(cpu: &Cpu, graph: &Graph, node: &Node) -> usize {
    match node.op {
        Op::Attend(_) => attend::scratch(cpu, graph, node),
        Op::Linear => linear::scratch(cpu, graph, node),
        _ => 0,
    }
}
