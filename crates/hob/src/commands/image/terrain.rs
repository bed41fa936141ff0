//! `hob image terrain`: maps of heights instead of pictures, of noise and a difficulty alone.

use std::path::Path;
use std::time::Instant;

use hob_engine::diffuse::consistency::Consistency;
use hob_engine::diffuse::terrain::{self, GRADES, Heights, Wanted};
use hob_engine::{Cpu, Precision, memory};
use hob_io::onnx::adm::Adm;
use hob_io::picture::{Init, Map, Recipe};
use serde_json::{Value, json};

use super::{ImageArgs, bar, by_chance};
use crate::error::{Error, Result};
use crate::picture::{stem, writable};
use crate::store::Model;
use crate::{catalogue, interrupt, places, room, terminal};

/// What a recipe calls the difficulty, and the highest point in metres.
const DIFFICULTY: &str = "Difficulty";
const HIGHEST: &str = "Highest point";

/// Makes the maps.
pub fn run(args: &ImageArgs, path: &Path) -> Result<()> {
    refuse(args)?;
    let like = match &args.like {
        None => None,
        Some(png) => {
            Some(Recipe::open(png)?.filter(|r| r.more.contains_key(DIFFICULTY)).ok_or_else(|| {
                Error::new(format!(
                    "{} does not say how a terrain was made; take one that Hob made",
                    png.display()
                ))
            })?)
        }
    };
    if like.as_ref().is_some_and(|l| l.init.is_some()) && args.init.is_none() {
        return Err(Error::new("that terrain began with another one: give it again with --init"));
    }
    let from = args.init.as_deref().map(heights).transpose()?;
    let strength = args.strength.unwrap_or(0.75);
    if strength > 1.0 {
        return Err(Error::new(
            "--strength is more than 1: give how much of the map is made anew, from 0 to 1",
        ));
    }
    if let Some(out) = &args.out {
        writable(out)?;
    }
    let threads = args.threads.or(std::thread::available_parallelism().ok()).map_or(1, |n| n.get());
    let mut model = Consistency::open(path, Cpu::new(threads, Precision::Fast))?;
    let as_before = like.as_ref().map(|l| (l.width, l.height));
    let as_given = from.as_ref().map(|f| (f.width, f.height));
    let (width, height) = args.size.or(as_before).or(as_given).unwrap_or((model.side(), model.side()));
    // Beside the model: noise, sums with their weights, and the map.
    let work = (model.planned()?.1 + 24 * width * height) as u64;
    let free = room::free(memory::process());
    if work > free {
        return Err(Error::new(format!(
            "a terrain of {width} × {height} needs {} of memory to work in, and {} are free; ask for a smaller one with --size",
            terminal::bytes(work),
            terminal::bytes(free)
        )));
    }
    let known = like.as_ref().and_then(|l| l.more[DIFFICULTY].parse().ok());
    let first = args.seed.or(like.as_ref().map(|l| l.seed)).unwrap_or_else(by_chance);
    let count = args.count.unwrap_or(1);

    let catch = interrupt::Catch::new();
    let mut made = Vec::new();
    for index in 0..count {
        let seed = first.wrapping_add(index.into());
        let wanted = Wanted {
            width,
            height,
            difficulty: args.difficulty.or(known),
            seed,
            from: from.as_ref().map(|f| (f, strength)),
        };
        let start = Instant::now();
        let bar = bar(1, "raising the land", args.json);
        let done = terrain::make(&mut model, &wanted, &mut |done, all| {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
            !catch.pressed()
        });
        bar.finish_and_clear();
        let Some((heights, difficulty)) = done? else {
            return Err(Error::interrupted(match made.len() {
                0 => "stopped; nothing was written".to_string(),
                n => format!("stopped; {n} of {count} terrains were written"),
            }));
        };
        let highest = heights.range().1;
        let more = [(DIFFICULTY, difficulty.to_string()), (HIGHEST, format!("{highest} m"))];
        let recipe = Recipe {
            steps: 1,
            cfg: 1.0,
            seed,
            width,
            height,
            count: 1,
            noise: "numpy".into(),
            version: format!("hob {}", env!("CARGO_PKG_VERSION")),
            model: stem(path),
            init: from.as_ref().map(|_| Init { strength, ..Init::default() }),
            more: more.map(|(key, text)| (key.to_string(), text)).into(),
            ..Recipe::default()
        };
        let out = args.place(seed, index);
        let map = Map { width, height, values: heights.metres };
        let array = out.extension().is_some_and(|e| e.eq_ignore_ascii_case("npy"));
        let bytes = if array { map.npy() } else { recipe.png_of_map(&map).map_err(Error::new)? };
        crate::file::write(&out, &bytes)?;
        let seconds = start.elapsed().as_secs_f64();
        if !args.json {
            let name = out.display();
            println!("{name} ({seconds:.1} s, seed {seed}, difficulty {difficulty}, 0 to {highest:.2} m)");
        }
        made.push(json!({
            "file": out, "seed": seed, "width": width, "height": height, "difficulty": difficulty,
            "highest_metres": highest, "seconds": seconds, "recipe": recipe,
        }));
    }
    if args.json {
        println!("{}", json!({ "terrains": made, "peak_bytes": memory::peak() }));
    }
    Ok(())
}

