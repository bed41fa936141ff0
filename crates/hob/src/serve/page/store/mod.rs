//! Conversations in one SQLite file of the user's: trees of messages, searchable, deletable for real; and pictures. Where the file cannot
//! be used, conversations live in memory and a note says why.

mod conversations;
mod exchange;
mod messages;
mod owner;
mod pictures;
mod schema;
mod search;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::{file, places};
use owner::Owner;

pub use conversations::Change;
pub use exchange::{Export, with_files};
pub use messages::{Finish, NewMessage, Shown};

/// Who says a message; the system's is a setting of its conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The person.
    User,
    /// The model.
    Assistant,
}

/// How far a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// An answer that is being written.
    Running,
    /// All of it is there.
    Done,
    /// The person stopped it.
    Stopped,
    /// It ended at the most tokens asked for, or with the context.
    Cut,
    /// It broke off; the note says why.
    Failed,
}

/// A text file that came with a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Its name, without folders.
    pub name: String,
    /// What it holds.
    pub text: String,
}

/// A tool that an answer calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    /// The function's name.
    pub name: String,
    /// Its arguments as the model wrote them: JSON, mostly.
    pub arguments: String,
}

/// What an answer took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// tokens of the prompt, the conversation before it included
    pub prompt_tokens: usize,
    /// of these, what was in the cache
    pub cached_tokens: usize,
    /// tokens generated
    pub tokens: usize,
    /// milliseconds to the first token
    pub ttft_ms: f64,
    /// tokens a second after it
    pub tps: f64,
    /// tokens that the context holds
    pub context: usize,
}

/// How a conversation's answers are made; what is `None` is the model's or the server's to choose.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// what holds for the whole conversation
    #[serde(skip_serializing_if = "String::is_empty")]
    pub system: String,
    /// 0 takes the likeliest token
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// the likeliest tokens whose probabilities reach it together
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// only so many of the likeliest; 0 for all
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// those at least so many times as likely as the likeliest
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f64>,
    /// tokens of an answer at most
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// the same seed gives the same answer
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u32>,
}

impl Settings {
    /// What is wrong with them, as a sentence.
    pub fn check(&self) -> Result<()> {
        let within = |x: Option<f64>, low: f64, high: f64| x.is_none_or(|x| (low..=high).contains(&x));
        let wrong = [
            (within(self.temperature, 0.0, 5.0), "the temperature must be from 0 to 5"),
            (within(self.top_p, f64::from(f32::MIN_POSITIVE), 1.0), "top-p must be above 0 and at most 1"),
            (within(self.min_p, 0.0, 1.0), "min-p must be from 0 to 1"),
            (self.max_tokens != Some(0), "an answer must be allowed at least 1 token"),
            (self.system.len() <= 1 << 20, "the system prompt is longer than 1 MB"),
        ];
        wrong.iter().find(|(right, _)| !right).map_or(Ok(()), |(_, why)| Err(Error::new(*why)))
    }
}

/// The conversations of this user.
pub struct Store {
    db: Mutex<Connection>,
    /// their file, and this run among those that write answers into it
    owner: Option<(PathBuf, Owner)>,
    /// whether they outlive this process
    pub lasting: bool,
    /// why they do not
    pub note: Option<String>,
}

impl Store {
    /// Opens the file, or makes it, readable by its owner alone. Errors: it is damaged, of a newer Hob, another program's, or
    /// cannot be read and written.
    pub fn open(path: &Path) -> Result<Store> {
        if let Some(folder) = path.parent() {
            file::make_dir(folder)?;
        }
        private(path)?;
        let failed = |e: rusqlite::Error| explain(path, &e);
        let mut db = Connection::open(path).map_err(failed)?;
        schema::check(&db, path)?;
        schema::prepare(&mut db).map_err(failed)?;
        let sound: String = db.query_row("PRAGMA quick_check(1)", [], |r| r.get(0)).map_err(failed)?;
        if sound != "ok" {
            return Err(damaged(path));
        }
        schema::migrate(&mut db, path)?;
        // One at a time begins, and looks who is there.
        let tx = db.transaction().map_err(failed)?;
        Owner::tidy(path);
        let owner = Some((path.to_path_buf(), Owner::begin(path)?));
        tx.commit().map_err(failed)?;
        let store = Store { db: Mutex::new(db), owner, lasting: true, note: None };
        store.settle()?;
        Ok(store)
    }

    /// Conversations that end with this process.
    pub fn in_memory(note: Option<String>) -> Result<Store> {
        let failed = |e: rusqlite::Error| Error::new(format!("no conversation can be kept: {e}"));
        let mut db = Connection::open_in_memory().map_err(failed)?;
        schema::prepare(&mut db).map_err(failed)?;
        schema::migrate(&mut db, Path::new("memory"))?;
        Ok(Store { db: Mutex::new(db), owner: None, lasting: false, note })
    }

