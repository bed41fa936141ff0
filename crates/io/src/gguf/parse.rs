//! The header: every number in it is checked before it is believed, and nothing is allocated on its word alone.

use super::value::{Array, Kind, Value, fixed};
use crate::{Error, Result, Tensor, tensor::no_overlap};
use hob_dtype::DType;
use std::{collections::BTreeMap, ops::Range, path::Path};

/// ggml's limit.
const MAX_DIMS: u32 = 4;
/// GGUF's limit for keys; taken for tensor names too.
const MAX_NAME: usize = 65_535;
const DEFAULT_ALIGNMENT: u64 = 32;
/// Far beyond any model: what a header may make us keep stays small, however long it is.
const MAX_ENTRIES: u64 = 1 << 16;
const MAX_TENSORS: u64 = 1 << 18;
/// The least bytes of a metadata entry: the length of its key, its type, and a value of one byte.
const LEAST_ENTRY: u64 = 8 + 4 + 1;
/// The least bytes of a tensor's description: the length of its name, no dimensions, its format and offset.
const LEAST_TENSOR: u64 = 8 + 4 + 4 + 8;

#[derive(Debug)]
pub(super) struct Header {
    pub version: u32,
    pub entries: BTreeMap<String, Entry>,
    pub tensors: Vec<Tensor>,
    /// Bytes up to the end of the tensor descriptions.
    pub len: usize,
}

/// Where a metadata value lies. Its contents were validated.
#[derive(Debug)]
pub(super) struct Entry {
    kind: Kind,
    /// For arrays: the type and number of the elements.
    elements: Option<(Kind, usize)>,
    range: Range<usize>,
}

impl Entry {
    pub fn value<'a>(&self, bytes: &'a [u8]) -> Value<'a> {
        let data = &bytes[self.range.clone()];
        match (self.kind, self.elements) {
            (_, Some((kind, len))) => Value::Array(Array { kind, len, data }),
            (Kind::Str, _) => {
                Value::Str(std::str::from_utf8(data).expect("checked when the header was read"))
            }
            (kind, None) => kind.scalar(data),
        }
    }
}

impl Header {
    /// Reads the header from the first `bytes` of a file of `file_len` bytes.
    pub fn parse(bytes: &[u8], file_len: u64, path: &Path) -> Result<Header> {
        let given = bytes.len().min(usize::try_from(file_len).unwrap_or(usize::MAX));
        let mut r = Reader { bytes: &bytes[..given], at: 0, owed: 0, file_len, path };
        if r.take(4)? != b"GGUF" {
            return Err(Error::unsupported(path, "it is not a GGUF file; give the path of one"));
        }
        let version = r.u32()?;
        match version {
            2 | 3 => {}
            v if v.swap_bytes() == 2 || v.swap_bytes() == 3 => {
                let what = "it is written for big-endian machines; convert it to little endian";
                return Err(Error::unsupported(path, what));
            }
            1 => {
                return Err(Error::unsupported(
                    path,
                    "GGUF version 1 is no longer read; convert the model again",
                ));
            }
            v => {
                let what =
                    format!("it has GGUF version {v}, and versions 2 and 3 are read; a newer Hob may do");
                return Err(Error::unsupported(path, what));
            }
        }
        let tensor_count = r.u64()?;
        let entry_count = r.u64()?;
        r.plausible(tensor_count, LEAST_TENSOR, "tensors")?;
        r.plausible(entry_count, LEAST_ENTRY, "metadata entries")?;
        for (count, most, things) in
            [(tensor_count, MAX_TENSORS, "tensors"), (entry_count, MAX_ENTRIES, "metadata entries")]
        {
            if count > most {
                return Err(Error::unsupported(
                    path,
                    format!("it has {count} {things}, and {most} are the most"),
                ));
            }
        }
        r.owed = tensor_count * LEAST_TENSOR + entry_count * LEAST_ENTRY;

        let mut entries = BTreeMap::new();
        for _ in 0..entry_count {
            r.owed = r.owed.saturating_sub(LEAST_ENTRY);
            let key = r.name("a metadata key")?.to_owned();
            let entry = r.entry(&key)?;
            if entries.contains_key(&key) {
                return Err(r.damaged(format!("the metadata key {key:?} occurs twice")));
            }
            entries.insert(key, entry);
        }
        let alignment = match entries.get("general.alignment").map(|e: &Entry| e.value(r.bytes)) {
            None => DEFAULT_ALIGNMENT,
            Some(value) => match value.u64() {
                Some(n) if n.is_power_of_two() && n <= 1 << 30 => n,
                _ => return Err(r.damaged("general.alignment is not a sensible power of two".into())),
            },
        };

        let mut tensors = Vec::new();
        for _ in 0..tensor_count {
            r.owed = r.owed.saturating_sub(LEAST_TENSOR);
            tensors.push(r.tensor(alignment)?);
        }
        let len = r.at;
        // Padding may be absent when there is no tensor data; the range check below covers every other case.
        let data =
            (len as u64).checked_next_multiple_of(alignment).ok_or_else(|| r.short("the tensor data"))?;
        for tensor in &mut tensors {
            let end = data.checked_add(tensor.offset).and_then(|begin| begin.checked_add(tensor.len as u64));
            match end {
                Some(end) if end <= file_len => tensor.offset += data,
                _ => {
                    return Err(r.damaged(format!(
                        "the data of tensor {:?} would lie past the end of the file ({file_len} bytes), which may have \
                         been cut off",
                        tensor.stored_name
                    )));
                }
            }
        }
        no_overlap(&tensors).map_err(|what| r.damaged(what))?;
        Ok(Header { version, entries, tensors, len })
    }
}

