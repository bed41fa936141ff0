//! `POST /v1/completions`: a text is gone on with as it stands.

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::error::{self, answer};
use super::{FINGERPRINT, finish_reason, finite, id, knobs, now, stream, timings, usage};
use crate::serve::asked::Asked;
use crate::serve::fields::Fields;
use crate::serve::generate::{self, Delta, Event, Finish, Logprob, Prompt, Request};
use crate::serve::manager::{Lease, Stay};
use crate::serve::refusal::{Refusal, Result};
use crate::serve::sse::data;

/// The most prompts in one request.
const MOST_PROMPTS: usize = 256;

/// Tokens of an answer where the request does not say, as with OpenAI.
const USUAL: usize = 16;

/// Goes on with each prompt.
pub async fn create(asked: Asked) -> Response {
    answer(respond(asked).await)
}

async fn respond(Asked { app, tally, body }: Asked) -> Result<Response> {
    let f = Fields::of(&body)?;
    let requests = read(&f)?;
    let streamed = f.flag("stream")?.unwrap_or(false);
    let options = f.object("stream_options")?;
    let with_usage = options.map_or(Ok(None), |o| o.flag("include_usage"))?.unwrap_or(false);
    let echo = f.flag("echo")?.unwrap_or(false);
    let told = requests[0].logprobs.is_some();
    if echo && told {
        return Err(Refusal::field(
            "echo",
            "`echo` together with `logprobs` is not there: prompts have no log-probabilities",
        ));
    }
    let lease = app.manager.get(f.text("model")?, Stay::default()).await?;
    // What each answer begins with.
    let mut begin = Vec::new();
    for request in &requests {
        let text = if echo { spelled(&lease, &request.prompt) } else { String::new() };
        begin.extend(std::iter::repeat_n(text, request.n));
    }
    let (id, created, model) = (id("cmpl-"), now(), lease.name.clone());
    let object = move |choices: Value| {
        json!({"id": id, "object": "text_completion", "created": created, "model": model,
               "system_fingerprint": FINGERPRINT, "choices": choices})
    };
    let answer = generate::start_all(&lease, requests, app.sampling, &tally).await?;
    if !streamed {
        let whole = answer.whole().await?;
        let choices = whole.choices.iter().zip(begin).enumerate().map(|(i, (c, begin))| {
            let mut offset = 0;
            let logprobs = if told { logprobs(&c.logprobs, &mut offset) } else { Value::Null };
            choice(i, begin + &c.text, logprobs, c.finish.as_ref())
        });
        let mut body = object(choices.collect());
        body["usage"] = usage(whole.usage);
        body["timings"] = timings(whole.usage, whole.timings);
        return Ok(Json(body).into_response());
    }
    let mut offsets = vec![0; begin.len()];
    Ok(stream(answer, move |event| {
        let chunk = |choices: Value| {
            let mut chunk = object(choices);
            if with_usage {
                chunk["usage"] = Value::Null;
            }
            chunk
        };
        match event {
            Event::Started(_) => {
                let said = begin.iter().enumerate().filter(|(_, text)| !text.is_empty());
                said.map(|(i, text)| data(&chunk(json!([choice(i, text.clone(), Value::Null, None)]))))
                    .collect()
            }
            Event::Piece { choice: i, delta, logprobs: tokens } => {
                let (Delta::Text(text) | Delta::Thought(text)) = delta else { return String::new() };
                let logprobs = if told { logprobs(&tokens, &mut offsets[i]) } else { Value::Null };
                data(&chunk(json!([choice(i, text, logprobs, None)])))
            }
            Event::End { choice: i, finish } => {
                data(&chunk(json!([choice(i, String::new(), Value::Null, Some(&finish))])))
            }
            Event::Done { usage: tokens, timings: times } => {
                let mut text = String::new();
                if with_usage {
                    let mut last = chunk(json!([]));
                    last["usage"] = usage(tokens);
                    last["timings"] = timings(tokens, times);
                    text = data(&last);
                }
                text + "data: [DONE]\n\n"
            }
            Event::Failed(refusal) => data(&error::body(&refusal)),
        }
    }))
}

