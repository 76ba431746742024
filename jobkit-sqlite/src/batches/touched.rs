//! Batches that a transaction reads: each once, and written when the step ends.

use std::collections::BTreeSet;

use jobkit_core::batch::{BatchRecord, NewBatch, Starts};
use jobkit_core::edge::{Finish, Parent};
use jobkit_core::{BatchId, Timestamp};
use rusqlite::params;

use super::batch_row::{finish_number, read_touched, select_batch};
use crate::codec::int;
use crate::error::SqlResult;
use crate::txn::marks::Verdict;
use crate::txn::{TouchedBatch, Txn};

/// A batch as this transaction has left it.
pub(crate) fn batch<'t>(
    txn: &'t mut Txn<'_, '_>,
    id: BatchId,
) -> SqlResult<Option<&'t mut TouchedBatch>> {
    if !txn.batches.contains_key(&id) {
        let found =
            txn.db.one(select_batch!("WHERE id = ?1"), [&id.as_bytes()[..]], read_touched)?;
        let Some(batch) = found else { return Ok(None) };
        txn.batches.insert(id, batch);
    }
    Ok(txn.batches.get_mut(&id))
}

/// A batch and the enclosing ones, innermost first.
pub(crate) fn with_enclosing(txn: &mut Txn<'_, '_>, id: BatchId) -> SqlResult<Vec<BatchRecord>> {
    let mut enclosing: Vec<BatchRecord> = Vec::with_capacity(1);
    let mut next = Some(id);
    while let Some(id) = next
        && let Some(batch) = batch(txn, id)?
    {
        next = batch.record.parent;
        enclosing.push(batch.record.clone());
    }
    Ok(enclosing)
}

/// Whether a batch or an enclosing one was cancelled.
pub(crate) fn is_cancelled(txn: &mut Txn<'_, '_>, id: BatchId) -> SqlResult<bool> {
    let mut next = Some(id);
    while let Some(id) = next
        && let Some(batch) = batch(txn, id)?
    {
        if batch.record.cancelled_at.is_some() {
            return Ok(true);
        }
        next = batch.record.parent;
    }
    Ok(false)
}

pub(crate) fn is_filling(txn: &mut Txn<'_, '_>, id: BatchId) -> SqlResult<bool> {
    Ok(batch(txn, id)?.is_some_and(|batch| batch.record.started_at.is_none()))
}

/// Opens a batch. The caller has checked that its parent takes it.
pub(crate) fn open(txn: &mut Txn<'_, '_>, new: &NewBatch, now: Timestamp) -> SqlResult {
    let at_once = new.starts == Starts::AtOnce;
    let waits = match new.parent {
        Some(parent) => is_filling(txn, parent)?,
        None => false,
    };
    let started_at = (at_once && !waits).then_some(now);
    txn.db.run(
        "INSERT INTO jk_batch (id, name, total, succeeded, failed, deleted, members, created_at, \
         attached_at, started_at, parent, with_parent) \
         VALUES (?1, ?2, 0, 0, 0, 0, 0, ?3, ?3, ?4, ?5, ?6)",
        params![
            &new.id.as_bytes()[..],
            new.name,
            now.as_micros(),
            started_at.map(Timestamp::as_micros),
            new.parent.as_ref().map(|parent| &parent.as_bytes()[..]),
            at_once && waits,
        ],
    )?;
    if let Some(batch) = batch(txn, new.id)? {
        batch.changed = true;
    }
    if let Some(parent) = new.parent {
        attach(txn, parent, None, now)?;
    }
    Ok(())
}

/// Counts a new member.
pub(crate) fn attach(
    txn: &mut Txn<'_, '_>,
    id: BatchId,
    finish: Option<Finish>,
    now: Timestamp,
) -> SqlResult {
    if let Some(batch) = batch(txn, id)? {
        batch.changed = true;
        batch.record.counts.total = batch.record.counts.total.saturating_add(1);
        if let Some(finish) = finish {
            batch.record.counts.count(finish, 1);
        }
    }
    // A batch that is being filled is discarded some time after the last attach to it or to its
    // contents.
    let mut next = Some(id);
    while let Some(id) = next
        && let Some(batch) = batch(txn, id)?
    {
        batch.changed = true;
        batch.record.attached_at = now;
        next = batch.record.parent.filter(|_| batch.record.started_at.is_none());
    }
    txn.db.run("UPDATE jk_batch SET members = members + 1 WHERE id = ?1", [&id.as_bytes()[..]])?;
    Ok(())
}

