//! Looks on as calls are applied, and tells what they did by comparing the storage before and after.
//!
//! Calls of the memory storage apply at once and on one thread, so what is read right after a call is
//! what it left: the order of looks is the order of commits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use jobkit_core::batch::BatchRecord;
use jobkit_core::record::{EdgeStatus, JobDetails, JobRecord};
use jobkit_core::refusal::Refusal;
use jobkit_core::state::{State, StateName};
use jobkit_core::stats::Scope;
use jobkit_core::storage::{
    BatchStore, Call, ChangeOutcome, FireOutcome, JobStore, JobSubmitted, LimitStore, Monitoring,
    RenewAnswer, ServerRegistry, SettleAnswer, SubmitRequest, Submitted,
};
use jobkit_core::testing::{ObservedCall, Observer};
use jobkit_core::unique::Until;
use jobkit_core::{BatchId, Clock, Incarnation, JobId, MemoryStorage};

use super::world::JumpingClock;
use crate::history::{Fact, History, Place};

pub(super) struct Watcher {
    storage: MemoryStorage,
    clock: Arc<JumpingClock>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    history: History,
    s: u64,
    submissions: u64,
    jobs: BTreeMap<JobId, Job>,
    batches: BTreeMap<BatchId, BatchRecord>,
    limits: BTreeMap<String, (u32, u32)>,
    lives: BTreeSet<Incarnation>,
}

struct Job {
    record: JobRecord,
    applied: u64,
    last: StateName,
    held: Option<u64>,
    /// Its edges, as long as one is open.
    open: Vec<EdgeStatus>,
}

/// A call whose look costs nothing, since it changes no job.
const QUIET: [&str; 13] = [
    "heartbeat",
    "due_recurring",
    "now",
    "jobs",
    "job",
    "snapshot",
    "servers",
    "lanes",
    "wake_ups",
    "write_log",
    "put_memo",
    "memo",
    "checkpoint",
];

impl Observer for Watcher {
    fn applied(&self, call: &ObservedCall<'_>) {
        if matches!(call, ObservedCall::Other(name) if QUIET.contains(name)) {
            return;
        }
        let at = self.clock.now();
        let mut seen = self.seen();
        seen.s += 1;
        let mut look = Look { facts: Vec::new(), claims: Vec::new(), new: Vec::new() };
        if matches!(call, ObservedCall::Other("announce" | "remove_dead" | "remove_server")) {
            let servers = now(self.storage.servers()).unwrap_or_default();
            let lives = servers.iter().map(|server| server.info.incarnation).collect();
            let before = std::mem::replace(&mut seen.lives, lives);
            look.facts.extend(before.difference(&seen.lives).copied().map(Fact::Forgotten));
        }
        look.told_by(&mut seen, call);
        look.differences(&mut seen, &self.storage);
        let Look { facts, mut claims, .. } = look;
        claims.sort_by(|a, b| a.0.cmp(&b.0));
        let s = seen.s;
        for fact in facts.into_iter().chain(claims.into_iter().map(|(_, fact)| fact)) {
            seen.history.push(s, at, fact);
        }
    }
}

