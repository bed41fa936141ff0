//! The network: the only module that opens connections, and only when a command was asked to fetch, or to a server that
//! the person runs on this machine ([`local`]).
//!
//! A download goes to `NAME.part` beside its final place, is continued there after a cut, and takes its name only
//! when its length and checksum are right.

pub mod local;
mod part;
mod range;

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use indicatif::ProgressBar;
use ureq::http::{Response, Uri, header};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body};

use crate::error::{Error, Result, plain};
use crate::file::{self, Checksum};
use crate::terminal;
use part::Part;
pub use range::Slice;

/// A server that does not answer should soon give way to the next source.
const CONNECT: Duration = Duration::from_secs(4);
/// The longest silence in an answer; `HF_HUB_DOWNLOAD_TIMEOUT` (seconds) overrides it, as in other tools.
const SILENCE: Duration = Duration::from_secs(20);
/// Tries that bring nothing new, before a download is given up.
const TRIES: u32 = 4;
/// The longest JSON answer that is read.
const JSON_LIMIT: u64 = 64 << 20;

/// Why a request brought nothing.
#[derive(Debug)]
pub enum Failure {
    /// No connection came about.
    Unreachable(String),
    /// The server said no: the status code, and the hub's word for it when it sent one.
    Status(u16, Option<String>),
    /// The answer broke off or made no sense.
    Broken(String),
    /// Something on this machine.
    Local(Error),
}

impl Failure {
    /// A sentence about `what`, for failures that need no knowledge of the server.
    pub fn explain(self, what: &str) -> Error {
        match self {
            Failure::Local(e) => e,
            Failure::Unreachable(why) => Error::source(format!("cannot fetch {what}: {why}")),
            Failure::Broken(why) => Error::source(format!("cannot fetch {what}: {why}")),
            Failure::Status(429, _) => Error::source(format!(
                "cannot fetch {what}: the server says that too many requests were made; try again later"
            )),
            Failure::Status(code @ 500.., _) => Error::source(format!(
                "cannot fetch {what}: the server has a fault (status {code}); try again later"
            )),
            Failure::Status(code, _) => {
                Error::source(format!("cannot fetch {what}: the server refused (status {code})"))
            }
        }
    }
}

/// A file to download.
pub struct Download<'a> {
    /// Where from.
    pub url: &'a str,
    /// A bearer token for that host, and for no other.
    pub token: Option<&'a str>,
    /// Where to, under its final name; the part lies beside it.
    pub to: &'a Path,
    /// Its length, where known.
    pub size: Option<u64>,
    /// Its checksum, where known.
    pub checksum: Option<&'a Checksum>,
    /// What to call it on the terminal.
    pub label: &'a str,
}

/// How far a transfer is, for whoever shows it elsewhere than on the terminal; and the wish that it end.
#[derive(Default)]
pub struct Transfer {
    total: AtomicU64,
    /// bytes of files that are whole
    whole: AtomicU64,
    /// bytes of the file that comes
    now: AtomicU64,
    /// bytes that lay here from an earlier try
    before: AtomicU64,
    given_up: AtomicBool,
}

impl Transfer {
    /// Bytes that are here and bytes that there will be, 0 where that is not known yet.
    pub fn seen(&self) -> (u64, u64) {
        (self.whole.load(Relaxed) + self.now.load(Relaxed), self.total.load(Relaxed))
    }

    /// Bytes that were here when it began.
    pub fn before(&self) -> u64 {
        self.before.load(Relaxed)
    }

    /// So many bytes will come.
    pub fn expect(&self, bytes: u64) {
        self.total.store(bytes, Relaxed);
    }

    /// The present file has so many bytes.
    pub fn at(&self, bytes: u64) {
        self.now.store(bytes, Relaxed);
    }

    /// Asks it to end. What came stays for another try.
    pub fn give_up(&self) {
        self.given_up.store(true, Relaxed);
    }

    /// Whether it was asked to end.
    pub fn given_up(&self) -> bool {
        self.given_up.load(Relaxed)
    }

    fn begin(&self, here: u64, size: Option<u64>) {
        self.before.fetch_add(here, Relaxed);
        self.at(here);
        if self.total.load(Relaxed) == 0 {
            self.expect(size.unwrap_or(0));
        }
    }

    fn end(&self) {
        self.whole.fetch_add(self.now.swap(0, Relaxed), Relaxed);
    }
}

/// The way out, or its absence.
pub struct Net {
    agent: Option<Agent>,
    /// how far what is fetched is
    pub transfer: Arc<Transfer>,
}

