//! Calls as both storages get them, and what they answer.

use jobkit_core::failure::Fingerprint;
use jobkit_core::record::{Lease, Payload};
use jobkit_core::recurring::{Pause, RecurringRecord};
use jobkit_core::storage::{self, *};
use jobkit_core::{Incarnation, JobId, Name, Result, Timestamp};
use std::fmt::Debug;
use std::time::Duration;

/// Two storages: the one under test, and the one in memory.
pub(super) type Both<T> = [T; 2];

/// A lease with the locator of each storage.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) leases: Both<Lease>,
}

/// A call, resolved.
#[derive(Clone, Debug)]
pub(super) enum Call {
    Submit(Vec<Submission>),
    Change(Vec<Change>, bool),
    Claim(ClaimRequest),
    Settle(Vec<(Held, Settle)>),
    SettleAndClaim(Vec<(Held, Settle)>, ClaimRequest),
    Renew { incarnation: Incarnation, through: u64, held: Vec<(Held, bool)> },
    Promote,
    Sweep,
    Purge,
    Rescue(Both<Vec<ExpiredLease>>),
    Acquire(LockRequest),
    RenewLock(LockRequest, Both<u64>),
    Release(LockRequest, Both<u64>),
    Announce(ServerInfo),
    Heartbeat(Heartbeat),
    Deregistration(Incarnation, Vec<Held>),
    RemoveDead(Duration),
    StartBatch(jobkit_core::BatchId),
    CancelBatch(jobkit_core::BatchId),
    DefineLimit(jobkit_core::limit::Limit),
    Save(Box<SaveRecurring>),
    Remove(String),
    PauseSchedule(String, PauseChange),
    Trigger(String, Box<jobkit_core::record::NewRecord>),
    Due,
    Fire(Box<Fire>),
    Log(Held, LogLine),
    Memo(Held, Payload),
    Checkpoint(Held, Payload),
    Pause(PauseTarget, Pause),
    Resume(PauseTarget),
    Order(Name, Option<ServerOrder>),
    Edit(JobId, Guard, Box<jobkit_core::record::NewRecord>),
    ReleaseStuck(&'static str, JobId),
    Mute(Fingerprint, Option<Pause>),
    Audit(AuditEntry),
    Bulk(Box<BulkRecord>),
}

/// What a call answered: what must be equal, and what later calls need.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) text: String,
    pub(super) claimed: Vec<Lease>,
    pub(super) given_back: Vec<JobId>,
    pub(super) expired: Vec<ExpiredLease>,
    pub(super) due: Vec<RecurringRecord>,
    /// Of a lock; the numbers are each storage's own, their order is not.
    pub(super) generation: Option<u64>,
}

/// How often a bounded step may follow another before it counts as endless.
const STEPS: usize = 10_000;

impl Call {
    /// Makes the call; an error is an answer too.
    pub(super) async fn make(&self, on: &dyn Storage, side: usize, now: Timestamp) -> Answer {
        match self.attempt(on, side, &storage::Call::at(now)).await {
            Ok(answer) => answer,
            Err(error) => {
                Answer { text: format!("error: {:?}", error.kind()), ..Answer::default() }
            }
        }
    }

