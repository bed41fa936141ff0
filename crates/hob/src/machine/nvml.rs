//! NVIDIA's GPUs by the driver's own library, NVML, which is loaded if it is there.

use super::{Gpu, Memory};
use nvml_wrapper::enum_wrappers::device::Clock;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

/// All of them; none without a driver.
pub fn gpus(memory: &Memory) -> Vec<Gpu> {
    let Some(nvml) = open() else { return Vec::new() };
    let driver = nvml.sys_driver_version().ok();
    let count = nvml.device_count().unwrap_or(0);
    let device = |index| Some((index, nvml.device_by_index(index).ok()?));
    (0..count)
        .filter_map(device)
        .map(|(index, device)| gpu(told(index, &device, driver.clone()), memory))
        .collect()
}

/// The library under the name that drivers install; the one without a number comes with tools for developers.
#[cfg(target_os = "linux")]
fn open() -> Option<Nvml> {
    let numbered = Nvml::builder().lib_path("libnvidia-ml.so.1".as_ref()).init();
    numbered.or_else(|_| Nvml::init()).ok()
}

#[cfg(windows)]
fn open() -> Option<Nvml> {
    Nvml::init().ok()
}

fn told(index: u32, device: &Device, driver: Option<String>) -> Told {
    Told {
        index,
        name: device.name().ok(),
        driver,
        memory: match device.memory_info() {
            Ok(m) => Bytes::Known(m.total, m.free, m.used),
            Err(NvmlError::NotSupported) => Bytes::NotSupported,
            Err(_) => Bytes::Unknown,
        },
        capability: device
            .cuda_compute_capability()
            .ok()
            .and_then(|c| Some((c.major.try_into().ok()?, c.minor.try_into().ok()?))),
        pci: device.pci_info().ok().map(|p| p.bus_id),
        bus: device.memory_bus_width().ok(),
        clock: device.max_clock_info(Clock::Memory).ok(),
    }
}

/// What NVML answers of one GPU. A question that is refused is `None`; the others may still be answered.
#[derive(Clone, Debug, Default)]
struct Told {
    /// its number
    index: u32,
    /// its name
    name: Option<String>,
    /// the driver's version
    driver: Option<String>,
    /// its memory
    memory: Bytes,
    /// compute capability
    capability: Option<(u32, u32)>,
    /// its address
    pci: Option<String>,
    /// the width of its memory's bus in bits
    bus: Option<u32>,
    /// the highest clock of its memory in MHz
    clock: Option<u32>,
}

/// NVML's answer about memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Bytes {
    /// all, what is free, and what programs hold
    Known(u64, u64, u64),
    /// `NOT_SUPPORTED`: a GPU in one memory with the processor (DGX Spark, Jetson) has none of its own to tell of
    NotSupported,
    /// the question failed for another reason
    #[default]
    Unknown,
}

/// A GPU of NVIDIA's by what NVML told.
fn gpu(told: Told, memory: &Memory) -> Gpu {
    let (total, free, used) = match told.memory {
        Bytes::Known(total, free, used) => (Some(total), Some(free.min(total)), Some(used)),
        Bytes::NotSupported => (Some(memory.most()), Some(memory.free), None),
        Bytes::Unknown => (None, None, None),
    };
    // Bits at every edge of the clock, of which a cycle has two.
    let bandwidth = |bus: u32, clock: u32| bus as f64 / 8.0 * clock as f64 * 2.0 / 1e3;
    Gpu {
        name: told.name.unwrap_or_else(|| "NVIDIA GPU".into()),
        vendor: "NVIDIA".into(),
        index: told.index as usize,
        total,
        free,
        used_by_others: used,
        unified: told.memory == Bytes::NotSupported,
        driver: told.driver,
        compute_capability: told.capability,
        pci: told.pci.map(|p| address(&p)),
        bandwidth_gbps: told.bus.zip(told.clock).map(|(b, c)| bandwidth(b, c)).filter(|b| *b > 0.0),
        note: None,
    }
}

/// An address as the kernel writes it: NVML writes eight digits of the domain, and large ones.
fn address(pci: &str) -> String {
    let pci = pci.to_ascii_lowercase();
    // Without four zeros the domain must have as many digits as the kernel writes.
    let short = pci.strip_prefix("0000").filter(|rest| rest.find(':') == Some(4));
    short.map(String::from).unwrap_or(pci)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: Memory = Memory {
        total: 128 << 30,
        free: 100 << 30,
        limit: None,
        swap_total: 0,
        swap_used: 0,
        huge_pages: None,
    };

    #[test]
    fn a_card_has_memory_of_its_own() {
        let told = Told {
            index: 1,
            name: Some("NVIDIA GeForce RTX 4060".into()),
            driver: Some("580.95.05".into()),
            memory: Bytes::Known(8 << 30, 7 << 30, 1 << 29),
            capability: Some((8, 9)),
            pci: Some("00000000:0A:00.0".into()),
            bus: Some(128),
            clock: Some(8501),
        };
        let one = gpu(told, &MEMORY);
        assert_eq!((one.total, one.free, one.used_by_others), (Some(8 << 30), Some(7 << 30), Some(1 << 29)));
        assert_eq!((one.unified, one.index, one.pci.as_deref()), (false, 1, Some("0000:0a:00.0")));
        assert!((one.bandwidth_gbps.unwrap() - 272.0).abs() < 0.1, "{one:?}");
    }

    #[test]
    fn a_dgx_spark_shares_the_systems_memory() {
        let told = Told {
            name: Some("NVIDIA GB10".into()),
            memory: Bytes::NotSupported,
            capability: Some((12, 1)),
            bus: None,
            clock: Some(0),
            ..Told::default()
        };
        let one = gpu(told.clone(), &MEMORY);
        assert_eq!((one.total, one.free, one.unified), (Some(128 << 30), Some(100 << 30), true));
        assert_eq!((one.used_by_others, one.bandwidth_gbps), (None, None));
        let container = Memory { limit: Some(64 << 30), free: 60 << 30, ..MEMORY };
        let one = gpu(told, &container);
        assert_eq!((one.total, one.free), (Some(64 << 30), Some(60 << 30)));
    }

    #[test]
    fn a_refusal_is_not_taken_for_one_memory() {
        let one = gpu(Told::default(), &MEMORY);
        assert_eq!((one.total, one.free, one.unified, &one.name[..]), (None, None, false, "NVIDIA GPU"));
    }

    #[test]
    fn addresses_are_written_as_the_kernel_does() {
        for (told, kernel) in [("00000000:0A:00.0", "0000:0a:00.0"), ("0001:01:00.0", "0001:01:00.0")] {
            assert_eq!(address(told), kernel);
        }
        assert_eq!(address("00010000:01:00.0"), "00010000:01:00.0");
        for same in ["0000:01:00.0", "üü0:1", "0000üü", ""] {
            assert_eq!(address(same), same);
        }
    }
}
