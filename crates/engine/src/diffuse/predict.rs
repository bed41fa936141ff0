//! What a network predicts, and what that says of the picture; guidance; masks.

/// What the network predicts (`prediction_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prediction {
    /// the noise
    Epsilon,
    /// v = sqrt(ᾱ) noise - sqrt(1 - ᾱ) picture (Salimans, Ho 2022)
    Velocity,
    /// the picture
    Sample,
    /// noise - picture, of flow matching
    Flow,
}

impl Prediction {
    /// What the network is given of `x` at `sigma`: of variance one, except for flows, which see x itself.
    pub fn input(self, x: &[f32], sigma: f32) -> Vec<f32> {
        match self {
            Prediction::Flow => x.to_vec(),
            _ => {
                let scale = (sigma * sigma + 1.0).sqrt();
                x.iter().map(|x| x / scale).collect()
            }
        }
    }

    /// The picture that the network's output stands for, written over the output.
    pub fn denoised(self, x: &[f32], output: &mut [f32], sigma: f32) {
        let each = |f: &dyn Fn(f32, f32) -> f32, output: &mut [f32]| {
            output.iter_mut().zip(x).for_each(|(o, x)| *o = f(*x, *o));
        };
        match self {
            Prediction::Epsilon | Prediction::Flow => each(&|x, o| x - sigma * o, output),
            Prediction::Velocity => {
                let square = sigma * sigma + 1.0;
                let out = -sigma / square.sqrt();
                each(&|x, o| o * out + x / square, output);
            }
            Prediction::Sample => {}
        }
    }
}

/// Classifier-free guidance (Ho, Salimans 2022).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guidance {
    /// away from the negative prompt by this factor; up to 1 the prompt stands alone
    pub scale: f32,
    /// how much the result gets the spread of the prompt's prediction again (`guidance_rescale`, Lin et al. 2023); 0 for not
    pub rescale: f32,
}

impl Guidance {
    /// Whether the network must run for the negative prompt as well. diffusers does above 1; below, it takes the
    /// prompt's prediction, as Turbo models want with 0.
    pub fn is_on(&self) -> bool {
        self.scale > 1.0
    }

    /// Combines the outputs for the prompt and for the negative prompt of `pictures` pictures, over `prompt`.
    pub fn combine(&self, prompt: &mut [f32], negative: &[f32], pictures: usize) {
        let len = prompt.len() / pictures.max(1);
        if len == 0 {
            return;
        }
        for (p, n) in prompt.chunks_mut(len).zip(negative.chunks(len)) {
            let before = if self.rescale > 0.0 { deviation(p) } else { 0.0 };
            p.iter_mut().zip(n).for_each(|(p, n)| *p = n + self.scale * (*p - n));
            if self.rescale > 0.0 {
                let ratio = (before / deviation(p)) as f32;
                p.iter_mut().for_each(|p| *p = self.rescale * (*p * ratio) + (1.0 - self.rescale) * *p);
            }
        }
    }
}

/// The standard deviation of a sample, as torch's `std`.
fn deviation(x: &[f32]) -> f64 {
    let n = x.len() as f64;
    let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
    (x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt()
}

/// What is kept of a picture while the rest is painted anew (diffusers' inpainting for 4-channel checkpoints): after each
/// step the kept part is the original's latents with the noise of that step.
#[derive(Clone, Debug)]
pub struct Mask {
    /// latents of the original
    pub original: Vec<f32>,
    /// the noise the walk began with, drawn once
    pub noise: Vec<f32>,
    /// 1 where the picture is painted anew, 0 where it is kept
    pub paint: Vec<f32>,
}

/// Where a network's input lies between picture and noise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// `x = picture + sigma * noise`
    Diffusion,
    /// `x = (1 - sigma) * picture + sigma * noise`
    Flow,
}

impl Space {
    /// The picture's scale in x.
    pub fn alpha(self, sigma: f64) -> f64 {
        match self {
            Space::Diffusion => 1.0,
            Space::Flow => 1.0 - sigma,
        }
    }

    /// A picture's latents with noise at `sigma`.
    pub fn noised(self, original: &[f32], noise: &[f32], sigma: f32) -> Vec<f32> {
        let alpha = self.alpha(f64::from(sigma)) as f32;
        original.iter().zip(noise).map(|(o, n)| alpha * o + sigma * n).collect()
    }
}

impl Mask {
    /// Sets what is kept in `x`, which has come to `sigma`.
    pub fn keep(&self, x: &mut [f32], sigma: f32, space: Space) {
        let noised = space.noised(&self.original, &self.noise, sigma);
        x.iter_mut().zip(noised).zip(&self.paint).for_each(|((x, o), m)| *x = (1.0 - m) * o + m * *x);
    }
}
