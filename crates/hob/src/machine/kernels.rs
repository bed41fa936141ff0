//! What Hob's own kernels reach on this machine, format by format: measured once each, and kept.

use std::path::{Path, PathBuf};

use hob_engine::{Cpu, DType, Rates};
use serde::{Deserialize, Serialize};

use super::{Machine, keep};
use crate::error::{Error, Result};
use crate::{interrupt, places, terminal};

/// The rates, and of what they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Kept {
    /// this program's version: another's kernels are others
    version: String,
    processor: String,
    isa: String,
    threads: usize,
    rates: Rates,
}

/// Formats that models commonly come in.
pub const COMMON: [DType; 14] = [
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::Q8_0,
    DType::Q2_K,
    DType::Q3_K,
    DType::Q4_K,
    DType::Q5_K,
    DType::Q6_K,
    DType::MXFP4,
];

/// The rates of `cpu` with weights of `formats`: those known, and those measured now, which takes about a fifth of a second
/// a format.
///
/// # Errors
/// When the system grants no memory for it, or the person pressed Ctrl-C.
pub fn know(machine: &Machine, cpu: &Cpu, formats: &[DType]) -> Result<Rates> {
    let known = known(machine, cpu);
    if let Some(known) = known.as_ref().filter(|k| k.know(formats)) {
        return Ok(known.clone());
    }
    let rates = measure(cpu, formats, known)?;
    let _ = save(machine, cpu, rates.clone()); // what is not kept is measured again
    Ok(rates)
}

/// What is kept of this machine; `None` where nothing was measured.
pub fn known(machine: &Machine, cpu: &Cpu) -> Option<Rates> {
    read(&file().ok()?, machine, cpu)
}

/// Keeps what was measured.
///
/// # Errors
/// When the folder of caches cannot be written to.
pub fn save(machine: &Machine, cpu: &Cpu, rates: Rates) -> Result<()> {
    keep(&file()?, &kept(machine, cpu, rates))
}

/// Measures what is not known: layers of these formats, and at first all else.
///
/// # Errors
/// As [`know`].
pub fn measure(cpu: &Cpu, formats: &[DType], known: Option<Rates>) -> Result<Rates> {
    let wait = terminal::delayed("measuring this machine's kernels");
    let catch = interrupt::Catch::new();
    let rates = Rates::measure(cpu, formats, known, |done, all| {
        wait.set(done as u64, all as u64);
        !catch.pressed()
    })?;
    rates.ok_or_else(|| Error::interrupted("the measurement was stopped by Ctrl-C"))
}

fn kept(machine: &Machine, cpu: &Cpu, rates: Rates) -> Kept {
    Kept {
        version: env!("CARGO_PKG_VERSION").into(),
        processor: machine.processor.name.clone(),
        isa: machine.processor.isa.name().into(),
        threads: cpu.pool.threads(),
        rates,
    }
}

fn read(file: &Path, machine: &Machine, cpu: &Cpu) -> Option<Rates> {
    const LONGEST: u64 = 1 << 16;
    if std::fs::metadata(file).ok()?.len() > LONGEST {
        return None;
    }
    let found: Kept = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    let same = found == kept(machine, cpu, found.rates.clone());
    (same && found.rates.are_sound()).then_some(found.rates)
}

fn file() -> Result<PathBuf> {
    Ok(places::cache()?.join("kernels.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_kept_for_the_machine_and_the_threads_they_are_of() {
        let (machine, cpu) = (Machine::look(), Cpu::new(1, hob_engine::Precision::Fast));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("hob/kernels.json");
        assert_eq!(read(&file, &machine, &cpu), None);
        let rates = Rates {
            linear: Vec::new(),
            attend: Vec::new(),
            memory: vec![(1, 5.0)],
            far_gbps: 4.0,
            small_gbps: 3.0,
            step: 1e-6,
        };
        keep(&file, &kept(&machine, &cpu, rates.clone())).unwrap();
        assert_eq!(read(&file, &machine, &cpu), Some(rates.clone()));
        assert_eq!(read(&file, &machine, &Cpu::new(2, hob_engine::Precision::Fast)), None);
        let mut other = machine.clone();
        other.processor.name.push('!');
        assert_eq!(read(&file, &other, &cpu), None);
        for unsound in [Rates { small_gbps: 0.0, ..rates.clone() }, Rates { step: f64::MAX, ..rates }] {
            keep(&file, &kept(&machine, &cpu, unsound)).unwrap();
            assert_eq!(read(&file, &machine, &cpu), None);
        }
        std::fs::write(&file, "{").unwrap();
        assert_eq!(read(&file, &machine, &cpu), None);
    }
}
