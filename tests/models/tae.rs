//! The tiny autoencoder against diffusers; its graph is run, planned and differentiated like any other.

use crate::golden::{Arrays, folder, largest_difference};
use hob_cpu::exec::Memory;
use hob_cpu::{Cpu, Precision, Tensor, Weights};
use hob_graph::{Batch, Builder, DType, Data, Graph, Plan, grad};
use hob_io::Checkpoint;
use hob_models::tae::Config;
use std::sync::Arc;

fn open() -> (Config, Checkpoint, Weights) {
    let folder = folder("tae");
    let config = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
    let checkpoint = Checkpoint::open(&folder.join("diffusion_pytorch_model.safetensors")).unwrap();
    let mut weights = Weights::default();
    for (name, t) in &checkpoint.tensors {
        let bytes: Arc<Vec<u8>> = Arc::new(checkpoint.bytes(t).to_vec());
        let len = bytes.len();
        weights.insert(name, Tensor::shared(t.dtype, bytes, 0..len));
    }
    (Config::parse(&config).unwrap(), checkpoint, weights)
}

fn bind(mut graph: Graph, checkpoint: &Checkpoint) -> Graph {
    graph.bind(|n| checkpoint.tensors.get(n).map(|t| (t.dtype, t.shape.clone()))).unwrap();
    graph
}

fn run(graph: Graph, weights: &Weights, input: (&str, &[f32]), output: &str) -> Vec<f32> {
    let mut cpu = Cpu::new(2, Precision::Exact);
    cpu.check = true;
    let program = cpu.program(graph, weights).unwrap();
    let mut memory = Memory::new();
    let inputs = [(input.0, Data::F32(input.1))];
    cpu.run(&program, &mut memory, None, &Batch { inputs: &inputs, seqs: &[] }).unwrap();
    program.output(&memory, output).unwrap().to_vec()
}

#[test]
fn pictures_and_latents_are_those_of_diffusers() {
    let ((config, checkpoint, weights), arrays) = (open(), Arrays::open("tae", "golden"));
    let encoder = bind(config.encoder(1, 32, 40).unwrap(), &checkpoint);
    let latents = run(encoder, &weights, ("pixels", &arrays.get("image")), "latents");
    let d = largest_difference(&latents, &arrays.get("latents"));
    assert!(d < 1e-4, "latents differ by {d}");
    for (from, to) in [("latents", "decoded"), ("latents_large", "decoded_large")] {
        let decoder = bind(config.decoder(1, 4, 5).unwrap(), &checkpoint);
        let pixels = run(decoder, &weights, ("latents", &arrays.get(from)), "pixels");
        let d = largest_difference(&pixels, &arrays.get(to));
        assert!(d < 1e-4, "{to} differs by {d}");
    }
}

#[test]
fn a_decoder_is_planned_without_weights() {
    let (config, checkpoint, _) = open();
    let cpu = Cpu::new(2, Precision::Exact);
    let graph = bind(config.decoder(1, 64, 64).unwrap(), &checkpoint);
    let plan = Plan::new(&graph, &cpu);
    // At full size a block holds its input, its skip and one more: three pictures of 12 channels, and little else.
    let full = 12 * 512 * 512 * 4;
    assert!(plan.arena >= 2 * full && plan.arena <= 4 * full, "{} against {full}", plan.arena);
}

/// The gradient of a picture's mean square with respect to a weight, against a step along it.
#[test]
fn a_decoder_is_differentiated() {
    let ((config, checkpoint, mut weights), arrays) = (open(), Arrays::open("tae", "golden"));
    let latents = arrays.get("latents");
    let name = "decoder.layers.0.weight";
    let graph = config.decoder(1, 4, 5).unwrap();
    let pixels = graph.output("pixels").unwrap();
    let g = Builder::over(graph);
    let x = g.at(pixels);
    g.output("loss", (x * x).sum_all() * (1.0 / x.shape().count() as f32));
    let graph = bind(g.finish().unwrap(), &checkpoint);

    let with_gradient = grad(&graph, "loss", &[name]).unwrap();
    let d = run(with_gradient, &weights, ("latents", &latents), &format!("grad:{name}"));
    let stored = weights.get(name).unwrap();
    let mut w = vec![0.0; d.len()];
    DType::F32.decode(stored.bytes(), &mut w);
    let length = d.iter().map(|d| d * d).sum::<f32>().sqrt();
    assert!(length > 1e-4, "the gradient is {length}");
    let step = 1e-2;
    let mut loss_at = |sign: f32| {
        let moved: Vec<f32> = w.iter().zip(&d).map(|(w, d)| w + sign * step * d / length).collect();
        weights.insert(name, Tensor::from_f32(&moved).unwrap());
        run(graph.clone(), &weights, ("latents", &latents), "loss")[0]
    };
    let slope = (loss_at(1.0) - loss_at(-1.0)) / (2.0 * step);
    assert!(
        (slope / length - 1.0).abs() < 0.02,
        "along the gradient the loss rises by {slope}, not {length}"
    );
}
