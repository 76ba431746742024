//! A frozen server comes back.

use jobkit::Client;
use jobkit::sqlite::SqliteStorage;
use jobkit::state::{Reason, StateName};
use jobkit::storage::JobStore;

use crate::ledger::{Ledger, What};
use crate::worker::{LEASE, Process, eventually, stubborn, waiter};

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_rescued_cannot_settle_and_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("jobs.db");
    let ledger = Ledger::at(folder.path().join("ledger"));
    let storage = SqliteStorage::open(&db).await.unwrap();
    let client = Client::new(storage.clone());
    let frozen = Process::start(&db, &ledger);
    let job = client.enqueue(waiter("long".into())).await.unwrap();
    eventually("it runs", 20, || async { ledger.read().len() == 1 }).await;
    frozen.freeze();
    let _other = Process::start(&db, &ledger);
    eventually("the other attempt has begun", 20, || async { ledger.read().len() >= 2 }).await;
    frozen.thaw();
    eventually("both ended", 20, || async { ledger.ends() == 2 }).await;
    eventually("it succeeded", 20, || async {
        client.state(job.id()).await.unwrap() == Some(StateName::Succeeded)
    })
    .await;
    let lines = ledger.read();
    let end_of = |pid: u32| lines.iter().find(|line| line.what == What::End && line.pid == pid);
    assert!(end_of(frozen.pid()).unwrap().cancelled, "its token was cancelled: {lines:?}");
    let details = storage.job(job.id()).await.unwrap().unwrap();
    assert_eq!((details.record.head.fence, details.record.head.crashes), (2, 1));
    let reasons: Vec<_> = details.history.entries.iter().map(|entry| entry.reason).collect();
    assert_eq!(
        reasons,
        [Reason::Submitted, Reason::Claimed, Reason::Rescued, Reason::Claimed, Reason::Done]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_not_rescued_yet_may_settle() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("jobs.db");
    let ledger = Ledger::at(folder.path().join("ledger"));
    let storage = SqliteStorage::open(&db).await.unwrap();
    let client = Client::new(storage.clone());
    let frozen = Process::start(&db, &ledger);
    let job = client.enqueue(stubborn("long".into(), 500)).await.unwrap();
    eventually("it runs", 20, || async { ledger.read().len() == 1 }).await;
    frozen.freeze();
    // Nobody else is there to look: expiry only permits rescue.
    tokio::time::sleep(LEASE * 2).await;
    frozen.thaw();
    eventually("it succeeded", 20, || async {
        client.state(job.id()).await.unwrap() == Some(StateName::Succeeded)
    })
    .await;
    let details = storage.job(job.id()).await.unwrap().unwrap();
    assert_eq!((details.record.head.fence, details.record.head.crashes), (1, 0));
}
