//! Files written so that nothing half-written ever bears its final name, checksums, and room on disk.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use sha2::Digest;

use crate::error::{Error, Result};
use crate::terminal;

/// Room left free beyond what a download needs.
const MARGIN: u64 = 64 << 20;

/// The expected checksum of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// SHA-256 of the bytes, in lower-case hexadecimal.
    Sha256(String),
    /// Git's name of a blob: SHA-1 of `blob LENGTH\0` and the bytes, in lower-case hexadecimal; and that length.
    Git(String, u64),
}

impl Checksum {
    /// The hexadecimal digits.
    pub fn hex(&self) -> &str {
        match self {
            Checksum::Sha256(hex) | Checksum::Git(hex, _) => hex,
        }
    }
}

/// Computes a [`Checksum`] as the bytes come.
pub enum Hasher {
    /// See [`Checksum::Sha256`].
    Sha256(sha2::Sha256),
    /// See [`Checksum::Git`].
    Git(sha1::Sha1),
    /// Nothing to check.
    None,
}

impl Hasher {
    /// A hasher of the kind that `expected` asks for.
    pub fn new(expected: Option<&Checksum>) -> Hasher {
        match expected {
            Some(Checksum::Sha256(_)) => Hasher::Sha256(sha2::Sha256::new()),
            Some(Checksum::Git(_, length)) => {
                Hasher::Git(sha1::Sha1::new_with_prefix(format!("blob {length}\0")))
            }
            None => Hasher::None,
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(h) => h.update(bytes),
            Hasher::Git(h) => h.update(bytes),
            Hasher::None => {}
        }
    }

    /// The digits, or nothing for [`Hasher::None`].
    pub fn finish(self) -> Option<String> {
        match self {
            Hasher::Sha256(h) => Some(hex(&h.finalize())),
            Hasher::Git(h) => Some(hex(&h.finalize())),
            Hasher::None => None,
        }
    }
}

/// Bytes as lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Reads a file through a hasher, and gives its number of bytes.
pub fn hash_into(file: &mut impl Read, hasher: &mut Hasher) -> std::io::Result<u64> {
    let mut buffer = vec![0; 1 << 20];
    let mut total = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(total),
            n => {
                hasher.update(&buffer[..n]);
                total += n as u64;
            }
        }
    }
}

/// The SHA-256 of a file.
pub fn sha256(path: &Path) -> Result<String> {
    let read = |e| Error::io("read", path, &e);
    let mut hasher = Hasher::Sha256(sha2::Sha256::new());
    hash_into(&mut File::open(path).map_err(read)?, &mut hasher).map_err(read)?;
    Ok(hasher.finish().unwrap_or_default())
}

/// Makes a folder and all above it.
pub fn make_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|e| Error::io("make the folder", path, &e))
}

/// Gives a finished temporary file its final name: its bytes reach the disk first, then the name does.
pub fn publish(file: &File, temporary: &Path, to: &Path) -> Result<()> {
    file.sync_all().map_err(|e| Error::io("write", temporary, &e))?;
    fs::rename(temporary, to).map_err(|e| Error::io("write", to, &e))?;
    sync_dir(to);
    Ok(())
}

/// Best effort: not every file system can flush a folder.
fn sync_dir(path: &Path) {
    if cfg!(unix) {
        let _ = path.parent().and_then(|d| File::open(d).ok()).map(|d| d.sync_all());
    }
}

/// Writes a small file by way of a temporary one beside it.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    // Threads of a server may write the same file at the same time.
    let temporary = beside(path, &format!(".{:016x}.tmp", crate::commands::chance()));
    let done = File::create(&temporary)
        .and_then(|mut f| f.write_all(bytes).map(|()| f))
        .map_err(|e| Error::io("write", path, &e))
        .and_then(|f| publish(&f, &temporary, path));
    if done.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    done
}

/// `path` with `suffix` added to its file name.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(suffix);
    path.with_file_name(name)
}

/// Checks that the folder's disk has room for `need` bytes and a margin. Where the system does not tell, it passes.
pub fn check_space(folder: &Path, need: u64) -> Result<()> {
    match free_space(folder) {
        Some(free) if free < need.saturating_add(MARGIN) => Err(Error::new(format!(
            "not enough disk space: {} are needed and {} are free in {}; free some space, or choose another folder (HF_HOME, HOB_HOME or --to)",
            terminal::bytes(need),
            terminal::bytes(free),
            folder.display()
        ))),
        _ => Ok(()),
    }
}

/// Bytes that an ordinary user may still write on the folder's disk.
#[cfg(unix)]
#[allow(clippy::unnecessary_cast)] // the fields' types differ between systems
fn free_space(folder: &Path) -> Option<u64> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(folder.as_os_str().as_bytes()).ok()?;
    let mut stat = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: `path` ends with a zero byte and `stat` is room for one statvfs, which the call fills when it gives 0.
    let stat = unsafe {
        if libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) != 0 {
            return None;
        }
        stat.assume_init()
    };
    (stat.f_bavail as u64).checked_mul(stat.f_frsize as u64)
}

#[cfg(not(unix))]
fn free_space(_: &Path) -> Option<u64> {
    None
}

/// Where `part`, which is not empty, stands first in `text`.
pub fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    let mut at = 0;
    // The first byte is looked for alone, which is most of the work.
    while let Some(next) = text[at..].iter().position(|b| *b == part[0]) {
        at += next;
        if text[at..].starts_with(part) {
            return Some(at);
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_sha256sum_and_git() {
        let mut h = Hasher::new(Some(&Checksum::Sha256(String::new())));
        h.update(b"abc");
        let sha = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(h.finish().as_deref(), Some(sha));
        // `printf abc | git hash-object --stdin`
        let mut h = Hasher::new(Some(&Checksum::Git(String::new(), 3)));
        h.update(b"a");
        h.update(b"bc");
        assert_eq!(h.finish().as_deref(), Some("f2ba8f84ab5c1bce84a7b441cb1959cfc7093b7f"));
    }

    #[test]
    fn writing_replaces_and_leaves_nothing_beside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write(&path, b"1").unwrap();
        write(&path, b"22").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"22");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn room_is_checked() {
        let dir = tempfile::tempdir().unwrap();
        assert!(check_space(dir.path(), 1).is_ok());
        let e = check_space(dir.path(), u64::MAX / 2).unwrap_err().to_string();
        assert!(e.starts_with("not enough disk space: 9.2 EB are needed"), "{e}");
    }
}
