//! Flux.1, schnell and dev: a transformer over the tokens of a text and of a picture, at first with weights for each, then
//! with the same for both. After diffusers' `transformer_flux.py` (Black Forest Labs 2024). And what was made of dev: Fill and
//! Depth and Canny, which take more channels, and Kontext, which takes the tokens of a second picture.

use crate::time::{self, Flip};
use crate::{check_sizes, read};
use hob_graph::{Act, Builder, Cross, DType, Graph, GraphError, Path, RopeStyle, X};
use serde::Deserialize;
use serde_json::Value;

/// config.json of a `FluxTransformer2DModel`.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)] // but for the last, the fields are those of config.json
pub struct Config {
    #[serde(default = "one")]
    pub patch_size: usize,
    pub in_channels: usize,
    #[serde(default)]
    pub out_channels: Option<usize>,
    pub num_layers: usize,
    pub num_single_layers: usize,
    pub attention_head_dim: usize,
    pub num_attention_heads: usize,
    pub joint_attention_dim: usize,
    pub pooled_projection_dim: usize,
    #[serde(default)]
    pub guidance_embeds: bool,
    #[serde(default = "axes")]
    pub axes_dims_rope: Vec<usize>,
    /// Whether the rows of `norm_out.linear` have shifts before scales, as in files by Black Forest Labs; diffusers exchanges
    /// them.
    #[serde(default)]
    pub norm_out_shift_first: bool,
}

fn one() -> usize {
    1
}

fn axes() -> Vec<usize> {
    vec![16, 56, 56]
}

/// Added to a mean square, or to a variance, before the root.
const EPS: f32 = 1e-6;
const THETA: f64 = 10_000.0;
/// Channels of the waves that say time and guidance.
const WAVES: usize = 256;
/// A graph of more blocks would only cost memory before it fails.
const MAX_BLOCKS: usize = 1 << 10;

/// What a graph is built for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// pictures: N
    pub batch: usize,
    /// tokens of each text: S
    pub text: usize,
    /// rows of tokens of each picture, half those of its latents
    pub height: usize,
    /// tokens of a row; a picture has L = height · width
    pub width: usize,
    /// rows of tokens, and tokens of a row, of another picture that each sees beside: M = rows · columns, which may be none
    pub beside: [usize; 2],
    /// what ControlNets add
    pub added: Added,
}

/// What a ControlNet adds to the tokens of a picture behind the blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Added {
    /// so many residuals for the blocks with weights for each
    pub doubles: usize,
    /// and so many for the others
    pub singles: usize,
    /// they take turns (XLabs'), and do not stand for several blocks in a row each (InstantX's)
    pub turns: bool,
}

impl Added {
    /// Which of `count` residuals is added behind block `i` of `blocks`; none where there are none.
    fn of(&self, i: usize, blocks: usize, count: usize, turns: bool) -> Option<usize> {
        match count {
            0 => None,
            _ if turns => Some(i % count),
            _ => Some(i / blocks.div_ceil(count)),
        }
    }
}

impl Config {
    /// Reads and checks a configuration.
    pub fn parse(config: &Value) -> Result<Config, String> {
        let c: Config = read(config)?;
        c.check()?;
        if c.patch_size != 1 {
            return Err(format!("patch_size {} is not supported", c.patch_size));
        }
        Ok(c)
    }

    /// What is demanded of a ControlNet too.
    pub(crate) fn check(&self) -> Result<(), String> {
        let c = self;
        check_sizes(&[
            ("in_channels", c.in_channels),
            ("out_channels", c.out()),
            ("attention_head_dim", c.attention_head_dim),
            ("num_attention_heads", c.num_attention_heads),
            ("joint_attention_dim", c.joint_attention_dim),
            ("pooled_projection_dim", c.pooled_projection_dim),
            ("the width of the model", c.attention_head_dim.saturating_mul(c.num_attention_heads)),
        ])?;
        if c.num_layers > MAX_BLOCKS || c.num_single_layers > MAX_BLOCKS {
            return Err(format!("{} and {} blocks are too many", c.num_layers, c.num_single_layers));
        }
        let sum = c.axes_dims_rope.iter().try_fold(0usize, |sum, dim| sum.checked_add(*dim));
        let odd = c.axes_dims_rope.iter().any(|dim| dim % 2 == 1);
        if c.axes_dims_rope.len() != 3 || sum != Some(c.attention_head_dim) || odd {
            return Err(format!(
                "axes_dims_rope {:?} are not three even parts of heads of {}",
                c.axes_dims_rope, c.attention_head_dim
            ));
        }
        Ok(())
    }

