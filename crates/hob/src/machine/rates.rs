//! How fast this machine is: measured when asked, and kept until the machine is another.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hob_engine::{Ceilings, Pool};
use serde::{Deserialize, Serialize};

use super::disk::{Disk, Kind};
pub use super::read::How;
use super::{Machine, keep, read};
use crate::error::{Error, Result};
use crate::{places, store};

/// The form of the file; another is not read.
const VERSION: u32 = 1;

/// All disks together are read for no longer.
const DISKS: Duration = Duration::from_millis(1500);

/// What was measured, of which machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    version: u32,
    processor: String,
    memory: u64,
    /// the instruction set's name
    pub isa: String,
    /// the threads that worked
    pub threads: usize,
    /// bytes read from memory in a second, in 10⁹
    pub read_gbps: f64,
    /// bytes that were read over and over
    pub read_bytes: u64,
    /// 8-bit multiplications and additions in a second, in 10⁹
    pub int8_gops: f64,
    /// f32 multiplications and additions in a second, in 10⁹
    pub f32_gflops: f64,
    /// file systems with models
    pub disks: Vec<DiskRate>,
    /// seconds since 1970
    pub when: u64,
    /// whether other programs kept the processor busy meanwhile: the rates may be too low
    pub busy: bool,
}

/// How fast files are read from a file system.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiskRate {
    /// where it begins
    pub mount: PathBuf,
    /// bytes in a second, in 10⁹
    pub read_gbps: f64,
    /// bytes that were read
    pub bytes: u64,
    /// how memory was kept out of it
    pub how: How,
    /// whether a model was read; else a file written for that
    pub of_model: bool,
}

impl Rates {
    /// The rates that were measured of this machine last, if they were kept, and the file is sound.
    pub fn known(machine: &Machine) -> Option<Rates> {
        Rates::read(&file().ok()?, machine)
    }

    fn read(path: &Path, machine: &Machine) -> Option<Rates> {
        const LONGEST: u64 = 1 << 16;
        if std::fs::metadata(path).ok()?.len() > LONGEST {
            return None;
        }
        let rates: Rates = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        (rates.sound() && rates.of(machine)).then_some(rates)
    }

    /// Measures, with as many threads and the instruction set that Hob uses; in about 3 s. `step` hears what comes next.
    /// Disks that cannot be measured are left out, with a sentence each among the notes.
    ///
    /// # Errors
    /// When the system grants no memory to read.
    pub fn measure(machine: &Machine, step: &mut dyn FnMut(&str)) -> Result<(Rates, Vec<String>)> {
        step("measuring memory and products");
        let pool = Pool::new(machine.processor.threads_available);
        let c = ceilings(&pool, machine)?;
        let mut notes = Vec::new();
        let mut disks = Vec::new();
        let measured: Vec<&Disk> = machine.disks.iter().filter(|d| d.kind != Kind::Memory).collect();
        if !measured.is_empty() {
            step("reading from disk");
        }
        let files = model_files();
        for disk in &measured {
            match of_disk(disk, &machine.disks, &files, DISKS / measured.len() as u32) {
                Ok(rate) => disks.push(rate),
                Err(why) => notes.push(format!(
                    "the speed of {} could not be measured: {why}",
                    crate::terminal::clean(&disk.mount.display().to_string())
                )),
            }
        }
        let rates = Rates {
            version: VERSION,
            processor: machine.processor.name.clone(),
            memory: machine.memory.total,
            isa: c.isa.name().into(),
            threads: machine.processor.threads_available,
            read_gbps: c.read_gbps,
            read_bytes: c.read_bytes as u64,
            int8_gops: c.int8_gops,
            f32_gflops: c.f32_gflops,
            disks,
            when: now(),
            busy: machine.processor.busy(),
        };
        Ok((rates, notes))
    }

    /// Keeps them for later.
    ///
    /// # Errors
    /// When the folder of caches cannot be written to.
    pub fn save(&self) -> Result<()> {
        keep(&file()?, self)
    }

    /// How fast the file at `path`, which has no links in it, is read from its disk; in 10⁹ bytes a second.
    pub fn disk(&self, path: &Path) -> Option<&DiskRate> {
        let holds = self.disks.iter().filter(|d| path.starts_with(&d.mount));
        holds.max_by_key(|d| d.mount.as_os_str().len())
    }

    /// The slowest of the disks with models; `None` where none was measured.
    pub fn disk_gbps(&self) -> Option<f64> {
        self.disks.iter().map(|d| d.read_gbps).min_by(f64::total_cmp)
    }

