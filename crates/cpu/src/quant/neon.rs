//! The kernels for 64-bit Arm, generic over how four products of bytes are summed: in several instructions (NEON), in
//! one (its dot products), or for tiles by matrices of 2 × 8 (I8MM).
//!
//! Functions here are unsafe as those of [`super::arm`] are; those generic over the sum ask to be inlined into functions
//! compiled for its instructions.
#![allow(unsafe_op_in_unsafe_fn)]

use super::acts::Acts;
use super::arm::*;
use super::{Kernels, MAX_FEW, Out, Panel, Part, blocks};
use std::arch::{aarch64::*, asm};
use std::array::from_fn;

/// Vectors of rows in a panel.
const VECTORS: usize = 2;
const ROWS: usize = 4 * VECTORS;
/// Tokens of a tile by dot products: eight sums of integers and eight of floats leave room for operands in 32 registers.
const TILE: usize = 4;
/// Tokens of a tile by matrices: the operands must be brought in order first, so each is used more often.
const MATRIX_TILE: usize = 8;

/// Writes the functions of an instruction set, compiled for it.
macro_rules! sets {
    ($($name:ident: $features:literal, $dot:ty, $tile:ident of $tokens:ident;)*) => {
        $(
            pub(super) fn $name<F: Unpack>() -> Kernels {
                #[target_feature(enable = $features)]
                unsafe fn few<F: Unpack>(w: &[u8], x: &Acts, out: Out) {
                    rows::<F, $dot>(w, x, out)
                }
                #[target_feature(enable = $features)]
                unsafe fn tile<const SCALES: usize>(panel: &Panel, x: &Acts, part: Part, out: Out) {
                    $tile::<$dot, SCALES>(panel, x, part, out)
                }
                Kernels {
                    panel_rows: ROWS,
                    tile_tokens: $tokens,
                    many: 4,
                    scales: if F::SPLIT { 2 } else { 1 },
                    rows: few::<F>,
                    unpack: unpack::<F>,
                    tile: if F::SPLIT { tile::<2> } else { tile::<1> },
                    direct: None,
                }
            }
        )*
    };
}

sets! {
    neon: "neon", Several, dots of TILE;
    dotprod: "neon,dotprod", One, dots of TILE;
    i8mm: "neon,dotprod,i8mm", One, matrices of MATRIX_TILE;
}

/// Sums of four products of bytes.
trait Dot {
    /// `acc + w · x`, by fours.
    unsafe fn dot(acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t;

    /// The same with four bytes of `x`, those from `4 · L` on.
    #[inline(always)]
    unsafe fn dot_lane<const L: i32>(acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
        let x = vreinterpretq_s8_s32(vdupq_laneq_s32::<L>(vreinterpretq_s32_s8(x)));
        Self::dot(acc, w, x)
    }
}

struct Several;

impl Dot for Several {
    /// Two products fit in 16 bits: -128 · 127 · 2 does.
    #[inline(always)]
    unsafe fn dot(acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
        let low = vmull_s8(vget_low_s8(w), vget_low_s8(x));
        vpadalq_s16(acc, vpaddq_s16(low, vmull_high_s8(w, x)))
    }
}

/// As the intrinsics are not stable, instructions stand here by name.
struct One;

impl Dot for One {
    #[inline(always)]
    unsafe fn dot(mut acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
        asm!("sdot {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) acc, in(vreg) w, in(vreg) x,
            options(pure, nomem, nostack, preserves_flags));
        acc
    }

