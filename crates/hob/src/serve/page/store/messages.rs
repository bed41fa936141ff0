//! Messages: a tree for each conversation, of which one branch is shown. An edited question and a regenerated answer are
//! siblings of what was there.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};

use super::conversations::{index_title, title_of, unknown};
use super::{Attachment, Role, State, Stats, Store, ToolCall, json, name_of, named, now, said, to_json};
use crate::error::{Error, Result};

/// A message of the branch that is shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    /// its number
    pub id: i64,
    /// what it answers or follows
    pub parent: Option<i64>,
    /// whose it is
    pub role: Role,
    /// what it says
    pub text: String,
    /// what the model thought before
    #[serde(default)]
    pub reasoning: String,
    /// the tools that it calls
    #[serde(default)]
    pub tools: Vec<ToolCall>,
    /// the files that came with it
    #[serde(default)]
    pub attachments: Vec<Attachment>,
    /// the model that wrote it
    #[serde(default)]
    pub model: Option<String>,
    /// how far it is
    pub state: State,
    /// why it broke off
    #[serde(default)]
    pub note: Option<String>,
    /// what it took
    #[serde(default)]
    pub stats: Option<Stats>,
    /// milliseconds since 1970
    pub created: i64,
    /// the messages that stand in the same place, itself among them, the oldest first
    #[serde(skip_deserializing, skip_serializing_if = "Vec::is_empty")]
    pub siblings: Vec<i64>,
}

/// A message that is added.
#[derive(Clone, Debug, Default)]
pub struct NewMessage<'a> {
    /// the message before it; `None` for a first one
    pub parent: Option<i64>,
    /// what it says
    pub text: &'a str,
    /// files that come with it
    pub attachments: &'a [Attachment],
}

/// An answer as far as it is.
#[derive(Clone, Debug)]
pub struct Finish<'a> {
    /// what it says
    pub text: &'a str,
    /// what was thought before
    pub reasoning: &'a str,
    /// the tools that it calls
    pub tools: &'a [ToolCall],
    /// how far it is
    pub state: State,
    /// why it broke off
    pub note: Option<&'a str>,
    /// what it took
    pub stats: Option<&'a Stats>,
}

pub const COLUMNS: &str =
    "id, parent, role, text, reasoning, tools, attachments, model, state, note, stats, created";

pub fn read(r: &Row) -> rusqlite::Result<Shown> {
    Ok(Shown {
        id: r.get(0)?,
        parent: r.get(1)?,
        role: named(r.get(2)?)?,
        text: r.get(3)?,
        reasoning: r.get(4)?,
        tools: json(r.get(5)?),
        attachments: json(r.get(6)?),
        model: r.get(7)?,
        state: named(r.get(8)?)?,
        note: r.get(9)?,
        stats: json(r.get(10)?),
        created: r.get(11)?,
        siblings: Vec::new(),
    })
}

/// Puts a message into its table as it is, its number aside, and gives it a number.
pub fn insert(db: &Connection, conversation: i64, parent: Option<i64>, m: &Shown) -> rusqlite::Result<i64> {
    let sql = "INSERT INTO messages(conversation, parent, role, text, reasoning, tools, attachments, model, state, note,
               stats, created) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
    db.prepare(sql)?.execute(params![
        conversation,
        parent,
        name_of(m.role),
        m.text,
        m.reasoning,
        to_json(&m.tools),
        to_json(&m.attachments),
        m.model,
        name_of(m.state),
        m.note,
        m.stats.as_ref().map(to_json),
        m.created,
    ])?;
    let id = db.last_insert_rowid();
    if m.state != State::Running {
        index(db, id)?;
    }
    Ok(id)
}

