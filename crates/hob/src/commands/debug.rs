//! `hob debug …`: what lies between a prompt and its answer.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::Global;
use super::show::local;
use crate::error::{Error, Result};

const EXAMPLES: &str = "Examples:
  hob debug tokenize starter --text \"Hello there\"
  hob debug logits starter --text \"Hello there\" --out logits.f32
  hob debug graph starter
  hob debug plan starter --ctx 4096";

/// Arguments of `hob debug`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct DebugArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Print the token ids of a text
    Tokenize {
        /// A path, or a name from hob list
        model: String,
        /// The text
        #[arg(long)]
        text: String,
        /// Read special tokens in the text as such, not as plain text
        #[arg(long)]
        special: bool,
    },
    /// Write the logits of every position of a text, and print its token ids
    Logits {
        /// A path, or a name from hob list
        model: String,
        /// The text
        #[arg(long)]
        text: String,
        /// The file to write: (tokens, vocabulary) little-endian f32
        #[arg(long)]
        out: PathBuf,
    },
    /// Print the graph, without reading weights
    Graph {
        /// A path, or a name from hob list
        model: String,
    },
    /// Print the plan, without reading weights
    Plan {
        /// A path, or a name from hob list
        model: String,
        /// Tokens of context to plan for
        #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..))]
        ctx: u32,
    },
}

/// Dispatches.
pub fn run(args: DebugArgs, _: &Global) -> Result<()> {
    match args.what {
        What::Tokenize { model, text, special } => tokenize(&local(&model)?.1, &text, special),
        What::Logits { model, text, out } => logits(&local(&model)?.1, &text, &out),
        What::Graph { model } => graph(&local(&model)?.1),
        What::Plan { model, ctx } => plan(&local(&model)?.1, ctx as usize),
    }
}

fn tokenize(path: &Path, _text: &str, _special: bool) -> Result<()> {
    Err(not_yet(path))
}

fn logits(path: &Path, _text: &str, _out: &Path) -> Result<()> {
    Err(not_yet(path))
}

fn graph(path: &Path) -> Result<()> {
    Err(not_yet(path))
}

fn plan(path: &Path, _ctx: usize) -> Result<()> {
    Err(not_yet(path))
}

fn not_yet(path: &Path) -> Error {
    Error::new(format!("this version of Hob cannot do that with {} yet", path.display()))
}
