//! Requests as Anthropic's API writes them, to messages and tools that chat templates know.

use hob_io::chat::Message;
use serde_json::{Value, json};

use crate::serve::fields::Fields;
use crate::serve::generate::{Format, Prompt, Request, ToolChoice};
use crate::serve::refusal::{Refusal, Result};

/// The request, without its model. `max_tokens` is not looked at.
pub fn request(f: &Fields) -> Result<Request> {
    let mut said = Vec::new();
    if let Some(system) = text(f, "system")?.filter(|s| !s.is_empty()) {
        said.push(Message::new("system", &system));
    }
    let all = f.need("messages", f.objects("messages")?)?;
    if all.is_empty() {
        return Err(Refusal::field("messages", "`messages` is empty, and must hold a message"));
    }
    for message in &all {
        add(message, &mut said)?;
    }
    // What the assistant has begun to say is gone on with.
    let begun = said.pop_if(|m| m.role == "assistant" && m.extra.is_empty() && all.len() > 1);
    let mut request = Request::new(Prompt::Chat(said));
    request.begin = begun.map_or_else(String::new, |m| m.content);
    request.knobs.temperature = f.number("temperature", 0.0..=1.0)?;
    request.knobs.top_p = f.number("top_p", 0.0..=1.0)?.map(|p| p.max(f32::MIN_POSITIVE));
    request.knobs.top_k = f.count("top_k", 0..=u64::MAX)?.map(|k| k as usize);
    request.stop = f.strings("stop_sequences")?;
    tools(f, &mut request)?;
    choice(f, &mut request)?;
    think(f, &mut request)?;
    if let Some(output) = f.object("output_config")? {
        if let Some(format) = output.object("format")? {
            if format.text("type")? != Some("json_schema") {
                return Err(format.wrong("type", "json_schema"));
            }
            let schema = format.need("schema", format.object("schema")?)?;
            request.format = Format::Schema(Value::Object(schema.map().clone()));
        }
        if let Some(effort) = output.text("effort")? {
            request.variables.insert("reasoning_effort".into(), effort.into());
        }
    }
    Ok(request)
}

/// A text, or blocks of it.
fn text(f: &Fields, name: &str) -> Result<Option<String>> {
    match f.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Array(_)) => {
            let mut all = Vec::new();
            for block in f.objects(name)?.unwrap_or_default() {
                match block.need("type", block.text("type")?)? {
                    "text" => all.push(block.need("text", block.text("text")?)?),
                    _ => return Err(foreign(&block)),
                }
            }
            Ok(Some(all.join("\n")))
        }
        Some(_) => Err(f.wrong(name, "a string or a list of blocks")),
    }
}

/// That a block holds no text.
fn foreign(block: &Fields) -> Refusal {
    let path = block.path("type");
    let message = match block.text("type") {
        Ok(Some(kind @ ("image" | "document"))) => {
            format!("`{path}` is {kind}, and this model reads text only")
        }
        _ => return block.wrong("type", "text, thinking, tool_use or tool_result"),
    };
    Refusal::field(path, message)
}

