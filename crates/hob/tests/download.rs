//! `hob pull` against a server on loopback that behaves as the hub does, and as it should not.

mod common;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::{COMMIT, Hub, Reply, Server, World, files, git_oid, listing, noise, sha256};

const FILE: &str = "model-Q4_0.gguf";
const SPEC: &str = "hf:owner/repo:model-Q4_0.gguf";
const LEN: usize = 3_000_000;

fn bytes() -> Vec<u8> {
    noise(LEN, 1)
}

fn part(world: &World) -> PathBuf {
    world.repo().join("blobs").join(sha256(&bytes()) + ".part")
}

/// Asserts that the file is in the cache, whole, and nothing else.
#[track_caller]
fn is_cached(world: &World) {
    let blob = format!("blobs/{}", sha256(&bytes()));
    let pointer = format!("snapshots/{COMMIT}/{FILE}");
    assert_eq!(files(&world.repo()), [blob.as_str(), "refs/main", &pointer]);
    assert!(fs::read(world.repo().join(pointer)).unwrap() == bytes());
}

#[test]
fn a_file_lands_in_the_cache_as_other_tools_expect_it() {
    let data = bytes();
    let hub = Hub::new(&[(FILE, &data), ("README.md", b"hello")]);
    let world = hub.world();
    let run = world.run(&["pull", "hf:owner/repo"]);
    let pointer = world.repo().join("snapshots").join(COMMIT).join(FILE);
    assert_eq!(run.ok(), pointer.to_str().unwrap());
    is_cached(&world);
    assert_eq!(fs::read_to_string(world.repo().join("refs/main")).unwrap(), COMMIT);
    #[cfg(unix)]
    {
        let target = format!("../../blobs/{}", sha256(&data));
        assert_eq!(fs::read_link(&pointer).unwrap().to_str().unwrap(), target);
    }
    // Again: nothing is fetched a second time.
    let before = hub.cdn.requests().len();
    world.run(&["pull", "hf:owner/repo"]).ok();
    assert_eq!(hub.cdn.requests().len(), before);
    // Offline, what is here is enough.
    assert_eq!(world.run(&["pull", "--offline", SPEC]).ok(), pointer.to_str().unwrap());
}

#[test]
fn a_folder_model_brings_its_companions_by_git_checksum() {
    let weights = noise(5000, 2);
    let all: [(&str, &[u8]); 6] = [
        ("config.json", b"{}"),
        ("tokenizer.json", b"{ }"),
        ("model.safetensors", &weights),
        ("pytorch_model.bin", b"x"),
        ("onnx/model.onnx", b"x"),
        ("train.py", b"x"),
    ];
    let hub = Hub::new(&all);
    let world = hub.world();
    let snapshot = world.repo().join("snapshots").join(COMMIT);
    assert_eq!(world.run(&["pull", "hf:owner/repo"]).ok(), snapshot.to_str().unwrap());
    assert_eq!(files(&snapshot), ["config.json", "model.safetensors", "tokenizer.json"]);
    assert!(world.repo().join("blobs").join(git_oid(b"{}")).is_file());
    assert_eq!(fs::read(snapshot.join("tokenizer.json")).unwrap(), b"{ }");
}

#[test]
fn a_cut_is_continued_where_it_was() {
    let data = bytes();
    let hub = Hub::with(&[(FILE, &data)], |request, nth, bytes| {
        let mut reply = Reply::file(request, bytes, "\"v1\"");
        reply.cut = (nth < 2).then_some(1_000_000);
        reply
    });
    let world = hub.world();
    world.run(&["pull", SPEC]).ok();
    is_cached(&world);
    assert_eq!(hub.cdn.sent("range"), ["-", "bytes=1000000-", "bytes=2000000-"]);
    assert_eq!(hub.cdn.sent("if-range"), ["-", "\"v1\"", "\"v1\""]);
}

