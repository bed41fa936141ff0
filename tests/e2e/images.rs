//! Pictures from `hob serve`: by OpenAI's API, by A1111's, one after another, within bounds.

use crate::common::World;
use crate::serving::{Reply, Serving, install};
use crate::tiny::Tiny;
use crate::tiny_picture;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hob_io::Picture;
use hob_io::picture::Recipe;
use serde_json::{Value, json};
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

const MAKE: &str = "/v1/images/generations";
const EDIT: &str = "/v1/images/edits";

/// A server with a picture model among those of this machine, and a language model.
fn serving(world: &World, args: &[&str]) -> Serving {
    tiny_picture::sd15(&world.path("hob/models/tiny-sd"));
    install(world, &Tiny::llama().write(world, "tiny"));
    Serving::start(world, args)
}

fn ask(prompt: &str) -> Value {
    json!({"model": "tiny-sd", "prompt": prompt, "steps": 2, "seed": 5, "sampler": "euler"})
}

fn with(mut body: Value, more: Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn decode(text: &Value) -> (Picture, Recipe) {
    let bytes = BASE64_STANDARD.decode(text.as_str().unwrap()).unwrap();
    let path = Path::new("answer.png");
    (Picture::read(&bytes, path).unwrap(), Recipe::read(&bytes, path).unwrap().unwrap())
}

/// A picture of stripes, and a mask of the same size: of its left half, in the alpha or in white.
fn given() -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let (w, h) = (32, 24);
    let rgb = (0..w * h).flat_map(|i| [(i % w * 8) as u8, (i / w * 10) as u8, 90]).collect();
    let image = Picture::of_rgb(w, h, rgb).unwrap();
    let left = |i: usize| i % w < w / 2;
    let alpha = (0..w * h).map(|i| if left(i) { 0 } else { 255 }).collect();
    let clear = Picture { alpha: Some(alpha), ..image.clone() };
    let white = (0..w * h).flat_map(|i| [if left(i) { 255 } else { 0 }; 3]).collect();
    let white = Picture::of_rgb(w, h, white).unwrap();
    [image, clear, white].map(|p| p.png(&[]).unwrap()).into()
}

