//! What the fuzz targets do with bytes; `cargo test` runs the same over the seeds.

use hob_io::{Checkpoint, Gguf, safetensors::Header};
use std::path::Path;

/// Opens the bytes as a GGUF file and looks at everything in it.
pub fn gguf(data: &[u8]) {
    let Ok(model) = Gguf::parse_header(data, data.len() as u64, Path::new("fuzz.gguf")) else { return };
    for (key, value) in model.metadata() {
        assert!(model.get(key).is_some());
        if let Some(list) = value.array() {
            let strings = list.strings().map_or(0, Iterator::count);
            let floats = list.f32s().map_or(0, Iterator::count);
            let bools = list.bools().map_or(0, Iterator::count);
            let ints = list.ints().map_or(0, Iterator::count);
            assert!([strings, floats, bools, ints].iter().all(|&n| n == 0 || n == list.len()));
        }
    }
    for tensor in model.tensors() {
        assert!(tensor.offset + tensor.len as u64 <= data.len() as u64);
        assert_eq!(tensor.dtype.bytes(tensor.elements()), Some(tensor.len));
    }
    let _ = Checkpoint::from_gguf(model);
}

/// Opens the bytes as a safetensors file.
pub fn safetensors(data: &[u8]) {
    let Ok(header) = Header::parse(data, data.len() as u64, Path::new("fuzz.safetensors")) else { return };
    for tensor in &header.tensors {
        assert!(tensor.offset >= header.len as u64 && tensor.offset + tensor.len as u64 <= data.len() as u64);
        assert_eq!(tensor.dtype.bytes(tensor.elements()), Some(tensor.len));
    }
}
