//! What is left of a small run holds; what is lost, doubled or wrong in it is noticed.

use std::sync::Arc;

use jobkit_core::batch::{NewBatch, Starts};
use jobkit_core::edge::On;
use jobkit_core::limit::Limit;
use jobkit_core::record::{NewRecord, Occurrence};
use jobkit_core::recurring::{JobTemplate, Misfire, NextRun, Overlap, RecurringSpec};
use jobkit_core::state::Reason;
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::*;
use jobkit_core::unique::Unique;
use jobkit_core::{Clock, MemoryStorage, Name, Schedule, TestClock, TimeZone};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn id(name: &str) -> JobId {
    JobId::from_key("k", name)
}

fn job(name: &str) -> NewRecord {
    NewRecord::new(id(name), Name::from_stored("k"), *b"{}")
}

fn edge(parent: Parent, on: On) -> Vec<Edge> {
    vec![Edge { parent, on }]
}

/// A run of the storage in memory, and what was seen of it.
struct Run {
    clock: TestClock,
    storage: MemoryStorage,
    witnesses: Witnesses,
    sequence: u64,
}

const LIFE: Incarnation = Incarnation::from_i64(1);

impl Run {
    async fn submit(&mut self, submission: Submission) {
        let jobs: Vec<JobId> = submission.jobs.iter().map(|job| job.id).collect();
        let submissions = [submission];
        let request = SubmitRequest { submissions: &submissions };
        let answers = self.storage.submit(&Call::default(), request).await.expect("submits");
        assert!(matches!(answers[0], Submitted::Created(_)), "{answers:?}");
        let now = self.clock.now();
        self.witnesses.told.extend(jobs.iter().map(|job| (*job, now)));
        self.witnesses.submissions.push(jobs);
        self.clock.advance(SECOND);
    }

    /// Claims what there is, and ends it.
    async fn work(&mut self, ending: Ending) {
        self.sequence += 1;
        let name = Name::from_stored("s");
        let claim = ClaimRequest {
            server: name.clone(),
            incarnation: LIFE,
            sequence: self.sequence,
            queues: vec![QueueQuota { queue: Name::default_queue(), max: 50 }],
            kinds: vec![Name::from_stored("k")].into(),
            max: 50,
            started: 50,
            lease: 30 * SECOND,
            sleeps_below: 0,
            hint: None,
        };
        let jobs = self.storage.claim(&Call::default(), &claim).await.expect("claims").jobs;
        let now = self.clock.now();
        let started = jobs.iter().map(|job| (job.lease.job, job.lease.fence, now));
        self.witnesses.started.extend(started);
        self.clock.advance(SECOND);
        let settles = jobs.iter().map(|job| Settle::new(job.lease, ending)).collect();
        let request = SettleRequest { server: name, settles };
        self.storage.settle(&Call::default(), &request).await.expect("settles");
        self.clock.advance(SECOND);
    }
}

/// Two occurrences of a schedule, fired at their instants.
async fn fire(run: &mut Run) {
    let next = |at: Timestamp| Some(NextRun { nominal_at: at, due_at: at });
    let spec = RecurringSpec {
        id: "tick".into(),
        schedule: Schedule::every(SECOND).expect("a fine pace"),
        time_zone: TimeZone::UTC,
        misfire: Misfire::RunOnce,
        overlap: Overlap::Allow,
        jitter: Duration::ZERO,
        starts_at: None,
        ends_at: None,
        job: JobTemplate::from_record(&job("template")).expect("recurs"),
    };
    let mut at = run.clock.now();
    let save = SaveRecurring { spec, next: next(at), if_etag: None };
    run.storage.save_recurring(&Call::default(), &[save]).await.expect("saves");
    for tick in ["tick1", "tick2"] {
        let mut job = job(tick);
        let occurrence = Occurrence { recurring: "tick".into(), nominal_at: at };
        job.extras_mut().occurrence = Some(occurrence);
        let fires = [Fire {
            id: "tick".into(),
            expected: at,
            etag: 1,
            skipped: Vec::new(),
            job: Some(FireJob { nominal_at: at, job, overlap: Overlap::Allow }),
            next: next(at.plus(SECOND)),
        }];
        let outcomes = run.storage.fire_recurring(&Call::default(), &fires).await.expect("fires");
        assert!(matches!(outcomes[0], FireOutcome::Fired(_)), "{outcomes:?}");
        at = at.plus(SECOND);
        run.clock.advance(SECOND);
    }
}

