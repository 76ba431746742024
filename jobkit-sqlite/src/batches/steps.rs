//! Starting, cancelling and discarding batches: bounded steps through their contents, and marks for
//! what is left.

use jobkit_core::state::{Reason, StateName};
use jobkit_core::state_machine::Event;
use jobkit_core::{BatchId, Timestamp};
use rusqlite::params;

use super::touched;
use crate::codec::job_row::select_job;
use crate::codec::{bytes16, size};
use crate::error::SqlResult;
use crate::jobs::read::read_jobs;
use crate::jobs::transition::{TransitionContext, transition};
use crate::txn::Txn;
use crate::txn::marks::{self, Budget, Mark};

/// Handles members after `done` within the budget; returns the last one handled if there may be more.
pub(crate) fn members_step(
    txn: &mut Txn<'_, '_>,
    mark: &Mark,
    done: i64,
    until: i64,
    room: &mut Budget,
    now: Timestamp,
) -> SqlResult<Option<i64>> {
    let (batch, event) = match mark {
        Mark::Start { batch } => {
            (batch, Event::Decided { met: true, otherwise: Reason::Unmeetable })
        }
        Mark::Cancel { batch } => (batch, Event::Delete(Reason::BatchCancelled)),
        Mark::Discard { batch } => (batch, Event::Delete(Reason::BatchDiscarded)),
        _ => return Ok(None),
    };
    let max = room.0;
    let mut members = read_jobs(
        txn.db,
        select_job!(
            "INDEXED BY jk_member WHERE batch = ?1 AND seq > ?2 AND seq <= ?3 ORDER BY seq LIMIT ?4"
        ),
        params![&batch.as_bytes()[..], done, until, size(max + 1)],
    )?;
    let more = members.len() > max;
    members.truncate(max);
    room.0 -= members.len();
    let last = more.then(|| match members.last() {
        Some(Ok(job)) => job.seq,
        Some(Err(seq)) => *seq,
        None => done,
    });
    for mut job in members.into_iter().flatten() {
        // A start concerns only members that await it; finished jobs stay as they are.
        let meant = match (&event, job.state()) {
            (Event::Decided { .. }, state) => state == StateName::Awaiting,
            (_, state) => !state.is_finished(),
        };
        if meant {
            // A refusal means that the job is being cancelled already.
            let _ = transition(txn, &mut job, &event, &TransitionContext::at(now))?;
        }
    }
    Ok(last)
}

/// Starts a batch and its contents, as far as the budget allows.
pub(crate) fn begin_batch(
    txn: &mut Txn<'_, '_>,
    id: BatchId,
    now: Timestamp,
    room: &mut Budget,
) -> SqlResult {
    if let Some(batch) = touched::batch(txn, id)? {
        batch.record.started_at = Some(now);
        batch.with_parent = false;
        batch.changed = true;
    }
    begin_mark(txn, Mark::Start { batch: id }, true, now, room)
}

/// Cancels or discards a batch and its contents, as far as the budget allows.
pub(crate) fn end_batch(
    txn: &mut Txn<'_, '_>,
    mark: Mark,
    now: Timestamp,
    room: &mut Budget,
) -> SqlResult {
    if let Some(id) = mark.batch()
        && let Some(batch) = touched::batch(txn, id)?
    {
        batch.record.cancelled_at.get_or_insert(now);
        // So that it can complete.
        batch.record.started_at.get_or_insert(now);
        batch.with_parent = false;
        batch.changed = true;
    }
    begin_mark(txn, mark, true, now, room)
}

/// Takes the first bounded step of a mark, for members if it concerns any and then for batches inside,
/// and marks what is left.
fn begin_mark(
    txn: &mut Txn<'_, '_>,
    mark: Mark,
    members: bool,
    now: Timestamp,
    room: &mut Budget,
) -> SqlResult {
    if members {
        let until = txn.last_seq()?;
        if let Some(done) = members_step(txn, &mark, 0, until, room, now)? {
            marks::insert(txn, &mark, done, until)?;
        }
    }
    let (mark, until) = (mark.of_nested(), touched::last_number(txn)?);
    if let Some(done) = nested_step(txn, &mark, 0, until, room, now)? {
        marks::insert(txn, &mark, done, until)?;
    }
    Ok(())
}

/// Handles the batches inside one after number `done`; returns the last one handled if there may be
/// more.
pub(crate) fn nested_step(
    txn: &mut Txn<'_, '_>,
    mark: &Mark,
    done: i64,
    until: i64,
    room: &mut Budget,
    now: Timestamp,
) -> SqlResult<Option<i64>> {
    let Some(enclosing) = mark.batch() else { return Ok(None) };
    let nested = txn.db.all(
        "SELECT num, id FROM jk_batch INDEXED BY jk_batch_nested \
         WHERE parent IS NOT NULL AND parent = ?1 AND num > ?2 AND num <= ?3 ORDER BY num LIMIT ?4",
        params![&enclosing.as_bytes()[..], done, until, size(room.0 + 1)],
        |row| Ok((row.get::<_, i64>(0)?, BatchId::from_bytes(bytes16(row.get_ref(1)?.as_blob()?)))),
    )?;
    let mut last = done;
    for (num, id) in nested {
        if room.0 == 0 {
            return Ok(Some(last));
        }
        room.0 -= 1;
        last = num;
        let Some(batch) = touched::batch(txn, id)? else { continue };
        let (with_parent, is_cancelled) = (batch.with_parent, batch.record.cancelled_at.is_some());
        let (completed, open) = (batch.record.completed_at.is_some(), batch.record.counts.open());
        let end = match mark {
            Mark::StartNested { .. } if with_parent && !touched::is_cancelled(txn, id)? => {
                begin_batch(txn, id, now, room)?;
                continue;
            }
            Mark::CancelNested { .. } if !is_cancelled => Mark::Cancel { batch: id },
            Mark::DiscardNested { .. } if !is_cancelled => Mark::Discard { batch: id },
            _ => continue,
        };
        if completed {
            // It stays completed; but members of it, or of its contents, may have been requeued.
            begin_mark(txn, end, open > 0, now, room)?;
        } else {
            end_batch(txn, end, now, room)?;
        }
    }
    Ok(None)
}
