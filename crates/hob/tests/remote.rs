//! `hob show` of models on the hub: their headers are fetched, and no weight is.

mod common;

use std::fs;
use std::path::Path;

use common::{COMMIT, Hub, Reply, Request, Server, World, files, listing};
use hob_dtype::DType;
use hob_io::gguf::Writer;
use serde_json::Value;

const FILE: &str = "model-Q4_K_M.gguf";
const SPEC: &str = "hf:owner/repo";

/// A GGUF whose header has `tokens` tokens, and whose weights have `n` values of 4 bytes; and its header's length.
fn model(tokens: usize, n: usize) -> (Vec<u8>, usize) {
    let mut w = Writer::new();
    w.str("general.architecture", "llama").u32("llama.block_count", 1).u32("llama.context_length", 2048);
    w.strings("tokenizer.ggml.tokens", &(0..tokens).map(|i| format!("token {i}")).collect::<Vec<_>>());
    w.i32s("tokenizer.ggml.token_type", &vec![1; tokens]);
    w.str("tokenizer.chat_template", "{{ messages }}");
    w.tensor("output_norm.weight", DType::F32, &[64]).unwrap();
    w.tensor("token_embd.weight", DType::F32, &[n / 64, 64]).unwrap();
    let mut file = Vec::new();
    let mut data = w.begin(&mut file).unwrap();
    data.tensor(&[0; 256]).unwrap();
    data.tensor(&vec![1; 4 * n]).unwrap();
    data.finish().unwrap();
    let header = hob_io::Gguf::parse_header(&file, file.len() as u64, Path::new("m.gguf")).unwrap();
    let len = header.header_bytes() as usize;
    (file, len)
}

/// Shows a model as JSON.
fn shown(world: &World, spec: &str) -> Value {
    serde_json::from_str(world.run(&["show", spec, "--json", "--tensors"]).ok()).unwrap()
}

/// The ranges that were asked for, ends exclusive. Every request asks for one.
#[track_caller]
fn ranges(server: &Server) -> Vec<(usize, usize)> {
    let range = |r: &Request| {
        let text = r.headers.get("range")?.strip_prefix("bytes=")?;
        let (start, end) = text.split_once('-')?;
        Some((start.parse().ok()?, end.parse::<usize>().ok()? + 1))
    };
    server.requests().iter().map(|r| range(r).unwrap_or_else(|| panic!("{r:?}"))).collect()
}

#[test]
fn a_gguf_is_shown_by_its_header() {
    let (file, header) = model(60_000, 6_000_000);
    assert!(header > 1 << 20 && file.len() > 24_000_000);
    let hub = Hub::new(&[(FILE, &file), ("README.md", b"hello")]);
    let world = hub.world();
    let show = world.run(&["show", SPEC]);
    let text = show.ok();
    for row in [
        "name                  hf:owner/repo:model-Q4_K_M.gguf",
        "on this machine       no; fetch it with: hob pull hf:owner/repo:model-Q4_K_M.gguf",
        "architecture          llama",
        "quantization          Q4_K_M",
        "licence               mit",
        "  {{ messages }}",
    ] {
        assert!(text.lines().any(|l| l.starts_with(row)), "no {row:?} in {text}");
    }
    assert!(
        text.contains("to fetch              25.") && text.contains("read for this         1."),
        "{text}"
    );
    let ranges = ranges(&hub.cdn);
    assert_eq!(ranges[0], (0, 512 << 10));
    assert!(ranges.windows(2).all(|w| w[0].1 == w[1].0), "{ranges:?} do not follow each other");
    // The last request may end somewhat behind the header; of the weights that is next to nothing.
    assert!((2..=5).contains(&ranges.len()) && ranges.last().unwrap().1 < header + header / 4, "{ranges:?}");
    assert!(hub.cdn.served() < header + header / 4, "{} of a header of {header}", hub.cdn.served());
    assert_eq!(files(&world.path("hf")), [""; 0]);

    let before = hub.cdn.served() as u64;
    let json = shown(&world, "hf:owner/repo:Q4_K_M");
    assert_eq!(json["name"], "hf:owner/repo:model-Q4_K_M.gguf");
    assert_eq!((&json["path"], &json["place"]), (&Value::Null, &"Hugging Face hub".into()));
    assert_eq!(json["hub"]["fetched_bytes"], hub.cdn.served() as u64 - before);
    assert_eq!(json["hub"]["download_bytes"], file.len());
    assert_eq!((&json["bytes"], &json["parameters"]), (&file.len().into(), &6_000_064.into()));
    // All but where it lies is as of the file itself.
    fs::write(world.path(FILE), &file).unwrap();
    let mut here = shown(&world, FILE);
    here["licence"] = "mit".into(); // which the file does not state
    for fact in ["config", "formats", "tensors", "chat_template", "quantization", "context", "licence"] {
        assert_eq!(json[fact], here[fact], "{fact}");
    }
    let template = world.run(&["show", SPEC, "--template"]);
    assert_eq!(template.ok(), "{{ messages }}");
}

