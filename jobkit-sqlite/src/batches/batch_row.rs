//! Rows of batches.

use jobkit_core::batch::BatchRecord;
use jobkit_core::edge::{BatchCounts, Finish};
use jobkit_core::storage::WholeBatch;
use jobkit_core::{BatchId, Timestamp};
use rusqlite::{Row, params};

use crate::codec::{at, bytes16, int, size, uint};
use crate::connection::Db;
use crate::error::SqlResult;
use crate::txn::TouchedBatch;

/// The columns that [`read`] reads.
macro_rules! select_batch {
    ($rest:literal) => {
        concat!(
            "SELECT id, name, total, succeeded, failed, deleted, created_at, attached_at, started_at, ",
            "completed_at, succeeded_at, cancelled_at, parent, lost, counted, with_parent ",
            "FROM jk_batch ",
            $rest
        )
    };
}
pub(crate) use select_batch;

pub(crate) fn read(row: &Row<'_>) -> rusqlite::Result<BatchRecord> {
    let instant = |column| -> rusqlite::Result<_> {
        Ok(row.get::<_, Option<i64>>(column)?.map(Timestamp::from_micros))
    };
    Ok(BatchRecord {
        id: BatchId::from_bytes(bytes16(row.get_ref(0)?.as_blob()?)),
        name: row.get(1)?,
        parent: row.get_ref(12)?.as_blob_or_null()?.map(|it| BatchId::from_bytes(bytes16(it))),
        counts: BatchCounts {
            total: uint(row.get(2)?),
            succeeded: uint(row.get(3)?),
            failed: uint(row.get(4)?),
            deleted: uint(row.get(5)?),
            lost: row.get(13)?,
        },
        created_at: at(row.get(6)?),
        attached_at: at(row.get(7)?),
        started_at: instant(8)?,
        completed_at: instant(9)?,
        succeeded_at: instant(10)?,
        cancelled_at: instant(11)?,
    })
}

pub(crate) fn read_touched(row: &Row<'_>) -> rusqlite::Result<TouchedBatch> {
    let counted = row.get::<_, Option<i64>>(14)?.map(finish_at);
    Ok(TouchedBatch { record: read(row)?, counted, with_parent: row.get(15)?, changed: false })
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

/// Stores a batch as another storage had it, with those members that are batches; `false` if it is there.
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
