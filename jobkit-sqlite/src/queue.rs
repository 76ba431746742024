//! `JobQueue`.

pub(crate) mod lanes;

use std::collections::HashSet;
use std::time::Duration;

use async_trait::async_trait;
use jobkit_core::error_group::ErrorGroup;
use jobkit_core::record::{Lease, Locator, Payload};
use jobkit_core::refusal::Refusal;
use jobkit_core::state::{Hold, State};
use jobkit_core::state_machine::{Ending, Event};
use jobkit_core::storage::{
    ClaimRequest, Claimed, ClaimedJob, ExpiredLease, JobQueue, Promoted, RenewAnswer, RenewRequest,
    Renewal, Renewed, Rescue, RescueRequest, Settle, SettleAnswer, SettleRequest, StepRequest,
    WakeUpFilter, WakeUps, check_items,
};
use jobkit_core::{Error, ErrorKind, Name, Result, Timestamp, bounds};
use rusqlite::params;

pub(crate) use self::lanes::{Lanes, lanes_of};
use crate::codec::{
    ASIDE, INLINE_BYTES, Job, MORE, RESULT_ASIDE, STARTED, args_aside, at, int, job_id, payload,
    result_aside, select_job, size, uint,
};
use crate::error::{Done, Fault, tell_of_damage};
use crate::jobs::alike::stands_alone;
use crate::jobs::transition::{Budget, Why};
use crate::jobs::{aside, read_jobs};
use crate::operations::Paused;
use crate::storage::SqliteStorage;
use crate::sweep::STEP;
use crate::wake_up;
use crate::writer::Flight;

/// The most a result may have: what is larger is settled as a failure.
const RESULT_BYTES: usize = bounds::RESULT_BYTES;

impl Flight<'_, '_> {
    fn claim(&mut self, request: &ClaimRequest) -> Done<Claimed> {
        let now = self.now(request.now);
        let incarnation = request.incarnation;
        let last_claim = self.db.one(
            "SELECT last_claim FROM jk_server WHERE incarnation = ?1",
            [incarnation.as_i64()],
            |row| row.get::<_, i64>(0),
        )?;
        let Some(last_claim) = last_claim else {
            return Err(Error::new(
                ErrorKind::NotAnnounced,
                format!("server {} has not announced itself, or was removed", request.server),
            )
            .into());
        };
        if request.sequence <= uint(last_claim) {
            let jobs = self.claimed_before(request)?;
            return Ok(Claimed { jobs, ..Claimed::default() });
        }

        let mut claim = Claim {
            request,
            now,
            paused: Paused::read(self.db, now)?,
            jobs: Vec::new(),
            // Jobs that are not taken after all: bounded, so that a claim ends.
            asides: request.max.saturating_mul(4).saturating_add(100),
        };
        for quota in &request.queues {
            if claim.jobs.len() >= request.max || claim.asides == 0 {
                break;
            }
            self.claim_from(&mut claim, &quota.queue, quota.max)?;
        }
        self.db.run(
            "UPDATE jk_server SET last_claim = ?2 WHERE incarnation = ?1",
            [incarnation.as_i64(), int(request.sequence)],
        )?;
        let (jobs, more) = (claim.jobs, claim.asides == 0);
        // Jobs that had to be started earlier were deleted on the way.
        self.cascade(now, &mut Budget(bounds::CHILDREN_IN_SETTLE))?;
        Ok(Claimed { jobs, hint: None, more })
    }

    /// Takes jobs of one queue, by priority and sequence.
    fn claim_from(&mut self, claim: &mut Claim<'_>, queue: &Name, quota: usize) -> Done {
        let Some(queue_id) = self.db.name_id(queue)? else { return Ok(()) };
        if claim.paused.queues.contains(&queue_id) {
            return Ok(());
        }
        let wanted = wanted_kinds(&claim.request.kinds);
        let mut kinds = Vec::new();
        for kind in lanes_of(self.db, queue_id)? {
            let name = self.db.name(kind)?;
            if !claim.paused.kinds.contains(&kind) && wanted(&name) {
                kinds.push(kind);
            }
        }
        let room = quota.min(claim.request.max - claim.jobs.len());
        let mut taken = 0;
        let mut lanes = Lanes::new(queue_id, &kinds, room);
        while taken < room && claim.asides > 0 {
            let Some(candidate) = lanes.next(self.db)? else { break };
            if self.claim_one(claim, candidate.seq, candidate.job)? {
                taken += 1;
            } else {
                claim.asides -= 1;
            }
        }
        self.write_gathered()
    }

