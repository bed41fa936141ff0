//! safetensors: one file, or several listed by `model.safetensors.index.json`.
//!
//! A file is the header's length (u64), the header (JSON: name → dtype, shape, begin and end) and the tensors' bytes, little
//! endian (`format` section of the safetensors README).

use crate::{
    Error, Result, Tensor,
    map::{map, read_small},
    tensor::no_overlap,
};
use hob_dtype::DType;
use memmap2::Mmap;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::{Path, PathBuf},
};

/// Of the header, as in the reference implementation.
const MAX_HEADER: u64 = 100_000_000;
const MAX_INDEX: u64 = 100_000_000;

/// An open safetensors model: one file, or all those of an index.
#[derive(Debug)]
pub struct Safetensors {
    paths: Vec<PathBuf>,
    /// None when only headers were read.
    maps: Vec<Mmap>,
    size_bytes: u64,
    tensors: Vec<Tensor>,
    metadata: BTreeMap<String, String>,
    header_bytes: u64,
}

/// What a header says.
#[derive(Debug)]
pub struct Header {
    /// In the header's order, with offsets from the beginning of the file.
    pub tensors: Vec<Tensor>,
    /// Free text under `__metadata__`.
    pub metadata: BTreeMap<String, String>,
    /// Bytes before the tensors' data.
    pub len: usize,
    /// The file that it is of.
    pub path: PathBuf,
    /// That file's bytes.
    pub file_len: u64,
}

/// What a `.safetensors.index.json` says: which tensor is in which file.
#[derive(Debug)]
pub struct Index {
    path: PathBuf,
    weight_map: BTreeMap<String, String>,
    files: Vec<String>,
}

impl Index {
    /// Reads the `text` of an index; `path` is for errors.
    ///
    /// Errors: it is no index, or a file that it lists would not lie beside it.
    pub fn parse(text: &str, path: &Path) -> Result<Index> {
        #[derive(Deserialize)]
        struct Stored {
            weight_map: BTreeMap<String, String>,
        }
        let Stored { weight_map } = serde_json::from_str(text)
            .map_err(|e| Error::damaged(path, format!("it is no index of safetensors files ({e})")))?;
        let mut names: Vec<&str> = weight_map.values().map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        for name in &names {
            // An index must not lead out of its folder.
            if Path::new(name).file_name() != Some(name.as_ref()) {
                return Err(Error::damaged(path, format!("it lists {name:?}, which is no plain file name")));
            }
        }
        let files = names.into_iter().map(str::to_owned).collect();
        Ok(Index { path: path.into(), weight_map, files })
    }

    /// The names of the files that hold the tensors, in order.
    pub fn files(&self) -> &[String] {
        &self.files
    }

    /// An error unless each tensor is where the index says.
    fn check(&self, model: &Safetensors) -> Result<()> {
        let places: HashMap<&str, usize> =
            model.tensors.iter().map(|t| (t.stored_name.as_str(), t.file)).collect();
        for (tensor, file) in &self.weight_map {
            if places.get(tensor.as_str()).and_then(|&i| self.files.get(i)) != Some(file) {
                let what = format!("it says that {tensor:?} is in {file}, but it is not");
                return Err(Error::damaged(&self.path, what));
            }
        }
        Ok(())
    }
}

impl Safetensors {
    /// Opens a `.safetensors` file, or a `.safetensors.index.json` with all files that it lists, which must lie beside it.
    ///
    /// Errors: a file is missing, cannot be read or is damaged, or a tensor is of a dtype unknown here.
    pub fn open(path: &Path) -> Result<Safetensors> {
        if path.extension().is_none_or(|e| e != "json") {
            return Safetensors::map(vec![path.into()]);
        }
        let text = read_small(path, MAX_INDEX)?
            .ok_or_else(|| Error::read(path, std::io::Error::from(std::io::ErrorKind::NotFound)))?;
        let index = Index::parse(&text, path)?;
        let paths: Vec<PathBuf> = index.files.iter().map(|name| path.with_file_name(name)).collect();
        if let Some(missing) = paths.iter().find(|p| !p.exists()) {
            let what = format!("the file is missing, but {} lists it; fetch it too", path.display());
            return Err(Error::unsupported(missing, what));
        }
        let model = Safetensors::map(paths)?;
        index.check(&model)?;
        Ok(model)
    }

