//! Flux against diffusers: two tiny random transformers, each block, at odd sizes.

use crate::golden::{Arrays, facts, folder, largest_difference};
use hob_cpu::exec::Memory;
use hob_cpu::{Cpu, Precision, Tensor, Weights};
use hob_graph::{Batch, DType, Data, Graph, Plan};
use hob_io::Checkpoint;
use hob_models::flux::{Config, Size, pack, unpack};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

const NAMES: [&str; 2] = ["schnell", "dev"];

/// One of the tiny models, with its golden.
pub struct Tiny {
    pub config: Config,
    pub checkpoint: Checkpoint,
    pub weights: Weights,
    pub arrays: Arrays,
    facts: Value,
}

impl Tiny {
    pub fn open(name: &str) -> Tiny {
        let name = format!("flux/{name}");
        let checkpoint =
            Checkpoint::open(&folder(&name).join("diffusion_pytorch_model.safetensors")).unwrap();
        let mut weights = Weights::default();
        for (name, t) in &checkpoint.tensors {
            let bytes: Arc<Vec<u8>> = Arc::new(checkpoint.bytes(t).to_vec());
            let len = bytes.len();
            weights.insert(name, Tensor::shared(t.dtype, bytes, 0..len));
        }
        Tiny {
            config: config(&name),
            checkpoint,
            weights,
            arrays: Arrays::open(&name, "golden"),
            facts: facts(&name),
        }
    }

    pub fn size(&self) -> Size {
        let [batch, text, height, width] =
            ["batch", "text", "height", "width"].map(|key| self.facts[key].as_u64().unwrap() as usize);
        Size { batch, text, height, width, ..Size::default() }
    }

    fn bound(&self, mut graph: Graph) -> Graph {
        graph.bind(|n| self.checkpoint.tensors.get(n).map(|t| (t.dtype, t.shape.clone()))).unwrap();
        graph
    }

    /// What `graph` gives for the golden's pictures from `from` on, by the outputs' names.
    pub fn run(&self, graph: Graph, weights: &Weights, from: usize, outputs: &[String]) -> Vec<Vec<f32>> {
        let mut cpu = Cpu::new(2, Precision::Exact);
        cpu.check = true;
        let names = [
            ("latents", "packed"),
            ("text", "text"),
            ("pooled", "pooled"),
            ("timestep", "timestep"),
            ("guidance", "guidance"),
        ];
        let guided = self.config.guidance_embeds;
        let inputs: Vec<(&str, Vec<f32>)> = (names.iter().filter(|(name, _)| guided || *name != "guidance"))
            .map(|&(name, golden)| {
                let all = self.arrays.get(golden);
                let wanted = graph.inputs.iter().find(|i| i.name == name).unwrap().shape.count();
                (name, all[from * all.len() / self.size().batch..][..wanted].to_vec())
            })
            .collect();
        let program = cpu.program(graph, weights).unwrap();
        let mut memory = Memory::new();
        let inputs: Vec<_> = inputs.iter().map(|(name, x)| (*name, Data::F32(x.as_slice()))).collect();
        cpu.run(&program, &mut memory, None, &Batch { inputs: &inputs, seqs: &[] }).unwrap();
        outputs.iter().map(|name| program.output(&memory, name).unwrap().to_vec()).collect()
    }

    /// All parts that a golden shows.
    fn shown(&self) -> Vec<String> {
        let double = (0..self.config.num_layers).map(|i| format!("transformer_blocks.{i}"));
        let single = (0..self.config.num_single_layers).map(|i| format!("single_transformer_blocks.{i}"));
        let rest = ["time_text_embed", "norm_out", "sample"].map(String::from);
        double.chain(single).chain(rest).collect()
    }
}

fn config(name: &str) -> Config {
    Config::parse(&raw(name)).unwrap()
}

fn raw(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(folder(name).join("config.json")).unwrap()).unwrap()
}

/// The largest difference, as a part of the largest value.
pub fn off(ours: &[f32], theirs: &[f32]) -> f32 {
    largest_difference(ours, theirs) / theirs.iter().fold(0.0, |m, x| x.abs().max(m))
}

#[test]
fn each_block_is_that_of_diffusers() {
    for name in NAMES {
        let tiny = Tiny::open(name);
        let outputs = tiny.shown();
        let graph = tiny.bound(tiny.config.graph_shown(tiny.size()).unwrap());
        let found = tiny.run(graph, &tiny.weights, 0, &outputs);
        for (output, ours) in outputs.iter().zip(found) {
            let d = off(&ours, &tiny.arrays.get(output));
            assert!(d < 1e-4, "{name}: {output} differs by {d}");
        }
    }
}

