//! Ops other than linear, alone: `cargo bench -p hob-cpu --bench ops [-- FILTER] [--threads N]`.
//!
//! For each op and shape: time of one run (the best of many), numbers read and written per second in GB, and
//! operations per second where the op is a product, a multiplication and an addition being two.

use hob_cpu::exec::Memory;
use hob_cpu::kv::{self, PAGE};
use hob_cpu::{Buffer, Ceilings, Cpu, Kv, KvTypes, Packing, Precision, Tensor, Weights};
use hob_graph::op::{Act, Op, RopeStyle, Unary, Window};
use hob_graph::{Attend, Batch, Builder, Cross, DType, Data, Graph, Seq, StateId, X};
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
    let cpu = Cpu::new(threads, Precision::Fast);
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
    for (inputs, outputs, side) in
        [(640, 640, 32), (1280, 1280, 16), (2560, 1280, 8), (512, 512, 128), (128, 128, 512)]
    {
        run(&format!("conv2d 3x3 {inputs} to {outputs} at {side}x{side}"), &|g| {
            x(g, &[1, inputs, side, side]).conv2d(g.path("c"), outputs, w(3, 1), true)
        });
    }
    for (t, k, n) in [
        (4096, 320, 320),
        (4096, 320, 2560),
        (1024, 640, 640),
        (256, 1280, 1280),
        (77, 768, 768),
        (128, 384, 1536),
        (32, 384, 384),
    ] {
        run(&format!("linear f32 {t} x {k} to {n}"), &|g| x(g, &[t, k]).linear(g.path("l"), n));
    }
    for (t, s, heads, d) in [
        (4096, 4096, 8, 40),
        (4096, 77, 8, 40),
        (1024, 1024, 8, 80),
        (256, 256, 8, 160),
        (4096, 4096, 10, 64),
        (1536, 1536, 24, 128),
    ] {
        run(&format!("cross_attend {t} of {s}, {heads} heads of {d}"), &|g| {
            let kv = |name| g.weight(name, &[s, heads, d]);
            let how = Cross { scale: 1.0 / (d as f32).sqrt(), parts: 1, causal: false };
            x(g, &[t, heads, d]).cross_attend(kv("k"), kv("v"), how, None)
        });
    }
    run("conv2d 3x3 3 to 64 at 256x256", &|g| x(g, &[1, 3, 256, 256]).conv2d(g.path("c"), 64, w(3, 1), true));
    experts(threads, filter);
    for types in KvTypes::CHOICE[1..].iter().map(|&t| KvTypes::both(t)) {
        for depth in [512, 2048, 8192] {
            attend(&cpu, filter, 1, depth, types);
        }
        attend(&cpu, filter, 512, 512, types);
    }
}

