//! Samplers whose steps know nothing of each other.

use super::{How, Out, Step, Walk, lambda, mix, toward};
use crate::diffuse::predict::Space;

/// Algorithm 2 of Karras et al. 2022 without churn; for a flow `x + (to - sigma) * velocity`.
pub(super) fn euler<E>(w: &mut Walk<E>, mut x: Vec<f32>) -> Out<E> {
    for i in 0..w.len() {
        let (denoised, s) = (w.begin(&x, i)?, w.step(i));
        x = toward(&x, &denoised, s.sigma, s.to);
        w.end(&mut x, i);
    }
    Ok(x)
}

/// A step with fresh noise goes down too far, and noise brings it up again.
struct Ancestral {
    down: f64,
    /// x times this before the noise
    scale: f64,
    up: f64,
}

/// k-diffusion's `get_ancestral_step`; for flows ComfyUI's `sample_euler_ancestral_RF`.
fn ancestral(space: Space, from: f64, to: f64, eta: f64) -> Ancestral {
    match space {
        _ if eta == 0.0 || to == 0.0 => Ancestral { down: to, scale: 1.0, up: 0.0 },
        Space::Diffusion => {
            let up = to.min(eta * (to * to * (from * from - to * to) / (from * from)).sqrt());
            Ancestral { down: (to * to - up * up).sqrt(), scale: 1.0, up }
        }
        Space::Flow => {
            let down = to * (1.0 + (to / from - 1.0) * eta);
            let scale = (1.0 - to) / (1.0 - down);
            Ancestral { down, scale, up: (to * to - (down * scale).powi(2)).max(0.0).sqrt() }
        }
    }
}

impl Ancestral {
    fn stir<E>(
        &self,
        w: &mut Walk<E>,
        x: &mut [f32],
        how: &How,
        s: Step,
    ) -> Result<(), super::SampleError<E>> {
        if self.scale != 1.0 {
            x.iter_mut().for_each(|x| *x *= self.scale as f32);
        }
        w.stir(x, self.up * how.s_noise, (s.sigma, s.to))
    }
}

/// Euler ancestral. DDIM's step is the same one: its variance for `eta` is `up²`.
pub(super) fn euler_ancestral<E>(w: &mut Walk<E>, how: &How, mut x: Vec<f32>) -> Out<E> {
    for i in 0..w.len() {
        let (denoised, s) = (w.begin(&x, i)?, w.step(i));
        let a = ancestral(w.space(), s.sigma.into(), s.to.into(), how.eta);
        x = toward(&x, &denoised, s.sigma, a.down as f32);
        a.stir(w, &mut x, how, s)?;
        w.end(&mut x, i);
    }
    Ok(x)
}

/// Heun's steps of the same algorithm 2.
pub(super) fn heun<E>(w: &mut Walk<E>, mut x: Vec<f32>) -> Out<E> {
    for i in 0..w.len() {
        let (denoised, s) = (w.begin(&x, i)?, w.step(i));
        let mut next = toward(&x, &denoised, s.sigma, s.to);
        if s.to > 0.0 {
            w.keep(&mut next, s.to);
            let denoised_2 = w.ahead(&next, i)?;
            let along = s.to - s.sigma;
            for k in 0..x.len() {
                let slopes = (x[k] - denoised[k]) / s.sigma + (next[k] - denoised_2[k]) / s.to;
                x[k] += slopes / 2.0 * along;
            }
        } else {
            x = next;
        }
        w.end(&mut x, i);
    }
    Ok(x)
}

/// DPM-Solver-2 as k-diffusion writes it: the slope at the geometric mean of both levels.
pub(super) fn dpm_2<E>(w: &mut Walk<E>, x: Vec<f32>) -> Out<E> {
    dpm_2_ancestral(w, &How { eta: 0.0, ..How::of(crate::diffuse::Sampler::Dpm2) }, x)
}

/// The same with fresh noise.
pub(super) fn dpm_2_ancestral<E>(w: &mut Walk<E>, how: &How, mut x: Vec<f32>) -> Out<E> {
    for i in 0..w.len() {
        let (denoised, s) = (w.begin(&x, i)?, w.step(i));
        let a = ancestral(w.space(), s.sigma.into(), s.to.into(), how.eta);
        if a.down == 0.0 {
            x = toward(&x, &denoised, s.sigma, 0.0);
        } else {
            let middle = (f64::from(s.sigma) * a.down).sqrt() as f32;
            let mut half = toward(&x, &denoised, s.sigma, middle);
            w.keep(&mut half, middle);
            let denoised = w.between(&half, i, middle)?;
            let along = a.down as f32 - s.sigma;
            x.iter_mut()
                .zip(half.iter().zip(&denoised))
                .for_each(|(x, (h, d))| *x += (h - d) / middle * along);
            a.stir(w, &mut x, how, s)?;
        }
        w.end(&mut x, i);
    }
    Ok(x)
}

