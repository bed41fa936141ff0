//! Runs that are watched: how long, and how much memory.

use crate::common::{Run, World};
use std::io::Read;
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

/// No run of these tests takes nearly as long, even on a busy machine.
const HANGS: Duration = Duration::from_secs(120);

/// How a run ended, and what it took.
#[derive(Debug)]
pub struct Spent {
    pub run: Run,
    /// the signal that ended it
    pub signal: Option<i32>,
    pub time: Duration,
    /// the most memory it held, in bytes; 0 where the system does not tell
    pub peak: usize,
}

/// Runs `command` to its end; one that hangs is ended, and a failure.
pub fn spent(command: &mut Command) -> Spent {
    let start = Instant::now();
    let mut child = command.spawn().unwrap();
    fn collect(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            from.read_to_end(&mut bytes).unwrap();
            bytes
        })
    }
    let (out, err) = (collect(child.stdout.take().unwrap()), collect(child.stderr.take().unwrap()));
    let (status, peak) = wait(&mut child, start);
    let time = start.elapsed();
    let output = Output { status, stdout: out.join().unwrap(), stderr: err.join().unwrap() };
    #[cfg(unix)]
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    #[cfg(not(unix))]
    let signal = None;
    Spent { run: output.into(), signal, time, peak }
}

fn hanging(child: &mut Child, start: Instant) {
    if start.elapsed() > HANGS {
        child.kill().unwrap();
        panic!("it runs on after {HANGS:?}");
    }
    std::thread::sleep(Duration::from_millis(2));
}

#[cfg(unix)]
fn wait(child: &mut Child, start: Instant) -> (std::process::ExitStatus, usize) {
    // What the system says at the end may be what the parent held when the child began: what the child itself has held
    // is asked while it runs, and counts where that was soon enough.
    let mut held = 0;
    loop {
        held = held.max(most_held(child.id()).unwrap_or(0));
        let mut status = 0;
        // SAFETY: a plain struct of numbers, for which all zeros are valid.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: the child is ours and nobody else waits for it; both pointers are to locals.
        let done = unsafe { libc::wait4(child.id() as i32, &mut status, libc::WNOHANG, &mut usage) };
        assert!(done >= 0, "{}", std::io::Error::last_os_error());
        if done > 0 {
            let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
            let status = std::os::unix::process::ExitStatusExt::from_raw(status);
            let at_most = usage.ru_maxrss as usize * unit;
            return (status, if held > 0 { held.min(at_most) } else { at_most });
        }
        hanging(child, start);
    }
}

/// The most bytes that a process has held so far; `None` where the system does not tell, or it has ended.
#[cfg(unix)]
fn most_held(process: u32) -> Option<usize> {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()? * 1024)
}

#[cfg(not(unix))]
fn wait(child: &mut Child, start: Instant) -> (std::process::ExitStatus, usize) {
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return (status, 0);
        }
        hanging(child, start);
    }
}

/// Runs hob, which must refuse: exit code 1, nothing on stdout, one sentence on stderr that holds `why`, soon and
/// with little memory.
#[track_caller]
pub fn refuses(world: &World, args: &[&str], why: &str) {
    let spent = spent(&mut world.command(args));
    spent.run.fails(why);
    let Spent { run, time, peak, .. } = spent;
    assert_eq!(run.stderr.lines().count(), 1, "{args:?}: {run:?}");
    assert!(run.stderr.starts_with("hob: ") && run.stdout.is_empty(), "{args:?}: {run:?}");
    assert!(time < Duration::from_secs(20), "{args:?} took {time:?}");
    assert!(peak < 200 << 20, "{args:?} took {} MiB", peak >> 20);
}

/// Runs hob, which may do what is asked or refuse, but neither stumble nor hang. Says whether it did it.
#[track_caller]
pub fn survives(world: &World, args: &[&str], what: &str) -> bool {
    let Spent { run, signal, time, peak } = spent(&mut world.command(args));
    assert!(matches!(run.code, Some(0 | 1)), "{what}: signal {signal:?}, {run:?}");
    assert!(!run.stderr.contains("bug in Hob"), "{what}: {run:?}");
    if run.code == Some(1) {
        assert!(
            run.stderr.lines().all(|l| l.starts_with("hob: ")) && !run.stderr.is_empty(),
            "{what}: {run:?}"
        );
    }
    assert!(time < Duration::from_secs(20), "{what} took {time:?}");
    assert!(peak < 200 << 20, "{what} took {} MiB", peak >> 20);
    run.code == Some(0)
}
