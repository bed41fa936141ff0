//! How a family of models writes calls of tools and thoughts, and reading both from an answer while it is written.
//!
//! A [`Dialect`] is recognised once per model. A [`Reader`] splits one answer into [`Piece`]s. What does not parse is
//! text, as the model wrote it: nothing is dropped, and nothing is an error.

mod block;
mod grammar;
mod harmony;
mod json;
mod literal;
mod reader;

pub use grammar::Choice;
pub use reader::Reader;

use crate::Tokenizer;
use block::Tag;
use json::Tri;
use serde_json::Value;

/// A stretch of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// What is said to the user.
    Text(String),
    /// What the model thinks.
    Thought(String),
    /// A call of a tool.
    Call(Call),
    /// A marker that is neither, with the spaces around it. Only who wants the answer as written needs it.
    Mark(String),
}

impl Piece {
    /// What the model wrote: all pieces' joined are the answer.
    pub fn written(&self) -> &str {
        match self {
            Piece::Text(text) | Piece::Thought(text) | Piece::Mark(text) => text,
            Piece::Call(call) => &call.written,
        }
    }
}

/// A call of a tool that was offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The tool.
    pub name: String,
    /// A JSON object, as the model wrote it where it wrote JSON.
    pub arguments: String,
    /// The model's own id for this call, in dialects that have one.
    pub id: Option<String>,
    /// What the model wrote, markers included; of several calls in one block the first has it all.
    pub written: String,
}

impl Call {
    fn new(found: Found, written: &str) -> Call {
        let Found { name, arguments, id } = found;
        Call { name, arguments, id, written: written.into() }
    }
}

/// A call without its text.
#[derive(Debug)]
struct Found {
    name: String,
    arguments: String,
    id: Option<String>,
}

/// A tool that a model may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// A JSON Schema of its arguments; null if it has none.
    pub parameters: Value,
}

impl Tool {
    /// The tools of OpenAI's `tools`: a list of `{"type": "function", "function": {"name", "parameters"}}`, or of
    /// functions alone. What has no name is left out.
    pub fn list(tools: &Value) -> Vec<Tool> {
        let tool = |value: &Value| {
            let function = value.get("function").unwrap_or(value);
            let parameters = function.get("parameters").cloned().unwrap_or_default();
            Some(Tool { name: function.get("name")?.as_str()?.into(), parameters })
        };
        tools.as_array().into_iter().flatten().filter_map(tool).collect()
    }

    /// The schema of one argument.
    fn parameter(&self, key: &str) -> Option<&Value> {
        self.parameters.get("properties")?.get(key)
    }
}

/// The tools offered.
#[derive(Clone, Debug)]
struct Tools(Vec<Tool>);

impl Tools {
    /// The name of an offered tool, however it is written; harmony and Kimi call functions `functions.name`.
    fn known(&self, name: &str) -> Option<&str> {
        let find = |name: &str| self.0.iter().find(|tool| tool.name == name).map(|tool| tool.name.as_str());
        find(name).or_else(|| find(name.strip_prefix("functions.")?))
    }

    /// What `test` says of some name.
    fn begin(&self, test: impl Fn(&str) -> Tri) -> Tri {
        Tri::any(self.0.iter().flat_map(|tool| [test(&tool.name), test(&format!("functions.{}", tool.name))]))
    }

    /// The value of an argument that was written without quotes: text if the schema says so, else JSON if it can be.
    fn value(&self, tool: &str, key: &str, text: &str) -> Value {
        let schema = self.0.iter().find(|t| t.name == tool).and_then(|t| t.parameter(key));
        if schema.is_some_and(only_text) {
            return text.into();
        }
        let mut literal = literal::Literal::new(text, false);
        let json = serde_json::from_str(text.trim()).ok();
        json.or_else(|| literal.value().filter(|_| literal.at_end())).unwrap_or_else(|| text.into())
    }
}

/// Whether a schema admits texts and nothing else.
fn only_text(schema: &Value) -> bool {
    match (&schema["type"], schema["enum"].as_array()) {
        (Value::String(kind), _) => kind == "string",
        (_, Some(values)) => values.iter().all(Value::is_string),
        _ => false,
    }
}

