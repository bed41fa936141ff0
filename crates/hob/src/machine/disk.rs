//! The file systems that models lie on.

use std::path::{Path, PathBuf};

/// A file system with folders of models.
#[derive(Clone, Debug)]
pub struct Disk {
    /// the folders of models on it: those that exist, and the one that models are fetched to
    pub folders: Vec<PathBuf>,
    /// where it begins
    pub mount: PathBuf,
    /// its device or server: `/dev/nvme0n1p2`
    pub device: Option<String>,
    /// what the device's maker calls it
    pub model: Option<String>,
    /// the name of its format: `ext4`, `apfs` …
    pub filesystem: Option<String>,
    /// what it lies on
    pub kind: Kind,
    /// bytes in all
    pub total: Option<u64>,
    /// bytes that may be written by this user
    pub free: Option<u64>,
}

/// What a file system lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// memory cells
    SolidState,
    /// a disk that turns
    Rotating,
    /// another machine
    Network,
    /// this machine's working memory
    Memory,
    /// not told, as of a virtual machine's disks
    Unknown,
}

impl Kind {
    /// What a person calls it; nothing where it is not known.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Kind::SolidState => Some("solid state"),
            Kind::Rotating => Some("rotating disk"),
            Kind::Network => Some("network"),
            Kind::Memory => Some("in memory"),
            Kind::Unknown => None,
        }
    }
}

impl Disk {
    /// Whether `path` lies on it, as far as mount points tell; of nested ones the longest is right.
    pub fn holds(&self, path: &Path) -> bool {
        path.starts_with(&self.mount)
    }
}

/// The file systems of `folders`, each once, in their order.
pub fn look(folders: &[PathBuf]) -> Vec<Disk> {
    let mut disks: Vec<Disk> = Vec::new();
    // Folders that exist, and the first, where models would be fetched to.
    let wanted = folders.iter().enumerate().filter(|(at, f)| *at == 0 || f.is_dir());
    let mut finder = Finder::new();
    for (_, folder) in wanted {
        let Some(disk) = nearest(folder).and_then(|f| finder.find(&f)) else { continue };
        match disks.iter_mut().find(|d| d.mount == disk.mount) {
            Some(known) if known.folders.contains(folder) => {}
            Some(known) => known.folders.push(folder.clone()),
            None => disks.push(Disk { folders: vec![folder.clone()], ..disk }),
        }
    }
    disks
}

/// The folder, or the nearest above it that exists, without links.
pub(super) fn nearest(folder: &Path) -> Option<PathBuf> {
    folder.ancestors().filter(|f| f.is_dir()).find_map(|f| f.canonicalize().ok())
}

#[cfg(not(target_os = "linux"))]
use super::other::Disks as Finder;
#[cfg(target_os = "linux")]
use linux::Finder;

#[cfg(target_os = "linux")]
mod linux {
    use super::{Disk, Kind};
    use crate::machine::{number, text};
    use std::ffi::{CString, OsString};
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    const NETWORK: [&str; 18] = [
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "fuse.glusterfs",
        "fuse.juicefs",
        "fuse.rclone",
        "fuse.s3fs",
        "fuse.sshfs",
        "gfs2",
        "glusterfs",
        "lustre",
        "nfs",
        "nfs4",
        "smb3",
        "smbfs",
    ];

    /// Finds file systems in the kernel's table of mounts.
    pub struct Finder {
        root: PathBuf,
        mounts: Vec<Mount>,
    }

    struct Mount {
        /// `254:0`
        number: String,
        point: PathBuf,
        filesystem: String,
        source: String,
    }

    impl Finder {
        pub fn new() -> Finder {
            Finder::below(Path::new("/"))
        }

        /// With the system's files below `root`.
        pub fn below(root: &Path) -> Finder {
            let table = std::fs::read(root.join("proc/self/mountinfo")).unwrap_or_default();
            Finder { root: root.into(), mounts: table.split(|b| *b == b'\n').filter_map(mount).collect() }
        }

