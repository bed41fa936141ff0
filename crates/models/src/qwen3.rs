//! Qwen3 (Yang et al. 2025), dense and with experts: a norm on every query and key, and no biases. After transformers'
//! `modeling_qwen3.py` and `modeling_qwen3_moe.py`.

use crate::qwen2::Windows;
use crate::rope::{RopeScaling, inv_freq};
use crate::{Language, check_act, check_eps, check_experts, check_sizes, read};
use hob_graph::{Act, Attend, Builder, Path, RopeStyle, X};
use serde::Deserialize;
use serde_json::Value;

/// config.json, and how the checkpoint stores it.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)] // the fields are those of config.json
pub struct Config {
    pub hidden_size: usize,
    #[serde(default)]
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
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
    #[serde(default)]
    pub attention_bias: bool,
    /// none where the model is dense
    #[serde(skip)]
    pub experts: Option<Experts>,
}

/// The part of config.json that is about experts.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Experts {
    pub num_local_experts: usize,
    pub num_experts_per_tok: usize,
    pub moe_intermediate_size: usize,
    #[serde(default)]
    pub norm_topk_prob: bool,
    #[serde(default = "every")]
    pub decoder_sparse_step: usize,
    #[serde(default)]
    pub mlp_only_layers: Vec<usize>,
    /// the checkpoint has the matrices of all experts in one tensor, as GGUF does
    #[serde(default)]
    pub experts_stacked: bool,
}

fn every() -> usize {
    1
}

impl Config {
    /// Reads and checks the configuration of a dense model.
    pub fn parse(config: &Value) -> Result<Config, String> {
        let c: Config = read(config)?;
        c.check()?;
        check_sizes(&[("intermediate_size", c.intermediate_size)])?;
        Ok(c)
    }

    /// Reads and checks the configuration of a model with experts.
    pub fn parse_moe(config: &Value) -> Result<Config, String> {
        let mut c: Config = read(config)?;
        c.check()?;
        if c.windows.use_sliding_window {
            return Err("use_sliding_window with experts is not supported".into());
        }
        check_experts(config)?;
        let experts: Experts = read(config)?;
        check_sizes(&[
            ("moe_intermediate_size", experts.moe_intermediate_size),
            ("decoder_sparse_step", experts.decoder_sparse_step),
        ])?;
        if (0..c.num_hidden_layers).any(|i| !experts.has(i)) {
            check_sizes(&[("intermediate_size", c.intermediate_size)])?;
        }
        c.experts = Some(experts);
        Ok(c)
    }

    fn check(&self) -> Result<(), String> {
        check_sizes(&[
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
            ("vocab_size", self.vocab_size),
            ("max_position_embeddings", self.max_position_embeddings.min(1)), // none at all is refused
        ])?;
        check_eps(self.rms_norm_eps)?;
        check_act(self.hidden_act.as_deref())?;
        self.windows.check(self.num_hidden_layers)?;
        self.rope().map(drop)
    }

    fn rope(&self) -> Result<(Vec<f32>, f32), String> {
        let scaling = self.rope_scaling.as_ref();
        inv_freq(self.head_dim, self.rope_theta, 10_000.0, scaling, self.max_position_embeddings)
    }

    fn mlp<'g>(&self, x: X<'g>, m: Path<'g>) -> X<'g> {
        let gate = x.linear(m / "gate_proj", self.intermediate_size);
        let up = x.linear(m / "up_proj", self.intermediate_size);
        gate.glu(Act::Silu, up).linear(m / "down_proj", self.hidden_size)
    }
}

impl Experts {
    /// Whether layer `i` has experts.
    fn has(&self, i: usize) -> bool {
        (i + 1).is_multiple_of(self.decoder_sparse_step.max(1)) && !self.mlp_only_layers.contains(&i)
    }

    fn mlp<'g>(&self, x: X<'g>, m: Path<'g>) -> X<'g> {
        let p = x.linear(m / "gate", self.num_local_experts).softmax(); // (T, E)
        let shares = p.top_k(self.num_experts_per_tok) * p;
        let shares = if self.norm_topk_prob { shares / shares.sum(1) } else { shares };
        let names = ["gate_proj", "up_proj", "down_proj"];
        x.experts(shares, m / "experts", names, self.moe_intermediate_size, Act::Silu, self.experts_stacked)
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
        let (freq, mscale) = c.rope().expect("checked when parsed");
        let (freq, eps) = (g.constant(freq), c.rms_norm_eps); // (D/2)

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
            let y = x.rms_norm(p / "input_layernorm", eps, 0.0);
            let q = linear(y, a / "q_proj", h * d, c.attention_bias).reshape(&[t, h, d]);
            let key = linear(y, a / "k_proj", k * d, c.attention_bias).reshape(&[t, k, d]);
            let v = linear(y, a / "v_proj", k * d, c.attention_bias).reshape(&[t, k, d]);
            let (q, key) = (q.rms_norm(a / "q_norm", eps, 0.0), key.rms_norm(a / "k_norm", eps, 0.0));
            let (q, key) =
                (q.rope(freq, RopeStyle::Halves, mscale), key.rope(freq, RopeStyle::Halves, mscale));
            let y = q.attend(key, v, how).reshape(&[t, h * d]); // (T, H·D)
            x = x + linear(y, a / "o_proj", c.hidden_size, c.attention_bias); // (T, C)

            let y = x.rms_norm(p / "post_attention_layernorm", eps, 0.0);
            x = x + match c.experts.as_ref().filter(|e| e.has(layer)) {
                Some(experts) => experts.mlp(y, p / "mlp"),
                None => c.mlp(y, p / "mlp"),
            };
        }
        x.rows_asked().rms_norm(g.path("model.norm"), eps, 0.0) // (R, C)
    }

    fn logits<'g>(&self, g: &'g Builder, hidden: X<'g>) -> X<'g> {
        let head = if self.tie_word_embeddings { "model.embed_tokens" } else { "lm_head" };
        hidden.linear(g.path(head), self.vocab_size) // (R, V)
    }
}

fn linear<'g>(x: X<'g>, p: Path<'g>, out: usize, bias: bool) -> X<'g> {
    if bias { x.linear_bias(p, out) } else { x.linear(p, out) }
}
