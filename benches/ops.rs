//! Ops other than linear and attend, alone: `cargo bench -p hob-cpu --bench ops [-- FILTER] [--threads N]`.
//!
//! For each op and shape: time of one run (the best of many), numbers read and written per second in GB, and
//! operations per second where the op is a product, a multiplication and an addition being two.

use hob_cpu::exec::Memory;
use hob_cpu::{Cpu, Precision, Tensor, Weights};
use hob_graph::op::{Act, Op, RopeStyle, Unary, Window};
use hob_graph::{Batch, Builder, Graph, Seq, X};
use std::time::{Duration, Instant};

const TIME: Duration = Duration::from_millis(300);

fn x<'g>(g: &'g Builder, dims: &[usize]) -> X<'g> {
    g.weight("x", dims)
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let threads = args.iter().position(|a| a == "--threads").and_then(|i| args.get(i + 1)?.parse().ok());
    let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let filter = args.first().filter(|a| !a.starts_with("--"));
    let cpu = Cpu::new(threads, Precision::Exact);
    println!("{threads} threads, {:?}", hob_cpu::isa::isa());
    let w = |kernel, padding| Window { kernel, stride: 1, padding };
    let run = |name: &str, build: &dyn for<'g> Fn(&'g Builder) -> X<'g>| {
        if filter.is_none_or(|f| name.contains(f)) {
            let g = Builder::stateless(512);
            g.output("y", build(&g));
            measure(&cpu, name, g.finish().expect("a right graph"));
        }
    };
    run("rms_norm 512x2048", &|g| x(g, &[512, 2048]).rms_norm(g.path("n"), 1e-5, 0.0));
    run("rms_norm 1x2048", &|g| x(g, &[1, 2048]).rms_norm(g.path("n"), 1e-5, 0.0));
    run("layer_norm 512x2048", &|g| x(g, &[512, 2048]).layer_norm(g.path("n"), 1e-5));
    run("group_norm 128x128x128", &|g| x(g, &[1, 128, 128, 128]).group_norm(g.path("n"), 32, 1e-5));
    run("softmax 512x2048", &|g| x(g, &[512, 2048]).softmax());
    run("exp 512x2048", &|g| x(g, &[512, 2048]).unary(Unary::Exp));
    run("silu 512x2048", &|g| x(g, &[512, 2048]).act(Act::Silu));
    run("gelu_tanh 512x2048", &|g| x(g, &[512, 2048]).act(Act::GeluTanh));
    run("gelu 512x2048", &|g| x(g, &[512, 2048]).act(Act::Gelu));
    run("glu silu 512x2048", &|g| x(g, &[512, 2048]).glu(Act::Silu, g.weight("up", &[512, 2048])));
    run("add 512x2048", &|g| x(g, &[512, 2048]) + g.weight("up", &[512, 2048]));
    run("mul 512x2048 by a row", &|g| x(g, &[512, 2048]) * g.weight("up", &[2048]));
    for style in [RopeStyle::Halves, RopeStyle::Pairs] {
        run(&format!("rope {style:?} 512x32x64"), &|g| {
            x(g, &[512, 32, 64]).rope(g.weight("f", &[32]), style, 1.0)
        });
    }
    run("permute 512x32x64 to 32x512x64", &|g| x(g, &[512, 32, 64]).permute(&[1, 0, 2]));
    run("permute 1024x1024 to its transpose", &|g| x(g, &[1024, 1024]).permute(&[1, 0]));
    run("upsample 64x128x128 by 2", &|g| x(g, &[1, 64, 128, 128]).upsample(2));
    run("matmul 512x512x512", &|g| x(g, &[512, 512]).matmul(g.weight("b", &[512, 512])));
    run("matmul 128x576x1536", &|g| x(g, &[128, 576]).matmul(g.weight("b", &[576, 1536])));
    run("matmul 9x512x64x512", &|g| x(g, &[9, 512, 64]).matmul(g.weight("b", &[9, 64, 512])));
    run("conv2d 3x3 64 to 64 at 128x128", &|g| {
        x(g, &[1, 64, 128, 128]).conv2d(g.path("c"), 64, w(3, 1), true)
    });
    run("conv2d 3x3 320 to 320 at 64x64", &|g| {
        x(g, &[1, 320, 64, 64]).conv2d(g.path("c"), 320, w(3, 1), true)
    });
    run("conv2d 1x1 320 to 320 at 64x64", &|g| {
        x(g, &[1, 320, 64, 64]).conv2d(g.path("c"), 320, w(1, 0), true)
    });
    run("conv2d 3x3 3 to 64 at 256x256", &|g| x(g, &[1, 3, 256, 256]).conv2d(g.path("c"), 64, w(3, 1), true));
}

fn measure(cpu: &Cpu, name: &str, graph: Graph) {
    let mut weights = Weights::default();
    for w in &graph.weights {
        let values: Vec<f32> = (0..w.shape.count()).map(|i| (i * 7 % 13) as f32 / 6.5 - 1.0).collect();
        weights.insert(&w.name, Tensor::from_f32(&values).expect("memory"));
    }
    let node = graph.node(graph.outputs[0].1);
    let inner = match node.op {
        Op::MatMul => graph.node(node.inputs[0]).shape.last(),
        Op::Conv2d(_) => graph.node(node.inputs[1]).shape[1..].iter().product(),
        _ => 0,
    };
    let flops = 2.0 * (node.shape.count() * inner) as f64;
    let bytes =
        4.0 * (node.shape.count() + graph.weights.iter().map(|w| w.shape.count()).sum::<usize>()) as f64;
    let seqs = [Seq { start: 0, len: 512, pos: 0, pages: &[] }];
    let program = cpu.program(graph, &weights).expect("weights are given");
    let mut memory = Memory::new();
    let begin = Instant::now();
    let mut best = Duration::MAX;
    while begin.elapsed() < TIME {
        let start = Instant::now();
        cpu.run(&program, &mut memory, None, &Batch { inputs: &[], seqs: &seqs }).expect("a right run");
        best = best.min(start.elapsed());
    }
    let seconds = best.as_secs_f64();
    let products = if flops > 0.0 { format!("{:8.1} GFLOP/s", flops / seconds / 1e9) } else { String::new() };
    println!("{name:<40} {:9.1} µs {:7.1} GB/s {products}", seconds * 1e6, bytes / seconds / 1e9);
}