/// A message's words in the index, those of its files too; what was there of it goes.
fn index(db: &Connection, id: i64) -> rusqlite::Result<()> {
    db.execute("DELETE FROM words WHERE rowid = ?1", [id])?;
    let sql = "INSERT INTO words(rowid, text, conversation)
               SELECT id, text || coalesce((SELECT group_concat(char(10) || (value ->> 'name') || char(10) || (value ->> 'text'), '')
                                            FROM json_each(attachments)), ''), conversation
               FROM messages WHERE id = ?1";
    db.execute(sql, [id]).map(drop)
}

fn gone() -> Error {
    Error::new("this message is gone; its conversation was deleted")
}

impl Store {
    /// The branch that is shown, from its first message on.
    pub fn branch(&self, conversation: i64) -> Result<Vec<Shown>> {
        let branch = self.branch_as_kept(conversation)?;
        if !branch.iter().any(|m| m.state == State::Running) {
            return Ok(branch);
        }
        // Another run that wrote there may have died meanwhile.
        self.settle()?;
        self.branch_as_kept(conversation)
    }

    fn branch_as_kept(&self, conversation: i64) -> Result<Vec<Shown>> {
        let db = self.db();
        let leaf = db.query_row("SELECT leaf FROM conversations WHERE id = ?1", [conversation], |r| r.get(0));
        let leaf: Option<i64> = leaf.optional().map_err(said)?.ok_or_else(unknown)?;
        leaf.map_or(Ok(Vec::new()), |leaf| up_to(&db, leaf)).map_err(said)
    }

    /// A message and all before it, the first one first. Errors: it is gone.
    pub fn up_to(&self, message: i64) -> Result<Vec<Shown>> {
        let branch = up_to(&self.db(), message).map_err(said)?;
        if branch.is_empty() { Err(gone()) } else { Ok(branch) }
    }

    /// The conversation of a message, and what it says. Errors: it is gone.
    pub fn message(&self, id: i64) -> Result<(i64, Shown)> {
        let sql = format!("SELECT {COLUMNS}, conversation FROM messages WHERE id = ?1");
        let found = self.db().query_row(&sql, [id], |r| Ok((r.get(12)?, read(r)?))).optional();
        found.map_err(said)?.ok_or_else(gone)
    }

    /// Adds a question and an empty answer to it, which are shown from now on, and gives their numbers. Errors: the
    /// conversation is gone, or the message before is none of an answer's in it.
    pub fn ask(&self, conversation: i64, question: &NewMessage, model: &str) -> Result<(i64, i64)> {
        let mut db = self.db();
        let tx = db.transaction().map_err(said)?;
        if let Some(parent) = question.parent {
            let sql = "SELECT 1 FROM messages WHERE id = ?1 AND conversation = ?2 AND role = 'assistant'";
            let fits = tx.query_row(sql, [parent, conversation], |_| Ok(())).optional().map_err(said)?;
            fits.ok_or_else(gone)?;
        }
        let message = blank(Role::User, question.text, question.attachments);
        let title = if question.text.trim().is_empty() {
            question.attachments.first().map_or(String::new(), |a| a.name.clone())
        } else {
            title_of(question.text)
        };
        let named = tx
            .execute(
                "UPDATE conversations SET title = ?2 WHERE id = ?1 AND title = ''",
                params![conversation, title],
            )
            .map_err(said)?;
        if named > 0 {
            index_title(&tx, conversation, &title).map_err(said)?;
        }
        let asked = insert(&tx, conversation, question.parent, &message).map_err(|e| {
            match e.sqlite_error_code() {
                Some(rusqlite::ErrorCode::ConstraintViolation) => unknown(),
                _ => said(e),
            }
        })?;
        let answer = self.answer_to(&tx, conversation, asked, model).map_err(said)?;
        tx.commit().map_err(said)?;
        Ok((asked, answer))
    }

    /// Adds another empty answer to a question, and gives the conversation's and the answer's numbers. `message` is the
    /// question or one of its answers.
    pub fn again(&self, message: i64, model: &str) -> Result<(i64, i64)> {
        let (conversation, shown) = self.message(message)?;
        let question = match shown.role {
            Role::User => message,
            Role::Assistant => shown.parent.ok_or_else(gone)?,
        };
        let mut db = self.db();
        let tx = db.transaction().map_err(said)?;
        let answer = self.answer_to(&tx, conversation, question, model).map_err(said)?;
        tx.commit().map_err(said)?;
        Ok((conversation, answer))
    }

