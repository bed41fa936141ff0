//! GGUF files: sound ones come back as written, hostile ones end in a sentence.

mod common;

use common::{Raw, TINY, gguf, llama_metadata, parse, sentence, tiny_llama};
use hob_dtype::DType;
use hob_io::{
    Error, Gguf,
    gguf::{Value, Writer},
};
use std::{fs, path::Path};

#[test]
fn what_is_written_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tiny.gguf");
    fs::write(&path, tiny_llama()).unwrap();
    let model = Gguf::open(&path).unwrap();
    assert_eq!(model.version(), 3);
    assert_eq!(model.architecture(), Some("llama"));
    assert_eq!(model.get("llama.block_count"), Some(Value::U64(2)));
    assert_eq!(model.get("llama.rope.freq_base").unwrap().f64(), Some(50000.0));
    assert_eq!(model.get("tokenizer.ggml.add_bos_token").unwrap().bool(), Some(false));
    assert_eq!(model.get("no.such.key"), None);
    let list = |key: &str| model.get(key).unwrap().array().unwrap();
    let tokens: Vec<&[u8]> = list("tokenizer.ggml.tokens").strings().unwrap().collect();
    assert_eq!(tokens, [&b"a"[..], b"b", b"", b"\xff\xfe", "é".as_bytes()]);
    assert_eq!(list("tokenizer.ggml.tokens").len(), 5);
    assert!(list("tokenizer.ggml.scores").f32s().unwrap().eq([0.0, -1.0, -2.0, -3.0, -4.0]));
    assert!(list("tokenizer.ggml.token_type").ints().unwrap().eq([3, 1, 1, 1, 1]));
    assert!(list("made.up.switches").bools().unwrap().eq([true, false]));
    assert!(
        list("tokenizer.ggml.tokens").ints().is_none() && list("tokenizer.ggml.scores").strings().is_none()
    );

    assert_eq!(model.tensors().len(), TINY.len());
    for (tensor, (name, dtype, shape)) in model.tensors().iter().zip(TINY) {
        assert_eq!((tensor.stored_name.as_str(), tensor.dtype, &*tensor.shape), (name, dtype, shape));
        let expected = (0..tensor.len).map(|i| (i % 251) as u8);
        assert!(model.bytes(tensor).iter().copied().eq(expected), "{name}");
    }
    assert_eq!(model.tensor("output_norm.weight"), model.tensors().last());
    assert_eq!(model.size_bytes(), fs::metadata(&path).unwrap().len());
    assert_eq!(model.maps().count(), 1);
}

#[test]
fn a_header_is_read_from_a_prefix() {
    let file = tiny_llama();
    let whole = parse(&file).unwrap();
    let header = whole.header_bytes() as usize;
    for given in 0..file.len() {
        let part = Gguf::parse_header(&file[..given], file.len() as u64, Path::new("remote.gguf"));
        match part {
            Err(Error::NeedMore { needed, .. }) => {
                assert!(
                    given < header && needed > given as u64 && needed <= header as u64,
                    "{given}: {needed}"
                );
            }
            Err(other) => panic!("{given} bytes: {other}"),
            Ok(part) => {
                assert!(given >= header, "{given} bytes");
                assert_eq!(part.tensors(), whole.tensors());
                assert_eq!(part.get("general.license").unwrap().str(), Some("apache-2.0"));
            }
        }
    }
}

#[test]
fn a_truncated_file_is_an_error_everywhere() {
    let file = tiny_llama();
    for len in 0..file.len() {
        let text = sentence(parse(&file[..len]));
        assert!(text.contains("test.gguf"), "{text}");
    }
}

#[test]
fn version_2_is_read_and_others_are_not() {
    let mut file = tiny_llama();
    file[4] = 2;
    assert_eq!(parse(&file).unwrap().version(), 2);
    for (version, expected) in [
        ([1, 0, 0, 0], "version 1"),
        ([4, 0, 0, 0], "GGUF version 4"),
        ([0, 0, 0, 3], "big-endian"),
        ([0, 0, 0, 2], "big-endian"),
    ] {
        file[4..8].copy_from_slice(&version);
        let text = sentence(parse(&file));
        assert!(text.contains(expected), "{text}");
    }
    assert!(sentence(parse(b"GGML and more")).contains("not a GGUF file"));
    assert!(sentence(parse(b"")).contains("damaged"));
}

