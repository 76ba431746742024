//! A connection with its prepared statements and the names it knows.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use jobkit_core::Name;
use rusqlite::{Connection, OptionalExtension, Params, Row, Statement};

use crate::error::{Fault, SqlResult};

/// Stands for the namespace in the SQL of this crate.
const PLACEHOLDER: &str = "jk_";

/// A connection, used by one thread.
///
/// Prepared statements are kept by the address of their text. That costs less than to hash the text,
/// which shows at a hundred thousand statements a second, and it needs no feature of `rusqlite` that
/// only some of the supported versions have.
pub(crate) struct Db<'c> {
    pub(crate) conn: &'c Connection,
    prefix: Arc<str>,
    kept: RefCell<HashMap<(usize, usize), Vec<Statement<'c>>>>,
    names: RefCell<Names>,
    is_utf8: Cell<Option<bool>>,
}

/// Every statement that any connection of this process prepared, for the test of their plans.
#[cfg(test)]
pub(crate) static PREPARED: std::sync::Mutex<std::collections::BTreeSet<&'static str>> =
    std::sync::Mutex::new(std::collections::BTreeSet::new());

impl fmt::Debug for Db<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Db").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// Names of queues, kinds and servers that were looked up. A number never changes its meaning once it
/// is committed.
#[derive(Debug, Default)]
struct Names {
    by_text: HashMap<Name, i64>,
    by_id: HashMap<i64, Name>,
}

/// A statement that goes back to its connection.
pub(crate) struct Prepared<'d, 'c> {
    db: &'d Db<'c>,
    key: (usize, usize),
    statement: Option<Statement<'c>>,
}

impl<'c> Deref for Prepared<'_, 'c> {
    type Target = Statement<'c>;

    fn deref(&self) -> &Statement<'c> {
        self.statement.as_ref().expect("taken only by drop")
    }
}

impl<'c> DerefMut for Prepared<'_, 'c> {
    fn deref_mut(&mut self) -> &mut Statement<'c> {
        self.statement.as_mut().expect("taken only by drop")
    }
}

impl Drop for Prepared<'_, '_> {
    fn drop(&mut self) {
        if let Some(statement) = self.statement.take()
            && let Some(kept) = self.db.kept.borrow_mut().get_mut(&self.key)
        {
            kept.push(statement);
        }
    }
}

impl<'c> Db<'c> {
    pub(crate) fn new(conn: &'c Connection, prefix: Arc<str>) -> Self {
        Self {
            conn,
            prefix,
            kept: RefCell::default(),
            names: RefCell::default(),
            is_utf8: Cell::default(),
        }
    }

    /// SQL with the namespace put in.
    pub(crate) fn sql(&self, text: &str) -> String {
        with_prefix(text, &self.prefix)
    }

    pub(crate) fn prepare(&self, text: &'static str) -> rusqlite::Result<Prepared<'_, 'c>> {
        let key = (text.as_ptr().addr(), text.len());
        let idle = self.kept.borrow_mut().entry(key).or_default().pop();
        let statement = match idle {
            Some(statement) => statement,
            None => {
                #[cfg(test)]
                PREPARED.lock().expect("no test panics here").insert(text);
                self.conn.prepare(&self.sql(text))?
            }
        };
        Ok(Prepared { db: self, key, statement: Some(statement) })
    }

    /// Runs a statement; how many rows it changed.
    pub(crate) fn run(&self, text: &'static str, params: impl Params) -> rusqlite::Result<usize> {
        self.prepare(text)?.execute(params)
    }

    /// The first row.
    pub(crate) fn one<T>(
        &self,
        text: &'static str,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Option<T>> {
        self.prepare(text)?.query_row(params, read).optional()
    }

    /// All rows.
    pub(crate) fn all<T>(
        &self,
        text: &'static str,
        params: impl Params,
        mut read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Vec<T>> {
        let mut statement = self.prepare(text)?;
        let mut rows = statement.query(params)?;
        let mut all = Vec::new();
        while let Some(row) = rows.next()? {
            all.push(read(row)?);
        }
        Ok(all)
    }

    /// The name with a number; a stand-in if the number is corrupt.
    pub(crate) fn name(&self, id: i64) -> SqlResult<Name> {
        if let Some(name) = self.names.borrow().by_id.get(&id) {
            return Ok(name.clone());
        }
        let read =
            self.one("SELECT text FROM jk_name WHERE id = ?1", [id], |row| row.get::<_, String>(0));
        let text = match read.map_err(Fault::from) {
            Ok(Some(text)) => text,
            // A corrupt number gets a name that no server serves. An error here would fail every claim
            // that meets the lane.
            Ok(None) => return Ok(unnamed(id)),
            Err(fault) if fault.is_corrupt_row() => return Ok(unnamed(id)),
            Err(fault) => return Err(fault),
        };
        let name = Name::from_stored(text);
        self.names.borrow_mut().keep(id, &name);
        Ok(name)
    }

    /// The number of a name, if it has one.
    pub(crate) fn name_id(&self, name: &Name) -> SqlResult<Option<i64>> {
        if let Some(id) = self.names.borrow().by_text.get(name) {
            return Ok(Some(*id));
        }
        let id =
            self.one("SELECT id FROM jk_name WHERE text = ?1", [name.as_str()], |row| row.get(0))?;
        if let Some(id) = id {
            self.names.borrow_mut().keep(id, name);
        }
        Ok(id)
    }

    /// The number of a name, given now if it has none.
    pub(crate) fn intern(&self, name: &Name) -> SqlResult<i64> {
        if let Some(id) = self.name_id(name)? {
            return Ok(id);
        }
        self.run("INSERT INTO jk_name (text) VALUES (?1)", [name.as_str()])?;
        let id = self.conn.last_insert_rowid();
        self.names.borrow_mut().keep(id, name);
        Ok(id)
    }

    /// Whether texts are stored in UTF-8. That is fixed when the file is created, which may be done by
    /// an application that shares it.
    pub(crate) fn is_utf8(&self) -> SqlResult<bool> {
        if let Some(known) = self.is_utf8.get() {
            return Ok(known);
        }
        let name = self.one("PRAGMA encoding", [], |row| row.get::<_, String>(0))?;
        let is_utf8 = name.as_deref() == Some("UTF-8");
        self.is_utf8.set(Some(is_utf8));
        Ok(is_utf8)
    }

    /// Called after a rollback: numbers that were assigned in it mean nothing.
    pub(crate) fn forget_names(&self) {
        *self.names.borrow_mut() = Names::default();
    }
}

impl Names {
    fn keep(&mut self, id: i64, name: &Name) {
        // Each restart of a server brings a new name.
        if self.by_id.len() > 10_000 {
            *self = Self::default();
        }
        self.by_text.insert(name.clone(), id);
        self.by_id.insert(id, name.clone());
    }
}

/// A name for a number that has none: 64 bytes at most, like any other.
fn unnamed(id: i64) -> Name {
    Name::from_stored(format!("unnamed.{id}"))
}

pub(crate) fn with_prefix(text: &str, prefix: &str) -> String {
    text.replace(PLACEHOLDER, prefix)
}
