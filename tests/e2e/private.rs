//! Privacy: with a model on this machine, no socket is opened. The kernel itself watches: a filter ends the program at
//! the first system call that could open one.

use crate::common::World;
use crate::models::model;
use crate::serving::{Serving, install};
use crate::spent::spent;
use crate::tiny::Tiny;
use serde_json::json;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// From now on this process is ended by SIGSYS at the first of these system calls.
fn forbid(calls: [libc::c_long; 3]) -> std::io::Result<()> {
    // Berkeley packet filter over `struct seccomp_data`, whose first word is the call's number.
    let stmt = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let is = |call: libc::c_long, skip: u8| libc::sock_filter {
        code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
        jt: skip,
        jf: 0,
        k: call as u32,
    };
    let mut filter = [
        stmt(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        is(calls[0], 3),
        is(calls[1], 2),
        is(calls[2], 1),
        stmt(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
        stmt(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_KILL_PROCESS),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: both calls take plain numbers and a pointer to a program that lives until they return.
    let refused = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) != 0
    };
    if refused { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

fn without_sockets(mut command: Command) -> Command {
    // SAFETY: between fork and exec the closure makes system calls and nothing else.
    // A ring of io_uring can open sockets as well.
    unsafe {
        command.pre_exec(|| forbid([libc::SYS_socket, libc::SYS_socketpair, libc::SYS_io_uring_setup]))
    };
    command
}

#[test]
fn no_socket_is_opened_with_a_model_at_hand() {
    let world = World::new();
    let tiny = Tiny::llama().write(&world, "tiny");
    let tiny = tiny.to_str().unwrap();
    let smollm2 = model("SmolLM2-135M-Instruct.Q4_1.gguf");
    let logits = world.path("logits");
    for args in [
        &["run", smollm2.to_str().unwrap(), "Hi", "--max-tokens=4"][..],
        &["run", smollm2.to_str().unwrap(), "Hi", "--max-tokens=4", "--offline"],
        &["run", tiny, "hi", "--json", "--max-tokens=4"],
        &["run", tiny, "hi", "--json", "--max-tokens=4", "--yes"],
        &["show", tiny],
        &["list"],
        &["bench", tiny, "pp8", "tg2"],
        &["debug", "tokenize", tiny, "--text=hi"],
        &["debug", "logits", tiny, "--text=hi", "--out", logits.to_str().unwrap()],
        &["debug", "plan", tiny],
        &["doctor"],
        &["fit", tiny],
        &["fit", "starter"],
        &["fit", "llama-3.1-8b", "--gpu=rtx4060"],
    ] {
        let spent = spent(&mut without_sockets(world.command(args)));
        assert_eq!(spent.signal, None, "{args:?} opened a socket: {spent:?}");
        spent.run.ok();
    }
    // Names that are not here are refused without a look outside.
    for args in [
        &["run", "hf:owner/repo", "hi"][..],
        &["run", "starter", "hi"],
        &["run", "starter", "hi", "--yes", "--offline"],
        &["show", "starter"],
        &["show", "hf:owner/repo", "--offline"],
        &["fit", "hf:owner/repo", "--offline"],
        &["bench", "hf:owner/repo"],
    ] {
        let spent = spent(&mut without_sockets(world.command(args)));
        assert_eq!(spent.signal, None, "{args:?} opened a socket: {spent:?}");
        assert_eq!(spent.run.code, Some(1), "{args:?}: {spent:?}");
    }
}

/// The watch sees what it is there for: fetching does open a socket, unless that is refused.
#[test]
fn the_watch_works() {
    let world = World::new();
    for command in ["pull", "show"] {
        let asked = spent(&mut without_sockets(world.command(&[command, "hf:owner/repo"])));
        assert_eq!(asked.signal, Some(libc::SIGSYS), "{asked:?}");
        let offline = spent(&mut without_sockets(world.command(&[command, "hf:owner/repo", "--offline"])));
        assert_eq!(offline.signal, None);
        offline.run.fails("offline: hf:owner/repo is not fetched");
    }
}

/// A server answers those that connect, and connects to nobody, whatever it is asked.
#[test]
fn a_server_opens_no_connection() {
    for offline in [&["--offline"][..], &[]] {
        let world = World::new();
        install(&world, &Tiny::llama().write(&world, "tiny"));
        let args = [&["serve", "--port=0"][..], offline].concat();
        let mut command = world.command(&args);
        // SAFETY: between fork and exec the closure makes system calls and nothing else.
        unsafe {
            command.pre_exec(|| forbid([libc::SYS_connect, libc::SYS_sendmmsg, libc::SYS_io_uring_setup]))
        };
        let server = Serving::spawn(&mut command);
        for model in ["tiny", "starter", "hf:owner/repo", "http://127.0.0.1:9/x.gguf", "qwen3"] {
            let said = "see http://127.0.0.1:9/x";
            for (path, field, value) in [
                ("/v1/chat/completions", "messages", json!([{"role": "user", "content": said}])),
                ("/v1/completions", "prompt", said.into()),
                ("/v1/responses", "input", said.into()),
            ] {
                let body = json!({"model": model, "max_tokens": 1, "max_output_tokens": 1, field: value});
                let expected = if model == "tiny" { 200 } else { 404 };
                assert_eq!(server.post(path, &body).status, expected, "{path} {model}");
            }
        }
        for path in ["/v1/models", "/v1/models/hf:owner/repo", "/metrics", "/openapi.json", "/health", "/"] {
            assert!(server.get(path).status < 500, "{path}");
        }
        assert_eq!(server.end().code, Some(0), "it was ended by the kernel's watch");
    }
}