/// A form with files and fields.
fn form(server: &Serving, files: &[(&str, &[u8])], fields: &[(&str, &str)]) -> Reply {
    let mut body = Vec::new();
    for (name, bytes) in files {
        let head =
            format!("--xyz\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"{name}.png\"\r\n");
        body.extend([head.as_bytes(), b"Content-Type: image/png\r\n\r\n", bytes, b"\r\n"].concat());
    }
    for (name, value) in fields {
        let part = format!("--xyz\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
        body.extend(part.as_bytes());
    }
    body.extend(b"--xyz--\r\n");
    server.send_bytes(EDIT, &body, "multipart/form-data; boundary=xyz")
}

#[test]
fn pictures_come_from_words() {
    let world = World::new();
    let server = serving(&world, &[]);
    let made = server.post(MAKE, &ask("a (red:1.3) fox")).ok();
    let (picture, recipe) = decode(&made["data"][0]["b64_json"]);
    assert_eq!((picture.width, picture.height), (tiny_picture::SIDE, tiny_picture::SIDE));
    assert_eq!((recipe.prompt.as_str(), recipe.steps, recipe.seed), ("a (red:1.3) fox", 2, 5));
    assert_eq!((recipe.model.as_str(), recipe.sampler.as_str()), ("tiny-sd", "euler"));
    assert!(made["created"].as_u64().unwrap() > 1_700_000_000 && made["data"][0]["seed"] == 5);

    // The same again, as the second of two, and by the command line.
    let again = server.post(MAKE, &with(ask("a (red:1.3) fox"), json!({"seed": 4, "n": 2}))).ok();
    let seeds: Vec<_> =
        again["data"].as_array().unwrap().iter().map(|d| d["seed"].as_u64().unwrap()).collect();
    assert_eq!(seeds, [4, 5]);
    assert_eq!(decode(&again["data"][1]["b64_json"]).0, picture);
    let model = world.path("hob/models/tiny-sd");
    let run = world.run(&[
        "image",
        model.to_str().unwrap(),
        "a (red:1.3) fox",
        "--steps=2",
        "--seed=5",
        "--sampler=euler",
        "-o=x.png",
    ]);
    run.ok();
    assert_eq!(Picture::open(&world.path("x.png")).unwrap(), picture);
    assert_ne!(decode(&again["data"][0]["b64_json"]).0, picture);

    // Without a name the only one is meant; a size is kept to.
    let wide = server.post(MAKE, &json!({"prompt": "x", "size": "48x16", "steps": 1})).ok();
    let (picture, _) = decode(&wide["data"][0]["b64_json"]);
    assert_eq!((picture.width, picture.height), (48, 16));
    assert_eq!(wide["size"], "48x16");
}

#[test]
fn what_is_wrong_is_said() {
    let world = World::new();
    let server = serving(&world, &["--memory=64M"]);
    let wrong = |more: Value| server.post(MAKE, &with(ask("x"), more)).fails(400);
    for (more, why) in [
        (json!({"prompt": null}), "`prompt` is missing"),
        (json!({"prompt": "x".repeat(40_000)}), "longer than 32000"),
        (json!({"size": "33x32"}), "multiples of 2"),
        (json!({"size": "9000x16"}), "`size` is a string"),
        (json!({"size": "big"}), "must be auto, or as 512x768"),
        (json!({"n": 11}), "from 1 to 10"),
        (json!({"steps": 0}), "from 1 to 1000"),
        (json!({"cfg": -1}), "from 0 to 100"),
        (json!({"sampler": "eulr"}), "did you mean euler?"),
        (json!({"schedule": "kerras"}), "did you mean karras?"),
        (json!({"noise": "white"}), "torch-cpu or philox"),
        (json!({"response_format": "url"}), "b64_json"),
        (json!({"output_format": "webp"}), "png"),
    ] {
        let said = wrong(more.clone());
        assert!(said.contains(why), "{more}: {said}");
    }
    assert!(server.post(MAKE, &with(ask("x"), json!({"stream": true}))).fails(501).contains("not streamed"));
    let unknown = server.post(MAKE, &with(ask("x"), json!({"model": "../tiny-sd"})));
    assert!(unknown.fails(404).contains("there are tiny-sd"));
    assert_eq!(unknown.json()["error"]["code"], "model_not_found");
    // A language model makes no pictures, and the other way round.
    server.post(MAKE, &with(ask("x"), json!({"model": "tiny"}))).fails(404);
    let chat = json!({"model": "tiny-sd", "messages": [{"role": "user", "content": "x"}]});
    assert!(server.post("/v1/chat/completions", &chat).fails(404).contains("/v1/images/generations"));
    // What does not fit into memory is refused before it is begun.
    let large = server.post(MAKE, &with(ask("x"), json!({"size": "4096x4096"})));
    assert!(large.fails(503).contains("of memory"), "{}", large.text);
    server.post(MAKE, &ask("x")).ok();
}

#[test]
fn picture_models_are_listed_as_such() {
    let world = World::new();
    let server = serving(&world, &[]);
    let kinds = |list: &Value| -> Vec<(String, bool)> {
        let list = list["data"].as_array().unwrap().iter();
        list.map(|m| (m["id"].as_str().unwrap().into(), m["kind"] == "image")).collect()
    };
    let expected = [("tiny".to_string(), false), ("tiny-sd".to_string(), true)];
    assert_eq!(kinds(&server.get("/v1/models").ok()), expected);
    assert_eq!(server.get("/v1/models/tiny-sd").ok()["kind"], "image");
    assert_eq!(server.get("/sdapi/v1/sd-models").ok()[0]["model_name"], "tiny-sd");
    let tags = server.get("/api/tags").ok();
    let named: Vec<&str> =
        tags["models"].as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap()).collect();
    assert_eq!(named, ["tiny:latest", "tiny-sd:latest"]);
    let of = |m: &Value| m["details"]["family"].as_str().unwrap().to_string();
    assert_eq!(
        (of(&tags["models"][1]), &tags["models"][1]["details"]["format"]),
        ("Stable Diffusion 1".into(), &"safetensors".into())
    );
    assert_eq!(server.post("/api/show", &json!({"model": "tiny-sd"})).ok()["capabilities"], json!(["image"]));

    // The page's list says what a picture takes; it loads and unloads by name.
    let listed = || server.get("/hob/models").ok()["pictures"][0].clone();
    let tiny = listed();
    assert_eq!(
        (&tiny["name"], &tiny["purpose"], &tiny["error"]),
        (&"tiny-sd".into(), &"from words".into(), &Value::Null)
    );
    let (small, large) = (&tiny["needs"][0], &tiny["needs"][1]);
    assert_eq!((&small["side"], &large["side"], &small["fits"]), (&512.into(), &1024.into(), &true.into()));
    assert!(
        small["bytes"].as_u64() > tiny["bytes"].as_u64() && large["bytes"].as_u64() > small["bytes"].as_u64()
    );
    let name = json!({"name": "tiny-sd"});
    server.post("/hob/models/load", &name).ok();
    assert!(listed()["loaded"]["planned"].as_u64().unwrap() > 0);
    assert!(server.post("/hob/models/remove", &name).fails(400).contains("unload it first"));
    server.post("/hob/models/unload", &name).ok();
    assert_eq!(listed()["loaded"], Value::Null);
    let list: Value = serde_json::from_str(world.run(&["list", "--json"]).ok()).unwrap();
    assert_eq!(list[1]["kind"], "image");
    assert_eq!(list[1]["architecture"], "Stable Diffusion 1");
    assert!(world.run(&["list"]).ok().contains("Stable Diffusion 1 (image)"));
    world.run(&["run", "tiny-sd", "hello"]).fails("tiny-sd makes pictures: hob image");

    // One that lies elsewhere is given by its path, and called by its name.
    let elsewhere = world.path("other/painter-1.5");
    tiny_picture::sd15(&elsewhere);
    let server = Serving::start(&world, &["--image-model", elsewhere.to_str().unwrap()]);
    server.post(MAKE, &with(ask("x"), json!({"model": "Painter-1.5"}))).ok();
    assert!(
        server.post(MAKE, &with(ask("x"), json!({"model": null}))).ok()["data"][0]["recipe"]["model"]
            == "painter-1.5"
    );
    server.post(MAKE, &with(ask("x"), json!({"model": elsewhere}))).fails(404);
    world.run(&["serve", "--port=0", "--image-model=nowhere"]).fails("nowhere");
}

