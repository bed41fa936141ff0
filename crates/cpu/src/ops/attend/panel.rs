//! The one product in attention, for scores and for sums alike: a few rows of f32 times a page as the cache keeps it.
//!
//! Scores are `queries (R, D) · keys (D, PAGE)` and sums `weights (R, PAGE) · values (PAGE, D)`. Numbers of the page
//! are converted in registers, once for all rows of a block.

use crate::isa::{Isa, isa};
use crate::kv::{GROUP, Head, PAGE, Side};
use half::f16;
use hob_graph::DType;

/// Rows that share each number converted, at most. With more rows a page is better decoded once to f32.
pub const SHARED: usize = 8;

/// Whether products read the cache's formats; elsewhere pages are decoded to f32 first.
pub fn direct() -> bool {
    cfg!(target_arch = "x86_64") && isa() > Isa::Portable
}

/// `c (R, N) = c · keep + scale · a (R, M) · b (M, N)`, all but `b` in f32.
#[derive(Clone, Copy)]
pub struct Panel<'a> {
    /// `(R, M)`, rows `a_step` apart
    pub a: &'a [f32],
    /// from row to row of `a`
    pub a_step: usize,
    /// `(M, N)`: M rows of N numbers, N a multiple of [`LANES`], in `dtype`, without scales
    pub b: &'a [u8],
    /// bytes from row to row of `b`
    pub b_step: usize,
    /// how `b` is kept; of the formats in groups, their whole numbers
    pub dtype: DType,
    /// M
    pub depth: usize,
    /// N
    pub width: usize,
    /// R
    pub rows: usize,
    /// what `c` is multiplied by first, one a row; none is 1
    pub keep: Option<&'a [f32]>,
    /// of each column, in f16; none is 1
    pub scale: Option<&'a [u8]>,
    /// from row to row of `c`
    pub c_step: usize,
    /// what is read after `b`, as long as that, to be fetched in order while this is computed; or empty
    pub next: &'a [u8],
}

/// Numbers of a vector; on smaller machines it is several registers.
pub const LANES: usize = 16;

/// Bytes that memory is fetched by.
const LINE: usize = 64;

/// How far ahead what is needed soon is asked for, in bytes.
const NEAR: usize = 1024;

/// [`LANES`] numbers at a time.
pub trait Lanes: Copy {
    /// Rows times vectors of a block whose sums fit the registers, for `rows` rows: how many rows and vectors.
    fn block(rows: usize) -> (usize, usize);
    /// All the same.
    unsafe fn splat(x: f32) -> Self;
    /// Reads f32.
    unsafe fn load(p: *const f32) -> Self;
    /// Writes f32.
    unsafe fn store(self, p: *mut f32);
    /// `self + a · b`
    unsafe fn add_product(self, a: Self, b: Self) -> Self;
    /// `self · b`
    unsafe fn times(self, b: Self) -> Self;
    /// `self + b`
    unsafe fn plus(self, b: Self) -> Self;
    /// The larger of each two.
    unsafe fn most(self, b: Self) -> Self;
    /// The largest of all.
    unsafe fn largest(self) -> f32;
    /// All added up.
    unsafe fn sum(self) -> f32;
    /// e^x of numbers up to 0 within 2 units in the last place; 0 below -87.3.
    unsafe fn exp(self) -> Self;
    /// 2^x of numbers up to 0, within 3 units in the last place.
    #[inline(always)]
    unsafe fn exp2(self) -> Self {
        // SAFETY: the processor has what the vectors need.
        unsafe { self.times(Self::splat(std::f32::consts::LN_2)).exp() }
    }
    /// Reads f16.
    unsafe fn load_f16(p: *const u8) -> Self;
    /// Reads signed bytes.
    unsafe fn load_i8(p: *const u8) -> Self;
    /// Reads 4 bits each, less 8: the low ones of 8 bytes, then the high ones.
    unsafe fn load_i4(p: *const u8) -> Self;
    /// Asks for a line of memory that is needed soon, or later.
    fn fetch<const SOON: bool>(p: *const u8);
}