/// What makes no sense here is refused, and not passed over.
fn refuse(args: &ImageArgs) -> Result<()> {
    if args.prompt.is_some() {
        return Err(Error::new(format!(
            "the terrain model reads no prompt; say how rough the land is with --difficulty 1 to {GRADES}"
        )));
    }
    if args.steps.is_some_and(|n| n != 1) {
        return Err(Error::new("the terrain model makes its map in one step; leave --steps out"));
    }
    let given = [
        (args.negative.is_some(), "--negative"),
        (args.cfg.is_some(), "--cfg"),
        (args.guidance.is_some(), "--guidance"),
        (args.image_cfg.is_some(), "--image-cfg"),
        (args.sampler.is_some(), "--sampler"),
        (args.schedule.is_some(), "--schedule"),
        (args.mask.is_some(), "--mask"),
        (!args.lora.is_empty(), "--lora"),
        (!args.embedding.is_empty(), "--embedding"),
        (args.clip_skip.is_some(), "--clip-skip"),
        (args.vae.is_some(), "--vae"),
        (args.control.is_some(), "--control"),
        (args.control_image.is_some(), "--control-image"),
        (args.edit, "--edit"),
        (args.preview || args.preview_file.is_some(), "--preview"),
        (args.noise.is_some(), "--noise"),
    ];
    match given.iter().find(|(given, _)| *given) {
        None => Ok(()),
        Some((_, option)) => Err(Error::new(format!(
            "{option} means nothing to the terrain model; it takes --difficulty, --seed, --size, --count, --init and --strength"
        ))),
    }
}

/// The map to begin with: numpy's array in metres, or a PNG that Hob made, which says how high it is.
fn heights(path: &Path) -> Result<Heights> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, &e))?;
    let mut map = Map::read(&bytes, path)?;
    if !Map::is_array(&bytes) {
        let recipe = Recipe::read(&bytes, path)?;
        let said = recipe.and_then(|r| r.more.get(HIGHEST)?.strip_suffix(" m")?.parse().ok());
        let highest = said.filter(|x: &f32| x.is_finite() && *x >= 0.0).ok_or_else(|| {
            let path = path.display();
            Error::new(format!(
                "{path} does not say how high it is; give a PNG that Hob made, or an array (.npy) in metres"
            ))
        })?;
        map.values.iter_mut().for_each(|x| *x *= highest);
    }
    Ok(Heights { width: map.width, height: map.height, metres: map.values })
}