/// Adds a message. One of Anthropic's may hold what templates have as several: results of tools, then a text.
fn add(f: &Fields, said: &mut Vec<Message>) -> Result<()> {
    let role = match f.need("role", f.text("role")?)? {
        known @ ("user" | "assistant" | "system") => known,
        _ => return Err(f.wrong("role", "user or assistant")),
    };
    if !matches!(f.get("content"), Some(Value::Array(_))) {
        let content = f.need("content", text(f, "content")?)?;
        said.push(Message::new(role, &content));
        return Ok(());
    }
    let (mut texts, mut thoughts, mut calls, mut results) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for block in f.objects("content")?.unwrap_or_default() {
        let need = |name: &str| block.need(name, block.text(name)?);
        match (role, need("type")?) {
            (_, "text") => texts.push(need("text")?),
            ("assistant", "thinking") => thoughts.push(need("thinking")?),
            // Nobody but its author reads it.
            ("assistant", "redacted_thinking") => {}
            ("assistant", "tool_use") => {
                let input = block.need("input", block.object("input")?)?;
                let function = json!({"name": need("name")?, "arguments": input.map()});
                calls.push(json!({"id": need("id")?, "type": "function", "function": function}));
            }
            ("user", "tool_result") => {
                let content = text(&block, "content")?.unwrap_or_default();
                let failed = block.flag("is_error")?.unwrap_or(false);
                let content = if failed { format!("Error: {content}") } else { content };
                let id = need("tool_use_id")?;
                let mut message = Message::new("tool", &content);
                message.extra.insert("tool_call_id".into(), id.into());
                if let Some(name) = called(said, id) {
                    message.extra.insert("name".into(), name.into());
                }
                results.push(message);
            }
            _ => return Err(foreign(&block)),
        }
    }
    let only_results = !results.is_empty() && texts.is_empty();
    said.extend(results);
    if !only_results {
        let mut message = Message::new(role, &texts.join("\n"));
        if !thoughts.is_empty() {
            message.extra.insert("reasoning_content".into(), thoughts.join("\n").into());
        }
        if !calls.is_empty() {
            message.extra.insert("tool_calls".into(), calls.into());
        }
        said.push(message);
    }
    Ok(())
}

/// The name of the tool that an earlier call was of.
fn called(said: &[Message], id: &str) -> Option<String> {
    let calls = said.iter().rev().filter_map(|m| m.extra.get("tool_calls")?.as_array());
    let call = calls.flatten().find(|call| call["id"] == id)?;
    call["function"]["name"].as_str().map(String::from)
}

fn tools(f: &Fields, request: &mut Request) -> Result<()> {
    for tool in f.objects("tools")?.unwrap_or_default() {
        if tool.text("type")?.is_some_and(|kind| kind != "custom") {
            let message = format!(
                "`{}` names a tool that only Anthropic's servers have; give tools with a name and an input_schema",
                tool.path("type")
            );
            return Err(Refusal::field(tool.path("type"), message));
        }
        let name = tool.need("name", tool.text("name")?)?;
        let schema = tool.need("input_schema", tool.object("input_schema")?)?;
        let mut function = json!({"name": name, "parameters": schema.map()});
        if let Some(description) = tool.text("description")? {
            function["description"] = description.into();
        }
        request.tools.push(json!({"type": "function", "function": function}));
    }
    Ok(())
}

fn choice(f: &Fields, request: &mut Request) -> Result<()> {
    let Some(choice) = f.object("tool_choice")? else { return Ok(()) };
    request.parallel_calls = !choice.flag("disable_parallel_tool_use")?.unwrap_or(false);
    request.tool_choice = match choice.need("type", choice.text("type")?)? {
        "auto" => ToolChoice::Auto,
        "none" => ToolChoice::None,
        "any" => ToolChoice::Required,
        "tool" => {
            let name = choice.need("name", choice.text("name")?)?;
            if !request.tools.iter().any(|t| t["function"]["name"] == name) {
                let message = "`tool_choice.name` names a tool that is not in `tools`";
                return Err(Refusal::field("tool_choice.name", message));
            }
            ToolChoice::Named(name.into())
        }
        _ => return Err(choice.wrong("type", "auto, any, tool or none")),
    };
    if request.tools.is_empty() && request.tool_choice == ToolChoice::Required {
        return Err(Refusal::field("tool_choice", "`tool_choice` asks for a call, and there are no `tools`"));
    }
    Ok(())
}

