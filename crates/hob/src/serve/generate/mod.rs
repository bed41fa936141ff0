//! What all dialects share: a request in terms of messages or text becomes a stream of what the model says.
//!
//! A dialect fills a [`Request`], calls [`start`], and writes the [`Event`]s of the [`Answer`] in its own shape; dropping
//! the answer gives the work up.

mod follow;
mod prompt;
mod stop;

use std::sync::Arc;
use std::time::Duration;

use hob_engine::Sampling;
use hob_io::chat;
use serde_json::{Map, Value};
use tokio::sync::mpsc;

pub use prompt::Ready;
pub use stop::Stops;

use super::manager::Lease;
use super::refusal::{Kind, Refusal, Result};
use super::tally::Tally;
use super::vectors;
use super::worker::{Job, MOST_TOP, Rule};

/// Events that wait for a client before its answer waits for it.
const AHEAD: usize = 256;

/// What the model is to continue.
#[derive(Clone, Debug)]
pub enum Prompt {
    /// a conversation, by the model's chat template
    Chat(Vec<chat::Message>),
    /// a text as it stands
    Text(String),
    /// tokens
    Ids(Vec<u32>),
}

/// Whether and which tools are to be called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// as the model likes
    #[default]
    Auto,
    /// none: the model is not told of any
    None,
    /// at least one
    Required,
    /// the one of that name
    Named(String),
}

/// What form the answer must have.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Format {
    /// any
    #[default]
    Text,
    /// some JSON object
    Json,
    /// JSON by this schema
    Schema(Value),
}

/// How tokens are chosen; what is `None` is as the server was started.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Knobs {
    /// see [`hob_engine::Sampling`]
    pub temperature: Option<f32>,
    /// likewise
    pub top_k: Option<usize>,
    /// likewise
    pub top_p: Option<f32>,
    /// likewise
    pub min_p: Option<f32>,
    /// likewise
    pub repeat_penalty: Option<f32>,
    /// likewise
    pub repeat_last_n: Option<usize>,
    /// the same seed gives the same answers; by chance where `None`
    pub seed: Option<u64>,
    /// taken off the logit of each token said
    pub presence: Option<f32>,
    /// the same, as often as it was said
    pub frequency: Option<f32>,
}

impl Knobs {
    /// What is said here, and of the rest what `other` says.
    pub fn or(self, other: Knobs) -> Knobs {
        Knobs {
            temperature: self.temperature.or(other.temperature),
            top_k: self.top_k.or(other.top_k),
            top_p: self.top_p.or(other.top_p),
            min_p: self.min_p.or(other.min_p),
            repeat_penalty: self.repeat_penalty.or(other.repeat_penalty),
            repeat_last_n: self.repeat_last_n.or(other.repeat_last_n),
            seed: self.seed.or(other.seed),
            presence: self.presence.or(other.presence),
            frequency: self.frequency.or(other.frequency),
        }
    }

    /// `defaults` with what is said here.
    pub fn over(&self, defaults: Sampling) -> Sampling {
        Sampling {
            temperature: self.temperature.unwrap_or(defaults.temperature),
            top_k: self.top_k.unwrap_or(defaults.top_k),
            top_p: self.top_p.unwrap_or(defaults.top_p),
            min_p: self.min_p.unwrap_or(defaults.min_p),
            repeat_penalty: self.repeat_penalty.unwrap_or(defaults.repeat_penalty),
            repeat_last_n: self.repeat_last_n.unwrap_or(defaults.repeat_last_n),
            presence_penalty: self.presence.unwrap_or(defaults.presence_penalty),
            frequency_penalty: self.frequency.unwrap_or(defaults.frequency_penalty),
            seed: self.seed.unwrap_or(defaults.seed),
        }
    }
}

