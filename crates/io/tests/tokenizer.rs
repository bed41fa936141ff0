//! Properties of tokenizers, and files that contradict themselves.

#[path = "../../../fuzz/tokenizer.rs"]
mod target;

use hob_io::{
    Error, Gguf, Tokenizer,
    gguf::Writer,
    tokenizer::{List, Spec},
};
use proptest::prelude::*;
use std::{
    path::{Path, PathBuf},
    sync::LazyLock,
    time::{Duration, Instant},
};

/// The small vocabularies of the goldens whose pre-tokenizer changes no text.
static FAMILIES: LazyLock<Vec<(&str, Tokenizer)>> = LazyLock::new(|| {
    let names = [
        "gpt-2",
        "smollm",
        "llama-bpe",
        "gpt-4o",
        "tekken",
        "falcon",
        "bloom",
        "deepseek-coder",
        "deepseek-v3",
    ];
    names.map(|name| (name, Tokenizer::from_gguf(&gguf(name)).unwrap())).into_iter().collect()
});

static SPM: LazyLock<Tokenizer> = LazyLock::new(|| spm(false));

/// A golden `tokenizer.json` as a GGUF file would have it.
fn gguf(name: &str) -> Gguf {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../tests/golden/tokenizer/small/{name}.json"));
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let id = |value: &serde_json::Value| value.as_u64().unwrap() as usize;
    let vocab = json["model"]["vocab"].as_object().unwrap();
    let added = json["added_tokens"].as_array().unwrap();
    let count = vocab.values().map(id).chain(added.iter().map(|a| id(&a["id"]))).max().unwrap() + 1;
    let (mut tokens, mut types) = (vec![String::new(); count], vec![1; count]);
    vocab.iter().for_each(|(text, at)| tokens[id(at)] = text.clone());
    for token in added {
        tokens[id(&token["id"])] = token["content"].as_str().unwrap().into();
        types[id(&token["id"])] = if token["special"] == true { 3 } else { 4 };
    }
    let pair =
        |merge: &serde_json::Value| format!("{} {}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap());
    let merges: Vec<String> = json["model"]["merges"].as_array().unwrap().iter().map(pair).collect();
    written(|w| {
        w.str("tokenizer.ggml.model", "gpt2").str("tokenizer.ggml.pre", name);
        w.strings("tokenizer.ggml.tokens", &tokens).i32s("tokenizer.ggml.token_type", &types);
        w.strings("tokenizer.ggml.merges", &merges);
    })
}

/// A GGUF file of metadata alone, read back.
fn written(fill: impl FnOnce(&mut Writer)) -> Gguf {
    let mut writer = Writer::new();
    writer.str("general.architecture", "llama");
    fill(&mut writer);
    let bytes = writer.begin(Vec::new()).unwrap().finish().unwrap();
    Gguf::parse_header(&bytes, bytes.len() as u64, Path::new("made-up.gguf")).unwrap()
}

/// Pieces of a small SentencePiece vocabulary, the best first.
const PIECES: [&str; 30] = [
    "re", "▁t", "he", "▁the", "in", "an", "on", "er", "▁a", "th", "▁an", "ing", "and", "▁and", "▁▁", "aa",
    "aaa", "aaaa", "abab", "ab", "ba", "r▁", ">▁<", "▁<", "ö", "▁ö", "öö", "👍", "to", "▁to",
];

/// Byte tokens, pieces with scores, letters, and user-defined tokens.
fn spm(space_prefix: bool) -> Tokenizer {
    let (mut tokens, mut types, mut scores) = (Vec::new(), Vec::new(), Vec::new());
    let mut push = |text: String, kind: i32, score: f32| {
        tokens.push(text);
        types.push(kind);
        scores.push(score);
    };
    push("<unk>".into(), 2, 0.0);
    push("<s>".into(), 3, 0.0);
    push("</s>".into(), 3, 0.0);
    (0..=255).for_each(|b| push(format!("<0x{b:02X}>"), 6, 0.0));
    PIECES.iter().enumerate().for_each(|(i, piece)| push(piece.to_string(), 1, -(i as f32)));
    "▁abcdefghinorst<>".chars().enumerate().for_each(|(i, c)| push(c.into(), 1, -100.0 - i as f32));
    ["   ", "\n\n", "<b>"].iter().for_each(|text| push(text.to_string(), 4, -1000.0));
    let gguf = written(|w| {
        w.str("tokenizer.ggml.model", "llama").bool("tokenizer.ggml.add_space_prefix", space_prefix);
        w.strings("tokenizer.ggml.tokens", &tokens).i32s("tokenizer.ggml.token_type", &types);
        w.f32s("tokenizer.ggml.scores", &scores);
    });
    Tokenizer::from_gguf(&gguf).unwrap()
}

/// SentencePiece's merging as it is defined: look at all neighbours, merge the best pair, again.
fn spm_by_definition(text: &str) -> Vec<String> {
    let mut pieces: Vec<String> = text.replace(' ', "▁").chars().map(String::from).collect();
    loop {
        let rank = |i: usize| PIECES.iter().position(|p| *p == format!("{}{}", pieces[i], pieces[i + 1]));
        let best = (0..pieces.len().saturating_sub(1)).filter_map(|i| Some((rank(i)?, i))).min();
        let Some((_, at)) = best else { return pieces };
        let right = pieces.remove(at + 1);
        pieces[at] += &right;
    }
}

proptest! {
    #[test]
    fn byte_level_text_comes_back(text in any::<String>(), special in any::<bool>()) {
        for (name, tokenizer) in FAMILIES.iter() {
            let ids = tokenizer.encode(&text, special);
            prop_assert_eq!(&tokenizer.decode_with_special(&ids), &text, "{}", name);
            target::exercise(tokenizer, &text);
        }
    }

    #[test]
    fn text_full_of_special_tokens_comes_back(
        parts in proptest::collection::vec(
            prop::sample::select(vec!["<|im_end|>", "<|im_start|>", "<h1>", "    ", " ", "<|", "a", "\n", "|>", "<"]), 0..12),
    ) {
        let text = parts.concat();
        let markers = text.matches("<|im_end|>").count();
        for (name, tokenizer) in FAMILIES.iter() {
            let end = tokenizer.special_id("<|im_end|>").unwrap();
            let ends = |ids: &[u32]| ids.iter().filter(|&&id| id == end).count();
            let (plain, special) = (tokenizer.encode(&text, false), tokenizer.encode(&text, true));
            prop_assert_eq!((ends(&plain), ends(&special)), (0, markers), "{}", name);
            prop_assert_eq!(&tokenizer.decode(&plain), &text);
            prop_assert_eq!(&tokenizer.decode_with_special(&special), &text);
            prop_assert_eq!(tokenizer.encode_shielded(&tokenizer.shield(&text)), plain, "{}", name);
        }
    }

    #[test]
    fn sentencepiece_text_comes_back(text in any::<String>()) {
        let want = text.replace('▁', " ");
        prop_assert_eq!(SPM.decode(&SPM.encode(&text, false)), want.clone());
        let prefixed = spm(true);
        prop_assert_eq!(prefixed.decode(&prefixed.encode(&text, false)), want);
        target::exercise(&SPM, &text);
    }

    #[test]
    fn sentencepiece_merges_as_defined(text in "[ abehinortö<>👍]{0,40}") {
        // Runs of spaces and tags are user-defined tokens here, which are not merged.
        prop_assume!(!text.contains("   ") && !text.contains("<b>"));
        let pieces: Vec<String> = spm_by_definition(&text);
        let spelled = |id: u32| String::from_utf8(SPM.token_bytes(id).unwrap().to_vec()).unwrap().replace(' ', "▁");
        prop_assert_eq!(SPM.encode(&text, false).into_iter().map(spelled).collect::<Vec<_>>(), pieces);
    }

    #[test]
    fn a_long_text_is_its_words_one_by_one(words in proptest::collection::vec("[a-qs-z]{3,12}", 100..150)) {
        // Long enough that words are remembered; no r, which has a piece that goes on over a space.
        let text = words.iter().map(|w| format!(" {w}")).collect::<String>().repeat(20);
        prop_assert!(text.len() > 4096);
        for (name, tokenizer) in FAMILIES.iter() {
            let one_by_one: Vec<u32> =
                words.iter().flat_map(|word| tokenizer.encode(&format!(" {word}"), false)).collect();
            prop_assert_eq!(tokenizer.encode(&text, false), one_by_one.repeat(20), "{}", name);
        }
        let one_by_one: Vec<u32> = words.iter().flat_map(|word| SPM.encode(&format!(" {word}"), false)).collect();
        prop_assert_eq!(SPM.encode(&text, false), one_by_one.repeat(20));
    }

    #[test]
    fn any_ids_decode(ids in proptest::collection::vec(0u32..1200, 0..40)) {
        for (_, tokenizer) in FAMILIES.iter() {
            target::check_decoding(tokenizer, &ids);
        }
        target::check_decoding(&SPM, &ids);
    }

    #[test]
    fn any_bytes_are_survived(data in proptest::collection::vec(any::<u8>(), 0..300)) {
        target::tokenizer(&data);
    }

    #[test]
    fn damaged_seeds_are_survived(which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let seeds = seeds();
        let mut seed = seeds[which.index(seeds.len())].1.clone();
        let at = at.index(seed.len());
        seed[at] = byte;
        target::tokenizer(&seed);
    }
}

fn seeds() -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/tokenizer");
    let mut seeds: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    seeds.sort();
    seeds
}

