//! An autoencoder in less memory than a whole picture's layers take: some of its steps go through the picture in tiles.
//!
//! The result is that of the whole picture but for rounding. Its norms have sums over all pixels, so a part is run over all
//! tiles up to each norm first, and what it would norm is summed. Between parts what there is lies in memory whole; so where
//! there is room for that, parts are short and little is computed twice, and else they reach over a whole level.

mod cut;
#[cfg(test)]
mod tests;
mod walk;

use super::network::Network;
use crate::Result;
use cut::Cut;
use hob_cpu::Cpu;
use hob_graph::{Graph, Op};
use hob_models::vae::{Config, Norms, Side, Step};
use std::ops::Range;
pub(super) use walk::Walk;

/// Pixels of the smallest tile's side.
const SMALL: usize = 32;

/// Steps that are run together.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Part {
    steps: Vec<Step>,
    /// rows and columns of what goes in
    size: [usize; 2],
    /// rows and columns of a tile, before or after, whichever are more; `None` for all at once
    tile: Option<[usize; 2]>,
}

/// How one half of an autoencoder goes through a picture of one size.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Way {
    side: Side,
    parts: Vec<Part>,
    /// bytes to work in at most
    pub work: usize,
    /// multiplications, to compare ways by
    pub products: f64,
}

/// What a way is looked for with.
pub(super) struct Search<'a> {
    pub vae: &'a Config,
    pub network: &'a Network,
    pub cpu: &'a Cpu,
}

/// A part with what it takes.
#[derive(Clone)]
struct Choice {
    part: Part,
    work: usize,
    products: f64,
}

impl Way {
    /// All at once.
    pub fn whole(vae: &Config, side: Side, size: [usize; 2]) -> Way {
        let part = Part { steps: vae.groups(side).concat(), size, tile: None };
        Way { side, parts: vec![part], work: 0, products: 0.0 }
    }

    /// Whether it is for pictures of that size, in pixels or latents as they go in.
    pub fn is_for(&self, side: Side, size: [usize; 2]) -> bool {
        self.side == side && self.parts.first().is_some_and(|p| p.size == size)
    }

    /// Into how many tiles the picture is cut at most.
    pub fn tiles(&self) -> usize {
        let of = |p: &Part| {
            p.tile.map_or(1, |tile| {
                let fine = fine(&p.steps, p.size);
                (0..2).map(|i| fine[i].div_ceil(tile[i])).product()
            })
        };
        self.parts.iter().map(of).max().unwrap_or(1)
    }
}

