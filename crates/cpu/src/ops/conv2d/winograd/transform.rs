//! What minimal filtering turns, and turns back: pixels, kernels and sums, some of each in a vector.

use super::{LANES, PLACES};
use crate::isa::for_each_width;
use crate::ops::gemm::WIDTH;
use crate::ops::turn;

/// Bᵀ d of the paper: six pixels become six numbers.
#[inline(always)]
fn turned(d: [f32; 6]) -> [f32; 6] {
    let (a, b) = (d[4] - 4.0 * d[2], d[3] - 4.0 * d[1]);
    let (c, e) = (d[4] - d[2], 2.0 * (d[3] - d[1]));
    [4.0 * d[0] - 5.0 * d[2] + d[4], a + b, a - b, c + e, c - e, 4.0 * d[1] - 5.0 * d[3] + d[5]]
}

/// Aᵀ m: six sums become four pixels.
#[inline(always)]
fn turned_back(m: [f32; 6]) -> [f32; 4] {
    let (a, b, c, d) = (m[1] + m[2], m[1] - m[2], m[3] + m[4], m[3] - m[4]);
    [m[0] + a + c, b + 2.0 * d, a + 4.0 * c, b + 8.0 * d + m[5]]
}

/// G g: three numbers of a kernel become six.
#[inline(always)]
fn turned_kernel(g: [f32; 3]) -> [f32; 6] {
    let (a, b) = ((g[0] + g[2]) * (-1.0 / 6.0), g[1] * (1.0 / 6.0));
    let (c, d) = (g[0] * (1.0 / 24.0) + g[2] * (1.0 / 6.0), g[1] * (1.0 / 12.0));
    [g[0] * 0.25, a - b, a + b, c + d, c - d, g[2]]
}

for_each_width! {
    /// Six lines of pixels become six of numbers.
    pub fn downwards(rows: [&[f32]; 6], to: [&mut [f32]; 6]) {
        let n = rows[0].len();
        let rows = rows.map(|r| &r[..n]);
        let [a, b, c, d, e, f] = to;
        let (a, b, c) = (&mut a[..n], &mut b[..n], &mut c[..n]);
        let (d, e, f) = (&mut d[..n], &mut e[..n], &mut f[..n]);
        for x in 0..n {
            let y = turned([rows[0][x], rows[1][x], rows[2][x], rows[3][x], rows[4][x], rows[5][x]]);
            (a[x], b[x], c[x], d[x], e[x], f[x]) = (y[0], y[1], y[2], y[3], y[4], y[5]);
        }
    }
}

for_each_width! {
    /// Tiles along a line, four pixels apart, become six numbers each.
    pub fn across(line: &[f32; 4 * LANES + LANES], to: &mut [[f32; LANES]; 6]) {
        let mut d = [[0.0f32; LANES + 1]; 4];
        for t in 0..LANES + 1 {
            for j in 0..4 {
                d[j][t] = line[4 * t + j];
            }
        }
        for t in 0..LANES {
            let y = turned([d[0][t], d[1][t], d[2][t], d[3][t], d[0][t + 1], d[1][t + 1]]);
            for j in 0..6 {
                to[j][t] = y[j];
            }
        }
    }
}

for_each_width! {
    /// Some kernels side by side, `(9, ROWS)`, become 36 places, `place` apart; and others, `stride` further.
    pub fn turn_kernels(kernels: &[[[f32; turn::ROWS]; 9]], to: &mut [f32], stride: usize, place: usize) {
        assert!(to.len() >= kernels.len().saturating_sub(1) * stride + (PLACES - 1) * place + turn::ROWS);
        for (channel, g) in kernels.iter().enumerate() {
            let mut half = [[[0.0f32; turn::ROWS]; 3]; 6];
            for column in 0..3 {
                for t in 0..turn::ROWS {
                    let u = turned_kernel([g[column][t], g[3 + column][t], g[6 + column][t]]);
                    for i in 0..6 {
                        half[i][column][t] = u[i];
                    }
                }
            }
            for i in 0..6 {
                let mut whole = [[0.0f32; turn::ROWS]; 6];
                for t in 0..turn::ROWS {
                    let u = turned_kernel([half[i][0][t], half[i][1][t], half[i][2][t]]);
                    for j in 0..6 {
                        whole[j][t] = u[j];
                    }
                }
                for j in 0..6 {
                    let at = channel * stride + (i * 6 + j) * place;
                    // SAFETY: as asserted; and numbers may lie anywhere.
                    unsafe { to.as_mut_ptr().add(at).cast::<[f32; turn::ROWS]>().write_unaligned(whole[j]) };
                }
            }
        }
    }
}

for_each_width! {
    /// Sums of 36 places, `stride` apart, become 4 × 4 pixels of each tile.
    pub fn back(sums: &[[f32; WIDTH]], stride: usize, bias: f32, to: &mut [[f32; 4 * WIDTH]; 4]) {
        back_of(sums, stride, bias, to);
    }
}

for_each_width! {
    /// The same for some rows of a tile.
    pub fn back_few(sums: &[[f32; turn::ROWS]], stride: usize, to: &mut [[f32; 4 * turn::ROWS]; 4]) {
        back_of(sums, stride, 0.0, to);
    }
}

#[inline(always)]
fn back_of<const W: usize, const N: usize>(
    sums: &[[f32; W]],
    stride: usize,
    bias: f32,
    to: &mut [[f32; N]; 4],
) {
    let mut half = [[[0.0f32; W]; 6]; 4];
    for j in 0..6 {
        let m: [&[f32; W]; 6] = std::array::from_fn(|i| &sums[(i * 6 + j) * stride]);
        for t in 0..W {
            let y = turned_back([m[0][t], m[1][t], m[2][t], m[3][t], m[4][t], m[5][t]]);
            for i in 0..4 {
                half[i][j][t] = y[i];
            }
        }
    }
    for i in 0..4 {
        let h = &half[i];
        for t in 0..W {
            let y = turned_back([h[0][t], h[1][t], h[2][t], h[3][t], h[4][t], h[5][t]]);
            for j in 0..4 {
                to[i][4 * t + j] = y[j] + bias;
            }
        }
    }
}