#[test]
fn pictures_are_edited_alike_in_both_dialects() {
    let world = World::new();
    let server = serving(&world, &[]);
    let (image, clear, white) = given();
    let fields = [
        ("prompt", "a door"),
        ("seed", "9"),
        ("steps", "4"),
        ("sampler", "euler"),
        ("schedule", "normal"),
        ("cfg", "7"),
    ];
    let sized = [&fields[..], &[("size", "32x24"), ("model", "tiny-sd")]].concat();
    let edit = |files: &[(&str, &[u8])], more: &[(&str, &str)]| {
        let reply = form(&server, files, &[&sized[..], more].concat()).ok();
        decode(&reply["data"][0]["b64_json"])
    };
    let (masked, recipe) = edit(&[("image", &image), ("mask", &clear)], &[]);
    assert_eq!((masked.width, masked.height, recipe.init.unwrap().strength), (32, 24, 1.0));
    let (by_white, _) = edit(&[("image[]", &image), ("mask", &white)], &[]);
    let (by_itself, _) = edit(&[("image", &clear)], &[("strength", "1")]);
    assert_eq!(masked, by_white);
    assert_eq!(masked, by_itself);
    let (whole, recipe) = edit(&[("image", &image)], &[]);
    assert!(whole != masked && recipe.init.unwrap().strength == 0.75);

    let base = |bytes: &[u8]| BASE64_STANDARD.encode(bytes);
    let a1111 = |more: Value| {
        let body = json!({"prompt": "a door", "seed": 9, "steps": 4, "sampler_name": "Euler", "scheduler": "normal",
            "cfg_scale": 7, "width": 32, "height": 25, "denoising_strength": 1,
            "init_images": [format!("data:image/png;base64,{}", base(&image))]});
        let reply = server.post("/sdapi/v1/img2img", &with(body, more)).ok();
        assert!(reply["parameters"]["init_images"].is_null() && reply["parameters"]["steps"] == 4);
        decode(&reply["images"][0]).0
    };
    assert_eq!(a1111(json!({"mask": base(&white)})), masked);
    let black = Picture::read(&white, Path::new("mask")).unwrap();
    let black = Picture { rgb: black.rgb.iter().map(|x| 255 - x).collect(), ..black }.png(&[]).unwrap();
    assert_eq!(a1111(json!({"mask": base(&black), "inpainting_mask_invert": 1})), masked);
    assert_ne!(a1111(json!({})), masked);
    assert_eq!(a1111(json!({"denoising_strength": 0.75})), whole);
    // By JSON as well; without a size its own is taken.
    let reply = server.post(EDIT, &with(ask("a door"), json!({"image": base(&image)}))).ok();
    assert_eq!(reply["size"], "32x24");

    assert!(form(&server, &[], &fields).fails(400).contains("`image` is missing"));
    assert!(form(&server, &[("image", b"no picture")], &fields).fails(400).contains("image"));
    assert!(
        form(&server, &[("image[]", &image), ("image[]", &image)], &fields)
            .fails(400)
            .contains("one at a time")
    );
    assert!(
        server.send_bytes(EDIT, b"--xyz", "multipart/form-data; boundary=xyz").fails(400).contains("damaged")
    );
}

