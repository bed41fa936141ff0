//! Scalar models of the x86 instructions that the kernels are built on. Where the processor has an instruction it is held
//! to its model; and the kernels of AVX-512 are run with the model in its place, so that processors without it test all
//! the rest of them.
#![allow(unsafe_op_in_unsafe_fn)]

use super::acts::{self, Acts, ActsMut};
use super::avx512::{ROWS, TILE};
use super::tests::{FORMATS, random, weights};
use super::x86_kernels::*;
use super::*;
use crate::isa::isa;
use std::arch::x86_64::*;
use std::array::from_fn;
use std::mem::transmute;

/// `vpdpbusd` of a lane: four products of unsigned and signed bytes, added without saturation.
fn dpbusd(acc: i32, u: [u8; 4], x: [i8; 4]) -> i32 {
    (0..4).fold(acc, |sum, i| sum.wrapping_add(u[i] as i32 * x[i] as i32))
}

/// `vpmaddubsw` of a lane: two such products, added with saturation.
fn maddubs(u: [u8; 2], x: [i8; 2]) -> i16 {
    let sum = u[0] as i32 * x[0] as i32 + u[1] as i32 * x[1] as i32;
    sum.clamp(i16::MIN as i32, i16::MAX as i32) as i16
}

/// `vpmaddwd` of a lane: two products of 16 bits.
fn madd(a: [i16; 2], b: [i16; 2]) -> i32 {
    (a[0] as i32 * b[0] as i32).wrapping_add(a[1] as i32 * b[1] as i32)
}

/// 64 bytes to multiply, each of both: random ones, and all the ends.
fn operands() -> impl Iterator<Item = ([u8; 64], [i8; 64])> {
    let mut next = random(3);
    let ends = [0, 1, 127, 128, 129, 255];
    let mut one = move |ends_only: bool| {
        let byte = next();
        if ends_only { ends[byte as usize % 6] } else { byte as u8 }
    };
    let all = [(0, 0), (255, -128), (255, 127), (128, -128), (127, 127)].map(|(u, x)| ([u; 64], [x; 64]));
    all.into_iter().chain((0..2000).map(move |i| {
        let u = from_fn(|_| one(i % 2 == 0));
        (u, from_fn(|_| one(i % 3 == 0) as i8))
    }))
}

/// `N` bytes from `at` on.
fn lane<T: Copy, const N: usize>(x: &[T; 64], at: usize) -> [T; N] {
    from_fn(|i| x[at + i])
}

#[test]
fn instructions_of_avx2_are_their_models() {
    if isa() < Isa::Avx2 {
        return;
    }
    #[target_feature(enable = "avx2")]
    fn both(u: &[u8; 64], x: &[i8; 64]) -> ([i16; 16], [i32; 8]) {
        // SAFETY: 32 bytes are there, and any bits are numbers.
        unsafe {
            let (u, x) = (_mm256_loadu_si256(u.as_ptr().cast()), _mm256_loadu_si256(x.as_ptr().cast()));
            (
                transmute::<__m256i, [i16; 16]>(_mm256_maddubs_epi16(u, x)),
                transmute::<__m256i, [i32; 8]>(_mm256_madd_epi16(u, x)),
            )
        }
    }
    for (u, x) in operands() {
        // SAFETY: the processor has AVX2.
        let (short, long) = unsafe { both(&u, &x) };
        assert_eq!(short, from_fn(|i| maddubs(lane(&u, 2 * i), lane(&x, 2 * i))));
        let a = |i: usize| i16::from_le_bytes(lane(&u, i));
        let b = |i: usize| i16::from_le_bytes(lane(&x, i).map(|x| x as u8));
        assert_eq!(long, from_fn(|i| madd([a(4 * i), a(4 * i + 2)], [b(4 * i), b(4 * i + 2)])));
    }
}

#[test]
fn instructions_of_avx512_are_their_models() {
    if isa() < Isa::Avx512 {
        return;
    }
    #[target_feature(enable = "avx512f,avx512vl,avx512vnni")]
    fn both(acc: &[i32; 16], u: &[u8; 64], x: &[i8; 64]) -> ([i32; 16], [i32; 8]) {
        // SAFETY: 64 bytes are there, and any bits are numbers.
        unsafe {
            let (u, x) = (_mm512_loadu_si512(u.as_ptr().cast()), _mm512_loadu_si512(x.as_ptr().cast()));
            let acc = _mm512_loadu_si512(acc.as_ptr().cast());
            let low = |v| _mm512_castsi512_si256(v);
            (
                transmute::<__m512i, [i32; 16]>(_mm512_dpbusd_epi32(acc, u, x)),
                transmute::<__m256i, [i32; 8]>(_mm256_dpbusd_epi32(low(acc), low(u), low(x))),
            )
        }
    }
    let mut next = random(4);
    for (u, x) in operands() {
        let acc = from_fn(|i| if i % 4 == 0 { i32::MAX - i as i32 } else { next() as i32 });
        // SAFETY: the processor has the instructions.
        let (all, low) = unsafe { both(&acc, &u, &x) };
        assert_eq!(all, from_fn(|i| dpbusd(acc[i], lane(&u, 4 * i), lane(&x, 4 * i))));
        assert_eq!(low[..], all[..8]);
    }
}

rows_and_unpack!("avx2,fma,f16c", false);

/// Eight sums of four products, as [`super::avx512`] has it.
unsafe fn dot<F: Unpack>(u: __m256i, x: __m256i) -> __m256i {
    let (u, x) = (transmute::<__m256i, [[u8; 4]; 8]>(u), transmute::<__m256i, [[i8; 4]; 8]>(x));
    transmute(from_fn::<i32, 8, _>(|i| dpbusd(0, u[i], x[i])))
}

