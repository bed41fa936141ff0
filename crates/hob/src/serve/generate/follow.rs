//! One answer as it comes: tokens to text, text to what is said, thought and called, up to a stop string.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hob_engine::Stop;
use hob_io::Tokenizer;
use hob_io::chat::{Piece, Reader};
use tokio::sync::mpsc::{Sender, UnboundedReceiver};
use tokio::sync::watch;

use super::prompt::Spoken;
use super::stop::Stops;
use super::{Delta, Event, Finish, Logprob, Request, Scores, Timings, Token, Usage};
use crate::serve::manager::Lease;
use crate::serve::refusal::Refusal;
use crate::serve::tally::Tally;
use crate::serve::worker;

/// What the answers to one request share.
pub struct Together {
    tally: Arc<Tally>,
    sum: Mutex<Sum>,
}

struct Sum {
    usage: Usage,
    timings: Timings,
    /// the parts whose prompts are counted
    read: HashSet<usize>,
    left: usize,
}

/// Which answer it is: of which part of a request, and its number among all.
#[derive(Clone, Copy)]
pub struct Place {
    /// the part
    pub part: usize,
    /// the number
    pub choice: usize,
}

impl Together {
    /// Of `n` answers.
    pub fn new(n: usize, tally: Arc<Tally>) -> Arc<Together> {
        let sum = Sum { usage: Usage::default(), timings: Timings::default(), read: HashSet::new(), left: n };
        Arc::new(Together { tally, sum: Mutex::new(sum) })
    }

    fn with<T>(&self, f: impl FnOnce(&mut Sum) -> T) -> T {
        f(&mut self.sum.lock().unwrap_or_else(|e| e.into_inner()))
    }
}

/// Turns what the worker tells into events, until the answer is whole or nobody listens.
pub async fn follow(
    Place { part, choice }: Place,
    lease: Lease,
    mut job: UnboundedReceiver<worker::Event>,
    mut how: How,
    out: Sender<Event>,
    together: Arc<Together>,
) {
    let mut scoring = how.scoring.take();
    let mut scored = Vec::new();
    let mut text = Text::new(choice, &lease, &how);
    let mut said =
        together.tally.logs().then(|| Said { tally: together.tally.clone(), choice, words: String::new() });
    let mut generated = 0;
    let start = Instant::now();
    let mut read = start;
    loop {
        // Whoever leaves while the prompt is read frees its place as well.
        let event = tokio::select! {
            event = job.recv() => event,
            () = out.closed() => return,
        };
        let mut send = Vec::new();
        match event {
            Some(worker::Event::Scored(tokens)) => scored.extend(tokens),
            Some(worker::Event::Prompt { tokens, cached }) => {
                read = Instant::now();
                // A prompt counts once, however many answers it has.
                let started = together.with(|sum| {
                    let first = sum.read.is_empty();
                    let fresh = sum.read.insert(part);
                    if fresh {
                        together.tally.prompt(tokens, cached);
                        sum.usage.prompt += tokens;
                        sum.usage.cached += cached;
                    }
                    first.then_some(sum.usage)
                });
                send.extend(started.map(Event::Started));
                if let Some(scoring) = scoring.take() {
                    let scored = std::mem::take(&mut scored);
                    let tokens = tokio::select! {
                        tokens = scoring.done(text.tokenizer, scored) => tokens,
                        () = out.closed() => return,
                    };
                    let Some(tokens) = tokens else { return }; // the one that scores has said why
                    send.push(Event::Prompt { choice, tokens });
                }
            }
            Some(worker::Event::Token(token)) => {
                together.tally.token();
                generated += 1;
                let finish = text.push(token, &mut send);
                said.iter_mut().for_each(|said| said.hear(&send));
                together.with(|sum| {
                    sum.usage.generated += 1;
                    sum.usage.thought += usize::from(text.thinking());
                });
                if let Some(finish) = finish {
                    drop(job); // the rest is not wanted
                    let decode = read.elapsed();
                    together.tally.answer(generated, decode);
                    let timings = Timings { queued: Duration::ZERO, prefill: read - start, decode };
                    end(choice, finish, timings, &out, &together, send).await;
                    return;
                }
            }
            Some(worker::Event::Last(token)) => text.last(token),
            Some(worker::Event::Done { stop, timings }) => {
                together.tally.answer(generated, timings.decode);
                let finish = text.finish(stop, &mut send);
                said.iter_mut().for_each(|said| said.hear(&send));
                let worker::Timings { queued, prefill, decode } = timings;
                end(choice, finish, Timings { queued, prefill, decode }, &out, &together, send).await;
                return;
            }
            Some(worker::Event::Failed(e)) => send.push(Event::Failed(e.into())),
            None => {
                let broken = lease.worker().is_some_and(worker::Worker::broken);
                let why = if broken { worker::BROKEN } else { "the answer broke off" };
                send.push(Event::Failed(Refusal::failed(why)));
            }
        }
        for event in send {
            let over = matches!(event, Event::Failed(_));
            if out.send(event).await.is_err() || over {
                return;
            }
        }
    }
}

