//! What the tests of the binary share: running it in a world of its own, and a small HTTP server on loopback.
#![allow(dead_code)] // each test file uses its part

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha2::Digest;

/// A home folder for one test. Nothing of the real environment reaches the program but PATH.
pub struct World {
    pub dir: tempfile::TempDir,
    env: BTreeMap<String, String>,
}

impl World {
    pub fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
        let env = BTreeMap::from([
            ("PATH".to_string(), std::env::var("PATH").unwrap_or_default()),
            ("HOME".to_string(), path("home")),
            ("HF_HOME".to_string(), path("hf")),
            ("HOB_HOME".to_string(), path("hob")),
            ("OLLAMA_MODELS".to_string(), path("ollama")),
            // Nobody listens there: a test that forgets its server fails, and nothing leaves this machine.
            ("HF_ENDPOINT".to_string(), "http://127.0.0.1:9".to_string()),
        ]);
        std::fs::create_dir(dir.path().join("home")).unwrap();
        World { dir, env }
    }

    pub fn env(mut self, name: &str, value: &str) -> World {
        self.env.insert(name.into(), value.into());
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hob"));
        command.args(args).env_clear().envs(&self.env).current_dir(self.dir.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn run(&self, args: &[&str]) -> Run {
        self.command(args).output().unwrap().into()
    }

    /// The cache's folder of `owner/repo`.
    pub fn repo(&self) -> PathBuf {
        self.path("hf/hub/models--owner--repo")
    }
}

/// How a run ended.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Run {
    fn from(o: Output) -> Run {
        let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
        Run { code: o.status.code(), stdout: text(o.stdout), stderr: text(o.stderr) }
    }
}

impl Run {
    /// Asserts success and gives stdout without its last line end.
    #[track_caller]
    pub fn ok(&self) -> &str {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout.trim_end()
    }

    /// Asserts a failure with one sentence that holds `why`, and no panic.
    #[track_caller]
    pub fn fails(&self, why: &str) {
        assert_eq!(self.code, Some(1), "{self:?}");
        let last = self.stderr.lines().find(|l| l.contains(why));
        assert!(last.is_some_and(|l| l.starts_with("hob: ")), "no {why:?} in {self:?}");
        assert!(!self.stderr.contains("bug in Hob"), "{self:?}");
    }
}

/// The paths of all files below a folder, sorted, relative to it.
pub fn files(root: &Path) -> Vec<String> {
    fn go(dir: &Path, root: &Path, out: &mut Vec<String>) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => go(&entry.path(), root, out),
                false => out.push(entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_string()),
            }
        }
    }
    let mut out = Vec::new();
    go(root, root, &mut out);
    out.sort();
    out
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub fn sha256(bytes: &[u8]) -> String {
    hex(&sha2::Sha256::digest(bytes))
}

/// Git's name of a file with these bytes.
pub fn git_oid(bytes: &[u8]) -> String {
    let mut h = sha1::Sha1::new();
    sha1::Digest::update(&mut h, format!("blob {}\0", bytes.len()));
    sha1::Digest::update(&mut h, bytes);
    hex(&sha1::Digest::finalize(h))
}

/// Bytes that do not repeat (xorshift).
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut x = seed * 2 + 1;
    let step = |_| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 32) as u8
    };
    (0..len).map(step).collect()
}

/// A request that came.
#[derive(Clone, Debug)]
pub struct Request {
    pub path: String,
    pub headers: BTreeMap<String, String>,
}

/// What the server says.
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// Say nothing of the length; the end of the connection is the end of the body.
    pub no_length: bool,
    /// Break off after that many bytes of the body.
    pub cut: Option<usize>,
    /// Stay silent with the connection open after `cut` bytes, in place of breaking off.
    pub stall: bool,
    /// Wait before the headers.
    pub delay: Duration,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Reply {
        Reply {
            status,
            headers: Vec::new(),
            body: body.into(),
            no_length: false,
            cut: None,
            stall: false,
            delay: Duration::ZERO,
        }
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Reply {
        self.headers.push((name, value.into()));
        self
    }

    pub fn redirect(to: impl Into<String>) -> Reply {
        Reply::new(302, "").header("Location", to)
    }

    /// The file, or the range that is asked for, as RFC 9110 has it.
    pub fn file(request: &Request, bytes: &[u8], etag: &str) -> Reply {
        let range = request.headers.get("range").and_then(|r| r.strip_prefix("bytes=")?.split_once('-'));
        let start = range.and_then(|(start, _)| start.parse::<usize>().ok());
        let end = range.and_then(|(_, end)| Some(end.parse::<usize>().ok()? + 1));
        let end = end.unwrap_or(bytes.len()).min(bytes.len());
        let current = request.headers.get("if-range").is_none_or(|e| e == etag);
        let reply = match start.filter(|_| current) {
            Some(start) if start >= bytes.len() => {
                Reply::new(416, "").header("Content-Range", format!("bytes */{}", bytes.len()))
            }
            Some(start) => Reply::new(206, &bytes[start..end])
                .header("Content-Range", format!("bytes {start}-{}/{}", end - 1, bytes.len())),
            None => Reply::new(200, bytes),
        };
        reply.header("ETag", etag)
    }
}

type Handler = dyn Fn(&Request, usize) -> Reply + Send + Sync;

