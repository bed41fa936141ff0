//! One network of a picture model: its configuration and its tensors under diffusers' and transformers' names.

use super::Role;
use crate::{Error, Gguf, Result, Tensor, weights::Weights};
use hob_dtype::DType;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    ops::Range,
    path::Path,
    sync::{Arc, OnceLock},
};

/// A network of a [`Pipeline`](super::Pipeline). Its tensors are views of mapped files, cut into row slices where the file
/// holds several as one; the few that cannot be views are made in memory when they are first asked for.
#[derive(Debug)]
pub struct Part {
    /// What it does in its pipeline.
    pub role: Role,
    /// Its configuration, with the fields of diffusers' or transformers' `config.json`: the one beside it, or what its
    /// tensors tell.
    pub config: Value,
    /// By their names in a diffusers folder.
    pub tensors: BTreeMap<String, Tensor>,
    /// What the stored numbers of a weight are to be multiplied by, by its name; nothing is said of those stored as they are.
    pub scales: BTreeMap<String, f32>,
    pub(super) files: Arc<Weights>,
    pub(super) copies: Vec<Copied>,
    /// Whether the configuration is what the tensors tell.
    pub(super) inferred: bool,
}

impl Part {
    /// The stored bytes of one of this part's tensors.
    ///
    /// Panics when `tensor` belongs to another part, or only headers were read: see [`Part::has_data`].
    pub fn bytes(&self, tensor: &Tensor) -> &[u8] {
        match self.copy(tensor) {
            Some(copy) => copy.bytes.get_or_init(|| copy.make(self.files.bytes(&copy.source))),
            None => self.files.bytes(tensor),
        }
    }

    /// Tells the system that a part of a tensor's bytes is not needed soon, as
    /// [`Checkpoint::forget`](crate::Checkpoint::forget).
    pub fn forget(&self, tensor: &Tensor, part: Range<usize>) {
        // A copy's memory is no file's: it could not be read again.
        if self.copy(tensor).is_none() {
            self.files.forget(tensor, part);
        }
    }

    /// Tells the system that a tensor's bytes are needed soon.
    pub fn fetch(&self, tensor: &Tensor) {
        match self.copy(tensor) {
            Some(copy) => self.files.fetch(&copy.source),
            None => self.files.fetch(tensor),
        }
    }

    /// Whether the tensors' bytes are at hand: not when it was made of headers alone.
    pub fn has_data(&self) -> bool {
        !self.files.maps().is_empty()
    }

    /// Bytes that this part's copies take once they were asked for.
    pub fn copied_bytes(&self) -> usize {
        self.tensors.values().filter(|t| self.copy(t).is_some()).map(|t| t.len).sum()
    }

    /// Bytes of all its tensors.
    pub fn size_bytes(&self) -> u64 {
        self.tensors.values().fold(0, |n, t| n.saturating_add(t.len as u64))
    }

    /// Number of values of all its tensors.
    pub fn parameters(&self) -> u64 {
        self.tensors.values().fold(0, |n, t| n.saturating_add(t.elements() as u64))
    }

    /// The first file that holds it; other parts may lie there too.
    pub fn path(&self) -> &Path {
        self.files.files().first().copied().unwrap_or(Path::new(""))
    }

    /// The files that hold it; [`Tensor::file`] counts them, and goes on beyond them for copies.
    pub fn files(&self) -> Vec<&Path> {
        self.files.files()
    }

    /// The GGUF beneath, when it is one: T5's holds a tokenizer too.
    pub fn gguf(&self) -> Option<&Gguf> {
        self.files.gguf()
    }

    /// A size from the configuration.
    pub(super) fn size(&self, key: &str) -> Option<usize> {
        self.config[key].as_u64().and_then(|n| n.try_into().ok())
    }

    fn copy(&self, tensor: &Tensor) -> Option<&Copied> {
        self.copies.get(tensor.file.checked_sub(self.files.files().len())?)
    }
}

/// A tensor that lies in another order in its file.
#[derive(Debug)]
pub(super) struct Copied {
    source: Tensor,
    how: How,
    bytes: OnceLock<Vec<u8>>,
}

/// How a copy differs from its source.
#[derive(Clone, Copy, Debug)]
enum How {
    /// Rows are columns; of quantized ones the values are decoded to F32.
    Turned,
    /// The second half of the rows comes first.
    Swapped,
}

impl Copied {
    fn make(&self, stored: &[u8]) -> Vec<u8> {
        match self.how {
            How::Swapped => {
                let (first, second) = stored.split_at(stored.len() / 2);
                [second, first].concat()
            }
            How::Turned => {
                let (dtype, shape) = (self.source.dtype, &self.source.shape);
                let mut decoded = Vec::new();
                let (stored, size) = if dtype.is_quantized() {
                    let mut values = vec![0.0; self.source.elements()];
                    dtype.decode(stored, &mut values);
                    decoded.extend(values.iter().flat_map(|x: &f32| x.to_le_bytes()));
                    (&decoded[..], 4)
                } else {
                    (stored, dtype.block_bytes())
                };
                let (rows, columns) = (shape[0], shape[1]);
                let at = |row: usize, column: usize| &stored[(row * columns + column) * size..][..size];
                (0..columns).flat_map(|c| (0..rows).flat_map(move |r| at(r, c))).copied().collect()
            }
        }
    }
}