/// How numbers of a page are read.
pub trait Form {
    /// Bytes of [`LANES`] numbers.
    const BYTES: usize;
    /// Reads [`LANES`] numbers.
    unsafe fn load<L: Lanes>(p: *const u8) -> L;
}

macro_rules! form {
    ($name:ident, $bytes:expr, $p:ident => $load:expr) => {
        pub struct $name;
        impl Form for $name {
            const BYTES: usize = $bytes;
            #[inline(always)]
            unsafe fn load<L: Lanes>($p: *const u8) -> L {
                // SAFETY: as the caller promises.
                unsafe { $load }
            }
        }
    };
}
form!(Floats, 4 * LANES, p => L::load(p.cast()));
form!(Halves, 2 * LANES, p => L::load_f16(p));
form!(Bytes, LANES, p => L::load_i8(p));
form!(Nibbles, LANES / 2, p => L::load_i4(p));

/// Computes `p` into `c (R, N)`.
pub fn run(p: &Panel, c: &mut [f32]) {
    let row = p.width / LANES
        * match p.dtype {
            DType::F32 => Floats::BYTES,
            DType::F16 => Halves::BYTES,
            DType::Q8_0 => Bytes::BYTES,
            DType::Q4_0 => Nibbles::BYTES,
            other => unreachable!("no cache is kept in {other}"),
        };
    if p.rows == 0 || p.depth == 0 {
        return;
    }
    assert!(p.width.is_multiple_of(LANES) && (p.depth - 1) * p.b_step + row <= p.b.len());
    assert!((p.rows - 1) * p.a_step + p.depth <= p.a.len() && (p.rows - 1) * p.c_step + p.width <= c.len());
    assert!(p.keep.is_none_or(|k| k.len() >= p.rows) && p.scale.is_none_or(|s| s.len() >= 2 * p.width));
    // SAFETY: the slices are as long as the assertions say, and the processor has what is called.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        match isa() {
            Isa::Avx512 | Isa::Amx => return super::x86::avx512(p, c.as_mut_ptr()),
            set if set >= Isa::Avx2 => return super::x86::avx2(p, c.as_mut_ptr()),
            _ => {}
        }
        assert!(p.dtype == DType::F32, "pages are decoded for portable kernels");
        blocks::<Plain, Floats>(p, c.as_mut_ptr());
    }
}

/// All blocks of a product.
///
/// # Safety
/// As asserted by [`run`], and the processor has what `L` needs.
#[inline(always)]
pub unsafe fn blocks<L: Lanes, F: Form>(p: &Panel, c: *mut f32) {
    let (most, wide) = L::block(p.rows);
    let mut row = 0;
    while row < p.rows {
        let rows = (p.rows - row).min(most);
        let mut vector = 0;
        while vector < p.width / LANES {
            let left = p.width / LANES - vector;
            let vectors = [wide, 2, 1].into_iter().find(|&w| w <= left.min(wide)).unwrap_or(1);
            // SAFETY: the block lies within the product; what is called has as many rows and vectors as counted.
            unsafe {
                macro_rules! by_size {
                    ($($r:literal $w:literal)*) => {
                        match (rows, vectors) {
                            $(($r, $w) => block::<L, F, $r, $w>(p, c, row, vector),)*
                            _ => unreachable!("blocks have 1 to 8 rows of 1, 2 or 4 vectors"),
                        }
                    };
                }
                by_size!(1 1 2 1 3 1 4 1 5 1 6 1 7 1 8 1 1 2 2 2 3 2 4 2 5 2 6 2 7 2 8 2 1 4 2 4 3 4 4 4 5 4 6 4)
            }
            vector += vectors;
        }
        row += rows;
    }
}

