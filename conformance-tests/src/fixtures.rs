//! What cases are made of: an environment with a clock, job values, and servers that claim.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jobkit_core::batch::{BatchRecord, NewBatch, Starts};
use jobkit_core::edge::{Edge, On, Parent};
use jobkit_core::failure::ErrorDetail;
use jobkit_core::limit::Limit;
use jobkit_core::record::{JobDetails, JobRecord, Lease, NewRecord, Payload};
use jobkit_core::refusal::Refusal;
use jobkit_core::state::StateName;
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::{
    Action, Announced, Call, Change, ChangeOutcome, ChangeRequest, ClaimRequest, ClaimedJob,
    ExpiredLease, Guard, JobSubmitted, QueueQuota, RenewAnswer, RenewRequest, Renewal, Renewed,
    Rescue, RescueRequest, ServerInfo, Settle, SettleAnswer, SettleRequest, Step, StepRequest,
    Storage, Submission, SubmitRequest, Submitted,
};
use jobkit_core::testing::Held;
use jobkit_core::unique::{OnConflict, Unique, Until};
use jobkit_core::{BatchId, Incarnation, JobId, Name, OperationId, TestClock, Timestamp};

use crate::backend::{Group, Namespace, Stranger};
use crate::model::Fresh;

/// How many crashes a job may have in cases that rescue.
pub(crate) const CRASH_LIMIT: u32 = 3;
/// The lease of claimers.
pub(crate) const LEASE: Duration = Duration::from_secs(30);

/// What a case runs in: a storage in a namespace of its own, and a clock that the case moves.
#[derive(Clone)]
pub struct Env {
    pub(crate) storage: Arc<dyn Storage>,
    namespace: Arc<dyn Namespace>,
    pub(crate) groups: &'static [Group],
    clock: Arc<AtomicI64>,
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Env").field("storage", &self.storage).finish_non_exhaustive()
    }
}

impl Env {
    pub(crate) async fn new(
        storage: Arc<dyn Storage>,
        namespace: Arc<dyn Namespace>,
        groups: &'static [Group],
    ) -> Self {
        let now = storage.now().await.expect("the storage tells the time").as_micros();
        // Every instant of a case is then one that the storage can keep.
        let precision = storage.capabilities().time_precision.as_micros().max(1);
        let precision = i64::try_from(precision).unwrap_or(1);
        let clock = Arc::new(AtomicI64::new(now - now.rem_euclid(precision)));
        Self { storage, namespace, groups, clock }
    }