/// Removes a member, and the batches that have none left, from the inside out.
pub(crate) fn remove_member(txn: &mut Txn<'_, '_>, id: BatchId) -> SqlResult {
    let mut next = Some(id);
    while let Some(id) = next {
        let parent = batch(txn, id)?.and_then(|batch| batch.record.parent);
        txn.db
            .run("UPDATE jk_batch SET members = members - 1 WHERE id = ?1", [&id.as_bytes()[..]])?;
        let emptied = txn.db.run(
            "DELETE FROM jk_batch WHERE id = ?1 AND members <= 0 AND total > 0",
            [&id.as_bytes()[..]],
        )?;
        if emptied == 0 {
            break;
        }
        txn.batches.remove(&id);
        next = parent;
    }
    Ok(())
}

/// Counts a member that was requeued, finished, or both.
pub(crate) fn recount(
    txn: &mut Txn<'_, '_>,
    id: BatchId,
    reopened: Option<Finish>,
    finished: Option<Finish>,
) -> SqlResult {
    if let Some(batch) = batch(txn, id)? {
        batch.changed = true;
        let counts = &mut batch.record.counts;
        if let Some(finish) = reopened {
            counts.count(finish, -1);
        }
        if let Some(finish) = finished {
            counts.count(finish, 1);
        }
    }
    Ok(())
}

/// Writes the batches that changed, and completes those whose members have all finished. What waits for
/// them is decided after what waits for those that ended before.
pub(crate) fn write_changed(txn: &mut Txn<'_, '_>, now: Timestamp) -> SqlResult {
    // In a deterministic order.
    let changed = txn.batches.iter().filter(|(_, batch)| batch.changed);
    let mut changed: BTreeSet<BatchId> = changed.map(|(id, _)| *id).collect();
    while let Some(id) = changed.pop_first() {
        let Some(batch) = txn.batches.get_mut(&id) else { continue };
        batch.changed = false;
        batch.record.advance(now);
        let record = batch.record.clone();
        let as_member = record.as_member();
        // How the enclosing batch counts it, if there is one.
        let counted = record.parent.map(|_| std::mem::replace(&mut batch.counted, as_member));
        write(txn, &record)?;
        if record.completed_at.is_some() {
            // Even without a change: deleting a Failed member makes success unmeetable.
            let verdict = Verdict::of(|on| on.decide_batch(true, &record.counts));
            txn.ended.push_back((Parent::Batch(id), verdict));
        }
        if let (Some(parent), Some(before)) = (record.parent, counted)
            && before != as_member
        {
            recount(txn, parent, before, as_member)?;
            changed.insert(parent);
        }
    }
    Ok(())
}

fn write(txn: &Txn<'_, '_>, batch: &BatchRecord) -> SqlResult {
    let instant = |at: Option<Timestamp>| at.map(Timestamp::as_micros);
    let Some(touched) = txn.batches.get(&batch.id) else { return Ok(()) };
    txn.db.run(
        "UPDATE jk_batch SET total = ?2, succeeded = ?3, failed = ?4, deleted = ?5, \
         attached_at = ?6, started_at = ?7, completed_at = ?8, succeeded_at = ?9, \
         cancelled_at = ?10, lost = ?11, counted = ?12, with_parent = ?13 WHERE id = ?1",
        params![
            &batch.id.as_bytes()[..],
            int(batch.counts.total),
            int(batch.counts.succeeded),
            int(batch.counts.failed),
            int(batch.counts.deleted),
            batch.attached_at.as_micros(),
            instant(batch.started_at),
            instant(batch.completed_at),
            instant(batch.succeeded_at),
            instant(batch.cancelled_at),
            batch.counts.lost,
            touched.counted.map(finish_number),
            touched.with_parent,
        ],
    )?;
    Ok(())
}

pub(crate) fn last_number(txn: &Txn<'_, '_>) -> SqlResult<i64> {
    let last = txn.db.one("SELECT max(num) FROM jk_batch", [], |row| row.get(0))?;
    Ok(last.flatten().unwrap_or(0))
}
