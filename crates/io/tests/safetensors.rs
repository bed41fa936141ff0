//! safetensors files: sound ones come back, hostile ones end in a sentence.

mod common;

use common::{TINY_SAFETENSORS, safetensors, sentence, tiny_safetensors};
use hob_dtype::DType;
use hob_io::{Error, Safetensors, safetensors::Header};
use std::{fs, path::Path};

fn parse(bytes: &[u8]) -> hob_io::Result<Header> {
    Header::parse(bytes, bytes.len() as u64, Path::new("test.safetensors"))
}

#[test]
fn a_file_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    fs::write(&path, tiny_safetensors()).unwrap();
    let model = Safetensors::open(&path).unwrap();
    let found: Vec<_> =
        model.tensors().iter().map(|t| (t.stored_name.as_str(), t.dtype, t.shape.clone())).collect();
    assert_eq!(
        found,
        [
            ("model.embed_tokens.weight", DType::BF16, vec![4, 6]),
            ("model.norm.weight", DType::F32, vec![6]),
            ("scalar", DType::I64, vec![]),
        ]
    );
    assert!(model.bytes(&model.tensors()[1]).iter().copied().eq(48..72));
    let header = parse(&tiny_safetensors()).unwrap();
    assert_eq!(header.metadata["format"], "pt");
}

#[test]
fn a_header_is_read_from_a_prefix() {
    let file = tiny_safetensors();
    let header = 8 + TINY_SAFETENSORS.len();
    for given in 0..file.len() {
        match Header::parse(&file[..given], file.len() as u64, Path::new("remote")) {
            Err(Error::NeedMore { needed, .. }) => assert!(given < header && needed > given as u64),
            Err(other) => panic!("{given} bytes: {other}"),
            Ok(_) => assert!(given >= header),
        }
        sentence(parse(&file[..given]));
    }
}

#[test]
fn hostile_headers_end_in_a_sentence() {
    let one = |dtype: &str, shape: &str, offsets: &str| {
        safetensors(&format!(r#"{{"w":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#), 16)
    };
    let two = |a: &str, b: &str, offsets: &str| {
        let tensor = |name: &str, offsets: &str| {
            format!(r#""{name}":{{"dtype":"F32","shape":[2],"data_offsets":{offsets}}}"#)
        };
        safetensors(&format!("{{{},{}}}", tensor(a, "[0,8]"), tensor(b, offsets)), 16)
    };
    let mut huge = tiny_safetensors();
    huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let mut long = tiny_safetensors();
    long[..8].copy_from_slice(&4096u64.to_le_bytes());
    for (expected, file) in [
        ("not a safetensors file", huge),
        ("end within the header", long),
        ("too few", vec![1, 2, 3]),
        ("not a safetensors file", safetensors("[]", 16)),
        ("malformed", safetensors("{\"w\":", 16)),
        ("malformed", safetensors(&"{\"w\":".repeat(4096), 16)),
        ("malformed", safetensors(r#"{"w":{"dtype":"F32"}}"#, 16)),
        ("malformed", one("F32", "[-1]", "[0,4]")),
        ("malformed", one("F32", "[1.5]", "[0,4]")),
        ("malformed", one("F32", "[99999999999999999999]", "[0,4]")),
        ("malformed", one("F32", "[1]", "[0,4,8]")),
        ("\"w\" has the dtype F8_E8M0", one("F8_E8M0", "[16]", "[0,16]")),
        ("does not take", one("F32", "[3]", "[0,16]")),
        ("does not take", one("F32", "[4294967296,4294967296]", "[0,0]")),
        ("does not take", one("F32", "[4294967296,4294967296,0]", "[0,0]")),
        ("past the end", one("F32", "[4]", "[4,20]")),
        ("past the end", one("F32", "[4]", "[18446744073709551600,18446744073709551615]")),
        ("past the end", one("F32", "[1]", "[8,4]")),
        ("overlap", two("v", "w", "[4,12]")),
        ("occurs twice", two("w", "w", "[8,16]")),
    ] {
        let text = sentence(parse(&file));
        assert!(
            text.contains("test.safetensors") && text.contains(expected),
            "instead of {expected:?}: {text}"
        );
    }
    assert_eq!(parse(&two("v", "w", "[8,16]")).unwrap().tensors.len(), 2);
    assert_eq!(parse(&one("F32", "[4]", "[0,16]")).unwrap().tensors[0].len, 16);
}

#[test]
fn sharded_files_are_joined() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| {
        safetensors(&format!(r#"{{"{name}":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}}}"#), 8)
    };
    let path = |name: &str| dir.path().join(name);
    let index = path("model.safetensors.index.json");
    let write_index =
        |map: &str| fs::write(&index, format!(r#"{{"metadata":{{}},"weight_map":{map}}}"#)).unwrap();
    fs::write(path("a.safetensors"), file("v")).unwrap();
    fs::write(path("b.safetensors"), file("w")).unwrap();

    write_index(r#"{"v":"a.safetensors","w":"b.safetensors"}"#);
    let model = Safetensors::open(&index).unwrap();
    assert_eq!(
        model.tensors().iter().map(|t| (t.stored_name.as_str(), t.file)).collect::<Vec<_>>(),
        [("v", 0), ("w", 1)]
    );
    assert_eq!(model.bytes(&model.tensors()[1]), [0, 1, 2, 3, 4, 5, 6, 7]);

    for (expected, map) in [
        ("b.safetensors, but it is not", r#"{"v":"b.safetensors","w":"a.safetensors"}"#),
        ("\"x\" is in b.safetensors", r#"{"v":"a.safetensors","x":"b.safetensors"}"#),
        ("c.safetensors cannot be used: the file is missing", r#"{"v":"c.safetensors"}"#),
        ("no plain file name", r#"{"v":"../a.safetensors"}"#),
        ("no plain file name", r#"{"v":"/etc/passwd"}"#),
        ("no plain file name", r#"{"v":".."}"#),
        ("no index", r#"[]"#),
    ] {
        write_index(map);
        let text = sentence(Safetensors::open(&index));
        assert!(text.contains(expected), "instead of {expected:?}: {text}");
    }
    fs::write(path("b.safetensors"), file("v")).unwrap();
    write_index(r#"{"v":"a.safetensors","w":"b.safetensors"}"#);
    assert!(sentence(Safetensors::open(&index)).contains("\"v\" is also in"));
    fs::remove_file(&index).unwrap();
    assert!(sentence(Safetensors::open(&index)).contains("cannot read"));
}
