//! Gemma 3, the language part (Gemma Team 2025): local and global layers in turn, norms around both halves of a
//! layer and on every query and key. After transformers' `modeling_gemma3.py`.

use crate::rope::{RopeScaling, inv_freq};
use crate::{Language, check_eps, check_sizes, read};
use hob_graph::{Act, Attend, Builder, RopeStyle, X};
use serde::Deserialize;
use serde_json::Value;

/// config.json, and how the checkpoint stores it.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)] // the fields are those of config.json
pub struct Config {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    #[serde(default = "default_head_dim")]
    pub head_dim: usize,
    pub vocab_size: usize,
    pub max_position_embeddings: usize,
    #[serde(default = "default_eps")]
    pub rms_norm_eps: f32,
    pub rope_theta: Option<f64>,
    pub rope_local_base_freq: Option<f64>,
    pub rope_scaling: Option<RopeScaling>,
    pub rope_parameters: Option<RopeByLayer>,
    pub sliding_window: usize,
    pub sliding_window_pattern: Option<usize>,
    pub layer_types: Option<Vec<String>>,
    pub query_pre_attn_scalar: Option<f32>,
    pub attn_logit_softcapping: Option<f32>,
    pub final_logit_softcapping: Option<f32>,
    /// what is added to a norm's weight: 1 in the original, 0 where the checkpoint (GGUF) has it added already
    #[serde(default = "default_offset")]
    pub norm_weight_offset: f32,
}

/// Rotary settings by kind of layer, as transformers 5 writes them.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct RopeByLayer {
    pub full_attention: Option<RopeScaling>,
    pub sliding_attention: Option<RopeScaling>,
}

fn default_head_dim() -> usize {
    256
}

fn default_eps() -> f32 {
    1e-6
}

fn default_offset() -> f32 {
    1.0
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
            ("head_dim", c.head_dim),
            ("vocab_size", c.vocab_size),
            ("max_position_embeddings", c.max_position_embeddings.min(1)), // none at all is refused
            ("sliding_window", c.sliding_window),
        ])?;
        check_eps(c.rms_norm_eps)?;
        if c.layer_types.as_ref().is_some_and(|t| t.len() != c.num_hidden_layers) {
            return Err("layer_types has not one entry a layer".into());
        }
        c.rope(true)?;
        c.rope(false)?;
        Ok(c)
    }

    /// Whether layer `i` sees a window only.
    fn is_local(&self, i: usize) -> bool {
        match &self.layer_types {
            Some(types) => types[i] == "sliding_attention",
            None => !(i + 1).is_multiple_of(self.sliding_window_pattern.unwrap_or(6).max(1)),
        }
    }

    fn rope(&self, local: bool) -> Result<(Vec<f32>, f32), String> {
        let by_layer = self.rope_parameters.as_ref();
        let newer = by_layer
            .and_then(|r| if local { r.sliding_attention.as_ref() } else { r.full_attention.as_ref() });
        let older = if local { None } else { self.rope_scaling.as_ref() };
        let base = if local { self.rope_local_base_freq.or(Some(10_000.0)) } else { self.rope_theta };
        let theta = newer.and_then(|s| s.rope_theta).or(base);
        inv_freq(self.head_dim, theta, 1_000_000.0, newer.or(older), self.max_position_embeddings)
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
        let (t, h, k, d) = (g.tokens(), c.num_attention_heads, c.num_key_value_heads, c.head_dim);
        let (eps, offset) = (c.rms_norm_eps, c.norm_weight_offset);
        let [local, global] = [true, false].map(|local| {
            let (freq, mscale) = c.rope(local).expect("checked when parsed");
            (g.constant(freq), mscale) // (D/2)
        });

        let embed = g.path("model.embed_tokens");
        let mut x = g.ids().embed(embed, c.vocab_size, c.hidden_size) * (c.hidden_size as f32).sqrt(); // (T, C)
        for layer in 0..c.num_hidden_layers {
            let is_local = c.is_local(layer);
            let (freq, mscale) = if is_local { local } else { global };
            let how = Attend {
                scale: 1.0 / c.query_pre_attn_scalar.unwrap_or(d as f32).sqrt(),
                window: is_local.then_some(c.sliding_window),
                softcap: c.attn_logit_softcapping,
                causal: true,
                cache: None,
            };
            let p = g.path("model.layers") / layer;
            let a = p / "self_attn";
            let y = x.rms_norm(p / "input_layernorm", eps, offset);
            let q = y.linear(a / "q_proj", h * d).reshape(&[t, h, d]).rms_norm(a / "q_norm", eps, offset);
            let key = y.linear(a / "k_proj", k * d).reshape(&[t, k, d]).rms_norm(a / "k_norm", eps, offset);
            let v = y.linear(a / "v_proj", k * d).reshape(&[t, k, d]);
            let (q, key) =
                (q.rope(freq, RopeStyle::Halves, mscale), key.rope(freq, RopeStyle::Halves, mscale));
            let y = q.attend(key, v, how).reshape(&[t, h * d]).linear(a / "o_proj", c.hidden_size); // (T, C)
            x = x + y.rms_norm(p / "post_attention_layernorm", eps, offset);

            let m = p / "mlp";
            let y = x.rms_norm(p / "pre_feedforward_layernorm", eps, offset);
            let gate = y.linear(m / "gate_proj", c.intermediate_size);
            let up = y.linear(m / "up_proj", c.intermediate_size);
            let y = gate.glu(Act::GeluTanh, up).linear(m / "down_proj", c.hidden_size);
            x = x + y.rms_norm(p / "post_feedforward_layernorm", eps, offset);
        }
        x.rows_asked().rms_norm(g.path("model.norm"), eps, offset) // (R, C)
    }

    fn logits<'g>(&self, g: &'g Builder, hidden: X<'g>) -> X<'g> {
        let logits = hidden.linear(g.path("model.embed_tokens"), self.vocab_size); // (R, V)
        match self.final_logit_softcapping {
            Some(cap) => (logits * (1.0 / cap)).tanh() * cap,
            None => logits,
        }
    }
}
