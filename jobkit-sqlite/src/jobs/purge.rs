//! Removing what has expired, and what is beyond the number.

mod beyond;

use std::collections::HashMap;
use std::time::Duration;

use jobkit_core::batch::BatchRecord;
use jobkit_core::edge::{On, Parent};
use jobkit_core::state::StateName;
use jobkit_core::storage::{Step, StepRequest};
use jobkit_core::{BatchId, Timestamp};
use rusqlite::params;

use self::beyond::{Beyond, purge_beyond_number};
use super::finish::{decide_children, finish_step};
use super::read::read_jobs;
use crate::batches::touched;
use crate::codec::job_row::{
    CHILDREN, HAS_SIDE_ROWS, Job, args_overflow_id, result_overflow_id, select_job,
};
use crate::codec::sql_text::sql;
use crate::codec::{at, bytes16, int, size, uint};
use crate::error::SqlResult;
use crate::limits::slots;
use crate::monitoring::statistics;
use crate::operations::operator_state::forget_old;
use crate::txn::Txn;
use crate::txn::marks::{self, Budget, STEP, Verdict};

/// How long an empty batch is kept after it completed, and a lock that its owner does not renew.
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Empty batches that one step looks at.
const EMPTY_AT_ONCE: usize = 100;

/// What is known about batches whose members expired. It holds until something is decided.
#[derive(Debug, Default)]
struct BatchAnswers {
    /// Whether the members may be removed.
    may_go: HashMap<BatchId, bool>,
    /// Whether jobs wait only for the success of this batch and the enclosing ones.
    but_for_success: HashMap<BatchId, bool>,
}

pub(crate) fn purge(
    txn: &mut Txn<'_, '_>,
    request: StepRequest,
    number: Option<u64>,
    now: Timestamp,
) -> SqlResult<Step> {
    let max = request.max.clamp(1, STEP);
    let mut budget = Budget(STEP);
    // Members of a batch stay while its continuations have not finished. They must not block what
    // expires with them or later: a step that met any is followed by one that continues where it
    // stopped.
    let from = (int(txn.meta("purge_from")?), int(txn.meta("purge_seq")?));
    let mut expired = read_jobs(
        txn.db,
        select_job!(
            "INDEXED BY jk_expires WHERE expires_at IS NOT NULL AND expires_at = ?1 AND seq > ?2 \
             AND expires_at <= ?3 ORDER BY seq LIMIT ?4"
        ),
        params![from.0, from.1, now.as_micros(), size(max)],
    )?;
    let room = max - expired.len();
    expired.extend(read_jobs(
        txn.db,
        select_job!(
            "INDEXED BY jk_expires WHERE expires_at IS NOT NULL AND expires_at > ?1 \
             AND expires_at <= ?2 ORDER BY expires_at, seq LIMIT ?3"
        ),
        params![from.0, now.as_micros(), size(room)],
    )?);
    let full = expired.len() == max;
    let (mut removed, mut highest) = (0, 0);
    let (mut kept, mut reached) = (false, from);
    let mut answers = BatchAnswers::default();
    for job in expired {
        if budget.0 == 0 {
            break;
        }
        let job = match job {
            Ok(job) => job,
            Err(seq) => {
                // What belongs to it is unknown, so it stays for an operator to look at.
                txn.db.run("UPDATE jk_job SET expires_at = NULL WHERE seq = ?1", [seq])?;
                continue;
            }
        };
        reached = (job.expires_at.map_or(from.0, Timestamp::as_micros), job.seq);
        if remove_unless_needed(txn, &job, now, &mut budget, &mut answers)? {
            highest = highest.max(job.seq);
            removed += 1;
        } else {
            kept = true;
        }
    }
    // Continue to the end, so that each job that is kept is looked at once per round.
    let passed = kept || from != (0, 0);
    let resume = if full && passed { reached } else { (0, 0) };
    if resume != from {
        txn.set_meta("purge_from", uint(resume.0))?;
        txn.set_meta("purge_seq", uint(resume.1))?;
    }
    let mut beyond = Beyond::default();
    if let Some(number) = number {
        beyond = purge_beyond_number(txn, number, max - removed, now, &mut budget, &mut answers)?;
        highest = highest.max(beyond.highest);
        removed += beyond.removed;
    }
    if removed > 0 {
        let left = txn.db.one("SELECT max(seq) FROM jk_job", [], |row| row.get(0))?.flatten();
        if left.is_none_or(|left: i64| left < highest) {
            // Its sequence must not be given again.
            txn.set_meta("floor", txn.meta("floor")?.max(uint(highest)))?;
        }
    }
    finish_step(txn, now, &mut budget)?;
    removed += remove_empty_batches(txn, now)?;
    forget_old(txn.db, now)?;
    txn.db.run("DELETE FROM jk_lock WHERE expires_at < ?1", [now.minus(DAY).as_micros()])?;
    let keys = txn.db.run(
        "DELETE FROM jk_ukey WHERE hash IN (SELECT hash FROM jk_ukey INDEXED BY jk_ukey_until \
         WHERE until IS NOT NULL AND until <= ?1 ORDER BY until LIMIT ?2)",
        [now.as_micros(), size(max)],
    )?;
    let stripped = at(int(txn.meta("histograms")?));
    let strip_until = statistics::prune(txn.db, stripped, now)?;
    if strip_until > stripped {
        txn.set_meta("histograms", uint(strip_until.as_micros()))?;
    }
    let next = txn.db.one(
        "SELECT min(expires_at) FROM jk_job INDEXED BY jk_expires WHERE expires_at IS NOT NULL",
        [],
        |row| row.get::<_, Option<i64>>(0),
    )?;
    Ok(Step {
        done: removed,
        more: full || budget.0 == 0 || keys == max || beyond.more,
        next_in: next
            .flatten()
            .map(|next| at(next).since(now))
            .into_iter()
            .chain(beyond.next_in)
            .min(),
    })
}