impl Net {
    /// Opens no connection yet. With `offline`, every request is refused.
    pub fn new(offline: bool) -> Net {
        let refused = std::env::var("HOB_OFFLINE").is_ok_and(|v| !v.is_empty() && v != "0");
        if offline || refused {
            return Net { agent: None, transfer: Arc::default() };
        }
        let silence = std::env::var("HF_HUB_DOWNLOAD_TIMEOUT")
            .ok()
            .and_then(|v| v.parse().ok())
            .filter(|s| (1..=3600).contains(s))
            .map_or(SILENCE, Duration::from_secs);
        // The system's certificates, so that a company's own authority is trusted where its machines trust it.
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .max_redirects(0) // followed here, so that a token never leaves its host
            .max_redirects_will_error(false)
            .timeout_resolve(Some(CONNECT))
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(silence))
            .timeout_per_read(Some(silence))
            .user_agent(concat!("hob/", env!("CARGO_PKG_VERSION")))
            .build();
        Net { agent: Some(config.into()), transfer: Arc::default() }
    }

    /// The same, with its downloads watched.
    pub fn watched(self, transfer: Arc<Transfer>) -> Net {
        Net { transfer, ..self }
    }

    /// Whether requests are refused.
    pub fn offline(&self) -> bool {
        self.agent.is_none()
    }

    /// The refusal, naming what was wanted.
    pub fn refusal(what: &str) -> Error {
        Error::new(format!(
            "offline: {what} is not fetched; run again without --offline and HOB_OFFLINE to allow it"
        ))
    }

    /// Fetches a JSON document.
    pub fn json(&self, url: &str, token: Option<&str>) -> Result<serde_json::Value, Failure> {
        let mut tries = 0;
        loop {
            let failure = match self.get(url, token, &[]) {
                Ok(response) if response.status() == 200 => {
                    let mut body = response.into_body();
                    let bytes = body.with_config().limit(JSON_LIMIT).read_to_vec().map_err(broken);
                    match bytes.map(|b| serde_json::from_slice(&b)) {
                        Ok(Ok(value)) => return Ok(value),
                        Ok(Err(_)) => return Err(Failure::Broken("the answer is not JSON".into())),
                        Err(e) => e,
                    }
                }
                Ok(response) => status(&response),
                Err(e) => e,
            };
            tries += 1;
            pause(failure, tries)?;
        }
    }

    /// Downloads a file: continues its part, verifies, and only then gives it its name.
    pub fn download(&self, d: &Download) -> Result<(), Failure> {
        if self.offline() {
            return Err(Failure::Local(Net::refusal(d.label)));
        }
        let mut part = Part::open(d).map_err(Failure::Local)?;
        let bar = terminal::progress(d.label, d.size);
        self.transfer.begin(part.length, d.size);
        let mut tries = 0;
        let mut anew = false;
        let done = loop {
            let before = part.length;
            let failure = match self.attempt(d, &mut part, &bar) {
                Ok(()) => match part.verify(d) {
                    Ok(()) => break part.publish(d).map_err(Failure::Local),
                    // The first bytes may be of an older file: once, begin anew.
                    Err(_) if before > 0 && !anew => {
                        anew = true;
                        if let Err(e) = part.restart() {
                            break Err(Failure::Local(e));
                        }
                        continue;
                    }
                    Err(e) => {
                        part.remove();
                        break Err(e);
                    }
                },
                Err(e) => e,
            };
            tries = if part.length > before { 1 } else { tries + 1 };
            if self.transfer.given_up() {
                break Err(failure);
            }
            if let Err(e) = pause(failure, tries) {
                break Err(e);
            }
        };
        bar.finish_and_clear();
        self.transfer.end();
        if done.is_err() && part.length == 0 {
            part.remove();
        }
        done
    }

    /// One request, from where the part ends; bytes that came stay in the part whatever happens.
    fn attempt(&self, d: &Download, part: &mut Part, bar: &ProgressBar) -> Result<(), Failure> {
        if d.size.is_some_and(|size| part.length > size) {
            part.restart().map_err(Failure::Local)?;
        }
        bar.set_position(part.length);
        bar.reset_eta();
        if d.size == Some(part.length) && part.length > 0 {
            return Ok(());
        }
        let mut headers = vec![(header::ACCEPT_ENCODING, "identity".to_string())];
        if part.length > 0 {
            headers.push((header::RANGE, format!("bytes={}-", part.length)));
            if let Some(etag) = &part.etag {
                headers.push((header::IF_RANGE, etag.clone()));
            }
        }
        let response = self.get(d.url, d.token, &headers)?;
        let total = match response.status().as_u16() {
            200 => {
                part.restart().map_err(Failure::Local)?; // fresh, changed, or a server without ranges
                text(&response, header::CONTENT_LENGTH).and_then(|v| v.parse().ok())
            }
            206 => {
                let range = text(&response, header::CONTENT_RANGE).and_then(|v| content_range(&v));
                let same = part.etag.is_none() || strong_etag(&response).is_none_or(|e| Some(e) == part.etag);
                match range {
                    Some((start, total)) if start == part.length && same => total,
                    _ => {
                        part.restart().map_err(Failure::Local)?;
                        return Err(Failure::Broken("the file changed on the server meanwhile".into()));
                    }
                }
            }
            416 if part.length > 0 => {
                part.restart().map_err(Failure::Local)?;
                return Err(Failure::Broken("the file changed on the server meanwhile".into()));
            }
            _ => return Err(status(&response)),
        };
        if let (Some(total), Some(size)) = (total, d.size)
            && total != size
        {
            // Final: asking again would bring the same.
            return Err(Failure::Local(Error::source(format!(
                "cannot fetch {}: the server sends {total} bytes where {size} were announced; try again later",
                d.label
            ))));
        }
        part.set_etag(strong_etag(&response));
        let expected = d.size.or(total);
        if let Some(expected) = expected {
            let folder = d.to.parent().unwrap_or(Path::new("."));
            file::check_space(folder, expected - part.length.min(expected)).map_err(Failure::Local)?;
            bar.set_length(expected);
        }
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; 256 << 10];
        loop {
            let n = body.read(&mut buffer).map_err(|e| Failure::Broken(cut(&e)))?;
            if n == 0 {
                break;
            }
            if expected.is_some_and(|e| part.length + n as u64 > e) {
                part.restart().map_err(Failure::Local)?;
                return Err(Failure::Broken("the server sends more than it announced".into()));
            }
            part.append(&buffer[..n]).map_err(Failure::Local)?;
            bar.set_position(part.length);
            self.transfer.at(part.length);
            if self.transfer.given_up() {
                return Err(Failure::Local(Error::interrupted("given up; what came stays for another try")));
            }
        }
        match expected {
            Some(expected) if part.length < expected => Err(Failure::Broken(format!(
                "the connection broke off after {} of {}",
                terminal::bytes(part.length),
                terminal::bytes(expected)
            ))),
            _ => Ok(()),
        }
    }

    /// A GET that follows redirects. The token goes to the first host only, and only by TLS or to this machine.
    fn get(
        &self,
        url: &str,
        token: Option<&str>,
        headers: &[(header::HeaderName, String)],
    ) -> Result<Response<Body>, Failure> {
        let Some(agent) = &self.agent else { return Err(Failure::Local(Net::refusal("anything"))) };
        let first: Uri = url.parse().map_err(|_| Failure::Broken("the address is not valid".into()))?;
        let mut here = first.clone();
        for _ in 0..10 {
            let mut request = agent.get(&here);
            for (name, value) in headers {
                request = request.header(name, value);
            }
            if let Some(token) = token
                && origin(&here) == origin(&first)
                && (here.scheme_str() == Some("https") || loopback(&here))
            {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            let mut response = request.call().map_err(|e| unreachable(e, &here))?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            // Read to its end, a short body leaves the connection free for the next request.
            if response.body().content_length().is_some_and(|n| n <= 16 << 10) {
                let _ = response.body_mut().read_to_vec();
            }
            let target = text(&response, header::LOCATION).and_then(|l| resolve(&here, &l));
            here = target.ok_or_else(|| Failure::Broken("the server redirects to nowhere valid".into()))?;
        }
        Err(Failure::Broken("the server redirects in circles".into()))
    }
}

