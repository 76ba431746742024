//! One of two servers is killed at a seeded random instant.

use std::collections::{BTreeMap, BTreeSet};

use jobkit::sqlite::SqliteStorage;
use jobkit::state::{Reason, StateName};
use jobkit::stats::Scope;
use jobkit::storage::{BatchStore, Call, JobStore, Monitoring};
use jobkit::{Batch, BatchId, Client, JobId};

use crate::ledger::{Ledger, Line, What, by_job};
use crate::worker::{Process, eventually, retried, work};

/// What was enqueued: every job, and what must come before what.
struct Workload {
    jobs: BTreeSet<JobId>,
    after: Vec<(JobId, JobId)>,
    members: Vec<JobId>,
    report: JobId,
    batch: BatchId,
}

async fn enqueue(client: &Client) -> Workload {
    let mut jobs = BTreeSet::new();
    let mut after = Vec::new();
    let batch = Batch::new("members");
    let batch_id = batch.id();
    let report = work("report".into(), 0);
    let report_id = report.id();
    let members: Vec<_> = (0..80).map(|n| work(format!("member-{n}"), n % 7)).collect();
    let member_ids: Vec<_> = members.iter().map(|job| job.id()).collect();
    jobs.extend(member_ids.iter().copied());
    jobs.insert(report_id);
    client.enqueue(batch.jobs(members).then(report)).await.unwrap();
    for n in 0..40 {
        let parent = work(format!("parent-{n}"), n % 5);
        let child = retried(format!("child-{n}")).after(&parent);
        let grandchild = work(format!("grandchild-{n}"), 1).after(&child);
        after.push((parent.id(), child.id()));
        after.push((child.id(), grandchild.id()));
        jobs.extend([parent.id(), child.id(), grandchild.id()]);
        client.enqueue((parent, child, grandchild)).await.unwrap();
    }
    let plain = (0..120).map(|n| work(format!("plain-{n}"), n % 11));
    let delayed = (0..50)
        .map(|n| work(format!("delayed-{n}"), 1).delay(std::time::Duration::from_millis(n * 40)));
    let limited = (0..60).map(|n| work(format!("limited-{n}"), 15).limit("three", 3));
    let many: Vec<_> = plain.chain(delayed).chain(limited).collect();
    jobs.extend(many.iter().map(|job| job.id()));
    assert_eq!(client.enqueue_many(many).await.unwrap().refused.len(), 0);
    let retries: Vec<_> = (0..60).map(|n| retried(format!("retried-{n}"))).collect();
    jobs.extend(retries.iter().map(|job| job.id()));
    client.enqueue(retries).await.unwrap();
    for n in 0..20 {
        // Long enough in line that the second one finds the first.
        let key = format!("key-{n}");
        let one = client.enqueue(work(key.clone(), 5).unique(&key).priority(0)).await.unwrap();
        let two = client.enqueue(work(key.clone(), 5).unique(&key).priority(0)).await.unwrap();
        assert_eq!(one.id(), two.id());
        jobs.insert(one.id());
    }
    Workload { jobs, after, members: member_ids, report: report_id, batch: batch_id }
}

async fn round(seed: u64) {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("jobs.db");
    let ledger = Ledger::at(folder.path().join("ledger"));
    let storage = SqliteStorage::open(&db).await.unwrap();
    let client = Client::new(storage.clone());
    let load = enqueue(&client).await;
    assert!(load.jobs.len() >= 500, "{}", load.jobs.len());
    let victim = Process::start(&db, &ledger);
    let _other = Process::start(&db, &ledger);
    // A seeded instant: after this many ends, and this many microseconds later.
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let ends = usize::try_from(20 + next(400)).unwrap();
    let then = std::time::Duration::from_micros(next(5_000));
    eventually("some jobs ended", 60, || async { ledger.ends() >= ends }).await;
    tokio::time::sleep(then).await;
    let killed = victim.pid();
    victim.kill();
    let killed_at = ledger.read().len();
    let _successor = Process::start(&db, &ledger);
    eventually("everything finished", 60, || async {
        let snapshot = storage.snapshot(&Call::default()).await.unwrap();
        snapshot.count(StateName::Succeeded) == load.jobs.len() as u64
    })
    .await;
    check(&storage, &load, &ledger.read(), killed, killed_at).await;
}

async fn check(
    storage: &SqliteStorage,
    load: &Workload,
    lines: &[Line],
    killed: u32,
    killed_at: usize,
) {
    let ledger = by_job(lines);
    let mut rescued = 0;
    for id in &load.jobs {
        let details = storage.job(*id).await.unwrap().expect("nothing is lost");
        let text = id.to_string();
        let told = ledger.get(&text).expect("every job was started");
        let finishes =
            details.history.entries.iter().filter(|entry| entry.state.is_finished()).count();
        assert_eq!(finishes, 1, "finished once: {details:?}");
        let fences: Vec<_> =
            told.iter().filter(|line| line.what == What::Start).map(|line| line.fence).collect();
        assert!(fences.windows(2).all(|pair| pair[0] < pair[1]), "fences grow: {told:?}");
        let ends = told.iter().filter(|line| line.what == What::End).count();
        let was_rescued =
            details.history.entries.iter().any(|entry| entry.reason == Reason::Rescued);
        rescued += usize::from(was_rescued);
        if was_rescued {
            // Killed between its last line and its settle, it ran to its end twice.
            assert!((1..=2).contains(&ends), "{told:?}");
        } else {
            assert_eq!(ends, 1, "run to its end once: {told:?}");
        }
    }
    assert_eq!(ledger.len(), load.jobs.len(), "nothing ran that was not enqueued");
    println!("{rescued} jobs were rescued");
    check_order(load, lines);
    check_limit(lines, killed, killed_at);
    let batch = storage.batch(load.batch).await.unwrap().unwrap();
    assert_eq!((batch.counts.total, batch.counts.succeeded), (80, 80));
    let counters = storage.counters(&Scope::Total).await.unwrap();
    assert_eq!(counters.transitions_to(StateName::Succeeded), load.jobs.len() as u64);
}

/// A child starts after its parent has ended; the report after all members.
fn check_order(load: &Workload, lines: &[Line]) {
    let place = |id: &JobId, what: What| {
        let id = id.to_string();
        lines.iter().position(|line| line.job == id && line.what == what).unwrap()
    };
    for (parent, child) in &load.after {
        assert!(place(parent, What::End) < place(child, What::Start));
    }
    let report = place(&load.report, What::Start);
    assert!(load.members.iter().all(|member| place(member, What::End) < report));
}

/// Never more than three run at once; what the killed server ran ended with it.
fn check_limit(lines: &[Line], killed: u32, killed_at: usize) {
    let mut running: BTreeMap<&str, u32> = BTreeMap::new();
    for (place, line) in lines.iter().enumerate() {
        if place == killed_at {
            running.retain(|_, pid| *pid != killed);
        }
        if line.name.starts_with("limited-") {
            match line.what {
                What::Start => running.insert(&line.job, line.pid),
                What::End => running.remove(line.job.as_str()),
            };
            assert!(running.len() <= 3, "{running:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_early_loses_nothing() {
    round(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_half_way_loses_nothing() {
    round(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_at_another_instant_loses_nothing() {
    let seed = std::env::var("JOBKIT_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    // Always the same, so that the test judges the change at hand; chaos looks for other instants.
    let seed = seed.unwrap_or(3);
    println!("JOBKIT_TEST_SEED={seed}");
    round(seed).await;
}
