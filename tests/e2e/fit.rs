//! `hob fit`: what it says before a run is what a run holds; the hub is asked for headers alone.

use crate::common::{Hub, World};
use crate::models::model;
use crate::tiny::{Meta, Tiny};
use hob_dtype::DType;
use serde_json::Value;
use std::sync::OnceLock;

/// A world in which what this machine's kernels reach was measured already: it takes seconds in a build for tests.
fn measured(world: World) -> World {
    static HOME: OnceLock<World> = OnceLock::new();
    let home = HOME.get_or_init(|| {
        let world = World::new();
        world.run(&["fit", "--json"]).ok();
        world
    });
    world.env("HOB_HOME", home.path("hob").to_str().unwrap())
}

fn fit(world: &World, args: &[&str]) -> Value {
    let run = world.run(&[&["fit", "--json"], args].concat());
    serde_json::from_str(run.ok()).unwrap_or_else(|e| panic!("{e}: {run:?}"))
}

fn bytes(plan: &Value, key: &str) -> u64 {
    plan[key].as_u64().unwrap_or_else(|| panic!("no {key} in {plan}"))
}

#[test]
fn what_is_planned_is_held() {
    let world = measured(World::new());
    for (name, kv, batch) in [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "f16", 1),
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "q8_0", 3),
        ("gemma-3-270m-q4_k_m.gguf", "f16", 1),
    ] {
        let path = model(name);
        let path = path.to_str().unwrap();
        let batch = batch.to_string();
        let plan = fit(&world, &[path, "--ctx=400", "--kv", kv, "--batch", &batch, "--prompt=396"]);
        let parts = ["weights_bytes", "state_bytes", "activation_bytes", "overhead_bytes"];
        let sum: u64 = parts.iter().map(|key| bytes(&plan, key)).sum();
        assert_eq!(bytes(&plan, "total_bytes"), sum, "{plan}");
        assert_eq!((&plan["verdict"], &plan["ctx"]), (&"ram".into(), &400.into()));
        assert!(plan["max_ctx"].as_u64().unwrap() >= 400 && plan["tps"].as_f64().unwrap() > 0.1, "{plan}");
        assert!(
            plan["ttft_ms"].as_f64().unwrap() > 0.0 && plan["basis"].as_str().unwrap().contains("measured")
        );

        let test = format!("tg4@396x{batch}");
        let bench = world.run(&["bench", path, &test, "--kv", kv, "--json"]);
        let held = serde_json::from_str::<Value>(bench.ok()).unwrap()["peak_bytes"].as_f64().unwrap();
        let off = bytes(&plan, "total_bytes") as f64 / held - 1.0;
        assert!(off.abs() < 0.03, "{name}, {kv}, {batch} sequences: {:.2}% off", 100.0 * off);
    }
}

/// What a run does by itself is what was said of it.
#[test]
fn a_run_does_what_was_planned() {
    let world = measured(World::new());
    let path = model("SmolLM2-135M-Instruct.Q4_1.gguf");
    let path = path.to_str().unwrap();
    for (memory, cut, verdict) in [("1G", false, "ram"), ("170M", true, "ram"), ("100M", true, "disk")] {
        let memory = format!("--memory={memory}");
        let plan = fit(&world, &[path, &memory]);
        assert_eq!((&plan["ctx_cut"], &plan["verdict"]), (&cut.into(), &verdict.into()), "{plan}");
        let run = world.run(&["run", path, "Hi", "--raw", "--max-tokens=2", &memory]);
        run.ok();
        let ctx = bytes(&plan, "ctx");
        let mut said = Vec::new();
        said.extend(cut.then(|| format!("the context is {ctx} tokens")));
        said.extend((verdict == "disk").then(|| "read from the file again".to_string()));
        assert!(said.iter().all(|s| run.stderr.contains(s)), "{run:?} of {plan}");
        assert_eq!(said.is_empty(), run.stderr.is_empty(), "{run:?}");
    }
}

