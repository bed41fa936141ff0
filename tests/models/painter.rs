//! Whole pictures against diffusers' pipelines, over tiny models of each family.

use crate::golden::{Arrays, folder};
use hob_engine::diffuse::{
    Event, Given, Guidance, PaintError, Painter, Request, Said, Sampler, Script, Shape, Source, Steps,
};
use hob_engine::{Cpu, Precision};
use hob_io::Pipeline;
use hob_io::pipeline::Role;
use std::collections::BTreeMap;
use std::sync::Arc;

const SIZE: (usize, usize) = (40, 24);

struct Bench {
    painter: Painter,
    arrays: Arrays,
    prompt: Said,
    script: Script,
}

fn bench(family: &str) -> Bench {
    let pipeline = Pipeline::open(&folder("pipeline").join(family)).unwrap();
    let painter = Painter::new(Arc::new(pipeline), BTreeMap::new(), Cpu::new(2, Precision::Fast)).unwrap();
    let arrays = Arrays::open("pictures", "golden");
    let said = |states: &str, pooled: &str| {
        let optional = |name: &str| if arrays.has(name) { arrays.get(name) } else { Vec::new() };
        let states = optional(&format!("{family}.{states}"));
        let tokens = if family == "flux" { 9 } else { 7 };
        Said { states, tokens, pooled: optional(&format!("{family}.{pooled}")) }
    };
    let (prompt, negative) = (said("text", "pooled"), said("negative", "negative_pooled"));
    let script = Script::plain(prompt.clone(), Some(negative));
    Bench { painter, arrays, prompt, script }
}

impl Bench {
    fn request(&self, sampler: Sampler, steps: usize, cfg: f32) -> Request<'_> {
        let scheduler = &self.painter.scheduler;
        Request {
            width: SIZE.0,
            height: SIZE.1,
            script: &self.script,
            guidance: Guidance { scale: cfg, rescale: 0.0 },
            image_cfg: 1.0,
            told: 3.5,
            sampler,
            how: scheduler.how(sampler),
            steps: Steps::diffusers(scheduler, sampler, steps, self.painter.tokens(SIZE.0, SIZE.1)).unwrap(),
            source: Source::TorchCpu,
            seed: 0,
            given: None,
            control: None,
        }
    }

    fn given(&self, strength: f64, masked: bool) -> Given {
        let pixels = self.arrays.get("init").iter().map(|x| 2.0 * x - 1.0).collect();
        Given { pixels, size: SIZE, strength, mask: masked.then(|| self.arrays.get("mask")) }
    }

    /// The largest difference from a golden picture, in parts of its range.
    fn differs(&self, name: &str, pixels: &[f32]) -> f32 {
        let golden = self.arrays.get(&format!("{name}.image"));
        assert_eq!(golden.len(), pixels.len());
        let each = golden.iter().zip(pixels).map(|(g, p)| (g - (p / 2.0 + 0.5).clamp(0.0, 1.0)).abs());
        each.fold(0.0, f32::max)
    }
}

/// Half of a 255th: the same bytes but for ties.
const NEAR: f32 = 0.5 / 255.0;

fn paint(painter: &mut Painter, request: &Request) -> Vec<f32> {
    painter.paint(request, &mut |_| true).unwrap()
}

#[test]
fn pictures_of_stable_diffusion_are_those_of_diffusers() {
    let mut bench = bench("sd15");
    for name in ["plms", "euler", "euler_ancestral", "heun", "dpmpp_2m", "uni_pc_bh2", "ddim"] {
        let request = Request { ..bench.request(Sampler::parse(name).unwrap(), 4, 7.5) };
        let mut painter = painter_of("sd15");
        let d = bench.differs(&format!("sd15.{name}"), &paint(&mut painter, &request));
        assert!(d < NEAR, "{name} differs by {d}");
    }
    let mut painter = std::mem::replace(&mut bench.painter, painter_of("sd15"));
    let d = bench.differs("sd15.unguided", &paint(&mut painter, &bench.request(Sampler::Euler, 4, 1.0)));
    assert!(d < NEAR, "unguided differs by {d}");
}

fn painter_of(family: &str) -> Painter {
    bench(family).painter
}

#[test]
fn pictures_begun_with_another_are_those_of_diffusers() {
    let cases = [
        ("sd15", "sd15.from", 4, 7.5, 0.75, false),
        ("sd15", "sd15.filled", 4, 7.5, 0.75, true),
        ("sdxl", "sdxl.from", 5, 5.0, 0.6, false),
        ("flux", "flux.from", 4, 1.0, 0.75, false),
    ];
    for (family, name, steps, cfg, strength, masked) in cases {
        let bench = bench(family);
        let given = bench.given(strength, masked);
        let request = Request { given: Some(&given), ..bench.request(Sampler::Euler, steps, cfg) };
        let d = bench.differs(name, &paint(&mut painter_of(family), &request));
        assert!(d < NEAR, "{name} differs by {d}");
    }
}

#[test]
fn pictures_of_sdxl_and_flux_are_those_of_diffusers() {
    for (family, cfg) in [("sdxl", 5.0), ("flux", 1.0)] {
        let bench = bench(family);
        let request = bench.request(Sampler::Euler, 4, cfg);
        let mut painter = painter_of(family);
        let first = paint(&mut painter, &request);
        let d = bench.differs(&format!("{family}.euler"), &first);
        assert!(d < NEAR, "{family} differs by {d}");
        assert_eq!(first, paint(&mut painter, &request), "the same seed gives the same picture");
        painter.rest();
        assert_eq!(first, paint(&mut painter, &request));
    }
}

