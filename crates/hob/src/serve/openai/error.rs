//! Errors in OpenAI's shape (<https://platform.openai.com/docs/guides/error-codes>).

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::serve::refusal::{Kind, Refusal, Result};

/// The object under `error`.
pub fn body(refusal: &Refusal) -> Value {
    let (kind, code) = match refusal.kind {
        Kind::Invalid | Kind::TooLarge | Kind::TooSlow => ("invalid_request_error", None),
        Kind::TooLong => ("invalid_request_error", Some("context_length_exceeded")),
        Kind::UnknownModel => ("invalid_request_error", Some("model_not_found")),
        Kind::NotFound => ("invalid_request_error", Some("not_found")),
        Kind::Method => ("invalid_request_error", Some("method_not_supported")),
        Kind::Unauthorized => ("invalid_request_error", Some("invalid_api_key")),
        Kind::Forbidden => ("invalid_request_error", Some("forbidden")),
        Kind::NoRoom => ("server_error", Some("model_does_not_fit")),
        Kind::Busy => ("server_error", Some("queue_full")),
        Kind::Failed => ("server_error", None),
    };
    let field = refusal.field.as_deref().filter(|f| !f.is_empty());
    json!({"error": {"message": refusal.message, "type": kind, "param": field, "code": code}})
}

/// The response.
pub fn refuse(refusal: &Refusal) -> Response {
    (refusal.status(), Json(body(refusal))).into_response()
}

/// A handler's result as a response.
pub fn answer(result: Result<Response>) -> Response {
    // `serve::refuse` adds what belongs to no dialect.
    result.unwrap_or_else(|refusal| crate::serve::refuse("/v1/", &refusal))
}
