//! Models found where other programs put them, and removed only where Hob may.

mod common;

use std::fs;
use std::path::Path;

use common::{COMMIT, Run, World, files, gguf, sha256};
use serde_json::{Value, json};

const OLDER: &str = "ffffffffffffffffffffffffffffffffffffffff";

/// Puts a file into the Hugging Face cache: a blob, and the snapshot's link to it.
#[cfg(unix)]
fn cache(world: &World, repo: &str, commit: &str, file: &str, bytes: &[u8]) {
    let dir = world.path("hf/hub").join(format!("models--{}", repo.replace('/', "--")));
    let pointer = dir.join("snapshots").join(commit).join(file);
    fs::create_dir_all(dir.join("blobs")).unwrap();
    fs::create_dir_all(dir.join("refs")).unwrap();
    fs::create_dir_all(pointer.parent().unwrap()).unwrap();
    fs::write(dir.join("refs/main"), COMMIT).unwrap();
    fs::write(dir.join("blobs").join(sha256(bytes)), bytes).unwrap();
    let up = "../".repeat(file.split('/').count() + 1);
    std::os::unix::fs::symlink(format!("{up}blobs/{}", sha256(bytes)), pointer).unwrap();
}

/// Puts a model into Ollama's store.
fn ollama(world: &World, path: &str, bytes: &[u8]) {
    let digest = sha256(bytes);
    let manifest = json!({"schemaVersion": 2, "layers": [
        {"mediaType": "application/vnd.ollama.image.template", "digest": "sha256:00", "size": 1},
        {"mediaType": "application/vnd.ollama.image.model", "digest": format!("sha256:{digest}"), "size": bytes.len()},
        {"mediaType": "application/vnd.ollama.image.params", "digest": "sha256:00", "size": 1},
    ]});
    write(&world.path(&format!("ollama/manifests/{path}")), manifest.to_string().as_bytes());
    write(&world.path(&format!("ollama/blobs/sha256-{digest}")), bytes);
}

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

#[track_caller]
fn list(world: &World) -> Vec<Value> {
    let run: Run = world.run(&["list", "--json"]);
    serde_json::from_str(run.ok()).unwrap()
}

/// `name | place | architecture | quantization` of each.
#[track_caller]
fn listed(world: &World) -> Vec<String> {
    let field = |m: &Value, key: &str| m[key].as_str().unwrap_or("-").to_string();
    let line = |m: &Value| ["name", "place", "architecture", "quantization"].map(|k| field(m, k)).join(" | ");
    list(world).iter().map(line).collect()
}

/// A world with a model in every place.
#[cfg(unix)]
fn furnished() -> World {
    let world = World::new();
    cache(&world, "owner/repo", COMMIT, "cached-Q4_0.gguf", &gguf("cached", 64));
    cache(&world, "owner/repo", COMMIT, "mmproj-cached.gguf", &gguf("projector", 64));
    cache(&world, "owner/deep", COMMIT, "sub/deep-F16.gguf", &gguf("deep", 64));
    ollama(&world, "registry.ollama.ai/library/llama3.2/1b", &gguf("a", 32));
    ollama(&world, "registry.ollama.ai/somebody/thing/latest", &gguf("b", 32));
    ollama(&world, "hf.co/owner/repo/Q4_K_M", &gguf("c", 32));
    let studio = world.path("home/.lmstudio/models/publisher/repository/studio-Q8_0.gguf");
    write(&studio, &gguf("studio", 96));
    write(&world.path("hob/models/own-Q4_1.gguf"), &gguf("own", 128));
    world
}

