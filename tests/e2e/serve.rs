//! `hob serve` as a service: who may ask, what it bears, how models come and go, how it ends.

use crate::chat::endless;
use crate::common::World;
use crate::models::model;
use crate::serving::{Serving, install};
use crate::tiny::Tiny;
use serde_json::{Value, json};
use std::io::Read;
use std::time::{Duration, Instant};

fn tiny(world: &World) -> String {
    Tiny::llama().write(world, "tiny").to_str().unwrap().to_string()
}

fn chat(model: &str, most: usize) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": most, "seed": 1})
}

#[test]
fn only_this_machine_and_allowed_pages_are_answered() {
    let world = World::new();
    let server = Serving::start(&world, &["--allow-origin=https://app.example", "--allow-host=box.lan"]);
    let ask = |method: &str, headers: &str| {
        server.raw(&format!("{method} /v1/models HTTP/1.1\r\nConnection: close\r\n{headers}\r\n"))
    };
    for host in [&server.address, "localhost", "[::1]:1", "box.lan"] {
        assert!(ask("GET", &format!("Host: {host}\r\n")).starts_with("HTTP/1.1 200 "), "{host}");
    }
    for host in ["evil.example", "10.1.2.3", "localhost.evil.example"] {
        let answer = ask("GET", &format!("Host: {host}\r\n"));
        assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("--allow-host"), "{answer}");
    }
    assert!(
        server.raw("GET /v1/models HTTP/1.0\r\n\r\n").starts_with("HTTP/1.1 403 ")
            || server.raw("GET /v1/models HTTP/1.0\r\n\r\n").starts_with("HTTP/1.0 403 ")
    );
    // The target may name a host as well.
    let absolute =
        "GET http://evil.example/v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert!(server.raw(absolute).starts_with("HTTP/1.1 403 "));

    let origin =
        |origin: &str| ask("GET", &format!("Host: localhost\r\nOrigin: {origin}\r\n")).to_lowercase();
    let allowed = origin("https://app.example");
    assert!(allowed.contains("\r\naccess-control-allow-origin: https://app.example\r\n"), "{allowed}");
    assert!(allowed.contains("\r\nvary: origin\r\n") && !allowed.contains("allow-credentials"));
    assert!(origin("http://localhost").starts_with("http/1.1 200 "));
    for other in ["https://evil.example", "null", "http://localhost:3000"] {
        let refused = origin(other);
        assert!(refused.starts_with("http/1.1 403 ") && !refused.contains("access-control"), "{refused}");
    }
    let preflight = |origin: &str| {
        let headers =
            format!("Host: localhost\r\nOrigin: {origin}\r\nAccess-Control-Request-Method: POST\r\n");
        ask("OPTIONS", &format!("{headers}Access-Control-Request-Headers: x-stainless-os\r\n")).to_lowercase()
    };
    let allowed = preflight("https://app.example");
    assert!(allowed.starts_with("http/1.1 204 "), "{allowed}");
    assert!(allowed.contains("access-control-allow-headers: x-stainless-os"), "{allowed}");
    assert!(preflight("https://evil.example").starts_with("http/1.1 403 "));
}

#[test]
fn a_token_is_asked_for() {
    let world = World::new();
    let path = tiny(&world);
    let server = Serving::start(&world, &["--token=secret", "--model", &path]);
    let none = server.post("/v1/chat/completions", &chat("tiny", 1));
    assert!(none.fails(401).contains("Authorization: Bearer"));
    assert_eq!(none.headers["www-authenticate"], "Bearer");
    let with =
        |header: (&str, &str)| server.send("/v1/chat/completions", &chat("tiny", 1).to_string(), &[header]);
    assert_eq!(with(("authorization", "Bearer wrong")).fails(401), "the token is not this server's");
    with(("authorization", "Bearer secret")).ok();
    with(("x-api-key", "secret")).ok();
    server.get("/health").ok();
    assert_eq!(server.get("/metrics").status, 401);
    let run = world.run(&["serve", "--port=0", "--token", "two words"]);
    run.fails("--token must be");
}

