//! How fast this machine runs Hob's own kernels, and how long a model takes by that.
//!
//! A roofline of memory and arithmetic says what no kernel exceeds. What one reaches differs from format to format, so
//! each is measured on weights of the size that models have: a few seconds once a machine, for estimates that hold.

use crate::cost::{Cost, cost, experts, work};
use crate::{CHUNK, Options, Result};
use hob_cpu::ceiling::{free, read};
use hob_cpu::exec::{ExecError, Memory};
use hob_cpu::kv::PAGE;
use hob_cpu::packing::Packing;
use hob_cpu::{Cpu, Kv, KvTypes, Program, Source, Tensor, Weights};
use hob_graph::graph::Weight;
use hob_graph::{Attend, Batch, Builder, DType, Data, Graph, GraphError, NodeId, Op, Seq};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::sync::Arc;
use std::time::Instant;

/// How fast linear layers run, by the tokens at once.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Speeds {
    /// bytes of weights read in a second with one token, in 10⁹
    pub one_gbps: f64,
    /// multiplications and additions in a second with [`FEW`] tokens, in 10⁹
    pub few_gops: f64,
    /// the same with [`MANY`]
    pub many_gops: f64,
}

/// The rates of linear layers with weights of one format.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinearRate {
    /// the format
    #[serde(serialize_with = "by_name", deserialize_with = "named")]
    pub dtype: DType,
    /// laid out for speed
    pub packed: Speeds,
    /// as the file has them
    pub mapped: Speeds,
}

/// The rates of attention, by how keys and values are kept.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttendRate {
    /// the format of keys
    #[serde(serialize_with = "by_name", deserialize_with = "named")]
    pub k: DType,
    /// the format of values
    #[serde(serialize_with = "by_name", deserialize_with = "named")]
    pub v: DType,
    /// bytes of keys and values read in a second with one token, in 10⁹
    pub gbps: f64,
    /// multiplications and additions in a second with a chunk of tokens, in 10⁹
    pub gflops: f64,
}

/// What kernels reach on this machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// of linear layers, by the format of the weights
    pub linear: Vec<LinearRate>,
    /// of attention, by the format of keys and values
    pub attend: Vec<AttendRate>,
    /// of memory that is read in turn: how many bytes, and how many of them in a second, in 10⁹
    pub memory: Vec<(u64, f64)>,
    /// bytes that linear layers read in a second of weights that no cache keeps, in 10⁹
    pub far_gbps: f64,
    /// bytes that small ops read and write in a second, in 10⁹
    pub small_gbps: f64,
    /// seconds that a step of a plan takes however little it does
    pub step: f64,
}

fn by_name<S: Serializer>(dtype: &DType, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(dtype.name())
}

fn named<'de, D: Deserializer<'de>>(from: D) -> Result<DType, D::Error> {
    let name = String::deserialize(from)?;
    let known = DType::all().find(|d| d.name() == name);
    known.ok_or_else(|| serde::de::Error::custom(format!("{name} is no number format")))
}

/// Tokens at once of a few conversations.
pub const FEW: usize = 8;

/// Tokens at once of a prompt. A whole chunk would take seconds with formats that have no kernel of their own, and is as
/// fast a token.
pub const MANY: usize = 128;

/// Builds for tests compute several times slower, and nobody believes their rates: they measure on less.
const LESS: usize = if cfg!(debug_assertions) { 12 } else { 1 };

/// Bytes of weights that a format is measured with: more than the caches of a core, and laid out in little time.
const WEIGHTS: usize = (96 << 20) / LESS;

/// Bytes of weights that no cache keeps, where memory allows: a server's last level has some hundred MB, shared by many.
const FAR: usize = (1 << 30) / LESS;

/// Bytes of memory that are read, from those that caches keep to those that they do not.
const SIZES: [usize; 4] = [FAR / 16, FAR / 8, FAR / 4, FAR / 2];

