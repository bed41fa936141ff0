//! The unfinished file of a download: what came so far, its checksum in the making, and the version it is of.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::PathBuf;

use super::{Download, Failure};
use crate::error::{Error, Result};
use crate::file::{self, Checksum, Hasher};

/// The unfinished file of a download, held against other processes.
pub struct Part {
    path: PathBuf,
    file: File,
    /// Bytes so far.
    pub length: u64,
    hasher: Hasher,
    checksum: Option<Checksum>,
    /// The server's tag of the version that the bytes are of.
    pub etag: Option<String>,
}

impl Part {
    /// Opens or begins the part of a download, and locks it.
    pub fn open(d: &Download) -> Result<Part> {
        let path = file::beside(d.to, ".part");
        let write = |e| Error::io("write", &path, &e);
        let mut options = OpenOptions::new();
        let mut file =
            options.read(true).write(true).create(true).truncate(false).open(&path).map_err(write)?;
        match file.try_lock() {
            Err(fs::TryLockError::WouldBlock) => {
                return Err(Error::new(format!(
                    "another Hob is fetching {} at this moment; wait for it to finish",
                    d.label
                )));
            }
            // Some file systems have no locks; two writers are then caught by the checksum.
            Err(fs::TryLockError::Error(_)) | Ok(()) => {}
        }
        let mut hasher = Hasher::new(d.checksum);
        let length = file::hash_into(&mut file, &mut hasher).map_err(|e| Error::io("read", &path, &e))?;
        let etag = fs::read_to_string(file::beside(&path, ".etag")).ok();
        let mut part = Part { path, file, length, hasher, checksum: d.checksum.cloned(), etag };
        // Without a checksum or a tag nothing would tell whether the bytes still belong to the file.
        if part.length > 0 && part.checksum.is_none() && part.etag.is_none() {
            part.restart()?;
        }
        Ok(part)
    }

    /// Throws away what came so far.
    pub fn restart(&mut self) -> Result<()> {
        self.file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)))
            .map_err(|e| Error::io("write", &self.path, &e))?;
        self.length = 0;
        self.hasher = Hasher::new(self.checksum.as_ref());
        self.set_etag(None);
        Ok(())
    }

    /// Adds the next bytes.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        if let Err(e) = self.file.write_all(bytes) {
            // Bytes of a failed write would not be in the hasher: cut back to what is known.
            let _ = self.file.set_len(self.length);
            return Err(Error::io("write", &self.path, &e));
        }
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Notes the version's tag. Best effort: without the tag, a later run relies on the checksum alone.
    pub fn set_etag(&mut self, etag: Option<String>) {
        if etag == self.etag {
            return;
        }
        let path = file::beside(&self.path, ".etag");
        let _ = match &etag {
            Some(etag) => fs::write(&path, etag),
            None => fs::remove_file(&path),
        };
        self.etag = etag;
    }

    /// Compares the checksum; to be called once, when all bytes came.
    pub fn verify(&mut self, d: &Download) -> Result<(), Failure> {
        let hasher = std::mem::replace(&mut self.hasher, Hasher::None);
        let (Some(found), Some(expected)) = (hasher.finish(), &self.checksum) else { return Ok(()) };
        if found == expected.hex() {
            return Ok(());
        }
        Err(Failure::Local(Error::source(format!(
            "what came for {} is not the announced file (its checksum is {}… instead of {}…), so it was thrown away; try again later",
            d.label,
            &found[..12],
            expected.hex().get(..12).unwrap_or_default()
        ))))
    }

    /// Gives the file its name.
    pub fn publish(&mut self, d: &Download) -> Result<()> {
        file::publish(&self.file, &self.path, d.to)?;
        let _ = fs::remove_file(file::beside(&self.path, ".etag"));
        Ok(())
    }

    /// Deletes the part.
    pub fn remove(&mut self) {
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_file(file::beside(&self.path, ".etag"));
    }
}
