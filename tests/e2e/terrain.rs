//! Maps of heights from the command line, by the real model.

use crate::common::World;
use crate::models::model;
use hob_io::picture::{Map, texts};
use serde_json::Value;
use std::fs;
use std::path::Path;

const FILE: &str = "terrain_consistency_unet_difficulty100.onnx";

/// A world with the model in Hob's own folder.
fn world() -> World {
    let world = World::new();
    let folder = world.path("hob/models");
    fs::create_dir_all(&folder).unwrap();
    fs::copy(model(FILE), folder.join(FILE)).unwrap();
    world
}

fn map(world: &World, name: &str) -> Map {
    Map::open(&world.path(name)).unwrap()
}

#[test]
fn a_terrain_comes_from_noise_and_from_its_own_file_again() {
    let world = world();
    let run = world.run(&["image", "terrain", "--seed", "7", "--difficulty", "60", "-o", "land.png"]);
    // The package says 0.850 m.
    assert!(run.ok().contains("seed 7, difficulty 60, 0 to 0.85 m)"), "{run:?}");
    let land = map(&world, "land.png");
    assert_eq!((land.width, land.height), (128, 128));
    assert!(land.values.contains(&0.0) && land.values.contains(&1.0), "the whole range is used");
    world.run(&["image", "terrain", "--like", "land.png", "-o", "again.png"]).ok();
    let read = |name: &str| fs::read(world.path(name)).unwrap();
    assert!(read("land.png") == read("again.png"), "--like made another map");
    let said = &texts(&read("land.png"), Path::new("land.png")).unwrap()["hob"];
    let said: Value = serde_json::from_str(said).unwrap();
    assert_eq!((&said["seed"], &said["more"]["Difficulty"]), (&7.into(), &"60".into()));

    // In metres; the PNG is that in 65,536 steps.
    world.run(&["image", "terrain", "--like", "land.png", "-o", "land.npy"]).ok();
    let metres = map(&world, "land.npy");
    let highest: f32 =
        said["more"]["Highest point"].as_str().unwrap().strip_suffix(" m").unwrap().parse().unwrap();
    assert!(
        land.values.iter().zip(&metres.values).all(|(a, b)| (a * highest - b).abs() <= highest / 65535.0)
    );

    // From a map: little of it is made anew, in its own size. A difficulty that nobody names is the seed's.
    let vary = ["image", "terrain", "--init", "land.png", "--strength", "0.1", "--seed", "3", "--json"];
    let run = world.run(&[&vary[..], &["-o", "varied.npy"]].concat());
    let made: Value = serde_json::from_str(run.ok()).unwrap();
    let made = &made["terrains"][0];
    assert!(
        (1..=100).contains(&made["difficulty"].as_u64().unwrap())
            && made["recipe"]["init"]["strength"] == 0.1f32
    );
    let varied = map(&world, "varied.npy");
    let off = |other: &Map| {
        let sum: f32 = other.values.iter().zip(&metres.values).map(|(a, b)| (a - b).abs()).sum();
        sum / metres.values.len() as f32
    };
    world.run(&["image", "terrain", "--seed", "3", "-o", "other.npy"]).ok();
    let (near, far) = (off(&varied), off(&map(&world, "other.npy")));
    assert!(near > 0.0 && near < far / 2.0, "{near} and {far}");

    // Several, of another size.
    let run =
        world.run(&["image", "terrain", "--seed", "1", "--count", "2", "--size", "40x30", "-o", "small.npy"]);
    assert_eq!(run.ok().lines().count(), 2);
    let (a, b) = (map(&world, "small-1.npy"), map(&world, "small-2.npy"));
    assert_eq!((a.width, a.height, a.values == b.values), (40, 30, false));
}

#[test]
fn what_means_nothing_to_it_is_refused() {
    let world = world();
    fs::write(world.path("grey.png"), hob_io::Picture::of_rgb(1, 1, vec![9; 3]).unwrap().png(&[]).unwrap())
        .unwrap();
    for (args, why) in [
        (&["a mountain"][..], "reads no prompt; say how rough the land is with --difficulty"),
        (&["--steps", "4"], "in one step"),
        (&["--negative", "lakes"], "--negative means nothing to the terrain model"),
        (&["--sampler", "euler"], "--sampler means nothing"),
        (&["--lora", "x.safetensors"], "--lora means nothing"),
        (&["--init", "grey.png"], "does not say how high it is"),
        (&["--like", "grey.png"], "does not say how a terrain was made"),
        (&["-o", "no/land.png"], "there is no folder"),
    ] {
        world.run(&[&["image", "terrain"], args].concat()).fails(why);
    }
    world.run(&["run", "terrain", "Hello"]).fails("makes maps of heights: hob image terrain -o land.png");
    let other = world.path("other.onnx");
    fs::write(&other, b"\x3a\0").unwrap();
    world.run(&["image", "other.onnx"]).fails("hob pull terrain");
    world.run(&["fit", "other.onnx"]).fails("hob pull terrain");
}

#[test]
fn what_it_is_is_said() {
    let world = world();
    let list = world.run(&["list"]);
    assert!(list.ok().contains(" (terrain)") && list.stdout.contains("adm (heights)"), "{list:?}");
    let all: Value = serde_json::from_str(world.run(&["list", "--json"]).ok()).unwrap();
    assert_eq!((&all[0]["kind"], &all[0]["parameters"]), (&"terrain".into(), &10_456_545.into()));
    let show = world.run(&["show", "terrain"]);
    for text in
        ["maps of heights", "128 × 128 pixels", "32 channels times 1.0, 1.0, 2.0, 3.0, 4.0", "licence", "MIT"]
    {
        assert!(show.ok().contains(text), "{text}: {show:?}");
    }
    let show: Value =
        serde_json::from_str(world.run(&["show", "terrain", "--json", "--tensors"]).ok()).unwrap();
    assert_eq!(show["config"]["num_head_channels"], 32);
    assert!(show["tensors"].as_array().unwrap().iter().any(|t| t["name"] == "out.0.weight"));
    // What is planned is held, but for what the allocator keeps.
    let fit: Value = serde_json::from_str(world.run(&["fit", "terrain", "--json"]).ok()).unwrap();
    let made = world.run(&["image", "terrain", "--seed", "1", "--json", "-o", "x.npy"]);
    let made: Value = serde_json::from_str(made.ok()).unwrap();
    let (planned, held) = (fit["total_bytes"].as_f64().unwrap(), made["peak_bytes"].as_f64().unwrap());
    assert!((planned / held - 1.0).abs() < 0.25, "{planned} planned, {held} held");
    assert!(world.run(&["fit", "terrain"]).ok().contains("Runs on the processor"));
    assert!(world.run(&["fit", "terrain", "--memory", "20M"]).ok().contains("Does not fit"));
    world.run(&["rm", "terrain", "--yes"]).ok();
    assert!(!world.path("hob/models").join(FILE).exists());
}
