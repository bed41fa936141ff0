//! The Hugging Face hub: what a repository holds, which of its files to take, and the cache they go into.
//!
//! The API is `GET /api/models/OWNER/NAME/revision/REVISION?blobs=true`; a file is at
//! `/OWNER/NAME/resolve/COMMIT/PATH`. The cache has the layout of the `huggingface_hub` library, so that every
//! other tool finds what Hob fetched: `models--OWNER--NAME/{blobs,refs,snapshots/COMMIT}`.

pub mod remote;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Result};
use crate::file::{self, Checksum};
use crate::net::{Download, Failure, Net};
use crate::{naming, places, terminal};

/// `hf:owner/name[@revision][:file]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// `owner/name`.
    pub repo: String,
    /// A branch, tag or commit; `main` unless told.
    pub revision: String,
    /// A file, or a quantization such as `Q4_K_M`.
    pub file: Option<String>,
}

impl Spec {
    /// Reads what follows `hf:`.
    pub fn parse(text: &str) -> Result<Spec> {
        let wrong = || {
            Error::new(format!(
                "hf:{} does not name a repository; write hf:OWNER/NAME or hf:OWNER/NAME:FILE",
                terminal::clean(text)
            ))
        };
        let (repo, file) = match text.split_once(':') {
            Some((repo, file)) => (repo, Some(file)),
            None => (text, None),
        };
        let (repo, revision) = repo.split_once('@').unwrap_or((repo, "main"));
        let word = |s: &str| {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
            !s.is_empty() && s.len() <= 96 && !s.starts_with('.') && !s.contains("..") && s.bytes().all(plain)
        };
        let (owner, name) = repo.split_once('/').ok_or_else(wrong)?;
        if !word(owner) || !word(name) || !revision.split('/').all(word) {
            return Err(wrong());
        }
        if file.is_some_and(|f| naming::hostile(f).is_some()) {
            return Err(wrong());
        }
        Ok(Spec { repo: repo.into(), revision: revision.into(), file: file.map(String::from) })
    }
}

/// The name that a person would type for it.
impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hf:{}", self.repo)?;
        if self.revision != "main" {
            write!(f, "@{}", self.revision)?;
        }
        self.file.as_ref().map_or(Ok(()), |file| write!(f, ":{file}"))
    }
}

/// One file of a repository.
#[derive(Clone, Debug)]
pub struct RemoteFile {
    /// Its path in the repository, checked to stay within it.
    pub path: String,
    /// Its length in bytes.
    pub size: u64,
    /// Its checksum: SHA-256 for large files, git's for small ones. The cache names the blob by its digits.
    pub checksum: Checksum,
}

/// What a repository holds at one commit.
pub struct Listing {
    /// The commit's 40 digits.
    pub commit: String,
    /// Its files.
    pub files: Vec<RemoteFile>,
    /// Its licence, where its card names one.
    pub licence: Option<String>,
}

/// The hub as this user sees it.
pub struct Hub<'a> {
    net: &'a Net,
    endpoint: String,
    token: Option<String>,
}

