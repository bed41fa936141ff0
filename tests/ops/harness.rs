//! What the op tests share: a row of the table, random numbers, running a graph, and comparing.

use hob_cpu::exec::Memory;
use hob_cpu::{Buffer, Cpu, Precision, Tensor, Weights};
use hob_graph::{Batch, Builder, DType, Data, Graph, Seq, X};

/// One row of the op table: a graph with a single result `y`, whose operands are F32 weights.
pub struct Row {
    pub name: String,
    pub tokens: usize,
    /// operands are drawn from here
    pub range: (f32, f32),
    /// tokens already there and tokens of the run, by sequence
    pub seqs: Vec<(usize, usize)>,
    pub ids: Vec<(&'static str, Vec<i32>)>,
    /// whether the gradient is zero everywhere, so that there is none to compare
    pub flat: bool,
    build: Box<Build>,
}

type Build = dyn for<'g> Fn(&'g Builder) -> X<'g>;

pub fn row(name: impl Into<String>, build: impl for<'g> Fn(&'g Builder) -> X<'g> + 'static) -> Row {
    Row {
        name: name.into(),
        tokens: 0,
        range: (-2.0, 2.0),
        seqs: Vec::new(),
        ids: Vec::new(),
        flat: false,
        build: Box::new(build),
    }
}

impl Row {
    pub fn range(mut self, low: f32, high: f32) -> Row {
        self.range = (low, high);
        self
    }

    pub fn ids(mut self, name: &'static str, ids: &[i32]) -> Row {
        self.ids.push((name, ids.to_vec()));
        self.tokens = ids.len();
        self
    }

    /// Sequences as (tokens before, tokens of this run).
    pub fn seqs(mut self, seqs: &[(usize, usize)]) -> Row {
        self.seqs = seqs.to_vec();
        self.tokens = seqs.iter().map(|s| s.1).sum();
        self
    }

    pub fn flat(mut self) -> Row {
        self.flat = true;
        self
    }

    /// The graph of `y`.
    pub fn graph(&self) -> Graph {
        let g = Builder::stateless(self.tokens);
        g.output("y", (self.build)(&g));
        g.finish().unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }

    /// The graph of `y` and of `loss = Σ r · y`.
    pub fn loss_by(&self, r: Vec<f32>) -> Graph {
        let g = Builder::stateless(self.tokens);
        let y = (self.build)(&g);
        g.output("y", y);
        g.output("loss", (y * g.constant(r).reshape(&y.shape())).sum_all());
        g.finish().unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }

    /// The same with an r that makes every element of y count differently.
    pub fn loss(&self) -> (Graph, Vec<f32>) {
        let graph = self.graph();
        let r = spread(graph.node(graph.outputs[0].1).shape.count(), (-1.0, 1.0), 99);
        (self.loss_by(r.clone()), r)
    }

    /// Random operands.
    pub fn weights(&self, graph: &Graph) -> Vec<(String, Vec<f32>)> {
        let values = |(i, w): (usize, &hob_graph::graph::Weight)| {
            (w.name.clone(), spread(w.shape.count(), self.range, i as u64 + 1))
        };
        graph.weights.iter().enumerate().map(values).collect()
    }

    /// The results of `graph`, in the order of its outputs.
    pub fn run(&self, cpu: &Cpu, graph: &Graph, weights: &[(String, Vec<f32>)]) -> Vec<Vec<f32>> {
        let mut held = Weights::default();
        for (name, values) in weights {
            held.insert(name, Tensor::from_f32(values).unwrap());
        }
        let inputs: Vec<(&str, Data)> = self.ids.iter().map(|(n, v)| (*n, Data::I32(v))).collect();
        let mut start = 0;
        let mut seqs = Vec::new();
        for &(pos, len) in &self.seqs {
            seqs.push(Seq { start, len, pos, read: len > 1, pages: &[] });
            start += len;
        }
        run(cpu, graph, &held, &Batch { inputs: &inputs, seqs: &seqs })
            .unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }
}

/// Plans and runs `graph` without a cache; its outputs in order.
pub fn run(cpu: &Cpu, graph: &Graph, weights: &Weights, batch: &Batch) -> Result<Vec<Vec<f32>>, String> {
    let program = cpu.program(graph.clone(), weights).map_err(|e| e.to_string())?;
    let mut memory = Memory::new();
    cpu.run(&program, &mut memory, None, batch).map_err(|e| e.to_string())?;
    let output = |(name, _): &(String, _)| program.output(&memory, name).expect("a computed output").to_vec();
    Ok(graph.outputs.iter().map(output).collect())
}

/// A processor that runs the reference alone.
pub fn reference() -> Cpu {
    Cpu { reference: true, ..Cpu::new(1, Precision::Exact) }
}

/// Random bits (Steele et al. 2014, "splitmix64").
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// Uniform within -1..1.
    pub fn signed(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// `n` evenly spaced numbers in random order: no two are close, and none is close to 0 where 0 is in the middle, so
/// that finite differences meet no kink.
pub fn spread(n: usize, (low, high): (f32, f32), seed: u64) -> Vec<f32> {
    let even = n.next_multiple_of(2);
    let mut values: Vec<f32> = (0..n).map(|i| low + (high - low) * (i as f32 + 0.5) / even as f32).collect();
    let mut random = Random(seed);
    for i in (1..n).rev() {
        values.swap(i, random.below(i + 1));
    }
    values
}

/// A weight of `values` numbers in any format, and the numbers. Blocks are random bits, drawn until their values are
/// finite and neither tiny nor huge.
pub fn stored(dtype: DType, values: usize, seed: u64) -> (Tensor, Vec<f32>) {
    let mut random = Random(seed);
    let mut bytes = Buffer::zeroed(dtype.bytes(values).expect("whole blocks")).unwrap();
    let mut decoded = vec![0.0; values];
    for (b, y) in
        bytes.bytes_mut().chunks_exact_mut(dtype.block_bytes()).zip(decoded.chunks_exact_mut(dtype.block()))
    {
        loop {
            b.fill_with(|| random.bits() as u8);
            dtype.decode(b, y);
            let largest = y.iter().fold(0.0f32, |m, y| if y.is_nan() { *y } else { m.max(y.abs()) });
            if y.iter().all(|y| y.is_finite()) && (0.02..4.0).contains(&largest) {
                break;
            }
        }
    }
    (Tensor::own(dtype, bytes), decoded)
}

/// The formats weights come in.
pub fn formats() -> impl Iterator<Item = DType> {
    DType::all().filter(|d| !matches!(d, DType::I8 | DType::I16 | DType::I32 | DType::I64))
}

/// Asserts that `a` is `b` within `tolerance` of the largest element of `b`.
#[track_caller]
pub fn assert_close(what: &str, a: &[f32], b: &[f32], tolerance: f32) {
    assert_eq!(a.len(), b.len(), "{what}: lengths");
    let largest = b.iter().filter(|x| x.is_finite()).fold(0.0f32, |m, x| m.max(x.abs()));
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        let same = a == b || (a - b).abs() <= tolerance * largest;
        assert!(same, "{what}: element {i} is {a} instead of {b} (the largest is {largest})");
    }
}
