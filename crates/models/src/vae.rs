//! The autoencoder of latent diffusion (Rombach et al. 2022): pictures to the means and variances of latents, and latents
//! to pictures. After diffusers' `autoencoder_kl.py`.

use crate::blocks::{CONV, Groups, POINT, attention, check_levels, only, pixels, resnet, tokens};
use crate::{check_sizes, read};
use hob_graph::{Act, Builder, DType, Graph, GraphError, Path, Window, X};
use serde::Deserialize;
use serde_json::{Value, json};

/// config.json of an `AutoencoderKL`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields are those of config.json
pub struct Config {
    pub in_channels: usize,
    pub out_channels: usize,
    pub latent_channels: usize,
    pub block_out_channels: Vec<usize>,
    pub layers_per_block: usize,
    pub norm_num_groups: usize,
    /// a denoiser works on `(latents - shift_factor) · scaling_factor`; the graphs here do not
    pub scaling_factor: f32,
    pub shift_factor: Option<f32>,
    pub use_quant_conv: bool,
    pub use_post_quant_conv: bool,
    pub mid_block_add_attention: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            in_channels: 3,
            out_channels: 3,
            latent_channels: 4,
            block_out_channels: vec![64],
            layers_per_block: 1,
            norm_num_groups: 32,
            scaling_factor: 0.18215,
            shift_factor: None,
            use_quant_conv: true,
            use_post_quant_conv: true,
            mid_block_add_attention: true,
        }
    }
}

const EPS: f32 = 1e-6;

impl Config {
    /// Reads and checks a configuration.
    pub fn parse(config: &Value) -> Result<Config, String> {
        let c: Config = read(config)?;
        check_sizes(&[
            ("in_channels", c.in_channels),
            ("out_channels", c.out_channels),
            ("latent_channels", c.latent_channels),
        ])?;
        check_levels(&c.block_out_channels, c.norm_num_groups)?;
        if c.layers_per_block > 64 {
            return Err(format!("layers_per_block is {}", c.layers_per_block));
        }
        if !(c.scaling_factor.is_finite() && c.scaling_factor > 0.0) {
            return Err(format!("scaling_factor is {}", c.scaling_factor));
        }
        only(
            config,
            &[
                ("act_fn", json!("silu")),
                ("down_block_types", json!("DownEncoderBlock2D")),
                ("up_block_types", json!("UpDecoderBlock2D")),
                ("latents_mean", Value::Null),
                ("latents_std", Value::Null),
            ],
        )?;
        Ok(c)
    }

    /// Pixels of a side that one latent stands for.
    pub fn reduction(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }

    /// From `pixels` `(N, 3, H, W)` in -1..1 to `mean` and `logvar` `(N, L, H/8, W/8)` of the latents, for the usual four
    /// levels. Each level rounds down what it halves.
    pub fn encoder(&self, batch: usize, height: usize, width: usize) -> Result<Graph, GraphError> {
        let g = Builder::stateless(0);
        let (p, channels) = (g.path("encoder"), &self.block_out_channels);
        let mut x = g.input("pixels", &[batch, self.in_channels, height, width], DType::F32);
        x = x.conv2d(p / "conv_in", channels[0], CONV, true);
        for (level, &c) in channels.iter().enumerate() {
            let p = p / "down_blocks" / level;
            x = self.resnets(x, p, self.layers_per_block, c);
            if level + 1 < channels.len() {
                // A pixel more at the right and at the bottom alone.
                let at = p / "downsamplers" / 0 / "conv";
                x = x.pad(2, 0, 1).pad(3, 0, 1).conv2d(at, c, Window { padding: 0, stride: 2, ..CONV }, true);
            }
        }
        x = self.end(self.middle(x, p), p, 2 * self.latent_channels);
        if self.use_quant_conv {
            x = x.conv2d(g.path("quant_conv"), 2 * self.latent_channels, POINT, true);
        }
        let [mean, logvar] = [0, 1].map(|i| x.slice(1, i * self.latent_channels, self.latent_channels));
        g.output("mean", mean);
        // Kept within -30..20, as diffusers does.
        g.output("logvar", logvar - (logvar - 20.0).relu() + (-logvar - 30.0).relu());
        g.finish()
    }

    /// From `latents` `(N, L, h, w)` to `pixels` `(N, 3, 8h, 8w)` in about -1..1, for the usual four levels.
    pub fn decoder(&self, batch: usize, height: usize, width: usize) -> Result<Graph, GraphError> {
        let g = Builder::stateless(0);
        let (p, levels) = (g.path("decoder"), self.block_out_channels.len());
        let mut x = g.input("latents", &[batch, self.latent_channels, height, width], DType::F32);
        if self.use_post_quant_conv {
            x = x.conv2d(g.path("post_quant_conv"), self.latent_channels, POINT, true);
        }
        x = x.conv2d(p / "conv_in", self.block_out_channels[levels - 1], CONV, true);
        x = self.middle(x, p);
        for (level, &c) in self.block_out_channels.iter().rev().enumerate() {
            let p = p / "up_blocks" / level;
            x = self.resnets(x, p, self.layers_per_block + 1, c);
            if level + 1 < levels {
                x = x.upsample(2).conv2d(p / "upsamplers" / 0 / "conv", c, CONV, true);
            }
        }
        g.output("pixels", self.end(x, p, self.out_channels));
        g.finish()
    }

    fn norm(&self) -> Groups {
        Groups { groups: self.norm_num_groups, eps: EPS }
    }

    fn resnets<'g>(&self, x: X<'g>, p: Path<'g>, layers: usize, channels: usize) -> X<'g> {
        (0..layers).fold(x, |x, i| resnet(x, p / "resnets" / i, channels, self.norm(), None))
    }

    /// The deepest level: two blocks, and attention of one head over all pixels between them.
    fn middle<'g>(&self, x: X<'g>, p: Path<'g>) -> X<'g> {
        let (p, c) = (p / "mid_block", x.dim(1));
        let mut x = resnet(x, p / "resnets" / 0, c, self.norm(), None);
        if self.mid_block_add_attention {
            let p = p / "attentions" / 0;
            let y = tokens(x.group_norm(p / "group_norm", self.norm_num_groups, EPS));
            x = x + pixels(attention(y, y, p, 1, x.dim(0), true), x);
        }
        resnet(x, p / "resnets" / 1, c, self.norm(), None)
    }

    fn end<'g>(&self, x: X<'g>, p: Path<'g>, channels: usize) -> X<'g> {
        let y = x.group_norm(p / "conv_norm_out", self.norm_num_groups, EPS).act(Act::Silu);
        y.conv2d(p / "conv_out", channels, CONV, true)
    }
}
