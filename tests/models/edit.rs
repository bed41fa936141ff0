//! Pictures by models that edit one, or that are held to one, against diffusers' pipelines.

use crate::golden::{Arrays, folder};
use hob_engine::diffuse::{Given, Guidance, Painter, Request, Said, Sampler, Script, Shape, Source, Steps};
use hob_engine::{Cpu, Precision};
use hob_io::Pipeline;
use hob_io::pipeline::Role;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

const SIZE: (usize, usize) = (40, 24);

/// Half of a 255th: the same bytes but for ties.
const NEAR: f32 = 0.5 / 255.0;

/// The tiny model of a family with some parts in the place of its own.
fn painter(family: &str, parts: &[(Role, &str)]) -> Painter {
    let given: Vec<(Role, PathBuf)> =
        parts.iter().map(|(role, name)| (*role, folder("edit").join(name))).collect();
    let pipeline = Pipeline::open_with(&folder("pipeline").join(family), &given).unwrap();
    Painter::new(Arc::new(pipeline), BTreeMap::new(), Cpu::new(2, Precision::Exact)).unwrap()
}

fn arrays() -> Arrays {
    Arrays::open("edit", "golden")
}

/// What the golden's prompts of a family say.
fn script(family: &str) -> Script {
    let arrays = arrays();
    let said = |states: &str, pooled: &str, tokens| {
        let optional = |name: &str| {
            let name = format!("{family}.{name}");
            if arrays.has(&name) { arrays.get(&name) } else { Vec::new() }
        };
        Said { states: optional(states), tokens, pooled: optional(pooled) }
    };
    match family {
        "flux" => Script::plain(said("text", "pooled", 9), None),
        _ => Script::plain(said("text", "pooled", 7), Some(said("negative", "negative_pooled", 7))),
    }
}

fn request<'a>(painter: &Painter, script: &'a Script, (width, height): (usize, usize)) -> Request<'a> {
    let scheduler = &painter.scheduler;
    Request {
        width,
        height,
        script,
        guidance: Guidance { scale: 1.0, rescale: 0.0 },
        image_cfg: 1.5,
        told: 3.5,
        sampler: Sampler::Euler,
        how: scheduler.how(Sampler::Euler),
        steps: Steps::diffusers(scheduler, Sampler::Euler, 3, painter.tokens(width, height)).unwrap(),
        source: Source::TorchCpu,
        seed: 0,
        given: None,
        control: None,
    }
}

/// A picture of the golden as one that is given.
fn given(name: &str, size: (usize, usize)) -> Given {
    let pixels = arrays().get(name).iter().map(|x| 2.0 * x - 1.0).collect();
    Given { pixels, size, strength: 1.0, mask: None }
}

/// Asserts that a picture is the golden's.
fn same(name: &str, pixels: &[f32]) {
    let golden = arrays().get(&format!("{name}.image"));
    assert_eq!(golden.len(), pixels.len(), "{name}");
    let each = golden.iter().zip(pixels).map(|(g, p)| (g - (p / 2.0 + 0.5).clamp(0.0, 1.0)).abs());
    let off = each.fold(0.0, f32::max);
    assert!(off < NEAR, "{name} differs by {off}");
}

fn paint(painter: &mut Painter, request: &Request) -> Vec<f32> {
    painter.paint(request, &mut |_| true).unwrap()
}

const PIX2PIX: [(Role, &str); 1] = [(Role::Denoiser, "pix2pix")];

#[test]
fn instructions_change_a_picture_as_in_diffusers() {
    let script = script("sd15");
    for (name, picture, cfg, image_cfg) in [
        ("pix2pix", "init", 7.5, 1.5),
        ("pix2pix.text", "init", 7.5, 1.0),
        ("pix2pix.unguided", "init", 1.0, 1.5),
    ] {
        let mut painter = painter("sd15", &PIX2PIX);
        let given = given(picture, SIZE);
        let guidance = Guidance { scale: cfg, rescale: 0.0 };
        let request =
            Request { given: Some(&given), guidance, image_cfg, ..request(&painter, &script, SIZE) };
        same(name, &paint(&mut painter, &request));
    }
}

#[test]
fn instructions_are_followed_within_less_memory() {
    let script = script("sd15");
    let mut painter = painter("sd15", &PIX2PIX);
    let given = given("init", SIZE);
    let shape =
        Shape { width: SIZE.0, height: SIZE.1, guided: true, tokens: 7, begins: true, ..Shape::default() };
    let whole = painter.room(shape, usize::MAX).unwrap();
    // Three sides are planned; of large pictures nothing else counts.
    let work = |guided| {
        let large = Shape { width: 8 * SIZE.0, height: 8 * SIZE.1, guided, ..shape };
        let phases = painter.room(large, usize::MAX).unwrap().phases;
        phases.iter().find(|p| p.role == Role::Denoiser).unwrap().work() as f64
    };
    let sides = work(true) / work(false);
    assert!((2.5..3.5).contains(&sides), "{sides}");
    let mut ways = 0;
    for share in (1..40).rev() {
        let bytes = whole.beside + (whole.total() - whole.beside) * share / 40;
        let room = painter.room(shape, bytes).unwrap();
        if room.short().is_some() {
            break;
        }
        (ways, _) = (ways + 1, painter.settle(room));
        let guidance = Guidance { scale: 7.5, rescale: 0.0 };
        let request = Request { given: Some(&given), guidance, ..request(&painter, &script, SIZE) };
        same("pix2pix", &paint(&mut painter, &request));
    }
    assert!(ways > 3, "{ways}");
}

#[test]
fn a_model_that_edits_begins_with_the_picture_where_it_is_asked_to() {
    let script = script("sd15");
    let mut painter = painter("sd15", &PIX2PIX);
    let mut given = given("init", SIZE);
    let mut made = |given: &Given| {
        let guidance = Guidance { scale: 7.5, rescale: 0.0 };
        let request = Request { given: Some(given), guidance, ..request(&painter, &script, SIZE) };
        paint(&mut painter, &request)
    };
    let whole = made(&given);
    given.strength = 0.4;
    assert_ne!(made(&given), whole);
    // What a mask keeps is the picture as the autoencoder has it, whatever else is painted.
    given.strength = 1.0;
    let left = |i: usize| i % SIZE.0 < SIZE.0 / 2;
    given.mask = Some((0..SIZE.0 * SIZE.1).map(|i| f32::from(!left(i))).collect());
    let masked = made(&given);
    let far = |side: bool| {
        let each = masked.iter().zip(&whole).enumerate().filter(|(i, _)| left(*i) == side);
        each.map(|(_, (a, b))| (a - b).abs()).fold(0.0, f32::max)
    };
    assert!(far(true) > 0.1, "the mask does not matter: {}", far(true));
}

#[test]
fn what_a_model_that_edits_lacks_is_said() {
    let script = script("sd15");
    let mut painter = painter("sd15", &PIX2PIX);
    let none = request(&painter, &script, SIZE);
    let said = painter.paint(&none, &mut |_| true).unwrap_err().to_string();
    assert_eq!(said, "this model edits a picture: give one with --init");
    let given = Given { pixels: vec![0.0; 3 * 32 * 16], size: (32, 16), strength: 1.0, mask: None };
    let other = Request { given: Some(&given), ..request(&painter, &script, SIZE) };
    let said = painter.paint(&other, &mut |_| true).unwrap_err().to_string();
    assert!(said.contains("not of 40 × 24"), "{said}");
}
