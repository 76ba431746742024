//! Rows of batches.

use jobkit_core::batch::BatchRecord;
use jobkit_core::edge::{BatchCounts, Finish};
use jobkit_core::storage::WholeBatch;
use jobkit_core::{BatchId, Timestamp};
use rusqlite::{Row, params};

use crate::codec::sql_text::columns;
use crate::codec::{at, bytes16, int, size, uint};
use crate::connection::Db;
use crate::error::SqlResult;
use crate::txn::TouchedBatch;

columns! {
    /// The columns of a batch.
    column, batch_columns,
    ID = "id",
    NAME = "name",
    TOTAL = "total",
    SUCCEEDED = "succeeded",
    FAILED = "failed",
    DELETED = "deleted",
    CREATED_AT = "created_at",
    ATTACHED_AT = "attached_at",
    STARTED_AT = "started_at",
    COMPLETED_AT = "completed_at",
    SUCCEEDED_AT = "succeeded_at",
    CANCELLED_AT = "cancelled_at",
    PARENT = "parent",
    LOST = "lost",
    COUNTED = "counted",
    WITH_PARENT = "with_parent",
}

/// Selects the columns of a batch.
macro_rules! select_batch {
    ($rest:literal) => {
        concat!("SELECT ", $crate::batches::batch_row::batch_columns!(), " FROM jk_batch ", $rest)
    };
}
pub(crate) use select_batch;

pub(crate) fn read(row: &Row<'_>) -> rusqlite::Result<BatchRecord> {
    let instant = |index| -> rusqlite::Result<_> {
        Ok(row.get::<_, Option<i64>>(index)?.map(Timestamp::from_micros))
    };
    Ok(BatchRecord {
        id: BatchId::from_bytes(bytes16(row.get_ref(column::ID)?.as_blob()?)),
        name: row.get(column::NAME)?,
        parent: row
            .get_ref(column::PARENT)?
            .as_blob_or_null()?
            .map(|it| BatchId::from_bytes(bytes16(it))),
        counts: BatchCounts {
            total: uint(row.get(column::TOTAL)?),
            succeeded: uint(row.get(column::SUCCEEDED)?),
            failed: uint(row.get(column::FAILED)?),
            deleted: uint(row.get(column::DELETED)?),
            lost: row.get(column::LOST)?,
        },
        created_at: at(row.get(column::CREATED_AT)?),
        attached_at: at(row.get(column::ATTACHED_AT)?),
        started_at: instant(column::STARTED_AT)?,
        completed_at: instant(column::COMPLETED_AT)?,
        succeeded_at: instant(column::SUCCEEDED_AT)?,
        cancelled_at: instant(column::CANCELLED_AT)?,
    })
}

pub(crate) fn read_touched(row: &Row<'_>) -> rusqlite::Result<TouchedBatch> {
    let counted = row.get::<_, Option<i64>>(column::COUNTED)?.map(finish_at);
    Ok(TouchedBatch {
        record: read(row)?,
        counted,
        with_parent: row.get(column::WITH_PARENT)?,
        changed: false,
    })
}

const fn finish_at(number: i64) -> Finish {
    match number {
        0 => Finish::Succeeded,
        1 => Finish::Failed,
        _ => Finish::Deleted,
    }
}

pub(crate) const fn finish_number(finish: Finish) -> i64 {
    match finish {
        Finish::Succeeded => 0,
        Finish::Failed => 1,
        Finish::Deleted => 2,
    }
}

/// Batches by id, after one, with what their records do not show.
pub(crate) fn wholes(
    db: &Db<'_>,
    after: Option<BatchId>,
    limit: usize,
) -> SqlResult<Vec<WholeBatch>> {
    let after = after.map(|id| id.as_bytes().to_vec()).unwrap_or_default();
    let text = select_batch!("WHERE id > ?1 ORDER BY id LIMIT ?2");
    let found = db.all(text, params![after, size(limit)], read_touched)?;
    let whole = |it: TouchedBatch| WholeBatch {
        record: it.record,
        counted: it.counted,
        starts_with_parent: it.with_parent,
    };
    Ok(found.into_iter().map(whole).collect())
}

/// Stores a batch as another storage had it, counting the batches inside it as members; `false` if it
/// exists.
pub(crate) fn import(db: &Db<'_>, whole: &WholeBatch) -> SqlResult<bool> {
    let WholeBatch { record, counted, starts_with_parent } = whole;
    let instant = |at: Option<Timestamp>| at.map(Timestamp::as_micros);
    let stored = db.run(
        "INSERT INTO jk_batch (id, name, total, succeeded, failed, deleted, members, created_at, \
         attached_at, started_at, completed_at, succeeded_at, cancelled_at, parent, lost, counted, \
         with_parent) VALUES (?1, ?2, ?3, ?4, ?5, ?6, \
         (SELECT count(*) FROM jk_batch WHERE parent IS NOT NULL AND parent = ?1), \
         ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16) ON CONFLICT (id) DO NOTHING",
        params![
            &record.id.as_bytes()[..],
            record.name,
            int(record.counts.total),
            int(record.counts.succeeded),
            int(record.counts.failed),
            int(record.counts.deleted),
            record.created_at.as_micros(),
            record.attached_at.as_micros(),
            instant(record.started_at),
            instant(record.completed_at),
            instant(record.succeeded_at),
            instant(record.cancelled_at),
            record.parent.as_ref().map(|parent| &parent.as_bytes()[..]),
            record.counts.lost,
            counted.map(finish_number),
            starts_with_parent,
        ],
    )? > 0;
    if let Some(parent) = record.parent.as_ref().filter(|_| stored) {
        db.run(
            "UPDATE jk_batch SET members = members + 1 WHERE id = ?1",
            [&parent.as_bytes()[..]],
        )?;
    }
    Ok(stored)
}

pub(crate) fn load(db: &Db<'_>, id: BatchId) -> SqlResult<Option<BatchRecord>> {
    Ok(db.one(select_batch!("WHERE id = ?1"), [&id.as_bytes()[..]], read)?)
}