impl<'a> Hub<'a> {
    /// The hub that the environment names, by the given way out.
    pub fn new(net: &'a Net) -> Hub<'a> {
        Hub { net, endpoint: places::hub_endpoint(), token: places::hub_token() }
    }

    /// Asks what a repository holds.
    pub fn list(&self, spec: &Spec) -> Result<Listing> {
        let url = format!(
            "{}/api/models/{}/revision/{}?blobs=true",
            self.endpoint,
            spec.repo,
            escape(&spec.revision, true)
        );
        if self.net.offline() {
            return Err(Net::refusal(&format!("hf:{}", spec.repo)));
        }
        let answer = self.net.json(&url, self.token.as_deref()).map_err(|f| self.explain(f, spec, None))?;
        listing(&answer).map_err(|why| Error::source(format!("the hub's answer about {} {why}", spec.repo)))
    }

    /// Downloads one file of a listing to `to`.
    pub fn download(&self, spec: &Spec, commit: &str, remote: &RemoteFile, to: &Path) -> Result<()> {
        let name = remote.path.rsplit('/').next().unwrap_or(&remote.path);
        let download = Download {
            url: &self.url(spec, commit, remote),
            token: self.token.as_deref(),
            to,
            size: Some(remote.size),
            checksum: Some(&remote.checksum),
            label: &format!("{} from the Hugging Face hub", terminal::clean(name)),
        };
        self.net.download(&download).map_err(|f| self.explain(f, spec, Some(&remote.path)))
    }

    fn url(&self, spec: &Spec, commit: &str, remote: &RemoteFile) -> String {
        format!("{}/{}/resolve/{commit}/{}", self.endpoint, spec.repo, escape(&remote.path, false))
    }

    fn explain(&self, failure: Failure, spec: &Spec, file: Option<&str>) -> Error {
        let what = match file {
            Some(file) => format!("{}:{}", spec.repo, terminal::clean(file)),
            None => spec.repo.clone(),
        };
        let page = format!("{}/{}", self.endpoint, spec.repo);
        let token = self.token.is_some();
        Error::source(match failure {
            Failure::Status(_, Some(code)) if code == "GatedRepo" => format!(
                "{what} is gated: accept its terms at {page} and set HF_TOKEN to a token of that account"
            ),
            Failure::Status(401 | 403, _) if token => {
                format!(
                    "the hub refuses {what} to your token (HF_TOKEN): check the name and your access at {page}"
                )
            }
            Failure::Status(401 | 403, _) => format!(
                "the hub has no public {what}: check the name, or set HF_TOKEN if it is private or gated ({page})"
            ),
            Failure::Status(404, Some(code)) if code == "RevisionNotFound" => {
                format!("{} has no revision {}", spec.repo, spec.revision)
            }
            Failure::Status(404, _) => format!("the hub has no {what}: check the name at {page}"),
            other => return other.explain(&format!("{what} from the Hugging Face hub")),
        })
    }
}

/// Percent-encodes a path's segments (RFC 3986's unreserved characters stay).
fn escape(path: &str, slash: bool) -> String {
    path.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => (b as char).to_string(),
            b'/' if !slash => "/".into(),
            _ => format!("%{b:02X}"),
        })
        .collect()
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Reads the hub's answer; the error continues a sentence.
fn listing(answer: &Value) -> Result<Listing, String> {
    let commit = answer["sha"].as_str().filter(|s| is_hex(s, 40)).ok_or("names no commit")?;
    let mut files = Vec::new();
    for sibling in answer["siblings"].as_array().ok_or("lists no files")? {
        let path = sibling["rfilename"].as_str().ok_or("lists a file without a name")?;
        if let Some(why) = naming::hostile(path) {
            return Err(format!("names a file {:?} that is refused: {why}", terminal::clean(path)));
        }
        let lfs = &sibling["lfs"];
        let size = lfs["size"].as_u64().or(sibling["size"].as_u64());
        let sha256 = lfs["sha256"].as_str().filter(|s| is_hex(s, 64));
        let git = sibling["blobId"].as_str().filter(|s| is_hex(s, 40) && lfs.is_null());
        let (Some(size), Some(checksum)) = (
            size,
            sha256
                .map(|s| Checksum::Sha256(s.into()))
                .or(git.zip(size).map(|(g, n)| Checksum::Git(g.into(), n))),
        ) else {
            return Err(format!("gives no length and checksum for {}", terminal::clean(path)));
        };
        files.push(RemoteFile { path: path.into(), size, checksum });
    }
    let licence = answer["cardData"]["license"].as_str().map(String::from).or_else(|| {
        let tags = answer["tags"].as_array()?;
        tags.iter().find_map(|t| t.as_str()?.strip_prefix("license:").map(String::from))
    });
    Ok(Listing { commit: commit.into(), files, licence: licence.map(|l| terminal::clean(&l)) })
}

/// The GGUF models of a repository: the parts of each in order, by the name that they share.
fn groups(listing: &Listing) -> BTreeMap<&str, Vec<&RemoteFile>> {
    let mut groups: BTreeMap<&str, Vec<&RemoteFile>> = BTreeMap::new();
    for f in listing.files.iter().filter(|f| naming::is_model(&f.path)) {
        let group = naming::split(&f.path).map_or(f.path.as_str(), |(stem, ..)| stem);
        groups.entry(group).or_default().push(f);
    }
    groups.values_mut().for_each(|files| files.sort_by_key(|f| &f.path));
    groups
}

/// The length of files together.
fn bytes(files: &[&RemoteFile]) -> u64 {
    files.iter().fold(0, |n, f| n.saturating_add(f.size))
}

