//! Pictures by models that edit one, or that are held to one, against diffusers' pipelines.

use crate::golden::{Arrays, folder};
use hob_cpu::exec::Memory;
use hob_cpu::{Tensor, Weights};
use hob_engine::diffuse::{
    Control, Given, Guidance, Painter, Request, Said, Sampler, Script, Shape, Source, Steps,
};
use hob_engine::{Cpu, Precision};
use hob_graph::{Batch, Data, Graph};
use hob_io::Pipeline;
use hob_io::pipeline::{Purpose, Role};
use hob_models::{flux, flux_control};
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

/// The size that Fill's and XLabs' pictures have here, whose latents stand for 8 × 8 pixels.
const WIDE: (usize, usize) = (48, 32);

const FILL: [(Role, &str); 2] = [(Role::Denoiser, "fill"), (Role::Vae, "vae8")];
const DEV: [(Role, &str); 1] = [(Role::Denoiser, "dev")];
const DEPTH: [(Role, &str); 1] = [(Role::Denoiser, "depth")];
const XLABS: [(Role, &str); 3] = [(Role::Denoiser, "dev"), (Role::Vae, "vae8"), (Role::ControlNet, "xlabs")];
const UNION: [(Role, &str); 2] = [(Role::Denoiser, "dev"), (Role::ControlNet, "union")];

#[test]
fn flux_fills_in_as_in_diffusers() {
    let script = script("flux");
    for (name, strength) in [("fill", 1.0), ("fill.from", 0.4)] {
        let mut painter = painter("flux", &FILL);
        assert_eq!(painter.pipeline().purpose, Purpose::Inpaint);
        let given = Given { strength, mask: Some(arrays().get("hole")), ..given("wide", WIDE) };
        let request = Request { given: Some(&given), told: 30.0, ..request(&painter, &script, WIDE) };
        same(name, &paint(&mut painter, &request));
    }
    let mut painter = painter("flux", &FILL);
    let said = painter.paint(&request(&painter, &script, WIDE), &mut |_| true).unwrap_err().to_string();
    assert!(said.contains("give one with --init, and what to paint with --mask"), "{said}");
}

/// The tiny dev, told to be Kontext.
fn kontext() -> Painter {
    let dev = painter("flux", &DEV);
    let pipeline = Pipeline::open_with(&folder("pipeline/flux"), &[(Role::Denoiser, folder("edit/dev"))]);
    let pipeline = pipeline.unwrap().editing().unwrap();
    assert_eq!((dev.pipeline().purpose, pipeline.purpose), (Purpose::Create, Purpose::Reference));
    Painter::new(Arc::new(pipeline), BTreeMap::new(), Cpu::new(2, Precision::Exact)).unwrap()
}

#[test]
fn kontext_sees_a_picture_beside_as_in_diffusers() {
    let script = script("flux");
    let mut painter = kontext();
    let whole = given("init", SIZE);
    let cut = |x: &[f32]| -> Vec<f32> { x.chunks(SIZE.0).flat_map(|row| &row[6..26]).copied().collect() };
    let tall = Given { pixels: cut(&whole.pixels), size: (20, 24), ..given("init", SIZE) };
    for (name, given) in [("kontext", Some(&whole)), ("kontext.tall", Some(&tall)), ("kontext.words", None)] {
        let request = Request { given, told: 2.5, ..request(&painter, &script, SIZE) };
        same(name, &paint(&mut painter, &request));
    }
    // The memory of a second picture is planned, in its own size.
    let shape = Shape { width: SIZE.0, height: SIZE.1, tokens: 9, ..Shape::default() };
    let work = |painter: &Painter, shape| {
        let phases = painter.room(shape, usize::MAX).unwrap().phases;
        phases.iter().find(|p| p.role == Role::Denoiser).unwrap().work()
    };
    let none = work(&painter, shape);
    let beside = work(&painter, Shape { begins: true, seen: Some((20, 24)), ..shape });
    let more = work(&painter, Shape { begins: true, seen: Some((80, 48)), ..shape });
    assert!(none < beside && beside < more, "{none}, {beside}, {more}");
    let shape = Shape { begins: true, seen: Some((20, 24)), ..shape };
    painter.settle(painter.room(shape, usize::MAX).unwrap());
    let again = Request { given: Some(&tall), told: 2.5, ..request(&painter, &script, SIZE) };
    same("kontext.tall", &paint(&mut painter, &again));
    // Begun with, it must be of the new one's size.
    let begun = Given { strength: 0.5, ..tall };
    let request = Request { given: Some(&begun), ..self::request(&painter, &script, SIZE) };
    let said = painter.paint(&request, &mut |_| true).unwrap_err().to_string();
    assert!(said.contains("not of 40 × 24"), "{said}");
}