    /// The case's instant, which its calls send along.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.clock.load(Ordering::SeqCst))
    }

    /// A call at that instant.
    pub(crate) fn call(&self) -> Call {
        Call::at(self.now())
    }

    /// The instant this many seconds from now, or before it.
    pub(crate) fn after(&self, seconds: i64) -> Timestamp {
        Timestamp::from_micros(self.now().as_micros() + seconds * 1_000_000)
    }

    /// Moves the case's clock.
    pub(crate) fn advance(&self, seconds: i64) {
        self.clock.fetch_add(seconds * 1_000_000, Ordering::SeqCst);
    }

    /// Sets the case's clock.
    pub(crate) fn move_to(&self, instant: Timestamp) {
        self.clock.store(instant.as_micros(), Ordering::SeqCst);
    }

    /// A second connection to the namespace, or the same again where there can be only one.
    pub(crate) async fn second(&self) -> Self {
        let storage = self.namespace.reopen().await.unwrap_or_else(|| self.storage.clone());
        Self { storage, ..self.clone() }
    }

    /// A namespace beside this one, at the same instant.
    pub(crate) async fn another(&self) -> Self {
        let (storage, namespace) = self.namespace.another().await;
        Self { storage, namespace, groups: self.groups, clock: self.clock.clone() }
    }

    /// A namespace beside this one, at the same instant, that keeps `max_finished` finished jobs of each state;
    /// `None` where that is not offered.
    pub(crate) async fn bounded(&self, max_finished: u64) -> Option<Self> {
        let (storage, namespace) = self.namespace.another_bounded(max_finished).await?;
        assert_eq!(storage.capabilities().max_finished, Some(max_finished));
        Some(Self { storage, namespace, groups: self.groups, clock: self.clock.clone() })
    }

    /// An empty namespace for the comparison with the model, on the clock if it follows one.
    pub(crate) async fn fresh(&self, clock: TestClock) -> Fresh {
        if let Some((clients, guard)) = self.namespace.another_on(clock.clone()).await {
            return Fresh { clients, clock: Some(clock), guard: Box::new(guard) };
        }
        let (storage, guard) = self.namespace.another().await;
        let second = guard.reopen().await;
        let clients = std::iter::once(storage).chain(second).collect();
        Fresh { clients, clock: None, guard: Box::new(guard) }
    }

    /// The namespace closed and opened again; `None` where that cannot be done.
    pub(crate) async fn restarted(self) -> Option<Self> {
        let Self { storage, namespace, groups, clock } = self;
        drop(storage);
        let storage = namespace.reopen().await?;
        Some(Self { storage, namespace, groups, clock })
    }

    pub(crate) async fn make_unreadable(&self, job: JobId) -> bool {
        self.namespace.make_unreadable(job).await
    }

    /// What a stranger holds until the answer is dropped; `None` where nothing can be held.
    pub(crate) async fn hold(&self, held: Held) -> Option<Stranger> {
        self.namespace.hold(held).await
    }

    /// One outcome for each submission. What is busy is submitted again, as core does.
    pub(crate) async fn submit_all(&self, submissions: &[Submission]) -> Vec<Submitted> {
        let request = SubmitRequest { submissions };
        let outcomes = self.storage.submit(&self.call(), request).await.expect("submits");
        assert_eq!(outcomes.len(), submissions.len(), "one outcome per submission");
        let mut settled = Vec::with_capacity(outcomes.len());
        for (submission, mut outcome) in submissions.iter().zip(outcomes) {
            let patience = Patience::new();
            while outcome == Submitted::Busy && patience.lasts().await {
                let request = SubmitRequest { submissions: std::slice::from_ref(submission) };
                let outcomes = self.storage.submit(&self.call(), request).await;
                outcome = outcomes.expect("submits").remove(0);
            }
            settled.push(outcome);
        }
        settled
    }

    /// A submission that is accepted.
    pub(crate) async fn submit(&self, submission: Submission) -> Vec<JobSubmitted> {
        let jobs = submission.jobs.len();
        match self.submit_all(&[submission]).await.remove(0) {
            Submitted::Created(answers) => {
                assert_eq!(answers.len(), jobs, "one answer per job");
                answers
            }
            refused => panic!("the submission was not accepted: {refused:?}"),
        }
    }

    /// A submission that is refused.
    pub(crate) async fn refused(&self, submission: Submission) -> Refusal {
        match self.submit_all(&[submission]).await.remove(0) {
            Submitted::Refused(refusal) => refusal,
            accepted => panic!("the submission was not refused: {accepted:?}"),
        }
    }

    /// A submission of one job that is stored; answers its id.
    pub(crate) async fn add(&self, job: NewRecord) -> JobId {
        let id = job.id;
        let answers = self.submit(Submission::one(job)).await;
        assert!(matches!(answers[0], JobSubmitted::Created(_)), "{answers:?}");
        id
    }

    /// Jobs submitted one by one in few calls.
    pub(crate) async fn add_many(&self, jobs: Vec<NewRecord>) -> Vec<JobId> {
        let ids = jobs.iter().map(|job| job.id).collect();
        let submissions: Vec<_> = jobs.into_iter().map(Submission::one).collect();
        for part in submissions.chunks(250) {
            for outcome in self.submit_all(part).await {
                assert!(matches!(outcome, Submitted::Created(_)), "{outcome:?}");
            }
        }
        ids
    }

    /// A flow that is stored wholly.
    pub(crate) async fn flow(&self, jobs: Vec<NewRecord>) {
        let answers = self.submit(Submission::flow(jobs)).await;
        assert!(answers.iter().all(|it| matches!(it, JobSubmitted::Created(_))), "{answers:?}");
    }

    pub(crate) async fn find(&self, job: JobId) -> Option<JobDetails> {
        self.storage.job(job).await.expect("reads a job")
    }

    pub(crate) async fn details(&self, job: JobId) -> JobDetails {
        self.find(job).await.unwrap_or_else(|| panic!("job {job} is gone"))
    }

    pub(crate) async fn record(&self, job: JobId) -> JobRecord {
        self.details(job).await.record
    }

    pub(crate) async fn state(&self, job: JobId) -> StateName {
        self.record(job).await.state()
    }

    /// The states of several jobs.
    pub(crate) async fn states(&self, jobs: &[JobId]) -> Vec<StateName> {
        let mut states = Vec::with_capacity(jobs.len());
        for part in jobs.chunks(500) {
            let records = self.storage.jobs(part).await.expect("reads jobs");
            states.extend(records.into_iter().map(|it| it.expect("the job is kept").state()));
        }
        states
    }

    /// A server that is announced, and serves kind `k` in queue `default` if nothing else is said. A former
    /// one of that name drains.
    pub(crate) async fn claimer(&self, name: &str) -> Claimer {
        let claimer = self.stranger(name);
        if let Announced::NameTaken(former) = claimer.try_announce().await {
            let drains = ServerInfo { draining: true, ..former.info };
            let announced = self.storage.announce(&self.call(), &drains).await;
            assert_eq!(announced.expect("announces"), Announced::Known);
            claimer.announce().await;
        }
        claimer
    }

    /// A server that is not announced.
    pub(crate) fn stranger(&self, server: &str) -> Claimer {
        Claimer {
            env: self.clone(),
            server: name(server),
            incarnation: Incarnation::new(),
            sequence: 0,
            queues: vec![QueueQuota { queue: name("default"), max: 500 }],
            kinds: vec![name("k")],
            started: usize::MAX,
        }
    }

    /// A change by the application itself.
    pub(crate) async fn change(&self, job: JobId, action: Action) -> ChangeOutcome {
        let operation = OperationId::new();
        self.change_as(Change { operation, job, guard: Guard::None, action }).await
    }

    pub(crate) async fn change_as(&self, change: Change) -> ChangeOutcome {
        let changes = [change];
        let request = ChangeRequest { changes: &changes, actor: None };
        let patience = Patience::new();
        loop {
            let outcomes = self.storage.change_state(&self.call(), request).await;
            let mut outcomes = outcomes.expect("changes");
            assert_eq!(outcomes.len(), 1, "one outcome per change");
            let outcome = outcomes.remove(0);
            if outcome != ChangeOutcome::Busy || !patience.lasts().await {
                return outcome;
            }
        }
    }

    /// A change that is applied.
    pub(crate) async fn changed(&self, job: JobId, action: Action) -> StateName {
        match self.change(job, action).await {
            ChangeOutcome::Changed { state, .. } => state,
            other => panic!("the change was not applied: {other:?}"),
        }
    }

    pub(crate) async fn delete(&self, job: JobId) -> StateName {
        self.changed(job, Action::Delete { keep: None }).await
    }

    pub(crate) async fn requeue(&self, job: JobId) -> StateName {
        self.changed(job, Action::Requeue { run_at: None }).await
    }

    /// Sweeps until nothing is left; answers how many steps it took.
    pub(crate) async fn sweep(&self) -> usize {
        for step in 1..1000 {
            if !self.sweep_once(500).await.more {
                return step;
            }
        }
        panic!("sweeps never end");
    }

    pub(crate) async fn sweep_once(&self, max: usize) -> Step {
        self.storage.sweep(&self.call(), StepRequest { max }).await.expect("sweeps")
    }

    /// Purges until nothing is left; answers how many jobs were removed.
    pub(crate) async fn purge(&self) -> usize {
        let mut done = 0;
        for _ in 0..1000 {
            let request = StepRequest { max: 200 };
            let step = self.storage.purge_expired(&self.call(), request).await.expect("purges");
            done += step.done;
            if !step.more {
                return done;
            }
            // A mark of a parent has to be done before the parent can go.
            self.sweep_once(500).await;
        }
        panic!("purges never end");
    }

    pub(crate) async fn promote(&self) -> usize {
        let request = StepRequest { max: 500 };
        self.storage.promote_due(&self.call(), request).await.expect("promotes").count
    }

    /// Leases that are expired now; takes none away.
    pub(crate) async fn expired(&self) -> Vec<ExpiredLease> {
        self.rescue(Vec::new()).await.expired
    }

    pub(crate) async fn rescue(&self, seen: Vec<ExpiredLease>) -> Rescue {
        let request = RescueRequest { seen, crash_limit: CRASH_LIMIT, max: 500 };
        self.storage.rescue_expired(&self.call(), &request).await.expect("rescues")
    }

    /// Two looks, the second of which takes away what is expired.
    pub(crate) async fn rescue_all(&self) -> Vec<(JobId, StateName)> {
        let seen = self.expired().await;
        self.rescue(seen).await.rescued
    }

    pub(crate) async fn batch(&self, id: BatchId) -> BatchRecord {
        self.find_batch(id).await.unwrap_or_else(|| panic!("batch {id} is gone"))
    }

    pub(crate) async fn find_batch(&self, id: BatchId) -> Option<BatchRecord> {
        self.storage.batch(id).await.expect("reads a batch")
    }

    /// Used slots and waiting jobs of a limit.
    pub(crate) async fn usage(&self, limit: &str) -> (u32, u64) {
        let usage = self
            .storage
            .limit(&self.call(), limit)
            .await
            .expect("reads a limit")
            .expect("is defined");
        (usage.used, usage.waiting)
    }
}