#[test]
#[cfg(unix)]
fn models_are_found_where_they_lie() {
    let world = furnished();
    assert_eq!(
        listed(&world),
        [
            "cached-Q4_0 | Hugging Face | llama | Q4_0",
            "deep-F16 | Hugging Face | llama | F16",
            "hf.co/owner/repo:Q4_K_M | Ollama | llama | F32",
            "llama3.2:1b | Ollama | llama | F32",
            "own-Q4_1 | Hob | llama | Q4_1",
            "somebody/thing:latest | Ollama | llama | F32",
            "studio-Q8_0 | LM Studio | llama | Q8_0",
        ]
    );
    let own = &list(&world)[4];
    assert_eq!(own["bytes"], gguf("own", 128).len());
    assert_eq!((&own["parameters"], &own["context"]), (&json!(128), &json!(2048)));
    assert_eq!(own["path"], world.path("hob/models/own-Q4_1.gguf").to_str().unwrap());
    let table = world.run(&["list"]);
    assert!(table.ok().starts_with("NAME"), "{table:?}");
    for (name, whose) in [
        ("llama3.2:1b", "  Ollama"),
        ("cached-Q4_0", "  Hugging Face, owner/repo"),
        ("studio-Q8_0", "  LM Studio, publisher/repository"),
    ] {
        assert!(table.stdout.lines().any(|l| l.starts_with(name) && l.ends_with(whose)), "{table:?}");
    }
    assert!(!table.stdout.contains('\x1b'), "colours only on a terminal");
}

#[test]
#[cfg(unix)]
fn a_name_may_be_shortened_while_it_is_clear() {
    let world = furnished();
    for name in ["llama3.2:1b", "ollama:llama3.2:1b", "LLAMA3.2", "llama3"] {
        assert!(world.run(&["show", name]).ok().contains("beside it at Ollama   template, params"), "{name}");
    }
    assert!(world.run(&["show", "hf:owner/repo"]).ok().contains("licence               mit"));
    write(&world.path("home/.lmstudio/models/p/r/llama3-Q8_0.gguf"), &gguf("x", 8));
    world.run(&["show", "llama"]).fails("llama names several models; say which: llama3-Q8_0, llama3.2:1b");
    world.run(&["show", "lama3.2:1b"]).fails("did you mean llama3.2:1b");
    world.run(&["show", "absent"]).fails("there is no model named absent on this machine");
}

#[test]
#[cfg(unix)]
fn models_of_one_name_are_told_apart() {
    let world = World::new();
    cache(&world, "one/repo", COMMIT, "same-Q4_0.gguf", &gguf("1", 64));
    cache(&world, "two/repo", COMMIT, "same-Q4_0.gguf", &gguf("2", 64));
    assert_eq!(
        listed(&world),
        [
            "hf:one/repo:same-Q4_0.gguf | Hugging Face | llama | Q4_0",
            "hf:two/repo:same-Q4_0.gguf | Hugging Face | llama | Q4_0",
        ]
    );
    world.run(&["show", "hf:two/repo:same-Q4_0.gguf"]).ok();
    world.run(&["show", "hf:one/repo"]).ok();
}

#[test]
#[cfg(unix)]
fn broken_entries_are_notes_not_failures() {
    let world = furnished();
    let good = list(&world).len();
    write(&world.path("ollama/manifests/registry.ollama.ai/library/broken/latest"), b"not JSON");
    write(&world.path("ollama/manifests/registry.ollama.ai/library/far/cloud"), br#"{"layers": []}"#);
    let evil =
        json!({"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:../../x"}]});
    write(
        &world.path("ollama/manifests/registry.ollama.ai/library/evil/latest"),
        evil.to_string().as_bytes(),
    );
    write(&world.path("hob/models/torn.gguf"), &gguf("torn", 64)[..100]);
    write(&world.path("hob/models/two-00001-of-00002.gguf"), &gguf("half", 64));
    let dangling = world.path("hf/hub/models--owner--repo/snapshots").join(COMMIT).join("gone.gguf");
    std::os::unix::fs::symlink("../../blobs/none", dangling).unwrap();
    let run = world.run(&["list"]);
    run.ok();
    for note in [
        "Ollama's broken:latest is left out: its manifest is not JSON",
        "Ollama's far:cloud is left out: it has no weights on this machine",
        "Ollama's evil:latest is left out: its manifest names no valid digest",
        "two-00001-of-00002.gguf has 1 of its 2 parts",
        "gone.gguf cannot be read: no such file or directory",
        "torn.gguf is damaged",
    ] {
        assert!(run.stderr.contains(note), "no {note:?} in {}", run.stderr);
    }
    // The torn file is still shown, so that it can be removed.
    assert_eq!(list(&world).len(), good + 1);
    world.run(&["show", "torn"]).fails("torn.gguf is damaged");
    world.run(&["rm", "--yes", "torn"]).ok();
    assert_eq!(list(&world).len(), good);
}

