//! Noise, schedules and samplers against torch, diffusers and ComfyUI's formulas (`tests/golden/samplers`).

use crate::golden::{Arrays, facts, largest_difference};
use hob_engine::diffuse::brownian::Tree;
use hob_engine::diffuse::noise::Source;
use hob_engine::diffuse::{
    At, Ays, Guidance, How, Levels, Mask, Model, Noise, Prediction, Progress, SampleError, Sampler, Schedule,
    Scheduler, Space, Steps, Walk, sample,
};
use serde_json::Value;

fn golden() -> (Value, Arrays) {
    (facts("samplers"), Arrays::open("samplers", "golden"))
}

fn text<'a>(v: &'a Value, key: &str) -> &'a str {
    v[key].as_str().unwrap_or_else(|| panic!("{v} has no {key}"))
}

fn count(v: &Value, key: &str) -> usize {
    v[key].as_u64().unwrap_or(0) as usize
}

fn scheduler(row: &Value) -> Scheduler {
    let mut scheduler = Scheduler::parse(&row["config"]).unwrap();
    if let Some(flow) = &mut scheduler.flow {
        flow.listed = row["listed"] == true;
    }
    scheduler
}

#[test]
fn noise_is_torchs() {
    let (facts, arrays) = golden();
    for row in facts["noise"].as_array().unwrap() {
        let source = Source::parse(text(row, "source")).unwrap();
        let mut noise = Noise::new(source, text(row, "seed").parse().unwrap());
        let sizes = row["sizes"].as_array().unwrap();
        let got: Vec<f32> = sizes.iter().flat_map(|n| noise.randn(n.as_u64().unwrap() as usize)).collect();
        let want = arrays.get(text(row, "array"));
        let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
        match source {
            Source::TorchCpu => assert_eq!(bits(&got), bits(&want), "seed {}", row["seed"]),
            // Python's libm and Rust's may differ in the last bit of f64.
            Source::Philox => assert!(largest_difference(&got, &want) <= 2.5e-7, "seed {}", row["seed"]),
        }
    }
}

/// Nothing but a rounding apart: to `ulps` units in the last place.
fn same(what: &str, got: &[f32], want: &[f32], ulps: f32) {
    assert_eq!(got.len(), want.len(), "{what}: {got:?} {want:?}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!(
            (g - w).abs() <= ulps * f32::EPSILON * w.abs(),
            "{what}, {i}: {g} is not {w}\n{got:?}\n{want:?}"
        );
    }
}

#[test]
fn tables_are_those_of_diffusers() {
    let (facts, arrays) = golden();
    for row in facts["tables"].as_array().unwrap() {
        let (scheduler, sampler) = (scheduler(row), Sampler::parse(text(row, "sampler")).unwrap());
        let what = format!("{} steps of {}", row["steps"], row["config"]);
        assert_eq!(scheduler.sampler(), Ok(sampler), "{what}");
        let steps = Steps::diffusers(&scheduler, sampler, count(row, "steps"), count(row, "tokens")).unwrap();
        let mut sigmas: Vec<f32> = steps.list.iter().map(|s| s.sigma).collect();
        let array = text(row, "array");
        // numpy computes some of these in f32, with a rounding more.
        let ulps = if scheduler.betas.zero_snr || row["listed"] == true { 4.0 } else { 1.0 };
        if row["to"] == true {
            let to: Vec<f32> = steps.list.iter().map(|s| s.to).collect();
            same(&what, &to, &arrays.get(&format!("{array}.to")), 1.0);
            sigmas.push(0.0);
        } else {
            sigmas.push(steps.list.last().unwrap().to);
        }
        same(&what, &sigmas, &arrays.get(&format!("{array}.sigmas")), ulps);
        let times: Vec<f32> = steps.list.iter().map(|s| s.time).collect();
        // Between two timesteps the last bit of a level's logarithm counts much.
        same(&what, &times, &arrays.get(&format!("{array}.times")), 4.0);
        if let Some(init) = row["init"].as_f64() {
            same(&what, &steps.begin(&[1.0]), &[init as f32], 1.0);
        }
    }
}

