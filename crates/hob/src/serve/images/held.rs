//! The picture model in memory: one at most, used by one thread, and let go by whoever needs its room.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant, SystemTime};

use super::lock;
use crate::picture::Studio;
use crate::serve::keep::Keep;
use crate::serve::known::Known;
use crate::terminal;

/// A model that is open.
pub struct Open {
    /// which one
    pub known: Known,
    /// it
    pub studio: Studio,
}

/// The place of a picture model. Who paints holds it for as long as a request takes.
#[derive(Default)]
pub struct Held {
    open: Mutex<Option<Open>>,
    /// which one is open, also while it paints; since when, and when it was used last
    noted: Mutex<Option<(Known, SystemTime, Instant)>>,
    bytes: AtomicU64,
}

impl Held {
    /// The place, for a request.
    pub fn take(&self) -> MutexGuard<'_, Option<Open>> {
        lock(&self.open)
    }

    /// Notes what is in the place, and how many bytes that takes.
    pub fn note(&self, known: Option<&Known>, bytes: u64) {
        let mut noted = lock(&self.noted);
        let since = noted.take().map_or_else(SystemTime::now, |(_, since, _)| since);
        *noted = known.map(|k| (k.clone(), since, Instant::now()));
        self.bytes.store(bytes, Ordering::SeqCst);
    }

    /// Counts so many bytes as planned.
    pub fn count(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::SeqCst);
    }

    /// Bytes that it is planned to take.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::SeqCst)
    }

    /// The model that is open, and since when.
    pub fn model(&self) -> Option<(Known, SystemTime)> {
        lock(&self.noted).as_ref().map(|(known, since, _)| (known.clone(), *since))
    }

    /// Since it was used.
    pub fn idle(&self) -> Duration {
        lock(&self.noted).as_ref().map_or(Duration::ZERO, |(_, _, used)| used.elapsed())
    }

    /// Whether somebody uses it.
    pub fn is_busy(&self) -> bool {
        matches!(self.open.try_lock(), Err(TryLockError::WouldBlock))
    }

    /// Lets the model go, if there is one and nobody uses it. Returns whether there was.
    pub fn let_go(&self) -> bool {
        let mut open = match self.open.try_lock() {
            Ok(open) => open,
            Err(TryLockError::Poisoned(e)) => e.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        let Some(gone) = open.take() else { return false };
        self.note(None, 0);
        terminal::note(&format!("{} is unloaded", terminal::clean(&gone.known.name)));
        true
    }

    /// The same, where it was not used for as long as it was to be kept.
    pub fn expire(&self, keep: Keep) {
        if matches!(keep, Keep::For(time) if self.idle() >= time) {
            self.let_go();
        }
    }
}
