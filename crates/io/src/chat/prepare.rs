//! Messages as clients of OpenAI's API send them, made into what a chat template takes.
//!
//! Templates disagree: on arguments as objects or texts, on several calls in one message, on ids, on roles that do
//! not alternate; many know nothing of tools. What a template does is found out by rendering made-up chats with it.

use super::{Chat, Dialect, Failure, Message, Options};
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// A chat for [`Chat::encode`].
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The messages, as the template takes them.
    pub messages: Vec<Message>,
    /// The tools for [`Options::tools`]; `None` also where they stand in the system message.
    pub tools: Option<Value>,
    /// How the answer will be written.
    pub dialect: Dialect,
    /// What a person should know, in one sentence: that the template knows no tools, for example.
    pub note: Option<String>,
}

/// A message that no template can take; the sentence says which and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("message {} {what}", index + 1)]
pub struct BadMessage {
    /// Which message, from 0.
    pub index: usize,
    /// What is wrong with it.
    pub what: String,
}

/// What a template does.
#[derive(Clone, Debug, Default)]
pub(super) struct Habits {
    /// It tells the model of tools.
    tools: bool,
    /// It shows calls and their results.
    calls: bool,
    /// Arguments of calls are to be objects.
    objects: bool,
    /// A message may hold several calls.
    several: bool,
    /// Ids must be nine letters or digits, as Mistral's.
    nine: bool,
    /// It refuses two messages of one role.
    alternate: bool,
    /// What it calls thoughts that come with a call; empty if they are to stand in the content.
    thought: Option<&'static str>,
}

/// A thought within a content, as templates know it that cut it out themselves.
fn inline(thought: &str, content: &str) -> String {
    format!("<think>\n{thought}\n</think>\n\n{content}")
}

/// What clients and templates call thoughts.
const THOUGHTS: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// The form in which tools are put into the system message: that of Hermes 2 Pro and Qwen 2.5.
fn told(tools: &Value) -> String {
    let mut text = String::from(
        "# Tools\n\nYou may call functions to help with the request. The functions, one a line, are:\n<tools>\n",
    );
    for tool in tools.as_array().into_iter().flatten() {
        text += &format!("{tool}\n");
    }
    text + "</tools>\n\nTo call a function, answer with a JSON object of its name and arguments between <tool_call> and \
            </tool_call>, one for each call:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": \
            <args-json-object>}\n</tool_call>"
}

