//! Every path of the linear layer, against sums in f64.

use super::*;
use crate::quant::acts::{self, ActsMut};
use crate::quant::tests::{FORMATS, random, set_scale, sets, weights};

struct Case {
    precision: Precision,
    isa: Isa,
    dtype: DType,
    threads: usize,
    size: Size,
    biased: bool,
    /// whether weights are laid out anew, where they can be
    packed: bool,
}

/// What activations become when they are quantized.
fn rounded(x: &[f32], k: usize) -> Vec<f32> {
    let (mut q, mut d) = (vec![0; k], vec![0.0; k / 32]);
    let (mut sums, mut half_sums) = (vec![0.0; k / 32], vec![0.0; k / 16]);
    let mut y = Vec::new();
    for row in x.chunks_exact(k) {
        let to = ActsMut { q: &mut q, d: &mut d, sums: &mut sums, half_sums: &mut half_sums };
        acts::quantize(row, k, 1, to, None);
        y.extend((0..k).map(|i| q[i] as f32 * d[i / 32]));
    }
    y
}

impl Case {
    fn check(&self, x: &[f32], w: &[u8]) {
        let Size { tokens, k, n, .. } = self.size;
        let bias: Vec<f32> = (0..n).map(|i| i as f32 - 3.0).collect();
        let pool = Pool::new(self.threads);
        let packed = packed_bytes(self.dtype, n, k).filter(|_| self.packed).map(|bytes| {
            let mut to = vec![0; bytes];
            pack(self.dtype, k, w, &mut to);
            to
        });
        let linear = Linear {
            pool: &pool,
            precision: self.precision,
            finer: self.size.finer,
            isa: self.isa,
            x,
            k,
            dtype: self.dtype,
            w,
            packed: packed.as_deref(),
            bias: self.biased.then_some(&bias),
        };
        let mut y = vec![f32::NAN; tokens * n];
        let bytes = scratch_bytes(&pool, self.precision, self.isa, self.dtype, self.size);
        let mut scratch = crate::Buffer::zeroed(bytes).unwrap();
        linear.run(&mut y, scratch.bytes_mut());

        let mut exact = vec![0f32; n * k];
        self.dtype.decode(w, &mut exact);
        let whole = self.precision == Precision::Fast && quant::kernels(self.dtype, self.isa).is_some();
        let tiles = whole && self.isa == Isa::Amx;
        let x = if whole && !tiles { rounded(x, k) } else { x.to_vec() };
        for t in 0..tokens {
            for r in 0..n {
                let (mut sum, mut size) = (if self.biased { bias[r] as f64 } else { 0.0 }, 0.0);
                let mut squares = 0.0;
                for (a, b) in x[t * k..][..k].iter().zip(&exact[r * k..][..k]) {
                    let product = *a as f64 * *b as f64;
                    (sum, size, squares) = (sum + product, size + product.abs(), squares + product * product);
                }
                // An offset makes terms larger than the products they are taken from. AMX rounds each number, to 2^-9 or,
                // in two parts, some 2^-17 of it; where all weights of a block have the same size, all to the same side.
                let allowed = match (tiles, self.size.finer) {
                    (false, _) => 3e-6 * (size * if whole { 8.0 } else { 1.0 } + sum.abs()) + 1e-6,
                    (true, false) => squares.sqrt() / 64.0 + sum.abs() / 256.0,
                    (true, true) => squares.sqrt() / 16384.0 + sum.abs() / 65536.0,
                };
                let got = y[t * n + r] as f64;
                assert!(
                    (got - sum).abs() <= allowed,
                    "{} {:?} {:?} T {tokens} K {k} N {n}: ({t}, {r}) is {got}, not {sum}",
                    self.dtype,
                    self.isa,
                    self.precision
                );
            }
        }
    }
}

fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut next = random(seed);
    (0..n).map(|_| next() as f32 / (1u32 << 30) as f32 - 1.0).collect()
}

/// Tokens, blocks of 256 in quarters, rows.
const SIZES: [(usize, usize, usize); 9] = [
    (1, 4, 3),
    (1, 9, 70),
    (2, 9, 33),
    (5, 4, 16),
    (8, 13, 1),
    (9, 9, 40),
    (13, 4, 65),
    (70, 9, 7),
    (3, 68, 5),
];

