//! Answers in Ollama's shape: lines of JSON, of which the last tells what the whole took.

use std::time::{Duration, Instant, SystemTime};

use axum::Json;
use axum::body::Bytes;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::{error, line, lines};
use crate::serve::date::rfc3339;
use crate::serve::generate::{Answer, Call, Choice, Delta, Event, Finish, Logprob, Timings, Usage};
use crate::serve::manager::Lease;
use crate::serve::openai::logprob;
use crate::serve::refusal::Result;

/// Where a text stands in a line.
#[derive(Clone, Copy, PartialEq)]
pub enum Shape {
    /// in a message, as of `/api/chat`
    Message,
    /// under `response`, as of `/api/generate`
    Response,
}

/// Ids of a conversation so far, which `/api/generate` tells as `context`.
pub struct Context {
    /// whose words they are
    pub lease: Lease,
    /// of the prompt
    pub ids: Vec<u32>,
}

/// Writes the lines of one answer.
pub struct Writer {
    shape: Shape,
    model: String,
    start: Instant,
    load: Duration,
    said: String,
    /// the conversation that the answer belongs to, where it is to be told
    pub context: Option<Context>,
    calls: usize,
    finish: Option<Finish>,
}

impl Writer {
    /// For an answer asked for at `start`, whose model is loaded since then.
    pub fn new(shape: Shape, model: &str, start: Instant) -> Writer {
        let (model, load) = (model.to_string(), start.elapsed());
        Writer { shape, model, start, load, said: String::new(), context: None, calls: 0, finish: None }
    }

    /// The whole answer, or its lines as they come.
    pub async fn write(mut self, answer: Answer, streamed: bool) -> Result<Response> {
        if streamed {
            let all = ReceiverStream::new(answer.events).filter_map(move |event| self.event(event));
            return Ok(lines(all));
        }
        let whole = answer.whole().await?;
        let Choice { text, thought, calls, logprobs, finish, .. } =
            whole.choices.into_iter().next().unwrap_or_default();
        self.said += &text;
        self.finish = finish;
        let calls = calls.iter().map(|call| self.call(call)).collect();
        let told = self.object(&text, &thought, calls, &logprobs);
        Ok(Json(self.done(told, whole.usage, whole.timings)).into_response())
    }

    fn event(&mut self, event: Event) -> Option<Bytes> {
        let value = match event {
            Event::Started(_) | Event::Prompt { .. } => return None,
            Event::Piece { delta, logprobs, .. } => match delta {
                Delta::Text(text) => {
                    if self.context.is_some() {
                        self.said += &text;
                    }
                    self.object(&text, "", Vec::new(), &logprobs)
                }
                Delta::Thought(text) => self.object("", &text, Vec::new(), &logprobs),
                Delta::Call(call) => {
                    let call = self.call(&call);
                    self.object("", "", vec![call], &logprobs)
                }
            },
            Event::End { finish, .. } => {
                self.finish = Some(finish);
                return None;
            }
            Event::Done { usage, timings } => {
                let last = self.object("", "", Vec::new(), &[]);
                self.done(last, usage, timings)
            }
            Event::Failed(refusal) => error(&refusal),
        };
        Some(line(&value))
    }

    fn call(&mut self, call: &Call) -> Value {
        let index = self.calls;
        self.calls += 1;
        json!({"id": call.id, "function": {"index": index, "name": call.name, "arguments": call.object()}})
    }

    fn object(&self, text: &str, thought: &str, calls: Vec<Value>, logprobs: &[Logprob]) -> Value {
        let mut value = head(&self.model);
        let mut holder = match self.shape {
            Shape::Message => json!({"role": "assistant", "content": text}),
            Shape::Response => json!({"response": text}),
        };
        if !thought.is_empty() {
            holder["thinking"] = thought.into();
        }
        if !calls.is_empty() {
            holder["tool_calls"] = calls.into();
        }
        match (self.shape, holder) {
            (Shape::Response, Value::Object(fields)) => {
                fields.into_iter().for_each(|(name, field)| value[name] = field);
            }
            (_, holder) => value["message"] = holder,
        }
        if !logprobs.is_empty() {
            value["logprobs"] = logprobs.iter().map(logprob).collect();
        }
        value
    }

    /// Adds what the whole took.
    fn done(&self, mut value: Value, usage: Usage, timings: Timings) -> Value {
        let nanos = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        let reason = if self.finish == Some(Finish::Length) { "length" } else { "stop" };
        for (name, field) in [
            ("done", Value::Bool(true)),
            ("done_reason", reason.into()),
            ("total_duration", nanos(self.start.elapsed()).into()),
            ("load_duration", nanos(self.load).into()),
            ("prompt_eval_count", usage.prompt.into()),
            ("prompt_eval_duration", nanos(timings.prefill).into()),
            ("eval_count", usage.generated.into()),
            ("eval_duration", nanos(timings.decode).into()),
        ] {
            value[name] = field;
        }
        if let Some(context) = &self.context {
            value["context"] = context.after(&self.said, self.finish.as_ref()).into();
        }
        value
    }

    /// A line without an answer: the model was loaded or unloaded.
    pub fn nothing(&self, reason: &str) -> Response {
        let mut value = self.object("", "", Vec::new(), &[]);
        value["done"] = true.into();
        value["done_reason"] = reason.into();
        Json(value).into_response()
    }
}

impl Context {
    /// The ids after the answer. Its text is encoded again, as Ollama does; the end that the model chose belongs to it.
    fn after(&self, said: &str, finish: Option<&Finish>) -> Vec<u32> {
        let tokenizer = &self.lease.opened.words.tokenizer;
        let end = tokenizer.eos_ids().first().filter(|_| finish == Some(&Finish::Stop));
        let said = tokenizer.encode(said, false);
        self.ids.iter().chain(&said).chain(end).copied().collect()
    }
}

fn head(model: &str) -> Value {
    json!({"model": model, "created_at": rfc3339(SystemTime::now()), "done": false})
}
