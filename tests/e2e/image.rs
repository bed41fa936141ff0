//! Pictures from the command line, by a tiny model with weights by chance.

use crate::common::{World, files};
use crate::spent::spent;
use crate::tiny::Tiny;
use crate::tiny_picture;
use crate::within::limited;
use serde_json::Value;
use std::fs;
use std::path::Path;

/// A world with the tiny model in `sd15`.
fn world() -> World {
    let world = World::new();
    tiny_picture::sd15(&world.path("sd15"));
    world
}

/// What every run here says beside its own words.
const FEW: [&str; 4] = ["--steps", "3", "--threads", "1"];

fn image(world: &World, args: &[&str]) -> crate::common::Run {
    world.run(&[&["image", "sd15"], args, &FEW].concat())
}

fn read(world: &World, name: &str) -> Vec<u8> {
    fs::read(world.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn picture(world: &World, name: &str) -> hob_io::Picture {
    hob_io::Picture::open(&world.path(name)).unwrap()
}

#[test]
fn a_picture_comes_from_words_and_from_its_own_file_again() {
    let world = world();
    let run = image(&world, &["a (red:1.3) fox", "--negative", "blur", "--seed", "7", "-o", "fox.png"]);
    assert!(run.ok().starts_with("fox.png ("), "{run:?}");
    let made = picture(&world, "fox.png");
    assert_eq!((made.width, made.height), (tiny_picture::SIDE, tiny_picture::SIDE));
    assert!(made.rgb.iter().any(|x| *x != made.rgb[0]), "all pixels are the same");
    let texts = hob_io::picture::texts(&read(&world, "fox.png"), Path::new("fox.png")).unwrap();
    let theirs = &texts["parameters"];
    assert!(theirs.starts_with("a (red:1.3) fox\nNegative prompt: blur\nSteps: 3, "), "{theirs}");
    assert!(theirs.contains("Seed: 7") && theirs.contains("Size: 32x32"), "{theirs}");
    let ours: Value = serde_json::from_str(&texts["hob"]).unwrap();
    assert_eq!((&ours["seed"], &ours["model"], &ours["cfg"]), (&7.into(), &"sd15".into(), &7.5.into()));

    // The same again, byte for byte; and what an option changes, alone.
    world.run(&["image", "sd15", "--like", "fox.png", "-o", "again.png", "--threads", "2"]).ok();
    assert!(read(&world, "fox.png") == read(&world, "again.png"), "--like made another picture");
    world.run(&["image", "sd15", "--like", "fox.png", "--seed", "8", "-o", "other.png"]).ok();
    assert_ne!(picture(&world, "other.png").rgb, made.rgb);
    image(&world, &["a blue fox", "--negative", "blur", "--seed", "7", "-o", "blue.png"]).ok();
    assert_ne!(picture(&world, "blue.png").rgb, made.rgb, "the words do not matter");
}

#[test]
fn several_pictures_are_those_of_seeds_one_after_another() {
    let world = world();
    let run = image(&world, &["a fox", "--seed", "40", "--count", "3", "-o", "fox.png"]);
    assert_eq!(run.ok().lines().count(), 3, "{run:?}");
    for (i, seed) in ["40", "41", "42"].iter().enumerate() {
        image(&world, &["a fox", "--seed", seed, "-o", "one.png"]).ok();
        assert!(read(&world, "one.png") == read(&world, &format!("fox-{}.png", i + 1)), "seed {seed}");
    }
    assert!(!world.path("fox.png").exists());
    let run = image(&world, &["a fox", "--seed", "5", "--json"]);
    let json: Value = serde_json::from_str(run.ok()).unwrap();
    let one = &json["pictures"][0];
    assert_eq!((&one["file"], &one["seed"]), (&"hob-5.png".into(), &5.into()));
    assert_eq!(one["recipe"]["prompt"], "a fox");
    assert!(world.path("hob-5.png").is_file() && json["peak_bytes"].as_u64().unwrap() > 0);
    assert!(run.stderr.is_empty(), "{}", run.stderr);
}

#[test]
fn a_picture_begins_with_another_and_keeps_what_the_mask_covers() {
    let world = world();
    image(&world, &["a wall", "--seed", "1", "-o", "wall.png"]).ok();
    let wall = picture(&world, "wall.png");
    let begun = ["a door", "--seed", "2", "--init", "wall.png"];
    image(&world, &[&begun[..], &["--strength", "0.34", "-o", "little.png"]].concat()).ok();
    image(&world, &[&begun[..], &["--strength", "1", "-o", "much.png"]].concat()).ok();
    let far = |name: &str| {
        let made = picture(&world, name);
        made.rgb.iter().zip(&wall.rgb).map(|(a, b)| a.abs_diff(*b) as u64).sum::<u64>()
    };
    assert!(far("little.png") < far("much.png"), "{} and {}", far("little.png"), far("much.png"));

    // White in the right half is painted anew; the left one is what the autoencoder makes of the picture.
    let side = tiny_picture::SIDE;
    let rgb = (0..3 * side * side).map(|i| if i / 3 % side < side / 2 { 0 } else { 255 }).collect();
    let mask = hob_io::Picture::of_rgb(side, side, rgb).unwrap();
    fs::write(world.path("mask.png"), mask.png(&[]).unwrap()).unwrap();
    for seed in ["2", "3"] {
        let out = format!("{seed}.png");
        let masked =
            ["a door", "--seed", seed, "--init", "wall.png", "--mask", "mask.png", "--strength", "1", "-o"];
        image(&world, &[&masked[..], &[&out]].concat()).ok();
    }
    let (a, b) = (picture(&world, "2.png"), picture(&world, "3.png"));
    let differ = |columns: std::ops::Range<usize>| {
        let at = |i: &usize| columns.contains(&(i / 3 % side));
        (0..a.rgb.len()).filter(at).map(|i| a.rgb[i].abs_diff(b.rgb[i]) as u64).sum::<u64>()
    };
    assert!(4 * differ(0..side / 4) < differ(side / 2..side), "the mask does not matter");
    // Another size is an error for the mask, and is resized for the picture alone.
    let small = hob_io::Picture::of_rgb(8, 8, vec![255; 192]).unwrap();
    fs::write(world.path("small.png"), small.png(&[]).unwrap()).unwrap();
    let wrong = ["a door", "--init", "wall.png", "--mask", "small.png", "-o", "no.png"];
    image(&world, &wrong).fails("they must be of one size");
    assert!(!world.path("no.png").exists());
    image(&world, &["a door", "--init", "small.png", "-o", "yes.png"]).ok();
    assert_eq!(picture(&world, "yes.png").width, side);
}

/// A LoRA of the tiny UNet in kohya's names, or of a model that has nothing of it.
fn lora(world: &World, name: &str, module: &str) {
    let down =
        (format!("{module}.lora_down.weight"), vec![2, 12], (0..24).map(|i| (i % 5) as f32 - 2.0).collect());
    let up =
        (format!("{module}.lora_up.weight"), vec![8, 2], (0..16).map(|i| (i % 3) as f32 - 1.0).collect());
    tiny_picture::safetensors(&world.path(name), &[down, up]);
}

#[test]
fn loras_are_added_and_named_in_the_picture() {
    let world = world();
    lora(&world, "style.safetensors", "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k");
    let fox = ["a fox", "--seed", "7"];
    image(&world, &[&fox[..], &["-o", "plain.png"]].concat()).ok();
    image(&world, &[&fox[..], &["--lora", "style.safetensors:0.8", "-o", "styled.png"]].concat()).ok();
    image(&world, &[&fox[..], &["--lora", "style.safetensors:0", "-o", "none.png"]].concat()).ok();
    assert_ne!(picture(&world, "plain.png").rgb, picture(&world, "styled.png").rgb);
    assert_eq!(picture(&world, "plain.png").rgb, picture(&world, "none.png").rgb);
    let recipe = hob_io::picture::Recipe::open(&world.path("styled.png")).unwrap().unwrap();
    assert_eq!((recipe.loras[0].name.as_str(), recipe.loras[0].scale), ("style", 0.8));

    lora(&world, "other.safetensors", "lora_unet_single_blocks_0_linear1");
    image(&world, &[&fox[..], &["--lora", "other.safetensors"]].concat())
        .fails("nothing it changes is in this model");
    image(&world, &[&fox[..], &["--lora", "absent.safetensors"]].concat()).fails("absent.safetensors");
}

#[test]
fn what_cannot_be_painted_is_said_in_a_sentence() {
    let world = world();
    image(&world, &["a fox", "--size", "33x32"]).fails("both sides must be multiples of 2");
    image(&world, &["a fox", "-o", "nowhere/fox.png"]).fails("there is no folder nowhere");
    image(&world, &["a fox", "--init", "absent.png"]).fails("absent.png");
    image(&world, &["a fox", "--noise", "brown"]).fails("torch-cpu and philox");
    world.run(&["image", "sd15", "--like", "sd15/model_index.json"]).fails("model_index.json");
    world.run(&["image", "absent", "a fox"]).fails("there is no model named absent");
    let plain = hob_io::Picture::of_rgb(8, 8, vec![255; 192]).unwrap();
    fs::write(world.path("plain.png"), plain.png(&[]).unwrap()).unwrap();
    world.run(&["image", "sd15", "--like", "plain.png"]).fails("does not say how it was made");

    // A part that is not there, and one in a form that runs code.
    fs::rename(world.path("sd15/vae"), world.path("aside")).unwrap();
    image(&world, &["a fox"]).fails("lacks its VAE");
    image(&world, &["a fox", "--vae", "aside", "-o", "fox.png"]).ok();
    fs::write(world.path("model.ckpt"), b"PK\x03\x04 as torch writes it").unwrap();
    world.run(&["image", "model.ckpt", "a fox"]).fails("pickle");

    // Each kind of model where the other is wanted.
    let llama = Tiny::llama().write(&world, "llama.gguf");
    world.run(&["image", llama.to_str().unwrap(), "a fox"]).fails("llama.gguf");
    world.run(&["run", "sd15", "Hello"]).fails("makes pictures");
    assert_eq!(files(&world.dir.path().join("hob")), Vec::<String>::new());
}

#[test]
fn models_are_found_by_name_shown_and_removed() {
    let world = world();
    let snapshot = world.path("hf/hub/models--owner--paint/snapshots/abc");
    tiny_picture::sd15(&snapshot);
    let comfy = world.path("home/ComfyUI/models/checkpoints");
    fs::create_dir_all(&comfy).unwrap();
    let checkpoint = [
        ("model.diffusion_model.input_blocks.0.0.weight".to_string(), vec![4, 4, 3, 3], vec![0.0; 144]),
        ("first_stage_model.decoder.conv_in.weight".to_string(), vec![8, 4, 3, 3], vec![0.0; 288]),
    ];
    tiny_picture::safetensors(&comfy.join("dream.safetensors"), &checkpoint);
    let other = [("lora_unet_x.lora_up.weight".to_string(), vec![2, 2], vec![0.0; 4])];
    tiny_picture::safetensors(&comfy.join("strange.safetensors"), &other);

    let list: Value = serde_json::from_str(world.run(&["list", "--json"]).ok()).unwrap();
    let named: Vec<(&str, &str, &str)> = (list.as_array().unwrap().iter())
        .map(|m| (m["name"].as_str().unwrap(), m["kind"].as_str().unwrap(), m["place"].as_str().unwrap()))
        .collect();
    assert_eq!(named, [("dream", "image", "ComfyUI"), ("owner/paint", "image", "Hugging Face")]);
    assert!(world.run(&["list"]).stdout.contains("Stable Diffusion 1 (image)"));

    world.run(&[&["image", "owner/paint", "a fox", "--seed", "1", "-o", "a.png"], &FEW[..]].concat()).ok();
    world.run(&[&["image", "hf:owner/paint", "a fox", "--seed", "1", "-o", "b.png"], &FEW[..]].concat()).ok();
    assert_eq!(picture(&world, "a.png").rgb, picture(&world, "b.png").rgb);

    let shown = world.run(&["show", "owner/paint"]).ok().to_string();
    for what in ["Stable Diffusion 1", "text_encoder", "unet", "vae", "F16", "PNDMScheduler, epsilon"] {
        assert!(shown.contains(what), "{what} is not in {shown}");
    }
    let json: Value = serde_json::from_str(world.run(&["show", "--json", "sd15"]).ok()).unwrap();
    assert_eq!((&json["family"], &json["missing"]), (&"Stable Diffusion 1".into(), &Value::Null));
    assert_eq!(json["parts"].as_array().unwrap().len(), 3);

    world.run(&["rm", "--yes", "dream"]).fails("belongs to ComfyUI");
    world.run(&["rm", "--yes", "owner/paint"]).ok();
    assert!(!snapshot.exists() && comfy.join("dream.safetensors").is_file());
}

#[test]
fn a_controlnet_holds_the_picture() {
    let world = world();
    let net = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/control/sd15");
    let net = net.to_str().unwrap();
    let lines = (0..3 * 32 * 32).map(|i| if i / 3 % 8 == 0 { 255 } else { 0 }).collect();
    let lines = hob_io::Picture::of_rgb(32, 32, lines).unwrap();
    fs::write(world.path("lines.png"), lines.png(&[]).unwrap()).unwrap();
    let fox = ["a fox", "--seed", "7"];
    let held = ["a fox", "--seed", "7", "--control", net, "--control-image", "lines.png"];
    image(&world, &[&fox[..], &["-o", "free.png"]].concat()).ok();
    image(&world, &[&held[..], &["-o", "held.png"]].concat()).ok();
    image(&world, &[&held[..], &["--control-strength", "0", "-o", "zero.png"]].concat()).ok();
    assert_ne!(picture(&world, "free.png").rgb, picture(&world, "held.png").rgb);
    assert_eq!(picture(&world, "free.png").rgb, picture(&world, "zero.png").rgb);
    let texts = hob_io::picture::texts(&read(&world, "held.png"), Path::new("held.png")).unwrap();
    assert!(
        texts["parameters"].contains("ControlNet 0: \"Module: none, Model: sd15, Weight: 1\""),
        "{texts:?}"
    );
    let again = ["image", "sd15", "--like", "held.png", "-o", "again.png"];
    world.run(&again).fails("--control-image");
    world.run(&[&again[..], &["--control", net, "--control-image", "lines.png"]].concat()).ok();
    assert!(read(&world, "held.png") == read(&world, "again.png"));
    image(&world, &["a fox", "--control", "sd15/vae", "--control-image", "lines.png"])
        .fails("it holds no ControlNet");
}

#[test]
fn each_step_is_seen() {
    let world = world();
    image(&world, &["a fox", "--seed", "7", "-o", "plain.png"]).ok();
    let run =
        image(&world, &["a fox", "--seed", "7", "-o", "fox.png", "--preview", "--preview-file", "step.png"]);
    run.ok();
    assert!(!run.stderr.contains('▀'), "blocks are for terminals alone: {}", run.stderr);
    assert!(read(&world, "plain.png") == read(&world, "fox.png"), "the preview changed the picture");
    let step = picture(&world, "step.png");
    assert_eq!((step.width, step.height), (16, 16), "as many pixels as latents");
    assert!(step.rgb.iter().any(|x| *x != step.rgb[0]));
}

#[test]
fn pictures_are_made_larger() {
    let world = world();
    let model =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/esrgan/old-x4/model.safetensors");
    let model = model.to_str().unwrap();
    image(&world, &["a fox", "--seed", "7", "-o", "fox.png"]).ok();
    let run = world.run(&["upscale", "fox.png", "--model", model, "-o", "large.png"]);
    assert!(run.ok().starts_with("large.png (128 × 128, "), "{run:?}");
    world.run(&["upscale", "fox.png", "--model", model, "--tile", "16"]).ok();
    let (whole, tiled) = (picture(&world, "large.png"), picture(&world, "fox-4x.png"));
    assert!(whole.rgb.iter().zip(&tiled.rgb).all(|(a, b)| a.abs_diff(*b) <= 1), "tiles show");
    // What made the small one makes it again.
    world.run(&["image", "sd15", "--like", "large.png", "-o", "again.png"]).ok();
    assert!(read(&world, "again.png") == read(&world, "fox.png"));
    world
        .run(&["upscale", "fox.png", "--model", "sd15/vae/diffusion_pytorch_model.safetensors"])
        .fails("no ESRGAN");
    world.run(&["upscale", "absent.png", "--model", model]).fails("absent.png");
}

/// Ctrl-C in the middle ends in a sentence and leaves nothing.
#[cfg(unix)]
#[test]
fn a_stopped_run_leaves_nothing_half_written() {
    let world = world();
    let args = [
        "image",
        "sd15",
        "a fox",
        "--steps",
        "1000",
        "--size",
        "64x64",
        "-o",
        "fox.png",
        "--preview-file",
        "step.png",
    ];
    let stop = |signal: &str| {
        let child = world.command(&args).spawn().unwrap();
        while !world.path("step.png").exists() {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let kill =
            std::process::Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        assert!(kill.success());
        let out = child.wait_with_output().unwrap();
        fs::remove_file(world.path("step.png")).unwrap();
        out
    };
    let out = stop("-INT");
    assert_eq!(out.status.code(), Some(130), "{out:?}");
    assert!(String::from_utf8_lossy(&out.stderr).contains("stopped; nothing was written"));
    assert!(files(world.dir.path()).iter().all(|f| !f.contains("fox") && !f.ends_with(".tmp")));
    stop("-KILL");
    assert!(files(world.dir.path()).iter().all(|f| !f.contains("fox.png")));
}

/// The plan is obeyed by a process that the system gives no more, and the picture is the same.
#[test]
fn a_picture_is_made_within_the_memory_it_is_given() {
    let world = World::new();
    tiny_picture::larger(&world.path("sd15"));
    let ask = |more: &[&str]| {
        let args = ["image", "sd15", "a fox", "--seed=7", "--steps=2", "--threads=2", "--json"];
        world.command(&[&args[..], more].concat())
    };
    let run = spent(&mut ask(&["-o", "free.png"]));
    let free: Value = serde_json::from_str(run.run.ok()).unwrap();
    let process = free["memory"]["process_bytes"].as_u64().unwrap();
    let phases = free["memory"]["phases"].as_array().unwrap();
    let held =
        |part: &str| phases.iter().find(|p| p["part"] == part).unwrap()["total_bytes"].as_u64().unwrap();
    let (denoiser, vae) = (held("denoiser"), held("VAE"));
    assert!(free["memory"]["said"].is_null() && vae > denoiser, "{free}");
    let fair = |report: &Value| {
        let number = |field: &str| report[field].as_f64().unwrap();
        let off = number("planned_bytes") / number("peak_bytes") - 1.0;
        // What is counted for small things is much of so little.
        assert!(off > -0.03 && off < 0.09, "{report}");
    };
    fair(&free);
    let made = picture(&world, "free.png");
    let mib = |bytes: u64| (bytes >> 20) as usize;
    for (memory, words) in [
        (mib(process + denoiser + (vae - denoiser) / 2), vec!["VAE in "]),
        (
            mib(process + denoiser - denoiser / 4),
            vec!["VAE in ", "of the denoiser's weights read again each step"],
        ),
    ] {
        let limit = format!("--memory={memory}M");
        let run = spent(&mut limited(ask(&[&limit, "-o", "less.png"]), memory << 20));
        let report: Value = serde_json::from_str(run.run.ok()).unwrap();
        let said = report["memory"]["said"].as_str().unwrap();
        assert!(words.iter().all(|w| said.contains(w)), "{memory} MiB: {said}");
        assert!(report["peak_bytes"].as_u64().unwrap() <= (memory as u64) << 20, "{memory} MiB: {report}");
        fair(&report);
        let less = picture(&world, "less.png");
        let off = less.rgb.iter().zip(&made.rgb).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(off <= 1, "{memory} MiB: pixels differ by {off}");
    }
    let run = world.run(&["image", "sd15", "a fox", "--size=512x512", "--memory=20M"]);
    run.fails("for a picture of 512 × 512 the ");
    assert!(
        run.stderr.contains(" of memory at least, and 21.0 MB are allowed; allow more with --memory "),
        "{run:?}"
    );
    // What is advised does.
    let advised = run.stderr.split("--memory ").nth(1).unwrap().split(',').next().unwrap();
    let memory = format!("--memory={advised}");
    world.run(&["image", "sd15", "a fox", "--size=512x512", "--steps=1", &memory]).ok();
}
