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

// One test alone in this file: the count is the process's.
#[test]
fn a_run_allocates_nothing() {
    for (name, precision) in
        [("llama", Precision::Exact), ("llama", Precision::Fast), ("gemma3", Precision::Fast)]
    {
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
            let seqs = [Seq { start: 0, len: tokens, pos: 0, pages: &[&[0u32][..]; 2][..windows] }];
            let batch = Batch { inputs: &inputs, seqs: &seqs };
            let mut run = || model.cpu().run(&program, &mut memory, Some(&mut kv), &batch).unwrap();
            run(); // the first run takes the arena
            WATCHED.store(true, SeqCst);
            run();
            WATCHED.store(false, SeqCst);
            assert_eq!(COUNT.swap(0, SeqCst), 0, "{name}, {precision:?}, {tokens} tokens");
        }
    }
}