/// The experts of a layer of Qwen3 30B-A3B in Q4_K, of which each token takes 8 by chance: as stored, and laid out anew.
fn experts(threads: usize, filter: Option<&String>) {
    const SIZES: [usize; 4] = [128, 768, 2048, 8];
    let [e, f, c, used] = SIZES;
    let cpu = Cpu::new(threads, Precision::Fast);
    let name = |tokens: usize, packed: bool| {
        format!("experts {used} of {e} x ({f}, {c}), {tokens} tokens{}", if packed { ", packed" } else { "" })
    };
    let all = [1, 8, 32, 128, 512].map(|tokens| [false, true].map(|packed| (tokens, packed)));
    let wanted =
        |&(tokens, packed): &(usize, bool)| filter.is_none_or(|f| name(tokens, packed).contains(f.as_str()));
    if !all.iter().flatten().any(wanted) {
        return;
    }
    let graph = |tokens: usize| {
        let g = Builder::stateless(tokens);
        let (x, s) = (g.input("x", &[tokens, c], DType::F32), g.input("s", &[tokens, e], DType::F32));
        g.output("y", x.experts(s, g.path("e"), ["g", "u", "d"], f, Act::Silu, true));
        let mut graph = g.finish().expect("a right graph");
        let shape = |name: &str| if name == "e.d.weight" { vec![e, c, f] } else { vec![e, f, c] };
        graph.bind(|name| Some((DType::Q4_K, shape(name)))).expect("right weights");
        graph
    };
    let mut weights = Weights::default();
    for w in graph(1).weights {
        let mut bytes = Buffer::zeroed(w.bytes()).expect("memory");
        for (i, block) in bytes.bytes_mut().chunks_exact_mut(144).enumerate() {
            block.iter_mut().enumerate().for_each(|(j, b)| *b = (i * 31 + j * 97) as u8);
            block[..4].copy_from_slice(&[0x00, 0x0c, 0x00, 0x14]); // about 0.0002 and 0.001
        }
        weights.insert(&w.name, Tensor::own(DType::Q4_K, bytes));
    }
    for packed in [false, true] {
        if packed {
            let Ok(Some(mut packing)) = Packing::new(&cpu, &graph(1), &weights) else { return };
            while !packing.step(&cpu, &weights, usize::MAX) {}
        }
        for (tokens, _) in all.iter().flatten().filter(|a| a.1 == packed && wanted(a)) {
            let program = cpu.program(graph(*tokens), &weights).expect("weights are given");
            let x: Vec<f32> = (0..tokens * c).map(|i| (i * 7919 % 1000) as f32 / 500.0 - 1.0).collect();
            let (mut memory, begin, mut best) = (Memory::new(), Instant::now(), Duration::MAX);
            let (mut chance, mut read) = (1u64, 0);
            while begin.elapsed() < 3 * TIME {
                let mut shares = vec![0.0; tokens * e];
                for row in shares.chunks_exact_mut(e) {
                    while row.iter().filter(|s| **s > 0.0).count() < used {
                        chance = chance
                            .wrapping_mul(6_364_136_223_846_793_005)
                            .wrapping_add(1_442_695_040_888_963_407);
                        row[(chance >> 33) as usize % e] = 1.0 / used as f32;
                    }
                }
                let met = (0..e).filter(|i| shares.iter().skip(*i).step_by(e).any(|s| *s > 0.0)).count();
                let inputs = [("x", Data::F32(&x[..])), ("s", Data::F32(&shares))];
                let start = Instant::now();
                cpu.run(&program, &mut memory, None, &Batch { inputs: &inputs, seqs: &[] })
                    .expect("a right run");
                if start.elapsed() < best {
                    (best, read) = (start.elapsed(), met * 3 * f * c / 256 * 144);
                }
            }
            let (seconds, products) = (best.as_secs_f64(), 2.0 * (tokens * used * 3 * f * c) as f64);
            println!(
                "{:<56} {:9.1} µs {:7.1} GB/s {:8.1} GOP/s",
                name(*tokens, packed),
                seconds * 1e6,
                read as f64 / seconds / 1e9,
                products / seconds / 1e9
            );
        }
    }
}

/// Attention in models: name, query heads, heads of keys and values, D.
const ATTENTION: [(&str, usize, usize, usize); 3] = [
    ("9 heads on 3, D 64", 9, 3, 64),
    ("4 heads on 1, D 256", 4, 1, 256),
    ("32 heads on 8, D 64", 32, 8, 64),
];

