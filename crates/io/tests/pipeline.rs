//! Picture models in every form: the same parts, the same tensors.

mod common;
#[path = "pipeline/edit.rs"]
mod edit;

use common::sentence;
use hob_dtype::DType;
use hob_io::{
    Safetensors, Tensor,
    gguf::Writer,
    pipeline::{Family, Part, Pipeline, Purpose, Role},
    safetensors::Header,
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

fn golden(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/pipeline").join(family)
}

/// A tensor for a file to write.
#[derive(Clone)]
struct Stored {
    dtype: DType,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

type File = BTreeMap<String, Stored>;

/// The table of names that the script wrote.
fn table(family: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(golden(family).join("names.json")).unwrap()).unwrap()
}

/// A part's tensors under the names of a single file, by the script's table.
fn original(family: &str, part: &str, prefix: bool) -> File {
    original_as(family, part, part, prefix)
}

fn original_as(family: &str, part: &str, section: &str, prefix: bool) -> File {
    let table = table(family);
    let folder = golden(family).join(part);
    let weights = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path());
    let weights = weights.into_iter().find(|p| p.extension().is_some_and(|e| e == "safetensors")).unwrap();
    let weights = Safetensors::open(&weights).unwrap();
    let mut file = File::new();
    let mut cut: BTreeMap<String, BTreeMap<u64, Stored>> = BTreeMap::new();
    for (name, place) in table[section]["names"].as_object().unwrap() {
        let find = |name: &str| weights.tensors().iter().find(|t| t.stored_name == name);
        // transformers' newest releases leave a prefix out.
        let tensor =
            find(name).or_else(|| find(name.strip_prefix("text_model.").unwrap_or_default())).unwrap();
        let mut stored = Stored {
            dtype: tensor.dtype,
            shape: tensor.shape.clone(),
            bytes: weights.bytes(tensor).to_vec(),
        };
        let before = if prefix { table[section]["prefix"].as_str().unwrap() } else { "" };
        let at = format!("{before}{}", place[0].as_str().unwrap());
        match &place[1] {
            Value::Array(rows) => {
                cut.entry(at).or_default().insert(rows[0].as_u64().unwrap(), stored);
                continue;
            }
            Value::String(how) if how == "turned" => {
                let (rows, columns) = (stored.shape[0], stored.shape[1]);
                let value = |r: usize, c: usize| &stored.bytes[(r * columns + c) * 2..][..2];
                let turned =
                    (0..columns).flat_map(|c| (0..rows).flat_map(move |r| value(r, c))).copied().collect();
                stored = Stored { shape: vec![columns, rows], bytes: turned, ..stored };
            }
            Value::String(how) if how == "swapped" => {
                let half = stored.bytes.len() / 2;
                stored.bytes.rotate_left(half);
            }
            Value::String(how) if how == "conv" => stored.shape.extend([1, 1]),
            how => assert!(how.is_null()),
        }
        file.insert(at, stored);
    }
    for (at, rows) in cut {
        let rows: Vec<Stored> = rows.into_values().collect();
        let mut shape = rows[0].shape.clone();
        shape[0] = rows.iter().map(|r| r.shape[0]).sum();
        file.insert(
            at,
            Stored {
                dtype: rows[0].dtype,
                shape,
                bytes: rows.iter().flat_map(|r| r.bytes.clone()).collect(),
            },
        );
    }
    file
}

fn parts_of(family: &str) -> Vec<String> {
    table(family).as_object().unwrap().keys().filter(|k| !k.contains('.')).cloned().collect()
}

fn whole(family: &str) -> File {
    parts_of(family).iter().flat_map(|part| original(family, part, true)).collect()
}

fn write_safetensors(path: &Path, file: &File, metadata: Option<Value>) {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    if let Some(metadata) = metadata {
        header.insert("__metadata__".into(), metadata);
    }
    for (name, t) in file {
        let begin = data.len();
        data.extend(&t.bytes);
        let entry = serde_json::json!({"dtype": t.dtype.name(), "shape": t.shape, "data_offsets": [begin, data.len()]});
        header.insert(name.clone(), entry);
    }
    let header = serde_json::to_vec(&header).unwrap();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()).unwrap();
}

