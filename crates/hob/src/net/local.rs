//! The server that the person runs on this machine, as `hob run`, `hob ps` and `hob stop` ask it.

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::error::{Error, Result};
use crate::interrupt::SurviveClosed;

/// How long a server on the same machine may take to accept.
const CONNECT: Duration = Duration::from_millis(500);

/// While nothing comes, the one who waits is asked so often whether to go on.
const TICK: Duration = Duration::from_millis(50);

/// The longest answer that is no stream.
const LIMIT: usize = 16 << 20;

/// Where to ask.
#[derive(Clone, Debug)]
pub struct Local {
    address: SocketAddr,
    token: Option<String>,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// nobody is there
    Gone,
    /// the server said no, in these words
    Refused(String),
    /// the answer broke off or made no sense
    Broken(String),
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        Error::new(match failure {
            Failure::Gone => "the server does not answer; hob serve starts one".into(),
            Failure::Refused(why) => why,
            Failure::Broken(why) => format!("the server's answer broke off: {why}"),
        })
    }
}

impl Local {
    /// A server at an address of this machine; `None` for any other: that would be a connection to elsewhere.
    pub fn new(address: SocketAddr, token: Option<String>) -> Option<Local> {
        address.ip().to_canonical().is_loopback().then_some(Local { address, token })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Asks for a JSON document, with another as the body of a POST.
    pub fn ask(&self, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        block(async {
            let response = self.send(path, body).await?;
            let (ok, status) = (response.status().is_success(), response.status().as_u16());
            let bytes = Limited::new(response.into_body(), LIMIT).collect().await;
            let bytes = bytes.map_err(|e| Failure::Broken(e.to_string()))?.to_bytes();
            let value = serde_json::from_slice::<Value>(&bytes);
            match ok {
                true => value.map_err(|_| Failure::Broken("it is no JSON".into())),
                false => Err(refused(status, value.ok().as_ref())),
            }
        })
    }

    /// Asks for a stream of events and hands on the data of each, or `None` while nothing comes; until `Break`, which
    /// closes the connection, so that the server stops as well.
    pub fn stream(
        &self,
        path: &str,
        body: &Value,
        on: &mut dyn FnMut(Option<&str>) -> ControlFlow<()>,
    ) -> Result<(), Failure> {
        block(async {
            let mut waiting = std::pin::pin!(self.send(path, Some(body)));
            let mut response = loop {
                match timeout(TICK, &mut waiting).await {
                    Ok(response) => break response?,
                    Err(_) if on(None).is_break() => return Ok(()),
                    Err(_) => {}
                }
            };
            if !response.status().is_success() {
                let status = response.status().as_u16();
                let bytes = Limited::new(response.into_body(), LIMIT).collect().await.map(|b| b.to_bytes());
                let value = bytes.ok().and_then(|b| serde_json::from_slice::<Value>(&b).ok());
                return Err(refused(status, value.as_ref()));
            }
            let mut left = Vec::new();
            loop {
                let frame = match timeout(TICK, response.body_mut().frame()).await {
                    Ok(Some(frame)) => frame.map_err(|e| Failure::Broken(e.to_string()))?,
                    Ok(None) => return Ok(()),
                    Err(_) if on(None).is_break() => return Ok(()),
                    Err(_) => continue,
                };
                left.extend_from_slice(frame.data_ref().map_or(&[], |b| b));
                while let Some(end) = left.iter().position(|b| *b == b'\n') {
                    let line: Vec<u8> = left.drain(..=end).collect();
                    let line = String::from_utf8_lossy(&line);
                    let Some(data) = line.trim_end().strip_prefix("data: ") else { continue };
                    if data == "[DONE]" || on(Some(data)).is_break() {
                        return Ok(());
                    }
                }
                if left.len() > LIMIT {
                    return Err(Failure::Broken("a line of it does not end".into()));
                }
            }
        })
    }

    async fn send(&self, path: &str, body: Option<&Value>) -> Result<Response<Incoming>, Failure> {
        // Until the request is written; what comes then is only read.
        let _survive = SurviveClosed::new();
        let stream = timeout(CONNECT, TcpStream::connect(self.address)).await;
        let Ok(Ok(stream)) = stream else { return Err(Failure::Gone) };
        let broken = |e: hyper::Error| Failure::Broken(e.to_string());
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // It ends with the answer, or when that is dropped.
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(if body.is_some() { Method::POST } else { Method::GET })
            .uri(path)
            .header(header::HOST, self.address.to_string())
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let body = Full::new(Bytes::from(body.map(Value::to_string).unwrap_or_default()));
        let request = request.body(body).map_err(|e| Failure::Broken(e.to_string()))?;
        sender.send_request(request).await.map_err(broken)
    }
}

/// What an error says, in any of the server's dialects.
fn refused(status: u16, body: Option<&Value>) -> Failure {
    let error = body.map(|b| &b["error"]);
    let said = error.and_then(|e| e["message"].as_str().or(e.as_str()));
    Failure::Refused(said.map_or(format!("the server refused (status {status})"), String::from))
}

/// Runs what waits, on this thread.
fn block<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|e| Failure::Broken(e.to_string()))?.block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_asked() {
        let at = |text: &str| Local::new(text.parse().unwrap(), None).is_some();
        assert!(at("127.0.0.1:1") && at("[::1]:1") && at("[::ffff:127.0.0.1]:1"));
        assert!(!at("192.168.0.1:1") && !at("8.8.8.8:1"));
        let gone = Local::new("127.0.0.1:1".parse().unwrap(), None).unwrap().ask("/", None);
        assert!(matches!(gone, Err(Failure::Gone)), "{gone:?}");
    }
}
