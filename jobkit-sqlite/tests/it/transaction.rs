//! Jobs inside the application's own transactions.

use std::path::PathBuf;
use std::time::Duration;

use jobkit_core::state::StateName;
use jobkit_core::storage::Call;
use jobkit_core::testing::FaultyStorage;
use jobkit_core::unique::OnConflict;
use jobkit_core::{
    Batch, Client, ErrorKind, Failure, Job, JobContext, Jobs, MemoryStorage, NewJob, On, Server,
    ServerOptions,
};
use jobkit_sqlite::SqliteStorage;
use rusqlite::{Connection, TransactionBehavior::Immediate};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Charge {
    order: i64,
}

impl Job for Charge {
    const KIND: &'static str = "charge";
    type Output = String;
}

fn charge(order: i64) -> NewJob<Charge> {
    NewJob::new(Charge { order })
}

struct App {
    _folder: tempfile::TempDir,
    path: PathBuf,
    client: Client,
    db: Connection,
}

async fn app() -> App {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let client = Client::new(SqliteStorage::open(&path).await.unwrap());
    let db = Connection::open(&path).unwrap();
    db.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, receipt TEXT)", []).unwrap();
    App { _folder: folder, path, client, db }
}

impl App {
    fn orders(&self) -> i64 {
        self.db.query_row("SELECT count(*) FROM orders", [], |row| row.get(0)).unwrap()
    }

    async fn jobs(&self, state: StateName) -> u64 {
        self.client.storage().snapshot(&Call::default()).await.unwrap().count(state)
    }
}

#[tokio::test]
async fn what_a_newer_release_has_migrated_is_not_written() {
    let mut app = app().await;
    app.db.execute("UPDATE jobkit_meta SET value = 99 WHERE key = 'oldest_writer'", []).unwrap();
    let tx = app.db.transaction_with_behavior(Immediate).unwrap();
    tx.execute("INSERT INTO orders (id) VALUES (1)", []).unwrap();
    let error = app.client.within(&tx).enqueue(charge(1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Schema);
    tx.commit().unwrap();
    assert_eq!((app.orders(), app.jobs(StateName::Enqueued).await), (1, 0));
}

#[tokio::test]
async fn a_job_commits_or_vanishes_with_the_callers_rows() {
    let mut app = app().await;
    for (order, commits) in [(1, true), (2, false)] {
        let tx = app.db.transaction_with_behavior(Immediate).unwrap();
        tx.execute("INSERT INTO orders (id) VALUES (?1)", [order]).unwrap();
        app.client.within(&tx).enqueue(charge(order)).unwrap();
        if commits {
            tx.commit().unwrap();
        }
    }
    assert_eq!((app.orders(), app.jobs(StateName::Enqueued).await), (1, 1));
}

#[tokio::test]
async fn flows_batches_and_unique_keys_work_inside() {
    let mut app = app().await;
    let outside = app.client.enqueue(charge(0).unique("order-0")).await.unwrap();
    let tx = app.db.transaction_with_behavior(Immediate).unwrap();
    let scope = app.client.within(&tx);
    let pay = charge(1);
    let after = charge(2).after(&pay).when(On::Any);
    scope.enqueue((pay, after)).unwrap();
    let batch = Batch::new("b").jobs((3..6).map(charge)).then(charge(6));
    let batch = scope.enqueue(batch).unwrap();
    assert_eq!(scope.enqueue(charge(0).unique("order-0")).unwrap(), outside.id());
    let rejected = charge(0).unique("order-0").on_conflict(OnConflict::Reject);
    assert!(scope.enqueue(rejected).unwrap_err().is_conflict());
    tx.commit().unwrap();
    assert_eq!(app.jobs(StateName::Enqueued).await, 5);
    assert_eq!(app.jobs(StateName::Awaiting).await, 2);
    let record = app.client.batch(batch).status().await.unwrap().unwrap();
    assert_eq!(record.counts.total, 3);
}

#[tokio::test]
async fn what_exists_already_cannot_be_named_and_a_refusal_spoils_nothing() {
    let mut app = app().await;
    let parent = app.client.enqueue(charge(1)).await.unwrap();
    let batch = app.client.enqueue(Batch::new("b").job(charge(2))).await.unwrap();
    let tx = app.db.transaction_with_behavior(Immediate).unwrap();
    tx.execute("INSERT INTO orders (id) VALUES (1)", []).unwrap();
    let scope = app.client.within(&tx);
    for (field, job) in [
        ("parents", charge(3).after(&parent)),
        ("parents", charge(3).after(&batch)),
        ("batch", charge(3).in_batch(batch.id())),
        ("unique", charge(3).unique("key").on_conflict(OnConflict::Replace)),
        ("priority", charge(3).priority(99)),
    ] {
        let error = scope.enqueue(job).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().starts_with(&format!("enqueue failed: {field}: ")), "{error}");
    }
    let many = Batch::new("many").jobs((0..1_500).map(charge));
    assert!(scope.enqueue(many).unwrap_err().to_string().contains("batch: has 1500 jobs"));
    tx.commit().unwrap();
    assert_eq!((app.orders(), app.jobs(StateName::Enqueued).await), (1, 2));
}