/// R rows by W vectors.
#[inline(always)]
unsafe fn block<L: Lanes, F: Form, const R: usize, const W: usize>(
    p: &Panel,
    c: *mut f32,
    row: usize,
    vector: usize,
) {
    // SAFETY: the caller's block lies within the product.
    unsafe {
        let a: [*const f32; R] = std::array::from_fn(|r| p.a.as_ptr().add((row + r) * p.a_step));
        let first = vector * F::BYTES;
        let b = p.b.as_ptr().add(first);
        // The first rows fetch, each block its part.
        let fetch = row == 0 && !p.next.is_empty();
        let next = p.next.as_ptr().wrapping_add(vector * p.depth * F::BYTES);
        let mut sums = [[L::splat(0.0); W]; R];
        for i in 0..p.depth {
            let at = i * p.b_step;
            if fetch {
                for line in 0..(W * F::BYTES).div_ceil(LINE) {
                    L::fetch::<false>(next.wrapping_add(i * W * F::BYTES + line * LINE));
                    L::fetch::<true>(b.wrapping_add(at + NEAR + line * LINE));
                }
            }
            // Either order multiplies each with each; fewer registers are taken by what is first.
            if R < 2 * W {
                let mut x = [L::splat(0.0); R];
                for r in 0..R {
                    x[r] = L::splat(*a[r].add(i));
                }
                for w in 0..W {
                    let number = F::load::<L>(b.add(at + w * F::BYTES));
                    for r in 0..R {
                        sums[r][w] = sums[r][w].add_product(x[r], number);
                    }
                }
                continue;
            }
            let mut numbers = [L::splat(0.0); W];
            for w in 0..W {
                numbers[w] = F::load::<L>(b.add(at + w * F::BYTES));
            }
            for r in 0..R {
                let x = L::splat(*a[r].add(i));
                for w in 0..W {
                    sums[r][w] = sums[r][w].add_product(x, numbers[w]);
                }
            }
        }
        for w in 0..W {
            let column = (vector + w) * LANES;
            let scale = p.scale.map(|s| L::load_f16(s.as_ptr().add(2 * column)));
            for r in 0..R {
                let to = c.add((row + r) * p.c_step + column);
                let mut old = L::load(to);
                if let Some(keep) = p.keep {
                    old = old.times(L::splat(keep[row + r]));
                }
                match scale {
                    Some(scale) => old.add_product(sums[r][w], scale),
                    None => old.add_product(sums[r][w], L::splat(1.0)),
                }
                .store(to);
            }
        }
    }
}

/// Vectors of any processor.
#[derive(Clone, Copy)]
pub struct Plain([f32; LANES]);

