//! A server for a test, and a client that asks it: ureq, and a bare socket for what no client sends.

use crate::common::{Run, World};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A server that runs until it is dropped.
pub struct Serving {
    pub child: Child,
    /// `127.0.0.1:PORT`
    pub address: String,
    agent: ureq::Agent,
    stderr: Option<JoinHandle<String>>,
}

/// What came back.
pub struct Reply {
    pub status: u16,
    pub headers: ureq::http::HeaderMap,
    pub text: String,
}

impl Reply {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    /// Asserts an error of that status in OpenAI's shape, and gives its message.
    #[track_caller]
    pub fn fails(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.text);
        let error = &self.json()["error"];
        assert!(
            error["type"].is_string() && error.get("param").is_some() && error.get("code").is_some(),
            "{error}"
        );
        error["message"].as_str().unwrap().to_string()
    }

    /// Asserts success.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text);
        self.json()
    }
}

impl Serving {
    /// `hob serve --port 0 ARGS` in that world.
    pub fn start(world: &World, args: &[&str]) -> Serving {
        let mut all = vec!["serve", "--port=0"];
        all.extend(args);
        Serving::spawn(&mut world.command(&all))
    }

    pub fn spawn(command: &mut Command) -> Serving {
        let mut child = command.spawn().unwrap();
        let mut errors = child.stderr.take().unwrap();
        let stderr = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = errors.read_to_string(&mut text);
            text
        });
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        while !line.starts_with("hob serves at http://") {
            line.clear();
            if out.read_line(&mut line).unwrap() == 0 {
                let _ = child.wait();
                panic!("the server ended: {}", stderr.join().unwrap());
            }
        }
        let address = line.trim().rsplit('/').next().unwrap().to_string();
        let config = ureq::Agent::config_builder().http_status_as_error(false).proxy(None);
        let agent = config.timeout_global(Some(Duration::from_secs(120))).build().new_agent();
        Serving { child, address, agent, stderr: Some(stderr) }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Reply {
        reply(self.agent.get(self.url(path)).call().unwrap())
    }

    /// As a browser asks.
    #[track_caller]
    pub fn browse(&self, path: &str) -> Reply {
        reply(self.agent.get(self.url(path)).header("accept", "text/html,*/*").call().unwrap())
    }

    #[track_caller]
    pub fn delete(&self, path: &str) -> Reply {
        reply(self.agent.delete(self.url(path)).call().unwrap())
    }

    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.send(path, &body.to_string(), &[])
    }

    #[track_caller]
    pub fn send(&self, path: &str, body: &str, headers: &[(&str, &str)]) -> Reply {
        let request =
            headers.iter().fold(self.agent.post(self.url(path)), |r, (name, value)| r.header(*name, *value));
        reply(request.content_type("application/json").send(body).unwrap())
    }

    /// A body that is no JSON.
    #[track_caller]
    pub fn send_bytes(&self, path: &str, body: &[u8], kind: &str) -> Reply {
        reply(self.agent.post(self.url(path)).content_type(kind).send(body).unwrap())
    }

    /// The bytes at a path.
    #[track_caller]
    pub fn bytes(&self, path: &str) -> Vec<u8> {
        self.agent.get(self.url(path)).call().unwrap().into_body().read_to_vec().unwrap()
    }

    #[track_caller]
    pub fn send_get(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        let request =
            headers.iter().fold(self.agent.get(self.url(path)), |r, (name, value)| r.header(*name, *value));
        reply(request.call().unwrap())
    }

    /// The events of a stream, `[DONE]` as a string.
    #[track_caller]
    pub fn stream(&self, path: &str, body: &Value) -> Vec<Value> {
        let reply = self.post(path, body);
        assert_eq!(reply.status, 200, "{}", reply.text);
        assert_eq!(reply.headers["content-type"], "text/event-stream");
        let data = reply.text.lines().filter_map(|line| line.strip_prefix("data: "));
        data.map(|line| serde_json::from_str(line).unwrap_or_else(|_| line.into())).collect()
    }

    /// A connection on which that was sent.
    pub fn open(&self, text: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        stream
    }

    /// All that comes back for that, up to the end of the connection.
    pub fn raw(&self, text: &str) -> String {
        let mut out = Vec::new();
        let _ = self.open(text).read_to_end(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    /// A connection that streams an answer without end, of which a little was read.
    pub fn streaming(&self, body: &Value) -> TcpStream {
        let body = body.to_string();
        let head = format!("POST /v1/chat/completions HTTP/1.1\r\nHost: {}\r\n", self.address);
        let mut stream = self.open(&format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()));
        let mut seen = Vec::new();
        let mut buffer = [0; 512];
        while seen.windows(6).filter(|w| w == b"data: ").count() < 3 {
            let n = stream.read(&mut buffer).unwrap();
            assert!(n > 0, "it ended: {}", String::from_utf8_lossy(&seen));
            seen.extend(&buffer[..n]);
        }
        stream
    }

    /// A number of `/metrics`.
    #[track_caller]
    pub fn metric(&self, name: &str) -> f64 {
        let page = self.get("/metrics").text;
        let line = page.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {page}")).parse().unwrap()
    }

    /// Waits until a number of `/metrics` is that, and gives how long it took.
    #[track_caller]
    pub fn until(&self, name: &str, value: f64) -> Duration {
        let start = Instant::now();
        while self.metric(name) != value {
            assert!(start.elapsed() < Duration::from_secs(60), "{name} is {}", self.metric(name));
            std::thread::sleep(Duration::from_millis(5));
        }
        start.elapsed()
    }

    /// Asks it to end, and gives how it did.
    #[cfg(unix)]
    pub fn end(mut self) -> Run {
        // SAFETY: a plain call with the number of a child that was not waited for yet.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGTERM) };
        let code = self.child.wait().unwrap().code();
        Run { code, stdout: String::new(), stderr: self.stderr.take().unwrap().join().unwrap() }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let ended = self.child.try_wait();
        let _ = self.child.kill();
        let _ = self.child.wait();
        // What the server said helps to see why a test failed.
        if let (true, Some(stderr)) = (std::thread::panicking(), self.stderr.take()) {
            eprintln!("the server: {ended:?}\n{}", stderr.join().unwrap_or_default());
        }
    }
}

fn reply(response: ureq::http::Response<ureq::Body>) -> Reply {
    let (head, mut body) = response.into_parts();
    let text = body.read_to_string().unwrap();
    Reply { status: head.status.as_u16(), headers: head.headers, text }
}

/// Puts a model among those of the world.
pub fn install(world: &World, path: &Path) {
    let folder = world.path("hob/models");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::copy(path, folder.join(path.file_name().unwrap())).unwrap();
}
