//! The note that a running server leaves for other commands: where it listens, and its token. Only the user may read it.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::{file, net, places};

/// A server that runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Running {
    /// its process
    pub pid: u32,
    /// where it can be reached from this machine
    pub address: SocketAddr,
    /// what it asks for, if anything
    pub token: Option<String>,
}

/// The file, removed when this is dropped.
pub struct Note(PathBuf);

impl Note {
    /// Leaves the note, unless that of another server that still runs is there; then gives that one.
    pub fn leave(running: &Running) -> Result<Result<Note, Running>> {
        let path = places::server()?;
        if let Some(other) = read(&path).filter(alive) {
            return Ok(Err(other));
        }
        file::make_dir(path.parent().unwrap_or(Path::new(".")))?;
        let temporary = file::beside(&path, &format!(".{}.tmp", running.pid));
        let text = serde_json::to_vec(running).map_err(|e| Error::new(e.to_string()))?;
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let _ = std::fs::remove_file(&temporary); // of a process of that number that did not end well
        let written = options.open(&temporary).and_then(|mut f| f.write_all(&text).map(|()| f));
        let written = written.map_err(|e| Error::io("write", &path, &e));
        match written.and_then(|f| file::publish(&f, &temporary, &path)) {
            Ok(()) => Ok(Ok(Note(path))),
            Err(e) => {
                let _ = std::fs::remove_file(&temporary);
                Err(e)
            }
        }
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        if read(&self.0).is_some_and(|r| r.pid == std::process::id()) {
            let _ = std::fs::remove_file(&self.0);
        }
    }
}

/// The server that runs on this machine as this user, if one does.
pub fn running() -> Option<Running> {
    read(&places::server().ok()?).filter(alive)
}

fn read(path: &Path) -> Option<Running> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// Whether the process is still there. A number may have passed on to another; who connects finds that out.
fn alive(running: &Running) -> bool {
    if cfg!(target_os = "linux") {
        return Path::new(&format!("/proc/{}", running.pid)).exists();
    }
    net::listens(running.address)
}
