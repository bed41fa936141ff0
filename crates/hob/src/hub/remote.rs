//! A model of the hub by its headers alone: the beginnings of its files are read, never its weights.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use hob_io::safetensors::{Header, Index};
use hob_io::{Checkpoint, Gguf, Safetensors};

use super::{Hub, Listing, RemoteFile, Spec, bytes, choose, groups};
use crate::error::{Error, Result};
use crate::file::Hasher;
use crate::net::Slice;
use crate::{naming, terminal};

/// The most that is read of one model. Of real ones, a GGUF's header takes up to 15 MB, and those of the safetensors of
/// a model of 10¹² weights 40 MB with their index.
const LIMIT: u64 = 64 << 20;
/// Of a companion such as `config.json`; the longest real ones have little over a megabyte.
const COMPANION: u64 = 4 << 20;
/// No model is near it; beyond, sums of lengths could not be relied on.
const LARGEST: u64 = 1 << 46;
/// The first request for a GGUF: a small model's header, or enough of a larger one's to see how it goes on.
const GGUF: u64 = 512 << 10;
/// The first request for a later part of a split GGUF, which has no vocabulary.
const LATER_PART: u64 = 64 << 10;
/// The first request for a safetensors file whose header nothing tells about.
const SAFETENSORS: u64 = 128 << 10;
/// Requests at the same time.
const AT_ONCE: usize = 8;

/// A model that is not on this machine, by its headers.
#[derive(Debug)]
pub struct Remote {
    /// The model as its headers and companions describe it; it has no data ([`Checkpoint::has_data`] is false).
    pub checkpoint: Checkpoint,
    /// Bytes of all files that fetching it would bring.
    pub bytes: u64,
    /// Bytes that were read now.
    pub fetched: u64,
    /// Bytes of `tokenizer.json`, which was not read; `None` where the header holds the tokenizer, as in a GGUF.
    pub tokenizer_bytes: Option<u64>,
    /// What a person types to name it: `hf:owner/repo` or `hf:owner/repo:file`.
    pub name: String,
    /// The repository's GGUF models, of which this is one; see [`variants`].
    pub variants: Vec<Variant>,
}

/// One of a repository's GGUF models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variant {
    /// What a person types to name it: `hf:owner/repo:file`.
    pub name: String,
    /// As the file's name has it, such as `Q4_K_M`.
    pub quantization: Option<String>,
    /// Bytes of its files together.
    pub bytes: u64,
}

/// The whole GGUF models of a repository, the smallest first; no header is fetched. None for a repository of safetensors.
pub fn variants(listing: &Listing, spec: &Spec) -> Vec<Variant> {
    let variant = |files: Vec<&RemoteFile>| {
        let of = naming::split(&files[0].path).map_or(1, |(_, _, of)| of as usize);
        (files.len() == of).then(|| Variant {
            name: named(spec, &files[0].path),
            quantization: naming::quantization(&files[0].path),
            bytes: bytes(&files),
        })
    };
    let mut variants: Vec<Variant> = groups(listing).into_values().filter_map(variant).collect();
    variants.sort_by(|a, b| (a.bytes, &a.name).cmp(&(b.bytes, &b.name)));
    variants
}

/// Asks the hub what a repository holds, and reads the headers of the model asked for: see [`headers_of`].
pub fn headers(hub: &Hub, spec: &Spec) -> Result<Remote> {
    headers_of(hub, spec, &hub.list(spec)?)
}

/// Reads the headers of the model that [`choose`] takes of a listing: a few MB at most, by requests for ranges.
///
/// Errors: those of [`choose`]; the hub refuses or cannot be reached; a header is damaged, longer than 64 MiB, or of a
/// format that is not read; a part of the model is missing.
pub fn headers_of(hub: &Hub, spec: &Spec, listing: &Listing) -> Result<Remote> {
    let files = choose(listing, spec)?;
    let gguf = files.iter().all(|f| naming::is_gguf(&f.path));
    let name = if gguf { named(spec, &files[0].path) } else { spec.to_string() };
    let bytes = bytes(&files);
    if bytes > LARGEST {
        let (name, bytes) = (terminal::clean(&name), terminal::bytes(bytes));
        return Err(Error::source(format!("the hub says that {name} has {bytes}, more than any model")));
    }
    let spinner = terminal::spinner(&format!("reading the header of {name}"));
    let reading =
        Reading { hub, spec, commit: &listing.commit, name: &name, left: LIMIT.into(), read: 0.into() };
    let checkpoint = if gguf { reading.gguf(&files) } else { reading.safetensors(&files) };
    spinner.finish_and_clear();
    let mut checkpoint = checkpoint?.or_licence(listing.licence.clone());
    checkpoint.path = PathBuf::from(&name);
    let tokenizer = files.iter().find(|f| f.path == "tokenizer.json");
    let (fetched, tokenizer_bytes) = (reading.read.into_inner(), tokenizer.map(|f| f.size));
    Ok(Remote { checkpoint, bytes, fetched, tokenizer_bytes, name, variants: variants(listing, spec) })
}

