//! Sum and maximum along an axis.

use crate::exec::Call;
use crate::isa::for_each_isa;
use crate::ops::rows::by_rows;

/// Numbers added in f32 before their sum goes to one in f64.
const BLOCK: usize = 1024;

/// Sum along `axis`.
pub fn run(c: &mut Call, axis: usize) {
    reduce(c, axis, 0.0, total, add);
}

/// Largest along `axis`.
pub fn max(c: &mut Call, axis: usize) {
    reduce(c, axis, f32::NEG_INFINITY, largest, take_larger);
}

/// `row` reduces numbers that follow one another, `join(y, x)` takes one more number into each of y.
fn reduce(c: &mut Call, axis: usize, zero: f32, row: fn(&[f32]) -> f32, join: fn(&mut [f32], &[f32])) {
    let x = c.x(0);
    let (n, inner) = (x.shape[axis], x.shape[axis + 1..].iter().product::<usize>());
    let x = x.f32s();
    by_rows(&c.cpu.pool, c.out, inner, n * inner, |first, y, _| {
        for (i, y) in y.chunks_exact_mut(inner).enumerate() {
            let x = &x[(first + i) * n * inner..][..n * inner];
            if inner == 1 {
                y[0] = row(x);
            } else {
                y.fill(zero);
                x.chunks_exact(inner).for_each(|x| join(y, x));
            }
        }
    });
}

for_each_isa! {
    fn total(x: &[f32]) -> f32 {
        let mut total = 0.0f64;
        for x in x.chunks(BLOCK) {
            let mut sums = [0.0f32; 32];
            let (blocks, rest) = x.as_chunks::<32>();
            for x in blocks {
                for j in 0..32 {
                    sums[j] += x[j];
                }
            }
            total += (sums.iter().sum::<f32>() + rest.iter().sum::<f32>()) as f64;
        }
        total as f32
    }
}

for_each_isa! {
    fn largest(x: &[f32]) -> f32 {
        let mut most = [f32::NEG_INFINITY; 32];
        let (blocks, rest) = x.as_chunks::<32>();
        for x in blocks {
            for j in 0..32 {
                most[j] = if x[j] > most[j] { x[j] } else { most[j] };
            }
        }
        most.iter().chain(rest).fold(f32::NEG_INFINITY, |m, x| m.max(*x))
    }
}

for_each_isa! {
    fn add(y: &mut [f32], x: &[f32]) {
        y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
    }
}

for_each_isa! {
    fn take_larger(y: &mut [f32], x: &[f32]) {
        y.iter_mut().zip(x).for_each(|(y, x)| *y = if *x > *y { *x } else { *y });
    }
}
