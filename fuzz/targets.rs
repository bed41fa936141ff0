//! What the fuzz targets do with bytes; `cargo test` runs the same over the seeds.

use hob_io::{
    Checkpoint, Error, Gguf, Lora, Pipeline, Safetensors,
    lora::{Part, Role},
    modelfile, onnx,
    picture::{self, Picture, Recipe},
    prompt::{Prompt, schedule, together},
    safetensors::Header,
};
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

/// Opens the bytes as an ONNX file, and as a terrain model.
pub fn onnx(data: &[u8]) {
    let path = Path::new("fuzz.onnx");
    let Ok(header) = onnx::Header::parse(data, path) else { return };
    for tensor in header.tensors.values() {
        assert!(tensor.offset + tensor.len as u64 <= data.len() as u64);
        assert_eq!(tensor.dtype.bytes(tensor.elements()), Some(tensor.len));
    }
    if let Ok((config, tensors)) = onnx::adm::read(&header, data, path) {
        assert!(config.is_object() && tensors.len() <= header.tensors.len());
    }
}

/// Reads headers from the beginning of a file elsewhere, whose length (the first 8 bytes) is foreign too.
pub fn headers(data: &[u8]) {
    let Some((len, bytes)) = data.split_first_chunk() else { return };
    let (len, path) = (u64::from_le_bytes(*len), Path::new("hf:fuzz/fuzz/model"));
    let more = |error: Error| {
        if let Error::NeedMore { needed, likely, .. } = error {
            assert!(needed > bytes.len() as u64 && needed <= likely && likely <= len);
        }
    };
    match Gguf::parse_header(bytes, len, path).and_then(|m| m.with_parts(Vec::new())) {
        Ok(model) => look(Checkpoint::from_gguf(model), len),
        Err(e) => more(e),
    }
    let weights = |h| Safetensors::from_headers(vec![h], None);
    match Header::parse(bytes, len, path).and_then(weights) {
        Ok(weights) => look(Checkpoint::from_safetensors(weights, path, |_| Ok(None)), len),
        Err(e) => more(e),
    }
}

/// Everything that is asked of a checkpoint without data.
fn look(checkpoint: hob_io::Result<Checkpoint>, len: u64) {
    let Ok(c) = checkpoint else { return };
    assert!(!c.has_data() && c.maps().is_empty() && c.companion("config.json").is_none());
    assert_eq!(c.size_bytes(), len);
    assert!(c.header_bytes() <= len);
    assert!(c.formats().values().map(|(_, bytes)| bytes).sum::<u64>() <= len);
    for tensor in c.tensors.values() {
        assert!(tensor.offset.checked_add(tensor.len as u64).is_some_and(|end| end <= len));
        assert_eq!(tensor.dtype.bytes(tensor.elements()), Some(tensor.len));
    }
    let _ = (c.parameters(), c.chat_template(), c.licence(), c.bos(), c.eos(), c.model_type());
}

/// Reads the bytes as a Modelfile: what it gives lies in the text, in its order.
pub fn modelfile(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let lines = text.lines().count().max(1);
    match modelfile::parse(&text) {
        Err(bad) => assert!((1..=lines + 1).contains(&bad.line) && !bad.what.is_empty()),
        Ok(all) => {
            assert!(all.iter().map(|i| i.value.len()).sum::<usize>() <= text.len());
            assert!(all.windows(2).all(|w| w[0].line < w[1].line));
        }
    }
}

/// Opens the bytes as a picture model in one file: each part's tensors lie within it, and its configuration is at hand.
pub fn pipeline(data: &[u8]) {
    let (len, path) = (data.len() as u64, Path::new("fuzz"));
    let gguf = Gguf::parse_header(data, len, path).and_then(Pipeline::from_gguf);
    let weights = Header::parse(data, len, path).and_then(|h| Safetensors::from_headers(vec![h], None));
    for pipeline in [gguf, weights.and_then(|w| Pipeline::from_safetensors(w, path))].into_iter().flatten() {
        let _ = (pipeline.check().map_err(|e| e.to_string()), pipeline.latent_channels());
        for part in pipeline.parts() {
            assert!(part.config.is_object() && !part.has_data());
            let _ = (part.size_bytes(), part.parameters(), part.copied_bytes());
            for tensor in part.tensors.values().filter(|t| t.file == 0) {
                assert!(tensor.offset.checked_add(tensor.len as u64).is_some_and(|end| end <= len));
                assert_eq!(tensor.dtype.bytes(tensor.elements()), Some(tensor.len));
            }
        }
    }
}

