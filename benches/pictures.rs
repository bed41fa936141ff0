//! Picture models of full size with random weights, whole: `cargo bench -p hob-engine --bench pictures [-- FILTER] [--threads N]`.
//!
//! For each: bytes planned, the time of a run (the best of a few), operations per second, and where the time goes by op,
//! with the rate of those that multiply and its share of the registers'.

use hob_cpu::exec::Memory;
use hob_cpu::{Buffer, Ceilings, Cpu, Precision, Tensor, Weights};
use hob_graph::{Batch, DType, Data, Graph, Op};
use hob_models::{unet, vae};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Fast as `hob image` is, or with `--exact` f32 throughout.
fn precision() -> Precision {
    if std::env::args().any(|a| a == "--exact") { Precision::Exact } else { Precision::Fast }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let threads = args.iter().position(|a| a == "--threads").and_then(|i| args.get(i + 1)?.parse().ok());
    let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let filter = args.first().filter(|a| !a.starts_with("--"));
    let cases: [(&str, &dyn Fn() -> Graph); 5] = [
        ("sd15-unet@512", &|| sd15(1, 64)),
        ("sd15-step@512", &|| sd15(2, 64)),
        ("sd15-step@256", &|| sd15(2, 32)),
        ("vae@512", &|| vae_decoder(64)),
        ("vae@256", &|| vae_decoder(32)),
    ];
    for (name, graph) in cases {
        if filter.is_none_or(|f| name.contains(f.as_str())) {
            measure(name, graph(), threads);
        }
    }
}

fn sd15(batch: usize, side: usize) -> Graph {
    let attending = "CrossAttnDownBlock2D";
    let upwards = "CrossAttnUpBlock2D";
    let config = json!({
        "sample_size": 64, "in_channels": 4, "out_channels": 4, "flip_sin_to_cos": true, "freq_shift": 0,
        "down_block_types": [attending, attending, attending, "DownBlock2D"], "mid_block_type": "UNetMidBlock2DCrossAttn",
        "up_block_types": ["UpBlock2D", upwards, upwards, upwards], "block_out_channels": [320, 640, 1280, 1280],
        "layers_per_block": 2, "norm_num_groups": 32, "norm_eps": 1e-5, "cross_attention_dim": 768,
        "attention_head_dim": 8, "act_fn": "silu", "downsample_padding": 1, "mid_block_scale_factor": 1,
        "center_input_sample": false,
    });
    let config = unet::Config::parse(&config).expect("a right configuration");
    let size = unet::Size { batch, height: side, width: side, text: 77, pooled: 0, residuals: false };
    config.graph(size).expect("a right graph")
}

fn vae_decoder(side: usize) -> Graph {
    let blocks = |kind: &str| Value::from(vec![kind; 4]);
    let config = json!({
        "in_channels": 3, "out_channels": 3, "latent_channels": 4, "block_out_channels": [128, 256, 512, 512],
        "layers_per_block": 2, "norm_num_groups": 32, "act_fn": "silu", "scaling_factor": 0.18215,
        "down_block_types": blocks("DownEncoderBlock2D"), "up_block_types": blocks("UpDecoderBlock2D"),
    });
    vae::Config::parse(&config).expect("a right configuration").decoder(1, side, side).expect("a right graph")
}

