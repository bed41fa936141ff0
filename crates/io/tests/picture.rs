//! Pictures in files: read and resized as PIL does, recipes written and read back.

mod common;

use common::sentence;
use hob_io::{
    Picture, Safetensors,
    picture::{Filter, Init, Lora, Recipe, area, nearest, texts},
};
use proptest::prelude::*;
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/picture").join(name)
}

fn facts() -> Value {
    serde_json::from_str(&fs::read_to_string(golden("golden.json")).unwrap()).unwrap()
}

/// Shape and values of a golden array.
fn array(name: &str) -> (Vec<usize>, Vec<f32>) {
    let file = Safetensors::open(&golden("golden.safetensors")).unwrap();
    let t = file.tensors().iter().find(|t| t.stored_name == name).unwrap();
    let value = |b: &[u8]| f32::from_le_bytes(b.try_into().unwrap());
    (t.shape.clone(), file.bytes(t).chunks_exact(4).map(value).collect())
}

#[test]
fn files_are_read_as_pil_reads_them() {
    let mut count = 0;
    for entry in fs::read_dir(golden("")).unwrap() {
        let path = entry.unwrap().path();
        let Ok(raw) = fs::read(format!("{}.raw", path.display())) else { continue };
        let p = Picture::open(&path).unwrap();
        let channels = raw[2] as usize;
        assert_eq!((p.width, p.height), (raw[0] as usize, raw[1] as usize), "{}", path.display());
        assert_eq!(p.alpha.is_some(), channels == 4, "{}", path.display());
        // Two decoders of JPEG, and of lossy WebP, may round differently; a progressive one has fewer colours.
        let lossy = path.extension().unwrap() == "jpg" || path.ends_with("lossy.webp");
        let within = if path.ends_with("progressive.jpg") || path.ends_with("lossy.webp") {
            24
        } else {
            3 * lossy as i32
        };
        for (i, pixel) in raw[3..].chunks_exact(channels).enumerate() {
            let alpha = p.alpha.as_ref().map(|a| a[i]);
            assert_eq!(alpha, pixel.get(3).copied(), "{} pixel {i}", path.display());
            for c in 0..3 {
                let (got, wanted) = (p.rgb[3 * i + c], pixel[c]);
                assert!(
                    (got as i32 - wanted as i32).abs() <= within,
                    "{} pixel {i}: {got}, {wanted}",
                    path.display()
                );
            }
        }
        count += 1;
    }
    assert_eq!(count, 18);
}

#[test]
fn resizing_is_pils_value_for_value() {
    let p = Picture::open(&golden("rgb.png")).unwrap();
    let names = ["nearest", "box", "bilinear", "bicubic", "lanczos"];
    let filters = [Filter::Nearest, Filter::Box, Filter::Bilinear, Filter::Bicubic, Filter::Lanczos];
    for (name, filter) in names.into_iter().zip(filters) {
        for size in facts()["resized"]["sizes"].as_array().unwrap() {
            let (w, h) = (size[0].as_u64().unwrap() as usize, size[1].as_u64().unwrap() as usize);
            let (shape, wanted) = array(&format!("{name}-{w}x{h}"));
            assert_eq!(shape, [h, w, 3]);
            let got: Vec<f32> = p.resized(w, h, filter).unwrap().rgb.into_iter().map(f32::from).collect();
            assert_eq!(got, wanted, "{name} {w}x{h}");
        }
    }
    assert!(p.resized(0, 5, Filter::Box).unwrap_err().contains("0 × 5"));
    assert!(p.resized(1 << 20, 1 << 20, Filter::Box).is_err());
    assert_eq!(p.grey().into_iter().map(f32::from).collect::<Vec<_>>(), array("grey").1);
    let (shape, mask) = array("mask");
    let (from, to) = ((shape[1], shape[0]), (6, 5));
    assert_eq!(nearest(&mask, from, to), array("mask.nearest").1);
    for (got, wanted) in area(&mask, from, to).into_iter().zip(array("mask.area").1) {
        assert!((got - wanted).abs() < 1e-6, "{got} {wanted}");
    }
}

#[test]
fn pictures_become_planes_and_masks() {
    let p = Picture {
        alpha: Some(vec![0, 128, 255]),
        ..Picture::of_rgb(3, 1, vec![0, 128, 255, 10, 20, 30, 9, 9, 9]).unwrap()
    };
    assert_eq!(p.clone().over([255; 3]).rgb, [255, 255, 255, 132, 137, 142, 9, 9, 9]);
    assert_eq!(p.clone().over([0; 3]).rgb, [0, 0, 0, 5, 10, 15, 9, 9, 9]);
    let p = p.opaque();
    assert_eq!(p.rgb[..3], [0, 128, 255]);
    let planes = p.planes();
    assert_eq!((planes.len(), planes[0], planes[6]), (9, -1.0, 1.0));
    assert_eq!(Picture::from_planes(&planes, 3, 1).unwrap(), p);
    assert_eq!(Picture::from_planes(&[-3.0, 9.0, 0.0], 1, 1).unwrap().rgb, [0, 255, 128]);
    assert!(Picture::from_planes(&planes, 3, 2).is_err() && Picture::of_rgb(2, 2, vec![0; 11]).is_err());
    let mask = Picture::of_rgb(2, 1, vec![255, 255, 255, 40, 40, 40]).unwrap().mask(4, 2).unwrap();
    assert_eq!(mask, [1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0]);
}

