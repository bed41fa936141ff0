//! `hob image MODEL PROMPT`: a picture from words.

pub mod terrain;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use hob_engine::diffuse::{Event, MODES, Sampler, Schedule, Shape};
use hob_engine::memory;
use hob_io::Picture;
use hob_io::onnx::adm::is_onnx;
use hob_io::picture::{Init, Recipe};
use hob_io::pipeline::{Purpose, Role};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::Global;
use crate::error::{Error, Result};
use crate::picture::{Begin, Extras, Held, Studio, room, writable};
use crate::seen::Seen;
use crate::store::{self, Wanted};
use crate::{interrupt, terminal};

const EXAMPLES: &str = "Examples:
  hob image sd15/ \"a lighthouse at dawn\" -o dawn.png
  hob image sdxl.safetensors \"a (red:1.3) fox\" --negative blurry --steps 20 --sampler dpmpp_2m --schedule karras
  hob image sd15/ \"the same in winter\" --init dawn.png --strength 0.6
  hob image sd15/ \"a door\" --init wall.png --mask hole.png       white is painted anew
  hob image pix2pix/ \"make it winter\" --init photo.png --image-cfg 1.5
  hob image flux1-kontext-dev-Q4_K.gguf \"make it winter\" --init photo.png
  hob image flux1-fill-dev.gguf \"a door\" --init wall.png --mask hole.png
  hob image flux1-depth-dev.gguf \"a hall\" --control-image depths.png
  hob image sd15/ --like dawn.png -o again.png                    the same picture again
  hob image flux1-dev-Q4_K.gguf \"a cat\" --lora style.safetensors:0.8
  hob image sd15/ \"a hall\" --control canny.safetensors --control-image edges.png --preview
  hob image terrain --difficulty 70 --size 512x256 -o land.png    heights (hob pull terrain); -o land.npy: in metres

MODEL is a folder in diffusers' layout, a file with a whole model (safetensors), or a GGUF or safetensors of the denoiser
with its text encoders and VAE beside it. In prompts (word:1.2) and [word] weigh as in A1111's web UI.";

/// What A1111's text calls the first ControlNet.
const HELD: &str = "ControlNet 0";

/// What says of a picture that its model was told to edit.
const EDITED: &str = "Edits as";

