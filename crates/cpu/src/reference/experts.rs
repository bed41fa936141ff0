//! Choosing experts, and what those that are chosen make of a token.

use super::{activation, dot, row};
use crate::exec::Call;
use hob_graph::Act;

/// 1 at the `k` largest of each row.
pub fn top_k(c: &mut Call, k: usize) {
    let x = c.x(0);
    for (i, y) in c.out.chunks_exact_mut(x.shape.last()).enumerate() {
        let x = row(&x, i);
        let mut order: Vec<usize> = (0..x.len()).collect();
        order.sort_by(|&a, &b| x[b].total_cmp(&x[a])); // stable: of equal ones the first
        y.fill(0.0);
        order[..k].iter().for_each(|&j| y[j] = 1.0);
    }
}

/// The matrices may be stored in any format, their rows being decoded; stacked, or of each expert by themselves.
pub fn experts(c: &mut Call, act: Act) {
    let (x, shares) = (c.x(0), c.x(1));
    let (tokens, channels, count) = (x.shape[0], x.shape[1], shares.shape[1]);
    let stacked = c.x(2).shape.len() == 3;
    let inner = c.x(2).shape.rows() / if stacked { count } else { 1 };
    let matrix = |expert: usize, which: usize, r: usize| {
        let rows = if which == 2 { channels } else { inner };
        match stacked {
            true => row(&c.x(2 + which), expert * rows + r),
            false => row(&c.x(2 + 3 * expert + which), r),
        }
    };
    let (mut sums, mut decoded) = (vec![0.0; tokens * channels], Vec::new());
    for expert in 0..count {
        decoded.clear();
        for t in 0..tokens {
            let share = shares.f32s()[t * count + expert] as f64;
            if share == 0.0 {
                continue;
            }
            if decoded.is_empty() {
                let rows = [inner, inner, channels];
                decoded
                    .extend((0..3).map(|w| (0..rows[w]).map(|r| matrix(expert, w, r)).collect::<Vec<_>>()));
            }
            let x = row(&x, t);
            let h = decoded[0].iter().zip(&decoded[1]);
            let h: Vec<f64> = h.map(|(gate, up)| activation(act, dot(&x, gate)) * dot(&x, up)).collect();
            for (sum, down) in sums[t * channels..].iter_mut().zip(&decoded[2]) {
                *sum += share * dot(&h, down);
            }
        }
    }
    for (y, sum) in c.out.iter_mut().zip(sums) {
        *y = sum as f32;
    }
}
