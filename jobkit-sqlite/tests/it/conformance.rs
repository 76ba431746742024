//! The behaviour suite, each case on a file of its own.

use std::sync::Arc;

use conformance_tests::{Connections, TestBackend};
use jobkit_core::storage::Storage;
use jobkit_core::{JobId, TestClock};
use jobkit_sqlite::{SqliteOptions, SqliteStorage};
use tempfile::TempDir;

pub(crate) struct Sqlite;

impl TestBackend for Sqlite {
    type Guard = TempDir;

    async fn setup() -> (Arc<dyn Storage>, TempDir) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let storage = open(&dir).await;
        (storage, dir)
    }

    async fn reopen(dir: &TempDir) -> Option<Arc<dyn Storage>> {
        Some(open(dir).await)
    }

    async fn setup_on(clock: TestClock) -> Option<(Connections, TempDir)> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut clients = Connections::new();
        for _ in 0..2 {
            let options = SqliteOptions::new(dir.path().join("jobs.db")).clock(clock.clone());
            clients.push(Arc::new(options.open().await.expect("opens")));
        }
        Some((clients, dir))
    }

    async fn setup_bounded(max_finished: u64) -> Option<(Arc<dyn Storage>, TempDir)> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let options = SqliteOptions::new(dir.path().join("jobs.db")).max_finished(max_finished);
        Some((Arc::new(options.open().await.expect("opens")), dir))
    }

    async fn make_unreadable(dir: &TempDir, job: JobId) -> bool {
        let conn = rusqlite::Connection::open(dir.path().join("jobs.db")).expect("opens");
        conn.busy_timeout(std::time::Duration::from_secs(5)).expect("is set");
        let damaged = conn.execute(
            "UPDATE jobkit_job SET extras = '{not json' WHERE id = ?1",
            [&job.as_bytes()[..]],
        );
        damaged.expect("writes") == 1
    }
}

async fn open(dir: &TempDir) -> Arc<dyn Storage> {
    Arc::new(SqliteStorage::open(dir.path().join("jobs.db")).await.expect("opens"))
}

conformance_tests::conformance_tests!(Sqlite);