/// What a client wants.
#[derive(Clone, Debug)]
pub struct Request {
    /// what the model is to continue
    pub prompt: Prompt,
    /// tools as OpenAI writes them: `{"type": "function", "function": {"name", "description", "parameters"}}`
    pub tools: Vec<Value>,
    /// whether they are to be called
    pub tool_choice: ToolChoice,
    /// whether several may be called at once
    pub parallel_calls: bool,
    /// what form the answer must have
    pub format: Format,
    /// how tokens are chosen
    pub knobs: Knobs,
    /// added to the logits of tokens
    pub bias: Vec<(u32, f32)>,
    /// strings that end the answer; they are not part of it
    pub stop: Vec<String>,
    /// tokens of each answer at most
    pub most: Option<usize>,
    /// tokens of prompt and answer at most, where the model's context holds more
    pub context: Option<usize>,
    /// number of answers
    pub n: usize,
    /// how many of the likeliest tokens are told with each, at most [`MOST_TOP`]; `None` tells no log-probability
    pub logprobs: Option<usize>,
    /// the same for the tokens of the prompt
    pub prompt_logprobs: Option<usize>,
    /// what the answer to a conversation begins with; it is not told again
    pub begin: String,
    /// further variables of the chat template (`enable_thinking` …)
    pub variables: Map<String, Value>,
}

impl Request {
    /// One answer, with all else as usual.
    pub fn new(prompt: Prompt) -> Request {
        Request {
            prompt,
            tools: Vec::new(),
            tool_choice: ToolChoice::Auto,
            parallel_calls: true,
            format: Format::Text,
            knobs: Knobs::default(),
            bias: Vec::new(),
            stop: Vec::new(),
            most: None,
            context: None,
            n: 1,
            logprobs: None,
            prompt_logprobs: None,
            begin: String::new(),
            variables: Map::new(),
        }
    }
}

/// A call of a tool.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// unique among all calls
    pub id: String,
    /// the tool
    pub name: String,
    /// its arguments, JSON as text
    pub arguments: String,
}

impl Call {
    /// The arguments as an object; a text that is none is told under a name rather than dropped.
    pub fn object(&self) -> Value {
        let object = serde_json::from_str(&self.arguments).ok().filter(Value::is_object);
        object.unwrap_or_else(|| serde_json::json!({"arguments": self.arguments}))
    }
}

/// An id for a call that has none of its own. Where a template wants another form, `Chat::prepare` makes it.
fn call_id() -> String {
    format!("call_{:016x}", crate::commands::chance())
}

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Delta {
    /// of what it says
    Text(String),
    /// of what it thinks before that
    Thought(String),
    /// a whole call of a tool
    Call(Call),
}

/// A token and how likely the model held it.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// its bytes as text; a part of a character is U+FFFD
    pub text: String,
    /// its bytes
    pub bytes: Vec<u8>,
    /// the logarithm of its probability; NaN of the first of a prompt, which follows nothing
    pub logprob: f32,
}

/// A token of the text, with those that were likely in its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprob {
    /// the one chosen
    pub token: Token,
    /// the likeliest, in order
    pub top: Vec<Token>,
    /// characters of text that it completed; a control token has none
    pub chars: usize,
}

/// Why an answer ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Finish {
    /// the model ended it
    Stop,
    /// this stop string came
    Matched(String),
    /// it has as many tokens as were asked for, or the context is full
    Length,
    /// it ends with calls of tools
    Calls,
}

/// What a request took, in tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// of the prompt
    pub prompt: usize,
    /// those of them that were not read again
    pub cached: usize,
    /// of all answers
    pub generated: usize,
    /// those of them that were thoughts
    pub thought: usize,
}

/// How long a request took; of several answers, the longest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// waiting for its turn
    pub queued: Duration,
    /// reading the prompt
    pub prefill: Duration,
    /// making the answer
    pub decode: Duration,
}