/// A cursor over the bytes given, which knows how long the file is.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Bytes that must follow, at least, the thing that is being read.
    owed: u64,
    file_len: u64,
    path: &'a Path,
}

impl<'a> Reader<'a> {
    fn damaged(&self, what: String) -> Error {
        Error::damaged(self.path, what)
    }

    fn short(&self, wanted: &str) -> Error {
        self.damaged(format!("its {} bytes end within {wanted}", self.file_len))
    }

    /// The bytes given end before `end`, and what is owed follows that.
    fn need_more(&self, end: u64) -> Error {
        match end.checked_add(self.owed).filter(|&needed| needed <= self.file_len) {
            Some(needed) => Error::NeedMore { path: self.path.into(), needed, likely: needed },
            None => self.short("the header"),
        }
    }

    /// The next `n` bytes.
    fn take(&mut self, n: u64) -> Result<&'a [u8]> {
        let end = (self.at as u64).checked_add(n).filter(|&end| end <= self.file_len);
        let end = end.ok_or_else(|| self.short("the header"))?;
        // When the bytes given are the whole file, the check above was the last.
        let bytes = usize::try_from(end).ok().and_then(|end| self.bytes.get(self.at..end));
        let bytes = bytes.ok_or_else(|| self.need_more(end))?;
        self.at = end as usize;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32> {
        self.take(4).map(|b| u32::from_le_bytes(fixed(b)))
    }

    fn u64(&mut self) -> Result<u64> {
        self.take(8).map(|b| u64::from_le_bytes(fixed(b)))
    }

    /// An error unless `count` things of at least `least` bytes each can follow in the file.
    fn plausible(&self, count: u64, least: u64, things: &str) -> Result<()> {
        match count.checked_mul(least) {
            Some(n) if n <= self.file_len - self.at as u64 => Ok(()),
            _ => Err(self
                .damaged(format!("it claims {count} {things}, more than its {} bytes hold", self.file_len))),
        }
    }

