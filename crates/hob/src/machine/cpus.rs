//! The processor by what Linux tells of it: cores by kind, and their names where they are Arm's.

use super::processor::{Cores, Kind};
use super::{list, number, text};
use std::collections::BTreeSet;
use std::path::Path;

/// A processor as the scheduler counts them: a thread of a core.
#[derive(Clone)]
struct Cpu {
    number: usize,
    /// the threads of its core, as the system lists them
    core: String,
    mhz: Option<u64>,
    capacity: Option<u64>,
    part: Option<(u32, u32)>,
}

type Found = (Option<String>, Option<String>, Vec<Cores>, Option<f64>);

/// Name, vendor, cores and load.
pub fn look(root: &Path) -> Found {
    let info = text(&root.join("proc/cpuinfo")).unwrap_or_default();
    let groups = kinds(root, cpus(root, &info));
    let field = |key: &str| blocks(&info).next().and_then(|b| value(b, key)).map(str::to_string);
    let board = ["proc/device-tree/model", "sys/firmware/devicetree/base/model"];
    let board = board.iter().find_map(|p| text(&root.join(p)));
    let mut parts: Vec<String> = Vec::new();
    for (maker, part) in groups.iter().filter_map(|g| g[0].part) {
        let name = part_name(maker, part);
        if !parts.contains(&name) {
            parts.push(name);
        }
    }
    let name = field("model name").or(match (parts.is_empty(), board) {
        (true, board) => board,
        (false, None) => Some(parts.join(" and ")),
        (false, Some(board)) => Some(format!("{board} ({})", parts.join(" and "))),
    });
    let maker = groups.first().and_then(|g| g[0].part).map(|(maker, _)| maker);
    let vendor = match field("vendor_id").as_deref() {
        Some("GenuineIntel") => Some("Intel".to_string()),
        Some("AuthenticAMD") => Some("AMD".into()),
        Some(other) => Some(other.to_string()),
        None => maker.and_then(maker_name).map(String::from),
    };
    // What a clock is now stands in for the highest where that is not told.
    let now = field("cpu MHz").and_then(|t| t.parse::<f64>().ok()).map(|mhz| mhz.round() as u32);
    let cores = groups.iter().enumerate().map(|(at, group)| Cores {
        kind: Kind::of(at, groups.len()),
        cores: group.iter().map(|c| &c.core).collect::<BTreeSet<_>>().len(),
        threads: group.len(),
        mhz: group.iter().filter_map(|c| c.mhz).max().map(|m| m as u32).or(now),
    });
    let load = text(&root.join("proc/loadavg"));
    let load = load.and_then(|t| t.split_ascii_whitespace().next()?.parse().ok());
    (name, vendor, cores.collect(), load)
}

/// The parts of `/proc/cpuinfo`, one for each processor.
fn blocks(info: &str) -> impl Iterator<Item = &str> {
    info.split("\n\n").filter(|b| value(b, "processor").is_some())
}

fn value<'a>(block: &'a str, key: &str) -> Option<&'a str> {
    let of = |l: &'a str| l.split_once(':').filter(|(k, _)| k.trim() == key).map(|(_, v)| v.trim());
    block.lines().find_map(of).filter(|v| !v.is_empty())
}

fn cpus(root: &Path, info: &str) -> Vec<Cpu> {
    let sys = root.join("sys/devices/system/cpu");
    let told: Vec<(usize, &str)> =
        blocks(info).filter_map(|b| Some((value(b, "processor")?.parse().ok()?, b))).collect();
    let online = match text(&sys.join("online")) {
        Some(online) => list(&online),
        None => told.iter().map(|(n, _)| *n).collect(),
    };
    let hex = |text: &str| u32::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    let cpu = |number_of: usize| {
        let dir = sys.join(format!("cpu{number_of}"));
        let block = told.iter().find(|(n, _)| *n == number_of).map(|(_, b)| *b).unwrap_or_default();
        let core = ["core_cpus_list", "thread_siblings_list"];
        let core = core.iter().find_map(|f| text(&dir.join("topology").join(f)));
        let part = || Some((hex(value(block, "CPU implementer")?)?, hex(value(block, "CPU part")?)?));
        Cpu {
            number: number_of,
            core: core.unwrap_or_else(|| number_of.to_string()),
            mhz: number(&dir.join("cpufreq/cpuinfo_max_freq")).map(|khz| khz / 1000),
            capacity: number(&dir.join("cpu_capacity")),
            part: part(),
        }
    };
    online.into_iter().map(cpu).collect()
}

