//! The kernels for any processor: plain loops, and what the others are held to.

use super::acts::{Acts, GROUP};
use super::format::Format;
use super::{Kernels, MAX_FEW, Out, Panel, Part, blocks};

const ROWS: usize = 8;
const TILE: usize = 4;

pub(super) fn kernels<F: Format>() -> Kernels {
    Kernels {
        panel_rows: ROWS,
        tile_tokens: TILE,
        many: MAX_FEW,
        scales: if F::SPLIT { 2 } else { 1 },
        rows: rows::<F>,
        unpack: unpack::<F>,
        tile: if F::SPLIT { tile::<2> } else { tile::<1> },
        direct: None,
    }
}

/// The product of 16 unsigned and 16 signed numbers.
#[inline(always)]
pub(super) fn dot16(u: &[u8], x: &[i8]) -> i32 {
    u.iter().zip(x).map(|(&u, &x)| u as i32 * x as i32).sum()
}

/// See [`Kernels::rows`].
unsafe fn rows<F: Format>(w: &[u8], x: &Acts, out: Out) {
    assert!(x.tile == 1 && x.tokens <= MAX_FEW);
    for (n, row) in blocks::<F>(w).chunks_exact(x.groups / F::GROUPS).enumerate() {
        let mut sums = [0f32; MAX_FEW];
        for g in 0..x.groups {
            let (b, at) = (&row[g / F::GROUPS], g % F::GROUPS);
            let u = F::values(b, at);
            let (d, m) = ([0, 1].map(|h| F::scale(b, at, h)), [0, 1].map(|h| F::addend(b, at, h)));
            for (t, sum) in sums[..x.tokens].iter_mut().enumerate() {
                let i = t * x.groups + g;
                let q = &x.q[i * GROUP..][..GROUP];
                let dots = [dot16(&u[..16], &q[..16]) as f32, dot16(&u[16..], &q[16..]) as f32];
                *sum += x.d[i] * (d[0] * dots[0] + d[1] * dots[1])
                    + (m[0] * x.half_sums[2 * i] + m[1] * x.half_sums[2 * i + 1]);
            }
        }
        for t in 0..x.tokens {
            // SAFETY: the caller made room for every row and token.
            unsafe { *out.at.add(t * out.stride + n) = sums[t] };
        }
    }
}

/// See [`Kernels::unpack`].
unsafe fn unpack<F: Format>(w: &[u8], row_bytes: usize, first: usize, groups: usize, panel: &mut Panel) {
    let last = w.len() / row_bytes - 1;
    let scales = if F::SPLIT { 2 } else { 1 };
    for r in 0..ROWS {
        let row = blocks::<F>(&w[r.min(last) * row_bytes..][..row_bytes]);
        for g in 0..groups {
            let (b, at) = (&row[(first + g) / F::GROUPS], (first + g) % F::GROUPS);
            for (i, u) in F::values(b, at).as_chunks::<4>().0.iter().enumerate() {
                panel.q[((g * 8 + i) * ROWS + r) * 4..][..4].copy_from_slice(u);
            }
            for h in 0..scales {
                panel.d[(g * scales + h) * ROWS + r] = F::scale(b, at, h);
                panel.m[(g * scales + h) * ROWS + r] = F::addend(b, at, h);
            }
        }
    }
}

/// See [`Kernels::tile`].
unsafe fn tile<const SCALES: usize>(panel: &Panel, x: &Acts, part: Part, out: Out) {
    let at = part.tile * x.groups + part.first;
    let sums = if SCALES == 1 { x.sums } else { x.half_sums };
    let mut acc = [[0f32; ROWS]; TILE];
    for s in 0..part.groups * SCALES {
        let n = 8 / SCALES; // words of 4 values a scale covers
        let w = panel.q[s * n * ROWS * 4..][..n * ROWS * 4].as_chunks::<4>().0;
        let q = x.q[(at * SCALES + s) * n * TILE * 4..][..n * TILE * 4].as_chunks::<4>().0;
        let mut dots = [[0i32; ROWS]; TILE];
        for i in 0..n {
            for a in 0..TILE {
                for r in 0..ROWS {
                    for l in 0..4 {
                        dots[a][r] += w[i * ROWS + r][l] as i32 * q[i * TILE + a][l] as i32;
                    }
                }
            }
        }
        for a in 0..TILE {
            let (d, sum) = (x.d[(at + s / SCALES) * TILE + a], sums[(at * SCALES + s) * TILE + a]);
            for r in 0..ROWS {
                let i = s * ROWS + r;
                acc[a][r] += panel.d[i] * (d * dots[a][r] as f32) + panel.m[i] * sum;
            }
        }
    }
    for (a, acc) in acc.iter().enumerate().take(part.tokens) {
        for (r, acc) in acc.iter().enumerate() {
            // SAFETY: the caller made room for a whole panel's rows of the wanted tokens.
            let to = unsafe { &mut *out.at.add(a * out.stride + r) };
            *to = if part.accumulate { *to + acc } else { *acc };
        }
    }
}