    #[inline(always)]
    unsafe fn dot_lane<const L: i32>(mut acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
        asm!("sdot {0:v}.4s, {1:v}.16b, {2:v}.4b[{3}]", inout(vreg) acc, in(vreg) w, in(vreg) x, const L,
            options(pure, nomem, nostack, preserves_flags));
        acc
    }
}

/// `acc + x · wᵀ` of two rows of eight bytes each: (x₀w₀, x₀w₁, x₁w₀, x₁w₁).
#[inline(always)]
unsafe fn matrix(mut acc: int32x4_t, x: int8x16_t, w: int8x16_t) -> int32x4_t {
    asm!("smmla {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) acc, in(vreg) x, in(vreg) w,
        options(pure, nomem, nostack, preserves_flags));
    acc
}

/// Runs a macro for each of the eight groups of a chunk, whose number is a constant.
macro_rules! for_groups {
    ($body:ident) => {
        $body!(0);
        $body!(1);
        $body!(2);
        $body!(3);
        $body!(4);
        $body!(5);
        $body!(6);
        $body!(7);
    };
}

/// Sums of a row and a token that do not wait for each other.
type Sums = [float32x4_t; 2];

#[inline(always)]
unsafe fn zeros() -> float32x4_t {
    vdupq_n_f32(0.0)
}

/// See [`Kernels::rows`].
#[inline(always)]
unsafe fn rows<F: Unpack, D: Dot>(w: &[u8], x: &Acts, out: Out) {
    assert!(x.tile == 1 && x.tokens <= MAX_FEW);
    for (n, row) in blocks::<F>(w).chunks_exact(x.groups / F::GROUPS).enumerate() {
        let mut acc = [[zeros(); 2]; MAX_FEW];
        match x.tokens {
            1 => row_times::<F, D, 1>(row, x, (&mut acc[..1]).try_into().expect("one")),
            _ => row_times::<F, D, MAX_FEW>(row, x, &mut acc),
        }
        for (t, acc) in acc.iter().enumerate().take(x.tokens) {
            *out.at.add(t * out.stride + n) = vaddvq_f32(vaddq_f32(acc[0], acc[1]));
        }
    }
}

/// A row times up to `T` tokens: each chunk is unpacked once.
#[inline(always)]
unsafe fn row_times<F: Unpack, D: Dot, const T: usize>(row: &[F::Block], x: &Acts, acc: &mut [Sums; T]) {
    let chunks = row.chunks_exact(F::CHUNK);
    let rest = chunks.remainder();
    for (i, chunk) in chunks.enumerate() {
        chunk_times::<F, D, T, 8>(chunk, x, 8 * i, acc);
    }
    // Blocks of one group each, past the last whole chunk.
    for (j, b) in rest.iter().enumerate() {
        chunk_times::<F, D, T, 1>(std::slice::from_ref(b), x, x.groups - rest.len() + j, acc);
    }
}

/// A chunk of `G` groups times up to `T` tokens, from group `first` on.
#[inline(always)]
unsafe fn chunk_times<F: Unpack, D: Dot, const T: usize, const G: usize>(
    chunk: &[F::Block],
    x: &Acts,
    first: usize,
    acc: &mut [Sums; T],
) {
    let s = scales::<F>(chunk);
    let mut w = [[vdupq_n_s8(0); 2]; G];
    macro_rules! group {
        ($j:literal) => {
            if $j < G {
                w[$j % G] = F::group::<{ $j }>(chunk);
            }
        };
    }
    for_groups!(group);
    let per = if F::SPLIT { 2 } else { 1 };
    let tokens = if T == 1 { 1 } else { x.tokens };
    for t in 0..tokens {
        let (acc, at) = (&mut acc[t], t * x.groups + first);
        let (q, d) = (&x.q.as_chunks::<32>().0[at..at + G], &x.d[at..at + G]);
        if F::ADDENDS {
            let mut sums = [0f32; 16];
            let of = if F::SPLIT { x.half_sums } else { x.sums };
            sums[..G * per].copy_from_slice(&of[at * per..][..G * per]);
            let (m, sums) = (s.m.as_chunks::<4>().0, sums.as_chunks::<4>().0);
            for i in 0..(G * per).div_ceil(4) {
                acc[i % 2] = vfmaq_f32(acc[i % 2], load_f32(&m[i]), load_f32(&sums[i]));
            }
        }
        for j in 0..G {
            let q = halves(&q[j]);
            let zero = vdupq_n_s32(0);
            if F::SPLIT {
                for h in 0..2 {
                    let p = vcvtq_f32_s32(D::dot(zero, w[j][h], q[h]));
                    acc[h] = vfmaq_n_f32(acc[h], p, s.d[2 * j + h] * d[j]);
                }
            } else {
                let p = vcvtq_f32_s32(D::dot(D::dot(zero, w[j][0], q[0]), w[j][1], q[1]));
                acc[j % 2] = vfmaq_n_f32(acc[j % 2], p, s.d[j] * d[j]);
            }
        }
    }
}

#[inline(always)]
unsafe fn halves(q: &[i8; 32]) -> Halves {
    from_fn(|h| vld1q_s8(q.as_ptr().add(16 * h)))
}

/// See [`Kernels::unpack`].
unsafe fn unpack<F: Unpack>(w: &[u8], row_bytes: usize, first: usize, groups: usize, panel: &mut Panel) {
    let last = w.len() / row_bytes - 1;
    let per = if F::SPLIT { 2 } else { 1 };
    let q = panel.q.as_chunks_mut::<{ 4 * ROWS }>().0;
    let (d, m) = (panel.d.as_chunks_mut::<ROWS>().0, panel.m.as_chunks_mut::<ROWS>().0);
    for g in (0..groups).step_by(8) {
        let n = (groups - g).min(8);
        let of = (first + g) / F::GROUPS..(first + g + n) / F::GROUPS;
        for v in 0..VECTORS {
            let chunks: [&[F::Block]; 4] = from_fn(|i| {
                let row = (4 * v + i).min(last);
                &blocks::<F>(&w[row * row_bytes..][..row_bytes])[of.clone()]
            });
            macro_rules! group {
                ($j:literal) => {
                    if $j < n {
                        let rows = chunks.map(|c| F::group::<$j>(c));
                        for h in 0..2 {
                            let words = transpose(rows.map(|r| vreinterpretq_s32_s8(r[h])));
                            for (k, words) in words.into_iter().enumerate() {
                                let to = &mut q[(g + $j) * 8 + 4 * h + k][16 * v..][..16];
                                vst1q_s8(to.as_mut_ptr().cast(), vreinterpretq_s8_s32(words));
                            }
                        }
                    }
                };
            }
            for_groups!(group);
            for (i, c) in chunks.iter().enumerate() {
                let s = scales::<F>(c);
                for k in 0..n * per {
                    d[g * per + k][4 * v + i] = s.d[k];
                    m[g * per + k][4 * v + i] = s.m[k];
                }
            }
        }
    }
}

/// Rows and columns of 4 × 4 numbers exchanged.
#[inline(always)]
unsafe fn transpose(v: [int32x4_t; 4]) -> [int32x4_t; 4] {
    let by_two = |x| vreinterpretq_s64_s32(x);
    let (a, b) = (by_two(vtrn1q_s32(v[0], v[1])), by_two(vtrn2q_s32(v[0], v[1])));
    let (c, d) = (by_two(vtrn1q_s32(v[2], v[3])), by_two(vtrn2q_s32(v[2], v[3])));
    [vzip1q_s64(a, c), vzip1q_s64(b, d), vzip2q_s64(a, c), vzip2q_s64(b, d)].map(|x| vreinterpretq_s32_s64(x))
}

/// What a part of a tile reads, by scale: those of a group, `SCALES`, follow each other.
struct Operands<'a, const TOKENS: usize> {
    /// words of the panel's rows
    w: &'a [[u8; 4 * ROWS]],
    d: &'a [[f32; ROWS]],
    m: &'a [[f32; ROWS]],
    /// words of the tokens, each of four bytes
    q: &'a [[[i8; 4]; TOKENS]],
    /// by group
    dx: &'a [[f32; TOKENS]],
    sums: &'a [[f32; TOKENS]],
}