    /// Channels of the width of the model: C.
    pub fn channels(&self) -> usize {
        self.attention_head_dim * self.num_attention_heads
    }

    fn out(&self) -> usize {
        self.out_channels.unwrap_or(self.in_channels)
    }

    /// From `latents` `(N·(L + M), in_channels)` as [`pack`] gives them, each picture's before those it sees beside, `text` `(N·S, joint_attention_dim)`, `pooled`
    /// `(N, pooled_projection_dim)`, `timestep` `(N)` from 1 (noise) to 0 and, with guidance_embeds, `guidance` `(N)`, to
    /// `sample` `(N·L, out_channels)`: the velocity. Of ControlNets `residual.I` and `single.I` `(N·L, C)`, as
    /// [`crate::flux_control`] gives them.
    pub fn graph(&self, size: Size) -> Result<Graph, GraphError> {
        let g = Builder::stateless(0);
        g.output("sample", self.sample(&g, size, &mut |_, _| ()));
        g.finish()
    }

    /// The same, with what each part gives as an output of its name: `time_text_embed` `(N, C)`,
    /// `transformer_blocks.I` and `single_transformer_blocks.I` `(N·(S + L + M), C)`, each text before its picture, and
    /// `norm_out` `(N·L, C)`.
    pub fn graph_shown(&self, size: Size) -> Result<Graph, GraphError> {
        let g = Builder::stateless(0);
        let sample = self.sample(&g, size, &mut |name, x| g.output(name, x));
        g.output("sample", sample);
        g.finish()
    }

