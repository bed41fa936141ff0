//! What the machine allows at most, to hold the speed of an op against: bytes read from memory, products of 8-bit
//! numbers, multiply-adds in f32. Measured in about half a second, the best of many repetitions.

use crate::isa::{Isa, for_each_isa, isa};
use crate::{Pool, Precision, quant};
use hob_graph::DType;
use memmap2::MmapMut;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// The limits of a machine for so many threads and an instruction set.
#[derive(Clone, Copy, Debug)]
pub struct Ceilings {
    /// bytes read from memory in a second, in 10⁹
    pub read_gbps: f64,
    /// bytes that were read over and over: far more than caches hold, where memory allows
    pub read_bytes: usize,
    /// 8-bit multiplications and additions in a second, in 10⁹: a tile as the kernels have it, its operands in the first
    /// cache
    pub int8_gops: f64,
    /// f32 multiplications and additions in a second, in 10⁹, in registers
    pub f32_gflops: f64,
    /// the instruction set
    pub isa: Isa,
    /// the threads
    pub threads: usize,
}

/// Memory that is read at most, and at least. A last level of cache may hold some hundred MB; of 1 GiB read in turn it
/// keeps next to nothing.
const MOST: usize = 1 << 30;
const LEAST: usize = 16 << 20;

/// How long each limit is looked for, once everything is warm.
const TIME: Duration = Duration::from_millis(60);
const READ_TIME: Duration = Duration::from_millis(200);

/// A job shorter than this says more about waking threads than about the work.
const SHORTEST: Duration = Duration::from_millis(2);

impl Ceilings {
    /// Measures with the threads of `pool` what `isa` allows, which this processor must have.
    ///
    /// # Errors
    /// When the system grants no memory to read.
    pub fn measure(pool: &Pool, isa: Isa) -> std::io::Result<Ceilings> {
        let read_bytes = (free() / 4).clamp(LEAST, MOST) / LEAST * LEAST;
        let (int8, float): (Work, Work) = match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => (|o, n| x86::amx::<1>(o, n), |o, n| x86::amx::<2>(o, n)),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the processor has what the functions are compiled for.
            Isa::Avx512 => (|o, n| unsafe { x86::int8_avx512(o, n) }, |_, n| unsafe { x86::f32_avx512(n) }),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: likewise.
            Isa::AvxVnni => (|o, n| unsafe { x86::int8_avxvnni(o, n) }, |_, n| unsafe { x86::f32_avx2(n) }),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: likewise.
            Isa::Avx2 => (|o, n| unsafe { x86::int8_avx2(o, n) }, |_, n| unsafe { x86::f32_avx2(n) }),
            _ => (int8_portable, f32_portable),
        };
        Ok(Ceilings {
            read_gbps: read(pool, read_bytes)? / 1e9,
            read_bytes,
            int8_gops: rate(pool, int8) / 1e9,
            f32_gflops: rate(pool, float) / 1e9,
            isa,
            threads: pool.threads(),
        })
    }
}

/// Whether linear layers of weights in `dtype` compute in 8-bit whole numbers, and else in f32: which limit they have.
pub fn in_int8(precision: Precision, dtype: DType) -> bool {
    precision == Precision::Fast && quant::kernels(dtype, isa()).is_some()
}

/// Bytes of memory that may be taken; little where the system does not tell.
pub fn free() -> usize {
    let number = |path: &str, name: &str| -> Option<usize> {
        let text = std::fs::read_to_string(path).ok()?;
        text.lines().find_map(|l| l.strip_prefix(name))?.split_ascii_whitespace().next()?.parse().ok()
    };
    let Some(free) = number("/proc/meminfo", "MemAvailable:") else { return 4 * (64 << 20) };
    // A container may have less than the machine.
    let group = || {
        let used = number("/sys/fs/cgroup/memory.current", "")?;
        Some(number("/sys/fs/cgroup/memory.max", "")?.saturating_sub(used))
    };
    (free << 10).min(group().unwrap_or(usize::MAX))
}

