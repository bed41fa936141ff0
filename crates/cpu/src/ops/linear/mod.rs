//! `x (T, K), w (N, K) [, b (N)] → (T, N)`: x · wᵀ + b, with the weights as they are stored.
//!
//! [`exact`] decodes weights to f32. [`fast`] quantizes the activations to 8 bits in groups of 32 and multiplies whole
//! numbers, for the formats that [`crate::quant`] knows; others go the exact way. With AMX, weights that meet
//! many tokens are decoded to bf16 instead, in one part or, for keys and values, in two (`amx.rs`, [`way`]).
//!
//! Keys and values are computed in finer steps. What the cache keeps is read by every later token, so the rounding of the
//! activations it is made from counts more than any other; and these products are the smallest of a layer. Their
//! activations are quantized twice, `x ≈ d · q + e · r`, where r are 8 bits of what q leaves over; both meet the weights
//! while these are at hand.
//!
//! | weights | with [`Precision::Fast`] |
//! |---|---|
//! | Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K … Q6_K, IQ4_NL, IQ4_XS, MXFP4 | whole numbers, unpacked in vectors |
//! | IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S, TQ1_0, TQ2_0 | whole numbers, unpacked by plain code: slower |
//! | F32, F16, BF16 | f32; a few tokens read them where they lie |
//! | Q8_1, Q8_K, which weights are not stored in; 64-bit floats and integers | decoded to f32 first |

#[cfg(target_arch = "x86_64")]
mod amx;
mod exact;
pub(crate) mod fast;
pub(crate) mod float;
#[cfg(test)]
mod tests;

pub(crate) use exact::decode;

use crate::exec::{Call, Cpu, Precision};
use crate::isa::{Isa, isa, vectors};
use crate::quant;
use crate::threads::Pool;
use hob_graph::{DType, Graph, NodeId, Op, Seq};

/// A linear layer's operands and how to compute it.
pub struct Linear<'a> {
    /// threads
    pub pool: &'a Pool,
    /// how activations meet quantized weights
    pub precision: Precision,
    /// whether activations are quantized twice
    pub finer: bool,
    /// instructions to use, which the processor must have
    pub isa: Isa,
    /// `(T, K)`
    pub x: &'a [f32],
    /// K
    pub k: usize,
    /// format of the weights
    pub dtype: DType,
    /// `(N, K)` as stored
    pub w: &'a [u8],
    /// the same, laid out anew by [`pack`]
    pub packed: Option<&'a [u8]>,
    /// `(N)`
    pub bias: Option<&'a [f32]>,
}

/// How large a product is.
#[derive(Clone, Copy)]
pub struct Size {
    /// T
    pub tokens: usize,
    /// K
    pub k: usize,
    /// N
    pub n: usize,
    /// whether activations are quantized twice
    pub finer: bool,
}

/// Runs the node of `c`.
pub fn run(c: &mut Call) {
    let (x, w) = (c.x(0), c.x(1));
    let bias = (c.arity() > 2).then(|| c.x(2).f32s());
    let (cpu, k, n) = (c.cpu, x.shape.last(), c.node.shape.last());
    let all = Linear {
        pool: &cpu.pool,
        precision: cpu.precision,
        finer: makes_keys_or_values(c.graph, c.id),
        isa: isa(),
        x: x.f32s(),
        k,
        dtype: w.dtype,
        w: w.bytes,
        packed: w.packed,
        bias,
    };
    let tokens = x.shape.rows();
    let mut from = 0;
    while from < tokens {
        let (end, isa) = way(c, w.dtype, tokens, from);
        let x = &all.x[from * k..end * k];
        Linear { isa, x, ..all }.run(&mut c.out[from * n..end * n], c.scratch);
        from = end;
    }
}

/// Tokens from which on decoding weights for tiles is paid back.
const LEAST: usize = 16;

