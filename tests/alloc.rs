//! Nothing is allocated while a plan runs.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};

use hob_cpu::Kv;
use hob_cpu::exec::Memory;
use hob_engine::{Model, Options, Precision};
use hob_graph::{Batch, DType, Data, Seq};
use hob_io::Checkpoint;

static WATCHED: AtomicBool = AtomicBool::new(false);
static COUNT: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: everything is the system's; only a number is kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if WATCHED.load(Relaxed) {
            COUNT.fetch_add(1, Relaxed);
        }
        // SAFETY: passed on as it came.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: passed on as it came.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Experts in whole numbers: the tiny models are stored in floats.
fn quantized_experts() {
    use hob_cpu::{Buffer, Cpu, Tensor, Weights};
    let cpu = Cpu::new(2, Precision::Fast);
    for tokens in [1, 24] {
        let g = hob_graph::Builder::stateless(tokens);
        let x = g.input("x", &[tokens, 64], DType::F32);
        let p = x.linear(g.path("router"), 4).softmax();
        let y = x.experts(p.top_k(2) * p, g.path("e"), ["g", "u", "d"], 96, hob_graph::Act::Silu, true);
        g.output("y", y);
        let mut graph = g.finish().unwrap();
        let held = graph.weights.clone();
        let shape = |name: &str| held.iter().find(|w| w.name == name).unwrap().shape;
        let dtype = |name: &str| if name == "router.weight" { DType::F32 } else { DType::Q4_0 };
        graph.bind(|name| Some((dtype(name), shape(name).to_vec()))).unwrap();
        let mut weights = Weights::default();
        for w in &held {
            let values: Vec<f32> = (0..w.shape.count()).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
            let mut bytes = Buffer::zeroed(dtype(&w.name).bytes(values.len()).unwrap()).unwrap();
            dtype(&w.name).encode(&values, bytes.bytes_mut());
            weights.insert(&w.name, Tensor::own(dtype(&w.name), bytes));
        }
        let program = cpu.program(graph, &weights).unwrap();
        let x: Vec<f32> = (0..tokens * 64).map(|i| (i * 29 % 103) as f32 / 51.0 - 1.0).collect();
        let inputs = [("x", Data::F32(&x))];
        let batch = Batch { inputs: &inputs, seqs: &[] };
        let mut memory = Memory::new();
        let mut run = || cpu.run(&program, &mut memory, None, &batch).unwrap();
        (0..50).for_each(|_| run()); // also wakes the worker
        WATCHED.store(true, SeqCst);
        run();
        WATCHED.store(false, SeqCst);
        assert_eq!(COUNT.swap(0, SeqCst), 0, "experts of {tokens} tokens");
        assert!(program.output(&memory, "y").unwrap().iter().any(|y| *y != 0.0));
    }
}

// One test alone in this file: the count is the process's.
#[test]
fn a_run_allocates_nothing() {
    for (name, precision) in [
        ("llama", Precision::Exact),
        ("llama", Precision::Fast),
        ("gemma3", Precision::Fast),
        ("qwen3-moe", Precision::Fast),
    ] {
        let folder =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tiny").join(name);
        let options = Options { threads: 2, precision, ..Options::default() };
        let model = Model::new(Arc::new(Checkpoint::open(&folder).unwrap()), options).unwrap();
        let windows = hob_graph::graph::windows(&model.program(1, 1).unwrap().graph.states).len();
        let mut kv = Kv::new(&model.program(1, 1).unwrap().graph.states, DType::F16, |_| 2).unwrap();
        let mut memory = Memory::new();
        // A thread allocates while it starts: wait until the worker has taken part.
        let joined = AtomicBool::new(false);
        while !joined.load(SeqCst) {
            model.cpu().pool.run(64, &|_, thread| {
                std::thread::sleep(std::time::Duration::from_micros(50));
                joined.fetch_or(thread == 1, SeqCst);
            });
        }
        for tokens in [1, 24] {
            let program = model.program(tokens, 1).unwrap();
            let (ids, rows) = (vec![3; tokens], [tokens as i32 - 1]);
            let inputs = [("ids", Data::I32(&ids)), ("rows", Data::I32(&rows))];
            let seqs = [Seq {
                start: 0,
                len: tokens,
                pos: 0,
                read: tokens > 1,
                pages: &[&[0u32][..]; 2][..windows],
            }];
            let batch = Batch { inputs: &inputs, seqs: &seqs };
            let mut run = || model.cpu().run(&program, &mut memory, Some(&mut kv), &batch).unwrap();
            run(); // the first run takes the arena
            WATCHED.store(true, SeqCst);
            run();
            WATCHED.store(false, SeqCst);
            assert_eq!(COUNT.swap(0, SeqCst), 0, "{name}, {precision:?}, {tokens} tokens");
        }
    }
    quantized_experts();
}
