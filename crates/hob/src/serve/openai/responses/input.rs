//! Items of a conversation as `/v1/responses` writes them, to messages that chat templates know.

use hob_io::chat::Message;
use serde_json::{Value, json};

use super::super::id;
use super::super::messages::{text, tool_call};
use crate::serve::fields::Fields;
use crate::serve::refusal::{Refusal, Result};

/// `input` as items; a text is what the user says.
pub fn items(f: &Fields) -> Result<Vec<Value>> {
    match f.need("input", f.get("input"))? {
        Value::String(text) => Ok(vec![json!({"type": "message", "role": "user", "content": text})]),
        Value::Array(list) if !list.is_empty() => Ok(list.clone()),
        _ => Err(f.wrong("input", "a string or a list of items")),
    }
}

/// An item as it is shown again: with an id, its type, and a text as a list of parts.
pub fn shown(mut item: Value) -> Value {
    if let Some(map) = item.as_object_mut() {
        map.entry("type").or_insert("message".into());
        map.entry("id").or_insert_with(|| id("item_").into());
        map.entry("status").or_insert("completed".into());
        let kind =
            if map.get("role").is_some_and(|r| r == "assistant") { "output_text" } else { "input_text" };
        if let Some(Value::String(text)) = map.get("content") {
            let part = json!([{"type": kind, "text": text}]);
            map.insert("content".into(), part);
        }
    }
    item
}

/// Adds what the items say to a conversation.
pub fn add(items: &[Value], said: &mut Vec<Message>) -> Result<()> {
    let mut thought = None;
    for (i, item) in items.iter().enumerate() {
        let f = Fields::at(item, format!("input[{i}]"))?;
        match f.text("type")?.unwrap_or("message") {
            "message" => {
                let role = match f.need("role", f.text("role")?)? {
                    "developer" => "system",
                    known @ ("system" | "user" | "assistant") => known,
                    _ => return Err(f.wrong("role", "system, developer, user or assistant")),
                };
                let content = f.need("content", text(&f, "content")?)?;
                let mut message = Message::new(role, &content);
                think(&mut message, &mut thought);
                said.push(message);
            }
            "function_call" => {
                let name = f.need("name", f.text("name")?)?;
                let id = f.need("call_id", f.text("call_id")?)?;
                let call = tool_call(id, name, f.text("arguments")?.unwrap_or("{}"));
                // Calls belong to what the assistant said before them.
                if said.last().is_none_or(|m| m.role != "assistant") {
                    let mut message = Message::new("assistant", "");
                    think(&mut message, &mut thought);
                    said.push(message);
                }
                let message = said.last_mut().map(|m| &mut m.extra);
                if let Some(Value::Array(calls)) =
                    message.map(|extra| extra.entry("tool_calls").or_insert_with(|| json!([])))
                {
                    calls.push(call);
                }
            }
            "function_call_output" => {
                let id = f.need("call_id", f.text("call_id")?)?;
                let output = f.need("output", text(&f, "output")?)?;
                let mut message = Message::new("tool", &output);
                message.extra.insert("tool_call_id".into(), id.into());
                said.push(message);
            }
            "reasoning" => {
                let parts = f.objects("content")?.unwrap_or_default();
                let texts: Result<Vec<_>> =
                    parts.iter().map(|p| Ok(p.text("text")?.unwrap_or_default())).collect();
                thought = Some(texts?.join("\n"));
            }
            "item_reference" => {
                let path = f.path("type");
                let message = format!("`{path}` is item_reference, which is not there; send the item itself");
                return Err(Refusal::field(path, message));
            }
            _ => return Err(f.wrong("type", "message, function_call, function_call_output or reasoning")),
        }
    }
    Ok(())
}

/// Puts a thought to what the assistant says after it.
fn think(message: &mut Message, thought: &mut Option<String>) {
    if message.role == "assistant"
        && let Some(thought) = thought.take().filter(|t| !t.is_empty())
    {
        message.extra.insert("reasoning_content".into(), thought.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_become_the_messages_of_a_chat() {
        let items = json!([
            {"role": "developer", "content": "Be brief."},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
            {"type": "reasoning", "id": "rs", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{\"in\":\"Rome\"}"},
            {"type": "function_call", "call_id": "c2", "name": "weather", "arguments": "broken"},
            {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Sunny."}]}
        ]);
        let mut said = Vec::new();
        add(items.as_array().unwrap(), &mut said).unwrap();
        let roles: Vec<_> = said.iter().map(|m| m.role.as_str()).collect();
        assert_eq!(roles, ["system", "user", "assistant", "tool", "assistant"]);
        let calls = &said[2].extra["tool_calls"];
        assert_eq!(calls[0]["function"]["arguments"]["in"], "Rome");
        assert_eq!(calls[1]["function"]["arguments"], "broken");
        assert_eq!((&said[2].extra["reasoning_content"], said[3].content.as_str()), (&json!("hm"), "sunny"));
        assert_eq!(said[4].content, "Sunny.");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let refused = |item: Value| add(&[item], &mut Vec::new()).unwrap_err().field.unwrap();
        assert_eq!(refused(json!({"type": "message", "content": "x"})), "input[0].role");
        assert_eq!(refused(json!({"type": "item_reference", "id": "x"})), "input[0].type");
        let image = json!({"role": "user", "content": [{"type": "input_image", "image_url": "x"}]});
        assert_eq!(refused(image), "input[0].content[0].type");
        assert_eq!(refused(json!(3)), "input[0]");
    }
}
