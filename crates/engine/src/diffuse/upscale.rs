//! Pictures made larger by ESRGAN's networks, in tiles, so that the memory does not grow with the picture.

use crate::stored::shared;
use crate::{Error, Result};
use hob_cpu::exec::Memory;
use hob_cpu::{Cpu, Program, Weights};
use hob_graph::{Batch, Data};
use hob_io::{Picture, Safetensors};
use hob_models::esrgan::{Config, new_name};
use std::path::Path;
use std::sync::Arc;

/// Pixels beyond a tile that are computed with it and then left out, so that what meets at its edge was made of the same.
/// What is further away is taken to count for nothing; that was seen with random weights alone.
pub const CONTEXT: usize = 32;

/// Pixels of a picture: 8192 × 8192, as many as are read.
const MOST: usize = 1 << 26;

/// How a picture is cut: tiles are computed with [`CONTEXT`] around them.
#[derive(Clone, Copy, Debug)]
pub struct Tiles {
    /// sides of a tile, in pixels of the picture given
    pub side: usize,
    /// around it, counted in what the network sees: some take 2 × 2 or 4 × 4 pixels for one
    pub context: usize,
}

impl Default for Tiles {
    fn default() -> Tiles {
        Tiles { side: 256, context: CONTEXT }
    }
}

/// An upscaler with its weights where they lie.
pub struct Upscaler {
    config: Config,
    weights: Weights,
    dtypes: std::collections::BTreeMap<String, (hob_graph::DType, Vec<usize>)>,
    path: String,
    cpu: Cpu,
}

impl Upscaler {
    /// Of a safetensors file in any of ESRGAN's namings.
    ///
    /// # Errors
    /// The file cannot be read, or holds no upscaler of this kind.
    pub fn open(path: &Path, cpu: Cpu) -> Result<Upscaler> {
        let file = Arc::new(Safetensors::open(path).map_err(|e| Error::Ask(e.to_string()))?);
        let (mut weights, mut dtypes) = (Weights::default(), std::collections::BTreeMap::new());
        for tensor in file.tensors() {
            let name = new_name(&tensor.stored_name);
            dtypes.insert(name.clone(), (tensor.dtype, tensor.shape.clone()));
            weights.insert(&name, shared(&file, tensor));
        }
        let path = path.display().to_string();
        let fail = |e: String| Error::Ask(format!("{path} is no upscaler that Hob runs: {e}"));
        let config = Config::detect(|name| Some(dtypes.get(name)?.1.clone())).map_err(fail)?;
        if ![1, 3].contains(&config.channels) {
            return Err(fail(format!("it makes pictures of {} channels", config.channels)));
        }
        if config.scale() == 0 {
            return Err(fail("it makes pictures smaller".into()));
        }
        Ok(Upscaler { config, weights, dtypes, path, cpu })
    }

    /// Pixels of a side that one becomes.
    pub fn scale(&self) -> usize {
        self.config.scale()
    }

