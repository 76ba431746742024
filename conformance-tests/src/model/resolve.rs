//! What an operation means when it is played.

use std::time::Duration;

use jobkit_core::failure::ErrorDetail;
use jobkit_core::limit::{Limit, Window};
use jobkit_core::record::{NewRecord, Payload, Progress};
use jobkit_core::recurring::{
    JobTemplate, Misfire, NextRun, Overlap, Pause, RecurringRun, RecurringSpec, RunOutcome,
};
use jobkit_core::schedule::{Schedule, TimeZone};
use jobkit_core::state::{Keep, Retention};
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::*;
use jobkit_core::unique::Unique;
use jobkit_core::{Incarnation, JobId, OperationId};

use super::call::{Call, Held};
use super::operation::{ClaimPlan, Operation, SettlePlan, WindowPlan};
use super::world::{LEASE, LIMITS, SCHEDULES, World, guard_of, kind, name, newest, queue};

impl World {
    /// The call that an operation is now; `None` where it means nothing.
    pub(super) fn resolve(&mut self, operation: &Operation) -> Option<Call> {
        let world = &mut *self;
        Some(match operation {
            Operation::Wait(_) | Operation::Fire { .. } => return None,
            Operation::Repeat(n) => {
                let call = world.calls[newest(world.calls.len(), *n)?].clone();
                let last = |(life, sequence)| {
                    world.lives.iter().any(|it| it.incarnation == life && it.sequence == sequence)
                };
                // Only the last claim of a life is known to be remembered.
                call.claim().is_none_or(last).then_some(call)?
            }
            Operation::Submit(plans) => {
                Call::Submit(plans.iter().map(|plan| world.submission(plan)).collect())
            }
            Operation::Change(plans, named) => {
                Call::Change(plans.iter().map(|plan| world.change(plan)).collect(), *named)
            }
            Operation::Claim(plan) => Call::Claim(world.claim(plan)),
            Operation::Settle(plans) => Call::Settle(self.settles(plans)),
            Operation::SettleAndClaim(plans, claim) => {
                let settles = self.settles(plans);
                Call::SettleAndClaim(settles, self.claim(claim))
            }
            Operation::Renew { server, left_out, started, past } => {
                let life = &mut world.lives[*server];
                // A renew closes what it covers: there was a claim at least, though it took nothing.
                life.sequence = life.sequence.max(1);
                let life = *life;
                let is_its = |held: &&Held| held.leases[0].incarnation == life.incarnation;
                let bit = |mask: u8, place: usize| mask >> (place % 8) & 1 == 1;
                let mut held: Vec<_> = world.held.iter().filter(is_its).enumerate().collect();
                held.retain(|(place, _)| !bit(*left_out, *place));
                let mut held: Vec<_> =
                    held.into_iter().map(|(place, held)| (*held, bit(*started, place))).collect();
                held.extend(world.past.last().filter(|_| *past).map(|held| (*held, false)));
                let (incarnation, through) = (life.incarnation, life.sequence);
                Call::Renew { incarnation, through, held }
            }
            Operation::Promote => Call::Promote,
            Operation::Sweep => Call::Sweep,
            Operation::Purge => Call::Purge,
            Operation::Rescue => Call::Rescue(world.expired.clone()),
            Operation::Acquire { lock, owner, length } => {
                Call::Acquire(lock_request(*lock, *owner, *length))
            }
            Operation::RenewLock { lock, owner } => {
                let length = Duration::from_secs(30);
                Call::RenewLock(lock_request(*lock, *owner, length), self.generations(*lock)?)
            }
            Operation::Release { lock, owner } => {
                let length = Duration::from_secs(30);
                Call::Release(lock_request(*lock, *owner, length), self.generations(*lock)?)
            }
            Operation::Announce { server, reborn, queues, kinds } => {
                if *reborn {
                    world.rebirth(*server);
                }
                Call::Announce(world.server(*server, *queues, *kinds))
            }
            Operation::Heartbeat { server, busy } => {
                let incarnation = world.lives[*server].incarnation;
                Call::Heartbeat(Heartbeat { incarnation, busy: *busy })
            }
            Operation::Deregistration { server, running } => {
                let life = world.lives[*server].incarnation;
                let its = world.held.iter().filter(|held| held.leases[0].incarnation == life);
                let running = its.enumerate().filter(|(place, _)| running >> (place % 8) & 1 == 1);
                let call = Call::Deregistration(life, running.map(|(_, held)| *held).collect());
                world.rebirth(*server);
                call
            }
            Operation::RemoveDead(silent_for) => Call::RemoveDead(*silent_for),
            other => return self.resolve_beyond_core(other),
        })
    }

