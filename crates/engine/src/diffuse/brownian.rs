//! The noise of a Brownian tree, as ComfyUI's SDE samplers draw it on a processor: for one seed it is the same path however
//! many steps walk along it. Facts: torchsde 0.2.6 (`_brownian/brownian_interval.py` with `halfway_tree`, which halves its
//! interval until it meets the ends asked for), numpy's `SeedSequence` (O'Neill 2015), k-diffusion's `BrownianTreeNoiseSampler`.

use super::noise::{Noise, Source};

/// Words that seeds are mixed in (torchsde's `pool_size`).
const POOL: usize = 24;
/// Halvings at most: ends are whole millionths, so that an interval of 2^40 has been taken apart.
const DEEPEST: u32 = 60;

/// A path of as many dimensions as a latent has numbers, between two levels of noise.
#[derive(Clone, Debug)]
pub struct Tree {
    seed: u64,
    /// the levels, the lesser first
    ends: (f64, f64),
    /// what the path comes to over all of it
    whole: Vec<f32>,
}

/// A part of the path, and where it is in the tree.
struct Part {
    ends: (f64, f64),
    key: u64,
    depth: u32,
}

impl Tree {
    /// The path of `seed` between the least and the greatest level of a walk, of `n` numbers.
    pub fn new(seed: u64, (least, greatest): (f32, f32), n: usize) -> Tree {
        let (from, to) = (f64::from(least.min(greatest)), f64::from(least.max(greatest)));
        let by = (to - from).sqrt() as f32;
        let whole = randn(seeds::<1>(seed, &[])[0], n).into_iter().map(|x| x * by).collect();
        Tree { seed, ends: (rounded(from), rounded(to)), whole }
    }

    /// Standard normal noise for a step between two levels: what the path comes to there, in units of its deviation.
    pub fn noise(&self, from: f32, to: f32) -> Vec<f32> {
        // The path runs upwards, and walks go down; both change the sign.
        let inside = |x: f32| f64::from(x).clamp(self.ends.0, self.ends.1);
        let (low, high) = (inside(from.min(to)), inside(from.max(to)));
        let (low, high) = (rounded(low), rounded(high));
        let mut sum = None;
        if low < high {
            let part = Part { ends: self.ends, key: 0, depth: 0 };
            self.add(&part, self.whole.clone(), (low, high), &mut sum);
        }
        let sign = if from <= to { 1.0 } else { -1.0 };
        let by = (to - from).abs().sqrt();
        let sum = sum.unwrap_or_else(|| vec![0.0; self.whole.len()]);
        // No noise for no way; 0 / 0 is none of torch's ways to say so that anybody wants.
        sum.into_iter().map(|x| if by > 0.0 { x * sign / by } else { 0.0 }).collect()
    }

    /// Adds what the path comes to between `asked`, which lie within `part`, over which it comes to `path`.
    fn add(&self, part: &Part, path: Vec<f32>, asked: (f64, f64), sum: &mut Option<Vec<f32>>) {
        let (start, end) = part.ends;
        let middle = rounded(0.5 * (end + start));
        let whole = asked == part.ends || middle <= start || middle >= end || part.depth >= DEEPEST;
        if whole {
            return match sum {
                Some(sum) => sum.iter_mut().zip(&path).for_each(|(sum, x)| *sum += x),
                None => *sum = Some(path),
            };
        }
        let [seed, ..] = seeds::<4>(self.seed, &[part.key, part.depth.into()]);
        let (left, right, over) = (middle - start, end - middle, 1.0 / (end - start));
        let spread = (left * right * over).sqrt() as f32;
        let noise = randn(seed, path.len());
        let first: Vec<f32> =
            (path.iter().zip(noise)).map(|(x, n)| left as f32 * x * over as f32 + spread * n).collect();
        let child = |right: bool| Part {
            ends: if right { (middle, end) } else { (start, middle) },
            key: 2 * part.key + u64::from(right),
            depth: part.depth + 1,
        };
        let second = (asked.1 > middle).then(|| path.iter().zip(&first).map(|(x, l)| x - l).collect());
        if asked.0 < middle {
            self.add(&child(false), first, (asked.0, asked.1.min(middle)), sum);
        }
        if let Some(second) = second {
            self.add(&child(true), second, (asked.0.max(middle), asked.1), sum);
        }
    }
}

