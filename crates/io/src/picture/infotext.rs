//! A1111's text under a picture: the prompt, `Negative prompt: …`, and a line of settings.
//!
//! Facts: `create_infotext` in `modules/processing.py` and `parse_generation_parameters` in `modules/infotext_utils.py` of
//! stable-diffusion-webui; the names of samplers in its `modules/sd_samplers_kdiffusion.py` and `sd_schedulers.py`, and in
//! ComfyUI's `comfy/samplers.py`. `Distilled CFG Scale` is Forge's.

use super::recipe::{Init, Lora, Recipe};
use fancy_regex::Regex;
use std::{fmt::Write, sync::LazyLock};

/// A1111's names by ComfyUI's.
const SAMPLERS: [(&str, &str); 20] = [
    ("euler", "Euler"),
    ("euler_ancestral", "Euler a"),
    ("heun", "Heun"),
    ("dpm_2", "DPM2"),
    ("dpm_2_ancestral", "DPM2 a"),
    ("lms", "LMS"),
    ("dpm_fast", "DPM fast"),
    ("dpm_adaptive", "DPM adaptive"),
    ("dpmpp_2s_ancestral", "DPM++ 2S a"),
    ("dpmpp_2m", "DPM++ 2M"),
    ("dpmpp_sde", "DPM++ SDE"),
    ("dpmpp_2m_sde", "DPM++ 2M SDE"),
    ("dpmpp_2m_sde_heun", "DPM++ 2M SDE Heun"),
    ("dpmpp_3m_sde", "DPM++ 3M SDE"),
    ("ddim", "DDIM"),
    ("ddpm", "DDPM"),
    ("plms", "PLMS"),
    ("uni_pc", "UniPC"),
    ("lcm", "LCM"),
    ("restart", "Restart"),
];
const SCHEDULES: [(&str, &str); 13] = [
    ("", "Automatic"),
    ("normal", "Normal"),
    ("karras", "Karras"),
    ("exponential", "Exponential"),
    ("polyexponential", "Polyexponential"),
    ("sgm_uniform", "SGM Uniform"),
    ("uniform", "Uniform"),
    ("simple", "Simple"),
    ("ddim_uniform", "DDIM"),
    ("beta", "Beta"),
    ("ays", "Align Your Steps"),
    ("kl_optimal", "KL Optimal"),
    ("turbo", "Turbo"),
];
/// `RNG` by where noise comes from: NV is Philox on the processor, as CUDA makes it.
const NOISE: [(&str, &str); 2] = [("torch-cpu", "CPU"), ("philox", "NV")];

/// A1111's label of a sampler or a schedule by ComfyUI's name; the name itself where A1111 has no such thing.
pub fn label(name: &str) -> &str {
    theirs(&SAMPLERS, theirs(&SCHEDULES, name))
}

fn theirs<'a>(names: &'a [(&str, &str)], ours: &'a str) -> &'a str {
    names.iter().find(|(name, _)| *name == ours).map_or(ours, |(_, name)| name)
}

fn ours<'a>(names: &'a [(&str, &str)], theirs: &'a str) -> &'a str {
    names.iter().find(|(_, name)| name.eq_ignore_ascii_case(theirs)).map_or(theirs, |(name, _)| name)
}

/// What has a comma, a colon or a line's end stands in quotes, as JSON; and what would not come back without them.
fn quoted(text: &str) -> String {
    match text.contains([',', ':', '\n']) || text.starts_with('"') || text.trim() != text {
        true => serde_json::Value::from(text).to_string(),
        false => text.to_owned(),
    }
}

fn unquoted(text: &str) -> String {
    let inside = || if text.starts_with('"') { serde_json::from_str(text).ok() } else { None };
    inside().unwrap_or_else(|| text.to_owned())
}

