//! Which format each weight has in a GGUF file of llama.cpp's usual mixes.
//!
//! After `src/llama-quant.cpp` of llama.cpp (commit 007dbbf3, `tensor_allows_quantization`,
//! `llama_tensor_get_type_impl`, `tensor_type_fallback`), without an importance matrix: with one, Q4_0 and Q5_0 keep the
//! `down_proj` of the first eighth of the layers in Q4_1 and Q5_1, which makes a file 0.2 to 0.5% larger.

use std::fmt;

use hob_engine::DType;
use serde_json::Value;

use crate::near::plain;

/// A mix of formats, as GGUF files are named after it.
#[allow(missing_docs, non_camel_case_types)] // the field's names
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mix {
    Q2_K,
    Q3_K_S,
    Q3_K_M,
    Q3_K_L,
    Q4_0,
    Q4_1,
    Q4_K_S,
    Q4_K_M,
    Q5_0,
    Q5_1,
    Q5_K_S,
    Q5_K_M,
    Q6_K,
    Q8_0,
    F16,
    BF16,
}

use Mix::*;

impl Mix {
    /// All of them, from the smallest kind of file to the largest.
    pub const ALL: [Mix; 16] = [
        Q2_K, Q3_K_S, Q3_K_M, Q3_K_L, Q4_0, Q4_1, Q4_K_S, Q4_K_M, Q5_0, Q5_1, Q5_K_S, Q5_K_M, Q6_K, Q8_0,
        F16, BF16,
    ];

    /// The field's name, such as `Q4_K_M`.
    pub fn name(self) -> &'static str {
        match self {
            Q2_K => "Q2_K",
            Q3_K_S => "Q3_K_S",
            Q3_K_M => "Q3_K_M",
            Q3_K_L => "Q3_K_L",
            Q4_0 => "Q4_0",
            Q4_1 => "Q4_1",
            Q4_K_S => "Q4_K_S",
            Q4_K_M => "Q4_K_M",
            Q5_0 => "Q5_0",
            Q5_1 => "Q5_1",
            Q5_K_S => "Q5_K_S",
            Q5_K_M => "Q5_K_M",
            Q6_K => "Q6_K",
            Q8_0 => "Q8_0",
            F16 => "F16",
            BF16 => "BF16",
        }
    }

    /// The mix that `text` names, in any spelling: `q4_k_m`, `Q4KM`.
    pub fn parse(text: &str) -> Option<Mix> {
        Mix::ALL.into_iter().find(|mix| plain(mix.name()) == plain(text))
    }

    /// The format of weights that no rule singles out.
    pub fn base(self) -> DType {
        match self {
            Q2_K => DType::Q2_K,
            Q3_K_S | Q3_K_M | Q3_K_L => DType::Q3_K,
            Q4_0 => DType::Q4_0,
            Q4_1 => DType::Q4_1,
            Q4_K_S | Q4_K_M => DType::Q4_K,
            Q5_0 => DType::Q5_0,
            Q5_1 => DType::Q5_1,
            Q5_K_S | Q5_K_M => DType::Q5_K,
            Q6_K => DType::Q6_K,
            Q8_0 => DType::Q8_0,
            F16 => DType::F16,
            BF16 => DType::BF16,
        }
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What of a model the rules look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// layers
    pub layers: usize,
    /// heads that share one key head
    pub group: usize,
    /// experts a layer, 0 where there are none
    pub experts: usize,
    /// whether the embedding is the output too
    pub tied: bool,
    /// whether llama.cpp takes it for a 70B: Llama's or Qwen2's architecture with 80 layers and shared keys
    pub is_70b: bool,
}

impl Facts {
    /// Those of `config`, a config.json's content.
    pub fn of(config: &Value) -> Facts {
        let n = |field: &str| config[field].as_u64().unwrap_or(0) as usize;
        let heads = n("num_attention_heads").max(1);
        let group = heads / config["num_key_value_heads"].as_u64().unwrap_or(heads as u64).max(1) as usize;
        let experts = n("num_experts").max(n("num_local_experts"));
        let kind = config["model_type"].as_str().unwrap_or_default();
        let tied = config["tie_word_embeddings"].as_bool().unwrap_or(kind.starts_with("gemma"));
        let has_70b = matches!(kind, "llama" | "mistral" | "qwen2");
        let layers = n("num_hidden_layers");
        Facts { layers, group, experts, tied, is_70b: has_70b && layers == 80 && group > 1 }
    }
}