/// Whether to think. The budget is for models that count their thoughts; ours think as they like, within `max_tokens`.
fn think(f: &Fields, request: &mut Request) -> Result<()> {
    let Some(thinking) = f.object("thinking")? else { return Ok(()) };
    let on = match thinking.need("type", thinking.text("type")?)? {
        "enabled" => {
            thinking.need("budget_tokens", thinking.count("budget_tokens", 1..=u64::MAX)?)?;
            true
        }
        "adaptive" | "between_tools" => true,
        "disabled" => false,
        _ => return Err(thinking.wrong("type", "enabled, adaptive or disabled")),
    };
    request.variables.insert("enable_thinking".into(), on.into());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: Value) -> Result<(Vec<Message>, Request), Refusal> {
        let request = request(&Fields::of(&body)?)?;
        match &request.prompt {
            Prompt::Chat(said) => Ok((said.clone(), request)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn blocks_become_the_messages_of_a_chat() {
        let body = json!({
            "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
            "messages": [
                {"role": "user", "content": "Weather?"},
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "hm", "signature": ""},
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "id": "c1", "name": "weather", "input": {"in": "Rome"}},
                    {"type": "tool_use", "id": "c2", "name": "weather", "input": {}}
                ]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "sunny"}]},
                    {"type": "tool_result", "tool_use_id": "c2", "is_error": true, "content": "no city"},
                    {"type": "text", "text": "And now?"}
                ]},
                {"role": "assistant", "content": "It is"}
            ]
        });
        let (said, request) = read(body).unwrap();
        let roles: Vec<_> = said.iter().map(|m| m.role.as_str()).collect();
        assert_eq!(roles, ["system", "user", "assistant", "tool", "tool", "user"]);
        assert_eq!(
            (said[2].content.as_str(), &said[2].extra["reasoning_content"]),
            ("I look.", &json!("hm"))
        );
        assert_eq!(said[2].extra["tool_calls"][0]["function"]["arguments"]["in"], "Rome");
        assert_eq!((said[3].content.as_str(), &said[3].extra["name"]), ("sunny", &json!("weather")));
        assert_eq!(
            (said[4].content.as_str(), &said[4].extra["tool_call_id"]),
            ("Error: no city", &json!("c2"))
        );
        assert_eq!((said[5].content.as_str(), request.begin.as_str()), ("And now?", "It is"));
    }

    #[test]
    fn tools_choices_and_thinking() {
        let ask = json!([{"role": "user", "content": "x"}]);
        let tools = json!([{"name": "f", "description": "d", "input_schema": {"type": "object"}}]);
        let (_, r) = read(json!({
            "messages": ask, "tools": tools, "tool_choice": {"type": "any", "disable_parallel_tool_use": true},
            "thinking": {"type": "enabled", "budget_tokens": 1024}, "metadata": {"user_id": "u"},
            "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}}
        }))
        .unwrap();
        assert_eq!(r.tools[0]["function"]["parameters"]["type"], "object");
        assert_eq!((r.tool_choice, r.parallel_calls), (ToolChoice::Required, false));
        assert_eq!(
            (&r.variables["enable_thinking"], &r.variables["reasoning_effort"]),
            (&json!(true), &json!("low"))
        );
        assert_eq!(r.format, Format::Schema(json!({"type": "object"})));
        let field = |extra: Value| {
            let mut body = json!({"messages": ask, "tools": tools});
            extra.as_object().unwrap().iter().for_each(|(name, value)| body[name] = value.clone());
            read(body).err().unwrap().field.unwrap()
        };
        assert_eq!(field(json!({"tool_choice": {"type": "tool", "name": "g"}})), "tool_choice.name");
        assert_eq!(field(json!({"tool_choice": {"type": "sometimes"}})), "tool_choice.type");
        assert_eq!(field(json!({"tools": [{"type": "web_search_20250305", "name": "w"}]})), "tools[0].type");
        assert_eq!(field(json!({"tools": [{"name": "w"}]})), "tools[0].input_schema");
        assert_eq!(field(json!({"thinking": {"type": "enabled"}})), "thinking.budget_tokens");
        assert_eq!(field(json!({"temperature": 1.5})), "temperature");
        assert_eq!(field(json!({"messages": []})), "messages");
        assert_eq!(field(json!({"messages": [{"role": "user"}]})), "messages[0].content");
        let image = json!([{"role": "user", "content": [{"type": "image", "source": {}}]}]);
        assert_eq!(field(json!({"messages": image})), "messages[0].content[0].type");
        let call =
            json!([{"role": "user", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]}]);
        assert_eq!(field(json!({"messages": call})), "messages[0].content[0].type");
    }
}