/// Arguments of `hob image`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct ImageArgs {
    /// A folder or file of a picture model, or its name in hob list
    model: String,
    /// What the picture shows
    prompt: Option<String>,
    /// The PNG to write; several get a number [default: hob-SEED.png]
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// What the picture leads away from
    #[arg(long, value_name = "TEXT")]
    negative: Option<String>,
    /// Steps [default: as the model wants]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    steps: Option<u32>,
    /// How much the prompt counts against the negative one; 1 for not at all [default: as the model wants]
    #[arg(long, value_name = "X", value_parser = number)]
    cfg: Option<f32>,
    /// What Flux.1 dev and its like are told of guidance [default: 3.5; Fill 30, Depth and Canny 10, Kontext 2.5]
    #[arg(long, value_name = "X", value_parser = number)]
    guidance: Option<f32>,
    /// How much the picture of --init counts, of models that edit by guidance as InstructPix2Pix [default: 1.5]
    #[arg(long, value_name = "X", value_parser = number)]
    image_cfg: Option<f32>,
    /// How to walk from noise to picture [default: the model's own]
    #[arg(long, value_name = "NAME", value_parser = Sampler::parse)]
    sampler: Option<Sampler>,
    /// Which levels of noise to walk through [default: the model's own]
    #[arg(long, value_name = "NAME", value_parser = Schedule::parse)]
    schedule: Option<Schedule>,
    /// Where the noise begins; the same gives the same picture [default: by chance]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Width and height in pixels, such as 512x768 [default: as the model was trained, or of the shape of what it edits]
    #[arg(long, value_name = "WxH", value_parser = size)]
    size: Option<(usize, usize)>,
    /// Pictures, with seeds one after another
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    count: Option<u32>,
    /// A picture to begin with, or, for a model that edits, the one to edit
    #[arg(long, value_name = "FILE")]
    init: Option<PathBuf>,
    /// How much of it is made anew, from 0 to 1 [default: 0.75, or 1 by a model that edits or fills in]
    #[arg(long, value_name = "X", requires = "init", value_parser = number)]
    strength: Option<f32>,
    /// Where it is painted anew: white; elsewhere it stays
    #[arg(long, value_name = "FILE", requires = "init")]
    mask: Option<PathBuf>,
    /// A LoRA and how much of it [default: 1]; may be given several times
    #[arg(long, value_name = "FILE[:SCALE]", value_parser = lora)]
    lora: Vec<(PathBuf, f32)>,
    /// Vectors of textual inversion, used by their name in the prompt; may be given several times
    #[arg(long, value_name = "FILE")]
    embedding: Vec<PathBuf>,
    /// Which layer of CLIP is taken, from its end: 2 is the one before the last
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=12))]
    clip_skip: Option<u32>,
    /// Another VAE
    #[arg(long, value_name = "FILE")]
    vae: Option<PathBuf>,
    /// A ControlNet that holds the picture to that of --control-image
    #[arg(long, value_name = "FILE", requires = "control_image")]
    control: Option<PathBuf>,
    /// What the ControlNet, or a model that paints after one, looks at: edges, depths, a pose, as it was trained
    #[arg(long, value_name = "FILE")]
    control_image: Option<PathBuf>,
    /// How much the ControlNet counts
    #[arg(long, value_name = "X", requires = "control", default_value = "1", value_parser = number)]
    control_strength: f32,
    /// What the picture is of, for a ControlNet for several kinds: canny, tile, depth, blur, pose, gray, lq, or a number
    #[arg(long, value_name = "KIND", requires = "control", value_parser = mode)]
    control_mode: Option<usize>,
    /// The model edits the picture of --init, though its file does not say so: Flux.1 Kontext looks like Flux.1 dev
    #[arg(long)]
    edit: bool,
    /// Show the picture in the terminal as it comes into being
    #[arg(long)]
    preview: bool,
    /// Write each step of it to a PNG, one over the other
    #[arg(long, value_name = "FILE")]
    preview_file: Option<PathBuf>,
    /// Where noise comes from: torch-cpu, as diffusers and ComfyUI begin, or philox, as A1111
    #[arg(long, value_name = "NAME")]
    noise: Option<String>,
    /// Make the picture in this PNG again; other options change what they name
    #[arg(long, value_name = "PNG")]
    like: Option<PathBuf>,
    /// Stay within that much memory: with the VAE in tiles, or else with weights read from the file again for each step
    /// [default: what is free]
    #[arg(long, value_name = "SIZE", value_parser = crate::room::parse)]
    memory: Option<u64>,
    /// How rough a terrain is, from 1 to 100 [default: by the seed]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    difficulty: Option<u32>,
    /// Number of threads [default: one for each core]
    #[arg(long, value_name = "N", value_parser = super::threads)]
    threads: Option<std::num::NonZeroUsize>,
    /// Print JSON: what was made, and how long it took
    #[arg(long)]
    json: bool,
}

