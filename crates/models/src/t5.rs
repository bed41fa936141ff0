//! The encoder of T5 (Raffel et al. 2020), in the form of v1.1 that Flux reads prompts with, and of UMT5, whose layers each
//! have a bias of their own. After transformers' `modeling_t5.py` and `modeling_umt5.py`: `T5EncoderModel`.

use crate::{check_eps_of, check_sizes, read};
use hob_graph::{Act, Builder, Cross, Graph, GraphError, Path, X};
use serde::Deserialize;
use serde_json::Value;

/// config.json of a `T5EncoderModel` or `UMT5EncoderModel`.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)] // the fields are those of config.json
pub struct Config {
    #[serde(default)]
    pub model_type: String,
    pub vocab_size: usize,
    pub d_model: usize,
    pub d_kv: usize,
    pub d_ff: usize,
    pub num_layers: usize,
    pub num_heads: usize,
    #[serde(default = "buckets")]
    pub relative_attention_num_buckets: usize,
    #[serde(default = "distance")]
    pub relative_attention_max_distance: usize,
    #[serde(default = "epsilon")]
    pub layer_norm_epsilon: f32,
    #[serde(default = "relu")]
    pub feed_forward_proj: String,
}

fn buckets() -> usize {
    32
}

fn distance() -> usize {
    128
}

fn epsilon() -> f32 {
    1e-6
}

fn relu() -> String {
    "relu".into()
}

/// Tokens of a prompt at most: beyond them a bias by distance would be no table any more.
const MOST_TOKENS: usize = 1 << 14;

impl Config {
    /// Reads and checks a configuration.
    pub fn parse(config: &Value) -> Result<Config, String> {
        let c: Config = read(config)?;
        check_sizes(&[
            ("vocab_size", c.vocab_size),
            ("d_model", c.d_model),
            ("d_kv", c.d_kv),
            ("d_ff", c.d_ff),
            ("num_layers", c.num_layers),
            ("num_heads", c.num_heads),
        ])?;
        check_eps_of("layer_norm_epsilon", c.layer_norm_epsilon)?;
        let (buckets, distance) = (c.relative_attention_num_buckets, c.relative_attention_max_distance);
        // A quarter of the buckets are for one distance each; the last of all is for the largest.
        if !(4..=1 << 12).contains(&buckets) || !(buckets / 4 + 1..=1 << 24).contains(&distance) {
            return Err(format!(
                "relative_attention_num_buckets {buckets} and relative_attention_max_distance {distance} do not match"
            ));
        }
        c.gate()?;
        Ok(c)
    }

    /// The gate's activation; `None` for the first T5's MLP, which has none but a ReLU.
    fn gate(&self) -> Result<Option<Act>, String> {
        Ok(match self.feed_forward_proj.as_str() {
            "relu" => None,
            "gated-gelu" | "gated-gelu_new" => Some(Act::GeluTanh),
            "gated-silu" => Some(Act::Silu),
            other => return Err(format!("feed_forward_proj {other} is not supported")),
        })
    }

    /// The graph of N `prompts` of T `tokens` each, from `ids` `(N·T)` i32 to `hidden` `(N·T, C)`. All tokens of a prompt
    /// see each other, those that pad it too, as Flux has it; where padding is to be masked, leave it out and pad the
    /// result.
    pub fn encoder(&self, prompts: usize, tokens: usize) -> Result<Graph, GraphError> {
        let c = self;
        if !(1..=MOST_TOKENS).contains(&tokens) {
            let message = format!("a prompt of {tokens} tokens is more than {MOST_TOKENS}, or nothing");
            return Err(GraphError { message, at: None });
        }
        let g = Builder::stateless(prompts * tokens);
        let mut x = g.ids().embed(g.path("shared"), c.vocab_size, c.d_model); // (N·T, C)
        let mut bias = None;
        for layer in 0..c.num_layers {
            let p = g.path("encoder.block") / layer / "layer";
            if layer == 0 || c.model_type == "umt5" {
                bias = Some(self.bias(p / 0 / "SelfAttention" / "relative_attention_bias", tokens));
            }
            x = x + self.attention(
                x.rms_norm(p / 0 / "layer_norm", c.layer_norm_epsilon, 0.0),
                p / 0,
                prompts,
                bias,
            );
            x = x + self
                .mlp(x.rms_norm(p / 1 / "layer_norm", c.layer_norm_epsilon, 0.0), p / 1 / "DenseReluDense");
        }
        g.output("hidden", x.rms_norm(g.path("encoder.final_layer_norm"), c.layer_norm_epsilon, 0.0));
        g.finish()
    }