fn choice(index: usize, text: String, logprobs: Value, finish: Option<&Finish>) -> Value {
    json!({"text": text, "index": index, "logprobs": logprobs, "finish_reason": finish.map(finish_reason)})
}

/// A request for each prompt.
fn read(f: &Fields) -> Result<Vec<Request>> {
    if f.get("suffix").is_some_and(|s| s.as_str() != Some("")) {
        return Err(Refusal::field(
            "suffix",
            "`suffix` is not there: models go on with a text, and do not fill one in",
        ));
    }
    let mut first = Request::new(Prompt::Text(String::new()));
    knobs::common(f, &mut first)?;
    first.most = match f.get("max_tokens") {
        None => Some(USUAL),
        Some(_) => knobs::most(f, "max_tokens")?,
    };
    first.logprobs = f.count("logprobs", 0..=20)?.map(|n| n as usize);
    if f.count("best_of", 1..=128)?.is_some_and(|best| best as usize != first.n) {
        return Err(Refusal::field("best_of", "`best_of` is not there, other than as many as `n`"));
    }
    let prompts = prompts(f)?;
    if prompts.is_empty() || prompts.len() > MOST_PROMPTS {
        return Err(Refusal::field("prompt", format!("`prompt` must hold 1 to {MOST_PROMPTS} prompts")));
    }
    Ok(prompts.into_iter().map(|prompt| Request { prompt, ..first.clone() }).collect())
}

/// A text, several, tokens, or several lists of them.
fn prompts(f: &Fields) -> Result<Vec<Prompt>> {
    let must = "a string, a list of strings, a list of tokens, or a list of such lists";
    let wrong = || f.wrong("prompt", must);
    match f.need("prompt", f.get("prompt"))? {
        Value::String(text) => Ok(vec![Prompt::Text(text.clone())]),
        Value::Array(list) if list.first().is_some_and(Value::is_number) => {
            Ok(vec![ids(list).map(Prompt::Ids).ok_or_else(wrong)?])
        }
        Value::Array(list) => {
            let one = |v: &Value| match v {
                Value::String(text) => Some(Prompt::Text(text.clone())),
                Value::Array(list) => ids(list).map(Prompt::Ids),
                _ => None,
            };
            list.iter().map(|v| one(v).ok_or_else(wrong)).collect()
        }
        _ => Err(wrong()),
    }
}

/// Tokens, as a list of numbers.
pub fn ids(list: &[Value]) -> Option<Vec<u32>> {
    list.iter().map(|v| v.as_u64().and_then(|id| u32::try_from(id).ok())).collect()
}

fn spelled(lease: &Lease, prompt: &Prompt) -> String {
    match prompt {
        Prompt::Text(text) => text.clone(),
        Prompt::Ids(ids) => lease.opened.words.tokenizer.decode(ids),
        Prompt::Chat(_) => String::new(),
    }
}

/// Log-probabilities in the old shape; `offset` counts characters from answer's begin.
fn logprobs(tokens: &[Logprob], offset: &mut usize) -> Value {
    let (mut offsets, mut top) = (Vec::new(), Vec::new());
    for l in tokens {
        offsets.push(*offset);
        *offset += l.token.text.chars().count();
        let all: Map<String, Value> =
            l.top.iter().map(|t| (t.text.clone(), json!(finite(t.logprob)))).collect();
        top.push(Value::Object(all));
    }
    let each = |f: fn(&Logprob) -> Value| tokens.iter().map(f).collect::<Vec<_>>();
    json!({
        "tokens": each(|l| l.token.text.as_str().into()),
        "token_logprobs": each(|l| json!(finite(l.token.logprob))),
        "top_logprobs": top,
        "text_offset": offsets,
    })
}
