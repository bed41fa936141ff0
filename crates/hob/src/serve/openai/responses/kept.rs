//! Answers kept in memory, to be gone on with: the newest ones, within bounds.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

use hob_io::chat::Message;
use serde_json::Value;

/// Answers kept at most, and their bytes together, about.
const MOST: usize = 1000;
const MOST_BYTES: usize = 64 << 20;

/// What is kept of an answer.
#[derive(Clone, Debug)]
pub struct Entry {
    /// as it was sent
    pub response: Value,
    /// the items of the request
    pub input: Vec<Value>,
    /// the conversation up to and with the answer, without instructions
    pub messages: Vec<Message>,
}

impl Entry {
    fn id(&self) -> &str {
        self.response["id"].as_str().unwrap_or_default()
    }

    fn bytes(&self) -> usize {
        let json = |v: &Value| v.to_string().len();
        let extra = |m: &Message| m.extra.values().map(json).sum::<usize>();
        let messages: usize = self.messages.iter().map(|m| m.content.len() + extra(m) + 100).sum();
        messages + json(&self.response) + self.input.iter().map(json).sum::<usize>()
    }
}

/// The answers that are kept, the oldest first, with their bytes.
#[derive(Default)]
pub struct Kept(Mutex<VecDeque<(usize, Entry)>>);

impl Kept {
    fn lock(&self) -> MutexGuard<'_, VecDeque<(usize, Entry)>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The answer of that id.
    pub fn get(&self, id: &str) -> Option<Entry> {
        self.lock().iter().find(|(_, e)| e.id() == id).map(|(_, e)| e.clone())
    }

    /// Keeps one, and lets the oldest go where there are too many.
    pub fn put(&self, entry: Entry) {
        let mut kept = self.lock();
        kept.push_back((entry.bytes(), entry));
        let mut bytes: usize = kept.iter().map(|(bytes, _)| bytes).sum();
        while kept.len() > MOST || (bytes > MOST_BYTES && !kept.is_empty()) {
            bytes -= kept.pop_front().map_or(0, |(bytes, _)| bytes);
        }
    }

    /// Forgets one; whether there was one.
    pub fn remove(&self, id: &str) -> bool {
        let mut kept = self.lock();
        let before = kept.len();
        kept.retain(|(_, e)| e.id() != id);
        kept.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_oldest_go_first() {
        let kept = Kept::default();
        let entry = |id: &str, n: usize| Entry {
            response: json!({"id": id}),
            input: Vec::new(),
            messages: vec![Message::new("user", &"x".repeat(n))],
        };
        for i in 0..MOST + 2 {
            kept.put(entry(&i.to_string(), 1));
        }
        assert!(kept.get("1").is_none() && kept.get("2").is_some());
        assert!(kept.remove("2") && !kept.remove("2") && kept.get("2").is_none());
        kept.put(entry("large", MOST_BYTES - 500));
        assert!(kept.get("3").is_none() && kept.get("large").is_some());
        kept.put(entry("too large", MOST_BYTES));
        assert!(kept.get("too large").is_none() && kept.lock().is_empty());
    }
}
