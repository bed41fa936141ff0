//! Pictures by models that edit one, from the command line and by the server, over tiny models.

use crate::common::{Run, World};
use crate::serving::Serving;
use crate::tiny_picture;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hob_io::Picture;
use hob_io::picture::Recipe;
use serde_json::{Value, json};
use std::fs;

/// What every run here says beside its own words.
const FEW: [&str; 4] = ["--steps", "2", "--threads", "1"];

fn image(world: &World, model: &str, args: &[&str]) -> Run {
    world.run(&[&["image", model], args, &FEW].concat())
}

fn picture(world: &World, name: &str) -> Picture {
    Picture::open(&world.path(name)).unwrap()
}

/// A picture of 48 × 24 to be edited, in `photo.png`.
fn photo(world: &World) -> Vec<u8> {
    let rgb = (0..48 * 24).flat_map(|i| [(i % 48 * 5) as u8, (i / 48 * 10) as u8, 90]).collect();
    let png = Picture::of_rgb(48, 24, rgb).unwrap().png(&[]).unwrap();
    fs::write(world.path("photo.png"), &png).unwrap();
    png
}

#[test]
fn instructions_change_a_picture() {
    let world = World::new();
    tiny_picture::pix2pix(&world.path("pix"));
    tiny_picture::sd15(&world.path("sd15"));
    photo(&world);
    let winter = ["make it winter", "--seed", "3", "--init", "photo.png"];
    image(&world, "pix", &[&winter[..], &["--image-cfg", "1.8", "-o", "a.png"]].concat()).ok();
    let made = picture(&world, "a.png");
    // The shape is the picture's, within as many pixels as the model makes.
    assert_eq!((made.width, made.height), (46, 22));
    let recipe = Recipe::open(&world.path("a.png")).unwrap().unwrap();
    assert_eq!((recipe.image_cfg, recipe.init.unwrap().strength), (Some(1.8), 1.0));
    world
        .run(&["image", "pix", "--like", "a.png", "--init", "photo.png", "-o", "again.png", "--threads", "2"])
        .ok();
    assert!(fs::read(world.path("a.png")).unwrap() == fs::read(world.path("again.png")).unwrap());
    image(&world, "pix", &[&winter[..], &["-o", "b.png"]].concat()).ok();
    assert_ne!(picture(&world, "b.png").rgb, made.rgb, "what --image-cfg says does not matter");
    assert_eq!(Recipe::open(&world.path("b.png")).unwrap().unwrap().image_cfg, Some(1.5));
    image(&world, "pix", &[&winter[..], &["--size", "32x16", "-o", "c.png"]].concat()).ok();
    assert_eq!(picture(&world, "c.png").width, 32);

    image(&world, "pix", &["make it winter"]).fails("this model edits a picture: give one with --init");
    image(&world, "sd15", &["x", "--image-cfg", "1.5"]).fails("--image-cfg means nothing to this model");
    let show = world.run(&["show", "pix"]);
    assert!(show.ok().contains("pictures, by editing one"), "{show:?}");
}

#[test]
fn a_server_edits_pictures() {
    let world = World::new();
    tiny_picture::pix2pix(&world.path("hob/models/pix"));
    tiny_picture::sd15(&world.path("hob/models/tiny-sd"));
    let png = BASE64_STANDARD.encode(photo(&world));
    let server = Serving::start(&world, &[]);
    let body = json!({"model": "pix", "prompt": "make it winter", "steps": 2, "seed": 3, "image": png});
    let edit = |more: Value| {
        let mut body = body.clone();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        server.post("/v1/images/edits", &body)
    };
    let made = edit(json!({"image_cfg": 1.8})).ok();
    image(
        &world,
        "hob/models/pix",
        &["make it winter", "--seed=3", "--init=photo.png", "--image-cfg=1.8", "-o=a.png"],
    )
    .ok();
    let bytes = BASE64_STANDARD.decode(made["data"][0]["b64_json"].as_str().unwrap()).unwrap();
    assert_eq!(Picture::read(&bytes, "a".as_ref()).unwrap(), picture(&world, "a.png"));
    assert_eq!(made["data"][0]["recipe"]["image_cfg"].as_f64().unwrap() as f32, 1.8);
    let said = edit(json!({"model": "tiny-sd", "image_cfg": 1.8})).fails(400);
    assert!(said.contains("`image_cfg` means nothing to this model"), "{said}");
    let said = server.post("/v1/images/generations", &json!({"model": "pix", "prompt": "x"})).fails(400);
    assert!(said.contains("this model edits a picture"), "{said}");
    // As A1111's clients ask, with fields that mean nothing to other models.
    for model in ["pix", "tiny-sd"] {
        let body = json!({
            "prompt": "x", "init_images": [png], "image_cfg_scale": 1.5, "steps": 2, "width": 32, "height": 16,
            "override_settings": {"sd_model_checkpoint": model},
        });
        server.post("/sdapi/v1/img2img", &body).ok();
    }
    // The page's room.
    let page = json!({"model": "pix", "prompt": "make it winter", "steps": 2, "image": png});
    server.post("/hob/images", &page).ok();
}