/// Bytes a second of reading `bytes` of memory in turn; of few, caches keep a part.
///
/// # Errors
/// When the system grants no memory.
pub fn read(pool: &Pool, bytes: usize) -> std::io::Result<f64> {
    const PART: usize = LEAST / 4;
    let mut map = MmapMut::map_anon(bytes)?;
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage); // without, the page tables are part of the limit
    // Pages that nobody has written are all the same page of zeros.
    map.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    let (begin, mut best, mut passes) = (Instant::now(), f64::INFINITY, 0);
    while passes < 2 || begin.elapsed() < READ_TIME {
        let start = Instant::now();
        pool.run(bytes / PART, &|i, _| {
            // SAFETY: any bits are a number.
            let (_, words, _) = unsafe { map[i * PART..][..PART].align_to::<u64>() };
            black_box(sum(words));
        });
        best = best.min(start.elapsed().as_secs_f64());
        passes += 1;
    }
    Ok(bytes as f64 / best)
}

for_each_isa! {
    fn sum(words: &[u64]) -> u64 {
        let _ = FMA;
        words.iter().fold(0, |s, w| s.wrapping_add(*w))
    }
}

/// What a tile multiplies, small enough for the first cache.
#[repr(align(64))]
struct Operands {
    w: [u8; 4096],
    x: [i32; 512],
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    tiles: [u8; 8192],
}

/// Does its work so many times and returns how many multiplications and additions one time has.
type Work = fn(&Operands, usize) -> f64;

/// Operations a second of `work` on all threads.
fn rate(pool: &Pool, work: Work) -> f64 {
    let operands = Operands { w: [3; 4096], x: [0x0302_0103; 512], tiles: [0; 8192] };
    let jobs = 4 * pool.threads();
    let (begin, mut best, mut rounds) = (Instant::now(), 0f64, 16);
    while begin.elapsed() < TIME || best == 0.0 {
        let start = Instant::now();
        pool.run(jobs, &|_, _| {
            black_box(work(black_box(&operands), rounds));
        });
        let time = start.elapsed();
        match time < SHORTEST {
            true => rounds *= 2,
            false => best = best.max(work(&operands, 0) * (jobs * rounds) as f64 / time.as_secs_f64()),
        }
    }
    best
}

fn int8_portable(o: &Operands, rounds: usize) -> f64 {
    let mut sums = [0i32; 16];
    for _ in 0..rounds {
        let o = black_box(o);
        for (w, x) in o.w.as_chunks::<16>().0.iter().zip(o.x.as_chunks::<16>().0) {
            for (i, s) in sums.iter_mut().enumerate() {
                *s = s.wrapping_add(w[i] as i32 * x[i] as i16 as i32);
            }
        }
    }
    black_box(sums);
    2.0 * o.x.len() as f64
}

