//! Products by Intel's AMX: registers that hold a tile of 16 lines of 64 bytes, and one instruction that multiplies 16 × 32
//! numbers of bf16 with 32 × 16 and adds the products to 16 × 16 sums in f32 (Intel 64 and IA-32 Architectures Software
//! Developer's Manual, TDPBF16PS).
//!
//! A number of f32 is the sum of three parts of bf16, each what the ones before it leave over. Products of f32 are sums of
//! products of parts, of which those are left out that are less than what rounding leaves out (Henry et al. 2019,
//! "Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision Computations"):
//!
//! | parts | products | off by some | as |
//! |---|---|---|---|
//! | 1 | 1 | 2^-9 | bf16; enough for weights in few bits |
//! | 2 | 3 | 2^-17 | between f16, of 2^-11, and f32 |
//! | 3 | 6 | 2^-24 | f32 |
//!
//! Operands lie in *blocks* of [`SIDE`] rows by [`SIDE`] numbers (those of the right operand: columns), one block after
//! another along K: the first parts of two tiles, then the second ones, then the third. A line of a left tile has 16 pairs of a row's numbers,
//! each of two that are 16 apart; line `i` of a right tile has pair `i` of each of 16 columns.
#![allow(unsafe_op_in_unsafe_fn)]

use std::arch::asm;
use std::arch::x86_64::*;
use std::sync::OnceLock;

/// Rows and columns of a product, and numbers of a step along K.
pub const SIDE: usize = 32;
/// Bytes of a tile.
pub const TILE: usize = 1024;
/// Bytes of a line of a tile.
pub const LINE: usize = 64;

/// Bytes of a block.
pub const fn block<const PARTS: usize>() -> usize {
    2 * TILE * PARTS
}

/// Whether the processor has AMX for bf16, and the system lets this process use it: a thread's tiles are 8 KB more to
/// keep, which Linux grants on request.
pub fn available() -> bool {
    static GRANTED: OnceLock<bool> = OnceLock::new();
    *GRANTED.get_or_init(|| {
        const TILES: u32 = 1 << 24;
        const BF16: u32 = 1 << 22;
        let has = __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & (TILES | BF16) == TILES | BF16;
        has && grant()
    })
}

#[cfg(target_os = "linux")]
fn grant() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023; // arch/x86/include/uapi/asm/prctl.h
    const XFEATURE_XTILE_DATA: libc::c_long = 18;
    // SAFETY: the call takes two numbers and no memory.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILE_DATA) == 0 }
}

/// Other systems were not tried.
#[cfg(not(target_os = "linux"))]
fn grant() -> bool {
    false
}

/// This thread's tiles, set up for [`product`] while it lives.
pub struct Tiles(());

#[repr(C, align(64))]
struct Setup([u8; 64]);

impl Tiles {
    /// Panics where AMX is not [`available`].
    pub fn new() -> Tiles {
        assert!(available());
        let mut setup = Setup([0; 64]);
        setup.0[0] = 1; // eight tiles: for each its bytes in a line, and its lines
        setup.0[16..32].as_chunks_mut::<2>().0.fill((LINE as u16).to_le_bytes());
        setup.0[48..56].fill(16);
        // SAFETY: the processor has AMX, and 64 bytes are read.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &setup, options(nostack, readonly, preserves_flags)) };
        Tiles(())
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: the processor has AMX; without this each change of threads would save the tiles.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    }
}