/// The words of an answer for the log, which gets them when it ends, however it does.
struct Said {
    tally: Arc<Tally>,
    choice: usize,
    words: String,
}

impl Said {
    fn hear(&mut self, events: &[Event]) {
        for event in events {
            match event {
                Event::Piece { delta: Delta::Text(text) | Delta::Thought(text), .. } => self.words += text,
                Event::Piece { delta: Delta::Call(call), .. } => {
                    self.words += &format!(" {}({})", call.name, call.arguments);
                }
                _ => {}
            }
        }
    }
}

impl Drop for Said {
    fn drop(&mut self) {
        self.tally.words(&format!("answered [{}]", self.choice), &self.words);
    }
}

/// Ends an answer, and the whole with the last of them.
async fn end(
    choice: usize,
    finish: Finish,
    timings: Timings,
    out: &Sender<Event>,
    together: &Together,
    mut send: Vec<Event>,
) {
    send.push(Event::End { choice, finish });
    let last = together.with(|sum| {
        let t = &mut sum.timings;
        t.queued = t.queued.max(timings.queued);
        t.prefill = t.prefill.max(timings.prefill);
        t.decode = t.decode.max(timings.decode);
        sum.left -= 1;
        (sum.left == 0).then_some(Event::Done { usage: sum.usage, timings: sum.timings })
    });
    for event in send.into_iter().chain(last) {
        if out.send(event).await.is_err() {
            return;
        }
    }
}

/// Who scores the prompt that several answers have in common.
pub enum Scoring {
    /// this answer, of a prompt that begins with that token; it tells the others
    Own(u32, watch::Sender<Option<Scores>>),
    /// another
    Of(watch::Receiver<Option<Scores>>),
}

impl Clone for Scoring {
    /// Another answer that hears of the same scores.
    fn clone(&self) -> Scoring {
        Scoring::Of(match self {
            Scoring::Own(_, tell) => tell.subscribe(),
            Scoring::Of(told) => told.clone(),
        })
    }
}

impl Scoring {
    /// For the first answer to a prompt that begins with `first`, and for those after it.
    pub fn new(first: u32) -> (Scoring, Scoring) {
        let own = Scoring::Own(first, watch::Sender::new(None));
        let others = own.clone();
        (own, others)
    }

    /// The prompt's tokens by what the worker told of those after the first; `None` where who scores them gave up.
    async fn done(self, tokenizer: &Tokenizer, scored: Vec<hob_engine::Token>) -> Option<Scores> {
        let (first, tell) = match self {
            Scoring::Of(mut told) => return told.wait_for(Option::is_some).await.ok()?.clone(),
            Scoring::Own(first, tell) => (first, tell),
        };
        let mut decoder = tokenizer.decoder();
        let first = hob_engine::Token { id: first, logprob: f32::NAN, top: Vec::new() };
        let tokens = std::iter::once(first).chain(scored);
        let tokens: Scores = tokens
            .map(|token| {
                let chars = decoder.push(token.id).chars().count();
                told(tokenizer, &token, chars)
            })
            .collect();
        tell.send_replace(Some(tokens.clone()));
        Some(tokens)
    }
}

/// What is told of a token that completed so many characters.
fn told(tokenizer: &Tokenizer, token: &hob_engine::Token, chars: usize) -> Logprob {
    let one = |id: u32, logprob: f32| {
        let bytes = tokenizer.token_bytes(id).unwrap_or_default().to_vec();
        Token { text: String::from_utf8_lossy(&bytes).into_owned(), bytes, logprob }
    };
    let top = token.top.iter().map(|&(id, logprob)| one(id, logprob)).collect();
    Logprob { token: one(token.id, token.logprob), top, chars }
}

/// How an answer is made text of.
pub struct How {
    scoring: Option<Scoring>,
    stop: Vec<String>,
    logprobs: bool,
    parallel_calls: bool,
    spoken: Option<Spoken>,
}

impl How {
    /// As `request` asks, of an answer that is `spoken` so.
    pub fn new(request: &Request, spoken: Option<Spoken>, scoring: Option<Scoring>) -> How {
        let Request { stop, logprobs, parallel_calls, .. } = request;
        let (stop, logprobs) = (stop.clone(), logprobs.is_some());
        How { scoring, stop, logprobs, parallel_calls: *parallel_calls, spoken }
    }
}

/// The text of one answer.
struct Text<'a> {
    choice: usize,
    how: &'a How,
    tokenizer: &'a Tokenizer,
    decoder: Option<hob_io::tokenizer::Decoder<'a>>,
    /// tells text, thoughts and calls apart
    reader: Option<Reader>,
    stops: Stops,
    called: bool,
    /// tokens whose text was not sent yet, with the bytes of it that they brought
    waiting: Option<VecDeque<(usize, Logprob)>>,
    /// bytes sent of the first that waits
    sent: usize,
}

