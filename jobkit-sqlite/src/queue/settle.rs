//! `settle`.

use jobkit_core::error_group::ErrorGroup;
use jobkit_core::record::Lease;
use jobkit_core::state_machine::Event;
use jobkit_core::storage::{Settle, SettleAnswer, SettleRequest};
use jobkit_core::{Timestamp, bounds};
use rusqlite::params;

use super::lease::leased_if_readable;
use crate::codec::job_row::{
    HAS_SIDE_ROWS, INLINE_BYTES, Job, RESULT_OVERFLOWS, result_overflow_id,
};
use crate::codec::{int, size};
use crate::error::SqlResult;
use crate::jobs::finish::decide_finished;
use crate::jobs::read;
use crate::jobs::transition::{TransitionContext, transition};
use crate::limits::admission;
use crate::log::lines;
use crate::txn::Txn;
use crate::txn::marks::Budget;

pub(crate) fn settle_all(
    txn: &mut Txn<'_, '_>,
    request: &SettleRequest,
    now: Timestamp,
) -> SqlResult<Vec<SettleAnswer>> {
    // What one call decides is bounded; the rest is left to sweeps.
    let mut left = bounds::CHILDREN_IN_CALL;
    let settle_one = |settle| {
        let budget = bounds::CHILDREN_IN_SETTLE.min(left);
        let mut unused = Budget(budget);
        let answer = settle_one(txn, settle, now, &mut unused);
        left -= budget - unused.0;
        answer
    };
    let answers = request.settles.iter().map(settle_one).collect();
    txn.pending.flush(txn.db)?;
    // Once for all: many may have freed slots of one limit.
    admission::admit_waiters(txn, now)?;
    answers
}

fn settle_one(
    txn: &mut Txn<'_, '_>,
    settle: &Settle,
    now: Timestamp,
    children: &mut Budget,
) -> SqlResult<SettleAnswer> {
    let lease = &settle.lease;
    let Some(mut job) = leased_to_settle(txn, lease)? else {
        return Ok(SettleAnswer::LeaseLost);
    };
    txn.pending.begin(txn.db, &job)?;
    if !job.head.is_held_by(lease.fence, lease.incarnation) {
        let again = job.head.settled == Some((lease.fence, lease.incarnation))
            && job.head.fence == lease.fence;
        return Ok(if again { SettleAnswer::AlreadyApplied } else { SettleAnswer::LeaseLost });
    }
    if let Err(refusal) = settle.check() {
        return Ok(SettleAnswer::Refused(refusal));
    }
    let result = settle.kept_result();

    let overflows = result.is_some_and(|result| result.len() > INLINE_BYTES);
    if overflows
        || settle.error.is_some()
        || !settle.log.is_empty()
        || settle.log_dropped > 0
        || !settle.progress.is_empty()
    {
        job.set(HAS_SIDE_ROWS, true);
    }
    if overflows {
        job.set(RESULT_OVERFLOWS, true);
    }
    let context = TransitionContext {
        duration: settle.duration,
        retention: Some(settle.retention),
        ..TransitionContext::at(now)
    };
    // A held job accepts every ending.
    let _ = transition(txn, &mut job, &Event::Settle(settle.ending), &context)?;
    match result {
        Some(result) if overflows => {
            txn.db.run(
                "INSERT INTO jk_payload (id, body) VALUES (?1, ?2) \
                 ON CONFLICT (id) DO UPDATE SET body = excluded.body",
                params![result_overflow_id(job.seq), result.as_bytes()],
            )?;
        }
        Some(result) => {
            txn.db.run(
                "UPDATE jk_job SET result = ?2 WHERE seq = ?1",
                params![job.seq, result.as_bytes()],
            )?;
        }
        None => {}
    }
    if let Some(error) = &settle.error {
        if settle.ending.has_failed(job.state()) {
            let kind = txn.db.name(job.kind)?;
            txn.counters.count_failure(ErrorGroup::first(&kind, job.id, error, now));
        }
        txn.db.run(
            "INSERT OR REPLACE INTO jk_error (seq, fence, failures, at, fingerprint, detail) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                job.seq,
                int(lease.fence),
                job.head.failures,
                now.as_micros(),
                error.fingerprint.0.cast_signed(),
                serde_json::to_string(error)?
            ],
        )?;
        txn.db.run(
            "DELETE FROM jk_error WHERE seq = ?1 AND fence <= \
             (SELECT fence FROM jk_error WHERE seq = ?1 ORDER BY fence DESC LIMIT 1 OFFSET ?2)",
            [job.seq, size(bounds::ATTEMPT_ERRORS)],
        )?;
    }
    lines::append(txn, job.seq, lease.fence, &settle.log, settle.log_dropped)?;
    lines::set_progress(txn, job.seq, &settle.progress)?;
    decide_finished(txn, now, children)?;
    Ok(SettleAnswer::Settled(job.state()))
}

/// The same, from memory if the job was claimed a moment ago.
fn leased_to_settle(txn: &mut Txn<'_, '_>, lease: &Lease) -> SqlResult<Option<Job>> {
    let seq = int(lease.locator.0);
    if txn.pending.contains(seq) {
        txn.pending.flush(txn.db)?;
    }
    if let Some(job) = txn.carried.claimed.take(seq)
        && job.id == lease.job
    {
        debug_assert!(
            !matches!(read::load(txn.db, seq), Ok(Some(stored)) if stored != job),
            "{seq} was changed"
        );
        return Ok(Some(job));
    }
    let found = leased_if_readable(txn, lease)?;
    if found.as_ref().is_some_and(|job| txn.pending.contains(job.seq)) {
        txn.pending.flush(txn.db)?;
        return leased_if_readable(txn, lease);
    }
    Ok(found)
}