/// As AVX-512 has it, a row and a token at a time.
unsafe fn tile<const SCALES: usize>(panel: &Panel, x: &Acts, part: Part, out: Out) {
    let (words, at) = (8 / SCALES, part.tile * x.groups + part.first);
    let sums = if SCALES == 1 { x.sums } else { x.half_sums };
    for a in 0..part.tokens {
        for r in 0..ROWS {
            let mut acc = 0f32;
            for s in 0..part.groups * SCALES {
                let dots = (s * words..(s + 1) * words).fold(0, |dots, i| {
                    let u = from_fn(|l| panel.q[(i * ROWS + r) * 4 + l]);
                    let x = from_fn(|l| x.q[((at * 8 + i) * TILE + a) * 4 + l]);
                    dpbusd(dots, u, x)
                });
                let (dx, sum) = (x.d[(at + s / SCALES) * TILE + a], sums[(at * SCALES + s) * TILE + a]);
                acc = (dots as f32 * dx).mul_add(panel.d[s * ROWS + r], acc);
                acc = panel.m[s * ROWS + r].mul_add(sum, acc);
            }
            let to = out.at.add(a * out.stride + r);
            *to = if part.accumulate { *to + acc } else { acc };
        }
    }
}

fn modelled<F: Unpack>() -> Kernels {
    Kernels {
        rows: rows::<F>,
        unpack: unpack::<F>,
        tile: if F::SPLIT { tile::<2> } else { tile::<1> },
        ..avx512::kernels::<F>()
    }
}

/// Products of `ROWS` rows with the tokens of `x`, which are those of a tile at most: `(tokens, ROWS)`.
fn products(kernels: &Kernels, w: &[u8], x: &[f32], k: usize, by_tiles: bool) -> Vec<f32> {
    let (tokens, groups) = (x.len() / k, k / 32);
    let tile = if by_tiles { kernels.tile_tokens } else { 1 };
    let tiles = tokens.div_ceil(tile);
    let (mut q, mut d) = (vec![0; tiles * tile * k], vec![0.0; tiles * tile * groups]);
    let (mut sums, mut half_sums) = (d.clone(), vec![0.0; 2 * d.len()]);
    for i in 0..tiles {
        let (n, x) = (tile * groups, &x[i * tile * k..((i + 1) * tile * k).min(x.len())]);
        let to = ActsMut {
            q: &mut q[i * tile * k..][..tile * k],
            d: &mut d[i * n..][..n],
            sums: &mut sums[i * n..][..n],
            half_sums: &mut half_sums[2 * i * n..][..2 * n],
        };
        acts::quantize(x, k, tile, to, None);
    }
    let x = Acts { tokens, tile, groups, q: &q, d: &d, sums: &sums, half_sums: &half_sums };
    let mut y = vec![f32::NAN; tokens * ROWS];
    let y_at = y.as_mut_ptr();
    let out = |i: usize| Out { at: y_at.wrapping_add(i), stride: ROWS };
    if !by_tiles {
        // SAFETY: the processor has the instruction set, and there is room.
        unsafe { (kernels.rows)(w, &x, out(0)) };
        return y;
    }
    let rows = kernels.panel_rows;
    for from in (0..ROWS).step_by(rows) {
        let (mut q, mut d) = (vec![0; rows * k], vec![0.0; rows * kernels.scales * groups]);
        let mut m = d.clone();
        let mut panel = Panel { q: &mut q, d: &mut d, m: &mut m };
        let row_bytes = w.len() / ROWS;
        // SAFETY: likewise; a panel of each set divides that of AVX-512.
        unsafe { (kernels.unpack)(&w[from * row_bytes..], row_bytes, 0, groups, &mut panel) };
        for tile in 0..tiles {
            let tokens = kernels.tile_tokens.min(tokens - tile * kernels.tile_tokens);
            let part = Part { tile, tokens, first: 0, groups, accumulate: false };
            let at = tile * kernels.tile_tokens * ROWS + from;
            // SAFETY: likewise.
            unsafe { (kernels.tile)(&panel, &x, part, out(at)) };
        }
    }
    y
}

#[test]
fn the_kernels_of_avx512_are_right_with_the_model() {
    if isa() < Isa::Avx2 {
        return;
    }
    macro_rules! each {
        ($($format:ident)*) => {
            [$((DType::$format, modelled::<super::format::$format>())),*]
        };
    }
    let all = each!(Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS MXFP4);
    assert!(all.iter().zip(FORMATS).all(|(a, b)| a.0 == b.0));
    for (dtype, model) in all {
        for blocks in [8, 11] {
            let k = blocks * dtype.block();
            let w = weights(dtype, ROWS * k, 5);
            let mut next = random(6);
            for tokens in [1, 3, TILE] {
                let x: Vec<f32> =
                    (0..tokens * k).map(|_| next() as f32 / (1u32 << 30) as f32 - 1.0).collect();
                for by_tiles in [false, true] {
                    let y = products(&model, &w, &x, k, by_tiles);
                    let right = products(&kernels(dtype, Isa::Portable).unwrap(), &w, &x, k, by_tiles);
                    let largest = right.iter().fold(0f32, |m, y| m.max(y.abs()));
                    for (a, b) in y.iter().zip(&right) {
                        assert!((a - b).abs() <= 3e-5 * largest, "{dtype}, tiles {by_tiles}: {a}, not {b}");
                    }
                    if isa() >= Isa::Avx512 {
                        let real = products(&kernels(dtype, Isa::Avx512).unwrap(), &w, &x, k, by_tiles);
                        let same = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-6 * largest;
                        assert!(y.iter().zip(&real).all(same), "{dtype}, tiles {by_tiles}: the instruction");
                    }
                }
            }
        }
    }
}
