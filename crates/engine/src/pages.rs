//! Which pages of the cache are free.

/// Hands out page numbers.
pub struct Pages {
    /// pages that were never taken
    fresh: std::ops::Range<u32>,
    given: Vec<u32>,
}

impl Pages {
    /// `n` free pages. Low numbers go first, so that memory is touched from one end.
    pub fn new(n: u32) -> Pages {
        Pages { fresh: 0..n, given: Vec::new() }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_goes_out_once() {
        let mut pages = Pages::new(3);
        let taken: Vec<_> = std::iter::from_fn(|| pages.take()).collect();
        assert_eq!(taken, [0, 1, 2]);
        pages.give(1);
        assert_eq!((pages.take(), pages.take()), (Some(1), None));
    }
}
