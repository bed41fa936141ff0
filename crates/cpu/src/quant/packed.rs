//! Weights laid out anew: sixteen rows side by side, so that a vector holds the same columns of many rows. Sums then
//! stay in their lanes, scales are loaded as vectors, and a 4-bit product needs half the instructions of a file's
//! blocks.
//!
//! A *panel* is 16 rows. It is a sequence of *units*: one group of 32 columns, or the eight of a K-quant's block. A
//! unit begins with an f16 scale per row and, where the format has minimums, another f16 per row. Then its groups:
//!
//! - of K-quants two bytes per row, as two lists of 16: scale and minimum, or the scales of the two halves;
//! - a *plane* of 4 bits: word `i` (of four) of row `r` at byte `64·i + 4·r` holds columns `4·i..` in its lower and
//!   `16 + 4·i..` in its upper halves of bytes. Formats of 8 bits have whole signed bytes instead, eight words a row;
//! - a plane of the fifth bit: bit `i` of row `r`'s bytes belongs to word `i` of eight;
//! - or of the fifth and sixth: two words a row, word `i` in bits `i / 2 · 2..` of word `i % 2`.
//!
//! No number is changed, so results are those of the file's own blocks but for the order of sums. Only the six bits of
//! K-quants' scales grow to eight: 2.8% more bytes of Q4_K.

use super::blocks;
use super::format::*;
use hob_dtype::DType;

/// Rows of a panel.
pub(crate) const ROWS: usize = 16;

/// A format that has this layout.
pub(crate) trait Packed: Format {
    /// The bits of the block's f16: its scale, and its minimum where there is one.
    fn halves(b: &Self::Block) -> [[u8; 2]; 2];

    /// Of K-quants: scale and minimum of group `g`, or the scales of its halves.
    fn pair(_: &Self::Block, _: usize) -> [u8; 2] {
        [0; 2]
    }
}

/// Bytes before the groups of a unit.
pub(crate) const fn head<F: Packed>() -> usize {
    if F::MIN { 4 * ROWS } else { 2 * ROWS }
}

/// Bytes of a group's own scales.
pub(crate) const fn pairs<F: Packed>() -> usize {
    if F::GROUPS > 1 { 2 * ROWS } else { 0 }
}

/// Bytes of a group.
pub(crate) const fn group<F: Packed>() -> usize {
    pairs::<F>() + F::BITS as usize * 4 * ROWS
}

/// Bytes of a unit.
pub(crate) const fn unit<F: Packed>() -> usize {
    head::<F>() + F::GROUPS * group::<F>()
}

/// Runs `$then` with `$F` as the format of `$dtype`, where it has this layout.
macro_rules! with_packed {
    ($dtype:expr, $F:ident => $then:expr) => {
        match $dtype {
            hob_dtype::DType::Q4_0 => {
                type $F = Q4_0;
                Some($then)
            }
            hob_dtype::DType::Q4_1 => {
                type $F = Q4_1;
                Some($then)
            }
            hob_dtype::DType::Q5_0 => {
                type $F = Q5_0;
                Some($then)
            }
            hob_dtype::DType::Q5_1 => {
                type $F = Q5_1;
                Some($then)
            }
            hob_dtype::DType::Q8_0 => {
                type $F = Q8_0;
                Some($then)
            }
            hob_dtype::DType::Q4_K => {
                type $F = Q4_K;
                Some($then)
            }
            hob_dtype::DType::Q5_K => {
                type $F = Q5_K;
                Some($then)
            }
            hob_dtype::DType::Q6_K => {
                type $F = Q6_K;
                Some($then)
            }
            _ => None,
        }
    };
}
#[cfg(target_arch = "x86_64")]
pub(crate) use with_packed;

fn two(b: &[u8], at: usize) -> [u8; 2] {
    [b[at], b[at + 1]]
}

/// Scale and minimum of 6 bits of group `g`, of 12 bytes of them.
fn pair_6bit(s: &[u8], g: usize) -> [u8; 2] {
    match g < 4 {
        true => [s[g] & 63, s[g + 4] & 63],
        false => [s[g + 4] & 15 | s[g - 4] >> 6 << 4, s[g + 4] >> 4 | s[g] >> 6 << 4],
    }
}

macro_rules! packed {
    ($($name:ident { |$b:ident| $halves:expr $(, |$p:ident, $g:ident| $pair:expr)? })*) => {
        $(
            impl Packed for $name {
                fn halves($b: &Self::Block) -> [[u8; 2]; 2] {
                    $halves
                }
                $(fn pair($p: &Self::Block, $g: usize) -> [u8; 2] {
                    $pair
                })?
            }
        )*
    };
}

