//! The denoiser of Stable Diffusion 1 and 2 (Rombach et al. 2022), SDXL (Podell et al. 2023), and what was made of them:
//! inpainting, edits, distilled ones (LCM, BK-SDM, SSD). After diffusers' `unet_2d_condition.py`.

use crate::blocks::{
    CONV, Each, Groups, HALVE, POINT, attention, check_levels, only, pixels, resnet, tokens,
};
use crate::time::{Flip, embed};
use crate::{check_eps_of, check_sizes, read};
use hob_graph::{Act, Builder, DType, Graph, GraphError, Path, X};
use serde::Deserialize;
use serde_json::{Value, json};

/// config.json of a `UNet2DConditionModel`, and what a `ControlNetModel` shares with it.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields are those of config.json
pub struct Config {
    /// latents of a side that the model was made for
    pub sample_size: Option<Each<usize>>,
    pub in_channels: usize,
    pub out_channels: usize,
    pub flip_sin_to_cos: bool,
    pub freq_shift: f32,
    pub down_block_types: Vec<String>,
    pub mid_block_type: Option<String>,
    pub up_block_types: Vec<String>,
    pub block_out_channels: Vec<usize>,
    pub layers_per_block: Each<usize>,
    pub norm_num_groups: usize,
    pub norm_eps: f32,
    pub cross_attention_dim: Each<usize>,
    /// of each level, or of each layer of each
    pub transformer_layers_per_block: Each<Each<usize>>,
    pub reverse_transformer_layers_per_block: Option<Each<Each<usize>>>,
    /// heads, whatever it is called
    pub attention_head_dim: Each<usize>,
    pub use_linear_projection: bool,
    pub addition_embed_type: Option<String>,
    pub addition_time_embed_dim: Option<usize>,
    pub projection_class_embeddings_input_dim: Option<usize>,
    pub time_cond_proj_dim: Option<usize>,
}

const PLAIN: [&str; 2] = ["DownBlock2D", "UpBlock2D"];
const ATTENDING: [&str; 2] = ["CrossAttnDownBlock2D", "CrossAttnUpBlock2D"];
const MIDDLE: [&str; 2] = ["UNetMidBlock2D", "UNetMidBlock2DCrossAttn"];

impl Default for Config {
    fn default() -> Config {
        let types = |names: [&str; 2], first| {
            (0..4).map(|i| names[usize::from(i != first)].to_string()).collect::<Vec<_>>()
        };
        Config {
            sample_size: None,
            in_channels: 4,
            out_channels: 4,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            down_block_types: types([PLAIN[0], ATTENDING[0]], 3),
            mid_block_type: Some(MIDDLE[1].into()),
            up_block_types: types([PLAIN[1], ATTENDING[1]], 0),
            block_out_channels: vec![320, 640, 1280, 1280],
            layers_per_block: Each::One(2),
            norm_num_groups: 32,
            norm_eps: 1e-5,
            cross_attention_dim: Each::One(1280),
            transformer_layers_per_block: Each::One(Each::One(1)),
            reverse_transformer_layers_per_block: None,
            attention_head_dim: Each::One(8),
            use_linear_projection: false,
            addition_embed_type: None,
            addition_time_embed_dim: None,
            projection_class_embeddings_input_dim: None,
            time_cond_proj_dim: None,
        }
    }
}

/// What a graph is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// pictures at once, N; with guidance those with and without the prompt count both
    pub batch: usize,
    /// of the latents
    pub height: usize,
    /// of the latents
    pub width: usize,
    /// tokens of each picture's text
    pub text: usize,
    /// channels of the pooled text that SDXL's take; others disregard it
    pub pooled: usize,
    /// whether ControlNets add to the skips
    pub residuals: bool,
}

impl Config {
    /// Reads and checks a configuration.
    pub fn parse(config: &Value) -> Result<Config, String> {
        let c: Config = read(config)?;
        c.check(config)?;
        let (levels, layers) = (c.block_out_channels.len(), |i| c.layers(i) + 1);
        c.check_blocks("up_block_types", &c.up_block_types, 1)?;
        match &c.reverse_transformer_layers_per_block {
            Some(depths) => check_depths("reverse_transformer_layers_per_block", depths, levels, |i| {
                layers(levels - 1 - i)
            })?,
            None if matches!(&c.transformer_layers_per_block, Each::Many(all)
                if all.iter().any(|e| matches!(e, Each::Many(_)))) =>
            {
                return Err("reverse_transformer_layers_per_block is missing".into());
            }
            None => {}
        }
        check_sizes(&[("out_channels", c.out_channels)])?;
        Ok(c)
    }

