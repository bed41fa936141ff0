//! Products of quantized weights and activations in whole numbers.
//!
//! [`format`] and [`grids`] say once what each format's blocks unpack to; the kernels are generic over it and compiled
//! for each instruction set. There are two regimes. With few tokens, [`Kernels::rows`] streams the weights and unpacks them in
//! registers. With many, [`Kernels::unpack`] lays a panel of rows out for [`Kernels::tile`], which multiplies it with
//! all tokens while it is in cache.

pub(crate) mod acts;
#[cfg(target_arch = "aarch64")]
mod arm;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avxvnni;
pub(crate) mod format;
mod grids;
#[cfg(all(test, target_arch = "x86_64"))]
mod model;
#[cfg(target_arch = "aarch64")]
mod neon;
pub(crate) mod packed;
mod portable;
#[cfg(test)]
pub(crate) mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86_blocks;
#[cfg(target_arch = "x86_64")]
mod x86_few;
#[cfg(target_arch = "x86_64")]
mod x86_kernels;
#[cfg(target_arch = "x86_64")]
mod x86_packed;

use crate::isa::Isa;
use acts::Acts;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::in_order;
use hob_dtype::DType;

/// The most tokens [`Kernels::rows`] takes at once.
pub(crate) const MAX_FEW: usize = 8;

/// Rows of weights unpacked for a tile. `R` stands for [`Kernels::panel_rows`].
pub(crate) struct Panel<'a> {
    /// `(K/4, R, 4)`: four consecutive values of each row
    pub q: &'a mut [u8],
    /// `(K/32, R)`, or `(K/16, R)` for split formats: scales
    pub d: &'a mut [f32],
    /// likewise: addends
    pub m: &'a mut [f32],
}

/// Where a kernel writes: element `(token, row)` lies at `at + token · stride + row`.
#[derive(Clone, Copy)]
pub(crate) struct Out {
    pub at: *mut f32,
    pub stride: usize,
}

/// Which part of the activations a tile takes.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    /// number of the tile of tokens
    pub tile: usize,
    /// tokens of it that are wanted
    pub tokens: usize,
    /// first group of 32 along K
    pub first: usize,
    /// groups, as many as the panel holds
    pub groups: usize,
    /// whether to add to what is there
    pub accumulate: bool,
}

/// The kernels of one format on one instruction set. They demand that the processor has the instruction set.
#[derive(Clone, Copy)]
pub(crate) struct Kernels {
    /// rows of a panel
    pub panel_rows: usize,
    /// tokens of a tile
    pub tile_tokens: usize,
    /// from so many tokens on tiles are faster than rows; at most `MAX_FEW`
    pub many: usize,
    /// scales per group of 32: 1, or 2 for split formats
    pub scales: usize,
    /// `(rows of weights, activations in tiles of one token, out)`: products of all rows with all tokens, at most
    /// [`MAX_FEW`]. `out` must be writable for them.
    pub rows: unsafe fn(&[u8], &Acts, Out),
    /// `(rows of weights, bytes of a row, first group, groups, panel)`: unpacks; where rows are missing to a whole
    /// panel the last is repeated. The panel must have room.
    pub unpack: unsafe fn(&[u8], usize, usize, usize, &mut Panel),
    /// `(panel, activations in tiles of tile_tokens, part, out)`: products of the panel's rows with a tile's tokens.
    /// `out` must be writable for whole panels.
    pub tile: unsafe fn(&Panel, &Acts, Part, Out),
    /// kernels over weights laid out anew, where there are any
    pub direct: Option<Direct>,
}

/// See [`Direct::blocks`].
type ToBlocks = unsafe fn(&[u8], usize, usize, usize, usize, *mut u8);