/// Steps of a product, for whole blocks or the upper half of a's: parts of a, of b or of both are loaded, and multiplied as
/// soon as a tile is there.
macro_rules! made {
    (load $tile:literal $of:literal $at:literal) => {
        concat!("tileloadd tmm", $tile, ", [{", $of, "} + {line} + ", $at, "]\n")
    };
    (times $sum:literal $a:literal $b:literal) => { concat!("tdpbf16ps tmm", $sum, ", tmm", $a, ", tmm", $b, "\n") };
    (rest half) => { "" };
    (rest whole) => { concat!(made!(times 2 5 6), made!(times 3 5 7)) };
    (lower half $at:literal) => { "" };
    (lower whole $at:literal) => { concat!("tileloadd tmm5, [{a} + {line} + ", $at, " + 1024]\n") };
    (column $at:literal) => { concat!("tileloadd tmm7, [{b} + {line} + ", $at, " + 1024]\n") };
    ($rows:ident both $a:literal $b:literal) => {
        concat!(
            made!(load 6 "b" $b), made!(load 4 "a" $a), made!(times 0 4 6), made!(column $b), made!(times 1 4 7),
            made!(lower $rows $a), made!(rest $rows)
        )
    };
    ($rows:ident a $at:literal) => {
        concat!(
            made!(load 4 "a" $at), made!(times 0 4 6), made!(times 1 4 7), made!(lower $rows $at), made!(rest $rows)
        )
    };
    ($rows:ident b $at:literal) => {
        concat!(made!(load 6 "b" $at), made!(times 0 4 6), made!(column $at), made!(times 1 4 7), made!(rest $rows))
    };
    (next $bytes:literal) => { concat!("add {a}, ", $bytes, "\nadd {b}, ", $bytes, "\n") };
    // By parts, a's by b's: 1·1; 2·1, 1·1, 1·2; 3·1, 2·1, 2·2, 1·2, 1·3, 1·1, where the smallest come first.
    ($rows:ident 1) => { concat!(made!($rows both 0 0), made!(next 2048)) };
    ($rows:ident 2) => {
        concat!(made!($rows both 2048 0), made!($rows a 0), made!($rows b 2048), made!(next 4096))
    };
    ($rows:ident 3) => {
        concat!(
            made!($rows both 4096 0), made!($rows a 2048), made!($rows b 2048), made!($rows a 0),
            made!($rows b 4096), made!($rows b 0), made!(next 6144)
        )
    };
}

/// The sums come to tiles 0 to 3 (of half a block to 0 and 1), `$step` is made for each block, and the sums go back.
macro_rules! sums {
    ($a:ident, $b:ident, $count:ident, $c:ident, $stride:ident, $fresh:ident, [$($sum:literal $at:literal)*], $step:expr) => {
        asm!(
            "test {fresh:e}, {fresh:e}",
            "jz 2f",
            $(concat!("tilezero tmm", $sum),)*
            "jmp 3f",
            "2:",
            $(concat!("tileloadd tmm", $sum, ", [", $at, " + {stride}]"),)*
            "3:",
            $step,
            "dec {count}",
            "jnz 3b",
            $(concat!("tilestored [", $at, " + {stride}], tmm", $sum),)*
            a = inout(reg) $a => _,
            b = inout(reg) $b => _,
            count = inout(reg) $count => _,
            fresh = in(reg) $fresh as u32,
            c = in(reg) $c,
            low = in(reg) $c.wrapping_byte_add(16 * $stride),
            stride = in(reg) $stride,
            line = in(reg) LINE,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        )
    };
}

/// Adds the products of `steps` blocks of a and of b to sums, or writes them where `fresh`. The sums are [`SIDE`] rows of
/// [`SIDE`] numbers, `stride` bytes apart; of `half` a block the first 16 rows.
///
/// # Safety
/// [`Tiles`] of this thread are alive, `steps` is not 0, and memory is there as said.
#[inline]
pub unsafe fn product<const PARTS: usize>(
    a: *const u8,
    b: *const u8,
    steps: usize,
    c: *mut f32,
    stride: usize,
    [half, fresh]: [bool; 2],
) {
    debug_assert!(steps > 0);
    macro_rules! run {
        (whole $parts:tt) => {
            sums!(a, b, steps, c, stride, fresh, ["0" "{c}" "1" "{c} + 64" "2" "{low}" "3" "{low} + 64"], made!(whole $parts))
        };
        (half $parts:tt) => {
            sums!(a, b, steps, c, stride, fresh, ["0" "{c}" "1" "{c} + 64"], concat!(made!(half $parts), "/* {low} */"))
        };
    }
    match (PARTS, half) {
        (1, false) => run!(whole 1),
        (1, true) => run!(half 1),
        (2, false) => run!(whole 2),
        (2, true) => run!(half 2),
        (3, false) => run!(whole 3),
        (3, true) => run!(half 3),
        _ => unreachable!("a number has up to three parts"),
    }
}

/// Half of the last bit that bf16 has of an f32; an f32's bits that bf16 has.
const HALF: i32 = 0x8000;
const UPPER: i32 = 0xffff_0000_u32 as i32;

