//! Fields that OpenAI's endpoints share: how tokens are chosen, what ends an answer.

use serde_json::{Value, json};

use crate::serve::fields::Fields;
use crate::serve::generate::{Format, Knobs, Request, ToolChoice};
use crate::serve::refusal::{Refusal, Result};

/// How tokens are chosen. `top_k`, `min_p` and `repeat_penalty` are Hob's own.
pub fn knobs(f: &Fields) -> Result<Knobs> {
    let penalty = f.number("repeat_penalty", 0.01..=10.0)?;
    Ok(Knobs {
        temperature: f.number("temperature", 0.0..=2.0)?,
        top_k: f.count("top_k", 0..=u64::MAX)?.map(|k| k as usize),
        // None at all is the likeliest alone.
        top_p: f.number("top_p", 0.0..=1.0)?.map(|p| p.max(f32::MIN_POSITIVE)),
        min_p: f.number("min_p", 0.0..=1.0)?,
        repeat_penalty: penalty.or(f.number("repetition_penalty", 0.01..=10.0)?),
        repeat_last_n: None,
        seed: f.integer("seed")?.map(|seed| seed as u64),
        presence: f.number("presence_penalty", -2.0..=2.0)?,
        frequency: f.number("frequency_penalty", -2.0..=2.0)?,
    })
}

/// Fills in what chat and completions have in common.
pub fn common(f: &Fields, request: &mut Request) -> Result<()> {
    request.knobs = knobs(f)?;
    request.stop = f.strings("stop")?;
    request.n = f.count("n", 1..=128)?.unwrap_or(1) as usize;
    for (id, by) in f.object("logit_bias")?.iter().flat_map(|bias| bias.map()) {
        let wrong = || {
            Refusal::field("logit_bias", "`logit_bias` must give a number from -100 to 100 for ids of tokens")
        };
        let by = by.as_f64().filter(|by| (-100.0..=100.0).contains(by)).ok_or_else(wrong)?;
        request.bias.push((id.parse().map_err(|_| wrong())?, by as f32));
    }
    Ok(())
}

/// A bound on the answer's tokens; some clients write -1 for none.
pub fn most(f: &Fields, name: &str) -> Result<Option<usize>> {
    match f.get(name).and_then(Value::as_i64) {
        Some(-1) => Ok(None),
        _ => Ok(f.count(name, 0..=u64::MAX)?.map(|n| n as usize)),
    }
}

/// `tools`, `tool_choice` and `parallel_tool_calls`. The chat writes a function as an object under `function`;
/// `/v1/responses` writes it `flat`.
pub fn tools(f: &Fields, request: &mut Request, flat: bool) -> Result<()> {
    for tool in f.objects("tools")?.unwrap_or_default() {
        if tool.text("type")? != Some("function") {
            return Err(tool.wrong("type", "function, the only kind of tool that Hob knows"));
        }
        let function = if flat { tool.clone() } else { tool.need("function", tool.object("function")?)? };
        function.need("name", function.text("name")?)?;
        function.object("parameters")?;
        let mut function = function.map().clone();
        if flat {
            function.remove("type");
        }
        request.tools.push(json!({"type": "function", "function": function}));
    }
    request.tool_choice = match f.get("tool_choice") {
        None => ToolChoice::Auto,
        Some(Value::String(choice)) => match choice.as_str() {
            "auto" => ToolChoice::Auto,
            "none" => ToolChoice::None,
            "required" => ToolChoice::Required,
            _ => return Err(f.wrong("tool_choice", "auto, none, required or a named function")),
        },
        Some(_) => {
            let choice = f.need("tool_choice", f.object("tool_choice")?)?;
            let function = choice.object("function")?.unwrap_or(choice);
            let name = function.need("name", function.text("name")?)?;
            if !request.tools.iter().any(|t| t["function"]["name"] == name) {
                return Err(Refusal::field(
                    "tool_choice",
                    "`tool_choice` names a function that is not in `tools`",
                ));
            }
            ToolChoice::Named(name.into())
        }
    };
    if request.tools.is_empty() && !matches!(request.tool_choice, ToolChoice::Auto | ToolChoice::None) {
        return Err(Refusal::field("tool_choice", "`tool_choice` asks for a call, and there are no `tools`"));
    }
    request.parallel_calls = f.flag("parallel_tool_calls")?.unwrap_or(true);
    Ok(())
}

/// What form the answer must have, by an object with `type`: text, json_object or json_schema. The schema lies in
/// `holder` or in the object itself.
pub fn format(f: &Fields, name: &str, holder: Option<&str>) -> Result<Format> {
    let Some(format) = f.object(name)? else { return Ok(Format::Text) };
    match format.need("type", format.text("type")?)? {
        "text" => Ok(Format::Text),
        "json_object" => Ok(Format::Json),
        "json_schema" => {
            let inside = match holder {
                Some(holder) => format.need(holder, format.object(holder)?)?,
                None => format,
            };
            let schema = inside.need("schema", inside.object("schema")?)?;
            Ok(Format::Schema(Value::Object(schema.map().clone())))
        }
        _ => Err(format.wrong("type", "text, json_object or json_schema")),
    }
}

/// How much the model is to think, in the words that chat templates know.
pub fn thinking(effort: Option<&str>, request: &mut Request) {
    if let Some(effort) = effort {
        request.variables.insert("reasoning_effort".into(), effort.into());
        request.variables.insert("enable_thinking".into(), (effort != "none").into());
    }
}
