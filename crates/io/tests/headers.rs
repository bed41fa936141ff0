//! Checkpoints made of headers alone, as of models that lie elsewhere: the same facts as of the open files.

mod common;

use common::{TINY, gguf, llama_metadata, sentence, tiny_llama};
use hob_io::{
    Checkpoint, Error, Gguf, Result, Safetensors,
    gguf::Writer,
    safetensors::{Header, Index},
};
use std::{
    collections::BTreeMap,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

/// Reads a header as from a server: at first `first` bytes, then what is likely needed. Gives the number of requests and
/// of bytes, too.
fn fetch<T>(
    file: &[u8],
    first: usize,
    parse: impl Fn(&[u8], u64, &Path) -> Result<T>,
) -> (Result<T>, usize, usize) {
    let (mut given, mut requests) = (first.min(file.len()), 1);
    loop {
        match parse(&file[..given], file.len() as u64, Path::new("hf:o/n/model")) {
            Err(Error::NeedMore { needed, likely, .. }) => {
                assert!(given < needed as usize && needed <= likely && likely <= file.len() as u64);
                // As the hub's reader does: never so little more that it takes many requests.
                given = (likely as usize).max(given + given / 4).min(file.len());
                requests += 1;
            }
            done => return (done, requests, given),
        }
    }
}

/// Asserts that a checkpoint of headers says all that the open files say, and has no data.
#[track_caller]
fn same(headers: &Checkpoint, open: &Checkpoint) {
    assert!(open.has_data() && !headers.has_data() && headers.maps().is_empty());
    assert_eq!(headers.config, open.config);
    assert_eq!(headers.tensors, open.tensors);
    assert_eq!(headers.formats(), open.formats());
    assert_eq!((headers.parameters(), headers.size_bytes()), (open.parameters(), open.size_bytes()));
    assert_eq!((headers.header_bytes(), headers.files().len()), (open.header_bytes(), open.files().len()));
    assert_eq!((headers.bos(), headers.eos()), (open.bos(), open.eos()));
    assert_eq!((headers.chat_template(), headers.licence()), (open.chat_template(), open.licence()));
    for tensor in headers.tensors.values() {
        assert_eq!(open.bytes(tensor).len(), tensor.len);
        assert!(catch_unwind(AssertUnwindSafe(|| headers.bytes(tensor))).is_err());
    }
}

#[test]
fn a_gguf_of_its_header_is_as_the_open_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    fs::write(&path, tiny_llama()).unwrap();
    let (header, ..) = fetch(&tiny_llama(), 16, Gguf::parse_header);
    let headers = Checkpoint::from_gguf(header.unwrap().with_parts(Vec::new()).unwrap()).unwrap();
    same(&headers, &Checkpoint::open(&path).unwrap());
    // What lies by chance where the name leads is not beside it.
    let beside = Gguf::parse_header(&tiny_llama(), tiny_llama().len() as u64, &path).unwrap();
    fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
    assert_eq!(Checkpoint::from_gguf(beside).unwrap().companion("tokenizer.json"), None);
    assert!(Checkpoint::open(&path).unwrap().companion("tokenizer.json").is_some());
}

#[test]
fn a_licence_from_elsewhere_fills_in() {
    let model = |writer| {
        let file = gguf(writer, &[]);
        let header = Gguf::parse_header(&file, file.len() as u64, Path::new("m.gguf")).unwrap();
        Checkpoint::from_gguf(header).unwrap().or_licence(Some("mit".into())).licence()
    };
    let mut silent = Writer::new();
    silent.str("general.architecture", "llama");
    assert_eq!(model(silent).as_deref(), Some("mit"));
    assert_eq!(model(llama_metadata()).as_deref(), Some("apache-2.0"));
}

/// Part `no` (from 0) of `count`, with two tensors each and the metadata in the first.
fn part(no: u16, count: u16, total: u32) -> Vec<u8> {
    let mut writer = if no == 0 { llama_metadata() } else { Writer::new() };
    writer.u16("split.no", no).u16("split.count", count).u32("split.tensors.count", total);
    gguf(writer, &TINY[2 * no as usize..][..2])
}

