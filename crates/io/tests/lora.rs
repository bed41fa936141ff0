//! LoRA files of picture models in all their forms, against what diffusers and peft make of them; and what is no such file.

use hob_io::lora::{Part, Role, Update};
use hob_io::{Lora, Safetensors};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

type Weights = BTreeMap<String, Vec<usize>>;

fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/picture-lora").join(file)
}

fn read(file: &str) -> Value {
    serde_json::from_slice(&std::fs::read(golden(file)).unwrap()).unwrap()
}

/// The weights of a tiny model.
fn weights(model: &str) -> Weights {
    serde_json::from_value(read("shapes.json")[model].clone()).unwrap()
}

/// The parts of a model in order: denoiser, first and second text encoder.
fn parts(weights: &[Weights]) -> Vec<Part<'_>> {
    let roles = [Role::Denoiser, Role::Text, Role::Text2];
    let part = |(role, weights)| Part { role, weights, shift_first: false };
    roles.into_iter().zip(weights).map(part).collect()
}

/// The whole difference, by the vector that the golden's script takes.
fn probe(update: &Update) -> Vec<f64> {
    let a = update.a.values();
    let columns = a.len() / update.a.dims[0];
    let by: Vec<f64> = (0..columns).map(|j| ((j * 37) % 101) as f64 / 101.0 - 0.5).collect();
    let dot = |row: &[f32], by: &[f64]| row.iter().zip(by).map(|(x, y)| f64::from(*x) * y).sum::<f64>();
    let mut out: Vec<f64> = a.chunks_exact(columns).map(|row| dot(row, &by)).collect();
    if let Some(b) = &update.b {
        assert_eq!(b.dims[1], update.a.dims[0]);
        out = b.values().chunks_exact(b.dims[1]).map(|row| dot(row, &out)).collect();
    }
    out.iter().map(|x| x * f64::from(update.scale)).collect()
}

fn differs(ours: &[f64], theirs: &[f32]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let most = theirs.iter().fold(0.0, |m: f64, x| m.max(f64::from(x.abs())));
    ours.iter().zip(theirs).map(|(a, b)| (a - f64::from(*b)).abs()).fold(0.0, f64::max) / most
}

#[test]
fn every_form_adds_what_diffusers_adds() {
    let (facts, arrays) = (read("golden.json"), Safetensors::open(&golden("golden.safetensors")).unwrap());
    let array = |name: &str| {
        let t =
            arrays.tensors().iter().find(|t| t.stored_name == name).unwrap_or_else(|| panic!("no {name}"));
        let mut values = vec![0.0; t.elements()];
        t.dtype.decode(arrays.bytes(t), &mut values);
        values
    };
    let files = facts["files"].as_object().unwrap();
    assert!(files.len() >= 12);
    for (file, facts) in files {
        let models: Vec<String> = serde_json::from_value(facts["models"].clone()).unwrap();
        let weights: Vec<Weights> = models.iter().map(|m| weights(m)).collect();
        let path = if file == "peft" { golden("peft") } else { golden(&format!("{file}.safetensors")) };
        let lora = Lora::open(&path, &parts(&weights)).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(json!(lora.unmatched), facts["unmatched"], "{file}");
        for (i, updates) in lora.parts.iter().enumerate() {
            let names: Vec<&String> = updates.keys().collect();
            assert_eq!(json!(names), facts["weights"][i], "{file}");
            for (name, update) in updates {
                let rest = &weights[i][name][1..];
                assert_eq!(update.a.dims[1..], *rest, "{file}: {name}");
                let d = differs(&probe(update), &array(&format!("{file}/{i}/{name}")));
                assert!(d < 1e-4, "{file}: {name} differs by {d}");
            }
        }
    }
}

#[test]
fn norm_out_is_turned_where_the_model_has_it_otherwise() {
    let weights = [weights("flux")];
    let turned = [Part { shift_first: true, ..parts(&weights)[0] }];
    let name = "norm_out.linear.weight";
    for (file, parts) in [("flux-kohya", &turned), ("flux-comfy", &turned)] {
        let path = golden(&format!("{file}.safetensors"));
        let [own, other] = [&self::parts(&weights)[..], &parts[..]].map(|parts| {
            let lora = Lora::open(&path, parts).unwrap();
            probe(&lora.parts[0][name])
        });
        assert!(own != other && own[..18] == other[18..] && own[18..] == other[..18], "{file}");
    }
}

#[test]
fn what_is_fused_is_held_once() {
    let weights = [weights("flux")];
    let lora = Lora::open(&golden("flux-kohya.safetensors"), &parts(&weights)).unwrap();
    let of = |name: &str| &lora.parts[0][&format!("transformer_blocks.0.attn.{name}.weight")];
    let (q, v) = (of("to_q"), of("to_v"));
    assert!(std::sync::Arc::ptr_eq(&q.a.owner, &v.a.owner));
    assert!(std::sync::Arc::ptr_eq(&q.b.as_ref().unwrap().owner, &v.b.as_ref().unwrap().owner));
}