/// DPM-Solver++(2S) (Lu et al. 2022b, algorithm 1) with fresh noise, as k-diffusion and ComfyUI (`…_RF`) have it.
pub(super) fn dpmpp_2s_ancestral<E>(w: &mut Walk<E>, how: &How, mut x: Vec<f32>) -> Out<E> {
    let space = w.space();
    for i in 0..w.len() {
        let (denoised, s) = (w.begin(&x, i)?, w.step(i));
        let (from, a) = (f64::from(s.sigma), ancestral(space, s.sigma.into(), s.to.into(), how.eta));
        if a.down == 0.0 {
            x = toward(&x, &denoised, s.sigma, 0.0);
        } else {
            let middle = match space {
                Space::Flow if from >= 1.0 => 0.9999,
                _ => at_lambda(space, 0.5 * (lambda(space, from) + lambda(space, a.down))),
            };
            let mut half = mix([(middle / from, &x), (1.0 - middle / from, &denoised)]);
            w.keep(&mut half, middle as f32);
            let denoised = w.between(&half, i, middle as f32)?;
            x = mix([(a.down / from, &x), (1.0 - a.down / from, &denoised)]);
            a.stir(w, &mut x, how, s)?;
        }
        w.end(&mut x, i);
    }
    Ok(x)
}

/// The sigma of a λ.
fn at_lambda(space: Space, lambda: f64) -> f64 {
    match space {
        Space::Diffusion => (-lambda).exp(),
        Space::Flow => 1.0 / (1.0 + lambda.exp()),
    }
}

/// DPM-Solver++ (stochastic) of k-diffusion.
pub(super) fn dpmpp_sde<E>(w: &mut Walk<E>, how: &How, mut x: Vec<f32>) -> Out<E> {
    let space = w.space();
    for i in 0..w.len() {
        let (denoised, s) = (w.begin(&x, i)?, w.step(i));
        if s.to == 0.0 {
            x = denoised;
        } else {
            // A flow has no λ at sigma 1.
            let from = if space == Space::Flow { s.sigma.min(0.9999) } else { s.sigma };
            let (from, to) = (lambda(space, from.into()), lambda(space, s.to.into()));
            let middle = 0.5 * (from + to);
            let alpha = |l: f64| space.alpha(at_lambda(space, l));
            // Both halves begin at x; a step is made in the noise relative to the picture, which is exp(-λ).
            let go = |w: &mut Walk<E>, denoised: &[f32], to: f64, level: f32| {
                let a = ancestral(Space::Diffusion, (-from).exp(), (-to).exp(), how.eta);
                let ratio = a.down / (-from).exp();
                let mut x =
                    mix([(alpha(to) / alpha(from) * ratio, &x), (alpha(to) * (1.0 - ratio), denoised)]);
                w.stir(&mut x, alpha(to) * a.up * how.s_noise, (s.sigma, level))?;
                Ok(x)
            };
            let sigma = at_lambda(space, middle) as f32;
            let mut half = go(w, &denoised, middle, sigma)?;
            w.keep(&mut half, sigma);
            let denoised = w.between(&half, i, sigma)?;
            x = go(w, &denoised, to, s.to)?;
        }
        w.end(&mut x, i);
    }
    Ok(x)
}

/// Latent consistency (Luo et al. 2023): the picture, and noise for the next level.
pub(super) fn lcm<E>(w: &mut Walk<E>, how: &How, mut x: Vec<f32>) -> Out<E> {
    for i in 0..w.len() {
        let (denoised, s) = (w.begin(&x, i)?, w.step(i));
        let (mut keep, mut take) = (0.0, 1.0);
        if let Some(scaling) = how.boundary {
            let time = f64::from(s.time) * scaling;
            let square = time * time + 0.25;
            // diffusers' x has variance one.
            keep = 0.25 / square / (f64::from(s.sigma).powi(2) + 1.0).sqrt();
            take = time / square.sqrt();
        }
        let alpha = w.space().alpha(s.to.into());
        x = mix([(alpha * keep, &x), (alpha * take, &denoised)]);
        w.stir(&mut x, f64::from(s.to) * how.s_noise, (s.sigma, s.to))?;
        w.end(&mut x, i);
    }
    Ok(x)
}
