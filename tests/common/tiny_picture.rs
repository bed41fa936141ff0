//! A whole picture model of Stable Diffusion 1's kind that makes a picture in a moment: the golden one of `pipeline/sd15`,
//! with a text encoder by chance that reads CLIP's own words.

use hob_models::{clip, t5, unet, vae};
use serde_json::{Map, Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// Channels of the text encoder, which are the golden UNet's.
const HIDDEN: usize = 12;
const LAYERS: usize = 2;

/// Sides of a picture where nothing is asked for.
pub const SIDE: usize = 32;

/// Writes the model as a diffusers folder, which is made.
pub fn sd15(folder: &Path) {
    copy(&golden("pipeline/sd15"), folder);
    let _ = fs::remove_file(folder.join("names.json"));
    change(&folder.join("text_encoder/config.json"), |config| {
        config["vocab_size"] = json!(49408);
        config["max_position_embeddings"] = json!(77);
        config["num_hidden_layers"] = json!(LAYERS);
        (config["bos_token_id"], config["eos_token_id"]) = (json!(49406), json!(49407));
    });
    safetensors(&folder.join("text_encoder/model.safetensors"), &encoder());
    // The golden VAE halves sides once.
    change(&folder.join("unet/config.json"), |config| config["sample_size"] = json!(SIDE / 2));
}

/// The same with the golden denoiser that follows instructions (InstructPix2Pix).
pub fn pix2pix(folder: &Path) {
    sd15(folder);
    let (golden, unet) = (golden("edit/pix2pix"), folder.join("unet"));
    copy(&golden, &unet);
    change(&unet.join("config.json"), |config| config["sample_size"] = json!(SIDE / 2));
}

/// A Flux.1 of the golden denoiser `name`, whose latents stand for 8 × 8 pixels; its text encoders are by chance and read the
/// real ones' words.
pub fn flux(folder: &Path, name: &str) {
    copy(&golden("pipeline/flux"), folder);
    let _ = fs::remove_file(folder.join("names.json"));
    for (part, own) in [("transformer", name), ("vae", "vae8")] {
        copy(&golden("edit").join(own), &folder.join(part));
    }
    let text = |part: &str, with: &dyn Fn(&mut Value)| {
        let path = folder.join(part).join("config.json");
        change(&path, with);
        (folder.join(part).join("model.safetensors"), read(&path))
    };
    let (path, config) = text("text_encoder", &|config| {
        config["vocab_size"] = json!(49408);
        config["max_position_embeddings"] = json!(77);
        (config["bos_token_id"], config["eos_token_id"]) = (json!(49406), json!(49407));
    });
    let wanted = clip::Wanted { layer: 1, norm: true, pooled: true, vectors: false };
    let graph = clip::Config::parse(&config).unwrap().encoder(1, 77, wanted).unwrap();
    safetensors(&path, &by_chance(&[graph]));
    let (path, config) = text("text_encoder_2", &|config| config["vocab_size"] = json!(32128));
    safetensors(&path, &by_chance(&[t5::Config::parse(&config).unwrap().encoder(1, 8).unwrap()]));
}

/// Says that the folder of a Flux is Kontext's.
pub fn is_kontext(folder: &Path) {
    change(&folder.join("model_index.json"), |index| index["_class_name"] = json!("FluxKontextPipeline"));
}

/// A golden's folder.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

/// Sides of the larger model's pictures.
pub const LARGER: usize = 256;

/// The same with a denoiser and a VAE by chance that are large enough for memory to be measured. The VAE halves sides three
/// times.
pub fn larger(folder: &Path) {
    sd15(folder);
    let unet = folder.join("unet");
    change(&unet.join("config.json"), |config| {
        config["block_out_channels"] = json!([80, 160]);
        config["sample_size"] = json!(LARGER / 8);
    });
    let size = unet::Size { batch: 1, height: 8, width: 8, text: 77, pooled: 0, residuals: false };
    let graph = unet::Config::parse(&read(&unet.join("config.json"))).unwrap().graph(size).unwrap();
    safetensors(&unet.join("diffusion_pytorch_model.safetensors"), &by_chance(&[graph]));
    let vae = folder.join("vae");
    change(&vae.join("config.json"), |config| {
        config["block_out_channels"] = json!([48, 64, 64, 64]);
        config["norm_num_groups"] = json!(8);
        config["down_block_types"] = ["DownEncoderBlock2D"; 4].as_slice().into();
        config["up_block_types"] = ["UpDecoderBlock2D"; 4].as_slice().into();
    });
    let config = vae::Config::parse(&read(&vae.join("config.json"))).unwrap();
    let graphs = [config.encoder(1, 8, 8).unwrap(), config.decoder(1, 1, 1).unwrap()];
    safetensors(&vae.join("diffusion_pytorch_model.safetensors"), &by_chance(&graphs));
}

/// Weights of graphs, such that numbers neither grow nor vanish.
fn by_chance(graphs: &[hob_engine::Graph]) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let mut seed = 7u64;
    let mut each = |shape: &[usize], norm: bool| -> Vec<f32> {
        let scale = (3.0 / shape[1..].iter().product::<usize>() as f32).sqrt();
        let number = |_| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let x = (seed >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
            if shape.len() > 1 { x * scale } else { 0.2 * x + f32::from(norm) }
        };
        (0..shape.iter().product()).map(number).collect()
    };
    let weights = graphs.iter().flat_map(|g| &g.weights);
    weights
        .map(|w| {
            let norm = w.shape.len() == 1 && w.name.ends_with("weight");
            (w.name.clone(), w.shape.to_vec(), each(&w.shape, norm))
        })
        .collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn change(path: &Path, with: impl FnOnce(&mut Value)) {
    let mut value = read(path);
    with(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// Names, shapes and values of CLIP's text model.
fn encoder() -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let mut all = Vec::new();
    let mut seed = 1u64;
    let mut add = |name: String, shape: &[usize], scale: f32, mean: f32| {
        let value = |_| {
            // xorshift, and the upper bits as a number in -1..1
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            mean + scale * ((seed >> 40) as f32 / (1u64 << 23) as f32 - 1.0)
        };
        let values = (0..shape.iter().product()).map(value).collect();
        all.push((format!("text_model.{name}"), shape.to_vec(), values));
    };
    add("embeddings.token_embedding.weight".into(), &[49408, HIDDEN], 1.0, 0.0);
    add("embeddings.position_embedding.weight".into(), &[77, HIDDEN], 0.3, 0.0);
    let mut norm = |name: String| {
        add(format!("{name}.weight"), &[HIDDEN], 0.2, 1.0);
        add(format!("{name}.bias"), &[HIDDEN], 0.1, 0.0);
    };
    norm("final_layer_norm".into());
    for i in 0..LAYERS {
        norm(format!("encoder.layers.{i}.layer_norm1"));
        norm(format!("encoder.layers.{i}.layer_norm2"));
    }
    for i in 0..LAYERS {
        let attend =
            ["q_proj", "k_proj", "v_proj", "out_proj"].map(|p| (format!("self_attn.{p}"), HIDDEN, HIDDEN));
        let mlp = [("mlp.fc1".into(), 36, HIDDEN), ("mlp.fc2".into(), HIDDEN, 36)];
        for (part, rows, columns) in attend.into_iter().chain(mlp) {
            add(format!("encoder.layers.{i}.{part}.weight"), &[rows, columns], 0.4, 0.0);
            add(format!("encoder.layers.{i}.{part}.bias"), &[rows], 0.1, 0.0);
        }
    }
    all
}

/// Writes tensors of 32-bit floats as a safetensors file.
pub fn safetensors(path: &Path, tensors: &[(String, Vec<usize>, Vec<f32>)]) {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, shape, values) in tensors {
        let start = data.len();
        data.extend(values.iter().flat_map(|x| x.to_le_bytes()));
        let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(name.clone(), entry);
    }
    let header = Value::Object(header).to_string();
    let header = format!("{header:<width$}", width = header.len().next_multiple_of(8));
    let length = (header.len() as u64).to_le_bytes();
    fs::write(path, [&length[..], header.as_bytes(), &data].concat()).unwrap();
}
