//! Answers while they are made. They belong to the conversation, not to the request that asked: a page that is left or
//! loaded again finds them going on, and the store has what was said so far.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::watch;

use super::store::{Finish, Settings, State, Stats, ToolCall};
use super::stored;
use crate::serve::App;
use crate::serve::generate::{self, Delta, Event, Knobs, Prompt, Request};
use crate::serve::manager::Stay;
use crate::serve::refusal::{Refusal, Result};
use crate::serve::tally::Tally;

/// How often an answer that grows is kept.
const KEEP: Duration = Duration::from_secs(1);

/// What an answer is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Doing {
    /// the model is being loaded
    #[default]
    Loading,
    /// others are answered, or the prompt is read
    Reading,
    /// the model thinks
    Thinking,
    /// the model answers
    Writing,
}

/// An answer as far as it is.
#[derive(Clone, Debug, Default)]
pub struct SoFar {
    /// what it says
    pub text: String,
    /// what was thought before
    pub thought: String,
    /// the tools that it calls
    pub tools: Vec<ToolCall>,
    /// what it is at
    pub doing: Doing,
    /// what it took
    pub stats: Stats,
}

/// An answer that is being made.
pub struct Running {
    conversation: i64,
    so_far: Mutex<SoFar>,
    /// counts changes; closed when it is over and kept
    changed: watch::Sender<u64>,
    stop: watch::Sender<bool>,
}

impl Running {
    /// What there is now.
    pub fn so_far(&self) -> SoFar {
        self.lock().clone()
    }

    /// Tells of changes, until the answer is over.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, SoFar> {
        self.so_far.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn change(&self, f: impl FnOnce(&mut SoFar)) {
        f(&mut self.lock());
        self.changed.send_modify(|n| *n += 1);
    }
}

/// All that are being made, by the numbers of their messages.
#[derive(Default)]
pub struct Answers(Mutex<HashMap<i64, Arc<Running>>>);

impl Answers {
    fn lock(&self) -> MutexGuard<'_, HashMap<i64, Arc<Running>>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The one of that message, while it is made.
    pub fn get(&self, message: i64) -> Option<Arc<Running>> {
        self.lock().get(&message).cloned()
    }

    /// Ends those that `which` chooses by message and conversation, and waits until they are kept.
    pub async fn stop(&self, which: impl Fn(i64, i64) -> bool) {
        let chosen: Vec<_> = self
            .lock()
            .iter()
            .filter(|(id, r)| which(**id, r.conversation))
            .map(|(_, r)| r.clone())
            .collect();
        for running in chosen {
            let mut changes = running.changes();
            running.stop.send_replace(true);
            drop(running);
            // An error says that the sender is gone: the answer is over.
            while changes.changed().await.is_ok() {}
        }
    }
}

/// What an answer needs.
pub struct Wanted {
    /// the conversation's number
    pub conversation: i64,
    /// the message's
    pub message: i64,
    /// the model's name
    pub model: String,
    /// what was said so far
    pub said: Vec<hob_io::chat::Message>,
    /// how it is made
    pub settings: Settings,
}

/// Begins an answer, which goes on by itself.
pub fn begin(app: &Arc<App>, wanted: Wanted, tally: Arc<Tally>) {
    let running = Arc::new(Running {
        conversation: wanted.conversation,
        so_far: Mutex::default(),
        changed: watch::Sender::new(0),
        stop: watch::Sender::new(false),
    });
    app.page.answers.lock().insert(wanted.message, running.clone());
    let app = app.clone();
    tokio::spawn(async move {
        let message = wanted.message;
        let (state, note) = match make(&app, &running, wanted, tally).await {
            Ok(state) => (state, None),
            Err(refusal) => (State::Failed, Some(refusal.message)),
        };
        // Kept before it is forgotten here, so that there is no moment at which nobody knows it.
        let _ = keep(&app, &running, message, state, note).await;
        app.page.answers.lock().remove(&message);
    });
}

