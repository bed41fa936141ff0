//! Keys and values in finer steps. What the cache keeps is read by every later token, so the rounding of the
//! activations it is made from counts more than any other; and these products are the smallest of a layer.
//!
//! The activations are quantized twice: `x ≈ d · q + e · r`, where r are 8 bits of what q leaves over. Both are
//! multiplied as if they were twice as many tokens, so a weight is still read and unpacked once.

use super::{Carver, Linear, Shared, Size, carved, scratch_bytes};
use crate::exec::{Cpu, Precision};
use crate::isa::{Isa, isa};
use crate::quant;
use crate::threads::Pool;
use hob_graph::{DType, Graph, NodeId, Op};

/// How far behind a product its use as keys or values is looked for: the rest of a layer's attention.
const REACH: usize = 40;

/// Whether node `id` makes keys or values, and is computed with whole numbers.
pub fn wanted(cpu: &Cpu, graph: &Graph, id: NodeId, dtype: DType) -> bool {
    cpu.precision == Precision::Fast
        && quant::kernels(dtype, isa()).is_some()
        && makes_keys_or_values(graph, id)
}

/// Follows the result through what only turns or scales it.
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

/// Bytes of working memory: the two activations `(2 · T, K)`, the two results `(2 · T, N)`, and that of the product.
pub fn scratch(pool: &Pool, isa: Isa, dtype: DType, size: Size) -> usize {
    let twice = Size { tokens: 2 * size.tokens, ..size };
    let parts = carved::<f32>(twice.tokens * size.k) + carved::<f32>(twice.tokens * size.n);
    64 + parts + scratch_bytes(pool, Precision::Fast, isa, dtype, twice)
}

/// Writes `(T, N)` to `out`. `memory` holds at least [`scratch`].
pub fn run(linear: &Linear, out: &mut [f32], memory: &mut [u8]) {
    let tokens = linear.x.len() / linear.k;
    let (k, n) = (linear.k, out.len() / tokens.max(1));
    let mut memory = Carver::new(memory);
    let (x, y) = (memory.take::<f32>(2 * tokens * k), memory.take::<f32>(2 * tokens * n));
    let (first, left) = x.split_at_mut(tokens * k);
    first.copy_from_slice(linear.x);
    let left = Shared(left.as_mut_ptr());
    linear.pool.split(tokens, 16, |tokens, _| {
        let part = tokens.start * k..tokens.end * k;
        // SAFETY: ranges of different tasks are different.
        let to = unsafe { left.slice(part.start, part.len()) };
        quant::residual(&linear.x[part], to);
    });
    Linear { x, bias: None, ..*linear }.run(y, memory.0);
    let (first, left) = y.split_at(out.len());
    for (i, out) in out.iter_mut().enumerate() {
        *out = first[i] + left[i] + linear.bias.map_or(0.0, |b| b[i % n]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::tests::random;

    /// Two bytes of activation round a hundred times finer than one, on every format with integer kernels.
    #[test]
    fn twice_quantized_is_nearly_exact() {
        let pool = Pool::new(2);
        let size = Size { tokens: 5, k: 512, n: 24 };
        let mut next = random(5);
        let mut uniform = || next() as f32 / (1u32 << 30) as f32 - 1.0;
        let x: Vec<f32> = (0..size.tokens * size.k).map(|_| uniform()).collect();
        let values: Vec<f32> = (0..size.n * size.k).map(|_| uniform()).collect();
        let bias: Vec<f32> = (0..size.n).map(|_| uniform()).collect();
        for dtype in [DType::Q4_0, DType::Q4_1, DType::Q8_0] {
            let mut w = vec![0; dtype.bytes(values.len()).unwrap()];
            dtype.encode(&values, &mut w);
            let linear = |precision| Linear {
                pool: &pool,
                precision,
                isa: isa(),
                x: &x,
                k: size.k,
                dtype,
                w: &w,
                packed: None,
                bias: Some(&bias),
            };
            let by = |precision| {
                let mut out = vec![0.0; size.tokens * size.n];
                let mut memory = vec![0; 64 + scratch_bytes(&pool, precision, isa(), dtype, size)];
                linear(precision).run(&mut out, &mut memory);
                out
            };
            let (exact, once) = (by(Precision::Exact), by(Precision::Fast));
            let mut twice = vec![0.0; exact.len()];
            run(&linear(Precision::Fast), &mut twice, &mut vec![0; scratch(&pool, isa(), dtype, size)]);
            let worst = |y: &[f32]| y.iter().zip(&exact).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
            assert!(worst(&twice) < worst(&once) / 50.0, "{dtype}: {} and {}", worst(&twice), worst(&once));
        }
    }
}