/// As city96's converter writes: convolutions in rows of 256 where their values allow it, dimensions beside.
fn write_gguf(path: &Path, architecture: &str, file: &File) {
    let mut writer = Writer::new();
    if !architecture.is_empty() {
        writer.str("general.architecture", architecture);
    }
    for (name, t) in file {
        let n: usize = t.shape.iter().product();
        let reshaped = t.shape.len() == 4 && n.is_multiple_of(256);
        if reshaped {
            let sizes: Vec<i32> = t.shape.iter().map(|&d| d as i32).collect();
            writer.i32s(&format!("comfy.gguf.orig_shape.{name}"), &sizes);
        }
        let shape = if reshaped { vec![n / 256, 256] } else { t.shape.clone() };
        writer.tensor(name, t.dtype, &shape).unwrap();
    }
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut data = writer.begin(Vec::new()).unwrap();
    file.values().for_each(|t| data.tensor(&t.bytes).unwrap());
    fs::write(path, data.finish().unwrap()).unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}

/// Asserts that a part has the tensors of the folder's, value for value.
#[track_caller]
fn same_tensors(part: &Part, folder: &Part) {
    let names = |p: &Part| p.tensors.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(part), names(folder), "{:?}", part.role);
    for (name, t) in &part.tensors {
        let other = &folder.tensors[name];
        assert_eq!((&t.shape, t.dtype, t.len), (&other.shape, other.dtype, other.len), "{name}");
        assert_eq!(part.bytes(t), folder.bytes(other), "{name}");
    }
}

/// Asserts that what tensors tell agrees with what the folder states, wherever it states it.
#[track_caller]
fn same_config(part: &Part, folder: &Part) {
    for (key, value) in part.config.as_object().unwrap() {
        // Lists of one number are that number.
        let plain = |v: &Value| match v {
            Value::Array(list) if list.windows(2).all(|w| w[0] == w[1]) => list[0].clone(),
            v => v.clone(),
        };
        let stated = &folder.config[key];
        if !stated.is_null() {
            assert_eq!(plain(value), plain(stated), "{:?} {key}", part.role);
        }
    }
}

#[track_caller]
fn same(pipeline: &Pipeline, folder: &Pipeline) {
    pipeline.check().unwrap();
    assert_eq!((pipeline.family, pipeline.purpose), (folder.family, folder.purpose));
    let roles = |p: &Pipeline| p.parts().map(|p| p.role).collect::<Vec<_>>();
    assert_eq!(roles(pipeline), roles(folder));
    for part in pipeline.parts() {
        same_tensors(part, folder.part(part.role).unwrap());
        same_config(part, folder.part(part.role).unwrap());
    }
    for (key, value) in pipeline.scheduler.as_object().unwrap() {
        let stated = &folder.scheduler[key];
        assert!(stated.is_null() || stated == value, "{key}");
    }
}

const FAMILIES: [(&str, Family); 3] =
    [("sd15", Family::Sd1), ("sdxl", Family::Sdxl), ("flux", Family::FluxDev)];

#[test]
fn a_folder_opens_with_its_parts_under_their_names() {
    for (name, family) in FAMILIES {
        let p = Pipeline::open(&golden(name)).unwrap();
        p.check().unwrap();
        assert_eq!((p.family, p.purpose), (family, Purpose::Create));
        let denoiser = p.part(Role::Denoiser).unwrap();
        assert_eq!(denoiser.copied_bytes(), 0);
        assert!(denoiser.size_bytes() == 2 * denoiser.parameters() && denoiser.parameters() > 20_000);
        let clip = p.part(Role::TextEncoder).unwrap();
        assert!(clip.tensors.contains_key("text_model.embeddings.token_embedding.weight"));
        assert!(p.index["_class_name"].as_str().unwrap().ends_with("Pipeline"));
    }
}

