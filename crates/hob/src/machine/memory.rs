//! Working memory: what there is, and what may be taken now.

/// Memory in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// all of the machine's; 0 where the system does not tell
    pub total: u64,
    /// what may be taken now without pushing out what others hold: a container's limit is respected
    pub free: u64,
    /// the most this process's container may hold, where that is less than the machine has
    pub limit: Option<u64>,
    /// room on disk for what does not fit
    pub swap_total: u64,
    /// of that, what is taken
    pub swap_used: u64,
    /// when the system gives pages of 2 MiB: `always`, `madvise` (to those who ask, as Hob does) or `never`
    pub huge_pages: Option<String>,
}

impl Memory {
    /// Looks.
    pub fn look() -> Memory {
        #[cfg(target_os = "linux")]
        return linux(std::path::Path::new("/"));
        #[cfg(not(target_os = "linux"))]
        return super::other::memory();
    }

    /// What this process may hold at most: the container's limit, or all.
    pub fn most(&self) -> u64 {
        self.limit.unwrap_or(self.total)
    }
}

#[cfg(target_os = "linux")]
fn linux(root: &std::path::Path) -> Memory {
    use super::text;
    let info = text(&root.join("proc/meminfo")).unwrap_or_default();
    let number = |name: &str| -> Option<u64> {
        let line = info.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    let total = number("MemTotal").unwrap_or(0);
    // Before Linux 3.14 the system made no estimate; what files hold can mostly be taken.
    let free = number("MemAvailable")
        .or_else(|| Some(number("MemFree")?.saturating_add(number("Cached").unwrap_or(0))))
        .unwrap_or(0);
    let group = super::cgroup::memory(root);
    let swap_total = number("SwapTotal").unwrap_or(0);
    Memory {
        total,
        free: free.min(total).min(group.free.unwrap_or(u64::MAX)),
        limit: group.limit.filter(|l| *l < total),
        swap_total,
        swap_used: swap_total.saturating_sub(number("SwapFree").unwrap_or(swap_total)),
        huge_pages: text(&root.join("sys/kernel/mm/transparent_hugepage/enabled"))
            .and_then(|t| Some(t.split_once('[')?.1.split_once(']')?.0.to_string())),
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::machine::tree;

    const INFO: (&str, &str) = (
        "proc/meminfo",
        "MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:    9000000 kB\n\
         SwapTotal:       2000000 kB\nSwapFree:        1500000 kB\n",
    );

    fn see(files: &[(&str, &str)]) -> Memory {
        linux(tree(files).path())
    }

    #[test]
    fn a_plain_machine() {
        let m = see(&[INFO, ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n")]);
        let expected = Memory {
            total: 16_384_000_000,
            free: 9_216_000_000,
            limit: None,
            swap_total: 2_048_000_000,
            swap_used: 512_000_000,
            huge_pages: Some("madvise".into()),
        };
        assert_eq!((m.most(), m), (16_384_000_000, expected));
    }

    #[test]
    fn what_is_not_told_is_nothing() {
        assert_eq!(see(&[]), Memory::default());
        assert_eq!(
            see(&[("proc/meminfo", "MemTotal: 99999999999999999999 kB\nMemFree\n: kB")]),
            Memory::default()
        );
        let old = see(&[("proc/meminfo", "MemTotal: 100 kB\nMemFree: 10 kB\nCached: 20 kB\n")]);
        assert_eq!((old.total, old.free, old.swap_used), (102_400, 30_720, 0));
    }

    #[test]
    fn a_container_has_less_than_the_machine() {
        let group = "sys/fs/cgroup/box";
        let (max, now, stat) = (
            format!("{group}/memory.max"),
            format!("{group}/memory.current"),
            format!("{group}/memory.stat"),
        );
        let files = [
            INFO,
            ("proc/self/cgroup", "0::/box/inner\n"),
            ("sys/fs/cgroup/cgroup.controllers", "memory\n"),
            ("sys/fs/cgroup/box/inner/memory.max", "max\n"),
            ("sys/fs/cgroup/box/inner/memory.current", "5\n"),
            (&max, "4000000000\n"),
            (&now, "1500000000\n"),
            (&stat, "anon 1000000000\ninactive_file 300000000\nactive_file 200000000\n"),
        ];
        let m = see(&files);
        assert_eq!((m.limit, m.free, m.most()), (Some(4_000_000_000), 2_800_000_000, 4_000_000_000));
    }

    #[test]
    fn agrees_with_another_reader() {
        let (ours, theirs) = (Memory::look(), crate::machine::other::memory());
        assert_eq!(ours.total, theirs.total);
        assert_eq!(ours.swap_total, theirs.swap_total);
        if ours.limit.is_none() {
            // Other programs come and go between the two.
            let apart = ours.free.abs_diff(theirs.free);
            assert!(apart < ours.total / 10, "{} and {}", ours.free, theirs.free);
        }
    }
}