#[test]
fn headers_of_a_split_gguf_are_joined() {
    let dir = tempfile::tempdir().unwrap();
    let path = |no: u16| dir.path().join(format!("m-{:05}-of-00003.gguf", no + 1));
    (0..3).for_each(|no| fs::write(path(no), part(no, 3, 6)).unwrap());
    let read = |no: u16, total: u32| fetch(&part(no, 3, total), 24, Gguf::parse_header).0.unwrap();
    let first = |total| read(0, total);
    let joined = first(6).with_parts(vec![read(1, 6), read(2, 6)]).unwrap();
    same(&Checkpoint::from_gguf(joined).unwrap(), &Checkpoint::open(&path(0)).unwrap());

    let refused = |model: Result<Gguf>| sentence(model.map(|_| ()));
    for (expected, model) in [
        ("split into 3 files, but 1 of them", first(6).with_parts(vec![])),
        ("split into 3 files, but 2 of them", first(6).with_parts(vec![read(1, 6)])),
        ("it is part 2 of 3", first(6).with_parts(vec![read(2, 6), read(1, 6)])),
        ("it is part 1 of 3", read(1, 6).with_parts(vec![first(6), read(2, 6)])),
        ("7 tensors together, but hold 6", first(7).with_parts(vec![read(1, 7), read(2, 7)])),
    ] {
        let text = refused(model);
        assert!(text.contains("hf:o/n/model") && text.contains(expected), "instead of {expected:?}: {text}");
    }
    let whole = |file: Vec<u8>| fetch(&file, 64, Gguf::parse_header).0.unwrap();
    assert!(refused(whole(tiny_llama()).with_parts(vec![first(6)])).contains("split into 1 files"));
    let joined = || first(6).with_parts(vec![read(1, 6), read(2, 6)]).unwrap();
    assert!(refused(joined().with_parts(vec![])).contains("a whole model"));
    assert!(refused(first(6).with_parts(vec![joined(), joined()])).contains("a whole model"));
}

/// Vocabularies take up most of a header; how long the rest of one is, its beginning shows.
#[test]
fn long_vocabularies_take_few_requests_and_little_more_than_the_header() {
    let tokens: Vec<String> = (0..120_000).map(|i| format!("{i:x}")).collect();
    let merges: Vec<String> = (0..110_000).map(|i| format!("{i:x} {:x}", i / 3)).collect();
    let mut writer = llama_metadata();
    writer.strings("a.tokens", &tokens).i32s("a.types", &vec![1; tokens.len()]).strings("a.merges", &merges);
    let file = gguf(writer, &[TINY[0], ("big", hob_dtype::DType::F32, &[2000, 1000])]);
    let (header, requests, bytes) = fetch(&file, 128 << 10, Gguf::parse_header);
    let header = header.unwrap().header_bytes() as usize;
    assert!(header > 3_000_000, "{header}");
    assert!(requests <= 8 && bytes <= header + header / 4, "{requests} requests, {bytes} of {header} bytes");
}

#[test]
fn safetensors_of_their_headers_are_as_the_open_ones() {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tiny");
    for name in ["llama", "gemma3", "llama-bf16-sharded"] {
        let folder = tiny.join(name);
        let read = |file: &str| fs::read_to_string(folder.join(file)).ok();
        let index = read("model.safetensors.index.json");
        let index = index.map(|text| Index::parse(&text, &folder.join("index.json")).unwrap());
        let one = ["model.safetensors".to_string()];
        let files = index.as_ref().map_or(&one[..], |i| i.files());
        assert_eq!(files.len(), if name.ends_with("sharded") { 2 } else { 1 });
        let headers = files.iter().map(|f| {
            let (header, requests, bytes) = fetch(&fs::read(folder.join(f)).unwrap(), 8, Header::parse);
            let header = header.unwrap();
            assert!(requests == 2 && bytes == header.len);
            header
        });
        let weights = Safetensors::from_headers(headers.collect(), index.as_ref()).unwrap();
        let companion = |name: &str| Ok(read(name));
        let headers = Checkpoint::from_safetensors(weights, &folder.join("model.safetensors"), companion);
        same(&headers.unwrap(), &Checkpoint::open(&folder).unwrap());
    }
}

#[test]
fn an_index_that_is_wrong_is_refused() {
    let header = |name: &str| {
        let json = format!(r#"{{"{name}":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}}}"#);
        let file = common::safetensors(&json, 8);
        Header::parse(&file, file.len() as u64, Path::new(name)).unwrap()
    };
    let index = |map: BTreeMap<&str, &str>| {
        let text = serde_json::json!({"weight_map": map}).to_string();
        Index::parse(&text, Path::new("hf:o/n/index.json"))
    };
    let open = |names: [&str; 2], map: &[(&str, &str)]| {
        let index = index(map.iter().copied().collect())?;
        Safetensors::from_headers(names.map(header).into(), Some(&index)).map(|m| m.size_bytes())
    };
    let right = [("v", "a.safetensors"), ("w", "b.safetensors")];
    assert!(open(["v", "w"], &right).unwrap() > 128);
    assert!(sentence(open(["w", "v"], &right)).contains("\"v\" is in a.safetensors, but it is not"));
    assert!(sentence(open(["v", "v"], &right)).contains("the tensor \"v\" is also in"));
    assert!(sentence(open(["v", "w"], &[("x", "a.safetensors")])).contains("\"x\" is in"));
    for out in ["../a.safetensors", "/a.safetensors", "..", "a/b.safetensors", ""] {
        assert!(sentence(index([("v", out)].into())).contains("no plain file name"), "{out}");
    }
}