#[test]
fn whole_numbers_agree_with_f64() {
    for (dtype, _) in FORMATS {
        for isa in sets() {
            for (i, (tokens, quarters, n)) in SIZES.into_iter().enumerate() {
                let k = if dtype.block() == 256 { quarters.div_ceil(4) * 256 } else { quarters * 32 };
                let size = Size { tokens, k, n, finer: false };
                let (threads, biased) = (1 + i % 3, i % 2 == 0);
                let case =
                    Case { precision: Precision::Fast, isa, dtype, threads, size, biased, packed: false };
                case.check(&numbers(tokens * k, 1), &weights(dtype, n * k, 2));
            }
        }
    }
}

/// From one token to a few tiles; with rows of one panel and of many, of odd numbers of groups and of more than a tile
/// unpacks at once.
#[test]
fn weights_laid_out_anew_agree_with_f64() {
    for (dtype, _) in FORMATS {
        for isa in sets() {
            for (i, tokens) in [1, 2, 3, 4, 5, 6, 7, 8, 11, 13, 24, 70].into_iter().enumerate() {
                let n = [16, 48, 80][i % 3];
                let k = if i == 8 { 4096 + 512 } else { [dtype.block().max(160), 768][i % 2] };
                let size = Size { tokens, k, n, finer: false };
                let (threads, biased) = (1 + i % 3, i % 2 == 0);
                let case =
                    Case { precision: Precision::Fast, isa, dtype, threads, size, biased, packed: true };
                case.check(&numbers(tokens * k, 1), &weights(dtype, n * k, 2));
            }
        }
    }
}

/// By AMX: tokens of one block and many, of halves of a block, and of more than a task; rows that end in the middle of a panel;
/// columns of one step along K and of several; in one part and in two; from the file's blocks and laid out anew.
#[test]
fn blocks_of_bf16_agree_with_f64() {
    if !Isa::Amx.available() {
        return;
    }
    let sizes: [(usize, usize, usize); 8] = [
        (144, 2, 33),
        (129, 1, 1),
        (177, 3, 48),
        (128, 9, 16),
        (208, 4, 17),
        (500, 2, 100),
        (530, 5, 80),
        (168, 18, 7),
    ];
    for (dtype, _) in FORMATS {
        for (i, (tokens, blocks, n)) in sizes.into_iter().enumerate() {
            let k = if dtype.block() == 256 { 256 * blocks.div_ceil(4) } else { 96 * blocks - 64 };
            let (x, w) = (numbers(tokens * k, 1), weights(dtype, n * k, 2));
            for finer in [false, true] {
                for packed in [false, true] {
                    let size = Size { tokens, k, n, finer };
                    let (precision, isa, threads, biased) =
                        (Precision::Fast, Isa::Amx, 1 + i % 3, i % 2 == 0);
                    Case { precision, isa, dtype, threads, size, biased, packed }.check(&x, &w);
                }
            }
        }
    }
}

#[test]
fn rows_longer_than_a_panel_are_added_up() {
    for dtype in [DType::Q4_1, DType::Q8_0, DType::Q6_K] {
        for isa in sets() {
            let (tokens, k, n) = (17, 4096 + 512, 9);
            let size = Size { tokens, k, n, finer: false };
            for biased in [false, true] {
                let case =
                    Case { precision: Precision::Fast, isa, dtype, threads: 2, size, biased, packed: false };
                case.check(&numbers(tokens * k, 3), &weights(dtype, n * k, 4));
            }
        }
    }
}

#[test]
fn sums_of_the_largest_numbers_do_not_overflow() {
    for (dtype, halves) in FORMATS {
        for isa in sets() {
            for (tokens, fill, sign) in
                [(1, 0xff, 1.0), (4, 0xff, -1.0), (12, 0xff, 1.0), (12, 0x00, -1.0), (12, 0x80, 1.0)]
            {
                let (k, n) = (512, 32);
                let mut w = vec![fill; dtype.bytes(n * k).unwrap()];
                for block in w.chunks_exact_mut(dtype.block_bytes()) {
                    for &at in halves {
                        block[at..at + 2].copy_from_slice(&half::f16::from_f32(0.5).to_le_bytes());
                    }
                    set_scale(dtype, block, 127);
                }
                let size = Size { tokens, k, n, finer: false };
                for packed in [false, true] {
                    let (precision, threads, biased) = (Precision::Fast, 1, false);
                    let case = Case { precision, isa, dtype, threads, size, biased, packed };
                    case.check(&vec![sign; tokens * k], &w);
                }
            }
        }
    }
}

