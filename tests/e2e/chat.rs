//! The chat on a terminal of its own (a pseudo-terminal), typed as a person does.

use crate::common::World;
use crate::models::model;
use crate::tiny::{Meta, Tiny};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Child;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// A program on a terminal, and what it has shown.
struct Screen {
    child: Child,
    keys: File,
    shown: Receiver<Vec<u8>>,
    text: Vec<u8>,
    /// what of the text was waited for already
    seen: usize,
}

impl Screen {
    fn open(world: &World, args: &[&str]) -> Screen {
        let (mut ours, mut theirs) = (-1, -1);
        let mut size = libc::winsize { ws_row: 40, ws_col: 200, ws_xpixel: 0, ws_ypixel: 0 };
        let none = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: the pointers are to locals, or null where that is allowed.
        let opened =
            unsafe { libc::openpty(&mut ours, &mut theirs, none.cast(), none.cast(), &raw mut size) };
        assert_eq!(opened, 0, "{}", std::io::Error::last_os_error());
        // SAFETY: both were just opened, and are nobody else's.
        let (ours, theirs) = unsafe { (OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) };
        let mut command = world.command(args);
        command.env("TERM", "xterm").env("NO_COLOR", "1");
        command.stdin(theirs.try_clone().unwrap()).stdout(theirs.try_clone().unwrap()).stderr(theirs);
        // SAFETY: between fork and exec only system calls are made: a session of its own, with stdin as its terminal.
        unsafe {
            command.pre_exec(|| match libc::setsid() >= 0 && libc::ioctl(0, libc::TIOCSCTTY as _, 0) >= 0 {
                true => Ok(()),
                false => Err(std::io::Error::last_os_error()),
            });
        }
        let child = command.spawn().unwrap();
        drop(command); // its ends of the terminal with it
        let keys = File::from(ours);
        let mut screen = keys.try_clone().unwrap();
        let (send, shown) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // The read fails when the other side is gone.
            while let Ok(n @ 1..) = screen.read(&mut buffer) {
                if send.send(buffer[..n].to_vec()).is_err() {
                    break;
                }
            }
        });
        Screen { child, keys, shown, text: Vec::new(), seen: 0 }
    }

    fn unseen(&self) -> String {
        String::from_utf8_lossy(&self.text[self.seen..]).into_owned()
    }

    /// Types.
    fn keys(&mut self, text: &str) {
        self.keys.write_all(text.as_bytes()).unwrap();
    }

    /// Types a line at the prompt and gives what is shown up to the next prompt, without the echo.
    #[track_caller]
    fn line(&mut self, text: &str) -> String {
        self.keys(&format!("{text}\r"));
        self.until("\n"); // the echo
        self.prompt()
    }

    /// Waits for the prompt and gives what was shown before it.
    #[track_caller]
    fn prompt(&mut self) -> String {
        self.until(">>> ")
    }

    /// Waits until `what` is shown, and gives what was shown before it.
    #[track_caller]
    fn until(&mut self, what: &str) -> String {
        let start = Instant::now();
        loop {
            let unseen = &self.text[self.seen..];
            if let Some(at) = unseen.windows(what.len()).position(|w| w == what.as_bytes()) {
                let before = String::from_utf8_lossy(&unseen[..at]).into_owned();
                self.seen += at + what.len();
                return before;
            }
            match self.shown.recv_timeout(Duration::from_millis(100)) {
                Ok(bytes) => self.text.extend(bytes),
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("it ended before {what:?}: {:?}", self.unseen())
                }
                Err(RecvTimeoutError::Timeout) => {
                    assert!(start.elapsed() < Duration::from_secs(60), "no {what:?} in {:?}", self.unseen());
                }
            }
        }
    }

    /// Waits for the end and gives the exit code.
    #[track_caller]
    fn end(mut self) -> Option<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            while self.shown.try_recv().is_ok() {}
            assert!(start.elapsed() < Duration::from_secs(60), "it runs on");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_talk_keeps_its_context() {
    let world = World::new();
    let path = model("SmolLM2-135M-Instruct.Q4_1.gguf");
    let args = ["run", path.to_str().unwrap(), "--temperature=0", "--max-tokens=12"];
    let mut screen = Screen::open(&world, &args);
    screen.prompt();
    let first = screen.line("My dog is called Wanda.");
    assert!(first.trim().len() > 5, "{first:?}");
    let second = screen.line("What is my dog called?");
    assert!(second.contains("Wanda"), "{second:?}");
    assert!(screen.line("/show").contains("4 messages"));
    let saved = screen.line("/save talk.md");
    assert!(saved.contains("saved to talk.md"), "{saved:?}");
    let talk = std::fs::read_to_string(world.path("talk.md")).unwrap();
    assert!(talk.starts_with("## user\n\nMy dog is called Wanda.\n\n## assistant\n\n"), "{talk}");
    assert!(screen.line("/save talk.md").contains("hob: cannot write talk.md"));
    assert!(screen.line("/system Answer in capital letters.").contains("the system message is set"));
    assert!(screen.line("/clear").contains("forgotten"));
    let shown = screen.line("/show");
    assert!(shown.contains("0 messages") && shown.contains("system message: Answer in capital"), "{shown:?}");
    let third = screen.line("What is my dog called?");
    assert!(!third.contains("Wanda"), "{third:?}");
    screen.keys("\x04");
    assert_eq!(screen.end(), Some(0));
}

