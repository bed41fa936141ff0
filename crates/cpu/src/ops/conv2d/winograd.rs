//! Kernels of 3 × 3 by minimal filtering, F(4×4, 3×3) (Lavin & Gray 2015, "Fast Algorithms for Convolutional Neural
//! Networks"): a tile of 4 × 4 results takes 36 multiplications for each pair of channels instead of 144.
//!
//! A tile of 6 × 6 pixels, and each kernel, are turned into 36 numbers; place by place these are products of matrices over
//! the channels, and their sums are turned back. What is turned exists for some rows of tiles, and for some outputs, at a
//! time. Tiles are the columns of these products, or, where they are few, the rows, and outputs the columns: so no vector is
//! half empty. In f32 the results are about ten times as far from exact ones as direct sums are, some 1e-6 of the largest.

mod transform;

use super::Left;
use crate::exec::Cpu;
use crate::isa::isa;
use crate::ops::gemm::{HEIGHT, Rows, WIDTH, Way, prefetch, tile, tile_turned};
use crate::ops::rows::Shared;
use crate::ops::turn;
use crate::threads::Pool;
use hob_graph::{DType, Shape, Window};
use std::ops::Range;
use transform::{across, back, back_few, downwards, turn_kernels};

/// Places of a turned tile.
const PLACES: usize = 36;
/// Tiles at once, in strips.
const STRIPS: usize = 8;
/// Outputs of a task at most, and channels whose kernels are turned at once.
const MANY: [usize; 2] = [48, 320];
/// The same where tiles are few, and each kernel that is turned has to stay in the second cache until it meets them.
const FEW: [usize; 2] = [WIDTH, 64];
/// Channels between which passes are cut, whole blocks of any format.
const CUT: usize = 32;
/// Tiles up to which they are few, ...
const FEWEST: usize = 23;
/// ... and from which on minimal filtering pays.
const LEAST: usize = 4;
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
    /// tiles of a strip
    wide: usize,
    /// outputs of a task
    rows: usize,
    /// channels at once
    depth: usize,
}

impl Winograd {
    /// The split where minimal filtering pays: tiles and channels enough for the turning.
    pub fn of(cpu: &Cpu, x: Shape, y: Shape, window: Window) -> Option<Winograd> {
        let (channels, outputs) = (x[1], y[1]);
        if Way::of(isa(), cpu.precision, DType::F32, outputs) != Way::Plain {
            return None; // direct products by tiles are faster, and closer
        }
        let fits = window.kernel == 3 && window.stride == 1 && channels >= 32 && outputs >= 32;
        let tiles = [y[2].div_ceil(4), y[3].div_ceil(4)];
        let (lines, most) = (x[0] * tiles[0], STRIPS * WIDTH);
        let all = lines * tiles[1];
        if !fits || all < LEAST || tiles[1] > most {
            return None;
        }
        let few = all <= FEWEST;
        let [many, depth] = if few { FEW } else { MANY };
        // As many outputs a task as leave no thread without work: the more there are, the seldomer turned pixels come.
        let tasks = outputs.div_ceil(many).next_multiple_of(cpu.pool.threads()).min(outputs);
        let rows = if few { many } else { outputs.div_ceil(tasks) };
        Some(Winograd {
            channels,
            outputs,
            size: [x[2], x[3]],
            out: [y[2], y[3]],
            padding: window.padding as usize,
            tiles,
            lines,
            some: (most / tiles[1]).min(lines),
            wide: if few { all } else { WIDTH },
            rows,
            depth,
        })
    }

    /// Whether kernels are the columns of products, and the tiles, fewer than those, their rows.
    fn few(&self) -> bool {
        self.lines * self.tiles[1] <= FEWEST
    }

    fn strips(&self) -> usize {
        (self.some * self.tiles[1]).div_ceil(self.wide)
    }

    /// Columns of a line of turned pixels: those of whole vectors of tiles, and two beyond.
    fn line(&self) -> usize {
        self.tiles[1].next_multiple_of(LANES) * 4 + LANES
    }

