//! The terrain model of the Python package adaptive-terrain-diffusion: real weights, against onnxruntime and the package.

use crate::golden::{Arrays, facts, largest_difference};
use crate::models::model;
use crate::pictures::near;
use hob_engine::diffuse::consistency::Consistency;
use hob_engine::diffuse::pcg64::Pcg64;
use hob_engine::diffuse::terrain::{Heights, Wanted, make};
use hob_engine::{Cpu, Precision};
use serde_json::Value;

const FILE: &str = "terrain_consistency_unet_difficulty100.onnx";
/// Of the golden's arrays each so-many-th number is kept.
const STEP: usize = 11;

fn open() -> Consistency {
    Consistency::open(&model(FILE), Cpu::new(2, Precision::Fast)).unwrap()
}

fn few(x: &[f32]) -> Vec<f32> {
    x.iter().step_by(STEP).copied().collect()
}

fn number(v: &Value) -> f32 {
    v.as_f64().unwrap() as f32
}

fn size(case: &Value, name: &str) -> usize {
    case[name].as_u64().unwrap() as usize
}

#[test]
fn the_network_is_that_of_onnxruntime() {
    let (mut terrain, golden) = (open(), Arrays::open("terrain", "golden"));
    let noise = golden.get("noise");
    let mut last = vec![0.0; noise.len()];
    for (i, case) in facts("terrain")["network"].as_array().unwrap().iter().enumerate() {
        let (sigma, label) = (number(&case["sigma"]), number(&case["difficulty"]));
        let noisy: Vec<f32> = last.iter().zip(&noise).map(|(x, n)| x + sigma * n).collect();
        let scaled: Vec<f32> = noisy.iter().map(|x| x / (sigma * sigma + 0.25).sqrt()).collect();
        let out = terrain.network(&scaled, 250.0 * sigma.ln(), label).unwrap();
        near(&few(&out), &golden.get(&format!("{i}.out")), &format!("the network at {sigma}"));
        last = terrain.denoise(&noisy, sigma, label).unwrap();
        near(&few(&last), &golden.get(&format!("{i}.denoised")), &format!("what it denoises at {sigma}"));
        // Before what is beyond -1..1 is cut off.
        let cut: Vec<f32> = golden.get(&format!("{i}.scaled")).iter().map(|x| x.clamp(-1.0, 1.0)).collect();
        near(&few(&last), &cut, &format!("what is cut off at {sigma}"));
    }
}

#[test]
fn noise_is_that_of_numpy() {
    let golden = Arrays::open("terrain", "golden");
    for case in facts("terrain")["draws"].as_array().unwrap() {
        let seed: u64 = case["seed"].as_str().unwrap().parse().unwrap();
        let mut random = Pcg64::new(seed);
        assert_eq!(u64::from(random.below(100)) + 1, case["label"].as_u64().unwrap(), "{seed}");
        let draws = random.normal(size(case, "count"));
        let ends = [&draws[..32], &draws[draws.len() - 32..]].concat();
        assert_eq!(ends, golden.get(case["array"].as_str().unwrap()), "{seed}");
        let xor = draws.iter().fold(0, |bits, x| bits ^ x.to_bits());
        assert_eq!(u64::from(xor), case["xor"].as_u64().unwrap(), "{seed}");
    }
}

#[test]
fn terrains_are_those_of_the_package() {
    let (mut terrain, golden) = (open(), Arrays::open("terrain", "golden"));
    let facts = facts("terrain");
    let source = Heights { width: 64, height: 60, metres: golden.get("source") };
    let (new, varied) = (facts["terrains"].as_array().unwrap(), facts["varied"].as_array().unwrap());
    for case in new.iter().chain(varied) {
        let wanted = Wanted {
            width: size(case, "width"),
            height: size(case, "height"),
            difficulty: case["difficulty"].as_u64().map(|d| d as u32),
            seed: case["seed"].as_u64().unwrap(),
            from: case["strength"].as_f64().map(|s| (&source, s as f32)),
        };
        let (mut tiles, name) = (0, case["name"].as_str().unwrap());
        let made = make(&mut terrain, &wanted, &mut |_, all| {
            tiles = all;
            true
        });
        let (made, said) = made.unwrap().unwrap();
        assert_eq!((made.width, made.height), (wanted.width, wanted.height), "{name}");
        assert_eq!(case["said"].as_u64().unwrap_or(u64::from(said)), u64::from(said), "{name}");
        assert_eq!(
            tiles,
            if name.ends_with("large") { 2 } else { 1 } * if name == "large" { 3 } else { 1 },
            "{name}"
        );
        assert_eq!(made.range().0, 0.0, "{name}");
        let d = largest_difference(&few(&made.metres), &golden.get(name));
        println!("{name}: {d} m of {}", made.range().1);
        assert!(d <= 1e-3, "{name} differs by {d} m");
    }
}

#[test]
fn work_that_is_stopped_gives_nothing() {
    let mut terrain = open();
    let wanted = Wanted { width: 200, height: 100, difficulty: None, seed: 1, from: None };
    assert_eq!(make(&mut terrain, &wanted, &mut |done, _| done < 1).unwrap(), None);
    for (wanted, why) in [
        (Wanted { width: 0, ..wanted.clone() }, "0 × 100"),
        (Wanted { width: usize::MAX, ..wanted.clone() }, "pixels"),
        (Wanted { difficulty: Some(101), ..wanted.clone() }, "a difficulty of 101"),
    ] {
        assert!(make(&mut terrain, &wanted, &mut |_, _| true).unwrap_err().to_string().contains(why));
    }
    let (weights, work) = terrain.planned().unwrap();
    assert!(
        (30 << 20..50 << 20).contains(&weights) && (1 << 20..200 << 20).contains(&work),
        "{weights} {work}"
    );
}
