//! Models that several names use, how long a context they are loaded with, and who goes when memory is short.

use crate::chat::endless;
use crate::common::World;
use crate::models::model;
use crate::serving::{Serving, install};
use crate::tiny::Tiny;
use serde_json::{Value, json};

fn with_tiny() -> World {
    let world = World::new();
    install(&world, &Tiny::llama().write(&world, "tiny"));
    world
}

fn ask(server: &Serving, name: &str, options: Value) -> Value {
    let body = json!({"model": name, "prompt": "hi", "stream": false, "options": options});
    server.post("/api/generate", &body).ok()
}

/// The only model that is loaded, as `hob ps` tells it.
fn only(world: &World) -> Value {
    let told: Value = serde_json::from_str(world.run(&["ps", "--json"]).ok()).unwrap();
    assert_eq!(told["models"].as_array().unwrap().len(), 1, "{told}");
    told["models"][0].clone()
}

fn running(server: &Serving) -> Vec<String> {
    let told = server.get("/api/ps").ok();
    let mut names: Vec<_> =
        told["models"].as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap().to_string()).collect();
    names.sort();
    names
}

#[test]
fn a_base_goes_with_the_last_that_uses_it() {
    let world = with_tiny();
    for name in ["mate", "pirate"] {
        world.run(&["create", name, "--from=tiny", "--system=x"]).ok();
    }
    let server = Serving::start(&world, &[]);
    let few = || json!({"num_predict": 1});
    ask(&server, "pirate", few());
    assert_eq!(running(&server), ["pirate:latest"]);
    ask(&server, "mate:latest", few());
    let told = only(&world);
    assert_eq!((&told["name"], &told["presets"]), (&json!("tiny"), &json!(["pirate", "mate"])), "{told}");
    let table = world.run(&["ps"]);
    assert!(table.ok().lines().nth(1).unwrap().starts_with("tiny  pirate, mate  "), "{}", table.stdout);
    let stop = |name: &str| world.run(&["stop", name]);
    assert_eq!(stop("PIRATE").ok(), "tiny stays loaded: it is used as mate.");
    assert_eq!(running(&server), ["mate:latest"]);
    stop("pirate").fails("no model of that name is loaded");
    assert!(stop("mate").ok().starts_with("mate is unloaded"));
    server.until("hob_models_loaded", 0.0);
    // The base's own use counts like another's; by its own name it goes whoever uses it.
    ask(&server, "tiny", few());
    ask(&server, "pirate", few());
    assert_eq!(stop("pirate").ok(), "tiny stays loaded: it is used as tiny.");
    ask(&server, "pirate", few());
    assert!(stop("tiny").ok().starts_with("tiny is unloaded"));
    server.until("hob_models_loaded", 0.0);
    // As Ollama's clients ask for it, and with times of their own.
    let unload = |name: &str| server.post("/api/generate", &json!({"model": name, "keep_alive": 0})).ok();
    let keep = |name: &str, time: &str| {
        server.post("/api/generate", &json!({"model": name, "keep_alive": time})).ok();
    };
    keep("pirate", "1h");
    keep("mate", "300ms");
    assert!(running(&server).contains(&"pirate:latest".to_string()));
    std::thread::sleep(std::time::Duration::from_millis(1200));
    assert_eq!(running(&server), ["pirate:latest"]);
    assert_eq!(unload("pirate")["done_reason"], "unload");
    server.until("hob_models_loaded", 0.0);
    drop(server);
    // One that stays for the server's whole life stays, whatever becomes of presets of it.
    let server = Serving::start(&world, &["--model=tiny"]);
    ask(&server, "pirate", few());
    assert!(stop("pirate").ok().starts_with("tiny was named when the server was started"));
    stop("tiny").fails("it was named when the server was started");
    assert_eq!(running(&server), ["tiny:latest"]);
    assert_eq!(server.metric("hob_models_loaded"), 1.0);
}

