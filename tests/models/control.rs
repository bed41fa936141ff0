//! Whole pictures held to another one by a ControlNet, against diffusers' pipelines.

use crate::golden::{Arrays, folder};
use hob_engine::diffuse::{
    Control, Guidance, Painter, Request, Room, Said, Sampler, Script, Shape, Source, Steps,
};
use hob_engine::{Cpu, Precision};
use hob_io::Pipeline;
use hob_io::pipeline::Role;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

const SIZE: (usize, usize) = (40, 24);

fn painter(family: &str, net: Option<&Path>) -> Painter {
    let given: Vec<_> = net.iter().map(|path| (Role::ControlNet, path.to_path_buf())).collect();
    let pipeline = Pipeline::open_with(&folder("pipeline").join(family), &given).unwrap();
    Painter::new(Arc::new(pipeline), BTreeMap::new(), Cpu::new(2, Precision::Exact)).unwrap()
}

/// Paints the golden's picture of a family.
fn paint(painter: &mut Painter, family: &str, strength: Option<f32>, cfg: f32) -> Result<Vec<f32>, String> {
    let arrays = Arrays::open("control", "golden");
    let said = |states: &str, pooled: &str| {
        let optional = |name: String| if arrays.has(&name) { arrays.get(&name) } else { Vec::new() };
        let (states, pooled) =
            (optional(format!("{family}.{states}")), optional(format!("{family}.{pooled}")));
        Said { states, tokens: 7, pooled }
    };
    let (prompt, negative) = (said("text", "pooled"), said("negative", "negative_pooled"));
    let control = strength.map(|strength| Control { image: arrays.get("edges"), strength, mode: None });
    let tokens = painter.tokens(SIZE.0, SIZE.1);
    let script = Script::plain(prompt, Some(negative));
    let request = Request {
        width: SIZE.0,
        height: SIZE.1,
        script: &script,
        guidance: Guidance { scale: cfg, rescale: 0.0 },
        image_cfg: 1.0,
        told: 0.0,
        sampler: Sampler::Euler,
        how: painter.scheduler.how(Sampler::Euler),
        steps: Steps::diffusers(&painter.scheduler, Sampler::Euler, 4, tokens).unwrap(),
        source: Source::TorchCpu,
        seed: 0,
        given: None,
        control: control.as_ref(),
    };
    painter.paint(&request, &mut |_| true).map_err(|e| e.to_string())
}

/// The largest difference from a golden picture, in parts of its range.
fn differs(name: &str, pixels: &[f32]) -> f32 {
    let golden = Arrays::open("control", "golden").get(&format!("{name}.image"));
    assert_eq!(golden.len(), pixels.len());
    let each = golden.iter().zip(pixels).map(|(g, p)| (g - (p / 2.0 + 0.5).clamp(0.0, 1.0)).abs());
    each.fold(0.0, f32::max)
}

/// Half of a 255th: the same bytes but for ties.
const NEAR: f32 = 0.5 / 255.0;

#[test]
fn pictures_held_by_a_controlnet_are_those_of_diffusers() {
    for (family, name, strength, cfg) in [
        ("sd15", "sd15.held", 0.7, 7.5),
        ("sd15", "sd15.unguided", 1.0, 1.0),
        ("sd15", "sd15.free", 0.0, 7.5),
        ("sdxl", "sdxl.held", 0.7, 5.0),
    ] {
        let mut painter = painter(family, Some(&folder("control").join(family)));
        let pixels = paint(&mut painter, family, Some(strength), cfg).unwrap();
        let d = differs(name, &pixels);
        assert!(d < NEAR, "{name} differs by {d}");
        in_turn(&mut painter);
        let d = differs(name, &paint(&mut painter, family, Some(strength), cfg).unwrap());
        assert!(d < NEAR, "{name} differs by {d} with one prompt after the other");
    }
}

/// Has the painter run the prompt and the negative one one after the other.
fn in_turn(painter: &mut Painter) {
    let (width, height) = SIZE;
    let shape = Shape { width, height, guided: true, tokens: 7, texts: 2, held: true, ..Shape::default() };
    let mut room = painter.room(shape, usize::MAX).unwrap();
    room.split = true;
    painter.settle(room);
}

/// Both networks are there at once, and half as much to work in where prompts are run one after the other.
#[test]
fn a_controlnet_is_planned_beside_the_denoiser() {
    let painter = painter("sd15", Some(&folder("control/sd15")));
    let free = Shape { width: 40, height: 24, guided: true, tokens: 7, texts: 2, ..Shape::default() };
    let shape = Shape { held: true, ..free };
    let of = |room: &Room| room.phases.iter().find(|p| p.role == Role::Denoiser).unwrap().budget;
    let [free, held] = [free, shape].map(|shape| painter.room(shape, usize::MAX).unwrap());
    let net = painter.pipeline().part(Role::ControlNet).unwrap().size_bytes() as usize;
    assert_eq!(of(&held).weights, of(&free).weights + net);
    assert!(of(&held).activations > of(&free).activations);
    // A part to work in, beside which all weights are; what threads work in is no less for one side than for two.
    let less = held.beside + of(&held).total() - of(&held).activations / 5;
    let room = painter.room(shape, less).unwrap();
    assert!(room.split && room.short().is_none() && room.phases.iter().all(|p| p.streamed == 0), "{room:?}");
}

/// The one painter paints with it and without, and nothing is left of the one in the other.
#[test]
fn a_controlnet_that_is_not_asked_says_nothing() {
    let mut painter = painter("sd15", Some(&folder("control").join("sd15")));
    let held = paint(&mut painter, "sd15", Some(0.7), 7.5).unwrap();
    let free = paint(&mut painter, "sd15", None, 7.5).unwrap();
    assert!(differs("sd15.free", &free) < NEAR);
    assert!(differs("sd15.free", &held) > 4.0 * NEAR, "the golden's ControlNet must matter");
    assert_eq!(paint(&mut painter, "sd15", Some(0.7), 7.5).unwrap(), held);
}

#[test]
fn one_that_says_the_same_everywhere_is_for_the_prompt_alone() {
    let net = tempfile::tempdir().unwrap();
    let golden = folder("control/sd15");
    let weights = "diffusion_pytorch_model.safetensors";
    std::fs::copy(golden.join(weights), net.path().join(weights)).unwrap();
    let config = std::fs::read_to_string(golden.join("config.json")).unwrap();
    let config = config.replace("\"global_pool_conditions\": false", "\"global_pool_conditions\": true");
    std::fs::write(net.path().join("config.json"), config).unwrap();
    let mut painter = painter("sd15", Some(net.path()));
    for what in ["side by side", "in turn"] {
        let pixels = paint(&mut painter, "sd15", Some(1.3), 7.5).unwrap();
        let d = differs("sd15.pooled", &pixels);
        assert!(d < NEAR, "{what} it differs by {d}");
        in_turn(&mut painter);
    }
}

#[test]
fn what_cannot_hold_a_picture_is_said() {
    let said = paint(&mut painter("sd15", None), "sd15", Some(1.0), 7.5).unwrap_err();
    assert!(said.contains("--control"), "{said}");
    let other = Pipeline::open_with(&folder("pipeline/sd15"), &[(Role::ControlNet, folder("control/sdxl"))]);
    let said = other.unwrap_err().to_string();
    assert!(said.contains("another family"), "{said}");
}