impl Search<'_> {
    /// The way within `bytes` of memory to work in that computes least; where there is none, the one that takes least.
    ///
    /// # Errors
    /// The weights do not fit the configuration.
    pub fn within(&self, side: Side, size: [usize; 2], bytes: usize) -> Result<Way> {
        let groups = self.vae.groups(side);
        let steps = groups.concat();
        let n = steps.len();
        let mut sizes = vec![size]; // before each step
        for step in &steps {
            sizes.push(scaled(&[*step], sizes[sizes.len() - 1]));
        }
        let whole = |range: Range<usize>| self.whole(side, &steps[range.clone()], sizes[range.start]);
        let all = whole(0..n)?;
        if all.work <= bytes {
            return Ok(Way { side, parts: vec![all.part], work: all.work, products: all.products });
        }
        // Borders of groups, from which the head (or up to which the tail) may be run at once.
        let mut borders = vec![0];
        for group in &groups {
            borders.push(borders[borders.len() - 1] + group.len());
        }
        let mut options: Vec<(Range<usize>, Vec<Choice>)> = Vec::new();
        for &border in &borders[1..borders.len() - 1] {
            let range = if side == Side::Decoder { 0..border } else { border..n };
            options.push((range.clone(), vec![whole(range)?]));
        }
        for group in borders.windows(2) {
            for from in group[0]..group[1] {
                for to in from + 1..=group[1] {
                    if !steps[from..to].iter().any(|s| s.is_whole()) {
                        let tiled = self.tiled(side, &steps[from..to], sizes[from], bytes)?;
                        options.push((from..to, tiled));
                    }
                }
            }
        }
        // A step that sees the whole picture runs by itself.
        if let Some(at) = steps.iter().position(|s| s.is_whole()) {
            options.push((at..at + 1, vec![whole(at..at + 1)?]));
        }
        let least = |worth: &dyn Fn(&Choice) -> Option<f64>, add: fn(f64, f64) -> f64| {
            let mut best: Vec<Option<(f64, Vec<Choice>)>> = vec![None; n + 1];
            best[0] = Some((0.0, Vec::new()));
            for to in 1..=n {
                for (range, choices) in options.iter().filter(|(range, _)| range.end == to) {
                    let Some((before, path)) = best[range.start].clone() else { continue };
                    for choice in choices {
                        let Some(own) = worth(choice) else { continue };
                        let sum = add(before, own);
                        if best[to].as_ref().is_none_or(|(least, _)| sum < *least) {
                            best[to] = Some((sum, [&path[..], std::slice::from_ref(choice)].concat()));
                        }
                    }
                }
            }
            best.pop().flatten().map(|(_, path)| path)
        };
        let fits = |c: &Choice| (c.work <= bytes).then_some(c.products);
        let path = least(&fits, |a, b| a + b).or_else(|| least(&|c| Some(c.work as f64), f64::max));
        let path = path.unwrap_or_else(|| vec![all]);
        let (work, products) =
            (path.iter().map(|c| c.work).max().unwrap_or(0), path.iter().map(|c| c.products).sum());
        Ok(Way { side, parts: path.into_iter().map(|c| c.part).collect(), work, products })
    }

    fn graph(&self, side: Side, steps: &[Step], [h, w]: [usize; 2], norms: Norms) -> Result<(Graph, usize)> {
        let graph = self.network.bound(self.vae.part(side, steps, [1, h, w], norms))?;
        let work = self.network.work(self.cpu, &graph);
        Ok((graph, work))
    }

    fn whole(&self, side: Side, steps: &[Step], size: [usize; 2]) -> Result<Choice> {
        let (graph, work) = self.graph(side, steps, size, Norms::Own)?;
        let work = work + given(&graph).max(outputs(&graph));
        let part = Part { steps: steps.to_vec(), size, tile: None };
        Ok(Choice { part, work, products: products(&graph) })
    }

    /// The part with the largest tiles within `bytes`, and with the smallest.
    fn tiled(&self, side: Side, steps: &[Step], size: [usize; 2], bytes: usize) -> Result<Vec<Choice>> {
        let fine = fine(steps, size);
        let mut tile = fine;
        loop {
            let choice = self.at(side, steps, size, tile)?;
            let long = if tile[0] >= tile[1] { 0 } else { 1 };
            if choice.work <= bytes || tile[long] <= SMALL {
                return Ok(vec![choice]);
            }
            tile[long] = tile[long].div_ceil(2).next_multiple_of(2);
        }
    }

    fn at(&self, side: Side, steps: &[Step], size: [usize; 2], tile: [usize; 2]) -> Result<Choice> {
        let (mut most, mut all) = (0, 0.0);
        let whole = self.vae.part(side, steps, [1, size[0], size[1]], Norms::Given);
        let whole = self.network.bound(whole)?;
        let mut held = given(&whole);
        if steps.len() == 1 && matches!(steps[0], Step::Second(..)) {
            held = held.saturating_sub(outputs(&whole)); // what is put out takes the place of what went around
        }
        for pass in passes(steps) {
            let cut = Cut::new(&steps[..pass.steps], pass.norms, size, tile);
            let (graph, work) = self.graph(side, &steps[..pass.steps], cut.window(), pass.norms)?;
            all += products(&graph) * cut.count() as f64;
            let last = matches!(pass.norms, Norms::Given);
            most = most.max(held + work + given(&graph) + if last { outputs(&whole) } else { 0 });
        }
        let part = Part { steps: steps.to_vec(), size, tile: Some(tile) };
        Ok(Choice { part, work: most, products: all })
    }
}

/// A run of a part over all tiles: to a norm or to its end.
struct Pass {
    /// how many steps of it
    steps: usize,
    norms: Norms,
}

/// The passes of a part: to each norm but one that stands first, then to the end.
fn passes(steps: &[Step]) -> Vec<Pass> {
    let normed = (0..steps.len()).filter(|&i| steps[i].is_normed()).enumerate();
    let mut all: Vec<Pass> = (normed.filter(|(_, i)| *i > 0))
        .map(|(n, i)| Pass { steps: i + 1, norms: Norms::Until(n) })
        .collect();
    all.push(Pass { steps: steps.len(), norms: Norms::Given });
    all
}

/// Rows and columns after some steps.
fn scaled(steps: &[Step], size: [usize; 2]) -> [usize; 2] {
    steps.iter().fold(size, |size, step| {
        let (up, down) = step.scale();
        size.map(|n| n * up / down)
    })
}

/// Rows and columns before or after some steps, whichever are more.
fn fine(steps: &[Step], size: [usize; 2]) -> [usize; 2] {
    let after = scaled(steps, size);
    [size[0].max(after[0]), size[1].max(after[1])]
}

/// Bytes of what a graph is given, but for means and rates.
fn given(graph: &Graph) -> usize {
    graph.inputs.iter().filter(|i| i.shape.len() == 4).map(|i| 4 * i.shape.count()).sum()
}

/// Bytes of what a graph gives out.
fn outputs(graph: &Graph) -> usize {
    graph.outputs.iter().map(|(_, id)| 4 * graph.node(*id).shape.count()).sum()
}

/// Multiplications of a graph's convolutions.
fn products(graph: &Graph) -> f64 {
    let of = |node: &hob_graph::Node| match node.op {
        Op::Conv2d(_) => {
            let kernel = graph.node(node.inputs[1]).shape;
            (node.shape.count() * kernel[1..].iter().product::<usize>()) as f64
        }
        _ => 0.0,
    };
    graph.nodes.iter().map(of).sum()
}
