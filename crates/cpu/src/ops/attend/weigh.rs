//! Scores become weights: the online softmax over a page of a few rows.

use super::panel::{LANES, Lanes, Plain};
#[cfg(target_arch = "x86_64")]
use crate::isa::{Isa, isa};
use crate::kv::PAGE;

/// What is known of rows so far: the largest score of each and the sum of its weights, relative to that score.
pub struct Known<'a> {
    /// `(R)`, -inf before the first page
    pub largest: &'a mut [f32],
    /// `(R)`
    pub weight: &'a mut [f32],
    /// `(R)`: what earlier weights are multiplied by, as a larger score was found
    pub keep: &'a mut [f32],
}

/// Scores `(R, PAGE)` become e^(score - largest), and what is known of the rows is carried on. Each row has a score
/// above -inf, on this page or an earlier one.
pub fn weigh(scores: &mut [f32], known: Known) {
    let rows = scores.len() / PAGE;
    assert!([known.largest.len(), known.weight.len(), known.keep.len()].iter().all(|&n| n == rows));
    // SAFETY: the slices are as long as asserted, and the processor has what is called.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        match isa() {
            Isa::Avx512 | Isa::Amx => return super::x86::weigh_avx512(scores, known),
            set if set >= Isa::Avx2 => return super::x86::weigh_avx2(scores, known),
            _ => {}
        }
        rows_of::<Plain>(scores, known);
    }
}

/// # Safety
/// As asserted by [`weigh`], and the processor has what `L` needs.
#[inline(always)]
pub unsafe fn rows_of<L: Lanes>(scores: &mut [f32], known: Known) {
    let known =
        known.largest.chunks_mut(LANES).zip(known.weight.chunks_mut(LANES)).zip(known.keep.chunks_mut(LANES));
    for (scores, ((largest, weight), keep)) in scores.chunks_mut(LANES * PAGE).zip(known) {
        let (mut before, mut after, mut sums) = ([0.0f32; LANES], [0.0f32; LANES], [0.0f32; LANES]);
        before[..largest.len()].copy_from_slice(largest);
        for (r, scores) in scores.as_chunks_mut::<PAGE>().0.iter_mut().enumerate() {
            // SAFETY: a row has PAGE numbers.
            (after[r], sums[r]) = unsafe { row::<L>(scores, before[r]) };
        }
        let mut kept = [0.0f32; LANES];
        // SAFETY: these have LANES numbers.
        unsafe {
            let fallen = L::load(before.as_ptr()).add_product(L::load(after.as_ptr()), L::splat(-1.0));
            fallen.exp().store(kept.as_mut_ptr()); // 0 on the first page
        }
        for r in 0..largest.len() {
            (largest[r], keep[r]) = (after[r], kept[r]);
            weight[r] = weight[r] * kept[r] + sums[r];
        }
    }
}

/// One row: its largest score now, and the sum of its weights.
#[inline(always)]
unsafe fn row<L: Lanes>(scores: &mut [f32; PAGE], so_far: f32) -> (f32, f32) {
    const N: usize = PAGE / LANES;
    let at = scores.as_mut_ptr();
    // SAFETY: the vectors lie within the row.
    unsafe {
        let mut x = [L::splat(0.0); N];
        for i in 0..N {
            x[i] = L::load(at.add(i * LANES));
        }
        let best = so_far.max((x[0].most(x[1])).most(x[2].most(x[3])).largest());
        let (mut sum, less) = (L::splat(0.0), L::splat(-best));
        for i in 0..N {
            let e = x[i].plus(less).exp();
            e.store(at.add(i * LANES));
            sum = sum.plus(e);
        }
        (best, sum.sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_a_softmax_so_far() {
        let rows = 21;
        let scores: Vec<f32> =
            (0..2 * rows * PAGE).map(|i| ((i * 7919) % 1001) as f32 / 25.0 - 20.0).collect();
        let (mut largest, mut weight, mut keep) =
            (vec![f32::NEG_INFINITY; rows], vec![0.0; rows], vec![1.0; rows]);
        let mut pages = scores.clone();
        for page in pages.chunks_exact_mut(rows * PAGE) {
            page[..10].fill(f32::NEG_INFINITY);
            weigh(page, Known { largest: &mut largest, weight: &mut weight, keep: &mut keep });
            assert!(page[..10].iter().all(|x| *x == 0.0));
        }
        for r in 0..rows {
            let seen = |p: usize| &scores[(p * rows + r) * PAGE..][..PAGE][if r == 0 { 10 } else { 0 }..];
            let all: Vec<f64> = [seen(0), seen(1)].concat().iter().map(|x| *x as f64).collect();
            let best = all.iter().fold(f64::NEG_INFINITY, |m, x| m.max(*x));
            let sum: f64 = all.iter().map(|x| (x - best).exp()).sum();
            assert_eq!(largest[r] as f64, best);
            assert!((weight[r] as f64 / sum - 1.0).abs() < 1e-6, "{} and {sum}", weight[r]);
            let first = seen(0).iter().fold(f32::NEG_INFINITY, |m, x| m.max(*x));
            assert!((keep[r] - (first - largest[r]).exp()).abs() < 1e-6);
        }
    }

    #[test]
    fn what_is_no_number_stays_none() {
        let (mut scores, mut largest, mut weight, mut keep) = ([1.0; PAGE], [0.0], [1.0], [1.0]);
        scores[17] = f32::NAN;
        weigh(&mut scores, Known { largest: &mut largest, weight: &mut weight, keep: &mut keep });
        assert!(weight[0].is_nan());
    }
}
