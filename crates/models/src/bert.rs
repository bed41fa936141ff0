//! BERT (Devlin et al. 2019) and what shares its mathematics: MiniLM, BGE and E5; RoBERTa and XLM-RoBERTa, which count
//! positions from another number; DistilBERT, which has other names and no kinds of tokens.
//! After transformers' `modeling_bert.py`, `modeling_roberta.py` and `modeling_distilbert.py`.

use crate::{Architecture, Encoder, check_eps_of, check_sizes, read};
use hob_graph::{Act, Attend, Builder, DType, X};
use serde::Deserialize;
use serde_json::Value;

/// config.json, and how the checkpoint stores it.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)] // the fields are those of config.json
pub struct Config {
    pub model_type: String,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub vocab_size: usize,
    pub max_position_embeddings: usize,
    #[serde(default)]
    pub type_vocab_size: usize,
    #[serde(default = "default_eps")]
    pub layer_norm_eps: f32,
    pub hidden_act: Option<String>,
    pub pad_token_id: Option<usize>,
    /// numbers that the classifier gives; 0 without one
    #[serde(default)]
    pub num_labels: usize,
}

fn default_eps() -> f32 {
    1e-12
}

/// Where a checkpoint has its parts.
struct Names {
    layers: &'static str,
    query: &'static str,
    key: &'static str,
    value: &'static str,
    out: &'static str,
    attention_norm: &'static str,
    up: &'static str,
    down: &'static str,
    norm: &'static str,
    /// of the classifier, the layer before its last, and the last
    head: [&'static str; 2],
}

const BERT: Names = Names {
    layers: "encoder.layer",
    query: "attention.self.query",
    key: "attention.self.key",
    value: "attention.self.value",
    out: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    up: "intermediate.dense",
    down: "output.dense",
    norm: "output.LayerNorm",
    head: ["pooler.dense", "classifier"],
};

const ROBERTA: Names = Names { head: ["classifier.dense", "classifier.out_proj"], ..BERT };

const DISTILBERT: Names = Names {
    layers: "transformer.layer",
    query: "attention.q_lin",
    key: "attention.k_lin",
    value: "attention.v_lin",
    out: "attention.out_lin",
    attention_norm: "sa_layer_norm",
    up: "ffn.lin1",
    down: "ffn.lin2",
    norm: "output_layer_norm",
    head: ["pre_classifier", "classifier"],
};

/// What stands between the layers of an MLP.
#[derive(Clone, Copy)]
enum Between {
    Act(Act),
    Relu,
}

impl Config {
    /// Reads and checks a configuration.
    pub fn parse(config: &Value) -> Result<Architecture, String> {
        let c: Config = read(config)?;
        check_sizes(&[
            ("hidden_size", c.hidden_size),
            ("intermediate_size", c.intermediate_size),
            ("num_hidden_layers", c.num_hidden_layers),
            ("num_attention_heads", c.num_attention_heads),
            ("vocab_size", c.vocab_size),
            ("type_vocab_size", c.type_vocab_size.max(1)),
            ("num_labels", c.num_labels.max(1)),
            ("max_position_embeddings", c.max_position_embeddings),
        ])?;
        check_eps_of("layer_norm_eps", c.layer_norm_eps)?;
        if !c.hidden_size.is_multiple_of(c.num_attention_heads) {
            let (width, heads) = (c.hidden_size, c.num_attention_heads);
            return Err(format!("hidden_size {width} is no multiple of num_attention_heads {heads}"));
        }
        if c.max_position_embeddings <= c.first_position() {
            return Err(format!("max_position_embeddings is {}", c.max_position_embeddings));
        }
        // What would run, and be wrong, if it were passed over.
        match config["position_embedding_type"].as_str() {
            None | Some("absolute") => {}
            Some(other) => return Err(format!("position_embedding_type {other} is not supported")),
        }
        for field in ["is_decoder", "add_cross_attention"] {
            if config[field] == true {
                return Err(format!("{field} is not supported"));
            }
        }
        c.between()?;
        Ok(Architecture::Encoder(Box::new(c)))
    }

    fn names(&self) -> &'static Names {
        match self.model_type.as_str() {
            "distilbert" => &DISTILBERT,
            "roberta" | "xlm-roberta" => &ROBERTA,
            _ => &BERT,
        }
    }

    fn between(&self) -> Result<Between, String> {
        Ok(match self.hidden_act.as_deref() {
            None | Some("gelu") => Between::Act(Act::Gelu),
            Some("gelu_new" | "gelu_pytorch_tanh") => Between::Act(Act::GeluTanh),
            Some("silu" | "swish") => Between::Act(Act::Silu),
            Some("relu") => Between::Relu,
            Some(other) => return Err(format!("hidden_act {other} is not supported")),
        })
    }
}

impl Encoder for Config {
    fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn context(&self) -> usize {
        self.max_position_embeddings - self.first_position()
    }

    fn first_position(&self) -> usize {
        // GGUF calls all of them bert, and has cut off the rows of the table before.
        match self.model_type.as_str() {
            "roberta" | "xlm-roberta" => self.pad_token_id.unwrap_or(1).saturating_add(1),
            _ => 0,
        }
    }

    fn types(&self) -> usize {
        self.type_vocab_size
    }

    fn labels(&self) -> usize {
        self.num_labels
    }

    fn hidden<'g>(&self, g: &'g Builder) -> X<'g> {
        let (c, n) = (self, self.names());
        let (t, h, d, eps) =
            (g.tokens(), c.num_attention_heads, c.hidden_size / c.num_attention_heads, c.layer_norm_eps);
        let how = Attend {
            scale: 1.0 / (d as f32).sqrt(),
            window: None,
            softcap: None,
            causal: false,
            cache: None,
        };
        let between = c.between().expect("checked when parsed");

        let e = g.path("embeddings");
        let table =
            |ids: &str, name, rows| g.input(ids, &[t], DType::I32).embed(e / name, rows, c.hidden_size);
        let mut x = g.ids().embed(e / "word_embeddings", c.vocab_size, c.hidden_size); // (T, C)
        x = x + table("positions", "position_embeddings", c.max_position_embeddings);
        if c.type_vocab_size > 0 {
            x = x + table("types", "token_type_embeddings", c.type_vocab_size);
        }
        x = x.layer_norm(e / "LayerNorm", eps);
        for layer in 0..c.num_hidden_layers {
            let p = g.path(n.layers) / layer;
            let [q, k, v] = [n.query, n.key, n.value]
                .map(|name| x.linear_bias(p / name, c.hidden_size).reshape(&[t, h, d]));
            let y = q.attend(k, v, how).reshape(&[t, c.hidden_size]);
            x = (x + y.linear_bias(p / n.out, c.hidden_size)).layer_norm(p / n.attention_norm, eps);

            let y = x.linear_bias(p / n.up, c.intermediate_size);
            let y = match between {
                Between::Act(act) => y.act(act),
                Between::Relu => y.relu(),
            };
            x = (x + y.linear_bias(p / n.down, c.hidden_size)).layer_norm(p / n.norm, eps);
        }
        x.rows_asked() // (R, C)
    }

    fn scores<'g>(&self, g: &'g Builder, first: X<'g>) -> X<'g> {
        let [dense, out] = self.names().head.map(|name| g.path(name));
        let y = first.linear_bias(dense, self.hidden_size);
        let y = if self.model_type == "distilbert" { y.relu() } else { y.tanh() };
        y.linear_bias(out, self.num_labels) // (R, labels)
    }
}