    /// Begins an answer, which this run is to write.
    fn answer_to(
        &self,
        db: &Connection,
        conversation: i64,
        question: i64,
        model: &str,
    ) -> rusqlite::Result<i64> {
        let answer =
            Shown { model: Some(model.into()), state: State::Running, ..blank(Role::Assistant, "", &[]) };
        let id = insert(db, conversation, Some(question), &answer)?;
        let owner = self.owner.as_ref().map(|(_, owner)| &owner.name);
        db.execute("UPDATE messages SET owner = ?2 WHERE id = ?1", params![id, owner])?;
        let sql = "UPDATE conversations SET leaf = ?2, updated = ?3, model = ?4 WHERE id = ?1";
        db.execute(sql, params![conversation, id, now(), model])?;
        Ok(id)
    }

    /// Keeps an answer as far as it is. Nothing happens where its conversation was deleted meanwhile.
    pub fn keep(&self, id: i64, answer: &Finish) -> Result<()> {
        let mut db = self.db();
        let tx = db.transaction().map_err(said)?;
        let sql = "UPDATE messages SET text = ?2, reasoning = ?3, tools = ?4, state = ?5, note = ?6, stats = ?7 WHERE id = ?1";
        let known = tx
            .execute(
                sql,
                params![
                    id,
                    answer.text,
                    answer.reasoning,
                    to_json(&answer.tools),
                    name_of(answer.state),
                    answer.note,
                    answer.stats.map(to_json)
                ],
            )
            .map_err(said)?;
        if known > 0 && answer.state != State::Running {
            index(&tx, id).map_err(said)?;
        }
        tx.commit().map_err(said)
    }

    /// Shows the branch of a message, down to its latest end, and gives the conversation's number.
    pub fn show(&self, message: i64) -> Result<i64> {
        let db = self.db();
        let sql = "WITH RECURSIVE down(id) AS (SELECT ?1 UNION ALL
                   SELECT (SELECT max(m.id) FROM messages m WHERE m.parent = down.id) FROM down WHERE down.id IS NOT NULL)
                   UPDATE conversations SET leaf = (SELECT max(id) FROM down)
                   WHERE id = (SELECT conversation FROM messages WHERE id = ?1) RETURNING id";
        db.query_row(sql, [message], |r| r.get(0)).optional().map_err(said)?.ok_or_else(gone)
    }
}

/// A message that has just been said.
fn blank(role: Role, text: &str, attachments: &[Attachment]) -> Shown {
    Shown {
        id: 0,
        parent: None,
        role,
        text: text.into(),
        reasoning: String::new(),
        tools: Vec::new(),
        attachments: attachments.to_vec(),
        model: None,
        state: State::Done,
        note: None,
        stats: None,
        created: now(),
        siblings: Vec::new(),
    }
}

fn up_to(db: &Connection, leaf: i64) -> rusqlite::Result<Vec<Shown>> {
    // Ids grow from parent to child.
    let sql = format!(
        "WITH RECURSIVE up(at) AS (SELECT ?1 UNION ALL SELECT m.parent FROM messages m JOIN up ON m.id = up.at WHERE m.parent IS NOT NULL)
         SELECT {COLUMNS}, (SELECT json_group_array(s.id) FROM (SELECT s.id FROM messages s
             WHERE s.conversation = messages.conversation AND s.parent IS messages.parent ORDER BY s.id) s)
         FROM messages JOIN up ON messages.id = up.at ORDER BY messages.id"
    );
    let mut statement = db.prepare(&sql)?;
    let rows = statement.query_map([leaf], |r| Ok(Shown { siblings: json(r.get(12)?), ..read(r)? }))?;
    rows.collect()
}