#[test]
fn schedules_are_those_of_comfyui() {
    let (facts, arrays) = golden();
    for row in facts["comfy"].as_array().unwrap() {
        let (name, ays) = match text(row, "schedule") {
            "sd15" => ("ays", Ays::Sd15),
            "sdxl" => ("ays", Ays::Sdxl),
            "svd" => ("ays", Ays::Svd),
            other => (other, Ays::Sd15),
        };
        let (schedule, n) = (Schedule::parse(name).unwrap(), count(row, "steps"));
        let steps = Steps::comfy(&scheduler(row), Sampler::Euler, schedule, n, ays).unwrap();
        let mut sigmas: Vec<f32> = steps.list.iter().map(|s| s.sigma).collect();
        sigmas.push(steps.list.last().unwrap().to);
        let what = format!("{n} steps of {} for {}", row["schedule"], row["config"]);
        let array = text(row, "array");
        same(&what, &sigmas, &arrays.get(&format!("{array}.sigmas")), 20.0);
        let times: Vec<f32> = steps.list.iter().map(|s| s.time).collect();
        same(&what, &times, &arrays.get(&format!("{array}.times")), 20.0);
    }
}

/// The network of the walks: a formula of its input and timestep.
fn network(x: &[f32], time: f32) -> Vec<f32> {
    x.iter().map(|x| 0.8 * x + 0.3 * (1.7 * x + time / 500.0).tanh() - 0.1).collect()
}

fn answer(prediction: Prediction) -> impl Fn(&[f32], At) -> Vec<f32> {
    move |x, at| {
        let mut out = network(&prediction.input(x, at.sigma), at.time);
        prediction.denoised(x, &mut out, at.sigma);
        out
    }
}

/// Walks from `x`; what is kept by a mask is kept.
fn go(
    scheduler: &Scheduler,
    sampler: Sampler,
    how: &How,
    steps: &Steps,
    x: Vec<f32>,
    mask: Option<&Mask>,
) -> Vec<f32> {
    let mut noise = Noise::new(Source::TorchCpu, 77);
    let (n, answer) = (x.len(), answer(scheduler.prediction));
    let mut seen = vec![];
    let walk = Walk::<()> {
        steps,
        model: &mut |x, at| Ok(answer(x, at)),
        noise: &mut |_, _| noise.randn(n),
        each: &mut |p: Progress| seen.push((p.step, p.steps, p.denoised.len())),
        mask,
    };
    let out = sample(sampler, how, walk, x).unwrap();
    let len = steps.list.len();
    assert_eq!(seen, (0..len).map(|i| (i, len, n)).collect::<Vec<_>>());
    out
}

fn near(what: &str, got: &[f32], want: &[f32]) {
    let most = want.iter().fold(0f32, |m, x| m.max(x.abs()));
    let d = largest_difference(got, want) / most;
    assert!(d < 1e-5, "{what}: off by {d}\n{got:?}\n{want:?}");
}

#[test]
fn walks_are_those_of_diffusers() {
    let (facts, arrays) = golden();
    let start = Noise::new(Source::TorchCpu, 5).randn(40);
    let original = arrays.get("walk.original");
    for row in facts["walks"].as_array().unwrap() {
        let (scheduler, sampler) = (scheduler(row), Sampler::parse(text(row, "sampler")).unwrap());
        let mut how = scheduler.how(sampler);
        how.eta = row["eta"].as_f64().unwrap_or(how.eta);
        let mut steps =
            Steps::diffusers(&scheduler, sampler, count(row, "steps"), count(row, "tokens")).unwrap();
        let x = match row["strength"].as_f64() {
            Some(strength) => {
                steps = steps.strength(strength).unwrap();
                steps.begin_with(&original, &start)
            }
            None => steps.begin(&start),
        };
        let mask = Mask { original: original.clone(), noise: start.clone(), paint: arrays.get("walk.paint") };
        let mask = (row["paint"] == true).then_some(&mask);
        let got = go(&scheduler, sampler, &how, &steps, x, mask);
        near(&row.to_string(), &got, &arrays.get(text(row, "array")));
    }
}

