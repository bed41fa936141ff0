//! From logits to a token: the usual chain of penalties, cuts and chance.

use hob_cpu::{for_each_isa, math};
use std::collections::{HashMap, VecDeque};

/// How the next token is chosen. The order is that of llama.cpp: biases, penalties, top-k, top-p, min-p, temperature.
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
    /// taken once from logits of tokens the answer has, as OpenAI's API defines it; 0 for none
    pub presence_penalty: f32,
    /// taken from a token's logit each time the answer has it, likewise; 0 for none
    pub frequency_penalty: f32,
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
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
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
            ("presence_penalty", self.presence_penalty, f32::MIN..=f32::MAX, "a number"),
            ("frequency_penalty", self.frequency_penalty, f32::MIN..=f32::MAX, "a number"),
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
    /// what is added to logits
    bias: Vec<(u32, f32)>,
    random: SplitMix,
    recent: VecDeque<u32>,
    /// how often the answer has each token
    said: HashMap<u32, u32>,
    altered: Vec<f32>,
    /// (logit, then probability; token)
    kept: Vec<(f32, u32)>,
}

impl Sampler {
    /// A sampler at its first token.
    pub fn new(how: Sampling) -> Sampler {
        Sampler::with_bias(how, Vec::new())
    }

    /// The same, which adds to the logits of some tokens first.
    pub fn with_bias(how: Sampling, bias: Vec<(u32, f32)>) -> Sampler {
        let (recent, said) = (VecDeque::new(), HashMap::new());
        Sampler { how, bias, random: SplitMix(how.seed), recent, said, altered: Vec::new(), kept: Vec::new() }
    }

    /// Tells of the prompt, whose last tokens count as recent.
    pub fn prompt(&mut self, ids: &[u32]) {
        let last = ids.len().saturating_sub(self.how.repeat_last_n);
        ids[last..].iter().for_each(|&id| self.recall(id));
    }

    /// Counts a token that was chosen.
    pub fn accept(&mut self, id: u32) {
        self.recall(id);
        if self.how.presence_penalty != 0.0 || self.how.frequency_penalty != 0.0 {
            *self.said.entry(id).or_default() += 1;
        }
    }

    fn recall(&mut self, id: u32) {
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
        if self.bias.is_empty() && self.recent.is_empty() && self.said.is_empty() {
            return self.choose(logits);
        }
        let mut altered = std::mem::take(&mut self.altered);
        altered.clear();
        altered.extend_from_slice(logits);
        self.alter(&mut altered);
        let id = self.choose(&altered);
        self.altered = altered;
        id
    }

    fn alter(&self, logits: &mut [f32]) {
        let how = &self.how;
        for &(id, more) in &self.bias {
            if let Some(l) = logits.get_mut(id as usize) {
                *l += more;
            }
        }
        for (i, &id) in self.recent.iter().enumerate() {
            if self.recent.iter().take(i).any(|r| *r == id) {
                continue; // once, however often it came
            }
            if let Some(l) = logits.get_mut(id as usize) {
                *l = if *l > 0.0 { *l / how.repeat_penalty } else { *l * how.repeat_penalty };
            }
        }
        for (&id, &times) in &self.said {
            if let Some(l) = logits.get_mut(id as usize) {
                *l -= how.presence_penalty + how.frequency_penalty * times as f32;
            }
        }
    }