/// A vector's parts as bits of f32, of which the lower halves are to be ignored.
#[inline(always)]
unsafe fn parts<const PARTS: usize, S: Source>(x: __m512) -> [__m512i; PARTS] {
    let mut rest = x;
    let mut all = [_mm512_setzero_si512(); PARTS];
    for i in 0..PARTS {
        // What is in the end left over of a number of few bits needs no rounding.
        all[i] = _mm512_castps_si512(rest);
        if i == 0 || !S::WHOLE {
            all[i] = _mm512_add_epi32(all[i], _mm512_set1_epi32(HALF));
        }
        if i + 1 < PARTS {
            let part = _mm512_castsi512_ps(_mm512_and_si512(all[i], _mm512_set1_epi32(UPPER)));
            rest = _mm512_sub_ps(rest, part);
        }
    }
    all
}

/// Numbers that operands are made of, sixteen at a time.
pub trait Source: Copy {
    /// Whether two parts hold the number whole.
    const WHOLE: bool;
    /// Those of sixteen that `some` has a bit for, zeros elsewhere.
    ///
    /// # Safety
    /// The processor has AVX-512 F, BW and VL, and memory is there for the bits.
    unsafe fn load(at: *const Self, some: u16) -> __m512;
}

impl Source for f32 {
    const WHOLE: bool = false;
    #[inline(always)]
    unsafe fn load(at: *const f32, some: u16) -> __m512 {
        _mm512_maskz_loadu_ps(some, at)
    }
}

impl Source for half::f16 {
    const WHOLE: bool = true;
    #[inline(always)]
    unsafe fn load(at: *const half::f16, some: u16) -> __m512 {
        _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(some, at.cast()))
    }
}

impl Source for half::bf16 {
    const WHOLE: bool = true;
    #[inline(always)]
    unsafe fn load(at: *const half::bf16, some: u16) -> __m512 {
        let x = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(some, at.cast()));
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(x))
    }
}

/// Writes line `row` (below [`SIDE`]) of a left operand's blocks: `count` numbers along K, filled up with zeros to whole
/// blocks.
///
/// # Safety
/// The processor has AVX-512 F, BW and VL; numbers and blocks are there.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub unsafe fn left_row<const PARTS: usize, S: Source>(x: *const S, count: usize, row: usize, to: *mut u8) {
    let to = to.add(row / 16 * TILE + row % 16 * LINE);
    for step in 0..count.div_ceil(SIDE) {
        let (x, rest) = (x.add(step * SIDE), count - step * SIDE);
        let some = if rest < SIDE { (1u32 << rest) - 1 } else { u32::MAX };
        let both = [S::load(x, some as u16), S::load(x.wrapping_add(16), (some >> 16) as u16)];
        store_pairs::<PARTS, S>(both, to.add(step * block::<PARTS>()));
    }
}

/// Writes a right operand's blocks of `(K, SIDE)`, filled up with zeros to whole blocks.
///
/// # Safety
/// The processor has AVX-512 F and BW, and the blocks are there.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub unsafe fn right_columns<const PARTS: usize>(x: &[[f32; SIDE]], to: *mut u8) {
    for (step, x) in x.chunks(SIDE).enumerate() {
        let to = to.add(step * block::<PARTS>());
        for pair in 0..16 {
            for half in 0..2 {
                let load = |i: usize| match x.get(i) {
                    Some(x) => _mm512_loadu_ps(x.as_ptr().add(16 * half)),
                    None => _mm512_setzero_ps(),
                };
                let both = [load(pair), load(pair + 16)];
                store_pairs::<PARTS, f32>(both, to.add(half * TILE + pair * LINE));
            }
        }
    }
}

/// Makes a left operand of [`SIDE`] rows a right one whose columns they are, in place.
///
/// # Safety
/// The processor has AVX-512 F, and there are so many blocks.
#[target_feature(enable = "avx512f")]
pub unsafe fn turn<const PARTS: usize>(blocks: *mut u8, steps: usize) {
    for tile in 0..2 * PARTS * steps {
        let at = blocks.add(tile * TILE);
        let lines = std::array::from_fn(|i| _mm512_loadu_ps(at.add(i * LINE).cast()));
        for (i, line) in turned(lines).into_iter().enumerate() {
            _mm512_storeu_ps(at.add(i * LINE).cast(), line);
        }
    }
}