impl Habits {
    fn probe(chat: &Chat) -> Habits {
        const IDS: [&str; 2] = ["abcdefgh1", "abcdefgh2"];
        let tool = |name: &str| {
            json!({"type": "function", "function": {"name": name, "description": "d", "parameters":
                {"type": "object", "properties": {"probe_key": {"type": "string", "description": "d"}},
                "required": ["probe_key"]}}})
        };
        let tools = json!([tool("probe_one"), tool("probe_two")]);
        let user = || Message::new("user", "probe_user");
        let render = |messages: &[Message], tools: Option<&Value>| -> Result<String, Failure> {
            let options =
                Options { add_generation_prompt: true, tools: tools.cloned(), ..Options::default() };
            chat.apply(messages, &options)
        };
        // A question, calls of these tools with these ids and arguments, and their results.
        let called = |names: &[&str], ids: &[&str], arguments: &Value, thought: Option<&str>| {
            let calls = names.iter().zip(ids).map(|(name, id)| {
                json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
            });
            let mut assistant = Message::new("assistant", "");
            assistant.extra.insert("tool_calls".into(), calls.collect());
            if thought == Some("") {
                assistant.content = inline("probe_thought", "");
            } else if let Some(key) = thought {
                assistant.extra.insert(key.into(), "probe_thought".into());
            }
            let results = names.iter().zip(ids).map(|(name, id)| {
                let mut result = Message::new("tool", "probe_result");
                result.extra.insert("name".into(), (*name).into());
                result.extra.insert("tool_call_id".into(), (*id).into());
                result
            });
            let messages: Vec<_> = [user(), assistant].into_iter().chain(results).collect();
            render(&messages, Some(&tools)).ok()
        };
        let object = json!({"probe_key": "probe_value"});
        let text = Value::from(object.to_string());
        let one = |arguments: &Value| called(&["probe_one"], &IDS, arguments, None);
        let shown = |arguments: &Value| {
            one(arguments).is_some_and(|t| t.contains("probe_value") && t.contains("probe_result"))
        };
        let objects = shown(&object);
        let calls = objects || shown(&text);
        let arguments = if objects { &object } else { &text };
        let with = |ids: &[&str], thought: Option<&str>| called(&["probe_one"], ids, arguments, thought);
        let shows = |key: &&'static str| with(&IDS, Some(*key)).is_some_and(|t| t.contains("probe_thought"));
        // A second call stands before the first result, which may name its tool too.
        let seconds = |text: Option<String>| {
            text.map_or(0, |t| {
                t.split("probe_result").next().unwrap_or_default().matches("probe_two").count()
            })
        };
        let cuts = chat.source.as_ref().is_some_and(|source| source.contains("</think>"));
        Habits {
            tools: render(&[user()], Some(&tools)).is_ok_and(|t| t.contains("probe_two")),
            calls,
            objects,
            several: seconds(called(&["probe_one", "probe_two"], &IDS, arguments, None))
                > seconds(one(arguments)),
            nine: calls && (with(&["x"], None).is_none() || with(&["call_0123456789abcdef"], None).is_none()),
            alternate: matches!(render(&[user(), user()], None), Err(Failure::Raised(_))),
            thought: THOUGHTS.into_iter().chain(cuts.then_some("")).find(shows),
        }
    }
}

impl Chat {
    /// Makes messages and tools of OpenAI's API into what the template takes. Contents in parts are joined; arguments
    /// become objects or texts; results get their tool's name; ids, roles and thoughts become what the template
    /// accepts. Where it ignores tools, they are put into the system message, calls and results into messages of text,
    /// and the note says so. `dialect` is this model's ([`Chat::dialect`]). Fails for what is no text, or no message.
    pub fn prepare(
        &self,
        dialect: &Dialect,
        messages: &[Value],
        tools: Option<&Value>,
    ) -> Result<Prepared, BadMessage> {
        let habits = self.habits.get_or_init(|| Habits::probe(self));
        let tools = tools.filter(|tools| tools.as_array().is_some_and(|tools| !tools.is_empty()));
        let mut said = Vec::with_capacity(messages.len());
        for (index, message) in messages.iter().enumerate() {
            said.push(read(message).map_err(|what| BadMessage { index, what })?);
        }
        name_results(&mut said, habits.nine);
        let ignored = tools.is_some() && !habits.tools;
        let spelled = ignored || !habits.calls;
        let mut out = Vec::with_capacity(said.len() + 1);
        for message in said {
            if spelled {
                out.push(spell(message));
            } else {
                shape(message, habits, &mut out);
            }
        }
        if !spelled && !habits.several {
            out = one_by_one(out);
        }
        if let Some(tools) = tools.filter(|_| ignored) {
            match out.first_mut().filter(|first| first.role == "system") {
                Some(system) => system.content = format!("{}\n\n{}", system.content, told(tools)),
                None => out.insert(0, Message::new("system", &told(tools))),
            }
        }
        join(&mut out, habits.alternate, spelled);
        let note = ignored.then(|| {
            "the model's chat template knows no tools, so they were put into the system message, and calls may be worse"
                .to_string()
        });
        let tools = tools.filter(|_| !ignored).cloned();
        let dialect = if ignored { dialect.hermes() } else { dialect.clone() };
        Ok(Prepared { messages: out, tools, dialect, note })
    }
}