    /// The user's file, and memory where it cannot be used.
    pub fn of_user() -> Result<Store> {
        places::conversations()
            .and_then(|path| Store::open(&path))
            .or_else(|e| Store::in_memory(Some(format!("{e}; conversations are kept until Hob ends"))))
    }

    /// Answers that a run was writing when it died: what it had kept of them stays. Those of runs that go on are theirs.
    fn settle(&self) -> Result<()> {
        let Some((path, own)) = &self.owner else { return Ok(()) };
        let mut db = self.db();
        let tx = db.transaction().map_err(said)?;
        let owners: Vec<Option<String>> = {
            let sql = "SELECT DISTINCT owner FROM messages WHERE state = 'running'";
            let mut statement = tx.prepare(sql).map_err(said)?;
            let rows = statement.query_map([], |r| r.get(0)).map_err(said)?;
            rows.collect::<rusqlite::Result<_>>().map_err(said)?
        };
        let runs = |name: &str| name == own.name || Owner::runs(path, name);
        for dead in owners.iter().filter(|name| !name.as_deref().is_some_and(runs)) {
            let sql = "UPDATE messages SET state = 'failed', note = 'Hob ended while this was written'
                       WHERE state = 'running' AND owner IS ?1";
            tx.execute(sql, [dead]).map_err(said)?;
        }
        tx.commit().map_err(said)
    }

    fn db(&self) -> MutexGuard<'_, Connection> {
        // Whatever panicked left a transaction, which its drop rolled back.
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what was deleted out of the file itself: SQLite writes zeros over it, the log is emptied, and a file that is
    /// mostly holes is written anew.
    fn scrub(db: &Connection) -> rusqlite::Result<()> {
        db.execute("INSERT INTO words(words) VALUES ('optimize')", [])?;
        let count = |pragma: &str| db.query_row(pragma, [], |r| r.get::<_, i64>(0));
        let (free, all) = (count("PRAGMA freelist_count")?, count("PRAGMA page_count")?);
        if free * 4 > all {
            // Where another process is in the way, the holes stay: they are zeros.
            match db.execute_batch("VACUUM") {
                Err(e) if e.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) => {}
                done => done?,
            }
        }
        // Busy while another process reads: the log is emptied when it is done, at the next checkpoint.
        for _ in 0..20 {
            if db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |r| r.get::<_, i64>(0))? == 0 {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

/// Milliseconds since 1970.
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

/// Makes the file as its owner's alone; an older one loses the rights that others had.
fn private(path: &Path) -> Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.create(true).truncate(false).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path).map_err(|e| Error::io("open", path, &e))?;
    #[cfg(unix)]
    {
        let owner = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        file.set_permissions(owner).map_err(|e| Error::io("change the rights of", path, &e))?;
    }
    drop(file);
    Ok(())
}

fn damaged(path: &Path) -> Error {
    Error::new(format!(
        "{} is damaged or no file of conversations; move it away and Hob begins a new one",
        places::short(path)
    ))
}

fn explain(path: &Path, e: &rusqlite::Error) -> Error {
    use rusqlite::ErrorCode as C;
    match e.sqlite_error_code() {
        Some(C::DatabaseCorrupt | C::NotADatabase) => damaged(path),
        _ => Error::new(format!("cannot use {}: {e}", places::short(path))),
    }
}

/// What went wrong in the middle, for a person.
fn said(e: rusqlite::Error) -> Error {
    use rusqlite::ErrorCode as C;
    Error::new(match e.sqlite_error_code() {
        Some(C::DiskFull) => "the disk is full: nothing more can be kept; free some space".into(),
        Some(C::DatabaseBusy | C::DatabaseLocked) => {
            "another Hob is writing conversations; try again in a moment".into()
        }
        Some(C::DatabaseCorrupt | C::NotADatabase) => {
            "the file of conversations is damaged; export what still opens, then move it away".into()
        }
        Some(C::ReadOnly) => "the file of conversations cannot be written".to_string(),
        _ => format!("conversations cannot be kept: {e}"),
    })
}

/// A column of JSON; what does not parse is empty.
fn json<T: serde::de::DeserializeOwned + Default>(text: Option<String>) -> T {
    text.and_then(|t| serde_json::from_str(&t).ok()).unwrap_or_default()
}

fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// An enum's name in a column.
fn name_of(value: impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|v| v.as_str().map(String::from)).unwrap_or_default()
}

fn named<T: serde::de::DeserializeOwned>(name: String) -> rusqlite::Result<T> {
    serde_json::from_value(name.into())
        .map_err(|e| rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, e.into()))
}