/// What `hob show` says of the model at `path`.
pub fn show(path: &Path, model: Option<&Model>, tensors: bool, as_json: bool) -> Result<()> {
    let adm = Adm::open(path)?;
    let bytes: u64 = adm.tensors.values().map(|t| t.len as u64).sum();
    let about = &adm.file().header().metadata;
    let side = adm.config["image_size"].as_u64().unwrap_or(0);
    let licence = model.and_then(|m| catalogue::find(m.alias?)).map(|e| e.licence);
    if as_json {
        let mut out = json!({
            "kind": "terrain", "name": model.map(|m| &m.name), "path": path, "place": model.map(|m| m.place.name()),
            "architecture": "adm", "parameters": adm.parameters(), "bytes": bytes, "licence": licence,
            "config": adm.config, "metadata": about,
        });
        if tensors {
            let entry = |(name, t): (&String, &hob_io::Tensor)| json!({"name": name, "stored_name": t.stored_name, "shape": t.shape, "dtype": t.dtype.to_string(), "bytes": t.len});
            out["tensors"] = adm.tensors.iter().map(entry).collect();
        }
        println!("{out:#}");
        return Ok(());
    }
    let line = |name: &str, value: String| println!("{}  {value}", terminal::dim(&format!("{name:<20}")));
    if let Some(model) = model {
        let alias = model.alias.map(|a| format!(" ({a})")).unwrap_or_default();
        line("name", terminal::bold(&terminal::clean(&model.name)) + &alias);
    }
    line("path", places::short(path));
    line("makes", format!("maps of heights, of noise and a difficulty from 1 to {GRADES}, in one step"));
    line("size of a tile", format!("{side} × {side} pixels, 0 to {:.2} m high", terrain::HIGHEST));
    line("architecture", "consistency model, OpenAI's UNet of pixels (ADM)".into());
    line("parameters", terminal::count(adm.parameters()));
    line("size", terminal::bytes(bytes));
    let levels: Vec<String> =
        adm.config["channel_mult"].as_array().into_iter().flatten().map(Value::to_string).collect();
    let channels = &adm.config["model_channels"];
    let blocks = &adm.config["num_res_blocks"];
    line("levels", format!("{channels} channels times {}, {blocks} blocks each", levels.join(", ")));
    for key in ["training", "checkpoint"] {
        if let Some(text) = about.get(key) {
            line(key, terminal::clean(text));
        }
    }
    line("licence", licence.unwrap_or("not stated").into());
    if tensors {
        let row = |(name, t): (&String, &hob_io::Tensor)| {
            let shape = t.shape.iter().map(usize::to_string).collect::<Vec<_>>().join(" × ");
            vec![terminal::clean(name), shape, t.dtype.to_string(), terminal::bytes(t.len as u64)]
        };
        let rows: Vec<_> = adm.tensors.iter().map(row).collect();
        print!("\n{}", terminal::table(&["TENSOR", "SHAPE", "FORMAT", "SIZE"], &rows, &[3]));
    }
    Ok(())
}

/// What `hob fit` says of the model at `path`: it runs on the processor, within what is free or `memory`.
pub fn fit(name: &str, path: &Path, memory: Option<u64>, as_json: bool) -> Result<()> {
    let model = Consistency::open(path, Cpu::new(1, Precision::Fast))?;
    let (process, (weights, work)) = (memory::process(), model.planned()?);
    let total = (process + weights + work) as u64;
    let free = memory.unwrap_or_else(|| room::free(process));
    let fits = total <= free;
    if as_json {
        let out = json!({
            "model": name, "architecture": "adm", "place": "this machine", "free_bytes": free, "total_bytes": total,
            "weights_bytes": weights, "activation_bytes": work, "overhead_bytes": process,
            "verdict": if fits { "ram" } else { "no" },
        });
        println!("{out}");
        return Ok(());
    }
    println!("{}  {}\n", terminal::bold(&terminal::clean(name)), terminal::dim("maps of heights"));
    let whole = total.max(free).max(1) as f64;
    let row = |name: &str, n: usize| {
        println!("  {name:<16} {:>9}  {}", terminal::bytes(n as u64), terminal::bar(n as f64 / whole, 24));
    };
    row("weights", weights);
    row("activations", work);
    row("overhead", process);
    row("total", total as usize);
    let side = model.side();
    let verdict = if fits { "Runs on the processor" } else { "Does not fit" };
    let (total, free) = (terminal::bytes(total), terminal::bytes(free));
    println!(
        "\n  {verdict}: {total} of {free} free, for maps of {side} × {side}; larger ones are made in tiles."
    );
    Ok(())
}