#[test]
fn a_context_is_as_long_as_it_is_asked_for() {
    let world = World::new();
    let path = endless(&world);
    install(&world, path.as_ref());
    world.run(&["create", "short", "--from=endless", "-p", "ctx=64"]).ok();
    world.run(&["create", "long", "--from=endless", "-p", "ctx=6000"]).ok();
    let server = Serving::start(&world, &["--threads=1"]);
    let count = |answer: &Value| {
        let number = |key: &str| answer[key].as_u64().unwrap();
        number("prompt_eval_count") + number("eval_count")
    };
    let loads = || server.metric("hob_model_loads_total");
    // Not loaded yet: with a cache for as much. Prompt and answer fill it; the last token is said and not read.
    let answer = ask(&server, "endless", json!({"num_ctx": 128}));
    assert_eq!((count(&answer), &answer["done_reason"]), (129, &json!("length")));
    assert_eq!((only(&world)["context"].as_u64(), loads()), (Some(128), 1.0));
    // A preset's is the same, and a shorter one bounds an answer without anything being loaded anew.
    assert_eq!(count(&ask(&server, "short", json!({}))), 65);
    assert_eq!(count(&ask(&server, "endless", json!({"num_ctx": 90}))), 91);
    assert_eq!(count(&ask(&server, "short", json!({"num_ctx": 100}))), 101);
    assert_eq!(ask(&server, "endless", json!({"num_ctx": 90, "num_predict": 3}))["eval_count"], 3);
    assert_eq!(loads(), 1.0);
    // What asks for nothing gets as much as usual, and longer ones are met: nobody uses it.
    assert_eq!(ask(&server, "endless", json!({"num_predict": 2}))["eval_count"], 2);
    assert_eq!((only(&world)["context"].as_u64(), loads()), (Some(4096), 2.0));
    assert_eq!(ask(&server, "long", json!({"num_predict": 2}))["eval_count"], 2);
    assert_eq!((only(&world)["context"].as_u64(), loads()), (Some(6000), 3.0));
    ask(&server, "endless", json!({"num_predict": 2}));
    assert_eq!(loads(), 3.0);
    // A prompt that is longer than asked for is refused, not cut.
    let long = json!({"model": "endless", "prompt": "abcdefgh".repeat(20), "options": {"num_ctx": 64}});
    let refused = server.post("/api/generate", &long);
    assert_eq!(refused.status, 400);
    assert!(refused.text.contains("more than the 64 of context that are asked for"), "{}", refused.text);
    // One that memory does not hold gets the planner's sentence, and what was loaded stays.
    let body =
        json!({"model": "endless", "prompt": "hi", "options": {"num_ctx": 1_000_000, "num_predict": 1}});
    drop(server);
    let server = Serving::start(&world, &["--threads=1", "--memory=150M"]);
    ask(&server, "endless", json!({"num_predict": 1}));
    let refused = server.post("/api/generate", &body);
    assert_eq!(refused.status, 503, "{}", refused.text);
    assert!(
        refused.text.contains("does not run within") && refused.text.contains("--ctx"),
        "{}",
        refused.text
    );
    assert_eq!(only(&world)["context"], 4096);
    assert_eq!(server.metric("hob_model_loads_total"), 1.0);
}

#[test]
fn no_more_is_given_than_there_is() {
    let world = with_tiny();
    // What the model was trained for is the most that a client gets, and what the person said holds for all.
    let server = Serving::start(&world, &[]);
    ask(&server, "tiny", json!({"num_ctx": 1 << 20, "num_predict": 1}));
    assert_eq!(only(&world)["context"], 512);
    assert!(
        server.end().stderr.contains("tiny has 512 tokens of context, and a client asks for num_ctx 1048576")
    );
    world.run(&["create", "long", "--from=tiny", "-p", "ctx=400"]).ok();
    let server = Serving::start(&world, &["--ctx=300", "--model=tiny"]);
    ask(&server, "long", json!({"num_predict": 1}));
    ask(&server, "tiny", json!({"num_ctx": 500, "num_predict": 1}));
    assert_eq!(only(&world)["context"], 300);
    assert_eq!(server.metric("hob_model_loads_total"), 1.0);
}

/// A longer context waits for those that are answered, and a pinned model stays pinned.
#[test]
fn nobody_is_cut_off_for_a_longer_context() {
    let world = World::new();
    let path = endless(&world);
    let server = Serving::start(&world, &["--threads=1", "--model", &path]);
    let stream = server.streaming(&json!({
        "model": "endless", "messages": [{"role": "user", "content": "hi"}], "stream": true, "max_tokens": 100_000,
    }));
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| ask(&server, "endless", json!({"num_ctx": 5000, "num_predict": 2})));
        std::thread::sleep(std::time::Duration::from_millis(400));
        assert!(!waits.is_finished());
        assert_eq!(server.metric("hob_model_loads_total"), 1.0);
        drop(stream);
        assert_eq!(waits.join().unwrap()["eval_count"], 2);
    });
    let told = only(&world);
    assert_eq!((&told["context"], &told["pinned"]), (&json!(5000), &json!(true)), "{told}");
}

/// Where a large model has to go, a small one that is idle for longer stays.
#[test]
fn as_little_is_unloaded_as_makes_room() {
    let world = with_tiny();
    let names = ["SmolLM2-135M-Instruct.Q4_1", "gemma-3-270m-q4_k_m"];
    names.iter().for_each(|name| install(&world, &model(&format!("{name}.gguf"))));
    let few = || json!({"num_predict": 1});
    let args = ["--cache=8M", "--ctx=200", "--parallel=1"];
    let server = Serving::start(&world, &args);
    let process = server.metric("hob_memory_resident_bytes");
    let planned = |name: &str| {
        let before = server.metric("hob_memory_planned_bytes");
        ask(&server, name, few());
        server.metric("hob_memory_planned_bytes") - before
    };
    let (tiny, [first, second]) = (planned("tiny"), names.map(planned));
    assert!(first.min(second) > 3.0 * tiny, "{tiny} {first} {second}");
    drop(server);
    let memory =
        format!("--memory={}", (process + tiny + first.max(second) + first.min(second) / 4.0) as u64);
    let server = Serving::start(&world, &[&args[..], &[&memory]].concat());
    ask(&server, "tiny", few());
    for name in names.iter().chain(&names) {
        ask(&server, name, few());
        assert_eq!(
            running(&server),
            {
                let mut all = [format!("{name}:latest"), "tiny:latest".into()];
                all.sort();
                all
            },
            "{memory}"
        );
    }
    assert_eq!(server.metric("hob_model_loads_total"), 5.0);
}
