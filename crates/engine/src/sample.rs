//! From logits to a token: the usual chain of penalties, cuts and chance.

use std::collections::VecDeque;

/// How the next token is chosen. The order is that of llama.cpp: penalty, top-k, top-p, min-p, temperature.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// logits are divided by it; 0 takes the likeliest token
    pub temperature: f32,
    /// only the k likeliest; 0 for all
    pub top_k: usize,
    /// the likeliest whose probabilities reach p together (Holtzman et al. 2019); 1 for all
    pub top_p: f32,
    /// those at least p times as likely as the likeliest (Nguyen et al. 2024); 0 for all
    pub min_p: f32,
    /// positive logits of recent tokens are divided by it, negative ones multiplied (Keskar et al. 2019); 1 for none
    pub repeat_penalty: f32,
    /// tokens that count as recent
    pub repeat_last_n: usize,
    /// where chance begins: the same seed gives the same text
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            seed: 0,
        }
    }
}

impl Sampling {
    /// Always the likeliest token.
    pub fn greedy() -> Sampling {
        Sampling { temperature: 0.0, ..Sampling::default() }
    }

    /// What is wrong with the settings, if anything.
    pub fn check(&self) -> Result<(), String> {
        let named = [
            ("--temperature", self.temperature, 0.0..=f32::MAX, "0 or more"),
            ("--top-p", self.top_p, f32::MIN_POSITIVE..=1.0, "above 0 and at most 1"),
            ("--min-p", self.min_p, 0.0..=1.0, "from 0 to 1"),
            ("--repeat-penalty", self.repeat_penalty, f32::MIN_POSITIVE..=f32::MAX, "above 0"),
        ];
        match named.iter().find(|(_, x, range, _)| !range.contains(x)) {
            Some((name, x, _, range)) => Err(format!("{name} is {x}, and must be {range}")),
            None => Ok(()),
        }
    }
}

/// Chooses tokens one after another.
pub struct Sampler {
    how: Sampling,
    random: SplitMix,
    recent: VecDeque<u32>,
    /// (logit, then probability; token)
    kept: Vec<(f32, u32)>,
}

impl Sampler {
    /// A sampler at its first token.
    pub fn new(how: Sampling) -> Sampler {
        Sampler { how, random: SplitMix(how.seed), recent: VecDeque::new(), kept: Vec::new() }
    }

    /// Counts a token as recent: the prompt's, and those chosen.
    pub fn accept(&mut self, id: u32) {
        if self.how.repeat_penalty == 1.0 || self.how.repeat_last_n == 0 {
            return;
        }
        if self.recent.len() == self.how.repeat_last_n {
            self.recent.pop_front();
        }
        self.recent.push_back(id);
    }

    /// The next token, given logits `(V)`; what is NaN is never chosen. Count it with [`Sampler::accept`].
    pub fn sample(&mut self, logits: &[f32]) -> u32 {
        let how = self.how;
        if how.temperature == 0.0 && self.recent.is_empty() {
            return argmax(logits);
        }
        self.kept.clear();
        self.kept.extend(logits.iter().enumerate().filter(|l| !l.1.is_nan()).map(|(i, l)| (*l, i as u32)));
        for i in 0..self.recent.len() {
            let id = self.recent[i];
            if self.recent.iter().take(i).any(|r| *r == id) {
                continue; // once, however often it came
            }
            if let Some(l) = self.kept.get_mut(id as usize).filter(|l| l.1 == id) {
                l.0 = if l.0 > 0.0 { l.0 / how.repeat_penalty } else { l.0 * how.repeat_penalty };
            }
        }
        if how.temperature == 0.0 {
            return self.kept.iter().fold((f32::NEG_INFINITY, 0), |m, l| if l.0 > m.0 { *l } else { m }).1;
        }
        let order = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        if how.top_k > 0 && how.top_k < self.kept.len() {
            self.kept.select_nth_unstable_by(how.top_k - 1, order);
            self.kept.truncate(how.top_k);
        }
        let best = self.kept.iter().fold(f32::NEG_INFINITY, |m, l| m.max(l.0));
        if how.min_p > 0.0 {
            let least = best + how.min_p.ln();
            // top-p looks at all that top-k left, so what min-p will drop is kept for its sums.
            if how.top_p >= 1.0 {
                self.kept.retain(|l| l.0 >= least);
            }
        }
        self.kept.sort_unstable_by(order);
        if how.top_p < 1.0 {
            let total: f32 = self.kept.iter().map(|l| (l.0 - best).exp()).sum();
            let mut sum = 0.0;
            let enough = self.kept.iter().position(|l| {
                sum += (l.0 - best).exp();
                sum >= how.top_p * total
            });
            self.kept.truncate(enough.map_or(self.kept.len(), |n| n + 1));
            if how.min_p > 0.0 {
                let least = best + how.min_p.ln();
                self.kept.retain(|l| l.0 >= least);
            }
        }
        let mut total = 0.0;
        for l in &mut self.kept {
            l.0 = ((l.0 - best) / how.temperature).exp();
            total += l.0;
        }
        let mut left = self.random.next() * total;
        for l in &self.kept {
            left -= l.0;
            if left < 0.0 {
                return l.1;
            }
        }
        self.kept.first().map_or(0, |l| l.1) // rounding left a crumb: the likeliest
    }
}

