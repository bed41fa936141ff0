//! A model that answers on the server that runs on this machine.

use std::ops::ControlFlow;
use std::time::Instant;

use serde_json::{Map, Value, json};

use crate::chat::{Answer, Message, Report};
use crate::error::{Error, Result};
use crate::model::Emit;
use crate::net::local::Local;
use crate::serve::state;

/// The server of this user, if one runs and is reached within this machine.
pub fn server() -> Option<Local> {
    let running = state::running()?;
    Local::new(running.address, running.token)
}

/// A model of the server.
pub struct Remote {
    local: Local,
    /// what every request says: the model, and how tokens are chosen
    how: Map<String, Value>,
}

impl Remote {
    /// The model of that name, if the server has it and answers. `how` is what requests say beside it.
    pub fn find(local: Local, name: &str, mut how: Map<String, Value>) -> Option<Remote> {
        let models = local.ask("/v1/models", None).ok()?;
        let ids = models["data"].as_array()?.iter().filter_map(|m| m["id"].as_str());
        let id = ids
            .into_iter()
            .find(|id| id.eq_ignore_ascii_case(name) || id.strip_suffix(":latest") == Some(name))?;
        how.insert("model".into(), id.into());
        Some(Remote { local, how })
    }

    /// Where it is.
    pub fn address(&self) -> std::net::SocketAddr {
        self.local.address()
    }

    fn answer_to(&self, path: &str, key: &str, prompt: Value, emit: &mut Emit) -> Result<Report> {
        let start = Instant::now();
        let mut body = self.how.clone();
        body.insert(key.into(), prompt);
        body.insert("stream".into(), true.into());
        body.insert("stream_options".into(), json!({"include_usage": true}));
        let mut report = Report { stop: "stopped", ..Report::default() };
        let mut first = None;
        let mut failed = None;
        self.local.stream(path, &Value::Object(body), &mut |data| {
            let Some(data) = data else { return emit("") };
            let Ok(event) = serde_json::from_str::<Value>(data) else { return ControlFlow::Continue(()) };
            if let Some(why) = event["error"]["message"].as_str() {
                failed = Some(Error::new(why));
                return ControlFlow::Break(());
            }
            let choice = &event["choices"][0];
            if let Some(reason) = choice["finish_reason"].as_str() {
                report.stop = if reason == "stop" { "end" } else { "length" };
            }
            if let Some(usage) = event["usage"].as_object() {
                let count = |key: &str| usage.get(key).and_then(Value::as_u64).unwrap_or(0) as usize;
                (report.prompt_tokens, report.tokens) = (count("prompt_tokens"), count("completion_tokens"));
                report.cached_tokens =
                    usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0) as usize;
            }
            if let Some(speed) = event["timings"]["prompt_per_second"].as_f64() {
                report.prompt_tps = speed;
            }
            let delta = &choice["delta"];
            let piece = delta["content"].as_str().or(choice["text"].as_str()).unwrap_or_default();
            let thought = delta["reasoning_content"].as_str().unwrap_or_default();
            if piece.is_empty() && thought.is_empty() {
                return ControlFlow::Continue(());
            }
            first.get_or_insert_with(Instant::now);
            report.text.push_str(piece);
            emit(piece)
        })?;
        if let Some(e) = failed {
            return Err(e);
        }
        if let Some(first) = first {
            report.ttft_ms = (first - start).as_secs_f64() * 1e3;
            let rest = first.elapsed().as_secs_f64();
            report.tps = if report.tokens > 1 { (report.tokens - 1) as f64 / rest } else { 0.0 };
        }
        report.server = Some(self.local.address().to_string());
        Ok(report)
    }
}

impl Answer for Remote {
    fn continue_text(&mut self, text: &str, emit: &mut Emit) -> Result<Report> {
        self.answer_to("/v1/completions", "prompt", text.into(), emit)
    }

    fn answer(&mut self, messages: &[Message], emit: &mut Emit) -> Result<Report> {
        let said = |m: &Message| json!({"role": m.role.name(), "content": m.text});
        self.answer_to("/v1/chat/completions", "messages", messages.iter().map(said).collect(), emit)
    }
}
