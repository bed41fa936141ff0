//! The f32 product behind `matmul` and `conv2d`: `a (M, K) × b (K, N) → (M, N)`, where b is given by a function that
//! writes parts of it. So b may be decoded from a stored weight, or be the patches of an image that never lie anywhere
//! as a whole.
//!
//! A task computes some columns and rows of the result. It takes b's part of up to [`DEPTH`] rows at a time into a
//! panel, laid out in strips of [`WIDTH`] columns, and multiplies it by its rows of a, some at a time ([`Way`]), with the
//! sums in registers. Between panels the sums lie close together, as the rows of the result are often a power of two
//! apart and would push each other out of the cache.

#[cfg(target_arch = "x86_64")]
pub mod parts;
mod tile;

use crate::exec::Precision;
use crate::isa::Isa;
use crate::ops::linear::decode;
use crate::ops::rows::Shared;
use crate::threads::Pool;
use hob_graph::DType;
use std::ops::Range;
pub use tile::{HEIGHT, Rows, WIDTH, tile, tile_turned};

/// Rows of a panel: a strip of so many stays in the first cache.
pub const DEPTH: usize = 256;
/// Numbers of b that exist at a time where they are filled in once.
const COMMON: usize = 1 << 20;

/// The left operand, `(M, K)` as stored.
#[derive(Clone, Copy)]
pub struct Left<'a> {
    pub dtype: DType,
    pub bytes: &'a [u8],
}

impl<'a> Left<'a> {
    pub fn plain(x: &'a [f32]) -> Left<'a> {
        // SAFETY: floats are bytes without padding.
        let bytes = unsafe { std::slice::from_raw_parts(x.as_ptr().cast(), size_of_val(x)) };
        Left { dtype: DType::F32, bytes }
    }

    /// Bytes of `n` numbers.
    pub fn bytes_of(&self, n: usize) -> usize {
        self.dtype.bytes(n).expect("panels and rows are whole blocks")
    }

    /// `n` numbers from `first` on, where they lie or decoded to `room`.
    pub fn numbers<'r>(self, first: usize, n: usize, room: &'r mut [f32]) -> &'r [f32]
    where
        'a: 'r,
    {
        if self.dtype == DType::F32 {
            return &self.rows(0, 1, 0, first..first + n, room).at[..n];
        }
        decode(self.dtype, &self.bytes[self.bytes_of(first)..][..self.bytes_of(n)], &mut room[..n]);
        &room[..n]
    }

    /// Rows `row..row + count` of `depth` numbers, of which `deep` are wanted: where they lie, or decoded to `room`.
    fn rows<'r>(
        self,
        row: usize,
        count: usize,
        depth: usize,
        deep: Range<usize>,
        room: &'r mut [f32],
    ) -> Rows<'r>
    where
        'a: 'r,
    {
        if self.dtype == DType::F32 {
            // SAFETY: any bits are an f32.
            let (head, x, _) = unsafe { self.bytes.align_to::<f32>() };
            assert!(head.is_empty(), "plain numbers are aligned");
            return Rows { at: &x[row * depth + deep.start..], stride: depth, count };
        }
        for (i, to) in room.chunks_exact_mut(DEPTH).take(count).enumerate() {
            let from = self.bytes_of((row + i) * depth + deep.start);
            decode(self.dtype, &self.bytes[from..][..self.bytes_of(deep.len())], &mut to[..deep.len()]);
        }
        Rows { at: room, stride: DEPTH, count }
    }
}

/// What multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub enum Way {
    /// vectors of f32, [`HEIGHT`] rows at a time
    Plain,
    /// tiles of bf16, a number being of two parts ([`crate::amx`])
    Two,
    /// the same with three parts
    Three,
}

impl Way {
    /// The best for so many rows, one of the operands being stored in `dtype`: numbers that are stored in 32 bits are
    /// multiplied as such.
    pub fn of(isa: Isa, precision: Precision, dtype: DType, rows: usize) -> Way {
        #[cfg(target_arch = "x86_64")]
        if precision == Precision::Fast && isa >= Isa::Amx && rows >= parts::LEAST {
            return if dtype == DType::F32 { Way::Three } else { Way::Two };
        }
        let _ = (isa, precision, dtype, rows);
        Way::Plain
    }

    /// Rows at a time.
    const fn height(self) -> usize {
        match self {
            Way::Plain => HEIGHT,
            _ => 32,
        }
    }

