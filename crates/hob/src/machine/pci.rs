//! GPUs by what Linux tells of them: those on the PCI bus with or without a driver, and those built into Arm chips.

use super::gpu::Gpu;
use super::{Memory, hex, number, text};
use std::path::{Path, PathBuf};

const NVIDIA: u32 = 0x10de;
const AMD: u32 = 0x1002;
const INTEL: u32 = 0x8086;

/// GPUs within Arm chips: kernel driver, vendor, what to call them.
const WITHIN: [(&str, &str, &str); 7] = [
    ("asahi", "Apple", "Apple GPU"),
    ("lima", "Arm", "Arm Mali"),
    ("msm", "Qualcomm", "Qualcomm Adreno"),
    ("panfrost", "Arm", "Arm Mali"),
    ("panthor", "Arm", "Arm Mali"),
    ("tegra", "NVIDIA", "NVIDIA Tegra"),
    ("v3d", "Broadcom", "Broadcom VideoCore"),
];

/// All of them, in the order of their addresses. Adapters that only show pictures are left out.
pub fn gpus(root: &Path, memory: &Memory) -> Vec<Gpu> {
    let mut found: Vec<Gpu> = entries(&root.join("sys/bus/pci/devices"))
        .iter()
        .filter_map(|dir| on_bus(root, dir, memory))
        .collect();
    for card in entries(&root.join("sys/class/drm")) {
        let name = card.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // Beside `card0` lie its outputs, as `card0-HDMI-A-1`.
        if name.strip_prefix("card").is_some_and(|n| n.parse::<u32>().is_ok()) {
            found.extend(within(&card.join("device"), memory));
        }
    }
    found
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> =
        std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect();
    all.sort();
    all
}

/// A field of the device's `uevent`.
fn event(dir: &Path, key: &str) -> Option<String> {
    let text = text(&dir.join("uevent"))?;
    text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('=')).map(str::to_string)
}

fn on_bus(root: &Path, dir: &Path, memory: &Memory) -> Option<Gpu> {
    // Class 03 is for displays, 3D controllers included; 12 for accelerators, as data centres have them.
    if !matches!(hex(&dir.join("class"))? >> 16, 0x03 | 0x12) {
        return None;
    }
    let (id, device) = (hex(&dir.join("vendor"))?, hex(&dir.join("device"))?);
    let vendor = match id {
        NVIDIA => "NVIDIA",
        AMD => "AMD",
        INTEL => "Intel",
        _ => return None,
    };
    let pci = dir.file_name()?.to_string_lossy().into_owned();
    let driver = event(dir, "DRIVER");
    let name = text(&dir.join("product_name")).or_else(|| {
        let lists = ["usr/share/hwdata/pci.ids", "usr/share/misc/pci.ids", "usr/share/pci.ids"];
        let known = lists.iter().find_map(|l| std::fs::read(root.join(l)).ok())?;
        let name = listed(&String::from_utf8_lossy(&known), id, device)?;
        Some(format!("{vendor} {name}"))
    });
    let mut gpu = Gpu {
        name: name.unwrap_or_else(|| format!("{vendor} GPU {device:04x}")),
        vendor: vendor.into(),
        pci: Some(pci.clone()),
        ..Gpu::default()
    };
    match id {
        AMD => amd(dir, memory, &mut gpu),
        INTEL => intel(dir, &pci, memory, &mut gpu),
        _ => {}
    }
    gpu.note = match driver.as_deref() {
        None => Some("it has no driver, so no program can compute on it".into()),
        Some("vfio-pci") => Some("it is reserved for virtual machines".into()),
        Some("nouveau") => Some("its driver nouveau cannot compute; NVIDIA's own can".into()),
        Some("nvidia") => Some("its driver is loaded, but NVML does not answer: libnvidia-ml.so.1 is missing, or of another version".into()),
        _ => None,
    };
    gpu.driver = driver;
    Some(gpu)
}

