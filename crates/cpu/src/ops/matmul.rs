//! `(B…, M, K) × (B…, K, N) → (B…, M, N)`; the right operand may be a stored weight, decoded as it is needed.

use crate::exec::{Call, Cpu};
use crate::isa::isa;
use crate::ops::gemm::{Gemm, Left, Panel, WIDTH, Way};
use hob_graph::{DType, Graph, Node, Shape};

/// Columns of a task: whole blocks of any format.
const TASK: usize = 256;

fn gemm(cpu: &Cpu, y: Shape, depth: usize, stored: bool) -> Gemm {
    let [rows, columns] = [y[y.len() - 2], y.last()];
    // Where b is plain numbers smaller tasks will do, which keep more threads busy. Else strips are no whole blocks.
    let (task, way) = if stored {
        (TASK, Way::Plain)
    } else {
        (2 * WIDTH, Way::of(isa(), cpu.precision, DType::F32, rows))
    };
    Gemm { rows, depth, columns, task: task.min(columns.next_multiple_of(WIDTH)), way }
}

/// Bytes of working memory.
pub fn scratch(cpu: &Cpu, graph: &Graph, node: &Node) -> usize {
    let of =
        |stored| gemm(cpu, node.shape, graph.node(node.inputs[0]).shape.last(), stored).scratch(&cpu.pool);
    of(true).max(of(false))
}

/// Runs the node of `c`.
pub fn run(c: &mut Call) {
    let (a, b) = (c.x(0), c.x(1));
    let stored = b.dtype != DType::F32;
    let g = gemm(c.cpu, c.node.shape, a.shape.last(), stored);
    let (size, a) = (g.rows * g.depth, a.f32s());
    let batches = c.out.len() / (g.rows * g.columns).max(1);
    let plain = if stored { &[] } else { b.f32s() };
    let fill = |batch: usize, rows: std::ops::Range<usize>, columns: std::ops::Range<usize>, panel: Panel| {
        panel.plainly(rows.len(), |panel| {
            let (deep, first) = (rows.len(), columns.start);
            let real = columns.end.min(g.columns) - first;
            for (i, row) in rows.enumerate() {
                let row = batch * g.depth + row;
                let mut decoded = [0.0f32; TASK];
                let values = if stored {
                    let blocks = |n: usize| b.dtype.bytes(n).expect("tasks and rows are whole blocks");
                    let bytes = &b.row(row)[blocks(first)..blocks(first + real)];
                    b.dtype.decode(bytes, &mut decoded[..real]);
                    &decoded[..real]
                } else {
                    &plain[row * g.columns + first..][..real]
                };
                for (strip, values) in values.chunks(WIDTH).enumerate() {
                    panel[(strip * deep + i) * WIDTH..][..values.len()].copy_from_slice(values);
                }
            }
        })
    };
    g.run(
        &c.cpu.pool,
        batches,
        c.out,
        c.scratch,
        |batch| Left::plain(&a[batch * size..][..size]),
        fill,
        |_, _, _| {},
    );
}
