//! Upscalers against torch, in all namings of their tensors.

use crate::pictures::{Golden, near};
use hob_models::esrgan::{Config, new_name};

#[test]
fn upscalers_are_those_of_torch() {
    let all =
        [("x4", 4, 1), ("x2", 2, 2), ("x1", 1, 4), ("old-x4", 4, 1), ("old-x1", 1, 1), ("compact-x4", 4, 1)];
    for (name, scale, multiple) in all {
        let golden = Golden::open(&format!("esrgan/{name}"), "model.safetensors", new_name);
        let config = Config::detect(|n| golden.checkpoint.tensors.get(n).map(|t| t.shape.clone())).unwrap();
        assert_eq!((config.scale(), config.multiple()), (scale, multiple), "{name}");
        let graph = golden.traced(config.graph(1, 8, 12).unwrap(), new_name);
        assert_eq!(graph.weights.len(), golden.checkpoint.tensors.len(), "weights of {name}");
        let image = golden.arrays.get("image");
        let out = golden.run(graph, &[("pixels", image.clone())]);
        golden.same(&out["upscaled"], "out");
        let slopes = if name == "compact-x4" { 3 } else { 0 }; // PReLU is no node
        assert_eq!(golden.same_layers(&out) + slopes, golden.layers().len(), "layers of {name}");

        let mut both: Vec<f32> = image.iter().map(|x| 1.0 - x).collect();
        both.extend(&image);
        let out = golden.run(config.graph(2, 8, 12).unwrap(), &[("pixels", both)]);
        let half = out["upscaled"].len() / 2;
        near(&out["upscaled"][half..], &golden.arrays.get("out"), &format!("the second picture of {name}"));
    }
}
