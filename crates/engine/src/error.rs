//! The one error of this crate.

use hob_cpu::exec::ExecError;
use hob_graph::GraphError;
use hob_models::ConfigError;

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a model cannot be used: one sentence for a person.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    /// the configuration is none that Hob runs
    #[error("{model} cannot be run: {source}")]
    Config { model: String, source: ConfigError },
    /// the checkpoint does not hold what its configuration asks for
    #[error("{model} cannot be run: {source}")]
    Graph { model: String, source: GraphError },
    /// what continues texts was asked of a model that does not
    #[error("{model} is an encoder, which makes vectors of texts and writes none; give it to hob embed")]
    Encoder { model: String },
    /// running failed for want of memory, or differs from the reference in check mode
    #[error("{0}")]
    Exec(#[from] ExecError),
    /// the text does not fit
    #[error(
        "the text has {tokens} tokens, {} more than the context of {context} holds; shorten it or ask for a \
         longer context with --ctx",
        tokens - context
    )]
    Context { tokens: usize, context: usize },
    /// a text is longer than the model reads at once
    #[error("the text has {tokens} tokens, {} more than this model reads at once ({most}); shorten it or cut it in parts", tokens - most)]
    Long { tokens: usize, most: usize },
    /// no memory for the keys and values of so long a context
    #[error(
        "a context of {context} tokens needs {} MiB of memory for keys and values, which the system does not grant; \
         ask for less with --ctx",
        bytes.div_ceil(1 << 20)
    )]
    Room { context: usize, bytes: u128 },
    /// sequences hold all of the cache
    #[error("the cache of keys and values is full: other conversations hold all of it")]
    Full,
    /// an id the model does not know
    #[error("the token id {id} is none of the model's {vocab}")]
    Token { id: u32, vocab: usize },
    /// nothing to continue
    #[error("there is no text to continue: the prompt is empty")]
    Empty,
    /// something is wrong with what was asked
    #[error("{0}")]
    Ask(String),
}
