//! How fast files are read: from the disk, past what the system keeps in memory of them.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// How memory was kept out of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// the system read into the buffer, and looked nowhere else
    Direct,
    /// the system was asked beforehand to drop what it kept of the file
    Dropped,
}

/// What was read, and how fast.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed {
    /// bytes in a second, in 10⁹
    pub gbps: f64,
    /// bytes that were read
    pub bytes: u64,
    /// how
    pub how: How,
}

/// Read at once by a thread, and threads: drives show what they can with several reads waiting.
const BLOCK: usize = 2 << 20;
const THREADS: usize = 4;

/// Fewer bytes say more about the start than about the speed; more say nothing new.
const LEAST: u64 = 32 << 20;
const MOST: u64 = 1 << 30;

/// A temporary file takes no more than this, and only where far more is free.
const TEMPORARY: u64 = 256 << 20;

/// Buffers of direct reads begin at such an address.
const ALIGN: usize = 4096;

/// Reads the file at `path` for at most about `time`.
///
/// # Errors
/// When the file cannot be read, or is too short to tell.
pub fn of_file(path: &Path, time: Duration) -> io::Result<Speed> {
    let file = open(path)?;
    let length = file.metadata()?.len();
    of(&file, length, time)
}

#[cfg(not(windows))]
fn open(path: &Path) -> io::Result<File> {
    File::open(path)
}

/// Windows wants to know from the start: `FILE_FLAG_NO_BUFFERING`.
#[cfg(windows)]
fn open(path: &Path) -> io::Result<File> {
    std::os::windows::fs::OpenOptionsExt::custom_flags(File::options().read(true), 0x2000_0000).open(path)
}

/// Writes a file of its own into `folder`, reads that, and removes it.
///
/// # Errors
/// When the folder cannot be written to, or is too full.
pub fn of_folder(folder: &Path, free: u64, time: Duration) -> io::Result<Speed> {
    if free < 8 * TEMPORARY {
        return Err(io::Error::other("there is too little space for a file to measure with"));
    }
    let path = folder.join(format!(".hob-doctor-{}", std::process::id()));
    let mut options = File::options();
    let mut file = options.read(true).write(true).create_new(true).open(&path)?;
    // Without a name already: whatever happens, nothing is left behind.
    let removed = std::fs::remove_file(&path);
    let result = written(&mut file, time).and_then(|length| of(&file, length, time));
    if removed.is_err() {
        drop(file);
        let _ = std::fs::remove_file(&path);
    }
    result
}

/// Fills the file for at most about `time`, and makes the system write it out.
fn written(file: &mut File, time: Duration) -> io::Result<u64> {
    let start = Instant::now();
    let mut length = 0;
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut block = vec![0u8; BLOCK];
    while length < TEMPORARY && (length < LEAST || start.elapsed() < time) {
        // Bytes that do not repeat: some file systems would not write zeros.
        for word in block.as_chunks_mut::<8>().0 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *word = state.to_le_bytes();
        }
        file.write_all(&block)?;
        length += BLOCK as u64;
        if length.is_multiple_of(LEAST) {
            file.sync_data()?;
        }
    }
    file.sync_data()?;
    Ok(length)
}

fn of(file: &File, length: u64, time: Duration) -> io::Result<Speed> {
    if length < LEAST {
        return Err(io::Error::other("the file is too short to measure with"));
    }
    let direct = direct(file, true);
    if !direct {
        drop_cache(file)?;
    }
    let how = if direct { How::Direct } else { How::Dropped };
    match read(file, length, time, how) {
        // Some file systems agree to read directly and then do not.
        Err(e) if direct && e.kind() == io::ErrorKind::InvalidInput => {
            self::direct(file, false);
            drop_cache(file)?;
            read(file, length, time, How::Dropped)
        }
        other => other,
    }
}

