//! Samplers that remember what the network said in earlier steps.

use super::{How, Out, Walk, lambda, mix, toward};
use std::collections::VecDeque;

/// DPM-Solver++ (Lu et al. 2022b), multistep of order 2 or 3 (`how.order`); with `how.eta` its SDE. diffusers'
/// DPMSolverMultistepScheduler, k-diffusion's dpmpp_2m, dpmpp_2m_sde, dpmpp_3m_sde. (diffusers' third order of the SDE has one
/// half with the wrong sign, so that this one follows k-diffusion.)
pub(super) fn dpmpp<E>(w: &mut Walk<E>, how: &How, mut x: Vec<f32>) -> Out<E> {
    let (space, n) = (w.space(), w.len());
    let few = how.lower_order_final && w.steps.asked < 15;
    // The earlier pictures, the latest first, each with the h of its step.
    let mut before: VecDeque<(Vec<f32>, f64)> = VecDeque::new();
    for i in 0..n {
        let (denoised, s) = (w.begin(&x, i)?, w.step(i));
        let (from, to) = (f64::from(s.sigma), f64::from(s.to));
        let mut h = f64::INFINITY;
        if s.to == 0.0 {
            x.copy_from_slice(&denoised);
        } else {
            h = lambda(space, to) - lambda(space, from);
            let lower = match n - i {
                1 if few || how.euler_at_final => 1,
                2 if few => 2,
                _ => 3,
            };
            let order = how.order.clamp(1, 3).min(lower).min(before.len() + 1);
            let alpha = space.alpha(to);
            let all = h * (1.0 + how.eta);
            let (phi_1, phi_2) = (-(-all).exp_m1(), (-all).exp_m1() / all + 1.0);
            let shrink = if how.eta == 0.0 { 1.0 } else { (-h * how.eta).exp() };
            let base = to / from * shrink;
            x = match order {
                1 => mix([(base, &x), (alpha * phi_1, &denoised)]),
                2 => {
                    let (last, h_0) = &before[0];
                    let slope = alpha * if how.heun { phi_2 } else { 0.5 * phi_1 } * (h / h_0);
                    mix([(base, &x), (alpha * phi_1 + slope, &denoised), (-slope, last)])
                }
                _ => {
                    let ((m_1, h_0), (m_2, h_1)) = (&before[0], &before[1]);
                    let (r_0, r_1) = (h_0 / h, h_1 / h);
                    let phi_3 = phi_2 / all - 0.5;
                    // The first and second differences, as sums over the three pictures.
                    let bend = |d: f64| alpha * (d * phi_2 * (r_0 / (r_0 + r_1)) - d * phi_3 / (r_0 + r_1));
                    let (near, far) = (alpha * phi_2 / r_0 + bend(1.0 / r_0), bend(1.0 / r_1));
                    mix([(base, &x), (alpha * phi_1 + near, &denoised), (-near - far, m_1), (far, m_2)])
                }
            };
            if how.eta > 0.0 {
                let by = to * (-(-2.0 * h * how.eta).exp_m1()).sqrt();
                w.stir(&mut x, by * how.s_noise, (s.sigma, s.to))?;
            }
        }
        before.push_front((denoised, h));
        before.truncate(2);
        w.end(&mut x, i);
    }
    Ok(x)
}

/// Linear multistep: the slope is a polynomial through the last `how.order` ones (Adams-Bashforth with uneven steps).
pub(super) fn lms<E>(w: &mut Walk<E>, how: &How, mut x: Vec<f32>) -> Out<E> {
    let mut slopes: VecDeque<Vec<f32>> = VecDeque::new();
    for i in 0..w.len() {
        let (denoised, s) = (w.begin(&x, i)?, w.step(i));
        if s.to == 0.0 && !how.lms_to_zero {
            x = denoised;
        } else {
            slopes.push_front(x.iter().zip(&denoised).map(|(x, d)| (x - d) / s.sigma).collect());
            slopes.truncate(how.order.max(1));
            let levels: Vec<f64> = (0..slopes.len()).map(|k| w.step(i - k).sigma.into()).collect();
            for (j, slope) in slopes.iter().enumerate() {
                let factor = lagrange(&levels, j, s.to.into()) as f32;
                x.iter_mut().zip(slope).for_each(|(x, d)| *x += factor * d);
            }
        }
        w.end(&mut x, i);
    }
    Ok(x)
}

/// The integral, from the first level to `to`, of the polynomial that is 1 at level `j` and 0 at the others. Gauss's rule with
/// three points is exact up to the fifth degree.
fn lagrange(levels: &[f64], j: usize, to: f64) -> f64 {
    let at = |tau: f64| -> f64 {
        let others = (0..levels.len()).filter(|k| *k != j);
        others.map(|k| (tau - levels[k]) / (levels[j] - levels[k])).product()
    };
    let (middle, half) = (0.5 * (levels[0] + to), 0.5 * (to - levels[0]));
    let off = 0.6f64.sqrt() * half;
    half * (5.0 * at(middle - off) + 8.0 * at(middle) + 5.0 * at(middle + off)) / 9.0
}

/// PNDM without its Runge-Kutta beginning (`skip_prk_steps`), which Stable Diffusion calls PLMS: Adams-Bashforth with even
/// steps, whose first step is made twice, the second time with the mean of the slopes at both ends. x is at variance one in
/// diffusers, where a step is the same line.
pub(super) fn plms<E>(w: &mut Walk<E>, mut x: Vec<f32>) -> Out<E> {
    let mut slopes: VecDeque<Vec<f32>> = VecDeque::new();
    let slope = |x: &[f32], d: &[f32], sigma: f32| -> Vec<f32> {
        x.iter().zip(d).map(|(x, d)| (x - d) / sigma).collect()
    };
    for i in 0..w.len() {
        let (denoised, s) = (w.begin(&x, i)?, w.step(i));
        slopes.push_front(slope(&x, &denoised, s.sigma));
        slopes.truncate(4);
        let d = |k: usize| slopes[k].as_slice();
        let mean = match slopes.len() {
            1 if i + 1 < w.len() => {
                let mut next = toward(&x, &denoised, s.sigma, s.to);
                w.keep(&mut next, s.to);
                let again = w.ahead(&next, i)?;
                mix([(0.5, d(0)), (0.5, &slope(&next, &again, s.to))])
            }
            1 => slopes[0].clone(),
            2 => mix([(1.5, d(0)), (-0.5, d(1))]),
            3 => mix([(23.0 / 12.0, d(0)), (-16.0 / 12.0, d(1)), (5.0 / 12.0, d(2))]),
            _ => mix([(55.0 / 24.0, d(0)), (-59.0 / 24.0, d(1)), (37.0 / 24.0, d(2)), (-9.0 / 24.0, d(3))]),
        };
        x.iter_mut().zip(&mean).for_each(|(x, d)| *x += d * (s.to - s.sigma));
        w.end(&mut x, i);
    }
    Ok(x)
}
