//! What file names of models say: quantization, parts of a split file, which files belong to a model.

/// The quantization that a GGUF's file name ends in, upper-case: `Llama-3.2-1B-Q4_K_M.gguf` gives `Q4_K_M`.
pub fn quantization(file: &str) -> Option<String> {
    let stem = stem(file).to_uppercase();
    stem.rsplit(['-', '.', '/']).find(|part| is_quantization(part)).map(String::from)
}

fn is_quantization(part: &str) -> bool {
    let digit_after = |prefix: &str| {
        part.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    matches!(part, "F16" | "BF16" | "F32" | "FP16" | "MXFP4" | "MXFP4_MOE")
        || (digit_after("Q") && part.contains('_'))
        || digit_after("IQ")
        || digit_after("TQ")
}

/// A file name without folder, `.gguf` and the `-00001-of-00003` of a split file.
pub fn stem(file: &str) -> &str {
    let name = file.rsplit('/').next().unwrap_or(file);
    let name = if is_gguf(name) { &name[..name.len() - 5] } else { name };
    split(name).map_or(name, |(stem, ..)| stem)
}

/// The parts of a split GGUF's name: `model-00002-of-00003.gguf` gives `("model", 2, 3)`.
pub fn split(file: &str) -> Option<(&str, u32, u32)> {
    let name = if is_gguf(file) { &file[..file.len() - 5] } else { file };
    let (rest, of) = name.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let five = |s: &str| s.len() == 5 && s.bytes().all(|b| b.is_ascii_digit());
    (five(number) && five(of)).then_some((stem, number.parse().ok()?, of.parse().ok()?))
}

/// Whether a name ends in `.gguf`, in any case.
pub fn is_gguf(file: &str) -> bool {
    file.len() > 5 && file.as_bytes()[file.len() - 5..].eq_ignore_ascii_case(b".gguf")
}

/// Whether a GGUF is a language model's own: not a vision projector, an importance matrix or a LoRA beside it.
pub fn is_model(file: &str) -> bool {
    let name = file.rsplit('/').next().unwrap_or(file).to_lowercase();
    is_gguf(file) && !name.starts_with("mmproj") && !name.contains("imatrix") && !name.contains("-mmproj")
}

/// Files beside the weights that a Hugging Face folder needs to be run.
pub fn is_companion(file: &str) -> bool {
    const NAMES: [&str; 18] = [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "tokenizer.model",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "vocab.txt",
        "modules.json",
        "sentence_bert_config.json",
        "1_Pooling/config.json",
        "chat_template.jinja",
        "chat_template.json",
        "model.safetensors.index.json",
        "LICENSE",
        "README.md",
    ];
    NAMES.contains(&file)
}

/// Why a path from a server may not become a path on this machine, or nothing when it may.
pub fn hostile(path: &str) -> Option<&'static str> {
    if path.is_empty() || path.len() > 512 {
        return Some("its length is not that of a path");
    }
    if path.chars().any(|c| c.is_control() || matches!(c, '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|')) {
        return Some("it holds characters that file names may not");
    }
    if path.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return Some("it leads out of its folder");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantizations() {
        let q = |f: &str| quantization(f).unwrap_or_default();
        assert_eq!(q("SmolLM2-135M-Instruct.Q4_1.gguf"), "Q4_1");
        assert_eq!(q("gemma-3-270m-q4_k_m.gguf"), "Q4_K_M");
        assert_eq!(q("UD/Qwen3-4B-UD-Q4_K_XL-00001-of-00002.gguf"), "Q4_K_XL");
        assert_eq!(q("x-IQ4_XS.gguf"), "IQ4_XS");
        assert_eq!(q("x-bf16.gguf"), "BF16");
        assert_eq!(q("Qwen2.gguf"), "");
    }

    #[test]
    fn splits_and_stems() {
        assert_eq!(split("m-00002-of-00003.gguf"), Some(("m", 2, 3)));
        assert_eq!(split("m-2-of-3.gguf"), None);
        assert_eq!(stem("a/b/m-00001-of-00003.gguf"), "m");
        assert_eq!(stem("SmolLM2.Q4_1.GGUF"), "SmolLM2.Q4_1");
        assert!(!is_gguf("é.gg"));
        assert!(is_model("x.gguf") && !is_model("mmproj-x-f16.gguf") && !is_model("x.bin"));
    }

    #[test]
    fn hostile_paths() {
        for bad in ["", "../x", "a/../b", "/etc/x", "a//b", "a/./b", "C:x", "a\\b", "a\0b", "a\x1b[2J"] {
            assert!(hostile(bad).is_some(), "{bad:?}");
        }
        assert!(hostile("onnx/model.gguf").is_none() && hostile("…/é x.gguf").is_none());
    }
}
