//! GGUF, versions 2 and 3, little endian: metadata and tensors of a model in one file, or split over several.
//!
//! Layout (ggml's `docs/gguf.md`): magic, version, counts, key-value pairs, tensor descriptions, padding, tensor data.
//! Opening reads the header alone. Long arrays, such as a vocabulary of 262,144 tokens, stay where they lie.

mod parse;
mod value;
pub mod write;

use crate::{Error, Result, Tensor, map::map};
use memmap2::Mmap;
use parse::Header;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};
pub use value::{Array, Value};
pub use write::Writer;

/// An open GGUF model: one file, or all parts of a split one.
///
/// The files are mapped, not read; they must not be truncated by another program meanwhile.
#[derive(Debug)]
pub struct Gguf {
    parts: Vec<Part>,
    tensors: Vec<Tensor>,
    index: HashMap<String, usize>,
}

#[derive(Debug)]
struct Part {
    path: PathBuf,
    file_len: u64,
    store: Store,
    header: Header,
}

/// The bytes behind a part: the whole file, or a copy of its header.
#[derive(Debug)]
enum Store {
    Map(Mmap),
    Header(Vec<u8>),
}

impl Store {
    fn bytes(&self) -> &[u8] {
        match self {
            Store::Map(map) => map,
            Store::Header(bytes) => bytes,
        }
    }
}

impl Gguf {
    /// Opens a GGUF file; any part of a split one (`…-00002-of-00003.gguf`) opens all its parts.
    ///
    /// Errors: the file cannot be read, is damaged, is of another version or byte order, holds a number format unknown
    /// here, or a part is missing.
    pub fn open(path: &Path) -> Result<Gguf> {
        let first = Part::open(path)?;
        let count = first.split_number("split.count")?.unwrap_or(1);
        if count <= 1 {
            return Gguf::join(vec![first]);
        }
        let number = first.split_number("split.no")?.unwrap_or(0);
        let Some(stem) = part_stem(path, number, count) else {
            return Err(Error::unsupported(
                path,
                format!(
                    "it is part {n} of a model split into {count} files, but its name does not end in \
                     -{n:05}-of-{count:05}.gguf, so the others cannot be found; give it back its name",
                    n = number + 1
                ),
            ));
        };
        let mut parts = Vec::new();
        let mut opened = Some(first);
        for no in 0..count {
            let part = if no == number
                && let Some(part) = opened.take()
            {
                part
            } else {
                let path = path.with_file_name(part_name(&stem, no, count));
                if !path.exists() {
                    return Err(Error::unsupported(
                        &path,
                        format!(
                            "part {} of the {count} parts of this model is missing; fetch it too",
                            no + 1
                        ),
                    ));
                }
                Part::open(&path)?
            };
            part.is_number(no, count)?;
            parts.push(part);
        }
        Gguf::join_split(parts)
    }

    /// Joins the parts of a split model, each read by [`Gguf::parse_header`]: this is the first, and `later` are the
    /// others in order. A model in one file takes none.
    ///
    /// Errors: a part is missing or too many, or is not the part that it should be; two hold the same tensor.
    pub fn with_parts(self, later: Vec<Gguf>) -> Result<Gguf> {
        let given = 1 + later.len() as u64;
        let mut parts = Vec::new();
        for mut gguf in std::iter::once(self).chain(later) {
            // One that was joined already is no part.
            let first = gguf.parts.swap_remove(0);
            if !gguf.parts.is_empty() {
                return Err(Error::unsupported(&first.path, "it is a whole model, and no part of one"));
            }
            parts.push(Part { header: Header { tensors: gguf.tensors, ..first.header }, ..first });
        }
        let count = parts[0].split_number("split.count")?.unwrap_or(1).max(1);
        if count != given {
            let what =
                format!("it is split into {count} files, but {given} of them are there; look for the others");
            return Err(Error::unsupported(&parts[0].path, what));
        }
        if count == 1 {
            return Gguf::join(parts);
        }
        for (part, no) in parts.iter().zip(0..) {
            part.is_number(no, count)?;
        }
        Gguf::join_split(parts)
    }

    fn join_split(parts: Vec<Part>) -> Result<Gguf> {
        let expected = parts[0].split_number("split.tensors.count")?;
        let path = parts[0].path.clone();
        let gguf = Gguf::join(parts)?;
        match expected {
            Some(n) if n != gguf.tensors.len() as u64 => Err(Error::damaged(
                &path,
                format!("its parts should hold {n} tensors together, but hold {}", gguf.tensors.len()),
            )),
            _ => Ok(gguf),
        }
    }

