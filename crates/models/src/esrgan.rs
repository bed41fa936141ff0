//! Upscalers: ESRGAN's residual dense blocks (Wang et al. 2018), as Real-ESRGAN uses them (Wang et al. 2021), and its
//! compact network. After basicsr's `rrdbnet_arch.py` and `srvgg_arch.py`. Their files have no configuration: what a
//! network is follows from its tensors.

use crate::blocks::CONV;
use hob_graph::{Builder, DType, Graph, GraphError, Path, X};

/// An upscaler, as its tensors tell.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// of the picture: 3, or 1 of a grey one, or 4
    pub channels: usize,
    /// between the convolutions
    pub features: usize,
    /// which of the two
    pub kind: Kind,
}

/// The two networks.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// RRDBNet
    Dense {
        /// residual blocks of three dense ones
        blocks: usize,
        /// channels that a convolution of a dense block adds
        growth: usize,
        /// pixels of a side that become channels at first
        unshuffle: usize,
        /// times that both sides are doubled at last
        doublings: usize,
    },
    /// SRVGGNetCompact
    Compact {
        /// convolutions in a row, the first and the last not counted
        layers: usize,
        /// pixels of a side that one becomes
        scale: usize,
    },
}

/// What makes no network is refused at this number of layers, before a graph is built from it.
const MOST: usize = 1 << 10;

impl Config {
    /// The network with these tensors, by names as [`new_name`] gives them.
    ///
    /// # Errors
    /// A sentence, where these are the tensors of neither.
    pub fn detect(shape: impl Fn(&str) -> Option<Vec<usize>>) -> Result<Config, String> {
        let kernel = |name: &str| match shape(name)?[..] {
            [o, i, 3, 3] if (1..1 << 16).contains(&o) && (1..1 << 16).contains(&i) => Some((o, i)),
            _ => None,
        };
        let count =
            |name: &dyn Fn(usize) -> String| (0..MOST).take_while(|&i| shape(&name(i)).is_some()).count();
        let none =
            || "its tensors are those of no ESRGAN; RRDBNet and SRVGGNetCompact are supported".to_string();
        if let Some((features, first)) = kernel("conv_first.weight") {
            let (channels, _) = kernel("conv_last.weight").ok_or_else(none)?;
            let (growth, _) = kernel("body.0.rdb1.conv1.weight").ok_or_else(none)?;
            let unshuffle = [1, 2, 4].into_iter().find(|u| first == channels * u * u).ok_or_else(none)?;
            let blocks = count(&|i| format!("body.{i}.rdb1.conv1.weight"));
            let doublings = count(&|i| format!("conv_up{}.weight", i + 1));
            if doublings > 5 {
                return Err(format!("an upscaler that doubles {doublings} times is not supported"));
            }
            return Ok(Config {
                channels,
                features,
                kind: Kind::Dense { blocks, growth, unshuffle, doublings },
            });
        }
        let (features, channels) = kernel("body.0.weight").ok_or_else(none)?;
        let layers = count(&|i| format!("body.{}.weight", 2 * i)).checked_sub(2).ok_or_else(none)?;
        let (last, _) = kernel(&format!("body.{}.weight", 2 * layers + 2)).ok_or_else(none)?;
        let scale = (1..=8).find(|s| last == channels * s * s).ok_or_else(none)?;
        if shape("body.1.weight") != Some(vec![features]) {
            return Err("an SRVGGNetCompact whose activation is not PReLU is not supported".into());
        }
        Ok(Config { channels, features, kind: Kind::Compact { layers, scale } })
    }

    /// Pixels of a side that one becomes.
    pub fn scale(&self) -> usize {
        match self.kind {
            Kind::Dense { unshuffle, doublings, .. } => (1 << doublings) / unshuffle,
            Kind::Compact { scale, .. } => scale,
        }
    }

    /// What both sides of a picture must be multiples of.
    pub fn multiple(&self) -> usize {
        match self.kind {
            Kind::Dense { unshuffle, .. } => unshuffle,
            Kind::Compact { .. } => 1,
        }
    }

