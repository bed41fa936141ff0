//! What the kernels must agree on, whatever the instruction set.

use super::format::*;
use super::grids::*;
use super::*;

/// The formats with kernels, and where the bytes of a block are f16.
pub(crate) const FORMATS: [(DType, &[usize]); 22] = [
    (DType::Q4_0, &[0]),
    (DType::Q4_1, &[0, 2]),
    (DType::Q5_0, &[0]),
    (DType::Q5_1, &[0, 2]),
    (DType::Q8_0, &[0]),
    (DType::Q2_K, &[80, 82]),
    (DType::Q3_K, &[108]),
    (DType::Q4_K, &[0, 2]),
    (DType::Q5_K, &[0, 2]),
    (DType::Q6_K, &[208]),
    (DType::IQ4_NL, &[0]),
    (DType::IQ4_XS, &[0]),
    (DType::MXFP4, &[]),
    (DType::IQ2_XXS, &[0]),
    (DType::IQ2_XS, &[0]),
    (DType::IQ2_S, &[0]),
    (DType::IQ3_XXS, &[0]),
    (DType::IQ3_S, &[0]),
    (DType::IQ1_S, &[0]),
    (DType::IQ1_M, &[]),
    (DType::TQ1_0, &[52]),
    (DType::TQ2_0, &[64]),
];

/// Numbers that look random, the same each time.
pub(crate) fn random(seed: u64) -> impl FnMut() -> u32 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    }
}

/// `n` random values of a format, with scales of about 1.
pub(crate) fn weights(dtype: DType, n: usize, seed: u64) -> Vec<u8> {
    let mut next = random(seed);
    let mut bytes: Vec<u8> = (0..dtype.bytes(n).unwrap()).map(|_| next() as u8).collect();
    let halves = FORMATS.iter().find(|f| f.0 == dtype).unwrap().1;
    for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
        for &at in halves {
            let d = (next() % 1000) as f32 / 500.0 - 1.0;
            block[at..at + 2].copy_from_slice(&half::f16::from_f32(d).to_le_bytes());
        }
        set_scale(dtype, block, 120 + (next() % 8) as u8);
    }
    bytes
}

/// Sets the scale of formats whose scale is no f16 in bytes of its own: to about 1 for exponents near 127.
pub(crate) fn set_scale(dtype: DType, block: &mut [u8], exponent: u8) {
    match dtype {
        DType::MXFP4 => block[0] = exponent,
        // Four bits each on top of the last four u16.
        DType::IQ1_M => {
            for (i, bits) in [0x3, exponent & 15, exponent >> 4 | 8, 0x3].into_iter().enumerate() {
                block[49 + 2 * i] = block[49 + 2 * i] & 15 | bits << 4;
            }
        }
        _ => {}
    }
}

/// The instruction sets this processor has.
pub(crate) fn sets() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|i| i.available())
}

#[test]
fn every_quantized_format_of_weights_has_kernels() {
    let slower = [DType::Q8_1, DType::Q8_K]; // of activations, in other programs
    for dtype in DType::all().filter(|d| d.is_quantized() && !slower.contains(d)) {
        assert!(FORMATS.iter().any(|f| f.0 == dtype), "{dtype} has no tests");
        assert!(Isa::ALL.into_iter().all(|isa| kernels(dtype, isa).is_some()), "{dtype} has no kernels");
    }
}

fn definition<F: Format>(dtype: DType) {
    let n = 32 * F::GROUPS;
    assert_eq!((n, size_of::<F::Block>()), (dtype.block(), dtype.block_bytes()));
    for seed in 0..50 {
        let bytes = weights(dtype, n, seed);
        let mut exact = vec![0f32; n];
        dtype.decode(&bytes, &mut exact);
        let b = &blocks::<F>(&bytes)[0];
        for (i, y) in exact.iter().enumerate() {
            let (g, h) = (i / 32, i % 32 / 16);
            let u = F::values(b, g)[i % 32];
            assert!((u as u32) < 1 << F::BITS);
            let (d, m) = (F::scale(b, g, h), F::addend(b, g, h));
            let near = (d * u as f32).abs().max(m.abs()) * 1e-6;
            assert!(
                (d * u as f32 + m - y).abs() <= near,
                "{dtype} value {i}: {} is not {y}",
                d * u as f32 + m
            );
        }
    }
}

#[test]
fn definitions_decode_as_the_table_of_formats_does() {
    macro_rules! each {
        ($($format:ident)*) => { $(definition::<$format>(DType::$format);)* };
    }
    each!(Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS MXFP4);
    each!(IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S IQ1_S IQ1_M TQ1_0 TQ2_0);
}

/// A panel's bytes, scales and addends by `(row, value)`, whatever its layout.
fn unpacked(
    k: &Kernels,
    w: &[u8],
    row_bytes: usize,
    rows: usize,
    groups: (usize, usize),
) -> (Vec<u8>, Vec<f32>) {
    let (r, n) = (k.panel_rows, groups.1);
    let mut q = vec![0; n * 32 * r];
    let mut d = vec![0.0; n * k.scales * r];
    let mut m = d.clone();
    let mut panel = Panel { q: &mut q, d: &mut d, m: &mut m };
    // SAFETY: the sets are those this processor has, and the panel has room.
    unsafe { (k.unpack)(w, row_bytes, groups.0, n, &mut panel) };
    let (mut values, mut scales) = (Vec::new(), Vec::new());
    for row in 0..rows {
        values.extend((0..n * 32).map(|i| q[(i / 4 * r + row) * 4 + i % 4]));
        scales.extend((0..n * k.scales).flat_map(|s| [d[s * r + row], m[s * r + row]]));
    }
    (values, scales)
}

#[test]
fn panels_are_the_same_on_every_instruction_set() {
    for (dtype, _) in FORMATS {
        for (rows, blocks, first) in [(8, 8, 0), (5, 16, 8), (1, 19, 8)] {
            let groups = blocks * dtype.block() / 32;
            let w = weights(dtype, rows * blocks * dtype.block(), 7);
            let row_bytes = w.len() / rows;
            let part = (first, groups - first);
            let portable = unpacked(&kernels(dtype, Isa::Portable).unwrap(), &w, row_bytes, rows, part);
            for isa in sets() {
                let (mut values, mut scales) =
                    unpacked(&kernels(dtype, isa).unwrap(), &w, row_bytes, rows, part);
                use DType::*;
                let grids = matches!(dtype, IQ2_XXS | IQ2_XS | IQ2_S | IQ3_XXS | IQ3_S);
                let eight_bits = grids || matches!(dtype, Q8_0 | IQ4_NL | IQ4_XS);
                if !matches!(isa, Isa::Portable | Isa::AvxVnni | Isa::Avx512 | Isa::Amx) && eight_bits {
                    // Signed there, so without an addend.
                    values.iter_mut().for_each(|v| *v ^= 0x80);
                    scales.chunks_exact_mut(2).for_each(|s| s[1] = -128.0 * s[0]);
                }
                assert!(values == portable.0, "{dtype} on {isa:?}: values");
                assert!(scales == portable.1, "{dtype} on {isa:?}: scales");
            }
        }
    }
}
