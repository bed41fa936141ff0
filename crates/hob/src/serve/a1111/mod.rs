//! The API of A1111's web UI (`modules/api/api.py` of stable-diffusion-webui), as far as its clients use it.
//!
//! Fields that would change the picture and that Hob does not have (`enable_hr`, scripts, `tiling`, `restore_faces`) are
//! refused; what A1111 keeps in its interface alone is passed over.

mod paint;

use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use hob_engine::diffuse::{Sampler, Schedule};
use hob_io::picture::{Recipe, label};
use serde_json::{Value, json};

use super::App;
use super::asked::Asked;
use super::fields::Fields;
use super::known::Known;
use super::openai::images_base64;
use super::refusal::{Refusal, Result};
use crate::hashes;

/// What is set by `POST /sdapi/v1/options`.
#[derive(Default)]
pub struct Options {
    /// the model that requests mean which name none
    model: Mutex<Option<String>>,
}

impl Options {
    fn model(&self) -> Option<String> {
        self.model.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }
}

/// The paths.
pub fn routes() -> Router<Arc<App>> {
    let empty = || get(async || Json(json!([])));
    Router::new()
        .route("/sdapi/v1/txt2img", post(paint::from_text))
        .route("/sdapi/v1/img2img", post(paint::from_picture))
        .route("/sdapi/v1/progress", get(progress))
        .route("/sdapi/v1/interrupt", post(interrupt))
        .route("/sdapi/v1/skip", post(interrupt))
        .route("/sdapi/v1/samplers", get(async || Json(samplers())))
        .route("/sdapi/v1/schedulers", get(async || Json(schedulers())))
        .route("/sdapi/v1/sd-models", get(models))
        .route("/sdapi/v1/options", get(options).post(set))
        .route("/sdapi/v1/png-info", post(info))
        .route("/sdapi/v1/refresh-checkpoints", post(async || Json(Value::Null)))
        .route("/sdapi/v1/cmd-flags", get(async || Json(json!({}))))
        // What there is none of, so that clients which list it go on.
        .route("/sdapi/v1/sd-vae", empty())
        .route("/sdapi/v1/upscalers", empty())
        .route("/sdapi/v1/latent-upscale-modes", empty())
        .route("/sdapi/v1/loras", empty())
        .route("/sdapi/v1/hypernetworks", empty())
        .route("/sdapi/v1/prompt-styles", empty())
        .route("/sdapi/v1/embeddings", get(async || Json(json!({"loaded": {}, "skipped": {}}))))
}

/// A refusal as FastAPI and A1111 write theirs.
pub fn refuse(refusal: &Refusal) -> Response {
    let body =
        json!({"error": "HTTPException", "detail": refusal.message, "body": "", "errors": refusal.message});
    (refusal.status(), Json(body)).into_response()
}

fn answer(result: Result<Response>) -> Response {
    // `serve::refuse` adds what belongs to no dialect.
    result.unwrap_or_else(|refusal| super::refuse("/sdapi/", &refusal))
}

async fn progress(State(app): State<Arc<App>>) -> Json<Value> {
    let all = app.images.progress();
    let now = all.first();
    let number = |f: fn(&super::images::Progress) -> usize| now.map_or(0, f);
    Json(json!({
        "progress": now.map_or(0.0, |p| p.part()),
        "eta_relative": now.and_then(|p| p.left).unwrap_or(0.0),
        "state": {
            "skipped": false,
            "interrupted": now.is_some_and(|p| p.stopped),
            "stopping_generation": false,
            "job": now.map_or("", |p| p.doing),
            "job_count": number(|p| p.pictures as usize),
            "job_timestamp": "0",
            "job_no": number(|p| p.picture as usize),
            "sampling_step": number(|p| p.step),
            "sampling_steps": number(|p| p.steps),
        },
        "current_image": null,
        "textinfo": null,
    }))
}

async fn interrupt(State(app): State<Arc<App>>) -> Json<Value> {
    app.images.stop(None);
    Json(json!({}))
}

fn samplers() -> Value {
    let one = |s: &Sampler| {
        let name = label(s.name());
        let aliases: Vec<&str> = [s.name()].into_iter().filter(|n| *n != name).collect();
        let automatic = json!(label(s.automatic().name()));
        json!({"name": name, "aliases": aliases, "options": {"scheduler": automatic}})
    };
    Sampler::ALL.iter().map(one).collect()
}

fn schedulers() -> Value {
    let one = |name: &str, label: &str| json!({"name": name, "label": label, "aliases": null, "default_rho": -1.0, "need_inner_model": false});
    let all = Schedule::ALL.iter().map(|s| one(s.name(), label(s.name())));
    [one("automatic", "Automatic")].into_iter().chain(all).collect()
}

async fn models(State(app): State<Arc<App>>) -> Json<Value> {
    // No path of this machine is told, and no model is read for its hash.
    let one = |k: &Known| {
        let sha256 = k.path.is_file().then(|| hashes::known(&[&k.path], hashes::Of::All)).flatten();
        json!({
            "title": k.name, "model_name": k.name, "hash": sha256.as_deref().map(|h| &h[..10]), "sha256": sha256,
            "filename": k.name, "config": null,
        })
    };
    Json(app.images.known().await.iter().map(one).collect())
}

async fn options(State(app): State<Arc<App>>) -> Json<Value> {
    let model = find(&app, None).await.ok().map(|k| k.name);
    Json(json!({
        "sd_model_checkpoint": model,
        "sd_checkpoint_hash": null,
        "sd_vae": "Automatic",
        "CLIP_stop_at_last_layers": 1,
        "samples_format": "png",
    }))
}

async fn set(Asked { app, body, .. }: Asked) -> Response {
    let set = async {
        let f = Fields::of(&body)?;
        if let Some(name) = f.text("sd_model_checkpoint")? {
            let known = find(&app, Some(name)).await?;
            *app.a1111.model.lock().unwrap_or_else(|e| e.into_inner()) = Some(known.name);
        }
        Ok(Json(Value::Null).into_response())
    };
    answer(set.await)
}

/// The model of a name as A1111 writes it: with a hash in brackets, or with its file's ending.
async fn find(app: &App, name: Option<&str>) -> Result<Known> {
    let set = app.a1111.model();
    let Some(name) = name.filter(|n| !n.is_empty()).or(set.as_deref()) else {
        // Where nothing says which, the first, as A1111 begins.
        let first = app.images.known().await.into_iter().next();
        return match app.images.find(None).await {
            Ok(known) => Ok(known),
            Err(e) => first.ok_or(e),
        };
    };
    let bare = name.rsplit_once(" [").filter(|(_, hash)| hash.ends_with(']')).map_or(name, |(bare, _)| bare);
    match app.images.find(Some(bare)).await {
        Err(e) => match bare.strip_suffix(".safetensors").or(bare.strip_suffix(".gguf")) {
            Some(stem) => app.images.find(Some(stem)).await.map_err(|_| e),
            None => Err(e),
        },
        found => found,
    }
}

/// What a picture says of how it was made.
async fn info(Asked { body, .. }: Asked) -> Response {
    let read = || {
        let f = Fields::of(&body)?;
        let bytes = images_base64("image", f.need("image", f.text("image")?)?)?;
        let recipe = Recipe::read(&bytes, std::path::Path::new("image"));
        let recipe = recipe.map_err(|e| Refusal::field("image", e.to_string()))?;
        let text = recipe.map(|r| r.text()).unwrap_or_default();
        Ok(Json(json!({"info": text, "items": {"parameters": text}, "parameters": {}})).into_response())
    };
    answer(read())
}