    /// Sums of a task at most, so that they and the panel stay in the second cache: tiles come with one of 2 MB.
    pub const fn sums(self) -> usize {
        match self {
            Way::Plain => 65 << 10,
            _ => 128 << 10,
        }
    }

    /// Rows of a panel: a strip of so many, and as many rows of a, stay in the first cache.
    const fn depth(self) -> usize {
        match self {
            Way::Plain => DEPTH,
            Way::Two => 160,
            Way::Three => 128,
        }
    }

    /// Numbers of f32 that so many rows of a column take in a panel.
    fn deep(self, rows: usize) -> usize {
        match self {
            Way::Plain => rows,
            Way::Two => rows.next_multiple_of(32),
            Way::Three => rows.next_multiple_of(32) / 2 * 3,
        }
    }

    /// Columns of a task where there is enough work: the more there are, the seldomer a row of a is prepared.
    pub const fn wide(self) -> usize {
        match self {
            Way::Plain => 8 * WIDTH,
            _ => 16 * WIDTH,
        }
    }

    /// The rows of panels.
    fn blocks(self, depth: usize) -> impl Iterator<Item = Range<usize>> {
        let each = self.depth();
        (0..depth).step_by(each).map(move |first| first..depth.min(first + each))
    }

    /// Memory of a strip for it.
    fn panel(self, memory: &mut [f32]) -> Panel<'_> {
        match self {
            Way::Plain => Panel::Plain(memory),
            Way::Two => Panel::Parts(2, memory),
            Way::Three => Panel::Parts(3, memory),
        }
    }
}

/// Where a part of b is to be written.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub enum Panel<'a> {
    /// `(columns / WIDTH, rows, WIDTH)`
    Plain(&'a mut [f32]),
    /// of a single strip, a right operand's blocks in so many parts
    Parts(usize, &'a mut [f32]),
}

impl Panel<'_> {
    /// Of `rows` rows, where only plain numbers can be written.
    pub fn plainly(self, rows: usize, fill: impl FnOnce(&mut [f32])) {
        match self {
            Panel::Plain(panel) => fill(panel),
            #[cfg(target_arch = "x86_64")]
            Panel::Parts(parts, panel) => {
                let mut plain = [[0.0; WIDTH]; DEPTH];
                fill(plain[..rows].as_flattened_mut());
                parts::pack(&plain[..rows], parts, panel);
            }
            #[cfg(not(target_arch = "x86_64"))]
            Panel::Parts(..) => unreachable!("{rows} rows for a processor of another kind"),
        }
    }
}

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
    pub way: Way,
}

impl Gemm {
    /// Bytes of working memory.
    pub fn scratch(&self, pool: &Pool) -> usize {
        pool.threads() * self.per_thread() * 4
    }

    /// Rows of a task at most.
    fn most(&self) -> usize {
        let height = self.way.height();
        self.way.sums() / self.task / height * height
    }

    /// Sums of a task.
    fn sums(&self) -> usize {
        self.rows.next_multiple_of(self.way.height()).min(self.most()) * self.task
    }

    fn per_thread(&self) -> usize {
        self.way.deep(self.depth.min(self.way.depth())) * self.task + self.sums()
    }

    /// Rows of the result that part `i` of `of` computes, in units of the way's height.
    fn part(&self, i: usize, of: usize) -> Range<usize> {
        let height = self.way.height();
        let heights = self.rows.div_ceil(height);
        heights * i / of * height..heights * (i + 1) / of * height
    }