    /// From one place to the next of turned tiles, in rows of a strip. An odd number: the places of a tile are
    /// written one after another, and would otherwise share a few lines of the caches.
    fn place(&self) -> usize {
        (self.strips() * self.channels) | 1
    }

    /// Numbers of all turned tiles.
    fn turned(&self) -> usize {
        PLACES * self.place() * self.wide
    }

    /// Numbers of a place of turned kernels: an odd number of lines of a cache, as above.
    fn kernels(&self) -> usize {
        ((self.rows * self.depth).div_ceil(16) | 1) * 16
    }

    /// Rows of kernels as they were.
    fn plain(&self) -> usize {
        if self.few() { self.rows } else { 1 }
    }

    /// Numbers a thread works in: lines of pixels; or turned kernels, some rows of them as they were, and sums.
    fn per_thread(&self) -> usize {
        let kernels = PLACES * self.kernels() + 9 * self.depth * self.plain();
        (7 * self.line()).max(kernels + PLACES * self.strips() * self.rows * self.wide)
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
            let strips = (lines.len() * self.tiles[1]).div_ceil(self.wide);
            pool.run(self.outputs.div_ceil(self.rows), &|task, thread| {
                let from = task * self.rows;
                let count = self.rows.min(self.outputs - from);
                let sums = self.products(turned, strips, w, from, count, memory(thread));
                if self.few() {
                    return self.turn_few_back(sums, bias, from, count, &y);
                }
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
                        let n = (self.wide - tile % self.wide).min(count - done);
                        let at = (i * 6 + j) * self.place() + tile / self.wide * self.channels + channel;
                        // SAFETY: places, tiles and channels are within what is planned, and each channel is one
                        // thread's.
                        let to = unsafe { to.slice(at * self.wide + tile % self.wide, n) };
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

    /// Sums over the channels for outputs `from..from + count`, as `(places, strips, rows, WIDTH)`; where tiles are few, as
    /// `(places, tiles, WIDTH)`, rows being the columns.
    fn products<'m>(
        &self,
        turned: &[f32],
        strips: usize,
        w: Left,
        from: usize,
        count: usize,
        memory: &'m mut [f32],
    ) -> &'m [[f32; WIDTH]] {
        let (plain, memory) = memory.split_at_mut(9 * self.depth * self.plain());
        let (kernels, sums) = memory.split_at_mut(PLACES * self.kernels());
        let sums = sums.as_chunks_mut::<WIDTH>().0;
        let all = self.lines * self.tiles[1];
        // About equally deep, as each pass takes all sums from memory and back.
        let (passes, cuts) = (self.channels.div_ceil(self.depth), self.channels.div_ceil(CUT));
        for pass in 0..passes {
            let cut = |pass: usize| (cuts * pass / passes * CUT).min(self.channels);
            let (first, deep) = (cut(pass), cut(pass + 1) - cut(pass));
            match self.few() {
                true => self.turn_few_kernels(w, from..from + count, first..first + deep, plain, kernels),
                false => self.turn_kernels(w, from..from + count, first..first + deep, plain, kernels),
            }
            for (place, kernels) in kernels.chunks_exact(self.kernels()).enumerate() {
                let tiles = |strip: usize| {
                    let at = place * self.place() + strip * self.channels + first;
                    &turned[at * self.wide..][..deep * self.wide]
                };
                if self.few() {
                    let b = &kernels.as_chunks().0[..deep];
                    for part in even(all) {
                        let a = Rows { at: &tiles(0)[part.start..], stride: self.wide, count: part.len() };
                        tile_turned(a, b, &mut sums[place * self.wide + part.start..], first == 0);
                    }
                    continue;
                }
                for strip in 0..strips {
                    let b = tiles(strip).as_chunks().0;
                    for part in even(count) {
                        let at = &kernels[part.start * self.depth..];
                        let a = Rows { at, stride: self.depth, count: part.len() };
                        let to = (place * self.strips() + strip) * self.rows + part.start;
                        tile(a, b, &mut sums[to..], first == 0);
                    }
                }
            }
        }
        sums
    }

    /// Turns the kernels of some outputs and channels, as `(places, rows, channels)`.
    fn turn_kernels(
        &self,
        w: Left,
        outputs: Range<usize>,
        channels: Range<usize>,
        plain: &mut [f32],
        to: &mut [f32],
    ) {
        let mut columns = [[0.0; turn::ROWS]; 9];
        for (row, output) in outputs.enumerate() {
            let at = (output * self.channels + channels.start) * 9;
            let kernels = w.numbers(at, 9 * channels.len(), plain).as_chunks::<9>().0;
            for first in (0..kernels.len()).step_by(turn::ROWS) {
                // Those that are missing are the last once more, and are not looked at.
                let kernel = |i: usize| &kernels[(first + i).min(kernels.len() - 1)][..];
                turn::to_columns(std::array::from_fn(kernel), 1.0, &mut columns, 0);
                turn_kernels(&[columns], &mut to[row * self.depth + first..], 0, self.kernels());
            }
        }
    }

    /// The same as `(places, channels, rows)`.
    fn turn_few_kernels(
        &self,
        w: Left,
        outputs: Range<usize>,
        channels: Range<usize>,
        plain: &mut [f32],
        to: &mut [f32],
    ) {
        let (count, deep) = (outputs.len(), channels.len());
        let at = |row: usize| ((outputs.start + row) * self.channels + channels.start) * 9;
        let mut room = plain.chunks_exact_mut(9 * self.depth);
        let rows: [&[f32]; FEW[0]] = std::array::from_fn(|row| {
            if row >= count {
                return &[][..];
            }
            // The next come while these are decoded: they lie far apart.
            prefetch(w.bytes, w.bytes_of(at(row + 1)), w.bytes_of(9 * deep));
            w.numbers(at(row), 9 * deep, room.next().expect("rows have room"))
        });
        let mut columns = [[0.0; turn::ROWS]; 9 * 8];
        for first in (0..deep).step_by(8) {
            let some = 9 * 8.min(deep - first);
            let columns = &mut columns[..some];
            for row in (0..count).step_by(turn::ROWS) {
                // Those that are missing are the last once more, and are not looked at.
                let row_of = |i: usize| &rows[(row + i).min(count - 1)][9 * first..][..some];
                turn::to_columns(std::array::from_fn(row_of), 1.0, columns, 0);
                let to = &mut to[first * self.rows + row..];
                turn_kernels(columns.as_chunks().0, to, self.rows, self.kernels());
            }
        }
    }

    /// Turns sums of few tiles back.
    fn turn_few_back(
        &self,
        sums: &[[f32; WIDTH]],
        bias: Option<&[f32]>,
        from: usize,
        count: usize,
        y: &Shared<f32>,
    ) {
        let ([height, width], sums) = (self.out, sums.as_flattened().as_chunks::<{ turn::ROWS }>().0);
        let each = WIDTH / turn::ROWS;
        for tile in 0..self.lines * self.tiles[1] {
            let (line, column) = (tile / self.tiles[1], tile % self.tiles[1]);
            let (image, top) = (line / self.tiles[0], line % self.tiles[0] * 4);
            let wide = 4.min(width - 4 * column);
            for row in (0..count).step_by(turn::ROWS) {
                let mut pixels = [[0.0; 4 * turn::ROWS]; 4];
                back_few(&sums[tile * each + row / turn::ROWS..], self.wide * each, &mut pixels);
                for row in row..count.min(row + turn::ROWS) {
                    let (output, bias) = (from + row, bias.map_or(0.0, |b| b[from + row]));
                    for (i, pixels) in pixels.iter().enumerate().take(height - top) {
                        let to = ((image * self.outputs + output) * height + top + i) * width + 4 * column;
                        // SAFETY: tiles and outputs of different tasks are different, and these are within the result.
                        let to = unsafe { y.slice(to, wide) };
                        let pixels = &pixels[4 * (row % turn::ROWS)..];
                        to.iter_mut().zip(pixels).for_each(|(y, x)| *y = x + bias);
                    }
                }
            }
        }
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

/// Parts of up to [`HEIGHT`], about equally large.
fn even(count: usize) -> impl Iterator<Item = Range<usize>> {
    let parts = count.div_ceil(HEIGHT);
    (0..parts).map(move |i| count * i / parts..count * (i + 1) / parts)
}