/// Which files of a repository make the model asked for: one GGUF (all its parts), or the weights in safetensors
/// with what belongs to them. An ambiguous request is answered with the choices.
pub fn choose<'a>(listing: &'a Listing, spec: &Spec) -> Result<Vec<&'a RemoteFile>> {
    let groups = groups(listing);
    let choices = |groups: &BTreeMap<&str, Vec<&RemoteFile>>| {
        let lines = groups.values().map(|files| {
            let (file, size) = (terminal::clean(&files[0].path), terminal::bytes(bytes(files)));
            format!("\n  hf:{}:{file}  ({size})", spec.repo)
        });
        lines.collect::<String>()
    };
    if let Some(wanted) = &spec.file {
        if let Some(file) = listing.files.iter().find(|f| f.path == *wanted) {
            let group = groups.values().find(|g| g.iter().any(|f| f.path == file.path));
            return Ok(group.cloned().unwrap_or_else(|| vec![file]));
        }
        let quantized = |g: &&Vec<&RemoteFile>| {
            naming::quantization(&g[0].path).is_some_and(|q| q.eq_ignore_ascii_case(wanted))
        };
        let matching: Vec<_> = groups.values().filter(quantized).collect();
        return match matching[..] {
            [one] => Ok(one.clone()),
            _ => Err(Error::source(format!(
                "{} has no file {}{}{}",
                spec.repo,
                terminal::clean(wanted),
                if groups.is_empty() { "" } else { "; its models are:" },
                choices(&groups)
            ))),
        };
    }
    if !groups.is_empty() {
        if groups.len() == 1 {
            return Ok(groups.into_values().next().unwrap_or_default());
        }
        let preferred: Vec<_> = groups
            .values()
            .filter(|g| naming::quantization(&g[0].path).as_deref() == Some("Q4_K_M"))
            .collect();
        return match preferred[..] {
            [one] => Ok(one.clone()),
            _ => Err(Error::source(format!(
                "{} holds several models; name one of them:{}",
                spec.repo,
                choices(&groups)
            ))),
        };
    }
    let top = |f: &&RemoteFile| !f.path.contains('/');
    let mut weights: Vec<_> =
        listing.files.iter().filter(top).filter(|f| f.path.ends_with(".safetensors")).collect();
    // Some repositories hold the same weights twice, the second time in their author's own naming.
    if weights.iter().any(|f| f.path.starts_with("model")) {
        weights.retain(|f| f.path.starts_with("model"));
    }
    if weights.is_empty() || !listing.files.iter().any(|f| f.path == "config.json") {
        return Err(Error::source(format!(
            "{} holds no model that Hob reads: neither a GGUF file nor safetensors with a config.json",
            spec.repo
        )));
    }
    let mut files: Vec<_> = listing.files.iter().filter(|f| naming::is_companion(&f.path)).collect();
    files.extend(weights);
    Ok(files)
}

/// The folder of a repository in the cache.
pub fn repo_dir(cache: &Path, repo: &str) -> PathBuf {
    cache.join(format!("models--{}", repo.replace('/', "--")))
}

/// Fetches the chosen files into the cache, and gives the model's path there: its GGUF file or its folder.
pub fn fetch(
    hub: &Hub,
    cache: &Path,
    spec: &Spec,
    listing: &Listing,
    files: &[&RemoteFile],
) -> Result<PathBuf> {
    let dir = repo_dir(cache, &spec.repo);
    let snapshot = dir.join("snapshots").join(&listing.commit);
    let blobs = dir.join("blobs");
    file::make_dir(&blobs)?;
    file::make_dir(&snapshot)?;
    let missing = |f: &&&RemoteFile| !is_cached(&blobs, &snapshot, f);
    let need = files.iter().filter(missing).fold(0u64, |n, f| n.saturating_add(f.size));
    hub.net.transfer.expect(need);
    let done = file::check_space(&blobs, need).and_then(|()| {
        files.iter().try_for_each(|f| {
            let blob = blobs.join(f.checksum.hex());
            if !is_cached(&blobs, &snapshot, f) {
                hub.download(spec, &listing.commit, f, &blob)?;
            }
            if blob.exists() { link(&blob, &snapshot, f) } else { Ok(()) }
        })
    });
    if let Err(e) = done {
        remove_empty(&[&snapshot, &dir.join("snapshots"), &blobs, &dir]);
        return Err(e);
    }
    if spec.revision != listing.commit {
        let name = dir.join("refs").join(&spec.revision);
        file::make_dir(name.parent().unwrap_or(&dir))?;
        file::write(&name, listing.commit.as_bytes())?;
    }
    Ok(match files.iter().find(|f| naming::is_gguf(&f.path)) {
        Some(gguf) => snapshot.join(&gguf.path),
        None => snapshot,
    })
}

/// Whether a file lies in the cache already, with its length: a blob bears its checksum as its name.
fn is_cached(blobs: &Path, snapshot: &Path, remote: &RemoteFile) -> bool {
    let right = |p: &Path| fs::metadata(p).is_ok_and(|m| m.is_file() && m.len() == remote.size);
    // Where links are not allowed, other tools put the file itself into the snapshot.
    let plain = |p: &Path| fs::symlink_metadata(p).is_ok_and(|m| m.is_file());
    let pointer = snapshot.join(&remote.path);
    right(&blobs.join(remote.checksum.hex())) || (plain(&pointer) && right(&pointer))
}

