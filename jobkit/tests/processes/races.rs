//! Children, members and keys race with the end of what they depend on, from two processes on one file.

use std::time::Duration;

use jobkit::sqlite::SqliteStorage;
use jobkit::state::StateName;
use jobkit::storage::{BatchStore, Call, JobStore, Monitoring, RecurringStore};
use jobkit::{Batch, Client, ErrorKind, On, Recurring};

use crate::ledger::{Ledger, What, by_job};
use crate::worker::{Process, eventually, work};

const ROUNDS: usize = 300;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_waits_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("jobs.db");
    let ledger = Ledger::at(folder.path().join("ledger"));
    let storage = SqliteStorage::open(&db).await.unwrap();
    let client = Client::new(storage.clone());
    let _one = Process::start(&db, &ledger);
    let _two = Process::start(&db, &ledger);
    let (mut attached, mut too_late, mut stood_in) = (0_u64, 0, 0);
    let mut jobs = 0_u64;
    let mut batches = Vec::new();
    for n in 0..ROUNDS {
        let parent = client.enqueue(work(format!("parent-{n}"), 0)).await.unwrap();
        let child = work(format!("child-{n}"), 0).after(&parent).when(On::Any);
        let member = work(format!("member-{n}"), 0);
        let batch =
            Batch::new(format!("b-{n}")).job(member).then_on(On::Any, work(format!("then-{n}"), 0));
        let batch = client.enqueue(batch).await.unwrap();
        client.enqueue(child).await.unwrap();
        jobs += 4;
        match batch.attach(vec![work(format!("late-{n}"), 0)]).await {
            Ok(_) => attached += 1,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
                too_late += 1;
            }
        }
        let key = format!("key-{n}");
        let first = client.enqueue(work(key.clone(), 0).unique(&key)).await.unwrap();
        let second = client.enqueue(work(key.clone(), 0).unique(&key)).await.unwrap();
        stood_in += u64::from(first.id() == second.id());
        jobs += 1 + u64::from(first.id() != second.id());
        batches.push(batch.id());
    }
    jobs += attached;
    println!(
        "{attached} attached, {too_late} too late, {stood_in} of {ROUNDS} keys were still held"
    );
    eventually("everything succeeded", 30, || async {
        storage.snapshot(&Call::default()).await.unwrap().count(StateName::Succeeded) == jobs
    })
    .await;
    let snapshot = storage.snapshot(&Call::default()).await.unwrap();
    for state in
        [StateName::Awaiting, StateName::Scheduled, StateName::Enqueued, StateName::Processing]
    {
        assert_eq!(snapshot.count(state), 0, "{state}");
    }
    for lines in by_job(&ledger.read()).values() {
        let ends = lines.iter().filter(|line| line.what == What::End).count();
        assert_eq!(ends, 1, "{lines:?}");
    }
    for batch in batches {
        let batch = storage.batch(batch).await.unwrap().unwrap();
        assert!(batch.succeeded_at.is_some() && batch.counts.open() == 0, "{batch:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_fire_an_occurrence_once() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("jobs.db");
    let ledger = Ledger::at(folder.path().join("ledger"));
    let storage = SqliteStorage::open(&db).await.unwrap();
    let client = Client::new(storage.clone());
    for n in 0..5 {
        let tick = Recurring::every(format!("tick-{n}"), Duration::from_secs(1))
            .job(work(format!("tick-{n}"), 0));
        client.save_recurring(tick).await.unwrap();
    }
    let _one = Process::start(&db, &ledger);
    let _two = Process::start(&db, &ledger);
    eventually("they fired", 30, || async { ledger.ends() >= 20 }).await;
    for n in 0..5 {
        let runs = storage.recurring_runs(&format!("tick-{n}"), 100).await.unwrap();
        assert!(!runs.is_empty());
        assert!(runs.windows(2).all(|pair| pair[0].nominal_at > pair[1].nominal_at), "{runs:?}");
        for run in runs {
            let jobkit::recurring::RunOutcome::Fired { job } = run.outcome else { continue };
            let record = storage.jobs(&[job]).await.unwrap().remove(0).unwrap();
            let occurrence = record.extras.unwrap().occurrence.unwrap();
            assert_eq!(occurrence.nominal_at, run.nominal_at);
        }
    }
}
