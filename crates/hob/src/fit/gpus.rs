//! GPUs that people own: their memory, and how fast they read and multiply.

mod table;

use crate::error::{Error, Result};
use crate::near::{near, plain};

/// Where a GPU sits, which decides how much of its memory is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A card in a person's machine, which shows the desktop too.
    Card,
    /// A card in a server.
    Server,
    /// One memory for processor and GPU.
    Unified,
}

/// A GPU as sold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gpu {
    /// What a person types, such as `rtx4060`.
    pub key: &'static str,
    /// What it is called.
    pub name: &'static str,
    /// All of its memory. The GB it is sold with are GiB, as its driver reports them but for some MiB; of server cards
    /// that correct errors in band, the 15/16 that are left. Of unified memory, all of the machine's.
    pub memory_bytes: u64,
    /// Reads from its memory, GB/s (10⁹), at most.
    pub bandwidth_gbps: f64,
    /// Dense products of f16 in matrix units with sums in f32, at most, TFLOP/s (two to a product); of GPUs without
    /// [`matrix_units`](Gpu::matrix_units) those of f32.
    pub tflops: f64,
    /// Whether it has units that multiply matrices. Apple's, whose f16 goes through the same units as f32, count as such.
    pub matrix_units: bool,
    /// Where it sits.
    pub kind: Kind,
    /// Whose figures these are.
    pub source: &'static str,
}

impl Gpu {
    /// Whether processor and GPU share one memory.
    pub fn unified(&self) -> bool {
        self.kind == Kind::Unified
    }

    /// What a program may count on, before its own context: of a card all but 0.6 GiB for driver and desktop, of a
    /// server's all but 0.3 GiB. Of unified memory, what Apple's Metal recommends: two thirds up to 36 GiB and three
    /// quarters above; elsewhere all but 4 GiB or an eighth, whichever is less.
    pub fn free_bytes(&self) -> u64 {
        const GIB: u64 = 1 << 30;
        let all = self.memory_bytes;
        match self.kind {
            Kind::Card => all - 6 * GIB / 10,
            Kind::Server => all - 3 * GIB / 10,
            Kind::Unified if self.name.starts_with("Apple") && all <= 36 * GIB => all / 3 * 2,
            Kind::Unified if self.name.starts_with("Apple") => all / 4 * 3,
            Kind::Unified => all - (4 * GIB).min(all / 8),
        }
    }
}

/// All of them, by vendor and age.
pub const GPUS: &[Gpu] = table::TABLE;

/// The GPU that `text` names, in any spelling: `RTX 4060`, `4060`, `nvidia geforce rtx-4060`. A memory may follow, as in
/// `4060 Ti 16GB`, and for unified memory says how much the machine has: `M4 Max 128GB`.
/// Errors name GPUs that are near.
pub fn find(text: &str) -> Result<Gpu> {
    let wanted = bare(text);
    let known = || GPUS.iter().map(|gpu| (bare(gpu.key), gpu)).chain(table::ALIASES.iter().map(alias));
    if let Some((_, gpu)) = known().find(|(name, _)| *name == wanted) {
        return Ok(*gpu);
    }
    // A name, and GB after it: those that such a GPU has, or any that a machine may have.
    let sized = known().filter_map(|(name, gpu)| {
        let gib: u64 = wanted.strip_prefix(name.as_str())?.parse().ok()?;
        let sold = gpu.memory_bytes.div_ceil(1 << 30);
        let fine = if gpu.unified() { (8..=1024).contains(&gib) } else { gib == sold };
        fine.then_some((
            name.len(),
            Gpu { memory_bytes: if gpu.unified() { gib << 30 } else { gpu.memory_bytes }, ..*gpu },
        ))
    });
    if let Some((_, gpu)) = sized.max_by_key(|(letters, _)| *letters) {
        return Ok(gpu);
    }
    let guesses = near(&wanted, GPUS.iter().map(|gpu| (bare(gpu.key), gpu.key)));
    let advice = if guesses.is_empty() {
        "name it by its model, such as rtx4060, rx7900xtx or m4-max".to_owned()
    } else {
        format!("near it are {}", guesses.join(", "))
    };
    Err(Error::new(format!("no GPU called {text} is known here; {advice}")))
}