    /// How long ago they were measured.
    pub fn age(&self) -> Duration {
        Duration::from_secs(now().saturating_sub(self.when))
    }

    /// Whether they are of this machine as it is used now. What a kernel sees of the memory varies a little.
    fn of(&self, machine: &Machine) -> bool {
        let p = &machine.processor;
        self.processor == p.name
            && self.isa == p.isa.name()
            && self.threads == p.threads_available
            && self.memory.abs_diff(machine.memory.total) <= machine.memory.total / 50
    }

    fn sound(&self) -> bool {
        let rates = [self.read_gbps, self.int8_gops, self.f32_gflops].into_iter();
        let mut rates = rates.chain(self.disks.iter().map(|d| d.read_gbps));
        self.version == VERSION && rates.all(|r| r.is_finite() && r > 0.0)
    }
}

/// The best of two measurements, and of a third where these disagree: another program may take a core meanwhile.
fn ceilings(pool: &Pool, machine: &Machine) -> Result<Ceilings> {
    let measure = || {
        Ceilings::measure(pool, machine.processor.isa).map_err(|e| {
            Error::new(format!("the speed of memory cannot be measured: {}", crate::error::plain(&e)))
        })
    };
    let mut best = measure()?;
    for _ in 0..2 {
        let again = measure()?;
        let (settled, both) = better(best, again);
        best = both;
        if settled {
            break;
        }
    }
    Ok(best)
}

