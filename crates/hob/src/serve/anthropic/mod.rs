//! Anthropic's API (<https://docs.claude.com/en/api/messages>).

mod input;
mod messages;
mod models;
mod write;

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::App;
use super::asked::Asked;
use super::refusal::{Kind, Refusal, Result};

pub use models::{list, one};

/// The header by which its clients are known where other dialects have the same path.
pub const HEADER: &str = "anthropic-version";

/// The paths.
pub fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/messages", post(async |asked: Asked| answer(messages::create(asked).await)))
        .route("/v1/messages/count_tokens", post(async |asked: Asked| answer(messages::count(asked).await)))
}

/// Errors in Anthropic's shape (<https://docs.claude.com/en/api/errors>).
pub fn refuse(refusal: &Refusal) -> Response {
    (refusal.status(), Json(error(refusal))).into_response()
}

fn error(refusal: &Refusal) -> Value {
    let kind = match refusal.kind {
        Kind::Invalid | Kind::TooLong | Kind::TooSlow | Kind::Method | Kind::Absent => {
            "invalid_request_error"
        }
        Kind::UnknownModel | Kind::NotFound => "not_found_error",
        Kind::Unauthorized => "authentication_error",
        Kind::Forbidden => "permission_error",
        Kind::TooLarge => "request_too_large",
        Kind::Busy => "overloaded_error",
        Kind::NoRoom | Kind::Failed => "api_error",
    };
    json!({"type": "error", "error": {"type": kind, "message": refusal.message}})
}

/// A handler's result as a response.
fn answer(result: Result<Response>) -> Response {
    // `serve::refuse` adds what belongs to no dialect.
    result.unwrap_or_else(|refusal| super::refuse("/v1/messages", &refusal))
}
