//! Kernels: one file per op, under the op's name. An op without a file here runs on the reference.

use crate::exec::{Call, Cpu};
use crate::reference;
use hob_graph::{Graph, Node, Op};

/// Runs the node of `c` by the best kernel there is.
pub fn run(c: &mut Call) {
    match c.node.op {
        _ => reference::run(c),
    }
}

/// Bytes of working memory a node needs.
pub fn scratch(_cpu: &Cpu, _graph: &Graph, node: &Node) -> usize {
    match node.op {
        Op::Linear => 0,
        _ => 0,
    }
}
