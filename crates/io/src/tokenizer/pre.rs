//! Pre-tokenizers: how text is cut into words before merging, chosen by `tokenizer.ggml.pre`.
//!
//! A GGUF file names the pre-tokenizer and does not define it. The definitions are those of the models' published
//! `tokenizer.json` files; the names and which of them share a definition are those of llama.cpp's `llama-vocab.cpp`.

use super::split::{self, Cursor, NextWord};
use fancy_regex::Regex;
use serde_json::{Value, json};

/// The way one family cuts its text.
pub(super) struct Pre {
    steps: Vec<Step>,
    /// Cuts a word's bytes further; Falcon alone needs it.
    bytes: Option<CutBytes>,
    /// Unicode normalization form C comes first.
    pub nfc: bool,
    /// Then each character is made lower-case.
    pub lowercase: bool,
    /// White space parts words and is none.
    drop_space: bool,
    /// A word that is a token is that token, whatever the merges would make.
    pub ignore_merges: bool,
    /// The text begins with the token that begins texts, unless the file says otherwise.
    pub add_bos: bool,
}

/// Each step cuts the words of the one before it.
enum Step {
    /// Written by hand, covering the whole text.
    Words(NextWord),
    /// Matches are words, and so is what lies between two matches.
    Isolate(Box<Regex>),
}