/// A family of models that write calls alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// `<tool_call>{"name": …, "arguments": …}</tool_call>`: Hermes, Qwen 2.5, Qwen 3, and others with other tags.
    Hermes,
    /// `<tool_call><function=name><parameter=key>value</parameter></function></tool_call>`: Qwen3-Coder, Seed-OSS.
    Qwen3Coder,
    /// `<tool_call>name<arg_key>key</arg_key><arg_value>value</arg_value></tool_call>`: GLM 4.5.
    Glm,
    /// `{"name": …, "parameters": …}`, perhaps after `<|python_tag|>`: Llama 3.
    Llama,
    /// `[name(key=value)]`, perhaps between markers: Llama 4, LFM2.
    Pythonic,
    /// `[TOOL_CALLS] [{"name": …, "arguments": …, "id": …}]`: Mistral until 2024.
    Mistral,
    /// `[TOOL_CALLS]name[CALL_ID]id[ARGS]{…}`: Mistral since then.
    MistralArgs,
    /// A fence, as Gemma 2 and 3 are prompted to write.
    Gemma,
    /// `<start_function_call>call:name{key:<escape>value<escape>}<end_function_call>`.
    FunctionGemma,
    /// `<|tool_call>call:name{key:<|"|>value<|"|>}<tool_call|>`.
    Gemma4,
    /// `<|channel|>commentary to=functions.name <|constrain|>json<|message|>{…}<|call|>`: gpt-oss.
    Harmony,
    /// `<｜tool▁call▁begin｜>function<｜tool▁sep｜>name` and a fence: DeepSeek V3, R1.
    DeepSeek,
    /// `<｜tool▁call▁begin｜>name<｜tool▁sep｜>{…}<｜tool▁call▁end｜>`: DeepSeek V3.1.
    DeepSeek31,
    /// `<|tool_call_begin|>functions.name:0<|tool_call_argument_begin|>{…}<|tool_call_end|>`: Kimi K2.
    Kimi,
    /// `<|START_ACTION|>[{"tool_name": …, "parameters": …}]<|END_ACTION|>`: Cohere's Command.
    Cohere,
    /// Nothing of its own is known: a JSON object with name and arguments, alone or in a fence.
    Generic,
}

const TOOL_CALL: Tag = ("<tool_call>", "</tool_call>");

const HERMES: &[Tag] = &[
    TOOL_CALL,
    ("<function_call>", "</function_call>"),
    ("<TOOLCALL>", "</TOOLCALL>"),
    ("<seed:tool_call>", "</seed:tool_call>"),
    ("<|tool_call|>", "<|/tool_call|>"),
];

impl Family {
    /// What begins and ends calls. All bodies are read after each of them.
    fn tags(self) -> &'static [Tag] {
        match self {
            Family::Hermes | Family::Qwen3Coder | Family::Glm | Family::Generic => HERMES,
            Family::Llama => &[("<|python_tag|>", ""), TOOL_CALL],
            Family::Pythonic => {
                &[("<|python_start|>", "<|python_end|>"), ("<|tool_call_start|>", "<|tool_call_end|>")]
            }
            Family::Mistral | Family::MistralArgs => &[("[TOOL_CALLS]", ""), TOOL_CALL],
            Family::Gemma => &[TOOL_CALL, ("<function_call>", "</function_call>")],
            Family::FunctionGemma => &[("<start_function_call>", "<end_function_call>")],
            Family::Gemma4 => &[("<|tool_call>", "<tool_call|>")],
            Family::Harmony => &[],
            Family::DeepSeek | Family::DeepSeek31 => {
                &[("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"), TOOL_CALL]
            }
            Family::Kimi => &[("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>")],
            Family::Cohere => &[("<|START_ACTION|>", "<|END_ACTION|>")],
        }
    }

    /// Markers around the answer itself.
    fn marks(self) -> &'static [&'static str] {
        match self {
            Family::Cohere => &["<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"],
            _ => &[],
        }
    }

    /// Markers within calls.
    fn inner(self) -> &'static [&'static str] {
        match self {
            Family::MistralArgs | Family::Mistral => &["[ARGS]", "[CALL_ID]"],
            Family::FunctionGemma => &["<escape>"],
            Family::Gemma4 => &["<|\"|>"],
            Family::Harmony => &[
                "<|start|>",
                "<|channel|>",
                "<|message|>",
                "<|constrain|>",
                "<|end|>",
                "<|return|>",
                "<|call|>",
            ],
            Family::DeepSeek | Family::DeepSeek31 => {
                &["<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"]
            }
            Family::Kimi => &["<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"],
            Family::Glm => &["<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"],
            _ => &[],
        }
    }

    /// Tokens that end a turn beside those that end every model's.
    fn ends(self) -> &'static [&'static str] {
        match self {
            Family::FunctionGemma => &["<start_function_response>"],
            Family::Gemma4 => &["<|tool_response>"],
            Family::Glm => &["<|user|>", "<|observation|>"],
            Family::Cohere => &["<|END_OF_TURN_TOKEN|>"],
            Family::Llama => &["<|eom_id|>"],
            Family::Pythonic => &["<|eom|>", "<|eot|>"],
            Family::Harmony => &["<|call|>", "<|return|>"],
            _ => &[],
        }
    }
}

