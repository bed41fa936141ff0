//! Number formats of weights: names, block sizes and exact decoding.
//!
//! One table serves everybody: `io` sizes tensors with it, `graph` plans bytes with it, the backends decode and
//! multiply by it. Formats are those of GGUF (ggml's numbering), which include the plain floats of safetensors, and the
//! latter's floats of 8 bits.

mod decode;
mod encode;

pub use decode::iq_grids;

/// How the values of a tensor are stored. Quantized formats store blocks along the last dimension.
#[allow(non_camel_case_types, missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    F32,
    F16,
    BF16,
    F64,
    I8,
    I16,
    I32,
    I64,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q8_1,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    Q8_K,
    IQ1_S,
    IQ1_M,
    IQ2_XXS,
    IQ2_XS,
    IQ2_S,
    IQ3_XXS,
    IQ3_S,
    IQ4_NL,
    IQ4_XS,
    TQ1_0,
    TQ2_0,
    MXFP4,
    F8_E4M3,
    F8_E5M2,
}

use DType::*;

/// In the place of a number, for formats that ggml does not have.
const NOT_GGML: u32 = u32::MAX;

/// `(dtype, ggml's type number, name, values per block, bytes per block)`: the one table of formats.
const TABLE: [(DType, u32, &str, usize, usize); 34] = [
    (F32, 0, "F32", 1, 4),
    (F16, 1, "F16", 1, 2),
    (BF16, 30, "BF16", 1, 2),
    (F64, 28, "F64", 1, 8),
    (I8, 24, "I8", 1, 1),
    (I16, 25, "I16", 1, 2),
    (I32, 26, "I32", 1, 4),
    (I64, 27, "I64", 1, 8),
    (Q4_0, 2, "Q4_0", 32, 18),
    (Q4_1, 3, "Q4_1", 32, 20),
    (Q5_0, 6, "Q5_0", 32, 22),
    (Q5_1, 7, "Q5_1", 32, 24),
    (Q8_0, 8, "Q8_0", 32, 34),
    (Q8_1, 9, "Q8_1", 32, 36),
    (Q2_K, 10, "Q2_K", 256, 84),
    (Q3_K, 11, "Q3_K", 256, 110),
    (Q4_K, 12, "Q4_K", 256, 144),
    (Q5_K, 13, "Q5_K", 256, 176),
    (Q6_K, 14, "Q6_K", 256, 210),
    (Q8_K, 15, "Q8_K", 256, 292),
    (IQ1_S, 19, "IQ1_S", 256, 50),
    (IQ1_M, 29, "IQ1_M", 256, 56),
    (IQ2_XXS, 16, "IQ2_XXS", 256, 66),
    (IQ2_XS, 17, "IQ2_XS", 256, 74),
    (IQ2_S, 22, "IQ2_S", 256, 82),
    (IQ3_XXS, 18, "IQ3_XXS", 256, 98),
    (IQ3_S, 21, "IQ3_S", 256, 110),
    (IQ4_NL, 20, "IQ4_NL", 32, 18),
    (IQ4_XS, 23, "IQ4_XS", 256, 136),
    (TQ1_0, 34, "TQ1_0", 256, 54),
    (TQ2_0, 35, "TQ2_0", 256, 66),
    (MXFP4, 39, "MXFP4", 32, 17),
    (F8_E4M3, NOT_GGML, "F8_E4M3", 1, 1),
    (F8_E5M2, NOT_GGML, "F8_E5M2", 1, 1),
];

impl DType {
    /// Every format, in the table's order.
    pub fn all() -> impl Iterator<Item = DType> {
        TABLE.iter().map(|row| row.0)
    }

    const fn row(self) -> &'static (DType, u32, &'static str, usize, usize) {
        &TABLE[self as usize]
    }

    /// The format with ggml's type number `id`; `None` for numbers unknown or withdrawn.
    pub fn from_ggml(id: u32) -> Option<DType> {
        TABLE.iter().find(|row| row.1 == id && id != NOT_GGML).map(|row| row.0)
    }

    /// ggml's type number; `None` for the floats of 8 bits, which a GGUF does not hold.
    pub const fn ggml(self) -> Option<u32> {
        match self.row().1 {
            NOT_GGML => None,
            number => Some(number),
        }
    }

    /// The field's name of the format, such as `Q4_K`.
    pub const fn name(self) -> &'static str {
        self.row().2
    }

    /// Values in a block; 1 for plain numbers.
    pub const fn block(self) -> usize {
        self.row().3
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        self.row().4
    }

    /// Bytes of `n` values, or `None` when `n` is no whole number of blocks or the size overflows.
    pub const fn bytes(self, n: usize) -> Option<usize> {
        if n.is_multiple_of(self.block()) { (n / self.block()).checked_mul(self.block_bytes()) } else { None }
    }

    /// Whether it is one of the floats of 8 bits.
    pub const fn is_float8(self) -> bool {
        matches!(self, F8_E4M3 | F8_E5M2)
    }

    /// Whether values share scales in blocks.
    pub const fn is_quantized(self) -> bool {
        self.block() > 1
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_enum() {
        for (i, d) in DType::all().enumerate() {
            assert_eq!(d as usize, i);
            assert_eq!(d.ggml().and_then(DType::from_ggml), d.ggml().map(|_| d));
        }
        assert_eq!(DType::from_ggml(u32::MAX), None);
    }
}