/// A safetensors file of F32 tensors counting up from 1.
fn write(folder: &Path, name: &str, tensors: &[(&str, &[usize])]) -> PathBuf {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, shape) in tensors {
        let (begin, n) = (data.len(), shape.iter().product::<usize>());
        data.extend((0..n).flat_map(|i| (i as f32 + 1.0).to_le_bytes()));
        header.insert(
            (*name).into(),
            json!({"dtype": "F32", "shape": shape, "data_offsets": [begin, data.len()]}),
        );
    }
    let header = Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.bytes());
    bytes.extend(data);
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn what_hob_cannot_apply_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let weights = [weights("unet"), weights("text")];
    let conv = "lora_unet_conv_in";
    let keys = |module: &str, slots: &[(&str, &[usize])]| -> Vec<(String, Vec<usize>)> {
        slots.iter().map(|(slot, shape)| (format!("{module}.{slot}"), shape.to_vec())).collect()
    };
    let (down, up): (&[usize], &[usize]) = (&[2, 4, 3, 3], &[4, 2, 1, 1]);
    let pair = [("lora_down.weight", down), ("lora_up.weight", up)];
    for (tensors, said) in [
        (
            keys(conv, &[pair[0], pair[1], ("dora_scale", &[5, 1])]),
            "its update of lora_unet_conv_in has the lengths of 5 parts, which are neither its rows nor its inputs",
        ),
        (keys("unet.conv_in", &[("lora_A.weight", down), ("lora_B.bias", &[4])]), "changes a bias"),
        (keys(conv, &[("oft_blocks", &[2, 2, 2])]), "is of an OFT"),
        (keys("model.diffusion_model.conv_in", &[("weight", &[4, 4, 3, 3])]), "is it a whole model?"),
        (keys(conv, &[pair[0]]), "its update of lora_unet_conv_in lacks its lora_up"),
        (keys(conv, &[pair[0], ("lora_up.weight", &[4, 3, 1, 1])]), "has factors that do not fit together"),
        (
            keys(conv, &[("lora_down.weight", &[2, 320, 3, 3]), ("lora_up.weight", &[320, 2, 1, 1])]),
            "is for 320 rows of 2880, and that layer has 4 of 36; it was made for another model",
        ),
        (
            keys(conv, &[("hada_w1_a", &[4, 2]), ("hada_w1_b", &[2, 36]), ("hada_w2_a", &[4, 2])]),
            "lacks its hada_w2_b",
        ),
        (
            keys(
                conv,
                &[
                    ("hada_w1_a", &[4, 2]),
                    ("hada_w1_b", &[3, 36]),
                    ("hada_w2_a", &[4, 2]),
                    ("hada_w2_b", &[2, 36]),
                ],
            ),
            "do not fit",
        ),
        (
            keys(conv, &[("lokr_w1", &[1 << 9, 1 << 9]), ("lokr_w2", &[1 << 9, 1 << 9])]),
            "it was made for another model",
        ),
        (
            keys(conv, &[("lora_mid.weight", &[2, 2, 3, 3]), ("lora_down.weight", &[3, 4, 1, 1]), pair[1]]),
            "do not fit",
        ),
        (keys(conv, &[("lora_down.weight", &[0, 4, 3, 3]), ("lora_up.weight", &[4, 0])]), "is for"),
        (
            keys("lora_unet_output_blocks_9_1_proj_in", &pair),
            "nothing it changes is in this model (lora_unet_output_blocks_9_1_proj_in); it was made for another kind of model",
        ),
        (Vec::new(), "it holds no weights"),
    ] {
        let tensors: Vec<(&str, &[usize])> =
            tensors.iter().map(|(n, s)| (n.as_str(), s.as_slice())).collect();
        let path = write(folder.path(), "wrong.safetensors", &tensors);
        let e = Lora::open(&path, &parts(&weights)).unwrap_err().to_string();
        assert!(e.contains(said), "{said:?} is not in: {e}");
    }
    let none = Lora::open(&folder.path().join("none.safetensors"), &parts(&weights)).unwrap_err().to_string();
    assert!(none.contains("there is no such file"), "{none}");
    std::fs::write(folder.path().join("old.pt"), "PK").unwrap();
    let pickle = Lora::open(&folder.path().join("old.pt"), &parts(&weights)).unwrap_err().to_string();
    assert!(pickle.contains("may run programs") && pickle.contains("safetensors"), "{pickle}");
    // A folder with one file is that file.
    let e = Lora::open(folder.path(), &parts(&weights)).unwrap_err().to_string();
    assert!(e.contains("it holds no weights"), "{e}");
}
