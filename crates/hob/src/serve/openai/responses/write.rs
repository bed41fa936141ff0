//! An answer as `/v1/responses` tells it: events, and the response that they lead to.

use serde_json::{Value, json};

use super::super::{id, logprob, now};
use crate::serve::generate::{Call, Delta, Event, Finish, Logprob, Usage};
use crate::serve::sse;

/// What is being said.
enum Kind {
    Message,
    Reasoning,
}

/// An item that is not whole yet.
struct Open {
    kind: Kind,
    id: String,
    text: String,
    logprobs: Vec<Value>,
}

impl Open {
    fn part(&self) -> Value {
        match self.kind {
            Kind::Message => {
                json!({"type": "output_text", "text": self.text, "annotations": [], "logprobs": self.logprobs})
            }
            Kind::Reasoning => json!({"type": "reasoning_text", "text": self.text}),
        }
    }

    fn item(&self, status: &str, parts: &[Value]) -> Value {
        match self.kind {
            Kind::Message => {
                json!({"type": "message", "id": self.id, "role": "assistant", "status": status, "content": parts})
            }
            Kind::Reasoning => {
                json!({"type": "reasoning", "id": self.id, "summary": [], "status": status, "content": parts})
            }
        }
    }
}

/// Makes events and keeps the response.
pub struct Writer {
    response: Value,
    output: Vec<Value>,
    open: Option<Open>,
    sequence: u64,
    finish: Option<Finish>,
    whole: bool,
    out: String,
}

impl Writer {
    /// For a response with nothing in it yet.
    pub fn new(response: Value) -> Writer {
        let (output, out) = (Vec::new(), String::new());
        Writer { response, output, open: None, sequence: 0, finish: None, whole: false, out }
    }

    /// The response as far as it is.
    pub fn response(&self) -> Value {
        self.response.clone()
    }

    /// Its items so far.
    pub fn output(&self) -> &[Value] {
        &self.output
    }

    /// Whether no more comes.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// The text of the first events.
    pub fn begin(&mut self) -> String {
        let response = self.response.clone();
        self.tell("response.created", json!({"response": response}));
        self.tell("response.in_progress", json!({"response": response}));
        std::mem::take(&mut self.out)
    }

    /// The text of the events that come of one of the answer's.
    pub fn event(&mut self, event: Event) -> String {
        match event {
            Event::Started(_) | Event::Prompt { .. } => {}
            Event::Piece { delta: Delta::Text(text), logprobs, .. } => {
                self.say(Kind::Message, &text, &logprobs)
            }
            Event::Piece { delta: Delta::Thought(text), .. } => self.say(Kind::Reasoning, &text, &[]),
            Event::Piece { delta: Delta::Call(call), .. } => self.call(call),
            Event::End { finish, .. } => self.finish = Some(finish),
            Event::Done { usage, .. } => self.done(usage),
            Event::Failed(refusal) => {
                self.response["status"] = "failed".into();
                self.response["error"] = json!({"code": "server_error", "message": refusal.message});
                let response = self.response.clone();
                self.tell("response.failed", json!({"response": response}));
            }
        }
        std::mem::take(&mut self.out)
    }

    fn tell(&mut self, name: &str, mut event: Value) {
        event["type"] = name.into();
        event["sequence_number"] = self.sequence.into();
        self.sequence += 1;
        self.out += &sse::event(name, &event);
    }

    fn say(&mut self, kind: Kind, text: &str, logprobs: &[Logprob]) {
        let same = self
            .open
            .as_ref()
            .is_some_and(|o| matches!(o.kind, Kind::Message) == matches!(kind, Kind::Message));
        if !same {
            self.close();
            let prefix = if matches!(kind, Kind::Message) { "msg_" } else { "rs_" };
            let open = Open { kind, id: id(prefix), text: String::new(), logprobs: Vec::new() };
            let at = self.output.len();
            self.tell(
                "response.output_item.added",
                json!({"output_index": at, "item": open.item("in_progress", &[])}),
            );
            let part =
                json!({"item_id": open.id, "output_index": at, "content_index": 0, "part": open.part()});
            self.tell("response.content_part.added", part);
            self.open = Some(open);
        }
        let Some(mut open) = self.open.take() else { return };
        open.text += text;
        let told: Vec<Value> = logprobs.iter().map(logprob).collect();
        let (name, mut event) = match open.kind {
            Kind::Message => ("response.output_text.delta", json!({"delta": text, "logprobs": told})),
            Kind::Reasoning => ("response.reasoning_text.delta", json!({"delta": text})),
        };
        open.logprobs.extend(told);
        self.place(&mut event, &open);
        self.tell(name, event);
        self.open = Some(open);
    }