/// Makes the pictures.
pub fn run(args: ImageArgs, _: &Global) -> Result<()> {
    let path = model(&args.model)?;
    if is_onnx(&path) {
        return terrain::run(&args, &path);
    }
    if args.prompt.is_none() && args.like.is_none() {
        return Err(Error::new("say what the picture shows: hob image MODEL \"a lighthouse at dawn\""));
    }
    if args.difficulty.is_some() {
        return Err(Error::new(
            "--difficulty means nothing to this model; it is of terrains (hob pull terrain)",
        ));
    }
    let like = match &args.like {
        None => None,
        Some(path) => Some(Recipe::open(path)?.ok_or_else(|| {
            Error::new(format!(
                "{} does not say how it was made; take a picture that Hob or A1111 made",
                path.display()
            ))
        })?),
    };
    let mut begin = match &args.init {
        None => None,
        Some(init) => Some(Begin {
            init: Picture::open(init)?,
            mask: args.mask.as_deref().map(Picture::open).transpose()?,
            strength: 0.0, // said below
            hashes: [
                Some(crate::file::sha256(init)?),
                args.mask.as_deref().map(crate::file::sha256).transpose()?,
            ],
        }),
    };
    if like.as_ref().is_some_and(|l| l.init.is_some()) && begin.is_none() {
        return Err(Error::new("that picture began with another one: give it again with --init"));
    }
    if like.as_ref().is_some_and(|l| l.more.contains_key(HELD)) && args.control.is_none() {
        return Err(Error::new(
            "that picture was held by a ControlNet: give it again with --control and --control-image",
        ));
    }
    let threads = args.threads.or(std::thread::available_parallelism().ok()).map_or(1, |n| n.get());
    let held = match &args.control_image {
        None => None,
        Some(image) => Some(Held {
            image: Picture::open(image)?,
            strength: args.control_strength,
            mode: args.control_mode,
        }),
    };
    if let Some(out) = &args.out {
        writable(out)?;
    }
    let extras = Extras {
        loras: args.lora.clone(),
        vae: args.vae.clone(),
        embeddings: args.embedding.clone(),
        control: args.control.clone(),
        edit: args.edit || like.as_ref().is_some_and(|l| l.more.contains_key(EDITED)),
    };
    let mut studio = Studio::open(&path, &extras, threads)?;
    let purpose = studio.painter().pipeline().purpose;
    if args.control_image.is_some() && args.control.is_none() && purpose != Purpose::Control {
        return Err(Error::new(
            "--control-image is for a ControlNet, or a model that paints after edges or depths: give a ControlNet with --control",
        ));
    }
    studio.hold(held);
    if args.image_cfg.is_some() && studio.defaults().image_cfg.is_none() {
        return Err(Error::new(
            "--image-cfg means nothing to this model; it is of those that edit by guidance, as InstructPix2Pix",
        ));
    }
    if let Some(begin) = &mut begin {
        let before = like.as_ref().and_then(|l| l.init.as_ref()).map(|i| i.strength);
        begin.strength = args.strength.or(before).unwrap_or_else(|| studio.strength());
    }
    let catch = interrupt::Catch::new();
    let hashing = || {
        let (wait, catch) = (terminal::delayed("reading the model for its hash, once"), &catch);
        move |done, all| {
            wait.set(done, all);
            !catch.pressed()
        }
    };
    if let Some(like) = &like {
        let mut all = studio.differs(like, &mut hashing());
        let (theirs, ours) = (like.init.as_ref(), begin.as_ref().map(Begin::noted));
        let hashes = |i: &Init| [i.hash.clone(), i.mask.clone()];
        let pairs =
            theirs.map(hashes).into_iter().flatten().zip(ours.as_ref().map(hashes).into_iter().flatten());
        if pairs.into_iter().any(|(theirs, ours)| theirs.is_some_and(|t| t.len() == 64 && Some(t) != ours)) {
            all.push("it began with another picture or mask".into());
        }
        for what in all {
            terminal::note(&format!("this will not be the same picture: {}", terminal::clean(&what)));
        }
        if catch.pressed() {
            return Err(Error::interrupted("stopped; nothing was written"));
        }
    }
    let recipe = args.recipe(&studio, like, begin.as_ref());
    let shown = args.preview || args.preview_file.is_some();
    let how = Shape { shown, again: recipe.count > 1, ..Shape::default() };
    let mut room = studio.room(&recipe, begin.as_ref(), how, u64::MAX)?;
    // What planning takes of the process's own memory stays with it.
    let process = memory::process();
    let bytes = args.memory.unwrap_or_else(|| crate::room::free(process));
    let beside = bytes.saturating_sub(process as u64);
    if room.total() as u64 > beside {
        room = studio.room(&recipe, begin.as_ref(), how, beside)?;
        // The denoiser is not made slower to show what colours show as well.
        if room.shape.shown && room.presses(Role::Denoiser) {
            room = studio.room(&recipe, begin.as_ref(), Shape { shown: false, ..how }, beside)?;
        }
    }
    if let Some((role, least)) = room.short() {
        let least = (process + least) as u64;
        let short = room::short((recipe.width, recipe.height), role, least);
        let what = match args.memory {
            Some(_) => format!(
                "{} are allowed; allow more with --memory {}",
                terminal::bytes(bytes),
                crate::room::asked(least as usize)
            ),
            None => format!("{} are free", terminal::bytes(bytes)),
        };
        return Err(Error::new(format!("{short}, and {what}, or ask for a smaller one with --size")));
    }
    let said = room::said(&room);
    if let (Some(said), false) = (&said, args.json) {
        terminal::note(&format!("memory: {said}"));
    }
    let (planned, phases) = (process + room.total(), room::told(&room));
    studio.settle(room);
    let mut seen = match shown {
        false => None,
        true => {
            let size = studio.painter().latents_of(recipe.width, recipe.height);
            let draw = args.preview && !args.json;
            Some(Seen::new(studio.preview(threads)?, size, draw, args.preview_file.clone()))
        }
    };

    let mut made = Vec::new();
    for index in 0..recipe.count {
        let mut recipe =
            Recipe { seed: recipe.seed.wrapping_add(index.into()), count: 1, index: 0, ..recipe.clone() };
        let start = Instant::now();
        let label = match args.count {
            Some(n) if n > 1 => format!("picture {} of {n}", index + 1),
            _ => "painting".into(),
        };
        let bar = bar(recipe.steps, &label, args.json || seen.as_ref().is_some_and(Seen::draws));
        let mut unseen = None;
        let picture = studio.make(&recipe, begin.as_ref(), &mut |event| {
            match event {
                Event::Encoding => bar.set_message("reading the picture"),
                Event::Step { step, steps, seen: latents } => {
                    if let (Some(seen), Some(latents)) = (&mut seen, latents) {
                        unseen = unseen
                            .take()
                            .or(seen.step(latents, &format!("{label}: step {step} of {steps}")).err());
                    }
                    bar.set_message(label.clone());
                    bar.set_length(steps as u64);
                    bar.set_position(step as u64);
                }
                Event::Decoding => {
                    bar.set_message("developing");
                    seen.iter_mut().for_each(Seen::rest);
                }
            }
            !catch.pressed()
        });
        bar.finish_and_clear();
        if let Some(seen) = &mut seen {
            seen.end();
        }
        let Some(picture) = picture? else {
            let what = match made.len() {
                0 => "stopped; nothing was written".to_string(),
                n => format!("stopped; {n} of {} pictures were written", args.count.unwrap_or(1)),
            };
            return Err(Error::interrupted(what));
        };
        // A preview is no reason to lose the picture.
        if let Some(why) = unseen {
            terminal::note(&format!("there was no preview: {why}"));
        }
        let out = args.place(recipe.seed, index);
        studio.sign(&mut recipe, &mut hashing());
        let png = recipe.png(&picture).map_err(Error::new)?;
        crate::file::write(&out, &png)?;
        if !args.json {
            println!("{} ({:.1} s, seed {})", out.display(), start.elapsed().as_secs_f64(), recipe.seed);
        }
        made.push(json!({
            "file": out, "seed": recipe.seed, "width": recipe.width, "height": recipe.height,
            "seconds": start.elapsed().as_secs_f64(), "recipe": recipe,
        }));
    }
    if args.json {
        let json = json!({
            "pictures": made, "planned_bytes": planned, "peak_bytes": memory::peak(),
            "memory": { "process_bytes": process, "said": said, "phases": phases },
        });
        println!("{json}");
    }
    Ok(())
}