#[test]
fn a_small_file_takes_one_request() {
    let file = common::gguf("small", 1000);
    let hub = Hub::new(&[("small.gguf", &file)]);
    assert_eq!(shown(&hub.world(), SPEC)["hub"]["fetched_bytes"], file.len());
    assert_eq!(ranges(&hub.cdn), [(0, file.len())]);
}

#[test]
fn a_server_without_ranges_is_cut_off() {
    let (file, header) = model(60_000, 12_000_000);
    assert!(file.len() > 48_000_000);
    let hub = Hub::with(&[(FILE, &file)], |_, _, bytes| Reply::new(200, bytes));
    let json = shown(&hub.world(), SPEC);
    let requests = hub.cdn.requests().len();
    // Each request begins at the first byte again.
    let fetched = json["hub"]["fetched_bytes"].as_u64().unwrap() as usize;
    assert!(fetched > header && fetched < 2 * requests * header, "{fetched} in {requests} requests");
    // The system takes some MB from the server before it sees that nobody reads.
    assert!(hub.cdn.served() < requests * 16_000_000, "{} bytes served", hub.cdn.served());
}

#[test]
fn a_cut_in_the_header_is_continued() {
    let (file, _) = model(60_000, 102_400);
    let hub = Hub::with(&[(FILE, &file)], |request, nth, bytes| {
        let mut reply = Reply::file(request, bytes, "\"v1\"");
        reply.cut = (nth == 0).then_some(200_000);
        reply
    });
    assert_eq!(shown(&hub.world(), SPEC)["architecture"], "llama");
    let ranges = ranges(&hub.cdn);
    assert_eq!(ranges[..2], [(0, 512 << 10), (200_000, 512 << 10)]);
    assert_eq!(ranges[2].0, 512 << 10);
    // A server that always breaks off at once is given up.
    let hub = Hub::with(&[(FILE, &file)], |request, _, bytes| Reply {
        cut: Some(0),
        ..Reply::file(request, bytes, "\"v1\"")
    });
    hub.world().run(&["show", SPEC]).fails("the connection broke off");
    assert_eq!(hub.cdn.requests().len(), 4);
    // As is one that has a fault, after as many tries; one that is busy has its time.
    let hub = Hub::with(&[(FILE, &file)], |request, nth, bytes| match nth {
        0 | 1 => Reply::new(503, ""),
        _ => Reply::file(request, bytes, "\"v1\""),
    });
    assert_eq!(shown(&hub.world(), SPEC)["architecture"], "llama");
}

#[test]
fn a_token_stays_with_its_host() {
    let (file, _) = model(60_000, 6400);
    let hub = Hub::new(&[(FILE, &file)]);
    hub.world().env("HF_TOKEN", "hf_secret").run(&["show", SPEC]).ok();
    let pieces = hub.cdn.requests().len();
    assert!(pieces > 1);
    assert_eq!(hub.api.sent("authorization"), vec!["Bearer hf_secret"; 1 + pieces]);
    assert_eq!(hub.cdn.sent("authorization"), vec!["-"; pieces]);
}

