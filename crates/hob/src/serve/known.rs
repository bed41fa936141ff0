//! The names that clients know models by. They are compared, and never used as paths.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use super::preset::Made;
use crate::store;

/// A model that could be loaded, or is.
#[derive(Clone, Debug)]
pub struct Known {
    /// what a client calls it
    pub name: String,
    /// what else it is called: with its place, or by the catalogue
    pub others: Vec<String>,
    /// what to open; of a preset, its own file ([`Known::weights`])
    pub path: PathBuf,
    /// length of its files
    pub bytes: u64,
    /// when its file was written
    pub modified: SystemTime,
    /// what it is, where it is a preset
    pub preset: Option<Arc<Made>>,
}

impl Known {
    /// A model found on this machine.
    pub fn of(model: &store::Model) -> Known {
        let others = [Some(model.qualified.clone()), model.alias.map(String::from)];
        let mut known = Known::at(model.name.clone(), model.path.clone());
        known.others = others.into_iter().flatten().filter(|n| *n != model.name).collect();
        known.bytes = model.bytes;
        known
    }

    /// The model at a path that the person who started the server gave.
    pub fn at(name: String, path: PathBuf) -> Known {
        let about = std::fs::metadata(&path).ok();
        let modified = about.as_ref().and_then(|m| m.modified().ok()).unwrap_or(SystemTime::UNIX_EPOCH);
        let bytes = about.filter(|m| m.is_file()).map_or(0, |m| m.len());
        Known { name, others: Vec::new(), path, bytes, modified, preset: None }
    }

    /// Whether `name` means it.
    pub fn is(&self, name: &str) -> bool {
        same(&self.name, name) || self.others.iter().any(|own| same(own, name))
    }
}

/// Whether two names are the same: in any case, and with the `:latest` that Ollama's clients add.
pub fn same(a: &str, b: &str) -> bool {
    let bare = |name: &str| name.strip_suffix(":latest").map(str::to_string);
    a.eq_ignore_ascii_case(b)
        || bare(a).is_some_and(|bare| bare.eq_ignore_ascii_case(b))
        || bare(b).is_some_and(|bare| bare.eq_ignore_ascii_case(a))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_and_not_opened() {
        let known = Known {
            others: vec!["hf:o/Tiny:x.gguf".into()],
            ..Known::at("Tiny".into(), "/x/tiny.gguf".into())
        };
        assert!(known.is("tiny") && known.is("Tiny:latest") && known.is("hf:o/tiny:X.gguf"));
        assert!(!known.is("/x/tiny.gguf") && !known.is("tin") && !known.is(""));
    }
}
