//! `GET /v1/models` for Anthropic's clients.

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::answer;
use crate::serve::App;
use crate::serve::date::rfc3339;
use crate::serve::known::Known;
use crate::serve::refusal::{Refusal, Result};

fn model(known: &Known) -> Value {
    json!({
        "type": "model",
        "id": known.name,
        "display_name": known.name,
        "created_at": rfc3339(known.modified),
        "lifecycle": "active",
    })
}

/// A page of the models of this machine; `query` may have `limit`, `after_id` and `before_id`.
pub async fn list(app: &App, query: Option<&str>) -> Response {
    let known = app.manager.known().await;
    answer(page(&known, query.unwrap_or_default()).map(|page| Json(page).into_response()))
}

fn page(all: &[Known], query: &str) -> Result<Value> {
    let limit = match value(query, "limit") {
        None => 20,
        Some(limit) => limit
            .parse()
            .ok()
            .filter(|n| (1..=1000).contains(n))
            .ok_or_else(|| Refusal::field("limit", "`limit` must be a whole number from 1 to 1000"))?,
    };
    let at = |name: &str| {
        let id = value(query, name);
        let found = id.map(|id| all.iter().position(|k| k.name == id));
        match found {
            Some(None) => Err(Refusal::field(name, format!("`{name}` is no model's id"))),
            found => Ok(found.flatten()),
        }
    };
    let (after, before) = (at("after_id")?, at("before_id")?);
    let rest = &all[after.map_or(0, |i| i + 1)..];
    let (shown, more) = match before {
        Some(before) => {
            let rest = &all[..before];
            (&rest[rest.len().saturating_sub(limit)..], rest.len() > limit)
        }
        None => (&rest[..rest.len().min(limit)], rest.len() > limit),
    };
    let edge = |known: Option<&Known>| known.map(|k| k.name.clone());
    Ok(json!({
        "data": shown.iter().map(model).collect::<Vec<_>>(),
        "has_more": more,
        "first_id": edge(shown.first()),
        "last_id": edge(shown.last()),
    }))
}

/// The value of a name in a query, with its escapes resolved.
fn value(query: &str, name: &str) -> Option<String> {
    let pairs: Vec<(String, String)> =
        axum::extract::Query::try_from_uri(&format!("/?{query}").parse().ok()?).ok()?.0;
    pairs.into_iter().find(|(key, _)| key == name).map(|(_, value)| value)
}

/// One model.
pub async fn one(app: &App, id: &str) -> Response {
    answer(app.manager.find(id).await.map(|known| Json(model(&known)).into_response()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_come_in_pages() {
        let all: Vec<Known> = ["a", "b c", "d"].map(|n| Known::at(n.into(), n.into())).into();
        let ids = |query: &str| {
            let page = page(&all, query).unwrap();
            let ids: Vec<_> = page["data"].as_array().unwrap().iter().map(|m| m["id"].clone()).collect();
            (ids, page["has_more"] == true)
        };
        assert_eq!(ids(""), (vec![json!("a"), json!("b c"), json!("d")], false));
        assert_eq!(ids("limit=2"), (vec![json!("a"), json!("b c")], true));
        assert_eq!(ids("limit=2&after_id=b%20c"), (vec![json!("d")], false));
        assert_eq!(ids("limit=1&before_id=d"), (vec![json!("b c")], true));
        assert!(page(&all, "limit=0").is_err() && page(&all, "after_id=x").is_err());
        assert_eq!(page(&all, "after_id=d").unwrap()["first_id"], Value::Null);
    }
}
