//! Cached attention: however a sequence comes (at once, token by token, in chunks, beside others), its result is that
//! of attention over the whole sequence.

use crate::harness::{Random, assert_close, reference, run};
use hob_cpu::exec::Memory;
use hob_cpu::kv::{KvTypes, PAGE};
use hob_cpu::{Cpu, Kv, Precision, Weights};
use hob_graph::{Attend, Batch, Builder, DType, Data, GONE, Graph, Seq};

/// A model's attention: query heads, key heads, numbers a head, and how.
#[derive(Clone, Copy, Debug)]
struct Shape {
    heads: usize,
    kv: usize,
    dim: usize,
    how: Attend,
}

impl Shape {
    /// How many page tables [`graph`] wants.
    fn windows(&self) -> usize {
        if self.how.window == Some(3) { 1 } else { 2 }
    }
}

/// Two layers with a state each, of which the second looks back 3 tokens and has other keys.
fn graph(g: Builder, s: Shape) -> Graph {
    let t = g.tokens();
    let q = g.input("q", &[t, s.heads, s.dim], DType::F32);
    let k = g.input("k", &[t, s.kv, s.dim], DType::F32);
    let v = g.input("v", &[t, s.kv, s.dim], DType::F32);
    let y = q.attend(k, v, s.how);
    let z = q.attend(v, k, Attend { window: Some(3), ..s.how });
    g.output("y", y.concat(2, &[z]));
    g.finish().unwrap()
}

/// A sequence: its tokens, where its cache lies, and how far it has come.
struct Stream {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    pages: Vec<u32>,
    done: usize,
    y: Vec<f32>,
}

impl Stream {
    fn new(s: Shape, tokens: usize, pages: Vec<u32>, seed: u64) -> Stream {
        let mut random = Random(seed);
        let mut numbers = |n| (0..n).map(|_| random.signed() * 2.0).collect::<Vec<f32>>();
        let (q, k, v) = (
            numbers(tokens * s.heads * s.dim),
            numbers(tokens * s.kv * s.dim),
            numbers(tokens * s.kv * s.dim),
        );
        Stream { q, k, v, pages, done: 0, y: Vec::new() }
    }
}

/// Runs the next `n` tokens of each sequence `i` of `parts` in one batch.
fn step(cpu: &Cpu, s: Shape, kv: &mut Kv, streams: &mut [Stream], parts: &[(usize, usize)]) {
    let (mut q, mut k, mut v, mut seqs) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    // Pages that a window has moved past are gone.
    let table = |stream: &Stream, window: Option<usize>| {
        let gone = window.map_or(0, |w| (stream.done + 1).saturating_sub(w) / PAGE);
        stream.pages.iter().enumerate().map(|(i, p)| if i < gone { GONE } else { *p }).collect::<Vec<u32>>()
    };
    let tables: Vec<_> =
        streams.iter().map(|stream| [s.how.window, Some(3)].map(|w| table(stream, w))).collect();
    let tables: Vec<_> = tables.iter().map(|[a, b]| [&a[..], &b[..]]).collect();
    let mut start = 0;
    for &(i, n) in parts {
        let stream = &streams[i];
        let rows = |x: &[f32], width: usize| x[stream.done * width..(stream.done + n) * width].to_vec();
        q.extend(rows(&stream.q, s.heads * s.dim));
        k.extend(rows(&stream.k, s.kv * s.dim));
        v.extend(rows(&stream.v, s.kv * s.dim));
        seqs.push(Seq {
            start,
            len: n,
            pos: stream.done,
            read: n > 1 || i == 1,
            pages: &tables[i][..s.windows()],
        });
        start += n;
    }
    let program = cpu.program(graph(Builder::new(start, start), s), &Weights::default()).unwrap();
    let mut memory = Memory::new();
    let inputs = [("q", Data::F32(&q)), ("k", Data::F32(&k)), ("v", Data::F32(&v))];
    cpu.run(&program, &mut memory, Some(kv), &Batch { inputs: &inputs, seqs: &seqs }).unwrap();
    let mut rest = program.output(&memory, "y").unwrap();
    for &(i, n) in parts {
        let (y, after) = rest.split_at(n * s.heads * s.dim * 2);
        streams[i].y.extend_from_slice(y);
        streams[i].done += n;
        rest = after;
    }
}

/// What attention over the whole sequence gives, by the reference and without a cache.
fn whole(s: Shape, stream: &Stream) -> Vec<f32> {
    let tokens = stream.q.len() / (s.heads * s.dim);
    let inputs = [("q", Data::F32(&stream.q)), ("k", Data::F32(&stream.k)), ("v", Data::F32(&stream.v))];
    let seqs = [Seq { start: 0, len: tokens, pos: 0, read: true, pages: &[] }];
    let graph = graph(Builder::stateless(tokens), s);
    run(&reference(), &graph, &Weights::default(), &Batch { inputs: &inputs, seqs: &seqs }).unwrap().remove(0)
}