/// AMD's kernel driver tells of both its own memory and of the system's (GTT) that it may use.
fn amd(dir: &Path, memory: &Memory, gpu: &mut Gpu) {
    let bytes = |file: &str| number(&dir.join(format!("mem_info_{file}")));
    // Metrics begin with their size and revision: 1 for cards, 2 and 3 for those within a processor.
    let metrics = std::fs::read(dir.join("gpu_metrics")).unwrap_or_default();
    gpu.unified = metrics.get(2).is_some_and(|revision| matches!(revision, 2 | 3));
    let (total, used) = (bytes("vram_total"), bytes("vram_used"));
    gpu.total = total;
    gpu.used_by_others = used;
    gpu.free = total.zip(used).map(|(t, u)| t.saturating_sub(u));
    if gpu.unified {
        let rest = bytes("gtt_total").zip(bytes("gtt_used")).map(|(t, u)| t.saturating_sub(u));
        gpu.total = total.map(|t| t.saturating_add(bytes("gtt_total").unwrap_or(0)));
        gpu.free = gpu.free.map(|f| f.saturating_add(rest.unwrap_or(0).min(memory.free)));
        gpu.used_by_others = None;
    }
}

/// Intel's graphics within a processor have had one address ever since; cards have another. Of a card's memory the
/// kernel tells no more than the part that the processor can reach: all of it, unless that is but a small window.
fn intel(dir: &Path, pci: &str, memory: &Memory, gpu: &mut Gpu) {
    const WINDOW: u64 = 256 << 20;
    gpu.unified = pci == "0000:00:02.0";
    if gpu.unified {
        (gpu.total, gpu.free) = (Some(memory.most()), Some(memory.free));
        return;
    }
    let regions = text(&dir.join("resource")).unwrap_or_default();
    let size = |line: &str| -> Option<u64> {
        let mut numbers =
            line.split_ascii_whitespace().map(|n| u64::from_str_radix(n.trim_start_matches("0x"), 16));
        let (from, to) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        to.checked_sub(from)?.checked_add(1).filter(|_| to > 0)
    };
    gpu.total = regions.lines().filter_map(size).max().filter(|n| *n > WINDOW);
}

fn within(dir: &Path, memory: &Memory) -> Option<Gpu> {
    let driver = event(dir, "DRIVER")?;
    let (_, vendor, name) = WITHIN.iter().find(|(d, ..)| *d == driver)?;
    Some(Gpu {
        name: name.to_string(),
        vendor: vendor.to_string(),
        total: Some(memory.most()),
        free: Some(memory.free),
        unified: true,
        driver: Some(driver),
        ..Gpu::default()
    })
}