/// The name of a file of the repository.
fn named(spec: &Spec, file: &str) -> String {
    Spec { file: Some(file.into()), ..spec.clone() }.to_string()
}

/// Headers being read.
struct Reading<'a> {
    hub: &'a Hub<'a>,
    spec: &'a Spec,
    commit: &'a str,
    name: &'a str,
    /// Bytes that may still be read.
    left: AtomicU64,
    /// Bytes that were read.
    read: AtomicU64,
}

impl Reading<'_> {
    fn gguf(&self, files: &[&RemoteFile]) -> Result<Checkpoint> {
        let mut parts = self.all(files, |i, file| {
            let first = if i == 0 { GGUF } else { LATER_PART };
            self.header(file, first, |bytes, path| Gguf::parse_header(bytes, file.size, path))
        })?;
        let later = parts.split_off(1);
        let first = parts.swap_remove(0);
        first.with_parts(later).and_then(Checkpoint::from_gguf).map_err(damaged)
    }

    fn safetensors(&self, files: &[&RemoteFile]) -> Result<Checkpoint> {
        let find = |name: &str| files.iter().copied().find(|f| f.path == name);
        let names = files.iter().map(|f| f.path.clone()).collect();
        let (folder, path) = (self.path(""), hob_io::model_among(&self.path(""), names).map_err(damaged)?);
        let file = path.strip_prefix(&folder).ok().and_then(Path::to_str).unwrap_or_default();
        let mut companions = BTreeMap::new();
        // As Checkpoint reads them: the template of the tokenizer's configuration counts where there is no other.
        let template = ["chat_template.jinja", "tokenizer_config.json"].into_iter().find_map(find);
        for f in ["config.json", "generation_config.json"].into_iter().filter_map(find).chain(template) {
            companions.insert(f.path.as_str(), self.whole(f, COMPANION)?);
        }
        let (index, weights, first) = match find(file).filter(|f| f.path.ends_with(".json")) {
            Some(f) => {
                let index = Index::parse(&self.whole(f, LIMIT)?, &path).map_err(damaged)?;
                let weights = index.files().iter().map(|name| {
                    let missing =
                        || format!("{} lists {name:?}, which {} does not have", f.path, self.spec.repo);
                    find(name).ok_or_else(|| Error::source(terminal::clean(&missing())))
                });
                let weights = weights.collect::<Result<Vec<_>>>()?;
                // A header says little more of a tensor than the index does.
                let each = f.size / weights.len().max(1) as u64 * 2;
                (Some(index), weights, each.clamp(16 << 10, SAFETENSORS))
            }
            None => (None, find(file).into_iter().collect(), SAFETENSORS),
        };
        let headers = self
            .all(&weights, |_, f| self.header(f, first, |bytes, path| Header::parse(bytes, f.size, path)))?;
        Safetensors::from_headers(headers, index.as_ref())
            .and_then(|w| Checkpoint::from_safetensors(w, &path, |name| Ok(companions.get(name).cloned())))
            .map_err(damaged)
    }

    /// A file of the repository, as errors name it.
    fn path(&self, file: &str) -> PathBuf {
        Path::new(&format!("hf:{}", self.spec.repo)).join(file)
    }

    /// Reads a file's beginning until `parse` has its header.
    fn header<T>(
        &self,
        file: &RemoteFile,
        first: u64,
        parse: impl Fn(&[u8], &Path) -> hob_io::Result<T>,
    ) -> Result<T> {
        let path = self.path(&file.path);
        let mut bytes = Vec::new();
        let (mut needed, mut wanted) = (1, first);
        loop {
            let have = bytes.len() as u64;
            let room = have.saturating_add(self.left.load(Ordering::Relaxed));
            wanted = wanted.min(file.size).min(room.max(needed));
            bytes.append(&mut self.range(file, have..wanted)?);
            let have = bytes.len() as u64;
            match parse(&bytes, &path) {
                Err(hob_io::Error::NeedMore { needed: n, likely, .. }) if have < file.size => {
                    // Never so little more that it takes many requests, nor much more on the word of a few strings.
                    wanted = likely.min(4 * have).max(have + have / 4).max(n);
                    needed = n;
                }
                done => return done.map_err(damaged),
            }
        }
    }

    /// A small file, verified.
    fn whole(&self, file: &RemoteFile, limit: u64) -> Result<String> {
        let path = self.path(&file.path);
        let wrong = |what: String| Error::source(terminal::clean(&format!("{} {what}", path.display())));
        if file.size > limit {
            let (size, limit) = (terminal::bytes(file.size), terminal::bytes(limit));
            return Err(wrong(format!("has {size}, and {limit} are the most that such a file may have")));
        }
        let bytes = self.range(file, 0..file.size)?;
        let mut hasher = Hasher::new(Some(&file.checksum));
        hasher.update(&bytes);
        if hasher.finish().as_deref() != Some(file.checksum.hex()) {
            return Err(wrong("came with another checksum than was announced; try again later".into()));
        }
        String::from_utf8(bytes).map_err(|_| wrong("is damaged: it is not valid UTF-8".into()))
    }

    fn range(&self, file: &RemoteFile, range: std::ops::Range<u64>) -> Result<Vec<u8>> {
        let len = range.end.saturating_sub(range.start);
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(len)).is_err()
        {
            return Err(Error::source(format!(
                "the header of {name} is longer than the {} that are read of a model elsewhere; fetch the whole with: \
                 hob pull {name}",
                terminal::bytes(LIMIT),
                name = terminal::clean(self.name)
            )));
        }
        let slice = Slice {
            url: &self.hub.url(self.spec, self.commit, file),
            token: self.hub.token.as_deref(),
            range,
            total: file.size,
            label: &terminal::clean(&self.path(&file.path).display().to_string()),
        };
        let piece = self.hub.net.range(&slice);
        let piece = piece.map_err(|f| self.hub.explain(f, self.spec, Some(&file.path)))?;
        self.read.fetch_add(piece.read, Ordering::Relaxed);
        // What was read past counts too.
        let past = piece.read.saturating_sub(len);
        let less = |left: u64| Some(left.saturating_sub(past));
        let _ = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        Ok(piece.bytes)
    }

    /// Reads something of each file, several at the same time; the results are in order. Ends soon after a failure.
    fn all<T: Send>(
        &self,
        files: &[&RemoteFile],
        read: impl Fn(usize, &RemoteFile) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        let next = AtomicUsize::new(0);
        let results = Mutex::new(Vec::new());
        let work = || {
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                let Some(file) = files.get(i) else { return };
                let result = read(i, file);
                if result.is_err() {
                    next.store(files.len(), Ordering::Relaxed);
                }
                results.lock().unwrap_or_else(|e| e.into_inner()).push((i, result));
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..files.len().min(AT_ONCE) {
                scope.spawn(work);
            }
            work();
        });
        let mut results = results.into_inner().unwrap_or_else(|e| e.into_inner());
        results.sort_by_key(|(i, _)| *i);
        results.into_iter().map(|(_, result)| result).collect()
    }
}

