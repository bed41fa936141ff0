//! `POST /api/generate`.

use std::time::Instant;

use axum::response::Response;
use hob_io::chat::Message;

use super::answer::{Context, Shape, Writer};
use super::{chat, load, models, named, options};
use crate::serve::asked::Asked;
use crate::serve::fields::Fields;
use crate::serve::generate::{self, Prompt, Request};
use crate::serve::refusal::{Refusal, Result};

/// Answers a prompt; an empty one loads or unloads the model.
pub async fn generate(Asked { app, tally, body }: Asked) -> Result<Response> {
    let start = Instant::now();
    let f = Fields::of(&body)?;
    let (name, stay, think) = (named(&f)?, options::stay(&f)?, options::think(&f)?);
    let streamed = f.flag("stream")?.unwrap_or(true);
    let raw = f.flag("raw")?.unwrap_or(false);
    let (before, prompt) = (context(&f)?, f.text("prompt")?.unwrap_or_default());
    let system = f.text("system")?.filter(|s| !s.is_empty());
    check(&f, raw && (system.is_some() || !before.is_empty()))?;
    let mut request = Request::new(match raw {
        true => Prompt::Text(prompt.into()),
        false => {
            let system = system.map(|s| Message::new("system", s));
            Prompt::Chat(system.into_iter().chain([Message::new("user", prompt)]).collect())
        }
    });
    options::read(&f, &mut request)?;
    if prompt.is_empty() && models::unload(&app, name, stay.keep).await? {
        return Ok(Writer::new(Shape::Response, name, start).nothing("unload"));
    }
    let lease = load(&app, name, stay).await?;
    let mut writer = Writer::new(Shape::Response, name, start);
    if prompt.is_empty() {
        return Ok(writer.nothing("load"));
    }
    if let Some(think) = think {
        think.tell(&lease, &mut request)?;
    }
    if !raw {
        let mut ids = generate::ids(&lease, &request).await?;
        if !before.is_empty() {
            // A text begins once.
            let tokenizer = &lease.opened.words.tokenizer;
            let bos = tokenizer.bos_id().filter(|_| tokenizer.add_bos());
            let again = usize::from(bos.is_some() && ids.first().copied() == bos);
            ids.splice(..again, before);
            request.prompt = Prompt::Ids(ids.clone());
        }
        writer.context = Some(Context { lease: lease.clone(), ids });
    }
    let answer = generate::start(&lease, request, app.sampling, &tally).await?;
    writer.write(answer, streamed).await
}

/// Ids that an earlier answer told.
fn context(f: &Fields) -> Result<Vec<u32>> {
    let id = |v: &serde_json::Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
    let ids = f.list("context")?.unwrap_or_default().iter().map(id).collect::<Option<_>>();
    ids.ok_or_else(|| f.wrong("context", "the list of tokens that an earlier answer told"))
}

/// Refuses what is not there.
fn check(f: &Fields, mixed: bool) -> Result<()> {
    let given = |name: &str| -> Result<bool> { Ok(f.text(name)?.is_some_and(|text| !text.is_empty())) };
    if mixed {
        return Err(Refusal::field("raw", "`raw` takes the prompt as it is, without `system` and `context`"));
    }
    if given("template")? {
        let message =
            "`template` is not there: a model is asked by its own; `raw: true` takes the prompt as it is";
        return Err(Refusal::field("template", message));
    }
    if given("suffix")? {
        let message = "`suffix` is not there: models go on with a text, and do not fill one in";
        return Err(Refusal::field("suffix", message));
    }
    chat::images(f)
}