/// What comes of a request: `Started`, then pieces with an `End` for each answer, then `Done`; or `Failed`, anywhere.
#[derive(Clone, Debug)]
pub enum Event {
    /// The prompt is read; the answers' tokens are not counted yet.
    Started(Usage),
    /// How likely the prompt of an answer was, where asked for, before anything of the answer.
    Prompt {
        /// which answer
        choice: usize,
        /// all of the prompt's tokens
        tokens: Scores,
    },
    /// More of an answer.
    Piece {
        /// which, from 0
        choice: usize,
        /// what it says
        delta: Delta,
        /// the tokens of a text, where asked for
        logprobs: Vec<Logprob>,
    },
    /// An answer is whole.
    End {
        /// which
        choice: usize,
        /// why it ended
        finish: Finish,
    },
    /// All answers are whole.
    Done {
        /// tokens
        usage: Usage,
        /// times
        timings: Timings,
    },
    /// There is no more.
    Failed(Refusal),
}

/// How likely each token of a prompt was, which several answers may share.
pub type Scores = Arc<[Logprob]>;

/// What comes of a request. Dropping it gives the request up.
pub struct Answer {
    /// as they come; the dialect may make a stream of it
    pub events: mpsc::Receiver<Event>,
}

/// One whole answer.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// what it says
    pub text: String,
    /// what it thought
    pub thought: String,
    /// the tools it calls
    pub calls: Vec<Call>,
    /// the prompt's tokens, where asked for
    pub prompt: Option<Scores>,
    /// the text's tokens, where asked for
    pub logprobs: Vec<Logprob>,
    /// why it ended
    pub finish: Option<Finish>,
}

/// All that came of a request.
#[derive(Clone, Debug, Default)]
pub struct Whole {
    /// the answers
    pub choices: Vec<Choice>,
    /// tokens
    pub usage: Usage,
    /// times
    pub timings: Timings,
}

impl Choice {
    /// Adds a piece.
    pub fn add(&mut self, delta: Delta, logprobs: Vec<Logprob>) {
        match delta {
            Delta::Text(text) => self.text += &text,
            Delta::Thought(text) => self.thought += &text,
            Delta::Call(call) => self.calls.push(call),
        }
        self.logprobs.extend(logprobs);
    }
}

impl Answer {
    /// Waits for all of it.
    pub async fn whole(mut self) -> Result<Whole> {
        let mut whole = Whole::default();
        while let Some(event) = self.events.recv().await {
            let at = match &event {
                Event::Prompt { choice, .. } | Event::Piece { choice, .. } | Event::End { choice, .. } => {
                    *choice
                }
                _ => 0,
            };
            if whole.choices.len() <= at {
                whole.choices.resize_with(at + 1, Choice::default);
            }
            match event {
                Event::Started(usage) => whole.usage = usage,
                Event::Prompt { tokens, .. } => whole.choices[at].prompt = Some(tokens),
                Event::Piece { delta, logprobs, .. } => whole.choices[at].add(delta, logprobs),
                Event::End { finish, .. } => whole.choices[at].finish = Some(finish),
                Event::Done { usage, timings } => return Ok(Whole { usage, timings, ..whole }),
                Event::Failed(refusal) => return Err(refusal),
            }
        }
        Err(Refusal::failed("the answer broke off"))
    }
}

/// The prompt in the model's tokens, and what goes with it, without answering it. What a preset adds must be in the request
/// ([`Lease::complete`]).
///
/// # Errors
/// The template refuses the messages, the prompt is empty or does not fit the context, or the form asked for is none.
pub async fn encode(lease: &Lease, request: &Request) -> Result<Ready> {
    let (lease, request) = (lease.clone(), request.clone());
    // A template, a long text and a grammar take their time.
    apart(move || prompt::ready(&lease, &request)).await
}

/// The tokens of a prompt of any length.
///
/// # Errors
/// The template refuses the messages.
pub async fn ids(lease: &Lease, request: &Request) -> Result<Vec<u32>> {
    let (lease, request) = (lease.clone(), lease.complete(request.clone()));
    apart(move || prompt::ids(&lease, &request).map(|(ids, _)| ids)).await
}

