//! ControlNets of Flux.1: some blocks like its own, which look at a picture beside the latents and say what is to be added
//! behind the model's. After diffusers' `controlnet_flux.py`: XLabs' see pixels, InstantX's and those of their form latents.

use crate::blocks::{CONV, HALVE};
use crate::flux::{self, Added, Size};
use crate::{check_sizes, read};
use hob_graph::{Act, Builder, DType, Graph, GraphError, X};
use serde::Deserialize;
use serde_json::Value;

/// config.json of a `FluxControlNetModel`.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)] // the fields are those of config.json
pub struct Config {
    /// what it shares with the model
    #[serde(flatten)]
    pub flux: flux::Config,
    /// kinds of pictures that one for several is told apart by
    #[serde(default)]
    pub num_mode: Option<usize>,
    /// of one that sees pixels
    #[serde(default)]
    pub conditioning_embedding_channels: Option<usize>,
}

/// Channels of the convolutions that pixels go through (`block_out_channels` in diffusers); each but the first halves sides.
const HINTS: [usize; 4] = [16, 16, 16, 16];

/// The kinds of pictures that published ControlNets for several know, in their order (InstantX's and Shakker Labs' Union).
pub const MODES: [&str; 7] = ["canny", "tile", "depth", "blur", "pose", "gray", "lq"];

impl Config {
    /// Reads and checks a configuration.
    pub fn parse(config: &Value) -> Result<Config, String> {
        let c: Config = read(config)?;
        c.flux.check()?;
        check_sizes(&[("num_mode", c.num_mode.unwrap_or(1))])?;
        let patch = c.flux.patch_size;
        let fits = match c.conditioning_embedding_channels {
            Some(channels) => {
                (1..=8).contains(&patch) && channels.checked_mul(patch * patch) == Some(c.flux.in_channels)
            }
            None => patch == 1,
        };
        match fits && c.flux.num_layers + c.flux.num_single_layers > 0 {
            true => Ok(c),
            false => Err(format!(
                "patch_size {patch}, in_channels {} and conditioning_embedding_channels {} do not fit, or it has no blocks",
                c.flux.in_channels, config["conditioning_embedding_channels"]
            )),
        }
    }

    /// Whether it sees the pixels of its picture, and not its latents.
    pub fn sees_pixels(&self) -> bool {
        self.conditioning_embedding_channels.is_some()
    }

    /// Pixels of a side to one latent of a packed token's side, of one that sees pixels.
    pub fn reduction(&self) -> usize {
        1 << (HINTS.len() - 1)
    }

    /// What it adds to a model.
    pub fn added(&self) -> Added {
        let c = &self.flux;
        Added { doubles: c.num_layers, singles: c.num_single_layers, turns: self.sees_pixels() }
    }

    /// What is added to a Flux: `residual.I` and `single.I` `(N·L, C)`, as [`flux::Config::graph`] takes them. Inputs as there,
    /// for the latents of the picture alone, and `control`: latents `(N·L, in_channels)` as [`flux::pack`] gives them, or pixels
    /// `(N, 3, 16·height, 16·width)` in -1..1; `strength` `(1)`, by which all is multiplied; of one for several kinds `mode`
    /// `(N)` i32.
    pub fn graph(&self, size: Size) -> Result<Graph, GraphError> {
        let g = Builder::stateless(0);
        let (c, n, l) = (self.flux.channels(), size.batch, size.height * size.width);
        let input = |name, dims: &[usize]| g.input(name, dims, DType::F32);
        let control = match self.conditioning_embedding_channels {
            None => input("control", &[n * l, self.flux.in_channels]),
            Some(channels) => self.hints(&g, size, channels),
        };
        let image = input("latents", &[n * l, self.flux.in_channels]).linear_bias(g.path("x_embedder"), c);
        let mut image = image + control.linear_bias(g.path("controlnet_x_embedder"), c);
        let mut text = self.flux.text(&g, size);
        let mut size = Size { beside: [0, 0], added: Added::default(), ..size };
        if let Some(modes) = self.num_mode {
            // The kind is a token before the text.
            let mode = g.input("mode", &[n], DType::I32).embed(g.path("controlnet_mode_embedder"), modes, c);
            let both = mode.reshape(&[n, 1, c]).concat(1, &[text.reshape(&[n, size.text, c])]);
            size.text += 1;
            text = both.reshape(&[n * size.text, c]);
        }
        let block = self.flux.block(&g, size, self.flux.condition(&g, n));
        let strength = input("strength", &[1]);
        for i in 0..self.flux.num_layers {
            (text, image) = block.double(g.path("transformer_blocks") / i, text, image);
            let said = image.linear_bias(g.path("controlnet_blocks") / i, c);
            g.output(&format!("residual.{i}"), said * strength);
        }
        let mut both = block.join(text, image);
        for i in 0..self.flux.num_single_layers {
            both = block.single(g.path("single_transformer_blocks") / i, both);
            let said = block.some(both, size.text, l).linear_bias(g.path("controlnet_single_blocks") / i, c);
            g.output(&format!("single.{i}"), said * strength);
        }
        g.finish()
    }

    /// Pixels as tokens `(N·L, in_channels)`.
    fn hints<'g>(&self, g: &'g Builder, size: Size, channels: usize) -> X<'g> {
        let (n, side) = (size.batch, self.flux.patch_size);
        let (h, w) = (size.height * side, size.width * side);
        let by = self.reduction();
        let p = g.path("input_hint_block");
        let mut y = g.input("control", &[n, 3, by * h, by * w], DType::F32);
        y = y.conv2d(p / "conv_in", HINTS[0], CONV, true).act(Act::Silu);
        for (i, pair) in HINTS.windows(2).enumerate() {
            y = y.conv2d(p / "blocks" / (2 * i), pair[0], CONV, true).act(Act::Silu);
            y = y.conv2d(p / "blocks" / (2 * i + 1), pair[1], HALVE, true).act(Act::Silu);
        }
        y = y.conv2d(p / "conv_out", channels, CONV, true);
        let squares = y.reshape(&[n, channels, size.height, side, size.width, side]);
        squares.permute(&[0, 2, 4, 1, 3, 5]).reshape(&[n * size.height * size.width, self.flux.in_channels])
    }
}