fn measure(name: &str, mut graph: Graph, threads: usize) {
    let cpu = Cpu::new(threads, precision());
    let shapes: BTreeMap<String, Vec<usize>> =
        graph.weights.iter().map(|w| (w.name.clone(), w.shape.to_vec())).collect();
    let dtype = |shape: &[usize]| if shape.len() > 1 { DType::F16 } else { DType::F32 };
    graph.bind(|n| shapes.get(n).map(|s| (dtype(s), s.clone()))).expect("its own weights");
    let mut weights = Weights::default();
    for w in &graph.weights {
        let mut bytes = Buffer::zeroed(w.bytes()).expect("memory");
        let deep = (w.shape.count() / w.shape[0]).max(1) as f32;
        for i in 0..w.shape.count() {
            let x = ((i as u32).wrapping_mul(2_654_435_761) >> 9) as f32 / (1 << 22) as f32 - 1.0;
            match w.dtype {
                DType::F16 => bytes.bytes_mut()[2 * i..][..2]
                    .copy_from_slice(&half::f16::from_f32(x / deep.sqrt()).to_le_bytes()),
                _ => bytes.f32s_mut()[i] = 0.5 + x / 4.0,
            }
        }
        weights.insert(&w.name, Tensor::own(w.dtype, bytes));
    }
    let given: Vec<(String, Vec<f32>)> = (graph.inputs.iter())
        .map(|i| {
            (i.name.clone(), (0..i.shape.count()).map(|k| (k * 7919 % 1000) as f32 / 500.0 - 1.0).collect())
        })
        .collect();
    let program = cpu.program(graph, &weights).expect("weights are given");
    let inputs: Vec<(&str, Data)> = given.iter().map(|(n, d)| (n.as_str(), Data::F32(d))).collect();
    let batch = Batch { inputs: &inputs, seqs: &[] };
    let mut memory = Memory::new();
    let (mut best, mut times) = (Duration::MAX, BTreeMap::<String, (Duration, f64)>::new());
    let limit = Ceilings::measure(&cpu.pool, hob_cpu::isa::isa()).expect("memory").f32_gflops;
    for _ in 0..3 {
        let (start, mut round) = (Instant::now(), BTreeMap::<String, (Duration, f64)>::new());
        let mut watch = |g: &Graph, id: hob_graph::NodeId, took: Duration| {
            let node = g.node(id);
            let what = match node.op {
                Op::Conv2d(w) => {
                    format!("conv2d {}x{} /{} to {}²", w.kernel, w.kernel, w.stride, node.shape[3])
                }
                Op::Linear => format!("linear {} tokens", node.shape.rows()),
                Op::CrossAttend(_) => format!("cross_attend {} keys", g.node(node.inputs[1]).shape[0]),
                _ => node.op.name().to_string(),
            };
            let sum = round.entry(what).or_default();
            *sum = (sum.0 + took, sum.1 + operations(g, id));
        };
        cpu.run_watched(&program, &mut memory, None, &batch, Some(&mut watch)).expect("a right run");
        best = best.min(start.elapsed());
        for (what, now) in round {
            let least = times.entry(what).or_insert(now);
            least.0 = least.0.min(now.0);
        }
    }
    let flops: f64 = program.plan.steps.iter().map(|&id| operations(&program.graph, id)).sum();
    let rate = flops / best.as_secs_f64() / 1e9;
    println!(
        "{name}: {:.2} s, {:.2} TFLOP, {rate:.0} GFLOP/s ({:.0}% of {limit:.0}); {} MB of weights, {} MB arena, {} MB scratch",
        best.as_secs_f64(),
        flops / 1e12,
        100.0 * rate / limit,
        program.graph.weights.iter().map(|w| w.bytes()).sum::<usize>() / 1_000_000,
        program.plan.arena / 1_000_000,
        program.plan.scratch / 1_000_000,
    );
    let total: Duration = times.values().map(|t| t.0).sum();
    let mut times: Vec<_> = times.into_iter().collect();
    times.sort_by_key(|t| std::cmp::Reverse(t.1.0));
    for (what, (took, flops)) in times.iter().take(24) {
        let (s, rate) = (took.as_secs_f64(), flops / took.as_secs_f64() / 1e9);
        let rate = if rate > 0.0 {
            format!("{rate:6.0} GFLOP/s {:4.0}%", 100.0 * rate / limit)
        } else {
            String::new()
        };
        println!("  {what:<24} {:8.1} ms {:5.1}% {rate}", s * 1e3, 100.0 * s / total.as_secs_f64());
    }
}

/// Multiplications and additions of products, by their direct definition.
fn operations(g: &Graph, id: hob_graph::NodeId) -> f64 {
    let node = g.node(id);
    let of = |k: usize| g.node(node.inputs[k]).shape;
    let inner = match node.op {
        Op::Conv2d(_) => of(1)[1..].iter().product(),
        Op::Linear | Op::MatMul => of(0).last(),
        Op::CrossAttend(how) => 2 * of(1)[0] / how.parts as usize,
        _ => 0,
    };
    2.0 * (node.shape.count() * inner) as f64
}