impl Watcher {
    pub(super) fn new(storage: MemoryStorage, clock: Arc<JumpingClock>) -> Self {
        Self { storage, clock, seen: Mutex::default() }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something that no call shows.
    pub(super) fn tell(&self, fact: Fact) {
        let at = self.clock.now();
        let mut seen = self.seen();
        seen.s += 1;
        let s = seen.s;
        seen.history.push(s, at, fact);
    }

    /// A job that can be told apart by chance alone.
    pub(super) fn jobs(&self) -> Vec<JobId> {
        self.seen().jobs.keys().copied().collect()
    }

    pub(super) fn batches(&self) -> Vec<BatchId> {
        self.seen().batches.keys().copied().collect()
    }

    /// Whether something is left to do.
    pub(super) fn is_busy(&self) -> bool {
        let left = |job: &Job| !job.last.is_finished() && job.last != StateName::Awaiting;
        self.seen().jobs.values().any(left)
    }

    /// What there is to say at the end.
    pub(super) fn finish(&self) -> History {
        let at = self.clock.now();
        let mut seen = self.seen();
        seen.s += 1;
        let s = seen.s;
        let ids: Vec<JobId> = seen.jobs.keys().copied().collect();
        for job in ids {
            if let Some(details) = now(self.storage.job(job)).flatten() {
                let kept = details.history.entries.iter().map(|entry| entry.state).collect();
                let dropped = details.history.dropped;
                seen.history.push(s, at, Fact::Recorded { job, dropped, kept });
            }
        }
        if let Some(tally) = now(self.storage.counters(&Scope::Total)) {
            seen.history.push(s, at, Fact::Totals(tally.to));
        }
        if let Some(snapshot) = now(self.storage.snapshot(&Call::default())) {
            seen.history.push(s, at, Fact::Standing(snapshot.by_state));
        }
        seen.history.push(s, at, Fact::Quiet);
        std::mem::take(&mut seen.history)
    }
}

/// The answer of a call that never waits.
fn now<T>(call: impl Future<Output = jobkit_core::Result<T>>) -> Option<T> {
    call.now_or_never().and_then(Result::ok)
}

/// A queue, and a place in it.
type InLine = (String, (u8, u64));

struct Look {
    facts: Vec<Fact>,
    /// Claims come last, in the order of their places.
    claims: Vec<(InLine, Fact)>,
    new: Vec<(JobId, u64)>,
}

impl Look {
    fn told_by(&mut self, seen: &mut Seen, call: &ObservedCall<'_>) {
        match call {
            ObservedCall::Submit(request, answers) => self.submitted(seen, request, answers),
            ObservedCall::ChangeState(request, answers) => {
                for (change, answer) in request.changes.iter().zip(*answers) {
                    if let ChangeOutcome::Refused(refusal) = answer {
                        self.refused(seen, refusal);
                        self.facts.push(Fact::Refused(change.job));
                    }
                }
            }
            ObservedCall::Settle(request, answers) => self.settled(request, answers),
            ObservedCall::SettleAndClaim(request, answers, claim, _) => {
                self.settled(request, answers);
                self.asked(claim);
            }
            ObservedCall::Claim(claim, _) => self.asked(claim),
            ObservedCall::Renew(request, renewed) => {
                for (renewal, answer) in request.held.iter().zip(&renewed.answers) {
                    if matches!(answer, RenewAnswer::Renewed { .. }) {
                        let lease = renewal.lease;
                        let (job, fence, life) = (lease.job, lease.fence, lease.incarnation);
                        self.facts.push(Fact::Write { job, fence, life });
                    }
                }
            }
            ObservedCall::Rescue(_, rescue) => {
                for (job, _) in &rescue.rescued {
                    let held = seen.jobs.get(job).and_then(|job| job.held);
                    self.facts.extend(held.map(|fence| Fact::Rescued { job: *job, fence }));
                }
                for seen in &rescue.expired {
                    self.facts.push(Fact::SeenExpired { job: seen.job, fence: seen.fence });
                }
            }
            ObservedCall::Fire(fires, answers) => {
                for (fire, answer) in fires.iter().zip(*answers) {
                    if matches!(answer, FireOutcome::Stale | FireOutcome::Failed(_)) {
                        continue;
                    }
                    for range in &fire.skipped {
                        let (from, through) = (range.nominal_at, range.through);
                        let id = fire.id.clone();
                        self.facts.push(Fact::Skipped { id, from, through });
                    }
                    if let Some(job) = &fire.job {
                        let (id, nominal_at) = (fire.id.clone(), job.nominal_at);
                        self.facts.push(Fact::Fired { id, nominal_at });
                    }
                    if let FireOutcome::Fired(job) = answer {
                        seen.submissions += 1;
                        self.new.push((*job, seen.submissions));
                    }
                }
            }
            ObservedCall::Acquire(request, Some(lease)) => self.facts.push(Fact::Locked {
                name: request.name.clone(),
                owner: request.owner,
                generation: lease.generation,
                until: lease.expires_at,
            }),
            _ => {}
        }
    }

    fn asked(&mut self, claim: &jobkit_core::storage::ClaimRequest) {
        let queues = claim.queues.iter().map(|quota| quota.queue.clone()).collect();
        self.facts.push(Fact::Asked { queues, kinds: claim.kinds.to_vec() });
    }