#[test]
fn a_single_file_has_the_tensors_of_the_folder() {
    for (name, _) in FAMILIES {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let mut file = whole(name);
        // What such files hold beside the networks.
        let junk = Stored { dtype: DType::F32, shape: vec![2], bytes: vec![0; 8] };
        for stray in [
            "alphas_cumprod",
            "model_ema.diffusion_modelinput_blocks00weight",
            "text_encoders.t5xxl.logit_scale",
        ] {
            file.insert(stray.into(), junk.clone());
        }
        let clip = "cond_stage_model.transformer.text_model.embeddings.position_ids";
        if name == "sd15" {
            file.insert(clip.into(), junk);
        }
        write_safetensors(&path, &file, None);
        let (single, folder) = (Pipeline::open(&path).unwrap(), Pipeline::open(&golden(name)).unwrap());
        same(&single, &folder);
        // The few that cannot be views.
        let copied: usize = single.parts().map(Part::copied_bytes).sum();
        assert_eq!(
            copied,
            match name {
                "sd15" => 0,
                "sdxl" => 10 * 12 * 2,
                _ => (48 * 24 + 48) * 2,
            }
        );
    }
}

#[test]
fn a_gguf_has_the_tensors_of_the_folder_with_the_other_parts_around_it() {
    for (name, _) in FAMILIES {
        let denoiser = if name == "flux" { "transformer" } else { "unet" };
        let architecture = if name == "sd15" { "sd1" } else { name };
        let dir = tempfile::tempdir().unwrap();
        // ComfyUI's folders, with the denoiser in one of its own.
        let models = dir.path().join("models");
        let path = models.join("unet").join(name).join("denoiser-F16.gguf");
        write_gguf(&path, architecture, &original(name, denoiser, false));
        write_safetensors(&models.join("vae/some.safetensors"), &original(name, "vae", false), None);
        write_safetensors(&models.join("clip/l.safetensors"), &original(name, "text_encoder", false), None);
        if name == "sdxl" {
            write_safetensors(
                &models.join("text_encoders/g.safetensors"),
                &original(name, "text_encoder_2", false),
                None,
            );
        }
        if name == "flux" {
            let t5 = original_as(name, "text_encoder_2", "text_encoder_2.gguf", false);
            write_gguf(&models.join("text_encoders/t5.gguf"), "t5encoder", &t5);
        }
        // What else may lie there: another family's VAE, a picture, something broken.
        let other = if name == "flux" { "sd15" } else { "flux" };
        write_safetensors(&models.join("vae/other.safetensors"), &original(other, "vae", false), None);
        fs::write(models.join("vae/readme.txt"), "hello").unwrap();
        fs::write(models.join("vae/broken.safetensors"), "x").unwrap();
        same(&Pipeline::open(&path).unwrap(), &Pipeline::open(&golden(name)).unwrap());
    }
}

