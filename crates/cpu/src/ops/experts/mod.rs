//! Gated MLPs of which each token takes some: `down · (act(gate · x) · (up · x))` of every expert that has a share of the
//! token, added up by the shares. Only the weights of those experts are read.
//!
//! [`fast`] takes formats that [`crate::quant`] knows, with [`Precision::Fast`]; many experts then share a job of the
//! threads. Otherwise an expert is three linear layers over its tokens.

mod fast;

use crate::exec::{Call, Cpu, Precision};
use crate::isa::{isa, vectors};
use crate::ops::glu;
use crate::ops::linear::fast::Matrix;
use crate::ops::linear::{self, Carver, Linear, Size, carved};
use crate::quant;
use hob_graph::{Act, DType, Graph, Node, Op};

/// Sizes of a node.
#[derive(Clone, Copy)]
struct Sizes {
    /// T
    tokens: usize,
    /// C
    channels: usize,
    /// F
    inner: usize,
    /// E
    experts: usize,
    /// whether a matrix holds those of all experts
    stacked: bool,
}

impl Sizes {
    fn of(graph: &Graph, node: &Node) -> Sizes {
        let shape = |k: usize| graph.node(node.inputs[k]).shape;
        let (x, experts, gate) = (shape(0), shape(1)[1], shape(2));
        let stacked = gate.len() == 3;
        Sizes { tokens: x[0], channels: x[1], inner: gate[gate.len() - 2], experts, stacked }
    }

    /// Rows and columns of the gates (0), the ups (1) and the downs (2).
    fn matrix(&self, which: usize) -> (usize, usize) {
        if which == 2 { (self.channels, self.inner) } else { (self.inner, self.channels) }
    }
}

/// A matrix of one expert.
#[derive(Clone, Copy)]
struct Weight<'a> {
    dtype: DType,
    w: &'a [u8],
    packed: Option<&'a [u8]>,
    n: usize,
    k: usize,
}

impl<'a> Weight<'a> {
    /// Gate (0), up (1) or down (2) of an expert.
    fn of(c: &Call<'a>, s: &Sizes, expert: usize, which: usize) -> Weight<'a> {
        let (n, k) = s.matrix(which);
        let (view, at, of) = match s.stacked {
            true => (c.x(2 + which), expert, s.experts),
            false => (c.x(2 + 3 * expert + which), 0, 1),
        };
        let part = |all: &'a [u8]| &all[all.len() / of * at..all.len() / of * (at + 1)];
        Weight { dtype: view.dtype, w: part(view.bytes), packed: view.packed.map(part), n, k }
    }

    /// With kernels for whole numbers, where there are any.
    fn matrix(&self) -> Option<Matrix<'a>> {
        let kernels = quant::kernels(self.dtype, isa())?;
        let row_bytes = self.dtype.bytes(self.k)?;
        Some(Matrix { kernels, w: self.w, packed: self.packed, row_bytes, n: self.n, k: self.k })
    }
}

/// Runs the node of `c`.
pub fn run(c: &mut Call, act: Act) {
    let s = Sizes::of(c.graph, c.node);
    c.out.fill(0.0);
    if s.tokens * s.channels * s.inner == 0 {
        return;
    }
    match goes_fast(c.cpu, c.graph, c.node) {
        true => fast::run(c, &s, act),
        false => one_by_one(c, &s, act),
    }
}

/// Bytes of working memory of a node.
pub fn scratch(cpu: &Cpu, graph: &Graph, node: &Node) -> usize {
    let s = Sizes::of(graph, node);
    if goes_fast(cpu, graph, node) {
        return fast::scratch(cpu, &s);
    }
    let rows = 2 * carved::<f32>(s.tokens * s.channels) + 3 * carved::<f32>(s.tokens * s.inner);
    let products = (2..node.inputs.len()).map(|k| {
        let (n, k) = (s.matrix((k - 2) % 3), dtype(graph, node, k));
        let size = Size { tokens: s.tokens, k: n.1, n: n.0, finer: false };
        let bytes =
            [isa(), vectors()].map(|isa| linear::scratch_bytes(&cpu.pool, cpu.precision, isa, k, size));
        bytes[0].max(bytes[1])
    });
    64 + carved::<u32>(s.tokens) + rows + products.max().unwrap_or(0)
}

/// The format operand `k` is read in.
fn dtype(graph: &Graph, node: &Node, k: usize) -> DType {
    let mut w = graph.node(node.inputs[k]);
    while w.op == Op::Reshape {
        w = graph.node(w.inputs[0]);
    }
    match w.op {
        Op::Weight(id) => graph.weights[id.0 as usize].dtype,
        _ => DType::F32,
    }
}

/// Whether all matrices meet activations in whole numbers.
fn goes_fast(cpu: &Cpu, graph: &Graph, node: &Node) -> bool {
    let whole = |k: usize| quant::kernels(dtype(graph, node, k), isa()).is_some();
    cpu.precision == Precision::Fast && (2..node.inputs.len()).all(whole)
}

/// Each expert by three linear layers over its tokens.
fn one_by_one(c: &mut Call, s: &Sizes, act: Act) {
    let Sizes { tokens, channels, inner, experts, .. } = *s;
    let (x, shares) = (c.x(0).f32s(), c.x(1).f32s());
    let mut memory = Carver::new(std::mem::take(&mut c.scratch));
    // The same whatever shares a step (see `linear::way`).
    let isa = if c.graph.states.is_empty() { isa() } else { vectors() };
    let (mine, rows) = (memory.take::<u32>(tokens), memory.take::<f32>(tokens * channels));
    let y = memory.take::<f32>(tokens * channels);
    let [gate, up, h] = [0; 3].map(|_| memory.take::<f32>(tokens * inner));
    for expert in 0..experts {
        let chosen = (0..tokens).filter(|t| shares[t * experts + expert] != 0.0);
        let n = mine.iter_mut().zip(chosen).map(|(to, t)| *to = t as u32).count();
        if n == 0 {
            continue;
        }
        for (row, t) in rows.chunks_exact_mut(channels).zip(&mine[..n]) {
            row.copy_from_slice(&x[*t as usize * channels..][..channels]);
        }
        let (cpu, weights) = (c.cpu, [0, 1, 2].map(|which| Weight::of(c, s, expert, which)));
        let mut linear = |which: usize, x: &[f32], out: &mut [f32]| {
            let Weight { dtype, w, packed, k, .. } = weights[which];
            let (pool, precision) = (&cpu.pool, cpu.precision);
            Linear { pool, precision, finer: false, isa, x, k, dtype, w, packed, bias: None }
                .run(out, memory.0);
        };
        linear(0, &rows[..n * channels], &mut gate[..n * inner]);
        linear(1, &rows[..n * channels], &mut up[..n * inner]);
        glu::kernel(act)(&gate[..n * inner], &up[..n * inner], &mut h[..n * inner]);
        linear(2, &h[..n * inner], &mut y[..n * channels]);
        for (y, t) in y.chunks_exact(channels).zip(&mine[..n]) {
            let (t, share) = (*t as usize, shares[*t as usize * experts + expert]);
            c.out[t * channels..][..channels].iter_mut().zip(y).for_each(|(sum, y)| *sum += share * y);
        }
    }
}