    /// Computes `batches` products: `a(i)` is a product's left operand and `out` holds `(batches, M, N)`.
    ///
    /// `fill(i, rows, columns, panel)` writes b's part of product i, with anything where `columns` goes beyond N. `finish(row, column, y)` is called for finished parts of rows, from a
    /// column on.
    pub fn run<'a>(
        &self,
        pool: &Pool,
        batches: usize,
        out: &mut [f32],
        scratch: &mut [u8],
        a: impl Fn(usize) -> Left<'a> + Sync,
        fill: impl Fn(usize, Range<usize>, Range<usize>, Panel) + Sync,
        finish: impl Fn(usize, usize, &mut [f32]) + Sync,
    ) {
        let Gemm { rows, depth, columns, task, .. } = *self;
        assert_eq!(out.len(), batches * rows * columns);
        if out.is_empty() {
            return;
        }
        if depth == 0 {
            out.fill(0.0);
            return out.chunks_exact_mut(columns).enumerate().for_each(|(i, y)| finish(i % rows, 0, y));
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
        let parts = spread.max(rows.div_ceil(self.most()));
        let work = |chunk: usize, thread: usize| {
            let (batch, rest) = (chunk / (tasks * parts), chunk % (tasks * parts));
            let (first, part) = (rest / parts * task, rest % parts);
            let mine = self.part(part, parts);
            let strips = task.min(columns - first).div_ceil(WIDTH);
            // SAFETY: each thread has memory of its own, within what is asserted above.
            let memory = unsafe { panels.slice(thread * self.per_thread(), self.per_thread()) };
            let (panel, sums) = memory.split_at_mut(self.way.deep(depth.min(self.way.depth())) * task);
            let sums = &mut sums.as_chunks_mut::<WIDTH>().0[..strips * mine.len()];
            let store = self.storing(&out, batch, first, &finish);
            let a = a(batch);
            let mut room = Room::default();
            for deep in self.way.blocks(depth) {
                let panel = &mut panel[..self.way.deep(deep.len()) * strips * WIDTH];
                match self.way {
                    Way::Plain => {
                        fill(batch, deep.clone(), first..first + strips * WIDTH, Panel::Plain(panel))
                    }
                    way => {
                        let each = panel.len() / strips;
                        for (strip, panel) in panel.chunks_exact_mut(each).enumerate() {
                            let first = first + strip * WIDTH;
                            fill(batch, deep.clone(), first..first + WIDTH, way.panel(panel));
                        }
                    }
                }
                self.multiply(a, mine.clone(), deep, panel, sums, &mut room, &store);
            }
        };
        if batches * rows * columns * depth < 1 << 14 {
            (0..batches * tasks * parts).for_each(|chunk| work(chunk, 0));
        } else {
            pool.run(batches * tasks * parts, &work);
        }
    }

    /// Bytes of working memory of [`Gemm::run_once`].
    pub fn scratch_once(&self, pool: &Pool) -> usize {
        4 * (self.common() * self.way.deep(self.depth) + pool.threads() * self.sums())
    }

    /// Columns of b that exist at a time in [`Gemm::run_once`]: some tasks'.
    fn common(&self) -> usize {
        let tasks =
            (COMMON / self.depth.max(1) / self.task).clamp(1, self.columns.div_ceil(self.task).max(1));
        tasks * self.task
    }

    /// Computes one product, of which b is costly to fill in and there are many rows: parts of b are filled in once, by
    /// all threads, and then met by all rows. Arguments are those of [`Gemm::run`], but for `fill`, which is called for
    /// single strips.
    pub fn run_once(
        &self,
        pool: &Pool,
        a: Left,
        out: &mut [f32],
        scratch: &mut [u8],
        fill: impl Fn(Range<usize>, Range<usize>, Panel) + Sync,
        finish: impl Fn(usize, usize, &mut [f32]) + Sync,
    ) {
        let Gemm { rows, depth, columns, task, .. } = *self;
        assert!(out.len() == rows * columns && depth > 0);
        // SAFETY: any bits are an f32; the plan's scratch is aligned.
        let scratch = unsafe { scratch.align_to_mut::<f32>().1 };
        let (panels, sums) = scratch.split_at_mut(self.common() * self.way.deep(depth));
        let each = self.sums();
        assert!(sums.len() >= pool.threads() * each, "scratch as planned");
        let (sums, out) = (Shared(sums.as_mut_ptr()), Shared(out.as_mut_ptr()));
        let heights = rows.div_ceil(self.way.height());
        for first in (0..columns).step_by(self.common()) {
            let wide = self.common().min(columns - first);
            let tasks = wide.div_ceil(task);
            // Of a task: its columns, and where its panels lie.
            let of = |i: usize| {
                let strips = task.min(wide - i * task).div_ceil(WIDTH);
                (first + i * task, strips, i * task * self.way.deep(depth))
            };
            let filled = Shared(panels.as_mut_ptr());
            let high = self.way.depth();
            let deep = depth.div_ceil(high);
            pool.run(wide.div_ceil(WIDTH) * deep, &|i, _| {
                let (strip, deep) = (i / deep, i % deep * high..depth.min((i % deep + 1) * high));
                let (column, strips, at) = of(strip * WIDTH / task);
                let strip = strip % (task / WIDTH);
                let high = self.way.deep(deep.len());
                let at = at + (self.way.deep(deep.start) * strips + strip * high) * WIDTH;
                let column = column + strip * WIDTH;
                // SAFETY: each strip of each block has a place of its own within the panels.
                let panel = unsafe { filled.slice(at, high * WIDTH) };
                fill(deep, column..column + WIDTH, self.way.panel(panel));
            });
            let panels: &[f32] = panels;
            let parts = rows.div_ceil(self.most()).max((8 * pool.threads()).div_ceil(tasks));
            let parts = parts.min(heights.div_ceil(8));
            pool.run(tasks * parts, &|i, thread| {
                let ((first, strips, at), part) = (of(i / parts), i % parts);
                let mine = self.part(part, parts);
                // SAFETY: each thread has memory of its own.
                let sums = unsafe { sums.slice(thread * each, strips * mine.len() * WIDTH) };
                let sums = sums.as_chunks_mut::<WIDTH>().0;
                let store = self.storing(&out, 0, first, &finish);
                let mut room = Room::default();
                for deep in self.way.blocks(depth) {
                    let high = self.way.deep(deep.len());
                    let at = at + self.way.deep(deep.start) * strips * WIDTH;
                    let panel = &panels[at..][..high * strips * WIDTH];
                    self.multiply(a, mine.clone(), deep, panel, sums, &mut room, &store);
                }
            });
        }
    }

    /// What writes the sums of a row and a strip of a task whose columns begin with `first`.
    fn storing<'s>(
        &'s self,
        out: &'s Shared<f32>,
        batch: usize,
        first: usize,
        finish: &'s impl Fn(usize, usize, &mut [f32]),
    ) -> impl Fn(usize, usize, &[f32; WIDTH]) + 's {
        move |row, strip, sums| {
            let column = first + strip * WIDTH;
            let wide = WIDTH.min(self.columns - column);
            // SAFETY: tasks write different rows and columns of the result.
            let y = unsafe { out.slice((batch * self.rows + row) * self.columns + column, wide) };
            y.copy_from_slice(&sums[..wide]);
            finish(row, column, y);
        }
    }

    /// Adds the products of rows `mine` of a with a panel, whose rows are `deep`, to `sums` `(strips, rows, WIDTH)`; of
    /// the first panel writes them. After the last, `store(row, strip, sums)` is called: while they are at hand, and
    /// little at a time, so that the result's way to memory costs no waiting.
    fn multiply(
        &self,
        a: Left,
        mine: Range<usize>,
        deep: Range<usize>,
        panel: &[f32],
        sums: &mut [[f32; WIDTH]],
        Room(room): &mut Room,
        store: &impl Fn(usize, usize, &[f32; WIDTH]),
    ) {
        #[cfg(target_arch = "x86_64")]
        match self.way {
            Way::Plain => {}
            Way::Two => return self.multiply_parts::<2>(a, mine, deep, panel, sums, room, store),
            Way::Three => return self.multiply_parts::<3>(a, mine, deep, panel, sums, room, store),
        }
        let (rows, depth, strips) = (self.rows, self.depth, sums.len() / mine.len().max(1));
        for row in mine.clone().step_by(HEIGHT) {
            let high = HEIGHT.min(rows - row);
            let ahead =
                (row + HEIGHT..rows.min(row + 2 * HEIGHT)).map(|r| a.bytes_of(r * depth + deep.start));
            let rows = a.rows(row, high, depth, deep.clone(), room);
            for (strip, b) in panel.as_chunks::<WIDTH>().0.chunks_exact(deep.len()).enumerate() {
                // The next rows come while these are multiplied, some of each beside every strip.
                let part = a.bytes_of(deep.len()).div_ceil(strips);
                ahead.clone().for_each(|at| prefetch(a.bytes, at + strip * part, part));
                let at = strip * mine.len() + row - mine.start;
                tile(rows, b, &mut sums[at..at + HEIGHT], deep.start == 0);
                if deep.end == depth {
                    (0..high).for_each(|i| store(row + i, strip, &sums[at + i]));
                }
            }
        }
    }
}

/// Rows of a as products read them.
#[repr(align(64))]
struct Room([f32; 32 * DEPTH]);

impl Default for Room {
    fn default() -> Room {
        Room([0.0; 32 * DEPTH])
    }
}

/// Asks for memory that will be read: `len` elements from `from` on, which may lie beyond the end.
#[inline(always)]
pub fn prefetch<T>(x: &[T], from: usize, len: usize) {
    #[cfg(target_arch = "x86_64")]
    for at in (from..from + len).step_by((64 / size_of::<T>()).max(1)) {
        use std::arch::x86_64::*;
        // SAFETY: every x86-64 processor has it, and it reads nothing, wherever it points.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(x.as_ptr().wrapping_add(at).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (x, from, len);
}
