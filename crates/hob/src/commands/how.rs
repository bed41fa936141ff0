//! Options that commands share: how a model is loaded, and how tokens are chosen.

use std::num::NonZeroUsize;

use clap::Args;

use crate::model::Load;
use hob_engine::KvTypes;

/// How a model is loaded.
#[derive(Args, Clone, Debug)]
pub struct Loading {
    /// Tokens of context [default: what the model was trained for, at most 4096]
    #[arg(long, value_name = "N")]
    pub ctx: Option<NonZeroUsize>,
    /// How keys and values are kept: f32, f16, q8_0 or q4_0, or k=TYPE,v=TYPE [default: f16]
    #[arg(long, value_name = "TYPE")]
    pub kv: Option<KvTypes>,
    /// Stay within that much memory: with a shorter context unless --ctx asks for one, or else with weights read from
    /// the file again for each token [default: what is free]
    #[arg(long, value_name = "SIZE", value_parser = crate::room::parse)]
    pub memory: Option<u64>,
    /// Keep weights as the file has them, shared with other processes, rather than lay them out for speed
    #[arg(long)]
    pub mapped: bool,
    /// Number of threads [default: one for each core]
    #[arg(long, value_name = "N", value_parser = super::threads)]
    pub threads: Option<NonZeroUsize>,
}

impl Loading {
    /// The same for [`crate::model`].
    pub fn load(&self) -> Load {
        let number = |n: Option<NonZeroUsize>| n.map(|n| n.get());
        Load {
            threads: number(self.threads),
            mapped: self.mapped,
            kv: self.kv.unwrap_or_default(),
            context: number(self.ctx),
            memory: self.memory,
            ..Load::default()
        }
    }
}

/// How the next token is chosen.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Sampling")]
pub struct Sampling {
    /// 0 always takes the most likely token
    #[arg(long, value_name = "T", default_value_t = 0.7, value_parser = number::<0, 100>)]
    pub temperature: f32,
    /// Only the most likely tokens that together have this probability
    #[arg(long, value_name = "P", default_value_t = 0.95, value_parser = number::<0, 1>)]
    pub top_p: f32,
    /// Only the K most likely tokens; 0 means all
    #[arg(long, value_name = "K", default_value_t = 40)]
    pub top_k: usize,
    /// Only tokens at least this likely, relative to the most likely one
    #[arg(long, value_name = "P", default_value_t = 0.05, value_parser = number::<0, 1>)]
    pub min_p: f32,
    /// Above 1 makes tokens that were said before less likely
    #[arg(long, value_name = "R", default_value_t = 1.0, value_parser = number::<0, 10>)]
    pub repeat_penalty: f32,
    /// The same seed gives the same answer [default: another one each time]
    #[arg(long)]
    pub seed: Option<u64>,
}

/// A number between two bounds.
fn number<const LOW: u8, const HIGH: u8>(text: &str) -> Result<f32, String> {
    let inside = |n: &f32| (f32::from(LOW)..=f32::from(HIGH)).contains(n);
    text.parse().ok().filter(inside).ok_or_else(|| format!("it must be a number from {LOW} to {HIGH}"))
}

impl Sampling {
    /// The same for the engine, with a seed by chance where none was given.
    pub fn settings(&self) -> hob_engine::Sampling {
        hob_engine::Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repeat_penalty: self.repeat_penalty,
            seed: self.seed.unwrap_or_else(chance),
            ..hob_engine::Sampling::default()
        }
    }
}

/// A seed that nobody chose.
pub fn chance() -> u64 {
    std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), ())
}
