//! `POST /v1/images/generations` and `/v1/images/edits` (<https://platform.openai.com/docs/api-reference/images>).
//!
//! `seed`, `negative_prompt`, `steps`, `cfg`, `guidance`, `image_cfg`, `sampler`, `schedule`, `clip_skip`, `noise` and
//! `strength` are Hob's own; `quality`, `style`, `background` and the like change nothing.

use std::sync::Arc;

use axum::Json;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hob_engine::diffuse::{Sampler, Schedule, Source};
use serde_json::{Map, Value, json};

use super::error::answer;
use super::now;
use crate::serve::App;
use crate::serve::asked::{Asked, Sent};
use crate::serve::fields::Fields;
use crate::serve::form;
use crate::serve::images::{self, MOST_SIDE, MOST_TEXT, Made, Marked, Start, Wish};
use crate::serve::refusal::{Kind, Refusal, Result};

/// Pictures from words.
pub async fn create(Asked { app, tally, body }: Asked) -> Response {
    let made = async {
        let f = Fields::of(&body)?;
        let wish = wish(&f)?;
        let model = f.text("model")?.map(String::from);
        drop(body);
        tally.hold(None);
        make(&app, model.as_deref(), wish).await
    };
    answer(made.await)
}

/// Pictures from a picture.
pub async fn edit(Sent { app, tally, bytes, kind }: Sent) -> Response {
    let made = async {
        let (body, start) = read(bytes, &kind)?;
        let f = Fields::of(&body)?;
        let strength = f.number("strength", 0.0..=1.0)?;
        // With a mask all of what it covers is new; without one enough of the picture stays to be known again.
        let strength = strength.or(start.mask.as_ref().map(|_| 1.0));
        let wish = Wish { start: Some(Start { strength, ..start }), ..wish(&f)? };
        tally.hold(None);
        make(&app, f.text("model")?, wish).await
    };
    answer(made.await)
}

/// The fields of an edit and its pictures, from a form or from JSON.
fn read(bytes: Vec<u8>, kind: &str) -> Result<(Value, Start)> {
    let mut pictures: Vec<(String, Vec<u8>)> = Vec::new();
    let mut body = match form::boundary(kind) {
        Some(boundary) => {
            let mut fields = Map::new();
            for part in form::parts(&bytes, boundary)? {
                match part.name.trim_end_matches("[]") {
                    name @ ("image" | "mask") => pictures.push((name.into(), part.bytes.to_vec())),
                    name => drop(fields.insert(name.into(), value(name, part.bytes)?)),
                }
            }
            Value::Object(fields)
        }
        None => crate::serve::asked::parse(&bytes)?,
    };
    drop(bytes);
    for name in ["image", "mask"] {
        let Some(field) = body.get_mut(name).map(Value::take).filter(|v| !v.is_null()) else { continue };
        let each = match &field {
            Value::Array(list) => list.iter().collect(),
            one => vec![one],
        };
        for text in each {
            let text = text.as_str().or_else(|| text["image_url"].as_str());
            let text =
                text.ok_or_else(|| Refusal::field(name, format!("`{name}` must be a picture in base64")))?;
            pictures.push((name.into(), images_base64(name, text)?));
        }
    }
    let mut of = |name: &str| {
        let mut all = Vec::new();
        while let Some(at) = pictures.iter().position(|(n, _)| n == name) {
            all.push(pictures.remove(at).1);
        }
        match all.len() {
            0 | 1 => Ok(all.pop()),
            n => Err(Refusal::field(
                name,
                format!("`{name}` holds {n} pictures, and Hob's models edit one at a time"),
            )),
        }
    };
    let (image, mask) = (of("image")?, of("mask")?);
    let image = image.ok_or_else(|| Refusal::field("image", "`image` is missing"))?;
    Ok((body, Start { image, mask, marked: Marked::Clear, strength: None }))
}

/// A picture in base64, bare or as a `data:` URL.
pub fn images_base64(field: &str, text: &str) -> Result<Vec<u8>> {
    let bare = match text.strip_prefix("data:") {
        Some(rest) => rest.split_once(";base64,").map(|(_, data)| data),
        None if text.starts_with("http://") || text.starts_with("https://") => None,
        None => Some(text),
    };
    let bare = bare.ok_or_else(|| {
        Refusal::field(
            field,
            format!("`{field}` must be a picture in base64; Hob fetches nothing from an address"),
        )
    })?;
    let bare = bare.trim().trim_end_matches('=');
    let decoded = base64::prelude::BASE64_STANDARD_NO_PAD.decode(bare);
    decoded.map_err(|_| Refusal::field(field, format!("`{field}` is no base64")))
}

/// A form's field: everything is text there, so that numbers are told by their names.
fn value(name: &str, bytes: &[u8]) -> Result<Value> {
    let text =
        std::str::from_utf8(bytes).map_err(|_| Refusal::field(name, format!("`{name}` is no UTF-8")))?;
    let number =
        matches!(name, "n" | "seed" | "steps" | "cfg" | "guidance" | "image_cfg" | "clip_skip" | "strength");
    let switch = name == "stream";
    Ok(match serde_json::from_str(text.trim()) {
        Ok(value @ Value::Number(_)) if number => value,
        Ok(value @ Value::Bool(_)) if switch => value,
        _ => text.into(),
    })
}