#[test]
fn the_fuzzers_seeds_are_survived() {
    let seeds = seeds();
    assert!(seeds.len() >= 5);
    for (path, seed) in seeds {
        println!("{}", path.display());
        target::tokenizer(&seed);
    }
}

#[test]
fn a_word_of_a_million_letters_takes_its_time_but_no_more() {
    let start = Instant::now();
    let word = "ab".repeat(500_000);
    let (_, gpt2) = &FAMILIES[0];
    assert_eq!(gpt2.decode(&gpt2.encode(&word, false)), word);
    assert_eq!(SPM.decode(&SPM.encode(&word, false)), word);
    let spaces = " ".repeat(1_000_000);
    assert_eq!(gpt2.decode(&gpt2.encode(&spaces, false)), spaces);
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
}

#[test]
fn a_space_goes_before_text_and_after_control_tokens() {
    let tokenizer = spm(true);
    let spelled = |ids: &[u32]| -> Vec<String> {
        ids.iter()
            .map(|&id| String::from_utf8_lossy(tokenizer.token_bytes(id).unwrap()).into_owned())
            .collect()
    };
    assert_eq!(spelled(&tokenizer.encode("the<s>an<b>to", true)), [" the", "<s>", " an", "<b>", "to"]);
    assert_eq!(tokenizer.encode_with_bos("", false), [1]);
    assert_eq!((tokenizer.bos_id(), tokenizer.add_bos(), tokenizer.eos_ids()), (Some(1), true, &[2][..]));
}

