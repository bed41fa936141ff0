//! What a model is given: the prompt in its tokens, how it will write calls and thoughts, and what its answer keeps to.

use hob_grammar::{Form, Grammar, Thought};
use hob_io::chat::{self, Choice, Dialect, Reader, Tool};
use serde_json::Value;

use super::{Format, Prompt, Request, ToolChoice};
use crate::serve::manager::Lease;
use crate::serve::refusal::{Kind, Refusal, Result};
use crate::serve::worker::Rule;
use crate::terminal;

/// A request in the model's own terms.
pub struct Ready {
    /// the prompt
    pub ids: Vec<u32>,
    /// how the answer is to be read; a text that is continued is read as it stands
    pub spoken: Option<Spoken>,
    /// what the answer keeps to; each answer takes a clone
    pub grammar: Option<Grammar>,
    /// tokens that end the answer
    pub ends: Vec<u32>,
}

/// How an answer in a chat is written.
#[derive(Clone)]
pub struct Spoken {
    /// the model's way, or that of the tools that were put before it
    pub dialect: Dialect,
    /// the tools offered
    pub tools: Vec<Tool>,
    /// the end of the prompt, which may begin a thought
    pub prompt_end: String,
}

impl Spoken {
    /// A reader of one answer.
    pub fn reader(&self) -> Reader {
        Reader::new(&self.dialect, &self.tools, &self.prompt_end)
    }
}

/// So much of the prompt's end tells whether a thought is open.
const END: usize = 512;

/// Makes a request ready. It may take a while: templates, long texts, grammars.
///
/// # Errors
/// The template refuses the messages, the prompt is empty or does not fit, or the form asked for is none.
pub fn ready(lease: &Lease, request: &Request) -> Result<Ready> {
    let (ids, spoken) = ids(lease, request)?;
    match ids.len() {
        0 => return Err(hob_engine::Error::Empty.into()),
        tokens if request.context.is_some_and(|bound| tokens > bound && bound < lease.context) => {
            let bound = request.context.unwrap_or_default();
            let message = format!(
                "the text has {tokens} tokens, {} more than the {bound} of context that are asked for; shorten it, or ask \
                 for a longer context (num_ctx, or a preset's ctx)",
                tokens - bound
            );
            return Err(Refusal::new(Kind::TooLong, message));
        }
        tokens if tokens > lease.context => {
            return Err(hob_engine::Error::Context { tokens, context: lease.context }.into());
        }
        _ => {}
    }
    let tokenizer = &lease.opened.words.tokenizer;
    let ends = match &spoken {
        Some(spoken) => spoken.dialect.end_ids(tokenizer),
        None => tokenizer.eos_ids().to_vec(),
    };
    let grammar = grammar(lease, request, spoken.as_ref())?;
    Ok(Ready { ids, spoken, grammar, ends })
}

/// The tokens of a prompt of any length, and how what follows is written.
///
/// # Errors
/// The template refuses the messages, or there is no such token.
pub fn ids(lease: &Lease, request: &Request) -> Result<(Vec<u32>, Option<Spoken>)> {
    let tokenizer = &lease.opened.words.tokenizer;
    let (ids, spoken) = match &request.prompt {
        Prompt::Chat(messages) => {
            let (mut ids, mut spoken) = chat(lease, request, messages)?;
            ids.extend(tokenizer.encode(&request.begin, false));
            spoken.prompt_end.push_str(&request.begin);
            (ids, Some(spoken))
        }
        Prompt::Text(text) => (tokenizer.encode_with_bos(text, true), None),
        Prompt::Ids(ids) => (ids.clone(), None),
    };
    let vocab = lease.opened.model.vocab_size();
    match ids.iter().find(|id| **id as usize >= vocab) {
        Some(&id) => Err(hob_engine::Error::Token { id, vocab }.into()),
        None => Ok((ids, spoken)),
    }
}

