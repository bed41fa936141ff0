//! `hob debug …`: what lies between a prompt and its answer.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand};
use hob_engine::{CHUNK, DType, KvTypes, Model, Op, Options, Precision, Session, memory};

use super::bench::Test;
use super::show::local;
use super::{Global, ceilings, profile};
use crate::error::{Error, Result};
use crate::model::{Words, options};

const EXAMPLES: &str = "Examples:
  hob debug tokenize starter --text \"Hello there\"
  hob debug logits starter --text \"Hello there\" --out logits.f32
  hob debug graph starter
  hob debug plan starter --ctx 4096
  hob debug profile starter pp128 tg32@512
  hob debug ceilings";

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
        /// Also the token that begins a text, where the model has one
        #[arg(long)]
        bos: bool,
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
        /// Read special tokens in the text as such, not as plain text
        #[arg(long)]
        special: bool,
        /// With the integer kernels that hob run uses; otherwise all in f32
        #[arg(long)]
        fast: bool,
        /// How keys and values are kept: f32, f16, q8_0 or q4_0, or k=TYPE,v=TYPE [default: f16 with --fast, else f32]
        #[arg(long, value_name = "TYPE")]
        kv: Option<KvTypes>,
    },
    /// Print the graph, without reading weights
    Graph {
        /// A path, or a name from hob list
        model: String,
        /// Tokens that the graph takes at once
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
        tokens: u32,
    },
    /// Print what this machine allows at most: bytes read and products per second
    Ceilings {
        /// Number of threads [default: one for each core]
        #[arg(long, value_parser = super::threads)]
        threads: Option<std::num::NonZeroUsize>,
        /// Print a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Print where the time goes: by op, with bytes and products per second, and how near these are to the machine's
    /// limits
    ///
    /// Bytes are weights, keys and values, held against the memory's speed; what caches keep can be read faster than
    /// that. Products of linear layers with quantized weights are held against the rate of 8-bit products, others
    /// against that of f32. The nearest limit is the one an op comes closest to.
    Profile {
        /// A path, or a name from hob list
        model: String,
        /// What to run: ppN, tgN or tgN@D, as hob bench has them
        #[arg(default_values_t = [Test::Prompt(128), Test::Generate { tokens: 32, depth: 0, sequences: 1 }])]
        tests: Vec<Test>,
        /// Number of threads [default: one for each core]
        #[arg(long, value_parser = super::threads)]
        threads: Option<std::num::NonZeroUsize>,
        /// Print one JSON object for each test
        #[arg(long)]
        json: bool,
    },
    /// Print the plan, without reading weights
    Plan {
        /// A path, or a name from hob list
        model: String,
        /// Tokens of context to plan for
        #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=1 << 30))]
        ctx: u32,
        /// How keys and values are kept: f32, f16, q8_0 or q4_0, or k=TYPE,v=TYPE [default: f16]
        #[arg(long, value_name = "TYPE")]
        kv: Option<KvTypes>,
    },
}

/// Dispatches.
pub fn run(args: DebugArgs, _: &Global) -> Result<()> {
    match args.what {
        What::Tokenize { model, text, special, bos } => {
            let words = Words::open(&local(&model)?.1)?;
            let ids = match bos {
                true => words.tokenizer.encode_with_bos(&text, special),
                false => words.tokenizer.encode(&text, special),
            };
            print_ids(&ids);
            Ok(())
        }
        What::Logits { model, text, out, special, fast, kv } => {
            logits(&local(&model)?.1, &text, &out, special, fast, kv)
        }
        What::Graph { model, tokens } => {
            print!("{}", engine(&local(&model)?.1, Precision::Fast)?.graph(tokens as usize, 1)?);
            Ok(())
        }
        What::Ceilings { threads, json } => ceilings::run(threads, json),
        What::Profile { model, tests, threads, json } => {
            profile::run(&local(&model)?.1, &tests, threads, json)
        }
        What::Plan { model, ctx, kv } => plan(&local(&model)?.1, ctx as usize, kv.unwrap_or_default()),
    }
}

fn print_ids(ids: &[u32]) {
    println!("{}", ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" "));
}

/// The model at `path`, its weights unread.
fn engine(path: &Path, precision: Precision) -> Result<Arc<Model>> {
    let checkpoint = Arc::new(hob_io::Checkpoint::open(path)?);
    Ok(Arc::new(Model::new(checkpoint, Options { precision, ..options(None) })?))
}

fn logits(path: &Path, text: &str, out: &Path, special: bool, fast: bool, kv: Option<KvTypes>) -> Result<()> {
    let words = Words::open(path)?;
    let ids = words.tokenizer.encode_with_bos(text, special);
    if ids.is_empty() {
        return Err(Error::new("the text has no tokens; give some with --text"));
    }
    let (precision, usual) = match fast {
        true => (Precision::Fast, KvTypes::default()),
        false => (Precision::Exact, KvTypes::both(DType::F32)),
    };
    let options = Options { precision, kv: kv.unwrap_or(usual), ..options(None) };
    let model = Arc::new(Model::new(words.checkpoint.clone(), options)?);
    let mut session = Session::new(&model, ids.len())?;
    // To a name of its own first: a failure leaves no half of a file.
    let part = out.with_extension("part");
    let written = (|| {
        let mut file = BufWriter::new(File::create(&part).map_err(|e| Error::io("write", &part, &e))?);
        for chunk in ids.chunks(LOGITS_AT_ONCE) {
            for x in session.feed_all(chunk)? {
                file.write_all(&x.to_le_bytes()).map_err(|e| Error::io("write", &part, &e))?;
            }
        }
        file.flush().map_err(|e| Error::io("write", &part, &e))?;
        std::fs::rename(&part, out).map_err(|e| Error::io("write", out, &e))
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    written?;
    print_ids(&ids);
    Ok(())
}

/// Tokens whose logits are held at once: a vocabulary of 262,144 has a megabyte of them a token.
const LOGITS_AT_ONCE: usize = 64;

fn plan(path: &Path, ctx: usize, kv: KvTypes) -> Result<()> {
    let process = memory::process();
    let words = Words::open(path)?;
    let model = Model::new(words.checkpoint.clone(), Options { kv, ..options(None) })?;
    let tokens = ctx.min(CHUNK);
    let (graph, plan) = model.plan(tokens, 1)?;
    println!("reading {tokens} tokens at once:\n\n{}", plan.table(&graph));
    let (graph, step) = model.plan(1, 1)?;
    println!("generating a token: {} steps, arena {} bytes\n", step.steps.len(), step.arena);
    println!("{} layers keep keys and values; with {ctx} tokens of context:\n", graph.states.len());
    let footprint = model.footprint(ctx, 1)?.beside(process, words.tokenizer.heap_bytes());
    print!("{}", footprint.at(ctx));
    if graph.nodes.iter().any(|n| matches!(n.op, Op::Experts(_))) {
        println!(
            "\nThe weights are those of all experts; with --mapped, those that are never chosen take no memory."
        );
    }
    Ok(())
}
