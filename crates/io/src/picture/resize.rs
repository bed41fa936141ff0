//! Resizing as PIL does it (`Resample.c`): filters that widen when the picture shrinks, in whole numbers, columns first.

/// How pixels between pixels are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// The pixel in whose place it falls.
    Nearest,
    /// The mean of those that it covers.
    Box,
    /// Triangles, which overlap by half.
    Bilinear,
    /// Cubics with a = -0.5.
    Bicubic,
    /// Lanczos' window of three.
    Lanczos,
}

impl Filter {
    /// How far it reaches, in pixels of the larger picture.
    fn support(self) -> f64 {
        match self {
            Filter::Nearest | Filter::Box => 0.5,
            Filter::Bilinear => 1.0,
            Filter::Bicubic => 2.0,
            Filter::Lanczos => 3.0,
        }
    }

    fn at(self, x: f64) -> f64 {
        let sinc = |x: f64| {
            if x == 0.0 { 1.0 } else { (x * std::f64::consts::PI).sin() / (x * std::f64::consts::PI) }
        };
        match self {
            Filter::Nearest | Filter::Box => (x > -0.5 && x <= 0.5) as u8 as f64,
            Filter::Bilinear => (1.0 - x.abs()).max(0.0),
            Filter::Bicubic => {
                let (x, a) = (x.abs(), -0.5);
                match x {
                    _ if x < 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
                    _ if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * a,
                    _ => 0.0,
                }
            }
            Filter::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Filter::Lanczos => 0.0,
        }
    }
}

/// Bits behind the point: 8 are the value's, 2 for what a filter swings over.
const BITS: u32 = 32 - 8 - 2;

/// For each new place: where the old ones begin that it is made of, and their weights.
fn weights(from: usize, to: usize, filter: Filter) -> Vec<(usize, Vec<i32>)> {
    let scale = from as f64 / to as f64;
    let wide = scale.max(1.0);
    let support = filter.support() * wide;
    let one = |i: usize| {
        let center = (i as f64 + 0.5) * scale;
        // As C's casts: towards zero.
        let begin = ((center - support + 0.5) as i64).max(0) as usize;
        let end = ((center + support + 0.5) as i64).min(from as i64) as usize;
        let raw: Vec<f64> =
            (begin..end).map(|x| filter.at((x as f64 - center + 0.5) * (1.0 / wide))).collect();
        let sum: f64 = raw.iter().sum();
        let fixed = |w: &f64| {
            let w = if sum != 0.0 { w / sum } else { *w } * (1i64 << BITS) as f64;
            (if w < 0.0 { w - 0.5 } else { w + 0.5 }) as i32
        };
        (begin, raw.iter().map(fixed).collect())
    };
    (0..to).map(one).collect()
}

/// A picture of interleaved channels at another size; sizes are `(width, height)`.
pub(super) fn resize(
    data: &[u8],
    channels: usize,
    from: (usize, usize),
    to: (usize, usize),
    filter: Filter,
) -> Vec<u8> {
    if filter == Filter::Nearest {
        let place =
            |i: usize, from: usize, to: usize| ((i as f64 + 0.5) * (from as f64 / to as f64)) as usize;
        let rows = (0..to.1).map(|y| place(y, from.1, to.1).min(from.1 - 1));
        let pixel = |x, y: usize| {
            &data[(y * from.0 + place(x, from.0, to.0).min(from.0 - 1)) * channels..][..channels]
        };
        return rows.flat_map(|y| (0..to.0).flat_map(move |x| pixel(x, y))).copied().collect();
    }
    let clip = |sum: i64| (sum >> BITS).clamp(0, 255) as u8;
    let half = 1i64 << (BITS - 1);
    let columns = weights(from.0, to.0, filter);
    let mut wide = Vec::with_capacity(to.0 * from.1 * channels);
    for row in data.chunks_exact(from.0 * channels) {
        for (begin, weights) in &columns {
            for c in 0..channels {
                let old = row[begin * channels + c..].iter().step_by(channels);
                let sum: i64 = weights.iter().zip(old).map(|(&w, &x)| w as i64 * x as i64).sum();
                wide.push(clip(half + sum));
            }
        }
    }
    let row = to.0 * channels;
    let mut out = Vec::with_capacity(row * to.1);
    let mut sums = vec![0i64; row];
    for (begin, weights) in weights(from.1, to.1, filter) {
        sums.fill(half);
        for (&w, old) in weights.iter().zip(wide[begin * row..].chunks_exact(row)) {
            sums.iter_mut().zip(old).for_each(|(sum, &x)| *sum += w as i64 * x as i64);
        }
        out.extend(sums.iter().map(|&sum| clip(sum)));
    }
    out
}

/// Values `(H, W)` at another size, each the one in whose place it falls: torch's `interpolate`, as diffusers shrinks masks
/// to the size of latents. Sizes are `(width, height)` and not zero.
pub fn nearest(values: &[f32], from: (usize, usize), to: (usize, usize)) -> Vec<f32> {
    let place =
        |i: usize, from: usize, to: usize| ((i as f32 * (from as f32 / to as f32)) as usize).min(from - 1);
    let row = |y| (0..to.0).map(move |x| values[place(y, from.1, to.1) * from.0 + place(x, from.0, to.0)]);
    (0..to.1).flat_map(row).collect()
}

/// Values `(H, W)` at a smaller size, each the mean of those that its place touches: torch's `interpolate(mode="area")`.
/// Sizes are `(width, height)` and not zero.
pub fn area(values: &[f32], from: (usize, usize), to: (usize, usize)) -> Vec<f32> {
    let span = |i: usize, from: usize, to: usize| i * from / to..((i + 1) * from).div_ceil(to);
    let mean = |x: usize, y: usize| {
        let (columns, rows) = (span(x, from.0, to.0), span(y, from.1, to.1));
        let count = (columns.len() * rows.len()) as f64;
        let sum: f64 = rows.flat_map(|y| columns.clone().map(move |x| values[y * from.0 + x] as f64)).sum();
        (sum / count) as f32
    };
    (0..to.1).flat_map(|y| (0..to.0).map(move |x| mean(x, y))).collect()
}
