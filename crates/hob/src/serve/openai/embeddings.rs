//! `POST /v1/embeddings`, and `POST /v1/rerank` in the shape that Jina and Cohere gave it.

use axum::Json;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::completions::ids;
use super::refuse;
use crate::serve::asked::Asked;
use crate::serve::fields::Fields;
use crate::serve::manager::Stay;
use crate::serve::refusal::{Refusal, Result};
use crate::serve::vectors::{self, Input, MOST_TEXTS};

/// Vectors of texts.
pub async fn create(asked: Asked) -> Response {
    answer(&asked).await.unwrap_or_else(|refusal| refuse(&refusal))
}

async fn answer(asked: &Asked) -> Result<Response> {
    let f = Fields::of(&asked.body)?;
    let inputs = inputs(&f)?;
    let base64 = match f.text("encoding_format")? {
        None | Some("float") => false,
        Some("base64") => true,
        Some(_) => return Err(f.wrong("encoding_format", "float or base64")),
    };
    let dimensions = f.count("dimensions", 1..=1 << 20)?.map(|n| n as usize);
    let lease = asked.app.manager.get(f.text("model")?, Stay::default()).await?;
    let (mut vectors, read) = vectors::embed(&lease, inputs).await?;
    if let Some(n) = dimensions {
        if vectors.iter().any(|v| v.len() < n) {
            let message = format!("`dimensions` is {n}, and the model's vectors have {}", vectors[0].len());
            return Err(Refusal::field("dimensions", message));
        }
        vectors.iter_mut().for_each(|v| vectors::shorten(v, n));
    }
    asked.tally.prompt(read, 0);
    let shown = |v: &Vec<f32>| match base64 {
        true => json!(BASE64_STANDARD.encode(v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())),
        false => json!(v),
    };
    let one = |(i, v)| json!({"object": "embedding", "index": i, "embedding": shown(v)});
    let data: Vec<Value> = vectors.iter().enumerate().map(one).collect();
    let usage = json!({"prompt_tokens": read, "total_tokens": read});
    Ok(Json(json!({"object": "list", "data": data, "model": lease.name, "usage": usage})).into_response())
}

fn inputs(f: &Fields) -> Result<Vec<Input>> {
    let must = "a string, a list of strings, a list of tokens, or a list of such lists";
    let wrong = || f.wrong("input", must);
    let one = |v: &Value| match v {
        Value::String(text) => Some(Input::Text(text.clone())),
        Value::Array(list) => ids(list).map(Input::Ids),
        _ => None,
    };
    let inputs = match f.need("input", f.get("input"))? {
        Value::Array(list) if !list.first().is_some_and(Value::is_number) => {
            list.iter().map(|v| one(v).ok_or_else(wrong)).collect::<Result<Vec<_>>>()?
        }
        alone => vec![one(alone).ok_or_else(wrong)?],
    };
    match inputs.len() {
        1..=MOST_TEXTS => Ok(inputs),
        _ => Err(Refusal::field("input", format!("`input` must hold 1 to {MOST_TEXTS} texts"))),
    }
}

/// Texts in the order in which they fit a question.
pub async fn rerank(asked: Asked) -> Response {
    ranked(&asked).await.unwrap_or_else(|refusal| refuse(&refusal))
}

async fn ranked(asked: &Asked) -> Result<Response> {
    let f = Fields::of(&asked.body)?;
    let question = f.need("query", f.text("query")?)?.to_string();
    let text = |v: &Value| v.as_str().or_else(|| v["text"].as_str()).map(String::from);
    let texts = f.need("documents", f.list("documents")?)?.iter().map(text).collect::<Option<Vec<_>>>();
    let texts =
        texts.ok_or_else(|| f.wrong("documents", "a list of strings, or of objects with a `text`"))?;
    if !(1..=MOST_TEXTS).contains(&texts.len()) {
        return Err(Refusal::field("documents", format!("`documents` must hold 1 to {MOST_TEXTS} texts")));
    }
    let most = f.count("top_n", 1..=u64::MAX)?.map_or(texts.len(), |n| (n as usize).min(texts.len()));
    let shown = f.flag("return_documents")?.unwrap_or(false);
    let lease = asked.app.manager.get(f.text("model")?, Stay::default()).await?;
    let (scores, read) = vectors::rerank(&lease, question, texts.clone()).await?;
    asked.tally.prompt(read, 0);
    let mut order: Vec<usize> = (0..texts.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let one = |&i: &usize| {
        let mut result = json!({"index": i, "relevance_score": scores[i]});
        if shown {
            result["document"] = json!({"text": texts[i]});
        }
        result
    };
    let results: Vec<Value> = order.iter().take(most).map(one).collect();
    let usage = json!({"prompt_tokens": read, "total_tokens": read});
    Ok(Json(json!({"object": "list", "model": lease.name, "results": results, "usage": usage}))
        .into_response())
}