#[test]
fn samplers_without_a_scheduler_follow_k_diffusion() {
    let (facts, arrays) = golden();
    let start = Noise::new(Source::TorchCpu, 5).randn(40);
    for row in facts["formulas"].as_array().unwrap() {
        let (scheduler, sampler) = (scheduler(row), Sampler::parse(text(row, "sampler")).unwrap());
        let schedule = Schedule::parse(text(row, "schedule")).unwrap();
        let steps = Steps::comfy(&scheduler, sampler, schedule, count(row, "steps"), Ays::Sd15).unwrap();
        let got = go(&scheduler, sampler, &How::of(sampler), &steps, steps.begin(&start), None);
        near(&row.to_string(), &got, &arrays.get(text(row, "array")));
    }
}

#[test]
fn every_sampler_comes_to_the_picture() {
    // A network that is sure: whatever the way, the end is the picture, on every schedule and in both spaces.
    let picture: Vec<f32> = (0..40).map(|i| (i as f32 / 7.0).sin()).collect();
    for scheduler in
        [Scheduler::stable_diffusion(Prediction::Epsilon), Scheduler::flux(false), Scheduler::flux(true)]
    {
        for sampler in Sampler::ALL.iter().copied() {
            let ways = Schedule::ALL.iter().map(|s| Steps::comfy(&scheduler, sampler, *s, 6, Ays::Sdxl));
            for steps in ways.chain([Steps::diffusers(&scheduler, sampler, 6, 1024)]).flatten() {
                let mut noise = Noise::new(Source::Philox, 3);
                let walk = Walk::<()> {
                    steps: &steps,
                    model: &mut |_, at| {
                        assert!((0.0..=1000.0).contains(&at.time) && at.sigma > 0.0, "{at:?}");
                        Ok(picture.clone())
                    },
                    noise: &mut |_, _| noise.randn(40),
                    each: &mut |_| {},
                    mask: None,
                };
                let got = sample(sampler, &How::of(sampler), walk, steps.begin(&[1.0; 40])).unwrap();
                let d = largest_difference(&got, &picture);
                // PLMS ends at the least level, with a little noise left.
                let most = if steps.list.last().unwrap().to > 0.0 { 0.1 } else { 2e-5 };
                assert!(d < most, "{sampler:?}: {d} in {:?}", steps.list);
            }
        }
    }
}

#[test]
fn walks_stop_with_the_step() {
    let scheduler = Scheduler::stable_diffusion(Prediction::Epsilon);
    let steps = Steps::diffusers(&scheduler, Sampler::Heun, 5, 0).unwrap();
    let go = |model: &mut Model<String>, mask: Option<&Mask>| {
        let walk = Walk { steps: &steps, model, noise: &mut |_, _| vec![0.0; 4], each: &mut |_| {}, mask };
        sample(Sampler::Heun, &How::of(Sampler::Heun), walk, vec![1.0; 4]).unwrap_err()
    };
    let error =
        go(&mut |x, at| if at.step == 2 { Err("you stopped it".into()) } else { Ok(x.to_vec()) }, None);
    assert_eq!(error.to_string(), "step 3 of 5: you stopped it");
    let error = go(&mut |x, at| Ok(vec![if at.step == 1 { f32::NAN } else { x[0] }; 4]), None);
    assert!(error.to_string().starts_with("the picture became NaN or infinite in step 2 of 5:"), "{error}");
    let error = go(&mut |_, _| Ok(vec![0.0; 3]), None);
    assert_eq!(error, SampleError::Length { what: "network's answer", got: 3, want: 4 });
    let mask = Mask { original: vec![0.0; 4], noise: vec![0.0; 4], paint: vec![0.0; 5] };
    assert_eq!(
        go(&mut |x, _| Ok(x.to_vec()), Some(&mask)).to_string(),
        "the mask has 5 numbers, and the latents have 4"
    );
}

#[test]
fn guidance_is_that_of_diffusers() {
    let (_, arrays) = golden();
    let (prompt, negative) = (arrays.get("guidance.prompt"), arrays.get("guidance.negative"));
    for (rescale, want) in [(0.0, "guidance.plain"), (0.7, "guidance.rescaled")] {
        let mut out = prompt.clone();
        Guidance { scale: 7.5, rescale }.combine(&mut out, &negative, 2);
        near(want, &out, &arrays.get(want));
    }
    assert!(!Guidance { scale: 1.0, rescale: 0.0 }.is_on());
}