/// How keys and values are commonly kept.
const KINDS: [(DType, DType); 4] = [
    (DType::F16, DType::F16),
    (DType::Q8_0, DType::Q8_0),
    (DType::Q8_0, DType::Q4_0),
    (DType::Q4_0, DType::Q4_0),
];

/// Layers of many kinds and sizes in turn are read so much slower than many of a kind alone: by Gemma 3 270M, a 1B and an
/// 8B (LOG.md, 2026-11-27).
const OF_ALONE: f64 = 0.92;

/// The share of a step's cost that ops have which wake no other thread.
const OF_STEP: f64 = 0.25;

/// Channels of the layers that are measured.
const K: usize = 2048;

/// Rows of a layer.
const N: usize = 4096 / if LESS > 1 { 4 } else { 1 };

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

/// The formats that weights of linear layers come in.
pub fn formats() -> Vec<DType> {
    let others = [DType::I8, DType::I16, DType::I32, DType::I64, DType::F64, DType::Q8_1, DType::Q8_K];
    DType::all().filter(|d| !others.contains(d)).collect()
}

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

    /// Whether they can be those of a machine.
    pub fn are_sound(&self) -> bool {
        let speeds = |s: Speeds| [s.one_gbps, s.few_gops, s.many_gops];
        let layers = self.linear.iter().flat_map(|l| [l.packed, l.mapped]).flat_map(speeds);
        let attend = self.attend.iter().flat_map(|a| [a.gbps, a.gflops]);
        let memory = self.memory.iter().map(|m| m.1);
        let mut all = layers.chain(attend).chain(memory).chain([self.far_gbps, self.small_gbps]);
        let plausible = |x: f64| (1e-3..1e7).contains(&x);
        all.all(plausible) && (0.0..1.0).contains(&self.step)
    }

    /// Whether all of these formats were measured.
    pub fn know(&self, formats: &[DType]) -> bool {
        formats.iter().all(|d| self.linear.iter().any(|l| l.dtype == *d))
    }

    /// Of linear layers with weights in `dtype`; the slowest that was measured, where that one was not.
    pub fn of(&self, dtype: DType) -> Option<LinearRate> {
        let slowest = || self.linear.iter().min_by(|a, b| a.packed.one_gbps.total_cmp(&b.packed.one_gbps));
        self.linear.iter().find(|l| l.dtype == dtype).or_else(slowest).copied()
    }

    /// Seconds of attention that reads `bytes` and does `products`, keys and values being kept as `kv` says.
    fn attend(&self, kv: KvTypes, bytes: f64, products: f64) -> f64 {
        let time = |r: &AttendRate, bytes, products| giga(bytes, r.gbps).max(giga(products, r.gflops));
        let like = |k, v| self.attend.iter().find(|a| (a.k, a.v) == (k, v));
        if let Some(both) = like(kv.k, kv.v) {
            return time(both, bytes, products);
        }
        // Keys and values take turns: half the work each, at the speed of its format. Numbers of f32 are two of f16.
        let size = |x: DType| x.block_bytes() as f64 / x.block() as f64;
        let half = |dtype: DType| {
            let bytes = bytes * size(dtype) / (size(kv.k) + size(kv.v));
            let rate = like(dtype, dtype).or(self.attend.first());
            rate.map_or(0.0, |r| time(r, bytes, products / 2.0))
        };
        half(kv.k) + half(kv.v)
    }

    /// Bytes that linear layers read in a second at most, in 10⁹, when a run reads `bytes` in all.
    fn limit(&self, bytes: f64) -> f64 {
        let at = |bytes: f64| {
            let after = self.memory.iter().position(|m| m.0 as f64 >= bytes);
            match (after, self.memory.last()) {
                (Some(0), _) => self.memory[0].1,
                (Some(i), _) => {
                    let (from, to) = (self.memory[i - 1], self.memory[i]);
                    let share = (bytes - from.0 as f64) / (to.0 - from.0) as f64;
                    from.1 + share * (to.1 - from.1)
                }
                (None, Some(last)) => last.1,
                (None, None) => f64::INFINITY,
            }
        };
        OF_ALONE * at(bytes) * self.far_gbps / at(f64::MAX)
    }

    /// Seconds that a run of `graph` takes, with `reached` tokens of context when it is done, in each of so many sequences.
    pub fn seconds(&self, graph: &Graph, reached: usize, sequences: usize, how: &Options) -> f64 {
        let leaf = |op: &Op| matches!(op, Op::Input(_) | Op::Weight(_) | Op::Const(_) | Op::Reshape);
        let live = graph.live();
        let nodes = graph.nodes.iter().enumerate().filter(|(i, n)| live[*i] && !leaf(&n.op));
        let costs: Vec<(NodeId, Cost)> = nodes
            .map(|(i, n)| {
                let id = NodeId(i as u32);
                let mut cost = cost(graph, id, reached, how);
                if matches!(n.op, Op::Attend(_)) {
                    cost.bytes *= sequences as f64; // each has keys and values of its own
                }
                (id, cost)
            })
            .collect();
        // What one step reads is in the caches when the next one begins, or it is not.
        let limit = self.limit(costs.iter().map(|c| c.1.bytes).sum());
        // Attention is a task of its own for each sequence.
        let tasks = graph.states.len() * (sequences - sequences.min(1));
        let nodes: f64 = costs.iter().map(|(id, cost)| self.node_seconds(graph, *id, cost, limit, how)).sum();
        // The results are copied out: read and written.
        let out: usize = graph.outputs.iter().map(|(_, id)| graph.node(*id).shape.count()).sum();
        nodes + giga(8.0 * out as f64, limit) + self.step * tasks as f64
    }

    fn node_seconds(&self, graph: &Graph, id: NodeId, cost: &Cost, limit: f64, how: &Options) -> f64 {
        let node = graph.node(id);
        let &Cost { bytes, int8, float, .. } = cost;
        let speeds = |w: &Weight| self.of(w.dtype).map(|r| if how.mapped { r.mapped } else { r.packed });
        let work = match node.op {
            Op::Linear => {
                let weight = graph.as_weight(node.inputs[1]).map(|w| &graph.weights[w.0 as usize]);
                let tokens = graph.node(node.inputs[0]).shape[0];
                let time = |s: Speeds| s.seconds(tokens, bytes, int8 + float, limit);
                // Its tokens are rounded to 8 bits first, one pass of reading and one of writing.
                let round =
                    giga(8.0 * graph.node(node.inputs[0]).shape.count() as f64, self.small_gbps / 2.0);
                weight.and_then(speeds).map_or(0.0, time) + round
            }
            Op::Experts(_) => {
                let one = |(w, bytes, products): (&Weight, f64, f64)| {
                    // What an expert that is met has to do: of all tokens those that chose it.
                    let tokens = products / (2.0 * w.shape.count() as f64 * bytes / w.bytes() as f64);
                    Some(speeds(w)?.seconds(tokens.round().max(1.0) as usize, bytes, products, limit))
                };
                experts(graph, id).into_iter().filter_map(one).sum()
            }
            Op::Attend(_) => self.attend(how.kv, bytes, float),
            Op::Gather => giga(8.0 * node.shape.count() as f64, self.small_gbps),
            _ => {
                let read: usize = node.inputs.iter().map(|&x| graph.node(x).shape.count()).sum();
                giga(4.0 * (read + node.shape.count()) as f64, self.small_gbps)
            }
        };
        let wakes = matches!(node.op, Op::Linear | Op::Experts(_) | Op::Attend(_) | Op::MatMul);
        work + self.step * if wakes { 1.0 } else { OF_STEP }
    }
}