/// What a weight does, as far as the rules tell weights apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Embedding,
    Output,
    Query,
    Key,
    Value,
    Qkv,
    AttentionOutput,
    Down,
    /// chooses among experts
    Router,
    Norm,
    Other,
}

/// The role of `name` in the original checkpoint, and its layer. Experts have the role of the matrix they are, whether
/// they stand alone (`experts.3.down_proj`, `experts.3.w2`) or in one tensor.
fn role(name: &str) -> (Role, Option<usize>) {
    let path = name.strip_suffix(".weight").unwrap_or(name);
    let layer = path.split('.').skip_while(|part| *part != "layers").nth(1).and_then(|n| n.parse().ok());
    let role = match path.rsplit('.').next().unwrap_or_default() {
        "embed_tokens" => Role::Embedding,
        "lm_head" => Role::Output,
        "q_proj" => Role::Query,
        "k_proj" => Role::Key,
        "v_proj" => Role::Value,
        "qkv_proj" => Role::Qkv,
        "o_proj" => Role::AttentionOutput,
        "down_proj" | "w2" => Role::Down,
        "gate" | "router" => Role::Router,
        last if last.ends_with("norm") => Role::Norm,
        _ => Role::Other,
    };
    (role, layer)
}

/// How the weight `name` of the original checkpoint, of the dimensions `shape`, is stored in a file of `mix`.
pub fn dtype(mix: Mix, name: &str, shape: &[usize], facts: &Facts) -> DType {
    let (role, layer) = role(name);
    let vector = shape.iter().filter(|&&n| n != 1).count() < 2;
    if vector || matches!(role, Role::Router | Role::Norm) {
        return DType::F32;
    }
    let base = mix.base();
    if !base.is_quantized() {
        return base;
    }
    let row = shape.last().copied().unwrap_or(1);
    let (i, n) = (layer.unwrap_or(0), facts.layers);
    // Layers at both ends, and every third between.
    let more = i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2;
    let eight = facts.experts == 8; // Mixtral, to whom small attention weights are cheap
    let wanted = match role {
        Role::Embedding if !facts.tied => base,
        Role::Embedding | Role::Output if !row.is_multiple_of(base.block()) => DType::Q8_0,
        Role::Embedding | Role::Output if base != DType::Q8_0 => DType::Q6_K,
        Role::Value | Role::Key if eight => DType::Q8_0,
        Role::Value | Role::Qkv => {
            let wanted = match mix {
                Q2_K if facts.group >= 4 => DType::Q4_K,
                Q2_K => DType::Q3_K,
                Q3_K_M if i < 2 => DType::Q5_K,
                Q3_K_M => DType::Q4_K,
                Q3_K_L => DType::Q5_K,
                Q4_K_M | Q5_K_M if more => DType::Q6_K,
                Q4_K_S if i < 4 => DType::Q5_K,
                _ => base,
            };
            let small = matches!(wanted, DType::Q3_K | DType::Q4_K);
            if facts.is_70b && small { DType::Q5_K } else { wanted }
        }
        Role::Down => match mix {
            Q2_K => DType::Q3_K,
            Q3_K_M if i < n / 16 => DType::Q5_K,
            Q3_K_M => DType::Q4_K,
            Q3_K_L => DType::Q5_K,
            Q4_K_M | Q5_K_M if more => DType::Q6_K,
            Q4_K_S if i < n / 8 => DType::Q5_K,
            _ => base,
        },
        Role::AttentionOutput if eight => match mix {
            Q2_K | Q3_K_S | Q3_K_M | Q4_K_S | Q4_K_M => DType::Q5_K,
            _ => base,
        },
        Role::AttentionOutput => match mix {
            Q2_K => DType::Q3_K,
            Q3_K_M => DType::Q4_K,
            Q3_K_L => DType::Q5_K,
            _ => base,
        },
        _ => base,
    };
    fallback(wanted, row)
}