/// A server that claims.
#[derive(Clone)]
pub(crate) struct Claimer {
    pub(crate) env: Env,
    pub(crate) server: Name,
    pub(crate) incarnation: Incarnation,
    /// Of the last claim.
    pub(crate) sequence: u64,
    pub(crate) queues: Vec<QueueQuota>,
    pub(crate) kinds: Vec<Name>,
    pub(crate) started: usize,
}

impl Claimer {
    pub(crate) fn info(&self) -> ServerInfo {
        ServerInfo {
            name: self.server.clone(),
            incarnation: self.incarnation,
            pid: 1,
            host: "host".into(),
            version: "0".into(),
            workers: 20,
            queues: self.queues.iter().map(|quota| quota.queue.clone()).collect(),
            kinds: self.kinds.clone(),
            started_at: self.env.now(),
            draining: false,
        }
    }

    pub(crate) async fn announce(&self) {
        assert_eq!(self.try_announce().await, Announced::Known, "another server has its name");
    }

    pub(crate) async fn try_announce(&self) -> Announced {
        self.env.storage.announce(&self.env.call(), &self.info()).await.expect("announces")
    }

    /// Says that it takes no more jobs and is about to stop.
    pub(crate) async fn drain(&self) {
        let info = ServerInfo { draining: true, ..self.info() };
        let announced =
            self.env.storage.announce(&self.env.call(), &info).await.expect("announces");
        assert_eq!(announced, Announced::Known);
    }

