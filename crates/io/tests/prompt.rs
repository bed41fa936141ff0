//! Chunks of prompts, weights, and textual inversion, as A1111 has them.

use hob_io::{Tokenizer, prompt::*, safetensors};
use proptest::prelude::*;
use std::{path::Path, sync::LazyLock};

static CLIP: LazyLock<Tokenizer> = LazyLock::new(Tokenizer::clip);
const BOS: u32 = 49406;
const EOS: u32 = 49407;
const COMMA: u32 = 267;
/// One token each.
const A: u32 = 320;
const CAT: u32 = 2368;

fn frame() -> Frame {
    let frame = Frame::new(&CLIP, None).unwrap();
    assert_eq!(frame, Frame { bos: BOS, eos: EOS, pad: EOS, comma: Some(COMMA) });
    frame
}

fn chunks(text: &str) -> Vec<Chunk> {
    Prompt::parse(text).chunks(&CLIP, &frame(), &Embeddings::default())
}

/// What stands between the first token and the one that ends the chunk.
fn inner(chunk: &Chunk) -> &[u32] {
    assert_eq!(chunk.ids[0], BOS);
    let end = chunk.ids.iter().position(|&id| id == EOS).expect("an end");
    assert!(chunk.ids[end..].iter().all(|&id| id == EOS));
    &chunk.ids[1..end]
}

fn lengths(text: &str) -> Vec<usize> {
    chunks(text).iter().map(|chunk| inner(chunk).len()).collect()
}

#[test]
fn prompts_are_cut_as_in_a1111() {
    let cats = |n: usize| "cat ".repeat(n);
    assert_eq!(lengths(""), [0]);
    assert_eq!(lengths("a cat"), [2]);
    assert_eq!(lengths(&cats(75)), [75]);
    assert_eq!(lengths(&cats(76)), [75, 1]);
    assert_eq!(lengths(&cats(151)), [75, 75, 1]);
    // A comma among the last twenty: what follows it goes to the next chunk.
    assert_eq!(lengths(&format!("{}, {}", cats(60), cats(20))), [61, 20]);
    assert_eq!(lengths(&format!("{}, {}", cats(55), cats(30))), [56, 30]);
    assert_eq!(lengths(&format!("{}, {}", cats(54), cats(30))), [75, 10]);
    // What fits is not moved; a comma that comes when a chunk is full begins the next one.
    assert_eq!(lengths(&format!("{}, {}", cats(60), cats(14))), [75]);
    assert_eq!(lengths(&format!("{}, {}", cats(75), cats(3))), [75, 4]);
    assert_eq!(lengths(&format!("{}, {}", cats(74), cats(3))), [75, 3]);
    assert_eq!(inner(&chunks(&format!("{}, a", cats(75)))[1]), [COMMA, A]);
    // The comma of one chunk does not count in the next.
    assert_eq!(lengths(&format!("{}, {}", cats(70), cats(150))), [71, 75, 75]);
    // BREAK fills up.
    assert_eq!(lengths("a cat BREAK a"), [2, 1]);
    assert_eq!(lengths("BREAK"), [0]);
    assert_eq!(lengths("a BREAK BREAK a"), [1, 0, 1]);
    assert_eq!(lengths("a BREAK"), [1]);
}

/// Prompts of brackets, commas, breaks and a name of three vectors, by A1111's own code (dev/golden_prompts.py).
#[test]
fn chunks_are_those_of_a1111() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tokenizer/chunks.json");
    type Rows = Vec<(String, Vec<(Vec<u32>, Vec<f32>)>)>;
    let rows: Rows = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(rows.len(), 60);
    let vectors = Vectors { key: "emb_params".into(), channels: 2, values: vec![0.5; 6] };
    let style = Embedding { names: vec!["my-style".into()], vectors: vec![vectors] };
    let embeddings = Embeddings::new(&[style], &CLIP, 2).unwrap();
    let mut most = 0;
    for (text, want) in rows {
        let all = Prompt::parse(&text).chunks(&CLIP, &frame(), &embeddings);
        let got: Vec<&[u32]> = all.iter().map(inner).collect();
        let ids: Vec<&[u32]> = want.iter().map(|(ids, _)| &ids[..]).collect();
        assert_eq!(got, ids, "{text}");
        for (chunk, (ids, weights)) in all.iter().zip(&want) {
            let close = chunk.weights[1..=ids.len()]
                .iter()
                .zip(weights)
                .all(|(a, b)| (a - b).abs() < 1e-4 * b.abs().max(1.0));
            assert!(close, "{text}: {:?}, not {weights:?}", chunk.weights);
        }
        most = most.max(all.len());
    }
    assert!(most >= 4);
}