        /// The file system of a folder that exists.
        pub fn find(&mut self, folder: &Path) -> Option<Disk> {
            // Of several mounts over the same place the last is seen.
            let holds = self.mounts.iter().filter(|m| folder.starts_with(&m.point));
            let mount = holds.max_by_key(|m| m.point.as_os_str().len())?;
            let block = self.block(mount);
            let up = |file: &str| {
                let block = block.as_ref()?;
                // A partition lies within its disk.
                [block.join(file), block.join("..").join(file)].into_iter().find_map(|p| text(&p))
            };
            let turns = block.as_ref().and_then(|b| {
                let files = ["queue/rotational", "../queue/rotational"];
                files.iter().find_map(|f| number(&b.join(f)))
            });
            // Virtual disks say that they turn, whatever they lie on.
            let name = mount.source.rsplit('/').next().unwrap_or_default();
            let virtual_disk = ["vd", "xvd", "loop", "nbd"].iter().any(|p| name.starts_with(p));
            let kind = match (mount.filesystem.as_str(), turns) {
                ("tmpfs" | "ramfs", _) => Kind::Memory,
                (f, _) if NETWORK.contains(&f) => Kind::Network,
                _ if virtual_disk => Kind::Unknown,
                (_, Some(0)) => Kind::SolidState,
                (_, Some(1)) => Kind::Rotating,
                _ => Kind::Unknown,
            };
            let space = space(folder);
            Some(Disk {
                folders: Vec::new(),
                mount: mount.point.clone(),
                device: Some(mount.source.clone()).filter(|s| !s.is_empty() && s != "none"),
                model: up("device/model"),
                filesystem: Some(mount.filesystem.clone()),
                kind,
                total: space.map(|s| s.0),
                free: space.map(|s| s.1),
            })
        }

        /// The folder in which the kernel tells of the mount's device: by its number, or, where a file system has a
        /// number of its own as btrfs does, by the name of what was mounted.
        fn block(&self, mount: &Mount) -> Option<PathBuf> {
            let sys = self.root.join("sys");
            let by_number = sys.join("dev/block").join(&mount.number);
            let device = mount.source.strip_prefix("/dev/");
            let by_name = || {
                let real = self.root.join("dev").join(device?).canonicalize().ok()?;
                Some(sys.join("class/block").join(real.file_name()?))
            };
            // The kernel follows links before `..`; a path must be without them for that.
            by_number.canonicalize().ok().or_else(|| by_name()?.canonicalize().ok())
        }
    }

    /// A line of `/proc/self/mountinfo`: number, parent, device, root, point, options, more of them up to a dash, then
    /// file system and source.
    fn mount(line: &[u8]) -> Option<Mount> {
        let mut fields = line.split(|b| *b == b' ');
        let number = String::from_utf8(fields.nth(2)?.to_vec()).ok()?;
        let point = plain(fields.nth(1)?);
        let mut rest = fields.skip_while(|f| *f != b"-").skip(1);
        let text = |field: &[u8]| plain(field).to_string_lossy().into_owned();
        let filesystem = text(rest.next()?);
        Some(Mount { number, point: point.into(), filesystem, source: text(rest.next().unwrap_or_default()) })
    }

    /// Blanks and backslashes are written as `\040`: three octal digits.
    fn plain(field: &[u8]) -> OsString {
        let mut out = Vec::with_capacity(field.len());
        let mut at = 0;
        while at < field.len() {
            let digits = field.get(at + 1..at + 4).filter(|d| d.iter().all(|b| (b'0'..=b'7').contains(b)));
            match (field[at], digits) {
                (b'\\', Some(d)) => {
                    out.push(d.iter().fold(0u32, |n, b| n * 8 + u32::from(b - b'0')) as u8);
                    at += 4;
                }
                (byte, _) => {
                    out.push(byte);
                    at += 1;
                }
            }
        }
        OsString::from_vec(out)
    }

