//! The page that `hob serve` shows at `/`: chat, conversations, pictures, models, the machine.
//!
//! Everything it asks for lies under `/hob`, in JSON; errors are `{"error": {"message"}}` with one sentence. Ids are
//! numbers, models are named as `GET /hob/models` names them, and no part of a request becomes a path of the file system.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `GET /`, `/assets/VERSION/FILE` | | the page; its files never change under a version |
//! | `GET /hob/state` | | `version`, `offline`, `lasting`, `note`, `defaults` of the settings |
//! | `GET /hob/conversations` | | `conversations`: `id`, `title`, `pinned`, `updated` |
//! | `GET /hob/conversations?q=WORDS` | | `found`: `conversation`, `title`, `message`, `excerpt`, `updated` |
//! | `POST /hob/conversations` | `model`, `settings` | `id` |
//! | `DELETE /hob/conversations` | | deletes all, for real |
//! | `GET /hob/conversations/ID` | | the conversation and `messages`, the branch that is shown, with `html` and `thought` |
//! | `PATCH /hob/conversations/ID` | `title`, `pinned`, `model`, `settings` | changes what is named |
//! | `DELETE /hob/conversations/ID` | | deletes it, for real |
//! | `GET /hob/conversations/ID/export.md`, `.json` | | the branch that is shown; all branches |
//! | `GET /hob/export` | | all conversations in JSON |
//! | `POST /hob/import` | `text`: such JSON | `ids` |
//! | `POST /hob/conversations/ID/messages` | `parent`, `text`, `attachments`, `model` | `question`, `answer`: the answer begins |
//! | `POST /hob/messages/ID/again` | `model` | `answer`: another to the same question |
//! | `POST /hob/messages/ID/stop` | | ends the answer; what was said stays |
//! | `POST /hob/messages/ID/show` | | shows the branch of the message |
//! | `GET /hob/messages/ID/stream` | | events, see [`stream`] |
//! | `GET /hob/models` | | `models`, `pictures`, `catalogue`, `notes`, `offline` |
//! | `POST /hob/models/load`, `unload`, `remove` | `name` | |
//! | `POST /hob/fit` | `name` | what `hob fit` tells |
//! | `GET`, `POST /hob/pulls` | `name` | `pulls`; `id` of a new one |
//! | `DELETE /hob/pulls/ID` | | gives it up, or forgets it when it is over |
//! | `GET /hob/images`, `?before=ID` | | `pictures`: `id`, `created`, `seconds`, `recipe`; `running`, `models`, `samplers`, `schedules` |
//! | `POST /hob/images` | `model`, `prompt`, … | makes pictures and keeps them: `ids` |
//! | `GET /hob/images/running` | | `running`: `id`, `doing`, `picture`, `pictures`, `step`, `steps`, `part`, `seconds`, `left`, `stopped` |
//! | `POST /hob/images/stop` | `id` | stops what is being made |
//! | `GET /hob/images/ID/picture.png`, `small.png` | | the picture with its recipe; the same for lists |
//! | `DELETE /hob/images/ID`, `/hob/images` | | deletes it, or all, for real |
//! | `GET /hob/machine` | | memory, processor, GPUs, loaded models, `rates` of the last minutes |

mod answers;
mod assets;
mod conversations;
mod machine;
mod models;
mod pictures;
mod render;
mod store;
mod stream;

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::App;
use super::refusal::{Kind, Refusal, Result};
use crate::error::Error;
use crate::terminal;
use store::Store;

pub use assets::is_open;

/// What the page keeps beside the server.
pub struct Page {
    store: Arc<Store>,
    answers: answers::Answers,
    pulls: models::Pulls,
    rates: machine::Rates,
}

impl Page {
    /// Opens the user's conversations; where that fails, the page says so and keeps them in memory.
    pub fn open() -> crate::error::Result<Page> {
        let store = Store::of_user()?;
        if let Some(note) = &store.note {
            terminal::note(note);
        }
        let (answers, pulls, rates) = Default::default();
        Ok(Page { store: Arc::new(store), answers, pulls, rates })
    }
}

