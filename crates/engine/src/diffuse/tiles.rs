//! An autoencoder in less memory than a whole picture's layers take: some of its steps go through the picture in tiles.
//!
//! The result is that of the whole picture but for rounding. Its norms have sums over all pixels, so a part is run over all
//! tiles up to each norm first, and what it would norm is summed. Between parts what there is lies in memory whole; so where
//! there is room for that, parts are short and little is computed twice, and else they reach over a whole level.

use super::network::Network;
use crate::{Error, Result};
use hob_cpu::{Buffer, Cpu};
use hob_graph::{Data, Graph, Op};
use hob_models::vae::{Config, EPS, Norms, Side, Step};
use std::ops::Range;

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

/// One axis of a picture in tiles. All windows are as long, so that one program serves them.
struct Axis {
    /// of what a tile is computed from
    window: usize,
    /// where that begins, and what of the result is the tile's own
    tiles: Vec<(usize, Range<usize>)>,
    /// of the whole result
    result: usize,
    /// where the result of a window begins: its beginning times this, and by that
    scale: (usize, usize),
}

/// A picture in tiles.
struct Cut([Axis; 2]);

impl Cut {
    fn new(steps: &[Step], norms: Norms, size: [usize; 2], tile: [usize; 2]) -> Cut {
        // What a norm sees is what there is before the step that it begins.
        let steps = if matches!(norms, Norms::Until(_)) { &steps[..steps.len() - 1] } else { steps };
        let (fine, result) = (fine(steps, size), scaled(steps, size));
        Cut([0, 1].map(|i| Axis::new(steps, size[i], result[i], (tile[i] * result[i]).div_ceil(fine[i]))))
    }

    fn window(&self) -> [usize; 2] {
        [self.0[0].window, self.0[1].window]
    }

    fn count(&self) -> usize {
        self.0[0].tiles.len() * self.0[1].tiles.len()
    }

    fn tiles(&self) -> impl Iterator<Item = [(usize, Range<usize>); 2]> {
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
    fn begins(&self, start: usize) -> usize {
        start * self.scale.0 / self.scale.1
    }
}

/// Numbers `(C, H, W)` that lie in memory whole.
struct Held {
    data: Buffer,
    dims: [usize; 3],
}

impl Held {
    fn new(dims: [usize; 3]) -> Result<Held> {
        Ok(Held { data: Buffer::zeroed(4 * dims.iter().product::<usize>()).map_err(memory)?, dims })
    }

    fn of(numbers: &[f32], dims: [usize; 3]) -> Result<Held> {
        Ok(Held { data: Buffer::from_f32(numbers).map_err(memory)?, dims })
    }
}

fn memory(e: std::io::Error) -> Error {
    Error::Exec(hob_cpu::exec::ExecError::Memory(e))
}

/// Copies a rectangle of each plane of `from` into one of `to`; dimensions are `(C, H, W)`.
fn copy(
    (from, [planes, h, w]): (&[f32], [usize; 3]),
    [y, x]: [usize; 2],
    (to, [_, th, tw]): (&mut [f32], [usize; 3]),
    [ty, tx]: [usize; 2],
    [rows, columns]: [usize; 2],
) {
    for plane in 0..planes {
        for row in 0..rows {
            let from = &from[(plane * h + y + row) * w + x..][..columns];
            to[(plane * th + ty + row) * tw + tx..][..columns].copy_from_slice(from);
        }
    }
}

/// Sums by group, for a norm.
struct Sums {
    /// of numbers, and of their squares
    groups: Vec<[f64; 2]>,
    channels: usize,
    /// numbers of a group
    count: f64,
}

impl Sums {
    fn new(groups: usize, channels: usize) -> Sums {
        Sums { groups: vec![[0.0; 2]; groups], channels, count: 0.0 }
    }

