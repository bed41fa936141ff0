//! Experts whose weights are read as they are stored, or laid out anew.

use crate::harness::*;
use hob_cpu::isa::{Isa, isa};
use hob_cpu::{Cpu, Packing, Precision, Weights};
use hob_graph::{Act, Batch, Builder, DType, Data, Graph};

/// T, C, F, E, how many a token takes; widths in units. The last have more experts, and pairs, than one round takes.
const SIZES: [[usize; 5]; 8] = [
    [1, 1, 1, 4, 2],
    [2, 1, 2, 3, 2],
    [4, 1, 1, 2, 2],
    [7, 2, 1, 5, 2],
    [17, 1, 1, 3, 1],
    [180, 1, 2, 4, 3],
    [1, 2, 1, 40, 20],
    [40, 1, 1, 34, 3],
];

/// Whole blocks; of blocks of 32, widths that are no multiple of what is computed at once.
fn unit(dtypes: [DType; 3]) -> usize {
    if dtypes.iter().any(|d| d.block() > 32) { 256 } else { 96 }
}

struct Case {
    /// with the op, and the same spelt out by linear layers
    graphs: [Graph; 2],
    weights: Weights,
    x: Vec<f32>,
    shares: Vec<f32>,
}

impl Case {
    fn new(dtypes: [DType; 3], [t, c, f, e, k]: [usize; 5], stacked: bool) -> Case {
        let (c, f) = (c * unit(dtypes), f * unit(dtypes));
        let build = |whole: bool| {
            let g = Builder::stateless(t);
            let (x, shares) = (g.input("x", &[t, c], DType::F32), g.input("shares", &[t, e], DType::F32));
            let y = match whole {
                true => x.experts(shares, g.path("e"), ["0", "1", "2"], f, Act::Silu, stacked),
                false => {
                    let one = |i: usize| {
                        let w = |which: usize, dims: [usize; 2]| {
                            g.weight(&format!("e.{i}.{which}.weight"), &dims)
                        };
                        let gate = x.linear_by(w(0, [f, c]));
                        let h = gate.glu(Act::Silu, x.linear_by(w(1, [f, c])));
                        h.linear_by(w(2, [c, f])) * shares.slice(1, i, 1)
                    };
                    (1..e).fold(one(0), |sum, i| sum + one(i))
                }
            };
            g.output("y", y);
            g.finish().unwrap()
        };
        let mut graphs = [build(true), build(false)];
        let mut weights = Weights::default();
        for which in 0..3 {
            let (all, _) = stored(dtypes[which], e * f * c, (100 * t + 10 * e + which) as u64);
            for i in 0..e {
                let len = all.bytes().len() / e;
                let mut own = hob_cpu::Buffer::zeroed(len).unwrap();
                own.bytes_mut().copy_from_slice(&all.bytes()[i * len..(i + 1) * len]);
                weights.insert(&format!("e.{i}.{which}.weight"), hob_cpu::Tensor::own(dtypes[which], own));
            }
            weights.insert(&format!("e.{which}.weight"), all);
        }
        for graph in &mut graphs {
            let held = graph.weights.clone();
            let shape = |name: &str| held.iter().find(|w| w.name == name).unwrap().shape.to_vec();
            let which = |name: &str| {
                name.trim_end_matches(".weight").rsplit('.').next().unwrap().parse::<usize>().unwrap()
            };
            graph.bind(|name| Some((dtypes[which(name)], shape(name)))).unwrap();
        }
        let mut random = Random(7);
        let x = (0..t * c).map(|_| random.signed()).collect();
        let mut shares = vec![0.0; t * e];
        for row in shares.chunks_exact_mut(e) {
            for _ in 0..k {
                row[random.below(e)] = random.signed();
            }
        }
        Case { graphs, weights, x, shares }
    }

