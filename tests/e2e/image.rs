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
    // Without guidance the prompt alone is read.
    image(&world, &["a fox", "--cfg", "1", "--seed", "7", "-o", "alone.png"]).ok();
    image(&world, &["a tree", "--cfg", "1", "--seed", "7", "-o", "tree.png"]).ok();
    assert_ne!(picture(&world, "alone.png").rgb, picture(&world, "tree.png").rgb, "the words do not matter");
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

/// SHA-256 of a file, as its first digits.
fn sha256(path: &Path, digits: usize) -> String {
    use sha2::Digest;
    let bytes = fs::read(path).unwrap();
    let hash = sha2::Sha256::digest(&bytes);
    hash.iter().map(|b| format!("{b:02x}")).collect::<String>()[..digits].to_string()
}

#[test]
fn pictures_name_their_files_by_hashes_which_tell_another_model_from_the_same() {
    let world = world();
    lora(&world, "in,k.safetensors", "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k");
    let vae = fs::canonicalize(world.path("sd15/vae")).unwrap();
    let args =
        ["a fox", "--seed", "7", "--lora", "in,k.safetensors:0.5", "--vae", vae.to_str().unwrap(), "-o"];
    image(&world, &[&args[..], &["fox.png"]].concat()).ok();
    let texts = hob_io::picture::texts(&read(&world, "fox.png"), Path::new("fox.png")).unwrap();
    let weights = |part: &str| {
        let folder = world.path("sd15").join(part);
        let mut all = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
        all.find(|p| p.extension().is_some_and(|e| e == "safetensors")).unwrap()
    };
    let theirs = &texts["parameters"];
    let (unet, own) = (weights("unet"), sha256(&weights("vae"), 10));
    for what in [format!("Model hash: {}, Model: sd15", sha256(&unet, 10)), format!("VAE hash: {own}, VAE: ")]
    {
        assert!(theirs.contains(&what), "{what} is not in {theirs}");
    }
    // As A1111 has it: without the header, and by a name without commas.
    let file = read(&world, "in,k.safetensors");
    let begin = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    fs::write(world.path("tensors"), &file[begin..]).unwrap();
    let hash = format!("Lora hashes: \"ink: {}\"", sha256(&world.path("tensors"), 12));
    assert!(theirs.contains(&hash), "{hash} is not in {theirs}");
    let ours: Value = serde_json::from_str(&texts["hob"]).unwrap();
    assert_eq!(ours["model_hash"].as_str().unwrap(), sha256(&unet, 64));

    // The same files: not a word. Others: a sentence for each.
    let like = ["image", "sd15", "--like", "fox.png", "-o", "again.png"];
    let same = ["--lora", "in,k.safetensors:0.5", "--vae", vae.to_str().unwrap()];
    let again = world.run(&[&like[..], &same].concat());
    again.ok();
    assert!(again.stderr.is_empty(), "{}", again.stderr);
    assert!(read(&world, "fox.png") == read(&world, "again.png"));
    let mut bytes = fs::read(&unet).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&unet, &bytes).unwrap();
    let other = world.run(&like);
    other.ok();
    for what in ["sd15 is another model", "give it with --vae", "the LoRA in,k: give it with --lora FILE:0.5"]
    {
        assert!(other.stderr.contains(what), "{what} is not in {}", other.stderr);
    }
    let texts = hob_io::picture::texts(&read(&world, "again.png"), Path::new("again.png")).unwrap();
    assert!(texts["parameters"].contains(&sha256(&unet, 10)) && !texts["parameters"].contains(&own));
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
    assert_eq!(files(&world.dir.path().join("hob")), ["cache/hashes.json"]);
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
        let (planned, peak) = (number("planned_bytes"), number("peak_bytes"));
        // Four megabytes are counted for small things, which is much of so little.
        assert!(planned > 0.97 * peak && planned < peak + 5.5e6, "{report}");
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

#[test]
fn the_bench_times_the_parts_of_a_picture_model() {
    let world = world();
    let tests = ["text", "step@32", "sd15-step@48x32", "vae@32"];
    let run =
        world.run(&[&["bench", "sd15"][..], &tests, &["--reps", "2", "--threads", "1", "--json"]].concat());
    let lines: Vec<Value> = run.ok().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<&str> = lines.iter().map(|line| line["test"].as_str().unwrap()).collect();
    assert_eq!(told, tests);
    assert!(
        lines.iter().all(|line| line["seconds"].as_f64().unwrap() > 0.0 && line["engine"] == "hob"),
        "{run:?}"
    );
    // With nothing said: all parts, in the model's own size.
    let run = world.run(&["bench", "sd15", "--reps", "1", "--threads", "1"]);
    let told: Vec<&str> = run.ok().lines().filter_map(|line| line.split(' ').nth(1)).collect();
    assert_eq!(told, ["text", "step@32", "vae@32"]);
    let refused = |test: &str, why: &str| world.run(&["bench", "sd15", test]).fails(why);
    refused("flux-step@32", "flux-step@32 is a test of flux, and sd15 is a sd15");
    refused("step@33", "must be multiples of");
    refused("pp8", "pp8 is a test of language models");
    world
        .run(&["bench", "sd15", "step@32", "--kv", "q8_0"])
        .fails("--kv and --mapped are for language models");
    let text = Tiny::llama().write(&world, "text");
    world.run(&["bench", text.to_str().unwrap(), "step@512"]).fails("step@512 is a test of picture models");
}

