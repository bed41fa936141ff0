//! A tiny autoencoder in TAESD's layout: pictures to latents and back, for previews.
//! After diffusers' `autoencoder_tiny.py` (Ollin Boer Bohan's TAESD).

use crate::blocks::{CONV, HALVE, POINT, only};
use crate::{check_sizes, read};
use hob_graph::{Builder, DType, Graph, GraphError, Path, X};
use serde::Deserialize;
use serde_json::{Value, json};

/// config.json of an `AutoencoderTiny`.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)] // the fields are those of config.json
pub struct Config {
    pub in_channels: usize,
    pub out_channels: usize,
    pub latent_channels: usize,
    pub encoder_block_out_channels: Vec<usize>,
    pub decoder_block_out_channels: Vec<usize>,
    pub num_encoder_blocks: Vec<usize>,
    pub num_decoder_blocks: Vec<usize>,
    #[serde(default = "two")]
    pub upsampling_scaling_factor: usize,
}

fn two() -> usize {
    2
}

impl Config {
    /// Reads and checks a configuration.
    pub fn parse(config: &Value) -> Result<Config, String> {
        let c: Config = read(config)?;
        check_sizes(&[
            ("in_channels", c.in_channels),
            ("out_channels", c.out_channels),
            ("latent_channels", c.latent_channels),
            ("upsampling_scaling_factor", c.upsampling_scaling_factor),
        ])?;
        let stages = |blocks: &[usize], channels: &[usize]| {
            let fine = blocks.len() == channels.len() && !blocks.is_empty() && blocks.len() <= 8;
            fine && channels.iter().all(|c| (1..1 << 16).contains(c)) && blocks.iter().all(|&b| b < 1 << 10)
        };
        if !stages(&c.num_encoder_blocks, &c.encoder_block_out_channels)
            || !stages(&c.num_decoder_blocks, &c.decoder_block_out_channels)
        {
            return Err("the stages of blocks and channels do not match".into());
        }
        only(config, &[("act_fn", json!("relu")), ("upsample_fn", json!("nearest"))])?;
        Ok(c)
    }

    /// From `pixels` `(N, 3, H, W)` in -1..1 to `latents` `(N, L, H/8, W/8)`, for the usual four stages.
    pub fn encoder(&self, batch: usize, height: usize, width: usize) -> Result<Graph, GraphError> {
        let g = Builder::stateless(0);
        let mut at = Layers { p: g.path("encoder.layers"), next: 0 };
        let mut x = g.input("pixels", &[batch, self.in_channels, height, width], DType::F32);
        x = (x + 1.0) * 0.5;
        for (stage, &blocks) in self.num_encoder_blocks.iter().enumerate() {
            let channels = self.encoder_block_out_channels[stage];
            x = match stage {
                0 => x.conv2d(at.next(), channels, CONV, true),
                _ => x.conv2d(at.next(), channels, HALVE, false),
            };
            for _ in 0..blocks {
                x = block(x, at.next(), channels);
            }
        }
        g.output("latents", x.conv2d(at.next(), self.latent_channels, CONV, true));
        g.finish()
    }

    /// From `latents` `(N, L, h, w)` to `pixels` `(N, 3, 8h, 8w)` in -1..1, for the usual four stages.
    pub fn decoder(&self, batch: usize, height: usize, width: usize) -> Result<Graph, GraphError> {
        let g = Builder::stateless(0);
        let mut at = Layers { p: g.path("decoder.layers"), next: 0 };
        let channels = &self.decoder_block_out_channels;
        let mut x = g.input("latents", &[batch, self.latent_channels, height, width], DType::F32);
        x = (x * (1.0 / 3.0)).tanh() * 3.0; // keeps outliers in range
        x = x.conv2d(at.next(), channels[0], CONV, true).relu();
        at.next(); // the activation counts as a layer
        for (stage, &blocks) in self.num_decoder_blocks.iter().enumerate() {
            for _ in 0..blocks {
                x = block(x, at.next(), channels[stage]);
            }
            if stage + 1 < channels.len() {
                x = x.upsample(self.upsampling_scaling_factor);
                at.next();
                x = x.conv2d(at.next(), channels[stage], CONV, false);
            } else {
                x = x.conv2d(at.next(), self.out_channels, CONV, true);
            }
        }
        g.output("pixels", x * 2.0 - 1.0);
        g.finish()
    }
}

/// Numbers layers as torch's `Sequential` does.
struct Layers<'g> {
    p: Path<'g>,
    next: usize,
}

impl<'g> Layers<'g> {
    fn next(&mut self) -> Path<'g> {
        self.next += 1;
        self.p / (self.next - 1)
    }
}

/// Three convolutions beside a skip, and ReLU over their sum.
fn block<'g>(x: X<'g>, p: Path<'g>, channels: usize) -> X<'g> {
    let skip = if x.dim(1) == channels { x } else { x.conv2d(p / "skip", channels, POINT, false) };
    let y = x.conv2d(p / "conv" / 0, channels, CONV, true).relu();
    let y = y.conv2d(p / "conv" / 2, channels, CONV, true).relu();
    (y.conv2d(p / "conv" / 4, channels, CONV, true) + skip).relu()
}
