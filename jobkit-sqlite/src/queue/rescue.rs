//! `rescue_expired`, and giving up what cannot be read.

use jobkit_core::record::{Lease, Locator};
use jobkit_core::state::State;
use jobkit_core::state_machine::Event;
use jobkit_core::storage::{ExpiredLease, Rescue, RescueRequest};
use jobkit_core::{Timestamp, bounds};
use rusqlite::params;

use crate::codec::{at, int, job_id, size, uint};
use crate::error::{Done, Fault, tell_of_damage};
use crate::jobs::transition::{Budget, Why};
use crate::writer::Flight;

impl Flight<'_, '_> {
    pub(super) fn rescue(&mut self, request: &RescueRequest) -> Done<Rescue> {
        let now = self.now(request.now);
        let mut rescue = Rescue::default();
        for seen in request.seen.iter().take(request.max) {
            let lease = Lease {
                job: seen.job,
                locator: seen.locator,
                fence: seen.fence,
                incarnation: jobkit_core::Incarnation::from_i64(0),
            };
            let mut job = match self.leased(&lease) {
                Ok(Some(job)) => job,
                Ok(None) => continue,
                Err(fault) if fault.is_damage() => {
                    self.give_up_expired(seen, &fault, now)?;
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
            let _ = self.step(&mut job, &event, &Why::at(now))?;
            self.cascade(now, &mut Budget(bounds::CHILDREN_IN_SETTLE))?;
            rescue.rescued.push((job.id, job.state()));
        }
        rescue.expired = self.db.all(
            "SELECT id, seq, fence, lease_until FROM jk_job INDEXED BY jk_held \
             WHERE state = 3 AND (lease_until <= ?1 OR lease_until > ?3) \
             ORDER BY claimed_at, seq LIMIT ?2",
            // Beyond the longest lease: of a time when the clock was ahead.
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
    fn give_up_expired(&mut self, seen: &ExpiredLease, fault: &Fault, now: Timestamp) -> Done {
        let seq = self.db.one(
            "SELECT seq FROM jk_job WHERE id = ?1 AND state = 3 AND fence = ?2 \
             AND (lease_until <= ?3 OR lease_until > ?4)",
            params![
                &seen.job.as_bytes()[..],
                int(seen.fence),
                now.as_micros(),
                now.plus(*bounds::LEASE.end()).as_micros()
            ],
            |row| row.get::<_, i64>(0),
        )?;
        if let Some(seq) = seq {
            tell_of_damage(seq, fault);
            self.give_up_unreadable(seq, now)?;
            self.refill(now)?;
        }
        Ok(())
    }

    /// Makes a job Failed whose record cannot be read, with whatever of it can.
    pub(crate) fn give_up_unreadable(&mut self, seq: i64, now: Timestamp) -> Done {
        self.db.forget_claimed(seq);
        // Also when the limits that it names cannot be read: others may use the room it was given.
        self.withdraw(seq)?;
        let plain = self.load(seq);
        if let Ok(Some(mut job)) = plain {
            for json in [&mut job.limits, &mut job.extras, &mut job.tags] {
                if json
                    .as_deref()
                    .is_some_and(|text| serde_json::from_str::<serde_json::Value>(text).is_err())
                {
                    *json = None;
                }
            }
            if job.limits().is_err() {
                job.limits = None;
            }
            let _ = self.step(&mut job, &Event::Unreadable, &Why::at(now))?;
            return Ok(());
        }
        // Not even its columns: what can be done without them.
        // One that is parked is nobody's to give up; one that runs holds slots.
        let limits =
            self.db.one("SELECT limits FROM jk_job WHERE seq = ?1 AND state = 3", [seq], |row| {
                row.get::<_, Option<String>>(0)
            });
        if let Ok(Some(Some(limits))) = limits {
            let limits: Vec<jobkit_core::limit::Limit> =
                serde_json::from_str(&limits).unwrap_or_default();
            for limit in limits {
                self.free_slot(&limit.name)?;
            }
        }
        self.db.run(
            "UPDATE jk_job SET state = 5, reason = ?2, version = version + 1, entered_at = ?3, \
             was = NULL, parked = NULL, server = NULL, batch = NULL, last_op = NULL, actor = NULL, open = NULL, \
             expires_at = NULL WHERE seq = ?1",
            params![seq, size(jobkit_core::state::Reason::Unreadable.index()), now.as_micros()],
        )?;
        Ok(())
    }
}