/// Removes a finished job, unless something still needs it.
fn remove_unless_needed(
    txn: &mut Txn<'_, '_>,
    job: &Job,
    now: Timestamp,
    budget: &mut Budget,
    answers: &mut BatchAnswers,
) -> SqlResult<bool> {
    // Only a corrupt row expires before it has finished.
    if !job.state().is_finished() {
        return Ok(false);
    }
    if let Some(batch) = job.batch
        && !may_lose_members(txn, batch, job, now, budget, answers)?
    {
        return Ok(false);
    }
    if job.has(CHILDREN) {
        // Children that are given up may be what a batch waits for, or its continuations.
        *answers = BatchAnswers::default();
        if !release_children(txn, job, now, budget)? {
            return Ok(false);
        }
    }
    remove(txn, job, now)?;
    Ok(true)
}

/// Whether the members of a batch may be removed: it and every enclosing batch have completed, and what
/// waits for them has finished (G9).
fn may_lose_members(
    txn: &mut Txn<'_, '_>,
    id: BatchId,
    member: &Job,
    now: Timestamp,
    budget: &mut Budget,
    answers: &mut BatchAnswers,
) -> SqlResult<bool> {
    let failed = member.state() == StateName::Failed;
    if let Some(may_go) = answers.may_go.get(&id).filter(|_| !failed) {
        return Ok(*may_go);
    }
    let enclosing = touched::with_enclosing(txn, id)?;
    if enclosing.iter().any(|batch| batch.completed_at.is_none()) {
        answers.may_go.insert(id, false);
        return Ok(false);
    }
    let (lost, others) = enclosing.split_at(BatchRecord::lost_with_a_member(&enclosing));
    let losing = lost.iter().filter(|batch| !batch.counts.lost);
    let losing: Vec<BatchId> = losing.map(|batch| batch.id).collect();
    if failed && !losing.is_empty() {
        let but_for_success = match answers.but_for_success.get(&id) {
            Some(known) => *known,
            None => are_over(txn, lost, true)? && are_over(txn, others, false)?,
        };
        answers.but_for_success.insert(id, but_for_success);
        if but_for_success {
            // Without it none of these batches can succeed, and nothing may wait for that forever.
            for id in losing {
                if let Some(batch) = touched::batch(txn, id)? {
                    batch.record.counts.lost = true;
                    batch.changed = true;
                }
            }
            finish_step(txn, now, budget)?;
            *answers = BatchAnswers::default();
        }
    }
    let may_go = match answers.may_go.get(&id) {
        Some(known) => *known,
        None => are_over(txn, &enclosing, false)?,
    };
    answers.may_go.insert(id, may_go);
    Ok(may_go)
}