fn randn(seed: u32, n: usize) -> Vec<f32> {
    Noise::new(Source::TorchCpu, seed.into()).randn(n)
}

/// As Python's `round(x, 6)`: to the nearest decimal number, ties to even.
fn rounded(x: f64) -> f64 {
    format!("{x:.6}").parse().unwrap_or(x)
}

/// The first words of `SeedSequence(entropy, spawn_key, pool_size=24).generate_state`.
fn seeds<const N: usize>(entropy: u64, spawn: &[u64]) -> [u32; N] {
    let words = |x: u64| [x as u32, (x >> 32) as u32].into_iter().take(if x >> 32 == 0 { 1 } else { 2 });
    let mut source: Vec<u32> = words(entropy).collect();
    if !spawn.is_empty() {
        source.resize(POOL, 0);
        source.extend(spawn.iter().flat_map(|x| words(*x)));
    }
    let mut by = 0x43b0_d7e5u32;
    let mut hashed = |x: u32| {
        let x = x ^ by;
        by = by.wrapping_mul(0x931e_8875);
        let x = x.wrapping_mul(by);
        x ^ x >> 16
    };
    let mixed = |x: u32, y: u32| {
        let x = x.wrapping_mul(0xca01_f9dd).wrapping_sub(y.wrapping_mul(0x4973_f715));
        x ^ x >> 16
    };
    let mut pool: [u32; POOL] = std::array::from_fn(|i| hashed(source.get(i).copied().unwrap_or(0)));
    for from in 0..POOL {
        for to in (0..POOL).filter(|to| *to != from) {
            pool[to] = mixed(pool[to], hashed(pool[from]));
        }
    }
    for word in source.iter().skip(POOL) {
        pool.iter_mut().for_each(|to| *to = mixed(*to, hashed(*word)));
    }
    let mut by = 0x8b51_f9ddu32;
    std::array::from_fn(|i| {
        let x = pool[i % POOL] ^ by;
        by = by.wrapping_mul(0x58f3_8ded);
        let x = x.wrapping_mul(by);
        x ^ x >> 16
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_pythons() {
        let cases =
            [(0.0078125, 0.007812), (0.0234375, 0.023438), (14.614_642_143_249_512, 14.614642), (1e-7, 0.0)];
        for (x, want) in cases {
            assert_eq!(rounded(x), want);
        }
    }

    #[test]
    fn parts_of_the_path_sum_to_it() {
        let tree = Tree::new(5, (0.03, 14.6), 20);
        let way = |a: f32, b: f32| {
            let by = (a - b).abs().sqrt();
            tree.noise(a, b).into_iter().map(move |x| x * by).collect::<Vec<f32>>()
        };
        let (all, parts) = (way(14.6, 0.03), [way(14.6, 7.7), way(7.7, 0.1), way(0.1, 0.03)]);
        for i in 0..20 {
            let sum: f32 = parts.iter().map(|p| p[i]).sum();
            assert!((sum - all[i]).abs() < 1e-4, "{sum} {}", all[i]);
        }
        assert_eq!(tree.noise(3.0, 3.0), [0.0; 20]);
        // Beyond the ends there is nothing, and the same way back is the other way.
        assert!(tree.noise(99.0, 20.0).iter().all(|x| *x == 0.0));
        assert!(tree.noise(1.0, 2.0).iter().zip(tree.noise(2.0, 1.0)).all(|(a, b)| *a == -b));
    }
}
