//! Writing GGUF version 3: metadata and tensor descriptions first, then the tensors' bytes, streamed in that order.

use super::value::Kind;
use crate::{Error, Result};
use hob_dtype::DType;
use std::{
    io::{self, Write},
    path::Path,
};

const ALIGNMENT: usize = 32;

/// Collects metadata and tensor descriptions, then streams a GGUF file.
///
/// ```
/// # use hob_io::gguf::Writer;
/// # use hob_dtype::DType;
/// let mut gguf = Writer::new();
/// gguf.str("general.architecture", "llama");
/// gguf.u32("llama.block_count", 1);
/// gguf.tensor("output_norm.weight", DType::F32, &[2]).unwrap();
/// let mut file = Vec::new();
/// let mut data = gguf.begin(&mut file).unwrap();
/// data.tensor(&[0; 8]).unwrap();
/// data.finish().unwrap();
/// ```
#[derive(Default)]
pub struct Writer {
    entries: u64,
    metadata: Vec<u8>,
    tensors: Vec<(String, DType, Vec<usize>, usize)>,
}

impl Writer {
    /// An empty file.
    pub fn new() -> Writer {
        Writer::default()
    }

    fn entry(&mut self, key: &str, kind: Kind) {
        self.entries += 1;
        put_str(&mut self.metadata, key.as_bytes());
        self.metadata.extend((kind as u32).to_le_bytes());
    }

    fn array(&mut self, key: &str, kind: Kind, len: usize) {
        self.entry(key, Kind::Array);
        self.metadata.extend((kind as u32).to_le_bytes());
        self.metadata.extend((len as u64).to_le_bytes());
    }

    /// Adds text.
    pub fn str(&mut self, key: &str, value: &str) -> &mut Writer {
        self.entry(key, Kind::Str);
        put_str(&mut self.metadata, value.as_bytes());
        self
    }

    /// Adds an integer of 32 bits, as most numbers of GGUF are.
    pub fn u32(&mut self, key: &str, value: u32) -> &mut Writer {
        self.entry(key, Kind::U32);
        self.metadata.extend(value.to_le_bytes());
        self
    }

    /// Adds an integer of 16 bits, as the numbers of split files are.
    pub fn u16(&mut self, key: &str, value: u16) -> &mut Writer {
        self.entry(key, Kind::U16);
        self.metadata.extend(value.to_le_bytes());
        self
    }

    /// Adds a float.
    pub fn f32(&mut self, key: &str, value: f32) -> &mut Writer {
        self.entry(key, Kind::F32);
        self.metadata.extend(value.to_le_bytes());
        self
    }

    /// Adds a truth value.
    pub fn bool(&mut self, key: &str, value: bool) -> &mut Writer {
        self.entry(key, Kind::Bool);
        self.metadata.push(value as u8);
        self
    }

    /// Adds a list of strings, which need not be UTF-8.
    pub fn strings<S: AsRef<[u8]>>(&mut self, key: &str, values: &[S]) -> &mut Writer {
        self.array(key, Kind::Str, values.len());
        for value in values {
            put_str(&mut self.metadata, value.as_ref());
        }
        self
    }

    /// Adds a list of floats.
    pub fn f32s(&mut self, key: &str, values: &[f32]) -> &mut Writer {
        self.array(key, Kind::F32, values.len());
        self.metadata.extend(values.iter().flat_map(|x| x.to_le_bytes()));
        self
    }

    /// Adds a list of integers of 32 bits.
    pub fn i32s(&mut self, key: &str, values: &[i32]) -> &mut Writer {
        self.array(key, Kind::I32, values.len());
        self.metadata.extend(values.iter().flat_map(|x| x.to_le_bytes()));
        self
    }

    /// Adds a list of truth values.
    pub fn bools(&mut self, key: &str, values: &[bool]) -> &mut Writer {
        self.array(key, Kind::Bool, values.len());
        self.metadata.extend(values.iter().map(|&b| b as u8));
        self
    }

    /// Describes the next tensor; `shape` is row-major. Its bytes are written in this order later.
    ///
    /// Errors: more than 4 dimensions, or rows that are no whole number of blocks.
    pub fn tensor(&mut self, name: &str, dtype: DType, shape: &[usize]) -> Result<&mut Writer> {
        let columns = shape.last().copied().unwrap_or(1);
        let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let len = elements.and_then(|n| dtype.bytes(n));
        match len {
            Some(len)
                if shape.len() <= 4 && columns.is_multiple_of(dtype.block()) && dtype.ggml().is_some() =>
            {
                self.tensors.push((name.into(), dtype, shape.into(), len));
                Ok(self)
            }
            _ => {
                let what =
                    format!("GGUF cannot hold a tensor of {dtype} {shape:?}; take another number format");
                Err(Error::unsupported(Path::new(name), what))
            }
        }
    }

    /// Writes all but the tensors' bytes to `out`, which the result then takes tensor by tensor.
    pub fn begin<W: Write>(self, mut out: W) -> io::Result<TensorWriter<W>> {
        let mut head = b"GGUF".to_vec();
        head.extend(3u32.to_le_bytes());
        head.extend((self.tensors.len() as u64).to_le_bytes());
        head.extend(self.entries.to_le_bytes());
        head.extend(&self.metadata);
        let mut offset = 0u64;
        for (name, dtype, shape, len) in &self.tensors {
            put_str(&mut head, name.as_bytes());
            head.extend((shape.len() as u32).to_le_bytes());
            head.extend(shape.iter().rev().flat_map(|&d| (d as u64).to_le_bytes()));
            let number = dtype.ggml().expect("only formats of GGUF are described");
            head.extend(number.to_le_bytes());
            head.extend(offset.to_le_bytes());
            offset += len.next_multiple_of(ALIGNMENT) as u64;
        }
        head.resize(head.len().next_multiple_of(ALIGNMENT), 0);
        out.write_all(&head)?;
        Ok(TensorWriter { out, left: self.tensors.into_iter().map(|t| t.3).collect::<Vec<_>>().into_iter() })
    }
}

/// The second half of a GGUF file: the tensors' bytes, in the order in which they were described.
pub struct TensorWriter<W> {
    out: W,
    left: std::vec::IntoIter<usize>,
}

impl<W: Write> TensorWriter<W> {
    /// Writes the next tensor's bytes. Errors also when their number is not the one described.
    pub fn tensor(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.left.next() != Some(bytes.len()) {
            return Err(io::Error::other(format!(
                "a tensor of {} bytes is not the one described",
                bytes.len()
            )));
        }
        self.out.write_all(bytes)?;
        let padding = bytes.len().next_multiple_of(ALIGNMENT) - bytes.len();
        self.out.write_all(&[0; ALIGNMENT][..padding])
    }

    /// Flushes. Errors also when described tensors are missing.
    pub fn finish(mut self) -> io::Result<W> {
        if self.left.len() > 0 {
            return Err(io::Error::other(format!(
                "{} tensors were described but not written",
                self.left.len()
            )));
        }
        self.out.flush()?;
        Ok(self.out)
    }
}

fn put_str(out: &mut Vec<u8>, text: &[u8]) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text);
}
