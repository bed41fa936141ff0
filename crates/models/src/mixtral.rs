//! Mixtral (Jiang et al. 2024): Mistral with experts. After transformers' `modeling_mixtral.py`.

use crate::rope::{RopeScaling, inv_freq};
use crate::{Language, check_act, check_eps, check_experts, check_sizes, read};
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
    pub head_dim: Option<usize>,
    pub vocab_size: usize,
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f32,
    pub rope_theta: Option<f64>,
    #[serde(alias = "rope_parameters")]
    pub rope_scaling: Option<RopeScaling>,
    pub sliding_window: Option<usize>,
    pub hidden_act: Option<String>,
    #[serde(default)]
    pub tie_word_embeddings: bool,
    pub num_local_experts: usize,
    pub num_experts_per_tok: usize,
    /// the checkpoint has the matrices of all experts in one tensor, as GGUF does
    #[serde(default)]
    pub experts_stacked: bool,
    /// rotation pairs lie side by side in the rows of q and k, as GGUF stores them
    #[serde(default)]
    pub rope_interleaved: bool,
}

impl Config {
    /// Reads and checks a configuration.
    pub fn parse(config: &Value) -> Result<Config, String> {
        check_experts(config)?;
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
        c.rope()?;
        Ok(c)
    }

    fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    fn rope(&self) -> Result<(Vec<f32>, f32), String> {
        let scaling = self.rope_scaling.as_ref();
        inv_freq(self.head_dim(), self.rope_theta, 1_000_000.0, scaling, self.max_position_embeddings)
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
        let how = Attend {
            scale: 1.0 / (d as f32).sqrt(),
            window: c.sliding_window,
            softcap: None,
            causal: true,
            cache: None,
        };
        let style = if c.rope_interleaved { RopeStyle::Pairs } else { RopeStyle::Halves };
        let (freq, mscale) = c.rope().expect("checked when parsed");
        let freq = g.constant(freq); // (D/2)

        let mut x = g.ids().embed(g.path("model.embed_tokens"), c.vocab_size, c.hidden_size); // (T, C)
        for layer in 0..c.num_hidden_layers {
            let p = g.path("model.layers") / layer;
            let a = p / "self_attn";
            let y = x.rms_norm(p / "input_layernorm", c.rms_norm_eps, 0.0);
            let q = y.linear(a / "q_proj", h * d).reshape(&[t, h, d]);
            let key = y.linear(a / "k_proj", k * d).reshape(&[t, k, d]);
            let v = y.linear(a / "v_proj", k * d).reshape(&[t, k, d]);
            let (q, key) = (q.rope(freq, style, mscale), key.rope(freq, style, mscale));
            let y = q.attend(key, v, how).reshape(&[t, h * d]); // (T, H·D)
            x = x + y.linear(a / "o_proj", c.hidden_size); // (T, C)

            let m = p / "block_sparse_moe";
            let y = x.rms_norm(p / "post_attention_layernorm", c.rms_norm_eps, 0.0);
            let p = y.linear(m / "gate", c.num_local_experts).softmax(); // (T, E)
            let shares = p.top_k(c.num_experts_per_tok) * p;
            let (shares, names) = (shares / shares.sum(1), ["w1", "w3", "w2"]);
            x = x + y.experts(
                shares,
                m / "experts",
                names,
                c.intermediate_size,
                Act::Silu,
                c.experts_stacked,
            );
        }
        x.rows_asked().rms_norm(g.path("model.norm"), c.rms_norm_eps, 0.0) // (R, C)
    }

    fn logits<'g>(&self, g: &'g Builder, hidden: X<'g>) -> X<'g> {
        let head = if self.tie_word_embeddings { "model.embed_tokens" } else { "lm_head" };
        hidden.linear(g.path(head), self.vocab_size) // (R, V)
    }
}
