//! The walk: parts one after another, whole or in tiles, and the sums that norms need.

use super::cut::Cut;
use super::{Part, Way, passes};
use crate::diffuse::network::Network;
use crate::{Error, Result};
use hob_cpu::{Buffer, Cpu};
use hob_graph::Data;
use hob_models::vae::{Config, EPS, Norms, Side, Step};
use std::ops::Range;

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
pub type Named = Vec<(String, Vec<f32>)>;

/// A walk along a way.
pub struct Walk<'a> {
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
