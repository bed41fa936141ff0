//! The table: every op with parameters and shapes.

use crate::harness::{Row, row};
use hob_graph::op::{Act, Attend, Binary, Cross, Op, RopeStyle, Unary, Window};
use hob_graph::{Builder, DType, X};

const ACTS: [Act; 4] = [Act::Silu, Act::GeluTanh, Act::Gelu, Act::GeluQuick];
const WINDOWS: [Window; 5] =
    [window(3, 1, 1), window(1, 1, 0), window(2, 2, 0), window(3, 2, 1), window(4, 3, 2)];
/// Shapes of rows: the first are small enough for finite differences, the last large enough for several threads.
const ROWS: [[usize; 2]; 9] =
    [[1, 1], [1, 5], [2, 8], [3, 7], [7, 3], [17, 2], [1, 33], [17, 100], [130, 257]];

const fn window(kernel: u8, stride: u8, padding: u8) -> Window {
    Window { kernel, stride, padding }
}

fn x<'g>(g: &'g Builder, dims: &[usize]) -> X<'g> {
    g.weight("x", dims)
}

/// Every row.
pub fn table() -> Vec<Row> {
    [
        elementwise(),
        axes(),
        moves(),
        products(),
        experts(),
        norms(),
        positions(),
        attention(),
        cross(),
        images(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn elementwise() -> Vec<Row> {
    let mut rows = Vec::new();
    let unary = [
        Unary::Neg,
        Unary::Exp,
        Unary::Log,
        Unary::Sqrt,
        Unary::Recip,
        Unary::Sin,
        Unary::Cos,
        Unary::Tanh,
        Unary::Sigmoid,
        Unary::Erf,
        Unary::Relu,
        Unary::Step,
    ];
    for f in unary {
        for dims in [[3, 5], [1, 1], [130, 257]] {
            let r = row(format!("{f:?} {dims:?}"), move |g| x(g, &dims).unary(f));
            let positive = matches!(f, Unary::Log | Unary::Sqrt | Unary::Recip);
            let r = if positive { r.range(0.5, 2.5) } else { r };
            rows.push(if f == Unary::Step { r.flat() } else { r });
        }
        let positive = matches!(f, Unary::Log | Unary::Sqrt | Unary::Recip);
        let r = row(format!("{f:?}, wide"), move |g| x(g, &[999]).unary(f)).flat();
        rows.push(r.range(if positive { 1e-3 } else { -30.0 }, 30.0));
    }
    let shapes: [(&[usize], &[usize]); 15] = [
        (&[3, 4], &[3, 4]),
        (&[3, 4], &[4]),
        (&[4], &[3, 4]),
        (&[3, 4], &[3, 1]),
        (&[3, 1], &[1, 4]),
        (&[2, 3, 4], &[3, 1]),
        (&[2, 1, 3], &[4, 1]),
        (&[5], &[]),
        (&[], &[5]),
        (&[2, 3, 1, 2], &[2, 1, 3, 1]),
        (&[130, 257], &[130, 257]),
        (&[130, 257], &[257]),
        (&[257], &[130, 257]),
        (&[130, 257], &[130, 1]),
        (&[40, 30, 1], &[40, 1, 30]),
    ];
    for f in [Binary::Add, Binary::Sub, Binary::Mul, Binary::Div] {
        for (a, b) in shapes {
            let r = row(format!("{f:?} {a:?} {b:?}"), move |g| {
                let (x, y) = (g.weight("a", a), g.weight("b", b));
                match f {
                    Binary::Add => x + y,
                    Binary::Sub => x - y,
                    Binary::Mul => x * y,
                    Binary::Div => x / y,
                }
            });
            rows.push(r.range(0.5, 2.0));
        }
    }
    rows.push(row("numbers", |g| (x(g, &[2, 3]) * 3.0 + 1.0) / 2.0 - g.constant(vec![1.0, 2.0, 3.0])));
    rows.push(row("the same operand twice", |g| x(g, &[2, 3]) * x(g, &[2, 3])));
    for act in ACTS {
        for dims in ROWS {
            rows.push(row(format!("{act:?} {dims:?}"), move |g| x(g, &dims).act(act)));
            rows.push(row(format!("glu {act:?} {dims:?}"), move |g| {
                x(g, &dims).glu(act, g.weight("up", &dims))
            }));
        }
        rows.push(row(format!("{act:?}, wide"), move |g| x(g, &[999]).act(act)).range(-40.0, 40.0).flat());
    }
    rows
}

fn axes() -> Vec<Row> {
    let mut rows = Vec::new();
    for axis in 0..3 {
        rows.push(row(format!("sum {axis}"), move |g| x(g, &[2, 3, 4]).sum(axis)));
        rows.push(row(format!("max {axis}"), move |g| x(g, &[2, 3, 4]).max(axis)));
        rows.push(row(format!("mean {axis}, large"), move |g| x(g, &[40, 30, 50]).mean(axis)));
    }
    rows.push(row("sum of all", |g| x(g, &[3, 5]).sum_all()));
    for dims in ROWS {
        rows.push(row(format!("softmax {dims:?}"), move |g| x(g, &dims).softmax()));
    }
    rows.push(row("softmax (2, 3, 4)", |g| x(g, &[2, 3, 4]).softmax()));
    rows.push(row("softmax, wide", |g| x(g, &[3, 333]).softmax()).range(-300.0, 300.0).flat());
    rows.push(row("cross_entropy", |g| x(g, &[4, 5]).cross_entropy(g.ids())).ids("ids", &[0, 4, 2, 2]));
    rows.push(
        row("cross_entropy, rows left out", |g| x(g, &[5, 7]).cross_entropy(g.ids()))
            .ids("ids", &[-100, 6, -1, 0, 7]),
    );
    rows.push(
        row("one_hot", |g| g.ids().one_hot(4) * x(g, &[6, 4])).ids("ids", &[0, 3, -1, 4, i32::MIN, i32::MAX]),
    );
    rows
}

fn moves() -> Vec<Row> {
    let mut rows = vec![
        row("reshape", |g| x(g, &[2, 3, 4]).exp().reshape(&[6, 4]).tanh()),
        row("permute 0 1", |g| x(g, &[3, 4]).permute(&[0, 1])),
        row("permute 1 0", |g| x(g, &[3, 4]).permute(&[1, 0])),
        row("permute 2 0 1", |g| x(g, &[2, 3, 4]).permute(&[2, 0, 1])),
        row("permute 3 1 0 2", |g| x(g, &[2, 3, 4, 2]).permute(&[3, 1, 0, 2])),
        row("permute 1 0 2, large", |g| x(g, &[70, 9, 64]).permute(&[1, 0, 2])),
        row("permute 1 0, large", |g| x(g, &[190, 211]).permute(&[1, 0])),
        row("permute 2 1 0, large", |g| x(g, &[33, 40, 50]).permute(&[2, 1, 0])),
        row("permute 0 2 1, large", |g| x(g, &[37, 64, 30]).permute(&[0, 2, 1])),
        row("expand, large", |g| x(g, &[40, 1, 50]).expand(&[40, 30, 50])),
        row("slice, large", |g| x(g, &[70, 9, 64]).slice(2, 32, 32)),
        row("pad, large", |g| x(g, &[70, 9, 32]).pad(1, 3, 5)),
        row("concat, large", |g| x(g, &[70, 9, 32]).concat(2, &[g.weight("b", &[70, 9, 40])])),
        row("concat of rows, large", |g| x(g, &[70, 300]).concat(0, &[g.weight("b", &[130, 300])])),
        row("scatter_add, large", |g| x(g, &[90, 300]).scatter_add(g.ids(), 50)).ids("ids", &[7; 90]),
        row("sum of all, large", |g| x(g, &[300, 1000]).exp().sum_all()),
        row("max of all, large", |g| x(g, &[300_001]).max(0)),
        row("expand a scalar", |g| x(g, &[]).expand(&[2, 3])),
        row("expand (3) to (2, 3)", |g| x(g, &[3]).expand(&[2, 3])),
        row("expand (2, 1, 3, 1)", |g| x(g, &[2, 1, 3, 1]).expand(&[2, 4, 3, 2])),
        row("gather", |g| x(g, &[5, 3]).gather(g.ids())).ids("ids", &[4, 0, 4, 1]),
        row("gather, large", |g| x(g, &[50, 300]).gather(g.ids())).ids("ids", &[7; 90]),
        row("scatter_add", |g| x(g, &[4, 3]).scatter_add(g.ids(), 6)).ids("ids", &[4, 0, 4, 1]),
        row("a slice of ids", |g| x(g, &[5, 3]).gather(g.ids().slice(0, 1, 2))).ids("ids", &[4, 0, 2, 1]),
    ];
    for axis in 0..3 {
        rows.push(row(format!("slice {axis}"), move |g| x(g, &[3, 4, 5]).slice(axis, 1, 2)));
        rows.push(row(format!("pad {axis}"), move |g| x(g, &[2, 3, 4]).pad(axis, 2, 1)));
        rows.push(row(format!("concat {axis}"), move |g| {
            let dims = |n| {
                let mut d = [2, 3, 4];
                d[axis] = n;
                d
            };
            x(g, &dims(2)).concat(axis, &[g.weight("b", &dims(1)), g.weight("c", &dims(3))])
        }));
    }
    rows
}

fn products() -> Vec<Row> {
    let mut rows = Vec::new();
    let shapes: [(&[usize], &[usize]); 13] = [
        (&[1, 1], &[1, 1]),
        (&[3, 4], &[4, 5]),
        (&[1, 7], &[7, 9]),
        (&[7, 2], &[2, 17]),
        (&[2, 3, 4], &[2, 4, 5]),
        (&[2, 2, 3, 2], &[2, 2, 2, 3]),
        (&[17, 33], &[33, 19]),
        (&[65, 130], &[130, 67]),
        (&[130, 257], &[257, 70]),
        (&[3, 40, 64], &[3, 64, 50]),
        (&[1, 500], &[500, 777]),
        (&[1100, 3], &[3, 20]),
        (&[600, 300], &[300, 33]),
    ];
    for (a, b) in shapes {
        rows.push(row(format!("matmul {a:?} {b:?}"), move |g| g.weight("a", a).matmul(g.weight("b", b))));
    }
    for [t, k] in [[1, 1], [1, 5], [2, 4], [3, 7], [7, 8], [17, 2], [17, 100], [130, 257]] {
        rows.push(row(format!("linear ({t}, {k})"), move |g| x(g, &[t, k]).linear(g.path("p"), 5)));
        rows.push(row(format!("linear ({t}, {k}), bias"), move |g| {
            x(g, &[t, k]).linear_bias(g.path("p"), 9)
        }));
    }
    rows.push(row("linear of (2, 3, 4)", |g| x(g, &[2, 3, 4]).linear_bias(g.path("p"), 5)));
    rows
}

fn experts() -> Vec<Row> {
    let mut rows = Vec::new();
    for dims in ROWS {
        for k in [1, dims[1].div_ceil(2), dims[1]] {
            rows.push(row(format!("top_k {k} {dims:?}"), move |g| x(g, &dims).top_k(k)).flat());
        }
    }
    rows.push(row("top_k of equal numbers", |g| x(g, &[2, 5]).top_k(3)).range(1.0, 1.0).flat());
    rows.push(row("top_k that scales", |g| x(g, &[3, 5]).top_k(2) * x(g, &[3, 5])));
    let sizes = [
        (1, 1, 1, 1, 1),
        (1, 3, 2, 4, 2),
        (3, 4, 5, 3, 2),
        (5, 2, 3, 4, 4),
        (70, 40, 67, 9, 3),
        (9, 33, 100, 40, 1),
    ];
    for (t, c, f, e, k) in sizes {
        for stacked in [true, false] {
            for act in ACTS {
                let name = format!("experts {act:?}, {k} of {e}, ({t}, {c}) by {f}, stacked {stacked}");
                rows.push(row(name, move |g| {
                    let logits = g.weight("router", &[t, e]);
                    let shares = logits.softmax() * logits.top_k(k);
                    let shares = shares / shares.sum(1);
                    x(g, &[t, c]).experts(shares, g.path("e"), ["g", "u", "d"], f, act, stacked)
                }));
            }
        }
    }
    // One is chosen by all tokens, others by none.
    rows.push(row("experts that all choose", |g| {
        let shares = g.constant((0..20 * 6).map(|i| [0.0, 0.25, 0.0, -1.5, 0.0, 0.0][i % 6]).collect());
        x(g, &[20, 8]).experts(shares.reshape(&[20, 6]), g.path("e"), ["g", "u", "d"], 5, Act::Silu, true)
    }));
    rows.push(
        row("experts that none chooses", |g| {
            let shares = g.constant(vec![0.0; 6]).reshape(&[2, 3]);
            x(g, &[2, 3]).experts(shares, g.path("e"), ["g", "u", "d"], 5, Act::Silu, true)
        })
        .flat(),
    );
    rows
}

fn norms() -> Vec<Row> {
    let mut rows = Vec::new();
    for dims in ROWS {
        for offset in [0.0, 1.0] {
            rows.push(row(format!("rms_norm {dims:?} offset {offset}"), move |g| {
                x(g, &dims).rms_norm(g.path("n"), 1e-2, offset)
            }));
        }
        // Of two numbers, or one, what is left after a layer norm hardly depends on them.
        rows.push(row(format!("rms_norm {dims:?}, plain"), move |g| x(g, &dims).rms_norm_plain(1e-2)));
        rows.push(row(format!("layer_norm {dims:?}, plain"), move |g| x(g, &dims).layer_norm_plain(1e-1)));
        let r = row(format!("layer_norm {dims:?}"), move |g| x(g, &dims).layer_norm(g.path("n"), 1e-1));
        rows.push(r);
    }
    rows.push(row("rms_norm (2, 3, 4)", |g| x(g, &[2, 3, 4]).rms_norm(g.path("n"), 1e-5, 0.0)));
    rows.push(
        row("rms_norm of zeros", |g| x(g, &[2, 4]).rms_norm(g.path("n"), 1e-5, 0.0)).range(0.0, 0.0).flat(),
    );
    rows.push(
        row("layer_norm far from 0", |g| x(g, &[3, 64]).layer_norm(g.path("n"), 1e-5))
            .range(99.0, 101.0)
            .flat(),
    );
    let shapes =
        [([1, 4, 2, 2], 2), ([2, 6, 1, 3], 3), ([2, 4, 3, 2], 1), ([1, 3, 2, 3], 3), ([2, 32, 17, 19], 8)];
    for (dims, groups) in shapes {
        rows.push(row(format!("group_norm {dims:?} in {groups}"), move |g| {
            x(g, &dims).group_norm(g.path("n"), groups, 1e-2)
        }));
    }
    rows
}

fn positions() -> Vec<Row> {
    let mut rows = vec![
        row("positions", |g| g.positions() * x(g, &[1])).seqs(&[(0, 3), (40_000, 2), (7, 1)]),
        row("mask", |g| g.mask(6, None, true)).seqs(&[(0, 3), (2, 2), (7, 1)]),
        row("mask, window", |g| g.mask(7, Some(2), true)).seqs(&[(0, 5), (2, 2)]),
        row("mask, both ways", |g| g.mask(5, None, false)).seqs(&[(0, 3), (2, 2)]),
        row("mask, both ways, window", |g| g.mask(7, Some(2), false)).seqs(&[(0, 5), (2, 2)]),
    ];
    for style in [RopeStyle::Halves, RopeStyle::Pairs] {
        for (heads, d, half, mscale) in [(1, 2, 1, 1.0), (2, 8, 4, 1.0), (3, 6, 2, 1.2), (2, 5, 2, 1.0)] {
            rows.push(
                row(format!("rope {style:?} {heads} × {d}, {half} frequencies"), move |g| {
                    let f = g.constant((0..half).map(|i| 0.5f32.powi(i)).collect());
                    x(g, &[5, heads, d]).rope(f, style, mscale)
                })
                .seqs(&[(0, 3), (9, 2)]),
            );
        }
        rows.push(row(format!("rope {style:?} at positions of its own"), move |g| {
            let f = g.constant(vec![1.0, 0.5, 0.25]);
            let at = g.constant((0..15).map(|i| (i * 7 % 11) as f32).collect()).reshape(&[5, 3]);
            x(g, &[5, 2, 8]).rope_at(at, f, style, 1.0)
        }));
        rows.push(
            row(format!("rope {style:?}, large"), move |g| {
                let f = g.constant((0..32).map(|i| 1e-4f32.powf(i as f32 / 32.0)).collect());
                x(g, &[70, 9, 64]).rope(f, style, 1.0)
            })
            .seqs(&[(4000, 70)]),
        );
    }
    rows
}

fn attention() -> Vec<Row> {
    let how = Attend { scale: 0.4, window: None, softcap: None, causal: true, cache: None };
    let variants = [
        ("causal", how),
        ("both ways", Attend { causal: false, ..how }),
        ("window", Attend { window: Some(2), ..how }),
        ("window both ways", Attend { window: Some(2), causal: false, ..how }),
        ("softcap", Attend { softcap: Some(1.5), ..how }),
        ("wide window both ways", Attend { window: Some(70), causal: false, ..how }),
    ];
    let mut rows = Vec::new();
    for (name, how) in variants {
        for (heads, kv) in [(1, 1), (4, 2), (3, 1)] {
            let name = format!("attend {name}, {heads} heads of {kv}");
            let cases: [(&[(usize, usize)], usize); 4] = [
                (&[(0, 1)], 2),
                (&[(0, 3), (5, 2)], 3),
                (&[(0, 70), (1, 1), (0, 17)], 16),
                (&[(0, 200), (0, 3), (9, 130)], 20),
            ];
            for (seqs, d) in cases {
                let t: usize = seqs.iter().map(|s| s.1).sum();
                let r = row(format!("{name}, {seqs:?}"), move |g| {
                    let (k, v) = (g.weight("k", &[t, kv, d]), g.weight("v", &[t, kv, d]));
                    g.weight("q", &[t, heads, d]).attend(k, v, how)
                });
                rows.push(r.seqs(seqs));
            }
        }
    }
    rows
}

fn cross() -> Vec<Row> {
    let mut rows = Vec::new();
    let sizes = [
        // parts, queries and keys of each, heads, key heads, D
        (1, 1, 1, 1, 1, 1),
        (1, 3, 2, 2, 1, 3),
        (2, 2, 3, 4, 2, 2),
        (1, 70, 77, 3, 3, 20),
        (3, 33, 130, 2, 1, 40),
        (2, 200, 200, 2, 2, 64),
        (1, 130, 300, 1, 1, 160),
    ];
    for (n, t, s, heads, kv, d) in sizes {
        for (causal, bias) in [(false, false), (true, false), (false, true)] {
            if causal && t != s {
                continue;
            }
            let how = Cross { scale: 0.4, parts: n as u32, causal };
            let name = format!(
                "cross_attend {n} × {t} of {s}, {heads} heads of {kv}, {d}, causal {causal}, bias {bias}"
            );
            rows.push(row(name, move |g| {
                let (k, v) = (g.weight("k", &[n * s, kv, d]), g.weight("v", &[n * s, kv, d]));
                let bias = bias.then(|| g.weight("bias", &[heads, t + s - 1]));
                g.weight("q", &[n * t, heads, d]).cross_attend(k, v, how, bias)
            }));
        }
    }
    rows
}

fn images() -> Vec<Row> {
    let mut rows = Vec::new();
    for w in WINDOWS {
        for dims in [[1, 2, 5, 4], [2, 3, 4, 6], [2, 16, 33, 29]] {
            rows.push(row(format!("unfold {w:?} {dims:?}"), move |g| x(g, &dims).unfold(w)));
            let steps = w.steps(dims[2]).unwrap() * w.steps(dims[3]).unwrap();
            let patches = [dims[0], dims[1] * (w.kernel as usize).pow(2), steps];
            rows.push(row(format!("fold {w:?} {dims:?}"), move |g| x(g, &patches).fold(w, &dims)));
            for bias in [false, true] {
                let out = if dims[1] == 16 { 13 } else { 3 };
                rows.push(row(format!("conv2d {w:?} {dims:?} bias {bias}"), move |g| {
                    x(g, &dims).conv2d(g.path("c"), out, w, bias)
                }));
            }
        }
    }
    // Enough tiles and channels for minimal filtering, and neither whole tiles nor whole vectors.
    for (dims, out, padding) in
        [([2, 33, 21, 27], 35, 1), ([1, 300, 18, 66], 50, 1), ([1, 32, 23, 22], 97, 0)]
    {
        rows.push(row(format!("conv2d {dims:?} to {out}, padding {padding}"), move |g| {
            x(g, &dims).conv2d(g.path("c"), out, window(3, 1, padding), true)
        }));
    }
    for (dims, n) in [([1, 2, 2, 3], 2), ([2, 1, 3, 1], 3), ([1, 1, 1, 1], 2), ([2, 8, 33, 29], 2)] {
        rows.push(row(format!("upsample {n} {dims:?}"), move |g| x(g, &dims).upsample(n)));
    }
    rows
}

/// A number for each kind of op: whoever adds an op is asked here for its rows in the table.
pub fn kind(op: &Op) -> usize {
    match op {
        Op::Input(_) => 0,
        Op::Weight(_) => 1,
        Op::Const(_) => 2,
        Op::Fill(_) => 3,
        Op::Positions => 4,
        Op::Mask { .. } => 5,
        Op::Unary(_) => 6,
        Op::Binary(_) => 7,
        Op::Sum(_) => 8,
        Op::Max(_) => 9,
        Op::Reshape => 10,
        Op::Permute(_) => 11,
        Op::Expand => 12,
        Op::Slice { .. } => 13,
        Op::Pad { .. } => 14,
        Op::Concat(_) => 15,
        Op::MatMul => 16,
        Op::Gather => 17,
        Op::ScatterAdd => 18,
        Op::OneHot => 19,
        Op::Unfold(_) => 20,
        Op::Fold(_) => 21,
        Op::Linear => 22,
        Op::RmsNorm { .. } => 23,
        Op::LayerNorm { .. } => 24,
        Op::GroupNorm { .. } => 25,
        Op::Rope { .. } => 26,
        Op::Attend(_) => 27,
        Op::Act(_) => 28,
        Op::Glu(_) => 29,
        Op::Softmax => 30,
        Op::CrossEntropy => 31,
        Op::Conv2d(_) => 32,
        Op::Upsample(_) => 33,
        Op::TopK(_) => 34,
        Op::Experts(_) => 35,
        Op::CrossAttend(_) => 36,
    }
}

pub const KINDS: usize = 37;

/// The graphs of `linear`, `matmul` and `gather` on a stored weight `w`, for `t` rows, `k` in and `n` out.
pub fn on_stored(op: &str, t: usize, k: usize, n: usize) -> (hob_graph::Graph, [usize; 2]) {
    let g = Builder::stateless(t);
    let (y, dims) = match op {
        "linear" => (g.input("x", &[t, k], DType::F32).linear_by(g.weight("w", &[n, k])), [n, k]),
        "matmul" => (g.input("x", &[t, n], DType::F32).matmul(g.weight("w", &[n, k])), [n, k]),
        "gather" => (g.weight("w", &[n, k]).gather(g.ids()), [n, k]),
        _ => unreachable!(),
    };
    g.output("y", y);
    (g.finish().unwrap(), dims)
}