#[test]
fn levels_are_those_of_stable_diffusion() {
    let levels = Levels::comfy(&Scheduler::stable_diffusion(Prediction::Epsilon).betas);
    same("the ends", &[levels.min(), levels.max()], &[0.029_167_158, 14.614_641], 1.0);
    for i in [0, 1, 500, 999] {
        let sigma = levels.sigmas[i];
        assert!((levels.time(sigma.into()) - i as f64).abs() < 1e-3);
        assert_eq!(levels.nearest(sigma), i as f32);
        same("there and back", &[levels.log_linear(i as f32)], &[sigma], 4.0);
    }
    assert_eq!(Space::Flow.noised(&[2.0], &[4.0], 0.25), [2.5]);
}

#[test]
fn wrong_configurations_are_refused_in_a_sentence() {
    let refused = [
        (r#"{"beta_schedule": "sqrt"}"#, "beta_schedule is sqrt, which Hob does not know"),
        (r#"{"beta_start": -1}"#, "beta_start is -1, no number from 0 to 1"),
        (r#"{"num_train_timesteps": 0}"#, "num_train_timesteps is 0"),
        (r#"{"trained_betas": [0.5, 2]}"#, "trained_betas is no list of num_train_timesteps numbers"),
        (r#"{"prediction_type": "x"}"#, "prediction_type is x, which Hob does not know"),
        (r#"{"timestep_spacing": "x"}"#, "timestep_spacing is x, which Hob does not know"),
        (r#"{"clip_sample": true}"#, "clip_sample is on, which is for pixels"),
        (r#"{"steps_offset": "a"}"#, "steps_offset is \"a\", no whole number"),
        (
            r#"{"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 0}"#,
            "shift is 0, and must be above 0",
        ),
    ];
    for (text, want) in refused {
        let error = Scheduler::parse(&serde_json::from_str(text).unwrap()).unwrap_err();
        assert!(error.starts_with("scheduler_config.json: ") && error.contains(want), "{error}");
    }
    let odd = Scheduler::parse(&serde_json::json!({ "_class_name": "VQDiffusionScheduler" })).unwrap();
    assert!(odd.sampler().unwrap_err().contains("VQDiffusionScheduler is not supported; choose a sampler"));
    let sd = Scheduler::stable_diffusion(Prediction::Velocity);
    assert!(
        Steps::diffusers(&sd, Sampler::Euler, 0, 0).is_err()
            && Steps::diffusers(&sd, Sampler::Euler, 1001, 0).is_err()
    );
    assert!(Steps::diffusers(&sd, Sampler::Lcm, 51, 0).unwrap_err().contains("lcm knows 50 timesteps"));
    let ten = Steps::diffusers(&sd, Sampler::Euler, 10, 0).unwrap();
    assert!(ten.clone().strength(0.05).unwrap_err().contains("leaves none of 10 steps"));
    assert!(ten.clone().strength(1.5).is_err() && ten.clone().strength(f64::NAN).is_err());
    assert_eq!(ten.strength(0.55).unwrap().list.len(), 5);
    let flux = Steps::diffusers(&Scheduler::flux(false), Sampler::Euler, 10, 4096).unwrap();
    assert_eq!(flux.strength(0.55).unwrap().list.len(), 6);
    assert!(Steps::comfy(&Scheduler::flux(true), Sampler::Euler, Schedule::Ays, 4, Ays::Sd15).is_err());
}

#[test]
fn noise_of_brownian_trees_is_torchsdes() {
    let (facts, arrays) = (facts("brownian"), Arrays::open("brownian", "golden"));
    for walk in facts["walks"].as_array().unwrap() {
        let level = |v: &Value| v.as_f64().unwrap() as f32;
        let ends = (level(&walk["least"]), level(&walk["greatest"]));
        let tree = Tree::new(text(walk, "seed").parse().unwrap(), ends, count(walk, "count"));
        for row in walk["asked"].as_array().unwrap() {
            let (got, want) =
                (tree.noise(level(&row[0]), level(&row[1])), arrays.get(row[2].as_str().unwrap()));
            let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
            assert_eq!(bits(&got), bits(&want), "seed {}, {row}", walk["seed"]);
        }
    }
}