packed! {
    Q4_0 { |b| [two(b, 0), [0; 2]] }
    Q4_1 { |b| [two(b, 0), two(b, 2)] }
    Q5_0 { |b| [two(b, 0), [0; 2]] }
    Q5_1 { |b| [two(b, 0), two(b, 2)] }
    Q8_0 { |b| [two(b, 0), [0; 2]] }
    Q4_K { |b| [two(b, 0), two(b, 2)], |b, g| pair_6bit(&b[4..], g) }
    Q5_K { |b| [two(b, 0), two(b, 2)], |b, g| pair_6bit(&b[4..], g) }
    Q6_K { |b| [two(b, 208), [0; 2]], |b, g| two(b, 192 + 2 * g) }
}

/// Bytes of `n` rows of `k` values laid out so; `None` where the format or the shape is not.
pub fn bytes(dtype: DType, n: usize, k: usize) -> Option<usize> {
    if !n.is_multiple_of(ROWS) || k == 0 || !k.is_multiple_of(dtype.block()) {
        return None;
    }
    with_packed!(dtype, F => n / ROWS * (k / 32 / F::GROUPS) * unit::<F>())
}

/// The heads of the units, and the pairs of their groups: what all instruction sets write alike.
fn pack_scales<F: Packed>(rows: &[&[F::Block]; ROWS], to: &mut [u8]) {
    for (i, to) in to.chunks_exact_mut(unit::<F>()).enumerate() {
        let (first, groups) = to.split_at_mut(head::<F>());
        for (r, row) in rows.iter().enumerate() {
            let halves = F::halves(&row[i]);
            for (list, half) in first.chunks_exact_mut(2 * ROWS).zip(halves) {
                list[2 * r..2 * r + 2].copy_from_slice(&half);
            }
            if F::GROUPS > 1 {
                for (g, to) in groups.chunks_exact_mut(group::<F>()).enumerate() {
                    [to[r], to[ROWS + r]] = F::pair(&row[i], g);
                }
            }
        }
    }
}

/// Lays one panel out, portably.
fn pack_panel<F: Packed>(rows: &[&[F::Block]; ROWS], to: &mut [u8]) {
    pack_scales::<F>(rows, to);
    for (i, to) in to.chunks_exact_mut(unit::<F>()).enumerate() {
        for (g, to) in to[head::<F>()..].chunks_exact_mut(group::<F>()).enumerate() {
            let planes = &mut to[pairs::<F>()..];
            planes.fill(0);
            for (r, row) in rows.iter().enumerate() {
                for (c, &u) in F::values(&row[i], g).iter().enumerate() {
                    put::<F>(planes, r, c, u);
                }
            }
        }
    }
}

/// Writes number `u` of row `r` and column `c` to a group's planes.
fn put<F: Packed>(planes: &mut [u8], r: usize, c: usize, u: u8) {
    let (word, byte) = (c / 4, 4 * r + c % 4);
    if F::BITS == 8 {
        planes[word * 4 * ROWS + byte] = u ^ 0x80; // signed
        return;
    }
    let (low, high) = planes.split_at_mut(16 * ROWS);
    low[word % 4 * 4 * ROWS + byte] |= (u & 15) << (word / 4 * 4);
    match F::BITS {
        5 => high[byte] |= (u >> 4) << word,
        6 => high[word % 2 * 4 * ROWS + byte] |= (u >> 4) << (word / 2 * 2),
        _ => {}
    }
}

/// Lays panels out: `w` holds rows of the file, a multiple of sixteen, each of `k` values; `to` is as large as
/// [`bytes`] says. Panics for a format or shape of which that says nothing.
pub(crate) fn pack(dtype: DType, k: usize, w: &[u8], to: &mut [u8]) {
    with_packed!(dtype, F => pack_as::<F>(k, w, to)).expect("a format that is laid out anew");
}

fn pack_as<F: super::Packs>(k: usize, w: &[u8], to: &mut [u8]) {
    let row = k / 32 / F::GROUPS;
    let panel = row * unit::<F>();
    let w = blocks::<F>(w);
    assert_eq!(w.len() / row / ROWS * panel, to.len());
    for (w, to) in w.chunks_exact(row * ROWS).zip(to.chunks_exact_mut(panel)) {
        let rows: [&[F::Block]; ROWS] = std::array::from_fn(|r| &w[r * row..(r + 1) * row]);
        #[cfg(target_arch = "x86_64")]
        if crate::isa::isa() >= crate::isa::Isa::Avx2 {
            pack_scales::<F>(&rows, to);
            // SAFETY: the processor has AVX2; the panel has a unit for each block of a row.
            unsafe { super::x86_packed::pack_planes::<F>(&rows, to) };
            continue;
        }
        pack_panel::<F>(&rows, to);
    }
}

/// Number `c` of row `r` in a group's planes: what [`put`] wrote, less the offset of formats that have one.
fn get<F: Packed>(planes: &[u8], r: usize, c: usize) -> f32 {
    let (word, byte) = (c / 4, 4 * r + c % 4);
    if F::BITS == 8 {
        return planes[word * 4 * ROWS + byte] as i8 as f32;
    }
    let (low, high) = planes.split_at(16 * ROWS);
    let low = low[word % 4 * 4 * ROWS + byte] >> (word / 4 * 4) & 15;
    let high = match F::BITS {
        5 => high[byte] >> word & 1,
        6 => high[word % 2 * 4 * ROWS + byte] >> (word / 2 * 2) & 3,
        _ => 0,
    };
    (low | high << 4) as f32 - if F::MIN { 0.0 } else { F::OFFSET as f32 }
}