/// Reads the bytes as a picture, and what is said in it of how it was made.
pub fn picture(data: &[u8]) {
    let path = Path::new("fuzz");
    if let Ok(p) = Picture::read(data, path) {
        assert_eq!(p.rgb.len(), 3 * p.width * p.height);
        assert!(p.alpha.is_none_or(|a| a.len() == p.width * p.height));
    }
    let _ = picture::texts(data, path);
    if let Ok(Some(recipe)) = Recipe::read(data, path) {
        let _ = recipe.text();
    }
}

/// Opens the bytes as a LoRA of a small model of each kind of layer: its factors fit the weights they change.
pub fn lora(data: &[u8]) {
    let shapes = |list: &[(&str, &[usize])]| list.iter().map(|(n, s)| (n.to_string(), s.to_vec())).collect();
    let denoiser = shapes(&[
        ("conv_in.weight", &[4, 4, 3, 3]),
        ("mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight", &[8, 6]),
        ("transformer_blocks.0.attn.to_q.weight", &[6, 6]),
        ("transformer_blocks.0.attn.to_k.weight", &[6, 6]),
        ("transformer_blocks.0.attn.to_v.weight", &[6, 6]),
    ]);
    let text = shapes(&[("text_model.encoder.layers.0.self_attn.q_proj.weight", &[6, 6])]);
    let parts = [(Role::Denoiser, &denoiser), (Role::Text, &text)].map(|(role, weights)| Part {
        role,
        weights,
        shift_first: false,
    });
    // LoRAs are read from files alone, of which each thread has its own.
    let file = std::env::temp_dir().join(format!(
        "hob-fuzz-{}-{:?}.safetensors",
        std::process::id(),
        std::thread::current().id()
    ));
    std::fs::write(&file, data).expect("a folder for temporary files");
    let opened = Lora::open(&file, &parts);
    let _ = std::fs::remove_file(&file);
    let Ok(lora) = opened else { return };
    for (updates, part) in lora.parts.iter().zip(&parts) {
        for (name, update) in updates {
            let dims = &part.weights[name];
            let columns: usize = dims[1..].iter().product();
            let rank = update.b.as_ref().map_or(dims[0], |b| b.dims[1]);
            assert_eq!(update.a.values().len(), rank * columns);
            assert!(update.b.as_ref().is_none_or(|b| b.values().len() == dims[0] * rank));
            if let Some(m) = &update.magnitude {
                assert_eq!(m.values.values().len(), if m.rows { dims[0] } else { dims[1] });
            }
        }
    }
}

/// Reads the bytes as a prompt of so many steps as the first says, and as A1111's text under a picture.
pub fn prompt(data: &[u8]) {
    let (steps, text) = data.split_first().map_or((1, data), |(n, rest)| (usize::from(*n).max(1), rest));
    let text = String::from_utf8_lossy(text);
    for (part, weight) in together(&text) {
        assert!(weight.is_finite());
        let turns = schedule(&part, steps);
        assert_eq!(turns.last().map(|(end, _)| *end), Some(steps));
        assert!(turns.windows(2).all(|w| w[0].0 < w[1].0));
        for (_, text) in turns {
            let prompt = Prompt::parse(&text);
            assert!(!prompt.parts.is_empty() && prompt.text().len() <= text.len() + prompt.parts.len());
        }
    }
    // What is written is read again as the same.
    let once = Recipe::from_text(&Recipe::from_text(&text).text());
    assert_eq!(once.text(), Recipe::from_text(&once.text()).text());
}
