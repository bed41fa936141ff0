//! `GET /v1/models`.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::error::answer;
use crate::serve::App;
use crate::serve::manager::Known;

fn model(known: &Known) -> Value {
    let created = known.modified.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    json!({"id": known.name, "object": "model", "created": created, "owned_by": "hob"})
}

/// All models of this machine.
pub async fn list(State(app): State<Arc<App>>) -> Response {
    let known = app.manager.known().await;
    Json(json!({"object": "list", "data": known.iter().map(model).collect::<Vec<_>>()})).into_response()
}

/// One of them.
pub async fn one(State(app): State<Arc<App>>, Path(id): Path<String>) -> Response {
    answer(app.manager.find(&id).await.map(|known| Json(model(&known)).into_response()))
}
