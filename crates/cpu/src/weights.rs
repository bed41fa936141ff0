//! Weights in memory: as the file has them, decoded, or a person's own (adapters).

use hob_graph::DType;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

/// Bytes at a multiple of 64. Large buffers are fresh pages of the system, which cost memory when first touched.
pub struct Buffer {
    memory: Memory,
    len: usize,
}

enum Memory {
    /// whole cache lines, so that the allocation is aligned
    Lines(Vec<Line>),
    Pages(memmap2::MmapMut),
}

#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([u8; 64]);

/// From this size on a buffer is pages of its own.
const LARGE: usize = 64 << 10;

impl Buffer {
    /// `len` zero bytes. Fails where the system grants no more memory.
    pub fn zeroed(len: usize) -> std::io::Result<Buffer> {
        let memory = match len < LARGE {
            true => Memory::Lines(vec![Line([0; 64]); len.div_ceil(64)]),
            false => Memory::Pages(memmap2::MmapMut::map_anon(len)?),
        };
        Ok(Buffer { memory, len })
    }

    /// The bytes of `data`.
    pub fn from_f32(data: &[f32]) -> std::io::Result<Buffer> {
        let mut b = Buffer::zeroed(data.len() * 4)?;
        b.f32s_mut().copy_from_slice(data);
        Ok(b)
    }

    /// Asks for huge pages, where the system grants them: fewer steps to find where a byte lies.
    pub fn prefer_huge_pages(&self) {
        #[cfg(target_os = "linux")]
        if let Memory::Pages(map) = &self.memory {
            let _ = map.advise(memmap2::Advice::HugePage); // what is not granted is not missed
        }
    }

    fn as_ptr(&self) -> *const u8 {
        match &self.memory {
            Memory::Lines(lines) => lines.as_ptr().cast(),
            Memory::Pages(map) => map.as_ptr(),
        }
    }

    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        self.part(0..self.len)
    }

    /// Some of the bytes, without a claim on the others: they may be written meanwhile by [`crate::packing`].
    fn part(&self, range: Range<usize>) -> &[u8] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: either kind of memory holds at least `len` initialised bytes.
        unsafe { std::slice::from_raw_parts(self.as_ptr().add(range.start), range.len()) }
    }

    /// How many bytes there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// All bytes, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr(), self.len) }
    }

    /// The bytes as numbers.
    pub fn f32s(&self) -> &[f32] {
        // SAFETY: aligned to 64, any bits are an f32, and the count is rounded down to whole numbers.
        unsafe { std::slice::from_raw_parts(self.bytes().as_ptr().cast(), self.len / 4) }
    }

    /// The bytes as numbers, to write.
    pub fn f32s_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr().cast(), self.len / 4) }
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        match &mut self.memory {
            Memory::Lines(lines) => lines.as_mut_ptr().cast(),
            Memory::Pages(map) => map.as_mut_ptr(),
        }
    }
}

/// Something that holds weights, such as a mapped file.
pub trait Source: AsRef<[u8]> + Send + Sync {
    /// Told that a part is not needed soon: its memory may be given back, if it can be read again.
    fn forget(&self, _: Range<usize>) {}

    /// Told that a part is needed soon: it may be brought from where it is slow to read.
    fn fetch(&self, _: Range<usize>) {}
}

impl Source for Vec<u8> {}

/// Where a weight's bytes are.
enum Bytes {
    Shared(Arc<dyn Source>, Range<usize>),
    Own(Buffer),
}

/// One weight.
pub struct Tensor {
    /// how it is stored
    pub dtype: DType,
    bytes: Bytes,
    /// a copy, once it was taken out of what it shared
    copy: OnceLock<Buffer>,
    /// laid out anew, once that is done
    packed: OnceLock<(Arc<Buffer>, Range<usize>)>,
    /// leaves memory after each use, as there is too little for all weights
    streamed: AtomicBool,
}

impl Tensor {
    fn new(dtype: DType, bytes: Bytes) -> Tensor {
        Tensor {
            dtype,
            bytes,
            copy: OnceLock::new(),
            packed: OnceLock::new(),
            streamed: AtomicBool::new(false),
        }
    }