/// Instructions for the rows of a product from `from` on, and where these rows end. Tiles round otherwise than vectors do,
/// and which of them it is shall depend neither on what shares a step nor on the part of a prompt that is read. So over a
/// cache what is read goes by tiles, be it a token, and what is said by vectors; and so do the few rows of the last layer,
/// which wait for memory. Elsewhere the number of rows decides.
fn way(c: &Call, dtype: DType, tokens: usize, from: usize) -> (usize, Isa) {
    let by = |tiles: bool| if tiles { isa() } else { vectors() };
    if isa() != Isa::Amx {
        return (tokens, isa());
    }
    let seqs = c.batch.seqs;
    if c.graph.states.is_empty() {
        let whole = quant::kernels(dtype, isa()).is_some();
        return (tokens, by(!whole || !seqs.is_empty() || tokens >= LEAST));
    }
    let is_last = c.graph.nodes[c.id.index() + 1..].iter().all(|node| node.op != Op::Linear);
    let mut rest = seqs.iter().filter(|seq| seq.len > 0 && seq.start >= from);
    match rest.next() {
        Some(first) if !is_last => {
            let end = |seq: &Seq| seq.start + seq.len;
            let alike = rest.take_while(|seq| seq.read == first.read);
            (alike.last().map_or(end(first), end), by(first.read))
        }
        _ => (tokens, by(false)),
    }
}

/// How far behind a product its use as keys or values is looked for: the rest of a layer's attention.
const REACH: usize = 40;

/// Follows the result of node `id` through what only turns or scales it.
fn makes_keys_or_values(graph: &Graph, id: NodeId) -> bool {
    let mut at = id;
    for i in at.index() + 1..graph.nodes.len().min(at.index() + REACH) {
        let next = &graph.nodes[i];
        match (next.op, next.inputs.iter().position(|&x| x == at)) {
            (_, None) => {}
            (Op::Reshape | Op::Rope { .. } | Op::RmsNorm { .. }, Some(0)) => at = NodeId(i as u32),
            (Op::Attend(_), Some(k)) => return k > 0,
            _ => return false,
        }
    }
    false
}

/// Bytes of working memory of a node.
pub fn scratch(cpu: &Cpu, graph: &Graph, id: NodeId) -> usize {
    let node = graph.node(id);
    let mut w = graph.node(node.inputs[1]);
    let size = Size {
        tokens: graph.node(node.inputs[0]).shape.rows(),
        k: graph.node(node.inputs[0]).shape.last(),
        n: node.shape.last(),
        finer: makes_keys_or_values(graph, id),
    };
    while w.op == Op::Reshape {
        w = graph.node(w.inputs[0]);
    }
    let stored = match w.op {
        Op::Weight(id) => graph.weights[id.0 as usize].dtype,
        _ => DType::F32,
    };
    // Of a step some rows may go by tiles and some by vectors.
    let bytes = [isa(), vectors()].map(|isa| scratch_bytes(&cpu.pool, cpu.precision, isa, stored, size));
    bytes[0].max(bytes[1])
}

/// Bytes of working memory of a product, be it of fewer tokens.
pub fn scratch_bytes(pool: &Pool, precision: Precision, isa: Isa, dtype: DType, size: Size) -> usize {
    match (precision, quant::kernels(dtype, isa)) {
        #[cfg(target_arch = "x86_64")]
        (Precision::Fast, Some(_)) if isa == Isa::Amx => amx::scratch(pool, size),
        (Precision::Fast, Some(kernels)) => fast::scratch(pool, &kernels, size),
        _ => exact::scratch(pool, isa, precision, dtype, size),
    }
}

/// Bytes of a weight `(N, K)` laid out anew for faster products; `None` where the format, the shape or the processor
/// has no such layout.
pub fn packed_bytes(dtype: DType, n: usize, k: usize) -> Option<usize> {
    quant::kernels(dtype, isa())?.direct?;
    quant::packed::bytes(dtype, n, k)
}

/// Lays rows of `k` values out anew. `w` has whole panels, 16 rows each, and `to` room for them as [`packed_bytes`]
/// says, which must not be `None`.
pub fn pack(dtype: DType, k: usize, w: &[u8], to: &mut [u8]) {
    quant::packed::pack(dtype, k, w, to);
}