    /// Bytes in all, and those that this user may write.
    fn space(folder: &Path) -> Option<(u64, u64)> {
        let path = CString::new(folder.as_os_str().as_bytes()).ok()?;
        // SAFETY: a plain struct of numbers, for which all zeros are valid.
        let mut s: libc::statvfs = unsafe { std::mem::zeroed() };
        // SAFETY: the path ends in a zero, and the struct is a local one.
        if unsafe { libc::statvfs(path.as_ptr(), &mut s) } != 0 {
            return None;
        }
        #[allow(clippy::unnecessary_cast)] // narrower on systems of 32 bits
        let bytes = |blocks| (blocks as u64).saturating_mul(s.f_frsize as u64);
        Some((bytes(s.f_blocks), bytes(s.f_bavail)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_one_file_system_are_one_disk() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::create_dir(&b).unwrap();
        let disks = look(&[a.join("deep"), b.clone(), dir.path().join("missing")]);
        assert_eq!(disks.len(), 1, "{disks:?}");
        assert_eq!(disks[0].folders, [a.join("deep"), b]);
        let real = dir.path().canonicalize().unwrap();
        assert!(disks[0].holds(&real) && disks[0].total.unwrap() > 0, "{disks:?}");
    }

    #[cfg(target_os = "linux")]
    mod linux {
        use super::super::{Kind, linux::Finder};
        use crate::machine::tree;
        use std::os::unix::fs::symlink;
        use std::path::Path;

        #[test]
        fn mounts_name_their_devices() {
            let table = "22 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw\n\
                         30 22 0:40 / /mnt/my\\040models rw - nfs4 server:/models rw,vers=4\n\
                         31 22 0:41 /sub /data rw - btrfs /dev/mapper/big rw\n\
                         32 22 254:0 / /srv rw - ext4 /dev/vda rw\n\
                         33 22 0:42 / /dev/shm rw - tmpfs tmpfs rw\n\
                         nonsense\n";
            let disk = "sys/devices/pci/nvme0n1";
            let root = tree(&[
                ("proc/self/mountinfo", table),
                (&format!("{disk}/queue/rotational"), "0\n"),
                (&format!("{disk}/device/model"), "Fast SSD 2TB   \n"),
                (&format!("{disk}/nvme0n1p2/partition"), "2\n"),
                ("sys/devices/virtual/dm-0/queue/rotational", "1\n"),
                ("sys/devices/virtual/vda/queue/rotational", "1\n"),
                ("sys/dev/block/x", ""),
                ("sys/class/block/x", ""),
                ("dev/dm-0", ""),
                ("dev/mapper/control", ""),
            ]);
            let at = |p: &str| root.path().join(p);
            symlink(at("sys/devices/pci/nvme0n1/nvme0n1p2"), at("sys/dev/block/259:2")).unwrap();
            symlink(at("sys/devices/virtual/vda"), at("sys/dev/block/254:0")).unwrap();
            symlink(at("sys/devices/virtual/dm-0"), at("sys/class/block/dm-0")).unwrap();
            symlink("../dm-0", at("dev/mapper/big")).unwrap();
            let mut finder = Finder::below(root.path());
            let mut see = |path: &str| {
                let d = finder.find(Path::new(path)).unwrap();
                (d.mount.to_str().unwrap().to_string(), d.filesystem.unwrap(), d.kind, d.device, d.model)
            };
            let some = |text: &str| Some(text.to_string());
            let of =
                |m: &str, f: &str, k, d: &str| (m.to_string(), f.to_string(), k, some(d), None::<String>);
            let (mount, ext4, kind, device, model) = see("/home/me");
            assert_eq!((&mount[..], &ext4[..], kind), ("/", "ext4", Kind::SolidState));
            assert_eq!((device, model), (some("/dev/nvme0n1p2"), some("Fast SSD 2TB")));
            let nfs = of("/mnt/my models", "nfs4", Kind::Network, "server:/models");
            assert_eq!(see("/mnt/my models/llama"), nfs);
            assert_eq!(see("/data"), of("/data", "btrfs", Kind::Rotating, "/dev/mapper/big"));
            assert_eq!(
                see("/srv/x"),
                of("/srv", "ext4", Kind::Unknown, "/dev/vda"),
                "a virtual disk may lie on anything"
            );
            assert_eq!(see("/dev/shm/x"), of("/dev/shm", "tmpfs", Kind::Memory, "tmpfs"));
            assert_eq!(see("/database").0, "/", "a longer name is another folder");
        }

        #[test]
        fn no_table_is_no_disk() {
            assert!(Finder::below(tree(&[]).path()).find(Path::new("/")).is_none());
        }
    }
}
