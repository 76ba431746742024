//! Bounded completion of what a call has left.

use jobkit_core::storage::{Step, StepRequest};
use jobkit_core::{BatchId, Timestamp, bounds};

use crate::batches::{steps, touched};
use crate::codec::{at, bytes16, int, uint};
use crate::error::SqlResult;
use crate::jobs::finish::{decide_children, finish_step};
use crate::limits::admission;
use crate::txn::Txn;
use crate::txn::marks::{Budget, Mark, STEP};

/// One bounded step through marks, limits with room, and batches that were never started.
pub(crate) fn sweep(
    txn: &mut Txn<'_, '_>,
    request: StepRequest,
    now: Timestamp,
) -> SqlResult<Step> {
    let mut budget = Budget(request.max.clamp(1, STEP));
    let mut done = 0;
    let mut limits_left = true;
    txn.recheck_limits_at = None;
    let told = txn.marks;

    while budget.0 > 0 {
        let mark = txn.db.one(
            "SELECT id, what, subject, arg, done, until FROM jk_mark ORDER BY id LIMIT 1",
            [],
            |row| {
                let subject = bytes16(row.get_ref(2)?.as_blob()?);
                let mark = Mark::of(row.get(1)?, subject, row.get(3)?);
                Ok((row.get::<_, i64>(0)?, mark, row.get::<_, i64>(4)?, row.get::<_, i64>(5)?))
            },
        )?;
        let Some((id, mark, from, until)) = mark else { break };
        let before = budget.0;
        let rest = match mark {
            // Whoever cancelled it, or an enclosing batch, has marked work of its own behind this mark.
            Mark::Start { batch } | Mark::StartNested { batch }
                if touched::is_cancelled(txn, batch)? =>
            {
                None
            }
            Mark::Decide { parent, verdict } => {
                decide_children(txn, parent, verdict, until, now, &mut budget)?.then_some(from)
            }
            Mark::Start { .. } | Mark::Cancel { .. } | Mark::Discard { .. } => {
                steps::members_step(txn, &mark, from, until, &mut budget, now)?
            }
            Mark::StartNested { .. } | Mark::CancelNested { .. } | Mark::DiscardNested { .. } => {
                steps::nested_step(txn, &mark, from, until, &mut budget, now)?
            }
        };
        done += (before - budget.0).max(1);
        match rest {
            Some(rest) => {
                txn.db.run("UPDATE jk_mark SET done = ?2 WHERE id = ?1", [id, rest])?;
            }
            None => {
                txn.db.run("DELETE FROM jk_mark WHERE id = ?1", [id])?;
            }
        }
        finish_step(txn, now, &mut budget)?;
    }

    // The answer tells of the marks that are left.
    txn.marks = told;
    if budget.0 > 0 {
        done += discard_batches(txn, now, &mut budget)?;
        txn.marks = told;
        let from = txn.meta("limits_from")?;
        let (admitted, next) = admission::admit_at_open_limits(txn, int(from), budget.0, now)?;
        done += admitted;
        limits_left = next.is_some();
        let next = uint(next.unwrap_or(0));
        if next != from {
            txn.set_meta("limits_from", next)?;
        }
    }
    let more = txn.db.one("SELECT 1 FROM jk_mark LIMIT 1", [], |_| Ok(()))?.is_some();
    let filling = txn.db.one(
        "SELECT min(attached_at) FROM jk_batch INDEXED BY jk_batch_filling \
         WHERE started_at IS NULL AND with_parent = 0",
        [],
        |row| row.get::<_, Option<i64>>(0),
    )?;
    let discard_at = filling.flatten().map(|since| at(since).plus(bounds::BATCH_FILLING));
    // The answer tells of this, too.
    let next_at = discard_at.into_iter().chain(txn.recheck_limits_at.take()).min();
    Ok(Step {
        done,
        more: more || limits_left || discard_at.is_some_and(|at| at <= now),
        next_in: next_at.map(|at| at.since(now)),
    })
}

/// Discards batches that were not started in time.
fn discard_batches(txn: &mut Txn<'_, '_>, now: Timestamp, budget: &mut Budget) -> SqlResult<usize> {
    let stale = txn.db.all(
        "SELECT id FROM jk_batch INDEXED BY jk_batch_filling \
         WHERE started_at IS NULL AND with_parent = 0 AND attached_at <= ?1 ORDER BY attached_at, id LIMIT 10",
        [now.minus(bounds::BATCH_FILLING).as_micros()],
        |row| Ok(BatchId::from_bytes(bytes16(row.get_ref(0)?.as_blob()?))),
    )?;
    for batch in &stale {
        // One of them may have been inside another one, and discarded with that.
        if !touched::is_filling(txn, *batch)? {
            continue;
        }
        steps::end_batch(txn, Mark::Discard { batch: *batch }, now, budget)?;
        finish_step(txn, now, &mut Budget(bounds::CHILDREN_IN_SETTLE))?;
    }
    Ok(stale.len())
}