/// The kernels over weights laid out anew: see [`packed`].
#[derive(Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(crate) struct Direct {
    /// up to so many tokens `run` is faster than unpacking for a tile
    pub most: usize,
    /// `(panels of 16 rows, activations, number of the tile, tokens of it that are wanted, out)`: products of all rows
    /// with the tokens of a tile, which has one or [`Kernels::tile_tokens`]. `out` must be writable for them.
    pub run: unsafe fn(&[u8], &Acts, usize, usize, Out),
    /// `(all panels, first row, groups of a row, first group, groups, panel)`: as [`Kernels::unpack`]
    pub unpack: unsafe fn(&[u8], usize, usize, usize, usize, &mut Panel),
    /// `(all panels, first row, groups of a row, first group, groups, blocks)`: decodes 32 rows to blocks of bf16, in one part
    /// or in two, where the instruction set has AMX; see [`x86_blocks::decode`]
    pub blocks: Option<[ToBlocks; 2]>,
}

/// A format whose weights may be laid out anew on this architecture.
#[cfg(target_arch = "x86_64")]
pub(crate) trait Packs: packed::Packed + x86::Unpack {}
#[cfg(target_arch = "x86_64")]
impl<F: packed::Packed + x86::Unpack> Packs for F {}
/// A format whose weights may be laid out anew on this architecture.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) trait Packs: packed::Packed {}
#[cfg(not(target_arch = "x86_64"))]
impl<F: packed::Packed> Packs for F {}

/// The integer kernels for a format, where there are any.
pub(crate) fn kernels(dtype: DType, isa: Isa) -> Option<Kernels> {
    use {format::*, grids::*};
    macro_rules! by_format {
        ($($format:ident)*) => {
            match dtype {
                $(DType::$format => of::<$format>(isa),)*
                _ => return None,
            }
        };
    }
    let of = by_format!(Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS MXFP4
        IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S IQ1_S IQ1_M TQ1_0 TQ2_0);
    Some(Kernels { direct: direct(dtype, isa), ..of })
}

#[cfg(target_arch = "x86_64")]
fn direct(dtype: DType, isa: Isa) -> Option<Direct> {
    use format::*;
    packed::with_packed!(dtype, F => match isa {
        Isa::Amx => {
            let blocks = Some([x86_blocks::decode::<F, 1> as _, x86_blocks::decode::<F, 2> as _]);
            Some(Direct { blocks, ..avx512::direct::<F>() })
        }
        Isa::Avx512 => Some(avx512::direct::<F>()),
        Isa::AvxVnni => Some(avxvnni::direct::<F>()),
        Isa::Avx2 => Some(avx2::direct::<F>()),
        _ => None,
    })?
}

#[cfg(not(target_arch = "x86_64"))]
fn direct(_: DType, _: Isa) -> Option<Direct> {
    None
}

#[cfg(target_arch = "x86_64")]
fn of<F: x86::Unpack>(isa: Isa) -> Kernels {
    match isa {
        Isa::Avx512 | Isa::Amx => avx512::kernels::<F>(),
        Isa::AvxVnni => avxvnni::kernels::<F>(),
        Isa::Avx2 => avx2::kernels::<F>(),
        _ => portable::kernels::<F>(),
    }
}

#[cfg(target_arch = "aarch64")]
fn of<F: arm::Unpack>(isa: Isa) -> Kernels {
    match isa {
        Isa::I8mm => neon::i8mm::<F>(),
        Isa::Dotprod => neon::dotprod::<F>(),
        Isa::Neon => neon::neon::<F>(),
        _ => portable::kernels::<F>(),
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn of<F: format::Format>(_: Isa) -> Kernels {
    portable::kernels::<F>()
}

/// The blocks of whole rows.
fn blocks<F: format::Format>(bytes: &[u8]) -> &[F::Block] {
    let n = size_of::<F::Block>();
    assert_eq!((bytes.len() % n, align_of::<F::Block>()), (0, 1));
    // SAFETY: blocks are arrays of bytes, and there are so many of them.
    unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / n) }
}