    /// The picture, larger; its alpha is resized by Lanczos. `on` hears how many tiles of how many are done, and stops the
    /// work by `false`, which gives `None`.
    ///
    /// # Errors
    /// The result would be too large or is no number, weights are missing, or memory.
    pub fn upscale(
        &self,
        picture: &Picture,
        tiles: Tiles,
        on: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<Option<Picture>> {
        let (scale, by) = (self.scale(), self.config.multiple());
        let (width, height) = (picture.width, picture.height);
        let size = |n: usize| n.saturating_mul(scale);
        if size(width).saturating_mul(size(height)) > MOST {
            return Err(Error::Ask(format!(
                "a picture of {width} × {height} becomes {} × {}, more than the {MOST} pixels that Hob makes",
                size(width),
                size(height)
            )));
        }
        let filter = hob_io::picture::Filter::Lanczos;
        let alpha =
            picture.alpha.as_ref().map(|alpha| Picture { rgb: vec![0; 3 * alpha.len()], ..picture.clone() });
        let alpha =
            alpha.map(|a| a.resized(size(width), size(height), filter)).transpose().map_err(Error::Ask)?;

        let x = Axis::new(width, by, tiles);
        let y = Axis::new(height, by, tiles);
        let grey = self.config.channels == 1;
        let (batch, planes) = if grey { (3, 1) } else { (1, 3) };
        let mut graph = self.config.graph(batch, y.window, x.window).map_err(|e| self.graph(e))?;
        graph.bind(|name| self.dtypes.get(name).cloned()).map_err(|e| self.graph(e))?;
        let program: Program = self.cpu.program(graph, &self.weights)?;
        let mut memory = Memory::new();
        let mut rgb = vec![0u8; 3 * size(width) * size(height)];
        let all = x.count() * y.count();
        debug_assert_eq!(batch * planes, 3);
        for (done, (j, i)) in (0..y.count()).flat_map(|j| (0..x.count()).map(move |i| (j, i))).enumerate() {
            if !on(done, all) {
                return Ok(None);
            }
            let pixels = window(picture, x.start(i), x.window, y.start(j), y.window);
            let inputs = [("pixels", Data::F32(&pixels))];
            self.cpu.run(&program, &mut memory, None, &Batch { inputs: &inputs, seqs: &[] })?;
            let made = program.output(&memory, "upscaled").unwrap_or_default();
            if made.iter().any(|x| !x.is_finite()) {
                return Err(Error::Ask(format!(
                    "the numbers of {} overflow: the picture holds NaN or infinity",
                    self.path
                )));
            }
            let (rows, columns) = (y.core(j), x.core(i));
            let (wide, plane) = (size(x.window), size(x.window) * size(y.window));
            for row in size(rows.start)..size(rows.end) {
                let from = (row - size(y.start(j))) * wide;
                for column in size(columns.start)..size(columns.end) {
                    let at = from + column - size(x.start(i));
                    let to = 3 * (row * size(width) + column);
                    for (c, byte) in rgb[to..to + 3].iter_mut().enumerate() {
                        *byte = (made[c * plane + at].clamp(0.0, 1.0) * 255.0).round_ties_even() as u8;
                    }
                }
            }
        }
        on(all, all);
        let (width, height) = (size(width), size(height));
        Ok(Some(Picture { width, height, rgb, alpha: alpha.and_then(|a| a.alpha) }))
    }

    fn graph(&self, source: hob_graph::GraphError) -> Error {
        Error::Graph { model: self.path.clone(), source }
    }
}

/// How one side of a picture is cut. All windows are of one size, so that one program runs them all.
struct Axis {
    /// pixels of the picture
    size: usize,
    /// with those that fill it up to a multiple
    padded: usize,
    tile: usize,
    context: usize,
    window: usize,
}

impl Axis {
    fn new(size: usize, by: usize, tiles: Tiles) -> Axis {
        let padded = size.next_multiple_of(by);
        let (tile, context) = (tiles.side.max(1).next_multiple_of(by), tiles.context * by);
        Axis { size, padded, tile, context, window: padded.min(tile.saturating_add(2 * context)) }
    }

    /// Tiles in a row; one where a window holds all.
    fn count(&self) -> usize {
        if self.window == self.padded { 1 } else { self.size.div_ceil(self.tile) }
    }

    /// What tile i gives of the picture.
    fn core(&self, i: usize) -> std::ops::Range<usize> {
        match self.count() {
            1 => 0..self.size,
            _ => i * self.tile..((i + 1) * self.tile).min(self.size),
        }
    }

    /// Where the window around it begins: at the picture's ends it is moved inwards, and has more context on its other side.
    fn start(&self, i: usize) -> usize {
        self.core(i).start.saturating_sub(self.context).min(self.padded - self.window)
    }
}

/// A part of a picture as `(3, H, W)` in 0..1; beyond its right and lower end it is reflected.
fn window(picture: &Picture, left: usize, width: usize, top: usize, height: usize) -> Vec<f32> {
    let inside = |at: usize, size: usize| match size {
        1 => 0,
        _ => {
            let at = at % (2 * (size - 1));
            at.min(2 * (size - 1) - at)
        }
    };
    let columns: Vec<usize> = (left..left + width).map(|x| inside(x, picture.width)).collect();
    let mut pixels = Vec::with_capacity(3 * width * height);
    for c in 0..3 {
        for y in top..top + height {
            let row = inside(y, picture.height) * picture.width;
            pixels.extend(columns.iter().map(|x| picture.rgb[3 * (row + x) + c] as f32 / 255.0));
        }
    }
    pixels
}
