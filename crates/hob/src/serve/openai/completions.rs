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
    let echo = f.flag("echo")?.unwrap_or(false);
    let requests = read(&f, echo)?;
    let streamed = f.flag("stream")?.unwrap_or(false);
    let options = f.object("stream_options")?;
    let with_usage = options.map_or(Ok(None), |o| o.flag("include_usage"))?.unwrap_or(false);
    let told = requests[0].logprobs.is_some();
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
            let mut told_of = Told::default();
            if let Some(prompt) = &c.prompt {
                told_of.add(prompt);
                told_of.at = begin.chars().count();
            }
            told_of.add(&c.logprobs);
            let logprobs = if told { told_of.take() } else { Value::Null };
            choice(i, begin + &c.text, logprobs, c.finish.as_ref())
        });
        let mut body = object(choices.collect());
        body["usage"] = usage(whole.usage);
        body["timings"] = timings(whole.usage, whole.timings);
        return Ok(Json(body).into_response());
    }
    let mut told_of: Vec<Told> = begin.iter().map(|_| Told::default()).collect();
    Ok(stream(answer, move |event| {
        let chunk = |choices: Value| {
            let mut chunk = object(choices);
            if with_usage {
                chunk["usage"] = Value::Null;
            }
            chunk
        };
        match event {
            // With log-probabilities the prompt comes together with its own.
            Event::Started(_) if told => String::new(),
            Event::Started(_) => {
                let said = begin.iter().enumerate().filter(|(_, text)| !text.is_empty());
                said.map(|(i, text)| data(&chunk(json!([choice(i, text.clone(), Value::Null, None)]))))
                    .collect()
            }
            Event::Prompt { choice: i, tokens } => {
                told_of[i].add(&tokens);
                told_of[i].at = begin[i].chars().count();
                data(&chunk(json!([choice(i, begin[i].clone(), told_of[i].take(), None)])))
            }
            Event::Piece { choice: i, delta, logprobs: tokens } => {
                let (Delta::Text(text) | Delta::Thought(text)) = delta else { return String::new() };
                told_of[i].add(&tokens);
                let logprobs = if told { told_of[i].take() } else { Value::Null };
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
fn read(f: &Fields, echo: bool) -> Result<Vec<Request>> {
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
    first.prompt_logprobs = first.logprobs.filter(|_| echo);
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

/// Log-probabilities in the old shape, of prompt and answer together.
#[derive(Default)]
struct Told {
    /// characters of the text before the next token
    at: usize,
    tokens: Vec<Value>,
    logprobs: Vec<Value>,
    top: Vec<Value>,
    offsets: Vec<Value>,
}

impl Told {
    fn add(&mut self, tokens: &[Logprob]) {
        for l in tokens {
            self.tokens.push(l.token.text.as_str().into());
            self.logprobs.push(finite(l.token.logprob));
            self.offsets.push(self.at.into());
            self.at += l.chars;
            // Of several tokens that look the same, parts of characters mostly, the likeliest is told. The one that came is
            // told in any case.
            let mut all = Map::new();
            for token in l.top.iter().chain([&l.token]) {
                all.entry(token.text.as_str()).or_insert_with(|| finite(token.logprob));
            }
            self.top.push(if l.token.logprob.is_nan() { Value::Null } else { all.into() });
        }
    }

    /// What was added since the last time.
    fn take(&mut self) -> Value {
        let next = Told { at: self.at, ..Told::default() };
        let Told { tokens, logprobs, top, offsets, .. } = std::mem::replace(self, next);
        json!({"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": top, "text_offset": offsets})
    }
}
