//! What files are known by: SHA-256 of models, VAEs and LoRAs, as A1111 and its friends name them in a picture's text.
//!
//! Reading a model of some gigabytes takes seconds, so that what was found is kept beside the length and the time of the
//! file, in `hashes.json` of Hob's cache. Facts: `modules/hashes.py` and `extensions-builtin/Lora/network.py` of
//! stable-diffusion-webui.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use hob_io::Safetensors;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::{file, places};

/// What of a file is hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// all bytes; of several files, one after another
    All,
    /// of a safetensors what follows its header, as kohya's trainer and A1111 do for LoRAs, so that notes in it do not
    /// matter
    Tensors,
}

/// Is told bytes done and bytes in all, and stops the work by `false`.
pub type On<'a> = &'a mut dyn FnMut(u64, u64) -> bool;

/// Hashes that are kept.
const MOST: usize = 2000;
/// Bytes of the file that keeps them.
const LONGEST: u64 = 4 << 20;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Kept {
    /// of all files together
    bytes: u64,
    /// nanoseconds since 1970, of the youngest
    modified: u64,
    sha256: String,
}

type All = BTreeMap<String, Kept>;

/// The hash of files in lower-case hexadecimal: the one that is kept, or computed now; `None` where `on` stopped that.
///
/// # Errors
/// A file cannot be read.
pub fn know(paths: &[&Path], of: Of, on: On) -> Result<Option<String>> {
    know_in(places::cache().ok().map(|c| c.join("hashes.json")).as_deref(), paths, of, on)
}

/// The hash, where it needs no reading of the files.
pub fn known(paths: &[&Path], of: Of) -> Option<String> {
    let kept = places::cache().ok()?.join("hashes.json");
    let (paths, key, about) = look(paths, of).ok()?;
    named(&paths, of).or_else(|| find(&read(&kept), &key, &about))
}

fn know_in(kept: Option<&Path>, paths: &[&Path], of: Of, on: On) -> Result<Option<String>> {
    let (paths, key, about) = look(paths, of)?;
    if let Some(name) = named(&paths, of).or_else(|| find(&read(kept?), &key, &about)) {
        return Ok(Some(name));
    }
    let Some(sha256) = compute(&paths, of, about.bytes, on)? else { return Ok(None) };
    if let Some(kept) = kept {
        // Read again, as another process may have written meanwhile. What is not kept is computed again.
        let mut all = read(kept);
        all.insert(key.clone(), Kept { sha256: sha256.clone(), ..about });
        if all.len() > MOST {
            all.retain(|k, _| *k == key || k.split('\n').all(|p| Path::new(p).exists()));
        }
        while all.len() > MOST {
            let other = all.keys().find(|k| **k != key).cloned();
            other.map(|k| all.remove(&k));
        }
        let _ = kept.parent().map(file::make_dir);
        let _ = file::write(kept, format!("{:#}\n", serde_json::json!(all)).as_bytes());
    }
    Ok(Some(sha256))
}

/// The files themselves, what they are kept under, and what must be the same for that to hold.
fn look(paths: &[&Path], of: Of) -> Result<(Vec<PathBuf>, String, Kept)> {
    let mut about = Kept { bytes: 0, modified: 0, sha256: String::new() };
    let mut all = Vec::new();
    for path in paths {
        let fail = |e| Error::io("read", path, &e);
        // The Hugging Face cache links to files that are named by their hashes.
        let path = fs::canonicalize(path).map_err(fail)?;
        let found = fs::metadata(&path).map_err(fail)?;
        let modified = found.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
        about.bytes = about.bytes.saturating_add(found.len());
        about.modified = about.modified.max(modified.map_or(0, |t| t.as_nanos() as u64));
        all.push(path);
    }
    let mut key: Vec<String> = all.iter().map(|p| p.to_string_lossy().into_owned()).collect();
    if of == Of::Tensors {
        key.push("/".into()); // a path that is always there, and no file's
    }
    Ok((all, key.join("\n"), about))
}

/// The hash that a file's own name is, where it lies in a store that checked it: Hugging Face's `blobs/HASH`, or Ollama's
/// `blobs/sha256-HASH`.
fn named(paths: &[PathBuf], of: Of) -> Option<String> {
    let ([path], Of::All) = (paths, of) else { return None };
    let name = path.file_name()?.to_str()?;
    let name = name.strip_prefix("sha256-").unwrap_or(name);
    let is = path.parent()?.file_name()? == "blobs" && name.len() == 64 && is_hash(name);
    is.then(|| name.to_owned())
}

fn is_hash(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn find(all: &All, key: &str, about: &Kept) -> Option<String> {
    let kept = all.get(key)?;
    let same = (kept.bytes, kept.modified) == (about.bytes, about.modified);
    (same && kept.sha256.len() == 64 && is_hash(&kept.sha256)).then(|| kept.sha256.clone())
}

fn read(kept: &Path) -> All {
    let small = fs::metadata(kept).is_ok_and(|m| m.len() <= LONGEST);
    let read = || serde_json::from_slice(&fs::read(kept).ok()?).ok();
    small.then(read).flatten().unwrap_or_default()
}

fn compute(paths: &[PathBuf], of: Of, bytes: u64, on: On) -> Result<Option<String>> {
    let (mut hash, mut done, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 20]);
    for path in paths {
        let fail = |e| Error::io("read", path, &e);
        let mut file = File::open(path).map_err(fail)?;
        if of == Of::Tensors {
            let mut length = [0; 8];
            file.read_exact(&mut length).map_err(fail)?;
            let begin = u64::from_le_bytes(length).saturating_add(8).min(bytes);
            done += file.seek(SeekFrom::Start(begin)).map_err(fail)?;
        }
        loop {
            let n = file.read(&mut buffer).map_err(fail)?;
            if n == 0 {
                break;
            }
            hash.update(&buffer[..n]);
            done += n as u64;
            if !on(done.min(bytes), bytes) {
                return Ok(None);
            }
        }
    }
    Ok(Some(file::hex(&hash.finalize())))
}

