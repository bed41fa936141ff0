//! Every format against blocks decoded by an independent implementation (dev/golden_blocks.py), to the bit.

use hob_dtype::DType;
use std::path::PathBuf;

fn golden(name: &str) -> Vec<u8> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/blocks")).join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

#[test]
fn every_format_decodes_to_the_bit() {
    for dtype in DType::all() {
        let file = golden(&format!("{dtype}.bin"));
        let blocks = file.len() / (dtype.block_bytes() + 4 * dtype.block());
        assert!(blocks >= 4, "{dtype}: {blocks} blocks");
        let (stored, expected) = file.split_at(blocks * dtype.block_bytes());
        let expected = floats(expected);
        let mut out = vec![f32::NAN; blocks * dtype.block()];
        dtype.decode(stored, &mut out);
        for (i, (a, e)) in out.iter().zip(&expected).enumerate() {
            assert_eq!(a.to_bits(), e.to_bits(), "{dtype}, value {i}: {a} instead of {e}");
        }
        assert_eq!(out.len(), expected.len());
    }
}

#[test]
fn encoding_rounds_as_the_reference() {
    for dtype in DType::all().filter(|d| d.encodes()) {
        let file = golden(&format!("{dtype}.encode.bin"));
        let (values, expected) = file.split_at(8 * 32 * 4);
        let values = floats(values);
        let mut out = vec![0; dtype.bytes(values.len()).unwrap()];
        dtype.encode(&values, &mut out);
        assert_eq!(out, expected, "{dtype}");
    }
}

#[test]
fn decoding_the_encoded_is_within_half_a_step() {
    let values: Vec<f32> = (0..320).map(|i| (i as f32 * 0.7).sin() * (1 + i / 32) as f32).collect();
    for (dtype, levels) in [(DType::Q8_0, 127.0), (DType::Q4_1, 7.5), (DType::Q4_0, 8.0)] {
        let mut bytes = vec![0; dtype.bytes(values.len()).unwrap()];
        let mut back = vec![0.0; values.len()];
        dtype.encode(&values, &mut bytes);
        dtype.decode(&bytes, &mut back);
        for (block, (v, b)) in values.chunks(32).zip(back.chunks(32)).enumerate() {
            let largest = v.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            // Q4_0 spans -8 to 7 steps: the far end may be a whole step off; the f16 scale adds a thousandth.
            let step = largest / levels * if dtype == DType::Q4_0 { 1.0 } else { 0.5 } + largest / 500.0;
            for (v, b) in v.iter().zip(b) {
                assert!((v - b).abs() <= step, "{dtype}, block {block}: {v} came back as {b}");
            }
        }
    }
}

#[test]
#[should_panic(expected = "bytes of 32 values of Q8_0")]
fn a_wrong_length_panics() {
    DType::Q8_0.decode(&[0; 33], &mut [0.0; 32]);
}
