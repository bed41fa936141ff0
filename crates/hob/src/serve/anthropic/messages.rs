//! `POST /v1/messages`, and the count of a request's tokens.

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::input;
use super::write::Writer;
use crate::serve::asked::Asked;
use crate::serve::fields::Fields;
use crate::serve::generate;
use crate::serve::manager::Stay;
use crate::serve::refusal::{Refusal, Result};
use crate::serve::sse;

/// Answers a conversation.
pub async fn create(Asked { app, tally, body }: Asked) -> Result<Response> {
    let f = Fields::of(&body)?;
    let mut request = input::request(&f)?;
    let most = f.need("max_tokens", f.count("max_tokens", 1..=u64::MAX)?)? as usize;
    request.most = Some(most);
    let streamed = f.flag("stream")?.unwrap_or(false);
    let lease = app.manager.get(Some(model(&f)?), Stay::default()).await?;
    let answer = generate::start(&lease, request, app.sampling, &tally).await?;
    let mut writer = Writer::new(&lease.name, most);
    if !streamed {
        return Ok(Json(writer.whole(answer.whole().await?)).into_response());
    }
    Ok(sse::respond(ReceiverStream::new(answer.events).map(move |told| writer.event(told))))
}

/// Counts the tokens of a prompt, however long it is.
pub async fn count(Asked { app, body, .. }: Asked) -> Result<Response> {
    let f = Fields::of(&body)?;
    let request = input::request(&f)?;
    let lease = app.manager.get(Some(model(&f)?), Stay::default()).await?;
    let ids = generate::ids(&lease, &request).await?;
    Ok(Json(json!({"input_tokens": ids.len()})).into_response())
}

fn model<'a>(f: &Fields<'a>) -> Result<&'a str> {
    let name = f.text("model")?;
    name.ok_or_else(|| Refusal::field("model", "`model` is missing; GET /v1/models lists what it may be"))
}