pub(super) fn write(r: &Recipe) -> String {
    let mut text = r.prompt.clone();
    for lora in &r.loras {
        let space = if text.is_empty() { "" } else { " " };
        let _ = write!(text, "{space}<lora:{}:{}>", lora.name, lora.scale);
    }
    if !r.negative.is_empty() {
        let _ = write!(text, "\nNegative prompt: {}", r.negative);
    }
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    // A1111 shows 10 digits of models and 12 of LoRAs, and leaves out of their names what its reader would stumble over.
    let digits =
        |hash: &Option<String>, n: usize| hash.as_ref().map(|h| h.chars().take(n).collect::<String>());
    let hash = |l: &Lora| Some(format!("{}: {}", l.name.replace([':', ','], ""), digits(&l.hash, 12)?));
    let hashes: Vec<String> = r.loras.iter().filter_map(hash).collect();
    let (together, init) = (r.count > 1, r.init.as_ref());
    let settings = [
        ("Steps", Some(r.steps.to_string())),
        ("Sampler", Some(theirs(&SAMPLERS, &r.sampler).to_owned())),
        ("Schedule type", Some(theirs(&SCHEDULES, &r.schedule).to_owned())),
        ("CFG scale", Some(r.cfg.to_string())),
        ("Distilled CFG Scale", r.guidance.map(|g| g.to_string())),
        ("Image CFG scale", r.image_cfg.map(|g| g.to_string())),
        ("Seed", Some(r.seed.to_string())),
        ("Size", Some(format!("{}x{}", r.width, r.height))),
        ("Model hash", digits(&r.model_hash, 10)),
        ("Model", some(&r.model)),
        ("VAE hash", digits(&r.vae_hash, 10)),
        ("VAE", r.vae.clone()),
        ("Batch size", together.then(|| r.count.to_string())),
        ("Batch pos", together.then(|| r.index.to_string())),
        ("Denoising strength", init.map(|i| i.strength.to_string())),
        ("Init image hash", init.and_then(|i| i.hash.clone())),
        ("Mask hash", init.and_then(|i| i.mask.clone())),
        ("Clip skip", r.clip_skip.filter(|&n| n > 1).map(|n| n.to_string())),
        ("RNG", some(theirs(&NOISE, &r.noise))),
        ("Lora hashes", some(&hashes.join(", "))),
    ];
    let settings = settings.into_iter().filter_map(|(key, value)| Some((key, value?)));
    let more = r.more.iter().map(|(key, value)| (key.as_str(), value.clone()));
    let version = some(&r.version).map(|v| ("Version", v));
    let line: Vec<String> = settings
        .chain(more)
        .chain(version)
        .map(|(key, value)| format!("{key}: {}", quoted(&value)))
        .collect();
    format!("{text}\n{}", line.join(", ")).trim().to_owned()
}

/// A1111's expression for a setting.
static SETTING: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r#"\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)"#).expect("an expression that holds")
});
/// A LoRA in a prompt; of several weights the first is that of the denoiser, or of everything.
static LORA: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"\s*<(?:lora|lyco):([^:<>]+)(?::([^:<>]*))?(?::[^<>]*)?>").expect("an expression that holds")
});

fn settings(line: &str) -> Vec<(String, String)> {
    let pair = |c: fancy_regex::Captures| Some((c.get(1)?.as_str().to_owned(), unquoted(c.get(2)?.as_str())));
    SETTING.captures_iter(line).filter_map(|c| pair(c.ok()?)).collect()
}

