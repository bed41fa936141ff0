//! Search in all that was said, by parts of words.

use rusqlite::{params_from_iter, types::Value};
use serde::Serialize;

use super::{Store, said};
use crate::error::Result;

/// Rows that a search looks at.
const ROWS: usize = 2000;
/// Conversations that it finds at most.
const FOUND: usize = 100;
/// Characters shown before and after the first word found.
const AROUND: (usize, usize) = (30, 90);

/// A piece of an excerpt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// The text.
    pub text: String,
    /// Whether it is what was searched for.
    pub hit: bool,
}

/// A conversation in which something was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hit {
    /// its number
    pub conversation: i64,
    /// its title
    pub title: String,
    /// the message; `None` where the title has it
    pub message: Option<i64>,
    /// the place in it
    pub excerpt: Vec<Part>,
    /// when something was last said in it, in milliseconds since 1970
    pub updated: i64,
}

impl Store {
    /// Conversations with a message, or a title, in which every word of `query` stands; the latest first.
    pub fn search(&self, query: &str) -> Result<Vec<Hit>> {
        let words: Vec<String> = query.split_whitespace().take(16).map(str::to_lowercase).collect();
        if words.is_empty() {
            return Ok(Vec::new());
        }
        let mut conditions = String::new();
        let mut values = Vec::new();
        // The index knows three characters in a row and more; shorter words are looked for in what it finds, or in all.
        let (long, short): (Vec<_>, Vec<_>) = words.iter().partition(|w| w.chars().count() >= 3);
        if !long.is_empty() {
            let quoted: Vec<_> = long.iter().map(|w| format!("\"{}\"", w.replace('"', "\"\""))).collect();
            conditions += " AND words MATCH ?";
            values.push(Value::Text(quoted.join(" AND ")));
        }
        for word in short {
            conditions += " AND w.text LIKE ? ESCAPE '\\'";
            let plain = word.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
            values.push(Value::Text(format!("%{plain}%")));
        }
        let sql = format!(
            "SELECT w.rowid, w.text, c.id, c.title, c.updated FROM words w JOIN conversations c ON c.id = w.conversation
             WHERE 1{conditions} ORDER BY w.rowid DESC LIMIT {ROWS}"
        );
        let db = self.db();
        let mut statement = db.prepare(&sql).map_err(said)?;
        let mut rows = statement.query(params_from_iter(values)).map_err(said)?;
        let mut hits: Vec<Hit> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        while let Some(r) = rows.next().map_err(said)? {
            let column =
                || Ok((r.get::<_, i64>(0)?, r.get::<_, String>(1)?, r.get(2)?, r.get(3)?, r.get(4)?));
            let (row, text, conversation, title, updated) = column().map_err(said)?;
            if seen.len() < FOUND && seen.insert(conversation) {
                let message = (row > 0).then_some(row);
                hits.push(Hit { conversation, title, message, excerpt: excerpt(&text, &words), updated });
            }
        }
        hits.sort_by_key(|h| std::cmp::Reverse((h.updated, h.conversation)));
        Ok(hits)
    }
}

/// Where `words` (in lower case) stand in `text`, as ranges of bytes in order that do not overlap.
fn places(text: &str, words: &[String]) -> Vec<(usize, usize)> {
    // A lower-case letter may be longer than its capital: places are those of the text as it is.
    let starts = |at: usize, word: &str| {
        let mut rest = word;
        for (i, c) in text[at..].char_indices() {
            if rest.is_empty() {
                return Some(at + i);
            }
            let mut lower = c.to_lowercase();
            if !lower.all(|l| rest.strip_prefix(l).map(|r| rest = r).is_some()) {
                return None;
            }
        }
        rest.is_empty().then_some(text.len())
    };
    let mut found = Vec::new();
    let mut free = 0;
    for (at, _) in text.char_indices() {
        let end = words.iter().filter_map(|w| starts(at, w)).max();
        if let (true, Some(end)) = (at >= free, end) {
            found.push((at, end));
            free = end;
        }
    }
    found
}

/// The surroundings of the first word found, in pieces.
fn excerpt(text: &str, words: &[String]) -> Vec<Part> {
    let found = places(text, words);
    let first = found.first().map_or(0, |f| f.0);
    let start = text[..first].char_indices().rev().nth(AROUND.0).map_or(0, |(at, _)| at);
    let end = text[first..].char_indices().nth(AROUND.1).map_or(text.len(), |(at, _)| first + at);
    let mut parts = Vec::new();
    let mut push = |piece: &str, hit: bool| {
        let text: String = piece.chars().map(|c| if c.is_whitespace() { ' ' } else { c }).collect();
        if !text.is_empty() {
            parts.push(Part { text, hit });
        }
    };
    if start > 0 {
        push("…", false);
    }
    let mut at = start;
    for (from, to) in found.into_iter().filter(|f| f.1 <= end) {
        push(&text[at..from], false);
        push(&text[from..to], true);
        at = to;
    }
    push(&text[at..end.max(at)], false);
    if end < text.len() {
        push("…", false);
    }
    parts
}
