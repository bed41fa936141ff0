//! Who may ask: the Host and Origin that a browser sends, and the token. The same on every address.
//!
//! A page that a person has open can make the browser send requests here. DNS rebinding (a name of the attacker that
//! suddenly means this machine) shows in Host, all else in Origin; both are checked, whatever the server is bound to.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header, uri::Authority};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};

use super::refusal::{Kind, Refusal, Result};

/// Paths that need no token: they tell nothing.
const OPEN: [&str; 1] = ["/health"];

/// Who may ask.
pub struct Guard {
    /// the address that the server is bound to
    pub bound: IpAddr,
    /// further names that Host may be
    pub hosts: Vec<String>,
    /// origins whose pages may ask, as [`origin`] writes them
    pub origins: Vec<String>,
    /// what every request must show
    pub token: Option<String>,
}

/// An origin as browsers write it, `https://name:port`; the errors are for a person.
pub fn origin(text: &str) -> Result<String, String> {
    let wrong = || format!("'{text}' is no origin; write http://HOST or https://HOST:PORT");
    let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
    let rest = rest.strip_suffix('/').unwrap_or(rest).to_lowercase();
    let known = rest.parse::<Authority>().is_ok_and(|a| !rest.contains(['@', '*']) && !a.host().is_empty());
    let good = known && !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    good.then(|| format!("{}://{rest}", scheme.to_lowercase())).ok_or_else(wrong)
}

impl Guard {
    /// Whether the request may go on. `Ok` holds the answer to a preflight, or nothing.
    pub fn check<B>(&self, request: &Request<B>) -> Result<Option<Response>> {
        let headers = request.headers();
        let host = self.host(headers)?;
        if let Some(authority) = request.uri().authority()
            && !self.may_be(authority.host())
        {
            return Err(foreign(authority.host()));
        }
        let allowed = self.origin(headers, &host)?;
        if request.method() == Method::OPTIONS && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
        {
            return match allowed {
                Some(_) => Ok(Some(preflight(headers))),
                None => {
                    Err(Refusal::new(Kind::Forbidden, "a preflight without an allowed Origin is refused"))
                }
            };
        }
        let path = request.uri().path();
        if !OPEN.contains(&path) && !super::page::is_open(path) {
            self.token(headers)?;
        }
        Ok(None)
    }

    /// Adds what lets an allowed page of another origin read the answer. No other origin is ever named.
    pub fn share(&self, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
        if !self.origins.is_empty() {
            headers.append(header::VARY, HeaderValue::from_static("Origin"));
        }
        let Some(origin) =
            origin.filter(|o| o.to_str().is_ok_and(|o| self.origins.contains(&o.to_lowercase())))
        else {
            return;
        };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    }

    fn host(&self, headers: &HeaderMap) -> Result<String> {
        let mut all = headers.get_all(header::HOST).iter();
        let (Some(host), None) = (all.next(), all.next()) else {
            return Err(Refusal::new(Kind::Forbidden, "a request must have one Host header"));
        };
        let host = host.to_str().unwrap_or_default().to_lowercase();
        let name = host.parse::<Authority>().ok().filter(|_| !host.contains('@'));
        match name.filter(|a| self.may_be(a.host())) {
            Some(_) => Ok(host),
            None => Err(foreign(&host)),
        }
    }

    /// Whether a request may be for that name. An address is none that DNS could turn to this machine, so on a server
    /// that listens on all of them each will do.
    fn may_be(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name);
        if name.eq_ignore_ascii_case("localhost") || self.hosts.iter().any(|h| h.eq_ignore_ascii_case(name)) {
            return true;
        }
        let bare = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(name);
        let address = bare.parse::<IpAddr>().map(|a| a.to_canonical());
        address
            .is_ok_and(|a| a.is_loopback() || a == self.bound.to_canonical() || self.bound.is_unspecified())
    }

    /// The origin, if there is one and it is another's that is allowed.
    fn origin<'h>(&self, headers: &'h HeaderMap, host: &str) -> Result<Option<&'h HeaderValue>> {
        let Some(value) = headers.get(header::ORIGIN) else { return Ok(None) };
        let origin = value.to_str().unwrap_or_default().to_lowercase();
        if self.origins.contains(&origin) {
            return Ok(Some(value));
        }
        match origin == format!("http://{host}") || origin == format!("https://{host}") {
            true => Ok(None),
            false => Err(Refusal::new(
                Kind::Forbidden,
                "pages of this origin may not ask; hob serve --allow-origin URL allows it",
            )),
        }
    }

    fn token(&self, headers: &HeaderMap) -> Result<()> {
        let Some(token) = &self.token else { return Ok(()) };
        let text = |name: HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
        let bearer = text(header::AUTHORIZATION).and_then(|v| {
            let (scheme, rest) = v.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| rest.trim().to_string())
        });
        // A1111's clients know no other way to show one than as a password.
        let password = text(header::AUTHORIZATION).and_then(|v| {
            let (scheme, rest) = v.split_once(' ')?;
            let decoded =
                BASE64_STANDARD.decode(rest.trim()).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
            Some(String::from_utf8(decoded).ok()?.split_once(':')?.1.to_string())
        });
        let key = || text(HeaderName::from_static("x-api-key")).map(String::from);
        match bearer.or(password).or_else(key).as_deref() {
            Some(shown) if same(shown, token) => Ok(()),
            Some(_) => Err(Refusal::new(Kind::Unauthorized, "the token is not this server's")),
            None => Err(Refusal::new(
                Kind::Unauthorized,
                "this server wants its token, as `Authorization: Bearer TOKEN` or `x-api-key: TOKEN`",
            )),
        }
    }
}