    fn sample<'g>(&self, g: &'g Builder, size: Size, show: &mut dyn FnMut(&str, X<'g>)) -> X<'g> {
        let (c, n, added) = (self.channels(), size.batch, size.added);
        let own = size.height * size.width;
        let l = own + size.beside[0] * size.beside[1];
        let mut image =
            g.input("latents", &[n * l, self.in_channels], DType::F32).linear_bias(g.path("x_embedder"), c);
        let mut text = self.text(g, size);
        let emb = self.condition(g, n);
        show("time_text_embed", emb);
        let block = self.block(g, size, emb);
        let residuals = |kind, count| {
            let residual = |i| g.input(&format!("{kind}.{i}"), &[n * own, c], DType::F32);
            (0..count).map(residual).collect::<Vec<_>>()
        };
        let (doubles, singles) = (residuals("residual", added.doubles), residuals("single", added.singles));
        for i in 0..self.num_layers {
            (text, image) = block.double(g.path("transformer_blocks") / i, text, image);
            show(&format!("transformer_blocks.{i}"), block.join(text, image));
            if let Some(k) = added.of(i, self.num_layers, added.doubles, added.turns) {
                image = block.add(image, 0, doubles[k]);
            }
        }
        let mut both = block.join(text, image);
        for i in 0..self.num_single_layers {
            both = block.single(g.path("single_transformer_blocks") / i, both);
            show(&format!("single_transformer_blocks.{i}"), both);
            if let Some(k) = added.of(i, self.num_single_layers, added.singles, false) {
                both = block.add(both, size.text, singles[k]);
            }
        }
        let image = block.some(both, size.text, own);
        let halves = block.emb.linear_bias(g.path("norm_out.linear"), 2 * c);
        let (scale, shift) = if self.norm_out_shift_first { (c, 0) } else { (0, c) };
        let image = block.modulated(image, halves.slice(1, shift, c), halves.slice(1, scale, c));
        show("norm_out", image);
        image.linear_bias(g.path("proj_out"), self.out())
    }

    /// What the blocks see of the texts: `(N·S, C)`.
    pub(crate) fn text<'g>(&self, g: &'g Builder, size: Size) -> X<'g> {
        let text = g.input("text", &[size.batch * size.text, self.joint_attention_dim], DType::F32);
        text.linear_bias(g.path("context_embedder"), self.channels())
    }

    /// What blocks share, with `emb` of [`Config::condition`].
    pub(crate) fn block<'c, 'g>(&'c self, g: &'g Builder, size: Size, emb: X<'g>) -> Block<'c, 'g> {
        let Size { batch: n, text: s, height, width, beside: [rows, columns], .. } = size;
        let l = height * width + rows * columns;
        Block { c: self, n, s, l, emb: emb.act(Act::Silu), at: self.positions(g, size) }
    }

    /// What all blocks are told of time, guidance and the whole text: `(N, C)`.
    pub(crate) fn condition<'g>(&self, g: &'g Builder, n: usize) -> X<'g> {
        let (p, c) = (g.path("time_text_embed"), self.channels());
        let mlp = |x: X<'g>, p: Path<'g>| {
            x.linear_bias(p / "linear_1", c).act(Act::Silu).linear_bias(p / "linear_2", c)
        };
        let waves = |name| {
            let t = g.input(name, &[n], DType::F32) * 1000.0;
            time::embed(t, WAVES, Flip::Cosines, 0.0)
        };
        let mut emb = mlp(waves("timestep"), p / "timestep_embedder");
        if self.guidance_embeds {
            emb = emb + mlp(waves("guidance"), p / "guidance_embedder");
        }
        let pooled = g.input("pooled", &[n, self.pooled_projection_dim], DType::F32);
        emb + mlp(pooled, p / "text_embedder")
    }

    /// The position of every token for each rotated pair `(N·(S + L + M), D/2)`, and inverse frequencies `(D/2)`. Tokens of the
    /// text are at 0, those of the picture at (0, y, x), of the one beside at (1, y, x).
    fn positions<'g>(&self, g: &'g Builder, size: Size) -> [X<'g>; 2] {
        let axes = &self.axes_dims_rope;
        let pairs = |f: &dyn Fn(usize, usize) -> f32| {
            axes.iter()
                .enumerate()
                .flat_map(|(a, dim)| (0..dim / 2).map(move |i| f(a, i)))
                .collect::<Vec<f32>>()
        };
        let mut rows = vec![0.0; size.text * self.attention_head_dim / 2];
        for (which, [height, width]) in [[size.height, size.width], size.beside].into_iter().enumerate() {
            for y in 0..height {
                for x in 0..width {
                    rows.extend(pairs(&|axis, _| [which as f32, y as f32, x as f32][axis]));
                }
            }
        }
        let half = self.attention_head_dim / 2;
        let tokens = size.batch * rows.len() / half;
        let positions = g.constant(rows.repeat(size.batch)).reshape(&[tokens, half]);
        let frequency = |axis: usize, i: usize| THETA.powf(-2.0 * i as f64 / axes[axis] as f64) as f32;
        [positions, g.constant(pairs(&frequency))]
    }
}