/// Waits before the next try, or gives the failure back when another try would not help.
fn pause(failure: Failure, tries: u32) -> Result<(), Failure> {
    let again = matches!(failure, Failure::Broken(_) | Failure::Status(408 | 429 | 500 | 502 | 503 | 504, _));
    if !again || tries >= TRIES {
        return Err(failure);
    }
    std::thread::sleep(Duration::from_millis(250 << tries));
    Ok(())
}

fn status(response: &Response<Body>) -> Failure {
    let reason = response.headers().get("x-error-code").and_then(|v| v.to_str().ok()).map(String::from);
    Failure::Status(response.status().as_u16(), reason)
}

fn text(response: &Response<Body>, name: header::HeaderName) -> Option<String> {
    response.headers().get(name).and_then(|v| v.to_str().ok()).map(String::from)
}

/// A weak tag (`W/"…"`) does not promise equal bytes (RFC 9110, 8.8.1).
fn strong_etag(response: &Response<Body>) -> Option<String> {
    text(response, header::ETAG).filter(|e| e.starts_with('"') && e.len() < 300)
}

/// `bytes 5-9/10` is (5, Some(10)); the total may be `*`.
fn content_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.trim().parse().ok()?, total.trim().parse().ok()))
}

/// Connections are not tried again: the next source should have its turn soon.
fn unreachable(e: ureq::Error, uri: &Uri) -> Failure {
    let host = uri.authority().map(|a| terminal::clean(a.host())).unwrap_or_default();
    match e {
        ureq::Error::Timeout(ureq::Timeout::RecvResponse | ureq::Timeout::PerRead) => {
            Failure::Broken(format!("{host} does not answer"))
        }
        ureq::Error::Timeout(_) => Failure::Unreachable(format!("{host} cannot be reached (no answer)")),
        ureq::Error::HostNotFound => {
            Failure::Unreachable(format!("{host} cannot be found: is there a network?"))
        }
        ureq::Error::Io(e) if interrupted_answer(&e) => {
            Failure::Broken(format!("{host} broke off ({})", plain(&e)))
        }
        ureq::Error::Io(e) => Failure::Unreachable(format!("{host} cannot be reached ({})", plain(&e))),
        ureq::Error::Protocol(e) => Failure::Broken(format!("{host} does not speak HTTP properly ({e})")),
        e if e.to_string().contains("certificate") => Failure::Unreachable(format!(
            "the certificate of {host} is not trusted here ({e}); if your network inspects connections, add its authority to the system's certificates or name its file in SSL_CERT_FILE"
        )),
        e => Failure::Unreachable(format!("{host} cannot be reached ({e})")),
    }
}

