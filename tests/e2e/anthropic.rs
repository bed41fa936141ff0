//! Anthropic's API: messages, events, counting, errors.

use crate::common::World;
use crate::models::model;
use crate::serving::{Reply, Serving, install};
use crate::tiny::Tiny;
use serde_json::{Value, json};

const MESSAGES: &str = "/v1/messages";

fn server(world: &World) -> Serving {
    install(world, &model("SmolLM2-135M-Instruct.Q4_1.gguf"));
    Serving::start(world, &[])
}

fn ask(more: Value) -> Value {
    let messages = json!([{"role": "user", "content": "List the months of the year."}]);
    let mut body = json!({"model": "starter", "messages": messages, "max_tokens": 16, "temperature": 0});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// Asserts an error in Anthropic's shape: its type and its sentence.
#[track_caller]
fn refused(reply: &Reply, status: u16) -> (String, String) {
    assert_eq!(reply.status, status, "{}", reply.text);
    let body = reply.json();
    assert_eq!(body["type"], "error");
    let text = |name: &str| body["error"][name].as_str().unwrap().to_string();
    (text("type"), text("message"))
}

#[test]
fn a_message_and_its_events() {
    let world = World::new();
    let server = server(&world);
    let whole = server.post(MESSAGES, &ask(json!({}))).ok();
    let text = whole["content"][0]["text"].as_str().unwrap();
    assert!(text.contains("January, February"), "{whole}");
    assert_eq!((&whole["type"], &whole["role"]), (&json!("message"), &json!("assistant")));
    assert_eq!((&whole["stop_reason"], &whole["stop_sequence"]), (&json!("max_tokens"), &Value::Null));
    let reply = server.post(MESSAGES, &ask(json!({"stream": true})));
    assert_eq!(reply.headers["content-type"], "text/event-stream");
    let named = reply.text.lines().filter_map(|l| l.strip_prefix("event: "));
    let data = reply.text.lines().filter_map(|l| l.strip_prefix("data: "));
    let events: Vec<Value> = data.map(|d| serde_json::from_str(d).unwrap()).collect();
    // Each event bears its type as its name.
    assert!(named.eq(events.iter().map(|e| e["type"].as_str().unwrap())));
    let deltas = events.iter().filter_map(|e| e["delta"]["text"].as_str());
    assert_eq!(deltas.collect::<String>(), text);
    assert_eq!((&events[0]["type"], &events[1]["type"]), (&json!("message_start"), &json!("ping")));
    let [.., stop, delta, end] = &events[..] else { panic!("{events:?}") };
    assert_eq!((&stop["type"], &end["type"]), (&json!("content_block_stop"), &json!("message_stop")));
    assert_eq!(delta["delta"], json!({"stop_reason": "max_tokens", "stop_sequence": null}));
    assert_eq!(delta["usage"]["output_tokens"], 16);
    // The prompt was still there, but for its last token.
    assert_eq!(
        (&delta["usage"]["input_tokens"], &whole["usage"]["cache_read_input_tokens"]),
        (&json!(1), &json!(0))
    );
    let stopped = server.post(MESSAGES, &ask(json!({"stop_sequences": ["March"]}))).ok();
    assert_eq!(
        (&stopped["stop_reason"], &stopped["stop_sequence"]),
        (&json!("stop_sequence"), &json!("March"))
    );
    let begun =
        json!([{"role": "user", "content": "Count to ten."}, {"role": "assistant", "content": "One, two,"}]);
    let on = server.post(MESSAGES, &ask(json!({"messages": begun}))).ok();
    assert!(on["content"][0]["text"].as_str().unwrap().starts_with(" three"), "{on}");
}

#[test]
fn tokens_are_counted_as_they_are_read() {
    let world = World::new();
    let server = server(&world);
    let body = ask(json!({"system": [{"type": "text", "text": "You list things."}], "max_tokens": 1}));
    let usage = server.post(MESSAGES, &body).ok()["usage"].clone();
    let counted = server.post("/v1/messages/count_tokens", &body).ok();
    let read = usage["input_tokens"].as_u64().unwrap() + usage["cache_read_input_tokens"].as_u64().unwrap();
    assert_eq!(counted, json!({"input_tokens": read}));
    let long =
        json!({"model": "starter", "messages": [{"role": "user", "content": "many words ".repeat(9000)}]});
    let counted = server.post("/v1/messages/count_tokens", &long).ok();
    assert!(counted["input_tokens"].as_u64().unwrap() > 9000);
    let mut long = long;
    long["max_tokens"] = 1.into();
    let (kind, why) = refused(&server.post(MESSAGES, &long), 400);
    assert!(kind == "invalid_request_error" && why.contains("context"), "{why}");
}

#[test]
fn errors_have_its_shape() {
    let world = World::new();
    install(&world, &Tiny::llama().write(&world, "tiny"));
    let server = Serving::start(&world, &["--token=secret"]);
    let send = |body: &Value| server.send(MESSAGES, &body.to_string(), &[("x-api-key", "secret")]);
    let wrong = server.post(MESSAGES, &ask(json!({})));
    assert_eq!(refused(&wrong, 401).0, "authentication_error");
    let (kind, why) = refused(&send(&ask(json!({"model": "tini"}))), 404);
    assert!(kind == "not_found_error" && why.contains("did you mean tiny?"), "{why}");
    let mut unbounded = ask(json!({"model": "tiny"}));
    unbounded.as_object_mut().unwrap().remove("max_tokens");
    assert!(refused(&send(&unbounded), 400).1.contains("`max_tokens` is missing"));
    for (more, why) in [
        (json!({"messages": [{"role": "user", "content": [{"type": "image"}]}]}), "text only"),
        (json!({"messages": [{"role": "robot", "content": "x"}]}), "`messages[0].role`"),
        (json!({"temperature": 1.5}), "`temperature` is 1.5"),
        (json!({"tools": [{"type": "bash_20250124", "name": "bash"}]}), "`tools[0].type`"),
        (json!({"thinking": {"type": "enabled"}}), "`thinking.budget_tokens` is missing"),
    ] {
        let (kind, said) = refused(&send(&ask(more)), 400);
        assert!(kind == "invalid_request_error" && said.contains(why), "{said}");
    }
    let bad = server.send(MESSAGES, "{", &[("x-api-key", "secret")]);
    assert_eq!(refused(&bad, 400).0, "invalid_request_error");
    send(&ask(json!({"model": "tiny", "max_tokens": 1, "metadata": {"user_id": "u"}}))).ok();
}

#[test]
fn models_have_its_shape_for_its_clients() {
    let world = World::new();
    install(&world, &Tiny::llama().write(&world, "tiny"));
    let server = Serving::start(&world, &[]);
    let get = |path: &str, version: &str| {
        let host = &server.address;
        let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{version}\r\n");
        let answer = server.raw(&head);
        let body = answer.split_once("\r\n\r\n").unwrap().1.to_string();
        serde_json::from_str::<Value>(&body).unwrap_or_else(|e| panic!("{e}: {answer}"))
    };
    let version = "anthropic-version: 2023-06-01\r\n";
    let page = get("/v1/models?limit=5", version);
    assert_eq!((&page["has_more"], &page["first_id"]), (&json!(false), &json!("tiny")));
    assert_eq!(page["data"][0]["type"], "model");
    assert_eq!(get("/v1/models/tiny", version)["display_name"], "tiny");
    assert_eq!(get("/v1/models/none", version)["error"]["type"], "not_found_error");
    assert_eq!(get("/v1/models", "")["object"], "list");
}