#[test]
fn a_later_run_continues_too() {
    let data = bytes();
    let hub = Hub::with(&[(FILE, &data)], |request, nth, bytes| {
        if nth == 1 {
            return Reply::new(403, "");
        }
        let mut reply = Reply::file(request, bytes, "\"v1\"");
        reply.cut = (nth == 0).then_some(1_000_000);
        reply
    });
    let world = hub.world();
    world.run(&["pull", SPEC]).fails("the hub has no public owner/repo:model-Q4_0.gguf");
    assert_eq!(fs::metadata(part(&world)).unwrap().len(), 1_000_000);
    assert!(!world.repo().join("snapshots").exists());
    world.run(&["pull", SPEC]).ok();
    is_cached(&world);
    assert_eq!(hub.cdn.sent("range")[2], "bytes=1000000-");
}

/// Puts a part of other bytes into the cache, with or without the tag of their version, and pulls.
fn pull_over_foreign_part(hub: &Hub, len: usize, etag: Option<&str>) -> World {
    let world = hub.world();
    fs::create_dir_all(world.repo().join("blobs")).unwrap();
    fs::write(part(&world), noise(len, 9)).unwrap();
    if let Some(etag) = etag {
        fs::write(part(&world).with_extension("part.etag"), etag).unwrap();
    }
    world.run(&["pull", SPEC]).ok();
    is_cached(&world);
    world
}

#[test]
fn a_part_of_another_version_is_begun_anew() {
    let data = bytes();
    let hub = Hub::new(&[(FILE, &data)]);
    pull_over_foreign_part(&hub, 1_000_000, Some("\"v0\"")); // the server sees it by If-Range
    assert_eq!(hub.cdn.sent("range"), ["bytes=1000000-"]);
    pull_over_foreign_part(&hub, 1_000_000, None); // the checksum sees it
    assert_eq!(hub.cdn.sent("range")[1..], ["bytes=1000000-", "-"]);
    pull_over_foreign_part(&hub, LEN, None); // whole, but wrong
    pull_over_foreign_part(&hub, LEN + 1, None); // too long
    assert_eq!(hub.cdn.sent("range")[3..], ["-", "-"]);
}

#[test]
fn servers_without_ranges_serve_too() {
    let data = bytes();
    let hub = Hub::with(&[(FILE, &data)], |_, nth, bytes| {
        let mut reply = Reply::new(200, bytes);
        reply.cut = (nth == 0).then_some(500_000);
        reply
    });
    let world = hub.world();
    world.run(&["pull", SPEC]).ok();
    is_cached(&world);
    let refusing = Hub::with(&[(FILE, &data)], |request, _, bytes| match request.headers.get("range") {
        Some(_) => Reply::new(416, ""),
        None => Reply::new(200, bytes),
    });
    pull_over_foreign_part(&refusing, 1000, None);
}

#[test]
fn a_body_without_a_length_is_checked_by_what_was_announced() {
    let data = bytes();
    let hub = Hub::with(&[(FILE, &data)], |request, nth, bytes| {
        let mut reply = Reply::file(request, bytes, "\"v1\"");
        (reply.no_length, reply.cut) = (true, (nth == 0).then_some(1_000_000));
        reply
    });
    let world = hub.world();
    world.run(&["pull", SPEC]).ok();
    is_cached(&world);
    assert_eq!(hub.cdn.requests().len(), 2);
}

#[test]
fn wrong_bytes_leave_nothing_behind() {
    let data = bytes();
    let hub = Hub::with(&[(FILE, &data)], |_, _, bytes| Reply::new(200, noise(bytes.len(), 7)));
    let world = hub.world();
    world.run(&["pull", SPEC]).fails("is not the announced file");
    assert_eq!(files(&world.path("hf")), [""; 0]);
    // Another length than announced is seen before a byte is kept.
    let hub = Hub::with(&[(FILE, &data)], |_, _, _| Reply::new(200, "short"));
    let world = hub.world();
    world.run(&["pull", SPEC]).fails("sends 5 bytes where 3000000 were announced");
    assert_eq!(files(&world.path("hf")), [""; 0]);
}

#[test]
fn more_than_announced_is_refused() {
    let data = bytes();
    let hub = Hub::with(&[(FILE, &data)], |_, _, bytes| {
        let mut reply = Reply::new(200, [bytes, b"more"].concat());
        reply.no_length = true;
        reply
    });
    let world = hub.world();
    world.run(&["pull", SPEC]).fails("the server sends more than it announced");
    assert_eq!(files(&world.path("hf")), [""; 0]);
}