/// Decodes row `row` of weights laid out anew to `to (K)`, the same numbers as the file's blocks give.
pub(crate) fn decode_row(dtype: DType, panels: &[u8], row: usize, to: &mut [f32]) {
    with_packed!(dtype, F => decode_row_as::<F>(panels, row, to)).expect("a format that is laid out anew");
}

fn decode_row_as<F: Packed>(panels: &[u8], row: usize, to: &mut [f32]) {
    let bytes = to.len() / 32 / F::GROUPS * unit::<F>();
    let (panel, r) = (&panels[row / ROWS * bytes..][..bytes], row % ROWS);
    for (unit, to) in panel.chunks_exact(unit::<F>()).zip(to.chunks_exact_mut(32 * F::GROUPS)) {
        let (first, groups) = unit.split_at(head::<F>());
        let half = |list: usize| half::f16::from_le_bytes(two(first, list * 2 * ROWS + 2 * r)).to_f32();
        let (d, least) = (half(0), if F::MIN { half(1) } else { 0.0 });
        for (group, to) in groups.chunks_exact(group::<F>()).zip(to.as_chunks_mut::<32>().0) {
            let (pairs, planes) = group.split_at(pairs::<F>());
            for (c, to) in to.iter_mut().enumerate() {
                let u = get::<F>(planes, r, c);
                *to = match (F::GROUPS, F::SPLIT) {
                    (1, _) => d * u + least,
                    (_, true) => d * (pairs[c / 16 * ROWS + r] as i8) as f32 * u,
                    (_, false) => d * pairs[r] as f32 * u - least * pairs[ROWS + r] as f32,
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::tests::{random, weights};

    #[test]
    fn a_row_of_a_panel_is_that_of_the_file() {
        for (dtype, _) in crate::quant::tests::FORMATS {
            let (n, k) = (3 * ROWS, 2 * dtype.block().max(32));
            let Some(bytes) = bytes(dtype, n, k) else { continue };
            let (w, mut panels) = (weights(dtype, n * k, 5), vec![0; bytes]);
            pack(dtype, k, &w, &mut panels);
            let (mut right, mut ours) = (vec![0.0; n * k], vec![f32::NAN; k]);
            dtype.decode(&w, &mut right);
            for (row, right) in right.chunks_exact(k).enumerate() {
                decode_row(dtype, &panels, row, &mut ours);
                assert!(ours == right, "{dtype}, row {row}");
            }
        }
    }

    fn same_as_portable<F: super::super::Packs>(dtype: DType) {
        for units in [1, 3] {
            let k = units * 32 * F::GROUPS;
            let w = weights(dtype, 2 * ROWS * k, 11);
            let mut to = vec![0xff; bytes(dtype, 2 * ROWS, k).unwrap()];
            pack(dtype, k, &w, &mut to);
            let mut portable = vec![0xff; to.len()];
            for (w, to) in
                blocks::<F>(&w).chunks_exact(ROWS * units).zip(portable.chunks_exact_mut(units * unit::<F>()))
            {
                pack_panel::<F>(&std::array::from_fn(|r| &w[r * units..(r + 1) * units]), to);
            }
            assert!(to == portable, "{dtype}");
        }
    }

    #[test]
    fn panels_are_laid_out_as_the_portable_definition_does() {
        for (dtype, _) in crate::quant::tests::FORMATS {
            with_packed!(dtype, F => same_as_portable::<F>(dtype));
        }
    }

    #[test]
    fn pairs_are_the_scales_of_the_format() {
        let mut next = random(3);
        for _ in 0..100 {
            let b: [u8; 144] = std::array::from_fn(|_| next() as u8);
            let one = |x: f32| half::f16::from_f32(x).to_le_bytes();
            let mut b = b;
            b[..2].copy_from_slice(&one(1.0));
            b[2..4].copy_from_slice(&one(1.0));
            for g in 0..8 {
                let [s, m] = Q4_K::pair(&b, g);
                assert_eq!((s as f32, -(m as f32)), (Q4_K::scale(&b, g, 0), Q4_K::addend(&b, g, 0)));
            }
        }
    }

    #[test]
    fn shapes_that_are_no_panels_are_refused() {
        assert_eq!(bytes(DType::Q4_0, 16, 32), Some(16 * 18));
        assert_eq!(bytes(DType::Q4_K, 32, 256), Some(2 * 2368));
        assert_eq!(bytes(DType::Q6_K, 16, 512), Some(16 * 2 * 210));
        assert_eq!(bytes(DType::Q4_0, 17, 32), None);
        assert_eq!(bytes(DType::Q4_K, 16, 128), None);
        assert_eq!(bytes(DType::IQ2_XS, 16, 256), None);
        assert_eq!(bytes(DType::F32, 16, 256), None);
    }
}