pub(super) fn parse(text: &str) -> Recipe {
    let text = text.trim();
    let (before, last) = text.rsplit_once('\n').unwrap_or(("", text));
    let found = settings(last);
    let (lines, found) = if found.len() < 3 { (text, Vec::new()) } else { (before, found) };
    let mut r = Recipe { cfg: 7.0, count: 1, noise: "philox".into(), ..Recipe::default() };
    let mut negative = false;
    for line in lines.lines() {
        let mut line = line.trim();
        if let Some(rest) = line.strip_prefix("Negative prompt:") {
            (negative, line) = (true, rest.trim());
        }
        let part = if negative { &mut r.negative } else { &mut r.prompt };
        if !part.is_empty() {
            part.push('\n');
        }
        part.push_str(line);
    }
    for found in LORA.captures_iter(&r.prompt).flatten() {
        let name = found.get(1).map_or("", |m| m.as_str()).to_owned();
        let scale = found.get(2).and_then(|m| m.as_str().trim().parse().ok()).unwrap_or(1.0);
        r.loras.push(Lora { name, scale, hash: None });
    }
    if !r.loras.is_empty() {
        r.prompt = LORA.replace_all(&r.prompt, "").trim().to_owned();
    }
    let mut schedule = None;
    for (key, value) in found {
        if set(&mut r, &key, &value, &mut schedule).is_none() {
            r.more.insert(key, value);
        }
    }
    // A picture that was only made larger has a strength too, but began with none.
    if r.more.contains_key("Hires upscale")
        && let Some(init) = r.init.take_if(|i| i.hash.is_none() && i.mask.is_none())
    {
        r.more.insert("Denoising strength".into(), init.strength.to_string());
    }
    // Older versions named the schedule with the sampler.
    if schedule.is_none()
        && let Some((sampler, name)) = r.sampler.rsplit_once(' ')
        && let Some((known, _)) =
            SCHEDULES.iter().find(|(known, theirs)| !known.is_empty() && *theirs == name)
    {
        (r.schedule, r.sampler) = ((*known).to_owned(), ours(&SAMPLERS, sampler).to_owned());
    }
    r
}

/// Puts a setting where it belongs; `None` when it is unknown or its value is none.
fn set(r: &mut Recipe, key: &str, value: &str, schedule: &mut Option<()>) -> Option<()> {
    fn init(r: &mut Recipe) -> &mut Init {
        r.init.get_or_insert_with(|| Init { strength: 1.0, ..Init::default() })
    }
    let number = |value: &str| value.parse().ok().filter(|x: &f32| x.is_finite());
    match key {
        "Steps" => r.steps = value.parse().ok()?,
        "Sampler" => r.sampler = ours(&SAMPLERS, value).to_owned(),
        "Schedule type" => (*schedule, r.schedule) = (Some(()), ours(&SCHEDULES, value).to_owned()),
        "CFG scale" => r.cfg = number(value)?,
        "Distilled CFG Scale" => r.guidance = Some(number(value)?),
        "Image CFG scale" => r.image_cfg = Some(number(value)?),
        "Seed" => r.seed = value.parse().ok()?,
        "Size" => {
            let (width, height) = value.split_once('x')?;
            (r.width, r.height) = (width.parse().ok()?, height.parse().ok()?);
        }
        "Model hash" => r.model_hash = Some(value.to_owned()),
        "Model" => r.model = value.to_owned(),
        "VAE hash" => r.vae_hash = Some(value.to_owned()),
        "VAE" => r.vae = Some(value.to_owned()),
        "Batch size" => r.count = value.parse().ok()?,
        "Batch pos" => r.index = value.parse().ok()?,
        "Denoising strength" => init(r).strength = number(value)?,
        "Init image hash" => init(r).hash = Some(value.to_owned()),
        "Mask hash" => init(r).mask = Some(value.to_owned()),
        "Clip skip" => r.clip_skip = Some(value.parse().ok()?),
        "RNG" => r.noise = ours(&NOISE, value).to_owned(),
        "Version" => r.version = value.to_owned(),
        "Lora hashes" => {
            for pair in value.split(',') {
                let (name, hash) = pair.split_once(':')?;
                let lora = r
                    .loras
                    .iter_mut()
                    .find(|l| l.name.replace([':', ','], "") == name.trim() && l.hash.is_none());
                if let Some(lora) = lora {
                    lora.hash = Some(hash.trim().to_owned());
                }
            }
        }
        _ => return None,
    }
    Some(())
}
