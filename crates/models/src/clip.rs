//! The text half of CLIP (Radford et al. 2021) and OpenCLIP, as Stable Diffusion and Flux are conditioned by it.
//! After transformers' `modeling_clip.py`: `CLIPTextModel` and `CLIPTextModelWithProjection`.

use crate::{check_eps_of, check_sizes, read};
use hob_graph::{Act, Builder, Cross, DType, Graph, GraphError, Path, X};
use serde::Deserialize;
use serde_json::Value;

/// config.json of a `CLIPTextModel`, and whether there is a projection.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)] // the fields are those of config.json
pub struct Config {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    #[serde(default = "vocab_size")]
    pub vocab_size: usize,
    #[serde(default = "max_position_embeddings")]
    pub max_position_embeddings: usize,
    #[serde(default = "layer_norm_eps")]
    pub layer_norm_eps: f32,
    #[serde(default = "hidden_act")]
    pub hidden_act: String,
    #[serde(default = "eos_token_id")]
    pub eos_token_id: u32,
    #[serde(default)]
    pub projection_dim: usize,
    #[serde(default)]
    pub architectures: Vec<String>,
}

fn vocab_size() -> usize {
    49408
}

fn max_position_embeddings() -> usize {
    77
}

fn layer_norm_eps() -> f32 {
    1e-5
}

fn hidden_act() -> String {
    "quick_gelu".into()
}

fn eos_token_id() -> u32 {
    49407
}

/// What is asked of the encoder.
///
/// Stable Diffusion 1 and 2 take the last layer, normed; with A1111's clip skip 2 the one before it, normed too. SDXL takes
/// the one before the last as it is, and of the second encoder the pooled vector; Flux and SDXL's refiner the pooled one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// which layer's output is `hidden`, counted from the end: 1 for the last one
    pub layer: usize,
    /// whether `final_layer_norm` is applied to it
    pub norm: bool,
    /// whether there is the output `pooled`
    pub pooled: bool,
    /// whether vectors of textual inversion stand for some tokens
    pub vectors: bool,
}

impl Config {
    /// Reads and checks a configuration.
    pub fn parse(config: &Value) -> Result<Config, String> {
        let c: Config = read(config)?;
        check_sizes(&[
            ("hidden_size", c.hidden_size),
            ("intermediate_size", c.intermediate_size),
            ("num_hidden_layers", c.num_hidden_layers),
            ("num_attention_heads", c.num_attention_heads),
            ("vocab_size", c.vocab_size),
            ("max_position_embeddings", c.max_position_embeddings),
            ("projection_dim", if c.has_projection() { c.projection_dim } else { 1 }),
        ])?;
        check_eps_of("layer_norm_eps", c.layer_norm_eps)?;
        if !c.hidden_size.is_multiple_of(c.num_attention_heads) {
            let (width, heads) = (c.hidden_size, c.num_attention_heads);
            return Err(format!("hidden_size {width} is no multiple of num_attention_heads {heads}"));
        }
        c.act()?;
        Ok(c)
    }

    /// Whether the pooled vector goes through `text_projection`: a `CLIPTextModelWithProjection`.
    pub fn has_projection(&self) -> bool {
        self.architectures.iter().any(|name| name == "CLIPTextModelWithProjection")
    }

    /// Channels of the pooled vector.
    pub fn pooled_size(&self) -> usize {
        if self.has_projection() { self.projection_dim } else { self.hidden_size }
    }

    /// Where a prompt's pooled vector is taken from: the first token that ends it. Configurations of before
    /// transformers 4.31 name a wrong one, 2; there it is the largest id.
    pub fn end(&self, ids: &[u32]) -> usize {
        let end = match self.eos_token_id {
            2 => ids.iter().copied().max().unwrap_or(0),
            id => id,
        };
        ids.iter().position(|&id| id == end).unwrap_or(0)
    }

    fn act(&self) -> Result<Act, String> {
        Ok(match self.hidden_act.as_str() {
            "quick_gelu" => Act::GeluQuick,
            "gelu" => Act::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" => Act::GeluTanh,
            other => return Err(format!("hidden_act {other} is not supported")),
        })
    }