    /// A model of which only the headers were read: that of one file, or those of [`Index::files`] in order.
    ///
    /// [`Safetensors::bytes`] panics then. Errors: two files hold the same tensor, or the index is wrong.
    pub fn from_headers(headers: Vec<Header>, index: Option<&Index>) -> Result<Safetensors> {
        let model = Safetensors::join(headers)?;
        index.map_or(Ok(()), |index| index.check(&model))?;
        Ok(model)
    }

    fn map(paths: Vec<PathBuf>) -> Result<Safetensors> {
        let maps = paths.iter().map(|path| map(path)).collect::<Result<Vec<Mmap>>>()?;
        let parse = |(map, path): (&Mmap, &PathBuf)| Header::parse(map, map.len() as u64, path);
        let headers = maps.iter().zip(&paths).map(parse).collect::<Result<_>>()?;
        Ok(Safetensors { maps, ..Safetensors::join(headers)? })
    }

    fn join(headers: Vec<Header>) -> Result<Safetensors> {
        let (mut paths, mut tensors, mut size_bytes, mut header_bytes) = (Vec::new(), Vec::new(), 0u64, 0);
        let mut metadata = BTreeMap::new();
        for (file, mut header) in headers.into_iter().enumerate() {
            header.tensors.iter_mut().for_each(|t| t.file = file);
            tensors.append(&mut header.tensors);
            metadata.append(&mut header.metadata);
            header_bytes += header.len as u64;
            size_bytes = size_bytes.saturating_add(header.file_len);
            paths.push(header.path);
        }
        let model = Safetensors { paths, maps: Vec::new(), size_bytes, tensors, metadata, header_bytes };
        let mut names: Vec<(&str, usize)> =
            model.tensors.iter().map(|t| (t.stored_name.as_str(), t.file)).collect();
        names.sort_unstable();
        match names.windows(2).find(|w| w[0].0 == w[1].0) {
            None => Ok(model),
            Some(w) => {
                let what = format!("the tensor {:?} is also in {}", w[1].0, model.paths[w[0].1].display());
                Err(Error::damaged(&model.paths[w[1].1], what))
            }
        }
    }

    /// All tensors.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The free text of the files' `__metadata__`; of one key in several files, the last.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The stored bytes of one of this model's tensors.
    ///
    /// Panics when only headers were read ([`Safetensors::from_headers`]), or when `tensor` belongs to another model.
    pub fn bytes(&self, tensor: &Tensor) -> &[u8] {
        assert!(!self.maps.is_empty(), "only the headers of {} were read", self.paths[0].display());
        &self.maps[tensor.file][tensor.offset as usize..][..tensor.len]
    }

    /// All files; [`Tensor::file`] counts them.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// The files' mappings, in order; none when only headers were read.
    pub fn maps(&self) -> &[Mmap] {
        &self.maps
    }

    /// Bytes of all files together.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Bytes before the tensors' data, of all files together.
    pub fn header_bytes(&self) -> u64 {
        self.header_bytes
    }
}