#[test]
fn clients_of_a1111_find_what_they_ask_for() {
    let world = World::new();
    let server = serving(&world, &[]);
    let ask = json!({"prompt": "a fox", "negative_prompt": "blurry", "steps": 3, "seed": 7, "width": 37, "height": 32,
        "sampler_name": "DPM++ 2M Karras", "cfg_scale": 5, "n_iter": 2, "styles": [], "enable_hr": false,
        "override_settings": {"sd_model_checkpoint": "tiny-sd.safetensors [abc]", "CLIP_stop_at_last_layers": 2}});
    let reply = server.post("/sdapi/v1/txt2img", &ask).ok();
    let images = reply["images"].as_array().unwrap();
    let (picture, recipe) = decode(&images[1]);
    assert_eq!((images.len(), picture.width, picture.height, recipe.seed), (2, 36, 32, 8));
    assert_eq!(
        (recipe.sampler.as_str(), recipe.schedule.as_str(), recipe.clip_skip),
        ("dpmpp_2m", "karras", Some(2))
    );
    let info: Value = serde_json::from_str(reply["info"].as_str().unwrap()).unwrap();
    assert_eq!(info["all_seeds"], json!([7, 8]));
    let text = info["infotexts"][0].as_str().unwrap();
    assert!(text.starts_with("a fox\nNegative prompt: blurry\nSteps: 3, Sampler: DPM++ 2M,"), "{text}");
    let told = server.post("/sdapi/v1/png-info", &json!({"image": images[0]})).ok();
    assert_eq!(told["info"], *text);

    let named = |path: &str, name: &str| {
        let list = server.get(path).ok();
        assert!(list.as_array().unwrap().iter().any(|s| s["name"] == name), "{name} in {list}");
    };
    named("/sdapi/v1/samplers", "Euler a");
    named("/sdapi/v1/schedulers", "karras");
    assert_eq!(server.get("/sdapi/v1/options").ok()["sd_model_checkpoint"], "tiny-sd");
    server.post("/sdapi/v1/options", &json!({"sd_model_checkpoint": "tiny-sd", "other": 1})).ok();
    for none in ["sd-vae", "upscalers", "latent-upscale-modes", "loras"] {
        assert_eq!(server.get(&format!("/sdapi/v1/{none}")).ok(), json!([]));
    }
    assert_eq!(server.get("/sdapi/v1/progress").ok()["progress"], 0.0);
    // What would change the picture and is not there is refused, in A1111's shape.
    for more in [
        json!({"enable_hr": true}),
        json!({"script_name": "x"}),
        json!({"alwayson_scripts": {"controlnet": {}}}),
    ] {
        let refused = server.post("/sdapi/v1/txt2img", &with(ask.clone(), more));
        assert_eq!(refused.status, 501, "{}", refused.text);
        assert!(refused.json()["detail"].as_str().unwrap().contains("leave it out"));
    }
    let unknown = server.post("/sdapi/v1/options", &json!({"sd_model_checkpoint": "other"}));
    assert_eq!((unknown.status, unknown.json()["error"].as_str()), (404, Some("HTTPException")));
}

