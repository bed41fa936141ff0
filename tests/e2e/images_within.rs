//! Pictures of a server that has little memory: made in less, refused with the reason, and language models that make room.

use crate::common::World;
use crate::models::model;
use crate::serving::{Serving, install};
use crate::tiny_picture;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hob_io::Picture;
use serde_json::{Value, json};
use std::path::Path;

const MAKE: &str = "/v1/images/generations";
const TEXT: &str = "SmolLM2-135M-Instruct.Q4_1";

fn world() -> World {
    let world = World::new();
    tiny_picture::larger(&world.path("hob/models/painter"));
    world
}

fn ask(more: Value) -> Value {
    let mut body = json!({"model": "painter", "prompt": "a fox", "steps": 2, "seed": 7, "sampler": "euler"});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// What a picture takes by the plan of the command line: of the process, the denoiser, the VAE, and at most.
fn plan(world: &World) -> [u64; 4] {
    let path = world.path("hob/models/painter");
    let args = ["image", path.to_str().unwrap(), "a fox", "--steps=1", "--json", "-o=plan.png"];
    let told: Value = serde_json::from_str(world.run(&args).ok()).unwrap();
    let of = |part: &str| {
        let phases = told["memory"]["phases"].as_array().unwrap();
        phases.iter().find(|p| p["part"] == part).unwrap()["total_bytes"].as_u64().unwrap()
    };
    let process = told["memory"]["process_bytes"].as_u64().unwrap();
    [process, of("denoiser"), of("VAE"), told["planned_bytes"].as_u64().unwrap()]
}

fn pixels(answer: &Value) -> Vec<u8> {
    let bytes = BASE64_STANDARD.decode(answer["data"][0]["b64_json"].as_str().unwrap()).unwrap();
    Picture::read(&bytes, Path::new("answer.png")).unwrap().rgb
}

/// The most bytes that a server has held.
#[cfg(target_os = "linux")]
fn peak(server: &Serving) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Names of the models that are loaded.
fn loaded(server: &Serving) -> Vec<String> {
    let told = server.get("/hob/ps").ok();
    let mut names: Vec<String> =
        told["models"].as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap().into()).collect();
    names.sort();
    names
}

#[cfg(target_os = "linux")]
#[test]
fn pictures_are_made_within_the_memory_the_server_has() {
    let world = world();
    let whole = pixels(&Serving::start(&world, &[]).post(MAKE, &ask(json!({}))).ok());
    let [process, denoiser, vae, all] = plan(&world);
    assert!(vae > denoiser, "{denoiser} {vae}");
    for (bytes, words) in [
        (all - (vae - denoiser) / 2, vec!["VAE in "]),
        (process + denoiser, vec!["VAE in ", "of the denoiser's weights read again each step"]),
    ] {
        let server = Serving::start(&world, &[&format!("--memory={bytes}")]);
        // The second finds less, as the first left something behind, and is made of other tiles.
        for _ in 0..2 {
            let made = pixels(&server.post(MAKE, &ask(json!({}))).ok());
            let off = made.iter().zip(&whole).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
            assert!(off <= 1, "{bytes}: pixels differ by {off}");
        }
        // What does not fit even so is refused, and the next is made.
        let large = server.post(MAKE, &ask(json!({"size": "2048x2048"}))).fails(503);
        assert!(large.starts_with("for a picture of 2048 × 2048 the "), "{large}");
        assert!(
            large.contains(" of memory at least by painter, and ")
                && large.ends_with("ask for a smaller one")
        );
        server.post(MAKE, &ask(json!({"size": "64x64"}))).ok();
        let peak = peak(&server);
        assert!(peak <= bytes, "{peak} bytes of {bytes}");
        let said = server.end().stderr;
        assert!(words.iter().all(|w| said.contains(w)), "{bytes}: {said}");
    }
}

/// One makes room for the other where nobody uses it, and stays where that would not help.
#[test]
fn language_models_and_pictures_make_room_for_each_other() {
    let world = world();
    install(&world, &model(&format!("{TEXT}.gguf")));
    let args = ["--cache=8M", "--ctx=200", "--parallel=1"];
    let say = |server: &Serving| {
        let body = json!({"model": TEXT, "prompt": "hi", "stream": false, "options": {"num_predict": 1}});
        server.post("/api/generate", &body).ok()
    };
    let both = vec![TEXT.to_string(), "painter".to_string()];
    let server = Serving::start(&world, &args);
    say(&server);
    let text = server.metric("hob_memory_planned_bytes") as u64;
    server.post(MAKE, &ask(json!({}))).ok();
    assert_eq!(loaded(&server), both, "there is room for both");
    drop(server);

    // Room for one of them alone.
    let [process, _, vae, all] = plan(&world);
    assert!(text > vae / 2, "{text} {vae}");
    let memory = format!("--memory={}", all.max(process + text) + vae / 3);
    let server = Serving::start(&world, &[&args[..], &[&memory]].concat());
    for _ in 0..2 {
        // Beside it the painter stays, which holds next to nothing between pictures.
        say(&server);
        assert!(loaded(&server).contains(&TEXT.to_string()));
        // Nobody goes for what would not fit anyway.
        server.post(MAKE, &ask(json!({"size": "2048x2048"}))).fails(503);
        assert!(loaded(&server).contains(&TEXT.to_string()));
        server.post(MAKE, &ask(json!({}))).ok();
        assert_eq!(loaded(&server), ["painter"]);
    }
    assert!(!server.end().stderr.contains("VAE in "), "it was to be made at once");

    // One that stays leaves less.
    let memory = format!("--memory={}", all + text - vae / 4);
    let server = Serving::start(&world, &[&args[..], &[&memory, "--model", TEXT]].concat());
    server.post(MAKE, &ask(json!({}))).ok();
    say(&server);
    let stays = loaded(&server);
    let said = server.end().stderr;
    assert!(stays.contains(&TEXT.to_string()) && said.contains("VAE in "), "{stays:?} {said}");
}
