//! `hob embed MODEL TEXT…`: the vector of a text, or how near several are to each other.

use std::io::{BufRead, IsTerminal, Read};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use hob_engine::embed::cosine;
use hob_engine::{Embedder, Model, Pooling};
use serde_json::json;

use super::{Global, show};
use crate::error::{Error, Result, plain};
use crate::model::{Words, options};
use crate::terminal;

const EXAMPLES: &str = "Examples:
  hob embed minilm \"a cat\" \"a kitten\" \"a truck\"      how near they are, from -1 to 1
  hob embed minilm --json \"a cat\" | jq '.texts[0].vector | length'
  hob embed minilm --json < lines.txt               a vector for each line
  hob embed qwen3-embedding.gguf \"a cat\"            models that continue texts make vectors too

hob pull minilm fetches a small model for English (91 MB).";

/// The longest input read from a pipe.
const MAX_INPUT: u64 = 256 << 20;

/// Texts that a table takes.
const TABLE: usize = 16;

/// Characters of a text shown beside its row.
const SHOWN: usize = 40;

/// Arguments of `hob embed`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct EmbedArgs {
    /// A path, or a name from hob list
    model: String,
    /// The texts; without any, lines of stdin
    #[arg(value_name = "TEXT")]
    texts: Vec<String>,
    /// How the vector is made of what the model says of each token [default: as the model states]
    #[arg(long, value_name = "HOW")]
    pooling: Option<How>,
    /// Leave vectors as long as they come; else their length is 1, unless the model states otherwise
    #[arg(long)]
    raw: bool,
    /// Number of threads [default: one for each core]
    #[arg(long, value_name = "N", value_parser = super::threads)]
    threads: Option<std::num::NonZeroUsize>,
    /// Print JSON: the vectors with their texts
    #[arg(long)]
    json: bool,
}

/// As [`Pooling`], for the command line.
#[derive(Clone, Copy, ValueEnum)]
enum How {
    /// the mean over all tokens
    Mean,
    /// the first token
    Cls,
    /// the last token
    Last,
}

/// Makes vectors of the texts, and prints them or how near they are.
pub fn run(args: EmbedArgs, _: &Global) -> Result<()> {
    let texts = if args.texts.is_empty() { lines()? } else { args.texts.clone() };
    if !args.json && texts.len() > TABLE {
        return Err(Error::new(format!(
            "{} texts make too wide a table ({TABLE} fit); ask for --json",
            texts.len()
        )));
    }
    let (_, path) = show::local(&args.model)?;
    let words = Words::open(&path)?;
    let model = Model::new(words.checkpoint.clone(), options(args.threads.map(|n| n.get())))?;
    let mut embedder = Embedder::new(&Arc::new(model))?;
    if let Some(how) = args.pooling {
        embedder = embedder.pooled(match how {
            How::Mean => Pooling::Mean,
            How::Cls => Pooling::Cls,
            How::Last => Pooling::Last,
        });
    }
    if args.raw {
        embedder = embedder.normalized(false);
    }
    let ids: Vec<Vec<u32>> = texts.iter().map(|text| words.tokenizer.encode_text(text)).collect();
    let vectors = embedder.embed(&ids.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
    if args.json {
        let pooling = match embedder.pooling() {
            Pooling::Mean => "mean",
            Pooling::Cls => "cls",
            Pooling::Last => "last",
        };
        let entry = |((text, ids), vector): ((&String, &Vec<u32>), &Vec<f32>)| json!({"text": text, "tokens": ids.len(), "vector": vector});
        let entries: Vec<_> = texts.iter().zip(&ids).zip(&vectors).map(entry).collect();
        let dimensions = vectors.first().map_or(0, Vec::len);
        println!(
            "{}",
            json!({"model": args.model, "pooling": pooling, "dimensions": dimensions, "texts": entries})
        );
    } else if let [one] = &vectors[..] {
        println!("{}", json!(one));
    } else {
        print!("{}", table(&texts, &vectors));
    }
    Ok(())
}

/// The lines of stdin, but for empty ones.
fn lines() -> Result<Vec<String>> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return Err(Error::new("there is no text: give TEXT, or pipe lines in"));
    }
    let mut input = stdin.lock().take(MAX_INPUT + 1);
    let mut texts = Vec::new();
    for line in input.by_ref().lines() {
        let line = line.map_err(|e| match e.kind() {
            std::io::ErrorKind::InvalidData => {
                Error::new("the texts from stdin are not UTF-8 text; convert them first")
            }
            _ => Error::new(format!("cannot read the texts from stdin: {}", plain(&e))),
        })?;
        if !line.trim().is_empty() {
            texts.push(line);
        }
    }
    if input.limit() == 0 {
        return Err(Error::new(format!(
            "the texts from stdin are longer than {}",
            terminal::bytes(MAX_INPUT)
        )));
    }
    if texts.is_empty() {
        return Err(Error::new("there is no text: the input is empty"));
    }
    Ok(texts)
}

/// Cosines of each text to each.
fn table(texts: &[String], vectors: &[Vec<f32>]) -> String {
    let numbers: Vec<String> = (1..=texts.len()).map(|n| n.to_string()).collect();
    let header: Vec<&str> = ["", "TEXT"].into_iter().chain(numbers.iter().map(String::as_str)).collect();
    let row = |i: usize| {
        let text = terminal::clean(&texts[i]);
        let short = match text.char_indices().nth(SHOWN) {
            Some((at, _)) => format!("{}…", &text[..at]),
            None => text,
        };
        let cosines = vectors.iter().map(|other| format!("{:.3}", cosine(&vectors[i], other)));
        [numbers[i].clone(), short].into_iter().chain(cosines).collect()
    };
    let rows: Vec<Vec<String>> = (0..texts.len()).map(row).collect();
    terminal::table(&header, &rows, &(2..header.len()).collect::<Vec<_>>())
}
