//! Which rows there are, and how many a call looks at.

use std::path::Path;
use std::time::Duration;

use jobkit_core::JobId;
use jobkit_core::edge::{Edge, On, Parent};
use jobkit_core::failure::ErrorDetail;
use jobkit_core::record::{Payload, Progress};
use jobkit_core::state::StateName;
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::*;

use crate::support::{claim, job, served, settle, submit};

/// What belongs to jobs beside their own rows.
const BESIDE: [&str; 7] = ["payload", "error", "log", "log_tail", "progress", "memo", "checkpoint"];

/// The tables beside the jobs' own that hold rows.
fn beside(path: &Path) -> Vec<&'static str> {
    let conn = rusqlite::Connection::open(path).expect("opens");
    let holds = |table: &&str| {
        let text = format!("SELECT EXISTS (SELECT 1 FROM jobkit_{table})");
        conn.query_row(&text, [], |row| row.get::<_, bool>(0)).expect("reads")
    };
    BESIDE.into_iter().filter(holds).collect()
}

/// Whatever a job leaves beside its row goes with it, also if it is the only thing.
#[tokio::test]
async fn a_purged_job_leaves_no_row_behind() {
    let (_dir, path, storage, server) = served().await;
    let now = storage.now().await.expect("tells");
    let text = |bytes: usize| Payload::from(format!("\"{}\"", "x".repeat(bytes)).into_bytes());
    let line = || LogLine { at: now, level: LogLevel::Info, text: "a line".into() };
    let bar = || Progress { name: String::new(), done: 1, total: 2, message: String::new() };
    type Change<'a> = &'a dyn Fn(&mut Settle);
    let nothing = |_: &mut Settle| {};
    let result = |settle: &mut Settle| settle.result = Some(text(5_000));
    let error = |settle: &mut Settle| {
        settle.error = Some(ErrorDetail::new("k", "TestError", "it failed", [], None));
    };
    let log = |settle: &mut Settle| settle.log = vec![line()];
    let dropped = |settle: &mut Settle| settle.log_dropped = 3;
    let progress = |settle: &mut Settle| settle.progress = vec![bar()];
    let cases: [(&[&str], usize, Change<'_>); 7] = [
        (&[], 2, &nothing),
        (&["payload"], 5_000, &nothing),
        (&["payload"], 2, &result),
        (&["error"], 2, &error),
        (&["log", "log_tail"], 2, &log),
        (&["log_tail"], 2, &dropped),
        (&["progress"], 2, &progress),
    ];
    for (n, (tables, args, with)) in cases.into_iter().enumerate() {
        let mut one = job();
        one.jobs[0].args = text(args);
        submit(&storage, one).await;
        let held = claim(&storage, &server, n as u64 + 1).await;
        let mut ended = Settle::new(held[0].lease, Ending::Succeeded);
        with(&mut ended);
        settle(&storage, &server, vec![ended]).await;
        assert_eq!(beside(&path), tables, "case {n}");
        let later = now.plus(Duration::from_secs(400 * 24 * 3600));
        let step = StepRequest { max: 10 };
        assert_eq!(storage.purge_expired(&Call::at(later), step).await.expect("purges").done, 1);
        assert_eq!(beside(&path), [""; 0], "case {n}");
    }
}

/// With a job go its edges to its parents.
#[tokio::test]
async fn a_purged_child_leaves_no_edge_behind() {
    let (_dir, path, storage, server) = served().await;
    let (parent, mut child) = (job(), job());
    child.jobs[0].edges = vec![Edge { parent: Parent::Job(parent.jobs[0].id), on: On::Any }];
    submit(&storage, parent).await;
    submit(&storage, child).await;
    for sequence in [1, 2] {
        let held = claim(&storage, &server, sequence).await;
        settle(&storage, &server, vec![Settle::new(held[0].lease, Ending::Succeeded)]).await;
    }
    let conn = rusqlite::Connection::open(&path).expect("opens");
    let edges = || conn.query_row("SELECT count(*) FROM jobkit_edge", [], |row| row.get(0));
    assert_eq!(edges(), Ok(1));
    let later = storage.now().await.expect("tells").plus(Duration::from_secs(400 * 24 * 3600));
    let step = StepRequest { max: 10 };
    assert_eq!(storage.purge_expired(&Call::at(later), step).await.expect("purges").done, 2);
    assert_eq!(edges(), Ok(0));
}

/// However many jobs cannot be claimed any more, one call does not clear all of them away.
#[tokio::test]
async fn a_claim_passes_over_a_bounded_number_of_jobs() {
    let (_dir, _, storage, server) = served().await;
    let soon = storage.now().await.expect("tells").plus(Duration::from_millis(1));
    let late = |_| {
        let mut late = job();
        late.jobs[0].start_by = Some(soon);
        late
    };
    let late: Vec<Submission> = (0..500).map(late).collect();
    let ids: Vec<JobId> = late.iter().map(|late| late.jobs[0].id).collect();
    let request = SubmitRequest { submissions: &late };
    storage.submit(&Call::default(), request).await.expect("submits");
    while storage.now().await.expect("tells") <= soon {}
    assert!(claim(&storage, &server, 1).await.is_empty());
    let snapshot = storage.snapshot(&Call::default()).await.expect("reads");
    let left = snapshot.count(StateName::Enqueued);
    assert!((1..ids.len() as u64).contains(&left), "{left} are left");
}
