//! Messages as OpenAI's chat writes them, to those that chat templates know.

use hob_io::chat::Message;
use serde_json::{Map, Value, json};

use crate::serve::fields::Fields;
use crate::serve::refusal::{Refusal, Result};

/// The conversation in `messages`.
pub fn messages(f: &Fields) -> Result<Vec<Message>> {
    let all = f.need("messages", f.objects("messages")?)?;
    if all.is_empty() {
        return Err(Refusal::field("messages", "`messages` is empty, and must hold a message"));
    }
    all.iter().map(message).collect()
}

fn message(f: &Fields) -> Result<Message> {
    let role = match f.need("role", f.text("role")?)? {
        "developer" => "system",
        "function" => "tool",
        known @ ("system" | "user" | "assistant" | "tool") => known,
        _ => return Err(f.wrong("role", "system, developer, user, assistant or tool")),
    };
    let content = text(f, "content")?;
    let mut extra = Map::new();
    for name in ["name", "tool_call_id"] {
        f.text(name)?.map(|text| extra.insert(name.into(), text.into()));
    }
    if let Some(thought) = f.text("reasoning_content")?.or(f.text("reasoning")?) {
        extra.insert("reasoning_content".into(), thought.into());
    }
    let calls = f.objects("tool_calls")?.unwrap_or_default();
    if !calls.is_empty() {
        let calls: Result<Vec<Value>> = calls.iter().map(call).collect();
        extra.insert("tool_calls".into(), calls?.into());
    }
    match content {
        None if role != "assistant" => {
            Err(f.need("content", None::<()>).err().unwrap_or_else(|| f.wrong("content", "text")))
        }
        content => Ok(Message { role: role.into(), content: content.unwrap_or_default(), extra }),
    }
}

/// A call that the assistant made. Templates want its arguments as an object; the API has them as text.
fn call(f: &Fields) -> Result<Value> {
    let function = f.need("function", f.object("function")?)?;
    let name = function.need("name", function.text("name")?)?;
    let arguments = function.text("arguments")?.unwrap_or("{}");
    Ok(tool_call(f.text("id")?.unwrap_or_default(), name, arguments))
}

/// A call as templates know it.
pub fn tool_call(id: &str, name: &str, arguments: &str) -> Value {
    let arguments =
        serde_json::from_str(arguments).ok().filter(Value::is_object).unwrap_or_else(|| arguments.into());
    json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
}

/// A text, or the parts of one.
pub fn text(f: &Fields, name: &str) -> Result<Option<String>> {
    match f.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Array(_)) => {
            let mut all = Vec::new();
            for part in f.objects(name)?.unwrap_or_default() {
                match part.need("type", part.text("type")?)? {
                    "text" | "input_text" | "output_text" => all.push(part.need("text", part.text("text")?)?),
                    "refusal" => all.push(part.need("refusal", part.text("refusal")?)?),
                    "image_url" | "input_image" | "input_audio" | "file" | "input_file" => {
                        let message =
                            format!("`{}` is no text, and this model reads text only", part.path("type"));
                        return Err(Refusal::field(part.path("type"), message));
                    }
                    _ => return Err(part.wrong("type", "text")),
                }
            }
            Ok(Some(all.join("\n")))
        }
        Some(_) => Err(f.wrong(name, "a string or a list of parts")),
    }
}
