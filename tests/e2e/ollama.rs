//! Ollama's API: shapes, streams, models coming and going, pulling.

use crate::chat::endless;
use crate::common::{Hub, Reply as Sent, World, files, gguf, sha256};
use crate::models::model;
use crate::serving::{Reply, Serving, install};
use crate::tiny::Tiny;
use serde_json::{Value, json};
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn server(world: &World) -> Serving {
    install(world, &model("SmolLM2-135M-Instruct.Q4_1.gguf"));
    Serving::start(world, &[])
}

fn with(mut body: Value, more: Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn chat(more: Value) -> Value {
    let messages = json!([{"role": "user", "content": "List the months of the year."}]);
    let options = json!({"temperature": 0, "num_predict": 16});
    with(json!({"model": "starter", "messages": messages, "options": options}), more)
}

fn prompt(more: Value) -> Value {
    let options = json!({"temperature": 0, "num_predict": 16});
    with(json!({"model": "starter", "prompt": "List the months of the year.", "options": options}), more)
}

/// The lines of an answer.
#[track_caller]
fn lines(reply: &Reply) -> Vec<Value> {
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert_eq!(reply.headers["content-type"], "application/x-ndjson");
    reply.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Asserts an error in Ollama's shape, and gives its sentence.
#[track_caller]
fn refused(reply: &Reply, status: u16) -> String {
    assert_eq!(reply.status, status, "{}", reply.text);
    reply.json()["error"].as_str().unwrap().to_string()
}

/// A request that ends with its connection; the helper's client sends no body with DELETE.
fn delete(server: &Serving, body: &Value) -> String {
    let (body, host) = (body.to_string(), &server.address);
    let head = format!("DELETE /api/delete HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    server.raw(&format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()))
}

fn names(server: &Serving, path: &str) -> Vec<String> {
    let models = server.get(path).ok()["models"].clone();
    models.as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap().to_string()).collect()
}

#[test]
fn a_chat_is_told_in_lines() {
    let world = World::new();
    let server = server(&world);
    let whole = server.post("/api/chat", &chat(json!({"stream": false}))).ok();
    let text = whole["message"]["content"].as_str().unwrap();
    assert!(text.contains("January, February"), "{whole}");
    assert_eq!((&whole["model"], &whole["done_reason"]), (&json!("starter"), &json!("length")));
    let all = lines(&server.post("/api/chat", &chat(json!({}))));
    let said: String = all.iter().map(|l| l["message"]["content"].as_str().unwrap()).collect();
    assert_eq!(said, text);
    let (last, others) = all.split_last().unwrap();
    assert!(others.iter().all(|l| l["done"] == false && l.get("done_reason").is_none()));
    for end in [&whole, last] {
        assert_eq!((&end["done"], &end["eval_count"]), (&json!(true), &json!(16)));
        let nanos = |name: &str| end[name].as_u64().unwrap_or_else(|| panic!("no {name} in {end}"));
        let parts = nanos("load_duration") + nanos("prompt_eval_duration") + nanos("eval_duration");
        assert!(parts <= nanos("total_duration") && nanos("eval_duration") > 0, "{end}");
        assert!(nanos("prompt_eval_count") > 20);
        let created = end["created_at"].as_str().unwrap();
        assert!(created.starts_with("20") && created.ends_with('Z') && created.len() == 27, "{created}");
    }
    // What the assistant has begun to say is gone on with, and not told again.
    let begun =
        json!([{"role": "user", "content": "Count to ten."}, {"role": "assistant", "content": "One, two,"}]);
    let on = server.post("/api/chat", &chat(json!({"stream": false, "messages": begun}))).ok();
    assert!(on["message"]["content"].as_str().unwrap().starts_with(" three"), "{on}");
    let told = server.post("/api/chat", &chat(json!({"stream": false, "top_logprobs": 2}))).ok();
    let tokens = told["logprobs"].as_array().unwrap();
    assert_eq!((tokens.len(), tokens[0]["top_logprobs"].as_array().unwrap().len()), (16, 2));
}

#[test]
fn a_prompt_is_answered_and_gone_on_with() {
    let world = World::new();
    let server = server(&world);
    let whole = server.post("/api/generate", &prompt(json!({"stream": false}))).ok();
    let all = lines(&server.post("/api/generate", &prompt(json!({}))));
    let said: String = all.iter().map(|l| l["response"].as_str().unwrap()).collect();
    assert_eq!(whole["response"], said);
    assert_eq!(all.last().unwrap()["context"], whole["context"]);
    let context = whole["context"].as_array().unwrap().len() as u64;
    assert_eq!(context, whole["prompt_eval_count"].as_u64().unwrap() + 16);
    let more = json!({"stream": false, "prompt": "Go on.", "context": whole["context"]});
    let on = server.post("/api/generate", &prompt(more)).ok();
    assert!(on["prompt_eval_count"].as_u64().unwrap() > context);
    let raw = json!({"stream": false, "raw": true, "prompt": "One, two, three,"});
    let raw = server.post("/api/generate", &prompt(raw)).ok();
    assert!(raw["response"].as_str().unwrap().contains("four") && raw.get("context").is_none(), "{raw}");
    let stop = json!({"stream": false, "options": {"temperature": 0, "stop": ["March"]}});
    let stopped = server.post("/api/generate", &prompt(stop)).ok();
    assert!(
        stopped["response"].as_str().unwrap().ends_with("February, ") && stopped["done_reason"] == "stop"
    );
    for (more, why) in [
        (json!({"template": "{{ .Prompt }}"}), "`template` is not there"),
        (json!({"suffix": "end"}), "`suffix` is not there"),
        (json!({"images": ["aGk="]}), "text only"),
        (json!({"raw": true, "system": "x"}), "`raw` takes the prompt as it is"),
        (json!({"context": ["x"]}), "`context` is a list"),
        (json!({"context": [99_999_999]}), "99999999"),
        (json!({"options": {"temperature": "hot"}}), "`options.temperature` is a string"),
        (json!({"think": true}), "does not think"),
        (json!({"think": "a lot"}), "`think`"),
        (json!({"keep_alive": "soon"}), "'soon' is no time"),
        (json!({"format": "xml"}), "`format`"),
        (json!({"top_logprobs": 21}), "from 0 to 20"),
        (json!({"model": ""}), "`model` is missing"),
    ] {
        let why_not = refused(&server.post("/api/generate", &prompt(more.clone())), 400);
        assert!(why_not.contains(why), "{more}: {why_not}");
    }
    assert!(refused(&server.post("/api/chat", &chat(json!({"model": "nothing"}))), 404).contains("nothing"));
    assert!(refused(&server.send("/api/chat", "{", &[]), 400).starts_with("the body is no JSON"));
    assert!(refused(&server.get("/api/nothing"), 404).contains("/api/nothing"));
    for absent in ["push", "blobs/sha256:0"] {
        refused(&server.post(&format!("/api/{absent}"), &json!({})), 501);
    }
}

/// The product of two vectors, which must be of length one.
fn cosine(a: &Value, b: &Value) -> f64 {
    let [a, b] =
        [a, b].map(|v| v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect::<Vec<_>>());
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    assert!(a.len() == b.len() && (dot(&a, &a) - 1.0).abs() < 1e-3 && (dot(&b, &b) - 1.0).abs() < 1e-3);
    dot(&a, &b)
}

#[test]
fn texts_are_embedded() {
    let world = World::new();
    let server = server(&world);
    let body = json!({"model": "starter", "input": ["a cat", "the stock market"]});
    let many = server.post("/api/embed", &body).ok();
    let vectors = many["embeddings"].as_array().unwrap();
    assert_eq!(vectors.len(), 2);
    assert!(many["prompt_eval_count"].as_u64().unwrap() >= 4 && many["total_duration"].as_u64().unwrap() > 0);
    let one = server.post("/api/embed", &json!({"model": "starter", "input": "a cat"})).ok();
    // Alone it is read by other kernels than beside others: the same but for the rounding of quantized weights.
    assert!(cosine(&one["embeddings"][0], &vectors[0]) > 0.998);
    let old = server.post("/api/embeddings", &json!({"model": "starter", "prompt": "a cat"})).ok();
    assert!(cosine(&old["embedding"], &vectors[0]) > 0.998 && cosine(&vectors[0], &vectors[1]) < 0.998);
    let short = json!({"model": "starter", "input": "a cat", "dimensions": 8});
    let short = server.post("/api/embed", &short).ok();
    assert_eq!(short["embeddings"][0].as_array().unwrap().len(), 8);
    refused(&server.post("/api/embed", &json!({"model": "starter"})), 400);
}

#[test]
fn models_are_loaded_and_unloaded_as_asked() {
    let world = World::new();
    for name in ["one", "two"] {
        install(&world, &Tiny::llama().write(&world, name));
    }
    let server = Serving::start(&world, &["--model=two"]);
    assert_eq!(names(&server, "/api/tags"), ["two:latest", "one:latest"]);
    assert_eq!(names(&server, "/api/ps"), ["two:latest"]);
    let ask = |path: &str, name: &str, keep: Value| {
        server.post(path, &json!({"model": name, "prompt": "", "messages": [], "keep_alive": keep})).ok()
    };
    for path in ["/api/generate", "/api/chat"] {
        let loaded = ask(path, "one", json!("1h"));
        assert_eq!((&loaded["done"], &loaded["done_reason"]), (&json!(true), &json!("load")), "{path}");
        assert_eq!(names(&server, "/api/ps").len(), 2);
        assert_eq!(ask(path, "one:latest", json!(0))["done_reason"], "unload", "{path}");
        server.until("hob_models_loaded", 1.0);
    }
    // It need not be loaded for that; one that is to stay says so, and one that is not there is unknown.
    assert_eq!(ask("/api/chat", "one", json!(0))["done_reason"], "unload");
    let unload = |name: &str| server.post("/api/chat", &json!({"model": name, "keep_alive": 0}));
    assert!(refused(&unload("two"), 400).contains("stays loaded"));
    refused(&unload("three"), 404);
    // After an answer with a time of 0 it goes.
    let body = json!({"model": "one", "prompt": "hi", "keep_alive": 0, "options": {"num_predict": 1}});
    lines(&server.post("/api/generate", &body));
    server.until("hob_models_loaded", 1.0);
    let stays = server.get("/api/ps").ok()["models"][0].clone();
    assert!(stays["expires_at"].as_str().unwrap() > "2200" && stays["size_vram"] == 0, "{stays}");
    assert!(stays["context_length"].as_u64().unwrap() > 0 && stays["details"]["family"] == "llama");
}

#[test]
fn models_are_shown_and_removed() {
    let world = World::new();
    let outside = Tiny::llama().write(&world, "outside");
    install(&world, &Tiny::llama().write(&world, "tiny"));
    install(&world, endless(&world).as_ref());
    let args = ["--ctx=100000", "--threads=1", "--model", outside.to_str().unwrap()];
    let server = Serving::start(&world, &args);
    for name in ["tiny", "tiny:latest", "TINY"] {
        let shown = server.post("/api/show", &json!({"model": name})).ok();
        assert_eq!(shown["model_info"]["general.architecture"], "llama");
        assert_eq!(shown["details"]["format"], "gguf");
        assert_eq!(shown["capabilities"][0], "completion");
        assert!(shown["modelfile"].as_str().unwrap().contains("FROM tiny:latest"));
    }
    let verbose = server.post("/api/show", &json!({"name": "tiny", "verbose": true})).ok();
    assert!(!verbose["tensors"].as_array().unwrap().is_empty());
    refused(&server.post("/api/show", &json!({"model": outside})), 404);
    refused(&server.post("/api/show", &json!({})), 400);

    let gone = delete(&server, &json!({"model": "nothing"}));
    assert!(gone.starts_with("HTTP/1.1 404 "), "{gone}");
    let stays = delete(&server, &json!({"model": "outside"}));
    assert!(stays.starts_with("HTTP/1.1 403 ") && stays.contains("theirs to remove"), "{stays}");
    assert!(outside.exists());
    // One that answers is not removed; one that is only loaded is unloaded for it.
    let body = json!({"model": "endless", "prompt": "hi", "options": {"num_predict": 100_000}}).to_string();
    let head = format!("POST /api/generate HTTP/1.1\r\nHost: {}\r\n", server.address);
    let mut busy = server.open(&format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()));
    busy.read_exact(&mut [0; 400]).unwrap();
    let used = delete(&server, &json!({"model": "endless"}));
    assert!(used.starts_with("HTTP/1.1 503 ") && used.contains("endless is answering"), "{used}");
    drop(busy);
    server.until("hob_jobs_running", 0.0);
    let start = Instant::now();
    while !delete(&server, &json!({"model": "endless"})).starts_with("HTTP/1.1 200 ") {
        assert!(start.elapsed() < Duration::from_secs(10));
    }
    assert!(delete(&server, &json!({"model": "tiny"})).starts_with("HTTP/1.1 200 "));
    assert_eq!(files(&world.path("hob/models")), Vec::<String>::new());
    assert_eq!(names(&server, "/api/tags"), ["outside:latest"]);
    assert!(delete(&server, &json!({"name": "tiny"})).starts_with("HTTP/1.1 404 "));
}

#[test]
fn a_model_is_pulled_with_its_progress() {
    let bytes = gguf("Tiny", 100_000);
    let hub = Hub::new(&[("tiny.gguf", &bytes)]);
    let world = hub.world();
    let server = Serving::start(&world, &[]);
    let all = lines(&server.post("/api/pull", &json!({"model": "hf.co/owner/repo:latest"})));
    assert_eq!(all[0]["status"], "pulling manifest");
    assert_eq!(all.last().unwrap(), &json!({"status": "success"}));
    let last = &all[all.len() - 2];
    assert_eq!((&last["total"], &last["completed"]), (&json!(bytes.len()), &json!(bytes.len())), "{all:?}");
    assert_eq!(last["digest"], format!("sha256:{}", sha256(&bytes)));
    let listed = server.get("/api/tags").ok()["models"][0].clone();
    assert_eq!((&listed["name"], &listed["digest"]), (&json!("tiny:latest"), &json!(sha256(&bytes))));
    for name in ["hf.co/owner/repo", "hf:owner/repo", "hf.co/owner/repo:tiny.gguf"] {
        assert_eq!(server.post("/api/show", &json!({"model": name})).ok()["license"], "mit", "{name}");
    }
    refused(&server.post("/api/show", &json!({"model": "hf.co/owner/repo:Q8_0"})), 404);
    // It is here now: nothing is fetched again.
    let asked = hub.cdn.requests().len();
    for name in ["hf:owner/repo", "tiny"] {
        let again = server.post("/api/pull", &json!({"name": name, "stream": false})).ok();
        assert_eq!(again, json!({"status": "success"}));
    }
    assert_eq!(hub.cdn.requests().len(), asked);
    let all = lines(&server.post("/api/pull", &json!({"model": "hf.co/owner/none"})));
    assert!(all.last().unwrap()["error"].as_str().unwrap().contains("owner/none"), "{all:?}");
    let failed = server.post("/api/pull", &json!({"model": "hf.co/owner/none", "stream": false}));
    assert!(refused(&failed, 500).contains("owner/none"));
    for (name, status) in [("llama3.2", 404), ("hf.co/../../etc", 400), ("/etc/passwd", 404), ("", 400)] {
        refused(&server.post("/api/pull", &json!({"model": name})), status);
    }
}

#[test]
fn offline_nothing_is_pulled() {
    let hub = Hub::new(&[("tiny.gguf", &gguf("Tiny", 10))]);
    let world = hub.world();
    let server = Serving::start(&world, &["--offline"]);
    for name in ["hf.co/owner/repo", "starter"] {
        let why = refused(&server.post("/api/pull", &json!({"model": name})), 403);
        assert!(why.contains("offline"), "{why}");
    }
    assert!(hub.api.requests().is_empty());
}

/// Whoever leaves gives a transfer up; what came stays, and the next goes on after it.
#[test]
fn a_pull_left_alone_ends_and_is_gone_on_with() {
    let bytes = gguf("Tiny", 500_000);
    let stall = Arc::new(AtomicBool::new(true));
    let stalls = stall.clone();
    let hub = Hub::with(&[("tiny.gguf", &bytes)], move |request, _, bytes| {
        let reply = Sent::file(request, bytes, "\"v1\"");
        match stalls.load(Ordering::SeqCst) {
            true => Sent { cut: Some(bytes.len() / 2), stall: true, ..reply },
            false => reply,
        }
    });
    let world = hub.world().env("HF_HUB_DOWNLOAD_TIMEOUT", "1");
    let server = Serving::start(&world, &[]);
    let body = json!({"model": "hf.co/owner/repo"}).to_string();
    let head = format!("POST /api/pull HTTP/1.1\r\nHost: {}\r\n", server.address);
    let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    // Two wait for the same.
    let mut waiting = [server.open(&request), server.open(&request)];
    let half = format!("\"completed\":{}", bytes.len() / 2);
    for stream in &mut waiting {
        let (mut seen, mut buffer) = (String::new(), [0; 512]);
        while !seen.contains(&half) {
            let n = stream.read(&mut buffer).unwrap();
            assert!(n > 0, "{seen}");
            seen += &String::from_utf8_lossy(&buffer[..n]);
        }
    }
    assert_eq!(hub.cdn.requests().len(), 1);
    drop(waiting);
    stall.store(false, Ordering::SeqCst);
    assert_eq!(
        server.post("/api/pull", &json!({"model": "hf.co/owner/repo", "stream": false})).ok()["status"],
        "success"
    );
    let ranges = hub.cdn.sent("range");
    let last = ranges.last().unwrap().strip_prefix("bytes=").and_then(|r| r.strip_suffix('-'));
    assert!(last.unwrap().parse::<usize>().unwrap() >= bytes.len() / 2, "{ranges:?}");
    assert!(!files(&world.repo()).iter().any(|f| f.ends_with(".part")));
}

#[test]
fn clients_see_that_it_runs() {
    let world = World::new();
    let server = Serving::start(&world, &[]);
    assert_eq!(server.get("/").text, "Ollama is running");
    let host = &server.address;
    let head = server.raw(&format!("HEAD / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"));
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let browser =
        format!("GET / HTTP/1.1\r\nHost: {host}\r\nAccept: text/html,*/*\r\nConnection: close\r\n\r\n");
    assert!(!server.raw(&browser).contains("Ollama is running"));
    let version = server.get("/api/version").ok();
    assert_eq!(version["version"].as_str().unwrap().split('.').count(), 3);
}