impl<'a> Text<'a> {
    fn new(choice: usize, lease: &'a Lease, how: &'a How) -> Text<'a> {
        let tokenizer = &*lease.opened.words.tokenizer;
        let spelled = how.spoken.as_ref().map(|s| s.dialect.spelled_ids()).unwrap_or_default();
        Text {
            choice,
            how,
            tokenizer,
            decoder: Some(tokenizer.decoder_with(&spelled)),
            reader: how.spoken.as_ref().map(Spoken::reader),
            stops: Stops::new(&how.stop),
            called: false,
            waiting: how.logprobs.then(VecDeque::new),
            sent: 0,
        }
    }

    /// Whether what comes is a thought.
    fn thinking(&self) -> bool {
        self.reader.as_ref().is_some_and(Reader::in_thought)
    }

    /// Takes a token; gives why the answer ends with it, if it does.
    fn push(&mut self, token: hob_engine::Token, send: &mut Vec<Event>) -> Option<Finish> {
        let piece = self.decoder.as_mut().map(|d| d.push(token.id)).unwrap_or_default();
        if let Some(waiting) = &mut self.waiting {
            waiting.push_back((piece.len(), told(self.tokenizer, &token, piece.chars().count())));
        }
        self.read(&piece, send)
    }

    /// Takes the token that ends the answer. A text that is continued is told of it, as tools that judge models by their
    /// answers' tokens count on one; a conversation's end is none of its words.
    fn last(&mut self, token: hob_engine::Token) {
        if let (Some(waiting), None) = (&mut self.waiting, &self.reader) {
            waiting.push_back((0, told(self.tokenizer, &token, 0)));
        }
    }

    fn read(&mut self, piece: &str, send: &mut Vec<Event>) -> Option<Finish> {
        let pieces = match &mut self.reader {
            Some(reader) => reader.push(piece),
            None => vec![Piece::Text(piece.into())],
        };
        self.deliver(pieces, send)
    }

    /// Sends pieces, of text only what holds no stop string.
    fn deliver(&mut self, pieces: Vec<Piece>, send: &mut Vec<Event>) -> Option<Finish> {
        for piece in pieces {
            let delta = match piece {
                Piece::Text(text) => {
                    let (text, stop) = self.stops.push(&text);
                    self.say(text, send);
                    if let Some(stop) = stop {
                        return Some(Finish::Matched(stop));
                    }
                    continue;
                }
                other => {
                    // What stands before it is whole; log-probabilities are told of text alone.
                    let held = self.stops.finish();
                    self.say(held, send);
                    self.pass(other.written().len());
                    match other {
                        Piece::Thought(text) => Delta::Thought(text),
                        Piece::Call(call) => {
                            if self.called && !self.how.parallel_calls {
                                return Some(Finish::Calls);
                            }
                            self.called = true;
                            let id = call.id.unwrap_or_else(super::call_id);
                            Delta::Call(super::Call { id, name: call.name, arguments: call.arguments })
                        }
                        Piece::Mark(_) | Piece::Text(_) => continue,
                    }
                }
            };
            send.push(Event::Piece { choice: self.choice, delta, logprobs: Vec::new() });
        }
        None
    }

    /// The tokens of so many bytes of text, which are passed.
    fn pass(&mut self, bytes: usize) -> Vec<Logprob> {
        let mut passed = Vec::new();
        if let Some(waiting) = &mut self.waiting {
            self.sent += bytes;
            while waiting.front().is_some_and(|(bytes, _)| *bytes <= self.sent) {
                let Some((bytes, logprob)) = waiting.pop_front() else { break };
                self.sent -= bytes;
                passed.push(logprob);
            }
        }
        passed
    }

    fn say(&mut self, text: String, send: &mut Vec<Event>) {
        if !text.is_empty() {
            let logprobs = self.pass(text.len());
            send.push(Event::Piece { choice: self.choice, delta: Delta::Text(text), logprobs });
        }
    }

    /// Sends what is left at the end; gives why the answer ended.
    fn finish(&mut self, stop: Stop, send: &mut Vec<Event>) -> Finish {
        let plain = self.reader.is_none();
        let rest = self.decoder.take().map(|d| d.finish()).unwrap_or_default();
        let mut matched = self.read(&rest, send);
        if let (None, Some(reader)) = (&matched, self.reader.take()) {
            matched = self.deliver(reader.finish(), send);
        }
        if matched.is_none() {
            let held = self.stops.finish();
            self.say(held, send);
            // Tokens without a text, at the end of one.
            let logprobs = if plain { self.pass(0) } else { Vec::new() };
            if !logprobs.is_empty() {
                send.push(Event::Piece { choice: self.choice, delta: Delta::Text(String::new()), logprobs });
            }
        }
        match (matched, stop) {
            (Some(matched), _) => matched,
            (None, _) if self.called => Finish::Calls,
            (None, Stop::End) => Finish::Stop,
            (None, Stop::Length | Stop::Context) => Finish::Length,
        }
    }
}