    fn resolve_beyond_core(&mut self, operation: &Operation) -> Option<Call> {
        let world = &mut *self;
        let schedule = |n: usize| SCHEDULES[n].to_owned();
        let line = LogLine { at: world.now, level: LogLevel::Info, text: "t".into() };
        Some(match operation {
            Operation::StartBatch(n) => Call::StartBatch(world.some_batch(*n)?),
            Operation::CancelBatch(n) => Call::CancelBatch(world.some_batch(*n)?),
            Operation::DefineLimit { limit, max, window, length } => {
                // Only the third changes what it counts.
                let window = match window {
                    WindowPlan::Fixed if *limit == 2 => Some(Window::Fixed(*length)),
                    WindowPlan::Sliding if *limit == 2 => Some(Window::Sliding(*length)),
                    _ => None,
                };
                let window = window.filter(|_| world.one_clock);
                Call::DefineLimit(Limit { window, ..Limit::new(LIMITS[*limit], *max) })
            }
            Operation::Save { schedule: n, keyed, at, etag } => {
                let spec = specification(schedule(*n), *keyed);
                let at = world.minute(*at);
                let next = Some(NextRun { nominal_at: at, due_at: at });
                Call::Save(Box::new(SaveRecurring { spec, next, if_etag: *etag }))
            }
            Operation::Remove(n) => Call::Remove(schedule(*n)),
            Operation::PauseSchedule { schedule: n, length } => {
                let until = length.map(|length| world.now.plus(length));
                let pause = Pause { until, ..Pause::new("me", "why") };
                Call::PauseSchedule(schedule(*n), PauseChange::Pause(pause))
            }
            Operation::ResumeSchedule { schedule: n, at } => {
                let at = world.minute(*at);
                let next = Some(NextRun { nominal_at: at, due_at: at });
                Call::PauseSchedule(schedule(*n), PauseChange::Resume { next })
            }
            Operation::Trigger { schedule: n, job } => {
                Call::Trigger(schedule(*n), Box::new(world.job(job, &[], None)))
            }
            Operation::Log { lease } => Call::Log(world.some_lease(*lease)?, line),
            Operation::Memo { lease, value } => {
                Call::Memo(world.some_lease(*lease)?, Payload::from(vec![*value]))
            }
            Operation::Checkpoint { lease, value } => {
                Call::Checkpoint(world.some_lease(*lease)?, Payload::from(vec![*value]))
            }
            Operation::Pause { target: n, length } => {
                let until = length.map(|length| world.now.plus(length));
                Call::Pause(target(*n), Pause { until, ..Pause::new("me", "why") })
            }
            Operation::Resume { target: n } => Call::Resume(target(*n)),
            other => return self.resolve_operators(other),
        })
    }

    fn resolve_operators(&mut self, operation: &Operation) -> Option<Call> {
        let world = &mut *self;
        let given = |length: &Option<Duration>, now: jobkit_core::Timestamp| Pause {
            until: length.map(|length| now.plus(length)),
            ..Pause::new("me", "why")
        };
        let id = |n: u8| OperationId::from_bytes([n + 1; 16]);
        Some(match operation {
            Operation::Order { server, command, length } => {
                let command =
                    [None, Some(ServerCommand::Quiet), Some(ServerCommand::Stop)][*command];
                let given = given(length, world.now);
                let order = command.map(|command| ServerOrder { command, given });
                Call::Order(name(format!("server{server}")), order)
            }
            Operation::Edit { job, guard, copy } => {
                let original = world.some_job(*job);
                let guard = guard_of(*guard);
                let mut copy = world.job(copy, &[], None);
                copy.edges.clear();
                copy.extras_mut().made_from = Some(original);
                Call::Edit(original, guard, Box::new(copy))
            }
            Operation::ReleaseStuck { limit, job } => {
                Call::ReleaseStuck(LIMITS[*limit], world.some_job(*job))
            }
            Operation::Mute { lifted } => {
                let group = ErrorDetail::new("k", "E", "message", [], None).fingerprint;
                Call::Mute(group, (!lifted).then(|| Pause::new("me", "why")))
            }
            Operation::Audit { operation, count } => Call::Audit(AuditEntry {
                operation: id(*operation),
                at: jobkit_core::Timestamp::MIN,
                actor: "me".into(),
                peer: String::new(),
                action: "look".into(),
                target: "all".into(),
                count: *count,
                outcome: String::new(),
                reason: String::new(),
            }),
            Operation::Bulk { operation, version, ended } => Call::Bulk(Box::new(BulkRecord {
                id: id(*operation),
                version: *version,
                filter: "state:failed".into(),
                action: Action::Requeue { run_at: None },
                as_of: world.began,
                spread: Duration::ZERO,
                previewed: 0,
                actor: "me".into(),
                reason: String::new(),
                place: None,
                plan: None,
                done: 0,
                skipped: 0,
                refused: 0,
                ended_at: ended.then_some(world.now),
                cancelled: false,
            })),
            _ => return None,
        })
    }

