//! Shapes: up to six dimensions, row-major, small and `Copy`.

use std::fmt;
use std::ops::Deref;

/// The most dimensions a tensor can have.
pub const MAX_RANK: usize = 6;

/// Dimensions of a tensor, outermost first. The empty shape is a scalar.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: [usize; MAX_RANK],
    rank: u8,
}

impl Shape {
    /// The shape of one number.
    pub const SCALAR: Shape = Shape { dims: [1; MAX_RANK], rank: 0 };

    /// A shape, or `None` for more than [`MAX_RANK`] dimensions or a count of elements past `usize`.
    pub fn checked(dims: &[usize]) -> Option<Shape> {
        if dims.len() > MAX_RANK {
            return None;
        }
        dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
        let mut s = Shape { dims: [1; MAX_RANK], rank: dims.len() as u8 };
        s.dims[..dims.len()].copy_from_slice(dims);
        Some(s)
    }

    /// Elements in the tensor.
    pub fn count(&self) -> usize {
        self.iter().product()
    }

    /// The last dimension, 1 for a scalar.
    pub fn last(&self) -> usize {
        self.dims[..self.rank as usize].last().copied().unwrap_or(1)
    }

    /// Elements divided by the last dimension: how many rows of `last()` values the tensor holds.
    pub fn rows(&self) -> usize {
        self[..self.len().saturating_sub(1)].iter().product()
    }

    /// The shape with dimension `axis` replaced.
    pub fn with(mut self, axis: usize, dim: usize) -> Shape {
        self.dims[axis] = dim;
        self
    }

    /// Steps between neighbours along each dimension, in elements.
    pub fn strides(&self) -> [usize; MAX_RANK] {
        let mut strides = [1; MAX_RANK];
        for i in (0..self.len().saturating_sub(1)).rev() {
            strides[i] = strides[i + 1] * self.dims[i + 1];
        }
        strides
    }

    /// The shape two operands are broadcast to, as numpy does: aligned at the last dimension, a 1 stretches.
    pub fn broadcast(a: Shape, b: Shape) -> Option<Shape> {
        let rank = a.len().max(b.len());
        let mut out = [1; MAX_RANK];
        for i in 0..rank {
            let dim = |s: &Shape| if i < s.len() { s.dims[s.len() - 1 - i] } else { 1 };
            out[rank - 1 - i] = match (dim(&a), dim(&b)) {
                (x, y) if x == y => x,
                (1, y) => y,
                (x, 1) => x,
                _ => return None,
            };
        }
        Shape::checked(&out[..rank])
    }
}

impl Deref for Shape {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        &self.dims[..self.rank as usize]
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(")?;
        for (i, d) in self.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{d}")?;
        }
        f.write_str(")")
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(d: &[usize]) -> Shape {
        Shape::checked(d).unwrap()
    }

    #[test]
    fn broadcasting_is_numpys() {
        assert_eq!(Shape::broadcast(s(&[4, 1, 3]), s(&[2, 1])), Some(s(&[4, 2, 3])));
        assert_eq!(Shape::broadcast(s(&[4]), Shape::SCALAR), Some(s(&[4])));
        assert_eq!(Shape::broadcast(s(&[4]), s(&[3])), None);
    }

    #[test]
    fn too_large_is_refused() {
        assert_eq!(Shape::checked(&[usize::MAX, 2]), None);
        assert_eq!(Shape::checked(&[1; 7]), None);
    }

    #[test]
    fn strides_are_row_major() {
        assert_eq!(s(&[2, 3, 4]).strides()[..3], [12, 4, 1]);
        assert_eq!((s(&[2, 3, 4]).rows(), s(&[2, 3, 4]).last(), Shape::SCALAR.rows()), (6, 4, 1));
    }
}