    /// Serves these queues, in this order.
    pub(crate) fn queues(mut self, queues: &[&str]) -> Self {
        let quota = |queue: &&str| QueueQuota { queue: name(queue), max: 500 };
        self.queues = queues.iter().map(quota).collect();
        self
    }

    /// Serves these kinds.
    pub(crate) fn kinds(mut self, kinds: &[&str]) -> Self {
        self.kinds = kinds.iter().map(|kind| name(kind)).collect();
        self
    }

    /// This many of each claim count as started.
    pub(crate) fn started(mut self, started: usize) -> Self {
        self.started = started;
        self
    }

    /// The request of the last claim, or of the next one.
    pub(crate) fn request(&self, sequence: u64, max: usize) -> ClaimRequest {
        ClaimRequest {
            server: self.server.clone(),
            incarnation: self.incarnation,
            sequence,
            queues: self.queues.clone(),
            kinds: self.kinds.clone().into(),
            max,
            started: self.started.min(max),
            lease: LEASE,
            sleeps_below: 0,
            hint: None,
        }
    }

    /// The next claim.
    pub(crate) async fn claim(&mut self, max: usize) -> Vec<ClaimedJob> {
        self.sequence += 1;
        self.repeat_claim(max).await
    }

    /// The last claim once more.
    pub(crate) async fn repeat_claim(&mut self, max: usize) -> Vec<ClaimedJob> {
        let request = self.request(self.sequence, max);
        self.env.storage.claim(&self.env.call(), &request).await.expect("claims").jobs
    }