/// `text` without spelling, vendors and series: "NVIDIA GeForce RTX 4060 Ti 16 GB" is `4060ti16`.
fn bare(text: &str) -> String {
    const SAID_ANYWAY: [&str; 15] = [
        "nvidia", "geforce", "amd", "radeon", "instinct", "intel", "apple", "tesla", "quadro", "graphics",
        "arc", "gpu", "gtx", "rx", "jetson",
    ];
    let mut bare = plain(text);
    for word in SAID_ANYWAY {
        if let Some(rest) = bare.strip_prefix(word).filter(|rest| !rest.is_empty()) {
            bare = rest.to_owned();
        }
    }
    // "RTX" is on cards of all kinds; their numbers differ without it.
    if let Some(rest) = bare.strip_prefix("rtx").filter(|rest| !rest.is_empty()) {
        bare = rest.to_owned();
    }
    for word in ["generation", "blackwell"] {
        bare.truncate(bare.strip_suffix(word).unwrap_or(&bare).len());
    }
    let unit = ["gib", "gb", "g"].into_iter().find_map(|unit| bare.strip_suffix(unit));
    match unit.filter(|rest| rest.ends_with(|c: char| c.is_ascii_digit())) {
        Some(rest) => rest.to_owned(),
        None => bare,
    }
}

fn alias(alias: &(&str, &str)) -> (String, &'static Gpu) {
    let gpu = GPUS.iter().find(|gpu| gpu.key == alias.1).expect("aliases are tested");
    (bare(alias.0), gpu)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn rows_are_plausible() {
        let names: HashSet<String> = GPUS.iter().map(|gpu| bare(gpu.key)).collect();
        assert_eq!(names.len(), GPUS.len());
        for gpu in GPUS {
            let gib = gpu.memory_bytes as f64 / (1u64 << 30) as f64;
            assert!((3.0..=288.0).contains(&gib), "{}: {gib} GiB", gpu.key);
            assert!((60.0..=8000.0).contains(&gpu.bandwidth_gbps), "{}", gpu.key);
            let per_byte = gpu.tflops * 1000.0 / gpu.bandwidth_gbps;
            let plausible = if gpu.matrix_units { 20.0..1000.0 } else { 12.0..60.0 };
            assert!(plausible.contains(&per_byte), "{}: {per_byte} FLOP a byte", gpu.key);
            assert!(gpu.free_bytes() < gpu.memory_bytes && gpu.free_bytes() * 10 > gpu.memory_bytes * 6);
            assert_eq!(find(gpu.key).unwrap(), *gpu, "{}", gpu.key);
            assert_eq!(
                find(gpu.name.split(" (").next().unwrap()).map(|g| g.key).ok(),
                Some(gpu.key),
                "{}",
                gpu.name
            );
        }
        for (name, key) in table::ALIASES {
            assert_eq!(find(name).unwrap().key, *key);
        }
    }

    #[test]
    fn gpus_are_found_in_any_spelling() {
        for text in ["rtx4060", "RTX 4060", "4060", "rtx-4060", "NVIDIA GeForce RTX 4060", "geforce 4060 8GB"]
        {
            assert_eq!(find(text).unwrap().key, "rtx4060", "{text}");
        }
        for (text, key) in [
            ("4060 Ti 16GB", "rtx4060ti-16"),
            ("RTX 4060 Ti", "rtx4060ti-8"),
            ("7900 XTX", "rx7900xtx"),
            ("Radeon RX 7900 XT", "rx7900xt"),
            ("RTX A4000", "a4000"),
            ("Arc B580", "b580"),
            ("rtx 3080 12gb", "rtx3080-12"),
            ("dgx spark", "gb10"),
            ("L4", "l4"),
            ("h100 80gb", "h100"),
        ] {
            assert_eq!(find(text).unwrap().key, key, "{text}");
        }
    }

    #[test]
    fn a_machines_memory_may_be_said() {
        let gpu = find("Apple M4 Max 128GB").unwrap();
        assert_eq!((gpu.key, gpu.memory_bytes, gpu.free_bytes()), ("m4-max", 128 << 30, 96 << 30));
        assert_eq!(find("m1 16").unwrap().memory_bytes, 16 << 30);
        assert!(find("rtx 4060 16gb").is_err()); // there is none
    }

    #[test]
    fn near_names_are_offered() {
        for (text, guess) in [("rtx 4061", "rtx4060"), ("rx 7900 xxx", "rx7900xtx"), ("m9-max", "m1-max")] {
            let e = find(text).unwrap_err().to_string();
            assert!(e.contains(guess), "{e}");
        }
        assert!(find("voodoo").unwrap_err().to_string().contains("by its model"));
    }
}
