//! The op table: every op against its definition, its kernels, its gradient, in every weight format.

#[path = "ops/cached.rs"]
mod cached;
#[path = "ops/experts.rs"]
mod experts;
#[path = "ops/harness.rs"]
mod harness;
#[path = "ops/table.rs"]
mod table;
#[path = "ops/torch.rs"]
mod torch;

use harness::*;
use hob_cpu::{Cpu, Precision, Weights};
use hob_graph::compose::lower;
use hob_graph::op::{Op, Window};
use hob_graph::{Batch, Builder, DType, Data};
use table::{KINDS, kind, on_stored, table};

#[test]
fn every_op_has_a_row() {
    let mut seen = [false; KINDS];
    table().iter().flat_map(|r| r.graph().nodes).for_each(|n| seen[kind(&n.op)] = true);
    let missing: Vec<usize> = (0..KINDS).filter(|&k| !seen[k]).collect();
    assert!(missing.is_empty(), "no row has the ops with these numbers: {missing:?}");
}

#[test]
fn a_composition_is_what_its_primitives_say() {
    let cpu = reference();
    let mut checked = 0;
    for row in table() {
        let graph = row.graph();
        if !graph.nodes.iter().any(|n| n.op.is_composition()) {
            continue;
        }
        let weights = row.weights(&graph);
        let low = lower(&graph, |_| true).unwrap();
        let [whole, spelt] = [row.run(&cpu, &graph, &weights), row.run(&cpu, &low, &weights)];
        assert_close(&row.name, &spelt[0], &whole[0], 1e-5);
        checked += 1;
    }
    assert!(checked > 100);
}

#[test]
fn a_kernel_is_its_reference() {
    let cpus = [1, 2, 3].map(|threads| Cpu::new(threads, Precision::Exact));
    let oracle = reference();
    for row in table() {
        let graph = row.graph();
        let weights = row.weights(&graph);
        let right = row.run(&oracle, &graph, &weights);
        for cpu in &cpus {
            let y = row.run(cpu, &graph, &weights);
            let name = format!("{} on {} threads", row.name, cpu.pool.threads());
            assert_close(&name, &y[0], &right[0], 1e-5);
        }
    }
}

#[test]
fn a_fast_kernel_is_nearly_its_reference() {
    let (cpu, oracle) = (Cpu::new(2, Precision::Fast), reference());
    for row in table() {
        let graph = row.graph();
        let weights = row.weights(&graph);
        // Attention may multiply numbers of 16 bits; all else is in f32 as operands are.
        let short = graph.nodes.iter().any(|n| matches!(n.op, Op::CrossAttend(_)));
        let (y, right) = (row.run(&cpu, &graph, &weights), row.run(&oracle, &graph, &weights));
        assert_close(&row.name, &y[0], &right[0], if short { 5e-5 } else { 1e-5 });
    }
}

#[test]
fn convolutions_by_stored_kernels() {
    let exact = [1, 2, 3].map(|t| (Cpu::new(t, Precision::Exact), 1e-5));
    let cpus: Vec<_> =
        exact.into_iter().chain([1, 2].map(|t| (Cpu::new(t, Precision::Fast), 3e-5))).collect();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for (inputs, outputs, [height, width], kernel, stride) in [
            (3, 5, [9, 7], 3, 1),
            (33, 34, [8, 8], 3, 1),
            (64, 40, [16, 16], 3, 1),
            (35, 37, [7, 9], 3, 1),
            (100, 70, [4, 5], 3, 1),
            (40, 33, [5, 40], 3, 1),
            (21, 64, [11, 13], 1, 1),
            (32, 4, [20, 70], 3, 1),
            (17, 36, [18, 18], 3, 2),
            (8, 16, [12, 12], 5, 1),
        ] {
            let g = Builder::stateless(1);
            let x = g.input("x", &[2, inputs, height, width], DType::F32);
            let window = Window { kernel, stride, padding: kernel / 2 };
            g.output("y", x.conv2d(g.path("w"), outputs, window, false));
            let mut graph = g.finish().unwrap();
            let shape = graph.weights[0].shape.to_vec();
            graph.bind(|_| Some((dtype, shape.clone()))).unwrap();
            let (tensor, _) = stored(dtype, shape.iter().product(), 3);
            let mut weights = Weights::default();
            weights.insert(&graph.weights[0].name, tensor);
            let mut random = Random(5);
            let x: Vec<f32> = (0..2 * inputs * height * width).map(|_| random.signed()).collect();
            let run = |cpu: &Cpu| {
                let inputs = &[("x", Data::F32(&x))];
                run(cpu, &graph, &weights, &Batch { inputs, seqs: &[] }).unwrap().remove(0)
            };
            let right = run(&reference());
            for (cpu, tolerance) in &cpus {
                let name = format!(
                    "{dtype} {inputs} to {outputs} at {height}x{width}, {kernel} by {stride}, {:?}",
                    cpu.precision
                );
                let tolerance = if dtype == DType::F32 { 1e-5 } else { *tolerance };
                assert_close(&name, &run(cpu), &right, tolerance);
            }
        }
    }
}