/// Sixteen vectors, of which the first has the first numbers of all, and so on.
#[inline(always)]
pub unsafe fn turned(x: [__m512; 16]) -> [__m512; 16] {
    // Pairs of lines, then fours of them, then quarters of lines change places.
    let mut v = [_mm512_setzero_ps(); 16];
    for i in (0..16).step_by(4) {
        let [a, b, c, d] = [x[i], x[i + 1], x[i + 2], x[i + 3]];
        let (ab, cd) = (_mm512_unpacklo_ps(a, b), _mm512_unpacklo_ps(c, d));
        let (ef, gh) = (_mm512_unpackhi_ps(a, b), _mm512_unpackhi_ps(c, d));
        v[i] = _mm512_shuffle_ps::<0x44>(ab, cd);
        v[i + 1] = _mm512_shuffle_ps::<0xee>(ab, cd);
        v[i + 2] = _mm512_shuffle_ps::<0x44>(ef, gh);
        v[i + 3] = _mm512_shuffle_ps::<0xee>(ef, gh);
    }
    let mut y = v;
    for i in 0..4 {
        let [a, b, c, d] = [v[i], v[i + 4], v[i + 8], v[i + 12]];
        let (ab, cd) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0x88>(c, d));
        let (ef, gh) = (_mm512_shuffle_f32x4::<0xdd>(a, b), _mm512_shuffle_f32x4::<0xdd>(c, d));
        y[i] = _mm512_shuffle_f32x4::<0x88>(ab, cd);
        y[i + 8] = _mm512_shuffle_f32x4::<0xdd>(ab, cd);
        y[i + 4] = _mm512_shuffle_f32x4::<0x88>(ef, gh);
        y[i + 12] = _mm512_shuffle_f32x4::<0xdd>(ef, gh);
    }
    y
}