#[test]
fn weights_are_with_their_tokens() {
    let chunk = &chunks("a (cat:1.5), [a]")[0];
    assert_eq!(inner(chunk), [A, CAT, COMMA, A]);
    assert_eq!(chunk.weights[..5], [1.0, 1.0, 1.5, 1.0, (1.0 / 1.1f64) as f32]);
    assert!(chunk.weights[5..].iter().all(|&weight| weight == 1.0));
    // They move with them.
    let all = chunks(&format!("{}, ({}:1.2)", "cat ".repeat(70), "a ".repeat(10)));
    assert_eq!(all.len(), 2);
    assert_eq!(all[1].weights[1..12], [[1.2; 10].as_slice(), &[1.0]].concat());
    assert!(all[0].weights.iter().all(|&weight| weight == 1.0));
}

/// OpenCLIP is padded with another token than the one that ends a text.
#[test]
fn openclip_is_padded_with_zeros() {
    let frame = Frame::new(&CLIP, Some(0)).unwrap();
    let chunk = &Prompt::parse("a cat").chunks(&CLIP, &frame, &Embeddings::default())[0];
    assert_eq!(chunk.ids[..4], [BOS, A, CAT, EOS]);
    assert!(chunk.ids[4..].iter().all(|&id| id == 0));
    assert_eq!(Chunk::empty(&frame).ids[..3], [BOS, EOS, 0]);
    assert_eq!(Chunk::empty(&self::frame()), chunks("")[0]);
    let t5 = Tokenizer::t5();
    assert!(Frame::new(&t5, None).unwrap_err().contains("begin and end"));
}

#[test]
fn means_are_restored() {
    let mut z = [1.0, 3.0, 2.0, 2.0, -4.0, 8.0];
    weigh(&mut z, &[1.0, 2.0, 0.5]);
    // By torch: 12 before, 14 after the weights (1, 3, 4, 4, -2, 4).
    let want = [1.0, 3.0, 4.0, 4.0, -2.0, 4.0].map(|x: f32| x * 12.0 / 14.0);
    assert!(z.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6), "{z:?}");
    let same = z;
    weigh(&mut z, &[1.0; 3]);
    assert_eq!(z, same);
    weigh(&mut z, &[0.0; 3]);
    assert_eq!(z, [0.0; 6]);
    weigh(&mut [], &[2.0]);
    weigh(&mut z, &[]);
}

/// Writes a safetensors file of F32 tensors.
fn write(path: &Path, tensors: &[(&str, &[usize], &[f32])]) {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, shape, values) in tensors {
        let start = data.len();
        values.iter().for_each(|value| data.extend(value.to_le_bytes()));
        let entry = serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(name.to_string(), entry);
    }
    let header = serde_json::Value::Object(header).to_string();
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
    std::fs::write(path, bytes).unwrap();
    safetensors::Safetensors::open(path).unwrap();
}