type CutBytes = for<'a> fn(&'a [u8], &mut dyn FnMut(&'a [u8]));

/// Contractions in English, in either case.
const CONTRACTIONS: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const GPT2: &str = split::EXPRESSIONS[0].0;
const BLOOM: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";
const DEEPSEEK_WORDS: &str = r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\x{1f7d}ᾀ-ᾴᾶ-ᾼ\x{1fbe}ῂ-ῄῆ-ῌῐ-\x{1fd3}ῖ-\x{1fdb}ῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\x{2126}ℨ\x{212a}-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";
const DEEPSEEK_CJK: &str = "[一-龥ࠀ-一가-퟿]+";
const DEEPSEEK3_WORDS: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;

impl Pre {
    /// The pre-tokenizer of that name; `None` when Hob does not know it.
    pub(super) fn named(name: &str) -> Option<Pre> {
        let plain = Pre::of;
        let words = |next: NextWord| plain(vec![Step::Words(next)]);
        let nfc = |next: NextWord| Pre { nfc: true, ..words(next) };
        let isolate = |patterns: &[&str]| plain(patterns.iter().map(|p| Step::isolate(p)).collect());
        Some(match name {
            "gpt-2" | "gpt2" | "phi-2" | "mpt" | "jais" | "trillion" | "granite-docling" | "exaone4"
            | "gigachat" | "a.x-4.0" | "mellum" | "modern-bert" | "jina-es" | "jina-de" | "jina-v2-es"
            | "jina-v2-de" | "jina-v1-en" | "jina-v2-code" | "roberta-bpe" => words(split::gpt2),
            "olmo" => nfc(split::gpt2),
            "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0"
            | "lfm2" | "jina-v5-nano" => Pre { ignore_merges: true, add_bos: true, ..words(split::llama3) },
            "smaug-bpe" | "dbrx" | "glm4" | "chatglm-bpe" => words(split::llama3),
            "qwen2" | "stablelm2" => nfc(split::qwen2),
            "deepseek-r1-qwen" | "kormo" | "f2llmv2" | "megrez" | "hunyuan" | "solar-open" | "grok-2" => {
                words(split::qwen2)
            }
            "qwen35" => nfc(split::qwen35),
            "smollm" | "starcoder" | "refact" | "codeshell" | "exaone" | "minerva-7b" | "mellum2" => {
                words(split::digits_gpt2)
            }
            "command-r" => nfc(split::digits_gpt2),
            "gpt-4o" | "llama4" | "kanana2" | "talkie" | "minimax-m2" => words(split::o200k),
            "tekken" => Pre { ignore_merges: true, add_bos: true, ..words(split::tekken) },
            "falcon" => Pre { bytes: Some(falcon_digits), ..isolate(&[r"[\p{P}$+<=>^~|`]+", GPT2]) },
            "bloom" | "poro-chat" | "gpt3-finnish" => isolate(&[BLOOM]),
            "viking" => isolate(&[BLOOM, r"\p{N}"]),
            "deepseek-llm" => isolate(&[
                r"[\r\n]",
                DEEPSEEK_WORDS,
                r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
                r"\s+$",
                DEEPSEEK_CJK,
                r"\p{N}+",
            ]),
            "deepseek-coder" => isolate(&[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", DEEPSEEK_CJK, r"\p{N}"]),
            "deepseek-v3" | "hunyuan-dense" | "joyai-llm" | "hy_v4" => {
                isolate(&[r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3_WORDS])
            }
            "bailingmoe" | "bailingmoe2" | "llada-moe" => isolate(&[
                r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
            ]),
            "seed-coder" => isolate(&[&format!(
                r"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
            )]),
            "exaone-moe" => isolate(&[&format!(
                r"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
            )]),
            "default" => isolate(&[r"[\p{P}$+<=>^~|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]),
            _ => return None,
        })
    }

    fn of(steps: Vec<Step>) -> Pre {
        Pre {
            steps,
            bytes: None,
            nfc: false,
            lowercase: false,
            drop_space: false,
            ignore_merges: false,
            add_bos: false,
        }
    }

    /// CLIP's: text in lower case, cut at spaces, punctuation and digits, and then as GPT-2, which matters to the names
    /// of control tokens alone (transformers' `tokenization_clip.py`).
    pub(super) fn clip() -> Pre {
        let steps = vec![Step::Words(split::clip), Step::Words(split::gpt2)];
        Pre { nfc: true, lowercase: true, drop_space: true, ..Pre::of(steps) }
    }

    /// Whether `tokenizer.json` normalizes and cuts text as [`Pre::clip`].
    pub(super) fn is_clip(normalizer: &Value, definition: &Value) -> bool {
        let normal = json!([
            {"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
            {"type": "Lowercase"},
        ]);
        let (cut, last) = (&definition["pretokenizers"][0], &definition["pretokenizers"][1]);
        let pattern = cut["pattern"]["Regex"].as_str().unwrap_or_default();
        normalizer["normalizers"] == normal
            && cut["type"] == "Split"
            && cut["behavior"] == "Removed"
            && cut["invert"] == true
            // Files of before transformers 5 do not name the control tokens.
            && (pattern == split::CLIP || split::CLIP.strip_prefix(split::CLIP_NAMES) == Some(pattern))
            && last["type"] == "ByteLevel"
            && last["add_prefix_space"] == false
            && last["use_regex"] != false
            && definition["pretokenizers"].as_array().is_some_and(|parts| parts.len() == 2)
    }

    /// The pre-tokenizer that `tokenizer.json` defines for byte-level BPE; `None` when it does otherwise than cut at
    /// expressions and digits.
    pub(super) fn from_json(definition: &Value, nfc: bool, ignore_merges: bool) -> Option<Pre> {
        let sequence = definition["pretokenizers"].as_array();
        let (last, cuts) = match sequence {
            Some(parts) => parts.split_last()?,
            None => (definition, &[][..]),
        };
        if last["type"] != "ByteLevel" || last["add_prefix_space"] != false {
            return None;
        }
        let mut steps = Vec::new();
        for cut in cuts {
            steps.push(match cut["type"].as_str()? {
                "Split" if cut["behavior"] == "Isolated" && cut["invert"] == false => {
                    Step::expression(cut["pattern"]["Regex"].as_str()?)?
                }
                "Digits" if cut["individual_digits"] == true => Step::expression(r"\p{N}")?,
                _ => return None,
            });
        }
        // Files from before this choice existed always cut as GPT-2.
        if last["use_regex"] != false {
            match (&steps[..], cuts) {
                ([], _) => steps.push(Step::Words(split::gpt2)),
                ([_], [digits]) if digits["type"] == "Digits" => {
                    steps = vec![Step::Words(split::digits_gpt2)]
                }
                _ => steps.push(Step::Words(split::gpt2)),
            }
        }
        Some(Pre { nfc, ignore_merges, ..Pre::of(steps) })
    }

    /// Bytes on the heap, about: a compiled expression takes some 128 KiB, the table of characters' classes 64.
    pub(super) fn heap_bytes(&self) -> usize {
        let of = |step: &Step| if let Step::Isolate(_) = step { 128 << 10 } else { 64 << 10 };
        self.steps.iter().map(of).sum()
    }

    /// Cuts `text` into words, in order.
    pub(super) fn split<'a>(&self, text: &'a str, emit: &mut dyn FnMut(&'a [u8])) {
        match self.bytes {
            None if self.drop_space => split_by(&self.steps, text, &mut |word| {
                if !word.trim().is_empty() {
                    emit(word.as_bytes());
                }
            }),
            None => split_by(&self.steps, text, &mut |word| emit(word.as_bytes())),
            Some(cut) => split_by(&self.steps, text, &mut |word| cut(word.as_bytes(), emit)),
        }
    }
}

impl Step {
    /// The step for an expression of a file: the splitter written for it, if there is one.
    fn expression(pattern: &str) -> Option<Step> {
        let by_hand = split::EXPRESSIONS.iter().find(|(expression, _)| *expression == pattern);
        match by_hand {
            Some(&(_, next)) => Some(Step::Words(next)),
            None => Regex::new(pattern).ok().map(|regex| Step::Isolate(Box::new(regex))),
        }
    }

    fn isolate(pattern: &str) -> Step {
        Step::expression(pattern).expect("a pattern of this file, compiled by its tests")
    }
}

fn split_by<'a>(steps: &[Step], text: &'a str, emit: &mut dyn FnMut(&'a str)) {
    let Some((step, rest)) = steps.split_first() else { return emit(text) };
    let mut pass = |word: &'a str| {
        if word.is_empty() {
        } else if rest.is_empty() {
            emit(word)
        } else {
            split_by(rest, word, emit)
        }
    };
    match step {
        Step::Words(next) => {
            let cursor = Cursor::new(text);
            let mut at = 0;
            while at < text.len() {
                let end = next(&cursor, at);
                debug_assert!(end > at);
                pass(&text[at..end]);
                at = end;
            }
        }
        Step::Isolate(regex) => {
            let mut at = 0;
            // A match can fail only by backtracking without end; what is left is then one word.
            for found in regex.find_iter(text).map_while(Result::ok).filter(|m| !m.as_str().is_empty()) {
                pass(&text[at..found.start()]);
                pass(found.as_str());
                at = found.end();
            }
            pass(&text[at..]);
        }
    }
}

/// Falcon cuts numbers from the rest, and them into threes, after the bytes are written in GPT-2's alphabet, where
/// the bytes of `²³¹¼½¾` are numbers too.
fn falcon_digits<'a>(word: &'a [u8], emit: &mut dyn FnMut(&'a [u8])) {
    let is_number = |b: &u8| matches!(b, b'0'..=b'9' | 0xb2 | 0xb3 | 0xb9 | 0xbc..=0xbe);
    for run in word.chunk_by(|a, b| is_number(a) == is_number(b)) {
        let mut at = 0;
        let mut three = 0;
        while three + 3 <= run.len() {
            if !run[three..three + 3].iter().all(u8::is_ascii_digit) {
                three += 1;
                continue;
            }
            if three > at {
                emit(&run[at..three]);
            }
            emit(&run[three..three + 3]);
            three += 3;
            at = three;
        }
        if at < run.len() {
            emit(&run[at..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_compiles_and_keeps_every_byte() {
        let text = "Hello  World's 12345 ½²٣ 中文かな한국어\r\n\t x=[1,2]; «a» \u{301}e\u{301} 🎉\u{200d}   ";
        for name in [
            "gpt-2",
            "olmo",
            "llama-bpe",
            "qwen2",
            "qwen35",
            "smollm",
            "command-r",
            "gpt-4o",
            "tekken",
            "falcon",
            "bloom",
            "viking",
            "deepseek-llm",
            "deepseek-coder",
            "deepseek-v3",
            "bailingmoe",
            "seed-coder",
            "exaone-moe",
            "default",
        ] {
            let mut joined = Vec::new();
            Pre::named(name).unwrap().split(text, &mut |word| {
                assert!(!word.is_empty());
                joined.extend_from_slice(word);
            });
            assert_eq!(joined, text.as_bytes(), "{name}");
        }
        assert!(Pre::named("martian").is_none());
    }
}