    /// What is demanded of a ControlNet too.
    pub(crate) fn check(&self, config: &Value) -> Result<(), String> {
        let (c, levels) = (self, self.block_out_channels.len());
        check_levels(&c.block_out_channels, c.norm_num_groups)?;
        check_eps_of("norm_eps", c.norm_eps)?;
        c.check_blocks("down_block_types", &c.down_block_types, 0)?;
        let middle = c.mid_block_type.as_deref().unwrap_or(MIDDLE[0]);
        if !MIDDLE.contains(&middle) {
            return Err(format!("mid_block_type {middle} is not supported"));
        }
        if !c.layers_per_block.fits(levels) || (0..levels).any(|i| !(1..=64).contains(&c.layers(i))) {
            return Err(format!("layers_per_block is {}", config["layers_per_block"]));
        }
        let heads = |i| c.heads(i) == 0 || !c.block_out_channels[i].is_multiple_of(c.heads(i));
        if !c.attention_head_dim.fits(levels) || (0..levels).any(heads) {
            return Err(format!("attention_head_dim is {}", config["attention_head_dim"]));
        }
        let same = |i| c.cross_attention_dim.at(i) == Some(&c.text_channels());
        if !c.cross_attention_dim.fits(levels) || !(0..levels).all(same) {
            return Err(format!("cross_attention_dim {} is not supported", config["cross_attention_dim"]));
        }
        check_depths("transformer_layers_per_block", &c.transformer_layers_per_block, levels, |i| {
            c.layers(i)
        })?;
        check_sizes(&[
            ("in_channels", c.in_channels),
            ("cross_attention_dim", c.text_channels()),
            ("time_cond_proj_dim", c.time_cond_proj_dim.unwrap_or(1)),
        ])?;
        match c.addition_embed_type.as_deref() {
            None => {}
            Some("text_time") => check_sizes(&[
                ("addition_time_embed_dim", c.addition_time_embed_dim.unwrap_or(0)),
                (
                    "projection_class_embeddings_input_dim",
                    c.projection_class_embeddings_input_dim.unwrap_or(0),
                ),
            ])?,
            Some(other) => return Err(format!("addition_embed_type {other} is not supported")),
        }
        let nothing = ["class_embed_type", "encoder_hid_dim", "encoder_hid_dim_type", "num_attention_heads"];
        only(config, &nothing.map(|field| (field, Value::Null)))?;
        let nothing =
            ["num_class_embeds", "time_embedding_act_fn", "timestep_post_act", "cross_attention_norm"];
        only(config, &nothing.map(|field| (field, Value::Null)))?;
        let no =
            ["center_input_sample", "only_cross_attention", "dual_cross_attention", "resnet_skip_time_act"];
        only(config, &no.map(|field| (field, json!(false))))?;
        only(
            config,
            &[
                ("act_fn", json!("silu")),
                ("attention_type", json!("default")),
                ("class_embeddings_concat", json!(false)),
                ("conv_in_kernel", json!(3)),
                ("conv_out_kernel", json!(3)),
                ("downsample_padding", json!(1)),
                ("mid_block_only_cross_attention", json!(false)),
                ("mid_block_scale_factor", json!(1)),
                ("resnet_out_scale_factor", json!(1)),
                ("resnet_time_scale_shift", json!("default")),
                ("time_embedding_dim", json!(4 * c.block_out_channels[0])),
                ("time_embedding_type", json!("positional")),
            ],
        )
    }

    fn check_blocks(&self, field: &str, types: &[String], way: usize) -> Result<(), String> {
        if types.len() != self.block_out_channels.len() {
            return Err(format!("{field} has {} levels, not {}", types.len(), self.block_out_channels.len()));
        }
        match types.iter().find(|t| ![PLAIN[way], ATTENDING[way]].contains(&t.as_str())) {
            Some(other) => Err(format!("{field} with {other} is not supported")),
            None => Ok(()),
        }
    }

    pub(crate) fn layers(&self, level: usize) -> usize {
        self.layers_per_block.at(level).copied().unwrap_or(0)
    }

    /// diffusers takes the field for the number of heads, as its checkpoints have it (its issue 2011).
    fn heads(&self, level: usize) -> usize {
        self.attention_head_dim.at(level).copied().unwrap_or(0)
    }

    /// Channels of the text.
    pub fn text_channels(&self) -> usize {
        self.cross_attention_dim.at(0).copied().unwrap_or(0)
    }

    /// Numbers about a picture's sizes that go with pooled text of so many channels: 6 (those of the original, the corner
    /// it was cut from, the target's; height first), or 5 of SDXL's refiner (with a score of beauty instead of the
    /// target). `None` where such text does not fit the model, 0 where it takes none.
    pub fn time_ids(&self, pooled: usize) -> Option<usize> {
        let (Some(_), Some(dim)) = (&self.addition_embed_type, self.addition_time_embed_dim) else {
            return Some(0);
        };
        let rest = self.projection_class_embeddings_input_dim?.checked_sub(pooled)?;
        rest.is_multiple_of(dim).then_some(rest / dim)
    }