    fn run(&self, cpu: &Cpu, which: usize) -> Vec<f32> {
        let inputs = [("x", Data::F32(&self.x)), ("shares", Data::F32(&self.shares))];
        run(cpu, &self.graphs[which], &self.weights, &Batch { inputs: &inputs, seqs: &[] }).unwrap().remove(0)
    }

    /// Lays out anew what can be. Returns whether there was any.
    fn pack(&self, cpu: &Cpu) -> bool {
        match Packing::new(cpu, &self.graphs[0], &self.weights).unwrap() {
            Some(mut packing) => packing.step(cpu, &self.weights, usize::MAX),
            None => false,
        }
    }
}

/// Formats that weights of experts are quantized to.
fn quantized() -> impl Iterator<Item = DType> {
    formats().filter(|d| d.is_quantized())
}

#[test]
fn exact_experts_in_every_format_are_their_reference() {
    let (cpus, oracle) = ([1, 2, 3].map(|t| Cpu::new(t, Precision::Exact)), reference());
    for dtype in formats() {
        for (i, size) in [[2, 1, 1, 3, 2], [9, 1, 1, 2, 1]].into_iter().enumerate() {
            let case = Case::new([dtype; 3], size, i != 1);
            let right = case.run(&oracle, 0);
            for cpu in &cpus {
                assert_close(&format!("{dtype} {size:?}"), &case.run(cpu, 0), &right, 1e-5);
            }
        }
    }
}

/// Experts in whole numbers are linear layers in whole numbers: rounding is the same, but for a value that lies between
/// two steps and falls to the other. Where layers go by AMX they round otherwise.
#[test]
fn fast_experts_are_linear_layers() {
    let cpus = [1, 2, 3].map(|t| Cpu::new(t, Precision::Fast));
    for dtype in quantized() {
        let large = |size: &[usize; 5]| size[3] > 30 && unit([dtype; 3]) > 96;
        for (i, size) in SIZES.into_iter().filter(|s| !large(s)).enumerate() {
            let case = Case::new([dtype; 3], size, i % 3 != 2);
            let right = case.run(&cpus[1], 1);
            for packed in [false, true] {
                if packed && !case.pack(&cpus[0]) {
                    continue;
                }
                for cpu in &cpus {
                    let what = format!("{dtype} {size:?}, {} threads, packed {packed}", cpu.pool.threads());
                    let tolerance = if isa() == Isa::Amx && size[0] >= 16 { 2e-2 } else { 2e-3 };
                    assert_close(&what, &case.run(cpu, 0), &right, tolerance);
                }
            }
        }
    }
}

#[test]
fn fast_experts_are_near_their_reference() {
    let (cpu, oracle) = (Cpu::new(2, Precision::Fast), reference());
    for dtype in quantized() {
        for size in [SIZES[1], SIZES[3], SIZES[4]] {
            let case = Case::new([dtype; 3], size, true);
            let right = case.run(&oracle, 0);
            assert_close(&format!("{dtype} {size:?}"), &case.run(&cpu, 0), &right, 3e-2);
        }
    }
}

#[test]
fn matrices_of_experts_may_have_different_formats() {
    let (cpu, oracle) = (Cpu::new(2, Precision::Fast), reference());
    for dtypes in [
        [DType::Q4_K, DType::Q4_K, DType::Q6_K],
        [DType::IQ2_XS, DType::Q4_0, DType::Q5_1],
        [DType::Q4_0, DType::IQ4_XS, DType::Q3_K],
        [DType::Q8_0, DType::F16, DType::F32],
    ] {
        for size in SIZES {
            let case = Case::new(dtypes, size, true);
            let right = case.run(&oracle, 0);
            assert_close(&format!("{dtypes:?} {size:?}"), &case.run(&cpu, 0), &right, 3e-2);
            case.pack(&cpu);
            assert_close(&format!("{dtypes:?} {size:?}, packed"), &case.run(&cpu, 0), &right, 3e-2);
        }
    }
}
