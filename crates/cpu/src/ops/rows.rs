//! Work on rows of the result, split between the threads where there is enough of it.

use crate::threads::Pool;

/// Elements that are worth a thread's while.
const ENOUGH: usize = 16 << 10;

/// Calls `work(first, rows, thread)` with parts of `out` that hold whole rows of `width` numbers, `first` being the
/// number of the part's first row. `cost` is the work of a row, in elements touched.
pub fn by_rows(
    pool: &Pool,
    out: &mut [f32],
    width: usize,
    cost: usize,
    work: impl Fn(usize, &mut [f32], usize) + Sync,
) {
    let rows = out.len() / width.max(1);
    assert_eq!(rows * width, out.len(), "whole rows");
    if rows == 0 {
        return;
    }
    let all = Shared(out.as_mut_ptr());
    pool.split(rows, ENOUGH.div_ceil(cost.max(1)), |part, thread| {
        // SAFETY: the parts are within `out` and no two overlap; `out` is borrowed until all are done.
        let rows = unsafe { all.slice(part.start * width, part.len() * width) };
        work(part.start, rows, thread);
    });
}

/// A pointer that threads write through, each to its own part.
#[derive(Clone, Copy)]
pub struct Shared<T>(pub *mut T);
// SAFETY: only `slice` gives access, and its callers keep the parts apart.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// Part of what the pointer points to.
    ///
    /// # Safety
    /// The part lies within one borrowed slice, and no other reference to it is alive.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slice(&self, at: usize, len: usize) -> &mut [T] {
        // SAFETY: as the caller promises.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(at), len) }
    }
}