/// What begins and ends thoughts. The first that a template or a vocabulary has is the model's.
const THOUGHTS: [(&str, &str); 8] = [
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<seed:think>", "</seed:think>"),
    ("<|channel>thought\n", "<channel|>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<thinking>", "</thinking>"),
];

/// How a model writes calls and thoughts: recognised once per model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dialect {
    /// The family.
    pub family: Family,
    /// The markers of thoughts.
    thought: (&'static str, &'static str),
    /// Whether the model is known to think.
    thinks: bool,
    /// What begins and ends calls, as this model's template has it.
    tag: Tag,
    /// Markers that are control tokens in the model's vocabulary, and their ids.
    control: Vec<(&'static str, u32)>,
}

impl Dialect {
    /// The dialect of a model: by its chat template, and where that is silent by its control tokens.
    pub fn of(template: Option<&str>, tokenizer: Option<&Tokenizer>) -> Dialect {
        let source = template.unwrap_or_default();
        let token = |name: &str| tokenizer.is_some_and(|t| t.special_id(name).is_some());
        let family = by_template(source).or_else(|| by_tokens(&token)).unwrap_or(Family::Generic);
        let by = |has: &dyn Fn(&str) -> bool| {
            THOUGHTS.into_iter().find(|(begin, end)| has(begin.trim_end()) || has(end))
        };
        let known = by(&|marker| source.contains(marker)).or_else(|| by(&token));
        let tags = family.tags();
        let tag = tags.iter().find(|(open, _)| source.contains(open) || token(open)).or(tags.first());
        // Granite begins calls with a marker and ends them with the turn.
        let closes = |close: &str| !source.contains("<|tool_call|>") || source.contains(close);
        let tag = tag.map(|&(open, close)| (open, if closes(close) { close } else { "" }));
        let mut dialect = Dialect {
            family,
            thought: known.unwrap_or(THOUGHTS[0]),
            thinks: known.is_some() || family == Family::Harmony,
            tag: tag.unwrap_or_default(),
            control: Vec::new(),
        };
        let control = |marker: &&'static str| {
            let tokenizer = tokenizer?;
            let id = tokenizer.special_id(marker).filter(|&id| tokenizer.is_special(id))?;
            Some((*marker, id))
        };
        dialect.control = dialect.markers().iter().filter_map(control).collect();
        dialect
    }

    /// The dialect in which tools are put into the system message, for models whose template ignores them. The
    /// markers of thoughts stay the model's.
    pub fn hermes(&self) -> Dialect {
        Dialect { family: Family::Hermes, tag: TOOL_CALL, ..self.clone() }
    }

    fn markers(&self) -> Vec<&'static str> {
        let tags = self.family.tags().iter().flat_map(|(open, close)| [*open, *close]);
        let rest = self.family.marks().iter().chain(self.family.inner()).copied();
        // Gemma 4's thoughts begin with a token and a word.
        let begin = self.thought.0.strip_suffix("thought\n").unwrap_or(self.thought.0);
        tags.chain(rest).chain([begin, self.thought.1]).filter(|marker| !marker.is_empty()).collect()
    }

    /// The control tokens that a [`Reader`] must see spelled out, for [`Tokenizer::decoder_with`]; all others stay
    /// without text.
    pub fn spelled_ids(&self) -> Vec<u32> {
        self.control.iter().map(|&(_, id)| id).collect()
    }

    /// Every token that ends a turn in this dialect: the tokenizer's [`Tokenizer::eos_ids`], and those that stand where a
    /// tool's answer is waited for. Harmony's `<|end|>` ends a message of several and is not among them.
    pub fn end_ids(&self, tokenizer: &Tokenizer) -> Vec<u32> {
        let mut ids = tokenizer.eos_ids().to_vec();
        for id in self.family.ends().iter().filter_map(|name| tokenizer.special_id(name)) {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        let goes_on = tokenizer.special_id("<|end|>").filter(|_| self.family == Family::Harmony);
        ids.retain(|&id| Some(id) != goes_on);
        ids
    }

    /// What begins and ends the model's thoughts, if it is known to have any: a grammar for the answer holds after
    /// them.
    pub fn thought(&self) -> Option<(&'static str, &'static str)> {
        match self.family {
            Family::Harmony => Some(("<|channel|>analysis<|message|>", "<|end|>")),
            _ => Some(self.thought).filter(|_| self.thinks),
        }
    }
}