/// What a vocabulary of bytes and two merges would say, to be spoilt.
fn byte_level() -> (Vec<String>, Vec<&'static str>) {
    (["a", "b", "c", "ab", "abc", "<|im_end|>"].map(String::from).to_vec(), vec!["a b", "ab c"])
}

#[test]
fn contradictions_are_told() {
    let error = |spoil: &dyn Fn(&mut Spec)| -> String {
        let (tokens, merges) = byte_level();
        let mut spec = Spec::new("gpt2", Box::new(tokens.iter().map(|t| t.as_bytes())));
        spec.pre = Some("gpt-2");
        spec.merges = Some(Box::new(merges.iter().map(|m| m.as_bytes())));
        spec.token_type = Some(Box::new([1, 1, 1, 1, 1, 3].into_iter()));
        spoil(&mut spec);
        Tokenizer::from_spec(spec).err().unwrap_or_default()
    };
    fn list<'a, T: 'a>(items: Vec<T>) -> List<'a, T> {
        Box::new(items.into_iter())
    }
    fn merges<'a>(texts: &[&'static [u8]]) -> Option<List<'a, &'a [u8]>> {
        Some(list(texts.iter().map(|&text| text as &[u8]).collect()))
    }
    assert_eq!(error(&|_| ()), "");
    type Spoil = Box<dyn Fn(&mut Spec)>;
    let table: Vec<(Spoil, &str)> = vec![
        (Box::new(|s| s.model = "plamo2"), "unknown kind \"plamo2\""),
        (Box::new(|s| s.tokens = list(vec![])), "it has 0 tokens and 6 token types"),
        (
            Box::new(|s| {
                s.tokens = list(vec![]);
                s.token_type = None;
            }),
            "vocabulary is empty",
        ),
        (
            Box::new(|s| {
                s.tokens = Box::new((0..1 << 24).map(|_| &b"x"[..]));
                s.token_type = None;
            }),
            "has 16777216 tokens",
        ),
        (Box::new(|s| s.merges = None), "has no merges"),
        (Box::new(|s| s.merges = merges(&[b"a z"])), "merge 0 (\"az\") ends with a token that is not in"),
        (Box::new(|s| s.merges = merges(&[b"z a"])), "begins with a token that is not in"),
        (Box::new(|s| s.merges = merges(&[b"a b", b"b a"])), "merge 1 (\"ba\") makes a token that is not in"),
        (Box::new(|s| s.merges = merges(&[b"ab"])), "is not two tokens with a space between"),
        (Box::new(|s| s.merges = merges(&[b""])), "is not two tokens"),
        (Box::new(|s| s.merges = merges(&[b"a \xff"])), "not written in the alphabet"),
        (Box::new(|s| s.merges = merges(&[b"a b"; 100].map(|m| &m[..]))), "has 100 merges for 6 tokens"),
        (Box::new(|s| s.token_type = Some(list(vec![1, 1]))), "6 tokens and 2 token types"),
        (Box::new(|s| s.bos = Some(6)), "bos token is 6, beyond its 6 tokens"),
        (Box::new(|s| s.eos = Some(1 << 40)), "eos token is 1099511627776"),
        (Box::new(|s| s.model = "llama"), "has no scores"),
        (
            Box::new(|s| {
                s.model = "llama";
                s.scores = Some(list(vec![0.0]));
            }),
            "6 tokens and 1 scores",
        ),
        (
            Box::new(|s| {
                s.model = "llama";
                s.token_type = Some(list(vec![6; 6]));
            }),
            "token 0 is of type byte, but reads \"a\"",
        ),
    ];
    for (spoil, want) in table {
        let got = error(&*spoil);
        assert!(got.contains(want), "{want:?} is not in {got:?}");
    }
}

