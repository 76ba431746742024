//! Installing, migrating and checking the schema.

use jobkit_core::storage::Migrated;
use jobkit_core::{Error, ErrorKind};

use crate::codec::small;
use crate::connection::{Db, with_prefix};
use crate::error::SqlResult;

/// The schema that this release writes.
pub(crate) const VERSION: u32 = 6;
/// The oldest release, by the schema it writes, that may write to what this release has migrated.
///
/// Schema 2: an older release would complete a batch without counting it in the enclosing one. Schema
/// 3: it would not count the starts of a rate limit, and would free keys that are held for a period.
/// Only lists name what schema 5 dropped, so older releases keep working. What schema 6 adds matters
/// only when the clock goes back.
const OLDEST_WRITER: u32 = 3;

const MIGRATIONS: [&str; 6] = [
    include_str!("../migrations/001_initial.sql"),
    include_str!("../migrations/002_nested_batches.sql"),
    include_str!("../migrations/003_rate_limits_and_periods.sql"),
    include_str!("../migrations/004_operators.sql"),
    include_str!("../migrations/005_one_list_of_finished_jobs.sql"),
    include_str!("../migrations/006_what_was_fired.sql"),
];

/// The SQL that brings a namespace from schema `from` (0: nothing) to the present one, to be read or
/// run by hand.
///
/// # Example: what a first start would do
/// ```
/// assert!(jobkit_sqlite::print_migrations("jobkit", 0).contains("CREATE TABLE jobkit_job"));
/// ```
pub fn print_migrations(namespace: &str, from: u32) -> String {
    let mut out = String::from("BEGIN IMMEDIATE;\n");
    let from = usize::try_from(from).unwrap_or(usize::MAX);
    for migration in MIGRATIONS.iter().skip(from) {
        out.push_str(migration);
    }
    out.push_str(&mark(VERSION, OLDEST_WRITER));
    out.push_str("COMMIT;\n");
    with_prefix(&out, &format!("{namespace}_"))
}

fn mark(version: u32, oldest_writer: u32) -> String {
    format!(
        "INSERT INTO jk_meta (key, value) VALUES ('version', {version}), \
         ('oldest_writer', {oldest_writer})\n\
         ON CONFLICT (key) DO UPDATE SET value = excluded.value;\n"
    )
}

/// The schema's version, zero without one, and the oldest writer it admits.
fn version(db: &Db<'_>) -> SqlResult<(u32, u32)> {
    let there: Option<i64> = db
        .conn
        .query_row(
            "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = ?1",
            [db.sql("jk_meta")],
            |row| row.get(0),
        )
        .map(Some)?;
    if there == Some(0) {
        return Ok((0, 0));
    }
    // Not kept as prepared statements: the table may just have appeared.
    let read = |key: &str| -> SqlResult<u32> {
        let mut statement = db.conn.prepare(&db.sql("SELECT value FROM jk_meta WHERE key = ?1"))?;
        let mut rows = statement.query([key])?;
        Ok(match rows.next()? {
            Some(row) => small(row.get(0)?),
            None => 0,
        })
    };
    Ok((read("version")?, read("oldest_writer")?))
}

/// Whether this release may use what is there.
pub(crate) fn check(db: &Db<'_>) -> SqlResult<u32> {
    let (version, oldest_writer) = version(db)?;
    if oldest_writer > VERSION {
        return Err(refusal(version, oldest_writer).into());
    }
    Ok(version)
}

fn refusal(version: u32, oldest_writer: u32) -> Error {
    Error::new(
        ErrorKind::Schema,
        format!(
            "the database has schema {version}, which releases that write schema \
             {oldest_writer} or later may use, and this release writes schema {VERSION}: \
             upgrade jobkit-sqlite"
        ),
    )
}

/// The same check for a namespace that is open already, since a newer release may have migrated it. It
/// runs in the transaction that will write, so that no migration can come between.
pub(crate) fn check_again(db: &Db<'_>) -> SqlResult {
    let read = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
    let oldest_writer =
        db.one("SELECT value FROM jk_meta WHERE key = 'oldest_writer'", [], read)?.map_or(0, small);
    if oldest_writer > VERSION {
        let version = db.one("SELECT value FROM jk_meta WHERE key = 'version'", [], read)?;
        return Err(refusal(version.map_or(0, small), oldest_writer).into());
    }
    Ok(())
}

/// Brings the schema up to date. Call it in a transaction that holds the write lock: of two processes
/// at once the second then finds it done.
pub(crate) fn migrate(db: &Db<'_>) -> SqlResult<Migrated> {
    let from = check(db)?;
    if from < VERSION {
        for migration in MIGRATIONS.iter().skip(usize::try_from(from).unwrap_or(usize::MAX)) {
            db.conn.execute_batch(&db.sql(migration))?;
        }
        db.conn.execute_batch(&db.sql(&mark(VERSION, OLDEST_WRITER)))?;
    }
    // A newer schema that admits this release is left as it is.
    Ok(Migrated { from, to: from.max(VERSION) })
}