#[test]
fn offline_opens_no_connection() {
    let data = bytes();
    let hub = Hub::new(&[(FILE, &data)]);
    hub.world().run(&["pull", "--offline", SPEC]).fails("offline: hf:owner/repo is not fetched");
    hub.world().env("HOB_OFFLINE", "1").run(&["pull", SPEC]).fails("offline: ");
    hub.world().run(&["--offline", "pull", "starter"]).fails("offline: starter is not fetched");
    hub.world().run(&["run", "--offline", "--yes", SPEC, "hi"]).fails("offline: ");
    assert!(hub.api.requests().is_empty() && hub.cdn.requests().is_empty());
}

#[test]
fn nothing_is_fetched_without_consent() {
    let data = bytes();
    let hub = Hub::new(&[(FILE, &data)]);
    hub.world().run(&["run", SPEC, "hi"]).fails("fetch it with: hob pull hf:owner/repo:model-Q4_0.gguf");
    hub.world().run(&["run", "--prompt", "hi"]).fails("starter is not on this machine");
    hub.world().run(&["show", "starter"]).fails("is not on this machine");
    hub.world().run(&["bench", SPEC]).fails("is not on this machine");
    hub.world().run(&["list"]).ok();
    assert!(hub.api.requests().is_empty());
}

#[test]
fn refusals_are_explained() {
    let cases: [(u16, Option<&'static str>, &str); 6] = [
        (404, None, "the hub has no owner/repo: check the name"),
        (404, Some("RevisionNotFound"), "owner/repo has no revision main"),
        (401, None, "the hub has no public owner/repo: check the name, or set HF_TOKEN"),
        (403, Some("GatedRepo"), "owner/repo is gated: accept its terms at"),
        (418, None, "the server refused (status 418)"),
        (200, None, "the answer is not JSON"),
    ];
    for (status, code, why) in cases {
        let api = Server::start(move |_, _| match code {
            Some(code) => Reply::new(status, "").header("X-Error-Code", code),
            None => Reply::new(status, "<html>"),
        });
        let world = World::new().env("HF_ENDPOINT", &api.url);
        world.run(&["pull", SPEC]).fails(why);
        assert_eq!(api.requests().len(), 1, "{status} is not asked again");
    }
}

#[test]
fn a_busy_server_is_asked_again() {
    let text = listing(&[(FILE, &bytes())]).to_string();
    for (status, why) in [(503, "the server has a fault (status 503)"), (429, "too many requests")] {
        let api = Server::start(move |_, _| Reply::new(status, ""));
        let world = World::new().env("HF_ENDPOINT", &api.url);
        world.run(&["pull", SPEC]).fails(why);
        assert_eq!(api.requests().len(), 4);
    }
    let data = bytes();
    let api = Server::start(move |request, nth| match nth {
        0 => Reply::new(429, ""),
        1 => Reply::new(200, text.clone()),
        2 => Reply::new(503, ""),
        _ => Reply::file(request, &data, "\"v1\""),
    });
    let world = World::new().env("HF_ENDPOINT", &api.url);
    world.run(&["pull", SPEC]).ok();
    is_cached(&world);
}

#[test]
fn a_silent_server_is_given_up() {
    let api = Server::start(|_, _| Reply { delay: Duration::from_secs(4), ..Reply::new(200, "{}") });
    let world = World::new().env("HF_ENDPOINT", &api.url).env("HF_HUB_DOWNLOAD_TIMEOUT", "1");
    let start = Instant::now();
    world.run(&["pull", SPEC]).fails("does not answer");
    assert!(start.elapsed() < Duration::from_secs(30));
    // In the middle of a body, too; what came is kept and continued.
    let data = bytes();
    let hub = Hub::with(&[(FILE, &data)], |request, nth, bytes| {
        let mut reply = Reply::file(request, bytes, "\"v1\"");
        if nth == 0 {
            (reply.cut, reply.stall) = (Some(1_000_000), true);
        }
        reply
    });
    let world = hub.world().env("HF_HUB_DOWNLOAD_TIMEOUT", "1");
    world.run(&["pull", SPEC]).ok();
    is_cached(&world);
}

#[test]
fn a_token_stays_with_its_host() {
    let data = bytes();
    let hub = Hub::new(&[(FILE, &data)]);
    let world = hub.world().env("HF_TOKEN", "hf_secret");
    world.run(&["pull", SPEC]).ok();
    assert_eq!(hub.api.sent("authorization"), ["Bearer hf_secret"; 2]);
    assert_eq!(hub.cdn.sent("authorization"), ["-"]);
    // From the file that the hub's own tool writes.
    let world = hub.world();
    fs::create_dir_all(world.path("hf")).unwrap();
    fs::write(world.path("hf/token"), "hf_file\n").unwrap();
    world.run(&["pull", SPEC]).ok();
    assert_eq!(hub.api.sent("authorization")[2], "Bearer hf_file");
    // A repository that was renamed redirects on the same host, and there the token goes along.
    let moved = Server::start(|request, nth| match nth {
        0 => Reply::redirect(format!("{}?again", request.path)),
        _ => Reply::new(404, ""),
    });
    let world = World::new().env("HF_ENDPOINT", &moved.url).env("HF_TOKEN", "t");
    world.run(&["pull", SPEC]).fails("the hub has no owner/repo");
    assert_eq!(moved.sent("authorization"), ["Bearer t"; 2]);
}

#[test]
fn circles_are_left() {
    let api = Server::start(|request, _| Reply::redirect(request.path.clone()));
    let world = World::new().env("HF_ENDPOINT", &api.url);
    world.run(&["pull", SPEC]).fails("redirects in circles");
}

#[test]
fn hostile_answers_are_refused() {
    let answers = [
        ("../../../evil.gguf", None, "names a file \"../../../evil.gguf\" that is refused"),
        ("/etc/evil.gguf", None, "that is refused"),
        ("a\\..\\b.gguf", None, "that is refused"),
        (FILE, Some(("sha", "../../..")), "names no commit"),
        (FILE, Some(("siblings", "none")), "lists no files"),
    ];
    for (name, change, why) in answers {
        let mut answer = listing(&[(name, b"x")]);
        if let Some((key, value)) = change {
            answer[key] = value.into();
        }
        let answer = answer.to_string();
        let api = Server::start(move |_, _| Reply::new(200, answer.clone()));
        let world = World::new().env("HF_ENDPOINT", &api.url);
        world.run(&["pull", "hf:owner/repo"]).fails(why);
        assert_eq!(files(world.dir.path()), [""; 0]);
    }
    let mut answer = listing(&[(FILE, b"x")]);
    answer["siblings"][0]["lfs"]["sha256"] = "../../evil".into();
    let api = Server::start(move |_, _| Reply::new(200, answer.to_string()));
    let world = World::new().env("HF_ENDPOINT", &api.url);
    world.run(&["pull", "hf:owner/repo"]).fails("gives no length and checksum");
    world.run(&["pull", "hf:../repo"]).fails("does not name a repository");
}

#[test]
fn too_little_room_is_seen_before_the_download() {
    let mut answer = listing(&[(FILE, b"x")]);
    answer["siblings"][0]["lfs"]["size"] = 1_000_000_000_000_000_000u64.into();
    let api = Server::start(move |_, _| Reply::new(200, answer.to_string()));
    let world = World::new().env("HF_ENDPOINT", &api.url);
    world.run(&["pull", SPEC]).fails("not enough disk space: 1.0 EB are needed");
    assert_eq!(api.requests().len(), 1);
    assert_eq!(files(world.dir.path()), [""; 0]);
}

#[test]
fn several_models_are_listed() {
    let hub = Hub::new(&[("m-Q5_0.gguf", b"a"), ("m-Q8_0.gguf", b"b")]);
    let run = hub.world().run(&["pull", "hf:owner/repo"]);
    run.fails("owner/repo holds several models; name one of them:");
    assert!(run.stderr.contains("hf:owner/repo:m-Q8_0.gguf  (1 bytes)"), "{run:?}");
    hub.world().run(&["pull", "hf:owner/repo:Q8_0"]).ok();
}

#[test]
fn to_a_folder_of_ones_own() {
    let data = bytes();
    let hub = Hub::new(&[(FILE, &data)]);
    let world = hub.world();
    assert_eq!(world.run(&["pull", "--to", "mine", SPEC]).ok(), format!("mine/{FILE}"));
    assert_eq!(files(&world.path("mine")), [FILE]);
    world.run(&["pull", "--to", "mine", SPEC]).ok();
    assert_eq!(hub.cdn.requests().len(), 1);
    assert!(!world.path("hf").exists());
}

#[test]
fn a_cache_that_cannot_be_made() {
    let data = bytes();
    let hub = Hub::new(&[(FILE, &data)]);
    let world = hub.world();
    fs::write(world.path("hf"), "a file").unwrap();
    world.run(&["pull", SPEC]).fails("cannot make the folder");
    assert!(hub.cdn.requests().is_empty());
}

#[cfg(unix)]
mod unix {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command, Stdio};

    #[test]
    fn a_read_only_cache() {
        let data = bytes();
        let hub = Hub::new(&[(FILE, &data)]);
        let world = hub.world();
        fs::create_dir(world.path("hf")).unwrap();
        fs::set_permissions(world.path("hf"), fs::Permissions::from_mode(0o555)).unwrap();
        // The superuser may write everywhere, except where the kernel itself refuses.
        let world = match fs::write(world.path("hf/probe"), "") {
            Ok(()) => world.env("HF_HOME", "/proc/hob"),
            Err(_) => world,
        };
        world.run(&["pull", SPEC]).fails("cannot make the folder");
        assert!(hub.cdn.requests().is_empty());
    }

    #[test]
    fn a_write_that_fails_midway_keeps_what_is_sound() {
        let data = bytes();
        let hub = Hub::new(&[(FILE, &data)]);
        let world = hub.world();
        let command = world.command(&["pull", SPEC]);
        // The limit is in blocks of 512 or 1024 bytes, as the shell has it.
        let mut limited = Command::new("/bin/sh");
        limited.args(["-c", "trap '' XFSZ; ulimit -f 1000; exec \"$0\" \"$@\""]);
        limited.arg(command.get_program()).args(command.get_args()).env_clear();
        limited.envs(command.get_envs().filter_map(|(k, v)| Some((k, v?))));
        limited.current_dir(world.dir.path()).stdin(Stdio::null());
        let run: common::Run = limited.output().unwrap().into();
        run.fails("cannot write ");
        assert!(!world.repo().join("snapshots").exists());
        world.run(&["pull", SPEC]).ok();
        is_cached(&world);
        assert!(hub.cdn.sent("range")[1].starts_with("bytes="), "{:?}", hub.cdn.sent("range"));
    }

    /// Starts a pull that has a third of the file and then waits for the server.
    fn stalled(hub: &Hub, world: &World) -> Child {
        let child = world.command(&["pull", SPEC]).spawn().unwrap();
        let start = Instant::now();
        while fs::metadata(part(world)).map_or(0, |m| m.len()) < 1_000_000 {
            assert!(start.elapsed() < Duration::from_secs(20), "{:?}", hub.cdn.requests());
            std::thread::sleep(Duration::from_millis(20));
        }
        child
    }

    fn stalling_hub() -> Hub {
        Hub::with(&[(FILE, &bytes())], |request, nth, bytes| {
            let mut reply = Reply::file(request, bytes, "\"v1\"");
            if nth == 0 {
                (reply.cut, reply.stall) = (Some(1_000_000), true);
            }
            reply
        })
    }

    #[test]
    fn ctrl_c_leaves_a_part_that_is_continued() {
        let hub = stalling_hub();
        let world = hub.world();
        let child = stalled(&hub, &world);
        assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
        let out = child.wait_with_output().unwrap();
        assert_eq!((out.status.code(), out.status.signal()), (Some(130), None));
        assert!(String::from_utf8(out.stderr).unwrap().ends_with("hob: stopped by Ctrl-C\n"));
        assert!(!world.repo().join("snapshots").join(COMMIT).join(FILE).exists());
        world.run(&["pull", SPEC]).ok();
        is_cached(&world);
        assert_eq!(hub.cdn.sent("range"), ["-", "bytes=1000000-"]);
    }

    #[test]
    fn two_at_once_do_not_write_one_part() {
        let hub = stalling_hub();
        let world = hub.world();
        let mut child = stalled(&hub, &world);
        world.run(&["pull", SPEC]).fails("another Hob is fetching");
        child.kill().unwrap();
        child.wait().unwrap();
        world.run(&["pull", SPEC]).ok();
        is_cached(&world);
    }
}
