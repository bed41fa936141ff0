//! The processor: its name, its cores by kind, and what it can compute with.

use hob_engine::isa::{self, Isa};

/// A processor.
#[derive(Clone, Debug)]
pub struct Processor {
    /// as its maker calls it
    pub name: String,
    /// who made it: `Intel`, `AMD`, `Apple` …
    pub vendor: Option<String>,
    /// its cores by kind, the fastest first; empty where the system does not tell
    pub cores: Vec<Cores>,
    /// threads that may run at once: what the process is bound to and a container's share are respected
    pub threads_available: usize,
    /// the instruction set that kernels use
    pub isa: Isa,
    /// the instructions that matter here, of those this processor has
    pub isas: Vec<&'static str>,
    /// programs that wanted to run at once over the last minute, on average
    pub load: Option<f64>,
}

/// Cores of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cores {
    /// beside the others
    pub kind: Kind,
    /// how many
    pub cores: usize,
    /// threads that the system runs on them at once: more than cores where these share themselves out
    pub threads: usize,
    /// their highest clock, or the present one where only that is told
    pub mhz: Option<u32>,
}

/// What cores are beside the others of their processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// there is one kind
    Alike,
    /// the fastest
    Performance,
    /// between the two
    Middle,
    /// the most frugal
    Efficiency,
}

impl Kind {
    /// What a person calls it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Alike => "all alike",
            Kind::Performance => "performance",
            Kind::Middle => "middle",
            Kind::Efficiency => "efficiency",
        }
    }

    /// Of the kind at `at` among so many, the fastest first.
    pub fn of(at: usize, kinds: usize) -> Kind {
        match at {
            0 if kinds == 1 => Kind::Alike,
            0 => Kind::Performance,
            _ if at + 1 == kinds => Kind::Efficiency,
            _ => Kind::Middle,
        }
    }
}

impl Processor {
    /// Looks.
    pub fn look() -> Processor {
        #[cfg(target_os = "linux")]
        let (name, vendor, cores, load) = super::cpus::look(std::path::Path::new("/"));
        #[cfg(not(target_os = "linux"))]
        let (name, vendor, cores, load) = super::other::processor();
        Processor {
            name: name.unwrap_or_else(|| format!("a processor for {}", std::env::consts::ARCH)),
            vendor,
            cores,
            threads_available: std::thread::available_parallelism().map_or(1, |n| n.get()),
            isa: isa::isa(),
            isas: isas(),
            load,
        }
    }

    /// Cores of all kinds; `None` where the system does not tell.
    pub fn all_cores(&self) -> Option<usize> {
        Some(self.cores.iter().map(|c| c.cores).sum()).filter(|n| *n > 0)
    }

    /// Whether other programs leave it little. The load is that of the whole machine, whatever share of it this process
    /// has.
    pub fn busy(&self) -> bool {
        let all = self.all_threads().unwrap_or(self.threads_available);
        self.load.is_some_and(|load| load >= 0.75 * all as f64)
    }

    /// Threads of all kinds of cores; `None` where the system does not tell.
    pub fn all_threads(&self) -> Option<usize> {
        Some(self.cores.iter().map(|c| c.threads).sum()).filter(|n| *n > 0)
    }
}

