//! A request's body: read within bounds, as JSON.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::header;
use axum::response::Response;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};
use tokio_stream::StreamExt;

use super::refusal::{Kind, Refusal, Result};
use super::tally::Tally;
use super::{App, refuse};
use crate::terminal;

/// A body must go on within so long, and be whole within [`WHOLE`].
const PART: Duration = Duration::from_secs(15);
const WHOLE: Duration = Duration::from_secs(300);

/// Bodies larger than this are taken in few at a time: as JSON they may take many times their length.
const LARGE: usize = 1 << 20;

/// How many that is.
pub const FEW: usize = 4;

/// A request with a JSON body.
pub struct Asked {
    /// the server
    pub app: Arc<App>,
    /// what the request takes
    pub tally: Arc<Tally>,
    /// the body
    pub body: Value,
}

impl FromRequest<Arc<App>> for Asked {
    type Rejection = Response;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Asked, Response> {
        let path = request.uri().path().to_string();
        let Sent { app, tally, bytes, .. } = Sent::from_request(request, app).await?;
        if tally.logs() {
            tally.words("asked", &String::from_utf8_lossy(&bytes));
        }
        let body = parse(&bytes).map_err(|refusal| refuse(&path, &refusal))?;
        Ok(Asked { app, tally, body })
    }
}

/// A request with a body of any kind.
pub struct Sent {
    /// the server
    pub app: Arc<App>,
    /// what the request takes
    pub tally: Arc<Tally>,
    /// the body
    pub bytes: Vec<u8>,
    /// its content type
    pub kind: String,
}

impl FromRequest<Arc<App>> for Sent {
    type Rejection = Response;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Sent, Response> {
        let path = request.uri().path().to_string();
        let Some(tally) = request.extensions().get::<Arc<Tally>>().cloned() else {
            return Err(refuse(&path, &Refusal::failed("the request was not counted")));
        };
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
        let kind = kind.unwrap_or_default().to_string();
        let most = if pictures(&path) { app.max_pictures } else { app.max_body };
        let bytes = read(request.into_body(), most, app, &tally).await;
        let bytes = bytes.map_err(|refusal| refuse(&path, &refusal))?;
        Ok(Sent { app: app.clone(), tally, bytes, kind })
    }
}

/// Whether requests to a path may hold pictures.
fn pictures(path: &str) -> bool {
    ["/v1/images/", "/sdapi/", "/hob/images"].iter().any(|own| path.starts_with(own))
}

/// All bytes of a body, within the server's bounds.
async fn read(body: Body, most: usize, app: &App, tally: &Tally) -> Result<Vec<u8>> {
    let slow = || Refusal::new(Kind::TooSlow, "the body came too slowly");
    let too_large = || {
        let message = format!(
            "the body is larger than {}; hob serve --max-body allows more",
            terminal::bytes(most as u64)
        );
        Refusal::new(Kind::TooLarge, message)
    };
    if axum::body::HttpBody::size_hint(&body).lower() > most as u64 {
        return Err(too_large());
    }
    let whole = Instant::now() + WHOLE;
    let mut turn = false;
    let (mut stream, mut bytes) = (body.into_data_stream(), Vec::new());
    loop {
        if bytes.len() > LARGE && !turn {
            let place = timeout_at(whole, app.large.clone().acquire_owned()).await.map_err(|_| slow())?;
            tally.hold(place.ok());
            turn = true;
        }
        let until = whole.min(Instant::now() + PART);
        match timeout_at(until, stream.next()).await {
            Err(_) => return Err(slow()),
            Ok(None) => return Ok(bytes),
            Ok(Some(Err(_))) => return Err(Refusal::new(Kind::Invalid, "the body broke off")),
            Ok(Some(Ok(part))) if bytes.len() + part.len() > most => return Err(too_large()),
            Ok(Some(Ok(part))) => bytes.extend_from_slice(&part),
        }
    }
}

/// JSON of a body.
pub fn parse(bytes: &[u8]) -> Result<Value> {
    // Nesting is bounded by serde_json itself, at 128.
    serde_json::from_slice(bytes).map_err(|e| match e.to_string() {
        deep if deep.starts_with("recursion limit") => {
            Refusal::new(Kind::Invalid, "the body is nested deeper than 128 levels")
        }
        why => Refusal::new(Kind::Invalid, format!("the body is no JSON: {why}")),
    })
}
