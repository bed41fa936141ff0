//! Conversations: the list, names, settings, and their deletion.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};

use super::{Settings, Store, json, now, said, to_json};
use crate::error::{Error, Result};

/// Characters of a title.
const TITLE: usize = 120;
/// Characters of a title that is made of a question.
const FROM_QUESTION: usize = 60;
/// The most conversations that a list gives.
const LISTED: usize = 5000;

/// A conversation without its messages.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Conversation {
    /// its number, never given twice
    pub id: i64,
    /// empty until the first question
    pub title: String,
    /// the model that answers
    pub model: Option<String>,
    /// how answers are made
    pub settings: Settings,
    /// whether it stays at the top of the list
    pub pinned: bool,
    /// milliseconds since 1970
    pub created: i64,
    /// when something was last said
    pub updated: i64,
    /// the last message of the branch that is shown
    pub leaf: Option<i64>,
}

/// A line of the list.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Listed {
    /// its number
    pub id: i64,
    /// what it is called
    pub title: String,
    /// whether it stays at the top
    pub pinned: bool,
    /// when something was last said, in milliseconds since 1970
    pub updated: i64,
}

/// What a person changes about a conversation; `None` stays.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Change {
    /// a new name
    pub title: Option<String>,
    /// at the top of the list or not
    pub pinned: Option<bool>,
    /// another model
    pub model: Option<String>,
    /// all settings anew
    pub settings: Option<Settings>,
}

/// One line of at most `most` characters, cut between words where there are any.
fn one_line(text: &str, most: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(most) {
        None => line,
        Some((end, _)) => {
            let cut = line[..end].rfind(' ').filter(|at| at * 2 > end).unwrap_or(end);
            line[..cut].trim_end_matches([',', ';', ':', '.']).to_string() + "…"
        }
    }
}

/// A title of a question: its first line that says something.
pub fn title_of(question: &str) -> String {
    let line = question.lines().map(str::trim).find(|l| l.chars().any(char::is_alphanumeric));
    one_line(line.unwrap_or(question).trim_start_matches(['#', '>', '-', '*', ' ']), FROM_QUESTION)
}

const COLUMNS: &str = "id, title, model, settings, pinned, created, updated, leaf";

fn read(r: &Row) -> rusqlite::Result<Conversation> {
    Ok(Conversation {
        id: r.get(0)?,
        title: r.get(1)?,
        model: r.get(2)?,
        settings: json(r.get(3)?),
        pinned: r.get(4)?,
        created: r.get(5)?,
        updated: r.get(6)?,
        leaf: r.get(7)?,
    })
}

/// What an unknown number is answered with.
pub fn unknown() -> Error {
    Error::new("this conversation is gone; it was deleted")
}

/// The title's words in the index, under the conversation's number negated.
pub fn index_title(db: &Connection, id: i64, title: &str) -> rusqlite::Result<()> {
    db.execute("DELETE FROM words WHERE rowid = ?1", [-id])?;
    db.execute("INSERT INTO words(rowid, text, conversation) VALUES (?1, ?2, ?3)", params![-id, title, id])?;
    Ok(())
}

impl Store {
    /// The list: pinned ones first, then the latest.
    pub fn list(&self) -> Result<Vec<Listed>> {
        let db = self.db();
        let sql = "SELECT id, title, pinned, updated FROM conversations ORDER BY pinned DESC, updated DESC, id DESC LIMIT ?1";
        let mut statement = db.prepare(sql).map_err(said)?;
        let rows = statement.query_map([LISTED as i64], |r| {
            Ok(Listed { id: r.get(0)?, title: r.get(1)?, pinned: r.get(2)?, updated: r.get(3)? })
        });
        rows.and_then(Iterator::collect).map_err(said)
    }

    /// Begins an empty one.
    pub fn create(&self, model: Option<&str>, settings: &Settings) -> Result<i64> {
        settings.check()?;
        let db = self.db();
        let at = now();
        let sql =
            "INSERT INTO conversations(title, model, settings, created, updated) VALUES ('', ?1, ?2, ?3, ?3)";
        db.execute(sql, params![model, to_json(settings), at]).map_err(said)?;
        Ok(db.last_insert_rowid())
    }

    /// One of them. Errors: there is none of that number.
    pub fn conversation(&self, id: i64) -> Result<Conversation> {
        let sql = format!("SELECT {COLUMNS} FROM conversations WHERE id = ?1");
        let found = self.db().query_row(&sql, [id], read).optional();
        found.map_err(said)?.ok_or_else(unknown)
    }

    /// Every number there is, the oldest first.
    pub fn all(&self) -> Result<Vec<i64>> {
        let db = self.db();
        let mut statement = db.prepare("SELECT id FROM conversations ORDER BY id").map_err(said)?;
        let rows = statement.query_map([], |r| r.get(0));
        rows.and_then(Iterator::collect).map_err(said)
    }

    /// Names it, pins it, or changes how it is answered. Errors: it is gone, or a setting is out of range.
    pub fn change(&self, id: i64, change: &Change) -> Result<()> {
        if let Some(settings) = &change.settings {
            settings.check()?;
        }
        let title = change.title.as_deref().map(|t| one_line(t, TITLE));
        if title.as_deref() == Some("") {
            return Err(Error::new("a conversation needs a name"));
        }
        let mut db = self.db();
        let tx = db.transaction().map_err(said)?;
        let sql = "UPDATE conversations SET title = coalesce(?2, title), pinned = coalesce(?3, pinned),
                   model = coalesce(?4, model), settings = coalesce(?5, settings) WHERE id = ?1";
        let settings = change.settings.as_ref().map(to_json);
        let known =
            tx.execute(sql, params![id, title, change.pinned, change.model, settings]).map_err(said)?;
        if known == 0 {
            return Err(unknown());
        }
        if let Some(title) = title {
            index_title(&tx, id, &title).map_err(said)?;
        }
        tx.commit().map_err(said)
    }

    /// Deletes one with all its messages, out of the file's bytes too. `false` where it was gone already.
    pub fn delete(&self, id: i64) -> Result<bool> {
        let mut db = self.db();
        let tx = db.transaction().map_err(said)?;
        tx.execute(
            "DELETE FROM words WHERE rowid = -?1 OR rowid IN (SELECT id FROM messages WHERE conversation = ?1)",
            [id],
        )
        .map_err(said)?;
        let known = tx.execute("DELETE FROM conversations WHERE id = ?1", [id]).map_err(said)?;
        tx.commit().and_then(|()| Store::scrub(&db)).map_err(said)?;
        Ok(known > 0)
    }

    /// Deletes all of them, and gives their number.
    pub fn delete_all(&self) -> Result<usize> {
        let mut db = self.db();
        let tx = db.transaction().map_err(said)?;
        tx.execute("DELETE FROM words", []).map_err(said)?;
        let known = tx.execute("DELETE FROM conversations", []).map_err(said)?;
        tx.commit().and_then(|()| Store::scrub(&db)).map_err(said)?;
        Ok(known)
    }
}