    fn string(&mut self) -> Result<&'a [u8]> {
        let len = self.u64()?;
        self.take(len)
    }

    fn name(&mut self, what: &str) -> Result<&'a str> {
        let bytes = self.string()?;
        if bytes.len() > MAX_NAME {
            return Err(self.damaged(format!("{what} is {} bytes long", bytes.len())));
        }
        std::str::from_utf8(bytes).map_err(|_| self.damaged(format!("{what} is not valid UTF-8")))
    }

    fn kind(&mut self, key: &str) -> Result<Kind> {
        let id = self.u32()?;
        Kind::from_id(id)
            .ok_or_else(|| self.damaged(format!("the value of {key:?} has the unknown type {id}")))
    }

    fn entry(&mut self, key: &str) -> Result<Entry> {
        let kind = self.kind(key)?;
        let mut elements = None;
        let data = match kind {
            Kind::Str => {
                let data = self.string()?;
                if std::str::from_utf8(data).is_err() {
                    return Err(self.damaged(format!("the text of {key:?} is not valid UTF-8")));
                }
                data
            }
            Kind::Array => {
                let (kind, len, data) = self.array(key)?;
                elements = Some((kind, len));
                data
            }
            _ => self.take(kind.size().unwrap_or(0) as u64)?,
        };
        let of_bools = kind == Kind::Bool || matches!(elements, Some((Kind::Bool, _)));
        if of_bools && data.iter().any(|&b| b > 1) {
            return Err(self.damaged(format!("{key:?} holds a truth value that is neither 0 nor 1")));
        }
        Ok(Entry { kind, elements, range: self.at - data.len()..self.at })
    }

    /// Element type, number of elements and bytes of an array, skipped in one pass.
    fn array(&mut self, key: &str) -> Result<(Kind, usize, &'a [u8])> {
        let kind = self.kind(key)?;
        let len = self.u64()?;
        let begin = self.at;
        match kind {
            Kind::Array => {
                return Err(
                    self.damaged(format!("{key:?} holds lists of lists, which GGUF readers do not accept"))
                );
            }
            Kind::Str => {
                self.plausible(len, 8, &format!("strings in {key:?}"))?;
                self.owed = self.owed.saturating_add(len * 8);
                for i in 0..len {
                    self.owed = self.owed.saturating_sub(8);
                    let at = self.at;
                    self.string().map_err(|e| self.projected(e, (at - begin) as u64, i, len))?;
                }
            }
            _ => {
                let size = kind.size().unwrap_or(1) as u64;
                self.plausible(len, size, &format!("values in {key:?}"))?;
                self.take(len * size)?;
            }
        }
        // `plausible` bounds it by the bytes just read.
        Ok((kind, len as usize, &self.bytes[begin..self.at]))
    }

    /// The strings to come are likely as long as those `done` of `len`, which took `bytes`.
    fn projected(&self, error: Error, bytes: u64, done: u64, len: u64) -> Error {
        match error {
            Error::NeedMore { path, needed, .. } => {
                let each = bytes.checked_div(done).unwrap_or(0).saturating_sub(8);
                let likely = needed.saturating_add(each.saturating_mul(len - done)).min(self.file_len);
                Error::NeedMore { path, needed, likely }
            }
            other => other,
        }
    }

    /// A tensor's description; its offset is still counted from the beginning of the tensor data.
    fn tensor(&mut self, alignment: u64) -> Result<Tensor> {
        let name = self.name("a tensor's name")?.to_owned();
        let dims = self.u32()?;
        if dims > MAX_DIMS {
            return Err(
                self.damaged(format!("tensor {name:?} has {dims} dimensions, and {MAX_DIMS} is the most"))
            );
        }
        let mut shape = Vec::new();
        for _ in 0..dims {
            let n = self.u64()?;
            let n = usize::try_from(n)
                .map_err(|_| self.damaged(format!("tensor {name:?} is {n} values wide")))?;
            shape.push(n);
        }
        let id = self.u32()?;
        let dtype = DType::from_ggml(id).ok_or_else(|| {
            let what = format!(
                "tensor {name:?} has the number format {id}, unknown here; take another quantization"
            );
            Error::unsupported(self.path, what)
        })?;
        let columns = shape.first().copied().unwrap_or(1);
        if !columns.is_multiple_of(dtype.block()) {
            return Err(self.damaged(format!(
                "rows of tensor {name:?} have {columns} values, no whole number of {dtype} blocks of {}",
                dtype.block()
            )));
        }
        // The elements are counted even if one dimension is 0, so that no product of a few dimensions overflows later.
        let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1)));
        let len = elements.and_then(|_| dtype.bytes(shape.iter().product()));
        let len = len.filter(|&n| n as u64 <= self.file_len);
        let len = len.ok_or_else(|| {
            self.damaged(format!("tensor {name:?} of {dtype} {shape:?} would be larger than the whole file"))
        })?;
        let offset = self.u64()?;
        if !offset.is_multiple_of(alignment) {
            return Err(
                self.damaged(format!("tensor {name:?} begins at {offset}, no multiple of {alignment}"))
            );
        }
        // ggml names the contiguous dimension first.
        shape.reverse();
        Ok(Tensor { stored_name: name, dtype, shape, file: 0, offset, len })
    }
}