impl Header {
    /// Reads a header from the first `bytes` of a file of `file_len` bytes; `path` is for errors.
    ///
    /// When the header does not end within `bytes`, the error is [`Error::NeedMore`].
    pub fn parse(bytes: &[u8], file_len: u64, path: &Path) -> Result<Header> {
        let damaged = |what: String| Error::damaged(path, what);
        let given = |end: u64| {
            let bytes = usize::try_from(end).ok().and_then(|end| bytes.get(..end));
            bytes.ok_or_else(|| Error::NeedMore { path: path.into(), needed: end, likely: end })
        };
        if file_len < 8 {
            return Err(damaged(format!("it has {file_len} bytes, too few for a safetensors file")));
        }
        let prefix = given(8)?;
        let header_len = u64::from_le_bytes(std::array::from_fn(|i| prefix[i]));
        if header_len > MAX_HEADER {
            let what = "it is not a safetensors file (its header would be over 100 MB); give the path of a model file";
            return Err(Error::unsupported(path, what));
        }
        let data = 8 + header_len;
        if data > file_len {
            return Err(damaged(format!("its {file_len} bytes end within the header")));
        }
        let json = &given(data)?[8..];
        if json.first() != Some(&b'{') {
            return Err(Error::unsupported(
                path,
                "it is not a safetensors file; give the path of a model file",
            ));
        }
        let json: Json =
            serde_json::from_slice(json).map_err(|e| damaged(format!("its header is malformed ({e})")))?;
        let mut tensors = Vec::new();
        for (name, entry) in json.entries {
            // ComfyUI's notes of how a weight is stored, which its dtype and its scale tell as well.
            if entry.dtype == "U8" && name.ends_with(".comfy_quant") {
                continue;
            }
            tensors.push(tensor(name, entry, data, file_len, path)?);
        }
        no_overlap(&tensors).map_err(damaged)?;
        let (len, path) = (data as usize, path.into());
        Ok(Header { tensors, metadata: json.metadata, len, path, file_len })
    }
}

/// Checks one tensor's description; the data begin at byte `data` of the file.
fn tensor(name: String, entry: Entry, data: u64, file_len: u64, path: &Path) -> Result<Tensor> {
    let Entry { dtype, shape, data_offsets: [begin, end] } = entry;
    let dtype = dtype_of(&dtype).ok_or_else(|| {
        let what =
            format!("tensor {name:?} has the dtype {dtype}, unknown here; take another version of the model");
        Error::unsupported(path, what)
    })?;
    if end < begin || end > file_len - data {
        let what = format!("the data of tensor {name:?} would lie past the end of its {file_len} bytes");
        return Err(Error::damaged(path, what));
    }
    let sizes: Option<Vec<usize>> = shape.iter().map(|&d| usize::try_from(d).ok()).collect();
    let len = sizes.as_ref().and_then(|shape| {
        // Counted without zeros, so that no product of a few dimensions overflows later.
        shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1)))?;
        dtype.bytes(shape.iter().product())
    });
    match (sizes, len) {
        (Some(shape), Some(len)) if len as u64 == end - begin => {
            Ok(Tensor { stored_name: name, dtype, shape, file: 0, offset: data + begin, len })
        }
        _ => {
            let what = format!(
                "tensor {name:?} of {dtype} {shape:?} does not take the {} bytes it has",
                end - begin
            );
            Err(Error::damaged(path, what))
        }
    }
}

/// safetensors' names of dtypes; the others (scales of 8 bits, unsigned integers, bool) are not weights we can use yet.
fn dtype_of(name: &str) -> Option<DType> {
    Some(match name {
        "F32" => DType::F32,
        "F16" => DType::F16,
        "BF16" => DType::BF16,
        "F64" => DType::F64,
        "I8" => DType::I8,
        "I16" => DType::I16,
        "I32" => DType::I32,
        "I64" => DType::I64,
        "F8_E4M3" => DType::F8_E4M3,
        "F8_E5M2" => DType::F8_E5M2,
        _ => return None,
    })
}

/// The header as JSON says it, in order.
#[derive(Default)]
struct Json {
    entries: Vec<(String, Entry)>,
    metadata: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

// By hand, because serde would keep the last of two tensors of one name, and we refuse both.
impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Json, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Json;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
                let mut json = Json::default();
                let mut seen = HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if !seen.insert(name.clone()) {
                        return Err(serde::de::Error::custom(format!("{name:?} occurs twice")));
                    }
                    if name == "__metadata__" {
                        json.metadata = map.next_value()?;
                    } else {
                        json.entries.push((name, map.next_value()?));
                    }
                }
                Ok(json)
            }
        }
        deserializer.deserialize_map(Reader)
    }
}