#[test]
fn a_picture_of_a_batch_is_that_picture_alone() {
    for name in NAMES {
        let tiny = Tiny::open(name);
        let whole = tiny.arrays.get("sample");
        for i in 0..tiny.size().batch {
            let graph = tiny.bound(tiny.config.graph(Size { batch: 1, ..tiny.size() }).unwrap());
            let ours = &tiny.run(graph, &tiny.weights, i, &["sample".into()])[0];
            let len = whole.len() / tiny.size().batch;
            let d = off(ours, &whole[i * len..][..len]);
            assert!(d < 1e-4, "{name}: picture {i} differs by {d}");
        }
    }
}

#[test]
fn scales_and_shifts_may_lie_the_other_way() {
    let tiny = Tiny::open("dev");
    let mut raw = raw("flux/dev");
    raw["norm_out_shift_first"] = json!(true);
    let other = Config::parse(&raw).unwrap();
    let mut weights = Tiny::open("dev").weights;
    for part in ["weight", "bias"] {
        let name = format!("norm_out.linear.{part}");
        let mut bytes = tiny.weights.get(&name).unwrap().bytes().to_vec();
        let half = bytes.len() / 2;
        bytes.rotate_left(half);
        weights.insert(&name, Tensor::shared(DType::F32, Arc::new(bytes), 0..2 * half));
    }
    let graph = tiny.bound(other.graph(tiny.size()).unwrap());
    let ours = &tiny.run(graph, &weights, 0, &["sample".into()])[0];
    assert!(off(ours, &tiny.arrays.get("sample")) < 1e-4);
}

#[test]
fn latents_are_packed_as_diffusers_does() {
    for name in NAMES {
        let tiny = Tiny::open(name);
        let Size { batch, height, width, .. } = tiny.size();
        let dims = [batch, tiny.config.in_channels / 4, height, width];
        let (latents, packed) = (tiny.arrays.get("latents"), tiny.arrays.get("packed"));
        assert_eq!(pack(&latents, dims), packed);
        assert_eq!(unpack(&packed, dims), latents);
        assert_eq!(unpack(&tiny.arrays.get("sample"), dims), tiny.arrays.get("unpacked"));
    }
}

#[test]
fn the_real_model_is_planned_without_weights() {
    let config = json!({
        "patch_size": 1, "in_channels": 64, "num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128,
        "num_attention_heads": 24, "joint_attention_dim": 4096, "pooled_projection_dim": 768, "guidance_embeds": true,
    });
    let config = Config::parse(&config).unwrap();
    let size = Size { batch: 1, text: 512, height: 64, width: 64, ..Size::default() };
    let mut graph = config.graph(size).unwrap();
    let numbers: usize = graph.weights.iter().map(|w| w.shape.count()).sum();
    assert_eq!(numbers / 1_000_000, 11_901);
    let shapes: BTreeMap<String, Vec<usize>> =
        graph.weights.iter().map(|w| (w.name.clone(), w.shape.to_vec())).collect();
    let format = |dims: &[usize]| {
        if dims.len() == 2 && dims[1].is_multiple_of(256) { DType::Q4_K } else { DType::F32 }
    };
    graph.bind(|name| shapes.get(name).map(|dims| (format(dims), dims.clone()))).unwrap();
    let plan = Plan::new(&graph, &Cpu::new(2, Precision::Fast));
    // The joined rows of text and picture, once: at most a block holds them, its attention and MLP, and both joined.
    let rows = (512 + 64 * 64) * config.channels() * 4;
    assert!(plan.arena >= 9 * rows && plan.arena <= 12 * rows, "{} of {rows}", plan.arena);
}

#[test]
fn configurations_that_make_no_model_are_refused() {
    for (field, value, said) in [
        (
            "axes_dims_rope",
            json!([2, 2, 4]),
            "axes_dims_rope [2, 2, 4] are not three even parts of heads of 6",
        ),
        ("axes_dims_rope", json!([1, 3, 2]), "not three even parts"),
        ("patch_size", json!(2), "patch_size 2 is not supported"),
        ("num_layers", json!(1 << 20), "too many"),
        ("in_channels", json!(0), "in_channels is 0"),
        ("num_attention_heads", json!(1 << 23), "the width of the model"),
        ("num_single_layers", json!("all"), "invalid type"),
    ] {
        let mut raw = raw("flux/dev");
        raw[field] = value;
        let e = Config::parse(&raw).unwrap_err();
        assert!(e.contains(said), "{field}: {e}");
    }
}
