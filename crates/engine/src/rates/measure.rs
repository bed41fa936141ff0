//! Measuring what kernels reach: linear layers of a format laid out and mapped, with one token, a few and many; attention;
//! memory.

use super::{AttendRate, FEW, LinearRate, MANY, Rates, Speeds};
use crate::cost::work;
use crate::{CHUNK, Options, Result};
use hob_cpu::ceiling::{free, read};
use hob_cpu::exec::{ExecError, Memory};
use hob_cpu::kv::PAGE;
use hob_cpu::packing::Packing;
use hob_cpu::{Cpu, Kv, KvTypes, Program, Source, Tensor, Weights};
use hob_graph::{Attend, Batch, Builder, DType, Data, Graph, GraphError, Seq};
use std::sync::Arc;
use std::time::Instant;

/// Builds for tests compute several times slower, and nobody believes their rates: they measure on less.
const LESS: usize = if cfg!(debug_assertions) { 12 } else { 1 };

/// Bytes of weights that a format is measured with: more than the caches of a core, and laid out in little time.
const WEIGHTS: usize = (96 << 20) / LESS;

/// Bytes of weights that no cache keeps, where memory allows: a server's last level has some hundred MB, shared by many.
const FAR: usize = (1 << 30) / LESS;

/// Bytes of memory that are read, from those that caches keep to those that they do not.
const SIZES: [usize; 4] = [FAR / 16, FAR / 8, FAR / 4, FAR / 2];

/// How keys and values are commonly kept.
pub(super) const KINDS: [(DType, DType); 4] = [
    (DType::F16, DType::F16),
    (DType::Q8_0, DType::Q8_0),
    (DType::Q8_0, DType::Q4_0),
    (DType::Q4_0, DType::Q4_0),
];

/// Channels of the layers that are measured.
pub(super) const K: usize = 2048;

/// Rows of a layer.
pub(super) const N: usize = 4096 / if LESS > 1 { 4 } else { 1 };

/// Weights of no meaning: scales of moderate size in every format, in pages as a mapped file has them.
struct Filler(memmap2::MmapMut);

impl Filler {
    fn new(bytes: usize) -> Result<Arc<Filler>, ExecError> {
        let mut map = memmap2::MmapMut::map_anon(bytes)?;
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::NoHugePage); // what is not granted changes little
        map.fill(0x2a);
        Ok(Arc::new(Filler(map)))
    }
}