/// Seconds of so much work at a rate in 10⁹.
fn giga(n: f64, rate: f64) -> f64 {
    n / (rate.max(1e-3) * 1e9)
}

impl Speeds {
    /// Seconds of a layer that reads `bytes` of weights, at `limit` at most, and does `products` in all, for so many tokens.
    /// Between the numbers of tokens that were measured, time grows evenly.
    fn seconds(&self, tokens: usize, bytes: f64, products: f64, limit: f64) -> f64 {
        let memory = giga(bytes, limit);
        // Reading and multiplying overlap about half: what was measured had its weights nearer.
        let both = |work: f64| work.max(memory) + work.min(memory) / 2.0;
        let each = products / tokens.max(1) as f64;
        let one = giga(bytes, self.one_gbps).max(memory);
        let few = both(giga(each * FEW as f64, self.few_gops)).max(one);
        let many = |tokens: f64| both(giga(each * tokens, self.many_gops)).max(few);
        let (tokens, some) = (tokens as f64, MANY as f64);
        if tokens >= some {
            return many(tokens);
        }
        let at = [(1.0, one), (FEW as f64, few), (some, many(some))];
        let (from, to) = if tokens <= at[1].0 { (at[0], at[1]) } else { (at[1], at[2]) };
        from.1 + (tokens - from.0) / (to.0 - from.0) * (to.1 - from.1)
    }
}