    /// Adds a rectangle of each plane of `x` `(C, H, W)`.
    fn add(
        &mut self,
        x: &[f32],
        [_, h, w]: [usize; 3],
        rows: Range<usize>,
        columns: Range<usize>,
        cpu: &Cpu,
    ) {
        const LANES: usize = 8;
        let each = self.channels / self.groups.len();
        self.count += (each * rows.len() * columns.len()) as f64;
        let sums = std::sync::Mutex::new(&mut self.groups);
        cpu.pool.run(self.channels / each, &|group, _| {
            let mut sum = [[0.0f64; LANES]; 2];
            for plane in group * each..(group + 1) * each {
                for row in rows.clone() {
                    let line = &x[(plane * h + row) * w..][columns.clone()];
                    let (wide, rest) = line.as_chunks::<LANES>();
                    for x in wide {
                        for i in 0..LANES {
                            let x = f64::from(x[i]);
                            sum[0][i] += x;
                            sum[1][i] += x * x;
                        }
                    }
                    for (i, &x) in rest.iter().enumerate() {
                        let x = f64::from(x);
                        sum[0][i] += x;
                        sum[1][i] += x * x;
                    }
                }
            }
            let mut sums = sums.lock().unwrap_or_else(|e| e.into_inner());
            for (to, lanes) in sums[group].iter_mut().zip(sum) {
                *to += lanes.iter().sum::<f64>();
            }
        });
    }

    /// Mean and one over the deviation, for each channel.
    fn by_channel(&self) -> [Vec<f32>; 2] {
        let each = self.channels / self.groups.len();
        let mut all = [Vec::with_capacity(self.channels), Vec::with_capacity(self.channels)];
        for [sum, squares] in &self.groups {
            let mean = sum / self.count;
            let rate = 1.0 / ((squares / self.count - mean * mean).max(0.0) + f64::from(EPS)).sqrt();
            for _ in 0..each {
                all[0].push(mean as f32);
                all[1].push(rate as f32);
            }
        }
        all
    }
}

/// Numbers by name.
pub(super) type Named = Vec<(String, Vec<f32>)>;

/// A walk along a way.
pub(super) struct Walk<'a> {
    pub vae: &'a Config,
    pub network: &'a mut Network,
    pub cpu: &'a Cpu,
    /// heard before each tile; ends the walk by `false`
    pub on: &'a mut dyn FnMut() -> bool,
}