    /// The graph of N `prompts` of T `tokens` each, from `ids` `(N·T)` i32 to `hidden` `(N·T, C)` and, where wanted,
    /// `pooled` `(N, P)` at the rows `ends` `(N)` i32: `n · T +` [`Config::end`]. With `vectors`, the input of that name
    /// `(N·T, C)` is added to the tokens' own, of which `keep` `(N·T)` leaves out those where it is 0.
    ///
    /// Errors: the layer wanted does not exist, or there are more tokens than positions.
    pub fn encoder(&self, prompts: usize, tokens: usize, wanted: Wanted) -> Result<Graph, GraphError> {
        let c = self;
        let layers = c.num_hidden_layers;
        if !(1..=layers).contains(&wanted.layer) || !(1..=c.max_position_embeddings).contains(&tokens) {
            let message = format!(
                "a text encoder of {layers} layers and {} positions has no layer {} from its end, or not for {tokens} tokens",
                c.max_position_embeddings, wanted.layer
            );
            return Err(GraphError { message, at: None });
        }
        let rows = prompts * tokens;
        let g = Builder::stateless(rows);
        let p = g.path("text_model");
        let e = p / "embeddings";
        let mut x = g.ids().embed(e / "token_embedding", c.vocab_size, c.hidden_size); // (N·T, C)
        if wanted.vectors {
            let keep = g.input("keep", &[rows], DType::F32).reshape(&[rows, 1]);
            x = x * keep + g.input("vectors", &[rows, c.hidden_size], DType::F32);
        }
        let positions =
            (e / "position_embedding" / "weight").weight(&[c.max_position_embeddings, c.hidden_size]);
        let positions = positions.slice(0, 0, tokens).reshape(&[1, tokens, c.hidden_size]);
        x = (x.reshape(&[prompts, tokens, c.hidden_size]) + positions).reshape(&[rows, c.hidden_size]);
        let (last_norm, eps) = (p / "final_layer_norm", c.layer_norm_eps);

        let last = layers + 1 - wanted.layer;
        for layer in 0..if wanted.pooled { layers } else { last } {
            x = self.layer(x, p / "encoder" / "layers" / layer, prompts);
            if layer + 1 == last {
                g.output("hidden", if wanted.norm { x.layer_norm(last_norm, eps) } else { x });
            }
        }
        if wanted.pooled {
            let ends = g.input("ends", &[prompts], DType::I32);
            let mut y = x.gather(ends).layer_norm(last_norm, eps); // (N, C)
            if c.has_projection() {
                y = y.linear(g.path("text_projection"), c.projection_dim);
            }
            g.output("pooled", y);
        }
        g.finish()
    }

    fn layer<'g>(&self, x: X<'g>, p: Path<'g>, prompts: usize) -> X<'g> {
        let (c, h) = (self.hidden_size, self.num_attention_heads);
        let (rows, d, eps) = (x.dim(0), c / h, self.layer_norm_eps);
        let a = p / "self_attn";
        let y = x.layer_norm(p / "layer_norm1", eps);
        let [q, k, v] =
            ["q_proj", "k_proj", "v_proj"].map(|name| y.linear_bias(a / name, c).reshape(&[rows, h, d]));
        let how = Cross { scale: 1.0 / (d as f32).sqrt(), parts: prompts as u32, causal: true };
        let y = q.cross_attend(k, v, how, None).reshape(&[rows, c]);
        let x = x + y.linear_bias(a / "out_proj", c);

        let y = x.layer_norm(p / "layer_norm2", eps).linear_bias(p / "mlp" / "fc1", self.intermediate_size);
        x + y.act(self.act().expect("checked when parsed")).linear_bias(p / "mlp" / "fc2", c)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(eos: u32) -> Value {
        json!({"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "eos_token_id": eos})
    }

    #[test]
    fn a_prompt_ends_at_its_first_end() {
        let old = Config::parse(&config(2)).unwrap();
        let new = Config::parse(&config(49407)).unwrap();
        let ids = [49406, 320, 49407, 49407];
        assert_eq!((old.end(&ids), new.end(&ids)), (2, 2));
        assert_eq!((old.end(&[5, 9, 7, 9]), new.end(&[5, 9, 7, 9]), new.end(&[])), (1, 0, 0));
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let c = Config::parse(&config(2)).unwrap();
        let wanted = Wanted { layer: 3, norm: true, pooled: false, vectors: false };
        assert!(c.encoder(1, 77, wanted).unwrap_err().to_string().contains("no layer 3"));
        assert!(c.encoder(1, 78, Wanted { layer: 1, ..wanted }).is_err());
        assert!(c.encoder(1, 77, Wanted { layer: 2, pooled: true, vectors: true, ..wanted }).is_ok());
        for (field, value) in [
            ("num_attention_heads", json!(3)),
            ("hidden_act", json!("swish")),
            ("hidden_size", json!(0)),
            ("architectures", json!(["CLIPTextModelWithProjection"])),
        ] {
            let mut bad = config(2);
            bad[field] = value;
            assert!(Config::parse(&bad).is_err(), "{field}");
        }
    }
}
