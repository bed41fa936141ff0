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

#[test]
fn a_flux_fills_in_and_paints_after_depths() {
    let world = World::new();
    tiny_picture::flux(&world.path("fill"), "fill");
    tiny_picture::flux(&world.path("depth"), "depth");
    tiny_picture::flux(&world.path("dev"), "dev");
    photo(&world);
    let hole =
        Picture::of_rgb(48, 24, (0..48 * 24).flat_map(|i| [if i % 48 < 20 { 255 } else { 0 }; 3]).collect());
    fs::write(world.path("hole.png"), hole.unwrap().png(&[]).unwrap()).unwrap();
    let small = ["--seed", "3", "--size", "64x32"];
    let door = [&["a door", "--init", "photo.png"], &small[..]].concat();
    image(&world, "fill", &[&door[..], &["--mask", "hole.png", "-o", "a.png"]].concat()).ok();
    image(&world, "fill", &[&door[..], &["-o", "b.png"]].concat()).ok();
    assert_ne!(picture(&world, "a.png").rgb, picture(&world, "b.png").rgb, "the mask does not matter");
    let recipe = Recipe::open(&world.path("a.png")).unwrap().unwrap();
    assert_eq!((recipe.guidance, recipe.init.unwrap().strength), (Some(30.0), 1.0));
    image(&world, "fill", &[&["a door"], &small[..]].concat())
        .fails("this model fills in parts of a picture");

    // The only picture that is given is the one to paint after, whatever it is called.
    let hall = [&["a hall"], &small[..]].concat();
    image(&world, "depth", &[&hall[..], &["--control-image", "photo.png", "-o", "c.png"]].concat()).ok();
    image(&world, "depth", &[&hall[..], &["--init", "photo.png", "-o", "d.png"]].concat()).ok();
    assert_eq!(picture(&world, "c.png").rgb, picture(&world, "d.png").rgb);
    image(&world, "depth", &[&hall[..], &["--control-image", "hole.png", "-o", "e.png"]].concat()).ok();
    assert_ne!(
        picture(&world, "c.png").rgb,
        picture(&world, "e.png").rgb,
        "what it paints after does not matter"
    );
    image(&world, "depth", &hall).fails("this model paints after a picture of depths or edges");
    image(&world, "dev", &[&hall[..], &["--control-image", "photo.png"]].concat())
        .fails("give a ControlNet with --control");
    image(&world, "depth", &[&hall[..], &["--edit"]].concat()).fails("none that could be Flux.1 Kontext");
    let show = world.run(&["show", "depth"]);
    assert!(show.ok().contains("after one of depths or edges"), "{show:?}");
}

#[test]
fn a_flux_is_held_by_a_controlnet() {
    let world = World::new();
    tiny_picture::flux(&world.path("dev"), "dev");
    photo(&world);
    let net = |name: &str| tiny_picture::golden("edit").join(name).to_str().unwrap().to_string();
    let hall = ["a hall", "--seed", "3", "--size", "64x32"];
    let held = |net: &str, more: &[&str]| {
        image(&world, "dev", &[&hall[..], &["--control", net, "--control-image", "photo.png"], more].concat())
    };
    let (union, xlabs) = (net("union"), net("xlabs"));
    image(&world, "dev", &[&hall[..], &["-o", "free.png"]].concat()).ok();
    held(&union, &["--control-mode", "Tile", "-o", "a.png"]).ok();
    held(&union, &["--control-mode", "2", "-o", "b.png"]).ok();
    held(&xlabs, &["--control-strength", "0.6", "-o", "c.png"]).ok();
    let made = ["free.png", "a.png", "b.png", "c.png"].map(|name| picture(&world, name).rgb);
    for (i, a) in made.iter().enumerate() {
        assert!(made[..i].iter().all(|b| a != b), "picture {i} is one of those before");
    }
    let recipe = Recipe::open(&world.path("a.png")).unwrap().unwrap();
    assert!(recipe.more["ControlNet 0"].ends_with("Model: union, Weight: 1, Mode: 1"), "{:?}", recipe.more);
    held(&union, &[]).fails("say which with --control-mode, canny, tile, depth");
    held(&xlabs, &["--control-mode", "tile"]).fails("--control-mode means nothing to this ControlNet");
    let wrong = held(&union, &["--control-mode", "x"]);
    assert!(wrong.code == Some(2) && wrong.stderr.contains("it must be one of canny, tile"), "{wrong:?}");
}

#[test]
fn kontext_edits_a_picture() {
    let world = World::new();
    tiny_picture::flux(&world.path("dev"), "dev");
    tiny_picture::flux(&world.path("hob/models/kontext"), "dev");
    tiny_picture::is_kontext(&world.path("hob/models/kontext"));
    let png = BASE64_STANDARD.encode(photo(&world));
    let winter = ["make it winter", "--seed", "3", "--size", "64x32", "--init", "photo.png"];
    image(&world, "hob/models/kontext", &[&winter[..], &["-o", "a.png"]].concat()).ok();
    let recipe = Recipe::open(&world.path("a.png")).unwrap().unwrap();
    assert_eq!((recipe.guidance, recipe.init.unwrap().strength), (Some(2.5), 1.0));
    // Told so, dev is the same; and a picture that it made knows.
    image(&world, "dev", &[&winter[..], &["--edit", "-o", "b.png"]].concat()).ok();
    assert_eq!(picture(&world, "a.png").rgb, picture(&world, "b.png").rgb);
    let again = ["image", "dev", "--like", "b.png", "--init", "photo.png", "-o", "c.png"];
    world.run(&again).ok();
    assert!(fs::read(world.path("b.png")).unwrap() == fs::read(world.path("c.png")).unwrap());
    image(&world, "dev", &[&winter[..], &["-o", "d.png"]].concat()).ok();
    assert_ne!(picture(&world, "a.png").rgb, picture(&world, "d.png").rgb, "dev only begins with it");
    // By the server; without a size the picture is one that Kontext was trained with.
    let server = Serving::start(&world, &[]);
    let mut body = json!({"model": "kontext", "prompt": "make it winter", "steps": 2, "seed": 3, "image": png, "size": "64x32"});
    let made = server.post("/v1/images/edits", &body).ok();
    let bytes = BASE64_STANDARD.decode(made["data"][0]["b64_json"].as_str().unwrap()).unwrap();
    assert_eq!(Picture::read(&bytes, "a".as_ref()).unwrap(), picture(&world, "a.png"));
    body["steps"] = json!(1);
    body.as_object_mut().unwrap().remove("size");
    assert_eq!(server.post("/v1/images/edits", &body).ok()["size"], "1456x720");
}