    fn settled(&mut self, request: &jobkit_core::storage::SettleRequest, answers: &[SettleAnswer]) {
        for (settle, answer) in request.settles.iter().zip(answers) {
            if matches!(answer, SettleAnswer::Settled(_)) {
                let lease = settle.lease;
                let (job, fence, life) = (lease.job, lease.fence, lease.incarnation);
                self.facts.push(Fact::Write { job, fence, life });
            }
        }
    }

    fn submitted(&mut self, seen: &mut Seen, request: &SubmitRequest<'_>, answers: &[Submitted]) {
        for (submission, answer) in request.submissions.iter().zip(answers) {
            seen.submissions += 1;
            match answer {
                Submitted::Created(jobs) => {
                    if let Some(batch) = &submission.batch {
                        seen.batches.entry(batch.id).or_insert_with(|| unknown(batch.id));
                    }
                    for (job, outcome) in submission.jobs.iter().zip(jobs) {
                        match outcome {
                            JobSubmitted::Created(_) => {
                                self.new.push((job.id, seen.submissions));
                            }
                            JobSubmitted::Existing(holder) => self.held_by(seen, *holder),
                            JobSubmitted::Already(_) => {}
                        }
                    }
                }
                Submitted::Refused(refusal) => {
                    self.refused(seen, refusal);
                    let new = submission.jobs.iter().filter(|job| !seen.jobs.contains_key(&job.id));
                    self.facts.extend(new.map(|job| Fact::Refused(job.id)));
                }
                Submitted::Busy => {}
            }
        }
    }

    fn refused(&mut self, seen: &Seen, refusal: &Refusal) {
        if let Refusal::UniqueConflict { holder } = refusal {
            self.held_by(seen, *holder);
        }
    }

    fn held_by(&mut self, seen: &Seen, holder: JobId) {
        let key = seen.jobs.get(&holder).and_then(|job| job.record.unique.as_ref());
        if let Some(unique) = key {
            self.facts.push(Fact::KeyHeldBy { job: holder, key: unique.key.clone() });
        }
    }

    fn differences(&mut self, seen: &mut Seen, storage: &MemoryStorage) {
        let new: BTreeMap<JobId, u64> = std::mem::take(&mut self.new).into_iter().collect();
        let ids: BTreeSet<JobId> = seen.jobs.keys().copied().chain(new.keys().copied()).collect();
        let ids: Vec<JobId> = ids.into_iter().collect();
        let records = now(storage.jobs(&ids)).unwrap_or_default();
        for (id, record) in ids.iter().zip(records) {
            let before = seen.jobs.get(id);
            let Some(record) = record else {
                if let Some(before) = seen.jobs.remove(id) {
                    let expires_at = before.record.expires_at;
                    self.facts.push(Fact::Gone { job: *id, expires_at });
                }
                continue;
            };
            let same = before.is_some_and(|job| job.open.is_empty() && job.record == record);
            if same {
                continue;
            }
            let Some(details) = now(storage.job(*id)).flatten() else { continue };
            let job = self.job(before, &details, new.get(id).copied().unwrap_or_default());
            if let Some(batch) = record.batch {
                seen.batches.entry(batch).or_insert_with(|| unknown(batch));
            }
            seen.jobs.insert(*id, job);
        }
        for (id, before) in &mut seen.batches {
            if let Some(batch) = now(storage.batch(*id)).flatten()
                && batch != *before
            {
                self.facts.push(Fact::Batch(Box::new(batch.clone())));
                *before = batch;
            }
        }
        for limit in now(storage.limits(&Call::default(), None, 100)).unwrap_or_default() {
            let name = limit.limit.name;
            let figures = (limit.limit.max, limit.used);
            if seen.limits.insert(name.clone(), figures) != Some(figures) {
                self.facts.push(Fact::Limit { name, max: figures.0, used: figures.1 });
            }
        }
    }