    /// From `pixels` `(N, C, H, W)` in 0..1 to `upscaled` `(N, C, sH, sW)`, not clamped; `s` is [`Config::scale`].
    ///
    /// # Errors
    /// Where the sides are no multiples of [`Config::multiple`].
    pub fn graph(&self, batch: usize, height: usize, width: usize) -> Result<Graph, GraphError> {
        let g = Builder::stateless(0);
        let x = g.input("pixels", &[batch, self.channels, height, width], DType::F32);
        let y = match self.kind {
            Kind::Dense { blocks, growth, unshuffle, doublings } => {
                self.dense_blocks(&g, unshuffled(x, unshuffle), blocks, growth, doublings)
            }
            Kind::Compact { layers, scale } => {
                let body = g.path("body");
                let mut y = x;
                for i in 0..=layers {
                    y = y.conv2d(body / (2 * i), self.features, CONV, true);
                    let slope = (body / (2 * i + 1) / "weight").weight(&[self.features]);
                    y = y.relu() - (-y).relu() * slope.reshape(&[self.features, 1, 1]);
                }
                y = y.conv2d(body / (2 * layers + 2), self.channels * scale * scale, CONV, true);
                shuffled(y, scale) + x.upsample(scale)
            }
        };
        g.output("upscaled", y);
        g.finish()
    }

    fn dense_blocks<'g>(
        &self,
        g: &'g Builder,
        x: X<'g>,
        blocks: usize,
        growth: usize,
        doublings: usize,
    ) -> X<'g> {
        let f = self.features;
        let first = x.conv2d(g.path("conv_first"), f, CONV, true);
        let mut x = first;
        for i in 0..blocks {
            let p = g.path("body") / i;
            let y = ["rdb1", "rdb2", "rdb3"].into_iter().fold(x, |y, name| dense(y, p / name, growth));
            x = x + y * 0.2;
        }
        x = first + x.conv2d(g.path("conv_body"), f, CONV, true);
        for i in 1..=doublings {
            x = leaky(x.upsample(2).conv2d(g.path(&format!("conv_up{i}")), f, CONV, true));
        }
        leaky(x.conv2d(g.path("conv_hr"), f, CONV, true)).conv2d(
            g.path("conv_last"),
            self.channels,
            CONV,
            true,
        )
    }
}

/// Five convolutions of which each sees all that was made before it.
fn dense<'g>(x: X<'g>, p: Path<'g>, growth: usize) -> X<'g> {
    let mut made = vec![];
    for k in 1..=4 {
        let seen = if made.is_empty() { x } else { x.concat(1, &made) };
        made.push(leaky(seen.conv2d(p / format!("conv{k}").as_str(), growth, CONV, true)));
    }
    x + x.concat(1, &made).conv2d(p / "conv5", x.dim(1), CONV, true) * 0.2
}