impl<'a, const TOKENS: usize> Operands<'a, TOKENS> {
    #[inline(always)]
    unsafe fn of<const SCALES: usize>(panel: &'a Panel, x: &'a Acts, part: Part) -> Operands<'a, TOKENS> {
        assert_eq!(x.tile, TOKENS);
        let (words, n) = (8 / SCALES, part.groups * SCALES);
        let at = part.tile * x.groups + part.first;
        let sums = if SCALES == 1 { x.sums } else { x.half_sums };
        Operands {
            w: &panel.q.as_chunks().0[..n * words],
            d: &panel.d.as_chunks().0[..n],
            m: &panel.m.as_chunks().0[..n],
            q: &x.q.as_chunks().0.as_chunks().0[at * 8..][..n * words],
            dx: &x.d.as_chunks().0[at..][..part.groups],
            sums: &sums.as_chunks().0[at * SCALES..][..n],
        }
    }

    /// Adds the products of scale `s` to the sums.
    #[inline(always)]
    unsafe fn add<const SCALES: usize>(
        &self,
        s: usize,
        dots: [[int32x4_t; VECTORS]; TOKENS],
        acc: &mut [[float32x4_t; VECTORS]; TOKENS],
    ) {
        let (d, m) = (self.d[s].as_chunks::<4>().0, self.m[s].as_chunks::<4>().0);
        for a in 0..TOKENS {
            for v in 0..VECTORS {
                let p = vmulq_n_f32(vcvtq_f32_s32(dots[a][v]), self.dx[s / SCALES][a]);
                acc[a][v] = vfmaq_f32(acc[a][v], p, load_f32(&d[v]));
                acc[a][v] = vfmaq_n_f32(acc[a][v], load_f32(&m[v]), self.sums[s][a]);
            }
        }
    }
}