/// Makes the snapshot's name for a blob: a relative link, so that the cache can be moved.
fn link(blob: &Path, snapshot: &Path, remote: &RemoteFile) -> Result<()> {
    let pointer = snapshot.join(&remote.path);
    let target = "../".repeat(remote.path.split('/').count() + 1) + "blobs/" + remote.checksum.hex();
    if fs::read_link(&pointer).is_ok_and(|t| t == Path::new(&target)) {
        return Ok(());
    }
    file::make_dir(pointer.parent().unwrap_or(snapshot))?;
    let temporary = file::beside(&pointer, &format!(".{}.tmp", std::process::id()));
    let made = match symlink(&target, &temporary) {
        Ok(()) => fs::rename(&temporary, &pointer),
        Err(_) => fs::rename(blob, &pointer), // no links here (as on Windows without the right): the file itself
    };
    made.map_err(|e| {
        let _ = fs::remove_file(&temporary);
        Error::io("write", &pointer, &e)
    })
}

#[cfg(unix)]
fn symlink(target: &str, name: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, name)
}

#[cfg(windows)]
fn symlink(target: &str, name: &Path) -> std::io::Result<()> {
    std::os::windows::fs::symlink_file(target.replace('/', "\\"), name)
}

/// Removes folders that hold nothing, innermost first; the rest stay.
pub fn remove_empty(dirs: &[&Path]) {
    for dir in dirs {
        let _ = fs::remove_dir(dir);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repo(files: &[&str]) -> Listing {
        let file = |p: &&str| RemoteFile {
            path: p.to_string(),
            size: 1,
            checksum: Checksum::Sha256("0".repeat(64)),
        };
        Listing { commit: "0".repeat(40), files: files.iter().map(file).collect(), licence: None }
    }

    fn chosen(files: &[&str], spec: &str) -> Result<Vec<String>, String> {
        let (listing, spec) = (repo(files), Spec::parse(spec).unwrap());
        let names = choose(&listing, &spec).map(|f| f.iter().map(|f| f.path.clone()).collect());
        names.map_err(|e| e.to_string())
    }

    #[test]
    fn specs() {
        let spec = Spec::parse("o/n@v1:d/f.gguf").unwrap();
        assert_eq!((spec.repo.as_str(), spec.revision.as_str()), ("o/n", "v1"));
        assert_eq!(spec.file.as_deref(), Some("d/f.gguf"));
        for bad in ["", "o", "o/", "/n", "o/n/x", "../n", "o/..", "o/n:", "o/n:../f", "o/n@", "o/n@../x"] {
            assert!(Spec::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn choices() {
        let quants = ["a-Q4_K_M.gguf", "a-Q8_0.gguf", "mmproj-a.gguf", "README.md"];
        assert_eq!(chosen(&quants, "o/n").unwrap(), ["a-Q4_K_M.gguf"]);
        assert_eq!(chosen(&quants, "o/n:q8_0").unwrap(), ["a-Q8_0.gguf"]);
        assert_eq!(chosen(&quants, "o/n:a-Q8_0.gguf").unwrap(), ["a-Q8_0.gguf"]);
        assert!(chosen(&quants, "o/n:x").unwrap_err().contains("hf:o/n:a-Q8_0.gguf"));
        assert!(chosen(&["a-Q5_0.gguf", "a-Q8_0.gguf"], "o/n").unwrap_err().contains("several"));
        let split = ["a-Q4_0-00001-of-00002.gguf", "a-Q4_0-00002-of-00002.gguf"];
        assert_eq!(chosen(&split, "o/n").unwrap(), split);
        assert_eq!(chosen(&split, "o/n:Q4_0").unwrap(), split);
        let folder =
            ["config.json", "consolidated.safetensors", "model.safetensors", "tokenizer.json", "x.bin"];
        assert_eq!(chosen(&folder, "o/n").unwrap(), ["config.json", "tokenizer.json", "model.safetensors"]);
        assert!(chosen(&["pytorch_model.bin"], "o/n").unwrap_err().contains("no model"));
    }

    #[test]
    fn paths_are_escaped() {
        assert_eq!(escape("a b/ü?.gguf", false), "a%20b/%C3%BC%3F.gguf");
        assert_eq!(escape("refs/pr/1", true), "refs%2Fpr%2F1");
    }
}
