//! ONNX files: weights come under the names of the checkpoint, what is hostile or another model ends in a sentence.

mod common;

use common::{field, initializer, node, onnx, sentence, small, tiny_onnx};
use hob_dtype::DType;
use hob_io::onnx::{Header, Onnx, adm};
use std::path::Path;

fn parse(bytes: &[u8]) -> hob_io::Result<Header> {
    Header::parse(bytes, Path::new("test.onnx"))
}

#[test]
fn weights_have_their_names_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.onnx");
    std::fs::write(&path, tiny_onnx()).unwrap();
    let file = Onnx::open(&path).unwrap();
    let tensors = &file.header().tensors;
    let norm = &tensors["net.input_blocks.1.0.in_layers.0.weight"];
    assert_eq!((norm.stored_name.as_str(), norm.dtype, &norm.shape[..]), ("val_1", DType::F32, &[2][..]));
    assert_eq!(file.bytes(norm), [1f32.to_le_bytes(), 2f32.to_le_bytes()].concat());
    assert_eq!(tensors["net.input_blocks.1.0.in_layers.0.bias"].stored_name, "val_2");
    assert!(!tensors.contains_key("val_1") && tensors.contains_key("half"));
    assert_eq!(file.header().inputs["noisy"], [None, Some(1), Some(16), Some(16)]);
    assert_eq!(file.size_bytes(), tiny_onnx().len() as u64);
    // torch says which part of a sequence ran.
    let parts = [("s.slice(None, -1, None).0", "s.0.weight"), ("s.slice(2, None, None).1.x", "s.3.x.weight")];
    for (module, name) in parts {
        let nodes = [node("InstanceNormalization", &[], "x", module), node("Mul", &["x", "c"], "y", module)];
        let header = parse(&onnx(&[initializer("c", &[1, 1]), nodes.concat()], "")).unwrap();
        assert_eq!(header.tensors.keys().collect::<Vec<_>>(), [name]);
    }
    // A constant that several norms share is the weight of each.
    let shared = ["a", "b"]
        .map(|m| [node("InstanceNormalization", &[], "x", m), node("Mul", &["x", "c"], "y", m)].concat());
    let header = parse(&onnx(&[initializer("c", &[1, 1]), shared.concat()], "")).unwrap();
    assert_eq!(header.tensors.keys().collect::<Vec<_>>(), ["a.weight", "b.weight"]);
}

#[test]
fn tensors_and_nodes_tell_the_configuration() {
    let (bytes, path) = (tiny_onnx(), Path::new("test.onnx"));
    let (config, tensors) = adm::read(&parse(&bytes).unwrap(), &bytes, path).unwrap();
    let wanted = serde_json::json!({
        "image_size": 16, "in_channels": 1, "model_channels": 2, "out_channels": 1, "num_res_blocks": 1,
        "channel_mult": [1.0, 2.0], "attention_resolutions": [2], "num_head_channels": 1,
        "use_new_attention_order": true, "use_scale_shift_norm": true, "resblock_updown": true,
        "num_classes": null, "label_channels": 1,
    });
    assert_eq!(config, wanted);
    assert!(tensors.contains_key("time_embed.0.weight") && !tensors.contains_key("half"));
    for (bytes, why) in [
        (onnx(&[], "consistency-unet-32"), "its inputs are not noisy"),
        (onnx(&[initializer("w", &[1])], "resnet"), "it is another model"),
    ] {
        let e = sentence(adm::read(&parse(&bytes).unwrap(), &bytes, path));
        assert!(e.contains(why) && e.contains("hob pull terrain"), "{e}");
    }
}

#[test]
fn other_forms_of_numbers() {
    let raw = |kind: u8, parts: &[Vec<u8>]| {
        let tensor = [small(1, 2), small(2, kind), field(8, "w"), parts.concat()].concat();
        parse(&onnx(&[field(5, tensor)], ""))
    };
    let floats: Vec<u8> = [1f32, 2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    assert_eq!(raw(1, &[field(4, &floats)]).unwrap().tensors["w"].len, 8);
    assert_eq!(raw(11, &[field(10, floats.repeat(2))]).unwrap().tensors["w"].dtype, DType::F64);
    assert_eq!(raw(10, &[field(9, [0; 4])]).unwrap().tensors["w"].dtype, DType::F16);
    let packed = [field(1, [3, 2]), small(2, 16), field(8, "w"), field(9, [0; 12])].concat();
    assert_eq!(parse(&onnx(&[field(5, packed)], "")).unwrap().tensors["w"].shape, [3, 2]);
    // Constants of the graph that are no weights: integers in a list, text, bool.
    for kind in [7, 8, 9] {
        assert!(raw(kind, &[field(7, [1, 2])]).unwrap().tensors.is_empty());
    }
    for (result, why) in [
        (raw(10, &[field(5, [1, 2])]), "is a list of integers"),
        (raw(1, &[field(9, [0; 7])]), "does not take the bytes it has"),
        (raw(1, &[field(4, [0; 4]), field(4, [0; 4])]), "does not take the bytes it has"),
        (raw(1, &[field(4, &floats), field(9, &floats)]), "does not take the bytes it has"),
        (raw(1, &[field(13, [])]), "lies in another file"),
        (raw(1, &[small(14, 1)]), "lies in another file"),
    ] {
        assert!(sentence(result).contains(why), "{why}");
    }
}

#[test]
fn what_is_damaged_ends_in_a_sentence() {
    let tensor = initializer("w", &[1]);
    for (bytes, why) in [
        (vec![], "no graph"),
        (b"GGUF".to_vec(), "test.onnx"),
        (field(7, &tensor).repeat(2), "a second graph"),
        (onnx(&[tensor.clone(), tensor.clone()], ""), "twice"),
        (onnx(&[field(15, [])], ""), "sparse"),
        (onnx(&[field(1, field(4, [0xff]))], ""), "not valid UTF-8"),
        (onnx(&[field(1, [])], ""), "no operator"),
        (vec![0x3a, 0x05, 0], "goes on past"),
        (vec![0x3b], "unknown kind 3"),
        (vec![0x3a; 1], "ends within a number"),
        ([&[0x38][..], &[0xff; 10]].concat(), "more than 64 bits"),
        (vec![0x39, 1, 2], "goes on past"),
    ] {
        assert!(sentence(parse(&bytes)).contains(why), "{why}");
    }
    let whole = tiny_onnx();
    for end in 0..whole.len() {
        // It may end between its fields.
        if let Err(e) = parse(&whole[..end]) {
            assert!(e.to_string().starts_with("test.onnx "), "{e}");
        }
    }
}
