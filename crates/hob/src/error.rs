//! The application's error: one sentence for a person, and what it means for the caller.

use std::fmt;
use std::path::Path;

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller may do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Something on this machine, or in the request: trying elsewhere does not help.
    Local,
    /// A source of files failed: another source may do.
    Source,
    /// The person pressed Ctrl-C.
    Interrupted,
}

/// One sentence that says what is wrong, with which file, and what to do.
#[derive(Debug)]
pub struct Error {
    message: String,
    kind: Kind,
}

impl Error {
    /// An error of this machine or of the request.
    pub fn new(message: impl Into<String>) -> Error {
        Error { message: message.into(), kind: Kind::Local }
    }

    /// An error of a place that files are fetched from.
    pub fn source(message: impl Into<String>) -> Error {
        Error { message: message.into(), kind: Kind::Source }
    }

    /// Ctrl-C.
    pub fn interrupted(message: impl Into<String>) -> Error {
        Error { message: message.into(), kind: Kind::Interrupted }
    }

    /// What the caller may do about it.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The exit code: 130 for Ctrl-C as shells have it, 1 for all else.
    pub fn exit_code(&self) -> u8 {
        if self.kind == Kind::Interrupted { 130 } else { 1 }
    }

    /// `cannot VERB PATH: REASON`, with the advice that the reason calls for.
    pub fn io(verb: &str, path: &Path, e: &std::io::Error) -> Error {
        use std::io::ErrorKind as K;
        let advice = match e.kind() {
            K::StorageFull | K::QuotaExceeded => "; free some space and run the same command again",
            K::PermissionDenied | K::ReadOnlyFilesystem => {
                "; make the folder writable, or choose another (HF_HOME, HOB_HOME or --to)"
            }
            _ => "",
        };
        Error::new(format!("cannot {verb} {}: {}{advice}", path.display(), plain(e)))
    }
}

/// The system's reason without the number that Rust adds to it.
pub fn plain(e: &std::io::Error) -> String {
    let text = e.to_string();
    match text.find(" (os error") {
        Some(at) => text[..at].to_lowercase(),
        None => text,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<hob_io::Error> for Error {
    fn from(e: hob_io::Error) -> Error {
        Error::new(e.to_string())
    }
}