/// Files of stable-diffusion.cpp hold everything, with prefixes and no architecture; some keep the names of diffusers.
#[test]
fn other_forms_of_gguf_and_safetensors_open_too() {
    let folder = Pipeline::open(&golden("sdxl")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut file = whole("sdxl");
    for (name, t) in &mut file {
        // As convolutions, which SDXL has none of around its attention.
        if name.ends_with("proj_in.weight") || name.ends_with("proj_out.weight") && name.contains("diffusion")
        {
            t.shape.extend([1, 1]);
        }
    }
    let path = dir.path().join("all.gguf");
    write_gguf(&path, "", &file);
    same(&Pipeline::open(&path).unwrap(), &folder);

    // A UNet in diffusers' names beside the folder's subfolders.
    let all = dir.path().join("beside");
    copy(&golden("sdxl"), &all);
    fs::remove_file(all.join("model_index.json")).unwrap();
    fs::rename(all.join("unet/diffusion_pytorch_model.safetensors"), all.join("sdxl.safetensors")).unwrap();
    same(&Pipeline::open(&all.join("sdxl.safetensors")).unwrap(), &folder);
    same(&Pipeline::open(&all).unwrap(), &folder);
}

#[test]
fn variants_and_shards_of_a_folder_are_found() {
    let folder = Pipeline::open(&golden("sd15")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    copy(&golden("sd15"), dir.path());
    let unet = dir.path().join("unet");
    let plain = unet.join("diffusion_pytorch_model.safetensors");
    fs::rename(&plain, unet.join("diffusion_pytorch_model.fp16.safetensors")).unwrap();
    fs::write(unet.join("diffusion_pytorch_model.bin"), "PK\x03\x04").unwrap();
    fs::write(unet.join("diffusion_pytorch_model.non_ema.safetensors"), "not looked into").unwrap();
    same(&Pipeline::open(dir.path()).unwrap(), &folder);

    // Two shards and their index, by either of the two ways to name a variant.
    let weights = Safetensors::open(&unet.join("diffusion_pytorch_model.fp16.safetensors")).unwrap();
    let mut shards = [File::new(), File::new()];
    let mut map = serde_json::Map::new();
    for (i, t) in weights.tensors().iter().enumerate() {
        let stored = Stored { dtype: t.dtype, shape: t.shape.clone(), bytes: weights.bytes(t).to_vec() };
        shards[i % 2].insert(t.stored_name.clone(), stored);
        let shard = format!("diffusion_pytorch_model.fp16-0000{}-of-00002.safetensors", i % 2 + 1);
        map.insert(t.stored_name.clone(), shard.into());
    }
    for (i, shard) in shards.iter().enumerate() {
        let name = format!("diffusion_pytorch_model.fp16-0000{}-of-00002.safetensors", i + 1);
        write_safetensors(&unet.join(name), shard, None);
    }
    drop(weights);
    fs::remove_file(unet.join("diffusion_pytorch_model.fp16.safetensors")).unwrap();
    let index = serde_json::json!({"metadata": {}, "weight_map": map}).to_string();
    for name in [
        "diffusion_pytorch_model.safetensors.index.fp16.json",
        "diffusion_pytorch_model.fp16.safetensors.index.json",
    ] {
        fs::write(unet.join(name), &index).unwrap();
        same(&Pipeline::open(dir.path()).unwrap(), &folder);
        fs::remove_file(unet.join(name)).unwrap();
    }
}

#[test]
fn parts_can_be_given_and_must_fit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let mut file = whole("sd15");
    file.retain(|name, _| !name.starts_with("first_stage_model."));
    write_safetensors(&path, &file, None);
    let lacks = Pipeline::open(&path).unwrap();
    let said = sentence(lacks.check());
    assert!(said.contains("it lacks its VAE: neither the file nor any other in"), "{said}");
    assert!(said.contains(&dir.path().display().to_string()) && said.ends_with("give its file"), "{said}");

    // A whole model's VAE, a folder's, one of the right form in the old names of diffusers.
    let other = dir.path().join("elsewhere/other.safetensors");
    write_safetensors(&other, &whole("sd15"), None);
    for vae in [&other, &golden("sd15").join("vae")] {
        let whole = Pipeline::open_with(&path, &[(Role::Vae, vae.clone())]).unwrap();
        same(&whole, &Pipeline::open(&golden("sd15")).unwrap());
    }
    let old = dir.path().join("elsewhere/old.safetensors");
    let renamed = |name: &str| {
        let words = [("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")];
        words.iter().fold(name.to_owned(), |name, (new, old)| name.replace(new, old))
    };
    let folder = Pipeline::open(&golden("sd15")).unwrap();
    let vae = folder.part(Role::Vae).unwrap();
    let stored = |t: &Tensor| Stored { dtype: t.dtype, shape: t.shape.clone(), bytes: vae.bytes(t).to_vec() };
    write_safetensors(&old, &vae.tensors.iter().map(|(name, t)| (renamed(name), stored(t))).collect(), None);
    same(&Pipeline::open(&path).unwrap().with_part(Role::Vae, &old).unwrap(), &folder);

    for (vae, says) in [
        (golden("flux").join("vae"), "it has latent channels: 2, and this Stable Diffusion 1 needs 4"),
        (golden("sdxl").join("vae"), "its configuration is that of a SDXL, and this is a Stable Diffusion 1"),
        (golden("sd15").join("text_encoder"), "it holds no VAE, but a CLIP text encoder"),
        (golden("sd15").join("scheduler"), "there is no safetensors or GGUF file in it"),
        (dir.path().join("nowhere"), "cannot read"),
    ] {
        let said = sentence(Pipeline::open_with(&path, &[(Role::Vae, vae)]));
        assert!(said.contains(says), "{said}");
    }
    let text = golden("sdxl").join("text_encoder");
    let said = sentence(Pipeline::open(&path).unwrap().with_part(Role::TextEncoder, &text));
    assert!(said.contains("it has width 8, and this Stable Diffusion 1 needs 12"), "{said}");

    // One that cannot be read may be what is missed.
    fs::create_dir(dir.path().join("vae")).unwrap();
    let header = br#"{"decoder.conv_in.weight":{"dtype":"F8_E8M0","shape":[1],"data_offsets":[0,1]}}"#;
    let float8 = [&(header.len() as u64).to_le_bytes()[..], header, &[0]].concat();
    fs::write(dir.path().join("vae/float8.safetensors"), float8).unwrap();
    let said = sentence(Pipeline::open(&path).unwrap().check());
    assert!(said.contains("float8.safetensors") && said.contains("the dtype F8_E8M0"), "{said}");
    // Two that fit: not chosen for the person.
    write_safetensors(&dir.path().join("vae/a.safetensors"), &original("sd15", "vae", false), None);
    write_safetensors(&dir.path().join("vae/b.safetensors"), &original("sd15", "vae", false), None);
    let said = sentence(Pipeline::open(&path).unwrap().check());
    assert!(said.contains("several files hold one") && said.contains("b.safetensors); say which"), "{said}");
    assert!(sentence(Pipeline::open(&dir.path().join("vae"))).contains("it holds several models"));
    fs::remove_file(dir.path().join("vae/b.safetensors")).unwrap();
    Pipeline::open(&path).unwrap().check().unwrap();
}

#[test]
fn folders_that_lack_something_say_so() {
    let dir = tempfile::tempdir().unwrap();
    copy(&golden("sdxl"), dir.path());
    fs::rename(dir.path().join("text_encoder_2"), dir.path().join("elsewhere")).unwrap();
    let said = sentence(Pipeline::open(dir.path()).unwrap().check());
    assert!(
        said.contains("it lacks its text encoder (OpenCLIP bigG): its model_index.json lists it"),
        "{said}"
    );
    let given =
        Pipeline::open_with(dir.path(), &[(Role::TextEncoder2, dir.path().join("elsewhere"))]).unwrap();
    same(&given, &Pipeline::open(&golden("sdxl")).unwrap());

    let vae = dir.path().join("vae/diffusion_pytorch_model.safetensors");
    fs::rename(&vae, vae.with_extension("bin")).unwrap();
    let said = sentence(Pipeline::open(dir.path()));
    assert!(said.contains("vae") && said.contains("it holds a PyTorch pickle"), "{said}");
    let given = [(Role::Vae, golden("sdxl").join("vae")), (Role::TextEncoder2, dir.path().join("elsewhere"))];
    Pipeline::open_with(dir.path(), &given).unwrap().check().unwrap();

    fs::remove_dir_all(dir.path().join("unet")).unwrap();
    assert!(sentence(Pipeline::open_with(dir.path(), &given)).contains("lists no UNet or Flux transformer"));
    fs::write(dir.path().join("model_index.json"), "[]").unwrap();
    assert!(sentence(Pipeline::open(dir.path())).contains("it is no list of a model's parts"));
    fs::remove_file(dir.path().join("model_index.json")).unwrap();
    assert!(sentence(Pipeline::open(dir.path())).contains("there is no safetensors or GGUF file in it"));
}

#[test]
fn files_of_something_else_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    let one = |names: &[&str]| {
        let t = Stored { dtype: DType::F32, shape: vec![2, 2], bytes: vec![0; 16] };
        names.iter().map(|name| (name.to_string(), t.clone())).collect::<File>()
    };
    for (names, says) in [
        (
            &["model.diffusion_model.joint_blocks.0.x"][..],
            "it is a Stable Diffusion 3, and Hob makes pictures with",
        ),
        (&["lora_unet_down_blocks_0.lora_up.weight"], "it is a LoRA"),
        (&["model.layers.0.self_attn.q_proj.weight"], "it is a language model; use it with hob run"),
        (&["emb_params"], "it is a textual inversion"),
        (&["something"], "no part of a picture model that Hob knows"),
        (&["decoder.conv_in.weight", "decoder.mid.block_1.x"], "tensors"),
    ] {
        write_safetensors(&path, &one(names), None);
        let said = sentence(Pipeline::open(&path));
        assert!(
            said.contains(says) || says == "tensors" && said.contains("it holds a VAE but no denoiser"),
            "{said}"
        );
    }
    for (name, head) in [
        ("a.ckpt", &b"PK\x03\x04\x14\0\0\0\0\0"[..]),
        ("b.pt", b"\x80\x02}q\0X"),
        ("c.safetensors", b"PK\x03\x04 "),
    ] {
        fs::write(dir.path().join(name), head).unwrap();
        let said = sentence(Pipeline::open(&dir.path().join(name)));
        assert!(
            said.contains("it is a PyTorch pickle") && said.contains("safetensors.torch.save_file"),
            "{said}"
        );
    }
}

