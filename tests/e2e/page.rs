//! The page of `hob serve`, as a browser asks for it; `tests/page` has a real browser.

use crate::chat::endless;
use crate::common::World;
use crate::serving::{Reply, Serving, install};
use crate::tiny::Tiny;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A server with the tiny model among those of this machine.
fn serving(world: &World, args: &[&str]) -> Serving {
    install(world, &Tiny::llama().write(world, "tiny"));
    Serving::start(world, args)
}

/// The events of an answer, up to its end.
fn events(reply: &Reply) -> Vec<Value> {
    assert_eq!(reply.status, 200, "{}", reply.text);
    let data = reply.text.lines().filter_map(|line| line.strip_prefix("data: "));
    data.map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Begins a conversation with a question, and gives its number and those of question and answer.
fn ask(server: &Serving, model: &str, text: &str, most: u32) -> (i64, i64, i64) {
    let settings = json!({"max_tokens": most, "seed": 1});
    let made = server.post("/hob/conversations", &json!({"model": model, "settings": settings})).ok();
    let id = made["id"].as_i64().unwrap();
    let asked = json!({"text": text, "model": model});
    let told = server.post(&format!("/hob/conversations/{id}/messages"), &asked).ok();
    (id, told["question"].as_i64().unwrap(), told["answer"].as_i64().unwrap())
}

#[test]
fn the_page_may_do_nothing_but_ask_its_own_server() {
    let world = World::new();
    let server = serving(&world, &["--token=secret"]);
    let page = server.browse("/");
    assert_eq!(page.status, 200);
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    for part in ["default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'"] {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe") && !policy.contains("http") && !policy.contains('*'), "{policy}");
    let files: Vec<&str> = page.text.split('"').filter(|part| part.starts_with("/assets/")).collect();
    assert!(files.len() >= 5, "{files:?}");
    for file in files {
        let got = server.get(file);
        assert_eq!(got.status, 200, "{file}");
        assert!(got.headers["cache-control"].to_str().unwrap().contains("immutable"));
    }
    // Kept files are asked for by their tags.
    let tag = page.headers["etag"].to_str().unwrap();
    let again = server.raw(&format!(
        "GET / HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\nIf-None-Match: {tag}\r\nConnection: close\r\n\r\n"
    ));
    assert!(again.starts_with("HTTP/1.1 304 "), "{again}");
    // The page itself tells nothing; all that it asks for wants the token, and another's host gets nothing at all.
    for path in ["/hob/state", "/hob/conversations", "/hob/models", "/hob/machine", "/hob/export"] {
        assert_eq!(server.get(path).status, 401, "{path}");
    }
    let foreign = server.raw("GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
    assert!(foreign.starts_with("HTTP/1.1 403 "), "{foreign}");
}

#[test]
fn a_conversation_from_its_first_question_to_its_deletion() {
    let world = World::new();
    let server = serving(&world, &[]);
    let (id, question, answer) = ask(&server, "tiny", "say quixotic", 12);
    let told = events(&server.get(&format!("/hob/messages/{answer}/stream")));
    let end = &told.last().unwrap()["end"];
    assert_eq!((&end["state"], &end["stats"]["tokens"]), (&json!("cut"), &json!(12)), "{end}");
    assert!(told.iter().all(|e| e.get("end").is_some() || e["doing"].is_string()), "{told:?}");
    // Once more, now that it is over: the end alone.
    let late = events(&server.get(&format!("/hob/messages/{answer}/stream")));
    assert_eq!((late.len(), &late[0]["end"]["text"]), (1, &end["text"]));

    let path = format!("/hob/conversations/{id}");
    let shown = server.get(&path).ok();
    assert_eq!((&shown["title"], &shown["messages"][1]["text"]), (&json!("say quixotic"), &end["text"]));
    let again = server.post(&format!("/hob/messages/{answer}/again"), &json!({"model": "tiny"})).ok();
    let second = again["answer"].as_i64().unwrap();
    events(&server.get(&format!("/hob/messages/{second}/stream")));
    assert_eq!(server.get(&path).ok()["messages"][1]["siblings"], json!([answer, second]));
    server.post(&format!("/hob/messages/{answer}/show"), &json!({})).ok();
    assert_eq!(server.get(&path).ok()["messages"][1]["id"], answer);
    // A follow-up reads the earlier turn from the cache or anew, and goes to the answer.
    let follow = json!({"parent": answer, "text": "more", "model": "tiny"});
    let third = server.post(&format!("{path}/messages"), &follow).ok()["answer"].as_i64().unwrap();
    events(&server.get(&format!("/hob/messages/{third}/stream")));
    let wrong = json!({"parent": question, "text": "x", "model": "tiny"});
    server.post(&format!("{path}/messages"), &wrong).fails(400);

    assert_eq!(server.get("/hob/conversations?q=uixot").ok()["found"][0]["conversation"], id);
    assert!(server.get(&format!("{path}/export.md")).text.starts_with("# say quixotic\n\n## You\n"));
    let export = server.get(&format!("{path}/export.json")).text;
    let file = world.path("hob/conversations.sqlite");
    let kept = || {
        let files = ["", "-wal", "-shm"].map(|s| format!("{}{s}", file.display()));
        files.iter().any(|f| std::fs::read(f).is_ok_and(|b| b.windows(8).any(|w| w == b"quixotic")))
    };
    assert!(kept());
    server.delete(&path).ok();
    assert!(!kept(), "the text is still in the file");
    server.get(&path).fails(404);
    server.get(&format!("/hob/messages/{answer}/stream")).fails(404);
    let ids = server.post("/hob/import", &json!({"text": export})).ok();
    let new = ids["ids"][0].as_i64().unwrap();
    assert!(new > id);
    assert_eq!(
        server.get(&format!("/hob/conversations/{new}")).ok()["messages"].as_array().unwrap().len(),
        4
    );
    server.post("/hob/import", &json!({"text": "{}"})).fails(400);
}

#[test]
fn an_answer_goes_on_without_listeners_until_it_is_stopped_or_deleted() {
    let world = World::new();
    let path = endless(&world);
    let server = Serving::start(&world, &["--model", &path, "--ctx=1000000"]);
    let running = || server.get("/hob/machine").ok()["running"].as_u64().unwrap();
    let until = |what: &str, done: &dyn Fn() -> bool| {
        let start = Instant::now();
        while !done() {
            assert!(start.elapsed() < Duration::from_secs(30), "never {what}");
            std::thread::sleep(Duration::from_millis(30));
        }
    };
    let (id, _, answer) = ask(&server, "endless", "go", 100_000);
    let text = || {
        server.get(&format!("/hob/conversations/{id}")).ok()["messages"][1]["text"].as_str().unwrap().len()
    };
    // Kept as it grows, though nobody listens.
    until("kept", &|| text() > 0);
    assert_eq!(running(), 1);
    server.post(&format!("/hob/messages/{answer}/stop"), &json!({})).ok();
    let m = &server.get(&format!("/hob/conversations/{id}")).ok()["messages"][1];
    assert_eq!(m["state"], "stopped");
    assert!(!m["text"].as_str().unwrap().is_empty());
    until("stopped", &|| running() == 0);
    let (other, ..) = ask(&server, "endless", "go", 100_000);
    until("running", &|| running() == 1);
    server.delete(&format!("/hob/conversations/{other}")).ok();
    until("gone", &|| running() == 0);
}

#[test]
fn no_path_of_a_request_reaches_the_file_system() {
    let world = World::new();
    let server = serving(&world, &["--offline"]);
    std::fs::write(world.path("secret.gguf"), "secret").unwrap();
    let file = world.path("secret.gguf").to_str().unwrap().to_string();
    for name in [file.as_str(), "secret.gguf", "../secret.gguf", "/etc/passwd"] {
        for path in ["load", "unload", "remove"].map(|p| format!("/hob/models/{p}")) {
            let reply = server.post(&path, &json!({"name": name}));
            assert!(reply.status == 404 || reply.text == "{}", "{path} {name}: {}", reply.text);
        }
        for path in ["/hob/fit", "/hob/pulls"] {
            let reply = server.post(path, &json!({"name": name}));
            let why = reply.fails(if path == "/hob/fit" { 400 } else { 404 });
            assert!(!why.contains("No such file") && !why.contains("GGUF"), "{why}");
        }
    }
    assert!(world.path("secret.gguf").exists());
    for path in ["/assets/x/../../Cargo.toml", "/assets/x/..%2f..%2fsecret.gguf", "/hob/conversations/..%2fx"]
    {
        let reply = server.get(path);
        assert!(reply.status >= 400 && !reply.text.contains("secret\""), "{path}: {}", reply.status);
    }
    assert_eq!(server.get("/hob/state").ok()["offline"], true);
    assert!(server.post("/hob/pulls", &json!({"name": "starter"})).fails(403).contains("offline"));
    assert!(server.post("/hob/fit", &json!({"name": "hf:owner/repo"})).fails(400).contains("offline"));
    for (path, body) in [
        ("/hob/conversations", json!({"settings": {"temperature": -1}})),
        ("/hob/conversations", json!({"settings": {"nonsense": 1}})),
        ("/hob/conversations", json!([])),
        ("/hob/models/load", json!({"name": ["x"]})),
    ] {
        server.post(path, &body).fails(400);
    }
}

#[test]
fn a_file_that_cannot_be_used_leaves_a_page_that_chats() {
    let world = World::new();
    let file = world.path("hob/conversations.sqlite");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, "no database, but somebody's file".repeat(100)).unwrap();
    let before = std::fs::read(&file).unwrap();
    let server = serving(&world, &[]);
    let state = server.get("/hob/state").ok();
    assert_eq!(state["lasting"], false);
    assert!(state["note"].as_str().unwrap().contains("conversations.sqlite is damaged"), "{state}");
    let (_, _, answer) = ask(&server, "tiny", "hi", 3);
    assert!(
        events(&server.get(&format!("/hob/messages/{answer}/stream"))).last().unwrap()["end"].is_object()
    );
    assert_eq!(std::fs::read(&file).unwrap(), before);
}
