//! Memory as planned and as measured.

use std::fmt;

/// What a run will hold, in bytes, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// the process before a model was opened: program, libraries, runtime
    pub process: usize,
    /// what the model's file says of itself, its tokenizer, and the graphs
    pub model: usize,
    /// weights as stored in the file
    pub weights: usize,
    /// weights copied into another form
    pub copies: usize,
    /// keys and values of the tokens so far
    pub state: usize,
    /// intermediate results and working memory of kernels
    pub activations: usize,
}

impl Budget {
    /// All together.
    pub fn total(&self) -> usize {
        self.process + self.model + self.weights + self.copies + self.state + self.activations
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = [
            ("process", self.process),
            ("model", self.model),
            ("weights", self.weights),
            ("copies", self.copies),
            ("state", self.state),
            ("activations", self.activations),
            ("total", self.total()),
        ];
        for (name, n) in rows {
            writeln!(f, "{name:<12} {:>12}", hob_graph::print::bytes(n))?;
        }
        Ok(())
    }
}

/// Bytes of memory the process holds now; `None` where the system does not tell.
pub fn resident() -> Option<usize> {
    status("VmRSS:")
}

/// The most bytes of memory the process has held; `None` where the system does not tell.
pub fn peak() -> Option<usize> {
    status("VmHWM:").or_else(rusage_peak)
}

/// A line of Linux's `/proc/self/status`, which counts in KiB.
fn status(key: &str) -> Option<usize> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(key))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()? * 1024)
}

#[cfg(unix)]
fn rusage_peak() -> Option<usize> {
    // SAFETY: a plain struct of numbers, filled by the call.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        if libc::getrusage(libc::RUSAGE_SELF, &mut usage) != 0 {
            return None;
        }
        usage
    };
    // macOS counts bytes, the others KiB.
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    Some(usage.ru_maxrss as usize * unit)
}

#[cfg(not(unix))]
fn rusage_peak() -> Option<usize> {
    None
}

#[cfg(test)]
mod tests {
    #[test]
    #[cfg(target_os = "linux")]
    fn the_peak_grows_with_what_is_touched() {
        let before = super::peak().unwrap();
        let big = vec![1u8; before + (32 << 20)];
        assert!(super::peak().unwrap() >= before + (32 << 20), "{}", big.len());
        assert!(super::resident().unwrap() <= super::peak().unwrap());
    }
}
