//! Tokenizers of pictures' prompts: CLIP's and T5's, as transformers and SentencePiece have them (made by
//! dev/golden_prompts.py).

use hob_io::{Error, Gguf, Tokenizer, gguf::Writer};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// A text's ids; none where an implementation finds control tokens in it.
type Ids = Option<Vec<u32>>;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tokenizer").join(name)
}

fn read<T: serde::de::DeserializeOwned>(name: &str) -> T {
    let path = golden(name);
    let text = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn corpus() -> Vec<String> {
    let [mut corpus, more] = ["corpus.json", "prompts.json"].map(read::<Vec<String>>);
    corpus.extend(more);
    corpus
}

/// Compares every text of the corpus but those that `skip` names, and reports the first that differs.
fn check(name: &str, tokenizer: &Tokenizer, want: &[Ids], skip: impl Fn(&str) -> bool) {
    let corpus = corpus();
    assert_eq!(corpus.len(), want.len(), "{name}: the golden is of another corpus");
    let all = corpus.iter().zip(want).filter(|(text, _)| !skip(text));
    let all: Vec<_> = all.filter_map(|(text, ids)| Some((text, ids.as_ref()?))).collect();
    assert!(all.len() > 160, "{name}: only {} texts", all.len());
    let wrong: Vec<_> = all.iter().filter(|(text, ids)| tokenizer.encode(text, false) != **ids).collect();
    if let Some((text, ids)) = wrong.first() {
        let got = tokenizer.encode(text, false);
        panic!("{name}: {} texts differ, the first {text:?}\n got {got:?}\nwant {ids:?}", wrong.len());
    }
}

fn all(_: &str) -> bool {
    false
}

#[test]
fn clip_as_transformers() {
    let clip = Tokenizer::clip();
    check("clip", &clip, &read::<Vec<Ids>>("clip.json"), all);
    assert_eq!(clip.vocab_size(), 49408);
    assert_eq!((clip.bos_id(), clip.eos_ids(), clip.pad_id()), (Some(49406), &[49407][..], Some(49407)));
    assert_eq!(clip.encode_text("hello!!! World's 123"), [49406, 3306, 995, 1002, 568, 272, 273, 274, 49407]);
    assert_eq!(clip.encode_text(""), [49406, 49407]);
    assert_eq!(clip.encode(",", false), [267]);
    assert_eq!(clip.decode(&clip.encode("A cat, it's 2!", false)), "a cat , it 's 2 ! ");
    // A person's text holds no control token; a rendered one does.
    assert_eq!(clip.encode("<|endoftext|>", true), [49407]);
    assert!(!clip.encode("<|endoftext|>", false).contains(&49407));
    assert_eq!(clip.warning(), None);
}

#[test]
fn t5_as_sentencepiece() {
    let t5 = Tokenizer::t5();
    check("t5", &t5, &read::<Vec<Ids>>("t5.json"), all);
    assert_eq!(t5.vocab_size(), 32000);
    assert_eq!((t5.bos_id(), t5.eos_ids(), t5.pad_id(), t5.unk_id()), (None, &[1][..], Some(0), Some(2)));
    assert_eq!(t5.encode_text("A cat."), [71, 1712, 5, 1]);
    assert_eq!(t5.encode_text(""), [1]);
    assert_eq!(t5.decode(&t5.encode(" A cat in the\n hat,  ﬁn ", false)), "A cat in the hat, fin");
}

/// Small vocabularies as files of SentencePiece, with bytes for the unknown and without, and as the kinds of
/// `tokenizer.json` that were made of T5's and CLIP's over the years.
#[test]
fn small_ones_as_their_makers() {
    let goldens: Vec<(String, Vec<Ids>)> = read("small_prompts.json");
    assert_eq!(goldens.len(), 7);
    for (name, want) in goldens {
        if name.ends_with(".spiece.model") {
            let tokenizer = Tokenizer::from_spiece(&std::fs::read(golden(&format!("small/{name}"))).unwrap());
            // A symbol that its makers defined is found before the text is normalized.
            check(&name, &tokenizer.unwrap(), &want, all);
            continue;
        }
        let mut definition: Value = match name.as_str() {
            "clip-5" => read("small/clip-4.json"),
            _ => read(&format!("small/{name}.json")),
        };
        if name == "clip-5" {
            let pattern = &mut definition["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"];
            *pattern = json!(format!(r"<\|startoftext\|>|<\|endoftext\|>|{}", pattern.as_str().unwrap()));
        }
        let own = Tokenizer::from_json(&definition.to_string(), &Value::Null, &[]).unwrap();
        assert!(!format!("{own:?}").contains("tokenizer.json"), "{name} is {own:?}");
        // Marks upon marks, a space's mark as text, and names of control tokens as text: there they differ.
        let odd = |text: &str| match name.as_str() {
            "clip-4" => text.contains("<|endoftext|>") || text.contains("<|startoftext|>"),
            "clip-5" => false,
            _ => ['\u{301}', '\u{323}', '▁'].iter().any(|&c| text.contains(c)),
        };
        check(&name, &own, &want, odd);
        if name == "clip-4" {
            continue;
        }
        // What only the library makes gives the same.
        let count = own.vocab_size();
        definition["added_tokens"].as_array_mut().unwrap().push(json!({
            "id": count, "content": "<not in the corpus>", "single_word": false, "lstrip": true, "rstrip": false,
            "normalized": false, "special": false,
        }));
        let library = Tokenizer::from_json(&definition.to_string(), &Value::Null, &[]).unwrap();
        assert!(format!("{library:?}").contains("tokenizer.json"), "{library:?}");
        check(&format!("{name} by the library"), &library, &want, odd);
        for id in 0..count as u32 {
            assert_eq!(library.token_bytes(id), own.token_bytes(id), "{name}: token {id}");
            assert_eq!(library.is_special(id), own.is_special(id), "{name}: token {id}");
        }
    }
}

/// The files of a diffusers folder: CLIP's two, and T5's one.
#[test]
fn folders_without_tokenizer_json() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &[u8]| std::fs::write(dir.path().join(name), content).unwrap();
    let definition: Value = read("small/clip-4.json");
    let vocab = &definition["model"]["vocab"];
    let merges: Vec<String> = definition["model"]["merges"]
        .as_array()
        .unwrap()
        .iter()
        .map(|merge| format!("{} {}\n", merge[0].as_str().unwrap(), merge[1].as_str().unwrap()))
        .collect();
    write("vocab.json", vocab.to_string().as_bytes());
    write("merges.txt", format!("#version: 0.2\n{}", merges.concat()).as_bytes());
    let goldens: Vec<(String, Vec<Ids>)> = read("small_prompts.json");
    let want = |name: &str| &goldens.iter().find(|(of, _)| of == name).unwrap().1;
    let clip = Tokenizer::from_dir(dir.path()).unwrap();
    check("vocab.json", &clip, want("clip-5"), all);
    assert_eq!((clip.bos_id(), clip.eos_ids(), clip.unk_id()), (Some(0), &[1][..], Some(1)));
    assert_eq!(clip.encode_text(""), [0, 1]);

    // OpenCLIP pads with `!`, and spells with it.
    write("tokenizer_config.json", br#"{"pad_token": "<|endoftext|>", "tokenizer_class": "CLIPTokenizer"}"#);
    assert_eq!(Tokenizer::from_dir(dir.path()).unwrap().pad_id(), Some(1));
    write("special_tokens_map.json", br#"{"pad_token": "!", "bos_token": {"content": "<|startoftext|>"}}"#);
    let open = Tokenizer::from_dir(dir.path()).unwrap();
    assert_eq!(open.pad_id(), vocab["!"].as_u64().map(|id| id as u32));
    check("padded with !", &open, want("clip-5"), all);

    let said = |clip: Result<Tokenizer, Error>| clip.unwrap_err().to_string();
    write("vocab.json", br#"{"a": 0, "b": 1}"#);
    assert!(said(Tokenizer::from_dir(dir.path())).contains("save the tokenizer as tokenizer.json"));
    write("vocab.json", br#"{"a": 0, "b</w>": 1}"#);
    assert!(said(Tokenizer::from_dir(dir.path())).contains("no token <|startoftext|>"));
    write("vocab.json", b"[");
    assert!(said(Tokenizer::from_dir(dir.path())).contains("holds no tokens"));

    std::fs::remove_file(dir.path().join("merges.txt")).unwrap();
    write("spiece.model", &std::fs::read(golden("small/t5.spiece.model")).unwrap());
    check("a folder", &Tokenizer::from_dir(dir.path()).unwrap(), want("t5.spiece.model"), all);
    write("spiece.model", b"PK\x03\x04");
    assert!(said(Tokenizer::from_dir(dir.path())).contains("no file of SentencePiece"));
    std::fs::remove_file(dir.path().join("spiece.model")).unwrap();
    assert!(said(Tokenizer::from_dir(dir.path())).contains("spiece.model"));
}

/// What a T5 encoder's GGUF carries of its tokenizer.
#[test]
fn t5_of_a_gguf() {
    let definition: Value = read("small/t5-2024.json");
    let rules = definition["normalizer"]["normalizers"][0]["precompiled_charsmap"].as_str().unwrap();
    let vocab = definition["model"]["vocab"].as_array().unwrap();
    let tokens: Vec<&str> = vocab.iter().map(|piece| piece[0].as_str().unwrap()).collect();
    let scores: Vec<f32> = vocab.iter().map(|piece| piece[1].as_f64().unwrap() as f32).collect();
    let types: Vec<i32> = (0..tokens.len()).map(|id| [3, 3, 2, 1][id.min(3)]).collect();
    let gguf = |rules: &[i32]| {
        let mut w = Writer::new();
        w.str("tokenizer.ggml.model", "t5").strings("tokenizer.ggml.tokens", &tokens);
        w.f32s("tokenizer.ggml.scores", &scores).i32s("tokenizer.ggml.token_type", &types);
        w.i32s("tokenizer.ggml.precompiled_charsmap", rules)
            .bool("tokenizer.ggml.remove_extra_whitespaces", true);
        w.bool("tokenizer.ggml.add_space_prefix", true);
        let bytes = w.begin(Vec::new()).unwrap().finish().unwrap();
        Tokenizer::from_gguf(&Gguf::parse_header(&bytes, bytes.len() as u64, Path::new("t5.gguf")).unwrap())
    };
    let bytes: Vec<i32> = base64(rules).into_iter().map(|byte| byte as i8 as i32).collect();
    let t5 = gguf(&bytes).unwrap();
    let goldens: Vec<(String, Vec<Ids>)> = read("small_prompts.json");
    check("a GGUF", &t5, &goldens.iter().find(|(of, _)| of == "t5.spiece.model").unwrap().1, all);
    assert_eq!((t5.eos_ids(), t5.pad_id(), t5.add_bos()), (&[1][..], Some(0), false));
    assert_eq!(t5.encode_text(""), [1]);
    assert!(gguf(&bytes[..9]).unwrap_err().to_string().contains("rules of normalization"));
}

fn base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut out, mut bits, mut held) = (Vec::new(), 0u32, 0);
    for digit in text.bytes().filter(|&b| b != b'=') {
        bits = bits << 6 | DIGITS.iter().position(|&d| d == digit).unwrap() as u32;
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    out
}

/// Bytes changed anywhere in a file of SentencePiece are said or lived with.
#[test]
fn damaged_files_are_no_panic() {
    let file = std::fs::read(golden("small/t5.spiece.model")).unwrap();
    let mut seed = 1u64;
    for round in 0..600 {
        let mut bad = file.clone();
        for _ in 0..1 + round % 4 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let at = (seed >> 33) as usize % bad.len();
            bad[at] = (seed >> 25) as u8;
        }
        if round % 3 == 0 {
            bad.truncate((seed >> 40) as usize % bad.len());
        }
        if let Ok(tokenizer) = Tokenizer::from_spiece(&bad) {
            tokenizer.encode_text("Hello  wörld ﬁ ½ é 한\u{3000}日本 <cat>");
        }
    }
    assert!(Tokenizer::from_spiece(b"").unwrap_err().contains("no file of SentencePiece"));
    assert!(Tokenizer::from_spiece(&[0x12, 0x02, 0x18, 0x02]).unwrap_err().contains("not Unigram"));
}
