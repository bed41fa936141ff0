//! What lists say of picture models: what they are, what they lack, and what a picture takes.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use hob_engine::diffuse::Painter;
use hob_engine::{Cpu, Precision};
use hob_io::Pipeline;

use super::lock;
use crate::commands::picture::purpose;
use crate::details::Details;
use crate::error::Result;
use crate::picture::room::needs;
use crate::serve::known::Known;

/// Sides of the square pictures that memory is planned for.
const SIDES: [usize; 2] = [512, 1024];

/// What headers tell of a model.
pub struct About {
    /// family, parameters and format
    pub details: Details,
    /// what it does, in words
    pub purpose: &'static str,
    /// bytes of all parts
    pub bytes: u64,
    /// why it makes no pictures yet
    pub missing: Option<String>,
    /// sides in pixels of square pictures, and the bytes that one takes
    pub needs: Vec<(usize, u64)>,
}

/// The same of all models, as long as their files are the same: it takes a moment to plan a picture.
#[derive(Default)]
pub struct Abouts(Mutex<HashMap<PathBuf, Read>>);

/// Length and time of the files that were read, and what they say, or why they cannot be read.
type Read = ((u64, SystemTime), Result<Arc<About>, String>);

impl Abouts {
    /// What is known of a model; reads headers where it is not.
    ///
    /// # Errors
    /// Why the model cannot be read, in a sentence.
    pub fn of(&self, known: &Known, threads: usize) -> Result<Arc<About>, String> {
        let now = (known.bytes, known.modified);
        if let Some((of, read)) = lock(&self.0).get(&known.path)
            && *of == now
            // What was missing may be there now.
            && read.as_ref().is_ok_and(|about| about.missing.is_none())
        {
            return read.clone();
        }
        let read = about(known, threads).map(Arc::new).map_err(|e| e.to_string());
        lock(&self.0).insert(known.path.clone(), (now, read.clone()));
        read
    }
}

fn about(known: &Known, threads: usize) -> Result<About> {
    let pipeline = Arc::new(Pipeline::open(&known.path)?);
    let mut about = About {
        details: Details::of_pipeline(&pipeline)?,
        purpose: purpose(pipeline.purpose),
        bytes: pipeline.parts().map(|p| p.size_bytes()).sum(),
        missing: pipeline.check().err().map(|e| e.to_string()),
        needs: Vec::new(),
    };
    if about.missing.is_none() {
        let guided = !pipeline.family.is_flux();
        let planned = || -> Result<Vec<(usize, u64)>> {
            let painter = Painter::new(pipeline, BTreeMap::new(), Cpu::new(threads, Precision::Fast))?;
            SIDES.map(|side| Ok((side, needs(&painter, side, side, guided)?))).into_iter().collect()
        };
        match planned() {
            Ok(needs) => about.needs = needs,
            Err(e) => about.missing = Some(e.to_string()),
        }
    }
    Ok(about)
}
