//! OpenAI's API, field by field.

use crate::common::World;
use crate::models::model;
use crate::serving::{Serving, install};
use crate::tiny::Tiny;
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";

/// A server with a real model and one by chance.
fn server(world: &World) -> Serving {
    install(world, &model("SmolLM2-135M-Instruct.Q4_1.gguf"));
    install(world, &Tiny::llama().write(world, "tiny"));
    Serving::start(world, &[])
}

fn greedy(prompt: &str, most: usize) -> Value {
    json!({"model": "starter", "messages": [{"role": "user", "content": prompt}], "max_tokens": most, "temperature": 0})
}

fn with(mut body: Value, more: Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn content(reply: &Value) -> &str {
    reply["choices"][0]["message"]["content"].as_str().unwrap()
}

/// The text of a stream's first answer.
fn joined(events: &[Value]) -> String {
    let deltas = events.iter().filter(|e| e["choices"][0]["index"] == 0);
    deltas.filter_map(|e| e["choices"][0]["delta"]["content"].as_str()).collect()
}

#[test]
fn a_stream_tells_what_the_whole_answer_says() {
    let world = World::new();
    let server = server(&world);
    let body = greedy("List the months of the year.", 24);
    let whole = server.post(CHAT, &body).ok();
    assert!(content(&whole).contains("January, February, March"), "{whole}");
    assert_eq!(whole["object"], "chat.completion");
    assert_eq!(whole["model"], "SmolLM2-135M-Instruct.Q4_1");
    assert_eq!(whole["choices"][0]["finish_reason"], "length");
    assert_eq!(whole["choices"][0]["message"]["role"], "assistant");
    assert!(whole["system_fingerprint"].as_str().unwrap().starts_with("hob-"));
    let usage = &whole["usage"];
    assert_eq!(usage["completion_tokens"], 24);
    assert_eq!(usage["total_tokens"], usage["prompt_tokens"].as_u64().unwrap() + 24);

    let streamed = with(body.clone(), json!({"stream": true, "stream_options": {"include_usage": true}}));
    let events = server.stream(CHAT, &streamed);
    assert_eq!(events[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    assert_eq!(joined(&events), content(&whole));
    let [.., end, last, done] = &events[..] else { panic!("{events:?}") };
    assert_eq!(done, "[DONE]");
    assert_eq!(
        (&end["choices"][0]["delta"], &end["choices"][0]["finish_reason"]),
        (&json!({}), &json!("length"))
    );
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], 24);
    // The whole prompt was still there, but for the token that the answer begins after.
    let prompt = usage["prompt_tokens"].as_u64().unwrap();
    assert_eq!(last["usage"]["prompt_tokens_details"]["cached_tokens"], prompt - 1);
    for event in &events[..events.len() - 1] {
        assert_eq!((&event["object"], &event["id"]), (&json!("chat.completion.chunk"), &events[0]["id"]));
    }
    assert!(events[..events.len() - 2].iter().all(|e| e["usage"].is_null() && e.get("usage").is_some()));
    let plain = server.stream(CHAT, &with(body, json!({"stream": true})));
    assert_eq!(plain.len(), events.len() - 1);
    assert!(plain.iter().all(|e| e.get("usage").is_none()));
}

#[test]
fn stop_strings_end_answers_across_tokens() {
    let world = World::new();
    let server = server(&world);
    let body = greedy("List the months of the year.", 40);
    let all = content(&server.post(CHAT, &body).ok()).to_string();
    let middle = all.find("March").unwrap();
    // Begins and ends within tokens, and over several of them.
    for stop in ["arch, Apr", "March, April, Ma", "h", ", ", " May,"] {
        let expected = &all[..all.find(stop).unwrap()];
        let request = with(body.clone(), json!({"stop": stop, "logprobs": true}));
        let whole = server.post(CHAT, &request).ok();
        assert_eq!(content(&whole), expected, "{stop:?}");
        assert_eq!(whole["choices"][0]["finish_reason"], "stop");
        // The tokens told spell no more than the text.
        let told = whole["choices"][0]["logprobs"]["content"].as_array().unwrap();
        let told: String = told.iter().map(|t| t["token"].as_str().unwrap()).collect();
        assert!(expected.starts_with(&told), "{told:?} of {expected:?}");
        assert_eq!(
            joined(&server.stream(CHAT, &with(request, json!({"stream": true})))),
            expected,
            "{stop:?}"
        );
    }
    let several = with(body.clone(), json!({"stop": ["nowhere", "April", "March"]}));
    assert_eq!(content(&server.post(CHAT, &several).ok()), &all[..middle]);
    // What only begins as a stop string is sent, at the end as well.
    let half = with(body, json!({"stop": [format!("{}§", &all[all.len() - 9..])]}));
    assert_eq!(content(&server.post(CHAT, &half).ok()), all);
}

#[test]
fn seeds_biases_penalties_and_several_answers() {
    let world = World::new();
    let server = server(&world);
    let body = json!({"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 12, "temperature": 1});
    let texts = |more: Value| -> Vec<String> {
        let reply = server.post(CHAT, &with(body.clone(), more)).ok();
        let choices = reply["choices"].as_array().unwrap().iter();
        choices.map(|c| c["message"]["content"].as_str().unwrap().to_string()).collect()
    };
    let three = texts(json!({"n": 3, "seed": 7, "top_k": 0, "top_p": 1, "min_p": 0}));
    assert_eq!(three, texts(json!({"n": 3, "seed": 7, "top_k": 0, "top_p": 1, "min_p": 0})));
    assert!(three[0] != three[1] && three[1] != three[2], "{three:?}");
    assert_ne!(three, texts(json!({"n": 3, "seed": 8, "top_k": 0, "top_p": 1, "min_p": 0})));
    assert_eq!(texts(json!({"logit_bias": {"65": 100}})), ["AAAAAAAAAAAA"]);
    // What was said often gives way to what was not.
    let either = json!({"logit_bias": {"65": 100, "66": 100}, "temperature": 0, "max_tokens": 60});
    let said = |more: Value| texts(with(either.clone(), more)).remove(0).matches('A').count();
    let free = said(json!({}));
    let even = said(json!({"frequency_penalty": 2}));
    assert!(
        (20..=40).contains(&even) && said(json!({"frequency_penalty": -2})).abs_diff(30) > even.abs_diff(30),
        "{free} {even}"
    );
    // A server with a seed gives the same answers to requests without one.
    let args = ["--seed=5", "--temperature=1", "--top-k=0", "--top-p=1", "--min-p=0"];
    let seeded = Serving::start(&world, &args);
    let mut plain = body.clone();
    plain.as_object_mut().unwrap().remove("temperature");
    let [a, b] = [0; 2].map(|_| content(&seeded.post(CHAT, &plain).ok()).to_string());
    assert_eq!(a, b);
    assert_ne!(a, content(&seeded.post(CHAT, &with(plain, json!({"seed": 6}))).ok()));
    for penalty in [json!({"presence_penalty": 2}), json!({"repeat_penalty": 2})] {
        let text = texts(with(either.clone(), penalty)).remove(0);
        assert_ne!(text[..1], text[1..2], "{text}");
    }
    let streamed = server.stream(
        CHAT,
        &with(body, json!({"n": 2, "seed": 7, "stream": true, "top_k": 0, "top_p": 1, "min_p": 0})),
    );
    assert_eq!(joined(&streamed), three[0]);
    assert_eq!(streamed.iter().filter(|e| e["choices"][0]["finish_reason"].is_string()).count(), 2);
}

#[test]
fn probabilities_are_told_in_both_shapes() {
    let world = World::new();
    let server = server(&world);
    let body = with(greedy("Say hello.", 6), json!({"logprobs": true, "top_logprobs": 3}));
    let whole = server.post(CHAT, &body).ok();
    let tokens = whole["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(tokens.len(), 6);
    let text: String = tokens.iter().map(|t| t["token"].as_str().unwrap()).collect();
    assert_eq!(text, content(&whole));
    for token in tokens {
        let bytes: Vec<u8> =
            token["bytes"].as_array().unwrap().iter().map(|b| b.as_u64().unwrap() as u8).collect();
        assert_eq!(bytes, token["token"].as_str().unwrap().as_bytes());
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        // The likeliest is chosen, and they come in order.
        assert_eq!((&top[0]["token"], &top[0]["logprob"]), (&token["token"], &token["logprob"]));
        let all: Vec<f64> = top.iter().map(|t| t["logprob"].as_f64().unwrap()).collect();
        assert!(
            all.is_sorted_by(|a, b| a >= b) && all.iter().map(|l| l.exp()).sum::<f64>() <= 1.0,
            "{all:?}"
        );
    }
    let old = json!({"model": "starter", "prompt": "One, two, three, ", "max_tokens": 5, "temperature": 0, "logprobs": 2});
    let old = server.post("/v1/completions", &old).ok();
    let told = &old["choices"][0]["logprobs"];
    let tokens: Vec<&str> = told["tokens"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    assert_eq!(tokens.concat(), old["choices"][0]["text"].as_str().unwrap());
    assert_eq!(told["text_offset"][2].as_u64().unwrap() as usize, tokens[..2].concat().chars().count());
    assert_eq!(told["token_logprobs"][0], told["top_logprobs"][0][tokens[0]]);
}

#[test]
fn an_echoed_prompt_is_told_with_its_probabilities() {
    let world = World::new();
    let server = server(&world);
    let prompt = "Žluť 🦀 counts: one, two, three,";
    let body = json!({"model": "starter", "prompt": prompt, "temperature": 0, "logprobs": 2, "echo": true});
    let ask = |more: Value| server.post("/v1/completions", &with(body.clone(), more)).ok();
    let list = |told: &Value, name: &str| told[name].as_array().unwrap().clone();
    // Kernels for one token and for many round differently, with activations in 8 bits.
    let near = |a: &Value, b: &Value| (a.as_f64().unwrap() - b.as_f64().unwrap()).abs() < 0.15;

    let whole = ask(json!({"max_tokens": 5}));
    let (text, told) = (whole["choices"][0]["text"].as_str().unwrap(), &whole["choices"][0]["logprobs"]);
    assert!(text.starts_with(prompt) && text.len() > prompt.len(), "{text}");
    let read = whole["usage"]["prompt_tokens"].as_u64().unwrap() as usize;
    let [tokens, logprobs, top, offsets] =
        ["tokens", "token_logprobs", "top_logprobs", "text_offset"].map(|name| list(told, name));
    assert_eq!([&tokens, &logprobs, &top, &offsets].map(Vec::len), [read + 5; 4]);
    assert!(logprobs[0].is_null() && top[0].is_null() && offsets[0] == 0, "nothing stands before the first");
    let offsets: Vec<usize> = offsets.iter().map(|o| o.as_u64().unwrap() as usize).collect();
    assert_eq!(offsets[read], prompt.chars().count(), "where the answer begins");
    let chars: Vec<char> = text.chars().collect();
    for i in 0..read + 5 {
        let token = tokens[i].as_str().unwrap();
        let end = *offsets.get(i + 1).unwrap_or(&chars.len());
        // Part of a character is no text by itself.
        let part = token.contains('\u{fffd}');
        assert!(part || chars[offsets[i]..end].iter().collect::<String>() == token, "{i} {token:?}");
        if i > 0 {
            assert!(logprobs[i].as_f64().unwrap() <= 0.0);
            let top = top[i].as_object().unwrap();
            assert!((1..=3).contains(&top.len()) && (part || top[token] == logprobs[i]), "{i} {top:?}");
        }
    }
    assert!(tokens.iter().any(|t| t.as_str().unwrap().contains('\u{fffd}')), "some are parts: {tokens:?}");

    // The same without the prompt, and the whole read as a prompt.
    let said = ask(json!({"max_tokens": 5, "echo": false}));
    let said = list(&said["choices"][0]["logprobs"], "token_logprobs");
    assert!(said.iter().zip(&logprobs[read..]).all(|(a, b)| near(a, b)), "{said:?} {logprobs:?}");
    let again = ask(json!({"prompt": text, "max_tokens": 0}));
    let told = &again["choices"][0]["logprobs"];
    assert_eq!((&again["choices"][0]["text"], &list(told, "tokens")), (&json!(text), &tokens));
    assert_eq!(again["choices"][0]["finish_reason"], "length");
    let usage = &again["usage"];
    assert_eq!((&usage["completion_tokens"], &usage["prompt_tokens"]), (&json!(0), &json!(read + 5)));
    let heard = list(told, "token_logprobs");
    assert!(heard[0].is_null() && heard[1..].iter().zip(&logprobs[1..]).all(|(a, b)| near(a, b)), "{told}");

    // A stream begins with the prompt, whose log-probabilities come with it.
    let events =
        server.stream("/v1/completions", &with(body.clone(), json!({"max_tokens": 5, "stream": true})));
    assert_eq!(events[0]["choices"][0]["text"], prompt);
    assert_eq!(list(&events[0]["choices"][0]["logprobs"], "tokens"), tokens[..read]);
    let part = |name: &str| -> Vec<Value> {
        let told = events.iter().filter_map(|e| e["choices"][0]["logprobs"][name].as_array());
        told.flatten().cloned().collect()
    };
    assert_eq!(
        (part("tokens"), part("text_offset")),
        (tokens, list(&whole["choices"][0]["logprobs"], "text_offset"))
    );
    assert!(part("token_logprobs")[1..].iter().zip(&logprobs[1..]).all(|(a, b)| near(a, b)));
    let scored = json!({"max_tokens": 0, "stream": true});
    let events = server.stream("/v1/completions", &with(body.clone(), scored));
    let [first, end, done] = &events[..] else { panic!("{events:?}") };
    assert_eq!((&first["choices"][0]["text"], done), (&json!(prompt), &json!("[DONE]")));
    assert_eq!(end["choices"][0]["finish_reason"], "length");

    // Several prompts with several answers: each has that of its own prompt.
    let many = json!({"prompt": ["One, two,", "Hello"], "n": 2, "max_tokens": 1, "logprobs": 0});
    let many = ask(many);
    let told: Vec<Vec<Value>> = (0..4).map(|i| list(&many["choices"][i]["logprobs"], "tokens")).collect();
    assert!(told[0][..told[0].len() - 1] == told[1][..told[1].len() - 1] && told[0][0] == "One");
    assert!(told[2][0] == "Hello" && told[3][0] == "Hello" && told[2].len() == 2);
    // A token that ends the answer is told as well: those who take the last one off count on it.
    let tiny = json!({"model": "tiny", "prompt": [[72, 105]], "max_tokens": 3, "logit_bias": {"257": 100}});
    let ended = ask(tiny);
    assert_eq!(list(&ended["choices"][0]["logprobs"], "tokens"), ["H", "i", "<|im_end|>"]);
    assert_eq!(ended["choices"][0]["text"], "Hi");
    assert!(
        list(&ended["choices"][0]["logprobs"], "token_logprobs")[2].as_f64().unwrap() < -1.0,
        "as the model has it"
    );
}

#[test]
fn completions_take_texts_and_tokens() {
    let world = World::new();
    let server = server(&world);
    let ask = |more: Value| {
        server.post("/v1/completions", &with(json!({"model": "starter", "temperature": 0}), more))
    };
    let one = ask(json!({"prompt": "One, two, three,", "max_tokens": 6})).ok();
    assert!(one["choices"][0]["text"].as_str().unwrap().contains("four"), "{one}");
    assert_eq!(one["object"], "text_completion");
    let two =
        ask(json!({"prompt": ["One, two, three,", "A, b, c,"], "max_tokens": 6, "echo": true, "n": 2})).ok();
    let texts: Vec<&str> =
        two["choices"].as_array().unwrap().iter().map(|c| c["text"].as_str().unwrap()).collect();
    assert_eq!(texts[0], format!("One, two, three,{}", one["choices"][0]["text"].as_str().unwrap()));
    assert!(texts.len() == 4 && texts[0] == texts[1] && texts[2].starts_with("A, b, c,"), "{texts:?}");
    // Both prompts count, each once.
    assert_eq!(two["usage"]["completion_tokens"], 24);
    let ids = ask(json!({"prompt": [[72, 105], [33]], "model": "tiny", "echo": true, "max_tokens": 0})).ok();
    assert_eq!((&ids["choices"][0]["text"], &ids["choices"][1]["text"]), (&json!("Hi"), &json!("!")));
    assert_eq!(ids["usage"]["prompt_tokens"], 3);
    let events = server.stream(
        "/v1/completions",
        &json!({"model": "starter", "temperature": 0, "prompt": "One, two, three,", "max_tokens": 6, "stream": true, "echo": true}),
    );
    let streamed: String = events.iter().filter_map(|e| e["choices"][0]["text"].as_str()).collect();
    assert_eq!(streamed, texts[0]);
    assert_eq!(events.last().unwrap(), "[DONE]");
    assert!(ask(json!({"prompt": "a", "suffix": "b"})).fails(400).contains("`suffix`"));
    assert!(ask(json!({"prompt": [999_999]})).fails(400).contains("999999"));
    assert!(ask(json!({"prompt": ["a", 1]})).fails(400).contains("`prompt`"));
    assert!(ask(json!({"prompt": []})).fails(400).contains("`prompt`"));
    assert!(ask(json!({"prompt": "a", "best_of": 3})).fails(400).contains("`best_of`"));
}

#[test]
fn what_is_wrong_is_named() {
    let world = World::new();
    let server = server(&world);
    let ask = |more: Value| {
        server.post(
            CHAT,
            &with(
                json!({"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}),
                more,
            ),
        )
    };
    for (more, field) in [
        (json!({"temperature": 3}), "temperature"),
        (json!({"temperature": "hot"}), "temperature"),
        (json!({"top_p": -1}), "top_p"),
        (json!({"n": 0}), "n"),
        (json!({"n": 1.5}), "n"),
        (json!({"max_tokens": -5}), "max_tokens"),
        (json!({"stop": [1]}), "stop"),
        (json!({"stream": "yes"}), "stream"),
        (json!({"seed": "x"}), "seed"),
        (json!({"logit_bias": {"a": 1}}), "logit_bias"),
        (json!({"logit_bias": {"1": 200}}), "logit_bias"),
        (json!({"logit_bias": {"100000": 1}}), "logit_bias"),
        (json!({"top_logprobs": 2}), "top_logprobs"),
        (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs"),
        (json!({"messages": []}), "messages"),
        (json!({"messages": "x"}), "messages"),
        (json!({"messages": [1]}), "messages[0]"),
        (json!({"messages": [{"role": "user"}]}), "messages[0].content"),
        (json!({"messages": [{"role": "king", "content": "x"}]}), "messages[0].role"),
        (json!({"messages": [{"role": "user", "content": 3}]}), "messages[0].content"),
        (json!({"tools": [{"type": "retrieval"}]}), "tools[0].type"),
        (json!({"tools": [{"type": "function", "function": {}}]}), "tools[0].function.name"),
        (json!({"tool_choice": "maybe"}), "tool_choice"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"response_format": {"type": "xml"}}), "response_format.type"),
        (json!({"model": 3}), "model"),
    ] {
        let reply = ask(more.clone());
        let message = reply.fails(400);
        assert_eq!(reply.json()["error"]["param"], field, "{more}: {message}");
        assert!(message.contains(field), "{more}: {message}");
    }
    let image = json!([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}]}]);
    assert!(ask(json!({"messages": image})).fails(400).contains("reads text only"));
    // As the original does: what it does not know and what is null is passed over.
    ask(json!({"unknown": {"a": 1}, "stop": null, "n": null, "temperature": null, "tools": null, "user": "me", "store": true})).ok();
    let parts = json!([{"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                       {"role": "user", "content": "x"}]);
    ask(json!({"messages": parts})).ok();
}

#[test]
fn a_prompt_that_does_not_fit_is_not_cut() {
    let world = World::new();
    let server = server(&world);
    let long = json!({"model": "tiny", "messages": [{"role": "user", "content": "x".repeat(600)}]});
    for body in [long.clone(), with(long, json!({"stream": true}))] {
        let reply = server.post(CHAT, &body);
        assert!(reply.fails(400).contains("more than the context of 512 holds"));
        assert_eq!(reply.json()["error"]["code"], "context_length_exceeded");
    }
    // An answer that comes to the context's end says so.
    let full = json!({"model": "tiny", "messages": [{"role": "user", "content": "x".repeat(450)}], "logit_bias": {"65": 100}});
    let reply = server.post(CHAT, &full).ok();
    assert_eq!(reply["choices"][0]["finish_reason"], "length");
    assert_eq!(reply["usage"]["total_tokens"], 513);
}

#[test]
fn responses_are_kept_and_gone_on_with() {
    let world = World::new();
    let server = server(&world);
    let ask = |more: Value| {
        let body = json!({"model": "starter", "temperature": 0, "max_output_tokens": 24});
        server.post("/v1/responses", &with(body, more))
    };
    let first = ask(json!({"input": "My dog is called Wanda.", "metadata": {"a": "b"}})).ok();
    assert_eq!((&first["object"], &first["output"][0]["type"]), (&json!("response"), &json!("message")));
    assert_eq!(first["metadata"]["a"], "b");
    let id = first["id"].as_str().unwrap();
    let second = ask(
        json!({"input": [{"role": "user", "content": "What is my dog called?"}], "previous_response_id": id}),
    )
    .ok();
    let said = second["output"][0]["content"][0]["text"].as_str().unwrap();
    assert!(said.contains("Wanda"), "{said}");
    assert_eq!(second["previous_response_id"], id);
    assert!(second["usage"]["input_tokens_details"]["cached_tokens"].as_u64().unwrap() > 30, "{second}");
    assert_eq!(server.get(&format!("/v1/responses/{id}")).ok(), first);
    let items = server.get(&format!("/v1/responses/{id}/input_items")).ok();
    assert_eq!(items["data"][0]["content"][0]["text"], "My dog is called Wanda.");
    assert_eq!(server.delete(&format!("/v1/responses/{id}")).ok()["deleted"], true);
    server.get(&format!("/v1/responses/{id}")).fails(404);
    ask(json!({"input": "x", "previous_response_id": id})).fails(404);
    let unkept = ask(json!({"input": "x", "store": false})).ok();
    server.get(&format!("/v1/responses/{}", unkept["id"].as_str().unwrap())).fails(404);
    for (more, field) in [
        (json!({}), "input"),
        (json!({"input": []}), "input"),
        (json!({"input": "x", "background": true}), "background"),
    ] {
        let reply = ask(more);
        reply.fails(400);
        assert_eq!(reply.json()["error"]["param"], field);
    }
}

#[test]
fn a_response_streams_as_events() {
    let world = World::new();
    let server = server(&world);
    let body = json!({"model": "starter", "temperature": 0, "max_output_tokens": 6, "input": "Say hello.", "stream": true});
    let events = server.stream("/v1/responses", &body);
    let kinds: Vec<&str> = events.iter().map(|e| e["type"].as_str().unwrap()).collect();
    let begin = ["created", "in_progress", "output_item.added", "content_part.added", "output_text.delta"];
    let end = ["output_text.done", "content_part.done", "output_item.done", "incomplete"];
    let named = |names: &[&str]| names.iter().map(|n| format!("response.{n}")).collect::<Vec<_>>();
    assert_eq!(kinds[..5], named(&begin));
    assert_eq!(kinds[kinds.len() - 4..], named(&end));
    assert!(kinds[5..kinds.len() - 4].iter().all(|k| *k == "response.output_text.delta"));
    let response = &events.last().unwrap()["response"];
    let text: String = events.iter().filter_map(|e| e["delta"].as_str()).collect();
    assert_eq!(response["output"][0]["content"][0]["text"], text);
    assert_eq!(response["incomplete_details"]["reason"], "max_output_tokens");
    assert_eq!(response["usage"]["output_tokens"], 6);
    let id = response["id"].as_str().unwrap();
    assert_eq!(server.get(&format!("/v1/responses/{id}")).ok(), *response);
}