#[test]
fn check_mode_passes_right_kernels() {
    let cpu = Cpu { check: true, ..Cpu::new(2, Precision::Fast) };
    for row in table() {
        let graph = row.graph();
        row.run(&cpu, &graph, &row.weights(&graph));
    }
}

/// Operands beyond which a row is not differentiated numerically.
const FEW: usize = 300;

#[test]
fn a_gradient_is_the_slope() {
    let (oracle, kernels) = (reference(), Cpu::new(2, Precision::Exact));
    let mut checked = 0;
    for row in table().into_iter().filter(|r| !r.flat) {
        let (graph, r) = row.loss();
        let mut weights = row.weights(&graph);
        let count: usize = weights.iter().map(|w| w.1.len()).sum();
        if count == 0 || count > FEW {
            continue;
        }
        let names: Vec<String> = weights.iter().map(|w| w.0.clone()).collect();
        let wrt: Vec<&str> = names.iter().map(|n| n.as_str()).collect();
        let slopes = hob_graph::grad(&graph, "loss", &wrt).unwrap_or_else(|e| panic!("{}: {e}", row.name));
        let exact = row.run(&oracle, &slopes, &weights);
        let fast = row.run(&kernels, &slopes, &weights);
        for ((name, a), b) in slopes.outputs.iter().zip(&fast).zip(&exact) {
            assert_close(&format!("{} {} by kernels", row.name, name.0), a, b, 1e-4);
        }

        // The loss is summed here, in f64: its difference is then good to five digits.
        let y_graph = row.graph();
        let mut loss = |w: usize, i: usize, by: f32| -> (f64, f32) {
            let was = weights[w].1[i];
            weights[w].1[i] = was + by;
            let at = weights[w].1[i];
            let y = row.run(&oracle, &y_graph, &weights);
            weights[w].1[i] = was;
            (y[0].iter().zip(&r).map(|(y, r)| *y as f64 * *r as f64).sum(), at)
        };
        for (w, name) in names.iter().enumerate() {
            let output = slopes.outputs.iter().position(|o| o.0 == format!("grad:{name}")).unwrap();
            let ours = &exact[output];
            let theirs: Vec<f32> = (0..ours.len())
                .map(|i| {
                    let ((high, to), (low, from)) = (loss(w, i, 4e-3), loss(w, i, -4e-3));
                    ((high - low) / (to as f64 - from as f64)) as f32
                })
                .collect();
            let largest = theirs.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            for (i, (a, b)) in ours.iter().zip(&theirs).enumerate() {
                let right = (a - b).abs() <= 1e-3 * largest.max(0.1);
                assert!(right, "{}: the slope at {name}[{i}] is {b}, its gradient {a}", row.name);
            }
        }
        checked += 1;
    }
    assert!(checked > 150, "{checked}");
}

/// One product in a stored format: the reference's result, and for each element the sum of |w·x| and the bound on what
/// rounding the activations to 8 bits may do.
struct Stored {
    graph: hob_graph::Graph,
    weights: Weights,
    x: Vec<f32>,
    ids: Vec<i32>,
    right: Vec<f32>,
    w: Vec<f32>,
}

fn stored_case(op: &str, dtype: DType, t: usize, k: usize, n: usize) -> Stored {
    let (mut graph, dims) = on_stored(op, t, k, n);
    graph.bind(|_| Some((dtype, dims.to_vec()))).unwrap();
    let (tensor, w) = stored(dtype, dims[0] * dims[1], (t * 1000 + k * 10 + n) as u64);
    let mut weights = Weights::default();
    weights.insert("w", tensor);
    let mut random = Random(5);
    let wide = if op == "matmul" { n } else { k };
    let x: Vec<f32> = (0..t * wide).map(|_| random.signed() * 3.0).collect();
    let ids: Vec<i32> = (0..t).map(|_| random.below(n) as i32).collect();
    let mut case = Stored { graph, weights, x, ids, right: Vec::new(), w };
    case.right = case.run(&reference());
    case
}

impl Stored {
    fn run(&self, cpu: &Cpu) -> Vec<f32> {
        let given = match self.graph.inputs[0].name.as_str() {
            "x" => ("x", Data::F32(&self.x)),
            _ => ("ids", Data::I32(&self.ids)),
        };
        run(cpu, &self.graph, &self.weights, &Batch { inputs: &[given], seqs: &[] }).unwrap().remove(0)
    }
}

