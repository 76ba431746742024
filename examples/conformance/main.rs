//! Holds the storage that a URL names to the contract: `cargo run --example conformance -- memory:`, or
//! `sqlite:FOLDER` for new files in a folder. What follows the URL is the suite's own command line.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use conformance_tests::TestBackend;
use jobkit::sqlite::{SqliteOptions, SqliteStorage};
use jobkit::storage::Storage;
use jobkit::{JobId, MemoryStorage};
use tempfile::TempDir;

struct Memory;

impl TestBackend for Memory {
    type Guard = MemoryStorage;

    async fn setup() -> (Arc<dyn Storage>, MemoryStorage) {
        let storage = MemoryStorage::new();
        (Arc::new(storage.clone()), storage)
    }

    async fn reopen(guard: &MemoryStorage) -> Option<Arc<dyn Storage>> {
        Some(Arc::new(guard.clone()))
    }

    async fn setup_bounded(max_finished: u64) -> Option<(Arc<dyn Storage>, MemoryStorage)> {
        let storage = MemoryStorage::new().with_max_finished(max_finished);
        Some((Arc::new(storage.clone()), storage))
    }
}

/// Where the files are made; the system's folder for temporary files if none is named.
static FOLDER: OnceLock<PathBuf> = OnceLock::new();

struct Sqlite;

impl TestBackend for Sqlite {
    /// Removed with everything in it when the case has ended.
    type Guard = TempDir;

    async fn setup() -> (Arc<dyn Storage>, TempDir) {
        let folder = FOLDER.get().cloned().unwrap_or_else(std::env::temp_dir);
        let folder = tempfile::tempdir_in(folder).expect("a folder can be made");
        (open(&folder).await, folder)
    }

    async fn reopen(folder: &TempDir) -> Option<Arc<dyn Storage>> {
        Some(open(folder).await)
    }

    async fn setup_bounded(max_finished: u64) -> Option<(Arc<dyn Storage>, TempDir)> {
        let folder = FOLDER.get().cloned().unwrap_or_else(std::env::temp_dir);
        let folder = tempfile::tempdir_in(folder).expect("a folder can be made");
        let options = SqliteOptions::new(folder.path().join("jobs.db")).max_finished(max_finished);
        Some((Arc::new(options.open().await.expect("opens")), folder))
    }

    async fn make_unreadable(folder: &TempDir, job: JobId) -> bool {
        let db = rusqlite::Connection::open(folder.path().join("jobs.db")).expect("opens");
        db.busy_timeout(std::time::Duration::from_secs(5)).expect("is set");
        let damage = "UPDATE jobkit_job SET extras = '{not json' WHERE id = ?1";
        db.execute(damage, [&job.as_bytes()[..]]).expect("writes") == 1
    }
}

async fn open(folder: &TempDir) -> Arc<dyn Storage> {
    Arc::new(SqliteStorage::open(folder.path().join("jobs.db")).await.expect("opens"))
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().unwrap_or_default();
    let rest: Vec<String> = arguments.collect();
    match url.split_once(':') {
        Some(("memory", _)) => conformance_tests::cli_with(Memory, rest),
        Some(("sqlite", folder)) => {
            if !folder.is_empty() {
                let _ = FOLDER.set(PathBuf::from(folder));
            }
            conformance_tests::cli_with(Sqlite, rest)
        }
        _ => {
            eprintln!(
                "which storage? `memory:`, `sqlite:` or `sqlite:FOLDER`, then the suite's options"
            );
            ExitCode::from(2)
        }
    }
}