impl Lanes for Plain {
    fn block(_: usize) -> (usize, usize) {
        (4, 1)
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Plain([x; LANES])
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller has so many numbers there.
        Plain(unsafe { p.cast::<[f32; LANES]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: as above.
        unsafe { p.cast::<[f32; LANES]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn add_product(mut self, a: Self, b: Self) -> Self {
        for i in 0..LANES {
            self.0[i] = crate::isa::fma::<{ cfg!(target_arch = "aarch64") }>(a.0[i], b.0[i], self.0[i]);
        }
        self
    }
    #[inline(always)]
    unsafe fn times(mut self, b: Self) -> Self {
        self.0.iter_mut().zip(b.0).for_each(|(x, b)| *x *= b);
        self
    }
    #[inline(always)]
    unsafe fn plus(mut self, b: Self) -> Self {
        self.0.iter_mut().zip(b.0).for_each(|(x, b)| *x += b);
        self
    }
    #[inline(always)]
    unsafe fn most(mut self, b: Self) -> Self {
        self.0.iter_mut().zip(b.0).for_each(|(x, b)| *x = if b > *x { b } else { *x });
        self
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        self.0.iter().fold(f32::NEG_INFINITY, |m, x| m.max(*x))
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        self.0.iter().sum()
    }
    #[inline(always)]
    unsafe fn exp(self) -> Self {
        Plain(self.0.map(crate::math::exp))
    }
    unsafe fn load_f16(p: *const u8) -> Self {
        // SAFETY: the caller has so many numbers there.
        let bytes = unsafe { p.cast::<[[u8; 2]; LANES]>().read() };
        Plain(bytes.map(|b| f16::from_le_bytes(b).to_f32()))
    }
    unsafe fn load_i8(p: *const u8) -> Self {
        // SAFETY: as above.
        Plain(unsafe { p.cast::<[i8; LANES]>().read() }.map(f32::from))
    }
    unsafe fn load_i4(p: *const u8) -> Self {
        // SAFETY: as above.
        let bytes = unsafe { p.cast::<[u8; LANES / 2]>().read() };
        Plain(std::array::from_fn(|i| ((bytes[i % 8] >> (i / 8 * 4) & 15) as f32) - 8.0))
    }
    #[inline(always)]
    fn fetch<const SOON: bool>(_: *const u8) {}
}

/// Rows of queries against a head's keys: adds `queries (R, D) · keys (D, PAGE)` to `scores (R, PAGE)`.
pub fn scores(queries: &[f32], step: usize, rows: usize, keys: Head, next: &[u8], scores: &mut [f32]) {
    debug_assert!(keys.side == Side::Keys);
    let part = |from: usize, depth, scale| {
        let b_step = keys.row_bytes();
        let here = from * b_step..(from + depth) * b_step;
        let share = |d: usize| next.len() * d / keys.rows;
        Panel {
            a: &queries[from..],
            a_step: step,
            b: &keys.numbers[here],
            b_step,
            dtype: keys.dtype,
            depth,
            width: PAGE,
            rows,
            keep: None,
            scale,
            c_step: PAGE,
            next: &next[share(from)..share(from + depth)],
        }
    };
    match keys.scales() {
        None => run(&part(0, keys.rows, None), scores),
        Some(scales) => {
            for (g, scale) in scales.chunks_exact(2 * PAGE).enumerate() {
                run(&part(g * GROUP, GROUP, Some(scale)), scores);
            }
        }
    }
}

/// Rows of weights by a head's values: `sums (R, D) = sums · keep + weights (R, PAGE) · values (PAGE, D)`, over tokens
/// `seen` of the page. `scaled` is working memory as large as `weights`.
pub fn sums(
    weights: &[f32],
    rows: usize,
    values: Head,
    seen: std::ops::Range<usize>,
    keep: &[f32],
    next: &[u8],
    scaled: &mut [f32],
    sums: &mut [f32],
    step: usize,
) {
    debug_assert!(values.side == Side::Values);
    let b_step = values.row_bytes();
    let part = |from: usize, width| {
        let first = seen.start * b_step + from * b_step / values.columns;
        let here = first..(seen.end - 1) * b_step + (from + width) * b_step / values.columns;
        let share = |column: usize| next.len() * column / values.columns;
        Panel {
            a: &[],
            a_step: PAGE,
            b: &values.numbers[here],
            b_step,
            dtype: values.dtype,
            depth: seen.len(),
            width,
            rows,
            keep: Some(keep),
            scale: None,
            c_step: step,
            next: &next[share(from)..share(from + width)],
        }
    };
    let Some(scales) = values.scales() else {
        return run(&Panel { a: &weights[seen.start..], ..part(0, values.columns) }, sums);
    };
    for (g, scale) in scales.chunks_exact(2 * PAGE).enumerate() {
        // A token's scale goes into its weight, so that the product knows of none.
        scale_rows(&weights[..rows * PAGE], scale, scaled);
        let from = g * GROUP;
        run(&Panel { a: &scaled[seen.start..], ..part(from, GROUP) }, &mut sums[from..]);
    }
}

crate::isa::for_each_isa! {
    /// Each row of `x (R, PAGE)` times scales in f16.
    fn scale_rows(x: &[f32], scale: &[u8], out: &mut [f32]) {
        let mut by = [0.0; PAGE];
        crate::kv::decode_f16(scale, &mut by);
        for (x, out) in x.chunks_exact(PAGE).zip(out.chunks_exact_mut(PAGE)) {
            for i in 0..PAGE {
                out[i] = x[i] * by[i];
            }
        }
    }
}