    async fn attempt(&self, on: &dyn Storage, side: usize, call: &storage::Call) -> Result<Answer> {
        let told = |answer: &dyn Debug| Answer { text: format!("{answer:?}"), ..Answer::default() };
        let settles = |settles: &[(Held, Settle)]| SettleRequest {
            server: Name::from_stored("server".to_owned()),
            settles: settles
                .iter()
                .map(|(held, settle)| Settle { lease: held.leases[side], ..settle.clone() })
                .collect(),
        };
        let step = StepRequest { max: 500 };
        Ok(match self {
            Self::Submit(submissions) => {
                told(&on.submit(call, SubmitRequest { submissions }).await?)
            }
            Self::Change(changes, named) => {
                let actor = named.then_some("me");
                told(&on.change_state(call, ChangeRequest { changes, actor }).await?)
            }
            Self::Claim(request) => claimed(on.claim(call, request).await?),
            Self::Settle(ends) => told(&on.settle(call, &settles(ends)).await?),
            Self::SettleAndClaim(ends, request) => {
                let both = on.settle_and_claim(call, &settles(ends), request).await;
                if both.is_err() {
                    // Whether the first half was applied is open: it is repeated until it is known.
                    on.settle(call, &settles(ends)).await?;
                }
                let (answers, jobs) = both?;
                let answer = claimed(jobs);
                Answer { text: format!("{answers:?} {}", answer.text), ..answer }
            }
            Self::Renew { incarnation, through, held } => {
                let renewal = |(held, started): &(Held, bool)| Renewal {
                    lease: held.leases[side],
                    started: *started,
                };
                let request = RenewRequest {
                    incarnation: *incarnation,
                    sequences: 1..=*through,
                    held: held.iter().map(renewal).collect(),
                    lease: super::world::LEASE,
                };
                let mut renewed = on.renew(call, &request).await?;
                renewed.given_back.sort_unstable();
                Answer { given_back: renewed.given_back.clone(), ..told(&renewed) }
            }
            Self::Promote => told(&on.promote_due(call, step).await?),
            // How much one step does is each storage's own affair.
            Self::Sweep => until_done(|| on.sweep(call, step)).await?,
            Self::Purge => until_done(|| on.purge_expired(call, step)).await?,
            Self::Rescue(seen) => {
                let (seen, crash_limit) = (seen[side].clone(), 2);
                let request = RescueRequest { seen, crash_limit, max: 100 };
                let mut rescue = on.rescue_expired(call, &request).await?;
                rescue.rescued.sort_unstable();
                let key = |lease: &ExpiredLease| (lease.job, lease.fence, lease.expires_at);
                rescue.expired.sort_unstable_by_key(key);
                let expired: Vec<_> = rescue.expired.iter().map(key).collect();
                Answer { expired: rescue.expired, ..told(&(rescue.rescued, expired)) }
            }
            Self::Acquire(request) => {
                let lease = on.try_acquire(call, request).await?;
                let generation = lease.map(|lease| lease.generation);
                Answer { generation, ..told(&lease.map(|lease| lease.expires_at)) }
            }
            Self::RenewLock(request, generation) => {
                told(&on.renew_lock(call, request, generation[side]).await?)
            }
            Self::Release(request, generation) => {
                told(&on.release_lock(call, request, generation[side]).await?)
            }
            Self::Announce(server) => told(&on.announce(call, server).await?),
            Self::Heartbeat(beat) => {
                let mut answer = on.heartbeat(call, beat).await?;
                answer.paused.sort();
                told(&answer)
            }
            Self::Deregistration(life, running) => {
                let running: Vec<_> = running.iter().map(|held| held.leases[side]).collect();
                told(&on.remove_server(call, *life, &running).await?)
            }
            Self::RemoveDead(silent_for) => {
                let mut names = on.remove_dead(call, *silent_for).await?;
                names.sort();
                told(&names)
            }
            Self::StartBatch(id) => told(&on.start_batch(call, *id).await?),
            Self::CancelBatch(id) => told(&on.cancel_batch(call, *id).await?),
            Self::DefineLimit(limit) => told(&on.define_limit(call, limit).await?),
            Self::Save(save) => {
                told(&on.save_recurring(call, std::slice::from_ref(&**save)).await?)
            }
            Self::Remove(id) => told(&on.remove_recurring(call, id).await?),
            Self::PauseSchedule(id, change) => {
                told(&on.pause_recurring(call, id, change.clone()).await?)
            }
            Self::Trigger(id, job) => told(&on.trigger_recurring(call, id, job).await?),
            Self::Due => {
                let mut due = on.due_recurring(call, 5).await?;
                due.due.sort_by(|a, b| a.spec.id.cmp(&b.spec.id));
                Answer { due: due.due.clone(), ..told(&due) }
            }
            Self::Fire(fire) => {
                told(&on.fire_recurring(call, std::slice::from_ref(&**fire)).await?)
            }
            Self::Log(held, line) => {
                let lease = held.leases[side];
                let lines = vec![line.clone()];
                let write = LogWrite { lease, lines, dropped: 1, progress: Vec::new() };
                told(&on.write_log(call, &[write]).await?)
            }
            Self::Memo(held, value) => {
                let memo = on.put_memo(call, held.leases[side], "m", value).await?;
                told(&memo.map(|memo| memo.as_bytes().to_vec()))
            }
            Self::Checkpoint(held, value) => {
                told(&on.put_checkpoint(call, held.leases[side], value).await?)
            }
            Self::Pause(target, pause) => told(&on.pause(call, target, pause).await?),
            Self::Resume(target) => told(&on.resume(call, target).await?),
            Self::Order(server, order) => {
                told(&on.command_server(call, server, order.as_ref()).await?)
            }
            Self::Edit(original, guard, copy) => {
                let (original, guard, actor) = (*original, *guard, Some("me"));
                told(&on.edit_job(call, EditJob { original, guard, copy, actor }).await?)
            }
            Self::ReleaseStuck(limit, job) => {
                let request = ReleaseStuck { limit, job: *job, crash_limit: 2 };
                told(&on.release_stuck(call, request).await?)
            }
            Self::Mute(group, mute) => told(&on.mute(call, *group, mute.as_ref()).await?),
            Self::Audit(entry) => told(&on.append_audit(call, entry).await?),
            Self::Bulk(bulk) => told(&on.save_bulk(call, bulk).await?),
        })
    }

    /// The lives, and the claims of theirs, that the call names.
    pub(super) fn claim(&self) -> Option<(Incarnation, u64)> {
        match self {
            Self::Claim(request) | Self::SettleAndClaim(_, request) => {
                Some((request.incarnation, request.sequence))
            }
            _ => None,
        }
    }
}

fn claimed(claimed: Claimed) -> Answer {
    let leases = claimed.jobs.iter().map(|job| job.lease).collect();
    let mut text = String::new();
    for mut job in claimed.jobs {
        job.lease.locator = jobkit_core::record::Locator::default();
        text.push_str(&format!("{job:?} {:?}\n", String::from_utf8_lossy(&job.args)));
    }
    Answer { text, claimed: leases, ..Answer::default() }
}

async fn until_done<F: Future<Output = Result<Step>>>(step: impl Fn() -> F) -> Result<Answer> {
    for _ in 0..STEPS {
        if !step().await?.more {
            return Ok(Answer::default());
        }
    }
    Ok(Answer { text: "never done".into(), ..Answer::default() })
}
