//! The one error of this crate.

use std::path::{Path, PathBuf};

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a file could not be read, written or used: one sentence for a person, naming the file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The operating system refused to write.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file contradicts itself or its format: truncated, corrupt or hostile.
    #[error("{} is damaged: {what}; fetch it again or convert it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The file may be sound, but this version cannot use it.
    #[error("{} cannot be used: {what}", path.display())]
    Unsupported {
        /// The file or folder.
        path: PathBuf,
        /// What is not supported, and what to do instead.
        what: String,
    },
    /// Only the beginning of a file was given, and its header does not end within it: give at least `needed` bytes.
    #[error("the header of {} goes on past the bytes given: at least {needed} are needed", path.display())]
    NeedMore {
        /// The file.
        path: PathBuf,
        /// A lower bound of the bytes needed; more may be asked for then.
        needed: u64,
        /// An estimate of the bytes needed, between `needed` and the file's length.
        likely: u64,
    },
}

impl Error {
    /// A [`Error::Read`]; for `map_err(|e| Error::read(path, e))`.
    pub fn read(path: &Path, source: std::io::Error) -> Error {
        Error::Read { path: path.into(), source }
    }

    /// A [`Error::Write`].
    pub fn write(path: &Path, source: std::io::Error) -> Error {
        Error::Write { path: path.into(), source }
    }

    /// A [`Error::Damaged`]; `what` is a clause without a full stop.
    pub fn damaged(path: &Path, what: impl Into<String>) -> Error {
        Error::Damaged { path: path.into(), what: what.into() }
    }

    /// A [`Error::Unsupported`]; `what` says what is missing and what to do.
    pub fn unsupported(path: &Path, what: impl Into<String>) -> Error {
        Error::Unsupported { path: path.into(), what: what.into() }
    }
}