#[test]
fn hostile_headers_end_in_a_sentence() {
    let key = |raw: &mut Raw, key: &[u8], kind: u32| {
        raw.str(key).u32(kind);
    };
    let metadata = |kind: u32, value: &dyn Fn(&mut Raw)| {
        let mut raw = Raw::header(0, 1);
        key(&mut raw, b"k", kind);
        value(&mut raw);
        raw.data(64);
        raw.0
    };
    let tensor = |dims: &[u64], dtype: u32, offset: u64| {
        let mut raw = Raw::header(1, 0);
        raw.tensor("w", dims, dtype, offset).data(64);
        raw.0
    };
    let aligned = |alignment: u32| {
        let mut raw = Raw::header(0, 1);
        key(&mut raw, b"general.alignment", 4);
        raw.u32(alignment).data(64);
        raw.0
    };
    let two = |first: &str, second: &str, offset: u64| {
        let mut raw = Raw::header(2, 0);
        raw.tensor(first, &[8], 0, 0).tensor(second, &[8], 0, offset).data(64);
        raw.0
    };
    let mut twice = Raw::header(0, 2);
    for _ in 0..2 {
        key(&mut twice, b"k", 4);
        twice.u32(1);
    }
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("claims 18446744073709551615 tensors", Raw::header(u64::MAX, 0).data(64).0.clone()),
        ("claims 1000 tensors", Raw::header(1000, 0).data(64).0.clone()),
        ("claims 9223372036854775808 metadata", Raw::header(0, 1 << 63).data(64).0.clone()),
        ("unknown type 13", metadata(13, &|_| ())),
        (
            "within the header",
            metadata(8, &|r| {
                r.u64(1 << 40);
            }),
        ),
        (
            "within the header",
            metadata(8, &|r| {
                r.u64(u64::MAX);
            }),
        ),
        (
            "not valid UTF-8",
            metadata(8, &|r| {
                r.str(b"\xff");
            }),
        ),
        (
            "neither 0 nor 1",
            metadata(7, &|r| {
                r.bytes(&[2]);
            }),
        ),
        (
            "neither 0 nor 1",
            metadata(9, &|r| {
                r.u32(7).u64(2).bytes(&[1, 7]);
            }),
        ),
        (
            "lists of lists",
            metadata(9, &|r| {
                r.u32(9).u64(1).u32(4).u64(1).u32(0);
            }),
        ),
        (
            "18446744073709551615 strings",
            metadata(9, &|r| {
                r.u32(8).u64(u64::MAX);
            }),
        ),
        (
            "4611686018427387904 values",
            metadata(9, &|r| {
                r.u32(6).u64(1 << 62);
            }),
        ),
        (
            "within the header",
            metadata(9, &|r| {
                r.u32(8).u64(2).str(b"a").u64(1 << 63);
            }),
        ),
        ("a metadata key is not valid UTF-8", {
            let mut raw = Raw::header(0, 1);
            raw.str(b"\xc3").u32(4).u32(0).data(64);
            raw.0
        }),
        ("a metadata key is 70000 bytes long", {
            let mut raw = Raw::header(0, 1);
            raw.str(&[b'k'; 70_000]).u32(4).u32(0).data(64);
            raw.0
        }),
        ("\"k\" occurs twice", twice.data(64).0.clone()),
        ("power of two", aligned(0)),
        ("power of two", aligned(24)),
        ("power of two", aligned(1 << 31)),
        ("5 dimensions", tensor(&[1; 5], 0, 0)),
        ("4294967295 dimensions", {
            let mut raw = Raw::header(1, 0);
            raw.str(b"w").u32(u32::MAX).data(64);
            raw.0
        }),
        ("number format 99", tensor(&[1], 99, 0)),
        ("number format 4,", tensor(&[32], 4, 0)),
        ("larger than the whole file", tensor(&[u64::MAX], 0, 0)),
        ("larger than the whole file", tensor(&[1 << 32, 1 << 32], 0, 0)),
        ("larger than the whole file", tensor(&[1 << 32, 1 << 32, 0], 0, 0)),
        ("larger than the whole file", tensor(&[1 << 20, 1 << 20], 0, 0)),
        ("no whole number of Q4_K blocks", tensor(&[100], 12, 0)),
        ("past the end of the file", tensor(&[8], 0, 64)),
        ("past the end of the file", tensor(&[8], 0, u64::MAX - 31)),
        ("no multiple of 32", tensor(&[8], 0, 8)),
        ("\"w\" occurs twice", two("w", "w", 32)),
        ("overlap", two("v", "w", 0)),
    ];
    for (expected, file) in cases {
        let text = sentence(parse(&file));
        assert!(text.contains("test.gguf") && text.contains(expected), "instead of {expected:?}: {text}");
    }
}