/// Part `no` (from 0) of 2, with a tensor of 1,000,000 values.
fn part(no: u16, claims: u16) -> Vec<u8> {
    let mut w = Writer::new();
    if no == 0 {
        w.str("general.architecture", "llama").u32("llama.block_count", 1);
    }
    w.u16("split.no", claims).u16("split.count", 2).u32("split.tensors.count", 2);
    w.tensor(&format!("blk.{no}.ffn_up.weight"), DType::F32, &[1000, 1000]).unwrap();
    let mut file = Vec::new();
    let mut data = w.begin(&mut file).unwrap();
    data.tensor(&vec![0; 4_000_000]).unwrap();
    data.finish().unwrap();
    file
}

#[test]
fn a_split_gguf_is_read_in_all_its_parts() {
    let (one, two) = (part(0, 0), part(1, 1));
    let names = ["m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf"];
    // The hub may list them in any order.
    let hub = Hub::new(&[(names[1], &two), (names[0], &one)]);
    let json = shown(&hub.world(), "hf:owner/repo:Q8_0");
    assert_eq!(json["parameters"], 2_000_000);
    assert_eq!(
        (&json["bytes"], &json["tensors"][1]["stored_name"]),
        (&(one.len() + two.len()).into(), &"blk.1.ffn_up.weight".into())
    );
    assert_eq!(json["hub"]["fetched_bytes"], (512 << 10) + (64 << 10));
    assert_eq!(hub.cdn.served(), (512 << 10) + (64 << 10));
    // One that is missing, and one that is another part than its name says.
    let hub = Hub::new(&[(names[1], &two)]);
    hub.world().run(&["show", SPEC]).fails("split into 2 files, but 1 of them");
    let hub = Hub::new(&[(names[0], &one), (names[1], &part(1, 0))]);
    hub.world()
        .run(&["show", SPEC])
        .fails("hf:owner/repo/m-Q8_0-00002-of-00002.gguf is damaged: it does not say");
}