#[test]
#[cfg(unix)]
fn removing_keeps_what_others_need() {
    let world = furnished();
    let repo = world.path("hf/hub/models--owner--repo");
    // An older snapshot has the same file, and one of its own.
    let shared = gguf("cached", 64);
    cache(&world, "owner/repo", OLDER, "cached-Q4_0.gguf", &shared);
    cache(&world, "owner/repo", OLDER, "old-Q4_0.gguf", &gguf("old", 64));
    world.run(&["rm", "cached-Q4_0"]).fails("add --yes");
    assert!(world.run(&["rm", "--yes", "cached-Q4_0"]).ok().contains("(0 bytes freed)"));
    assert!(repo.join("blobs").join(sha256(&shared)).exists(), "the older snapshot links to it");
    assert!(world.run(&["rm", "-y", "cached-Q4_0"]).ok().starts_with("removed cached-Q4_0 ("));
    assert!(!repo.join("blobs").join(sha256(&shared)).exists());
    assert!(listed(&world).contains(&"old-Q4_0 | Hugging Face | llama | Q4_0".to_string()));
    world.run(&["rm", "-y", "old-Q4_0", "deep-F16"]).ok();
    assert!(!world.path("hf/hub/models--owner--deep").exists());
    // The projector was not asked about: it stays.
    let left = files(&repo);
    assert_eq!(left.iter().filter(|f| f.starts_with("blobs")).count(), 1, "{left:?}");
    assert!(left.iter().any(|f| f.ends_with("mmproj-cached.gguf")) && left.len() == 3, "{left:?}");
    world.run(&["rm", "-y", "own-Q4_1"]).ok();
    assert_eq!(files(&world.path("hob")), [""; 0]);
}

#[test]
#[cfg(unix)]
fn removing_never_leaves_the_cache() {
    let world = World::new();
    cache(&world, "owner/repo", COMMIT, "a-Q4_0.gguf", &gguf("a", 64));
    let precious = world.path("precious.gguf");
    write(&precious, &gguf("b", 64));
    let link = world.path("hf/hub/models--owner--repo/snapshots").join(COMMIT).join("b-Q4_0.gguf");
    std::os::unix::fs::symlink(&precious, link).unwrap();
    world.run(&["rm", "-y", "b-Q4_0"]).ok();
    assert!(precious.exists());
    assert_eq!(listed(&world).len(), 1);
}

#[test]
#[cfg(unix)]
fn the_models_of_others_are_theirs() {
    let world = furnished();
    world.run(&["rm", "-y", "llama3.2:1b"]).fails("remove it with: ollama rm llama3.2:1b");
    world.run(&["rm", "-y", "studio-Q8_0"]).fails("belongs to LM Studio");
    let file = world.path("home/.lmstudio/models/publisher/repository/studio-Q8_0.gguf");
    world.run(&["rm", "-y", file.to_str().unwrap()]).fails("hob rm takes names from hob list");
    world.run(&["rm", "-y", "starter"]).fails("starter is not on this machine");
    assert_eq!(list(&world).len(), 7);
}

#[test]
fn what_a_model_holds() {
    let world = World::new();
    write(&world.path("m.gguf"), &gguf("m", 64));
    let text = world.run(&["show", "m.gguf", "--tensors"]);
    for part in
        ["llama", "2048 tokens", "mit", "100.0%", "256 bytes", "no chat template", "model.norm.weight  64"]
    {
        assert!(text.ok().contains(part), "no {part:?} in {}", text.stdout);
    }
    let shown: Value = serde_json::from_str(world.run(&["show", "m.gguf", "--json"]).ok()).unwrap();
    assert_eq!(shown["formats"], json!({"F32": {"tensors": 1, "bytes": 256}}));
    world.run(&["show", "m.gguf", "--template"]).fails("m.gguf has no chat template");
    write(&world.path("bad.gguf"), b"not a GGUF file");
    world.run(&["show", "bad.gguf"]).fails("bad.gguf is damaged");
}
