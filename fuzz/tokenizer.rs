//! What the fuzz target `tokenizer` does with bytes; `cargo test` runs the same over its seeds.

use hob_io::{
    Gguf, Tokenizer,
    tokenizer::{List, Spec},
};
use std::path::Path;

const PRES: [&str; 10] = [
    "gpt-2",
    "llama-bpe",
    "qwen2",
    "qwen35",
    "smollm",
    "gpt-4o",
    "tekken",
    "falcon",
    "deepseek-v3",
    "martian",
];

/// Makes a tokenizer of the bytes and uses it. Bytes that begin as GGUF or JSON are read as that; others are, between
/// bytes 0xff: two bytes of choices, tokens, their types, their scores, merges, special ids, and a text. Tokens and
/// merges end with 0xfe.
pub fn tokenizer(data: &[u8]) {
    let sample =
        |tokenizer: &Tokenizer| exercise(tokenizer, "Hello  wörld's 123\n\n<a>👍\u{2581}x<|im_end|>");
    if data.starts_with(b"GGUF") {
        let Ok(gguf) = Gguf::parse_header(data, data.len() as u64, Path::new("fuzz.gguf")) else { return };
        if let Ok(tokenizer) = Tokenizer::from_gguf(&gguf) {
            sample(&tokenizer);
        }
        return;
    }
    if data.starts_with(b"{") {
        let Ok(text) = std::str::from_utf8(data) else { return };
        if let Ok(tokenizer) = Tokenizer::from_json(text, &Default::default(), &[]) {
            sample(&tokenizer);
        }
        return;
    }
    let mut parts = data.split(|&b| b == 0xff);
    let mut part = || parts.next().unwrap_or_default();
    let choices = part();
    let choice = |i: usize| choices.get(i).copied().unwrap_or(0) as usize;
    let lines = |bytes: &[u8]| -> Vec<Vec<u8>> { bytes.split(|&b| b == 0xfe).map(<[u8]>::to_vec).collect() };
    let tokens = lines(part());
    let (types, scores) = (part(), part());
    let merges = lines(part());
    let ids = part();
    let text = String::from_utf8_lossy(part()).into_owned();

    fn bytes(of: &[Vec<u8>]) -> List<'_, &[u8]> {
        Box::new(of.iter().map(Vec::as_slice))
    }
    let kind = match choice(0) & 97 {
        0 => "gpt2",
        1 => "llama",
        64 | 65 => "t5",
        _ => "bert",
    };
    let mut spec = Spec::new(kind, bytes(&tokens));
    spec.pre = PRES.get(choice(1) % (PRES.len() + 1)).copied();
    spec.merges = Some(bytes(&merges));
    if choice(0) & 2 == 0 {
        spec.token_type = Some(Box::new(types.iter().map(|&b| b as i64 % 8)));
    }
    spec.scores = Some(Box::new(scores.iter().map(|&b| if b == 7 { f32::NAN } else { b as f32 - 128.0 })));
    let id = |i: usize| ids.get(i).map(|&b| b as u64);
    (spec.bos, spec.eos, spec.eot, spec.unknown, spec.padding) = (id(0), id(1), id(2), id(3), id(4));
    spec.separator = id(5);
    spec.add_bos = Some(choice(0) & 4 != 0);
    spec.add_eos = Some(choice(0) & 8 != 0);
    spec.add_space_prefix = Some(choice(0) & 16 != 0);
    if let Ok(tokenizer) = Tokenizer::from_spec(spec) {
        exercise(&tokenizer, &text);
    }
}

/// Encodes and decodes in every way, and checks that the ways agree.
pub fn exercise(tokenizer: &Tokenizer, text: &str) {
    let count = tokenizer.vocab_size() as u32;
    assert!(count > 0 && tokenizer.heap_bytes() > 0);
    let plain = tokenizer.encode(text, false);
    let pair = tokenizer.encode_pair(text, text);
    assert_eq!(pair.ids.len(), pair.types.len());
    assert!(tokenizer.encode_text(text).iter().chain(&pair.ids).all(|&id| id < count));
    for ids in [&plain, &tokenizer.encode(text, true), &tokenizer.encode_with_bos(text, true)] {
        assert!(ids.iter().all(|&id| id < count), "an id beyond {count}");
        check_decoding(tokenizer, ids);
    }
    let shielded = tokenizer.encode_shielded(&tokenizer.shield(text));
    assert!(shielded.iter().all(|&id| id < count));
    assert!(tokenizer.eos_ids().iter().all(|&id| id < count));
    check_decoding(tokenizer, &[0, count, u32::MAX, count - 1]);
    assert!(tokenizer.token_bytes(count).is_none() && !tokenizer.is_special(count));
}

/// Tokens one by one give the text that they give together.
pub fn check_decoding(tokenizer: &Tokenizer, ids: &[u32]) {
    for special in [false, true] {
        let (whole, mut decoder) = if special {
            (tokenizer.decode_with_special(ids), tokenizer.decoder_with_special())
        } else {
            (tokenizer.decode(ids), tokenizer.decoder())
        };
        let mut pieces: String = ids.iter().map(|&id| decoder.push(id)).collect();
        pieces += &decoder.finish();
        assert_eq!(pieces, whole, "{ids:?}");
    }
}
