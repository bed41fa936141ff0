//! numpy's `default_rng(seed)`: PCG64 (O'Neill 2014, XSL-RR of 128 bits), seeded by `SeedSequence`, with normal numbers in f32
//! by a ziggurat of 256 layers (Marsaglia, Tsang 2000). After numpy's `bit_generator.pyx`, `pcg64.h` and `distributions.c`.

use std::sync::LazyLock;

/// A generator; its numbers are numpy's, bit for bit (of the far tail, 3 in 10,000, as the system's `log1pf` rounds).
#[derive(Clone, Debug)]
pub struct Pcg64 {
    state: u128,
    step: u128,
    /// the upper half of the last 64 bits, which comes next
    half: Option<u32>,
}

impl Pcg64 {
    /// As `numpy.random.default_rng(seed)`.
    pub fn new(seed: u64) -> Pcg64 {
        let words = seeds(seed);
        let pair = |i: usize| {
            words[i..i + 4].iter().rev().fold(0u128, |n, &w| n << 32 | u128::from(w)).rotate_left(64)
        };
        let (start, sequence) = (pair(0), pair(4));
        let mut pcg = Pcg64 { state: 0, step: sequence << 1 | 1, half: None };
        pcg.next();
        pcg.state = pcg.state.wrapping_add(start);
        pcg.next();
        pcg
    }

    fn next(&mut self) -> u64 {
        const FACTOR: u128 = 0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645;
        self.state = self.state.wrapping_mul(FACTOR).wrapping_add(self.step);
        ((self.state >> 64) as u64 ^ self.state as u64).rotate_right((self.state >> 122) as u32)
    }

    /// 32 bits, the lower half of 64 first.
    fn bits(&mut self) -> u32 {
        self.half.take().unwrap_or_else(|| {
            let next = self.next();
            self.half = Some((next >> 32) as u32);
            next as u32
        })
    }

    /// Uniform in [0, 1) with 24 bits.
    fn uniform(&mut self) -> f32 {
        (self.bits() >> 8) as f32 * (1.0 / 16_777_216.0)
    }

    /// A number below `n`, as `integers(n)` draws one: by multiplying (Lemire 2019).
    pub fn below(&mut self, n: u32) -> u32 {
        let least = n.wrapping_neg() % n.max(1);
        loop {
            let scaled = u64::from(self.bits()) * u64::from(n);
            if scaled as u32 >= least {
                return (scaled >> 32) as u32;
            }
        }
    }

    /// `n` numbers, as `standard_normal(n, dtype=float32)`.
    pub fn normal(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.one()).collect()
    }

    fn one(&mut self) -> f32 {
        let layers = &*LAYERS;
        loop {
            let r = self.bits();
            let (i, size) = ((r & 0xff) as usize, r >> 9);
            let signed = |x: f32| if r >> 8 & 1 == 1 { -x } else { x };
            let x = signed(size as f32 * layers.width[i]);
            if size < layers.inner[i] {
                return x;
            }
            if i == 0 {
                loop {
                    let beyond = -(1.0 / R) as f32 * (-self.uniform()).ln_1p();
                    let y = -(-self.uniform()).ln_1p();
                    if y + y > beyond * beyond {
                        let x = R as f32 + beyond;
                        return if size >> 8 & 1 == 1 { -x } else { x };
                    }
                }
            }
            let y = (layers.height[i - 1] - layers.height[i]) * self.uniform() + layers.height[i];
            if f64::from(y) < (-0.5 * f64::from(x) * f64::from(x)).exp() {
                return x;
            }
        }
    }
}

/// Where the tail begins, and the area of each layer.
const R: f64 = 3.654_152_885_361_009;
const AREA: f64 = 4.928_673_233_974_655e-3;

/// The layers of the ziggurat, in 2⁻²³ of their widths.
struct Layers {
    /// below which a number lies under the curve in any case
    inner: [u32; 256],
    width: [f32; 256],
    height: [f32; 256],
}

static LAYERS: LazyLock<Layers> = LazyLock::new(|| {
    const UNIT: f64 = 8_388_608.0;
    let curve = |x: f64| (-0.5 * x * x).exp();
    let mut layers = Layers { inner: [0; 256], width: [0.0; 256], height: [1.0; 256] };
    let (mut x, mut y) = (R, curve(R));
    (layers.inner[0], layers.width[0]) = ((R * y / AREA * UNIT) as u32, (AREA / y / UNIT) as f32);
    for i in (1..256).rev() {
        (layers.width[i], layers.height[i]) = ((x / UNIT) as f32, y as f32);
        if i > 1 {
            let next = (-2.0 * (AREA / x + y).ln()).sqrt();
            layers.inner[i] = (next / x * UNIT) as u32;
            (x, y) = (next, curve(next));
        }
    }
    layers
});

/// The first 8 words of `SeedSequence(seed).generate_state`.
fn seeds(seed: u64) -> [u32; 8] {
    let mut constant = 0x43b0_d7e5u32;
    let mut hash = |value: u32| {
        let value = value ^ constant;
        constant = constant.wrapping_mul(0x931e_8875);
        folded(value.wrapping_mul(constant))
    };
    let mut pool = [seed as u32, (seed >> 32) as u32, 0, 0].map(&mut hash);
    for from in 0..4 {
        for to in (0..4).filter(|&to| to != from) {
            let (x, y) = (pool[to].wrapping_mul(0xca01_f9dd), hash(pool[from]).wrapping_mul(0x4973_f715));
            pool[to] = folded(x.wrapping_sub(y));
        }
    }
    let mut constant = 0x8b51_f9ddu32;
    std::array::from_fn(|i| {
        let value = pool[i % 4] ^ constant;
        constant = constant.wrapping_mul(0x58f3_8ded);
        folded(value.wrapping_mul(constant))
    })
}

fn folded(x: u32) -> u32 {
    x ^ x >> 16
}