async fn apart<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let work = tokio::task::spawn_blocking(work);
    work.await.unwrap_or_else(|_| {
        Err(Refusal::failed("reading the prompt failed by a bug in Hob; please report it"))
    })
}

/// Begins to answer. The model stays loaded until the answer is whole or dropped.
///
/// # Errors
/// What is wrong with the request, or that the queue is full.
pub async fn start(
    lease: &Lease,
    request: Request,
    defaults: Sampling,
    tally: &Arc<Tally>,
) -> Result<Answer> {
    start_all(lease, vec![request], defaults, tally).await
}

/// The same for several requests in one; their answers are numbered through.
pub async fn start_all(
    lease: &Lease,
    requests: Vec<Request>,
    defaults: Sampling,
    tally: &Arc<Tally>,
) -> Result<Answer> {
    vectors::must_answer(lease)?;
    let requests: Vec<Request> = requests.into_iter().map(|request| lease.complete(request)).collect();
    let mut jobs = Vec::new();
    for (part, request) in requests.iter().enumerate() {
        let ready = encode(lease, request).await?;
        let scoring = request.prompt_logprobs.map(|_| follow::Scoring::new(ready.ids[0]));
        let (mut scoring, others) = scoring.unzip();
        for i in 0..request.n {
            let mut job = job(lease, request, &ready, sampling(&request.knobs, defaults, i))?;
            // One prompt is scored once, however many answers it has.
            job.prompt_logprobs = request.prompt_logprobs.filter(|_| i == 0);
            let scoring = scoring.take().or_else(|| others.clone());
            jobs.push((part, job, ready.spoken.clone(), scoring));
        }
    }
    let (tell, events) = mpsc::channel(AHEAD);
    let together = follow::Together::new(jobs.len(), tally.clone());
    for (choice, (part, job, spoken, scoring)) in jobs.into_iter().enumerate() {
        // The jobs before it are given up with their receivers.
        let worker = lease.worker().ok_or_else(|| Refusal::failed("the model does not answer"))?;
        let job = worker.submit(job).map_err(|busy| {
            let message = "the queue is full; try again in a moment (hob serve --queue makes it longer)";
            Refusal { retry: Some(busy.retry.as_secs().clamp(1, 60)), ..Refusal::new(Kind::Busy, message) }
        })?;
        let place = follow::Place { part, choice };
        let text = follow::How::new(&requests[part], spoken, scoring);
        tokio::spawn(follow::follow(place, lease.clone(), job, text, tell.clone(), together.clone()));
    }
    Ok(Answer { events })
}

fn job(lease: &Lease, request: &Request, ready: &Ready, sampling: Sampling) -> Result<Job> {
    let vocab = lease.opened.model.vocab_size();
    if let Some(&(id, _)) = request.bias.iter().find(|b| b.0 as usize >= vocab) {
        let message = format!("`logit_bias` names the token {id}, and the model has {vocab}");
        return Err(Refusal::field("logit_bias", message));
    }
    Ok(Job {
        ids: ready.ids.clone(),
        most: match request.context.filter(|bound| *bound < lease.context) {
            // As the engine counts: the last token of a full context is said, and not read.
            Some(bound) => {
                Some(request.most.unwrap_or(usize::MAX).min(bound + 1 - ready.ids.len().min(bound)))
            }
            None => request.most,
        },
        sampling,
        bias: request.bias.clone(),
        logprobs: request.logprobs.map(|n| n.min(MOST_TOP)),
        prompt_logprobs: None,
        rule: ready.grammar.clone().map(|g| Box::new(prompt::Kept(g)) as Box<dyn Rule>),
        ends: ready.ends.clone(),
    })
}

fn sampling(knobs: &Knobs, defaults: Sampling, choice: usize) -> Sampling {
    let given = Some(defaults.seed).filter(|seed| *seed != 0); // none: by chance each time
    let seed = knobs.seed.or(given).unwrap_or_else(crate::commands::chance);
    Sampling { seed: seed.wrapping_add(choice as u64), ..knobs.over(defaults) }
}