/// Writes a line of a tile, and of its lower part's: number `i` of one vector beside number `i` of the other. Of a left
/// operand they are 16 apart along K; so of a right one, where they are those of 16 columns.
///
/// # Safety
/// The processor has AVX-512 F and BW, and the tile's parts are there.
#[inline(always)]
pub unsafe fn store_pairs<const PARTS: usize, S: Source>([a, b]: [__m512; 2], to: *mut u8) {
    let (a, b) = (parts::<PARTS, S>(a), parts::<PARTS, S>(b));
    for part in 0..PARTS {
        let a = _mm512_srli_epi32::<16>(a[part]);
        // a | b & UPPER
        let both = _mm512_ternarylogic_epi32::<0xf8>(a, b[part], _mm512_set1_epi32(UPPER));
        _mm512_storeu_si512(to.add(part * 2 * TILE).cast(), both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(align(64))]
    #[derive(Clone)]
    struct Line([u8; LINE]);

    fn blocks(bytes: usize) -> Vec<Line> {
        vec![Line([0xff; LINE]); bytes / LINE] // what is not written is no number
    }

    fn same<const PARTS: usize>(rows: usize, depth: usize, tolerance: f64) {
        let mut next = crate::quant::tests::random(7);
        let mut number = || (next() as f32 / (1u32 << 30) as f32 - 1.0) * 3.0;
        let a: Vec<f32> = (0..rows * depth).map(|_| number()).collect();
        let b: Vec<[f32; SIDE]> = (0..depth).map(|_| std::array::from_fn(|_| number())).collect();
        let before: Vec<[f32; SIDE]> = (0..rows).map(|_| std::array::from_fn(|_| number())).collect();
        let steps = depth.div_ceil(SIDE);
        let (mut left, mut right) = (blocks(steps * block::<PARTS>()), blocks(steps * block::<PARTS>()));
        for fresh in [true, false] {
            let mut sums = before.clone();
            sums.resize(SIDE, [f32::NAN; SIDE]);
            // SAFETY: the processor has AMX, as the caller asks, and so AVX-512; blocks and sums are there.
            unsafe {
                for row in 0..SIDE {
                    let x = if row < rows { &a[row * depth..][..depth] } else { &vec![0.0; depth][..] };
                    left_row::<PARTS, f32>(x.as_ptr(), depth, row, left.as_mut_ptr().cast());
                }
                right_columns::<PARTS>(&b, right.as_mut_ptr().cast());
                let mut turned = right.clone();
                for row in 0..SIDE {
                    let column: Vec<f32> = b.iter().map(|b| b[row]).collect();
                    left_row::<PARTS, f32>(column.as_ptr(), depth, row, turned.as_mut_ptr().cast());
                }
                turn::<PARTS>(turned.as_mut_ptr().cast(), steps);
                assert!(turned.iter().zip(&right).all(|(a, b)| a.0 == b.0));
                let _tiles = Tiles::new();
                let (a, b) = (left.as_ptr().cast(), right.as_ptr().cast());
                product::<PARTS>(a, b, steps, sums.as_mut_ptr().cast(), 4 * SIDE, [rows <= 16, fresh]);
            }
            for i in 0..rows {
                for j in 0..SIDE {
                    let products = (0..depth).map(|k| a[i * depth + k] as f64 * b[k][j] as f64);
                    let (sum, size) = products.fold((0.0, 0.0), |(s, z), p| (s + p, z + p * p));
                    let right = sum + if fresh { 0.0 } else { before[i][j] as f64 };
                    let off = (sums[i][j] as f64 - right).abs() / (size.sqrt() + 3.0);
                    assert!(off < tolerance, "{PARTS} parts of {depth}, {i} {j}: {} {right}", sums[i][j]);
                }
            }
        }
    }

    #[test]
    fn products_are_those_of_their_parts() {
        if !available() {
            return;
        }
        for (rows, depth) in [(32, 32), (17, 64), (16, 300), (5, 33), (32, 1)] {
            same::<1>(rows, depth, 1.0 / 64.0);
            same::<2>(rows, depth, 1.0 / 16384.0);
            same::<3>(rows, depth, 1.0 / (1 << 20) as f64);
        }
    }

    #[test]
    fn halves_are_held_whole() {
        if !available() {
            return;
        }
        let (mut as_halves, mut as_floats) = (blocks(block::<2>()), blocks(block::<2>()));
        for first in (0..0x7c00u16).step_by(SIDE) {
            let halves: [half::f16; SIDE] = std::array::from_fn(|i| half::f16::from_bits(first + i as u16));
            let floats = halves.map(|x| -x.to_f32());
            // SAFETY: the processor has AVX-512; numbers and blocks are there.
            unsafe {
                left_row::<2, _>(halves.as_ptr(), SIDE, 3, as_halves.as_mut_ptr().cast());
                left_row::<2, _>(floats.as_ptr(), SIDE, 3, as_floats.as_mut_ptr().cast());
            }
            let of = |lines: &[Line], part: usize, i: usize| {
                let at = i % 16 * 4 + i / 16 * 2;
                let bits = [0, 0, lines[part * 32 + 3].0[at], lines[part * 32 + 3].0[at + 1]];
                f32::from_le_bytes(bits)
            };
            for i in 0..SIDE {
                assert_eq!(of(&as_halves, 0, i) + of(&as_halves, 1, i), halves[i].to_f32());
                assert_eq!(of(&as_floats, 0, i) + of(&as_floats, 1, i), floats[i]);
            }
        }
    }

    #[test]
    fn what_is_no_number_stays_none() {
        if !available() {
            return;
        }
        let (mut left, mut right) = (blocks(block::<2>()), blocks(block::<2>()));
        let (mut sums, mut x) = ([[0f32; SIDE]; SIDE], [1.0; SIDE]);
        x[3] = f32::NAN;
        // SAFETY: as above.
        unsafe {
            for row in 0..SIDE {
                let x = if row == 4 { x } else { [1.0; SIDE] };
                left_row::<2, f32>(x.as_ptr(), SIDE, row, left.as_mut_ptr().cast());
            }
            right_columns::<2>(&[[1.0; SIDE]; SIDE], right.as_mut_ptr().cast());
            let _tiles = Tiles::new();
            let (a, b) = (left.as_ptr().cast(), right.as_ptr().cast());
            product::<2>(a, b, 1, sums.as_mut_ptr().cast(), 4 * SIDE, [false, true]);
        }
        for (i, sums) in sums.iter().enumerate() {
            assert!(
                sums.iter().all(|s| if i == 4 { s.is_nan() } else { *s == SIDE as f32 }),
                "{i}: {sums:?}"
            );
        }
    }
}