/// A folder of the goldens, with a tokenizer that nothing here reads.
fn golden(name: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tiny").join(name);
    let mut found = vec![("tokenizer.json".to_string(), b"{".repeat(1_000_000))];
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap().to_string();
        if !file.starts_with("golden") && !file.starts_with("config-") {
            found.push((file, fs::read(path).unwrap()));
        }
    }
    let config = br#"{"chat_template": "the template"}"#;
    found.push(("tokenizer_config.json".into(), config.to_vec()));
    found.push(("generation_config.json".into(), br#"{"bos_token_id": 7}"#.to_vec()));
    found
}

fn borrowed(files: &[(String, Vec<u8>)]) -> Vec<(&str, &[u8])> {
    files.iter().map(|(n, b)| (n.as_str(), b.as_slice())).collect()
}

#[test]
fn folders_are_shown_by_their_headers() {
    for (name, weights) in [("llama-bf16-sharded", 2), ("llama", 1), ("gemma3", 1)] {
        let folder = golden(name);
        let hub = Hub::new(&borrowed(&folder));
        let world = hub.world();
        let json = shown(&world, SPEC);
        assert_eq!((&json["name"], &json["chat_template"]), (&SPEC.into(), &"the template".into()));
        assert_eq!(json["hub"]["tokenizer_bytes"], 1_000_000);
        let all: usize = folder.iter().map(|(_, b)| b.len()).sum();
        assert_eq!(json["hub"]["download_bytes"], all);
        assert_eq!(json["hub"]["fetched_bytes"], hub.cdn.served());
        let asked: Vec<String> = hub.cdn.requests().iter().map(|r| r.path.clone()).collect();
        assert!(!asked.iter().any(|p| p == "/tokenizer.json"), "{asked:?}");
        assert_eq!(asked.iter().filter(|p| p.ends_with(".safetensors")).count(), weights, "{asked:?}");
        fs::create_dir(world.path("folder")).unwrap();
        folder.iter().for_each(|(n, b)| fs::write(world.path("folder").join(n), b).unwrap());
        let here = shown(&world, "folder");
        for fact in ["config", "formats", "tensors", "parameters", "bytes", "architecture"] {
            assert_eq!(json[fact], here[fact], "{name}: {fact}");
        }
        assert_eq!(json["config"]["bos_token_id"].as_u64(), here["config"]["bos_token_id"].as_u64());
    }
}

#[test]
fn weights_of_folders_are_not_read() {
    // The header is a little longer than the first request of 128 KiB, and 8 MB follow it.
    let tensor = |i: usize| {
        format!(
            r#""layer.{i}.weight":{{"dtype":"F32","shape":[1000],"data_offsets":[{},{}]}}"#,
            4000 * i,
            4000 * i + 4000
        )
    };
    let json = format!("{{{}}}", (0..2000).map(tensor).collect::<Vec<_>>().join(","));
    let mut file = (json.len() as u64).to_le_bytes().to_vec();
    file.extend(json.as_bytes());
    file.resize(file.len() + 8_000_000, 0);
    let hub = Hub::new(&[("config.json", br#"{"model_type":"llama"}"#), ("model.safetensors", &file)]);
    assert_eq!(shown(&hub.world(), SPEC)["parameters"], 2_000_000);
    let header = json.len() + 8;
    assert!(header > 128 << 10);
    let ranges = ranges(&hub.cdn);
    assert_eq!(ranges[1..], [(0, 128 << 10), (128 << 10, header.max(160 << 10))], "{header}");
}

#[test]
fn wrong_folders_are_refused() {
    let spoil = |file: &str, bytes: &[u8], why: &str| {
        let mut folder = golden("llama-bf16-sharded");
        folder.iter_mut().filter(|(n, _)| n == file).for_each(|(_, b)| *b = bytes.into());
        let hub = Hub::new(&borrowed(&folder));
        hub.world().run(&["show", SPEC]).fails(why);
    };
    spoil("config.json", b"{", "hf:owner/repo/config.json is damaged: it is not valid JSON");
    spoil("model-00002-of-00002.safetensors", b"", "model-00002-of-00002.safetensors is damaged");
    spoil("model-00002-of-00002.safetensors", &[255; 100], "is not a safetensors file");
    let index = "model.safetensors.index.json";
    spoil(
        index,
        br#"{"weight_map":{"a":"none.safetensors"}}"#,
        "lists \"none.safetensors\", which owner/repo",
    );
    spoil(index, br#"{"weight_map":{"a":"../x"}}"#, "which is no plain file name");
    spoil(index, b"[]", "is no index of safetensors files");
    let folder = golden("llama");
    let hub = Hub::with(&borrowed(&folder), |request, _, bytes| match request.path.as_str() {
        "/config.json" => Reply::file(request, &vec![b' '; bytes.len()], "\"v1\""),
        _ => Reply::file(request, bytes, "\"v1\""),
    });
    hub.world().run(&["show", SPEC]).fails("hf:owner/repo/config.json came with another checksum");
}

#[test]
fn refusals_are_explained() {
    let (file, _) = model(10, 6400);
    let cases: [(u16, Option<&'static str>, &str); 5] = [
        (401, None, "the hub has no public owner/repo:model-Q4_K_M.gguf"),
        (403, Some("GatedRepo"), "owner/repo:model-Q4_K_M.gguf is gated: accept its terms at"),
        (404, None, "the hub has no owner/repo:model-Q4_K_M.gguf"),
        (416, None, "the server refused (status 416)"),
        (302, None, "the server redirects to nowhere valid"),
    ];
    for (status, code, why) in cases {
        let hub = Hub::with(&[(FILE, &file)], move |_, _, _| match code {
            Some(code) => Reply::new(status, "").header("X-Error-Code", code),
            None => Reply::new(status, ""),
        });
        hub.world().run(&["show", SPEC]).fails(why);
        let api = Server::start(move |_, _| Reply::new(status, ""));
        let world = World::new().env("HF_ENDPOINT", &api.url);
        let run = world.run(&["show", SPEC]);
        assert!(run.code == Some(1) && run.stderr.starts_with("hob: "), "{run:?}");
    }
}

/// A hub whose one file is said to have `len` bytes, and is answered as `reply` says.
fn lying(len: u64, reply: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> (Server, World) {
    let mut answer = listing(&[(FILE, b"")]);
    answer["siblings"][0]["lfs"]["size"] = len.into();
    let file = format!("/owner/repo/resolve/{COMMIT}/{FILE}");
    let server = Server::start(move |request, _| match request.path == file {
        true => reply(request),
        false => Reply::new(200, answer.to_string()),
    });
    let world = World::new().env("HF_ENDPOINT", &server.url);
    (server, world)
}

/// The bytes asked for, of an endless file that begins with `head` and goes on with zeros.
fn endless(head: &[u8], request: &Request, len: u64) -> Reply {
    let (start, end) = request.headers["range"].trim_start_matches("bytes=").split_once('-').unwrap();
    let (start, end) = (start.parse::<usize>().unwrap(), end.parse::<usize>().unwrap());
    let body: Vec<u8> = (start..=end).map(|i| head.get(i).copied().unwrap_or(0)).collect();
    Reply::new(206, body).header("Content-Range", format!("bytes {start}-{end}/{len}"))
}

#[test]
fn hostile_headers_are_refused_early() {
    let head = |tensors: u64, entries: u64, rest: &[u8]| {
        [b"GGUF\x03\0\0\0", &tensors.to_le_bytes()[..], &entries.to_le_bytes(), rest].concat()
    };
    let key = |kind: u32| [&1u64.to_le_bytes()[..], b"k", &kind.to_le_bytes()].concat();
    let text = |len: u64| [key(8), len.to_le_bytes().to_vec()].concat();
    let list = |len: u64| [key(9), 8u32.to_le_bytes().to_vec(), len.to_le_bytes().to_vec()].concat();
    let tera = 1 << 40;
    for (len, head, why) in [
        (tera, head(0, 1, &text(100 << 20)), "is longer than the 67.1 MB that are read"),
        (tera, head(0, 1, &list(1 << 30)), "is longer than the 67.1 MB that are read"),
        (tera, head(0, 1, &text(1 << 63)), "end within the header"),
        (tera, head(0, 1 << 30, b""), "metadata entries, and 65536 are the most"),
        (tera, head(1 << 30, 0, b""), "tensors, and 262144 are the most"),
        (tera, head(u64::MAX, 0, b""), "it claims 18446744073709551615 tensors"),
        (tera, b"<html>".to_vec(), "is not a GGUF file"),
        (100, head(0, 1, &text(100)), "end within the header"),
        (1 << 62, head(0, 0, b""), "has 4.6 EB, more than any model"),
    ] {
        let (server, world) = lying(len, move |request| endless(&head, request, len));
        world.run(&["show", SPEC]).fails(why);
        let requests = server.requests().len();
        assert!(requests <= 2 && server.served() < 600 << 10, "{why}: {requests} requests");
    }
    // A text that goes on and on ends at the limit.
    let head = head(0, 1, &text(60 << 20));
    let (server, world) = lying(tera, move |request| endless(&head, request, tera));
    let run = world.run(&["show", SPEC]);
    assert!(run.code == Some(1) && server.served() < 66 << 20, "{run:?}");
}

#[test]
fn weights_past_the_end_of_the_file_are_refused() {
    let (file, _) = model(10, 6400);
    let len = file.len() as u64 - 32;
    let (_server, world) = lying(len, move |request| endless(&file, request, len));
    world.run(&["show", SPEC]).fails("would lie past the end of the file");
}

#[test]
fn another_file_than_was_announced_is_refused() {
    let (file, _) = model(10, 6400);
    for (len, range, why, requests) in [
        (1000, "bytes 0-999/2000", "the server has 2000 bytes where 1000 were announced", 2),
        (1000, "bytes 5-999/1000", "the server sends another part than was asked for", 5),
        (1000, "bytes */1000", "the server sends another part than was asked for", 5),
    ] {
        let (server, world) = lying(len, move |_| Reply::new(206, &b"x"[..]).header("Content-Range", range));
        world.run(&["show", SPEC]).fails(why);
        assert_eq!(server.requests().len(), requests);
    }
    let (server, world) = lying(1000, move |_| Reply::new(200, file.clone()));
    world.run(&["show", SPEC]).fails("bytes where 1000 were announced");
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn offline_opens_no_connection() {
    let (file, _) = model(10, 6400);
    let hub = Hub::new(&[(FILE, &file)]);
    hub.world().run(&["show", "--offline", SPEC]).fails("offline: hf:owner/repo is not fetched");
    hub.world().env("HOB_OFFLINE", "1").run(&["show", SPEC]).fails("offline: ");
    assert!(hub.api.requests().is_empty() && hub.cdn.requests().is_empty());
}

#[test]
fn a_models_sisters_are_shown_with_it() {
    let small = common::gguf("small", 1000);
    let hub = Hub::new(&[(FILE, &small), ("model-Q8_0.gguf", b"12345678"), ("model-Q2_K.gguf", b"12")]);
    let show = hub.world().run(&["show", SPEC]);
    let rows: Vec<&str> = show.ok().lines().rev().take(4).collect();
    assert!(rows[3].starts_with("QUANTIZATION") && rows[2].starts_with("Q2_K"), "{rows:?}");
    assert!(rows[1].starts_with("Q8_0") && rows[1].ends_with("8 bytes  hf:owner/repo:model-Q8_0.gguf"));
    assert!(rows[0].starts_with("Q4_K_M"), "{rows:?}");
    assert!(hub.cdn.requests().iter().all(|r| r.path == format!("/{FILE}")));
    let hub = Hub::new(&[("m-Q5_0.gguf", b"a"), ("m-Q8_0.gguf", b"b")]);
    hub.world().run(&["show", SPEC]).fails("owner/repo holds several models; name one of them:");
    assert!(hub.cdn.requests().is_empty());
}

#[test]
fn many_files_are_read_together_and_kept_in_order() {
    let name = |i: usize| format!("model-{:05}-of-00030.safetensors", i + 1);
    let file = |i: usize| {
        let json = format!(
            r#"{{"w{i:02}":{{"dtype":"F32","shape":[{}],"data_offsets":[0,{}]}}}}"#,
            i + 1,
            4 * i + 4
        );
        [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), &vec![0; 4 * i + 4]].concat()
    };
    let map: Value =
        (0..30).map(|i| (format!("w{i:02}"), Value::from(name(i)))).collect::<serde_json::Map<_, _>>().into();
    let index = serde_json::json!({"weight_map": map}).to_string();
    let mut folder: Vec<_> = (0..30).rev().map(|i| (name(i), file(i))).collect();
    folder.push(("model.safetensors.index.json".into(), index.into_bytes()));
    folder.push(("config.json".into(), b"{}".to_vec()));
    let hub = Hub::new(&borrowed(&folder));
    let json = shown(&hub.world(), SPEC);
    assert_eq!(json["parameters"], 30 * 31 / 2);
    for (i, tensor) in json["tensors"].as_array().unwrap().iter().enumerate() {
        assert_eq!((&tensor["name"], &tensor["shape"][0]), (&format!("w{i:02}").into(), &(i + 1).into()));
    }
    assert_eq!(hub.cdn.requests().len(), 32);
    // One of them fails: its reason is told, and the rest is left.
    let hub = Hub::with(&borrowed(&folder), |request, _, bytes| match request.path.contains("00011-of") {
        true => Reply::new(403, ""),
        false => Reply::file(request, bytes, "\"v1\""),
    });
    hub.world()
        .run(&["show", SPEC])
        .fails("the hub has no public owner/repo:model-00011-of-00030.safetensors");
    assert!(hub.cdn.requests().len() < 32, "{}", hub.cdn.requests().len());
}