fn by_template(source: &str) -> Option<Family> {
    let has = |marker: &str| source.contains(marker);
    Some(match () {
        _ if has("<|channel|>") && has("<|message|>") => Family::Harmony,
        _ if has("<｜tool▁call▁begin｜>") && has("```json") => Family::DeepSeek,
        _ if has("<｜tool▁call▁begin｜>") => Family::DeepSeek31,
        _ if has("<|tool_call_begin|>") => Family::Kimi,
        _ if has("<start_function_call>") => Family::FunctionGemma,
        _ if has("<|tool_call>") && has("<tool_call|>") => Family::Gemma4,
        _ if has("<|START_ACTION|>") => Family::Cohere,
        _ if has("[TOOL_CALLS]") && has("[ARGS]") => Family::MistralArgs,
        _ if has("[TOOL_CALLS]") => Family::Mistral,
        _ if has("<arg_key>") => Family::Glm,
        _ if has("<function=") && has("<parameter=") => Family::Qwen3Coder,
        _ if HERMES.iter().any(|(open, _)| has(open)) => Family::Hermes,
        _ if has("<|tool_call_start|>") || has("<|python_start|>") || has("<|header_start|>") => {
            Family::Pythonic
        }
        _ if has("<|python_tag|>") || has("<|start_header_id|>") => Family::Llama,
        _ if has("<start_of_turn>") => Family::Gemma,
        _ => return None,
    })
}

fn by_tokens(has: &dyn Fn(&str) -> bool) -> Option<Family> {
    let marked = [
        ("<|channel|>", Family::Harmony),
        ("<｜tool▁call▁begin｜>", Family::DeepSeek31),
        ("<|tool_call_begin|>", Family::Kimi),
        ("<start_function_call>", Family::FunctionGemma),
        ("<|tool_call>", Family::Gemma4),
        ("<|START_ACTION|>", Family::Cohere),
        ("[ARGS]", Family::MistralArgs),
        ("[TOOL_CALLS]", Family::Mistral),
        ("<arg_key>", Family::Glm),
        ("<tool_call>", Family::Hermes),
        ("<|tool_call_start|>", Family::Pythonic),
        ("<|python_start|>", Family::Pythonic),
        ("<|python_tag|>", Family::Llama),
        ("<start_of_turn>", Family::Gemma),
    ];
    marked.into_iter().find(|(name, _)| has(name)).map(|(_, family)| family)
}