    /// The next claim, which gets one job.
    pub(crate) async fn claim_one(&mut self) -> ClaimedJob {
        let mut jobs = self.claim(1).await;
        assert_eq!(jobs.len(), 1, "there is a job to claim");
        jobs.remove(0)
    }

    /// Claims one after the other until nothing is left; the ids, in order.
    pub(crate) async fn claim_ids(&mut self, max: usize) -> Vec<JobId> {
        self.claim(max).await.iter().map(|job| job.lease.job).collect()
    }

    /// One answer for each settle. What is busy is settled again, as core does.
    pub(crate) async fn settle_all(&self, settles: Vec<Settle>) -> Vec<SettleAnswer> {
        let mut answers = self.settle_all_once(settles.clone()).await;
        for (settle, answer) in settles.iter().zip(&mut answers) {
            let patience = Patience::new();
            while *answer == SettleAnswer::Busy && patience.lasts().await {
                *answer = self.settle_all_once(vec![settle.clone()]).await.remove(0);
            }
        }
        answers
    }

    pub(crate) async fn settle_all_once(&self, settles: Vec<Settle>) -> Vec<SettleAnswer> {
        let count = settles.len();
        let request = SettleRequest { server: self.server.clone(), settles };
        let answers = self.env.storage.settle(&self.env.call(), &request).await.expect("settles");
        assert_eq!(answers.len(), count, "one answer per settle");
        answers
    }

    pub(crate) async fn settle_with(&self, settle: Settle) -> SettleAnswer {
        self.settle_all(vec![settle]).await.remove(0)
    }

    pub(crate) async fn settle(&self, lease: Lease, ending: Ending) -> SettleAnswer {
        self.settle_with(Settle::new(lease, ending)).await
    }

    /// A settle that is applied.
    pub(crate) async fn settled(&self, lease: Lease, ending: Ending) -> StateName {
        match self.settle(lease, ending).await {
            SettleAnswer::Settled(state) => state,
            other => panic!("the settle was not applied: {other:?}"),
        }
    }

    /// Claims one job and settles it; answers which.
    pub(crate) async fn run_one(&mut self, ending: Ending) -> JobId {
        let job = self.claim_one().await;
        self.settled(job.lease, ending).await;
        job.lease.job
    }

    /// Runs everything that can be claimed, all to the same end; answers how many.
    pub(crate) async fn run_all(&mut self, ending: Ending) -> usize {
        let mut count = 0;
        loop {
            let jobs = self.claim(200).await;
            if jobs.is_empty() {
                return count;
            }
            count += jobs.len();
            let settles = jobs.iter().map(|job| Settle::new(job.lease, ending)).collect();
            for answer in self.settle_all(settles).await {
                assert!(matches!(answer, SettleAnswer::Settled(_)), "{answer:?}");
            }
        }
    }