/// The fields that both have.
fn wish(f: &Fields) -> Result<Wish> {
    let (width, height) = size(f)?;
    match f.text("response_format")? {
        None | Some("b64_json") => {}
        Some("url") => {
            return Err(f.wrong("response_format", "b64_json: Hob keeps no pictures to be fetched later"));
        }
        Some(_) => return Err(f.wrong("response_format", "b64_json")),
    }
    if !matches!(f.text("output_format")?, None | Some("png")) {
        return Err(f.wrong("output_format", "png"));
    }
    if f.flag("stream")? == Some(true) {
        return Err(Refusal {
            field: Some("stream".into()),
            ..Refusal::new(Kind::Absent, "pictures are not streamed")
        });
    }
    let named = |name: &str| f.text(name).map(|text| text.filter(|t| !t.is_empty()));
    let wrong = |name: &'static str| move |e: String| Refusal::field(name, e);
    Ok(Wish {
        prompt: text(f, "prompt")?.map_or_else(|| f.need("prompt", None), Ok)?,
        negative: text(f, "negative_prompt")?.unwrap_or_default(),
        width,
        height,
        round: false,
        steps: f.count("steps", 1..=1000)?.map(|n| n as u32),
        cfg: f.number("cfg", 0.0..=100.0)?,
        guidance: f.number("guidance", 0.0..=100.0)?,
        image_cfg: f.number("image_cfg", 0.0..=100.0)?,
        sampler: named("sampler")?.map(Sampler::parse).transpose().map_err(wrong("sampler"))?,
        schedule: named("schedule")?.map(Schedule::parse).transpose().map_err(wrong("schedule"))?,
        seed: f.count("seed", 0..=u64::MAX)?,
        count: f.count("n", 1..=10)?.unwrap_or(1) as u32,
        clip_skip: f.count("clip_skip", 1..=12)?.map(|n| n as u32),
        noise: named("noise")?
            .map(|n| Source::parse(n).ok_or_else(|| f.wrong("noise", "torch-cpu or philox")))
            .transpose()?,
        start: None,
    })
}

/// A prompt within its bounds.
pub fn text(f: &Fields, name: &str) -> Result<Option<String>> {
    let text = f.text(name)?;
    if text.is_some_and(|t| t.chars().count() > MOST_TEXT) {
        return Err(Refusal::field(name, format!("`{name}` is longer than {MOST_TEXT} letters")));
    }
    Ok(text.map(String::from))
}

fn size(f: &Fields) -> Result<(Option<usize>, Option<usize>)> {
    let Some(size) = f.text("size")?.filter(|s| *s != "auto") else { return Ok((None, None)) };
    let side = |text: &str| text.parse().ok().filter(|n: &usize| (1..=MOST_SIDE as usize).contains(n));
    let sides = size.split_once('x').and_then(|(w, h)| Some((side(w)?, side(h)?)));
    let (w, h) = sides.ok_or_else(|| f.wrong("size", "auto, or as 512x768"))?;
    Ok((Some(w), Some(h)))
}

async fn make(app: &Arc<App>, model: Option<&str>, wish: Wish) -> Result<Response> {
    let known = app.images.find(model).await?;
    let (_, answer) = app.images.submit(known, wish)?;
    let made = images::wait(answer).await?;
    let one = |made: &Made| {
        json!({
            "b64_json": BASE64_STANDARD.encode(&made.png),
            "seed": made.recipe.seed,
            "recipe": made.recipe,
            "seconds": made.seconds,
        })
    };
    let size = made.first().map(|m| format!("{}x{}", m.recipe.width, m.recipe.height));
    let data: Vec<Value> = made.iter().map(one).collect();
    let body = json!({"created": now(), "data": data, "size": size, "output_format": "png"});
    Ok(Json(body).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_come_as_forms_and_as_json() {
        let form = b"--b\r\nContent-Disposition: form-data; name=\"image[]\"; filename=\"a.png\"\r\n\r\n\x89PNG\r\n--b\r\n\
            Content-Disposition: form-data; name=\"n\"\r\n\r\n2\r\n--b\r\n\
            Content-Disposition: form-data; name=\"prompt\"\r\n\r\n7\r\n--b--\r\n";
        let (body, start) = read(form.to_vec(), "multipart/form-data; boundary=b").unwrap();
        assert_eq!((body, start.image), (json!({"n": 2, "prompt": "7"}), b"\x89PNG".to_vec()));
        let json = br#"{"image": "data:image/png;base64,aGk=", "mask": "aGk", "prompt": "x"}"#;
        let (_, start) = read(json.to_vec(), "application/json").unwrap();
        assert_eq!((start.image, start.mask), (b"hi".to_vec(), Some(b"hi".to_vec())));
        for bad in [
            r#"{"image": "http://x/y.png"}"#,
            r#"{"image": "§"}"#,
            r#"{"image": 3}"#,
            r#"{"image": ["a", "b"]}"#,
            "{}",
        ] {
            assert!(read(bad.into(), "application/json").is_err(), "{bad}");
        }
    }
}
