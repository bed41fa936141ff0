//! `POST /v1/messages`, and the count of a request's tokens.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_stream::{Stream, StreamExt};

use super::input;
use super::write::{Writer, event};
use crate::serve::asked::Asked;
use crate::serve::fields::Fields;
use crate::serve::generate::{self, Event};
use crate::serve::openai::events;
use crate::serve::refusal::{Refusal, Result};

/// After so long without a word a stream says that it is still there, as while a long prompt is read.
const QUIET: Duration = Duration::from_secs(10);

/// Answers a conversation.
pub async fn create(Asked { app, tally, body }: Asked) -> Result<Response> {
    let f = Fields::of(&body)?;
    let mut request = input::request(&f)?;
    let most = f.need("max_tokens", f.count("max_tokens", 1..=u64::MAX)?)? as usize;
    request.most = Some(most);
    let streamed = f.flag("stream")?.unwrap_or(false);
    let lease = app.manager.get(Some(model(&f)?), None).await?;
    let answer = generate::start(&lease, request, app.sampling, &tally).await?;
    let mut writer = Writer::new(&lease.name, most);
    if !streamed {
        return Ok(Json(writer.whole(answer.whole().await?)).into_response());
    }
    let all = Beating { events: answer.events, quiet: Box::pin(sleep_until(Instant::now() + QUIET)) };
    let lines = all.map(move |told| match told {
        Some(told) => writer.event(told),
        None => event("ping", &json!({"type": "ping"})),
    });
    Ok(events(lines.filter(|text| !text.is_empty()).map(Into::into)))
}

/// Counts the tokens of a prompt, however long it is.
pub async fn count(Asked { app, body, .. }: Asked) -> Result<Response> {
    let f = Fields::of(&body)?;
    let request = input::request(&f)?;
    let lease = app.manager.get(Some(model(&f)?), None).await?;
    let ids = generate::ids(&lease, &request).await?;
    Ok(Json(json!({"input_tokens": ids.len()})).into_response())
}

fn model<'a>(f: &Fields<'a>) -> Result<&'a str> {
    let name = f.text("model")?;
    name.ok_or_else(|| Refusal::field("model", "`model` is missing; GET /v1/models lists what it may be"))
}

/// Events as they come, and `None` where none came for a while.
struct Beating {
    events: mpsc::Receiver<Event>,
    quiet: Pin<Box<Sleep>>,
}

impl Stream for Beating {
    type Item = Option<Event>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Option<Event>>> {
        let this = &mut *self;
        let item = match this.events.poll_recv(cx) {
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Ready(Some(event)) => Some(event),
            Poll::Pending => {
                std::task::ready!(this.quiet.as_mut().poll(cx));
                None
            }
        };
        this.quiet.as_mut().reset(Instant::now() + QUIET);
        Poll::Ready(Some(item))
    }
}
