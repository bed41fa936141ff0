//! `POST /api/embed`, and `/api/embeddings` as older clients have it.

use std::time::Instant;

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::{load, named, options};
use crate::serve::asked::Asked;
use crate::serve::fields::Fields;
use crate::serve::refusal::{Refusal, Result};
use crate::serve::vectors::{self, Input, MOST_TEXTS};

/// Vectors of one or several texts.
pub async fn embed(asked: Asked) -> Result<Response> {
    let start = Instant::now();
    let f = Fields::of(&asked.body)?;
    let texts = match f.need("input", f.get("input"))? {
        Value::String(text) => vec![text.clone()],
        _ => f.strings("input")?,
    };
    if texts.len() > MOST_TEXTS {
        return Err(Refusal::field("input", format!("`input` must hold {MOST_TEXTS} texts at most")));
    }
    let dimensions = f.count("dimensions", 0..=1 << 20)?.filter(|n| *n > 0).map(|n| n as usize);
    let lease = load(&asked.app, named(&f)?, options::stay(&f)?).await?;
    let loaded = start.elapsed();
    let (mut vectors, read) = match texts.is_empty() {
        true => (Vec::new(), 0), // only to be loaded
        false => vectors::embed(&lease, texts.into_iter().map(Input::Text).collect()).await?,
    };
    if let Some(n) = dimensions {
        vectors.iter_mut().for_each(|v| vectors::shorten(v, n));
    }
    asked.tally.prompt(read, 0);
    Ok(Json(json!({
        "model": named(&f)?,
        "embeddings": vectors,
        "total_duration": start.elapsed().as_nanos() as u64,
        "load_duration": loaded.as_nanos() as u64,
        "prompt_eval_count": read,
    }))
    .into_response())
}

/// The vector of one text.
pub async fn embeddings(asked: Asked) -> Result<Response> {
    let f = Fields::of(&asked.body)?;
    let text = f.text("prompt")?.unwrap_or_default().to_string();
    let lease = load(&asked.app, named(&f)?, options::stay(&f)?).await?;
    let (vectors, read) = match text.is_empty() {
        true => (Vec::new(), 0),
        false => vectors::embed(&lease, vec![Input::Text(text)]).await?,
    };
    asked.tally.prompt(read, 0);
    Ok(Json(json!({"embedding": vectors.first().cloned().unwrap_or_default()})).into_response())
}
