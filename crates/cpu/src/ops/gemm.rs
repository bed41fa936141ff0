//! The f32 product behind `matmul` and `conv2d`: `a (M, K) × b (K, N) → (M, N)`, where b is given by a function that
//! writes parts of it. So b may be decoded from a stored weight, or be the patches of an image that never lie anywhere
//! as a whole.
//!
//! A task computes some columns and rows of the result. It takes b's part of up to [`DEPTH`] rows at a time into a
//! panel, laid out in strips of [`WIDTH`] columns, and multiplies it by its rows of a, [`HEIGHT`] at a time, with the
//! sums in registers. Between panels the sums lie close together, as the rows of the result are often a power of two
//! apart and would push each other out of the cache.

use crate::isa::{fma, for_each_isa};
use crate::ops::rows::Shared;
use crate::threads::Pool;
use std::ops::Range;

/// Rows of a panel: a strip of so many stays in the first cache.
pub const DEPTH: usize = 256;
/// Columns of a strip.
pub const WIDTH: usize = 16;
/// Rows of the result computed together: with WIDTH columns, twelve registers of AVX2.
const HEIGHT: usize = 6;
/// Rows of a task at most.
const ROWS: usize = 84 * HEIGHT;

/// How large a product is and how it is split.
#[derive(Clone, Copy)]
pub struct Gemm {
    /// M
    pub rows: usize,
    /// K
    pub depth: usize,
    /// N
    pub columns: usize,
    /// columns of a task, a multiple of [`WIDTH`]
    pub task: usize,
}

impl Gemm {
    /// Bytes of working memory.
    pub fn scratch(&self, pool: &Pool) -> usize {
        pool.threads() * self.per_thread() * 4
    }

    fn per_thread(&self) -> usize {
        (self.depth.min(DEPTH) + self.rows.next_multiple_of(HEIGHT).min(ROWS)) * self.task
    }

    /// Computes `batches` products: `a(i)` is `(M, K)` and `out` holds `(batches, M, N)`.
    ///
    /// `fill(i, rows, columns, panel)` writes b's part of product i into a panel `(columns / WIDTH, rows, WIDTH)`,
    /// with anything where `columns` goes beyond N. `finish(row, y)` is called for finished parts of rows.
    pub fn run<'a>(
        &self,
        pool: &Pool,
        batches: usize,
        out: &mut [f32],
        scratch: &mut [u8],
        a: impl Fn(usize) -> &'a [f32] + Sync,
        fill: impl Fn(usize, Range<usize>, Range<usize>, &mut [f32]) + Sync,
        finish: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        let Gemm { rows, depth, columns, task } = *self;
        assert_eq!(out.len(), batches * rows * columns);
        if out.is_empty() {
            return;
        }
        // SAFETY: any bits are an f32, and what is not aligned is left out; the plan's scratch is aligned.
        let scratch = unsafe { scratch.align_to_mut::<f32>().1 };
        assert!(scratch.len() >= pool.threads() * self.per_thread(), "scratch as planned");
        let (panels, out) = (Shared(scratch.as_mut_ptr()), Shared(out.as_mut_ptr()));
        let tasks = columns.div_ceil(task);
        // Rows are split where there are many, and where there are too few columns to keep all threads busy. Each part
        // takes the panels anew.
        let busy = 2 * pool.threads();
        let spread = if pool.threads() > 1 && rows * columns * depth > 1 << 16 {
            busy.div_ceil(batches * tasks).min(rows.div_ceil(8 * HEIGHT))
        } else {
            1
        };
        let heights = rows.div_ceil(HEIGHT);
        let parts = spread.max(heights.div_ceil(ROWS / HEIGHT));
        let panels_deep = depth.div_ceil(DEPTH).max(1);
        let work = |chunk: usize, thread: usize| {
            let (batch, rest) = (chunk / (tasks * parts), chunk % (tasks * parts));
            let (first, part) = (rest / parts * task, rest % parts);
            let mine = heights * part / parts * HEIGHT..heights * (part + 1) / parts * HEIGHT;
            let strips = task.min(columns - first).div_ceil(WIDTH);
            // SAFETY: each thread has memory of its own, within what is asserted above.
            let memory = unsafe { panels.slice(thread * self.per_thread(), self.per_thread()) };
            let (panel, sums) = memory.split_at_mut(depth.min(DEPTH) * task);
            let sums = &mut sums.as_chunks_mut::<WIDTH>().0[..strips * mine.len()]; // (strips, rows, WIDTH)
            sums.fill([0.0; WIDTH]);
            let a = a(batch);
            for i in 0..panels_deep {
                let deep = depth * i / panels_deep..depth * (i + 1) / panels_deep;
                let panel = &mut panel[..deep.len() * strips * WIDTH];
                fill(batch, deep.clone(), first..first + strips * WIDTH, panel);
                for row in mine.clone().step_by(HEIGHT) {
                    let high = HEIGHT.min(rows - row);
                    let a = &a[row * depth + deep.start..];
                    for strip in 0..strips {
                        let b = &panel[strip * deep.len() * WIDTH..][..deep.len() * WIDTH];
                        let at = strip * mine.len() + row - mine.start;
                        tile(a, depth, high, b, &mut sums[at..at + HEIGHT]);
                    }
                }
            }
            for row in mine.start..mine.end.min(rows) {
                let wide = task.min(columns - first);
                // SAFETY: tasks write different rows and columns of the result.
                let y = unsafe { out.slice((batch * rows + row) * columns + first, wide) };
                for (strip, y) in y.chunks_mut(WIDTH).enumerate() {
                    y.copy_from_slice(&sums[strip * mine.len() + row - mine.start][..y.len()]);
                }
                finish(row, y);
            }
        };
        if batches * rows * columns * depth < 1 << 14 {
            (0..batches * tasks * parts).for_each(|chunk| work(chunk, 0));
        } else {
            pool.run(batches * tasks * parts, &work);
        }
    }
}

for_each_isa! {
    /// Adds `high` rows of a, `stride` apart, times a strip to `sums (HEIGHT, WIDTH)`.
    fn tile(a: &[f32], stride: usize, high: usize, b: &[f32], sums: &mut [[f32; WIDTH]]) {
        if high == HEIGHT {
            rows::<FMA, HEIGHT>(a, stride, b, sums);
        } else {
            for i in 0..high {
                rows::<FMA, 1>(&a[i * stride..], stride, b, &mut sums[i..i + 1]);
            }
        }
    }
}

#[inline(always)]
fn rows<const FMA: bool, const N: usize>(a: &[f32], stride: usize, b: &[f32], y: &mut [[f32; WIDTH]]) {
    let (b, _) = b.as_chunks::<WIDTH>();
    let a: [&[f32]; N] = std::array::from_fn(|i| &a[i * stride..][..b.len()]);
    let mut sums: [[f32; WIDTH]; N] = std::array::from_fn(|i| y[i]);
    for (k, b) in b.iter().enumerate() {
        for i in 0..N {
            let x = a[i][k];
            for j in 0..WIDTH {
                sums[i][j] = fma::<FMA>(x, b[j], sums[i][j]);
            }
        }
    }
    y[..N].copy_from_slice(&sums);
}
