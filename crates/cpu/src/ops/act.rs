//! Activations.

use crate::exec::Call;
use crate::isa::for_each_width;
use crate::math;
use crate::ops::rows::by_rows;
use hob_graph::Act;

/// Work of an activation in elements merely moved.
pub const COST: usize = 4;

/// Runs the node of `c`.
pub fn run(c: &mut Call, act: Act) {
    let x = c.x(0).f32s();
    let kernel = match act {
        Act::Silu => silus,
        Act::GeluTanh => gelus_tanh,
        Act::Gelu => gelus,
        Act::GeluQuick => gelus_quick,
    };
    by_rows(&c.cpu.pool, c.out, 1, COST, |first, y, _| kernel(&x[first..][..y.len()], y));
}

/// x · sigmoid(x)
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x * math::sigmoid(x)
}

/// x · Φ(x), by tanh
#[inline(always)]
pub fn gelu_tanh(x: f32) -> f32 {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    0.5 * x * (1.0 + math::tanh(SQRT_2_OVER_PI * (x + 0.044715 * x * x * x)))
}

/// x · Φ(x), by the error function
#[inline(always)]
pub fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + math::erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// x · sigmoid(1.702 x)
#[inline(always)]
pub fn gelu_quick(x: f32) -> f32 {
    x * math::sigmoid(1.702 * x)
}

for_each_width! {
    fn silus(x: &[f32], y: &mut [f32]) {
        y.iter_mut().zip(x).for_each(|(y, x)| *y = silu(*x));
    }
}

for_each_width! {
    fn gelus_tanh(x: &[f32], y: &mut [f32]) {
        y.iter_mut().zip(x).for_each(|(y, x)| *y = gelu_tanh(*x));
    }
}

for_each_width! {
    fn gelus(x: &[f32], y: &mut [f32]) {
        y.iter_mut().zip(x).for_each(|(y, x)| *y = gelu(*x));
    }
}

for_each_width! {
    fn gelus_quick(x: &[f32], y: &mut [f32]) {
        y.iter_mut().zip(x).for_each(|(y, x)| *y = gelu_quick(*x));
    }
}
