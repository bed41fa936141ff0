//! Kernels of 3 × 3 by minimal filtering, F(4×4, 3×3) (Lavin & Gray 2015, "Fast Algorithms for Convolutional Neural
//! Networks"): a tile of 4 × 4 results takes 36 multiplications for each pair of channels instead of 144.
//!
//! A tile of 6 × 6 pixels, and each kernel, are turned into 36 numbers; place by place these are products of matrices over
//! the channels, and their sums are turned back. What is turned exists for some rows of tiles, and for some outputs, at a
//! time. In f32 the results are about ten times as far from exact ones as direct sums are, some 1e-6 of the largest.

use super::Left;
use crate::exec::Cpu;
use crate::isa::{for_each_width, isa};
use crate::ops::gemm::{HEIGHT, Rows, WIDTH, Way, tile};
use crate::ops::rows::Shared;
use crate::threads::Pool;
use hob_graph::{DType, Shape, Window};

/// Places of a turned tile.
const PLACES: usize = 36;
/// Tiles at once, in strips.
const STRIPS: usize = 8;
/// Outputs of a task at most.
const OUTPUTS: usize = 48;
/// Channels whose kernels are turned at once.
const DEPTH: usize = 320;
/// Tiles turned at once.
const LANES: usize = 16;

/// How large a convolution is, and how it is split.
pub struct Winograd {
    /// C
    channels: usize,
    /// O
    outputs: usize,
    /// H, W
    size: [usize; 2],
    /// H', W'
    out: [usize; 2],
    padding: usize,
    /// tiles of an image: rows and columns
    tiles: [usize; 2],
    /// rows of tiles of all images
    lines: usize,
    /// rows of tiles at once
    some: usize,
    /// outputs of a task
    rows: usize,
}

impl Winograd {
    /// The split where minimal filtering pays: enough tiles to fill a strip, and channels enough for the turning.
    pub fn of(cpu: &Cpu, x: Shape, y: Shape, window: Window) -> Option<Winograd> {
        let (channels, outputs) = (x[1], y[1]);
        if Way::of(isa(), cpu.precision, DType::F32, outputs) != Way::Plain {
            return None; // direct products by tiles are faster, and closer
        }
        let fits = window.kernel == 3 && window.stride == 1 && channels >= 32 && outputs >= 32;
        let tiles = [y[2].div_ceil(4), y[3].div_ceil(4)];
        let (lines, most) = (x[0] * tiles[0], STRIPS * WIDTH);
        if !fits || lines * tiles[1] < WIDTH * 3 / 4 || tiles[1] > most {
            return None;
        }
        // As many outputs a task as leave no thread without work: the more there are, the seldomer turned pixels come.
        let tasks = outputs.div_ceil(OUTPUTS).next_multiple_of(cpu.pool.threads()).min(outputs);
        let rows = outputs.div_ceil(tasks);
        Some(Winograd {
            channels,
            outputs,
            size: [x[2], x[3]],
            out: [y[2], y[3]],
            padding: window.padding as usize,
            tiles,
            lines,
            some: (most / tiles[1]).min(lines),
            rows,
        })
    }

    fn strips(&self) -> usize {
        (self.some * self.tiles[1]).div_ceil(WIDTH)
    }

    /// Columns of a line of turned pixels: those of whole vectors of tiles, and two beyond.
    fn line(&self) -> usize {
        self.tiles[1].next_multiple_of(LANES) * 4 + LANES
    }

    /// From one place to the next of turned tiles, in rows of WIDTH numbers. An odd number: the places of a tile are
    /// written one after another, and would otherwise share a few lines of the caches.
    fn place(&self) -> usize {
        (self.strips() * self.channels) | 1
    }

    /// Numbers of all turned tiles.
    fn turned(&self) -> usize {
        PLACES * self.place() * WIDTH
    }

    /// Numbers a thread works in: lines of pixels; or turned kernels, one row of them as they were, and sums.
    fn per_thread(&self) -> usize {
        let kernels = (PLACES * self.rows + 9) * DEPTH;
        (7 * self.line()).max(kernels + PLACES * self.strips() * self.rows * WIDTH)
    }

    /// Bytes of working memory.
    pub fn scratch(&self, pool: &Pool) -> usize {
        4 * (self.turned() + pool.threads() * self.per_thread())
    }

