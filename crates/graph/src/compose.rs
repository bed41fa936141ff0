//! Compositions in terms of primitives: what each means, its fallback on a backend without the kernel, and the
//! source of its gradient.

use crate::build::Builder;
use crate::graph::{Graph, GraphError, NodeId};
use crate::op::*;
use crate::x::X;

/// The composition `op` on `x`, spelt out. `None` for primitives.
///
/// `linear` stays whole where its weight is stored: its gradient needs no decoded copy (see [`crate::grad`]).
pub fn define<'g>(op: &Op, x: &[X<'g>]) -> Option<X<'g>> {
    Some(match *op {
        Op::Linear => linear(x),
        Op::RmsNorm { eps, offset } => rms_norm(x, eps, offset),
        Op::LayerNorm { eps } if x.len() == 1 => layer_norm(x[0], eps),
        Op::LayerNorm { eps } => layer_norm(x[0], eps) * x[1] + x[2],
        Op::GroupNorm { groups, eps } => group_norm(x, groups as usize, eps),
        Op::Rope { style, mscale } => rope(x[0], x[1], x[2], style, mscale),
        Op::Attend(how) => attend(x[0], x[1], x[2], how),
        Op::CrossAttend(how) => cross_attend(x, how),
        Op::Act(act) => activation(x[0], act),
        Op::Glu(act) => activation(x[0], act) * x[1],
        Op::Experts(act) => experts(x, act),
        Op::Softmax => softmax(x[0]),
        Op::CrossEntropy => cross_entropy(x[0], x[1]),
        Op::Conv2d(window) => conv2d(x, window),
        Op::Upsample(n) => upsample(x[0], n as usize),
        _ => return None,
    })
}

fn linear<'g>(x: &[X<'g>]) -> X<'g> {
    let (rows, k) = (x[0].shape().rows(), x[0].shape().last());
    let n = x[1].dim(0);
    let y = x[0].reshape(&[rows, k]).matmul(x[1].permute(&[1, 0])); // (T, N)
    let y = if x.len() == 3 { y + x[2] } else { y };
    y.reshape(&x[0].shape().with(x[0].shape().len() - 1, n))
}

fn rms_norm<'g>(x: &[X<'g>], eps: f32, offset: f32) -> X<'g> {
    let last = x[0].shape().len() - 1;
    let y = x[0] * ((x[0] * x[0]).mean(last) + eps).sqrt().recip();
    match x.get(1) {
        None => y,
        Some(&w) if offset == 0.0 => y * w,
        Some(&w) => y * (w + offset),
    }
}

fn layer_norm(x: X<'_>, eps: f32) -> X<'_> {
    let last = x.shape().len() - 1;
    let centred = x - x.mean(last);
    centred * ((centred * centred).mean(last) + eps).sqrt().recip()
}

fn group_norm<'g>(x: &[X<'g>], groups: usize, eps: f32) -> X<'g> {
    let s = x[0].shape(); // (N, C, H, W)
    let grouped = x[0].reshape(&[s[0], groups, s[1] / groups * s[2] * s[3]]);
    layer_norm(grouped, eps).reshape(&s) * x[1].reshape(&[s[1], 1, 1]) + x[2].reshape(&[s[1], 1, 1])
}

fn rope<'g>(x: X<'g>, positions: X<'g>, inv_freq: X<'g>, style: RopeStyle, mscale: f32) -> X<'g> {
    let s = x.shape(); // (T, H, D)
    let (t, h, d, half) = (s[0], s[1], s[2], inv_freq.dim(0));
    let each = positions.shape().count() / t.max(1);
    let angle = positions.reshape(&[t, each]) * inv_freq.reshape(&[1, half]); // (T, half)
    let cos = angle.unary(Unary::Cos).reshape(&[t, 1, half]) * mscale;
    let sin = angle.unary(Unary::Sin).reshape(&[t, 1, half]) * mscale;
    let (a, b) = match style {
        RopeStyle::Halves => (x.slice(2, 0, half), x.slice(2, half, half)),
        RopeStyle::Pairs => {
            let pairs = x.slice(2, 0, 2 * half).reshape(&[t, h, half, 2]);
            let side = |i| pairs.slice(3, i, 1).reshape(&[t, h, half]);
            (side(0), side(1))
        }
    };
    let (a, b) = (a * cos - b * sin, b * cos + a * sin);
    let turned = match style {
        RopeStyle::Halves => a.concat(2, &[b]),
        RopeStyle::Pairs => a.reshape(&[t, h, half, 1]).concat(3, &[b.reshape(&[t, h, half, 1])]),
    };
    let turned = turned.reshape(&[t, h, 2 * half]);
    if 2 * half == d { turned } else { turned.concat(2, &[x.slice(2, 2 * half, d - 2 * half)]) }
}