    fn generations(&self, lock: usize) -> Option<[u64; 2]> {
        let last = |side: usize| self.generations[side][lock].last().copied();
        Some([last(0)?, last(1)?])
    }

    fn claim(&mut self, plan: &ClaimPlan) -> ClaimRequest {
        let life = &mut self.lives[plan.server];
        life.sequence += 1;
        let quota = |(n, max)| QueueQuota { queue: queue(n), max };
        let mut queues: Vec<_> =
            [(0, plan.first_at_most), (1, plan.max)].into_iter().map(quota).collect();
        if plan.reversed {
            queues.reverse();
        }
        ClaimRequest {
            server: name(format!("server{}", plan.server)),
            incarnation: life.incarnation,
            sequence: life.sequence,
            queues,
            kinds: (0..plan.kinds).map(kind).collect::<Vec<_>>().into(),
            max: plan.max,
            started: plan.max / 2,
            lease: LEASE,
            sleeps_below: 0,
            hint: None,
        }
    }

    fn settles(&mut self, plans: &[SettlePlan]) -> Vec<(Held, Settle)> {
        let world = &mut *self;
        let mut settles = Vec::new();
        for plan in plans {
            let held = if plan.past {
                newest(world.past.len(), plan.lease).map(|place| world.past[place])
            } else {
                // The oldest first, as workers go.
                let count = world.held.len();
                (count > 0).then(|| world.held.remove(plan.lease % count))
            };
            let Some(held) = held else { continue };
            if !plan.past {
                world.past.push(held);
            }
            let mut settle = Settle::new(held.leases[0], plan.ending);
            settle.duration = plan.duration;
            settle.result = plan.result.map(|bytes| Payload::from(vec![b'1'; bytes]));
            if matches!(plan.ending, Ending::Retry { .. } | Ending::Failed(_)) {
                settle.error = Some(ErrorDetail::new("k", "E", "message", [], None));
            }
            if plan.retention {
                settle.retention = Retention::all(Keep::For(Duration::from_secs(4000)));
            }
            if plan.log && world.level >= Level::Standard {
                let (at, text) = (world.now, "line".into());
                settle.log.push(LogLine { at, level: LogLevel::Warn, text });
                settle.log_dropped = 2;
                settle.progress.push(Progress {
                    name: format!("bar{}", plan.lease % 2),
                    done: 1,
                    total: 2,
                    message: String::new(),
                });
            }
            settles.push((held, settle));
        }
        settles
    }

    pub(super) fn fire(
        &self,
        (id, etag): (String, u64),
        next: NextRun,
        job: NewRecord,
        skip: bool,
    ) -> Call {
        let expected = next.nominal_at;
        let later = expected.plus(Duration::from_secs(60));
        let run = |outcome| RecurringRun {
            nominal_at: expected,
            through: expected,
            count: 1,
            outcome,
            at: self.now,
        };
        let skipped = if skip { vec![run(RunOutcome::Misfired)] } else { Vec::new() };
        let job = (!skip).then_some(FireJob { nominal_at: expected, job, overlap: Overlap::Skip });
        let next = Some(NextRun { nominal_at: later, due_at: later });
        Call::Fire(Box::new(Fire { id, expected, etag, skipped, job, next }))
    }
}

fn lock_request(lock: usize, owner: usize, ttl: Duration) -> LockRequest {
    let owner = Incarnation::from_i64(if owner == 0 { 1 } else { 2 });
    LockRequest { name: format!("lock{lock}"), owner, ttl }
}

fn target(n: usize) -> PauseTarget {
    if n < 2 { PauseTarget::Queue(queue(n)) } else { PauseTarget::Kind(kind(n - 2)) }
}

fn specification(id: String, keyed: bool) -> RecurringSpec {
    let mut template = NewRecord::new(JobId::from_key("k", "template"), name("kind0"), *b"{}");
    template.unique = keyed.then(|| Unique::new("key0"));
    RecurringSpec {
        id,
        schedule: Schedule::every(Duration::from_secs(60)).expect("a valid interval"),
        time_zone: TimeZone::UTC,
        misfire: Misfire::RunOnce,
        overlap: Overlap::Skip,
        jitter: Duration::ZERO,
        starts_at: None,
        ends_at: None,
        job: JobTemplate::from_record(&template).expect("it can recur"),
    }
}
