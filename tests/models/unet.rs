//! UNets, ControlNets and autoencoders against diffusers: every layer, odd sizes, several pictures at once.

use crate::pictures::{Golden, near};
use hob_cpu::{Cpu, Precision};
use hob_graph::Plan;
use hob_models::unet::{Config, Size};
use hob_models::{controlnet, vae};
use serde_json::json;

const UNETS: [&str; 5] = ["sd15", "sd21", "sdxl", "inpaint", "distilled"];
const SIZE: Size = Size { batch: 2, height: 9, width: 7, text: 5, pooled: 7, residuals: false };

fn open(name: &str) -> (Golden, Config) {
    let golden = Golden::diffusers(&format!("unet/{name}"));
    let config = Config::parse(&golden.config()).unwrap();
    (golden, config)
}

/// The names of what a UNet of this golden is given.
fn inputs(name: &str) -> Vec<&'static str> {
    let more: &[&str] = match name {
        "sdxl" | "control-sdxl" => &["pooled", "time_ids"],
        "distilled" => &["guidance"],
        _ => &[],
    };
    [&["latents", "timestep", "text"], more].concat()
}

#[test]
fn every_layer_of_a_unet_is_that_of_diffusers() {
    for name in UNETS {
        let (golden, config) = open(name);
        let graph = golden.traced(config.graph(SIZE).unwrap(), str::to_string);
        let out = golden.run(graph, &golden.inputs(&inputs(name)));
        assert_eq!(golden.same_layers(&out), golden.layers().len(), "layers of {name}");
        golden.same(&out["sample"], "sample");
    }
}

/// 6 by 5 of the latents, which three levels round in other places than 9 by 7.
#[test]
fn another_odd_size_is_that_of_diffusers() {
    for name in UNETS {
        let (golden, config) = open(name);
        let mut given = golden.inputs(&inputs(name));
        let rows = given[0].1.chunks(7).enumerate().filter(|(row, _)| row % 9 < 6);
        given[0].1 = rows.flat_map(|(_, row)| &row[..5]).copied().collect();
        let graph = config.graph(Size { height: 6, width: 5, ..SIZE }).unwrap();
        golden.same(&golden.run(graph, &given)["sample"], "sample.small");
    }
}

#[test]
fn what_a_controlnet_says_is_added() {
    for name in ["sd15", "sd21", "sdxl", "distilled"] {
        let (golden, config) = open(name);
        let graph = config.graph(Size { residuals: true, ..SIZE }).unwrap();
        let names: Vec<String> = graph.inputs.iter().map(|i| i.name.clone()).collect();
        assert!(names.contains(&"residual.mid".into()) && names.contains(&"residual.5".into()));
        let given = golden.inputs(&names.iter().map(|n| n.as_str()).collect::<Vec<_>>());
        golden.same(&golden.run(graph, &given)["sample"], "sample.controlled");
    }
}

#[test]
fn pictures_at_once_are_those_alone() {
    for name in UNETS {
        let (golden, config) = open(name);
        let together = golden.arrays.get("sample");
        for i in 0..2 {
            let mut given = golden.inputs(&inputs(name));
            for (_, x) in &mut given {
                *x = x[i * x.len() / 2..(i + 1) * x.len() / 2].to_vec();
            }
            let graph = config.graph(Size { batch: 1, ..SIZE }).unwrap();
            let half = together.len() / 2;
            let part = &together[i * half..(i + 1) * half];
            near(&golden.run(graph, &given)["sample"], part, &format!("picture {i} of {name}"));
        }
    }
}

#[test]
fn controlnets_say_what_those_of_diffusers_say() {
    for (name, width) in [("control-sd15", 3), ("control-sdxl", 7)] {
        let golden = Golden::diffusers(&format!("unet/{name}"));
        let mut config = controlnet::Config::parse(&golden.config()).unwrap();
        let run = |config: &controlnet::Config, scales: Vec<f32>, trace| {
            let mut graph = config.graph(Size { height: 5, width, ..SIZE }).unwrap();
            if trace {
                graph = golden.traced(graph, str::to_string);
            }
            let mut given = golden.inputs(&[inputs(name), vec!["image"]].concat());
            given.push(("scales", scales));
            golden.run(graph, &given)
        };
        let names: Vec<String> = (0..6).map(|i| i.to_string()).chain(["mid".into()]).collect();
        assert_eq!(config.residuals(), names.len());
        let strength = vec![0.7; names.len()];
        let out = run(&config, strength.clone(), true);
        assert_eq!(golden.same_layers(&out), golden.layers().len(), "layers of {name}");
        let guess = (0..7).map(|i| 0.7 * 10f32.powf(i as f32 / 6.0 - 1.0)).collect();
        let guessed = run(&config, guess, false);
        for n in &names {
            golden.same(&out[&format!("residual.{n}")], &format!("residual.{n}"));
            golden.same(&guessed[&format!("residual.{n}")], &format!("guess.{n}"));
        }
        if name == "control-sd15" {
            config.global_pool_conditions = true;
            let pooled = run(&config, strength, false);
            for n in &names {
                let (found, wanted) =
                    (&pooled[&format!("residual.{n}")], golden.arrays.get(&format!("pool.{n}")));
                let area = found.len() / wanted.len();
                let spread: Vec<f32> = wanted.iter().flat_map(|&x| vec![x; area]).collect();
                near(found, &spread, &format!("pool.{n}"));
            }
        }
    }
}

#[test]
fn autoencoders_are_those_of_diffusers() {
    for name in ["kl4", "kl16"] {
        let golden = Golden::diffusers(&format!("unet/{name}"));
        let config = vae::Config::parse(&golden.config()).unwrap();
        assert_eq!(config.reduction(), 4);
        let encoder = golden.traced(config.encoder(2, 27, 22).unwrap(), str::to_string);
        let encoded = golden.run(encoder, &[("pixels", golden.arrays.get("image"))]);
        golden.same(&encoded["mean"], "mean");
        golden.same(&encoded["logvar"], "logvar");
        let decoder = golden.traced(config.decoder(2, 5, 7).unwrap(), str::to_string);
        let decoded = golden.run(decoder, &golden.inputs(&["latents"]));
        golden.same(&decoded["pixels"], "decoded");
        let layers = golden.same_layers(&encoded) + golden.same_layers(&decoded);
        assert_eq!(layers, golden.layers().len(), "layers of {name}");
        // Alone, and at the sides of a tile.
        let latents = golden.arrays.get("latents");
        let alone = golden
            .run(config.decoder(1, 5, 7).unwrap(), &[("latents", latents[latents.len() / 2..].to_vec())]);
        let wanted = golden.arrays.get("decoded");
        near(&alone["pixels"], &wanted[wanted.len() / 2..], "the second alone");
    }
}

/// Of the largest picture, 256 channels of 512 by 512, three are held at most: a layer's input, its norm, and what follows.
#[test]
fn real_sizes_are_planned_within_bounds() {
    let cpu = Cpu::new(2, Precision::Exact);
    let kl = json!({"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2});
    let decoder = vae::Config::parse(&kl).unwrap().decoder(1, 64, 64).unwrap();
    let denoiser = Config::parse(&json!({"cross_attention_dim": 768})).unwrap();
    let denoiser = denoiser.graph(Size { height: 64, width: 64, text: 77, ..SIZE }).unwrap();
    for (graph, most) in [(decoder, 3 * 256), (denoiser, 256)] {
        let plan = Plan::new(&graph, &cpu);
        assert!(plan.arena + plan.scratch <= (most + 32) << 20, "{} and {}", plan.arena, plan.scratch);
    }
}
