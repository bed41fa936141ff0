//! The tiny autoencoder against diffusers; its graph is run, planned and differentiated like any other.

use crate::pictures::Golden;
use hob_cpu::{Cpu, Precision, Tensor};
use hob_graph::{Builder, DType, Plan, grad};
use hob_models::tae::Config;

fn open() -> (Config, Golden) {
    let golden = Golden::diffusers("tae");
    (Config::parse(&golden.config()).unwrap(), golden)
}

#[test]
fn pictures_and_latents_are_those_of_diffusers() {
    let (config, golden) = open();
    let encoded = golden.run(config.encoder(1, 32, 40).unwrap(), &[("pixels", golden.arrays.get("image"))]);
    golden.same(&encoded["latents"], "latents");
    for (from, to) in [("latents", "decoded"), ("latents_large", "decoded_large")] {
        let decoder = config.decoder(1, 4, 5).unwrap();
        let decoded = golden.run(decoder, &[("latents", golden.arrays.get(from))]);
        golden.same(&decoded["pixels"], to);
    }
}

#[test]
fn a_decoder_is_planned_without_weights() {
    let (config, golden) = open();
    let cpu = Cpu::new(2, Precision::Exact);
    let graph = golden.bind(config.decoder(1, 64, 64).unwrap());
    let plan = Plan::new(&graph, &cpu);
    // At full size a block holds its input, its skip and one more: three pictures of 12 channels, and little else.
    let full = 12 * 512 * 512 * 4;
    assert!(plan.arena >= 2 * full && plan.arena <= 4 * full, "{} against {full}", plan.arena);
}

/// The gradient of a picture's mean square with respect to a weight, against a step along it.
#[test]
fn a_decoder_is_differentiated() {
    let (config, mut golden) = open();
    let latents = golden.inputs(&["latents"]);
    let name = "decoder.layers.0.weight";
    let graph = config.decoder(1, 4, 5).unwrap();
    let pixels = graph.output("pixels").unwrap();
    let g = Builder::over(graph);
    let x = g.at(pixels);
    g.output("loss", (x * x).sum_all() * (1.0 / x.shape().count() as f32));
    let graph = golden.bind(g.finish().unwrap());

    let with_gradient = grad(&graph, "loss", &[name]).unwrap();
    let d = golden.run(with_gradient, &latents).remove(&format!("grad:{name}")).unwrap();
    let stored = golden.weights.get(name).unwrap();
    let mut w = vec![0.0; d.len()];
    DType::F32.decode(stored.bytes(), &mut w);
    let length = d.iter().map(|d| d * d).sum::<f32>().sqrt();
    assert!(length > 1e-4, "the gradient is {length}");
    let step = 1e-2;
    let mut loss_at = |sign: f32| {
        let moved: Vec<f32> = w.iter().zip(&d).map(|(w, d)| w + sign * step * d / length).collect();
        golden.weights.insert(name, Tensor::from_f32(&moved).unwrap());
        golden.run(graph.clone(), &latents)["loss"][0]
    };
    let slope = (loss_at(1.0) - loss_at(-1.0)) / (2.0 * step);
    assert!(
        (slope / length - 1.0).abs() < 0.02,
        "along the gradient the loss rises by {slope}, not {length}"
    );
}
