//! One answer as it comes: tokens to text, text to what is said, thought and called, up to a stop string.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hob_engine::Stop;
use hob_io::Tokenizer;
use tokio::sync::mpsc::{Sender, UnboundedReceiver};

use super::stop::Stops;
use super::{Delta, Event, Finish, Logprob, Request, Timings, Token, Usage};
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
    request: Request,
    out: Sender<Event>,
    together: Arc<Together>,
) {
    let mut text = Text::new(choice, &lease, &request);
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
            }
            Some(worker::Event::Token { id, logprob, top }) => {
                together.tally.token();
                generated += 1;
                let finish = text.push(id, logprob, top, &mut send);
                together.with(|sum| {
                    sum.usage.generated += 1;
                    sum.usage.thought += usize::from(text.thinking);
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
            Some(worker::Event::Done { stop, timings }) => {
                together.tally.answer(generated, timings.decode);
                let finish = text.finish(stop, &mut send);
                let worker::Timings { queued, prefill, decode } = timings;
                end(choice, finish, Timings { queued, prefill, decode }, &out, &together, send).await;
                return;
            }
            Some(worker::Event::Failed(e)) => send.push(Event::Failed(e.into())),
            None => send.push(Event::Failed(Refusal::failed("the answer broke off"))),
        }
        for event in send {
            let over = matches!(event, Event::Failed(_));
            if out.send(event).await.is_err() || over {
                return;
            }
        }
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

/// The text of one answer.
struct Text<'a> {
    choice: usize,
    tokenizer: &'a Tokenizer,
    decoder: Option<hob_io::tokenizer::Decoder<'a>>,
    stops: Stops,
    /// whether the text so far ends within a thought
    thinking: bool,
    called: bool,
    /// tokens whose text was not sent yet, with the bytes of it that they brought
    waiting: Option<VecDeque<(usize, Logprob)>>,
    /// bytes sent of the first that waits
    sent: usize,
}

impl<'a> Text<'a> {
    fn new(choice: usize, lease: &'a Lease, request: &Request) -> Text<'a> {
        let tokenizer = &lease.opened.words.tokenizer;
        Text {
            choice,
            tokenizer,
            decoder: Some(tokenizer.decoder()),
            stops: Stops::new(&request.stop),
            thinking: false,
            called: false,
            waiting: request.logprobs.map(|_| VecDeque::new()),
            sent: 0,
        }
    }

    /// Takes a token; gives why the answer ends with it, if it does.
    fn push(&mut self, id: u32, logprob: f32, top: Vec<(u32, f32)>, send: &mut Vec<Event>) -> Option<Finish> {
        let piece = self.decoder.as_mut().map(|d| d.push(id)).unwrap_or_default();
        if let Some(waiting) = &mut self.waiting {
            let token = |id: u32, logprob: f32| {
                let bytes = self.tokenizer.token_bytes(id).unwrap_or_default().to_vec();
                Token { text: String::from_utf8_lossy(&bytes).into_owned(), bytes, logprob }
            };
            let top = top.into_iter().map(|(id, logprob)| token(id, logprob)).collect();
            waiting.push_back((piece.len(), Logprob { token: token(id, logprob), top }));
        }
        self.read(&piece, send)
    }

    /// The place of `hob_io::chat`'s reader, which tells text, thoughts and calls apart: all is text for now.
    fn read(&mut self, piece: &str, send: &mut Vec<Event>) -> Option<Finish> {
        self.deliver(Delta::Text(piece.into()), send)
    }

    /// Sends a piece, of text only what holds no stop string.
    fn deliver(&mut self, delta: Delta, send: &mut Vec<Event>) -> Option<Finish> {
        self.thinking = matches!(delta, Delta::Thought(_));
        match delta {
            Delta::Text(text) => {
                let (text, stop) = self.stops.push(&text);
                self.say(text, send);
                stop.map(Finish::Matched)
            }
            delta => {
                self.called |= matches!(delta, Delta::Call(_));
                // Log-probabilities are told of text alone.
                self.waiting.iter_mut().for_each(VecDeque::clear);
                self.sent = 0;
                send.push(Event::Piece { choice: self.choice, delta, logprobs: Vec::new() });
                None
            }
        }
    }

    fn say(&mut self, text: String, send: &mut Vec<Event>) {
        if text.is_empty() {
            return;
        }
        let mut logprobs = Vec::new();
        if let Some(waiting) = &mut self.waiting {
            self.sent += text.len();
            while waiting.front().is_some_and(|(bytes, _)| *bytes <= self.sent) {
                let Some((bytes, logprob)) = waiting.pop_front() else { break };
                self.sent -= bytes;
                logprobs.push(logprob);
            }
        }
        send.push(Event::Piece { choice: self.choice, delta: Delta::Text(text), logprobs });
    }

    /// Sends what is left at the end; gives why the answer ended.
    fn finish(&mut self, stop: Stop, send: &mut Vec<Event>) -> Finish {
        let rest = self.decoder.take().map(|d| d.finish()).unwrap_or_default();
        let matched = self.read(&rest, send);
        if matched.is_none() {
            let held = self.stops.finish();
            self.say(held, send);
        }
        match (matched, stop) {
            (Some(matched), _) => matched,
            (None, _) if self.called => Finish::Calls,
            (None, Stop::End) => Finish::Stop,
            (None, Stop::Length | Stop::Context) => Finish::Length,
        }
    }
}