/// Also after a refusal that the storage finds inside, when part of the submission was written.
#[tokio::test]
async fn a_transaction_goes_on_after_a_refusal() {
    let mut app = app().await;
    app.client.enqueue(charge(0).unique("order-0")).await.unwrap();
    let tx = app.db.transaction_with_behavior(Immediate).unwrap();
    tx.execute("INSERT INTO orders (id) VALUES (1)", []).unwrap();
    let scope = app.client.within(&tx);
    let rejected = charge(0).unique("order-0").on_conflict(OnConflict::Reject);
    let flow = vec![charge(1).limit("cards", 2), rejected];
    assert!(scope.enqueue(flow).unwrap_err().is_conflict());
    tx.execute("INSERT INTO orders (id) VALUES (2)", []).unwrap();
    scope.enqueue(charge(2)).unwrap();
    tx.commit().unwrap();
    assert_eq!((app.orders(), app.jobs(StateName::Enqueued).await), (2, 2));
}

#[tokio::test]
async fn another_file_is_told_apart() {
    let app = app().await;
    let folder = tempfile::tempdir().unwrap();
    let mut other = Connection::open(folder.path().join("other.db")).unwrap();
    let tx = other.transaction_with_behavior(Immediate).unwrap();
    let error = app.client.within(&tx).enqueue(charge(1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Schema, "{error}");
}

/// Such as a client made for tests, or of the second database of an application.
#[tokio::test]
async fn a_client_of_another_storage_is_refused_and_nothing_changes() {
    let mut app = app().await;
    let other = Client::new(MemoryStorage::new());
    let tx = app.db.transaction_with_behavior(Immediate).unwrap();
    let error = other.within(&tx).enqueue(charge(1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
    let text = error.to_string();
    assert!(text.contains("memory") && text.contains("SqliteStorage"), "{text}");
    app.client.within(&tx).enqueue(charge(2)).unwrap();
    tx.commit().unwrap();
    assert_eq!(app.jobs(StateName::Enqueued).await, 1);
    assert_eq!(
        other.storage().snapshot(&Call::default()).await.unwrap().count(StateName::Enqueued),
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_server_notices_the_commit() {
    let mut app = app().await;
    let jobs =
        Jobs::new().handle(|job: Charge, _| async move { Ok::<_, Failure>(job.order.to_string()) });
    let minute = Duration::from_secs(60);
    let options = ServerOptions::default().poll_interval(minute, minute);
    let storage = FaultyStorage::new(app.client.shared_storage());
    let server = Server::builder(storage.clone()).jobs(jobs).options(options).build().unwrap();
    let _server = server.start().await.unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while storage.calls("claim") == 0 {
        assert!(tokio::time::Instant::now() < deadline, "it never looked");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let tx = app.db.transaction_with_behavior(Immediate).unwrap();
    let id = app.client.within(&tx).enqueue(charge(5)).unwrap();
    tx.commit().unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while app.client.state(id).await.unwrap() != Some(StateName::Succeeded) {
        assert!(tokio::time::Instant::now() < deadline, "it was never noticed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The handler's rows and the job's success are one commit; what it returns afterwards has no effect.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_completed_with_its_rows() {
    let app = app().await;
    let (path, client) = (app.path.clone(), app.client.clone());
    let jobs = Jobs::new().handle(move |job: Charge, ctx: JobContext| {
        let (path, client) = (path.clone(), client.clone());
        async move {
            let run = move || -> Result<(), Failure> {
                let mut db = Connection::open(path)?;
                db.busy_timeout(Duration::from_secs(5))?;
                let tx = db.transaction_with_behavior(Immediate)?;
                let receipt = format!("receipt-{}", job.order);
                let row = (job.order, &receipt);
                tx.execute("INSERT INTO orders (id, receipt) VALUES (?1, ?2)", row)?;
                client.within(&tx).succeed(&ctx, &receipt)?;
                if job.order == 2 {
                    return Err(Failure::message("test", "rolled back"));
                }
                tx.commit()?;
                Ok(())
            };
            tokio::task::spawn_blocking(run).await??;
            Err::<String, _>(Failure::message("test", "after the commit"))
        }
    });
    let server = Server::builder(app.client.shared_storage()).jobs(jobs).build().unwrap();
    let _server = server.start().await.unwrap();
    let done = app.client.enqueue(charge(1)).await.unwrap();
    let undone = app.client.enqueue(charge(2).max_attempts(1)).await.unwrap();
    let soon = Duration::from_secs(10);
    assert_eq!(done.wait(soon).await.unwrap(), "receipt-1");
    assert!(undone.wait(soon).await.is_err());
    assert_eq!(app.orders(), 1);
    let details = app.client.storage().job(done.id()).await.unwrap().unwrap();
    assert_eq!((details.record.head.failures, details.errors.len()), (0, 0));
}

/// A thread that outlives its attempt, or a second transaction, cannot commit as if it were the first.
#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_is_completed_once() {
    let app = app().await;
    let (path, client) = (app.path.clone(), app.client.clone());
    let jobs = Jobs::new().handle(move |job: Charge, ctx: JobContext| {
        let (path, client) = (path.clone(), client.clone());
        async move {
            let run = move || -> Result<String, Failure> {
                let mut db = Connection::open(path)?;
                db.busy_timeout(Duration::from_secs(5))?;
                ctx.info("a line");
                for id in [job.order, job.order + 1] {
                    let tx = db.transaction_with_behavior(Immediate)?;
                    tx.execute("INSERT INTO orders (id) VALUES (?1)", [id])?;
                    if let Err(error) = client.within(&tx).succeed(&ctx, &"done") {
                        return Ok(error.to_string());
                    }
                    tx.commit()?;
                }
                Ok("twice".to_owned())
            };
            let told = tokio::task::spawn_blocking(run).await??;
            assert!(told.contains("roll back"), "{told}");
            Ok::<_, Failure>(told)
        }
    });
    let server = Server::builder(app.client.shared_storage()).jobs(jobs).build().unwrap();
    let _server = server.start().await.unwrap();
    let job = app.client.enqueue(charge(1)).await.unwrap();
    assert_eq!(job.wait(Duration::from_secs(10)).await.unwrap(), "done");
    assert_eq!(app.orders(), 1, "the second transaction was rolled back");
    let log = app.client.storage().read_log(job.id(), None, 0, 10).await.unwrap();
    assert_eq!(log.lines.len(), 1, "the line came with the commit");
}
