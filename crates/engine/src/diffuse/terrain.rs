//! Maps of heights by a consistency model, as the Python package adaptive-terrain-diffusion makes them (its `generator.py`):
//! the same seed gives the same terrain.

use super::consistency::{Consistency, SIGMAS};
use super::pcg64::Pcg64;
use crate::{Error, Result};

/// The highest that the model makes, in metres.
pub const HIGHEST: f64 = 22.168_640_136_718_75;
/// Heights below this are spread most by the model's scale, in metres.
const ASINH: f64 = 0.1;
/// Grades of difficulty, from 1 to this.
pub const GRADES: u32 = 100;
/// The least noise, in f64 as Python has it.
const LEAST: f64 = 0.002;
/// Pixels that neighbouring tiles share.
const OVERLAP: usize = 32;
/// Pixels of a map: 8192 × 8192.
const MOST: usize = 1 << 26;

/// A map of heights.
#[derive(Clone, Debug, PartialEq)]
pub struct Heights {
    /// In pixels.
    pub width: usize,
    /// In pixels.
    pub height: usize,
    /// In metres, row by row.
    pub metres: Vec<f32>,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// In pixels.
    pub width: usize,
    /// In pixels.
    pub height: usize,
    /// How rough, from 1 to [`GRADES`]; drawn by the seed without.
    pub difficulty: Option<u32>,
    /// Where the noise begins.
    pub seed: u64,
    /// A map to begin with, and how much of it is made anew, from 0 to 1.
    pub from: Option<(&'a Heights, f32)>,
}

/// Makes a map whose lowest point is 0, and says its difficulty. `on` hears how many tiles of how many are done, and stops
/// the work by `false`, which gives `None`.
///
/// # Errors
/// A size or a difficulty that there is not, or what the model fails for.
pub fn make(
    model: &mut Consistency,
    wanted: &Wanted,
    on: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Option<(Heights, u32)>> {
    let (width, height, side) = (wanted.width, wanted.height, model.side());
    if width.checked_mul(height).is_none_or(|n| !(1..=MOST).contains(&n)) {
        return Err(Error::Ask(format!(
            "a terrain of {width} × {height} is more than the {MOST} pixels there may be, or none"
        )));
    }
    let mut random = Pcg64::new(wanted.seed);
    let difficulty = wanted.difficulty.unwrap_or_else(|| random.below(GRADES) + 1);
    if !(1..=GRADES).contains(&difficulty) {
        return Err(Error::Ask(format!("a difficulty of {difficulty} is none; give one from 1 to {GRADES}")));
    }
    let label = (f64::from(difficulty - 1) / f64::from(GRADES - 1)) as f32;
    let mut sigma = SIGMAS[1];
    if let Some((from, strength)) = wanted.from {
        if strength == 0.0 {
            return Ok(Some((from.resized(width, height).floored(), difficulty)));
        }
        sigma = (LEAST * (f64::from(SIGMAS[1]) / LEAST).powf(strength.into())) as f32;
    }
    // A map as small as the model's own is made at that size, and then made smaller.
    let small = width.max(height) <= side;
    let (wide, high) = if small { (side, side) } else { (width.max(side), height.max(side)) };
    let from = wanted.from.map(|(from, _)| {
        let from = from.to_model();
        if small { from } else { from.resized(width, height) }.resized(wide, high)
    });
    let mut noisy: Vec<f32> = random.normal(wide * high).into_iter().map(|x| x * sigma).collect();
    if let Some(from) = from {
        let limit = |x: f32| if small { x.clamp(-1.0, 1.0) } else { x };
        noisy.iter_mut().zip(from.metres).for_each(|(x, y)| *x += limit(y));
    }
    let noisy = Heights { width: wide, height: high, metres: noisy };
    let Some(made) = tiled(model, &noisy, sigma, label, on)? else { return Ok(None) };
    let made = match small {
        true => made.to_metres().resized(width, height),
        false => made.cropped(width, height).to_metres(),
    };
    Ok(Some((made.floored(), difficulty)))
}

/// Denoises a canvas in tiles that overlap, weighed by Hann's window.
fn tiled(
    model: &mut Consistency,
    noisy: &Heights,
    sigma: f32,
    label: f32,
    on: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Option<Heights>> {
    let (side, wide) = (model.side(), noisy.width);
    if (wide, noisy.height) == (side, side) {
        let metres = if on(0, 1) { model.denoise(&noisy.metres, sigma, label)? } else { return Ok(None) };
        on(1, 1);
        return Ok(Some(Heights { metres, ..*noisy }));
    }
    let hann = |i: usize| 0.5 - 0.5 * (std::f64::consts::TAU * i as f64 / (side - 1) as f64).cos();
    let window: Vec<f32> = (0..side).map(|i| (hann(i) as f32).max(1e-3)).collect();
    let (xs, ys) = (starts(wide, side), starts(noisy.height, side));
    let places: Vec<(usize, usize)> = ys.iter().flat_map(|&y| xs.iter().map(move |&x| (x, y))).collect();
    let mut sums = vec![[0f32; 2]; noisy.metres.len()];
    for (done, &(x, y)) in places.iter().enumerate() {
        if !on(done, places.len()) {
            return Ok(None);
        }
        let rows = || (y..y + side).map(|row| row * wide + x..row * wide + x + side);
        let tile: Vec<f32> = rows().flat_map(|row| &noisy.metres[row]).copied().collect();
        let made = model.denoise(&tile, sigma, label)?;
        for ((row, made), down) in rows().zip(made.chunks_exact(side)).zip(&window) {
            for ((sum, value), across) in sums[row].iter_mut().zip(made).zip(&window) {
                let weight = down * across;
                *sum = [sum[0] + value * weight, sum[1] + weight];
            }
        }
    }
    on(places.len(), places.len());
    let metres = sums.iter().map(|[sum, weight]| sum / weight.max(1e-12)).collect();
    Ok(Some(Heights { metres, ..*noisy }))
}

/// Where tiles begin along a side.
fn starts(length: usize, side: usize) -> Vec<usize> {
    let last = length - side;
    let mut starts: Vec<usize> = (0..=last).step_by((side - OVERLAP.min(side / 2)).max(1)).collect();
    if starts.last() != Some(&last) {
        starts.push(last);
    }
    starts
}

impl Heights {
    fn map(&self, f: impl Fn(f32) -> f32) -> Heights {
        Heights { metres: self.metres.iter().map(|&x| f(x)).collect(), ..*self }
    }

    /// The lowest and the highest, in metres.
    pub fn range(&self) -> (f32, f32) {
        self.metres.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), &x| (a.min(x), b.max(x)))
    }

    fn floored(&self) -> Heights {
        let floor = self.range().0;
        self.map(|x| x - floor)
    }

    fn cropped(&self, width: usize, height: usize) -> Heights {
        let rows = self.metres.chunks_exact(self.width).take(height);
        Heights { width, height, metres: rows.flat_map(|row| &row[..width]).copied().collect() }
    }

    /// Metres as the model has them, in -1..1.
    fn to_model(&self) -> Heights {
        let (floor, most) = (self.range().0, (HIGHEST / ASINH).asinh());
        self.map(|x| {
            let unit = f64::from((x - floor).clamp(0.0, HIGHEST as f32) / ASINH as f32).asinh() / most;
            (unit * 2.0 - 1.0) as f32
        })
    }

    /// The way back.
    fn to_metres(&self) -> Heights {
        let most = (HIGHEST / ASINH).asinh();
        self.map(|x| {
            let unit = f64::from(((x + 1.0) * 0.5).clamp(0.0, 1.0));
            (ASINH * (unit * most).sinh()).clamp(0.0, HIGHEST) as f32
        })
    }

    /// At another size, bilinear between the middles of pixels.
    fn resized(&self, width: usize, height: usize) -> Heights {
        if (width, height) == (self.width, self.height) {
            return self.clone();
        }
        let (xs, ys) = (between(self.width, width), between(self.height, height));
        let mix = |a: f32, b: f32, share: f32| a * (1.0 - share) + b * share;
        let row = |y: usize| &self.metres[y * self.width..][..self.width];
        let metres = ys.iter().flat_map(|&(y, y1, down)| {
            let (above, below) = (row(y), row(y1));
            let at = move |&(x, x1, across): &(usize, usize, f32)| {
                mix(mix(above[x], above[x1], across), mix(below[x], below[x1], across), down)
            };
            xs.iter().map(at)
        });
        Heights { width, height, metres: metres.collect() }
    }
}

/// For each of `to` pixels the two of `from` that it lies between, and the share of the second.
fn between(from: usize, to: usize) -> Vec<(usize, usize, f32)> {
    let place = |i: usize| {
        let x = ((i as f32 + 0.5) * from as f32 / to as f32 - 0.5).clamp(0.0, (from - 1) as f32);
        (x as usize, (x as usize + 1).min(from - 1), x.fract())
    };
    (0..to).map(place).collect()
}
