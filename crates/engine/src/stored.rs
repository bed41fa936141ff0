//! Stored tensors, shared with the mapped files that they lie in.

use hob_cpu::Source;
use hob_io::onnx::adm::Adm;
use hob_io::pipeline::{Part, Role};
use hob_io::{Checkpoint, Pipeline, Safetensors, Tensor};
use std::ops::Range;
use std::sync::Arc;

/// Files with tensors in them.
pub(crate) trait Files: Send + Sync {
    /// A tensor's bytes.
    fn bytes(&self, tensor: &Tensor) -> &[u8];

    /// Told that a part of them is not needed soon.
    fn forget(&self, _: &Tensor, _: Range<usize>) {}

    /// Told that they are needed soon.
    fn fetch(&self, _: &Tensor) {}
}

/// A tensor as the backend has it: where it lies in its file.
pub(crate) fn shared<F: Files + 'static>(files: &Arc<F>, tensor: &Tensor) -> hob_cpu::Tensor {
    let owner = Arc::new(Stored { files: files.clone(), tensor: tensor.clone() });
    hob_cpu::Tensor::shared(tensor.dtype, owner, 0..tensor.len)
}

struct Stored<F> {
    files: Arc<F>,
    tensor: Tensor,
}

impl<F: Files> Source for Stored<F> {
    fn forget(&self, part: Range<usize>) {
        self.files.forget(&self.tensor, part);
    }

    fn fetch(&self, _: Range<usize>) {
        self.files.fetch(&self.tensor);
    }
}

impl<F: Files> AsRef<[u8]> for Stored<F> {
    fn as_ref(&self) -> &[u8] {
        self.files.bytes(&self.tensor)
    }
}

impl Files for Checkpoint {
    fn bytes(&self, tensor: &Tensor) -> &[u8] {
        self.bytes(tensor)
    }

    fn forget(&self, tensor: &Tensor, part: Range<usize>) {
        self.forget(tensor, part);
    }

    fn fetch(&self, tensor: &Tensor) {
        self.fetch(tensor);
    }
}

/// One part of a picture model.
pub(crate) struct OfPart(pub Arc<Pipeline>, pub Role);

impl OfPart {
    fn part(&self) -> &Part {
        self.0.part(self.1).expect("the part was there when its tensors were shared")
    }
}

impl Files for OfPart {
    fn bytes(&self, tensor: &Tensor) -> &[u8] {
        self.part().bytes(tensor)
    }

    fn forget(&self, tensor: &Tensor, part: Range<usize>) {
        self.part().forget(tensor, part);
    }

    fn fetch(&self, tensor: &Tensor) {
        self.part().fetch(tensor);
    }
}

impl Files for Safetensors {
    fn bytes(&self, tensor: &Tensor) -> &[u8] {
        self.bytes(tensor)
    }
}

impl Files for Adm {
    fn bytes(&self, tensor: &Tensor) -> &[u8] {
        self.bytes(tensor)
    }
}