#[test]
fn a_file_is_named_in_its_errors() {
    for (gguf, want) in [
        (written(|_| ()), "has no tokenizer (no metadata key tokenizer.ggml.model)"),
        (written(|w| _ = w.str("tokenizer.ggml.model", "gpt2")), "no metadata key tokenizer.ggml.tokens"),
        (written(|w| _ = w.u32("tokenizer.ggml.model", 1)), "tokenizer.ggml.model has the wrong type"),
        (
            written(|w| _ = w.str("tokenizer.ggml.model", "gpt2").u32("tokenizer.ggml.tokens", 1)),
            "tokenizer.ggml.tokens has the wrong type",
        ),
        (
            written(|w| _ = w.str("tokenizer.ggml.model", "rwkv").strings("tokenizer.ggml.tokens", &["a"])),
            "of the kind \"rwkv\", and Hob knows gpt2, llama, t5 and bert",
        ),
        (
            written(|w| _ = w.str("tokenizer.ggml.model", "bert").strings("tokenizer.ggml.tokens", &["a"])),
            "it has no token that begins a text",
        ),
        (
            written(|w| _ = w.str("tokenizer.ggml.model", "llama").strings("tokenizer.ggml.tokens", &["a"])),
            "its vocabulary has no scores",
        ),
    ] {
        let error = Tokenizer::from_gguf(&gguf).unwrap_err().to_string();
        assert!(error.contains(want) && error.contains("made-up.gguf"), "{error}");
    }
}

#[test]
fn folders_name_special_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let error = || Tokenizer::from_dir(dir.path()).unwrap_err();
    assert!(
        matches!(error(), Error::Unsupported { .. }) && error().to_string().contains("no tokenizer.json")
    );
    write("tokenizer.json", "{}");
    assert!(error().to_string().contains("tokenizer.json is damaged"), "{}", error());

    let golden =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tokenizer/small/llama-bpe.json");
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
    json["post_processor"] = serde_json::json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [0], "tokens": ["<|im_start|>"]}},
    });
    write("tokenizer.json", &json.to_string());
    let alone = Tokenizer::from_dir(dir.path()).unwrap();
    assert_eq!((alone.bos_id(), alone.add_bos(), alone.eos_ids()), (None, false, &[1, 2][..]));

    write(
        "tokenizer_config.json",
        r#"{"bos_token": {"content": "<|im_start|>"}, "eos_token": "<|endoftext|>"}"#,
    );
    write("generation_config.json", r#"{"eos_token_id": [2, 7, 99999999], "pad_token_id": 2}"#);
    let full = Tokenizer::from_dir(dir.path()).unwrap();
    assert_eq!((full.bos_id(), full.add_bos(), full.pad_id()), (Some(0), true, Some(2)));
    assert_eq!(full.eos_ids(), [2, 7, 1]);
    assert_eq!(full.encode_with_bos("Hi", false)[0], 0);
    assert_eq!(full.encode("<|im_end|>", true), [1]);
    assert!(!full.encode("<|im_end|>", false).contains(&1));

    write("config.json", "[");
    assert!(error().to_string().contains("config.json is damaged"), "{}", error());
}