    /// Takes a candidate, unless it is too late, unreadable, or its limit is full.
    fn claim_one(
        &mut self,
        claim: &mut Claim<'_>,
        seq: i64,
        read: Done<(Job, Option<Payload>)>,
    ) -> Done<bool> {
        let now = claim.now;
        let readable = read.and_then(|(job, args)| {
            let args = match args {
                Some(args) => args,
                None => aside(self.db, args_aside(job.seq))?
                    .ok_or_else(|| Error::corrupt("the arguments are missing"))?,
            };
            let (limits, extras) = (job.limits()?, job.extras()?);
            job.unique()?;
            Ok((job, args, limits, extras))
        });
        let (mut job, args, limits, extras) = match readable {
            Ok(readable) => readable,
            Err(fault) if fault.is_damage() => {
                tracing::warn!(sequence = seq, error = %fault, "a job cannot be read and becomes Failed");
                self.give_up_unreadable(seq, now)?;
                return Ok(false);
            }
            Err(fault) => return Err(fault),
        };
        self.gather(&job)?;
        if job.head.fence == 0 && job.start_by.is_some_and(|start_by| start_by <= now) {
            let _ = self.step(&mut job, &Event::StartExpired, &Why::at(now))?;
            return Ok(false);
        }
        if !limits.is_empty()
            && let Some(full) = self.take_slots(&limits, now)?
        {
            self.park(&job, full)?;
            return Ok(false);
        }
        let request = claim.request;
        let hold = Hold {
            server: request.server.clone(),
            incarnation: request.incarnation,
            claim_sequence: request.sequence,
            claimed_at: now,
            expires_at: now.plus(request.lease),
            started: claim.jobs.len() < request.started,
            cancel: None,
        };
        // Enqueued jobs can always be claimed.
        let _ = self.step(&mut job, &Event::Claim(hold), &Why::at(now))?;
        if job.history.is_none() && stands_alone(&job) {
            self.db.remember_claimed(&job);
        }
        claim.jobs.push(self.claimed(job, args, extras)?);
        Ok(true)
    }

    fn claimed(
        &self,
        job: Job,
        args: Payload,
        extras: Option<Box<jobkit_core::record::Extras>>,
    ) -> Done<ClaimedJob> {
        let State::Processing(hold) = &job.head.state else {
            return Err(Error::new(ErrorKind::Internal, "a claimed job is not held").into());
        };
        Ok(ClaimedJob {
            lease: Lease {
                job: job.id,
                locator: Locator(uint(job.seq)),
                fence: job.head.fence,
                incarnation: hold.incarnation,
            },
            kind: self.db.name(job.kind)?,
            queue: self.db.name(job.queue)?,
            priority: job.priority,
            args,
            failures: job.head.failures,
            crashes: job.head.crashes,
            run: job.head.run,
            created_at: job.created_at,
            enqueued_at: job.enqueued_at.unwrap_or(job.created_at),
            claimed_at: hold.claimed_at,
            batch: job.batch,
            limited: job.limits.is_some(),
            extras,
        })
    }

