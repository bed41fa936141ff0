//! What the convolutional models share: parts of their graphs, and of their configurations.

use hob_graph::{Act, Cross, Path, Window, X};
use serde::Deserialize;
use serde_json::Value;

pub(crate) const CONV: Window = Window { kernel: 3, stride: 1, padding: 1 };
pub(crate) const HALVE: Window = Window { kernel: 3, stride: 2, padding: 1 };
pub(crate) const POINT: Window = Window { kernel: 1, stride: 1, padding: 0 };

/// How channels are normed in groups.
#[derive(Clone, Copy)]
pub(crate) struct Groups {
    pub groups: usize,
    pub eps: f32,
}

/// Two convolutions beside a skip, each behind a norm and SiLU, with what is said of the time `(N, C)` between them:
/// diffusers' `ResnetBlock2D`.
pub(crate) fn resnet<'g>(x: X<'g>, p: Path<'g>, channels: usize, norm: Groups, time: Option<X<'g>>) -> X<'g> {
    let part = |x: X<'g>, norm_at, conv_at| {
        let y = x.group_norm(p / norm_at, norm.groups, norm.eps).act(Act::Silu);
        y.conv2d(p / conv_at, channels, CONV, true)
    };
    let mut y = part(x, "norm1", "conv1");
    if let Some(time) = time {
        let shift = time.linear_bias(p / "time_emb_proj", channels);
        y = y + shift.reshape(&[x.dim(0), channels, 1, 1]);
    }
    let skip = if x.dim(1) == channels { x } else { x.conv2d(p / "conv_shortcut", channels, POINT, true) };
    skip + part(y, "norm2", "conv2")
}

/// Attention of the tokens `x` `(N·T, C)` over `over` `(N·S, Cx)`, in N parts. `bias`: of queries, keys and values.
pub(crate) fn attention<'g>(
    x: X<'g>,
    over: X<'g>,
    p: Path<'g>,
    heads: usize,
    parts: usize,
    bias: bool,
) -> X<'g> {
    let c = x.dim(1);
    let d = c / heads;
    let part = |x: X<'g>, name| {
        let y = if bias { x.linear_bias(p / name, c) } else { x.linear(p / name, c) };
        y.reshape(&[x.dim(0), heads, d])
    };
    let how = Cross { scale: 1.0 / (d as f32).sqrt(), parts: parts as u32, causal: false };
    let y = part(x, "to_q").cross_attend(part(over, "to_k"), part(over, "to_v"), how, None);
    y.reshape(&[x.dim(0), c]).linear_bias(p / "to_out" / 0, c)
}

/// Pixels as tokens: `(N, C, h, w) → (N·h·w, C)`.
pub(crate) fn tokens(x: X<'_>) -> X<'_> {
    let (n, c, area) = (x.dim(0), x.dim(1), x.dim(2) * x.dim(3));
    x.reshape(&[n, c, area]).transpose().reshape(&[n * area, c])
}

/// Tokens as the pixels of a picture with `like`'s sides: `(N·h·w, C) → (N, C, h, w)`.
pub(crate) fn pixels<'g>(x: X<'g>, like: X<'g>) -> X<'g> {
    let (n, c, h, w) = (like.dim(0), x.dim(1), like.dim(2), like.dim(3));
    x.reshape(&[n, h * w, c]).transpose().reshape(&[n, c, h, w])
}

/// A field that holds either one thing for all, or one for each.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
#[allow(missing_docs)]
pub enum Each<T> {
    Many(Vec<T>),
    One(T),
}

impl<T> Each<T> {
    /// The `i`-th.
    pub fn at(&self, i: usize) -> Option<&T> {
        match self {
            Each::Many(all) => all.get(i),
            Each::One(one) => Some(one),
        }
    }

    /// Whether there is one for each of `n`.
    pub fn fits(&self, n: usize) -> bool {
        matches!(self, Each::One(_)) || matches!(self, Each::Many(all) if all.len() == n)
    }
}

/// Refuses what would run, and be wrong, if it were passed over: fields that are there and hold something else than
/// what is built.
pub(crate) fn only(config: &Value, fields: &[(&str, Value)]) -> Result<(), String> {
    for (field, built) in fields {
        let found = &config[*field];
        let same = |v: &Value| v == built || v.as_f64().is_some_and(|n| Some(n) == built.as_f64());
        if !found.is_null() && !same(found) && !found.as_array().is_some_and(|all| all.iter().all(same)) {
            return Err(format!("{field} {found} is not supported"));
        }
    }
    Ok(())
}

/// Refuses channels that make no groups, and numbers of levels that make no model.
pub(crate) fn check_levels(channels: &[usize], groups: usize) -> Result<(), String> {
    if !(1..=8).contains(&channels.len()) {
        return Err(format!("block_out_channels has {} levels", channels.len()));
    }
    match channels.iter().find(|&&c| groups == 0 || c == 0 || c > 1 << 16 || c % groups != 0) {
        Some(c) => Err(format!("block_out_channels has {c} and norm_num_groups is {groups}")),
        None => Ok(()),
    }
}
