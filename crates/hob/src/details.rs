//! What a model's header says about it.

use std::path::Path;

use hob_io::onnx::adm::Adm;
use hob_io::pipeline::Role;
use hob_io::{Checkpoint, Pipeline};
use serde::Serialize;
use serde_json::Value;

use crate::{naming, terminal};

/// The short facts of `hob list`.
#[derive(Clone, Debug, Serialize)]
pub struct Details {
    /// Such as `llama`.
    pub architecture: String,
    /// Number of weights.
    pub parameters: u64,
    /// Such as `Q4_K_M`; by the file's name, else by the header, else the format of most bytes.
    pub quantization: String,
    /// The longest context it was trained for, in tokens.
    pub context: Option<u64>,
}

impl Details {
    /// Reads a model's header.
    pub fn read(path: &Path) -> Result<Details, hob_io::Error> {
        Checkpoint::open(path).map(|c| Details::of(&c))
    }

    /// Reads the headers of a picture model's files: its family, all its weights, and the format of most of its denoiser.
    pub fn picture(path: &Path) -> Result<Details, hob_io::Error> {
        Details::of_pipeline(&Pipeline::open(path)?)
    }

    /// From an open picture model.
    pub fn of_pipeline(pipeline: &Pipeline) -> Result<Details, hob_io::Error> {
        let mut formats = std::collections::BTreeMap::<String, usize>::new();
        for tensor in pipeline.need(Role::Denoiser)?.tensors.values() {
            *formats.entry(tensor.dtype.to_string()).or_default() += tensor.shape.iter().product::<usize>();
        }
        let most = formats.into_iter().max_by_key(|(_, n)| *n);
        Ok(Details {
            architecture: pipeline.family.to_string(),
            parameters: pipeline.parts().map(|p| p.parameters()).sum(),
            quantization: most.map_or("none".into(), |(format, _)| format),
            context: None,
        })
    }

    /// Reads a terrain model.
    pub fn terrain(path: &Path) -> Result<Details, hob_io::Error> {
        let adm = Adm::open(path)?;
        let most = adm.tensors.values().max_by_key(|t| t.len);
        Ok(Details {
            architecture: "adm".into(),
            parameters: adm.parameters(),
            quantization: most.map_or("none".into(), |t| t.dtype.to_string()),
            context: None,
        })
    }

    /// From an open checkpoint.
    pub fn of(c: &Checkpoint) -> Details {
        Details {
            architecture: terminal::clean(c.model_type().unwrap_or("unknown")),
            parameters: c.parameters(),
            quantization: quantization(c),
            context: c.config["max_position_embeddings"].as_u64(),
        }
    }
}

fn quantization(c: &Checkpoint) -> String {
    let file = c.path.file_name().unwrap_or_default().to_string_lossy();
    let by_type = || file_type(c.gguf()?.get("general.file_type")?.u64()?).map(String::from);
    let by_name = naming::quantization(&file).filter(|_| naming::is_gguf(&file));
    let by_bytes = || {
        let formats = c.formats();
        let most = formats.iter().max_by_key(|(_, (_, bytes))| *bytes);
        most.map_or("none".into(), |(d, _)| d.to_string())
    };
    by_name.or_else(by_type).unwrap_or_else(by_bytes)
}

/// `general.file_type`: llama.cpp's `llama_ftype` (include/llama.h).
fn file_type(number: u64) -> Option<&'static str> {
    Some(match number {
        0 => "F32",
        1 => "F16",
        2 => "Q4_0",
        3 => "Q4_1",
        7 => "Q8_0",
        8 => "Q5_0",
        9 => "Q5_1",
        10 => "Q2_K",
        11 => "Q3_K_S",
        12 => "Q3_K_M",
        13 => "Q3_K_L",
        14 => "Q4_K_S",
        15 => "Q4_K_M",
        16 => "Q5_K_S",
        17 => "Q5_K_M",
        18 => "Q6_K",
        19 => "IQ2_XXS",
        20 => "IQ2_XS",
        21 => "Q2_K_S",
        22 => "IQ3_XS",
        23 => "IQ3_XXS",
        24 => "IQ1_S",
        25 => "IQ4_NL",
        26 => "IQ3_S",
        27 => "IQ3_M",
        28 => "IQ2_S",
        29 => "IQ2_M",
        30 => "IQ4_XS",
        31 => "IQ1_M",
        32 => "BF16",
        36 => "TQ1_0",
        37 => "TQ2_0",
        38 => "MXFP4_MOE",
        _ => return None,
    })
}

/// The configuration's numbers that a person may want, in the order they are shown.
pub fn dimensions(config: &Value) -> Vec<(&'static str, u64)> {
    let fields = [
        ("layers", "num_hidden_layers"),
        ("hidden size", "hidden_size"),
        ("attention heads", "num_attention_heads"),
        ("key and value heads", "num_key_value_heads"),
        ("feed-forward size", "intermediate_size"),
        ("experts", "num_local_experts"),
        ("experts of a token", "num_experts_per_tok"),
        ("size of an expert", "moe_intermediate_size"),
        ("vocabulary", "vocab_size"),
    ];
    fields.iter().filter_map(|(name, field)| Some((*name, config[field].as_u64()?))).collect()
}
