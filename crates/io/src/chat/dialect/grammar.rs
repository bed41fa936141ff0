//! Grammars of calls, in llguidance's Lark (its docs/syntax.md): tokens as `<[id]>`, JSON schemas as `%json`.

use super::{Dialect, Family, Tool, only_text};
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// Which tools an answer has to call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Some tool (OpenAI's `required`).
    Required,
    /// The tool of this name.
    Named(String),
}

impl Dialect {
    /// A grammar, in llguidance's Lark, of answers that call these tools and do nothing else, with arguments by each
    /// tool's schema. `parallel`: several calls may follow each other. It holds after the thought
    /// ([`Dialect::thought`]). Markers that are control tokens in the model's vocabulary are written as such. `None` if
    /// no tool is to be called.
    pub fn call_grammar(&self, tools: &[Tool], choice: &Choice, parallel: bool) -> Option<String> {
        let wanted = |tool: &&Tool| match choice {
            Choice::Required => true,
            Choice::Named(name) => tool.name == *name,
        };
        let tools: Vec<&Tool> = tools.iter().filter(wanted).collect();
        if tools.is_empty() {
            return None;
        }
        let mut lark = Lark { dialect: self, rules: String::new(), count: 0 };
        let start = lark.start(&tools, parallel);
        Some(format!("%llguidance {{}}\nstart: SPACE? {start}\nSPACE: /[ \\n]{{1,4}}/\n{}", lark.rules))
    }
}

struct Lark<'a> {
    dialect: &'a Dialect,
    rules: String,
    count: usize,
}