/// Names of those that are so.
fn those<const N: usize>(all: [(&'static str, bool); N]) -> Vec<&'static str> {
    all.into_iter().filter(|(_, has)| *has).map(|(name, _)| name).collect()
}

#[cfg(target_arch = "x86_64")]
fn isas() -> Vec<&'static str> {
    let mut all = those([
        ("avx", is_x86_feature_detected!("avx")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("f16c", is_x86_feature_detected!("f16c")),
        ("avx_vnni", is_x86_feature_detected!("avxvnni")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bw", is_x86_feature_detected!("avx512bw")),
        ("avx512dq", is_x86_feature_detected!("avx512dq")),
        ("avx512vl", is_x86_feature_detected!("avx512vl")),
        ("avx512_vnni", is_x86_feature_detected!("avx512vnni")),
        ("avx512_bf16", is_x86_feature_detected!("avx512bf16")),
        ("avx512_fp16", is_x86_feature_detected!("avx512fp16")),
    ]);
    all.extend(amx());
    all
}

/// AMX is not among what stable Rust asks for: leaf 7 of CPUID has it, and bits 17 and 18 of XCR0 whether the system
/// keeps its tiles.
#[cfg(target_arch = "x86_64")]
fn amx() -> Vec<&'static str> {
    use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
    #[target_feature(enable = "xsave")]
    fn kept() -> u64 {
        // SAFETY: the system lets programs ask, as the bit that the caller has seen says.
        unsafe { _xgetbv(0) }
    }
    const OSXSAVE: u32 = 1 << 27;
    if __cpuid(0).eax < 7 || __cpuid(1).ecx & OSXSAVE == 0 || !is_x86_feature_detected!("xsave") {
        return Vec::new();
    }
    // SAFETY: the processor has what the function is compiled for.
    let tiles = unsafe { kept() } >> 17 & 3 == 3;
    let bits = __cpuid_count(7, 0).edx;
    let has = |bit: u32| tiles && bits >> bit & 1 == 1;
    those([("amx_tile", has(24)), ("amx_int8", has(25)), ("amx_bf16", has(22))])
}

#[cfg(target_arch = "aarch64")]
fn isas() -> Vec<&'static str> {
    use std::arch::is_aarch64_feature_detected as has;
    those([
        ("neon", has!("neon")),
        ("fp16", has!("fp16")),
        ("dotprod", has!("dotprod")),
        ("i8mm", has!("i8mm")),
        ("bf16", has!("bf16")),
        ("sve", has!("sve")),
        ("sve2", has!("sve2")),
    ])
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn isas() -> Vec<&'static str> {
    Vec::new()
}

/// What macOS's `sysctl hw.perflevel0 hw.perflevel1 …` prints: a line `hw.perflevel0.physicalcpu: 8` for each fact.
#[cfg(any(not(target_os = "linux"), test))]
pub(crate) fn levels(text: &str) -> Vec<Cores> {
    let number = |level: usize, what: &str| -> Option<usize> {
        let key = format!("hw.perflevel{level}.{what}:");
        text.lines().find_map(|l| l.strip_prefix(&key))?.trim().parse().ok()
    };
    let mut found: Vec<Cores> = (0..8)
        .map_while(|level| {
            let cores = number(level, "physicalcpu")?;
            let threads = number(level, "logicalcpu").unwrap_or(cores);
            Some(Cores { kind: Kind::Alike, cores, threads, mhz: None })
        })
        .filter(|c| c.cores > 0)
        .collect();
    let kinds = found.len();
    found.iter_mut().enumerate().for_each(|(at, c)| c.kind = Kind::of(at, kinds));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_of_macos_are_kinds() {
        let text = "hw.perflevel0.physicalcpu: 8\nhw.perflevel0.logicalcpu: 8\nhw.perflevel0.name: Performance\n\
                    hw.perflevel1.physicalcpu: 4\nhw.perflevel1.logicalcpu: 4\nhw.perflevel1.name: Efficiency";
        let cores = |kind, cores| Cores { kind, cores, threads: cores, mhz: None };
        assert_eq!(levels(text), [cores(Kind::Performance, 8), cores(Kind::Efficiency, 4)]);
        assert_eq!(levels("sysctl: unknown oid 'hw.perflevel0'"), []);
        let one = "hw.perflevel0.physicalcpu: 4\nhw.perflevel0.logicalcpu: 8\n";
        assert_eq!(levels(one), [Cores { threads: 8, ..cores(Kind::Alike, 4) }]);
    }

    #[test]
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    fn instructions_are_those_the_kernel_names() {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let flags: Vec<&str> =
            info.lines().find(|l| l.starts_with("flags")).unwrap().split_ascii_whitespace().collect();
        let ours = isas();
        let all = ["avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512dq", "avx512vl"];
        for name in all.iter().chain(&["avx512_vnni", "avx512_bf16", "avx512_fp16"]) {
            assert_eq!(ours.contains(name), flags.contains(name), "{name}");
        }
        for name in ["amx_tile", "amx_int8", "amx_bf16"] {
            assert_eq!(ours.contains(&name), flags.contains(&name), "{name}");
        }
    }
}
