//! OpenAI's API (<https://platform.openai.com/docs/api-reference>).

mod chat;
mod completions;
mod embeddings;
mod error;
mod images;
mod knobs;
mod messages;
mod models;
mod responses;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::response::Response;
use axum::routing::{get, post};
use serde_json::{Value, json};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::generate::{Answer, Event, Finish, Logprob, Timings, Token, Usage};
use super::{App, sse};

pub use error::refuse;
pub use images::{images_base64, text as prompt_text};
pub use responses::Kept;

/// The paths.
pub fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::one))
        .route("/v1/chat/completions", post(chat::create))
        .route("/v1/completions", post(completions::create))
        .route("/v1/embeddings", post(embeddings::create))
        .route("/v1/rerank", post(embeddings::rerank))
        .route("/v1/images/generations", post(images::create))
        .route("/v1/images/edits", post(images::edit))
        .merge(responses::routes())
}

/// What stands for the program and its settings; an answer to the same seed may differ where this does.
const FINGERPRINT: &str = concat!("hob-", env!("CARGO_PKG_VERSION"));

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// An id that no other answer has.
pub fn id(prefix: &str) -> String {
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

/// How long it took, in the words of llama.cpp's server.
fn timings(usage: Usage, timings: Timings) -> Value {
    let ms = |d: Duration| (d.as_secs_f64() * 1e6).round() / 1e3;
    let rate = |n: usize, d: Duration| {
        if d.is_zero() { 0.0 } else { (n as f64 / d.as_secs_f64() * 1e2).round() / 1e2 }
    };
    let read = usage.prompt - usage.cached;
    json!({
        "queued_ms": ms(timings.queued),
        "cache_n": usage.cached,
        "prompt_n": read,
        "prompt_ms": ms(timings.prefill),
        "prompt_per_second": rate(read, timings.prefill),
        "predicted_n": usage.generated,
        "predicted_ms": ms(timings.decode),
        "predicted_per_second": rate(usage.generated, timings.decode),
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
    json!({"content": tokens.iter().map(logprob).collect::<Vec<_>>(), "refusal": null})
}

/// Those of one token.
pub fn logprob(l: &Logprob) -> Value {
    let one = |t: &Token| json!({"token": t.text, "logprob": finite(t.logprob), "bytes": t.bytes});
    let mut value = one(&l.token);
    value["top_logprobs"] = l.top.iter().map(one).collect();
    value
}

/// JSON knows no infinity; OpenAI writes -9999 for what cannot be, and null for what is not known.
fn finite(logprob: f32) -> Value {
    if logprob.is_nan() { Value::Null } else { logprob.max(-9999.0).into() }
}

/// An answer as server-sent events: `write` makes the text of each event.
fn stream(answer: Answer, write: impl FnMut(Event) -> String + Send + 'static) -> Response {
    sse::respond(ReceiverStream::new(answer.events).map(write))
}
