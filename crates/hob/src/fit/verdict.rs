//! The answer to "can I run this?", in words and with reasons.

use serde::Serialize;

use super::plan::Fit;
use crate::terminal;

/// How a model runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// fully on the GPU
    Gpu,
    /// some layers on the GPU, the others on the processor
    Split,
    /// on the processor, from working memory
    Ram,
    /// some weights are read from disk for each token
    Disk,
    /// not at all
    No,
}

/// Tokens a second below which a person waits: most read at 5 or more.
const SLOW: f64 = 5.0;

impl Verdict {
    /// As `--json` has it.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Gpu => "gpu",
            Verdict::Split => "split",
            Verdict::Ram => "ram",
            Verdict::Disk => "disk",
            Verdict::No => "no",
        }
    }
}

/// The verdict as a sentence, and what would do where it is not the best one.
pub fn sentences(fit: &Fit, smaller: &[String]) -> Vec<String> {
    let (size, free) = (terminal::bytes(fit.total()), terminal::bytes(fit.free));
    let speed = match fit.speed {
        Some(s) if s.tps < SLOW => format!(", slowly: about {} tokens/s", rate(s.tps)),
        Some(s) => format!(", about {} tokens/s", rate(s.tps)),
        None => String::new(),
    };
    let layers = fit.layers.gpu + fit.layers.ram + fit.layers.streamed;
    let mut out = vec![match fit.verdict {
        Verdict::Gpu => format!("Runs fully on the GPU: {size} of {free} free{speed}."),
        Verdict::Split if fit.layers.gpu == layers => {
            format!("Runs split: all layers on the GPU, the output matrix on the processor{speed}.")
        }
        Verdict::Split => {
            format!(
                "Runs split: {} of {layers} layers on the GPU, the others on the processor{speed}.",
                fit.layers.gpu
            )
        }
        Verdict::Ram => format!("Runs on the processor, all in memory: {size} of {free} free{speed}."),
        Verdict::Disk => format!(
            "Runs from disk: {} of weights are read again for each token, as memory has {free} free{speed}.",
            terminal::bytes(fit.streamed)
        ),
        Verdict::No => format!(
            "Does not run: it holds {size}, {} at least with weights read from disk for each token, and {free} are free.",
            terminal::bytes(fit.least)
        ),
    }];
    if matches!(fit.verdict, Verdict::No | Verdict::Disk | Verdict::Split) {
        let mut would: Vec<String> = smaller.to_vec();
        if fit.verdict == Verdict::No
            && let Some(n) = fit.max_ctx
        {
            would.insert(0, format!("a context of {n} tokens (--ctx {n})"));
        }
        if !would.is_empty() {
            out.push(format!("What would do better: {}.", would.join("; ")));
        }
    }
    out
}

/// The verdict in a few words, as before a download.
pub fn brief(fit: &Fit) -> String {
    let (size, free) = (terminal::bytes(fit.total()), terminal::bytes(fit.free));
    let speed = fit.speed.map_or(String::new(), |s| format!(", about {} tokens/s", rate(s.tps)));
    match fit.verdict {
        Verdict::Gpu | Verdict::Ram => format!("fits: {size} of {free} free{speed}"),
        Verdict::Split => format!("fits in part on the GPU{speed}"),
        Verdict::Disk => {
            let streamed = terminal::bytes(fit.streamed);
            format!(
                "more than memory has free ({free}): {streamed} would be read from disk for each token{speed}"
            )
        }
        Verdict::No => format!("does not fit: it holds {size} at work, and {free} are free"),
    }
}

/// A number of tokens a second with as many digits as it deserves.
pub fn rate(tps: f64) -> String {
    match tps {
        ..0.095 => format!("{tps:.2}"),
        ..9.95 => format!("{tps:.1}"),
        _ => format!("{tps:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_the_digits_they_deserve() {
        assert_eq!([0.031, 0.31, 9.94, 9.96, 41.4].map(rate), ["0.03", "0.3", "9.9", "10", "41"]);
    }
}
