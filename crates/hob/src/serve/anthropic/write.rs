//! Answers as Anthropic's API writes them (<https://docs.claude.com/en/docs/build-with-claude/streaming>).

use serde_json::{Value, json};

use super::error;
use crate::serve::generate::{Choice, Delta, Event, Finish, Usage, Whole};
use crate::serve::openai::id;
use crate::serve::sse::event;

/// A block of the answer that is open.
#[derive(Clone, Copy, PartialEq)]
enum Open {
    Text,
    Thinking,
}

/// Writes one message.
pub struct Writer {
    id: String,
    model: String,
    /// tokens that it may have
    most: usize,
    /// blocks so far
    blocks: usize,
    open: Option<Open>,
    finish: Option<Finish>,
}

/// Tokens that were still there are counted apart from those that were read.
fn usage(usage: Usage) -> Value {
    json!({
        "input_tokens": usage.prompt - usage.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": usage.generated,
        "output_tokens_details": {"thinking_tokens": usage.thought},
    })
}

impl Writer {
    /// A message of so many tokens at most.
    pub fn new(model: &str, most: usize) -> Writer {
        Writer { id: id("msg_"), model: model.into(), most, blocks: 0, open: None, finish: None }
    }

    fn message(&self, content: Vec<Value>, tokens: Usage) -> Value {
        json!({
            "id": self.id, "type": "message", "role": "assistant", "model": self.model, "content": content,
            "stop_reason": null, "stop_sequence": null, "usage": usage(tokens),
        })
    }

    /// Why it ended, and the stop sequence that ended it.
    fn stop(&self, tokens: Usage) -> (&'static str, Option<&str>) {
        match &self.finish {
            Some(Finish::Matched(stop)) => ("stop_sequence", Some(stop)),
            Some(Finish::Calls) => ("tool_use", None),
            Some(Finish::Length) if tokens.generated < self.most => ("model_context_window_exceeded", None),
            Some(Finish::Length) => ("max_tokens", None),
            Some(Finish::Stop) | None => ("end_turn", None),
        }
    }

    /// The whole message.
    pub fn whole(&mut self, whole: Whole) -> Value {
        let Choice { text, thought, calls, finish, .. } =
            whole.choices.into_iter().next().unwrap_or_default();
        self.finish = finish;
        let mut content = Vec::new();
        if !thought.is_empty() {
            content.push(json!({"type": "thinking", "thinking": thought, "signature": ""}));
        }
        if !text.is_empty() {
            content.push(json!({"type": "text", "text": text, "citations": null}));
        }
        content.extend(calls.iter().map(
            |call| json!({"type": "tool_use", "id": call.id, "name": call.name, "input": call.object()}),
        ));
        let mut message = self.message(content, whole.usage);
        let (reason, sequence) = self.stop(whole.usage);
        message["stop_reason"] = reason.into();
        message["stop_sequence"] = sequence.into();
        message
    }

    /// What is sent of an event.
    pub fn event(&mut self, told: Event) -> String {
        match told {
            Event::Started(tokens) => {
                let message = self.message(Vec::new(), tokens);
                let start = json!({"type": "message_start", "message": message});
                event("message_start", &start) + &event("ping", &json!({"type": "ping"}))
            }
            Event::Piece { delta: Delta::Text(text), .. } => {
                self.within(Open::Text) + &self.delta(json!({"type": "text_delta", "text": text}))
            }
            Event::Piece { delta: Delta::Thought(text), .. } => {
                self.within(Open::Thinking) + &self.delta(json!({"type": "thinking_delta", "thinking": text}))
            }
            Event::Piece { delta: Delta::Call(call), .. } => {
                let mut out = self.close();
                out +=
                    &self.start(json!({"type": "tool_use", "id": call.id, "name": call.name, "input": {}}));
                let json = call.object().to_string();
                out += &self.delta(json!({"type": "input_json_delta", "partial_json": json}));
                out + &self.end()
            }
            Event::End { finish, .. } => {
                self.finish = Some(finish);
                self.close()
            }
            Event::Done { usage: tokens, .. } => {
                let (reason, sequence) = self.stop(tokens);
                let delta = json!({"stop_reason": reason, "stop_sequence": sequence});
                let last = json!({"type": "message_delta", "delta": delta, "usage": usage(tokens)});
                event("message_delta", &last) + &event("message_stop", &json!({"type": "message_stop"}))
            }
            Event::Failed(refusal) => event("error", &error(&refusal)),
            Event::Prompt { .. } => String::new(),
        }
    }

    /// Begins a block of that kind, unless one is open.
    fn within(&mut self, open: Open) -> String {
        if self.open == Some(open) {
            return String::new();
        }
        let out = self.close();
        self.open = Some(open);
        out + &self.start(match open {
            Open::Text => json!({"type": "text", "text": ""}),
            Open::Thinking => json!({"type": "thinking", "thinking": "", "signature": ""}),
        })
    }