#[test]
fn steps_are_told_and_stop_when_asked() {
    let bench = bench("sd15");
    let mut painter = painter_of("sd15");
    let mut heard = Vec::new();
    painter
        .paint(&bench.request(Sampler::Euler, 4, 7.5), &mut |event| {
            heard.push(match event {
                Event::Encoding => "encoding".to_string(),
                Event::Step { step, steps, seen } => {
                    format!("{step}/{steps} {}", seen.map_or(0, <[f32]>::len))
                }
                Event::Decoding => "decoding".into(),
            });
            true
        })
        .unwrap();
    assert_eq!(heard, ["0/4 0", "1/4 960", "2/4 960", "3/4 960", "4/4 960", "decoding"]);
    let mut left = 2;
    let stopped = painter.paint(&bench.request(Sampler::Euler, 4, 7.5), &mut |_| {
        left -= 1;
        left > 0
    });
    assert!(matches!(stopped, Err(PaintError::Stopped)));
}

#[test]
fn what_does_not_fit_is_said() {
    let bench = bench("sd15");
    let mut painter = painter_of("sd15");
    let odd = Request { width: 41, ..bench.request(Sampler::Euler, 4, 7.5) };
    let said = painter.paint(&odd, &mut |_| true).unwrap_err().to_string();
    assert!(said.contains("multiples of 2"), "{said}");
    let small = Given { pixels: vec![0.0; 12], size: SIZE, strength: 0.5, mask: None };
    let wrong = Request { given: Some(&small), ..bench.request(Sampler::Euler, 4, 7.5) };
    let said = painter.paint(&wrong, &mut |_| true).unwrap_err().to_string();
    assert!(said.contains("40 × 24"), "{said}");
    let broken = Said { states: vec![f32::NAN; bench.prompt.states.len()], ..bench.prompt.clone() };
    let broken = Script::plain(broken, Some(bench.script.said[1].clone()));
    let nan = Request { script: &broken, ..bench.request(Sampler::Euler, 4, 7.5) };
    let said = painter.paint(&nan, &mut |_| true).unwrap_err().to_string();
    assert!(said.contains("step 1 of 4"), "{said}");
}

#[test]
fn phases_are_planned_for_every_family() {
    for (family, count) in [("sd15", 3), ("sdxl", 4), ("flux", 4)] {
        let painter = painter_of(family);
        let phases = painter.room(shape(SIZE), usize::MAX).unwrap().phases;
        assert_eq!(phases.len(), count, "{family}");
        for phase in &phases {
            let part = painter.pipeline().part(phase.role).unwrap();
            let weights = phase.budget.weights;
            assert!(phase.work() > 0 && weights > 0 && weights as u64 <= part.size_bytes());
        }
        let denoiser = phases.iter().find(|p| p.role == Role::Denoiser).unwrap();
        let whole = painter.pipeline().part(Role::Denoiser).unwrap().size_bytes();
        assert_eq!(denoiser.budget.weights as u64, whole, "{family}: every weight of the denoiser is read");
        // Twice as wide and high is four times the work, but for what does not grow.
        let large = painter.room(shape((2 * SIZE.0, 2 * SIZE.1)), usize::MAX).unwrap().phases;
        let large = large.iter().find(|p| p.role == Role::Denoiser).unwrap();
        assert!(large.work() > 2 * denoiser.work(), "{family}: {} and {}", denoiser.work(), large.work());
    }
}

fn shape((width, height): (usize, usize)) -> Shape {
    Shape { width, height, guided: true, tokens: 7, texts: 2, ..Shape::default() }
}

#[test]
fn with_less_memory_the_same_picture_is_made() {
    for family in ["sd15", "sdxl"] {
        let mut bench = bench(family);
        let paint = |bench: &mut Bench| {
            let mut painter = painter_of(family);
            std::mem::swap(&mut painter, &mut bench.painter);
            let given = bench.given(0.6, true);
            let request = Request { given: Some(&given), ..bench.request(Sampler::Euler, 3, 5.0) };
            let made = painter.paint(&request, &mut |_| true).unwrap();
            bench.painter = painter;
            made
        };
        let shape = Shape { begins: true, tokens: bench.prompt.tokens, ..shape(SIZE) };
        let whole = bench.painter.room(shape, usize::MAX).unwrap();
        assert!(whole.short().is_none() && !whole.split && whole.phases.iter().all(|p| p.tiles == 1));
        bench.painter.settle(whole.clone());
        let picture = paint(&mut bench);
        let check = |made: &[f32], what: &str| {
            let most = picture.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            let off = made.iter().zip(&picture).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
            assert!(off <= 1e-3 * most, "{family} {what}: {off} of {most}");
        };
        let mut halves = whole.clone();
        halves.split = true;
        bench.painter.settle(halves);
        check(&paint(&mut bench), "in halves");
        for share in (1..40).rev() {
            let bytes = whole.beside + (whole.total() - whole.beside) * share / 40;
            let room = bench.painter.room(shape, bytes).unwrap();
            if let Some((_, least)) = room.short() {
                assert!(least > bytes, "{family}: {least} do, and {bytes} do not");
                break;
            }
            assert!(room.total() <= bytes, "{family}: {} of {bytes}", room.total());
            bench.painter.settle(room);
            check(&paint(&mut bench), &format!("in {bytes} bytes"));
        }
    }
}
