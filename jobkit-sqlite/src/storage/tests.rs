//! What only the inside can tell: the plans of its statements, and a call that panics.

use std::sync::Mutex;

use conformance_tests::{CASES, Group, TestBackend};
use jobkit_core::record::NewRecord;
use jobkit_core::storage::{Call, JobStore, Monitoring, Submission, SubmitRequest};
use jobkit_core::{JobId, Name};
use tempfile::TempDir;

use super::*;
use crate::connection::PREPARED;
use crate::txn::batch_update::{CLAIM_RUN, FINISH_RUN};

struct Sqlite;

impl TestBackend for Sqlite {
    type Guard = TempDir;

    async fn setup() -> (Arc<dyn Storage>, TempDir) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let storage = SqliteStorage::open(dir.path().join("jobs.db")).await.expect("opens");
        (Arc::new(storage), dir)
    }

    async fn setup_bounded(max_finished: u64) -> Option<(Arc<dyn Storage>, TempDir)> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let options = SqliteOptions::new(dir.path().join("jobs.db")).max_finished(max_finished);
        Some((Arc::new(options.open().await.expect("opens")), dir))
    }
}

/// Tables that stay small.
const SMALL: [&str; 8] = [
    "jk_mark",
    "jk_delta",
    "jk_server",
    "jk_pause",
    "jk_recurring",
    "jk_recurring_run",
    "jk_failure",
    "jk_bulk",
];
/// Indexes that hold nothing but what is meant.
const EXACT: [&str; 5] =
    ["jk_held", "jk_limit_waiting", "jk_limit_room", "jk_limit_room_at", "jk_limit_asleep"];
/// When the unique key of an unreadable job cannot be told.
const RARE: &str = "DELETE FROM jk_ukey WHERE job = ?1 AND until IS NULL";

/// Runs the whole suite, and then asks for the plan of every statement that it needed.
#[test]
fn no_statement_scans_what_grows() {
    let next = Mutex::new(CASES.iter());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let case = next.lock().expect("no case panics with it").next();
                    let Some(case) = case else { return };
                    // Cases that cannot run here fail elsewhere; here they prepare statements.
                    let run = || conformance_tests::run::<Sqlite>(ALL, case.run);
                    let _ = std::panic::catch_unwind(run);
                }
            });
        }
    });

    let conn = Connection::open_in_memory().expect("opens");
    let db = Db::new(&conn, "jk_".into());
    schema::migrate(&db).map_err(Error::from).expect("migrates");
    let texts = PREPARED.lock().expect("no test panics with it").clone();
    assert!(texts.len() > 100, "only {} statements", texts.len());
    for run in [CLAIM_RUN, FINISH_RUN] {
        assert!(texts.contains(run), "neighbours are not written together");
    }
    let mut slow = Vec::new();
    for text in texts.into_iter().filter(|text| *text != RARE) {
        let explained = conn.prepare(&format!("EXPLAIN QUERY PLAN {text}"));
        let Ok(mut statement) = explained else { continue };
        for n in 1..=statement.parameter_count() {
            statement.raw_bind_parameter(n, 1).expect("binds");
        }
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next().expect("explains") {
            let detail: String = row.get(3).expect("a text");
            let mut words = detail.split(' ');
            // What is counted in a subquery is bounded by its LIMIT.
            // And a list of values is as long as the statement that it stands in.
            let bounded = |it: &str| {
                SMALL.contains(&it) || it == "(subquery-1)" || it == "row" || it.ends_with("-ROW")
            };
            let scans = words.next() == Some("SCAN")
                && !words.next().is_some_and(bounded)
                && !words.next_back().is_some_and(|index| EXACT.contains(&index));
            let sorts = detail.contains("TEMP B-TREE FOR ORDER") && text.contains("jk_job");
            if scans && detail != "SCAN CONSTANT ROW" || sorts || detail.contains("AUTOMATIC") {
                slow.push(format!("{detail}: {text}"));
            }
        }
    }
    assert!(slow.is_empty(), "{slow:#?}");
}

const ALL: &[Group] =
    &[Group::Core, Group::Standard, Group::Full, Group::Push, Group::Durable, Group::Search];

#[tokio::test(flavor = "multi_thread")]
async fn a_poisoned_call_fails_alone() {
    let (_, dir) = Sqlite::setup().await;
    let storage = SqliteStorage::open(dir.path().join("jobs.db")).await.expect("opens");
    let submit = || async {
        let job = NewRecord::new(JobId::new(), Name::from_stored("k"), b"{}".to_vec());
        let request = [Submission::one(job)];
        storage.submit(&Call::default(), SubmitRequest { submissions: &request }).await
    };
    // While this one sleeps the others gather, and then share a transaction.
    let slow = storage.writer().call("sleep", |_| {
        std::thread::sleep(Duration::from_millis(50));
        Ok(())
    });
    let poisoned = storage.writer().call("poison", |txn| {
        txn.db.run("INSERT INTO jk_job (seq) VALUES (1)", [])?;
        Ok(())
    });
    let (slow, one, poisoned, two) = tokio::join!(slow, submit(), poisoned, submit());
    slow.expect("runs");
    one.expect("is not disturbed");
    two.expect("is not disturbed");
    let error = poisoned.expect_err("fails");
    assert_eq!(error.kind(), ErrorKind::Internal);
    assert_eq!(error.applied(), jobkit_core::Applied::NotApplied);
    let snapshot = storage.snapshot(&Call::default()).await.expect("reads");
    assert_eq!(snapshot.by_state.iter().sum::<u64>(), 2);
}
