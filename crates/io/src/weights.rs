//! The files beneath a model, whatever their format.

use crate::{Error, Gguf, Result, Tensor, map, safetensors::Safetensors};
use memmap2::Mmap;
use std::{
    fs::File,
    io::Read,
    ops::Range,
    path::{Path, PathBuf},
};

/// An open GGUF or safetensors model: mapped files, or headers of files that lie elsewhere.
#[derive(Debug)]
pub(crate) enum Weights {
    Gguf(Gguf),
    Safetensors(Safetensors),
}

impl Weights {
    /// Opens a file of either kind (or an index of safetensors), told apart by content, as blobs in other programs' stores
    /// have no endings; an index by its name.
    pub fn open(path: &Path) -> Result<Weights> {
        if is_index(path) {
            return Safetensors::open(path).map(Weights::Safetensors);
        }
        let mut head = Vec::new();
        let file = File::open(path).map_err(|e| Error::read(path, e))?;
        file.take(9).read_to_end(&mut head).map_err(|e| Error::read(path, e))?;
        let named = |end: &str| path.extension().is_some_and(|e| e == end);
        if head.starts_with(b"GGUF") {
            Gguf::open(path).map(Weights::Gguf)
        } else if is_pickle(&head) {
            Err(Error::unsupported(path, PICKLE))
        } else if head.get(8) == Some(&b'{') || named("safetensors") {
            Safetensors::open(path).map(Weights::Safetensors)
        } else if named("onnx") {
            Err(Error::unsupported(
                path,
                "it is an ONNX model; of those Hob runs the terrain model alone, by hob image",
            ))
        } else if named("gguf") {
            Err(Error::damaged(path, "it does not begin as a GGUF file"))
        } else {
            Err(Error::unsupported(path, "it is neither a GGUF nor a safetensors file; give the path of one"))
        }
    }

    /// All tensors, in the files' order.
    pub fn tensors(&self) -> &[Tensor] {
        match self {
            Weights::Gguf(gguf) => gguf.tensors(),
            Weights::Safetensors(weights) => weights.tensors(),
        }
    }

    /// The stored bytes of a tensor. Panics when it is of other files, or only headers were read.
    pub fn bytes(&self, tensor: &Tensor) -> &[u8] {
        match self {
            Weights::Gguf(gguf) => gguf.bytes(tensor),
            Weights::Safetensors(weights) => weights.bytes(tensor),
        }
    }

    /// Lets a part of a tensor's bytes leave memory; it is read again when it is asked for.
    pub fn forget(&self, tensor: &Tensor, part: Range<usize>) {
        map::forget(&self.bytes(tensor)[part]);
    }

    /// Has a tensor's bytes read soon.
    pub fn fetch(&self, tensor: &Tensor) {
        map::fetch(self.bytes(tensor));
    }

    pub fn gguf(&self) -> Option<&Gguf> {
        if let Weights::Gguf(gguf) = self { Some(gguf) } else { None }
    }

    /// The files in order; [`Tensor::file`] counts them.
    pub fn files(&self) -> Vec<&Path> {
        match self {
            Weights::Gguf(gguf) => gguf.paths().collect(),
            Weights::Safetensors(weights) => weights.paths().iter().map(PathBuf::as_path).collect(),
        }
    }

    /// The files' mappings in order; none when only headers were read.
    pub fn maps(&self) -> Vec<&Mmap> {
        match self {
            Weights::Gguf(gguf) => gguf.maps().collect(),
            Weights::Safetensors(weights) => weights.maps().iter().collect(),
        }
    }

    pub fn size_bytes(&self) -> u64 {
        match self {
            Weights::Gguf(gguf) => gguf.size_bytes(),
            Weights::Safetensors(weights) => weights.size_bytes(),
        }
    }

    pub fn header_bytes(&self) -> u64 {
        match self {
            Weights::Gguf(gguf) => gguf.header_bytes(),
            Weights::Safetensors(weights) => weights.header_bytes(),
        }
    }
}

/// Whether a path is that of an index of safetensors, also of a variant: `….safetensors.index.fp16.json`.
pub(crate) fn is_index(path: &Path) -> bool {
    path.to_string_lossy().rsplit_once(".safetensors.index.").is_some_and(|(_, end)| end.ends_with("json"))
}

/// How torch's files begin: a zip of pickles, a pickle with its protocol (2 to 5), or a tar as of old.
fn is_pickle(head: &[u8]) -> bool {
    head.starts_with(b"PK\x03\x04") || matches!(head, [0x80, 2..=5, ..])
}

pub(crate) const PICKLE: &str = "it is a PyTorch pickle, which can run programs when it is read, so Hob never does; convert it \
     to safetensors: load it with torch.load(FILE, weights_only=True) and write it with safetensors.torch.save_file";
