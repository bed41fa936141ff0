//! Why a part is not there, for the sentence that says so.

use std::path::PathBuf;

/// Why a part is missing.
#[derive(Clone, Debug)]
pub(super) enum Missing {
    /// `model_index.json` lists it, but there is no such folder.
    Folder(PathBuf),
    /// It was looked for in these folders; a file there holds one that does not fit, or could not be read: which, and why.
    Nowhere { looked: Vec<PathBuf>, unfit: Option<String> },
    /// Several files hold one that fits.
    Several(Vec<PathBuf>),
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list =
            |paths: &[PathBuf]| paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ");
        match self {
            Missing::Folder(path) => {
                write!(f, "its model_index.json lists it, but there is no {}", path.display())
            }
            Missing::Several(files) => write!(f, "several files hold one ({}); say which", list(files)),
            Missing::Nowhere { looked, .. } if looked.is_empty() => f.write_str("it is not in the file"),
            Missing::Nowhere { looked, unfit } => {
                write!(f, "neither the file nor any other in {} holds one that fits", list(looked))?;
                unfit.as_ref().map_or(Ok(()), |why| write!(f, " ({why})"))
            }
        }
    }
}