    fn attention<'g>(&self, x: X<'g>, p: Path<'g>, prompts: usize, bias: Option<X<'g>>) -> X<'g> {
        let (rows, h, d) = (x.dim(0), self.num_heads, self.d_kv);
        let a = p / "SelfAttention";
        let [q, k, v] = ["q", "k", "v"].map(|name| x.linear(a / name, h * d).reshape(&[rows, h, d]));
        // The scale is in the weights.
        let how = Cross { scale: 1.0, parts: prompts as u32, causal: false };
        q.cross_attend(k, v, how, bias).reshape(&[rows, h * d]).linear(a / "o", self.d_model)
    }

    fn mlp<'g>(&self, x: X<'g>, p: Path<'g>) -> X<'g> {
        let y = match self.gate().expect("checked when parsed") {
            Some(act) => x.linear(p / "wi_0", self.d_ff).glu(act, x.linear(p / "wi_1", self.d_ff)),
            None => x.linear(p / "wi", self.d_ff).relu(),
        };
        y.linear(p / "wo", self.d_model)
    }

    /// What a head adds to a score by distance: `(H, 2T - 1)`, of key j and query i at column `j - i + T - 1`.
    fn bias<'g>(&self, p: Path<'g>, tokens: usize) -> X<'g> {
        let (buckets, columns) = (self.relative_attention_num_buckets, 2 * tokens - 1);
        let table = (p / "weight").weight(&[buckets, self.num_heads]);
        let mut chosen = vec![0.0; columns * buckets];
        for column in 0..columns {
            chosen[column * buckets + self.bucket(column as i64 - (tokens as i64 - 1))] = 1.0;
        }
        let chosen = table.builder().constant(chosen).reshape(&[columns, buckets]);
        chosen.matmul(table).transpose()
    }

    /// The bucket of a key so many tokens after the query: `_relative_position_bucket`.
    fn bucket(&self, after: i64) -> usize {
        let half = self.relative_attention_num_buckets / 2;
        let (side, away) = (if after > 0 { half } else { 0 }, after.unsigned_abs() as usize);
        let exact = half / 2;
        if away < exact {
            return side + away;
        }
        let most = (self.relative_attention_max_distance as f64 / exact as f64).ln() as f32;
        let far = (away as f32 / exact as f32).ln() / most * (half - exact) as f32;
        side + (exact + far as usize).min(half - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config() -> Value {
        json!({"vocab_size": 9, "d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 2, "num_heads": 3})
    }

    /// As `T5Attention._relative_position_bucket` of transformers gives them.
    #[test]
    fn buckets_are_those_of_transformers() {
        let c = Config::parse(&config()).unwrap();
        let got: Vec<usize> =
            [-200, -128, -64, -32, -16, -11, -8, -7, -1, 0, 1, 7, 8, 12, 16, 23, 32, 64, 91, 127, 500]
                .map(|after| c.bucket(after))
                .into();
        assert_eq!(got, [15, 15, 14, 12, 10, 8, 8, 7, 1, 0, 17, 23, 24, 25, 26, 27, 28, 30, 31, 31, 31]);
    }

    #[test]
    fn what_does_not_fit_is_said() {
        assert!(Config::parse(&config()).unwrap().encoder(2, 1 << 20).is_err());
        assert!(Config::parse(&config()).unwrap().encoder(1, 0).is_err());
        for (field, value) in [
            ("d_kv", json!(0)),
            ("feed_forward_proj", json!("swish")),
            ("relative_attention_num_buckets", json!(2)),
            ("relative_attention_max_distance", json!(8)),
        ] {
            let mut bad = config();
            bad[field] = value;
            assert!(Config::parse(&bad).is_err(), "{field}");
        }
    }
}
