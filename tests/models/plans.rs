//! Printed graphs and plans: a change that moves a buffer shows here. `cargo insta review` accepts what was meant.

use crate::golden::folder;
use hob_engine::Outline;
use hob_graph::Plan;
use hob_graph::plan::Null;
use hob_io::Checkpoint;
use hob_models::tae;
use std::sync::Arc;

/// Planned for no backend: working memory is the processor's affair, and differs from one to another.
fn show(graph: &hob_graph::Graph) -> String {
    format!("{graph}\n{}", Plan::new(graph, &Null).table(graph))
}

fn outline(name: &str) -> Outline {
    let checkpoint = Checkpoint::open(&folder(&format!("tiny/{name}"))).unwrap();
    Outline::of(&Arc::new(checkpoint)).unwrap()
}

#[test]
fn language_models_are_planned_as_before() {
    for name in ["llama", "llama-bias", "gemma3", "qwen3-moe"] {
        let graph = outline(name).graph(6, 1).unwrap();
        insta::assert_snapshot!(format!("plan of {name}"), show(&graph));
    }
}

#[test]
fn a_picture_decoder_is_planned_as_before() {
    let config = std::fs::read(folder("tae").join("config.json")).unwrap();
    let config = tae::Config::parse(&serde_json::from_slice(&config).unwrap()).unwrap();
    insta::assert_snapshot!("plan of tae", show(&config.decoder(1, 4, 5).unwrap()));
}

#[test]
fn a_gradient_is_planned_as_before() {
    let graph = outline("llama").training_graph(6).unwrap();
    let graph = hob_graph::grad(&graph, "loss", &["model.layers.1.mlp.up_proj.weight"]).unwrap();
    insta::assert_snapshot!("plan of a gradient", show(&graph));
}
