//! `POST /api/chat`.

use std::time::Instant;

use axum::response::Response;
use hob_io::chat::Message;
use serde_json::{Map, Value, json};

use super::answer::{Shape, Writer};
use super::{load, models, named, options};
use crate::serve::asked::Asked;
use crate::serve::fields::Fields;
use crate::serve::generate::{self, Prompt, Request};
use crate::serve::refusal::{Refusal, Result};

/// Answers a conversation; one without messages loads or unloads the model.
pub async fn chat(Asked { app, tally, body }: Asked) -> Result<Response> {
    let start = Instant::now();
    let f = Fields::of(&body)?;
    let (name, stay, think) = (named(&f)?, options::stay(&f)?, options::think(&f)?);
    let streamed = f.flag("stream")?.unwrap_or(true);
    let (messages, begin) = messages(&f)?;
    let mut request = Request { begin, ..Request::new(Prompt::Chat(messages)) };
    options::read(&f, &mut request)?;
    tools(&f, &mut request)?;
    let empty = matches!(&request.prompt, Prompt::Chat(messages) if messages.is_empty());
    if empty && models::unload(&app, name, stay.keep).await? {
        return Ok(Writer::new(Shape::Message, name, start).nothing("unload"));
    }
    let lease = load(&app, name, stay).await?;
    let writer = Writer::new(Shape::Message, name, start);
    if empty {
        return Ok(writer.nothing("load"));
    }
    if let Some(think) = think {
        think.tell(&lease, &mut request)?;
    }
    let answer = generate::start(&lease, request, app.sampling, &tally).await?;
    writer.write(answer, streamed).await
}

/// The conversation, and what the answer begins with: an assistant's message at the end is gone on with.
fn messages(f: &Fields) -> Result<(Vec<Message>, String)> {
    let all = f.objects("messages")?.unwrap_or_default();
    let mut messages = all.iter().map(message).collect::<Result<Vec<_>>>()?;
    let last = messages.pop_if(|m| m.role == "assistant" && m.extra.is_empty() && all.len() > 1);
    Ok((messages, last.map_or_else(String::new, |m| m.content)))
}

fn message(f: &Fields) -> Result<Message> {
    let role = match f.need("role", f.text("role")?)? {
        known @ ("system" | "user" | "assistant" | "tool") => known,
        _ => return Err(f.wrong("role", "system, user, assistant or tool")),
    };
    images(f)?;
    let mut message = Message::new(role, f.text("content")?.unwrap_or_default());
    for (from, to) in
        [("tool_name", "name"), ("tool_call_id", "tool_call_id"), ("thinking", "reasoning_content")]
    {
        if let Some(text) = f.text(from)?.filter(|t| !t.is_empty()) {
            message.extra.insert(to.into(), text.into());
        }
    }
    let calls = f.objects("tool_calls")?.unwrap_or_default();
    if !calls.is_empty() {
        let calls: Result<Vec<Value>> = calls.iter().map(call).collect();
        message.extra.insert("tool_calls".into(), calls?.into());
    }
    Ok(message)
}

/// A call that the assistant made, as templates know it.
fn call(f: &Fields) -> Result<Value> {
    let function = f.need("function", f.object("function")?)?;
    let name = function.need("name", function.text("name")?)?;
    let arguments = function.object("arguments")?.map_or_else(Map::new, |a| a.map().clone());
    let id = f.text("id")?.unwrap_or_default();
    Ok(json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}))
}

/// Refuses pictures.
pub fn images(f: &Fields) -> Result<()> {
    match f.list("images")? {
        Some([_, ..]) => Err(Refusal::field(
            f.path("images"),
            format!("`{}` holds pictures, and this model reads text only", f.path("images")),
        )),
        _ => Ok(()),
    }
}

fn tools(f: &Fields, request: &mut Request) -> Result<()> {
    for tool in f.objects("tools")?.unwrap_or_default() {
        if tool.text("type")?.is_some_and(|t| t != "function") {
            return Err(tool.wrong("type", "function, the only kind of tool that Hob knows"));
        }
        let function = tool.need("function", tool.object("function")?)?;
        function.need("name", function.text("name")?)?;
        function.object("parameters")?;
        request.tools.push(json!({"type": "function", "function": function.map()}));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_become_those_of_a_template() {
        let body = json!({"messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Weather?", "images": []},
            {"role": "assistant", "thinking": "hm", "tool_calls": [
                {"function": {"name": "w", "arguments": {"in": "Rome"}}}
            ]},
            {"role": "tool", "tool_name": "w", "content": "sunny"},
            {"role": "assistant", "content": "It is"}
        ]});
        let (said, begin) = messages(&Fields::of(&body).unwrap()).unwrap();
        let roles: Vec<_> = said.iter().map(|m| m.role.as_str()).collect();
        assert_eq!(roles, ["system", "user", "assistant", "tool"]);
        assert_eq!(begin, "It is");
        assert_eq!(said[2].extra["tool_calls"][0]["function"]["arguments"]["in"], "Rome");
        assert_eq!(
            (&said[2].extra["reasoning_content"], &said[3].extra["name"]),
            (&json!("hm"), &json!("w"))
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let refused = |message: Value| {
            messages(&Fields::of(&json!({"messages": [message]})).unwrap()).err().unwrap().field.unwrap()
        };
        assert_eq!(refused(json!({"content": "x"})), "messages[0].role");
        assert_eq!(refused(json!({"role": "robot"})), "messages[0].role");
        assert_eq!(
            refused(json!({"role": "user", "content": "x", "images": ["aGk="]})),
            "messages[0].images"
        );
        let call =
            json!({"role": "assistant", "tool_calls": [{"function": {"name": "w", "arguments": "{}"}}]});
        assert_eq!(refused(call), "messages[0].tool_calls[0].function.arguments");
    }
}