    pub fn run(
        &self,
        pool: &Pool,
        x: &[f32],
        w: Left,
        bias: Option<&[f32]>,
        y: &mut [f32],
        scratch: &mut [u8],
    ) {
        // SAFETY: any bits are an f32; the plan's scratch is aligned and as large as `scratch` says.
        let scratch = unsafe { scratch.align_to_mut::<f32>().1 };
        let (turned, working) = scratch.split_at_mut(self.turned());
        assert!(working.len() >= pool.threads() * self.per_thread(), "scratch as planned");
        let working = Shared(working.as_mut_ptr());
        // SAFETY: each thread has a part of its own.
        let memory = |thread: usize| unsafe { working.slice(thread * self.per_thread(), self.per_thread()) };
        let y = Shared(y.as_mut_ptr());
        for first in (0..self.lines).step_by(self.some) {
            let lines = first..self.lines.min(first + self.some);
            let to = Shared(turned.as_mut_ptr());
            pool.run(self.channels, &|channel, thread| {
                for line in lines.clone() {
                    self.turn(x, channel, line, line - first, memory(thread), &to);
                }
            });
            let turned: &[f32] = turned;
            let strips = (lines.len() * self.tiles[1]).div_ceil(WIDTH);
            pool.run(self.outputs.div_ceil(self.rows), &|task, thread| {
                let from = task * self.rows;
                let count = self.rows.min(self.outputs - from);
                let sums = self.products(turned, strips, w, from, count, memory(thread));
                for row in 0..count {
                    let bias = bias.map_or(0.0, |b| b[from + row]);
                    for strip in 0..strips {
                        self.turn_back(sums, strip, row, bias, first, lines.end, from + row, &y);
                    }
                }
            });
        }
    }

    /// Turns a line of tiles of a channel, the `place`th of those at hand.
    fn turn(
        &self,
        x: &[f32],
        channel: usize,
        line: usize,
        place: usize,
        memory: &mut [f32],
        to: &Shared<f32>,
    ) {
        let [height, width] = self.size;
        let (image, row) = (line / self.tiles[0], line % self.tiles[0] * 4);
        let x = &x[(image * self.channels + channel) * height * width..][..height * width];
        let (zeros, memory) = memory.split_at_mut(self.line());
        zeros.fill(0.0);
        let rows: [&[f32]; 6] = std::array::from_fn(|i| match (row + i).checked_sub(self.padding) {
            Some(at) if at < height => &x[at * width..][..width],
            _ => &zeros[..width],
        });
        let mut rest = &mut memory[..6 * self.line()];
        let mut lines: [&mut [f32]; 6] = std::array::from_fn(|_| {
            let (line, left) = std::mem::take(&mut rest).split_at_mut(self.line());
            rest = left;
            line[..self.padding].fill(0.0);
            line[self.padding + width..].fill(0.0);
            line
        });
        downwards(rows, lines.each_mut().map(|line| &mut line[self.padding..][..width]));
        let mut turned = [[0.0; LANES]; 6];
        for (i, line) in lines.iter().enumerate() {
            for first in (0..self.tiles[1]).step_by(LANES) {
                let count = LANES.min(self.tiles[1] - first);
                across(line[4 * first..].first_chunk().expect("lines have room"), &mut turned);
                for (j, turned) in turned.iter().enumerate() {
                    let mut done = 0;
                    while done < count {
                        let tile = place * self.tiles[1] + first + done;
                        let n = (WIDTH - tile % WIDTH).min(count - done);
                        let at = (i * 6 + j) * self.place() + tile / WIDTH * self.channels + channel;
                        // SAFETY: places, tiles and channels are within what is planned, and each channel is one
                        // thread's.
                        let to = unsafe { to.slice(at * WIDTH + tile % WIDTH, n) };
                        match n {
                            LANES => to.copy_from_slice(turned),
                            _ => to.copy_from_slice(&turned[done..done + n]),
                        }
                        done += n;
                    }
                }
            }
        }
    }