/// A message of text, with what else it says but nulls.
fn read(message: &Value) -> Result<Message, String> {
    let map = message.as_object().ok_or("is no object")?;
    let role = map.get("role").and_then(Value::as_str).ok_or("has no role")?;
    let role = if role == "developer" { "system" } else { role };
    let content = match map.get("content") {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => parts.iter().map(part).collect::<Result<Vec<_>, _>>()?.join("\n"),
        Some(other) if role == "tool" => other.to_string(),
        Some(_) => return Err("has a content that is neither text nor a list of parts".into()),
    };
    let mut extra = map.clone();
    extra.retain(|key, value| !matches!(&**key, "role" | "content") && !value.is_null());
    if let Some(calls) = extra.remove("tool_calls") {
        let calls = calls.as_array().ok_or("has tool_calls that are no list")?;
        let calls: Vec<Value> = calls.iter().map(call).collect::<Result<_, _>>()?;
        if !calls.is_empty() {
            extra.insert("tool_calls".into(), calls.into());
        }
    }
    Ok(Message { role: role.into(), content, extra })
}

/// The text of one part of a content.
fn part(part: &Value) -> Result<&str, String> {
    let kind = part.get("type").and_then(Value::as_str).unwrap_or("text");
    let text = part.as_str().or_else(|| part.get("text")?.as_str()).or_else(|| part.get("refusal")?.as_str());
    text.ok_or_else(|| format!("holds a part of type {kind:?}, and this model reads text alone"))
}

/// A call in OpenAI's form, its arguments an object if they can be.
fn call(call: &Value) -> Result<Value, String> {
    let function = call.get("function").unwrap_or(call);
    let name = function.get("name").and_then(Value::as_str).ok_or("has a tool call without a name")?;
    let arguments = match function.get("arguments") {
        Some(Value::String(text)) => match serde_json::from_str(text) {
            Ok(value @ Value::Object(_)) => value,
            _ if text.trim().is_empty() => json!({}),
            _ => text.clone().into(),
        },
        None | Some(Value::Null) => json!({}),
        Some(value) => value.clone(),
    };
    let id = call.get("id").and_then(Value::as_str).unwrap_or_default();
    Ok(json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}))
}

fn calls_of(message: &mut Message) -> impl Iterator<Item = &mut Value> {
    message.extra.get_mut("tool_calls").and_then(Value::as_array_mut).into_iter().flatten()
}

fn text_of(value: &Value, key: &str) -> String {
    value.get(key).and_then(Value::as_str).unwrap_or_default().into()
}

/// Gives calls ids, and results their tool's name: by its id, or else in the order of the calls.
fn name_results(messages: &mut [Message], nine: bool) {
    let mut names: HashMap<String, String> = HashMap::new();
    let mut waiting: Vec<(String, String)> = Vec::new();
    let mut count = 0;
    let fit = |id: String| if nine { nine_letters(&id) } else { id };
    for message in messages {
        for call in calls_of(message) {
            count += 1;
            let given = Some(text_of(call, "id")).filter(|id| !id.is_empty());
            let id = fit(given.unwrap_or_else(|| format!("call{count:05}")));
            let name = text_of(&call["function"], "name");
            call["id"] = id.clone().into();
            names.insert(id.clone(), name.clone());
            waiting.push((id, name));
        }
        if message.role != "tool" {
            continue;
        }
        let given = message.extra.get("tool_call_id").and_then(Value::as_str).filter(|id| !id.is_empty());
        let id = given.map(|id| fit(id.into())).or_else(|| waiting.first().map(|(id, _)| id.clone()));
        let Some(id) = id else { continue };
        waiting.retain(|(waits, _)| *waits != id);
        if let Some(name) = names.get(&id) {
            message.extra.entry("name").or_insert_with(|| name.clone().into());
        }
        message.extra.insert("tool_call_id".into(), id.into());
    }
}

/// Nine letters and digits that stand for an id (FNV-1a in base 62); such an id itself.
fn nine_letters(id: &str) -> String {
    if id.len() == 9 && id.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return id.into();
    }
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut hash =
        id.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ b as u64).wrapping_mul(0x100_0000_01b3));
    let mut digit = || {
        let digit = DIGITS[(hash % 62) as usize];
        hash /= 62;
        digit as char
    };
    (0..9).map(|_| digit()).collect()
}