fn f32_portable(_: &Operands, rounds: usize) -> f64 {
    let mut sums = [0f32; 32];
    let (a, b) = (black_box(0.999), black_box(0.001));
    for _ in 0..rounds {
        for s in &mut sums {
            *s = *s * a + b;
        }
    }
    black_box(sums);
    2.0 * 32.0
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Operands;
    use crate::amx;
    use crate::quant::in_order;
    use std::arch::x86_64::*;
    use std::hint::black_box;

    /// 32 rows by 32 columns of numbers in one part of bf16, or two.
    pub fn amx<const PARTS: usize>(o: &Operands, rounds: usize) -> f64 {
        let steps = o.tiles.len() / amx::block::<PARTS>();
        let mut sums = [0f32; amx::SIDE * amx::SIDE];
        let _tiles = amx::Tiles::new();
        for round in 0..rounds {
            let at = black_box(o).tiles.as_ptr();
            // SAFETY: tiles are set up; operands and sums are there.
            unsafe {
                amx::product::<PARTS>(at, at, steps, sums.as_mut_ptr(), 4 * amx::SIDE, [false, round == 0])
            };
        }
        black_box(sums);
        2.0 * (steps * amx::SIDE.pow(3)) as f64
    }

    /// 4 tokens by 16 rows by 32: eight products are summed in 16 bits, as 4-bit weights allow, then scaled once.
    #[target_feature(enable = "avx2")]
    pub fn int8_avx2(o: &Operands, rounds: usize) -> f64 {
        let mut sums = [[_mm256_setzero_si256(); 2]; 4];
        let scale = _mm256_set1_epi16(black_box(3));
        for _ in 0..rounds {
            let o = black_box(o); // or the products would leave the loop
            for (w, x) in o.w.as_chunks::<512>().0.iter().zip(o.x.as_chunks::<32>().0) {
                let mut part = [[_mm256_setzero_si256(); 2]; 4];
                for (w, x) in w.as_chunks::<64>().0.iter().zip(x.as_chunks::<4>().0) {
                    // SAFETY: 64 bytes are read of as many.
                    let load = |at: usize| unsafe { _mm256_loadu_si256(w.as_ptr().add(at).cast()) };
                    let w = [load(0), load(32)];
                    for t in 0..4 {
                        let x = _mm256_set1_epi32(x[t]);
                        for v in 0..2 {
                            part[t][v] = _mm256_add_epi16(part[t][v], _mm256_maddubs_epi16(w[v], x));
                        }
                        let [a, b] = &mut part[t];
                        in_order(a, b);
                    }
                }
                for (sum, part) in sums.as_flattened_mut().iter_mut().zip(part.as_flattened()) {
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(*part, scale));
                }
            }
        }
        black_box(sums);
        8.0 * (4 * 8 * 64 * 2) as f64
    }

    /// 6 tokens by 16 rows by 4 in one step.
    #[target_feature(enable = "avx2,avxvnni")]
    pub fn int8_avxvnni(o: &Operands, rounds: usize) -> f64 {
        let mut sums = [[_mm256_setzero_si256(); 2]; 6];
        for _ in 0..rounds {
            let o = black_box(o);
            for (w, x) in o.w.as_chunks::<64>().0.iter().zip(o.x.as_chunks::<8>().0) {
                // SAFETY: 32 bytes each are read of 64.
                let (a, b) = unsafe {
                    (_mm256_loadu_si256(w.as_ptr().cast()), _mm256_loadu_si256(w.as_ptr().add(32).cast()))
                };
                for t in 0..6 {
                    let x = _mm256_set1_epi32(x[t]);
                    sums[t][0] = _mm256_dpbusd_avx_epi32(sums[t][0], a, x);
                    sums[t][1] = _mm256_dpbusd_avx_epi32(sums[t][1], b, x);
                }
            }
        }
        black_box(sums);
        64.0 * (6 * 16 * 4 * 2) as f64
    }

    /// 8 tokens by 32 rows by 4 in one step.
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub fn int8_avx512(o: &Operands, rounds: usize) -> f64 {
        let mut sums = [[_mm512_setzero_si512(); 2]; 8];
        for _ in 0..rounds {
            let o = black_box(o);
            for (w, x) in o.w.as_chunks::<128>().0.iter().zip(o.x.as_chunks::<8>().0) {
                // SAFETY: 64 bytes each are read of 128.
                let (a, b) = unsafe {
                    (_mm512_loadu_si512(w.as_ptr().cast()), _mm512_loadu_si512(w.as_ptr().add(64).cast()))
                };
                for t in 0..8 {
                    let x = _mm512_set1_epi32(x[t]);
                    sums[t][0] = _mm512_dpbusd_epi32(sums[t][0], a, x);
                    sums[t][1] = _mm512_dpbusd_epi32(sums[t][1], b, x);
                }
            }
        }
        black_box(sums);
        32.0 * (8 * 32 * 4 * 2) as f64
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn f32_avx2(rounds: usize) -> f64 {
        let mut sums = [_mm256_setzero_ps(); 12];
        let (a, b) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(0.001)));
        for _ in 0..rounds {
            for s in &mut sums {
                *s = _mm256_fmadd_ps(*s, a, b);
            }
        }
        black_box(sums);
        2.0 * 8.0 * 12.0
    }

    #[target_feature(enable = "avx512f")]
    pub fn f32_avx512(rounds: usize) -> f64 {
        let mut sums = [_mm512_setzero_ps(); 16];
        let (a, b) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(0.001)));
        for _ in 0..rounds {
            for s in &mut sums {
                *s = _mm512_fmadd_ps(*s, a, b);
            }
        }
        black_box(sums);
        2.0 * 16.0 * 16.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantized_weights_compute_in_whole_numbers() {
        assert!(in_int8(Precision::Fast, DType::Q4_K) && in_int8(Precision::Fast, DType::Q8_0));
        assert!(!in_int8(Precision::Fast, DType::F32) && !in_int8(Precision::Exact, DType::Q4_K));
    }

    #[test]
    fn every_limit_is_found() {
        let pool = Pool::new(2);
        for isa in Isa::ALL.into_iter().filter(|i| i.available()) {
            let c = Ceilings::measure(&pool, isa).unwrap();
            for x in [c.read_gbps, c.int8_gops, c.f32_gflops] {
                assert!(x.is_finite() && x > 0.0, "{c:?}");
            }
            assert!((LEAST..=MOST).contains(&c.read_bytes) && (c.threads, c.isa) == (2, isa), "{c:?}");
        }
    }
}