/// A request that takes minutes.
fn endless() -> Value {
    json!({"model": "tiny-sd", "prompt": "x", "steps": 1000, "n": 10, "size": "128x128", "seed": 1})
}

/// Sends it, and waits until it is at work.
fn begin(server: &Serving) -> std::net::TcpStream {
    let body = endless().to_string();
    let head = format!("POST {MAKE} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
    let stream = server.open(&(head + &body));
    let start = Instant::now();
    while server.get("/sdapi/v1/progress").ok()["state"]["sampling_step"].as_u64().unwrap() < 3 {
        assert!(start.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(10));
    }
    stream
}

/// Waits until nothing is being made, and gives how long it took.
fn idle(server: &Serving) -> Duration {
    let start = Instant::now();
    while server.get("/sdapi/v1/progress").ok()["state"]["job_count"] != 0 {
        assert!(start.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(10));
    }
    start.elapsed()
}

#[test]
fn who_leaves_and_who_interrupts_ends_the_work() {
    let world = World::new();
    let server = serving(&world, &[]);
    let stream = begin(&server);
    let now = server.get("/sdapi/v1/progress").ok();
    assert!(now["progress"].as_f64().unwrap() > 0.0 && now["eta_relative"].as_f64().unwrap() > 0.0, "{now}");
    assert_eq!((&now["state"]["sampling_steps"], &now["state"]["job_count"]), (&json!(1000), &json!(10)));
    drop(stream);
    assert!(idle(&server) < Duration::from_secs(5));

    let mut stream = begin(&server);
    server.post("/sdapi/v1/interrupt", &json!({})).ok();
    let mut answer = [0; 64];
    let n = stream.read(&mut answer).unwrap();
    assert!(String::from_utf8_lossy(&answer[..n]).starts_with("HTTP/1.1 400 "));
    idle(&server);
    server.post(MAKE, &ask("x")).ok();
}

#[test]
fn a_full_queue_is_said_so() {
    let world = World::new();
    let server = serving(&world, &[]);
    let first = begin(&server);
    let body = endless().to_string();
    let head = format!("POST {MAKE} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
    let waiting: Vec<_> = (0..16).map(|_| server.open(&format!("{head}{body}"))).collect();
    std::thread::sleep(Duration::from_millis(500));
    let refused = server.post(MAKE, &ask("x"));
    assert!(refused.fails(503).contains("try again"));
    assert!(refused.headers.contains_key("retry-after"));
    drop((first, waiting));
    idle(&server);
    server.post(MAKE, &ask("x")).ok();
}

#[test]
fn bodies_with_pictures_may_be_larger_but_not_without_end() {
    let world = World::new();
    let server = serving(&world, &[]);
    let body = |mb: usize| format!("{{\"image\": \"{}\", \"prompt\": \"x\"}}", "A".repeat(mb << 20));
    assert!(server.send(EDIT, &body(33), &[]).fails(400).contains("image"));
    // The length alone is enough to refuse it.
    let told = |path: &str, mb: usize| {
        let length = mb << 20;
        server.raw(&format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"))
    };
    for (path, mb) in
        [("/v1/chat/completions", 33), (EDIT, 65), ("/sdapi/v1/img2img", 65), ("/hob/images", 65)]
    {
        let answer = told(path, mb);
        assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("--max-body"), "{path}: {answer}");
    }
    let small = Serving::start(&world, &["--max-body=20K"]);
    assert!(
        small
            .send(EDIT, &format!("{{\"image\": \"{}\"}}", "A".repeat(30_000)), &[])
            .fails(413)
            .contains("--max-body")
    );
}

#[test]
fn an_idle_picture_model_is_let_go() {
    let world = World::new();
    let server = serving(&world, &["--keep-alive=1s", "--token=secret"]);
    let basic = format!("Basic {}", BASE64_STANDARD.encode("user:secret"));
    let make = || server.send(MAKE, &ask("x").to_string(), &[("authorization", &basic)]);
    let loaded = || {
        let ps = server.send_get("/hob/ps", &[("authorization", "Bearer secret")]).ok();
        ps["models"].as_array().unwrap().iter().any(|m| m["name"] == "tiny-sd" && m["kind"] == "image")
    };
    assert_eq!(server.post(MAKE, &ask("x")).status, 401);
    make().ok();
    assert!(loaded());
    let start = Instant::now();
    while loaded() {
        assert!(start.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(50));
    }
    make().ok();
}

#[test]
fn the_page_keeps_pictures_and_deletes_them_for_real() {
    let world = World::new();
    let server = serving(&world, &[]);
    let told = server.get("/hob/images").ok();
    assert_eq!((&told["models"], &told["pictures"]), (&json!(["tiny-sd"]), &json!([])));
    let (image, clear, _) = given();
    let url = |bytes: &[u8]| format!("data:image/png;base64,{}", BASE64_STANDARD.encode(bytes));
    let new = json!({"model": "tiny-sd", "prompt": "a secret lighthouse", "steps": 2, "seed": 3, "count": 2, "width": 340, "height": 8,
        "image": url(&image), "mask": url(&clear), "strength": 0.5});
    let ids = server.post("/hob/images", &new).ok()["ids"].clone();
    assert_eq!(ids, json!([1, 2]));
    let list = server.get("/hob/images").ok()["pictures"].clone();
    assert_eq!((&list[0]["id"], &list[0]["recipe"]["seed"]), (&json!(2), &json!(4)));
    assert_eq!(list[1]["recipe"]["prompt"], "a secret lighthouse");
    let file = |name: &str| {
        let reply = server.bytes(&format!("/hob/images/2/{name}"));
        Picture::read(&reply, Path::new("file")).map(|p| (p.width, p.height))
    };
    assert_eq!((file("picture.png").unwrap(), file("small.png").unwrap()), ((340, 8), (320, 7)));
    assert_eq!(server.get("/hob/images/2/other.png").status, 404);
    assert_eq!(server.get("/hob/images?before=2").ok()["pictures"].as_array().unwrap().len(), 1);
    for bad in [
        json!({"count": 0}),
        json!({"strength": 2}),
        json!({"sampler": "x"}),
        json!({"image": "http://x"}),
        json!({"other": 1}),
    ] {
        assert_eq!(server.post("/hob/images", &with(new.clone(), bad.clone())).status, 400, "{bad}");
    }
    // What is made goes on though who asked left, until it is stopped; then nothing is kept.
    let long = with(
        new,
        json!({"steps": 1000, "count": 1, "width": 128, "height": 128, "image": null, "mask": null}),
    );
    let body = long.to_string();
    let head =
        format!("POST /hob/images HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
    let stream = server.open(&(head + &body));
    let running = || server.get("/hob/images/running").ok()["running"].clone();
    let start = Instant::now();
    while running()[0]["step"].as_u64().unwrap_or(0) < 2 {
        assert!(start.elapsed() < Duration::from_secs(60));
    }
    drop(stream);
    std::thread::sleep(Duration::from_millis(300));
    let now = running();
    assert!(now[0]["steps"] == 1000 && now[0]["left"].as_f64().unwrap() > 0.0, "{now}");
    assert_eq!(server.post("/hob/images/stop", &json!({"id": now[0]["id"]})).ok()["stopped"], true);
    idle(&server);
    assert_eq!(server.get("/hob/images").ok()["pictures"].as_array().unwrap().len(), 2);

    server.delete("/hob/images/1").ok();
    assert_eq!(server.delete("/hob/images/1").status, 404);
    server.delete("/hob/images").ok();
    assert_eq!(server.get("/hob/images").ok()["pictures"], json!([]));
    let on_disk = |name: &str| std::fs::read(world.path("hob").join(name)).unwrap_or_default();
    for name in ["conversations.sqlite", "conversations.sqlite-wal"] {
        assert!(!on_disk(name).windows(10).any(|w| w == b"lighthouse"), "{name}");
    }
}
