//! A small model as a GGUF file, and every way to spoil it. It is written byte by byte: no writer would write what the
//! tests need.

use crate::common::{World, noise};
use hob_dtype::DType;
use std::path::PathBuf;

/// A value of the metadata.
#[derive(Clone)]
pub enum Meta {
    Str(String),
    U32(u32),
    U64(u64),
    F32(f32),
    Strs(Vec<String>),
    I32s(Vec<i32>),
}

/// A tensor: its name, dimensions (row-major), ggml's number of its format, and its bytes.
#[derive(Clone)]
pub struct Stored {
    pub name: String,
    pub shape: Vec<u64>,
    pub ggml: u32,
    pub bytes: Vec<u8>,
}

/// What a file will hold.
#[derive(Clone)]
pub struct Tiny {
    pub meta: Vec<(String, Meta)>,
    pub tensors: Vec<Stored>,
}

pub const HIDDEN: usize = 64;
pub const FFN: usize = 128;
pub const HEADS: usize = 4;
pub const KV_HEADS: usize = 2;
pub const LAYERS: usize = 2;
pub const EXPERTS: usize = 4;
pub const CONTEXT: usize = 512;
/// 256 bytes, `<|im_start|>`, `<|im_end|>` and `th`
pub const VOCAB: usize = 259;
pub const TEMPLATE: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
                            {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// GPT-2's printable character for a byte.
pub fn letter(byte: u8) -> char {
    let plain = |b: u8| matches!(b, 33..=126 | 161..=172 | 174..=255);
    match plain(byte) {
        true => byte as char,
        false => char::from_u32(256 + (0..byte).filter(|b| !plain(*b)).count() as u32).unwrap(),
    }
}

impl Tiny {
    /// A Llama of two layers with weights by chance: linear ones in Q8_0, the rest in F32.
    pub fn llama() -> Tiny {
        let mut tiny = Tiny { meta: Vec::new(), tensors: Vec::new() };
        tiny.set("general.architecture", Meta::Str("llama".into()));
        for (key, n) in [
            ("block_count", LAYERS),
            ("embedding_length", HIDDEN),
            ("feed_forward_length", FFN),
            ("attention.head_count", HEADS),
            ("attention.head_count_kv", KV_HEADS),
            ("context_length", CONTEXT),
        ] {
            tiny.set(&format!("llama.{key}"), Meta::U32(n as u32));
        }
        tiny.set("llama.attention.layer_norm_rms_epsilon", Meta::F32(1e-5));
        let mut tokens: Vec<String> = (0..=255).map(|b| letter(b).to_string()).collect();
        tokens.extend(["<|im_start|>", "<|im_end|>", "th"].map(String::from));
        let mut types = vec![1; 256];
        types.extend([3, 3, 1]);
        tiny.set("tokenizer.ggml.model", Meta::Str("gpt2".into()));
        tiny.set("tokenizer.ggml.pre", Meta::Str("gpt-2".into()));
        tiny.set("tokenizer.ggml.tokens", Meta::Strs(tokens));
        tiny.set("tokenizer.ggml.token_type", Meta::I32s(types));
        tiny.set("tokenizer.ggml.merges", Meta::Strs(vec!["t h".into()]));
        tiny.set("tokenizer.ggml.eos_token_id", Meta::U32(257));
        tiny.set("tokenizer.chat_template", Meta::Str(TEMPLATE.into()));

        tiny.weight("token_embd.weight", DType::Q8_0, &[VOCAB, HIDDEN]);
        tiny.weight("output.weight", DType::Q8_0, &[VOCAB, HIDDEN]);
        tiny.weight("output_norm.weight", DType::F32, &[HIDDEN]);
        let head = HIDDEN / HEADS;
        for i in 0..LAYERS {
            for (name, shape) in [
                ("attn_q", &[HIDDEN, HIDDEN][..]),
                ("attn_k", &[KV_HEADS * head, HIDDEN]),
                ("attn_v", &[KV_HEADS * head, HIDDEN]),
                ("attn_output", &[HIDDEN, HIDDEN]),
                ("ffn_gate", &[FFN, HIDDEN]),
                ("ffn_up", &[FFN, HIDDEN]),
                ("ffn_down", &[HIDDEN, FFN]),
                ("attn_norm", &[HIDDEN]),
                ("ffn_norm", &[HIDDEN]),
            ] {
                let dtype = if shape.len() == 2 { DType::Q8_0 } else { DType::F32 };
                tiny.weight(&format!("blk.{i}.{name}.weight"), dtype, shape);
            }
        }
        tiny
    }

    /// The same with two of four experts in place of each layer's MLP.
    pub fn mixtral() -> Tiny {
        let mut tiny = Tiny::llama();
        tiny.set("llama.expert_count", Meta::U32(EXPERTS as u32));
        tiny.set("llama.expert_used_count", Meta::U32(2));
        for i in 0..LAYERS {
            tiny.tensors.retain(|t| {
                ["gate", "up", "down"].iter().all(|n| t.name != format!("blk.{i}.ffn_{n}.weight"))
            });
            tiny.weight(&format!("blk.{i}.ffn_gate_inp.weight"), DType::F32, &[EXPERTS, HIDDEN]);
            for (name, shape) in [("gate", [FFN, HIDDEN]), ("up", [FFN, HIDDEN]), ("down", [HIDDEN, FFN])] {
                let shape = [EXPERTS, shape[0], shape[1]];
                tiny.weight(&format!("blk.{i}.ffn_{name}_exps.weight"), DType::Q8_0, &shape);
            }
        }
        tiny
    }

    /// Sets a value of the metadata.
    pub fn set(&mut self, key: &str, value: Meta) {
        match self.meta.iter_mut().find(|(k, _)| k == key) {
            Some(entry) => entry.1 = value,
            None => self.meta.push((key.into(), value)),
        }
    }

    /// Takes out a value, or all that begin so.
    pub fn unset(&mut self, prefix: &str) {
        let before = self.meta.len();
        self.meta.retain(|(k, _)| !k.starts_with(prefix));
        assert_ne!(before, self.meta.len(), "there is no {prefix}");
    }

    /// Adds or replaces a weight, with numbers by chance around 0 (of a norm: around 1).
    pub fn weight(&mut self, name: &str, dtype: DType, shape: &[usize]) {
        let n = shape.iter().product();
        let offset = if shape.len() == 1 { 1.0 } else { 0.0 };
        let seed = name.bytes().fold(7, |h: u64, b| h.wrapping_mul(31).wrapping_add(b as u64) & 0xffff_ffff);
        let values: Vec<f32> = noise(n, seed).iter().map(|b| offset + (*b as f32 - 127.5) / 512.0).collect();
        let mut bytes = vec![0; dtype.bytes(n).unwrap()];
        dtype.encode(&values, &mut bytes);
        let shape = shape.iter().map(|d| *d as u64).collect();
        self.tensors.retain(|t| t.name != name);
        self.tensors.push(Stored {
            name: name.into(),
            shape,
            ggml: dtype.ggml().expect("a format of GGUF"),
            bytes,
        });
    }

    /// The tensor of that name.
    pub fn tensor(&mut self, name: &str) -> &mut Stored {
        self.tensors.iter_mut().find(|t| t.name == name).unwrap()
    }

    /// The file's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut f = b"GGUF\x03\0\0\0".to_vec();
        let u64s = |f: &mut Vec<u8>, n: u64| f.extend(n.to_le_bytes());
        let text = |f: &mut Vec<u8>, s: &str| {
            u64s(f, s.len() as u64);
            f.extend(s.as_bytes());
        };
        u64s(&mut f, self.tensors.len() as u64);
        u64s(&mut f, self.meta.len() as u64);
        for (key, value) in &self.meta {
            text(&mut f, key);
            let kind = |f: &mut Vec<u8>, kind: u32| f.extend(kind.to_le_bytes());
            match value {
                Meta::U32(n) => (kind(&mut f, 4), f.extend(n.to_le_bytes())).1,
                Meta::F32(x) => (kind(&mut f, 6), f.extend(x.to_le_bytes())).1,
                Meta::Str(s) => (kind(&mut f, 8), text(&mut f, s)).1,
                Meta::U64(n) => (kind(&mut f, 10), u64s(&mut f, *n)).1,
                Meta::Strs(list) => {
                    kind(&mut f, 9);
                    kind(&mut f, 8);
                    u64s(&mut f, list.len() as u64);
                    list.iter().for_each(|s| text(&mut f, s));
                }
                Meta::I32s(list) => {
                    kind(&mut f, 9);
                    kind(&mut f, 5);
                    u64s(&mut f, list.len() as u64);
                    list.iter().for_each(|n| f.extend(n.to_le_bytes()));
                }
            }
        }
        let mut offset = 0;
        for t in &self.tensors {
            text(&mut f, &t.name);
            f.extend((t.shape.len() as u32).to_le_bytes());
            t.shape.iter().rev().for_each(|d| u64s(&mut f, *d));
            f.extend(t.ggml.to_le_bytes());
            u64s(&mut f, offset);
            offset += t.bytes.len().next_multiple_of(32) as u64;
        }
        for t in &self.tensors {
            f.resize(f.len().next_multiple_of(32), 0);
            f.extend(&t.bytes);
        }
        f
    }

    /// Writes it into the world as `NAME.gguf`.
    pub fn write(&self, world: &World, name: &str) -> PathBuf {
        let path = world.path(&format!("{name}.gguf"));
        std::fs::write(&path, self.bytes()).unwrap();
        path
    }
}
