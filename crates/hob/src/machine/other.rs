//! The machine where it is not Linux, by `sysinfo`. Tests on Linux hold it against what is read there.

use super::disk::{Disk, Kind};
use super::gpu::Gpu;
use super::processor::{self, Cores};
use super::{Memory, disk};
use std::path::{Path, PathBuf};
use sysinfo::{CpuRefreshKind, DiskKind, Gpus, System};

/// Name, vendor, cores and load.
pub fn processor() -> (Option<String>, Option<String>, Vec<Cores>, Option<f64>) {
    let (mut name, mut vendor, mut mhz, mut threads) = (None, None, None, 0);
    if let Ok(mut system) = System::new() {
        system.refresh_cpu_list(CpuRefreshKind::nothing().with_frequency());
        threads = system.cpus().len();
        if let Some(first) = system.cpus().first() {
            name = Some(first.brand().trim().to_string()).filter(|n| !n.is_empty());
            vendor = Some(match first.vendor_id().trim() {
                "GenuineIntel" => "Intel".to_string(),
                "AuthenticAMD" => "AMD".into(),
                other => other.to_string(),
            });
            mhz = system.cpus().iter().map(|c| c.frequency()).max().filter(|m| *m > 0).map(|m| m as u32);
        }
    }
    let mut cores = processor::levels(&levels());
    if cores.is_empty() && threads > 0 {
        let count = System::physical_core_count().unwrap_or(threads).min(threads);
        cores = vec![Cores { kind: processor::Kind::Alike, cores: count, threads, mhz }];
    }
    // Windows has no such average.
    let load = if cfg!(windows) { None } else { System::load_average().ok().map(|l| l.one) };
    (name, vendor.filter(|v| !v.is_empty()), cores, load)
}

/// macOS counts cores by level of performance; `sysctl` prints what is known and leaves out the rest.
fn levels() -> String {
    if !cfg!(target_os = "macos") {
        return String::new();
    }
    let names = (0..4).flat_map(|l| ["physicalcpu", "logicalcpu"].map(|n| format!("hw.perflevel{l}.{n}")));
    let out = std::process::Command::new("/usr/sbin/sysctl").args(names).output();
    out.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default()
}

/// Memory.
pub fn memory() -> Memory {
    let Ok(mut system) = System::new() else { return Memory::default() };
    system.refresh_memory();
    let total = system.total_memory();
    Memory {
        total,
        free: system.available_memory().min(total),
        limit: None,
        swap_total: system.total_swap(),
        swap_used: system.used_swap(),
        huge_pages: None,
    }
}

/// GPUs. One with next to no memory of its own computes in the system's, as do all of Apple's.
pub fn gpus(memory: &Memory) -> Vec<Gpu> {
    const LITTLE: u64 = 1 << 30;
    let Ok(all) = Gpus::new_with_refreshed_list() else { return Vec::new() };
    let gpu = |g: &sysinfo::Gpu| {
        let name = g.model().map(str::trim).filter(|n| !n.is_empty())?.to_string();
        // The system's own renderers are no GPUs.
        let vendors = [("NVIDIA", "NVIDIA"), ("AMD", "AMD"), ("Advanced Micro", "AMD"), ("Intel", "Intel")];
        let vendors = vendors.into_iter().chain([("Apple", "Apple"), ("Qualcomm", "Qualcomm")]);
        let said = |word: &str| name.contains(word) || g.vendor().is_some_and(|v| v.contains(word));
        let vendor = vendors.into_iter().find(|(word, _)| said(word))?.1;
        let unified = vendor == "Apple" || g.total_memory().is_some_and(|t| t < LITTLE);
        let own = g.total_memory();
        Some(Gpu {
            vendor: vendor.into(),
            total: if unified { Some(memory.most()) } else { own },
            free: if unified {
                Some(memory.free)
            } else {
                own.zip(g.used_memory()).map(|(t, u)| t.saturating_sub(u))
            },
            used_by_others: g.used_memory().filter(|_| !unified),
            unified,
            pci: (vendor != "Apple").then(|| g.pci().to_string()),
            name,
            ..Gpu::default()
        })
    };
    all.iter().filter_map(gpu).collect()
}

/// The file systems that the system lists.
pub struct Disks(Option<sysinfo::Disks>);

impl Disks {
    /// Lists them.
    pub fn new() -> Disks {
        Disks(sysinfo::Disks::new_with_refreshed_list().ok())
    }

    /// The file system of a folder that exists.
    pub fn find(&mut self, folder: &Path) -> Option<Disk> {
        let folder = without_prefix(folder);
        let holds = self.0.as_ref()?.iter().filter(|d| folder.starts_with(d.mount_point()));
        let disk = holds.max_by_key(|d| d.mount_point().as_os_str().len())?;
        let text = |t: &std::ffi::OsStr| Some(t.to_string_lossy().into_owned()).filter(|t| !t.is_empty());
        let filesystem = text(disk.file_system());
        let far = ["nfs", "smbfs", "afpfs", "webdav"];
        let far = filesystem.as_ref().is_some_and(|f| far.contains(&f.to_lowercase().as_str()));
        Some(Disk {
            folders: Vec::new(),
            mount: disk.mount_point().to_path_buf(),
            device: text(disk.name()),
            model: None,
            kind: match disk.kind() {
                _ if far => disk::Kind::Network,
                DiskKind::SSD => Kind::SolidState,
                DiskKind::HDD => Kind::Rotating,
                _ => Kind::Unknown,
            },
            filesystem,
            total: Some(disk.total_space()),
            free: Some(disk.available_space()),
        })
    }
}

/// Windows writes a whole path with a prefix of its own, mount points without.
fn without_prefix(path: &Path) -> PathBuf {
    match path.to_str().and_then(|p| p.strip_prefix(r"\\?\")) {
        Some(rest) => rest.into(),
        None => path.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_looks_the_same() {
        let ours = crate::machine::Processor::look();
        let (name, vendor, cores, _) = processor();
        let count = |c: &[Cores]| c.iter().map(|c| c.threads).sum::<usize>();
        assert_eq!(count(&cores), count(&ours.cores));
        if cfg!(target_arch = "x86_64") {
            assert_eq!((name, vendor), (Some(ours.name), ours.vendor));
        }
        let here = std::env::current_dir().unwrap().canonicalize().unwrap();
        let ours = &disk::look(std::slice::from_ref(&here))[0];
        if let Some(theirs) = Disks::new().find(&here) {
            assert_eq!((&theirs.mount, &theirs.filesystem), (&ours.mount, &ours.filesystem));
            assert_eq!(theirs.total, ours.total);
        }
    }

    #[test]
    fn it_finds_no_gpu_that_is_missed_here() {
        let memory = Memory::look();
        let ours = crate::machine::gpu::look(&memory);
        for gpu in gpus(&memory) {
            assert!(ours.iter().any(|g| g.pci == gpu.pci && g.vendor == gpu.vendor), "{gpu:?} of {ours:?}");
        }
    }

    #[test]
    fn paths_of_windows_meet_their_mounts() {
        assert_eq!(without_prefix(Path::new(r"\\?\C:\models")), Path::new(r"C:\models"));
        assert_eq!(without_prefix(Path::new("/models")), Path::new("/models"));
    }
}
