//! Rows added up where they came from.

use crate::exec::Call;

/// Runs the node of `c`, in the order of the rows, so that the sum does not depend on threads.
pub fn run(c: &mut Call) {
    let (x, ids) = (c.x(0), c.x(1).i32s());
    let n = x.shape[1];
    c.out.fill(0.0);
    for (i, &id) in ids.iter().enumerate() {
        let y = &mut c.out[id as usize * n..][..n];
        y.iter_mut().zip(&x.f32s()[i * n..]).for_each(|(y, x)| *y += x);
    }
}