#[test]
fn what_is_too_large_too_deep_or_no_json_is_refused() {
    let world = World::new();
    let path = tiny(&world);
    let server = Serving::start(&world, &["--max-body=20K", "--model", &path]);
    let send = |body: &str| server.send("/v1/chat/completions", body, &[]);
    let large = format!("{{\"x\": \"{}\"}}", "a".repeat(30_000));
    assert!(send(&large).fails(413).contains("--max-body"));
    // The same in chunks, whose length is not told before.
    let chunks = "7530\r\n".to_string() + &"a".repeat(30_000) + "\r\n0\r\n\r\n";
    let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    let answer = server.raw(&format!("{head}{chunks}"));
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let deep = "[".repeat(5000) + &"]".repeat(5000);
    assert!(send(&deep).fails(400).contains("nested deeper"));
    for bad in ["", "{", "\"text\"", "[1]", "{\"a\": 01}", "\u{0}"] {
        assert!(send(bad).fails(400).starts_with("the body "), "{bad:?}");
    }
    // A request that is no HTTP, or has too much before its body, is nobody's; the server goes on.
    for strange in [
        "\r\n\r\n\0\u{1}\r\n\r\n".to_string(),
        format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "a".repeat(1 << 20)),
    ] {
        server.raw(&strange);
    }
    server.post("/v1/chat/completions", &chat("tiny", 1)).ok();
}

#[test]
fn many_large_requests_take_turns() {
    let world = World::new();
    let server = Serving::start(&world, &[]);
    let body = format!("{{\"messages\": [{}0]}}", "0,".repeat(2 << 20));
    std::thread::scope(|scope| {
        for _ in 0..12 {
            let refused = || server.send("/v1/chat/completions", &body, &[]).fails(400);
            scope.spawn(move || assert!(refused().contains("`messages[0]` is 0")));
        }
    });
}