    /// One step's prediction. Inputs, all f32: `latents` `(N, C, h, w)`, `timestep` `(N)`, `text` `(N·S, Cx)`;
    /// of SDXL `pooled` `(N, P)` and `time_ids` `(N, 6)`; of a model distilled for guidance `guidance` `(N)`, the scale as
    /// a person gives it; of ControlNets, where asked for, `residual.I` for each skip and `residual.mid`, as
    /// [`crate::controlnet`] gives them. The output is `sample` `(N, C, h, w)`: noise, velocity or the picture itself,
    /// as the scheduler's configuration says. The latents' sides may be any.
    pub fn graph(&self, s: Size) -> Result<Graph, GraphError> {
        let g = Builder::stateless(0);
        let net = self.net(&g, s)?;
        let latents = g.input("latents", &[s.batch, self.in_channels, s.height, s.width], DType::F32);
        let (mut x, mut skips) =
            net.down(latents.conv2d(g.path("conv_in"), self.block_out_channels[0], CONV, true));
        x = net.middle(x);
        if s.residuals {
            let added = |x: X, name: &str| g.input(&format!("residual.{name}"), &x.shape(), DType::F32);
            for (i, skip) in skips.iter_mut().enumerate() {
                *skip = *skip + added(*skip, &i.to_string());
            }
            x = x + added(x, "mid");
        }
        x = net.up(x, skips);
        x = x.group_norm(g.path("conv_norm_out"), self.norm_num_groups, self.norm_eps).act(Act::Silu);
        g.output("sample", x.conv2d(g.path("conv_out"), self.out_channels, CONV, true));
        g.finish()
    }

    /// The blocks, with the inputs that all of them see.
    pub(crate) fn net<'g>(&self, g: &'g Builder, s: Size) -> Result<Net<'_, 'g>, GraphError> {
        let wrong = || GraphError {
            message: format!("pooled text of {} channels does not fit this model", s.pooled),
            at: None,
        };
        let time_ids = self.time_ids(s.pooled).ok_or_else(wrong)?;
        let (n, width) = (s.batch, self.block_out_channels[0]);
        let flip = if self.flip_sin_to_cos { Flip::Cosines } else { Flip::Sines };
        let mlp = |x: X<'g>, name| {
            let y = x.linear_bias(g.path(name) / "linear_1", 4 * width).act(Act::Silu);
            y.linear_bias(g.path(name) / "linear_2", 4 * width)
        };
        let mut waves = embed(g.input("timestep", &[n], DType::F32), width, flip, self.freq_shift);
        if let Some(dim) = self.time_cond_proj_dim {
            // As in latent consistency models (Luo et al. 2023): no guidance is 0.
            let guidance = (g.input("guidance", &[n], DType::F32) - 1.0) * 1000.0;
            let waves_of_it = embed(guidance, dim, Flip::Sines, 1.0);
            waves = waves + waves_of_it.linear(g.path("time_embedding.cond_proj"), width);
        }
        let mut time = mlp(waves, "time_embedding");
        if let (Some(_), Some(dim)) = (&self.addition_embed_type, self.addition_time_embed_dim) {
            let mut added = g.input("pooled", &[n, s.pooled], DType::F32);
            if time_ids > 0 {
                let ids = g.input("time_ids", &[n, time_ids], DType::F32).reshape(&[n * time_ids]);
                let ids = embed(ids, dim, flip, self.freq_shift).reshape(&[n, time_ids * dim]);
                added = added.concat(1, &[ids]);
            }
            time = time + mlp(added, "add_embedding");
        }
        let text = g.input("text", &[n * s.text, self.text_channels()], DType::F32);
        Ok(Net { c: self, g, time: time.act(Act::Silu), text })
    }
}

fn check_depths(
    field: &str,
    depths: &Each<Each<usize>>,
    levels: usize,
    layers: impl Fn(usize) -> usize,
) -> Result<(), String> {
    let fine = |i: usize| {
        let Some(level) = depths.at(i) else { return false };
        level.fits(layers(i)) && (0..layers(i)).all(|j| level.at(j).is_some_and(|&d| d <= 256))
    };
    if depths.fits(levels) && (0..levels).all(fine) { Ok(()) } else { Err(format!("{field} is {depths:?}")) }
}

/// The blocks of a UNet, in a graph.
pub(crate) struct Net<'c, 'g> {
    c: &'c Config,
    g: &'g Builder,
    /// what is said of the time, `(N, 4C)`, behind its activation
    time: X<'g>,
    /// the text, `(N·S, Cx)`
    text: X<'g>,
}

