//! Pictures with their recipes, as PNGs in the database.

use rusqlite::{OptionalExtension, params};
use serde::Serialize;
use serde_json::Value;

use super::{Store, json, now, said};
use crate::error::Result;

/// Pictures that a list gives at once.
const LISTED: usize = 60;

/// A picture without its pixels.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Listed {
    /// its number, never given twice
    pub id: i64,
    /// milliseconds since 1970
    pub created: i64,
    /// how long it took
    pub seconds: f64,
    /// how it was made
    pub recipe: Value,
}

impl Store {
    /// Keeps a picture; `small` is the same for lists. Gives its number.
    pub fn add_picture(&self, recipe: &str, seconds: f64, png: &[u8], small: &[u8]) -> Result<i64> {
        let db = self.db();
        let sql = "INSERT INTO pictures(created, seconds, recipe, png, small) VALUES (?1, ?2, ?3, ?4, ?5)";
        db.execute(sql, params![now(), seconds, recipe, png, small]).map_err(said)?;
        Ok(db.last_insert_rowid())
    }

    /// The latest pictures, or those before a number.
    pub fn pictures(&self, before: Option<i64>) -> Result<Vec<Listed>> {
        let db = self.db();
        let sql = "SELECT id, created, seconds, recipe FROM pictures WHERE id < ?1 ORDER BY id DESC LIMIT ?2";
        let mut statement = db.prepare(sql).map_err(said)?;
        let rows = statement.query_map([before.unwrap_or(i64::MAX), LISTED as i64], |r| {
            Ok(Listed { id: r.get(0)?, created: r.get(1)?, seconds: r.get(2)?, recipe: json(r.get(3)?) })
        });
        rows.and_then(Iterator::collect).map_err(said)
    }

    /// A picture's file, or that for lists.
    pub fn picture(&self, id: i64, small: bool) -> Result<Option<Vec<u8>>> {
        let sql = format!("SELECT {} FROM pictures WHERE id = ?1", if small { "small" } else { "png" });
        self.db().query_row(&sql, [id], |r| r.get(0)).optional().map_err(said)
    }

    /// Deletes a picture, or all of them, for real. Gives how many there were.
    pub fn delete_pictures(&self, id: Option<i64>) -> Result<usize> {
        let db = self.db();
        let known = match id {
            Some(id) => db.execute("DELETE FROM pictures WHERE id = ?1", [id]),
            None => db.execute("DELETE FROM pictures", []),
        };
        let known = known.map_err(said)?;
        Store::scrub(&db).map_err(said)?;
        Ok(known)
    }
}