    /// Says where in the response an event belongs.
    fn place(&self, event: &mut Value, open: &Open) {
        event["item_id"] = open.id.as_str().into();
        event["output_index"] = self.output.len().into();
        event["content_index"] = 0.into();
    }

    /// Ends the item that is open.
    fn close(&mut self) {
        let Some(open) = self.open.take() else { return };
        let (name, mut event) = match open.kind {
            Kind::Message => {
                ("response.output_text.done", json!({"text": open.text, "logprobs": open.logprobs}))
            }
            Kind::Reasoning => ("response.reasoning_text.done", json!({"text": open.text})),
        };
        self.place(&mut event, &open);
        self.tell(name, event);
        let mut part = json!({"part": open.part()});
        self.place(&mut part, &open);
        self.tell("response.content_part.done", part);
        let cut = matches!(self.finish, Some(Finish::Length));
        let item = open.item(if cut { "incomplete" } else { "completed" }, &[open.part()]);
        self.add(item);
    }

    fn add(&mut self, item: Value) {
        self.tell("response.output_item.done", json!({"output_index": self.output.len(), "item": item}));
        self.output.push(item);
    }

    fn call(&mut self, call: Call) {
        self.close();
        let (item_id, at) = (id("fc_"), self.output.len());
        let item = |arguments: &str, status: &str| {
            json!({"type": "function_call", "id": item_id, "call_id": call.id, "name": call.name,
                   "arguments": arguments, "status": status})
        };
        self.tell("response.output_item.added", json!({"output_index": at, "item": item("", "in_progress")}));
        let delta = json!({"item_id": item_id, "output_index": at, "delta": call.arguments});
        self.tell("response.function_call_arguments.delta", delta);
        let done =
            json!({"item_id": item_id, "output_index": at, "name": call.name, "arguments": call.arguments});
        self.tell("response.function_call_arguments.done", done);
        self.add(item(&call.arguments, "completed"));
    }

    fn done(&mut self, usage: Usage) {
        self.close();
        let cut = matches!(self.finish, Some(Finish::Length));
        self.response["status"] = if cut { "incomplete" } else { "completed" }.into();
        if cut {
            self.response["incomplete_details"] = json!({"reason": "max_output_tokens"});
        } else {
            self.response["completed_at"] = now().into();
        }
        self.response["output"] = self.output.clone().into();
        self.response["usage"] = json!({
            "input_tokens": usage.prompt,
            "input_tokens_details": {"cached_tokens": usage.cached},
            "output_tokens": usage.generated,
            "output_tokens_details": {"reasoning_tokens": usage.thought},
            "total_tokens": usage.prompt + usage.generated,
        });
        self.whole = true;
        let response = self.response.clone();
        let name = if cut { "response.incomplete" } else { "response.completed" };
        self.tell(name, json!({"response": response}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_order_and_lead_to_the_response() {
        let mut writer = Writer::new(json!({"id": "resp_1", "output": []}));
        let mut text = writer.begin();
        let piece = |delta| Event::Piece { choice: 0, delta, logprobs: Vec::new() };
        let call = Call { id: "call_1".into(), name: "f".into(), arguments: "{}".into() };
        for event in [
            piece(Delta::Thought("hm".into())),
            piece(Delta::Text("a".into())),
            piece(Delta::Text("b".into())),
            piece(Delta::Call(call)),
            Event::End { choice: 0, finish: Finish::Calls },
            Event::Done { usage: Usage::default(), timings: Default::default() },
        ] {
            text += &writer.event(event);
        }
        let names: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("event: response.")).collect();
        let item = |kind: &str| {
            let [delta, done] = ["delta", "done"].map(|end| format!("{kind}.{end}"));
            [
                vec!["output_item.added".into(), "content_part.added".into(), delta],
                vec![done, "content_part.done".into()],
            ]
        };
        let ([begin, end], [text_begin, text_end]) = (item("reasoning_text"), item("output_text"));
        let mut expected: Vec<String> = vec!["created".into(), "in_progress".into()];
        let done = || vec!["output_item.done".to_string()];
        let calls = ["output_item.added", "function_call_arguments.delta", "function_call_arguments.done"];
        let second = vec!["output_text.delta".into()];
        for part in
            [begin, end, done(), text_begin, second, text_end, done(), calls.map(String::from).into(), done()]
        {
            expected.extend(part);
        }
        expected.push("completed".into());
        assert_eq!(names, expected);
        let data = text.lines().filter_map(|l| l.strip_prefix("data: "));
        for (i, line) in data.enumerate() {
            let event: Value = serde_json::from_str(line).unwrap();
            assert_eq!(event["sequence_number"], i);
        }
        let output = &writer.response()["output"];
        let kinds: Vec<_> = output.as_array().unwrap().iter().map(|o| o["type"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["reasoning", "message", "function_call"]);
        assert_eq!(output[1]["content"][0]["text"], "ab");
    }
}
