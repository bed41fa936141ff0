//! Activations in 8 bits: groups of 32 with a scale, and the sums that weights with an addend need.

use crate::isa::for_each_isa;

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

for_each_isa! {
    /// Quantizes the rows of `x`, each of `k` values, as one tile of `tile` tokens.
    pub(crate) fn quantize(x: &[f32], k: usize, tile: usize, to: ActsMut) {
        let _ = FMA;
        if x.len() < tile * k {
            to.q.fill(0);
            to.d.fill(0.0);
            to.sums.fill(0.0);
            to.half_sums.fill(0.0);
        }
        for (a, row) in x.chunks_exact(k).enumerate() {
            for (g, x) in row.as_chunks::<GROUP>().0.iter().enumerate() {
                let (d, q) = group(x);
                let words = to.q[g * GROUP * tile..][..GROUP * tile].as_chunks_mut::<4>().0;
                for (i, q) in q.as_chunks::<4>().0.iter().enumerate() {
                    words[i * tile + a] = *q;
                }
                let half = |h: usize| q[16 * h..][..16].iter().map(|&q| q as i32).sum::<i32>() as f32;
                let (low, high) = (d * half(0), d * half(1));
                to.d[g * tile + a] = d;
                to.sums[g * tile + a] = low + high;
                to.half_sums[2 * g * tile + a] = low;
                to.half_sums[(2 * g + 1) * tile + a] = high;
            }
        }
    }
}

/// Scale and whole numbers of a group: the largest magnitude becomes 127.
#[inline(always)]
fn group(x: &[f32; GROUP]) -> (f32, [i8; GROUP]) {
    // Magnitudes order as their bits do, and a maximum of whole numbers becomes vector code.
    let largest = f32::from_bits(x.iter().map(|x| x.to_bits() & 0x7fff_ffff).max().unwrap_or(0));
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    // Adding 1.5 · 2^23 leaves the nearest whole number in the low bits.
    (largest / 127.0, x.map(|x| (x * inverse + 12_582_912.0).to_bits() as i8))
}
