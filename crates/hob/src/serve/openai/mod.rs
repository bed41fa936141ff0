//! OpenAI's API (<https://platform.openai.com/docs/api-reference>).

mod chat;
mod completions;
mod error;
mod knobs;
mod messages;
mod models;
mod responses;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};

use super::App;
use super::generate::{Answer, Event, Finish, Logprob, Token, Usage};

pub use error::refuse;
pub use responses::Kept;

/// The paths.
pub fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::one))
        .route("/v1/chat/completions", post(chat::create))
        .route("/v1/completions", post(completions::create))
        .merge(responses::routes())
}

/// What stands for the program and its settings; an answer to the same seed may differ where this does.
const FINGERPRINT: &str = concat!("hob-", env!("CARGO_PKG_VERSION"));

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// An id that no other answer has.
fn id(prefix: &str) -> String {
    format!("{prefix}{:016x}{:016x}", crate::commands::chance(), crate::commands::chance())
}

fn usage(usage: Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.generated,
        "total_tokens": usage.prompt + usage.generated,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
        "completion_tokens_details": {"reasoning_tokens": usage.thought},
    })
}

fn finish_reason(finish: &Finish) -> &'static str {
    match finish {
        Finish::Stop | Finish::Matched(_) => "stop",
        Finish::Length => "length",
        Finish::Calls => "tool_calls",
    }
}

/// Log-probabilities as the chat has them.
fn logprobs(tokens: &[Logprob]) -> Value {
    let one = |t: &Token| json!({"token": t.text, "logprob": finite(t.logprob), "bytes": t.bytes});
    let each = tokens.iter().map(|l| {
        let mut value = one(&l.token);
        value["top_logprobs"] = l.top.iter().map(one).collect();
        value
    });
    json!({"content": each.collect::<Vec<_>>(), "refusal": null})
}

/// JSON knows no infinity; OpenAI writes -9999 for what cannot be.
fn finite(logprob: f32) -> f32 {
    logprob.max(-9999.0)
}

/// A line of server-sent events.
fn data(value: &Value) -> String {
    format!("data: {value}\n\n")
}

/// An answer as server-sent events: `write` makes the text of each event. A client that leaves drops the answer.
fn stream(answer: Answer, mut write: impl FnMut(Event) -> String + Send + 'static) -> Response {
    let lines =
        ReceiverStream::new(answer.events).map(move |event| write(event)).filter(|text| !text.is_empty());
    events(lines.map(Bytes::from))
}

fn events(lines: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    (headers, Body::from_stream(lines.map(Ok::<_, Infallible>))).into_response()
}