impl ImageArgs {
    /// What is to be made: the model's own ways, changed by the picture to be made again, changed by the options given.
    fn recipe(&self, studio: &Studio, like: Option<Recipe>, begin: Option<&Begin>) -> Recipe {
        let own = studio.defaults();
        let base = match like {
            None => own,
            Some(like) => Recipe {
                noise: if like.noise.is_empty() { own.noise } else { like.noise.clone() },
                model: own.model,
                vae: own.vae,
                loras: own.loras,
                version: own.version,
                count: 1,
                // Pictures of one batch had seeds one after another.
                seed: like.seed.wrapping_add(like.index.into()),
                index: 0,
                ..like
            },
        };
        // What is edited keeps its shape.
        let as_given = begin.filter(|_| self.like.is_none() && studio.painter().pipeline().purpose.edits());
        let own = as_given.map_or((base.width, base.height), |begin| studio.size_after(begin));
        let (width, height) = self.size.unwrap_or(own);
        let mut more = base.more;
        if let Some(control) = &self.control {
            let name = crate::picture::stem(control);
            let mode = self.control_mode.map_or(String::new(), |mode| format!(", Mode: {mode}"));
            more.insert(
                HELD.into(),
                format!("Module: none, Model: {name}, Weight: {}{mode}", self.control_strength),
            );
        }
        if self.edit {
            more.insert(EDITED.into(), "Kontext".into());
        }
        Recipe {
            prompt: self.prompt.clone().unwrap_or(base.prompt),
            negative: self.negative.clone().unwrap_or(base.negative),
            steps: self.steps.unwrap_or(base.steps),
            cfg: self.cfg.unwrap_or(base.cfg),
            guidance: self.guidance.or(base.guidance),
            image_cfg: self.image_cfg.or(base.image_cfg),
            sampler: self.sampler.map_or(base.sampler, |s| s.name().into()),
            schedule: self.schedule.map_or(base.schedule, |s| s.name().into()),
            seed: self.seed.unwrap_or(if self.like.is_some() { base.seed } else { by_chance() }),
            width,
            height,
            count: self.count.unwrap_or(1),
            clip_skip: self.clip_skip.or(base.clip_skip),
            noise: self.noise.clone().unwrap_or(base.noise),
            init: begin.map(Begin::noted),
            more,
            ..base
        }
    }

