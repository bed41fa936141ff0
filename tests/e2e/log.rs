//! The log of a server: nothing of what is asked and answered is in it, unless the person who started the server wants that.

use crate::common::World;
use crate::models::model;
use crate::serving::{Serving, install};
use crate::tiny::{Meta, Tiny};
use serde_json::json;

/// A server with a model that answers in words, and one whose template fails by what it is told.
fn serving(world: World, args: &[&str]) -> (World, Serving) {
    install(&world, &model("SmolLM2-135M-Instruct.Q4_1.gguf"));
    let mut broken = Tiny::llama();
    broken.set("tokenizer.chat_template", Meta::Str("{% include messages[0].content %}".into()));
    install(&world, &broken.write(&world, "broken"));
    let server = Serving::start(&world, args);
    (world, server)
}

/// Asks in every way there is; gives words of what was asked, and of what was answered.
fn converse(server: &Serving) -> Vec<String> {
    let mut number = 0;
    let mut word = || {
        number += 1;
        format!("quixotic{number}")
    };
    let mut words = Vec::new();
    let mut ask = |path: &str, make: &dyn Fn(&str) -> serde_json::Value, status: u16| {
        words.push(word());
        let reply = server.post(path, &make(&words[words.len() - 1]));
        assert_eq!(reply.status, status, "{path}: {}", reply.text);
        reply.text
    };
    let said = |text: String| json!([{"role": "user", "content": text}]);
    let mut told = ask(
        "/v1/chat/completions",
        &|w| json!({"model": "starter", "messages": said(format!("List the months of the year, {w}.")), "max_tokens": 24, "temperature": 0}),
        200,
    );
    for (path, field) in
        [("/v1/completions", "prompt"), ("/v1/responses", "input"), ("/api/generate", "prompt")]
    {
        ask(
            path,
            &|w| json!({"model": "starter", field: w, "max_tokens": 2, "max_output_tokens": 2, "options": {"num_predict": 2}}),
            200,
        );
    }
    for path in ["/v1/messages", "/api/chat", "/v1/chat/completions"] {
        let body = |w: &str| json!({"model": "starter", "messages": said(w.into()), "stream": true, "max_tokens": 2, "options": {"num_predict": 2}});
        told += &ask(path, &body, 200);
    }
    ask("/v1/embeddings", &|w| json!({"model": "starter", "input": [w]}), 200);
    ask("/api/embed", &|w| json!({"model": "starter", "input": w}), 200);
    ask("/v1/rerank", &|w| json!({"model": "starter", "query": "q", "documents": [w, "b"]}), 200);
    // Tools, and what they were called with.
    ask(
        "/v1/chat/completions",
        &|w| {
            json!({"model": "starter", "max_tokens": 2, "tools": [{"type": "function", "function": {"name": "f", "description": w, "parameters": {"type": "object"}}}],
            "messages": [{"role": "user", "content": "go"}, {"role": "assistant", "content": null, "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": json!({"a": format!("{w}a")}).to_string()}}]},
                {"role": "tool", "tool_call_id": "call_1", "content": format!("{w}b")}]})
        },
        200,
    );
    // What is refused: wrong fields, forms that are none, no JSON, a prompt that is too long.
    ask(
        "/v1/chat/completions",
        &|w| json!({"model": "starter", "messages": [{"role": w, "content": w}]}),
        400,
    );
    ask(
        "/v1/chat/completions",
        &|w| json!({"model": "starter", "temperature": w, "messages": said(w.into())}),
        400,
    );
    let form = |w: &str| json!({"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "string", "pattern": format!("({w}")}}});
    ask(
        "/v1/chat/completions",
        &|w| json!({"model": "starter", "messages": said("x".into()), "response_format": form(w)}),
        400,
    );
    ask("/v1/completions", &|w| json!({"model": "starter", "prompt": format!("{w} ").repeat(2000)}), 400);
    ask(
        "/api/create",
        &|w| json!({"model": "mine", "from": "starter", "system": w, "parameters": {w: 1}}),
        400,
    );
    ask(
        "/v1/chat/completions",
        &|w| json!({"model": "broken", "messages": said(w.into()), "max_tokens": 1}),
        200,
    );
    for broken in ["{\"model\": \"starter\", \"messages\": \"WORD", "WORD", "{\"WORD\": }"] {
        words.push(format!("malformed{}", words.len()));
        let body = broken.replace("WORD", &words[words.len() - 1]);
        assert_eq!(server.send("/v1/chat/completions", &body, &[]).status, 400);
    }
    // The page, with a file.
    let id = server
        .post("/hob/conversations", &json!({"model": "starter", "settings": {"max_tokens": 2}}))
        .ok()["id"]
        .clone();
    let file = json!([{"name": "quixotic-name.txt", "text": "quixotic-file"}]);
    let question = json!({"text": "quixotic-question", "attachments": file, "model": "starter"});
    let asked = server.post(&format!("/hob/conversations/{id}/messages"), &question).ok();
    assert!(server.get(&format!("/hob/messages/{}/stream", asked["answer"])).text.contains("\"end\""));
    server.get("/hob/conversations?q=quixotic-question").ok();
    words.extend(["quixotic-question", "quixotic-name", "quixotic-file"].map(String::from));
    // What is answered.
    assert!(told.contains("January, February"), "{told}");
    words.push("January, February".into());
    words
}

#[test]
fn no_word_is_in_the_log() {
    let world = World::new().env("RUST_LOG", "trace").env("RUST_BACKTRACE", "full");
    let (_world, server) = serving(world, &[]);
    let words = converse(&server);
    let log = server.end().stderr;
    assert!(log.contains("POST /v1/chat/completions 200") && log.contains("template fails, so"), "{log}");
    for word in words.iter().map(String::as_str).chain(["quixotic", "malformed", "January"]) {
        assert!(!log.contains(word), "{word} is in the log: {log}");
    }
    assert!(!log.contains("log-prompts"), "{log}");
}

#[test]
fn every_word_is_where_it_is_wanted() {
    let world = World::new();
    std::fs::create_dir_all(world.path("hob")).unwrap();
    std::fs::write(world.path("hob/config.toml"), "[serve]\nlog_prompts = true").unwrap();
    let (_world, server) = serving(world, &[]);
    let words = converse(&server);
    let log = server.end().stderr;
    let told = log.lines().filter(|l| l.contains("--log-prompts")).count();
    assert!(told == 1 && log.starts_with("hob: --log-prompts: what is asked and answered"), "{log}");
    for word in words {
        assert!(log.contains(&word), "{word} is not in the log: {log}");
    }
    // A line each, by the number of the request.
    let first = log.lines().find(|l| l.contains("quixotic1, ") || l.contains("quixotic1.")).unwrap();
    let number = first.split(' ').next().unwrap();
    assert!(number.starts_with('#') && first.contains(" /v1/chat/completions asked: {"), "{first}");
    let lines: Vec<&str> = log.lines().filter(|l| l.split(' ').next() == Some(number)).collect();
    assert!(
        lines.len() == 3 && lines[1].contains(" answered [0]: ") && lines[2].contains(" 200 "),
        "{lines:?}"
    );
}