/// A picture of the golden that holds a new one.
fn control(name: &str, strength: f32, mode: Option<usize>) -> Control {
    Control { image: arrays().get(name), strength, mode }
}

#[test]
fn flux_paints_after_depths_as_in_diffusers() {
    let script = script("flux");
    let mut painter = painter("flux", &DEPTH);
    let edges = control("edges", 1.0, None);
    let request = Request { control: Some(&edges), told: 10.0, ..request(&painter, &script, SIZE) };
    same("depth", &paint(&mut painter, &request));
    let none = Request { control: None, ..request };
    let said = painter.paint(&none, &mut |_| true).unwrap_err().to_string();
    assert_eq!(said, "this model paints after a picture of depths or edges: give one with --control-image");
}

#[test]
fn controlnets_hold_a_flux_as_in_diffusers() {
    let script = script("flux");
    for (name, parts, picture, size, mode) in
        [("xlabs", &XLABS[..], "wide", WIDE, None), ("union", &UNION[..], "edges", SIZE, Some(1))]
    {
        let mut painter = painter("flux", parts);
        let held = control(picture, 0.7, mode);
        let free = request(&painter, &script, size);
        let request = Request { control: Some(&held), ..request(&painter, &script, size) };
        let whole = paint(&mut painter, &request);
        same(name, &whole);
        // And without it nothing is left of it.
        assert_ne!(paint(&mut painter, &free), whole);
        same(name, &paint(&mut painter, &request));
        let shape = Shape { width: size.0, height: size.1, tokens: 9, ..Shape::default() };
        let phases = |held| painter.room(Shape { held, ..shape }, usize::MAX).unwrap().phases;
        let count = |held| phases(held).len();
        assert_eq!(
            count(true) - count(false),
            usize::from(name == "union"),
            "latents are made of the picture"
        );
        let work = |held| phases(held).iter().find(|p| p.role == Role::Denoiser).unwrap().work();
        assert!(work(true) > work(false));
    }
}

#[test]
fn what_cannot_hold_a_flux_is_said() {
    let script = script("flux");
    let says = |parts: &[(Role, &str)], control: Control, size| {
        let mut painter = painter("flux", parts);
        let request = Request { control: Some(&control), ..request(&painter, &script, size) };
        painter.paint(&request, &mut |_| true).unwrap_err().to_string()
    };
    let said = says(&UNION, control("edges", 1.0, None), SIZE);
    assert!(said.contains("--control-mode, canny, tile, depth"), "{said}");
    let said = says(&UNION, control("edges", 1.0, Some(3)), SIZE);
    assert!(said.contains("--control-mode, canny, tile, depth"), "{said}");
    let said = says(&XLABS, control("wide", 1.0, Some(0)), WIDE);
    assert!(said.contains("--control-mode means nothing"), "{said}");
    let said = says(&DEV, control("edges", 1.0, None), SIZE);
    assert!(said.contains("give one with --control"), "{said}");
    // XLabs' sees 8 × 8 pixels for a latent, and this VAE has 2 × 2.
    let said = says(&[DEV[0], XLABS[2]], control("edges", 1.0, None), SIZE);
    assert!(said.contains("latents are of another size"), "{said}");
    let other = |family: &str, net: &str| {
        let given = [(Role::ControlNet, folder(net))];
        let pipeline = Pipeline::open_with(&folder("pipeline").join(family), &given)?;
        let painter = Painter::new(Arc::new(pipeline), BTreeMap::new(), Cpu::new(1, Precision::Exact));
        painter.map(|_| ()).map_err(|e| Box::new(e) as Box<dyn std::error::Error>)
    };
    for (family, net, why) in [
        ("flux", "edit/union", "of width 12, and the model of 24"),
        ("flux", "control/sd15", "it holds no Flux ControlNet, but a ControlNet"),
        ("sd15", "edit/union", "it holds no ControlNet, but a Flux ControlNet"),
    ] {
        let said = other(family, net).unwrap_err().to_string();
        assert!(said.contains(why), "{said}");
    }
}