#[test]
fn vectors_stand_for_their_names() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let ramp = |n: usize| (0..n).map(|i| i as f32 + 0.5).collect::<Vec<f32>>();
    write(&at("my-style.safetensors"), &[("emb_params", &[3, 4], &ramp(12))]);
    write(&at("learned_embeds.safetensors"), &[("<toy>", &[4], &ramp(4))]);
    write(&at("my-style-xl.safetensors"), &[("clip_g", &[2, 6], &ramp(12)), ("clip_l", &[2, 4], &ramp(8))]);
    let open = |name: &str| Embedding::open(&at(name)).unwrap();
    let files =
        [open("my-style.safetensors"), open("learned_embeds.safetensors"), open("my-style-xl.safetensors")];
    assert_eq!(files[1].names, ["learned_embeds", "<toy>"]);
    assert_eq!((files[0].vectors[0].key.as_str(), files[0].vectors[0].channels), ("emb_params", 4));

    let embeddings = Embeddings::new(&files, &CLIP, 4).unwrap();
    let of = |text: &str| Prompt::parse(text).chunks(&CLIP, &frame(), &embeddings);
    let chunk = &of("a (My-Style:1.3), cat")[0];
    assert_eq!(inner(chunk), [A, 0, 0, 0, COMMA, CAT]);
    assert_eq!(chunk.vectors, [(2, 0)]);
    assert_eq!(chunk.weights[..6], [1.0, 1.0, 1.3, 1.3, 1.3, 1.0]);
    // The longer name wins; ComfyUI's way of naming, diffusers' token beside punctuation, one right after another.
    assert_eq!(of("my-style-xl")[0].vectors, [(1, 2)]);
    assert_eq!(of("embedding:my-style a")[0].vectors, [(1, 0)]);
    assert_eq!(inner(&of("embedding:my-style a")[0]), [0, 0, 0, A]);
    let chunk = &of("a <toy>,<toy> my-style!cat")[0];
    assert_eq!(chunk.vectors, [(2, 1), (4, 1), (5, 0)]);
    assert_eq!(inner(chunk), [A, 0, COMMA, 0, 0, 0, 0, 256, CAT]);
    assert_eq!(of("my styles <Toy>")[0].vectors, []);

    let (mut keep, mut given) = ([9.0; TOKENS], vec![9.0; TOKENS * 4]);
    chunk.place(&embeddings, 4, &mut keep, &mut given);
    assert_eq!(keep[..9], [1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
    assert_eq!(given[5 * 4..8 * 4], ramp(12));
    assert_eq!(given[2 * 4..3 * 4], ramp(4));
    assert!(given[8 * 4..].iter().chain(&given[..8]).all(|&x| x == 0.0));

    // Vectors are not parted, and move with what follows a comma.
    let cats = |n: usize| "cat ".repeat(n);
    let all = of(&format!("{} my-style", cats(73)));
    assert_eq!(all.iter().map(|c| inner(c).len()).collect::<Vec<_>>(), [73, 3]);
    assert_eq!(all[1].vectors, [(1, 0)]);
    let all = of(&format!("{}, a my-style {}", cats(65), cats(10)));
    assert_eq!((inner(&all[0]).len(), &all[0].vectors[..]), (66, &[][..]));
    assert_eq!((all[1].vectors[0], inner(&all[1]).len()), ((2, 0), 14));

    // For SDXL's second encoder.
    let wide = Embeddings::new(&files[2..], &CLIP, 6).unwrap();
    let chunk = &Prompt::parse("my-style-xl").chunks(&CLIP, &frame(), &wide)[0];
    let mut given = vec![0.0; TOKENS * 6];
    chunk.place(&wide, 6, &mut keep, &mut given);
    assert_eq!(given[6..18], ramp(12));
    let error = Embeddings::new(&files, &CLIP, 6).unwrap_err();
    assert!(error.contains("my-style has vectors of 4 numbers") && error.contains("takes 6"), "{error}");
}

#[test]
fn what_is_no_embedding_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.safetensors");
    let said = |tensors: &[(&str, &[usize], &[f32])]| {
        write(&path, tensors);
        Embedding::open(&path).unwrap_err().to_string()
    };
    assert!(said(&[]).contains("no vectors"));
    assert!(said(&[("w", &[1, 2, 2], &[0.0; 4])]).contains("no list of vectors"));
    assert!(said(&[("w", &[76, 1], &[0.0; 76])]).contains("room for 75"));
    assert!(said(&[("a", &[2], &[0.0; 2]), ("b", &[2], &[0.0; 2])]).contains("several tensors"));
    assert!(said(&[("a", &[2], &[0.0, f32::NAN])]).contains("no number"));
    assert!(
        Embedding::open(Path::new("x.pt")).unwrap_err().to_string().contains("convert it to safetensors")
    );
    assert!(Embedding::open(Path::new("none.safetensors")).unwrap_err().to_string().contains("cannot read"));
}

proptest! {
    #[test]
    fn any_prompt_has_chunks(text in r"[ab, ()\[\]:.1é日\n<]{0,300}", any in any::<String>()) {
        for text in [text.replace('b', " BREAK "), any] {
            let prompt = Prompt::parse(&text);
            let all = prompt.chunks(&CLIP, &frame(), &Embeddings::default());
            prop_assert!(!all.is_empty());
            // All tokens are there, in order.
            let got: Vec<u32> = all.iter().flat_map(inner).copied().collect();
            let tokens = |part: &Part| match part {
                Part::Text(text, _) => CLIP.encode(text, false),
                Part::Break => Vec::new(),
            };
            prop_assert_eq!(got, prompt.parts.iter().flat_map(tokens).collect::<Vec<u32>>());
        }
    }
}