/// A graph that multiplies `tokens` tokens with `count` weights in turn.
fn layers(tokens: usize, count: usize, n: usize, k: usize, dtype: DType) -> Result<Graph, GraphError> {
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
            Ok::<f64, crate::Error>(typical(times, || cpu.run(&program, &mut memory, None, &batch))?)
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
        let seqs = [Seq { start: 0, len: tokens, pos, pages: &[&table] }];
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

#[cfg(test)]
mod tests {
    use super::*;

    fn rates() -> Rates {
        let rate = |dtype, one_gbps, many_gops| {
            let packed = Speeds { one_gbps, few_gops: many_gops / 10.0, many_gops };
            LinearRate { dtype, packed, mapped: Speeds { one_gbps: one_gbps / 2.0, ..packed } }
        };
        Rates {
            linear: vec![rate(DType::Q8_0, 10.0, 500.0), rate(DType::F32, 8.0, 100.0)],
            attend: KINDS
                .map(|(k, v)| AttendRate {
                    k,
                    v,
                    gbps: if v == DType::Q4_0 { 1.0 } else { 5.0 },
                    gflops: 50.0,
                })
                .to_vec(),
            memory: vec![(100 << 20, 40.0), (200 << 20, 30.0)],
            far_gbps: 15.0,
            small_gbps: 20.0,
            step: 1e-6,
        }
    }

    #[test]
    fn attention_is_as_fast_as_what_it_reads_allows() {
        let of = |k, v| rates().attend(KvTypes { k, v }, 1e9, 1.0);
        let (f16, q8, q4) = (DType::F16, DType::Q8_0, DType::Q4_0);
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} and {b}");
        near(of(f16, f16), 0.2);
        near(of(q8, q4), 1.0);
        near(of(f16, q8), 0.2); // was not measured: half of each
        near(of(DType::F32, DType::F32), 0.2);
        near(of(f16, q4), 2.0 / (2.0 + 18.0 / 32.0) * 0.2 + (18.0 / 32.0) / (2.0 + 18.0 / 32.0));
        near(rates().attend(KvTypes::default(), 1.0, 1e11), 2.0);
    }

    #[test]
    fn what_no_cache_keeps_is_read_at_the_speed_of_memory() {
        let mib = |n: f64| rates().limit(n * 1048576.0);
        let near = |a: f64, b: f64| assert!((a - OF_ALONE * b).abs() < 1e-9, "{a} and {b}");
        for (n, limit) in [(1.0, 20.0), (100.0, 20.0), (150.0, 17.5), (200.0, 15.0), (9999.0, 15.0)] {
            near(mib(n), limit);
        }
        let how = Options { threads: 1, ..Options::default() };
        let slow = Rates { far_gbps: 3.0, ..rates() };
        let seconds = slow.seconds(&layers(1, 3, N, K, DType::Q8_0).unwrap(), 1, 1, &how);
        let bytes = 3.0 * DType::Q8_0.bytes(N * K).unwrap() as f64;
        let limit = 4e9 * OF_ALONE;
        let out = 8.0 * (3 * N) as f64 / limit;
        let round = 3.0 * 8.0 * K as f64 / 10e9;
        assert!((seconds / (bytes / limit + out + round + 3e-6) - 1.0).abs() < 1e-9, "{seconds}");
    }

    #[test]
    fn a_layer_takes_as_long_as_was_measured() {
        let how = Options { threads: 1, ..Options::default() };
        let seconds = |tokens: usize, dtype, how: &Options| {
            let out = 8.0 * (3 * tokens * N) as f64 / (20e9 * OF_ALONE);
            let round = 8.0 * (tokens * K) as f64 / 10e9;
            (rates().seconds(&layers(tokens, 3, N, K, dtype).unwrap(), tokens, 1, how) - out) / 3.0
                - 1e-6
                - round
        };
        let near = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-6, "{a} and {b}");
        let (bytes, each) = (DType::Q8_0.bytes(N * K).unwrap() as f64, 2.0 * (N * K) as f64);
        let (one, memory) = (bytes / 10e9, bytes / (20e9 * OF_ALONE)); // three layers are in the caches
        near(seconds(1, DType::Q8_0, &how), one);
        near(seconds(1, DType::Q8_0, &Options { mapped: true, ..how }), 2.0 * one);
        near(seconds(512, DType::Q8_0, &how), 512.0 * each / 500e9 + memory / 2.0);
        let few = 8.0 * each / 50e9 + memory / 2.0;
        near(seconds(8, DType::Q8_0, &how), few);
        near(seconds(2, DType::Q8_0, &how), one + (few - one) / 7.0);
        // A format that was not measured is taken for the slowest.
        near(seconds(1, DType::F16, &how), (2 * N * K) as f64 / 8e9);
    }

    #[test]
    fn more_tokens_take_longer() {
        let speeds = Speeds { one_gbps: 10.0, few_gops: 100.0, many_gops: 500.0 };
        let times: Vec<f64> = (1..600).map(|t| speeds.seconds(t, 1e9, 1e9 * t as f64, 20.0)).collect();
        assert!(times.is_sorted() && times[0] < times[50] && times[50] < times[500]);
    }

    #[test]
    fn rates_are_kept_by_the_names_of_formats() {
        let text = serde_json::to_string(&rates()).unwrap();
        assert!(text.contains(r#""dtype":"Q8_0""#), "{text}");
        assert_eq!(serde_json::from_str::<Rates>(&text).unwrap(), rates());
        assert!(serde_json::from_str::<Rates>(&text.replace("Q8_0", "Q9_0")).is_err());
        assert!(rates().are_sound() && !Rates { step: 2.0, ..rates() }.are_sound());
        assert!(rates().know(&[DType::F32, DType::Q8_0]) && !rates().know(&[DType::F16]));
    }

    #[test]
    fn what_is_known_is_not_measured_again() {
        let cpu = Cpu::new(1, hob_cpu::Precision::Fast);
        let formats = [DType::Q8_0, DType::F32];
        assert_eq!(Rates::measure(&cpu, &formats, None, |_, _| false).unwrap(), None);
        let never = |_, _| panic!("both are known");
        assert_eq!(Rates::measure(&cpu, &formats, Some(rates()), never).unwrap(), Some(rates()));
        let mut parts = Vec::new();
        let more = Rates::measure(&cpu, &[DType::Q4_0], Some(rates()), |i, n| (parts.push((i, n)), true).1);
        let more = more.unwrap().unwrap();
        assert_eq!((parts, more.linear.len()), (vec![(0, 1)], 3));
        assert!(more.know(&[DType::Q4_0, DType::Q8_0]) && more.are_sound());
        assert_eq!(Rates { linear: rates().linear, ..more }, rates());
    }
}
