//! Floats of 8 bits (Micikevicius et al. 2022, "FP8 Formats for Deep Learning"), as safetensors and torch have them: `E4M3` is
//! torch's `float8_e4m3fn`, without infinities, and `E5M2` is the upper half of an f16. NaNs have the bits that torch gives
//! them.

/// All values by their codes: 4 bits of exponent with bias 7, 3 of fraction.
pub(super) static E4M3: [f32; 256] = table::<3, 7>(false);
/// 5 bits of exponent with bias 15, 2 of fraction.
pub(super) static E5M2: [f32; 256] = table::<2, 15>(true);

/// `F` bits of fraction, and the exponent's bias; whether its largest exponent is for infinity and NaN alone.
const fn table<const F: u32, const BIAS: u32>(infinite: bool) -> [f32; 256] {
    let mut all = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        let (sign, rest) = ((code & 0x80) << 24, code & 0x7f);
        let (exponent, fraction) = (rest >> F, rest & ((1 << F) - 1));
        let nan = if infinite { rest > 0x7c } else { rest == 0x7f };
        let magnitude = match exponent {
            _ if nan => 0x7fc0_0000 | fraction << (23 - F),
            31 if infinite => 0x7f80_0000,
            // Below the smallest exponent: a whole number of the smallest steps.
            0 => (fraction as f32 / (1u64 << (BIAS - 1 + F)) as f32).to_bits(),
            _ => (exponent + 127 - BIAS) << 23 | fraction << (23 - F),
        };
        all[code as usize] = f32::from_bits(sign | magnitude);
        code += 1;
    }
    all
}
