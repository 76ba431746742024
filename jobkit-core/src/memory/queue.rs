//! `impl JobQueue`.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Bound;
use std::time::Duration;

use async_trait::async_trait;

use crate::memory::MemoryStorage;
use crate::model::bounds;
use crate::model::clock::Timestamp;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::error_group::ErrorGroup;
use crate::model::ids::Incarnation;
use crate::model::name::Name;
use crate::model::record::{AttemptError, Lease, Locator};
use crate::model::state::{Hold, State};
use crate::model::state_machine::{Event, SCHEDULED_AHEAD};
use crate::storage::{
    Call, ClaimRequest, Claimed, ClaimedJob, ExpiredLease, JobQueue, Promoted, RenewAnswer,
    RenewRequest, Renewed, Rescue, RescueRequest, Settle, SettleAnswer, SettleRequest, StepRequest,
    WakeUpFilter, WakeUps,
};

use super::planted::Planted;
use super::state::{Place, Rank, Tables, Work};
use super::strangers::HELD_AGAIN;
use super::transitions::With;

/// The shortest time after which something is due: zero would mean that the claim ended early.
const DUE_SOON: Duration = Duration::from_millis(1);

#[async_trait]
impl JobQueue for MemoryStorage {
    async fn claim(&self, call: &Call, request: &ClaimRequest) -> Result<Claimed> {
        request.check()?;
        self.write(call, |tables, work| tables.claim(work, request))
    }

    async fn settle(&self, call: &Call, request: &SettleRequest) -> Result<Vec<SettleAnswer>> {
        request.check()?;
        Ok(self.write(call, |tables, work| tables.settle_all(work, request)))
    }

    async fn settle_and_claim(
        &self,
        call: &Call,
        settle: &SettleRequest,
        claim: &ClaimRequest,
    ) -> Result<(Vec<SettleAnswer>, Claimed)> {
        settle.check()?;
        claim.check()?;
        self.write(call, |tables, work| {
            // What may fail fails before anything is applied.
            tables.check_announced(claim.incarnation)?;
            let answers = tables.settle_all(work, settle);
            if tables.has(Planted::SettleAndClaimIgnoresPause) {
                let pauses = std::mem::take(&mut tables.pauses);
                let claimed = tables.claim(work, claim);
                tables.pauses = pauses;
                return Ok((answers, claimed?));
            }
            Ok((answers, tables.claim(work, claim)?))
        })
    }

    async fn renew(&self, call: &Call, request: &RenewRequest) -> Result<Renewed> {
        request.check()?;
        Ok(self.write(call, |tables, work| tables.renew(work, request)))
    }

    async fn promote_due(&self, call: &Call, request: StepRequest) -> Result<Promoted> {
        Ok(self.write(call, |tables, work| {
            let now = work.now;
            let all_due = tables.due.range(..=(now, Place::MAX)).map(|(_, place)| *place);
            let due = all_due.filter(|place| !tables.is_job_held(*place)).take(request.max);
            let due: Vec<Place> = due.collect();
            for place in &due {
                if tables.has(Planted::PromotionOverwritesDeleted) {
                    tables.due.retain(|(_, due)| due != place);
                    if !tables.jobs.contains_key(place) {
                        continue;
                    }
                    tables.unindex(*place);
                    let head = &mut tables.job_mut(*place).record.head;
                    head.state = State::Scheduled { run_at: now };
                    tables.index(*place);
                }
                tables.must(work, *place, &Event::Due);
            }
            let count = due.len() + tables.fill_due_limits(work, request.max - due.len());
            let more = tables.set_delays_right(work, request.max);
            let of_jobs = tables.next_due(now);
            let of_limits = tables.room_at.first().map(|(at, _)| *at);
            let next_due_at = [of_jobs, of_limits, more.then_some(now)].into_iter().flatten().min();
            Promoted { count, next_due_at, now }
        }))
    }

    async fn rescue_expired(&self, call: &Call, request: &RescueRequest) -> Result<Rescue> {
        Ok(self.write(call, |tables, work| tables.rescue(work, request)))
    }

