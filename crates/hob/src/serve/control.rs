//! What `hob ps` and `hob stop` ask.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};

use super::App;
use super::keep::Keep;
use super::manager::{Ready, Released};
use super::refusal::{Kind, Refusal, Result};

/// The paths.
pub fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/hob/ps", get(async |State(app): State<Arc<App>>| Json(loaded(&app))))
        .route("/hob/unload", post(unload))
        .route("/hob/stop", post(stop))
}

/// The models that are loaded.
fn loaded(app: &App) -> Value {
    let one = |ready: &Arc<Ready>| {
        let uses = ready.uses();
        let presets: Vec<&str> = uses.iter().map(|u| &*u.name).filter(|name| *name != ready.name).collect();
        json!({
            "name": ready.name,
            "presets": presets,
            "planned_bytes": ready.planned,
            "context": ready.context,
            "cache_tokens": ready.size.tokens,
            "cache_room": ready.worker().map_or(0, |w| w.room()),
            "running": ready.running(),
            "waiting": ready.waiting(),
            "pinned": ready.pinned,
            "since": ready.since.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            "expires_in_s": ready.left().map(|left| left.as_secs_f64()),
        })
    };
    let mut models: Vec<Value> = app.manager.loaded().iter().map(one).collect();
    models.extend(app.images.loaded().map(|picture| {
        let left = match picture.keep {
            Keep::For(time) => Some(time.saturating_sub(picture.idle).as_secs_f64()),
            Keep::Always => None,
        };
        json!({
            "name": picture.name, "kind": "image", "planned_bytes": picture.bytes, "context": 0, "cache_tokens": 0,
            "cache_room": 0, "running": picture.running, "waiting": picture.waiting, "pinned": false, "since": picture.since,
            "expires_in_s": left,
        })
    }));
    json!({"models": models})
}

async fn unload(State(app): State<Arc<App>>, body: Bytes) -> Response {
    let released = || -> Result<Value> {
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let name = body["model"].as_str().ok_or_else(|| Refusal::field("model", "`model` is missing"))?;
        match app.manager.release(name) {
            Released::Goes => Ok(json!({"status": "success"})),
            Released::Stays(why) => Ok(json!({"status": "success", "note": why})),
            Released::Pinned => {
                let message = "it was named when the server was started, and stays loaded until that ends";
                Err(Refusal::new(Kind::Forbidden, message))
            }
            Released::Absent if app.images.release(name)? => Ok(json!({"status": "success"})),
            Released::Absent => Err(Refusal::new(Kind::UnknownModel, "no model of that name is loaded")),
        }
    };
    match released() {
        Ok(done) => Json(done).into_response(),
        Err(refusal) => super::refuse("/hob/unload", &refusal),
    }
}

async fn stop(State(app): State<Arc<App>>) -> Response {
    app.stop.notify_one();
    Json(json!({"status": "success"})).into_response()
}
