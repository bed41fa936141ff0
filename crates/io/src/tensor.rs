//! Where a tensor lies.

use hob_dtype::DType;

/// Where and how a tensor lies in a model file. Made by readers only after its range was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// The name in the file itself, before any mapping.
    pub stored_name: String,
    /// How its values are stored.
    pub dtype: DType,
    /// Row-major: the last dimension is contiguous. Empty for a scalar.
    pub shape: Vec<usize>,
    /// Which of the model's files holds it.
    pub file: usize,
    /// First byte, from the beginning of that file.
    pub offset: u64,
    /// Length in bytes.
    pub len: usize,
}

impl Tensor {
    /// Number of values.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}