    /// Where a picture goes.
    fn place(&self, seed: u64, index: u32) -> PathBuf {
        match (&self.out, self.count.unwrap_or(1)) {
            (None, _) => format!("hob-{seed}.png").into(),
            (Some(out), 1) => out.clone(),
            (Some(out), _) => {
                let stem = out.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
                let array = out.extension().is_some_and(|e| e.eq_ignore_ascii_case("npy"));
                let ending = if array { "npy" } else { "png" };
                out.with_file_name(format!("{stem}-{}.{ending}", index + 1))
            }
        }
    }
}

/// The folder or file of a picture model: a path, or a name of one on this machine.
fn model(text: &str) -> Result<PathBuf> {
    let path = PathBuf::from(text);
    if path.exists() {
        return Ok(path);
    }
    match store::resolve(text, &store::discover())? {
        Wanted::Path(path) => Ok(path),
        Wanted::Here(model) if model.kind == store::Kind::Text => {
            let name = terminal::clean(&model.name);
            Err(Error::new(format!("{name} is a language model, which makes no pictures: hob run {name}")))
        }
        Wanted::Here(model) => Ok(model.path),
        Wanted::Catalogue(_) | Wanted::Hub(_) => {
            let name = terminal::clean(text);
            Err(Error::new(format!("{name} is not on this machine; fetch it with: hob pull {name}")))
        }
    }
}

/// A bar of steps with the time left.
pub fn bar(steps: u32, label: &str, quiet: bool) -> ProgressBar {
    if quiet || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(steps.into());
    if let Ok(style) =
        ProgressStyle::with_template("{spinner} {msg}  {wide_bar} {pos}/{len}  {elapsed}, {eta} left")
    {
        bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
    }
    bar.set_message(terminal::clean(label));
    bar.enable_steady_tick(std::time::Duration::from_millis(120));
    bar
}

/// A seed that other programs take too.
fn by_chance() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish() >> 32
}

fn number(text: &str) -> std::result::Result<f32, String> {
    let number = text.parse().ok().filter(|x: &f32| x.is_finite() && *x >= 0.0 && *x <= 100.0);
    number.ok_or_else(|| "it must be a number from 0 to 100".into())
}

/// Reads width and height.
pub fn size(text: &str) -> std::result::Result<(usize, usize), String> {
    let (width, height) = text.split_once(['x', 'X', '×']).ok_or("it must be as 512x768")?;
    let side = |text: &str| text.trim().parse().ok().filter(|n| (1..=16_384).contains(n));
    Ok((
        side(width).ok_or("its width is no number from 1 to 16384")?,
        side(height).ok_or("its height is no number from 1 to 16384")?,
    ))
}

/// Reads the kind of picture that a ControlNet for several is given.
fn mode(text: &str) -> std::result::Result<usize, String> {
    let named = MODES.iter().position(|name| name.eq_ignore_ascii_case(text));
    named
        .or_else(|| text.parse().ok().filter(|n| *n < 1 << 16))
        .ok_or_else(|| format!("it must be one of {}, or a number", MODES.join(", ")))
}

fn lora(text: &str) -> std::result::Result<(PathBuf, f32), String> {
    match text.rsplit_once(':') {
        Some((path, scale)) if !path.is_empty() && scale.parse::<f32>().is_ok_and(f32::is_finite) => {
            Ok((path.into(), scale.parse().expect("as parsed before")))
        }
        _ => Ok((text.into(), 1.0)),
    }
}
