//! Rows of a table in any format, decoded; of a table that was laid out anew, from there, so that the file's copy of an
//! embedding need not come into memory again.

use crate::exec::Call;
use crate::ops::rows::by_rows;
use crate::quant::packed::decode_row;

/// Runs the node of `c`.
pub fn run(c: &mut Call) {
    let (table, ids) = (c.x(0), c.x(1).i32s());
    let n = table.shape[1];
    by_rows(&c.cpu.pool, c.out, n, 2 * n, |first, y, _| {
        for (y, &id) in y.chunks_exact_mut(n).zip(&ids[first..]) {
            match table.packed {
                Some(panels) => decode_row(table.dtype, panels, id as usize, y),
                None => table.dtype.decode(table.row(id as usize), y),
            }
        }
    });
}
