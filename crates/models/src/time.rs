//! Numbers as waves: the steps of diffusion, sizes of pictures and strengths of guidance, as channels of sines and cosines.

use hob_graph::{Unary, X};

/// Which half comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flip {
    /// sines, then cosines
    Sines,
    /// cosines, then sines: `flip_sin_to_cos` in diffusers' configurations
    Cosines,
}

/// `t (N)` as `(N, dim)`, after diffusers' `get_timestep_embedding` with a period of 10,000 at most; `shift` is its
/// `downscale_freq_shift`.
#[track_caller]
pub fn embed(t: X<'_>, dim: usize, flip: Flip, shift: f32) -> X<'_> {
    let (n, half) = (t.dim(0), dim / 2);
    let step = -(10_000f32.ln()) / (half as f32 - shift);
    let frequencies = (0..half).map(|i| (i as f32 * step).exp()).collect();
    let angle = t.reshape(&[n, 1]) * t.builder().constant(frequencies); // (N, dim / 2)
    let (sin, cos) = (angle.unary(Unary::Sin), angle.unary(Unary::Cos));
    let waves = match flip {
        Flip::Sines => sin.concat(1, &[cos]),
        Flip::Cosines => cos.concat(1, &[sin]),
    };
    if dim % 2 == 1 { waves.pad(1, 0, 1) } else { waves }
}