/// Over the tokens of this run alone: what is cached belongs to the same sequence as if it had been given with it.
fn attend<'g>(q: X<'g>, k: X<'g>, v: X<'g>, how: Attend) -> X<'g> {
    let s = q.shape();
    let (t, h, d, kv) = (s[0], s[1], s[2], k.dim(1));
    let g = h / kv;
    let q = q.reshape(&[t, kv, g, d]).permute(&[1, 2, 0, 3]).reshape(&[kv, g * t, d]);
    let scores = q.matmul(k.permute(&[1, 2, 0])) * how.scale; // (K, G·T, T)
    let scores = match how.softcap {
        Some(cap) => (scores * (1.0 / cap)).tanh() * cap,
        None => scores,
    };
    let mask = q.builder().mask(t, how.window, how.causal);
    let p = softmax(scores.reshape(&[kv, g, t, t]) + mask).reshape(&[kv, g * t, t]);
    let out = p.matmul(v.permute(&[1, 0, 2])); // (K, G·T, D)
    out.reshape(&[kv, g, t, d]).permute(&[2, 0, 1, 3]).reshape(&[t, h, d])
}

fn cross_attend<'g>(x: &[X<'g>], how: Cross) -> X<'g> {
    let (s, k, n) = (x[0].shape(), x[1].shape(), how.parts as usize);
    let (t, keys, heads, kv, d) = (s[0] / n, k[0] / n, s[1], k[1], s[2]);
    let group = heads / kv;
    let q = x[0].reshape(&[n, t, heads, d]).permute(&[0, 2, 1, 3]).reshape(&[n * kv, group * t, d]);
    let by_head = |x: X<'g>| x.reshape(&[n, keys, kv, d]).permute(&[0, 2, 1, 3]).reshape(&[n * kv, keys, d]);
    let scores = q.matmul(by_head(x[1]).transpose()) * how.scale;
    let mut scores = scores.reshape(&[n, heads, t, keys]);
    if let Some(bias) = x.get(3) {
        // Rows one longer than what they repeat, read as rows of its own length: each begins one earlier than the last.
        let long = t + keys - 1;
        let rows = bias.reshape(&[heads, 1, long]).expand(&[heads, t, long]).pad(2, 0, 1);
        let shifted = rows.reshape(&[heads, t * (long + 1)]).slice(1, 0, t * long).reshape(&[heads, t, long]);
        scores = scores + shifted.slice(2, t - 1, keys);
    }
    if how.causal {
        let mask = |i: usize| if i % keys > i / keys { f32::NEG_INFINITY } else { 0.0 };
        scores = scores + scores.builder().constant((0..t * keys).map(mask).collect()).reshape(&[t, keys]);
    }
    let out = softmax(scores).reshape(&[n * kv, group * t, keys]).matmul(by_head(x[2])); // (N·K, G·T, D)
    out.reshape(&[n, heads, t, d]).permute(&[0, 2, 1, 3]).reshape(&s)
}

/// Every expert on every token; what is not chosen has the share 0.
fn experts<'g>(x: &[X<'g>], act: Act) -> X<'g> {
    let (tokens, shares, w) = (x[0], x[1], &x[2..]);
    let (t, c, e) = (tokens.dim(0), tokens.dim(1), shares.dim(1));
    if w[0].shape().len() == 2 {
        let one = |i: usize| {
            let by = |x: X<'g>, w: X<'g>| x.matmul(w.transpose());
            let h = activation(by(tokens, w[3 * i]), act) * by(tokens, w[3 * i + 1]); // (T, F)
            by(h, w[3 * i + 2]) * shares.slice(1, i, 1) // (T, C)
        };
        return (1..e).fold(one(0), |sum, i| sum + one(i));
    }
    let all = tokens.reshape(&[1, t, c]).expand(&[e, t, c]);
    let by = |x: X<'g>, w: X<'g>| x.matmul(w.transpose());
    let h = activation(by(all, w[0]), act) * by(all, w[1]); // (E, T, F)
    let y = by(h, w[2]) * shares.transpose().reshape(&[e, t, 1]); // (E, T, C)
    y.sum(0).reshape(&[t, c])
}

