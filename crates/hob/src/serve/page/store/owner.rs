//! Whose answers are being written: each run of Hob holds a lock on a file of its own beside the conversations, of which
//! the system lets go when the run ends, however it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// What follows the number in a file's name.
const END: &str = ".running";

/// This run.
pub struct Owner {
    /// its name among the owners of answers
    pub name: String,
    path: PathBuf,
    /// locked as long as this lives
    _file: File,
}

/// The file of the owner of that name, beside the conversations at `path`.
fn file(path: &Path, name: &str) -> PathBuf {
    crate::file::beside(path, &format!(".{name}{END}"))
}

/// Whether a run holds the file. Where the file system knows no locks, one is taken to be over.
fn held(path: &Path) -> bool {
    let file = OpenOptions::new().write(true).open(path);
    matches!(file.map(|file| file.try_lock()), Ok(Err(TryLockError::WouldBlock)))
}

impl Owner {
    /// Begins to own answers in the conversations at `path`. Nobody else may begin or look meanwhile: a file that is not
    /// locked yet would be taken for one left behind.
    pub fn begin(path: &Path) -> Result<Owner> {
        let name = format!("{:016x}", crate::commands::chance());
        let own = file(path, &name);
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let locked = options.open(&own).map_err(|e| Error::io("make", &own, &e))?;
        let _ = locked.try_lock(); // not every file system can
        Ok(Owner { name, path: own, _file: locked })
    }

    /// Whether the owner of that name still runs, in the conversations at `path`.
    pub fn runs(path: &Path, name: &str) -> bool {
        // What stands in the table may have been put there by anybody.
        name.bytes().all(|b| b.is_ascii_hexdigit()) && held(&file(path, name))
    }

    /// Removes files of runs that ended without doing so themselves.
    pub fn tidy(path: &Path) {
        let beginning = path.file_name().unwrap_or_default().to_string_lossy().into_owned() + ".";
        for entry in path.parent().and_then(|folder| folder.read_dir().ok()).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(&beginning) && name.ends_with(END) && !held(&entry.path()) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
