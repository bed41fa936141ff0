//! Which pages of the cache are free, and which a sequence holds.

use crate::CHUNK;
use hob_cpu::kv::PAGE;
use hob_graph::GONE;

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
}

/// The most pages that a sequence of up to `tokens` tokens holds of layers with `window`: those a chunk looks back to
/// and those it writes.
pub fn held(window: Option<usize>, tokens: usize) -> usize {
    let all = tokens.div_ceil(PAGE);
    window.map_or(all, |w| all.min((w - 1 + CHUNK).div_ceil(PAGE) + 1))
}

/// The pages of one sequence in the layers of one window.
pub struct Table {
    window: Option<usize>,
    free: Pages,
    pages: Vec<u32>,
    /// the first that is not [`GONE`]
    first: usize,
}

impl Table {
    /// An empty table for up to `tokens` tokens, the `line`th of its kind: it hands out the pages that follow those of
    /// the tables before it.
    pub fn new(window: Option<usize>, tokens: usize, line: usize) -> Table {
        let page = |line| u32::try_from(held(window, tokens) * line).expect("the cache has room for them");
        Table {
            window,
            free: Pages::new(page(line)..page(line + 1)),
            pages: Vec::with_capacity(tokens.div_ceil(PAGE)),
            first: 0,
        }
    }

    /// The pages in order.
    pub fn pages(&self) -> &[u32] {
        &self.pages
    }

    /// The first page that a token at `position` looks back to.
    fn seen_from(&self, position: usize) -> usize {
        self.window.map_or(0, |w| (position + 1).saturating_sub(w) / PAGE)
    }

    /// Takes pages for tokens up to `end`, of which those from `position` on are new. Where none is free, it gives back
    /// what no new token looks back to: as late as possible, as a sequence may be rewound.
    pub fn grow(&mut self, position: usize, end: usize) {
        while self.pages.len() * PAGE < end {
            let page = self.free.take().unwrap_or_else(|| {
                assert!(self.first < self.seen_from(position), "the context has pages for all its tokens");
                self.first += 1;
                std::mem::replace(&mut self.pages[self.first - 1], GONE)
            });
            self.pages.push(page);
        }
    }

    /// Whether all is there that a token at position `len` looks back to.
    pub fn reaches(&self, len: usize) -> bool {
        len == 0 || self.first <= self.seen_from(len)
    }

    /// Gives back all pages but those of the first `len` tokens.
    pub fn rewind(&mut self, len: usize) {
        while self.pages.len() > len.div_ceil(PAGE) {
            match self.pages.pop().expect("counted") {
                GONE => self.first -= 1,
                page => self.free.give(page),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_goes_out_once() {
        let mut pages = Pages::new(0..3);
        let taken: Vec<_> = std::iter::from_fn(|| pages.take()).collect();
        assert_eq!(taken, [0, 1, 2]);
        pages.give(1);
        assert_eq!((pages.take(), pages.take()), (Some(1), None));
    }

    /// Whatever comes, a token's window is there, each page has one place, and no more are held than was said.
    #[test]
    fn windows_keep_what_they_need_and_no_more() {
        let mut seed = 1u64;
        let mut below = |n: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as usize % n
        };
        for window in [None, Some(1), Some(2), Some(64), Some(65), Some(512), Some(700), Some(100_000)] {
            let context = 6000;
            let mut table = Table::new(window, context, 0);
            let mut at = 0;
            for _ in 0..2000 {
                if below(10) == 0 {
                    let to = if below(2) == 0 { at - below(at.min(300) + 1) } else { below(at + 1) };
                    at = if table.reaches(to) { to } else { 0 };
                    table.rewind(at);
                }
                let most = if below(3) == 0 { CHUNK } else { 3 };
                let end = context.min(at + 1 + below(most));
                table.grow(at, end);
                let held: Vec<u32> = table.pages().iter().copied().filter(|p| *p != GONE).collect();
                let (from, to) = (table.seen_from(at), end.div_ceil(PAGE));
                assert_eq!(table.pages().len(), to);
                assert!(
                    table.pages()[from.min(to)..].iter().all(|p| *p != GONE),
                    "{window:?}, {at} to {end}"
                );
                assert!(held.len() <= super::held(window, context));
                assert!(held.iter().all(|p| (*p as usize) < super::held(window, context)));
                let once: std::collections::HashSet<_> = held.iter().collect();
                assert_eq!(once.len(), held.len(), "a page in two places");
                at = if end == context { 0 } else { end };
                table.rewind(at);
            }
        }
    }

    #[test]
    fn a_short_way_back_needs_no_reading() {
        let mut table = Table::new(Some(512), 32_768, 0);
        for at in (0..8192).step_by(CHUNK) {
            table.grow(at, at + CHUNK);
        }
        assert!(table.reaches(8192 - 500) && !table.reaches(8192 - 700) && table.reaches(0));
    }
}