fn interrupted_answer(e: &std::io::Error) -> bool {
    use std::io::ErrorKind as K;
    matches!(e.kind(), K::ConnectionReset | K::ConnectionAborted | K::UnexpectedEof | K::BrokenPipe)
}

fn broken(e: ureq::Error) -> Failure {
    Failure::Broken(match e {
        ureq::Error::Io(e) => cut(&e),
        ureq::Error::BodyExceedsLimit(_) => "the answer is too long".into(),
        e => format!("the connection broke off ({e})"),
    })
}

fn cut(e: &std::io::Error) -> String {
    format!("the connection broke off ({})", plain(e))
}

fn origin(uri: &Uri) -> (Option<&str>, Option<String>, Option<u16>) {
    let port = uri.port_u16().or(match uri.scheme_str() {
        Some("https") => Some(443),
        Some("http") => Some(80),
        _ => None,
    });
    (uri.scheme_str(), uri.host().map(str::to_lowercase), port)
}

fn loopback(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Where a `Location` leads from `here` (RFC 3986, the forms in use); never from TLS to plain HTTP.
fn resolve(here: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next()?;
    let (scheme, authority) = (here.scheme_str()?, here.authority()?);
    let absolute = if location.contains("://") {
        location.to_string()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let folder = here.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}")
    };
    let uri: Uri = absolute.parse().ok()?;
    let allowed = match uri.scheme_str()? {
        "https" => true,
        "http" => scheme == "http",
        _ => false,
    };
    (allowed && uri.host().is_some_and(|h| !h.is_empty())).then_some(uri)
}

/// Whether a program listens at `address`, which is one of this machine's.
pub fn listens(address: std::net::SocketAddr) -> bool {
    std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_resolve_and_never_leave_tls() {
        let here: Uri = "https://a.example/x/y?z".parse().unwrap();
        let go = |l: &str| resolve(&here, l).map(|u| u.to_string());
        assert_eq!(go("https://b.example/f?s=1").as_deref(), Some("https://b.example/f?s=1"));
        assert_eq!(go("//b.example/f").as_deref(), Some("https://b.example/f"));
        assert_eq!(go("/f#part").as_deref(), Some("https://a.example/f"));
        assert_eq!(go("f").as_deref(), Some("https://a.example/x/f"));
        assert_eq!(go("http://a.example/f"), None);
        assert_eq!(go("file:///etc/passwd"), None);
    }

    #[test]
    fn origins_and_ranges() {
        let uri = |s: &str| s.parse::<Uri>().unwrap();
        assert_eq!(origin(&uri("https://A.example/x")), origin(&uri("https://a.example:443/y")));
        assert_ne!(origin(&uri("https://a.example")), origin(&uri("http://a.example")));
        assert_ne!(origin(&uri("http://127.0.0.1:1/")), origin(&uri("http://127.0.0.1:2/")));
        assert!(loopback(&uri("http://[::1]:80/")) && loopback(&uri("http://127.0.0.1/")));
        assert!(!loopback(&uri("http://127.0.0.1.example/")));
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        assert_eq!(content_range("bytes */10"), None);
    }
}
