//! The state that operators keep: bulk operations and the audit.

use jobkit_core::ids::OperationId;
use jobkit_core::storage::{AuditEntry, BulkRecord};
use jobkit_core::{Timestamp, bounds};
use rusqlite::params;

use super::failures;
use crate::codec::{at, int, json, size};
use crate::connection::Db;
use crate::error::SqlResult;

/// The most rows of one kind that one step forgets.
const FORGOTTEN: i64 = 500;

fn key(id: &OperationId) -> &[u8] {
    &id.as_bytes()[..]
}

/// Stores a bulk operation if the stored version is the one before.
pub(super) fn save(db: &Db<'_>, bulk: &BulkRecord) -> SqlResult<bool> {
    let stored = db.one("SELECT version FROM jk_bulk WHERE id = ?1", [key(&bulk.id)], |row| {
        row.get::<_, i64>(0)
    })?;
    if int(bulk.version) != stored.unwrap_or(0) + 1 {
        return Ok(false);
    }
    db.run(
        "INSERT INTO jk_bulk (id, version, ended_at, body) VALUES (?1, ?2, ?3, ?4) \
         ON CONFLICT (id) DO UPDATE SET \
         version = excluded.version, ended_at = excluded.ended_at, body = excluded.body",
        params![
            key(&bulk.id),
            int(bulk.version),
            bulk.ended_at.map(Timestamp::as_micros),
            serde_json::to_string(bulk)?
        ],
    )?;
    Ok(true)
}

pub(super) fn bulk(db: &Db<'_>, id: OperationId) -> SqlResult<Option<BulkRecord>> {
    let body = db
        .one("SELECT body FROM jk_bulk WHERE id = ?1", [key(&id)], |row| row.get::<_, String>(0))?;
    body.map(|body| json(&body)).transpose()
}

/// Bulk operations that have not ended first, oldest first; then the others, newest first.
pub(super) fn bulks(db: &Db<'_>, limit: usize) -> SqlResult<Vec<BulkRecord>> {
    let mut bodies = db.all(
        "SELECT body FROM jk_bulk WHERE ended_at IS NULL ORDER BY id LIMIT ?1",
        [size(limit)],
        |row| row.get::<_, String>(0),
    )?;
    bodies.extend(db.all(
        "SELECT body FROM jk_bulk WHERE ended_at IS NOT NULL ORDER BY id DESC LIMIT ?1",
        [size(limit - bodies.len())],
        |row| row.get::<_, String>(0),
    )?);
    Ok(readable(&bodies, "bulk operation"))
}

/// Reads what can be read: a row that cannot must not hide the others.
fn readable<T: serde::de::DeserializeOwned>(bodies: &[String], what: &str) -> Vec<T> {
    let read = |body: &String| {
        let read = json(body);
        if let Err(fault) = &read {
            tracing::warn!(what, error = %fault, "skipped an unreadable record of an operator");
        }
        read.ok()
    };
    bodies.iter().filter_map(read).collect()
}

/// Appends an entry, or replaces that of the same operation.
pub(super) fn append_audit(db: &Db<'_>, entry: &AuditEntry, now: Timestamp) -> SqlResult {
    let known =
        db.one("SELECT at FROM jk_audit WHERE operation = ?1", [key(&entry.operation)], |row| {
            row.get::<_, i64>(0)
        })?;
    let entry = AuditEntry { at: known.map_or(now, at), ..entry.clone() };
    db.run(
        "INSERT INTO jk_audit (operation, at, body) VALUES (?1, ?2, ?3) \
         ON CONFLICT (operation) DO UPDATE SET body = excluded.body",
        params![key(&entry.operation), entry.at.as_micros(), serde_json::to_string(&entry)?],
    )?;
    Ok(())
}

/// A page of the audit, newest first.
pub(super) fn audit(
    db: &Db<'_>,
    after: Option<OperationId>,
    limit: usize,
) -> SqlResult<Vec<AuditEntry>> {
    let after = match after {
        // An entry that was removed was among the oldest: none comes after it.
        Some(after) => db
            .one("SELECT n FROM jk_audit WHERE operation = ?1", [key(&after)], |row| row.get(0))?
            .unwrap_or(0),
        None => i64::MAX,
    };
    let bodies = db.all(
        "SELECT body FROM jk_audit WHERE n < ?1 ORDER BY n DESC LIMIT ?2",
        [after, size(limit)],
        |row| row.get::<_, String>(0),
    )?;
    Ok(readable(&bodies, "audit entry"))
}

/// Removes what is past its retention, in a bounded step.
pub(crate) fn forget_old(db: &Db<'_>, now: Timestamp) -> SqlResult {
    let before = |kept| [now.minus(kept).as_micros(), FORGOTTEN];
    failures::forget_old(db, before(bounds::ERROR_GROUP_KEPT))?;
    db.run(
        "DELETE FROM jk_bulk WHERE id IN (SELECT id FROM jk_bulk INDEXED BY jk_bulk_ended \
         WHERE ended_at IS NOT NULL AND ended_at < ?1 ORDER BY ended_at LIMIT ?2)",
        before(bounds::BULK_KEPT),
    )?;
    db.run(
        "DELETE FROM jk_audit WHERE n IN (SELECT n FROM jk_audit INDEXED BY jk_audit_at \
         WHERE at < ?1 ORDER BY at LIMIT ?2)",
        before(bounds::AUDIT_KEPT),
    )?;
    Ok(())
}
