//! Codebooks of the IQ formats, unpacked: an index gives 8 (IQ1, IQ2) or 4 (IQ3) values.

use super::iq_tables as packed;

/// Entries of `width` bits are indices into `levels`.
const fn unpack<const E: usize, const N: usize>(
    packed: &[u16; N],
    width: u32,
    levels: &[i8],
) -> [[i8; E]; N] {
    let mut grid = [[0; E]; N];
    let mut n = 0;
    while n < N {
        let mut e = 0;
        while e < E {
            grid[n][e] = levels[(packed[n] >> (e as u32 * width)) as usize & ((1 << width) - 1)];
            e += 1;
        }
        n += 1;
    }
    grid
}

const IQ2_LEVELS: [i8; 3] = [8, 25, 43];

/// Of IQ1_S and IQ1_M: -1, 0 and 1.
pub static IQ1: [[i8; 8]; 2048] = unpack(&packed::IQ1_S, 2, &[-1, 0, 1]);
/// Of IQ2_XXS; magnitudes.
pub static IQ2_XXS: [[i8; 8]; 256] = unpack(&packed::IQ2_XXS, 2, &IQ2_LEVELS);
/// Of IQ2_XS; magnitudes.
pub static IQ2_XS: [[i8; 8]; 512] = unpack(&packed::IQ2_XS, 2, &IQ2_LEVELS);
/// Of IQ2_S; magnitudes.
pub static IQ2_S: [[i8; 8]; 1024] = unpack(&packed::IQ2_S, 2, &IQ2_LEVELS);
/// Of IQ3_XXS; magnitudes.
pub static IQ3_XXS: [[i8; 4]; 256] = unpack(&packed::IQ3_XXS, 4, &[4, 12, 20, 28, 36, 44, 52, 62]);
/// Of IQ3_S; magnitudes.
pub static IQ3_S: [[i8; 4]; 512] = unpack(&packed::IQ3_S, 4, &[1, 3, 5, 7, 9, 11, 13, 15]);
/// Levels of IQ4_NL and IQ4_XS.
pub static IQ4: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The eight signs (bit set: negative) stored in seven bits: their number is always even.
pub const fn signs(seven: u8) -> u8 {
    let seven = seven & 127;
    seven | (seven.count_ones() as u8 & 1) << 7
}
