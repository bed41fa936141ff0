//! Pictures: what is being made, what was, and the wishes for more.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use hob_engine::diffuse::{Sampler, Schedule};
use hob_io::Picture;
use hob_io::picture::Filter;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{answer, aside, read, stored};
use crate::serve::App;
use crate::serve::asked::Asked;
use crate::serve::images::{self, MOST_SIDE, MOST_TEXT, Made, Marked, Progress, Start, Wish};
use crate::serve::openai::images_base64;
use crate::serve::refusal::{Kind, Refusal, Result};

type Shared = State<Arc<App>>;

/// Pixels of the longer side in lists.
const SMALL: usize = 320;

#[derive(Deserialize)]
pub struct Before {
    before: Option<i64>,
}

fn progress(p: &Progress) -> Value {
    json!({
        "id": p.id, "doing": p.doing, "picture": p.picture, "pictures": p.pictures, "step": p.step, "steps": p.steps,
        "part": p.part(), "seconds": p.seconds, "left": p.left, "stopped": p.stopped,
    })
}

/// The latest pictures, what is being made, and what may be asked for.
pub async fn list(State(app): Shared, Query(q): Query<Before>) -> Response {
    let list = async {
        let pictures = stored(&app, move |s| s.pictures(q.before)).await?;
        let models: Vec<String> = app.images.known().await.into_iter().map(|k| k.name).collect();
        Ok(json!({
            "pictures": pictures,
            "running": app.images.progress().iter().map(progress).collect::<Vec<_>>(),
            "models": models,
            "samplers": Sampler::NAMES,
            "schedules": Schedule::NAMES,
        }))
    };
    answer(list.await)
}

/// What is being made.
pub async fn running(State(app): Shared) -> Response {
    answer(Ok(json!({"running": app.images.progress().iter().map(progress).collect::<Vec<_>>()})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct New {
    model: String,
    prompt: String,
    #[serde(default)]
    negative: String,
    width: Option<u32>,
    height: Option<u32>,
    steps: Option<u32>,
    cfg: Option<f32>,
    #[serde(default)]
    sampler: String,
    #[serde(default)]
    schedule: String,
    seed: Option<u64>,
    count: Option<u32>,
    image: Option<String>,
    mask: Option<String>,
    strength: Option<f32>,
}

impl New {
    fn wish(self) -> Result<Wish> {
        let within = |name: &str, good: bool, must: &str| match good {
            true => Ok(()),
            false => Err(Refusal::field(name, format!("{name} must be {must}"))),
        };
        let side = |n: Option<u32>| n.is_none_or(|n| (1..=MOST_SIDE).contains(&n.into()));
        let texts = [&self.prompt, &self.negative];
        within("the prompt", texts.iter().all(|t| t.len() <= MOST_TEXT), "shorter")?;
        within("the size", side(self.width) && side(self.height), "from 1 to 8192 pixels")?;
        within("the number of steps", self.steps.is_none_or(|n| (1..=1000).contains(&n)), "from 1 to 1000")?;
        within("the guidance", self.cfg.is_none_or(|x| (0.0..=100.0).contains(&x)), "from 0 to 100")?;
        within("the strength", self.strength.is_none_or(|x| (0.0..=1.0).contains(&x)), "from 0 to 1")?;
        within("the number of pictures", self.count.is_none_or(|n| (1..=100).contains(&n)), "from 1 to 100")?;
        let parsed = |e: String| Refusal::new(Kind::Invalid, e);
        let named = |name: String| Some(name).filter(|n| !n.is_empty());
        let file = |name: &str, text: Option<String>| text.map(|t| images_base64(name, &t)).transpose();
        let mask = file("the mask", self.mask)?;
        let start = file("the picture", self.image)?.map(|image| {
            let strength = self.strength;
            Start { image, mask, marked: Marked::Clear, strength }
        });
        Ok(Wish {
            prompt: self.prompt,
            negative: self.negative,
            width: self.width.map(|n| n as usize),
            height: self.height.map(|n| n as usize),
            round: true,
            steps: self.steps,
            cfg: self.cfg,
            sampler: named(self.sampler).map(|n| Sampler::parse(&n)).transpose().map_err(parsed)?,
            schedule: named(self.schedule).map(|n| Schedule::parse(&n)).transpose().map_err(parsed)?,
            seed: self.seed,
            count: self.count.unwrap_or(1),
            start,
            ..Wish::default()
        })
    }
}

/// Makes pictures and keeps them; answers when they are there. Who leaves does not stop them.
pub async fn make(Asked { app, tally, body }: Asked) -> Response {
    let make = async {
        let new = read::<New>(body)?;
        let model = app.images.find(Some(&new.model)).await?;
        let (_, made) = app.images.submit(model, new.wish()?)?;
        tally.hold(None);
        let keeper = app.clone();
        let kept = tokio::spawn(async move {
            let mut ids = Vec::new();
            for one in images::wait(made).await? {
                ids.push(keep(&keeper, one).await?);
            }
            Ok(json!({"ids": ids}))
        });
        kept.await.unwrap_or_else(|_| Err(Refusal::failed("a bug in Hob stopped this; please report it")))
    };
    answer(make.await)
}

async fn keep(app: &Arc<App>, made: Made) -> Result<i64> {
    let Made { png, recipe, seconds } = made;
    let (png, small) = aside(move || {
        let small = small(&png).map_err(Refusal::failed)?;
        Ok((png, small))
    })
    .await?;
    let recipe = serde_json::to_string(&recipe).map_err(|e| Refusal::failed(e.to_string()))?;
    stored(app, move |s| s.add_picture(&recipe, seconds, &png, &small)).await
}

/// The picture for lists.
fn small(png: &[u8]) -> Result<Vec<u8>, String> {
    let picture = Picture::read(png, std::path::Path::new("picture")).map_err(|e| e.to_string())?;
    let longer = picture.width.max(picture.height);
    if longer <= SMALL {
        return picture.png(&[]);
    }
    let side = |n: usize| (n * SMALL / longer).max(1);
    picture.resized(side(picture.width), side(picture.height), Filter::Lanczos)?.png(&[])
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stop {
    id: u64,
}

/// Stops what is being made or waits.
pub async fn stop(Asked { app, body, .. }: Asked) -> Response {
    answer(read::<Stop>(body).map(|stop| json!({"stopped": app.images.stop(Some(stop.id))})))
}

/// A picture's file.
pub async fn file(State(app): Shared, Path((id, name)): Path<(i64, String)>) -> Response {
    let small = name == "small.png";
    if !small && name != "picture.png" {
        return answer(Err(gone()));
    }
    match stored(&app, move |s| s.picture(id, small)).await.and_then(|png| png.ok_or_else(gone)) {
        Ok(png) => {
            ([(header::CONTENT_TYPE, "image/png"), (header::CACHE_CONTROL, "no-store")], png).into_response()
        }
        Err(refusal) => answer(Err(refusal)),
    }
}

fn gone() -> Refusal {
    Refusal::new(Kind::NotFound, "this picture is gone; it was deleted")
}

/// Deletes a picture, for real.
pub async fn delete(State(app): Shared, Path(id): Path<i64>) -> Response {
    let deleted = stored(&app, move |s| s.delete_pictures(Some(id))).await;
    answer(deleted.and_then(|n| if n > 0 { Ok(json!({})) } else { Err(gone()) }))
}

/// Deletes all of them.
pub async fn delete_all(State(app): Shared) -> Response {
    answer(stored(&app, |s| s.delete_pictures(None)).await.map(|n| json!({"deleted": n})))
}
