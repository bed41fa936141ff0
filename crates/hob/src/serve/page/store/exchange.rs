//! Conversations as Markdown, and as JSON that can be read in again.

use std::collections::HashMap;

use rusqlite::params;
use serde::{Deserialize, Serialize};

use super::conversations::index_title;
use super::messages::{COLUMNS, insert, read};
use super::{Attachment, Role, Settings, Shown, State, Store, said, to_json};
use crate::error::{Error, Result};

/// The version of the JSON.
const VERSION: u32 = 1;

/// Exported conversations.
#[derive(Debug, Serialize, Deserialize)]
pub struct Export {
    /// the format's version
    pub hob: u32,
    /// the conversations
    pub conversations: Vec<Exported>,
}

/// An exported conversation with every branch.
#[derive(Debug, Serialize, Deserialize)]
pub struct Exported {
    title: String,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    settings: Settings,
    #[serde(default)]
    pinned: bool,
    created: i64,
    updated: i64,
    #[serde(default)]
    leaf: Option<i64>,
    messages: Vec<Shown>,
}

/// A fence longer than any row of backticks in the text.
pub fn fence(text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    "`".repeat((longest + 1).max(3))
}

/// A question as the model reads it: the files under their names in fences, then the words.
pub fn with_files(text: &str, files: &[Attachment]) -> String {
    let mut out = String::new();
    for f in files {
        let fence = fence(&f.text);
        out += &format!("File `{}`:\n{fence}\n{}\n{fence}\n\n", f.name, f.text.trim_end_matches('\n'));
    }
    out + text
}

impl Store {
    /// The conversations of these numbers with all their branches. Errors: one is gone.
    pub fn export(&self, ids: &[i64]) -> Result<Export> {
        let one = |&id: &i64| {
            let c = self.conversation(id)?;
            let db = self.db();
            let sql = format!("SELECT {COLUMNS} FROM messages WHERE conversation = ?1 ORDER BY id");
            let mut statement = db.prepare(&sql).map_err(said)?;
            let rows = statement.query_map([id], read).and_then(Iterator::collect);
            Ok(Exported {
                title: c.title,
                model: c.model,
                settings: c.settings,
                pinned: c.pinned,
                created: c.created,
                updated: c.updated,
                leaf: c.leaf,
                messages: rows.map_err(said)?,
            })
        };
        Ok(Export { hob: VERSION, conversations: ids.iter().map(one).collect::<Result<_>>()? })
    }

    /// The branch that is shown, for reading elsewhere.
    pub fn markdown(&self, id: i64) -> Result<String> {
        let c = self.conversation(id)?;
        let mut out = format!("# {}\n", if c.title.is_empty() { "A conversation" } else { &c.title });
        if !c.settings.system.is_empty() {
            out += &format!("\n## System\n\n{}\n", c.settings.system.trim());
        }
        for m in self.branch(id)? {
            match m.role {
                Role::User => out += &format!("\n## You\n\n{}\n", with_files(m.text.trim(), &m.attachments)),
                Role::Assistant => {
                    out += &format!("\n## {}\n", m.model.as_deref().unwrap_or("Answer"));
                    if !m.reasoning.trim().is_empty() {
                        let thought = m.reasoning.trim();
                        out +=
                            &format!("\n<details><summary>Reasoning</summary>\n\n{thought}\n\n</details>\n");
                    }
                    if !m.text.trim().is_empty() {
                        out += &format!("\n{}\n", m.text.trim());
                    }
                    for t in &m.tools {
                        let fence = fence(&t.arguments);
                        out += &format!("\nTool `{}`:\n{fence}json\n{}\n{fence}\n", t.name, t.arguments);
                    }
                }
            }
        }
        Ok(out)
    }

    /// Adds what was exported, under new numbers, all or nothing, and gives these. Errors: the text is no export of Hob's, of
    /// a newer one, or its messages do not hang together.
    pub fn import(&self, text: &str) -> Result<Vec<i64>> {
        let wrong = |why: String| Error::new(format!("this file cannot be imported: {why}"));
        let export: Export =
            serde_json::from_str(text).map_err(|e| wrong(format!("it is no export of Hob's ({e})")))?;
        if export.hob != VERSION {
            return Err(wrong("a newer Hob wrote it".into()));
        }
        let mut db = self.db();
        let tx = db.transaction().map_err(said)?;
        let mut ids = Vec::new();
        for c in &export.conversations {
            c.settings.check()?;
            let sql = "INSERT INTO conversations(title, model, settings, pinned, created, updated) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
            let settings = to_json(&c.settings);
            tx.execute(sql, params![c.title, c.model, settings, c.pinned, c.created, c.updated])
                .map_err(said)?;
            let id = tx.last_insert_rowid();
            index_title(&tx, id, &c.title).map_err(said)?;
            let mut new: HashMap<i64, (i64, Role)> = HashMap::new();
            for m in &c.messages {
                let parent = match m.parent {
                    None => None,
                    Some(p) => Some(*new.get(&p).ok_or_else(|| {
                        wrong(format!("its message {} follows one that is not before it", m.id))
                    })?),
                };
                // A question follows nothing or an answer, an answer a question.
                if (m.role == Role::User) == parent.is_some_and(|p| p.1 == Role::User) {
                    return Err(wrong(format!("its message {} does not follow its turn", m.id)));
                }
                let state = if m.state == State::Running { State::Stopped } else { m.state };
                let made =
                    insert(&tx, id, parent.map(|p| p.0), &Shown { state, ..m.clone() }).map_err(said)?;
                if new.insert(m.id, (made, m.role)).is_some() {
                    return Err(wrong(format!("it has two messages {}", m.id)));
                }
            }
            let leaf =
                c.leaf.and_then(|l| new.get(&l)).or_else(|| new.values().max_by_key(|m| m.0)).map(|m| m.0);
            tx.execute("UPDATE conversations SET leaf = ?2 WHERE id = ?1", params![id, leaf])
                .map_err(said)?;
            ids.push(id);
        }
        tx.commit().map_err(said)?;
        Ok(ids)
    }
}