/// Takes the thought out of a message.
fn thought(message: &mut Message) -> Option<String> {
    let found = THOUGHTS.map(|key| message.extra.shift_remove(key));
    found.into_iter().flatten().find_map(|value| value.as_str().map(String::from)).filter(|t| !t.is_empty())
}

/// A message as a template takes it that knows calls.
fn shape(mut message: Message, habits: &Habits, out: &mut Vec<Message>) {
    for call in calls_of(&mut message) {
        let arguments = &mut call["function"]["arguments"];
        if !habits.objects && arguments.is_object() {
            *arguments = arguments.to_string().into();
        }
    }
    let called = message.extra.contains_key("tool_calls");
    if let (Some(mut thought), Some(key)) = (thought(&mut message), habits.thought) {
        // gpt-oss takes one of both with a call.
        if key == "thinking" && called && !message.content.is_empty() {
            thought = format!("{thought}\n\n{}", std::mem::take(&mut message.content));
        }
        match key {
            "" => message.content = inline(&thought, &message.content),
            key => drop(message.extra.insert(key.into(), thought.into())),
        }
    }
    out.push(message);
}

/// A message with its calls, or the result of one, in text.
fn spell(mut message: Message) -> Message {
    thought(&mut message);
    let calls: Vec<String> = calls_of(&mut message)
        .map(|call| {
            let f = &call["function"];
            format!(
                "<tool_call>\n{{\"name\": {}, \"arguments\": {}}}\n</tool_call>",
                f["name"], f["arguments"]
            )
        })
        .collect();
    let content = std::mem::take(&mut message.content);
    if message.role == "tool" {
        return Message::new("user", &format!("<tool_response>\n{content}\n</tool_response>"));
    }
    let parts: Vec<String> = Some(content).filter(|c| !c.is_empty()).into_iter().chain(calls).collect();
    message.extra.shift_remove("tool_calls");
    Message { content: parts.join("\n"), ..message }
}

/// One call a message, each followed by its result.
fn one_by_one(messages: Vec<Message>) -> Vec<Message> {
    let mut out: Vec<Message> = Vec::with_capacity(messages.len());
    for mut message in messages {
        if message.role == "tool" {
            let id = message.extra.get("tool_call_id");
            let asks =
                |m: &Message| m.extra.get("tool_calls").is_some_and(|calls| Some(&calls[0]["id"]) == id);
            let at = out.iter().rposition(asks).map_or(out.len(), |at| at + 1);
            out.insert(at, message);
            continue;
        }
        let calls: Vec<Value> = calls_of(&mut message).map(|call| call.take()).collect();
        if calls.is_empty() {
            out.push(message);
            continue;
        }
        for call in calls {
            let mut one = message.clone();
            one.extra.insert("tool_calls".into(), vec![call].into());
            out.push(one);
            // What else it says is said once.
            (message.content, message.extra) = (String::new(), Map::new());
        }
    }
    out
}

/// Joins system messages at the beginning; others of one role where the template wants roles to alternate, and results
/// that became messages of the user.
fn join(messages: &mut Vec<Message>, alternate: bool, spelled: bool) {
    let mut out: Vec<Message> = Vec::with_capacity(messages.len());
    for message in messages.drain(..) {
        let mergeable = |m: &Message| !m.extra.contains_key("tool_calls") && m.role != "tool";
        let result = |m: &Message| spelled && m.content.starts_with("<tool_response>");
        let first = out.len() == 1;
        match out.last_mut() {
            Some(last)
                if last.role == message.role
                    && mergeable(last)
                    && mergeable(&message)
                    && (alternate
                        || first && message.role == "system"
                        || result(last) && result(&message)) =>
            {
                let between = if last.content.is_empty() || message.content.is_empty() { "" } else { "\n\n" };
                last.content += &format!("{between}{}", message.content);
            }
            _ => out.push(message),
        }
    }
    *messages = out;
}