/// Attention of the last `tokens` of `depth`, over layers of cache that together are larger than caches.
fn attend(cpu: &Cpu, filter: Option<&String>, tokens: usize, depth: usize, types: KvTypes) {
    for (model, heads, kv_heads, d) in ATTENTION {
        let name = format!("attend {model}, {tokens} of {depth}, {types}");
        if filter.is_some_and(|f| !name.contains(f.as_str())) {
            continue;
        }
        let how = Attend { scale: 0.1, window: None, softcap: None, causal: true, cache: None };
        let graph = |layers: usize| {
            let g = Builder::new(tokens, tokens);
            let input = |name: &str, heads: usize| g.input(name, &[tokens, heads, d], DType::F32);
            let (q, k, v) = (input("q", heads), input("k", kv_heads), input("v", kv_heads));
            let y = (0..layers).map(|_| q.attend(k, v, how)).reduce(|a, b| a + b).expect("a layer");
            g.output("y", y);
            g.finish().expect("a right graph")
        };
        let bytes = kv::bytes(&graph(1).states, types, |_| depth / PAGE) as usize;
        let layers = if tokens > 1 { 1 } else { (64 << 20) / bytes + 1 };
        let graph = graph(layers);
        let mut kv = Kv::new(&graph.states, types, |_| depth / PAGE).expect("memory");
        let x: Vec<f32> = (0..depth * heads * d).map(|i| (i * 7919 % 1000) as f32 / 500.0 - 1.0).collect();
        let pages: Vec<u32> = (0..(depth / PAGE) as u32).collect();
        let whole = [Seq { start: 0, len: depth, pos: 0, read: true, pages: &[&pages] }];
        let mut working = vec![0.0; cpu.pool.threads() * Kv::working(d)];
        for layer in 0..layers {
            let both = [&x[..depth * kv_heads * d]; 2];
            kv.append(&cpu.pool, StateId(layer as u32), &whole, both, &mut working);
        }
        let seqs = [Seq { start: 0, len: tokens, pos: depth - tokens, read: tokens > 1, pages: &[&pages] }];
        let x = &x[..tokens * heads * d];
        let few = &x[..tokens * kv_heads * d];
        let inputs = [("q", Data::F32(x)), ("k", Data::F32(few)), ("v", Data::F32(few))];
        let program = cpu.program(graph, &Weights::default()).expect("no weights");
        let (mut memory, begin, mut best) = (Memory::new(), Instant::now(), Duration::MAX);
        while begin.elapsed() < TIME {
            let start = Instant::now();
            let batch = Batch { inputs: &inputs, seqs: &seqs };
            cpu.run(&program, &mut memory, Some(&mut kv), &batch).expect("a right run");
            best = best.min(start.elapsed());
        }
        let seconds = best.as_secs_f64() / layers as f64;
        let pairs = (tokens * (depth - tokens) + tokens * (tokens + 1) / 2) as f64;
        println!(
            "{name:<48} {:9.1} µs {:7.1} GB/s {:8.1} GFLOP/s",
            seconds * 1e6,
            bytes as f64 / seconds / 1e9,
            4.0 * pairs * (heads * d) as f64 / seconds / 1e9
        );
    }
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
        Op::Linear => graph.node(node.inputs[1]).shape.last(),
        Op::CrossAttend(how) => 2 * graph.node(node.inputs[1]).shape[0] / how.parts as usize,
        _ => 0,
    };
    let flops = 2.0 * (node.shape.count() * inner) as f64;
    let bytes =
        4.0 * (node.shape.count() + graph.weights.iter().map(|w| w.shape.count()).sum::<usize>()) as f64;
    let seqs = [Seq { start: 0, len: 512, pos: 0, read: true, pages: &[] }];
    let program = cpu.program(graph, &weights).expect("weights are given");
    let mut memory = Memory::new();
    let (mut best, mut limit) = (Duration::MAX, 0.0f64);
    // On a machine that others use too, what it allows is measured beside the op, in turn.
    for _ in 0..3 {
        if flops > 0.0 {
            let now = Ceilings::measure(&cpu.pool, hob_cpu::isa::isa()).expect("memory");
            limit = limit.max(now.f32_gflops);
        }
        let begin = Instant::now();
        while begin.elapsed() < TIME / 3 {
            let start = Instant::now();
            cpu.run(&program, &mut memory, None, &Batch { inputs: &[], seqs: &seqs }).expect("a right run");
            best = best.min(start.elapsed());
        }
    }
    let seconds = best.as_secs_f64();
    let rate = flops / seconds / 1e9;
    let products = match flops > 0.0 {
        true => format!("{rate:8.1} GFLOP/s, {:3.0}% of {limit:.0}", 100.0 * rate / limit),
        false => String::new(),
    };
    println!("{name:<40} {:9.1} µs {:7.1} GB/s {products}", seconds * 1e6, bytes / seconds / 1e9);
}
