//! `hob serve`: models answer other programs over HTTP, in the dialects that those speak.
//!
//! Requests come through [`guard`]; a dialect (`openai`, `ollama`, `anthropic`) reads one into a [`generate::Request`] and
//! writes what comes of it; [`manager`] loads models; [`worker`] runs them. Dependencies point that way only.

mod a1111;
mod anthropic;
mod asked;
mod control;
mod date;
mod fields;
mod form;
mod generate;
mod guard;
mod images;
mod keep;
mod known;
mod listen;
mod manager;
mod metrics;
mod ollama;
mod openai;
mod openapi;
mod page;
mod preset;
mod pulls;
mod refusal;
mod sse;
pub mod state;
mod tally;
mod vectors;
mod worker;

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::connect_info::ConnectInfo;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::error::{Error, Result, plain};
use crate::interrupt::{Catch, SurviveClosed};
use crate::model::Load;
use crate::terminal;
use guard::Guard;
use listen::{Clock, Gate};
use manager::{Manager, Policy};
use metrics::Metrics;
use refusal::{Kind, Refusal};
use tally::Tally;

pub use generate::{Knobs, Stops};
pub use guard::origin;
pub use keep::Keep;
pub use known::Known;
pub use worker::Limits;

/// Answers that run when the server is told to end have so long to come to an end.
const GRACE: Duration = Duration::from_secs(5);

/// How the server is started.
pub struct Config {
    /// where it listens
    pub address: SocketAddr,
    /// models that are loaded at once and stay
    pub models: Vec<Known>,
    /// how models are loaded, and how tokens are chosen where a request does not say
    pub load: Load,
    /// how many requests each model takes
    pub limits: Limits,
    /// how long models stay
    pub keep: Keep,
    /// bytes of keys and values of each
    pub cache: Option<u64>,
    /// what a request must show
    pub token: Option<String>,
    /// further names that the Host header may have
    pub hosts: Vec<String>,
    /// origins whose pages may ask
    pub origins: Vec<String>,
    /// bytes of a request's body at most
    pub max_body: usize,
    /// the same where pictures are sent
    pub max_pictures: usize,
    /// picture models beside those that are found
    pub pictures: Vec<Known>,
    /// connections that are open at the same time
    pub connections: usize,
    /// nothing is fetched, whatever is asked
    pub offline: bool,
    /// what is asked and answered goes into the log
    pub log_prompts: bool,
}

/// What handlers share.
pub struct App {
    /// the models
    pub manager: Arc<Manager>,
    /// counts
    pub metrics: Arc<Metrics>,
    /// how tokens are chosen where a request does not say
    pub sampling: hob_engine::Sampling,
    /// picture models, and the requests for pictures
    pub images: images::Images,
    /// what A1111's clients set
    pub a1111: a1111::Options,
    /// bytes of a body at most
    pub max_body: usize,
    /// the same where pictures are sent
    pub max_pictures: usize,
    /// answers of `/v1/responses` that may be gone on with
    pub responses: openai::Kept,
    /// tells the server to end
    pub stop: tokio::sync::Notify,
    /// what headers of models say
    pub headers: ollama::Headers,
    /// models being fetched
    pub pulls: pulls::Pulls,
    /// what the page keeps
    pub page: page::Page,
    /// nothing is fetched, whatever is asked
    pub offline: bool,
    /// what is asked and answered goes into the log; else nothing of it does
    pub log_prompts: bool,
    guard: Guard,
    /// places for large bodies
    large: Arc<Semaphore>,
}

