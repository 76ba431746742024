//! What the caller of both storages knows, and how operations become calls.

use std::collections::BTreeSet;
use std::time::Duration;

use jobkit_core::batch::{NewBatch, Starts};
use jobkit_core::edge::{Edge, Parent};
use jobkit_core::limit::{Limit, Window};
use jobkit_core::record::{Lease, NewRecord};
use jobkit_core::state::{Keep, Retention, Start};
use jobkit_core::storage::*;
use jobkit_core::unique::Unique;
use jobkit_core::{BatchId, Incarnation, JobId, Name, OperationId, Timestamp};

use super::call::{Answer, Both, Call, Held};
use super::operation::{ActionPlan, ChangePlan, GuardPlan, JobPlan, ParentPlan, SubmissionPlan};

/// The lease of every claim.
pub(super) const LEASE: Duration = Duration::from_secs(30);
pub(super) const SCHEDULES: [&str; 2] = ["schedule0", "schedule1"];
/// The last two count starts.
pub(super) const LIMITS: [&str; 4] = ["small", "larger", "sliding", "fixed"];

pub(super) fn name(text: impl Into<String>) -> Name {
    Name::from_stored(text.into())
}

pub(super) fn queue(n: usize) -> Name {
    name(format!("queue{n}"))
}

pub(super) fn kind(n: usize) -> Name {
    name(format!("kind{n}"))
}

pub(super) fn guard_of(plan: GuardPlan) -> Guard {
    match plan {
        GuardPlan::None => Guard::None,
        GuardPlan::State(state) => Guard::State(state),
        GuardPlan::Version(version) => Guard::Version(version),
    }
}

/// Ids of keys have no age: time may pass as it likes.
fn job_id(n: usize) -> JobId {
    JobId::from_key("k", &n.to_string())
}

fn batch_id(n: usize) -> BatchId {
    BatchId::from_key(&n.to_string())
}

/// A server's present life.
#[derive(Clone, Copy, Debug)]
pub(super) struct Life {
    pub(super) incarnation: Incarnation,
    /// Of its last claim.
    pub(super) sequence: u64,
}

/// What is known of both storages.
#[derive(Debug)]
pub(super) struct World {
    pub(super) level: Level,
    /// Whether both storages follow one clock, so that rate limits are compared.
    pub(super) one_clock: bool,
    pub(super) now: Timestamp,
    pub(super) began: Timestamp,
    pub(super) jobs: usize,
    pub(super) batches: usize,
    pub(super) held: Vec<Held>,
    pub(super) past: Vec<Held>,
    pub(super) expired: Both<Vec<ExpiredLease>>,
    pub(super) lives: [Life; 2],
    pub(super) calls: Vec<Call>,
    pub(super) generations: Both<[BTreeSet<u64>; 2]>,
    born: i64,
    operations: u64,
}

impl World {
    pub(super) fn new(level: Level, one_clock: bool, now: Timestamp) -> Self {
        let life = |n| Life { incarnation: Incarnation::from_i64(n), sequence: 0 };
        Self {
            level,
            one_clock,
            now,
            began: now,
            jobs: 0,
            batches: 0,
            held: Vec::new(),
            past: Vec::new(),
            expired: Default::default(),
            lives: [life(11), life(12)],
            calls: Vec::new(),
            generations: Default::default(),
            born: 12,
            operations: 0,
        }
    }

    pub(super) fn job_ids(&self) -> Vec<JobId> {
        (0..self.jobs).map(job_id).collect()
    }

    pub(super) fn batch_ids(&self) -> Vec<BatchId> {
        (0..self.batches).map(batch_id).collect()
    }

    /// The instant this many minutes after the beginning.
    pub(super) fn minute(&self, n: u64) -> Timestamp {
        self.began.plus(Duration::from_secs(60 * n))
    }

    fn standard(&self) -> bool {
        self.level >= Level::Standard
    }

    /// A job, the newest first; one that does not exist where there is none.
    pub(super) fn some_job(&self, n: usize) -> JobId {
        job_id(newest(self.jobs, n).unwrap_or(usize::MAX))
    }

    pub(super) fn some_batch(&self, n: usize) -> Option<BatchId> {
        newest(self.batches, n).map(batch_id)
    }

    pub(super) fn some_lease(&self, n: usize) -> Option<Held> {
        newest(self.held.len(), n).map(|place| self.held[place])
    }

    pub(super) fn server(&self, server: usize, queues: usize, kinds: usize) -> ServerInfo {
        ServerInfo {
            name: name(format!("server{server}")),
            incarnation: self.lives[server].incarnation,
            pid: 1,
            host: "h".into(),
            version: "0".into(),
            workers: 1,
            queues: (0..queues).map(queue).collect(),
            kinds: (0..kinds).map(kind).collect(),
            started_at: Timestamp::MIN,
            draining: false,
        }
    }

    /// A new life, whose leases are those of nobody so far.
    pub(super) fn rebirth(&mut self, server: usize) {
        self.born += 1;
        let incarnation = Incarnation::from_i64(self.born);
        self.lives[server] = Life { incarnation, sequence: 0 };
    }

