//! Tests of picture models: seconds of a step of the denoiser, of the VAE, and of reading a prompt.

use std::path::Path;
use std::str::FromStr;
use std::time::Instant;

use hob_engine::diffuse::{Event, Sampler};
use hob_io::picture::Recipe;
use hob_io::pipeline::Family;

use super::BenchArgs;
use crate::error::{Error, Result};
use crate::picture::{Extras, Studio};

/// How often a test is run when nobody says: the first run is the slowest, and the median leaves it out.
const REPS: u32 = 3;

/// What is measured of a picture model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    /// The text encoders, with prompt and negative prompt where the family is guided by both.
    Text,
    /// One evaluation of the denoiser, with guidance where the family has it.
    Step,
    /// Latents to pixels.
    Vae,
}

const PIECES: [(Piece, &str); 3] = [(Piece::Text, "text"), (Piece::Step, "step"), (Piece::Vae, "vae")];
const FAMILIES: [&str; 4] = ["sd15", "sd2", "sdxl", "flux"];

/// One measurement of a picture model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Test {
    /// The model must be of it.
    family: Option<&'static str>,
    piece: Piece,
    /// Width and height in pixels; those that the model was trained for where they are not given.
    size: Option<(usize, usize)>,
}

impl FromStr for Test {
    type Err = String;

    fn from_str(text: &str) -> Result<Test, String> {
        let wrong =
            || format!("{text} is not a test; write step@512, step@512x768, vae@512, text or sd15-step@512");
        let (name, size) = match text.split_once('@') {
            Some((name, size)) => (name, Some(size)),
            None => (text, None),
        };
        let (family, name) = match name.split_once('-') {
            Some((family, name)) => (Some(*FAMILIES.iter().find(|f| **f == family).ok_or_else(wrong)?), name),
            None => (None, name),
        };
        let piece = PIECES.iter().find(|p| p.1 == name).ok_or_else(wrong)?.0;
        let side = |s: &str| s.parse().ok().filter(|n| (1..=16_384).contains(n)).ok_or_else(wrong);
        let size = match size {
            None => None,
            Some(_) if piece == Piece::Text => return Err(wrong()),
            Some(size) => {
                let (width, height) = size.split_once('x').unwrap_or((size, size));
                Some((side(width)?, side(height)?))
            }
        };
        Ok(Test { family, piece, size })
    }
}

impl std::fmt::Display for Test {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(family) = self.family {
            write!(f, "{family}-")?;
        }
        f.write_str(PIECES.iter().find(|p| p.0 == self.piece).map_or("", |p| p.1))?;
        match self.size {
            Some((width, height)) if width == height => write!(f, "@{width}"),
            Some((width, height)) => write!(f, "@{width}x{height}"),
            None => Ok(()),
        }
    }
}

/// Loads the model and measures it; all three tests where none are given.
///
/// # Errors
/// A part of the model is missing, a test is of another family, a size is none that the model makes; memory.
pub fn run(path: &Path, tests: &[Test], args: &BenchArgs) -> Result<()> {
    let threads = args.threads.or(std::thread::available_parallelism().ok()).map_or(1, |n| n.get());
    let mut studio = Studio::open(path, &Extras::default(), threads)?;
    let own = studio.defaults();
    let name = family(studio.painter().pipeline().family);
    let multiple = studio.painter().multiple();
    let all = PIECES.map(|(piece, _)| Test { family: None, piece, size: None });
    let tests: Vec<Test> = match tests {
        [] => all.to_vec(),
        some => some.to_vec(),
    };
    let mut sized = Vec::new();
    for test in tests {
        if let Some(other) = test.family.filter(|f| *f != name) {
            return Err(Error::new(format!(
                "{test} is a test of {other}, and {} is a {name}",
                path.display()
            )));
        }
        let size = test.size.unwrap_or((own.width, own.height));
        if [size.0, size.1].iter().any(|n| !n.is_multiple_of(multiple)) {
            return Err(Error::new(format!(
                "{test} cannot be run: both sides must be multiples of {multiple}"
            )));
        }
        sized.push(Test { size: (test.piece != Piece::Text).then_some(size), ..test });
    }
    for test in sized {
        let (width, height) = test.size.unwrap_or((own.width, own.height));
        let sampler = Sampler::Euler.name().into(); // which asks the denoiser once a step
        let recipe =
            Recipe { width, height, sampler, steps: args.reps.unwrap_or(REPS), seed: 1, ..own.clone() };
        let mut seconds = measure(&mut studio, test.piece, recipe)?;
        seconds.sort_by(f64::total_cmp);
        args.tell(&test.to_string(), "seconds", seconds[seconds.len() / 2]);
    }
    Ok(())
}

/// Seconds of each of as many runs as the recipe has steps.
fn measure(studio: &mut Studio, piece: Piece, recipe: Recipe) -> Result<Vec<f64>> {
    let painter = studio.painter();
    let (h, w) = painter.latents_of(recipe.width, recipe.height);
    let channels = painter.pipeline().latent_channels().unwrap_or(0);
    let latents: Vec<f32> = (0..channels * h * w).map(|i| (i * 7919 % 1000) as f32 / 500.0 - 1.0).collect();
    let mut seconds = Vec::new();
    match piece {
        Piece::Text | Piece::Vae => {
            for i in 0..recipe.steps {
                let start = Instant::now();
                match piece {
                    // Another prompt each time: the last one is remembered.
                    Piece::Text => {
                        let prompt = format!("a lighthouse at dawn, {i}");
                        studio.script((prompt, "rain".into(), None, recipe.cfg > 1.0, 1))?;
                    }
                    _ => {
                        let decoded = studio.painter().decode(&latents, h, w, &mut |_| true);
                        drop(decoded.map_err(|e| Error::new(e.to_string()))?);
                    }
                }
                seconds.push(start.elapsed().as_secs_f64());
            }
        }
        Piece::Step => {
            let mut start = Instant::now();
            let recipe = Recipe { prompt: "a lighthouse at dawn".into(), ..recipe };
            studio.make(&recipe, None, &mut |event| {
                let Event::Step { step, steps, .. } = event else { return true };
                if step > 0 {
                    seconds.push(start.elapsed().as_secs_f64());
                }
                start = Instant::now();
                step < steps
            })?;
        }
    }
    match seconds.is_empty() {
        false => Ok(seconds),
        true => Err(Error::new("no step was made")),
    }
}

/// What tests call a family.
fn family(family: Family) -> &'static str {
    match family {
        Family::Sd1 => "sd15",
        Family::Sd2 => "sd2",
        Family::Sdxl | Family::SdxlRefiner => "sdxl",
        Family::FluxSchnell | Family::FluxDev => "flux",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_read_as_they_print() {
        for text in
            ["step@512", "vae@1024", "step@512x768", "text", "sd15-step@512", "flux-text", "step", "vae"]
        {
            assert_eq!(text.parse::<Test>().unwrap().to_string(), text);
        }
        assert_eq!("step@64x64".parse::<Test>().unwrap().to_string(), "step@64");
        for bad in [
            "",
            "step@",
            "step@0",
            "step@512x",
            "step@x512",
            "step@20000",
            "text@512",
            "sd3-step@512",
            "-step",
            "steps",
        ] {
            assert!(bad.parse::<Test>().is_err(), "{bad}");
        }
    }
}