async fn keep(app: &App, running: &Running, message: i64, state: State, note: Option<String>) -> Result<()> {
    let now = running.so_far();
    let stats = (now.stats.prompt_tokens > 0).then_some(now.stats);
    stored(app, move |store| {
        let finish = Finish {
            text: &now.text,
            reasoning: &now.thought,
            tools: &now.tools,
            state,
            note: note.as_deref(),
            stats: stats.as_ref(),
        };
        store.keep(message, &finish)
    })
    .await
}

/// Makes the answer; gives how it ended.
async fn make(app: &Arc<App>, running: &Running, wanted: Wanted, tally: Arc<Tally>) -> Result<State> {
    let asked = Instant::now();
    let mut stop = running.stop.subscribe();
    let mut stopped = std::pin::pin!(async move {
        if stop.wait_for(|s| *s).await.is_err() {
            std::future::pending::<()>().await;
        }
    });
    let started = async {
        let lease = app.manager.get(Some(&wanted.model), Stay::default()).await?;
        running.change(|now| {
            now.doing = Doing::Reading;
            now.stats.context = lease.context;
        });
        generate::start(&lease, request(wanted.said, &wanted.settings), app.sampling, &tally).await
    };
    let mut answer = tokio::select! {
        () = &mut stopped => return Ok(State::Stopped),
        answer = started => answer?,
    };
    let mut first: Option<Instant> = None;
    let mut kept = Instant::now();
    let mut state = State::Done;
    loop {
        let event = tokio::select! {
            () = &mut stopped => return Ok(State::Stopped),
            event = answer.events.recv() => event,
        };
        match event {
            Some(Event::Started(usage)) => running.change(|now| {
                now.stats.prompt_tokens = usage.prompt;
                now.stats.cached_tokens = usage.cached;
            }),
            Some(Event::Piece { delta, .. }) => running.change(|now| {
                let since = *first.get_or_insert_with(Instant::now);
                now.stats.ttft_ms = (since - asked).as_secs_f64() * 1e3;
                now.stats.tokens += 1;
                if now.stats.tokens > 1 {
                    now.stats.tps = (now.stats.tokens - 1) as f64 / since.elapsed().as_secs_f64().max(1e-3);
                }
                now.doing = Doing::Writing;
                match delta {
                    Delta::Text(text) => now.text += &text,
                    Delta::Thought(text) => {
                        now.doing = Doing::Thinking;
                        now.thought += &text;
                    }
                    Delta::Call(call) => {
                        now.tools.push(ToolCall { name: call.name, arguments: call.arguments })
                    }
                }
            }),
            Some(Event::End { finish, .. }) => {
                state = if finish == generate::Finish::Length { State::Cut } else { State::Done };
            }
            Some(Event::Done { usage, timings }) => {
                // What was counted beats what was guessed from pieces.
                running.change(|now| {
                    now.stats.tokens = usage.generated;
                    if usage.generated > 1 && !timings.decode.is_zero() {
                        now.stats.tps = (usage.generated - 1) as f64 / timings.decode.as_secs_f64();
                    }
                });
                return Ok(state);
            }
            Some(Event::Failed(refusal)) => return Err(refusal),
            Some(Event::Prompt { .. }) => {}
            None => return Err(Refusal::failed("the answer broke off")),
        }
        if kept.elapsed() >= KEEP {
            kept = Instant::now();
            let now = running.so_far();
            let message = wanted.message;
            stored(app, move |store| {
                let finish = Finish {
                    text: &now.text,
                    reasoning: &now.thought,
                    tools: &now.tools,
                    state: State::Running,
                    note: None,
                    stats: None,
                };
                store.keep(message, &finish)
            })
            .await?;
        }
    }
}

fn request(said: Vec<hob_io::chat::Message>, s: &Settings) -> Request {
    let knobs = Knobs {
        temperature: s.temperature.map(|x| x as f32),
        top_k: s.top_k.map(|k| k as usize),
        top_p: s.top_p.map(|x| x as f32),
        min_p: s.min_p.map(|x| x as f32),
        seed: s.seed.map(u64::from),
        ..Knobs::default()
    };
    Request { knobs, most: s.max_tokens.map(|n| n as usize), ..Request::new(Prompt::Chat(said)) }
}