    /// What is new of a job.
    fn job(&mut self, before: Option<&Job>, details: &JobDetails, submission: u64) -> Job {
        let JobDetails { record, history, parents, .. } = details;
        let job = record.id;
        let place = place(record);
        let mut facts = Vec::new();
        let (mut applied, mut last, mut held) = match before {
            Some(before) => (before.applied, before.last, before.held),
            None => {
                let to = history.entries[0].state;
                facts.push(Fact::Create { job, submission, to, place: place.clone() });
                if let Some(batch) = record.batch {
                    facts.push(Fact::Member { job, batch });
                }
                for limit in &record.limits {
                    facts.push(Fact::Limited { job, limit: limit.name.clone() });
                }
                if !to.is_finished() {
                    for status in parents {
                        facts.push(Fact::Edge { child: job, edge: status.edge });
                    }
                    facts.extend(key_of(record).map(|key| Fact::KeyTaken { job, key }));
                }
                (1, to, None)
            }
        };
        let open_before: Vec<EdgeStatus> = match before {
            Some(before) => before.open.clone(),
            None if history.entries[0].state.is_finished() => Vec::new(),
            None => parents.iter().map(|it| EdgeStatus { decided: false, ..*it }).collect(),
        };
        for (was, is) in open_before.iter().zip(parents) {
            if !was.decided && is.decided {
                facts.push(Fact::Decided { child: job, parent: is.edge.parent });
            }
        }
        if before.is_some_and(|before| self::place(&before.record) != place) {
            facts.push(Fact::Moved { job, place: place.clone() });
        }
        let until = record.unique.as_ref().map(|unique| unique.until);
        let fresh = usize::try_from(history.applied() - applied).unwrap_or(0);
        let kept = history.entries.len();
        for entry in &history.entries[kept - fresh.min(kept)..] {
            let (to, reason) = (entry.state, entry.reason);
            facts.extend(held.take().map(|fence| Fact::End { job, fence }));
            if last.is_finished() && !to.is_finished() {
                facts.extend(key_of(record).map(|key| Fact::KeyTaken { job, key }));
            }
            let step = Fact::Step { job, to, reason, run: record.head.run };
            if to == StateName::Processing {
                let fence = entry.fence.unwrap_or(record.head.fence);
                held = Some(fence);
                let at = (place.queue.to_string(), place.rank);
                if let State::Processing(hold) = &record.head.state {
                    let (life, call) = (hold.incarnation, hold.claim_sequence);
                    self.claims.push((at.clone(), step));
                    self.claims.push((at, Fact::Claim { job, fence, life, call }));
                }
            } else {
                facts.push(step);
            }
            if to.is_finished() || (to == StateName::Processing && until == Some(Until::Started)) {
                facts.extend(key_of(record).map(|key| Fact::KeyFreed { job, key }));
            }
            last = to;
            applied += 1;
        }
        let hold = |record: &JobRecord| match &record.head.state {
            State::Processing(hold) => Some((record.head.fence, hold.expires_at, hold.cancel)),
            _ => None,
        };
        let was = before.and_then(|before| hold(&before.record));
        if let (Some((fence, until, asked)), Some((now, extended, cancel))) = (was, hold(record))
            && fence == now
        {
            if until != extended {
                facts.push(Fact::Extended { job, fence });
            }
            if asked.is_none() && cancel.is_some() {
                facts.push(Fact::CancelAsked { job, fence });
            }
        }
        self.facts.append(&mut facts);
        let is_open = parents.iter().any(|status| !status.decided);
        let at_birth = before.is_none() && last.is_finished();
        let open = if is_open && !at_birth { parents.clone() } else { Vec::new() };
        Job { record: record.clone(), applied, last, held, open }
    }
}

fn place(record: &JobRecord) -> Place {
    Place {
        queue: record.queue.clone(),
        kind: record.kind.clone(),
        rank: (9 - record.priority, record.sequence),
        conditional: !record.limits.is_empty() || record.start_by.is_some(),
    }
}

fn key_of(record: &JobRecord) -> Option<String> {
    record.unique.as_ref().map(|unique| unique.key.clone())
}

/// A batch before it was looked at.
fn unknown(id: BatchId) -> BatchRecord {
    let at = jobkit_core::Timestamp::MIN;
    BatchRecord {
        id,
        name: String::new(),
        parent: None,
        counts: jobkit_core::edge::BatchCounts::default(),
        created_at: at,
        attached_at: at,
        started_at: None,
        completed_at: None,
        succeeded_at: None,
        cancelled_at: None,
    }
}