fn foreign(host: &str) -> Refusal {
    let shown: String = crate::terminal::clean(host).chars().take(100).collect();
    let message =
        format!("this server does not answer for the host '{shown}'; hob serve --allow-host NAME allows it");
    Refusal::new(Kind::Forbidden, message)
}

/// Compares in a time that tells nothing of where they differ: digests, all their bytes.
fn same(a: &str, b: &str) -> bool {
    let (a, b) = (Sha256::digest(a), Sha256::digest(b));
    a.iter().zip(&b).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

/// What an allowed page may send.
fn preflight(headers: &HeaderMap) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let out = response.headers_mut();
    let methods = HeaderValue::from_static("GET, POST, DELETE, HEAD");
    out.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    let usual = HeaderValue::from_static("authorization, content-type, x-api-key");
    let asked = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    out.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.unwrap_or(usual));
    out.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(bound: &str) -> Guard {
        Guard {
            bound: bound.parse().unwrap(),
            hosts: vec!["box.lan".into()],
            origins: vec![origin("https://app.example/").unwrap()],
            token: None,
        }
    }

    fn ask(guard: &Guard, method: &str, headers: &[(&str, &str)]) -> Result<u16, Kind> {
        let mut request = Request::builder().method(method).uri("/v1/models");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = guard.check(&request.body(()).unwrap());
        answer.map(|r| r.map_or(0, |r| r.status().as_u16())).map_err(|r| r.kind)
    }

    #[test]
    fn only_hosts_of_this_machine_are_answered() {
        let local = guard("127.0.0.1");
        for good in [
            "localhost",
            "LOCALHOST:8421",
            "127.0.0.1:1",
            "[::1]:8421",
            "127.9.9.9",
            "box.lan:80",
            "localhost.",
        ] {
            assert_eq!(ask(&local, "GET", &[("host", good)]), Ok(0), "{good}");
        }
        let bad = [
            "evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.7",
            "localhost@evil.example",
            "",
            "[::1",
            "a b",
        ];
        for bad in bad {
            assert_eq!(ask(&local, "GET", &[("host", bad)]), Err(Kind::Forbidden), "{bad}");
        }
        assert_eq!(ask(&local, "GET", &[]), Err(Kind::Forbidden));
        assert_eq!(ask(&local, "GET", &[("host", "localhost"), ("host", "evil")]), Err(Kind::Forbidden));
        // On all addresses each will do, but no name.
        let open = guard("0.0.0.0");
        assert_eq!(ask(&open, "GET", &[("host", "10.0.0.7:8421")]), Ok(0));
        assert_eq!(ask(&open, "GET", &[("host", "evil.example")]), Err(Kind::Forbidden));
        assert_eq!(ask(&guard("10.0.0.7"), "GET", &[("host", "10.0.0.8")]), Err(Kind::Forbidden));
    }

    #[test]
    fn only_allowed_origins_may_ask() {
        let g = guard("127.0.0.1");
        let with = |origin| ask(&g, "POST", &[("host", "localhost:8421"), ("origin", origin)]);
        assert_eq!(with("http://localhost:8421"), Ok(0));
        assert_eq!(with("https://app.example"), Ok(0));
        for bad in ["http://localhost:3000", "null", "http://app.example", "https://app.example.evil", ""] {
            assert_eq!(with(bad), Err(Kind::Forbidden), "{bad}");
        }
        let preflight = |origin| {
            let headers =
                [("host", "localhost"), ("origin", origin), ("access-control-request-method", "POST")];
            ask(&g, "OPTIONS", &headers)
        };
        assert_eq!(preflight("https://app.example"), Ok(204));
        assert_eq!(preflight("http://localhost"), Err(Kind::Forbidden));
        let mut out = HeaderMap::new();
        g.share(Some(&HeaderValue::from_static("https://evil.example")), &mut out);
        assert!(!out.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
        g.share(Some(&HeaderValue::from_static("https://app.example")), &mut out);
        assert_eq!(out[header::ACCESS_CONTROL_ALLOW_ORIGIN], "https://app.example");
    }

    #[test]
    fn a_token_is_asked_for_everywhere_but_for_health() {
        let g = Guard { token: Some("secret".into()), ..guard("127.0.0.1") };
        let with = |name, value| ask(&g, "GET", &[("host", "localhost"), (name, value)]);
        assert_eq!(with("authorization", "Bearer secret"), Ok(0));
        assert_eq!(with("authorization", "bearer  secret"), Ok(0));
        assert_eq!(with("x-api-key", "secret"), Ok(0));
        assert_eq!(with("authorization", "Basic dTpzZWNyZXQ="), Ok(0)); // u:secret
        assert_eq!(with("authorization", "Basic c2VjcmV0Onh4"), Err(Kind::Unauthorized)); // secret:xx
        for bad in ["Bearer secre", "Bearer secrets", "secret", "Basic secret", "Bearer"] {
            assert_eq!(with("authorization", bad), Err(Kind::Unauthorized), "{bad}");
        }
        let health = Request::builder().uri("/health").header("host", "localhost").body(()).unwrap();
        assert!(g.check(&health).is_ok());
    }

    #[test]
    fn origins_are_written_as_browsers_do() {
        assert_eq!(origin("HTTP://Host:3000/"), Ok("http://host:3000".into()));
        for bad in ["*", "host", "http://", "http://a/b", "http://u@h", "https://*.example"] {
            assert!(origin(bad).is_err(), "{bad}");
        }
    }
}
