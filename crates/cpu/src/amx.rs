//! Products by Intel's AMX: registers that hold a tile of 16 lines of 64 bytes, and one instruction that multiplies 16 × 32
//! numbers of bf16 with 32 × 16 and adds the products to 16 × 16 sums in f32 (Intel 64 and IA-32 Architectures Software
//! Developer's Manual, TDPBF16PS).
//!
//! A number of f32 is an upper part of bf16 and a lower one, but for 2^-17 of it. With both parts three products are summed,
//! as what two lower parts multiply to is less than is left out already: so a product of f32 is off by some 2^-17, some
//! fifty times as much as if it were rounded, and a hundredth of what products of f16 would be. With the upper part alone
//! it is off by some 2^-9: enough for weights in few bits.
//!
//! Operands lie in *blocks* of [`SIDE`] rows by [`SIDE`] numbers (those of the right operand: columns), one block after
//! another along K: the upper parts of two tiles, and the lower parts. The right operand's tiles hold two numbers of a column
//! side by side.
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

/// The sums come to tiles 0 to 3 (of half a block to 0 and 1), `$steps` are made, and the sums go back.
macro_rules! sums {
    ($a:ident, $b:ident, $count:ident, $c:ident, $stride:ident, $fresh:ident, [$($sum:literal $at:literal)*], $($step:literal)*) => {
        asm!(
            "test {fresh:e}, {fresh:e}",
            "jz 2f",
            $(concat!("tilezero tmm", $sum),)*
            "jmp 3f",
            "2:",
            $(concat!("tileloadd tmm", $sum, ", [", $at, " + {stride}]"),)*
            "3:",
            $($step,)*
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
    match (PARTS, half) {
        (1, false) => sums!(a, b, steps, c, stride, fresh,
            ["0" "{c}" "1" "{c} + 64" "2" "{low}" "3" "{low} + 64"],
            "tileloadd tmm6, [{b} + {line}]"
            "tileloadd tmm4, [{a} + {line}]"
            "tdpbf16ps tmm0, tmm4, tmm6"
            "tileloadd tmm7, [{b} + {line} + 1024]"
            "tdpbf16ps tmm1, tmm4, tmm7"
            "tileloadd tmm5, [{a} + {line} + 1024]"
            "tdpbf16ps tmm2, tmm5, tmm6"
            "tdpbf16ps tmm3, tmm5, tmm7"
            "add {a}, 2048"
            "add {b}, 2048"
        ),
        (1, true) => sums!(a, b, steps, c, stride, fresh,
            ["0" "{c}" "1" "{c} + 64"],
            "tileloadd tmm4, [{a} + {line}]"
            "tileloadd tmm6, [{b} + {line}]"
            "tdpbf16ps tmm0, tmm4, tmm6"
            "tileloadd tmm7, [{b} + {line} + 1024]"
            "tdpbf16ps tmm1, tmm4, tmm7"
            "add {a}, 2048"
            "add {b}, 2048"
            "/* {low} */"
        ),
        (2, false) => sums!(a, b, steps, c, stride, fresh,
            ["0" "{c}" "1" "{c} + 64" "2" "{low}" "3" "{low} + 64"],
            // lower parts of a by upper ones of b
            "tileloadd tmm6, [{b} + {line}]"
            "tileloadd tmm4, [{a} + {line} + 2048]"
            "tdpbf16ps tmm0, tmm4, tmm6"
            "tileloadd tmm7, [{b} + {line} + 1024]"
            "tdpbf16ps tmm1, tmm4, tmm7"
            "tileloadd tmm5, [{a} + {line} + 3072]"
            "tdpbf16ps tmm2, tmm5, tmm6"
            "tdpbf16ps tmm3, tmm5, tmm7"
            // upper by upper
            "tileloadd tmm4, [{a} + {line}]"
            "tdpbf16ps tmm0, tmm4, tmm6"
            "tdpbf16ps tmm1, tmm4, tmm7"
            "tileloadd tmm5, [{a} + {line} + 1024]"
            "tdpbf16ps tmm2, tmm5, tmm6"
            "tdpbf16ps tmm3, tmm5, tmm7"
            // upper by lower
            "tileloadd tmm6, [{b} + {line} + 2048]"
            "tdpbf16ps tmm0, tmm4, tmm6"
            "tileloadd tmm7, [{b} + {line} + 3072]"
            "tdpbf16ps tmm1, tmm4, tmm7"
            "tdpbf16ps tmm2, tmm5, tmm6"
            "tdpbf16ps tmm3, tmm5, tmm7"
            "add {a}, 4096"
            "add {b}, 4096"
        ),
        _ => sums!(a, b, steps, c, stride, fresh,
            ["0" "{c}" "1" "{c} + 64"],
            "tileloadd tmm4, [{a} + {line}]"
            "tileloadd tmm6, [{b} + {line}]"
            "tdpbf16ps tmm0, tmm4, tmm6"
            "tileloadd tmm7, [{b} + {line} + 1024]"
            "tdpbf16ps tmm1, tmm4, tmm7"
            "tileloadd tmm5, [{a} + {line} + 2048]"
            "tdpbf16ps tmm0, tmm5, tmm6"
            "tdpbf16ps tmm1, tmm5, tmm7"
            "tileloadd tmm6, [{b} + {line} + 2048]"
            "tdpbf16ps tmm0, tmm4, tmm6"
            "tileloadd tmm7, [{b} + {line} + 3072]"
            "tdpbf16ps tmm1, tmm4, tmm7"
            "add {a}, 4096"
            "add {b}, 4096"
            "/* {low} */"
        ),
    }
}

/// Half of the last bit that bf16 has of an f32; an f32's bits that bf16 has.
const HALF: i32 = 0x8000;
const UPPER: i32 = 0xffff_0000_u32 as i32;

/// A vector's parts as bits of f32, of which the lower halves are to be ignored.
#[inline(always)]
unsafe fn parts<const PARTS: usize>(x: __m512) -> [__m512i; PARTS] {
    let rounded = |x: __m512| _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(HALF));
    let upper = rounded(x);
    let mut all = [upper; PARTS];
    if PARTS == 2 {
        let upper = _mm512_castsi512_ps(_mm512_and_si512(upper, _mm512_set1_epi32(UPPER)));
        all[1] = rounded(_mm512_sub_ps(x, upper));
    }
    all
}

/// Writes line `row` (below [`SIDE`]) of a left operand's blocks: numbers along K, filled up with zeros to whole blocks.
///
/// # Safety
/// The processor has AVX-512 F and BW, and the blocks are there.
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn pack_row<const PARTS: usize>(x: &[f32], row: usize, to: *mut u8) {
    let to = to.add(row / 16 * TILE + row % 16 * LINE);
    // The upper words of two vectors.
    let words: [u16; 32] = std::array::from_fn(|i| 2 * i as u16 + 1);
    let words = _mm512_loadu_si512(words.as_ptr().cast());
    for (step, x) in x.chunks(SIDE).enumerate() {
        let some = (1u64 << x.len()) - 1;
        let a = _mm512_maskz_loadu_ps(some as u16, x.as_ptr());
        let b = _mm512_maskz_loadu_ps((some >> 16) as u16, x.as_ptr().wrapping_add(16));
        let (a, b) = (parts::<PARTS>(a), parts::<PARTS>(b));
        for part in 0..PARTS {
            let to = to.add(step * block::<PARTS>() + part * 2 * TILE);
            _mm512_storeu_si512(to.cast(), _mm512_permutex2var_epi16(a[part], words, b[part]));
        }
    }
}

/// Writes a right operand's blocks of `(K, SIDE)`, filled up with zeros to whole blocks.
///
/// # Safety
/// The processor has AVX-512 F and BW, and the blocks are there.
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn pack_columns<const PARTS: usize>(x: &[[f32; SIDE]], to: *mut u8) {
    for (pair, x) in x.chunks(2).enumerate() {
        let to = to.add(pair / 16 * block::<PARTS>() + pair % 16 * LINE);
        for half in 0..2 {
            let load = |i: usize| match x.get(i) {
                Some(x) => _mm512_loadu_ps(x.as_ptr().add(16 * half)),
                None => _mm512_setzero_ps(),
            };
            store_pair::<PARTS>([load(0), load(1)], to.add(half * TILE));
        }
    }
    let pairs = x.len().div_ceil(2);
    for pair in pairs..pairs.next_multiple_of(16) {
        let to = to.add(pair / 16 * block::<PARTS>() + pair % 16 * LINE);
        (0..2 * PARTS).for_each(|i| to.add(i * TILE).write_bytes(0, LINE));
    }
}

/// Writes the line of a right operand's tile that has two numbers of each of 16 columns.
///
/// # Safety
/// The processor has AVX-512 F and BW, and the tile's parts are there.
#[inline(always)]
pub unsafe fn store_pair<const PARTS: usize>([a, b]: [__m512; 2], to: *mut u8) {
    let (a, b) = (parts::<PARTS>(a), parts::<PARTS>(b));
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
                    pack_row::<PARTS>(x, row, left.as_mut_ptr().cast());
                }
                pack_columns::<PARTS>(&b, right.as_mut_ptr().cast());
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
            (0..SIDE).for_each(|row| pack_row::<2>(&[1.0; SIDE], row, left.as_mut_ptr().cast()));
            pack_row::<2>(&x, 4, left.as_mut_ptr().cast());
            pack_columns::<2>(&[[1.0; SIDE]; SIDE], right.as_mut_ptr().cast());
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
