//! Qwen2 and Qwen2.5 (Yang et al. 2024): Llama with biases on queries, keys and values, and a window in later layers where
//! the configuration asks for one. After transformers' `modeling_qwen2.py`.

use crate::rope::{RopeScaling, inv_freq};
use crate::{Language, check_act, check_eps, check_sizes, read};
use hob_graph::{Act, Attend, Builder, RopeStyle, X};
use serde::Deserialize;
use serde_json::Value;

/// config.json.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)] // the fields are those of config.json
pub struct Config {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: Option<usize>,
    pub vocab_size: usize,
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f32,
    pub rope_theta: Option<f64>,
    #[serde(alias = "rope_parameters")]
    pub rope_scaling: Option<RopeScaling>,
    #[serde(flatten)]
    pub windows: Windows,
    pub hidden_act: Option<String>,
    #[serde(default)]
    pub tie_word_embeddings: bool,
}

/// Which layers of a Qwen see a window only.
#[derive(Clone, Debug, Default, Deserialize)]
#[allow(missing_docs)]
pub struct Windows {
    #[serde(default)]
    pub use_sliding_window: bool,
    pub sliding_window: Option<usize>,
    /// layers before this one see all
    pub max_window_layers: Option<usize>,
    pub layer_types: Option<Vec<String>>,
}

impl Windows {
    /// Refuses a list of layers that is not of so many.
    pub(crate) fn check(&self, layers: usize) -> Result<(), String> {
        match &self.layer_types {
            Some(types) if types.len() != layers => Err("layer_types has not one entry a layer".into()),
            _ if self.use_sliding_window && self.sliding_window == Some(0) => {
                Err("sliding_window is 0".into())
            }
            _ => Ok(()),
        }
    }

    /// The window of layer `i`.
    pub(crate) fn of(&self, i: usize) -> Option<usize> {
        let window = self.sliding_window.filter(|_| self.use_sliding_window)?;
        let sliding = match &self.layer_types {
            Some(types) => types[i] == "sliding_attention",
            None => i >= self.max_window_layers.unwrap_or(28),
        };
        sliding.then_some(window)
    }
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
            ("num_key_value_heads", c.num_key_value_heads),
            ("head_dim", c.head_dim()),
            ("vocab_size", c.vocab_size),
            ("max_position_embeddings", c.max_position_embeddings.min(1)), // none at all is refused
        ])?;
        check_eps(c.rms_norm_eps)?;
        check_act(c.hidden_act.as_deref())?;
        c.windows.check(c.num_hidden_layers)?;
        c.rope()?;
        Ok(c)
    }

    fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    fn rope(&self) -> Result<(Vec<f32>, f32), String> {
        let scaling = self.rope_scaling.as_ref();
        inv_freq(self.head_dim(), self.rope_theta, 10_000.0, scaling, self.max_position_embeddings)
    }
}

impl Language for Config {
    fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn context(&self) -> usize {
        self.max_position_embeddings
    }

    fn hidden<'g>(&self, g: &'g Builder) -> X<'g> {
        let c = self;
        let (t, h, k, d) = (g.tokens(), c.num_attention_heads, c.num_key_value_heads, c.head_dim());
        let (freq, mscale) = c.rope().expect("checked when parsed");
        let freq = g.constant(freq); // (D/2)

        let mut x = g.ids().embed(g.path("model.embed_tokens"), c.vocab_size, c.hidden_size); // (T, C)
        for layer in 0..c.num_hidden_layers {
            let how = Attend {
                scale: 1.0 / (d as f32).sqrt(),
                window: c.windows.of(layer),
                softcap: None,
                causal: true,
                cache: None,
            };
            let p = g.path("model.layers") / layer;
            let a = p / "self_attn";
            let y = x.rms_norm(p / "input_layernorm", c.rms_norm_eps, 0.0);
            let q = y.linear_bias(a / "q_proj", h * d).reshape(&[t, h, d]);
            let key = y.linear_bias(a / "k_proj", k * d).reshape(&[t, k, d]);
            let v = y.linear_bias(a / "v_proj", k * d).reshape(&[t, k, d]);
            let (q, key) =
                (q.rope(freq, RopeStyle::Halves, mscale), key.rope(freq, RopeStyle::Halves, mscale));
            let y = q.attend(key, v, how).reshape(&[t, h * d]); // (T, H·D)
            x = x + y.linear(a / "o_proj", c.hidden_size); // (T, C)

            let m = p / "mlp";
            let y = x.rms_norm(p / "post_attention_layernorm", c.rms_norm_eps, 0.0);
            let gate = y.linear(m / "gate_proj", c.intermediate_size);
            let up = y.linear(m / "up_proj", c.intermediate_size);
            x = x + gate.glu(Act::Silu, up).linear(m / "down_proj", c.hidden_size);
        }
        x.rows_asked().rms_norm(g.path("model.norm"), c.rms_norm_eps, 0.0) // (R, C)
    }

    fn logits<'g>(&self, g: &'g Builder, hidden: X<'g>) -> X<'g> {
        let head = if self.tie_word_embeddings { "model.embed_tokens" } else { "lm_head" };
        hidden.linear(g.path(head), self.vocab_size) // (R, V)
    }
}