    fn choose(&mut self, logits: &[f32]) -> u32 {
        let how = self.how;
        if how.temperature == 0.0 {
            return argmax(logits);
        }
        let best = largest(logits);
        if !best.is_finite() {
            return argmax(logits);
        }
        let kept = &mut self.kept;
        kept.clear();
        let order = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        let least = if how.min_p > 0.0 { best + how.min_p.ln() } else { f32::NEG_INFINITY };
        if how.top_k > 0 && how.top_k < logits.len() {
            likeliest(logits, how.top_k, kept);
        } else {
            // What is less likely by e^-25 than the best is not chosen in a lifetime. Top-p looks at what min-p drops.
            let least = if how.top_p < 1.0 { f32::NEG_INFINITY } else { least };
            above(logits, least.max(best - 25.0 * how.temperature.max(1.0)), kept);
        }
        if how.top_p < 1.0 {
            let total: f32 = kept.iter().map(|l| math::exp(l.0 - best)).sum();
            // Mostly a few reach p together, so not all are put in order.
            let mut ordered = 0;
            let mut sum = 0.0;
            let enough = 'all: loop {
                let next = (ordered + 64 + ordered).min(kept.len());
                if next < kept.len() {
                    kept[ordered..].select_nth_unstable_by(next - ordered, order);
                }
                kept[ordered..next].sort_unstable_by(order);
                for (i, l) in kept[ordered..next].iter().enumerate() {
                    sum += math::exp(l.0 - best);
                    if sum >= how.top_p * total {
                        break 'all ordered + i + 1;
                    }
                }
                if next == kept.len() {
                    break next;
                }
                ordered = next;
            };
            kept.truncate(enough);
        }
        kept.retain(|l| l.0 >= least);
        let mut total = 0.0;
        for l in &mut *kept {
            l.0 = math::exp((l.0 - best) / how.temperature);
            total += l.0;
        }
        let mut left = self.random.next() * total;
        for l in &*kept {
            left -= l.0;
            if left < 0.0 {
                return l.1;
            }
        }
        argmax(logits) // rounding left a crumb: the likeliest
    }
}

/// The largest; the first of several.
pub fn argmax(logits: &[f32]) -> u32 {
    let best = largest(logits);
    logits.iter().position(|l| *l == best).unwrap_or(0) as u32
}

/// The natural logarithm of the probability of `id` under logits `(V)`, and the `n` likeliest tokens with theirs.
pub fn logprobs(logits: &[f32], id: u32, n: usize) -> (f32, Vec<(u32, f32)>) {
    let best = largest(logits);
    let all = best + sum_exp(logits, best).ln();
    let mut kept = Vec::new();
    likeliest(logits, n, &mut kept);
    kept.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let of = logits.get(id as usize).map_or(f32::NEG_INFINITY, |l| l - all);
    (of, kept.into_iter().map(|(l, id)| (id, l - all)).collect())
}

for_each_isa! {
    /// The largest number; NaN is none.
    fn largest(x: &[f32]) -> f32 {
        let (eights, rest) = x.as_chunks::<32>();
        let mut most = [f32::NEG_INFINITY; 32];
        for x in eights {
            for i in 0..32 {
                most[i] = if x[i] > most[i] { x[i] } else { most[i] };
            }
        }
        most.iter().chain(rest).fold(f32::NEG_INFINITY, |m, x| if *x > m { *x } else { m })
    }
}

for_each_isa! {
    /// Σ e^(x - best) without what is NaN.
    fn sum_exp(x: &[f32], best: f32) -> f32 {
        let (eights, rest) = x.as_chunks::<32>();
        let one = |x: f32| if x.is_nan() { 0.0 } else { math::exp(x - best) };
        let mut sums = [0.0; 32];
        for x in eights {
            for i in 0..32 {
                sums[i] += one(x[i]);
            }
        }
        sums.iter().sum::<f32>() + rest.iter().map(|x| one(*x)).sum::<f32>()
    }
}

for_each_isa! {
    /// Adds those of at least `least` to `kept`.
    fn above(x: &[f32], least: f32, kept: &mut Vec<(f32, u32)>) {
        for (n, x) in x.chunks(32).enumerate() {
            if x.iter().fold(false, |any, x| any | (*x >= least)) {
                let those = x.iter().enumerate().filter(|x| *x.1 >= least);
                kept.extend(those.map(|(i, x)| (*x, (n * 32 + i) as u32)));
            }
        }
    }
}

/// Puts the `k` largest into `kept`, in no order; the first of several that are the same.
fn likeliest(x: &[f32], k: usize, kept: &mut Vec<(f32, u32)>) {
    let order = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
    let mut least = f32::NEG_INFINITY;
    for (n, part) in x.chunks(1024).enumerate() {
        let from = kept.len();
        above(part, least, kept);
        kept[from..].iter_mut().for_each(|l| l.1 += n as u32 * 1024);
        if kept.len() > k && k > 0 {
            kept.select_nth_unstable_by(k - 1, order);
            kept.truncate(k);
            least = kept[k - 1].0;
        }
    }
    kept.truncate(k);
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
                let _ = Sampler::new(how).sample(&logits);
            }
        }
        assert!(Sampling { top_p: f32::NAN, ..all() }.check().is_err());
        assert!(Sampling { temperature: -1.0, ..all() }.check().is_err());
        assert!(Sampling::default().check().is_ok());
    }
}
