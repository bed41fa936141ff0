//! What belongs to one server, though another runs beside it in the same home; and presets that clients of Ollama's API make.

use crate::chat::endless;
use crate::common::{World, files};
use crate::models::model;
use crate::serving::{Reply, Serving, install};
use crate::tiny::Tiny;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The answer of a conversation's first question.
fn answer(server: &Serving, id: i64) -> Value {
    server.get(&format!("/hob/conversations/{id}")).ok()["messages"][1].clone()
}

#[test]
fn a_second_server_leaves_the_answers_of_the_first_alone() {
    let world = World::new();
    install(&world, endless(&world).as_ref());
    let mut first = Serving::start(&world, &["--threads=1", "--ctx=1000000"]);
    let made = first
        .post("/hob/conversations", &json!({"model": "endless", "settings": {"max_tokens": 100_000}}))
        .ok();
    let id = made["id"].as_i64().unwrap();
    first.post(&format!("/hob/conversations/{id}/messages"), &json!({"text": "go", "model": "endless"})).ok();
    let start = Instant::now();
    while answer(&first, id)["text"].as_str().unwrap().is_empty() {
        assert!(start.elapsed() < Duration::from_secs(30), "nothing is kept");
        std::thread::sleep(Duration::from_millis(30));
    }
    let second = Serving::start(&world, &["--threads=1", "--ctx=1000000"]);
    assert_eq!(answer(&second, id)["state"], "running");
    drop(second);
    let third = Serving::start(&world, &["--threads=1", "--ctx=1000000"]);
    assert_eq!(
        (&answer(&first, id)["state"], &answer(&third, id)["state"]),
        (&json!("running"), &json!("running"))
    );
    // It ends without a word; whoever looks next says so.
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    let left = answer(&third, id);
    assert_eq!(
        (&left["state"], &left["note"]),
        (&json!("failed"), &json!("Hob ended while this was written")),
        "{left}"
    );
    assert!(!left["text"].as_str().unwrap().is_empty());
    drop(first);
    assert_eq!(third.end().code, Some(0));
    let fourth = Serving::start(&world, &[]);
    let held = || files(&world.path("hob")).iter().filter(|f| f.ends_with(".running")).count();
    assert_eq!(held(), 1);
    fourth.end();
}

/// The lines of an answer, whose last says that it is done.
#[track_caller]
fn statuses(reply: &Reply) -> Vec<String> {
    assert_eq!(reply.status, 200, "{}", reply.text);
    let lines = reply.text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.map(|line| line["status"].as_str().unwrap_or_else(|| panic!("{line}")).to_string()).collect()
}

#[track_caller]
fn refused(reply: &Reply, status: u16) -> String {
    assert_eq!(reply.status, status, "{}", reply.text);
    reply.json()["error"].as_str().unwrap().to_string()
}

#[test]
fn a_preset_is_made_shown_copied_and_removed_by_ollamas_api() {
    let world = World::new();
    install(&world, &model("SmolLM2-135M-Instruct.Q4_1.gguf"));
    let server = Serving::start(&world, &[]);
    let body = json!({
        "model": "poet", "from": "starter", "system": "You are a poet.", "license": ["MIT", "mine"],
        "parameters": {"temperature": 0, "num_predict": 5, "num_ctx": 700, "stop": ["END \"x\""], "num_gpu": 1},
        "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Roses"}],
    });
    let said = statuses(&server.post("/api/create", &body));
    assert!(said[0].starts_with("using existing layer sha256:") && said[1].contains("num_gpu"), "{said:?}");
    assert_eq!(said[2..], ["writing manifest", "success"]);
    let shown = server.post("/api/show", &json!({"model": "poet"})).ok();
    assert_eq!((&shown["system"], &shown["license"]), (&json!("You are a poet."), &json!("MIT\n\nmine")));
    assert_eq!(shown["messages"][1], json!({"role": "assistant", "content": "Roses"}));
    assert_eq!(shown["details"]["parent_model"], "SmolLM2-135M-Instruct.Q4_1:latest");
    let lines: Vec<Vec<&str>> =
        shown["parameters"].as_str().unwrap().lines().map(|l| l.split_whitespace().collect()).collect();
    for line in [
        &["temperature", "0"][..],
        &["num_predict", "5"],
        &["num_ctx", "700"],
        &["stop", "\"END", "\\\"x\\\"\""],
    ] {
        assert!(lines.iter().any(|l| l == line), "{line:?}: {lines:?}");
    }
    let ask = |name: &str| {
        let user = json!([{"role": "user", "content": "Who are you?"}]);
        server.post("/api/chat", &json!({"model": name, "messages": user, "stream": false})).ok()
    };
    let answer = ask("poet:latest");
    assert_eq!((&answer["eval_count"], &answer["done_reason"]), (&json!(5), &json!("length")));
    assert!(
        answer["prompt_eval_count"].as_u64().unwrap() > ask("starter")["prompt_eval_count"].as_u64().unwrap()
    );
    // What it was shown as makes the same again, as older clients send it.
    let old = json!({"name": "again", "modelfile": shown["modelfile"], "stream": false});
    assert_eq!(server.post("/api/create", &old).ok(), json!({"status": "success"}));
    assert_eq!(ask("again")["message"], answer["message"]);
    assert_eq!(server.post("/api/show", &json!({"model": "again"})).ok()["modelfile"], shown["modelfile"]);
    // Of itself: what it said stays where nothing new is said.
    let own =
        json!({"model": "poet:latest", "from": "poet", "parameters": {"num_predict": 3}, "stream": false});
    server.post("/api/create", &own).ok();
    assert_eq!(
        (&ask("poet")["eval_count"], &ask("poet")["prompt_eval_count"]),
        (&json!(3), &answer["prompt_eval_count"])
    );
    let copy = |from: &str, to: &str| server.post("/api/copy", &json!({"source": from, "destination": to}));
    assert_eq!(copy("poet", "bard").status, 200);
    assert_eq!(copy("starter", "mini:v1").status, 200);
    assert_eq!(ask("bard")["message"], ask("poet")["message"]);
    assert_eq!(files(&world.path("hob/presets")), ["again.toml", "bard.toml", "mini=v1.toml", "poet.toml"]);
    assert_eq!(files(&world.path("hob/models")).len(), 1);
    let delete = |name: &str| {
        let (body, host) = (json!({ "model": name }).to_string(), &server.address);
        let head = format!("DELETE /api/delete HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
        server.raw(&format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()))
    };
    // One of a preset that is gone goes all the same.
    world.run(&["create", "orphan", "--from=poet"]).ok();
    // A copy does not need what it was made of.
    assert!(delete("poet:latest").starts_with("HTTP/1.1 200 "));
    assert_eq!(ask("bard")["eval_count"], 3);
    for name in ["bard", "again", "mini:v1", "orphan"] {
        assert!(delete(name).starts_with("HTTP/1.1 200 "), "{name}");
        assert!(delete(name).starts_with("HTTP/1.1 404 "), "{name}");
    }
    assert_eq!(files(&world.path("hob/models")).len(), 1);
    assert_eq!(server.metric("hob_models_loaded"), 1.0);
}

