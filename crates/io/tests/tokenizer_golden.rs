//! Token ids equal those of Hugging Face's `tokenizers` on a nasty corpus (made by dev/golden_tokenizer.py).

#[path = "../../../tests/common/models.rs"]
mod models;

use hob_io::{
    Gguf, Tokenizer,
    tokenizer::{List, Spec},
};
use serde_json::Value;
use std::path::PathBuf;

const SMOLLM2: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
const GEMMA3: &str = "gemma-3-270m-q4_k_m.gguf";

fn golden(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tokenizer").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn corpus() -> Vec<String> {
    serde_json::from_str(&golden("corpus.json")).unwrap()
}

/// A text's ids: special tokens as plain text, then recognised; one list when the two are the same.
type Ids = Vec<Vec<u32>>;

/// Compares every text of the corpus and reports the first that differs, with how many do.
fn check(name: &str, tokenizer: &Tokenizer, want: &[Ids]) {
    let corpus = corpus();
    assert_eq!(corpus.len(), want.len(), "{name}: the golden file is of another corpus");
    let mut wrong = Vec::new();
    for (text, ids) in corpus.iter().zip(want) {
        for special in [false, true] {
            let want = if special { ids.last() } else { ids.first() }.unwrap();
            let got = tokenizer.encode(text, special);
            if got != *want {
                let pieces = |ids: &[u32]| -> Vec<String> {
                    let bytes = ids.iter().map(|&id| tokenizer.token_bytes(id).unwrap_or(b"?"));
                    bytes.map(|b| String::from_utf8_lossy(b).into_owned()).collect()
                };
                wrong.push(format!(
                    "{text:?} special={special}\n got {got:?}\nwant {want:?}\n got {:?}\nwant {:?}",
                    pieces(&got),
                    pieces(want)
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{name}: {} texts differ, the first:\n{}", wrong.len(), wrong[0]);
}

fn real(name: &str) -> Tokenizer {
    Tokenizer::from_gguf(&Gguf::open(&models::model(name)).unwrap()).unwrap()
}

#[test]
fn smollm2_as_hugging_face() {
    let tokenizer = real(SMOLLM2);
    check(SMOLLM2, &tokenizer, &serde_json::from_str::<Vec<Ids>>(&golden("smollm2.json")).unwrap());
    assert_eq!(tokenizer.vocab_size(), 49152);
    assert_eq!((tokenizer.bos_id(), tokenizer.add_bos()), (Some(1), false));
    // <|im_end|>, then <|endoftext|>.
    assert_eq!(tokenizer.eos_ids(), [2, 0]);
    assert_eq!(tokenizer.warning(), None);
    assert_eq!(tokenizer.special_id("<|im_start|>"), Some(1));
}

#[test]
fn gemma3_as_hugging_face() {
    let tokenizer = real(GEMMA3);
    check(GEMMA3, &tokenizer, &serde_json::from_str::<Vec<Ids>>(&golden("gemma3.json")).unwrap());
    assert_eq!(tokenizer.vocab_size(), 262144);
    assert_eq!((tokenizer.bos_id(), tokenizer.add_bos()), (Some(2), true));
    // <eos>, then <end_of_turn>; </s> is a tag of HTML here.
    assert_eq!(tokenizer.eos_ids(), [1, 106]);
    assert_eq!(tokenizer.warning(), None);
    assert_eq!(tokenizer.encode_with_bos("<bos>Hi", true), tokenizer.encode_with_bos("Hi", true));
}

/// Two models' whole vocabularies are decoded and encoded again where that must give the same token.
#[test]
fn real_texts_come_back() {
    for name in [SMOLLM2, GEMMA3] {
        let tokenizer = real(name);
        let unspelled = tokenizer.unspelled();
        for text in corpus().iter().filter(|t| !t.bytes().any(|b| unspelled.contains(&b))) {
            let ids = tokenizer.encode(text, true);
            // U+2581 is how SentencePiece writes a space.
            let want = if name == GEMMA3 { text.replace('▁', " ") } else { text.clone() };
            assert_eq!(tokenizer.decode_with_special(&ids), want, "{name}");
            let mut decoder = tokenizer.decoder_with_special();
            let mut pieces: String = ids.iter().map(|&id| decoder.push(id)).collect();
            pieces += &decoder.finish();
            assert_eq!(pieces, want, "{name}");
        }
    }
}

/// What a GGUF file would say of a vocabulary of byte-level BPE.
struct Parts {
    tokens: Vec<String>,
    types: Vec<i64>,
    merges: Vec<String>,
}

impl Parts {
    fn of(json: &Value) -> Parts {
        let vocab = json["model"]["vocab"].as_object().unwrap();
        let added = json["added_tokens"].as_array().unwrap();
        let count = vocab
            .values()
            .chain(added.iter().map(|a| &a["id"]))
            .map(|id| id.as_u64().unwrap())
            .max()
            .unwrap();
        let mut parts = Parts {
            tokens: vec![String::new(); count as usize + 1],
            types: vec![1; count as usize + 1],
            merges: vec![],
        };
        for (text, id) in vocab {
            parts.tokens[id.as_u64().unwrap() as usize] = text.clone();
        }
        for token in added {
            let id = token["id"].as_u64().unwrap() as usize;
            parts.tokens[id] = token["content"].as_str().unwrap().into();
            parts.types[id] = if token["special"] == true { 3 } else { 4 };
        }
        for merge in json["model"]["merges"].as_array().unwrap() {
            let pair: Vec<&str> = merge.as_array().unwrap().iter().map(|s| s.as_str().unwrap()).collect();
            parts.merges.push(pair.join(" "));
        }
        parts
    }

    fn spec<'a>(&'a self, pre: &'a str) -> Spec<'a> {
        let bytes =
            |list: &'a [String]| -> List<'a, &'a [u8]> { Box::new(list.iter().map(|s| s.as_bytes())) };
        let mut spec = Spec::new("gpt2", bytes(&self.tokens));
        spec.pre = Some(pre);
        spec.merges = Some(bytes(&self.merges));
        spec.token_type = Some(Box::new(self.types.iter().copied()));
        spec
    }
}

/// A tokenizer that only the `tokenizers` library makes: a token that takes the spaces before it is beyond Hob's own.
fn by_library(text: &str) -> Tokenizer {
    let mut json: Value = serde_json::from_str(text).unwrap();
    let count = Tokenizer::from_json(text, &Value::Null, &[]).unwrap().vocab_size();
    json["added_tokens"].as_array_mut().unwrap().push(serde_json::json!({
        "id": count, "content": "<not in the corpus>", "single_word": false, "lstrip": true, "rstrip": false,
        "normalized": false, "special": false,
    }));
    let tokenizer = Tokenizer::from_json(&json.to_string(), &Value::Null, &[]).unwrap();
    assert!(format!("{tokenizer:?}").contains("tokenizer.json"), "{tokenizer:?}");
    tokenizer
}

/// Small vocabularies of twelve families' pre-tokenizers and of SentencePiece, read from `tokenizer.json` by Hob and by
/// the library, and as a GGUF file would have them.
#[test]
fn families_as_hugging_face() {
    let goldens: Vec<(String, Vec<Ids>)> = serde_json::from_str(&golden("small.json")).unwrap();
    assert_eq!(goldens.len(), 14);
    for (name, want) in goldens {
        let text = golden(&format!("small/{name}.json"));
        let json = Tokenizer::from_json(&text, &Value::Null, &[]).unwrap();
        let own = format!("{json:?}");
        let falcon = name == "falcon";
        assert_eq!(own.contains("tokenizer.json"), falcon, "{name} is {own}");
        check(&format!("{name} as tokenizer.json"), &json, &want);
        let library = by_library(&text);
        check(&format!("{name} by the library"), &library, &want);
        let mut others = vec![library];
        if !name.starts_with("sentencepiece") {
            let parts = Parts::of(&serde_json::from_str(&text).unwrap());
            let gguf = Tokenizer::from_spec(parts.spec(&name)).unwrap();
            assert_eq!(gguf.warning(), None);
            check(&format!("{name} as GGUF"), &gguf, &want);
            others.push(gguf);
        }
        for other in others {
            for id in 0..json.vocab_size() as u32 {
                assert_eq!(other.token_bytes(id), json.token_bytes(id), "{name}: token {id}");
                assert_eq!(other.is_special(id), json.is_special(id), "{name}: token {id}");
            }
            assert_eq!(other.eos_ids(), json.eos_ids(), "{name}");
            let ids: Vec<u32> = (0..json.vocab_size() as u32).collect();
            assert_eq!(other.decode(&ids), json.decode(&ids), "{name}");
        }
    }
}

/// A vocabulary of WordPiece as llama.cpp's converter writes it: a mark where a word begins, and none where it goes on.
fn wordpiece_parts(json: &Value) -> Parts {
    let vocab = json["model"]["vocab"].as_object().unwrap();
    let mut parts =
        Parts { tokens: vec![String::new(); vocab.len()], types: vec![1; vocab.len()], merges: vec![] };
    for (text, id) in vocab {
        let control = text.starts_with('[') && text.ends_with(']') && text.len() > 2;
        let id = id.as_u64().unwrap() as usize;
        parts.types[id] = if control { 3 } else { 1 };
        parts.tokens[id] = match text.strip_prefix("##") {
            _ if control => text.clone(),
            Some(rest) => rest.into(),
            None => format!("▁{text}"),
        };
    }
    parts
}

/// BERT's tokenizers, with capitals and accents and without, as `tokenizer.json`, `vocab.txt` and GGUF.
#[test]
fn wordpiece_as_hugging_face() {
    let goldens: Vec<(String, Vec<Ids>)> = serde_json::from_str(&golden("wordpiece.json")).unwrap();
    assert_eq!(goldens.len(), 2);
    for (name, want) in goldens {
        let text = golden(&format!("small/{name}.json"));
        let definition: Value = serde_json::from_str(&text).unwrap();
        let json = Tokenizer::from_json(&text, &Value::Null, &[]).unwrap();
        assert!(format!("{json:?}").contains("WordPiece"), "{name} is {json:?}");
        check(&format!("{name} as tokenizer.json"), &json, &want);
        let library = by_library(&text);
        check(&format!("{name} by the library"), &library, &want);

        let parts = wordpiece_parts(&definition);
        let mut spec = parts.spec("");
        (spec.model, spec.merges) = ("bert", None);
        let gguf = Tokenizer::from_spec(spec).unwrap();
        check(&format!("{name} as GGUF"), &gguf, &want);

        let mut lines = vec![String::new(); json.vocab_size()];
        for (text, id) in definition["model"]["vocab"].as_object().unwrap() {
            lines[id.as_u64().unwrap() as usize] = text.clone();
        }
        let config = serde_json::json!({"do_lower_case": name.ends_with("uncased")});
        let txt = Tokenizer::from_lines(&lines.join("\n"), &config).unwrap();
        check(&format!("{name} as vocab.txt"), &txt, &want);

        let named = serde_json::json!({"cls_token": "[CLS]", "sep_token": "[SEP]"});
        let json = Tokenizer::from_json(&text, &named, &[]).unwrap();
        for tokenizer in [&json, &gguf, &txt, &library] {
            let [a, b] = ["Hello", "world!"].map(|text| tokenizer.encode(text, false));
            assert_eq!(tokenizer.encode_text("Hello"), [&[2][..], &a, &[3]].concat());
            let pair = tokenizer.encode_pair("Hello", "world!");
            assert_eq!(pair.ids, [&[2][..], &a, &[3], &b, &[3]].concat());
            let types = [vec![0; a.len() + 2], vec![1; b.len() + 1]].concat();
            assert_eq!(pair.types, types);
            assert_eq!(tokenizer.encode_text(""), [2, 3]);
        }
        for tokenizer in [&json, &gguf, &txt] {
            assert_eq!(
                (tokenizer.bos_id(), tokenizer.eos_ids(), tokenizer.unk_id()),
                (Some(2), &[3][..], Some(1))
            );
            assert_eq!(tokenizer.special_id("[MASK]"), Some(4));
            for id in 0..json.vocab_size() as u32 {
                assert_eq!(tokenizer.token_bytes(id), json.token_bytes(id), "{name}: token {id}");
            }
            assert_eq!(tokenizer.decode(&tokenizer.encode_text("the old house")), "the old house");
        }
    }
}

#[test]
fn minilm_as_hugging_face() {
    let weights = models::model("all-MiniLM-L6-v2/model.safetensors");
    let dir = weights.parent().unwrap();
    let tokenizer = Tokenizer::from_dir(dir).unwrap();
    assert!(format!("{tokenizer:?}").contains("WordPiece"), "{tokenizer:?}");
    check("minilm", &tokenizer, &serde_json::from_str::<Vec<Ids>>(&golden("minilm.json")).unwrap());
    let pairs: Vec<(String, String, Vec<u32>, Vec<u32>)> =
        serde_json::from_str(&golden("pairs.json")).unwrap();
    assert!(pairs.len() > 8);
    for (first, second, ids, types) in pairs {
        let pair = tokenizer.encode_pair(&first, &second);
        assert_eq!((pair.ids, pair.types), (ids, types), "{first:?} and {second:?}");
    }
    // The same from vocab.txt alone, as older models have it.
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
    let config = serde_json::from_str(&read("tokenizer_config.json")).unwrap();
    let txt = Tokenizer::from_lines(&read("vocab.txt"), &config).unwrap();
    check("minilm by vocab.txt", &txt, &serde_json::from_str::<Vec<Ids>>(&golden("minilm.json")).unwrap());
}

/// What contradicts itself is said, and made no tokenizer of.
#[test]
fn a_wordpiece_without_its_tokens_is_refused() {
    let lines = |text: &str| Tokenizer::from_lines(text, &Value::Null).unwrap_err();
    assert!(lines("").contains("empty"), "{}", lines(""));
    assert!(lines("[CLS]\n[SEP]\na").contains("no token [UNK]"));
    assert!(lines("[UNK]\n[CLS]\na").contains("no token [SEP]"));
    let tokens = ["▁a", "b"].map(str::as_bytes);
    let spec = Spec::new("bert", Box::new(tokens.into_iter()));
    assert!(Tokenizer::from_spec(spec).unwrap_err().contains("begins a text"));
}

#[test]
fn an_unknown_pre_tokenizer_is_reported() {
    let text = golden("small/gpt-2.json");
    let parts = Parts::of(&serde_json::from_str(&text).unwrap());
    let tokenizer = Tokenizer::from_spec(parts.spec("martian")).unwrap();
    let warning = tokenizer.warning().unwrap();
    assert!(warning.contains("\"martian\""), "{warning}");
    assert_eq!(tokenizer.decode(&tokenizer.encode("Hello  world", false)), "Hello  world");
}
