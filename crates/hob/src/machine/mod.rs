//! This machine: what it has and how fast it is. [`Machine::look`] is quick and measures nothing; [`Rates`] are measured
//! once and kept.
//!
//! On Linux everything is read below a root that tests replace; elsewhere `sysinfo` asks the system.

pub mod advice;
pub mod disk;
pub mod gpu;
pub mod kernels;
pub mod memory;
pub mod power;
pub mod processor;
pub mod rates;
mod read;

#[cfg(target_os = "linux")]
mod cgroup;
#[cfg(target_os = "linux")]
mod cpus;
#[cfg(any(target_os = "linux", windows))]
mod nvml;
#[cfg(any(not(target_os = "linux"), test))]
mod other;
#[cfg(target_os = "linux")]
mod pci;

pub use disk::Disk;
pub use gpu::Gpu;
pub use memory::Memory;
pub use power::Power;
pub use processor::Processor;
pub use rates::Rates;

#[cfg(target_os = "linux")]
use std::path::Path;

/// What this machine has. What the system does not tell is `None`.
#[derive(Clone, Debug)]
pub struct Machine {
    /// the processor that kernels run on
    pub processor: Processor,
    /// working memory
    pub memory: Memory,
    /// every GPU, NVIDIA's first
    pub gpus: Vec<Gpu>,
    /// the file systems of the folders that models lie in, or would be fetched to
    pub disks: Vec<Disk>,
    /// what slows the processor down to save energy
    pub power: Power,
}

impl Machine {
    /// Looks, in some milliseconds where no GPU's driver must be woken. Never fails.
    pub fn look() -> Machine {
        let memory = Memory::look();
        Machine {
            processor: Processor::look(),
            gpus: gpu::look(&memory),
            memory,
            disks: disk::look(&crate::places::model_folders()),
            power: Power::look(),
        }
    }
}

/// Keeps something in a file, which is whole at any time.
fn keep(path: &std::path::Path, what: &impl serde::Serialize) -> crate::error::Result<()> {
    use crate::error::Error;
    let folder = path.parent().unwrap_or(path);
    std::fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, &e))?;
    // Under a name of its own first: who reads meanwhile finds a whole file.
    let part = path.with_extension(format!("{}.part", std::process::id()));
    let text = format!("{:#}\n", serde_json::json!(what));
    let written = std::fs::write(&part, text)
        .map_err(|e| Error::io("write", &part, &e))
        .and_then(|()| std::fs::rename(&part, path).map_err(|e| Error::io("write", path, &e)));
    if written.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    written
}

/// The text of one of the system's small files, without blanks around it and bytes that are no text.
#[cfg(target_os = "linux")]
fn text(path: &Path) -> Option<String> {
    let bytes = std::fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!text.is_empty()).then(|| text.to_string())
}

/// The number that a file of the system holds.
#[cfg(target_os = "linux")]
fn number(path: &Path) -> Option<u64> {
    text(path)?.parse().ok()
}

/// The hexadecimal number that a file of the system holds, as in `0x10de`.
#[cfg(target_os = "linux")]
fn hex(path: &Path) -> Option<u32> {
    u32::from_str_radix(text(path)?.strip_prefix("0x")?, 16).ok()
}

/// The processors in a list such as `0-3,8`; no machine has more than 65,536.
#[cfg(target_os = "linux")]
fn list(text: &str) -> Vec<usize> {
    let mut all = Vec::new();
    for part in text.split(',') {
        let (from, to) = part.trim().split_once('-').unwrap_or((part.trim(), part.trim()));
        if let (Ok(from), Ok(to)) = (from.parse::<usize>(), to.parse::<usize>()) {
            all.extend(from..=to.min(65_535));
        }
    }
    all
}

/// A made-up tree of the system's files for tests.
#[cfg(all(test, target_os = "linux"))]
pub(crate) fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    root
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_seen() {
        let start = std::time::Instant::now();
        let m = Machine::look();
        let took = start.elapsed();
        assert!(m.processor.threads_available >= 1 && !m.processor.name.is_empty(), "{m:?}");
        assert!(m.memory.total > 1 << 28 && m.memory.free <= m.memory.total, "{m:?}");
        assert!(!m.disks.is_empty() && m.disks.iter().all(|d| d.free <= d.total), "{m:?}");
        let driver = m.gpus.iter().any(|g| g.driver.is_some());
        assert!(driver || took.as_millis() < 500, "{took:?} is too long, even on a busy machine");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn lists_of_processors_are_read() {
        assert_eq!(list("0-3,8"), [0, 1, 2, 3, 8]);
        assert_eq!(list("7"), [7]);
        assert_eq!(list(""), [0; 0]);
        assert_eq!(list("3-1,x,-,2-"), [0; 0]);
        assert_eq!(list("65534-99999999999"), [65_534, 65_535]);
    }
}