    /// What of an earlier claim is still held.
    fn claimed_before(&mut self, request: &ClaimRequest) -> Done<Vec<ClaimedJob>> {
        let mut found = Vec::new();
        {
            let mut statement = self.db.prepare(select_job!(
                ", args",
                "INDEXED BY jk_held WHERE state = 3 AND incarnation = ?1 AND claim_seq = ?2"
            ))?;
            let mut rows =
                statement.query([request.incarnation.as_i64(), int(request.sequence)])?;
            while let Some(row) = rows.next()? {
                let read = Job::read(self.db, row);
                match read.and_then(|job| Ok((job.extras()?, job, payload(row, MORE)?))) {
                    // Nobody runs it: its lease expires.
                    Err(fault) if fault.is_damage() => tell_of_damage(row.get(0)?, &fault),
                    read => found.push(read?),
                }
            }
        }
        let mut jobs = Vec::with_capacity(found.len());
        for (extras, job, args) in found {
            let queue = self.db.name(job.queue)?;
            let place = request.queues.iter().position(|quota| quota.queue == queue);
            jobs.push((place, 9 - job.priority, job.seq, job, args, extras));
        }
        jobs.sort_by_key(|(place, rank, seq, ..)| (*place, *rank, *seq));
        jobs.into_iter()
            .map(|(.., job, args, extras)| {
                let args = match args {
                    Some(args) => args,
                    None => {
                        aside(self.db, args_aside(job.seq))?.unwrap_or_else(Payload::empty_object)
                    }
                };
                self.claimed(job, args, extras)
            })
            .collect()
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

    pub(crate) fn settle_all(&mut self, request: &SettleRequest) -> Done<Vec<SettleAnswer>> {
        let now = self.now(request.now);
        let answers = request.settles.iter().map(|settle| self.settle(settle, now)).collect();
        self.write_gathered()?;
        // Once for all of them: many may have freed slots of one limit.
        self.refill(now)?;
        answers
    }

    fn settle(&mut self, settle: &Settle, now: Timestamp) -> Done<SettleAnswer> {
        let lease = &settle.lease;
        let Some(mut job) = self.leased_to_settle(lease)? else {
            return Ok(SettleAnswer::LeaseLost);
        };
        self.gather(&job)?;
        if !job.head.is_held_by(lease.fence, lease.incarnation) {
            let again = job.head.settled == Some((lease.fence, lease.incarnation))
                && job.head.fence == lease.fence;
            return Ok(if again { SettleAnswer::AlreadyApplied } else { SettleAnswer::LeaseLost });
        }
        let result = match settle.ending {
            Ending::Succeeded => settle.result.as_ref(),
            _ => None,
        };
        if let Some(result) = result
            && result.len() > RESULT_BYTES
        {
            return Ok(SettleAnswer::Refused(Refusal::Invalid {
                field: "result",
                reason: format!(
                    "has {} bytes, where at most {RESULT_BYTES} are allowed",
                    result.len()
                ),
            }));
        }

        let aside = result.is_some_and(|result| result.len() > INLINE_BYTES);
        if aside
            || settle.error.is_some()
            || !settle.log.is_empty()
            || settle.log_dropped > 0
            || !settle.progress.is_empty()
        {
            job.set(ASIDE, true);
        }
        if aside {
            job.set(RESULT_ASIDE, true);
        }
        let why =
            Why { duration: settle.duration, retention: Some(settle.retention), ..Why::at(now) };
        // A held job takes every ending.
        let _ = self.step(&mut job, &Event::Settle(settle.ending), &why)?;
        match result {
            Some(result) if aside => {
                self.db.run(
                    "INSERT INTO jk_payload (id, body) VALUES (?1, ?2) \
                     ON CONFLICT (id) DO UPDATE SET body = excluded.body",
                    params![result_aside(job.seq), result.as_bytes()],
                )?;
            }
            Some(result) => {
                self.db.run(
                    "UPDATE jk_job SET result = ?2 WHERE seq = ?1",
                    params![job.seq, result.as_bytes()],
                )?;
            }
            None => {}
        }
        if let Some(error) = &settle.error {
            let kind = self.db.name(job.kind)?;
            self.count_failure(ErrorGroup::first(&kind, job.id, error, now));
            self.db.run(
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
            self.db.run(
                "DELETE FROM jk_error WHERE seq = ?1 AND fence <= \
                 (SELECT fence FROM jk_error WHERE seq = ?1 ORDER BY fence DESC LIMIT 1 OFFSET 32)",
                [job.seq],
            )?;
        }
        self.append_log(job.seq, lease.fence, &settle.log, settle.log_dropped)?;
        self.set_progress(job.seq, &settle.progress)?;
        self.decide_finished(now, &mut Budget(bounds::CHILDREN_IN_SETTLE))?;
        Ok(SettleAnswer::Settled(job.state()))
    }

    /// The job a lease names, where its locator says, or else wherever it is.
    pub(crate) fn leased(&self, lease: &Lease) -> Done<Option<Job>> {
        match self.load(int(lease.locator.0))? {
            Some(job) if job.id == lease.job => Ok(Some(job)),
            _ => self.find(lease.job),
        }
    }

    /// The same, from memory if it was claimed a moment ago.
    fn leased_to_settle(&mut self, lease: &Lease) -> Done<Option<Job>> {
        let seq = int(lease.locator.0);
        if self.is_gathered(seq) {
            self.write_gathered()?;
        }
        if let Some(job) = self.db.claimed(seq)
            && job.id == lease.job
        {
            #[cfg(test)]
            assert!(
                !matches!(self.load(seq), Ok(Some(stored)) if stored != job),
                "{seq} was changed"
            );
            return Ok(Some(job));
        }
        let found = self.leased_if_readable(lease)?;
        if found.as_ref().is_some_and(|job| self.is_gathered(job.seq)) {
            self.write_gathered()?;
            return self.leased_if_readable(lease);
        }
        Ok(found)
    }

    /// The same; a row that cannot be read is held by nobody, until a rescue gives it up.
    fn leased_if_readable(&self, lease: &Lease) -> Done<Option<Job>> {
        match self.leased(lease) {
            Err(fault) if fault.is_damage() => {
                tell_of_damage(int(lease.locator.0), &fault);
                Ok(None)
            }
            other => other,
        }
    }

    fn renew(&mut self, request: &RenewRequest) -> Done<Renewed> {
        let now = self.now(request.now);
        let expires_at = now.plus(request.lease);
        let mut answers = Vec::with_capacity(request.held.len());
        let mut listed = HashSet::with_capacity(request.held.len());
        for renewal in &request.held {
            let answer = self.renew_one(renewal, expires_at)?;
            if answer != RenewAnswer::Lost {
                listed.insert(renewal.lease.job);
            }
            answers.push(answer);
        }
        let (from, to) = (int(*request.sequences.start()), int(*request.sequences.end()));
        let unlisted = self.db.all(
            "SELECT seq FROM jk_job INDEXED BY jk_held \
             WHERE state = 3 AND incarnation = ?1 AND claim_seq BETWEEN ?2 AND ?3",
            [request.incarnation.as_i64(), from, to],
            |row| row.get::<_, i64>(0),
        )?;
        let mut given_back = Vec::new();
        for seq in unlisted {
            let Some(mut job) = self.load(seq)? else { continue };
            if !listed.contains(&job.id) {
                let _ = self.step(&mut job, &Event::GiveBack, &Why::at(now))?;
                given_back.push(job.id);
            }
        }
        self.cascade(now, &mut Budget(bounds::CHILDREN_IN_SETTLE))?;
        Ok(Renewed { answers, given_back })
    }

    fn renew_one(&self, renewal: &Renewal, expires_at: Timestamp) -> Done<RenewAnswer> {
        let Some(job) = self.leased_if_readable(&renewal.lease)? else {
            return Ok(RenewAnswer::Lost);
        };
        if !job.head.is_held_by(renewal.lease.fence, renewal.lease.incarnation) {
            return Ok(RenewAnswer::Lost);
        }
        let State::Processing(hold) = &job.head.state else { return Ok(RenewAnswer::Lost) };
        let started = if renewal.started { STARTED } else { 0 };
        self.db.run(
            "UPDATE jk_job SET lease_until = ?2, flags = flags | ?3 WHERE seq = ?1",
            [job.seq, expires_at.as_micros(), started],
        )?;
        Ok(RenewAnswer::Renewed { expires_at, cancel: hold.cancel })
    }

    fn promote(&mut self, request: StepRequest) -> Done<Promoted> {
        let now = self.now(request.now);
        let due = read_jobs(
            self.db,
            select_job!(
                "INDEXED BY jk_due WHERE state = 1 AND run_at <= ?1 ORDER BY run_at, seq LIMIT ?2"
            ),
            [now.as_micros(), size(request.max.clamp(1, STEP))],
        )?;
        let max = request.max.clamp(1, STEP);
        let mut count = due.len();
        for job in due {
            match job {
                Ok(mut job) => {
                    let _ = self.step(&mut job, &Event::Due, &Why::at(now))?;
                }
                Err(seq) => self.give_up_unreadable(seq, now)?,
            }
        }
        self.refill(now)?;
        if count < max {
            count += self.fill_due_limits(max - count, now)?;
        }
        let next = self
            .db
            .one("SELECT min(run_at) FROM jk_job INDEXED BY jk_due WHERE state = 1", [], |row| {
                row.get::<_, Option<i64>>(0)
            })?
            .flatten();
        let next = next.into_iter().chain(self.next_room_at()?).min();
        Ok(Promoted { count, next_due_at: next.map(at), now })
    }

    fn rescue(&mut self, request: &RescueRequest) -> Done<Rescue> {
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
                || hold.expires_at > now
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
             WHERE state = 3 AND lease_until <= ?1 ORDER BY claimed_at, seq LIMIT ?2",
            [now.as_micros(), size(request.max)],
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
}

impl Flight<'_, '_> {
    /// Gives up a running job that cannot be read and whose lease has expired.
    fn give_up_expired(&mut self, seen: &ExpiredLease, fault: &Fault, now: Timestamp) -> Done {
        let seq = self.db.one(
            "SELECT seq FROM jk_job WHERE id = ?1 AND state = 3 AND fence = ?2 AND lease_until <= ?3",
            params![&seen.job.as_bytes()[..], int(seen.fence), now.as_micros()],
            |row| row.get::<_, i64>(0),
        )?;
        if let Some(seq) = seq {
            tell_of_damage(seq, fault);
            self.give_up_unreadable(seq, now)?;
            self.refill(now)?;
        }
        Ok(())
    }
}

fn check_claim(request: &ClaimRequest) -> Result<()> {
    check_items("max", request.max)?;
    let bounded = |field, has: usize, max: usize| {
        let reason = format_args!("has {has} entries, where at most {max} are allowed");
        if has > max { Err(Error::invalid(field, reason)) } else { Ok(()) }
    };
    bounded("queues", request.queues.len(), bounds::SERVER_QUEUES)?;
    bounded("kinds", request.kinds.len(), bounds::SERVER_KINDS)?;
    check_lease(request.lease)
}

fn check_lease(lease: Duration) -> Result<()> {
    if bounds::LEASE.contains(&lease) {
        return Ok(());
    }
    Err(Error::invalid("lease", format_args!("is {lease:?}, where 10 ms to a day are allowed")))
}

/// A claim in progress.
struct Claim<'r> {
    request: &'r ClaimRequest,
    now: Timestamp,
    paused: Paused,
    jobs: Vec<ClaimedJob>,
    /// How many more candidates may turn out not to be claimable.
    asides: usize,
}

/// Whether a kind is served.
fn wanted_kinds(kinds: &[Name]) -> impl Fn(&Name) -> bool + '_ {
    let set: Option<HashSet<&Name>> = (kinds.len() > 16).then(|| kinds.iter().collect());
    move |kind| match &set {
        Some(set) => set.contains(kind),
        None => kinds.contains(kind),
    }
}

#[async_trait]
impl JobQueue for SqliteStorage {
    async fn claim(&self, request: &ClaimRequest) -> Result<Claimed> {
        check_claim(request)?;
        let request = request.clone();
        self.writer().call_hot("claim", move |flight| flight.claim(&request)).await
    }

