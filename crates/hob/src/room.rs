//! Within what memory a model is run: all of it there, with a shorter context, or with weights read from the file again
//! for each token.

use hob_engine::{CHUNK, Footprint, Model, Residency};

use crate::error::{Error, Result};
use crate::machine::Memory;
use crate::model::Load;
use crate::terminal;

/// Bytes of the machine's memory that are left to others.
const RESERVE: u64 = 512 << 20;

/// More than a run holds beside weights, a fourth more of them for other layouts, and keys and values.
const SURE: u128 = 1 << 30;

/// Bytes of memory that a run may take here, those of this process of `process` bytes among them.
pub fn free(process: usize) -> u64 {
    // What the process holds is no longer free, but is planned.
    Memory::look().free.saturating_sub(RESERVE).saturating_add(process as u64)
}

/// How a model is run within the memory there is.
pub struct Room {
    /// tokens of context
    pub context: usize,
    /// which weights stay in memory; all where `None`
    pub residency: Option<Residency>,
    /// what the person should know about it
    pub note: Option<String>,
}

impl Room {
    /// What a run of `model` holds, and how many bytes that is where all of it is in memory.
    pub fn needs(
        model: &Model,
        context: usize,
        process: usize,
        tokenizer: usize,
    ) -> Result<(Footprint, usize)> {
        let footprint = model.footprint(context.min(CHUNK), 1)?.beside(process, tokenizer);
        let planned = footprint.at(context).total();
        Ok((footprint, planned))
    }

    /// Plans `model`, beside a process and a tokenizer of so many bytes.
    ///
    /// # Errors
    /// When nothing fits; the sentence says what would.
    pub fn find(model: &Model, how: &Load, process: usize, tokenizer: usize) -> Result<Room> {
        let context = how.wanted(model);
        let limit = how.memory.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        let bytes = limit.unwrap_or_else(|| free(process) as usize);
        let whole = Room { context, residency: None, note: None };
        // What surely fits is not planned: a plan takes a part of the time to the first token.
        let files = u128::from(model.checkpoint.size_bytes());
        if files + files / 4 + model.state_bytes(context)? + SURE < bytes as u128 {
            return Ok(whole);
        }
        let (footprint, planned) = Room::needs(model, context, process, tokenizer)?;
        if planned <= bytes {
            return Ok(whole);
        }
        let size = |n: usize| terminal::bytes(n as u64);
        let of = match limit {
            Some(limit) => format!("the {} allowed", size(limit)),
            None => format!("the {} of memory that are free", size(bytes)),
        };
        if let Some(room) = footprint.room(bytes, context, how.context.is_none()) {
            let mut said = Vec::new();
            if room.context < context {
                said.push(format!("the context is {} tokens", room.context));
            }
            if let Some(residency) = &room.residency {
                said.push(format!(
                    "{} of {} of weights are read from the file again for each token, as fast as the disk is",
                    size(residency.streamed_bytes),
                    size(footprint.read_bytes())
                ));
            }
            let note = format!("{}, to stay within {of}", said.join(", and "));
            return Ok(Room { context: room.context, residency: room.residency, note: Some(note) });
        }
        let mut advice = Vec::new();
        if let Some(fewer) = footprint.longest_streamed(bytes, context) {
            advice.push(format!("--ctx {fewer}"));
        }
        advice.push(format!("--memory {}", asked(footprint.least(context))));
        Err(Error::new(format!(
            "{} does not run within {of}: with {context} tokens of context it holds {}, and {} at least; what would \
             fit: {}",
            model.checkpoint.path.display(),
            size(planned),
            size(footprint.least(context)),
            advice.join(", or "),
        )))
    }
}

/// A number of bytes as `--memory` takes it, rounded up to whole MiB.
pub fn asked(n: usize) -> String {
    format!("{}M", n.div_ceil(1 << 20))
}

/// Reads a size: `2G`, `512M`, `1.5 GB` or bytes, in powers of two as memory is sold.
pub fn parse(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is no size of memory; write 8G, 512M or a number of bytes");
    let at = text.find(|c: char| c.is_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let unit = match unit.trim().to_lowercase().trim_end_matches('b').trim_end_matches('i') {
        "" => 1.0,
        "k" => 1024.0,
        "m" => 1048576.0,
        "g" => 1073741824.0,
        "t" => 1099511627776.0,
        _ => return Err(wrong()),
    };
    let number: f64 = number.trim().parse().map_err(|_| wrong())?;
    let bytes = number * unit;
    if !(1.0..=1e18).contains(&bytes) {
        return Err(wrong());
    }
    Ok(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("2G", 2 << 30),
            ("512M", 512 << 20),
            ("1.5 GB", 3 << 29),
            ("8GiB", 8 << 30),
            ("1t", 1 << 40),
            ("4096", 4096),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for bad in ["", "G", "x", "-1G", "2X", "0", "1e30G", "nan", "2 G B"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert_eq!(parse(&asked(3 << 20)), Ok(3 << 20));
    }
}