impl Lark<'_> {
    /// A marker: a token where it is one, or else its text.
    fn mark(&self, marker: &str) -> String {
        let control = self.dialect.control.iter().find(|(name, _)| *name == marker);
        match control {
            Some((_, id)) => format!("<[{id}]>"),
            None => quote(marker),
        }
    }

    /// A new rule of this text; its name.
    fn rule(&mut self, options: &str, text: &str) -> String {
        self.count += 1;
        let name = format!("r{}", self.count);
        let _ = writeln!(self.rules, "{name}{options}: {text}");
        name
    }

    fn json(&mut self, schema: &Value) -> String {
        self.rule("", &format!("%json {schema}"))
    }

    /// One of these.
    fn any(&mut self, each: Vec<String>) -> String {
        let each = each.join(" | ");
        self.rule("", &each)
    }

    fn start(&mut self, tools: &[&Tool], parallel: bool) -> String {
        let several = |one: &str, between: &str| match parallel {
            true => format!("{one} ({between} {one})*"),
            false => one.to_string(),
        };
        let (open, close) = self.dialect.tag;
        let (open, close) =
            (self.mark(open), if close.is_empty() { String::new() } else { self.mark(close) });
        match self.dialect.family {
            // Nemotron, Granite and Phi-4 have one list between the markers.
            Family::Hermes if matches!(self.dialect.tag.0, "<TOOLCALL>" | "<|tool_call|>") => {
                let call = self.object(tools, "name", "arguments");
                format!(r#"{open} "[" {} "]" {close}"#, several(&call, r#"", ""#))
            }
            Family::Hermes => {
                let call = self.object(tools, "name", "arguments");
                let call = self.rule("", &format!(r#"{open} "\n" {call} "\n" {close}"#));
                several(&call, r#""\n""#)
            }
            Family::Gemma | Family::Generic => self.object(tools, "name", "arguments"),
            Family::Llama => {
                let call = self.object(tools, "name", "parameters");
                several(&call, r#""; ""#)
            }
            Family::Mistral => {
                let call = self.object(tools, "name", "arguments");
                format!(r#"{open} " "? "[" {} "]""#, several(&call, r#"", ""#))
            }
            Family::Cohere => {
                let call = self.object(tools, "tool_name", "parameters");
                format!(r#"{open} "[" {} "]" {close}"#, several(&call, r#"", ""#))
            }
            Family::MistralArgs => {
                let args = self.mark("[ARGS]");
                let call = self.each(tools, |lark, tool| {
                    let json = lark.json(&schema(&tool.parameters));
                    format!("{open} {} {args} {json}", quote(&tool.name))
                });
                several(&call, "")
            }
            Family::Harmony => {
                let [start, channel, message, constrain, end] =
                    ["<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|call|>"]
                        .map(|m| self.mark(m));
                self.each(tools, |lark, tool| {
                    let json = lark.json(&schema(&tool.parameters));
                    let to = quote(&format!("commentary to=functions.{} ", tool.name));
                    format!(
                        r#"({start} "assistant")? {channel} {to} {constrain} "json" {message} {json} {end}"#
                    )
                })
            }
            Family::DeepSeek | Family::DeepSeek31 => {
                let [begin, between, end] =
                    ["<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"].map(|m| self.mark(m));
                let fenced = self.dialect.family == Family::DeepSeek;
                let call = self.each(tools, |lark, tool| {
                    let json = lark.json(&schema(&tool.parameters));
                    match fenced {
                        true => {
                            let name = quote(&format!("{}\n```json\n", tool.name));
                            format!(r#"{begin} "function" {between} {name} {json} "\n```" {end}"#)
                        }
                        false => format!("{begin} {} {between} {json} {end}", quote(&tool.name)),
                    }
                });
                let between = if fenced { r#""\n""# } else { "" };
                format!("{open} {} {close}", several(&call, between))
            }
            Family::Kimi => {
                let [begin, between, end] =
                    ["<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"]
                        .map(|m| self.mark(m));
                let call = self.each(tools, |lark, tool| {
                    let json = lark.json(&schema(&tool.parameters));
                    let name = quote(&format!("functions.{}:", tool.name));
                    format!("{begin} {name} /[0-9]{{1,3}}/ {between} {json} {end}")
                });
                format!("{open} {} {close}", several(&call, ""))
            }
            Family::Qwen3Coder | Family::Glm => {
                let xml = self.dialect.family == Family::Qwen3Coder;
                let call = self.each(tools, |lark, tool| {
                    let (head, tail) = match xml {
                        true => (format!("\n<function={}>\n", tool.name), quote("</function>\n")),
                        false => (format!("{}\n", tool.name), String::new()),
                    };
                    let arguments: Vec<_> = parameters(tool).map(|p| lark.parameter(tool, p, xml)).collect();
                    format!("{open} {} {} {tail} {close}", quote(&head), arguments.join(" "))
                });
                several(&call, r#""\n""#)
            }
            Family::Pythonic => {
                let call = self.each(tools, |lark, tool| {
                    let list = lark.listed(tool, |lark, tool, (key, value)| match value["type"].as_str() {
                        Some("boolean") => format!(r#"{} ("True" | "False")"#, quote(&format!("{key}="))),
                        _ => format!("{} {}", quote(&format!("{key}=")), lark.json(&part(tool, value))),
                    });
                    format!("{} {list} \")\"", quote(&format!("{}(", tool.name)))
                });
                let list = format!(r#""[" {} "]""#, several(&call, r#"", ""#));
                // LFM2 always writes its markers, Llama 4 seldom does.
                match self.dialect.tag.0 {
                    "<|tool_call_start|>" => format!("{open} {list} {close}"),
                    _ => list,
                }
            }
            Family::FunctionGemma | Family::Gemma4 => {
                let gemma4 = self.dialect.family == Family::Gemma4;
                let mark = self.mark(if gemma4 { "<|\"|>" } else { "<escape>" });
                let call = self.each(tools, |lark, tool| {
                    let list = lark.listed(tool, |lark, tool, (key, value)| {
                        let key = quote(&format!("{key}:"));
                        match only_text(value) {
                            true => format!("{key} {mark} {} {mark}", lark.text(value)),
                            false => format!("{key} {}", lark.json(&part(tool, value))),
                        }
                    });
                    format!("{open} {} {list} \"}}\" {close}", quote(&format!("call:{}{{", tool.name)))
                });
                several(&call, "")
            }
        }
    }

    /// A rule for the call of each tool, and one of them.
    fn each(&mut self, tools: &[&Tool], mut call: impl FnMut(&mut Self, &Tool) -> String) -> String {
        let mut rules = Vec::new();
        for tool in tools {
            let text = call(self, tool);
            rules.push(self.rule("", &text));
        }
        self.any(rules)
    }

    /// JSON objects with a name and arguments. One schema for all tools: what is common to them is one to the parser.
    fn object(&mut self, tools: &[&Tool], name: &str, arguments: &str) -> String {
        let mut definitions = Map::new();
        let each: Vec<Value> = tools
            .iter()
            .enumerate()
            .map(|(i, tool)| {
                let key = format!("tool{i}");
                definitions.insert(key.clone(), rooted(&schema(&tool.parameters), &format!("#/$defs/{key}")));
                json!({
                    "type": "object",
                    "properties": {
                        name: {"const": tool.name},
                        arguments: {"$ref": format!("#/$defs/{key}")},
                    },
                    "required": [name, arguments],
                    "additionalProperties": false,
                })
            })
            .collect();
        self.json(&json!({"anyOf": each, "$defs": definitions}))
    }

    /// A parameter in XML; text stands as it is, other values as JSON.
    fn parameter(&mut self, tool: &Tool, (key, value): (&String, &Value), xml: bool) -> String {
        let (before, after) = match xml {
            true => (format!("<parameter={key}>\n"), "\n</parameter>\n"),
            false => (format!("<arg_key>{key}</arg_key>\n<arg_value>"), "</arg_value>\n"),
        };
        let rule = match only_text(value) && value["enum"].is_null() {
            true => {
                let text = self.rule(&format!("[suffix={}]", quote(after)), r"/(.|\n)*/");
                format!("{} {text}", quote(&before))
            }
            false if only_text(value) => format!("{} {} {}", quote(&before), self.text(value), quote(after)),
            false => format!("{} {} {}", quote(&before), self.json(&part(tool, value)), quote(after)),
        };
        let rule = self.rule("", &rule);
        if required(tool, key) { rule } else { format!("{rule}?") }
    }

    /// Text without quotes: one of an enumeration, or any that has no angle bracket, which may begin a marker.
    fn text(&mut self, schema: &Value) -> String {
        let values = schema["enum"].as_array();
        let each = values.map(|v| v.iter().filter_map(Value::as_str).map(quote).collect::<Vec<_>>());
        match each {
            Some(each) if !each.is_empty() => self.any(each),
            _ => "/[^<]*/".into(),
        }
    }

    /// Parameters with commas between: those required in the schema's order, then some of the others in theirs.
    fn listed(
        &mut self,
        tool: &Tool,
        write: impl Fn(&mut Self, &Tool, (&String, &Value)) -> String,
    ) -> String {
        let (must, may): (Vec<_>, Vec<_>) = parameters(tool).partition(|(key, _)| required(tool, key));
        let must: Vec<String> = must.into_iter().map(|p| write(self, tool, p)).collect();
        let may: Vec<String> = may.into_iter().map(|p| write(self, tool, p)).collect();
        let tails: Vec<String> = may.iter().map(|p| format!(r#"("," " "? {p})?"#)).collect();
        if !must.is_empty() {
            return format!("{} {}", must.join(r#" "," " "? "#), tails.join(" "));
        }
        // The first that is there has no comma before it.
        let firsts: Vec<String> =
            may.iter().enumerate().map(|(i, p)| format!("{p} {}", tails[i + 1..].join(" "))).collect();
        if firsts.is_empty() { String::new() } else { format!("({})?", firsts.join(" | ")) }
    }
}

fn parameters(tool: &Tool) -> impl Iterator<Item = (&String, &Value)> {
    tool.parameters.get("properties").and_then(Value::as_object).into_iter().flatten()
}

fn required(tool: &Tool, key: &str) -> bool {
    tool.parameters["required"].as_array().is_some_and(|keys| keys.iter().any(|k| k == key))
}

/// A schema of arguments: an object, whatever a tool says.
fn schema(parameters: &Value) -> Value {
    match parameters {
        Value::Object(map) if map.contains_key("type") || map.contains_key("$ref") => parameters.clone(),
        Value::Object(map) => {
            let mut map = map.clone();
            map.insert("type".into(), "object".into());
            Value::Object(map)
        }
        _ => json!({"type": "object", "properties": {}, "additionalProperties": false}),
    }
}

/// The schema of one argument alone, with the definitions that it may refer to.
fn part(tool: &Tool, value: &Value) -> Value {
    let mut value = value.clone();
    for key in ["$defs", "definitions"] {
        if let (Some(map), Some(definitions)) = (value.as_object_mut(), tool.parameters.get(key)) {
            map.insert(key.into(), definitions.clone());
        }
    }
    value
}

/// A schema whose references to itself (`#/…`) are to the place where it is put.
fn rooted(schema: &Value, root: &str) -> Value {
    match schema {
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| match value.as_str().and_then(|v| v.strip_prefix('#')) {
                Some(rest) if key == "$ref" => (key.clone(), format!("{root}{rest}").into()),
                _ => (key.clone(), rooted(value, root)),
            })
            .collect(),
        Value::Array(items) => items.iter().map(|item| rooted(item, root)).collect(),
        other => other.clone(),
    }
}

/// A string literal of Lark, which is written as JSON's.
fn quote(text: &str) -> String {
    Value::from(text).to_string()
}
