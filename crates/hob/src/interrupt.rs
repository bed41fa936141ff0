//! Ctrl-C: it ends the program, except where the work in hand asked to be told instead.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

static LISTENERS: AtomicUsize = AtomicUsize::new(0);
static PRESSED: AtomicBool = AtomicBool::new(false);

/// While it lives, a first Ctrl-C only sets the flag of [`Catch::pressed`]; a second one ends the program.
pub struct Catch(());

impl Catch {
    /// Starts listening, with the flag down.
    pub fn new() -> Catch {
        PRESSED.store(false, Ordering::SeqCst);
        LISTENERS.fetch_add(1, Ordering::SeqCst);
        Catch(())
    }

    /// Whether Ctrl-C was pressed since.
    pub fn pressed(&self) -> bool {
        PRESSED.load(Ordering::SeqCst)
    }
}

impl Drop for Catch {
    fn drop(&mut self) {
        LISTENERS.fetch_sub(1, Ordering::SeqCst);
    }
}

/// From now on, writing to a connection that its other side has closed is an error and does not end the program, as it
/// should where a pipe is all that is written to.
pub fn survive_closed_connections() {
    #[cfg(unix)]
    // SAFETY: SIG_IGN is a valid disposition; it replaces none that anybody waits for.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    }
}

/// Installs the handler; to be called once, at the start of the program.
pub fn install() {
    // A refusal leaves the system's own handling, which also ends the program.
    let _ = ctrlc::set_handler(|| {
        if LISTENERS.load(Ordering::SeqCst) > 0 && !PRESSED.swap(true, Ordering::SeqCst) {
            return;
        }
        eprintln!("\nhob: stopped by Ctrl-C");
        std::process::exit(130);
    });
}