/// (rows, blocks a row, outputs)
const PRODUCTS: [(usize, usize, usize); 15] = [
    (1, 1, 1),
    (1, 2, 5),
    (1, 3, 64),
    (2, 1, 8),
    (2, 5, 13),
    (3, 2, 33),
    (7, 1, 9),
    (7, 3, 16),
    (17, 1, 3),
    (17, 4, 31),
    (5, 8, 130),
    (33, 2, 70),
    (50, 1, 70),
    (65, 3, 40),
    (300, 2, 37),
];

fn width(dtype: DType, blocks: usize) -> usize {
    if dtype.block() == 1 { blocks * 37 - 6 } else { blocks * dtype.block() }
}

#[test]
fn linear_in_every_format() {
    let exact = [1, 2, 3].map(|t| Cpu::new(t, Precision::Exact));
    let fast = [1, 2, 3].map(|t| Cpu::new(t, Precision::Fast));
    for dtype in formats() {
        for (t, blocks, n) in PRODUCTS {
            let k = width(dtype, blocks);
            let case = stored_case("linear", dtype, t, k, n);
            let right: Vec<f64> = (0..t * n).map(|i| plain_dot(&case, k, n, i)).collect();
            for (i, (a, b)) in case.right.iter().zip(&right).enumerate() {
                let sum = magnitude(&case, k, n, i);
                assert!((*a as f64 - b).abs() <= 1e-6 * sum, "{dtype} ({t}, {k}, {n}): the reference at {i}");
            }
            for (cpu, precise) in exact.iter().map(|c| (c, true)).chain(fast.iter().map(|c| (c, false))) {
                for (i, (a, b)) in case.run(cpu).iter().zip(&right).enumerate() {
                    let sum = magnitude(&case, k, n, i);
                    let allowed = match dtype {
                        _ if precise => 1e-6 * sum,
                        DType::F32 => 1e-6 * sum,
                        DType::F16 | DType::BF16 => 2e-5 * sum, // 2^-16 each
                        _ => 1e-3 * sum + rounding(&case, k, n, i),
                    };
                    assert!(
                        (*a as f64 - b).abs() <= allowed,
                        "{dtype} ({t}, {k}) × ({n}, {k}), {:?}, {} threads: element {i} is {a}, not {b} ± {allowed}",
                        cpu.precision,
                        cpu.pool.threads()
                    );
                }
            }
        }
    }
}

fn operands(case: &Stored, k: usize, n: usize, i: usize) -> impl Iterator<Item = (f64, f64)> {
    let (x, w) = (&case.x[i / n * k..][..k], &case.w[i % n * k..][..k]);
    x.iter().zip(w).map(|(x, w)| (*x as f64, *w as f64))
}

fn plain_dot(case: &Stored, k: usize, n: usize, i: usize) -> f64 {
    operands(case, k, n, i).map(|(x, w)| x * w).sum()
}

fn magnitude(case: &Stored, k: usize, n: usize, i: usize) -> f64 {
    operands(case, k, n, i).map(|(x, w)| (x * w).abs()).sum()
}

/// What rounding to 127 steps of the largest activation of each 256 may do at most.
fn rounding(case: &Stored, k: usize, n: usize, i: usize) -> f64 {
    let pairs: Vec<(f64, f64)> = operands(case, k, n, i).collect();
    let block = |b: &[(f64, f64)]| {
        let largest = b.iter().fold(0.0f64, |m, (x, _)| m.max(x.abs()));
        b.iter().map(|(_, w)| w.abs()).sum::<f64>() * largest / 127.0 / 2.0
    };
    pairs.chunks(256).map(block).sum()
}

#[test]
fn matmul_and_gather_in_every_format() {
    let cpus = [1, 2, 3].map(|t| Cpu::new(t, Precision::Exact));
    for dtype in formats() {
        for (t, blocks, n) in PRODUCTS {
            for op in ["matmul", "gather"] {
                let k = width(dtype, blocks);
                let case = stored_case(op, dtype, t, k, n);
                let name = format!("{op} {dtype} ({t}, {k}, {n})");
                if op == "gather" {
                    let rows = case.ids.iter().flat_map(|&id| case.w[id as usize * k..][..k].to_vec());
                    assert_eq!(case.right, rows.collect::<Vec<f32>>(), "{name}: the reference");
                }
                for cpu in &cpus {
                    assert_close(&name, &case.run(cpu), &case.right, if op == "gather" { 0.0 } else { 1e-5 });
                }
            }
        }
    }
}
