//! Functions of one number, written so that loops over them become vector code.

/// e^x within 2 units in the last place; 0 below -87.3, where the result would not be normal, and infinity above 88.7.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4; // few bits, so that n · LN2_HIGH is exact
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2^23: adding it rounds to a whole number
    let shifted = x * std::f32::consts::LOG2_E + ROUND; // the last bits of this f32 count the whole number
    let n = shifted - ROUND;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW; // |r| <= ln 2 / 2
    let p = 1.987_569_1e-4f32;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_5e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let p = p * r * r + r + 1.0;
    // In two steps, as 2^128 is no f32 while p · 2^128 may be one.
    let n = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let half = n >> 1;
    let y = p * power_of_two(half) * power_of_two(n.wrapping_sub(half));
    if x < -87.3 {
        0.0
    } else if x > 88.72 {
        f32::INFINITY
    } else {
        y
    }
}

#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) << 23) as u32)
}

/// The polynomial with these coefficients, the constant one first.
#[inline(always)]
fn polynomial<const N: usize>(c: [f32; N], x: f32) -> f32 {
    c.iter().rev().fold(0.0, |y, c| y * x + c)
}

/// 1 / (1 + e^-x) within 2e-7.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The hyperbolic tangent within 3e-7 of itself.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    // tanh(x) / x by x², interpolated at the Chebyshev points of 0..0.36
    const NEAR: [f32; 6] = [1.0, -0.333_332_84, 0.133_316_8, -0.053_767_983, 0.020_751_35, -0.005_849_644];
    let near = x * polynomial(NEAR, x * x);
    let e = exp(-2.0 * x.abs());
    let far = ((1.0 - e) / (1.0 + e)).copysign(x);
    if x.abs() < 0.6 { near } else { far }
}

/// The error function within 2e-7.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    // erf(x) / x by x², and e^x² · (1 - erf(x)) by 1 / (1 + 0.4 x), interpolated at the Chebyshev points of 0..1
    // and of what 1..4 gives
    const NEAR: [f32; 7] = [
        std::f32::consts::FRAC_2_SQRT_PI,
        -0.376_126_38,
        0.112_837_54,
        -0.026_861_7,
        0.005_204_579,
        -0.000_816_198_65,
        0.000_083_797_55,
    ];
    const FAR: [f32; 8] = [
        -0.000_328_121_4,
        0.230_238_23,
        0.199_174_88,
        0.289_115_3,
        0.036_972_646,
        0.211_973_12,
        0.114_114_03,
        -0.081_375_51,
    ];
    let near = x * polynomial(NEAR, x * x);
    let z = x.abs().min(4.0); // from there on the result is 1
    let far = (1.0 - exp(-z * z) * polynomial(FAR, 1.0 / (1.0 + 0.4 * z))).copysign(x);
    // A NaN takes the first branch, as the second would lose it.
    if x.abs() > 1.0 { far } else { near }
}

/// Sine and cosine of an angle in radians within 2e-7, for angles up to a million.
#[inline(always)]
pub fn sin_cos(x: f32) -> (f32, f32) {
    const ROUND: f64 = 6_755_399_441_055_744.0; // 1.5 · 2^52: adding it rounds to a whole number
    // sin(r) / r and cos(r) by r², interpolated at the Chebyshev points of 0..(π/4)²
    const SIN: [f32; 5] = [1.0, -0.166_666_67, 0.008_333_329, -0.000_198_392_02, 2.717_342_6e-6];
    const COS: [f32; 5] = [1.0, -0.5, 0.041_666_616, -0.001_388_661_8, 2.437_979_7e-5];
    let shifted = x as f64 * std::f64::consts::FRAC_2_PI + ROUND;
    let quarter = shifted.to_bits() as u32; // the last bits of this f64 count the quarter turns
    let r = (x as f64 - (shifted - ROUND) * std::f64::consts::FRAC_PI_2) as f32;
    let (sin, cos) = (r * polynomial(SIN, r * r), polynomial(COS, r * r));
    let (sin, cos) = if quarter & 1 == 0 { (sin, cos) } else { (cos, -sin) };
    if quarter & 2 == 0 { (sin, cos) } else { (-sin, -cos) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        for i in -870_000..887_000 {
            let x = i as f32 * 1e-4;
            let right = (x as f64).exp();
            let unit = f32::EPSILON as f64 * right;
            assert!((exp(x) as f64 - right).abs() <= 2.0 * unit, "e^{x} is {right}, not {}", exp(x));
        }
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-1000.0), 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(100.0), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
    }

    /// Largest distance of `f` from `right` at a million points of `low..high`, and where it is.
    fn worst(low: f32, high: f32, f: fn(f32) -> f32, right: fn(f64) -> f64, relative: bool) -> f64 {
        let distance = |i: u32| {
            let x = low + (high - low) * (i as f32 / 1e6);
            let y = right(x as f64);
            (f(x) as f64 - y).abs() / if relative { y.abs().max(1e-30) } else { 1.0 }
        };
        (0..=1_000_000).map(distance).fold(0.0, |m, d| if d.is_nan() { d } else { m.max(d) })
    }

    #[test]
    fn the_others_are_near_what_they_should_be() {
        assert!(worst(-30.0, 30.0, sigmoid, |x| 1.0 / (1.0 + (-x).exp()), false) < 2e-7);
        assert!(worst(-12.0, 12.0, tanh, f64::tanh, true) < 3e-7);
        let w = worst(-6.0, 6.0, erf, crate::reference::erf, false);
        assert!(w < 2e-7, "{w}");
        assert!(worst(-0.5, 0.5, erf, crate::reference::erf, true) < 3e-7);
        assert!(worst(-10.0, 10.0, |x| sin_cos(x).0, f64::sin, false) < 2e-7);
        assert!(worst(-10.0, 10.0, |x| sin_cos(x).1, f64::cos, false) < 2e-7);
        assert!(worst(-1e6, 1e6, |x| sin_cos(x).0, f64::sin, false) < 2e-7);
        assert!(worst(-1e6, 1e6, |x| sin_cos(x).1, f64::cos, false) < 2e-7);
    }

    #[test]
    fn the_ends_are_right() {
        let inf = f32::INFINITY;
        assert_eq!([sigmoid(-inf), sigmoid(-100.0), sigmoid(0.0), sigmoid(inf)], [0.0, 0.0, 0.5, 1.0]);
        assert_eq!([tanh(-inf), tanh(-50.0), tanh(0.0), tanh(inf)], [-1.0, -1.0, 0.0, 1.0]);
        assert_eq!([erf(-inf), erf(-50.0), erf(0.0), erf(inf)], [-1.0, -1.0, 0.0, 1.0]);
        assert_eq!(sin_cos(0.0), (0.0, 1.0));
        assert!([sigmoid, tanh, erf].iter().all(|f| f(f32::NAN).is_nan()));
    }
}
