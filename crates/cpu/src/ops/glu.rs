//! `act(gate) · up`

use crate::exec::Call;
use crate::isa::for_each_width;
use crate::ops::act::{COST, gelu, gelu_quick, gelu_tanh, silu};
use crate::ops::rows::by_rows;
use hob_graph::Act;

/// Runs the node of `c`.
pub fn run(c: &mut Call, act: Act) {
    let (gate, up) = (c.x(0).f32s(), c.x(1).f32s());
    let kernel = kernel(act);
    by_rows(&c.cpu.pool, c.out, 1, COST, |first, y, _| kernel(&gate[first..], &up[first..], y));
}

/// `(gate, up, y)`: y = act(gate) · up.
pub fn kernel(act: Act) -> fn(&[f32], &[f32], &mut [f32]) {
    match act {
        Act::Silu => by_silu,
        Act::GeluTanh => by_gelu_tanh,
        Act::Gelu => by_gelu,
        Act::GeluQuick => by_gelu_quick,
    }
}

for_each_width! {
    fn by_silu(gate: &[f32], up: &[f32], y: &mut [f32]) {
        y.iter_mut().zip(gate).zip(up).for_each(|((y, gate), up)| *y = silu(*gate) * up);
    }
}

for_each_width! {
    fn by_gelu_tanh(gate: &[f32], up: &[f32], y: &mut [f32]) {
        y.iter_mut().zip(gate).zip(up).for_each(|((y, gate), up)| *y = gelu_tanh(*gate) * up);
    }
}

for_each_width! {
    fn by_gelu(gate: &[f32], up: &[f32], y: &mut [f32]) {
        y.iter_mut().zip(gate).zip(up).for_each(|((y, gate), up)| *y = gelu(*gate) * up);
    }
}

for_each_width! {
    fn by_gelu_quick(gate: &[f32], up: &[f32], y: &mut [f32]) {
        y.iter_mut().zip(gate).zip(up).for_each(|((y, gate), up)| *y = gelu_quick(*gate) * up);
    }
}
