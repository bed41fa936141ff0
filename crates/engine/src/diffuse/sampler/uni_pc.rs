//! UniPC: each step is predicted, and corrected once the network has seen where it led.

use super::{How, Out, Walk, lambda};
use crate::diffuse::predict::Space;
use std::collections::VecDeque;

/// A step from one level to another, in the terms of the paper.
struct Between {
    /// sigma after over sigma before
    ratio: f64,
    /// alpha after
    alpha: f64,
    /// λ before
    lambda: f64,
    h: f64,
}

/// UniPC (Zhao et al. 2023) that predicts pictures, as diffusers' UniPCMultistepScheduler has it.
pub(super) fn uni_pc<E>(w: &mut Walk<E>, how: &How, mut x: Vec<f32>) -> Out<E> {
    let (space, n) = (w.space(), w.len());
    // The earlier pictures with their λ, the latest first.
    let mut before: VecDeque<(Vec<f32>, f64)> = VecDeque::new();
    let mut last: Option<(Vec<f32>, Between, usize)> = None;
    for i in 0..n {
        let (denoised, s) = (w.begin(&x, i)?, w.step(i));
        if let Some((start, step, order)) = &last {
            x = advance(start, step, &before, *order, Some(&denoised), how.bh1);
        }
        // A flow has no λ at sigma 1.
        let from = if space == Space::Flow { s.sigma.min(1.0 - 1e-6) } else { s.sigma };
        let here = lambda(space, from.into());
        before.push_front((denoised, here));
        before.truncate(how.order.clamp(1, 3));
        let to = f64::from(s.to);
        // Infinitely far, to no noise at all, only the first order goes.
        let lower = if to == 0.0 || how.lower_order_final { n - i } else { 3 };
        let order = how.order.min(lower).min(before.len());
        let (ratio, alpha) = (to / f64::from(s.sigma), space.alpha(to));
        let step = Between { ratio, alpha, lambda: here, h: lambda(space, to) - here };
        let mut next = advance(&x, &step, &before, order, None, how.bh1);
        w.end(&mut next, i);
        last = Some((std::mem::replace(&mut x, next), step, order));
    }
    Ok(x)
}

/// UniP, or with the picture at the step's end UniC.
fn advance(
    x: &[f32],
    step: &Between,
    before: &VecDeque<(Vec<f32>, f64)>,
    order: usize,
    end: Option<&[f32]>,
    bh1: bool,
) -> Vec<f32> {
    let m_0 = &before[0].0;
    let h = -step.h;
    let phi_1 = h.exp_m1();
    let b = if bh1 { h } else { phi_1 };
    // Where the other pictures lie, in units of the step; the end of it is at 1.
    let mut at: Vec<f64> = (1..order).map(|k| (before[k].1 - step.lambda) / step.h).collect();
    if end.is_some() {
        at.push(1.0);
    }
    let weights = match (at.len(), end) {
        (0, _) => vec![],
        (1, _) => vec![0.5],
        _ => {
            let mut phi = phi_1 / h - 1.0;
            let mut factorial = 1.0;
            let rows = (0..at.len()).map(|k| {
                let right = phi * factorial / b;
                factorial *= (k + 2) as f64;
                phi = phi / h - 1.0 / factorial;
                let mut row: Vec<f64> = at.iter().map(|r| r.powi(k as i32)).collect();
                row.push(right);
                row
            });
            solve(rows.collect())
        }
    };
    let mut out = x.to_vec();
    let line = (step.ratio as f32, (-step.alpha * phi_1) as f32);
    out.iter_mut().zip(m_0).for_each(|(o, m)| *o = line.0 * *o + line.1 * m);
    for (k, (r, weight)) in at.iter().zip(&weights).enumerate() {
        let m = if end.is_some() && k + 1 == at.len() { end.unwrap_or(m_0) } else { &before[k + 1].0 };
        let factor = (-step.alpha * b * weight / r) as f32;
        for (o, (m, m_0)) in out.iter_mut().zip(m.iter().zip(m_0)) {
            *o += factor * (m - m_0);
        }
    }
    out
}

/// Linear equations by elimination, each row with its right side; at most three.
fn solve(mut rows: Vec<Vec<f64>>) -> Vec<f64> {
    let n = rows.len();
    for k in 0..n {
        let pivot = (k..n).max_by(|a, b| rows[*a][k].abs().total_cmp(&rows[*b][k].abs())).unwrap_or(k);
        rows.swap(k, pivot);
        for i in 0..n {
            if i != k {
                let factor = rows[i][k] / rows[k][k];
                for j in k..=n {
                    rows[i][j] -= factor * rows[k][j];
                }
            }
        }
    }
    (0..n).map(|i| rows[i][n] / rows[i][i]).collect()
}
