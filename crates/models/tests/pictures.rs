//! Models of pictures at their real sizes: they have as many numbers as diffusers' (counted there on torch's `meta`
//! device), and configurations that ask for something else are refused.

use hob_graph::Graph;
use hob_models::unet::Size;
use hob_models::{controlnet, esrgan, tae, unet, vae};
use serde_json::{Value, json};
use std::collections::HashMap;

fn sd15() -> Value {
    json!({"cross_attention_dim": 768})
}

fn sd21() -> Value {
    let heads = [5, 10, 20, 20];
    json!({"cross_attention_dim": 1024, "attention_head_dim": heads, "use_linear_projection": true})
}

fn sdxl() -> Value {
    json!({
        "block_out_channels": [320, 640, 1280],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "cross_attention_dim": 2048,
        "attention_head_dim": [5, 10, 20],
        "transformer_layers_per_block": [1, 2, 10],
        "use_linear_projection": true,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    })
}

fn refiner() -> Value {
    json!({
        "block_out_channels": [384, 768, 1536, 1536],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "cross_attention_dim": 1280,
        "attention_head_dim": [6, 12, 24, 24],
        "transformer_layers_per_block": 4,
        "use_linear_projection": true,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2560,
    })
}

fn kl(more: Value) -> vae::Config {
    let mut config = json!({"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2});
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    vae::Config::parse(&config).unwrap()
}

/// Tensors and numbers of what some graphs read.
fn size(graphs: &[Graph]) -> (usize, usize) {
    let weights: HashMap<&str, usize> =
        graphs.iter().flat_map(|g| &g.weights).map(|w| (w.name.as_str(), w.shape.count())).collect();
    (weights.len(), weights.values().sum())
}

fn size_of(side: usize, pooled: usize) -> Size {
    Size { batch: 2, height: side, width: side, text: 77, pooled, residuals: false }
}

#[test]
fn denoisers_have_their_numbers() {
    for (config, side, pooled, wanted) in [
        (sd15(), 64, 0, (686, 859_520_964)),
        (sd21(), 96, 0, (686, 865_910_724)),
        (sdxl(), 128, 1280, (1680, 2_567_463_684)),
        (refiner(), 128, 1280, (1220, 2_259_526_660)),
    ] {
        let c = unet::Config::parse(&config).unwrap();
        let graph = c.graph(size_of(side, pooled)).unwrap();
        assert_eq!(size(&[graph]), wanted);
    }
}

#[test]
fn controlnets_have_their_numbers() {
    for (config, pooled, wanted) in [(sd15(), 0, (340, 361_279_120)), (sdxl(), 1280, (844, 1_251_014_160))] {
        let c = controlnet::Config::parse(&config).unwrap();
        let graph = c.graph(size_of(64, pooled)).unwrap();
        assert_eq!(graph.outputs.len(), c.residuals());
        assert_eq!(size(&[graph]), wanted);
        // What it gives is what the UNet takes.
        let whole = unet::Config::parse(&config).unwrap();
        let whole = whole.graph(Size { residuals: true, ..size_of(64, pooled) }).unwrap();
        let c = c.graph(size_of(64, pooled)).unwrap();
        for (name, id) in &c.outputs {
            let input = whole.inputs.iter().find(|i| i.name == *name).unwrap();
            assert_eq!(input.shape, c.node(*id).shape, "{name}");
        }
        assert_eq!(whole.inputs.iter().filter(|i| i.name.starts_with("residual.")).count(), c.outputs.len());
    }
}

#[test]
fn autoencoders_have_their_numbers() {
    let both = |c: vae::Config| size(&[c.encoder(1, 512, 512).unwrap(), c.decoder(1, 64, 64).unwrap()]);
    assert_eq!(both(kl(json!({}))), (248, 83_653_863));
    let flux = json!({"latent_channels": 16, "use_quant_conv": false, "use_post_quant_conv": false, "shift_factor": 0.1});
    assert_eq!(both(kl(flux)), (244, 83_819_683));
    for (latents, wanted) in [(4, (134, 2_445_063)), (16, (134, 2_458_899))] {
        let c = tae::Config::parse(&json!({
            "in_channels": 3, "out_channels": 3, "latent_channels": latents, "upsample_fn": "nearest",
            "encoder_block_out_channels": [64, 64, 64, 64], "decoder_block_out_channels": [64, 64, 64, 64],
            "num_encoder_blocks": [1, 3, 3, 3], "num_decoder_blocks": [3, 3, 3, 1],
        }))
        .unwrap();
        assert_eq!(size(&[c.encoder(1, 512, 512).unwrap(), c.decoder(1, 64, 64).unwrap()]), wanted);
    }
}

#[test]
fn an_upscaler_of_real_esrgan_has_its_numbers() {
    let kind = esrgan::Kind::Dense { blocks: 23, growth: 32, unshuffle: 1, doublings: 2 };
    let c = esrgan::Config { channels: 3, features: 64, kind };
    assert_eq!(size(&[c.graph(1, 128, 128).unwrap()]), (702, 16_697_987));
    let kind = esrgan::Kind::Compact { layers: 32, scale: 4 };
    let c = esrgan::Config { kind, ..c };
    assert_eq!(size(&[c.graph(1, 128, 128).unwrap()]), (101, 1_213_296));
}

#[test]
fn pooled_text_that_does_not_fit_is_an_error() {
    let c = unet::Config::parse(&sdxl()).unwrap();
    assert_eq!((c.time_ids(1280), c.time_ids(768), c.time_ids(4096)), (Some(6), Some(8), None));
    assert_eq!(unet::Config::parse(&refiner()).unwrap().time_ids(1280), Some(5));
    assert_eq!(unet::Config::parse(&sd15()).unwrap().time_ids(0), Some(0));
    let e = c.graph(size_of(8, 1000)).unwrap_err();
    assert!(e.message.contains("1000 channels does not fit"), "{e}");
}

#[test]
fn what_is_not_built_is_refused() {
    for (field, value, message) in [
        ("class_embed_type", json!("projection"), "class_embed_type \"projection\" is not supported"),
        ("num_class_embeds", json!(1000), "num_class_embeds 1000"),
        ("only_cross_attention", json!([true, true, true, false]), "only_cross_attention [true"),
        ("resnet_time_scale_shift", json!("scale_shift"), "resnet_time_scale_shift"),
        ("encoder_hid_dim", json!(64), "encoder_hid_dim 64"),
        ("time_embedding_type", json!("fourier"), "time_embedding_type"),
        ("mid_block_type", json!("UNetMidBlock2DSimpleCrossAttn"), "mid_block_type"),
        ("down_block_types", json!(["DownBlock2D"]), "down_block_types has 1 levels, not 4"),
        ("down_block_types", json!(vec!["KDownBlock2D"; 4]), "KDownBlock2D"),
        ("block_out_channels", json!([320, 640, 1280, 30]), "norm_num_groups is 32"),
        ("block_out_channels", json!([]), "0 levels"),
        ("norm_num_groups", json!(0), "norm_num_groups is 0"),
        ("norm_num_groups", Value::Null, "invalid type: null"),
        ("attention_head_dim", json!([8, 8, 8]), "attention_head_dim"),
        ("attention_head_dim", json!(7), "attention_head_dim is 7"),
        ("attention_head_dim", json!(0), "attention_head_dim is 0"),
        ("layers_per_block", json!([2, 2]), "layers_per_block"),
        ("layers_per_block", json!(1000), "layers_per_block"),
        ("cross_attention_dim", json!([768, 768, 768, 1024]), "cross_attention_dim"),
        ("transformer_layers_per_block", json!([1, [1], 1, 1]), "transformer_layers_per_block"),
        (
            "transformer_layers_per_block",
            json!([[1, 1], 1, 1, 1]),
            "reverse_transformer_layers_per_block is missing",
        ),
        ("reverse_transformer_layers_per_block", json!([1, [1, 1], 1, 1]), "reverse_transformer"),
        ("addition_embed_type", json!("image"), "addition_embed_type image"),
        ("addition_embed_type", json!("text_time"), "addition_time_embed_dim is 0"),
        ("downsample_padding", json!(0), "downsample_padding 0"),
        ("conv_in_kernel", json!(5), "conv_in_kernel 5"),
    ] {
        let mut config = sd15();
        config[field] = value;
        let e = unet::Config::parse(&config).unwrap_err();
        assert!(e.contains(message), "{field}: {e}");
    }
    // Said, but as it is anyway.
    let mut config = sd21();
    for (field, value) in [
        ("only_cross_attention", json!([false, false, false, false])),
        ("mid_block_scale_factor", json!(1.0)),
        ("upcast_attention", json!(true)),
        ("class_embed_type", Value::Null),
        ("sample_size", json!(96)),
        ("num_attention_heads", Value::Null),
    ] {
        config[field] = value;
    }
    unet::Config::parse(&config).unwrap();
    for (field, value) in [
        ("conditioning_embedding_out_channels", json!([])),
        ("controlnet_conditioning_channel_order", json!("gbr")),
        ("time_cond_proj_dim", json!(256)),
        ("encoder_hid_dim_type", json!("text_proj")),
    ] {
        let mut config = sd15();
        config[field] = value;
        let e = controlnet::Config::parse(&config).unwrap_err();
        assert!(e.contains(field), "{field}: {e}");
    }
    for (field, value) in [
        ("act_fn", json!("relu")),
        ("latents_mean", json!([0.0, 1.0])),
        ("down_block_types", json!(["AttnDownEncoderBlock2D"])),
        ("block_out_channels", json!([100])),
        ("layers_per_block", json!(100)),
        ("scaling_factor", json!(0)),
        ("latent_channels", json!(0)),
    ] {
        let e = vae::Config::parse(&json!({field: value})).unwrap_err();
        assert!(e.contains(field), "{field}: {e}");
    }
}

/// Sides of 1, which no halving makes smaller.
#[test]
fn any_side_is_a_size() {
    let c = unet::Config::parse(&sd15()).unwrap();
    for (height, width) in [(1, 1), (1, 17), (23, 2), (64, 63)] {
        let graph = c.graph(Size { height, width, ..size_of(0, 0) }).unwrap();
        let out = graph.output("sample").unwrap();
        assert_eq!(graph.node(out).shape[..], [2, 4, height, width]);
    }
}
