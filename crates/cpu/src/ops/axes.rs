//! How operands are walked beside a result: their steps along its axes, with neighbouring axes merged where all
//! operands allow it.

use hob_graph::Shape;
use hob_graph::shape::MAX_RANK;

/// Axes of a result, none of them 1, with the step of each of `K` operands along them.
pub struct Axes<const K: usize> {
    dims: [usize; MAX_RANK],
    steps: [[usize; MAX_RANK]; K],
    rank: usize,
}

/// Steps of an operand of shape `x` along the axes of `y`: 0 where it is broadcast.
pub fn broadcast(x: &Shape, y: &Shape) -> [usize; MAX_RANK] {
    let (strides, extra) = (x.strides(), y.len() - x.len());
    std::array::from_fn(|axis| match axis.checked_sub(extra) {
        Some(axis) if axis < x.len() && x[axis] != 1 => strides[axis],
        _ => 0,
    })
}

impl<const K: usize> Axes<K> {
    /// The axes of `y`, along which operands go by `steps`.
    pub fn merged(y: &Shape, steps: [[usize; MAX_RANK]; K]) -> Axes<K> {
        let mut axes = Axes { dims: [1; MAX_RANK], steps: [[0; MAX_RANK]; K], rank: 0 };
        for axis in (0..y.len()).filter(|&axis| y[axis] != 1) {
            let last = axes.rank.saturating_sub(1);
            if axes.rank > 0 && (0..K).all(|k| axes.steps[k][last] == y[axis] * steps[k][axis]) {
                axes.dims[last] *= y[axis];
            } else {
                axes.dims[axes.rank] = y[axis];
                axes.rank += 1;
            }
            for k in 0..K {
                axes.steps[k][axes.rank - 1] = steps[k][axis];
            }
        }
        axes.rank = axes.rank.max(1);
        axes
    }

    /// Numbers of a row: along the last axis.
    pub fn row(&self) -> usize {
        self.dims[self.rank - 1]
    }

    /// Step of operand `k` along a row.
    pub fn step(&self, k: usize) -> usize {
        self.steps[k][self.rank - 1]
    }

    /// How many rows there are, and the step of operand `k` from one to the next, along the axis before the last.
    pub fn above(&self, k: usize) -> (usize, usize) {
        if self.rank == 1 { (1, 0) } else { (self.dims[self.rank - 2], self.steps[k][self.rank - 2]) }
    }

    /// Where row `i` begins in each operand.
    pub fn offsets(&self, mut i: usize) -> [usize; K] {
        let mut at = [0; K];
        for axis in (0..self.rank - 1).rev() {
            let place = i % self.dims[axis];
            i /= self.dims[axis];
            for k in 0..K {
                at[k] += place * self.steps[k][axis];
            }
        }
        at
    }
}
