//! The models that are here, those that are loaded, and how they go.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::{answer, details, named, tagged};
use crate::serve::App;
use crate::serve::asked::Asked;
use crate::serve::date::rfc3339;
use crate::serve::fields::Fields;
use crate::serve::keep::Keep;
use crate::serve::known::Known;
use crate::serve::manager::{Ready, Released, Use};
use crate::serve::refusal::{Kind, Refusal, Result};
use crate::terminal;
use crate::{preset, store};

/// Runs what reads files.
pub async fn aside<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| {
        Err(Refusal::failed("reading the model failed by a bug in Hob; please report it"))
    })
}

fn model(app: &App, known: &Known) -> Value {
    let name = tagged(&known.name);
    json!({
        "name": name,
        "model": name,
        "modified_at": rfc3339(known.modified),
        "size": known.bytes,
        "digest": details::digest(known),
        "details": app.headers.of(known),
    })
}

/// `GET /api/tags`.
pub async fn tags(State(app): State<Arc<App>>) -> Response {
    let mut known = app.manager.known().await;
    known.extend(app.images.known().await);
    let models = aside(move || Ok(known.iter().map(|k| model(&app, k)).collect::<Vec<_>>()));
    answer(models.await.map(|models| Json(json!({"models": models})).into_response()))
}

/// `GET /api/ps`.
pub async fn ps(State(app): State<Arc<App>>) -> Response {
    let loaded = app.manager.loaded();
    let models = aside(move || {
        // Each name that it is used by is a model of its own to clients: its base's memory is told with each.
        let each =
            |ready| Ready::uses(ready).into_iter().map(move |used| (expires(ready, &used), ready, used.name));
        let mut all: Vec<_> = loaded.iter().flat_map(|ready: &Arc<Ready>| each(ready)).collect();
        // The one that stays longest comes first.
        all.sort_by_key(|(expires, ..)| std::cmp::Reverse(*expires));
        let one = |(expires, ready, name): (SystemTime, &Ready, String)| {
            let path = ready.opened.words.checkpoint.path.clone();
            let known = Known::at(name, path);
            let mut value = model(&app, &known);
            value["size"] = ready.planned.into();
            value["size_vram"] = 0.into();
            value["expires_at"] = rfc3339(expires).into();
            value["context_length"] = ready.context.into();
            if let Value::Object(fields) = &mut value {
                fields.remove("modified_at");
            }
            value
        };
        Ok(all.into_iter().map(one).collect::<Vec<_>>())
    });
    answer(models.await.map(|models| Json(json!({"models": models})).into_response()))
}

/// When it goes if nobody asks it again. Ollama writes a time in some centuries where that is never.
fn expires(ready: &Ready, used: &Use) -> SystemTime {
    let left = used.left().filter(|_| !ready.pinned);
    SystemTime::now() + left.unwrap_or(Duration::from_nanos(i64::MAX as u64))
}

/// Unloads a model where a request without a prompt asks for that by a `keep_alive` of 0. Tells whether it did.
pub async fn unload(app: &Arc<App>, name: &str, keep: Option<Keep>) -> Result<bool> {
    if keep != Some(Keep::For(Duration::ZERO)) {
        return Ok(false);
    }
    let known = app.manager.find(name).await?;
    if matches!(app.manager.release(&known.name), Released::Pinned) {
        let name = terminal::clean(&known.name);
        let message = format!("{name} was named when the server was started, and stays loaded");
        return Err(Refusal::field("keep_alive", message));
    }
    Ok(true)
}

/// `DELETE /api/delete`.
pub async fn remove(Asked { app, body, .. }: Asked) -> Result<Response> {
    let name = named(&Fields::of(&body)?)?.to_string();
    // One whose base is gone is no model, and goes all the same.
    let (manager, wanted) = (app.manager.clone(), name.clone());
    let preset = aside(move || {
        let found = store::discover();
        let Some(kept) = found.preset(&wanted) else { return Ok(false) };
        preset::remove(kept).map_err(|e| Refusal::failed(e.to_string()))?;
        manager.release(&kept.name);
        terminal::note(&format!("{} is removed; its base stays", terminal::clean(&kept.name)));
        Ok(true)
    });
    if preset.await? {
        return Ok(StatusCode::OK.into_response());
    }
    let known = app.manager.find(&name).await?;
    aside(move || {
        let shown = terminal::clean(&known.name);
        let found = store::discover();
        let Some(model) = found.models.iter().find(|m| m.path == known.path) else {
            let message =
                format!("{shown} lies where the person who started the server said; it is theirs to remove");
            return Err(Refusal::new(Kind::Forbidden, message));
        };
        app.manager.unload(&known.path)?;
        store::remove(model).map_err(|e| Refusal::new(Kind::Forbidden, e.to_string()))?;
        terminal::note(&format!("{shown} is removed"));
        Ok(StatusCode::OK.into_response())
    })
    .await
}
