//! Ollama's API (<https://github.com/ollama/ollama/blob/main/docs/api.md>, `server/routes.go`, `api/types.go`).

mod answer;
mod chat;
mod create;
mod details;
mod embed;
mod generate;
mod models;
mod options;
mod pull;
mod show;

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio_stream::Stream;

use super::App;
use super::asked::Asked;
use super::fields::Fields;
use super::manager::{Lease, Stay};
use super::refusal::{Kind, Refusal, Result};

pub use details::Headers;

/// The version of Ollama whose API this is: clients compare it with the first version that can do what they need.
const VERSION: &str = "0.33.0";

/// Paths of Ollama that Hob has not, and why.
const ABSENT: [(&str, &str); 2] = [
    (
        "/api/blobs/{digest}",
        "files are not taken in: put a GGUF file into Hob's folder of models, or run hob create on this machine for an adapter",
    ),
    ("/api/push", "models are not uploaded: Hob sends nothing anywhere"),
];

/// The paths.
pub fn routes() -> Router<Arc<App>> {
    let version = async || Json(json!({"version": VERSION, "hob": env!("CARGO_PKG_VERSION")}));
    let routes = Router::new()
        .route("/api/version", get(version))
        .route("/api/tags", get(models::tags))
        .route("/api/ps", get(models::ps))
        .route("/api/show", post(async |asked: Asked| answer(show::show(asked).await)))
        .route("/api/create", post(async |asked: Asked| answer(create::create(asked).await)))
        .route("/api/copy", post(async |asked: Asked| answer(create::copy(asked).await)))
        .route("/api/delete", delete(async |asked: Asked| answer(models::remove(asked).await)))
        .route("/api/pull", post(async |asked: Asked| answer(pull::pull(asked).await)))
        .route("/api/chat", post(async |asked: Asked| answer(chat::chat(asked).await)))
        .route("/api/generate", post(async |asked: Asked| answer(generate::generate(asked).await)))
        .route("/api/embed", post(async |asked: Asked| answer(embed::embed(asked).await)))
        .route("/api/embeddings", post(async |asked: Asked| answer(embed::embeddings(asked).await)));
    ABSENT.iter().fold(routes, |routes, (path, why)| {
        let absent = post(async || answer(Err(Refusal::new(Kind::Absent, *why))));
        // Clients ask so whether a file is here, before they send it.
        routes.route(path, absent.head(async || StatusCode::NOT_FOUND))
    })
}

/// What Ollama's clients ask `/` for, to see whether it is there; `None` for a browser, which gets the page.
pub fn greeting(headers: &HeaderMap) -> Option<Response> {
    let accepts = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    (!accepts.contains("text/html")).then(|| "Ollama is running".into_response())
}

/// Errors in Ollama's shape.
pub fn refuse(refusal: &Refusal) -> Response {
    (refusal.status(), Json(error(refusal))).into_response()
}

fn error(refusal: &Refusal) -> Value {
    json!({"error": refusal.message})
}

/// A handler's result as a response.
fn answer(result: Result<Response>) -> Response {
    // `serve::refuse` adds what belongs to no dialect.
    result.unwrap_or_else(|refusal| super::refuse("/api/", &refusal))
}

/// The model's name in a request: `model`, or `name` as older clients have it.
fn named<'a>(f: &Fields<'a>) -> Result<&'a str> {
    let name = f.text("model")?.or(f.text("name")?).filter(|name| !name.is_empty());
    name.ok_or_else(|| Refusal::field("model", "`model` is missing; GET /api/tags lists what it may be"))
}

/// The model of that name, loaded.
async fn load(app: &Arc<App>, name: &str, stay: Stay) -> Result<Lease> {
    app.manager.get(Some(name), stay).await
}

/// A name as Ollama's clients expect it, with a tag.
fn tagged(name: &str) -> String {
    if name.contains(':') { name.into() } else { format!("{name}:latest") }
}

/// Lines of JSON, as they come.
fn lines(lines: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/x-ndjson")];
    (headers, Body::from_stream(tokio_stream::StreamExt::map(lines, Ok::<_, Infallible>))).into_response()
}

fn line(value: &Value) -> Bytes {
    format!("{value}\n").into()
}
