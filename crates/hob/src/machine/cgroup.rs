//! What a container may hold: Linux's control groups, in both versions.

use super::{number, text};
use std::path::{Path, PathBuf};

/// The least that the groups around this process leave it, in bytes; `None` where none of them has a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// what it may hold at most
    pub limit: Option<u64>,
    /// of that, what is left
    pub free: Option<u64>,
}

/// Files of a group that say the limits, what is held, and of the statistics what the system can take back.
struct Names {
    limits: &'static [&'static str],
    held: &'static str,
    spare: &'static str,
}

const V1: Names =
    Names { limits: &["memory.limit_in_bytes"], held: "memory.usage_in_bytes", spare: "total_inactive_file" };

/// Beyond `memory.high` the system slows a group down until it holds less: no place for weights.
const V2: Names =
    Names { limits: &["memory.max", "memory.high"], held: "memory.current", spare: "inactive_file" };

/// Memory, below a root of `proc` and `sys`.
pub fn memory(root: &Path) -> Share {
    let own = text(&root.join("proc/self/cgroup")).unwrap_or_default();
    let mut share = Share::default();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let groups = root.join("sys/fs/cgroup");
        if controllers.is_empty() {
            let both = groups.join("unified"); // where version 1 has the memory, version 2 may lie beside it
            let mount = if both.is_dir() { both } else { groups };
            each(&mount, path, &V2, &mut share);
        } else if controllers.split(',').any(|c| c == "memory") {
            each(&groups.join("memory"), path, &V1, &mut share);
        }
    }
    share
}

/// The group at `path` and all around it. In a container the path may be the machine's, and only the mount's root there.
fn each(mount: &Path, path: &str, names: &Names, share: &mut Share) {
    let mut at = PathBuf::new();
    one(mount, names, share);
    for part in Path::new(path).components() {
        if let std::path::Component::Normal(part) = part {
            at.push(part);
            one(&mount.join(&at), names, share);
        }
    }
}

fn one(group: &Path, names: &Names, share: &mut Share) {
    // "max" is no number: no limit.
    let Some(limit) = names.limits.iter().filter_map(|f| number(&group.join(f))).min() else { return };
    let less = |have: &mut Option<u64>, n: u64| *have = Some(have.map_or(n, |h| h.min(n)));
    less(&mut share.limit, limit);
    if let Some(held) = number(&group.join(names.held)) {
        let statistics = text(&group.join("memory.stat")).unwrap_or_default();
        let spare = statistics.lines().find_map(|l| l.strip_prefix(names.spare)?.trim().parse().ok());
        less(&mut share.free, limit.saturating_sub(held.saturating_sub(spare.unwrap_or(0u64))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::tree;

    fn see(files: &[(&str, &str)]) -> Share {
        memory(tree(files).path())
    }

    #[test]
    fn version_2_takes_the_least_of_all_around() {
        let files = [
            ("proc/self/cgroup", "0::/user.slice/app\n"),
            ("sys/fs/cgroup/user.slice/memory.max", "8000\n"),
            ("sys/fs/cgroup/user.slice/memory.current", "7000\n"),
            ("sys/fs/cgroup/user.slice/memory.stat", "anon 10\ninactive_file 500\n"),
            ("sys/fs/cgroup/user.slice/app/memory.max", "max\n"),
            ("sys/fs/cgroup/user.slice/app/memory.high", "6000\n"),
            ("sys/fs/cgroup/user.slice/app/memory.current", "100\n"),
        ];
        assert_eq!(see(&files), Share { limit: Some(6000), free: Some(1500) });
    }

    #[test]
    fn version_1_knows_its_path_or_the_mounts_root() {
        let path = ("proc/self/cgroup", "9:cpu,cpuacct:/\n4:memory:/docker/0f34\n0::/\n");
        let inside = [
            path,
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "1000000\n"),
            ("sys/fs/cgroup/memory/docker/0f34/memory.limit_in_bytes", "2000000\n"),
            ("sys/fs/cgroup/memory/docker/0f34/memory.usage_in_bytes", "900000\n"),
            ("sys/fs/cgroup/memory/docker/0f34/memory.stat", "inactive_file 7\ntotal_inactive_file 400000\n"),
        ];
        assert_eq!(see(&inside), Share { limit: Some(2_000_000), free: Some(1_500_000) });
        let root_only = [
            path,
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "3000000\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "4000000\n"),
        ];
        assert_eq!(see(&root_only), Share { limit: Some(3_000_000), free: Some(0) });
    }

    #[test]
    fn no_group_is_no_limit_and_paths_stay_below_the_mount() {
        assert_eq!(see(&[]), Share::default());
        let up = [("proc/self/cgroup", "0::/../../secret\n::\nx\n"), ("secret/memory.max", "1\n")];
        assert_eq!(see(&up), Share::default());
    }
}
