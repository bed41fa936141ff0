//! The f32 product behind `matmul` and `conv2d`: `a (M, K) × b (K, N) → (M, N)`, where b is given by a function that
//! writes parts of it. So b may be decoded from a stored weight, or be the patches of an image that never lie anywhere
//! as a whole.
//!
//! A task computes some columns of the result. It takes b's part of up to [`DEPTH`] rows at a time into a panel, laid
//! out in strips of [`WIDTH`] columns, and multiplies it by all rows of a, [`HEIGHT`] at a time, with the sums in
//! registers.

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
        self.depth.min(DEPTH) * self.task
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
        // Few columns: the rows are split as well, and each part takes the panels anew.
        let parts = if pool.threads() > 1 && rows * columns * depth > 1 << 16 {
            (2 * pool.threads()).div_ceil(batches * tasks).min(rows.div_ceil(8 * HEIGHT))
        } else {
            1
        };
        let work = |chunk: usize, thread: usize| {
            let (batch, rest) = (chunk / (tasks * parts), chunk % (tasks * parts));
            let (first, part) = (rest / parts * task, rest % parts);
            let wide = task.min(columns - first);
            let heights = rows.div_ceil(HEIGHT);
            let mine = heights * part / parts * HEIGHT..(heights * (part + 1) / parts * HEIGHT).min(rows);
            let a = a(batch);
            // SAFETY: each thread has a panel of its own, within what is asserted above.
            let panel = unsafe { panels.slice(thread * self.per_thread(), self.per_thread()) };
            // SAFETY: tasks write different rows and columns of the result, so that no two of these overlap.
            let y = |row: usize| unsafe { out.slice((batch * rows + row) * columns + first, wide) };
            for from in (0..depth.max(1)).step_by(DEPTH) {
                let deep = DEPTH.min(depth - from);
                let padded = wide.next_multiple_of(WIDTH);
                let panel = &mut panel[..deep * padded];
                fill(batch, from..from + deep, first..first + padded, panel);
                for row in mine.clone().step_by(HEIGHT) {
                    let high = HEIGHT.min(mine.end - row);
                    for strip in 0..padded / WIDTH {
                        let b = &panel[strip * deep * WIDTH..][..deep * WIDTH];
                        let mut sums = [[0.0; WIDTH]; HEIGHT];
                        tile(&a[row * depth + from..], depth, high, b, &mut sums);
                        for (i, sums) in sums.iter().enumerate().take(high) {
                            let at = strip * WIDTH;
                            let y = &mut y(row + i)[at..wide.min(at + WIDTH)];
                            if from == 0 {
                                y.copy_from_slice(&sums[..y.len()]);
                            } else {
                                y.iter_mut().zip(sums).for_each(|(y, s)| *y += s);
                            }
                        }
                    }
                }
            }
            for row in mine {
                finish(row, y(row));
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
    /// `high` rows of a, `stride` apart, times a strip: `sums (high, WIDTH)`.
    fn tile(a: &[f32], stride: usize, high: usize, b: &[f32], sums: &mut [[f32; WIDTH]; HEIGHT]) {
        if high == HEIGHT {
            *sums = rows::<FMA, HEIGHT>(a, stride, b);
        } else {
            for (i, sums) in sums.iter_mut().enumerate().take(high) {
                *sums = rows::<FMA, 1>(&a[i * stride..], stride, b)[0];
            }
        }
    }
}

#[inline(always)]
fn rows<const FMA: bool, const N: usize>(a: &[f32], stride: usize, b: &[f32]) -> [[f32; WIDTH]; N] {
    let (b, _) = b.as_chunks::<WIDTH>();
    let a: [&[f32]; N] = std::array::from_fn(|i| &a[i * stride..][..b.len()]);
    let mut sums = [[0.0f32; WIDTH]; N];
    for (k, b) in b.iter().enumerate() {
        for i in 0..N {
            let x = a[i][k];
            for j in 0..WIDTH {
                sums[i][j] = fma::<FMA>(x, b[j], sums[i][j]);
            }
        }
    }
    sums
}