/// A flow, a batch with what follows, jobs under a limit and a key, a retry, a schedule.
async fn small_run() -> (Remains, Witnesses) {
    let clock = TestClock::default();
    let storage = MemoryStorage::with_clock(Arc::new(clock.clone()));
    let mut run = Run { clock, storage, witnesses: Witnesses::default(), sequence: 0 };
    let server = ServerInfo {
        name: Name::from_stored("s"),
        incarnation: LIFE,
        pid: 1,
        host: "h".into(),
        version: "0".into(),
        workers: 9,
        queues: vec![Name::default_queue()],
        kinds: vec![Name::from_stored("k")],
        started_at: Timestamp::MIN,
        draining: false,
    };
    run.storage.announce(&Call::default(), &server).await.expect("announces");
    let child = NewRecord { edges: edge(Parent::Job(id("parent")), On::Success), ..job("child") };
    let never = NewRecord { edges: edge(Parent::Job(id("parent")), On::Failed), ..job("never") };
    let last = NewRecord { edges: edge(Parent::Job(id("never")), On::Any), ..job("last") };
    run.submit(Submission::flow(vec![last, child, never, job("parent")])).await;
    let batch = BatchId::from_key("b");
    let member = |name| NewRecord { batch: Some(batch), ..job(name) };
    let then = NewRecord { edges: edge(Parent::Batch(batch), On::Success), ..job("then") };
    run.submit(Submission {
        batch: Some(NewBatch { starts: Starts::AtOnce, ..NewBatch::new(batch, "b") }),
        jobs: vec![member("one"), member("two"), then],
    })
    .await;
    for name in ["narrow1", "narrow2"] {
        let limits = vec![Limit::new("one", 1)];
        run.submit(Submission::one(NewRecord { limits, ..job(name) })).await;
    }
    let keyed = NewRecord { unique: Some(Unique::new("key")), ..job("keyed") };
    run.submit(Submission::one(keyed)).await;
    fire(&mut run).await;
    run.work(Ending::Retry { delay: Duration::ZERO }).await;
    for _ in 0..4 {
        run.work(Ending::Succeeded).await;
    }
    let again = NewRecord { unique: Some(Unique::new("key")), ..job("keyed again") };
    run.submit(Submission::one(again)).await;
    run.work(Ending::Succeeded).await;
    let remains = Remains::of(&run.storage, &[("tick", SECOND)]).await.expect("reads");
    (remains, run.witnesses)
}

fn find<'a>(remains: &'a mut Remains, name: &str) -> &'a mut JobDetails {
    let job = remains.jobs.iter_mut().find(|job| job.record.id == id(name));
    job.expect("the job is kept")
}

fn broken(remains: &Remains, witnesses: &Witnesses) -> Vec<&'static str> {
    let violations = remains.history(witnesses).check();
    violations.iter().map(|violation| violation.guarantee).collect()
}

#[tokio::test]
async fn what_a_sound_run_leaves_holds() {
    let (remains, witnesses) = small_run().await;
    assert_eq!(remains.jobs.len(), 13);
    assert_eq!(remains.batches.len(), 1);
    let violations = remains.history(&witnesses).check();
    assert!(violations.is_empty(), "{violations:#?}");
}

macro_rules! noticed {
    ($($name:ident by $guarantee:literal: $change:expr;)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                let (mut remains, mut witnesses) = small_run().await;
                let change: fn(&mut Remains, &mut Witnesses) = $change;
                change(&mut remains, &mut witnesses);
                let broken = broken(&remains, &witnesses);
                assert!(broken.contains(&$guarantee), "{broken:?}");
            }
        )*
    };
}