/// Runs two sequences of `tokens` as `schedule` says and compares both.
fn check(s: Shape, tokens: [usize; 2], schedule: &[&[(usize, usize)]]) {
    // Pages of both lie scattered over the cache.
    let pages = |first: u32, n: usize| (0..n.div_ceil(PAGE) as u32).map(|p| first + 2 * p).rev().collect();
    let fresh = || {
        [Stream::new(s, tokens[0], pages(0, tokens[0]), 1), Stream::new(s, tokens[1], pages(1, tokens[1]), 2)]
    };
    let right = fresh().each_ref().map(|stream| whole(s, stream));
    let kernels = [1, 2, 3].map(|threads| Cpu::new(threads, Precision::Exact));
    let checking = Cpu { check: true, ..Cpu::new(2, Precision::Exact) };
    let fast = [1, 2].map(|threads| Cpu::new(threads, Precision::Fast));
    for cpu in [reference(), checking].iter().chain(&kernels).chain(&fast) {
        let whole = if cpu.precision == Precision::Fast { 1e-4 } else { 1e-5 };
        for (dtype, tolerance) in [(DType::F32, whole), (DType::F16, 2e-3)] {
            let state_of = graph(Builder::new(1, 1), s).states;
            let pages = 2 * tokens.map(|t| t.div_ceil(PAGE)).into_iter().max().unwrap();
            let mut kv = Kv::new(&state_of, dtype, |_| pages).unwrap();
            let mut streams = fresh();
            for parts in schedule {
                step(cpu, s, &mut kv, &mut streams, parts);
            }
            for (i, (stream, right)) in streams.iter().zip(&right).enumerate() {
                let what = format!(
                    "{s:?}, sequence {i}, {dtype}, {} threads, reference {}",
                    cpu.pool.threads(),
                    cpu.reference
                );
                assert_close(&what, &stream.y, right, tolerance);
            }
        }
    }
}

fn shapes() -> Vec<Shape> {
    let how = Attend { scale: 0.3, window: None, softcap: None, causal: true, cache: None };
    vec![
        Shape { heads: 4, kv: 2, dim: 16, how },
        Shape { heads: 3, kv: 1, dim: 20, how: Attend { window: Some(5), ..how } },
        Shape { heads: 2, kv: 2, dim: 7, how: Attend { window: Some(70), ..how } },
        Shape { heads: 5, kv: 1, dim: 64, how: Attend { softcap: Some(2.0), ..how } },
    ]
}

#[test]
fn at_once() {
    for s in shapes() {
        check(s, [150, 64], &[&[(0, 150), (1, 64)]]);
    }
}

/// What looks ahead must come as a whole.
#[test]
fn both_ways() {
    for s in shapes() {
        let s = Shape { how: Attend { causal: false, ..s.how }, ..s };
        check(s, [150, 64], &[&[(0, 150)], &[(1, 64)]]);
    }
}

#[test]
fn token_by_token() {
    for s in shapes() {
        check(s, [67, 67], &[&[(0, 1), (1, 1)][..]; 67]);
    }
}

#[test]
fn in_chunks() {
    for s in shapes() {
        check(
            s,
            [150, 70],
            &[&[(0, 63)], &[(0, 1)], &[(0, 2)], &[(0, 84)], &[(1, 3)], &[(1, 62)], &[(1, 4)], &[(1, 1)]],
        );
    }
}

#[test]
fn interleaved() {
    for s in shapes() {
        check(
            s,
            [150, 100],
            &[
                &[(0, 100), (1, 37)],
                &[(1, 1), (0, 1)],
                &[(0, 1), (1, 26)],
                &[(1, 7), (0, 40)],
                &[(0, 8), (1, 29)],
            ],
        );
    }
}

/// Long enough that few tokens are split between threads.
#[test]
fn after_a_long_context() {
    for s in shapes().into_iter().step_by(2) {
        check(
            s,
            [1100, 600],
            &[&[(0, 1095), (1, 598)], &[(0, 1)], &[(0, 1), (1, 1)], &[(1, 1), (0, 2)], &[(0, 1)]],
        );
    }
}

/// Kernels read every format as the reference does, which decodes number by number; right after rounding keys and
/// values, so that only the order of additions differs.
#[test]
fn kept_in_any_format() {
    let how = Attend { scale: 0.3, window: None, softcap: None, causal: true, cache: None };
    let shapes = [(3, 1, 64), (4, 1, 256), (8, 2, 80), (8, 1, 64), (7, 1, 37), (2, 2, 7), (16, 1, 16)];
    let windows = [None, Some(70), Some(3)];
    for (i, (heads, kv, dim)) in shapes.into_iter().enumerate() {
        let s = Shape { heads, kv, dim, how: Attend { window: windows[i % 3], ..how } };
        for k in KvTypes::CHOICE {
            for v in KvTypes::CHOICE {
                let exact = [1, 3, 16].map(|n| Cpu::new(n, Precision::Exact));
                let outputs = [reference()].into_iter().chain(exact).chain([Cpu::new(2, Precision::Fast)]);
                let mut right = None;
                for cpu in outputs {
                    let pages = [3, 0, 4, 2, 1].to_vec();
                    let mut kv =
                        Kv::new(&graph(Builder::new(1, 1), s).states, KvTypes { k, v }, |_| 5).unwrap();
                    let mut streams = [Stream::new(s, 265, pages, 1)];
                    for n in [1, 70, 2, 1, 187, 4] {
                        step(&cpu, s, &mut kv, &mut streams, &[(0, n)]);
                    }
                    let [Stream { y, .. }] = streams;
                    let right = right.get_or_insert_with(|| y.clone());
                    let tolerance = if cpu.precision == Precision::Fast { 2e-4 } else { 2e-5 };
                    let what = format!("{s:?}, {k} {v}, {} threads", cpu.pool.threads());
                    assert_close(&what, &y, right, tolerance);
                }
            }
        }
    }
}
