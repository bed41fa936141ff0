//! The reference of every op: naive, readable, right. Kernels are held to it.
//!
//! All sums, products and functions are taken in f64 and rounded once, at the end, so that what remains between a
//! kernel and its reference is the kernel's own rounding. Speed is no aim here, and memory is allocated freely.

mod attend;
mod experts;
mod image;

pub use attend::sees;

use crate::exec::{Call, View};
use hob_graph::op::{Act, Binary, RopeStyle, Unary};
use hob_graph::shape::MAX_RANK;
use hob_graph::{Op, Shape};

/// Runs the node of `c`.
pub fn run(c: &mut Call) {
    match c.node.op {
        Op::Input(_) | Op::Weight(_) | Op::Const(_) | Op::Reshape => {
            unreachable!("{} is a place, not a step", c.node.op.name())
        }
        Op::Fill(value) => c.out.fill(value),
        Op::Positions => positions(c),
        Op::Mask { window, causal } => attend::mask(c, window, causal),

        Op::Unary(f) => map(c, |x| unary(f, x)),
        Op::Binary(f) => binary(c, f),
        Op::Sum(axis) => reduce(c, axis as usize, 0.0, |sum, x| sum + x),
        Op::Max(axis) => reduce(c, axis as usize, f64::NEG_INFINITY, greater),
        Op::TopK(k) => experts::top_k(c, k as usize),
        Op::Permute(axes) => {
            let x = c.x(0);
            let strides = x.shape.strides();
            let order = |i: usize| strides[axes.0[i] as usize];
            gather_elements(c, |at| (0..x.shape.len()).map(|i| at[i] * order(i)).sum());
        }
        Op::Expand => {
            let (x, y) = (c.x(0).shape, c.node.shape);
            gather_elements(c, |at| broadcast(&x, &y, at));
        }
        Op::Slice { axis, start } => {
            let strides = c.x(0).shape.strides();
            let from = start * strides[axis as usize];
            let rank = c.node.shape.len();
            gather_elements(c, |at| from + (0..rank).map(|i| at[i] * strides[i]).sum::<usize>());
        }
        Op::Pad { axis, before } => pad(c, axis as usize, before),
        Op::Concat(axis) => concat(c, axis as usize),
        Op::MatMul => matmul(c),
        Op::Gather => gather(c),
        Op::ScatterAdd => scatter_add(c),
        Op::OneHot => one_hot(c),
        Op::Unfold(window) => image::unfold(c, window),
        Op::Fold(window) => image::fold(c, window),

        Op::Linear => linear(c),
        Op::RmsNorm { eps, offset } => rms_norm(c, eps as f64, offset as f64),
        Op::LayerNorm { eps } => layer_norm(c, eps as f64),
        Op::GroupNorm { groups, eps } => image::group_norm(c, groups as usize, eps as f64),
        Op::Rope { style, mscale } => rope(c, style, mscale as f64),
        Op::Attend(how) => attend::attend(c, how),
        Op::CrossAttend(how) => attend::cross(c, how),
        Op::Act(act) => map(c, |x| activation(act, x)),
        Op::Glu(act) => glu(c, act),
        Op::Experts(act) => experts::experts(c, act),
        Op::Softmax => softmax(c),
        Op::CrossEntropy => cross_entropy(c),
        Op::Conv2d(window) => image::conv2d(c, window),
        Op::Upsample(n) => image::upsample(c, n as usize),
    }
}

/// Calls `f(flat index, coordinates)` for every element of `shape`, in order.
fn each(shape: &Shape, mut f: impl FnMut(usize, &[usize; MAX_RANK])) {
    let mut at = [0; MAX_RANK];
    for i in 0..shape.count() {
        f(i, &at);
        for axis in (0..shape.len()).rev() {
            at[axis] += 1;
            if at[axis] < shape[axis] {
                break;
            }
            at[axis] = 0;
        }
    }
}

