//! Text encoders of pictures against transformers: CLIP's and T5's, of prompts at once and one by one.

use crate::golden::{Arrays, facts, folder, largest_difference};
use hob_cpu::exec::Memory;
use hob_cpu::{Cpu, Precision, Tensor, Weights};
use hob_graph::{Batch, Data, Graph};
use hob_io::Checkpoint;
use hob_models::{clip, t5};
use serde_json::Value;
use std::sync::Arc;

struct Golden {
    config: Value,
    checkpoint: Checkpoint,
    weights: Weights,
    arrays: Arrays,
    /// of each prompt
    ids: Vec<Vec<u32>>,
}

fn open(name: &str) -> Golden {
    let at = format!("text/{name}");
    let config = serde_json::from_slice(&std::fs::read(folder(&at).join("config.json")).unwrap()).unwrap();
    let checkpoint = Checkpoint::open(&folder(&at).join("model.safetensors")).unwrap();
    let mut weights = Weights::default();
    for (name, t) in &checkpoint.tensors {
        let bytes: Arc<Vec<u8>> = Arc::new(checkpoint.bytes(t).to_vec());
        let len = bytes.len();
        weights.insert(name, Tensor::shared(t.dtype, bytes, 0..len));
    }
    let ids = serde_json::from_value(facts(&at)["ids"].clone()).unwrap();
    Golden { config, checkpoint, weights, arrays: Arrays::open(&at, "golden"), ids }
}

impl Golden {
    /// The outputs of that name, of a run over `ids`; `check` holds every op to its reference.
    fn run(
        &self,
        mut graph: Graph,
        ids: &[Vec<u32>],
        more: &[(&str, Data)],
        outputs: &[&str],
    ) -> Vec<Vec<f32>> {
        graph.bind(|n| self.checkpoint.tensors.get(n).map(|t| (t.dtype, t.shape.clone()))).unwrap();
        let mut cpu = Cpu::new(2, Precision::Exact);
        cpu.check = true;
        let program = cpu.program(graph, &self.weights).unwrap();
        let mut memory = Memory::new();
        let ids: Vec<i32> = ids.concat().iter().map(|&id| id as i32).collect();
        let mut inputs = vec![("ids", Data::I32(&ids))];
        inputs.extend(more.iter().cloned());
        cpu.run(&program, &mut memory, None, &Batch { inputs: &inputs, seqs: &[] }).unwrap();
        outputs.iter().map(|name| program.output(&memory, name).unwrap().to_vec()).collect()
    }

    /// Fails unless they differ by less than 1e-4 of the largest value.
    fn is(&self, got: &[f32], name: &str, what: &str) {
        let want = self.arrays.get(name);
        let largest = want.iter().fold(0f32, |m, x| m.max(x.abs()));
        let d = largest_difference(got, &want);
        assert!(d < 1e-4 * largest, "{what}: {name} differs by {d} of {largest}");
    }
}

#[test]
fn clip_is_that_of_transformers() {
    for name in ["clip", "clip-projection"] {
        let golden = open(name);
        let config = clip::Config::parse(&golden.config).unwrap();
        assert_eq!(config.has_projection(), name == "clip-projection");
        let ends: Vec<i32> =
            golden.ids.iter().zip(0..).map(|(ids, n)| n * 77 + config.end(ids) as i32).collect();
        let wanted = clip::Wanted { layer: 1, norm: true, pooled: true, vectors: false };
        for (layer, norm) in [(1, true), (1, false), (2, true), (2, false)] {
            let wanted = clip::Wanted { layer, norm, ..wanted };
            let graph = config.encoder(2, 77, wanted).unwrap();
            let outputs =
                golden.run(graph, &golden.ids, &[("ends", Data::I32(&ends))], &["hidden", "pooled"]);
            golden.is(&outputs[0], &format!("layer{layer}{}", if norm { ".norm" } else { "" }), name);
            golden.is(&outputs[1], "pooled", name);
        }
        // Each prompt by itself, without the pooled vector, for which a layer less is run.
        let graph = || config.encoder(1, 77, clip::Wanted { layer: 2, pooled: false, ..wanted }).unwrap();
        let whole = config.encoder(1, 77, clip::Wanted { layer: 2, ..wanted }).unwrap();
        assert!(graph().nodes.len() < whole.nodes.len());
        let hidden =
            golden.ids.iter().map(|ids| golden.run(graph(), std::slice::from_ref(ids), &[], &["hidden"]));
        golden.is(&hidden.flatten().flatten().collect::<Vec<f32>>(), "layer2.norm", name);

        // Textual inversion: vectors stand for the tokens 4 and 5.
        let (c, vectors) = (config.hidden_size, golden.arrays.get("vectors"));
        let (mut keep, mut given) = ([1.0; 77], vec![0.0; 77 * c]);
        keep[4..6].fill(0.0);
        given[4 * c..6 * c].copy_from_slice(&vectors);
        let graph = config.encoder(1, 77, clip::Wanted { vectors: true, pooled: false, ..wanted }).unwrap();
        let more = [("keep", Data::F32(&keep)), ("vectors", Data::F32(&given))];
        let hidden = golden.run(graph, &golden.ids[..1], &more, &["hidden"]);
        golden.is(&hidden[0], "inverted", name);
    }
}

#[test]
fn t5_is_that_of_transformers() {
    for name in ["t5", "umt5", "t5-relu"] {
        let golden = open(name);
        let config = t5::Config::parse(&golden.config).unwrap();
        let tokens = golden.ids[0].len();
        let hidden = golden.run(config.encoder(2, tokens).unwrap(), &golden.ids, &[], &["hidden"]);
        golden.is(&hidden[0], "hidden", name);
        let one =
            |ids| golden.run(config.encoder(1, tokens).unwrap(), std::slice::from_ref(ids), &[], &["hidden"]);
        let hidden: Vec<f32> = golden.ids.iter().flat_map(one).flatten().collect();
        golden.is(&hidden, "hidden", name);
    }
}