    /// Sums over the channels for outputs `from..from + count`, as `(places, strips, rows, WIDTH)`.
    fn products<'m>(
        &self,
        turned: &[f32],
        strips: usize,
        w: Left,
        from: usize,
        count: usize,
        memory: &'m mut [f32],
    ) -> &'m [[f32; WIDTH]] {
        let (plain, memory) = memory.split_at_mut(9 * DEPTH);
        let (kernels, sums) = memory.split_at_mut(PLACES * self.rows * DEPTH);
        let (turned, sums) = (turned.as_chunks::<WIDTH>().0, sums.as_chunks_mut::<WIDTH>().0);
        // About equally deep, as each pass takes all sums from memory and back.
        let (passes, tiles) = (self.channels.div_ceil(DEPTH), count.div_ceil(HEIGHT));
        for pass in 0..passes {
            let first = self.channels * pass / passes;
            let deep = self.channels * (pass + 1) / passes - first;
            for row in 0..count {
                let at = ((from + row) * self.channels + first) * 9;
                let plain = w.numbers(at, 9 * deep, plain);
                turn_kernels(plain, &mut kernels[row * DEPTH..], self.rows * DEPTH);
            }
            for place in 0..PLACES {
                for strip in 0..strips {
                    let at = place * self.place() + strip * self.channels + first;
                    let b = &turned[at..][..deep];
                    for t in 0..tiles {
                        let (row, end) = (count * t / tiles, count * (t + 1) / tiles);
                        let at = &kernels[(place * self.rows + row) * DEPTH..];
                        let a = Rows { at, stride: DEPTH, count: end - row };
                        let to = (place * self.strips() + strip) * self.rows + row;
                        tile(a, b, &mut sums[to..], first == 0);
                    }
                }
            }
        }
        sums
    }

    /// Turns a strip of sums of an output back, and writes what lies within the result.
    fn turn_back(
        &self,
        sums: &[[f32; WIDTH]],
        strip: usize,
        row: usize,
        bias: f32,
        first: usize,
        end: usize,
        output: usize,
        y: &Shared<f32>,
    ) {
        let [height, width] = self.out;
        let mut pixels = [[0.0; 4 * WIDTH]; 4];
        back(&sums[strip * self.rows + row..], self.strips() * self.rows, bias, &mut pixels);
        let mut at = 0;
        while at < WIDTH {
            let tile = strip * WIDTH + at;
            let (line, column) = (first + tile / self.tiles[1], tile % self.tiles[1]);
            if line >= end {
                break;
            }
            let n = (self.tiles[1] - column).min(WIDTH - at);
            let (image, top) = (line / self.tiles[0], line % self.tiles[0] * 4);
            let wide = (4 * n).min(width - 4 * column);
            for (i, pixels) in pixels.iter().enumerate().take(height - top) {
                let to = ((image * self.outputs + output) * height + top + i) * width + 4 * column;
                // SAFETY: tiles and outputs of different tasks are different, and these are within the result.
                unsafe { y.slice(to, wide) }.copy_from_slice(&pixels[4 * at..][..wide]);
            }
            at += n;
        }
    }
}

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
    fn downwards(rows: [&[f32]; 6], to: [&mut [f32]; 6]) {
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
    fn across(line: &[f32; 4 * LANES + LANES], to: &mut [[f32; LANES]; 6]) {
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
    /// Kernels `(channels, 3, 3)` become 36 rows of numbers by channel, `stride` apart.
    fn turn_kernels(w: &[f32], to: &mut [f32], stride: usize) {
        let channels = w.len() / 9;
        for first in (0..channels).step_by(LANES) {
            let some = LANES.min(channels - first);
            let mut g = [[0.0f32; LANES]; 9];
            for (t, w) in w[9 * first..].as_chunks::<9>().0.iter().take(some).enumerate() {
                for k in 0..9 {
                    g[k][t] = w[k];
                }
            }
            let mut half = [[[0.0f32; LANES]; 3]; 6];
            for column in 0..3 {
                for t in 0..LANES {
                    let u = turned_kernel([g[column][t], g[3 + column][t], g[6 + column][t]]);
                    for i in 0..6 {
                        half[i][column][t] = u[i];
                    }
                }
            }
            for i in 0..6 {
                let mut whole = [[0.0f32; LANES]; 6];
                for t in 0..LANES {
                    let u = turned_kernel([half[i][0][t], half[i][1][t], half[i][2][t]]);
                    for j in 0..6 {
                        whole[j][t] = u[j];
                    }
                }
                for j in 0..6 {
                    to[(i * 6 + j) * stride + first..][..some].copy_from_slice(&whole[j][..some]);
                }
            }
        }
    }
}

for_each_width! {
    /// Sums of 36 places, `stride` apart, become 4 × 4 pixels of each tile.
    fn back(sums: &[[f32; WIDTH]], stride: usize, bias: f32, to: &mut [[f32; 4 * WIDTH]; 4]) {
        let mut half = [[[0.0f32; WIDTH]; 6]; 4];
        for j in 0..6 {
            let m: [&[f32; WIDTH]; 6] = std::array::from_fn(|i| &sums[(i * 6 + j) * stride]);
            for t in 0..WIDTH {
                let y = turned_back([m[0][t], m[1][t], m[2][t], m[3][t], m[4][t], m[5][t]]);
                for i in 0..4 {
                    half[i][j][t] = y[i];
                }
            }
        }
        for i in 0..4 {
            let h = &half[i];
            for t in 0..WIDTH {
                let y = turned_back([h[0][t], h[1][t], h[2][t], h[3][t], h[4][t], h[5][t]]);
                for j in 0..4 {
                    to[i][4 * t + j] = y[j] + bias;
                }
            }
        }
    }
}
