//! `POST /sdapi/v1/txt2img` and `/sdapi/v1/img2img`.

use axum::Json;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hob_engine::diffuse::from_a1111;
use hob_io::picture::label;
use serde_json::{Value, json};

use super::{answer, find};
use crate::serve::asked::Asked;
use crate::serve::fields::Fields;
use crate::serve::images::{self, MOST_SIDE, Made, Marked, Start, Wish};
use crate::serve::openai::{images_base64, prompt_text};
use crate::serve::refusal::{Kind, Refusal, Result};

pub async fn from_text(asked: Asked) -> Response {
    answer(make(asked, false).await)
}

pub async fn from_picture(asked: Asked) -> Response {
    answer(make(asked, true).await)
}

async fn make(Asked { app, tally, mut body }: Asked, from_picture: bool) -> Result<Response> {
    let (model, wish, shown) = {
        let f = Fields::of(&body)?;
        let settings = f.object("override_settings")?;
        let own = match &settings {
            Some(s) => s.text("sd_model_checkpoint")?.map(String::from),
            None => None,
        };
        let mut wish = wish(&f)?;
        if from_picture {
            wish.start = Some(start(&f)?);
        }
        (own, wish, f.flag("send_images")?.unwrap_or(true))
    };
    // What is told again is told without the pictures, as A1111 has it.
    for name in ["init_images", "mask"] {
        if let Some(field) = body.get_mut(name) {
            *field = Value::Null;
        }
    }
    tally.hold(None);
    let batch = wish.count;
    let known = find(&app, model.as_deref()).await?;
    let (_, answer) = app.images.submit(known, wish)?;
    let made = images::wait(answer).await?;
    let pictures: Vec<String> =
        made.iter().filter(|_| shown).map(|m| BASE64_STANDARD.encode(&m.png)).collect();
    let info = info(&made, batch).to_string();
    Ok(Json(json!({"images": pictures, "parameters": body, "info": info})).into_response())
}

fn wish(f: &Fields) -> Result<Wish> {
    let without = |name: &str| {
        let message = format!("`{name}` is asked for, and Hob does not have it; leave it out");
        Refusal { field: Some(name.into()), ..Refusal::new(Kind::Absent, message) }
    };
    for name in ["enable_hr", "restore_faces", "tiling"] {
        if f.flag(name)? == Some(true) {
            return Err(without(name));
        }
    }
    if f.text("script_name")?.is_some_and(|s| !s.is_empty()) {
        return Err(without("script_name"));
    }
    if f.get("alwayson_scripts").and_then(Value::as_object).is_some_and(|scripts| !scripts.is_empty()) {
        return Err(without("alwayson_scripts"));
    }
    let named = |name: &str| f.text(name).map(|text| text.filter(|t| !t.is_empty()));
    let sampler = match named("sampler_name")? {
        Some(name) => Some(name),
        None => named("sampler_index")?,
    };
    let scheduler = named("scheduler")?;
    let walk = match (sampler, scheduler) {
        (None, None) => None,
        (sampler, scheduler) => {
            let walk = from_a1111(sampler.unwrap_or("Euler"), scheduler);
            Some(walk.map_err(|e| Refusal::field("sampler_name", e))?)
        }
    };
    let side = |name| Ok::<_, Refusal>(f.count(name, 1..=MOST_SIDE)?.map(|n| n as usize));
    let many = |name| Ok::<_, Refusal>(f.count(name, 1..=100)?.unwrap_or(1));
    let count = many("batch_size")? * many("n_iter")?;
    if count > 100 {
        return Err(Refusal::field("n_iter", "`batch_size` times `n_iter` is more than 100 pictures"));
    }
    let seed = f.integer("seed")?.and_then(|seed| u64::try_from(seed).ok());
    let skip =
        f.object("override_settings")?.map(|s| s.count("CLIP_stop_at_last_layers", 1..=12)).transpose()?;
    Ok(Wish {
        prompt: prompt_text(f, "prompt")?.unwrap_or_default(),
        negative: prompt_text(f, "negative_prompt")?.unwrap_or_default(),
        width: side("width")?,
        height: side("height")?,
        round: true,
        steps: f.count("steps", 1..=1000)?.map(|n| n as u32),
        cfg: f.number("cfg_scale", 0.0..=100.0)?,
        guidance: f.number("distilled_cfg_scale", 0.0..=100.0)?,
        image_cfg: f.number("image_cfg_scale", 0.0..=100.0)?,
        sampler: walk.map(|(sampler, _)| sampler),
        schedule: walk.map(|(_, schedule)| schedule),
        seed,
        count: count as u32,
        clip_skip: skip.flatten().map(|n| n as u32),
        noise: None,
        start: None,
    })
}

fn start(f: &Fields) -> Result<Start> {
    let images = f.strings("init_images")?;
    let [image] = &images[..] else {
        return Err(Refusal::field(
            "init_images",
            format!("`init_images` must hold one picture, and holds {}", images.len()),
        ));
    };
    let mask =
        f.text("mask")?.filter(|m| !m.is_empty()).map(|mask| images_base64("mask", mask)).transpose()?;
    // Zero or one, or true where a client writes it so.
    let inverted = match f.get("inpainting_mask_invert") {
        Some(Value::Bool(b)) => *b,
        _ => f.count("inpainting_mask_invert", 0..=1)? == Some(1),
    };
    Ok(Start {
        image: images_base64("init_images", image)?,
        mask,
        marked: if inverted { Marked::Black } else { Marked::White },
        strength: f.number("denoising_strength", 0.0..=1.0)?,
    })
}

/// What A1111 tells of the pictures (`Processed.js` of its `processing.py`), which clients read as a text of JSON.
fn info(made: &[Made], batch: u32) -> Value {
    let Some(first) = made.first().map(|m| &m.recipe) else { return json!({}) };
    let all = |f: &dyn Fn(&Made) -> Value| made.iter().map(f).collect::<Value>();
    json!({
        "prompt": first.prompt,
        "all_prompts": all(&|m| json!(m.recipe.prompt)),
        "negative_prompt": first.negative,
        "all_negative_prompts": all(&|m| json!(m.recipe.negative)),
        "seed": first.seed,
        "all_seeds": all(&|m| json!(m.recipe.seed)),
        "subseed": 0,
        "all_subseeds": all(&|_| json!(0)),
        "subseed_strength": 0,
        "width": first.width,
        "height": first.height,
        "sampler_name": label(&first.sampler),
        "cfg_scale": first.cfg,
        "steps": first.steps,
        "batch_size": batch,
        "restore_faces": false,
        "face_restoration_model": null,
        "sd_model_name": first.model,
        "sd_model_hash": first.model_hash.as_deref().and_then(|h| h.get(..10)).unwrap_or(""),
        "sd_vae_name": first.vae,
        "sd_vae_hash": first.vae_hash.as_deref().and_then(|h| h.get(..10)),
        "denoising_strength": first.init.as_ref().map(|i| i.strength),
        "extra_generation_params": {"Schedule type": label(&first.schedule)},
        "index_of_first_image": 0,
        "infotexts": all(&|m| json!(m.recipe.text())),
        "styles": [],
        "job_timestamp": "0",
        "clip_skip": first.clip_skip.unwrap_or(1),
        "is_using_inpainting_conditioning": false,
        "version": first.version,
    })
}
