//! `--memory`: the plan is obeyed, in a process that the system gives no more.

use crate::common::World;
use crate::models::model;
use crate::spent::spent;
use serde_json::Value;
use std::os::unix::process::CommandExt;
use std::process::Command;

const MIB: usize = 1 << 20;

/// A process of which the system refuses private memory beyond `bytes`: what a plan counts, but for the files.
pub fn limited(mut command: Command, bytes: usize) -> Command {
    let limit = libc::rlimit { rlim_cur: bytes as libc::rlim_t, rlim_max: bytes as libc::rlim_t };
    let set = move || {
        // SAFETY: a plain system call, which may be made between fork and exec.
        match unsafe { libc::setrlimit(libc::RLIMIT_DATA, &limit) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: the closure makes that call and touches no memory of the parent's.
    unsafe { command.pre_exec(set) };
    command
}

#[test]
fn a_run_stays_within_the_memory_it_is_given() {
    let world = World::new();
    let model = model("SmolLM2-135M-Instruct.Q4_1.gguf");
    let model = model.to_str().unwrap();
    let ask = |more: &[&str]| {
        let args = [
            "run",
            model,
            "Once upon a time",
            "--raw",
            "--temperature=0",
            "--max-tokens=24",
            "--json",
            "--threads=2",
        ];
        world.command(&[&args[..], more].concat())
    };
    let free = spent(&mut ask(&[]));
    let free: Value = serde_json::from_str(free.run.ok()).unwrap();
    // All in memory with a shorter context; some weights read again for each token; nearly all.
    for (mib, ctx, said) in [
        (150, None, "the context is "),
        (100, Some("--ctx=1024"), "of weights are read from the file again for each token"),
        (80, Some("--ctx=256"), "of weights are read from the file again for each token"),
    ] {
        let memory = format!("--memory={mib}M");
        let more: Vec<&str> = [memory.as_str()].into_iter().chain(ctx).collect();
        let run = spent(&mut limited(ask(&more), mib * MIB));
        let report: Value = serde_json::from_str(run.run.ok()).unwrap();
        assert!(run.run.stderr.starts_with("hob: ") && run.run.stderr.contains(said), "{run:?}");
        assert_eq!(report["tokens"], free["tokens"], "{mib} MiB");
        assert_eq!(report["text"], free["text"], "{mib} MiB");
        // What the system says of a child may be what its parent held when it began.
        let (planned, peak) =
            (report["planned_bytes"].as_f64().unwrap(), report["peak_bytes"].as_f64().unwrap());
        assert!(peak <= (mib * MIB) as f64, "{peak} bytes of {mib} MiB");
        // Where weights leave memory again, the peak comes before the last of the program's own pages.
        let off = planned / peak - 1.0;
        assert!(off > -0.03 && off < 0.06, "planned {planned}, measured {peak}");
    }
}

#[test]
fn what_cannot_stay_within_it_is_refused_with_what_would() {
    let world = World::new();
    let model = model("SmolLM2-135M-Instruct.Q4_1.gguf");
    let model = model.to_str().unwrap();
    let small = world.run(&["run", model, "Hi", "--memory=20M"]);
    small.fails("does not run within the 21.0 MB allowed");
    let advised = small.stderr.split("--memory ").nth(1).unwrap().trim().to_string();
    let memory = format!("--memory={advised}");
    world.run(&["run", model, "Hi", "--raw", "--max-tokens=2", "--ctx=4096", &memory]).ok();
    let long = world.run(&["run", model, "Hi", "--memory=100M", "--ctx=8192"]);
    long.fails("with 8192 tokens of context");
    let ctx = long.stderr.split("--ctx ").nth(1).unwrap().split(',').next().unwrap();
    let ctx = format!("--ctx={ctx}");
    world.run(&["run", model, "Hi", "--raw", "--max-tokens=2", "--memory=100M", &ctx]).ok();
    let wrong = world.run(&["run", model, "Hi", "--memory=2X"]);
    assert!(wrong.code == Some(2) && wrong.stderr.contains("is no size of memory"), "{wrong:?}");
}