/// The name of a device in the list that pciutils keeps: vendors at the start of a line, their devices after a tab. What
/// stands in brackets is the product, what is before them the chip.
fn listed(list: &str, vendor: u32, device: u32) -> Option<String> {
    let head = format!("{vendor:04x}  ");
    let (vendor, device) =
        (list.lines().skip_while(|l| !l.starts_with(&head)).skip(1), format!("\t{device:04x}  "));
    let mut devices = vendor.take_while(|l| l.starts_with(['\t', '#']));
    let name = devices.find_map(|l| l.strip_prefix(&device))?.trim();
    let product = name.split_once('[').and_then(|(_, p)| p.strip_suffix(']'));
    Some(product.unwrap_or(name).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::tree;

    const MEMORY: Memory = Memory {
        total: 64 << 30,
        free: 40 << 30,
        limit: None,
        swap_total: 0,
        swap_used: 0,
        huge_pages: None,
    };

    fn device<'a>(files: &[(&'a str, &'a str)], pci: &str) -> Vec<(String, String)> {
        files.iter().map(|(f, t)| (format!("sys/bus/pci/devices/{pci}/{f}"), t.to_string())).collect()
    }

    fn see(files: Vec<(String, String)>) -> Vec<Gpu> {
        let files: Vec<(&str, &str)> = files.iter().map(|(p, t)| (p.as_str(), t.as_str())).collect();
        gpus(tree(&files).path(), &MEMORY)
    }

    #[test]
    fn an_amd_card_and_its_name_from_the_list() {
        let mut files = device(
            &[
                ("class", "0x030000\n"),
                ("vendor", "0x1002\n"),
                ("device", "0x744c\n"),
                ("uevent", "DRIVER=amdgpu\nPCI_ID=1002:744C\n"),
                ("mem_info_vram_total", "25753026560\n"),
                ("mem_info_vram_used", "1000000000\n"),
                ("mem_info_gtt_total", "34359738368\n"),
                ("mem_info_gtt_used", "0\n"),
                ("gpu_metrics", "\u{78}\u{0}\u{1}\u{3}"),
            ],
            "0000:03:00.0",
        );
        let list = "# list\n1001  Other\n\t744c  Wrong\n1002  Advanced Micro Devices, Inc. [AMD/ATI]\n\
                    \t7446  Navi 31 USB\n\t744c  Navi 31 [Radeon RX 7900 XT/7900 XTX]\n\t\t1002 0e3b  Board\n10de  X\n";
        files.push(("usr/share/misc/pci.ids".into(), list.into()));
        let found = see(files);
        let gpu = &found[0];
        assert_eq!(
            (found.len(), &gpu.name[..], &gpu.vendor[..]),
            (1, "AMD Radeon RX 7900 XT/7900 XTX", "AMD")
        );
        assert_eq!((gpu.total, gpu.free), (Some(25_753_026_560), Some(24_753_026_560)));
        assert_eq!((gpu.unified, gpu.driver.as_deref(), &gpu.note), (false, Some("amdgpu"), &None));
    }

    #[test]
    fn an_amd_processor_with_graphics_has_the_systems_memory_too() {
        let found = see(device(
            &[
                ("class", "0x038000\n"),
                ("vendor", "0x1002\n"),
                ("device", "0x1586\n"),
                ("uevent", "DRIVER=amdgpu\n"),
                ("mem_info_vram_total", "536870912\n"),
                ("mem_info_vram_used", "36870912\n"),
                ("mem_info_gtt_total", "60000000000\n"),
                ("mem_info_gtt_used", "1000000000\n"),
                ("gpu_metrics", "\u{78}\u{0}\u{3}\u{0}"),
            ],
            "0000:c5:00.0",
        ));
        let gpu = &found[0];
        assert!(gpu.unified && gpu.name == "AMD GPU 1586", "{gpu:?}");
        assert_eq!((gpu.total, gpu.free), (Some(60_536_870_912), Some(500_000_000 + (40 << 30))));
    }

    #[test]
    fn intels_within_the_processor_and_on_a_card() {
        let of = |resource| {
            [
                ("class", "0x030000\n"),
                ("vendor", "0x8086\n"),
                ("device", "0xe20b\n"),
                ("resource", resource),
                ("uevent", "DRIVER=xe\n"),
            ]
        };
        let full = "0x0000000088000000 0x0000000088ffffff 0x0000000000140204\n\
                    0x0000004000000000 0x00000042ffffffff 0x000000000014220c\n0x0 0x0 0x0\n";
        let window = "0x0000004000000000 0x000000400fffffff 0x000000000014220c\n";
        let mut files = device(&of(full), "0000:03:00.0");
        files.extend(device(&of(window), "0000:04:00.0"));
        files.extend(device(&of(window), "0000:00:02.0"));
        let found = see(files);
        let seen: Vec<_> = found.iter().map(|g| (g.unified, g.total, g.free)).collect();
        let expected =
            [(true, Some(64 << 30), Some(40 << 30)), (false, Some(12 << 30), None), (false, None, None)];
        assert_eq!(seen, expected);
    }

    #[test]
    fn what_only_shows_pictures_is_no_gpu_and_a_missing_driver_is_told() {
        let of = |vendor, class, event| {
            [("class", class), ("vendor", vendor), ("device", "0x2684\n"), ("uevent", event)]
        };
        let mut files = device(&of("0x1af4\n", "0x030000\n", "DRIVER=virtio-pci\n"), "0000:00:01.0");
        files.extend(device(&of("0x10de\n", "0x040300\n", "DRIVER=snd_hda_intel\n"), "0000:01:00.1"));
        files.extend(device(&of("0x10de\n", "0x030200\n", "PCI_ID=10DE:2684\n"), "0000:01:00.0"));
        files.extend(device(&of("nonsense", "0x030000\n", ""), "0000:02:00.0"));
        let found = see(files);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((&found[0].driver, &found[0].name[..]), (&None, "NVIDIA GPU 2684"));
        assert!(found[0].note.as_ref().unwrap().contains("no driver"));
    }

    #[test]
    fn gpus_within_arm_chips_share_memory() {
        let card =
            |name: &str, event: &str| (format!("sys/class/drm/{name}/device/uevent"), event.to_string());
        let files = vec![
            card("card0", "DRIVER=v3d\nOF_NAME=v3d\n"),
            card("card0-HDMI-A-1", "DRIVER=v3d\n"),
            card("card1", "DRIVER=vc4-drm\n"),
            card("renderD128", "DRIVER=v3d\n"),
        ];
        let found = see(files);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].unified && found[0].total == Some(64 << 30) && found[0].vendor == "Broadcom");
    }
}
