//! Noise that others know: the same seed gives the numbers of torch's CPU generator, or those of its CUDA generator.
//!
//! torch's CPU `randn` in f32 is met bit for bit as torch runs with AVX2 or AVX-512, on every machine; torch elsewhere
//! (Arm, `ATEN_CPU_CAPABILITY=default`) asks the system's `logf` and `sincosf` and differs from both by up to 3e-6.

/// Which generator noise comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// `torch.Generator("cpu")`: Mersenne Twister; what diffusers on CPU and ComfyUI's first noise take
    #[default]
    TorchCpu,
    /// Philox 4x32-10 as torch on CUDA draws it and A1111 does with "NV" (`modules/rng_philox.py`)
    Philox,
}

impl Source {
    /// Names for the command line, in the order of the variants.
    pub const NAMES: [&str; 2] = ["torch-cpu", "philox"];

    /// Reads a name, or what A1111 writes as `RNG:` ("CPU", "NV").
    pub fn parse(name: &str) -> Option<Source> {
        match name.to_ascii_lowercase().as_str() {
            "torch-cpu" | "torch" | "cpu" => Some(Source::TorchCpu),
            "philox" | "nv" | "cuda" => Some(Source::Philox),
            _ => None,
        }
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        Source::NAMES[self as usize]
    }
}

/// A generator of standard normal numbers; what it has given so far decides what comes next.
#[derive(Clone, Debug)]
pub enum Noise {
    /// see [`Source::TorchCpu`]
    TorchCpu(Box<TorchCpu>),
    /// see [`Source::Philox`]
    Philox(Philox),
}

impl Noise {
    /// As `manual_seed(seed)`: the Mersenne Twister takes the lower 32 bits, Philox all 64.
    pub fn new(source: Source, seed: u64) -> Noise {
        match source {
            Source::TorchCpu => Noise::TorchCpu(Box::new(TorchCpu::new(seed))),
            Source::Philox => Noise::Philox(Philox { seed, offset: 0 }),
        }
    }

    /// The next tensor of `n` numbers, as one call of `torch.randn`.
    pub fn randn(&mut self, n: usize) -> Vec<f32> {
        match self {
            Noise::TorchCpu(g) => g.randn(n),
            Noise::Philox(g) => g.randn(n),
        }
    }
}

/// Noise of a batch: a generator for each picture, drawn in turn, so that a picture does not depend on its neighbours.
/// diffusers does so with a list of generators and A1111 always; one generator for all is a batch of one, `n` times as long.
#[derive(Clone, Debug)]
pub struct Batch {
    each: Vec<Noise>,
    n: usize,
}

impl Batch {
    /// `count` pictures of `n` numbers, seeded `seed`, `seed + 1` and so on.
    pub fn new(source: Source, seed: u64, count: usize, n: usize) -> Batch {
        let each = (0..count as u64).map(|i| Noise::new(source, seed.wrapping_add(i))).collect();
        Batch { each, n }
    }

    /// The next `count * n` numbers, picture after picture.
    pub fn randn(&mut self) -> Vec<f32> {
        self.each.iter_mut().flat_map(|g| g.randn(self.n)).collect()
    }
}

const N: usize = 624;

/// torch's `CPUGeneratorImpl`: MT19937 (Matsumoto, Nishimura 1998) and `normal_` as in ATen's DistributionTemplates.h.
#[derive(Clone, Debug)]
pub struct TorchCpu {
    state: [u32; N],
    next: usize,
    /// the sine that a scalar draw leaves for the next one
    spare: Option<f64>,
}

impl TorchCpu {
    fn new(seed: u64) -> TorchCpu {
        let mut state = [seed as u32; N];
        for i in 1..N {
            let before = state[i - 1] ^ (state[i - 1] >> 30);
            state[i] = before.wrapping_mul(1812433253).wrapping_add(i as u32);
        }
        TorchCpu { state, next: N, spare: None }
    }