impl AsRef<[u8]> for Filler {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Source for Filler {}

impl Rates {
    /// Measures on `cpu` layers of those of these formats that `known` lacks, and where nothing is known all else. `progress`
    /// hears how many of how many parts are done, and stops by `false`: then nothing is returned.
    pub fn measure(
        cpu: &Cpu,
        formats: &[DType],
        known: Option<Rates>,
        mut progress: impl FnMut(usize, usize) -> bool,
    ) -> Result<Option<Rates>> {
        let lacks = |f: &DType| known.as_ref().is_none_or(|k| !k.know(&[*f]));
        let missing: Vec<DType> = formats.iter().copied().filter(lacks).collect();
        let parts = missing.len() + if known.is_none() { 3 } else { 0 };
        let filler = Filler::new(WEIGHTS)?;
        let mut linear = Vec::new();
        for (i, &dtype) in missing.iter().enumerate() {
            if !progress(i, parts) {
                return Ok(None);
            }
            linear.push(linear_rate(cpu, &filler, dtype)?);
        }
        if let Some(mut known) = known {
            known.linear.extend(linear);
            return Ok(Some(known));
        }
        if !progress(parts - 3, parts) {
            return Ok(None);
        }
        let far = (free() / 4).clamp(SIZES[0], FAR);
        let sizes = SIZES.into_iter().filter(|n| *n < far).chain([far]);
        let memory = sizes.map(|n| Ok((n as u64, read(&cpu.pool, n)? / 1e9)));
        let memory = memory.collect::<std::io::Result<_>>().map_err(ExecError::Memory)?;
        let far_gbps = far_rate(cpu, &filler, far)?;
        if !progress(parts - 2, parts) {
            return Ok(None);
        }
        let attend = KINDS.into_iter().map(|(k, v)| attend_rate(cpu, KvTypes { k, v }));
        let attend = attend.collect::<Result<_>>()?;
        if !progress(parts - 1, parts) {
            return Ok(None);
        }
        let (small_gbps, step) = small_rates(cpu)?;
        Ok(Some(Rates { linear, attend, memory, far_gbps, small_gbps, step }))
    }
}

/// A graph that multiplies `tokens` tokens with `count` weights in turn.
pub(super) fn layers(
    tokens: usize,
    count: usize,
    n: usize,
    k: usize,
    dtype: DType,
) -> Result<Graph, GraphError> {
    let g = Builder::stateless(tokens);
    let x = g.input("x", &[tokens, k], DType::F32);
    for i in 0..count {
        g.output(&format!("y{i}"), x.linear_by(g.weight(&format!("w{i}"), &[n, k])));
    }
    let mut graph = g.finish()?;
    graph.bind(|_| Some((dtype, vec![n, k])))?;
    Ok(graph)
}

fn built<T>(graph: Result<T, GraphError>) -> Result<T> {
    graph.map_err(|source| crate::Error::Graph { model: "the measurement".into(), source })
}

/// The median seconds of some runs, after one that warms up.
fn typical(times: usize, mut run: impl FnMut() -> Result<(), ExecError>) -> Result<f64> {
    run()?;
    let mut seconds = Vec::with_capacity(times);
    for _ in 0..times {
        let start = Instant::now();
        run()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[times / 2])
}

fn linear_rate(cpu: &Cpu, filler: &Arc<Filler>, dtype: DType) -> Result<LinearRate> {
    let size = dtype.bytes(N * K).unwrap_or(usize::MAX);
    let count = (WEIGHTS / size).max(1);
    let mut weights = Weights::default();
    for i in 0..count {
        weights.insert(&format!("w{i}"), Tensor::shared(dtype, filler.clone(), i * size..(i + 1) * size));
    }
    let x = vec![0.1f32; MANY * K];
    let mut memory = Memory::new();
    let mut speeds = |weights: &Weights| {
        let mut time = |times, tokens: usize, count| {
            let program = cpu.program(built(layers(tokens, count, N, K, dtype))?, weights)?;
            let inputs = [("x", Data::F32(&x[..tokens * K]))];
            let batch = Batch { inputs: &inputs, seqs: &[] };
            typical(times, || cpu.run(&program, &mut memory, None, &batch))
        };
        let products = |tokens: usize, count: usize| 2.0 * (count * tokens * N * K) as f64;
        let (some, two) = (count.min(8), count.min(2));
        Ok::<Speeds, crate::Error>(Speeds {
            one_gbps: (count * size) as f64 / time(3, 1, count)? / 1e9,
            few_gops: products(FEW, some) / time(3, FEW, some)? / 1e9,
            many_gops: products(MANY, two) / time(3, MANY, two)? / 1e9,
        })
    };
    let mapped = speeds(&weights)?;
    let graph = built(layers(1, count, N, K, dtype))?;
    let packed = match Packing::new(cpu, &graph, &weights).map_err(ExecError::Memory)? {
        Some(mut packing) => {
            packing.step(cpu, &weights, usize::MAX);
            speeds(&weights)?
        }
        None => mapped,
    };
    Ok(LinearRate { dtype, packed, mapped })
}

/// Linear layers over so many weights that each is read from memory: a format whose numbers take little work.
fn far_rate(cpu: &Cpu, filler: &Arc<Filler>, bytes: usize) -> Result<f64> {
    let size = DType::Q8_0.bytes(N * K).unwrap_or(usize::MAX);
    let count = bytes / size;
    let mut weights = Weights::default();
    for i in 0..count {
        weights.insert(&format!("w{i}"), Tensor::shared(DType::Q8_0, filler.clone(), 0..size));
    }
    let graph = built(layers(1, count, N, K, DType::Q8_0))?;
    if let Some(mut packing) = Packing::new(cpu, &graph, &weights).map_err(ExecError::Memory)? {
        packing.step(cpu, &weights, usize::MAX);
    }
    let program = cpu.program(graph, &weights)?;
    let x = vec![0.1f32; K];
    let inputs = [("x", Data::F32(&x))];
    let mut memory = Memory::new();
    let seconds = typical(3, || cpu.run(&program, &mut memory, None, &Batch { inputs: &inputs, seqs: &[] }))?;
    Ok((count * size) as f64 / seconds / 1e9)
}

/// Attention as models have it, keys and values being kept as `types` says: in so many layers that no cache keeps those in f16.
fn attend_rate(cpu: &Cpu, types: KvTypes) -> Result<AttendRate> {
    const LAYERS: usize = 96 / LESS;
    const TIMED: usize = 8;
    const DEPTH: usize = 2 * CHUNK;
    let (heads, kv_heads, dim) = (32, 8, 64);
    // Layers beyond those that are timed with a chunk are filled with a query for each key only.
    let graph = |tokens: usize, heads: usize, layers: usize| {
        let g = Builder::new(tokens, tokens);
        let q = g.input("q", &[tokens, heads, dim], DType::F32);
        let k = g.input("k", &[tokens, kv_heads, dim], DType::F32);
        let how = Attend { scale: 0.125, window: None, softcap: None, causal: true, cache: None };
        for i in 0..layers {
            g.output(&format!("y{i}"), q.attend(k, k, how));
        }
        built(g.finish())
    };
    let pages = DEPTH / PAGE + 1;
    let x: Vec<f32> = (0..CHUNK * heads * dim).map(|i| (i % 61) as f32 / 61.0 - 0.5).collect();
    let table: Vec<u32> = (0..pages as u32).collect();
    let mut memory = Memory::new();
    let mut run = |kv: &mut Kv, program: &Program, pos: usize| {
        let q = program.graph.inputs[0].shape;
        let tokens = q[0];
        let inputs = [("q", Data::F32(&x[..q.count()])), ("k", Data::F32(&x[..tokens * kv_heads * dim]))];
        let seqs = [Seq { start: 0, len: tokens, pos, read: tokens > 1, pages: &[&table] }];
        cpu.run(program, &mut memory, Some(kv), &Batch { inputs: &inputs, seqs: &seqs })
    };
    let program = |tokens, heads, layers| {
        Ok::<_, crate::Error>(cpu.program(graph(tokens, heads, layers)?, &Weights::default())?)
    };
    let cache =
        |program: &Program| Kv::new(&program.graph.states, types, |_| pages).map_err(ExecError::Memory);
    let (chunk, fill, one) =
        (program(CHUNK, heads, TIMED)?, program(CHUNK, kv_heads, LAYERS)?, program(1, heads, LAYERS)?);
    let mut few = cache(&chunk)?;
    run(&mut few, &chunk, 0)?;
    let seconds_chunk = typical(1, || run(&mut few, &chunk, CHUNK))?;
    drop(few);
    let mut all = cache(&one)?;
    run(&mut all, &fill, 0)?;
    run(&mut all, &fill, CHUNK)?;
    let seconds_one = typical(3, || run(&mut all, &one, DEPTH))?;
    let work = |program: &Program, reached| {
        work(&program.graph, reached, &Options { kv: types, ..Options::default() })
    };
    let gbps = work(&one, DEPTH + 1).bytes / seconds_one / 1e9;
    let gflops = work(&chunk, DEPTH).float / seconds_chunk / 1e9;
    Ok(AttendRate { k: types.k, v: types.v, gbps, gflops })
}

/// Bytes a second of an elementwise op on a chunk, and what a step costs that has hardly anything to do.
fn small_rates(cpu: &Cpu) -> Result<(f64, f64)> {
    const STEPS: usize = 200;
    const SMALL: usize = 256;
    let seconds = |rows: usize, steps: usize| {
        let g = Builder::stateless(rows);
        let mut x = g.input("x", &[rows, K], DType::F32);
        for _ in 0..steps {
            x = x + x;
        }
        g.output("y", x);
        let program = cpu.program(built(g.finish())?, &Weights::default())?;
        let x = vec![0.0f32; rows * K];
        let mut memory = Memory::new();
        let inputs = [("x", Data::F32(&x))];
        typical(5, || cpu.run(&program, &mut memory, None, &Batch { inputs: &inputs, seqs: &[] }))
    };
    let (rows, steps) = (CHUNK / 2, 8);
    let gbps = (steps * 3 * 4 * rows * K) as f64 / seconds(rows, steps)? / 1e9;
    // A small linear layer wakes the other threads, which is what most steps of a model do.
    let filler = Filler::new(1 << 20)?;
    let mut weights = Weights::default();
    let size = DType::Q8_0.bytes(SMALL * SMALL).unwrap_or(0);
    for i in 0..STEPS {
        weights.insert(&format!("w{i}"), Tensor::shared(DType::Q8_0, filler.clone(), 0..size));
    }
    let program = cpu.program(built(layers(1, STEPS, SMALL, SMALL, DType::Q8_0))?, &weights)?;
    let x = [0.1f32; SMALL];
    let inputs = [("x", Data::F32(&x))];
    let mut memory = Memory::new();
    let step = typical(5, || cpu.run(&program, &mut memory, None, &Batch { inputs: &inputs, seqs: &[] }))?;
    Ok((gbps, step / STEPS as f64))
}