#[test]
fn damaged_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    // A matrix of three that is no three, one too small for the width, weights twice.
    let mut file = whole("flux");
    let qkv = "model.diffusion_model.double_blocks.0.img_attn.qkv.bias";
    file.insert(qkv.into(), Stored { dtype: DType::F32, shape: vec![71], bytes: vec![0; 284] });
    write_safetensors(&path, &file, None);
    assert!(sentence(Pipeline::open(&path)).contains("71 rows, which are no 3 equal parts"));
    let mut file = whole("flux");
    let linear = "model.diffusion_model.single_blocks.0.linear1.bias";
    file.insert(linear.into(), Stored { dtype: DType::F32, shape: vec![71], bytes: vec![0; 284] });
    write_safetensors(&path, &file, None);
    assert!(sentence(Pipeline::open(&path)).contains("71 rows for a width of 24"));
    let mut file = whole("sd15");
    file.remove("model.diffusion_model.input_blocks.1.0.in_layers.2.weight");
    write_safetensors(&path, &file, None);
    assert!(sentence(Pipeline::open(&path)).contains("tensors that every UNet has are missing from it"));
    write_safetensors(&path, &whole("sd15"), None);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert!(sentence(Pipeline::open(&path)).contains("is damaged"));
    fs::write(path.with_file_name("m.config.json"), "[1]").unwrap();
    fs::write(&path, &bytes).unwrap();
    assert!(sentence(Pipeline::open(&path)).contains("it is no configuration"));
}