/// A client that sends its request by drops, and one that sends half a body, are put off; others do not wait for them.
#[test]
fn slow_clients_are_put_off() {
    let world = World::new();
    let server = Serving::start(&world, &[]);
    let start = Instant::now();
    let half = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{\"mod";
    let mut slow = [server.open("GET /health HTTP/1.1\r\nHost: loc"), server.open(half), server.open("")];
    server.get("/health").ok();
    let answers = slow.each_mut().map(|stream| {
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        text
    });
    assert!(answers[1].starts_with("HTTP/1.1 408 "), "{answers:?}");
    assert!(answers[0].is_empty() && answers[2].is_empty(), "{answers:?}");
    assert!((10..40).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
}

#[test]
fn no_more_connections_are_open_than_allowed() {
    let world = World::new();
    let server = Serving::start(&world, &["--max-connections=3"]);
    let open = [0; 3].map(|_| server.open("GET /health HTTP/1.1\r\nHost: loc"));
    let mut more = server.open("GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    more.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(more.read(&mut [0; 1]).is_err(), "it was answered");
    drop(open);
    more.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut text = String::new();
    more.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
}

#[test]
fn models_are_named_and_never_opened_by_path() {
    let world = World::new();
    let path = tiny(&world);
    install(&world, path.as_ref());
    let outside = Tiny::llama().write(&world, "outside");
    let server = Serving::start(&world, &[]);
    let names = server.get("/v1/models").ok();
    assert_eq!(names["data"].as_array().unwrap().len(), 1);
    assert_eq!(names["data"][0]["id"], "tiny");
    server.get("/v1/models/tiny").ok();
    server.get("/v1/models/hob:tiny.gguf").ok();
    for name in ["tiny", "TINY", "tiny:latest", "hob:tiny.gguf"] {
        assert_eq!(server.post("/v1/chat/completions", &chat(name, 1)).ok()["model"], "tiny", "{name}");
    }
    let near = server.post("/v1/chat/completions", &chat("tini", 1));
    assert!(near.fails(404).contains("did you mean tiny?"));
    assert_eq!(near.json()["error"]["code"], "model_not_found");
    for name in
        [outside.to_str().unwrap(), path.as_str(), "../outside.gguf", "outside.gguf", "./outside.gguf", ""]
    {
        server.post("/v1/chat/completions", &chat(name, 1)).fails(404);
        let escaped = name.replace('/', "%2F");
        let answer = server.get(&format!("/v1/models/{escaped}"));
        assert_eq!(answer.status, 404, "{}", answer.text);
    }
}

#[test]
fn models_come_and_go() {
    let world = World::new();
    for name in ["one", "two"] {
        install(&world, &Tiny::llama().write(&world, name));
    }
    let pinned = tiny(&world);
    let server = Serving::start(&world, &["--keep-alive=300ms", "--model", &pinned]);
    assert_eq!(server.metric("hob_models_loaded"), 1.0);
    for name in ["one", "two"] {
        server.post("/v1/chat/completions", &chat(name, 1)).ok();
    }
    server.until("hob_models_loaded", 1.0);
    assert_eq!(server.metric("hob_model_loads_total"), 3.0);
    server.post("/v1/chat/completions", &chat("one", 1)).ok();
    server.post("/v1/chat/completions", &chat("tiny", 1)).ok();
    assert_eq!(server.metric("hob_model_loads_total"), 4.0);
    // Without a name, the one that is loaded.
    server.until("hob_models_loaded", 1.0);
    let mut unnamed = chat("", 1);
    unnamed.as_object_mut().unwrap().remove("model");
    assert_eq!(server.post("/v1/chat/completions", &unnamed).ok()["model"], "tiny");
    let log = server.end().stderr;
    assert!(log.contains("hob: one is unloaded") && !log.contains("tiny is unloaded"), "{log}");
}

#[test]
fn a_model_that_does_not_fit_is_refused_with_the_plan() {
    let world = World::new();
    install(&world, &model("SmolLM2-135M-Instruct.Q4_1.gguf"));
    let server = Serving::start(&world, &["--memory=20M"]);
    let refused = server.post("/v1/chat/completions", &chat("starter", 1));
    let message = refused.fails(503);
    assert!(message.contains("does not run within") && message.contains("what would fit"), "{message}");
    server.get("/health").ok();
}

#[test]
fn a_client_that_leaves_frees_its_place() {
    let world = World::new();
    let path = endless(&world);
    let server = Serving::start(&world, &["--ctx=100000", "--threads=1", "--model", &path]);
    let mut endless = chat("endless", 1);
    endless.as_object_mut().unwrap().remove("max_tokens");
    // One that streams, and one that waits for the whole.
    for streamed in [true, false] {
        endless["stream"] = streamed.into();
        let stream = match streamed {
            true => server.streaming(&endless),
            false => {
                let body = endless.to_string();
                let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n";
                server.open(&format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()))
            }
        };
        server.until("hob_jobs_running", 1.0);
        drop(stream);
        let took = server.until("hob_jobs_running", 0.0);
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
    let log = server.end().stderr;
    assert_eq!(log.matches("POST /v1/chat/completions 499 ").count(), 2, "{log}");
}

#[test]
fn a_full_queue_says_when_to_come_again() {
    let world = World::new();
    let path = endless(&world);
    let args = ["--ctx=100000", "--threads=1", "--parallel=1", "--queue=1", "--model", &path];
    let server = Serving::start(&world, &args);
    let mut endless = chat("endless", 100_000);
    endless["stream"] = true.into();
    let first = server.streaming(&endless);
    let body = endless.to_string();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n";
    let second = server.open(&format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()));
    server.until("hob_jobs_waiting", 1.0);
    let refused = server.post("/v1/chat/completions", &chat("endless", 1));
    assert!(refused.fails(503).contains("the queue is full"));
    assert!(refused.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
    drop((first, second));
    server.until("hob_jobs_running", 0.0);
    server.until("hob_jobs_waiting", 0.0);
    server.post("/v1/chat/completions", &chat("endless", 1)).ok();
}

#[test]
fn sixty_four_at_once_are_all_answered() {
    let world = World::new();
    let path = tiny(&world);
    let server = Serving::start(&world, &["--model", &path]);
    let texts: Vec<String> = std::thread::scope(|scope| {
        let ask = |i: usize| {
            let mut body = chat("tiny", 8);
            body["messages"][0]["content"] = format!("number {}", i % 4).into();
            body["temperature"] = 0.into();
            server.post("/v1/chat/completions", &body).ok()["choices"][0]["message"]["content"].to_string()
        };
        let all: Vec<_> = (0..64).map(|i| scope.spawn(move || ask(i))).collect();
        all.into_iter().map(|t| t.join().unwrap()).collect()
    });
    // Whoever asks the same is told the same, whatever others ask meanwhile.
    for (i, text) in texts.iter().enumerate() {
        assert_eq!(*text, texts[i % 4], "{i}");
    }
    assert_eq!(server.metric("hob_jobs_running"), 0.0);
}

/// `hob run` asks the server that runs, whatever the seed, and says the same as alone.
#[test]
fn a_running_server_is_asked() {
    let world = World::new();
    let path = tiny(&world);
    std::fs::create_dir_all(world.path("hob/models")).unwrap();
    std::fs::copy(&path, world.path("hob/models/mine.gguf")).unwrap();
    let server = Serving::start(&world, &[]);
    let seed = format!("--seed={}", u64::MAX);
    for more in [&["--temperature=0"][..], &[&seed, "--temperature=0", "--raw"], &[&seed]] {
        let args = [&["run", "mine", "hi there", "--json", "--max-tokens=6"][..], more].concat();
        let asked: Value = serde_json::from_str(world.run(&args).ok()).unwrap();
        assert_eq!(asked["server"], server.address.as_str(), "{more:?}");
        let alone: Value = serde_json::from_str(world.run(&[&args[..], &["--alone"]].concat()).ok()).unwrap();
        assert!(alone.get("server").is_none());
        assert_eq!((&asked["text"], &asked["tokens"]), (&alone["text"], &alone["tokens"]), "{more:?}");
    }
    // Without a seed one is made up, and every one is taken.
    for _ in 0..8 {
        world.run(&["run", "mine", "hi", "--max-tokens=1"]).ok();
    }
}

/// A conversation goes on where it was though its model was unloaded in between.
#[test]
fn what_was_read_outlives_the_model() {
    let world = World::new();
    let path = tiny(&world);
    std::fs::create_dir_all(world.path("hob/models")).unwrap();
    std::fs::copy(&path, world.path("hob/models/mine.gguf")).unwrap();
    let server = Serving::start(&world, &[]);
    let mut ask = chat("mine", 3);
    ask["messages"][0]["content"] = "the same long question ".repeat(20).into();
    let cached = |ask: &Value| {
        let usage = server.post("/v1/chat/completions", ask).ok()["usage"].clone();
        let all = usage["prompt_tokens"].as_u64().unwrap();
        (usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap(), all)
    };
    assert_eq!(cached(&ask).0, 0);
    let (again, all) = cached(&ask);
    assert_eq!(again, all - 1, "all but the last token, which makes the answer");
    let gone = || server.get("/hob/ps").ok()["models"].as_array().unwrap().is_empty();
    server.post("/hob/unload", &json!({"model": "mine"})).ok();
    let until = Instant::now() + Duration::from_secs(20);
    while !gone() {
        assert!(Instant::now() < until, "it is unloaded");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(cached(&ask), (all - 1, all), "it finds what it read before it was unloaded");
}

/// In small what `dev/soak` does for as long as one likes: whatever clients do, nothing is left of it.
#[test]
fn clients_of_every_kind_leave_nothing_behind() {
    let world = World::new();
    let (tiny, endless) = (tiny(&world), endless(&world));
    let args = ["--model", &tiny, "--model", &endless, "--parallel=6", "--cache=64M"];
    let server = Serving::start(&world, &args);
    let rooms = || -> Vec<u64> {
        let models = server.get("/hob/ps").ok()["models"].as_array().unwrap().clone();
        assert!(models.iter().all(|m| m["running"] == 0 && m["waiting"] == 0), "{models:?}");
        models.iter().map(|m| m["cache_room"].as_u64().unwrap()).collect()
    };
    let before = rooms();
    assert!(before.iter().all(|room| *room > 0));
    std::thread::scope(|scope| {
        for client in 0..6usize {
            let server = &server;
            scope.spawn(move || {
                for i in 0..30usize {
                    let mut body = chat("tiny", 1 + i % 7);
                    body["messages"][0]["content"] = "a b c ".repeat(1 + (client + i) % 40).into();
                    match (client + i * 5) % 6 {
                        0 => drop(server.post("/v1/chat/completions", &body).ok()),
                        1 => {
                            body["n"] = 3.into();
                            body["stream"] = true.into();
                            server.stream("/v1/chat/completions", &body);
                        }
                        2 | 3 => {
                            let mut leaves = chat("endless", 100_000);
                            leaves["stream"] = true.into();
                            drop(server.streaming(&leaves)); // at once, or while it answers
                        }
                        4 => assert!(server.send("/v1/chat/completions", "{\"model\": [", &[]).status == 400),
                        _ => drop(server.open(
                            "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{",
                        )),
                    }
                }
            });
        }
    });
    server.until("hob_jobs_running", 0.0);
    server.until("hob_jobs_waiting", 0.0);
    assert_eq!(rooms(), before, "every page is given back");
}

#[test]
fn it_ends_in_order() {
    let world = World::new();
    let path = endless(&world);
    let note = world.path("hob/server.json");
    // Of one that did not end well.
    std::fs::create_dir(world.path("hob")).unwrap();
    std::fs::write(&note, r#"{"pid": 999999999, "address": "127.0.0.1:9", "token": null}"#).unwrap();
    let server = Serving::start(&world, &["--ctx=2000", "--threads=1", "--token=secret", "--model", &path]);
    let running: Value = serde_json::from_slice(&std::fs::read(&note).unwrap()).unwrap();
    assert_eq!(running["pid"], server.child.id());
    assert_eq!((&running["address"], &running["token"]), (&json!(server.address), &json!("secret")));
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&note).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    // An answer that runs comes to its end, new ones are not begun.
    let mut body = chat("endless", 200);
    body["stream"] = true.into();
    let body = body.to_string();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nx-api-key: secret\r\n";
    let mut stream = server.open(&format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()));
    let mut seen = [0; 400];
    stream.read_exact(&mut seen).unwrap();
    let address = server.address.clone();
    let rest = std::thread::spawn(move || {
        let mut text = String::new();
        stream.read_to_string(&mut text).map(|_| text)
    });
    let run = server.end();
    assert_eq!(run.code, Some(0), "{run:?}");
    let rest = rest.join().unwrap().unwrap();
    assert!(rest.contains("data: [DONE]"), "{rest}");
    assert!(std::net::TcpStream::connect(address).is_err());
    assert!(!note.exists());
    assert!(run.stderr.contains("POST /v1/chat/completions 200 ") && !run.stderr.contains("hi\n"), "{run:?}");
}

#[test]
fn what_cannot_start_says_why() {
    let world = World::new();
    let server = Serving::start(&world, &[]);
    let port = server.address.rsplit(':').next().unwrap();
    world.run(&["serve", "--port", port]).fails("another program listens there");
    world.run(&["serve", "--port=0", "--model", "nothing"]).fails("there is no model named nothing");
    world.run(&["serve", "--port=0", "--model", "starter"]).fails("hob pull starter");
    world.run(&["serve", "--port=0", "--host", "example.org"]).fails("--host is 'example.org'");
    let broken = world.path("broken.gguf");
    std::fs::write(&broken, "GGUF").unwrap();
    world.run(&["serve", "--port=0", "--model", broken.to_str().unwrap()]).fails("broken cannot be loaded");
    for bad in [["--allow-origin", "*"], ["--keep-alive", "soon"], ["--parallel", "0"]] {
        assert_eq!(world.run(&["serve", "--port=0", bad[0], bad[1]]).code, Some(2), "{bad:?}");
    }
    // A second one serves as well, and leaves the first one's note alone.
    let note = std::fs::read(world.path("hob/server.json")).unwrap();
    let second = Serving::start(&world, &[]);
    second.get("/health").ok();
    assert!(second.end().stderr.contains("another server runs at"));
    assert_eq!(std::fs::read(world.path("hob/server.json")).unwrap(), note);
}

#[test]
fn every_path_is_described_and_counted() {
    let world = World::new();
    let server = Serving::start(&world, &[]);
    let described = server.get("/openapi.json").ok();
    assert_eq!(described["openapi"], "3.1.0");
    for (path, methods) in described["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let at = path.replace("{id}", "nothing");
            let reply = match method.as_str() {
                "get" => server.get(&at),
                "delete" => server.delete(&at),
                _ => server.send(&at, "{}", &[]),
            };
            // It is there: what fails, fails for the request.
            assert_ne!(reply.status, 405, "{method} {path}");
            assert!(
                reply.status < 500 && !reply.text.contains("there is nothing at"),
                "{method} {path}: {}",
                reply.text
            );
        }
        assert!(
            server.get("/metrics").text.contains(&format!("hob_requests_total{{route=\"{path}\"")),
            "{path}"
        );
    }
    assert!(server.get("/nothing").fails(404).contains("/nothing"));
    assert!(server.get("/v1/chat/completions").fails(405).contains("does not take GET"));
    let page = server.get("/metrics").text;
    assert!(page.contains("hob_requests_total{route=\"other\",status=\"404\"} 1"), "{page}");
    for line in page.lines().filter(|l| !l.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(name.starts_with("hob_") && value.parse::<f64>().is_ok(), "{line}");
    }
}