/// What blocks share.
pub(crate) struct Block<'a, 'g> {
    c: &'a Config,
    n: usize,
    s: usize,
    l: usize,
    /// what is told of time, guidance and text, activated: `(N, C)`
    emb: X<'g>,
    /// positions and inverse frequencies
    at: [X<'g>; 2],
}

impl<'g> Block<'_, 'g> {
    /// One with weights of its own for text `(N·S, C)` and picture `(N·L, C)`, which see each other in attention.
    pub fn double(&self, p: Path<'g>, text: X<'g>, image: X<'g>) -> (X<'g>, X<'g>) {
        let a = p / "attn";
        let image_mod = self.modulation::<6>(p / "norm1");
        let text_mod = self.modulation::<6>(p / "norm1_context");
        let x = self.modulated(image, image_mod[0], image_mod[1]);
        let y = self.modulated(text, text_mod[0], text_mod[1]);
        let of = |text: [&str; 2], image: [&str; 2]| {
            let head = |x, [linear, norm]: [&str; 2]| {
                self.heads(x, a / linear, (!norm.is_empty()).then(|| a / norm))
            };
            self.join(head(y, text), head(x, image))
        };
        let q = of(["add_q_proj", "norm_added_q"], ["to_q", "norm_q"]);
        let k = of(["add_k_proj", "norm_added_k"], ["to_k", "norm_k"]);
        let v = of(["add_v_proj", ""], ["to_v", ""]);
        let (y, x) = self.part(self.attend(q, k, v));
        let rest = |skip: X<'g>, y: X<'g>, out: Path<'g>, m: [X<'g>; 6], ff: Path<'g>| {
            let [_, _, gate, shift, scale, gate_mlp] = m;
            let x = skip + self.gated(y.linear_bias(out, self.c.channels()), gate);
            let y =
                self.modulated(x, shift, scale).linear_bias(ff / "net" / 0 / "proj", 4 * self.c.channels());
            let y = y.act(Act::GeluTanh).linear_bias(ff / "net" / 2, self.c.channels());
            x + self.gated(y, gate_mlp)
        };
        (
            rest(text, y, a / "to_add_out", text_mod, p / "ff_context"),
            rest(image, x, a / "to_out" / 0, image_mod, p / "ff"),
        )
    }

    /// One over text and picture `(N·(S + L), C)`, its attention beside its MLP.
    pub fn single(&self, p: Path<'g>, both: X<'g>) -> X<'g> {
        let (a, c) = (p / "attn", self.c.channels());
        let [shift, scale, gate] = self.modulation::<3>(p / "norm");
        let x = self.modulated(both, shift, scale);
        let mlp = x.linear_bias(p / "proj_mlp", 4 * c).act(Act::GeluTanh);
        let q = self.heads(x, a / "to_q", Some(a / "norm_q"));
        let k = self.heads(x, a / "to_k", Some(a / "norm_k"));
        let y = self.attend(q, k, self.heads(x, a / "to_v", None));
        both + self.gated(y.concat(1, &[mlp]).linear_bias(p / "proj_out", c), gate)
    }

    /// `K` vectors `(N, C)` that `p.linear` makes of time, guidance and text.
    fn modulation<const K: usize>(&self, p: Path<'g>) -> [X<'g>; K] {
        let c = self.c.channels();
        let all = self.emb.linear_bias(p / "linear", K * c);
        std::array::from_fn(|k| all.slice(1, k * c, c))
    }

    /// Layer norm of rows `(N·T, C)`, scaled by one more than `scale` and moved, each by its picture's `(N, C)`.
    fn modulated(&self, x: X<'g>, shift: X<'g>, scale: X<'g>) -> X<'g> {
        let normed = self.pictures(x.layer_norm_plain(EPS));
        (normed * self.each(scale + 1.0) + self.each(shift)).reshape(&x.shape())
    }

    /// Rows `(N·T, C)` times what their picture has in `gate` `(N, C)`.
    fn gated(&self, x: X<'g>, gate: X<'g>) -> X<'g> {
        (self.pictures(x) * self.each(gate)).reshape(&x.shape())
    }

    /// `(N·T, …)` as `(N, T, …)`.
    fn pictures(&self, x: X<'g>) -> X<'g> {
        let shape = x.shape();
        let mut dims = vec![self.n, x.dim(0) / self.n.max(1)];
        dims.extend(&shape[1.min(shape.len())..]);
        x.reshape(&dims)
    }

    fn each(&self, x: X<'g>) -> X<'g> {
        x.reshape(&[self.n, 1, self.c.channels()])
    }

    /// Rows `(N·T, C)` by `p` as heads `(N·T, H, D)`, and normed by `norm`.
    fn heads(&self, x: X<'g>, p: Path<'g>, norm: Option<Path<'g>>) -> X<'g> {
        let (h, d) = (self.c.num_attention_heads, self.c.attention_head_dim);
        let y = x.linear_bias(p, h * d).reshape(&[x.dim(0), h, d]);
        norm.map_or(y, |norm| y.rms_norm(norm, EPS, 0.0))
    }

    /// Attention of each picture's tokens and its text's over one another: `(N·(S + L), C)`.
    fn attend(&self, q: X<'g>, k: X<'g>, v: X<'g>) -> X<'g> {
        let rope = |x: X<'g>| x.rope_at(self.at[0], self.at[1], RopeStyle::Pairs, 1.0);
        let scale = (self.c.attention_head_dim as f32).powf(-0.5);
        let how = Cross { scale, parts: self.n as u32, causal: false };
        rope(q).cross_attend(rope(k), v, how, None).reshape(&[q.dim(0), self.c.channels()])
    }

    /// Each picture's text before its own tokens: `(N·S, …), (N·L, …) → (N·(S + L), …)`.
    pub fn join(&self, text: X<'g>, image: X<'g>) -> X<'g> {
        let both = self.pictures(text).concat(1, &[self.pictures(image)]);
        let mut dims = text.shape().to_vec();
        if let Some(first) = dims.first_mut() {
            *first = self.n * (self.s + self.l);
        }
        both.reshape(&dims)
    }

    /// Texts and pictures apart again, from `(N·(S + L), C)`.
    fn part(&self, both: X<'g>) -> (X<'g>, X<'g>) {
        (self.some(both, 0, self.s), self.some(both, self.s, self.l))
    }

    /// `len` rows from `start` on of each picture's in `(N·T, C)`.
    pub fn some(&self, x: X<'g>, start: usize, len: usize) -> X<'g> {
        self.pictures(x).slice(1, start, len).reshape(&[self.n * len, self.c.channels()])
    }

    /// Rows `(N·T, C)`, to which `more` `(N·L, C)` is added from row `start` of each picture on.
    fn add(&self, x: X<'g>, start: usize, more: X<'g>) -> X<'g> {
        let (all, more) = (self.pictures(x), self.pictures(more));
        let (tokens, len) = (all.dim(1), more.dim(1));
        let end = start + len;
        let part = |from, to| (from < to).then(|| all.slice(1, from, to - from));
        let sum = all.slice(1, start, len) + more;
        let mut parts = part(0, start).into_iter().chain([sum]).chain(part(end, tokens));
        let first = parts.next().unwrap_or(sum);
        first.concat(1, &parts.collect::<Vec<_>>()).reshape(&x.shape())
    }
}

/// Latents `(N, C, 2h, 2w)` as tokens of 2 × 2 pixels each, `(N·h·w, 4·C)`, after diffusers' `_pack_latents`.
///
/// Panics when `latents` has not so many numbers.
pub fn pack(latents: &[f32], [n, c, h, w]: [usize; 4]) -> Vec<f32> {
    let mut out = vec![0.0; 4 * n * c * h * w];
    packing([n, c, h, w], latents.len(), |packed, plain| out[packed] = latents[plain]);
    out
}

/// What [`pack`] did undone: from tokens `(N·h·w, 4·C)` to `(N, C, 2h, 2w)`. `dims` are those given to [`pack`].
///
/// Panics when `tokens` has not so many numbers.
pub fn unpack(tokens: &[f32], [n, c, h, w]: [usize; 4]) -> Vec<f32> {
    let mut out = vec![0.0; 4 * n * c * h * w];
    packing([n, c, h, w], tokens.len(), |packed, plain| out[plain] = tokens[packed]);
    out
}

/// Tells of each number where it is among tokens, and where in the picture.
fn packing([n, c, h, w]: [usize; 4], len: usize, mut each: impl FnMut(usize, usize)) {
    assert_eq!(len, 4 * n * c * h * w, "numbers of {n} pictures of {c} channels and {h} x {w} tokens");
    for token in 0..n * h * w {
        let (picture, y, x) = (token / (h * w), token / w % h, token % w);
        for i in 0..4 * c {
            let (channel, dy, dx) = (i / 4, i / 2 % 2, i % 2);
            each(token * 4 * c + i, ((picture * c + channel) * 2 * h + 2 * y + dy) * 2 * w + 2 * x + dx);
        }
    }
}
