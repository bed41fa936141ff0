//! `GET /v1/models`, a path that Anthropic's clients have as well.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::error::answer;
use crate::serve::known::Known;
use crate::serve::{App, anthropic};

fn model(known: &Known) -> Value {
    let created = known.modified.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    json!({"id": known.name, "object": "model", "created": created, "owned_by": "hob"})
}

/// The same of one that makes pictures.
fn picture(known: &Known) -> Value {
    let mut model = model(known);
    model["kind"] = "image".into();
    model
}

/// All models of this machine.
pub async fn list(State(app): State<Arc<App>>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    if headers.contains_key(anthropic::HEADER) {
        return anthropic::list(&app, query.as_deref()).await;
    }
    let known = app.manager.known().await;
    let pictures = app.images.known().await;
    let data: Vec<Value> = known.iter().map(model).chain(pictures.iter().map(picture)).collect();
    Json(json!({"object": "list", "data": data})).into_response()
}

/// One of them.
pub async fn one(State(app): State<Arc<App>>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    if headers.contains_key(anthropic::HEADER) {
        return anthropic::one(&app, &id).await;
    }
    if let Ok(known) = app.images.find(Some(&id)).await {
        return Json(picture(&known)).into_response();
    }
    answer(app.manager.find(&id).await.map(|known| Json(model(&known)).into_response()))
}
