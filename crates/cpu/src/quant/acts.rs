//! Activations in 8 bits: groups of 32 with a scale, and the sums that weights with an addend need.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use crate::isa::{Isa, isa};

/// Values that share a scale.
pub(crate) const GROUP: usize = 32;

/// Quantized activations, in tiles of tokens that are computed together; a last tile is filled up with zeros.
///
/// `x ≈ d · q`. `A` stands for the tokens of a tile, `G` for the groups of a token.
pub(crate) struct Acts<'a> {
    /// tokens
    pub tokens: usize,
    /// tokens of a tile
    pub tile: usize,
    /// groups of 32 of a token
    pub groups: usize,
    /// `(tiles, G, 8, A, 4)`
    pub q: &'a [i8],
    /// `(tiles, G, A)`
    pub d: &'a [f32],
    /// `(tiles, G, A)`: d · sum of q
    pub sums: &'a [f32],
    /// `(tiles, G, 2, A)`: the same of each half
    pub half_sums: &'a [f32],
}

/// Memory of [`Acts`], or of some of its tiles.
pub(crate) struct ActsMut<'a> {
    pub q: &'a mut [i8],
    pub d: &'a mut [f32],
    pub sums: &'a mut [f32],
    pub half_sums: &'a mut [f32],
}

/// Below this, activations are taken for zeros: the inverse of their scale would be no number.
const SMALLEST: f32 = 1e-30;

/// Quantizes the rows of `x`, each of `k` values, as one tile of `tile` tokens; and, where `rest` is given, what that
/// leaves over as another tile.
pub(crate) fn quantize(x: &[f32], k: usize, tile: usize, to: ActsMut, rest: Option<ActsMut>) {
    #[cfg(target_arch = "x86_64")]
    if isa() >= Isa::Avx2 {
        // SAFETY: the processor has what the function is compiled for.
        return unsafe { quantize_avx2(x, k, tile, to, rest) };
    }
    #[cfg(target_arch = "aarch64")]
    if isa() >= Isa::Neon {
        // SAFETY: the processor has NEON.
        return quantize_by(x, k, tile, to, rest, |x| unsafe { super::arm::group(x, SMALLEST) });
    }
    quantize_by(x, k, tile, to, rest, group)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn quantize_avx2(x: &[f32], k: usize, tile: usize, to: ActsMut, rest: Option<ActsMut>) {
    // SAFETY: this function is compiled for what `group` demands.
    quantize_by(x, k, tile, to, rest, |x| unsafe { super::x86::group(x, SMALLEST) })
}

/// What quantizing `x` leaves over: `x - d · q`.
pub(crate) fn residual(x: &[f32], to: &mut [f32]) {
    for (x, to) in x.as_chunks::<GROUP>().0.iter().zip(to.as_chunks_mut::<GROUP>().0) {
        let (d, q, _) = group(x);
        *to = std::array::from_fn(|i| x[i] - d * q[i] as f32);
    }
}

/// As `quantize`, by a function that gives the scale of a group, its whole numbers, and their sums by halves.
#[inline(always)]
fn quantize_by(
    x: &[f32],
    k: usize,
    tile: usize,
    mut to: ActsMut,
    mut rest: Option<ActsMut>,
    group: impl Fn(&[f32; GROUP]) -> (f32, [i8; GROUP], [i32; 2]),
) {
    if x.len() < tile * k {
        to.clear();
        rest.iter_mut().for_each(ActsMut::clear);
    }
    for (a, row) in x.chunks_exact(k).enumerate() {
        for (g, x) in row.as_chunks::<GROUP>().0.iter().enumerate() {
            let (d, q, halves) = group(x);
            to.put(tile, a, g, d, &q, halves);
            if let Some(rest) = &mut rest {
                let mut left = *x;
                for i in 0..GROUP {
                    left[i] -= d * q[i] as f32;
                }
                let (d, q, halves) = group(&left);
                rest.put(tile, a, g, d, &q, halves);
            }
        }
    }
}

impl ActsMut<'_> {
    fn clear(&mut self) {
        self.q.fill(0);
        self.d.fill(0.0);
        self.sums.fill(0.0);
        self.half_sums.fill(0.0);
    }

    /// Group `g` of token `a` of the tile.
    #[inline(always)]
    fn put(&mut self, tile: usize, a: usize, g: usize, d: f32, q: &[i8; GROUP], halves: [i32; 2]) {
        let words = self.q[g * GROUP * tile..][..GROUP * tile].as_chunks_mut::<4>().0;
        for (i, q) in q.as_chunks::<4>().0.iter().enumerate() {
            words[i * tile + a] = *q;
        }
        self.d[g * tile + a] = d;
        self.sums[g * tile + a] = d * (halves[0] + halves[1]) as f32;
        self.half_sums[2 * g * tile + a] = d * halves[0] as f32;
        self.half_sums[(2 * g + 1) * tile + a] = d * halves[1] as f32;
    }
}

/// The largest magnitude of a group becomes 127.
fn group(x: &[f32; GROUP]) -> (f32, [i8; GROUP], [i32; 2]) {
    // Magnitudes order as their bits do; so no number at all is larger than any, and makes the scale none.
    let largest = f32::from_bits(x.iter().map(|x| x.to_bits() & 0x7fff_ffff).max().unwrap_or(0));
    let inverse = if largest < SMALLEST { 0.0 } else { 127.0 / largest };
    // Adding 1.5 · 2^23 leaves the nearest whole number in the low bits.
    let q = x.map(|x| (x * inverse + 12_582_912.0).to_bits() as i8);
    let half = |h: usize| q[16 * h..][..16].iter().map(|&q| q as i32).sum();
    (largest / 127.0, q, [half(0), half(1)])
}

#[cfg(all(test, any(target_arch = "x86_64", target_arch = "aarch64")))]
mod tests {
    use super::*;

    #[cfg(target_arch = "x86_64")]
    fn vectors(x: &[f32; GROUP]) -> (f32, [i8; GROUP], [i32; 2]) {
        // SAFETY: the processor has AVX2, as the test asks.
        unsafe { crate::quant::x86::group(x, SMALLEST) }
    }

    #[cfg(target_arch = "aarch64")]
    fn vectors(x: &[f32; GROUP]) -> (f32, [i8; GROUP], [i32; 2]) {
        // SAFETY: the processor has NEON.
        unsafe { crate::quant::arm::group(x, SMALLEST) }
    }

    #[test]
    fn groups_are_the_same_on_every_instruction_set() {
        if isa() == Isa::Portable {
            return;
        }
        let mut next = crate::quant::tests::random(9);
        for i in 0..1000 {
            let size = 10f32.powi(i % 60 - 40);
            let x = std::array::from_fn(|_| (next() as f32 / (1u32 << 30) as f32 - 1.0) * size);
            assert_eq!(group(&x), vectors(&x));
        }
        let mut x = [1.0; GROUP];
        x[7] = f32::NAN;
        assert!(group(&x).0.is_nan() && vectors(&x).0.is_nan());
    }
}