noticed! {
    a_job_that_is_lost by "G1": |remains, _| {
        remains.jobs.retain(|job| job.record.id != id("narrow1"));
    };
    a_transition_that_cannot_be by "G1": |remains, _| {
        find(remains, "narrow1").history.entries.remove(1);
    };
    a_job_that_is_there_twice by "G2": |remains, _| {
        let twice = find(remains, "narrow1");
        let mut copy = twice.clone();
        // An id that carries its time: one of a key may come again.
        let mut bytes = [0; 16];
        let millis = u64::try_from(copy.record.created_at.as_millis()).expect("after 1970");
        bytes[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
        (bytes[6], bytes[8]) = (0x70, 0x80);
        copy.record.id = JobId::from_bytes(bytes);
        remains.jobs.extend([copy.clone(), copy]);
    };
    a_flow_of_which_a_part_is_stored by "G3": |remains, witnesses| {
        remains.jobs.retain(|job| job.record.id != id("last"));
        witnesses.told.clear();
    };
    a_fence_that_did_not_grow by "G4": |remains, _| {
        for entry in &mut find(remains, "narrow1").history.entries {
            entry.fence = entry.fence.map(|_| 1);
        }
    };
    a_job_that_finished_twice by "G6": |remains, _| {
        let entries = &mut find(remains, "narrow1").history.entries;
        let (claim, end) = (entries[entries.len() - 2].clone(), entries[entries.len() - 1].clone());
        entries.extend([claim, end]);
    };
    a_handler_that_nobody_claimed_for by "G6": |_, witnesses| {
        let (job, _, at) = witnesses.started[0];
        witnesses.started.push((job, 99, at));
    };
    a_child_that_was_forgotten by "G7": |remains, _| {
        let child = find(remains, "child");
        child.parents[0].decided = false;
    };
    a_child_that_ran_too_early by "G8": |remains, _| {
        for entry in &mut find(remains, "child").history.entries[1..] {
            entry.at = entry.at.minus(6 * SECOND);
        }
    };
    a_batch_that_counts_wrong by "G9": |remains, _| remains.batches[0].counts.succeeded -= 1;
    a_batch_that_has_not_completed by "G9": |remains, _| remains.batches[0].completed_at = None;
    an_occurrence_that_was_fired_twice by "G10": |remains, _| {
        let mut copy = find(remains, "tick2").clone();
        copy.record.id = id("tick3");
        remains.jobs.push(copy);
    };
    an_occurrence_that_was_left_out by "G10": |remains, _| {
        let mut later = find(remains, "tick2").clone();
        later.record.id = id("tick4");
        let occurrence = &mut later.record.extras.as_mut().expect("fired").occurrence;
        let occurrence = occurrence.as_mut().expect("fired");
        occurrence.nominal_at = occurrence.nominal_at.plus(2 * SECOND);
        remains.jobs.push(later);
    };
    a_key_that_two_held by "G11": |remains, _| {
        let entries = &mut find(remains, "keyed").history.entries;
        let last = entries.len() - 1;
        entries[last].at = entries[last].at.plus(60 * SECOND);
    };
    a_limit_that_two_held by "G13": |remains, _| {
        let at = find(remains, "narrow1").history.entries[1].at;
        find(remains, "narrow2").history.entries[1].at = at;
    };
    a_job_that_nobody_runs by "G16": |remains, _| {
        find(remains, "narrow1").history.entries.truncate(1);
    };
    transitions_that_were_counted_twice by "G18": |remains, _| {
        remains.totals[StateName::Succeeded.index()] += 1;
    };
    jobs_that_are_counted_and_not_there by "G18": |remains, _| {
        remains.standing[StateName::Succeeded.index()] += 1;
    };
    an_end_that_is_no_end by "G1": |remains, _| {
        let entries = &mut find(remains, "one").history.entries;
        entries.last_mut().expect("has one").reason = Reason::Rescued;
    };
}