#[test]
fn what_is_no_picture_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p.png");
    assert!(sentence(Picture::open(&path)).contains("cannot read"));
    assert!(sentence(Picture::open(dir.path())).contains("it is a folder"));
    fs::write(&path, "GIF89a").unwrap();
    assert!(sentence(Picture::open(&path)).contains("it is no PNG, JPEG or WebP picture"));
    for name in ["rgb.png", "upright.jpg", "lossless.webp"] {
        let bytes = fs::read(golden(name)).unwrap();
        fs::write(&path, &bytes[..40]).unwrap();
        assert!(sentence(Picture::open(&path)).contains("the picture cannot be read"), "{name}");
    }
    // A header that claims 60000 × 60000.
    let mut bytes = fs::read(golden("rgb.png")).unwrap();
    bytes[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
    let crc = crc(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&crc.to_be_bytes());
    fs::write(&path, &bytes).unwrap();
    assert!(sentence(Picture::open(&path)).contains("60000 × 60000 pixels"));
}

/// PNG's, bit by bit.
fn crc(bytes: &[u8]) -> u32 {
    let step = |c: u32, _| if c & 1 == 1 { 0xedb8_8320 ^ (c >> 1) } else { c >> 1 };
    !bytes.iter().fold(u32::MAX, |c, &b| (0..8).fold(c ^ b as u32, step))
}

fn recipe() -> Recipe {
    Recipe {
        prompt: "a (red:1.2) cube,\non \"glass\", ☕".into(),
        negative: "blurry, ugly".into(),
        model: "sdxl, fine".into(),
        model_hash: Some("0123456789".into()),
        vae: Some("fix.safetensors".into()),
        vae_hash: Some("fff".into()),
        steps: 20,
        cfg: 7.25,
        guidance: Some(3.5),
        image_cfg: Some(1.5),
        sampler: "dpmpp_2m_sde".into(),
        schedule: "karras".into(),
        seed: u64::MAX,
        width: 832,
        height: 1216,
        count: 4,
        index: 3,
        clip_skip: Some(2),
        loras: vec![
            Lora { name: "ink".into(), scale: 0.6, hash: Some("abc".into()) },
            Lora { name: "light".into(), scale: -1.0, hash: None },
        ],
        init: Some(Init { hash: Some("cafe".into()), strength: 0.35, mask: Some("babe".into()) }),
        noise: "torch-cpu".into(),
        version: "hob 0.1.0".into(),
        more: [("Tiling".to_owned(), "True".to_owned())].into(),
    }
}

#[test]
fn a_recipe_is_read_back_from_a_picture() {
    let p = Picture::open(&golden("rgb.png")).unwrap();
    let r = recipe();
    let bytes = r.png(&p).unwrap();
    let path = Path::new("p.png");
    assert_eq!(Picture::read(&bytes, path).unwrap(), p);
    assert_eq!(Recipe::read(&bytes, path).unwrap(), Some(r.clone()));
    // And by other programs' text alone.
    let text = &texts(&bytes, path).unwrap()["parameters"];
    assert!(text.starts_with("a (red:1.2) cube,\non \"glass\", ☕ <lora:ink:0.6> <lora:light:-1>\nNegative prompt: blurry, ugly\nSteps: 20, Sampler: DPM++ 2M SDE, Schedule type: Karras, CFG scale: 7.25, "), "{text}");
    assert!(
        text.contains("Model: \"sdxl, fine\", ") && text.ends_with("Tiling: True, Version: hob 0.1.0"),
        "{text}"
    );
    assert_eq!(Recipe::from_text(text), r);
    // Alpha and Latin-1 go through as well.
    let clear = Picture { alpha: Some(vec![7; p.width * p.height]), ..p };
    let bytes = clear.png(&[("parameters", "caf\u{e9}\0")]).unwrap();
    assert_eq!(Picture::read(&bytes, path).unwrap(), clear);
    assert_eq!(texts(&bytes, path).unwrap()["parameters"], "caf\u{e9} ");
    assert_eq!(Recipe::read(&clear.png(&[]).unwrap(), path).unwrap(), None);
    assert!(sentence(Recipe::read(&clear.png(&[("hob", "{")]).unwrap(), path)).contains("is no recipe"));
    assert!(clear.png(&[("", "x")]).is_err());
}

