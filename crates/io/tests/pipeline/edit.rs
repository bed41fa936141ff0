//! Models that edit pictures, and Flux's ControlNets: which they are.

use super::*;
use serde_json::json;

fn edit(name: &str) -> PathBuf {
    golden("flux").join("../../edit").join(name)
}

#[test]
fn what_a_flux_is_given_shows_in_its_channels() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    let channels =
        [(8, Some(Purpose::Create)), (16, Some(Purpose::Control)), (272, Some(Purpose::Inpaint)), (9, None)];
    for (channels, purpose) in channels {
        let mut file = whole("flux");
        let t = file.get_mut("model.diffusion_model.img_in.weight").unwrap();
        *t = Stored { shape: vec![24, channels], bytes: vec![0; 24 * channels * 2], ..t.clone() };
        write_safetensors(&path, &file, None);
        match purpose {
            Some(purpose) => assert_eq!(Pipeline::open(&path).unwrap().purpose, purpose),
            None => assert!(sentence(Pipeline::open(&path)).contains("its denoiser takes 9 channels")),
        }
    }
}

/// Its tensors are those of dev.
#[test]
fn kontext_is_told_by_a_class_by_metadata_or_by_a_name() {
    let dir = tempfile::tempdir().unwrap();
    let purpose = |path: &Path| Pipeline::open(path).unwrap().purpose;
    let file = whole("flux");
    let [plain, named] =
        ["flux1-dev.safetensors", "flux1-Kontext-dev.safetensors"].map(|name| dir.path().join(name));
    write_safetensors(&plain, &file, None);
    write_safetensors(&named, &file, None);
    assert_eq!((purpose(&plain), purpose(&named)), (Purpose::Create, Purpose::Reference));
    assert_eq!(Pipeline::open(&plain).unwrap().editing().unwrap().purpose, Purpose::Reference);
    // What a person wrote beside it counts more.
    let beside = |path: &Path, says: bool| {
        fs::write(path.with_extension("config.json"), json!({"transformer": {"kontext": says}}).to_string())
            .unwrap();
    };
    beside(&plain, true);
    beside(&named, false);
    assert_eq!((purpose(&plain), purpose(&named)), (Purpose::Reference, Purpose::Create));
    fs::remove_file(plain.with_extension("config.json")).unwrap();
    write_safetensors(&plain, &file, Some(json!({"modelspec.title": "FLUX.1 Kontext [dev]"})));
    assert_eq!(purpose(&plain), Purpose::Reference);
    write_safetensors(&plain, &file, Some(json!({"modelspec.title": "FLUX.1 [dev]"})));
    // A folder's class, also for a denoiser from elsewhere.
    let folder = dir.path().join("folder");
    copy(&golden("flux"), &folder);
    let index = fs::read_to_string(folder.join("model_index.json")).unwrap();
    fs::write(folder.join("model_index.json"), index.replace("FluxPipeline", "FluxKontextPipeline")).unwrap();
    assert_eq!(purpose(&folder), Purpose::Reference);
    let mixed = Pipeline::open_with(&folder, &[(Role::Denoiser, plain.clone())]).unwrap();
    assert_eq!(mixed.purpose, Purpose::Reference);
    assert!(
        sentence(Pipeline::open(&golden("sd15")).unwrap().editing())
            .contains("none that could be Flux.1 Kontext")
    );
}

#[test]
fn a_gguf_may_be_named_kontext_in_its_metadata() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    for (name, purpose) in [("Flux.1 Kontext Dev", Purpose::Reference), ("Flux.1 Dev", Purpose::Create)] {
        let mut writer = Writer::new();
        writer.str("general.architecture", "flux").str("general.name", name);
        let file = original("flux", "transformer", false);
        for (name, t) in &file {
            writer.tensor(name, t.dtype, &t.shape).unwrap();
        }
        let mut data = writer.begin(Vec::new()).unwrap();
        file.values().for_each(|t| data.tensor(&t.bytes).unwrap());
        fs::write(&path, data.finish().unwrap()).unwrap();
        assert_eq!(Pipeline::open(&path).unwrap().purpose, purpose);
    }
}

