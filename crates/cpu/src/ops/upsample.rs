//! Each pixel repeated `n × n`.

use crate::exec::Call;
use crate::ops::rows::by_rows;

/// Runs the node of `c`.
pub fn run(c: &mut Call, n: usize) {
    let (x, width) = (c.x(0), c.node.shape[3]);
    let (x, w) = (x.f32s(), x.shape[3]);
    // All rows of all images and channels follow one another, so that row i of the result is row i / n of x.
    by_rows(&c.cpu.pool, c.out, width, width, |first, y, _| {
        for (i, y) in y.chunks_exact_mut(width).enumerate() {
            let row = &x[(first + i) / n * w..][..w];
            for (y, x) in y.chunks_exact_mut(n).zip(row) {
                y.fill(*x);
            }
        }
    });
}
