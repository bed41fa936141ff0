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

/// While it lives, writing to a connection that its other side has closed is an error. Else it ends the program, as is
/// right for the pipe that the output may be.
pub struct SurviveClosed(());

impl SurviveClosed {
    /// From now on.
    pub fn new() -> SurviveClosed {
        on_closed(true);
        SurviveClosed(())
    }
}

impl Drop for SurviveClosed {
    fn drop(&mut self) {
        on_closed(false);
    }
}

/// What becomes of writing to what is closed.
pub fn on_closed(survive: bool) {
    #[cfg(unix)]
    // SAFETY: both are valid dispositions, and nobody else sets one for this signal.
    unsafe {
        libc::signal(libc::SIGPIPE, if survive { libc::SIG_IGN } else { libc::SIG_DFL });
    }
    #[cfg(not(unix))]
    let _ = survive;
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