#[test]
fn a_sound_raw_file_is_read() {
    // The hostile cases above differ from this by what they say is wrong.
    let mut raw = Raw::header(2, 1);
    raw.str(b"general.alignment").u32(4).u32(64);
    raw.tensor("v", &[8, 2], 0, 0).tensor("w", &[], 0, 64);
    let header = raw.0.len().next_multiple_of(64);
    raw.0.resize(header + 128, 0);
    let model = parse(&raw.0).unwrap();
    assert_eq!(model.tensor("v").unwrap().shape, [2, 8]);
    assert_eq!(model.tensor("v").unwrap().offset, header as u64);
    assert_eq!(model.tensor("w").unwrap().len, 4);
    assert_eq!(model.tensor("w").unwrap().offset, header as u64 + 64);
}

/// Part `no` of 3, with its share of the tensors.
fn part(no: u16, count: u16) -> Vec<u8> {
    let mut writer = if no == 0 { llama_metadata() } else { Writer::new() };
    writer.u16("split.no", no).u16("split.count", count).u32("split.tensors.count", TINY.len() as u32);
    gguf(writer, &TINY[2 * no as usize..][..2])
}

#[test]
fn split_files_are_joined_from_any_part() {
    let dir = tempfile::tempdir().unwrap();
    let path = |no: u16| dir.path().join(format!("tiny-{:05}-of-00003.gguf", no + 1));
    for no in 0..3 {
        fs::write(path(no), part(no, 3)).unwrap();
    }
    for no in 0..3 {
        let model = Gguf::open(&path(no)).unwrap();
        assert_eq!(model.architecture(), Some("llama"));
        assert_eq!(model.paths().count(), 3);
        assert_eq!(model.tensors().len(), TINY.len());
        let last = model.tensor("output_norm.weight").unwrap();
        assert_eq!((last.file, model.bytes(last).len()), (2, 256));
    }

    let elsewhere = dir.path().join("renamed.gguf");
    fs::copy(path(1), &elsewhere).unwrap();
    let text = sentence(Gguf::open(&elsewhere));
    assert!(text.contains("renamed.gguf") && text.contains("-00002-of-00003.gguf"), "{text}");

    fs::write(path(2), part(1, 3)).unwrap();
    let text = sentence(Gguf::open(&path(0)));
    assert!(text.contains("tiny-00003-of-00003.gguf") && text.contains("part 3 of 3"), "{text}");

    fs::remove_file(path(2)).unwrap();
    let text = sentence(Gguf::open(&path(0)));
    assert!(text.contains("tiny-00003-of-00003.gguf") && text.contains("missing"), "{text}");
}

#[test]
fn split_parts_must_hold_all_tensors_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = |no: u16| dir.path().join(format!("tiny-{:05}-of-00002.gguf", no + 1));
    fs::write(path(0), part(0, 2)).unwrap();
    fs::write(path(1), part(1, 2)).unwrap();
    let text = sentence(Gguf::open(&path(1)));
    assert!(text.contains("6 tensors together, but hold 4"), "{text}");

    let mut writer = Writer::new();
    writer.u16("split.no", 1).u16("split.count", 2);
    fs::write(path(1), gguf(writer, &TINY[..2])).unwrap();
    let text = sentence(Gguf::open(&path(1)));
    assert!(text.contains("\"token_embd.weight\" occurs twice"), "{text}");
}

#[test]
fn paths_that_are_no_files_end_in_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("nothing.gguf");
    assert!(sentence(Gguf::open(&missing)).contains("nothing.gguf"));
    assert!(sentence(Gguf::open(dir.path())).contains("not a file"));
    fs::write(&missing, b"").unwrap();
    assert!(sentence(Gguf::open(&missing)).contains("empty"));
}

#[test]
fn the_writer_refuses_what_it_cannot_hold() {
    let mut writer = Writer::new();
    assert!(writer.tensor("w", DType::Q4_0, &[32, 31]).is_err());
    assert!(writer.tensor("w", DType::F32, &[1; 5]).is_err());
    writer.tensor("w", DType::F32, &[2]).unwrap();
    let mut data = writer.begin(Vec::new()).unwrap();
    assert!(data.tensor(&[0; 7]).is_err());

    let mut writer = Writer::new();
    writer.tensor("w", DType::F32, &[2]).unwrap();
    assert!(writer.begin(Vec::new()).unwrap().finish().is_err());
}
