//! OpenAI's UNet of pixels: the ablated diffusion model (Dhariwal, Nichol 2021) as consistency models have it (Song et al.
//! 2023). After `cm/unet.py` and `cm/nn.py` of openai/consistency_models, whose names the weights have.
//!
//! Beside the published ones: a label that is a number, not a class, goes through a small network as the time does
//! (adaptive-terrain-diffusion).

use crate::blocks::{CONV, POINT, only, pixels, tokens};
use crate::time::{self, Flip};
use crate::{check_sizes, read};
use hob_graph::{Act, Builder, Cross, DType, Graph, GraphError, Path, X};
use serde::Deserialize;
use serde_json::{Value, json};

/// The arguments of `UNetModel`.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)] // the fields are those of UNetModel
pub struct Config {
    pub image_size: usize,
    pub in_channels: usize,
    pub model_channels: usize,
    pub out_channels: usize,
    /// blocks of a level on the way down; one more on the way up
    pub num_res_blocks: usize,
    /// rates of making smaller at which pixels see each other
    pub attention_resolutions: Vec<usize>,
    pub channel_mult: Vec<f64>,
    /// of attention
    pub num_head_channels: usize,
    /// numbers of a label; none without labels
    pub label_channels: Option<usize>,
}

/// Groups of every norm, and what is added to their variances (`normalization` of `cm/nn.py`).
const GROUPS: usize = 32;
const EPS: f32 = 1e-5;

/// What a residual block does to the sides.
#[derive(Clone, Copy, PartialEq)]
enum Sides {
    Keep,
    Halve,
    Double,
}

impl Config {
    /// Reads and checks a configuration.
    pub fn parse(config: &Value) -> Result<Config, String> {
        let c: Config = read(config)?;
        check_sizes(&[
            ("image_size", c.image_size),
            ("in_channels", c.in_channels),
            ("model_channels", c.model_channels),
            ("out_channels", c.out_channels),
            ("num_head_channels", c.num_head_channels),
            ("label_channels", c.label_channels.unwrap_or(1)),
        ])?;
        only(
            config,
            &[
                ("resblock_updown", json!(true)),
                ("use_scale_shift_norm", json!(true)),
                ("use_new_attention_order", json!(true)),
                ("num_classes", Value::Null),
            ],
        )?;
        if !(1..=8).contains(&c.channel_mult.len()) || !(1..=64).contains(&c.num_res_blocks) {
            let (levels, each) = (c.channel_mult.len(), c.num_res_blocks);
            return Err(format!("channel_mult has {levels} levels and num_res_blocks is {each}"));
        }
        let levels = 0..c.channel_mult.len();
        let width = |l: usize| c.channel_mult[l] * c.model_channels as f64;
        let odd = |l: &usize| {
            let heads = c.attends(*l) || l + 1 == c.channel_mult.len(); // the middle attends in any case
            let by = if heads { c.num_head_channels } else { 1 };
            let fits = (1.0..65536.0).contains(&width(*l)) && width(*l).fract() == 0.0;
            !fits || !c.channels(*l).is_multiple_of(GROUPS) || !c.channels(*l).is_multiple_of(by)
        };
        match levels.clone().find(odd) {
            Some(l) => Err(format!("channel_mult {} makes {} channels", c.channel_mult[l], width(l))),
            None => Ok(c),
        }
    }

    fn channels(&self, level: usize) -> usize {
        (self.channel_mult[level] * self.model_channels as f64) as usize
    }

    fn attends(&self, level: usize) -> bool {
        self.attention_resolutions.contains(&(1 << level))
    }

    /// What both sides of a picture must be multiples of.
    pub fn multiple(&self) -> usize {
        1 << (self.channel_mult.len() - 1)
    }

    /// From `x` `(N, C, H, W)`, `timesteps` `(N)` and, where labels are, `y` `(N, labels)`, to `out` `(N, C', H, W)`.
    ///
    /// # Errors
    /// Where the sides are no multiples of [`Config::multiple`].
    pub fn graph(&self, batch: usize, height: usize, width: usize) -> Result<Graph, GraphError> {
        let g = Builder::stateless(0);
        let input = |name, dims: &[usize]| g.input(name, dims, DType::F32);
        let times = input("timesteps", &[batch]);
        let mut said =
            self.embed(time::embed(times, self.model_channels, Flip::Cosines, 0.0), g.path("time_embed"));
        if let Some(n) = self.label_channels {
            said = said + self.embed(input("y", &[batch, n]), g.path("label_emb"));
        }
        // Every block applies SiLU to it.
        let said = said.act(Act::Silu);

        let (levels, mut at) = (self.channel_mult.len(), 0);
        let mut x = input("x", &[batch, self.in_channels, height, width]);
        x = x.conv2d(g.path("input_blocks.0.0"), self.channels(0), CONV, true);
        let mut skips = vec![x];
        for level in 0..levels {
            for _ in 0..self.num_res_blocks {
                at += 1;
                let p = g.path("input_blocks") / at;
                x = block(x, said, p / 0, self.channels(level), Sides::Keep);
                if self.attends(level) {
                    x = self.attention(x, p / 1);
                }
                skips.push(x);
            }
            if level + 1 < levels {
                at += 1;
                x = block(x, said, g.path("input_blocks") / at / 0, x.dim(1), Sides::Halve);
                skips.push(x);
            }
        }
        let p = g.path("middle_block");
        x = block(x, said, p / 0, x.dim(1), Sides::Keep);
        x = self.attention(x, p / 1);
        x = block(x, said, p / 2, x.dim(1), Sides::Keep);
        let mut at = 0;
        for level in (0..levels).rev() {
            for i in 0..=self.num_res_blocks {
                let p = g.path("output_blocks") / at;
                at += 1;
                x = x.concat(1, &[skips.pop().expect("as many blocks up as down")]);
                x = block(x, said, p / 0, self.channels(level), Sides::Keep);
                if self.attends(level) {
                    x = self.attention(x, p / 1);
                }
                if level > 0 && i == self.num_res_blocks {
                    let last = 1 + usize::from(self.attends(level));
                    x = block(x, said, p / last, x.dim(1), Sides::Double);
                }
            }
        }
        let p = g.path("out");
        g.output(
            "out",
            x.group_norm(p / 0, GROUPS, EPS).act(Act::Silu).conv2d(p / 2, self.out_channels, CONV, true),
        );
        g.finish()
    }

