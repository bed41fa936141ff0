//! `POST /v1/chat/completions`.

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::error::{self, answer};
use super::{FINGERPRINT, finish_reason, id, knobs, logprobs, messages, now, stream, timings, usage};
use crate::serve::asked::Asked;
use crate::serve::fields::Fields;
use crate::serve::generate::{self, Call, Choice, Delta, Event, Finish, Logprob, Prompt, Request};
use crate::serve::manager::Stay;
use crate::serve::refusal::{Refusal, Result};
use crate::serve::sse::data;

/// Answers a conversation.
pub async fn create(asked: Asked) -> Response {
    answer(respond(asked).await)
}

async fn respond(Asked { app, tally, body }: Asked) -> Result<Response> {
    let f = Fields::of(&body)?;
    let request = read(&f)?;
    let streamed = f.flag("stream")?.unwrap_or(false);
    let options = f.object("stream_options")?;
    if options.is_some() && !streamed {
        return Err(Refusal::field("stream_options", "`stream_options` is for `stream: true` alone"));
    }
    let with_usage = options.map_or(Ok(None), |o| o.flag("include_usage"))?.unwrap_or(false);
    let lease = app.manager.get(f.text("model")?, Stay::default()).await?;
    let head = Head { id: id("chatcmpl-"), created: now(), model: lease.name.clone() };
    let (n, told) = (request.n, request.logprobs.is_some());
    let answer = generate::start(&lease, request, app.sampling, &tally).await?;
    if !streamed {
        let whole = answer.whole().await?;
        let choices = whole.choices.iter().enumerate().map(|(i, c)| choice(i, c, told));
        let mut body = head.object("chat.completion");
        body["choices"] = choices.collect();
        body["usage"] = usage(whole.usage);
        body["timings"] = timings(whole.usage, whole.timings);
        return Ok(Json(body).into_response());
    }
    let mut calls = vec![0; n];
    Ok(stream(answer, move |event| {
        let chunk = |index: usize, delta: Value, logprobs: Value, finish: Option<&Finish>| {
            let finish = finish.map(finish_reason);
            head.chunk(
                with_usage,
                json!([{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}]),
            )
        };
        match event {
            Event::Started(_) => {
                let first =
                    |i| data(&chunk(i, json!({"role": "assistant", "content": ""}), Value::Null, None));
                (0..n).map(first).collect()
            }
            Event::Piece { choice, delta, logprobs } => {
                let delta = match delta {
                    Delta::Text(text) => json!({"content": text}),
                    Delta::Thought(text) => json!({"reasoning_content": text}),
                    Delta::Call(call) => {
                        let mut value = tool_call(&call);
                        value["index"] = calls[choice].into();
                        calls[choice] += 1;
                        json!({"tool_calls": [value]})
                    }
                };
                data(&chunk(choice, delta, told_of(told, &logprobs), None))
            }
            Event::End { choice, finish } => data(&chunk(choice, json!({}), Value::Null, Some(&finish))),
            Event::Done { usage: tokens, timings: times } => {
                let mut text = String::new();
                if with_usage {
                    let mut last = head.chunk(true, json!([]));
                    last["usage"] = usage(tokens);
                    last["timings"] = timings(tokens, times);
                    text = data(&last);
                }
                text + "data: [DONE]\n\n"
            }
            Event::Failed(refusal) => data(&error::body(&refusal)),
            Event::Prompt { .. } => String::new(),
        }
    }))
}

/// The request, without its model.
fn read(f: &Fields) -> Result<Request> {
    let mut request = Request::new(Prompt::Chat(messages::messages(f)?));
    knobs::common(f, &mut request)?;
    knobs::tools(f, &mut request, false)?;
    knobs::thinking(f.text("reasoning_effort")?, &mut request);
    request.format = knobs::format(f, "response_format", Some("json_schema"))?;
    let most = knobs::most(f, "max_completion_tokens")?;
    request.most = most.or(knobs::most(f, "max_tokens")?);
    let top = f.count("top_logprobs", 0..=20)?;
    request.logprobs = match f.flag("logprobs")?.unwrap_or(false) {
        true => Some(top.unwrap_or(0) as usize),
        false if top.is_some() => {
            return Err(Refusal::field("top_logprobs", "`top_logprobs` is for `logprobs: true` alone"));
        }
        false => None,
    };
    for (name, value) in f.object("chat_template_kwargs")?.iter().flat_map(|f| f.map()) {
        request.variables.insert(name.clone(), value.clone());
    }
    Ok(request)
}

/// What all objects of an answer have.
struct Head {
    id: String,
    created: u64,
    model: String,
}

impl Head {
    fn object(&self, kind: &str) -> Value {
        let Head { id, created, model } = self;
        json!({"id": id, "object": kind, "created": created, "model": model, "system_fingerprint": FINGERPRINT})
    }

    fn chunk(&self, with_usage: bool, choices: Value) -> Value {
        let mut chunk = self.object("chat.completion.chunk");
        chunk["choices"] = choices;
        if with_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }
}

fn told_of(told: bool, tokens: &[Logprob]) -> Value {
    if told { logprobs(tokens) } else { Value::Null }
}

fn tool_call(call: &Call) -> Value {
    json!({"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}})
}

fn choice(index: usize, choice: &Choice, told: bool) -> Value {
    let mut message = json!({"role": "assistant", "content": choice.text, "refusal": null});
    if !choice.thought.is_empty() {
        message["reasoning_content"] = choice.thought.as_str().into();
    }
    if !choice.calls.is_empty() {
        message["tool_calls"] = choice.calls.iter().map(tool_call).collect();
        if choice.text.is_empty() {
            message["content"] = Value::Null;
        }
    }
    let finish = choice.finish.as_ref().map(finish_reason);
    json!({"index": index, "message": message, "logprobs": told_of(told, &choice.logprobs), "finish_reason": finish})
}
