//! Which models go when another needs their memory.

use std::time::Duration;

/// Bytes that a disk gives in a second, where it was not measured: a SATA SSD's.
const DISK: f64 = 0.5e9;

/// A loaded model that may go.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// bytes of memory that it frees
    pub bytes: u64,
    /// since it was used last
    pub idle: Duration,
    /// how long it took to load
    pub load: Duration,
    /// bytes that would come from the disk and not from the system's page cache
    pub cold: u64,
}

impl Held {
    /// Seconds of loading that its stay is likely to save in each second to come.
    fn worth(&self) -> f64 {
        let load = self.load.as_secs_f64() + self.cold as f64 / DISK;
        load.max(1e-3) / self.idle.as_secs_f64().max(1.0)
    }

    fn density(&self) -> f64 {
        self.worth() / self.bytes.max(1) as f64
    }
}

/// Those of `models` that go so that `need` bytes become free, by their places; all where that is not enough.
///
/// As GreedyDual-Size (Cao and Irani 1997) it lets go first of what costs least to bring back for its bytes; here a model's
/// age stands for how soon it is asked again. What is then not needed stays; one model that suffices alone may be cheaper.
pub fn choose(models: &[Held], need: u64) -> Vec<usize> {
    let by =
        |key: fn(&Held) -> f64| move |a: &usize, b: &usize| key(&models[*a]).total_cmp(&key(&models[*b]));
    let freed = |chosen: &[usize]| chosen.iter().fold(0u64, |sum, &i| sum.saturating_add(models[i].bytes));
    let worth = |chosen: &[usize]| chosen.iter().map(|&i| models[i].worth()).sum::<f64>();
    let mut all: Vec<usize> = (0..models.len()).collect();
    all.sort_by(by(Held::density));
    let mut chosen = Vec::new();
    for &i in &all {
        if freed(&chosen) >= need {
            break;
        }
        chosen.push(i);
    }
    let mut dear = chosen.clone();
    dear.sort_by(|a, b| by(Held::worth)(b, a));
    for i in dear {
        let rest: Vec<usize> = chosen.iter().copied().filter(|c| *c != i).collect();
        if freed(&rest) >= need {
            chosen = rest;
        }
    }
    let alone = all.into_iter().filter(|&i| need > 0 && models[i].bytes >= need).min_by(by(Held::worth));
    match alone {
        Some(one) if models[one].worth() < worth(&chosen) => vec![one],
        _ => chosen,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gigabytes, seconds idle, seconds to load, gigabytes from the disk.
    fn held((bytes, idle, load, cold): (u64, u64, u64, u64)) -> Held {
        let (idle, load) = (Duration::from_secs(idle), Duration::from_secs(load));
        Held { bytes: bytes << 30, idle, load, cold: cold << 30 }
    }

    #[test]
    fn as_little_goes_as_frees_what_is_needed() {
        type Case<'a> = (&'a str, u64, &'a [(u64, u64, u64, u64)], &'a [usize]);
        let cases: [Case; 14] = [
            ("nothing is needed", 0, &[(1, 10, 1, 0)], &[]),
            ("there is none", 1, &[], &[]),
            ("of equals, the one unused longest", 1, &[(1, 10, 1, 0), (1, 60, 1, 0), (1, 30, 1, 0)], &[1]),
            ("of equals, the one loaded fastest", 1, &[(1, 10, 5, 0), (1, 10, 1, 0), (1, 10, 9, 0)], &[1]),
            ("of equals, one in the page cache", 1, &[(1, 10, 1, 1), (1, 10, 1, 0)], &[1]),
            (
                "a large one suffices, small ones stay",
                8,
                &[(1, 90, 1, 0), (8, 60, 4, 0), (1, 80, 1, 0)],
                &[1],
            ),
            ("though they are idle for long", 8, &[(1, 9000, 1, 0), (8, 60, 4, 0), (1, 9000, 1, 0)], &[1]),
            ("a small one suffices, the large one stays", 1, &[(40, 100, 60, 40), (1, 100, 1, 0)], &[1]),
            ("unless the large one is idle for much longer", 1, &[(40, 90_000, 60, 0), (1, 2, 1, 0)], &[0]),
            ("two small ones are cheaper", 2, &[(20, 100, 30, 20), (1, 100, 1, 0), (1, 100, 1, 0)], &[1, 2]),
            ("one used just now costs more", 4, &[(4, 0, 3, 0), (4, 300, 6, 4)], &[1]),
            ("both are needed", 9, &[(5, 10, 1, 0), (5, 20, 1, 0), (1, 1, 1, 0)], &[1, 0]),
            ("what was taken first is not needed after all", 5, &[(1, 99, 1, 0), (6, 50, 9, 0)], &[1]),
            ("all is not enough", 99, &[(1, 10, 1, 0), (2, 10, 1, 0)], &[1, 0]),
        ];
        for (why, need, models, goes) in cases {
            let models: Vec<Held> = models.iter().copied().map(held).collect();
            assert_eq!(choose(&models, need << 30), goes, "{why}");
        }
    }

    /// Whatever there is: it is enough where all would be, and none of those that go could have stayed.
    #[test]
    fn no_model_goes_in_vain() {
        let mut x = 1u64;
        let mut next = |most: u64| {
            x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (x >> 33) % most
        };
        for _ in 0..2000 {
            let n = next(7) as usize;
            let models: Vec<Held> =
                (0..n).map(|_| held((1 + next(30), next(5000), next(60), next(2) * 10))).collect();
            let need = next(60) << 30;
            let chosen = choose(&models, need);
            let freed: u64 = chosen.iter().map(|&i| models[i].bytes).sum();
            let all: u64 = models.iter().map(|m| m.bytes).sum();
            assert!(freed >= need.min(all), "{models:?} {need} {chosen:?}");
            if all >= need {
                assert!(
                    chosen.iter().all(|&i| freed - models[i].bytes < need),
                    "{models:?} {need} {chosen:?}"
                );
            }
        }
    }
}