    pub(crate) async fn renew(
        &self,
        sequences: std::ops::RangeInclusive<u64>,
        held: Vec<Renewal>,
    ) -> Renewed {
        let request = RenewRequest { incarnation: self.incarnation, sequences, held, lease: LEASE };
        self.env.storage.renew(&self.env.call(), &request).await.expect("renews")
    }

    /// Renews one lease of the last claim.
    pub(crate) async fn renew_one(&self, lease: Lease) -> RenewAnswer {
        let held = vec![Renewal { lease, started: true }];
        self.renew(self.sequence..=self.sequence, held).await.answers.remove(0)
    }
}

/// Pauses between calls that answer "busy", for 5 s in all.
struct Patience(std::time::Instant);

impl Patience {
    fn new() -> Self {
        Self(std::time::Instant::now())
    }

    /// Waits a moment; `false` when it is exhausted.
    async fn lasts(&self) -> bool {
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.0.elapsed() < Duration::from_secs(5)
    }
}

pub(crate) fn name(text: &str) -> Name {
    Name::new("name", text).expect("a valid name")
}

/// A job of kind `k` in queue `default`.
pub(crate) fn job() -> NewRecord {
    NewRecord::new(JobId::new(), name("k"), *b"{}")
}

/// Several of them.
pub(crate) fn jobs(count: usize) -> Vec<NewRecord> {
    (0..count).map(|_| job()).collect()
}

/// A job of another kind.
pub(crate) fn job_of(kind: &str) -> NewRecord {
    NewRecord { kind: name(kind), ..job() }
}

/// A job in another queue.
pub(crate) fn job_in(queue: &str) -> NewRecord {
    NewRecord { queue: name(queue), ..job() }
}

/// A job that waits for one parent.
pub(crate) fn after(parent: JobId, on: On) -> NewRecord {
    NewRecord { edges: vec![Edge { parent: Parent::Job(parent), on }], ..job() }
}

/// A job that waits for a batch.
pub(crate) fn after_batch(parent: BatchId, on: On) -> NewRecord {
    NewRecord { edges: vec![Edge { parent: Parent::Batch(parent), on }], ..job() }
}

/// A job that belongs to a batch.
pub(crate) fn member(batch: BatchId) -> NewRecord {
    NewRecord { batch: Some(batch), ..job() }
}

/// A job that runs under a limit.
pub(crate) fn limited(limit: &str, max: u32) -> NewRecord {
    NewRecord { limits: vec![Limit::new(limit, max)], ..job() }
}

/// A job with a unique key.
pub(crate) fn keyed(key: &str, on_conflict: OnConflict) -> NewRecord {
    let unique = Unique { key: key.into(), until: Until::Finished, on_conflict };
    NewRecord { unique: Some(unique), ..job() }
}

/// A submission that opens a batch with its first members.
pub(crate) fn batch_of(id: BatchId, starts: Starts, jobs: Vec<NewRecord>) -> Submission {
    let batch = NewBatch { starts, ..NewBatch::new(id, "a batch") };
    Submission { batch: Some(batch), jobs }
}

pub(crate) fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

pub(crate) fn payload(text: &str) -> Payload {
    text.as_bytes().to_vec().into()
}

pub(crate) fn error(message: &str) -> ErrorDetail {
    ErrorDetail::new("k", "TestError", message, [], None)
}

/// A handler's failure that is retried at once.
pub(crate) const RETRY_NOW: Ending = Ending::Retry { delay: Duration::ZERO };

/// Waits for tasks, and lets their panics be the case's.
pub(crate) async fn join<T: Send + 'static>(tasks: Vec<tokio::task::JoinHandle<T>>) -> Vec<T> {
    let mut results = Vec::with_capacity(tasks.len());
    for task in tasks {
        match task.await {
            Ok(result) => results.push(result),
            Err(failed) => std::panic::resume_unwind(failed.into_panic()),
        }
    }
    results
}
