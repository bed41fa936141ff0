//! `hob bench MODEL TEST…`: tokens per second of prompt and generation; of picture models seconds of their parts.

mod pictures;

use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use hob_engine::{CHUNK, Group, KvTypes, Model, Options, memory};
use serde_json::json;

use super::Global;
use crate::error::{Error, Result};
use crate::model::{Words, options};

const EXAMPLES: &str = "Examples:
  hob bench starter                       pp128 and tg64
  hob bench starter pp512 tg32@512 --reps 3
  hob bench starter tg32@512x8            eight conversations that advance together
  hob bench sdxl.gguf step@1024 vae@1024 text

A test is ppN (N prompt tokens at once), tgN (N tokens one by one) or tgN@D (the same after D
tokens of context); xS after it has S sequences do so together. Each line says: hob, the test,
tokens per second (the median; of S sequences all together). Of a picture model: step@512 or
step@512x768 (a step of the denoiser, with guidance where the family has it), vae@512 (latents
to pixels), text (the text encoders), in seconds; sd15-, sd2-, sdxl- or flux- before a test is
checked against the model.";

/// Arguments of `hob bench`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct BenchArgs {
    /// A path, or a name from hob list
    pub model: String,
    /// What to measure: ppN, tgN, tgN@D or tgN@DxS [default: pp128 tg64]; of picture models step@S, vae@S, text
    #[arg(value_name = "TEST")]
    pub tests: Vec<Wanted>,
    /// Number of threads [default: one for each core]
    #[arg(long, value_parser = super::threads)]
    pub threads: Option<std::num::NonZeroUsize>,
    /// How often a prompt is measured, or a test of a picture model [default: 5, or 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub reps: Option<u32>,
    /// How keys and values are kept: f32, f16, q8_0 or q4_0, or k=TYPE,v=TYPE [default: f16]
    #[arg(long, value_name = "TYPE")]
    pub kv: Option<KvTypes>,
    /// Measure weights as the file has them, not as laid out for speed
    #[arg(long)]
    pub mapped: bool,
    /// Print one JSON object for each test
    #[arg(long)]
    pub json: bool,
}

/// One measurement that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Of a language model.
    Tokens(Test),
    /// Of a picture model.
    Picture(pictures::Test),
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Wanted, String> {
        let (tokens, picture) = (text.parse().map(Wanted::Tokens), text.parse().map(Wanted::Picture));
        tokens.or(picture).map_err(|_| {
            format!("{text} is not a test; write pp128, tg64, tg32@512 or tg32@512x4; of picture models step@512, vae@512 or text")
        })
    }
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Wanted::Tokens(test) => test.fmt(f),
            Wanted::Picture(test) => test.fmt(f),
        }
    }
}

/// One measurement of a language model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// That many prompt tokens at once.
    Prompt(usize),
    /// Tokens one by one, after some context.
    Generate {
        /// How many.
        tokens: usize,
        /// How many tokens lie before.
        depth: usize,
        /// How many sequences do so together.
        sequences: usize,
    },
}

impl FromStr for Test {
    type Err = String;

    fn from_str(text: &str) -> Result<Test, String> {
        let wrong = || format!("{text} is not a test; write pp128, tg64, tg32@512 or tg32@512x4");
        let number = |s: &str| s.parse().ok().filter(|n| (1..=1 << 24).contains(n)).ok_or_else(wrong);
        if let Some(n) = text.strip_prefix("pp") {
            return Ok(Test::Prompt(number(n)?));
        }
        let rest = text.strip_prefix("tg").ok_or_else(wrong)?;
        let (rest, sequences) = match rest.split_once('x') {
            Some((rest, n)) => (rest, number(n)?),
            None => (rest, 1),
        };
        if sequences > CHUNK {
            return Err(format!("{text} is not a test; at most {CHUNK} sequences advance together"));
        }
        let (tokens, depth) = match rest.split_once('@') {
            Some((tokens, depth)) => (tokens, number(depth)?),
            None => (rest, 0),
        };
        Ok(Test::Generate { tokens: number(tokens)?, depth, sequences })
    }
}