#[test]
fn prompts_change_and_count_together() {
    let world = world();
    let made = |prompt: &str, more: &[&str]| {
        image(&world, &[&[prompt, "--seed", "7", "-o", "x.png"], more].concat()).ok();
        picture(&world, "x.png").rgb
    };
    let (fox, cat) = (made("a fox", &[]), made("a cat", &[]));
    assert_ne!(fox, cat);
    // Until the last step, from before the first, and in between.
    assert_eq!(made("a [fox:cat:3]", &[]), fox);
    assert_eq!(made("a [fox:cat:0]", &[]), cat);
    let between = made("a [fox:cat:1]", &[]);
    assert!(between != fox && between != cat);
    assert_eq!(made("a [fox|cat]", &[]), made("a [[fox:cat:1]:fox:2]", &[]), "turns are steps");
    // What A1111 weighs is text where it is no number.
    assert_ne!(made("a [fox:cat:x]", &[]), fox);
    let far = |a: &[u8], b: &[u8]| a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    assert!(far(&made("a fox AND a cat :0", &[]), &fox) <= 1);
    assert!(far(&made("a fox AND a cat", &["--cfg", "1"]), &fox) > 1);
    let texts = hob_io::picture::texts(&read(&world, "x.png"), Path::new("x.png")).unwrap();
    assert!(texts["parameters"].starts_with("a fox AND a cat\n"));
    let long = "[a|b|c|d|e|f|g] [a|b|c|d|e|f|g|h] [a|b|c|d|e|f|g|h|i] ".to_string() + &"word ".repeat(400);
    let run = world.run(&["image", "sd15", &long, "--steps", "900"]);
    run.fails("let fewer parts of it take turns");
}

#[test]
fn weights_in_floats_of_8_bits_are_what_their_numbers_are() {
    let world = world();
    let folder = world.path("sd15/unet");
    let mut all = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path());
    let path = all.find(|p| p.extension().is_some_and(|e| e == "safetensors")).unwrap();
    let file = hob_io::Safetensors::open(&path).unwrap();
    let dtype = hob_dtype::DType::F8_E4M3;
    let mut codes = vec![0.0; 256];
    dtype.decode(&(0..=255).collect::<Vec<u8>>(), &mut codes);
    let (mut stored, mut plain) = (Vec::new(), Vec::new());
    for t in file.tensors() {
        let mut values = vec![0.0f32; t.elements()];
        t.dtype.decode(file.bytes(t), &mut values);
        let name = t.stored_name.clone();
        if t.shape.len() != 2 || !name.ends_with(".weight") {
            let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            stored.push((name.clone(), "F32", t.shape.clone(), bytes));
            plain.push((name, t.shape.clone(), values));
            continue;
        }
        let scale = values.iter().fold(0.0f32, |m, x| m.max(x.abs())) / 400.0;
        let nearest = |x: f32| {
            let off = |code: &u8| (codes[usize::from(*code)] - x / scale).abs();
            (0..=255u8)
                .filter(|c| codes[usize::from(*c)].is_finite())
                .min_by(|a, b| off(a).total_cmp(&off(b)))
                .unwrap()
        };
        let eights: Vec<u8> = values.iter().map(|x| nearest(*x)).collect();
        plain.push((
            name.clone(),
            t.shape.clone(),
            eights.iter().map(|c| codes[usize::from(*c)] * scale).collect(),
        ));
        stored.push((name.replace(".weight", ".scale_weight"), "F32", vec![1], scale.to_le_bytes().to_vec()));
        stored.push((name, "F8_E4M3", t.shape.clone(), eights));
    }
    drop(file);
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    // Aligned numbers first.
    stored.sort_by_key(|(_, dtype, ..)| *dtype != "F32");
    for (name, dtype, shape, bytes) in stored {
        let start = data.len();
        data.extend(bytes);
        header.insert(
            name,
            serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]}),
        );
    }
    let header = Value::Object(header).to_string();
    let header = format!("{header:<width$}", width = header.len().next_multiple_of(8));
    let fox = ["a fox", "--seed", "7", "-o"];
    tiny_picture::safetensors(&path, &plain);
    image(&world, &[&fox[..], &["plain.png"]].concat()).ok();
    fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()).unwrap();
    image(&world, &[&fox[..], &["eights.png"]].concat()).ok();
    let (a, b) = (picture(&world, "plain.png").rgb, picture(&world, "eights.png").rgb);
    let far = a.iter().zip(&b).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    assert!(far <= 1, "{far} levels apart");
    let shown = world.run(&["show", "sd15"]).ok().to_string();
    assert!(shown.contains("F32, F8_E4M3"), "{shown}");
    // A LoRA stands beside what is scaled.
    lora(&world, "style.safetensors", "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k");
    let styled = [&fox[..], &["styled.png", "--lora", "style.safetensors"]].concat();
    image(&world, &styled).ok();
    let eights = picture(&world, "styled.png").rgb;
    tiny_picture::safetensors(&path, &plain);
    image(&world, &styled).ok();
    let far =
        eights.iter().zip(&picture(&world, "styled.png").rgb).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    assert!(far <= 1 && eights != a, "{far} levels apart");
}