/// x, or a fifth of it where it is negative.
fn leaky(x: X<'_>) -> X<'_> {
    x.relu() - (-x).relu() * 0.2
}

/// Squares of `n × n` pixels as channels: `(N, C, H, W) → (N, C·n·n, H/n, W/n)`.
fn unshuffled(x: X<'_>, n: usize) -> X<'_> {
    if n == 1 {
        return x;
    }
    let (b, c, h, w) = (x.dim(0), x.dim(1), x.dim(2) / n, x.dim(3) / n);
    x.reshape(&[b, c, h, n, w, n]).permute(&[0, 1, 3, 5, 2, 4]).reshape(&[b, c * n * n, h, w])
}

/// The way back: `(N, C·n·n, H, W) → (N, C, H·n, W·n)`.
fn shuffled(x: X<'_>, n: usize) -> X<'_> {
    if n == 1 {
        return x;
    }
    let (b, c, h, w) = (x.dim(0), x.dim(1) / (n * n), x.dim(2), x.dim(3));
    x.reshape(&[b, c, n, n, h, w]).permute(&[0, 1, 4, 2, 5, 3]).reshape(&[b, c, h * n, w * n])
}

/// The name of a tensor in basicsr's naming, given that name or those of the two namings before it (`model.1.sub.0.RDB1`,
/// `RRDB_trunk.0.RDB1`), with or without what wraps a training checkpoint's weights.
pub fn new_name(old: &str) -> String {
    let old = ["params_ema.", "params."].iter().find_map(|p| old.strip_prefix(p)).unwrap_or(old);
    let (path, leaf) = old.rsplit_once('.').unwrap_or((old, ""));
    let parts: Vec<&str> = path.split('.').collect();
    let new = match parts[..] {
        ["model", "0"] => "conv_first".into(),
        ["model", "1", "sub", i, rdb, conv, "0"] => format!("body.{i}.{}.{conv}", rdb.to_lowercase()),
        ["RRDB_trunk", i, rdb, conv] => format!("body.{i}.{}.{conv}", rdb.to_lowercase()),
        ["model", "1", "sub", _] | ["trunk_conv"] => "conv_body".into(),
        ["upconv1"] => "conv_up1".into(),
        ["upconv2"] => "conv_up2".into(),
        ["HRconv"] => "conv_hr".into(),
        // Of an enlargement, its convolution and its activation each is one in a sequence that starts at 2.
        ["model", i] => match i.parse::<usize>() {
            Ok(i) if i >= 3 && i % 3 == 0 => format!("conv_up{}", i / 3),
            Ok(i) if i % 3 == 2 => "conv_hr".into(),
            Ok(i) if i % 3 == 1 => "conv_last".into(),
            _ => path.into(),
        },
        _ => path.into(),
    };
    if leaf.is_empty() { new } else { format!("{new}.{leaf}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_all_times_are_known() {
        for (old, new) in [
            ("model.0.weight", "conv_first.weight"),
            ("model.1.sub.22.RDB3.conv5.0.bias", "body.22.rdb3.conv5.bias"),
            ("model.1.sub.23.weight", "conv_body.weight"),
            ("model.3.weight", "conv_up1.weight"),
            ("model.6.bias", "conv_up2.bias"),
            ("model.8.weight", "conv_hr.weight"),
            ("model.10.weight", "conv_last.weight"),
            // doubled three times, and not at all
            ("model.9.weight", "conv_up3.weight"),
            ("model.11.weight", "conv_hr.weight"),
            ("model.13.weight", "conv_last.weight"),
            ("model.2.weight", "conv_hr.weight"),
            ("model.4.weight", "conv_last.weight"),
            ("RRDB_trunk.3.RDB1.conv2.weight", "body.3.rdb1.conv2.weight"),
            ("trunk_conv.bias", "conv_body.bias"),
            ("upconv2.weight", "conv_up2.weight"),
            ("HRconv.weight", "conv_hr.weight"),
            ("params_ema.body.0.rdb1.conv1.weight", "body.0.rdb1.conv1.weight"),
            ("body.3.weight", "body.3.weight"),
            ("", ""),
        ] {
            assert_eq!(new_name(old), new);
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        assert!(Config::detect(|_| None).unwrap_err().contains("no ESRGAN"));
        assert!(Config::detect(|_| Some(vec![3, 5])).unwrap_err().contains("no ESRGAN"));
        assert!(Config::detect(|_| Some(vec![3, 3, 3, 3])).unwrap_err().contains("doubles 1024 times"));
        let compact = |n: &str| matches!(n, "body.0.weight" | "body.2.weight").then(|| vec![12, 3, 3, 3]);
        assert!(Config::detect(compact).unwrap_err().contains("PReLU"));
    }

    #[test]
    fn sides_that_do_not_divide_are_an_error() {
        let kind = Kind::Dense { blocks: 1, growth: 2, unshuffle: 2, doublings: 2 };
        let c = Config { channels: 3, features: 4, kind };
        assert!(c.graph(1, 8, 6).is_ok());
        assert!(c.graph(1, 8, 5).unwrap_err().message.contains("(1, 3, 8, 5)"));
    }
}
