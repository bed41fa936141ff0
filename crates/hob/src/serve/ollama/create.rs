//! `POST /api/create` and `/api/copy`: both make presets. No weight is copied, no file is taken in, and models are found by
//! comparing names.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::models::aside;
use super::{details, line, lines, named};
use crate::error::Error;
use crate::preset::{self, Preset};
use crate::serve::App;
use crate::serve::asked::Asked;
use crate::serve::fields::Fields;
use crate::serve::known::Known;
use crate::serve::refusal::{Kind, Refusal, Result};
use crate::store::{self, Found};
use crate::terminal;

/// Makes a preset, and tells in Ollama's words what was done.
pub async fn create(Asked { app, body, .. }: Asked) -> Result<Response> {
    let f = Fields::of(&body)?;
    let (name, streamed) = (named(&f)?, f.flag("stream")?.unwrap_or(true));
    let (preset, notes) = preset::of_request(&body).map_err(invalid)?;
    let base = app.manager.find(&preset.base).await?;
    let layer = format!("using existing layer sha256:{}", details::digest(&base));
    save(&app, name, base, preset).await?;
    if !streamed {
        return Ok(Json(json!({"status": "success"})).into_response());
    }
    let said = [layer].into_iter().chain(notes).chain(["writing manifest", "success"].map(String::from));
    let said: Vec<_> = said.map(|status| line(&json!({ "status": status }))).collect();
    Ok(lines(tokio_stream::iter(said)))
}

/// Gives a model another name: a preset that adds nothing to it; of a preset, one that says the same.
pub async fn copy(Asked { app, body, .. }: Asked) -> Result<Response> {
    let f = Fields::of(&body)?;
    let source = f.need("source", f.text("source")?)?;
    let name = f.need("destination", f.text("destination")?)?;
    let base = app.manager.find(source).await?;
    save(&app, name, base, Preset::default()).await?;
    Ok(StatusCode::OK.into_response())
}

/// Keeps `preset`, whose base is to be `base`. Of a preset it takes over what that says, as with Ollama: it then needs
/// that no more, and may take its place.
async fn save(app: &App, name: &str, base: Known, preset: Preset) -> Result<()> {
    let name = name.strip_suffix(":latest").unwrap_or(name).to_string();
    // Those that were named when the server was started lie elsewhere.
    if app.manager.known().await.iter().any(|known| known.preset.is_none() && known.is(&name)) {
        let shown: String = terminal::clean(&name).chars().take(100).collect();
        return Err(invalid(Error::new(format!("{shown} is the name of a model; choose another"))));
    }
    aside(move || {
        let found = store::discover();
        let preset = match &base.preset {
            Some(made) => preset.on(made.settled.preset.clone()).map_err(invalid)?,
            None => Preset { base: name_of(&base, &found)?, ..preset },
        };
        preset::save(&name, &preset, &found).map_err(invalid)?;
        let (name, base) = (terminal::clean(&name), terminal::clean(&base.name));
        terminal::note(&format!("the preset {name} is made of {base}"));
        Ok(())
    })
    .await
}

/// What a preset calls its base by: its name among models of this machine; what lies elsewhere was given by its path when
/// the server was started.
fn name_of(base: &Known, found: &Found) -> Result<String> {
    let name = found.models.iter().find(|m| m.path == base.path).map(|m| m.name.clone());
    let path = || std::path::absolute(&base.path).ok()?.to_str().map(String::from);
    name.or_else(path).ok_or_else(|| invalid(Error::new("the base's path is not UTF-8 text; rename it")))
}

fn invalid(e: Error) -> Refusal {
    Refusal::new(Kind::Invalid, e.to_string())
}