/// What a file cannot say may be said beside it; what it can say is believed.
#[test]
fn what_is_beside_a_file_counts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    let mut file = whole("sd15");
    let open = |file: &File, metadata| {
        write_safetensors(&path, file, metadata);
        Pipeline::open(&path).unwrap()
    };
    let v = |p: &Pipeline| p.scheduler["prediction_type"] == "v_prediction";
    assert!(!v(&open(&file, None)));
    assert!(v(&open(&file, Some(serde_json::json!({"modelspec.prediction_type": "v"})))));
    fs::write(dir.path().join("m.yaml"), "model:\n  params:\n    parameterization: \"v\"\n").unwrap();
    assert!(v(&open(&file, None)));
    fs::remove_file(dir.path().join("m.yaml")).unwrap();
    for name in ["v_pred", "ztsnr"] {
        file.insert(name.into(), Stored { dtype: DType::F32, shape: vec![0], bytes: vec![] });
    }
    let p = open(&file, None);
    assert!(v(&p) && p.scheduler["rescale_betas_zero_snr"] == true);
    let says = serde_json::json!({
        "unet": {"attention_head_dim": 4}, "vae": {"scaling_factor": 0.5}, "scheduler": {"prediction_type": "sample"}
    });
    fs::write(dir.path().join("m.config.json"), says.to_string()).unwrap();
    let p = open(&file, None);
    assert_eq!(p.part(Role::Denoiser).unwrap().config["attention_head_dim"], 4);
    assert_eq!(p.part(Role::Vae).unwrap().config["scaling_factor"], 0.5);
    assert_eq!(p.scheduler["prediction_type"], "sample");
}

