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
    maps: Vec<Mmap>,
    tensors: Vec<Tensor>,
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
}

impl Safetensors {
    /// Opens a `.safetensors` file, or a `.safetensors.index.json` with all files that it lists, which must lie beside it.
    ///
    /// Errors: a file is missing, cannot be read or is damaged, or a tensor is of a dtype unknown here.
    pub fn open(path: &Path) -> Result<Safetensors> {
        let is_index = path.extension().is_some_and(|e| e == "json");
        if is_index { Safetensors::open_index(path) } else { Safetensors::join(vec![path.into()]) }
    }

    fn open_index(path: &Path) -> Result<Safetensors> {
        #[derive(Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let text = read_small(path, MAX_INDEX)?
            .ok_or_else(|| Error::read(path, std::io::Error::from(std::io::ErrorKind::NotFound)))?;
        let index: Index = serde_json::from_str(&text)
            .map_err(|e| Error::damaged(path, format!("it is no index of safetensors files ({e})")))?;
        let mut names: Vec<&str> = index.weight_map.values().map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        for name in &names {
            // An index must not lead out of its folder.
            if Path::new(name).file_name() != Some(name.as_ref()) {
                return Err(Error::damaged(path, format!("it lists {name:?}, which is no plain file name")));
            }
        }
        let paths: Vec<PathBuf> = names.iter().map(|name| path.with_file_name(name)).collect();
        if let Some(missing) = paths.iter().find(|p| !p.exists()) {
            let what = format!("the file is missing, but {} lists it; fetch it too", path.display());
            return Err(Error::unsupported(missing, what));
        }
        let model = Safetensors::join(paths)?;
        let places: HashMap<&str, usize> =
            model.tensors.iter().map(|t| (t.stored_name.as_str(), t.file)).collect();
        for (tensor, file) in &index.weight_map {
            if places.get(tensor.as_str()).is_none_or(|&i| names[i] != file.as_str()) {
                return Err(Error::damaged(
                    path,
                    format!("it says that {tensor:?} is in {file}, but it is not"),
                ));
            }
        }
        Ok(model)
    }

    fn join(paths: Vec<PathBuf>) -> Result<Safetensors> {
        let mut model = Safetensors { paths, maps: Vec::new(), tensors: Vec::new(), header_bytes: 0 };
        for (file, path) in model.paths.iter().enumerate() {
            let map = map(path)?;
            let mut header = Header::parse(&map, map.len() as u64, path)?;
            header.tensors.iter_mut().for_each(|t| t.file = file);
            model.tensors.append(&mut header.tensors);
            model.header_bytes += header.len as u64;
            model.maps.push(map);
        }
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

    /// The stored bytes of one of this model's tensors. Panics when `tensor` belongs to another model.
    pub fn bytes(&self, tensor: &Tensor) -> &[u8] {
        &self.maps[tensor.file][tensor.offset as usize..][..tensor.len]
    }

    /// All files; [`Tensor::file`] counts them.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// The files' mappings, in order.
    pub fn maps(&self) -> &[Mmap] {
        &self.maps
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
            bytes.ok_or_else(|| Error::NeedMore { path: path.into(), needed: end })
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
            tensors.push(tensor(name, entry, data, file_len, path)?);
        }
        no_overlap(&tensors).map_err(damaged)?;
        Ok(Header { tensors, metadata: json.metadata, len: data as usize })
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

/// safetensors' names of dtypes; the others (8-bit floats, unsigned integers, bool) are not weights we can use yet.
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