/// Begins what goes on beside requests: counting tokens a second.
pub fn begin(app: &Arc<App>) {
    tokio::task::spawn_blocking(render::warm);
    tokio::spawn(machine::count(app.clone()));
}

/// The paths.
pub fn routes() -> Router<Arc<App>> {
    use conversations as c;
    Router::new()
        .merge(assets::routes())
        .route("/hob/state", get(state))
        .route("/hob/conversations", get(c::list).post(c::create).delete(c::delete_all))
        .route("/hob/conversations/{id}", get(c::one).patch(c::change).delete(c::delete))
        .route("/hob/conversations/{id}/export.md", get(c::markdown))
        .route("/hob/conversations/{id}/export.json", get(c::export))
        .route("/hob/conversations/{id}/messages", post(c::ask))
        .route("/hob/messages/{id}/again", post(c::again))
        .route("/hob/messages/{id}/stop", post(c::stop))
        .route("/hob/messages/{id}/show", post(c::show))
        .route("/hob/messages/{id}/stream", get(stream::follow))
        .route("/hob/export", get(c::export_all))
        .route("/hob/import", post(c::import))
        .route("/hob/models", get(models::list))
        .route("/hob/models/load", post(models::load))
        .route("/hob/models/unload", post(models::unload))
        .route("/hob/models/remove", post(models::remove))
        .route("/hob/fit", post(models::fit))
        .route("/hob/pulls", get(models::pulls).post(models::pull))
        .route("/hob/pulls/{id}", delete(models::end_pull))
        .route("/hob/machine", get(machine::now))
        .route("/hob/images", get(pictures::list).post(pictures::make).delete(pictures::delete_all))
        .route("/hob/images/running", get(pictures::running))
        .route("/hob/images/stop", post(pictures::stop))
        .route("/hob/images/{id}", delete(pictures::delete))
        .route("/hob/images/{id}/{file}", get(pictures::file))
}

/// The label of the page's paths in the metrics.
pub const ROUTE: &str = "page";

/// Whether a path is the page's own.
pub fn is_ours(path: &str) -> bool {
    is_open(path) || path.starts_with("/hob/")
}

async fn state(State(app): State<Arc<App>>) -> Response {
    let (s, store) = (app.sampling, &app.page.store);
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "offline": app.offline,
        "lasting": store.lasting,
        "note": store.note,
        "defaults": {"temperature": tidy(s.temperature), "top_p": tidy(s.top_p), "top_k": s.top_k, "min_p": tidy(s.min_p)},
    }))
    .into_response()
}

/// 0.7 as f32 is 0.699999988 as f64.
fn tidy(x: f32) -> Value {
    serde_json::from_str(&x.to_string()).unwrap_or(Value::Null)
}

/// An answer, or the refusal in the shape that all of the page's have.
fn answer(done: Result<Value>) -> Response {
    done.map_or_else(|refusal| super::refuse("/hob", &refusal), |value| Json(value).into_response())
}

/// A body with the fields of `T`.
fn read<T: DeserializeOwned>(body: Value) -> Result<T> {
    // A list would do for serde, field by field.
    if !body.is_object() {
        return Err(Refusal::new(Kind::Invalid, "the body must be a JSON object"));
    }
    serde_json::from_value(body)
        .map_err(|e| Refusal::new(Kind::Invalid, format!("the body is not as it should be: {e}")))
}

fn invalid(e: Error) -> Refusal {
    Refusal::new(Kind::Invalid, e.to_string())
}

fn missing(e: Error) -> Refusal {
    Refusal::new(Kind::NotFound, e.to_string())
}

/// Work that may wait for a disk, beside the threads that answer requests.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(Refusal::failed("a bug in Hob stopped this; please report it")))
}

/// The same in the store, whose errors are the request's.
async fn stored<T: Send + 'static>(
    app: &App,
    work: impl FnOnce(&Store) -> crate::error::Result<T> + Send + 'static,
) -> Result<T> {
    let store = app.page.store.clone();
    aside(move || work(&store).map_err(invalid)).await
}