impl std::fmt::Display for Test {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Test::Prompt(n) => write!(f, "pp{n}"),
            Test::Generate { tokens, depth, sequences } => {
                write!(f, "tg{tokens}")?;
                let at = if *depth > 0 { format!("@{depth}") } else { String::new() };
                let by = if *sequences > 1 { format!("x{sequences}") } else { String::new() };
                write!(f, "{at}{by}")
            }
        }
    }
}

/// A loaded model as the bench drives it.
pub trait Timed {
    /// Empties the context, for so many sequences.
    fn clear(&mut self, sequences: usize) -> Result<()>;
    /// Runs that many tokens at once, after what is in the context of each sequence.
    fn prompt(&mut self, tokens: usize) -> Result<()>;
    /// Runs one token more of each.
    fn step(&mut self) -> Result<()>;
}

/// The context that the tests need.
pub fn depth(tests: &[Test]) -> usize {
    let one = |t: &Test| match t {
        Test::Prompt(n) => *n,
        Test::Generate { tokens, depth, .. } => tokens + depth,
    };
    tests.iter().map(one).max().unwrap_or(0).max(WARM_UP)
}

/// Tokens run before the first measurement, so that pages and caches are warm.
const WARM_UP: usize = 8;
/// How often a prompt is measured when nobody says.
const REPS: u32 = 5;

impl BenchArgs {
    /// Prints a test's figure; `unit` is its name in JSON.
    fn tell(&self, test: &str, unit: &str, figure: f64) {
        match self.json {
            true => println!(
                "{}",
                json!({"engine": "hob", "test": test, unit: figure, "peak_bytes": memory::peak()})
            ),
            false => println!("hob {test} {figure:.2}"),
        }
    }
}

/// Runs the tests and prints a line for each.
pub fn measure(model: &mut dyn Timed, tests: &[Test], args: &BenchArgs) -> Result<()> {
    model.clear(1)?;
    model.prompt(WARM_UP)?;
    for test in tests {
        let mut seconds = Vec::new(); // per token
        let mut time = |n: usize, f: &mut dyn FnMut() -> Result<()>| -> Result<()> {
            let start = Instant::now();
            f()?;
            seconds.push(start.elapsed().as_secs_f64() / n as f64);
            Ok(())
        };
        match *test {
            Test::Prompt(n) => {
                for _ in 0..args.reps.unwrap_or(REPS) {
                    model.clear(1)?;
                    time(n, &mut || model.prompt(n))?;
                }
            }
            Test::Generate { tokens, depth, sequences } => {
                model.clear(sequences)?;
                if depth > 0 {
                    model.prompt(depth)?;
                }
                for _ in 0..tokens {
                    time(sequences, &mut || model.step())?;
                }
            }
        }
        seconds.sort_by(f64::total_cmp);
        args.tell(&test.to_string(), "tps", 1.0 / seconds[seconds.len() / 2]);
    }
    Ok(())
}

/// Loads the model and measures it.
pub fn run(args: BenchArgs, _: &Global) -> Result<()> {
    let (_, path) = super::show::local(&args.model)?;
    let (mut tests, mut pictures) = (Vec::new(), Vec::new());
    for wanted in &args.tests {
        match *wanted {
            Wanted::Tokens(test) => tests.push(test),
            Wanted::Picture(test) => pictures.push(test),
        }
    }
    if super::picture::is(&path) {
        if args.mapped || args.kv.is_some() {
            return Err(Error::new("--kv and --mapped are for language models, and this one makes pictures"));
        }
        if let Some(test) = tests.first() {
            let what =
                "is a test of language models, and this one makes pictures: write step@512, vae@512 or text";
            return Err(Error::new(format!("{test} {what}")));
        }
        return pictures::run(&path, &pictures, &args);
    }
    if let Some(test) = pictures.first() {
        return Err(Error::new(format!(
            "{test} is a test of picture models, and this is none: write pp128 or tg64"
        )));
    }
    if tests.is_empty() {
        tests = vec![Test::Prompt(128), Test::Generate { tokens: 64, depth: 0, sequences: 1 }];
    }
    let mut model = load(&path, &args, depth(&tests))?;
    measure(model.as_mut(), &tests, &args)
}

