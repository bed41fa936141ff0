//! `/v1/responses` (<https://platform.openai.com/docs/api-reference/responses>).

mod input;
mod kept;
mod write;

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::error::answer;
use super::{id, knobs, now};
use crate::serve::App;
use crate::serve::asked::Asked;
use crate::serve::fields::Fields;
use crate::serve::generate::{self, Prompt, Request};
use crate::serve::manager::Stay;
use crate::serve::refusal::{Kind, Refusal, Result};
use crate::serve::sse;

use kept::Entry;
pub use kept::Kept;
use write::Writer;

/// The paths.
pub fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/responses", post(async |asked: Asked| answer(respond(asked).await)))
        .route("/v1/responses/{id}", get(one).delete(remove))
        .route("/v1/responses/{id}/input_items", get(items))
}

async fn respond(Asked { app, tally, body }: Asked) -> Result<Response> {
    let f = Fields::of(&body)?;
    for name in ["background", "conversation", "prompt"] {
        if f.get(name).is_some_and(|v| *v != Value::Bool(false)) {
            return Err(Refusal::field(
                name,
                format!("`{name}` is not there; send the whole input, and wait for the answer"),
            ));
        }
    }
    let before = match f.text("previous_response_id")? {
        None => Vec::new(),
        Some(previous) => app.responses.get(previous).ok_or_else(|| gone(previous))?.messages,
    };
    let given = input::items(&f)?;
    let mut said = before;
    input::add(&given, &mut said)?;
    let mut messages = said.clone();
    if let Some(instructions) = f.text("instructions")? {
        messages.insert(0, hob_io::chat::Message::new("system", instructions));
    }
    let request = read(&f, Prompt::Chat(messages))?;
    let (streamed, stored) = (f.flag("stream")?.unwrap_or(false), f.flag("store")?.unwrap_or(true));
    let lease = app.manager.get(f.text("model")?, Stay::default()).await?;
    let response = object(&f, &request, &lease.name, app.sampling);
    let answer = generate::start(&lease, request, app.sampling, &tally).await?;
    let mut writer = Writer::new(response);
    let keep = move |writer: &Writer| {
        if stored {
            let mut messages = said.clone();
            // What the model says is read as a client would send it back; it is well-formed.
            let _ = input::add(writer.output(), &mut messages);
            app.responses.put(Entry {
                response: writer.response(),
                input: given.iter().cloned().map(input::shown).collect(),
                messages,
            });
        }
    };
    if streamed {
        let first = tokio_stream::once(writer.begin());
        let rest = ReceiverStream::new(answer.events).map(move |event| {
            let text = writer.event(event);
            if writer.is_whole() {
                keep(&writer);
            }
            text
        });
        return Ok(sse::respond(first.chain(rest)));
    }
    let mut events = answer.events;
    while let Some(event) = events.recv().await {
        if let generate::Event::Failed(refusal) = event {
            return Err(refusal);
        }
        writer.event(event);
    }
    keep(&writer);
    Ok(Json(writer.response()).into_response())
}

fn read(f: &Fields, prompt: Prompt) -> Result<Request> {
    let mut request = Request::new(prompt);
    request.knobs = knobs::knobs(f)?;
    request.stop = f.strings("stop")?; // as the other endpoints have it
    knobs::tools(f, &mut request, true)?;
    knobs::thinking(f.object("reasoning")?.map_or(Ok(None), |r| r.text("effort"))?, &mut request);
    request.most = knobs::most(f, "max_output_tokens")?;
    if let Some(text) = f.object("text")? {
        request.format = knobs::format(&text, "format", None)?;
    }
    let wanted = f.strings("include")?.iter().any(|i| i == "message.output_text.logprobs");
    let top = f.count("top_logprobs", 0..=20)?.map(|n| n as usize);
    request.logprobs = top.filter(|n| *n > 0).or(wanted.then_some(0));
    Ok(request)
}

/// The response before there is anything in it.
fn object(f: &Fields, request: &Request, model: &str, sampling: hob_engine::Sampling) -> Value {
    let as_given = |name: &str| f.get(name).cloned();
    let text = as_given("text").unwrap_or_else(|| json!({"format": {"type": "text"}}));
    json!({
        "id": id("resp_"),
        "object": "response",
        "created_at": now(),
        "status": "in_progress",
        "background": false,
        "error": null,
        "incomplete_details": null,
        "instructions": as_given("instructions"),
        "max_output_tokens": request.most,
        "metadata": as_given("metadata").unwrap_or_else(|| json!({})),
        "model": model,
        "output": [],
        "parallel_tool_calls": request.parallel_calls,
        "previous_response_id": as_given("previous_response_id"),
        "reasoning": as_given("reasoning").unwrap_or_else(|| json!({"effort": null, "summary": null})),
        "service_tier": "default",
        "store": as_given("store").unwrap_or(true.into()),
        "temperature": request.knobs.temperature.unwrap_or(sampling.temperature),
        "text": text,
        "tool_choice": as_given("tool_choice").unwrap_or("auto".into()),
        "tools": as_given("tools").unwrap_or_else(|| json!([])),
        "top_logprobs": request.logprobs.unwrap_or(0),
        "top_p": request.knobs.top_p.unwrap_or(sampling.top_p),
        "truncation": "disabled",
        "usage": null,
        "user": as_given("user"),
    })
}

fn gone(id: &str) -> Refusal {
    let shown: String = crate::terminal::clean(id).chars().take(80).collect();
    let message = format!("there is no response '{shown}': it was not stored, or is no longer kept");
    Refusal { field: Some("previous_response_id".into()), ..Refusal::new(Kind::NotFound, message) }
}

async fn one(State(app): State<Arc<App>>, Path(id): Path<String>) -> Response {
    let found = app.responses.get(&id).ok_or_else(|| gone(&id));
    answer(found.map(|entry| Json(entry.response).into_response()))
}

async fn items(State(app): State<Arc<App>>, Path(id): Path<String>) -> Response {
    let list = |entry: Entry| {
        let edge = |item: Option<&Value>| item.map(|item| item["id"].clone());
        let (first, last) = (edge(entry.input.first()), edge(entry.input.last()));
        Json(
            json!({"object": "list", "data": entry.input, "first_id": first, "last_id": last, "has_more": false}),
        )
    };
    answer(app.responses.get(&id).ok_or_else(|| gone(&id)).map(|entry| list(entry).into_response()))
}

async fn remove(State(app): State<Arc<App>>, Path(id): Path<String>) -> Response {
    answer(match app.responses.remove(&id) {
        true => Ok(Json(json!({"id": id, "object": "response", "deleted": true})).into_response()),
        false => Err(gone(&id)),
    })
}
