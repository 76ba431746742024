//! A job that kills its process.

use jobkit::Client;
use jobkit::sqlite::SqliteStorage;
use jobkit::state::{Reason, StateName};
use jobkit::storage::{Call, JobStore, Monitoring};

use crate::ledger::Ledger;
use crate::worker::{Process, killer, work};

#[tokio::test(flavor = "multi_thread")]
async fn it_fails_at_the_crash_limit_and_its_neighbours_do_not_suffer() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("jobs.db");
    let ledger = Ledger::at(folder.path().join("ledger"));
    let storage = SqliteStorage::open(&db).await.unwrap();
    let client = Client::new(storage.clone());
    let poison = client.enqueue(killer("poison".into())).await.unwrap();
    let neighbours: Vec<_> = (0..200).map(|n| work(format!("neighbour-{n}"), 20)).collect();
    let neighbours = client.enqueue(neighbours).await.unwrap();
    // Whatever supervises servers starts them again.
    let mut process = Process::start(&db, &ledger);
    let mut deaths = 0;
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(90);
    loop {
        let snapshot = storage.snapshot(&Call::default()).await.unwrap();
        if snapshot.count(StateName::Failed) == 1 && snapshot.count(StateName::Succeeded) == 200 {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "never happened: {snapshot:?}");
        if process.has_ended() {
            deaths += 1;
            process = Process::start(&db, &ledger);
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(deaths, 3);
    let record = storage.job(poison.id()).await.unwrap().unwrap().record;
    assert_eq!((record.head.reason, record.head.crashes), (Reason::CrashLimit, 3));
    for neighbour in neighbours {
        let head = storage.job(neighbour.id()).await.unwrap().unwrap().record.head;
        assert!(head.crashes < 3, "{head:?}");
    }
}
