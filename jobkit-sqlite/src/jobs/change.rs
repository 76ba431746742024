//! Changes that operators and clients make to a job.

use jobkit_core::record::retention_of_deleted;
use jobkit_core::refusal::Refusal;
use jobkit_core::state::{Reason, StateName};
use jobkit_core::state_machine::{Event, Forbidden};
use jobkit_core::storage::{Action, Change, ChangeOutcome};
use jobkit_core::{Timestamp, bounds};
use rusqlite::params;

use super::finish::finish_step;
use super::read;
use super::transition::{TransitionContext, apply, evaluate};
use super::unique_keys;
use crate::codec::job_row::{Job, RESULT_OVERFLOWS, result_overflow_id};
use crate::error::SqlResult;
use crate::txn::Txn;
use crate::txn::marks::Budget;

pub(crate) fn change(
    txn: &mut Txn<'_, '_>,
    change: &Change,
    actor: Option<&str>,
    now: Timestamp,
) -> SqlResult<ChangeOutcome> {
    let Some(mut job) = read::find(txn.db, change.job)? else {
        return Ok(ChangeOutcome::Refused(Refusal::JobGone { job: change.job }));
    };
    if job.last_op == Some(change.operation) {
        return Ok(ChangeOutcome::AlreadyApplied);
    }
    if let Err(refusal) = change.guard.check(&job.head) {
        return Ok(ChangeOutcome::Refused(refusal));
    }
    let state = job.state();
    if let Err(refusal) = change.action.check_start_by(&job.head, job.start_by, now) {
        return Ok(ChangeOutcome::Refused(refusal));
    }
    if let Err(refusal) = change.action.check() {
        return Ok(ChangeOutcome::Refused(refusal));
    }

    let mut retention = None;
    let event = match &change.action {
        Action::Requeue { run_at } => Event::Requeue { run_at: *run_at },
        Action::Delete { keep } => {
            let extras = job.extras().ok().flatten();
            retention = Some(retention_of_deleted(extras.as_deref(), *keep));
            let running = state == StateName::Processing;
            Event::Delete(if running { Reason::Cancelled } else { Reason::Deleted })
        }
        Action::Reschedule { run_at } => Event::Reschedule { run_at: *run_at },
        Action::RunNow => Event::RunNow,
        Action::Move { .. } | Action::Retag { .. } => Event::Move,
    };
    let context = TransitionContext { actor, retention, ..TransitionContext::at(now) };
    let key = match (&event, job.unique()?) {
        (Event::Requeue { .. }, Some(unique)) if state.is_finished() => {
            match unique_keys::holder(txn, &unique.hash().0, now)? {
                Some((_, holder)) if holder != job.id => {
                    return Ok(ChangeOutcome::Refused(Refusal::UniqueConflict { holder }));
                }
                // The job holds the key for a period, and keeps it until that ends.
                Some(_) => None,
                None => Some(unique),
            }
        }
        _ => None,
    };
    let step = match evaluate(txn, &job, &event, &context)? {
        Ok(step) => step,
        Err(forbidden) => return Ok(ChangeOutcome::Refused(refusal(forbidden, &job))),
    };
    if let Some(key) = key.filter(|_| step.effects.takes_key) {
        unique_keys::take(txn, &key, job.seq, job.id, now)?;
    }
    if matches!(change.action, Action::Requeue { .. }) {
        txn.db.run("DELETE FROM jk_checkpoint WHERE seq = ?1", [job.seq])?;
        txn.db.run("DELETE FROM jk_memo WHERE seq = ?1", [job.seq])?;
        txn.db.run("DELETE FROM jk_payload WHERE id = ?1", [result_overflow_id(job.seq)])?;
        txn.db.run(
            "UPDATE jk_job SET result = NULL WHERE seq = ?1 AND result IS NOT NULL",
            [job.seq],
        )?;
        job.set(RESULT_OVERFLOWS, false);
    }
    if let Action::Move { queue, priority } = &change.action {
        if let Some(queue) = queue {
            let (from, kind) = txn.lane(job.queue, job.kind)?;
            txn.counters.delta(now).count_moved(&from, queue, &kind, state);
            job.queue = txn.db.intern(queue)?;
        }
        job.priority = priority.unwrap_or(job.priority);
    }
    if let Action::Retag { tags } = &change.action {
        let tags = if tags.is_empty() { None } else { Some(serde_json::to_string(tags)?) };
        txn.db.run("UPDATE jk_job SET tags = ?2 WHERE seq = ?1", params![job.seq, tags])?;
    }
    job.last_op = Some(change.operation);
    apply(txn, &mut job, &step, &context)?;
    finish_step(txn, now, &mut Budget(bounds::CHILDREN_IN_SETTLE))?;
    Ok(match (&change.action, job.state()) {
        (Action::Delete { .. }, StateName::Processing) => ChangeOutcome::Cancelling,
        (_, state) => ChangeOutcome::Changed { state, version: job.head.version },
    })
}

fn refusal(forbidden: Forbidden, job: &Job) -> Refusal {
    match forbidden {
        Forbidden::BatchCancelled => match job.batch {
            Some(batch) => Refusal::BatchCancelled { batch },
            None => Refusal::State { state: job.state() },
        },
        Forbidden::AlreadyCancelling => Refusal::AlreadyCancelling,
        _ => Refusal::State { state: job.state() },
    }
}