#[test]
fn what_cannot_be_made_over_http_is_refused_and_leaves_nothing() {
    let world = World::new();
    install(&world, &Tiny::llama().write(&world, "tiny"));
    let outside = Tiny::llama().write(&world, "outside");
    let given = Tiny::llama().write(&world, "given");
    let server = Serving::start(&world, &["--model", given.to_str().unwrap()]);
    let outside = outside.to_str().unwrap();
    for (body, status, why) in [
        (json!({"from": "tiny"}), 400, "`model` is missing"),
        (json!({"model": "x"}), 400, "`from` is missing"),
        (json!({"model": "../x", "from": "tiny"}), 400, "cannot be called '../x'"),
        (json!({"model": "a/b", "from": "tiny"}), 400, "cannot be called 'a/b'"),
        (json!({"model": "tiny", "from": "tiny"}), 400, "tiny is the name of a model"),
        (json!({"model": "GIVEN:latest", "from": "tiny"}), 400, "GIVEN is the name of a model"),
        (json!({"model": "starter", "from": "tiny"}), 400, "starter is the name of a model"),
        (json!({"model": "x", "from": "starter"}), 404, "no model named 'starter'"),
        (json!({"model": "x", "from": outside}), 400, "must be a model's name"),
        (json!({"model": "x", "from": "outside.gguf"}), 404, "no model named 'outside.gguf'"),
        (json!({"model": "x", "modelfile": format!("FROM {outside}")}), 400, "must be a model's name"),
        (json!({"model": "x", "modelfile": "FROM tiny\nADAPTER ./lora"}), 400, "ADAPTER names a file"),
        (
            json!({"model": "x", "from": "tiny", "files": {"a.gguf": "sha256:00"}}),
            400,
            "`files` is not taken",
        ),
        (
            json!({"model": "x", "from": "tiny", "adapters": {"a": "sha256:00"}}),
            400,
            "`adapters` is not taken",
        ),
        (json!({"model": "x", "from": "tiny", "parameters": {"top_k": "z"}}), 400, "top_k is z"),
        (json!({"model": "x", "from": "tiny", "template": "{% if %}"}), 400, "template"),
        (json!({"model": "x", "from": "tiny", "system": "x".repeat(1 << 20)}), 400, "longer than"),
    ] {
        for streamed in [true, false] {
            let mut body = body.clone();
            body["stream"] = streamed.into();
            let told = refused(&server.post("/api/create", &body), status);
            assert!(told.contains(why), "{body}: {told}");
        }
    }
    for (body, status) in [
        (json!({"source": "tiny"}), 400),
        (json!({"source": "nothing", "destination": "x"}), 404),
        (json!({"source": outside, "destination": "x"}), 404),
        (json!({"source": "tiny", "destination": "../x"}), 400),
    ] {
        refused(&server.post("/api/copy", &body), status);
    }
    let blob = format!("/api/blobs/sha256:{}", "0".repeat(64));
    assert!(refused(&server.post(&blob, &json!({})), 501).contains("files are not taken in"));
    let head = server.raw(&format!("HEAD {blob} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
    assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
    assert!(!world.path("hob/presets").exists() || files(&world.path("hob/presets")).is_empty());
    // Many at once make one, whole.
    std::thread::scope(|scope| {
        for i in 0..16 {
            let body = json!({"model": "many", "from": "tiny", "system": i.to_string().repeat(50_000)});
            let server = &server;
            scope.spawn(move || statuses(&server.post("/api/create", &body)));
        }
    });
    assert_eq!(files(&world.path("hob/presets")), ["many.toml"]);
    let system =
        server.post("/api/show", &json!({"model": "many"})).ok()["system"].as_str().unwrap().to_string();
    assert!((0..16).any(|i| system == i.to_string().repeat(50_000)));
    // One that lies where the person who started the server said is a base as well.
    statuses(&server.post("/api/create", &json!({"model": "mine", "from": "given", "system": "x"})));
    assert_eq!(server.post("/api/show", &json!({"model": "mine"})).ok()["system"], "x");
}
