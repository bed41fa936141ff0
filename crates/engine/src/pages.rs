//! Which pages of the cache are free.

use crate::CHUNK;
use hob_cpu::kv::PAGE;

/// Hands out page numbers.
pub struct Pages {
    /// pages that were never taken
    fresh: std::ops::Range<u32>,
    given: Vec<u32>,
}

impl Pages {
    /// Free pages. Low numbers go first, so that memory is touched from one end.
    pub fn new(fresh: std::ops::Range<u32>) -> Pages {
        Pages { fresh, given: Vec::new() }
    }

    /// A page, or `None` when all are taken.
    pub fn take(&mut self) -> Option<u32> {
        self.given.pop().or_else(|| self.fresh.next())
    }

    /// Gives a page back.
    pub fn give(&mut self, page: u32) {
        debug_assert!(!self.given.contains(&page), "page {page} is given back twice");
        self.given.push(page);
    }

    /// Pages that may be taken.
    pub fn free(&self) -> usize {
        self.given.len() + self.fresh.len()
    }

    /// Pages that were ever taken: so many are in memory.
    pub fn touched(&self) -> usize {
        self.fresh.start as usize
    }
}

/// The most pages that a sequence of up to `tokens` tokens holds of layers with `window`: those a chunk looks back to
/// and those it writes.
pub fn held(window: Option<usize>, tokens: usize) -> usize {
    let all = tokens.div_ceil(PAGE);
    window.map_or(all, |w| all.min((w - 1 + CHUNK).div_ceil(PAGE) + 1))
}
