//! Rows of a table in any format, decoded.

use crate::exec::Call;
use crate::ops::rows::by_rows;

/// Runs the node of `c`.
pub fn run(c: &mut Call) {
    let (table, ids) = (c.x(0), c.x(1).i32s());
    let n = table.shape[1];
    by_rows(&c.cpu.pool, c.out, n, 2 * n, |first, y, _| {
        for (y, &id) in y.chunks_exact_mut(n).zip(&ids[first..]) {
            table.dtype.decode(table.row(id as usize), y);
        }
    });
}