/// Groups of a kind, the fastest first: by Intel's lists of both kinds, by the design of Arm's cores, by what the
/// scheduler expects of each, by the highest clock.
fn kinds(root: &Path, cpus: Vec<Cpu>) -> Vec<Vec<Cpu>> {
    if cpus.is_empty() {
        return Vec::new();
    }
    let lists: Vec<Vec<usize>> = ["cpu_core", "cpu_atom", "cpu_lowpower"]
        .iter()
        .filter_map(|name| text(&root.join("sys/devices").join(name).join("cpus")))
        .map(|t| list(&t))
        .collect();
    let of_list = |l: &Vec<usize>| cpus.iter().filter(|c| l.contains(&c.number)).cloned().collect();
    let listed: Vec<Vec<Cpu>> = lists.iter().map(of_list).filter(|g: &Vec<Cpu>| !g.is_empty()).collect();
    if listed.len() > 1 && listed.iter().map(Vec::len).sum::<usize>() == cpus.len() {
        return listed;
    }
    let speed = |c: &Cpu| (c.capacity.unwrap_or(0), c.mhz.unwrap_or(0));
    let mut parts: Vec<Vec<Cpu>> = Vec::new();
    for cpu in &cpus {
        match parts.iter_mut().find(|g| g[0].part == cpu.part) {
            Some(group) => group.push(cpu.clone()),
            None => parts.push(vec![cpu.clone()]),
        }
    }
    if parts.len() > 1 {
        parts.sort_by_key(|g| std::cmp::Reverse(g.iter().map(speed).max()));
        return parts;
    }
    let by_capacity = by(&cpus, |c| c.capacity);
    if by_capacity.len() > 1 { by_capacity } else { by(&cpus, |c| c.mhz) }
}

/// Groups of about the same number; some cores of a kind are a little faster than their fellows, of another kind
/// those are that lack a fifth of it.
fn by(cpus: &[Cpu], number: impl Fn(&Cpu) -> Option<u64>) -> Vec<Vec<Cpu>> {
    if cpus.iter().any(|c| number(c).is_none()) {
        return vec![cpus.to_vec()];
    }
    let mut sorted = cpus.to_vec();
    sorted.sort_by_key(|c| std::cmp::Reverse(number(c)));
    let mut groups: Vec<Vec<Cpu>> = Vec::new();
    for cpu in sorted {
        match groups.last_mut() {
            Some(g) if number(&cpu).unwrap_or(0) as f64 >= 0.8 * number(&g[0]).unwrap_or(0) as f64 => {
                g.push(cpu)
            }
            _ => groups.push(vec![cpu]),
        }
    }
    groups
}

/// Who designed an Arm core: the implementer in its main identification register.
fn maker_name(maker: u32) -> Option<&'static str> {
    let known = [
        (0x41, "Arm"),
        (0x42, "Broadcom"),
        (0x46, "Fujitsu"),
        (0x48, "HiSilicon"),
        (0x4e, "NVIDIA"),
        (0x51, "Qualcomm"),
        (0x61, "Apple"),
        (0x6d, "Microsoft"),
        (0xc0, "Ampere"),
    ];
    known.iter().find(|(id, _)| *id == maker).map(|(_, name)| *name)
}