fn read(file: &File, length: u64, time: Duration, how: How) -> io::Result<Speed> {
    let blocks = (length.min(MOST) / BLOCK as u64) as usize;
    let (next, done, stop) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let one = || -> io::Result<()> {
        let mut room = vec![0u8; BLOCK + ALIGN];
        let from = room.as_ptr().align_offset(ALIGN).min(ALIGN);
        let buffer = &mut room[from..][..BLOCK];
        loop {
            let block = next.fetch_add(1, Relaxed);
            if block >= blocks || stop.load(Relaxed) {
                return Ok(());
            }
            let got = read_at(file, buffer, (block * BLOCK) as u64)?;
            done.fetch_add(got, Relaxed);
            if got < BLOCK {
                return Ok(()); // it was cut short meanwhile
            }
        }
    };
    let start = Instant::now();
    let result = std::thread::scope(|s| {
        let threads: Vec<_> = (0..THREADS).map(|_| s.spawn(one)).collect();
        while threads.iter().any(|t| !t.is_finished()) {
            if start.elapsed() >= time {
                stop.store(true, Relaxed);
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        threads.into_iter().try_for_each(|t| t.join().unwrap_or(Ok(())))
    });
    let took = start.elapsed();
    result?;
    let bytes = done.into_inner() as u64;
    if bytes < LEAST / 4 {
        return Err(io::Error::other("the disk is too slow, or too busy, to tell"));
    }
    Ok(Speed { gbps: bytes as f64 / took.as_secs_f64() / 1e9, bytes, how })
}

#[cfg(unix)]
fn read_at(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, at)
}

#[cfg(windows)]
fn read_at(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buffer, at)
}

/// Switches reading past the cache on or off; whether the system agreed.
#[cfg(target_os = "linux")]
fn direct(file: &File, on: bool) -> bool {
    use std::os::fd::AsRawFd;
    let fd = file.as_raw_fd();
    // SAFETY: the descriptor is open, and the calls take plain numbers.
    unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFL);
        let wanted = if on { flags | libc::O_DIRECT } else { flags & !libc::O_DIRECT };
        flags >= 0 && libc::fcntl(fd, libc::F_SETFL, wanted) == 0
    }
}

/// macOS keeps nothing new then, but still finds what it has: that is the smaller part of a large file.
#[cfg(target_os = "macos")]
fn direct(file: &File, on: bool) -> bool {
    use std::os::fd::AsRawFd;
    // SAFETY: the descriptor is open, and the call takes plain numbers.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_NOCACHE, i32::from(on)) == 0 }
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
fn direct(_: &File, _: bool) -> bool {
    false
}

#[cfg(target_os = "linux")]
fn drop_cache(file: &File) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: the descriptor is open, and the call takes plain numbers.
    match unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) } {
        0 => Ok(()),
        e => Err(io::Error::from_raw_os_error(e)),
    }
}

#[cfg(not(target_os = "linux"))]
fn drop_cache(_: &File) -> io::Result<()> {
    Err(io::Error::other("this system cannot be asked to read from the disk alone"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::from_millis(300);

    #[test]
    fn a_folder_is_measured_and_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let speed = of_folder(dir.path(), u64::MAX, TIME).unwrap();
        assert!(speed.gbps > 0.0 && speed.bytes >= LEAST / 4 && speed.bytes <= TEMPORARY, "{speed:?}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(of_folder(dir.path(), 1 << 30, TIME).is_err(), "little space is left alone");
        assert!(of_folder(&dir.path().join("none"), u64::MAX, TIME).is_err());
    }

    #[test]
    fn short_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("short");
        std::fs::write(&path, [1; 4096]).unwrap();
        assert!(of_file(&path, TIME).is_err() && of_file(&dir.path().join("none"), TIME).is_err());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn where_memory_is_the_disk_reading_goes_on_without_direct_access() {
        let shm = Path::new("/dev/shm");
        if shm.is_dir()
            && let Ok(dir) = tempfile::tempdir_in(shm)
        {
            let path = dir.path().join("file");
            std::fs::write(&path, vec![1; LEAST as usize]).unwrap();
            let speed = of_file(&path, TIME).unwrap();
            assert_eq!(speed.bytes, LEAST, "{speed:?}");
        }
    }
}