/// Flat index into `x`, broadcast to `y`, of the element of `y` at `at`.
fn broadcast(x: &Shape, y: &Shape, at: &[usize; MAX_RANK]) -> usize {
    let (strides, extra) = (x.strides(), y.len() - x.len());
    (0..x.len()).filter(|&i| x[i] != 1).map(|i| at[i + extra] * strides[i]).sum()
}

/// Row `i` of a view in any format.
fn row(x: &View, i: usize) -> Vec<f64> {
    let mut values = vec![0.0; x.shape.last()];
    x.dtype.decode(x.row(i), &mut values);
    values.iter().map(|&v| v as f64).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The larger, or NaN when one is.
fn greater(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

// ── elementwise ──

fn map(c: &mut Call, f: impl Fn(f64) -> f64) {
    let x = c.x(0).f32s();
    for (y, x) in c.out.iter_mut().zip(x) {
        *y = f(*x as f64) as f32;
    }
}

fn unary(f: Unary, x: f64) -> f64 {
    match f {
        Unary::Neg => -x,
        Unary::Exp => x.exp(),
        Unary::Log => x.ln(),
        Unary::Sqrt => x.sqrt(),
        Unary::Recip => 1.0 / x,
        Unary::Sin => x.sin(),
        Unary::Cos => x.cos(),
        Unary::Tanh => x.tanh(),
        Unary::Sigmoid => sigmoid(x),
        Unary::Erf => erf(x),
        Unary::Relu if x > 0.0 || x.is_nan() => x,
        Unary::Relu => 0.0,
        Unary::Step if x > 0.0 => 1.0,
        Unary::Step => 0.0,
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The error function by its series of positive terms (Abramowitz & Stegun 7.1.6), to about 1e-15.
pub fn erf(x: f64) -> f64 {
    if x.is_nan() || x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum, mut n) = (x, 0.0, 0.0);
    while sum + term != sum {
        sum += term;
        n += 1.0;
        term *= 2.0 * x * x / (2.0 * n + 1.0);
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp()
}

fn activation(act: Act, x: f64) -> f64 {
    match act {
        Act::Silu => x * sigmoid(x),
        Act::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }
        Act::GeluQuick => x * sigmoid(1.702 * x),
        Act::Gelu => 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
    }
}

fn glu(c: &mut Call, act: Act) {
    let (gate, up) = (c.x(0).f32s(), c.x(1).f32s());
    for (i, y) in c.out.iter_mut().enumerate() {
        *y = (activation(act, gate[i] as f64) * up[i] as f64) as f32;
    }
}

fn binary(c: &mut Call, f: Binary) {
    let (a, b, shape) = (c.x(0), c.x(1), c.node.shape);
    each(&shape, |i, at| {
        let x = a.f32s()[broadcast(&a.shape, &shape, at)] as f64;
        let y = b.f32s()[broadcast(&b.shape, &shape, at)] as f64;
        let z = match f {
            Binary::Add => x + y,
            Binary::Sub => x - y,
            Binary::Mul => x * y,
            Binary::Div => x / y,
        };
        c.out[i] = z as f32;
    });
}

// ── along an axis ──

fn reduce(c: &mut Call, axis: usize, zero: f64, f: impl Fn(f64, f64) -> f64) {
    let x = c.x(0);
    let (n, stride) = (x.shape[axis], x.shape.strides()[axis]);
    for (i, y) in c.out.iter_mut().enumerate() {
        let first = i / stride * stride * n + i % stride;
        *y = (0..n).fold(zero, |z, j| f(z, x.f32s()[first + j * stride] as f64)) as f32;
    }
}

fn softmax(c: &mut Call) {
    let x = c.x(0);
    for (i, y) in c.out.chunks_exact_mut(x.shape.last()).enumerate() {
        for (y, p) in y.iter_mut().zip(probabilities(&row(&x, i))) {
            *y = p as f32;
        }
    }
}

/// Softmax of one row.
fn probabilities(x: &[f64]) -> Vec<f64> {
    let max = x.iter().copied().fold(f64::NEG_INFINITY, greater);
    let e: Vec<f64> = x.iter().map(|x| (x - max).exp()).collect();
    let sum: f64 = e.iter().sum();
    e.iter().map(|e| e / sum).collect()
}

fn cross_entropy(c: &mut Call) {
    let (x, targets) = (c.x(0), c.x(1).i32s());
    let (mut sum, mut counted) = (0.0, 0.0);
    for (i, &target) in targets.iter().enumerate() {
        if let Some(target) = usize::try_from(target).ok().filter(|&t| t < x.shape[1]) {
            let x = row(&x, i);
            let max = x.iter().copied().fold(f64::NEG_INFINITY, greater);
            let lse = x.iter().map(|x| (x - max).exp()).sum::<f64>().ln() + max;
            sum += lse - x[target];
            counted += 1.0;
        }
    }
    c.out[0] = (sum / counted) as f32;
}

fn rms_norm(c: &mut Call, eps: f64, offset: f64) {
    let (x, w) = (c.x(0), (c.arity() > 1).then(|| c.x(1).f32s()));
    let n = x.shape.last();
    for (i, y) in c.out.chunks_exact_mut(n).enumerate() {
        let x = row(&x, i);
        let scale = 1.0 / (dot(&x, &x) / n as f64 + eps).sqrt();
        for j in 0..n {
            y[j] = (x[j] * scale * w.map_or(1.0, |w| w[j] as f64 + offset)) as f32;
        }
    }
}

fn layer_norm(c: &mut Call, eps: f64) {
    let x = c.x(0);
    let affine = (c.arity() > 1).then(|| (c.x(1).f32s(), c.x(2).f32s()));
    for (i, y) in c.out.chunks_exact_mut(x.shape.last()).enumerate() {
        for (j, x) in normal(&row(&x, i), eps).iter().enumerate() {
            y[j] = affine.map_or(*x, |(w, b)| x * w[j] as f64 + b[j] as f64) as f32;
        }
    }
}

/// `(x - mean) / sqrt(var + eps)`
fn normal(x: &[f64], eps: f64) -> Vec<f64> {
    let n = x.len() as f64;
    let mean = x.iter().sum::<f64>() / n;
    let var = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
    x.iter().map(|x| (x - mean) / (var + eps).sqrt()).collect()
}

// ── moving numbers ──

/// Result element at coordinates `at` is operand element `from(at)`; bits are moved as they are, integers included.
fn gather_elements(c: &mut Call, from: impl Fn(&[usize; MAX_RANK]) -> usize) {
    let x = c.x(0).bytes.as_chunks::<4>().0;
    each(&c.node.shape.clone(), |i, at| c.out[i] = f32::from_le_bytes(x[from(at)]));
}

fn pad(c: &mut Call, axis: usize, before: usize) {
    let (x, strides) = (c.x(0), c.node.shape.strides());
    c.out.fill(0.0);
    each(&x.shape, |i, at| {
        let to: usize = (0..x.shape.len()).map(|k| at[k] * strides[k]).sum();
        c.out[to + before * strides[axis]] = x.f32s()[i];
    });
}

fn concat(c: &mut Call, axis: usize) {
    let strides = c.node.shape.strides();
    let mut before = 0;
    for k in 0..c.arity() {
        let x = c.x(k);
        each(&x.shape, |i, at| {
            let to: usize = (0..x.shape.len()).map(|k| at[k] * strides[k]).sum();
            c.out[to + before * strides[axis]] = x.f32s()[i];
        });
        before += x.shape[axis];
    }
}

fn gather(c: &mut Call) {
    let (table, ids) = (c.x(0), c.x(1).i32s());
    for (y, &id) in c.out.chunks_exact_mut(table.shape[1]).zip(ids) {
        table.dtype.decode(table.row(id as usize), y);
    }
}

fn scatter_add(c: &mut Call) {
    let (x, ids) = (c.x(0), c.x(1).i32s());
    let n = x.shape[1];
    let mut sums = vec![0.0; c.out.len()];
    for (i, &id) in ids.iter().enumerate() {
        for j in 0..n {
            sums[id as usize * n + j] += x.f32s()[i * n + j] as f64;
        }
    }
    for (y, sum) in c.out.iter_mut().zip(sums) {
        *y = sum as f32;
    }
}

fn one_hot(c: &mut Call) {
    let columns = c.node.shape[1];
    let ids = c.x(0).i32s();
    c.out.fill(0.0);
    for (i, &id) in ids.iter().enumerate() {
        if let Some(id) = usize::try_from(id).ok().filter(|&id| id < columns) {
            c.out[i * columns + id] = 1.0;
        }
    }
}

// ── products ──

/// The right operand may be stored in any format, its rows being decoded.
fn matmul(c: &mut Call) {
    let (a, b) = (c.x(0), c.x(1));
    let rank = a.shape.len();
    let (m, k, n) = (a.shape[rank - 2], a.shape[rank - 1], b.shape[rank - 1]);
    for (batch, y) in c.out.chunks_exact_mut((m * n).max(1)).enumerate() {
        let mut sums = vec![0.0; m * n];
        for p in 0..k {
            let b = row(&b, batch * k + p);
            for i in 0..m {
                let a = a.f32s()[(batch * m + i) * k + p] as f64;
                for j in 0..n {
                    sums[i * n + j] += a * b[j];
                }
            }
        }
        for (y, sum) in y.iter_mut().zip(sums) {
            *y = sum as f32;
        }
    }
}

/// The weight may be stored in any format, its rows being decoded.
fn linear(c: &mut Call) {
    let (x, w) = (c.x(0), c.x(1));
    let bias = (c.arity() == 3).then(|| c.x(2).f32s());
    let n = w.shape[0];
    let rows: Vec<Vec<f64>> = (0..x.shape.rows()).map(|i| row(&x, i)).collect();
    for j in 0..n {
        let w = row(&w, j);
        let b = bias.map_or(0.0, |b| b[j] as f64);
        for (i, x) in rows.iter().enumerate() {
            c.out[i * n + j] = (dot(x, &w) + b) as f32;
        }
    }
}

// ── positions ──

fn positions(c: &mut Call) {
    for s in c.batch.seqs {
        for i in 0..s.len {
            c.out[s.start + i] = (s.pos + i) as f32;
        }
    }
}

fn rope(c: &mut Call, style: RopeStyle, mscale: f64) {
    let (x, positions, inv_freq) = (c.x(0), c.x(1).f32s(), c.x(2).f32s());
    let (heads, d, half) = (x.shape[1], x.shape[2], inv_freq.len());
    let each = c.x(1).shape.len() == 2; // each pair has a position of its own
    c.out.copy_from_slice(x.f32s()); // what is beyond the frequencies stays
    for (i, y) in c.out.chunks_exact_mut(d).enumerate() {
        for (j, &f) in inv_freq.iter().enumerate() {
            // Rounded to f32 as in every implementation: at position 100,000 the angle's own rounding is what counts.
            let at = if each { i / heads * half + j } else { i / heads };
            let angle = (positions[at] * f) as f64;
            let (sin, cos) = (angle.sin() * mscale, angle.cos() * mscale);
            let (a, b) = match style {
                RopeStyle::Halves => (j, j + half),
                RopeStyle::Pairs => (2 * j, 2 * j + 1),
            };
            let (xa, xb) = (y[a] as f64, y[b] as f64);
            y[a] = (xa * cos - xb * sin) as f32;
            y[b] = (xb * cos + xa * sin) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::erf;

    #[test]
    fn the_error_function_is_that_of_the_tables() {
        // Abramowitz & Stegun, table 7.1; 3.5 from erfc in table 7.3's terms.
        let table =
            [(0.0, 0.0), (0.5, 0.5204998778), (1.0, 0.8427007929), (2.0, 0.9953222650), (3.5, 0.9999992569)];
        for (x, y) in table {
            assert!((erf(x) - y).abs() < 6e-11, "erf({x}) = {}", erf(x));
            assert_eq!(erf(-x), -erf(x));
        }
        assert_eq!((erf(7.0), erf(-7.0), erf(f64::INFINITY)), (1.0, -1.0, 1.0));
        assert!(erf(f64::NAN).is_nan());
    }
}
