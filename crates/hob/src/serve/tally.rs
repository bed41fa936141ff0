//! What one request took: a line in the log and the counts, written when its answer is out or its client has gone. No
//! word of a prompt is in them; where `--log-prompts` wants it there, it has lines of its own.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, BodyDataStream, Bytes, HttpBody};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use tokio::sync::OwnedSemaphorePermit;
use tokio_stream::Stream;

use super::listen::Clock;
use super::metrics::Metrics;
use crate::terminal;

/// The status in the log of a request whose client left, as nginx has it.
const GONE: u16 = 499;

/// Characters of a prompt or an answer in the log at most.
const LONGEST: usize = 1 << 16;

/// Requests whose words are in the log, so that its lines can be told apart.
static NUMBER: AtomicU64 = AtomicU64::new(1);

/// What a request took so far.
pub struct Tally {
    /// its number where its words go into the log
    logged: Option<u64>,
    metrics: Arc<Metrics>,
    method: String,
    path: String,
    route: &'static str,
    start: Instant,
    counts: Mutex<Counts>,
    place: Mutex<Option<OwnedSemaphorePermit>>,
}

#[derive(Clone, Default)]
struct Counts {
    prompt: usize,
    cached: usize,
    generated: usize,
    first: Option<Duration>,
    status: Option<u16>,
}

impl Tally {
    /// Begins with a request; `route` is its label in the metrics.
    pub fn new(
        metrics: &Arc<Metrics>,
        method: &str,
        path: &str,
        route: &'static str,
        log: bool,
    ) -> Arc<Tally> {
        // A path may be long and strange; its beginning is enough for a line.
        let path = terminal::clean(path).chars().take(80).collect();
        let (metrics, method, start) = (metrics.clone(), method.into(), Instant::now());
        Arc::new(Tally {
            logged: log.then(|| NUMBER.fetch_add(1, Ordering::Relaxed)),
            metrics,
            method,
            path,
            route,
            start,
            counts: Mutex::default(),
            place: Mutex::default(),
        })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Whether its words go into the log.
    pub fn logs(&self) -> bool {
        self.logged.is_some()
    }

    /// Puts words of it into the log, if they go there: `what` they are, and on one line the words.
    pub fn words(&self, what: &str, words: &str) {
        let Some(number) = self.logged.filter(|_| !words.is_empty()) else { return };
        let all = words.chars().count();
        let shown: String = terminal::clean(words).chars().take(LONGEST).collect();
        let more =
            if all > LONGEST { format!(" … ({} characters more)", all - LONGEST) } else { String::new() };
        terminal::log(&format!("#{number} {} {what}: {shown}{more}", self.path));
    }

    /// Keeps a place among the requests that need much memory, until this one ends.
    pub fn hold(&self, place: Option<OwnedSemaphorePermit>) {
        *self.place.lock().unwrap_or_else(|e| e.into_inner()) = place;
    }

    /// A prompt of so many tokens was read, some of which were there already.
    pub fn prompt(&self, tokens: usize, cached: usize) {
        let mut counts = self.counts();
        counts.prompt += tokens;
        counts.cached += cached;
        self.metrics.prompt.fetch_add(tokens as u64, Ordering::Relaxed);
        self.metrics.cached.fetch_add(cached as u64, Ordering::Relaxed);
    }

    /// A token was generated.
    pub fn token(&self) {
        let mut counts = self.counts();
        counts.generated += 1;
        self.metrics.generated.fetch_add(1, Ordering::Relaxed);
        if counts.first.is_none() {
            counts.first = Some(self.start.elapsed());
            self.metrics.first(self.start.elapsed());
        }
    }

    /// An answer of so many tokens took so long.
    pub fn answer(&self, tokens: usize, decode: Duration) {
        if tokens > 1 && !decode.is_zero() {
            self.metrics.rate((tokens - 1) as f64 / decode.as_secs_f64());
        }
    }

    /// The answer with this request's end watched: when it is out, the log tells, and the connection's clock runs again.
    pub fn watch(self: Arc<Tally>, response: Response, clock: Clock) -> Response {
        let (mut head, body) = response.into_parts();
        self.counts().status = Some(head.status.as_u16());
        let exact = body.size_hint().exact();
        if let Some(length) = exact {
            head.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
        }
        let stream = Watched { body: body.into_data_stream(), whole: exact.is_some(), tally: self, clock };
        Response::from_parts(head, Body::from_stream(stream))
    }

    fn write(&self, whole: bool) {
        let counts = self.counts().clone();
        let status = counts.status.filter(|_| whole).unwrap_or(GONE);
        self.metrics.request(self.route, status);
        // The page asks each second; nobody would find another line among its own.
        if self.route == super::page::ROUTE && status < 500 {
            return;
        }
        let tokens = match (counts.prompt, counts.generated) {
            (0, 0) => String::new(),
            (prompt, generated) => format!(" {prompt}+{generated} tokens"),
        };
        let first = counts.first.map_or(String::new(), |t| format!(", first after {} ms", t.as_millis()));
        let Tally { method, path, start, .. } = self;
        let number = self.logged.map_or(String::new(), |n| format!("#{n} "));
        terminal::log(&format!(
            "{number}{method} {path} {status}{tokens} {} ms{first}",
            start.elapsed().as_millis()
        ));
    }
}

impl Drop for Tally {
    /// Without an answer: the client left before there was one.
    fn drop(&mut self) {
        if self.counts().status.is_none() {
            self.write(false);
        }
    }
}

/// A body, and what is to happen at its end.
struct Watched {
    body: BodyDataStream,
    whole: bool,
    tally: Arc<Tally>,
    clock: Clock,
}

impl Stream for Watched {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = Pin::new(&mut self.body).poll_next(cx);
        if let Poll::Ready(None) = next {
            self.whole = true;
        }
        next
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.tally.write(self.whole);
        self.clock.idle();
    }
}