/// An HTTP/1.1 server on loopback; each connection serves one request. It stops when dropped.
pub struct Server {
    pub url: String,
    requests: Arc<Mutex<Vec<Request>>>,
    served: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Server {
    /// `handler` gets the request and how many came before.
    pub fn start(handler: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let served = Arc::new(AtomicUsize::new(0));
        let (log, over, sent, handler) = (requests.clone(), stop.clone(), served.clone(), Arc::new(handler));
        std::thread::spawn(move || {
            let busy = Arc::new(AtomicUsize::new(0));
            for stream in listener.incoming().flatten() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                assert!(busy.fetch_add(1, Ordering::SeqCst) < 64, "too many connections");
                let (log, over, sent, busy, handler) =
                    (log.clone(), over.clone(), sent.clone(), busy.clone(), handler.clone());
                std::thread::spawn(move || {
                    let _ = serve(stream, &log, &over, &sent, handler.as_ref());
                    busy.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Server { url, requests, served, stop }
    }

    /// Everything that was asked so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// Bytes of bodies that were handed to the system so far; a client that broke off may not have read them all.
    pub fn served(&self) -> usize {
        self.served.load(Ordering::SeqCst)
    }

    /// The values of a header in all requests, `-` where it was not sent.
    pub fn sent(&self, header: &str) -> Vec<String> {
        let value = |r: &Request| r.headers.get(header).cloned().unwrap_or("-".into());
        self.requests().iter().map(value).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.url.trim_start_matches("http://"));
    }
}

fn serve(
    stream: TcpStream,
    log: &Mutex<Vec<Request>>,
    over: &AtomicBool,
    served: &AtomicUsize,
    handler: &Handler,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    let mut reader = BufReader::new(stream.try_clone()?.take(64 << 10));
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_string();
    let mut headers = BTreeMap::new();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.insert(name.to_lowercase(), value.to_string()),
            None => break,
        };
    }
    let request = Request { path, headers };
    let nth = {
        let mut log = log.lock().unwrap();
        log.push(request.clone());
        log.len() - 1
    };
    let reply = handler(&request, nth);
    std::thread::sleep(reply.delay);
    let mut stream = stream;
    let mut head = format!("HTTP/1.1 {} Word\r\nConnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !reply.no_length {
        head += &format!("Content-Length: {}\r\n", reply.body.len());
    }
    stream.write_all((head + "\r\n").as_bytes())?;
    for chunk in reply.body[..reply.cut.unwrap_or(reply.body.len())].chunks(16 << 10) {
        stream.write_all(chunk)?;
        served.fetch_add(chunk.len(), Ordering::SeqCst);
    }
    stream.flush()?;
    // At most half a minute, should a test fail to end its client.
    for _ in 0..600 {
        if !reply.stall || over.load(Ordering::SeqCst) {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// The hub's answer about a repository; names ending in `.gguf` or `.safetensors` are large files (LFS).
pub fn listing(files: &[(&str, &[u8])]) -> serde_json::Value {
    let sibling = |(name, bytes): &(&str, &[u8])| {
        let mut entry = serde_json::json!({"rfilename": name, "size": bytes.len(), "blobId": git_oid(bytes)});
        if name.ends_with(".gguf") || name.ends_with(".safetensors") {
            entry["lfs"] =
                serde_json::json!({"sha256": sha256(bytes), "size": bytes.len(), "pointerSize": 130});
        }
        entry
    };
    serde_json::json!({
        "id": "owner/repo",
        "sha": COMMIT,
        "cardData": {"license": "mit"},
        "siblings": files.iter().map(sibling).collect::<Vec<_>>(),
    })
}

/// A hub with one repository whose files lie on another server, as the real one's large files do.
pub struct Hub {
    pub api: Server,
    pub cdn: Server,
}

impl Hub {
    /// The CDN answers as `cdn` says, given the request, its number, and the file's bytes.
    pub fn with(
        files: &[(&str, &[u8])],
        cdn: impl Fn(&Request, usize, &[u8]) -> Reply + Send + Sync + 'static,
    ) -> Hub {
        let owned: Vec<(String, Vec<u8>)> = files.iter().map(|(n, b)| (n.to_string(), b.to_vec())).collect();
        let listing = listing(files).to_string();
        let cdn = Server::start(move |request, nth| {
            let name = request.path.trim_start_matches('/');
            match owned.iter().find(|(n, _)| n == name) {
                Some((_, bytes)) => cdn(request, nth, bytes),
                None => Reply::new(404, ""),
            }
        });
        let base = cdn.url.clone();
        let api = Server::start(move |request, _| {
            if request.path == "/api/models/owner/repo/revision/main?blobs=true" {
                return Reply::new(200, listing.clone()).header("Content-Type", "application/json");
            }
            let prefix = format!("/owner/repo/resolve/{COMMIT}/");
            match request.path.strip_prefix(&prefix) {
                Some(file) => Reply::redirect(format!("{base}/{file}")),
                None => Reply::new(404, "{}"),
            }
        });
        Hub { api, cdn }
    }

    /// A CDN that behaves.
    pub fn new(files: &[(&str, &[u8])]) -> Hub {
        Hub::with(files, |request, _, bytes| Reply::file(request, bytes, "\"v1\""))
    }

    /// A world whose hub this is.
    pub fn world(&self) -> World {
        World::new().env("HF_ENDPOINT", &self.api.url)
    }
}

/// A small GGUF file with that name inside and a tensor of `n` floats.
pub fn gguf(name: &str, n: usize) -> Vec<u8> {
    let mut w = hob_io::gguf::Writer::new();
    w.str("general.architecture", "llama").str("general.name", name).str("general.license", "mit");
    w.u32("llama.block_count", 1).u32("llama.context_length", 2048).u32("general.file_type", 0);
    w.tensor("output_norm.weight", hob_dtype::DType::F32, &[n]).unwrap();
    let mut file = Vec::new();
    let mut data = w.begin(&mut file).unwrap();
    data.tensor(&vec![0; 4 * n]).unwrap();
    data.finish().unwrap();
    file
}
