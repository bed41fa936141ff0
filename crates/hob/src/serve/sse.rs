//! Server-sent events (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use tokio::time::{Instant, Sleep, sleep};
use tokio_stream::{Stream, StreamExt};

/// After so long without an event comes a comment, so that nobody between takes the connection for dead. A long prompt
/// takes a while on a small machine.
const QUIET: Duration = Duration::from_secs(15);

/// An event without a name.
pub fn data(value: &Value) -> String {
    format!("data: {value}\n\n")
}

/// An event with a name.
pub fn event(name: &str, value: &Value) -> String {
    format!("event: {name}\ndata: {value}\n\n")
}

/// A response of events; empty texts are passed over. A client that leaves drops the stream.
pub fn respond(events: impl Stream<Item = String> + Send + 'static) -> Response {
    let lines = events.filter(|text| !text.is_empty()).map(Bytes::from);
    let lines = Alive { lines: Box::pin(lines), quiet: Box::pin(sleep(QUIET)) };
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    (headers, Body::from_stream(lines.map(Ok::<_, Infallible>))).into_response()
}

/// A stream that says at times that it is still there.
struct Alive<S> {
    lines: Pin<Box<S>>,
    quiet: Pin<Box<Sleep>>,
}

impl<S: Stream<Item = Bytes>> Stream for Alive<S> {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let next = match self.lines.as_mut().poll_next(cx) {
            Poll::Ready(next) => next,
            Poll::Pending if self.quiet.as_mut().poll(cx).is_ready() => {
                Some(Bytes::from_static(b": wait\n\n"))
            }
            Poll::Pending => return Poll::Pending,
        };
        self.quiet.as_mut().reset(Instant::now() + QUIET);
        Poll::Ready(next)
    }
}