/// The largest; the first of several.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = (f32::NEG_INFINITY, 0);
    for (i, l) in logits.iter().enumerate() {
        if *l > best.0 {
            best = (*l, i);
        }
    }
    best.1 as u32
}

/// Numbers by chance (Steele et al. 2014): small, good enough for choosing words, and the same everywhere.
struct SplitMix(u64);

impl SplitMix {
    /// From 0 up to 1, without 1.
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 24) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Sampling {
        Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..Sampling::default() }
    }

    fn counts(how: Sampling, logits: &[f32], n: usize) -> Vec<usize> {
        let mut sampler = Sampler::new(how);
        let mut counts = vec![0; logits.len()];
        for _ in 0..n {
            counts[sampler.sample(logits) as usize] += 1;
        }
        counts
    }

    #[test]
    fn tokens_come_as_often_as_their_probability() {
        let p = [0.5f32, 0.3, 0.15, 0.05];
        let logits = p.map(f32::ln);
        for (count, p) in counts(all(), &logits, 20_000).iter().zip(p) {
            assert!((*count as f32 / 20_000.0 - p).abs() < 0.015, "{count} of 20000 for {p}");
        }
        // Half the temperature squares the probabilities.
        let squares: f32 = p.iter().map(|p| p * p).sum();
        let cold = counts(Sampling { temperature: 0.5, ..all() }, &logits, 20_000);
        assert!((cold[0] as f32 / 20_000.0 - 0.25 / squares).abs() < 0.015);
    }

    #[test]
    fn each_cut_leaves_what_it_should() {
        let logits = [0.5f32, 0.3, 0.15, 0.05].map(f32::ln);
        let left = |how| counts(how, &logits, 2_000).iter().filter(|c| **c > 0).count();
        assert_eq!(left(all()), 4);
        assert_eq!(left(Sampling { top_k: 2, ..all() }), 2);
        assert_eq!(left(Sampling { top_p: 0.79, ..all() }), 2);
        assert_eq!(left(Sampling { top_p: 0.81, ..all() }), 3);
        assert_eq!(left(Sampling { min_p: 0.25, ..all() }), 3);
        assert_eq!(left(Sampling { min_p: 0.35, top_p: 0.99, ..all() }), 2);
        assert_eq!(left(Sampling { temperature: 0.0, ..all() }), 1);
    }

    #[test]
    fn the_same_seed_gives_the_same_tokens() {
        let logits: Vec<f32> = (0..100).map(|i| (i as f32 * 0.7).sin()).collect();
        let run = |seed| {
            let mut s = Sampler::new(Sampling { seed, ..all() });
            (0..50).map(|_| s.sample(&logits)).collect::<Vec<_>>()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }

    #[test]
    fn repetition_is_punished_once_and_forgotten_in_time() {
        let how = Sampling { repeat_penalty: 2.0, repeat_last_n: 2, ..Sampling::greedy() };
        let logits = [1.0, 0.9, -1.0];
        let mut s = Sampler::new(how);
        s.accept(0);
        s.accept(0);
        assert_eq!(s.sample(&logits), 1);
        s.accept(1);
        s.accept(1); // 0 is no longer recent
        assert_eq!(s.sample(&logits), 0);
    }

    #[test]
    fn nothing_sensible_is_still_an_answer() {
        for logits in [vec![f32::NAN; 4], vec![f32::NEG_INFINITY; 4], vec![]] {
            for how in [all(), Sampling::greedy(), Sampling::default()] {
                Sampler::new(how).sample(&logits);
            }
        }
        assert!(Sampling { top_p: f32::NAN, ..all() }.check().is_err());
        assert!(Sampling { temperature: -1.0, ..all() }.check().is_err());
        assert!(Sampling::default().check().is_ok());
    }
}
