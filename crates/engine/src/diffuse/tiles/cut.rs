//! A picture in tiles, each with as much around it as its steps see.

use super::{fine, scaled};
use hob_models::vae::{Norms, Step};
use std::ops::Range;

/// One axis of a picture in tiles. All windows are as long, so that one program serves them.
pub struct Axis {
    /// of what a tile is computed from
    window: usize,
    /// where that begins, and what of the result is the tile's own
    tiles: Vec<(usize, Range<usize>)>,
    /// of the whole result
    pub result: usize,
    /// where the result of a window begins: its beginning times this, and by that
    scale: (usize, usize),
}

/// A picture in tiles.
pub struct Cut(pub [Axis; 2]);

impl Cut {
    pub fn new(steps: &[Step], norms: Norms, size: [usize; 2], tile: [usize; 2]) -> Cut {
        // What a norm sees is what there is before the step that it begins.
        let steps = if matches!(norms, Norms::Until(_)) { &steps[..steps.len() - 1] } else { steps };
        let (fine, result) = (fine(steps, size), scaled(steps, size));
        Cut([0, 1].map(|i| Axis::new(steps, size[i], result[i], (tile[i] * result[i]).div_ceil(fine[i]))))
    }

    pub fn window(&self) -> [usize; 2] {
        [self.0[0].window, self.0[1].window]
    }

    pub fn count(&self) -> usize {
        self.0[0].tiles.len() * self.0[1].tiles.len()
    }

    pub fn tiles(&self) -> impl Iterator<Item = [(usize, Range<usize>); 2]> {
        let columns = &self.0[1].tiles;
        self.0[0].tiles.iter().flat_map(move |rows| columns.iter().map(move |c| [rows.clone(), c.clone()]))
    }
}

impl Axis {
    fn new(steps: &[Step], size: usize, result: usize, tile: usize) -> Axis {
        let (up, down) = steps.iter().fold((1, 1), |(up, down), step| {
            let (u, d) = step.scale();
            (up * u, down * d)
        });
        let sees = |own: &Range<usize>| {
            let ends = (own.start as isize, own.end as isize);
            let (from, to) = steps.iter().rev().fold(ends, |ends, step| step.sees(ends));
            let from = from.clamp(0, size as isize) as usize;
            from / down * down..(to.clamp(0, size as isize) as usize)
        };
        let own: Vec<Range<usize>> =
            (0..result).step_by(tile.max(1)).map(|at| at..(at + tile).min(result)).collect();
        let window = own.iter().map(|own| sees(own).len()).max().unwrap_or(size);
        let window = window.next_multiple_of(down).min(size);
        let tiles = own.into_iter().map(|own| (sees(&own).start.min(size - window), own)).collect();
        Axis { window, tiles, result, scale: (up, down) }
    }

    /// Where the result of the window from `start` on begins.
    pub fn begins(&self, start: usize) -> usize {
        start * self.scale.0 / self.scale.1
    }
}
