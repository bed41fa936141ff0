//! Elementwise functions of one number.

use crate::exec::Call;
use crate::isa::for_each_isa;
use crate::math;
use crate::ops::rows::by_rows;
use hob_graph::Unary;

/// Writes f of each x.
type Kernel = fn(&[f32], &mut [f32]);

/// Runs the node of `c`.
pub fn run(c: &mut Call, f: Unary) {
    let x = c.x(0).f32s();
    let (kernel, cost): (Kernel, usize) = match f {
        Unary::Neg => (neg, 1),
        Unary::Exp => (exp, 4),
        Unary::Log => (log, 16),
        Unary::Sqrt => (sqrt, 2),
        Unary::Recip => (recip, 2),
        Unary::Sin => (sin, 4),
        Unary::Cos => (cos, 4),
        Unary::Tanh => (tanh, 4),
        Unary::Sigmoid => (sigmoid, 4),
        Unary::Erf => (erf, 4),
        Unary::Relu => (relu, 1),
        Unary::Step => (step, 1),
    };
    by_rows(&c.cpu.pool, c.out, 1, cost, |first, y, _| kernel(&x[first..], y));
}

macro_rules! elementwise {
    ($($name:ident: $f:expr;)*) => {
        $(for_each_isa! {
            fn $name(x: &[f32], y: &mut [f32]) {
                y.iter_mut().zip(x).for_each(|(y, x)| *y = $f(*x));
            }
        })*
    };
}

elementwise! {
    neg: |x: f32| -x;
    exp: math::exp;
    log: f32::ln;
    sqrt: f32::sqrt;
    recip: |x: f32| 1.0 / x;
    sin: |x| math::sin_cos(x).0;
    cos: |x| math::sin_cos(x).1;
    tanh: math::tanh;
    sigmoid: math::sigmoid;
    erf: math::erf;
    relu: |x: f32| if x < 0.0 { 0.0 } else { x };
    step: |x: f32| if x > 0.0 { 1.0 } else { 0.0 };
}
