//! `hob upscale PICTURE --model FILE`: the same picture, larger.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use hob_engine::diffuse::{Tiles, Upscaler};
use hob_engine::{Cpu, Precision};
use hob_io::Picture;
use serde_json::json;

use super::Global;
use crate::error::{Error, Result};
use crate::{interrupt, terminal};

const EXAMPLES: &str = "Examples:
  hob upscale dawn.png --model RealESRGAN_x4plus.safetensors -o large.png
  hob upscale photo.jpg --model 4x-UltraSharp.safetensors --tile 128     with less memory

MODEL is a safetensors file of ESRGAN's kind: RRDBNet in any naming, or the compact SRVGGNet. What made a picture stays in
the PNG, so that hob image --like makes it again, in its own size.";

/// Arguments of `hob upscale`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct UpscaleArgs {
    /// The picture: PNG, JPEG or WebP
    picture: PathBuf,
    /// The upscaler, a safetensors file
    #[arg(short, long, value_name = "FILE")]
    model: PathBuf,
    /// The PNG to write [default: NAME-4x.png beside the picture]
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Pixels of a tile's side; smaller ones take less memory and more time
    #[arg(long, value_name = "N", default_value = "256", value_parser = clap::value_parser!(u32).range(16..=4096))]
    tile: u32,
    /// Number of threads [default: one for each core]
    #[arg(long, value_name = "N", value_parser = super::threads)]
    threads: Option<std::num::NonZeroUsize>,
    /// Print JSON: what was made, and how long it took
    #[arg(long)]
    json: bool,
}

/// Makes the picture.
pub fn run(args: UpscaleArgs, _: &Global) -> Result<()> {
    let start = Instant::now();
    let picture = Picture::open(&args.picture)?;
    let bytes = std::fs::read(&args.picture).map_err(|e| Error::io("read", &args.picture, &e))?;
    let texts = hob_io::picture::texts(&bytes, &args.picture)?;
    let threads = args.threads.or(std::thread::available_parallelism().ok()).map_or(1, |n| n.get());
    let upscaler = Upscaler::open(&args.model, Cpu::new(threads, Precision::Fast))?;
    let out = args.out.clone().unwrap_or_else(|| {
        let stem = crate::picture::stem(&args.picture);
        args.picture.with_file_name(format!("{stem}-{}x.png", upscaler.scale()))
    });
    crate::picture::writable(&out)?;

    let catch = interrupt::Catch::new();
    let bar = super::image::bar(0, "enlarging", args.json);
    let tiles = Tiles { side: args.tile as usize, ..Tiles::default() };
    let made = upscaler.upscale(&picture, tiles, &mut |done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
        !catch.pressed()
    });
    bar.finish_and_clear();
    let Some(made) = made? else { return Err(Error::interrupted("stopped; nothing was written")) };
    // What A1111 says of a picture that was enlarged.
    let said = format!(
        "Postprocess upscale by: {}, Postprocess upscaler: {}",
        upscaler.scale(),
        terminal::clean(&crate::picture::stem(&args.model))
    );
    let mut texts: Vec<(&str, &str)> =
        texts.iter().map(|(key, text)| (key.as_str(), text.as_str())).collect();
    texts.retain(|(key, _)| *key != "postprocessing");
    texts.push(("postprocessing", &said));
    crate::file::write(&out, &made.png(&texts).map_err(Error::new)?)?;
    let seconds = start.elapsed().as_secs_f64();
    if args.json {
        let peak = hob_engine::memory::peak();
        let (width, height) = (made.width, made.height);
        println!(
            "{}",
            json!({"file": out, "width": width, "height": height, "scale": upscaler.scale(), "seconds": seconds, "peak_bytes": peak})
        );
    } else {
        println!("{} ({} × {}, {seconds:.1} s)", shown(&out), made.width, made.height);
    }
    Ok(())
}

fn shown(path: &Path) -> String {
    terminal::clean(&path.display().to_string())
}
