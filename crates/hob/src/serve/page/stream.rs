//! `GET /hob/messages/ID/stream`: an answer as server-sent events, from its first word whenever one begins to listen.
//!
//! Each event is an object. `text` and `thought` are the HTML of blocks: `{"from": N, "html": […]}` replaces the blocks from
//! the Nth on. Besides, as they change: `tools`, `doing`, `tps`, `stats`. The last event is `{"end": MESSAGE}`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Path, State};
use axum::response::Response;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::answers::{Running, SoFar};
use super::conversations::{blocks as html, view};
use super::render::{Renderer, settled};
use super::{aside, missing, stored};
use crate::error::Error;
use crate::serve::refusal::Result;
use crate::serve::sse::{data, respond};
use crate::serve::{App, refuse};

/// The least time between two events: the eye sees no more.
const PAUSE: Duration = Duration::from_millis(50);
/// At most one part in so many of the time goes into rendering.
const SHARE: u32 = 8;

/// A part of the answer as one listener has it.
#[derive(Default)]
struct Part {
    renderer: Renderer,
    sent: Vec<Arc<str>>,
}

impl Part {
    /// What changed since the last time, if anything.
    fn update(&mut self, text: &str) -> Option<Value> {
        let blocks = self.renderer.blocks(settled(text));
        let same = self.sent.iter().zip(&blocks).take_while(|(a, b)| Arc::ptr_eq(a, b) || a == b).count();
        let changed = same < blocks.len() || same < self.sent.len();
        let update = changed.then(|| json!({"from": same, "html": html(&blocks[same..])}));
        self.sent = blocks;
        update
    }
}

/// What one listener has.
#[derive(Default)]
struct Listener {
    text: Part,
    thought: Part,
    tools: usize,
}

impl Listener {
    fn update(&mut self, now: &SoFar) -> Value {
        let mut event = json!({"doing": now.doing});
        if let Some(thought) = self.thought.update(&now.thought) {
            event["thought"] = thought;
        }
        if let Some(text) = self.text.update(&now.text) {
            event["text"] = text;
        }
        if now.tools.len() != self.tools {
            self.tools = now.tools.len();
            event["tools"] = json!(now.tools);
        }
        if now.stats.prompt_tokens > 0 {
            event["stats"] = json!(now.stats);
            event["tps"] = json!(now.stats.tps);
        }
        event
    }
}

/// Tells an answer to whoever listens.
pub async fn follow(State(app): State<Arc<App>>, Path(id): Path<i64>) -> Response {
    if let Err(refusal) = stored(&app, move |s| s.message(id)).await {
        return refuse("/hob", &missing(Error::new(refusal.message)));
    }
    let (tell, events) = mpsc::channel(4);
    tokio::spawn(async move {
        if let Some(running) = app.page.answers.get(id) {
            listen(running, &tell).await;
        }
        let end = stored(&app, move |s| s.up_to(id)).await;
        if let Ok(Some(message)) = end.map(|mut branch| branch.pop()) {
            let end = aside(move || Ok(view(&message))).await.unwrap_or_default();
            let _ = tell.send(data(&json!({"end": end}))).await;
        }
    });
    respond(ReceiverStream::new(events))
}

/// Sends what changes until the answer is over or nobody listens.
async fn listen(running: Arc<Running>, tell: &mpsc::Sender<String>) {
    let mut changes = running.changes();
    let mut listener = Listener::default();
    // Held no longer: the channel closes with the answer.
    let weak = Arc::downgrade(&running);
    drop(running);
    loop {
        let Some(now) = weak.upgrade().map(|r| r.so_far()) else { return };
        let start = Instant::now();
        let rendered: Result<_> = aside(move || {
            let event = listener.update(&now);
            Ok((listener, event))
        })
        .await;
        let Ok((back, event)) = rendered else { return };
        listener = back;
        if tell.send(data(&event)).await.is_err() {
            return;
        }
        tokio::time::sleep(PAUSE.max(start.elapsed() * SHARE)).await;
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = tell.closed() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks as the page has them after an event.
    fn take(blocks: &mut Vec<String>, event: &Value) {
        let Some(update) = event.get("text") else { return };
        blocks.truncate(update["from"].as_u64().unwrap() as usize);
        blocks.extend(update["html"].as_array().unwrap().iter().map(|b| b.as_str().unwrap().to_string()));
    }

    #[test]
    fn a_listener_ends_with_the_whole_answer_whatever_it_missed() {
        let text = "One.\n\n- a\n- b\n\n```rust\nfn a() {}\n```\n\n| a |\n|---|\n| 1 |\n\nEnd [r].\n\n[r]: https://a.example\n";
        for step in [1, 2, 7, 40, 1000] {
            let (mut listener, mut blocks) = (Listener::default(), Vec::new());
            let mut sent = 0;
            for end in (0..text.len()).step_by(step).chain([text.len()]) {
                let now = SoFar { text: text[..end].into(), ..SoFar::default() };
                let event = listener.update(&now);
                sent += event.get("text").map_or(0, |t| t.to_string().len());
                take(&mut blocks, &event);
            }
            assert_eq!(blocks.concat(), super::super::render::whole(text).concat());
            assert!(sent < text.len() * 60, "{sent} bytes for {}", text.len());
        }
    }
}