/// A refusal in the shape of the dialect that a path belongs to.
fn refuse(path: &str, refusal: &Refusal) -> Response {
    let mut response = match path {
        path if path.starts_with("/api/") => ollama::refuse(refusal),
        path if path.starts_with("/sdapi/") => a1111::refuse(refusal),
        path if path.starts_with("/v1/messages") => anthropic::refuse(refusal),
        _ => openai::refuse(refusal),
    };
    let headers = response.headers_mut();
    if let Some(seconds) = refusal.retry {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if refusal.kind == Kind::Unauthorized {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// All paths.
fn router(app: &Arc<App>) -> Router {
    Router::new()
        .merge(openai::routes())
        .merge(control::routes())
        .merge(ollama::routes())
        .merge(anthropic::routes())
        .merge(a1111::routes())
        .merge(page::routes())
        .route("/health", get(async || axum::Json(serde_json::json!({"status": "ok"}))))
        .route("/metrics", get(page))
        .route("/openapi.json", get(async || axum::Json(openapi::description())))
        .fallback(async |request: Request| {
            let path = request.uri().path();
            refuse(
                path,
                &Refusal::new(Kind::NotFound, format!("there is nothing at {}", terminal::clean(path))),
            )
        })
        .method_not_allowed_fallback(async |request: Request| {
            let (path, method) = (request.uri().path(), request.method());
            let message = format!("{} does not take {method}", terminal::clean(path));
            refuse(path, &Refusal::new(Kind::Method, message))
        })
        .layer(from_fn_with_state(app.clone(), watch_over))
        .with_state(app.clone())
}

async fn page(State(app): State<Arc<App>>) -> Response {
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    (kind, app.metrics.page(&app.manager.loaded())).into_response()
}

/// The label of a path in the metrics: one of those known, so that nobody can make many.
fn route(path: &str) -> &'static str {
    let known = openapi::PATHS.iter().find(|known| match known.0.split_once("{id}") {
        Some((start, end)) => {
            path.strip_prefix(start).and_then(|rest| rest.strip_suffix(end)).is_some_and(|id| !id.is_empty())
        }
        None => known.0 == path,
    });
    let others = if page::is_ours(path) { page::ROUTE } else { "other" };
    known.map_or(others, |known| known.0)
}

/// Every request passes here: it is counted, checked, and answered.
async fn watch_over(
    State(app): State<Arc<App>>,
    ConnectInfo(clock): ConnectInfo<Clock>,
    mut request: Request,
    next: Next,
) -> Response {
    clock.busy();
    let path = request.uri().path().to_string();
    let tally = Tally::new(&app.metrics, request.method().as_str(), &path, route(&path), app.log_prompts);
    request.extensions_mut().insert(tally.clone());
    let origin = request.headers().get(header::ORIGIN).cloned();
    let mut unread = false;
    let mut response = match app.guard.check(&request) {
        Err(refusal) => {
            unread = true;
            refuse(&path, &refusal)
        }
        Ok(Some(preflight)) => preflight,
        Ok(None) => next.run(request).await,
    };
    app.guard.share(origin.as_ref(), response.headers_mut());
    let nosniff = HeaderValue::from_static("nosniff");
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    if unread || matches!(response.status(), StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT) {
        // What is left of the body is not read, and the connection ends: a client that is not told would use it again.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    tally.watch(response, clock)
}

/// Serves until a signal ends it.
///
/// # Errors
/// The address cannot be listened on, or a model named at the start cannot be loaded.
pub fn run(config: Config) -> Result<()> {
    let _survive = SurviveClosed::new();
    // What a panic says may quote a prompt.
    crate::install_panic_hook(config.log_prompts);
    if config.log_prompts {
        terminal::note("--log-prompts: what is asked and answered is written into this log");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("hob-serve").build();
    let runtime = runtime.map_err(|e| Error::new(format!("the system grants no threads: {}", plain(&e))))?;
    let done = runtime.block_on(serve(config));
    // Work that still runs is not waited for: the process ends with it.
    runtime.shutdown_background();
    done
}

async fn serve(config: Config) -> Result<()> {
    let listener = TcpListener::bind(config.address).await.map_err(|e| {
        let advice = match e.kind() {
            std::io::ErrorKind::AddrInUse => "; another program listens there, choose another --port",
            _ => "",
        };
        Error::new(format!("cannot listen on {}: {}{advice}", config.address, plain(&e)))
    })?;
    let address = listener.local_addr().unwrap_or(config.address);
    let catch = Catch::new();
    let metrics = Arc::new(Metrics::default());
    let sampling = config.load.sampling;
    let policy = Policy { load: config.load, limits: config.limits, keep: config.keep, cache: config.cache };
    let manager = Arc::new(Manager::new(policy, metrics.clone()));
    for known in config.models {
        let loading = manager.pin(known);
        tokio::select! {
            loaded = loading => loaded.map_err(|refusal| Error::new(refusal.message))?,
            () = told_to_end(&catch) => return Ok(()),
        }
    }
    let (bound, hosts, origins) = (address.ip(), config.hosts, config.origins);
    let guard = Guard { bound, hosts, origins, token: config.token.clone() };
    let (max_body, max_pictures, responses) = (config.max_body, config.max_pictures, openai::Kept::default());
    let (images, a1111) = (images::Images::start(config.pictures, &manager)?, a1111::Options::default());
    let large = Arc::new(Semaphore::new(asked::FEW));
    let (headers, pulls, offline) = (ollama::Headers::default(), pulls::Pulls::default(), config.offline);
    let (page, log_prompts) = (page::Page::open()?, config.log_prompts);
    let app = Arc::new(App {
        manager: manager.clone(),
        metrics,
        sampling,
        images,
        a1111,
        max_body,
        max_pictures,
        responses,
        page,
        headers,
        pulls,
        offline,
        log_prompts,
        stop: tokio::sync::Notify::new(),
        guard,
        large,
    });
    page::begin(&app);

    let running =
        state::Running { pid: std::process::id(), address: reachable(address), token: config.token };
    let _note = match state::Note::leave(&running) {
        Ok(Ok(note)) => Some(note),
        Ok(Err(other)) => {
            terminal::note(&format!(
                "another server runs at {}; hob run goes on asking that one",
                other.address
            ));
            None
        }
        Err(e) => {
            terminal::note(&format!("other commands will not find this server: {e}"));
            None
        }
    };
    let (stop, mut stopping) = watch::channel(false);
    let service = router(&app).into_make_service_with_connect_info::<Clock>();
    let stopped = async move {
        let _ = stopping.wait_for(|s| *s).await;
    };
    let serving =
        axum::serve(Gate::new(listener, config.connections), service).with_graceful_shutdown(stopped);
    let serving = tokio::spawn(serving.into_future());
    println!("hob serves at http://{address}");
    let housekeeping = tokio::spawn(keep_house(manager));
    tokio::select! {
        () = told_to_end(&catch) => terminal::note("ending; Ctrl-C again ends at once"),
        () = app.stop.notified() => terminal::note("ending, as hob stop asked"),
    }
    let _ = stop.send(true);
    let _ = tokio::time::timeout(GRACE, serving).await;
    housekeeping.abort();
    Ok(())
}

/// Unloads what is not used any more.
async fn keep_house(manager: Arc<Manager>) {
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    loop {
        tick.tick().await;
        let manager = manager.clone();
        let _ = tokio::task::spawn_blocking(move || manager.expire()).await;
    }
}

/// Where this machine reaches a server bound to `address`.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::from(std::net::Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Waits for Ctrl-C, or for the system to ask.
async fn told_to_end(catch: &Catch) {
    let pressed = async {
        while !catch.pressed() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        () = pressed => {}
        () = terminated() => {}
    }
}

#[cfg(unix)]
fn terminated() -> impl Future<Output = ()> {
    use tokio::signal::unix::{SignalKind, signal};
    // Listening begins here, not when the future is first asked.
    let signal = signal(SignalKind::terminate());
    async {
        match signal {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    }
}

#[cfg(not(unix))]
fn terminated() -> impl Future<Output = ()> {
    std::future::pending()
}