#[test]
fn a_full_context_is_told() {
    let world = World::new();
    let path = endless(&world);
    let mut screen = Screen::open(&world, &["run", &path, "--ctx=60", "--seed=1", "--threads=1"]);
    screen.prompt();
    let answer = screen.line("hi");
    assert!(
        answer.contains(" (the context is full: /clear empties it, hob run --ctx makes it longer)\r\n"),
        "{answer:?}"
    );
    screen.keys("/bye\r");
    assert_eq!(screen.end(), Some(0));
}

/// A tiny model that never ends its answer.
pub fn endless(world: &World) -> String {
    let mut tiny = Tiny::llama();
    tiny.set("llama.context_length", Meta::U32(1 << 20));
    // No token ends the text, by name or by number.
    tiny.unset("tokenizer.ggml.eos_token_id");
    let Some((_, Meta::Strs(tokens))) = tiny.meta.iter_mut().find(|(k, _)| k == "tokenizer.ggml.tokens")
    else {
        unreachable!()
    };
    tokens[257] = "<|other|>".into();
    tiny.write(world, "endless").to_str().unwrap().to_string()
}

#[test]
fn ctrl_c_stops_the_answer_and_not_the_program() {
    let world = World::new();
    let path = endless(&world);
    let mut screen = Screen::open(&world, &["run", &path, "--ctx=1000000", "--seed=1", "--threads=1"]);
    screen.prompt();
    for _ in 0..2 {
        screen.keys("hello\r");
        screen.until("\n");
        // Some of the answer first, whatever it says.
        let start = Instant::now();
        while screen.text.len() < screen.seen + 8 {
            screen.text.extend(screen.shown.recv_timeout(Duration::from_secs(60)).unwrap());
            assert!(start.elapsed() < Duration::from_secs(60));
        }
        screen.keys("\x03");
        assert!(screen.prompt().contains("(stopped)"));
    }
    assert!(screen.line("/show").contains("4 messages"));
    // Two lines typed at once, as a paste may come: neither is lost.
    screen.keys("/show\r/nope\r");
    screen.until("4 messages");
    screen.until("there is no /nope");
    screen.prompt();
    // At the prompt it says how to leave, and forgets the line.
    screen.keys("half a li\x03");
    screen.until("(Ctrl-D or /bye leaves)");
    screen.prompt();
    assert!(screen.line("/help").contains("/system TEXT"));
    screen.keys("/bye\r");
    assert_eq!(screen.end(), Some(0));
}

#[test]
fn ctrl_c_ends_a_single_answer() {
    let world = World::new();
    let path = endless(&world);
    let args = ["run", &path, "hello", "--ctx=1000000", "--seed=1", "--threads=1"];
    let mut screen = Screen::open(&world, &args);
    while screen.text.len() < 8 {
        screen.text.extend(screen.shown.recv_timeout(Duration::from_secs(60)).unwrap());
    }
    screen.keys("\x03");
    screen.until("hob: the answer was stopped by Ctrl-C");
    assert_eq!(screen.end(), Some(130));
}

#[test]
fn a_message_that_does_not_fit_is_taken_back() {
    let world = World::new();
    let path = Tiny::llama().write(&world, "tiny");
    let args = ["run", path.to_str().unwrap(), "--ctx=100", "--max-tokens=4", "--temperature=0"];
    let mut screen = Screen::open(&world, &args);
    screen.prompt();
    let long = screen.line(&"x".repeat(150));
    assert!(long.contains("more than the context of 100 holds"), "{long:?}");
    assert!(screen.line("/show").contains("0 messages"));
    let short = screen.line("hi");
    assert!(!short.contains("hob:"), "{short:?}");
    assert!(screen.line("/show").contains("2 messages"));
    screen.keys("\x04");
    assert_eq!(screen.end(), Some(0));
}