#[test]
fn the_verdict_follows_the_memory() {
    let world = measured(World::new());
    let verdict = |args: &[&str]| {
        let plan = fit(&world, &[&["llama-3.1-8b"], args].concat());
        let layers = ["gpu", "ram", "streamed"].map(|place| plan["layers"][place].as_u64().unwrap());
        (plan["verdict"].as_str().unwrap().to_string(), layers)
    };
    assert_eq!(verdict(&["--memory=16G"]), ("ram".into(), [0, 32, 0]));
    let (disk, [0, kept, streamed]) = verdict(&["--memory=4G"]) else { panic!("no GPU was asked for") };
    assert!(disk == "disk" && kept + streamed == 32 && streamed > 5);
    assert_eq!(verdict(&["--memory=600M"]), ("no".into(), [0, 0, 0]));
    assert_eq!(verdict(&["--memory=16G", "--gpu=rtx4060"]), ("gpu".into(), [32, 0, 0]));
    let (split, [on, off, 0]) = verdict(&["--memory=16G", "--gpu=rtx3050laptop"]) else {
        panic!("memory is enough")
    };
    assert!(split == "split" && on + off == 32 && on > 8, "{on} and {off}");

    let (disk, [on, off, slow]) = verdict(&["--memory=1G", "--gpu=rtx3050laptop"]);
    assert!(disk == "disk" && on + off + slow == 32 && slow > 0, "{on}, {off} and {slow}");

    let told = world.run(&["fit", "llama-3.1-8b", "--memory=4G"]);
    let text = told.ok();
    for part in
        ["Runs from disk:", "What would do better: ", "Q2_K weights (3.", "longest context", "hob doctor"]
    {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    let told = world.run(&["fit", "llama-3.1-8b:Q8_0", "--memory=600M"]);
    // What kernels work in is a little more with tiles.
    let least = |gb: &str| told.ok().contains(&format!("Does not run: it holds 8.9 GB, {gb} GB at least"));
    assert!(least("1.2") || least("1.3"), "{told:?}");
    // More context than fits is refused with the one that does, and that one does.
    let long = fit(&world, &["llama-3.2-1b", "--memory=2G", "--ctx=131072"]);
    assert_eq!(long["verdict"], "no", "{long}");
    let ctx = long["max_ctx"].to_string();
    assert_ne!(fit(&world, &["llama-3.2-1b", "--memory=2G", "--ctx", &ctx])["verdict"], "no");

    for gpu in [&[][..], &["--gpu=rtx4060"]] {
        for ctx in ["1000000000000", "18446744073709551615"] {
            let vast = [&["llama-3.1-8b", "--memory=16G", "--ctx", ctx], gpu].concat();
            assert_eq!(fit(&world, &vast)["verdict"], "no", "{vast:?}");
        }
    }
    world.run(&["fit", "llama-3.1-8b", "--gpu=rtx4061"]).fails("rtx4060");
    world.run(&["fit", "llama-3.1-8b:Q9"]).fails("Q9 is no quantization that is planned");
    world.run(&["fit", "no-such-model"]).fails("there is no model named no-such-model");
    world.run(&["fit", "./llama-3.1-8b"]).fails("there is no file or model folder");
}

#[test]
fn the_table_of_memory_classes_is_by_the_plan() {
    let world = measured(World::new());
    let table = fit(&world, &[]);
    let rows = table["language"].as_array().unwrap();
    assert!(rows.len() >= 30, "{} rows", rows.len());
    let finer = ["Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0"];
    let rank = |v: &Value| v.as_str().map(|name| finer.iter().position(|f| *f == name).unwrap());
    for row in rows {
        // More memory never takes less fine weights.
        let ranks: Vec<_> =
            ["8", "12", "16", "24", "32", "128"].map(|class| rank(&row["classes"][class])).to_vec();
        assert!(ranks.is_sorted(), "{row}");
    }
    let of = |name: &str, class: &str| {
        rows.iter().find(|r| r["model"] == name).unwrap_or_else(|| panic!("no {name}"))["classes"][class]
            .clone()
    };
    assert_eq!(of("smollm2-135m", "8"), "Q8_0");
    assert_eq!(of("llama-3.3-70b", "24"), Value::Null);
    assert_ne!(of("llama-3.3-70b", "128"), Value::Null);
    assert_ne!(of("qwen3-30b-a3b", "24"), Value::Null);
    assert_eq!(of("qwen3-235b-a22b", "128"), Value::Null);
    let others = table["others"].as_array().unwrap();
    assert!(others.len() >= 15 && others.iter().all(|o| o["planned_by"] == "formula"), "{others:?}");
    let text = world.run(&["fit"]);
    for part in ["Planned by formula", "This machine has", "flux", "HERE"] {
        assert!(text.ok().to_lowercase().contains(&part.to_lowercase()), "no {part:?} in {text:?}");
    }
}

/// A llama of over 8 MiB, of which the planner is asked. Not much more: what a test holds counts to the peaks of the
/// processes that it starts.
fn large() -> Vec<u8> {
    const FFN: usize = 24_576;
    let mut tiny = Tiny::llama();
    tiny.set("llama.feed_forward_length", Meta::U32(FFN as u32));
    for i in 0..2 {
        for (name, shape) in [("gate", [FFN, 64]), ("up", [FFN, 64]), ("down", [64, FFN])] {
            tiny.weight(&format!("blk.{i}.ffn_{name}.weight"), DType::Q8_0, &shape);
        }
    }
    tiny.bytes()
}

#[test]
fn a_model_of_the_hub_is_planned_by_its_header_before_it_is_fetched() {
    let file = large();
    assert!(file.len() > 8 << 20);
    let hub = Hub::new(&[("model-Q8_0.gguf", &file)]);
    let world = measured(hub.world());
    let plan = fit(&world, &["hf:owner/repo"]);
    assert_eq!((&plan["verdict"], &plan["quantization"]), (&"ram".into(), &"Q8_0".into()), "{plan}");
    assert_eq!(bytes(&plan, "file_bytes"), file.len() as u64);
    assert!(bytes(&plan, "weights_bytes") > 8 << 20, "{plan}");
    assert!(hub.cdn.served() < 1 << 20, "{} bytes for a header", hub.cdn.served());
    world.run(&["fit", "hf:owner/repo", "--offline"]).fails("offline");

    let pulled = world.run(&["pull", "hf:owner/repo"]);
    pulled.ok();
    let (said, fetching) = (pulled.stderr.find("fits: ").unwrap(), pulled.stderr.find("fetching").unwrap());
    assert!(said < fetching && pulled.stderr.contains("tokens/s"), "{pulled:?}");
    assert!((file.len()..file.len() + (2 << 20)).contains(&hub.cdn.served()));
    // What is here is planned alike, from the file.
    let here = fit(&world, &["hf:owner/repo", "--offline"]);
    assert_eq!(here["weights_bytes"], plan["weights_bytes"]);
    assert_eq!(here["state_bytes"], plan["state_bytes"]);
    assert_eq!(here["activation_bytes"], plan["activation_bytes"]);
    let off = bytes(&here, "total_bytes") as f64 / bytes(&plan, "total_bytes") as f64 - 1.0;
    assert!(off.abs() < 0.01, "{here} and {plan}");
}

#[test]
fn a_model_that_cannot_be_planned_is_fetched_with_a_word_about_it() {
    let mut tiny = Tiny::llama();
    tiny.set("general.architecture", Meta::Str("mamba".into()));
    tiny.weight("big", DType::F32, &[64, 40_000]);
    let hub = Hub::new(&[("model.gguf", &tiny.bytes())]);
    let world = measured(hub.world());
    world.run(&["fit", "hf:owner/repo"]).fails("mamba");
    let pulled = world.run(&["pull", "hf:owner/repo"]);
    pulled.ok();
    assert!(pulled.stderr.contains("whether it fits is not known: "), "{pulled:?}");
}
