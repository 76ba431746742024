//! `rescue_expired`.

use jobkit_core::record::{Lease, Locator};
use jobkit_core::state::State;
use jobkit_core::state_machine::Event;
use jobkit_core::storage::{ExpiredLease, Rescue, RescueRequest};
use jobkit_core::{Timestamp, bounds};
use rusqlite::params;

use super::lease;
use crate::codec::sql_text::sql;
use crate::codec::{at, int, job_id, size, uint};
use crate::error::{Fault, SqlResult, warn_corrupt_row};
use crate::jobs::finish::finish_step;
use crate::jobs::transition::{TransitionContext, transition};
use crate::jobs::unreadable::give_up_unreadable;
use crate::limits::admission;
use crate::txn::Txn;
use crate::txn::marks::Budget;

pub(crate) fn rescue(
    txn: &mut Txn<'_, '_>,
    request: &RescueRequest,
    now: Timestamp,
) -> SqlResult<Rescue> {
    let mut rescue = Rescue::default();
    for seen in request.seen.iter().take(request.max) {
        let lease = Lease {
            job: seen.job,
            locator: seen.locator,
            fence: seen.fence,
            incarnation: jobkit_core::Incarnation::from_i64(0),
        };
        let mut job = match lease::leased(txn, &lease) {
            Ok(Some(job)) => job,
            Ok(None) => continue,
            Err(fault) if fault.is_corrupt_row() => {
                give_up_expired(txn, seen, &fault, now)?;
                continue;
            }
            Err(fault) => return Err(fault),
        };
        let State::Processing(hold) = &job.head.state else { continue };
        if job.head.fence != seen.fence
            || hold.expires_at != seen.expires_at
            || !bounds::lease_has_expired(hold.expires_at, now)
        {
            continue;
        }
        let event = Event::Rescue { crash_limit: request.crash_limit };
        let _ = transition(txn, &mut job, &event, &TransitionContext::at(now))?;
        finish_step(txn, now, &mut Budget(bounds::CHILDREN_IN_SETTLE))?;
        rescue.rescued.push((job.id, job.state()));
    }
    rescue.expired = txn.db.all(
        sql!(
            "SELECT id, seq, fence, lease_until FROM jk_job INDEXED BY jk_held \
         WHERE state = {processing} AND (lease_until <= ?1 OR lease_until > ?3) \
         ORDER BY claimed_at, seq LIMIT ?2"
        ),
        // Beyond the longest lease: the clock was ahead then.
        [now.as_micros(), size(request.max), now.plus(*bounds::LEASE.end()).as_micros()],
        |row| {
            Ok(ExpiredLease {
                job: job_id(row, 0)?,
                locator: Locator(uint(row.get(1)?)),
                fence: uint(row.get(2)?),
                expires_at: at(row.get(3)?),
            })
        },
    )?;
    Ok(rescue)
}

/// Gives up a running job that cannot be read and whose lease has expired.
fn give_up_expired(
    txn: &mut Txn<'_, '_>,
    seen: &ExpiredLease,
    fault: &Fault,
    now: Timestamp,
) -> SqlResult {
    let seq = txn.db.one(
        sql!(
            "SELECT seq FROM jk_job WHERE id = ?1 AND state = {processing} AND fence = ?2 \
         AND (lease_until <= ?3 OR lease_until > ?4)"
        ),
        params![
            &seen.job.as_bytes()[..],
            int(seen.fence),
            now.as_micros(),
            now.plus(*bounds::LEASE.end()).as_micros()
        ],
        |row| row.get::<_, i64>(0),
    )?;
    if let Some(seq) = seq {
        warn_corrupt_row(seq, fault);
        give_up_unreadable(txn, seq, now)?;
        admission::admit_waiters(txn, now)?;
    }
    Ok(())
}
