//! A Flux in floats of 8 bits against diffusers with the same numbers in float32: with ComfyUI's scales in their old and their
//! new form, and without.

use crate::flux::Tiny;
use crate::golden::{Arrays, folder, largest_difference};
use hob_cpu::{Tensor, Weights};
use hob_graph::scale::scaled;
use hob_io::Pipeline;
use hob_io::pipeline::Role;
use std::sync::Arc;

#[test]
fn weights_in_floats_of_8_bits_stay_so_and_are_scaled() {
    let tiny = Tiny::open("dev");
    let goldens = Arrays::open("float8", "golden");
    for name in ["scaled", "noted", "plain"] {
        let pipeline = Pipeline::open(&folder("float8").join(format!("{name}.safetensors"))).unwrap();
        let part = pipeline.part(Role::Denoiser).unwrap();
        assert_eq!(part.tensors.len(), tiny.checkpoint.tensors.len(), "{name}");
        let eights = part.tensors.values().filter(|t| t.dtype.is_float8()).count();
        let matrices = part.tensors.values().filter(|t| t.shape.len() > 1).count();
        let (stored, scales) = if name == "plain" { (part.tensors.len(), 0) } else { (matrices, matrices) };
        assert_eq!((eights, part.scales.len()), (stored, scales), "{name}");

        let mut weights = Weights::default();
        for (name, t) in &part.tensors {
            let bytes: Arc<Vec<u8>> = Arc::new(part.bytes(t).to_vec());
            let len = bytes.len();
            weights.insert(name, Tensor::shared(t.dtype, bytes, 0..len));
        }
        let mut graph = tiny.config.graph(tiny.size()).unwrap();
        graph.bind(|n| part.tensors.get(n).map(|t| (t.dtype, t.shape.clone()))).unwrap();
        let graph = scaled(&graph, |n| part.scales.get(n).copied()).unwrap();
        let [sample] = &tiny.run(graph, &weights, 0, &["sample".into()])[..] else { panic!("one output") };
        let golden = goldens.get(name);
        let largest = golden.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        let off = largest_difference(sample, &golden) / largest;
        assert!(off < 1e-4, "{name}: {off}");
    }
}
