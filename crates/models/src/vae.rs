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

/// What norms add to the variance.
pub const EPS: f32 = 1e-6;

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
        self.part(Side::Encoder, &self.groups(Side::Encoder).concat(), [batch, height, width], Norms::Own)
    }

    /// From `latents` `(N, L, h, w)` to `pixels` `(N, 3, 8h, 8w)` in about -1..1, for the usual four levels.
    pub fn decoder(&self, batch: usize, height: usize, width: usize) -> Result<Graph, GraphError> {
        self.part(Side::Decoder, &self.groups(Side::Decoder).concat(), [batch, height, width], Norms::Own)
    }

    /// The steps of one half, in groups between which what there is is small: before pixels become more, after they became
    /// fewer.
    pub fn groups(&self, side: Side) -> Vec<Vec<Step>> {
        let levels = self.block_out_channels.len();
        let resnets = |level, n| (0..n).flat_map(move |i| [Step::First(level, i), Step::Second(level, i)]);
        let of = |level: usize| -> Vec<Step> {
            let last = level + 1 == levels;
            match side {
                Side::Encoder => (level == 0)
                    .then_some(Step::In)
                    .into_iter()
                    .chain(resnets(level, self.layers_per_block))
                    .chain([if last { Step::Finish } else { Step::Down(level) }])
                    .collect(),
                Side::Decoder => [if level == 0 { Step::Start } else { Step::Up(level - 1) }]
                    .into_iter()
                    .chain(resnets(level, self.layers_per_block + 1))
                    .chain(last.then_some(Step::End))
                    .collect(),
            }
        };
        (0..levels).map(of).collect()
    }

    /// Channels of `x`, and of `skip` if there is one, before a step.
    fn before(&self, side: Side, step: Step) -> (usize, Option<usize>) {
        let levels = self.block_out_channels.len();
        let c = |level: usize| match side {
            Side::Encoder => self.block_out_channels[level],
            Side::Decoder => self.block_out_channels[levels - 1 - level],
        };
        match step {
            Step::Start => (self.latent_channels, None),
            Step::In => (self.in_channels, None),
            Step::First(level, 0) => (c(level.saturating_sub(1)), None),
            Step::First(level, _) | Step::Up(level) | Step::Down(level) => (c(level), None),
            Step::Second(level, _) => (c(level), Some(c(level))),
            Step::End | Step::Finish => (c(levels - 1), None),
        }
    }

    /// Some steps in a row, from `x` and, within a resnet, `skip` `(N, C, H, W)` to the same, of [batch, height, width] at
    /// their beginning. `x` is called `latents` or `pixels` at the ends of a half, `mean` and `logvar` at the encoder's. A
    /// `skip` that is what was given is not given out again.
    ///
    /// # Errors
    /// There are no steps, or they are of the other half.
    pub fn part(
        &self,
        side: Side,
        steps: &[Step],
        [batch, height, width]: [usize; 3],
        norms: Norms,
    ) -> Result<Graph, GraphError> {
        let g = Builder::stateless(0);
        let (channels, skipped) = self.before(side, *steps.first().unwrap_or(&Step::End));
        let input = |name: &str, c| g.input(name, &[batch, c, height, width], DType::F32);
        let x = match steps.first() {
            Some(Step::Start) => input("latents", channels),
            Some(Step::In) => input("pixels", channels),
            _ => input("x", channels),
        };
        let given = skipped.map(|c| input("skip", c));
        let p = g.path(if side == Side::Encoder { "encoder" } else { "decoder" });
        let mut line = Line { c: self, side, p, x, skip: given, norms, normed: 0 };
        if steps.iter().all(|&step| line.take(step).is_some())
            && let Some(skip) = line.skip.filter(|s| s.id() != x.id() && s.id() != given.and_then(X::id))
        {
            g.output("skip", skip);
        }
        let x = line.x;
        match steps.last() {
            Some(Step::End) if !matches!(norms, Norms::Until(_)) => g.output("pixels", x),
            Some(Step::Finish) => {
                let l = self.latent_channels;
                let [mean, logvar] = [0, 1].map(|i| x.slice(1, i * l, l));
                g.output("mean", mean);
                // Kept within -30..20, as diffusers does.
                g.output("logvar", logvar - (logvar - 20.0).relu() + (-logvar - 30.0).relu());
            }
            _ => g.output("x", x),
        }
        g.finish()
    }
}

/// One half of an autoencoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Side {
    Encoder,
    Decoder,
}

/// A step through one half. Levels and layers are numbered as in the checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// the decoder's first convolutions and its middle, which sees the whole picture
    Start,
    /// the encoder's first convolution
    In,
    /// of a level's resnet norm, SiLU and convolution; what goes around it is put aside
    First(usize, usize),
    /// its second norm, SiLU and convolution, added to what went around
    Second(usize, usize),
    /// twice the pixels, and a convolution
    Up(usize),
    /// a convolution to half the pixels
    Down(usize),
    /// the decoder's last norm, SiLU and convolution
    End,
    /// the encoder's middle, which sees the whole picture, and its end
    Finish,
}

impl Step {
    /// Whether it begins with a norm.
    pub fn is_normed(self) -> bool {
        matches!(self, Step::First(..) | Step::Second(..) | Step::End)
    }