/// Whether nothing unfinished waits for any of these batches, or only for their success.
fn are_over(txn: &Txn<'_, '_>, batches: &[BatchRecord], but_for_success: bool) -> SqlResult<bool> {
    for batch in batches {
        if marks::is_marked(txn.db, Parent::Batch(batch.id))? {
            return Ok(false);
        }
        let unfinished = txn.db.one(
            sql!("SELECT 1 FROM jk_edge e INDEXED BY jk_edge_parent JOIN jk_job j ON j.seq = e.child \
             WHERE e.parent = ?1 AND e.batch = 1 \
             AND CASE WHEN e.decided <> 0 THEN j.state < {finished} ELSE NOT (?2 AND e.cond = {on_success}) END LIMIT 1"),
            params![&batch.id.as_bytes()[..], but_for_success],
            |_| Ok(()),
        )?;
        if unfinished.is_some() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Decides what still waits for a job that is removed; returns whether nothing is left.
fn release_children(
    txn: &mut Txn<'_, '_>,
    job: &Job,
    now: Timestamp,
    budget: &mut Budget,
) -> SqlResult<bool> {
    // Its own end decides first.
    if marks::is_marked(txn.db, Parent::Job(job.id))? {
        return Ok(false);
    }
    let until = txn.last_seq()?;
    let verdict = Verdict::of(On::decide_removed);
    Ok(!decide_children(txn, Parent::Job(job.id), verdict, until, now, budget)?)
}

fn remove(txn: &mut Txn<'_, '_>, job: &Job, now: Timestamp) -> SqlResult {
    let seq = job.seq;
    txn.db.run("DELETE FROM jk_job WHERE seq = ?1", [seq])?;
    // A finished job has none, unless its row was corrupt.
    slots::unadmit(txn, seq)?;
    if job.has(HAS_SIDE_ROWS) {
        txn.db.run(
            "DELETE FROM jk_payload WHERE id IN (?1, ?2)",
            [args_overflow_id(seq), result_overflow_id(seq)],
        )?;
        txn.db.run("DELETE FROM jk_error WHERE seq = ?1", [seq])?;
        txn.db.run("DELETE FROM jk_log WHERE seq = ?1", [seq])?;
        txn.db.run("DELETE FROM jk_log_tail WHERE seq = ?1", [seq])?;
        txn.db.run("DELETE FROM jk_progress WHERE seq = ?1", [seq])?;
        txn.db.run("DELETE FROM jk_memo WHERE seq = ?1", [seq])?;
        txn.db.run("DELETE FROM jk_checkpoint WHERE seq = ?1", [seq])?;
    }
    if job.parents > 0 {
        txn.db.run("DELETE FROM jk_edge WHERE child = ?1", [seq])?;
    }
    if let Some(batch) = job.batch {
        touched::remove_member(txn, batch)?;
    }
    let (queue, kind) = txn.lane(job.queue, job.kind)?;
    let state = job.state();
    txn.counters.delta(now).count_removed(&queue, &kind, state);
    Ok(())
}

/// Looks at the next empty batches. Those that must stay never block what expired after them: each step
/// continues where the last one stopped, and starts again at the end.
fn remove_empty_batches(txn: &mut Txn<'_, '_>, now: Timestamp) -> SqlResult<usize> {
    let until = now.minus(DAY).as_micros();
    let from = (int(txn.meta("empty_at")?), int(txn.meta("empty_num")?));
    let read = |row: &rusqlite::Row<'_>| -> rusqlite::Result<(i64, i64, BatchId)> {
        let id = BatchId::from_bytes(bytes16(row.get_ref(2)?.as_blob()?));
        Ok((row.get(0)?, row.get(1)?, id))
    };
    let mut empty = txn.db.all(
        "SELECT completed_at, num, id FROM jk_batch INDEXED BY jk_batch_empty \
         WHERE members = 0 AND completed_at IS NOT NULL AND completed_at = ?1 AND num > ?2 \
         AND completed_at <= ?3 ORDER BY num LIMIT ?4",
        [from.0, from.1, until, size(EMPTY_AT_ONCE)],
        read,
    )?;
    let left = EMPTY_AT_ONCE - empty.len();
    empty.extend(txn.db.all(
        "SELECT completed_at, num, id FROM jk_batch INDEXED BY jk_batch_empty \
         WHERE members = 0 AND completed_at IS NOT NULL AND completed_at > ?1 \
         AND completed_at <= ?2 ORDER BY completed_at, num LIMIT ?3",
        [from.0, until, size(left)],
        read,
    )?);
    let last = empty.last().filter(|_| empty.len() == EMPTY_AT_ONCE);
    let next = last.map_or((0, 0), |(at, num, _)| (*at, *num));
    if next != from {
        txn.set_meta("empty_at", uint(next.0))?;
        txn.set_meta("empty_num", uint(next.1))?;
    }
    let mut removed = 0;
    for (_, _, batch) in empty {
        let enclosing = touched::with_enclosing(txn, batch)?;
        let parent = enclosing.get(1).map(|parent| parent.id);
        let over = enclosing.iter().all(|batch| batch.completed_at.is_some());
        if !over || !are_over(txn, &enclosing, false)? {
            continue;
        }
        txn.db.run("DELETE FROM jk_batch WHERE id = ?1", [&batch.as_bytes()[..]])?;
        txn.batches.remove(&batch);
        removed += 1;
        if let Some(parent) = parent {
            touched::remove_member(txn, parent)?;
        }
    }
    Ok(removed)
}
