//! Llama (Touvron et al. 2023; Grattafiori et al. 2024), and what shares its mathematics: SmolLM2, Mistral.
//! After transformers' `modeling_llama.py` and `modeling_mistral.py`.

use crate::rope::{RopeScaling, inv_freq};
use crate::{Language, check_act, check_eps, check_sizes, read};
use hob_graph::{Act, Attend, Builder, Path, RopeStyle, X};
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
    pub num_key_value_heads: Option<usize>,
    pub head_dim: Option<usize>,
    pub vocab_size: usize,
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f32,
    pub rope_theta: Option<f64>,
    #[serde(alias = "rope_parameters")]
    pub rope_scaling: Option<RopeScaling>,
    pub sliding_window: Option<usize>,
    #[serde(default)]
    pub hidden_act: Option<String>,
    #[serde(default)]
    pub tie_word_embeddings: bool,
    #[serde(default)]
    pub attention_bias: bool,
    #[serde(default)]
    pub mlp_bias: bool,
    /// rotation pairs lie side by side in the rows of q and k, as GGUF stores them
    #[serde(default)]
    pub rope_interleaved: bool,
    /// the checkpoint has `rope_freqs.weight`, divisors of the frequencies (GGUF's form of "llama3" scaling)
    #[serde(default)]
    pub rope_freqs: bool,
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
            ("num_key_value_heads", c.kv_heads()),
            ("head_dim", c.head_dim()),
            ("vocab_size", c.vocab_size),
            ("max_position_embeddings", c.max_position_embeddings.min(1)), // none at all is refused
        ])?;
        check_eps(c.rms_norm_eps)?;
        check_act(c.hidden_act.as_deref())?;
        // What would run, and be wrong, if it were passed over.
        for (field, fine) in [("partial_rotary_factor", 1.0), ("num_local_experts", 0.0)] {
            match config[field].as_f64() {
                None => {}
                Some(x) if x == fine => {}
                Some(x) => return Err(format!("{field} {x} is not supported")),
            }
        }
        c.rope()?;
        Ok(c)
    }

    fn kv_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
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
        let (t, h, k, d) = (g.tokens(), c.num_attention_heads, c.kv_heads(), c.head_dim());
        let how = Attend {
            scale: 1.0 / (d as f32).sqrt(),
            window: c.sliding_window,
            softcap: None,
            causal: true,
            cache: None,
        };
        let style = if c.rope_interleaved { RopeStyle::Pairs } else { RopeStyle::Halves };
        let (freq, mscale) = c.rope().expect("checked when parsed");
        let mut freq = g.constant(freq); // (D/2)
        if c.rope_freqs {
            freq = freq / g.weight("rope_freqs.weight", &[d / 2]);
        }

        let mut x = g.ids().embed(g.path("model.embed_tokens"), c.vocab_size, c.hidden_size); // (T, C)
        for layer in 0..c.num_hidden_layers {
            let p = g.path("model.layers") / layer;
            let a = p / "self_attn";
            let y = x.rms_norm(p / "input_layernorm", c.rms_norm_eps, 0.0);
            let q = linear(y, a / "q_proj", h * d, c.attention_bias).reshape(&[t, h, d]);
            let key = linear(y, a / "k_proj", k * d, c.attention_bias).reshape(&[t, k, d]);
            let v = linear(y, a / "v_proj", k * d, c.attention_bias).reshape(&[t, k, d]);
            let (q, key) = (q.rope(freq, style, mscale), key.rope(freq, style, mscale));
            let y = q.attend(key, v, how).reshape(&[t, h * d]); // (T, H·D)
            x = x + linear(y, a / "o_proj", c.hidden_size, c.attention_bias); // (T, C)

            let m = p / "mlp";
            let y = x.rms_norm(p / "post_attention_layernorm", c.rms_norm_eps, 0.0);
            let gate = linear(y, m / "gate_proj", c.intermediate_size, c.mlp_bias);
            let up = linear(y, m / "up_proj", c.intermediate_size, c.mlp_bias);
            x = x + linear(gate.glu(Act::Silu, up), m / "down_proj", c.hidden_size, c.mlp_bias);
        }
        x.rows_asked().rms_norm(g.path("model.norm"), c.rms_norm_eps, 0.0) // (R, C)
    }

    fn logits<'g>(&self, g: &'g Builder, hidden: X<'g>) -> X<'g> {
        let head = if self.tie_word_embeddings { "model.embed_tokens" } else { "lm_head" };
        hidden.linear(g.path(head), self.vocab_size) // (R, V)
    }
}

fn linear<'g>(x: X<'g>, p: Path<'g>, out: usize, bias: bool) -> X<'g> {
    if bias { x.linear_bias(p, out) } else { x.linear(p, out) }
}