/// XLabs' names are those of Black Forest Labs.
#[test]
fn controlnets_of_flux_have_the_same_tensors_in_both_namings() {
    let flux = || Pipeline::open(&golden("flux")).unwrap();
    let p = flux().with_part(Role::ControlNet, &edit("xlabs")).unwrap();
    let folder = p.part(Role::ControlNet).unwrap();
    let stored = |name: &str| {
        let t = &folder.tensors[name];
        Stored { dtype: t.dtype, shape: t.shape.clone(), bytes: folder.bytes(t).to_vec() }
    };
    let rows = |names: [String; 3]| {
        let parts = names.map(|name| stored(&name));
        let mut shape = parts[0].shape.clone();
        shape[0] *= 3;
        Stored { dtype: parts[0].dtype, shape, bytes: parts.iter().flat_map(|p| p.bytes.clone()).collect() }
    };
    let mut file = File::new();
    let words = [
        ("x_embedder.", "img_in."),
        ("context_embedder.", "txt_in."),
        ("controlnet_x_embedder.", "pos_embed_input."),
        ("time_text_embed.timestep_embedder.linear_1.", "time_in.in_layer."),
        ("time_text_embed.timestep_embedder.linear_2.", "time_in.out_layer."),
        ("time_text_embed.guidance_embedder.linear_1.", "guidance_in.in_layer."),
        ("time_text_embed.guidance_embedder.linear_2.", "guidance_in.out_layer."),
        ("time_text_embed.text_embedder.linear_1.", "vector_in.in_layer."),
        ("time_text_embed.text_embedder.linear_2.", "vector_in.out_layer."),
        ("input_hint_block.conv_in.", "input_hint_block.0."),
        ("input_hint_block.conv_out.", "input_hint_block.14."),
    ];
    let block = [
        ("norm1.linear.", "img_mod.lin."),
        ("norm1_context.linear.", "txt_mod.lin."),
        ("attn.to_out.0.", "img_attn.proj."),
        ("attn.to_add_out.", "txt_attn.proj."),
        ("ff.net.0.proj.", "img_mlp.0."),
        ("ff.net.2.", "img_mlp.2."),
        ("ff_context.net.0.proj.", "txt_mlp.0."),
        ("ff_context.net.2.", "txt_mlp.2."),
        ("attn.norm_q.weight", "img_attn.norm.query_norm.scale"),
        ("attn.norm_k.weight", "img_attn.norm.key_norm.scale"),
        ("attn.norm_added_q.weight", "txt_attn.norm.query_norm.scale"),
        ("attn.norm_added_k.weight", "txt_attn.norm.key_norm.scale"),
    ];
    let find = |name: &str, words: &[(&str, &str)]| {
        words.iter().find_map(|(new, old)| Some(format!("{old}{}", name.strip_prefix(new)?)))
    };
    for name in folder.tensors.keys() {
        let (first, rest) = name.split_once('.').unwrap();
        let old = match first {
            "transformer_blocks" => {
                let (n, rest) = rest.split_once('.').unwrap();
                let Some(old) = find(rest, &block) else { continue }; // queries, keys and values
                format!("double_blocks.{n}.{old}")
            }
            "input_hint_block" if rest.starts_with("blocks.") => {
                let (n, kind) = rest["blocks.".len()..].split_once('.').unwrap();
                format!("input_hint_block.{}.{kind}", 2 * n.parse::<usize>().unwrap() + 2)
            }
            "controlnet_blocks" => name.clone(),
            _ => find(name, &words).unwrap_or_else(|| panic!("{name}")),
        };
        file.insert(old, stored(name));
    }
    for n in 0..2 {
        for (side, names) in
            [("img", ["to_q", "to_k", "to_v"]), ("txt", ["add_q_proj", "add_k_proj", "add_v_proj"])]
        {
            for kind in ["weight", "bias"] {
                let names = names.map(|name| format!("transformer_blocks.{n}.attn.{name}.{kind}"));
                file.insert(format!("double_blocks.{n}.{side}_attn.qkv.{kind}"), rows(names));
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flux-canny-controlnet-v3.safetensors");
    write_safetensors(&path, &file, None);
    let p = flux().with_part(Role::ControlNet, &path).unwrap();
    let single = p.part(Role::ControlNet).unwrap();
    same_tensors(single, folder);
    let facts = [
        "patch_size",
        "in_channels",
        "num_layers",
        "num_single_layers",
        "guidance_embeds",
        "num_mode",
        "conditioning_embedding_channels",
    ];
    facts.iter().for_each(|fact| assert_eq!(single.config[fact], folder.config[fact], "{fact}"));
    assert!(sentence(Pipeline::open(&path)).contains("it holds a Flux ControlNet but no denoiser"));
    // A file of InstantX's kind without its configuration.
    let other = dir.path().join("union.safetensors");
    fs::copy(edit("union").join("diffusion_pytorch_model.safetensors"), &other).unwrap();
    let [bare, whole] = [other, edit("union")].map(|path| flux().with_part(Role::ControlNet, &path).unwrap());
    let [bare, whole] = [&bare, &whole].map(|p| p.part(Role::ControlNet).unwrap());
    facts.iter().for_each(|fact| assert_eq!(bare.config[fact], whole.config[fact], "{fact}"));
    // Names that count wrong are no reason to fall.
    file.insert("input_hint_block.1.weight".into(), stored("x_embedder.bias"));
    write_safetensors(&path, &file, None);
    let _ = sentence(flux().with_part(Role::ControlNet, &path));
}
