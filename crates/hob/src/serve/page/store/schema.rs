//! The tables, and how older ones become the present ones.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};

use super::{explain, said};
use crate::error::{Error, Result};
use crate::places;

/// `Hob\0`: how a file of Hob's is told from another program's (`PRAGMA application_id`).
const APPLICATION: i32 = 0x486f_6200;

/// One script for each version; a file's version is the number of those that ran (`PRAGMA user_version`). Never changed,
/// only added to.
pub const MIGRATIONS: &[&str] = &[
    // Ids are never given twice, so that an old tab cannot mean a new conversation. The index of words holds messages under
    // their ids, titles under their conversations' negated, and finds parts of words in every script.
    "CREATE TABLE conversations (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        title TEXT NOT NULL,
        model TEXT,
        settings TEXT NOT NULL,
        created INTEGER NOT NULL,
        updated INTEGER NOT NULL,
        leaf INTEGER
    ) STRICT;
    CREATE INDEX conversations_updated ON conversations(updated);
    CREATE TABLE messages (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        conversation INTEGER NOT NULL REFERENCES conversations(id) ON DELETE CASCADE,
        parent INTEGER REFERENCES messages(id) ON DELETE CASCADE,
        role TEXT NOT NULL,
        text TEXT NOT NULL,
        reasoning TEXT NOT NULL,
        tools TEXT NOT NULL,
        attachments TEXT NOT NULL,
        model TEXT,
        state TEXT NOT NULL,
        note TEXT,
        stats TEXT,
        created INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX messages_conversation ON messages(conversation);
    CREATE INDEX messages_parent ON messages(parent);
    CREATE VIRTUAL TABLE words USING fts5(text, conversation UNINDEXED, tokenize = 'trigram');
    INSERT INTO words(words, rank) VALUES ('secure-delete', 1);",
    "ALTER TABLE conversations ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0;",
    // The run that writes an answer.
    "ALTER TABLE messages ADD COLUMN owner TEXT;",
    "CREATE TABLE pictures (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        created INTEGER NOT NULL,
        seconds REAL NOT NULL,
        recipe TEXT NOT NULL,
        png BLOB NOT NULL,
        small BLOB NOT NULL
    ) STRICT;",
];

/// Settings of a connection, which the file does not keep.
pub fn prepare(db: &mut Connection) -> rusqlite::Result<()> {
    // One that reads before it writes would fail at once where another process wrote in between.
    db.set_transaction_behavior(TransactionBehavior::Immediate);
    db.busy_timeout(Duration::from_secs(5))?;
    db.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON;
         PRAGMA secure_delete = ON; PRAGMA temp_store = MEMORY; PRAGMA trusted_schema = OFF;",
    )
}

/// Whether the file is Hob's, or nobody's yet, before anything in it is changed. Errors: it is of a newer Hob or another
/// program's.
pub fn check(db: &Connection, path: &Path) -> Result<usize> {
    let number = |sql: &str| db.query_row(sql, [], |r| r.get::<_, i64>(0)).map_err(|e| explain(path, &e));
    let application = number("PRAGMA application_id")?;
    let tables = number("SELECT count(*) FROM sqlite_master")?;
    let version = number("PRAGMA user_version")? as usize;
    if application != i64::from(APPLICATION) && (application != 0 || tables > 0) {
        return Err(Error::new(format!("{} is another program's file", places::short(path))));
    }
    if version > MIGRATIONS.len() {
        return Err(Error::new(format!(
            "{} was written by a newer Hob; use that one, or move the file away",
            places::short(path)
        )));
    }
    Ok(version)
}

/// Brings the tables up to the present version.
pub fn migrate(db: &mut Connection, path: &Path) -> Result<()> {
    let failed = |e: rusqlite::Error| explain(path, &e);
    // Another process may be about to do the same.
    let tx = db.transaction().map_err(failed)?;
    for script in &MIGRATIONS[check(&tx, path)?..] {
        tx.execute_batch(script).map_err(failed)?;
    }
    tx.pragma_update(None, "application_id", APPLICATION).map_err(failed)?;
    tx.pragma_update(None, "user_version", MIGRATIONS.len() as i64).map_err(failed)?;
    tx.commit().map_err(said)
}
