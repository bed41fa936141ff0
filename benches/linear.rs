//! Linear layers alone: `cargo bench -p hob-cpu --bench linear [-- FILTER] [OPTIONS]`.
//!
//! For each format, shape (N × K) and number of tokens T: time of one product (the best of many), bytes of weights per
//! second, and operations per second, a multiplication and an addition being two. Weights rotate through more memory
//! than caches hold, as in a model. FILTER is part of a line's name, such as `Q4_K` or `T=1 `. Options: `--threads N`,
//! `--isa avx2` or `portable`, `--shape NxK` in place of the models' shapes, `--memory MB`, `--packed` for weights laid
//! out anew.

use hob_cpu::isa::{Isa, isa};
use hob_cpu::ops::linear::{Linear, Size, pack, packed_bytes, scratch_bytes};
use hob_cpu::{Buffer, Pool, Precision};
use hob_graph::DType;
use std::time::{Duration, Instant};

/// Memory of the weights, in MB, unless given: more than the last level of cache.
const MEMORY: usize = 192;
const TIME: Duration = Duration::from_millis(300);

/// (N, K) of SmolLM2-135M, and of a Llama of 1B.
const SMALL: [(usize, usize); 5] = [(192, 576), (576, 576), (1536, 576), (576, 1536), (49152, 576)];
const LARGE: [(usize, usize); 5] = [(512, 2048), (2048, 2048), (8192, 2048), (2048, 8192), (128256, 2048)];
const TOKENS: [usize; 7] = [1, 2, 4, 8, 16, 128, 512];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let value = |name: &str| args.iter().position(|a| a == name).and_then(|i| args.get(i + 1));
    let threads = value("--threads")
        .and_then(|n| n.parse().ok())
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let memory = value("--memory").and_then(|n| n.parse().ok()).unwrap_or(MEMORY) << 20;
    let named = |name: &String| Isa::ALL.into_iter().find(|i| i.name() == name && i.available());
    let isa = value("--isa").and_then(named).unwrap_or_else(isa);
    let shape = value("--shape")
        .and_then(|s| s.split_once('x'))
        .and_then(|(n, k)| Some((n.parse().ok()?, k.parse().ok()?)));
    let filter = args.first().filter(|a| !a.starts_with("--"));
    let pool = Pool::new(threads);
    let how = How { pool: &pool, isa, memory, packed: args.iter().any(|a| a == "--packed") };
    println!("{threads} threads, {isa:?}");
    let fast = |dtype, shapes, tokens| (dtype, Precision::Fast, shapes, tokens);
    let exact = |dtype| (dtype, Precision::Exact, &LARGE[1..2], &[1, 8, 128][..]);
    let table = [
        fast(DType::Q4_1, &SMALL[..], &TOKENS[..]),
        fast(DType::Q4_K, &LARGE[..], &TOKENS[..]),
        fast(DType::Q6_K, &LARGE[..], &TOKENS[..]),
        fast(DType::Q4_0, &LARGE[1..3], &[1, 8, 128][..]),
        fast(DType::Q8_0, &LARGE[1..3], &[1, 8, 128][..]),
        fast(DType::Q5_K, &LARGE[1..3], &[1, 8, 128][..]),
        fast(DType::IQ4_XS, &LARGE[1..3], &[1, 8, 128][..]),
        fast(DType::MXFP4, &LARGE[1..3], &[1, 8, 128][..]),
        fast(DType::IQ2_XXS, &LARGE[1..2], &[1, 8, 128][..]),
        fast(DType::IQ3_S, &LARGE[1..2], &[1, 8, 128][..]),
        fast(DType::IQ1_S, &LARGE[1..2], &[1, 8, 128][..]),
        fast(DType::TQ1_0, &LARGE[1..2], &[1, 8, 128][..]),
        fast(DType::F16, &LARGE[1..3], &[1, 8, 128][..]),
        exact(DType::F32),
        exact(DType::F16),
        exact(DType::Q4_K),
    ];
    for (dtype, precision, shapes, tokens) in table {
        for &(n, k) in shape.as_ref().map_or(shapes, std::slice::from_ref) {
            for &tokens in tokens {
                let name = format!("{dtype} {precision:?} {n}x{k} T={tokens} ");
                if filter.is_none_or(|f| name.contains(f.as_str())) {
                    measure(&how, precision, dtype, Size { tokens, k, n, finer: false }, &name);
                }
            }
        }
    }
}

struct How<'a> {
    pool: &'a Pool,
    isa: Isa,
    memory: usize,
    packed: bool,
}

fn measure(how: &How, precision: Precision, dtype: DType, size: Size, name: &str) {
    let &How { pool, isa, memory, packed } = how;
    let Size { tokens, k, n, .. } = size;
    let bytes = dtype.bytes(n * k).expect("whole blocks");
    let copies = (memory / bytes).max(1);
    let mut weights = Buffer::zeroed(copies * bytes).expect("memory for weights");
    // Any bits will do for the whole numbers; 0x2c2c is a small f16, and part of a small f32.
    weights.bytes_mut().fill(0x2c);
    let x: Vec<f32> = (0..tokens * k).map(|i| (i * 7919 % 1000) as f32 / 500.0 - 1.0).collect();
    let mut y = Buffer::zeroed(4 * tokens * n).expect("memory for the result");
    let mut scratch = Buffer::zeroed(scratch_bytes(pool, precision, isa, dtype, size)).expect("memory");
    let (mut best, begin, mut i) = (f64::INFINITY, Instant::now(), 0);
    let room = packed.then(|| packed_bytes(dtype, n, k)).flatten().unwrap_or(0);
    let mut anew = Buffer::zeroed(copies * room).expect("memory for weights");
    [&anew, &weights, &scratch, &y].into_iter().for_each(Buffer::prefer_huge_pages);
    if room > 0 {
        for (w, to) in weights.bytes().chunks(bytes).zip(anew.bytes_mut().chunks_mut(room)) {
            pack(dtype, k, w, to);
        }
    }
    while begin.elapsed() < TIME || i < 2 * copies.min(8) {
        let w = &weights.bytes()[i % copies * bytes..][..bytes];
        let packed = (room > 0).then(|| &anew.bytes()[i % copies * room..][..room]);
        let linear = Linear { pool, precision, finer: false, isa, x: &x, k, dtype, w, packed, bias: None };
        let start = Instant::now();
        linear.run(y.f32s_mut(), scratch.bytes_mut());
        best = best.min(start.elapsed().as_secs_f64());
        i += 1;
    }
    let gops = 2.0 * (tokens * k * n) as f64 / best / 1e9;
    println!("{name:<34} {:>10.1} us {:>7.1} GB/s {gops:>8.1} GOP/s", best * 1e6, bytes as f64 / best / 1e9);
}
