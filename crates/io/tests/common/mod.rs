//! Small model files for the tests.
#![allow(dead_code, missing_docs)] // each test binary uses its part

use hob_dtype::DType;
use hob_io::{Error, Gguf, Result, gguf::Writer};
use std::path::Path;

/// A GGUF file of an architecture, with these tensors; data count up from 0 modulo 251.
pub fn gguf(writer: Writer, tensors: &[(&str, DType, &[usize])]) -> Vec<u8> {
    let mut writer = writer;
    let mut sizes = Vec::new();
    for (name, dtype, shape) in tensors {
        writer.tensor(name, *dtype, shape).unwrap();
        sizes.push(dtype.bytes(shape.iter().product()).unwrap());
    }
    let mut data = writer.begin(Vec::new()).unwrap();
    for size in sizes {
        let bytes: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        data.tensor(&bytes).unwrap();
    }
    data.finish().unwrap()
}

pub const TINY: [(&str, DType, &[usize]); 6] = [
    ("token_embd.weight", DType::Q8_0, &[8, 64]),
    ("blk.0.attn_norm.weight", DType::F32, &[64]),
    ("blk.0.attn_q.weight", DType::Q4_0, &[64, 64]),
    ("blk.0.attn_k.weight", DType::F16, &[32, 64]),
    ("blk.1.ffn_norm.weight", DType::F32, &[64]),
    ("output_norm.weight", DType::F32, &[64]),
];

/// Metadata of a Llama of two layers.
pub fn llama_metadata() -> Writer {
    let mut w = Writer::new();
    w.str("general.architecture", "llama")
        .str("general.license", "apache-2.0")
        .u32("llama.block_count", 2)
        .u32("llama.embedding_length", 64)
        .u32("llama.feed_forward_length", 128)
        .u32("llama.attention.head_count", 4)
        .u32("llama.attention.head_count_kv", 2)
        .u32("llama.context_length", 256)
        .f32("llama.attention.layer_norm_rms_epsilon", 1e-5)
        .f32("llama.rope.freq_base", 50000.0)
        .str("tokenizer.ggml.model", "gpt2")
        .strings("tokenizer.ggml.tokens", &[&b"a"[..], b"b", b"", b"\xff\xfe", "é".as_bytes()])
        .f32s("tokenizer.ggml.scores", &[0.0, -1.0, -2.0, -3.0, -4.0])
        .i32s("tokenizer.ggml.token_type", &[3, 1, 1, 1, 1])
        .bools("made.up.switches", &[true, false])
        .bool("tokenizer.ggml.add_bos_token", false)
        .u32("tokenizer.ggml.bos_token_id", 1)
        .u32("tokenizer.ggml.eos_token_id", 2);
    w
}

pub fn tiny_llama() -> Vec<u8> {
    gguf(llama_metadata(), &TINY)
}

/// A safetensors file; the header is taken as it is.
pub fn safetensors(header: &str, data: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend((0..data).map(|i| i as u8));
    file
}

pub const TINY_SAFETENSORS: &str = concat!(
    r#"{"__metadata__":{"format":"pt"},"#,
    r#""model.embed_tokens.weight":{"dtype":"BF16","shape":[4,6],"data_offsets":[0,48]},"#,
    r#""model.norm.weight":{"dtype":"F32","shape":[6],"data_offsets":[48,72]},"#,
    r#""scalar":{"dtype":"I64","shape":[],"data_offsets":[72,80]}}   "#
);

pub fn tiny_safetensors() -> Vec<u8> {
    safetensors(TINY_SAFETENSORS, 80)
}

/// A field of a protobuf message that holds bytes.
pub fn field(number: u8, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let (bytes, mut out) = (bytes.as_ref(), vec![number << 3 | 2]);
    let mut len = bytes.len();
    while len >= 0x80 {
        out.push(len as u8 | 0x80);
        len >>= 7;
    }
    out.push(len as u8);
    out.extend(bytes);
    out
}

/// A field of a protobuf message that holds a small number.
pub fn small(number: u8, value: u8) -> Vec<u8> {
    assert!(value < 0x80);
    vec![number << 3, value]
}

/// An initializer of an ONNX graph in F32, whose numbers count up from 1.
pub fn initializer(name: &str, shape: &[u8]) -> Vec<u8> {
    let numbers = shape.iter().map(|&d| usize::from(d)).product();
    let raw: Vec<u8> = (1..=numbers).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let dims = shape.iter().flat_map(|&d| small(1, d)).collect();
    field(5, [dims, small(2, 1), field(8, name), field(9, raw)].concat())
}

/// A node of an ONNX graph, in a module as torch's exporter says it.
pub fn node(op: &str, inputs: &[&str], output: &str, module: &str) -> Vec<u8> {
    let inputs = inputs.iter().flat_map(|name| field(1, name)).collect();
    let scopes = field(2, format!("['', '{module}', 'own']"));
    let said = field(9, [field(1, "pkg.torch.onnx.name_scopes"), scopes].concat());
    field(1, [inputs, field(2, output), field(4, op), said].concat())
}