    /// Reads a header from the first `bytes` of a file of `file_len` bytes; `path` is for errors.
    ///
    /// The result has metadata and tensor descriptions but no tensor data ([`Gguf::bytes`] panics). A split file gives
    /// this part alone: see [`Gguf::with_parts`]. Every tensor's extent is checked against `file_len` as [`Gguf::open`]
    /// checks it. When the header does not end within `bytes`, the error is [`Error::NeedMore`].
    pub fn parse_header(bytes: &[u8], file_len: u64, path: &Path) -> Result<Gguf> {
        let header = Header::parse(bytes, file_len, path)?;
        let store = Store::Header(bytes[..header.len].to_vec());
        Gguf::join(vec![Part { path: path.into(), file_len, store, header }])
    }

    fn join(mut parts: Vec<Part>) -> Result<Gguf> {
        let mut tensors = Vec::new();
        let mut index = HashMap::new();
        for (file, part) in parts.iter_mut().enumerate() {
            for mut tensor in std::mem::take(&mut part.header.tensors) {
                tensor.file = file;
                if index.insert(tensor.stored_name.clone(), tensors.len()).is_some() {
                    let what = format!("the tensor {:?} occurs twice", tensor.stored_name);
                    return Err(Error::damaged(&part.path, what));
                }
                tensors.push(tensor);
            }
        }
        Ok(Gguf { parts, tensors, index })
    }

    /// The metadata value of `key`, for example `llama.block_count`.
    pub fn get(&self, key: &str) -> Option<Value<'_>> {
        self.parts[0].get(key)
    }

    /// All metadata, ordered by key.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, Value<'_>)> {
        let part = &self.parts[0];
        part.header.entries.iter().map(|(key, entry)| (key.as_str(), entry.value(part.store.bytes())))
    }

    /// `general.architecture`, for example `llama`.
    pub fn architecture(&self) -> Option<&str> {
        self.get("general.architecture").and_then(|v| v.str())
    }

    /// All tensors, in the files' order.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The tensor stored under `name`, for example `blk.0.attn_q.weight`.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.index.get(name).map(|&i| &self.tensors[i])
    }

    /// The stored bytes of one of this model's tensors.
    ///
    /// Panics when only a header was read ([`Gguf::parse_header`]), or when `tensor` belongs to another model.
    pub fn bytes(&self, tensor: &Tensor) -> &[u8] {
        let Store::Map(map) = &self.parts[tensor.file].store else {
            panic!("only the header of {} was read", self.path().display());
        };
        &map[tensor.offset as usize..][..tensor.len]
    }

    /// The first file.
    pub fn path(&self) -> &Path {
        &self.parts[0].path
    }

    /// All files, in order; [`Tensor::file`] counts them.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.parts.iter().map(|part| part.path.as_path())
    }

    /// The files' mappings, in order, for advice to the system about paging; none when only a header was read.
    pub fn maps(&self) -> impl Iterator<Item = &Mmap> {
        self.parts.iter().filter_map(|part| match &part.store {
            Store::Map(map) => Some(map),
            Store::Header(_) => None,
        })
    }

    /// Bytes of all files together.
    pub fn size_bytes(&self) -> u64 {
        self.parts.iter().fold(0, |n, part| n.saturating_add(part.file_len))
    }

    /// Bytes before the tensor data, of all files together.
    pub fn header_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.header.len as u64).sum()
    }

    /// GGUF's version: 2 or 3.
    pub fn version(&self) -> u32 {
        self.parts[0].header.version
    }
}

impl Part {
    fn open(path: &Path) -> Result<Part> {
        let map = map(path)?;
        let file_len = map.len() as u64;
        let header = Header::parse(&map, file_len, path)?;
        Ok(Part { path: path.into(), file_len, store: Store::Map(map), header })
    }

    fn get(&self, key: &str) -> Option<Value<'_>> {
        self.header.entries.get(key).map(|entry| entry.value(self.store.bytes()))
    }

    /// An error unless it says that it is part `no` (from 0) of `count`.
    fn is_number(&self, no: u64, count: u64) -> Result<()> {
        if self.split_number("split.count")? == Some(count) && self.split_number("split.no")? == Some(no) {
            return Ok(());
        }
        Err(Error::damaged(&self.path, format!("it does not say it is part {} of {count}", no + 1)))
    }

    fn split_number(&self, key: &str) -> Result<Option<u64>> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match value.u64() {
                Some(n) if n <= u16::MAX as u64 || key == "split.tensors.count" => Ok(Some(n)),
                _ => Err(Error::damaged(&self.path, format!("{key} is no sensible number"))),
            },
        }
    }
}

/// `stem` of a path named `{stem}-00002-of-00003.gguf`, when it is that part.
fn part_stem(path: &Path, number: u64, count: u64) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    name.strip_suffix(&part_name("", number, count)).map(str::to_owned)
}

fn part_name(stem: &str, number: u64, count: u64) -> String {
    format!("{stem}-{:05}-of-{count:05}.gguf", number + 1)
}