    async fn settle(&self, request: &SettleRequest) -> Result<Vec<SettleAnswer>> {
        check_items("settles", request.settles.len())?;
        let request = request.clone();
        self.writer().call_hot("settle", move |flight| flight.settle_all(&request)).await
    }

    async fn settle_and_claim(
        &self,
        settle: &SettleRequest,
        claim: &ClaimRequest,
    ) -> Result<(Vec<SettleAnswer>, Claimed)> {
        check_items("settles", settle.settles.len())?;
        check_claim(claim)?;
        let (settle, claim) = (settle.clone(), claim.clone());
        self.writer()
            .call_hot("settle_and_claim", move |flight| {
                Ok((flight.settle_all(&settle)?, flight.claim(&claim)?))
            })
            .await
    }

    async fn renew(&self, request: &RenewRequest) -> Result<Renewed> {
        check_items("held", request.held.len())?;
        check_lease(request.lease)?;
        let request = request.clone();
        self.writer().call("renew", move |flight| flight.renew(&request)).await
    }

    async fn promote_due(&self, request: StepRequest) -> Result<Promoted> {
        self.writer().call("promote_due", move |flight| flight.promote(request)).await
    }

    async fn rescue_expired(&self, request: &RescueRequest) -> Result<Rescue> {
        let request = request.clone();
        self.writer().call("rescue_expired", move |flight| flight.rescue(&request)).await
    }

    async fn wake_ups(&self, filter: WakeUpFilter) -> Result<Option<Box<dyn WakeUps>>> {
        Ok(Some(wake_up::subscribe(self, &filter)))
    }
}
