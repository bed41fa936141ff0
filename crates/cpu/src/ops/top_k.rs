//! The largest of each row.

use crate::exec::Call;
use crate::ops::rows::by_rows;

/// Runs the node of `c`.
pub fn run(c: &mut Call, k: usize) {
    let n = c.node.shape.last();
    let x = c.x(0).f32s();
    by_rows(&c.cpu.pool, c.out, n, k * n, |first, y, _| {
        for (x, y) in x[first * n..].chunks_exact(n).zip(y.chunks_exact_mut(n)) {
            row(x, y, k);
        }
    });
}

/// The largest that is left, `k` times. Numbers are ordered in full, as the reference orders them.
fn row(x: &[f32], y: &mut [f32], k: usize) {
    y.fill(0.0);
    for _ in 0..k {
        let mut best = None;
        for (i, x) in x.iter().enumerate() {
            if y[i] == 0.0 && best.is_none_or(|(_, most): (usize, &f32)| x.total_cmp(most).is_gt()) {
                best = Some((i, x));
            }
        }
        if let Some((i, _)) = best {
            y[i] = 1.0;
        }
    }
}
