/// One sentence for a person: what is wrong with a form, or why an answer cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The form asked for is wrong, contradictory or not supported: whoever asked must change it.
    #[error("{0}")]
    Form(String),
    /// The answer cannot go on: a token that does not fit, or a state too costly to follow.
    #[error("{0}")]
    Answer(String),
}

/// What this crate's functions give.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn form(text: impl Into<String>) -> Error {
        Error::Form(text.into())
    }

    pub(crate) fn answer(text: impl Into<String>) -> Error {
        Error::Answer(text.into())
    }
}

/// llguidance's words without what it adds for its makers: states, grammars, traces of panics, several lines.
pub(crate) fn words(error: &str) -> String {
    let cut = ["\n<state>", "\n<non-verbose/>", "\n<backtrace>"];
    let end = cut.iter().filter_map(|c| error.find(c)).min().unwrap_or(error.len());
    let line = error[..end].split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(300) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}
