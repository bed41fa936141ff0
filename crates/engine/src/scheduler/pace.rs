//! How long steps take, as measured: how much of a prompt is read in one, and when a guess pays.

use crate::CHUNK;
use std::time::Duration;

/// A step that reads while others wait for their next token lasts about so long.
const SHORT: f64 = 0.05;

/// One that nobody waits for: a client that leaves is noticed between steps.
const LONG: f64 = 0.08;

/// How much older steps count less with each new one.
const FADE: f64 = 0.98;

/// What is known before anything was measured: what a token more costs, of a step of one.
const MORE: f64 = 0.1;

/// Sums over steps without reading, of (tokens, seconds), for a line through them; and the speeds of reading.
pub struct Pace {
    /// tokens of prompts that are read at the price of one: parts of prompts are as many of them
    tile: usize,
    n: f64,
    x: f64,
    xx: f64,
    y: f64,
    xy: f64,
    /// seconds a token when reading, and when logits of what is read are wanted, which may take longer than reading it
    reading: [Option<f64>; 2],
}

impl Pace {
    /// Before anything was measured; `tile` is how many tokens of prompts the kernels take together.
    pub fn new(tile: usize) -> Pace {
        Pace { tile, n: 0.0, x: 0.0, xx: 0.0, y: 0.0, xy: 0.0, reading: [None; 2] }
    }

    /// Hears that a step of `tokens` took so long, `read` of them read from prompts, and whether some were scored.
    pub fn ran(&mut self, tokens: usize, read: usize, scored: bool, took: Duration) {
        let (x, y) = (tokens as f64, took.as_secs_f64());
        if read >= self.tile {
            let speed = (y - self.base()).max(y / 4.0) / x;
            let reading = &mut self.reading[usize::from(scored)];
            let old = reading.unwrap_or(speed);
            *reading = Some(old + 0.3 * (speed - old));
        } else if read == 0 {
            for sum in [&mut self.n, &mut self.x, &mut self.xx, &mut self.y, &mut self.xy] {
                *sum *= FADE;
            }
            self.n += 1.0;
            self.x += x;
            self.xx += x * x;
            self.y += y;
            self.xy += x * y;
        }
    }

    /// Seconds that each token of a step takes.
    fn slope(&self) -> f64 {
        let (x, y) = (self.x / self.n, self.y / self.n);
        let spread = self.xx / self.n - x * x;
        // Steps that were all of about one size tell nothing.
        let guess = y * MORE / (1.0 + MORE * (x - 1.0));
        if spread < 0.5 { guess } else { ((self.xy / self.n - x * y) / spread).clamp(guess / 10.0, y / x) }
    }

    /// Seconds of a step beside its tokens.
    fn base(&self) -> f64 {
        if self.n < 1.0 { 0.0 } else { ((self.y - self.slope() * self.x) / self.n).max(0.0) }
    }

    /// The probability from which on a guess pays, in a step of `speakers` tokens: it costs time, in which others would
    /// come as well.
    pub fn worth(&self, speakers: usize) -> f64 {
        if self.n < 1.0 {
            return MORE;
        }
        let n = speakers.max(1) as f64;
        let slope = self.slope();
        slope * n / (self.base() + slope * n).max(f64::MIN_POSITIVE)
    }

    /// How many tokens of prompts to read in a step, and to score where `scored`.
    pub fn reading(&self, others_wait: bool, scored: bool) -> usize {
        let Some(each) = self.reading[usize::from(scored)] else { return CHUNK / 4 };
        let time = if others_wait { (SHORT - self.base()).max(SHORT / 4.0) } else { LONG };
        let tokens = (time / each.max(1e-9)) as usize;
        let least = if others_wait { self.tile } else { CHUNK / 8 };
        // Whole tiles, and few different graphs.
        (tokens / self.tile * self.tile).clamp(least, CHUNK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guesses_pay_where_weights_are_what_takes_time() {
        let mut pace = Pace::new(16);
        for i in 0..50 {
            let n = 1 + i % 4;
            pace.ran(n, 0, false, Duration::from_secs_f64(0.020 + 0.001 * n as f64));
        }
        assert!((pace.worth(1) - 1.0 / 21.0).abs() < 0.01, "{}", pace.worth(1));
        assert!(pace.worth(64) > 0.7);
        assert!((pace.base() - 0.020).abs() < 0.001);
    }

    #[test]
    fn steps_stay_short_while_others_wait() {
        let mut pace = Pace::new(16);
        let both = |pace: &Pace| (pace.reading(true, false), pace.reading(false, false));
        assert_eq!(both(&pace), (128, 128));
        for _ in 0..30 {
            pace.ran(128, 128, false, Duration::from_millis(128));
        }
        assert_eq!(both(&pace), (48, 80));
        // Prompts that are scored take longer, which changes nothing for others.
        for _ in 0..30 {
            pace.ran(64, 64, true, Duration::from_millis(320));
        }
        assert_eq!((both(&pace), pace.reading(true, true)), ((48, 80), 16));
        for _ in 0..30 {
            pace.ran(128, 128, false, Duration::from_secs(4));
        }
        assert_eq!(both(&pace), (16, 64));
    }
}