impl<'g> Net<'_, 'g> {
    /// To the deepest level: what comes out, and what is kept of each step for the way up.
    pub fn down(&self, mut x: X<'g>) -> (X<'g>, Vec<X<'g>>) {
        let (c, levels) = (self.c, self.c.block_out_channels.len());
        let mut skips = vec![x];
        for (level, &channels) in c.block_out_channels.iter().enumerate() {
            let p = self.g.path("down_blocks") / level;
            let depths =
                (c.down_block_types[level] == ATTENDING[0]).then_some(&c.transformer_layers_per_block);
            for layer in 0..c.layers(level) {
                x = self.resnet(x, p, layer, channels);
                x = self.transformer(x, p, layer, level, depths.and_then(|d| d.at(level)));
                skips.push(x);
            }
            if level + 1 < levels {
                x = x.conv2d(p / "downsamplers" / 0 / "conv", channels, HALVE, true);
                skips.push(x);
            }
        }
        (x, skips)
    }

    /// The deepest level.
    pub fn middle(&self, x: X<'g>) -> X<'g> {
        let (p, channels, last) = (self.g.path("mid_block"), x.dim(1), self.c.block_out_channels.len() - 1);
        let Some(kind) = &self.c.mid_block_type else { return x };
        let x = self.resnet(x, p, 0, channels);
        if kind == MIDDLE[0] {
            return x;
        }
        // diffusers takes the depth of the last level's first layer.
        let depth = self.c.transformer_layers_per_block.at(last);
        self.resnet(self.transformer(x, p, 0, last, depth), p, 1, channels)
    }

    /// Back to the first level, each layer beside what was kept of its like.
    pub fn up(&self, mut x: X<'g>, mut skips: Vec<X<'g>>) -> X<'g> {
        let (c, levels) = (self.c, self.c.block_out_channels.len());
        for (block, level) in (0..levels).rev().enumerate() {
            let p = self.g.path("up_blocks") / block;
            let depth = match &c.reverse_transformer_layers_per_block {
                Some(reverse) => reverse.at(block),
                None => c.transformer_layers_per_block.at(level),
            };
            let depth = depth.filter(|_| c.up_block_types[block] == ATTENDING[1]);
            for layer in 0..c.layers(level) + 1 {
                let skip = skips.pop().expect("one for each layer, and one for each halving");
                x = self.resnet(x.concat(1, &[skip]), p, layer, c.block_out_channels[level]);
                x = self.transformer(x, p, layer, level, depth);
            }
            if let Some(skip) = skips.last() {
                // An odd side was rounded up when it was halved.
                let cut = |x: X<'g>, axis| match skip.dim(axis) {
                    side if side == x.dim(axis) => x,
                    side => x.slice(axis, 0, side),
                };
                x = cut(cut(x.upsample(2), 2), 3);
                x = x.conv2d(p / "upsamplers" / 0 / "conv", x.dim(1), CONV, true);
            }
        }
        x
    }

    fn resnet(&self, x: X<'g>, p: Path<'g>, layer: usize, channels: usize) -> X<'g> {
        let norm = Groups { groups: self.c.norm_num_groups, eps: self.c.norm_eps };
        resnet(x, p / "resnets" / layer, channels, norm, Some(self.time))
    }

    /// Attention of all pixels over each other and over the text, so many layers deep: diffusers' `Transformer2DModel`.
    fn transformer(
        &self,
        x: X<'g>,
        p: Path<'g>,
        layer: usize,
        level: usize,
        depth: Option<&Each<usize>>,
    ) -> X<'g> {
        let Some(&depth) = depth.and_then(|d| d.at(layer)) else { return x };
        let (p, c, n, heads) = (p / "attentions" / layer, x.dim(1), x.dim(0), self.c.heads(level));
        let y = x.group_norm(p / "norm", self.c.norm_num_groups, 1e-6);
        let mut y = match self.c.use_linear_projection {
            true => tokens(y).linear_bias(p / "proj_in", c),
            false => tokens(y.conv2d(p / "proj_in", c, POINT, true)),
        };
        for i in 0..depth {
            let p = p / "transformer_blocks" / i;
            let own = y.layer_norm(p / "norm1", 1e-5);
            y = y + attention(own, own, p / "attn1", heads, n, false);
            y = y + attention(y.layer_norm(p / "norm2", 1e-5), self.text, p / "attn2", heads, n, false);
            let (net, inner) = (p / "ff" / "net", 4 * c);
            let both = y.layer_norm(p / "norm3", 1e-5).linear_bias(net / 0 / "proj", 2 * inner);
            let mlp = both.slice(1, inner, inner).glu(Act::Gelu, both.slice(1, 0, inner));
            y = y + mlp.linear_bias(net / 2, c);
        }
        let y = match self.c.use_linear_projection {
            true => pixels(y.linear_bias(p / "proj_out", c), x),
            false => pixels(y, x).conv2d(p / "proj_out", c, POINT, true),
        };
        x + y
    }
}
