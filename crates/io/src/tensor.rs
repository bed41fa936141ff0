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

/// Checks that no two tensors share bytes; the error names two that do.
pub(crate) fn no_overlap(tensors: &[Tensor]) -> Result<(), String> {
    let mut order: Vec<&Tensor> = tensors.iter().filter(|t| t.len > 0).collect();
    order.sort_unstable_by_key(|t| t.offset);
    match order.windows(2).find(|w| w[0].offset + w[0].len as u64 > w[1].offset) {
        None => Ok(()),
        Some(w) => Err(format!("the tensors {:?} and {:?} overlap", w[0].stored_name, w[1].stored_name)),
    }
}
