//! Applying what the state machine computes, with all its effects.

use std::time::Duration;

use jobkit_core::Timestamp;
use jobkit_core::edge::Parent;
use jobkit_core::record::retention_of;
use jobkit_core::state::{Retention, State, StateName};
use jobkit_core::state_machine::{self, Event, Forbidden, Situation, Transition};

use super::unique_keys;
use crate::batches::touched;
use crate::codec::job_row::{CHILDREN, ENDED, Job, STARTED, TIMED};
use crate::error::SqlResult;
use crate::limits::slots;
use crate::txn::batch_update::Before;
use crate::txn::marks::Verdict;
use crate::txn::{Push, Txn};

/// What a transition needs to know besides head and event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TransitionContext<'a> {
    pub(crate) now: Timestamp,
    /// The operator who causes it.
    pub(crate) actor: Option<&'a str>,
    /// How long the handler ran.
    pub(crate) duration: Option<Duration>,
    /// Instead of the retention that the job carries.
    pub(crate) retention: Option<Retention>,
}

impl TransitionContext<'_> {
    pub(crate) fn at(now: Timestamp) -> Self {
        Self { now, actor: None, duration: None, retention: None }
    }
}

/// What the state machine says to `event`.
pub(crate) fn evaluate(
    txn: &mut Txn<'_, '_>,
    job: &Job,
    event: &Event,
    context: &TransitionContext<'_>,
) -> SqlResult<Result<Transition, Forbidden>> {
    let batch_cancelled = match job.batch {
        Some(batch) => touched::is_cancelled(txn, batch)?,
        None => false,
    };
    let retention = match context.retention {
        Some(retention) => retention,
        // Extras that cannot be read must not keep the job from ending.
        None => retention_of(job.extras().ok().flatten().as_deref()),
    };
    Ok(state_machine::apply(
        &job.head,
        event,
        &Situation { now: context.now, retention, batch_cancelled },
    ))
}

/// Applies `event` to a job, with all effects but the decisions about children and batches, which are
/// left to `finish_step`.
pub(crate) fn transition(
    txn: &mut Txn<'_, '_>,
    job: &mut Job,
    event: &Event,
    context: &TransitionContext<'_>,
) -> SqlResult<Result<Transition, Forbidden>> {
    let planned = evaluate(txn, job, event, context)?;
    if let Ok(transition) = &planned {
        apply(txn, job, transition, context)?;
    }
    Ok(planned)
}

/// Writes a transition that was evaluated.
pub(crate) fn apply(
    txn: &mut Txn<'_, '_>,
    job: &mut Job,
    step: &Transition,
    context: &TransitionContext<'_>,
) -> SqlResult {
    let before = Before::of(job);
    txn.carried.claimed.forget(job.seq);
    let (from, to) = (step.from, step.head.state.name());
    let effects = step.effects;
    let now = context.now;
    let is_claim = from == StateName::Enqueued && to == StateName::Processing;
    let ends_claim = from == StateName::Processing && to != StateName::Processing;
    let waited = match (ends_claim, job.claimed_at, job.enqueued_at) {
        (true, Some(claimed), Some(enqueued)) => Some(claimed.since(enqueued)),
        _ => None,
    };

    // The columns hold a whole cycle from queue to end, if it is a simple one.
    let mut in_columns = false;
    if effects.history {
        if is_claim && job.is_plainly_enqueued() {
            job.was = Some(job.head.reason);
            in_columns = true;
        } else if ends_claim && job.was.is_some() && to != StateName::Enqueued {
            in_columns = true;
        } else {
            job.keep_tail(txn.db)?;
        }
        job.set(ENDED, ends_claim);
        job.set(TIMED, ends_claim && context.duration.is_some());
        job.actor = context.actor.map(str::to_owned);
    }
    job.head = step.head.clone();
    if ends_claim {
        job.duration = context.duration.or(job.duration);
    }
    if let State::Processing(hold) = &job.head.state {
        let (claimed_at, started) = (hold.claimed_at, hold.started);
        if is_claim {
            job.claimed_at = Some(claimed_at);
            job.server = Some(txn.db.intern(&hold.server)?);
        }
        job.set(STARTED, started);
    }
    if to == StateName::Enqueued && effects.history {
        job.enqueued_at = Some(now);
    }
    if let Some(expires_at) = effects.expires_at {
        job.expires_at = expires_at;
    }
    if from == StateName::Enqueued && job.limits.is_some() {
        slots::on_state_change(txn, job, to, now)?;
    }
    match (&job.head.state, in_columns) {
        (State::Processing(hold), true) => txn.pending.buffer_claim(txn.db, job, hold, before)?,
        (state, true) if state.is_finished() => txn.pending.buffer_finish(txn.db, job, before)?,
        _ => job.write(txn.db)?,
    }

    if effects.history && !is_claim {
        let (queue, kind) = txn.lane(job.queue, job.kind)?;
        let reason = job.head.reason;
        let delta = txn.counters.delta(now);
        if ends_claim {
            delta.count_end_of_claim(&queue, &kind, to, reason, waited, context.duration);
        } else {
            delta.count(&queue, &kind, Some(from), to, reason);
        }
    }
    if effects.frees_slots && job.limits.is_some() {
        for limit in job.limits()? {
            slots::free(txn, &limit.name)?;
        }
    }
    if (effects.frees_key || effects.frees_key_at_start) && job.unique.is_some() {
        unique_keys::free(txn, job, effects.frees_key)?;
    }
    if let Some(batch) = job.batch
        && (effects.finished.is_some() || effects.reopened.is_some())
    {
        touched::recount(txn, batch, effects.reopened, effects.finished)?;
    }
    if let Some(finish) = effects.finished {
        if job.has(CHILDREN) {
            let verdict = Verdict::of(|on| on.decide(finish));
            txn.ended.push_back((Parent::Job(job.id), verdict));
        }
        txn.pushes.push(Push::Finished(job.id));
    }
    txn.work |= effects.claimable;
    match &job.head.state {
        State::Scheduled { run_at } if effects.history => txn.pushes.push(Push::Due(*run_at)),
        State::Processing(hold) if !is_claim && hold.cancel.is_some() => {
            txn.pushes.push(Push::Cancel(job.id));
        }
        _ => {}
    }
    Ok(())
}