fn chat(lease: &Lease, request: &Request, messages: &[chat::Message]) -> Result<(Vec<u32>, Spoken)> {
    let wrong = |why: String| Refusal::field("messages", why);
    let tokenizer = &lease.opened.words.tokenizer;
    let messages: Vec<Value> = messages.iter().filter_map(|m| serde_json::to_value(m).ok()).collect();
    let tools = Value::Array(request.tools.clone());
    let offered = (!request.tools.is_empty() && request.tool_choice != ToolChoice::None).then_some(&tools);
    let own = lease.own_chat();
    let (chat, dialect) = own.as_ref().map_or((&lease.opened.chat, &lease.dialect), |(c, d)| (c, d));
    let prepared = chat.prepare(dialect, &messages, offered);
    let prepared = prepared.map_err(|e| wrong(e.to_string()))?;
    let options = chat::Options {
        add_generation_prompt: true,
        tools: prepared.tools,
        extra: request.variables.clone(),
        ..Default::default()
    };
    let encoded = chat.encode(tokenizer, &prepared.messages, &options);
    let (ids, rendered) = encoded.map_err(|refused| wrong(refused.to_string()))?;
    for note in prepared.note.iter().chain(&rendered.note) {
        let note = unquoted(note);
        lease.once(&note, || terminal::note(&note));
    }
    let from = rendered.text.len().saturating_sub(END);
    let prompt_end = (from..).find_map(|i| rendered.text.get(i..)).unwrap_or_default().to_string();
    let tools = offered.map(Tool::list).unwrap_or_default();
    Ok((ids, Spoken { dialect: prepared.dialect, tools, prompt_end }))
}

/// A note without the reason why a template fails: that may quote what it was given, which is for no log.
fn unquoted(note: &str) -> String {
    match (note.find(" fails ("), note.rfind("), ")) {
        (Some(from), Some(to)) if from < to => format!("{} fails{}", &note[..from], &note[to + 1..]),
        _ => note.into(),
    }
}

/// What the answer must keep to: the form asked for, or calls of the tools that must be called.
fn grammar(lease: &Lease, request: &Request, spoken: Option<&Spoken>) -> Result<Option<Grammar>> {
    let calls = |spoken: &Spoken, choice: &Choice| {
        let grammar = spoken.dialect.call_grammar(&spoken.tools, choice, request.parallel_calls);
        let none = || {
            Refusal::field("tool_choice", "`tool_choice` asks for a call of a tool that is not in `tools`")
        };
        grammar.map(Form::Lark).ok_or_else(none).map(|form| (form, "tools"))
    };
    let (form, field) = match (spoken, &request.tool_choice, &request.format) {
        (Some(spoken), ToolChoice::Required, _) => calls(spoken, &Choice::Required)?,
        (Some(spoken), ToolChoice::Named(name), _) => calls(spoken, &Choice::Named(name.clone()))?,
        (_, _, Format::Text) => return Ok(None),
        (_, _, Format::Json) => (Form::JsonObject, "response_format"),
        (_, _, Format::Schema(schema)) => (Form::JsonSchema(schema.clone()), "response_format"),
    };
    let wrong = |e: hob_grammar::Error| Refusal::field(field, e.to_string());
    let mut grammar = Grammar::new(lease.vocabulary().map_err(wrong)?, &form).map_err(wrong)?;
    if let Some(spoken) = spoken
        && let Some((begin, end)) = spoken.dialect.thought()
    {
        let open = spoken.reader().in_thought();
        grammar = grammar.after(&Thought { begin: begin.into(), end: end.into(), open }).map_err(wrong)?;
    }
    Ok(Some(grammar))
}

/// Where one text must come, no more tokens than this begin it.
const FEW: usize = 64;

/// A grammar as the engine asks it.
pub struct Kept(pub Grammar);

impl Rule for Kept {
    fn restrict(&mut self, logits: &mut [f32]) -> Result<(), String> {
        self.0.mask().map(|mask| mask.apply(logits)).map_err(|e| e.to_string())
    }

    fn accept(&mut self, id: u32) -> Result<(), String> {
        self.0.accept(id).map_err(|e| e.to_string())
    }

    fn forced(&mut self) -> Vec<u32> {
        // To look for what must come takes longer than to see that much may; the mask is needed in any case then.
        match self.0.mask() {
            Ok(mask) if mask.count() <= FEW => self.0.forced().to_vec(),
            _ => Vec::new(),
        }
    }

    fn ended(&mut self) -> bool {
        self.0.ended()
    }
}
