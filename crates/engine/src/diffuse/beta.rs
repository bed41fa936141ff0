//! Quantiles of the Beta distribution with alpha = beta = 0.6 ("Beta Sampling is All You Need", Lee et al. 2024).

const A: f64 = 0.6;

/// The number below which a share `p` of the distribution lies; exact to about 1e-15.
pub(super) fn quantile(p: f64) -> f64 {
    // It is symmetric, and the series below is quick up to a half.
    if p > 0.5 {
        return 1.0 - quantile(1.0 - p);
    }
    if p == 0.5 {
        return 0.5; // exactly, since callers round it
    }
    // Halving in x^0.6, in which the distribution is nearly a straight line.
    let (mut low, mut high) = (0.0, 0.5f64.powf(A));
    for _ in 0..64 {
        let middle = 0.5 * (low + high);
        match share(middle) < p {
            true => low = middle,
            false => high = middle,
        }
    }
    (0.5 * (low + high)).powf(1.0 / A)
}

/// The share below x = u^(1 / 0.6) <= 1/2: x^a / B(a, b) · Σ (1 - b)_k x^k / (k! (a + k)).
fn share(u: f64) -> f64 {
    /// B(0.6, 0.6)
    const B: f64 = 2.4153442080024723;
    let x = u.powf(1.0 / A);
    let (mut factor, mut sum) = (1.0, 1.0 / A);
    for k in 1..60 {
        let k = f64::from(k);
        factor *= (k - A) / k * x;
        sum += factor / (A + k);
    }
    u * sum / B
}

#[cfg(test)]
mod tests {
    #[test]
    fn quantiles_are_those_of_scipy() {
        for (p, want) in [
            (0.0, 0.0),
            (0.001, 1.855873851745199e-05),
            (0.05, 0.012554456873611399),
            (0.3, 0.23401700387523572),
            (0.5, 0.5000000000000001),
            (0.62, 0.6640040839814274),
            (0.9, 0.9604155944112192),
            (0.999, 0.9999814412614826),
            (1.0, 1.0),
        ] {
            let got = super::quantile(p);
            assert!((got - want).abs() <= 4e-15 * want.max(1e-3), "{p}: {got} {want}");
        }
    }
}
