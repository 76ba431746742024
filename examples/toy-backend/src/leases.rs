//! Leases and instants: renew, rescue, promote.

use std::collections::HashSet;

use jobkit_core::record::Locator;
use jobkit_core::state::{State, StateName};
use jobkit_core::state_machine::{Event, SCHEDULED_AHEAD};
use jobkit_core::storage::{
    ExpiredLease, Promoted, RenewAnswer, RenewRequest, Renewed, Rescue, RescueRequest,
};
use jobkit_core::{Result, Timestamp, bounds};

use crate::fault::Fault;
use crate::keys::{instant, last_number, table};
use crate::servers::Server;
use crate::txn::Txn;

impl Txn<'_> {
    // [guide: renew]
    pub(crate) fn renew(&mut self, request: &RenewRequest) -> Result<Renewed> {
        let expires_at = self.now.plus(request.lease);
        let mut listed = HashSet::with_capacity(request.held.len());
        let mut answers = Vec::with_capacity(request.held.len());
        for renewal in &request.held {
            let Some(place) = self.find_held(&renewal.lease)? else {
                answers.push(RenewAnswer::Lost);
                continue;
            };
            listed.insert(place);
            let mut job = self.job(place)?;
            let mut cancel = None;
            if let State::Processing(hold) = &mut job.record.head.state {
                hold.expires_at = expires_at;
                hold.started = renewal.started;
                cancel = hold.cancel;
            }
            self.save(&job)?;
            answers.push(RenewAnswer::Renewed { expires_at, cancel });
        }
        // Of the claims whose answers the server has seen, what it does not list was lost on the way.
        let leases = table("lease").life(request.incarnation);
        let from = leases.clone().number(*request.sequences.start());
        let to = match self.has(Fault::RenewIgnoresTheRange) {
            true => leases.end(),
            false => leases.number(*request.sequences.end()).end(),
        };
        let held = self.tx.keys(&from, &to).map(last_number);
        let lost = held.filter(|place| !listed.contains(place));
        // What is beyond the bound is given back by the next renew.
        let mut lost: Vec<u64> = lost.take(bounds::MAX_STEP_ITEMS).collect();
        if self.has(Fault::RenewGivesNothingBack) {
            lost.clear();
        }
        let mut given_back = Vec::with_capacity(lost.len());
        for place in lost {
            self.must(place, &Event::GiveBack)?;
            given_back.push(self.job(place)?.record.id);
        }
        // A claim of the range that comes late takes nothing any more.
        if let Some(mut server) = self.server_of(request.incarnation)?
            && !request.sequences.is_empty()
            && server.last_claim < *request.sequences.end()
        {
            server.last_claim = *request.sequences.end();
            self.put(Server::key(&server.info.name), &server)?;
        }
        Ok(Renewed { answers, given_back })
    }
    // [end]

    // [guide: rescue]
    /// Takes away what was seen expired one look earlier and still is, unchanged; reports the rest. The
    /// second look is what a clock that jumps has to pass.
    pub(crate) fn rescue(&mut self, request: &RescueRequest) -> Result<Rescue> {
        let mut rescued = Vec::new();
        let mut seen = request.seen.clone();
        if self.has(Fault::RescueWithoutSecondLook) {
            seen = self.expired(request.max)?;
        }
        for seen in &seen {
            if rescued.len() >= request.max {
                break;
            }
            let Some(mut job) = self.job_by_id(seen.job)? else { continue };
            let place = job.record.sequence;
            let State::Processing(hold) = &mut job.record.head.state else { continue };
            let expired = bounds::lease_has_expired(hold.expires_at, self.now);
            let same = hold.expires_at == seen.expires_at && expired;
            let same = same || self.has(Fault::RescueIgnoresARenewal);
            if !same || job.record.head.fence != seen.fence {
                continue;
            }
            if self.has(Fault::RescueForgetsACancel) {
                hold.cancel = None;
                self.save(&job)?;
            }
            self.budget = bounds::CHILDREN_IN_SETTLE;
            self.must(place, &Event::Rescue { crash_limit: request.crash_limit })?;
            self.settle_down()?;
            rescued.push((seen.job, self.job(place)?.record.state()));
        }
        Ok(Rescue { rescued, expired: self.expired(request.max)? })
    }
    // [end]

    /// Leases that have expired, the first ones first; and those of a time when the clock was ahead.
    fn expired(&self, max: usize) -> Result<Vec<ExpiredLease>> {
        let expired = |place| {
            let record = self.job(place)?.record;
            let expires_at = match &record.head.state {
                State::Processing(hold) => hold.expires_at,
                _ => self.now,
            };
            let (locator, fence) = (Locator(place), record.head.fence);
            Ok(ExpiredLease { job: record.id, locator, fence, expires_at })
        };
        let mut places = self.until_now("held", max);
        let longest = table("held").at(self.now.plus(*bounds::LEASE.end())).end();
        let ahead = self.keys_from(&table("held"), &longest, max - places.len());
        places.extend(ahead.iter().map(|key| last_number(key)));
        places.into_iter().map(expired).collect()
    }

    /// The places of an index by instant whose instant has come, at most `max`.
    pub(crate) fn until_now(&self, index: &str, max: usize) -> Vec<u64> {
        let end = table(index).at(self.now).end();
        self.tx.keys(&table(index), &end).take(max).map(last_number).collect()
    }

    /// The first instant of such an index.
    pub(crate) fn first_instant(&self, index: &str) -> Option<Timestamp> {
        let table = table(index);
        self.first(&table).map(|key| instant(&table, &key))
    }

    // [guide: promote]
    pub(crate) fn promote(&mut self, max: usize) -> Result<Promoted> {
        let due = self.until_now("due", max);
        for place in &due {
            self.must(*place, &Event::Due)?;
        }
        if self.has(Fault::PromotionOverwritesDeleted) {
            self.promote_blindly()?;
        }
        let count = due.len() + self.fill_due_limits(max - due.len())?;
        let more = self.set_delays_right(max)?;
        let next = [self.first_instant("due"), self.first_instant("room"), more];
        let next_due_at = next.into_iter().flatten().min();
        Ok(Promoted { count, next_due_at, now: self.now })
    }
    // [end]

    /// Lets the delays of jobs that were scheduled while the clock was ahead count from now on; answers this
    /// instant if there may be more of them.
    fn set_delays_right(&mut self, max: usize) -> Result<Option<Timestamp>> {
        let ahead = table("scheduled").at(self.now.plus(SCHEDULED_AHEAD)).end();
        let ahead = self.keys_from(&table("scheduled"), &ahead, max);
        for key in &ahead {
            let place = last_number(key);
            if let Some(event) = self.job(place)?.record.head.set_right(self.now) {
                self.must(place, &event)?;
            }
        }
        Ok((max > 0 && ahead.len() == max).then_some(self.now))
    }

    /// As if the list of what is due had been read before a deletion: a planted fault.
    fn promote_blindly(&mut self) -> Result<()> {
        for key in self.keys(&table("job"), usize::MAX) {
            let mut job = self.job(last_number(&key))?;
            let was_due = job.history.entries.iter().any(|entry| entry.run_at.is_some());
            if job.record.state() == StateName::Deleted && was_due {
                job.record.head.state = State::Enqueued;
                self.save(&job)?;
            }
        }
        Ok(())
    }
}