    fn start(&self, block: Value) -> String {
        let start = json!({"type": "content_block_start", "index": self.blocks, "content_block": block});
        event("content_block_start", &start)
    }

    fn delta(&self, delta: Value) -> String {
        event(
            "content_block_delta",
            &json!({"type": "content_block_delta", "index": self.blocks, "delta": delta}),
        )
    }

    fn end(&mut self) -> String {
        let stop = json!({"type": "content_block_stop", "index": self.blocks});
        self.blocks += 1;
        event("content_block_stop", &stop)
    }

    fn close(&mut self) -> String {
        if self.open.take().is_some() { self.end() } else { String::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::generate::{Call, Timings};

    fn piece(delta: Delta) -> Event {
        Event::Piece { choice: 0, delta, logprobs: Vec::new() }
    }

    fn call(arguments: &str) -> Delta {
        Delta::Call(Call { id: "c1".into(), name: "weather".into(), arguments: arguments.into() })
    }

    /// The names of events and what they hold.
    fn sent(writer: &mut Writer, events: Vec<Event>) -> Vec<(String, Value)> {
        let text: String = events.into_iter().map(|e| writer.event(e)).collect();
        let one = |e: &str| {
            let (name, data) = e.strip_prefix("event: ").unwrap().split_once("\ndata: ").unwrap();
            (name.to_string(), serde_json::from_str(data).unwrap())
        };
        text.split_terminator("\n\n").map(one).collect()
    }

    #[test]
    fn blocks_follow_each_other() {
        let tokens = Usage { prompt: 9, cached: 4, generated: 0, thought: 0 };
        let usage = Usage { generated: 7, thought: 2, ..tokens };
        let mut writer = Writer::new("m", 100);
        let all = sent(
            &mut writer,
            vec![
                Event::Started(tokens),
                piece(Delta::Thought("h".into())),
                piece(Delta::Thought("m".into())),
                piece(Delta::Text("I look.".into())),
                piece(call("{\"in\": \"Rome\"}")),
                piece(call("Rome")),
                Event::End { choice: 0, finish: Finish::Calls },
                Event::Done { usage, timings: Timings::default() },
            ],
        );
        let names: Vec<_> = all.iter().map(|(name, _)| name.trim_start_matches("content_block_")).collect();
        #[rustfmt::skip]
        assert_eq!(names, [
            "message_start", "ping", "start", "delta", "delta", "stop", "start", "delta", "stop", "start", "delta", "stop",
            "start", "delta", "stop", "message_delta", "message_stop",
        ]);
        assert!(all.iter().all(|(name, data)| data["type"] == name.as_str()));
        let index: Vec<_> = all.iter().filter_map(|(_, data)| data["index"].as_u64()).collect();
        assert_eq!(index, [0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]);
        let start = &all[0].1["message"];
        assert_eq!((&start["content"], &start["stop_reason"]), (&json!([]), &Value::Null));
        assert_eq!(
            (&start["usage"]["input_tokens"], &start["usage"]["cache_read_input_tokens"]),
            (&json!(5), &json!(4))
        );
        assert_eq!(
            all[9].1["content_block"],
            json!({"type": "tool_use", "id": "c1", "name": "weather", "input": {}})
        );
        assert_eq!(all[10].1["delta"]["partial_json"], "{\"in\":\"Rome\"}");
        assert_eq!(all[13].1["delta"]["partial_json"], "{\"arguments\":\"Rome\"}");
        assert_eq!(all[15].1["delta"], json!({"stop_reason": "tool_use", "stop_sequence": null}));
        assert_eq!(all[15].1["usage"]["output_tokens"], 7);
    }

    #[test]
    fn why_it_ended() {
        let reason = |finish, generated| {
            let choice = Choice { text: "x".into(), finish: Some(finish), ..Choice::default() };
            let usage = Usage { generated, ..Usage::default() };
            let whole = Writer::new("m", 5).whole(Whole { choices: vec![choice], usage, ..Whole::default() });
            (whole["stop_reason"].as_str().unwrap().to_string(), whole["stop_sequence"].clone())
        };
        assert_eq!(reason(Finish::Stop, 5), ("end_turn".into(), Value::Null));
        assert_eq!(reason(Finish::Matched("!".into()), 5), ("stop_sequence".into(), json!("!")));
        assert_eq!(reason(Finish::Length, 5).0, "max_tokens");
        assert_eq!(reason(Finish::Length, 4).0, "model_context_window_exceeded");
        assert_eq!(reason(Finish::Calls, 4).0, "tool_use");
    }

    #[test]
    fn a_failure_is_an_event() {
        let failed = crate::serve::refusal::Refusal::failed("it broke");
        let all = sent(&mut Writer::new("m", 1), vec![Event::Failed(failed)]);
        let error = json!({"type": "error", "error": {"type": "api_error", "message": "it broke"}});
        assert_eq!(all, [("error".to_string(), error)]);
    }
}
