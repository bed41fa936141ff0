//! What can be planned: a file, a folder, a model of the hub by its header, a shape of the catalogue.

use std::path::Path;
use std::sync::Arc;

use hob_engine::Outline;
use hob_io::{Checkpoint, Tokenizer};

use super::quants::{self, Facts, Mix};
use super::zoo;
use crate::details::Details;
use crate::error::{Error, Result};
use crate::hub::remote::Remote;
use crate::model::Words;
use crate::terminal;

/// A model to plan.
pub struct Subject {
    /// what to call it
    pub name: String,
    /// its architecture, parameters and quantization
    pub details: Details,
    /// its graph and formats
    pub outline: Outline,
    /// bytes of its files
    pub file_bytes: u64,
    /// bytes its tokenizer holds
    pub tokenizer: usize,
    /// others of the same repository: quantization and size
    pub variants: Vec<String>,
    /// its configuration, for the same model in other formats
    pub config: serde_json::Value,
}

/// Bytes that a tokenizer holds for each token, where it is not at hand: measured at 20 to 60 with vocabularies of 49,152
/// and 262,144.
const TOKENIZER: usize = 40;

/// Bytes that a file's header says of each token: 25 to 61 were measured.
const HEADER: usize = 45;

impl Subject {
    /// The model at `path` on this machine.
    pub fn here(name: &str, path: &Path) -> Result<Subject> {
        let words = Words::open(path)?;
        Subject::of(name, words.checkpoint, words.tokenizer.heap_bytes())
    }

    /// A model of the hub by its headers.
    pub fn remote(remote: Remote) -> Result<Subject> {
        let tokenizer = match remote.checkpoint.gguf().map(Tokenizer::from_gguf) {
            Some(Ok(tokenizer)) => tokenizer.heap_bytes(),
            // What a file of JSON says takes about as much in memory.
            _ => remote.tokenizer_bytes.map_or(0, |n| usize::try_from(n).unwrap_or(usize::MAX)),
        };
        let bytes = remote.bytes;
        let others = remote.variants.iter().filter(|v| v.name != remote.name);
        let variants = others.filter_map(|v| {
            Some(format!("{} ({})", terminal::clean(v.quantization.as_deref()?), terminal::bytes(v.bytes)))
        });
        let variants = variants.collect();
        let subject = Subject::of(&remote.name, Arc::new(remote.checkpoint), tokenizer)?;
        Ok(Subject { file_bytes: bytes, variants, ..subject })
    }

    fn of(name: &str, checkpoint: Arc<Checkpoint>, tokenizer: usize) -> Result<Subject> {
        Ok(Subject {
            name: name.to_string(),
            details: Details::of(&checkpoint),
            outline: Outline::of(&checkpoint)?,
            file_bytes: checkpoint.size_bytes(),
            tokenizer,
            variants: Vec::new(),
            config: checkpoint.config.clone(),
        })
    }

    /// A well-known shape, by its name, in the formats of a mix.
    pub fn of_shape(shape: &str, mix: &str) -> Result<Subject> {
        let mix = Mix::parse(mix).ok_or_else(|| {
            let known = Mix::ALL.map(Mix::name).join(", ");
            Error::new(format!("{} is no quantization that is planned; {known} are", terminal::clean(mix)))
        })?;
        Subject::imagined(zoo::find(shape)?, mix)
    }

    /// A shape of the catalogue in the formats of `mix`.
    pub fn imagined(row: &zoo::Row, mix: Mix) -> Result<Subject> {
        Subject::in_mix(&row.name, &row.read(), row.parameters, row.tokenizer_bytes as usize, mix)
    }

    /// The same model in the formats of another mix.
    pub fn stored_as(&self, mix: Mix) -> Result<Subject> {
        let header = HEADER * self.outline.vocab_size();
        Subject::in_mix(&self.name, &self.config, self.details.parameters, header, mix)
    }

    fn in_mix(
        name: &str,
        config: &serde_json::Value,
        parameters: u64,
        header: usize,
        mix: Mix,
    ) -> Result<Subject> {
        let facts = Facts::of(config);
        let outline =
            Outline::imagined(name, config, header, |name, shape| quants::dtype(mix, name, shape, &facts))?;
        let details = Details {
            architecture: config["model_type"].as_str().unwrap_or("unknown").into(),
            parameters,
            quantization: mix.to_string(),
            context: config["max_position_embeddings"].as_u64(),
        };
        let file_bytes = outline.stored_bytes()? as u64 + header as u64;
        let tokenizer = TOKENIZER * outline.vocab_size();
        Ok(Subject {
            name: name.into(),
            details,
            outline,
            file_bytes,
            tokenizer,
            variants: Vec::new(),
            config: config.clone(),
        })
    }
}