    /// Whether it sees the whole picture at once.
    pub fn is_whole(self) -> bool {
        matches!(self, Step::Start | Step::Finish)
    }

    /// Pixels after it for pixels before it.
    pub fn scale(self) -> (usize, usize) {
        match self {
            Step::Up(_) => (2, 1),
            Step::Down(_) => (1, 2),
            _ => (1, 1),
        }
    }

    /// The rows (or columns) that some of its result come from; they may lie outside the picture, in its padding.
    pub fn sees(self, (from, to): (isize, isize)) -> (isize, isize) {
        match self {
            Step::Up(_) => ((from - 1).div_euclid(2), (to + 2).div_euclid(2)),
            Step::Down(_) => (2 * from, 2 * to + 1),
            _ => (from - 1, to + 1),
        }
    }
}

/// Where the norms of a part have means and deviations from, which are those of the whole picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norms {
    /// from what they norm
    Own,
    /// the n-th, from 0, has `mean.n` and `rate.n` `(C)` given, the second being one over the deviation
    Given,
    /// likewise, and the part ends with `x` before the n-th norm
    Until(usize),
}

/// The steps so far.
struct Line<'c, 'g> {
    c: &'c Config,
    side: Side,
    p: Path<'g>,
    x: X<'g>,
    skip: Option<X<'g>>,
    norms: Norms,
    /// norms so far
    normed: usize,
}

impl<'g> Line<'_, 'g> {
    /// One step more; `None` before the norm that the part ends with.
    fn take(&mut self, step: Step) -> Option<()> {
        let (c, g) = (self.c, self.x.builder());
        let out = |level: usize| match self.side {
            Side::Encoder => c.block_out_channels[level],
            Side::Decoder => c.block_out_channels[c.block_out_channels.len() - 1 - level],
        };
        let level = |level: usize| match self.side {
            Side::Encoder => self.p / "down_blocks" / level,
            Side::Decoder => self.p / "up_blocks" / level,
        };
        self.x = match step {
            Step::Start => {
                let mut x = self.x;
                if c.use_post_quant_conv {
                    x = x.conv2d(g.path("post_quant_conv"), c.latent_channels, POINT, true);
                }
                c.middle(x.conv2d(self.p / "conv_in", out(0), CONV, true), self.p)
            }
            Step::In => self.x.conv2d(self.p / "conv_in", out(0), CONV, true),
            Step::First(l, i) => {
                let (p, channels) = (level(l) / "resnets" / i, out(l));
                let y = self.norm(p / "norm1")?.conv2d(p / "conv1", channels, CONV, true);
                self.skip = Some(match self.x.dim(1) == channels {
                    true => self.x,
                    false => self.x.conv2d(p / "conv_shortcut", channels, POINT, true),
                });
                y
            }
            Step::Second(l, i) => {
                let (p, channels) = (level(l) / "resnets" / i, out(l));
                let y = self.norm(p / "norm2")?.conv2d(p / "conv2", channels, CONV, true);
                self.skip.take()? + y
            }
            Step::Up(l) => {
                self.x.upsample(2).conv2d(level(l) / "upsamplers" / 0 / "conv", out(l), CONV, true)
            }
            Step::Down(l) => {
                // A pixel more at the right and at the bottom alone.
                let window = Window { padding: 0, stride: 2, ..CONV };
                self.x.pad(2, 0, 1).pad(3, 0, 1).conv2d(
                    level(l) / "downsamplers" / 0 / "conv",
                    out(l),
                    window,
                    true,
                )
            }
            Step::End => self.end(c.out_channels)?,
            Step::Finish => {
                self.x = c.middle(self.x, self.p);
                let x = self.end(2 * c.latent_channels)?;
                match c.use_quant_conv {
                    true => x.conv2d(g.path("quant_conv"), 2 * c.latent_channels, POINT, true),
                    false => x,
                }
            }
        };
        Some(())
    }

    fn end(&mut self, channels: usize) -> Option<X<'g>> {
        Some(self.norm(self.p / "conv_norm_out")?.conv2d(self.p / "conv_out", channels, CONV, true))
    }

    /// Norm and SiLU; `None` where the part ends.
    fn norm(&mut self, p: Path<'g>) -> Option<X<'g>> {
        let (x, n) = (self.x, self.normed);
        self.normed += 1;
        match self.norms {
            Norms::Own => return Some(x.group_norm(p, self.c.norm_num_groups, EPS).act(Act::Silu)),
            Norms::Until(last) if last == n => return None,
            _ => {}
        }
        let c = x.dim(1);
        let [mean, rate] =
            ["mean", "rate"].map(|of| x.builder().input(&format!("{of}.{n}"), &[c], DType::F32));
        let factor = (p / "weight").weight(&[c]) * rate;
        let shift = (p / "bias").weight(&[c]) - mean * factor;
        let [factor, shift] = [factor, shift].map(|x| x.reshape(&[1, c, 1, 1]));
        Some((x * factor + shift).act(Act::Silu))
    }
}

impl Config {
    fn norm(&self) -> Groups {
        Groups { groups: self.norm_num_groups, eps: EPS }
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
}