#[test]
fn other_programs_pictures_tell_their_recipes() {
    for name in ["rgb.png", "upright.jpg"] {
        let r = Recipe::open(&golden(name)).unwrap().unwrap();
        assert_eq!((r.prompt.as_str(), r.negative.as_str()), ("a café, ☕", "blurry"), "{name}");
        assert_eq!((r.sampler.as_str(), r.steps, r.seed, r.cfg), ("euler_ancestral", 9, 77, 6.5));
        assert_eq!((r.loras[0].name.as_str(), r.loras[0].scale, r.width, r.height), ("ink", 0.6, 23, 17));
        // Without a word on it, A1111 made noise as the GPU does.
        assert_eq!(r.noise, "philox");
    }
    let zipped = texts(&fs::read(golden("rgb.png")).unwrap(), Path::new("rgb.png")).unwrap();
    assert_eq!(zipped["zipped"], "z".repeat(3000));
}

#[test]
fn texts_are_read_as_a1111_reads_them() {
    let facts = facts();
    let cases = facts["texts"].as_array().unwrap();
    for case in cases {
        let r = Recipe::from_text(case["text"].as_str().unwrap());
        for (key, value) in case["settings"].as_object().unwrap() {
            let value = value.as_str().unwrap();
            match key.as_str() {
                "Steps" => assert_eq!(r.steps.to_string(), value),
                "Seed" => assert_eq!(r.seed.to_string(), value),
                "Size" => assert_eq!(format!("{}x{}", r.width, r.height), value),
                "CFG scale" => assert_eq!(r.cfg.to_string(), value),
                "Model" => assert_eq!(r.model, value),
                "Model hash" => assert_eq!(r.model_hash.as_deref(), Some(value)),
                "Clip skip" => assert_eq!(r.clip_skip, value.parse().ok()),
                "Init image hash" => assert_eq!(r.init.as_ref().unwrap().hash.as_deref(), Some(value)),
                "Version" => assert_eq!(r.version, value),
                "Sampler" | "Schedule type" | "RNG" | "Lora hashes" => {}
                "Denoising strength" if r.init.is_some() => {
                    assert_eq!(r.init.as_ref().unwrap().strength.to_string(), value)
                }
                _ => assert_eq!(r.more[key], value, "{key}"),
            }
        }
    }
    let r = |i: usize| Recipe::from_text(cases[i]["text"].as_str().unwrap());
    assert_eq!((r(1).sampler.as_str(), r(1).schedule.as_str()), ("dpmpp_2m", "karras"));
    assert_eq!((r(2).prompt.as_str(), r(2).negative.as_str()), ("two\nlines, and: colons", "ugly,\n((bad))"));
    assert_eq!(
        (r(2).sampler.as_str(), r(2).schedule.as_str(), r(2).noise.as_str()),
        ("lcm", "sgm_uniform", "torch-cpu")
    );
    assert_eq!((r(3).prompt.as_str(), r(3).steps), ("no settings here, Steps: 3", 0));
    assert_eq!((r(5).init, r(5).more["Denoising strength"].as_str()), (None, "0.7"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// What stands in one line and has no marks of the text's own comes back.
    #[test]
    fn texts_come_back(
        prompt in "[a-z(][a-zäß☕(): ,.\"\\\\-]{0,40}[a-z)]",
        negative in prop::option::of("[a-z][a-z, :\"]{0,20}[a-z]"),
        model in "[a-z\",: \\\\]{0,8}[a-z]",
        seed in any::<u64>(),
        cfg in 0.0f32..30.0,
        strength in prop::option::of(0.0f32..1.0),
        names in prop::collection::btree_set("[a-z_ .-]{0,6}[a-z]", 0..3),
    ) {
        let loras: Vec<Lora> = names.into_iter().map(|name| Lora { name, scale: cfg, hash: Some("ab12".into()) }).collect();
        let r = Recipe {
            prompt, negative: negative.unwrap_or_default(), model, seed, cfg, steps: 1, width: 8, height: 8, count: 1,
            sampler: "euler".into(), schedule: "karras".into(), noise: "torch-cpu".into(),
            init: strength.map(|strength| Init { strength, ..Init::default() }),
            loras: loras.into_iter().map(|l| Lora { name: l.name.trim().into(), ..l }).collect(), ..Recipe::default()
        };
        prop_assert_eq!(Recipe::from_text(&r.text()), r);
    }

    #[test]
    fn any_text_is_a_recipe(text in any::<String>(), line in "[A-Za-z ]{1,8}: [\"\\\\a-z0-9x:]{0,9}, Size: [0-9x]{0,30}, Seed: -?[0-9]{0,30}, Lora hashes: \"?[a:, ]{0,9}\"?") {
        let _ = Recipe::from_text(&text);
        let r = Recipe::from_text(&format!("{text}\n{line}"));
        let _ = r.text();
    }
}