/// What a graph of a part of `painter` says, by name.
fn said(
    role: Role,
    parts: &[(Role, &str)],
    graph: Graph,
    inputs: &[(&str, Data)],
) -> Vec<(String, Vec<f32>)> {
    let painter = painter("flux", parts);
    let part = painter.pipeline().part(role).unwrap();
    let mut weights = Weights::default();
    for (name, t) in &part.tensors {
        let bytes: Arc<Vec<u8>> = Arc::new(part.bytes(t).to_vec());
        let len = bytes.len();
        weights.insert(name, Tensor::shared(t.dtype, bytes, 0..len));
    }
    let mut graph = graph;
    graph.bind(|n| part.tensors.get(n).map(|t| (t.dtype, t.shape.clone()))).unwrap();
    let names: Vec<String> = graph.outputs.iter().map(|(name, _)| name.clone()).collect();
    let mut cpu = Cpu::new(2, Precision::Exact);
    cpu.check = true;
    let program = cpu.program(graph, &weights).unwrap();
    let mut memory = Memory::new();
    cpu.run(&program, &mut memory, None, &Batch { inputs, seqs: &[] }).unwrap();
    names.into_iter().map(|name| (name.clone(), program.output(&memory, &name).unwrap().to_vec())).collect()
}

#[test]
fn each_network_says_what_diffusers_says() {
    let arrays = arrays();
    let [text, pooled, both, control, pixels] =
        ["flux.text", "flux.pooled", "step.latents", "step.control", "step.pixels"]
            .map(|name| arrays.get(name));
    let latents = &both[..6 * 8];
    let size = flux::Size { batch: 1, text: 9, height: 2, width: 3, ..flux::Size::default() };
    let config = |part: &str| {
        let json = std::fs::read_to_string(folder("edit").join(part).join("config.json")).unwrap();
        serde_json::from_str::<serde_json::Value>(&json).unwrap()
    };
    let dev = flux::Config::parse(&config("dev")).unwrap();
    let told = [
        ("text", Data::F32(&text)),
        ("pooled", Data::F32(&pooled)),
        ("timestep", Data::F32(&[0.61])),
        ("guidance", Data::F32(&[2.5])),
    ];
    let near = |ours: &[f32], name: &str| {
        let off = crate::flux::off(ours, &arrays.get(name));
        assert!(off < 1e-4, "{name} differs by {off}");
    };
    let inputs = [&told[..], &[("latents", Data::F32(&both))]].concat();
    let sample =
        said(Role::Denoiser, &DEV, dev.graph(flux::Size { beside: [2, 2], ..size }).unwrap(), &inputs);
    near(&sample[0].1, "step.kontext");
    let nets = [("xlabs", &XLABS[..], &pixels, None, 2), ("union", &UNION[..], &control, Some([2]), 3)];
    for (name, parts, control, mode, count) in &nets {
        let net = flux_control::Config::parse(&config(name)).unwrap();
        let mut inputs = vec![
            ("latents", Data::F32(latents)),
            ("control", Data::F32(control)),
            ("strength", Data::F32(&[0.7])),
        ];
        if let Some(mode) = mode {
            inputs.push(("mode", Data::I32(mode)));
        }
        inputs.extend(told.iter().filter(|(name, _)| net.flux.guidance_embeds || *name != "guidance"));
        let residuals = said(Role::ControlNet, parts, net.graph(size).unwrap(), &inputs);
        assert_eq!(residuals.len(), *count);
        residuals.iter().for_each(|(what, x)| near(x, &format!("step.{name}.{what}")));
        let mut inputs = [&told[..], &[("latents", Data::F32(latents))]].concat();
        inputs.extend(residuals.iter().map(|(name, x)| (name.as_str(), Data::F32(x))));
        let graph = dev.graph(flux::Size { added: net.added(), ..size }).unwrap();
        near(&said(Role::Denoiser, parts, graph, &inputs)[0].1, &format!("step.{name}"));
    }
}
