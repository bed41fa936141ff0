//! GPUs, as their drivers and the system tell of them. This version of Hob computes on the processor; plans name GPUs.

use super::Memory;

/// A GPU. Memory is in bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gpu {
    /// as its maker calls it, or vendor and number where nothing tells its name
    pub name: String,
    /// `NVIDIA`, `AMD`, `Intel`, `Apple` …
    pub vendor: String,
    /// its number among the GPUs of its vendor, in the driver's order
    pub index: usize,
    /// its memory; of the system's, what it may use, where they share it
    pub total: Option<u64>,
    /// what may be taken of it now
    pub free: Option<u64>,
    /// what programs hold of its own memory
    pub used_by_others: Option<u64>,
    /// whether it has no memory of its own and computes in the system's
    pub unified: bool,
    /// the driver: its version, or its name where it goes with the kernel; `None` where there is none
    pub driver: Option<String>,
    /// NVIDIA's compute capability, as in 9.0
    pub compute_capability: Option<(u32, u32)>,
    /// its address, as `0000:01:00.0`
    pub pci: Option<String>,
    /// what its memory can be read at, by the width of its bus and its highest clock; in 10⁹ bytes a second
    pub bandwidth_gbps: Option<f64>,
    /// what a person should know, as that it lacks a driver
    pub note: Option<String>,
}

/// Finds them all.
pub fn look(memory: &Memory) -> Vec<Gpu> {
    #[cfg(any(target_os = "linux", windows))]
    let first = super::nvml::gpus(memory);
    #[cfg(not(any(target_os = "linux", windows)))]
    let first = Vec::new();
    #[cfg(target_os = "linux")]
    let others = super::pci::gpus(std::path::Path::new("/"), memory);
    #[cfg(not(target_os = "linux"))]
    let others = super::other::gpus(memory);
    merge(first, others)
}

/// NVIDIA's by NVML, then those that the system knows and NVML does not.
fn merge(first: Vec<Gpu>, others: Vec<Gpu>) -> Vec<Gpu> {
    let mut all = first;
    let answered = !all.is_empty();
    let known = |all: &[Gpu], other: &Gpu| match &other.pci {
        // In a container the bus may show GPUs that only others may use: NVML leaves them out.
        _ if answered && other.driver.as_deref() == Some("nvidia") => true,
        Some(pci) => all.iter().any(|g| g.pci.as_ref() == Some(pci)),
        None => answered && other.vendor == "NVIDIA",
    };
    for mut other in others {
        if !known(&all, &other) {
            other.index = all.iter().filter(|g| g.vendor == other.vendor).count();
            all.push(other);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_is_listed_once() {
        let gpu = |vendor: &str, pci: Option<&str>| Gpu {
            vendor: vendor.into(),
            pci: pci.map(String::from),
            ..Gpu::default()
        };
        let one = "0000:01:00.0";
        let all = merge(
            vec![gpu("NVIDIA", Some(one))],
            vec![
                gpu("AMD", Some("0000:05:00.0")),
                gpu("NVIDIA", Some(one)),
                gpu("NVIDIA", Some("0000:02:00.0")),
            ],
        );
        let seen: Vec<_> = all.iter().map(|g| (&g.vendor[..], g.index)).collect();
        assert_eq!(seen, [("NVIDIA", 0), ("AMD", 0), ("NVIDIA", 1)]);
        let mut others = gpu("NVIDIA", Some("0000:02:00.0"));
        others.driver = Some("nvidia".into());
        assert_eq!(
            merge(vec![gpu("NVIDIA", Some(one))], vec![others.clone()]).len(),
            1,
            "another container's"
        );
        assert_eq!(merge(Vec::new(), vec![others]).len(), 1);
        let all = merge(vec![gpu("NVIDIA", None)], vec![gpu("NVIDIA", None), gpu("Intel", None)]);
        assert_eq!(all.len(), 2);
    }
}
