//! `promote_due`.

use jobkit_core::Timestamp;
use jobkit_core::state_machine::{Event, SCHEDULED_AHEAD};
use jobkit_core::storage::{Promoted, StepRequest};

use crate::codec::job_row::select_job;
use crate::codec::sql_text::sql;
use crate::codec::{at, size};
use crate::error::SqlResult;
use crate::jobs::read::read_jobs;
use crate::jobs::transition::{TransitionContext, transition};
use crate::jobs::unreadable::give_up_unreadable;
use crate::limits::admission;
use crate::txn::Txn;
use crate::txn::marks::STEP;

pub(crate) fn promote(
    txn: &mut Txn<'_, '_>,
    request: StepRequest,
    now: Timestamp,
) -> SqlResult<Promoted> {
    let due = read_jobs(
        txn.db,
        select_job!(
            "INDEXED BY jk_due WHERE state = {scheduled} AND run_at <= ?1 ORDER BY run_at, seq LIMIT ?2"
        ),
        [now.as_micros(), size(request.max.clamp(1, STEP))],
    )?;
    let max = request.max.clamp(1, STEP);
    let mut count = due.len();
    for job in due {
        match job {
            Ok(mut job) => {
                let _ = transition(txn, &mut job, &Event::Due, &TransitionContext::at(now))?;
            }
            Err(seq) => give_up_unreadable(txn, seq, now)?,
        }
    }
    admission::admit_waiters(txn, now)?;
    if count < max {
        count += admission::admit_at_due_limits(txn, max - count, now)?;
    }
    let more = set_delays_right(txn, max, now)?;
    let next_due_at = next_due_at(txn)?.into_iter().chain(more.then_some(now)).min();
    Ok(Promoted { count, next_due_at, now })
}

/// The next due instant of jobs, and of limits at which jobs are parked.
pub(super) fn next_due_at(txn: &mut Txn<'_, '_>) -> SqlResult<Option<Timestamp>> {
    let of_jobs = txn
        .db
        .one(
            sql!("SELECT min(run_at) FROM jk_job INDEXED BY jk_due WHERE state = {scheduled}"),
            [],
            |row| row.get::<_, Option<i64>>(0),
        )?
        .flatten();
    Ok(of_jobs.into_iter().chain(admission::next_room_at(txn)?).min().map(at))
}

/// Restarts the delays of jobs that were scheduled while the clock was ahead; returns whether there may
/// be more of them.
fn set_delays_right(txn: &mut Txn<'_, '_>, max: usize, now: Timestamp) -> SqlResult<bool> {
    let ahead = read_jobs(
        txn.db,
        select_job!(
            "INDEXED BY jk_scheduled WHERE state = {scheduled} AND entered_at > ?1 \
             ORDER BY entered_at, seq LIMIT ?2"
        ),
        [now.plus(SCHEDULED_AHEAD).as_micros(), size(max)],
    )?;
    let more = max > 0 && ahead.len() == max;
    for job in ahead {
        match job {
            Ok(mut job) => {
                if let Some(event) = job.head.set_right(now) {
                    let _ = transition(txn, &mut job, &event, &TransitionContext::at(now))?;
                }
            }
            Err(seq) => give_up_unreadable(txn, seq, now)?,
        }
    }
    Ok(more)
}