/// The engine under the bench: tokens by chance, as the peers' harness has them.
struct Bench {
    model: Arc<Model>,
    group: Group,
    sequences: usize,
    context: usize,
    _words: Words,
}

impl Timed for Bench {
    fn clear(&mut self, sequences: usize) -> Result<()> {
        match self.sequences == sequences {
            true => self.group.clear(),
            false => self.group = Group::new(&self.model, sequences, self.context)?,
        }
        self.sequences = sequences;
        Ok(())
    }

    fn prompt(&mut self, tokens: usize) -> Result<()> {
        for i in 0..self.sequences {
            let ids = self.next_ids(i, tokens);
            self.group.feed(i, &ids)?;
        }
        Ok(())
    }

    fn step(&mut self) -> Result<()> {
        let next: Vec<u32> = (0..self.sequences).flat_map(|i| self.next_ids(i, 1)).collect();
        Ok(self.group.step(&next)?)
    }
}

impl Bench {
    /// What comes next in a sequence: in each something else, or they would share their caches.
    fn next_ids(&self, i: usize, n: usize) -> Vec<u32> {
        let at = i * self.context + self.group.ids(i).len();
        some_ids(&self.model, at..at + n)
    }
}

fn load(path: &std::path::Path, args: &BenchArgs, context: usize) -> Result<Box<dyn Timed>> {
    // With its tokenizer, which a bench does not need: what is held is then what a conversation holds.
    let words = Words::open(path)?;
    let usual = options(args.threads.map(|n| n.get()));
    let options = Options { mapped: args.mapped, kv: args.kv.unwrap_or_default(), ..usual };
    let model = Arc::new(Model::new(words.checkpoint.clone(), options)?);
    model.settle(1)?;
    let group = Group::new(&model, 1, context)?;
    Ok(Box::new(Bench { model, group, sequences: 1, context, _words: words }))
}

/// Token ids by chance, for measuring: those from one number to another.
pub fn some_ids(model: &Model, range: std::ops::Range<usize>) -> Vec<u32> {
    let known = model.vocab_size().min(49_000) as u64;
    // A plain linear congruence: any ids do, as long as they are many.
    range.map(|i| (((i as u64).wrapping_mul(6_364_136_223_846_793_005) >> 33) % known) as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_read_as_they_print() {
        for text in ["pp128", "tg64", "tg32@512", "tg32x4", "tg8@64x512"] {
            assert_eq!(text.parse::<Test>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "pp",
            "pp0",
            "tg",
            "tg1@",
            "pp-1",
            "x",
            "pp99999999999999999999",
            "tg1@2@3",
            "tg1x",
            "tg1x0",
            "tg1x513",
        ] {
            assert!(bad.parse::<Test>().is_err(), "{bad}");
        }
        assert_eq!(depth(&["pp4".parse().unwrap(), "tg32@512".parse().unwrap()]), 544);
    }

    #[test]
    fn every_token_is_driven() {
        #[derive(Default)]
        struct Counter(Vec<String>);
        impl Timed for Counter {
            fn clear(&mut self, sequences: usize) -> Result<()> {
                self.0.push(format!("clear {sequences}"));
                Ok(())
            }
            fn prompt(&mut self, tokens: usize) -> Result<()> {
                self.0.push(format!("prompt {tokens}"));
                Ok(())
            }
            fn step(&mut self) -> Result<()> {
                self.0.push("step".into());
                Ok(())
            }
        }
        let mut counter = Counter::default();
        let tests = vec![Test::Prompt(16), Test::Generate { tokens: 2, depth: 5, sequences: 3 }];
        let args = BenchArgs {
            model: String::new(),
            tests: Vec::new(),
            threads: None,
            reps: Some(2),
            kv: None,
            mapped: false,
            json: true,
        };
        measure(&mut counter, &tests, &args).unwrap();
        let calls = "clear 1,prompt 8,clear 1,prompt 16,clear 1,prompt 16,clear 3,prompt 5,step,step";
        assert_eq!(counter.0.join(","), calls);
    }
}