/// Collects a part's tensors under their names.
pub(super) struct Named<'a> {
    pub tensors: BTreeMap<String, Tensor>,
    pub copies: Vec<Copied>,
    files: usize,
    path: &'a Path,
}

impl<'a> Named<'a> {
    pub fn new(files: usize, path: &'a Path) -> Named<'a> {
        Named { tensors: BTreeMap::new(), copies: Vec::new(), files, path }
    }

    /// A tensor as it lies.
    pub fn whole(&mut self, name: impl Into<String>, tensor: &Tensor) -> Result<()> {
        let name = name.into();
        match self.tensors.insert(name.clone(), tensor.clone()) {
            None => Ok(()),
            Some(other) => {
                let what = format!(
                    "its tensors {:?} and {:?} are the same weight {name}",
                    other.stored_name, tensor.stored_name
                );
                Err(Error::damaged(self.path, what))
            }
        }
    }

    /// A tensor without its trailing dimensions of 1 beyond the second: a convolution of one pixel as a matrix.
    pub fn matrix(&mut self, name: impl Into<String>, tensor: &Tensor) -> Result<()> {
        let mut flat = tensor.clone();
        while flat.shape.len() > 2 && flat.shape.last() == Some(&1) {
            flat.shape.pop();
        }
        self.whole(name, &flat)
    }

    /// Some of a tensor's rows.
    pub fn rows(&mut self, name: impl Into<String>, tensor: &Tensor, rows: Range<usize>) -> Result<()> {
        let row = tensor.shape.iter().skip(1).product();
        let row_bytes = tensor.dtype.bytes(row);
        let fits = tensor.shape.first().is_some_and(|&n| rows.start <= rows.end && rows.end <= n);
        let (Some(row_bytes), true) = (row_bytes, fits) else {
            let what = format!(
                "tensor {:?} of {} {:?} cannot be cut into rows {} to {}",
                tensor.stored_name, tensor.dtype, tensor.shape, rows.start, rows.end
            );
            return Err(Error::damaged(self.path, what));
        };
        let mut cut = tensor.clone();
        cut.shape[0] = rows.len();
        cut.offset += (rows.start * row_bytes) as u64;
        cut.len = rows.len() * row_bytes;
        self.whole(name, &cut)
    }

    /// The parts of a tensor that holds several of the same size, one after the other.
    pub fn split(&mut self, names: &[String], tensor: &Tensor) -> Result<()> {
        let rows = tensor.shape.first().copied().unwrap_or(0);
        if !rows.is_multiple_of(names.len()) {
            let what = format!(
                "tensor {:?} has {rows} rows, which are no {} equal parts",
                tensor.stored_name,
                names.len()
            );
            return Err(Error::damaged(self.path, what));
        }
        let each = rows / names.len();
        names.iter().enumerate().try_for_each(|(i, name)| self.rows(name, tensor, i * each..(i + 1) * each))
    }

    /// A matrix whose rows are columns.
    pub fn turned(&mut self, name: impl Into<String>, tensor: &Tensor) -> Result<()> {
        let &[rows, columns] = &tensor.shape[..] else {
            let what = format!("tensor {:?} of {:?} is no matrix", tensor.stored_name, tensor.shape);
            return Err(Error::damaged(self.path, what));
        };
        let mut turned = Tensor { shape: vec![columns, rows], ..tensor.clone() };
        if tensor.dtype.is_quantized() {
            turned.dtype = DType::F32;
            turned.len = DType::F32.bytes(rows * columns).unwrap_or(usize::MAX);
        }
        self.copied(name.into(), tensor, turned, How::Turned)
    }

    /// A tensor whose second half of rows comes first.
    pub fn swapped(&mut self, name: impl Into<String>, tensor: &Tensor) -> Result<()> {
        let halves = tensor.shape.first().is_some_and(|rows| rows.is_multiple_of(2));
        if !halves || tensor.dtype.bytes(tensor.elements() / 2).is_none() {
            let what = format!("tensor {:?} of {:?} has no two halves", tensor.stored_name, tensor.shape);
            return Err(Error::damaged(self.path, what));
        }
        self.copied(name.into(), tensor, tensor.clone(), How::Swapped)
    }

    fn copied(&mut self, name: String, source: &Tensor, mut copy: Tensor, how: How) -> Result<()> {
        copy.file = self.files + self.copies.len();
        copy.offset = 0;
        self.copies.push(Copied { source: source.clone(), how, bytes: OnceLock::new() });
        self.whole(name, &copy)
    }
}