/// The design of an Arm core. The numbers are in each core's reference manual, under MIDR_EL1.
fn part_name(maker: u32, part: u32) -> String {
    #[rustfmt::skip]
    let known = [
        (0x41, 0xd03, "Cortex-A53"), (0x41, 0xd04, "Cortex-A35"), (0x41, 0xd05, "Cortex-A55"),
        (0x41, 0xd07, "Cortex-A57"), (0x41, 0xd08, "Cortex-A72"), (0x41, 0xd09, "Cortex-A73"),
        (0x41, 0xd0a, "Cortex-A75"), (0x41, 0xd0b, "Cortex-A76"), (0x41, 0xd0c, "Neoverse-N1"),
        (0x41, 0xd0d, "Cortex-A77"), (0x41, 0xd40, "Neoverse-V1"), (0x41, 0xd41, "Cortex-A78"),
        (0x41, 0xd42, "Cortex-A78AE"), (0x41, 0xd44, "Cortex-X1"), (0x41, 0xd46, "Cortex-A510"),
        (0x41, 0xd47, "Cortex-A710"), (0x41, 0xd48, "Cortex-X2"), (0x41, 0xd49, "Neoverse-N2"),
        (0x41, 0xd4b, "Cortex-A78C"), (0x41, 0xd4c, "Cortex-X1C"), (0x41, 0xd4d, "Cortex-A715"),
        (0x41, 0xd4e, "Cortex-X3"), (0x41, 0xd4f, "Neoverse-V2"), (0x41, 0xd80, "Cortex-A520"),
        (0x41, 0xd81, "Cortex-A720"), (0x41, 0xd82, "Cortex-X4"), (0x41, 0xd84, "Neoverse-V3"),
        (0x41, 0xd85, "Cortex-X925"), (0x41, 0xd87, "Cortex-A725"), (0x41, 0xd8e, "Neoverse-N3"),
        (0x51, 0x001, "Oryon"), (0xc0, 0xac3, "Ampere-1"), (0xc0, 0xac4, "Ampere-1a"),
    ];
    let name = known.iter().find(|(m, p, _)| (*m, *p) == (maker, part)).map(|(.., name)| name.to_string());
    name.unwrap_or_else(|| format!("{} core {part:#x}", maker_name(maker).unwrap_or("Arm-compatible")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::tree;

    fn cpu(files: &mut Vec<(String, String)>, number: usize, core: &str, more: &[(&str, u64)]) {
        let dir = format!("sys/devices/system/cpu/cpu{number}");
        files.push((format!("{dir}/topology/core_cpus_list"), format!("{core}\n")));
        files.extend(more.iter().map(|(f, n)| (format!("{dir}/{f}"), format!("{n}\n"))));
    }

    fn see(files: Vec<(String, String)>) -> (Option<String>, Option<String>, Vec<Cores>, Option<f64>) {
        let files: Vec<(&str, &str)> = files.iter().map(|(p, t)| (p.as_str(), t.as_str())).collect();
        look(tree(&files).path())
    }

    fn file(path: &str, text: &str) -> (String, String) {
        (path.into(), text.into())
    }

    #[test]
    fn a_hybrid_intel_has_both_kinds() {
        let mut files = vec![
            file("sys/devices/system/cpu/online", "0-7"),
            file("sys/devices/cpu_core/cpus", "0-3"),
            file("sys/devices/cpu_atom/cpus", "4-7"),
            file(
                "proc/cpuinfo",
                "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: 12th Gen Intel(R) Core(TM)\n\n",
            ),
            file("proc/loadavg", "0.42 0.1 0.0 1/300 4000\n"),
        ];
        for n in 0..4 {
            let core = if n < 2 { "0-1" } else { "2-3" };
            cpu(&mut files, n, core, &[("cpufreq/cpuinfo_max_freq", 4_900_000 + 100_000 * (n as u64 / 2))]);
        }
        for n in 4..8 {
            cpu(&mut files, n, &n.to_string(), &[("cpufreq/cpuinfo_max_freq", 3_600_000)]);
        }
        let (name, vendor, cores, load) = see(files);
        assert_eq!(name.as_deref(), Some("12th Gen Intel(R) Core(TM)"));
        assert_eq!((vendor.as_deref(), load), (Some("Intel"), Some(0.42)));
        let fast = Cores { kind: Kind::Performance, cores: 2, threads: 4, mhz: Some(5000) };
        let small = Cores { kind: Kind::Efficiency, cores: 4, threads: 4, mhz: Some(3600) };
        assert_eq!(cores, [fast, small]);
    }

    #[test]
    fn arm_cores_are_told_by_their_design() {
        // As a DGX Spark has them: two designs, and one core of the faster a little above its fellows.
        let mut info = String::new();
        let mut files = vec![file("sys/devices/system/cpu/online", "0-3")];
        for (n, part, capacity) in [(0, 0xd87, 718), (1, 0xd85, 997), (2, 0xd87, 718), (3, 0xd85, 1024)] {
            info += &format!("processor\t: {n}\nCPU implementer\t: 0x41\nCPU part\t: {part:#x}\n\n");
            cpu(&mut files, n, &n.to_string(), &[("cpu_capacity", capacity)]);
        }
        files.push(file("proc/cpuinfo", &info));
        let (name, vendor, cores, _) = see(files.clone());
        assert_eq!(name.as_deref(), Some("Cortex-X925 and Cortex-A725"));
        assert_eq!(vendor.as_deref(), Some("Arm"));
        let of = |kind| Cores { kind, cores: 2, threads: 2, mhz: None };
        assert_eq!(cores, [of(Kind::Performance), of(Kind::Efficiency)]);
        files.push(file("proc/device-tree/model", "A Board Rev 1.0\0"));
        assert_eq!(see(files).0.as_deref(), Some("A Board Rev 1.0 (Cortex-X925 and Cortex-A725)"));
    }

    #[test]
    fn three_tiers_are_told_by_capacity_and_two_by_clock() {
        let mut files = vec![file("sys/devices/system/cpu/online", "0-7")];
        for n in 0..8 {
            let capacity = [250, 250, 250, 250, 600, 600, 1024, 1000][n];
            cpu(&mut files, n, &n.to_string(), &[("cpu_capacity", capacity)]);
        }
        let kinds: Vec<_> = see(files).2.iter().map(|c| (c.kind, c.cores)).collect();
        assert_eq!(kinds, [(Kind::Performance, 2), (Kind::Middle, 2), (Kind::Efficiency, 4)]);
        let mut files = vec![file("sys/devices/system/cpu/online", "0-3")];
        for n in 0..4 {
            let khz = [5_100_000, 5_000_000, 3_300_000, 3_300_000][n];
            cpu(&mut files, n, &n.to_string(), &[("cpufreq/cpuinfo_max_freq", khz)]);
        }
        let kinds: Vec<_> = see(files).2.iter().map(|c| (c.kind, c.cores, c.mhz)).collect();
        assert_eq!(kinds, [(Kind::Performance, 2, Some(5100)), (Kind::Efficiency, 2, Some(3300))]);
    }

    #[test]
    fn without_the_systems_files_cores_are_counted_or_unknown() {
        let info = "processor\t: 0\nmodel name\t: X\ncpu MHz\t\t: 2599.998\n\nprocessor\t: 1\n\n";
        let (name, vendor, cores, load) = see(vec![file("proc/cpuinfo", info)]);
        assert_eq!((name.as_deref(), vendor, load), (Some("X"), None, None));
        assert_eq!(cores, [Cores { kind: Kind::Alike, cores: 2, threads: 2, mhz: Some(2600) }]);
        assert_eq!(see(Vec::new()), (None, None, Vec::new(), None));
        let junk = vec![
            file("proc/cpuinfo", "processor\t: x\n\n: :\nprocessor"),
            file("sys/devices/system/cpu/online", "9-1,\u{1f}"),
        ];
        assert_eq!(see(junk).2, []);
    }
}