/// `wanted`, or what is stored in its place where rows of `row` values are no whole blocks of it.
fn fallback(wanted: DType, row: usize) -> DType {
    let whole = |d: DType| row.is_multiple_of(d.block());
    let other = match wanted {
        d if whole(d) => return d,
        DType::Q2_K | DType::Q3_K => DType::Q4_0,
        DType::Q4_K => DType::Q5_0,
        DType::Q5_K => DType::Q5_1,
        DType::Q6_K => DType::Q8_0,
        _ => DType::F16,
    };
    if whole(other) { other } else { DType::F16 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fit::subject::Subject;
    use crate::fit::zoo;

    /// Formats of weights as llama.cpp itself chose them, for the small models of `dev/golden_quants.py`.
    #[test]
    fn mixes_are_llama_cpps() {
        let golden = include_str!("../../../../tests/golden/quants/golden.json");
        let golden: Value = serde_json::from_str(golden).unwrap();
        let mut compared = 0;
        for (model, facts) in golden["models"].as_object().unwrap() {
            let (config, weights) = (&facts["config"], facts["weights"].as_object().unwrap());
            let facts_of = Facts::of(config);
            for (mix, names) in facts["mixes"].as_object().unwrap() {
                let mix = Mix::parse(mix).unwrap();
                for (name, dims) in weights {
                    let shape: Vec<usize> = serde_json::from_value(dims.clone()).unwrap();
                    let runs =
                        names[name].as_str().unwrap().split(' ').map(|run| run.split_once('*').unwrap());
                    let expected = runs.flat_map(|(format, n)| vec![format; n.parse().unwrap()]);
                    for (layer, expected) in expected.enumerate() {
                        let name = name.replace("{}", &layer.to_string());
                        let ours = dtype(mix, &name, &shape, &facts_of).name();
                        assert_eq!(ours, expected, "{name} of {model} in {mix}");
                        compared += 1;
                    }
                }
            }
        }
        assert!(compared > 30_000, "{compared}");
    }

    /// Every tensor of the real files.
    #[test]
    fn real_files_are_mixed_so() {
        for (file, row, mix) in [
            ("gemma-3-270m-q4_k_m.gguf", "gemma-3-270m", Q4_K_M),
            ("SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m", Q4_1),
        ] {
            let gguf = hob_io::Gguf::open(&crate::real::model(file)).unwrap();
            let row = zoo::find(row).unwrap();
            let outline = Subject::imagined(row, mix).unwrap().outline;
            let graph = outline.graph(1, 1).unwrap();
            let architecture = gguf.architecture().unwrap();
            let mut sum = 0;
            for t in gguf.tensors() {
                let name = hob_io::names::from_gguf(architecture, &t.stored_name);
                let w = &graph.weights[graph.weight(&name).unwrap().0 as usize];
                assert_eq!((w.dtype, &w.shape[..]), (t.dtype, &t.shape[..]), "{name}");
                sum += w.bytes() as u64;
            }
            assert_eq!(
                sum,
                outline.stored_bytes().unwrap() as u64,
                "{file} has weights that the graph has not, or the reverse"
            );
        }
    }

    /// Names and dimensions of all weights, without a graph: what the rows whose architecture is not built yet are held
    /// by. Experts are one tensor, as GGUF has them.
    fn weights(c: &Value) -> Vec<(String, Vec<usize>)> {
        let n = |field: &str| c[field].as_u64().unwrap_or(0) as usize;
        let kind = c["model_type"].as_str().unwrap();
        let (h, inner, d) = (n("hidden_size"), n("intermediate_size"), n("head_dim"));
        let (q, kv) = (n("num_attention_heads") * d, n("num_key_value_heads") * d);
        let experts = n("num_experts") + n("num_local_experts");
        let mut all =
            vec![("model.embed_tokens".to_owned(), vec![n("vocab_size"), h]), ("model.norm".into(), vec![h])];
        if c["tie_word_embeddings"] == false {
            all.push(("lm_head".into(), vec![n("vocab_size"), h]));
        }
        for i in 0..n("num_hidden_layers") {
            let mut add =
                |name: &str, dims: &[usize]| all.push((format!("model.layers.{i}.{name}"), dims.to_vec()));
            add("input_layernorm", &[h]);
            add("post_attention_layernorm", &[h]);
            if kind == "gemma3_text" {
                add("pre_feedforward_layernorm", &[h]);
                add("post_feedforward_layernorm", &[h]);
            }
            for (name, rows, columns) in [("q", q, h), ("k", kv, h), ("v", kv, h), ("o", h, q)] {
                add(&format!("self_attn.{name}_proj.weight"), &[rows, columns]);
                if kind == "qwen2" && name != "o" {
                    add(&format!("self_attn.{name}_proj.bias"), &[rows]);
                }
            }
            if matches!(kind, "gemma3_text" | "qwen3" | "qwen3_moe") {
                add("self_attn.q_norm", &[d]);
                add("self_attn.k_norm", &[d]);
            }
            if experts > 0 {
                let inner = if n("moe_intermediate_size") > 0 { n("moe_intermediate_size") } else { inner };
                add("mlp.gate.weight", &[experts, h]);
                add("mlp.experts.gate_proj.weight", &[experts, inner, h]);
                add("mlp.experts.up_proj.weight", &[experts, inner, h]);
                add("mlp.experts.down_proj.weight", &[experts, h, inner]);
            } else {
                add("mlp.gate_proj.weight", &[inner, h]);
                add("mlp.up_proj.weight", &[inner, h]);
                add("mlp.down_proj.weight", &[h, inner]);
            }
        }
        all
    }

    /// Lengths of files on the hub, as public catalogues of models list them; of bartowski's, Qwen's and ggml-org's
    /// repositories, with Q4_0 only where it was made without an importance matrix.
    #[test]
    fn files_are_as_long_as_those_published() {
        /// These Mixtral files are of 2024, when what chooses among experts was kept in F16.
        const ROUTER: u64 = 2 * 8 * 4096 * 32;
        const PUBLISHED: [(&str, Mix, u64); 65] = [
            ("gemma-3-270m", Q2_K, 237_079_584),
            ("gemma-3-270m", Q3_K_S, 236_710_944),
            ("gemma-3-270m", Q4_K_M, 253_115_424),
            ("gemma-3-270m", Q5_K_S, 257_999_904),
            ("gemma-3-270m", Q8_0, 291_546_144),
            ("gemma-3-270m", F16, 542_835_488),
            ("qwen3-0.6b", Q4_K_M, 396_705_472),
            ("qwen3-0.6b", BF16, 1_198_182_848),
            ("gemma-3-1b", Q4_K_M, 806_058_496),
            ("llama-3.2-1b", Q3_K_L, 732_524_672),
            ("llama-3.2-1b", Q4_K_S, 775_647_360),
            ("llama-3.2-1b", Q4_K_M, 807_694_464),
            ("llama-3.2-1b", Q5_K_S, 892_563_584),
            ("llama-3.2-1b", Q5_K_M, 911_503_488),
            ("llama-3.2-1b", Q6_K, 1_021_800_576),
            ("llama-3.2-1b", Q8_0, 1_321_083_008),
            ("llama-3.2-1b", F16, 2_479_595_360),
            ("qwen3-1.7b", Q4_K_M, 1_107_409_472),
            ("qwen2.5-3b", Q2_K, 1_274_756_256),
            ("qwen2.5-3b", Q3_K_M, 1_590_475_936),
            ("qwen2.5-3b", Q4_K_M, 1_929_903_264),
            ("qwen2.5-3b", Q8_0, 3_285_476_512),
            ("llama-3.2-3b", Q2_K, 1_363_935_680),
            ("llama-3.2-3b", Q3_K_M, 1_687_159_232),
            ("llama-3.2-3b", Q4_K_M, 2_019_377_696),
            ("gemma-3-4b", Q4_K_M, 2_489_757_856),
            ("qwen3-4b", Q4_K_M, 2_497_280_256),
            ("mistral-7b-v0.3", Q2_K, 2_722_877_600),
            ("mistral-7b-v0.3", Q3_K_M, 3_522_941_088),
            ("mistral-7b-v0.3", Q4_K_M, 4_372_811_936),
            ("mistral-7b-v0.3", Q5_K_M, 5_136_175_264),
            ("mistral-7b-v0.3", Q6_K, 5_947_248_800),
            ("qwen2.5-7b", Q2_K, 3_015_940_032),
            ("qwen2.5-7b", Q3_K_M, 3_808_391_104),
            ("qwen2.5-7b", Q4_0, 4_431_390_720),
            ("qwen2.5-7b", Q4_K_M, 4_683_073_536),
            ("qwen2.5-7b", Q5_K_M, 5_444_831_232),
            ("qwen2.5-7b", Q8_0, 8_098_525_184),
            ("llama-3.1-8b", Q2_K, 3_179_136_416),
            ("llama-3.1-8b", Q3_K_M, 4_018_922_912),
            ("llama-3.1-8b", Q4_K_M, 4_920_739_232),
            ("llama-3.1-8b", Q5_K_M, 5_732_992_416),
            ("llama-3.1-8b", Q6_K, 6_596_011_424),
            ("llama-3.1-8b", Q8_0, 8_540_775_840),
            ("qwen3-8b", Q4_K_M, 5_027_783_488),
            ("gemma-3-12b", Q4_K_M, 7_300_574_976),
            ("mistral-nemo-12b", Q2_K, 4_791_051_392),
            ("mistral-nemo-12b", Q4_K_M, 7_477_208_192),
            ("qwen3-14b", Q4_K_M, 9_001_752_960),
            ("qwen2.5-14b", Q4_K_M, 8_988_110_976),
            ("qwen2.5-14b", Q4_0, 8_517_725_856),
            ("mistral-small-24b", Q3_K_M, 11_474_081_472),
            ("mistral-small-24b", Q4_K_M, 14_333_908_672),
            ("mistral-small-24b", Q6_K, 19_345_938_112),
            ("gemma-3-27b", Q4_K_M, 16_546_688_736),
            ("qwen3-30b-a3b", Q3_K_M, 14_711_847_488),
            ("qwen3-30b-a3b", Q4_K_M, 18_556_686_912),
            ("qwen3-30b-a3b", Q8_0, 32_483_932_736),
            ("qwen3-32b", Q4_K_M, 19_762_150_048),
            ("qwen2.5-32b", Q4_K_M, 19_851_336_576),
            ("mixtral-8x7b", Q2_K, 17_309_173_632 + ROUTER),
            ("mixtral-8x7b", Q4_K_M, 28_446_410_624 + ROUTER),
            ("mixtral-8x7b", Q8_0, 49_624_262_528 + ROUTER),
            ("llama-3.3-70b", Q2_K, 26_375_113_632),
            ("llama-3.3-70b", Q4_K_M, 42_520_398_752),
        ];
        for (name, mix, published) in PUBLISHED {
            let row = zoo::find(name).unwrap();
            let facts = Facts::of(&row.config);
            let listed = weights(&row.config).into_iter().map(|(name, dims)| {
                let values: usize = dims.iter().product();
                dtype(mix, &name, &dims, &facts).bytes(values).unwrap() as u64
            });
            let data: u64 = listed.sum();
            let off = (data + row.tokenizer_bytes) as f64 / published as f64 - 1.0;
            assert!(off.abs() < 0.001, "{name} in {mix}: {data} bytes of weights, {published} published");
            assert!(data < published, "{name} in {mix}: {data} bytes of weights in a file of {published}");
            if zoo::built().any(|built| built.name == row.name) {
                let outline = Subject::imagined(row, mix).unwrap().outline;
                assert_eq!(outline.stored_bytes().unwrap() as u64, data, "{name} in {mix}");
            }
        }
    }

    #[test]
    fn mixes_are_read_in_any_spelling() {
        assert_eq!(Mix::parse("q4_k_m"), Some(Q4_K_M));
        assert_eq!(Mix::parse("bf16"), Some(BF16));
        assert_eq!(Mix::parse("Q4_K"), None);
        assert!(Mix::ALL.into_iter().all(|mix| Mix::parse(mix.name()) == Some(mix)));
    }
}