impl Walk<'_> {
    /// What comes of `numbers`, which are of the size that the way is for: by name. `None` where it was ended.
    ///
    /// # Errors
    /// The weights do not fit the configuration, or memory.
    pub fn go(&mut self, way: &Way, numbers: &[f32]) -> Result<Option<Named>> {
        let Some([h, w]) = way.parts.first().map(|p| p.size) else { return Ok(None) };
        let begins = match way.side {
            Side::Encoder => "pixels",
            Side::Decoder => "latents",
        };
        let mut held = vec![(begins.to_string(), Held::of(numbers, [numbers.len() / (h * w), h, w])?)];
        for part in &way.parts {
            if !(self.on)() {
                return Ok(None);
            }
            let done = match part.tile {
                None => self.whole(way.side, part, held)?,
                Some(tile) => match self.tiled(way.side, part, tile, held)? {
                    Some(done) => done,
                    None => return Ok(None),
                },
            };
            held = done;
            self.network.rest();
        }
        Ok(Some(held.into_iter().map(|(name, held)| (name, held.data.f32s().to_vec())).collect()))
    }

    fn whole(&mut self, side: Side, part: &Part, held: Vec<(String, Held)>) -> Result<Vec<(String, Held)>> {
        let [h, w] = part.size;
        self.network.load(self.cpu, self.vae.part(side, &part.steps, [1, h, w], Norms::Own))?;
        let inputs: Vec<(&str, Data)> =
            held.iter().map(|(name, held)| (name.as_str(), Data::F32(held.data.f32s()))).collect();
        self.network.step(self.cpu, &inputs)?;
        drop(inputs);
        drop(held);
        let outputs = self.network.outputs();
        outputs
            .map(|(name, shape, data)| Ok((name.into(), Held::of(data, [shape[1], shape[2], shape[3]])?)))
            .collect()
    }

    /// The part in tiles; `None` where it was ended.
    fn tiled(
        &mut self,
        side: Side,
        part: &Part,
        tile: [usize; 2],
        mut held: Vec<(String, Held)>,
    ) -> Result<Option<Vec<(String, Held)>>> {
        let groups = self.vae.norm_num_groups;
        let mut norms: Vec<[Vec<f32>; 2]> = Vec::new(); // means and rates of each, so far
        if part.steps[0].is_normed() {
            let (_, x) = held.iter().find(|(name, _)| name == "x").expect("a norm has something to norm");
            let mut sums = Sums::new(groups, x.dims[0]);
            sums.add(x.data.f32s(), x.dims, 0..x.dims[1], 0..x.dims[2], self.cpu);
            norms.push(sums.by_channel());
        }
        let mut out: Vec<(String, Held)> = Vec::new();
        let in_place = part.steps.len() == 1 && matches!(part.steps[0], Step::Second(..));
        for pass in passes(&part.steps) {
            let steps = &part.steps[..pass.steps];
            let cut = Cut::new(steps, pass.norms, part.size, tile);
            let [h, w] = cut.window();
            self.network.load(self.cpu, self.vae.part(side, steps, [1, h, w], pass.norms))?;
            let dims = |held: &Held| [held.dims[0], h, w];
            let mut windows = held.iter().map(|(_, x)| Held::new(dims(x))).collect::<Result<Vec<_>>>()?;
            let (mut sums, last) = (None, matches!(pass.norms, Norms::Given));
            for [(y, rows), (x, columns)] in cut.tiles() {
                if !(self.on)() {
                    return Ok(None);
                }
                for ((_, from), to) in held.iter().zip(&mut windows) {
                    let dims = to.dims;
                    copy((from.data.f32s(), from.dims), [y, x], (to.data.f32s_mut(), dims), [0, 0], [h, w]);
                }
                let names: Vec<[String; 2]> =
                    (0..norms.len()).map(|n| [format!("mean.{n}"), format!("rate.{n}")]).collect();
                let mut inputs: Vec<(&str, Data)> = (held.iter().zip(&windows))
                    .map(|((name, _), window)| (name.as_str(), Data::F32(window.data.f32s())))
                    .collect();
                let given = names.iter().flatten().zip(norms.iter().flatten());
                inputs.extend(given.map(|(name, x)| (name.as_str(), Data::F32(x))));
                self.network.step(self.cpu, &inputs)?;
                let from = [rows.start - cut.0[0].begins(y), columns.start - cut.0[1].begins(x)];
                for (name, shape, data) in self.network.outputs() {
                    let dims = [shape[1], shape[2], shape[3]];
                    if !last {
                        let sums = sums.get_or_insert_with(|| Sums::new(groups, dims[0]));
                        let own = [from[0]..from[0] + rows.len(), from[1]..from[1] + columns.len()];
                        let [rows, columns] = own;
                        sums.add(data, dims, rows, columns, self.cpu);
                        continue;
                    }
                    let to = if in_place { &mut held } else { &mut out };
                    let name = if in_place { "skip" } else { name };
                    let at = match to.iter().position(|(n, _)| n == name) {
                        Some(at) => at,
                        None => {
                            let whole = Held::new([dims[0], cut.0[0].result, cut.0[1].result])?;
                            to.push((name.to_string(), whole));
                            to.len() - 1
                        }
                    };
                    let to = &mut to[at].1;
                    let to_dims = to.dims;
                    let to = (to.data.f32s_mut(), to_dims);
                    copy((data, dims), from, to, [rows.start, columns.start], [rows.len(), columns.len()]);
                }
            }
            norms.extend(sums.map(|sums| sums.by_channel()));
        }
        let mut take = |name: &str| {
            let at = held.iter().position(|(n, _)| n == name)?;
            Some(held.swap_remove(at).1)
        };
        if in_place {
            out.extend(take("skip").map(|held| ("x".to_string(), held)));
        }
        // What goes around a resnet is what went in, where that has its channels.
        if matches!(part.steps.last(), Some(Step::First(..))) && out.iter().all(|(name, _)| name != "skip") {
            out.extend(take("x").map(|held| ("skip".to_string(), held)));
        }
        Ok(Some(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffuse::noise::{Noise, Source};
    use crate::lora::Updates;
    use hob_cpu::Precision;
    use hob_io::Pipeline;
    use hob_io::pipeline::Role;
    use serde_json::json;
    use std::path::Path;
    use std::sync::Arc;

    /// A model whose autoencoder has weights by chance, of three levels with odd numbers of channels.
    fn model(folder: &Path) -> (Config, Arc<Pipeline>) {
        let given = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/pipeline/sd15");
        copy_folder(&given, folder);
        let config = json!({
            "_class_name": "AutoencoderKL", "block_out_channels": [6, 9, 12], "layers_per_block": 2, "norm_num_groups": 3,
            "latent_channels": 4, "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
            "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"],
        });
        let vae = Config::parse(&config).unwrap();
        let mut noise = Noise::new(Source::TorchCpu, 3);
        let (mut header, mut bytes) = (serde_json::Map::new(), Vec::new());
        for graph in [vae.encoder(1, 16, 16).unwrap(), vae.decoder(1, 4, 4).unwrap()] {
            for weight in &graph.weights {
                let begin = bytes.len();
                let (dims, n) = (weight.shape.to_vec(), weight.shape.count());
                // Means far from zero, as trained ones have.
                let scale = (dims[1..].iter().product::<usize>() as f32).sqrt().recip();
                let shift = if dims.len() == 1 { 0.7 } else { 0.0 };
                bytes.extend(noise.randn(n).iter().flat_map(|x| (x * scale + shift).to_le_bytes()));
                header.insert(
                    weight.name.clone(),
                    json!({"dtype": "F32", "shape": dims, "data_offsets": [begin, bytes.len()]}),
                );
            }
        }
        let header = serde_json::to_vec(&header).unwrap();
        let file = [&(header.len() as u64).to_le_bytes()[..], &header, &bytes].concat();
        std::fs::write(folder.join("vae/config.json"), config.to_string()).unwrap();
        std::fs::write(folder.join("vae/diffusion_pytorch_model.safetensors"), file).unwrap();
        (vae, Arc::new(Pipeline::open(folder).unwrap()))
    }

    fn copy_folder(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let to = to.join(entry.file_name());
            match entry.file_type().unwrap().is_dir() {
                true => copy_folder(&entry.path(), &to),
                false => drop(std::fs::copy(entry.path(), to).unwrap()),
            }
        }
    }

    struct Bench {
        _folder: tempfile::TempDir,
        vae: Config,
        network: Network,
        cpu: Cpu,
    }

    fn bench() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let (vae, pipeline) = model(folder.path());
        let cpu = Cpu::new(2, Precision::Exact);
        let network = Network::new(&pipeline, Role::Vae, &Updates::default(), &cpu).unwrap();
        Bench { _folder: folder, vae, network, cpu }
    }

    impl Bench {
        fn run(&mut self, way: &Way, numbers: &[f32]) -> Named {
            let mut walk =
                Walk { vae: &self.vae, network: &mut self.network, cpu: &self.cpu, on: &mut || true };
            walk.go(way, numbers).unwrap().unwrap()
        }

        /// A way of parts that end after these steps, the first or last of which sees the whole picture.
        fn way(&self, side: Side, size: [usize; 2], ends: &[usize], tile: [usize; 2]) -> Way {
            let steps = self.vae.groups(side).concat();
            let (mut from, mut at, mut parts) = (0, size, Vec::new());
            for &end in ends {
                let steps = &steps[from..end];
                let whole = steps.iter().any(|s| s.is_whole());
                parts.push(Part { steps: steps.to_vec(), size: at, tile: (!whole).then_some(tile) });
                (from, at) = (end, scaled(steps, at));
            }
            assert_eq!(from, steps.len());
            Way { side, parts, work: 0, products: 0.0 }
        }
    }

    fn near(a: &[(String, Vec<f32>)], b: &[(String, Vec<f32>)], what: &str) {
        assert_eq!(a.len(), b.len(), "{what}");
        for (name, x) in a {
            let (_, y) = b.iter().find(|(n, _)| n == name).expect(name);
            let most = y.iter().fold(0.0f32, |m, y| m.max(y.abs()));
            let off = x.iter().zip(y).fold(0.0f32, |m, (x, y)| m.max((x - y).abs()));
            assert!(x.len() == y.len() && off <= 1e-4 * most && most > 0.1, "{what}: {off} of {most}");
        }
    }

    #[test]
    fn tiles_make_the_picture_that_is_made_at_once() {
        let mut bench = bench();
        for (side, size) in [(Side::Decoder, [9, 13]), (Side::Encoder, [36, 52])] {
            let n = bench.vae.groups(side).concat().len();
            let channels = if side == Side::Decoder { 4 } else { 3 };
            let numbers = Noise::new(Source::TorchCpu, 1).randn(channels * size[0] * size[1]);
            let whole = bench.run(&Way::whole(&bench.vae, side, size), &numbers);
            let groups: Vec<usize> = (bench.vae.groups(side).iter())
                .scan(0, |at, g| {
                    *at += g.len();
                    Some(*at)
                })
                .collect();
            let (each, pairs) =
                ((1..=n).collect::<Vec<_>>(), (1..=n).step_by(2).chain([n]).collect::<Vec<_>>());
            let mut cuts = [each, pairs, groups];
            if side == Side::Decoder {
                cuts[2].insert(0, 1); // the beginning sees the whole picture; the rest of its level need not
            } else {
                cuts.iter_mut().for_each(|c| c.insert(c.len() - 1, n - 1));
            }
            for mut ends in cuts {
                ends.sort();
                ends.dedup();
                for tile in [[8, 8], [14, 30], [6, 200], [100, 100]] {
                    let tiled = bench.run(&bench.way(side, size, &ends, tile), &numbers);
                    near(&tiled, &whole, &format!("{side:?} cut at {ends:?} in {tile:?}"));
                }
            }
        }
    }

    #[test]
    fn less_memory_means_more_work_and_the_same_picture() {
        let mut bench = bench();
        let size = [40, 48];
        let numbers = Noise::new(Source::TorchCpu, 1).randn(4 * size[0] * size[1]);
        let find = |bench: &Bench, bytes| {
            let search = Search { vae: &bench.vae, network: &bench.network, cpu: &bench.cpu };
            search.within(Side::Decoder, size, bytes).unwrap()
        };
        let whole = find(&bench, usize::MAX);
        assert!(whole.tiles() == 1 && whole.parts.len() == 1);
        let picture = bench.run(&whole, &numbers);
        let least = find(&bench, 0);
        assert!(least.work < whole.work / 2, "{} of {}", least.work, whole.work);
        let mut last: Option<Way> = None;
        for share in 0..6 {
            let bytes = least.work + (whole.work - least.work) * share / 5;
            let way = find(&bench, bytes);
            assert!(way.work <= bytes, "{} of {bytes}", way.work);
            assert!(last.is_none_or(|last| way.products <= last.products));
            near(&bench.run(&way, &numbers), &picture, &format!("{way:?}"));
            last = Some(way);
        }
        assert!(last.is_some_and(|last| last == whole));
    }

    #[test]
    fn a_walk_ends_when_it_is_told() {
        let mut bench = bench();
        let n = bench.vae.groups(Side::Decoder).concat().len();
        let mut left = 7;
        let mut on = || {
            left -= 1;
            left > 0
        };
        let way = bench.way(Side::Decoder, [9, 13], &(1..=n).collect::<Vec<_>>(), [8, 8]);
        let mut walk = Walk { vae: &bench.vae, network: &mut bench.network, cpu: &bench.cpu, on: &mut on };
        assert!(walk.go(&way, &vec![0.1; 4 * 9 * 13]).unwrap().is_none());
        assert_eq!(left, 0);
    }
}