    /// Two linear layers around SiLU.
    fn embed<'g>(&self, x: X<'g>, p: Path<'g>) -> X<'g> {
        let channels = 4 * self.model_channels;
        x.linear_bias(p / 0, channels).act(Act::Silu).linear_bias(p / 2, channels)
    }

    /// `AttentionBlock` with queries, keys and values in thirds of the channels, each of all heads.
    fn attention<'g>(&self, x: X<'g>, p: Path<'g>) -> X<'g> {
        let (n, c, d) = (x.dim(0), x.dim(1), self.num_head_channels);
        let qkv = tokens(x.group_norm(p / "norm", GROUPS, EPS).conv2d(p / "qkv", 3 * c, POINT, true));
        let part = |i: usize| qkv.slice(1, i * c, c).reshape(&[qkv.dim(0), c / d, d]);
        let how = Cross { scale: 1.0 / (d as f32).sqrt(), parts: n as u32, causal: false };
        let y = part(0).cross_attend(part(1), part(2), how, None).reshape(&[qkv.dim(0), c]);
        x + pixels(y, x).conv2d(p / "proj_out", c, POINT, true)
    }
}

/// `ResBlock`: what is said of time and label scales and shifts the second norm.
fn block<'g>(x: X<'g>, said: X<'g>, p: Path<'g>, channels: usize, sides: Sides) -> X<'g> {
    let resized = |x: X<'g>| match sides {
        Sides::Keep => x,
        Sides::Halve => halved(x),
        Sides::Double => x.upsample(2),
    };
    let y = resized(x.group_norm(p / "in_layers" / 0, GROUPS, EPS).act(Act::Silu));
    let y = y.conv2d(p / "in_layers" / 2, channels, CONV, true);
    let said = said.linear_bias(p / "emb_layers" / 1, 2 * channels);
    let part = |i: usize| said.slice(1, i * channels, channels).reshape(&[x.dim(0), channels, 1, 1]);
    let y = y.group_norm(p / "out_layers" / 0, GROUPS, EPS) * (part(0) + 1.0) + part(1);
    let y = y.act(Act::Silu).conv2d(p / "out_layers" / 3, channels, CONV, true);
    let x = resized(x);
    if x.dim(1) == channels { x + y } else { x.conv2d(p / "skip_connection", channels, POINT, true) + y }
}

/// The mean of each 2 × 2 pixels.
fn halved(x: X<'_>) -> X<'_> {
    let (n, c, h, w) = (x.dim(0), x.dim(1), x.dim(2) / 2, x.dim(3) / 2);
    let rows = x.reshape(&[n * c * h, 2, w, 2]);
    (rows.sum(1).sum(3) * 0.25).reshape(&[n, c, h, w])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Value {
        json!({
            "image_size": 16, "in_channels": 1, "model_channels": 32, "out_channels": 1, "num_res_blocks": 1,
            "attention_resolutions": [2], "channel_mult": [1.0, 2.0], "num_head_channels": 32,
            "resblock_updown": true, "use_scale_shift_norm": true, "use_new_attention_order": true,
            "num_classes": null, "label_channels": 1,
        })
    }

    #[test]
    fn what_is_not_built_is_refused() {
        let c = Config::parse(&config()).unwrap();
        assert!(c.graph(2, 8, 6).is_ok() && c.graph(1, 8, 5).is_err());
        for (field, value) in [
            ("use_new_attention_order", json!(false)),
            ("num_classes", json!(1000)),
            ("channel_mult", json!([1.0, 1.5])),
            ("channel_mult", json!([])),
            ("channel_mult", json!([1.0, 1e9])),
            ("num_head_channels", json!(48)),
            ("num_res_blocks", json!(0)),
            ("model_channels", json!(0)),
            ("model_channels", json!(48)),
        ] {
            let mut config = config();
            config[field] = value;
            let why = Config::parse(&config).unwrap_err();
            assert!(why.contains(field) || why.contains("channel_mult"), "{field}: {why}");
        }
    }
}