/// An ONNX file of a graph, which says what it is.
pub fn onnx(graph: &[Vec<u8>], architecture: &str) -> Vec<u8> {
    let said = field(14, [field(1, "architecture"), field(2, architecture)].concat());
    [small(1, 10), field(7, graph.concat()), said].concat()
}

/// The least network that the terrain model's reader takes: two levels of one block each.
pub fn tiny_onnx() -> Vec<u8> {
    let dim = |n: u8| field(1, small(1, n));
    let shape = field(2, [field(1, field(2, "n")), dim(1), dim(16), dim(16)].concat());
    let noisy = field(11, [field(1, "noisy"), field(2, field(1, [small(1, 1), shape].concat()))].concat());
    let mut graph = vec![noisy, field(11, field(1, "sigma")), field(11, field(1, "difficulty"))];
    for (name, shape) in [
        ("net.time_embed.0.weight", &[8, 2][..]),
        ("net.label_emb.0.weight", &[8, 1]),
        ("net.input_blocks.0.0.weight", &[2, 1, 1, 1]),
        ("net.input_blocks.1.0.out_layers.3.weight", &[2, 2, 1, 1]),
        ("net.input_blocks.1.0.emb_layers.1.weight", &[4, 8]),
        ("net.input_blocks.3.0.out_layers.3.weight", &[4, 4, 1, 1]),
        ("net.input_blocks.3.1.qkv.weight", &[12, 4, 1, 1]),
        ("net.output_blocks.0.0.in_layers.2.weight", &[1]),
        ("net.output_blocks.1.0.in_layers.2.weight", &[1]),
        ("net.output_blocks.1.2.in_layers.2.weight", &[1]),
        ("net.output_blocks.2.0.in_layers.2.weight", &[1]),
        ("net.output_blocks.3.0.in_layers.2.weight", &[1]),
        ("net.out.2.weight", &[1, 2, 1, 1]),
        ("val_1", &[2, 1, 1]),
        ("val_2", &[2, 1, 1]),
        ("half", &[]),
    ] {
        graph.push(initializer(name, shape));
    }
    let norm = "net.input_blocks.1.0.in_layers.0";
    let attention = "net.input_blocks.3.1.attention";
    graph.push(node("InstanceNormalization", &["x", "ones", "zeros"], "a", norm));
    graph.push(node("Mul", &["a", "val_1"], "b", norm));
    graph.push(node("Add", &["b", "val_2"], "c", norm));
    graph.push(node("Conv", &["c", "net.input_blocks.3.1.qkv.weight"], "d", "net.input_blocks.3.1.qkv"));
    graph.push(node("Reshape", &["d", "to"], "e", attention));
    graph.push(node("Split", &["e"], "f", attention));
    graph.push(node("Mul", &["f", "half"], "g", attention));
    onnx(&graph, "consistency-unet-32")
}

/// Parses bytes as a whole GGUF file.
pub fn parse(bytes: &[u8]) -> Result<Gguf> {
    Gguf::parse_header(bytes, bytes.len() as u64, Path::new("test.gguf"))
}

/// The sentence of an expected error, which must name the file and be of the expected kind.
#[track_caller]
pub fn sentence<T: std::fmt::Debug>(result: Result<T>) -> String {
    let error = result.expect_err("an error was expected");
    assert!(!matches!(error, Error::NeedMore { .. }), "a whole file was given: {error}");
    error.to_string()
}

/// Raw pieces of a GGUF file, for files that no writer would write.
#[derive(Default)]
pub struct Raw(pub Vec<u8>);

impl Raw {
    /// The fixed beginning: version 3, with these counts.
    pub fn header(tensors: u64, entries: u64) -> Raw {
        let mut raw = Raw(b"GGUF".to_vec());
        raw.0.extend(3u32.to_le_bytes());
        raw.u64(tensors).u64(entries);
        raw
    }

    pub fn u32(&mut self, n: u32) -> &mut Raw {
        self.0.extend(n.to_le_bytes());
        self
    }

    pub fn u64(&mut self, n: u64) -> &mut Raw {
        self.0.extend(n.to_le_bytes());
        self
    }

    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Raw {
        self.0.extend(bytes);
        self
    }

    pub fn str(&mut self, text: &[u8]) -> &mut Raw {
        self.u64(text.len() as u64).bytes(text)
    }

    /// A tensor's description.
    pub fn tensor(&mut self, name: &str, dims: &[u64], dtype: u32, offset: u64) -> &mut Raw {
        self.str(name.as_bytes()).u32(dims.len() as u32);
        for d in dims {
            self.u64(*d);
        }
        self.u32(dtype).u64(offset)
    }

    /// `n` bytes more, as if data followed.
    pub fn data(&mut self, n: usize) -> &mut Raw {
        self.0.resize(self.0.len().next_multiple_of(32) + n, 0);
        self
    }
}