/// The rows' bytes of a word.
#[inline(always)]
unsafe fn words(w: &[u8; 4 * ROWS]) -> [int8x16_t; VECTORS] {
    from_fn(|v| vreinterpretq_s8_u8(load(&w.as_chunks::<16>().0[v])))
}

/// Four tokens' bytes of a word, from the first or fifth token on.
#[inline(always)]
unsafe fn four(q: &[[i8; 4]]) -> int8x16_t {
    let q: &[i8; 16] = q[..4].as_flattened().try_into().expect("four of four");
    vld1q_s8(q.as_ptr())
}

/// Writes the wanted tokens of a tile.
#[inline(always)]
unsafe fn store<const TOKENS: usize>(acc: &[[float32x4_t; VECTORS]; TOKENS], part: Part, out: Out) {
    for (a, acc) in acc.iter().enumerate().take(part.tokens) {
        for (v, acc) in acc.iter().enumerate() {
            let to = out.at.add(a * out.stride + 4 * v);
            let before = if part.accumulate { vld1q_f32(to) } else { zeros() };
            vst1q_f32(to, vaddq_f32(before, *acc));
        }
    }
}

/// See [`Kernels::tile`]: by dot products.
#[inline(always)]
unsafe fn dots<D: Dot, const SCALES: usize>(panel: &Panel, x: &Acts, part: Part, out: Out) {
    let of = Operands::<TILE>::of::<SCALES>(panel, x, part);
    let mut acc = [[zeros(); VECTORS]; TILE];
    for s in 0..part.groups * SCALES {
        let mut dots = [[vdupq_n_s32(0); VECTORS]; TILE];
        for i in s * 8 / SCALES..(s + 1) * 8 / SCALES {
            let (w, x) = (words(&of.w[i]), four(&of.q[i]));
            for v in 0..VECTORS {
                dots[0][v] = D::dot_lane::<0>(dots[0][v], w[v], x);
                dots[1][v] = D::dot_lane::<1>(dots[1][v], w[v], x);
                dots[2][v] = D::dot_lane::<2>(dots[2][v], w[v], x);
                dots[3][v] = D::dot_lane::<3>(dots[3][v], w[v], x);
            }
        }
        of.add::<SCALES>(s, dots, &mut acc);
    }
    store(&acc, part, out)
}

/// See [`Kernels::tile`]: by matrices of two rows and two tokens. `D` is of no use here.
#[inline(always)]
unsafe fn matrices<D: Dot, const SCALES: usize>(panel: &Panel, x: &Acts, part: Part, out: Out) {
    const PAIRS: usize = 2 * VECTORS;
    let of = Operands::<MATRIX_TILE>::of::<SCALES>(panel, x, part);
    let mut acc = [[zeros(); VECTORS]; MATRIX_TILE];
    for s in 0..part.groups * SCALES {
        let mut dots = [[vdupq_n_s32(0); PAIRS]; MATRIX_TILE / 2];
        for i in (s * 8 / SCALES..(s + 1) * 8 / SCALES).step_by(2) {
            // Two words of a row, or of a token, next to each other.
            let (w, next) = (words(&of.w[i]), words(&of.w[i + 1]));
            let w: [[int8x16_t; 2]; VECTORS] = from_fn(|v| zip(w[v], next[v]));
            for b in 0..MATRIX_TILE / 4 {
                let x = zip(four(&of.q[i][4 * b..]), four(&of.q[i + 1][4 * b..]));
                for a in 0..2 {
                    for r in 0..PAIRS {
                        let dots = &mut dots[2 * b + a][r];
                        *dots = matrix(*dots, x[a], w[r / 2][r % 2]);
                    }
                }
            }
        }
        // From 2 × 2 to four rows of a token.
        let by_token = from_fn(|a| {
            from_fn(|v| {
                let pair = |r: usize| vreinterpretq_s64_s32(dots[a / 2][2 * v + r]);
                vreinterpretq_s32_s64(match a % 2 {
                    0 => vzip1q_s64(pair(0), pair(1)),
                    _ => vzip2q_s64(pair(0), pair(1)),
                })
            })
        });
        of.add::<SCALES>(s, by_token, &mut acc);
    }
    store(&acc, part, out)
}

/// Words of four bytes of `a` and `b` in turn.
#[inline(always)]
unsafe fn zip(a: int8x16_t, b: int8x16_t) -> [int8x16_t; 2] {
    let (a, b) = (vreinterpretq_s32_s8(a), vreinterpretq_s32_s8(b));
    [vreinterpretq_s8_s32(vzip1q_s32(a, b)), vreinterpretq_s8_s32(vzip2q_s32(a, b))]
}