/// Made of SD 1.5's and SDXL's pieces: OpenCLIP under the prefix of SD 2, linear projections.
#[test]
fn stable_diffusion_2_drops_the_layer_that_it_never_uses() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    let mut file = whole("sd15");
    file.retain(|name, _| !name.starts_with("cond_stage_model."));
    for (name, t) in &mut file {
        if name.ends_with("proj_in.weight") || name.ends_with("proj_out.weight") && name.contains("diffusion")
        {
            t.shape.truncate(2);
        }
    }
    let open = |file: &File| {
        write_safetensors(&path, file, None);
        Pipeline::open(&path).unwrap()
    };
    let text = original("sdxl", "text_encoder_2", false);
    file.extend(text.iter().map(|(name, t)| (format!("cond_stage_model.model.{name}"), t.clone())));
    let p = open(&file);
    assert_eq!(p.family, Family::Sd2);
    p.check().unwrap();
    let clip = p.part(Role::TextEncoder).unwrap();
    assert_eq!((&clip.config["num_hidden_layers"], &clip.config["hidden_act"]), (&3.into(), &"gelu".into()));
    assert!(!clip.tensors.contains_key("text_projection.weight"));
    // ViT-H's 24 layers.
    for layer in 3..24 {
        for (name, t) in &text {
            if let Some(rest) = name.strip_prefix("transformer.resblocks.0.") {
                file.insert(
                    format!("cond_stage_model.model.transformer.resblocks.{layer}.{rest}"),
                    t.clone(),
                );
            }
        }
    }
    let p = open(&file);
    assert_eq!(p.part(Role::TextEncoder).unwrap().config["num_hidden_layers"], 23);
    let text = p.text(Role::TextEncoder).unwrap();
    assert!(text.skipped == 0 && text.normed && text.attended && !text.pooled);
    // The biases of the golden have a spread of 0.5, which is that of models of v.
    assert_eq!(p.scheduler["prediction_type"], "v_prediction");
    for (name, t) in &mut file {
        if name.ends_with("norm1.bias") && name.contains("output_blocks") {
            t.bytes.fill(0);
        }
    }
    assert_eq!(open(&file).scheduler["prediction_type"], "epsilon");
}

#[test]
fn purposes_show_in_channels() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    let conv = "model.diffusion_model.input_blocks.0.0.weight";
    for (channels, purpose) in [(9, Some(Purpose::Inpaint)), (8, Some(Purpose::Edit)), (7, None)] {
        let mut file = whole("sd15");
        let t = file.get_mut(conv).unwrap();
        *t = Stored { shape: vec![8, channels, 3, 3], bytes: vec![0; 8 * channels * 9 * 2], ..t.clone() };
        write_safetensors(&path, &file, None);
        match purpose {
            Some(purpose) => assert_eq!(Pipeline::open(&path).unwrap().purpose, purpose),
            None => assert!(
                sentence(Pipeline::open(&path)).contains("its denoiser takes 7 channels, where 4 are made")
            ),
        }
    }
}