    /// The next 32 bits.
    pub fn bits(&mut self) -> u32 {
        if self.next == N {
            for i in 0..N {
                let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
                let twist = if y & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[i] = self.state[(i + 397) % N] ^ (y >> 1) ^ twist;
            }
            self.next = 0;
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// Uniform in [0, 1) with 24 bits.
    fn uniform(&mut self) -> f32 {
        (self.bits() & 0xff_ffff) as f32 * (1.0 / 16_777_216.0)
    }

    /// Uniform in [0, 1) with 53 bits.
    fn uniform_f64(&mut self) -> f64 {
        let high = u64::from(self.bits());
        let bits = (high << 32 | u64::from(self.bits())) & ((1 << 53) - 1);
        bits as f64 / (1u64 << 53) as f64
    }

    /// Box-Muller in f64, two at a time; the second waits, also across draws of blocks.
    fn scalar(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let (angle, tail) = (self.uniform_f64(), self.uniform_f64());
        let radius = (-2.0 * (-tail).ln_1p()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * angle).sin_cos();
        self.spare = Some(radius * sin);
        radius * cos
    }

    fn randn(&mut self, n: usize) -> Vec<f32> {
        if n < 16 {
            return (0..n).map(|_| self.scalar() as f32).collect();
        }
        let mut out: Vec<f32> = (0..n).map(|_| self.uniform()).collect();
        out.chunks_exact_mut(16).for_each(box_muller);
        // What does not fill a block is drawn again, as the last 16.
        if !n.is_multiple_of(16) {
            let last = &mut out[n - 16..];
            last.fill_with(|| self.uniform());
            box_muller(last);
        }
        out
    }
}

/// 16 uniform numbers become normal: number i and i + 8 are a pair.
fn box_muller(block: &mut [f32]) {
    let (a, b) = block.split_at_mut(8);
    for (a, b) in a.iter_mut().zip(b) {
        let radius = (-2.0 * log(1.0 - *a)).sqrt();
        let (sin, cos) = sin_cos(std::f32::consts::TAU * *b);
        (*a, *b) = (radius * cos, radius * sin);
    }
}

/// Cephes' `logf` for x > 0 with the roundings of torch's avx_mathfun.h as it is compiled: where a product is added to
/// something the two are fused.
fn log(x: f32) -> f32 {
    const P: [f32; 9] = [
        7.037_683_6e-2,
        -1.151_461e-1,
        1.167_699_9e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_8e-1,
        2.000_071_5e-1,
        -2.499_999_4e-1,
        3.333_333e-1,
    ];
    let bits = x.max(f32::MIN_POSITIVE).to_bits();
    let mut e = ((bits >> 23) as i32 - 0x7e) as f32;
    let mut m = f32::from_bits(bits & 0x007f_ffff | 0x3f00_0000);
    if m < std::f32::consts::FRAC_1_SQRT_2 {
        e -= 1.0;
        m = m - 1.0 + m;
    } else {
        m -= 1.0;
    }
    let z = m * m;
    let y = P[1..].iter().fold(P[0], |y, &c| y.mul_add(m, c)) * m;
    let y = z.mul_add(-0.5, y.mul_add(z, e * -2.121_944_4e-4));
    e.mul_add(0.693_359_4, m + y)
}

/// Cephes' `sinf` and `cosf` for x >= 0, likewise.
fn sin_cos(x: f32) -> (f32, f32) {
    let octant = ((x * (4.0 / std::f32::consts::PI)) as i32 + 1) & !1;
    let y = octant as f32;
    let x = [-0.785_156_25, -2.418_756_5e-4, -3.774_895e-8].iter().fold(x, |x, &d| y.mul_add(d, x));
    let z = x * x;
    let c = 2.443_315_7e-5f32.mul_add(z, -1.388_731_6e-3).mul_add(z, 4.166_664_6e-2) * z;
    let c = c.mul_add(z, -(z * 0.5)) + 1.0;
    let s = (-1.951_529_6e-4f32).mul_add(z, 8.332_161e-3).mul_add(z, -1.666_665_5e-1) * z;
    let s = s.mul_add(x, x);
    let (sin, cos) = if octant & 2 == 0 { (s, c) } else { (c, s) };
    let sign = |negative: bool, v: f32| if negative { -v } else { v };
    (sign(octant & 4 != 0, sin), sign(!(octant - 2) & 4 != 0, cos))
}

/// Philox 4x32-10 (Salmon et al. 2011) as curand_normal draws it: number i of a draw has a counter of its own, and only
/// the first of its four normal numbers is taken; within 3e-7 of what a GPU gives. A GPU takes more of them where a tensor has more numbers than it has
/// threads (some 40 thousand on small cards); A1111 and we never do.
#[derive(Clone, Debug)]
pub struct Philox {
    seed: u64,
    offset: u32,
}

impl Philox {
    fn randn(&mut self, n: usize) -> Vec<f32> {
        let key = [self.seed as u32, (self.seed >> 32) as u32];
        let offset = self.offset;
        self.offset = offset.wrapping_add(1);
        // 2^-32 and 2^-32 turns are rounded to f32, all else is f64, as numpy does it.
        let unit = f64::from(2.328_306_4e-10f32);
        let turn = f64::from(1.462_918_1e-9f32);
        let half = |s: f64| f64::from((s / 2.0) as f32);
        let (half_unit, half_turn) = (half(unit), half(turn));
        (0..n as u64)
            .map(|i| {
                let bits = philox([offset, 0, i as u32, (i >> 32) as u32], key);
                let u = f64::from(bits[0]) * unit + half_unit;
                let v = f64::from(bits[1]) * turn + half_turn;
                ((-2.0 * u.ln()).sqrt() * v.sin()) as f32
            })
            .collect()
    }
}

/// Ten rounds.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = u64::from(counter[0]) * 0xd251_1f53;
        let b = u64::from(counter[2]) * 0xcd9e_8d57;
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
        key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_vectors() {
        // Random123's kat_vectors, philox4x32 with 10 rounds.
        let cases: [([u32; 4], [u32; 2], [u32; 4]); 3] = [
            ([0; 4], [0; 2], [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]),
            (
                [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
                [0xa4093822, 0x299f31d0],
                [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
            ),
        ];
        for (counter, key, want) in cases {
            assert_eq!(philox(counter, key), want);
        }
        // What A1111's rng_philox.py says torch on CUDA gives for seed 0: its sine is a quick one.
        let want = [-0.924_662_6, -0.425_344_15, -2.643_845_7, 0.145_183_88, -0.120_866_47, -0.579_725_64];
        for (got, want) in Noise::new(Source::Philox, 0).randn(6).iter().zip(want) {
            assert!((got - want as f32).abs() < 3e-7, "{got} {want}");
        }
    }

    #[test]
    fn a_batch_is_its_pictures() {
        for source in [Source::TorchCpu, Source::Philox] {
            assert_eq!(Source::parse(source.name()), Some(source));
            let mut batch = Batch::new(source, u64::MAX, 2, 20);
            let (mut a, mut b) = (Noise::new(source, u64::MAX), Noise::new(source, 0));
            for _ in 0..2 {
                assert_eq!(batch.randn(), [a.randn(20), b.randn(20)].concat());
            }
        }
    }
}
