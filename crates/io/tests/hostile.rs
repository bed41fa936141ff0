//! Random damage and the fuzzers' seeds: readers never panic, nor allocate more than the file can justify.

mod common;
#[path = "../../../fuzz/targets.rs"]
mod targets;

use common::{Raw, tiny_llama, tiny_onnx, tiny_safetensors};
use proptest::prelude::*;
use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    path::Path,
};

/// Counts the bytes that each thread asks for.
struct Counting;

thread_local! {
    static ASKED: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: all work is the system allocator's; the counter is const-initialised and needs no allocation.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ASKED.try_with(|asked| asked.set(asked.get().saturating_add(layout.size())));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs a reader over bytes; all that it ever asked for must stay in proportion to them.
fn read(reader: fn(&[u8]), bytes: &[u8]) {
    let before = ASKED.get();
    reader(bytes);
    let asked = ASKED.get() - before;
    assert!(asked <= 64 * bytes.len() + (1 << 20), "{asked} bytes asked for to read {}", bytes.len());
}

/// A file with some of its bytes replaced, and perhaps cut.
fn damaged(file: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let len = file.len();
    let interesting = prop_oneof![any::<u8>(), Just(0), Just(1), Just(0x7f), Just(0x80), Just(0xff)];
    // Damage to the header is what matters; it takes up the beginning.
    let place = prop_oneof![3 => 0..len.min(1400), 1 => 0..len];
    (prop::collection::vec((place, interesting, 1usize..9), 0..6), prop::option::of(0..=len)).prop_map(
        move |(changes, cut)| {
            let mut file = file.clone();
            for (at, byte, run) in changes {
                file[at..].iter_mut().take(run).for_each(|b| *b = byte);
            }
            file.truncate(cut.unwrap_or(len));
            file
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_gguf_files_never_panic(file in damaged(tiny_llama())) {
        read(targets::gguf, &file);
    }

    #[test]
    fn damaged_safetensors_files_never_panic(file in damaged(tiny_safetensors())) {
        read(targets::safetensors, &file);
    }

    #[test]
    fn damaged_onnx_files_never_panic(file in damaged(tiny_onnx())) {
        read(targets::onnx, &file);
    }

    /// Of files whose length is not that of the bytes, and mostly beyond.
    #[test]
    fn damaged_beginnings_never_panic(
        file in damaged(tiny_llama()),
        other in damaged(tiny_safetensors()),
        len in prop_oneof![0u64..8192, any::<u64>()],
    ) {
        read(targets::headers, &[&len.to_le_bytes()[..], &file].concat());
        read(targets::headers, &[&len.to_le_bytes()[..], &other].concat());
    }

    #[test]
    fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..400)) {
        let with = |prefix: &[u8]| [prefix, &noise].concat();
        read(targets::modelfile, &with(b"FROM x\nSYSTEM \"\"\"\n"));
        read(targets::gguf, &noise);
        read(targets::gguf, &with(b"GGUF\x03\0\0\0"));
        read(targets::safetensors, &noise);
        read(targets::onnx, &noise);
        read(targets::onnx, &common::onnx(std::slice::from_ref(&noise), "consistency-unet-32"));
        read(targets::safetensors, &[&(noise.len() as u64).to_le_bytes()[..], &noise].concat());
    }
}

/// A safetensors file of tensors of picture models: names with numbers in them, some of them absurd, and any shapes.
fn pictures() -> impl Strategy<Value = Vec<u8>> {
    const NAMES: [&str; 64] = [
        "input_blocks.0.0.weight",
        "input_blocks.#.0.in_layers.2.weight",
        "input_blocks.#.0.op.weight",
        "input_blocks.#.1.proj_in.weight",
        "input_blocks.#.1.transformer_blocks.#.attn2.to_k.weight",
        "middle_block.#.in_layers.0.bias",
        "middle_block.1.transformer_blocks.#.attn1.to_q.weight",
        "out.2.weight",
        "output_blocks.#.0.skip_connection.weight",
        "output_blocks.#.#.conv.weight",
        "label_emb.0.0.weight",
        "time_embed.0.weight",
        "zero_convs.#.0.weight",
        "input_hint_block.#.weight",
        "conv_in.weight",
        "conv_out.weight",
        "down_blocks.#.resnets.#.conv1.weight",
        "up_blocks.#.attentions.#.transformer_blocks.#.norm1.bias",
        "time_embedding.linear_1.weight",
        "add_embedding.linear_1.weight",
        "img_in.weight",
        "txt_in.weight",
        "vector_in.in_layer.weight",
        "double_blocks.#.img_attn.qkv.weight",
        "double_blocks.#.txt_attn.qkv.bias",
        "single_blocks.#.linear1.weight",
        "single_blocks.#.linear1.bias",
        "single_blocks.#.norm.query_norm.scale",
        "final_layer.adaLN_modulation.1.weight",
        "final_layer.linear.weight",
        "x_embedder.weight",
        "single_transformer_blocks.#.attn.norm_q.weight",
        "time_text_embed.text_embedder.linear_1.weight",
        "context_embedder.weight",
        "proj_out.weight",
        "decoder.conv_in.weight",
        "decoder.conv_out.weight",
        "decoder.mid.block_1.conv1.weight",
        "decoder.mid.attn_1.q.weight",
        "decoder.up.#.block.#.conv1.weight",
        "encoder.down.#.downsample.conv.weight",
        "encoder.up.#.block.0.x",
        "decoder.mid_block.attentions.0.query.weight",
        "decoder.up_blocks.#.resnets.#.conv1.weight",
        "decoder.layers.#.weight",
        "encoder.layers.0.weight",
        "#.weight",
        "1.weight",
        "3.conv.0.weight",
        "text_model.embeddings.token_embedding.weight",
        "embeddings.token_embedding.weight",
        "text_model.embeddings.position_embedding.weight",
        "text_model.encoder.layers.#.mlp.fc1.weight",
        "token_embedding.weight",
        "positional_embedding",
        "text_projection",
        "transformer.resblocks.#.mlp.c_fc.weight",
        "transformer.resblocks.#.attn.in_proj_weight",
        "shared.weight",
        "encoder.block.#.layer.0.SelfAttention.q.weight",
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "ztsnr",
        "edm_mean",
        "lora_up.weight",
    ];
    const BEFORE: [&str; 6] = [
        "",
        "model.diffusion_model.",
        "first_stage_model.",
        "cond_stage_model.model.",
        "control_model.",
        "conditioner.embedders.1.model.",
    ];
    let number = prop_oneof![8 => 0u64..4, 1 => Just(23), 1 => any::<u64>()];
    let size = prop_oneof![6 => 0u64..7, 1 => Just(16), 1 => Just(1024)];
    let tensor = (0..NAMES.len(), 0..BEFORE.len(), number, prop::collection::vec(size, 0..5));
    // All of one network, or some of all.
    let few = prop::collection::vec(tensor.clone(), 0..40);
    let many = (prop::collection::vec(tensor, 60..160), prop::option::of(0..BEFORE.len())).prop_map(
        |(mut all, before)| {
            for (i, t) in all.iter_mut().enumerate() {
                (t.0, t.1) = (i % NAMES.len(), before.unwrap_or(t.1));
            }
            all
        },
    );
    prop_oneof![few, many].prop_map(|tensors| {
        let (mut header, mut end) = (std::collections::BTreeMap::new(), 0);
        for (name, before, number, shape) in tensors {
            let name = format!("{}{}", BEFORE[before], NAMES[name].replace('#', &number.to_string()));
            let len = 2 * shape.iter().product::<u64>();
            if end + len < 1 << 16 && !header.contains_key(&name) {
                header.insert(
                    name,
                    format!(r#"{{"dtype":"F16","shape":{shape:?},"data_offsets":[{end},{}]}}"#, end + len),
                );
                end += len;
            }
        }
        let header: Vec<String> = header.into_iter().map(|(name, t)| format!("{name:?}:{t}")).collect();
        common::safetensors(&format!("{{{}}}", header.join(",")), end as usize)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn files_of_picture_models_never_panic(file in pictures()) {
        read(targets::pipeline, &file);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_pictures_never_panic(file in (0usize..5).prop_flat_map(|i| {
        let name = ["rgb.png", "rgba.png", "upright.jpg", "progressive.jpg", "lossless.webp"][i];
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/picture");
        damaged(std::fs::read(folder.join(name)).unwrap())
    })) {
        targets::picture(&file);
    }
}

fn seed(target: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target);
    let mut all: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    all.sort();
    prop::sample::select(all).prop_flat_map(|path| damaged(std::fs::read(path).unwrap()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_loras_never_panic(file in seed("lora")) {
        targets::lora(&file);
    }

    #[test]
    fn damaged_prompts_never_panic(text in seed("prompt"), noise in prop::collection::vec(any::<u8>(), 0..80)) {
        targets::prompt(&text);
        targets::prompt(&noise);
    }
}

/// Every seed of a target, and every input that once crashed its fuzzer.
fn survive(target: &str, reader: fn(&[u8])) {
    each_seed(target, |bytes| read(reader, bytes));
}

fn each_seed(target: &str, reader: impl Fn(&[u8])) {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target);
    let mut count = 0;
    for entry in std::fs::read_dir(seeds).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        reader(&std::fs::read(&path).unwrap());
        count += 1;
    }
    assert!(count >= 4, "{count} seeds of {target}");
}

#[test]
fn the_fuzzers_seeds_are_survived() {
    survive("gguf", targets::gguf);
    survive("safetensors", targets::safetensors);
    survive("headers", targets::headers);
    survive("onnx", targets::onnx);
    survive("modelfile", targets::modelfile);
    survive("pipeline", targets::pipeline);
    each_seed("lora", targets::lora);
    each_seed("prompt", targets::prompt);
    // A picture may be much larger than its file.
    each_seed("picture", targets::picture);
}

/// Headers of files said to be huge, of which little is at hand: what they claim costs nothing.
#[test]
fn what_a_header_claims_is_not_allocated() {
    let huge = [1 << 40, 1 << 63, u64::MAX];
    let mut cases: Vec<(String, Vec<u8>)> = Vec::new();
    let counts = [1000, 1 << 17, 1 << 32, 1 << 63, u64::MAX];
    for n in counts {
        cases.push((format!("{n} tensors"), Raw::header(n, 0).0));
        cases.push((format!("{n} entries"), Raw::header(0, n).0));
        for kind in [0, 4, 7, 8, 9, 12] {
            let mut raw = Raw::header(0, 1);
            raw.str(b"k").u32(9).u32(kind).u64(n).str(b"one").str(b"two");
            cases.push((format!("{n} elements of type {kind}"), raw.0));
        }
        let mut raw = Raw::header(0, 1);
        raw.str(b"k").u32(8).u64(n);
        cases.push((format!("a text of {n} bytes"), raw.0));
        let mut raw = Raw::header(0, 1);
        raw.u64(n);
        cases.push((format!("a key of {n} bytes"), raw.0));
        for dtype in [0, 1, 12, 30] {
            let mut raw = Raw::header(1, 0);
            raw.tensor("w", &[n & !255, n, 2], dtype, 0);
            cases.push((format!("a tensor of {n} squared"), raw.0));
            let mut raw = Raw::header(1, 0);
            raw.tensor("w", &[256], dtype, n & !31);
            cases.push((format!("a tensor at {n}"), raw.0));
        }
        cases.push((format!("a header of {n} bytes"), [&n.to_le_bytes()[..], b"{\"w\":"].concat()));
        let json = format!(r#"{{"w":{{"dtype":"F32","shape":[{n},{n}],"data_offsets":[0,{n}]}}}}"#);
        cases.push((format!("{n} rows and columns"), common::safetensors(&json, 0)));
    }
    for nested in [r#"{"w":"#, r#"{"w":["#, r#"{"__metadata__":{"a":"#] {
        cases.push(("nesting".into(), common::safetensors(&nested.repeat(20_000), 0)));
    }
    let mut refused = 0;
    for (what, bytes) in &cases {
        for len in huge {
            let data = [&len.to_le_bytes()[..], bytes].concat();
            let before = ASKED.get();
            targets::headers(&data);
            let asked = ASKED.get() - before;
            assert!(asked <= 16 * bytes.len() + 4096, "{what}: {asked} bytes asked for");
            let path = Path::new("m");
            let usable = |e: hob_io::Error| matches!(e, hob_io::Error::NeedMore { .. });
            refused += usize::from(hob_io::Gguf::parse_header(bytes, len, path).is_err_and(|e| !usable(e)));
        }
    }
    assert!(refused > cases.len(), "{refused} refusals of {} headers", cases.len());
}