    /// A part of something shared, such as a mapped file. Panics when the range lies outside.
    pub fn shared(dtype: DType, owner: Arc<dyn Source>, range: Range<usize>) -> Tensor {
        assert!(range.end <= (*owner).as_ref().len() && range.start <= range.end);
        Tensor::new(dtype, Bytes::Shared(owner, range))
    }

    /// Numbers of one's own.
    pub fn from_f32(data: &[f32]) -> std::io::Result<Tensor> {
        Ok(Tensor::new(DType::F32, Bytes::Own(Buffer::from_f32(data)?)))
    }

    /// Bytes of one's own in any format.
    pub fn own(dtype: DType, bytes: Buffer) -> Tensor {
        Tensor::new(dtype, Bytes::Own(bytes))
    }

    /// The bytes as stored.
    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            _ if self.copy.get().is_some() => self.copy.get().map_or(&[], Buffer::bytes),
            Bytes::Shared(owner, range) => &(**owner).as_ref()[range.clone()],
            Bytes::Own(b) => b.bytes(),
        }
    }

    /// The bytes laid out anew for the kernels (see [`crate::packing`]), once that is done.
    pub fn packed(&self) -> Option<&[u8]> {
        self.packed.get().map(|(buffer, range)| buffer.part(range.clone()))
    }

    /// Gives the weight its new layout; only the first time counts.
    pub(crate) fn set_packed(&self, buffer: Arc<Buffer>, range: Range<usize>) {
        let _ = self.packed.set((buffer, range));
    }

    /// Takes the bytes out of what they share into memory of their own. Fails where the system grants none.
    pub(crate) fn take_out(&self) -> std::io::Result<()> {
        let mut copy = Buffer::zeroed(self.bytes().len())?;
        copy.bytes_mut().copy_from_slice(self.bytes());
        let _ = self.copy.set(copy);
        self.forget(0..self.bytes().len());
        Ok(())
    }

    /// Told that a part of the bytes as stored is not needed soon.
    pub(crate) fn forget(&self, part: Range<usize>) {
        if let Bytes::Shared(owner, range) = &self.bytes {
            owner.forget(range.start + part.start..range.start + part.end);
        }
    }

    /// From now on the bytes leave memory after each use, and are read again where they lie.
    pub fn stream(&self) {
        self.streamed.store(true, Ordering::Relaxed);
    }

    /// Whether they do.
    pub fn is_streamed(&self) -> bool {
        self.streamed.load(Ordering::Relaxed)
    }

    /// Told that the bytes as stored are needed soon.
    pub(crate) fn fetch(&self) {
        if let Bytes::Shared(owner, range) = &self.bytes {
            owner.fetch(range.clone());
        }
    }

    /// A copy in f32, aligned.
    pub fn decode(&self) -> std::io::Result<Tensor> {
        let bytes = self.bytes();
        let mut out = Buffer::zeroed(bytes.len() / self.dtype.block_bytes() * self.dtype.block() * 4)?;
        self.dtype.decode(bytes, out.f32s_mut());
        Ok(Tensor::new(DType::F32, Bytes::Own(out)))
    }
}

/// All weights of a model by name, shared by the graphs of every size.
#[derive(Default)]
pub struct Weights {
    stored: HashMap<String, Arc<Tensor>>,
    decoded: Mutex<HashMap<String, Arc<Tensor>>>,
}

impl Weights {
    /// Adds or replaces a weight.
    pub fn insert(&mut self, name: &str, tensor: Tensor) {
        self.decoded.get_mut().unwrap_or_else(|e| e.into_inner()).remove(name);
        self.stored.insert(name.to_string(), Arc::new(tensor));
    }

    /// The weight as stored.
    pub fn get(&self, name: &str) -> Option<Arc<Tensor>> {
        self.stored.get(name).cloned()
    }

    /// The weight in f32, decoded once and kept.
    pub fn decoded(&self, name: &str) -> std::io::Result<Option<Arc<Tensor>>> {
        let Some(tensor) = self.get(name) else { return Ok(None) };
        let mut decoded = self.decoded.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(known) = decoded.get(name) {
            return Ok(Some(known.clone()));
        }
        let copy = Arc::new(tensor.decode()?);
        decoded.insert(name.to_string(), copy.clone());
        Ok(Some(copy))
    }
}