/// The files are the hub's, and so are the names in them.
fn damaged(e: hob_io::Error) -> Error {
    Error::source(terminal::clean(&e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::Checksum;
    use crate::net::Net;

    fn listing(files: &[(&str, u64)]) -> Listing {
        let file = |(path, size): &(&str, u64)| RemoteFile {
            path: path.to_string(),
            size: *size,
            checksum: Checksum::Sha256("0".repeat(64)),
        };
        Listing { commit: "0".repeat(40), files: files.iter().map(file).collect(), licence: None }
    }

    #[test]
    fn variants_are_listed_smallest_first() {
        let listing = listing(&[
            ("config.json", 1),
            ("m-Q8_0.gguf", 80),
            ("m-Q4_K_M.gguf", 40),
            ("mmproj-m-F16.gguf", 5),
            ("big/m-BF16-00002-of-00002.gguf", 70),
            ("big/m-BF16-00001-of-00002.gguf", 90),
            ("m-Q2_K-00001-of-00002.gguf", 10), // the other half is missing
            ("plain.gguf", 40),
        ]);
        let spec = Spec::parse("o/n@v1").unwrap();
        let found: Vec<_> = variants(&listing, &spec)
            .into_iter()
            .map(|v| (v.name, v.quantization.unwrap_or_default(), v.bytes))
            .collect();
        let expected = [
            ("hf:o/n@v1:m-Q4_K_M.gguf", "Q4_K_M", 40),
            ("hf:o/n@v1:plain.gguf", "", 40),
            ("hf:o/n@v1:m-Q8_0.gguf", "Q8_0", 80),
            ("hf:o/n@v1:big/m-BF16-00001-of-00002.gguf", "BF16", 160),
        ];
        let expected: Vec<_> = expected.iter().map(|(n, q, b)| (n.to_string(), q.to_string(), *b)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_no_model_has_is_refused_unasked() {
        let net = Net::new(true);
        let hub = Hub::new(&net);
        let open = |files: &[(&str, u64)], spec: &str| {
            headers_of(&hub, &Spec::parse(spec).unwrap(), &listing(files)).unwrap_err().to_string()
        };
        let huge = u64::MAX / 2 + 1;
        let text = open(&[("m-00001-of-00002.gguf", huge), ("m-00002-of-00002.gguf", huge)], "o/n");
        assert!(text.contains("hf:o/n:m-00001-of-00002.gguf has 18.4 EB, more than any model"), "{text}");
        assert!(open(&[("notes.txt", 9)], "o/n:notes.txt").contains("no GGUF or safetensors"));
        let long = [("config.json", COMPANION + 1), ("model.safetensors", 9)];
        assert!(open(&long, "o/n").contains("hf:o/n/config.json has 4.2 MB, and 4.2 MB are the most"));
        assert!(open(&[("m.gguf", 1 << 30)], "o/n").contains("offline: "));
    }
}