impl Linear<'_> {
    /// Writes `(T, N)` to `out`. `scratch` holds at least [`scratch_bytes`].
    pub fn run(&self, out: &mut [f32], scratch: &mut [u8]) {
        if self.k == 0 || self.w.is_empty() || self.x.is_empty() {
            let n = self.bias.map_or(1, <[f32]>::len);
            return out.iter_mut().enumerate().for_each(|(i, y)| *y = self.bias.map_or(0.0, |b| b[i % n]));
        }
        let row_bytes = self.dtype.bytes(self.k).expect("rows are whole blocks");
        let (tokens, n) = (self.x.len() / self.k, self.w.len() / row_bytes);
        let size = Size { tokens, k: self.k, n, finer: self.finer };
        assert_eq!((self.x.len(), self.w.len()), (size.tokens * size.k, size.n * row_bytes));
        assert_eq!(out.len(), size.tokens * size.n);
        assert!(self.bias.is_none_or(|b| b.len() == size.n));
        assert!(self.isa.available());
        assert!(self.packed.is_none_or(|p| packed_bytes(self.dtype, size.n, size.k) == Some(p.len())));
        let out = Shared(out.as_mut_ptr());
        match (self.precision, quant::kernels(self.dtype, self.isa)) {
            #[cfg(target_arch = "x86_64")]
            (Precision::Fast, Some(kernels)) if self.isa == Isa::Amx => {
                amx::run(self, &kernels, size, row_bytes, out, scratch)
            }
            (Precision::Fast, Some(kernels)) => fast::run(self, &kernels, size, row_bytes, out, scratch),
            _ => exact::run(self, size, row_bytes, out, scratch),
        }
    }
}

/// A pointer that threads write through, each to places of its own.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T>(pub *mut T);
// SAFETY: writing through it is unsafe, and those who do keep the places apart.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: likewise.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// Where element `i` lies.
    pub fn at(self, i: usize) -> *mut T {
        self.0.wrapping_add(i)
    }

    /// `n` elements from `at` on, to read.
    ///
    /// # Safety
    /// They lie within the memory, and nobody writes them meanwhile.
    pub unsafe fn read<'s>(self, at: usize, n: usize) -> &'s [T] {
        // SAFETY: as the caller says.
        unsafe { std::slice::from_raw_parts(self.0.add(at), n) }
    }

    /// `n` elements from `at` on.
    ///
    /// # Safety
    /// They lie within the memory, and nobody else uses them at the same time.
    pub unsafe fn slice<'s>(self, at: usize, n: usize) -> &'s mut [T] {
        // SAFETY: as the caller says.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(at), n) }
    }
}

/// Takes slices from working memory, one after another, each aligned to 64 bytes.
pub(crate) struct Carver<'a>(pub &'a mut [u8]);

impl<'a> Carver<'a> {
    pub fn new(scratch: &'a mut [u8]) -> Carver<'a> {
        let skip = scratch.as_ptr().align_offset(64).min(scratch.len());
        Carver(&mut scratch[skip..])
    }

    /// `n` numbers. Panics where the memory is used up.
    pub fn take<T: Number>(&mut self, n: usize) -> &'a mut [T] {
        let (taken, rest) = std::mem::take(&mut self.0).split_at_mut(carved::<T>(n));
        self.0 = rest;
        // SAFETY: any bits are a number.
        let (head, body, _) = unsafe { taken.align_to_mut() };
        assert!(head.is_empty());
        &mut body[..n]
    }
}

/// Bytes that `n` numbers take from a [`Carver`]; the first slice may cost 64 more.
pub(crate) fn carved<T: Number>(n: usize) -> usize {
    (n * size_of::<T>()).next_multiple_of(64)
}

/// Numbers of which any bits are valid.
pub(crate) trait Number: Copy {}
impl Number for u8 {}
impl Number for i8 {}
impl Number for u32 {}
impl Number for f32 {}