/// The better of both in each rate, and whether none was much better than the first.
fn better(first: Ceilings, again: Ceilings) -> (bool, Ceilings) {
    let settled = again.read_gbps <= 1.03 * first.read_gbps
        && again.int8_gops <= 1.03 * first.int8_gops
        && again.f32_gflops <= 1.03 * first.f32_gflops;
    let (read_gbps, read_bytes) = match again.read_gbps > first.read_gbps {
        true => (again.read_gbps, again.read_bytes),
        false => (first.read_gbps, first.read_bytes),
    };
    let int8_gops = first.int8_gops.max(again.int8_gops);
    let f32_gflops = first.f32_gflops.max(again.f32_gflops);
    (settled, Ceilings { read_gbps, read_bytes, int8_gops, f32_gflops, ..first })
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

fn file() -> Result<PathBuf> {
    Ok(places::cache()?.join("machine.json"))
}

/// Files of models on this machine, without links, the largest first.
fn model_files() -> Vec<PathBuf> {
    let files = store::discover().models.into_iter().flat_map(|m| m.files);
    let length = |f: PathBuf| Some((std::fs::metadata(&f).ok()?.len(), f.canonicalize().ok()?));
    let mut files: Vec<(u64, PathBuf)> = files.filter_map(length).collect();
    files.sort_by(|a, b| b.cmp(a));
    files.into_iter().map(|(_, f)| f).collect()
}

/// Reads a model of that disk, or a temporary file where there is none.
fn of_disk(disk: &Disk, all: &[Disk], files: &[PathBuf], time: Duration) -> Result<DiskRate, String> {
    let start = Instant::now();
    let on_it = |f: &&PathBuf| {
        let holds = all.iter().filter(|d| d.holds(f));
        holds.max_by_key(|d| d.mount.as_os_str().len()).is_some_and(|d| d.mount == disk.mount)
    };
    let model = files.iter().find(on_it).and_then(|f| read::of_file(f, time).ok());
    let speed = match model {
        Some(speed) => speed,
        None => {
            let folder = disk.folders.first().and_then(|f| super::disk::nearest(f));
            let folder = folder.ok_or("it has no folder of models")?;
            // Half for writing, half for reading.
            let left = time.saturating_sub(start.elapsed()) / 2;
            read::of_folder(&folder, disk.free.unwrap_or(0), left).map_err(|e| crate::error::plain(&e))?
        }
    };
    let mount = disk.mount.clone();
    let read::Speed { gbps, bytes, how } = speed;
    Ok(DiskRate { mount, read_gbps: gbps, bytes, how, of_model: model.is_some() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(machine: &Machine) -> Rates {
        let disk = |mount: &str, read_gbps| DiskRate {
            mount: mount.into(),
            read_gbps,
            bytes: 1 << 30,
            how: How::Direct,
            of_model: true,
        };
        Rates {
            version: VERSION,
            processor: machine.processor.name.clone(),
            memory: machine.memory.total,
            isa: machine.processor.isa.name().into(),
            threads: machine.processor.threads_available,
            read_gbps: 30.0,
            read_bytes: 1 << 30,
            int8_gops: 500.0,
            f32_gflops: 100.0,
            disks: vec![disk("/", 2.0), disk("/mnt", 0.1)],
            when: now(),
            busy: false,
        }
    }

    #[test]
    fn the_better_rates_of_two_measurements_count() {
        let of = |read_gbps, read_bytes, int8_gops, f32_gflops| Ceilings {
            read_gbps,
            read_bytes,
            int8_gops,
            f32_gflops,
            isa: hob_engine::isa::Isa::Portable,
            threads: 1,
        };
        let (settled, best) = better(of(10.0, 1, 500.0, 100.0), of(20.0, 2, 400.0, 101.0));
        assert_eq!(
            (best.read_gbps, best.read_bytes, best.int8_gops, best.f32_gflops),
            (20.0, 2, 500.0, 101.0)
        );
        assert!(!settled && better(of(10.0, 1, 500.0, 100.0), of(10.2, 1, 250.0, 102.0)).0);
    }

    #[test]
    fn what_is_kept_is_found_again_on_the_same_machine_only() {
        let machine = Machine::look();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/cache/machine.json");
        let mut kept = rates(&machine);
        keep(&path, &kept).unwrap();
        assert_eq!(Rates::read(&path, &machine), Some(kept.clone()));
        assert!(kept.age() < Duration::from_secs(60));
        kept.read_gbps = 31.0;
        keep(&path, &kept).unwrap();
        assert_eq!(Rates::read(&path, &machine), Some(kept.clone()), "it is replaced");
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        for change in [
            |m: &mut Machine| m.processor.name.push('x'),
            |m: &mut Machine| m.processor.threads_available += 1,
            |m: &mut Machine| {
                m.processor.isa = *hob_engine::isa::Isa::ALL.iter().find(|i| **i != m.processor.isa).unwrap()
            },
            |m: &mut Machine| m.memory.total *= 2,
        ] {
            let mut other = machine.clone();
            change(&mut other);
            assert_eq!(Rates::read(&path, &other), None);
        }
        let mut newer_kernel = machine.clone();
        newer_kernel.memory.total -= 1 << 20;
        assert!(Rates::read(&path, &newer_kernel).is_some());
    }

    #[test]
    fn unsound_files_are_not_read() {
        let machine = Machine::look();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("machine.json");
        let good = serde_json::json!(rates(&machine));
        for (field, value) in [
            ("version", serde_json::json!(2)),
            ("read_gbps", serde_json::json!(0.0)),
            ("int8_gops", serde_json::json!(-1.0)),
            ("f32_gflops", serde_json::json!("fast")),
            ("disks", serde_json::json!([{"mount": "/"}])),
        ] {
            let mut bad = good.clone();
            bad[field] = value;
            std::fs::write(&path, bad.to_string()).unwrap();
            assert_eq!(Rates::read(&path, &machine), None, "{field}");
        }
        for text in ["", "{}", "[1", &"9".repeat(70_000)] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(Rates::read(&path, &machine), None);
        }
        std::fs::write(&path, good.to_string()).unwrap();
        assert!(Rates::read(&path, &machine).is_some());
        assert_eq!(Rates::read(dir.path(), &machine), None, "a folder");
    }

    #[test]
    #[cfg(unix)]
    fn a_place_that_cannot_be_written_is_an_error_in_one_sentence() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let e =
            keep(&dir.path().join("file/machine.json"), &rates(&Machine::look())).unwrap_err().to_string();
        assert!(e.starts_with("cannot create "), "{e}");
    }

    #[test]
    fn a_path_has_the_rate_of_the_nearest_mount() {
        let rates = rates(&Machine::look());
        let of = |p: &str| rates.disk(Path::new(p)).map(|d| d.read_gbps);
        assert_eq!((of("/mnt/a"), of("/mntx"), of("relative")), (Some(0.1), Some(2.0), None));
    }

    #[test]
    fn this_machine_is_measured() {
        let mut machine = Machine::look();
        let mut steps = Vec::new();
        machine.disks.truncate(1);
        let (rates, notes) = Rates::measure(&machine, &mut |s| steps.push(s.to_string())).unwrap();
        assert!(rates.sound() && rates.of(&machine), "{rates:?}");
        assert_eq!(
            rates.disks.len() + notes.len(),
            machine.disks.iter().filter(|d| d.kind != Kind::Memory).count()
        );
        assert!(!steps.is_empty());
    }
}
