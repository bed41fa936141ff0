//! ControlNet (Zhang et al. 2023): the first half of a UNet, which looks at a picture beside the latents and says what is
//! to be added to the whole UNet's skips. After diffusers' `controlnet.py`.

use crate::blocks::{CONV, HALVE, POINT, only};
use crate::unet::{self, Size};
use crate::{check_sizes, read};
use hob_graph::{Act, Builder, DType, Graph, GraphError};
use serde::Deserialize;
use serde_json::{Value, json};

/// config.json of a `ControlNetModel`.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)] // the fields are those of config.json
pub struct Config {
    /// what it shares with a UNet
    #[serde(flatten)]
    pub unet: unet::Config,
    #[serde(default = "three")]
    pub conditioning_channels: usize,
    #[serde(default = "rgb")]
    pub controlnet_conditioning_channel_order: String,
    #[serde(default = "usual")]
    pub conditioning_embedding_out_channels: Vec<usize>,
    /// whether what is added is the same everywhere, and meant for the pictures with the prompt alone
    #[serde(default)]
    pub global_pool_conditions: bool,
}

fn three() -> usize {
    3
}

fn rgb() -> String {
    "rgb".into()
}

fn usual() -> Vec<usize> {
    vec![16, 32, 96, 256]
}

impl Config {
    /// Reads and checks a configuration.
    pub fn parse(config: &Value) -> Result<Config, String> {
        let c: Config = read(config)?;
        c.unet.check(config)?;
        check_sizes(&[("conditioning_channels", c.conditioning_channels)])?;
        let channels = &c.conditioning_embedding_out_channels;
        if !(1..=8).contains(&channels.len()) || channels.iter().any(|c| !(1..1 << 16).contains(c)) {
            return Err(format!("conditioning_embedding_out_channels is {channels:?}"));
        }
        match c.controlnet_conditioning_channel_order.as_str() {
            "rgb" | "bgr" => {}
            other => return Err(format!("controlnet_conditioning_channel_order {other} is not supported")),
        }
        only(config, &[("time_cond_proj_dim", Value::Null), ("layers_per_block", json!(c.unet.layers(0)))])?;
        Ok(c)
    }

    /// Pixels of a side of the picture to one latent.
    pub fn reduction(&self) -> usize {
        1 << (self.conditioning_embedding_out_channels.len() - 1)
    }

    /// Numbers that `scales` has: one for each skip of the UNet, and one for its middle.
    pub fn residuals(&self) -> usize {
        let levels = self.unet.block_out_channels.len();
        (0..levels).map(|i| self.unet.layers(i)).sum::<usize>() + levels + 1
    }

    /// What is added to a UNet: `residual.I` and `residual.mid`, as [`unet::Config::graph`] takes them. Inputs as there, and
    /// `image` `(N, 3, 8h, 8w)` in 0..1, and `scales` `(R)`, what each residual is multiplied by: the strength everywhere,
    /// or, where the prompt is to be guessed, the strength times powers of 10 from 1/10 to 1.
    pub fn graph(&self, s: Size) -> Result<Graph, GraphError> {
        let g = Builder::stateless(0);
        let net = self.unet.net(&g, s)?;
        let (width, by) = (self.unet.block_out_channels[0], self.reduction());
        let latents = g.input("latents", &[s.batch, self.unet.in_channels, s.height, s.width], DType::F32);
        let size = [s.batch, self.conditioning_channels, by * s.height, by * s.width];
        let mut image = g.input("image", &size, DType::F32);
        if self.controlnet_conditioning_channel_order == "bgr" {
            let channel = |i| image.slice(1, i, 1);
            let rest: Vec<_> = (0..self.conditioning_channels - 1).rev().map(channel).collect();
            image = channel(self.conditioning_channels - 1).concat(1, &rest);
        }
        let (p, channels) = (g.path("controlnet_cond_embedding"), &self.conditioning_embedding_out_channels);
        let mut y = image.conv2d(p / "conv_in", channels[0], CONV, true).act(Act::Silu);
        for (i, pair) in channels.windows(2).enumerate() {
            y = y.conv2d(p / "blocks" / (2 * i), pair[0], CONV, true).act(Act::Silu);
            y = y.conv2d(p / "blocks" / (2 * i + 1), pair[1], HALVE, true).act(Act::Silu);
        }
        y = y.conv2d(p / "conv_out", width, CONV, true);

        let (x, skips) = net.down(latents.conv2d(g.path("conv_in"), width, CONV, true) + y);
        let scales = g.input("scales", &[skips.len() + 1], DType::F32);
        let down = g.path("controlnet_down_blocks");
        let all = skips.iter().enumerate().map(|(i, &x)| (i.to_string(), x, down / i));
        let middle = ("mid".to_string(), net.middle(x), g.path("controlnet_mid_block"));
        for (i, (name, x, p)) in all.chain([middle]).enumerate() {
            let mut y = x.conv2d(p, x.dim(1), POINT, true);
            if self.global_pool_conditions {
                y = y.mean(2).mean(3).expand(&x.shape());
            }
            g.output(&format!("residual.{name}"), y * scales.slice(0, i, 1));
        }
        g.finish()
    }
}