/// The hash of a LoRA as A1111 has it: what its trainer noted in it, or else that of its tensors.
///
/// # Errors
/// As [`know`].
pub fn lora(path: &Path, on: On) -> Result<Option<String>> {
    let noted = Safetensors::open(path).ok().and_then(|f| f.metadata().get("sshs_model_hash").cloned());
    match noted.filter(|hash| hash.len() == 64 && is_hash(hash)) {
        Some(hash) => Ok(Some(hash)),
        None => know(&[path], Of::Tensors, on),
    }
}

/// The hash of 8 digits by which A1111 knew models before 2023 (`model_hash` of its `sd_models.py`): of 64 KB in the second
/// megabyte.
pub fn old(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    file.seek(SeekFrom::Start(0x10_0000)).ok()?;
    let mut part = Vec::new();
    file.take(0x1_0000).read_to_end(&mut part).ok()?;
    Some(file::hex(&Sha256::digest(&part))[..8].to_owned())
}

/// Whether two hashes may be those of one file: one is the beginning of the other, in any case.
pub fn same(a: &str, b: &str) -> bool {
    let n = a.len().min(b.len());
    n >= 6 && a.is_char_boundary(n) && b.is_char_boundary(n) && a[..n].eq_ignore_ascii_case(&b[..n])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(bytes: &[u8]) -> String {
        file::hex(&Sha256::digest(bytes))
    }

    #[test]
    fn hashes_are_kept_until_the_file_is_another() {
        let folder = tempfile::tempdir().unwrap();
        let (kept, a, b) =
            (folder.path().join("c/hashes.json"), folder.path().join("a"), folder.path().join("b"));
        fs::write(&a, vec![1; 3_000_000]).unwrap();
        fs::write(&b, b"b").unwrap();
        let mut asked = 0;
        let mut know = |paths: &[&Path]| {
            let on = &mut |done: u64, all: u64| {
                asked += 1;
                assert!(done <= all);
                true
            };
            let hash = know_in(Some(&kept), paths, Of::All, on).unwrap();
            (hash.unwrap(), std::mem::take(&mut asked) > 0)
        };
        let both = [&vec![1; 3_000_000][..], b"b"].concat();
        assert_eq!(know(&[&a]), (hash(&[1; 3_000_000]), true));
        assert_eq!(know(&[&a]), (hash(&[1; 3_000_000]), false));
        assert_eq!(know(&[&a, &b]), (hash(&both), true));
        // Of the same length, and another time.
        fs::write(&a, vec![2; 3_000_000]).unwrap();
        let later = std::time::SystemTime::now() + std::time::Duration::from_secs(9);
        File::options().write(true).open(&a).unwrap().set_modified(later).unwrap();
        assert_eq!(know(&[&a]), (hash(&[2; 3_000_000]), true));
        // What is damaged is nothing.
        fs::write(&kept, "{\"").unwrap();
        assert_eq!(know(&[&a]), (hash(&[2; 3_000_000]), true));
        assert_eq!(know(&[&a]), (hash(&[2; 3_000_000]), false));
        assert_eq!(know_in(Some(&kept), &[&b], Of::All, &mut |_, _| false).unwrap(), None);
        assert!(know_in(Some(&kept), &[&folder.path().join("no")], Of::All, &mut |_, _| true).is_err());
    }

    #[test]
    fn loras_are_known_by_their_tensors_models_in_stores_by_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let data = [0, 0, 128, 63];
        let write = |noted: &str| {
            let header = format!(
                "{{\"__metadata__\":{{\"sshs_model_hash\":\"{noted}\"}},\"x\":{{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}}}"
            );
            let length = (header.len() as u64).to_le_bytes();
            fs::write(&path, [&length, header.as_bytes(), &data].concat()).unwrap();
        };
        let tensors = |path: &Path| know_in(None, &[path], Of::Tensors, &mut |_, _| true).unwrap();
        write("?");
        assert_eq!(tensors(&path), Some(hash(&data)));
        let noted = "ab".repeat(32);
        write(&noted);
        assert_eq!(lora(&path, &mut |_, _| panic!("it is noted")).unwrap(), Some(noted));
        // A header that claims more than there is.
        fs::write(&path, [255; 12]).unwrap();
        assert_eq!(tensors(&path), Some(hash(b"")));
        fs::write(&path, [1; 3]).unwrap();
        assert!(know_in(None, &[&path], Of::Tensors, &mut |_, _| true).is_err());

        let blob = folder.path().join("blobs").join("c".repeat(64));
        fs::create_dir(blob.parent().unwrap()).unwrap();
        fs::write(&blob, b"x").unwrap();
        let name = |path: &Path| know_in(None, &[path], Of::All, &mut |_, _| panic!("it is read")).unwrap();
        assert_eq!(name(&blob), Some("c".repeat(64)));

        // `model_hash` of A1111: bytes 0x100000 to 0x110000.
        let large: Vec<u8> = (0..0x12_0000u32).map(|i| (i >> 10) as u8).collect();
        fs::write(&path, &large).unwrap();
        assert_eq!(old(&path).unwrap(), hash(&large[0x10_0000..0x11_0000])[..8]);
    }

    #[test]
    fn the_beginning_of_a_hash_is_enough() {
        assert!(same("0123456789", "0123456789ab") && same("ABCDEF", "abcdef12"));
        assert!(!same("0123456789", "0123456780") && !same("", "0123") && !same("é0123456", "0123456789"));
    }
}
