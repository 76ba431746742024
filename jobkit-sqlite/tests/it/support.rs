//! What several of the tests begin with.

use std::path::PathBuf;
use std::time::Duration;

use jobkit_core::record::NewRecord;
use jobkit_core::recurring::{JobTemplate, Misfire, Overlap, RecurringSpec};
use jobkit_core::storage::*;
use jobkit_core::{JobId, Name, Schedule, TimeZone};
use jobkit_sqlite::SqliteStorage;
use tempfile::TempDir;

pub(crate) fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

pub(crate) fn job() -> Submission {
    Submission::one(NewRecord::new(JobId::new(), Name::from_stored("kind"), b"{}".to_vec()))
}

pub(crate) async fn submit(storage: &SqliteStorage, submission: Submission) {
    let request = SubmitRequest { submissions: &[submission] };
    let answers = storage.submit(&Call::default(), request).await.expect("submits");
    assert!(matches!(answers[0], Submitted::Created(_)), "{answers:?}");
}

pub(crate) fn server() -> ServerInfo {
    ServerInfo {
        name: Name::from_stored("s"),
        incarnation: jobkit_core::Incarnation::new(),
        pid: 1,
        host: "host".into(),
        version: "0".into(),
        workers: 1,
        queues: vec![Name::default_queue()],
        kinds: vec![Name::from_stored("kind")],
        started_at: jobkit_core::Timestamp::from_micros(0),
        draining: false,
    }
}

/// A file of its own, which goes with the folder.
pub(crate) async fn opened() -> (TempDir, PathBuf, SqliteStorage) {
    let dir = folder();
    let path = dir.path().join("jobs.db");
    let storage = SqliteStorage::open(&path).await.expect("opens");
    (dir, path, storage)
}

/// The same, with a server that is announced.
pub(crate) async fn served() -> (TempDir, PathBuf, SqliteStorage, ServerInfo) {
    let (dir, path, storage) = opened().await;
    let server = server();
    storage.announce(&Call::default(), &server).await.expect("announces");
    (dir, path, storage, server)
}

pub(crate) async fn claim(
    storage: &SqliteStorage,
    server: &ServerInfo,
    sequence: u64,
) -> Vec<ClaimedJob> {
    let request = ClaimRequest {
        server: server.name.clone(),
        incarnation: server.incarnation,
        sequence,
        queues: vec![QueueQuota { queue: Name::default_queue(), max: 10 }],
        kinds: server.kinds.clone().into(),
        max: 10,
        started: 10,
        lease: Duration::from_secs(30),
        sleeps_below: 0,
        hint: None,
    };
    storage.claim(&Call::default(), &request).await.expect("claims").jobs
}

/// Settles that are all applied.
pub(crate) async fn settle(storage: &SqliteStorage, server: &ServerInfo, settles: Vec<Settle>) {
    let request = SettleRequest { server: server.name.clone(), settles };
    let answers = storage.settle(&Call::default(), &request).await.expect("settles");
    assert!(answers.iter().all(|answer| matches!(answer, SettleAnswer::Settled(_))), "{answers:?}");
}

/// A schedule that fires each minute.
pub(crate) fn every_minute(id: &str, job: JobTemplate) -> RecurringSpec {
    RecurringSpec {
        id: id.into(),
        schedule: Schedule::every(Duration::from_secs(60)).expect("is valid"),
        time_zone: TimeZone::UTC,
        misfire: Misfire::RunOnce,
        overlap: Overlap::Skip,
        jitter: Duration::ZERO,
        starts_at: None,
        ends_at: None,
        job,
    }
}
