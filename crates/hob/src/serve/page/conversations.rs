//! The conversations' requests: [`super::store`] over HTTP, and questions that begin answers.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use hob_io::chat::Message;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answers::{self, Wanted};
use super::store::{Attachment, Change, NewMessage, Role, Settings, Shown, Store, with_files};
use super::{answer, aside, invalid, missing, read, render, stored};
use crate::error::Error;
use crate::serve::App;
use crate::serve::asked::Asked;
use crate::serve::refusal::{Kind, Refusal, Result};

/// Bytes of a message with its files.
const LONGEST: usize = 4 << 20;

type Shared = State<Arc<App>>;

/// Blocks of HTML as a list.
pub fn blocks(blocks: &[Arc<str>]) -> Value {
    blocks.iter().map(|b| Value::from(&**b)).collect()
}

/// A message as the page shows it.
pub fn view(m: &Shown) -> Value {
    let mut value = serde_json::to_value(m).unwrap_or_default();
    if m.role == Role::Assistant {
        value["html"] = blocks(&render::whole(&m.text));
        value["thought"] = blocks(&render::whole(&m.reasoning));
    }
    value
}

#[derive(Deserialize)]
pub struct Search {
    #[serde(default)]
    q: String,
}

pub async fn list(State(app): Shared, Query(search): Query<Search>) -> Response {
    answer(match search.q.trim().is_empty() {
        true => stored(&app, |s| s.list()).await.map(|all| json!({"conversations": all})),
        false => stored(&app, move |s| s.search(&search.q)).await.map(|found| json!({"found": found})),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct New {
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    settings: Settings,
}

pub async fn create(Asked { app, body, .. }: Asked) -> Response {
    let create = async {
        let new: New = read(body)?;
        stored(&app, move |s| s.create(new.model.as_deref(), &new.settings)).await
    };
    answer(create.await.map(|id| json!({"id": id})))
}

pub async fn one(State(app): Shared, Path(id): Path<i64>) -> Response {
    let store = app.page.store.clone();
    let work = aside(move || {
        let conversation = store.conversation(id).map_err(missing)?;
        let messages: Vec<_> = store.branch(id).map_err(missing)?.iter().map(view).collect();
        let mut value = serde_json::to_value(conversation).unwrap_or_default();
        value["messages"] = messages.into();
        Ok(value)
    });
    answer(work.await)
}

pub async fn change(Path(id): Path<i64>, Asked { app, body, .. }: Asked) -> Response {
    let change = async {
        let change: Change = read(body)?;
        stored(&app, move |s| s.change(id, &change)).await
    };
    answer(change.await.map(|()| json!({})))
}

pub async fn delete(State(app): Shared, Path(id): Path<i64>) -> Response {
    app.page.answers.stop(|_, conversation| conversation == id).await;
    answer(stored(&app, move |s| s.delete(id)).await.map(|deleted| json!({"deleted": u8::from(deleted)})))
}

pub async fn delete_all(State(app): Shared) -> Response {
    app.page.answers.stop(|_, _| true).await;
    answer(stored(&app, |s| s.delete_all()).await.map(|n| json!({"deleted": n})))
}

pub async fn markdown(State(app): Shared, Path(id): Path<i64>) -> Response {
    file("text/markdown; charset=utf-8", stored(&app, move |s| s.markdown(id)).await)
}

pub async fn export(State(app): Shared, Path(id): Path<i64>) -> Response {
    exported(&app, move |s| s.export(&[id])).await
}

pub async fn export_all(State(app): Shared) -> Response {
    exported(&app, |s| s.export(&s.all()?)).await
}

async fn exported(
    app: &App,
    what: impl FnOnce(&Store) -> crate::error::Result<super::store::Export> + Send + 'static,
) -> Response {
    let text = |s: &Store| serde_json::to_string_pretty(&what(s)?).map_err(|e| Error::new(e.to_string()));
    file("application/json", stored(app, text).await)
}

fn file(kind: &'static str, text: Result<String>) -> Response {
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, kind)], text).into_response(),
        Err(refusal) => answer(Err(refusal)),
    }
}

#[derive(Deserialize)]
struct Import {
    text: String,
}

pub async fn import(Asked { app, body, .. }: Asked) -> Response {
    let import = async {
        let import: Import = read(body)?;
        stored(&app, move |s| s.import(&import.text)).await
    };
    answer(import.await.map(|ids| json!({"ids": ids})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    #[serde(default)]
    parent: Option<i64>,
    text: String,
    #[serde(default)]
    attachments: Vec<Attachment>,
    model: String,
}

pub async fn ask(Path(id): Path<i64>, Asked { app, tally, body }: Asked) -> Response {
    let ask = async {
        let q: Question = read(body)?;
        let length = q.text.len() + q.attachments.iter().map(|a| a.text.len()).sum::<usize>();
        if length > LONGEST || q.attachments.len() > 64 {
            return Err(Refusal::new(Kind::TooLarge, "the message is longer than 4 MB; attach less"));
        }
        if q.text.trim().is_empty() && q.attachments.is_empty() {
            return Err(Refusal::new(Kind::Invalid, "the message is empty"));
        }
        let model = known(&app, &q.model).await?;
        let (question, answer, wanted) = stored(&app, move |s| {
            let new = NewMessage { parent: q.parent, text: &q.text, attachments: &q.attachments };
            let (question, answer) = s.ask(id, &new, &model)?;
            Ok((question, answer, wanted(s, id, question, answer, model)?))
        })
        .await?;
        answers::begin(&app, wanted, tally);
        Ok(json!({"question": question, "answer": answer}))
    };
    answer(ask.await)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Again {
    model: String,
}

pub async fn again(Path(id): Path<i64>, Asked { app, tally, body }: Asked) -> Response {
    let again = async {
        let again: Again = read(body)?;
        let model = known(&app, &again.model).await?;
        let store = app.page.store.clone();
        let (answer, wanted) = aside(move || {
            let (conversation, answer) = store.again(id, &model).map_err(missing)?;
            let question = store.message(answer).map_err(missing)?.1.parent.unwrap_or_default();
            Ok((answer, wanted(&store, conversation, question, answer, model).map_err(invalid)?))
        })
        .await?;
        answers::begin(&app, wanted, tally);
        Ok(json!({"answer": answer}))
    };
    answer(again.await)
}

/// The name of a model that is here, before anything is kept of a question to one that is not.
async fn known(app: &App, name: &str) -> Result<String> {
    app.manager.find(name).await.map(|known| known.name)
}

/// What the model is to answer: the system prompt, and the branch up to the question.
fn wanted(
    store: &Store,
    conversation: i64,
    question: i64,
    message: i64,
    model: String,
) -> crate::error::Result<Wanted> {
    let settings = store.conversation(conversation)?.settings;
    let system = (!settings.system.trim().is_empty()).then(|| Message::new("system", &settings.system));
    let branch = store.up_to(question)?;
    let said = branch.iter().map(|m| match m.role {
        Role::User => Message::new("user", &with_files(&m.text, &m.attachments)),
        Role::Assistant => Message::new("assistant", &m.text),
    });
    Ok(Wanted { conversation, message, model, said: system.into_iter().chain(said).collect(), settings })
}

pub async fn stop(State(app): Shared, Path(id): Path<i64>) -> Response {
    app.page.answers.stop(|message, _| message == id).await;
    answer(Ok(json!({})))
}

pub async fn show(State(app): Shared, Path(id): Path<i64>) -> Response {
    let store = app.page.store.clone();
    answer(aside(move || store.show(id).map_err(missing)).await.map(|id| json!({"conversation": id})))
}