#[test]
fn decoded_weights_agree_with_f64() {
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::Q4_1, DType::Q6_K] {
        for isa in sets() {
            for (i, (tokens, quarters, n)) in SIZES.into_iter().enumerate() {
                let k = if dtype.block() == 256 { 256 * quarters.div_ceil(4) } else { 32 * quarters };
                // Plain numbers come in rows of any length.
                let k = if dtype.is_quantized() { k } else { k - i };
                let w: Vec<u8> = match dtype {
                    DType::F32 => numbers(n * k, 5).iter().flat_map(|x| x.to_le_bytes()).collect(),
                    DType::F16 => {
                        numbers(n * k, 5).iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect()
                    }
                    DType::BF16 => numbers(n * k, 5)
                        .iter()
                        .flat_map(|x| half::bf16::from_f32(*x).to_le_bytes())
                        .collect(),
                    _ => weights(dtype, n * k, 6),
                };
                let size = Size { tokens, k, n, finer: false };
                let (threads, biased) = (1 + i % 3, i % 2 == 0);
                let precision =
                    if i % 2 == 0 || dtype.is_quantized() { Precision::Exact } else { Precision::Fast };
                Case { precision, isa, dtype, threads, size, biased, packed: false }
                    .check(&numbers(tokens * k, 1), &w);
            }
        }
    }
}

#[test]
fn nothing_times_anything_is_the_bias() {
    let pool = Pool::new(1);
    let bias = [1.0, 2.0];
    let (precision, isa, dtype) = (Precision::Fast, isa(), DType::F32);
    let linear = Linear {
        pool: &pool,
        precision,
        finer: false,
        isa,
        x: &[],
        k: 0,
        dtype,
        w: &[],
        packed: None,
        bias: Some(&bias),
    };
    let mut y = [0.0; 6];
    linear.run(&mut y, &mut []);
    assert_eq!(y, [1.0, 2.0, 1.0, 2.0, 1.0, 2.0]);
}

/// Two bytes of activation round a hundred times finer than one: with few tokens and many, from the file's blocks and
/// laid out anew, with rows that are no whole panel.
#[test]
fn twice_quantized_is_nearly_exact() {
    let pool = Pool::new(2);
    let mut next = random(5);
    let mut uniform = || next() as f32 / (1u32 << 30) as f32 - 1.0;
    for (tokens, n) in [(1, 32), (5, 24), (13, 32), (37, 41), (70, 24)] {
        let k = 512;
        let x: Vec<f32> = (0..tokens * k).map(|_| uniform()).collect();
        let values: Vec<f32> = (0..n * k).map(|_| uniform()).collect();
        let bias: Vec<f32> = (0..n).map(|_| uniform()).collect();
        for (dtype, isa) in
            [DType::Q4_0, DType::Q4_1, DType::Q8_0].into_iter().flat_map(|d| Isa::ALL.map(|i| (d, i)))
        {
            if !isa.available() {
                continue;
            }
            let mut w = vec![0; dtype.bytes(values.len()).unwrap()];
            dtype.encode(&values, &mut w);
            let anew = packed_bytes(dtype, n, k).map(|bytes| {
                let mut to = vec![0; bytes];
                pack(dtype, k, &w, &mut to);
                to
            });
            let by = |precision, finer, packed| {
                let size = Size { tokens, k, n, finer };
                let mut out = vec![0.0; tokens * n];
                let mut memory = vec![0; scratch_bytes(&pool, precision, isa, dtype, size)];
                let (pool, w, bias) = (&pool, &w[..], Some(&bias[..]));
                let linear = Linear { pool, precision, finer, isa, x: &x, k, dtype, w, packed, bias };
                linear.run(&mut out, &mut memory);
                out
            };
            let exact = by(Precision::Exact, false, None);
            let worst = |y: &[f32]| y.iter().zip(&exact).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
            for packed in [None, anew.as_deref()] {
                let [once, twice] = [false, true].map(|finer| worst(&by(Precision::Fast, finer, packed)));
                assert!(twice < once / 50.0, "{dtype} {isa:?}, {tokens} tokens: {twice} and {once}");
            }
        }
    }
}