fn activation(x: X<'_>, act: Act) -> X<'_> {
    match act {
        Act::Silu => x * x.unary(Unary::Sigmoid),
        Act::GeluTanh => {
            let inner = (x + x * x * x * 0.044715) * (2.0 / std::f32::consts::PI).sqrt();
            x * 0.5 * (inner.tanh() + 1.0)
        }
        Act::GeluQuick => x * (x * 1.702).unary(Unary::Sigmoid),
        Act::Gelu => x * 0.5 * ((x * std::f32::consts::FRAC_1_SQRT_2).unary(Unary::Erf) + 1.0),
    }
}

fn softmax(x: X<'_>) -> X<'_> {
    let last = x.shape().len() - 1;
    let e = (x - x.max(last)).exp();
    e / e.sum(last)
}

fn cross_entropy<'g>(x: X<'g>, targets: X<'g>) -> X<'g> {
    let counted = targets.one_hot(x.dim(1)); // (T, V), zero rows where the target is negative
    let m = x.max(1);
    let lse = (x - m).exp().sum(1).log() + m; // (T, 1)
    ((lse - x) * counted).sum_all() / counted.sum_all()
}

fn conv2d<'g>(x: &[X<'g>], window: Window) -> X<'g> {
    let (s, w) = (x[0].shape(), x[1].shape()); // (N, C, H, W), (O, C, k, k)
    let (h, v) = (window.steps(s[2]).unwrap_or(1), window.steps(s[3]).unwrap_or(1));
    let patch = w[1] * w[2] * w[3];
    let kernel = x[1].reshape(&[1, w[0], patch]).expand(&[s[0], w[0], patch]);
    let y = kernel.matmul(x[0].unfold(window)); // (N, O, H'·W')
    let y = if x.len() == 3 { y + x[2].reshape(&[w[0], 1]) } else { y };
    y.reshape(&[s[0], w[0], h, v])
}

fn upsample(x: X<'_>, n: usize) -> X<'_> {
    let s = x.shape(); // (N, C, H, W)
    let wide = x.reshape(&[s[0], s[1], s[2], 1, s[3], 1]).expand(&[s[0], s[1], s[2], n, s[3], n]);
    wide.reshape(&[s[0], s[1], s[2] * n, s[3] * n])
}

/// The graph with every composition spelt out for which `spell` says so; names of weights, inputs and outputs stay.
pub fn lower(graph: &Graph, spell: impl Fn(&Op) -> bool) -> Result<Graph, GraphError> {
    let g = Builder::over(graph.emptied());
    let mut map: Vec<NodeId> = Vec::with_capacity(graph.nodes.len());
    for node in &graph.nodes {
        let x: Vec<X> = node.inputs.iter().map(|i| g.at(map[i.index()])).collect();
        g.say_lines_of(node);
        let spelt = if spell(&node.op) { define(&node.op, &x) } else { None };
        let Some(id) = spelt.unwrap_or_else(|| g.repeat(node, &x)).id() else { break };
        map.push(id);
    }
    for (name, id) in &graph.outputs {
        if let Some(&id) = map.get(id.index()) {
            g.output(name, g.at(id));
        }
    }
    g.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::GraphError;
    use hob_dtype::DType;

    #[test]
    fn every_composition_is_defined_with_its_own_shape() -> Result<(), GraphError> {
        let g = Builder::stateless(5);
        let x = g.input("x", &[5, 4, 6], DType::F32);
        let kv = g.input("kv", &[5, 2, 6], DType::F32);
        let img = g.input("img", &[2, 4, 6, 8], DType::F32);
        let p = g.path("p");
        let how = Attend { scale: 0.3, window: Some(3), softcap: Some(5.0), causal: true, cache: None };
        let flat = x.reshape(&[5, 24]);
        let all = [
            x.linear_bias(p / "l", 7),
            x.rms_norm(p / "r", 1e-5, 1.0),
            x.layer_norm(p / "n", 1e-5),
            img.group_norm(p / "g", 2, 1e-5),
            x.rope(g.constant(vec![1.0, 0.1]), RopeStyle::Pairs, 1.0),
            x.rope(g.constant(vec![1.0, 0.1, 0.2]), RopeStyle::Halves, 1.0),
            x.attend(kv, kv, how),
            x.cross_attend(kv, kv, Cross { scale: 0.3, parts: 5, causal: true }, None),
            x.cross_attend(kv, kv, Cross { scale: 0.3, parts: 1, causal: false }, Some(p.weight(&[4, 9]))),
            x.layer_norm_plain(1e-5),
            x.rms_norm_plain(1e-5),
            x.rope_at(flat.slice(1, 0, 3), g.constant(vec![1.0, 0.1, 0.2]), RopeStyle::Pairs, 1.0),
            x.act(Act::Gelu),
            flat.glu(Act::Silu, flat),
            flat.softmax(),
            flat.experts(flat.slice(1, 0, 3).softmax(), p / "e", ["g", "u", "d"], 7, Act::Silu, true),
            flat.experts(flat.slice(1, 0, 3).softmax(), p / "f", ["g", "u", "d"], 7, Act::Gelu, false),
            flat.cross_entropy(g.ids()),
            img.conv2d(p / "c", 3, Window { kernel: 3, stride: 2, padding: 1 }, true),
            img.upsample(2),
        ];
        for (i, x) in all.iter().enumerate() {
            g.output(&i.to_string(), *x);
        }
        let graph = g.finish()?;
        let low = lower(&graph, |_| true)?;
        assert!(low.nodes.iter().all(|n| !n.op.is_composition()));
        for ((name, a), (_, b)) in graph.outputs.iter().zip(&low.outputs) {
            assert_eq!(graph.node(*a).shape, low.node(*b).shape, "output {name}");
        }
        assert_eq!(graph.outputs.len(), low.outputs.len());
        Ok(())
    }
}
