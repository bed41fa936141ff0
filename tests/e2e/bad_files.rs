//! Files that are no models, or no longer: each ends with a sentence.

use crate::common::{World, noise};
use crate::models::model;
use crate::spent::{refuses, survives};
use crate::tiny::Tiny;
use std::fs;

/// `hob run PATH` continuing two letters by four tokens.
fn run(path: &str) -> [&str; 8] {
    ["run", path, "hi", "--raw", "--temperature=0", "--max-tokens=4", "--threads=1", "--offline"]
}

#[test]
fn the_tiny_model_is_sound() {
    let world = World::new();
    let path = Tiny::llama().write(&world, "tiny");
    let out = world.run(&run(path.to_str().unwrap()));
    assert!(!out.ok().is_empty() && out.stderr.is_empty(), "{out:?}");
}

#[test]
fn files_that_are_no_models() {
    let world = World::new();
    let file = |name: &str, bytes: &[u8]| {
        let path = world.path(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_string()
    };
    fs::create_dir(world.path("folder")).unwrap();
    fs::write(world.path("folder/notes.txt"), "none here").unwrap();
    let folder = world.path("folder").to_str().unwrap().to_string();
    let cases = [
        (file("empty.gguf", b""), "empty.gguf is damaged"),
        (file("empty", b""), "neither a GGUF nor a safetensors file"),
        (file("noise.gguf", &noise(5000, 1)), "it does not begin as a GGUF file"),
        (file("noise", &noise(5000, 2)), "neither a GGUF nor a safetensors file"),
        (file("noise.safetensors", &noise(5000, 3)), "noise.safetensors cannot be used"),
        (file("magic.gguf", b"GGUF"), "magic.gguf is damaged"),
        (
            file("magic-noise.gguf", &[&b"GGUF\x03\0\0\0"[..], &noise(5000, 4)].concat()),
            "magic-noise.gguf is damaged",
        ),
        (file("old.gguf", &[&b"GGUF\x01\0\0\0"[..], &[0; 100]].concat()), "old.gguf"),
        (
            file("lfs.gguf", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"),
            "lfs.gguf",
        ),
        (folder, "there is no file or model folder"),
        ("/dev/null".into(), "/dev/null"),
        ("nowhere/model.gguf".into(), "nowhere/model.gguf"),
    ];
    for (path, why) in &cases {
        refuses(&world, &run(path), why);
        refuses(&world, &["show", path], why);
        refuses(&world, &["bench", path, "pp8"], why);
        refuses(&world, &["debug", "plan", path], why);
    }
}

#[test]
fn a_truncated_file_is_refused_wherever_it_ends() {
    let world = World::new();
    let bytes = Tiny::llama().bytes();
    let path = world.path("cut.gguf");
    for part in 0..40 {
        fs::write(&path, &bytes[..bytes.len() * part / 40]).unwrap();
        refuses(&world, &run(path.to_str().unwrap()), "cut.gguf is damaged");
    }
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    refuses(&world, &run(path.to_str().unwrap()), "cut.gguf is damaged");
}

#[test]
fn a_truncated_real_model_is_refused() {
    let world = World::new();
    let path = world.path("cut.gguf");
    fs::copy(model("SmolLM2-135M-Instruct.Q4_1.gguf"), &path).unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    let whole = file.metadata().unwrap().len();
    // In the data, in the table of tensors, in the metadata.
    for cut in [whole - 1, whole / 2, 1_800_000, 1_770_000, 1_765_000, 1_000_000, 5000, 100, 24, 23, 9] {
        file.set_len(cut).unwrap();
        refuses(&world, &run(path.to_str().unwrap()), "cut.gguf is damaged");
        refuses(&world, &["show", path.to_str().unwrap()], "cut.gguf is damaged");
    }
}

#[test]
fn flipped_bytes_are_survived() {
    let world = World::new();
    let path = world.path("flipped.gguf");
    let sound = Tiny::llama().bytes();
    let mut ran = 0;
    for seed in 0..60 {
        let mut bytes = sound.clone();
        for at in noise(16, 1000 + seed).chunks(4) {
            // Half of them in the metadata and the table of tensors, which take up less than 8 KiB.
            let at = u32::from_le_bytes(at.try_into().unwrap()) as usize;
            let at = if seed % 2 == 0 { at % 8192 } else { at % sound.len() };
            bytes[at] = bytes[at].wrapping_add(1 << (seed % 8));
        }
        fs::write(&path, &bytes).unwrap();
        ran += survives(&world, &run(path.to_str().unwrap()), &format!("seed {seed}")) as u32;
    }
    assert!((5..55).contains(&ran), "{ran} of 60 ran: the damage is no test");
}
