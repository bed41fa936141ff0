//! How fast this machine runs Hob's own kernels, and how long a model takes by that.
//!
//! A roofline of memory and arithmetic says what no kernel exceeds. What one reaches differs from format to format, so
//! each is measured on weights of the size that models have: a few seconds once a machine, for estimates that hold.

mod measure;

use crate::Options;
use crate::cost::{Cost, cost, experts};
use hob_cpu::KvTypes;
use hob_graph::graph::Weight;
use hob_graph::{DType, Graph, NodeId, Op};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

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

/// Layers of many kinds and sizes in turn are read so much slower than many of a kind alone: by Gemma 3 270M, a 1B and an
/// 8B (LOG.md, 2026-11-27).
const OF_ALONE: f64 = 0.92;

/// Experts that a token chose lie scattered, and are read so much slower than layers in turn: by six layers of the shape of
/// Qwen3 30B-A3B.
const OF_EXPERTS: f64 = 0.8;

/// The share of a step's cost that ops have which wake no other thread.
const OF_STEP: f64 = 0.25;

/// The formats that weights of linear layers come in.
pub fn formats() -> Vec<DType> {
    let others = [DType::I8, DType::I16, DType::I32, DType::I64, DType::F64, DType::Q8_1, DType::Q8_K];
    DType::all().filter(|d| !others.contains(d)).collect()
}

impl Rates {
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
        // What one step reads is in the caches when the next one begins, or it is not. Each step chooses other experts.
        let others = |(id, cost): &(NodeId, Cost)| match graph.node(*id).op {
            Op::Experts(_) => experts(graph, *id).iter().map(|(w, ..)| w.bytes() as f64).sum(),
            _ => cost.bytes,
        };
        let limit = self.limit(costs.iter().map(others).sum());
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
                    let limit = OF_EXPERTS * limit;
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

#[cfg(test)]
mod tests {
    use super::measure::{K, KINDS, N, layers};
    use super::*;
    use hob_cpu::Cpu;

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
