//! Opening files: mapped when they hold weights, read within a limit when they are companions.

use crate::{Error, Result};
use memmap2::Mmap;
use std::{fs::File, io::Read, path::Path};

/// Maps a whole file, read-only.
pub(crate) fn map(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(|e| Error::read(path, e))?;
    let meta = file.metadata().map_err(|e| Error::read(path, e))?;
    if !meta.is_file() {
        return Err(Error::unsupported(path, "it is not a file; give the path of a model file"));
    }
    if meta.len() == 0 {
        return Err(Error::damaged(path, "it is empty"));
    }
    // SAFETY: mapped read-only. A program that truncates the file meanwhile would fault us; that is documented on
    // `Checkpoint`, and is the price of not copying models into memory.
    unsafe { Mmap::map(&file) }.map_err(|e| Error::read(path, e))
}

/// Gives back the memory of whole pages within `bytes`, which must be part of a mapped file.
pub(crate) fn forget(bytes: &[u8]) {
    // Where the file lies in huge pages, a neighbour that is read later would bring back all that shares one with it.
    #[cfg(target_os = "linux")]
    advise(bytes, libc::MADV_NOHUGEPAGE);
    #[cfg(unix)]
    advise(bytes, libc::MADV_DONTNEED);
    #[cfg(not(unix))]
    let _ = bytes;
}

/// Has whole pages within `bytes`, which must be part of a mapped file, read soon.
pub(crate) fn fetch(bytes: &[u8]) {
    #[cfg(unix)]
    advise(bytes, libc::MADV_WILLNEED);
    #[cfg(not(unix))]
    let _ = bytes;
}

/// Advises the system on the whole pages within `bytes` of a mapped file, by advice that changes no byte of them.
#[cfg(unix)]
fn advise(bytes: &[u8], advice: libc::c_int) {
    // SAFETY: asks for a number.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) }.max(4096) as usize;
    let from = (bytes.as_ptr() as usize).next_multiple_of(page);
    let to = (bytes.as_ptr() as usize + bytes.len()) / page * page;
    if from < to {
        // SAFETY: whole pages of a read-only mapping of a file: what is dropped is read again from the file. The advice may
        // be refused, which costs memory or time only.
        unsafe { libc::madvise(from as *mut libc::c_void, to - from, advice) };
    }
}

/// Reads a companion file of at most `limit` bytes; `None` when it does not exist.
pub(crate) fn read_small(path: &Path, limit: u64) -> Result<Option<String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::read(path, e)),
    };
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|e| Error::read(path, e))?;
    if bytes.len() as u64 > limit {
        return Err(Error::unsupported(
            path,
            format!("it is larger than the {limit} bytes such a file may have"),
        ));
    }
    String::from_utf8(bytes).map(Some).map_err(|_| Error::damaged(path, "it is not valid UTF-8"))
}

/// Parses the text of a JSON companion file; `path` is for errors.
pub(crate) fn parse_json(text: &str, path: &Path) -> Result<serde_json::Value> {
    serde_json::from_str(text).map_err(|e| Error::damaged(path, format!("it is not valid JSON ({e})")))
}