/// A ControlNet is a UNet's first half in LDM's names; TAESD's decoder is numbered.
#[test]
fn control_nets_and_previews_are_parts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.safetensors");
    let mut file = File::new();
    for (name, t) in original("sd15", "unet", false) {
        if ["time_embed.", "input_blocks.", "middle_block."].iter().any(|p| name.starts_with(p)) {
            file.insert(format!("control_model.{name}"), t);
        }
    }
    let conv = |o: usize, i: usize, k: usize| Stored {
        dtype: DType::F16,
        shape: vec![o, i, k, k],
        bytes: vec![0; o * i * k * k * 2],
    };
    for n in 0..6 {
        file.insert(format!("control_model.zero_convs.{n}.0.weight"), conv(8, 8, 1));
    }
    file.insert("control_model.middle_block_out.0.weight".into(), conv(8, 8, 1));
    let hints = [(0, 4, 3), (2, 4, 4), (4, 6, 4), (6, 6, 6), (8, 7, 6), (10, 7, 7), (12, 9, 7), (14, 8, 9)];
    for (n, o, i) in hints {
        file.insert(format!("control_model.input_hint_block.{n}.weight"), conv(o, i, 3));
    }
    write_safetensors(&path, &file, None);
    let p = Pipeline::open(&golden("sd15")).unwrap().with_part(Role::ControlNet, &path).unwrap();
    let control = p.part(Role::ControlNet).unwrap();
    assert_eq!(control.config["conditioning_embedding_out_channels"], serde_json::json!([4, 6, 7, 9]));
    assert_eq!(
        control.config["down_block_types"],
        p.part(Role::Denoiser).unwrap().config["down_block_types"]
    );
    for name in [
        "controlnet_down_blocks.5",
        "controlnet_mid_block",
        "controlnet_cond_embedding.conv_out",
        "controlnet_cond_embedding.blocks.5",
        "mid_block.resnets.1.conv2",
    ] {
        assert!(control.tensors.contains_key(&format!("{name}.weight")), "{name}");
    }
    assert!(sentence(Pipeline::open(&path)).contains("it holds a ControlNet but no denoiser"));

    let tae = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tae");
    let p = Pipeline::open(&golden("sd15")).unwrap().with_part(Role::Preview, &tae).unwrap();
    let preview = p.part(Role::Preview).unwrap();
    let weights = Safetensors::open(&tae.join("diffusion_pytorch_model.safetensors")).unwrap();
    let mut file = File::new();
    for t in weights.tensors() {
        if let Some((n, rest)) = t.stored_name.strip_prefix("decoder.layers.").and_then(|n| n.split_once('.'))
        {
            let stored = Stored { dtype: t.dtype, shape: t.shape.clone(), bytes: weights.bytes(t).to_vec() };
            file.insert(format!("{}.{rest}", n.parse::<usize>().unwrap() + 1), stored);
        }
    }
    let path = dir.path().join("taesd_decoder.safetensors");
    write_safetensors(&path, &file, None);
    let p = Pipeline::open(&golden("sd15")).unwrap().with_part(Role::Preview, &path).unwrap();
    let decoder = p.part(Role::Preview).unwrap();
    assert_eq!(decoder.config["num_decoder_blocks"], preview.config["num_decoder_blocks"]);
    assert_eq!(decoder.config["decoder_block_out_channels"], preview.config["decoder_block_out_channels"]);
    for (name, t) in &decoder.tensors {
        assert_eq!(decoder.bytes(t), preview.bytes(&preview.tensors[name]));
    }
}

/// The fuzzers begin with files that get as far as a pipeline, by their headers alone.
#[test]
fn headers_alone_open_too() {
    for (seed, family) in [("sd15_small", Family::Sd1), ("flux", Family::FluxDev)] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/pipeline").join(seed);
        let bytes = fs::read(&path).unwrap();
        let header = Header::parse(&bytes, bytes.len() as u64, &path).unwrap();
        let weights = Safetensors::from_headers(vec![header], None).unwrap();
        let p = Pipeline::from_safetensors(weights, &path).unwrap();
        assert_eq!(p.family, family);
        assert!(p.parts().all(|part| !part.has_data() && part.tensors.len() > 20));
        assert!(sentence(p.need(Role::TextEncoder2)).contains("it is not in the file"));
    }
}