    pub(super) fn job(
        &mut self,
        plan: &JobPlan,
        near: &[JobId],
        batch: Option<BatchId>,
    ) -> NewRecord {
        let id = match plan.again.and_then(|n| newest(self.jobs, n)) {
            Some(job) => job_id(job),
            None => {
                self.jobs += 1;
                job_id(self.jobs - 1)
            }
        };
        let args = if plan.look.large { vec![b' '; 3000] } else { b"{}".to_vec() };
        let mut job = NewRecord::new(id, kind(plan.kind), args);
        job.queue = queue(plan.queue);
        job.priority = plan.priority;
        job.start = match (plan.start.after, plan.start.at) {
            (Some(after), _) => Start::After(after),
            (None, Some(at)) => Start::At(self.now.plus(at)),
            (None, None) => Start::Now,
        };
        job.start_by = plan.start.by.map(|by| self.now.plus(by));
        if plan.look.tag {
            job.tags.push("tag".into());
        }
        if plan.look.name {
            job.extras_mut().display_name = Some("Name".into());
        }
        if plan.look.retention {
            let keep = Keep::For(Duration::from_secs(7200));
            job.extras_mut().overrides.retention = Some(Retention::all(keep));
        }
        if self.standard() {
            self.dress(&mut job, plan, near);
            job.batch = batch.filter(|_| plan.member);
        }
        job
    }

    /// What a core storage need not have.
    fn dress(&self, job: &mut NewRecord, plan: &JobPlan, near: &[JobId]) {
        job.unique = plan.unique.map(|(key, until, on_conflict)| Unique {
            until,
            on_conflict,
            ..Unique::new(format!("key{key}"))
        });
        let all = [
            Limit::new(LIMITS[0], 1),
            Limit::new(LIMITS[1], 3),
            Limit::rate(LIMITS[2], 2, Window::Sliding(Duration::from_secs(30))),
            Limit::rate(LIMITS[3], 3, Window::Fixed(Duration::from_secs(60))),
        ];
        for (place, limit) in all.into_iter().enumerate() {
            if plan.limits >> place & 1 == 1 && (self.one_clock || limit.window.is_none()) {
                job.limits.push(limit);
            }
        }
        for (parent, on) in &plan.edges {
            let parent = match *parent {
                ParentPlan::Near(n) => newest(near.len(), n).map(|place| Parent::Job(near[place])),
                ParentPlan::Job(n) => newest(self.jobs, n).map(|job| Parent::Job(job_id(job))),
                ParentPlan::Batch(n) => self.some_batch(n).map(Parent::Batch),
            };
            let Some(parent) = parent.filter(|parent| *parent != Parent::Job(job.id)) else {
                continue;
            };
            if !job.edges.iter().any(|edge| edge.parent == parent) {
                job.edges.push(Edge { parent, on: *on });
            }
        }
    }

    pub(super) fn submission(&mut self, plan: &SubmissionPlan) -> Submission {
        let mut submission = Submission::default();
        let mut batch = plan.attach.and_then(|n| self.some_batch(n));
        if let Some(opened) = plan.batch.as_ref().filter(|_| self.standard()) {
            let mut new = NewBatch::new(batch_id(self.batches), "batch");
            new.parent = opened.inside.and_then(|n| self.some_batch(n));
            if opened.when_started {
                new.starts = Starts::WhenStarted;
            }
            self.batches += 1;
            batch = Some(new.id);
            submission.batch = Some(new);
        }
        for job in &plan.jobs {
            let near: Vec<JobId> = submission.jobs.iter().map(|job| job.id).collect();
            let job = self.job(job, &near, batch);
            submission.jobs.push(job);
        }
        if plan.reversed {
            submission.jobs.reverse();
        }
        submission
    }

    pub(super) fn change(&mut self, plan: &ChangePlan) -> Change {
        let soon = |by: Duration| self.now.plus(by);
        let action = match &plan.action {
            ActionPlan::Requeue(by) => Action::Requeue { run_at: by.map(soon) },
            ActionPlan::Delete(keep) => Action::Delete { keep: keep.map(Keep::For) },
            ActionPlan::Reschedule(by) => Action::Reschedule { run_at: soon(*by) },
            ActionPlan::RunNow => Action::RunNow,
            ActionPlan::Move { queue: to, priority } => {
                Action::Move { queue: to.map(queue), priority: *priority }
            }
            ActionPlan::Retag(tagged) => {
                Action::Retag { tags: if *tagged { vec!["tag".into()] } else { Vec::new() } }
            }
        };
        let guard = guard_of(plan.guard);
        if !plan.same_operation {
            self.operations += 1;
        }
        let operation = OperationId::from_bytes(u128::from(self.operations).to_be_bytes());
        Change { operation, job: self.some_job(plan.job), guard, action }
    }

    /// Takes note of what a call told, the same of both.
    pub(super) fn learn(&mut self, call: &Call, answers: Both<Answer>) {
        let [subject, reference] = answers;
        if call.claim().is_some() {
            let leases: Vec<(Lease, Lease)> =
                subject.claimed.into_iter().zip(reference.claimed).collect();
            for (ours, theirs) in leases {
                self.held.retain(|held| held.leases[0].job != ours.job);
                self.held.push(Held { leases: [ours, theirs] });
            }
        }
        let given_back = subject.given_back;
        let is_gone = |held: &Held| given_back.contains(&held.leases[0].job);
        self.past.extend(self.held.iter().filter(|held| is_gone(held)));
        self.held.retain(|held| !is_gone(held));
        if matches!(call, Call::Rescue(_)) {
            self.expired = [subject.expired, reference.expired];
        }
    }
}

/// The place of the one that is this many before the newest.
pub(super) fn newest(count: usize, n: usize) -> Option<usize> {
    (count > 0).then(|| count - 1 - n % count)
}