    async fn wake_ups(&self, filter: WakeUpFilter) -> Result<Option<Box<dyn WakeUps>>> {
        Ok(Some(self.shared.hub.subscribe(&filter)))
    }
}

impl Tables {
    /// Lets the delays of jobs that were scheduled while the clock was ahead count from now on; whether there
    /// may be more of them.
    fn set_delays_right(&mut self, work: &mut Work, max: usize) -> bool {
        let ahead = (work.now.plus(SCHEDULED_AHEAD), Place::MAX);
        let ahead = self.scheduled.range((Bound::Excluded(ahead), Bound::Unbounded)).take(max);
        let ahead: Vec<Place> = ahead.map(|(_, place)| *place).collect();
        for place in &ahead {
            if let Some(event) = self.job(*place).record.head.set_right(work.now) {
                self.must(work, *place, &event);
            }
        }
        // A step of none is how one asks for the next instant alone.
        max > 0 && ahead.len() == max
    }

    fn check_announced(&self, incarnation: Incarnation) -> Result<()> {
        if self.lives.contains_key(&incarnation) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::NotAnnounced, "the server has not announced itself"))
    }

    fn claim(&mut self, work: &mut Work, request: &ClaimRequest) -> Result<Claimed> {
        self.check_announced(request.incarnation).map_err(|error| error.during("claim"))?;
        let name = &self.lives[&request.incarnation];
        let server = self.servers.get_mut(name).expect("every life is a server's");
        let more =
            self.planted == Some(Planted::RepeatedClaimClaimsMore) && cfg!(feature = "_planted");
        if request.sequence <= server.last_claim && !more {
            let jobs = self.claimed_by(request);
            if let Some(sleepers) = &mut self.sleepers {
                sleepers.claimed(request, jobs.len());
            }
            return Ok(Claimed { jobs, ..Claimed::default() });
        }
        server.last_claim = request.sequence;
        let mut jobs = Vec::new();
        // Jobs that are passed over each leave the ready set, but a claim must end.
        let mut skips = 4 * request.max + 100;
        let mut left = false;
        for quota in &request.queues {
            let most = quota.max.min(request.max - jobs.len());
            left |= self.claim_from(work, request, &quota.queue, most, &mut skips, &mut jobs);
        }
        if let Some(sleepers) = &mut self.sleepers {
            sleepers.claimed(request, jobs.len());
        }
        let again_in = match (skips, jobs.is_empty()) {
            (0, _) => Some(Duration::ZERO),
            _ if left => Some(HELD_AGAIN),
            (_, true) => Some(self.nothing_due_for(work)),
            _ => None,
        };
        Ok(Claimed { jobs, hint: None, again_in })
    }

    /// The earliest instant at which a job is due; of those that are held, a moment from now.
    fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        let held = |place: Place| self.is_job_held(place);
        let free = self.due.iter().find(|(_, place)| !held(*place)).map(|(at, _)| *at);
        let any_held = self.due.first().filter(|(at, place)| *at <= now && held(*place));
        free.into_iter().chain(any_held.map(|_| now.plus(HELD_AGAIN))).min()
    }

    /// How long nothing is due: no job, and no limit at which jobs are parked.
    fn nothing_due_for(&self, work: &Work) -> Duration {
        let of_jobs = self.next_due(work.now);
        let of_limits = self.room_at.first().map(|(at, _)| *at);
        // Jobs that this claim has parked are not among the others yet.
        let next = [of_jobs, of_limits, work.due].into_iter().flatten().min();
        let bound = bounds::NOTHING_DUE;
        next.map_or(bound, |at| at.since(work.now).clamp(DUE_SOON, bound))
    }

    /// The leases of an earlier claim that are still held.
    fn claimed_by(&self, request: &ClaimRequest) -> Vec<ClaimedJob> {
        let Some(leases) = self.leases.get(&request.incarnation) else { return Vec::new() };
        let of_claim = (request.sequence, 0, 0)..=(request.sequence, u32::MAX, Place::MAX);
        leases.range(of_claim).map(|(_, _, place)| self.claimed_job(*place)).collect()
    }

    /// Takes jobs of a queue; whether it left some since others hold them.
    fn claim_from(
        &mut self,
        work: &mut Work,
        request: &ClaimRequest,
        queue: &Name,
        most: usize,
        skips: &mut usize,
        jobs: &mut Vec<ClaimedJob>,
    ) -> bool {
        let Some(lanes) = self.queues.get(queue).map(|queue| &queue.lanes) else { return false };
        let mut left = false;
        // The heads of the lanes, merged by priority and sequence.
        let mut heads: BinaryHeap<Reverse<(Rank, usize)>> = BinaryHeap::new();
        for (i, kind) in request.kinds.iter().enumerate() {
            if let Some(first) = lanes.get(kind).and_then(|lane| lane.first())
                && !self.is_paused(queue, kind, work.now)
            {
                heads.push(Reverse((*first, i)));
            }
        }
        let end = jobs.len() + most;
        while jobs.len() < end
            && let Some(Reverse((rank, kind))) = heads.pop()
        {
            let place = rank.1;
            if self.is_left_by_claims(place) {
                left = true;
            } else if self.take(work, request, place, jobs.len()) {
                jobs.push(self.claimed_job(place));
            } else if *skips == 0 {
                return left;
            } else {
                *skips -= 1;
            }
            let lane = self.queues.get(queue).and_then(|it| it.lanes.get(&request.kinds[kind]));
            // What was taken or passed over has left the lane, and what is held stands there still.
            let next = lane.and_then(|lane| match left {
                true => lane.range((Bound::Excluded(rank), Bound::Unbounded)).next(),
                false => lane.first(),
            });
            if let Some(next) = next {
                heads.push(Reverse((*next, kind)));
            }
        }
        left
    }

    /// Takes one ready job, or takes it out of the way; `true` if it was claimed.
    fn take(
        &mut self,
        work: &mut Work,
        request: &ClaimRequest,
        place: Place,
        taken: usize,
    ) -> bool {
        let job = self.job(place);
        let record = &job.record;
        if job.unreadable {
            self.must(work, place, &Event::Unreadable);
            return false;
        }
        let start_by = record.head.must_start_by(record.start_by);
        if start_by.is_some_and(|by| by <= work.now) {
            self.must(work, place, &Event::StartExpired);
            return false;
        }
        let limits = record.limits.clone();
        let full = limits.iter().find(|limit| self.is_full(work, &limit.name));
        if let Some(full) = full.map(|limit| limit.name.clone()) {
            self.unindex(place);
            let job = self.job_mut(place);
            job.record.parked_at = Some(full.clone());
            // Another one may use the room that it was given elsewhere.
            work.limits.extend(job.admitted.take().map(|it| it.limit));
            self.index(place);
            if let Some(at) = self.limits[&full].room_at {
                work.due_at(at);
            }
            return false;
        }
        for limit in &limits {
            if let Some(row) = self.limits.get_mut(&limit.name) {
                row.holders.insert((work.now, place));
            }
            self.count_start(work, &limit.name);
        }
        let hold = Hold {
            server: request.server.clone(),
            incarnation: request.incarnation,
            claim_sequence: request.sequence,
            claimed_at: work.now,
            expires_at: work.now.plus(request.lease),
            started: taken < request.started,
            cancel: None,
        };
        self.job_mut(place).ordinal = u32::try_from(taken).unwrap_or(u32::MAX);
        self.must(work, place, &Event::Claim(hold));
        true
    }

    fn claimed_job(&self, place: Place) -> ClaimedJob {
        let job = self.job(place);
        let record = &job.record;
        let incarnation = match &record.head.state {
            State::Processing(hold) => hold.incarnation,
            _ => Incarnation::from_i64(0),
        };
        ClaimedJob {
            lease: Lease {
                job: record.id,
                locator: Locator(place),
                fence: record.head.fence,
                incarnation,
            },
            kind: record.kind.clone(),
            queue: record.queue.clone(),
            priority: record.priority,
            args: job.args.clone(),
            failures: record.head.failures,
            crashes: record.head.crashes,
            run: record.head.run,
            created_at: record.created_at,
            enqueued_at: record.enqueued_at.unwrap_or(record.created_at),
            claimed_at: record.claimed_at.unwrap_or(record.created_at),
            batch: record.batch,
            limited: !record.limits.is_empty(),
            extras: record.extras.clone(),
        }
    }

    fn settle_all(&mut self, work: &mut Work, request: &SettleRequest) -> Vec<SettleAnswer> {
        let settles = request.settles.iter();
        let mut left = bounds::CHILDREN_IN_CALL;
        settles
            .map(|settle| {
                let budget = bounds::CHILDREN_IN_SETTLE.min(left);
                work.budget = budget;
                let answer = self.settle(work, settle);
                self.settle_down(work);
                left -= budget - work.budget;
                answer
            })
            .collect()
    }

    fn settle(&mut self, work: &mut Work, settle: &Settle) -> SettleAnswer {
        let lease = &settle.lease;
        let Some(place) = self.find_leased(lease) else { return SettleAnswer::LeaseLost };
        let any_holder = self.has(Planted::SettleIgnoresTheFence);
        let head = &self.job(place).record.head;
        let passes = any_holder && matches!(head.state, State::Processing(_));
        if !head.is_held_by(lease.fence, lease.incarnation) && !passes {
            let repeated =
                head.fence == lease.fence && head.settled == Some((lease.fence, lease.incarnation));
            if repeated && self.has(Planted::RepeatedSettleCountedTwice) {
                let (queue, kind, state, reason) = {
                    let record = &self.job(place).record;
                    (record.queue.clone(), record.kind.clone(), record.state(), record.head.reason)
                };
                let tail = self.stats.tail(work.now);
                tail.count(&queue, &kind, Some(state), state, reason);
            }
            return if repeated { SettleAnswer::AlreadyApplied } else { SettleAnswer::LeaseLost };
        }
        if self.is_change_blocked(place) {
            return SettleAnswer::Busy;
        }
        if let Err(refusal) = settle.check() {
            return SettleAnswer::Refused(refusal);
        }
        let result = settle.kept_result();
        self.append_log(place, lease.fence, &settle.log, settle.log_dropped, &settle.progress);
        let with =
            With { retention: Some(settle.retention), duration: settle.duration, actor: None };
        let applied = self.transition(work, place, &Event::Settle(settle.ending), with);
        let Ok(state) = applied else { return SettleAnswer::LeaseLost };
        let now = work.now;
        let job = self.job_mut(place);
        job.record.duration = settle.duration.or(job.record.duration);
        if let Some(result) = result {
            job.result = Some(result.clone());
        }
        if let Some(detail) = &settle.error {
            if settle.ending.has_failed(state) {
                let failed = ErrorGroup::first(&job.record.kind, job.record.id, detail, now);
                self.operator_state.count_failure(failed);
            }
            let job = self.job_mut(place);
            job.errors.push_back(AttemptError {
                fence: lease.fence,
                failures: job.record.head.failures,
                at: now,
                detail: detail.clone(),
            });
            if job.errors.len() > bounds::ATTEMPT_ERRORS {
                job.errors.pop_front();
            }
        }
        SettleAnswer::Settled(state)
    }

    fn renew(&mut self, work: &mut Work, request: &RenewRequest) -> Renewed {
        let expires_at = work.now.plus(request.lease);
        let mut listed = std::collections::HashSet::with_capacity(request.held.len());
        let mut answers = Vec::with_capacity(request.held.len());
        for renewal in &request.held {
            let Some(place) = self.find_held(&renewal.lease) else {
                answers.push(RenewAnswer::Lost);
                continue;
            };
            listed.insert(place);
            if self.is_job_held(place) {
                answers.push(RenewAnswer::Busy);
                continue;
            }
            self.unindex(place);
            let mut cancel = None;
            if let State::Processing(hold) = &mut self.job_mut(place).record.head.state {
                hold.expires_at = expires_at;
                hold.started = renewal.started;
                cancel = hold.cancel;
            }
            self.index(place);
            answers.push(RenewAnswer::Renewed { expires_at, cancel });
        }
        let (first, last) = (*request.sequences.start(), *request.sequences.end());
        let mut lost = Vec::new();
        if let Some(leases) = self.leases.get(&request.incarnation).filter(|_| first <= last) {
            let range = leases.range((first, 0, 0)..=(last, u32::MAX, Place::MAX));
            lost.extend(range.map(|(_, _, place)| *place).filter(|place| !listed.contains(place)));
        }
        if let Some(name) = self.lives.get(&request.incarnation).filter(|_| first <= last) {
            let server = self.servers.get_mut(name).expect("every life is a server's");
            server.last_claim = server.last_claim.max(last);
        }
        if self.has(Planted::RenewByServer) {
            lost.clear();
            let leases = self.leases.get(&request.incarnation).into_iter().flatten();
            for place in leases.map(|(_, _, place)| *place).collect::<Vec<_>>() {
                self.unindex(place);
                if let State::Processing(hold) = &mut self.job_mut(place).record.head.state {
                    hold.expires_at = expires_at;
                }
                self.index(place);
            }
        }
        let mut given_back = Vec::with_capacity(lost.len());
        // What is held is given back by a later one.
        lost.retain(|place| !self.is_change_blocked(*place));
        lost.truncate(bounds::MAX_STEP_ITEMS);
        for place in lost {
            self.must(work, place, &Event::GiveBack);
            given_back.push(self.job(place).record.id);
        }
        Renewed { answers, given_back }
    }

    fn rescue(&mut self, work: &mut Work, request: &RescueRequest) -> Rescue {
        let mut rescued = Vec::new();
        let mut all_seen = request.seen.clone();
        if self.has(Planted::RescueWithoutSecondLook) {
            let expired = self.held.range(..=(work.now, Place::MAX));
            all_seen.extend(expired.map(|(at, place)| self.expired(*at, *place)));
        }
        for seen in &all_seen {
            if rescued.len() >= request.max {
                break;
            }
            let lease = Lease {
                job: seen.job,
                locator: seen.locator,
                fence: seen.fence,
                incarnation: Incarnation::from_i64(0),
            };
            let Some(place) = self.find_leased(&lease) else { continue };
            let head = &self.job(place).record.head;
            let same = matches!(&head.state, State::Processing(hold)
                if head.fence == seen.fence
                    && hold.expires_at == seen.expires_at
                    && bounds::lease_has_expired(hold.expires_at, work.now));
            if same && !self.is_change_blocked(place) {
                work.budget = bounds::CHILDREN_IN_SETTLE;
                let event = Event::Rescue { crash_limit: request.crash_limit };
                if self.has(Planted::RescueForgetsACancel)
                    && let State::Processing(hold) = &mut self.job_mut(place).record.head.state
                {
                    hold.cancel = None;
                }
                self.must(work, place, &event);
                self.settle_down(work);
                rescued.push((seen.job, self.job(place).record.state()));
            }
        }
        let expired = self.held.range(..=(work.now, Place::MAX));
        // And those of a time when the clock was ahead.
        let longest = work.now.plus(*bounds::LEASE.end());
        let ahead = self.held.range((Bound::Excluded((longest, Place::MAX)), Bound::Unbounded));
        let expired = expired.chain(ahead).take(request.max);
        let expired = expired.map(|(at, place)| self.expired(*at, *place)).collect();
        Rescue { rescued, expired }
    }

    fn expired(&self, expires_at: Timestamp, place: Place) -> ExpiredLease {
        let record = &self.job(place).record;
        ExpiredLease {
            job: record.id,
            locator: Locator(place),
            fence: record.head.fence,
            expires_at,
        }
    }
}
